"""The work that `minirlhf bench` measures: weights, prompts and records, the same for every side,
whatever library the side belongs to."""

import dataclasses
import json
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from minirlhf import data, model
from minirlhf.run import compute, config
from minirlhf.run.config import InputError, rng
from minirlhf.run.files import write_text
from minirlhf.tokenizer import get_tokenizer
from minirlhf.world import writers

END = 0  # the end token of every workload
# The learning rate of every timed optimiser. It is small, so that the weights, and with them the
# lengths of responses, stay as they are.
LR = 1e-6


@dataclass(frozen=True)
class Workload:
    size: str  # of the model, a key of model.SIZES
    vocab_size: int
    prompts: int  # responses a rollout
    prompt_tokens: tuple  # shortest, longest
    new_tokens: int  # the most tokens of a response
    mean: float  # length of a response in tokens
    steps: int  # optimiser steps a run of sft; rm, whose steps are larger, takes a tenth of them


WORKLOADS = {
    "tiny": Workload("tiny", 1024, 64, (8, 24), 32, 16, 20),
    "small": Workload("small", 50257, 64, (8, 24), 64, 32, 4),
    "gpt2": Workload("gpt2", 50257, 512, (64, 64), 64, 32, 20),
}


def sized_workload(name, rollouts, new_tokens):
    """The workload of this name, with another number of responses and of tokens where they are not
    0. Responses are then half of `new_tokens` long on average. An InputError for fewer than 3."""
    if 0 < new_tokens < 3:
        reason = "because responses are to end by themselves half-way"
        raise InputError(f"--new-tokens {new_tokens}: give at least 3, {reason}")
    workload = WORKLOADS[name]
    workload = dataclasses.replace(workload, prompts=rollouts or workload.prompts)
    if not new_tokens:
        return workload
    return dataclasses.replace(workload, new_tokens=new_tokens, mean=new_tokens / 2)


# ---- weights


def chance_of_end(mean, new_tokens):
    """The probability p of an end at each token that makes responses `mean` tokens long, if they
    are cut off after `new_tokens` tokens. By bisection."""
    low, high = 1e-9, 1.0
    for _ in range(60):
        p = (low + high) / 2
        low, high = (p, high) if (1 - (1 - p) ** new_tokens) / p > mean else (low, p)
    return p


@torch.no_grad()
def random_gpt(workload, seed):
    """A GPT with GPT-2's initialisation whose responses end at the workload's rate: a direction in
    the last layer gives the end token its probability. Seeds torch's global generator."""
    torch.manual_seed(seed)
    context = max(128, workload.prompt_tokens[1] + workload.new_tokens)
    gpt = model.GPT(model.GPTConfig.sized(workload.size, workload.vocab_size, context))
    for name, parameter in gpt.named_parameters():
        if "embedding" in name:
            parameter.normal_(std=0.02)
    v = torch.randn(gpt.config.width)
    v *= 0.3 / v.norm()
    gpt.token_embedding.weight[END] = v
    # Any ids will do: to a random model they are all alike.
    hidden = gpt.hidden(torch.randint(1, workload.vocab_size, (16, 32))).flatten(0, 1)
    p = chance_of_end(workload.mean, workload.new_tokens)
    offset = target = math.log(p / (1 - p))
    # The logit is not quite linear in the offset, because the other ids' logits move a little too.
    for _ in range(8):
        end = float(torch.softmax(gpt.head(hidden + v / 0.09 * offset), -1)[:, END].mean())
        offset += target - math.log(end / (1 - end))
    gpt.norm.bias.copy_(v / 0.09 * offset)
    return gpt


# ---- records


@dataclass(frozen=True)
class Job:
    """One task as every side gets it. Records are ids; a batch is an optimiser step."""

    task: str
    workload: Workload
    folder: str  # of the weights, in GPT-2's layout
    device: torch.device
    prompts: list  # of lists of ids
    batches: list  # of Examples; in rm of groups of Examples
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


def id_map(tokenizer, vocab_size, seed):
    """For each id of the tokenizer an id of another vocabulary at random, (tokenizer.vocab_size,):
    one to one if it is large enough, and the end token alone to END."""
    ids = rng(seed, config.GPT_WEIGHTS).permutation(vocab_size - 1) + 1
    return np.insert(np.resize(ids, tokenizer.vocab_size - 1), tokenizer.end_token, END)


