"""How fast the stages are beside other people's code doing the same work, all sides in one run and in turn.

    python -m minirlhf.bench                                      the demonstration's shapes on this machine
    python -m minirlhf.bench --workload small --tasks ppo         a larger model with GPT-2's vocabulary

Every side is a process of its own and starts from the same random weights, whose responses end by themselves at a known rate
(nanoGPT, which only learns rows of one length, from its own).
The sides are asked one after another, A B C A B C, so that whatever else the machine does meets all of them; a ratio is taken
run by run. What is divided by time is real work: response tokens, padding not counted. `minirlhf.peers` holds other
people's sides, `minirlhf.workload` the work.
"""

import contextlib
import copy
import importlib
import itertools
import math
import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from minirlhf import data, evaluate, fast, generate, ppo, reward
from minirlhf.bench import peers
from minirlhf.bench.workload import (
    END,
    LR,
    WORKLOADS,
    Job,
    batches,
    ceiling,
    flops,
    padded,
    random_gpt,
    sampled,
    script,
    timed,
    write_record,
)
from minirlhf.bench.workload import workload as shapes
from minirlhf.formats import gpt2
from minirlhf.run import checkpoint, compute, config, optim
from minirlhf.run.config import InputError, flag, rng
from minirlhf.run.metrics import table

TASKS = ("sampling", "sft", "dense", "rm", "ppo")
PARTS = ("rollout", "scoring", "update", "whole")


@dataclass(frozen=True)
class Config:
    """Seconds, tokens a second and memory of our stages and of other people's, side by side."""

    workload: str = flag(
        "tiny", "shapes: tiny is the demonstration's, gpt2 wants a GPU", choices=tuple(WORKLOADS)
    )
    rollouts: int = flag(0, "responses a rollout [the workload's]", low=0)
    new_tokens: int = flag(
        0,
        "the most tokens a response may have, which is half that on average [the workload's]",
        low=0,
    )
    tasks: str = flag(",".join(TASKS), "what is measured, separated by commas")
    runs: int = flag(5, "runs of each side, after one that is not counted", low=1)
    epochs: int = flag(4, "passes over a rollout; 4 is TRL's default", low=1)
    minibatches: int = flag(1, "optimiser steps a pass; 1 is TRL's default", low=1)
    nanogpt: str = flag("", "folder of a checkout of nanoGPT, a further side of the task dense")
    precision: str = flag(
        "float32",
        "bf16 adds a side of ours that computes its trunk so",
        choices=("float32", "bf16"),
    )
    device: str = flag(
        "auto", "where to run; auto takes the GPU if there is one", choices=("auto", "cpu", "cuda")
    )
    slow: bool = flag(False, "run the workload gpt2 without a GPU all the same")
    seed: int = flag(1, "seed of weights, prompts and noise", low=0)
    json: str = flag("out/bench.json", "file that everything measured is written to")


def make_job(args, task, folder, device):
    workload = shapes(args.workload, args.rollouts, args.new_tokens)
    draw = rng(args.seed, config.RANKED_PROMPTS)
    lengths = draw.integers(*workload.prompt_tokens, workload.prompts, endpoint=True)
    prompts = [draw.integers(1, workload.vocab_size, n).tolist() for n in lengths]
    own = batches(task, workload, args.seed)
    return Job(
        task,
        workload,
        folder,
        device,
        prompts,
        own,
        args.epochs,
        args.minibatches,
        args.nanogpt,
        args.seed,
    )


# ---- our side


def load(job, precision):
    gpt = gpt2.load_gpt2(job.folder).to(job.device)
    gpt.precision = precision
    return gpt


def our_sampling(job, precision):
    gpt, draw = load(job, precision), rng(job.seed, config.ROLLOUTS)

    def work():
        uniforms = torch.from_numpy(
            draw.random((len(job.prompts), job.workload.new_tokens), dtype=np.float32)
        )
        samples = generate.generate(
            gpt, job.prompts, job.workload.new_tokens, END, uniforms=uniforms
        )
        return int((samples.lengths - samples.prompt_lengths).sum())

    return timed(job.device, work)


def our_steps(job, batches, module, accumulate):
    """The scripts' optimiser steps, one a batch."""
    optimizer = optim.adamw(module, LR)

    def work():
        for batch in batches:
            accumulate(batch, compute.pick_microbatch(0, job.device, job.workload.vocab_size))
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return job.response_tokens

    return timed(job.device, work)


def our_language(job, precision):
    gpt, train_sft = load(job, precision), script("train_sft")
    return our_steps(
        job, job.batches, gpt, lambda batch, tokens: train_sft.accumulate(gpt, batch, tokens)
    )


