"""Methods without a critic: what a response is worth beside the others to the same prompt."""

import math

import pytest
import torch

from spec.sentences import spec
from spec.tensors import normal

METHODS = pytest.mark.parametrize("algorithm", ["rloo", "grpo", "dr-grpo", "dapo"])
SCALED = pytest.mark.parametrize("algorithm", ["grpo", "dapo"])
UNSCALED = pytest.mark.parametrize("algorithm", ["rloo", "dr-grpo"])
RETURNS = torch.tensor([[1.0, 1.0, 0.0, 0.5]], dtype=torch.float64)


def assert_row(advantages, *numbers, tolerance=1e-9):
    expected = torch.tensor([numbers], dtype=torch.float64)
    torch.testing.assert_close(advantages, expected, rtol=0, atol=tolerance)


@spec(
    "GROUP-01",
    "RLOO's advantage of a response is its return minus the mean return of the others to the same "
    "prompt.",
    formula="A_i = R_i − Σ_{j ≠ i} R_j / (G − 1)",
    example="Returns 1, 1, 0, 0.5: advantages 0.5, 0.5, −0.833333, −0.166667.",
    source="Ahmadian et al. 2024",
)
def test_rloo_compares_a_response_with_the_others(group_advantages):
    """A baseline that does not depend on the response itself leaves the gradient without bias."""
    assert_row(group_advantages(RETURNS, "rloo"), 0.5, 0.5, -0.8333333333, -0.1666666667)


@spec(
    "GROUP-02",
    "Dr. GRPO's advantage of a response is its return minus the mean return of its group.",
    formula="A_i = R_i − mean(R)",
    example="Returns 1, 1, 0, 0.5: advantages 0.375, 0.375, −0.625, −0.125.",
    source="Dr. GRPO",
)
def test_dr_grpo_compares_a_response_with_its_group(group_advantages):
    """It is RLOO's advantage times (G − 1) / G: the same direction."""
    advantages = group_advantages(RETURNS, "dr-grpo")
    assert_row(advantages, 0.375, 0.375, -0.625, -0.125)
    torch.testing.assert_close(group_advantages(RETURNS, "rloo") * 3 / 4, advantages)


@spec(
    "GROUP-03",
    "GRPO and DAPO divide the difference from the group's mean by the group's standard deviation, "
    "with G − 1 in its denominator.",
    formula="A_i = (R_i − mean(R)) / (std(R) + ε)",
    example="Returns 1, 1, 0, 0.5: advantages 0.783349, 0.783349, −1.305582, −0.261116 (ε = 0); "
    "with G in the denominator they would be 0.904534, 0.904534, −1.507557, −0.301511.",
    differs="open-instruct divides by G",
    source="GRPO; DAPO",
)
@SCALED
def test_grpo_divides_by_the_standard_deviation_of_the_group(group_advantages, algorithm):
    """Within the tolerance is any ε up to 1e-4, and no other denominator."""
    golden = 0.7833494518, 0.7833494518, -1.3055824197, -0.2611164839
    assert_row(group_advantages(RETURNS, algorithm), *golden, tolerance=3e-4)


@spec(
    "GROUP-04",
    "A constant that is added to all returns of a prompt changes no advantage.",
    example="Prompts differ in how well they can be answered; this is what a value function has to "
    "learn.",
)
@METHODS
def test_a_constant_per_prompt_changes_no_advantage(group_advantages, algorithm):
    """The group's mean is a baseline for its prompt."""
    returns = normal(3, 4).double()
    shifted = returns + torch.tensor([[1.0], [-20.0], [300.0]])
    expected = group_advantages(returns, algorithm)
    torch.testing.assert_close(group_advantages(shifted, algorithm), expected)


@spec(
    "GROUP-05",
    "The responses to one prompt do not change the advantages of another's.",
    differs="R1-V #67, VLM-R1 #129 (rows of several prompts in one group); grpo-flat #2 (the whole "
    "batch is one group)",
)
@METHODS
def test_a_group_is_a_row(group_advantages, algorithm):
    """Groups that are cut across prompts compare what cannot be compared, and nothing crashes."""
    returns = normal(3, 4).double()
    alone = [group_advantages(row[None], algorithm) for row in returns]
    torch.testing.assert_close(group_advantages(returns, algorithm), torch.cat(alone))


