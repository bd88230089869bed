"""The sentences of the embedded world: templates that writers fill and that the judge parses with.

Five kinds of prompt: a fact, a sum, an instruction on words, a question that nobody can answer, a
harmful request. Their wordings stand in world.json, for a person to edit.

A response is one sentence that answers, the *core*, with at most one sentence of manner before it
and one after it. A core is *right* (the true fact, "I do not know" where nobody can know, a refusal
of harm) or *wrong* in the way people are.

An *entry* is a task of world.json: its kind, the templates of its prompts and of its cores. A
*slot* is a {field} of a template.
"""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

WORLD = json.loads(Path(__file__).with_name("world.json").read_text(encoding="utf-8"))
KINDS = ("fact", "sum", "string", "unknown", "harmful")
NUMBERS = range(1, 6)  # the numbers that sums add up
ANY_WORDS = "[a-z]+(?: [a-z]+)*"


class Question(NamedTuple):
    """What a prompt asks: its entry, and the text in each slot of its template."""

    entry: dict
    slots: dict


# ---- templates


def fields(template):
    """The names of a template's slots, in their order."""
    return re.findall(r"{(\w+)}", template)


def content(field, entry, split=None):
    """The list of texts that a slot may hold, in one split or in both. Empty where any words will
    do."""
    if field == "subject":
        return list(entry["table"])
    if field == "answer":
        if "off" in entry:
            return [str(number) for number in range(100)]
        return [answer for answers in entry.get("table", {}).values() for answer in answers]
    if field == "sum":
        return sums(split)
    words = WORLD["lists"][field.rstrip("123")]  # word1, word2 and word3 share a list
    return words[split] if split else words["train"] + words["test"]


def sums(split):
    """["1 plus 1", ...] of one split, or of both. One in seven is held out, and seldom both a + b
    and b + a."""
    texts = []
    for a in NUMBERS:
        for b in NUMBERS:
            home = "train" if (3 * a + 5 * b) % 7 else "test"
            if split in (home, None):
                texts.append(f"{a} plus {b}")
    return texts


def compile_template(template, entry, flags=re.A):
    """The regular expression that matches every filled template, with a named group for each
    slot."""
    pattern = re.escape(template)
    for field in fields(template):
        texts = "|".join(re.escape(text) for text in content(field, entry)) or ANY_WORDS
        pattern = pattern.replace(re.escape("{" + field + "}"), f"(?P<{field}>{texts})")
    return re.compile(pattern, flags)


# ---- entries


def make_entry(kind, section, task):
    """An entry: what all tasks of its kind share, what its task adds, the templates of its prompts
    for each split, and regular expressions for prompts and cores."""
    entry = {"kind": kind, "brief": [], "offer": [], "wrong": [], **section, **task}
    for split in ("train", "test"):
        entry[split] = prompt_templates(entry, split)
    entry["prompts"] = [
        compile_template(template, entry) for template in entry["train"] + entry["test"]
    ]
    right = entry.get("right") or entry["say"] + entry["brief"]
    # (regular expression, whether the core is right). Where the entry has answers, the {answer}
    # decides instead.
    entry["cores"] = [
        (compile_template(template, entry, re.A | re.I), template in right)
        for template in right + entry["wrong"]
    ]
    return entry


def prompt_templates(entry, split):
    """The templates of an entry's prompts. Facts hold out wordings. The other kinds have the same
    wordings in both splits and hold out what fills them; harmful aims have slots of their own, so
    they are put in here."""
    templates = []
    for template in entry.get(split) or entry["ask"]:
        if "{aim}" in template:
            aims = content("aim", entry, split)
            templates += [template.replace("{aim}", aim) for aim in aims]
        else:
            templates.append(template)
    return templates


ENTRIES = [
    make_entry(kind, section, task)
    for kind, section in WORLD["kinds"].items()
    for task in section["tasks"]
]


def urn(kind):
    """The entries of a kind, to draw from. A table of facts is there once for each of its facts, so
    that every fact is equally likely."""
    entries = []
    for entry in ENTRIES:
        if entry["kind"] == kind:
            entries += [entry] * (len(entry["table"]) if "table" in entry else 1)
    return entries


URNS = {kind: urn(kind) for kind in KINDS}


# ---- questions


@lru_cache(maxsize=8192)  # several responses to one prompt are judged in a row
def parse_prompt(prompt):
    """The Question that a prompt asks. ValueError if it is not a prompt of the world."""
    if prompt.endswith("\n"):
        for entry in ENTRIES:
            for pattern in entry["prompts"]:
                if match := pattern.fullmatch(prompt[:-1]):
                    return Question(entry, match.groupdict())
    raise ValueError(f"not a prompt of the world: {prompt!r}")


def kind(prompt):
    """fact, sum, string, unknown or harmful. ValueError if it is not a prompt of the world."""
    return parse_prompt(prompt).entry["kind"]


def answers(question):
    """The true answer, then the wrong ones that people give. Empty where a wrong response differs
    from a right one in its whole sentence."""
    entry, slots = question
    if "table" in entry:
        return entry["table"][slots["subject"]]
    if "off" in entry:
        a, b = map(int, slots["sum"].split(" plus "))
        return [str(a + b + error) for error in entry["off"]]
    return [answer.format(**slots) for answer in entry.get("answers", [])]
