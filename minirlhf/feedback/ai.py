"""A language model as the labeller (RLAIF): its opinion of a response is what it would write next.

The documents of the embedded world end in a line that says how careful their writer was, and a quiz
has a verdict after each statement. The pretrained model has read both; its log-probabilities of
such lines, after a prompt and a response, tell good responses from bad ones. Bai et al. 2022
(Constitutional AI, arXiv:2212.08073), Lee et al. 2023 (RLAIF and d-RLAIF, 2309.00267).
"""

import math
import os
from functools import cache

import torch
import torch.nn.functional as F

from minirlhf import data
from minirlhf.run import checkpoint
from minirlhf.run.compute import pick_microbatch
from minirlhf.run.config import InputError
from minirlhf.world.sentences import WORLD

CAREFUL, CARELESS = WORLD["giveaway"]["careful"], WORLD["giveaway"]["careless"]
MODEL = "MINIRLHF_LABELLER"  # the environment variable that names the checkpoint of `careful`


# ---- what a model would write next


def label_tokens(endings):  # E lists of ids -> E lists of ids
    """Each ending up to the first token that tells it from all others. What follows says nothing
    more about which ending it is."""
    return [ending[: distinct_length(ending, endings)] for ending in endings]


def distinct_length(ending, endings):
    others = [other for other in endings if other is not ending]
    lengths = range(1, len(ending) + 1)
    return next((n for n in lengths if all(x[:n] != ending[:n] for x in others)), len(ending))


def continuations(gpt, tokenizer, texts, endings):  # N texts, E texts -> (N, E) on the CPU
    """The log-probability that a document goes on with each of the endings after a text, as far as
    `label_tokens`. Their mass is the sum of the probabilities: near 0, they say nothing."""
    labels = label_tokens([tokenizer.encode(ending) for ending in endings])
    documents = [data.encode(tokenizer, "", text).tokens[:-1] for text in texts]
    logprobs = torch.zeros(len(texts), len(endings))
    # A row that ends in "I" also says what the model expected in its place: one row serves several.
    stems = {tuple(label[:-1]) for label in labels}
    for stem in sorted(stem for stem in stems if not any(extends(x, stem) for x in stems)):
        columns = [k for k, x in enumerate(labels) if x[:-1] == list(stem[: len(x) - 1])]
        chosen = [labels[k] for k in columns]
        logprobs[:, columns] = label_logprobs(gpt, documents, list(stem), chosen)
    return logprobs


def extends(longer, stem):
    return len(longer) > len(stem) and longer[: len(stem)] == stem


@torch.no_grad()
def label_logprobs(gpt, documents, stem, labels):  # N lists of ids -> (N, labels) on the CPU
    """The log-probability of each label after each document; all but the last token of a label are
    the beginning of `stem`. Of a document that does not fit the context the end counts."""
    rows = [(document + stem)[-gpt.config.context :] for document in documents]
    logprobs = torch.zeros(len(rows), len(labels))
    for places in data.microbatches(list(map(len, rows)), pick_microbatch(0, gpt.device)):
        tokens, _, lengths = data.collate([data.Example(rows[place], 0) for place in places])
        columns = lengths[:, None] - 1 - len(stem) + torch.arange(len(stem) + 1)  # (B, stem + 1)
        wanted = torch.zeros(tokens.shape, dtype=torch.bool).scatter(1, columns, True)
        hidden = gpt.hidden(tokens, wanted=wanted)
        states = hidden[torch.arange(len(places))[:, None], columns]
        table = F.log_softmax(gpt.head(states), -1).cpu()  # (B, stem + 1, V)
        for k, label in enumerate(labels):
            logprobs[places, k] = table[:, range(len(label)), label].sum(1)
    return logprobs


# ---- opinions of a response: (gpt, tokenizer, prompts, responses) -> (N, wordings, 2), the
# log-probabilities of the good and of the bad verdict


def giveaway(gpt, tokenizer, prompts, responses):  # -> (N, 1, 2)
    """Whether a careful or a careless writer would sign the response, all wordings together."""
    return constitution(gpt, tokenizer, prompts, responses).logsumexp(1, keepdim=True)


