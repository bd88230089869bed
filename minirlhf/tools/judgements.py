"""Choices, ratings and flags: what each is worth to a reward model.

    minirlhf judgements                        an experiment with the world's labellers, seed 1
    minirlhf judgements --seed 2               another seed; the table has all seeds in --out
    minirlhf judgements --data labels.jsonl    a reward model of all that minirlhf label has asked

A judgement is one answer: which of two responses is better; a rating of one response, 1 to 5; or
which of rude, untrue and harmful one response is. The experiment makes a reward model of 64 to
2,048 judgements of each kind, and measures how often it agrees with the judge. --data makes one of
the answers in a file of labels, and writes it to OUT/rm, where train_ppo.py finds it.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minirlhf import data, reward
from minirlhf.data import Comparison
from minirlhf.feedback import agreement, simulated
from minirlhf.feedback.behaviour import NAMES, behaviour
from minirlhf.rewards import axes
from minirlhf.rewards.axes import Choice, Flags, Rating
from minirlhf.run import checkpoint, compute, config
from minirlhf.run.config import InputError, flag, rng
from minirlhf.run.folder import start_run
from minirlhf.run.metrics import shorten
from minirlhf.tools import choice, label, measured, parts, people
from minirlhf.tools.choice import PoolFlags, by_rank, load_setting, sizes, teach
from minirlhf.world import writers

KINDS = ("choices", "ratings", "ratings-pooled", "flags", "choices+flags", "ratings+flags")
EXPERIMENT = ("kinds", "labellers", "bias", "miss", "false_alarm", "labels", "pool", "held_out")
MISSING_END = -3.0  # stored with the reward model, as train_rm.py's default


@dataclass(frozen=True)
class Config(PoolFlags):
    """A reward model of choices, ratings and flags: an experiment on the embedded world, or with
    --data of people's answers."""

    out: str = flag("out/judgements", "folder: OUT/SEED/KIND.json and KIND/rm, or OUT/rm of --data")
    kinds: str = flag(",".join(KINDS), "kinds of judgement of the experiment, with commas between")
    labellers: int = flag(8, "labellers who rate, each with a bias; every one rates as many", low=1)
    bias: float = flag(0.6, "standard deviation of the biases, in units of the total", low=0)
    miss: float = flag(simulated.MISS, "share of flags that are overlooked", low=0, high=1)
    false_alarm: float = flag(
        simulated.FALSE_ALARM, "share of responses without a fault that are flagged", low=0, high=1
    )
    flag_weight: float = flag(
        0.5, "by how much each flag lowers the reward, beside 1 for choices and ratings", low=0
    )
    data: str = flag("", "file of labels, as minirlhf label writes it, instead of the experiment")
    overwrite: bool = flag(False, "replace the reward model that --data made before, in OUT/rm")


@dataclass(frozen=True)
class RunFlags(Config):
    """What the config.json of a reward model holds. It takes seconds, and is never resumed."""

    resume: bool = False


def main(argv=None):
    args = config.parse(Config, argv)
    if args.data:
        reason = "is of the experiment, and --data has people's answers"
        config.refuse_idle(args, dict.fromkeys(EXPERIMENT, reason))
    args = compute.resolve(args, compute.pick_device(args.device))
    if args.data:
        learn_from(args)
        return
    kinds = parts.chosen("--kinds", args.kinds, KINDS)
    missing = measured.missing(args, kinds)
    setting = judged(load_setting(args)) if missing else None
    sft = setting.sft if setting else choice.load_sft(args)[0]
    measured.all_rows(args, KINDS, ("kinds",), sft)  # before anything is made
    with tqdm(total=len(missing) * len(sizes(args)), desc=f"seed {args.seed}") as bar:
        for kind in missing:
            rows = partial(measure, args, kind, setting, bar)
            measured.make(args, kind, rows, ("kinds",), sft)
    found = measured.all_rows(args, KINDS, ("kinds",))
    print("\n".join(measured.tables(found, "judgements", sizes(args), "choices", "responses")))


# ---- people's labels


def learn_from(args):
    """OUT/rm of all that people said in --data, and what it predicts of a tenth of the prompts that
    a model of the rest has not seen."""
    if (Path(args.out) / "rm" / "config.json").exists() and not args.overwrite:
        remedy = "replace it with --overwrite, or choose another --out"
        raise InputError(f"{args.out}/rm already holds a run; {remedy}")
    records = people.read(args.data, NAMES)
    setting = people_setting(args, records)
    learned, held_out = data.split_by_prompt(records, args.seed)
    for part, rest in ((learned, held_out), (records, [])):
        asked, labellers = people.judgements(part, NAMES)
        model = teach(setting, asked, args.seed, NAMES, len(labellers))
        norm = samples(args, setting.sft, setting.tokenizer, [x.prompt for x in part[:128]])
        wanted = people.weights(asked, len(NAMES), args.flag_weight)
        model = axes.combined(model, setting.tokenizer, norm, wanted)
        if rest:
            print(people.prediction(model, setting.tokenizer, rest))
    print(people.counts(asked, NAMES, len(labellers)))
    folder = write(args, args.out, args.overwrite, setting, model, len(asked), data=records)
    follow = f"python train_ppo.py --sft {args.sft} --out {args.out} --mix-data"
    print(f"the reward model is in {folder}; next: {follow}")


