"""The results of several runs: a table with intervals over seeds, and two figures.

    make results                        trains everything that this reads, then calls it
    minirlhf results --out RESULTS      reads the report.json of RESULTS/1, /2, /3 (a seed each) and
                                        RESULTS/kl-0.05, ... (PPO of seed 1, other KL coefficients)

Writes RESULTS/results.md, RESULTS/learning.png and RESULTS/overoptimisation.png.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minirlhf import evaluate, reward
from minirlhf.run import checkpoint, config
from minirlhf.run.config import InputError, flag, rng
from minirlhf.run.files import write_text
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
    """{seed: report}, of every folder with a number for a name. An InputError if there is none."""
    paths = sorted(path for path in Path(out).glob("*/report.json") if path.parent.name.isdigit())
    if not paths:
        raise InputError(f"{out} holds no run with a report.json; make results trains them")
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def seed_interval(values):
    """(mean, half the width of its 95% interval over seeds, by Student's t)"""
    values = np.array(values, dtype=float)
    error = values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean()), float(T95[len(values)] * error)


def cell(values, digits=2):
    """Mean and interval; one or two values as they are, because their interval says nothing."""
    if len(values) < 3:
        return ", ".join(f"{value:.{digits}f}" for value in values)
    return "{:.{d}f} ± {:.{d}f}".format(*seed_interval(values), d=digits)


def markdown_row(cells):
    return "| " + " | ".join(cells) + " |"


def markdown(reports):
    """The table of policies, then what each run measured, seed by seed."""
    names = [column.replace("_", " ") for column in COLUMNS]
    lines = ["| " + markdown_row(names), "|---" * (len(names) + 1) + "|"]
    for name in ROWS:
        rows = [run["rows"][name] for run in reports.values() if name in run["rows"]]
        if rows:
            cells = [cell([row[c] for row in rows], 1 if c == "length" else 2) for c in COLUMNS]
            lines.append(markdown_row([name, *cells]))
    lines += ["", markdown_row(["seed", *reports]), "|---" * (len(reports) + 1) + "|"]
    columns = [claims(run) for run in reports.values()]
    lines += [markdown_row([name, *(column[name] for column in columns)]) for name in columns[0]]
    return "\n".join(lines) + "\n"


def claims(run):
    """{claim: what a run measured}, as text. `run` is its report."""
    lines = {}
    for name, (mean, half_width) in run["gains"].items():
        lines[f"PPO - SFT, {name}"] = f"{mean:+.2f} ± {half_width:.2f}"
    rate, half_width = run["win_rate"]
    best = run["best_win_rate"]
    lines["PPO beats SFT (a faultless policy)"] = f"{rate:.3f} ± {half_width:.3f} ({best:.3f})"
    for name, share in run["of_the_way"].items():
        lines[f"of the way to PPO on the judge, {name}"] = f"{share:.2f}"
    numbers = run["reward_model"]
    best = numbers["best_possible_accuracy"] - 0.5
    share = (numbers["expected_accuracy"] - 0.5) / best if best else math.nan
    lines["reward model: accuracy above chance, of the best possible"] = f"{share:.3f}"
    for name in numbers:
        if name.startswith(("agreement", "calibration", "labellers")):
            lines["reward model: " + name.replace("_", " ")] = f"{numbers[name]:.3f}"
    return lines | {"held-out pairs": f"{numbers['held_out_pairs']:.0f}"}


# ---- the figures


def best_of_n_curve(args, run):  # -> (len(BEST_OF), 3)
    """KL in nats, reward model's score and judge's total of best-of-n for every n of BEST_OF, all
    from the same samples. `run` is the path of a seed's folder."""
    seed = int(run.name)
    sft, tokenizer = checkpoint.load_gpt(f"{run}/sft")
    reward_model, _, missing_end_score = reward.load_reward_model(f"{run}/rm")
    prompts = writers.prompts(args.prompts, rng(seed, config.HELD_OUT_PROMPTS), "test")
    score = evaluate.model_scores(reward_model, missing_end_score)
    limits = max(BEST_OF), args.max_new_tokens, seed
    replies, scores = evaluate.candidates(sft, tokenizer, score, prompts, *limits)
    points = []
    for n in BEST_OF:
        best = evaluate.best(replies, scores, n)
        total = np.mean([judgement.total for judgement in measures.judgements(prompts, best)])
        points.append((evaluate.best_of_n_kl(n), float(score(prompts, best).mean()), float(total)))
    return np.array(points)


def draw_overoptimisation(args, runs, pyplot):
    """The reward model's score (left) and the judge's total (right) against the KL from SFT: one
    curve for each {KL coefficient: evaluations} of `runs`, one for best-of-n."""
    best = best_of_n_curve(args, Path(args.out) / "1")
    figure, sides = pyplot.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
    names = ("eval_score", "reward model's score"), ("eval_total", "judge's total, of 3")
    colors = pyplot.cm.viridis(np.linspace(0, 0.85, len(runs)))
    for column, (side, (name, title)) in enumerate(zip(sides, names, strict=True), start=1):
        for (kl_coef, records), color in zip(runs.items(), colors, strict=True):
            # Every run starts at the SFT model, which is best of 1.
            kls = [0, *(record["eval_kl"] for record in records)]
            values = [best[0, column], *(record[name] for record in records)]
            side.plot(kls, values, marker=".", color=color, label=f"PPO, kl_coef {kl_coef}")
        style = {"color": "black", "linestyle": "--", "marker": "x", "label": "best of 1 ... 64"}
        side.plot(best[:, 0], best[:, column], **style)
        side.set(xlabel="KL from SFT, nats per response", title=title)
        side.spines[["top", "right"]].set_visible(False)
    sides[0].legend(frameon=False, fontsize=8)
    figure.savefig(f"{args.out}/overoptimisation.png", dpi=120)


def fall(records):
    """(change of the judge's total, half its 95% interval, change of the reward model's score) from
    the evaluation with the highest total to the last."""
    peak, end = max(records, key=lambda r: r["eval_total"]), records[-1]
    half_width = math.hypot(peak["eval_total_half"], end["eval_total_half"])
    total, score = (end[name] - peak[name] for name in ("eval_total", "eval_score"))
    return total, half_width, score


def load_runs(out):
    """{KL coefficient: evaluations} of the PPO runs in OUT/kl-..., in the order of the
    coefficients."""
    paths = sorted(Path(out).glob("kl-*/ppo"), key=lambda path: float(path.parent.name[3:]))
    return {path.parent.name[3:]: report.evaluations(path) for path in paths}


def main(argv=None):
    args = config.parse(Config, argv)
    reports, runs = load_reports(args.out), load_runs(args.out)
    text = markdown(reports)
    for name, records in runs.items():
        total, half_width, score = fall(records)
        text += f"\nkl_coef {name}: from its judged peak to its end, "
        text += f"total {total:+.2f} ± {half_width:.2f}, score {score:+.2f}, "
        text += f"KL {records[-1]['eval_kl']:.1f}\n"
    print(text)
    write_text(f"{args.out}/results.md", text)
    pyplot = report.load_pyplot()
    if pyplot is None:
        raise InputError("the figures need matplotlib: pip install -e '.[plot]'")
    folders = [f"{args.out}/{seed}/ppo" for seed in reports]
    report.draw_learning(pyplot, folders, f"{args.out}/learning.png")
    if runs:
        draw_overoptimisation(args, runs, pyplot)


if __name__ == "__main__":
    config.run(main)
