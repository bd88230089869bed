"""The specification of PPO's loop, in the order of ppo.py; what its functions compute is in
spec/test_ppo_functions.py.

Most of it uses the three rows of spec/tensors.py. At the end PPO has to find the optimum of a
problem that is small enough to enumerate.
"""

import copy
import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from exact import (
    END,
    EXACT_PROMPTS,
    MISSING_END_SCORE,
    NEW_TOKENS,
    RESPONSES,
    TABLE,
    Tabular,
    all_responses,
    distance,
    response_logprobs,
)
from helpers import loop_rollout
from spec.tensors import JUNK, LENGTHS, MASK, PROMPT_LENGTHS, SCORES, normal, spoil

import train_ppo
from minirlhf import ppo
from minirlhf.generate import Samples, generate
from minirlhf.model import logprobs, response_mask
from minirlhf.ppo import ActorCritic, gae, kl_k3, token_rewards, whiten
from minirlhf.reward import RewardModel
from minirlhf.rewards import credit
from minirlhf.run import checkpoint, config
from minirlhf.run.metrics import read_metrics
from minirlhf.tokenizer import get_tokenizer

T = 9


def assert_close_dicts(a, b):
    """Two dictionaries of numbers agree. NaN agrees with nothing."""
    assert a.keys() == b.keys()
    for name in a:
        left, right = torch.as_tensor(a[name]), torch.as_tensor(b[name])
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6, msg=name)


def neighbour(gpt, scale=0.03, seed=9):
    """A policy at a small distance."""
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
    model.std.fill_(2.5)
    return model.requires_grad_(False)


def make_samples(T=T, seed=0):
    """Three responses; the second was cut off. Right of a row's end stand random ids."""
    junk = torch.randint(50, (3, T), generator=torch.Generator().manual_seed(seed))
    tokens = junk.clone()
    tokens[:, :9] = torch.randint(50, (3, 9), generator=torch.Generator().manual_seed(77))
    tokens = torch.where(torch.arange(T) < LENGTHS[:, None], tokens, junk)
    return Samples(tokens, PROMPT_LENGTHS, LENGTHS, torch.tensor([True, False, True]))


def roll(actor, reference, samples, steps, temperature=1.0, kl_coef=0.1, scores=SCORES):
    numbers = ppo.logprobs_and_values(actor, reference, samples, steps[0], temperature)
    return loop_rollout(samples, scores, *numbers, kl_coef)


ALL_AT_ONCE = [[[[0, 1, 2]]]]  # one epoch of one minibatch of one microbatch


class Recorder(torch.optim.SGD):
    """An optimiser that records the gradients of each step, as a dictionary."""

    def __init__(self, model, lr=0.0):
        super().__init__(model.parameters(), lr=lr)
        self.named, self.gradients = dict(model.named_parameters()), []

    def step(self):
        self.gradients.append({name: p.grad.clone() for name, p in self.named.items()})
        super().step()


# ---- policy and value function


def test_values_are_zero_at_first_with_the_shared_head(make_gpt):
    """As in Ziegler et al. (language/model.py:368): an untrained value carries no information, and
    0 is the mean of the scores. A random head would add noise to the first advantages."""
    tokens = make_samples().tokens
    _, values, _ = ActorCritic(make_gpt())(tokens, MASK)
    assert (values == 0).all()


def test_a_separate_critic_says_the_reward_models_normalised_score_at_the_end_token(make_gpt):
    """Stiennon et al. (G.1) and InstructGPT initialise the critic as the reward model. The values
    are in units of *normalised* scores, so mean 0.7 and standard deviation 2.5 are folded into its
    head: (raw - 0.7) / 2.5."""
    reward_model = make_reward_model(make_gpt(seed=2))
    actor = ActorCritic(make_gpt(), reward_model)
    tokens = make_samples().tokens
    _, values, _ = actor(tokens, torch.ones(3, T - 1, dtype=torch.bool))
    last = values[torch.arange(3), LENGTHS - 1]  # of the state after the end token
    torch.testing.assert_close(last, reward_model(tokens, LENGTHS), rtol=1e-5, atol=1e-5)


def pointers(tensors):
    return {x.data_ptr() for x in tensors}


def test_a_separate_critic_is_a_copy_that_leaves_policy_and_reward_model_alone(make_gpt):
    """The gradient of the critic must not reach the policy's trunk, which is the reason for a
    separate one. A reward model that is trained with the critic would change the reward during the
    run. PaLM-rlhf-pytorch reads the actor's flag to decide what of the critic to train
    (ppo.py:121)."""
    reward_model = make_reward_model(make_gpt(seed=2))
    actor = ActorCritic(make_gpt(), reward_model)
    assert all(p.requires_grad for p in actor.parameters())
    frozen = [*reward_model.parameters(), *reward_model.buffers()]
    assert not pointers(frozen) & pointers(actor.parameters())
    actor(make_samples().tokens, MASK)[1].sum().backward()
    assert all(p.grad is None for p in actor.gpt.parameters())
    assert all(p.grad is not None for p in actor.critic.parameters())


