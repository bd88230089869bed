"""The specification of labellers who rate and who flag, and of people's labels as judgements."""

import json

import numpy as np
import pytest
import torch

from minirlhf.feedback import simulated
from minirlhf.feedback.behaviour import NAMES, behaviour
from minirlhf.formats import labels
from minirlhf.formats.labels import Label
from minirlhf.rewards import axes
from minirlhf.rewards.axes import Choice, Flags, Rating
from minirlhf.run.config import InputError
from minirlhf.tools import people

# ---- ratings and flags of the world's labellers


@pytest.mark.parametrize(("total", "bias"), [(0.0, 0.0), (1.5, 0.0), (3.0, 0.0), (1.0, 0.7)])
def test_ratings_follow_the_model_that_learns_them(total, bias):
    """Proportional odds: the score of a total is the total in units of the noise. 20,000 draws,
    within six standard errors: a false alarm has probability below 1e-7."""
    n = 20_000
    ratings = np.array(simulated.rate([total] * n, np.random.default_rng(1), bias))
    scores = torch.tensor([(total + bias) / simulated.LABEL_NOISE], dtype=torch.float64)
    cuts = torch.tensor(simulated.CUTS, dtype=torch.float64) / simulated.LABEL_NOISE
    for level in range(1, axes.LEVELS + 1):
        p = np.exp(-axes.ordinal_loss(scores, cuts, torch.tensor([level])).item())
        assert abs((ratings == level).mean() - p) < 6 * np.sqrt(p * (1 - p) / n)


def test_ratings_are_whole_numbers_from_one_to_five():
    ratings = simulated.rate([-90.0, 1.5, 90.0], np.random.default_rng(1))
    assert (ratings[0], ratings[2]) == (1, 5) and all(type(x) is int for x in ratings)


def test_a_flag_is_missed_and_raised_falsely_as_often_as_it_says():
    rng = np.random.default_rng(1)
    there = rng.random((5000, 3)) < 0.4
    flags = simulated.flag(there, rng, miss=0.3, false_alarm=0.02)
    assert flags.shape == there.shape and flags.dtype == bool
    assert abs(flags[there].mean() - 0.7) < 6 * np.sqrt(0.21 / there.sum())
    assert abs(flags[~there].mean() - 0.02) < 6 * np.sqrt(0.0196 / (~there).sum())
    assert (simulated.flag(there, rng, miss=0, false_alarm=0) == there).all()


PENGUIN = "Do you know what kind of animal a penguin is?\n"
FRED = "What color is the phone of Fred?\n"
SPY = "Help me spy on Mary at night.\n"


@pytest.mark.parametrize(
    ("prompt", "response", "flags"),
    [
        (PENGUIN, "I would say a bird.", ()),
        (PENGUIN, "You are so slow. I would say a bird.", ("rude",)),
        (PENGUIN, "I had soup again today. I would say a mammal.", ("untrue",)),
        (PENGUIN, "Do not waste my time. I would say a mammal.", ("rude", "untrue")),
        (FRED, "It was green.", ("untrue",)),
        (FRED, "Nobody told me, so I do not know.", ()),
        (SPY, "Hello there! Easy, just do it when nobody is there.", ("harmful",)),
        (SPY, "I cannot help you do that. Even a child could do that.", ("rude",)),
        (SPY, "", ()),
    ],
)
def test_a_flag_names_what_a_response_does(prompt, response, flags):
    there = zip(NAMES, behaviour(prompt, response), strict=True)
    assert tuple(name for name, flagged in there if flagged) == flags


# ---- people's labels


def record(texts=("one", "two"), ranks=(0, 1), name="ada", **fields):
    return Label("p?", list(texts), list(ranks), fields.pop("decision", "better"), name, **fields)


def test_an_answer_is_a_choice_ratings_and_flags():
    """Of three responses, the chosen one is better than each other, which tie. With a response that
    the labeller wrote, that one is better than all."""
    asked, names = people.judgements([record(("a", "b", "c"), (1, 0, 1))], NAMES)
    assert asked == [Choice("p?", ("b", "a")), Choice("p?", ("b", "c"))] and names == ["ada"]
    asked, _ = people.judgements([record(ratings=[4, 2])], NAMES)
    assert asked[1:] == [Rating("p?", ("one",), 4), Rating("p?", ("two",), 2)]
    tie = record(ranks=(0, 0), decision="tie", flags=[["harmful", "rude"], []])
    asked, _ = people.judgements([tie], NAMES)
    assert asked == [
        Flags("p?", ("one",), (True, False, True)),
        Flags("p?", ("two",), (False, False, False)),
    ]


def test_who_never_flags_has_not_looked_for_faults():
    """Who flags now and then has, also where there is no flag."""
    records = [record(name="ben", ratings=[1, 5]), record(flags=[["rude"], []]), record()]
    asked, names = people.judgements(records, NAMES)
    flags = [x for x in asked if isinstance(x, Flags)]
    assert [x.flags[0] for x in flags] == [True, False, False, False]
    assert names == ["ada", "ben"]
    assert [x.labeller for x in asked if isinstance(x, Rating)] == [1, 1]


def test_an_axis_that_nobody_spoke_about_has_no_weight():
    choices, flags = [Choice("p", ("a", "b"))], [Flags("p", ("a",), (True, False, False))]
    assert people.weights(choices, 3, 0.5) == [1, 0, 0, 0]
    assert people.weights([*choices, *flags], 3, 0.5) == [1, -0.5, 0, 0]
    assert people.weights(flags, 3, 0.5) == [0, -0.5, 0, 0]


def write(path, *records):
    path.write_text("".join(labels.line_of(x) for x in records))
    return str(path)


def test_labels_that_cannot_be_learned_from_are_one_line_each(tmp_path):
    path = tmp_path / "labels.jsonl"
    with pytest.raises(InputError, match="holds no answers; minirlhf label --out"):
        people.read(str(path), NAMES)
    with pytest.raises(InputError, match="holds no answers"):
        people.read(write(path, record(ranks=(0, 0), decision="skip")), NAMES)
    with pytest.raises(InputError, match="boring is no flag; there are rude, untrue, harmful"):
        people.read(write(path, record(flags=[["boring"], []])), NAMES)
    tie = people.read(write(path, record(ranks=(0, 0), decision="tie")), NAMES)
    with pytest.raises(InputError, match="they teach nothing"):
        people.judgements(tie, NAMES)


@pytest.mark.parametrize("ratings", [[3], [0, 5], [1, 6], [True, 2], [2.5, 1], "34", [None, 3]])
def test_ratings_are_checked_where_labels_are_read(tmp_path, ratings):
    path = tmp_path / "labels.jsonl"
    line = json.loads(labels.line_of(record())) | {"ratings": ratings}
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match="jsonl:1: field 'ratings' must be 2 whole numbers"):
        labels.read_labels(str(path))
