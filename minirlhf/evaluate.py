"""A policy in numbers: samples under shared noise, KL, win rates, best-of-n, intervals."""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from minirlhf import data, model, ppo, reward
from minirlhf.generate import Samples, generate
from minirlhf.run import compute, config, distributed
from minirlhf.run.config import rng

ROWS = 512  # prompts that are sampled together
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 1 to 9 degrees


class Reply(NamedTuple):
    """A sampled response as text and as ids; `responses` elsewhere are texts."""

    text: str  # without the end token
    example: data.Example  # prompt and response as ids, the end token included if there is one
    ended: bool  # whether it came to its end token

    @property
    def length(self):
        """Response tokens, the end token included."""
        return len(self.example.tokens) - self.example.prompt_length


# ---- samples


def noise(seed, n, max_new_tokens, stream=config.HELD_OUT_NOISE):  # -> (n, max_new_tokens) numpy
    """The uniforms of an evaluation. They are a function of the seed, so that two policies are
    compared under the same noise."""
    return rng(seed, stream).random((n, max_new_tokens), dtype=np.float32)


def respond(gpt, tokenizer, prompts, uniforms, temperature=1.0, progress=None):
    # N texts, (N, max_new_tokens) numpy -> N Replies
    """A response to each prompt. `progress` is the caption of a progress bar; None: no bar.
    InputError if a prompt leaves no room for max_new_tokens in the context."""
    ids = [data.encode_prompt(tokenizer, prompt) for prompt in distributed.mine(prompts)]
    uniforms, replies = distributed.mine(uniforms), []
    longest = max(map(len, ids), default=0) + uniforms.shape[1]
    data.refuse_long(longest, gpt.config.context, uniforms.shape[1])
    for start in tqdm(range(0, len(ids), ROWS), desc=progress, disable=progress is None):
        rows = slice(start, start + ROWS)
        draws = torch.from_numpy(uniforms[rows])
        end_token = tokenizer.end_token
        samples = generate(gpt, ids[rows], draws.size(1), end_token, temperature, draws)
        replies += unpack(samples, tokenizer)
    return distributed.gathered(replies)


def unpack(samples, tokenizer):
    """Samples -> list of Reply."""
    replies = []
    for tokens, prompt_length, length, ended in zip(*(x.tolist() for x in samples), strict=True):
        text = tokenizer.decode(tokens[prompt_length:length])
        replies.append(Reply(text, data.Example(tokens[:length], prompt_length), ended))
    return replies


def gathered(samples, replies):
    """The samples and replies of all processes, of rows that `distributed.mine` gave."""
    if distributed.world() == 1:
        return samples, replies
    replies, device = distributed.gathered(replies), samples.tokens.device
    samples = packed(replies)
    return samples._replace(
        tokens=samples.tokens.to(device), ended=samples.ended.to(device)
    ), replies


def packed(replies):
    """Replies -> Samples, the reverse of `unpack`."""
    ended = torch.tensor([reply.ended for reply in replies])
    tokens, *lengths = data.collate([reply.example for reply in replies])
    return Samples(tokens, *lengths, ended)


def finished(replies):
    """The texts as a judge sees them: a response without its end token counts as an empty one."""
    return [reply.text if reply.ended else "" for reply in replies]


def score_replies(reward_model, prompts, replies):  # N texts, N Replies -> (N,) on the CPU
    """Normalised scores of the very ids that were sampled: text that is encoded again may come out
    as other ids."""
    return reward.score_examples(reward_model, [reply.example for reply in replies])


def final_scores(score, missing_end_score, prompts, replies):  # N texts, N Replies -> (N,)
    """What PPO maximises, and what every evaluation calls the score: `score(prompts, replies)`, and
    the missing-end score of a reply that was cut off. A score read in mid-sentence means
    nothing."""
    ended = torch.tensor([reply.ended for reply in replies])
    return ppo.missing_end_rule(score(prompts, replies), ended, missing_end_score)


def model_scores(reward_model, missing_end_score):
    """`final_scores` of a reward model, as a function (prompts, replies) -> (N,)."""
    return partial(final_scores, partial(score_replies, reward_model), missing_end_score)


# ---- KL


def sequence_logprobs(gpt, examples, temperature=1.0, max_tokens=0):  # N Examples -> (N,), CPU
    """The log-probability of each example's response, in nats, summed over its tokens. `max_tokens`
    tokens go through the model at once (0: what suits the device)."""
    max_tokens = compute.pick_microbatch(max_tokens, gpt.device, gpt.config.vocab_size)
    sums = torch.zeros(len(examples))
    with torch.no_grad():
        sizes = [len(example.tokens) for example in examples]
        for rows in data.own_microbatches(sizes, max_tokens):
            tokens, prompt_lengths, lengths = data.collate([examples[row] for row in rows])
            mask = model.response_mask(prompt_lengths, lengths, tokens.size(1))
            logprobs, _ = model.logprobs(gpt, tokens, mask, temperature)
            sums[rows] = logprobs.sum(1).cpu()
    return distributed.total(sums)


