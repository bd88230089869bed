"""Labels by a model, which says how likely the first of two responses is the better one."""

import math

import pytest
import torch

from spec.sentences import spec
from spec.tensors import normal


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


@spec(
    "LABEL-01",
    "The soft preference loss of a pair is the cross entropy of the probability that the labeller "
    "gives and the one that the scores give.",
    formula="loss = mean over pairs of −p log σ(s_1 − s_2) − (1 − p) log σ(s_2 − s_1)",
    example="Difference 0.5: 0.626073 with p = 0.696008; with p = 1, a hard label, 0.474077.",
    source="Lee et al. 2023",
)
def test_the_soft_preference_loss_is_worked_by_hand(soft_preference_loss):
    """With a hard label a doubtful pair would pull as much as a clear one."""
    loss = soft_preference_loss(double(1.5), double(1.0), double(0.6960084965))
    assert loss.item() == pytest.approx(0.6260727359, abs=1e-9)
    loss = soft_preference_loss(double(1.5), double(1.0), double(1.0))
    assert loss.item() == pytest.approx(0.4740769842, abs=1e-9)


@spec(
    "LABEL-02",
    "The gradient of the soft preference loss in the difference of the scores is what the scores "
    "say less what the labeller says.",
    formula="d loss / d(s_1 − s_2) = σ(s_1 − s_2) − p",
    example="Difference 0.5, p = 0.696008: −0.073549.",
)
def test_the_gradient_of_the_soft_loss_is_the_difference_of_probabilities(soft_preference_loss):
    """It is 0 where the two agree, whatever p is."""
    first = double(0.5).requires_grad_()
    soft_preference_loss(first, double(0.0), double(0.6960084965)).backward()
    assert first.grad.item() == pytest.approx(-0.0735491653, abs=1e-9)


@spec(
    "LABEL-03",
    "The soft preference loss is least where the scores differ by the log-odds of the label, and "
    "there it is the entropy of the label.",
    formula="s_1 − s_2 = log(p / (1 − p))",
    example="p = 0.696008: difference 0.828362, loss 0.614208, and not 0.",
)
def test_the_soft_loss_has_its_minimum_at_the_log_odds(soft_preference_loss):
    """A loss of 0.61 may be the best that there is."""
    likely, best = double(0.6960084965), double(0.8283621159).requires_grad_()
    loss = soft_preference_loss(best, double(0.0), likely)
    loss.backward()
    assert loss.item() == pytest.approx(0.6142084562, abs=1e-9)
    assert best.grad.item() == pytest.approx(0.0, abs=1e-9)


@spec(
    "LABEL-04",
    "With a probability of 1 or 0 the soft preference loss is the preference loss of the pair in "
    "that order.",
)
def test_a_certain_label_is_a_hard_one(soft_preference_loss, preference_loss):
    """People's labels and a model's can stand in one batch."""
    first, second = normal(5).double(), normal(5, seed=1).double()
    ones = torch.ones_like(first)
    certain = soft_preference_loss(first, second, ones)
    torch.testing.assert_close(certain, preference_loss(first, second))
    reverse = soft_preference_loss(first, second, 0 * ones)
    torch.testing.assert_close(reverse, preference_loss(second, first))


@spec(
    "LABEL-05",
    "A pair that is shown in both orders has the mean of the two probabilities of response A, and "
    "not of the two probabilities of what was shown first.",
    formula="p = (p_AB + 1 − p_BA) / 2",
    example="Log-probabilities of “1” and “2”: −0.2, −1.7 with A first, −0.9, −0.6 with B first. "
    "p = (0.817574 + 0.574443) / 2 = 0.696008; the mean of the log-odds would give 0.710950.",
    differs="PairS #2, where the plain mean is asked about",
    source="Lee et al. 2023, section 2.1",
)
def test_both_orders_are_averaged_as_probabilities(both_orders):
    """The second answer is about the other response."""
    first, swapped = torch.sigmoid(double(-0.2 + 1.7)), torch.sigmoid(double(-0.9 + 0.6))
    assert both_orders(first, swapped).item() == pytest.approx(0.6960084965, abs=1e-9)


@spec(
    "LABEL-06",
    "A labeller who prefers whatever is shown first, however much, says 1/2.",
    example="p_AB = p_BA = 0.9: p = 0.5.",
    source="Lee et al. 2023, appendix, on position bias",
)
@pytest.mark.parametrize("bias", [0.0, 0.3, 0.9, 1.0])
def test_a_labeller_who_likes_the_first_says_nothing(both_orders, bias):
    """One order, chosen by chance, would leave the bias in every label as noise."""
    assert both_orders(double(bias), double(bias)).item() == 0.5


@spec(
    "LABEL-07",
    "The labels of a pair and of its mirror image add up to 1.",
    formula="p(A, B) + p(B, A) = 1",
)
def test_a_pair_and_its_mirror_image_add_up_to_one(both_orders):
    """Whatever the labeller says."""
    first, swapped = torch.rand(7).double(), torch.rand(7).double()
    total = both_orders(first, swapped) + both_orders(swapped, first)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-15)


GRADES = double(-4, -3.5, -3, -2.5, -2, -1.5, -1.2, -1, -1.6, -2.6)[None]


@spec(
    "LABEL-08",
    "A direct reward by grades is their mean under the model's probabilities of the grades, which "
    "are divided by their sum, scaled to −1 for the worst and 1 for the best.",
    formula="s = Σ_k k P(k) / Σ_k P(k), reward = 2 (s − 1) / (K − 1) − 1",
    example="Log-probabilities −4, −3.5, −3, −2.5, −2, −1.5, −1.2, −1, −1.6, −2.6 of the grades 1 "
    "to 10: s = 6.861470, reward 0.302549.",
    source="Lee et al. 2023, section 2.2.2 (d-RLAIF)",
)
def test_a_reward_by_grades_is_worked_by_hand(rating):
    """The likeliest grade alone would make most responses equal."""
    assert rating(GRADES).item() == pytest.approx(0.3025488958, abs=1e-9)
    certain = torch.full((1, 10), -math.inf).double()
    certain[0, 9] = -20.0
    assert rating(certain).item() == pytest.approx(1.0)


@spec(
    "LABEL-09",
    "What a model would write beside the grades does not change a reward by grades.",
    formula="rating(log P + c) = rating(log P)",
)
def test_the_mass_of_the_grades_is_divided_out(rating):
    """So the mass has to be looked at by itself: near 0, the grades are noise."""
    torch.testing.assert_close(rating(GRADES - 5), rating(GRADES))
