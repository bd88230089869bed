"""What must not matter: properties of the whole step from tokens to gradient, on random shapes down to one row of two tokens, a
vocabulary of two, and rows that fill the context to its last column.

hypothesis draws the same examples every time (derandomize), so that a failure is a change of the code and never bad luck.
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
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator) + (
            "norm" in name and "weight" in name
        )
    return gpt


@st.composite
def problems(draw):
    """Policy, reference, reward model and a sampled batch. The context is exactly what the longest row needs."""
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
    samples = Samples(
        tokens, prompt_lengths, lengths, torch.rand(len(spans), generator=generator) < 0.7
    )
    return Problem(actor, reference, RewardModel(reference), samples, seed)


class Recorder(torch.optim.SGD):
    """An optimiser that keeps what it was given, and moves nothing."""

    def step(self):
        self.gradients = [p.grad.clone() for group in self.param_groups for p in group["params"]]


def step(problem, samples=None, groups=None, lam=0.95, shift=0.0, temperature=1.0):
    """Everything that one PPO step computes: per token (zero outside the mask), the gradients, the metrics."""
    samples = samples or problem.samples
    groups = groups or [[list(range(len(samples.tokens)))]]
    scores = problem.reward_model(
        samples.tokens[:, : int(samples.lengths.max())], samples.lengths
    ).detach()
    scores = ppo.missing_end_rule(scores, samples.ended, -1.0) + shift
    told = ppo.score_tokens(problem.actor, problem.reference, samples, groups, temperature)
    rollout = loop_rollout(samples, scores, *told, kl_coef=0.2, lam=lam)
    optimizer = Recorder(problem.actor.parameters(), lr=0.0)
    stats = ppo.update(
        copy.copy(problem.actor), optimizer, rollout, [groups], temperature, max_grad_norm=1e9
    )
    return (
        rollout,
        optimizer.gradients,
        stats | ppo.rollout_stats(rollout, scores, scores, samples.ended, 0.2),
    )


PER_TOKEN = (
    "logprobs",
    "ref_logprobs",
    "values",
    "rewards",
    "raw_advantages",
    "advantages",
    "returns",
)


def assert_same(one, other, order=None, columns=None):
    """Per token (rows in `order`, the first `columns`), gradients and metrics, to float32's noise."""
    (first, gradients, stats), (second, other_gradients, other_stats) = one, other
    for name in PER_TOKEN:
        left, right = getattr(first, name), getattr(second, name)
        close(left if order is None else left[order], right[:, :columns], name)
        assert columns is None or not right[:, columns:].any(), name
    for left, right in zip(gradients, other_gradients, strict=True):
        close(left, right, "gradient")
    assert stats.keys() == other_stats.keys()
    for name in stats.keys() - {"explained_variance"}:  # one token: a variance of 0 is divided by
        close(torch.as_tensor(stats[name]), torch.as_tensor(other_stats[name]), name)


def close(left, right, name):
    torch.testing.assert_close(
        left, right, rtol=1e-4, atol=1e-4, msg=lambda text: f"{name}: {text}"
    )


@examples
@given(problems(), st.integers(0, 10_000))
def test_what_stands_right_of_a_rows_end_reaches_nothing(problem, seed):
    """Neither score, reward, advantage, gradient nor metric: it is not a token of the response, whatever its id."""
    tokens, lengths = problem.samples.tokens.clone(), problem.samples.lengths
    beyond = torch.arange(tokens.size(1)) >= lengths[:, None]
    vocabulary = problem.reference.config.vocab_size
    other = torch.randint(vocabulary, tokens.shape, generator=torch.Generator().manual_seed(seed))
    changed = problem.samples._replace(tokens=torch.where(beyond, other, tokens))
    assert_same(step(problem), step(problem, changed))


@examples
@given(problems(), st.integers(1, 6))
def test_the_amount_of_padding_reaches_nothing(problem, columns):
    """Not even a context to hold it is needed: no pass is wider than its longest row."""
    wider = torch.nn.functional.pad(problem.samples.tokens, (0, columns))
    own = problem.samples.tokens.size(1) - 1
    assert_same(step(problem), step(problem, problem.samples._replace(tokens=wider)), columns=own)


@examples
@given(problems())
def test_the_order_of_the_rows_reaches_nothing(problem):
    """Scores, whitening and losses are over a set of responses; only a shift along the wrong axis could tell
    (PaLM-rlhf-pytorch, ppo.py:603)."""
    order = torch.randperm(
        len(problem.samples.tokens), generator=torch.Generator().manual_seed(problem.seed)
    ).tolist()
    assert_same(
        step(problem), step(problem, Samples(*(x[order] for x in problem.samples))), order=order
    )


