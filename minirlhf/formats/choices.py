"""Two responses, and a field that says which is better: by its number, its letter, its name, or by
a signed strength. A choice out of range is a ValueError."""

import re

from minirlhf.formats.fields import (
    Unusable,
    as_number,
    items,
    number,
    present,
    structure,
    text_field,
)
from minirlhf.formats.instructions import asked
from minirlhf.formats.rows import Judged, compare_turns, prompt_field
from minirlhf.formats.turns import question, read_turns

PAIRS = [  # the fields of two responses
    *((f"{name}_{a}", f"{name}_{b}") for a, b in ("ab", "AB", "01", "12") for name in (
        "response", "answer", "output", "completion", "candidate", "text", "reply", "summary",
        "option", "model_response", "model_output",
    )),
    *((f"{name}{a}", f"{name}{b}") for a, b in ("AB", "12") for name in ("response", "answer")),
    ("human_ref_A", "human_ref_B"),
    ("orig_response_A", "orig_response_B"),
]  # fmt: skip
CHOICES = ("choice", "winner", "preference", "preferred", "label", "labels", "better", "selected")
CHOICES += (
    "comparison",
    "better_answer_id",
    "better_response_id",
    "overall_preference",
    "orig_preference",
    "preferred_response",
)
MODELS = [(f"model_{a}", f"model_{b}") for a, b in ("ab", "AB", "01", "12")]  # who wrote them
TIES = ("tie", "tie (bothbad)", "both", "bothbad", "both_bad", "equal", "neither", "same", "draw")
NOUNS = "model|assistant|response|answer|output|option|candidate|completion|conversation|text"
WORDS = (("a", "first", "left"), ("b", "second", "right"))


def choice(row):
    """Two responses and a choice, under any of the names above."""
    first, second = pair_names(row)
    field = present(row, *CHOICES)
    start = 1 if first.endswith("1") else 0  # the number of the first one
    return two(row, asked(row), (first, second), chosen(row, field, (first, second), start))


def pair_names(row):
    names = next((names for names in PAIRS if all(present(row, name) for name in names)), None)
    if names is None:
        raise ValueError("no two responses under names that go together, such as response_a and _b")
    return names


def two(row, prompt, names, best):
    """Judged, where `best` is 0 or 1, or None for a tie."""
    texts = [text_field(row, name) for name in names]
    ranks = [0, 0] if best is None else [int(best == 1), int(best == 0)]
    return Judged(prompt, texts, ranks)


def chosen(row, field, names, start=0):
    """Which of two is better by a field: 0, 1, or None for a tie. `start` is the number of the
    first one."""
    value = row.get(field)
    for first, second in MODELS:
        models = row.get(first), row.get(second)
        if isinstance(value, str) and value in models and models[0] != models[1]:
            return models.index(value)
    if isinstance(value, str) and as_number(value) is None:
        word = value.strip().lower().strip("[]")
        if word in TIES or word.strip("ab") in ("=", "=="):
            return None
        if signs := re.fullmatch("([ab])([<>]+=?)([ab])", word):  # "A>>B"
            word = signs[1 if ">" in signs[2] else 3]
        for place in (0, 1):
            known = (names[place].lower(), *WORDS[place])
            if word in known or re.fullmatch(f"({NOUNS})[ _-]?{WORDS[place][0]}", word):
                return place
    place = as_number(value)
    if field == "preference" and isinstance(place, float) and start < place < start + 1:
        place = None if place == start + 0.5 else round(place)  # AlpacaEval's is a mean
        return None if place is None else place - start
    if place is None or place - start not in (0, 1):
        expected = f"{start} or {start + 1}, a or b, {names[0]} or {names[1]}, or tie"
        raise ValueError(f"field {field!r} must be {expected}; it is {str(value)[:40]!r}")
    return int(place - start)


def by_strength(row, field, names):
    """A signed strength: below 0 the first is better, above 0 the second (HelpSteer 2 and 3)."""
    strength = number(row, field)
    best = None if strength == 0 else int(strength > 0)
    return best, [abs(strength) if best == place else 0 for place in (0, 1)]


# ---- data sets


def vertex(row):
    """Vertex AI: {"input_text", "candidate_0", "candidate_1", "choice"}"""
    names = "candidate_0", "candidate_1"
    name = "input_text" if "input_text" in row else "prompt"
    return two(row, prompt_field(row, name), names, chosen(row, "choice", names))


def shp(row):
    """SHP: labels is 1 where A is better, 0 where B is."""
    names = "human_ref_A", "human_ref_B"
    return two(row, asked(row), names, 1 - chosen(row, "labels", names))


def safe(row):
    """SafeRLHF by its other choice, the safer response."""
    names = "response_0", "response_1"
    return two(row, asked(row), names, chosen(row, "safer_response_id", names))


def helpsteer(row):
    """HelpSteer 2's and 3's preferences, with the strength as a rating."""
    field = present(row, "preference_strength", "overall_preference")
    names = pair_names(row)
    best, strengths = by_strength(row, field, names)
    prompt = read_turns(row["context"], "context") if present(row, "context") else asked(row)
    return two(row, prompt, names, best)._replace(ratings=strengths)


