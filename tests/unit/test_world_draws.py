"""What the embedded world draws: shares, what each split may hold, and what documents say.

Shares are held within six standard errors: a false alarm has probability below 1e-8.
"""

import math
from collections import Counter

import numpy as np
import pytest

from minirlhf.world import sentences, writers
from minirlhf.world.judge import forms, parse_response, split_sentences
from minirlhf.world.sentences import WORLD

FACTS = [entry for entry in sentences.ENTRIES if entry["kind"] == "fact"]
UNRANKED = [s for e in FACTS for split in ("validation", "test") for s in e["facts"][split]]
ENDINGS = {
    **dict.fromkeys(WORLD["giveaway"]["careful"], True),
    **dict.fromkeys(WORLD["giveaway"]["careless"], False),
}
QUIZ_ENDINGS = {yes: True for _, yes, _ in WORLD["quiz"]}
QUIZ_ENDINGS |= {no: False for _, _, no in WORLD["quiz"]}


def rng(seed=0):
    return np.random.default_rng(seed)


def close(hits, n, share):
    return abs(hits / n - share) < 6 * math.sqrt(share * (1 - share) / n)


def questions(n, split="train", **options):
    source = rng(1)
    return [writers.draw_question(source, split, **options)[1] for _ in range(n)]


# ------------------------------------------------------------ splits


@pytest.mark.parametrize("split", sentences.SPLITS)
def test_what_fills_a_slot_is_of_the_split_and_half_of_the_held_out_facts_are_ranked(split):
    """Names, persons, objects, words and sums are never another split's; the facts of validation
    and test are their own or those of train. What a request is for is in the prompt's template."""
    for question in questions(4000, split):
        for field, text in question.slots.items():
            wanted = sentences.content(field, question.entry, split)
            if field == "subject":
                wanted += sentences.content(field, question.entry, "train")
            assert text in wanted


def test_no_demonstration_no_ranked_prompt_and_no_prompt_of_ppo_has_an_unranked_fact():
    """Neither in a prompt nor in a response. Comparisons and PPO draw from writers.prompts in the
    train split; 20,000 draws of it."""
    text = "".join(writers.prompts(20_000, rng(2)))
    text += "".join(d.prompt + d.response + "\n" for d in writers.demonstrations(6000, rng(3)))
    assert len(UNRANKED) == 24 and [subject for subject in UNRANKED if subject in text] == []


def test_no_fact_has_two_homes_and_the_sums_are_all_from_1_plus_1_to_6_plus_6():
    """No subject stands in two tables or two splits, and none is part of another: a text that has
    the one would have the other."""
    subjects = [s for entry in FACTS for facts in entry["facts"].values() for s in facts]
    assert len(set(subjects)) == len(subjects)
    assert not [(a, b) for a in subjects for b in subjects if a != b and a in b]
    sums = [text for part in WORLD["lists"]["sum"].values() for text in part]
    assert sorted(sums) == [f"{a} plus {b}" for a in range(1, 7) for b in range(1, 7)]


def test_a_word_to_say_is_harmless_or_sounds_like_harm_and_never_both():
    """The lists share no word, or the kind of "Say the word burn." would depend on the order of
    the entries."""
    words, crimes = (
        {text for part in WORLD["lists"][name].values() for text in part}
        for name in ("word", "crime")
    )
    assert words.isdisjoint(crimes)


def test_contrasts_are_on_validation_prompts_and_those_named_unranked_on_unranked_facts():
    """A contrast in a training wording, or on a ranked fact, would say little of generalisation."""
    for name, prompt, *_ in writers.contrasts(1200, rng()):
        question = sentences.parse_prompt(prompt)
        templates = [
            sentences.compile_template(t, question.entry) for t in question.entry["validation"]
        ]
        assert any(template.fullmatch(prompt[:-1]) for template in templates)
        if question.entry["kind"] == "fact":
            assert sentences.is_ranked(question) == (name != "unranked")


# ------------------------------------------------------------ shares


def test_tasks_of_a_kind_come_as_often_as_they_weigh_and_facts_equally_often():
    """A harmless request and a question that holds its answer come twice as often as a word to
    say."""
    weights = [
        entry.get("weight", 1) for entry in sentences.ENTRIES if entry["kind"] == "lookalike"
    ]
    assert weights == [2, 2, 1]
    counts = Counter(
        place
        for question in questions(3000, shares={"lookalike": 1.0})
        for place, entry in enumerate(sentences.ENTRIES)
        if question.entry is entry
    )
    assert len(counts) == 3
    for count, share in zip(
        [counts[place] for place in sorted(counts)], (0.4, 0.4, 0.2), strict=True
    ):
        assert close(count, 3000, share)
    subjects = Counter(q.slots["subject"] for q in questions(4000, shares={"fact": 1.0}))
    ranked = [subject for entry in FACTS for subject in entry["facts"]["train"]]
    assert set(subjects) == set(ranked)
    assert all(close(subjects[subject], 4000, 1 / len(ranked)) for subject in ranked)


def test_demonstrations_are_right_and_polite_in_their_shares():
    """Right on facts, sums, questions that nobody can answer and harmful requests, where a
    right core is always told from a wrong one; polite on facts and sums."""
    counts = Counter()
    for record in writers.demonstrations(5000, rng()):
        question = sentences.parse_prompt(record.prompt)
        parsed = parse_response(question, record.response)
        if question.entry["kind"] in ("fact", "sum", "unknown", "harmful"):
            counts["n"] += 1
            counts["right"] += parsed.verdict == "right"
        if question.entry["kind"] in ("fact", "sum"):
            counts["answers"] += 1
            counts["polite"] += parsed.polite and parsed.verdict in ("right", "wrong")
    assert close(counts["right"], counts["n"], writers.CAREFUL)
    assert close(counts["polite"], counts["answers"], writers.POLITE)


