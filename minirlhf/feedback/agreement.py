"""How well a reward model agrees with those who prefer."""

import itertools
import math

import numpy as np

from minirlhf import reward
from minirlhf.feedback.simulated import preference_probability


def ranking_numbers(comparisons, scores, totals=None):
    """How raw scores order held-out comparisons, as a dictionary. `scores` and the judge's `totals`
    are one list per comparison.

    A pair is two responses with different texts and different ranks. Over all pairs: accuracy (a
    tie of scores is wrong), the mean preference loss, the calibration error and the temperature.
    Where `totals` are given, also the probability that a labeller orders a pair as this one did,
    and with it the accuracy to expect with other labellers and the best possible one.
    """
    pairs = [
        (n, better, worse)
        for n, comparison in enumerate(comparisons)
        for better, worse in ordered_pairs(comparison)
    ]
    if not pairs:
        return {"held_out_pairs": 0}
    margins = np.array([scores[n][better] - scores[n][worse] for n, better, worse in pairs])
    numbers = {
        "held_out_pairs": len(margins),
        "held_out_accuracy": (margins > 0).mean(),
        "ties": (margins == 0).mean(),
        "held_out_loss": np.logaddexp(0, -margins).mean(),
    }
    likely = np.ones(len(margins))
    if totals:
        better_totals = np.array([totals[n][better] for n, better, _ in pairs])
        worse_totals = np.array([totals[n][worse] for n, _, worse in pairs])
        likely = preference_probability(better_totals, worse_totals)
        numbers |= labeller_numbers(margins, better_totals, worse_totals, likely)
    numbers["temperature"] = temperature(margins, likely)
    return numbers | {"calibration_error": reward.calibration_error(margins, likely)}


def temperature(margins, likely):  # (N,), (N,) numpy -> number
    """By what raw margins have to be divided to be as sure as people are: the minimum over T of the
    mean of -(p log sigmoid(m / T) + (1 - p) log sigmoid(-m / T)), p how `likely` people order a
    pair so. Above 1 the model is too sure, below 1 not sure enough; no order changes.

    The loss is convex in 1 / T, so that its slope there has one zero, found by bisection. Infinite
    where the margins say nothing or the contrary; near 0 where nobody could be too sure.
    """

    def slope(x):
        return (margins * (1 / (1 + np.exp(-np.clip(x * margins, -700, 700))) - likely)).mean()

    low, high = 0.0, 1.0
    while slope(high) < 0 and high < 2**20:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(1 / high) if low > 0 else float("inf")


def calibration(comparisons, scores, bins=10):
    """The reliability diagram of raw scores on held-out comparisons: for each bin of confidence,
    sigmoid(difference of the scores), that has pairs: mean confidence, the share of pairs that are
    ordered as the model orders them (a tie of scores counts half), and the number of pairs."""
    margins = [
        row[better] - row[worse]
        for comparison, row in zip(comparisons, scores, strict=True)
        for better, worse in ordered_pairs(comparison)
    ]
    margins = np.array(margins, dtype=float)
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    correct = np.where(margins == 0, 0.5, margins > 0)
    places = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    return [
        {
            "confidence": float(confidence[places == place].mean()),
            "accuracy": float(correct[places == place].mean()),
            "pairs": int((places == place).sum()),
        }
        for place in sorted(set(places.tolist()))
    ]


def ordered_pairs(comparison):
    """(index of the better response, index of the worse one) of every pair with different texts and
    different ranks."""
    texts, ranks = comparison.responses, comparison.ranks
    return [
        (i, j)
        for i, j in itertools.permutations(range(len(texts)), 2)
        if ranks[i] < ranks[j] and texts[i] != texts[j]
    ]


def judge_agreement(texts, scores, totals):
    """The share of pairs, of different texts with different totals, that scores and totals order
    alike; NaN if there is no such pair. Each argument is one list per prompt; equal scores order
    nothing."""
    alike = [
        (row[i] - row[j]) * (truth[i] - truth[j]) > 0
        for words, row, truth in zip(texts, scores, totals, strict=True)
        for i, j in itertools.combinations(range(len(words)), 2)
        if words[i] != words[j] and truth[i] != truth[j]
    ]
    return float(np.mean(alike)) if alike else math.nan


def labeller_numbers(margins, better_totals, worse_totals, likely):
    # (N,) numpy each -> dictionary
    """What is known where the judge's totals are: `likely` is the probability that a labeller
    orders a pair as it is ordered here."""
    agreement = likely**2 + (1 - likely) ** 2  # of two labellers on this pair
    different = better_totals != worse_totals
    numbers = {
        "expected_accuracy": np.where(margins > 0, likely, 1 - likely).mean(),
        "best_possible_accuracy": np.maximum(likely, 1 - likely).mean(),
        "labellers_agree": agreement.mean(),
        "tied_totals": 1 - different.mean(),
    }
    if different.any():
        ordered_as_judged = (margins > 0) == (better_totals > worse_totals)
        numbers["labellers_agree_on_different_totals"] = agreement[different].mean()
        numbers["agreement_with_judge"] = ordered_as_judged[different].mean()
        gaps = better_totals - worse_totals
        numbers["score_per_point"] = (margins * gaps).sum() / (gaps**2).sum()
    return numbers
