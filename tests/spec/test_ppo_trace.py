"""One step of PPO as an implementation takes it: a rollout of three responses goes through its own
training loop, and what the loop computes is held against loops over tokens.

An adapter's `trace(case)` runs the loop on models that answer with the logits and values of `case`
and returns a dictionary of what it could record. What is missing there is not offered.

    logprobs, ref_logprobs, values, rewards, returns    (B, max_new_tokens)
    advantages           (B, max_new_tokens)     as they enter the loss
    logits_gradient      (B, max_new_tokens, V)  of the first optimiser step
    values_gradient      (B, max_new_tokens)     of the first optimiser step
    loss                 of the first minibatch
    optimizer_steps      their number
    stats                approx_kl, clip_fraction, entropy, ratio_mean
"""

import dataclasses
from dataclasses import dataclass

import pytest
import torch

from spec.sentences import spec
from spec.tensors import normal

END = 0


@dataclass(frozen=True)
class Case:
    """The inputs of one rollout. The first ids of the prompts differ; a finished response ends in
    the end token."""

    prompts: list
    responses: list
    logits: torch.Tensor  # (B, max_new_tokens, V) of the policy, of the states that choose
    ref_logits: torch.Tensor
    values: torch.Tensor  # (B, max_new_tokens) of the same states
    scores: torch.Tensor  # (B,)
    vocab_size: int = 7
    max_new_tokens: int = 6
    end_token: int = END
    pad: int = 0  # additional columns of padding on the right
    kl_coef: float = 0.3
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    vf_coef: float = 0.1
    epochs: int = 1
    minibatches: int = 1
    rows_at_once: int | None = None  # in one pass through the model; None: a whole minibatch
    temperature: float = 1.0
    missing_end_score: float | None = None
    lr: float = 1e-3


PROMPTS = [[1], [2, 5, 4], [3, 6]]
RESPONSES = [[4, 5, 6, END], [END], [1, 2, 3, 4, 5, 6]]  # the last one was cut off
SCORES = torch.tensor([1.5, -0.5, 0.8])
CASE = Case(PROMPTS, RESPONSES, *normal(2, 3, 6, 7), normal(3, 6, seed=1), SCORES)
FINISHED = dataclasses.replace(CASE, responses=[*RESPONSES[:2], [1, 2, 3, 4, 5, END]])
SPANS = [range(len(response)) for response in RESPONSES]
REAL = torch.tensor([[t in span for t in range(6)] for span in SPANS])


@pytest.fixture(scope="module")
def record(trace):
    """record(name, case) -> what the loop computed under that name. The loop runs once per case."""
    records = {}

    def recorded(name, case=FINISHED):
        if id(case) not in records:
            records[id(case)] = case, trace(case)
        numbers = records[id(case)][1]
        if name not in numbers:
            raise NotImplementedError(f"{name} is not recorded")
        return numbers[name]

    return recorded


def token_logprobs(logits, case):
    """log softmax(logits / temperature) of the chosen tokens, (B, max_new_tokens)."""
    log_p = torch.log_softmax(logits.double() / case.temperature, -1)
    logprobs = torch.zeros(REAL.shape, dtype=torch.float64)
    for b, response in enumerate(case.responses):
        for t, token in enumerate(response):
            logprobs[b, t] = log_p[b, t, token]
    return logprobs


def response_kl(case):
    """k1 of each token, (B, max_new_tokens)."""
    return token_logprobs(case.logits, case) - token_logprobs(case.ref_logits, case)


def by_loops(case=FINISHED):
    """Rewards, advantages before whitening and returns, as loops over each response in float64."""
    kl = response_kl(case)
    rewards, advantages = torch.zeros(REAL.shape).double(), torch.zeros(REAL.shape).double()
    values = torch.where(REAL, case.values, 0.0).double()
    for b, span in enumerate(SPANS):
        for t in span:
            rewards[b, t] = -case.kl_coef * kl[b, t] + (case.scores[b] if t == span[-1] else 0)
        next_value, next_advantage = 0.0, 0.0
        for t in reversed(span):
            delta = rewards[b, t] + case.gamma * next_value - values[b, t]
            advantages[b, t] = delta + case.gamma * case.lam * next_advantage
            next_value, next_advantage = values[b, t], advantages[b, t]
    return rewards, advantages, advantages + values


def standardise(advantages):
    x = advantages[REAL]
    return torch.where(REAL, (advantages - x.mean()) / x.std(correction=0), 0.0)


def close(actual, expected, **tolerance):
    tolerance = {"rtol": 1e-4, "atol": 1e-5} | tolerance
    torch.testing.assert_close(torch.as_tensor(actual).double(), expected.double(), **tolerance)


