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


# ---- ratings and flags

CUTS = (0.3, 1.1, 1.9, 2.7)  # of the total as it is seen, between the ratings 1 to 5
MISS, FALSE_ALARM = 0.1, 0.05  # of a flag


def rate(totals, rng, bias=0.0):
    """A labeller's ratings, 1 to 5, of responses with these totals. The noise is logistic, as it is
    between the two responses of a pair, so that `axes.ordinal_loss` is the right likelihood.
    `bias`, in units of the total, is how much higher than others this labeller rates everything."""
    seen = np.asarray(totals) + bias + rng.logistic(scale=LABEL_NOISE, size=len(totals))
    return (1 + np.searchsorted(CUTS, seen)).tolist()


def flag(behaviour, rng, miss=MISS, false_alarm=FALSE_ALARM):  # (...) bool -> (...) bool
    """What a labeller flags of what is there: a share `miss` is overlooked, and of what is not
    there a share `false_alarm` is flagged."""
    draws = rng.random(np.shape(behaviour))
    return np.where(behaviour, draws >= miss, draws < false_alarm)
