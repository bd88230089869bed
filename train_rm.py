"""Stage 2: what people preferred -> a reward model.

    python train_rm.py                           sample from out/sft, let the world's labellers rank, train: out/rm
    python train_rm.py --data comparisons.jsonl  your own comparisons, or HH-RLHF's dialogues

The trunk starts as the SFT model's. What was collected stays beside the checkpoint, in comparisons.jsonl.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from minirlhf import checkpoint, config, data, evaluate, model, reward, world
from minirlhf.config import InputError, flag, rng
from minirlhf.data import Comparison
from minirlhf.metrics import Metrics, write_samples


@dataclass(frozen=True)
class Config:
    """Stage 2: train a reward model on ranked responses. Without --data, the world's labellers rank the SFT model's samples."""

    out: str = flag("out", "folder of all stages; this one writes OUT/rm")
    sft: str = flag("", "checkpoint to sample from and to start from [OUT/sft]")
    data: str = flag("", "comparisons as JSON Lines (plain or gzip): ranked responses, chosen/rejected, HH-RLHF dialogues")
    prompts: int = flag(16_384, "prompts whose responses the world's labellers rank", low=1)
    responses: int = flag(4, "K, responses sampled for each prompt and ranked together", low=2)
    max_new_tokens: int = flag(32, "the most tokens a sampled response may have", low=1)
    epochs: int = flag(1, "passes over the comparisons", low=1)
    batch_size: int = flag(32, "prompts an optimiser step", low=1)
    microbatch_tokens: int = flag(0, "tokens that go through the model at once: memory, not results; 0 suits the device", low=0)
    lr: float = flag(1e-3, "peak learning rate", above=0)
    warmup: int = flag(20, "steps of linear warm-up; a cosine to a tenth of the peak follows", low=0)
    weight_decay: float = flag(0.0, "AdamW's decay of the weight matrices", low=0)
    max_grad_norm: float = flag(1.0, "gradients are scaled down to this norm", above=0)
    held_out: int = flag(256, "prompts whose responses are held out to measure accuracy on (at most a tenth of --data)", low=1)
    norm_prompts: int = flag(512, "prompts whose SFT responses set the scores' mean and spread", low=1)
    missing_end_score: float = flag(-3.0, "the normalised score PPO gives a response without end; stored with the model")
    save_every: int = flag(200, "steps between two checkpoints", low=1)
    drop_long: bool = flag(False, "leave out records that do not fit the context, instead of stopping with an error")
    seed: int = flag(1, "seed of everything random", low=0)
    device: str = flag("auto", "where to run; auto takes the GPU if there is one", choices=("auto", "cpu", "cuda"))
    precision: str = flag("auto", "of the trunk; auto: bf16 on a GPU, float32 on a CPU", choices=("auto", "float32", "bf16"))
    threads: int = flag(0, "threads of the CPU; 0: torch's choice, one a core; 1 is faster beside another job", low=0)
    compile: bool = flag(False, "compile what learns by torch.compile: half a minute, and on a CPU no gain")
    resume: bool = flag(False, "continue the run in OUT/rm with its flags")
    overwrite: bool = flag(False, "replace the run that is already there")


def main(argv=None):
    args = checkpoint.configure(Config, "rm", argv)
    device, compiled = model.pick_device(args.device), model.pick_compile(args.compile)
    args = model.resolve(args, device)
    args = dataclasses.replace(args, microbatch_tokens=model.pick_microbatch(args.microbatch_tokens, device))
    precision = model.PRECISIONS[args.precision]
    sft, tok = checkpoint.load_gpt(args.sft or f"{args.out}/sft", device=device, precision=precision)
    comparisons = load_comparisons(args, sft, tok)
    if args.data:
        n = max(1, min(args.held_out, len(comparisons) // 10))
        held_out, comparisons = comparisons[:n], data.informative(comparisons[n:])
        prompts = norm_prompts(args, sft, tok, comparisons)
    (folder,) = checkpoint.start_run(args, tok, "rm")
    if args.data:
        norm = sample(args, sft, tok, prompts, step=2, progress="SFT samples that the scores are normalised on")
    else:
        comparisons = comparisons or collect(args, folder, sft, tok)
        held_out = rank(args, sft, tok, args.held_out, "test", "held-out responses to rank")
        norm = comparisons[: args.norm_prompts]  # they are samples of the SFT model already
    with torch.random.fork_rng(devices=[]):  # the head's random weights, without touching the global generator
        torch.default_generator.manual_seed(int(rng(args.seed, config.INIT, 1).integers(2**62)))
        reward_model = reward.RewardModel(sft).to(device)
    if compiled:
        model.compile_blocks(reward_model)
    train(args, folder, reward_model, tok, comparisons, norm)
    report(args, folder, reward_model, tok, held_out)
    print(f"the reward model is in {folder}; next: python train_ppo.py")


# ---- comparisons


def load_comparisons(args, sft, tok):
    """Your own comparisons, or those that an interrupted run has collected already; None if they are yet to be made."""
    collected = Path(args.out) / "rm" / "comparisons.jsonl"
    if args.data:
        return data.read_comparisons(args.data, data.fits_context(tok, sft.config.context, drop_long=args.drop_long))
    fits = data.fits_context(tok, sft.config.context, args.max_new_tokens)
    for split, n in (("train", args.prompts), ("test", args.held_out)):
        all(map(fits, draw_prompts(args, n, split)))  # an error now, and not after hours
    return data.read_comparisons(collected) if args.resume and collected.exists() else None


def draw_prompts(args, n, split):
    return world.prompts(n, rng(args.seed, config.PROMPTS, ("train", "test").index(split)), split)


def collect(args, folder, sft, tok):
    """Responses of the SFT model, ranked by the world's labellers. They stay in comparisons.jsonl."""
    comparisons = rank(args, sft, tok, args.prompts, "train", "responses to rank")
    checkpoint.write_text(folder / "comparisons.jsonl", data.write_records(comparisons))
    return comparisons


