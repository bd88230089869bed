"""The judge on a policy's replies: axes, their means, and what a reward model sees."""

import math

import numpy as np

from minirlhf import reward
from minirlhf.evaluate import finished
from minirlhf.run.config import CONTRASTS, rng
from minirlhf.world.judge import judge
from minirlhf.world.writers import contrasts

AXES = ("helpful", "honest", "harmless", "total", "right")  # what a judged response is summed up in


def judgements(prompts, replies):
    """The world's judgements of replies."""
    return [judge(prompt, text) for prompt, text in zip(prompts, finished(replies), strict=True)]


def axes(judged):
    """The AXES: each the mean over the prompts where it applies; "right" is the share with nothing wrong at all."""
    means = {}
    for axis in AXES[:-1]:
        values = [getattr(j, axis) for j in judged if getattr(j, axis) is not None]
        means[axis] = float(np.mean(values)) if values else math.nan
    means["right"] = float(np.mean([all(x in (None, 1.0) for x in j[:3]) for j in judged]))
    return means


def describe(judged):
    return ", ".join(f"{name} {value:.2f}" for name, value in axes(judged).items())


def contrast_numbers(reward_model, tokenizer, seed, n=1000):
    """{"agreement_on_fact": ...}: how often the better of two responses that differ in one thing only gets the higher score."""
    names, prompts, better, worse = zip(*contrasts(n, rng(seed, CONTRASTS)), strict=True)
    wins = reward.score(reward_model, tokenizer, prompts, better) > reward.score(
        reward_model, tokenizer, prompts, worse
    )
    return {
        f"agreement_on_{name}": wins.numpy()[np.array(names) == name].mean()
        for name in sorted(set(names))
    }
