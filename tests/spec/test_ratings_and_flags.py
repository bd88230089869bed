"""The losses of judgements about one response: ratings, and flags that name a fault."""

import math

import pytest
import torch

from spec.sentences import spec
from spec.tensors import normal

CUTS = torch.tensor([-1.0, 0.0, 1.5], dtype=torch.float64)


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


@spec(
    "RATE-01",
    "The ordinal loss of a rating is minus the logarithm of the probability of its level in a "
    "proportional odds model.",
    formula="P(rating ≤ k) = σ(c_k − s), loss = mean of −log (P(rating ≤ k) − P(rating ≤ k − 1))",
    example="Cuts −1, 0, 1.5 and score 0.4: the levels have the probabilities 0.197816, 0.203496, "
    "0.348948, 0.249740; the loss of the third is 1.052833.",
    source="McCullagh 1980",
)
def test_the_ordinal_loss_is_worked_by_hand(ordinal_loss):
    """The highest level has what no cut has taken."""
    golden = 0.1978161114, 0.2034962284, 0.3489477657, 0.2497398944
    for level, probability in enumerate(golden, start=1):
        loss = ordinal_loss(double(0.4), CUTS, torch.tensor([level]))
        assert math.exp(-loss.item()) == pytest.approx(probability, abs=1e-9)
    assert loss.item() == pytest.approx(-math.log(golden[3]), abs=1e-9)
    third = ordinal_loss(double(0.4), CUTS, torch.tensor([3]))
    assert third.item() == pytest.approx(1.0528330364, abs=1e-9)


@spec(
    "RATE-02",
    "The ordinal loss is a mean over ratings.",
    example="Score 0.4 with the ratings 1 and 3: (1.620417 + 1.052833) / 2 = 1.336625.",
)
def test_the_ordinal_loss_is_a_mean(ordinal_loss):
    """So that a learning rate does not depend on the size of a batch."""
    loss = ordinal_loss(double(0.4, 0.4), CUTS, torch.tensor([1, 3]))
    assert loss.item() == pytest.approx((-math.log(0.1978161114) + 1.0528330364) / 2, abs=1e-9)


@spec(
    "RATE-03",
    "A constant that is added to all scores and all cuts does not change the ordinal loss.",
)
def test_scores_and_cuts_may_move_together(ordinal_loss):
    """The zero of the scores is free here, too: it has to be set after training."""
    scores, ratings = normal(3).double(), torch.tensor([1, 4, 2])
    moved = ordinal_loss(scores + 5, CUTS + 5, ratings)
    torch.testing.assert_close(moved, ordinal_loss(scores, CUTS, ratings))


@spec(
    "RATE-04",
    "With two levels the ordinal loss is the cross-entropy of the score less the cut.",
    formula="−log σ(s − c) for the upper level, −log σ(c − s) for the lower one",
)
def test_two_levels_are_a_flag(ordinal_loss, flag_loss):
    """A rating in two levels is a yes or no."""
    scores, upper = normal(5).double(), torch.tensor([0, 1, 1, 0, 1])
    loss = ordinal_loss(scores, double(0.7), 1 + upper)
    torch.testing.assert_close(loss, flag_loss(scores - 0.7, upper.bool()))


@spec(
    "RATE-05",
    "The ordinal loss and its gradient are finite for any score.",
    example="Score 1000 with the lowest rating and the lowest cut −1: a loss of 1001.",
)
@pytest.mark.parametrize("score", [60.0, 1000.0, -1000.0])
def test_the_ordinal_loss_is_finite_at_any_score(ordinal_loss, score):
    """The difference of two sigmoids that are both 1 is 0, whose logarithm is −inf."""
    for level in (1, 2, 3, 4):
        scores, cuts = double(score).requires_grad_(), CUTS.clone().requires_grad_()
        loss = ordinal_loss(scores, cuts, torch.tensor([level]))
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(scores.grad).all() and torch.isfinite(cuts.grad).all()
    lowest = ordinal_loss(double(1000.0), CUTS, torch.tensor([1]))
    assert lowest.item() == pytest.approx(1001)


@spec(
    "RATE-06",
    "A higher score makes a high rating more likely and a low one less likely.",
    formula="∂loss/∂s < 0 for the highest level, > 0 for the lowest",
)
def test_the_score_moves_with_the_rating(ordinal_loss):
    """The sign says which end of the scale is good."""
    for level, sign in ((1, 1), (4, -1)):
        scores = double(-0.5, 0.4, 2.0).requires_grad_()
        ordinal_loss(scores, CUTS, torch.full((3,), level)).backward()
        assert (sign * scores.grad > 0).all()


@spec(
    "RATE-07",
    "The flag loss is minus the log-sigmoid of the logit where there is a flag, and of its "
    "negative where there is none.",
    formula="−[f log σ(z) + (1 − f) log σ(−z)], the mean over flags and responses",
    example="Logit 0.8: 0.371101 with the flag, 1.171101 without; both: 0.771101.",
)
def test_the_flag_loss_is_worked_by_hand(flag_loss):
    """The logit is the log-odds of the fault, so that reward is its negative."""
    assert flag_loss(double(0.8), torch.tensor([True])).item() == pytest.approx(0.3711006659)
    assert flag_loss(double(0.8), torch.tensor([False])).item() == pytest.approx(1.1711006659)
    both = flag_loss(double(0.8, 0.8), torch.tensor([True, False]))
    assert both.item() == pytest.approx((0.3711006659 + 1.1711006659) / 2)
