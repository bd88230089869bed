"""The demonstration: every stage on the embedded world, from nothing to the tables.

minirlhf demo               what `make demo` runs; everything is in out/demo afterwards
"""

import time
from dataclasses import dataclass
from typing import NamedTuple

import torch

from minirlhf.run import config
from minirlhf.run.config import flag
from minirlhf.tools import report
from minirlhf.tools.script import script


class Step(NamedTuple):
    share: int  # of the whole time, in percent
    title: str
    command: str  # a training script, or "report"


STEPS = (
    Step(44, "learn language from text of mixed quality, then imitate demonstrations", "train_sft"),
    Step(
        28,
        "sample responses, have labellers rank them, train a reward model on the rankings",
        "train_rm",
    ),
    Step(22, "PPO against the reward model", "train_ppo"),
    Step(6, "compare them all", "report"),
)
# Seconds of the whole times the machine's GFLOP/s, roughly: how long it takes before any step has
# been timed.
WORK = 60_000


@dataclass(frozen=True)
class Config:
    """SFT, reward model, PPO, and the tables that compare them, one after another."""

    out: str = flag("out/demo", "folder of all stages; runs that are already there are replaced")
    seed: int = flag(1, "seed of everything random", low=0)


def flags(args, step):
    """The command line of a step, as a list of words."""
    words = ["--out", args.out, "--seed", str(args.seed)]
    return words if step.command == "report" else [*words, "--overwrite"]


def minutes(seconds):
    """ "3:07" """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def gflops(n=2048):
    """The machine's speed: 2 n^3 operations are a product of two float32 matrices (n, n). The
    second one is timed."""
    matrix = torch.ones(n, n)
    for _ in range(2):
        start = time.perf_counter()
        matrix @ matrix
    return 2 * n**3 / (time.perf_counter() - start) / 1e9


def main(argv=None):
    args = config.parse(Config, argv)
    start, done, whole = time.perf_counter(), 0, WORK / gflops()
    for n, step in enumerate(STEPS, start=1):
        elapsed = time.perf_counter() - start
        if done:
            whole = elapsed / done * 100
        heading = f"--- step {n} of {len(STEPS)}, {minutes(elapsed)} so far"
        print(f"\n{heading}, about {minutes(whole - elapsed)} to go: {step.title}", flush=True)
        module = report if step.command == "report" else script(step.command)
        module.main(flags(args, step))
        done += step.share
    elapsed = minutes(time.perf_counter() - start)
    print(f"\nthe demonstration took {elapsed}; everything is in {args.out}")


if __name__ == "__main__":
    config.run(main)
