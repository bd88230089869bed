"""Where and how a run computes: device, precision, threads, tokens of a microbatch."""

import dataclasses

import torch

from minirlhf.run.config import InputError

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}


def pick_device(name):
    """The torch device of `--device`; "auto" is the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU here; use --device cpu")
    return torch.device(name)


def pick_precision(name, device):
    """`--precision`; "auto" is bf16 on a GPU that multiplies in it, and float32 elsewhere.

    On a CPU it is float32 whatever the processor: the same command then learns the same on every
    machine, and whether bf16 is faster depends on the size of the model as much as on the
    processor.
    """
    if name != "auto":
        return name
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if fast else "float32"


def pick_microbatch(tokens, device, vocab_size=1):
    """`--microbatch-tokens`, or for 0 what is fast: on a CPU what stays in its cache, on a GPU what
    keeps it busy; at most 50 million logits (0.2 GB) on the one, 800 million on the other."""
    most, logits = (16_384, 8e8) if device.type == "cuda" else (2048, 5e7)
    return tokens or min(most, int(logits / vocab_size))


def resolve(args, device):
    """The flags with what "auto" and 0 mean on this machine in their place; sets torch's threads.

    A run stores what it computed with, so that --resume computes in the same way on any machine.
    """
    torch.set_num_threads(args.threads or torch.get_num_threads())
    precision = pick_precision(args.precision, device)
    return dataclasses.replace(args, precision=precision, threads=torch.get_num_threads())


def resolve_microbatch(args, device, vocab_size=1):
    """The flags with the `--microbatch-tokens` that 0 means for a vocabulary of this size."""
    tokens = pick_microbatch(args.microbatch_tokens, device, vocab_size)
    return dataclasses.replace(args, microbatch_tokens=tokens)
