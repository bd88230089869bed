"""Your own reward: a plain function (prompts, responses) -> scores."""

import contextlib
import hashlib
import importlib
import sys
from pathlib import Path

import numpy as np
import torch

from minirlhf.run.config import InputError


def load_function(option, name):
    """The function that "module:function", the value of `option`, names. InputError if there is
    none."""
    module, _, attribute = name.partition(":")
    try:
        with kept_dtype():
            function = getattr(importlib.import_module(module), attribute)
        if not callable(function):
            raise TypeError(f"{attribute} is not a function")
        return function
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(
            f"{option} {name}: {error}; write module:function, importable from this folder"
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
    """A user's reward function on prompts and the texts of replies. InputError unless it returns
    one finite number a response; `name` is what the message calls the function."""
    with kept_dtype():
        result = function(prompts, [reply.text for reply in replies])
    if isinstance(result, torch.Tensor):
        result = result.detach().float().cpu()  # it may have a gradient, or be bf16
    try:
        scores = np.asarray(result, dtype=np.float32)
        valid = scores.shape == (len(prompts),) and np.isfinite(scores).all()
    except (TypeError, ValueError):
        valid = False
    if not valid:
        text = " ".join(repr(result).split())
        problem = f"must return {len(prompts)} finite numbers, one a response"
        raise InputError(f"--reward {name} {problem}; got {text:.80}")
    return torch.from_numpy(scores)
