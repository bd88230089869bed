"""What a policy gains by the judge against how far it has gone from the SFT model: measured once,
kept beside its run, and drawn for all methods in one figure."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minirlhf import evaluate, reward
from minirlhf.data import Example
from minirlhf.run import checkpoint, config, resume
from minirlhf.run.config import rng
from minirlhf.run.files import write_text
from minirlhf.tokenizer import Tokenizer
from minirlhf.tools import figures
from minirlhf.world import measures, writers
from minirlhf.world.judge import judge
from minirlhf.world.sentences import parse_prompt

NS = (1, 2, 4, 8, 16, 32, 64)  # of the curve of best-of-n


class Marks(NamedTuple):
    """What is measured of a policy on the prompts of a seed."""

    totals: np.ndarray  # (P,), of the judge, of 3
    kl: float  # from the SFT model, in nats per response
    distinct: int  # responses
    length: float  # tokens of a response


def validation_prompts(n, seed):
    """What every policy of a seed is measured on."""
    return writers.prompts(n, rng(seed, config.HELD_OUT_PROMPTS), "validation")


# ---- measuring


def stored(path, key, compute):
    """What `compute()` returns, a dictionary of numbers and lists; from the file `path` if it was
    computed for the same `key` before."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["key"] == key:
            return content["numbers"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # missing, or damaged: it is measured again
    numbers = compute()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"key": key, "numbers": numbers}) + "\n")
    return numbers


def measure(path, sft_path, seed, n, max_new_tokens, file):
    """The Marks of the policy in a checkpoint on n prompts, under the noise of the seed."""
    policy, tokenizer = checkpoint.load_gpt(path)
    sft, other = checkpoint.load_gpt(sft_path)
    checkpoint.same_vocabulary(path, tokenizer, sft_path, other)

    def compute():
        prompts, uniforms = validation_prompts(n, seed), evaluate.noise(seed, n, max_new_tokens)
        replies = evaluate.respond(policy, tokenizer, prompts, uniforms, progress=f"judge {path}")
        totals = measures.values(prompts, replies)["total"].tolist()
        kl = float(evaluate.kl(policy, sft, replies).mean())
        length = float(np.mean([reply.length for reply in replies]))
        return {"totals": totals, "kl": kl, "length": length} | {
            "distinct": measures.diversity(replies)["distinct"]
        }

    key = [resume.fingerprint(policy), resume.fingerprint(sft), seed, n, max_new_tokens]
    numbers = stored(file, key, compute)
    return Marks(**numbers | {"totals": np.array(numbers["totals"])})


class Samples(NamedTuple):
    """NS[-1] responses of the SFT model to each of P prompts."""

    prompts: list
    groups: list  # P lists of Replies
    golds: np.ndarray  # (P, NS[-1]), the judge's totals
    key: list  # what they depend on
    tokenizer: Tokenizer


def sample_sft(path, seed, n, max_new_tokens, folder):
    """The Samples for the first n prompts of a seed, kept in FOLDER/samples.json."""
    sft, tokenizer = checkpoint.load_gpt(path)
    prompts, size = validation_prompts(n, seed), NS[-1]
    key = [resume.fingerprint(sft), seed, n, size, max_new_tokens]
    repeated = [prompt for prompt in prompts for _ in range(size)]

    def compute():
        uniforms = evaluate.noise(seed, len(repeated), max_new_tokens, config.CANDIDATE_NOISE)
        replies = evaluate.respond(sft, tokenizer, repeated, uniforms, progress=f"best of {size}")
        results = measures.judgements(repeated, replies)
        return [
            [reply.example.tokens, reply.example.prompt_length, reply.ended, result.total]
            for reply, result in zip(replies, results, strict=True)
        ]

    rows = stored(Path(folder) / "samples.json", key, compute)
    replies = [
        evaluate.Reply(tokenizer.decode(tokens[start:]), Example(tokens, start), ended)
        for tokens, start, ended, _ in rows
    ]
    groups = [replies[i : i + size] for i in range(0, len(replies), size)]
    golds = np.array([row[-1] for row in rows], dtype=float).reshape(n, size)
    return Samples(prompts, groups, golds, key, tokenizer)


def score_samples(path, samples, file):  # -> (P, NS[-1])
    """The scores of Samples by the reward model in a checkpoint, kept in a file."""
    reward_model, other, missing_end_score = reward.load_reward_model(path)
    checkpoint.same_vocabulary("the SFT model", samples.tokenizer, path, other)
    score = evaluate.model_scores(reward_model, missing_end_score)
    replies = [reply for group in samples.groups for reply in group]

    def compute():
        return score(samples.prompts, replies).tolist()  # it reads the replies' own ids

    scores = stored(file, [*samples.key, resume.fingerprint(reward_model)], compute)
    return np.array(scores).reshape(samples.golds.shape)


