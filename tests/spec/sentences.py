"""What a test of this folder claims: a sentence with an id that can be cited.

An id is a topic and a number, ADV-03. It belongs to its sentence for good: a test may be renamed or
move, its id stays; a sentence that is given up takes its id along (docs/spec/retired_ids.txt).
docs/spec/write.py reads these declarations as text and writes docs/SPEC.md from them.
"""

from dataclasses import dataclass

TOPICS = {  # id prefix: title, in the order of the document
    "MASK": "Prompts and boundaries",
    "SAMPLE": "Sampling",
    "RM": "Reward model",
    "KL": "KL",
    "REWARD": "Rewards",
    "ADV": "Advantages",
    "LOSS": "Losses",
    "UPDATE": "Update",
    "METRIC": "Metrics",
    "DPO": "DPO",
    "DIRECT": "Other direct losses",
    "RATE": "Ratings and flags",
    "GROUP": "Methods without a critic",
    "META": "MetaRM",
    "ROBUST": "Scores that are harder to exploit",
    "CREDIT": "Credit by token",
    "LABEL": "Labels by a model",
}


@dataclass(frozen=True)
class Sentence:
    id: str
    claim: str  # one sentence that can be false
    formula: str = ""
    example: str = ""  # numbers worked by hand
    differs: str = ""  # code that does something else, as "project, file:line"
    source: str = ""  # the paper, or the code that it comes from


def spec(*args, **kwargs):
    """@spec(id, claim, formula=, example=, differs=, source=) declares the sentence of a test.

    The test itself is not changed. Its docstring says why the claim holds, or why it matters.
    """

    def declare(test):
        test.sentence = Sentence(*args, **kwargs)
        return test

    return declare
