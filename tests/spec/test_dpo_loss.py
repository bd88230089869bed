"""The loss of direct preference optimisation."""

import math

import pytest
import torch

from spec.sentences import spec
from spec.tensors import normal, stat


@spec(
    "DPO-01",
    "Where policy and reference agree, the DPO loss is log 2.",
    formula="loss = −log σ(margin), margin = 0",
    example="log 2 = 0.693147.",
    differs="direct-preference-optimization keeps the policy in float32 and the reference in "
    "float16 (config/model/blank_model.yaml), so that the two do not agree at the start",
)
def test_the_dpo_loss_is_log_two_at_the_reference(dpo_loss):
    """Training starts at the reference, so this is the first number of a run to check."""
    chosen, rejected = normal(2, 3)
    loss, _ = dpo_loss(chosen, rejected, chosen, rejected, beta=0.1)
    assert loss.item() == pytest.approx(math.log(2))


@spec(
    "DPO-02",
    "Where policy and reference agree, the implicit rewards are 0.",
    formula="reward = β log(π / π_ref)",
)
def test_nothing_is_rewarded_at_the_reference(dpo_loss):
    """A reward is relative to the reference."""
    chosen, rejected = normal(2, 3)
    _, stats = dpo_loss(chosen, rejected, chosen, rejected, beta=0.1)
    assert [stat(stats, name) for name in ("chosen_reward", "rejected_reward")] == [0, 0]


@spec(
    "DPO-03",
    "The accuracy is the share of pairs whose chosen response has strictly the higher reward.",
    example="Rewards 2 and 1, 1 and 2, 1 and 1: one in three. At the reference all pairs tie: 0.",
)
def test_the_accuracy_is_the_share_of_orders_that_are_strictly_right(dpo_loss):
    """If ties counted as right, the accuracy would start at 1."""
    chosen, rejected = torch.tensor([2.0, 1.0, 1.0]), torch.tensor([1.0, 2.0, 1.0])
    _, stats = dpo_loss(chosen, rejected, torch.zeros(3), torch.zeros(3), 0.5)
    assert stat(stats, "accuracy") == pytest.approx(1 / 3)
    assert stat(dpo_loss(chosen, rejected, chosen, rejected, 0.5)[1], "accuracy") == 0


HAND = [torch.tensor([x]) for x in (-10.0, -20.0, -12.0, -17.0)]


@spec(
    "DPO-04",
    "The DPO loss of a pair is minus the log-sigmoid of β times the difference of its log ratios.",
    formula="loss = −log σ(β [log(π/π_ref)(chosen) − log(π/π_ref)(rejected)])",
    example="Chosen −10 against −12 of the reference, rejected −20 against −17, β = 0.1: margin "
    "0.1 · (2 + 3) = 0.5, loss log(1 + e^−0.5) = 0.474077.",
    source="Rafailov et al. 2023, equation 7",
)
def test_the_loss_of_one_pair_is_worked_by_hand(dpo_loss):
    """The Bradley-Terry loss of the implicit rewards."""
    loss, _ = dpo_loss(*HAND, beta=0.1)
    assert loss.item() == pytest.approx(0.474077, abs=1e-6)


@spec(
    "DPO-05",
    "The implicit reward of a response is β times its log ratio.",
    formula="reward = β log(π / π_ref)",
    example="The pair of DPO-04: 0.1 · 2 = 0.2 and 0.1 · (−3) = −0.3.",
    differs="LLMs-from-scratch, DPO notebook, c84, logs the log ratios without β",
    source="Rafailov et al. 2023, section 4",
)
def test_the_rewards_of_one_pair_are_worked_by_hand(dpo_loss):
    """Without β the logged rewards of two runs cannot be compared."""
    _, stats = dpo_loss(*HAND, beta=0.1)
    assert stat(stats, "chosen_reward") == pytest.approx(0.2)
    assert stat(stats, "rejected_reward") == pytest.approx(-0.3)


