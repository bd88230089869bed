"""What the doctor looks at: one function a rule, from the records of a run and its flags to the
numbers in the rule's sentence, None where all is well or where metrics are missing.

Many of them compare numbers that are equal by definition, or on average, however well a policy
learns: where they differ, something is computed wrongly.
"""

import math


def values(records, *names):
    """Rows of numbers: those of each record that has all of the metrics."""
    rows = [[record.get(name) for name in names] for record in records]
    return [row for row in rows if None not in row]


def mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers) if numbers else math.nan


def differ(pairs, share):
    """Whether two metrics with one expectation have different means: by more than a share of the
    larger one, and by more than five standard errors of the difference."""
    gaps = [a - b for a, b in pairs]
    if len(gaps) < 8:
        return False
    gap, size = mean(gaps), max(abs(mean(a for a, _ in pairs)), abs(mean(b for _, b in pairs)))
    error = math.sqrt(mean((x - gap) ** 2 for x in gaps) / (len(gaps) - 1))
    return abs(gap) > max(share * size, 5 * error, 1e-6)


def unequal(records, names, difference, tolerance=0.01):
    """Whether a difference that is 0 by definition is not, in most records: relative to the largest
    number in it."""
    rows = values(records, *names)
    gaps = [abs(difference(*row)) > tolerance * max(map(abs, (*row, 1e-3))) for row in rows]
    return len(gaps) > 2 and mean(gaps) > 0.5


# ---- checks: PPO's bookkeeping


def starts_elsewhere(records, flags):
    [*rows] = values(records[:1], "step", "kl", "kl_k3")
    if rows and rows[0][0] == 0 and max(abs(rows[0][1]), abs(rows[0][2])) > 0.02:
        return {"kl": rows[0][1]}


def no_reference(records, flags):
    rows = values(records[2:], "kl", "kl_k3", "approx_kl")
    if len(rows) > 2 and all(abs(a) + abs(b) < 1e-6 for a, b, _ in rows) and rows[0][2] > 1e-9:
        return {}


def kls_differ(records, flags):
    rows = values(records[1:], "kl", "kl_k3")
    if differ(rows, 0.2):
        return {"kl": mean(a for a, _ in rows), "k3": mean(b for _, b in rows)}


def entropies_differ(records, flags):
    rows = values(records, "sampled_entropy", "length", "entropy")
    rows = [(a / length, b) for a, length, b in rows if length]
    if differ(rows, 0.15):
        return {"sampled": mean(a for a, _ in rows), "entropy": mean(b for _, b in rows)}


