"""docs/SPEC.md: the portable sentences, the details and the zoo, by topic."""

import re
import textwrap
from functools import cache

from bibliography import PAPERS, PROJECTS
from details import DETAILS
from sources import (
    TOPICS,
    libraries,
    one_line,
    portable_tests,
    table,
    tests_by_name,
    topic_of,
    verdict_counts,
    zoo,
)

GROUPS = {  # the topics of a group of the zoo; see topic_of_animal
    "PROMPTS_AND_PADDING": ["MASK"],
    "SAMPLING": ["SAMPLE"],
    "LOG_PROBABILITIES": ["SAMPLE"],
    "SUPERVISED_FINE_TUNING": ["UPDATE", "LOSS"],
    "THE_REWARD_MODEL": ["RM"],
    "SCORES_AND_KL": ["REWARD", "KL"],
    "VALUES_AND_ADVANTAGES": ["ADV"],
    "LOSSES_AND_THE_UPDATE": ["UPDATE", "LOSS", "KL"],
    "METRICS": ["METRIC"],
    "EVALUATION_AND_CHECKPOINTS": ["METRIC", "UPDATE"],
    "DIRECT_PREFERENCE_OPTIMISATION": ["DPO"],
    "OTHER_DIRECT_LOSSES": ["DIRECT"],
    "RATINGS_AND_FLAGS": ["RATE"],
    "WITHOUT_A_CRITIC": ["GROUP"],
    "REWARDS_FROM_ELSEWHERE": ["META"],
    "OTHER_REWARDS": ["ROBUST", "CREDIT"],
    "LABELS_BY_A_MODEL": ["LABEL"],
    "ADAPTERS": ["UPDATE", "KL"],
    "SEVERAL_PROCESSES": ["UPDATE"],
}
OTHER = "OTHER"  # the topic of a group that is not in this list, at the end of the document

INTRODUCTION = """\
# A specification of RLHF

This document specifies RLHF with a reward model and PPO, the losses of DPO and its kin, and the \
advantages of methods without a critic, in {sentences} sentences that can be false. Each is a test \
that any implementation can be run against; the {details} details and the {animals} mistakes from \
published code name the tests that pin or catch them. Cite a sentence as "minirlhf specification, \
version {version}, ADV-03", a detail with "detail 44" in place of the id, and link to \
`docs/SPEC.md#ADV-03` or `docs/SPEC.md#detail-44`: these ids are never reused.

To run your own implementation against it, write an adapter, a Python file that defines whichever \
of the functions you have ([names](../tests/spec/conftest.py), \
[examples](../tests/spec/adapters)). The report says of each sentence whether it holds, in which \
cases it does not, or that it was not offered: the library has no function for it, or no way to be \
asked:

```sh
python -m pytest tests/spec --impl my_adapter.py
```"""

DIFFERENCES = """\
A sentence that does not hold is a difference and not always a bug. Some sentences are conventions \
of this specification: the default λ (ADV-02), the biased variance (ADV-11), an episode that ends \
at a hole in the mask (ADV-26), means and losses of nothing that are NaN (MASK-04, LOSS-14), an \
error for a response without a token (REWARD-05), a missing-end score that replaces the score \
(REWARD-11)."""

NOTATION = """\
- A per-token tensor has shape (B, T − 1). Column t is about choosing token t + 1 after the tokens \
up to t. The mask is 1 where token t + 1 belongs to the response, of which the end token is a part.
- `π`, `π_old`, `π_ref`: the policy, the policy that sampled, the reference. `ρ = π / π_old` is \
the ratio. `a_t` is the token that was chosen in column t.
- A score `s` comes from the reward model, one per response. A reward `r_t` belongs to a token. \
`V_t` is the value of the state before the token, `A_t` the advantage, `R_t` the return, which is \
the target of the value.
- `k1 = log(π/π_ref)`, `k2 = k1² / 2` and `k3 = π_ref/π − 1 − log(π_ref/π)` are estimates of the \
KL of a token.
- `γ` is the discount, `λ` the parameter of GAE, `ε` a clip range, `β` that of DPO, `σ` the \
logistic function. Logarithms are natural. Means are over response tokens, unless stated otherwise.
- "In the training loop": the numbers are recorded while the loop of the implementation runs. All \
other sentences are about a function.
- *Differs* names code that does something else: file and line at the commit under \
[Sources](#sources), an issue (#) or a pull request (PR) of the project named before it, or \
a cell of a notebook (c). Some of it has been corrected since.
- *Libraries*: the cases after a verdict are the parameters of the test for which it was reached. \
Where a sentence holds in some cases, the others were not offered."""


