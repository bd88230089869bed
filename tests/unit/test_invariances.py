"""What must not matter: properties of the whole step from tokens to gradient, on random shapes. The
smallest have one row of two tokens and a vocabulary of two; some rows fill the context to its last
column.

hypothesis uses the same examples in every run (derandomize), so that a failure is a change of the
code, not chance.
"""

import copy
from typing import NamedTuple

import pytest
import torch
from helpers import loop_rollout
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minirlhf import ppo
from minirlhf.generate import Samples, choose, generate
from minirlhf.model import GPT, GPTConfig, logprobs, response_mask
from minirlhf.ppo import ActorCritic
from minirlhf.reward import RewardModel

examples = settings(max_examples=15, deadline=None, derandomize=True)


class Problem(NamedTuple):
    actor: ActorCritic
    reference: GPT
    reward_model: RewardModel
    samples: Samples
    seed: int


def random_gpt(vocabulary, context, generator):
    gpt = GPT(GPTConfig(vocabulary, context, layers=1, heads=2, width=8))
    for name, parameter in gpt.named_parameters():
        mean = 1.0 if "norm" in name and "weight" in name else 0.0
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator) + mean
    return gpt


@st.composite
def problems(draw):
    """Policy, reference, reward model and a batch of samples. The context is exactly as long as the
    longest row."""
    spans = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=5))
    vocabulary, seed = draw(st.integers(2, 9)), draw(st.integers(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    prompt_lengths = torch.tensor([prompt for prompt, _ in spans])
    lengths = torch.tensor([prompt + response for prompt, response in spans])
    context = int(lengths.max())
    reference = random_gpt(vocabulary, context, generator)
    actor = ActorCritic(random_gpt(vocabulary, context, generator))
    actor.value_head.weight.data = torch.randn(1, 8, generator=generator)
    tokens = torch.randint(vocabulary, (len(spans), context), generator=generator)
    ended = torch.rand(len(spans), generator=generator) < 0.7
    samples = Samples(tokens, prompt_lengths, lengths, ended)
    return Problem(actor, reference, RewardModel(reference), samples, seed)


class Recorder(torch.optim.SGD):
    """An optimiser that records the gradients and changes nothing."""

    def step(self):
        self.gradients = [p.grad.clone() for group in self.param_groups for p in group["params"]]


def step(problem, samples=None, groups=None, lam=0.95, shift=0.0, temperature=1.0):
    """Everything that one PPO step computes: the rollout (zero outside the mask), the gradients,
    the metrics."""
    samples = samples or problem.samples
    groups = groups or [[list(range(len(samples.tokens)))]]
    tokens = samples.tokens[:, : int(samples.lengths.max())]
    scores = problem.reward_model(tokens, samples.lengths).detach()
    scores = ppo.missing_end_rule(scores, samples.ended, -1.0) + shift
    actor, reference = copy.copy(problem.actor), problem.reference
    numbers = ppo.logprobs_and_values(actor, reference, samples, groups, temperature)
    rollout = loop_rollout(samples, scores, *numbers, kl_coef=0.2, lam=lam)
    optimizer = Recorder(actor.parameters(), lr=0.0)
    stats = ppo.update(actor, optimizer, rollout, [groups], temperature, max_grad_norm=1e9)
    stats |= ppo.rollout_stats(rollout, scores, scores, samples.ended, 0.2)
    return rollout, optimizer.gradients, stats


PER_TOKEN = "logprobs", "ref_logprobs", "values", "rewards"
PER_TOKEN += "raw_advantages", "advantages", "returns"


def assert_same_step(one, other, order=None, columns=None):
    """Per token (rows in `order`, the first `columns`), gradients and metrics, to float32's
    precision."""
    (first, gradients, stats), (second, other_gradients, other_stats) = one, other
    for name in PER_TOKEN:
        left, right = getattr(first, name), getattr(second, name)
        assert_close(left if order is None else left[order], right[:, :columns], name)
        assert columns is None or not right[:, columns:].any(), name
    for left, right in zip(gradients, other_gradients, strict=True):
        assert_close(left, right, "gradient")
    assert stats.keys() == other_stats.keys()
    for name in stats:
        assert_close(torch.as_tensor(stats[name]), torch.as_tensor(other_stats[name]), name)


def assert_close(left, right, name):
    def message(text):
        return f"{name}: {text}"

    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4, msg=message)


@examples
@given(problems(), st.integers(0, 10_000))
def test_what_stands_right_of_a_rows_end_reaches_nothing(problem, seed):
    """No score, reward, advantage, gradient or metric depends on it: it is not part of the
    response, whatever its id."""
    tokens, lengths = problem.samples.tokens.clone(), problem.samples.lengths
    beyond = torch.arange(tokens.size(1)) >= lengths[:, None]
    vocabulary = problem.reference.config.vocab_size
    junk = torch.randint(vocabulary, tokens.shape, generator=torch.Generator().manual_seed(seed))
    samples = problem.samples._replace(tokens=torch.where(beyond, junk, tokens))
    assert_same_step(step(problem), step(problem, samples))


@examples
@given(problems(), st.integers(1, 6))
def test_the_amount_of_padding_reaches_nothing(problem, columns):
    """The context need not hold the padding: no pass is wider than its longest row."""
    tokens = problem.samples.tokens
    wider = problem.samples._replace(tokens=torch.nn.functional.pad(tokens, (0, columns)))
    assert_same_step(step(problem), step(problem, wider), columns=tokens.size(1) - 1)


@examples
@given(problems())
def test_the_order_of_the_rows_reaches_nothing(problem):
    """Scores, whitening and losses are over a set of responses. A shift along the wrong axis would
    depend on the order (PaLM-rlhf-pytorch, ppo.py:603)."""
    generator = torch.Generator().manual_seed(problem.seed)
    order = torch.randperm(len(problem.samples.tokens), generator=generator).tolist()
    samples = Samples(*(x[order] for x in problem.samples))
    assert_same_step(step(problem), step(problem, samples), order=order)


@examples
@given(problems(), st.data())
def test_how_a_minibatch_is_split_reaches_nothing(problem, data):
    """Any split of its rows into microbatches gives the gradient of the whole: sums over tokens,
    divided once."""
    rows = data.draw(st.permutations(range(len(problem.samples.tokens))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows)))) | {len(rows)})
    groups = [rows[start:stop] for start, stop in zip([0, *cuts], cuts, strict=False)]
    assert_same_step(step(problem), step(problem, groups=[groups]))


