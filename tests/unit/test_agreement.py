"""Agreement of a reward model with those who prefer, on three comparisons worked by hand."""

import math

import numpy as np
import pytest

from minirlhf.data import Comparison
from minirlhf.feedback import agreement
from minirlhf.feedback.simulated import LABEL_NOISE

# Five pairs: b over a; c over a and c over b; z over x. Of the rest d ties with e in rank, and p
# has the text of q.
COMPARISONS = [
    Comparison("one", ["a", "b"], [1, 0]),
    Comparison("two", ["a", "b", "c"], [1, 1, 0]),
    Comparison("three", ["d", "e"], [0, 0]),
    Comparison("four", ["same", "same"], [0, 1]),
    Comparison("five", ["x", "z"], [1, 0]),
]
SCORES = [[0.0, 1.0], [3.0, 0.5, 1.0], [1.0, 2.0], [1.0, 0.0], [2.0, 2.0]]
TOTALS = [[3.0, 1.0], [0.5, 2.0, 2.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.5]]
MARGINS = np.array([1.0, 1.0 - 3.0, 1.0 - 0.5, 0.0])
GAPS = np.array([1.0 - 3.0, 2.0 - 0.5, 0.0, 0.5])


def likely():
    """The probability that a labeller orders each pair as it was ordered."""
    return np.array([1 / (1 + math.exp(-gap / LABEL_NOISE)) for gap in GAPS])


def test_pairs_have_different_texts_and_different_ranks():
    pairs = [agreement.ordered_pairs(c) for c in COMPARISONS]
    assert pairs == [[(1, 0)], [(2, 0), (2, 1)], [], [], [(1, 0)]]


def test_over_the_pairs_a_positive_margin_is_right_and_a_tie_is_wrong():
    """Margins 1, -2, .5 and 0: two of four."""
    numbers = agreement.ranking_numbers(COMPARISONS, SCORES)
    assert numbers["held_out_pairs"] == 4
    assert numbers["held_out_accuracy"] == 2 / 4
    assert numbers["ties"] == 1 / 4
    losses = [math.log(1 + math.exp(-margin)) for margin in MARGINS]
    assert numbers["held_out_loss"] == pytest.approx(sum(losses) / 4)
    assert "expected_accuracy" not in numbers


def test_with_the_judges_totals_each_pair_is_held_against_its_own():
    """Of the first pair the judge prefers the other response; the third has equal totals and does
    not count in the agreement with the judge: 1 of 3, as the margin of the first is wrong, of the
    second wrong, and of the last a tie, which is no preference for the better one."""
    numbers = agreement.ranking_numbers(COMPARISONS, SCORES, TOTALS)
    p = likely()
    expected = [p[0], 1 - p[1], p[2], 1 - p[3]]
    assert numbers["expected_accuracy"] == pytest.approx(np.mean(expected))
    assert numbers["best_possible_accuracy"] == pytest.approx(np.mean([1 - p[0], p[1], 0.5, p[3]]))
    assert numbers["labellers_agree"] == pytest.approx(np.mean(p**2 + (1 - p) ** 2))
    assert numbers["agreement_with_judge"] == 0


def test_the_judge_agrees_where_the_margin_has_the_sign_of_the_totals():
    """A margin above 0 where the labeller preferred what the judge calls worse is against the
    judge; below 0 it is with the judge."""
    scores = [[1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 2.0], [1.0, 0.0], [2.0, 3.0]]
    numbers = agreement.ranking_numbers(COMPARISONS, scores, TOTALS)
    assert numbers["agreement_with_judge"] == 1
    assert numbers["held_out_accuracy"] == 3 / 4


def test_calibration_is_to_the_labellers_where_the_totals_are_known_and_to_the_labels_elsewhere():
    """One pair with confidence sigmoid(2): against 1, or against what a labeller does at a
    difference of .5."""
    one, score = [Comparison("five", ["x", "z"], [1, 0])], [[0.0, 2.0]]
    confidence = 1 / (1 + math.exp(-2))
    plain = agreement.ranking_numbers(one, score)["calibration_error"]
    assert plain == pytest.approx(1 - confidence)
    known = agreement.ranking_numbers(one, score, [[1.0, 1.5]])["calibration_error"]
    assert known == pytest.approx(abs(confidence - 1 / (1 + math.exp(-0.5 / LABEL_NOISE))))