# ---- links


def reference(name):
    """A link to a test by its name: by the id of its sentence, if it has one."""
    tests = tests_by_name().get(name, [])
    if len(tests) != 1:
        return f"`{name}`"  # tests/unit/test_spec.py reports it
    sentence = tests[0].sentence
    return f"[{sentence.id}](#{sentence.id})" if sentence else tests[0].link


def anchor(identifier):
    return f'<a id="{identifier}"></a>'


def slug(name):
    return "zoo-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def capital(text):
    return text[:1].upper() + text[1:]


def full_stop(text):
    return text + "." if text and not text.endswith((".", "?", "!")) else text


# ---- the table of libraries


def overview():
    """How many sentences hold in which library, what is behind it, and which ones do not."""
    record = libraries()
    rows, notes = [], []
    for name, library in record["libraries"].items():
        rows.append([f"{name} {library['version']}", *map(str, verdict_counts(library))])
        if library["summary"]:
            adapter = f"[adapter](../tests/spec/adapters/{library['adapter']})"
            notes.append(f"- **{name}** ({adapter}). {library['summary']}")
    yield f"Measured on {record['date']} with {record['environment']}:"
    yield table(["", "holds", "does not hold", "not offered"], rows)
    yield linked(DIFFERENCES)
    yield "\n".join(notes)
    yield "<details><summary>The sentences that do not hold in one of them</summary>"
    yield failures(record["libraries"])
    yield "</details>"


def failures(libraries):
    """The sentences that some library fails, as a table."""
    rows = []
    for test in portable_tests():
        verdicts = [x["verdicts"].get(test.sentence.id, "") for x in libraries.values()]
        if any(verdict.startswith("does not hold") for verdict in verdicts):
            shown = [
                "**no**" if x.startswith("does not") else x.partition(" (")[0] for x in verdicts
            ]
            rows.append([linked(test.sentence.id), test.sentence.claim, *shown])
    return table(["", "sentence", *libraries], rows)


def verdicts_on(identifier):
    """One line: what each library does."""
    parts = []
    for name, library in libraries()["libraries"].items():
        verdict = library["verdicts"].get(identifier, "not measured")
        kind, _, cases = verdict.partition(" (")
        kind = f"**{kind}**" if kind == "does not hold" else kind
        cases = ", ".join(f"`{case}`" for case in cases.removesuffix(")").split(", ") if case)
        parts.append(f"{name} {kind}" + (f" (cases {cases})" if cases else ""))
    return "; ".join(parts)


# ---- sentences


def linked(text):
    """Ids of sentences in a text become links."""
    topics = "|".join(TOPICS)
    return re.sub(rf"\b((?:{topics})-\d\d)\b", r"[\1](#\1)", text)


def sentence_entry(test):
    sentence = test.sentence
    formulas = "; ".join(f"`{one_line(x)}`" for x in sentence.formula.split(";") if x)
    yield anchor(sentence.id)
    yield f"### {sentence.id}"
    yield f"**{sentence.claim}**"
    shown = {"Formula": formulas, "Example": sentence.example}
    remarks = {
        "Why": test.reason,
        "Source": full_stop(capital(sentence.source)),
        "Differs": full_stop(sentence.differs),
        "Libraries": verdicts_on(sentence.id) + ".",
        "Test": test.link + ".",
    }
    if not test.tables:
        yield items(shown | remarks)
    else:
        yield from (items(shown), *test.tables, items(remarks))


def items(texts):
    return "\n".join(f"- *{name}.* {linked(text)}" for name, text in texts.items() if text)


# ---- details


@cache
def topics_by_test():
    """{test name: topics of the details that it pins}."""
    topics = {}
    for topic, details in DETAILS.items():
        for detail in details:
            for name in detail.tests:
                topics.setdefault(name.rpartition("::")[2], []).append(topic)
    return topics