@examples
@given(problems(), st.data())
def test_how_a_minibatch_is_split_reaches_nothing(problem, data):
    """Every way of cutting its rows into microbatches gives the gradient of the whole: sums over tokens, divided once."""
    rows = data.draw(st.permutations(range(len(problem.samples.tokens))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows)))) | {len(rows)})
    groups = [rows[start:stop] for start, stop in zip([0, *cuts], cuts, strict=False)]
    assert_same(step(problem), step(problem, groups=[groups]))


@examples
@given(problems(), st.floats(-5, 5))
def test_a_shift_of_all_scores_moves_no_advantage_at_lambda_one(problem, shift):
    """It raises every advantage of a response by the same number (gamma 1), and whitening takes it away: only differences
    between responses teach. Below lambda 1 a shift reaches early tokens less, and this does not hold."""
    one, other = step(problem, lam=1.0), step(problem, lam=1.0, shift=shift)
    assume(
        one[0].raw_advantages[one[0].mask].std(correction=0) > 1e-2
    )  # float32 cannot whiten what is hardly there
    torch.testing.assert_close(one[0].advantages, other[0].advantages, rtol=1e-3, atol=1e-3)


@examples
@given(problems(), st.floats(0.3, 3))
def test_a_temperature_is_a_division_of_the_logits(problem, temperature):
    """In the log-probabilities, in the entropy and in the choice of a token."""
    gpt, samples = problem.reference, problem.samples
    mask = response_mask(samples.prompt_lengths, samples.lengths, samples.tokens.size(1))
    told, entropy = logprobs(gpt, samples.tokens, mask, temperature)
    logits = gpt(samples.tokens).detach()[:, :-1]
    log_p = torch.log_softmax(logits / temperature, -1)
    chosen = log_p.gather(2, samples.tokens[:, 1:, None])[..., 0]
    close(told, torch.where(mask, chosen, 0.0), "logprobs")
    close(entropy, torch.where(mask, -(log_p.exp() * log_p).sum(-1), 0.0), "entropy")
    uniforms = torch.rand(len(logits), generator=torch.Generator().manual_seed(problem.seed))
    assert torch.equal(
        choose(logits[:, -1], uniforms, temperature),
        choose(logits[:, -1] / temperature, uniforms, 1.0),
    )


@examples
@given(problems(), st.floats(0.3, 3))
def test_at_any_temperature_the_first_ratio_is_one_and_oneself_is_no_distance_away(
    problem, temperature
):
    """0.3 to 3: a temperature that one of the passes (policy, reference, update) lacks moves one of the two. trlX has it in
    none of them."""
    own = problem._replace(reference=problem.actor.gpt)
    _, _, stats = step(own, temperature=temperature)
    assert stats["kl"] == 0 and stats["ratio_min"] == stats["ratio_max"] == 1


@examples
@given(problems())
def test_double_precision_gives_the_numbers_of_single(problem):
    """The functions compute in the dtype they are given, and what float32 rounds away is below a ten thousandth."""
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
    """The reward model reads at the last real token: neither its neighbours nor what follows it are seen."""
    tokens, lengths = problem.samples.tokens, problem.samples.lengths
    scores = problem.reward_model(tokens, lengths)
    for row, n, score in zip(tokens, lengths.tolist(), scores, strict=True):
        close(problem.reward_model(row[None, :n], torch.tensor([n]))[0], score, "score")


@pytest.mark.parametrize("vocabulary", [2, 3, 50])
@pytest.mark.parametrize("new_tokens", [1, 7])
def test_a_response_may_fill_the_context_to_its_last_column(make_gpt, vocabulary, new_tokens):
    """Prompts of 1 and 3 tokens, a context that holds the longer one's response exactly: what is sampled in the last column is
    what a loop without a cache would sample there."""
    gpt = make_gpt(vocabulary, context=3 + new_tokens)
    prompts = [[1], [0, 1, 1]]
    uniforms = torch.rand(2, new_tokens, generator=torch.Generator().manual_seed(vocabulary))
    never = vocabulary - 1  # as the end token, at uniforms this low
    samples = generate(gpt, prompts, new_tokens, end_token=never, uniforms=uniforms * 1e-3)
    for row, prompt in enumerate(prompts):
        tokens = list(prompt)
        for u in (uniforms[row] * 1e-3).tolist():
            cdf = torch.softmax(gpt(torch.tensor([tokens]))[0, -1], -1).cumsum(-1)
            tokens.append(int((cdf <= u * cdf[-1]).sum()))
            if tokens[-1] == never:
                break
        assert samples.tokens[row, : samples.lengths[row]].tolist() == tokens
    if not samples.ended[1]:
        assert samples.lengths[1] == gpt.config.context
