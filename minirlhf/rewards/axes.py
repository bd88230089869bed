"""A reward from several kinds of judgement: choices between two responses, ratings of one, and
flags that name what is wrong with it.

One trunk has a head for each axis: a score, which choices and ratings teach, and a logit for each
flag. Heads are linear, so that the weighted sum of the axes is one head again: what comes out is a
reward model as train_rm.py makes it, and PPO does not know the difference.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from minirlhf.data import collate, encode, microbatches
from minirlhf.model import ScalarHead
from minirlhf.reward import RewardModel, preference_loss, score_examples
from minirlhf.run import optim
from minirlhf.run.compute import full_precision

LEVELS = 5  # ratings 1 to 5

# ---- judgements


class Choice(NamedTuple):
    prompt: str
    responses: tuple  # the better one, the worse one


class Rating(NamedTuple):
    prompt: str
    responses: tuple  # one
    rating: int  # 1 to LEVELS
    labeller: int = 0


class Flags(NamedTuple):
    prompt: str
    responses: tuple  # one
    flags: tuple  # a bool for each flag of the model


# ---- losses


@full_precision
def ordinal_loss(scores, cuts, ratings):  # (N,), (L-1,), (N,) -> scalar
    """Proportional odds (McCullagh 1980): P(rating <= k) = sigmoid(cut_k - score) with increasing
    `cuts` between the levels 1 to L; the mean of -log P(rating)."""
    infinity = cuts.new_full((1,), math.inf)
    edges = torch.cat([-infinity, cuts, infinity])
    low, high = edges[ratings - 1], edges[ratings]
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which does not cancel.
    width = torch.log(-torch.expm1(low - high))
    return -(F.logsigmoid(high - scores) + F.logsigmoid(scores - low) + width).mean()


@full_precision
def flag_loss(logits, flags):  # (...), (...) bool -> scalar
    """The mean of -log sigmoid(logit) where there is a flag and -log sigmoid(-logit) where not."""
    return F.binary_cross_entropy_with_logits(logits, flags.to(logits.dtype))


# ---- the model


class Axes(RewardModel):
    """A reward model with a head for each flag, and what ratings need: cuts, and for each labeller
    how much higher than the others he or she rates everything."""

    def __init__(self, gpt, flags=(), labellers=1):
        super().__init__(gpt)
        width = gpt.config.width
        heads = [ScalarHead(width, std=1 / math.sqrt(width + 1)) for _ in flags]
        self.flag_heads = nn.ModuleList(heads)
        self.first_cut = nn.Parameter(torch.tensor(-1.5))
        self.steps = nn.Parameter(torch.full((LEVELS - 2,), math.log(math.expm1(1.0))))
        self.biases = nn.Parameter(torch.zeros(labellers))

    def cuts(self):  # -> (LEVELS-1,), increasing
        return self.first_cut + F.pad(F.softplus(self.steps).cumsum(0), (1, 0))

    def axes(self, tokens, lengths):  # (B, T), (B,) -> (B, 1 + flags)
        """The score and the logits of the flags."""
        states = self.features(tokens, lengths)
        return torch.stack([head(states) for head in (self.head, *self.flag_heads)], 1)


def accumulate(model, tokenizer, batch, microbatch_tokens):
    """Backpropagate the mean loss of a batch of judgements, a microbatch at a time. Each judgement
    has the same weight; of one with flags it is the mean over the flags. Returns the loss."""
    encoded = [[encode(tokenizer, x.prompt, text) for text in x.responses] for x in batch]
    sizes = [len(group) * max(len(example.tokens) for example in group) for group in encoded]
    loss = 0.0
    for rows in microbatches(sizes, microbatch_tokens):
        tokens, _, lengths = collate([example for row in rows for example in encoded[row]])
        values = model.axes(tokens.to(model.mean.device), lengths.to(model.mean.device))
        groups = values.split([len(encoded[row]) for row in rows])
        part = summed_loss(model, [batch[row] for row in rows], groups) / len(batch)
        part.backward()
        loss += float(part.detach())
    return loss


def summed_loss(model, judgements, groups):  # N judgements, N (responses, 1 + flags) -> scalar
    """The sum of the losses of judgements of any kind, from the axes of their responses."""
    loss = groups[0].new_zeros(())
    for kind, kind_loss in ((Choice, choice_loss), (Rating, rating_loss), (Flags, flags_loss)):
        pairs = zip(judgements, groups, strict=True)
        pairs = [(judgement, values) for judgement, values in pairs if type(judgement) is kind]
        if pairs:
            same, values = zip(*pairs, strict=True)
            loss = loss + len(same) * kind_loss(model, same, torch.stack(values))
    return loss


def choice_loss(model, choices, values):  # N Choices, (N, 2, 1 + flags) -> scalar
    return preference_loss(values[:, 0, 0], values[:, 1, 0])


def rating_loss(model, ratings, values):  # N Ratings, (N, 1, 1 + flags) -> scalar
    """What a labeller's own bias explains is not learned as reward."""
    device = values.device
    biases = model.biases[torch.tensor([x.labeller for x in ratings], device=device)]
    levels = torch.tensor([x.rating for x in ratings], device=device)
    return ordinal_loss(values[:, 0, 0] + biases, model.cuts(), levels)


def flags_loss(model, flagged, values):  # N Flags, (N, 1, 1 + flags) -> scalar
    flags = torch.tensor([x.flags for x in flagged], device=values.device)
    return flag_loss(values[:, 0, 1:], flags)


def train(model, tokenizer, batches, lr, warmup, microbatch_tokens, max_grad_norm=1.0):
    """An optimiser step for each batch of judgements. Yields (step, metrics)."""
    optimizer = optim.adamw(model, lr)
    for step, batch in enumerate(batches):
        optim.set_learning_rate(optimizer, lr * optim.cosine(step, len(batches), warmup))
        loss = accumulate(model, tokenizer, batch, microbatch_tokens)
        grad_norm = nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optim.require_finite(step, loss=loss, grad_norm=grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        yield step, {"loss": loss, "grad_norm": float(grad_norm)}


# ---- one reward


@torch.no_grad()
def combined(model, tokenizer, comparisons, weights):  # N Comparisons of K, (1 + flags,)
    """A RewardModel whose score is the sum of the axes, each normalised on the responses of
    `comparisons` and then times its weight. Not normalised first, an axis counts by how wide its
    numbers happen to be."""
    result = bare(model)
    examples = [encode(tokenizer, c.prompt, text) for c in comparisons for text in c.responses]
    weight, bias = torch.zeros_like(model.head.weight), torch.zeros_like(model.head.bias)
    for head, factor in zip((model.head, *model.flag_heads), weights, strict=True):
        if factor:
            result.head.load_state_dict(head.state_dict())
            result.normalise(score_examples(result, examples, raw=True).view(len(comparisons), -1))
            weight += factor / result.std * head.weight
            bias += factor / result.std * (head.bias - result.mean)
    result.head.load_state_dict({"weight": weight, "bias": bias})
    result.normalise(score_examples(result, examples, raw=True).view(len(comparisons), -1))
    return result


def bare(model):
    """A copy of `model` as a RewardModel."""
    with torch.random.fork_rng(devices=[]):  # the head that it draws is replaced
        result = RewardModel(model.gpt).to(model.mean.device)
    result.head.load_state_dict(model.head.state_dict())
    return result
