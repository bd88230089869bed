"""What a page shows of the stages of a run: which metrics share a chart, their units, and the
healthy range of each. docs/metrics.md has the reasons of the ranges."""

from minirlhf.run.health import CUT_OFF
from minirlhf.tools.charts import Chart, Line


def fixed(low, high):
    """A healthy range that is the same for every run."""
    return lambda records: (low, high)


def kl_range(records):
    """As health.runaway_kl."""
    length = mean(records[-5:], "length")
    return 0, max(10, (length or 0) / 2)


def entropy_range(records):
    """As health.collapsed_entropy: not below a tenth of the first one."""
    first = records[0].get("entropy")
    return None if first is None else first / 10, None


def loss_range(records):
    """As health.growing_loss."""
    first = records[0].get("loss")
    return None, 1.5 * max(first or 0, 0.7)


def mean(records, name):
    values = [record[name] for record in records if record.get(name) is not None]
    return sum(values) / len(values) if values else None


HEALTHY = {  # metric -> its healthy range (least, largest) in a run with these records
    "kl": kl_range,
    "entropy": entropy_range,
    "ended": fixed(1 - CUT_OFF, 1),
    "approx_kl": fixed(0, 0.1),
    "clip_fraction": fixed(0, 0.3),
    "ratio_mean": fixed(0.9, 1.1),
    "explained_variance": fixed(-0.5, 1),
    "advantage_std": fixed(1e-4, None),
    "weight_rms": fixed(0, 1),
    "loss": loss_range,
}

SCORE = "standard deviations, or the unit of --reward"

# The first metric gives a chart its healthy range. A metric eval_NAME begins with sft_NAME.
PPO = [
    ("score", SCORE, ("score", "eval_score")),
    ("KL from the reference", "nats per response", ("kl", "eval_kl")),
    ("length", "tokens per response", ("length", "length_min", "length_max", "eval_length")),
    ("responses with an end", "share", ("ended", "eval_ended")),
    ("entropy", "nats per token", ("entropy",)),
    ("step in policy", "nats per token", ("approx_kl",)),
    ("stopped by the clip", "share of tokens", ("clip_fraction",)),
    ("ratio", "mean over tokens", ("ratio_mean",)),
    ("explained variance", "share", ("explained_variance",)),
    ("values and returns", "score", ("value_mean", "return_mean")),
    ("advantages", "standard deviation, score", ("advantage_std",)),
    ("value loss", "score squared, per token", ("value_loss",)),
    ("gradient norm", "before clipping", ("grad_norm",)),
    ("weights", "root mean square", ("weight_rms",)),
    ("learning rate", "per optimiser step", ("lr",)),
    ("the judge's total", "of 3", ("eval_total",)),
    ("the judge's axes", "of 1", ("eval_helpful", "eval_honest", "eval_harmless")),
    ("different responses", "number", ("eval_distinct",)),
]
LEARNING = [
    ("loss", "nats", ("loss", "held_out_loss")),
    ("accuracy", "share of the batch's pairs", ("accuracy",)),
    ("implicit rewards", "nats", ("chosen_reward", "rejected_reward")),
    ("gradient norm", "before clipping", ("grad_norm",)),
    ("weights", "root mean square", ("weight_rms",)),
    ("learning rate", "per optimiser step", ("lr",)),
]
THIN = ("length_min", "length_max")


def curve(records, name):
    """Points (updates, value) of a metric. What was measured on held-out prompts after an update
    begins at 0 with the SFT model; what was measured while an update was made stands at the number
    of updates before it."""
    if not name.startswith("eval_"):
        return [(r["step"], r[name]) for r in records if name in r]
    evaluated = [record for record in records if name in record]
    start = [(0, evaluated[0].get(name.replace("eval_", "sft_", 1)))] if evaluated else []
    return start + [(record["step"] + 1, record[name]) for record in evaluated]


def charts(records):
    """The charts of a run's records, without those whose metrics it lacks."""
    ppo = any("kl_coef" in record for record in records)
    result = []
    for title, unit, names in PPO if ppo else LEARNING:
        lines = [
            Line(label(name, names), points, kind(name, names))
            for name in names
            if (points := curve(records, name))
        ]
        if lines:
            healthy = HEALTHY[names[0]](records) if names[0] in HEALTHY else (None, None)
            result.append(Chart(title, unit, lines, healthy, "updates" if ppo else "steps"))
    return result


def label(name, names):
    """The name of a line in the legend: what distinguishes it from the others of its chart."""
    if len(names) == 1:
        return name
    return "held out" if name == "eval_" + names[0] else name.removeprefix("eval_")


def kind(name, names):
    if name in THIN:
        return "thin"
    if name == f"eval_{names[0]}":
        return "evaluation"
    return ("main", "evaluation", "third")[names.index(name) % 3]


def frontier(records):
    """Score against KL on held-out prompts, from the SFT model on; None without evaluations."""
    kls, scores = curve(records, "eval_kl"), curve(records, "eval_score")
    points = [(kl, score) for (_, kl), (_, score) in zip(kls, scores, strict=True)]
    points = [point for point in points if None not in point]
    if len(points) < 2:
        return None
    lines = [Line("held-out prompts", points, "evaluation")]
    return Chart("score against KL", SCORE, lines, x="KL, nats per response")


def calibration(bins):
    """The reliability diagram of a reward model: see agreement.calibration."""
    points = [(row["confidence"], row["accuracy"]) for row in bins]
    title = f"calibration, {sum(row['pairs'] for row in bins):.0f} held-out pairs"
    lines = [Line("share ordered as people did", points, "evaluation")]
    return Chart(title, "share", lines, x="confidence of the model", diagonal=True)
