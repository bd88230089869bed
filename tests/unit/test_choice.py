"""The specification of the rules by which pairs are chosen, on the numbers of a sheet worked by
hand."""

import numpy as np
import pytest

from minirlhf.feedback import choice
from minirlhf.feedback.design import Design

DIRECTIONS = np.array([[1.0, 0.0], [0.6, 0.6], [2.0, 0.0], [0.0, 0.5]])  # a b c d


def test_the_least_certain_pair_comes_first_whichever_response_leads():
    assert choice.nearest_half(np.array([2.0, -0.1, 0.3, -3.0, 0.0])).tolist() == [4, 1, 2, 0, 3]


def test_information_is_that_of_the_sheet():
    """Members who agree that a pair is a coin flip have nothing to learn from it, though its
    entropy is log 2."""
    members = np.array([[-2, -0.5, 0, 2], [0, 0, 0, 2], [2, 0.5, 0, 2]], dtype=float)
    expected = [0.2185422170, 0.0201999080, 0, 0]
    assert choice.information(members) == pytest.approx(expected, abs=1e-9)
    assert choice.disagreement(members).tolist()[:2] == [0, 1]


def test_the_order_of_a_pairs_responses_changes_no_information():
    members = np.random.default_rng(1).normal(size=(4, 9))
    assert choice.information(-members) == pytest.approx(choice.information(members))
    assert np.isfinite(choice.information(1000 * members)).all()


def test_the_weighted_gains_are_those_of_the_sheet():
    """At theta = (2, 0) the certain pair c, which the unweighted rule takes first, is not worth
    asking about; b is."""
    weighted = choice.fisher(DIRECTIONS, DIRECTIONS @ [2.0, 0.0])
    gains = np.square(weighted).sum(1)  # V = I
    expected = [0.1049935854, 0.1280839973, 0.0706508249, 0.0625]
    assert gains == pytest.approx(expected, abs=1e-9)
    assert Design(2, ridge=1.0).order([row[None] for row in weighted])[0] == 1
    assert Design(2, ridge=1.0).order([row[None] for row in DIRECTIONS])[0] == 2
