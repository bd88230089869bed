"""Sample responses for a batch of unequal prompts, with a cache, in the layout that training uses."""

from typing import NamedTuple

import torch

from minirlhf.model import KVCache

CHECK_EVERY = 4  # tokens between two looks at how many rows are alive: each look makes a GPU wait for its queue to empty


class Samples(NamedTuple):
    tokens: torch.Tensor  # (B, T) prompt, response, anything
    prompt_lengths: torch.Tensor  # (B,)
    lengths: torch.Tensor  # (B,) prompt and response, the end token included
    ended: torch.Tensor  # (B,) bool: the response has its end token


@torch.no_grad()
def generate(gpt, prompts, max_new_tokens, end_token, temperature=1.0, uniforms=None, generator=None):
    """Pure ancestral sampling from softmax(logits / temperature), argmax at temperature 0: no top-k, no top-p, nothing forced.

    All randomness is `uniforms (B, max_new_tokens)` in [0, 1): token t of row b is the inverse CDF at `uniforms[b, t]`. So a
    row does not depend on its neighbours, and two policies can be compared under the same noise. Without `uniforms` they are
    drawn from `generator`. Raises ValueError where a prompt is empty or prompt + max_new_tokens exceeds the context.
    """
    device = gpt.device
    lengths = [len(prompt) for prompt in prompts]
    if min(lengths, default=0) == 0:
        raise ValueError("an empty prompt, or none, gives the model nothing to continue: use one end token")
    if max(lengths) + max_new_tokens > gpt.config.context:
        raise ValueError(
            f"a prompt of {max(lengths)} tokens and {max_new_tokens} new ones do not fit a context of {gpt.config.context}"
        )
    if uniforms is None:
        uniforms = torch.rand(len(prompts), max_new_tokens, generator=generator)
    if uniforms.shape != (len(prompts), max_new_tokens):
        raise ValueError(f"uniforms must be {(len(prompts), max_new_tokens)}, got {tuple(uniforms.shape)}")
    tokens = torch.full((len(prompts), max(lengths) + max_new_tokens), end_token)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    prompt_lengths = torch.tensor(lengths).to(device)
    tokens, uniforms = tokens.to(device), uniforms.to(device)
    # Autocast keeps its bf16 copies of weights (of those that learn) until the outermost context ends: here each is made once.
    with torch.autocast(device.type, enabled=False):
        tokens, new_tokens, ended = decode(gpt, tokens, max(lengths), prompt_lengths, uniforms, end_token, temperature)
    lengths = prompt_lengths + new_tokens
    return Samples(tokens[:, : int(lengths.max())], prompt_lengths, lengths, ended)


def decode(gpt, tokens, prefill, prompt_lengths, uniforms, end_token, temperature):
    """Fill `tokens` right of the prompts. Returns tokens, how many were added to each row (B,), and which rows ended (B,)."""
    new_tokens = torch.zeros_like(prompt_lengths)
    ended = torch.zeros_like(prompt_lengths, dtype=torch.bool)
    cache = KVCache(prompt_lengths, columns=tokens.size(1))
    rows = torch.arange(len(tokens), device=tokens.device)  # where each row of the shrinking batch lives in `tokens`
    last = torch.arange(prefill, device=tokens.device) == prompt_lengths[:, None] - 1
    hidden = gpt.hidden(tokens[:, :prefill], cache, wanted=last)[rows, prompt_lengths - 1]  # (B, C) at the last prompt token
    for step in range(uniforms.size(1)):
        alive = ~ended[rows]
        chosen = choose(gpt.head(hidden), uniforms[rows, step], temperature)  # (B,)
        chosen = torch.where(alive, chosen, end_token)  # a finished row's position is its end token's: it rewrites that
        tokens[rows, cache.positions] = chosen
        new_tokens[rows] += alive
        ended[rows] |= chosen == end_token
        if step + 1 == uniforms.size(1):
            break
        if step % CHECK_EVERY == CHECK_EVERY - 1:
            rows, chosen = shrink(cache, rows, chosen, ended)
            if not len(rows):
                break
        cache.used = prefill + step + 1
        hidden = gpt.hidden(chosen[:, None], cache)[:, 0]
        cache.advance(~ended[rows])
    return tokens, new_tokens, ended


def choose(logits, uniforms, temperature):  # (B, V), (B,) -> (B,)
    """The inverse CDF of softmax(logits / temperature) at `uniforms`."""
    if temperature == 0:
        return logits.argmax(-1)
    cdf = torch.softmax(logits / temperature, dim=-1).cumsum(-1)
    # In float32 the last entry is not exactly 1. Right-sided: a token of probability 0 has an empty interval.
    chosen = torch.searchsorted(cdf, uniforms[:, None] * cdf[:, -1:], right=True)
    return chosen.squeeze(1).clamp(max=logits.size(-1) - 1)


def shrink(cache, rows, chosen, ended):
    """Drop finished rows. The living from beyond the new size take the places of the dead before it: hardly a row moves."""
    alive = ~ended[rows]
    size = int(alive.sum())
    if size < len(rows):
        source, to = size + alive[size:].nonzero().squeeze(1), (~alive[:size]).nonzero().squeeze(1)
        cache.keep(size, to, source)
        rows[to], chosen[to] = rows[source], chosen[source]
    return rows[:size], chosen[:size]