@spec(
    "DPO-06",
    "Exchanging chosen and rejected adds the margin to the loss of a pair.",
    formula="−log σ(−m) + log σ(m) = m",
)
def test_swapping_chosen_and_rejected_swaps_the_sign_of_the_margin(dpo_loss):
    """The exchange turns the sign of the margin, and nothing else."""
    chosen, rejected, ref_chosen, ref_rejected = normal(4, 3)
    loss, _ = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, 0.5)
    swapped, _ = dpo_loss(rejected, chosen, ref_rejected, ref_chosen, 0.5)
    margin = 0.5 * ((chosen - ref_chosen) - (rejected - ref_rejected))
    torch.testing.assert_close(swapped - loss, margin.mean())


@spec(
    "DPO-07",
    "The logged rewards are those whose difference is the margin in the loss.",
    formula="mean chosen reward − mean rejected reward = mean margin",
    differs="direct-preference-optimization, trainers.py:73 and 84: with reference_free the "
    "reference is left out of the loss but not out of the logged rewards",
)
def test_the_stats_are_those_of_the_losss_own_margins(dpo_loss):
    """The margins are recovered from the losses of single pairs."""
    logprobs = normal(4, 3)
    stats = dpo_loss(*logprobs, 0.5)[1]
    losses = [dpo_loss(*(x[i : i + 1] for x in logprobs), 0.5)[0].item() for i in range(3)]
    margins = [-math.log(math.expm1(loss)) for loss in losses]  # the inverse of -log sigmoid
    difference = stat(stats, "chosen_reward") - stat(stats, "rejected_reward")
    assert difference == pytest.approx(sum(margins) / 3, abs=1e-5)


@spec(
    "DPO-08",
    "The gradient of a pair is β σ(−margin) / N in size, so that it is largest where the order is "
    "most wrong.",
    formula="∂loss/∂log π(chosen) = −β σ(−margin) / N,  ∂loss/∂log π(rejected) = β σ(−margin) / N, "
    "N pairs",
    source="Rafailov et al. 2023, the gradient of equation 7",
)
def test_the_gradient_pushes_hardest_where_the_order_is_most_wrong(dpo_loss):
    """A pair in the right order by a wide margin has almost no gradient."""
    chosen, rejected = normal(2, 3).requires_grad_()
    loss, _ = dpo_loss(chosen, rejected, torch.zeros(3), torch.zeros(3), 0.5)
    gradients = torch.autograd.grad(loss, [chosen, rejected])
    expected = 0.5 * torch.sigmoid(-0.5 * (chosen - rejected)).detach() / 3
    torch.testing.assert_close(gradients[0], -expected)
    torch.testing.assert_close(gradients[1], expected)


@spec(
    "DPO-09",
    "The DPO loss and its gradient are finite far from the reference.",
    formula="−log σ(x) = log(1 + e^−x)",
    example="β = 1, one pair 2000 nats in the wrong order and one 2000 in the right one: (2000 + "
    "0) / 2 = 1000.",
)
def test_loss_and_gradient_are_finite_far_from_the_reference(dpo_loss):
    """The logarithm of a sigmoid would be −inf and its gradient NaN, as in the reward model's loss
    of minChatGPT (RM-13)."""
    chosen = torch.tensor([-1000.0, 1000.0], requires_grad=True)
    loss, _ = dpo_loss(chosen, -chosen, torch.zeros(2), torch.zeros(2), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(1000) and torch.isfinite(chosen.grad).all()


@spec(
    "DPO-10",
    "Between two responses and with a uniform reference, the optimal policy has the odds of the "
    "labels to the power of 1/β.",
    formula="log(p / (1 − p)) = log(q / (1 − q)) / β",
    example="β = 0.5 and labels that prefer the first response 3 times in 4: odds 3² = 9, p = 0.9.",
    source="Rafailov et al. 2023, equation 6",
)
def test_the_optimum_of_two_responses_has_the_odds_of_the_labels(dpo_loss):
    """The closed form of the optimal policy with a Bradley-Terry reward."""
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    uniform = torch.full((4,), 0.5, dtype=torch.float64).log()
    winners = torch.tensor([0, 0, 0, 1])
    optimizer = torch.optim.LBFGS([logits], max_iter=100, tolerance_grad=1e-10)

    def closure():
        optimizer.zero_grad()
        log_p = torch.log_softmax(logits, 0)
        loss, _ = dpo_loss(log_p[winners], log_p[1 - winners], uniform, uniform, 0.5)
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    assert torch.softmax(logits, 0)[0].item() == pytest.approx(0.9, abs=1e-4)
