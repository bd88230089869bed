"""The functions of PPO for language models: whitening, rewards, advantages, losses, KL control.

A per-token tensor is (B, T-1): column t is about choosing token t + 1. `mask` is True where that
token belongs to the response, its end token included. Values are of the state before the token.
"""

import contextlib
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spec.sentences import spec
from spec.tensors import (
    JUNK,
    MASK,
    SCORES,
    batches,
    normal,
    ragged,
    random_batches,
    row,
    spoil,
    stat,
)

# ---- masked statistics


@spec(
    "MASK-01",
    "A masked mean is the mean of the entries inside the mask, whatever number or NaN lies "
    "outside.",
    formula="masked_mean(x, m) = (Σ x_i over all i with m_i = 1) / Σ_i m_i",
    example="1, 2 and 6 inside the mask: (1 + 2 + 6) / 3 = 3, with 1e9, −1e9 or NaN outside.",
)
@JUNK
def test_a_masked_mean_is_over_the_true_entries_alone(masked_mean, junk):
    """To multiply by the mask is not enough: 0 · NaN is NaN."""
    x = torch.tensor([[1.0, 2.0, junk], [6.0, junk, -junk]])
    assert masked_mean(x, torch.tensor([[True, True, False], [True, False, False]])) == 3


NOTHING = torch.zeros(MASK.shape, dtype=torch.bool)


@spec(
    "MASK-04",
    "A masked mean over nothing is NaN.",
    formula="0 / 0",
    differs="torchtune, whose denominator has an ε, gives 0",
)
def test_a_masked_mean_over_nothing_is_not_a_number(masked_mean):
    """A convention, that of torch.mean. A 0 would read as a measured one."""
    assert math.isnan(masked_mean(*ragged(1), NOTHING))


@spec(
    "ADV-11",
    "Whitening divides by the biased standard deviation.",
    formula="whiten(x) = (x − mean) / √(mean of (x − mean)²)",
    example="1, 2, 3, 4 have mean 2.5 and variance 1.25: −1.341641, −0.447214, 0.447214, 1.341641. "
    "With Bessel's variance, 5/3, the first would be −1.161895.",
    differs="TRL and torchtune divide by Bessel's standard deviation",
    source="Ziegler et al. 2019, utils/core.py:336",
)
def test_whitening_divides_by_the_biased_standard_deviation(whiten):
    """Both variances are in use; for a few tokens they differ."""
    mask = torch.ones(1, 4, dtype=torch.bool)
    expected = row(-1.341641, -0.447214, 0.447214, 1.341641)
    torch.testing.assert_close(whiten(row(1, 2, 3, 4), mask), expected, rtol=1e-5, atol=1e-5)


@spec(
    "ADV-12",
    "Whitening without a shift scales around the mean and keeps the mean.",
    formula="whiten(x, shift_mean=False) = (x − mean) / √(mean of (x − mean)²) + mean",
    example="1, 2, 3, 4 become 1.158359, 2.052786, 2.947214, 3.841641.",
    differs="torchtune, rlhf/rewards.py:177, has it the other way round: its default keeps the "
    "mean, so that its advantages are not centred; its own tests pin that",
    source="Ziegler et al. 2019, utils/core.py:336",
)
def test_whitening_without_shift_keeps_the_mean(whiten):
    """Ziegler et al. use it for rewards, whose mean has a meaning. minirlhf whitens no rewards, and
    has it for this sentence only."""
    mask = torch.ones(1, 4, dtype=torch.bool)
    whitened = whiten(row(1, 2, 3, 4), mask, shift_mean=False)
    expected = row(1.158359, 2.052786, 2.947214, 3.841641)
    torch.testing.assert_close(whitened, expected, rtol=1e-5, atol=1e-5)


