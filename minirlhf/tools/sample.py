"""Prompts -> a policy's responses, as JSON Lines.

    minirlhf sample --prompt "Name a colour."                      on the screen
    minirlhf sample --data prompts.jsonl --to responses.jsonl      into a file
    minirlhf sample --data - --responses 4 < prompts.jsonl         four for each prompt
    minirlhf sample --reward-model out/rm --best-of 16             the best of sixteen

A line is {"prompt", "response", "ended"}, or with several {"prompt", "responses", "ended"}, lists;
a reward model adds "score", or "scores". Without --data and --prompt it asks the embedded world's
held-out prompts. A response depends on the seed, on the number of its prompt and on the flags that
say how it is sampled, not on the batch.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from minirlhf import evaluate, reward
from minirlhf.data import fits_context
from minirlhf.formats import jsonl
from minirlhf.run import chain, checkpoint, compute, config
from minirlhf.run.config import ChainFlags, InputError, flag, rng
from minirlhf.tools import output, templates
from minirlhf.world import writers


@dataclass(frozen=True)
class Config(ChainFlags):
    """Sample responses for a file of prompts."""

    policy: str = flag("out/ppo", "checkpoint (folder or file) of the policy")
    data: str = flag("", "prompts as JSON Lines; - is the standard input")
    prompt: str = flag("", "one prompt, instead of --data")
    prompt_template: str = flag(
        "auto",
        "what becomes of --prompt: none: nothing; line: a line feed is added; auto: line for a "
        "policy of the embedded world, else none; hh and the others: a dialogue of one turn",
        choices=templates.TEMPLATES,
    )
    prompts: int = flag(0, "how many prompts; 0: all of --data, or 16 of the world's", low=0)
    to: str = flag("", "file for the responses, instead of the standard output")
    responses: int = flag(1, "responses to each prompt", low=1)
    reward_model: str = flag("none", "reward model that scores the responses; none: do without")
    best_of: int = flag(
        1, "sample so many for each response, and take the one with the best score", low=1
    )
    missing_end_score: float = flag(
        float("nan"),
        "score of a response without end [that of the policy's training, if it was on this score; "
        "else the reward model's]",
    )
    temperature: float = flag(1.0, "sampling temperature; 0: the likeliest token", low=0)
    max_new_tokens: int = flag(
        0, "the most tokens a response may have; 0: as in the policy's training, else 32", low=0
    )
    batch_size: int = flag(256, "responses sampled together", low=1, high=evaluate.ROWS)
    resume: bool = flag(False, "go on with the file --to that an interrupted command has begun")
    overwrite: bool = flag(False, "replace the file --to")


def main(argv=None):
    args = config.parse(Config, argv)
    refuse_useless(args)
    device = compute.pick_device(args.device)
    args = compute.resolve(args, device)
    precision = compute.PRECISIONS[args.precision]
    policy, tokenizer = checkpoint.load_gpt(args.policy, device=device, precision=precision)
    score, reward_model, missing_end_score = load_score(args, tokenizer, device, precision)
    trunks = [policy, *([reward_model.gpt] if reward_model else [])]
    context = min(gpt.config.context for gpt in trunks)
    new_tokens = templates.response_limit(args.max_new_tokens, args.policy)
    prompts = load_prompts(args, tokenizer, context, new_tokens)
    settings = Settings(args.responses, args.best_of, args.temperature, args.seed, new_tokens)
    inputs = {"policy": policy, "prompts": prompts, "reward_model": reward_model}
    inputs |= {"missing_end_score": missing_end_score, "precision": args.precision}
    old = args.resume, args.overwrite  # what becomes of a file that is there
    with output.lines(args.to, settings._asdict(), inputs, *old) as (done, write):
        notes(args, missing_end_score)
        models = policy, tokenizer, score
        quiet = not args.to and sys.stdout.isatty()  # the records are on the bar's screen
        for values in records(*models, prompts, settings, args.batch_size, done, quiet):
            write(values)


def refuse_useless(args):
    """InputError for flags that contradict each other."""
    if args.data and args.prompt:
        raise InputError("--data and --prompt: give one of them")
    if not args.to and (args.resume or args.overwrite):
        raise InputError("--resume and --overwrite are about the file --to; give it")
    if args.to and args.data and Path(args.to).resolve() == Path(args.data).resolve():
        raise InputError(f"--to {args.to} is the file of --data; name another one")
    if args.best_of > 1 and args.reward_model == "none":
        raise InputError(f"--best-of {args.best_of} needs a --reward-model that chooses")
    if args.temperature == 0 and args.responses * args.best_of > 1:
        several = "--responses" if args.responses > 1 else "--best-of"
        problem = "at temperature 0 all responses to a prompt are the same"
        raise InputError(f"{several}: {problem}; leave it out, or raise --temperature")


def load_score(args, tokenizer, device, precision):
    """The score as a function (prompts, replies) -> (N,), after the missing-end rule; the
    RewardModel; the missing-end score. Each is None where there is none."""
    if args.reward_model == "none":
        return None, None, None
    reward_model, other, stored = reward.load_reward_model(args.reward_model, device, precision)
    checkpoint.same_vocabulary(args.policy, tokenizer, args.reward_model, other)
    number = args.missing_end_score
    if number != number:  # NaN: not given
        number = chain.missing_end_score(args.policy, args.reward_model, "", stored)
    return evaluate.model_scores(reward_model, number), reward_model, number


def load_prompts(args, tokenizer, context, new_tokens):
    """The prompts that leave room for a response."""
    fits = fits_context(tokenizer, context, new_tokens, args.drop_long)
    if args.prompt:
        template = templates.pick_template(args.prompt_template, args.policy)
        prompts = [templates.apply(template, args.prompt)]
        if not fits(prompts[0]):
            raise InputError("--prompt: it does not fit the context; shorten it")
        return prompts
    if args.data:
        prompts = jsonl.read_prompts(args.data, fits, **jsonl.flags(args))
        return prompts[: args.prompts or None]
    chain.refuse_mixed(args, args.policy)
    stream = rng(args.seed, config.HELD_OUT_PROMPTS)
    return list(filter(fits, writers.prompts(args.prompts or 16, stream, "validation")))


# ---- responses


class Settings(NamedTuple):
    """What decides the responses to a list of prompts, beside the policy and the reward model."""

    responses: int = 1
    best_of: int = 1
    temperature: float = 1.0
    seed: int = 1
    max_new_tokens: int = 32


def records(policy, tokenizer, score, prompts, settings, batch_size=256, done=0, quiet=False):
    """The record of each prompt, a dictionary, from prompt `done` on. `score(prompts, replies)`
    -> (N,), or None. `quiet`: without a progress bar."""
    best_of, per_prompt = settings.best_of, settings.responses * settings.best_of
    size = max(1, batch_size // per_prompt)
    count = {"total": len(prompts), "initial": done}
    bar = tqdm(desc="sampling", unit=" prompts", disable=quiet, **count)
    for start in range(done, len(prompts), size):
        batch = prompts[start : start + size]
        repeated = [prompt for prompt in batch for _ in range(per_prompt)]
        draws = [noise(settings, start + n) for n in range(len(batch))]
        sampler = policy, tokenizer, repeated, np.concatenate(draws), settings.temperature
        replies = evaluate.respond(*sampler)
        scores = score(repeated, replies).numpy() if score else np.zeros(len(replies))
        best = scores.reshape(-1, best_of).argmax(1) + np.arange(0, len(replies), best_of)
        for prompt, rows in zip(batch, best.reshape(len(batch), -1), strict=True):
            yield record(prompt, [replies[row] for row in rows], scores[rows] if score else None)
        bar.update(len(batch))
    bar.close()


def noise(settings, number):  # -> (responses x best_of, max_new_tokens)
    """The uniforms for the responses to one prompt, given by its number."""
    shape = settings.responses * settings.best_of, settings.max_new_tokens
    return rng(settings.seed, config.SAMPLE_NOISE, number).random(shape, dtype=np.float32)


def record(prompt, replies, scores):
    """The dictionary of one line."""
    values = {"response": [reply.text for reply in replies]}
    values["ended"] = [reply.ended for reply in replies]
    if scores is not None:
        values["score"] = [round(float(x), 4) for x in scores]
    if len(replies) == 1:
        return {"prompt": prompt} | {name: value[0] for name, value in values.items()}
    names = {"response": "responses", "score": "scores"}
    return {"prompt": prompt} | {names.get(name, name): x for name, x in values.items()}


def notes(args, missing_end_score):
    """What the scores mean, and what best-of-n costs, on stderr."""
    if missing_end_score is not None:
        print(f"the score of a response without end is {missing_end_score:g}", file=sys.stderr)
    if args.best_of > 1:
        n, kl = args.best_of, evaluate.best_of_n_kl(args.best_of)
        cost = f"a KL of log {n} - {n - 1}/{n} = {kl:.3f} nats from the policy"
        print(f"best of {n}: {cost} (at most, where scores tie)", file=sys.stderr)


if __name__ == "__main__":
    config.run(main)
