"""What a policy does, in numbers: samples under shared noise, KL, win rates, best-of-n, intervals."""

import math
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from minirlhf import data, model, reward
from minirlhf.generate import generate
from minirlhf.run import compute, config
from minirlhf.run.config import rng

ROWS = 512  # prompts that are sampled together


class Reply(NamedTuple):
    """A sampled response: its text, prompt and response as ids, and whether it came to its end token."""

    text: str
    example: data.Example
    ended: bool

    @property
    def length(self):
        """Response tokens, the end token included."""
        return len(self.example.tokens) - self.example.prompt_length


def noise(seed, n, max_new_tokens, stream=config.HELD_OUT_NOISE):
    """The uniforms of an evaluation: a function of the seed, so that two policies are compared under the same noise."""
    return rng(seed, stream).random((n, max_new_tokens), dtype=np.float32)


def respond(gpt, tokenizer, prompts, uniforms, temperature=1.0, progress=None):
    """texts (N,), uniforms (N, max_new_tokens) -> N replies. `progress` is the caption of a progress bar, if one is wanted."""
    ids = [data.encode_prompt(tokenizer, prompt) for prompt in prompts]
    replies = []
    for start in tqdm(range(0, len(ids), ROWS), desc=progress, disable=progress is None):
        draws = torch.from_numpy(uniforms[start : start + ROWS])
        samples = generate(
            gpt, ids[start : start + ROWS], draws.size(1), tokenizer.end_token, temperature, draws
        )
        replies += unpack(samples, tokenizer)
    return replies


def unpack(samples, tokenizer):
    """Samples -> list of Reply."""
    replies = []
    for tokens, prompt_length, length, ended in zip(*(x.tolist() for x in samples), strict=True):
        text = tokenizer.decode(tokens[prompt_length:length])
        replies.append(Reply(text, data.Example(tokens[:length], prompt_length), ended))
    return replies


def finished(replies):
    """The texts as a judge sees them: a response that did not come to its end counts as an empty one."""
    return [reply.text if reply.ended else "" for reply in replies]


# ---- numbers


def sequence_logprobs(gpt, examples, temperature=1.0, max_tokens=0):
    """The summed log-probability of each example's response, (N,), in nats; `max_tokens` tokens at once (0: what suits the
    device)."""
    sums, max_tokens = (
        torch.zeros(len(examples)),
        compute.pick_microbatch(max_tokens, gpt.device, gpt.config.vocab_size),
    )
    with torch.no_grad():
        for rows in data.microbatches([len(example.tokens) for example in examples], max_tokens):
            tokens, prompt_lengths, lengths = data.collate([examples[row] for row in rows])
            mask = model.response_mask(prompt_lengths, lengths, tokens.size(1))
            sums[rows] = model.logprobs(gpt, tokens, mask, temperature)[0].sum(1).cpu()
    return sums


def kl(gpt, reference, replies, temperature=1.0):
    """k1 of each reply, (N,): log policy - log reference summed over the response, in nats. Its mean estimates the KL."""
    examples = [reply.example for reply in replies]
    return sequence_logprobs(gpt, examples, temperature) - sequence_logprobs(
        reference, examples, temperature
    )


def interval(values):
    """(mean, half the width of its 95% interval) of independent values, by the normal approximation."""
    values = np.asarray(values, dtype=np.float64)
    return float(values.mean()), float(1.96 * values.std(ddof=1) / math.sqrt(len(values))) if len(
        values
    ) > 1 else math.nan


def win_rate(prefer, prompts, first, second):
    """(rate, half interval): how often `first` beats `second`. `prefer(prompts, a, b)` says how likely a is the better, (N,).

    Both orders are asked and averaged, so that a judge who likes whatever comes first (or a tie) gives exactly one half.
    """
    asked = np.asarray(prefer(prompts, first, second), dtype=np.float64)
    swapped = np.asarray(prefer(prompts, second, first), dtype=np.float64)
    return interval((asked + 1 - swapped) / 2)


def wins(first, second):  # (N,), (N,) -> (N,)
    """1 where the first is higher, 1/2 where they tie, 0 where it is lower."""
    return (1 + np.sign(np.asarray(first) - np.asarray(second))) / 2


def by_score(score):
    """A `prefer` from a score: the higher one wins, equals share."""

    def prefer(prompts, first, second):
        return wins(score(prompts, first), score(prompts, second))

    return prefer


def best_of_n_kl(n):
    """KL of best-of-n from the policy it samples, in nats: log n - (n-1)/n (Stiennon et al. 2020, for scores without ties)."""
    return math.log(n) - (n - 1) / n


def candidates(gpt, tokenizer, score, prompts, n, max_new_tokens, seed, temperature=1.0):
    """n replies to each prompt, a list of N lists, and what `score(prompts, replies) -> (N,)` makes of them, (N, n)."""
    repeated = [prompt for prompt in prompts for _ in range(n)]
    replies = respond(
        gpt,
        tokenizer,
        repeated,
        noise(seed, len(repeated), max_new_tokens, config.CANDIDATE_NOISE),
        temperature,
        f"best of {n}",
    )
    scores = np.asarray(score(repeated, replies), dtype=np.float64).reshape(-1, n)
    return [replies[i : i + n] for i in range(0, len(replies), n)], scores


def best(replies, scores, n):
    """Of the first n replies to each prompt the one with the highest score; unfinished ones only if all are."""
    ended = np.array([[reply.ended for reply in own] for own in replies])
    chosen = np.where(ended, scores, -np.inf)[:, :n].argmax(1)
    return [own[column] for own, column in zip(replies, chosen, strict=True)]


def best_of_n(gpt, tokenizer, score, prompts, n, max_new_tokens, seed, temperature=1.0):
    """The best of n replies to each prompt."""
    return best(
        *candidates(gpt, tokenizer, score, prompts, n, max_new_tokens, seed, temperature), n
    )


def score_replies(reward_model, prompts, replies):  # -> (N,) on the CPU
    """Normalised scores of the very ids that were sampled: text that is encoded again may come out
    as other ids."""
    return reward.score_examples(reward_model, [reply.example for reply in replies])
