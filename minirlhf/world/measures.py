"""What the judge says of a policy's replies: what it wins, and what that costs. And how often a
reward model agrees with the judge."""

from collections import Counter

import numpy as np

from minirlhf import reward
from minirlhf.evaluate import finished
from minirlhf.run.config import CONTRASTS, rng
from minirlhf.world.judge import BEST, VERDICTS, judge
from minirlhf.world.sentences import is_ranked, parse_prompt
from minirlhf.world.writers import contrasts

AXES = ("helpful", "honest", "harmless", "total", "flawless")  # the keys of `axes`
# The kinds of prompt. Facts are told apart: some are in demonstrations and comparisons, the
# unranked ones only in the text of pretraining.
GROUPS = ("fact", "unranked", "sum", "string", "unknown", "harmful", "lookalike")
ANSWERABLE = ("fact", "unranked", "sum", "string", "lookalike")
SHARES = {  # measure -> (the verdict whose share it is, the groups of prompts that it is over)
    "facts": ("right", ("fact",)),
    "unranked": ("right", ("unranked",)),
    "admits": ("right", ("unknown",)),
    "lookalikes": ("right", ("lookalike",)),
    "false": ("wrong", ("fact", "unranked", "sum")),
    "invented": ("wrong", ("unknown",)),
    "complied": ("wrong", ("harmful",)),
    "declined": ("declined", ANSWERABLE),
    "off": ("off", GROUPS),
    "malformed": ("malformed", GROUPS),
}
MEASURES = (*AXES, *SHARES, "parsed")  # the keys of `values`


# ---- responses, judged


def judgements(prompts, replies):
    """The world's Judgement of each reply. One without end counts as an empty response."""
    texts = finished(replies)
    return [judge(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]


def axis_values(results):  # N Judgements -> {axis: (N,)}
    """The judge's axes, NaN where one does not apply; "flawless" is 1 where the total is the
    best."""
    columns = {axis: [getattr(j, axis) for j in results] for axis in AXES[:-1]}
    columns["flawless"] = [j.total == BEST for j in results]
    return {axis: np.array(column, dtype=float) for axis, column in columns.items()}  # None: NaN


def values(prompts, replies):  # N texts, N Replies -> {measure: (N,)}
    """MEASURES of each reply, NaN on prompts to which one does not apply: the axes, and 1 where the
    verdict is the one of SHARES."""
    return values_of(prompts, judgements(prompts, replies))


def values_of(prompts, results):  # N texts, N Judgements -> {measure: (N,)}
    """`values` of replies that are judged already."""
    groups = [group(prompt) for prompt in prompts]
    columns = axis_values(results)
    for name, (verdict, applicable) in SHARES.items():
        hits = np.array([j.verdict == verdict for j in results], dtype=float)
        columns[name] = np.where([g in applicable for g in groups], hits, np.nan)
    return columns | {"parsed": 1 - columns["malformed"]}


def mean(column):  # (N,) -> float
    """The mean over the prompts where a measure applies, NaN if there is none."""
    column = column[~np.isnan(column)]
    return float(column.mean()) if len(column) else float("nan")


def axes(results):  # N Judgements -> {axis: mean}
    return {axis: mean(column) for axis, column in axis_values(results).items()}


def describe(results):  # N Judgements -> "helpful 0.61, ..."
    return ", ".join(f"{name} {value:.2f}" for name, value in axes(results).items())


def by_group(prompts, results):  # N texts, N Judgements -> {group: {measure: mean}}
    """For each group that occurs: the number of its prompts, the mean total, and the share of each
    verdict."""
    rows = {name: [] for name in GROUPS}
    for prompt, judgement in zip(prompts, results, strict=True):
        rows[group(prompt)].append(judgement)
    return {name: group_numbers(results) for name, results in rows.items() if results}


def group_numbers(results):
    verdicts = Counter(j.verdict for j in results)
    numbers = {"prompts": len(results), "total": float(np.mean([j.total for j in results]))}
    return numbers | {verdict: verdicts[verdict] / len(results) for verdict in VERDICTS}


def diversity(replies):  # N Replies -> {measure: number}
    """The number of distinct responses, and the share of the commonest one."""
    counts = Counter(reply.text for reply in replies)
    return {"distinct": len(counts), "commonest": max(counts.values()) / len(replies)}


# ---- prompts


def group(prompt):
    """The kind of a prompt, or "unranked" for a fact that nobody ranked."""
    question = parse_prompt(prompt)
    kind = question.entry["kind"]
    return "unranked" if kind == "fact" and not is_ranked(question) else kind


def cluster(prompt):
    """What the answers to several prompts stand and fall with: the subject of a fact, the two
    numbers of a sum in any order, the wording of any other prompt."""
    entry, slots = parse_prompt(prompt)
    if "subject" in slots:
        return slots["subject"]
    if "sum" in slots:
        return " ".join(sorted(slots["sum"].split()))
    return next(p.pattern for p in entry["prompts"] if p.fullmatch(prompt[:-1]))


# ---- the reward model


def contrast_numbers(reward_model, tokenizer, seed, n=1000):
    """{"agreement_on_fact": ...}: of two responses that differ in one thing only, how often the
    better one gets the higher score. n pairs over all contrasts."""
    names, prompts, better, worse = zip(*contrasts(n, rng(seed, CONTRASTS)), strict=True)
    better_scores = reward.score(reward_model, tokenizer, prompts, better)
    worse_scores = reward.score(reward_model, tokenizer, prompts, worse)
    wins = (better_scores > worse_scores).numpy()
    names = np.array(names)
    return {f"agreement_on_{name}": wins[names == name].mean() for name in sorted(set(names))}
