"""Compare any two checkpoints on held-out prompts, with the same noise for both and an interval around every claim.

python -m minirlhf.evaluate                                    out/ppo against out/sft, judged by the embedded world
python -m minirlhf.evaluate --data hh.jsonl --judge my:prefer  your prompts, your judge
"""

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from minirlhf import checkpoint, config, data, model, reward, world
from minirlhf.config import InputError, flag, rng
from minirlhf.generate import generate
from minirlhf.metrics import row, table, write_samples

AXES = ("helpful", "honest", "harmless", "total", "right")  # what a judged response is summed up in
ROWS = 512  # prompts that are sampled together


class Reply(NamedTuple):
    """A sampled response: its text, prompt and response as ids, and whether it came to its end token."""

    text: str
    example: data.Example
    ended: bool

    @property
    def length(self):
        """Response tokens, the end token included."""
        return len(self.example.tokens) - self.example.prompt_length


def noise(seed, n, max_new_tokens, step=0):
    """The uniforms of an evaluation: a function of the seed, so that two policies are compared under the same noise."""
    return rng(seed, config.EVALUATION, 1 + step).random((n, max_new_tokens), dtype=np.float32)


def respond(gpt, tokenizer, prompts, uniforms, temperature=1.0, progress=None):
    """texts (N,), uniforms (N, max_new_tokens) -> N replies. `progress` is the caption of a progress bar, if one is wanted."""
    ids = [data.encode_prompt(tokenizer, prompt) for prompt in prompts]
    replies = []
    for start in tqdm(range(0, len(ids), ROWS), desc=progress, disable=progress is None):
        draws = torch.from_numpy(uniforms[start : start + ROWS])
        samples = generate(gpt, ids[start : start + ROWS], draws.size(1), tokenizer.end_token, temperature, draws)
        replies += unpack(samples, tokenizer)
    return replies


def unpack(samples, tokenizer):
    """Samples -> list of Reply."""
    replies = []
    for tokens, prompt_length, length, ended in zip(*(x.tolist() for x in samples), strict=True):
        text = tokenizer.decode(tokens[prompt_length:length])
        replies.append(Reply(text, data.Example(tokens[:length], prompt_length), ended))
    return replies


# ---- the embedded world's judge


def finished(replies):
    """The texts as a judge sees them: a response that did not come to its end counts as an empty one."""
    return [reply.text if reply.ended else "" for reply in replies]


def judge(prompts, replies):
    """The world's judgements of replies."""
    return [world.judge(prompt, text) for prompt, text in zip(prompts, finished(replies), strict=True)]


def axes(judgements):
    """The AXES: each the mean over the prompts where it applies; "right" is the share with nothing wrong at all."""
    means = {}
    for axis in AXES[:-1]:
        values = [getattr(j, axis) for j in judgements if getattr(j, axis) is not None]
        means[axis] = float(np.mean(values)) if values else math.nan
    means["right"] = float(np.mean([all(x in (None, 1.0) for x in j[:3]) for j in judgements]))
    return means


def describe(judgements):
    return ", ".join(f"{name} {value:.2f}" for name, value in axes(judgements).items())


# ---- numbers


def sequence_logprobs(gpt, examples, temperature=1.0, max_tokens=0):
    """The summed log-probability of each example's response, (N,), in nats; `max_tokens` tokens at once (0: what suits the
    device)."""
    sums, max_tokens = torch.zeros(len(examples)), model.pick_microbatch(max_tokens, gpt.device, gpt.config.vocab_size)
    with torch.no_grad():
        for rows in data.microbatches([len(example.tokens) for example in examples], max_tokens):
            tokens, prompt_lengths, lengths = data.collate([examples[row] for row in rows])
            mask = model.response_mask(prompt_lengths, lengths, tokens.size(1))
            sums[rows] = model.logprobs(gpt, tokens, mask, temperature)[0].sum(1).cpu()
    return sums