@spec(
    "ADV-13",
    "Whitened numbers have mean 0 and biased variance 1 over the response tokens of the whole "
    "batch.",
    differs="minRLHF, buffer.py:128, whitens each row; rlhf-book, chapter 6, includes the padding",
)
@random_batches
@given(batches())
def test_whitened_tokens_have_mean_zero_and_variance_one(whiten, batch):
    """A row whitened by itself loses what its score says in comparison with other rows."""
    mask, seed = batch
    (x,) = ragged(1, seed, mask)
    whitened = whiten(3 * x + 5, mask)[mask]
    torch.testing.assert_close(whitened.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    if mask.sum() > 1:
        variance = whitened.var(correction=0)
        torch.testing.assert_close(variance, torch.tensor(1.0), atol=1e-3, rtol=0)


@spec(
    "ADV-14",
    "Whitening does not depend on what is outside the mask, and gives 0 there.",
    differs="AlpacaFarm and trlX whiten over the padding",
)
@JUNK
@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_does_not_see_what_is_outside_the_mask(whiten, junk, shift_mean):
    """Otherwise an advantage depends on the length of the other responses in its batch."""
    (x,) = ragged(1)
    whitened = whiten(spoil(x, junk), MASK, shift_mean)
    assert torch.equal(whitened, whiten(x, MASK, shift_mean))
    assert (whitened[~MASK] == 0).all()


@spec("ADV-15", "Whitening equal numbers gives zeros.", differs="minRLHF, buffer.py:130, gives NaN")
def test_whitening_a_constant_gives_zeros(whiten):
    """Where all advantages are equal there is nothing to learn, and 0 / 0 must not be computed."""
    assert torch.equal(whiten(torch.full(MASK.shape, 4.0), MASK), torch.zeros(MASK.shape))


@spec("ADV-22", "Whitening over nothing gives zeros.", differs="TRL raises an error")
def test_whitening_over_nothing_gives_zeros(whiten):
    """The mean over nothing is NaN (MASK-04), and must not reach the numbers outside the mask."""
    assert (whiten(*ragged(1), NOTHING) == 0).all()


def beside_an_empty_row(*tensors):
    """Random tensors with one more row of large numbers, and a mask that is False in that row."""
    rows = [torch.cat([x, torch.full((1, x.size(1)), 1e3)]) for x in tensors]
    return *rows, torch.cat([MASK, NOTHING[:1]])


@spec("ADV-23", "A row without a response token beside others does not change their whitening.")
def test_a_row_without_a_response_token_whitens_nothing(whiten):
    """Such a row fills up a batch. It has no advantage, and counts as none."""
    (x,) = ragged(1)
    torch.testing.assert_close(whiten(*beside_an_empty_row(x))[:3], whiten(x, MASK))


# ---- KL: its estimators, and the penalty of a token


@spec(
    "KL-01",
    "The k3 estimate of a token's KL is r − 1 − log r with r = reference / policy.",
    formula="k3 = π_ref/π − 1 − log(π_ref/π)",
    example="log(π/π_ref) = 0.3: e^−0.3 − 1 + 0.3 = 0.040818. At −0.3: e^0.3 − 1 − 0.3 = 0.049859.",
    differs="minChatGPT, trainers.py:175, and rlhf-book, loss.py:23 and its test, invert the "
    "ratio, which exchanges the two numbers",
    source="Schulman 2020",
)
def test_k3_of_three_tenths_is_worked_by_hand(kl_k3):
    """r is the ratio that averages to 1 under the policy, so that the mean of k3 is the KL."""
    k3 = kl_k3(torch.tensor([0.3, -0.3]), torch.zeros(2))
    torch.testing.assert_close(k3, torch.tensor([0.040818, 0.049859]), rtol=0, atol=1e-6)


@spec("KL-02", "k3 is never negative.", formula="e^x − 1 − x ≥ 0")
def test_k3_is_never_negative(kl_k3):
    """So a mean of few samples still reads as a distance. A mean of k1 may be negative although
    nothing is wrong, and is often reported as a bug (TRL #1005)."""
    policy, reference = normal(2, 1000).double()
    assert (kl_k3(policy, reference) >= 0).all()


SMALL = torch.logspace(-6, -3, 301)
BOTH_SIGNS = torch.cat([-SMALL, SMALL])


def assert_half_the_square(k3):  # of BOTH_SIGNS
    """Not negative, and x² / 2 but for rounding and the next term, x³ / 6."""
    assert (k3 >= 0).all()
    error = (k3.double() - BOTH_SIGNS.double() ** 2 / 2).abs()
    assert (error <= 3e-7 * BOTH_SIGNS.abs() + BOTH_SIGNS.abs() ** 3).all()


@spec(
    "KL-09",
    "In float32 too, k3 of a small log ratio x is not negative, and about x² / 2.",
    formula="k3 = expm1(x) − x ≈ x² / 2 for 1e-6 ≤ |x| ≤ 1e-3,  x = log(π_ref/π)",
    example="x = 1e-6: 5e-13. exp(x) − 1 − x gives −4.6e-8.",
    differs="OpenRLHF subtracts 1 from exp(x)",
)
def test_k3_of_a_small_log_ratio_is_half_its_square_in_single_precision(kl_k3):
    """exp(x) − 1 has few digits of x left, and x cancels the rest: near the reference nearly half
    of the numbers are negative, and their mean is noise."""
    assert_half_the_square(kl_k3(torch.zeros(602), BOTH_SIGNS))


def categorical(seed=0):
    """Logits of a policy and log-probabilities of a reference over 5 tokens, in float64."""
    logits, reference = normal(2, 5, seed=seed).double()
    return logits.requires_grad_(), torch.log_softmax(reference, -1)


def k1_reward(token_rewards, log_p, reference):
    """-k1 of every token, through `token_rewards`: five responses of one token, without a score."""
    mask = torch.ones(5, 1, dtype=torch.bool)
    return token_rewards(torch.zeros(5), log_p[:, None], reference[:, None], mask, 1.0)[:, 0]


def exact(x):
    """The tolerance of an exact equation: that of the precision an implementation computes in."""
    atol = 1e-10 if x.dtype == torch.float64 else 1e-6
    return {"rtol": 0, "atol": atol, "check_dtype": False}


@spec(
    "KL-03",
    "The expectations of k1 and k3 under the policy equal the KL of the policy from the reference.",
    formula="Σ_a π(a) k(a) = KL(π ‖ π_ref)",
    example="Enumerated over a vocabulary of 5 tokens, to 1e-10.",
    differs="minRLHF, ppo_trainer.py:121, and rlhf-book, loss.py:49, get the negative of it; "
    "minChatGPT, trainers.py:175, gets 1.477 for 0.913",
)
def test_k1_and_k3_both_average_to_the_kl(kl_k3, token_rewards):
    """Both are unbiased estimates of the number. Only k1 is one of the gradient (KL-04, KL-05)."""
    logits, reference = categorical()
    log_p = torch.log_softmax(logits.detach(), -1)
    kl = nn.functional.kl_div(reference, log_p, reduction="sum", log_target=True)
    for k in (-k1_reward(token_rewards, log_p, reference), kl_k3(log_p, reference)):
        torch.testing.assert_close((log_p.exp() * k).sum(), kl, **exact(k))


def expected_gradient(logits, reward):
    """sum_a p(a) reward(a) grad log p(a): the expected policy gradient of this reward."""
    log_p = torch.log_softmax(logits, -1)
    return torch.autograd.grad((log_p.exp().detach() * reward.detach() * log_p).sum(), logits)[0]


def kl_gradient(logits, reference):
    log_p = torch.log_softmax(logits, -1)
    return torch.autograd.grad((log_p.exp() * (log_p - reference)).sum(), logits)[0]


@spec(
    "KL-04",
    "With −k1 as the reward, the expected policy gradient is minus the gradient of the KL.",
    formula="Σ_a π(a) k1(a) ∇ log π(a) = ∇ KL(π ‖ π_ref), because Σ_a π(a) ∇ k1(a) = 0",
    example="Enumerated over a vocabulary of 5 tokens, for five policies, to 1e-10.",
    source="the penalty: Ziegler et al. 2019, section 2.2",
)
@pytest.mark.parametrize("seed", range(5))
def test_k1_in_the_reward_is_the_kl_gradient(token_rewards, seed):
    """So a penalty of k1 per token is exact in expectation."""
    logits, reference = categorical(seed)
    log_p = torch.log_softmax(logits, -1)
    reward = k1_reward(token_rewards, log_p, reference)
    expected = -kl_gradient(logits, reference)
    torch.testing.assert_close(expected_gradient(logits, reward), expected, **exact(reward))


@spec(
    "KL-05",
    "With −k3 as the reward, the expected policy gradient is not the gradient of the KL.",
    formula="|⟨g, −∇KL⟩| / |∇KL|² < 0.2 near the reference, with g = −Σ_a π(a) k3(a) ∇ log π(a)",
    differs="TRL, ppo_trainer.py:774 (kl_estimator), offers k3 in the reward; OpenRLHF, "
    "models/utils.py:64, offers k2 and k3",
)
@pytest.mark.parametrize("seed", range(5))
def test_k3_in_the_reward_is_not_the_kl_gradient(kl_k3, seed):
    """Near the reference it has almost no component along it. A token that the policy made rare
    gets a penalty, which makes it rarer. Therefore minirlhf has no such option. That it holds for a
    library says that its k3 behaves so, and not that the library puts k3 into the reward."""
    _, reference = categorical(seed)
    logits = (reference + 0.1 * normal(5, seed=100 + seed).double()).requires_grad_()
    log_p, true_gradient = torch.log_softmax(logits, -1), kl_gradient(logits, reference)
    k3_gradient = expected_gradient(logits, -kl_k3(log_p, reference))
    assert abs((k3_gradient @ -true_gradient) / (true_gradient @ true_gradient)) < 0.2


@spec(
    "REWARD-01",
    "The reward of a token is its KL penalty, and the last token of a response gets the score on "
    "top.",
    formula="r_t = −kl_coef · (log π_t − log π_ref,t) + [t is the last token] · score",
    example="kl_coef 0.05 and log ratios 0.1, 0.2, 0.05, 0.3 cost 0.005, 0.01, 0.0025, 0.015. The "
    "score 2 on top of the last gives 1.985.",
    source="Ziegler et al. 2019, equation 2 and train_policy.py:149",
)
def test_rewards_are_the_kl_penalty_and_the_score_at_the_end(token_rewards):
    """The penalty of a token is paid where the token is chosen."""
    mask = torch.tensor([[True, True, True, True, False, False]])
    logprobs, ref_logprobs = row(0.1, 0.2, 0.05, 0.3, 9, 9), torch.zeros(1, 6)
    rewards = token_rewards(torch.tensor([2.0]), logprobs, ref_logprobs, mask, 0.05)
    torch.testing.assert_close(rewards, row(-0.005, -0.01, -0.0025, 1.985, 0, 0))


@spec(
    "KL-06",
    "A token that is rarer under the policy than under the reference earns a bonus: the KL of a "
    "token is not clamped at 0.",
    formula="r_t = −kl_coef · (log π_t − log π_ref,t), of either sign",
    example="log π = −3, log π_ref = −1, kl_coef 0.1: a bonus of 0.2. The two exchanged: −0.2.",
    differs="AlpacaFarm, rl/ppo_trainer.py:72, clamps at 0",
)
def test_a_token_rarer_than_in_the_reference_earns_a_bonus(token_rewards):
    """The bonus is what pulls the policy back to the reference. With the clamp, PPO collapses to
    one response on a problem whose optimum can be enumerated."""
    mask = torch.ones(1, 3, dtype=torch.bool)
    rewards = token_rewards(torch.zeros(1), row(-3, -1, -1), row(-1, -3, -1), mask, 0.1)
    torch.testing.assert_close(rewards, row(0.2, -0.2, 0))


@spec(
    "REWARD-02",
    "The rewards of a response add up to its score minus kl_coef times its KL, summed over tokens.",
    formula="Σ_t r_t = score − kl_coef · Σ_t (log π_t − log π_ref,t)",
    differs="minChatGPT, trainers.py:180, averages the KL over the tokens of a response",
)
@random_batches
@given(batches())
def test_rewards_add_up_to_the_score_minus_the_kl(token_rewards, batch):
    """With a mean in place of the sum, the penalty shrinks as responses get longer."""
    mask, seed = batch
    policy, reference = ragged(2, seed, mask)
    scores = normal(len(mask), seed=seed + 1)
    total = token_rewards(scores, policy, reference, mask, 0.3).sum(1)
    expected = scores - 0.3 * (policy - reference).sum(1)
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)


