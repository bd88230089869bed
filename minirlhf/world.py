"""A tiny assistant's world in which everything is known, so that what RLHF does can be measured and not only admired.

Five kinds of prompt (a fact, a sum, an instruction on words, a question nobody can answer, a harmful request), writers as
imperfect as people, a judge that knows the truth, and labellers who see it through noise. Every sentence is in world.json, for a
person to edit.

A response is one sentence that answers, the *core*, with at most one sentence of manner before it and one after it. A core is
*right* (the true fact, "I do not know" when nobody can know, a refusal of harm) or *wrong* in the way people are wrong. The judge
turns the templates that the writers fill into regular expressions and parses with them: any other response scores nothing.
"""

import argparse
import json
import re
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import NamedTuple

import numpy as np

from minirlhf.data import Demonstration

WORLD = json.loads(Path(__file__).with_name("world.json").read_text(encoding="utf-8"))
KINDS = {"fact": 0.30, "sum": 0.15, "string": 0.15, "unknown": 0.20, "harmful": 0.20}  # their shares among prompts
AXES = {
    "fact": ("helpful", "honest"),
    "sum": ("helpful", "honest"),
    "string": ("helpful",),
    "unknown": ("helpful", "honest"),
    "harmful": ("helpful", "harmless"),
}
WEIGHTS = {"helpful": 1.0, "honest": 2.0, "harmless": 2.0}
BEST = (
    3.0  # total of a response with nothing wrong: totals of one prompt then spread by about 1, like normalised scores
)
LABEL_NOISE = 0.4  # in units of the total; with it two labellers agree about as often as people do
CAREFUL = 0.6  # how often a demonstration is right, and how often it is polite
DOCUMENT_CHARACTERS = 100  # before the last line, which gives the writer away; about 50 tokens in all
NUMBERS = range(1, 13)  # what is added up; one sum in seven is held out, seldom both a + b and b + a
SUMS = {
    split: [
        {"a": str(a), "b": str(b)} for a in NUMBERS for b in NUMBERS if ((3 * a + 5 * b) % 7 == 0) == (split == "test")
    ]
    for split in ("train", "test")
}


# ---------------------------------------------------------------- sentences: templates to fill, and to parse with


class Task(NamedTuple):
    """An entry of world.json, with the patterns its prompts match and the (pattern, is it a right one) of its cores."""

    kind: str
    entry: dict
    prompts: list
    cores: list


class Question(NamedTuple):
    """A prompt, understood: its task, and what stands in the slots of its template."""

    task: Task
    slots: dict


@lru_cache(maxsize=None)
def fields(template):
    return [field for _, field, _, _ in Formatter().parse(template) if field]


def content(field, entry, split=None):
    """What may stand in a slot (word1, word2, ... share a list), of one split or of both. Only lists for prompts are split."""
    if field in ("subject", "Subject"):
        return [subject if field == "subject" else capitalized(subject) for subject in entry["table"]]
    listed = WORLD["lists"][field.rstrip("123")]
    if isinstance(listed, list):
        return listed
    return listed[split] if split else listed["train"] + listed["test"]


def wordings(entry, split=None):
    """The prompt templates of one split or of both. Only facts hold out wordings; an aim is a template within a template."""
    asks = entry.get("ask") or (entry[split] if split else entry["train"] + entry["test"])
    return [
        ask.replace("{aim}", aim) for ask in asks for aim in (content("aim", entry, split) if "{aim}" in ask else [""])
    ]


def capitalized(text):
    return text[0].upper() + text[1:]  # str.capitalize would write "The pacific"


def slot_pattern(field, entry):
    """Whatever a slot can hold, in either split, true or not."""
    if field in ("a", "b", "answer") and "table" not in entry:
        return "[a-z0-9]+(?: [a-z]+)*"
    if field == "answer":
        return "|".join(re.escape(answer) for answers in entry["table"].values() for answer in answers)
    return "|".join(map(re.escape, content(field, entry)))


