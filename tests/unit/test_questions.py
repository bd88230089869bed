"""The specification of what a person is asked, of the text on the screen, and of how often people
agree."""

import io
from collections import Counter

import pytest

from minirlhf.data import Comparison
from minirlhf.feedback import labellers, questions, screen
from minirlhf.feedback.questions import Question
from minirlhf.formats.labels import Label

ASKED = [Question(f"{i}?", ("a", "b", "c")) for i in range(40)]


# ---- what is asked


def test_texts_that_look_the_same_are_asked_about_once_or_never():
    """White space is nothing that a person sees."""
    asked = questions.questions(
        [
            Comparison("one", ["same", " same \n"], [0, 1]),
            Comparison("two", ["a", "b", "a", "c"], [0, 0, 0, 0]),
            Comparison("three", ["x", "y"], [0, 1]),
            Comparison("three ", ["y", "x "], [0, 1]),
            Comparison("four", ["cut"], [0]),
        ]
    )
    assert [question.prompt for question in asked] == ["two", "three"]
    assert sorted(asked[0].responses) == ["a", "b", "c"]


def test_all_labellers_get_the_questions_in_one_order_that_the_seed_decides():
    order = questions.in_random_order(ASKED, seed=1)
    assert order == questions.in_random_order(ASKED, seed=1) != ASKED
    assert sorted(order) == sorted(ASKED)
    assert order != questions.in_random_order(ASKED, seed=2)


def test_the_responses_are_shuffled_for_each_question_labeller_and_seed():
    """Each response stands first about as often as each other one; the same question comes back the
    same, in whatever order its responses are read."""
    asked = [Question(f"{i}?", ("a", "b", "c")) for i in range(300)]
    shown = [questions.blind(question, "ada", 1) for question in asked]
    assert all(set(question.responses) == {"a", "b", "c"} for question in shown)
    counts = Counter(question.responses[0] for question in shown)
    assert all(70 < counts[text] < 130 for text in "abc")  # 3.7 standard deviations
    turned = [question._replace(responses=question.responses[::-1]) for question in asked]
    assert shown == [questions.blind(question, "ada", 1) for question in turned]
    for other in (("ben", 1), ("ada", 2)):
        assert shown != [questions.blind(question, *other) for question in asked]


def test_what_a_labeller_answered_is_not_asked_again_and_what_another_one_did_is():
    first = Label(" 0? ", ["b", "c\n", "a", "own"], [1, 1, 2, 0], "skip", "ada", written=True)
    second = Label("1?", ["a", "b"], [0, 1], "better", "ada")  # other responses
    third = Label("2?", ["a", "b", "c"], [0, 0, 0], "tie", "ben")
    left = questions.unanswered(ASKED, [first, second, third], "ada")
    assert left == ASKED[1:]


# ---- the screen


def test_text_is_wrapped_between_words_and_words_that_are_too_long_anywhere():
    text = "one two three\n\nfour fivesixseveneightnine"
    lines = screen.wrapped(text, "1  ", size=13)
    assert lines == [
        "1  one two",
        "   three",
        "   ",
        "   four",
        "   fivesixsev",
        "   eneightnin",
        "   e",
    ]


def test_wide_characters_count_twice_and_accents_not_at_all():
    lines = screen.wrapped("\u4f60\u597d\u4f60\u597d\u4f60", size=7)
    assert lines == ["\u4f60\u597d\u4f60", "\u597d\u4f60"]
    assert screen.wrapped("e\u0301" * 7, size=7) == ["e\u0301" * 7]


def test_control_sequences_never_reach_the_terminal():
    """A title-setting sequence, a carriage return that hides text, a right-to-left override."""
    lines = screen.wrapped("a\x1b]0;title\x07b\rhidden \u202eback\tend", size=60)
    assert all(line.isprintable() for line in lines)
    assert "title" in " ".join(lines) and "hidden" in " ".join(lines)


def test_an_empty_text_is_said_to_be_one():
    assert screen.wrapped("\n", "2  ") == ["2  (an empty text)"]


def test_without_a_terminal_the_screen_is_not_cleared(monkeypatch):
    output = io.StringIO()
    monkeypatch.setattr("sys.stdout", output)
    monkeypatch.setenv("TERM", "xterm")
    screen.clear()
    assert output.getvalue() == ""


# ---- agreement


def label(number, name, best, kind="better", flags=None):
    ranks = [int(best == "b"), int(best == "a")]
    return Label(f"{number}?", ["a", "b"], ranks, kind, name, flags=flags)


def tie(number, name):
    return label(number, name, None, "tie")


# Of five questions both answered (not 5, which ben skipped): alike are 0, 1 and 4.
LABELS = [
    *(label(n, "ada", "a") for n in (0, 1, 2)),
    tie(3, "ada"),
    tie(4, "ada"),
    label(5, "ada", "b", flags=[["rude"], ["rude", "untrue"]]),
    label(0, "ben", "a"),
    Label("1?", ["b", "a"], [1, 0], "better", "ben"),  # shown the other way round
    label(2, "ben", "b"),
    label(3, "ben", "a"),
    tie(4, "ben"),
    label(5, "ben", None, "skip"),
    label(9, "cy", "a"),
]


def test_agreement_of_two_labellers_by_hand():
    """Chance: both tie with 2/5 times 1/5, and choose the same of two blindly with half of 3/5
    times 4/5. Neither saw a tie in 0, 1 and 2, of which two are alike."""
    ((first, second, both, alike, error, chance, kappa, decided, same),) = labellers.agreement_rows(
        LABELS
    )
    assert (first, second, both) == ("ada", "ben", 5)
    assert alike == 3 / 5 and error == pytest.approx((0.6 * 0.4 / 5) ** 0.5)
    assert chance == pytest.approx(2 / 5 * 1 / 5 + 3 / 5 * 4 / 5 / 2)
    assert kappa == pytest.approx((0.6 - 0.32) / (1 - 0.32))
    assert (decided, same) == (3, pytest.approx(2 / 3))


def test_the_last_answer_of_a_labeller_counts_and_a_written_one_is_no_choice():
    again = [*LABELS, label(2, "ben", "a")]
    assert labellers.agreement_rows(again)[0][3] == 4 / 5
    own = Label("2?", ["a", "b", "own"], [1, 2, 0], "better", "ben", written=True)
    assert labellers.agreement_rows([*LABELS, own])[0][3] == 4 / 5


def test_each_labeller_has_a_row_of_counts():
    """ada: six answers, two of them ties; of four choices three fell on the first response."""
    rows = labellers.labeller_rows(LABELS)
    assert rows[0] == ["ada", 6, 2 / 6, 0, 3 / 4, "2 rude, 1 untrue"]
    assert rows[1] == ["ben", 5, 1 / 5, 1, 2 / 4, "-"]
    assert rows[2] == ["cy", 1, 0.0, 0, 1.0, "-"]
