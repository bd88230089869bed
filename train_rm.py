"""Stage 2: what people preferred -> a reward model.

    python train_rm.py                           sample from out/sft, have the world's labellers
                                                 rank the samples, train: out/rm
    python train_rm.py --data comparisons.jsonl  your own comparisons, or HH-RLHF's dialogues
    python train_rm.py --labeller ai             a language model labels the samples

The trunk starts as the SFT model's. The comparisons that were collected stay beside the checkpoint,
in comparisons.jsonl.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from minirlhf import data, evaluate, lora, reward
from minirlhf.data import Comparison, SoftComparison
from minirlhf.feedback import agreement, baselines, simulated
from minirlhf.formats import jsonl
from minirlhf.run import chain, checkpoint, compute, config, distributed, health, optim, resume
from minirlhf.run.config import ChainFlags, InputError, TrainingFlags, flag, rng
from minirlhf.run.files import write_json, write_text
from minirlhf.run.folder import CALIBRATION, COMPARISONS, LABELS, start_run
from minirlhf.run.metrics import Metrics, write_samples
from minirlhf.run.progress import Progress
from minirlhf.tools import labeller
from minirlhf.world import judge, measures, writers


@dataclass(frozen=True)
class Config(TrainingFlags, ChainFlags):
    """Stage 2: train a reward model on ranked responses. Without --data, the world's labellers rank
    the SFT model's samples."""

    out: str = flag("out", "folder of all stages; this one writes OUT/rm")
    sft: str = flag("", "checkpoint to sample from and to start from [OUT/sft]")
    data: str = flag(
        "",
        "comparisons: JSON Lines, JSON, CSV or Parquet in any form that minirlhf formats lists; "
        "files, a folder, or - for the standard input",
    )
    labeller: str = flag(labeller.HUMAN, labeller.HELP)
    labeller_model: str = flag("", "checkpoint of the model that is the labeller [OUT/pretrain]")
    human_share: float = flag(
        0.0, "share of the prompts whose responses people rank beside a model", low=0, high=1
    )
    policy: str = flag("", "checkpoint to sample from instead of the SFT model; it needs --more")
    more: str = flag("", "comparisons of earlier rounds, which are learned from too")
    prompts: int = flag(16_384, "prompts whose responses the world's labellers rank", low=1)
    responses: int = flag(4, "K, responses sampled for each prompt and ranked together", low=2)
    max_new_tokens: int = flag(32, "the most tokens a sampled response may have", low=1)
    epochs: int = flag(1, "passes over the comparisons", low=1)
    batch_size: int = flag(32, "prompts per optimiser step", low=1)
    lr: float = flag(5e-4, "peak learning rate", above=0)
    warmup: int = flag(
        20, "steps of linear warm-up; a cosine to a tenth of the peak follows", low=0
    )
    weight_decay: float = flag(0.0, "AdamW's decay of the weight matrices", low=0)
    held_out: int = flag(
        256, "prompts to measure accuracy on (of --data, records of the tenth held out)", low=1
    )
    norm_prompts: int = flag(
        512, "prompts whose SFT responses set the scores' mean and standard deviation", low=1
    )
    missing_end_score: float = flag(
        -3.0, "the normalised score of a response without end in PPO; stored with the model"
    )
    margin: float = flag(
        0.0,
        "by how much raw scores must differ, per point of difference in --data's ratings",
        low=0,
    )
    save_every: int = flag(200, "steps between two checkpoints", low=1)