def test_a_value_does_not_see_the_token_that_is_being_chosen(make_gpt):
    """values[:, t] is the value of the state *before* tokens[:, t + 1]. A baseline that depends on
    its action removes part of the action's reward: PaLM-rlhf-pytorch averages over the response
    (ppo.py:202), minRLHF regresses V after the token (buffer.py:161)."""
    actor, mask = make_actor(make_gpt()), torch.ones(3, T - 1, dtype=torch.bool)
    tokens = make_samples().tokens
    _, values, _ = actor(tokens, mask)
    for t in range(T - 1):
        variant = tokens.clone()
        variant[:, t + 1 :] = (variant[:, t + 1 :] + 7) % 50
        _, other, _ = actor(variant, mask)
        torch.testing.assert_close(other[:, : t + 1], values[:, : t + 1])
        assert (other[:, t + 1 :] != values[:, t + 1 :]).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_one_pass_gives_the_policys_logprobs_and_the_entropy_at_its_temperature(
    make_gpt, temperature
):
    """Compared with a loop over tokens, each scored from its own prefix. The entropy, too, is at
    this temperature: OpenRLHF computed it before the temperature (models/actor.py:271, until PR
    1319)."""
    gpt, tokens = make_gpt(), make_samples().tokens
    log_p, _, entropy = make_actor(gpt)(tokens, MASK, temperature)
    for b, t in MASK.nonzero().tolist():
        p = torch.softmax(gpt(tokens[b : b + 1, : t + 1])[0, -1] / temperature, -1)
        expected, expected_entropy = p[tokens[b, t + 1]].log(), -torch.special.xlogy(p, p).sum()
        torch.testing.assert_close(log_p[b, t], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(entropy[b, t], expected_entropy, rtol=1e-4, atol=1e-5)


def test_a_row_gets_what_it_would_get_alone_and_zero_elsewhere(make_gpt):
    """Padding changes no log-probability, value or entropy (minChatGPT's score changed from .36 to
    .14 with 50 columns of padding, gpt.py:501)."""
    actor, tokens = make_actor(make_gpt()), make_samples().tokens
    results = actor(tokens, MASK)
    for b, n in enumerate(LENGTHS.tolist()):
        expected = actor(tokens[b : b + 1, :n], MASK[b : b + 1, : n - 1])
        for batch, row in zip(results, expected, strict=True):
            torch.testing.assert_close(batch[b : b + 1, : n - 1], row, rtol=1e-5, atol=1e-5)
    assert all((x[~MASK] == 0).all() for x in results)


# ---- the rollout


def test_an_end_token_in_the_last_slot_has_ended_and_one_in_the_prompt_has_not(make_gpt):
    """A vocabulary of 4, all equally likely: uniforms of .1, .4 and .6 sample 0 (the end), 1 and 2.
    torchtune takes the first case for unfinished (rlhf/rewards.py:41), TRL's XPO took the second
    for ended (#6802)."""
    gpt = make_gpt(vocab_size=4)
    gpt.token_embedding.weight.data.zero_()
    uniforms = torch.tensor([[0.4, 0.6, 0.1], [0.4, 0.6, 0.4], [0.1, 0.6, 0.6]])
    samples = generate(gpt, [[1], [0, 0], [3, 0, 1]], 3, end_token=0, uniforms=uniforms)
    scores = ppo.missing_end_rule(torch.tensor([1.0, 1.0, 1.0]), samples.ended, -3.0)
    assert scores.tolist() == [1, -3, 1]


def make_plan(lengths, epochs=2, minibatches=3, microbatch_tokens=20, seed=0):
    return ppo.plan(lengths, epochs, minibatches, microbatch_tokens, np.random.default_rng(seed))


def test_every_row_comes_once_an_epoch():
    """17 rows in 3 minibatches: 6, 6 and 5, the ragged last one included (RLHF_in_notebooks crashes
    on it: notebook 3, c52)."""
    steps = make_plan([1 + i % 7 for i in range(17)])
    assert len(steps) == 2
    for minibatches in steps:
        rows = itertools.chain.from_iterable(itertools.chain.from_iterable(minibatches))
        assert sorted(rows) == list(range(17))
        assert [sum(map(len, minibatch)) for minibatch in minibatches] == [6, 6, 5]


def test_every_epoch_has_its_own_permutation_and_the_generator_decides_it():
    """Each epoch has a new permutation (Ziegler et al., train_policy.py:183), which is a function
    of the seed: a resumed run uses the same minibatches."""
    lengths = [5] * 64
    first, second = make_plan(lengths, microbatch_tokens=10**6)
    assert first != second
    assert make_plan(lengths, microbatch_tokens=10**6) == [first, second]
    assert make_plan(lengths, microbatch_tokens=10**6, seed=1) != [first, second]


def test_minibatches_are_not_sorted_by_length():
    """Minibatches from short to long rows would be another objective. 4 minibatches of 64 random
    rows all have a mean length near 128; sorted, the means would differ by 192."""
    lengths = list(range(1, 257))
    (minibatches,) = make_plan(lengths, epochs=1, minibatches=4, microbatch_tokens=1000)
    means = [np.mean([lengths[row] for row in sum(rows, [])]) for rows in minibatches]
    assert max(means) - min(means) < 40


def test_a_microbatch_holds_rows_of_similar_length_within_its_tokens():
    """Computation and memory are in proportion to the rows times the longest row. Without the
    bound, one long response in a batch would decide whether the batch fits into memory."""
    lengths = list(range(1, 257))
    (minibatches,) = make_plan(lengths, epochs=1, minibatches=4, microbatch_tokens=1000)
    for minibatch in minibatches:
        ranges = [[lengths[row] for row in rows] for rows in minibatch]
        assert all(len(r) * max(r) <= 1000 for r in ranges)
        assert sorted(sum(ranges, [])) == sum(ranges, [])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scored_tokens_are_those_of_policy_reference_and_critic(make_gpt, temperature):
    """The same as row by row, without padding and without microbatches; both models have the same
    temperature. PaLM-rlhf-pytorch has no reference at all (ppo.py:339): its KL is 0 at every
    rollout."""
    reference = make_gpt()
    actor, samples = make_actor(neighbour(reference)), make_samples()
    plan = [[[2], [0]], [[1]]]
    results = ppo.logprobs_and_values(actor, reference, samples, plan, temperature)
    assert (results[0] != results[1])[MASK].all()
    assert all((x[~MASK] == 0).all() for x in results)
    for b, n in enumerate(LENGTHS.tolist()):
        tokens, mask = samples.tokens[b : b + 1, :n], MASK[b : b + 1, : n - 1]
        policy_logprobs, values, _ = actor(tokens, mask, temperature)
        ref_logprobs, _ = logprobs(reference, tokens, mask, temperature)
        for x, expected in zip(results, (policy_logprobs, ref_logprobs, values), strict=True):
            torch.testing.assert_close(x[b : b + 1, : n - 1], expected)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_kl_is_zero_against_oneself(make_gpt, temperature):
    """Policy and reference are equal, also at temperature .7: if only one of the two is divided by
    it, the KL is not 0."""
    reference = make_gpt()
    actor = make_actor(copy.deepcopy(reference))
    samples, epoch = make_samples(), ALL_AT_ONCE[0]
    results = ppo.logprobs_and_values(actor, reference, samples, epoch, temperature)
    assert torch.equal(results[0], results[1])


def chi_square(gpt, prompt, counts, responses, temperature):
    expected = counts.sum() * response_logprobs(gpt, prompt, responses, temperature).exp()
    torch.testing.assert_close(expected.sum(), counts.sum())
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_responses_are_sampled_as_often_as_their_logprobs_say(make_gpt, temperature):
    """Whole responses, at two temperatures. Chi-square is below 50.83, which chance exceeds once in
    a million with 13 - 1 degrees of freedom. Scored at another temperature it is above (by nine
    standard deviations, or more). Most negative KLs come from a sampler that differs from the
    scorer (minChatGPT, trainers.py:194; minRLHF, actor.py:48)."""
    gpt, prompt = make_gpt(vocab_size=4, std=0.3), [2, 1]
    responses = all_responses(4, 2, end_token=0)
    uniforms = torch.rand(4096, 2, generator=torch.Generator().manual_seed(3))
    samples = generate(gpt, [prompt] * 4096, 2, 0, temperature, uniforms)
    rows = zip(samples.tokens.tolist(), samples.lengths.tolist(), strict=True)
    counter = Counter(tuple(tokens[2:length]) for tokens, length in rows)
    counts = torch.tensor([counter[tuple(response)] for response in responses]).double()
    assert len(responses) == 13
    assert chi_square(gpt, prompt, counts, responses, temperature) < 50.83
    assert chi_square(gpt, prompt, counts, responses, 1.7 - temperature) > 50.83


def test_nothing_in_a_rollout_has_a_gradient(make_gpt):
    """PaLM-rlhf-pytorch differentiates through its advantages (ppo.py:548 and 574): the loss can
    fall because the target moves. The parameters of this reference do require a gradient."""
    reference = make_gpt()
    rollout = roll(make_actor(neighbour(reference)), reference, make_samples(), ALL_AT_ONCE)
    samples, *per_token = vars(rollout).values()
    assert not any(x.requires_grad for x in (*samples, *per_token))


def test_a_rollout_is_made_of_rewards_advantages_and_returns(make_gpt):
    """Step by step, with the functions above. The advantages are whitened once, over all rows
    together."""
    reference = make_gpt()
    actor, samples = make_actor(neighbour(reference)), make_samples()
    log_p, ref_log_p, values = ppo.logprobs_and_values(actor, reference, samples, ALL_AT_ONCE[0])
    rollout = loop_rollout(samples, SCORES, log_p, ref_log_p, values, 0.2, gamma=0.9, lam=0.8)
    assert torch.equal(rollout.mask, MASK)
    assert torch.equal(rollout.rewards, token_rewards(SCORES, log_p, ref_log_p, MASK, 0.2))
    advantages, returns = gae(rollout.rewards, values, MASK, 0.9, 0.8)
    assert torch.equal(rollout.raw_advantages, advantages)
    assert torch.equal(rollout.returns, returns)
    assert torch.equal(rollout.advantages, whiten(advantages, MASK))


def test_returns_are_taken_before_whitening(make_gpt):
    """Scores of about 100 give returns of about 100; at a smaller scale, whitened and raw numbers
    look alike. RLHF_in_notebooks adds the *whitened* advantages to the values (notebook 3, c46):
    2.15 for .957."""
    reference = make_gpt()
    actor, scores = ActorCritic(neighbour(reference)), 100 + SCORES
    rollout = roll(actor, reference, make_samples(), ALL_AT_ONCE, scores=scores)
    torch.testing.assert_close(rollout.returns, rollout.raw_advantages + rollout.values)
    assert rollout.returns[MASK].min() > 50
    assert abs(rollout.advantages[MASK].mean()) < 1e-5


def test_a_higher_score_gives_its_tokens_a_higher_advantage(make_gpt):
    """The scores are .5, -3 and 1.5. Whitening a row by itself cancels its score (minRLHF,
    buffer.py:128; PaLM-rlhf-pytorch, ppo.py:566)."""
    reference = make_gpt()
    rollout = roll(ActorCritic(copy.deepcopy(reference)), reference, make_samples(), ALL_AT_ONCE)
    means = [rollout.advantages[b][MASK[b]].mean() for b in range(3)]
    assert means[1] < 0 < means[2] and means[0] < means[2]


# ---- the update


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_ratio_is_one(make_gpt, temperature):
    """Before any step every ratio is 1 to the bit, so approx_kl and clip_fraction are 0 and the
    loss is -mean(A) = 0, on a ragged batch in two microbatches. PaLM-rlhf-pytorch's first ratios
    were 0.96, 1.22, 0.022 (ppo.py:529 and 573)."""
    reference = make_gpt()
    actor, steps = make_actor(neighbour(reference)), [[[[1, 0], [2]]]]
    rollout = roll(actor, reference, make_samples(), steps, temperature)
    stats = ppo.update(actor, Recorder(actor, lr=0.1), rollout, steps, temperature)
    assert stats["ratio_min"] == stats["ratio_max"] == stats["ratio_mean"] == 1
    zeros = "approx_kl", "approx_kl_k3", "clip_fraction", "ratio_var", "value_clip_fraction"
    assert all(stats[name] == 0 for name in zeros)
    assert abs(stats["policy_loss"]) < 1e-6


@pytest.mark.parametrize("separate", [False, True])
def test_the_first_ratio_is_one_in_bf16_too_and_a_tiny_step_moves_every_weight(make_gpt, separate):
    """The trunk computes in bf16; what is stored, compared and trained is float32. In bf16 a step
    of 1e-6 is rounded away: the neighbours of a weight of .5 are .002 apart."""
    reference = make_gpt()
    critic = make_reward_model(make_gpt(seed=2)) if separate else None
    actor = make_actor(neighbour(reference), critic)
    for gpt in (reference, actor.gpt, *([actor.critic] if separate else [])):
        gpt.precision = torch.bfloat16
    steps = [[[[1, 0], [2]]]]
    rollout = roll(actor, reference, make_samples(), steps)
    names = ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns")
    assert all(getattr(rollout, name).dtype == torch.float32 for name in names)
    weights = [p.detach().clone() for p in actor.parameters()]
    stats = ppo.update(actor, torch.optim.Adam(actor.parameters(), 1e-6), rollout, steps)
    assert stats["ratio_min"] == stats["ratio_max"] == 1 and stats["approx_kl"] == 0
    for p, q in zip(actor.parameters(), weights, strict=True):
        assert p.dtype == torch.float32 and not torch.equal(p, q)


def test_the_first_ratio_shows_a_temperature_that_was_forgotten(make_gpt):
    """This is the power of the test above: sampled and scored at .7, trained at 1, the first
    approx_kl is not 0. The mistake is visible in the first line of the log."""
    reference = make_gpt()
    actor = make_actor(neighbour(reference))
    rollout = roll(actor, reference, make_samples(), ALL_AT_ONCE, temperature=0.7)
    stats = ppo.update(actor, Recorder(actor), rollout, ALL_AT_ONCE, temperature=1.0)
    assert stats["approx_kl"] > 0.01


def test_the_ratio_leaves_one_from_the_second_step_on(make_gpt):
    """minChatGPT updates once per rollout, so that both of its clips are dead code
    (trainers.py:250)."""
    reference = make_gpt()
    actor = make_actor(neighbour(reference))
    rollout = roll(actor, reference, make_samples(), ALL_AT_ONCE)
    stats = ppo.update(actor, Recorder(actor, lr=0.5), rollout, 3 * ALL_AT_ONCE)
    assert stats["ratio_max"] > 1.2 and stats["approx_kl"] > 0 and stats["clip_fraction"] > 0


def test_there_are_as_many_optimiser_steps_as_epochs_times_minibatches(make_gpt):
    """2 epochs of 3 minibatches of up to 3 microbatches: 6 steps. TRL's num_mini_batches had no
    effect (PR 2531, #5645), and inside accelerate's loop every microbatch of the last prompts was a
    step (accelerate #1847; TRL, ppo_trainer.py:799). No gradient remains for the next rollout, as
    in minRLHF, ppo_trainer.py:211."""
    reference = make_gpt()
    actor, samples = make_actor(neighbour(reference)), make_samples()
    samples = Samples(*(x.repeat(3, *[1] * (x.dim() - 1)) for x in samples))  # 9 rows
    steps = make_plan(samples.lengths.tolist(), microbatch_tokens=1)
    rollout = roll(actor, reference, samples, steps, scores=SCORES.repeat(3))
    optimizer = Recorder(actor)
    ppo.update(actor, optimizer, rollout, steps)
    assert len(optimizer.gradients) == 6
    assert all(p.grad is None or not p.grad.any() for p in actor.parameters())


def naive_gradient(actor, rollout, temperature, clip=0.2, value_clip=0.2, vf_coef=0.1):
    """The gradient of Schulman et al.'s equation 9 without entropy, token by token, on rows that
    stand alone."""
    total, count = 0.0, int(rollout.mask.sum())
    for b, t in rollout.mask.nonzero().tolist():
        hidden = actor.gpt.hidden(rollout.samples.tokens[b : b + 1, : t + 1])[0, -1]
        log_p = torch.log_softmax(actor.gpt.head(hidden) / temperature, -1)
        log_ratio = log_p[rollout.samples.tokens[b, t + 1]] - rollout.logprobs[b, t]
        ratio, A = log_ratio.exp(), rollout.advantages[b, t]
        surrogate = torch.min(A * ratio, A * ratio.clamp(1 - clip, 1 + clip))
        V, V_old, R = actor.value_head(hidden), rollout.values[b, t], rollout.returns[b, t]
        V_clipped = torch.clamp(V, V_old - value_clip, V_old + value_clip)
        squared_error = torch.max((V - R) ** 2, (V_clipped - R) ** 2)
        total = total + (-surrogate + vf_coef * squared_error / 2) / count
    names, parameters = zip(*actor.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(total, parameters), strict=True))


