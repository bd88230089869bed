"""What minirlhf.bench measures: weights, prompts and records, the same for every side whatever library it is made of."""

import dataclasses
import importlib.util
import json
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from minirlhf import data, model, tokenizer
from minirlhf.run import checkpoint, compute, config
from minirlhf.run.config import InputError, rng
from minirlhf.world import writers

END = 0  # the end token of every workload
LR = 1e-6  # of every optimiser that is timed: the weights, and with them the lengths of responses, stay what they were


@dataclass(frozen=True)
class Workload:
    size: str  # of the model, model.SIZES
    vocab_size: int
    prompts: int  # responses a rollout
    prompt_tokens: tuple  # shortest, longest
    new_tokens: int  # at most
    mean: float  # length of a response
    steps: int  # optimiser steps a run of sft takes; a tenth of it for rm, whose steps are larger


WORKLOADS = {
    "tiny": Workload("tiny", 1024, 64, (8, 24), 32, 16, 20),
    "small": Workload("small", 50257, 64, (8, 24), 64, 32, 4),
    "gpt2": Workload("gpt2", 50257, 512, (64, 64), 64, 32, 20),
}


def workload(name, rollouts, new_tokens):
    """A workload by name; with other numbers of responses and of their tokens, if those are not 0."""
    if 0 < new_tokens < 3:
        raise InputError(
            f"--new-tokens {new_tokens}: give at least 3, because responses are to end by themselves half-way"
        )
    chosen = WORKLOADS[name]
    chosen = dataclasses.replace(chosen, prompts=rollouts or chosen.prompts)
    return (
        dataclasses.replace(chosen, new_tokens=new_tokens, mean=new_tokens / 2)
        if new_tokens
        else chosen
    )


# ---- weights and records


def chance_of_end(mean, new_tokens):
    """p such that responses which end with chance p at each token, and are cut off after new_tokens, are `mean` long."""
    low, high = 1e-9, 1.0
    for _ in range(60):
        p = (low + high) / 2
        low, high = (p, high) if (1 - (1 - p) ** new_tokens) / p > mean else (low, p)
    return p


@torch.no_grad()
def random_gpt(workload, seed):
    """GPT-2's initialisation, and a direction of the last layer that makes responses end at the rate wanted."""
    torch.manual_seed(seed)
    context = max(128, workload.prompt_tokens[1] + workload.new_tokens)
    gpt = model.GPT(model.GPTConfig.sized(workload.size, workload.vocab_size, context))
    for name, parameter in gpt.named_parameters():
        if "embedding" in name:
            parameter.normal_(std=0.02)
    v = torch.randn(gpt.config.width)
    v *= 0.3 / v.norm()
    gpt.token_embedding.weight[END] = v
    hidden = gpt.hidden(torch.randint(1, workload.vocab_size, (16, 32))).flatten(
        0, 1
    )  # of a random model all ids are alike
    p = chance_of_end(workload.mean, workload.new_tokens)
    offset = wanted = math.log(p / (1 - p))
    for _ in range(
        8
    ):  # the logit is not quite linear in the offset, because the other ids' logits move a little with it
        now = float(torch.softmax(gpt.head(hidden + v / 0.09 * offset), -1)[:, END].mean())
        offset += wanted - math.log(now / (1 - now))
    gpt.norm.bias.copy_(v / 0.09 * offset)
    return gpt


@dataclass(frozen=True)
class Job:
    """One task as every side gets it. Records are ids; a batch is an optimiser step."""

    task: str
    workload: Workload
    folder: str  # of the weights, GPT-2's layout
    device: torch.device
    prompts: list
    batches: list  # of Examples, or in rm of groups of Examples
    epochs: int
    minibatches: int
    nanogpt: str
    seed: int

    @property
    def examples(self):
        rows = [row for batch in self.batches for row in batch]
        return [example for group in rows for example in group] if self.task == "rm" else rows

    @property
    def response_tokens(self):
        return sum(len(example.tokens) - example.prompt_length for example in self.examples)


def renamed(vocab_size, seed):
    """Text -> ids of the workload's vocabulary: the world's own tokenizer, its ids renamed one to one, its end token END."""
    tok = tokenizer.get_tokenizer("tiny")
    names = np.insert(
        rng(seed, config.GPT_WEIGHTS).permutation(vocab_size - 1)[: tok.vocab_size - 1] + 1,
        tok.end_token,
        END,
    )
    return lambda ids: names[ids].tolist(), tok


