"""A row, the dictionary of one line, -> what it says (`Judged`) -> a record of data.py.

Our own forms are read here, and what is said in every form: the other families return a `Judged`
too. A row of a wrong form is a ValueError: the file has to be mended. A row of the right form from
which this stage cannot learn is `Unusable`, with the reason: it is skipped and counted.
"""

import dataclasses
import os
from typing import NamedTuple

from minirlhf.data import Comparison, Demonstration, Labelled, Prompt, SoftComparison
from minirlhf.formats.fields import (
    Unusable,
    as_number,
    field_names,
    items,
    present,
    structure,
    text_field,
    truth,
)
from minirlhf.formats.turns import (
    REPLY,
    Turn,
    as_turns,
    joined,
    last_reply,
    prompt_text,
    read_turns,
    response_text,
)

ASSISTANT, HUMAN = "\n\nAssistant:", "\n\nHuman:"  # HH-RLHF's marks of a turn
SCALES = (
    "rating",
    "score",
    "reward",
    "rank",
    "stars",
)  # fields that may say how good a response is
FLAGS = ("flags", "flagged", "feedback", "thumbs", "liked", "kto_tag")  # and whether it is good
REVERSED = ("flagged", "is_harmful", "harmful")  # those that are true of one that is not
FLAGS += REVERSED[1:]


class Lacking(ValueError):
    """What a row does not say and the stage needs: the names of the field that would say it."""


class Judged(NamedTuple):
    """What a row says. `prompt` is text that stays as it is, or turns that a template writes.
    `ranks` (0 best) and `ratings` (higher is better) are one number a response; None: not said."""

    prompt: str | list
    responses: list = []
    ranks: list | None = None
    ratings: list | None = None
    unfit: str | None = None  # why a single response is not imitated
    label: bool | None = None  # whether a single response is good
    likely: list | None = None  # how likely each response is better than each other, (K, K)


# ---- what a row says -> records


def prompt(judged, template):
    """Judged -> Prompt, a text"""
    return Prompt(prompt_text(judged.prompt, template))


def demonstration(judged, template):
    """Judged -> Demonstration, of the best response."""
    if not judged.responses:
        raise Lacking("response", "completion")
    if judged.unfit:
        raise Unusable(judged.unfit)
    best = 0
    if len(judged.responses) > 1:
        best = comparison(judged, template).ranks.index(min(judged.ranks or ranked(judged.ratings)))
    return Demonstration(prompt(judged, template), texts_of(judged, template)[best])


def comparison(judged, template):
    """Judged -> Comparison of different responses, of which one is better than another."""
    if len(judged.responses) < 2:
        raise Lacking("chosen")
    ranks = judged.ranks or ranked(judged.ratings)
    if len(set(judged.responses)) == 1:
        raise Unusable("all responses are the same text")
    if len(set(ranks)) == 1 and not judged.likely:
        raise Unusable("all ranks are equal: from a tie nothing can be learned")
    texts = texts_of(judged, template)
    return ranked_record(judged._replace(ranks=ranks), prompt(judged, template), texts)


def ranked_record(judged, prompt, texts):
    """Comparison, or SoftComparison where the labeller says probabilities."""
    if judged.likely:
        return SoftComparison(prompt, texts, judged.ranks, judged.ratings, judged.likely)
    return Comparison(prompt, texts, judged.ranks, judged.ratings)


def labelled(judged, template):
    """Judged -> Labelled, of one response; Comparison, of several."""
    if len(judged.responses) > 1:
        return comparison(judged, template)
    if not judged.responses:
        raise Lacking("response", "completion")
    if judged.label is None:
        if judged.unfit:
            raise Unusable(f"no label says whether it is good: {judged.unfit}")
        raise Lacking("label")
    return Labelled(prompt(judged, template), texts_of(judged, template)[0], judged.label)


def natural(judged):
    """The function above that makes of a Judged what it is good for."""
    if len(judged.responses) > 1 or judged.ratings:
        return comparison
    return demonstration if judged.responses else prompt


def texts_of(judged, template):
    return [response_text(judged.prompt, text, template) for text in judged.responses]


def ranked(ratings):
    """Ratings, higher is better -> ranks, 0 for the best; equal ratings tie."""
    order = sorted(set(ratings), reverse=True)
    return [order.index(rating) for rating in ratings]


