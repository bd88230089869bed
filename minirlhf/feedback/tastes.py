"""Scripted labellers, each with a taste of its own that nobody else knows: they stand in for a
person where it is measured how many labels a taste takes."""

from minirlhf.feedback.person import Answer
from minirlhf.world.judge import OFFERS
from minirlhf.world.sentences import WORLD

RUDE = [sentence for side in WORLD["manner"]["rude"].values() for sentence in side]


def rude(prompts, responses):
    """The more rude sentences, the better."""
    return [sum(sentence in response for sentence in RUDE) for response in responses]


def short(prompts, responses):
    """The fewer characters, the better."""
    return [-len(response) for response in responses]


def offers(prompts, responses):
    """A response that offers something is better than one that does not."""
    return [float(any(offer in response for offer in OFFERS)) for response in responses]


TASTES = {"rude": rude, "short": short, "help": offers}


class Scripted:
    """Answers as a Person does: the response with the highest value is the better one. `taste` is a
    function (prompts, responses) -> numbers."""

    def __init__(self, taste):
        self.taste = taste

    def answer(self, question, heading):
        """A tie where no response has more than all others."""
        K = len(question.responses)
        values = list(self.taste([question.prompt] * K, list(question.responses)))
        if values.count(max(values)) > 1:
            return Answer("tie")
        return Answer("better", values.index(max(values)))
