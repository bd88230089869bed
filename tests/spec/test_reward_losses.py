"""The losses of the reward model: Bradley-Terry on pairs, InstructGPT's mean over all pairs of a
ranking; and the calibration error, which says how much its confidence is worth."""

import math

import numpy as np
import pytest
import torch

from spec.sentences import spec
from spec.tensors import naive_ranking_loss, normal, rows

# ---- losses


@spec(
    "RM-01",
    "The preference loss of a pair is minus the log-sigmoid of the score difference less the "
    "margin.",
    formula="loss = mean over pairs of −log σ(s_chosen − s_rejected − margin)",
    example="Scores 1.5 and 0.5: −log σ(1) = log(1 + 1/e) = 0.313262. With margin 1/3: 0.414370. "
    "With margin 1: log 2 = 0.693147.",
    source="Stiennon et al. 2020, section 3.4; the margin: Llama 2, equation 2",
)
def test_preference_loss_is_worked_by_hand(preference_loss):
    """The negative log-likelihood of the Bradley-Terry model."""
    chosen, rejected = torch.tensor([1.5]), torch.tensor([0.5])
    assert preference_loss(chosen, rejected).item() == pytest.approx(0.313262, abs=1e-6)
    assert preference_loss(chosen, rejected, 1 / 3).item() == pytest.approx(0.414370, abs=1e-6)
    assert preference_loss(chosen, rejected, 1.0).item() == pytest.approx(0.693147, abs=1e-6)


@spec(
    "RM-02",
    "Each pair may have its own margin.",
    example="Two pairs of difference 1 with margins 0 and 1: (0.313262 + 0.693147) / 2 = 0.503205.",
    source="Llama 2, equation 2",
)
def test_a_margin_may_differ_from_pair_to_pair(preference_loss):
    """Llama 2 gives "significantly better" a wider margin than "slightly better"."""
    chosen, rejected = torch.tensor([1.5, 1.5]), torch.tensor([0.5, 0.5])
    loss = preference_loss(chosen, rejected, torch.tensor([0.0, 1.0]))
    assert loss.item() == pytest.approx((0.313262 + 0.693147) / 2, abs=1e-6)


@spec(
    "RM-03",
    "Where the scores of every pair are equal, the preference loss is log 2.",
    example="log 2 = 0.693147 nats, the loss of a coin flip.",
)
def test_bradley_terry_loss_is_log_two_when_scores_tie(preference_loss):
    """A reward model that has learned nothing starts near this loss: the first number to check."""
    assert preference_loss(normal(3), normal(3)).item() == pytest.approx(math.log(2))


@spec(
    "RM-04",
    "The ranking loss of a prompt is the mean over its pairs, not their sum.",
    formula="loss of a prompt = mean over pairs i ≻ j of −log σ(s_i − s_j)",
    example="Scores 1, 0.5, −0.5 from best to worst: the mean of −log σ of 0.5, 1.5 and 1 is "
    "0.329584.",
    differs="minChatGPT, loss.py:80, divides by the number of pairs twice",
    source="InstructGPT, equation 1",
)
def test_ranking_three_is_worked_by_hand(ranking_loss):
    """A sum would give a prompt with more responses more weight."""
    loss = ranking_loss(rows([1.0, 0.5, -0.5]), torch.tensor([[0, 1, 2]]))
    assert loss.item() == pytest.approx(0.329584, abs=1e-6)


@spec(
    "RM-05",
    "The ranks say which response is better; the order of the columns says nothing.",
    example="Scores −0.5, 1, 0.5 with ranks 2, 0, 1: 0.329584, as in RM-04.",
    differs="minChatGPT, loss.py:65, takes the order of the columns for the ranking",
)
def test_the_order_in_which_responses_stand_does_not_matter(ranking_loss):
    """Responses are stored in the order in which they were sampled."""
    loss = ranking_loss(rows([-0.5, 1.0, 0.5]), torch.tensor([[2, 0, 1]]))
    assert loss.item() == pytest.approx(0.329584, abs=1e-6)


