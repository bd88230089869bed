"""How much memory a stage needs, before you start it.

    minirlhf memory --size gpt2-xl --stage ppo           an estimate, in parts
    minirlhf memory --size gpt2-xl                       of every stage
    minirlhf memory --size gpt2-xl --lora 16 --gradient-checkpointing
    minirlhf memory --size tiny --batch-size 16 --measure    and what it takes on this machine

The estimate is arithmetic (footprint.py), and needs no memory itself. It counts tensors. Python and
torch take 0.3 to 0.5 GB more on a CPU, which the row "process" of --measure includes.

The responses of the estimate have all tokens that they may have; a batch is padded to nothing.
"""

import dataclasses
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from tqdm import tqdm

from minirlhf.bench import footprint, peak
from minirlhf.evaluate import ROWS
from minirlhf.model import SIZES, GPTConfig
from minirlhf.run import compute, config
from minirlhf.run.config import InputError, flag
from minirlhf.run.metrics import table

BATCH = {"sft": 16, "rm": 32, "ppo": 256, "grpo": 256, "dpo": 16}  # the stages' own
MB = 2**20  # bytes


@dataclass(frozen=True)
class Config:
    """The memory that the stages of training need, estimated in parts."""

    size: str = flag("gpt2", "size of the model", choices=tuple(SIZES))
    stage: str = flag("all", "the stage, or all", choices=("all", *footprint.STAGES))
    vocab_size: int = flag(50_257, "ids of the vocabulary; 1,664 is the embedded world's", low=2)
    context: int = flag(1024, "the most tokens a row may have, as in train_sft.py", low=2)
    prompt_tokens: int = flag(64, "tokens of a prompt", low=1)
    max_new_tokens: int = flag(64, "tokens of a response, its end token included", low=2)
    batch_size: int = flag(
        0, "what an optimiser step, in ppo and grpo a rollout, consists of [the stage's]", low=0
    )
    minibatches: int = flag(8, "optimiser steps of a rollout", low=1)
    responses: int = flag(4, "responses to a prompt in rm and dpo", low=2)
    microbatch_tokens: int = flag(
        0, "the most tokens per forward pass; 0: what the stage chooses for the device", low=0
    )
    sampled_rows: int = flag(
        0,
        "responses sampled together in rm, ppo and grpo [512 in rm; else the larger of "
        "--batch-size and 256, the held-out prompts]",
        low=0,
    )
    critic: str = flag(
        "shared", "ppo: value head, or a network of its own", choices=("shared", "separate")
    )
    lora: int = flag(0, "rank of adapters, as in training; the reward model has some too", low=0)
    gradient_checkpointing: bool = flag(False, "keep the input of each block alone")
    precision: str = flag("float32", "of the trunk", choices=("float32", "bf16"))
    device: str = flag(
        "cpu", "where the stage is to run; it need not be here", choices=("cpu", "cuda")
    )
    measure: bool = flag(
        False, "also run two steps of the stage on random weights, and measure their peak"
    )
    seed: int = flag(1, "seed of the measured weights and ids", low=0)


def work_of(args, stage):
    """The flags as a footprint.Work, with what the stage chooses itself."""
    device, batch_size = torch.device(args.device), args.batch_size or BATCH[stage]
    rollout = stage in ("ppo", "grpo")
    sampled = ROWS if stage == "rm" else max(batch_size, 256)
    return footprint.Work(
        stage=stage,
        shape=GPTConfig.sized(args.size, args.vocab_size, args.context),
        batch_size=batch_size,
        prompt_tokens=args.prompt_tokens,
        new_tokens=args.max_new_tokens,
        responses=args.responses,
        minibatches=args.minibatches if rollout else 1,
        microbatch_tokens=compute.pick_microbatch(
            # train_rm.py has no head, whose logits would bound it.
            args.microbatch_tokens,
            device,
            1 if stage == "rm" else args.vocab_size,
        ),
        sampled_rows=(args.sampled_rows or sampled) if rollout or stage == "rm" else 0,
        separate_critic=stage == "ppo" and args.critic == "separate",
        bf16=args.precision == "bf16",
        cpu=device.type == "cpu",
        lora=args.lora,
        gradient_checkpointing=args.gradient_checkpointing,
    )


def check(args):
    """Refuses what no stage could run."""
    columns = args.prompt_tokens + args.max_new_tokens
    if columns > args.context:
        problem = f"--prompt-tokens {args.prompt_tokens} and --max-new-tokens {args.max_new_tokens}"
        raise InputError(f"{problem} do not fit a --context of {args.context}")
    if args.stage in ("ppo", "grpo") and 0 < args.batch_size < args.minibatches:
        problem = f"--minibatches {args.minibatches} must be at most"
        raise InputError(f"{problem} --batch-size {args.batch_size}")
    if args.critic == "separate" and args.stage not in ("all", "ppo"):
        raise InputError(f"--critic separate is about ppo; --stage {args.stage} has no critic")
    if args.measure and args.device == "cuda":
        compute.pick_device("cuda")  # it has to be here


def measured(work, seed):
    """{"tensors", "process": bytes} of two steps, in a process of its own."""
    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler's own messages
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak.both, work, seed).result()


def lines(columns):
    """The table: a column a stage, {stage: (moment, {part: bytes}, {kind: bytes measured})}."""
    parts = [part for part in footprint.PARTS if any(x[1].get(part) for x in columns.values())]
    rows = [[part, *(cell(x[1].get(part)) for x in columns.values())] for part in parts]
    rows.append(["in all", *(cell(sum(x[1].values())) for x in columns.values())])
    for kind in ("tensors", "process"):
        if any(x[2] for x in columns.values()):
            rows.append([f"measured, {kind}", *(cell(x[2][kind]) for x in columns.values())])
    rows.append(["at its peak", *(x[0] for x in columns.values())])
    return table(["MB", *columns], rows)


def cell(x):
    return f"{x / MB:,.0f}" if x else "-"


def main(argv=None):
    args = config.parse(Config, argv)
    check(args)
    stages = footprint.STAGES if args.stage == "all" else (args.stage,)
    columns = {}
    for stage in tqdm(stages, disable=not args.measure):
        work = work_of(args, stage)
        numbers = measured(work, args.seed) if args.measure else {}
        columns[stage] = (*footprint.peak(work), numbers)
    shape = dataclasses.asdict(work.shape)
    weights = footprint.weights(work.shape) // footprint.FLOAT
    print(f"{args.size}: {weights:,} weights, {shape}")
    print("\n".join(lines(columns)))


if __name__ == "__main__":
    config.run(main)
