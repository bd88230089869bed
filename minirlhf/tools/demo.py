"""The demonstration: every stage on the embedded world, from nothing to one table.

python -m minirlhf.demo                 what `make demo` runs; everything is in out/demo afterwards
"""

import time
from dataclasses import dataclass

from minirlhf.bench.workload import script
from minirlhf.run import config
from minirlhf.run.config import flag
from minirlhf.tools import report

STEPS = (  # share of the time, in percent of the whole; what it does; the script and its flags
    (38, "learn language from text of mixed quality, then imitate demonstrations", "train_sft", ""),
    (
        23,
        "sample responses, have labellers rank them, train a reward model on the rankings",
        "train_rm",
        "",
    ),
    (19, "PPO against the reward model", "train_ppo", ""),
    (
        16,
        "PPO against the judge itself: what a perfect reward model would give",
        "train_ppo",
        "judge",
    ),
    (4, "compare them all", "report", ""),
)
JUDGE = "--reward minirlhf.world.judge:total --missing-end-score -1 --eval-every 40"


@dataclass(frozen=True)
class Config:
    """SFT, reward model, PPO, PPO on the judge, and the table that compares them, one after another."""

    out: str = flag("out/demo", "folder of all stages; runs that are already there are replaced")
    seed: int = flag(1, "seed of everything random", low=0)


def flags(args, name, on):
    """The command line of a step."""
    shared = ["--out", args.out, "--seed", str(args.seed)]
    if name == "report":
        return shared
    if on == "judge":
        shared[1] = f"{args.out}/on-judge"
        return [*shared, "--sft", f"{args.out}/sft", *JUDGE.split(), "--overwrite"]
    return [*shared, "--overwrite"]


def minutes(seconds):
    """ "3:07" """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def main(argv=None):
    args = config.parse(Config, argv, prog="python -m minirlhf.demo")
    start, done = time.perf_counter(), 0
    for number, (share, title, name, on) in enumerate(STEPS, start=1):
        spent = time.perf_counter() - start
        left = f", about {minutes(spent / done * (100 - done))} to go" if done else ""
        print(
            f"\n--- step {number} of {len(STEPS)}, {minutes(spent)} so far{left}: {title}",
            flush=True,
        )
        run = report.main if name == "report" else script(name).main
        run(flags(args, name, on))
        done += share
    print(
        f"\nthe demonstration took {minutes(time.perf_counter() - start)}; everything is in {args.out}"
    )


if __name__ == "__main__":
    config.run(main)