@spec("RM-06", "For two responses the ranking loss equals the preference loss.")
def test_ranking_two_is_bradley_terry(preference_loss, ranking_loss):
    """With K = 2 there is one pair, and nothing to divide by."""
    scores = normal(3, 2)
    loss = ranking_loss(scores, torch.tensor([[0, 1], [1, 0], [0, 1]]))
    chosen, rejected = scores[[0, 1, 2], [0, 1, 0]], scores[[0, 1, 2], [1, 0, 1]]
    torch.testing.assert_close(loss, preference_loss(chosen, rejected))


RAGGED_RANKS = torch.tensor([[2, 0, 1, -1], [0, 0, 1, 2], [1, 0, -1, -1]])


@spec(
    "RM-07",
    "The ranking loss is the mean over prompts of the mean over strictly ordered pairs, in value "
    "and in gradient.",
    formula="loss = mean over prompts of mean over pairs i ≻ j of −log σ(s_i − s_j)",
    example="Held against two loops, on prompts with three responses, with four of which two tie, "
    "and with two.",
    source="InstructGPT, equation 1",
)
def test_ranking_loss_is_that_of_a_loop_over_prompts_and_pairs(ranking_loss):
    """Also where prompts have different numbers of responses, and ties."""
    scores = normal(3, 4).requires_grad_()
    loss = ranking_loss(scores, RAGGED_RANKS)
    expected = naive_ranking_loss(scores, RAGGED_RANKS)
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(x, scores)[0] for x in (loss, expected)]
    torch.testing.assert_close(*gradients)


@spec(
    "RM-08",
    "Two responses of equal rank form no pair.",
    example="Scores 5, −5, 0 with ranks 0, 0, 1 leave two pairs: (log(1 + e^−5) + log(1 + e^5)) / "
    "2 = 2.506715.",
)
def test_equal_ranks_form_no_pair(ranking_loss):
    """A tie does not say which of the two is better."""
    loss = ranking_loss(rows([5.0, -5.0, 0.0]), torch.tensor([[0, 0, 1]]))
    expected = (math.log1p(math.exp(-5)) + math.log1p(math.exp(5))) / 2
    assert loss.item() == pytest.approx(expected)


@spec(
    "RM-09",
    "The score of an absent response (rank −1) does not enter the loss and receives no gradient.",
    example="Scores 1, 0.5, −0.5, 1e9 with ranks 0, 1, 2, −1: 0.329584, as in RM-04.",
)
def test_a_response_that_is_not_there_changes_nothing(ranking_loss):
    """Prompts with fewer responses than the widest are filled up with absent ones."""
    scores = rows([1.0, 0.5, -0.5, 1e9]).requires_grad_()
    loss = ranking_loss(scores, torch.tensor([[0, 1, 2, -1]]))
    assert loss.item() == pytest.approx(0.329584, abs=1e-6)
    loss.backward()
    assert scores.grad[0, 3] == 0


@spec(
    "RM-10",
    "A prompt without a strictly ordered pair is left out of the mean over prompts.",
    example="Of three prompts one is ranked, one is all ties and one has a single response: the "
    "loss is that of the first, not a third of it.",
)
def test_a_prompt_without_a_pair_leaves_the_mean(ranking_loss):
    """Counted as a loss of 0, it would make the others look smaller."""
    scores = normal(3, 3)
    ranks = torch.tensor([[0, 1, 2], [1, 1, 1], [0, -1, -1]])
    expected = ranking_loss(scores[:1], ranks[:1])
    torch.testing.assert_close(ranking_loss(scores, ranks), expected)


@spec("RM-11", "Where no prompt has a strictly ordered pair, the loss and its gradient are 0.")
def test_without_any_pair_the_loss_is_zero_and_so_is_its_gradient(ranking_loss):
    """A batch of ties teaches nothing. 0 / 0 would turn every weight into NaN."""
    scores = normal(3, 3).requires_grad_()
    loss = ranking_loss(scores, torch.tensor([[0, 0, 0], [-1, -1, -1], [2, -1, -1]]))
    loss.backward()
    assert loss == 0 and (scores.grad == 0).all()


