"""Your own reward and your own judge: plain functions (prompts, responses) -> scores and (prompts,
first, second) -> how likely the first is better. A reward's third parameter without a default, and
each after it, is the name of a column of --data."""

import contextlib
import copy
import hashlib
import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from pathlib import Path

import numpy as np
import torch

from minirlhf.run import distributed
from minirlhf.run.config import InputError
from minirlhf.run.metrics import printable


def load_function(option, name):
    """The function that "module:function", the value of `option`, names. The module is a file of
    the current folder, wherever the script is, or an installed one. InputError if there is none, or
    if the module fails while it is imported, with the place in it."""
    module, _, attribute = name.partition(":")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        with kept_state():
            function = getattr(importlib.import_module(module), attribute)
        if not callable(function) or inspect.iscoroutinefunction(function):
            kind = "an async function" if callable(function) else "not a function"
            raise TypeError(f"{attribute} is {kind}")
        return function
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        problem = flat(str(error)) + place(error, libraries=False)
        raise InputError(
            f"{option} {name}: {problem}; write module:function, of a file in {folder} or of an "
            "installed module"
        ) from error
    except (Exception, SystemExit) as error:
        raise InputError(f"{option} {name} failed{place(error)}: {described(error)}") from error


def columns(function):
    """The names of the columns that a function asks for: its parameters after the first two, as far
    as they have no default."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[2:]
    except (TypeError, ValueError):  # one that is written in C
        return ()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return tuple(x.name for x in parameters if x.kind in named and x.default is x.empty)


def wanted_columns(name):
    """The same of "module:function", the value of --reward; none without one."""
    return columns(load_function("--reward", name)) if name else ()


def columns_of(name, function, prompts):
    """{column: its value for each prompt} of what a function asks for."""
    wanted = columns(function)
    if wanted and not all(set(wanted) <= set(getattr(prompt, "columns", ())) for prompt in prompts):
        problem = f"--reward {name} asks for {', '.join(wanted)}, which these prompts do not have"
        raise InputError(f"{problem}; give --data with such columns")
    return {column: [prompt.columns[column] for prompt in prompts] for column in wanted}


def source(name):
    """A digest of the file that holds the function "module:function", which is loaded; None if
    there is no name or no file."""
    path = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
    return path and hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


@contextlib.contextmanager
def kept_state():
    """Afterwards the current folder, torch's default type and whether it keeps gradients are what
    they were before: a user's code may set them for itself, and nothing here would fit together."""
    folder, dtype, gradients = os.getcwd(), torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
    finally:
        os.chdir(folder)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)


def call(name, function, prompts, replies):  # N texts, N Replies -> (N,) float32
    """A user's reward function, which messages call `name`, on prompts and the texts of replies,
    and on the columns that it asks for."""
    prompts, texts = distributed.mine(prompts), [r.text for r in distributed.mine(replies)]
    fields = columns_of(name, function, prompts)
    if not texts:  # fewer than processes
        return torch.tensor(distributed.gathered([]), dtype=torch.float32)
    scores = numbers("--reward", name, function, prompts, texts, fields=fields)
    return torch.tensor(distributed.gathered(scores.tolist()), dtype=torch.float32)


def judge(name, function, prompts, first, second):  # N texts each -> (N,) float32
    """A user's judge, which messages call `name`: how likely the first response is the better."""
    return numbers("--judge", name, function, prompts, first, second, limit=1)


def numbers(option, name, function, *lists, fields=None, limit=None):  # lists of N -> (N,)
    """What a user's function makes of lists, and of `fields` by name: one finite number a row, in
    float32, with `limit` from 0 to it. InputError if it returns anything else, or if it fails, with
    the place in the user's code. The lists are copies: it may change them."""
    n, copies = len(lists[0]), [list(x) for x in lists]
    try:
        with kept_state():
            result = function(*copies, **copy.deepcopy(fields or {}))
    except (Exception, SystemExit) as error:
        raise InputError(f"{option} {name} failed{place(error)}: {described(error)}") from error
    if isinstance(result, torch.Tensor):
        result = result.detach().cpu().tolist()  # it may have a gradient, or be bf16
    values = as_float32(result)
    if values is None or values.shape != (n,) or not in_range(values, limit).all():
        kind = "finite numbers" if limit is None else f"numbers from 0 to {limit}"
        raise InputError(
            f"{option} {name} must return {n} {kind}, one a response; got {whole(result, limit)}"
        )
    return torch.from_numpy(values)


def in_range(values, limit):
    """Whether numbers are finite, and from 0 to `limit` if there is one."""
    finite = np.isfinite(values)
    return finite if limit is None else finite & (values >= 0) & (values <= limit)


def as_float32(x):
    """An array, or None if x is not made of numbers. What is too large for float32 is infinite."""
    try:
        with np.errstate(over="ignore"):
            return np.asarray(x, dtype=np.float32)
    except (TypeError, ValueError):
        return None


def place(error, libraries=True):
    """Where an error arose, for a message: in the last line of the user's code that it went
    through, and not in a library which the code called. A library's line counts where there is no
    other, if `libraries`. Empty if the code has no lines."""
    if isinstance(error, SyntaxError):
        return f" at {error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)[1:]  # without the function that caught it
    installed = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
    written = [frame for frame in frames if not frame.filename.startswith((*installed, "<"))]
    frame = next(reversed(written or (frames if libraries else [])), None)
    return f" at {frame.filename}, line {frame.lineno}" if frame else ""


def described(error):
    """The type of an error and what it says."""
    name, text = type(error).__name__, getattr(error, "msg", "") or str(error)
    return flat(f"{name}: {text}") if text else name


def whole(result, limit=None):
    """A value that is wrong, all of it, on one line; of a list with a bad number first that one."""
    values = result.tolist() if isinstance(result, np.ndarray) else result
    text = flat(repr(values))
    if isinstance(values, list | tuple):
        for index, value in enumerate(values):
            number = as_float32(value)
            if number is None or number.shape or not in_range(number, limit):
                return f"{flat(repr(value))} for response {index}: {text}"
        return f"{len(values)} of them: {text}"
    return text


def flat(text):
    """A text on one line, without control characters."""
    return printable(" ".join(text.split()))
