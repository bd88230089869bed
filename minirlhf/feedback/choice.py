"""Which pairs to ask about next, by what a reward model says of them.

Margins are differences of raw scores, first minus second response; probabilities are their
sigmoids. A labeller of a pair of equals tosses a coin, so that a pair near one half need not be
one that teaches: the model may be right that nothing decides it.
"""

import numpy as np


def nearest_half(margins):  # (N,) -> (N,) row numbers
    """The pairs whose order is least certain come first (uncertainty sampling, Lewis and Gale
    1994)."""
    return np.argsort(np.abs(margins), kind="stable")


def disagreement(margins):  # (E, N) -> (N,) row numbers
    """The pairs on which the members of an ensemble disagree most come first."""
    return np.argsort(-information(margins), kind="stable")


def information(margins):  # (E, N) -> (N,) nats
    """What a label is expected to tell about which member is right (BALD, Houlsby et al. 2011): the
    entropy of the mean probability less the mean entropy. Where all members say one half it is 0,
    though the entropy is log 2."""
    probabilities = sigmoid(margins)
    return entropy(probabilities.mean(0)) - entropy(probabilities).mean(0)


def entropy(p):
    """Of a coin, in nats."""
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return -p * np.log(p) - (1 - p) * np.log1p(-p)


def fisher(directions, margins):  # (N, C), (N,) -> (N, C)
    """Directions times sqrt(p (1 - p)): the sum of their outer products is the Fisher information
    of the labels under the current model (Kveton et al. 2025)."""
    p = sigmoid(margins)
    return directions * np.sqrt(p * (1 - p))[:, None]


def sigmoid(x):
    return 1 / (1 + np.exp(-np.clip(x, -50, 50)))
