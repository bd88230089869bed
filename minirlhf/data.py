"""The records that the three stages learn from, and records -> ids -> batches.

Readers of files are in `minirlhf/formats`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from minirlhf.run.config import SHUFFLE, InputError, rng


@dataclass(frozen=True)
class Demonstration:
    prompt: str
    response: str


@dataclass(frozen=True)
class Comparison:
    prompt: str
    responses: list
    ranks: list  # 0 is best, equal ranks tie
    ratings: list | None = None


class Example(NamedTuple):
    """A prompt and a response as ids, `tokens[:prompt_length]` and the rest, the end token included."""

    tokens: list
    prompt_length: int


# ---- records -> ids


def encode_prompt(tokenizer, prompt):
    """Prompt and response are encoded apart and joined as ids, in every stage alike. An empty prompt is one end token."""
    return tokenizer.encode(prompt) or [tokenizer.end_token]


def encode(tokenizer, prompt, response):
    """-> Example. A response always ends in the end token: it is what SFT teaches and where the reward model reads."""
    prompt = encode_prompt(tokenizer, prompt)
    return Example(prompt + tokenizer.encode(response) + [tokenizer.end_token], len(prompt))


def fits_context(tokenizer, context, new_tokens=0, drop_long=False):
    """A `fits` for the readers. A record that does not fit is dropped with `drop_long`, and otherwise an error."""

    def fits(record):
        responses = getattr(record, "responses", None) or [getattr(record, "response", "")]
        if isinstance(record, str):  # a prompt, with room for what will be sampled
            need = len(encode_prompt(tokenizer, record)) + new_tokens
        else:
            need = max(
                len(encode(tokenizer, record.prompt, response).tokens) for response in responses
            )
        if need > context and not drop_long:
            remedy = "train_sft.py --context sets it, --drop-long leaves out what does not fit"
            raise InputError(f"{need} tokens do not fit the context of {context}; {remedy}")
        return need <= context

    return fits


def informative(comparisons):
    """Those with a better and a worse response: where everything ties there is nothing to learn."""
    kept = [c for c in comparisons if len(set(c.ranks)) > 1]
    if not kept:
        raise InputError("every comparison is a tie; nothing can be learned from them")
    return kept


# ---- ids -> batches


def stream(n, start, stop, seed):
    """The record indices at positions start..stop-1 of an endless stream: one permutation of range(n) after another.

    A function of the position, so that resuming in the middle needs no saved state; every record comes once an epoch.
    """
    epochs = range(start // n, (stop - 1) // n + 1)
    order = np.concatenate([rng(seed, SHUFFLE, epoch).permutation(n) for epoch in epochs])
    return order[start - epochs[0] * n : stop - epochs[0] * n].tolist()


def microbatches(lengths, max_tokens):
    """Split rows 0..len(lengths)-1 into groups of similar length with at most `max_tokens` tokens each, padding counted.

    Gradients of the groups add up to the batch's whatever the split, so the groups may be sorted; minibatches must not be.
    A row longer than `max_tokens` is a group of its own.
    """
    groups = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if not groups or (len(groups[-1]) + 1) * lengths[row] > max_tokens:
            groups.append([])
        groups[-1].append(row)
    return groups


def collate(examples):
    """Examples -> tokens (B, T), prompt_lengths (B,), lengths (B,), on the CPU. Zeros fill the rows; nothing ever sees them."""
    lengths = torch.tensor([len(example.tokens) for example in examples])
    tokens = torch.zeros(len(examples), int(lengths.max()), dtype=torch.long)
    for row, example in zip(tokens, examples, strict=True):
        row[: len(example.tokens)] = torch.tensor(example.tokens)
    return tokens, torch.tensor([example.prompt_length for example in examples]), lengths
