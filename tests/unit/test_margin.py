"""The specification of the margin by difference of ratings in train_rm.py."""

from types import SimpleNamespace

import pytest
import torch

import train_rm
from minirlhf import reward
from minirlhf.data import Comparison
from minirlhf.run.config import InputError

RATED = Comparison("p", ["a", "b", "c"], [1, 0, 2], [3, 5, 0])
UNRATED = Comparison("p", ["a", "b"], [0, 1])
RANKS = torch.tensor([[1, 0, 2], [0, 1, -1]])
SCORES = torch.tensor([[0.3, 0.1, -0.2], [1.0, 0.5, 9.0]])


def test_the_margin_of_a_pair_is_the_difference_of_its_ratings():
    """Half a point of score for a point of rating; without ratings there is no margin, and what is
    no response has none."""
    margins = train_rm.rating_margins([RATED, UNRATED], RANKS, 0.5)
    assert margins[0].tolist() == [[0, -1, 1.5], [1, 0, 2.5], [-1.5, -2.5, 0]]
    assert not margins[1].any()


def test_the_ranking_loss_with_margins_is_the_mean_of_its_pairs_losses():
    """Each as preference_loss, Llama 2's, has it: b beats a by 1, a beats c by 1.5, b beats c by
    2.5."""
    margins = train_rm.rating_margins([RATED, UNRATED], RANKS, 0.5)
    a, b, c = SCORES[0]
    pairs = [(b, a, 1.0), (a, c, 1.5), (b, c, 2.5)]
    losses = [reward.preference_loss(x[None], y[None], margin) for x, y, margin in pairs]
    other = reward.preference_loss(SCORES[1, :1], SCORES[1, 1:2])
    expected = (sum(losses) / 3 + other) / 2
    assert torch.allclose(reward.ranking_loss(SCORES, RANKS, margins), expected)


def test_without_a_margin_the_loss_is_what_it_was_to_the_bit():
    assert train_rm.rating_margins([RATED], RANKS[:1], 0.0) == 0.0
    plain, zero = (reward.ranking_loss(SCORES, RANKS, *m) for m in ((), (torch.zeros(2, 3, 3),)))
    assert plain == zero


@pytest.mark.parametrize("ratings", [[3, 5], [3, "5", 0], [3, None, 0]])
def test_ratings_that_do_not_fit_the_responses_are_refused_where_they_count(ratings):
    """Else a margin would belong to another response."""
    args = SimpleNamespace(margin=0.5)
    bad = Comparison("p", ["a", "b", "c"], [1, 0, 2], ratings)
    with pytest.raises(InputError, match="--margin 0.5: the ratings .* not one number a response"):
        train_rm.refuse_margin(args, [RATED, bad])
    with pytest.raises(InputError, match="--margin 0.5: the comparisons have no ratings"):
        train_rm.refuse_margin(args, [UNRATED])
    train_rm.refuse_margin(args, [RATED, UNRATED])
    train_rm.refuse_margin(SimpleNamespace(margin=0.0), [bad])


def test_the_margin_reaches_the_gradient_of_a_batch(make_gpt):
    """The flag's way through `accumulate`: the loss with a margin is larger."""
    torch.manual_seed(0)
    model = reward.RewardModel(make_gpt(vocab_size=300))
    tokenizer = SimpleNamespace(encode=lambda text: list(text.encode()), end_token=299)
    batch = [RATED, UNRATED]
    losses = [train_rm.accumulate(model, tokenizer, batch, 100, m)[0] for m in (0.0, 0.5)]
    assert losses[1] > losses[0] + 0.3


def test_the_margins_belong_to_their_comparisons_whatever_the_microbatches(make_gpt):
    """In a batch whose rows are sorted by length, and one of which has no ratings."""
    torch.manual_seed(0)
    model = reward.RewardModel(make_gpt(vocab_size=300))
    tokenizer = SimpleNamespace(encode=lambda text: list(text.encode()), end_token=299)
    batch = [
        Comparison("a longer prompt", ["yes", "no, never"], [0, 1], [9, 1]),
        Comparison("q", ["a", "b", "c"], [0, 1, 2], [3, 2, 0]),
        Comparison("qu", ["a", "b"], [1, 0]),
    ]
    expected, reached = [], []
    for comparison in batch:
        expected.append(train_rm.accumulate(model, tokenizer, [comparison], 1000, 0.5)[0])
    for tokens in (1, 25, 1000):
        reached.append(train_rm.accumulate(model, tokenizer, batch, tokens, 0.5)[0])
    assert reached == pytest.approx([sum(expected) / 3] * 3, rel=1e-5)


@pytest.mark.parametrize(
    ("margin", "loss"),
    [(0, 0.2632824673), (1 / 3, 0.3509035908), (2 / 3, 0.4616224926), (1, 0.5981388694)]
    + [(3, 1.9529776105)],
)
def test_the_loss_with_a_margin_is_that_of_the_sheet(margin, loss):
    """Of two scores that are 1.2 apart."""
    scores = torch.tensor([1.2], dtype=torch.float64), torch.tensor([0.0], dtype=torch.float64)
    assert reward.preference_loss(*scores, margin).item() == pytest.approx(loss, abs=1e-9)


@pytest.mark.parametrize(
    ("wins", "margin", "best"),
    [
        (0.8411308951, 0, 1.6666666667),
        (0.9655548043, 0, 3.3333333333),
        (0.8411308951, 1, 2.4940980329),
        (0.9655548043, 1, 4.3021592663),
    ],
)
def test_with_a_margin_the_best_difference_is_not_the_log_odds(wins, margin, best):
    """Where labellers prefer a response with probability `wins`, the loss is least at log-odds
    without a margin; with one, scores are too far apart, and no longer calibrated."""
    difference = torch.tensor([best], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    expected = wins * reward.preference_loss(difference, zero, margin)
    expected = expected + (1 - wins) * reward.preference_loss(zero, difference, margin)
    expected.backward()
    assert difference.grad.item() == pytest.approx(0, abs=1e-9)
