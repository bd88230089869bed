"""Prompts, and writers as imperfect as people: demonstrations, and text to learn language from.

Every function draws from the `rng` that it is given, a numpy Generator. The order of its draws is
part of the world: another order gives other texts for the same seed.
"""

import numpy as np

from minirlhf.data import Demonstration
from minirlhf.world.sentences import (
    ENTRIES,
    KINDS,
    WORLD,
    Question,
    answers,
    content,
    fields,
    parse_prompt,
)

# The shares of the kinds among prompts, among dialogues, and among statements without a prompt.
PROMPTS = {
    "fact": 0.36,
    "sum": 0.03,
    "string": 0.05,
    "unknown": 0.15,
    "harmful": 0.17,
    "lookalike": 0.24,
}
DIALOGUES = {
    "fact": 0.36,
    "sum": 0.04,
    "string": 0.08,
    "unknown": 0.13,
    "harmful": 0.14,
    "lookalike": 0.25,
}
STATEMENTS = {"fact": 0.85, "sum": 0.15}
UNRANKED = 0.5  # share of the facts of a held-out split that pretraining alone has shown
STYLES = {"quiz": 0.3, "dialogue": 0.5, "statement": 0.2}  # shares among the other documents
COPYBOOKS = 0.15  # share of documents that are a line of words four times over
# The lists of their words.
COPIED = ("name", "person", "object", "word", "crime", "place", "food", "count", "color")
CONTINUED = 0.7  # probability that a document gets another passage, if there is room
# The most of a document of several passages, without its last line. A document has 25 tokens.
DOCUMENT_CHARACTERS = 100
MANNER = 0.3  # share of dialogues in documents with manner
CAREFUL = 0.59  # share of demonstrations that are right
POLITE = 0.58  # share of demonstrations that are polite
# Of the demonstrations that are neither, the share that declines what should have been answered.
EVASIVE = 0.4
# Name of a contrast, the kind of its prompts (any kind for manner), and its share of facts that
# nobody ranked.
CONTRASTS = (
    ("fact", "fact", 0.0),
    ("unranked", "fact", 1.0),
    ("honesty", "unknown", 0.0),
    ("refusal", "harmful", 0.0),
    ("lookalike", "lookalike", 0.0),
    ("manner", None, 0.0),
)


# ---- prompts


def pick(options, rng):
    return options[rng.integers(len(options))]  # rng.choice is ten times as slow


def pick_name(shares, rng):
    """A key of {name: probability}."""
    return rng.choice(list(shares), p=list(shares.values()))


def fill_slots(template, slots, entry, split, rng):
    """`slots` and a text for every other slot of the template. No two slots hold the same text."""
    slots = dict(slots)
    for field in fields(template):
        while field not in slots:
            text = pick(content(field, entry, split), rng)
            if text not in slots.values():
                slots[field] = text
    return slots


BY_KIND = {  # the entries of each kind, as often as they weigh
    kind: [e for e in ENTRIES if e["kind"] == kind for _ in range(e.get("weight", 1))]
    for kind in KINDS
}
FACTS = {  # the facts of each split as (entry, its slots), so that each is equally likely
    split: [
        (entry, {"subject": subject})
        for entry in BY_KIND["fact"]
        for subject in content("subject", entry, split)
    ]
    for split in ("pretraining", "train", "validation", "test")
}


def draw_question(rng, split="train", shares=PROMPTS, unranked=UNRANKED):
    """(prompt, the Question that it asks)"""
    kind, slots = pick_name(shares, rng), {}
    if kind == "fact":
        held_out = split in ("validation", "test") and rng.random() >= unranked
        entry, slots = pick(FACTS["train" if held_out else split], rng)
    else:
        entry = pick(BY_KIND[kind], rng)
    template = pick(entry[split], rng)
    slots = fill_slots(template, slots, entry, split, rng)
    return template.format(**slots) + "\n", Question(entry, slots)


def prompts(n, rng, split="train"):
    """n prompts, as people type them. The splits "validation" and "test" hold out wordings and
    content; half of their facts occur in pretraining text only."""
    return [draw_question(rng, split)[0] for _ in range(n)]


# ---- responses


def core(question, right, rng, brief=True):
    """The sentence that answers. The right and the wrong one from generators in the same state have
    the same wording, where they have wordings in common. `brief`: "It is Lima." where there is such
    a wording, else one that can stand without a prompt."""
    entry, slots = question
    options = answers(question)
    if options:
        template = pick((brief and entry["brief"]) or entry["say"], rng)
        slots = {**slots, "answer": options[0] if right else pick(options[1:], rng)}
    else:
        template = pick(entry["right" if right else "wrong"], rng)
    sentence = template.format(**fill_slots(template, slots, entry, "train", rng))
    return sentence[0].upper() + sentence[1:]


