"""The speed of every stage beside other libraries doing the same work, all sides in one run.

    minirlhf bench                                    the demonstration's shapes on this machine
    minirlhf bench --workload small --tasks ppo       a larger model with GPT-2's vocabulary

Every side is a process of its own and starts from the same random weights (nanoGPT from its own),
whose responses end by themselves at a given rate. nanoGPT learns only rows of one length.

The sides take turns, A B C A B C, so that another load on the machine affects them all; a ratio is
taken run by run. Rates count real work: response tokens, without padding. ours.py holds our sides,
peers.py those of other libraries, workload.py the work.
"""

import contextlib
import importlib
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
from tqdm import tqdm

from minirlhf import fast
from minirlhf.bench import peers
from minirlhf.bench.ours import OURS, compiled_sampling, ppo_iteration
from minirlhf.bench.workload import (
    WORKLOADS,
    Job,
    batches,
    ceiling,
    flops,
    random_gpt,
    sized_workload,
    write_record,
)
from minirlhf.formats import gpt2
from minirlhf.run import compute, config, files
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
    rollouts: int = flag(0, "responses per rollout [the workload's]", low=0)
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
    peak: float = flag(
        0.0,
        "TFLOP/s that a datasheet promises (H100 SXM in bf16, dense: 989); adds a column MFU, the "
        "share of it that we reach",
        low=0,
    )
    device: str = flag(
        "auto", "where to run; auto takes the GPU if there is one", choices=("auto", "cpu", "cuda")
    )
    slow: bool = flag(False, "run the workload gpt2 without a GPU all the same")
    seed: int = flag(1, "seed of weights, prompts and noise", low=0)
    json: str = flag("out/bench.json", "file that everything measured is written to")


def make_job(args, task, folder, device):
    workload = sized_workload(args.workload, args.rollouts, args.new_tokens)
    generator = rng(args.seed, config.RANKED_PROMPTS)
    lengths = generator.integers(*workload.prompt_tokens, workload.prompts, endpoint=True)
    prompts = [generator.integers(1, workload.vocab_size, n).tolist() for n in lengths]
    records = batches(task, workload, args.seed)
    plan = args.epochs, args.minibatches
    return Job(task, workload, folder, device, prompts, records, *plan, args.nanogpt, args.seed)


def sides(args, task):
    """{name: job -> run}, ours first. All of it can be sent to another process."""
    functions = {"minirlhf": partial(OURS[task], precision=torch.float32)}
    if args.precision == "bf16":
        functions["minirlhf bf16"] = partial(OURS[task], precision=torch.bfloat16)
    if task == "ppo":  # TRL's value function is always a network of its own
        functions["minirlhf, own critic"] = partial(
            ppo_iteration, precision=torch.float32, critic=True
        )
    if task == "sampling":
        functions["compiled"] = compiled_sampling
    for name, side in peers.SIDES[task].items():
        if name != "nanogpt" or args.nanogpt:
            functions[name] = side
    return functions


# ---- processes