@pytest.mark.parametrize("groups", [[[0, 1, 2]], [[1], [0, 2]], [[2], [1], [0]]])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_is_that_of_a_loop_over_tokens_whatever_the_microbatches(
    make_gpt, groups, temperature
):
    """The rollout comes from another policy, so that ratios and values are on both sides of their
    clips. The loss has no other term: no entropy bonus, no KL."""
    reference = make_gpt()
    rollout = roll(make_actor(reference), reference, make_samples(), ALL_AT_ONCE, temperature)
    actor = make_actor(neighbour(reference, 0.1))
    actor.value_head.bias.data += 0.3
    optimizer = Recorder(actor)
    stats = ppo.update(actor, optimizer, rollout, [[groups]], temperature, max_grad_norm=math.inf)
    assert 0 < stats["clip_fraction"] < 1 and 0 < stats["value_clip_fraction"] < 1
    assert_close_dicts(optimizer.gradients[0], naive_gradient(actor, rollout, temperature))


def test_the_clips_and_the_weight_of_the_value_loss_are_arguments(make_gpt):
    """All three at once, at values that are not the defaults. An argument that is accepted and
    ignored would show in the gradient."""
    reference = make_gpt()
    rollout = roll(make_actor(reference), reference, make_samples(), ALL_AT_ONCE)
    actor = make_actor(neighbour(reference, 0.1))
    actor.value_head.bias.data += 0.3
    flags, optimizer = {"clip": 0.6, "value_clip": 0.45, "vf_coef": 0.7}, Recorder(actor)
    stats = ppo.update(actor, optimizer, rollout, ALL_AT_ONCE, max_grad_norm=math.inf, **flags)
    assert_close_dicts(optimizer.gradients[0], naive_gradient(actor, rollout, 1.0, **flags))
    torch.testing.assert_close(stats["loss"], stats["policy_loss"] + 0.7 * stats["value_loss"])