def kl(gpt, reference, replies, temperature=1.0):  # N Replies -> (N,) on the CPU
    """k1 of each reply: log policy - log reference, in nats, summed over the response. Its mean
    over samples of the policy estimates KL(policy || reference)."""
    examples = [reply.example for reply in replies]
    logprobs = sequence_logprobs(gpt, examples, temperature)
    return logprobs - sequence_logprobs(reference, examples, temperature)


# ---- intervals and win rates


def interval(values, clusters=None):  # (N,) numbers, (N,) labels -> two floats
    """(mean, half the width of its 95% interval). The half width of a single cluster is NaN.

    Values with one label may depend on one another in any way: answers about one fact are right or
    wrong together, and a thousand of them do not tell more facts. The standard error is the
    cluster-robust one, from the sums of the deviations in each cluster, with Student's t on
    (clusters - 1) degrees. Without labels every value is a cluster of its own, and it is the usual
    one. For paired differences the values are the differences (Miller 2024, *Adding Error Bars to
    Evals*, section 2).
    """
    values = np.asarray(values, dtype=np.float64)
    labels = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    _, cluster_numbers = np.unique(labels, return_inverse=True)
    sums = np.bincount(cluster_numbers, values - values.mean())
    if len(sums) < 2:
        return float(values.mean()), math.nan
    error = math.sqrt(len(sums) / (len(sums) - 1) * np.square(sums).sum()) / len(values)
    return float(values.mean()), t95(len(sums) - 1) * error


def t95(n):
    """The 97.5% quantile of Student's t with n degrees of freedom: from the table, and from 10
    degrees on by the expansion of Abramowitz and Stegun, 26.7.5."""
    if n <= len(T95):
        return T95[n - 1]
    return 1.959964 + 2.372271 / n + 2.822497 / n**2 + 2.555850 / n**3


def win_rate(prefer, prompts, first, second):
    """(rate, half the width of its 95% interval): how often `first` beats `second`.
    `prefer(prompts, a, b) -> (N,)` is the probability that a response of `a` is the better one.

    Both orders are judged and averaged, so that a judge that prefers whatever comes first, and a
    judge that always ties, give exactly one half.
    """
    direct = np.asarray(prefer(prompts, first, second), dtype=np.float64)
    reverse = np.asarray(prefer(prompts, second, first), dtype=np.float64)
    return interval((direct + 1 - reverse) / 2)


def wins(first, second):  # (N,), (N,) -> (N,) numpy
    """1 where the first is higher, 1/2 where they tie, 0 where it is lower."""
    return (1 + np.sign(np.asarray(first) - np.asarray(second))) / 2


def by_score(score):
    """The `prefer` of `win_rate` that goes by `score(prompts, responses) -> (N,)`: the higher score
    wins, equal ones tie."""

    def prefer(prompts, first, second):
        return wins(score(prompts, first), score(prompts, second))

    return prefer


# ---- best of n


def best_of_n_kl(n):
    """KL(best-of-n || the policy it samples), in nats: log n - (n-1)/n, for scores without ties
    (Stiennon et al. 2020)."""
    return math.log(n) - (n - 1) / n


def candidates(gpt, tokenizer, score, prompts, n, max_new_tokens, seed, temperature=1.0):
    # N texts -> N lists of n Replies, (N, n) numpy
    """n replies to each prompt, and what `score(prompts, replies)` makes of each."""
    repeated = [prompt for prompt in prompts for _ in range(n)]
    uniforms = noise(seed, len(repeated), max_new_tokens, config.CANDIDATE_NOISE)
    replies = respond(gpt, tokenizer, repeated, uniforms, temperature, f"best of {n}")
    scores = np.asarray(score(repeated, replies), dtype=np.float64).reshape(-1, n)
    return [replies[i : i + n] for i in range(0, len(replies), n)], scores


def best(groups, scores, n):  # N lists of Replies, (N, at least n) numpy -> N Replies
    """Of the first n replies to each prompt the one with the highest score; of equal ones the
    first."""
    columns = scores[:, :n].argmax(1)
    return [group[column] for group, column in zip(groups, columns, strict=True)]


def best_of_n(gpt, tokenizer, score, prompts, n, max_new_tokens, seed, temperature=1.0):
    """The best of n replies to each prompt; see `candidates` and `best`."""
    groups, scores = candidates(
        gpt, tokenizer, score, prompts, n, max_new_tokens, seed, temperature
    )
    return best(groups, scores, n)
