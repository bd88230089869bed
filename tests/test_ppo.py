"""The specification of PPO for language models, in the order of ppo.py. Where somebody got a detail wrong, the test says who.

Three rows, no two alike, run through most of it: prompts of 1, 3 and 2 tokens, responses of 4, 1 and 6, and a last column that
belongs to nobody. At the end PPO has to find the optimum of a problem small enough to enumerate.
"""

import copy
import dataclasses
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import train_ppo
from minirlhf import checkpoint, config, ppo
from minirlhf.generate import Samples, generate
from minirlhf.metrics import read_metrics
from minirlhf.model import logprobs, response_mask, set_learning_rate
from minirlhf.ppo import ActorCritic, AdaptiveKL, gae, kl_k3, masked_mean, policy_loss, token_rewards, value_loss, whiten
from minirlhf.reward import RewardModel
from minirlhf.tokenizer import get_tokenizer

T = 9
PROMPT_LENGTHS, LENGTHS = torch.tensor([1, 3, 2]), torch.tensor([5, 4, 8])
MASK = response_mask(PROMPT_LENGTHS, LENGTHS, T)  # (3, 8): columns 0-3, 2, 1-6
JUNK = pytest.mark.parametrize("junk", [1e9, -1e9, math.nan])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ragged(n, seed=0, mask=MASK):
    """n random (B, T-1) tensors, zero outside the mask."""
    return [torch.where(mask, x, 0.0) for x in normal(n, *mask.shape, seed=seed)]


def spoil(x, junk, mask=MASK):
    return torch.where(mask, x, junk)


def row(*numbers):
    return torch.tensor([numbers], dtype=torch.float32)


def same(a, b):
    """Whether two dictionaries of numbers agree, NaN with nothing."""
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(torch.as_tensor(a[name]), torch.as_tensor(b[name]), rtol=1e-5, atol=1e-6, msg=name)


@st.composite
def batches(draw):
    """(mask, seed) of a random ragged batch, perhaps with columns that belong to no row."""
    spans = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=5))
    prompt_lengths = torch.tensor([prompt for prompt, _ in spans])
    lengths = torch.tensor([prompt + response for prompt, response in spans])
    mask = response_mask(prompt_lengths, lengths, int(lengths.max()) + draw(st.integers(0, 3)))
    return mask, draw(st.integers(0, 10_000))


random_batches = settings(max_examples=30, deadline=None, derandomize=True)


def neighbour(gpt, scale=0.03, seed=9):
    """A policy a little way off."""
    other = copy.deepcopy(gpt).requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    for parameter in other.parameters():
        parameter.data += scale * torch.randn(parameter.shape, generator=generator)
    return other


def make_actor(gpt, critic=None):
    """An ActorCritic whose values are not zero."""
    actor = ActorCritic(gpt, critic)
    if critic is None:
        actor.value_head.weight.data = normal(1, gpt.config.width, seed=5) / 4
        actor.value_head.bias.data += 0.3
    return actor


def make_reward_model(gpt):
    model = RewardModel(gpt)
    model.head.weight.data = normal(1, gpt.config.width, seed=6) / 4
    model.mean.fill_(0.7)
    model.spread.fill_(2.5)
    return model.requires_grad_(False)


def make_samples(T=T, seed=0):
    """Three responses; the second was cut off. Right of a row's end stand random ids."""
    tokens = torch.randint(50, (3, T), generator=torch.Generator().manual_seed(seed))
    tokens[:, :9] = torch.randint(50, (3, 9), generator=torch.Generator().manual_seed(77))
    beyond = torch.arange(T) >= LENGTHS[:, None]
    tokens[beyond] = torch.randint(50, (3, T), generator=torch.Generator().manual_seed(seed))[beyond]
    return Samples(tokens, PROMPT_LENGTHS, LENGTHS, torch.tensor([True, False, True]))


SCORES = torch.tensor([0.5, -3.0, 1.5])


def roll(actor, reference, samples, steps, temperature=1.0, kl_coef=0.1, scores=SCORES):
    told = ppo.score_tokens(actor, reference, samples, steps[0], temperature)
    return ppo.make_rollout(samples, scores, *told, kl_coef)


ALL_AT_ONCE = [[[[0, 1, 2]]]]  # one epoch of one minibatch of one microbatch


class Recorder(torch.optim.SGD):
    """An optimiser that keeps the gradients it is given, one dictionary a step."""

    def __init__(self, model, lr=0.0):
        super().__init__(model.parameters(), lr=lr)
        self.named, self.gradients = dict(model.named_parameters()), []

    def step(self):
        self.gradients.append({name: p.grad.clone() for name, p in self.named.items()})
        super().step()


# ---- policy and value function


def test_values_are_zero_at_first_with_the_shared_head(make_gpt):
    """ppo-details 37: an untrained value is no information, and 0 is the mean of the scores. A random head would start the
    advantages with noise."""
    tokens = make_samples().tokens
    _, values, _ = ActorCritic(make_gpt())(tokens, MASK)
    assert (values == 0).all()


def test_a_separate_critic_says_the_reward_models_normalised_score_at_the_end_token(make_gpt):
    """InstructGPT's critic starts as the reward model, and what it is to predict is in *normalised* scores: mean 0.7 and spread
    2.5 are folded into its head, (raw - 0.7) / 2.5."""
    reward_model = make_reward_model(make_gpt(seed=2))
    actor = ActorCritic(make_gpt(), reward_model)
    tokens = make_samples().tokens
    _, values, _ = actor(tokens, torch.ones(3, T - 1, dtype=torch.bool))
    at_the_end = values[torch.arange(3), LENGTHS - 1]  # the state that has seen the end token
    torch.testing.assert_close(at_the_end, reward_model(tokens, LENGTHS), rtol=1e-5, atol=1e-5)


def test_a_separate_critic_is_a_copy_that_leaves_policy_and_reward_model_alone(make_gpt):
    reward_model = make_reward_model(make_gpt(seed=2))
    actor = ActorCritic(make_gpt(), reward_model)
    assert all(p.requires_grad for p in actor.parameters())
    theirs = {p.data_ptr() for p in [*reward_model.parameters(), *reward_model.buffers()]}
    assert not theirs & {p.data_ptr() for p in actor.parameters()}
    actor(make_samples().tokens, MASK)[1].sum().backward()
    assert all(p.grad is None for p in actor.gpt.parameters()), "the value function trains the policy's trunk"
    assert all(p.grad is not None for p in actor.critic.parameters())