@examples
@given(problems(), st.floats(-5, 5))
def test_a_shift_of_all_scores_moves_no_advantage_at_lambda_one(problem, shift):
    """A shift raises every advantage of a response by the same number (gamma 1), which whitening
    subtracts: only differences between responses have an effect. Below lambda 1 a shift has less
    effect on early tokens, and the statement is false."""
    (one, *_), (other, *_) = step(problem, lam=1.0), step(problem, lam=1.0, shift=shift)
    # float32 is not precise enough to whiten almost equal numbers.
    assume(one.raw_advantages[one.mask].std(correction=0) > 1e-2)
    torch.testing.assert_close(one.advantages, other.advantages, rtol=1e-3, atol=1e-3)


@examples
@given(problems(), st.floats(0.3, 3))
def test_a_temperature_is_a_division_of_the_logits(problem, temperature):
    """In the log-probabilities, in the entropy and in the choice of a token."""
    gpt, samples = problem.reference, problem.samples
    mask = response_mask(samples.prompt_lengths, samples.lengths, samples.tokens.size(1))
    results, entropy = logprobs(gpt, samples.tokens, mask, temperature)
    logits = gpt(samples.tokens).detach()[:, :-1]
    log_p = torch.log_softmax(logits / temperature, -1)
    chosen = log_p.gather(2, samples.tokens[:, 1:, None])[..., 0]
    assert_close(results, torch.where(mask, chosen, 0.0), "logprobs")
    expected_entropy = -(log_p.exp() * log_p).sum(-1)
    assert_close(entropy, torch.where(mask, expected_entropy, 0.0), "entropy")
    uniforms = torch.rand(len(logits), generator=torch.Generator().manual_seed(problem.seed))
    expected = choose(logits[:, -1] / temperature, uniforms, 1.0)
    assert torch.equal(choose(logits[:, -1], uniforms, temperature), expected)


