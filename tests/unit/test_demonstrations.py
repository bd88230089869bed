"""Rewards from demonstrations, rewards/demonstrations.py: what the comparisons are, and what their
optimum is, exactly."""

import math

import pytest
import torch
from exact import ENDED, EXACT_PROMPTS, RESPONSES, Tabular, response_logprobs
from spec.tensors import normal

from minirlhf import reward
from minirlhf.data import Comparison, Demonstration
from minirlhf.dpo import dpo_loss
from minirlhf.rewards.demonstrations import compare

DEMO = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
POLICY = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)


# ---- the comparisons


def test_the_demonstration_is_chosen_and_the_response_to_the_same_prompt_rejected():
    """The other way round the policy would learn to be anything but the writer."""
    demonstrations = [Demonstration("a", "yes"), Demonstration("b", "no")]
    assert compare(demonstrations, ["maybe", "never"]) == [
        Comparison("a", ["yes", "maybe"], [0, 1]),
        Comparison("b", ["no", "never"], [0, 1]),
    ]


def test_a_response_that_is_the_demonstration_is_left_out():
    """Short answers are often the same. The prompts of the others stay theirs."""
    demonstrations = [Demonstration("a", "yes"), Demonstration("b", "no")]
    assert compare(demonstrations, ["yes", "yes"]) == [Comparison("b", ["no", "yes"], [0, 1])]
    with pytest.raises(ValueError):
        compare(demonstrations, ["yes"])


@pytest.mark.parametrize("side", ["reward model", "policy"])
def test_such_a_pair_would_teach_nothing(side):
    """log 2, without a gradient: by the reward model's loss and by DPO's (SPIN)."""
    same = normal(3).requires_grad_()
    if side == "reward model":
        loss = reward.preference_loss(same, same)
    else:
        reference = normal(3, seed=1)
        loss, _ = dpo_loss(same, same, reference, reference, beta=0.1)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6) and not same.grad.any()


# ---- the optimum of the reward model


def expected_loss(scores, chosen, rejected):
    """The preference loss over all pairs, with y from `chosen` and y' from `rejected`."""
    pairs = [(i, j) for i in range(len(scores)) for j in range(len(scores))]
    losses = [reward.preference_loss(scores[i : i + 1], scores[j : j + 1]) for i, j in pairs]
    weights = [chosen[i] * rejected[j] for i, j in pairs]
    return sum(weight * loss for weight, loss in zip(weights, losses, strict=True))


def test_the_optimum_of_the_comparisons_is_the_discriminators_logit():
    """log d - log pi, up to a constant: .9162907319, .2231435513, -.8754687374 for the classifier
    of GAIL. At the policy itself their mean is -KL(pi || d)."""
    logit = (DEMO / POLICY).log()
    golden = torch.tensor([0.9162907319, 0.2231435513, -0.8754687374], dtype=torch.float64)
    torch.testing.assert_close(logit, golden, rtol=0, atol=1e-9)
    slopes = []
    for start in (logit, logit + 3.7, 0 * logit, 2 * logit):
        scores = start.clone().requires_grad_()
        expected_loss(scores, DEMO, POLICY).backward()
        slopes.append(scores.grad.abs().max().item())
    assert max(slopes[:2]) < 1e-9 and min(slopes[2:]) > 0.01
    assert (POLICY * logit).sum().item() == pytest.approx(-0.2973943858, abs=1e-9)


def test_where_the_policy_is_the_writer_nothing_can_be_learned():
    """The fixed point of adversarial feedback: equal scores are the optimum."""
    scores = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    expected_loss(scores, DEMO, DEMO).backward()
    assert scores.grad.abs().max() < 1e-12


# ---- the optimum of the policy, on the problem that can be enumerated


def tables():
    """(the writers, the policy of the comparisons): other probabilities for every response."""
    policy, writers = Tabular(), Tabular()
    writers.table.data += 0.7 * normal(*writers.table.shape, seed=5)
    return writers, policy


@pytest.mark.parametrize("prompt", EXACT_PROMPTS)
def test_against_the_logit_the_optimum_at_a_kl_coef_of_one_is_the_writers(prompt):
    """pi exp(z / beta) / Z. Below 1 it lies beyond them: what they do more often than the policy it
    does more often than they."""
    log_d, log_pi = (response_logprobs(gpt, prompt, RESPONSES) for gpt in tables())
    logit = log_d - log_pi + 3.7  # a reward model leaves a constant of the prompt open

    def optimum(kl_coef):
        return torch.log_softmax(log_pi + logit / kl_coef, 0)

    torch.testing.assert_close(optimum(1.0), log_d, rtol=0, atol=1e-6)
    beyond = optimum(0.5) - log_pi
    assert ((optimum(0.5).exp() * beyond).sum()) > 2 * (log_d.exp() * (log_d - log_pi)).sum()


@pytest.mark.parametrize("prompt", EXACT_PROMPTS)
@pytest.mark.parametrize(("beta", "share"), [(1.0, 1.0), (2.0, 0.5)])
def test_a_round_of_spin_ends_where_the_comparisons_say(prompt, beta, share):
    """At beta 1 at the writers, with a stronger pull half way: pi (d / pi)^(1 / beta). There the
    expected gradient of DPO over all pairs is 0, which it is not at the start. Of the 40 responses
    the 13 that end are enough."""
    log_d, log_pi = (
        torch.log_softmax(response_logprobs(gpt, prompt, RESPONSES)[ENDED], 0) for gpt in tables()
    )
    goal = torch.log_softmax(log_pi + share * (log_d - log_pi), 0)
    pairs = [(i, j) for i in range(len(log_d)) for j in range(len(log_d))]

    def slope(start):
        """Of the sum over pairs of their probability times their loss."""
        logits = start.clone().requires_grad_()
        logprobs, loss = torch.log_softmax(logits, 0), 0.0
        for i, j in pairs:
            sides = (x[k : k + 1] for x in (logprobs, log_pi) for k in (i, j))
            loss = loss + (log_d[i] + log_pi[j]).exp() * dpo_loss(*sides, beta)[0]
        loss.backward()
        return logits.grad.abs().max().item()

    assert slope(goal) < 1e-7 < 1e-3 < slope(log_pi)


def test_spins_loss_is_worked_by_hand():
    """A demonstration at -5 under the policy and -6 under its opponent, the own response at -4.5
    and -4, beta .1: the margin is .15."""
    sides = (torch.tensor([x], dtype=torch.float64) for x in (-5.0, -4.5, -6.0, -4.0))
    loss, stats = dpo_loss(*sides, beta=0.1)
    assert loss.item() == pytest.approx(0.6209570478, abs=1e-9)
    margin = stats["chosen_reward"] - stats["rejected_reward"]
    assert margin.item() == pytest.approx(0.15, abs=1e-9)