def arena(row):
    """Two whole dialogues and a winner; `turn` says how many questions were judged (MT-Bench)."""
    names = "conversation_a", "conversation_b"
    sides = [items(row, name) for name in names]
    if (turn := as_number(row.get("turn"))) and isinstance(sides[0][0], dict):
        sides = [side[: 2 * turn] for side in sides]
    best = chosen(row, "winner", names)
    return ordered(compare_turns(row, None, sides, names), best)


def ordered(judged, best):
    """Two responses of which the first is held for the better, with what is known of them."""
    return judged._replace(ranks=[0, 0] if best is None else [int(best == 1), int(best == 0)])


def arena_table(row):
    """A column for each outcome (the arena's table): the one that is 1 says who won. Prompt and
    responses may be lists of what was said, turn by turn."""
    columns = ("winner_model_a", "winner_model_b", "winner_tie")
    votes = [as_number(row.get(name)) for name in columns[: 2 if "winner_tie" not in row else 3]]
    if sorted(map(str, votes)) not in (["0", "1"], ["0", "0", "1"], ["0", "0"]):
        raise ValueError(f"fields {', '.join(columns)} must be 0, and one of them 1; got {votes}")
    best = votes.index(1) if 1 in votes[:2] else None
    names = "response_a", "response_b"
    sides = [structure(row[name]) for name in ("prompt", *names)]
    if not all(isinstance(side, list) for side in sides):
        return two(row, asked(row), names, best)
    if any(len(side) != len(sides[0]) or None in side for side in sides):
        raise Unusable("a turn has no answer")
    dialogues = [
        [text for turn in zip(sides[0], side, strict=True) for text in turn] for side in sides[1:]
    ]
    return ordered(compare_turns(row, None, dialogues, names), best)


def chosen_of_list(row):
    """A list of responses, and the number (from 0) or the text of the best one; the others tie."""
    texts = items(row, present(row, *LISTS), str)
    field = present(row, *BEST)
    place = as_number(row[field])
    if place is None and row[field] in texts:
        place = texts.index(row[field])
    if place not in range(len(texts)) or len(texts) < 2:
        raise ValueError(f"field {field!r} must be 0 to {len(texts) - 1}, or the best response")
    return Judged(asked(row), texts, [int(number != place) for number in range(len(texts))])


LISTS = ("responses", "completions", "candidates", "answers", "generations", "outputs", "choices")
BEST = ("best", "best_index", "chosen", "choice", "chosen_index", "preferred", "winner", "selected")


def prodigy(row):
    """Prodigy's options, those that are accepted, and whether the question was answered."""
    options, accepted = items(row, "options", dict), items(row, "accept")
    if row.get("answer", "accept") != "accept":
        raise Unusable("the question was not answered: its 'answer' is not accept")
    numbers = [option.get("id") for option in options]
    if not set(accepted) <= set(numbers):
        raise ValueError(f"field 'accept' must hold ids of options: {numbers}; it is {accepted}")
    texts = [text_field(option, "text") for option in options]
    return Judged(
        question(text_field(row, "text")), texts, [int(n not in accepted) for n in numbers]
    )


def label_studio(row):
    """Label Studio's pairwise results: {"data": {a question, two answers}, "annotations"}."""
    found = []
    for annotation in items(row, "annotations", dict):
        for result in annotation.get("result") or []:
            if result.get("type") == "pairwise" and not annotation.get("was_cancelled"):
                found.append(choice({**row["data"], "comparison": result["value"]["selected"]}))
    if not found:
        raise Unusable("no annotation of two answers: no result of the type 'pairwise'")
    return found


def summaries(row):
    """OpenAI's summarize-from-feedback: a post, two summaries, the number of the better one."""
    texts = [text_field(summary, "text") for summary in items(row, "summaries", dict)]
    names = "summaries", "summaries"
    if len(texts) != 2:
        raise ValueError("field 'summaries' must hold two summaries")
    best = chosen(row, "choice", names)
    return Judged(post(row["info"]), texts, [int(best == 1), int(best == 0)])


def rated_summary(row):
    """The same data's ratings: one summary, and how good it is overall."""
    summary = row["summary"]
    if not isinstance(summary, dict) or not isinstance(summary.get("axes"), dict):
        raise ValueError("field 'summary' must be an object with text and axes")
    rating = number(summary["axes"], "overall")
    unfit = "the summary is rated, on a scale that is not known here"
    return Judged(post(row["info"]), [text_field(summary, "text")], None, [rating], unfit)


def post(info):
    """A post or an article as the prompt that summaries were written for; text that stays."""
    if not isinstance(info, dict):
        raise ValueError("field 'info' must be an object with a post or an article")
    if not present(info, "post"):
        return f"Article: {text_field(info, 'article')}\n\nTL;DR:"
    parts = (("SUBREDDIT: r/", "subreddit"), ("TITLE: ", "title"), ("POST: ", "post"))
    lines = [label + text_field(info, name) for label, name in parts if present(info, name)]
    return "\n\n".join([*lines, "TL;DR:"])