def vector(gradients, condition=lambda name: True):
    """The gradients of the parameters whose names fulfil a condition, one after another."""
    return torch.cat([g.flatten() for name, g in gradients.items() if condition(name)])


@pytest.mark.parametrize("separate", [False, True])
def test_the_gradient_norm_is_clipped_once_an_optimiser_step(make_gpt, separate):
    """The norm is that of the sum over all microbatches, after `backward` (minChatGPT clips before
    it: trainers.py:386). The norms before clipping are logged: that of all gradients, and that of
    the critic alone, which is the value head and its own trunk if it has one."""
    reference = make_gpt()
    critic = make_reward_model(make_gpt(seed=2)) if separate else None
    actor = make_actor(neighbour(reference, 0.1), critic)
    rollout = roll(make_actor(reference), reference, make_samples(), ALL_AT_ONCE)
    steps, gradients, stats = [[[[1], [2], [0]]]], {}, {}
    for limit in (math.inf, 1e-3):
        optimizer = Recorder(actor)
        stats[limit] = ppo.update(actor, optimizer, rollout, steps, max_grad_norm=limit)
        gradients[limit] = optimizer.gradients[0]
    whole, clipped = vector(gradients[math.inf]), vector(gradients[1e-3])
    critic_gradient = vector(gradients[math.inf], lambda name: not name.startswith("gpt."))
    for limit in (math.inf, 1e-3):
        torch.testing.assert_close(stats[limit]["grad_norm"], whole.norm())
        torch.testing.assert_close(stats[limit]["critic_grad_norm"], critic_gradient.norm())
    assert critic_gradient.norm() < whole.norm()
    torch.testing.assert_close(clipped, whole * 1e-3 / whole.norm())