# ---- our own forms, and TRL's


def only_prompt(row):
    """{"prompt"}: a text, or turns."""
    return Judged(prompt_field(row))


def single(row):
    """{"prompt", "response"}, perhaps with a judgement."""
    name = present(row, "response", "completion") or "response"
    begin = prompt_field(row)
    if messages := as_turns(row.get(name)):
        begin, text = last_reply(joined(begin, read_turns(messages, name)))
    else:
        text = text_field(row, "response", "completion")
    return judge(row, begin, text)


def judge(row, begin, text):
    """A prompt and one response -> Judged, with what the row says of how good it is."""
    ratings = [rating for rating in (rating_of(row),) if rating is not None]
    return Judged(begin, [text], None, ratings or None, unfit(row), label_of(row))


def label_of(row):
    """Whether a label or a flag says that a single response is good; None if none says."""
    names = (name for name in ("label", *FLAGS) if row.get(name) is not None)
    return next((liked(row, name) for name in names), None)


def rating_of(row):
    """The number by which a single response can be compared with others to its prompt; None if
    there is none."""
    for name in ("label", *FLAGS):
        if row.get(name) is not None:
            good = liked(row, name)
            return None if good is None else int(good)
    for name in SCALES:
        if (value := as_number(row.get(name))) is not None:
            return -value if name == "rank" else value
    return None


def liked(row, name):
    """Whether a label or a flag says that the response is good. A list of flags says so where it is
    empty, REVERSED are the reverse."""
    value = structure(row[name])
    if isinstance(value, list):
        return not value if name == "flags" else None
    good = truth(value)
    return good if good is None or name not in REVERSED else not good


def unfit(row):
    """Why a response is not one to imitate, as far as the row says; None if it is. What `minirlhf
    sample` writes has "ended", and perhaps a score, which is no reason where it did."""
    if row.get("ended") is False:
        return "the response was cut off before its end, which is not imitated"
    for name in ("label", *FLAGS):
        if row.get(name) in (None, ""):
            continue
        good = liked(row, name)
        if good is None:
            return f"the {name} is neither true nor false; write one, or remove the field"
        if not good:
            word = "true" if name in REVERSED else "set" if name == "flags" else "false"
            return f"the {name} is {word}, and a response that people disliked is not imitated"
    for name in SCALES:
        sampled = name == "score" and row.get("ended") is True
        if row.get(name) not in (None, "") and not sampled:
            return (
                f"the field {name!r} judges the response, on a scale that is not known here; keep "
                "the rows to imitate, and remove the field"
            )
    return None


def ranking(row):
    """{"prompt", "responses", "ranks"}; or with "ratings", or "flags" (a list for each response)
    and no ranks."""
    responses = structure(row["responses"])
    if not is_list(responses, is_text) or len(responses) < 2:
        raise ValueError("field 'responses' must be a list of at least two texts")
    begin = prompt_field(row)
    if row.get("ranks") is None and row.get("ratings") is not None:
        return Judged(begin, responses, None, numbers(row, "ratings", len(responses)))
    if row.get("ranks") is None and row.get("flags") is not None:
        flags = items(row, "flags")
        if len(flags) == len(responses):
            return Judged(begin, responses, [int(bool(flag)) for flag in flags])
    ranks = structure(row.get("ranks"))
    # A bool is an int to isinstance, and a negative rank stands for a missing response elsewhere.
    whole = is_list(ranks, lambda x: type(x) is int and 0 <= x < 2**31)
    if not whole or len(ranks) != len(responses):
        problem = f"must be a list of {len(responses)} whole numbers, 0 for the best"
        raise ValueError(f"field 'ranks' {problem}")
    likely = probabilities(row, len(responses))
    return Judged(begin, responses, ranks, row.get("ratings"), likely=likely)


def probabilities(row, K):
    """The field "likely" of a labeller who is not sure, a (K, K) table; None without one."""
    if row.get("likely") is None:
        return None
    table = structure(row["likely"])
    square = is_list(table, lambda x: is_list(x, is_number) and len(x) == K) and len(table) == K
    if not square or not all(
        0 <= table[i][j] <= 1 and complementary(table[i][j], table[j][i], i == j)
        for i in range(K)
        for j in range(K)
    ):
        problem = f"must be {K} lists of {K} probabilities, of which [i][j] and [j][i] add up to 1"
        raise ValueError(f"field 'likely' {problem}, or are both 0")
    return table


