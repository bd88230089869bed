"""Compare two checkpoints on held-out prompts: the same noise for both, an interval around every
win rate.

    minirlhf evaluate                                      out/ppo against out/sft, on the world
    minirlhf evaluate --data hh.jsonl --judge my:prefer    your prompts, your judge
    minirlhf evaluate --data hh.jsonl --reward-model none  your prompts, samples, KL and length

A score is what it is in PPO: a response without end gets the missing-end score in place of its own.
"""

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from minirlhf import evaluate, reward
from minirlhf.data import fits_context, hold_out
from minirlhf.formats import jsonl
from minirlhf.rewards import function
from minirlhf.run import chain, checkpoint, compute, config, files
from minirlhf.run.config import ChainFlags, InputError, flag, rng
from minirlhf.run.metrics import number, screen_table, table
from minirlhf.tools import output
from minirlhf.world import judge, measures, writers


@dataclass(frozen=True)
class Config(ChainFlags):
    """Compare a policy with a baseline on held-out prompts."""

    policy: str = flag("out/ppo", "checkpoint (folder or file) of the policy")
    baseline: str = flag("out/sft", "checkpoint it is compared with, and the reference of its KL")
    reward_model: str = flag(
        "out/rm", "reward model that scores both and chooses the best of n; none: do without"
    )
    reward: str = flag(
        "", "module:function, (prompts, responses) -> scores, instead of the reward model"
    )
    missing_end_score: float = flag(
        math.nan,
        "score of a response without end [that of the policy's training, if it was on this score; "
        "else the reward model's]",
    )
    data: str = flag("", "prompts as JSON Lines, instead of the world's held-out ones")
    judge: str = flag(
        "",
        "module:function, (prompts, first, second) -> how likely first is better; else world or "
        "score",
    )
    prompts: int = flag(256, "how many prompts", low=2)
    best_of: int = flag(16, "n of best-of-n under the reward model; 1: leave it out", low=1)
    max_new_tokens: int = flag(32, "the most tokens a response may have", low=1)
    temperature: float = flag(1.0, "sampling temperature", low=0)
    shown: int = flag(8, "prompts shown side by side", low=0)
    to: str = flag("", "JSON file for the results, with the responses to all prompts")


def main(argv=None):
    args = config.parse(Config, argv)
    device = compute.pick_device(args.device)
    args = compute.resolve(args, device)
    precision = compute.PRECISIONS[args.precision]
    policy, tokenizer = checkpoint.load_gpt(args.policy, device=device, precision=precision)
    baseline, other = checkpoint.load_gpt(args.baseline, device=device, precision=precision)
    checkpoint.same_vocabulary(args.policy, tokenizer, args.baseline, other)
    if not args.data:
        chain.refuse_mixed(args, args.policy, args.baseline)
    score, reward_model = load_score(args, tokenizer, device, precision)
    prefer = load_judge(args, score)
    trunks = [policy, baseline, *([reward_model.gpt] if reward_model else [])]
    policies = {"baseline": baseline, "policy": policy}
    if args.to:
        files.writable("--to", args.to, '{\n  "policy": ')
    results = {"policy": args.policy, "baseline": args.baseline, "judge": judge_name(args, score)}
    with output.shown_last():
        prompts = load_prompts(args, tokenizer, min(gpt.config.context for gpt in trunks))
        replies, kls = sample_all(args, tokenizer, policies, score, prompts)
        results["means"] = show_table(args, prompts, replies, kls, score)
        results["win_rates"] = show_win_rates(prompts, replies, prefer, results["judge"])
        show_samples(prompts[: args.shown], replies)
        if args.to:
            write_results(args, results, prompts, replies)


def sample_all(args, tokenizer, policies, score, prompts):
    """{name: replies} and {name: KL from the baseline in nats per response}: each policy under the
    same noise, and best-of-n of the baseline if there is a reward model."""
    uniforms = evaluate.noise(args.seed, len(prompts), args.max_new_tokens)
    replies = {
        name: evaluate.respond(gpt, tokenizer, prompts, uniforms, args.temperature, name)
        for name, gpt in policies.items()
    }
    baseline = policies["baseline"]
    models = policies["policy"], baseline
    kl = evaluate.kl(*models, replies["policy"], args.temperature or 1.0).mean()
    kls = {"baseline": 0.0, "policy": float(kl)}
    if score and args.best_of > 1:
        name = f"best of {args.best_of}"
        limits = args.best_of, args.max_new_tokens, args.seed, args.temperature
        replies[name] = evaluate.best_of_n(baseline, tokenizer, score, prompts, *limits)
        kls[name] = evaluate.best_of_n_kl(args.best_of)
    return replies, kls


# ---- what it compares with what


def load_score(args, tokenizer, device, precision):
    """The score as a function (prompts, replies) -> (N,), after the missing-end rule, and the
    RewardModel. Each is None where there is none."""
    if args.reward:
        scorer = function.load_function("--reward", args.reward)
        missing_end_score = load_missing_end_score(args, math.nan)
        score = partial(function.call, args.reward, scorer)
        return partial(evaluate.final_scores, score, missing_end_score), None
    if args.reward_model == "none":
        return None, None
    if args.data and args.reward_model == "out/rm" and not Path("out/rm").exists():
        raise InputError("there is no out/rm; name a --reward-model, or do without: none")
    reward_model, other, stored = reward.load_reward_model(args.reward_model, device, precision)
    checkpoint.same_vocabulary(args.policy, tokenizer, args.reward_model, other)
    missing_end_score = load_missing_end_score(args, stored)
    return evaluate.model_scores(reward_model, missing_end_score), reward_model


