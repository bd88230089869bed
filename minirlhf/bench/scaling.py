"""Where the time of a PPO iteration goes, and how it grows with the number of responses and with their length.

    python -m minirlhf.scaling                        the demonstration's shapes on this machine
    python -m minirlhf.scaling --workload small       a larger model with GPT-2's vocabulary

Twice the work is to take twice the time: then microseconds per real token, padding not counted, are the same in every row. Only
attention may grow, because a token of a longer row looks at more tokens; so its share stands in a column of its own.
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
from minirlhf.bench.workload import WORKLOADS, random_gpt, workload, write_record
from minirlhf.formats import gpt2
from minirlhf.run import checkpoint, compute, config
from minirlhf.run.config import InputError, flag
from minirlhf.run.metrics import table

MATRICES = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
KINDS = ("matrix products", "attention", "the rest")


@dataclass(frozen=True)
class Config:
    """Time per real token of one PPO iteration at several numbers and lengths of responses, and what it is spent on."""

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


def numbers(name, text):
    """ "16,32" -> [16, 32]"""
    try:
        found = [int(word) for word in text.split(",") if word]
    except ValueError:
        found = [0]
    if any(n < 1 for n in found):
        raise InputError(f"{name} {text}: write whole numbers separated by commas, as in 16,32")
    return found


def iteration(args, device, rollouts, new_tokens):
    """A function that does one PPO iteration of the workload with so many responses of so many tokens."""
    sizes = {
        "workload": args.workload,
        "rollouts": rollouts,
        "new_tokens": new_tokens,
        "seed": args.seed,
    }
    with tempfile.TemporaryDirectory() as folder:
        gpt2.save_gpt2(random_gpt(workload(args.workload, rollouts, new_tokens), args.seed), folder)
        job = speed.make_job(dataclasses.replace(speed.Config(), **sizes), "ppo", folder, device)
        run = speed.our_ppo(job, torch.float32)
    prompts = sum(map(len, job.prompts))

    def counted():
        seconds, response_tokens = run()
        return seconds | {"tokens": prompts + response_tokens}

    return counted


def kinds(run, device):
    """{kind of work: its share of one run}"""
    with profile() as record:
        run()
    spent = dict.fromkeys(KINDS, 0.0)
    for event in record.key_averages():
        if (
            event.device_type != DeviceType.CPU
        ):  # a GPU's own record of what the operations below have asked of it
            continue
        kind = "attention" if "attention" in event.key else "the rest"
        kind = "matrix products" if event.key in MATRICES else kind
        spent[kind] += (
            event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        )
    return {kind: own / sum(spent.values()) for kind, own in spent.items()}


def measure(args, device, shapes):
    """{shape: {"runs": [...], "kinds": {...}}}: the shapes in turn, run by run: whatever else the machine does meets all."""
    made = {}
    with tqdm(total=len(shapes) * (args.runs + 2)) as bar:
        for shape in shapes:
            bar.set_description("{} responses of up to {} tokens".format(*shape))
            made[shape] = {"run": iteration(args, device, *shape), "runs": []}
            made[shape]["run"]()
            bar.update()
        for _ in range(args.runs):
            for own in made.values():
                own["runs"].append(own["run"]())
                bar.update()
        for own in made.values():
            own["kinds"] = kinds(own.pop("run"), device)
            bar.update()
    return made


def row(shape, own):
    """One line of the table; microseconds are of the median run."""
    each = [1e6 * run["whole"] / run["tokens"] for run in own["runs"]]
    attention = own["kinds"]["attention"] * np.median(each)
    tokens, seconds = (
        np.median([run["tokens"] for run in own["runs"]]),
        np.median([run["whole"] for run in own["runs"]]),
    )
    without = np.median(each) - attention
    spread = f"{np.median(each):.0f} ({min(each):.0f}-{max(each):.0f})"
    shares = [f"{100 * own['kinds'][kind]:.0f}" for kind in KINDS]
    return [
        *shape,
        f"{tokens:.0f}",
        f"{seconds:.2f}",
        spread,
        f"{attention:.0f}",
        f"{without:.0f}",
        *shares,
    ]


def main(argv=None):
    args = config.parse(Config, argv, prog="python -m minirlhf.scaling")
    device = compute.pick_device(args.device)
    usual = WORKLOADS[args.workload]
    shapes = [(rollouts, usual.new_tokens) for rollouts in numbers("--rollouts", args.rollouts)]
    shapes += [
        (usual.prompts, new_tokens) for new_tokens in numbers("--new-tokens", args.new_tokens)
    ]
    if not shapes:
        raise InputError("--rollouts and --new-tokens are both empty: nothing to measure")
    if args.workload == "gpt2" and device.type == "cpu":
        raise InputError("--workload gpt2 takes hours without a GPU; choose small")
    for shape in shapes:
        workload(args.workload, *shape)  # refuses what is too short
    checkpoint.writable("--json", args.json)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    made = measure(args, device, list(dict.fromkeys(shapes)))
    header = ["responses", "up to", "real tokens", "s", "us a token", "attention", "without it"]
    print(
        "\n".join(
            [
                "",
                *table(
                    [*header, *(f"% {kind}" for kind in KINDS)],
                    [row(*item) for item in made.items()],
                ),
            ]
        )
    )
    rows = [{"rollouts": shape[0], "new_tokens": shape[1], **own} for shape, own in made.items()]
    write_record(args, device, started, shapes=rows)
    print(
        f"\nus: microseconds of an iteration per token of prompts and responses, median (least-most). All is in {args.json}"
    )


if __name__ == "__main__":
    config.run(main)
