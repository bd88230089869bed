"""Compare any two checkpoints on held-out prompts, with the same noise for both and an interval
around every claim.

minirlhf evaluate                                    out/ppo against out/sft, judged by the world
minirlhf evaluate --data hh.jsonl --judge my:prefer  your prompts, your judge
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from minirlhf import data, reward
from minirlhf.evaluate import (
    best_of_n,
    best_of_n_kl,
    by_score,
    finished,
    kl,
    noise,
    respond,
    score_replies,
    win_rate,
)
from minirlhf.formats import jsonl
from minirlhf.rewards.function import load_function
from minirlhf.run import checkpoint, compute, config
from minirlhf.run.config import InputError, flag, rng
from minirlhf.run.metrics import table
from minirlhf.world import writers
from minirlhf.world.judge import total
from minirlhf.world.measures import AXES, axes, judgements


@dataclass(frozen=True)
class Config:
    """Compare a policy with a baseline on held-out prompts."""

    policy: str = flag("out/ppo", "checkpoint (folder or file) of the policy")
    baseline: str = flag("out/sft", "checkpoint it is compared with, and the reference of its KL")
    reward_model: str = flag(
        "out/rm", "reward model that scores both and chooses the best of n; none: do without"
    )
    data: str = flag("", "prompts as JSON Lines, instead of the world's held-out ones")
    judge: str = flag(
        "",
        "module:function, (prompts, first, second) -> how likely first is better; else world or score",
    )
    prompts: int = flag(256, "how many prompts", low=2)
    best_of: int = flag(16, "n of best-of-n under the reward model; 1: leave it out", low=1)
    max_new_tokens: int = flag(32, "the most tokens a response may have", low=1)
    temperature: float = flag(1.0, "of the samples", low=0)
    shown: int = flag(8, "prompts shown side by side", low=0)
    drop_long: bool = flag(
        False, "leave out prompts that do not fit the context, instead of stopping with an error"
    )
    seed: int = flag(1, "seed of the prompts and of the noise", low=0)
    device: str = flag("auto", "where to run", choices=("auto", "cpu", "cuda"))
    precision: str = flag(
        "auto",
        "of the trunk; auto: bf16 on a GPU, float32 on a CPU",
        choices=("auto", "float32", "bf16"),
    )
    threads: int = flag(
        0,
        "threads of the CPU; 0: torch's choice, one a core; 1 is faster beside another job",
        low=0,
    )


def main(argv=None):
    args = config.parse(Config, argv)
    device = compute.pick_device(args.device)
    args = compute.resolve(args, device)
    precision = compute.PRECISIONS[args.precision]
    policy, tokenizer = checkpoint.load_gpt(args.policy, device=device, precision=precision)
    baseline, other = checkpoint.load_gpt(args.baseline, device=device, precision=precision)
    checkpoint.same_vocabulary(args.policy, tokenizer, args.baseline, other)
    reward_model = load_reward_model(args, tokenizer, device, precision)
    score = reward_model and partial(score_replies, reward_model)
    prefer = load_judge(args, score)
    trunks = [policy, baseline, *([reward_model.gpt] if reward_model else [])]
    prompts = load_prompts(args, tokenizer, min(gpt.config.context for gpt in trunks))
    uniforms = noise(args.seed, len(prompts), args.max_new_tokens)
    replies = {
        "baseline": respond(baseline, tokenizer, prompts, uniforms, args.temperature, "baseline"),
        "policy": respond(policy, tokenizer, prompts, uniforms, args.temperature, "policy"),
    }
    kls = {
        "baseline": 0.0,
        "policy": float(kl(policy, baseline, replies["policy"], args.temperature or 1.0).mean()),
    }
    if score and args.best_of > 1:
        name = f"best of {args.best_of}"
        replies[name] = best_of_n(
            baseline,
            tokenizer,
            score,
            prompts,
            args.best_of,
            args.max_new_tokens,
            args.seed,
            args.temperature,
        )
        kls[name] = best_of_n_kl(args.best_of)
    report(args, prompts, replies, kls, score, prefer)


def load_reward_model(args, tokenizer, device, precision):
    if args.reward_model == "none":
        return None
    reward_model, other, _ = reward.load_reward_model(args.reward_model, device, precision)
    checkpoint.same_vocabulary(args.policy, tokenizer, args.reward_model, other)
    return reward_model


def load_prompts(args, tokenizer, context):
    fits = data.fits_context(tokenizer, context, args.max_new_tokens, args.drop_long)
    if args.data:
        return jsonl.read_prompts(args.data, fits)[: args.prompts]
    return [
        prompt
        for prompt in writers.prompts(
            args.prompts, rng(args.seed, config.HELD_OUT_PROMPTS), split="test"
        )
        if fits(prompt)
    ]


def load_judge(args, score):
    """`prefer(prompts, replies, replies)`, see `win_rate`."""
    if args.judge:
        judge = load_function("--judge", args.judge)
        return lambda prompts, first, second: judge(prompts, finished(first), finished(second))
    if not args.data:
        return by_score(lambda prompts, replies: total(prompts, finished(replies)))
    if not score:
        raise InputError(
            "nothing can judge your prompts; give --judge module:function or --reward-model"
        )
    return by_score(score)


def report(args, prompts, replies, kls, score, prefer):
    """Print the table, the win rates, and samples side by side."""
    names = list(AXES) if not args.data else []
    rows = []
    for name, replied in replies.items():
        judged = axes(judgements(prompts, replied)) if not args.data else {}
        scores = float(score(prompts, replied).mean()) if score else "-"
        length = float(np.mean([reply.length for reply in replied]))
        rows.append(
            [
                name,
                *judged.values(),
                scores,
                kls[name],
                length,
                float(np.mean([r.ended for r in replied])),
            ]
        )
    print("\n".join(["", *table(["", *names, "score", "kl", "length", "ended"], rows), ""]))
    for name in replies:
        rate, half = win_rate(prefer, prompts, replies[name], replies["baseline"])
        print(
            f"{name} beats the baseline: {100 * rate:.1f}% +- {100 * half:.1f} of {len(prompts)} prompts (ties count half)"
        )
    shown = zip(prompts[: args.shown], replies["baseline"], replies["policy"], strict=False)
    shown = [(prompt, before.text, after.text) for prompt, before, after in shown]
    print("\n".join(["", *table(["prompt", "baseline", "policy"], shown)]))


if __name__ == "__main__":
    config.run(main)
