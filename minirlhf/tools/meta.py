"""MetaRM: train the reward model again on the comparisons that it has learned from, with a meta
step on unlabelled responses of a policy that has moved on.

    minirlhf meta                              the demonstration's comparisons, its PPO's responses
    minirlhf meta --eta 0                      without the meta step: what it is compared with
    minirlhf meta --step normalised --eta 0.1  a step of this length, in place of the published one
    minirlhf meta --eta 0 --fresh 256          256 labels on the policy's own responses instead

It ends with how the old and the new reward model order responses of that policy to held-out
prompts, which is what a meta step is for. The mathematics is in minirlhf/rewards/meta.py.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from minirlhf import data, evaluate, lora, reward
from minirlhf.data import Comparison
from minirlhf.feedback import agreement, simulated
from minirlhf.formats import jsonl
from minirlhf.rewards import meta
from minirlhf.run import checkpoint, compute, config, health, optim
from minirlhf.run.config import InputError, RunFlags, flag, rng
from minirlhf.run.folder import COMPARISONS, start_run
from minirlhf.run.metrics import Metrics, write_samples
from minirlhf.run.progress import Progress
from minirlhf.tools.script import script
from minirlhf.world import judge, writers

STEPS = ("published", "normalised")
NORM = 512  # comparisons whose responses, the SFT model's, set the scores' mean and deviation


@dataclass(frozen=True)
class Config(RunFlags):
    """Train a reward model with MetaRM's step, on the embedded world."""

    out: str = flag("out/meta", "folder of the run; the reward model is OUT/rm")
    sft: str = flag("out/demo/sft", "checkpoint that the reward model starts from")
    rm: str = flag("out/demo/rm", "reward model whose comparisons are learned from again")
    policy: str = flag("out/demo/ppo", "the policy whose responses the model is to tell apart")
    step: str = flag(
        "published",
        "the ascent: eta times the gradient, or a step of the length eta along it",
        choices=STEPS,
    )
    eta: float = flag(5e-6, "size of the ascent; 0: none, which is train_rm.py's training", low=0)
    comparisons: int = flag(4096, "how many comparisons; 0: all", low=0)
    fresh: int = flag(
        0, "labelled pairs of its responses, in place of as many pairs of the comparisons", low=0
    )
    meta_prompts: int = flag(1024, "prompts that the policy responds to, without labels", low=1)
    meta_responses: int = flag(5, "k, its responses to each", low=2)
    meta_batch: int = flag(16, "prompts of a meta step", low=1)
    batch_size: int = flag(32, "comparisons per optimiser step", low=1)
    lr: float = flag(5e-4, "peak learning rate", above=0)
    warmup: int = flag(20, "steps of linear warm-up; a cosine follows", low=0)
    max_new_tokens: int = flag(32, "the most tokens a sampled response may have", low=1)
    held_out: int = flag(512, "held-out prompts, four responses each, to measure on", low=2)
    measure_every: int = flag(8, "steps between two measurements of what the ascent changes", low=1)
    save_every: int = flag(100, "steps between two checkpoints", low=1)


