"""Simulated labellers: they see the judge's total through noise, so that every pair of responses is
exactly Bradley-Terry."""

import numpy as np

LABEL_NOISE = 0.6  # in units of the total; two labellers then agree about as often as people do


def preference_probability(better, worse):
    """The probability that a labeller prefers the first of two totals: Bradley-Terry. Floats or
    arrays."""
    return 1 / (1 + np.exp(-(better - worse) / LABEL_NOISE))


def rank(totals, rng):
    """A labeller's ranks of K responses, 0 is best. Plackett-Luce: the labeller orders the totals
    plus Gumbel noise, and the difference of two Gumbel variables is logistic."""
    noisy_totals = np.asarray(totals) + rng.gumbel(scale=LABEL_NOISE, size=len(totals))
    return np.argsort(np.argsort(-noisy_totals)).tolist()
