"""Edges of the numbers that are no sentences of the specification: constant returns, half
precision, ratios that overflow, KL control at its limits."""

import math

import pytest
import torch
from spec.tensors import normal

from minirlhf import dpo, grpo, model, ppo, reward

CONSTANTS = pytest.mark.parametrize("constant", [0.0, 0.1, 1000.1])


@CONSTANTS
@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize("columns", [1, 10, 1000])
def test_of_constant_returns_nothing_is_explained(constant, spread, columns):
    """Neither -inf nor NaN, whatever the values are. With λ = 1 and one score for all, the returns
    of `gae` are constant up to the rounding of a thousand sums."""
    mask = torch.ones(4, columns, dtype=torch.bool)
    rewards, values = torch.zeros(4, columns), spread * normal(4, columns)
    rewards[:, -1] = constant
    _, returns = ppo.gae(rewards, values, mask, lam=1.0)
    assert ppo.explained_variance(values, returns, mask) == 0


@CONSTANTS
def test_of_returns_that_vary_little_most_is_explained(constant):
    """A deviation of .02 from 1000.1 is no rounding. The error has a tenth of its size."""
    mask = torch.ones(4, 100, dtype=torch.bool)
    returns = constant + 2e-2 * normal(4, 100)
    values = returns + 2e-3 * normal(4, 100, seed=1)
    assert ppo.explained_variance(values, returns, mask) == pytest.approx(0.99, abs=2e-3)


def test_a_return_that_is_not_a_number_is_not_taken_for_a_constant():
    """An explained variance of 0 would hide it."""
    returns, mask = torch.tensor([[1.0, math.nan, 2.0]]), torch.ones(1, 3, dtype=torch.bool)
    assert ppo.explained_variance(torch.zeros(1, 3), returns, mask).isnan()


EVERYTHING = torch.ones(2, 3, dtype=torch.bool)
IN_FULL_PRECISION = {  # a function: how many tensors it takes, and what follows them
    ppo.whiten: (1, EVERYTHING),
    ppo.kl_k3: (2,),
    ppo.gae: (2, EVERYTHING),
    ppo.policy_loss: (3, EVERYTHING),
    ppo.value_loss: (3, EVERYTHING),
    dpo.dpo_loss: (4, 0.1),
    dpo.ipo_loss: (4, 0.1),
    dpo.kto_loss: (2, EVERYTHING, 0.0, 0.1),
    dpo.kto_reference_point: (2,),
    dpo.simpo_loss: (2, 2.0, 0.5),
    dpo.orpo_loss: (2, 0.1),
    grpo.group_advantages: (1, "grpo"),
    reward.preference_loss: (2,),
    reward.ranking_loss: (1, torch.tensor([[0, 1, 2]] * 2)),
}


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("function", IN_FULL_PRECISION, ids=lambda x: x.__name__)
def test_half_precision_is_refused_and_double_precision_is_kept(function, half):
    """Whichever of the tensors it is. bf16 rounds an advantage of 9.9 by up to .03 at each step."""
    n, *rest = IN_FULL_PRECISION[function]
    tensors = list(normal(n, 2, 3))
    for i in range(n):
        mixed = [x.to(half) if i == j else x for j, x in enumerate(tensors)]
        with pytest.raises(TypeError, match=f"{function.__name__} computes in float32, and got"):
            function(*mixed, *rest)
    for dtype in (torch.float32, torch.float64):
        result = function(*(x.to(dtype) for x in tensors), *rest)
        result = result[0] if isinstance(result, tuple) else result
        assert result.dtype == dtype


@pytest.mark.parametrize("place", range(3))
def test_a_score_in_bf16_is_refused_as_its_digits_are_lost_already(place):
    """1000.1 in bf16 is 1000. So are log-probabilities, whose type the rewards have."""
    tensors = [torch.tensor([1000.1]), torch.zeros(1, 3), torch.zeros(1, 3)]
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert ppo.token_rewards(*tensors, mask, 0.1)[0, 2] == torch.tensor(1000.1)
    tensors[place] = tensors[place].bfloat16()
    with pytest.raises(TypeError, match="token_rewards computes in float32"):
        ppo.token_rewards(*tensors, mask, 0.1)


def test_logits_in_bf16_are_refused():
    """Their log-probabilities would be in bf16, too."""
    with pytest.raises(TypeError, match="token_logprobs computes in float32"):
        model.token_logprobs(torch.zeros(2, 3).bfloat16(), torch.tensor([0, 1]))


@pytest.mark.parametrize(("advantage", "grows"), [(-1.0, True), (0.0, False), (1.0, False)])
def test_only_a_bad_token_that_became_likely_has_a_loss_that_overflows(advantage, grows):
    """Its gradient is real, and the training loop stops at the infinite loss. To limit its ratio
    would hide the divergence."""
    tensors = torch.tensor([[1000.0]]), torch.zeros(1, 1), torch.tensor([[advantage]])
    loss, stats = ppo.policy_loss(*tensors, torch.ones(1, 1, dtype=torch.bool))
    assert loss.isinf() == grows and not loss.isnan()
    assert stats["ratio_max"] == (math.inf if grows else torch.tensor(80.0).exp())


def test_more_episodes_than_the_horizon_count_as_the_horizon():
    """And up to it nothing changes, to the bit."""
    for kl in (0.0, 5.9, 6.1, 1e6):
        error = min(max(kl / 6 - 1, -0.2), 0.2)
        for episodes, counted in ((9_999, 9_999), (10_000, 10_000), (70_000, 10_000)):
            expected = 0.15 * (1 + error * counted / 10_000)
            assert ppo.AdaptiveKL(0.15, 6, 10_000).update(kl, episodes) == expected


def test_without_a_target_the_coefficient_stays_as_it_is():
    """A target of 0 is none, and is not divided by."""
    for kl in (0.0, 100.0, math.inf, math.nan):
        assert ppo.AdaptiveKL(0.15, 0, 10_000).update(kl, 512) == 0.15
