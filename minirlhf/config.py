"""A frozen dataclass is a command line: one field, one flag, one sentence that is both its comment and its --help."""

import argparse
import contextlib
import ctypes
import dataclasses
import os
import sys

import numpy as np


class InputError(ValueError):
    """A mistake of the user's: one line that says where it is and what to do about it."""


def flag(default, help, choices=None, low=None, above=None, high=None):
    """A config field: its default, the sentence that documents it, and the range it must lie in (`low` <=, `above` <)."""
    limits = {"choices": choices, "low": low, "above": above, "high": high}
    return dataclasses.field(default=default, metadata={"help": help, **limits})


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help explains every flag)\n")


def parse(config_class, argv=None, defaults=None, prog=None):
    """Fill `config_class` from the command line; `defaults` replaces the class's own (a resumed run continues with its flags).

    An unknown, mistyped or out-of-range flag exits with code 2 and one line that names it.
    """
    parser = Parser(prog, description=config_class.__doc__, allow_abbrev=False)
    for field in dataclasses.fields(config_class):
        default = (defaults or {}).get(field.name, field.default)
        options = {"action": argparse.BooleanOptionalAction} if field.type is bool else {"type": field.type}
        if field.metadata["choices"]:
            options["choices"] = field.metadata["choices"]
        elif field.type is not bool:
            options["metavar"] = field.type.__name__.upper()
        shown = "" if default is False or default == "" or default != default else f" [{default}]"
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, default=default, help=field.metadata["help"].replace("%", "%%") + shown, **options)
    config = config_class(**vars(parser.parse_args(argv)))
    for field in dataclasses.fields(config_class):
        problem = out_of_range(getattr(config, field.name), field.metadata)
        if problem:
            parser.error(f"--{field.name.replace('_', '-')} must be {problem}, got {getattr(config, field.name)}")
    return config


def out_of_range(value, limits):
    """What `value` should have been ("at least 0"), or None if it is fine. NaN lies in no range."""
    if limits["low"] is not None and not value >= limits["low"]:
        return f"at least {limits['low']}"
    if limits["above"] is not None and not value > limits["above"]:
        return f"more than {limits['above']}"
    if limits["high"] is not None and not value <= limits["high"]:
        return f"at most {limits['high']}"


def keep_memory():
    """Have glibc keep what is freed: otherwise every large tensor is fetched from the system anew, and each page of it costs as
    much as a thousand multiplications. Elsewhere this does nothing.

    And have oneDNN, which torch multiplies bf16 matrices with, keep what it compiled for the last 32 shapes only: batches of
    ragged rows have a thousand shapes, which would take a gigabyte.
    """
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # oneDNN's own, and that of torch around it
        os.environ.setdefault(cache, "32")
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no tensor in a mapping of its own
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give nothing back
        mallopt(-2, 2**26)  # M_TOP_PAD: fetch 64 MB at a time


def run(main):
    """The footer of every script: a user's mistake is one line and exit code 2, Ctrl-C is exit code 130."""
    keep_memory()
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)


# What a random number is for. The stages draw from separate streams, so that changing one leaves the others alone.
INIT, DOCUMENTS, DEMONSTRATIONS, PROMPTS, RESPONSES, LABELS, SHUFFLE, MINIBATCHES, EVALUATION = range(9)


def rng(seed, stage, step=0):
    """Randomness is a function of (seed, stage, step): no generator has to be saved, and resuming is exact."""
    return np.random.default_rng(np.random.SeedSequence([seed, stage, step]))
