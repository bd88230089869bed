"""PPO on other rewards, side by side, from one SFT model and one set of comparisons.

    minirlhf rewards                        scores that are harder to exploit, without a KL penalty
    minirlhf rewards --compare credit       credit by token, at PPO's KL coefficient
    minirlhf rewards --only par,worst       some of the rows

It needs OUT/sft and OUT/rm of the demonstration, and writes OUT/rewards: a run of PPO for each row,
and the other reward models of the ensembles, which learn from the comparisons of OUT/rm with other
seeds. A part that is finished is not made again, and one that was interrupted goes on.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minirlhf import reward
from minirlhf.run import chain, checkpoint, config
from minirlhf.run.config import InputError, flag
from minirlhf.run.folder import COMPARISONS
from minirlhf.run.metrics import read_metrics, table
from minirlhf.tools import figures, parts
from minirlhf.tools.script import script

ROWS = {  # the flags of train_ppo.py; a row with --combine learns from all members
    "robust": {
        "one": "",
        "mean": "--combine mean",
        "worst": "--combine worst",
        "mean-std": "--combine mean-std",
        "par": "--par 4",
    },
    "credit": {
        "end": "",
        "uniform": "--credit uniform",
        "attention": "--credit attention",
        "prefix": "--credit prefix",
    },
}
KL_COEF = {"robust": 0.0, "credit": 0.1}
FREE = (*parts.FREE, "compare", "only", "total")  # the runs do not depend on them


@dataclass(frozen=True)
class Config:
    """PPO on other rewards, side by side, with what each wins at equal KL."""

    out: str = flag("out/demo", "folder of all stages; this writes OUT/rewards")
    compare: str = flag(
        "robust",
        "robust: one reward model, several, and PAR, without a KL penalty; credit: which tokens "
        "earn the score",
        choices=tuple(ROWS),
    )
    only: str = flag("", "the rows to make, with commas between [all]")
    members: int = flag(4, "reward models of an ensemble, that of OUT/rm among them", low=2)
    updates: int = flag(96, "updates of each run of PPO", low=1)
    total: float = flag(2.0, "judged total, of 3, which each row is timed to", low=0, high=3)
    held_out: int = flag(512, "validation prompts of the judge", low=2)
    seed: int = flag(1, "seed of everything random", low=0)
    threads: int = flag(0, "CPU threads; 0: one per core", low=0, high=4096)


def main(argv=None):
    args = config.parse(Config, argv)
    names = parts.chosen("--only", args.only or ",".join(ROWS[args.compare]), ROWS[args.compare])
    for stage in ("sft", "rm"):
        if not (Path(args.out) / stage / "checkpoint.pt").exists():
            raise InputError(f"{args.out}/{stage} holds no checkpoint; minirlhf demo makes one")
    chain.refuse_own_data(f"{args.out}/sft")
    combined = any("--combine" in ROWS[args.compare][name] for name in names)
    comparisons = Path(args.out) / "rm" / COMPARISONS
    if combined and not comparisons.exists():
        raise InputError(f"{comparisons} is missing: an ensemble learns from the same comparisons")
    models = {"sft": checkpoint.load_gpt(f"{args.out}/sft")[0]}
    models["rm"] = reward.load_reward_model(f"{args.out}/rm")[0]
    with parts.begin(Path(args.out) / "rewards", args, FREE, **models):
        others = range(2, args.members + 1) if combined else ()
        ensemble = [f"{args.out}/rm", *(train_member(args, n, comparisons) for n in others)]
        for name in names:
            train_row(args, name, ensemble)
    runs = {name: evaluations(f"{args.out}/rewards/{name}/ppo") for name in names}
    print("\n".join(["", *table(*comparison(runs, args.total))]))
    print("\nat equal KL: the total where a row first came to the least of the rows' last KLs")


def evaluations(folder):
    """The lines of a run's metrics. InputError if none of them has an evaluation."""
    lines = read_metrics(folder)
    if not any("eval_total" in line for line in lines):
        problem = f"{folder}/metrics.jsonl holds no evaluation"
        raise InputError(f"{problem}; move {folder} away, and it is made again")
    return lines


# ---- the runs


def train_member(args, n, comparisons):
    """The path of reward model n of the ensemble: the same comparisons in another order, another
    head to start from."""
    out = Path(args.out) / "rewards" / f"member-{n}"
    words = ["--sft", f"{args.out}/sft", "--data", str(comparisons), "--mix-data"]
    words += ["--seed", str(1000 * n + args.seed), "--threads", str(args.threads)]
    if not any("held_out_accuracy" in record for record in read_metrics(out / "rm")):
        print(f"\n--- reward model {n} of {args.members}", flush=True)
        script("train_rm").main(start(out, "rm", words))
    return str(out / "rm")


def train_row(args, name, ensemble):
    """A run of PPO in OUT/rewards/NAME."""
    out, flags = Path(args.out) / "rewards" / name, ROWS[args.compare][name].split()
    words = ["--sft", f"{args.out}/sft", "--kl-coef", str(KL_COEF[args.compare]), *flags]
    words += ["--rm", ",".join(ensemble if "--combine" in flags else ensemble[:1]), "--mix-data"]
    words += ["--updates", str(args.updates), "--held-out", str(args.held_out)]
    words += ["--seed", str(args.seed), "--threads", str(args.threads)]
    if checkpoint.stored_step(out / "ppo", "ppo") < args.updates:
        print(f"\n--- PPO: {name}", flush=True)
        script("train_ppo").main(start(out, "ppo", words))


def start(out, stage, words):
    """The command line of a run that begins, or that goes on where it was interrupted."""
    begun = (out / stage / "checkpoint.pt").exists()
    return ["--out", str(out), *(["--resume"] if begun else [*words, "--overwrite"])]


# ---- the table


def comparison(runs, total):  # {row: the lines of its metrics.jsonl} -> header, rows
    """What each row wins and costs, and what it had won at equal KL."""
    header = ["", f"updates to {total:g}", "total", "half", "KL", "at equal KL", "score"]
    header += ["harmless", "distinct", "disagreement, first", "last"]
    records = {name: [x for x in lines if "eval_total" in x] for name, lines in runs.items()}
    least = min(lines[-1]["eval_kl"] for lines in records.values())
    cells = []
    for name, lines in records.items():
        last, known = lines[-1], [x["disagreement"] for x in runs[name] if "disagreement" in x]
        row = [name, until(lines, total), last["eval_total"], last["eval_total_half"]]
        row += [last["eval_kl"], at_kl(lines, least), last["eval_score"], last["eval_harmless"]]
        row += [f"{last['eval_distinct']:.0f}"]
        cells.append([*row, *([known[0], float(np.mean(known[-10:]))] if known else ["-", "-"])])
    return header, cells


def until(lines, total):
    """The number of updates at the first evaluation with at least this total."""
    return next((str(x["step"] + 1) for x in lines if x["eval_total"] >= total), "-")


def at_kl(lines, kl):
    """The judged total where a run first comes to a KL, on a straight line between two
    evaluations; that of the SFT model is at 0."""
    kls, totals = (figures.curve(lines, name) for name in ("kl", "total"))
    place = int(np.argmax(kls >= kl)) if (kls >= kl).any() else len(kls) - 1
    if not place:
        return float(totals[0])
    part = slice(place - 1, place + 1)
    return float(np.interp(kl, kls[part], totals[part]))


if __name__ == "__main__":
    config.run(main)