def detail_entry(detail):
    pins = ", ".join(map(reference, detail.tests))
    text = f"- {anchor(f'detail-{detail.number}')}**{detail.number}.** {detail.rule}"
    text += f" *Pinned by* {pins}." if pins else " *Not pinned by a test.*"
    return text + (f" *Chosen here:* {detail.choice}" if detail.choice else "")


# ---- zoo


def topic_of_animal(animal, group):
    """That of the sentence that catches it. Otherwise a topic of its group: that of a detail which
    the same test pins, or the first."""
    tests = tests_by_name().get(animal.caught_by, [])
    if tests and tests[0].sentence:
        return topic_of(tests[0].sentence.id)
    topics = GROUPS.get(group, [OTHER])
    pinned = topics_by_test().get(animal.caught_by.rpartition("::")[2], [])
    return next((topic for topic in topics if topic in pinned), topics[0])


@cache
def animals_by_topic():
    animals = {topic: [] for topic in (*TOPICS, OTHER)}
    for group, members in zoo().items():
        for animal in members:
            animals[topic_of_animal(animal, group)].append(animal)
    return animals


def animal_entry(animal):
    """Where a mistake was seen, what it does, what catches it, and the change as a diff."""
    why = full_stop(animal.why) + " " if animal.why else ""
    caught = f"Caught by {reference(animal.caught_by)}."
    seen = f"Seen in {full_stop(animal.seen)}"
    text = f"{anchor(slug(animal.name))}**{capital(animal.name)}.** {seen} {why}{caught}"
    lines = [f"  {animal.function}"]
    for mark, code in (("- ", animal.right), ("+ ", animal.wrong)):
        first, *rest = code.strip().split("\n")
        rest = textwrap.dedent("\n".join(rest)).split("\n")
        lines += [mark + line for line in (first, *rest) if line.strip()]
    return one_line(text), "\n".join(["```diff", *lines, "```"])


# ---- the document


def chapter(topic, title):
    sentences = [test for test in portable_tests() if topic_of(test.sentence.id) == topic]
    details, animals = DETAILS.get(topic, []), animals_by_topic()[topic]
    if sentences or details or animals:
        yield f"{anchor(topic)}\n\n## {title}"
    for test in sentences:
        yield from sentence_entry(test)
    if details:
        yield f"{anchor(f'{topic}-details')}\n\n### Details: {title.lower()}"
        yield "\n".join(map(detail_entry, details))
    if animals:
        yield f"{anchor(f'{topic}-mistakes')}\n\n### Mistakes: {title.lower()}"
        for animal in animals:
            yield from animal_entry(animal)


def contents():
    """The topics, with their sentences in one line each."""
    for topic, title in TOPICS.items():
        details, animals = DETAILS.get(topic, []), animals_by_topic()[topic]
        counts = [f"[{len(details)} details](#{topic}-details)"] if details else []
        counts += [f"[{len(animals)} mistakes](#{topic}-mistakes)"] if animals else []
        yield f"- **[{title}](#{topic})**" + (f" with {' and '.join(counts)}" if counts else "")
        for test in portable_tests():
            sentence = test.sentence
            if topic_of(sentence.id) == topic:
                yield f"  - [{sentence.id}](#{sentence.id}) {sentence.claim}"
    if animals_by_topic()[OTHER]:
        yield f"- **[Other methods](#{OTHER})**"
    yield "- **[Sources](#sources)**"


def sources():
    yield f"{anchor('sources')}\n\n## Sources"
    yield "\n".join(f"- {name}: {title}." for name, title in PAPERS.items())
    yield "Files and lines were read at these commits, unless a sentence names a release:"
    yield "\n".join(f"- {name}: `{commit}`" for name, commit in PROJECTS.items())


def document():
    """All of docs/SPEC.md."""
    introduction = INTRODUCTION.format(
        version=libraries()["libraries"]["minirlhf"]["version"],
        sentences=len(portable_tests()),
        details=sum(map(len, DETAILS.values())),
        animals=sum(map(len, zoo().values())),
    )
    parts = [introduction, "## Libraries", *overview(), "## Contents", "\n".join(contents())]
    parts += ["## Notation", NOTATION]
    for topic, title in {**TOPICS, OTHER: "Other methods"}.items():
        parts += chapter(topic, title)
    parts += sources()
    parts.append("This file is written by `make spec` from the tests and from `docs/spec`.")
    return "\n\n".join(parts) + "\n"
