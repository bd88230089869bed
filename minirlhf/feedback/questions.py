"""What a person is asked: which of two or more responses to a prompt is better."""

import hashlib
from typing import NamedTuple

from minirlhf.run.config import ASKED_ORDER, SHOWN_ORDER, rng


class Question(NamedTuple):
    prompt: str
    responses: tuple  # different texts

    @property
    def key(self):
        """Two questions with one key are the same question."""
        return key(self.prompt, self.responses)


def key(prompt, responses):
    return " ".join(prompt.split()), frozenset(map(visible, responses))


def visible(text):
    """What a person can tell of a text: white space is all the same."""
    return " ".join(text.split())


def questions(comparisons):
    """Comparisons -> Questions, each once. Of responses that look the same one is kept; where less
    than two are left there is nothing to ask."""
    unique = {}
    for comparison in comparisons:
        texts = {visible(text): text for text in reversed(comparison.responses)}
        if len(texts) > 1:
            question = Question(comparison.prompt, tuple(reversed(texts.values())))
            unique.setdefault(question.key, question)
    return list(unique.values())


def in_random_order(asked, seed):
    """The questions in an order that the seed decides, the same for every labeller: what one has
    answered, another one will."""
    order = rng(seed, ASKED_ORDER).permutation(len(asked))
    return [asked[i] for i in order]


def blind(question, labeller, seed):
    """The question with its responses in a random order, which shows nobody where they came from.
    It is another one for every labeller, and the same when the question is asked again."""
    texts = sorted(question.responses)
    text = f"{labeller}\n{question.prompt}\n{texts}"
    digest = hashlib.blake2b(text.encode(), digest_size=6).digest()
    order = rng(seed, SHOWN_ORDER, int.from_bytes(digest, "big")).permutation(len(texts))
    return question._replace(responses=tuple(texts[i] for i in order))


def unanswered(asked, labels, labeller):
    """The questions that a labeller has not answered yet, in their order."""
    answered = {key(label.prompt, label.shown) for label in labels if label.labeller == labeller}
    return [question for question in asked if question.key not in answered]