@spec(
    "REWARD-03",
    "The score lands on the last token of the response, also of a response of one token.",
    example="Responses in columns 0–3, 2 and 1–6: the scores land on columns 3, 2 and 6.",
    differs="N+, ppo.py:683, TRL, ppo_trainer.py:777, and torchtune's recipe, line 881, put it on "
    "the first padding, which reduces the credit of the last token by the factor λ",
)
def test_the_score_lands_on_the_last_response_token(token_rewards):
    """The last token is the last action. No action leads to the padding."""
    zeros = torch.zeros(MASK.shape)
    rewards = token_rewards(torch.tensor([1.0, 2.0, 3.0]), zeros, zeros, MASK, 0.1)
    assert rewards.nonzero().tolist() == [[0, 3], [1, 2], [2, 6]]
    assert rewards[rewards != 0].tolist() == [1, 2, 3]


@spec(
    "REWARD-04",
    "A response that ends in the last column of the batch gets its score in that column.",
    differs="torchtune, rlhf/rewards.py:41, takes a response without padding for one without an "
    "end token",
)
def test_an_end_token_in_the_very_last_slot_gets_the_score(token_rewards):
    """No padding follows such a response."""
    mask = torch.tensor([[False, True, True], [False, False, True], [True, True, True]])
    zeros = torch.zeros(3, 3)
    rewards = token_rewards(torch.tensor([1.0, 2.0, 3.0]), zeros, zeros, mask, 0.1)
    assert rewards.tolist() == [[0, 0, 1], [0, 0, 2], [0, 0, 3]]


@spec("REWARD-05", "A response without a token is an error.")
def test_a_response_without_a_token_is_refused(token_rewards):
    """It has no last token, so its score would land on the prompt or on padding. An empty answer
    is one token long: the end token."""
    mask = MASK.clone()
    mask[1] = False
    with pytest.raises(ValueError, match="without a token"):
        token_rewards(SCORES, *ragged(2), mask, 0.1)


@spec(
    "REWARD-06",
    "The penalty is 0 if kl_coef is 0, whatever the reference, and if policy and reference agree, "
    "whatever kl_coef.",
    differs="PaLM-rlhf-pytorch, ppo.py:339, takes the sampling policy for the reference, so that "
    "its penalty is 0 at every rollout",
)
def test_without_a_penalty_the_reference_does_not_matter_and_without_a_difference_neither_does_the_penalty(  # noqa: E501
    token_rewards,
):
    """kl_coef · (log π − log π_ref) is 0 if either factor is, to the bit."""
    policy, reference = ragged(2)
    rewards = token_rewards(SCORES, policy, reference, MASK, 0.0)
    assert torch.equal(rewards, token_rewards(SCORES, policy, 0 * policy, MASK, 0.0))
    assert (token_rewards(torch.zeros(3), policy, policy, MASK, 5.0) == 0).all()


@spec(
    "REWARD-07",
    "The rewards do not depend on the log-probabilities outside the mask.",
    differs="TRL and N+ fill the padding with the log-probability 1.0, which has to cancel "
    "wherever it is used",
)
@JUNK
def test_rewards_do_not_see_what_is_outside_the_mask(token_rewards, junk):
    """A model gives the padding log-probabilities, too: those of whatever ids it holds."""
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


@spec(
    "ADV-01",
    "Advantages follow the recursion of generalized advantage estimation within a response, with "
    "value 0 after its last token; returns are advantages plus values.",
    formula="δ_t = r_t + γ V_(t+1) − V_t;  A_t = δ_t + γ λ A_(t+1);  R_t = A_t + V_t;  V = A = 0 "
    "after the last token",
    example="Rewards −0.005, −0.01, −0.0025, 1.985 and values 0.5, 0.6, 0.7, 0.8, γ = 1. The last "
    "δ is 1.985 − 0.8 = 1.185; the one before is −0.0025 + 0.8 − 0.7 = 0.0975, so that its A is "
    "0.0975 + λ · 1.185. λ = 0.95: A = 1.284483, 1.252087, 1.223250, 1.185. λ = 1: 1.4675, 1.3725, "
    "1.2825, 1.185. λ = 0.5: 0.3125, 0.435, 0.69, 1.185.",
    source="Schulman et al. 2016, equation 16",
)
@pytest.mark.parametrize("lam", GOLDEN)
def test_gae_matches_a_hand_worked_episode(gae, lam):
    """After the last token the episode is over, and no reward follows."""
    advantages, returns = gae(REWARDS, VALUES, FOUR_OF_SIX, lam=lam)
    torch.testing.assert_close(advantages, row(*GOLDEN[lam], 0, 0), rtol=0, atol=1e-5)
    torch.testing.assert_close(returns, advantages + VALUES)