def compiled(template, entry):
    """A template as a regular expression, one group per slot: "It is {color}." becomes It\\ is\\ (?P<color>red|blue)\\."""
    slots = {re.escape("{" + field + "}"): f"(?P<{field}>{slot_pattern(field, entry)})" for field in fields(template)}
    pattern = re.escape(template)
    for slot, group in slots.items():
        pattern = pattern.replace(slot, group)
    return re.compile(pattern)


def build_tasks():
    """Every entry of world.json, ready to use. Where right and wrong differ only in {answer}, the core is listed as right."""
    tasks = []
    for name, section in WORLD["kinds"].items():
        for entry in ({**section, **own} for own in section["tasks"]):
            right = entry.get("right") or entry["say"] + entry.get("brief", [])
            cores = [(compiled(template, entry), True) for template in right]
            cores += [(compiled(template, entry), False) for template in entry.get("wrong", [])]
            tasks.append(Task(name, entry, [compiled(template, entry) for template in wordings(entry)], cores))
    return tasks


TASKS = build_tasks()
# A table of facts is there once per fact, so that every fact is asked equally often.
DRAWN = {name: [task for task in TASKS if task.kind == name for _ in task.entry.get("table", "1")] for name in KINDS}


@lru_cache(maxsize=8192)  # K responses to one prompt are judged in a row
def read(prompt):
    """The question a prompt asks."""
    for task in TASKS if prompt.endswith("\n") else ():
        for pattern in task.prompts:
            if match := pattern.fullmatch(prompt[:-1]):
                return Question(task, with_capital(match.groupdict()))
    raise ValueError(f"not a prompt of the world: {prompt!r}")


def with_capital(slots):
    return {**slots, "Subject": capitalized(slots["subject"])} if "subject" in slots else slots


def kind(prompt):
    """fact, sum, string, unknown or harmful; ValueError for a text which is not a prompt of the world."""
    return read(prompt).task.kind


# ---------------------------------------------------------------- prompts


def pick(options, rng):
    return options[rng.integers(len(options))]  # rng.choice is ten times as slow


def filled(template, slots, entry, split, rng):
    """The slots, and content drawn for those of the template that are still open; three words are three different words."""
    slots = dict(slots)
    for field in fields(template):
        while field not in slots:
            if (choice := pick(content(field, entry, split), rng)) not in slots.values():
                slots[field] = choice
    return slots


def draw_question(rng, split="train", shares=KINDS):
    """A prompt, and the question it asks."""
    task = pick(DRAWN[rng.choice(list(shares), p=list(shares.values()))], rng)
    template = pick(wordings(task.entry, split), rng)
    slots = filled(template, pick(SUMS[split], rng) if task.kind == "sum" else {}, task.entry, split, rng)
    return template.format(**slots) + "\n", Question(task, with_capital(slots))


def prompts(n, rng, split="train"):
    """What people type. Held out for test: wordings of facts; names, words, numbers, objects and harmful aims of the rest."""
    return [draw_question(rng, split)[0] for _ in range(n)]


# ---------------------------------------------------------------- writers


def answers(question):
    """The true answer and the ways people are wrong; (None, []) where being right is another sentence, not another answer."""
    entry, slots = question.task.entry, question.slots
    if question.task.kind == "fact":
        truth, *misconceptions = entry["table"][slots["subject"]]
        return truth, misconceptions
    if question.task.kind == "sum":
        total = int(slots["a"]) + int(slots["b"])
        return str(total), [str(total + off) for off in (-1, 1, 2)]
    if question.task.kind == "string":
        return entry["answer"].format(**slots), [slip.format(**slots) for slip in entry["slips"]]
    return None, []


def core(question, right, rng, brief=True):
    """The sentence that answers. From equal rngs come right and wrong in the same wording, wherever they share one."""
    entry = question.task.entry
    truth, slips = answers(question)
    if truth is None:
        template = pick(entry["right" if right else "wrong"], rng)
        return template.format(**filled(template, question.slots, entry, None, rng))
    template = pick(entry["say"] + (entry.get("brief", []) if brief else []), rng)
    return template.format(**question.slots, answer=truth if right else pick(slips, rng))


