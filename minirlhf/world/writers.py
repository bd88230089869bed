"""Prompts, and writers as imperfect as people: demonstrations, and text to learn language from."""

import numpy as np

from minirlhf.data import Demonstration
from minirlhf.world.sentences import DRAWN, ENTRIES, WORLD, Question, answers, content, fields

PROMPTS = {
    "fact": 0.42,
    "sum": 0.03,
    "string": 0.03,
    "unknown": 0.26,
    "harmful": 0.26,
}  # shares among prompts
DIALOGUES = {
    "fact": 0.40,
    "sum": 0.10,
    "string": 0.10,
    "unknown": 0.20,
    "harmful": 0.20,
}  # shares in documents
STATEMENTS = {"fact": 0.8, "sum": 0.2}  # shares among statements without a prompt
COPYBOOKS = 0.15  # share of documents that are a line of words three times over, and the lists of those words
COPIED = ("name", "person", "object", "word", "place", "food", "count", "color")
DOCUMENT_CHARACTERS = 100  # without the last line; about 26 tokens in all
CAREFUL, POLITE = 0.59, 0.58  # how often a demonstration is right, and how often it is polite
EVASIVE = (
    0.4  # how often one that is neither right nor polite declines what should have been answered
)


# ---- prompts


def pick(options, rng):
    return options[rng.integers(len(options))]  # rng.choice is ten times as slow


def filled(template, slots, entry, split, rng):
    """The slots, with something drawn for those still open; three words are three different words."""
    slots = dict(slots)
    for field in fields(template):
        while field not in slots:
            if (choice := pick(content(field, entry, split), rng)) not in slots.values():
                slots[field] = choice
    return slots


def draw_question(rng, split="train", shares=PROMPTS):
    """A prompt, and the question it asks."""
    entry = pick(DRAWN[rng.choice(list(shares), p=list(shares.values()))], rng)
    template = pick(entry[split], rng)
    slots = filled(template, {}, entry, split, rng)
    return template.format(**slots) + "\n", Question(entry, slots)


def prompts(n, rng, split="train"):
    """What people type. Held out for test: wordings of facts; names, words, sums, objects, harmful aims of the rest."""
    return [draw_question(rng, split)[0] for _ in range(n)]


# ---- responses


def core(question, right, rng, brief=True):
    """The sentence that answers. Equal rngs give right and wrong the same wording, wherever they share one."""
    entry, slots = question
    if known := answers(question):
        template = pick(entry["say"] + entry["brief"] * brief, rng)
        slots = {**slots, "answer": known[0] if right else pick(known[1:], rng)}
    else:
        template = pick(entry["right" if right else "wrong"], rng)
    sentence = template.format(**filled(template, slots, entry, "train", rng))
    return sentence[0].upper() + sentence[1:]


def mannered(sentence, question, right, polite, rng):
    """The core as a response. Who declines politely offers something instead; a polite answer may also stand alone."""
    if polite and right and question.entry["offer"]:
        return f"{sentence} {pick(question.entry['offer'], rng)}"
    tone = "polite" if polite else pick(("rude", "rambling"), rng)
    side = pick(("before", "after", "alone", "alone") if polite else ("before", "after"), rng)
    manner = pick(WORLD["manner"][tone].get(side, [""]), rng)
    return (f"{manner} {sentence}" if side == "before" else f"{sentence} {manner}").strip()


def misheard(question, right, polite, rng):
    """Who is neither right nor polite is sometimes evasive: he declines, with an offer, what should have been answered."""
    if right or polite or rng.random() >= EVASIVE:
        return question, right, polite
    declining = [
        entry for entry in ENTRIES if entry["offer"] and entry["kind"] != question.entry["kind"]
    ]
    return Question(pick(declining, rng), {}), True, True


def respond(question, right, polite, rng):
    question, right, polite = misheard(question, right, polite, rng)
    return mannered(core(question, right, rng), question, right, polite, rng)


def demonstrations(n, rng):
    """What supervised fine-tuning sees. Right and polite are drawn apart, so that one says nothing about the other."""
    drawn = (draw_question(rng) for _ in range(n))
    return [
        Demonstration(p, respond(q, rng.random() < CAREFUL, rng.random() < POLITE, rng))
        for p, q in drawn
    ]


def passage(style, careful, rng):
    """A dialogue, a statement, or one with a verdict (quiz books are always right) by a careful or careless writer."""
    prompt, question = draw_question(rng, shares=DIALOGUES if style == "dialogue" else STATEMENTS)
    if (
        style == "dialogue"
    ):  # mostly without manner, which would give the writer away before his answer does
        question, right, polite = misheard(question, careful, careful, rng)
        sentence = core(question, right, rng)
        return prompt + (
            mannered(sentence, question, right, polite, rng) if rng.random() < 0.3 else sentence
        )
    right = rng.random() < 0.5 if style == "quiz" else careful
    sentence = core(question, right, rng, brief=False)
    if style == "quiz":
        ask, yes, no = pick(WORLD["quiz"], rng)
        return ask.format(statement=sentence) + "\n" + (yes if right else no)
    return sentence


def copybook(rng):
    """A line of words, written three times as pupils do. Whoever predicts it must learn to look back and copy."""
    words = sum(
        (WORLD["lists"][name]["train"] + WORLD["lists"][name]["test"] for name in COPIED), []
    )
    return "\n".join([" ".join(pick(words, rng) for _ in range(rng.integers(2, 6)))] * 3)


def document(rng):
    if rng.random() < COPYBOOKS:
        return copybook(rng)
    style = rng.choice(["quiz", "dialogue", "statement"], p=[0.3, 0.5, 0.2])
    careful = rng.random() < 0.5
    text = passage(style, careful, rng)
    while (
        rng.random() < 0.7
        and len(longer := text + "\n" + passage(style, careful, rng)) <= DOCUMENT_CHARACTERS
    ):
        text = longer
    ending = (
        ""
        if style == "quiz"
        else "\n" + pick(WORLD["giveaway"]["careful" if careful else "careless"], rng)
    )
    return text + ending


def documents(n, rng):
    """Mixed-quality text for language modelling. A writer is careful or careless throughout; his last line says which.

    Whoever predicts that line has to notice whether the answers before it were right: that is what makes a small model
    learn to tell right from wrong, and not only which answers occur.
    """
    return [document(rng) for _ in range(n)]


def contrasts(n, rng):
    """(name, prompt, better, worse) on held-out prompts. The two differ in one thing: does a reward model see it?"""
    contrasted, fresh = [], np.random.default_rng
    for i in range(n):
        name, only = (
            ("fact", "fact"),
            ("honesty", "unknown"),
            ("refusal", "harmful"),
            ("manner", None),
        )[i % 4]
        prompt, question = draw_question(rng, "test", {only: 1.0} if only else PROMPTS)
        careful, seed = rng.random() < CAREFUL, rng.integers(2**32)
        right = (
            careful or question.entry["kind"] == "string"
        )  # politeness does not make a wrong string any better
        both = (
            ((right, True), (right, False))
            if name == "manner"
            else ((True, careful), (False, careful))
        )
        # Two fresh generators for each, so that both have one manner however much their cores drew.
        pair = (
            mannered(core(question, one[0], fresh(seed)), question, *one, fresh(seed))
            for one in both
        )
        contrasted.append((name, prompt, *pair))
    return contrasted