def train(args, folder, reward_model, tokenizer, comparisons, norm):
    """Minimise the ranking loss on raw scores. Every checkpoint is normalised, so that any of them
    can be used."""
    steps = -(-len(comparisons) * args.epochs // args.batch_size)
    health.warn(health.short_run(steps, args.warmup))
    optimizer = optim.adamw(reward_model, args.lr, weight_decay=args.weight_decay)
    parts = {"model": reward_model, "optimizer": optimizer}
    state = checkpoint.restore(folder, "rm", args.resume, **parts)
    parts["missing_end_score"] = args.missing_end_score
    first = state["step"]
    bar = tqdm(range(first, steps), desc="reward model", initial=first, total=steps)

    def save(done):
        normalise(reward_model, tokenizer, norm)
        shape = reward_model.gpt.config, tokenizer
        checkpoint.save(folder, "rm", *shape, done, keep=args.keep, **parts)

    with Progress(folder, state, steps, args.save_every, optimizer, save) as progress:
        for step in bar:
            optim.set_learning_rate(optimizer, args.lr * optim.cosine(step, steps, args.warmup))
            start, stop = step * args.batch_size, (step + 1) * args.batch_size
            places = data.stream(
                len(comparisons), start, min(stop, len(comparisons) * args.epochs), args.seed
            )
            batch = [comparisons[i] for i in places]
            limits = args.microbatch_tokens, args.margin
            loss, accuracy = accumulate(reward_model, tokenizer, batch, *limits)
            parameters = reward_model.parameters()
            grad_norm = torch.nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
            optim.require_finite(step, loss=loss, grad_norm=grad_norm)
            optimizer.step()
            optimizer.zero_grad()

            # ---- bookkeeping
            stats = {"loss": loss, "accuracy": accuracy, "grad_norm": grad_norm}
            stats["lr"] = optim.learning_rate(optimizer)
            progress.complete(step + 1, stats)
            bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.2f}", refresh=False)
            progress.record()


def accumulate(reward_model, tokenizer, batch, microbatch_tokens, margin=0.0):
    """Backpropagate the ranking loss of a batch, a microbatch at a time; all responses to a prompt
    stay together.

    Returns the loss and the share of ordered pairs that the model orders alike.
    """
    encoded = [[data.encode(tokenizer, c.prompt, text) for text in c.responses] for c in batch]
    sizes = [len(group) * max(len(example.tokens) for example in group) for group in encoded]
    loss, correct, pairs = 0.0, 0, 0
    learnable = sum(map(has_pair, batch))
    for rows in data.own_microbatches(sizes, microbatch_tokens):
        groups, group_ranks = [encoded[row] for row in rows], [batch[row].ranks for row in rows]
        scores, ranks = scores_and_ranks(reward_model, groups, group_ranks)
        # The mean over the prompts of the *batch* that have a pair, however it is split.
        members = [batch[row] for row in rows]
        wanted = rating_margins(members, ranks, margin)
        share = sum(map(has_pair, members)) / max(learnable, 1)
        part = mean_loss(members, scores, ranks, wanted) * share
        part.backward()
        margins = reward.margins(scores.detach(), ranks)
        loss += part.detach()
        correct += (margins > 0).sum()
        pairs += len(margins)
    distributed.add_gradients(reward_model)
    loss, correct, pairs = distributed.total(torch.tensor([loss, correct, pairs]))
    return float(loss), float(correct / pairs)


def has_pair(comparison):
    """Whether the ranking loss has something to compare in it."""
    likely = getattr(comparison, "likely", ())
    return len(set(comparison.ranks)) > 1 or any(map(any, likely))


def mean_loss(comparisons, scores, ranks, wanted):  # N Comparisons, (N, K) x 2 -> scalar
    """The ranking loss; with the probabilities of labellers who are not sure, if there are any."""
    if not any(isinstance(c, SoftComparison) for c in comparisons):
        return reward.ranking_loss(scores, ranks, wanted)
    likely = reward.pair_mask(ranks).float()
    for table, comparison in zip(likely, comparisons, strict=True):
        if isinstance(comparison, SoftComparison):
            K = len(comparison.responses)
            table[:K, :K] = torch.tensor(comparison.likely)
    return reward.soft_ranking_loss(scores, likely)


def scores_and_ranks(reward_model, groups, ranks):  # N lists of Examples, N lists -> (N, K) x 2
    """Raw scores, each response through the trunk once. Where a prompt has fewer than K responses
    its rank is -1."""
    device = reward_model.mean.device
    tokens, _, lengths = data.collate([example for group in groups for example in group])
    K = max(map(len, groups))
    ranks = torch.tensor([row + [-1] * (K - len(row)) for row in ranks]).to(device)
    scores = reward_model.raw(tokens, lengths)  # (responses of all groups,), in the order of ranks
    return torch.zeros(ranks.shape, device=device).masked_scatter(ranks >= 0, scores), ranks


def rating_margins(comparisons, ranks, margin):  # N Comparisons, (N, K) -> (N, K, K), or 0
    """`margin` times the difference of the ratings of two responses; 0 without ratings."""
    if not margin:
        return 0.0
    ratings = torch.zeros(ranks.shape)
    for row, comparison in zip(ratings, comparisons, strict=True):
        if comparison.ratings:
            row[: len(comparison.ratings)] = torch.tensor(comparison.ratings)
    return (margin * (ratings[:, :, None] - ratings[:, None, :])).to(ranks.device)


