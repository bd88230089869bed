"""The specification of the D-optimal design, on the numbers of a sheet worked by hand."""

import numpy as np
import pytest

from minirlhf import reward
from minirlhf.data import encode
from minirlhf.feedback import design
from minirlhf.feedback.design import Design
from minirlhf.feedback.questions import Question
from minirlhf.tokenizer import get_tokenizer

ROWS = [np.array([row]) for row in ([1.0, 0.0], [0.6, 0.6], [2.0, 0.0], [0.0, 0.5])]  # a b c d


def test_the_order_is_that_of_the_sheet():
    """V = I. The gains are 1, .72, 4, .25: c; then .2, .432, -, .25: b; then .1899 and .1872: a."""
    assert Design(2, ridge=1.0).order(ROWS) == [2, 1, 0, 3]


def test_the_determinant_grows_by_the_gains_of_the_sheet():
    state = Design(2, ridge=1.0)
    gains = []
    for row in (2, 1, 0):
        gains.append(np.log1p(ROWS[row][0] @ state.inverse @ ROWS[row][0]))
        state.add(ROWS[row][0])
    assert gains == pytest.approx([1.6094379124, 0.3590720685, 0.1739063599], abs=1e-10)
    expected = [[0.1596244131, -0.0422535211], [-0.0422535211, 0.7464788732]]
    assert state.inverse == pytest.approx(np.array(expected), abs=1e-10)


def test_the_inverse_stays_exact_after_a_thousand_updates():
    rng, state = np.random.default_rng(1), Design(8)
    table = rng.normal(size=(1000, 8))
    for direction in table:
        state.add(direction)
    exact = np.linalg.inv(np.eye(8) / 8 + table.T @ table)
    assert np.abs(state.inverse - exact).max() < 1e-10


def test_each_step_is_the_one_after_which_the_determinant_is_largest():
    """Against the determinants themselves."""
    rng = np.random.default_rng(2)
    rows = [rng.normal(size=(1, 4)) for _ in range(12)]
    V, left, order = np.eye(4) / 4, set(range(12)), []
    while left:
        best = max(left, key=lambda i: np.linalg.det(V + rows[i].T @ rows[i]))
        V, order = V + rows[best].T @ rows[best], [*order, best]
        left.remove(best)
    assert Design(4).order(rows) == order


def test_the_order_goes_on_from_what_was_asked():
    """Whoever stops after some questions goes on in the order that was begun."""
    rng = np.random.default_rng(3)
    rows = [rng.normal(size=(1, 4)) for _ in range(12)]
    order = Design(4).order(rows)
    assert Design(4).order(rows, first=order[:5]) == order[5:]
    assert Design(4).order(rows, first=[order[-1]]) != order[:-1]


def test_the_first_few_of_an_order_are_those_of_the_whole_order():
    """Nobody asks all questions of a pool; the rest need not be put in order."""
    rng = np.random.default_rng(3)
    rows = [rng.normal(size=(1, 4)) for _ in range(12)]
    order = Design(4).order(rows)
    assert Design(4).order(rows, count=5) == order[:5]
    assert Design(4).order(rows, first=order[:3], count=4) == order[3:7]
    assert Design(4).order(rows, first=order[:3], count=40) == order[3:]


def test_with_a_huge_ridge_the_longest_direction_comes_first():
    """V is then as good as constant: where the scale of the states is left to chance, so is the
    rule."""
    rows = list(np.random.default_rng(9).normal(size=(12, 1, 4)))
    lengths = [-np.square(row).sum() for row in rows]
    assert Design(4, ridge=1e9).order(rows) == np.argsort(lengths).tolist()
    assert Design(4).order(rows) != np.argsort(lengths).tolist()


def test_a_pair_of_equal_states_comes_last():
    """It has no direction, so that its label says nothing."""
    rows = [np.zeros((1, 4)), *(np.random.default_rng(8).normal(size=(5, 1, 4)))]
    assert Design(4).order(rows)[-1] == 0


def test_the_order_of_a_pairs_responses_and_a_turn_of_the_space_change_nothing():
    rng = np.random.default_rng(4)
    rows = [rng.normal(size=(1, 5)) for _ in range(20)]
    turn, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    order = Design(5).order(rows)
    assert Design(5).order([-row for row in rows]) == order
    assert Design(5).order([row @ turn for row in rows]) == order


def test_of_three_responses_all_three_pairs_count():
    states = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    pairs = design.differences(states)
    assert sorted(map(tuple, np.abs(pairs))) == [(0, 2), (1, 0), (1, 2)]
    narrow = np.array([[1.2, 0.0], [0.0, 0.0], [0.0, 0.0]])  # one longer pair than the first's
    assert Design(2, ridge=1.0).order([narrow, pairs]) == [1, 0]


def test_no_column_of_the_states_decides_alone():
    """Raw states have a few columns that are a hundred times as wide as the others."""
    rng = np.random.default_rng(5)
    groups = [rng.normal(size=(2, 4)) for _ in range(50)]
    wide = [group * [100, 1, 1, 1] for group in groups]
    for left, right in zip(design.scaled(groups), design.scaled(wide), strict=True):
        assert left == pytest.approx(right)
    lengths = [np.square(design.differences(g)).sum() for g in design.scaled(wide)]
    assert np.mean(lengths) == pytest.approx(1)
    design.scaled([np.ones((2, 4))])  # equal states: nothing to divide by


def test_the_states_are_those_that_the_score_is_read_from(make_gpt):
    """The score is the head of the state, whatever rows go through the model together."""
    tokenizer = get_tokenizer()
    model = reward.RewardModel(make_gpt(tokenizer.vocab_size))
    asked = [Question("a?", ("one", "two and three")), Question("b b b?", ("four", "x", "y y"))]
    groups = design.last_states(model, tokenizer, asked)
    assert [group.shape for group in groups] == [(2, 16), (3, 16)]
    for question, group in zip(asked, groups, strict=True):
        examples = [encode(tokenizer, question.prompt, text) for text in question.responses]
        scores = reward.score_examples(model, examples, raw=True)
        head = group @ model.head.weight.detach().numpy()[0] + model.head.bias.item()
        assert head == pytest.approx(scores.numpy(), abs=1e-4)


def test_the_optimal_order_begins_with_what_was_answered_and_has_every_question():
    asked = [Question(f"{i}?", ("a", "b")) for i in range(6)]
    table = dict(zip(asked, np.random.default_rng(6).normal(size=(6, 2, 3)), strict=True))

    def states(questions):
        return [table[question] for question in questions]

    order = design.in_optimal_order(asked, [], states)
    assert sorted(order) == asked and order != asked
    answered = [Question("4?", ("b", "a")), Question("unknown?", ("a", "b"))]
    after = design.in_optimal_order(asked, answered, states)
    assert after[0] == asked[4] and sorted(after) == asked
