"""A batch of three rows, no two alike; the longest prompt is not in the longest row."""

import torch

PROMPT_LENGTHS = torch.tensor([1, 3, 6])
LENGTHS = torch.tensor([4, 9, 7])


def random_tokens(B=3, T=9, vocab_size=50, seed=0):
    return torch.randint(vocab_size, (B, T), generator=torch.Generator().manual_seed(seed))
