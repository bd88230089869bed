"""The training scripts as modules: a tool runs the same code as the command line."""

import importlib
import importlib.util

from minirlhf.run.config import InputError


def script(name):
    """ "train_ppo" -> the module train_ppo.py. An InputError if Python does not find it."""
    if importlib.util.find_spec(name) is None:
        raise InputError(f"{name}.py is not here; run this from the repository's root")
    return importlib.import_module(name)
