"""A policy that has learned nothing and remembers everything. What it gets is no generalisation."""

import re

import numpy as np

from minirlhf.world import writers


class Memoriser:
    """Remembers n training prompts, each with a faultless response, and answers any prompt with the
    response of the most similar one: most shared words of all their words, the first if they tie.
    """

    def __init__(self, n, rng):
        self.prompts = list(dict.fromkeys(writers.prompts(n, rng)))
        self.responses = writers.faultless(self.prompts, rng)
        words = dict.fromkeys(word for prompt in self.prompts for word in split_words(prompt))
        self.columns = {word: column for column, word in enumerate(words)}
        self.bags = np.stack([self.bag(prompt) for prompt in self.prompts])

    def bag(self, prompt):  # text -> (words that it remembers,) numpy, 0 or 1
        columns = [self.columns[w] for w in split_words(prompt) if w in self.columns]
        return np.bincount(columns, minlength=len(self.columns)).clip(max=1).astype(np.float32)

    def nearest(self, prompt):
        """The place of the most similar training prompt."""
        bag = self.bag(prompt)
        shared = self.bags @ bag
        return int((shared / (self.bags.sum(1) + bag.sum() - shared)).argmax())

    def respond(self, prompts):
        """A response to each prompt."""
        return [self.responses[self.nearest(prompt)] for prompt in prompts]


def split_words(prompt):
    return re.findall(r"\w+", prompt.lower())
