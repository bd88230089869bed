"""The results of several runs: tables with intervals over seeds, and two figures.

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
from minirlhf.tools import figures
from minirlhf.tools.tables import COSTS, QUALITY, ordered
from minirlhf.world import measures, writers
from minirlhf.world.judge import VERDICTS

# A table of policies each; "distinct" and "length" are no shares, and need fewer digits.
TABLES = {
    "What it wins": (*QUALITY, "beats_sft", "score"),
    "What it costs": (*COSTS, "off", "invented"),
}
DIGITS = {"distinct": 0, "length": 1}
BEST_OF = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Config:
    """The tables and the figures of several seeds."""

    out: str = flag("out/results", "folder with one run for each seed")
    prompts: int = flag(512, "validation prompts of the best-of-n curve", low=2)
    max_new_tokens: int = flag(32, "the most tokens a response may have", low=1)


PARTS = ("prompts", "rows", "gains", "groups", "reward_model")  # of a report of all stages

# ---- the tables


def load_reports(out):
    """{seed: report}, of every folder with a number for a name. InputError if there is none, or if
    one is damaged."""
    paths = [path for path in Path(out).glob("*/report.json") if path.parent.name.isdigit()]
    if not paths:
        raise InputError(f"{out} holds no run with a report.json; make results trains them")
    paths.sort(key=lambda path: int(path.parent.name))
    return {path.parent.name: load_report(path) for path in paths}


def load_report(path):
    """What `minirlhf report` has written of a run of all stages."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        whole = all(report[name] for name in PARTS)
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        remedy = f"minirlhf report --out {path.parent} writes it again"
        raise InputError(f"{path} is damaged, or its run has no PPO or no reward model; {remedy}")
    return report


def cell(values, digits=2):
    """Mean and 95% interval over seeds; one or two values as they are, because their interval says
    nothing. Seeds where the value is missing are left out."""
    values = [value for value in values if value is not None]
    if len(values) < 3:
        return ", ".join(f"{value:.{digits}f}" for value in values) or "-"
    return "{:.{d}f} ± {:.{d}f}".format(*evaluate.interval(values), d=digits)


def markdown_table(title, header, rows):
    """The lines of a table with its heading and an empty line behind. A row is a list of texts."""
    lines = ["| " + " | ".join(row) + " |" for row in [["", *header], *rows]]
    return [f"## {title}", "", lines[0], "|---" * (len(header) + 1) + "|", *lines[1:], ""]


def policy_table(title, columns, reports):
    """Policies by columns of report["rows"]."""
    runs = [run["rows"] for run in reports.values()]
    names = ordered({name: None for rows in runs for name in rows})
    rows = [
        [
            name,
            *(cell([run.get(name, {}).get(c) for run in runs], DIGITS.get(c, 2)) for c in columns),
        ]
        for name in names
    ]
    return markdown_table(title, [column.replace("_", " ") for column in columns], rows)


def kind_table(title, columns, names, reports):
    """Kinds of prompt by columns: `columns` are pairs of a policy and a number in
    report["groups"][policy][kind], `names` what they are called."""
    runs = [run["groups"] for run in reports.values()]
    rows = [
        [kind, *(cell([run.get(p, {}).get(kind, {}).get(n) for run in runs]) for p, n in columns)]
        for kind in measures.GROUPS
    ]
    return markdown_table(title, names, rows)


def markdown(reports):
    """The tables of policies, those by kind of prompt, then what each run measured, seed by
    seed."""
    lines = []
    for title, columns in TABLES.items():
        lines += policy_table(title, columns, reports)
    policies = list(ordered({name: None for run in reports.values() for name in run["groups"]}))
    totals = [(policy, "total") for policy in policies]
    lines += kind_table("Total by kind of prompt", totals, policies, reports)
    for policy in ("SFT", "PPO"):
        title = f"{policy}: share of each verdict by kind of prompt"
        columns = [(policy, verdict) for verdict in VERDICTS]
        lines += kind_table(title, columns, VERDICTS, reports)
    lines += claim_table({seed: claims(run) for seed, run in reports.items()})
    return "\n".join(lines)


def claim_table(columns):  # {seed: {claim: text}}
    """Every claim that a seed has made, and "-" for the seeds that have not."""
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = [[name, *(column.get(name, "-") for column in columns.values())] for name in names]
    return markdown_table("Every seed", [f"seed {s}" for s in columns], rows)