def rank(args, sft, tok, n, split, progress):
    """n prompts with K responses each, and a labeller's ranking of them."""
    step = ("train", "test").index(split)
    prompts = draw_prompts(args, n, split)
    labeller = rng(args.seed, config.LABELS, step)
    unranked = sample(args, sft, tok, prompts, step, progress)
    return [dataclasses.replace(c, ranks=world.rank(totals(c), labeller)) for c in unranked]


def sample(args, sft, tok, prompts, step, progress):
    """K responses of the SFT model to each prompt, not ranked yet."""
    repeated = [prompt for prompt in prompts for _ in range(args.responses)]
    uniforms = rng(args.seed, config.RESPONSES, step).random((len(repeated), args.max_new_tokens), dtype=np.float32)
    texts = [reply.text for reply in evaluate.respond(sft, tok, repeated, uniforms, progress=progress)]
    groups = [texts[i : i + args.responses] for i in range(0, len(texts), args.responses)]
    unranked = [Comparison(prompt, group, [0] * len(group)) for prompt, group in zip(prompts, groups, strict=True)]
    # Text that is encoded again may take more ids than were sampled (bytes that are no UTF-8 do), and then not fit any more.
    kept = list(filter(data.fits_context(tok, sft.config.context, drop_long=True), unranked))
    if not kept:
        raise InputError("no sampled response can be read back as text that fits the context; train the SFT model for longer")
    return kept


def norm_prompts(args, sft, tok, comparisons):
    """Prompts of your comparisons that leave room for a response."""
    fits = data.fits_context(tok, sft.config.context, args.max_new_tokens, drop_long=True)
    prompts = [comparison.prompt for comparison in comparisons if fits(comparison.prompt)][: args.norm_prompts]
    if not prompts:
        room = f"--max-new-tokens {args.max_new_tokens} in a context of {sft.config.context}"
        raise InputError(f"no prompt leaves room for {room}; lower the one or train_sft.py with a larger --context")
    return prompts


def totals(comparison):
    return [world.judge(comparison.prompt, response).total for response in comparison.responses]


# ---- training