def train(args, folder, model, tokenizer, records, missing_end_score):
    """train_rm.train, with one epoch, and the gradient of each step from `gradient`. `records` are
    the comparisons, the groups of the meta step, and what the scores are normalised on."""
    comparisons, groups, norm = records
    steps = -(-len(comparisons) // args.batch_size)
    health.warn(health.short_run(steps, args.warmup))
    optimizer = optim.adamw(model, args.lr)
    parts = {"model": model, "optimizer": optimizer}
    state = checkpoint.restore(folder, "rm", args.resume, **parts)
    parts["missing_end_score"] = missing_end_score
    first = state["step"]
    bar = tqdm(range(first, steps), desc="meta", initial=first, total=steps)

    def save(done):
        model.normalise(torch.tensor(reward.score_comparisons(model, tokenizer, norm)))
        shape = model.gpt.config, tokenizer
        checkpoint.save(folder, "rm", *shape, done, keep=args.keep, **parts)

    with Progress(folder, state, steps, args.save_every, optimizer, save) as progress:
        for step in bar:
            optim.set_learning_rate(optimizer, args.lr * optim.cosine(step, steps, args.warmup))
            stats = gradient(args, model, tokenizer, comparisons, groups, step)
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            optim.require_finite(step, loss=stats["loss"], grad_norm=grad_norm)
            optimizer.step()
            optimizer.zero_grad()

            # ---- bookkeeping
            stats |= {"grad_norm": grad_norm, "lr": optim.learning_rate(optimizer)}
            progress.complete(step + 1, stats)
            shown = {name: f"{stats[name]:.3f}" for name in ("loss", "accuracy")}
            bar.set_postfix(shown, refresh=False)
            progress.record()


def gradient(args, model, tokenizer, comparisons, groups, step):
    """Leave the gradient of a step in the model; returns its metrics. Every --measure-every steps
    also the gradient without the ascent, for how much the ascent changes."""
    start, stop = step * args.batch_size, min((step + 1) * args.batch_size, len(comparisons))
    batch = [comparisons[i] for i in data.stream(len(comparisons), start, stop, args.seed)]
    limits = tokenizer, batch, args.microbatch_tokens

    def descend():
        return script("train_rm").accumulate(model, *limits)

    if not args.eta:
        loss, accuracy = descend()
        return {"loss": loss, "accuracy": accuracy}
    places = data.stream(
        len(groups), step * args.meta_batch, (step + 1) * args.meta_batch, args.seed
    )
    meta_groups, values, plain = [groups[i] for i in places], [], None
    parameters = list(model.parameters())
    measured = step % args.measure_every == 0
    if measured:
        descend()
        plain = meta.take_gradients(parameters)

    def ascend():
        values.append(spread(model, tokenizer, meta_groups, args.microbatch_tokens))

    ascent = args.eta, args.step == "normalised"
    length, (loss, accuracy) = meta.meta_gradient(model, ascend, descend, *ascent)
    stats = {"loss": loss, "accuracy": accuracy, "difference": values[0], "meta_norm": length}
    if measured:
        stats["meta_change"] = meta.change(plain, [p.grad for p in parameters])
    return stats


def spread(model, tokenizer, groups, microbatch_tokens):
    """Backpropagate J of some prompts' responses, a microbatch at a time; returns it."""
    encoded = [[data.encode(tokenizer, c.prompt, text) for text in c.responses] for c in groups]
    sizes, total = [len(g) * max(len(e.tokens) for e in g) for g in encoded], 0.0
    for rows in data.microbatches(sizes, microbatch_tokens):
        ranks = [[0] * len(encoded[row]) for row in rows]
        parts = script("train_rm").scores_and_ranks(model, [encoded[row] for row in rows], ranks)
        part = meta.score_difference(parts[0], parts[1] >= 0) * len(rows) / len(groups)
        part.backward()
        total += float(part.detach())
    return total


# ---- inputs


def main(argv=None):
    args = checkpoint.configure(Config, "rm", argv)
    device = compute.pick_device(args.device)
    args = compute.resolve_microbatch(compute.resolve(args, device), device)
    precision = compute.PRECISIONS[args.precision]
    sft, tokenizer = checkpoint.load_gpt(args.sft, device=device, precision=precision)
    policy, other = checkpoint.load_gpt(args.policy, device=device, precision=precision)
    checkpoint.same_vocabulary(args.sft, tokenizer, args.policy, other)
    old, other, missing_end_score = reward.load_reward_model(args.rm, device, precision)
    checkpoint.same_vocabulary(args.sft, tokenizer, args.rm, other)
    fits = data.fits_context(tokenizer, sft.config.context)
    collected = jsonl.read_collected(f"{args.rm}/{COMPARISONS}", fits)
    collected = collected[: args.comparisons or None]
    replaced = -(-args.fresh // (len(collected[0].responses) - 1))  # K responses are K - 1 choices
    if replaced >= len(collected):
        problem = f"--fresh {args.fresh} replaces all of the {len(collected)} comparisons"
        raise InputError(f"{problem}; give fewer, or more --comparisons")
    with config.torch_seed(args.seed, config.REWARD_HEAD_WEIGHTS):
        model = reward.RewardModel(sft).to(device)
    model.gpt = lora.start(args, sft)
    inputs = {"data": collected, "sft": sft, "policy": policy}
    with start_run(args, tokenizer, "rm", **inputs) as (folder,):
        comparisons = collected[replaced:] + fresh_labels(args, policy, tokenizer)
        groups = unlabelled(args, policy, tokenizer) if args.eta else []
        records = comparisons, groups, collected[:NORM]
        train(args, folder, model, tokenizer, records, missing_end_score)
        report(args, folder, {"before": old, "after": model}, tokenizer, policy)
    print(f"the reward model is in {folder}")


def ask(args, policy, tokenizer, n, k, streams, split="train"):
    """Comparisons without ranks: k responses of the policy to each of n prompts of the world."""
    prompts = writers.prompts(n, rng(args.seed, streams[0]), split)
    room = tokenizer, policy.config.context, args.max_new_tokens, False
    prompts = data.fitting_prompts(prompts, *room)
    repeated = [prompt for prompt in prompts for _ in range(k)]
    shape = len(repeated), args.max_new_tokens
    uniforms = rng(args.seed, streams[1]).random(shape, dtype=np.float32)
    replies = evaluate.respond(policy, tokenizer, repeated, uniforms, progress="responses")
    texts = [reply.text for reply in replies]
    groups = [texts[i : i + k] for i in range(0, len(texts), k)]
    return [Comparison(p, group, [0] * k) for p, group in zip(prompts, groups, strict=True)]


def unlabelled(args, policy, tokenizer):
    """The groups of the meta step: distinct responses, of which there are two at least. Equal texts
    have no gradient, and would make J a count of themselves."""
    streams = config.META_PROMPTS, config.META_RESPONSES
    asked = ask(args, policy, tokenizer, args.meta_prompts, args.meta_responses, streams)
    distinct = [replace(c, responses=list(dict.fromkeys(c.responses))) for c in asked]
    groups = [group for group in distinct if len(group.responses) > 1]
    if not groups:
        raise InputError(f"{args.policy} gives one response to each prompt: none to tell apart")
    return groups


def fresh_labels(args, policy, tokenizer):
    """Pairs of the policy's own responses, each ordered by a labeller."""
    if not args.fresh:
        return []
    streams, labels = (
        (config.FRESH_PROMPTS, config.FRESH_RESPONSES),
        rng(args.seed, config.FRESH_LABELS),
    )
    # Pairs of one text are no question: more prompts are asked than pairs are needed.
    asked = ask(args, policy, tokenizer, 4 * args.fresh, 2, streams)
    pairs = [pair for pair in asked if len(set(pair.responses)) == 2][: args.fresh]
    if len(pairs) < args.fresh:
        problem = f"{args.policy} gave two different responses to {len(pairs)} prompts"
        raise InputError(f"{problem} of {len(asked)}, fewer than --fresh {args.fresh}; lower it")
    return [replace(pair, ranks=simulated.rank(totals(pair), labels)) for pair in pairs]


def totals(comparison):
    return [judge.judge(comparison.prompt, text).total for text in comparison.responses]


# ---- report


def report(args, folder, models, tokenizer, policy):
    """How the reward models order the policy's responses to held-out prompts: on the console, and
    of the new one in the last line of metrics.jsonl."""
    streams = config.SHIFTED_PROMPTS, config.SHIFTED_RESPONSES
    asked = ask(args, policy, tokenizer, args.held_out, 4, streams, "validation")
    labels, truth = rng(args.seed, config.SHIFTED_LABELS), [totals(c) for c in asked]
    ranked = [
        replace(c, ranks=simulated.rank(row, labels)) for c, row in zip(asked, truth, strict=True)
    ]
    columns = {name: measure(model, tokenizer, ranked, truth) for name, model in models.items()}
    step = int(checkpoint.load(folder, ("rm",))["step"])
    Metrics(folder, step).log(step, **columns["after"])
    rows = [
        [name.replace("_", " "), *(f"{columns[model][name]:.3f}" for model in columns)]
        for name in columns["after"]
    ]
    title = f"on responses of {args.policy} to {len(ranked)} held-out prompts"
    write_samples(folder, title, ("measure", *columns), rows)


def measure(model, tokenizer, ranked, truth):
    """`agreement.ranking_numbers`, the spread of the raw scores between different responses to one
    prompt, and the mean gap between responses of equal totals."""
    scores = reward.score_comparisons(model, tokenizer, ranked)
    numbers = agreement.ranking_numbers(ranked, scores, truth)
    numbers = {name: float(value) for name, value in numbers.items()}
    numbers["score_spread"] = float(np.sqrt(np.var(scores, axis=1, ddof=1).mean()))
    gaps = [
        abs(row[i] - row[j])
        for row, judged in zip(scores, truth, strict=True)
        for i, j in itertools.combinations(range(len(row)), 2)
        if judged[i] == judged[j]
    ]
    return numbers | {"gap_of_ties": float(np.mean(gaps)) if gaps else 0.0}


if __name__ == "__main__":
    config.run(main)