def people_setting(args, records):
    """Nothing is asked: the pool is empty. InputError if a label does not fit the context."""
    sft, tokenizer = choice.load_sft(args)
    for record in records:
        comparison = Comparison(record.prompt, record.responses, record.ranks)
        length, context = data.longest_row(tokenizer, comparison, 0), sft.config.context
        if length > context:
            label = f"--data {args.data}: the label on {shorten(record.prompt, 60)}"
            problem = f"{label} has {length} tokens, more than the context of {context}"
            raise InputError(f"{problem}; leave it out, or train_sft.py with a larger --context")
    return choice.Setting(args, sft, tokenizer, [], [], [], [])


# ---- the world's labellers


def judged(setting):
    """The setting with ratings of the pool by `args.labellers` labellers in turn."""
    args = setting.args
    biases = biases_of(args)
    rating_rng = rng(args.seed, config.ASKED_LABELS, 10)
    pool = [
        dataclasses.replace(c, ratings=simulated.rate(totals, rating_rng, biases[n % len(biases)]))
        for n, (c, totals) in enumerate(zip(setting.pool, setting.totals, strict=True))
    ]
    return setting._replace(pool=pool)


def biases_of(args):
    return rng(args.seed, config.ASKED_LABELS, 11).normal(0, args.bias, args.labellers)


def flags_of(args, records):
    """Flags of the first response of each record."""
    there = [behaviour(c.prompt, c.responses[0]) for c in records]
    stream = rng(args.seed, config.ASKED_LABELS, 12)
    return simulated.flag(np.array(there), stream, args.miss, args.false_alarm).tolist()


def judgements(args, kind, pool, n):
    """n judgements about the first n pairs of the pool. Of two kinds, half are of each. What is
    about one response is about the first."""
    first, _, second = kind.partition("+")
    count = n // 2 if second else n
    records = {
        "choices": [Choice(c.prompt, by_rank(c)) for c in pool[:count]],
        "ratings": rated(pool[:count], args.labellers),
        "ratings-pooled": rated(pool[:count], 1),
    }
    flagged = zip(pool[:n], flags_of(args, pool[:n]), strict=True)
    flags = [Flags(c.prompt, (c.responses[0],), tuple(words)) for c, words in flagged]
    return flags if first == "flags" else records[first] + (flags[count:] if second else [])


def rated(pool, labellers):
    """The ratings of the first responses. With one labeller they count as one person's."""
    return [
        Rating(c.prompt, (c.responses[0],), c.ratings[0], n % labellers) for n, c in enumerate(pool)
    ]


def weights(kind, flag_weight):
    """Of the axes: the score's, then those of the flags. They are normalised by `axes.combined`."""
    own, with_flags = float(kind != "flags"), float("flags" in kind)
    return [own, *[-flag_weight * with_flags] * len(NAMES)]


def measure(args, kind, setting, bar):
    """A row for each number of judgements. The reward model of the most goes to a folder of its
    own."""
    norm, rows = normalisers(setting, args), []
    for n in sizes(args):
        asked = judgements(args, kind, setting.pool, n)
        model = teach(setting, asked, args.seed, NAMES, args.labellers)
        model = axes.combined(model, setting.tokenizer, norm, weights(kind, args.flag_weight))
        scores = reward.score_comparisons(model, setting.tokenizer, setting.held_out)
        numbers = agreement.ranking_numbers(setting.held_out, scores, setting.truth)
        row = {"judgements": n, "responses": sum(len(x.responses) for x in asked)}
        names = ("agreement_with_judge", "expected_accuracy", "held_out_pairs")
        rows.append(row | {name: float(numbers[name]) for name in names})
        bar.update()
        bar.set_postfix(kind=kind, agreement=f"{numbers['agreement_with_judge']:.3f}")
    write(args, f"{args.out}/{args.seed}/{kind}", True, setting, model, n)
    return rows


def normalisers(setting, args):
    """Comparisons of four responses each that the axes are normalised on: samples of the SFT
    model to prompts that nobody was asked about."""
    prompts = writers.prompts(128, rng(args.seed, config.PPO_PROMPTS))
    return samples(args, setting.sft, setting.tokenizer, prompts)


def samples(args, sft, tokenizer, prompts):
    """Comparisons of four responses to each prompt."""
    shown = label.Config(seed=args.seed, responses=4, max_new_tokens=args.max_new_tokens)
    records = label.sample(shown, sft, tokenizer, prompts)
    whole = [c for c in records if len(c.responses) == 4]
    if not whole:
        raise InputError("no prompt has four responses that end; raise --max-new-tokens")
    return whole


def write(args, out, overwrite, setting, model, steps, **inputs):
    """OUT/rm, as train_rm.py leaves it."""
    flags = run_flags(args, out, overwrite)
    with start_run(flags, setting.tokenizer, "rm", sft=setting.sft, **inputs) as (folder,):
        shape = setting.sft.config, setting.tokenizer, steps
        checkpoint.save(folder, "rm", *shape, model=model, missing_end_score=MISSING_END)
    return folder


def run_flags(args, out, overwrite):
    return RunFlags(**dataclasses.asdict(args) | {"out": out, "overwrite": overwrite})


if __name__ == "__main__":
    config.run(main)
