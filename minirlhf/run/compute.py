"""Where and how a run computes: device, precision, threads, tokens of a microbatch."""

import dataclasses
import functools
import os
from pathlib import Path

import torch

from minirlhf.run import distributed
from minirlhf.run.config import InputError
from minirlhf.run.files import listed

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
    if name == "cuda" and distributed.world() > 1:
        torch.cuda.set_device(own_gpu())
    return torch.device(name)


def own_gpu():
    """The number of the GPU of this process, one of several on a machine."""
    place, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if place >= gpus:
        remedy = f"--nproc-per-node {gpus}, or --device cpu"
        raise InputError(f"process {place + 1} on a machine with {gpus} GPUs; {remedy}")
    return place


def check_processes(args):
    """InputError if several processes cannot share a run: they would have fewer rows than they
    are, or would each get a part of a pipe. Nobody goes on before all have come here."""
    N, rows = distributed.world(), getattr(args, "batch_size", None)
    distributed.largest(0)  # all have seen the folder as it is
    if N > 1 and rows and N > rows:
        raise InputError(
            f"{N} processes and --batch-size {rows}: a process would have no rows; "
            "start fewer, or raise --batch-size"
        )
    for path in listed(getattr(args, "data", "")) if N > 1 else ():
        if path == "-" or Path(path).is_fifo():
            raise InputError(f"--data {path} is a pipe, and {N} processes read it; give a file")


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
    check_processes(args)
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
