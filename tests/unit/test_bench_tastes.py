"""`python -m minirlhf.bench.tastes`: the table and the figure follow from the measurements."""

import pytest

from minirlhf.bench import tastes
from minirlhf.data import Comparison
from minirlhf.feedback.questions import Question
from minirlhf.feedback.tastes import TASTES, short


def results():
    """Of two seeds; the accuracy is made of the number of labels, the order and the seed."""
    return [
        {
            "taste": name,
            "order": order,
            "labels": n,
            "seed": seed,
            "ties": 0.25 * seed,
            "held_out_accuracy": n / 1000 + 0.1 * seed + 0.2 * (order == "optimal"),
            "held_out_pairs": 10.0,
        }
        for seed in (1, 2)
        for name in TASTES
        for order in tastes.ORDERS
        for n in tastes.SIZES
    ]


def test_a_row_has_the_mean_over_seeds_for_each_number_of_labels():
    rows = tastes.summary(results())
    assert rows[0] == ["rude", "random", "0.175", "0.200", "0.250", "0.300", "0.450", 0.375]
    assert rows[1][:3] == ["rude", "optimal", "0.375"]
    assert [row[:2] for row in rows] == [[t, o] for t in TASTES for o in tastes.ORDERS]


def test_a_scripted_choice_is_a_comparison():
    question = Question("p", ("longer", "short"))
    assert tastes.choice(question, short) == Comparison("p", ["longer", "short"], [1, 0])
    tie = tastes.choice(Question("p", ("ab", "cd")), short)
    assert tie.ranks == [0, 0]


def test_the_figure_is_a_file(tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    tastes.draw(pyplot, results(), tmp_path / "new" / "taste.png")
    assert (tmp_path / "new" / "taste.png").read_bytes().startswith(b"\x89PNG")