@spec(
    "RM-12",
    "Every prompt has the same weight in the ranking loss, however many pairs it has.",
    formula="all scores equal, N prompts: ∂loss/∂s_best = −(K − 1) · ½ / (K (K − 1) / 2) / N = −1 "
    "/ (K N)",
    example="Two prompts with four and nine responses, 6 and 36 pairs: −1/8 and −1/18 for the best "
    "response of each.",
    differs="AlpacaFarm, reward_modeling_trainer.py:30, averages over pairs, so that the second "
    "prompt has six times the weight of the first",
    source="InstructGPT, section 3.5",
)
def test_prompts_with_four_and_with_nine_responses_weigh_the_same(ranking_loss):
    """The pairs of a prompt are correlated: 36 do not say six times as much as 6."""
    scores = torch.zeros(2, 9, requires_grad=True)
    ranks = torch.tensor([[0, 1, 2, 3, -1, -1, -1, -1, -1], list(range(9))])
    ranking_loss(scores, ranks).backward()
    gradients = [scores.grad[0, 0].item(), scores.grad[1, 0].item()]
    assert gradients == pytest.approx([-1 / 8, -1 / 18])


@spec(
    "RM-13",
    "Ranking loss, its gradient and preference loss are finite for any score difference.",
    formula="−log σ(x) = log(1 + e^−x)",
    example="A pair in the wrong order, 2000 apart, has a loss of 2000.",
    differs="minChatGPT, loss.py:80, takes the logarithm of a sigmoid: its gradient is NaN even "
    "for a pair in the right order",
)
@pytest.mark.parametrize("gap", [60.0, 200.0, 1000.0])
def test_loss_and_gradient_are_finite_at_any_margin(preference_loss, ranking_loss, gap):
    """The sigmoid of a pair that is far apart underflows to 0, whose logarithm is −inf."""
    for scores in (rows([gap, -gap]), rows([-gap, gap])):
        scores.requires_grad_()
        loss = ranking_loss(scores, torch.tensor([[0, 1]]))
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(scores.grad).all()
    assert loss.item() == pytest.approx(2 * gap)
    loss = preference_loss(torch.tensor([-gap]), torch.tensor([gap]))
    assert loss.item() == pytest.approx(2 * gap)


@spec("RM-14", "Adding a constant to all scores of a prompt does not change the ranking loss.")
def test_adding_a_number_to_the_scores_of_a_prompt_changes_no_loss(ranking_loss):
    """Comparisons determine differences alone. The zero of the scores is free, and has to be set
    after training if a number such as the missing-end score is to be compared with them."""
    scores, shift = normal(3, 4), torch.tensor([[3.0], [-2.0], [0.5]])
    shifted = ranking_loss(scores + shift, RAGGED_RANKS)
    expected = ranking_loss(scores, RAGGED_RANKS)
    torch.testing.assert_close(shifted, expected, rtol=1e-4, atol=1e-5)


@spec(
    "RM-15",
    "`margins` returns better score minus worse score for every strictly ordered pair, and nothing "
    "for ties and absent responses.",
    example="Scores 1, 4, 2 ranked 2, 0, 1: 4 − 1, 4 − 2 and 2 − 1. Scores 7, 8, 3 ranked 0, 0, 1: "
    "7 − 3 and 8 − 3.",
)
def test_margins_are_better_minus_worse_for_every_strictly_ordered_pair(margins):
    """Accuracy and calibration are computed from these numbers."""
    scores = rows([1, 4, 2, 100], [7, 8, 3, 0])
    ranks = torch.tensor([[2, 0, 1, -1], [0, 0, 1, -1]])
    assert sorted(margins(scores, ranks).tolist()) == [1, 2, 3, 4, 5]


# ---- calibration


@spec(
    "RM-16",
    "The calibration error is 0 where the confidence of the model equals the share of labels that "
    "agree with it.",
    formula="ECE = Σ_bins (pairs in the bin / pairs) · |mean confidence − mean label|, confidence "
    "= σ(|margin|)",
    example="Four pairs of margin log 3, confidence 0.75, of which three labels agree: 0.",
)
def test_calibration_error_is_zero_where_the_model_is_as_sure_as_people(calibration_error):
    """A label may be a probability, too: σ(margin) for margins from −4 to 4 gives 0."""
    labels = np.array([1, 1, 1, 0])
    assert calibration_error(np.full(4, math.log(3)), labels) == pytest.approx(0)
    gaps = np.linspace(-4, 4, 33)
    assert calibration_error(gaps, 1 / (1 + np.exp(-gaps))) == pytest.approx(0, abs=1e-12)