class Ids:
    """A tokenizer whose text is ids in figures, for the scripts that take text."""

    end_token = END

    @staticmethod
    def encode(text):
        return [int(word) for word in text.split()]

    @staticmethod
    def decode(ids):
        return " ".join(map(str, ids))


def comparison(group):
    """A group of Examples of one prompt, best first -> what the scripts read."""
    spans = [(e.tokens[: e.prompt_length], e.tokens[e.prompt_length : -1]) for e in group]
    prompt, *responses = (
        Ids.decode(ids) for ids in (spans[0][0], *(response for _, response in spans))
    )
    return data.Comparison(prompt, responses, list(range(len(group))))


def our_rm(job, precision):
    reward_model, train_rm = (
        reward.RewardModel(load(job, precision)).to(job.device),
        script("train_rm"),
    )
    ranked = [[comparison(group) for group in batch] for batch in job.batches]
    return our_steps(
        job,
        ranked,
        reward_model,
        lambda batch, tokens: train_rm.accumulate(reward_model, Ids, batch, tokens),
    )


def our_ppo(job, precision, critic=False):
    """One iteration of train_ppo.py."""
    gpt, train_ppo = load(job, precision), script("train_ppo")
    reference = copy.deepcopy(gpt).requires_grad_(False)
    reward_model = reward.RewardModel(gpt).requires_grad_(False).to(job.device)
    actor = ppo.ActorCritic(gpt, reward_model if critic else None).to(job.device)
    optimizer = optim.adamw(actor, LR, betas=(0.9, 0.999), eps=1e-5)
    most = compute.pick_microbatch(0, job.device, job.workload.vocab_size)
    sizes = {"epochs": job.epochs, "minibatches": job.minibatches, "microbatch_tokens": most}
    flags = train_ppo.Config(max_new_tokens=job.workload.new_tokens, seed=job.seed, **sizes)
    controller = ppo.AdaptiveKL(flags.kl_coef, target=0, horizon=1)
    score = partial(evaluate.score_replies, reward_model)
    models = train_ppo.Models(actor, reference, score, -3.0, Ids)
    prompts, steps = list(map(Ids.decode, job.prompts)), itertools.count()

    def run():
        stats = train_ppo.iterate(flags, models, optimizer, controller, prompts, next(steps))
        seconds = {part: stats[f"{part}_s"] for part in ("rollout", "scoring", "update")}
        response_tokens = round(stats["length"] * len(prompts))
        return seconds | {"whole": sum(seconds.values())}, response_tokens

    return run


OURS = {
    "sampling": our_sampling,
    "sft": our_language,
    "dense": our_language,
    "rm": our_rm,
    "ppo": our_ppo,
}


# ---- gpt-fast's way of sampling


def cached(gpt, keys, values, tokens, positions):  # (B, T), (B, T) -> (B, T, C)
    """GPT-2 over a cache of fixed shape: keys and values are lists of (B, H, S, D), written to in place."""
    B, T = tokens.shape
    rows = torch.arange(B, device=tokens.device)[:, None]
    visible = (torch.arange(keys[0].size(2), device=tokens.device) <= positions[:, :, None])[
        :, None
    ]  # (B, 1, T, S)
    x = gpt.token_embedding(tokens) + gpt.position_embedding(positions)
    for block, k_store, v_store in zip(gpt.blocks, keys, values, strict=True):
        q, k, v = block.attention.qkv(block.norm1(x)).view(B, T, 3, gpt.config.heads, -1).unbind(2)
        k_store[rows, :, positions], v_store[rows, :, positions] = k, v
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k_store, v_store, attn_mask=visible)
        x = x + block.attention.out(y.transpose(1, 2).reshape(B, T, -1))
        x = x + block.mlp.out(F.gelu(block.mlp.hidden(block.norm2(x)), approximate="tanh"))
    return gpt.norm(x)


def draw(
    gpt, hidden
):  # (B, C) -> (B,) by exponential noise, as in gpt-fast: no cumulative sum over the vocabulary
    p = torch.softmax(gpt.head(hidden), dim=-1)
    return (p / torch.empty_like(p).exponential_(1)).argmax(-1)


