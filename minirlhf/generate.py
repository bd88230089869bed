"""Sample responses for a batch of unequal prompts, with a cache, in the layout of training."""

from typing import NamedTuple

import torch

from minirlhf.model import response_mask

CHECK_EVERY = 4  # tokens between two counts of the unfinished rows: each makes the CPU wait


class Samples(NamedTuple):
    tokens: torch.Tensor  # (B, T) prompt, response, anything
    prompt_lengths: torch.Tensor  # (B,)
    lengths: torch.Tensor  # (B,) prompt and response, the end token included
    ended: torch.Tensor  # (B,) bool: the response has its end token

    @property
    def mask(self):  # (B, T-1) bool, on the device of the lengths
        """True in the columns that choose a response token."""
        return response_mask(self.prompt_lengths, self.lengths, self.tokens.size(1))


class KVCache:
    """The keys and values of ragged rows.

    Row b's next token goes to column `positions[b]` and sees the columns up to it. The first pass
    takes the prompts, all rows from column 0, and leaves each row's position at its prompt length.
    It also writes right of a short prompt, which is harmless: a row overwrites a column before it
    first sees it.

    Each pass of the model calls `begin` once and `update` once per layer; after a decoding pass the
    sampler calls `advance`.
    """

    def __init__(self, prompt_lengths, columns):
        self.positions = prompt_lengths.clone()  # (B,)
        self.rows = torch.arange(len(prompt_lengths), device=prompt_lengths.device)
        self.columns = columns
        self.keys, self.values = [], []  # one (B, H, columns, D) per layer, in attention's dtype

    def begin(self, T):  # -> (T,) or (B, 1): the positions of this pass's tokens
        """The first pass is the prefill; in every later one each row adds one token. `filled`, S,
        counts the columns that a row may have written to."""
        if not self.keys:
            self.filled = T
            return torch.arange(T, device=self.positions.device)
        # A finished row writes its last column again, so that no column beyond the last is filled.
        self.filled = min(self.filled + 1, self.columns)
        columns = torch.arange(self.filled, device=self.positions.device)
        self.visible = (columns <= self.positions[:, None])[:, None, None]
        return self.positions[:, None]

    def update(self, layer, k, v):  # (B, H, T, D) x 2 -> (B, H, S, D) x 2, (B, 1, 1, S) or None
        """Store a layer's new keys and values. Returns the keys and values that the new tokens
        attend to, and which of them they may see; None, in the prefill, stands for causal."""
        if layer == len(self.keys):  # the prefill: this layer has stored nothing yet
            self.keys.append(self.stored(k))
            self.values.append(self.stored(v))
            return k, v, None
        # Row b, column positions[b]; both sides are (B, H, D).
        self.keys[layer][self.rows, :, self.positions] = k[:, :, 0]
        self.values[layer][self.rows, :, self.positions] = v[:, :, 0]
        keys, values = self.keys[layer], self.values[layer]
        return keys[:, :, : self.filled], values[:, :, : self.filled], self.visible

    def stored(self, x):  # (B, H, T, D) -> (B, H, columns, D)
        B, H, T, D = x.shape
        store = x.new_zeros(B, H, self.columns, D)  # zeros: 0 * NaN would reach the output
        store[:, :, :T] = x
        return store

    def advance(self, unfinished):  # (B,) bool
        self.positions += unfinished  # a finished row stays where it is, inside the buffer

    def compact(self, size, target, source):  # int, (N,), (N,)
        """Move the rows `source` to the places `target`, and go on with the first `size` rows."""
        for store in (self.positions, *self.keys, *self.values):
            store[target] = store[source]
        self.positions, self.rows = self.positions[:size], self.rows[:size]
        self.keys = [keys[:size] for keys in self.keys]
        self.values = [values[:size] for values in self.values]


@torch.no_grad()
def generate(
    gpt, prompts, max_new_tokens, end_token, temperature=1.0, uniforms=None, generator=None
):  # B lists of ids -> Samples
    """Ancestral sampling from softmax(logits / temperature), argmax at temperature 0: no top-k, no
    top-p, no token forced or forbidden.

    All randomness is `uniforms (B, max_new_tokens)` in [0, 1): token t of row b is the inverse CDF
    at `uniforms[b, t]`. So a row does not depend on its neighbours, and two policies can be
    compared under the same noise. Without `uniforms` they are drawn from `generator`. Raises
    ValueError where a prompt is empty or prompt + max_new_tokens exceeds the context.
    """
    lengths = [len(prompt) for prompt in prompts]
    check_lengths(lengths, max_new_tokens, gpt.config.context)
    if uniforms is None:
        uniforms = torch.rand(len(prompts), max_new_tokens, generator=generator)
    if uniforms.shape != (len(prompts), max_new_tokens):
        shape = (len(prompts), max_new_tokens)
        raise ValueError(f"uniforms must be {shape}, got {tuple(uniforms.shape)}")
    tokens = torch.full((len(prompts), max(lengths) + max_new_tokens), end_token)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    prompt_lengths = torch.tensor(lengths).to(gpt.device)
    tokens, uniforms = tokens.to(gpt.device), uniforms.to(gpt.device)
    # Autocast keeps its bf16 copies of weights until the outermost context ends: with this one
    # around the loop, each copy is made once.
    with torch.autocast(gpt.device.type, enabled=False):
        response_lengths, ended = decode(
            gpt, tokens, max(lengths), prompt_lengths, uniforms, end_token, temperature
        )
    lengths = prompt_lengths + response_lengths
    return Samples(tokens[:, : int(lengths.max())], prompt_lengths, lengths, ended)