@spec(
    "ADV-02",
    "By default γ is 1 and λ is 0.95.",
    differs="AlpacaFarm, OpenRLHF and open-instruct have λ = 1: a choice, which changes every "
    "advantage",
    source="Ziegler et al. 2019, train_policy.py; Stiennon et al. 2020; N+",
)
def test_gamma_is_one_and_lambda_is_point_95_by_default(gae):
    """Responses are short enough to go without a discount; λ below 1 reduces the variance."""
    advantages, _ = gae(REWARDS, VALUES, FOUR_OF_SIX)
    torch.testing.assert_close(advantages, row(*GOLDEN[0.95], 0, 0), rtol=0, atol=1e-5)


@spec(
    "ADV-03",
    "Rewards and values after the end of a response do not reach its advantages and returns.",
    example="The episode of ADV-01 with rewards −0.1, −0.2 and values 0.3, 0.4 in two padding "
    "columns: A_0 stays 1.284483. Without the mask it is 1.077427.",
    differs="trlX, modeling_ppo.py:161, and AlpacaFarm run the recursion over the padding; "
    "reported in rlhf-book PR 216",
)
def test_junk_after_the_end_does_not_leak_into_the_advantages(gae):
    """The recursion runs backwards, so that padding comes first and reaches every token."""
    rewards = REWARDS + row(0, 0, 0, 0, -0.1, -0.2)
    spoiled = gae(rewards, VALUES + row(0, 0, 0, 0, 0.3, 0.4), FOUR_OF_SIX)
    for x, clean in zip(spoiled, gae(REWARDS, VALUES, FOUR_OF_SIX), strict=True):
        assert torch.equal(x, clean)


@spec(
    "ADV-04",
    "Advantages and returns do not depend on what is outside the mask, NaN included, and are 0 "
    "there.",
    differs="trlX, modeling_ppo.py:161, and AlpacaFarm, rl/ppo_trainer.py, run the recursion over "
    "the padding",
)
@JUNK
def test_advantages_do_not_see_what_is_outside_the_mask(gae, junk):
    """A product with a mask of zeros lets NaN through."""
    rewards, values = ragged(2)
    spoiled = gae(spoil(rewards, junk), spoil(values, junk), MASK)
    for x, clean in zip(spoiled, gae(rewards, values, MASK), strict=True):
        assert torch.equal(x, clean) and (x[~MASK] == 0).all()


