"""The demonstration: every stage on the embedded world, from nothing to one table.

minirlhf demo               what `make demo` runs; everything is in out/demo afterwards
"""

import time
from dataclasses import dataclass
from typing import NamedTuple

from minirlhf.run import config
from minirlhf.run.config import flag
from minirlhf.tools import report
from minirlhf.tools.script import script


class Step(NamedTuple):
    share: int  # of the whole time, in percent
    title: str
    command: str  # a training script, or "report"
    on_judge: bool = False  # train on the judge instead of the reward model


STEPS = (
    Step(38, "learn language from text of mixed quality, then imitate demonstrations", "train_sft"),
    Step(
        23,
        "sample responses, have labellers rank them, train a reward model on the rankings",
        "train_rm",
    ),
    Step(19, "PPO against the reward model", "train_ppo"),
    Step(
        16,
        "PPO against the judge itself: what a perfect reward model would give",
        "train_ppo",
        on_judge=True,
    ),
    Step(4, "compare them all", "report"),
)
JUDGE = "--reward minirlhf.world.judge:total --missing-end-score -1 --eval-every 40"


@dataclass(frozen=True)
class Config:
    """SFT, reward model, PPO, PPO on the judge, and the table that compares them, one after
    another."""

    out: str = flag("out/demo", "folder of all stages; runs that are already there are replaced")
    seed: int = flag(1, "seed of everything random", low=0)


def flags(args, step):
    """The command line of a step, as a list of words."""
    seed = ["--seed", str(args.seed)]
    if step.command == "report":
        return ["--out", args.out, *seed]
    if step.on_judge:
        folders = ["--out", f"{args.out}/on-judge", "--sft", f"{args.out}/sft"]
        return [*folders, *seed, *JUDGE.split(), "--overwrite"]
    return ["--out", args.out, *seed, "--overwrite"]


def minutes(seconds):
    """ "3:07" """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def main(argv=None):
    args = config.parse(Config, argv)
    start, done = time.perf_counter(), 0
    for number, step in enumerate(STEPS, start=1):
        elapsed = time.perf_counter() - start
        rest = f", about {minutes(elapsed / done * (100 - done))} to go" if done else ""
        heading = f"--- step {number} of {len(STEPS)}, {minutes(elapsed)} so far{rest}"
        print(f"\n{heading}: {step.title}", flush=True)
        module = report if step.command == "report" else script(step.command)
        module.main(flags(args, step))
        done += step.share
    elapsed = minutes(time.perf_counter() - start)
    print(f"\nthe demonstration took {elapsed}; everything is in {args.out}")


if __name__ == "__main__":
    config.run(main)