def test_reference_and_reward_model_stay_as_they_were(make_gpt):
    """They are equal to the bit and share no storage with what is trained; every trained parameter
    changes."""
    reference = make_gpt().requires_grad_(False)
    reward_model = make_reward_model(make_gpt(seed=2))
    actor = ActorCritic(copy.deepcopy(reference).requires_grad_(), reward_model)
    frozen = [*reference.state_dict().values(), *reward_model.state_dict().values()]
    constants = [x.clone() for x in frozen]
    weights = [p.detach().clone() for p in actor.parameters()]
    optimizer, samples = torch.optim.Adam(actor.parameters(), 1e-2), make_samples()
    for _ in range(2):
        scores = reward_model(samples.tokens, samples.lengths)
        rollout = roll(actor, reference, samples, ALL_AT_ONCE, scores=scores)
        ppo.update(actor, optimizer, rollout, 2 * ALL_AT_ONCE)
    assert all(torch.equal(x, y) for x, y in zip(frozen, constants, strict=True))
    assert not pointers(frozen) & pointers(actor.parameters())
    for p, q in zip(actor.parameters(), weights, strict=True):
        assert not torch.equal(p, q)
    assert not torch.equal(rollout.logprobs, rollout.ref_logprobs)


def test_an_update_is_a_function_of_its_rollout(make_gpt):
    """There is no dropout and no other randomness: two updates give the same bits (TRL 0.11 scored
    in eval mode and updated in training mode: ppo_trainer.py:1014, #744, #1066)."""
    reference = make_gpt()
    rollout = roll(make_actor(reference), reference, make_samples(), ALL_AT_ONCE)
    actors = [make_actor(neighbour(reference)) for _ in range(2)]
    for actor in actors:
        ppo.update(actor, torch.optim.Adam(actor.parameters(), 1e-2), rollout, 2 * ALL_AT_ONCE)
    parameters = zip(*(actor.parameters() for actor in actors), strict=True)
    assert all(torch.equal(p, q) for p, q in parameters)


def test_a_step_is_computed_where_its_tokens_are(make_gpt):
    """torch creates tensors on the default device, which is the CPU while the tokens are on a GPU.
    The device "meta", on which nothing can be computed, takes the part of the wrong default. The
    results are the same."""
    reference, samples = make_gpt(), make_samples()
    results = []
    for default in ("cpu", "meta"):
        actor = make_actor(neighbour(reference))
        with torch.device(default):
            rollout = roll(actor, reference, samples, ALL_AT_ONCE)
            optimizer = Recorder(actor)
            stats = ppo.update(actor, optimizer, rollout, ALL_AT_ONCE)
            stats |= ppo.rollout_stats(rollout, SCORES, SCORES, samples.ended, 0.1)
        results.append(stats | optimizer.gradients[0] | {"rewards": rollout.rewards})
    assert_close_dicts(*results)


def test_a_mask_that_was_made_on_the_cpu_is_brought_to_where_the_tokens_are(make_gpt, monkeypatch):
    """For the values and for the rewards. The device "meta", on which nothing can be computed,
    takes the part of a GPU."""
    actor, samples = ActorCritic(make_gpt()).to("meta"), make_samples()
    hidden = torch.zeros(3, T, 16, device="meta")
    monkeypatch.setattr(actor.gpt, "hidden", lambda tokens, wanted: hidden)
    assert [x.device.type for x in actor(samples.tokens.to("meta"), MASK)] == 3 * ["meta"]
    devices = []

    def spy(scores, logprobs, ref_logprobs, mask, kl_coef):
        devices.append(mask.device.type)
        raise NotImplementedError("meta computes nothing")

    monkeypatch.setattr(ppo, "token_rewards", spy)
    meta_samples = samples._replace(tokens=samples.tokens.to("meta"))
    with pytest.raises(NotImplementedError, match="computes nothing"):
        loop_rollout(meta_samples, SCORES, None, None, None, 0.1)
    assert devices == ["meta"]


def test_what_is_not_given_is_the_methods_default(make_gpt):
    """Temperature 1, gamma 1, lambda 1, both clips .2, a value loss of weight .1, a gradient norm
    of at most 1. A call without these arguments makes the same step as the defaults of the command
    line."""
    reference, samples = make_gpt(), make_samples()
    temperature, gae_flags = {"temperature": 1.0}, {"gamma": 1.0, "lam": 1.0}
    clips = {"clip": 0.2, "value_clip": 0.2, "vf_coef": 0.1, "max_grad_norm": 1.0}
    results = []
    flags = temperature, gae_flags, temperature | clips
    for pass_flags, reward_flags, update_flags in (({}, {}, {}), flags):
        actor = make_actor(neighbour(reference))
        numbers = ppo.logprobs_and_values(actor, reference, samples, ALL_AT_ONCE[0], **pass_flags)
        rollout = loop_rollout(samples, 100 * SCORES, *numbers, 0.1, **reward_flags)
        optimizer = Recorder(actor, lr=0.5)
        stats = ppo.update(actor, optimizer, rollout, 2 * ALL_AT_ONCE, **update_flags)
        log_p, _, entropy = actor(samples.tokens, MASK, **pass_flags)
        assert stats["grad_norm"] > 2, "nothing was clipped, which tests little"
        tensors = {"logprobs": log_p, "entropy": entropy, "returns": rollout.returns}
        results.append(stats | optimizer.gradients[1] | tensors)
    assert_close_dicts(*results)


# ---- metrics


def all_numbers(actor, reference, samples, steps, change=lambda rollout: rollout, epochs=2):
    """Everything that a rollout and its update report, and the first gradient. From the second
    epoch on the ratios differ from 1."""
    rollout = change(roll(actor, reference, samples, steps))
    stats = ppo.rollout_stats(rollout, SCORES + 1, SCORES, samples.ended, 0.1)
    learner = copy.deepcopy(actor)
    optimizer = Recorder(learner, lr=0.1)
    stats |= ppo.update(learner, optimizer, rollout, epochs * steps)
    return stats | optimizer.gradients[0]


def test_padding_changes_neither_metric_nor_gradient(make_gpt):
    """Twice as many columns, with other ids in them. In N+ (ppo.py:763-771) and TRL padding dilutes
    approx_kl, entropy and the ratio, and TRL's entropy became negative (#2022, #2281, #2496)."""
    reference = make_gpt()
    actor = make_actor(neighbour(reference))
    narrow = all_numbers(actor, reference, make_samples(T=9, seed=1), ALL_AT_ONCE)
    wide = all_numbers(actor, reference, make_samples(T=18, seed=2), ALL_AT_ONCE)
    assert_close_dicts(narrow, wide)


