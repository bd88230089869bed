"""The sentences of the embedded world: templates that writers fill and that the judge parses with.

Five kinds of prompt: a fact, a sum, an instruction on words, a question that nobody can answer, a
harmful request. Their wordings stand in world.json, for a person to edit.

A response is one sentence that answers, the *core*, with at most one sentence of manner before it
and one after it. A core is *right* (the true fact, "I do not know" where nobody can know, a refusal
of harm) or *wrong* in the way people are.
"""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

WORLD = json.loads(Path(__file__).with_name("world.json").read_text(encoding="utf-8"))
KINDS = ("fact", "sum", "string", "unknown", "harmful")
NUMBERS = range(1, 6)  # what sums add up


class Question(NamedTuple):
    """A prompt, understood: its entry in world.json, and what stands in the slots of the template."""

    entry: dict
    slots: dict


def fields(template):
    return re.findall(r"{(\w+)}", template)


def content(field, entry, split=None):
    """What may stand in a slot, of one split or of both. word1, word2 and word3 share a list."""
    if field == "subject":
        return list(entry["table"])
    if field == "answer":
        return (
            list(map(str, range(100)))
            if "off" in entry
            else sum(entry.get("table", {}).values(), [])
        )
    if field == "sum":  # one in seven is held out, seldom both a + b and b + a
        pairs = [
            (a, b, "train" if (3 * a + 5 * b) % 7 else "test") for a in NUMBERS for b in NUMBERS
        ]
        return [f"{a} plus {b}" for a, b, home in pairs if split in (home, None)]
    words = WORLD["lists"][field.rstrip("123")]
    return words[split] if split else words["train"] + words["test"]


def compiled(template, entry, flags=re.A):
    """A template as a regular expression, one group per slot."""
    pattern = re.escape(template)
    for field in fields(template):
        group = "|".join(map(re.escape, content(field, entry))) or "[a-z]+(?: [a-z]+)*"
        pattern = pattern.replace(re.escape("{" + field + "}"), f"(?P<{field}>{group})")
    return re.compile(pattern, flags)


def prepared(name, section, own):
    """An entry of world.json with what its kind shares, its prompt templates per split, and all templates compiled."""
    entry = {"kind": name, "brief": [], "offer": [], "wrong": [], **section, **own}
    for split in (
        "train",
        "test",
    ):  # only facts hold out wordings; an aim is a template in a template
        asks = entry.get(split) or entry["ask"]
        aims = content("aim", entry, split)
        entry[split] = [
            ask.replace("{aim}", aim) for ask in asks for aim in (aims if "{aim}" in ask else [""])
        ]
    entry["prompts"] = [compiled(template, entry) for template in entry["train"] + entry["test"]]
    right = (
        entry.get("right") or entry["say"] + entry["brief"]
    )  # the latter are right if their {answer} is
    entry["cores"] = [
        (compiled(text, entry, re.A | re.I), text in right) for text in right + entry["wrong"]
    ]
    return entry


ENTRIES = [
    prepared(name, section, own)
    for name, section in WORLD["kinds"].items()
    for own in section["tasks"]
]
# A table of facts stands there once per fact, so that every fact is asked equally often.
DRAWN = {
    name: [entry for entry in ENTRIES if entry["kind"] == name for _ in entry.get("table", "1")]
    for name in KINDS
}


@lru_cache(maxsize=8192)  # several responses to one prompt are judged in a row
def read(prompt):
    """The question a prompt asks; ValueError if it is not a prompt of the world."""
    for entry in ENTRIES if prompt.endswith("\n") else ():
        for pattern in entry["prompts"]:
            if match := pattern.fullmatch(prompt[:-1]):
                return Question(entry, match.groupdict())
    raise ValueError(f"not a prompt of the world: {prompt!r}")


def kind(prompt):
    """fact, sum, string, unknown or harmful."""
    return read(prompt).entry["kind"]


def answers(question):
    """The true answer, then the wrong ones people give; nothing where being right takes a different sentence."""
    entry, slots = question
    if "table" in entry:
        return entry["table"][slots["subject"]]
    if "off" in entry:
        return [str(sum(map(int, slots["sum"].split(" plus "))) + off) for off in entry["off"]]
    return [answer.format(**slots) for answer in entry.get("answers", [])]