TEMPERED = dataclasses.replace(FINISHED, temperature=0.7)


@spec(
    "SAMPLE-01",
    "The log-probabilities of policy and reference are taken at the temperature of the sampler.",
    formula="log π(a_t) = log_softmax(logits_t / T)[a_t]",
    example="Temperatures 1 and 0.7.",
    differs="trlX, accelerate_ppo_trainer.py:445, divides in sampling only; reported also as "
    "OpenRLHF #853 and TRL #3169",
)
@pytest.mark.parametrize("case", [FINISHED, TEMPERED], ids=["temperature 1", "temperature 0.7"])
@pytest.mark.parametrize("name", ["logprobs", "ref_logprobs"])
def test_policy_and_reference_are_read_at_the_temperature_that_sampled(record, name, case):
    """The policy that acts is the one at that temperature. Otherwise ratios and KL are those of
    another policy."""
    logits = case.logits if name == "logprobs" else case.ref_logits
    actual = torch.where(REAL, torch.as_tensor(record(name, case)), 0.0)
    close(actual, token_logprobs(logits, case))


@spec(
    "REWARD-09",
    "In the training loop, the reward of a token is its KL penalty, and the last token of a "
    "response gets the score on top.",
    formula="r_t = −kl_coef · (log π_t − log π_ref,t) + [t is the last token] · score",
    example="Responses of 4, 1 and 6 tokens with scores 1.5, −0.5 and 0.8.",
    differs="TRL and torchtune put the score on the first padding (REWARD-03)",
)
def test_the_loops_rewards_are_the_kl_penalty_and_the_score_at_the_last_token(record):
    """REWARD-01 and REWARD-03, of the loop."""
    close(record("rewards"), by_loops()[0])


@spec(
    "REWARD-10",
    "In the training loop, the rewards of a response add up to its score minus kl_coef times its "
    "KL.",
    formula="Σ_t r_t = score − kl_coef · Σ_t (log π_t − log π_ref,t)",
    source="Ziegler et al. 2019, equation 2",
)
def test_the_loops_rewards_add_up_to_the_score_minus_the_kl(record):
    """Nothing is lost and nothing counted twice."""
    total = torch.as_tensor(record("rewards")).sum(1)
    close(total, FINISHED.scores - FINISHED.kl_coef * response_kl(FINISHED).sum(1))


@spec(
    "ADV-16",
    "In the training loop, the value of a token is that of the state before the token, and 0 after "
    "the last.",
    differs="minRLHF, buffer.py:161, takes the state after the token; TRL and torchtune have one "
    "more value, on the first padding",
)
def test_values_that_enter_the_loop_are_those_of_the_states_before_the_tokens(record):
    """A value one column later is a baseline that knows the action."""
    close(record("values"), torch.where(REAL, FINISHED.values, 0.0))


@spec(
    "ADV-17",
    "In the training loop, returns are values plus advantages before whitening.",
    formula="R_t = V_t + A_t",
    differs="RLHF_in_notebooks, notebook 3, c46, adds the whitened advantages",
)
def test_the_loops_returns_are_values_plus_advantages_before_whitening(record):
    """With whitened advantages, the target of the critic depends on the rest of the batch."""
    returns = torch.as_tensor(record("returns")).double()
    close(torch.where(REAL, returns, 0.0), by_loops()[2])


@spec(
    "ADV-18",
    "In the training loop, the advantages that enter the loss are those of ADV-01 up to a shift "
    "and a positive factor.",
    example="Standardised, the two agree on all 11 response tokens.",
)
def test_the_loops_advantages_order_and_space_tokens_as_gae_does(record):
    """Whitening may choose the shift and the factor; ADV-19 and ADV-20 determine them."""
    advantages, expected = torch.as_tensor(record("advantages")).double(), by_loops()[1]
    close(standardise(advantages)[REAL], standardise(expected)[REAL], rtol=1e-3, atol=1e-3)


@spec(
    "ADV-19",
    "In the training loop, the advantages that enter the loss have mean 0 over the response "
    "tokens.",
    differs="AlpacaFarm and trlX whiten over the padding; torchtune, rlhf/rewards.py:177, adds the "
    "mean again",
)
def test_the_loops_advantages_have_mean_zero_over_response_tokens(record):
    """Otherwise all that was done is encouraged, or all of it discouraged."""
    close(torch.as_tensor(record("advantages"))[REAL].mean(), torch.tensor(0.0))


@spec(
    "ADV-20",
    "In the training loop, the advantages that enter the loss have biased variance 1 over the "
    "response tokens.",
    example="With Bessel's correction the variance of 11 tokens is 10/11.",
)
def test_the_loops_advantages_have_variance_one_over_response_tokens(record):
    """To within the ε of the whitening."""
    variance = torch.as_tensor(record("advantages"))[REAL].var(correction=0)
    close(variance, torch.tensor(1.0), rtol=1e-3)


