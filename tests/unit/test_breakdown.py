"""A reward model's accuracy in parts: by its confidence, by length, beside a bag of words. By
hand."""

import math

import numpy as np
import pytest

from minirlhf.data import Comparison
from minirlhf.feedback import breakdown
from minirlhf.feedback.baselines import BagOfWords, pairs_of, standard_error
from minirlhf.reward import calibration_error


def logit(p):
    return math.log(p / (1 - p))


def test_margins_are_those_of_the_pairs_in_their_order():
    """A tie of ranks and two equal texts are no pairs."""
    comparisons = [
        Comparison("p", ["a", "b", "c", "a"], [1, 0, 1, 2]),
        Comparison("q", ["x", "y"], [0, 1]),
    ]
    margins, prompts = breakdown.margins_of(comparisons, [[1, 5, 7, 3], [4, 2]])
    assert pairs_of(comparisons) == [("b", "a"), ("b", "c"), ("b", "a"), ("c", "a"), ("x", "y")]
    assert margins.tolist() == [5 - 1, 5 - 7, 5 - 3, 7 - 3, 4 - 2]
    assert prompts == ["p"] * 4 + ["q"]


def test_a_calibration_table_holds_what_was_predicted_and_what_was_observed():
    """Bins of 5%: three pairs at 62% (one of them wrong), two at 97% (right), and one that the
    model orders wrongly with 91%."""
    margins = np.array([logit(0.62), -logit(0.62), logit(0.62), logit(0.97), logit(0.98)])
    margins = np.append(margins, -logit(0.91))
    table = breakdown.calibration(margins, list("aabcde"))
    rows = [(r["from"], r["to"], r["pairs"], r["predicted"], r["observed"]) for r in table]
    expected = [(0.6, 0.65, 3, 0.62, 2 / 3), (0.9, 0.95, 1, 0.91, 0), (0.95, 1, 2, 0.975, 1)]
    for row, values in zip(rows, expected, strict=True):
        assert row == pytest.approx(values)
    assert table[0]["standard_error"] == standard_error([True, False, True], "aab")


def test_the_calibration_error_is_the_mean_gap_of_the_table():
    """The number that train_rm.py logs, and the table, are of one piece."""
    margins = np.random.default_rng(0).normal(0.5, 2, 400)
    table = breakdown.calibration(margins, list(range(400)))
    gap = sum(abs(row["predicted"] - row["observed"]) * row["pairs"] for row in table) / 400
    assert gap == pytest.approx(calibration_error(margins, np.ones(400)))
    assert sum(row["pairs"] for row in table) == 400


def test_lengths_are_quarters_of_the_pairs_and_whether_the_better_one_is_shorter():
    """A model that prefers the shorter one, on eight pairs of mean length 2, 4, ..., 16: right
    where the better one is shorter, and nowhere else."""
    pairs = [("x" * (n - 1 + 2 * (n % 4 == 0)), "x" * (n + 1 - 2 * (n % 4 == 0))) for n in EVEN]
    margins = np.array([len(worse) - len(better) for better, worse in pairs], dtype=float)
    table = {row["group"]: row for row in breakdown.by_length(pairs, margins, list("abcdefgh"))}
    assert [name for name in table if "char" in name] == [
        "2 to 4 characters",
        "6 to 8 characters",
        "10 to 12 characters",
        "14 to 16 characters",
    ]
    assert [row["pairs"] for row in table.values()] == [2, 2, 2, 2, 4, 4]
    accuracies = [row["accuracy"] for row in table.values()]
    assert accuracies == [0.5, 0.5, 0.5, 0.5, 1.0, 0.0]
    assert [row["shorter_wins"] for row in table.values()] == accuracies
    assert table["2 to 4 characters"]["standard_error"] == standard_error([True, False], "ab")


EVEN = range(2, 17, 2)


def test_pairs_of_one_length_are_one_group():
    """Quarters of equal lengths would be four names for one thing."""
    table = breakdown.by_length([("ab", "cd")] * 5, np.ones(5), list("abcde"))
    assert [row["group"] for row in table] == ["2 to 2 characters", "both are as long"]
    assert table[1]["shorter_wins"] == 0.5 and table[1]["accuracy"] == 1


def test_a_bag_of_words_is_measured_on_prompts_that_it_has_not_learned_from(monkeypatch):
    """Each prompt has two comparisons whose words occur nowhere else: only who has seen one of them
    would know the other. And a word that is always the better one is learned from the others."""
    private = [Comparison(f"p{n}", [f"yes{n} ok", f"no{n} ok"], [0, 1]) for n in range(40)]
    assert breakdown.cross_fitted_bag_of_words(private * 2, seed=1) == 0.5
    common = [Comparison(f"p{n}", ["yes ok", "no ok"], [0, 1]) for n in range(40)]
    assert breakdown.cross_fitted_bag_of_words(common * 2, seed=1) == 1.0
    learned = []

    def spy(pairs):
        learned.append(len(pairs))
        return BagOfWords(pairs)

    monkeypatch.setattr(breakdown, "BagOfWords", spy)
    breakdown.cross_fitted_bag_of_words(common, seed=1)
    assert len(learned) == 5 and sum(learned) == 4 * 40


def test_of_one_prompt_a_bag_of_words_can_learn_nothing():
    assert breakdown.cross_fitted_bag_of_words([Comparison("p", ["a", "b"], [0, 1])], 1) is None