def test_a_value_does_not_see_the_token_that_is_being_chosen(make_gpt):
    """values[:, t] is the value of the state *before* tokens[:, t + 1]. A baseline that sees its action takes the reward away
    from it: PALM-6 averages over the response, minRLHF regresses V after the token (MRL-2)."""
    actor, everywhere = make_actor(make_gpt()), torch.ones(3, T - 1, dtype=torch.bool)
    tokens = make_samples().tokens
    _, before, _ = actor(tokens, everywhere)
    for t in range(T - 1):
        changed = tokens.clone()
        changed[:, t + 1 :] = (changed[:, t + 1 :] + 7) % 50
        _, after, _ = actor(changed, everywhere)
        torch.testing.assert_close(after[:, : t + 1], before[:, : t + 1])
        assert (after[:, t + 1 :] != before[:, t + 1 :]).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_one_pass_gives_the_policys_logprobs_and_the_entropy_at_its_temperature(make_gpt, temperature):
    """Held against a loop over tokens, each scored from its own prefix (ppo-details 10 and 12)."""
    gpt, tokens = make_gpt(), make_samples().tokens
    told, _, entropy = make_actor(gpt)(tokens, MASK, temperature)
    for b, t in MASK.nonzero().tolist():
        p = torch.softmax(gpt(tokens[b : b + 1, : t + 1])[0, -1] / temperature, -1)
        torch.testing.assert_close(told[b, t], p[tokens[b, t + 1]].log(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(entropy[b, t], -(p * p.clamp(min=1e-30).log()).sum(), rtol=1e-4, atol=1e-5)


def test_a_row_gets_what_it_would_get_alone_and_zero_elsewhere(make_gpt):
    """Padding changes no log-probability, value or entropy (minChatGPT's score went from .36 to .14 with 50 pads, MCG-1)."""
    actor, tokens = make_actor(make_gpt()), make_samples().tokens
    together = actor(tokens, MASK)
    for b, n in enumerate(LENGTHS.tolist()):
        alone = actor(tokens[b : b + 1, :n], MASK[b : b + 1, : n - 1])
        for whole, part in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[b : b + 1, : n - 1], part, rtol=1e-5, atol=1e-5)
    assert all((x[~MASK] == 0).all() for x in together)


# ---- masked statistics


def test_a_masked_mean_is_over_the_true_entries_alone():
    """(1 + 2 + 6) / 3 = 3, whatever else is there."""
    x = torch.tensor([[1.0, 2.0, math.nan], [6.0, math.inf, 1e9]])
    assert masked_mean(x, torch.tensor([[True, True, False], [True, False, False]])) == 3


def test_whitening_divides_by_the_biased_standard_deviation():
    """[1, 2, 3, 4] has mean 2.5 and variance 1.25, so -1.5 becomes -1.3416; Bessel's 5/3 would make it -1.1619 (TRL)."""
    everything = torch.ones(1, 4, dtype=torch.bool)
    expected = row(-1.341641, -0.447214, 0.447214, 1.341641)
    torch.testing.assert_close(whiten(row(1, 2, 3, 4), everything), expected, rtol=1e-5, atol=1e-5)


def test_whitening_without_shift_keeps_the_mean():
    """The same plus 2.5. torchtune has it the other way round: its advantages are not centred, and its tests pin that."""
    everything = torch.ones(1, 4, dtype=torch.bool)
    expected = row(1.158359, 2.052786, 2.947214, 3.841641)
    torch.testing.assert_close(whiten(row(1, 2, 3, 4), everything, shift_mean=False), expected, rtol=1e-5, atol=1e-5)


@random_batches
@given(batches())
def test_whitened_tokens_have_mean_zero_and_variance_one(batch):
    """Over the response tokens of the whole batch, not of a row (MRL-1) and not of the padding (BOOK-8)."""
    mask, seed = batch
    (x,) = ragged(1, seed, mask)
    whitened = whiten(3 * x + 5, mask)[mask]
    torch.testing.assert_close(whitened.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    if mask.sum() > 1:
        torch.testing.assert_close(whitened.var(correction=0), torch.tensor(1.0), atol=1e-3, rtol=0)


@JUNK
@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_does_not_see_what_is_outside_the_mask(junk, shift_mean):
    """AlpacaFarm and trlX whiten over the padding too."""
    (x,) = ragged(1)
    whitened = whiten(spoil(x, junk), MASK, shift_mean)
    assert torch.equal(whitened, whiten(x, MASK, shift_mean))
    assert (whitened[~MASK] == 0).all()


def test_whitening_a_constant_gives_zeros():
    """All advantages equal: nothing can be learned, and 0/0 must not say otherwise (MRL-1 gives NaN)."""
    assert torch.equal(whiten(torch.full(MASK.shape, 4.0), MASK), torch.zeros(MASK.shape))


# ---- KL, its estimators, and the reward of a token


def test_k3_of_three_tenths_is_worked_by_hand():
    """log(policy / reference) = .3: e^-.3 - 1 + .3 = .040818; at -.3: e^.3 - 1 - .3 = .049859. With the ratio inverted the two
    swap (MCG-5, BOOK-2 and its test)."""
    k3 = kl_k3(torch.tensor([0.3, -0.3]), torch.zeros(2))
    torch.testing.assert_close(k3, torch.tensor([0.040818, 0.049859]), rtol=0, atol=1e-6)


def test_k3_is_never_negative():
    policy, reference = normal(2, 1000).double()
    assert (kl_k3(policy, reference) >= 0).all()


def categorical(seed=0):
    """Logits of a policy and log-probabilities of a reference over 5 tokens, in float64."""
    logits, reference = normal(2, 5, seed=seed).double()
    return logits.requires_grad_(), torch.log_softmax(reference, -1)


def k1_reward(log_p, reference):
    """-k1 of every token of a vocabulary, through `token_rewards`: five responses of one token, without a score."""
    mask = torch.ones(5, 1, dtype=torch.bool)
    return token_rewards(torch.zeros(5), log_p[:, None], reference[:, None], mask, 1.0)[:, 0]


def test_k1_and_k3_both_average_to_the_kl():
    """sum_a p(a) k(a) = KL(policy || reference), exactly: MRL-3 and BOOK-1 get its negative, MCG-5 gets 1.477 for 0.913."""
    logits, reference = categorical()
    log_p = torch.log_softmax(logits.detach(), -1)
    kl = torch.nn.functional.kl_div(reference, log_p, reduction="sum", log_target=True)
    torch.testing.assert_close((log_p.exp() * -k1_reward(log_p, reference)).sum(), kl, rtol=0, atol=1e-10)
    torch.testing.assert_close((log_p.exp() * kl_k3(log_p, reference)).sum(), kl, rtol=0, atol=1e-10)


def expected_gradient(logits, reward):
    """sum_a p(a) reward(a) grad log p(a): what policy gradient does with this reward, in expectation."""
    log_p = torch.log_softmax(logits, -1)
    return torch.autograd.grad((log_p.exp().detach() * reward.detach() * log_p).sum(), logits)[0]


def kl_gradient(logits, reference):
    log_p = torch.log_softmax(logits, -1)
    return torch.autograd.grad((log_p.exp() * (log_p - reference)).sum(), logits)[0]


@pytest.mark.parametrize("seed", range(5))
def test_k1_in_the_reward_is_the_kl_gradient(seed):
    """To 1e-10, on an enumerated categorical (ppo-details 42)."""
    logits, reference = categorical(seed)
    log_p = torch.log_softmax(logits, -1)
    ours = expected_gradient(logits, k1_reward(log_p, reference))
    torch.testing.assert_close(ours, -kl_gradient(logits, reference), rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_k3_in_the_reward_is_not_the_kl_gradient(seed):
    """Near the reference it has next to no component along it: a token made rare is fined, and pushed further out. That is why
    the option does not exist here (TRL's kl_estimator="k3", OpenRLHF's k2 and k3)."""
    _, reference = categorical(seed)
    logits = (reference + 0.1 * normal(5, seed=100 + seed).double()).requires_grad_()
    log_p, true = torch.log_softmax(logits, -1), kl_gradient(logits, reference)
    theirs = expected_gradient(logits, -kl_k3(log_p, reference))
    assert abs((theirs @ -true) / (true @ true)) < 0.2


def test_rewards_are_the_kl_penalty_and_the_score_at_the_end():
    """kl .1, .2, .05, .3 at kl_coef .05 cost .005, .01, .0025, .015; the score 2 comes on top of the last: 1.985."""
    mask = torch.tensor([[True, True, True, True, False, False]])
    rewards = token_rewards(torch.tensor([2.0]), row(0.1, 0.2, 0.05, 0.3, 9, 9), torch.zeros(1, 6), mask, 0.05)
    torch.testing.assert_close(rewards, row(-0.005, -0.01, -0.0025, 1.985, 0, 0))


def test_a_token_rarer_than_in_the_reference_earns_a_bonus():
    """k1 is not clamped at 0: the bonus is the force that pulls back. AlpacaFarm clamps, and the exact problem collapses."""
    mask = torch.ones(1, 3, dtype=torch.bool)
    rewards = token_rewards(torch.zeros(1), row(-3, -1, -1), row(-1, -3, -1), mask, 0.1)
    torch.testing.assert_close(rewards, row(0.2, -0.2, 0))


@random_batches
@given(batches())
def test_rewards_add_up_to_the_score_minus_the_kl(batch):
    """Summed over a response, so that the penalty does not shrink with its length (MCG-5 averages)."""
    mask, seed = batch
    policy, reference = ragged(2, seed, mask)
    scores = normal(len(mask), seed=seed + 1)
    total = token_rewards(scores, policy, reference, mask, 0.3).sum(1)
    torch.testing.assert_close(total, scores - 0.3 * (policy - reference).sum(1), rtol=1e-4, atol=1e-5)


def test_the_score_lands_on_the_last_response_token():
    """Columns 3, 2 and 6: also for a response of one token. N+, TRL and torchtune put it on the first pad (ppo-details 44)."""
    zeros = torch.zeros(MASK.shape)
    rewards = token_rewards(torch.tensor([1.0, 2.0, 3.0]), zeros, zeros, MASK, 0.1)
    assert rewards.nonzero().tolist() == [[0, 3], [1, 2], [2, 6]]
    assert rewards[rewards != 0].tolist() == [1, 2, 3]


def test_an_end_token_in_the_very_last_slot_gets_the_score():
    """torchtune takes "has an end" for "has padding"."""
    mask = torch.tensor([[False, True, True], [False, False, True], [True, True, True]])
    rewards = token_rewards(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3, 3), torch.zeros(3, 3), mask, 0.1)
    assert rewards.tolist() == [[0, 0, 1], [0, 0, 2], [0, 0, 3]]


def test_a_response_without_a_token_is_refused():
    mask = MASK.clone()
    mask[1] = False
    with pytest.raises(ValueError, match="without a token"):
        token_rewards(SCORES, *ragged(2), mask, 0.1)


def test_without_a_penalty_the_reference_does_not_matter_and_without_a_difference_neither_does_the_penalty():
    policy, reference = ragged(2)
    assert torch.equal(
        token_rewards(SCORES, policy, reference, MASK, 0.0), token_rewards(SCORES, policy, 0 * policy, MASK, 0.0)
    )
    assert (token_rewards(torch.zeros(3), policy, policy, MASK, 5.0) == 0).all()


@JUNK
def test_rewards_do_not_see_what_is_outside_the_mask(junk):
    policy, reference = ragged(2)
    spoiled = token_rewards(SCORES, spoil(policy, junk), spoil(reference, -junk), MASK, 0.1)
    assert torch.equal(spoiled, token_rewards(SCORES, policy, reference, MASK, 0.1))


# ---- advantages

FOUR_OF_SIX = torch.tensor([[True, True, True, True, False, False]])
REWARDS, VALUES = row(-0.005, -0.01, -0.0025, 1.985, 0, 0), row(0.5, 0.6, 0.7, 0.8, 0, 0)
GOLDEN = {
    0.95: (1.284483, 1.252087, 1.223250, 1.185),
    1.0: (1.4675, 1.3725, 1.2825, 1.185),
    0.5: (0.3125, 0.435, 0.69, 1.185),
}


@pytest.mark.parametrize("lam", GOLDEN)
def test_gae_matches_a_hand_worked_episode(lam):
    """The last delta is 1.985 - .8 = 1.185: after the end there is no value. The one before, -.0025 + .8 - .7 = .0975, so
    A = .0975 + lam 1.185. Returns are A + V."""
    advantages, returns = gae(REWARDS, VALUES, FOUR_OF_SIX, lam=lam)
    torch.testing.assert_close(advantages, row(*GOLDEN[lam], 0, 0), rtol=0, atol=1e-5)
    torch.testing.assert_close(returns, advantages + VALUES)


def test_gamma_is_one_and_lambda_is_point_95_by_default():
    torch.testing.assert_close(gae(REWARDS, VALUES, FOUR_OF_SIX)[0], row(*GOLDEN[0.95], 0, 0), rtol=0, atol=1e-5)


def test_junk_after_the_end_does_not_leak_into_the_advantages():
    """r = -.1, -.2 and V = .3, .4 in two pads. Without the mask A[0] becomes 1.077427 (trlX, AlpacaFarm, rlhf-book PR 216)."""
    spoiled = gae(REWARDS + row(0, 0, 0, 0, -0.1, -0.2), VALUES + row(0, 0, 0, 0, 0.3, 0.4), FOUR_OF_SIX)
    for x, clean in zip(spoiled, gae(REWARDS, VALUES, FOUR_OF_SIX), strict=True):
        assert torch.equal(x, clean)


@JUNK
def test_advantages_do_not_see_what_is_outside_the_mask(junk):
    rewards, values = ragged(2)
    spoiled = gae(spoil(rewards, junk), spoil(values, junk), MASK)
    for x, clean in zip(spoiled, gae(rewards, values, MASK), strict=True):
        assert torch.equal(x, clean) and (x[~MASK] == 0).all()


@random_batches
@given(batches(), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_sum_of_discounted_deltas(batch, gamma, lam):
    """A_t = sum_k (gamma lam)^k delta_(t+k), written as two loops over each response."""
    mask, seed = batch
    rewards, values = ragged(2, seed, mask)
    expected = torch.zeros_like(values)
    for b in range(len(mask)):
        columns = mask[b].nonzero().flatten().tolist()
        V = [*values[b, columns].tolist(), 0.0]
        delta = [rewards[b, t].item() + gamma * V[i + 1] - V[i] for i, t in enumerate(columns)]
        for i, t in enumerate(columns):
            expected[b, t] = sum((gamma * lam) ** (k - i) * delta[k] for k in range(i, len(columns)))
    torch.testing.assert_close(gae(rewards, values, mask, gamma, lam)[0], expected, rtol=1e-4, atol=1e-4)


def rewards_to_come(rewards):
    return rewards.flip(1).cumsum(1).flip(1)


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_a_perfect_critic_leaves_no_advantage(lam):
    """V_t = the rewards still to come. minRLHF counts the reward twice and gives +1 (MRL-2)."""
    (rewards,) = ragged(1)
    values = torch.where(MASK, rewards_to_come(rewards), 0.0)
    advantages, returns = gae(rewards, values, MASK, lam=lam)
    torch.testing.assert_close(advantages, torch.zeros(MASK.shape), rtol=0, atol=1e-5)
    torch.testing.assert_close(returns, values)


def test_gae_with_lambda_one_is_return_minus_value():
    rewards, values = ragged(2)
    advantages, returns = gae(rewards, values, MASK, lam=1.0)
    torch.testing.assert_close(advantages[MASK], (rewards_to_come(rewards) - values)[MASK])
    torch.testing.assert_close(returns[MASK], rewards_to_come(rewards)[MASK])


def test_gae_with_lambda_zero_is_the_one_step_error_and_the_value_after_the_end_is_zero():
    """The longest row ends in column 6; its V_6 is followed by nothing, and so is the one-token row's V_2."""
    rewards, values = ragged(2)
    advantages, _ = gae(rewards, values, MASK, gamma=0.9, lam=0.0)
    torch.testing.assert_close(advantages[2, 3], rewards[2, 3] + 0.9 * values[2, 4] - values[2, 3])
    torch.testing.assert_close(advantages[2, 6], rewards[2, 6] - values[2, 6])
    torch.testing.assert_close(advantages[1, 2], rewards[1, 2] - values[1, 2])


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_a_score_and_a_critic_that_are_both_one_higher_change_no_advantage(lam):
    """So centring the scores matters for the missing-end score and the critic's start, and for nothing else. The scores alone,
    one higher, raise A_t by lam^(tokens still to come)."""
    policy, reference, values = ragged(3)
    before = token_rewards(SCORES, policy, reference, MASK, 0.1)
    higher = token_rewards(SCORES + 1, policy, reference, MASK, 0.1)
    advantages, _ = gae(before, values, MASK, lam=lam)
    torch.testing.assert_close(gae(higher, values + MASK, MASK, lam=lam)[0], advantages, rtol=1e-4, atol=1e-5)
    left = MASK.flip(1).cumsum(1).flip(1) - 1  # response tokens after this one
    raised = torch.where(MASK, lam ** left.float(), 0.0)
    torch.testing.assert_close(gae(higher, values, MASK, lam=lam)[0] - advantages, raised, rtol=1e-4, atol=1e-5)


@random_batches
@given(batches())
def test_the_order_of_the_rows_and_columns_without_a_token_change_no_advantage(batch):
    mask, seed = batch
    rewards, values = ragged(2, seed, mask)
    order = torch.randperm(len(mask), generator=torch.Generator().manual_seed(seed))
    advantages, _ = gae(rewards, values, mask)
    assert torch.equal(gae(rewards[order], values[order], mask[order])[0], advantages[order])
    wider = [nn.functional.pad(x, (0, 5)) for x in (rewards, values, mask)]
    assert torch.equal(gae(*wider)[0], nn.functional.pad(advantages, (0, 5)))


# ---- losses


def loss_and_gradient(loss, x, *args, **kwargs):
    x = x.clone().requires_grad_()
    value, stats = loss(x, *args, **kwargs)
    value.backward()
    assert not any(stat.requires_grad for stat in stats.values())
    return value.detach(), x.grad, stats


ONE = torch.ones(1, 1, dtype=torch.bool)
QUADRANTS = [  # advantage, ratio, loss, d loss / d logprob, clipped
    (1, 0.5, -0.5, -0.5, 0),
    (1, 1.0, -1.0, -1.0, 0),
    (1, 1.1, -1.1, -1.1, 0),
    (1, 1.5, -1.2, 0.0, 1),
    (-1, 0.5, 0.8, 0.0, 1),
    (-1, 0.9, 0.9, 0.9, 0),
    (-1, 1.0, 1.0, 1.0, 0),
    (-1, 1.5, 1.5, 1.5, 0),
]


@pytest.mark.parametrize(("advantage", "ratio", "loss", "gradient", "clipped"), QUADRANTS)
def test_clipping_stops_the_gradient_only_when_it_would_overshoot(advantage, ratio, loss, gradient, clipped):
    """max(-A ratio, -A clip(ratio, .8, 1.2)): a good token that is likely enough already, or a bad one that is rare enough, has
    no gradient; one that went the wrong way keeps all of it. No peer tests this table."""
    told, slope, stats = loss_and_gradient(policy_loss, row(math.log(ratio)), torch.zeros(1, 1), row(advantage), ONE)
    assert told.item() == pytest.approx(loss, abs=1e-6)
    assert slope.item() == pytest.approx(gradient, abs=1e-6)
    assert stats["clip_fraction"] == clipped


def test_the_clip_range_is_an_argument():
    told, slope, _ = loss_and_gradient(policy_loss, row(math.log(1.5)), torch.zeros(1, 1), row(1), ONE, clip=0.6)
    assert (told.item(), slope.item()) == (pytest.approx(-1.5), pytest.approx(-1.5))


def test_ppo_gradient_is_the_policy_gradient_when_the_policies_are_equal():
    """Ratio 1: each token's gradient is -A / tokens, and the loss is -mean(A)."""
    told, advantages = ragged(2)
    loss, gradient, _ = loss_and_gradient(policy_loss, told, told, advantages, MASK)
    torch.testing.assert_close(gradient, -advantages / MASK.sum())
    torch.testing.assert_close(loss, -advantages[MASK].mean())


TWO_ROWS = torch.tensor([[True, False, False], [True, True, True]])


def test_every_token_of_a_minibatch_weighs_the_same():
    """Responses of 1 and 3 tokens with A = +1 and -1: (-1 + 3) / 4 = .5. The mean of the rows' means, (-1 + 1) / 2, is 0."""
    advantages = torch.tensor([[1.0], [-1.0]]).expand(2, 3)
    assert policy_loss(torch.zeros(2, 3), torch.zeros(2, 3), advantages, TWO_ROWS)[0] == 0.5


def test_microbatches_add_up_if_they_know_the_minibatchs_tokens():
    """Each row by itself, divided by 4: -1/4 + 3/4 = .5 again, and half of (1 + 3) / 4. N+, TRL and torchtune average the means
    of microbatches and get 0 (ppo-details 57)."""
    advantages = torch.tensor([[1.0], [-1.0]]).expand(2, 3)
    pg = [policy_loss(*torch.zeros(2, 1, 3), advantages[i : i + 1], TWO_ROWS[i : i + 1], tokens=4)[0] for i in range(2)]
    vf = [value_loss(*torch.zeros(2, 1, 3), advantages[i : i + 1], TWO_ROWS[i : i + 1], tokens=4)[0] for i in range(2)]
    assert [x.item() for x in pg] == [-0.25, 0.75]
    assert [x.item() for x in vf] == [0.125, 0.375]


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ((1.5, 1.1), (0.043372, 0.049613, 0.5, 1.3, 0.04, 1.1, 1.5)),
        ((0.5, 0.75), (0.140804, 0.115415, 0, 0.625, 0.015625, 0.5, 0.75)),
    ],
)
def test_policy_stats_are_worked_by_hand(ratios, expected):
    """Two tokens with A = 1. For ratios 1.5 and 1.1 (log .405465 and .095310) k2 is (.082201 + .004542) / 2 and k3 (.094535 +
    .004690) / 2; the first is clipped; mean 1.3, variance .04. The padding's ratio of 1 is in no mean, minimum or maximum."""
    told = torch.tensor([[math.log(ratios[0]), math.log(ratios[1]), 7]])
    mask = torch.tensor([[True, True, False]])
    _, _, stats = loss_and_gradient(policy_loss, told, torch.zeros(1, 3), torch.ones(1, 3), mask)
    names = ("approx_kl", "approx_kl_k3", "clip_fraction", "ratio_mean", "ratio_var", "ratio_min", "ratio_max")
    assert {name: x.item() for name, x in stats.items()} == pytest.approx(dict(zip(names, expected, strict=True)), abs=1e-5)


@JUNK
def test_the_policy_loss_does_not_see_what_is_outside_the_mask(junk):
    """Loss, gradient and every metric, to the bit. minChatGPT and PaLM-rlhf take a mask and do not use it (MCG-2, PALM-5); N+
    and TRL log approx_kl and the ratio over the padding."""
    told, old, advantages = ragged(3)
    loss, gradient, stats = loss_and_gradient(policy_loss, told, old, advantages, MASK)
    spoiled = [spoil(told, junk), spoil(old, 0.0 * junk), spoil(advantages, -junk)]
    bad_loss, bad_gradient, bad_stats = loss_and_gradient(policy_loss, *spoiled, MASK)
    assert loss == bad_loss and stats == bad_stats
    assert torch.equal(gradient, bad_gradient) and (gradient[~MASK] == 0).all()


VALUE_ROWS = [  # old value, value, return, loss, d loss / d value, clipped
    (0, 0.5, 1, 0.32, 0.0, 1),
    (0, 0.5, -1, 1.125, 1.5, 0),
    (0, 0.1, 1, 0.405, -0.9, 0),
    (0, -0.5, -1, 0.32, 0.0, 1),
]


@pytest.mark.parametrize(("old", "value", "target", "loss", "gradient", "clipped"), VALUE_ROWS)
def test_value_clipping_stops_the_gradient_only_when_it_would_overshoot(old, value, target, loss, gradient, clipped):
    """.5 max((V - R)^2, (V_old + clip(V - V_old, +-.2) - R)^2): V = .5 from 0 towards 1 counts as .2, .5 * .8^2 = .32."""
    told, slope, stats = loss_and_gradient(value_loss, row(value), row(old), row(target), ONE)
    assert told.item() == pytest.approx(loss, abs=1e-6)
    assert slope.item() == pytest.approx(gradient, abs=1e-6)
    assert stats["value_clip_fraction"] == clipped
    assert stats["value_error"].item() == pytest.approx((value - target) ** 2)


def test_values_are_clipped_around_their_old_value():
    """From 2 to 3 towards 4 counts as 2.2: .5 * 1.8^2 = 1.62."""
    assert value_loss(row(3), row(2), row(4), ONE)[0].item() == pytest.approx(1.62)


def test_without_clipping_the_value_loss_is_half_the_mean_squared_error():
    """The half is in every implementation; without it vf_coef would mean something else."""
    values, old, returns = ragged(3)
    loss, gradient, stats = loss_and_gradient(value_loss, values, old, returns, MASK, clip=1e6)
    torch.testing.assert_close(loss, 0.5 * nn.functional.mse_loss(values[MASK], returns[MASK]))
    torch.testing.assert_close(gradient, (values - returns) * MASK / MASK.sum())
    assert stats["value_clip_fraction"] == 0


@JUNK
def test_the_value_loss_does_not_see_what_is_outside_the_mask(junk):
    values, old, returns = ragged(3)
    loss, gradient, stats = loss_and_gradient(value_loss, values, old, returns, MASK)
    spoiled = [spoil(values, junk), spoil(old, -junk), spoil(returns, junk / 2)]
    bad_loss, bad_gradient, bad_stats = loss_and_gradient(value_loss, *spoiled, MASK)
    assert loss == bad_loss and stats == bad_stats
    assert torch.equal(gradient, bad_gradient) and (gradient[~MASK] == 0).all()


# ---- KL control


@pytest.mark.parametrize(("kl", "expected"), [(12, 0.151536), (6.3, 0.150384), (6, 0.15), (0, 0.148464), (1e6, 0.151536)])
def test_the_controller_moves_the_coefficient_by_the_clipped_error(kl, expected):
    """.15 * (1 + clip(kl / 6 - 1, +-.2) * 512 / 10000): at most 1.02% a rollout, nothing at the target."""
    controller = AdaptiveKL(0.15, target=6, horizon=10_000)
    assert controller.update(kl, episodes=512) == pytest.approx(expected, abs=1e-6)
    assert controller.kl_coef == pytest.approx(expected, abs=1e-6)


def test_the_controller_goes_on_from_where_it_was():
    controller = AdaptiveKL(0.15, target=6, horizon=10_000)
    assert [controller.update(100, 512) for _ in range(2)][1] == pytest.approx(0.15 * 1.01024**2)


# ---- the rollout


def test_an_unfinished_response_gets_the_fixed_score_instead_of_its_own():
    """Replaced, not lowered: 9 - 3 would still be a fine score for something good that does not stop (ppo-details 18)."""
    scores = ppo.missing_end_rule(torch.tensor([0.5, 9.0, -5.0]), torch.tensor([True, False, True]), -3.0)
    assert scores.tolist() == [0.5, -3.0, -5.0]


def test_an_end_token_in_the_last_slot_has_ended_and_one_in_the_prompt_has_not(make_gpt):
    """Vocabulary of 4, all equally likely: uniforms of .1, .4 and .6 draw 0 (the end), 1 and 2."""
    gpt = make_gpt(vocab_size=4)
    gpt.token_embedding.weight.data.zero_()
    uniforms = torch.tensor([[0.4, 0.6, 0.1], [0.4, 0.6, 0.4], [0.1, 0.6, 0.6]])
    samples = generate(gpt, [[1], [0, 0], [3, 0, 1]], 3, end_token=0, uniforms=uniforms)
    scores = ppo.missing_end_rule(torch.tensor([1.0, 1.0, 1.0]), samples.ended, -3.0)
    assert scores.tolist() == [1, -3, 1]


def make_plan(lengths, epochs=2, minibatches=3, microbatch_tokens=20, seed=0):
    return ppo.plan(lengths, epochs, minibatches, microbatch_tokens, np.random.default_rng(seed))


def test_every_row_comes_once_an_epoch():
    """17 rows in 3 minibatches: 6, 6 and 5, the ragged last one included (NB-3 crashes there)."""
    steps = make_plan([1 + i % 7 for i in range(17)])
    assert len(steps) == 2
    for minibatches in steps:
        assert sorted(row for minibatch in minibatches for rows in minibatch for row in rows) == list(range(17))
        assert [sum(map(len, minibatch)) for minibatch in minibatches] == [6, 6, 5]


def test_every_epoch_has_its_own_permutation_and_the_generator_decides_it():
    lengths = [5] * 64
    first, second = make_plan(lengths, microbatch_tokens=10**6)
    assert first != second
    assert make_plan(lengths, microbatch_tokens=10**6) == [first, second]
    assert make_plan(lengths, microbatch_tokens=10**6, seed=1) != [first, second]


def test_minibatches_are_not_sorted_by_length():
    """Short rows first, long rows last would be another objective. 4 minibatches of 64 random rows all average about 50."""
    lengths = list(range(1, 257))
    (minibatches,) = make_plan(lengths, epochs=1, minibatches=4, microbatch_tokens=1000)
    means = [np.mean([lengths[row] for rows in minibatch for row in rows]) for minibatch in minibatches]
    assert max(means) - min(means) < 40  # sorted: 192


def test_a_microbatch_holds_rows_of_similar_length_within_its_tokens():
    lengths = list(range(1, 257))
    (minibatches,) = make_plan(lengths, epochs=1, minibatches=4, microbatch_tokens=1000)
    for minibatch in minibatches:
        ranges = [[lengths[row] for row in rows] for rows in minibatch]
        assert all(len(r) * max(r) <= 1000 for r in ranges)
        assert sorted(sum(ranges, [])) == sum(ranges, [])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scored_tokens_are_those_of_policy_reference_and_critic(make_gpt, temperature):
    """Row by row, without padding and without microbatches; the same temperature for both (ppo-details 10)."""
    reference = make_gpt()
    actor, samples = make_actor(neighbour(reference)), make_samples()
    told, ref_told, values = ppo.score_tokens(actor, reference, samples, [[[2], [0]], [[1]]], temperature)
    assert (told != ref_told)[MASK].all()
    assert all((x[~MASK] == 0).all() for x in (told, ref_told, values))
    for b, n in enumerate(LENGTHS.tolist()):
        tokens, mask = samples.tokens[b : b + 1, :n], MASK[b : b + 1, : n - 1]
        expected, expected_values, _ = actor(tokens, mask, temperature)
        torch.testing.assert_close(told[b : b + 1, : n - 1], expected)
        torch.testing.assert_close(values[b : b + 1, : n - 1], expected_values)
        torch.testing.assert_close(ref_told[b : b + 1, : n - 1], logprobs(reference, tokens, mask, temperature)[0])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_kl_is_zero_against_oneself(make_gpt, temperature):
    """Policy and reference are the same, also at temperature .7: where one of the two is not divided by it, this is not 0."""
    reference = make_gpt()
    actor = make_actor(copy.deepcopy(reference))
    told, ref_told, _ = ppo.score_tokens(actor, reference, make_samples(), ALL_AT_ONCE[0], temperature)
    assert torch.equal(told, ref_told)


def all_responses(vocab_size, new_tokens, end_token):
    """Every response that sampling can give: ended, or cut off after `new_tokens`."""
    responses = []
    for n in range(1, new_tokens + 1):
        for response in itertools.product(range(vocab_size), repeat=n):
            if end_token not in response[:-1] and (response[-1] == end_token or n == new_tokens):
                responses.append(list(response))
    return responses


def response_logprobs(gpt, prompt, responses, temperature=1.0):
    """(N,) log-probabilities of whole responses."""
    lengths = torch.tensor([len(prompt) + len(response) for response in responses])
    tokens = torch.zeros(len(responses), int(lengths.max()), dtype=torch.long)
    for line, response in zip(tokens, responses, strict=True):
        line[: len(prompt) + len(response)] = torch.tensor(prompt + response)
    mask = response_mask(torch.full_like(lengths, len(prompt)), lengths, tokens.size(1))
    with torch.no_grad():
        return logprobs(gpt, tokens, mask, temperature)[0].sum(1).double()


def chi_square(gpt, prompt, counts, responses, temperature):
    expected = counts.sum() * response_logprobs(gpt, prompt, responses, temperature).exp()
    torch.testing.assert_close(expected.sum(), counts.sum())
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_responses_are_sampled_as_often_as_their_logprobs_say(make_gpt, temperature):
    """Whole responses, at two temperatures: chi-square below 32.9, the 99.9% quantile for 13 - 1 degrees of freedom, and far
    above it if they are scored at another temperature. Most negative KLs come from a sampler that is not the scorer (MCG-8,
    MRL-6, PALM-10, BOOK-4)."""
    gpt, prompt, responses = make_gpt(vocab_size=4, std=0.3), [2, 1], all_responses(4, 2, end_token=0)
    uniforms = torch.rand(4096, 2, generator=torch.Generator().manual_seed(3))
    samples = generate(gpt, [prompt] * 4096, 2, 0, temperature, uniforms)
    drawn = [tuple(t[2:n]) for t, n in zip(samples.tokens.tolist(), samples.lengths.tolist(), strict=True)]
    counts = torch.tensor([drawn.count(tuple(response)) for response in responses], dtype=torch.float64)
    assert len(responses) == 13
    assert chi_square(gpt, prompt, counts, responses, temperature) < 32.9
    assert chi_square(gpt, prompt, counts, responses, 1.7 - temperature) > 60


def test_nothing_in_a_rollout_has_a_gradient(make_gpt):
    """PaLM-rlhf differentiates through its advantages (PALM-2)."""
    reference = make_gpt()  # its parameters do require one here
    rollout = roll(make_actor(neighbour(reference)), reference, make_samples(), ALL_AT_ONCE)
    assert not any(x.requires_grad for x in vars(rollout).values())


def test_a_rollout_is_made_of_rewards_advantages_and_returns(make_gpt):
    """Step by step, with the functions above: whitened once, over all rows together."""
    reference = make_gpt()
    actor, samples = make_actor(neighbour(reference)), make_samples()
    told, ref_told, values = ppo.score_tokens(actor, reference, samples, ALL_AT_ONCE[0])
    rollout = ppo.make_rollout(samples, SCORES, told, ref_told, values, 0.2, gamma=0.9, lam=0.8)
    assert torch.equal(rollout.mask, MASK)
    assert torch.equal(rollout.rewards, token_rewards(SCORES, told, ref_told, MASK, 0.2))
    advantages, returns = gae(rollout.rewards, values, MASK, 0.9, 0.8)
    assert torch.equal(rollout.raw_advantages, advantages)
    assert torch.equal(rollout.returns, returns)
    assert torch.equal(rollout.advantages, whiten(advantages, MASK))


def test_returns_are_taken_before_whitening(make_gpt):
    """A scale that hides nothing: scores of about 100 give returns of about 100. RLHF_in_notebooks adds the *whitened*
    advantages to the values: 2.15 for .957 (NB-1)."""
    reference = make_gpt()
    rollout = roll(ActorCritic(neighbour(reference)), reference, make_samples(), ALL_AT_ONCE, scores=100 + SCORES)
    torch.testing.assert_close(rollout.returns, rollout.raw_advantages + rollout.values)
    assert rollout.returns[MASK].min() > 50
    assert abs(rollout.advantages[MASK].mean()) < 1e-5


def test_a_higher_score_gives_its_tokens_a_higher_advantage(make_gpt):
    """Whitening a row by itself cancels its score (MRL-1, PALM-3)."""
    reference = make_gpt()
    rollout = roll(ActorCritic(copy.deepcopy(reference)), reference, make_samples(), ALL_AT_ONCE)
    means = [rollout.advantages[b][MASK[b]].mean() for b in range(3)]
    assert means[1] < 0 < means[2] and means[0] < means[2]  # scores .5, -3, 1.5


# ---- the update


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_ratio_is_one(make_gpt, temperature):
    """Before any step every ratio is 1 to the bit, so approx_kl and clip_fraction are 0 and the loss is -mean(A) = 0, on a
    ragged batch in two microbatches. PaLM-rlhf's first ratios were 0.96, 1.22, 0.022 (PALM-4)."""
    reference = make_gpt()
    actor, steps = make_actor(neighbour(reference)), [[[[1, 0], [2]]]]
    rollout = roll(actor, reference, make_samples(), steps, temperature)
    stats = ppo.update(actor, Recorder(actor, lr=0.1), rollout, steps, temperature)
    assert stats["ratio_min"] == stats["ratio_max"] == stats["ratio_mean"] == 1
    assert stats["approx_kl"] == stats["approx_kl_k3"] == stats["clip_fraction"] == stats["ratio_var"] == 0
    assert stats["value_clip_fraction"] == 0
    assert abs(stats["policy_loss"]) < 1e-6


def test_the_first_ratio_shows_a_temperature_that_was_forgotten(make_gpt):
    reference = make_gpt()
    actor = make_actor(neighbour(reference))
    rollout = roll(actor, reference, make_samples(), ALL_AT_ONCE, temperature=0.7)
    assert ppo.update(actor, Recorder(actor), rollout, ALL_AT_ONCE, temperature=1.0)["approx_kl"] > 0.01


def test_the_ratio_leaves_one_from_the_second_step_on(make_gpt):
    """minChatGPT updates once a rollout, so that both of its clips are dead code (MCG-7)."""
    reference = make_gpt()
    actor = make_actor(neighbour(reference))
    rollout = roll(actor, reference, make_samples(), ALL_AT_ONCE)
    stats = ppo.update(actor, Recorder(actor, lr=0.5), rollout, 3 * ALL_AT_ONCE)
    assert stats["ratio_max"] > 1.2 and stats["approx_kl"] > 0 and stats["clip_fraction"] > 0


def test_there_are_as_many_optimiser_steps_as_epochs_times_minibatches(make_gpt):
    """2 epochs of 3 minibatches of up to 3 microbatches: 6. TRL's num_mini_batches changed nothing (ppo-details 61), and
    inside accelerate's loop every microbatch of a last batch was a step (62)."""
    reference = make_gpt()
    actor, samples = make_actor(neighbour(reference)), make_samples()
    samples = Samples(*(x.repeat(3, *[1] * (x.dim() - 1)) for x in samples))  # 9 rows
    steps = make_plan(samples.lengths.tolist(), microbatch_tokens=1)
    rollout = roll(actor, reference, samples, steps, scores=SCORES.repeat(3))
    optimizer = Recorder(actor)
    ppo.update(actor, optimizer, rollout, steps)
    assert len(optimizer.gradients) == 6
    assert all(p.grad is None or not p.grad.any() for p in actor.parameters()), (
        "a gradient is left for the next rollout (MRL-4)"
    )


def naive_gradient(actor, rollout, temperature, clip=0.2, value_clip=0.2, vf_coef=0.1):
    """Schulman et al.'s equation 9 without entropy, token by token, on rows that stand alone."""
    total, count = 0.0, int(rollout.mask.sum())
    for b, t in rollout.mask.nonzero().tolist():
        hidden = actor.gpt.hidden(rollout.tokens[b : b + 1, : t + 1])[0, -1]
        log_p = torch.log_softmax(actor.gpt.head(hidden) / temperature, -1)[rollout.tokens[b, t + 1]]
        ratio, A = (log_p - rollout.logprobs[b, t]).exp(), rollout.advantages[b, t]
        surrogate = torch.min(A * ratio, A * ratio.clamp(1 - clip, 1 + clip))
        V, old, R = actor.value_head(hidden), rollout.values[b, t], rollout.returns[b, t]
        squared = torch.max((V - R) ** 2, (torch.clamp(V, old - value_clip, old + value_clip) - R) ** 2)
        total = total + (-surrogate + vf_coef * squared / 2) / count
    return dict(zip(dict(actor.named_parameters()), torch.autograd.grad(total, list(actor.parameters())), strict=True))


@pytest.mark.parametrize("groups", [[[0, 1, 2]], [[1], [0, 2]], [[2], [1], [0]]])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_is_that_of_a_loop_over_tokens_whatever_the_microbatches(make_gpt, groups, temperature):
    """The rollout is another policy's, so that ratios and values are on both sides of their clips. Nothing else is in the loss:
    no entropy bonus, no KL."""
    reference = make_gpt()
    rollout = roll(make_actor(reference), reference, make_samples(), ALL_AT_ONCE, temperature)
    actor = make_actor(neighbour(reference, 0.1))
    actor.value_head.bias.data += 0.3
    optimizer = Recorder(actor)
    stats = ppo.update(actor, optimizer, rollout, [[groups]], temperature, max_grad_norm=math.inf)
    assert 0 < stats["clip_fraction"] < 1 and 0 < stats["value_clip_fraction"] < 1, "this shows little"
    same(optimizer.gradients[0], naive_gradient(actor, rollout, temperature))


def test_the_clips_and_the_weight_of_the_value_loss_are_arguments(make_gpt):
    reference = make_gpt()
    rollout = roll(make_actor(reference), reference, make_samples(), ALL_AT_ONCE)
    actor = make_actor(neighbour(reference, 0.1))
    actor.value_head.bias.data += 0.3
    chosen, optimizer = {"clip": 0.6, "value_clip": 0.45, "vf_coef": 0.7}, Recorder(actor)
    stats = ppo.update(actor, optimizer, rollout, ALL_AT_ONCE, max_grad_norm=math.inf, **chosen)
    same(optimizer.gradients[0], naive_gradient(actor, rollout, 1.0, **chosen))
    torch.testing.assert_close(stats["loss"], stats["policy_loss"] + 0.7 * stats["value_loss"])


@pytest.mark.parametrize("separate", [False, True])
def test_the_gradient_norm_is_clipped_once_an_optimiser_step(make_gpt, separate):
    """Over all microbatches' sum, after `backward` (minChatGPT clips before it: MCG-12). The norms before are logged, of
    everything and of what belongs to the critic alone: the value head, and its own trunk if it has one."""
    reference = make_gpt()
    actor = make_actor(neighbour(reference, 0.1), make_reward_model(make_gpt(seed=2)) if separate else None)
    rollout = roll(make_actor(reference), reference, make_samples(), ALL_AT_ONCE)
    steps, gradients, stats = [[[[1], [2], [0]]]], {}, {}
    for limit in (math.inf, 1e-3):
        optimizer = Recorder(actor)
        stats[limit] = ppo.update(actor, optimizer, rollout, steps, max_grad_norm=limit)
        gradients[limit] = torch.cat([g.flatten() for g in optimizer.gradients[0].values()])
        if limit == math.inf:
            critics = torch.cat([g.flatten() for name, g in optimizer.gradients[0].items() if not name.startswith("gpt.")])
        torch.testing.assert_close(stats[limit]["grad_norm"], gradients[math.inf].norm())
        torch.testing.assert_close(stats[limit]["critic_grad_norm"], critics.norm())
    assert critics.norm() < gradients[math.inf].norm()
    torch.testing.assert_close(gradients[1e-3], gradients[math.inf] * 1e-3 / gradients[math.inf].norm())


def test_reference_and_reward_model_stay_as_they_were(make_gpt):
    """To the bit, and they share no storage with what is trained; everything trained moves."""
    reference = make_gpt().requires_grad_(False)
    reward_model = make_reward_model(make_gpt(seed=2))
    actor = ActorCritic(copy.deepcopy(reference).requires_grad_(), reward_model)
    frozen = [*reference.state_dict().values(), *reward_model.state_dict().values()]
    before, trained = [x.clone() for x in frozen], [p.detach().clone() for p in actor.parameters()]
    optimizer, samples = torch.optim.Adam(actor.parameters(), 1e-2), make_samples()
    for _ in range(2):
        scores = reward_model(samples.tokens, samples.lengths)
        rollout = roll(actor, reference, samples, ALL_AT_ONCE, scores=scores)
        ppo.update(actor, optimizer, rollout, 2 * ALL_AT_ONCE)
    assert all(torch.equal(x, y) for x, y in zip(frozen, before, strict=True))
    assert not {x.data_ptr() for x in frozen} & {p.data_ptr() for p in actor.parameters()}
    assert not any(torch.equal(x, p) for x, p in zip(trained, actor.parameters(), strict=True))
    assert not torch.equal(rollout.logprobs, rollout.ref_logprobs)


def test_an_update_is_a_function_of_its_rollout(make_gpt):
    """No dropout, no other chance: twice the same gives the same bits (ppo-details 13 and 67)."""
    reference = make_gpt()
    rollout = roll(make_actor(reference), reference, make_samples(), ALL_AT_ONCE)
    actors = [make_actor(neighbour(reference)) for _ in range(2)]
    for actor in actors:
        ppo.update(actor, torch.optim.Adam(actor.parameters(), 1e-2), rollout, 2 * ALL_AT_ONCE)
    assert all(torch.equal(p, q) for p, q in zip(*(actor.parameters() for actor in actors), strict=True))


# ---- metrics


def told_by(actor, reference, samples, steps, change=lambda rollout: rollout, epochs=2):
    """Everything that a rollout and its update tell, and the first gradient. From the second epoch on the ratios differ."""
    rollout = change(roll(actor, reference, samples, steps))
    stats = ppo.rollout_stats(rollout, SCORES + 1, SCORES, samples.ended, 0.1)
    learner = copy.deepcopy(actor)
    optimizer = Recorder(learner, lr=0.1)
    stats |= ppo.update(learner, optimizer, rollout, epochs * steps)
    return stats | optimizer.gradients[0]


def test_padding_changes_neither_metric_nor_gradient(make_gpt):
    """Twice as many columns, with other ids in them. In N+ and TRL padding dilutes approx_kl, entropy and the ratio, and
    TRL's entropy became negative (ppo-details 72)."""
    reference = make_gpt()
    actor = make_actor(neighbour(reference))
    same(
        told_by(actor, reference, make_samples(T=9, seed=1), ALL_AT_ONCE),
        told_by(actor, reference, make_samples(T=18, seed=2), ALL_AT_ONCE),
    )


@JUNK
def test_what_a_rollout_holds_outside_the_mask_reaches_neither_metric_nor_gradient(make_gpt, junk):
    reference = make_gpt()
    actor = make_actor(neighbour(reference))
    per_token = ("logprobs", "ref_logprobs", "values", "rewards", "raw_advantages", "advantages", "returns")

    def change(rollout):
        signs = itertools.cycle((1, -1, 1, 1))
        return dataclasses.replace(rollout, **{name: spoil(getattr(rollout, name), next(signs) * junk) for name in per_token})

    clean, spoiled = (told_by(actor, reference, make_samples(), ALL_AT_ONCE, f) for f in (lambda rollout: rollout, change))
    same(clean, spoiled)


def test_the_order_of_the_rows_changes_neither_metric_nor_gradient(make_gpt):
    reference, samples = make_gpt(), make_samples()
    actor, order = make_actor(neighbour(reference)), [2, 0, 1]
    stats = told_by(actor, reference, samples, ALL_AT_ONCE)
    told = ppo.score_tokens(actor, reference, Samples(*(x[order] for x in samples)), ALL_AT_ONCE[0])
    rollout = ppo.make_rollout(Samples(*(x[order] for x in samples)), SCORES[order], *told, 0.1)
    other = ppo.rollout_stats(rollout, SCORES[order] + 1, SCORES[order], samples.ended[order], 0.1)
    optimizer = Recorder(actor, lr=0.1)
    other |= ppo.update(actor, optimizer, rollout, 2 * ALL_AT_ONCE)
    same(stats, other | optimizer.gradients[0])


def hand_made_rollout():
    """Responses of 3, 1 and 2 tokens. kl: .1 + .2 + .3, -.5, 0."""
    prompt_lengths, lengths = torch.tensor([1, 2, 1]), torch.tensor([4, 3, 3])
    mask = response_mask(prompt_lengths, lengths, 4)
    told = torch.tensor([[-1.0, -2.0, -3.0], [0.0, -1.5, 0.0], [-1.0, -1.0, 0.0]])
    kl = torch.tensor([[0.1, 0.2, 0.3], [0.0, -0.5, 0.0], [0.0, 0.0, 0.0]])
    values = torch.tensor([[1.0, 2.0, 3.0], [0.0, 4.0, 0.0], [5.0, 6.0, 0.0]])
    samples = Samples(torch.zeros(3, 4, dtype=torch.long), prompt_lengths, lengths, torch.tensor([True, False, True]))
    return ppo.make_rollout(samples, SCORES, told, told - kl * mask, values, kl_coef=0.2), samples


def test_rollout_metrics_are_worked_by_hand():
    """kl is summed over a response and averaged over responses: (.6 - .5 + 0) / 3, in nats. score is the reward model's after
    the missing-end rule, mean and spread over responses; sampled_entropy (6 + 1.5 + 2) / 3; values 1 to 6: mean 3.5."""
    rollout, samples = hand_made_rollout()
    stats = ppo.rollout_stats(rollout, torch.tensor([0.5, 4.5, 1.5]), SCORES, samples.ended, kl_coef=0.2)
    k3 = [sum(math.exp(-x) - 1 + x for x in response) for response in ([0.1, 0.2, 0.3], [-0.5], [0, 0])]
    expected = {
        "score": -1 / 3,
        "raw_score": 6.5 / 3,
        "score_std": SCORES.std(correction=0).item(),
        "score_min": -3,
        "score_max": 1.5,
    }
    expected |= {"kl": 0.1 / 3, "kl_k3": sum(k3) / 3, "kl_coef": 0.2, "non_score_reward": -0.02 / 3, "rlhf_reward": -1.02 / 3}
    expected |= {"sampled_entropy": 9.5 / 3, "ended": 2 / 3, "length": 2, "length_min": 1, "length_max": 3}
    expected |= {"value_mean": 3.5, "value_var": 35 / 12}
    returns, advantages = rollout.returns[rollout.mask].double(), rollout.raw_advantages[rollout.mask].double()
    expected |= {"return_mean": returns.mean(), "return_var": returns.var(correction=0)}
    expected |= {"advantage_mean": advantages.mean(), "advantage_std": advantages.std(correction=0)}
    expected |= {"explained_variance": 1 - advantages.var(correction=0) / returns.var(correction=0)}
    assert {name: float(x) for name, x in stats.items()} == pytest.approx({n: float(x) for n, x in expected.items()}, abs=1e-5)


def test_the_rlhf_reward_is_the_score_minus_the_price_of_the_kl(make_gpt):
    """And it is what the rewards of the tokens add up to. TRL's documentation subtracts the non-score reward: a wrong sign."""
    reference, samples = make_gpt(), make_samples()
    rollout = roll(make_actor(neighbour(reference)), reference, samples, ALL_AT_ONCE, kl_coef=0.3)
    stats = ppo.rollout_stats(rollout, SCORES, SCORES, samples.ended, kl_coef=0.3)
    torch.testing.assert_close(stats["non_score_reward"], -0.3 * stats["kl"])
    torch.testing.assert_close(stats["rlhf_reward"], stats["score"] + stats["non_score_reward"])
    torch.testing.assert_close(stats["rlhf_reward"], rollout.rewards.sum(1).mean())


def test_explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_constant_one():
    rollout, samples = hand_made_rollout()
    explained = [
        ppo.rollout_stats(dataclasses.replace(rollout, values=values), SCORES, SCORES, samples.ended, 0.2)["explained_variance"]
        for values in (rollout.returns, torch.where(rollout.mask, 7.0, 0.0), 2 * rollout.returns)
    ]
    assert [x.item() for x in explained] == pytest.approx([1, 0, 0], abs=1e-5)


def test_update_metrics_are_means_over_the_tokens_of_all_epochs(make_gpt):
    """Each token seen just before its own step: the first epoch's first step has ratio 1, and the mean of two epochs is not
    the last one's (G0-6 logs the last microbatch)."""
    reference, samples = make_gpt(), make_samples()
    told = []
    for epochs in (1, 2):
        actor = make_actor(neighbour(reference))
        rollout = roll(actor, reference, samples, ALL_AT_ONCE)
        if epochs == 2:  # what the second epoch sees
            moved = make_actor(neighbour(reference))
            ppo.update(moved, Recorder(moved, lr=0.05), rollout, ALL_AT_ONCE)
            told.append(ppo.update(moved, Recorder(moved), rollout, ALL_AT_ONCE))
        told.append(ppo.update(actor, Recorder(actor, lr=0.05), rollout, epochs * ALL_AT_ONCE))
    first, second, both = told
    for name in (
        "policy_loss",
        "value_loss",
        "loss",
        "entropy",
        "approx_kl",
        "clip_fraction",
        "ratio_mean",
        "value_error",
        "grad_norm",
    ):
        torch.testing.assert_close(both[name], (first[name] + second[name]) / 2, rtol=1e-4, atol=1e-6)
    assert both["ratio_max"] == second["ratio_max"] > 1
    _, _, entropy = make_actor(neighbour(reference))(samples.tokens, MASK)
    torch.testing.assert_close(first["entropy"], entropy[MASK].mean())


# ---- the exact problem: two prompts, a vocabulary of 4, responses of up to 3 tokens

END, VOCABULARY, NEW_TOKENS, CUT_OFF = 0, 4, 3, -1.0
EXACT_PROMPTS = [[1], [2, 3]]
RESPONSES = all_responses(VOCABULARY, NEW_TOKENS, END)
ENDED = torch.tensor([response[-1] == END for response in RESPONSES])
# The scores of 40 responses to each prompt. The 27 that are cut off have one that the missing-end rule must replace.
TABLE = torch.where(ENDED, normal(2, len(RESPONSES), seed=1), 50.0).double()


class Tabular(nn.Module):
    """A policy with the interface of GPT and a logit for every prefix and next token; one more column stores a value."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(vocab_size=VOCABULARY, context=8, width=VOCABULARY + 1)
        self.table = nn.Parameter(normal(2 * VOCABULARY**5, VOCABULARY + 1) * torch.tensor([1.0, 1, 1, 1, 0]))

    def hidden(self, tokens, cache=None):
        """A prefix is a number in base 4 with a leading 1; decoding goes on from the one in the cache."""
        decoding = cache is not None and bool(cache.keys)
        prefix, prefixes = cache.keys[0] if decoding else torch.ones(len(tokens), dtype=torch.long), []
        for column in tokens.T:
            prefix = prefix * VOCABULARY + column
            prefixes.append(prefix)
        prefixes = torch.stack(prefixes, dim=1)
        if cache is not None:
            last = torch.zeros_like(cache.positions) if decoding else cache.positions - 1
            cache.keys = [prefixes.gather(1, last[:, None])[:, 0]]
        return self.table[prefixes]

    def head(self, hidden):
        return hidden[..., :VOCABULARY]


def distance_after_ppo(beta, updates, seed=0, batch_size=512, lr=0.1):
    """KL(policy || optimum) in nats, the worse of the two prompts, after PPO with kl_coef = beta.

    The optimum of E[score] - beta KL is pi_ref exp(score / beta) / Z, where a cut-off response has the missing-end score.
    """
    reference = Tabular().requires_grad_(False)
    actor = ActorCritic(copy.deepcopy(reference).requires_grad_())
    actor.value_head.weight.data[0, -1] = 1
    optimizer = torch.optim.Adam(actor.parameters(), lr)
    prompts = EXACT_PROMPTS * (batch_size // 2)
    which = {tuple(response): i for i, response in enumerate(RESPONSES)}
    for step in range(updates):
        set_learning_rate(optimizer, lr * (1 - step / updates))
        rng = config.rng(seed, config.RESPONSES, step)
        uniforms = torch.from_numpy(rng.random((batch_size, NEW_TOKENS), dtype=np.float32))
        samples = generate(actor.gpt, prompts, NEW_TOKENS, END, uniforms=uniforms)
        spans = zip(samples.tokens.tolist(), map(len, prompts), samples.lengths.tolist(), strict=True)
        drawn = [which[tuple(tokens[start:stop])] for tokens, start, stop in spans]
        scores = ppo.missing_end_rule(TABLE[torch.arange(batch_size) % 2, drawn].float(), samples.ended, CUT_OFF)
        steps = ppo.plan(samples.lengths.tolist(), epochs=2, minibatches=1, microbatch_tokens=10**6, rng=rng)
        told = ppo.score_tokens(actor, reference, samples, steps[0])
        rollout = ppo.make_rollout(samples, scores, *told, kl_coef=beta)
        ppo.update(actor, optimizer, rollout, steps, vf_coef=1.0)
    return max(distance(actor.gpt, reference, prompt, table, beta) for prompt, table in zip(EXACT_PROMPTS, TABLE, strict=True))


def distance(policy, reference, prompt, table, beta):
    scores = torch.where(ENDED, table, CUT_OFF)
    optimum = torch.log_softmax(response_logprobs(reference, prompt, RESPONSES) + scores / beta, 0)  # subtracts log Z
    log_p = response_logprobs(policy, prompt, RESPONSES)
    torch.testing.assert_close(log_p.exp().sum(), torch.ones((), dtype=torch.float64))
    return float((log_p.exp() * (log_p - optimum)).sum())


@pytest.mark.parametrize(("beta", "bound"), [(1.0, 0.01), (0.5, 0.05)])
def test_ppo_finds_the_optimum_of_a_problem_that_can_be_enumerated(beta, bound):
    """pi_ref exp(score / beta) / Z over all 40 responses to each prompt, 13 that end and 27 that are cut off. The policy starts
    .44 nats away at beta 1 and 2.9 at beta .5. One wrong sign or estimator, and it does not get there."""
    assert distance_after_ppo(beta, updates=60) < bound


def with_penalty(penalty):
    """`token_rewards` with another price for leaving the reference."""

    def rewards(scores, told, ref_told, mask, kl_coef):
        paid = torch.where(mask, kl_coef * penalty(told, ref_told), 0.0)
        return token_rewards(scores, told, told, mask, kl_coef) - paid

    return rewards


def test_with_k3_in_the_reward_ppo_does_not_find_the_optimum(monkeypatch):
    """It collapses: a token that became rare is fined for it. TRL offers this as kl_estimator="k3"."""
    monkeypatch.setattr(ppo, "token_rewards", with_penalty(kl_k3))
    assert distance_after_ppo(1.0, updates=20) > 0.1


def test_with_a_kl_clamped_at_zero_ppo_does_not_find_the_optimum(monkeypatch):
    """AlpacaFarm's clamp(min=0)."""
    monkeypatch.setattr(ppo, "token_rewards", with_penalty(lambda told, ref_told: (told - ref_told).clamp(min=0)))
    assert distance_after_ppo(1.0, updates=20) > 0.1


def test_with_the_wrong_kl_sign_ppo_does_not_find_the_optimum(monkeypatch):
    """BOOK-1: it rewards divergence."""
    monkeypatch.setattr(ppo, "token_rewards", with_penalty(lambda told, ref_told: ref_told - told))
    assert distance_after_ppo(1.0, updates=20) > 0.1


def test_with_a_lost_score_ppo_does_not_find_the_optimum(monkeypatch):
    """The KL alone holds the policy where it started, .44 nats away."""
    monkeypatch.setattr(ppo, "token_rewards", lambda scores, *rest: token_rewards(0 * scores, *rest))
    assert distance_after_ppo(1.0, updates=20) > 0.1


# ---- a five-second world


def letters_e(prompts, responses):
    """A judge: how many times a response says "e"."""
    return [float(response.count("e")) for response in responses]


def test_ppo_raises_the_judged_score_and_stays_near_the_reference(make_gpt, tmp_path):
    """The script as a user runs it, on a random model that likes to end, rewarded by a plain function. The mean score rises by
    more than one letter a response, and at half a letter a nat the KL stays below 6 nats. At a tenth of that it comes to 29."""
    tokenizer = get_tokenizer()
    gpt = make_gpt(tokenizer.vocab_size, context=32, std=0.02)
    gpt.norm.bias.data[0] = 1.0
    gpt.token_embedding.weight.data[tokenizer.end_token, 0] = 4.0  # its logit, more or less
    checkpoint.save(tmp_path / "sft", "sft", gpt.config, tokenizer, 0, model=gpt)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n{"prompt": "why not"}\n{"prompt": "go on"}\n' * 10)
    options = (
        f"--out {tmp_path} --data {tmp_path}/prompts.jsonl --reward {__name__}:letters_e --missing-end-score 0 --updates 40"
    )
    options += " --batch-size 64 --max-new-tokens 8 --eval-prompts 3 --eval-every 40 --lr 3e-3 --kl-coef 0.5 --device cpu"
    train_ppo.main(options.split())
    metrics = read_metrics(tmp_path / "ppo")
    score, kl = ([line[name] for line in metrics] for name in ("score", "kl"))
    assert len(metrics) == 40
    assert np.mean(score[-5:]) > np.mean(score[:5]) + 1
    assert kl[0] == 0 and 0.5 < kl[-1] < 6 and max(kl) < 6
