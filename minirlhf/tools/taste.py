"""Your taste in ten minutes: about 150 choices between two responses, a reward model that learns
them, PPO, and the same prompts before and after.

    minirlhf taste                          you choose; the SFT model is the demonstration's
    minirlhf taste --taste rude             a scripted labeller instead: rude, short, help
    minirlhf taste --taste my_taste:value   your own: (prompts, responses) -> numbers

Prefer whatever you like, but always the same: the rude response, the short one, the one that offers
help. The same command goes on where you stopped; --labels 60 makes do with 60 answers.
"""

import dataclasses
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minirlhf import data, evaluate, reward
from minirlhf.data import Comparison
from minirlhf.feedback import baselines, tastes
from minirlhf.feedback.agreement import ordered_pairs
from minirlhf.feedback.screen import wrapped
from minirlhf.formats import jsonl, labels
from minirlhf.rewards import function
from minirlhf.run import checkpoint, compute, config
from minirlhf.run.config import HELD_OUT_PROMPTS, ComputeFlags, InputError, flag, rng
from minirlhf.run.folder import start_run
from minirlhf.tools import label
from minirlhf.tools.script import script
from minirlhf.world import writers

FEWEST = 10  # choices from which a reward model can be trained at all
BATCH, FEWEST_STEPS = 16, 32  # of the reward model's training


@dataclass(frozen=True)
class Config(ComputeFlags):
    """Label responses by any taste; a reward model learns it, PPO follows it, and the same prompts
    are shown before and after."""

    out: str = flag("out/taste", "folder of the labels, the reward model and the policy")
    sft: str = flag("out/demo/sft", "SFT model that the responses come from")
    labels: int = flag(150, "questions to ask", low=FEWEST)
    prompts: int = flag(600, "prompts that the questions are chosen from", low=FEWEST)
    taste: str = flag(
        "",
        "a scripted labeller instead of you: rude, short, help, or module:function, (prompts, "
        "responses) -> numbers",
    )
    labeller: str = flag("", "your name in the file of labels [the login name, or me]")
    folds: int = flag(5, "parts of the choices; each is held out once", low=2)
    epochs: int = flag(
        4, "passes of the reward model over the choices; of few choices more, for 32 steps", low=1
    )
    rm_lr: float = flag(1e-3, "peak learning rate of the reward model", above=0)
    updates: int = flag(40, "updates of PPO", low=1)
    lr: float = flag(4e-4, "peak learning rate of PPO", above=0)
    batch_size: int = flag(256, "responses per rollout of PPO", low=8)
    kl_coef: float = flag(0.1, "penalty, in reward, per nat of KL from the SFT model", low=0)
    max_new_tokens: int = flag(32, "the most tokens a response may have", low=1)
    held_out: int = flag(256, "prompts to compare policy and SFT model on", low=1)
    shown: int = flag(8, "prompts shown before and after", low=0)


def main(argv=None):
    args = config.parse(Config, argv)
    require_sft(args.sft)
    taste = load_taste(args.taste)
    comparisons = collect(args, taste)
    if comparisons is None:
        return
    start = time.perf_counter()
    learn(args, comparisons)
    script("train_ppo").main(ppo_flags(args))
    compare(args, taste)
    minutes = (time.perf_counter() - start) / 60
    print(f"\nfrom the last label to here it took {minutes:.1f} minutes; all is in {args.out}")


def require_sft(path):
    """InputError if there is no SFT model yet."""
    if not Path(path).exists():
        raise InputError(
            f"{path} is not there: make the demonstration first, by `make demo` or `minirlhf demo` "
            "(3 to 10 minutes), or name another SFT model with --sft"
        )


def shared(args):
    """The flags that every command has."""
    return {
        "seed": args.seed,
        "device": args.device,
        "precision": args.precision,
        "threads": args.threads,
        "drop_long": args.drop_long,
        **jsonl.flags(args),
    }


# ---- labels


def load_taste(name):
    """(prompts, responses) -> numbers, of a scripted labeller; None for a person."""
    if not name:
        return None
    return tastes.TASTES.get(name) or function.load_function("--taste", name)


def collect(args, taste):
    """The labeller's choices as Comparisons; None if the person wants to go on another time."""
    path = f"{args.out}/labels.jsonl"
    asked = label.Config(
        **shared(args),
        out=path,
        policy=args.sft,
        labeller=args.taste or args.labeller,
        order="optimal",  # docs/feedback.md says what it is worth
        reward_model=args.sft,
        prompts=args.prompts,
        limit=args.labels,
        max_new_tokens=args.max_new_tokens,
        mix_data=True,
    )
    name, complete = label.ask(asked, taste and tastes.Scripted(taste).answer)
    own = [record for record in labels.read_labels(path) if record.labeller == name]
    if not complete:
        remedy = f"the same command goes on, or --labels {len(own)} makes do with these"
        print(f"{len(own)} of {args.labels} questions are answered in {path}; {remedy}")
        return None
    choices = [Comparison(x.prompt, x.responses, x.ranks) for x in own if len(set(x.ranks)) > 1]
    print(f"{len(choices)} of {len(own)} answers prefer a response, the others are ties or skipped")
    if len(choices) < FEWEST:
        raise InputError(f"{path}: {len(choices)} choices teach nothing; raise --labels")
    return choices


# ---- reward model