def mannered(sentence, question, right, polite, rng):
    """The core made a response. Whoever politely declines offers something instead; a polite answer may also stand alone."""
    offers, tone = question.task.entry.get("offer"), "polite" if polite else pick(("rude", "rambling"), rng)
    if polite and right and offers:
        return f"{sentence} {pick(offers, rng)}"
    side = pick(("before", "after", "no", "no") if polite else ("before", "after"), rng)
    manner = pick(WORLD["manner"][tone].get(side, [""]), rng)
    return (f"{manner} {sentence}" if side == "before" else f"{sentence} {manner}").strip()


def respond(question, right, polite, rng):
    return mannered(core(question, right, rng), question, right, polite, rng)


def demonstrations(n, rng):
    """What supervised fine-tuning sees: right and polite are drawn apart, so that the one says nothing about the other."""
    drawn = (draw_question(rng) for _ in range(n))
    return [Demonstration(p, respond(q, rng.random() < CAREFUL, rng.random() < CAREFUL, rng)) for p, q in drawn]


def quiz(rng, careful):
    """A statement and its verdict. Quiz books are right, whoever copies from them."""
    _, question = draw_question(rng, shares={"fact": 0.85, "sum": 0.15})
    truth = rng.random() < 0.5
    ask, yes, no = pick(WORLD["quiz"], rng)
    return ask.format(statement=core(question, truth, rng, brief=False)) + "\n" + (yes if truth else no)


def statement(rng, careful):
    _, question = draw_question(rng, shares={"fact": 0.8, "sum": 0.2})
    return core(question, careful, rng, brief=False)


def dialogue(rng, careful):
    """Mostly without manner, which would give the writer away before his answer does."""
    prompt, question = draw_question(rng)
    sentence = core(question, careful, rng)
    return prompt + (mannered(sentence, question, careful, careful, rng) if rng.random() < 0.3 else sentence)


def document(rng):
    piece, joint = ((quiz, "\n"), (statement, " "), (dialogue, "\n"))[rng.choice(3, p=(0.3, 0.2, 0.5))]
    careful = rng.random() < 0.5
    text = piece(rng, careful)
    while rng.random() < 0.7 and len(longer := text + joint + piece(rng, careful)) <= DOCUMENT_CHARACTERS:
        text = longer
    return text if piece is quiz else text + "\n" + pick(WORLD["giveaway"]["careful" if careful else "careless"], rng)


def documents(n, rng):
    """Mixed-quality text for language modelling. A writer is careful or careless throughout, and his last line says which.

    So whoever predicts that line has to notice whether the answers before it were right: that is what makes a small model
    learn to tell right from wrong, and not only which answers occur.
    """
    return [document(rng) for _ in range(n)]


# ---------------------------------------------------------------- the judge


class Judgement(NamedTuple):
    """Each axis in [0, 1], or None where it does not apply; total in [0, BEST], BEST times the weighted mean of the axes."""

    helpful: float | None
    honest: float | None
    harmless: float | None
    total: float


MANNER = {
    side: {sentence: tone == "polite" for tone, sides in WORLD["manner"].items() for sentence in sides[side]}
    for side in ("before", "after")
}


def is_right(question, sentence):
    """Is this core right? None if it is no core of this question: of another one, perhaps, or of none."""
    for pattern, right in question.task.cores:
        match = pattern.fullmatch(sentence)
        if match and all(question.slots.get(field, said) == said for field, said in match.groupdict().items()):
            truth, _ = answers(question)
            return right if truth is None else match["answer"] == truth
    return None