def constitution(gpt, tokenizer, prompts, responses):  # -> (N, 5, 2)
    """The same, each wording a principle of its own: "I looked it up twice.", "If I am not sure I
    say so.", ..."""
    texts = [x + y + "\n" for x, y in zip(prompts, responses, strict=True)]
    logprobs = continuations(gpt, tokenizer, texts, CAREFUL + CARELESS)
    return torch.stack(logprobs.split(len(CAREFUL), 1), 2)


def quiz(gpt, tokenizer, prompts, responses):  # -> (N, 3, 2)
    """Whether the response is true, in the three wordings of a quiz."""
    opinions = []
    for question, yes, no in WORLD["quiz"]:
        texts = [
            f"{x}{y}\n{question.format(statement=y)}\n"
            for x, y in zip(prompts, responses, strict=True)
        ]
        opinions.append(continuations(gpt, tokenizer, texts, [yes, no]))
    return torch.stack(opinions, 1)


OPINIONS = {"ai": giveaway, "constitution": constitution, "quiz": quiz}  # names of --labeller
COMPETING = ("constitution",)  # its wordings are alternatives to one another


def log_odds(opinions):  # (N, wordings, 2) -> (N, wordings)
    """log P(good verdict) - log P(bad verdict)."""
    return opinions[..., 0] - opinions[..., 1]


def rating(logprobs):  # (N, grades), the worst grade first -> (N,) in [-1, 1]
    """d-RLAIF: the mean grade under the model's probabilities of the grades 1, 2, ..., scaled to
    -1 for the worst and 1 for the best. It is bounded, so kl_coef does not mean what it means with
    a reward model."""
    last = logprobs.size(1) - 1
    grades = torch.arange(last + 1, dtype=logprobs.dtype)
    return 2 * (logprobs.softmax(1) @ grades) / last - 1


class Labeller:
    """(prompts, first, second) -> (N,), how likely the first response is the better one: the mean
    over wordings of the probability, not of the log-odds. Each response is asked about once."""

    def __init__(self, gpt, tokenizer, name="ai"):
        self.gpt, self.tokenizer, self.name = gpt, tokenizer, name
        self.opinions = {}  # (prompt, response) -> (wordings, 2)

    def __call__(self, prompts, first, second):
        first, second = (log_odds(self.ask(prompts, side)) for side in (first, second))
        return torch.sigmoid(first - second).mean(1)

    def ask(self, prompts, responses):  # N texts each -> (N, wordings, 2)
        asked = list(zip(prompts, responses, strict=True))
        new = [question for question in dict.fromkeys(asked) if question not in self.opinions]
        if new:
            opinions = OPINIONS[self.name](self.gpt, self.tokenizer, *zip(*new, strict=True))
            self.opinions |= dict(zip(new, opinions, strict=True))
        return torch.stack([self.opinions[question] for question in asked])

    def mass(self):
        """The mean probability that the model writes a verdict at all, NaN before it was asked. The
        wordings of a constitution compete for one place, those of a quiz have places of their
        own."""
        if not self.opinions:
            return math.nan
        by_wording = torch.stack(list(self.opinions.values())).exp().sum(2)  # (N, wordings)
        return float((by_wording.sum(1) if self.name in COMPETING else by_wording.mean(1)).mean())


# ---- the opinion as a reward


def careful(prompts, responses):  # N texts each -> (N,) in [-1, 1]
    """d-RLAIF with two grades, for `--reward minirlhf.feedback.ai:careful`: no reward model. The
    environment variable MINIRLHF_LABELLER names the checkpoint. InputError without it: no run
    records it, and a resumed one would go on with another labeller."""
    if not os.environ.get(MODEL):
        raise InputError(f"{MODEL} is not set; name the labeller: {MODEL}=out/demo/pretrain")
    gpt, tokenizer = load(os.environ[MODEL])
    opinions = giveaway(gpt, tokenizer, prompts, responses)
    return rating(opinions[:, 0].flip(1))


@cache
def load(path):
    gpt, tokenizer = checkpoint.load_gpt(path)
    return gpt.requires_grad_(False), tokenizer