def writers_total(n, seed):
    """The judge's mean total of the writers of the demonstrations: where imitation ends."""
    prompts, draw = validation_prompts(n, seed), rng(seed, config.WRITERS_RESPONSES)
    coins = [
        [draw.random() < share for share in (writers.CAREFUL, writers.POLITE)] for _ in prompts
    ]
    totals = [
        judge(prompt, writers.respond(parse_prompt(prompt), *pair, draw)).total
        for prompt, pair in zip(prompts, coins, strict=True)
    ]
    return float(np.mean(totals))


def difference(totals, others, prompts):
    """(mean, half the width of its 95% interval) of the paired differences on the prompts that both
    have; clusters as in `measures.cluster`."""
    n = min(len(totals), len(others))
    clusters = [measures.cluster(prompt) for prompt in prompts[:n]]
    return evaluate.interval(totals[:n] - others[:n], clusters)


# ---- the figure


class Curve(NamedTuple):
    """A method in the figure."""

    name: str
    family: str  # its colour
    points: list  # (KL, total) from the SFT model on, along training, and at the end
    ends: list  # (KL, total) of each seed


def path_along(folders):  # -> list of (KL, total)
    """Points along training by the held-out evaluations of runs, mean over the runs, at the updates
    that all of them evaluated, without the last one. Empty without evaluations."""
    runs = [{r["step"]: r for r in figures.evaluations(folder)} for folder in folders]
    steps = sorted(set.intersection(*map(set, runs)))[:-1]
    names = "eval_kl", "eval_total"
    return [np.mean([[run[step][n] for n in names] for run in runs], axis=0) for step in steps]


def spread(places, gap):
    """The places of labels in a column: in the order of `places`, at least `gap` apart, as near to
    them as pushing apart neighbours leaves them."""
    order = np.argsort(places, kind="stable")
    groups = []  # [labels, mean place of their middle]
    for place in np.asarray(places, dtype=float)[order]:
        groups.append([1, place])
        while len(groups) > 1 and overlap(groups[-2], groups[-1], gap):
            (n, middle), (m, other) = groups[-2:]
            groups[-2:] = [[n + m, (n * middle + m * other) / (n + m)]]
    columns = [middle + gap * (np.arange(n) - (n - 1) / 2) for n, middle in groups]
    spots = np.empty(len(order))
    spots[order] = np.concatenate(columns)
    return spots


def overlap(low, high, gap):
    """Whether two groups of labels come nearer than `gap`."""
    return high[1] - low[1] < gap * (low[0] + high[0]) / 2 - 1e-12


def draw(pyplot, curves, best, writers_total, path):
    """The judge's total against the KL from SFT: for each method its end point, a line where it was
    judged along training, and its seeds as small points; best-of-n `best` (n, 2); the writers as a
    level. Names stand in a column at the right, in the colour of the family."""
    figure, side = pyplot.subplots(figsize=(10, 6.5), layout="constrained")
    families = list(dict.fromkeys(curve.family for curve in curves))
    colors = dict(zip(families, pyplot.cm.tab10(np.linspace(0, 1, 10)), strict=False))
    style = {"color": "black", "linestyle": "--", "linewidth": 1, "marker": "x"}
    side.plot(*best.T, label=f"best of {NS[0]} ... {NS[-1]}", **style)
    for curve in curves:
        color = colors[curve.family]
        if len(curve.points) > 2:  # else nothing is known between the SFT model and the end
            side.plot(*np.transpose(curve.points), color=color, linewidth=1, alpha=0.7)
        side.plot(*np.transpose(curve.ends), ".", color=color, markersize=4, alpha=0.6)
        side.plot(*curve.points[-1], "o", color=color, markersize=6)
    for family in families:
        side.plot([], [], "o-", color=colors[family], label=family)
    level = {"color": "gray", "linestyle": ":", "label": f"the writers, {writers_total:.2f}"}
    side.axhline(writers_total, **level)
    side.set(xlabel="KL from SFT, nats per response", ylabel="judge's total, of 3")
    draw_names(side, curves, colors)
    side.spines[["top", "right"]].set_visible(False)
    side.grid(alpha=0.25)
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.08), "ncol": 5}
    side.legend(frameon=False, fontsize=8, **below)
    figures.save(pyplot, figure, path)


def draw_names(side, curves, colors):
    """The names of the methods right of the curves, each with a thin line to its end point."""
    if not curves:
        return
    (left, right), (low, high) = side.get_xlim(), side.get_ylim()
    column, gap = right + 0.02 * (right - left), 0.027 * (high - low)
    places = spread([curve.points[-1][1] for curve in curves], gap)
    for curve, place in zip(curves, places, strict=True):
        kl, total = curve.points[-1]
        thread = {"color": "gray", "linewidth": 0.4, "zorder": 0}
        side.plot([kl, column], [total, place], **thread)
        style = {"color": colors[curve.family], "fontsize": 8, "verticalalignment": "center"}
        side.text(column, place, " " + curve.name, **style)
    side.set_xlim(left, right + 0.2 * (right - left))
    side.set_ylim(min(low, *places - gap), max(high, *places + gap))