# ------------------------------------------------------------ documents


def truth(sentence):
    """(kind, whether a statement is true) of a fact or a sum; None if a sentence is neither."""
    for entry in sentences.ENTRIES:
        for say in entry["say"] if entry["kind"] in ("fact", "sum") else []:
            for form in forms(sentence):
                match = sentences.compile_template(say, entry).fullmatch(form)
                if match:
                    slots = match.groupdict()
                    answer = slots.pop("answer")
                    return entry["kind"], answer == sentences.answers((entry, slots))[0]
    return None


@pytest.fixture(scope="module")
def documents():
    """{style: the lines of documents}, "copybook" among the styles."""
    styles = {"copybook": [], "quiz": [], "dialogue": [], "statement": []}
    for text in writers.documents(3000, rng(4)):
        lines = text.split("\n")
        if len(lines) == 4 and len(set(lines)) == 1:
            styles["copybook"].append(lines)
        elif lines[-1] in QUIZ_ENDINGS:
            styles["quiz"].append(lines)
        else:
            styles["statement" if truth(lines[0]) else "dialogue"].append(lines)
    return styles


def dialogues(documents):
    """(careful, prompt, response) of each dialogue that comes first in its document. The room that
    is left decides which ones come later."""
    return [(ENDINGS[lines[-1]], lines[0] + "\n", lines[1]) for lines in documents["dialogue"]]


def test_styles_writers_and_the_kinds_in_documents_come_in_their_shares(documents):
    """STYLES among documents that are no copybooks; half of the writers are careful; STATEMENTS
    among what comes first in a document."""
    styles = {style: documents[style] for style in writers.STYLES}
    n = sum(map(len, styles.values()))
    assert n + len(documents["copybook"]) == 3000
    for style, share in writers.STYLES.items():
        assert close(len(styles[style]), n, share)
    endings = [ENDINGS[lines[-1]] for name in ("dialogue", "statement") for lines in styles[name]]
    assert close(sum(endings), len(endings), 0.5)
    kinds = Counter(truth(lines[0])[0] for lines in styles["statement"])
    for kind, share in writers.STATEMENTS.items():
        assert close(kinds[kind], len(styles["statement"]), share)


def test_the_kinds_of_dialogues_come_in_their_shares_and_not_in_those_of_prompts():
    """12,000 dialogues: the two differ by as little as .03."""
    source, n = rng(6), 12_000
    prompts = (writers.dialogue(True, source).split("\n")[0] + "\n" for _ in range(n))
    kinds = Counter(map(sentences.kind, prompts))
    for kind, share in writers.DIALOGUES.items():
        assert close(kinds[kind], n, share)
    assert not close(kinds["string"], n, writers.PROMPTS["string"])


def test_statements_are_true_where_the_last_line_says_that_the_writer_is_careful(documents):
    """And false where it says careless: the line can be predicted from what is true alone."""
    for *lines, last in documents["statement"]:
        assert {truth(line)[1] for line in lines} == {ENDINGS[last]}


def test_the_verdict_of_every_quiz_is_right_and_half_of_them_say_true(documents):
    """Whoever writes it."""
    verdicts = []
    for lines in documents["quiz"]:
        for line, verdict in zip(lines[::2], lines[1::2], strict=True):
            (statement,) = (
                line.removeprefix(before).removesuffix(after)
                for before, after in (quiz.split("{statement}") for quiz, *_ in WORLD["quiz"])
                if line.startswith(before) and line.endswith(after) and verdict in QUIZ_ENDINGS
                if truth(line.removeprefix(before).removesuffix(after))
            )
            assert truth(statement)[1] == QUIZ_ENDINGS[verdict]
            verdicts.append(QUIZ_ENDINGS[verdict])
    assert close(sum(verdicts), len(verdicts), 0.5)


def test_dialogues_are_polite_where_they_are_right_and_most_have_no_manner(documents):
    """MANNER of those of careless writers have a sentence of manner or an offer: it would give the
    writer away before the answer does. Half of what careful ones answer politely has none."""
    count, mannered = 0, 0
    for careful, prompt, response in dialogues(documents):
        question = sentences.parse_prompt(prompt)
        parsed = parse_response(question, response)
        manner = len(split_sentences(response)) > 1
        assert parsed.verdict != "malformed"
        assert (parsed.verdict == "right") == careful
        if careful:
            assert parsed.polite
        else:
            count += 1
            mannered += manner
            evasive = parsed.verdict in ("declined", "off")
            assert not manner or evasive or not parsed.polite
    assert close(mannered, count, writers.MANNER)


def test_a_document_of_several_passages_has_at_most_a_hundred_characters_before_its_last_line(
    documents,
):
    """Short documents fill a batch with little waste. One long passage may exceed it."""
    passages = {"dialogue": 2, "statement": 1}
    bodies = [
        body
        for style, length in passages.items()
        for *body, _ in documents[style]
        if len(body) > length
    ]
    bodies += [lines for lines in documents["quiz"] if len(lines) > 2]
    longest = max(len("\n".join(body)) for body in bodies)
    assert len(bodies) > 500 and 90 < longest <= 100


def test_a_copybook_has_one_to_four_words_on_a_line(documents):
    """Short lines teach copying soonest. No word of the lists has a space."""
    lengths = Counter(len(lines[0].split()) - 1 for lines in documents["copybook"])
    assert set(lengths) == {1, 2, 3, 4}
    assert all(lines[0].startswith("Copy: ") for lines in documents["copybook"])
