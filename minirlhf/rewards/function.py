"""Your own reward: a plain function (prompts, responses) -> scores."""

import importlib

import numpy as np
import torch

from minirlhf.run.config import InputError


def load_function(option, name):
    """The function that "module:function", the value of `option`, names. InputError if there is
    none."""
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
        if not callable(function):
            raise TypeError(f"{attribute} is not a function")
        return function
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(
            f"{option} {name}: {error}; write module:function, importable from this folder"
        ) from error


def call(name, function, prompts, replies):  # N texts, N Replies -> (N,) float32
    """A user's reward function on prompts and the texts of replies. InputError unless it returns
    one finite number a response; `name` is what the message calls the function."""
    result = function(prompts, [reply.text for reply in replies])
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