def ratios_off(records, flags):
    rows = sorted(values(records, "lr", "approx_kl"))
    if len(rows) < 8 or rows[0][0] > rows[-1][0] / 3:
        return None
    usual = sorted(kl for _, kl in rows)[len(rows) // 2]
    if rows[0][1] > max(1e-3, usual / 3):
        return {"kl": rows[0][1], "lr": rows[0][0]}


def ratios_one(records, flags):
    steps = flags.get("epochs", 1) * flags.get("minibatches", 2)
    rows = values(records, "ratio_var", "grad_norm")
    if steps > 1 and len(rows) > 2 and all(a < 1e-10 for a, _ in rows) and rows[0][1] > 1e-6:
        return {}


def small_steps(records, first, second):
    """The median of second / first over updates in which no token's ratio has moved far, so that
    estimators of second and third order agree; NaN with fewer than three."""
    names = "ratio_min", "ratio_max", first, second
    rows = [row for row in values(records, *names) if 0.8 < row[0] <= row[1] < 1.25]
    quotients = sorted(b / a for *_, a, b in rows if a > 1e-9)
    return quotients[len(quotients) // 2] if len(quotients) > 2 else math.nan


def update_kls_differ(records, flags):
    quotient = small_steps(records, "approx_kl", "approx_kl_k3")
    if quotient < 0.75 or quotient > 1.33:
        return {"quotient": quotient}


def ratio_variance_differs(records, flags):
    """Of small steps it is twice the KL in second order."""
    quotient = small_steps(records, "approx_kl", "ratio_var")
    if quotient < 1.5 or quotient > 2.7:
        return {"quotient": quotient}


def shifted_advantages(records, flags):
    rows = values(records, "policy_loss", "approx_kl")
    losses = [loss for loss, kl in rows if kl < 0.02]
    if len(losses) > 4 and max(map(abs, losses)) > 0.05:
        return {"loss": max(losses, key=abs)}


def scores_lost(records, flags):
    rows = values(records[:5], "return_var", "score_std")
    if rows and mean(a for a, _ in rows) < 0.1 * mean(b * b for _, b in rows):
        return {"spread": mean(b for _, b in rows)}


def wrong_objective(records, flags):
    names = "rlhf_reward", "score", "kl_coef", "kl"
    return {} if unequal(records, names, lambda r, s, c, kl: r - s + c * kl) else None


def wrong_returns(records, flags):
    def unexplained(explained, spread, variance):
        return explained * variance - variance + spread**2

    names = "return_mean", "value_mean", "advantage_mean"
    means = unequal(records, names, lambda returns, value, a: returns - value - a)
    names = "explained_variance", "advantage_std", "return_var"
    return {} if means or unequal(records, names, unexplained) else None


def stuck_controller(records, flags):
    target, rows = flags.get("kl_target"), values(records, "kl", "kl_coef")
    if not target or len(rows) < 8:
        return None
    moves = [(a[0] - target) * (b[1] - a[1]) for a, b in zip(rows, rows[1:], strict=False)]
    if mean(move <= 0 for move in moves) > 0.5 and mean(a for a, _ in rows[1:]) > 1.2 * target:
        return {"kl": mean(a for a, _ in rows[-5:]), "target": target, "coef": rows[-1][1]}


# ---- checks: responses and scores


def no_missing_end(records, flags):
    rows = values(records, "ended", "score", "raw_score")
    rows = [(score, raw) for ended, score, raw in rows if ended < 0.999]
    if len(rows) > 2 and all(abs(score - raw) < 1e-6 for score, raw in rows):
        return {}


def paid_for_no_end(records, flags):
    rows = values(records, "ended", "score", "raw_score")
    rows = [score - raw for ended, score, raw in rows if ended < 0.999]
    if len(rows) > 2 and mean(rows) > 1e-3:
        return {"gain": mean(rows)}


def never_ends(records, flags):
    rows = values(records[:5], "ended", "length_min", "length_max")
    if rows and all(ended == 0 and low == high for ended, low, high in rows):
        return {}


def length_moves(records, flags):
    lengths = [length for [length] in values(records, "length")]
    first, last = mean(lengths[:2]), mean(lengths[-5:])
    if len(lengths) >= 10 and not 0.4 * first < last < 1.6 * first:
        return {"first": first, "last": last}


# ---- checks: settings


def unmoved(records, flags):
    """(largest step, mean KL of the last five) if the policy has stayed where it was."""
    rows = values(records, "approx_kl", "kl")
    kl = mean(kl for _, kl in rows[-5:])
    return (max(step for step, _ in rows), kl) if len(rows) >= 15 and abs(kl) < 0.1 else None


def too_slow(records, flags):
    if (found := unmoved(records, flags)) and found[0] < 1e-6:
        return {"lr": max((lr for [lr] in values(records, "lr")), default=math.nan)}


def held_too_hard(records, flags):
    found, coef = unmoved(records, flags), records[-1].get("kl_coef") or 0
    if found and found[0] >= 1e-6 and coef >= 1:
        return {"coef": coef}


def no_penalty(records, flags):
    rows = values(records, "kl_coef")
    return {} if rows and not any(coef for [coef] in rows) else None


def warms_up_for_ever(records, flags):
    steps, warmup = flags.get("updates"), flags.get("warmup")
    if steps and warmup and steps < warmup:
        return {"steps": steps, "warmup": warmup, "share": steps / warmup}


def growing_gradients(records, flags):
    norms = [norm for [norm] in values(records, "grad_norm")]
    if len(norms) >= 15 and mean(norms[-5:]) > 4 * mean(norms[:3]):
        return {"first": mean(norms[:3]), "last": mean(norms[-5:])}


# ---- checks: reward model, SFT, DPO


def no_better_than_chance(records, flags):
    rows = values(records, "held_out_accuracy", "held_out_pairs")
    if rows and rows[-1][0] < 0.5 + 1 / math.sqrt(max(rows[-1][1], 1)):
        return {"accuracy": rows[-1][0], "pairs": rows[-1][1]}


def no_better_than_words(records, flags):
    names = "held_out_accuracy", "held_out_standard_error", "shorter_wins", "bag_of_words"
    rows = values(records, *names)
    if rows and rows[-1][0] - rows[-1][1] < max(rows[-1][2:], default=0):
        return {"accuracy": rows[-1][0], "baseline": max(rows[-1][2:])}


def too_sure(records, flags):
    rows = values(records, "calibration_error", "held_out_pairs")
    if rows and rows[-1][0] > 0.1 + 1 / math.sqrt(max(rows[-1][1], 1)):
        return {"error": rows[-1][0]}


def overfitted(records, flags):
    losses = [loss for [loss] in values([r for r in records if "loss" in r], "held_out_loss")]
    if len(losses) >= 3 and losses[-1] > 1.05 * min(losses):
        return {"least": min(losses), "last": losses[-1]}