def claims(run):
    """{claim: what a run measured}, as text. `run` is its report."""
    lines = {}
    for name, gains in run["gains"].items():
        for measure in (*QUALITY, *(COSTS[:4] if name == "SFT" else ())):
            if None not in gains[measure]:
                mean, half_width = gains[measure]
                lines[f"PPO - {name}, {measure}"] = f"{mean:+.2f} ± {half_width:.2f}"
    rate, half_width = run["win_rate"]
    best = run["rows"]["faultless"]["beats_sft"]
    lines["PPO beats SFT (a faultless policy)"] = f"{rate:.3f} ± {half_width:.3f} ({best:.3f})"
    for name, share in run.get("of_the_way", {}).items():
        text = "-" if share is None else f"{share:.2f}"
        lines[f"of the way to PPO on the judge, {name}"] = text
    numbers = run["reward_model"]
    best = numbers["best_possible_accuracy"] - 0.5
    share = (numbers["expected_accuracy"] - 0.5) / best if best else math.nan
    lines["reward model: accuracy above chance, of the best possible"] = f"{share:.3f}"
    for name in numbers:
        if name.startswith(("agreement", "calibration", "labellers", "tied")):
            lines["reward model: " + name.replace("_", " ")] = f"{numbers[name]:.3f}"
    return lines | {"held-out pairs": f"{numbers['held_out_pairs']:.0f}"}


# ---- the figure of over-optimisation


def best_of_n_curve(args, run):  # -> (len(BEST_OF), 3)
    """KL in nats, reward model's score and judge's total of best-of-n for every n of BEST_OF, all
    from the same samples, on the prompts that PPO was evaluated on. `run` is the path of a seed's
    folder."""
    seed = int(run.name)
    sft, tokenizer = checkpoint.load_gpt(f"{run}/sft")
    reward_model, _, missing_end_score = reward.load_reward_model(f"{run}/rm")
    prompts = writers.prompts(args.prompts, rng(seed, config.HELD_OUT_PROMPTS), "validation")
    score = evaluate.model_scores(reward_model, missing_end_score)
    limits = max(BEST_OF), args.max_new_tokens, seed
    replies, scores = evaluate.candidates(sft, tokenizer, score, prompts, *limits)
    points = []
    for n in BEST_OF:
        best = evaluate.best(replies, scores, n)
        total = np.mean([judgement.total for judgement in measures.judgements(prompts, best)])
        points.append((evaluate.best_of_n_kl(n), float(score(prompts, best).mean()), float(total)))
    return np.array(points)


def fall(records):
    """(change of the judge's total, half its 95% interval, change of the reward model's score) from
    the evaluation with the highest total to the last."""
    peak, end = max(records, key=lambda r: r["eval_total"]), records[-1]
    half_width = math.hypot(peak["eval_total_half"], end["eval_total_half"])
    total, score = (end[name] - peak[name] for name in ("eval_total", "eval_score"))
    return total, half_width, score


def coefficient_table(runs):  # {KL coefficient: evaluations}
    """What a KL coefficient wins and costs at the end of training, and how far that is from the
    evaluation with the highest total. Empty without runs."""
    header = "total", "since its peak", "score", "since then", "KL", "distinct", "sampled entropy"
    rows = []
    for name, records in runs.items():
        (total, half_width, score), end = fall(records), records[-1]
        row = [name, f"{end['eval_total']:.2f} ± {end['eval_total_half']:.2f}"]
        row += [f"{total:+.2f} ± {half_width:.2f}", f"{end['eval_score']:.2f}", f"{score:+.2f}"]
        row += [f"{end['eval_kl']:.1f}", f"{end['eval_distinct']:.0f}"]
        rows.append([*row, f"{end['sampled_entropy']:.2f}"])
    return markdown_table("PPO of seed 1 by KL coefficient", header, rows) if rows else []


def load_runs(out):
    """{KL coefficient: evaluations} of the PPO runs in OUT/kl-..., in the order of the
    coefficients."""
    paths = sorted(Path(out).glob("kl-*/ppo"), key=lambda path: float(path.parent.name[3:]))
    return {path.parent.name[3:]: figures.evaluations(path) for path in paths}


# ---- the command


def main(argv=None):
    args = config.parse(Config, argv)
    reports, runs = load_reports(args.out), load_runs(args.out)
    text = markdown(reports) + "\n".join(coefficient_table(runs))
    print(text)
    write_text(f"{args.out}/results.md", text)
    pyplot = figures.load_pyplot()
    if pyplot is None:
        raise InputError("the figures need matplotlib: pip install -e '.[plot]'")
    folders = [f"{args.out}/{seed}/ppo" for seed in reports]
    figures.draw_learning(pyplot, folders, f"{args.out}/learning.png")
    if runs:
        best = best_of_n_curve(args, Path(args.out) / "1")
        figures.draw_overoptimisation(pyplot, runs, best, f"{args.out}/overoptimisation.png")


if __name__ == "__main__":
    config.run(main)