@spec(
    "UPDATE-01",
    "With one minibatch, the first loss of a rollout is vf_coef times the value loss.",
    formula="loss = vf_coef · ½ mean of (V − R)²",
)
def test_the_first_loss_is_the_value_loss_alone(record):
    """All ratios are 1 and the advantages have mean 0 over the rollout, so the policy loss is 0.
    With several minibatches it is not, because their own means are not 0. No entropy term is part
    of the loss."""
    _, advantages, _ = by_loops()
    close(record("loss"), FINISHED.vf_coef * 0.5 * (advantages[REAL] ** 2).mean())


@spec(
    "UPDATE-02",
    "With one minibatch, the first gradient of a rollout is the policy gradient of the whitened "
    "advantages.",
    formula="∂loss/∂logits_t = −A_t / N · (onehot(a_t) − softmax(logits_t)),  N response tokens",
)
def test_the_first_gradient_is_the_policy_gradient_of_the_whitened_advantages(record):
    """LOSS-03, through the loop down to the logits."""
    advantages, p = standardise(by_loops()[1]), torch.softmax(FINISHED.logits.double(), -1)
    expected = torch.zeros_like(p)
    for b, response in enumerate(FINISHED.responses):
        for t, token in enumerate(response):
            expected[b, t] = advantages[b, t] * p[b, t] / REAL.sum()
            expected[b, t, token] -= advantages[b, t] / REAL.sum()
    close(record("logits_gradient"), expected)


@spec(
    "UPDATE-03",
    "With one minibatch, the first gradient of the values is vf_coef times their error over the "
    "number of response tokens.",
    formula="∂loss/∂V_t = vf_coef · (V_t − R_t) / N = −vf_coef · A_t / N, A_t before whitening",
)
def test_the_first_gradient_of_the_values_is_their_error(record):
    """Nothing is clipped before the first step."""
    close(record("values_gradient"), -FINISHED.vf_coef * by_loops()[1] / REAL.sum())


@spec(
    "MASK-02",
    "What follows the end of a response has no gradient, neither its logits nor its values.",
    differs="minChatGPT, loss.py:17 and gpt.py:469, trains on 65 such tokens in four responses of "
    "40; TRL and torchtune train one value after the end",
)
@pytest.mark.parametrize("name", ["logits_gradient", "values_gradient"])
def test_what_follows_the_end_has_no_gradient(record, name):
    """These tokens are not actions of the policy."""
    assert (torch.as_tensor(record(name))[~REAL] == 0).all()


PADDED = dataclasses.replace(FINISHED, pad=9)
LEARNED = ("rewards", "advantages", "returns", "loss", "logits_gradient", "values_gradient")


@spec(
    "MASK-03",
    "More padding on the right changes no reward, advantage, return, loss or gradient.",
    example="Nine columns more.",
)
@pytest.mark.parametrize("name", LEARNED)
def test_padding_changes_nothing_that_is_learned(record, name):
    """A longer response in the same batch brings such columns."""
    close(record(name, PADDED), torch.as_tensor(record(name)))


TWICE = dataclasses.replace(FINISHED, epochs=2, lr=0.1)  # the ratios of the second epoch are not 1
TWICE_PADDED = dataclasses.replace(TWICE, pad=9)


@spec(
    "METRIC-07",
    "More padding on the right changes no metric of the training loop.",
    example="Nine columns more, two epochs: approx_kl, clip fraction, entropy, mean ratio.",
    differs="N+ and TRL, ppo_trainer.py:856-868, average over the padding",
)
@pytest.mark.parametrize("name", ["approx_kl", "clip_fraction", "entropy", "ratio_mean"])
def test_padding_changes_no_metric_of_the_loop(record, name):
    """Over response tokens alone, a metric can be compared between batches."""
    stats, padded_stats = record("stats", TWICE), record("stats", TWICE_PADDED)
    if name not in stats:
        raise NotImplementedError(f"{name} is not recorded")
    assert float(padded_stats[name]) == pytest.approx(float(stats[name]), rel=1e-4, abs=1e-6)


@spec(
    "METRIC-08",
    "The entropy that the training loop logs is the mean over the response tokens of the entropy "
    "of the policy.",
    formula="entropy = mean over t of −Σ_a π_t(a) log π_t(a)",
)
def test_the_loops_entropy_is_that_of_the_response_tokens(record):
    """Over 11 tokens, before the first optimiser step."""
    log_p = torch.log_softmax(FINISHED.logits.double(), -1)
    if "entropy" not in record("stats"):
        raise NotImplementedError("entropy is not recorded")
    expected = -(log_p.exp() * log_p).sum(-1)[REAL].mean()
    assert float(record("stats")["entropy"]) == pytest.approx(expected.item(), rel=1e-4)


