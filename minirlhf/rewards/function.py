"""Your own reward: a plain function (prompts, responses) -> scores."""

import importlib

import numpy as np
import torch

from minirlhf.run.config import InputError


def load_function(option, name):
    """ "module:function", given as `option` -> the function."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
        if not callable(found):
            raise TypeError(f"{function} is not a function")
        return found
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(
            f"{option} {name}: {error}; write module:function, importable from this folder"
        ) from error


def call(name, function, prompts, replies):
    """A user's reward function on prompts and texts, its answer checked."""
    answer = function(prompts, [reply.text for reply in replies])
    try:
        scores = np.asarray(answer, dtype=np.float32)
        fine = scores.shape == (len(prompts),) and np.isfinite(scores).all()
    except (TypeError, ValueError):
        fine = False
    if not fine:
        got = " ".join(repr(answer).split())
        raise InputError(
            f"--reward {name} must return {len(prompts)} finite numbers, one a response; got {got:.80}"
        )
    return torch.from_numpy(scores)