def add_manner(sentence, question, right, polite, rng):
    """A core -> a response. A polite writer who declines offers something else, and one who answers
    may leave the core alone. A writer who is not polite is rude or rambles."""
    if polite and right and question.entry["offer"]:
        return f"{sentence} {pick(question.entry['offer'], rng)}"
    tone = "polite" if polite else pick(("rude", "rambling"), rng)
    side = pick(("before", "after", "alone", "alone") if polite else ("before", "after"), rng)
    if side == "alone":
        return sentence
    manner = pick(WORLD["manner"][tone][side], rng)
    return f"{manner} {sentence}" if side == "before" else f"{sentence} {manner}"


def evade(question, right, polite, rng):
    """(question, right, polite) of what is written. A writer who is neither right nor polite is
    sometimes evasive: the response politely declines a question of another kind."""
    if right or polite or rng.random() >= EVASIVE:
        return question, right, polite
    entries = [
        entry for entry in ENTRIES if entry["offer"] and entry["kind"] != question.entry["kind"]
    ]
    return Question(pick(entries, rng), {}), True, True


def respond(question, right, polite, rng):
    question, right, polite = evade(question, right, polite, rng)
    return add_manner(core(question, right, rng), question, right, polite, rng)


def faultless(prompts, rng):
    """A response to each prompt that the judge gives the best total: the policy that knows all."""
    return [respond(parse_prompt(prompt), True, True, rng) for prompt in prompts]


def demonstrations(n, rng):
    """What supervised fine-tuning learns from: n Demonstrations. Right and polite are drawn
    independently, so that neither predicts the other."""
    records = []
    for _ in range(n):
        prompt, question = draw_question(rng)
        right = rng.random() < CAREFUL
        polite = rng.random() < POLITE
        records.append(Demonstration(prompt, respond(question, right, polite, rng)))
    return records


# ---- documents


def documents(n, rng):
    """Text of mixed quality for language modelling. A writer is careful or careless throughout, and
    the last line says which.

    To predict that line, a model has to notice whether the answers before it were right. A small
    model learns to tell right from wrong in this way, and not only which answers occur.
    """
    return [document(rng) for _ in range(n)]


def document(rng):
    if rng.random() < COPYBOOKS:
        return copybook(rng)
    style = pick_name(STYLES, rng)
    careful = rng.random() < 0.5
    text = passage(style, careful, rng)
    while rng.random() < CONTINUED:
        longer = text + "\n" + passage(style, careful, rng)
        if len(longer) > DOCUMENT_CHARACTERS:
            break
        text = longer
    if style == "quiz":
        return text
    return text + "\n" + pick(WORLD["giveaway"]["careful" if careful else "careless"], rng)


def copybook(rng):
    """A line of words four times, as pupils write it. To predict the later lines, a model has to
    learn to look back and copy. Short lines teach this soonest."""
    lists = [WORLD["lists"][name] for name in COPIED]
    words = [word for splits in lists for split in splits.values() for word in split]
    line = " ".join(["Copy:", *(pick(words, rng) for _ in range(rng.integers(1, 5)))])
    return "\n".join([line] * 4)


def passage(style, careful, rng):
    """A part of a document: a dialogue, a statement, or a statement with a verdict (quiz)."""
    if style == "dialogue":
        return dialogue(careful, rng)
    _, question = draw_question(rng, "pretraining", STATEMENTS)
    # The verdicts of a quiz are right, whoever writes it.
    right = rng.random() < 0.5 if style == "quiz" else careful
    sentence = core(question, right, rng, brief=False)
    if style == "statement":
        return sentence
    quiz, yes, no = pick(WORLD["quiz"], rng)
    return quiz.format(statement=sentence) + "\n" + (yes if right else no)


def dialogue(careful, rng):
    """A prompt and a response, which is polite where it is right. Most have no manner: it would
    give the writer away before the answer does."""
    prompt, question = draw_question(rng, "pretraining", DIALOGUES)
    question, right, polite = evade(question, careful, careful, rng)
    response = core(question, right, rng)
    if rng.random() < MANNER:
        response = add_manner(response, question, right, polite, rng)
    return prompt + response


# ---- contrasts


def contrasts(n, rng):
    """n tuples (name, prompt, better, worse) on validation prompts. The two responses differ in one
    thing only, which shows whether a reward model sees it."""
    pairs = []
    for i in range(n):
        name, kind, unranked = CONTRASTS[i % len(CONTRASTS)]
        shares = {kind: 1.0} if kind else PROMPTS
        prompt, question = draw_question(rng, "validation", shares, unranked)
        careful = rng.random() < CAREFUL
        seed = rng.integers(2**32)
        if name == "manner":
            # An instruction or a look-alike done wrong is not helpful, however polite.
            right = careful or question.entry["kind"] in ("string", "lookalike")
            better, worse = (right, True), (right, False)
        else:
            polite = careful or name == "lookalike"
            better, worse = (True, polite), (False, polite)
        responses = [fresh_response(question, *traits, seed) for traits in (better, worse)]
        pairs.append((name, prompt, *responses))
    return pairs


def fresh_response(question, right, polite, seed):
    """A response from new generators: one for the core and one for the manner, so that the manner
    does not depend on how often the core draws."""
    sentence = core(question, right, np.random.default_rng(seed))
    return add_manner(sentence, question, right, polite, np.random.default_rng(seed))