def refuse_margin(args, comparisons):
    """InputError for --margin without ratings, or with ratings that are not one number a
    response."""
    rated = [c for c in comparisons or [] if c.ratings]
    if args.margin and not rated:
        raise InputError(f"--margin {args.margin:g}: the comparisons have no ratings; leave it out")
    for c in rated if args.margin else ():
        if len(c.ratings) != len(c.responses) or any(
            type(x) not in (int, float) for x in c.ratings
        ):
            problem = f"the ratings {str(c.ratings)[:80]} are not one number a response"
            raise InputError(f"--margin {args.margin:g}: {problem}")


@distributed.alone()
def normalise(reward_model, tokenizer, norm):
    scores = reward.score_comparisons(reward_model, tokenizer, norm)
    reward_model.normalise(torch.tensor(scores))


# ---- inputs


def main(argv=None):
    args = checkpoint.configure(Config, "rm", argv)
    labeller.refuse_idle_flags(args)
    device = compute.pick_device(args.device)
    args = compute.resolve_microbatch(compute.resolve(args, device), device)
    precision = compute.PRECISIONS[args.precision]
    path = args.sft or f"{args.out}/sft"
    sft, tokenizer = checkpoint.load_gpt(path, device=device, precision=precision)
    chain.refuse_mixed(args, path)
    comparisons = load_comparisons(args, sft, tokenizer)
    refuse_margin(args, comparisons)
    model = args.labeller_model or f"{args.out}/pretrain"
    source = labeller.load_source(args, sft, tokenizer, model, args.policy, args.more)
    inputs = {"data": comparisons, "sft": sft} | source.inputs
    if args.data:
        comparisons, held_out = data.hold_out(comparisons, args.held_out, args.seed)
        prompts = norm_prompts(args, sft, tokenizer, comparisons)
        texts = [text for comparison in comparisons[:1000] for text in comparison.responses]
        lengths = [len(tokenizer.encode(text)) + 1 for text in texts]  # and an end token
        health.warn(health.long_answers(lengths, args.max_new_tokens))
    with config.torch_seed(args.seed, config.REWARD_HEAD_WEIGHTS):
        reward_model = reward.RewardModel(sft).to(device)
    reward_model.gpt = lora.start(args, sft)
    with start_run(args, tokenizer, "rm", **inputs) as (folder,):
        if args.data:
            caption = "SFT samples that the scores are normalised on"
            norm = sample(args, sft, tokenizer, prompts, config.NORM_RESPONSES, caption)
        else:
            comparisons = comparisons or collect(args, folder, source, tokenizer)
            held_out = rank(args, sft, tokenizer, "validation", "held-out responses to rank")
            norm = comparisons[: args.norm_prompts]  # they are samples of the SFT model already
        train(args, folder, reward_model, tokenizer, comparisons, norm)
        report(args, folder, reward_model, tokenizer, held_out, comparisons)
    command = chain.command("python train_ppo.py", args, chain.STAGE_FLAGS)
    print(f"the reward model is in {folder}; next: {command}")


def load_comparisons(args, sft, tokenizer):
    """Your own comparisons, or those that an interrupted run has collected already; None if they
    are yet to be made."""
    if args.data:
        fits = data.fits_context(tokenizer, sft.config.context, drop_long=args.drop_long)
        return jsonl.read_comparisons(args.data, fits, **jsonl.flags(args))
    for split in ("train", "validation"):  # what does not fit is an error now, and not after hours
        draw_prompts(args, sft, tokenizer, split)
    collected = Path(args.out) / "rm" / COMPARISONS
    return jsonl.read_collected(collected) if args.resume and collected.exists() else None


def draw_prompts(args, sft, tokenizer, split):
    n, stream = {
        "train": (args.prompts, config.RANKED_PROMPTS),
        "validation": (args.held_out, config.RANKED_HELD_OUT_PROMPTS),
    }[split]
    prompts = writers.prompts(n, rng(args.seed, stream), split)
    context = sft.config.context
    return data.fitting_prompts(prompts, tokenizer, context, args.max_new_tokens, args.drop_long)


