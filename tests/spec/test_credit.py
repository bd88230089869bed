"""Which tokens of a response earn its score, and what that leaves as it was: two binary tokens,
whose four responses can be enumerated."""

import math

import pytest
import torch
import torch.nn.functional as F

from spec.sentences import spec
from spec.tensors import normal

RESPONSES = [(0, 0), (0, 1), (1, 0), (1, 1)]
SCORES = torch.tensor([1.0, 0.0, 0.5, 2.0], dtype=torch.float64)
FIRST = torch.tensor([0.9, 0.2, 0.5, 0.4], dtype=torch.float64)  # the weight of the first token
WEIGHTS = torch.stack([FIRST, 1 - FIRST], 1)
POTENTIALS = torch.tensor([[-1.2, 9.0], [-1.2, 9.0], [0.7, 9.0], [0.7, 9.0]], dtype=torch.float64)
MASK = torch.ones(4, 2, dtype=torch.bool)
OPTIMUM = 0.8881515905, -1.0, 1.5  # of E[score] - KL(policy || uniform)
ELSEWHERE = 0.3, -0.2, 0.5
TRUE_GRADIENT = 0.1365373615, -0.0842660238, 0.1349961239  # there


def logprobs_of(logits):
    """(4, 2) log-probabilities of the tokens. The first logit is that of the first token, the
    others are those of the second one after a 0 and after a 1."""
    first = [F.logsigmoid(logits[0] if a else -logits[0]) for a, _ in RESPONSES]
    second = [F.logsigmoid(logits[1 + a] if b else -logits[1 + a]) for a, b in RESPONSES]
    return torch.stack([torch.stack(pair) for pair in zip(first, second, strict=True)])


def expected_gradient(token_rewards, gae, extra, logits):
    """The expectation of PPO's gradient at the policy that sampled, lambda 1, over all responses.
    `extra` is added to the rewards."""
    logits = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    logprobs = logprobs_of(logits)
    uniform = torch.full((4, 2), math.log(0.5), dtype=torch.float64)
    rewards = token_rewards(SCORES, logprobs.detach(), uniform, MASK, 1.0) + extra
    advantages, _ = gae(rewards, torch.zeros_like(rewards), MASK, 1.0, 1.0)
    probabilities = logprobs.sum(1, keepdim=True).exp().detach()
    (probabilities * advantages * logprobs).sum().backward()
    return logits.grad


def assert_gradient(gradient, *numbers):
    expected = torch.tensor(numbers, dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=2e-9)


@spec(
    "CREDIT-01",
    "Credit by weights moves a share of the score from the last response token to all of them, in "
    "proportion to weights that are scaled to a sum of 1 over the response.",
    formula="r_t = β α_t R + (1 − β) R [t = T], Σ α_t = 1",
    example="Weights .05, .10, .30, .15, .20 of five tokens (the prompt had .20), R 1.7, β .8: "
    "0.085, 0.17, 0.51, 0.255, 0.68, in all 1.7.",
    source="ABC",
)
def test_a_share_of_the_score_is_divided_by_weight(redistribute):
    """Attention to the prompt is left out before the division: else a part of the score is lost."""
    weights = torch.tensor([[0.2, 0.05, 0.10, 0.30, 0.15, 0.20, 0.7]]).double()
    mask = torch.tensor([[0, 1, 1, 1, 1, 1, 0]]).bool()
    added = redistribute(torch.tensor([1.7]).double(), weights, mask, 0.8)
    expected = torch.tensor([[0.0, 0.085, 0.17, 0.51, 0.255, 0.68 - 1.7, 0.0]]).double()
    torch.testing.assert_close(added, expected, rtol=0, atol=1e-7)


@spec(
    "CREDIT-02",
    "Whatever the weights and the share, the rewards of a response have the sum that they had; a "
    "share of 0 moves nothing, and without any weight every token has the same.",
)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_sum_of_a_response_is_its_score(redistribute, share):
    """At a discount of 1 every whole episode is worth what it was worth, and so is every policy."""
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 0, 1, 0, 0]]).bool()
    scores, weights = torch.tensor([2.0, -3.0, 1.0]), normal(3, 5).abs()
    added = redistribute(scores, weights, mask, share)
    torch.testing.assert_close(added.sum(1), torch.zeros(3), rtol=0, atol=1e-6)
    assert not added[~mask].any() and bool(added.any()) == bool(share)
    even = redistribute(scores, torch.zeros(3, 5), mask, 1.0)
    torch.testing.assert_close(even[1, 1:], torch.tensor([-0.75, -0.75, -0.75, 2.25]))


