"""Tensors that the sentences are about: three unlike rows, with prompts of 1, 3 and 2 tokens,
responses of 4, 1 and 6 tokens and one column of padding more; and random batches of that kind."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import settings
from hypothesis import strategies as st

PROMPT_LENGTHS, LENGTHS = torch.tensor([1, 3, 2]), torch.tensor([5, 4, 8])


def response_mask(prompt_lengths, lengths, T):
    """(B, T-1), as a loop: True in column t where token t + 1 belongs to the response."""
    mask = torch.zeros(len(lengths), T - 1, dtype=torch.bool)
    spans = zip(prompt_lengths.tolist(), lengths.tolist(), strict=True)
    for row, (prompt, length) in enumerate(spans):
        mask[row, prompt - 1 : length - 1] = True
    return mask


MASK = response_mask(PROMPT_LENGTHS, LENGTHS, 9)  # (3, 8): columns 0-3, 2, 1-6
SCORES = torch.tensor([0.5, -3.0, 1.5])
JUNK = pytest.mark.parametrize("junk", [1e9, -1e9, math.nan])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ragged(n, seed=0, mask=MASK):
    """n random (B, T-1) tensors, zero outside the mask."""
    return [torch.where(mask, x, 0.0) for x in normal(n, *mask.shape, seed=seed)]


def spoil(x, junk, mask=MASK):
    return torch.where(mask, x, junk)


def row(*numbers):
    return torch.tensor([numbers], dtype=torch.float32)


def rows(*numbers):
    return torch.tensor(numbers, dtype=torch.float32)


@st.composite
def batches(draw):
    """(mask, seed) of a random ragged batch, from one row of one token on, often with padding."""
    spans = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=5))
    prompt_lengths = torch.tensor([prompt for prompt, _ in spans])
    lengths = torch.tensor([prompt + response for prompt, response in spans])
    T = int(lengths.max()) + draw(st.integers(0, 3))
    return response_mask(prompt_lengths, lengths, T), draw(st.integers(0, 10_000))


random_batches = settings(max_examples=30, deadline=None, derandomize=True)


def stat(stats, name):
    """A metric by minirlhf's name. One that an implementation does not record is not offered."""
    if name not in stats:
        raise NotImplementedError(f"{name} is not recorded")
    return float(stats[name])


def naive_ranking_loss(scores, ranks):
    """InstructGPT's equation 1 as loops: the mean over prompts of the mean over ordered pairs."""
    losses = []
    for row, order in zip(scores, ranks.tolist(), strict=True):
        K = range(len(order))
        pairs = [(i, j) for i in K for j in K if 0 <= order[i] < order[j]]
        if pairs:
            losses.append(sum(-F.logsigmoid(row[i] - row[j]) for i, j in pairs) / len(pairs))
    return sum(losses) / len(losses)