@examples
@given(problems(), st.floats(0.3, 3))
def test_at_any_temperature_the_first_ratio_is_one_and_oneself_is_no_distance_away(
    problem, temperature
):
    """0.3 to 3: if one of the passes (policy, reference, update) lacks the temperature, the ratio
    or the KL changes. In trlX all of them lack it."""
    problem = problem._replace(reference=problem.actor.gpt)
    _, _, stats = step(problem, temperature=temperature)
    assert stats["kl"] == 0 and stats["ratio_min"] == stats["ratio_max"] == 1


@examples
@given(problems())
def test_double_precision_gives_the_numbers_of_single(problem):
    """The functions compute in the dtype of their arguments, and float32's rounding error is below
    one part in ten thousand."""
    rollout, _, _ = step(problem)
    rewards, values, mask = rollout.rewards, rollout.values, rollout.mask
    single = *ppo.gae(rewards, values, mask), ppo.whiten(rewards, mask)
    double = *ppo.gae(rewards.double(), values.double(), mask), ppo.whiten(rewards.double(), mask)
    for left, right in zip(single, double, strict=True):
        assert left.dtype == torch.float32 and right.dtype == torch.float64
    for left, right in zip(single[:2], double[:2], strict=True):
        torch.testing.assert_close(left.double(), right, rtol=1e-4, atol=1e-4)


@examples
@given(problems())
def test_the_score_of_a_response_is_that_of_the_response_alone(problem):
    """The reward model reads the state of the last real token, which depends neither on other rows
    nor on what follows it."""
    tokens, lengths = problem.samples.tokens, problem.samples.lengths
    scores = problem.reward_model(tokens, lengths)
    for row, n, score in zip(tokens, lengths.tolist(), scores, strict=True):
        expected = problem.reward_model(row[None, :n], torch.tensor([n]))[0]
        assert_close(score, expected, "score")


@pytest.mark.parametrize("vocabulary", [2, 3, 50])
@pytest.mark.parametrize("new_tokens", [1, 7])
def test_a_response_may_fill_the_context_to_its_last_column(make_gpt, vocabulary, new_tokens):
    """Prompts of 1 and 3 tokens, and a context that holds the response to the longer one exactly.
    The token sampled in the last column is the one that a loop without a cache samples."""
    gpt = make_gpt(vocabulary, context=3 + new_tokens)
    prompts = [[1], [0, 1, 1]]
    generator = torch.Generator().manual_seed(vocabulary)
    uniforms = torch.rand(2, new_tokens, generator=generator) * 1e-3
    end_token = vocabulary - 1  # hardly ever sampled, with uniforms this low
    samples = generate(gpt, prompts, new_tokens, end_token, uniforms=uniforms)
    for row, prompt in enumerate(prompts):
        tokens = list(prompt)
        for u in uniforms[row].tolist():
            cdf = torch.softmax(gpt(torch.tensor([tokens]))[0, -1], -1).cumsum(-1)
            tokens.append(int((cdf <= u * cdf[-1]).sum()))
            if tokens[-1] == end_token:
                break
        assert samples.tokens[row, : samples.lengths[row]].tolist() == tokens
    if not samples.ended[1]:
        assert samples.lengths[1] == gpt.config.context
