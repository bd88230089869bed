"""The results of several runs as the README shows them: a table with intervals over seeds, and two figures.

make results                              trains everything that this reads, then calls it
python -m minirlhf.results --out RESULTS  reads RESULTS/1, /2, /3 (report.json) and RESULTS/kl-0.05, ... (PPO of seed 1)

Writes RESULTS/results.md, RESULTS/learning.png and RESULTS/overoptimisation.png.
"""

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from minirlhf import evaluate, reward
from minirlhf.run import checkpoint, config
from minirlhf.run.config import InputError, flag, rng
from minirlhf.tools import report
from minirlhf.world import measures, writers

COLUMNS = ("helpful", "honest", "harmless", "facts", "total", "right", "beats_sft", "kl", "length")
ROWS = ("base", "SFT", "best of 4", "best of 16", "DPO", "PPO", "PPO on the judge")
BEST_OF = (1, 2, 4, 8, 16, 32, 64)
# Student's t, two-sided 95%, by number of seeds
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


@dataclass(frozen=True)
class Config:
    """The table and the figures of several seeds."""

    out: str = flag("out/results", "folder with one run for each seed")
    prompts: int = flag(512, "held-out prompts of the best-of-n curve", low=2)
    max_new_tokens: int = flag(32, "the most tokens a response may have", low=1)


# ---- the table


def load_reports(out):
    """{seed: report}, of every folder with a number for a name."""
    paths = sorted(path for path in Path(out).glob("*/report.json") if path.parent.name.isdigit())
    if not paths:
        raise InputError(f"{out} holds no run with a report.json; make results trains them")
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def spread(values):
    """(mean, half the 95% interval over seeds by Student's t)"""
    values = np.array(values, dtype=float)
    return float(values.mean()), float(
        T95[len(values)] * values.std(ddof=1) / math.sqrt(len(values))
    )


def shown(values, digits=2):
    """Mean and interval; the values themselves where there are only one or two, of which an interval says nothing."""
    if len(values) < 3:
        return ", ".join(f"{value:.{digits}f}" for value in values)
    return "{:.{d}f} ± {:.{d}f}".format(*spread(values), d=digits)


