"""Several responses to a prompt with ratings or ranks; and single responses with one."""

from minirlhf.formats.fields import (
    Unusable,
    as_number,
    items,
    number,
    present,
    structure,
    text_field,
    truth,
    wrong,
)
from minirlhf.formats.instructions import ANSWERS, asked
from minirlhf.formats.rows import Judged, numbers
from minirlhf.formats.turns import as_turns, last_reply, read_turns

LISTS = ("completions", "responses", "answers", "generations", "candidates", "outputs", "replies")
TEXTS = ("response", "answer", "text", "content", "completion", "output", "generation", "value")
RATINGS = ("ratings", "scores", "rating", "score", "rewards")
SCORES = ("fine-grained_score", "overall_score", "rating", "score", "pm_score", "reward", "votes")
RANKS = ("ranks", "ranking", "rank")  # not "order", which may list places instead


def objects(row):
    """Whether one of LISTS is a list of objects."""
    name = present(row, *LISTS)
    values = structure(row[name])
    return isinstance(values, list) and bool(values) and isinstance(values[0], dict)


def scored(row):
    """A list of objects, each a response with a score or a rank: UltraFeedback, Nectar,
    StackExchange. Of UltraFeedback's scores it is the fine-grained one."""
    name = present(row, *LISTS)
    answers = items(row, name, dict)
    texts = [answer_text(answer) for answer in answers]
    if len(texts) < 2:
        raise Unusable("a single response: there is nothing to compare it with")
    if all(present(answer, "rank") for answer in answers):
        return Judged(asked(row), texts, dense([number(answer, "rank") for answer in answers]))
    ratings = [rating(answer) for answer in answers]
    if None in ratings:
        raise Unusable("a response has no score")
    return Judged(asked(row), texts, None, ratings)


def answer_text(answer):
    """The text of an answer; of one that is a list of turns the last."""
    name = present(answer, *TEXTS)
    turns = name and as_turns(answer[name])
    return read_turns(turns, name)[-1].text if turns else text_field(answer, *TEXTS)


def rating(answer):
    """A response's score; failing that whether it is good, or the mean of its ratings by aspect."""
    if field := present(answer, *SCORES):
        return as_number(answer[field])
    if field := present(answer, *GOOD):
        good = truth(answer[field])
        return None if good is None else int(good)
    aspects = answer.get("annotations")
    if not isinstance(aspects, dict):
        return None
    values = [as_number(x.get("Rating")) for x in aspects.values() if isinstance(x, dict)]
    return None if not values or None in values else sum(values) / len(values)


def dense(ranks):
    """Ranks that start anywhere and may have gaps -> 0 for the best, 1 for the next, ..."""
    order = sorted(set(ranks))
    return [order.index(rank) for rank in ranks]


def parallel(row):
    """A list of responses and beside it a list of ratings or of ranks."""
    name = present(row, *LISTS)
    responses = items(row, name)
    if responses and isinstance(responses[0], list):  # each is a dialogue
        sides = [last_reply(read_turns(side, name)) for side in responses]
        if any(prompt != sides[0][0] for prompt, _ in sides):
            raise Unusable("the dialogues differ before the last answer: their prompts differ")
        prompt, texts = sides[0][0], [reply for _, reply in sides]
        prompt = prompt or asked(row)
    else:
        prompt, texts = asked(row), items(row, name, str)
    if len(texts) < 2:
        raise Unusable("a single response: there is nothing to compare it with")
    if field := present(row, *RATINGS):
        if None in items(row, field):
            raise Unusable("a response has no score")
        return Judged(prompt, texts, None, numbers(row, field, len(texts)))
    field = present(row, *RANKS)
    return Judged(prompt, texts, dense(numbers(row, field, len(texts))))


def ranked_list(row):
    """Responses in their order, the best first."""
    name = present(row, "ranked_responses", "ranked_completions", "ranked_answers", "ranking")
    texts = items(row, name, str)
    if len(texts) < 2:
        raise Unusable("a single response: there is nothing to compare it with")
    return Judged(asked(row), texts, list(range(len(texts))))


def two_scores(row):
    """Two answers with a score each (WebGPT)."""
    for first, second in (("_0", "_1"), ("_1", "_2"), ("_a", "_b"), ("_A", "_B")):
        scores = [present(row, "score" + end, "rating" + end) for end in (first, second)]
        names = [present(row, *(text + end for text in TEXTS)) for end in (first, second)]
        if None not in (*scores, *names):
            texts = [text_field(row, name) for name in names]
            return Judged(asked(row), texts, None, [number(row, score) for score in scores])
    raise ValueError("no two answers with a score each, such as answer_0, answer_1, score_0, ...")


# ---- one response a row: those to one prompt are compared

ASPECTS = ("helpfulness", "overall", "overall_score", "quality", "orig_score")
GOOD = (
    "is_safe",
    "is_preferred",
    "is_chosen",
    "is_accepted",
    "is_helpful",
    "is_good",
    "thumbs_up",
    "upvoted",
    "accepted",
    "safe",
    "is_correct",
)


def rated(row):
    """A response and how good it is by an aspect, HelpSteer's helpfulness for one."""
    name = present(row, *ASPECTS)
    unfit = f"the field {name!r} judges the response, on a scale that is not known here"
    response = text_field(row, *ANSWERS)
    return Judged(asked(row), [response], None, [number(row, name)], unfit)


def approved(row):
    """A response and whether it is good, as BeaverTails' is_safe."""
    name = present(row, *GOOD)
    good = truth(row[name])
    if good is None:
        raise wrong(name, "true or false", row[name])
    unfit = None if good else f"{name} is false, and such a response is not imitated"
    return Judged(asked(row), [text_field(row, *ANSWERS)], None, [int(good)], unfit)
