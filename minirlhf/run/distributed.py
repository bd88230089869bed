"""Several processes on one batch: data parallel under `torchrun`, gloo on CPUs, NCCL on GPUs.

Every process runs the same program on the same data, plan and random numbers, which belong to rows.
It samples, scores and backpropagates rows of its own, gets the results of the others, and adds up
all gradients before an optimiser step. So all hold the same weights and numbers, and rank 0 alone
writes and prints. In a single process each function here returns what it is given.
"""

import contextlib
import os
import time
from datetime import timedelta
from itertools import zip_longest

import torch
from torch import distributed as dist

JOIN = timedelta(seconds=60)  # the longest that processes wait for one another at the start
WAIT = timedelta(hours=2)  # and later: a reward function of the user's may take its time
solitary = []  # not empty inside `alone`


class Lost(ConnectionError):
    """Another process of the run has ended, hangs, or has never come."""


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world():
    """The number of processes that share the work."""
    return dist.get_world_size() if dist.is_initialized() and not solitary else 1


@contextlib.contextmanager
def alone():
    """While this lasts each process computes everything itself: the others may be gone."""
    solitary.append(True)
    try:
        yield
    finally:
        solitary.pop()


# ---- work is shared out


def mine(rows):
    """Every Nth entry of a list, an array or a tensor, for one of N processes."""
    return rows[rank() :: world()] if world() > 1 else rows


def own(groups):
    """`mine` of lists of rows, without the empty ones."""
    return [rows for rows in mine(groups) if rows] if world() > 1 else groups


def hands(lengths):
    """The rows of each process, by their lengths: as many, and as long, for all. In the order of
    the lengths they are dealt forth and back."""
    order, N = sorted(range(len(lengths)), key=lengths.__getitem__), world()
    return [sorted(order[r :: 2 * N] + order[2 * N - 1 - r :: 2 * N]) for r in range(N)]


# ---- results come together


def call(collective, *arguments, **options):
    try:
        return collective(*arguments, **options)
    except RuntimeError as error:
        problem = "another process of this run has ended, or hangs"
        raise Lost(f"{problem}; torchrun's report, if there is one, says which") from error


def total(x):
    """The sum over processes, of a tensor or of a number."""
    if world() == 1:
        return x
    x = x.clone() if torch.is_tensor(x) else torch.tensor(x, dtype=torch.float64)
    call(dist.all_reduce, x)
    return x


def sums(numbers):
    """The sums over processes of numbers by name; a process without rows may lack a name."""
    if world() == 1:
        return numbers
    parts = gathered([numbers])
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


def largest(number):
    """The largest of the processes' whole numbers. Nobody goes on before all have come here."""
    if world() == 1:
        return number
    numbers = torch.tensor(number)
    call(dist.all_reduce, numbers, op=dist.ReduceOp.MAX)
    return int(numbers)


def gathered(rows):
    """The lists of all processes in one, in turn: of lists that `mine` gave the whole list. Tensors
    in dictionaries come on the CPU."""
    if world() == 1:
        return rows
    parts, rows = [None] * world(), [on_cpu(row) for row in rows]
    call(dist.all_gather_object, parts, rows)
    none = object()
    turns = zip_longest(*parts, fillvalue=none)
    return [row for turn in turns for row in turn if row is not none]


def on_cpu(row):
    if isinstance(row, dict):
        return {name: on_cpu(x) for name, x in row.items()}
    return row.cpu() if torch.is_tensor(row) else row


def add_gradients(module):
    """Replace each gradient by the sum of all processes', none counting as zero: one message an
    optimiser step."""
    if world() == 1:
        return
    learned = [p for p in module.parameters() if p.requires_grad]
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in learned]
    flat = torch.cat([part.flatten() for part in parts])
    call(dist.all_reduce, flat)
    sums = flat.split([p.numel() for p in learned])
    for p, part in zip(learned, sums, strict=True):
        p.grad = part.view_as(p)


# ---- beginning and end


@contextlib.contextmanager
def processes():
    """While it is entered, this is one of the processes that torchrun has started; without torchrun
    it does nothing. Of an error that all have, or that one has and the others notice, the first is
    raised, and the others exit without a word."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    store, number, size = rendezvous()
    try:
        connect(store, number, size)
        with contextlib.ExitStack() as silence:
            if rank():
                nowhere = silence.enter_context(open(os.devnull, "w", encoding="utf-8"))
                silence.enter_context(contextlib.redirect_stdout(nowhere))
                silence.enter_context(contextlib.redirect_stderr(nowhere))
            yield
    except (Exception, KeyboardInterrupt):
        if first(store):
            raise
        raise SystemExit(1) from None
    dist.destroy_process_group()


def first(store):
    """Whether no other process has failed before this one."""
    try:
        return store.add("failures", 1) == 1
    except RuntimeError:  # its host is gone
        return True


def rendezvous():
    """Find the place that the environment names. Returns the store of keys and values that all
    processes see, the number of this one, and how many there are."""
    try:
        return next(dist.rendezvous("env://", timeout=JOIN))
    except (RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error):
            host, _, port = place().rpartition(":")
            remedy = "torchrun --standalone takes a free one"
            raise Lost(f"port {port} of {host} is in use; {remedy}") from error
        problem = f"nobody to meet at {place()}: {str(error).splitlines()[0]}"
        raise Lost(f"{problem}; start all processes, as torchrun does") from error


def place():
    return ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))


def connect(store, number, size):
    """Make the group of processes. Nobody goes on before all are in it: one that failed at once
    would leave others in the middle of their connections, for WAIT."""
    meet(store, "here", number, size)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    group = {"store": store, "rank": number, "world_size": size, "timeout": WAIT}
    call(dist.init_process_group, backend, **group)
    meet(store, "connected", number, size)


def meet(store, stage, number, size):
    """Wait until all processes have come to a stage of the beginning."""
    store.set(f"{stage} {number}", "")
    end = time.monotonic() + JOIN.seconds
    while missing := [str(r) for r in range(size) if not store.check([f"{stage} {r}"])]:
        time.sleep(0.02)
        if time.monotonic() > end:
            problem = f"process {', '.join(missing)} of {size} did not come to {place()}"
            raise Lost(f"{problem} within {JOIN.seconds} seconds; start all of them")
