"""The specification of the heads for ratings and flags, and of the one reward that is made of
them."""

import numpy as np
import pytest
import torch
from helpers import gradient

import train_rm
from minirlhf import data, reward
from minirlhf.data import Comparison
from minirlhf.feedback import simulated
from minirlhf.rewards import axes
from minirlhf.rewards.axes import Choice, Flags, Rating
from minirlhf.tokenizer import get_tokenizer

FLAGS = ("rude", "untrue")


@pytest.fixture
def tokenizer():
    return get_tokenizer()


@pytest.fixture
def model(make_gpt, tokenizer):
    """Three labellers, two flags, and weights everywhere."""
    model = axes.Axes(make_gpt(tokenizer.vocab_size, context=64), FLAGS, labellers=3)
    with torch.no_grad():
        model.biases.copy_(torch.tensor([0.0, 1.0, -2.0]))
        for head in model.flag_heads:
            head.bias.normal_()
    return model


CHOICES = [Choice("a?", ("one", "two and three")), Choice("b b?", ("x", "y y")), Choice("c", "de")]
RATINGS = [Rating("a?", ("one",), 5, 1), Rating("b?", ("four and five",), 1, 2)]
FLAGGED = [Flags("a?", ("one",), (True, False)), Flags("c?", ("y y",), (False, False))]
ALL = [CHOICES[0], RATINGS[0], FLAGGED[0], *CHOICES[1:], RATINGS[1], FLAGGED[1]]


def values(model, tokenizer, judgement):
    """The axes of its responses, one row at a time."""
    rows = [data.encode(tokenizer, judgement.prompt, text) for text in judgement.responses]
    return torch.cat([model.axes(*data.collate([row])[::2]) for row in rows])


def test_choices_are_learned_as_train_rm_learns_them(model, tokenizer):
    """The same loss, and the same gradient of trunk and head."""
    comparisons = [Comparison(c.prompt, list(c.responses), [0, 1]) for c in CHOICES]
    loss, _ = train_rm.accumulate(model, tokenizer, comparisons, 1000)
    expected = gradient(model)
    assert axes.accumulate(model, tokenizer, CHOICES, 1000) == pytest.approx(loss)
    torch.testing.assert_close(gradient(model), expected)


def test_the_loss_is_the_mean_over_judgements_of_any_kind(model, tokenizer):
    """Held against the formulas, one judgement at a time."""
    losses = []
    for judgement in ALL:
        rows = values(model, tokenizer, judgement)
        if isinstance(judgement, Choice):
            losses.append(-torch.log(torch.sigmoid(rows[0, 0] - rows[1, 0])))
        elif isinstance(judgement, Rating):
            cuts = model.cuts() - model.biases[judgement.labeller] - rows[0, 0]
            edges = [0.0, *torch.sigmoid(cuts).tolist(), 1.0]
            p = edges[judgement.rating] - edges[judgement.rating - 1]
            losses.append(-torch.log(torch.tensor(p)))
        else:
            signs = torch.tensor([1.0 if flag else -1.0 for flag in judgement.flags])
            losses.append(-torch.log(torch.sigmoid(signs * rows[0, 1:])).mean())
    expected = torch.stack(losses).mean().item()
    assert axes.accumulate(model, tokenizer, ALL, 1000) == pytest.approx(expected, rel=1e-4)


def test_no_split_into_microbatches_changes_the_gradient(model, tokenizer):
    loss = axes.accumulate(model, tokenizer, ALL, 1000)
    expected = gradient(model)
    assert (expected != 0).float().mean() > 0.01
    assert axes.accumulate(model, tokenizer, ALL, 1) == pytest.approx(loss)
    torch.testing.assert_close(gradient(model), expected, rtol=1e-4, atol=1e-6)


def test_the_cuts_increase_whatever_is_learned(model):
    with torch.no_grad():
        model.steps.copy_(torch.tensor([-30.0, 0.0, 9.0]))
    cuts = model.cuts().tolist()
    assert len(cuts) == axes.LEVELS - 1 and cuts == sorted(cuts)
    assert cuts[0] == model.first_cut.item()


def comparisons(n=6):
    rng = np.random.default_rng(1)
    words = "one two three four five six".split()
    return [Comparison(f"{i}?", rng.choice(words, 3).tolist(), [0] * 3) for i in range(n)]


def axis_scores(model, tokenizer, records):  # -> (N, K, 1 + flags)
    rows = [[data.encode(tokenizer, c.prompt, t) for t in c.responses] for c in records]
    with torch.no_grad():
        return torch.stack([model.axes(*data.collate(group)[::2]) for group in rows])


def raw(model, tokenizer, records):
    return torch.tensor(reward.score_comparisons(model, tokenizer, records))