@JUNK
def test_what_a_rollout_holds_outside_the_mask_reaches_neither_metric_nor_gradient(make_gpt, junk):
    """The whole update with 1e9, -1e9 and NaN in every tensor of the rollout at once, with
    different signs, so that no two of them cancel. In N+ and TRL the sentinel of the padding has to
    cancel."""
    reference = make_gpt()
    actor = make_actor(neighbour(reference))
    signs = {"logprobs": 1, "ref_logprobs": -1, "values": 1, "rewards": 1}
    signs |= {"raw_advantages": 1, "advantages": -1, "returns": 1}

    def change(rollout):
        per_token = {name: getattr(rollout, name) for name in signs}
        spoiled = {name: spoil(x, signs[name] * junk) for name, x in per_token.items()}
        return dataclasses.replace(rollout, **spoiled)

    clean = all_numbers(actor, reference, make_samples(), ALL_AT_ONCE)
    assert_close_dicts(clean, all_numbers(actor, reference, make_samples(), ALL_AT_ONCE, change))


def test_the_order_of_the_rows_changes_neither_metric_nor_gradient(make_gpt):
    """A batch is a set. PaLM-rlhf-pytorch shifts along the batch instead of the time (ppo.py:603),
    and its results depend on the order."""
    reference, samples = make_gpt(), make_samples()
    actor, order = make_actor(neighbour(reference)), [2, 0, 1]
    stats = all_numbers(actor, reference, samples, ALL_AT_ONCE)
    samples, scores = Samples(*(x[order] for x in samples)), SCORES[order]
    rollout = roll(actor, reference, samples, ALL_AT_ONCE, scores=scores)
    other = ppo.rollout_stats(rollout, scores + 1, scores, samples.ended, 0.1)
    optimizer = Recorder(actor, lr=0.1)
    other |= ppo.update(actor, optimizer, rollout, 2 * ALL_AT_ONCE)
    assert_close_dicts(stats, other | optimizer.gradients[0])


def hand_made_rollout():
    """Responses of 3, 1 and 2 tokens. Their KLs: .1 + .2 + .3, -.5, 0."""
    prompt_lengths, lengths = torch.tensor([1, 2, 1]), torch.tensor([4, 3, 3])
    mask = response_mask(prompt_lengths, lengths, 4)
    log_p = torch.tensor([[-1.0, -2.0, -3.0], [0.0, -1.5, 0.0], [-1.0, -1.0, 0.0]])
    kl = torch.tensor([[0.1, 0.2, 0.3], [0.0, -0.5, 0.0], [0.0, 0.0, 0.0]])
    values = torch.tensor([[1.0, 2.0, 3.0], [0.0, 4.0, 0.0], [5.0, 6.0, 0.0]])
    tokens, ended = torch.zeros(3, 4, dtype=torch.long), torch.tensor([True, False, True])
    samples = Samples(tokens, prompt_lengths, lengths, ended)
    return loop_rollout(samples, SCORES, log_p, log_p - kl * mask, values, kl_coef=0.2), samples


def test_rollout_metrics_are_worked_by_hand():
    """kl is summed over a response and averaged over responses: (.6 - .5 + 0) / 3, in nats;
    OpenRLHF logs that of a token. score is the reward model's after the missing-end rule, with mean
    and standard deviation over responses. sampled_entropy is (6 + 1.5 + 2) / 3; the values are 1 to
    6, mean 3.5."""
    rollout, samples = hand_made_rollout()
    raw_scores = torch.tensor([0.5, 4.5, 1.5])
    stats = ppo.rollout_stats(rollout, raw_scores, SCORES, samples.ended, kl_coef=0.2)
    k3 = sum(math.exp(-x) - 1 + x for x in (0.1, 0.2, 0.3, -0.5, 0, 0))
    expected = {"score": -1 / 3, "raw_score": 6.5 / 3, "score_min": -3, "score_max": 1.5}
    expected |= {"score_std": SCORES.std(correction=0)}
    expected |= {"kl": 0.1 / 3, "kl_k3": k3 / 3, "kl_coef": 0.2}
    expected |= {"non_score_reward": -0.02 / 3, "rlhf_reward": -1.02 / 3}
    expected |= {"sampled_entropy": 9.5 / 3, "ended": 2 / 3}
    expected |= {"length": 2, "length_min": 1, "length_max": 3}
    expected |= {"value_mean": 3.5, "value_var": 35 / 12}
    returns = rollout.returns[rollout.mask].double()
    advantages = rollout.raw_advantages[rollout.mask].double()
    expected |= {"return_mean": returns.mean(), "return_var": returns.var(correction=0)}
    expected |= {"advantage_mean": advantages.mean(), "advantage_std": advantages.std(correction=0)}
    expected |= {"explained_variance": 1 - advantages.var(correction=0) / returns.var(correction=0)}
    expected = {name: float(x) for name, x in expected.items()}
    assert {name: float(x) for name, x in stats.items()} == pytest.approx(expected, abs=1e-5)


def test_update_metrics_are_told_at_the_clips_that_were_used(make_gpt):
    """At .6 and .45 fewer tokens are clipped than at .2. Counted at the defaults, the log would
    report far more stopped gradient than there is."""
    reference = make_gpt()
    rollout = roll(make_actor(reference), reference, make_samples(), ALL_AT_ONCE)
    actor = make_actor(neighbour(reference, 0.1))
    actor.value_head.bias.data += 0.3
    log_p, values, _ = actor(rollout.samples.tokens, MASK)
    stats = ppo.update(actor, Recorder(actor), rollout, ALL_AT_ONCE, clip=0.6, value_clip=0.45)
    policy = log_p, rollout.logprobs, rollout.advantages, MASK
    value = values, rollout.values, rollout.returns, MASK
    loss, expected = ppo.policy_loss(*policy, 0.6)
    _, default = ppo.policy_loss(*policy)
    assert stats["clip_fraction"] == expected["clip_fraction"] < default["clip_fraction"]
    torch.testing.assert_close(stats["policy_loss"], loss)
    loss, expected = ppo.value_loss(*value, 0.45)
    _, default = ppo.value_loss(*value)
    fraction = "value_clip_fraction"
    assert stats[fraction] == expected[fraction] < default[fraction]
    torch.testing.assert_close(stats["value_loss"], loss)


