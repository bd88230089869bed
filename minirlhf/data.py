"""The records that the three stages learn from, and the way from records to ids to batches.

What reads them from files is in `minirlhf/formats`.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import torch

from minirlhf.run import distributed
from minirlhf.run.config import SHUFFLE, InputError, rng


class Prompt(str):
    """The text of a prompt that carries other columns of its row, {name: value}, for a reward
    function that asks for them."""

    def __new__(cls, text, columns=None):
        prompt = super().__new__(cls, text)
        prompt.columns = columns or {}
        return prompt

    def __repr__(self):
        """What the fingerprint of a run is made of: the columns too."""
        return super().__repr__() + (f" {self.columns}" if self.columns else "")


@dataclass(frozen=True)
class Demonstration:
    prompt: str
    response: str


@dataclass(frozen=True)
class Labelled:
    """A response that is good or bad by itself."""

    prompt: str
    response: str
    label: bool

    @property
    def responses(self):
        return [self.response]


@dataclass(frozen=True)
class Comparison:
    prompt: str
    responses: list
    ranks: list  # 0 is best, equal ranks tie
    ratings: list | None = None


@dataclass(frozen=True)
class SoftComparison(Comparison):
    """A comparison by a labeller who is not sure: `likely[i][j]` is the probability that response i
    is better than j, and 1 less that of j. Both are 0 where nobody was asked."""

    likely: list | None = None


class Example(NamedTuple):
    """A prompt and a response as ids: `tokens[:prompt_length]`, and the rest with its end token."""

    tokens: list
    prompt_length: int


# ---- records -> ids


def encode_prompt(tokenizer, prompt):
    """text -> list of ids. An empty prompt is one end token.

    Prompt and response are encoded apart and joined as ids, in the same way in every stage.
    """
    return tokenizer.encode(prompt) or [tokenizer.end_token]


def encode(tokenizer, prompt, response):
    """text, text -> Example. A response always ends in the end token: SFT teaches it, and the
    reward model reads its score there."""
    prompt = encode_prompt(tokenizer, prompt)
    return Example(prompt + tokenizer.encode(response) + [tokenizer.end_token], len(prompt))


def fits_context(tokenizer, context, new_tokens=0, drop_long=False):
    """A function `fits(record)` for the readers: whether a Demonstration, a Comparison, or a prompt
    with `new_tokens` more, has at most `context` tokens. Without `drop_long`, a record that does
    not fit is an InputError."""

    def fits(record):
        length = longest_row(tokenizer, record, new_tokens)
        if not drop_long:
            refuse_long(length, context, new_tokens)
        return length <= context

    return fits


def refuse_long(length, context, new_tokens=0):
    """InputError for a row of `length` tokens, `new_tokens` of them sampled, that does not fit."""
    if length <= context:
        return
    rows = f"{length} tokens"
    remedy = "train_sft.py --context sets it, --drop-long leaves out what does not fit"
    if new_tokens:
        rows += f", {new_tokens} of them of --max-new-tokens,"
        remedy = f"lower --max-new-tokens; {remedy}"
    raise InputError(f"{rows} do not fit the context of {context}; {remedy}")


def longest_row(tokenizer, record, new_tokens):
    """The tokens of the longest row that comes from a record: a prompt and `new_tokens` sampled
    ones, or prompt, response and end token."""
    if isinstance(record, str):
        return len(encode_prompt(tokenizer, record)) + new_tokens
    responses = record.responses if isinstance(record, Comparison) else [record.response]
    return max(len(encode(tokenizer, record.prompt, response).tokens) for response in responses)


def fitting_prompts(prompts, tokenizer, context, new_tokens, drop_long):
    """The prompts that leave room for `new_tokens` sampled tokens. InputError if one does not and
    is not to be dropped, or if none is left."""
    fits = fits_context(tokenizer, context, new_tokens, drop_long)
    prompts = [prompt for prompt in prompts if fits(prompt)]
    if not prompts:
        room = f"--max-new-tokens {new_tokens} in a context of {context}"
        remedy = "lower the one or train_sft.py with a larger --context"
        raise InputError(f"no prompt leaves room for {room}; {remedy}")
    return prompts


# ---- what is learned on, and what is held out

SHARE = 0.1  # of the prompts that is held out


def hold_out(records, count, seed):
    """(records to learn on, at most `count` held-out records to measure on); prints their numbers.
    `count` 0 holds nothing out."""
    if not count:
        return records, []
    learned, held_out = split_by_prompt(records, seed)
    prompts = len(set(map(prompt_key, held_out)))
    numbers = f"{len(held_out):,} of {len(records):,} records ({prompts:,} prompts)"
    measured = f"; {count:,} of them are measured" if count < len(held_out) else ""
    print(f"held out: {numbers}, split by prompt, seed {seed}{measured}")
    return learned, held_out[:count]


def split_by_prompt(records, seed):
    """(records to learn on, records held out): about a tenth of the prompts, with all that belongs
    to them. `records` are prompts, Demonstrations or Comparisons.

    A hash of seed and prompt decides, and nothing else, so that every stage holds out the same
    prompts, in whatever file and order they stand. The held-out records come in the order of the
    hash: any beginning of them is a random sample of prompts. Exceptions: a prompt that has more
    than a tenth of the records is learned on; where nothing would be held out, the rarest prompt
    is; and a single prompt cannot be split.
    """
    counts = Counter(map(prompt_key, records))
    if len(counts) < 2:
        return records, []
    places = {key: place(key, seed) for key in counts}
    most = max(1, SHARE * len(records))
    chosen = {key for key, n in counts.items() if n <= most and places[key] < SHARE}
    if not 0 < len(chosen) < len(counts):
        chosen = {min(counts, key=lambda key: (counts[key], places[key]))}
    held_out = [record for record in records if prompt_key(record) in chosen]
    learned = [record for record in records if prompt_key(record) not in chosen]
    return learned, sorted(held_out, key=lambda record: places[prompt_key(record)])


def prompt_key(record):
    """The text that decides: the prompt without differences in white space."""
    prompt = record if isinstance(record, str) else record.prompt
    return " ".join(prompt.split())


def place(key, seed):
    """A number in [0, 1) that depends on text and seed alone."""
    digest = hashlib.blake2b(f"{seed} {key}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


# ---- ids -> batches


def stream(n, start, stop, seed):
    """The indices of records at the positions start, ..., stop - 1 of an endless stream: a new
    permutation of range(n) for every epoch.

    It is a function of the position, so that resuming in the middle needs no saved state.
    """
    epochs = range(start // n, (stop - 1) // n + 1)
    order = np.concatenate([rng(seed, SHUFFLE, epoch).permutation(n) for epoch in epochs])
    return order[start - epochs[0] * n : stop - epochs[0] * n].tolist()


def microbatches(lengths, max_tokens):
    """Split the rows of a batch, given by their lengths, into groups of rows of similar length.
    A group has at most `max_tokens` tokens, padding included; a row that is longer is alone in its
    group. Returns lists of row numbers.

    The gradients of the groups add up to the batch's, whatever the split. That is why sorting is
    allowed here, and not between minibatches.
    """
    groups = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if not groups or (len(groups[-1]) + 1) * lengths[row] > max_tokens:
            groups.append([])
        groups[-1].append(row)
    return groups


def dealt(lengths, max_tokens):
    """`microbatches` for all processes: those of process r of N stand at r, r + N, ..., and an
    empty list where it has no more."""
    hands, parts = distributed.hands(lengths), []
    for rows in hands:
        groups = microbatches([lengths[row] for row in rows], max_tokens)
        parts.append([[rows[i] for i in group] for group in groups])
    return [group for groups in zip_longest(*parts, fillvalue=[]) for group in groups]


def own_microbatches(lengths, max_tokens):
    """`microbatches` for this process."""
    return distributed.own(dealt(lengths, max_tokens))


def collate(examples):  # B Examples -> (B, T), (B,), (B,)
    """Examples -> tokens, prompt_lengths, lengths, on the CPU. The rows are filled with zeros,
    which no result depends on."""
    lengths = torch.tensor([len(example.tokens) for example in examples])
    tokens = torch.zeros(len(examples), int(lengths.max()), dtype=torch.long)
    for row, example in zip(tokens, examples, strict=True):
        row[: len(example.tokens)] = torch.tensor(example.tokens)
    return tokens, torch.tensor([example.prompt_length for example in examples]), lengths