def test_the_reward_is_the_sum_of_the_normalised_axes_times_their_weights(model, tokenizer):
    """Mean 0 and within-prompt standard deviation 1 each, on the records; on others, by the same
    numbers."""
    records, others = comparisons(), comparisons(20)[12:]
    weights = 1.0, -0.5, -2.0
    result = axes.combined(model, tokenizer, records, weights)
    table = axis_scores(model, tokenizer, records)
    mean = table.mean((0, 1))
    std = table.var(1, correction=1).mean(0).sqrt()
    for group in (records, others):
        normalised = (axis_scores(model, tokenizer, group) - mean) / std
        expected = (normalised * torch.tensor(weights)).sum(-1)
        torch.testing.assert_close(raw(result, tokenizer, group), expected, rtol=1e-4, atol=1e-4)


def test_one_axis_alone_is_that_axis(model, tokenizer):
    """Up to the zero and the unit of its scores; normalised they are the same numbers."""
    records = comparisons()
    result = axes.combined(model, tokenizer, records, (1.0, 0.0, 0.0))
    table = axis_scores(model, tokenizer, records)[..., 0]
    expected = (table - table.mean()) / table.var(1, correction=1).mean().sqrt()
    torch.testing.assert_close(raw(result, tokenizer, records), expected, rtol=1e-4, atol=1e-4)
    assert result.std == pytest.approx(1, abs=1e-4) and result.mean == pytest.approx(0, abs=1e-4)


def test_no_scale_or_zero_of_an_axis_changes_the_reward(model, tokenizer):
    """A head whose numbers are ten times as wide does not count ten times as much."""
    records, weights = comparisons(), (1.0, -1.0, -1.0)
    expected = raw(axes.combined(model, tokenizer, records, weights), tokenizer, records)
    with torch.no_grad():
        model.flag_heads[0].weight *= 10
        model.flag_heads[0].bias += 3
    result = raw(axes.combined(model, tokenizer, records, weights), tokenizer, records)
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)


def test_the_reward_is_a_reward_model_and_nothing_random_is_touched(model, tokenizer):
    state = torch.get_rng_state()
    result = axes.combined(model, tokenizer, comparisons(), (1.0, -1.0, 0.0))
    assert type(result) is reward.RewardModel
    assert torch.equal(torch.get_rng_state(), state)
    names = reward.RewardModel(model.gpt).state_dict().keys()
    assert result.state_dict().keys() == names


# ---- learning


class Scores(torch.nn.Module):
    """A free score for each of n responses, with the cuts and biases of Axes."""

    def __init__(self, n, labellers):
        super().__init__()
        self.scores = torch.nn.Parameter(torch.zeros(n))
        self.first_cut = torch.nn.Parameter(torch.tensor(-1.5))
        self.steps = torch.nn.Parameter(torch.zeros(axes.LEVELS - 2))
        self.biases = torch.nn.Parameter(torch.zeros(labellers))
        self.cuts = axes.Axes.cuts.__get__(self)


def test_ratings_by_people_with_different_zeros_give_the_truth_back():
    """Four responses, 400 ratings each by two labellers, of whom the second rates everything higher
    and saw mostly the worst ones. With a bias for each the scores have the true distances."""
    rng, totals, biases = np.random.default_rng(1), np.arange(4.0), (0.0, 1.8)
    ratings = []
    for labeller, counts in ((0, (100, 300, 500, 700)), (1, (700, 500, 300, 100))):
        for response, n in enumerate(counts):
            given = simulated.rate([totals[response]] * n, rng, biases[labeller])
            ratings += [(response, labeller, rating) for rating in given]
    responses, labellers, levels = torch.tensor(ratings).T
    found = {}
    for pooled in (False, True):
        model = Scores(4, 2)
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100)

        def closure(model=model, optimizer=optimizer, pooled=pooled):
            optimizer.zero_grad()
            bias = model.biases[labellers * (not pooled)]
            loss = axes.ordinal_loss(model.scores[responses] + bias, model.cuts(), levels)
            loss.backward()
            return loss

        optimizer.step(closure)
        found[pooled] = (model.scores[3] - model.scores[0]).item() * simulated.LABEL_NOISE
        if not pooled:
            difference = (model.biases[1] - model.biases[0]).item() * simulated.LABEL_NOISE
            assert difference == pytest.approx(1.8, abs=0.2)
    assert found[False] == pytest.approx(3, abs=0.25)
    assert found[True] < 2.3  # who takes all for one person's ratings sees less than there is


def test_training_lowers_the_loss_of_all_kinds(model, tokenizer):
    batches = [ALL] * 12
    losses = [stats["loss"] for _, stats in axes.train(model, tokenizer, batches, 0.003, 2, 1000)]
    assert len(losses) == 12 and losses[-1] < 0.5 * losses[0]
