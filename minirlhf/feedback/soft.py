"""Soft labels: a labeller who says how likely the first of two responses is the better one.

Each pair is shown in both orders and the probabilities are averaged, so that a labeller who likes
whatever comes first says nothing at all (Lee et al. 2023, section 2.1).
"""

import itertools

import numpy as np

from minirlhf.data import SoftComparison


def both_orders(first, swapped):  # (N,), (N,) -> (N,)
    """How likely response A is better, from how likely the *first* is: A before B, and B before
    A."""
    return 0.5 + (first - swapped) / 2


def label(prefer, comparisons):
    """(SoftComparisons, numbers): every two different responses to a prompt are compared by
    `prefer(prompts, first, second) -> (N,)` in both orders. The ranks follow the sum of a
    response's probabilities; with equal sums they are equal.

    The numbers: pairs; the share of pairs with the same text, about which nobody is asked; flips,
    the share of pairs in which the verdict depends on the order; first_wins, the mean probability
    of what is shown first (1/2: no bias); sure, the mean distance of a label from 1/2, times two.
    """
    questions = [
        (n, i, j)
        for n, comparison in enumerate(comparisons)
        for i, j in itertools.combinations(range(len(comparison.responses)), 2)
    ]
    asked = [(n, i, j) for n, i, j in questions if differ(comparisons[n].responses, i, j)]
    prompts = [comparisons[n].prompt for n, _, _ in asked]
    left = [comparisons[n].responses[i] for n, i, _ in asked]
    right = [comparisons[n].responses[j] for n, _, j in asked]
    first, swapped = np.empty(0), np.empty(0)
    if asked:
        first = np.asarray(prefer(prompts, left, right), dtype=float)
        swapped = np.asarray(prefer(prompts, right, left), dtype=float)
    probabilities = both_orders(first, swapped).round(6)
    tables = [np.zeros((len(c.responses),) * 2) for c in comparisons]
    for (n, i, j), p in zip(asked, probabilities, strict=True):
        tables[n][i, j], tables[n][j, i] = p, (1 - p).round(6)
    labelled = [soft(*pair) for pair in zip(comparisons, tables, strict=True)]
    return labelled, numbers(len(questions), first, swapped, probabilities)


def differ(responses, i, j):
    return responses[i] != responses[j]


def soft(comparison, table):  # (K, K) -> SoftComparison
    sums = table.sum(1).round(5)
    ranks = [int((sums > own).sum()) for own in sums]
    return SoftComparison(comparison.prompt, comparison.responses, ranks, None, table.tolist())


def numbers(questions, first, swapped, probabilities):
    """What `label` says of its labels; without a pair only their number."""
    result = {"pairs": questions, "same_text": 1 - len(first) / max(questions, 1)}
    if len(first):
        result["flips"] = float(((first > 0.5) != (swapped < 0.5)).mean())
        result["first_wins"] = float((first + swapped).mean() / 2)
        result["sure"] = float(np.abs(2 * probabilities - 1).mean())
    return result
