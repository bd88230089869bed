"""A row, the dictionary of one line, -> a record of data.py.

A row of a wrong form is a ValueError: the file has to be mended. A row of the right form from which
this stage cannot learn is `Unusable`, with the reason: it is skipped and counted.
"""

import dataclasses
import os

from minirlhf.data import Comparison, Demonstration
from minirlhf.run.metrics import printable

ASSISTANT, HUMAN = "\n\nAssistant:", "\n\nHuman:"  # HH-RLHF's marks of a turn
SCALES = ("rating", "score", "reward", "rank")  # fields that may say how good a response is


class Unusable(Exception):
    """The reason why a row is skipped."""


def text_field(row, *names):
    """The first of the fields `names` that the row has, which must be text."""
    for name in names:
        if name in row:
            if not isinstance(row[name], str):
                problem = f"must be text, it is {type(row[name]).__name__}"
                raise ValueError(f"field {name!r} {problem}")
            return row[name]
    raise ValueError(f"no field {' or '.join(map(repr, names))}; {field_names(row)}")


def field_names(row):
    return f"it has {printable(', '.join(row)) or 'none'}"


def prompt(row):
    """row -> text. Of two dialogues it is their common beginning."""
    if "prompt" in row or "chosen" not in row:
        return text_field(row, "prompt")
    return comparison(row).prompt


def demonstration(row):
    """row -> Demonstration. Of a comparison of two it is the chosen side."""
    if "chosen" in row:
        pair = comparison(row)
        return Demonstration(pair.prompt, pair.responses[0])
    record = Demonstration(text_field(row, "prompt"), text_field(row, "response", "completion"))
    refuse_judged(row)
    return record


def refuse_judged(row):
    """Unusable, unless a response is one to imitate as far as the row says. `minirlhf sample` says
    with "ended" whether a response has its end; the score that it may have is no reason then."""
    if row.get("ended") is False:
        raise Unusable("the response was cut off before its end, which is not imitated")
    label = row.get("label")
    if label in (False, -1):
        raise Unusable("the label is false, and a response that people disliked is not imitated")
    if label not in (None, True):
        raise Unusable("the label is neither true nor false; write one, or remove the field")
    for name in SCALES:
        sampled = name == "score" and row.get("ended") is True
        if row.get(name) is not None and not sampled:
            raise Unusable(
                f"the field {name!r} judges the response, on a scale that is not known here; keep "
                "the rows to imitate, and remove the field"
            )


def comparison(row):
    """row -> Comparison of different responses, of which one is better than another."""
    record = ranking(row) if "responses" in row else pair(row)
    if len(set(record.responses)) == 1:
        raise Unusable("all responses are the same text")
    if len(set(record.ranks)) == 1:
        raise Unusable("all ranks are equal: from a tie nothing can be learned")
    return record


def ranking(row):
    """A row with responses and ranks -> Comparison."""
    responses, ranks = row["responses"], row.get("ranks")
    if not is_list(responses, lambda x: isinstance(x, str)) or len(responses) < 2:
        raise ValueError("field 'responses' must be a list of at least two texts")
    # A bool is an int to isinstance, and a negative rank stands for a missing response elsewhere.
    whole = is_list(ranks, lambda x: type(x) is int and 0 <= x < 2**31)
    if not whole or len(ranks) != len(responses):
        problem = f"must be a list of {len(responses)} whole numbers, 0 for the best"
        raise ValueError(f"field 'ranks' {problem}")
    return Comparison(text_field(row, "prompt"), responses, ranks, row.get("ratings"))


def is_list(value, is_item):
    return isinstance(value, list) and all(map(is_item, value))


def pair(row):
    """A row with chosen and rejected -> Comparison."""
    chosen, rejected = text_field(row, "chosen"), text_field(row, "rejected")
    if "prompt" in row:
        return Comparison(text_field(row, "prompt"), [chosen, rejected], [0, 1])
    if ASSISTANT not in chosen and ASSISTANT not in rejected:
        problem = f"no field 'prompt', and no turn {ASSISTANT!r} in chosen and rejected"
        raise Unusable(f"{problem}; {field_names(row)}")
    return split_dialogues(chosen, rejected)


def split_dialogues(chosen, rejected):
    """Two dialogues -> Comparison. The prompt is their common beginning, up to and including its
    last "Assistant:"."""
    if chosen == rejected:  # then nothing shows where the prompt ends
        raise Unusable("all responses are the same text")
    shared = os.path.commonprefix([chosen, rejected])
    if ASSISTANT not in shared:
        raise Unusable("the dialogues have no 'Assistant:' in common: their prompts differ")
    length = shared.rfind(ASSISTANT) + len(ASSISTANT)
    responses = [chosen[length:], rejected[length:]]
    if any(mark in response for response in responses for mark in (HUMAN, ASSISTANT)):
        raise Unusable("an answer holds another turn: the dialogues differ before the last answer")
    return Comparison(shared[:length], responses, [0, 1])


# ---- responses that repeat the prompt


def repeats_prompt(record):
    """Whether every response of a record begins with its whole prompt, which is not empty."""
    if isinstance(record, str) or not record.prompt:
        return False
    return all(text.startswith(record.prompt) for text in texts(record))


def without_prompt(record):
    """The record whose responses begin with its prompt, without that beginning."""
    rest = [text.removeprefix(record.prompt) for text in texts(record)]
    if isinstance(record, Comparison):
        return dataclasses.replace(record, responses=rest)
    return Demonstration(record.prompt, rest[0])


def texts(record):
    """The responses of a Demonstration or a Comparison."""
    return record.responses if isinstance(record, Comparison) else [record.response]
