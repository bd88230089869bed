"""Your own reward: a plain function (prompts, responses) -> scores."""

import contextlib
import hashlib
import importlib
import os
import sys
import sysconfig
import traceback
from pathlib import Path

import numpy as np
import torch

from minirlhf.run.config import InputError
from minirlhf.run.metrics import printable


def load_function(option, name):
    """The function that "module:function", the value of `option`, names. The module is a file of
    the current folder, wherever the script is, or an installed one. InputError if there is none."""
    module, _, attribute = name.partition(":")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        with kept_dtype():
            function = getattr(importlib.import_module(module), attribute)
        if not callable(function):
            raise TypeError(f"{attribute} is not a function")
        return function
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(
            f"{option} {name}: {error}; write module:function, of a file in {folder} or of an "
            "installed module"
        ) from error


def source(name):
    """A digest of the file that holds the function "module:function", which is loaded; None if
    there is no name or no file."""
    path = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
    return path and hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


@contextlib.contextmanager
def kept_dtype():
    """Afterwards torch's default type is what it was before: a user's code may set float64 for
    itself, in which nothing here would fit together."""
    dtype = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)


def call(name, function, prompts, replies):  # N texts, N Replies -> (N,) float32
    """A user's reward function on prompts and the texts of replies. InputError if it fails, with
    the place in the user's code, and unless it returns one finite number a response; `name` is what
    the message calls the function."""
    try:
        with kept_dtype():
            result = function(prompts, [reply.text for reply in replies])
    except Exception as error:
        problem = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise InputError(f"--reward {name} failed{place(error)}: {flat(problem)}") from error
    if isinstance(result, torch.Tensor):
        result = result.detach().cpu().tolist()  # it may have a gradient, or be bf16
    scores = as_float32(result)
    if scores is None or scores.shape != (len(prompts),) or not np.isfinite(scores).all():
        problem = f"must return {len(prompts)} finite numbers, one a response"
        raise InputError(f"--reward {name} {problem}; got {whole(result)}")
    return torch.from_numpy(scores)


def as_float32(x):
    """An array, or None if x is not made of numbers. What is too large for float32 is infinite."""
    try:
        with np.errstate(over="ignore"):
            return np.asarray(x, dtype=np.float32)
    except (TypeError, ValueError):
        return None


def place(error):
    """Where an error arose, for a message: in the last line of the user's code that it went
    through, and not in a library which the code called. Empty if the code has no lines."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # without `call` itself
    libraries = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
    written = [frame for frame in frames if not frame.filename.startswith((*libraries, "<"))]
    frame = next(reversed(written or frames), None)
    return f" at {frame.filename}, line {frame.lineno}" if frame else ""


def whole(result):
    """A value that is wrong, all of it, on one line; of a list with a bad number first that one."""
    values = result.tolist() if isinstance(result, np.ndarray) else result
    text = flat(repr(values))
    if isinstance(values, list | tuple):
        for index, value in enumerate(values):
            number = as_float32(value)
            if number is None or number.shape or not np.isfinite(number):
                return f"{flat(repr(value))} for response {index}: {text}"
        return f"{len(values)} of them: {text}"
    return text


def flat(text):
    """A text on one line, without control characters."""
    return printable(" ".join(text.split()))
