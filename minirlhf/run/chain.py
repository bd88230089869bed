"""A chain of stages: what an earlier one was trained on, and the command of the next."""

import dataclasses
import math
import shlex
from pathlib import Path

from minirlhf.run import resume
from minirlhf.run.config import InputError
from minirlhf.run.files import listed

WORLD = "the embedded world"
DATA = ("data", "form", "map", "template", "drop_long", "keep_turns", "skip_bad")
SHARED = (*DATA, "seed", "max_new_tokens", "mix_data")
STAGE_FLAGS = (*SHARED, "out", "sft")  # flags that a stage hands to the next one
EVALUATION_FLAGS = (*SHARED, "temperature")  # and to its evaluation


def folder_of(path):
    """The folder of a checkpoint, which is given by its file or its folder."""
    return Path(path) if Path(path).is_dir() else Path(path).parent


def stored_flags(path):
    """The flags of the run of a checkpoint, {} where they are not known."""
    record = resume.read_record(folder_of(path))
    return record["flags"] if record else {}


def trained_on(path):
    """The file or the world that a checkpoint was trained on; None where that is not known."""
    data = stored_flags(path).get("data")
    return WORLD if data == "" else data


def learned_from(path, file):
    """Whether a checkpoint was trained on this file."""
    data = stored_flags(path).get("data")
    return bool(data) and set(map(real, listed(data))) == set(map(real, listed(file)))


def real(path):
    return Path(path).resolve()


def refuse_mixed(args, *checkpoints):
    """InputError if this stage has your own data and an earlier one the embedded world, or the
    reverse, unless --mix-data."""
    for path in checkpoints:
        before = trained_on(path)
        if args.mix_data or before is None or (before == WORLD) == (not args.data):
            continue
        problem = f"{path} was trained on {before}, and this would be on {args.data or WORLD}"
        remedy = "train that stage with --data first" if args.data else "give --data here too"
        raise InputError(f"{problem}; {remedy}, or go on with --mix-data")


def refuse_own_data(path):
    """InputError if a checkpoint was trained on somebody's own data: the embedded world's questions
    and its judge have nothing to do with it."""
    data = trained_on(path)
    if data not in (None, WORLD):
        problem = f"{path} was trained on {data}, and this is about the embedded world"
        raise InputError(f"{problem}; minirlhf evaluate compares policies on your data")


def missing_end_score(policy, reward_model, reward, stored):
    """What a response without end gets in an evaluation: as in the training of the policy, if its
    score was the same (that function, or that reward model), else what is `stored` with the reward
    model."""
    flags = stored_flags(policy)
    number = flags.get("missing_end_score")
    if not isinstance(number, float | int) or math.isnan(number):
        return stored
    if reward:
        return number if flags.get("reward") == reward else stored
    trained_with = Path(flags.get("rm") or folder_of(policy).parent / "rm")
    same = not flags.get("reward") and trained_with.resolve() == Path(reward_model).resolve()
    return number if same else stored


def command(start, args, names, **flags):
    """A command line: `start`, the flags `names` of `args` that are not at their defaults, and
    `flags`."""
    defaults = {field.name: field.default for field in dataclasses.fields(args)}
    values = {name: getattr(args, name) for name in names if name in defaults}
    values = {name: value for name, value in values.items() if value != defaults[name]} | flags
    words = start.split()
    for name, value in values.items():
        words += ["--" + name.replace("_", "-"), *([] if value is True else [str(value)])]
    return shlex.join(words)
