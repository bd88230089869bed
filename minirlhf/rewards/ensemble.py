"""Scores that are harder to exploit: several reward models that learned from the same comparisons
(Coste et al. 2023; Eisenstein et al. 2023), and a score that is bounded (PAR, Fu et al. 2025).

    mean        the mean of the members' scores
    worst       the least of them
    mean-std    the mean minus the standard deviation: where they disagree, a score counts less

A policy that exploits one model must exploit all of them. How far they disagree is logged at every
update: it grows where the policy goes to responses of which the comparisons said nothing.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from minirlhf import data, evaluate, reward
from minirlhf.run import checkpoint, config, health
from minirlhf.run.config import InputError, flag, rng
from minirlhf.run.files import listed

COMBINATIONS = ("mean", "worst", "mean-std")
NORM_PROMPTS, NORM_RESPONSES = 512, 4  # SFT responses on which a new score is normalised


@dataclass(frozen=True)
class EnsembleFlags:
    """The flags of a stage that learns from the scores of one reward model or of several."""

    combine: str = flag(
        "mean", "how the scores of several reward models become one", choices=COMBINATIONS
    )
    par: int = flag(
        0,
        "M: a response is rewarded for the share of M SFT responses to its prompt that it beats by "
        "the reward model (PAR); 0: for its score",
        low=0,
    )


# ---- the methods


def combine(scores, how):  # (E, N) -> (N,)
    """One score of each response from those of E reward models, which have one zero and one unit.
    The standard deviation divides by E."""
    if how == "mean":
        return scores.mean(0)
    if how == "worst":
        return scores.min(0).values
    return scores.mean(0) - scores.std(0, correction=0)


def disagreement(scores):  # (E, N) -> scalar
    """The standard deviation over the reward models, a mean over the responses."""
    return scores.std(0, correction=0).mean()


def win_rate(scores, sft_scores):  # (N,), (N, M) -> (N,)
    """PAR: how likely a response is to be preferred to the SFT model's, the mean of
    sigmoid(difference) over M of them to the same prompt. Both are raw scores, in log-odds."""
    return torch.sigmoid(scores[:, None] - sft_scores).mean(1)


class RobustScore:
    """`score(prompts, replies) -> (N,)` of one or more reward models, as in PPO, on the CPU.

    Normalised again after the members are combined: over SFT responses its mean is 0, and its
    standard deviation between responses to one prompt is 1. So kl_coef and the missing-end score
    keep their meaning. `disagreement` is that of the last call, NaN with one model.
    """

    def __init__(self, args, models, sft, tokenizer):
        self.args, self.models, self.sft, self.tokenizer = args, models, sft, tokenizer
        self.unit = sum(float(model.std) for model in models) / len(models)  # in log-odds
        self.mean, self.std, self.disagreement = 0.0, 1.0, math.nan
        self.sft_scores = {}  # prompt: (M,)

    def __call__(self, prompts, replies):
        scores = self.combined(prompts, replies)
        if self.args.par:
            scores = win_rate(self.unit * scores, self.unit * self.compared(prompts))
        return (scores - self.mean) / self.std

    def combined(self, prompts, replies):  # -> (N,)
        members = [evaluate.score_replies(model, prompts, replies) for model in self.models]
        scores = torch.stack(members)
        self.disagreement = float(disagreement(scores)) if len(members) > 1 else math.nan
        return combine(scores, self.args.combine)

    def compared(self, prompts):  # N texts -> (N, M)
        """The scores of M SFT responses to each prompt, the same ones whenever it is asked."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.sft_scores]
        known = self.disagreement
        if new:
            M, width = self.args.par, self.args.max_new_tokens
            noise = [uniforms(self.args.seed, prompt, M, width) for prompt in new]
            repeated, replies = self.respond(new, M, torch.cat(noise).numpy())
            scores = self.combined(repeated, replies).view(-1, M)
            self.sft_scores |= dict(zip(new, scores, strict=True))
        self.disagreement = known
        return torch.stack([self.sft_scores[prompt] for prompt in prompts])

    def respond(self, prompts, n, noise):
        """(each prompt n times, n SFT replies to each). A reply that was cut off gets the end token
        in place of its last token: a score is read at an end."""
        repeated = [prompt for prompt in prompts for _ in range(n)]
        replies = evaluate.respond(self.sft, self.tokenizer, repeated, noise, self.args.temperature)
        return repeated, [finish(reply, self.tokenizer.end_token) for reply in replies]

    def normalise(self, prompts):
        """Set mean and standard deviation, from SFT responses to the first of these prompts."""
        shape = len(prompts[:NORM_PROMPTS]) * NORM_RESPONSES, self.args.max_new_tokens
        noise = rng(self.args.seed, config.NORM_RESPONSES).random(shape, dtype="float32")
        scores = self(*self.respond(prompts[:NORM_PROMPTS], NORM_RESPONSES, noise))
        self.mean = scores.mean()
        variance = scores.view(-1, NORM_RESPONSES).var(dim=1, correction=1).mean()
        self.std = variance.sqrt().clamp(min=1e-6)