@torch.no_grad()
def stream_response(gpt, prompt, uniforms, end_token, temperature=1.0):  # ids, (N,) -> ids
    """One row of `generate`, for whoever wants to read along: yields the ids of the response one at
    a time, each as soon as it is sampled. At the same uniforms they are the same."""
    check_lengths([len(prompt)], len(uniforms), gpt.config.context)
    tokens = torch.tensor([prompt], device=gpt.device)  # (1, T), in later passes (1, 1)
    cache = KVCache(torch.tensor([len(prompt)], device=gpt.device), len(prompt) + len(uniforms))
    for step, uniform in enumerate(uniforms.to(gpt.device)):
        hidden = gpt.hidden(tokens, cache)[:, -1]  # (1, C)
        cache.advance(step > 0)  # the prefill has left the position right of the prompt
        tokens = choose(gpt.head(hidden), uniform[None], temperature)[:, None]
        yield tokens.item()
        if tokens.item() == end_token:
            return


def check_lengths(lengths, max_new_tokens, context):
    if min(lengths, default=0) == 0:
        raise ValueError(
            "an empty prompt, or none, gives the model nothing to continue: use one end token"
        )
    if max(lengths) + max_new_tokens > context:
        raise ValueError(
            f"a prompt of {max(lengths)} tokens and {max_new_tokens} new ones do not fit a "
            f"context of {context}"
        )


def decode(gpt, tokens, longest_prompt, prompt_lengths, uniforms, end_token, temperature):
    # (B, T), int, (B,), (B, max_new_tokens) -> (B,), (B,) bool
    """Write a response right of each prompt, into `tokens`. Returns the lengths of the responses,
    and which of them have their end token."""
    response_lengths = torch.zeros_like(prompt_lengths)
    ended = torch.zeros_like(prompt_lengths, dtype=torch.bool)
    cache = KVCache(prompt_lengths, columns=tokens.size(1))
    rows = torch.arange(len(tokens), device=tokens.device)  # (R,) rows that are still sampled
    last = torch.arange(longest_prompt, device=tokens.device) == prompt_lengths[:, None] - 1
    hidden = gpt.hidden(tokens[:, :longest_prompt], cache, wanted=last)  # (B, T, C)
    hidden = hidden[rows, prompt_lengths - 1]  # (B, C)
    for step in range(uniforms.size(1)):
        unfinished = ~ended[rows]
        next_tokens = choose(gpt.head(hidden), uniforms[rows, step], temperature)  # (R,)
        # A finished row's position is that of its end token, which is written again.
        next_tokens = torch.where(unfinished, next_tokens, end_token)
        tokens[rows, cache.positions] = next_tokens
        response_lengths[rows] += unfinished
        ended[rows] |= next_tokens == end_token
        if step + 1 == uniforms.size(1):
            break
        if step % CHECK_EVERY == CHECK_EVERY - 1:
            rows, next_tokens = drop_finished(cache, rows, next_tokens, ended)
            if not len(rows):
                break
        hidden = gpt.hidden(next_tokens[:, None], cache)[:, 0]  # (R, C)
        cache.advance(~ended[rows])
    return response_lengths, ended


def choose(logits, uniforms, temperature):  # (B, V), (B,) -> (B,)
    """The inverse CDF of softmax(logits / temperature) at `uniforms`."""
    if temperature == 0:
        return logits.argmax(-1)
    cdf = torch.softmax(logits / temperature, dim=-1).cumsum(-1)
    # In float32 the CDF ends near 1, so that the uniform is scaled to its last entry; rounding may
    # still reach that entry, hence the clamp. right=True never draws a token of probability 0.
    ids = torch.searchsorted(cdf, uniforms[:, None] * cdf[:, -1:], right=True)
    return ids.squeeze(1).clamp(max=logits.size(-1) - 1)


def drop_finished(cache, rows, next_tokens, ended):
    """The rows to go on with, and their tokens. Unfinished rows from beyond the new size take the
    places of finished ones before it, so that few rows move. `rows` and `next_tokens` change in
    place."""
    unfinished = ~ended[rows]
    size = int(unfinished.sum())
    if size < len(rows):
        source = size + unfinished[size:].nonzero().squeeze(1)
        target = (~unfinished[:size]).nonzero().squeeze(1)
        cache.compact(size, target, source)
        rows[target], next_tokens[target] = rows[source], next_tokens[source]
    return rows[:size], next_tokens[:size]