@spec(
    "GROUP-06",
    "RLOO and Dr. GRPO scale with the returns: a prompt where more is at stake counts more.",
    example="Returns (10, 0) and (0, 1): RLOO's advantages are (10, −10) and (−1, 1).",
)
@UNSCALED
def test_without_the_standard_deviation_what_is_at_stake_counts(group_advantages, algorithm):
    """The expected return is a sum over prompts; its gradient weighs them by what they return."""
    returns = normal(3, 4).double()
    expected = 10 * group_advantages(returns, algorithm)
    torch.testing.assert_close(group_advantages(10 * returns, algorithm), expected)


@spec(
    "GROUP-07",
    "GRPO and DAPO do not change with the scale of the returns: a prompt counts the same whatever "
    "is at stake.",
    example="Returns (10, 0) and (0, 1): advantages (0.707, −0.707) and (−0.707, 0.707).",
    source="Dr. GRPO, where this is a bias",
)
@SCALED
def test_with_the_standard_deviation_what_is_at_stake_does_not_count(group_advantages, algorithm):
    """Nearly decided prompts get the largest steps for the return that they offer."""
    advantages = group_advantages(torch.tensor([[10.0, 0.0], [0.0, 1.0]]), algorithm)
    half = math.sqrt(0.5)
    expected = torch.tensor([[half, -half], [-half, half]])
    torch.testing.assert_close(advantages, expected, rtol=1e-3, atol=0)


@spec(
    "GROUP-08",
    "Returns that differ by rounding only have advantages near 0.",
    formula="ε is far above the rounding of a return",
    example="Returns 0.3, 0.3, 0.3, 0.3 + 1e-7: the last advantage is 0.00075 with ε = 1e-4, and "
    "1.47 with ε = 1e-9.",
    differs="OpenRLHF has ε = 1e-9; NeMo-RL #4158",
)
@METHODS
def test_rounding_is_no_advantage(group_advantages, algorithm):
    """Equal scores are common: of short responses, several have the same text."""
    returns = torch.tensor([[0.3, 0.3, 0.3, 0.3 + 1e-7]], dtype=torch.float64)
    assert group_advantages(returns, algorithm).abs().max() < 0.01


@spec(
    "GROUP-09",
    "With two responses to a prompt, RLOO's advantages are the difference of their returns, with "
    "either sign.",
    formula="A_1 = R_1 − R_2 = −A_2",
)
def test_rloo_of_two_is_their_difference(group_advantages):
    """The smallest group."""
    returns = normal(5, 2).double()
    difference = returns[:, :1] - returns[:, 1:]
    expected = torch.cat([difference, -difference], 1)
    torch.testing.assert_close(group_advantages(returns, "rloo"), expected)


LENGTHS, LIMIT = torch.tensor([2, 6]), 8  # of two responses, and the most that one may have


@spec(
    "GROUP-10",
    "In the loss of B responses, a token of one with n tokens has the weight 1/B in RLOO, 1/(B n) "
    "in GRPO, 1/(B L) in Dr. GRPO with the limit L, and 1/(the tokens of all) in DAPO.",
    formula="loss = −Σ_i w_i Σ_t A_i ρ_t",
    example="Advantages 1 and −1, lengths 2 and 6, L = 8, ratio 1: losses 2, 0, 0.25 and 0.5.",
    source="Dr. GRPO; DAPO, section 3.3",
)
@pytest.mark.parametrize(
    ("algorithm", "loss"), [("rloo", 2.0), ("grpo", 0.0), ("dr-grpo", 0.25), ("dapo", 0.5)]
)
def test_the_weight_of_a_token_is_worked_by_hand(token_weights, algorithm, loss):
    """With 1/n a long wrong response is unlearned no more than a short one."""
    weights = token_weights(LENGTHS, algorithm, LIMIT)
    total = -(weights * LENGTHS * torch.tensor([1.0, -1.0])).sum()
    assert total.item() == pytest.approx(loss, abs=1e-6)


@spec(
    "GROUP-11",
    "The weight of a token in RLOO and Dr. GRPO depends on no length.",
    source="Dr. GRPO",
)
@UNSCALED
def test_no_length_changes_the_weight_of_a_token(token_weights, algorithm):
    """So that the gradient of a response does not depend on its neighbours in the minibatch."""
    weights = token_weights(LENGTHS, algorithm, LIMIT)
    torch.testing.assert_close(token_weights(torch.tensor([1, 7]), algorithm, LIMIT), weights)
    assert weights[0] == weights[1] > 0