@spec(
    "ADV-05",
    "An advantage is the sum of the discounted one-step errors from its token to the last.",
    formula="A_t = Σ_k (γ λ)^k δ_(t+k)",
    example="Held against two loops over each response, on random batches and for γ and λ from 0 "
    "to 1.",
)
@random_batches
@given(batches(), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_sum_of_discounted_deltas(gae, batch, gamma, lam):
    """The definition, from which the recursion of ADV-01 follows."""
    mask, seed = batch
    rewards, values = ragged(2, seed, mask)
    expected = torch.zeros_like(values)
    for b in range(len(mask)):
        columns = mask[b].nonzero().flatten().tolist()
        V = [*values[b, columns].tolist(), 0.0]
        delta = [rewards[b, t].item() + gamma * V[i + 1] - V[i] for i, t in enumerate(columns)]
        for i, t in enumerate(columns):
            terms = ((gamma * lam) ** (k - i) * delta[k] for k in range(i, len(columns)))
            expected[b, t] = sum(terms)
    advantages, _ = gae(rewards, values, mask, gamma, lam)
    torch.testing.assert_close(advantages, expected, rtol=1e-4, atol=1e-4)


def rewards_to_come(rewards):
    return rewards.flip(1).cumsum(1).flip(1)


@spec(
    "ADV-06",
    "Where every value equals the sum of the rewards to come, every advantage is 0 for any λ, and "
    "the returns are the values.",
    formula="V_t = Σ_(k ≥ t) r_k, γ = 1  ⟹  A_t = 0",
    differs="minRLHF, buffer.py:161 and ppo_trainer.py:140, counts the reward twice and gives 1",
)
@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_a_perfect_critic_leaves_no_advantage(gae, lam):
    """Every one-step error is 0."""
    (rewards,) = ragged(1)
    values = torch.where(MASK, rewards_to_come(rewards), 0.0)
    advantages, returns = gae(rewards, values, MASK, lam=lam)
    torch.testing.assert_close(advantages, torch.zeros(MASK.shape), rtol=0, atol=1e-5)
    torch.testing.assert_close(returns, values)


@spec(
    "ADV-07",
    "With λ = 1 an advantage is the sum of the rewards to come minus the value.",
    formula="λ = γ = 1  ⟹  A_t = Σ_(k ≥ t) r_k − V_t",
    source="Schulman et al. 2016, equation 18",
)
def test_gae_with_lambda_one_is_return_minus_value(gae):
    """The sum of one-step errors telescopes. There is no bias from the critic, and all of the
    variance."""
    rewards, values = ragged(2)
    advantages, returns = gae(rewards, values, MASK, lam=1.0)
    expected = rewards_to_come(rewards) - values
    torch.testing.assert_close(advantages[MASK], expected[MASK])
    torch.testing.assert_close(returns[MASK], rewards_to_come(rewards)[MASK])


@spec(
    "ADV-08",
    "With λ = 0 an advantage is the one-step error, and the value after the last token is 0.",
    formula="λ = 0  ⟹  A_t = r_t + γ V_(t+1) − V_t;  at the last token A_t = r_t − V_t",
)
def test_gae_with_lambda_zero_is_the_one_step_error_and_the_value_after_the_end_is_zero(gae):
    """For the longest row, which no padding follows, and for a row of one token alike."""
    rewards, values = ragged(2)
    advantages, _ = gae(rewards, values, MASK, gamma=0.9, lam=0.0)
    middle = rewards[2, 3] + 0.9 * values[2, 4] - values[2, 3]
    torch.testing.assert_close(advantages[2, 3], middle)
    torch.testing.assert_close(advantages[2, 6], rewards[2, 6] - values[2, 6])
    torch.testing.assert_close(advantages[1, 2], rewards[1, 2] - values[1, 2])


@spec(
    "ADV-09",
    "Raising all scores and all values by 1 changes no advantage. Raising the scores alone adds λ "
    "to the power of the number of response tokens that follow.",
    formula="scores + 1, V + 1: ΔA_t = 0;  scores + 1: ΔA_t = λ^(response tokens after t)",
)
@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_a_score_and_a_critic_that_are_both_one_higher_change_no_advantage(token_rewards, gae, lam):
    """So the zero of the scores matters for the missing-end score and for the start of the critic,
    and for nothing else."""
    policy, reference, values = ragged(3)
    before = token_rewards(SCORES, policy, reference, MASK, 0.1)
    higher = token_rewards(SCORES + 1, policy, reference, MASK, 0.1)
    advantages, _ = gae(before, values, MASK, lam=lam)
    both_higher, _ = gae(higher, values + MASK, MASK, lam=lam)
    torch.testing.assert_close(both_higher, advantages, rtol=1e-4, atol=1e-5)
    tokens_after = MASK.flip(1).cumsum(1).flip(1) - 1
    expected = torch.where(MASK, lam ** tokens_after.float(), 0.0)
    difference = gae(higher, values, MASK, lam=lam)[0] - advantages
    torch.testing.assert_close(difference, expected, rtol=1e-4, atol=1e-5)


@spec(
    "ADV-10",
    "Neither the order of the rows nor more columns without a token change an advantage.",
    differs="PaLM-rlhf-pytorch, ppo.py:603, shifts values along the batch instead of the time, so "
    "that a row gets the values of its neighbour",
)
@random_batches
@given(batches())
def test_the_order_of_the_rows_and_columns_without_a_token_change_no_advantage(gae, batch):
    """The advantages of a row are computed from that row."""
    mask, seed = batch
    rewards, values = ragged(2, seed, mask)
    order = torch.randperm(len(mask), generator=torch.Generator().manual_seed(seed))
    advantages, _ = gae(rewards, values, mask)
    assert torch.equal(gae(rewards[order], values[order], mask[order])[0], advantages[order])
    wider = [nn.functional.pad(x, (0, 5)) for x in (rewards, values, mask)]
    assert torch.equal(gae(*wider)[0], nn.functional.pad(advantages, (0, 5)))


@spec("ADV-24", "Without a response token, all advantages and returns are 0.")
def test_without_a_response_token_advantages_and_returns_are_zero(gae):
    """As everywhere outside the mask (ADV-04)."""
    for x in gae(*ragged(2), NOTHING):
        assert (x == 0).all()


@spec(
    "ADV-25",
    "A row without a response token beside others does not change their advantages and returns.",
)
def test_a_row_without_a_response_token_is_nobodys_advantage(gae):
    """To the bit. The row itself gets zeros."""
    rewards, values = ragged(2)
    pairs = zip(gae(*beside_an_empty_row(rewards, values)), gae(rewards, values, MASK), strict=True)
    for x, alone in pairs:
        assert torch.equal(x[:3], alone) and (x[3] == 0).all()


@spec(
    "ADV-26",
    "A hole in the mask ends the episode: what follows it does not reach the advantages and "
    "returns before it.",
    formula="m_t = 1, m_(t+1) = 0  ⟹  A_t = r_t − V_t",
    example="The episode of ADV-01 without its third token: A_1 = −0.01 − 0.6 = −0.61 and A_0 = "
    "−0.005 + 0.6 − 0.5 − λ · 0.61 = −0.4845.",
    differs="torchtune and OpenRLHF go on across the hole",
)
def test_a_hole_in_the_mask_ends_the_episode(gae):
    """A convention: a response is in one piece. A reply of several turns has holes, and its
    implementation has to say what the value after a turn is."""
    mask = torch.tensor([[True, True, False, True, False, False]])
    advantages, returns = gae(REWARDS, VALUES, mask)
    expected = row(-0.4845, -0.61, 0, 1.185, 0, 0)
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(returns, torch.where(mask, expected + VALUES, 0.0))


# ---- losses


def loss_and_gradient(loss, x, *args, **kwargs):
    x = x.clone().requires_grad_()
    value, stats = loss(x, *args, **kwargs)
    value.backward()
    return value.detach(), x.grad, stats


def assert_same_loss_and_gradient(loss, spoiled, junk):
    """To the bit, whatever is outside the mask, where the gradient is 0."""
    clean = ragged(3)
    value, gradient, _ = loss_and_gradient(loss, *clean, MASK)
    bad_value, bad_gradient, _ = loss_and_gradient(loss, *spoiled(*clean, junk), MASK)
    assert value == bad_value
    assert torch.equal(gradient, bad_gradient) and (gradient[~MASK] == 0).all()


def assert_same_stat(loss, name, spoiled, junk):
    clean = ragged(3)
    stats, spoiled_stats = loss(*clean, MASK)[1], loss(*spoiled(*clean, junk), MASK)[1]
    assert stat(stats, name) == stat(spoiled_stats, name)


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


@spec(
    "LOSS-01",
    "The clip stops the gradient of a token only where a step would take its ratio further out of "
    "the range.",
    formula="loss = mean of max(−A ρ, −A clip(ρ, 1 − ε, 1 + ε)),  ρ = exp(log π − log π_old)",
    example="ε = 0.2, one token. `gradient` is that with respect to log π.",
    source="Schulman et al. 2017, equation 7",
)
@pytest.mark.parametrize(("advantage", "ratio", "loss", "gradient", "clipped"), QUADRANTS)
def test_clipping_stops_the_gradient_only_when_it_would_overshoot(
    policy_loss, advantage, ratio, loss, gradient, clipped
):
    """A good token that is likely enough already, or a bad one that is rare enough, has no
    gradient. One that moved the wrong way keeps all of it. None of the small implementations that
    were read has a test of this table."""
    logprobs, old_logprobs = row(math.log(ratio)), torch.zeros(1, 1)
    value, slope, _ = loss_and_gradient(policy_loss, logprobs, old_logprobs, row(advantage), ONE)
    assert value.item() == pytest.approx(loss, abs=1e-6)
    assert slope.item() == pytest.approx(gradient, abs=1e-6)


@spec(
    "METRIC-01",
    "The clip fraction is the share of tokens whose gradient the clip stops.",
    example="In the table of LOSS-01: 1 where `clipped` is 1, else 0.",
)
@pytest.mark.parametrize(("advantage", "ratio", "loss", "gradient", "clipped"), QUADRANTS)
def test_the_clip_fraction_counts_the_tokens_whose_gradient_is_stopped(
    policy_loss, advantage, ratio, loss, gradient, clipped
):
    """A ratio outside the range does not suffice: a bad token at ratio 1.5 keeps its gradient."""
    _, stats = policy_loss(row(math.log(ratio)), torch.zeros(1, 1), row(advantage), ONE)
    assert stat(stats, "clip_fraction") == clipped


@spec(
    "LOSS-02",
    "The clip range of the policy loss is an argument.",
    example="ε = 0.6, A = 1, ratio 1.5: the loss is −1.5 and the gradient −1.5.",
)
def test_the_clip_range_is_an_argument(policy_loss):
    """A range that is fixed in the code passes every row of LOSS-01."""
    logprobs, old_logprobs = row(math.log(1.5)), torch.zeros(1, 1)
    value, slope, _ = loss_and_gradient(policy_loss, logprobs, old_logprobs, row(1), ONE, clip=0.6)
    assert (value.item(), slope.item()) == (pytest.approx(-1.5), pytest.approx(-1.5))


@spec(
    "LOSS-03",
    "Where the old and the new policy are equal, the gradient of the policy loss is the policy "
    "gradient.",
    formula="ρ = 1: ∂loss/∂log π_t = −A_t / N,  loss = −mean(A),  N response tokens",
    source="Schulman et al. 2017, equations 2 and 6",
)
def test_ppo_gradient_is_the_policy_gradient_when_the_policies_are_equal(policy_loss):
    """The first step of PPO is REINFORCE with a baseline; only later ones are PPO."""
    logprobs, advantages = ragged(2)
    loss, gradient, _ = loss_and_gradient(policy_loss, logprobs, logprobs, advantages, MASK)
    torch.testing.assert_close(gradient, -advantages / MASK.sum())
    torch.testing.assert_close(loss, -advantages[MASK].mean())


FAR = [-1000.0, -100.0, 100.0, 1000.0]


@spec(
    "LOSS-11",
    "A token with advantage 0 has loss and gradient 0, however large its log ratio is.",
    example="log ρ = ±100 and ±1000. In float32 exp overflows at 88.7, and 0 · ∞ is NaN.",
    differs="torchtune gives NaN at 100 and 1000",
)
@pytest.mark.parametrize("log_ratio", FAR)
def test_a_token_without_an_advantage_has_no_loss_however_far_it_is(policy_loss, log_ratio):
    """One such token would make the whole loss NaN, and all weights with it."""
    loss, gradient, _ = loss_and_gradient(
        policy_loss, row(log_ratio, 0), torch.zeros(1, 2), row(0, 1), torch.ones(1, 2).bool()
    )
    assert loss == -0.5
    assert gradient.tolist() == [[0, -0.5]]


@spec(
    "LOSS-12",
    "A token whose gradient the clip stops has the clipped loss and gradient 0, however large its "
    "log ratio is.",
    example="ε = 0.2. A = 1 and log ρ = 100 or 1000: the loss is −1.2. A = −1 and log ρ = −100 or "
    "−1000: 0.8.",
    differs="torchtune gives the gradient NaN at 100 and 1000",
)
@pytest.mark.parametrize("log_ratio", FAR)
def test_a_stopped_token_has_no_gradient_however_far_it_is(policy_loss, log_ratio):
    """The branch that is not taken must not overflow: its gradient 0 · ∞ is NaN."""
    advantage, expected = (1, -1.2) if log_ratio > 0 else (-1, 0.8)
    loss, gradient, _ = loss_and_gradient(
        policy_loss, row(log_ratio), torch.zeros(1, 1), row(advantage), ONE
    )
    assert loss.item() == pytest.approx(expected)
    assert gradient.item() == 0


@spec(
    "METRIC-10",
    "A token with advantage 0 does not count in the clip fraction, whatever its ratio is.",
    example="Ratios 0.5, 1.5, e^100 and e^−100 with A = 0: the clip fraction is 0.",
)
def test_a_token_without_an_advantage_is_not_clipped(policy_loss):
    """It has no gradient that the clip could stop. What is counted are stopped gradients, and not
    ratios outside the range."""
    logprobs = row(math.log(0.5), math.log(1.5), 100, -100)
    mask = torch.ones(1, 4, dtype=torch.bool)
    _, stats = policy_loss(logprobs, torch.zeros(1, 4), torch.zeros(1, 4), mask)
    assert stat(stats, "clip_fraction") == 0


@spec(
    "METRIC-09",
    "In float32 too, approx_kl_k3 of small log ratios x is not negative, and about the mean of "
    "x² / 2.",
    formula="mean of expm1(x) − x ≈ mean of x² / 2 for 1e-6 ≤ |x| ≤ 1e-3,  x = log ρ",
)
def test_the_k3_of_an_update_is_half_the_square_of_a_small_log_ratio(policy_loss):
    """As KL-09: a small step is where this metric is read."""
    pairs = zip(BOTH_SIGNS, torch.zeros(602), strict=True)
    k3 = [stat(policy_loss(row(x), row(0), row(1), ONE)[1], "approx_kl_k3") for x, _ in pairs]
    assert_half_the_square(torch.tensor(k3))


TWO_ROWS = torch.tensor([[True, False, False], [True, True, True]])


@spec(
    "LOSS-04",
    "Every response token of a minibatch has the same weight in the policy loss.",
    formula="loss = Σ over response tokens / number of response tokens",
    example="Responses of 1 and 3 tokens with A = 1 and A = −1: (−1 + 3) / 4 = 0.5. The mean of "
    "the means of the rows is (−1 + 1) / 2 = 0.",
)
def test_every_token_of_a_minibatch_weighs_the_same(policy_loss):
    """A mean over rows gives the tokens of short responses more weight."""
    advantages = torch.tensor([[1.0], [-1.0]]).expand(2, 3)
    zeros = torch.zeros(2, 3)
    assert policy_loss(zeros, zeros, advantages, TWO_ROWS)[0] == 0.5


@spec(
    "LOSS-05",
    "The losses of microbatches add up to the loss of the minibatch, if each is divided by the "
    "number of response tokens in the minibatch.",
    example="The two rows of LOSS-04, each by itself and divided by 4: −1/4 + 3/4 = 0.5. The value "
    "loss of returns 1 and −1 against values of 0: 1/8 + 3/8 = 0.5.",
    differs="N+, TRL and torchtune average the means of the microbatches and get 0; so did "
    "OpenRLHF before its models/loss.py:11",
)
def test_microbatches_add_up_if_they_know_the_minibatchs_tokens(policy_loss, value_loss):
    """Then the split, a matter of memory, does not change the objective."""
    targets = torch.tensor([[1.0], [-1.0]]).expand(2, 3)
    for loss, expected in ((policy_loss, [-0.25, 0.75]), (value_loss, [0.125, 0.375])):
        parts = []
        for i in range(2):
            zeros, target, mask = torch.zeros(1, 3), targets[i : i + 1], TWO_ROWS[i : i + 1]
            parts.append(loss(zeros, zeros, target, mask, tokens=4)[0].item())
        assert parts == expected


@spec(
    "LOSS-13",
    "A part of a minibatch that has no response token adds 0 to the losses and to their gradients.",
    example="Divided by the 4 tokens of the minibatch: 0 / 4.",
)
def test_a_part_without_a_response_token_adds_nothing(policy_loss, value_loss):
    """Its own tokens would divide by 0."""
    for loss in (policy_loss, value_loss):
        value, gradient, _ = loss_and_gradient(loss, *ragged(3), NOTHING, tokens=4)
        assert value == 0 and (gradient == 0).all()


@spec(
    "LOSS-14",
    "The losses of nothing are NaN.",
    formula="0 / 0",
    differs="torchtune, whose denominator has an ε, gives 0",
)
def test_the_losses_of_nothing_are_not_numbers(policy_loss, value_loss):
    """A convention, as MASK-04. A minibatch without a response token is a mistake, which a loss of
    0 would hide."""
    for loss in (policy_loss, value_loss):
        assert math.isnan(loss(*ragged(3), NOTHING)[0])


@spec(
    "LOSS-15",
    "A row without a response token beside others changes neither the losses nor their gradients.",
)
def test_a_row_without_a_response_token_changes_no_loss(policy_loss, value_loss):
    """It does not count in the denominator."""
    for loss in (policy_loss, value_loss):
        tensors = ragged(3)
        value, gradient, _ = loss_and_gradient(loss, *tensors, MASK)
        other, other_gradient, _ = loss_and_gradient(loss, *beside_an_empty_row(*tensors))
        torch.testing.assert_close(other, value)
        torch.testing.assert_close(other_gradient[:3], gradient)
        assert (other_gradient[3] == 0).all()


POLICY_STATS = {  # of tokens with ratios 1.5 and 1.1, and of tokens with .5 and .75
    "approx_kl": (0.043372, 0.140804),
    "approx_kl_k3": (0.049613, 0.115415),
    "clip_fraction": (0.5, 0),
    "ratio_mean": (1.3, 0.625),
    "ratio_var": (0.04, 0.015625),
    "ratio_min": (1.1, 0.5),
    "ratio_max": (1.5, 0.75),
}


@spec(
    "METRIC-02",
    "The metrics of the policy loss are means, variance and extremes over the response tokens.",
    formula="approx_kl = mean of (log ρ)² / 2;  approx_kl_k3 = mean of ρ − 1 − log ρ;  both "
    "estimate KL(π_old ‖ π);  ratio_var is the biased variance of ρ",
    example="Two tokens with A = 1 and ratios 1.5 and 1.1, and a ratio of e^7 outside the mask: "
    "approx_kl (0.082201 + 0.004542) / 2 = 0.043372, approx_kl_k3 (0.094535 + 0.004690) / 2 = "
    "0.049613, clip fraction 0.5, ratio mean 1.3, variance 0.04, minimum 1.1, maximum 1.5.",
    source="approx_kl: Ziegler et al. 2019, train_policy.py",
)
@pytest.mark.parametrize("name", POLICY_STATS)
def test_policy_stats_are_worked_by_hand(policy_loss, name):
    """approx_kl is k2 and approx_kl_k3 is k3. The tokens are from π_old, so that both estimate the
    KL of the policy that sampled from the updated policy."""
    mask = torch.tensor([[True, True, False]])
    for ratios, expected in zip(((1.5, 1.1), (0.5, 0.75)), POLICY_STATS[name], strict=True):
        logprobs = torch.tensor([[math.log(ratios[0]), math.log(ratios[1]), 7]])
        _, stats = policy_loss(logprobs, torch.zeros(1, 3), torch.ones(1, 3), mask)
        assert stat(stats, name) == pytest.approx(expected, abs=1e-5)


@spec("METRIC-06", "No metric of a loss has a gradient.")
def test_no_metric_has_a_gradient(policy_loss, value_loss):
    """Metrics are kept until the end of an epoch. One with a graph keeps all activations alive."""
    first, second, third = ragged(3)
    for loss in (policy_loss, value_loss):
        _, stats = loss(first.requires_grad_(), second, third, MASK)
        assert not any(torch.is_tensor(x) and x.requires_grad for x in stats.values())


@spec(
    "LOSS-06",
    "The policy loss and its gradient do not depend on what is outside the mask, NaN included, and "
    "the gradient is 0 there.",
    differs="minChatGPT, loss.py:17, and PaLM-rlhf-pytorch, ppo.py:579, take a mask and ignore it",
)
@JUNK
def test_the_policy_loss_does_not_see_what_is_outside_the_mask(policy_loss, junk):
    """To the bit. Masked after the exponential, an overflow outside becomes NaN."""
    assert_same_loss_and_gradient(policy_loss, spoiled_policy, junk)


@spec(
    "METRIC-04",
    "No metric of the policy loss depends on what is outside the mask.",
    differs="N+, ppo.py:763-771, and TRL, ppo_trainer.py:856-868, log approx_kl, entropy and ratio "
    "over the padding, which dilutes them by its share",
)
@JUNK
@pytest.mark.parametrize("name", POLICY_STATS)
def test_no_policy_metric_sees_what_is_outside_the_mask(policy_loss, name, junk):
    """A diluted metric cannot be compared between batches, or with a threshold."""
    assert_same_stat(policy_loss, name, spoiled_policy, junk)


def spoiled_policy(logprobs, old_logprobs, advantages, junk):
    return spoil(logprobs, junk), spoil(old_logprobs, 0.0 * junk), spoil(advantages, -junk)


VALUE_ROWS = [  # old value, value, return, loss, d loss / d value, clipped
    (0, 0.5, 1, 0.32, 0.0, 1),
    (0, 0.5, -1, 1.125, 1.5, 0),
    (0, 0.1, 1, 0.405, -0.9, 0),
    (0, -0.5, -1, 0.32, 0.0, 1),
]


@spec(
    "LOSS-07",
    "The clipped value loss is half the larger of two squared errors, so that the clip stops a "
    "gradient only where a step would take the value further out of the range.",
    formula="loss = ½ mean of max((V − R)², (V_old + clip(V − V_old, −ε, ε) − R)²)",
    example="ε = 0.2, one token. Old value 0, value 0.5, return 1: the value counts as 0.2, ½ · "
    "0.8² = 0.32. `gradient` is that with respect to V, `target` is R.",
    source="Ziegler et al. 2019, train_policy.py:343, not in the paper",
)
@pytest.mark.parametrize(("old", "value", "target", "loss", "gradient", "clipped"), VALUE_ROWS)
def test_value_clipping_stops_the_gradient_only_when_it_would_overshoot(
    value_loss, old, value, target, loss, gradient, clipped
):
    """As LOSS-01, for the critic. A value that moved away from its return keeps its gradient."""
    result, slope, _ = loss_and_gradient(value_loss, row(value), row(old), row(target), ONE)
    assert result.item() == pytest.approx(loss, abs=1e-6)
    assert slope.item() == pytest.approx(gradient, abs=1e-6)


@spec(
    "METRIC-03",
    "value_clip_fraction is the share of tokens whose clipped error is the larger; value_error is "
    "the mean squared error before clipping.",
    example="In the table of LOSS-07: value_clip_fraction is `clipped`, value_error is (V − R)².",
)
@pytest.mark.parametrize(("old", "value", "target", "loss", "gradient", "clipped"), VALUE_ROWS)
def test_value_stats_are_worked_by_hand(value_loss, old, value, target, loss, gradient, clipped):
    """The error before clipping says how good the critic is."""
    _, stats = value_loss(row(value), row(old), row(target), ONE)
    assert stat(stats, "value_clip_fraction") == clipped
    assert stat(stats, "value_error") == pytest.approx((value - target) ** 2)


@spec(
    "LOSS-08",
    "A value is clipped around its old value.",
    example="Old value 2, value 3, return 4, ε = 0.2: the value counts as 2.2, ½ · 1.8² = 1.62.",
)
def test_values_are_clipped_around_their_old_value(value_loss):
    """In the table of LOSS-07 every old value is 0."""
    assert value_loss(row(3), row(2), row(4), ONE)[0].item() == pytest.approx(1.62)


@spec(
    "LOSS-09",
    "Without clipping the value loss is half the mean squared error.",
    formula="loss = ½ mean of (V − R)²;  ∂loss/∂V_t = (V_t − R_t) / N,  N response tokens",
)
def test_without_clipping_the_value_loss_is_half_the_mean_squared_error(value_loss):
    """Every implementation has the factor ½. Without it, vf_coef would mean something else."""
    values, old_values, returns = ragged(3)
    loss, gradient, _ = loss_and_gradient(value_loss, values, old_values, returns, MASK, clip=1e6)
    torch.testing.assert_close(loss, 0.5 * nn.functional.mse_loss(values[MASK], returns[MASK]))
    torch.testing.assert_close(gradient, (values - returns) * MASK / MASK.sum())


@spec(
    "LOSS-10",
    "The value loss and its gradient do not depend on what is outside the mask, NaN included, and "
    "the gradient is 0 there.",
)
@JUNK
def test_the_value_loss_does_not_see_what_is_outside_the_mask(value_loss, junk):
    """To the bit. There is no target for the value of a padding column."""
    assert_same_loss_and_gradient(value_loss, spoiled_values, junk)


@spec("METRIC-05", "No metric of the value loss depends on what is outside the mask.")
@JUNK
@pytest.mark.parametrize("name", ["value_clip_fraction", "value_error"])
def test_no_value_metric_sees_what_is_outside_the_mask(value_loss, name, junk):
    """An error averaged over padding falls as responses get shorter, as if the critic learned."""
    assert_same_stat(value_loss, name, spoiled_values, junk)


def spoiled_values(values, old_values, returns, junk):
    return spoil(values, junk), spoil(old_values, -junk), spoil(returns, junk / 2)


# ---- KL control, and the score of an unfinished response

KL_AND_COEFFICIENT = [(12, 0.151536), (6.3, 0.150384), (6, 0.15), (0, 0.148464), (1e6, 0.151536)]


@spec(
    "KL-07",
    "The adaptive KL coefficient changes in proportion to the relative error of the KL of a "
    "response, clipped to ±0.2.",
    formula="kl_coef ← kl_coef · (1 + clip(KL / target − 1, −0.2, 0.2) · episodes / horizon)",
    example="kl_coef 0.15, target 6, horizon 10,000 and 512 episodes: at most 1.024% per rollout, "
    "nothing at the target.",
    differs="OpenRLHF, trainer/ppo_trainer.py:250, gives the controller the KL of a token",
    source="Ziegler et al. 2019, section 2.2 and train_policy.py:115",
)
@pytest.mark.parametrize(("kl", "expected"), KL_AND_COEFFICIENT)
def test_the_controller_moves_the_coefficient_by_the_clipped_error(AdaptiveKL, kl, expected):
    """The clip bounds the change per rollout, however far the KL is from its target."""
    controller = AdaptiveKL(0.15, target=6, horizon=10_000)
    assert controller.update(kl, episodes=512) == pytest.approx(expected, abs=1e-6)
    assert controller.kl_coef == pytest.approx(expected, abs=1e-6)


@spec(
    "KL-08",
    "Each update of the adaptive KL coefficient starts from its present value.",
    example="Two rollouts far above the target: 0.15 · 1.01024² = 0.153088.",
)
def test_the_controller_goes_on_from_where_it_was(AdaptiveKL):
    """Started from the initial value each time, it could never move by more than about 1%."""
    controller = AdaptiveKL(0.15, target=6, horizon=10_000)
    coefficients = [controller.update(100, 512) for _ in range(2)]
    assert coefficients[1] == pytest.approx(0.15 * 1.01024**2)


@spec(
    "KL-10",
    "The adaptive KL coefficient is never negative, however many episodes there are.",
    example="60,000 episodes, a horizon of 10,000 and a KL of 0: unlimited, the factor would be "
    "1 − 0.2 · 6 = −0.2.",
    differs="OpenRLHF does not limit the factor",
)
def test_the_controller_never_turns_the_penalty_into_a_bonus(AdaptiveKL):
    """A negative coefficient would pay the policy for leaving the reference. In minirlhf, more
    episodes than the horizon count as the horizon."""
    controller = AdaptiveKL(0.15, target=6, horizon=10_000)
    assert all(controller.update(0.0, 60_000) >= 0 for _ in range(3))


@spec(
    "KL-11",
    "A KL that is NaN does not reach the adaptive KL coefficient: it is an error, or ignored.",
    differs="OpenRLHF keeps it for ever",
)
def test_the_controller_does_not_keep_a_kl_that_is_not_a_number(AdaptiveKL):
    """A coefficient that is NaN once is NaN for ever. minirlhf ignores it here, and its training
    loop stops."""
    controller = AdaptiveKL(0.15, target=6, horizon=10_000)
    with contextlib.suppress(ValueError):
        controller.update(math.nan, 512)
    assert controller.kl_coef == 0.15


@spec(
    "REWARD-08",
    "The missing-end score replaces the score of a response without an end token.",
    example="Scores 0.5, 9 and −5, the second response unfinished, missing-end score −3: 0.5, −3, "
    "−5.",
    differs="TRL, ppo_trainer.py:757, subtracts a penalty from the score",
    source="Ziegler et al. 2019, lm_tasks.py:58",
)
def test_an_unfinished_response_gets_the_fixed_score_instead_of_its_own(missing_end_rule):
    """Lowered by 3, the score 9 would still reward a good text that does not stop."""
    ended = torch.tensor([True, False, True])
    scores = missing_end_rule(torch.tensor([0.5, 9.0, -5.0]), ended, -3.0)
    assert scores.tolist() == [0.5, -3.0, -5.0]
