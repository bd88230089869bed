"""How many labels a taste takes: scripted labellers with three tastes, a reward model from 25 to
300 of their answers, in random and in optimal order, and what it predicts of other choices.

    python -m minirlhf.bench.tastes         figures/taste.png; needs out/demo/sft
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minirlhf import reward
from minirlhf.data import Comparison
from minirlhf.feedback import agreement, design, questions, tastes
from minirlhf.run import config
from minirlhf.run.config import InputError, flag, rng
from minirlhf.run.files import write_text
from minirlhf.run.metrics import table
from minirlhf.tools import figures, label, taste
from minirlhf.tools.script import script
from minirlhf.world import writers

SIZES = (25, 50, 100, 150, 300)  # answers
ORDERS = ("random", "optimal")


@dataclass(frozen=True)
class Config:
    """Accuracy of a reward model against the number of labels, for three scripted tastes."""

    sft: str = flag("out/demo/sft", "SFT model that the responses come from")
    seeds: int = flag(4, "repetitions, each with other responses and other weights", low=1)
    pool: int = flag(1000, "prompts that the questions are chosen from", low=max(SIZES))
    held_out: int = flag(600, "prompts of the validation split whose choices are predicted", low=1)
    figure: str = flag("figures/taste.png", "file of the figure")
    json: str = flag("out/tastes.json", "file that everything measured is written to")


def main(argv=None):
    args = config.parse(Config, argv)
    pyplot = figures.load_pyplot()
    if not pyplot:
        raise InputError("matplotlib draws the figure: pip install -e '.[plot]'")
    results = []
    for seed in range(1, args.seeds + 1):
        results += measure(args, seed)
    write_text(args.json, json.dumps(results, indent=1) + "\n")
    header = ["taste", "order", *map(str, SIZES), "ties"]
    print("\n".join(table(header, summary(results))))
    draw(pyplot, results, args.figure)


def measure(args, seed):
    """A dictionary for each taste, order and number of labels."""
    flags, sft, tokenizer = taste.setting(taste.Config(sft=args.sft, seed=seed), script("train_rm"))
    pools = []
    for n, stream, split in (
        (args.pool, config.ASKED_PROMPTS, "train"),
        (args.held_out, config.HELD_OUT_PROMPTS, "validation"),
    ):
        prompts = writers.prompts(n, rng(seed, stream), split)
        shown = label.Config(seed=seed, policy=args.sft)
        pools.append(questions.questions(label.sample(shown, sft, tokenizer, prompts)))
    asked, held_out = pools
    states = reward.RewardModel(sft)
    orders = {
        "random": questions.in_random_order(asked, seed),
        "optimal": design.in_optimal_order(
            questions.in_random_order(asked, seed),
            [],
            lambda asked: design.last_states(states, tokenizer, asked),
        ),
    }
    results = []
    runs = [(name, order, n) for name in tastes.TASTES for order in ORDERS for n in SIZES]
    for name, order, n in tqdm(runs, desc=f"seed {seed}"):
        answers = [choice(question, tastes.TASTES[name]) for question in orders[order][:n]]
        choices = [c for c in answers if len(set(c.ranks)) > 1]
        row = {"taste": name, "order": order, "labels": n, "seed": seed}
        row["ties"] = 1 - len(choices) / n
        with tempfile.TemporaryDirectory() as folder:
            part = taste.enough(flags, choices)
            model = taste.fit(part, Path(folder), sft, tokenizer, choices, choices[:8])
        rest = [choice(question, tastes.TASTES[name]) for question in held_out]
        scores = reward.score_comparisons(model, tokenizer, rest)
        numbers = agreement.ranking_numbers(rest, scores)
        results.append(
            row | {k: float(numbers[k]) for k in ("held_out_accuracy", "held_out_pairs")}
        )
    return results


def choice(question, value):
    """What a scripted labeller says, as a Comparison."""
    responses = list(question.responses)
    first, second = value([question.prompt] * 2, responses)
    return Comparison(question.prompt, responses, [int(first < second), int(second < first)])


# ---- what it shows


def accuracies(results, name, order):
    """(labels, seeds) numpy."""
    rows = [row for row in results if (row["taste"], row["order"]) == (name, order)]
    return np.array([[r["held_out_accuracy"] for r in rows if r["labels"] == n] for n in SIZES])


def summary(results):
    """A row for each taste and order: the mean over seeds, and the share of ties."""
    rows = []
    for name in tastes.TASTES:
        for order in ORDERS:
            means = [f"{mean:.3f}" for mean in accuracies(results, name, order).mean(1)]
            ties = [r["ties"] for r in results if (r["taste"], r["order"]) == (name, order)]
            rows.append([name, order, *means, float(np.mean(ties))])
    return rows


def draw(pyplot, results, path):
    """A panel a taste: the mean over seeds for both orders, and each seed as a point."""
    figure, sides = pyplot.subplots(1, len(tastes.TASTES), figsize=(11, 3.6), layout="constrained")
    for side, name in zip(sides, tastes.TASTES, strict=True):
        for order, colour, shift in zip(ORDERS, ("tab:gray", "tab:blue"), (-3, 3), strict=True):
            table = accuracies(results, name, order)
            side.plot(SIZES, table.mean(1), color=colour, label=f"{order} order")
            places = [n + shift for n in SIZES]
            for column in table.T:
                side.plot(places, column, ".", color=colour, alpha=0.5, markersize=5)
        side.axhline(0.5, color="black", linewidth=0.6, linestyle=":")
        side.set(title=f"prefers: {name}", xlabel="labels, ties included", ylim=(0.45, 1.02))
        side.spines[["top", "right"]].set_visible(False)
        side.grid(alpha=0.25)
    sides[0].set_ylabel("share of other choices predicted")
    sides[0].legend(loc="lower right", frameon=False)
    figures.save(pyplot, figure, path)


if __name__ == "__main__":
    config.run(main)
