"""A frozen dataclass is a command line: a field is a flag, and one sentence is both its comment and
its --help. And the named streams of random numbers."""

import argparse
import contextlib
import dataclasses
import errno
import math
import os
import re
import signal
import sys
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

DEVICES = ("auto", "cpu", "cuda", "mps")


class InputError(ValueError):
    """A mistake of the user's: one line that says where it is and what to do about it."""


class Divergence(InputError):
    """A number that is not finite. The model is then worse than that of the last checkpoint."""


def flag(default, help, choices=None, low=None, above=None, high=None, by_place=False):
    """A config field: its default, the sentence that documents it, and the range it must lie in
    (`low` <= value, `above` < value, value <= `high`). One `by_place` has no --name: its place on
    the command line names it. Without a default it is required."""
    limits = {"choices": choices, "low": low, "above": above, "high": high}
    metadata = {"help": help, "by_place": by_place, **limits}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class DataFlags:
    """The flags of every command that reads data."""

    form: str = flag(
        "", "the form of the rows [found by their fields]; minirlhf formats lists them"
    )
    map: str = flag(
        "",
        "fields under other names, prompt=question,chosen=answers.0.text; only these say then what "
        "a row is",
    )
    template: str = flag("hh", "how turns are written as text: hh, chatml, instruction or plain")
    drop_long: bool = flag(
        False, "leave out records that do not fit the context, instead of stopping with an error"
    )
    keep_turns: bool = flag(
        False, "a prompt that does not fit keeps its oldest turns, instead of losing them"
    )
    skip_bad: bool = flag(
        False,
        "go on where rows of a file have a wrong form or more than half are skipped, instead of "
        "stopping",
    )


@dataclass(frozen=True)
class ModelFlags:
    """The flags of every command that runs a model."""

    seed: int = flag(1, "seed of everything random", low=0)
    device: str = flag("auto", "where to run; auto: the GPU if there is one", choices=DEVICES)
    precision: str = flag(
        "auto",
        "what the trunk computes in; auto: bf16 on a GPU, float32 on a CPU",
        choices=("auto", "float32", "bf16"),
    )
    threads: int = flag(
        0,
        "CPU threads; 0: one per core, torch's choice; 1 is faster beside another job",
        low=0,
        high=4096,
    )


@dataclass(frozen=True)
class ComputeFlags(ModelFlags, DataFlags):
    """The flags of every command that runs a model on records."""


@dataclass(frozen=True)
class ChainFlags(ComputeFlags):
    """The flags of every command that builds on the stages before it."""

    mix_data: bool = flag(
        False,
        "go on where an earlier stage was trained on the embedded world and this one has --data, "
        "or the reverse",
    )


@dataclass(frozen=True)
class RunFlags(ModelFlags):
    """The flags of everything that trains and can be resumed."""

    microbatch_tokens: int = flag(
        0,
        "the most tokens per forward pass; changes memory use alone; 0: chosen for the device",
        low=0,
    )
    max_grad_norm: float = flag(1.0, "gradients are scaled down to this norm", above=0)
    lora: int = flag(
        0,
        "rank of adapters on the linear layers; they alone are trained, beside frozen weights that "
        "are in memory once; 0 trains all weights",
        low=0,
    )
    lora_alpha: float = flag(
        16.0, "the output of the adapters is multiplied by this / rank", above=0
    )
    gradient_checkpointing: bool = flag(
        False,
        "keep the input of each block alone for the backward pass and compute the rest again: less "
        "memory, more time, the same numbers",
    )
    resume: bool = flag(False, "continue the run in the output folder with its flags")
    track: str = flag(
        "none",
        "show the run in TensorBoard or Weights & Biases, too (pip install -e '.[track]')",
        choices=("none", "tensorboard", "wandb"),
    )
    overwrite: bool = flag(False, "replace the run that is already there")
    keep: int = flag(
        1,
        "checkpoints that stay beside the last, 0 or 1: checkpoint.previous.pt, which doubles the "
        "space on the disk",
        low=0,
        high=1,
    )


@dataclass(frozen=True)
class TrainingFlags(RunFlags, ComputeFlags):
    """The flags of every stage that trains on records."""


READING = ("form", "map", "template", "keep_turns", "skip_bad")  # of DataFlags