def learn(args, comparisons):
    """The reward model of all choices, and what such a model is worth on choices that it has not
    seen."""
    train_rm = script("train_rm")
    flags, sft, tokenizer = setting(args, train_rm)
    prompts = writers.prompts(flags.norm_prompts, rng(args.seed, config.PPO_PROMPTS))
    caption = "SFT samples that the scores are normalised on"
    norm = train_rm.sample(flags, sft, tokenizer, prompts, config.NORM_RESPONSES, caption)
    correct, asked = [], []
    for learned, held_out in folds(comparisons, args.folds, args.seed):
        with tempfile.TemporaryDirectory() as folder:
            part = enough(flags, learned)
            model = fit(part, Path(folder), sft, tokenizer, learned, norm[:8])
        scores = reward.score_comparisons(model, tokenizer, held_out)
        for comparison, row in zip(held_out, scores, strict=True):
            for better, worse in ordered_pairs(comparison):
                asked.append(comparison.prompt)
                correct.append(row[better] > row[worse])
    flags = enough(flags, comparisons)
    with start_run(flags, tokenizer, "rm", data=comparisons, sft=sft) as (folder,):
        fit(flags, folder, sft, tokenizer, comparisons, norm)
    report(correct, asked, baselines.pairs_of(comparisons))


def setting(args, train_rm):
    """(flags of train_rm.py, SFT model, tokenizer)"""
    device = compute.pick_device(args.device)
    flags = train_rm.Config(
        **shared(args),
        out=args.out,
        sft=args.sft,
        data=f"{args.out}/labels.jsonl",
        epochs=args.epochs,
        lr=args.rm_lr,
        batch_size=BATCH,
        warmup=4,
        norm_prompts=128,
        max_new_tokens=args.max_new_tokens,
        microbatch_tokens=compute.pick_microbatch(0, device),
        overwrite=True,
        mix_data=True,
    )
    flags = compute.resolve(flags, device)
    precision = compute.PRECISIONS[flags.precision]
    return flags, *checkpoint.load_gpt(args.sft, device=device, precision=precision)


def folds(comparisons, count, seed):
    """Pairs (Comparisons to learn on, Comparisons held out): each is held out once. A hash of seed
    and prompt decides, so that no prompt is on both sides."""
    parts = [int(data.place(data.prompt_key(c), seed) * count) for c in comparisons]
    for part in range(count):
        learned = [c for c, p in zip(comparisons, parts, strict=True) if p != part]
        held_out = [c for c, p in zip(comparisons, parts, strict=True) if p == part]
        if learned and held_out:
            yield learned, held_out


def enough(flags, comparisons):
    """The flags with as many passes as FEWEST_STEPS take."""
    passes = -(-FEWEST_STEPS * BATCH // len(comparisons))
    return dataclasses.replace(flags, epochs=max(flags.epochs, passes))


def fit(flags, folder, sft, tokenizer, comparisons, norm):
    """A reward model trained by train_rm.py's loop."""
    with config.torch_seed(flags.seed, config.REWARD_HEAD_WEIGHTS):
        model = reward.RewardModel(sft).to(sft.device)
    script("train_rm").train(flags, folder, model, tokenizer, comparisons, norm)
    return model


def report(correct, asked, pairs):
    shorter = baselines.share_above_zero([len(worse) - len(better) for better, worse in pairs])
    print(
        f"the reward model predicts {np.mean(correct):.3f} of your {len(correct)} choices, each "
        f"held out once (standard error {baselines.standard_error(correct, asked):.3f}); "
        f'"the shorter one wins" {shorter:.3f}'
    )


# ---- policy


def ppo_flags(args):
    """The command line of train_ppo.py, as a list of words."""
    values = {
        "out": args.out,
        "sft": args.sft,
        "seed": args.seed,
        "device": args.device,
        "precision": args.precision,
        "threads": args.threads,
        "updates": args.updates,
        "batch-size": args.batch_size,
        "lr": args.lr,
        "kl-coef": args.kl_coef,
        "max-new-tokens": args.max_new_tokens,
        "held-out": args.held_out,
        "warmup": max(1, args.updates // 8),
        "eval-every": args.updates,  # once, at the end: the bar shows the progress
    }
    words = [str(word) for name, value in values.items() for word in ("--" + name, value)]
    return [*words, "--overwrite", "--mix-data", *(["--drop-long"] if args.drop_long else [])]


def compare(args, taste):
    """Prompts that no stage has seen, before and after PPO under the same noise; for a scripted
    labeller also how much more of its taste the responses have."""
    device = compute.pick_device(args.device)
    precision = compute.PRECISIONS[compute.resolve(args, device).precision]
    prompts = writers.prompts(args.held_out, rng(args.seed, HELD_OUT_PROMPTS), "validation")
    uniforms = evaluate.noise(args.seed, len(prompts), args.max_new_tokens)
    sides = []
    for path in (args.sft, f"{args.out}/ppo"):
        gpt, tokenizer = checkpoint.load_gpt(path, device=device, precision=precision)
        sides.append(evaluate.respond(gpt, tokenizer, prompts, uniforms))
    before, after = ([reply.text for reply in side] for side in sides)
    for prompt, first, second in list(zip(prompts, before, after, strict=True))[: args.shown]:
        lines = [*wrapped(prompt), *wrapped(first, "  before  "), *wrapped(second, "  after   ")]
        print("\n".join(["", *lines]))
    if taste:
        values = [np.asarray(taste(prompts, side), dtype=float) for side in (before, after)]
        wins = evaluate.wins(values[1], values[0])
        rate, half = evaluate.interval(wins)
        print(
            f"\nthe taste {args.taste}: {values[0].mean():.2f} before and {values[1].mean():.2f} "
            f"after, on {len(prompts)} prompts; after is better on {rate:.2f} +- {half:.2f} "
            "(ties count half)"
        )


if __name__ == "__main__":
    config.run(main)
