"""How right a reward model is: by how sure it is, and by how long the responses are.

A pair is two responses to a prompt of which people preferred the first. Its margin is the score of
the first minus that of the second, and the model's probability that people prefer the first is
sigmoid(margin).
"""

import numpy as np

from minirlhf.data import place, prompt_key
from minirlhf.feedback.agreement import ordered_pairs
from minirlhf.feedback.baselines import BagOfWords, pairs_of, share_above_zero, standard_error

FOLDS = 5  # parts of a file of which a bag of words learns all but one


def margins_of(comparisons, scores):  # N Comparisons, N lists -> (pairs,), list of prompts
    """The margin of every pair, and its prompt, in the order of `baselines.pairs_of`."""
    rows = [
        (row[better] - row[worse], comparison.prompt)
        for comparison, row in zip(comparisons, scores, strict=True)
        for better, worse in ordered_pairs(comparison)
    ]
    return np.array([margin for margin, _ in rows]), [prompt for _, prompt in rows]


def calibration(margins, prompts, bins=10):  # (N,), N texts -> list of dictionaries
    """Bins of the probability that the model gives to the response that it prefers: how many pairs,
    the mean probability, the share of them in which people preferred it, and its standard error. As
    in `reward.calibration_error`, which is the mean distance of the two over pairs."""
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    bin_numbers = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    table = []
    for b in np.unique(bin_numbers):
        inside = np.flatnonzero(bin_numbers == b)
        right = margins[inside] >= 0
        table.append(
            {
                "from": 0.5 + b / bins / 2,
                "to": 0.5 + (b + 1) / bins / 2,
                "pairs": len(inside),
                "predicted": float(confidence[inside].mean()),
                "observed": float(right.mean()),
                "standard_error": standard_error(right, [prompts[i] for i in inside]),
            }
        )
    return table


def by_length(pairs, margins, prompts, parts=4):  # N pairs of texts, (N,), N texts -> dictionaries
    """Accuracy where responses are short and where they are long: quarters of the pairs by the mean
    number of characters of their two responses. And where the better one is the shorter or the
    longer one: a model that goes by length is right in one of the two alone."""
    lengths = np.array([[len(better), len(worse)] for better, worse in pairs])
    means, difference = lengths.mean(1), lengths[:, 0] - lengths[:, 1]
    edges = np.unique(np.quantile(means, np.linspace(0, 1, parts + 1)))
    places = np.searchsorted(edges[1:-1], means, side="right")
    groups = {
        f"{means[places == n].min():.0f} to {means[places == n].max():.0f} characters": places == n
        for n in np.unique(places)
    }
    groups |= {
        "the better one is shorter": difference < 0,
        "the better one is longer": difference > 0,
        "both are as long": difference == 0,
    }
    table = []
    for name, members in groups.items():
        inside = np.flatnonzero(members)
        if len(inside):
            right = margins[inside] > 0
            numbers = {
                "pairs": len(inside),
                "accuracy": float(right.mean()),
                "standard_error": standard_error(right, [prompts[i] for i in inside]),
                "shorter_wins": share_above_zero(-difference[inside]),
            }
            table.append({"group": name} | numbers)
    return table


def cross_fitted_bag_of_words(comparisons, seed):
    """The accuracy of a bag of words on all pairs, each part of the prompts (a hash decides) by one
    that has learned from the other parts; None where there are prompts in one part alone."""
    parts = [[] for _ in range(FOLDS)]
    for comparison in comparisons:
        parts[int(place(prompt_key(comparison), seed) * FOLDS)].append(comparison)
    if sum(map(bool, parts)) < 2:
        return None
    margins = []
    for n, part in enumerate(parts):
        others = [c for m, other in enumerate(parts) if m != n for c in other]
        if part:
            margins += BagOfWords(pairs_of(others)).margins(pairs_of(part)).tolist()
    return share_above_zero(margins)