class Parser(argparse.ArgumentParser):
    def error(self, message):
        if found := re.match("argument (--[a-z-]+): expected one argument", message):
            message += f'; a value that begins with "-" is given as {found[1]}=VALUE'
        self.exit(2, f"{self.prog}: {message} (--help explains every flag)\n")


def refuse_idle(args, reasons):
    """InputError for a flag that is not at its default, of those that this call does not read:
    {name: why}. A resumed run keeps the flags that it began with."""
    if getattr(args, "resume", False):
        return
    defaults = {field.name: field.default for field in dataclasses.fields(args)}
    for name, reason in reasons.items():
        if name in defaults and repr(getattr(args, name)) != repr(defaults[name]):  # NaN is NaN
            raise InputError(f"--{name.replace('_', '-')}: {reason}; leave it out")


def parse(config_class, argv=None, defaults=None, prog=None):
    """Fill `config_class` from the command line. `defaults` replaces the class's own: a resumed run
    continues with its flags.

    An unknown, mistyped or out-of-range flag exits with code 2 and one line that names it.
    """
    parser = Parser(prog, description=config_class.__doc__, allow_abbrev=False)
    fields = own_fields_first(config_class)
    for field in fields:
        default = (defaults or {}).get(field.name, field.default)
        parser.add_argument(option(field), default=default, **argument(field, default))
    config = config_class(**vars(parser.parse_args(argv)))
    for field in fields:
        value = getattr(config, field.name)
        if problem := out_of_range(value, field.metadata):
            parser.error(f"{option(field)} must be {problem}, got {value}")
    if getattr(config, "data", True) == "":
        refuse_idle(config, dict.fromkeys(READING, "says how --data is read, and there is none"))
    return config


def own_fields_first(config_class):
    """A command's own flags, then those that it shares with others."""
    names = config_class.__annotations__
    return sorted(dataclasses.fields(config_class), key=lambda field: field.name not in names)


def option(field):
    return field.name if field.metadata["by_place"] else "--" + field.name.replace("_", "-")


def argument(field, default):
    """The keyword arguments of argparse's add_argument for a flag."""
    empty = default is False or default == "" or default != default  # NaN is not itself
    words = field.metadata["help"].replace("%", "%%") + ("" if empty else f" [{default}]")
    if field.type is bool:
        return {"help": words, "action": argparse.BooleanOptionalAction}
    if field.metadata["choices"]:
        return {"help": words, "type": field.type, "choices": field.metadata["choices"]}
    if field.metadata["by_place"]:
        count = {} if default == "" else {"nargs": "?"}
        return {"help": words, "type": field.type, "metavar": field.name.upper()} | count
    return {"help": words, "type": field.type, "metavar": field.type.__name__.upper()}


def out_of_range(value, limits):
    """What `value` is required to be ("at least 0"), or None if it is. NaN lies in no range."""
    if isinstance(value, float) and math.isinf(value):
        return "a finite number"
    if isinstance(value, float) and value and not 1e-30 <= abs(value) <= 1e30 and value == value:
        return "0 or of a size from 1e-30 to 1e30"  # float32 computes with these
    if isinstance(value, int) and abs(value) >= 2**63:
        return "smaller than 2^63"
    if limits["low"] is not None and not value >= limits["low"]:
        return f"at least {limits['low']}"
    if limits["above"] is not None and not value > limits["above"]:
        return f"more than {limits['above']}"
    if limits["high"] is not None and not value <= limits["high"]:
        return f"at most {limits['high']}"


def run(main):
    """The footer of every script: a user's mistake and an error of the system are one line and exit
    code 2; Ctrl-C is exit code 130, another signal 128 and its number."""
    try:
        with consoles():
            # Here: the list of commands must not wait for torch.
            from minirlhf.fast import keep_memory
            from minirlhf.run.distributed import processes

            keep_memory()
            with processes():
                main()
    except (InputError, OSError) as error:
        message, code = f"error: {one_line(error)}", 2
    except KeyboardInterrupt as error:
        message, code = "\nstopped", 128 + (error.args[0] if error.args else signal.SIGINT)
    else:
        return
    with contextlib.suppress(OSError):  # a terminal that is gone
        print(message, file=sys.stderr, flush=True)
    sys.exit(code)


