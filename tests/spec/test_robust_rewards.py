"""Scores of several reward models, and a score that is bounded by the SFT model's own."""

import pytest
import torch

from spec.sentences import spec
from spec.tensors import normal

WAYS = pytest.mark.parametrize("how", ["mean", "worst", "mean-std"])
MEMBERS = torch.tensor([[1.0], [2.0], [3.0], [0.0], [4.0]], dtype=torch.float64)
SFT_SCORES = torch.tensor([[0.0, 1.0, -1.0, 0.5]], dtype=torch.float64)


def assert_values(result, *numbers):
    expected = torch.tensor(numbers, dtype=torch.float64).view_as(result)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-9)


@spec(
    "ROBUST-01",
    "An ensemble's score of a response is the mean of its members' scores, the least of them, or "
    "the mean minus the standard deviation, which divides by the number of members.",
    example="Scores 1, 2, 3, 0, 4: mean 2, worst 0, mean-std 0.585786; with E − 1 in the "
    "denominator the last would be 0.418861.",
    differs="Coste et al.'s code divides by E − 1 in PPO and by E in best-of-n, with one "
    "coefficient for both",
    source="Coste et al. 2023; Eisenstein et al. 2023",
)
@pytest.mark.parametrize(
    ("how", "score"), [("mean", 2.0), ("worst", 0.0), ("mean-std", 0.5857864376)]
)
def test_an_ensemble_has_three_scores(combine, how, score):
    """The last two are below the first by more, the more the members disagree."""
    assert_values(combine(MEMBERS, how), score)


@spec("ROBUST-02", "An ensemble of one model, or of equal models, has that model's score.")
@WAYS
def test_an_ensemble_of_equals_is_its_member(combine, how):
    """Nothing is to be gained by asking twice."""
    scores = normal(1, 6).double()
    torch.testing.assert_close(combine(scores, how), scores[0])
    torch.testing.assert_close(combine(scores.expand(3, 6), how), scores[0])


@spec(
    "ROBUST-03",
    "The order of its members does not change an ensemble's score, and a response's score does not "
    "depend on the other responses.",
)
@WAYS
def test_an_ensemble_has_no_order(combine, how):
    """The members are combined, not the responses."""
    scores = normal(4, 6).double()
    expected = combine(scores, how)
    torch.testing.assert_close(combine(scores[[2, 0, 3, 1]], how), expected)
    torch.testing.assert_close(combine(scores[:, 3:4], how), expected[3:4])


@spec(
    "ROBUST-04",
    "The disagreement of an ensemble is the standard deviation over its members, a mean over "
    "responses; a constant that is added to the scores of all members does not change it.",
    example="Scores 1, 2, 3, 0, 4 of one response: 1.414214.",
)
def test_disagreement_is_a_standard_deviation_over_members(disagreement):
    """It grows where the policy goes to responses of which the comparisons said nothing."""
    scores = torch.cat([MEMBERS, torch.ones(5, 1).double()], 1)
    assert_values(disagreement(scores), 2**0.5 / 2)
    torch.testing.assert_close(disagreement(scores + 5), disagreement(scores))


@spec(
    "ROBUST-05",
    "PAR rewards a response for how likely it is to be preferred to responses of the SFT model: "
    "the mean of the probabilities, not the probability at the mean score.",
    formula="u = mean_m σ(r − r_m)",
    example="SFT scores 0, 1, −1, 0.5: a score of 2 gives 0.845501, −1 gives 0.267642; at the mean "
    "they would be 0.867036 and 0.245085.",
    source="PAR",
)
def test_par_is_the_mean_probability_of_winning(win_rate):
    """It is bounded: a response that already wins has nothing to gain."""
    result = win_rate(torch.tensor([2.0, -1.0]).double(), SFT_SCORES.expand(2, 4))
    assert_values(result, 0.8455010650, 0.2676424668)


@spec(
    "ROBUST-06",
    "A constant that is added to all scores of a prompt, those of the SFT model too, does not "
    "change PAR's reward; within a prompt it orders responses as their scores do.",
)
def test_par_knows_differences_only(win_rate):
    """So best-of-n by it chooses the same response: it can only be told apart in training."""
    scores, sft_scores = normal(5).double().sort().values, normal(1, 3).double().expand(5, 3)
    rewards = win_rate(scores, sft_scores)
    torch.testing.assert_close(win_rate(scores + 7, sft_scores + 7), rewards)
    assert (rewards.diff() > 0).all() and 0 < rewards.min() and rewards.max() < 1
