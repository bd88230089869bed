"""How often people agree: with one another, and with chance."""

import itertools
import math
from collections import Counter

from minirlhf.feedback.questions import key


def answers(labels):
    """{labeller: {question: answer}} of Labels. An answer is the set of the texts that are best:
    all of them for a tie, none for a question that was skipped. The last answer counts. What a
    labeller wrote is left out."""
    table = {}
    for label in labels:
        _, texts = question = key(label.prompt, label.shown)
        ranks = label.ranks[: len(label.shown)]
        pairs = zip(label.shown, ranks, strict=True)
        best = {" ".join(text.split()) for text, rank in pairs if rank == min(ranks)}
        answer = frozenset() if label.decision == "skip" else frozenset(best & texts)
        table.setdefault(label.labeller, {})[question] = answer
    return table


def labeller_rows(labels):
    """A row for each labeller: name, answers, share of ties, skipped, share of choices that fell on
    the response shown first (of two), share of responses with each flag."""
    rows = []
    for name, group in itertools.groupby(sorted(labels, key=by_name), key=by_name):
        group = list(group)
        kinds = Counter(label.decision for label in group)
        choices = [
            label.ranks[0] < label.ranks[1]
            for label in group
            if label.decision == "better" and len(label.shown) == 2
        ]
        flags = Counter(flag for x in group for words in x.flags or [] for flag in words)
        counts = ", ".join(f"{n} {flag}" for flag, n in sorted(flags.items())) or "-"
        first = share(sum(choices), len(choices))
        decisions = kinds["better"] + kinds["tie"]
        ties = share(kinds["tie"], decisions)
        rows.append([name, decisions, ties, kinds["skip"], first, counts])
    return rows


def by_name(label):
    return label.labeller


def share(count, total):
    return count / total if total else "-"


def agreement_rows(labels):
    """A row for every two labellers who answered some question both: their names, these questions,
    the share that they answered alike with its standard error, the share that chance gives, kappa;
    and of the questions in which neither saw a tie, how many and the share answered alike."""
    table, rows = answers(labels), []
    for first, second in itertools.combinations(sorted(table), 2):
        shared = [q for q in table[first] if table[first][q] and table[second].get(q)]
        if not shared:
            continue
        pairs = [(table[first][q], table[second][q], len(q[1])) for q in shared]
        alike = sum(a == b for a, b, _ in pairs) / len(pairs)
        error = math.sqrt(alike * (1 - alike) / len(pairs))
        expected = chance(pairs)
        kappa = (alike - expected) / (1 - expected) if expected < 1 else "-"
        decided = [a == b for a, b, K in pairs if len(a) < K and len(b) < K]
        numbers = [len(decided), share(sum(decided), len(decided))]
        rows.append([first, second, len(pairs), alike, error, expected, kappa, *numbers])
    return rows


def chance(pairs):
    """The share that two labellers answer alike who have these shares of ties and choose blindly
    otherwise: both a tie, or both the same one of the K responses."""
    n = len(pairs)
    first = sum(len(a) == K for a, _, K in pairs) / n
    second = sum(len(b) == K for _, b, K in pairs) / n
    same = sum(1 / K for *_, K in pairs) / n
    return first * second + (1 - first) * (1 - second) * same