@spec(
    "RM-17",
    "The calibration error averages the errors of the bins by their number of pairs; errors of "
    "different bins do not cancel.",
    example="Confidence 0.75 and every label agrees: 0.25. Half of the labels agree: 0.25. Two "
    "pairs at 0.75 that agree and two at 0.95 of which one agrees: (2 · 0.25 + 2 · 0.45) / 4 = "
    "0.35. In one bin the two errors would cancel to 0.1.",
)
def test_calibration_error_is_worked_by_hand(calibration_error):
    """A model may be too sure of some pairs and not sure enough of others."""
    three_to_one, nineteen_to_one = math.log(3), math.log(19)
    assert calibration_error(np.full(4, three_to_one), np.ones(4)) == pytest.approx(0.25)
    labels = np.array([1, 0, 1, 0])
    assert calibration_error(np.full(4, three_to_one), labels) == pytest.approx(0.25)
    both = np.array([three_to_one, three_to_one, nineteen_to_one, nineteen_to_one])
    assert calibration_error(both, np.array([1, 1, 1, 0])) == pytest.approx(0.35)


@spec(
    "RM-18",
    "A pair with a negative margin counts as the reversed pair with the reversed label.",
    example="Margin −log 3 with label 1: confidence 0.75 in the other order, error 0.75. Margin "
    "log 3 with label 0: the same.",
)
def test_calibration_error_turns_a_pair_so_that_the_model_is_sure_of_it(calibration_error):
    """Confidence is about the order that the model prefers."""
    assert calibration_error(np.array([-math.log(3)]), np.array([1.0])) == pytest.approx(0.75)
    assert calibration_error(np.array([math.log(3)]), np.array([0.0])) == pytest.approx(0.75)


@spec(
    "RM-19",
    "The bins of the calibration error are ten intervals of width 0.05 between 0.5 and 1.",
    example="Confidences 0.51 and 0.54, labels 0.61 and 0.44: one bin, the errors cancel. "
    "Confidences 0.56 and 0.598, errors 0.2 and −0.2: one bin. Confidences 0.92 and 0.96, errors "
    "−0.08 and 0.1: two bins, (0.08 + 0.1) / 6 = 0.03.",
)
def test_calibration_error_has_ten_bins_of_a_twentieth_each(calibration_error):
    """With eleven bins, 0.56 and 0.598 would lie in two."""
    confidences = np.array([0.51, 0.54, 0.56, 0.598, 0.92, 0.96])
    labels = np.array([0.61, 0.44, 0.36, 0.798, 1.0, 0.86])
    gaps = np.log(confidences / (1 - confidences))
    assert calibration_error(gaps, labels) == pytest.approx(0.03)


@spec(
    "RM-20",
    "A pair of equal scores has confidence 0.5 and keeps its label.",
    example="Confidence 0.5 with label 0.7 and confidence 0.54 with label 0.34: errors −0.2 and "
    "0.2 in one bin, 0 together.",
)
def test_calibration_error_leaves_a_pair_of_equal_scores_as_it_came(calibration_error):
    """Reversed, the first pair would have label 0.3, and the errors would not cancel."""
    gaps = np.array([0.0, math.log(0.54 / 0.46)])
    assert calibration_error(gaps, np.array([0.7, 0.34])) == pytest.approx(0)


@spec(
    "RM-21",
    "Pairs with confidence 1 count in the calibration error.",
    example="Margins 1000 and −1000. Labels 1 and 0: error 0. Labels 0 and 1: error 1.",
)
def test_calibration_error_takes_certainty(calibration_error):
    """Confidence 1 lies on the upper edge of the last bin, where it is easily left out."""
    certain = np.array([1000.0, -1000.0])
    assert calibration_error(certain, np.array([1.0, 0.0])) == pytest.approx(0)
    assert calibration_error(certain, np.array([0.0, 1.0])) == pytest.approx(1)
