"""The standard error and the baselines that stand beside a held-out accuracy, by hand."""

import math

import pytest

from minirlhf.data import Comparison
from minirlhf.feedback import baselines
from minirlhf.feedback.baselines import BagOfWords, share_above_zero, standard_error


def test_the_standard_error_is_that_of_a_share():
    """Three of four: the root of 3/4 x 1/4 / 4."""
    assert standard_error([True, True, False, True], "abcd") == pytest.approx(math.sqrt(3 / 64))


def test_pairs_of_one_prompt_count_as_the_one_observation_that_they_are():
    """Four labels that say the same twice are two observations: the root of 1/4 / 2, and not of
    1/4 / 4."""
    assert standard_error([True, True, False, False], "aabb") == pytest.approx(math.sqrt(1 / 8))
    assert standard_error([True, True, False, False], "abcd") == pytest.approx(math.sqrt(1 / 16))


def test_ties_count_half():
    assert share_above_zero([2.0, 0.0, -1.0, 0.5]) == 2.5 / 4


def test_the_weight_of_a_word_is_the_optimum_of_the_penalised_loss():
    """30 pairs that differ in one word, 20 for it and 10 against it. At the optimum
    v (20 sigmoid(-w v) - 10 sigmoid(w v)) = 10 w, with v = log 2, the feature of a word that
    occurs once."""
    model = BagOfWords([("good day", "day")] * 20 + [("day", "good day")] * 10)
    v = math.log(2)
    (margin,) = model.margins([("so good", "so")])
    sigmoid = 1 / (1 + math.exp(-margin))
    assert v * (20 * (1 - sigmoid) - 10 * sigmoid) == pytest.approx(10 * margin / v, rel=1e-3)
    assert 0.1 < margin < math.log(2)
    (four,) = model.margins([("good good good", "")])
    assert four == pytest.approx(2 * margin)  # log(1 + 3) is twice log(1 + 1)


def test_it_knows_words_and_nothing_else():
    """Case, order and unknown words change nothing, to the last bit; a mark is a word."""
    pairs = [("I am sorry, I cannot help.", "Sure, do it!")] * 5
    pairs += [("Sorry, I cannot.", "Sure: first do this.")] * 5
    model = BagOfWords(pairs)
    margins = model.margins(
        [
            ("but SORRY no", "do but no"),
            ("do help I am", "am I help do"),
            ("perhaps", "never"),
            ("it!", "it"),
            ("SORRY", "sorry"),
        ]
    )
    assert margins[0] > 0 > margins[3] and not margins[[1, 2, 4]].any()


def test_a_word_that_occurs_in_one_response_alone_is_not_learned_and_the_vocabulary_is_capped(
    monkeypatch,
):
    """So that the memory of 160,000 pairs stays small."""
    assert not BagOfWords([("a b", "a c")]).margins([("b", "c")]).any()
    pairs = [("a b", "c"), ("a b", "d"), ("a", "c")]
    assert len(BagOfWords(pairs).columns) == 3  # a, b, c
    monkeypatch.setattr(baselines, "VOCABULARY", 1)
    assert list(BagOfWords(pairs).columns) == ["a"]


def test_the_numbers_beside_an_accuracy_are_of_the_same_pairs():
    """A ranking of three with a tie has two pairs; equal texts form none. Prompt p is right on one
    of two, q on one of one."""
    held_out = [
        Comparison("p", ["good day", "bad", "sun"], [0, 1, 1]),
        Comparison("q", ["good", "bad"], [1, 0]),
        Comparison("r", ["bad", "bad"], [0, 1]),
    ]
    training = [Comparison("p", ["good", "bad"], [0, 1])] * 5
    scores = [[1.0, 0.0, 2.0], [0.0, 3.0], [1.0, 0.0]]
    numbers = baselines.baseline_numbers(training, held_out, scores)
    assert numbers["shorter_wins"] == pytest.approx(1 / 3)  # bad before good
    assert numbers["bag_of_words"] == pytest.approx(2 / 3)
    # 2 of 3 are right: p's deviations are 1/3 and -2/3, q's is 1/3.
    assert numbers["held_out_standard_error"] == pytest.approx(math.sqrt(2 / 9) / 3)
    line = baselines.baseline_line(
        "it", numbers | {"held_out_pairs": 3, "held_out_accuracy": 2 / 3}
    )
    assert line == (
        'it is right on 0.667 of 3 held-out pairs (standard error 0.157); "the shorter one wins" '
        "on 0.333, a bag of words on 0.667"
    )


def test_only_pairs_of_the_same_prompt_are_one_observation():
    """Prompts that begin alike are prompts of their own."""
    held_out = [Comparison(f"What is {x}?", ["yes", "no"], [0, 1]) for x in "aabc"]
    scores = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    numbers = baselines.baseline_numbers(held_out, held_out, scores)
    # The deviations are 1/2 + 1/2 of a, -1/2 of b and -1/2 of c.
    assert numbers["held_out_standard_error"] == pytest.approx(math.sqrt(1.5) / 4)


def test_the_bag_of_words_learns_from_the_training_comparisons_alone():
    """Held out, the opposite is preferred: it is wrong on all of them."""
    training = [Comparison("p", ["good", "bad"], [0, 1])] * 5
    held_out = [Comparison("q", ["good", "bad"], [1, 0])] * 9
    numbers = baselines.baseline_numbers(training, held_out, [[0.0, 0.0]] * 9)
    assert numbers["bag_of_words"] == 0.0


def test_without_a_held_out_pair_there_is_no_number():
    """A file whose held-out comparisons all tie."""
    assert baselines.baseline_numbers([], [Comparison("p", ["a", "b"], [0, 0])], [[1, 0]]) == {}
    assert "no held-out pair" in baselines.baseline_line("it", {"held_out_pairs": 0})
