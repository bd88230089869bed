"""Where and how a run computes: device, precision, threads, tokens of a microbatch."""

import dataclasses
import functools

import torch

from minirlhf.run.config import InputError

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}


def pick_device(name):
    """The torch device of `--device`; "auto" is a CUDA GPU where there is one, and never "mps", on
    which nobody has measured yet. InputError if a GPU is asked for and there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device mps: torch finds no GPU of Apple's here; use --device cpu")
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
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if native else "float32"


def full_precision(function):
    """Makes a function refuse half-precision tensors, with a TypeError. bf16 has 8 bits: a score of
    1000.1 would become 1000, and an advantage of 9.9 would be wrong by 0.1."""

    @functools.wraps(function)
    def checked(*args, **kwargs):
        for x in (*args, *kwargs.values()):
            if torch.is_tensor(x) and x.is_floating_point() and x.dtype.itemsize < 4:
                problem = f"{function.__name__} computes in float32, and got a tensor of {x.dtype}"
                raise TypeError(f"{problem}; convert it with .float()")
        return function(*args, **kwargs)

    return checked


def pick_microbatch(tokens, device, vocab_size=1):
    """`--microbatch-tokens`, or for 0 a fast number: on a CPU 2,048 tokens, which stay in its
    cache, on a GPU 16,384, which keep it busy; but no more than 50 million logits (0.2 GB) on a CPU
    and 800 million on a GPU. On Apple's, which shares the memory of the CPU, a quarter of that."""
    limits = {"cuda": (16_384, 8e8), "mps": (4096, 2e8)}
    max_tokens, max_logits = limits.get(device.type, (2048, 5e7))
    return tokens or min(max_tokens, int(max_logits / vocab_size))


def resolve(args, device):
    """The flags, with what "auto" and 0 mean on this machine for precision and threads. Sets
    torch's number of threads.

    A run stores these flags, so that --resume computes in the same way on any machine.
    """
    torch.set_num_threads(args.threads or torch.get_num_threads())
    torch.set_default_dtype(torch.float32)  # a caller may have set another one
    return dataclasses.replace(
        args,
        device=device.type,
        precision=pick_precision(args.precision, device),
        threads=torch.get_num_threads(),
    )


def resolve_microbatch(args, device, vocab_size=1):
    """The flags, with what `--microbatch-tokens` 0 means for a vocabulary of this size."""
    tokens = pick_microbatch(args.microbatch_tokens, device, vocab_size)
    return dataclasses.replace(args, microbatch_tokens=tokens)