def load_missing_end_score(args, stored):
    """The flag, or what the policy was trained with, or what is stored with the reward model; it is
    printed."""
    number = args.missing_end_score
    if math.isnan(number):
        number = chain.missing_end_score(args.policy, args.reward_model, args.reward, stored)
    if math.isnan(number):
        raise InputError(
            f"--reward needs --missing-end-score: {args.policy} was not trained on {args.reward}"
        )
    print(f"the score of a response without end is {number:g}")
    return number


def load_prompts(args, tokenizer, context):
    """The prompts that leave room for a response: those of --data, or the world's held-out ones. Of
    a file that a model was trained on, those that its run held out."""
    fits = fits_context(tokenizer, context, args.max_new_tokens, args.drop_long)
    if args.data:
        columns = function.wanted_columns(args.reward)
        prompts = jsonl.read_prompts(args.data, fits, **jsonl.flags(args, columns=columns))
        for path in (args.policy, args.baseline, args.reward_model):
            if chain.learned_from(path, args.data):
                seed = chain.stored_flags(path)["seed"]
                return hold_out(prompts, args.prompts, seed)[1] or prompts[:1]
        return prompts[: args.prompts]
    stream = rng(args.seed, config.HELD_OUT_PROMPTS)
    return list(filter(fits, writers.prompts(args.prompts, stream, "validation")))


def load_judge(args, score):
    """`prefer(prompts, replies, replies)`, see `evaluate.win_rate`: the function --judge, on the
    world's prompts the world's judge, on others the score; None where there is none."""
    if args.judge:
        judges = function.load_function("--judge", args.judge)

        def prefer(prompts, first, second):
            texts = evaluate.finished(first), evaluate.finished(second)
            return function.judge(args.judge, judges, prompts, *texts)

        return prefer
    if not args.data:
        return evaluate.by_score(
            lambda prompts, replies: judge.total(prompts, evaluate.finished(replies))
        )
    return evaluate.by_score(score) if score else None


def judge_name(args, score):
    """Who says which of two responses is the better one."""
    if args.judge:
        return args.judge
    if not args.data:
        return "the world's judge"
    if not score:
        return "none"
    return f"the function {args.reward}" if args.reward else f"the reward model {args.reward_model}"


# ---- what it prints


def show_table(args, prompts, replies, kls, score):
    """The means of every policy: on the world's prompts the judge's axes; score, KL, length, and
    the share of responses that came to their end. Returns them as {policy: {name: number}}."""
    names = [] if args.data else list(measures.AXES)
    rows = []
    for name, responses in replies.items():
        row = [name]
        if not args.data:
            row += measures.axes(measures.judgements(prompts, responses)).values()
        row.append(float(score(prompts, responses).mean()) if score else "-")
        row.append(kls[name])
        row.append(float(np.mean([reply.length for reply in responses])))
        row.append(float(np.mean([reply.ended for reply in responses])))
        rows.append(row)
    print("\n".join(["", *table(["", *names, "score", "kl", "length", "ended"], rows), ""]))
    columns = [*names, "score", "kl", "length", "ended"]
    return {row[0]: dict(zip(columns, map(plain, row[1:]), strict=True)) for row in rows}


def plain(cell):
    """A cell of the table as a number for JSON; None where there is none."""
    return number(cell) if isinstance(cell, float) else None


def show_win_rates(prompts, replies, prefer, name_of_judge):
    """{policy: {"rate", "half_width"}}, of the 95% interval; {} without a judge."""
    if not prefer:
        print("the judge: none, so nobody says which is better; give --judge or --reward-model")
        return {}
    print(f"the judge: {name_of_judge}")
    rates = {}
    for name, responses in replies.items():
        rate, half_width = evaluate.win_rate(prefer, prompts, responses, replies["baseline"])
        percent = f"{100 * rate:.1f}% +- {100 * half_width:.1f}"
        ending = f"of {len(prompts)} prompts (ties count half)"
        print(f"{name} beats the baseline: {percent} {ending}")
        rates[name] = {"rate": rate, "half_width": number(half_width)}
    return rates


def show_samples(prompts, replies):
    """The prompts with the responses of baseline and policy, side by side."""
    texts = {name: [reply.text for reply in replies[name]] for name in ("baseline", "policy")}
    rows = zip(prompts, texts["baseline"], texts["policy"], strict=False)  # prompts is the shortest
    print("\n".join(["", *screen_table(["prompt", "baseline", "policy"], rows)]))


def write_results(args, results, prompts, replies):
    """The file --to: who was compared on what, the numbers, and every response."""
    results |= {"data": args.data or chain.WORLD, "prompts": len(prompts), "seed": args.seed}
    results |= {"temperature": args.temperature, "max_new_tokens": args.max_new_tokens}
    results["samples"] = [
        {"prompt": prompt} | {name: side[n].text for name, side in replies.items()}
        for n, prompt in enumerate(prompts)
    ]
    files.write_text(args.to, json.dumps(results, indent=2) + "\n")
    print(f"\nthe results are in {args.to}")


if __name__ == "__main__":
    config.run(main)
