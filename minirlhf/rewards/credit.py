"""Which tokens of a response earn its score. In PPO the last one earns all of it.

    end         the last token: plain PPO
    uniform     every token the same
    attention   in proportion to the reward model's attention (ABC, Chan et al. 2024)
    prefix      by how much the token has changed the reward model's score of what stands there

All of them add rewards whose sum over a response is 0, so that no response is worth more or less
than its score (at a discount of 1). That keeps the gradient of PPO only for `prefix`. Its rewards
are differences of a potential, a function of the tokens so far (Ng et al. 1999). The weights of
`uniform` and `attention`, and the score that they share out, depend on tokens that come later: what
earlier tokens have been paid is no part of the return of a later one, which then learns from a
share of the score alone.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from minirlhf.data import own_microbatches
from minirlhf.run import distributed
from minirlhf.run.compute import full_precision, pick_microbatch
from minirlhf.run.config import InputError, flag
from minirlhf.run.files import listed

KINDS = ("end", "uniform", "attention", "prefix")
READS_MODEL = ("attention", "prefix")


@dataclass(frozen=True)
class CreditFlags:
    """The flags of a stage that shares a score out among the tokens of a response."""

    credit: str = flag(
        "end",
        "which tokens earn the score: the last, every token the same, those that the reward model "
        "attends to, or those that change its score of the prefix",
        choices=KINDS,
    )
    credit_share: float = flag(
        0.5, "the share of the score that --credit moves away from the last token", low=0, high=1
    )


# ---- the rewards that are added, (B, T-1), their sum over a response 0


@full_precision
def redistribute(scores, weights, mask, share):  # (B,), (B, T-1) x 2, number -> (B, T-1)
    """A share of each score moves from the last response token to all of them, by `weights`, which
    are scaled to a sum of 1 over the response. Where that sum is 0, every token has the same."""
    weights = torch.where(mask, weights.to(scores.dtype), 0.0)
    total = weights.sum(1, keepdim=True)
    even = mask / mask.sum(1, keepdim=True).clamp(min=1)
    weights = torch.where(total > 0, weights / torch.where(total > 0, total, 1.0), even)
    return share * scores[:, None] * (weights - last_token(mask).to(scores.dtype))


@full_precision
def shaping(potentials, mask):  # (B, T-1), (B, T-1) -> (B, T-1)
    """Potential after a token minus potential before it. Column t of `potentials` is that of the
    prefix which the token of column t completes; those of the prompt and of the end are 0."""
    after = torch.where(mask & ~last_token(mask), potentials, 0.0)
    before = torch.where(mask, F.pad(after[:, :-1], (1, 0)), 0.0)
    return after - before


def last_token(mask):  # (B, T-1) -> (B, T-1) bool
    """True in the column of the last response token."""
    columns = torch.arange(mask.size(1), device=mask.device)
    return mask & (columns == torch.where(mask, columns, -1).max(1, keepdim=True).values)


# ---- what a reward model says of single tokens


@torch.no_grad()
def last_attention(gpt, tokens, lengths):  # (B, T), (B,) -> (B, T)
    """The attention of the last layer from the last real token to every token, a mean over heads.
    SDPA returns no weights, so this is the layer by hand, for one query a row."""
    B, T = tokens.shape
    columns = torch.arange(T, device=tokens.device)
    x = gpt.token_embedding(tokens) + gpt.position_embedding(columns)  # (B, T, C)
    for block in gpt.blocks[:-1]:
        x = block(x)
    last = gpt.blocks[-1]
    qkv = last.attention.qkv(last.norm1(x)).view(B, T, 3, last.attention.heads, -1)
    q = qkv[torch.arange(B, device=tokens.device), lengths - 1, 0]  # (B, H, D)
    logits = torch.einsum("bhd,bthd->bht", q, qkv[:, :, 1]) / math.sqrt(q.size(-1))
    logits = logits.masked_fill((columns >= lengths[:, None])[:, None], -torch.inf)
    return logits.softmax(-1).mean(1)


@torch.no_grad()
def prefix_scores(reward_model, tokens, lengths):  # (B, T), (B,) -> (B, T)
    """The normalised score of every prefix: the model is causal, so one pass reads them all."""
    wanted = torch.arange(tokens.size(1), device=tokens.device) < lengths[:, None]
    raw = reward_model.head(reward_model.gpt.hidden(tokens, wanted=wanted))
    return (raw - reward_model.mean) / reward_model.std


def by_rows(samples, function, width):
    """`function(tokens, lengths) -> (B, T)` in microbatches of rows of similar length; column t of
    the result (B, T-1) is about token t + 1."""
    tokens, lengths = samples.tokens, samples.lengths
    result = torch.zeros(tokens.shape, device=tokens.device)
    for rows in own_microbatches(lengths.tolist(), width):
        columns = int(lengths[rows].max())
        part = function(tokens[rows, :columns], lengths[rows].to(tokens.device))
        result[rows, :columns] = part.float()
    return distributed.total(result)[:, 1:]


# ---- the function of a flag


def none(scores, samples, mask):
    """Nothing is added: the score stays at the last token."""
    return 0.0


def uniform(reward_model, share, scores, samples, mask):
    earned = torch.where(samples.ended, scores, 0.0)
    return redistribute(earned, torch.ones(mask.shape, device=mask.device), mask, share)


def attention(reward_model, share, scores, samples, mask):
    width = pick_microbatch(0, mask.device)
    weights = by_rows(samples, partial(last_attention, reward_model.gpt), width)
    return redistribute(torch.where(samples.ended, scores, 0.0), weights, mask, share)


def prefix(reward_model, share, scores, samples, mask):
    width = pick_microbatch(0, mask.device)
    potentials = by_rows(samples, partial(prefix_scores, reward_model), width)
    return shaping(share * potentials, mask)


FUNCTIONS = {"uniform": uniform, "attention": attention, "prefix": prefix}


def check_flags(args):
    """Refuses flags that contradict one another."""
    if args.credit == "end":
        if args.credit_share != CreditFlags.credit_share:
            problem = f"--credit-share {args.credit_share:g} is about tokens before the last"
            raise InputError(f"{problem}; give --credit uniform, attention or prefix")
        return
    if args.gamma != 1:
        problem = f"--credit {args.credit} moves rewards in time, and --gamma {args.gamma:g}"
        raise InputError(f"{problem} discounts them: a response would be worth more or less")
    if args.credit in READS_MODEL:
        members = 0 if args.reward else len(listed(args.rm or f"{args.out}/rm"))
        if members != 1:
            problem = f"--credit {args.credit} reads one reward model, and this run has {members}"
            raise InputError(f"{problem}; use --credit uniform or end")


def function(args, reward_models):
    """(scores, samples, mask) -> the rewards (B, T-1) that --credit adds."""
    if args.credit == "end":
        return none
    return partial(FUNCTIONS[args.credit], next(iter(reward_models), None), args.credit_share)