def compiled_sampling(job):
    """All rows for all steps over a static cache, one compiled function a step; looks every 8 tokens whether all have ended."""
    gpt = gpt2.load_gpt2(job.folder).to(job.device).requires_grad_(False)
    tokens, there = (x.to(job.device) for x in padded(job.prompts, 0))
    lengths, B = there.sum(1), len(tokens)
    columns, D = tokens.size(1) + job.workload.new_tokens, gpt.config.width // gpt.config.heads
    mode = "reduce-overhead" if job.device.type == "cuda" else None
    keys, values = (
        [torch.zeros(B, gpt.config.heads, columns, D, device=job.device) for _ in gpt.blocks]
        for _ in range(2)
    )
    for store in (*keys, *values):  # else no CUDA graph would be made of a step that writes to them
        torch._dynamo.mark_static_address(store)
    step = torch.compile(
        lambda k, v, ids, at: draw(gpt, cached(gpt, k, v, ids, at)[:, 0]), fullgraph=True, mode=mode
    )

    @torch.no_grad()
    def work():
        everywhere = torch.arange(tokens.size(1), device=job.device).expand(B, -1)
        hidden = cached(gpt, keys, values, tokens, everywhere)
        chosen = [draw(gpt, hidden[torch.arange(B, device=job.device), lengths - 1])]
        ended = chosen[0] == 0
        for i in range(1, job.workload.new_tokens):
            if i % 8 == 0 and bool(ended.all()):
                break
            chosen.append(
                step(keys, values, chosen[-1][:, None], (lengths + i - 1)[:, None]).clone()
            )
            ended |= chosen[-1] == 0
        return sampled(torch.stack(chosen, 1))

    return timed(job.device, work)


def sides(args, task):
    """{name: job -> run}, ours first. Everything here can be sent to another process."""
    found = {"minirlhf": partial(OURS[task], precision=torch.float32)}
    if args.precision == "bf16":
        found["minirlhf bf16"] = partial(OURS[task], precision=torch.bfloat16)
    if task == "ppo":  # TRL's value function is always a network of its own
        found["minirlhf, own critic"] = partial(our_ppo, precision=torch.float32, critic=True)
    found |= {"compiled": compiled_sampling} if task == "sampling" else {}
    return found | {
        name: side for name, side in peers.SIDES[task].items() if name != "nanogpt" or args.nanogpt
    }


# ---- processes


def peak_memory(device):
    """MB that this process has used at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    return math.nan


def turn(run, least=1.0):
    """Runs for `least` seconds, a single one if it takes that long: the mean of their seconds and tokens. The first of several
    is left out, because what the other sides did meanwhile has emptied the caches."""
    made = []
    while sum(seconds["whole"] for seconds, _ in made) < least:
        made.append(run())
    made = made[1:] or made
    return {part: float(np.mean([s[part] for s, _ in made])) for part in made[0][0]}, float(
        np.mean([n for _, n in made])
    )


def work(pipe, name, side, job):
    """The life of a side's process: build, one run uncounted, then one for every word that comes; at last its memory."""
    if name.startswith("minirlhf"):
        fast.keep_memory()  # as our scripts do
    try:
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
            for module in peers.IMPORTS.get(name, ()):  # what importing takes is not counted
                importlib.import_module(module)
            before = peak_memory(job.device)
            run = side(job)
            run()
            pipe.send(None)
            while pipe.recv():
                pipe.send(turn(run))
            pipe.send(peak_memory(job.device) - before)
    except ModuleNotFoundError as error:
        pipe.send(f"{error.name} is not installed; pip install -e '.[bench]'")
    except (
        Exception
    ) as error:  # whatever goes wrong in somebody else's library costs that side alone
        pipe.send(" ".join(f"{type(error).__name__}: {error}".split())[:300])


def ask(pipe, *words):
    """What the process at the other end answers; a string is what went wrong with it."""
    try:
        for word in words:
            pipe.send(word)
        return pipe.recv()
    except (EOFError, OSError):
        return "its process ended; is there enough memory?"


def measure(job, functions, runs, bar):
    """{side: {"runs": [...], "memory": MB}} and {side: why it is missing}. Built one after another, run in turn."""
    context, pipes, made, processes = multiprocessing.get_context("spawn"), {}, {}, []
    try:
        for name, side in functions.items():
            bar.set_description(f"{job.task}, {name}: warming up")
            pipes[name], theirs = context.Pipe()
            processes.append(
                context.Process(target=work, args=(theirs, name, side, job), daemon=True)
            )
            processes[-1].start()
            theirs.close()
            made[name] = [ask(pipes[name])]
        for word in [True] * runs + [False]:
            for name, pipe in pipes.items():
                bar.set_description(f"{job.task}, {name}")
                if not isinstance(
                    made[name][-1], str
                ):  # once something went wrong, it is left alone
                    made[name].append(ask(pipe, word))
                bar.update(word)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    missing = {name: answers[-1] for name, answers in made.items() if isinstance(answers[-1], str)}
    found = {name: answers for name, answers in made.items() if name not in missing}
    return {name: told(*answers) for name, answers in found.items()}, missing