# ---- temperature


def test_the_temperature_has_the_least_loss():
    """A model that is very sure of six pairs and wrong about two of them: of one by 3."""
    margins, labels = np.array([2, 1, -0.5, 3, 1.5, 0.5]), np.array([1, 1, 1, 0, 1, 1])
    T = agreement.temperature(margins, labels)
    assert T == pytest.approx(5.4906494172, abs=1e-9)

    def loss(T):
        return np.logaddexp(0, -np.where(labels, margins, -margins) / T).mean()

    assert (loss(1), loss(T)) == pytest.approx((0.8563907161, 0.6818594507))


def test_labellers_have_the_temperature_one_in_their_own_unit():
    """Totals over the labellers' noise are the log-odds of their labels. In another unit the
    temperature is that unit."""
    gaps = np.random.default_rng(0).integers(-3, 4, 200) / LABEL_NOISE
    sure = 1 / (1 + np.exp(-gaps))
    assert agreement.temperature(gaps, sure) == pytest.approx(1)
    assert agreement.temperature(2.5 * gaps, sure) == pytest.approx(2.5)


def test_without_an_optimum_the_temperature_is_an_end_of_its_range():
    """Margins that are all right could be larger; margins that are all wrong, or 0, say nothing."""
    assert agreement.temperature(np.array([1.0, 2.0]), np.ones(2)) < 0.1
    assert agreement.temperature(np.array([-1.0, -2.0]), np.ones(2)) == math.inf
    assert agreement.temperature(np.zeros(2), np.ones(2)) == math.inf


def test_the_metrics_have_the_temperature_of_the_labels_or_of_what_labellers_do():
    """The margins of the comparisons above, where half of the labels are not what the judge
    says."""
    scores, margins = [[0.0, 1.0], [1.5, 0.5, 1.0], *SCORES[2:]], np.array([1.0, -0.5, 0.5, 0.0])
    plain = agreement.ranking_numbers(COMPARISONS, scores)["temperature"]
    known = agreement.ranking_numbers(COMPARISONS, scores, TOTALS)["temperature"]
    assert plain == agreement.temperature(margins, np.ones(4)) < math.inf
    assert known == agreement.temperature(margins, likely()) != plain


def test_a_score_per_point_is_a_slope_through_zero():
    """Margins 1, -2, .5, 0 at gaps of -2, 1.5, 0, .5."""
    numbers = agreement.ranking_numbers(COMPARISONS, SCORES, TOTALS)
    assert numbers["score_per_point"] == pytest.approx((-2 - 3) / (4 + 2.25 + 0.25))


def test_the_reliability_diagram_bins_pairs_by_how_sure_the_model_is():
    """Margins 1, -2, .5 and 0: right, wrong, right, and a tie, which counts half. In one bin they
    are 2.5 of 4; in ten, each has its own."""
    sure = 1 / (1 + np.exp(-np.abs(MARGINS)))
    [row] = agreement.calibration(COMPARISONS, SCORES, bins=1)
    assert row == {"confidence": pytest.approx(sure.mean()), "accuracy": 2.5 / 4, "pairs": 4}
    rows = agreement.calibration(COMPARISONS, SCORES)
    assert [row["confidence"] for row in rows] == pytest.approx(sorted(sure))
    assert [row["accuracy"] for row in rows] == [0.5, 1, 1, 0]
    assert agreement.calibration(COMPARISONS[2:4], SCORES[2:4]) == []


def test_the_reliability_diagram_has_the_calibration_error_of_the_metrics():
    """Both have the same bins."""
    rng = np.random.default_rng(0)
    comparisons = [Comparison(str(i), ["a", "b"], [0, 1]) for i in range(200)]
    scores = rng.normal(0.3, 2, (200, 2)).tolist()
    rows = agreement.calibration(comparisons, scores)
    error = sum(row["pairs"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / 200
    numbers = agreement.ranking_numbers(comparisons, scores)
    assert error == pytest.approx(numbers["calibration_error"])