def markdown(reports):
    """The table of policies, then what is asked of the runs, seed by seed."""
    lines = [
        "| | " + " | ".join(column.replace("_", " ") for column in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for name in ROWS:
        rows = [found["rows"][name] for found in reports.values() if name in found["rows"]]
        if rows:
            cells = [shown([row[c] for row in rows], 1 if c == "length" else 2) for c in COLUMNS]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| seed | " + " | ".join(reports) + " |", "|---" * (len(reports) + 1) + "|"]
    columns = [claims(found) for found in reports.values()]
    lines += [
        f"| {name} | " + " | ".join(column[name] for column in columns) + " |"
        for name in columns[0]
    ]
    return "\n".join(lines) + "\n"


def claims(measured):
    """{claim: what a run measured}, as text."""
    found = {
        f"PPO - SFT, {name}": f"{mean:+.2f} ± {half:.2f}"
        for name, (mean, half) in measured["gains"].items()
    }
    rate, half = measured["win_rate"]
    found["PPO beats SFT (a faultless policy)"] = (
        f"{rate:.3f} ± {half:.3f} ({measured['best_win_rate']:.3f})"
    )
    found |= {
        f"of the way to PPO on the judge, {name}": f"{share:.2f}"
        for name, share in measured["of_the_way"].items()
    }
    told = measured["reward_model"]
    possible = told["best_possible_accuracy"] - 0.5
    above_chance = (told["expected_accuracy"] - 0.5) / possible if possible else math.nan
    found["reward model: accuracy above chance, of the best possible"] = f"{above_chance:.3f}"
    names = [name for name in told if name.startswith(("agreement", "calibration", "labellers"))]
    found |= {"reward model: " + name.replace("_", " "): f"{told[name]:.3f}" for name in names}
    return found | {"held-out pairs": f"{told['held_out_pairs']:.0f}"}


# ---- the figures


def best_of_n_curve(args, run):
    """[(KL, reward model's score, judged total)] of best-of-n, all from the same samples."""
    sft, tokenizer = checkpoint.load_gpt(f"{run}/sft")
    reward_model, _, _ = reward.load_reward_model(f"{run}/rm")
    prompts = writers.prompts(args.prompts, rng(int(run.name), config.HELD_OUT_PROMPTS), "test")
    score = partial(evaluate.score_replies, reward_model)
    replies, scores = evaluate.candidates(
        sft, tokenizer, score, prompts, max(BEST_OF), args.max_new_tokens, seed=int(run.name)
    )
    points = []
    for n in BEST_OF:
        best = evaluate.best(replies, scores, n)
        total = np.mean([judgement.total for judgement in measures.judgements(prompts, best)])
        points.append((evaluate.best_of_n_kl(n), float(score(prompts, best).mean()), float(total)))
    return np.array(points)


def draw_overoptimisation(args, runs, pyplot):
    """What the reward model says (left) and what is true (right), against how far the policy has gone."""
    best = best_of_n_curve(args, Path(args.out) / "1")
    figure, both = pyplot.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
    sides = ("eval_score", "reward model's score"), ("eval_total", "judge's total, of 3")
    colors = pyplot.cm.viridis(np.linspace(0, 0.85, len(runs)))
    for column, (axes, (measure, title)) in enumerate(zip(both, sides, strict=True), start=1):
        for (name, records), color in zip(
            runs.items(), colors, strict=True
        ):  # every run starts at the SFT model, best of 1
            kls, values = (
                [0, *(r["eval_kl"] for r in records)],
                [best[0, column], *(r[measure] for r in records)],
            )
            axes.plot(kls, values, marker=".", color=color, label=f"PPO, kl_coef {name}")
        axes.plot(
            best[:, 0],
            best[:, column],
            color="black",
            linestyle="--",
            marker="x",
            label="best of 1 ... 64",
        )
        axes.set(xlabel="KL from SFT, nats a response", title=title)
        axes.spines[["top", "right"]].set_visible(False)
    both[0].legend(frameon=False, fontsize=8)
    figure.savefig(f"{args.out}/overoptimisation.png", dpi=120)


def fall(records):
    """How judged total and reward model's score moved from the judged peak to the end, and the 95% interval of the former."""
    peak, end = max(records, key=lambda r: r["eval_total"]), records[-1]
    half = math.hypot(peak["eval_total_half"], end["eval_total_half"])
    return end["eval_total"] - peak["eval_total"], half, end["eval_score"] - peak["eval_score"]


def main(argv=None):
    args = config.parse(Config, argv, prog="python -m minirlhf.results")
    reports = load_reports(args.out)
    text = markdown(reports)
    paths = sorted(Path(args.out).glob("kl-*/ppo"), key=lambda path: float(path.parent.name[3:]))
    runs = {path.parent.name[3:]: report.evaluations(path) for path in paths}
    for name, records in runs.items():
        total, half, score = fall(records)
        text += f"\nkl_coef {name}: from its judged peak to its end, total {total:+.2f} ± {half:.2f}, score {score:+.2f}, "
        text += f"KL {records[-1]['eval_kl']:.1f}\n"
    print(text)
    checkpoint.write_text(f"{args.out}/results.md", text)
    pyplot = report.load_pyplot()
    if pyplot is None:
        raise InputError("the figures need matplotlib: pip install -e '.[plot]'")
    report.draw_learning(
        pyplot, [f"{args.out}/{seed}/ppo" for seed in reports], f"{args.out}/learning.png"
    )
    if runs:
        draw_overoptimisation(args, runs, pyplot)


if __name__ == "__main__":
    config.run(main)
