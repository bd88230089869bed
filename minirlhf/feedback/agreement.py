"""How well a reward model agrees with those who prefer."""

import itertools

import numpy as np

from minirlhf import reward
from minirlhf.feedback.simulated import preference_probability


def ranking_numbers(comparisons, scores, totals=None):
    """How raw scores, one list a comparison, order held-out comparisons: accuracy on strictly ordered pairs of different texts
    (a tie of scores is wrong), loss, calibration. Where the judge's `totals` are known, so is how likely a labeller orders a
    pair as this one did: hence the accuracy to expect with other labellers, and the best possible one."""
    pairs = []  # margin, total of the better, total of the worse: as the labeller has it
    for c, own, truth in zip(comparisons, scores, totals or scores, strict=True):
        for i, j in itertools.permutations(range(len(own)), 2):
            if c.ranks[i] < c.ranks[j] and c.responses[i] != c.responses[j]:
                pairs.append((own[i] - own[j], truth[i], truth[j]))
    if not pairs:
        return {"held_out_pairs": 0}
    margins, better, worse = np.array(pairs).T
    numbers = {
        "held_out_pairs": len(margins),
        "held_out_accuracy": (margins > 0).mean(),
        "ties": (margins == 0).mean(),
    }
    numbers["held_out_loss"] = np.logaddexp(0, -margins).mean()
    likely = np.ones(len(margins))
    if totals:
        likely = preference_probability(better, worse)
        numbers["expected_accuracy"] = np.where(margins > 0, likely, 1 - likely).mean()
        numbers["best_possible_accuracy"] = np.maximum(likely, 1 - likely).mean()
        numbers["labellers_agree"] = (likely**2 + (1 - likely) ** 2).mean()
        if (differ := better != worse).any():
            numbers["agreement_with_judge"] = ((margins > 0) == (better > worse))[differ].mean()
    return numbers | {"calibration_error": reward.calibration_error(margins, likely)}