def collect(args, folder, source, tokenizer):
    """The comparisons of earlier rounds, and responses of the policy, ranked by the labellers; they
    stay in comparisons.jsonl, and what is known of a model's labels in labels.json."""
    comparisons = rank(args, source.policy, tokenizer, "train", "responses to rank")
    if source.prefer:
        people = round(args.human_share * len(comparisons))
        labelled, numbers = labeller.label(source.prefer, comparisons[people:])
        print(labeller.described(args.labeller, numbers))
        write_json(folder / LABELS, numbers)
        comparisons = comparisons[:people] + labelled
    if not any(len(set(c.responses)) > 1 for c in comparisons):
        raise InputError("no prompt has two different responses, so there is nothing to compare")
    comparisons = source.earlier + comparisons
    write_text(folder / COMPARISONS, jsonl.write_records(comparisons))
    resume.add_inputs(folder, data=comparisons)
    return comparisons


def rank(args, sft, tokenizer, split, caption):
    """Prompts with K responses each, and a labeller's ranking of them."""
    response_stream, label_stream = {
        "train": (config.RANKED_RESPONSES, config.LABELS),
        "validation": (config.RANKED_HELD_OUT_RESPONSES, config.HELD_OUT_LABELS),
    }[split]
    prompts = draw_prompts(args, sft, tokenizer, split)
    label_rng = rng(args.seed, label_stream)
    unranked = sample(args, sft, tokenizer, prompts, response_stream, caption)
    return [dataclasses.replace(c, ranks=simulated.rank(totals(c), label_rng)) for c in unranked]


def sample(args, sft, tokenizer, prompts, stream, caption):
    """K responses of the SFT model to each prompt, not ranked yet. The progress bar has the
    `caption`."""
    K = args.responses
    repeated = [prompt for prompt in prompts for _ in range(K)]
    shape = len(repeated), args.max_new_tokens
    uniforms = rng(args.seed, stream).random(shape, dtype=np.float32)
    replies = evaluate.respond(sft, tokenizer, repeated, uniforms, progress=caption)
    texts = [reply.text for reply in replies]
    groups = [texts[i : i + K] for i in range(0, len(texts), K)]
    unranked = [Comparison(p, group, [0] * K) for p, group in zip(prompts, groups, strict=True)]
    # Text that is encoded again may take more ids than were sampled (bytes that are no UTF-8 do).
    fits = data.fits_context(tokenizer, sft.config.context, drop_long=True)
    kept = list(filter(fits, unranked))
    if not kept:
        raise InputError(
            "no sampled response can be read back as text that fits the context; train the SFT "
            "model for longer"
        )
    return kept


def norm_prompts(args, sft, tokenizer, comparisons):
    """Prompts of your comparisons that leave room for a response."""
    prompts = [comparison.prompt for comparison in comparisons]
    room = sft.config.context, args.max_new_tokens
    return data.fitting_prompts(prompts, tokenizer, *room, drop_long=True)[: args.norm_prompts]


def totals(comparison):
    texts = comparison.responses
    return [judge.judge(comparison.prompt, response).total for response in texts]


# ---- report


def report(args, folder, reward_model, tokenizer, held_out, comparisons):
    """How good it is on held-out comparisons: on the console, in samples.txt and as the last line
    of metrics.jsonl. On your own comparisons, beside baselines that learned from the same ones."""
    scores = reward.score_comparisons(reward_model, tokenizer, held_out)
    truth = None if args.data else [totals(c) for c in held_out]
    numbers = agreement.ranking_numbers(held_out, scores, truth)
    numbers["score_spread"] = float(reward_model.std)
    write_json(folder / CALIBRATION, agreement.calibration(held_out, scores))
    if args.data:
        numbers |= baselines.baseline_numbers(comparisons, held_out, scores)
        print(baselines.baseline_line("the reward model", numbers))
    if not args.data:
        numbers |= measures.contrast_numbers(reward_model, tokenizer, args.seed)
    step = int(checkpoint.load(folder, ("rm",))["step"])
    health.Watch().see(Metrics(folder, step).log(step, **numbers))
    rows = [
        [name.replace("_", " "), str(value) if isinstance(value, int) else f"{value:.3f}"]
        for name, value in numbers.items()
    ]
    title = f"the reward model on {len(held_out)} held-out prompts"
    write_samples(folder, title, ("measure", "value"), rows)


if __name__ == "__main__":
    config.run(main)
