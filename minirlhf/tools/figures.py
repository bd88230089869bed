"""The figures of `minirlhf report` and `minirlhf results`, one panel a quantity."""

from pathlib import Path

import numpy as np

from minirlhf import evaluate
from minirlhf.run.metrics import read_metrics

PANELS = {  # metric -> (title, unit, limits of the axis)
    "score": ("reward model's score", "standard deviations", None),
    "total": ("judge's total", "of 3", (0, 3)),
    "flawless": ("flawless", "share of responses", (0, 1)),
    "kl": ("KL from SFT", "nats per response", None),
    "helpful": ("helpful", "mean of the judge's axis", (0, 1)),
    "honest": ("honest", "mean of the judge's axis", (0, 1)),
    "harmless": ("harmless", "mean of the judge's axis", (0, 1)),
    "declined": ("declined", "share of answerable prompts", (0, 1)),
}


def load_pyplot():
    """matplotlib's pyplot, drawing into files; None where it is not installed."""
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot
    except ImportError:
        return None
    return pyplot


def save(pyplot, figure, path):
    """Write a figure to a file, whose folder may be new, and forget it: pyplot keeps all figures
    that are not closed."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def evaluations(folder):
    """The lines of a PPO run's metrics.jsonl with an evaluation by the judge."""
    return [record for record in read_metrics(folder) if "sft_total" in record]


def curve(records, name):  # -> (E+1,) numpy
    """A metric at update 0, which is the SFT model, and at every evaluation; NaN where it is
    null."""
    values = [records[0]["sft_" + name], *(record["eval_" + name] for record in records)]
    return np.array(values, dtype=float)


def draw_learning(pyplot, folders, path):
    """Learning curves of PPO runs against updates: from three runs on their mean, with its 95%
    interval over runs, and each run thinly."""
    runs = [records for folder in folders if (records := evaluations(folder))]
    figure, sides = pyplot.subplots(2, 4, figsize=(13, 5.6), layout="constrained", sharex=True)
    for side, (name, (title, unit, limits)) in zip(sides.flat, PANELS.items(), strict=True):
        for records in runs:
            updates = [0, *(record["step"] + 1 for record in records)]
            width = 0.6 if len(runs) > 2 else 1.8
            side.plot(updates, curve(records, name), color="tab:blue", linewidth=width)
        if len(runs) > 2:
            draw_band(side, runs, name)
        side.set(title=title, ylabel=unit, ylim=limits)
        side.spines[["top", "right"]].set_visible(False)
        side.grid(alpha=0.25)
    for side in sides[1]:
        side.set_xlabel("PPO updates")
    save(pyplot, figure, path)


def draw_band(side, runs, name):
    """The mean of runs and its interval, at the updates that all of them evaluated."""
    shared = set.intersection(*({record["step"] for record in records} for records in runs))
    runs = [[record for record in records if record["step"] in shared] for records in runs]
    columns = np.array([curve(records, name) for records in runs]).T
    means, half_widths = np.array([evaluate.interval(column) for column in columns]).T
    updates = [0, *(record["step"] + 1 for record in runs[0])]
    side.plot(updates, means, color="tab:blue", linewidth=2)
    side.fill_between(updates, means - half_widths, means + half_widths, alpha=0.18, linewidth=0)


def draw_overoptimisation(pyplot, runs, best, path):
    """The reward model's score and the judge's total against the KL from SFT: one curve for each
    {KL coefficient: evaluations} of `runs`, and one for `best` (n, 3) of best-of-n, whose columns
    are KL, score and total. Bars are 95% intervals over prompts, at the end of a curve."""
    figure, sides = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    colors = pyplot.cm.viridis(np.linspace(0, 0.85, len(runs)))
    for column, (side, name) in enumerate(zip(sides, ("score", "total"), strict=True), start=1):
        for (kl_coef, records), color in zip(runs.items(), colors, strict=True):
            kls, values = curve(records, "kl"), curve(records, name)
            side.plot(kls, values, marker=".", color=color, label=f"PPO, kl_coef {kl_coef}")
            half_width = records[-1][f"eval_{name}_half"]
            side.errorbar(kls[-1], values[-1], half_width, color=color, capsize=3)
        style = {"color": "black", "linestyle": "--", "marker": "x", "label": "best of 1 ... 64"}
        side.plot(best[:, 0], best[:, column], **style)
        title, unit, _ = PANELS[name]
        side.set(xlabel="KL from SFT, nats per response", title=title, ylabel=unit)
        side.spines[["top", "right"]].set_visible(False)
        side.grid(alpha=0.25)
    sides[0].legend(frameon=False, fontsize=8)
    save(pyplot, figure, path)