@contextlib.contextmanager
def consoles():
    """While it is entered there are an input, an output and an error output, which a daemon may
    lack; a character that an encoding lacks is shown as a question mark; and the reader of the
    output may go away, as `head` does: the exit code is then that of SIGPIPE."""
    for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
        console = getattr(sys, name)
        if console is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
        elif name != "stdin" and hasattr(console, "reconfigure"):  # a notebook's has none
            console.reconfigure(errors="replace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
        sys.exit(128 + 13)


def discard_output():
    """The reader of the standard output has gone, and Python flushes it once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def one_line(error):
    """An error as one line: for one of the operating system file, reason and remedy."""
    if not isinstance(error, OSError):
        return str(error)
    reason = error.strerror or str(error) or type(error).__name__
    remedy = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "; free some space on its disk"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        remedy = "; make it writable"
    elif error.errno in (errno.ENOTDIR, errno.EEXIST):
        remedy = "; a file is where a folder has to be"
    return (f"{error.filename}: " if error.filename else "") + reason + remedy


# ---- random numbers


class Stream(NamedTuple):
    """What a random number is for. Streams with one number differ by their offset."""

    number: int
    offset: int = 0


DOCUMENTS, PTX_DOCUMENTS = Stream(1), Stream(1, 1)
GPT_WEIGHTS, REWARD_HEAD_WEIGHTS, ADAPTERS = Stream(0), Stream(0, 1), Stream(0, 2)
DEMONSTRATIONS = Stream(2)
RANKED_PROMPTS, RANKED_HELD_OUT_PROMPTS, PPO_PROMPTS = Stream(3), Stream(3, 1), Stream(3, 2)
RANKED_RESPONSES, RANKED_HELD_OUT_RESPONSES = Stream(4), Stream(4, 1)
NORM_RESPONSES = Stream(4, 2)
ROLLOUTS = Stream(4, 10)  # `step` is the iteration; 10 keeps clear of the streams above
LABELS, HELD_OUT_LABELS = Stream(5), Stream(5, 1)
SHUFFLE = Stream(6)  # `step` is the epoch
MINIBATCHES = Stream(7)  # `step` is the iteration
HELD_OUT_PROMPTS = Stream(8)
HELD_OUT_NOISE, CANDIDATE_NOISE = Stream(8, 1), Stream(8, 2)
CONTRASTS, PROBED_FACTS, FACT_PROMPTS = Stream(8, 10), Stream(8, 20), Stream(8, 21)
FAULTLESS_RESPONSES, WRITERS_RESPONSES = Stream(8, 30), Stream(8, 31)
BOOTSTRAP = Stream(8, 32)
SAMPLE_NOISE = Stream(20)  # `step` is the number of the prompt
CHAT_NOISE = Stream(21)  # `step` is the turn
ASKED_PROMPTS, ASKED_RESPONSES, ASKED_ORDER = Stream(30), Stream(30, 1), Stream(30, 2)
ASKED_LABELS = Stream(30, 3)  # `step` is the kind of judgement
SHOWN_ORDER = Stream(31)  # `step` is a digest of labeller and question
DEMONSTRATED_RESPONSES = Stream(60)  # `step` is the round
META_PROMPTS, META_RESPONSES = Stream(61), Stream(61, 1)
SHIFTED_PROMPTS, SHIFTED_RESPONSES, SHIFTED_LABELS = Stream(61, 2), Stream(61, 3), Stream(61, 4)
FRESH_PROMPTS, FRESH_RESPONSES, FRESH_LABELS = Stream(61, 5), Stream(61, 6), Stream(61, 7)
COMPARED_RESPONSES = Stream(47)  # `step` is a digest of the prompt


def rng(seed, stream, step=0):
    """A generator that is a function of (seed, stream, step): none has to be saved, so that
    resuming is exact, and changing what one stage draws leaves the others alone."""
    return np.random.default_rng(
        np.random.SeedSequence([seed, stream.number, stream.offset + step])
    )


def round_seed(seed, n):
    """The seed of round n = 0, 1, ... of a loop around the stages: every round draws other prompts,
    noise and labels. Round 0 is a run without a loop.

    A number above 32 bits is two words of a SeedSequence; from 1000 on, the second of them is no
    stream's number, so that no stream of a round is one of another seed.
    """
    return seed + ((1000 + n) << 32 if n else 0)


@contextlib.contextmanager
def torch_seed(seed, stream):
    """While this lasts, torch's global generator, which modules draw their weights from, is seeded
    by a stream; afterwards it is what it was."""
    import torch  # here: the list of commands must not wait for it

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng(seed, stream).integers(2**62)))
        yield
