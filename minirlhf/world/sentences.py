"""The sentences of the embedded world: templates that writers fill and that the judge parses with.

Six kinds of prompt: a fact, a sum, an instruction on words, a question that nobody can answer, a
harmful request, and a look-alike of the last two: a harmless request in the same wordings, a
question that holds its answer, or an instruction to say a word that sounds like harm. A look-alike
deserves an answer. The wordings of all stand in world.json, for a person to edit.

A response is one sentence that answers, the *core*, with at most one sentence of manner before it
and one after it. A core is *right* (the true fact, "I do not know" where nobody can know, a refusal
of harm) or *wrong* in the way people are.

An *entry* is a task of world.json: its kind, the templates of its prompts and of its cores. A
*slot* is a {field} of a template.

Of wordings and of what fills the slots, the *split* "train" has its part, "validation" and "test"
have theirs. The split "pretraining" has the wordings and requests of "train" and all of the rest.
"""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

WORLD = json.loads(Path(__file__).with_name("world.json").read_text(encoding="utf-8"))
KINDS = ("fact", "sum", "string", "unknown", "harmful", "lookalike")
SPLITS = ("train", "validation", "test")
ANY_WORDS = "[a-z]+(?: [a-z]+)*"
REQUESTS = ("aim", "deed")  # slots whose texts have slots of their own


class Question(NamedTuple):
    """What a prompt asks: its entry, and the text in each slot of its template."""

    entry: dict
    slots: dict


# ---- templates


def fields(template):
    """The names of a template's slots, in their order."""
    return re.findall(r"{(\w+)}", template)


def content(field, entry, split=None):
    """The list of texts that a slot may hold, in one split or in all. Empty where any words will
    do."""
    if field == "answer":
        if "errors" in entry:
            return [str(number) for number in range(100)]
        return [answer for answers in entry["table"].values() for answer in answers]
    # word1 and word2 share a list
    lists = entry["facts"] if field == "subject" else WORLD["lists"][field.rstrip("12")]
    if split is None or split == "pretraining" and field not in REQUESTS:
        return [text for part in lists.values() for text in part]
    return list(lists.get(split, lists["train"]))


def compile_template(template, entry):
    """The regular expression that matches every filled template, with a named group for each
    slot. No template has a slot twice."""
    pattern = re.escape(template)
    for field in fields(template):
        texts = "|".join(re.escape(text) for text in content(field, entry)) or ANY_WORDS
        pattern = pattern.replace(re.escape("{" + field + "}"), f"(?P<{field}>{texts})")
    return re.compile(pattern, re.A)


# ---- entries


def make_entry(kind, section, task):
    """An entry: what all tasks of its kind share, what its task adds, the templates of its prompts
    for each split, and regular expressions for prompts and cores."""
    entry = {"kind": kind, "facts": {}, "brief": [], "offer": [], "wrong": [], **section, **task}
    entry["table"] = {k: v for table in entry["facts"].values() for k, v in table.items()}
    asked = {split: prompt_templates(entry, split) for split in SPLITS}
    entry |= asked | {"pretraining": asked["train"]}
    wordings = dict.fromkeys(template for split in SPLITS for template in asked[split])
    entry["prompts"] = [compile_template(template, entry) for template in wordings]
    right = entry.get("right") or entry["say"] + entry["brief"]
    # (regular expression, whether the core is right). Where the entry has answers, the {answer}
    # decides instead.
    entry["cores"] = [
        (compile_template(template, entry), template in right)
        for template in right + entry["wrong"]
    ]
    return entry


def prompt_templates(entry, split):
    """The templates of an entry's prompts in one split; the train split's where the entry holds no
    wording out. What a request is for has slots of its own and is put in here."""
    templates = []
    for template in entry.get(split, entry["train"]):
        request = next((field for field in fields(template) if field in REQUESTS), None)
        texts = content(request, entry, split) if request else [""]
        templates += [template.replace(f"{{{request}}}", text) for text in texts]
    return templates


ENTRIES = [
    make_entry(kind, section, task)
    for kind, section in WORLD["kinds"].items()
    for task in section["tasks"]
]


# ---- questions


@lru_cache(maxsize=8192)  # several responses to one prompt are judged in a row
def parse_prompt(prompt):
    """The Question that a prompt asks. ValueError if it is not a prompt of the world."""
    if prompt.endswith("\n"):
        for entry in ENTRIES:
            for slots in parses(entry, prompt[:-1]):
                return Question(entry, slots)
    raise ValueError(f"not a prompt of the world: {prompt!r}")


def parses(entry, text):
    """The slots of each of the entry's templates that a text fills. No two slots hold the same."""
    for pattern in entry["prompts"]:
        match = pattern.fullmatch(text)
        if match and len(set(match.groups())) == len(match.groups()):
            yield match.groupdict()


def kind(prompt):
    """One of KINDS. ValueError if it is not a prompt of the world."""
    return parse_prompt(prompt).entry["kind"]


def is_ranked(question):
    """Whether a fact is one that demonstrations and comparisons ask about. The others are known
    from pretraining alone."""
    return question.slots["subject"] in question.entry["facts"]["train"]


def answers(question):
    """The true answer, then the wrong ones that people give. Empty where a wrong response differs
    from a right one in its whole sentence."""
    entry, slots = question
    if entry["table"]:
        return entry["table"][slots["subject"]]
    if "errors" in entry:
        a, b = map(int, slots["sum"].split(" plus "))
        return [str(a + b + error) for error in (0, *entry["errors"])]
    return [answer.format(**slots) for answer in entry.get("answers", [])]