def batches(task, workload, seed):
    """Records of the world in steps as large as the scripts' default; half of sft's are documents, as in pretraining."""
    draw = rng(seed, config.DEMONSTRATIONS)
    if task == "dense":
        rows = draw.integers(1, workload.vocab_size, (max(1, workload.steps // 4), 64, 64)).tolist()
        return [[data.Example(ids, 1) for ids in batch] for batch in rows]
    name, tok = renamed(workload.vocab_size, seed)

    def examples(records):
        encoded = [data.encode(tok, prompt, response) for prompt, response in records]
        return [data.Example(name(example.tokens), example.prompt_length) for example in encoded]

    if task == "sft":
        half = workload.steps // 2 * 16
        rows = examples([(r.prompt, r.response) for r in writers.demonstrations(half, draw)])
        rows += examples([("", text) for text in writers.documents(half, draw)])
        return [rows[i : i + 16] for i in range(0, len(rows), 16)]
    n = max(1, workload.steps // 10) * 32 if task == "rm" else 0
    asked, responses = (
        writers.prompts(n, draw),
        [r.response for r in writers.demonstrations(4 * n, draw)] if n else [],
    )
    groups = [
        examples([(asked[i], response) for response in responses[4 * i : 4 * i + 4]])
        for i in range(n)
    ]
    return [groups[i : i + 32] for i in range(0, n, 32)]


# ---- what every side needs


def script(name):
    """A training script as a module: what is measured is the code that is run."""
    if importlib.util.find_spec(name) is None:
        raise InputError(f"{name}.py is not here; run this from the repository's root")
    return importlib.import_module(name)


def now(device):
    """Seconds, once a GPU has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(device, work):
    """A side whose run has one part: `work()` returns its response tokens."""

    def run():
        start = now(device)
        tokens = work()
        return {"whole": now(device) - start}, tokens

    return run


def padded(rows, fill, left=False):  # list of lists -> (B, T), (B, T) 1 where there is a token
    T = max(map(len, rows))
    tokens, there = torch.full((len(rows), T), fill), torch.zeros(len(rows), T, dtype=torch.long)
    for i, ids in enumerate(rows):
        span = slice(T - len(ids), T) if left else slice(0, len(ids))
        tokens[i, span], there[i, span] = torch.tensor(ids), 1
    return tokens, there


def sampled(
    tokens,
):  # (B, T) responses -> how many tokens come before the first end token 0, it included
    ended = (tokens == 0).int().cumsum(1)
    return int(((ended == 0) | ((ended == 1) & (tokens == 0))).sum())


def write_record(args, device, started, **measured):
    """Everything that was measured, with the flags and where it was measured, into the file --json."""
    where = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "date": started,
    }
    record = {"flags": dataclasses.asdict(args), **where, **measured}
    checkpoint.write_text(args.json, json.dumps(record, indent=1) + "\n")


# ---- arithmetic


def flops(job, c, tokens):
    """The arithmetic of a run as it is usually counted, `tokens` being its response tokens: two operations a weight and real
    token forward, twice that again backward; the trunk at every token, the head at response tokens. Without attention; and
    what our last block leaves out is counted all the same."""
    if job.task in ("sampling", "ppo"):
        prompts = sum(map(len, job.prompts))
    elif job.task == "rm":
        prompts = sum(
            group[0].prompt_length for batch in job.batches for group in batch
        )  # what a group shares, once
    else:
        prompts = sum(example.prompt_length for example in job.examples)
    # ppo: the rollout; policy, reference and reward model (no head) score; then the epochs
    learn = 3 * job.epochs
    trunk, head = {"sampling": (1, 1), "rm": (3, 0), "ppo": (1 + 3 + learn, 1 + 2 + learn)}.get(
        job.task, (3, 3)
    )
    weights = 12 * c.layers * c.width**2
    return 2 * (trunk * weights * (prompts + tokens) + head * c.width * c.vocab_size * tokens)


def ceiling(c, device, precision, repeats=8):
    """Operations a second of the model's own matrix products, one layer of each kind at a time, the best of several."""
    N, C = compute.pick_microbatch(0, device, c.vocab_size), c.width
    total = seconds = 0.0
    shapes = [
        (N, C, 3 * C, c.layers),
        (N, C, C, c.layers),
        (N, C, 4 * C, c.layers),
        (N, 4 * C, C, c.layers),
    ]
    for rows, inner, outer, times in [*shapes, (N // 2, C, c.vocab_size, 1)]:
        dtype = torch.float32 if outer == c.vocab_size else precision
        x, w = (
            torch.randn(rows, inner, device=device, dtype=dtype),
            torch.randn(outer, inner, device=device, dtype=dtype),
        )
        best = math.inf
        for _ in range(repeats):
            start = now(device)
            F.linear(x, w)
            best = min(best, now(device) - start)
        total, seconds = total + times * 2 * rows * inner * outer, seconds + times * best
    return total / seconds
