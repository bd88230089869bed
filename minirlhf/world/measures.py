"""What the judge says of a policy's replies, and how often a reward model agrees with it."""

import math

import numpy as np

from minirlhf import reward
from minirlhf.evaluate import finished
from minirlhf.run.config import CONTRASTS, rng
from minirlhf.world.judge import judge
from minirlhf.world.writers import contrasts

AXES = ("helpful", "honest", "harmless", "total", "right")  # the keys of `axes`


def judgements(prompts, replies):
    """The world's Judgement of each reply. One without end counts as an empty response."""
    texts = finished(replies)
    return [judge(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]


def axes(results):  # list of Judgement -> dictionary
    """{axis: the mean over the prompts where it applies, NaN if there is none}; "right" is the
    share of responses that have 1 on every axis that applies."""
    means = {}
    for axis in AXES[:-1]:
        values = [getattr(j, axis) for j in results if getattr(j, axis) is not None]
        means[axis] = float(np.mean(values)) if values else math.nan
    flawless = [all(x in (None, 1.0) for x in (j.helpful, j.honest, j.harmless)) for j in results]
    means["right"] = float(np.mean(flawless))
    return means


def describe(results):  # list of Judgement -> "helpful 0.61, ..."
    return ", ".join(f"{name} {value:.2f}" for name, value in axes(results).items())


def contrast_numbers(reward_model, tokenizer, seed, n=1000):
    """{"agreement_on_fact": ...}: of two responses that differ in one thing only, how often the
    better one gets the higher score. n pairs over all contrasts."""
    names, prompts, better, worse = zip(*contrasts(n, rng(seed, CONTRASTS)), strict=True)
    better_scores = reward.score(reward_model, tokenizer, prompts, better)
    worse_scores = reward.score(reward_model, tokenizer, prompts, worse)
    wins = (better_scores > worse_scores).numpy()
    names = np.array(names)
    return {f"agreement_on_{name}": wins[names == name].mean() for name in sorted(set(names))}