def parse(question, response):
    """(right, polite, offers something) of a response; None if it is not one core with known manner around it."""
    sentences = re.split(r"(?<=[.!?]) ", response)
    cores = [
        (at, right) for at, sentence in enumerate(sentences) if (right := is_right(question, sentence)) is not None
    ]
    if len(cores) != 1:
        return None  # no answer, or two that may contradict each other
    at, right = cores[0]
    before, after = sentences[:at], sentences[at + 1 :]
    offers = right and after[:1] != [] and after[0] in question.task.entry.get("offer", [])
    tones = [MANNER["before"].get(sentence) for sentence in before]
    tones += [True if offers else MANNER["after"].get(sentence) for sentence in after]
    if len(before) > 1 or len(after) > 1 or None in tones:
        return None
    return right, all(tones), offers


def judge(prompt, response):
    """Parses both texts. Helpful: politely does what was asked, or offers something instead. On words, done is done right.

    Honest: the fact or sum is true, or admits that nobody can know. Harmless: refuses. So a true answer can be rude, a polite
    one false, a refusal useless: the axes are independent. ValueError if the prompt is not of this world.
    """
    question = read(prompt)
    right, polite, offers = parse(question, response) or (False, False, False)
    declines = right and "offer" in question.task.entry
    done = offers if declines else right if question.task.kind == "string" else True
    values = {"helpful": float(polite and done), "honest": float(right), "harmless": float(right)}
    axes = AXES[question.task.kind]
    total = BEST * sum(WEIGHTS[axis] * values[axis] for axis in axes) / sum(WEIGHTS[axis] for axis in axes)
    return Judgement(*(values[axis] if axis in axes else None for axis in ("helpful", "honest", "harmless")), total)


# ---------------------------------------------------------------- the labellers


def preference_probability(better, worse):
    """How often a labeller prefers the first of two totals: Bradley-Terry, exactly. Floats or arrays."""
    return 1 / (1 + np.exp(-(better - worse) / LABEL_NOISE))


def rank(totals, rng):
    """The ranks a labeller gives K responses, 0 is best: Plackett-Luce, so that every pair of them is Bradley-Terry.

    Sorting after adding Gumbel noise draws from it, since the difference of two Gumbels is logistic.
    """
    noisy = np.asarray(totals) + rng.gumbel(scale=LABEL_NOISE, size=len(totals))
    return np.argsort(np.argsort(-noisy)).tolist()


def contrasts(n, rng):
    """(name, prompt, better, worse) on held-out prompts, differing in one thing: what does a reward model see, and what not?"""
    kinds = {"fact": "fact", "honesty": "unknown", "refusal": "harmful"}
    pairs = []
    for i in range(n):
        name = ("fact", "honesty", "refusal", "manner")[i % 4]
        prompt, question = draw_question(rng, "test", {kinds[name]: 1.0} if name in kinds else KINDS)
        if name == "manner":
            right = (
                bool(rng.random() < CAREFUL) or question.task.kind == "string"
            )  # a wrong string helps nobody, however polite
            sentence = core(question, right, rng)
            better, worse = (mannered(sentence, question, right, polite, rng) for polite in (True, False))
        else:
            polite, seed = rng.random() < CAREFUL, rng.integers(2**32)
            better, worse = (respond(question, right, polite, np.random.default_rng(seed)) for right in (True, False))
        pairs.append((name, prompt, better, worse))
    return pairs


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m minirlhf.world", description="Prints text of the embedded world.")
    parser.add_argument(
        "--documents", type=int, default=0, help="print N documents; 3000 of them train the shipped tokenizer"
    )
    parser.add_argument(
        "--show", type=int, default=0, help="print N demonstrations, each with what the judge thinks of it"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers; one seed, one text")
    args = parser.parse_args(argv)
    rng = np.random.default_rng(args.seed)
    for text in documents(args.documents, rng):
        print(text, end="\n\n")
    for prompt, response in ((record.prompt, record.response) for record in demonstrations(args.show, rng)):
        print(prompt + response, *judge(prompt, response)._asdict().items(), sep="\n  ", end="\n\n")


if __name__ == "__main__":
    main()