def test_the_rlhf_reward_is_the_score_minus_the_price_of_the_kl(make_gpt):
    """It is also the sum of the rewards of the tokens. TRL's documentation subtracts the non-score
    reward: a wrong sign. slime multiplied the KL in place, and logged another KL than it used (PR
    2114)."""
    reference, samples = make_gpt(), make_samples()
    rollout = roll(make_actor(neighbour(reference)), reference, samples, ALL_AT_ONCE, kl_coef=0.3)
    stats = ppo.rollout_stats(rollout, SCORES, SCORES, samples.ended, kl_coef=0.3)
    torch.testing.assert_close(stats["non_score_reward"], -0.3 * stats["kl"])
    torch.testing.assert_close(stats["rlhf_reward"], stats["score"] + stats["non_score_reward"])
    torch.testing.assert_close(stats["rlhf_reward"], rollout.rewards.sum(1).mean())


def test_explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_constant_one():
    """1 - var(R - V) / var(R): 1 for V = R, 0 for V = 7 and for V = 2R, where the error varies as
    much as the return. Ziegler et al. use the mean squared error instead of the variance
    (train_policy.py:241), so that a constant offset counts."""
    rollout, samples = hand_made_rollout()
    constant = torch.where(rollout.mask, 7.0, 0.0)
    for values, expected in ((rollout.returns, 1), (constant, 0), (2 * rollout.returns, 0)):
        other = dataclasses.replace(rollout, values=values)
        stats = ppo.rollout_stats(other, SCORES, SCORES, samples.ended, 0.2)
        assert stats["explained_variance"].item() == pytest.approx(expected, abs=1e-5)


def test_selected_rows_are_cut_to_the_longest_of_them(make_gpt):
    """Rows 2 and 0, of 8 and 5 tokens: 8 columns of tokens, 7 of what is per token, and the lengths
    and ends of these rows in this order."""
    reference, samples = make_gpt(), make_samples()
    rollout = roll(make_actor(neighbour(reference)), reference, samples, ALL_AT_ONCE)
    batch = rollout.select([2, 0])
    assert torch.equal(batch.samples.tokens, samples.tokens[[2, 0], :8])
    for name in ("prompt_lengths", "lengths", "ended"):
        assert torch.equal(getattr(batch.samples, name), getattr(rollout.samples, name)[[2, 0]])
    for field in dataclasses.fields(rollout)[1:]:
        expected = getattr(rollout, field.name)[[2, 0], :7]
        assert torch.equal(getattr(batch, field.name), expected), field.name
    assert rollout.response_tokens([2, 0]) == batch.mask.sum()


def test_a_separate_critic_computes_no_state_that_is_not_read(make_gpt):
    """11 states choose a response token, of 27: only those go through the MLP of its last block."""
    gpt, counts = make_gpt(), []
    actor, samples = make_actor(gpt, make_reward_model(gpt)), make_samples()
    last = actor.critic.blocks[-1]
    last.mlp.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].shape[:-1]))
    actor(samples.tokens, samples.mask)
    assert counts == [(int(samples.mask.sum()),)] == [(11,)]


def test_merged_statistics_are_those_of_all_tokens_at_once():
    """Means, variance, least and largest ratio of three rows, from a part of one row and a part of
    two. A mean of the parts' variances would leave out what lies between the parts, and a mean that
    is not weighted by tokens would favour the short row."""
    logprobs, old_logprobs, advantages = normal(3, 3, T - 1, seed=3) / 2
    logprobs[1] += 1  # the ratios of the second row are larger
    columns = logprobs, old_logprobs, advantages, MASK
    _, whole = ppo.policy_loss(*columns)
    parts = [ppo.policy_loss(*(x[rows] for x in columns))[1] for rows in ([1], [0, 2])]
    token_counts = [int(MASK[rows].sum()) for rows in ([1], [0, 2])]
    assert token_counts[0] != token_counts[1]
    assert_close_dicts(ppo.merge(parts, token_counts), whole)


def test_update_metrics_are_means_over_the_tokens_of_all_epochs(make_gpt):
    """Each token counts with the numbers just before its own step: the first step of the first
    epoch has ratio 1, and the mean over two epochs differs from the second (GRPO-Zero logs the last
    microbatch: grpo.py:220)."""
    reference, samples = make_gpt(), make_samples()
    actor = make_actor(neighbour(reference))
    rollout = roll(actor, reference, samples, ALL_AT_ONCE)
    both = ppo.update(actor, Recorder(actor, lr=0.05), rollout, 2 * ALL_AT_ONCE)
    actor = make_actor(neighbour(reference))
    first = ppo.update(actor, Recorder(actor, lr=0.05), rollout, ALL_AT_ONCE)
    second = ppo.update(actor, Recorder(actor), rollout, ALL_AT_ONCE)
    names = "policy_loss", "value_loss", "loss", "entropy", "value_error", "grad_norm"
    for name in (*names, "approx_kl", "clip_fraction", "ratio_mean"):
        expected = (first[name] + second[name]) / 2
        torch.testing.assert_close(both[name], expected, rtol=1e-4, atol=1e-6)
    assert both["ratio_max"] == second["ratio_max"] > 1
    _, _, entropy = make_actor(neighbour(reference))(samples.tokens, MASK)
    torch.testing.assert_close(first["entropy"], entropy[MASK].mean())


# ---- the exact problem of exact.py


def distance_after_ppo(beta, updates, seed=0, batch_size=512, lr=0.1):
    """KL(policy || optimum) in nats, the larger of the two prompts, after PPO with kl_coef = beta.

    The optimum of E[score] - beta KL is pi_ref exp(score / beta) / Z, where a cut-off response has
    the missing-end score.
    """
    reference = Tabular().requires_grad_(False)
    actor = ActorCritic(copy.deepcopy(reference).requires_grad_())
    actor.value_head.weight.data[0, -1] = 1
    optimizer = torch.optim.Adam(actor.parameters(), lr)
    prompts = EXACT_PROMPTS * (batch_size // 2)
    number = {tuple(response): i for i, response in enumerate(RESPONSES)}
    for step in range(updates):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / updates)
        rng = config.rng(seed, config.ROLLOUTS, step)
        uniforms = torch.from_numpy(rng.random((batch_size, NEW_TOKENS), dtype=np.float32))
        samples = generate(actor.gpt, prompts, NEW_TOKENS, END, uniforms=uniforms)
        lengths = samples.lengths.tolist()
        rows = zip(samples.tokens.tolist(), map(len, prompts), lengths, strict=True)
        numbers = [number[tuple(tokens[start:stop])] for tokens, start, stop in rows]
        raw_scores = TABLE[torch.arange(batch_size) % 2, numbers].float()
        scores = ppo.missing_end_rule(raw_scores, samples.ended, MISSING_END_SCORE)
        steps = ppo.plan(lengths, epochs=2, minibatches=1, microbatch_tokens=10**6, rng=rng)
        rollout = roll(actor, reference, samples, steps, kl_coef=beta, scores=scores)
        ppo.update(actor, optimizer, rollout, steps, vf_coef=1.0)
    problems = zip(EXACT_PROMPTS, TABLE, strict=True)
    return max(distance(actor.gpt, reference, *problem, beta) for problem in problems)