@spec(
    "UPDATE-04",
    "A rollout takes epochs times minibatches optimiser steps.",
    example="Three responses in three minibatches are three steps per epoch.",
    differs="Since TRL PR 2531, num_mini_batches alone does not determine the number of steps "
    "(TRL #5645); see UPDATE-05",
)
@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 1), (3, 1), (1, 3), (2, 3)])
def test_the_optimiser_steps_epochs_times_minibatches_times(record, epochs, minibatches):
    """A minibatch is what one optimiser step is taken on."""
    case = dataclasses.replace(FINISHED, epochs=epochs, minibatches=minibatches)
    assert record("optimizer_steps", case) == epochs * minibatches


@spec(
    "UPDATE-05",
    "The number of optimiser steps does not depend on how many rows go through the model at once.",
    example="Three responses one at a time: one step in one minibatch, three steps in three.",
    differs="TRL, ppo_trainer.py, steps once per rollout, whatever num_mini_batches is",
)
@pytest.mark.parametrize("minibatches", [1, 3])
def test_the_optimiser_steps_as_often_however_few_rows_go_through_at_once(record, minibatches):
    """Gradients accumulate over one minibatch and never beyond it."""
    case = dataclasses.replace(FINISHED, minibatches=minibatches, rows_at_once=1)
    assert record("optimizer_steps", case) == minibatches


ONE_BY_ONE = dataclasses.replace(FINISHED, rows_at_once=1)


@spec(
    "UPDATE-06",
    "The gradient does not depend on how many rows go through the model at once.",
    example="Responses of 4, 1 and 6 tokens, one at a time.",
    differs="TRL and torchtune average the means of the microbatches (LOSS-05)",
)
@pytest.mark.parametrize("name", ["logits_gradient", "values_gradient"])
def test_the_gradient_does_not_depend_on_how_many_rows_go_through_at_once(record, name):
    """In a mean of means, the one-token response has four times the weight per token of the
    four-token one."""
    close(record(name, ONE_BY_ONE), torch.as_tensor(record(name)))


@spec(
    "REWARD-11",
    "In the training loop, the missing-end score replaces the score of a response that was cut "
    "off, and of no other.",
    example="Scores 1.5, −0.5 and 0.8, the third response cut off, missing-end score −2: the "
    "rewards add up to 1.5, −0.5 and −2, less the KL penalty.",
    differs="TRL, ppo_trainer.py:757, subtracts a penalty from the score",
)
def test_a_response_that_was_cut_off_gets_the_missing_end_score_instead_of_its_own(record):
    """The second response ends with its first token, and is finished."""
    case = dataclasses.replace(CASE, missing_end_score=-2.0)
    total = torch.as_tensor(record("rewards", case)).sum(1).double()
    close(total, torch.tensor([1.5, -0.5, -2.0]) - CASE.kl_coef * response_kl(CASE).sum(1))


@spec(
    "REWARD-12",
    "In the training loop, a response with its end token in the last column keeps its score.",
    differs="torchtune, rlhf/rewards.py:41, takes the score away",
)
def test_an_end_token_in_the_last_slot_is_an_end(record):
    """No padding follows it by which an end could be recognised."""
    case = dataclasses.replace(FINISHED, missing_end_score=-2.0)
    total = torch.as_tensor(record("rewards", case)).sum(1).double()
    close(total, FINISHED.scores - CASE.kl_coef * response_kl(FINISHED).sum(1))


@spec(
    "UPDATE-07",
    "Before the first optimiser step the mean ratio is 1, approx_kl is 0 and the clip fraction is "
    "0.",
    differs="TRL #454 and trlX #107 began with the observation that this did not hold",
    source="the reference output of N+ has these numbers",
)
def test_the_loops_ratio_and_clip_are_those_of_the_first_policy(record):
    """Old and new policy are the same. A deviation means that they are computed differently."""
    stats = record("stats")
    for name, expected in (("ratio_mean", 1), ("approx_kl", 0), ("clip_fraction", 0)):
        if name in stats:
            assert float(stats[name]) == pytest.approx(expected, abs=1e-6)


@spec(
    "ADV-21",
    "In the training loop, the return of the last token of a response that fills all columns is "
    "its reward.",
    formula="R_t = r_t at the last token: there is no value after it",
)
def test_a_response_that_fills_its_slots_has_no_value_after_its_end(record):
    """Whatever the value head gives for the state after it."""
    close(torch.as_tensor(record("returns"))[2, 5], by_loops()[0][2, 5])