def peak_memory(device):
    """The most memory that this process has used, in MB. NaN where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    return math.nan


def mean_run(run, min_seconds=1.0):
    """The mean seconds by part and the mean tokens of runs that take `min_seconds` together.

    The first of several is left out: other sides have filled the caches since. A single run that
    takes as long counts.
    """
    runs = []
    while sum(seconds["whole"] for seconds, _ in runs) < min_seconds:
        runs.append(run())
    runs = runs[1:] or runs
    seconds = {part: float(np.mean([s[part] for s, _ in runs])) for part in runs[0][0]}
    return seconds, float(np.mean([tokens for _, tokens in runs]))


def serve(pipe, name, side, job):
    """The life of a side's process: it builds its models, does one run that is not counted and
    sends None; for every True that it receives it sends the mean of its runs; for False its memory
    in MB. A string is what went wrong, and the last message."""
    if name.startswith("minirlhf"):
        fast.keep_memory()  # as our scripts do
    try:
        with open(os.devnull, "w", encoding="utf-8") as null, contextlib.redirect_stdout(null):
            for module in peers.IMPORTS.get(name, ()):  # the memory of the imports is not counted
                importlib.import_module(module)
            before = peak_memory(job.device)
            run = side(job)
            run()
            pipe.send(None)
            while pipe.recv():
                pipe.send(mean_run(run))
            pipe.send(peak_memory(job.device) - before)
    except ModuleNotFoundError as error:
        pipe.send(f"{error.name} is not installed; pip install -e '.[bench]'")
    except Exception as error:  # any failure in another library costs that side alone
        pipe.send(" ".join(f"{type(error).__name__}: {error}".split())[:300])


def request(pipe, *messages):
    """Send messages to a side's process. Returns its answer; a string is what went wrong."""
    try:
        for message in messages:
            pipe.send(message)
        return pipe.recv()
    except (EOFError, OSError):
        return "its process ended; is there enough memory?"


def measure(job, functions, runs, bar):
    """{side: {"runs": [...], "memory": MB}} and {side: why it is missing}. The sides are built one
    after another and run in turn."""
    context, pipes, answers, processes = multiprocessing.get_context("spawn"), {}, {}, []
    try:
        for name, side in functions.items():
            bar.set_description(f"{job.task}, {name}: warming up")
            pipes[name], end = context.Pipe()
            arguments = end, name, side, job
            processes.append(context.Process(target=serve, args=arguments, daemon=True))
            processes[-1].start()
            end.close()
            answers[name] = [request(pipes[name])]
        for message in [True] * runs + [False]:
            for name, pipe in pipes.items():
                bar.set_description(f"{job.task}, {name}")
                if not isinstance(answers[name][-1], str):  # a side that failed is left alone
                    answers[name].append(request(pipe, message))
                bar.update(message)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    missing = {name: rest[-1] for name, rest in answers.items() if isinstance(rest[-1], str)}
    return {
        name: side_record(*rest) for name, rest in answers.items() if name not in missing
    }, missing


def side_record(_, *answers):
    """The answers of a side's process: the None of its first run, its runs, at last its memory."""
    runs = [seconds | {"tokens": tokens} for seconds, tokens in answers[:-1]]
    return {"runs": runs, "memory": answers[-1]}


# ---- the tables


def median_range(values):
    return f"{np.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def times_ours(theirs, ours):
    """The median over runs of (their seconds a response token) / (ours); more than 1 is slower than
    we are. Each run of theirs is divided by the run of ours beside it. Responses are sampled anew
    each run, so that seconds alone would compare different work."""
    ratios = [
        a["whole"] / a["tokens"] / (b["whole"] / b["tokens"])
        for a, b in zip(theirs, ours, strict=True)
    ]
    return float(np.median(ratios))


def lines(measurements, shares):
    """The table of one task. `shares {column: {side: number}}` are those of our sides, of what the
    machine could do."""
    parts = [part for part in PARTS if part in next(iter(measurements.values()))["runs"][0]]
    seconds = [f"{part} s" for part in parts]
    header = ["side", *seconds, "tokens/s", "MB", "times ours", *shares]
    ours = measurements.get("minirlhf")
    rows = []
    for name, side in measurements.items():
        runs = side["runs"]
        rate = np.median([run["tokens"] / run["whole"] for run in runs])
        ratio = f"{times_ours(runs, ours['runs']):.2f}" if ours else "-"
        fractions = [f"{column[name]:.2f}" if name in column else "-" for column in shares.values()]
        seconds = [median_range([run[part] for run in runs]) for part in parts]
        rows.append([name, *seconds, f"{rate:,.0f}", f"{side['memory']:.0f}", ratio, *fractions])
    return table(header, rows)