def kl(gpt, reference, replies, temperature=1.0):
    """k1 of each reply, (N,): log policy - log reference summed over the response, in nats. Its mean estimates the KL."""
    examples = [reply.example for reply in replies]
    return sequence_logprobs(gpt, examples, temperature) - sequence_logprobs(reference, examples, temperature)


def interval(values):
    """(mean, half the width of its 95% interval) of independent values, by the normal approximation."""
    values = np.asarray(values, dtype=np.float64)
    return float(values.mean()), float(1.96 * values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def win_rate(prefer, prompts, first, second):
    """(rate, half interval): how often `first` beats `second`. `prefer(prompts, a, b)` says how likely a is the better, (N,).

    Both orders are asked and averaged, so that a judge who likes whatever comes first (or a tie) gives exactly one half.
    """
    asked = np.asarray(prefer(prompts, first, second), dtype=np.float64)
    swapped = np.asarray(prefer(prompts, second, first), dtype=np.float64)
    return interval((asked + 1 - swapped) / 2)


def wins(first, second):  # (N,), (N,) -> (N,)
    """1 where the first is higher, 1/2 where they tie, 0 where it is lower."""
    return (1 + np.sign(np.asarray(first) - np.asarray(second))) / 2


def by_score(score):
    """A `prefer` from a score: the higher one wins, equals share."""

    def prefer(prompts, first, second):
        return wins(score(prompts, first), score(prompts, second))

    return prefer


def best_of_n_kl(n):
    """KL of best-of-n from the policy it samples, in nats: log n - (n-1)/n (Stiennon et al. 2020, for scores without ties)."""
    return math.log(n) - (n - 1) / n


def candidates(gpt, tokenizer, score, prompts, n, max_new_tokens, seed, temperature=1.0):
    """n replies to each prompt, a list of N lists, and what `score(prompts, replies) -> (N,)` makes of them, (N, n)."""
    repeated = [prompt for prompt in prompts for _ in range(n)]
    replies = respond(gpt, tokenizer, repeated, noise(seed, len(repeated), max_new_tokens, step=1), temperature, f"best of {n}")
    scores = np.asarray(score(repeated, replies), dtype=np.float64).reshape(-1, n)
    return [replies[i : i + n] for i in range(0, len(replies), n)], scores


def best(replies, scores, n):
    """Of the first n replies to each prompt the one with the highest score; unfinished ones only if all are."""
    ended = np.array([[reply.ended for reply in own] for own in replies])
    chosen = np.where(ended, scores, -np.inf)[:, :n].argmax(1)
    return [own[column] for own, column in zip(replies, chosen, strict=True)]


def best_of_n(gpt, tokenizer, score, prompts, n, max_new_tokens, seed, temperature=1.0):
    """The best of n replies to each prompt."""
    return best(*candidates(gpt, tokenizer, score, prompts, n, max_new_tokens, seed, temperature), n)


# ---- during training


class Judge:
    """Evaluates a policy on held-out prompts, against the reference and under the same noise each time."""

    def __init__(self, args, tok, prompts, score, reference):
        self.args, self.tok = args, tok
        self.prompts, self.score, self.reference = prompts, score, reference
        self.noise = noise(args.seed, len(prompts), args.max_new_tokens)
        self.before = self.respond(reference)
        names = () if args.data else AXES
        row("update", "score", "kl", "length", "ended", *names, *(["beats SFT"] if names else []))
        self.tell(0, self.before, torch.zeros(len(prompts)))

    def respond(self, gpt):
        return respond(gpt, self.tok, self.prompts, self.noise, self.args.temperature)

    def __call__(self, done, gpt, folder):
        """Print a row and a table of samples; return the numbers for metrics.jsonl."""
        replies = self.respond(gpt)
        kls = kl(gpt, self.reference, replies, self.args.temperature)
        numbers, scores = self.tell(done, replies, kls)
        shown = zip(self.prompts[:5], self.before, replies, scores.tolist(), kls.tolist(), strict=False)
        rows = [(prompt, before.text, after.text, score, kl) for prompt, before, after, score, kl in shown]
        header = ("prompt", "SFT response", "policy response", "score", "kl")
        write_samples(folder, f"after {done} updates", header, rows)
        return {"eval_" + name: value for name, value in numbers.items()}

    def tell(self, done, replies, kls):
        scores = self.score(self.prompts, replies)
        length = float(np.mean([reply.length for reply in replies]))
        numbers = {"score": float(scores.mean()), "kl": float(kls.mean()), "length": length}
        numbers["ended"] = float(np.mean([reply.ended for reply in replies]))
        if not self.args.data:
            judgements, before = judge(self.prompts, replies), judge(self.prompts, self.before)
            numbers |= axes(judgements)
            totals = [[j.total for j in side] for side in (judgements, before)]
            numbers["win_rate"] = float(wins(*totals).mean())
        row(done, *numbers.values())
        if not self.args.data:
            numbers["total_half"] = interval(totals[0])[1]
        return numbers, scores


def ranking_numbers(comparisons, scores, totals=None):
    """How raw scores, one list a comparison, order held-out comparisons: accuracy on strictly ordered pairs of different texts
    (a tie of scores is wrong), loss, calibration. Where the judge's `totals` are known, so is how likely a labeller orders a
    pair as this one did: hence the accuracy to expect with other labellers, and the best possible one."""
    pairs = []  # margin, total of the better, total of the worse: as the labeller has it
    for c, own, truth in zip(comparisons, scores, totals or scores, strict=True):
        for i, j in itertools.permutations(range(len(own)), 2):
            if c.ranks[i] < c.ranks[j] and c.responses[i] != c.responses[j]:
                pairs.append((own[i] - own[j], truth[i], truth[j]))
    if not pairs:
        return {"held_out_pairs": 0}
    margins, better, worse = np.array(pairs).T
    numbers = {"held_out_pairs": len(margins), "held_out_accuracy": (margins > 0).mean(), "ties": (margins == 0).mean()}
    numbers["held_out_loss"] = np.logaddexp(0, -margins).mean()
    likely = np.ones(len(margins))
    if totals:
        likely = world.preference_probability(better, worse)
        numbers["expected_accuracy"] = np.where(margins > 0, likely, 1 - likely).mean()
        numbers["best_possible_accuracy"] = np.maximum(likely, 1 - likely).mean()
        numbers["labellers_agree"] = (likely**2 + (1 - likely) ** 2).mean()
        if (differ := better != worse).any():
            numbers["agreement_with_judge"] = ((margins > 0) == (better > worse))[differ].mean()
    return numbers | {"calibration_error": reward.calibration_error(margins, likely)}


def contrast_numbers(reward_model, tokenizer, seed, n=1000):
    """{"agreement_on_fact": ...}: how often the better of two responses that differ in one thing only gets the higher score."""
    names, prompts, better, worse = zip(*world.contrasts(n, rng(seed, config.EVALUATION, 10)), strict=True)
    wins = reward.score(reward_model, tokenizer, prompts, better) > reward.score(reward_model, tokenizer, prompts, worse)
    return {f"agreement_on_{name}": wins.numpy()[np.array(names) == name].mean() for name in sorted(set(names))}


# ---- the command


@dataclass(frozen=True)
class Config:
    """Compare a policy with a baseline on held-out prompts."""

    policy: str = flag("out/ppo", "checkpoint (folder or file) of the policy")
    baseline: str = flag("out/sft", "checkpoint it is compared with, and the reference of its KL")
    reward_model: str = flag("out/rm", "reward model that scores both and chooses the best of n; none: do without")
    data: str = flag("", "prompts as JSON Lines, instead of the world's held-out ones")
    judge: str = flag("", "module:function, (prompts, first, second) -> how likely first is better; else world or score")
    prompts: int = flag(256, "how many prompts", low=2)
    best_of: int = flag(16, "n of best-of-n under the reward model; 1: leave it out", low=1)
    max_new_tokens: int = flag(32, "the most tokens a response may have", low=1)
    temperature: float = flag(1.0, "of the samples", low=0)
    shown: int = flag(8, "prompts shown side by side", low=0)
    drop_long: bool = flag(False, "leave out prompts that do not fit the context, instead of stopping with an error")
    seed: int = flag(1, "seed of the prompts and of the noise", low=0)
    device: str = flag("auto", "where to run", choices=("auto", "cpu", "cuda"))
    precision: str = flag("auto", "of the trunk; auto: bf16 on a GPU, float32 on a CPU", choices=("auto", "float32", "bf16"))
    threads: int = flag(0, "threads of the CPU; 0: torch's choice, one a core; 1 is faster beside another job", low=0)


def main(argv=None):
    args = config.parse(Config, argv)
    device = model.pick_device(args.device)
    args = model.resolve(args, device)
    precision = model.PRECISIONS[args.precision]
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
    kls = {"baseline": 0.0, "policy": float(kl(policy, baseline, replies["policy"], args.temperature or 1.0).mean())}
    if score and args.best_of > 1:
        name = f"best of {args.best_of}"
        replies[name] = best_of_n(
            baseline, tokenizer, score, prompts, args.best_of, args.max_new_tokens, args.seed, args.temperature
        )
        kls[name] = best_of_n_kl(args.best_of)
    report(args, prompts, replies, kls, score, prefer)


def load_reward_model(args, tokenizer, device, precision):
    if args.reward_model == "none":
        return None
    reward_model, other, _ = reward.load_reward_model(args.reward_model, device, precision)
    checkpoint.same_vocabulary(args.policy, tokenizer, args.reward_model, other)
    return reward_model


def score_replies(reward_model, prompts, replies):  # -> (N,) on the CPU
    """Normalised scores of the very ids that were sampled: text that is encoded again may come out as other ids."""
    return reward.score_examples(reward_model, [reply.example for reply in replies])


def load_prompts(args, tokenizer, context):
    fits = data.fits_context(tokenizer, context, args.max_new_tokens, args.drop_long)
    if args.data:
        return data.read_prompts(args.data, fits)[: args.prompts]
    return [prompt for prompt in world.prompts(args.prompts, rng(args.seed, config.EVALUATION), split="test") if fits(prompt)]


def world_total(prompts, texts):
    """The judge as a reward function: `--reward minirlhf.evaluate:world_total` trains on the truth itself."""
    return [world.judge(prompt, text).total for prompt, text in zip(prompts, texts, strict=True)]


def load_judge(args, score):
    """`prefer(prompts, replies, replies)`, see `win_rate`."""
    if args.judge:
        function = reward.load_function("--judge", args.judge)
        return lambda prompts, first, second: function(prompts, finished(first), finished(second))
    if not args.data:
        return by_score(lambda prompts, replies: world_total(prompts, finished(replies)))
    if not score:
        raise InputError("nothing can judge your prompts; give --judge module:function or --reward-model")
    return by_score(score)


def report(args, prompts, replies, kls, score, prefer):
    """Print the table, the win rates, and samples side by side."""
    names = list(AXES) if not args.data else []
    rows = []
    for name, replied in replies.items():
        judged = axes(judge(prompts, replied)) if not args.data else {}
        scores = float(score(prompts, replied).mean()) if score else "-"
        length = float(np.mean([reply.length for reply in replied]))
        rows.append([name, *judged.values(), scores, kls[name], length, float(np.mean([r.ended for r in replied]))])
    print("\n".join(["", *table(["", *names, "score", "kl", "length", "ended"], rows), ""]))
    for name in replies:
        rate, half = win_rate(prefer, prompts, replies[name], replies["baseline"])
        print(f"{name} beats the baseline: {100 * rate:.1f}% +- {100 * half:.1f} of {len(prompts)} prompts (ties count half)")
    shown = zip(prompts[: args.shown], replies["baseline"], replies["policy"], strict=False)
    shown = [(prompt, before.text, after.text) for prompt, before, after in shown]
    print("\n".join(["", *table(["prompt", "baseline", "policy"], shown)]))


if __name__ == "__main__":
    config.run(main)