def uniforms(seed, prompt, n, max_new_tokens):
    """The noise (n, max_new_tokens) of the SFT responses to a prompt: a function of seed and
    prompt, so that a score does not depend on when and beside what it is asked for."""
    digest = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big")
    draw = rng(seed, config.COMPARED_RESPONSES, digest).random
    return torch.from_numpy(draw((n, max_new_tokens), dtype="float32"))


def finish(reply, end_token):
    """A reply, or what a reply would be that ended one token earlier than it was cut off."""
    if reply.ended:
        return reply
    tokens, prompt_length = reply.example
    return reply._replace(example=data.Example([*tokens[:-1], end_token], prompt_length))


# ---- from flags


def check_flags(args):
    """Refuses flags that need what is not there."""
    members = [] if args.reward else listed(args.rm or f"{args.out}/rm")
    if not members and not args.reward:
        raise InputError(f"--rm {args.rm} names no reward model; give one, or several: A,B,C")
    files = {Path(x).resolve() / ("checkpoint.pt" if Path(x).is_dir() else "") for x in members}
    if len(files) < len(members):
        raise InputError(f"--rm {args.rm} names a reward model twice; give each of them once")
    if len(members) < 2 and args.combine != EnsembleFlags.combine:
        raise InputError(f"--combine {args.combine} needs several reward models: --rm A,B,C")
    if args.par and args.reward:
        raise InputError(f"--par {args.par} is about a reward model's score; --reward has none")
    if len(members) > 1 and args.critic == "separate":
        problem = f"--critic separate starts as the reward model, and --rm names {len(members)}"
        raise InputError(f"{problem}; use --critic shared")


def load(paths, tokenizer, device, precision, sft=None):
    """(reward models, the missing-end score stored with the first). InputError if one of them and
    the policy, whose tokenizer this is, have different vocabularies. For `sft` see
    `reward.load_reward_model`."""
    loaded = [reward.load_reward_model(path, device, precision, sft) for path in paths]
    for path, (_, other, _) in zip(paths, loaded, strict=True):
        name = "the reward model" if len(paths) == 1 else f"the reward model {path}"
        checkpoint.same_vocabulary("the policy", tokenizer, name, other)
    for model, _, _ in loaded:
        health.warn(health.narrow_scores([{"score_spread": float(model.std)}]))
    return [model for model, _, _ in loaded], loaded[0][2]


def robust(args, score, models, sft, tokenizer, prompts):
    """`score`, or the RobustScore that the flags ask for, normalised on SFT responses to prompts of
    the training."""
    if len(models) < 2 and not args.par:
        return score
    robust_score = RobustScore(args, models, sft, tokenizer)
    robust_score.normalise(prompts)
    return robust_score


def stats(score):
    """The metric of a score of several reward models, {} of another."""
    value = getattr(score, "disagreement", math.nan)
    return {} if math.isnan(value) else {"disagreement": value}


def one(models):
    """What stands for the reward models in the record of a run: the model, or all of them in one
    module; None without any."""
    return nn.ModuleList(models) if len(models) > 1 else next(iter(models), None)
