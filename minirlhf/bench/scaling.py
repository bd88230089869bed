"""Where the time of a PPO iteration goes, and how it grows with the responses and their length.

    minirlhf scaling                        the demonstration's shapes on this machine
    minirlhf scaling --workload small       a larger model with GPT-2's vocabulary

Twice the work should take twice the time: then the microseconds per real token, without padding,
are the same in every row. Only attention may grow, because a token of a longer row attends to more
tokens; so its share has a column of its own.
"""

import dataclasses
import tempfile
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import profile
from tqdm import tqdm

from minirlhf.bench import speed
from minirlhf.bench.ours import ppo_iteration
from minirlhf.bench.workload import WORKLOADS, random_gpt, sized_workload, write_record
from minirlhf.formats import gpt2
from minirlhf.run import compute, config, files
from minirlhf.run.config import InputError, flag
from minirlhf.run.metrics import table

MATRICES = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
KINDS = ("matrix products", "attention", "the rest")
HEADER = ("responses", "up to", "real tokens", "s", "us a token", "attention", "without it")


@dataclass(frozen=True)
class Config:
    """Time per real token of one PPO iteration at several numbers and lengths of responses, and
    what it is spent on."""

    workload: str = flag(
        "tiny", "shapes: tiny is the demonstration's, gpt2 wants a GPU", choices=tuple(WORKLOADS)
    )
    rollouts: str = flag(
        "32,64,128,256,512,1024", "numbers of responses, separated by commas, or nothing"
    )
    new_tokens: str = flag(
        "16,32,64,128,256,512",
        "the most tokens a response may have, half that on average; or nothing",
    )
    runs: int = flag(3, "runs of each shape, after one that is not counted", low=1)
    device: str = flag(
        "auto", "where to run; auto takes the GPU if there is one", choices=("auto", "cpu", "cuda")
    )
    seed: int = flag(1, "seed of weights, prompts and noise", low=0)
    json: str = flag("out/scaling.json", "file that everything measured is written to")


def numbers(option, text):
    """ "16,32", given as `option` -> [16, 32]"""
    try:
        values = [int(word) for word in text.split(",") if word]
    except ValueError:
        values = [0]
    if any(n < 1 for n in values):
        raise InputError(f"{option} {text}: write whole numbers separated by commas, as in 16,32")
    return values


def iteration(args, device, rollouts, new_tokens):
    """A function that does one PPO iteration of the workload with this many responses of at most
    this many tokens: () -> seconds by part, and the tokens of prompts and responses."""
    shape = {"workload": args.workload, "rollouts": rollouts, "new_tokens": new_tokens}
    workload = sized_workload(args.workload, rollouts, new_tokens)
    with tempfile.TemporaryDirectory() as folder:
        gpt2.save_gpt2(random_gpt(workload, args.seed), folder)
        sizes = dataclasses.replace(speed.Config(), **shape, seed=args.seed)
        job = speed.make_job(sizes, "ppo", folder, device)
        run = ppo_iteration(job, torch.float32)
    prompts = sum(map(len, job.prompts))

    def count():
        seconds, response_tokens = run()
        return seconds | {"tokens": prompts + response_tokens}

    return count


def kinds(run, device):
    """{kind of work: its share of one run}"""
    with profile() as record:
        run()
    times = dict.fromkeys(KINDS, 0.0)
    for event in record.key_averages():
        # A GPU has events of its own for the kernels that the operations below have launched.
        if event.device_type != DeviceType.CPU:
            continue
        kind = "attention" if "attention" in event.key else "the rest"
        kind = "matrix products" if event.key in MATRICES else kind
        on_gpu = device.type == "cuda"
        times[kind] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    return {kind: seconds / sum(times.values()) for kind, seconds in times.items()}


def measure(args, device, shapes):
    """{shape: {"runs": [...], "kinds": {...}}}. The shapes take turns, run by run, so that another
    load on the machine affects them all."""
    runs, measurements = {}, {}
    with tqdm(total=len(shapes) * (args.runs + 2)) as bar:
        for shape in shapes:
            bar.set_description("{} responses of up to {} tokens".format(*shape))
            runs[shape], measurements[shape] = iteration(args, device, *shape), {"runs": []}
            runs[shape]()
            bar.update()
        for _ in range(args.runs):
            for shape, run in runs.items():
                measurements[shape]["runs"].append(run())
                bar.update()
        for shape, run in runs.items():
            measurements[shape]["kinds"] = kinds(run, device)
            bar.update()
    return measurements


def row(shape, measurement):
    """One line of the table; microseconds are of the median run."""
    runs, shares = measurement["runs"], measurement["kinds"]
    microseconds = [1e6 * run["whole"] / run["tokens"] for run in runs]
    median = np.median(microseconds)
    attention = shares["attention"] * median
    return [
        *shape,
        f"{np.median([run['tokens'] for run in runs]):.0f}",
        f"{np.median([run['whole'] for run in runs]):.2f}",
        f"{median:.0f} ({min(microseconds):.0f}-{max(microseconds):.0f})",
        f"{attention:.0f}",
        f"{median - attention:.0f}",
        *(f"{100 * shares[kind]:.0f}" for kind in KINDS),
    ]


def shapes_of(args):
    """[(responses, tokens)]: the workload with each number of responses, and with each length."""
    workload = WORKLOADS[args.workload]
    shapes = [(n, workload.new_tokens) for n in numbers("--rollouts", args.rollouts)]
    shapes += [(workload.prompts, n) for n in numbers("--new-tokens", args.new_tokens)]
    if not shapes:
        raise InputError("--rollouts and --new-tokens are both empty: nothing to measure")
    for shape in shapes:
        sized_workload(args.workload, *shape)  # refuses what is too short
    return list(dict.fromkeys(shapes))


def main(argv=None):
    args = config.parse(Config, argv)
    device, shapes = compute.pick_device(args.device), shapes_of(args)
    if args.workload == "gpt2" and device.type == "cpu":
        raise InputError("--workload gpt2 takes hours without a GPU; choose small")
    files.writable("--json", args.json, '{\n "flags": ')
    date = time.strftime("%Y-%m-%d %H:%M:%S")
    measurements = measure(args, device, shapes)
    header = [*HEADER, *(f"% {kind}" for kind in KINDS)]
    print("\n".join(["", *table(header, [row(*item) for item in measurements.items()])]))
    rows = [
        {"rollouts": rollouts, "new_tokens": new_tokens, **measurement}
        for (rollouts, new_tokens), measurement in measurements.items()
    ]
    write_record(args, device, date, shapes=rows)
    explanation = "microseconds of an iteration per token of prompts and responses, median"
    print(f"\nus: {explanation} (least-most). All is in {args.json}")


if __name__ == "__main__":
    config.run(main)
