"""MetaRM: how far a reward model tells the responses to one prompt apart, without labels."""

import math

import pytest
import torch

from spec.sentences import spec
from spec.tensors import normal


@spec(
    "META-01",
    "The difference of k responses to a prompt is 2/k² times the sum over pairs of the sigmoid of "
    "the distance of their scores; of several prompts it is the mean.",
    formula="J = mean over prompts of 2/k² Σ_{i<j} σ(|r_i − r_j|)",
    example="Scores 0.5, −0.25, 0.25: J = 0.414181.",
    source="Dou et al. 2024",
)
def test_the_difference_is_worked_by_hand(score_difference):
    """A second prompt with equal scores has J = 1/3, three pairs of 1/2 each."""
    scores = torch.tensor([[0.5, -0.25, 0.25], [1.0, 1.0, 1.0]], dtype=torch.float64)
    assert score_difference(scores[:1]).item() == pytest.approx(0.4141810069, abs=1e-9)
    assert score_difference(scores).item() == pytest.approx((0.4141810069 + 1 / 3) / 2, abs=1e-9)


@spec(
    "META-02",
    "Where all k scores are equal the difference is (k − 1) / 2k, and has no gradient.",
    example="k = 5: 0.4. The distance has a kink there: texts that are the same would count as a "
    "constant, which is a reason to leave them out.",
)
@pytest.mark.parametrize("k", [2, 5])
def test_equal_scores_have_half_of_what_is_possible_and_no_gradient(score_difference, k):
    """|x| has the gradient 0 at 0, and not NaN."""
    scores = torch.full((1, k), 0.7, dtype=torch.float64, requires_grad=True)
    value = score_difference(scores)
    value.backward()
    assert value.item() == pytest.approx((k - 1) / (2 * k), abs=1e-12)
    assert not scores.grad.any()


@spec(
    "META-03",
    "The difference lies between (k − 1) / 2k and (k − 1) / k.",
    example="Scores 0 and 100: 1/2. Once a distance is above 5 there is nothing more to win from "
    "it.",
)
def test_the_difference_is_bounded(score_difference):
    """So that no pair can make all of it."""
    far = torch.tensor([[0.0, 100.0, 200.0, 300.0]], dtype=torch.float64)
    assert score_difference(far).item() == pytest.approx(3 / 4, abs=1e-9)
    some = [score_difference(10**n * normal(6, 4, seed=n + 9).double()) for n in range(-2, 3)]
    assert all(3 / 8 <= value.item() <= 3 / 4 for value in some)


@spec(
    "META-04",
    "Neither a constant for each prompt nor the other sign of all scores changes the difference.",
    example="It has no labels: it widens whatever order there is, ties and mistakes included.",
)
def test_the_difference_knows_no_direction(score_difference):
    """A reward model that orders everything the wrong way round has the same J."""
    scores = normal(3, 5).double()
    value = score_difference(scores)
    shifted = scores + torch.tensor([[1.0], [-20.0], [300.0]])
    torch.testing.assert_close(score_difference(shifted), value)
    torch.testing.assert_close(score_difference(-scores), value)
    assert not math.isclose(score_difference(2 * scores), value, rel_tol=1e-3)


@spec("META-05", "The order of the responses to a prompt does not change the difference.")
def test_the_difference_is_that_of_a_set(score_difference):
    """A pair has no first response."""
    scores = normal(3, 5).double()
    torch.testing.assert_close(score_difference(scores.flip(1)), score_difference(scores))