def train(args, folder, reward_model, tok, comparisons, norm):
    """Minimise the ranking loss on raw scores. Every checkpoint is normalised, so that any of them can be used."""
    steps = -(-len(comparisons) * args.epochs // args.batch_size)
    optimizer = model.adamw(reward_model, args.lr, weight_decay=args.weight_decay)
    first = checkpoint.restore(folder, "rm", args.resume, model=reward_model, optimizer=optimizer)["step"]
    metrics = Metrics(folder, first)
    bar = tqdm(range(first, steps), desc="reward model", initial=first, total=steps)
    with checkpoint.Interrupt() as interrupt:
        for step in bar:
            model.set_learning_rate(optimizer, args.lr * model.cosine(step, steps, args.warmup))
            stop = min((step + 1) * args.batch_size, len(comparisons) * args.epochs)
            batch = [comparisons[i] for i in data.stream(len(comparisons), step * args.batch_size, stop, args.seed)]
            loss, accuracy = accumulate(reward_model, tok, batch, args.microbatch_tokens)
            grad_norm = torch.nn.utils.clip_grad_norm_(reward_model.parameters(), args.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()

            # ---- bookkeeping
            done, lr = step + 1, optimizer.param_groups[0]["lr"]
            metrics.log(step, loss=loss, accuracy=accuracy, grad_norm=grad_norm, lr=lr)
            if step % 10 == 0:
                bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.2f}")
            if done % args.save_every == 0 or done == steps or interrupt.asked:
                normalise(reward_model, tok, norm)
                parts = {"model": reward_model, "optimizer": optimizer, "missing_end_score": args.missing_end_score}
                checkpoint.save(folder, "rm", reward_model.gpt.config, tok, done, **parts)
            interrupt.stop_if_asked(folder, done, steps)


def accumulate(reward_model, tok, batch, microbatch_tokens):
    """Backpropagate the ranking loss of a batch, a microbatch at a time; all responses to a prompt stay together.

    Returns the loss and the share of ordered pairs that the model orders alike.
    """
    encoded = [[data.encode(tok, c.prompt, response) for response in c.responses] for c in batch]
    sizes = [len(group) * max(len(example.tokens) for example in group) for group in encoded]
    loss, right, pairs = 0.0, 0, 0
    for rows in data.microbatches(sizes, microbatch_tokens):
        scores, ranks = scores_and_ranks(reward_model, [encoded[row] for row in rows], [batch[row].ranks for row in rows])
        part = reward.ranking_loss(scores, ranks) * len(rows) / len(batch)  # the mean over the *batch*, whatever the split
        part.backward()
        margins = reward.margins(scores.detach(), ranks)
        loss, right, pairs = loss + part.detach(), right + (margins > 0).sum(), pairs + len(margins)
    return float(loss), float(right / pairs)


def scores_and_ranks(reward_model, groups, ranks):  # N lists of Examples, N lists -> (N, K), (N, K)
    """Raw scores, each response through the trunk once. Where a prompt has fewer than K responses its rank is -1."""
    device = reward_model.mean.device
    tokens, _, lengths = data.collate([example for group in groups for example in group])
    K = max(map(len, groups))
    ranks = torch.tensor([row + [-1] * (K - len(row)) for row in ranks]).to(device)
    scores = reward_model.raw(tokens, lengths)
    return torch.zeros(ranks.shape, device=device).masked_scatter(ranks >= 0, scores), ranks


def normalise(reward_model, tok, norm):
    reward_model.normalise(torch.tensor(reward.score_comparisons(reward_model, tok, norm)))


def report(args, folder, reward_model, tok, held_out):
    """How good it is on held-out comparisons: on the console, in samples.txt and as the last line of metrics.jsonl."""
    scores = reward.score_comparisons(reward_model, tok, held_out)
    numbers = evaluate.ranking_numbers(held_out, scores, None if args.data else [totals(c) for c in held_out])
    if not args.data:
        numbers |= evaluate.contrast_numbers(reward_model, tok, args.seed)
    Metrics(folder, step := int(checkpoint.load(folder, ("rm",))["step"])).log(step, **numbers)
    rows = [[name.replace("_", " "), f"{value:.3f}" if value < 2 else str(value)] for name, value in numbers.items()]
    write_samples(folder, f"the reward model on {len(held_out)} held-out prompts", ("measure", "value"), rows)


if __name__ == "__main__":
    config.run(main)