def rates(job, measurements, shape):
    """{side: operations a second, the median}, of our sides with one network: a critic of its own
    is more arithmetic than the task takes."""
    medians = {}
    for name in ("minirlhf", "minirlhf bf16"):
        if name in measurements:
            runs = measurements[name]["runs"]
            medians[name] = float(
                np.median([flops(job, shape, run["tokens"]) / run["whole"] for run in runs])
            )
    return medians


def shares_of(args, rates, ceilings):
    """{column: {side: the share of what the machine could do}}: of the matrix products measured
    here, and with --peak of the datasheet (MFU)."""
    names = {"minirlhf": "float32", "minirlhf bf16": "bf16"}
    columns = {"of ceiling": {side: rate / ceilings[names[side]] for side, rate in rates.items()}}
    if args.peak:
        columns["MFU"] = {side: rate / (args.peak * 1e12) for side, rate in rates.items()}
    return columns


def bench(args, task, folder, shape, device, ceilings):
    """Measure and print one task; returns it as a dictionary. Raises `ceilings` in place."""
    job = make_job(args, task, folder, device)
    functions = sides(args, task)
    with tqdm(total=args.runs * len(functions)) as bar:
        measurements, missing = measure(job, functions, args.runs, bar)
    for name in ceilings:  # the best of before and after: another job may have been running
        ceilings[name] = max(ceilings[name], ceiling(shape, device, compute.PRECISIONS[name]))
    speeds = rates(job, measurements, shape)
    shares = shares_of(args, speeds, ceilings)
    print(f"\n{task}, workload {args.workload}")
    print("\n".join(lines(measurements, shares) if measurements else []))
    for name, reason in missing.items():
        print(f"{name} is left out: {reason}", flush=True)
    stored = {"of_ceiling": shares["of ceiling"], "flops_a_second": speeds}
    return {"sides": measurements, "missing": missing, **stored}


def check(args, tasks, device):
    """Refuses what cannot be measured."""
    if unknown := set(tasks) - set(TASKS):
        raise InputError(f"--tasks {min(unknown)!r} is not a task; choose from {','.join(TASKS)}")
    if args.workload == "gpt2" and device.type == "cpu" and not args.slow:
        raise InputError("--workload gpt2 takes hours without a GPU; choose small, or pass --slow")
    if args.minibatches > sized_workload(args.workload, args.rollouts, args.new_tokens).prompts:
        problem = f"--minibatches {args.minibatches} must be at most"
        raise InputError(f"{problem} the number of responses")
    if args.nanogpt and not (Path(args.nanogpt) / "model.py").exists():
        problem = f"--nanogpt {args.nanogpt}: holds no model.py"
        raise InputError(f"{problem}; give the folder of a checkout of nanoGPT")
    files.writable("--json", args.json, '{\n "flags": ')


def main(argv=None):
    args = config.parse(Config, argv)
    tasks, device = args.tasks.split(","), compute.pick_device(args.device)
    check(args, tasks, device)
    date, results = time.strftime("%Y-%m-%d %H:%M:%S"), {}
    with tempfile.TemporaryDirectory() as folder:
        workload = sized_workload(args.workload, args.rollouts, args.new_tokens)
        gpt = random_gpt(workload, args.seed)
        gpt2.save_gpt2(gpt, folder)
        names = ["float32", "bf16"] if args.precision == "bf16" else ["float32"]
        ceilings = {name: ceiling(gpt.config, device, compute.PRECISIONS[name]) for name in names}
        rates = [f"{name} {value / 1e9:,.0f} GFLOP/s" for name, value in ceilings.items()]
        print("ceiling: " + ", ".join(rates))
        for task in tasks:
            results[task] = bench(args, task, folder, gpt.config, device, ceilings)
    write_record(args, device, date, ceiling=ceilings, tasks=results)
    explanation = "median (least-most) seconds; times ours: a response token's seconds"
    print(f"\nwhole runs, {explanation}. Everything is in {args.json}")


if __name__ == "__main__":
    config.run(main)