def complementary(p, mirrored, same):
    return p == mirrored == 0 or not same and abs(p + mirrored - 1) < 1e-3


def is_number(value):
    return type(value) in (int, float)


def numbers(row, name, count):
    """A field that is a list of `count` numbers."""
    values = [as_number(value) for value in items(row, name)]
    if len(values) != count or None in values:
        raise ValueError(f"field {name!r} must be a list of {count} numbers")
    return values


def is_list(value, is_item):
    return isinstance(value, list) and all(map(is_item, value))


def is_text(value):
    return isinstance(value, str)


def pair(row):
    """{"chosen", "rejected"}, with a prompt or as two whole dialogues; texts or turns."""
    begin = None
    if present(row, "prompt"):
        begin = prompt_field(row)
    return compare(row, begin, "chosen", "rejected")


def compare(row, begin, *names):
    """Two fields, the better first, that answer a prompt or, where that is None, hold it: texts or
    turns -> Judged."""
    if begin is not None and all(is_list(structure(row.get(name)), is_text) for name in names):
        better, worse = (
            structure(row[name]) for name in names
        )  # every better one beats each worse
        return Judged(begin, better + worse, [0] * len(better) + [1] * len(worse))
    sides = [as_turns(row.get(name)) for name in names]
    if any(sides):
        return compare_turns(row, begin, sides, names)
    chosen, rejected = (text_field(row, name) for name in names)
    if begin is not None:
        return Judged(begin, [chosen, rejected], [0, 1])
    if ASSISTANT not in chosen and ASSISTANT not in rejected:
        problem = f"no field 'prompt', and no turn {ASSISTANT!r} in chosen and rejected"
        raise Unusable(f"{problem}; {field_names(row)}")
    return split_dialogues(chosen, rejected)


def compare_turns(row, begin, sides, names):
    """The same, where at least one side is turns. A side that is text, None here, is one reply."""
    dialogues = []
    for side, name in zip(sides, names, strict=True):
        turns = read_turns(side, name) if side else [Turn(REPLY, text_field(row, name))]
        dialogues.append(last_reply(joined(begin, turns)))
    (first, chosen), (second, rejected) = dialogues
    if first != second:
        raise Unusable("the dialogues differ before the last answer: their prompts differ")
    return Judged(first, [chosen, rejected], [0, 1])


def prompt_field(row, name="prompt"):
    """A prompt that is text, or turns."""
    messages = as_turns(row.get(name))
    return read_turns(messages, name) if messages else text_field(row, name)


def split_dialogues(chosen, rejected):
    """Two dialogues -> Judged. The prompt is their common beginning, up to and including its last
    "Assistant:"."""
    if chosen == rejected:  # then nothing shows where the prompt ends
        raise Unusable("all responses are the same text")
    shared = os.path.commonprefix([chosen, rejected])
    if ASSISTANT not in shared:
        raise Unusable("the dialogues have no 'Assistant:' in common: their prompts differ")
    length = shared.rfind(ASSISTANT) + len(ASSISTANT)
    responses = [chosen[length:], rejected[length:]]
    if any(mark in response for response in responses for mark in (HUMAN, ASSISTANT)):
        raise Unusable("an answer holds another turn: the dialogues differ before the last answer")
    return Judged(shared[:length], responses, [0, 1])


# ---- responses that repeat the prompt


def repeats_prompt(record):
    """Whether every response of a record begins with its whole prompt, which is not empty."""
    if isinstance(record, str) or not record.prompt:
        return False
    return all(text.startswith(record.prompt) for text in texts(record))


def has_silence(record):
    """Whether a response of a record is empty."""
    return not isinstance(record, str) and not all(map(str.strip, texts(record)))


def without_prompt(record):
    """The record whose responses begin with its prompt, without that beginning."""
    rest = [text.removeprefix(record.prompt) for text in texts(record)]
    if isinstance(record, Comparison):
        return dataclasses.replace(record, responses=rest)
    return dataclasses.replace(record, response=rest[0])


def texts(record):
    """The responses of a Demonstration, a Labelled or a Comparison."""
    return record.responses if isinstance(record, Comparison) else [record.response]
