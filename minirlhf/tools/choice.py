"""Which pairs to ask about: a reward model from 64 to 2,048 labels that were chosen in several
ways, and how often it agrees with the judge on other pairs.

    minirlhf choice                     all ways, seed 1; needs out/demo/sft
    minirlhf choice --seed 2            another seed; the table has all seeds in --out

    random        pairs as they come; in all ways pairs of identical texts are dropped
    half          the pairs whose order the model is least sure of
    optimal       D-optimal: the pairs whose directions are newest to V, by the model's last states
    fisher        the same, each direction weighted by sqrt(p (1 - p))
    disagreement  the pairs on which an ensemble disagrees most
    once          D-optimal by the SFT model's states, in one order: minirlhf label --order optimal

The number of labels doubles. The first 64 are random, except with `once`. A reward model learns
them, says which ones come next, and is trained again from the SFT model on all. The same command
goes on where it stopped.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from minirlhf import data, reward
from minirlhf.data import Comparison
from minirlhf.feedback import agreement, choice, design, questions, simulated
from minirlhf.rewards import axes
from minirlhf.rewards.axes import Choice
from minirlhf.run import chain, checkpoint, compute, config
from minirlhf.run.config import InputError, ModelFlags, flag, rng
from minirlhf.tools import label, measured, parts, taste
from minirlhf.tools.script import script
from minirlhf.tools.taste import BATCH, FEWEST_STEPS
from minirlhf.world import writers

WAYS = ("random", "half", "optimal", "fisher", "disagreement", "once")
WARMUP = 4  # steps of the reward model
FEWEST = 64  # labels, which double up to --labels


@dataclass(frozen=True)
class PoolFlags(ModelFlags):
    """What labellers of the world are asked about, and how a reward model learns it."""

    sft: str = flag("out/demo/sft", "SFT model that the responses come from")
    labels: int = flag(2048, "the most labels; 64, 128, 256, ... up to this are tried", low=FEWEST)
    pool: int = flag(4096, "prompts with two responses each, which are chosen from", low=FEWEST)
    held_out: int = flag(1000, "prompts of the validation split that agreement is on", low=1)
    epochs: int = flag(2, "passes over the labels; of few labels more, for 32 steps", low=1)
    lr: float = flag(1e-3, "peak learning rate of the reward model", above=0)
    max_new_tokens: int = flag(32, "the most tokens a response may have", low=1)


@dataclass(frozen=True)
class Config(PoolFlags):
    """Agreement with the judge against the number of labels, for several ways to choose them."""

    out: str = flag("out/choice", "folder of the numbers, OUT/SEED/WAY.json")
    ways: str = flag(",".join(WAYS), "which of them, with commas between")
    members: int = flag(4, "reward models of the ensemble", low=2)


class Setting(NamedTuple):
    """What all ways share."""

    args: object
    sft: object
    tokenizer: object
    pool: list  # labelled Comparisons of two different texts, in random order
    totals: list  # of the judge, for each
    held_out: list  # labelled Comparisons of four responses
    truth: list  # of the judge, for each


def main(argv=None):
    args = config.parse(Config, argv)
    ways = parts.chosen("--ways", args.ways, WAYS)
    args = compute.resolve(args, compute.pick_device(args.device))
    missing = measured.missing(args, ways)
    setting = load_setting(args) if missing else None
    sft = setting.sft if setting else load_sft(args)[0]
    measured.all_rows(args, WAYS, ("ways",), sft)  # before anything is made
    with tqdm(total=len(missing) * len(sizes(args)), desc=f"seed {args.seed}") as bar:
        for way in missing:
            rows = partial(measure, args, way, setting, bar)
            measured.make(args, way, rows, ("ways",), sft)
    found = measured.all_rows(args, WAYS, ("ways",))
    print("\n".join(measured.tables(found, "labels", sizes(args), "random", "tied")))


def sizes(args):
    """64, 128, 256, ..., at most --labels."""
    return [FEWEST * 2**k for k in range(args.labels.bit_length()) if FEWEST * 2**k <= args.labels]


# ---- pool and labels


def load_setting(args):
    """The SFT model, its pairs with a label each, and held-out comparisons. Every way asks the same
    labeller: a pair has the same label whoever asks about it."""
    chain.refuse_own_data(args.sft)
    sft, tokenizer = load_sft(args)
    lists = []
    for n, K, stream, split in (
        (args.pool, 2, config.ASKED_PROMPTS, "train"),
        (args.held_out, 4, config.HELD_OUT_PROMPTS, "validation"),
    ):
        prompts = writers.prompts(n, rng(args.seed, stream), split)
        shown = label.Config(
            seed=args.seed, policy=args.sft, responses=K, max_new_tokens=args.max_new_tokens
        )
        samples = label.sample(shown, sft, tokenizer, prompts)
        asked = questions.questions(samples) if split == "train" else samples
        lists += labelled(asked, rng(args.seed, config.ASKED_LABELS, len(lists)))
    pool, totals, held_out, truth = lists
    same = args.pool - len(pool)
    print(f"{same} of {args.pool} pairs are left out: identical texts, or asked twice")
    if len(pool) < args.labels:
        problem = f"--pool {args.pool} leaves {len(pool)} pairs of different texts"
        raise InputError(f"{problem}, fewer than --labels {args.labels}; raise --pool")
    return Setting(args, sft, tokenizer, pool, totals, held_out, truth)


def load_sft(args):
    """(GPT, Tokenizer)"""
    taste.require_sft(args.sft)
    precision = compute.PRECISIONS[args.precision]
    return checkpoint.load_gpt(args.sft, device=args.device, precision=precision)


def labelled(asked, label_rng):
    """Comparisons with a labeller's ranks, and the judge's totals."""
    totals_of = script("train_rm").totals
    totals = [totals_of(record) for record in asked]
    ranks = [simulated.rank(row, label_rng) for row in totals]
    records = zip(asked, ranks, strict=True)
    return [Comparison(x.prompt, list(x.responses), row) for x, row in records], totals


# ---- one way


def measure(args, way, setting, bar):
    """A row for each number of labels."""
    asked, rows, models = [], [], []
    for n in sizes(args):
        asked += next_rows(way, setting, asked, n - len(asked), models)
        learned = [setting.pool[row] for row in asked]
        count = args.members if way == "disagreement" and n < args.labels else 1
        models = [fit(setting, member, learned) for member in range(count)]
        scores = reward.score_comparisons(models[0], setting.tokenizer, setting.held_out)
        numbers = agreement.ranking_numbers(setting.held_out, scores, setting.truth)
        names = ("agreement_with_judge", "expected_accuracy", "held_out_pairs")
        tied = np.mean([len(set(setting.totals[row])) == 1 for row in asked])
        row = {"labels": n, "tied": float(tied)} | {k: float(numbers[k]) for k in names}
        rows.append(row)
        bar.update()
        bar.set_postfix(way=way, agreement=f"{row['agreement_with_judge']:.3f}", refresh=False)
    return rows


def fit(setting, member, learned):
    """A reward model of the labels. Another member of the ensemble has another head and another
    order of the labels."""
    choices = [Choice(c.prompt, by_rank(c)) for c in learned]
    return teach(setting, choices, seed=setting.args.seed + 1000 * member)


def by_rank(comparison):
    """The texts of a Comparison, the best first."""
    pairs = zip(comparison.ranks, comparison.responses, strict=True)
    return tuple(text for _, text in sorted(pairs))


def teach(setting, judgements, seed, flags=(), labellers=1):
    """axes.Axes that learned the judgements, from the SFT model on. Training is that of `minirlhf
    taste`: batches of 16, and for few judgements more passes than --epochs, for 32 steps."""
    args, sft = setting.args, setting.sft
    with config.torch_seed(seed, config.REWARD_HEAD_WEIGHTS):
        model = axes.Axes(sft, flags, labellers).to(sft.device)
    n = len(judgements)
    end = max(args.epochs * n, FEWEST_STEPS * BATCH)
    order = data.stream(n, 0, end, seed)
    batches = [[judgements[i] for i in order[k : k + BATCH]] for k in range(0, end, BATCH)]
    tokens = compute.pick_microbatch(0, sft.device)
    for _ in axes.train(model, setting.tokenizer, batches, args.lr, WARMUP, tokens):
        pass
    return model


def next_rows(way, setting, asked, count, models):
    """The rows of the pool to ask about next, by what the models say that learned those `asked`."""
    taken = set(asked)
    left = [row for row in range(len(setting.pool)) if row not in taken]
    if way == "random" or not (models or way == "once"):
        return left[:count]
    if way == "once":
        return optimal(setting, reward.RewardModel(setting.sft), asked, count)
    if way in ("optimal", "fisher"):
        return optimal(setting, models[0], asked, count, weighted=way == "fisher")
    pairs = [setting.pool[row] for row in left]
    margins = np.array([margins_of(setting, model, pairs) for model in models])
    order = choice.nearest_half(margins[0]) if way == "half" else choice.disagreement(margins)
    return [left[place] for place in order[:count]]


def optimal(setting, model, asked, count, weighted=False):
    """D-optimal, by the states of `model`. V and the candidates are of the same model: the labelled
    pairs' directions are computed anew."""
    states = design.last_states(model, setting.tokenizer, setting.pool)
    directions = np.concatenate([design.differences(x) for x in design.scaled(states)])
    if weighted:
        directions = choice.fisher(directions, margins_of(setting, model, setting.pool))
    rows = [direction[None] for direction in directions]
    return design.Design(directions.shape[1]).order(rows, asked, count)


def margins_of(setting, model, pairs):  # N Comparisons -> (N,)
    """First less second raw score."""
    scores = np.array(reward.score_comparisons(model, setting.tokenizer, pairs))
    return scores[:, 0] - scores[:, 1]


if __name__ == "__main__":
    config.run(main)