@pytest.mark.parametrize(("beta", "bound"), [(1.0, 0.01), (0.5, 0.05)])
def test_ppo_finds_the_optimum_of_a_problem_that_can_be_enumerated(beta, bound):
    """pi_ref exp(score / beta) / Z (Rafailov et al. 2023, equation 4) over all 40 responses to each
    prompt, 13 that end and 27 that are cut off. The policy starts .44 nats away at beta 1 and 2.9
    nats at beta .5. With one wrong sign or estimator it does not reach the optimum."""
    assert distance_after_ppo(beta, updates=60) < bound


def with_penalty(penalty):
    """`token_rewards` with another penalty for the distance from the reference."""

    def rewards(scores, log_p, ref_log_p, mask, kl_coef):
        penalties = torch.where(mask, kl_coef * penalty(log_p, ref_log_p), 0.0)
        return token_rewards(scores, log_p, log_p, mask, kl_coef) - penalties

    return rewards


def test_with_k3_in_the_reward_ppo_does_not_find_the_optimum(monkeypatch):
    """The policy collapses, because a token that became rare gets a penalty for it. TRL offers this
    as kl_estimator="k3" (ppo_trainer.py:774)."""
    monkeypatch.setattr(ppo, "token_rewards", with_penalty(kl_k3))
    assert distance_after_ppo(1.0, updates=20) > 0.1


def test_with_a_kl_clamped_at_zero_ppo_does_not_find_the_optimum(monkeypatch):
    """AlpacaFarm's clamp(min=0) (rl/ppo_trainer.py:72): the bonus for rare tokens, which it
    removes, pulls the policy back to the reference."""
    rewards = with_penalty(lambda log_p, ref_log_p: (log_p - ref_log_p).clamp(min=0))
    monkeypatch.setattr(ppo, "token_rewards", rewards)
    assert distance_after_ppo(1.0, updates=20) > 0.1


def test_with_the_wrong_kl_sign_ppo_does_not_find_the_optimum(monkeypatch):
    """rlhf-book's k1 (loss.py:49) rewards divergence. It has no effect only because every
    configuration of the book has a coefficient of 0."""
    rewards = with_penalty(lambda log_p, ref_log_p: ref_log_p - log_p)
    monkeypatch.setattr(ppo, "token_rewards", rewards)
    assert distance_after_ppo(1.0, updates=20) > 0.1


def test_with_a_lost_score_ppo_does_not_find_the_optimum(monkeypatch):
    """The KL alone keeps the policy where it started, .44 nats away."""

    def rewards(scores, *rest):
        return token_rewards(0 * scores, *rest)

    monkeypatch.setattr(ppo, "token_rewards", rewards)
    assert distance_after_ppo(1.0, updates=20) > 0.1


# ---- a five-second world


def letters_e(prompts, responses):
    """A reward: how many times a response contains "e"."""
    return [float(response.count("e")) for response in responses]


def test_ppo_raises_the_judged_score_and_stays_near_the_reference(make_gpt, tmp_path):
    """The script as a user runs it, on a random model with a likely end token, with a plain
    function as the reward. The mean score rises by a fifth of a letter per response (by .25 to 1.4
    on seeds 1 to 4), and at half a letter per nat the KL stays below 6 nats (below 2.6)."""
    tokenizer = get_tokenizer()
    gpt = make_gpt(tokenizer.vocab_size, context=32, std=0.02)
    gpt.norm.bias.data[0] = 1.0
    gpt.token_embedding.weight.data[tokenizer.end_token, 0] = 4.0  # about its logit
    checkpoint.save(tmp_path / "sft", "sft", gpt.config, tokenizer, 0, model=gpt)
    records = '{"prompt": "a"}\n{"prompt": "why not"}\n{"prompt": "go on"}\n'
    (tmp_path / "prompts.jsonl").write_text(records * 10)
    flags = f"--out {tmp_path} --data {tmp_path}/prompts.jsonl --reward {__name__}:letters_e "
    flags += "--missing-end-score 0 --updates 80 --batch-size 64 --max-new-tokens 8 --held-out 3 "
    flags += "--eval-every 80 --lr 2e-3 --kl-coef 0.5 --device cpu --epochs 1 --minibatches 4 "
    flags += "--warmup 10"
    train_ppo.main(flags.split())
    metrics = read_metrics(tmp_path / "ppo")
    score, kl = ([line[name] for line in metrics] for name in ("score", "kl"))
    assert len(metrics) == 80
    assert np.mean(score[-5:]) > np.mean(score[:5]) + 0.2
    assert kl[0] == 0 and 0.2 < kl[-1] < 6 and max(kl) < 6


def with_credit(added):
    """`token_rewards` with rewards that are added to it, from scores, reference and mask."""

    def rewards(scores, log_p, ref_log_p, mask, kl_coef):
        plain = token_rewards(scores, log_p, ref_log_p, mask, kl_coef)
        return plain + added(scores, ref_log_p, mask)

    return rewards


@pytest.mark.parametrize(("share", "nats"), [(0.5, 0.05), (1.0, 0.2)])
def test_with_the_score_shared_out_evenly_ppo_settles_elsewhere(monkeypatch, share, nats):
    """Every response is worth what it was, and so is every policy: the optimum is the same one. But
    a later token learns from the share that is left of the score. Twice the updates change nothing:
    .053 and .234 nats away."""

    def evenly(scores, ref_log_p, mask):
        return credit.redistribute(scores, torch.ones(mask.shape), mask, share)

    monkeypatch.setattr(ppo, "token_rewards", with_credit(evenly))
    assert nats < distance_after_ppo(1.0, updates=60) < 2 * nats


def test_with_a_potential_of_prefixes_ppo_finds_the_optimum(monkeypatch):
    """Whatever the potential: here the log-probability of the prefix under the reference."""

    def potential(scores, ref_log_p, mask):
        return credit.shaping(torch.where(mask, ref_log_p, 0.0).cumsum(1), mask)

    monkeypatch.setattr(ppo, "token_rewards", with_credit(potential))
    assert distance_after_ppo(1.0, updates=60) < 0.01