@spec(
    "CREDIT-03",
    "Credit by weights that depend on the whole response changes the expected gradient of PPO, "
    "though not the return of any response: at the optimum of the score it is not 0.",
    formula="a later token is trained on R (1 − β α_1), the share of the score that is left",
    example="Two binary tokens, KL 1 to the uniform policy, R(00) 1, R(01) 0, R(10) .5, R(11) 2, "
    "weights of the first token .9, .2, .5, .4: at the optimum the gradient is (0, 0.025790, "
    "−0.029060) with β .5, (0, 0.041264, −0.046495) with .8, (0, 0.051580, −0.058119) with 1.",
    differs="ABC, whose abstract says that it is potential-based shaping, which leaves the optimal "
    "policy unchanged: that of the expected return it does, and not that of PPO's update",
    source="ABC",
)
@pytest.mark.parametrize(
    ("share", "second", "third"),
    [
        (0.0, 0.0, 0.0),
        (0.5, 0.0257898114, -0.0290596737),
        (0.8, 0.0412636982, -0.0464954779),
        (1.0, 0.0515796227, -0.0581193474),
    ],
)
def test_credit_by_weight_keeps_the_return_and_not_the_gradient(
    redistribute, token_rewards, gae, share, second, third
):
    """Reward-to-go drops what earlier tokens were paid, as if it did not depend on this one. Here
    it does: weights and score are those of the whole response."""
    added = redistribute(SCORES, WEIGHTS, MASK, share)
    torch.testing.assert_close(added.sum(1), torch.zeros(4).double())
    assert_gradient(expected_gradient(token_rewards, gae, added, OPTIMUM), 0.0, second, third)
    if share == 0.8:
        elsewhere = expected_gradient(token_rewards, gae, added, ELSEWHERE)
        assert_gradient(elsewhere, TRUE_GRADIENT[0], -0.0084266024, 0.0755978294)


@spec(
    "CREDIT-04",
    "Credit by differences of a potential that reads prefixes only, and is 0 at both ends, keeps "
    "the return of every response and the expected gradient of PPO.",
    formula="r_t = Φ(s_{t+1}) − Φ(s_t) + R [t = T], Φ(start) = Φ(end) = 0",
    example="In the problem of CREDIT-03, Φ(0) −1.2 and Φ(1) .7: the gradient is 0 at the optimum, "
    "and (0.136537, −0.084266, 0.134996), the true one, at logits .3, −.2, .5.",
    source="Ng et al. 1999",
)
def test_credit_by_a_potential_of_prefixes_keeps_return_and_gradient(shaping, token_rewards, gae):
    """What is left to come after a prefix changes by -Φ of it, which every token that may follow
    shares: it is a baseline. At lambda 1 it is a value function to start from."""
    added = shaping(POTENTIALS, MASK)
    torch.testing.assert_close(added.sum(1), torch.zeros(4).double())
    assert_gradient(expected_gradient(token_rewards, gae, added, OPTIMUM), 0.0, 0.0, 0.0)
    assert_gradient(expected_gradient(token_rewards, gae, added, ELSEWHERE), *TRUE_GRADIENT)


@spec(
    "CREDIT-05",
    "A token is paid the potential of the prefix that it completes minus that of the prefix before "
    "it; the first starts from 0, the last ends at 0.",
    example="Potentials 3, 5, 4 of three tokens: 3, 2, −5.",
)
def test_a_token_is_paid_for_the_change_that_it_makes(shaping):
    """Whatever stands outside the mask, and at the last token, does not matter."""
    mask = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 0, 1, 0]]).bool()
    potentials = torch.tensor([[9.0, 3.0, 5.0, 4.0, 9.0], [9.0, 9.0, 9.0, 9.0, math.nan]])
    expected = torch.tensor([[0.0, 3.0, 2.0, -5.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(shaping(potentials, mask), expected)
