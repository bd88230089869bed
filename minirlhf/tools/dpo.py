"""Train a policy by DPO or its kin: the same comparisons, no reward model, no sampling.

minirlhf dpo                             on the comparisons that train_rm.py collected: out/dpo
minirlhf dpo --data comparisons.jsonl    on your own
minirlhf dpo --loss ipo --tau 0.5        another loss; all of them write OUT/dpo
minirlhf dpo --loss kto --data f.jsonl   also on single responses, each labelled good or bad
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from minirlhf import data, evaluate, lora
from minirlhf.dpo import Method, accumulate, response_lengths
from minirlhf.feedback import agreement, baselines
from minirlhf.formats import jsonl
from minirlhf.run import chain, checkpoint, compute, config, health, optim
from minirlhf.run.config import ChainFlags, InputError, TrainingFlags, flag
from minirlhf.run.files import write_json
from minirlhf.run.folder import CALIBRATION, COMPARISONS, start_run
from minirlhf.run.metrics import Metrics
from minirlhf.run.progress import Progress

READS = {  # a loss: the flag of its strength, its other flags
    "dpo": ("beta",),
    "ipo": ("tau",),
    "kto": ("beta", "undesirable_weight"),
    "simpo": ("beta", "gamma"),
    "orpo": ("lam",),
}


@dataclass(frozen=True)
class Config(TrainingFlags, ChainFlags):
    """Direct preference optimisation of the SFT model on comparisons, and its kin."""

    out: str = flag("out", "folder of all stages; this one writes OUT/dpo")
    sft: str = flag("", "checkpoint that the policy starts from, and the reference [OUT/sft]")
    data: str = flag("", "comparisons, as for train_rm.py [OUT/rm/comparisons.jsonl]")
    loss: str = flag(
        "dpo",
        "dpo; ipo: a margin of 1 / (2 tau); kto: good and bad responses, paired or not; simpo and "
        "orpo: by token, without a reference",
        choices=tuple(READS),
    )
    beta: float = flag(
        1.0,
        "dpo, kto: strength of the pull to the reference, small moves far, large stays near; "
        "simpo: scale of the rewards",
        above=0,
    )
    tau: float = flag(1.0, "ipo: strength of the pull to the reference", above=0)
    gamma: float = flag(0.5, "simpo: margin that the rewards of a pair should have", low=0)
    lam: float = flag(0.1, "orpo: weight of the odds beside imitation of the chosen", above=0)
    undesirable_weight: float = flag(
        1.0,
        "kto: weight of a bad response, a good one has 1; about good / bad where one is rarer",
        above=0,
    )
    epochs: int = flag(1, "passes over the comparisons", low=1)
    batch_size: int = flag(
        16, "prompts per optimiser step; all ordered pairs of a prompt stay together", low=1
    )
    lr: float = flag(3e-4, "peak learning rate", above=0)
    warmup: int = flag(
        20, "steps of linear warm-up; a cosine to a tenth of the peak follows", low=0
    )
    held_out: int = flag(
        256, "prompts of --data to measure accuracy on, records of the tenth held out", low=1
    )
    save_every: int = flag(200, "steps between two checkpoints", low=1)


def train(args, folder, policy, reference, tokenizer, comparisons):
    """Minimise the loss, its mean over the ordered pairs of a batch."""
    steps = -(-len(comparisons) * args.epochs // args.batch_size)
    health.warn(health.short_run(steps, args.warmup))
    optimizer = optim.adamw(policy, args.lr)
    parts = {"model": policy, "optimizer": optimizer}
    state = checkpoint.restore(folder, "dpo", args.resume, **parts)
    first = state["step"]
    bar = tqdm(range(first, steps), desc="dpo", initial=first, total=steps)

    def save(done):
        checkpoint.save(folder, "dpo", policy.config, tokenizer, done, keep=args.keep, **parts)

    with Progress(folder, state, steps, args.save_every, optimizer, save) as progress:
        for step in bar:
            optim.set_learning_rate(optimizer, args.lr * optim.cosine(step, steps, args.warmup))
            start, stop = step * args.batch_size, (step + 1) * args.batch_size
            stop = min(stop, len(comparisons) * args.epochs)
            places = data.stream(len(comparisons), start, stop, args.seed)
            batch = [comparisons[i] for i in places]
            models = policy, reference, tokenizer
            stats = accumulate(*models, batch, method_of(args), args.microbatch_tokens)
            grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), args.max_grad_norm)
            optim.require_finite(step, loss=stats["loss"], grad_norm=grad_norm)
            optimizer.step()
            optimizer.zero_grad()

            # ---- bookkeeping
            stats |= {"grad_norm": grad_norm, "lr": optim.learning_rate(optimizer)}
            progress.complete(step + 1, stats)
            shown = {name: f"{stats[name]:.3f}" for name in ("loss", "accuracy")}
            bar.set_postfix(shown, refresh=False)
            progress.record()


def report(args, folder, models, held_out, comparisons):
    """How the implicit rewards order held-out comparisons: on the console, and as the last line of
    metrics.jsonl, beside baselines that learned from the same comparisons."""
    comparisons, held_out = (list(filter(is_comparison, x)) for x in (comparisons, held_out))
    if not held_out:
        return
    scores = implicit_rewards(*models, held_out, method_of(args))
    numbers = agreement.ranking_numbers(held_out, scores)
    numbers |= baselines.baseline_numbers(comparisons, held_out, scores)
    write_json(folder / CALIBRATION, agreement.calibration(held_out, scores))
    step = int(checkpoint.load(folder, ("dpo",))["step"])
    Metrics(folder, step).log(step, **numbers)
    print(baselines.baseline_line("the policy's implicit reward", numbers))


def is_comparison(record):
    return isinstance(record, data.Comparison)


def implicit_rewards(policy, reference, tokenizer, comparisons, method):
    """The rewards of all responses, one list per comparison: with DPO beta x (log policy - log
    reference)."""
    examples = [data.encode(tokenizer, c.prompt, text) for c in comparisons for text in c.responses]
    logprobs, ref_logprobs = (evaluate.sequence_logprobs(m, examples) for m in (policy, reference))
    values = method.rewards(logprobs, ref_logprobs, response_lengths([examples]))
    rewards = iter(values.tolist())
    return [[next(rewards) for _ in c.responses] for c in comparisons]


def method_of(args):
    """The loss that the flags ask for."""
    if args.loss == "ipo":
        return Method("ipo", args.tau)
    if args.loss == "kto":
        return Method("kto", args.beta, undesirable_weight=args.undesirable_weight)
    if args.loss == "simpo":
        return Method("simpo", args.beta, args.gamma)
    if args.loss == "orpo":
        return Method("orpo", args.lam)
    return Method("dpo", args.beta)


def refuse_idle_flags(args):
    """InputError for a flag that this call does not read."""
    if not args.data:
        config.refuse_idle(args, {"held_out": "is about --data, and there is none"})
    defaults = Config()
    for names in READS.values():
        for name in set(names) - set(READS[args.loss]):
            if getattr(args, name) != getattr(defaults, name):
                option = "--" + name.replace("_", "-")
                readers = " and ".join(loss for loss, read in READS.items() if name in read)
                raise InputError(f"{option} is a flag of {readers}; --loss {args.loss} has none")
    if args.loss == "kto" and args.batch_size < 2:
        problem = "takes its reference point from other prompts of the batch"
        raise InputError(f"--loss kto {problem}; give --batch-size 2 or more")


def main(argv=None):
    args = checkpoint.configure(Config, "dpo", argv)
    refuse_idle_flags(args)
    device = compute.pick_device(args.device)
    args = compute.resolve(args, device)
    precision, path = compute.PRECISIONS[args.precision], args.sft or f"{args.out}/sft"
    reference, tokenizer = checkpoint.load_gpt(path, device=device, precision=precision)
    chain.refuse_mixed(args, path)
    args = compute.resolve_microbatch(args, device, tokenizer.vocab_size)
    fits = data.fits_context(tokenizer, reference.config.context, drop_long=args.drop_long)
    records, held_out = load_comparisons(args, fits), []
    comparisons = records
    if args.data:
        comparisons, held_out = data.hold_out(records, args.held_out, args.seed)
    policy = lora.start(args, reference)
    with start_run(args, tokenizer, "dpo", data=records, sft=reference) as (folder,):
        train(args, folder, policy, reference.requires_grad_(False), tokenizer, comparisons)
        if args.data:
            models = policy, reference, tokenizer
            report(args, folder, models, held_out, comparisons)
    trained = (Path(args.out) / "rm" / "checkpoint.pt").exists()
    models = {"policy": folder, "baseline": path}
    models["reward_model"] = f"{args.out}/rm" if trained else "none"
    command = chain.command("minirlhf evaluate", args, chain.EVALUATION_FLAGS, **models)
    print(f"the policy is in {folder}; compare it: {command}")


def load_comparisons(args, fits):
    """Your own comparisons, KTO: and labelled responses; or what the reward model's run has
    collected. A model that labels may find all responses equally good: that teaches DPO nothing."""
    if args.data and args.loss == "kto":
        records = jsonl.read_labelled(args.data, fits, **jsonl.flags(args))
    elif args.data:
        records = jsonl.read_comparisons(args.data, fits, **jsonl.flags(args))
    else:
        records = jsonl.read_collected(f"{args.out}/rm/{COMPARISONS}", fits)
    kept = [x for x in records if not is_comparison(x) or len(set(x.ranks)) > 1]
    if not kept:
        raise InputError("no comparison says which response is better: DPO has nothing to learn")
    return kept


if __name__ == "__main__":
    config.run(main)