def batches(task, workload, seed):
    """Records of the world in batches as large as the scripts' default. Half of sft's records are
    documents, as in pretraining; those of dense are rows of one length."""
    generator = rng(seed, config.DEMONSTRATIONS)
    if task == "dense":
        shape = max(1, workload.steps // 4), 64, 64
        rows = generator.integers(1, workload.vocab_size, shape).tolist()
        return [[data.Example(ids, 1) for ids in batch] for batch in rows]
    tokenizer = get_tokenizer("tiny")
    ids = id_map(tokenizer, workload.vocab_size, seed)

    def examples(records):
        rows = [data.encode(tokenizer, prompt, response) for prompt, response in records]
        return [data.Example(ids[row.tokens].tolist(), row.prompt_length) for row in rows]

    if task == "sft":
        n = workload.steps // 2 * 16
        rows = examples([(r.prompt, r.response) for r in writers.demonstrations(n, generator)])
        rows += examples([("", text) for text in writers.documents(n, generator)])
        return [rows[i : i + 16] for i in range(0, len(rows), 16)]
    n = max(1, workload.steps // 10) * 32 if task == "rm" else 0
    groups = [examples(group) for group in response_groups(n, generator)]
    return [groups[i : i + 32] for i in range(0, n, 32)]


def response_groups(n, generator):
    """n lists of four (prompt, response) with one prompt. The responses answer other prompts: how
    long they are is all that matters to the time."""
    prompts = writers.prompts(n, generator)
    records = writers.demonstrations(4 * n, generator) if n else []
    responses = [record.response for record in records]
    return [[(prompts[i], text) for text in responses[4 * i : 4 * i + 4]] for i in range(n)]


# ---- what every side needs


def wall_clock(device):
    """Seconds, read when a GPU has finished the work that waits for it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def single_part(device, work):
    """A run that is clocked as a whole: () -> ({"whole": seconds}, response tokens). `work()`
    returns the response tokens."""

    def run():
        start = wall_clock(device)
        tokens = work()
        return {"whole": wall_clock(device) - start}, tokens

    return run


def pad(rows, fill, left=False):  # list of lists of ids -> (B, T), (B, T)
    """The ids with `fill` beside them, and an attention mask: 1 where there is a token."""
    T = max(map(len, rows))
    tokens, mask = torch.full((len(rows), T), fill), torch.zeros(len(rows), T, dtype=torch.long)
    for i, ids in enumerate(rows):
        columns = slice(T - len(ids), T) if left else slice(0, len(ids))
        tokens[i, columns], mask[i, columns] = torch.tensor(ids), 1
    return tokens, mask


def count_tokens(responses):  # (B, T) -> int
    """The tokens of all responses, each up to its first end token 0, the end token included."""
    ends = (responses == 0).int().cumsum(1)
    return int(((ends == 0) | ((ends == 1) & (responses == 0))).sum())


def write_record(args, device, date, **measurements):
    """Write all measurements into the file --json, with the flags and where they were taken."""
    environment = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "date": date,
    }
    record = {"flags": dataclasses.asdict(args), **environment, **measurements}
    write_text(args.json, json.dumps(record, indent=1) + "\n")


# ---- arithmetic


def flops(job, shape, tokens):
    """The floating-point operations of a run with `tokens` response tokens on a GPT of this shape
    (a GPTConfig), as they are usually counted.

    Two operations a weight and real token forward, four backward; the trunk at every token, the
    head at response tokens. Attention is not counted. What our last block leaves out is counted.
    """
    if job.task in ("sampling", "ppo"):
        prompts = sum(map(len, job.prompts))
    elif job.task == "rm":  # the prompt that a group shares counts once
        prompts = sum(group[0].prompt_length for batch in job.batches for group in batch)
    else:
        prompts = sum(example.prompt_length for example in job.examples)
    # ppo: the rollout; policy, reference and reward model (no head) score; then the epochs
    training = 3 * job.epochs
    passes = {"sampling": (1, 1), "rm": (3, 0), "ppo": (1 + 3 + training, 1 + 2 + training)}
    trunk, head = passes.get(job.task, (3, 3))
    weights = 12 * shape.layers * shape.width**2
    head_weights = shape.width * shape.vocab_size
    return 2 * (trunk * weights * (prompts + tokens) + head * head_weights * tokens)


def ceiling(shape, device, precision, repeats=8):
    """Operations a second of the matrix products of a GPT of this shape: one layer of each kind at
    a time, each the best of `repeats`. The head's product is float32."""
    N, C = compute.pick_microbatch(0, device, shape.vocab_size), shape.width
    products = [(N, C, 3 * C), (N, C, C), (N, C, 4 * C), (N, 4 * C, C)]
    products = [(*product, shape.layers) for product in products]
    total = seconds = 0.0
    for rows, inner, outer, layers in [*products, (N // 2, C, shape.vocab_size, 1)]:
        dtype = torch.float32 if outer == shape.vocab_size else precision
        x = torch.randn(rows, inner, device=device, dtype=dtype)
        w = torch.randn(outer, inner, device=device, dtype=dtype)
        best = math.inf
        for _ in range(repeats):
            start = wall_clock(device)
            F.linear(x, w)
            best = min(best, wall_clock(device) - start)
        total, seconds = total + layers * 2 * rows * inner * outer, seconds + layers * best
    return total / seconds