def told(_, *answers):
    """All that a side's process said, None when it was ready and at last its memory."""
    return {
        "runs": [seconds | {"tokens": tokens} for seconds, tokens in answers[:-1]],
        "memory": answers[-1],
    }


# ---- what is shown


def spread(values):
    return f"{np.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def times_ours(own, ours):
    """The median over runs of (their seconds a response token) / (ours), each run of theirs beside the one next to it of ours:
    more than 1 is slower than we are. Responses are drawn anew each run, so seconds alone would compare different work."""
    ratios = [
        a["whole"] / a["tokens"] / (b["whole"] / b["tokens"])
        for a, b in zip(own, ours, strict=True)
    ]
    return float(np.median(ratios))


def lines(found, fractions):
    """The table of one task. `fractions {side: of the ceiling}` are those of our sides."""
    parts = [part for part in PARTS if part in next(iter(found.values()))["runs"][0]]
    header = [
        "side",
        *(f"{part} s" for part in parts),
        "tokens/s",
        "MB",
        "times ours",
        "of ceiling",
    ]
    rows = []
    for name, side in found.items():
        runs = side["runs"]
        rate = np.median([run["tokens"] / run["whole"] for run in runs])
        ratio = f"{times_ours(runs, found['minirlhf']['runs']):.2f}" if "minirlhf" in found else "-"
        share = f"{fractions[name]:.2f}" if name in fractions else "-"
        seconds = [spread([run[part] for run in runs]) for part in parts]
        rows.append([name, *seconds, f"{rate:,.0f}", f"{side['memory']:.0f}", ratio, share])
    return table(header, rows)


def bench(args, task, folder, c, device, ceilings):
    """One task: measured, printed, and as a dictionary."""
    job = make_job(args, task, folder, device)
    functions = sides(args, task)
    with tqdm(total=args.runs * len(functions)) as bar:
        found, missing = measure(job, functions, args.runs, bar)
    for name in ceilings:  # the best of before and after: something else may have been running
        ceilings[name] = max(ceilings[name], ceiling(c, device, compute.PRECISIONS[name]))
    fractions = {}
    for name, side in found.items():
        if name in (
            "minirlhf",
            "minirlhf bf16",
        ):  # a critic of its own is more arithmetic than the task takes
            rates = [flops(job, c, run["tokens"]) / run["whole"] for run in side["runs"]]
            fractions[name] = (
                float(np.median(rates)) / ceilings["bf16" if "bf16" in name else "float32"]
            )
    print(f"\n{task}, workload {args.workload}")
    print("\n".join(lines(found, fractions) if found else []))
    print(
        "".join(f"{name} is left out: {reason}\n" for name, reason in missing.items()),
        end="",
        flush=True,
    )
    return {"sides": found, "missing": missing, "of_ceiling": fractions}


def main(argv=None):
    args = config.parse(Config, argv, prog="python -m minirlhf.bench")
    tasks = args.tasks.split(",")
    if unknown := set(tasks) - set(TASKS):
        raise InputError(f"--tasks {min(unknown)!r} is not a task; choose from {','.join(TASKS)}")
    device = compute.pick_device(args.device)
    if args.workload == "gpt2" and device.type == "cpu" and not args.slow:
        raise InputError("--workload gpt2 takes hours without a GPU; choose small, or pass --slow")
    if args.minibatches > shapes(args.workload, args.rollouts, args.new_tokens).prompts:
        raise InputError(
            f"--minibatches {args.minibatches} must be at most the number of responses"
        )
    if args.nanogpt and not (Path(args.nanogpt) / "model.py").exists():
        raise InputError(
            f"--nanogpt {args.nanogpt}: holds no model.py; give the folder of a checkout of nanoGPT"
        )
    checkpoint.writable("--json", args.json)
    started, results = time.strftime("%Y-%m-%d %H:%M:%S"), {}
    with tempfile.TemporaryDirectory() as folder:
        gpt = random_gpt(shapes(args.workload, args.rollouts, args.new_tokens), args.seed)
        gpt2.save_gpt2(gpt, folder)
        names = ["float32", "bf16"] if args.precision == "bf16" else ["float32"]
        ceilings = {name: ceiling(gpt.config, device, compute.PRECISIONS[name]) for name in names}
        print(
            "ceiling: "
            + ", ".join(f"{name} {value / 1e9:,.0f} GFLOP/s" for name, value in ceilings.items())
        )
        for task in tasks:
            results[task] = bench(args, task, folder, gpt.config, device, ceilings)
    write_record(args, device, started, ceiling=ceilings, tasks=results)
    print(
        f"\nwhole runs, median (least-most) seconds; times ours: a response token's seconds. Everything is in {args.json}"
    )


if __name__ == "__main__":
    config.run(main)
