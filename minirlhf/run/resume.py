"""What a resumed run must have in common with its past: flags, data and models.

config.json holds a run's record: its flags as resolved, and a fingerprint of each of its inputs.
Every checkpoint holds a copy of it. What differs is refused before anything is written.
"""

import dataclasses
import hashlib
import json
import re
import sys
from pathlib import Path

import torch

from minirlhf.run import damage
from minirlhf.run.config import InputError
from minirlhf.run.files import write_text

CHANGEABLE = {  # flags that a resumed run may change
    *("out", "resume", "overwrite", "device", "threads", "microbatch_tokens"),
    "gradient_checkpointing",
    *("updates", "eval_every", "save_every", "keep", "track", "microscope"),
}
NAMES = {  # of inputs, in messages
    "data": "the data",
    "text": "the text to pretrain on",
    "init": "the weights of --init",
    "sft": "the SFT model",
    "rm": "the reward model",
    "policy": "the policy that is sampled from",
    "more": "the comparisons of earlier rounds",
    "labeller": "the labeller",
    "missing_end_score": "the missing-end score of the reward model",
    "vocabulary": "the tokenizer's vocabulary",
}
OF_CODE = {  # inputs that may be functions, and what has come of an older one
    "reward": "the updates so far had the reward",
    "labeller": "the comparisons so far have the labels",
}
NO_NAME = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")  # what no file's name can hold
ANOTHER_RUN = "start another run with another --out"


# ---- fingerprints


def fingerprints(**inputs):
    """{name: fingerprint} of the inputs of a run; None and an empty list are none."""
    return {name: fingerprint(value) for name, value in inputs.items() if value not in (None, [])}


def fingerprint(value):
    """A short text that differs where the value does: for the weights of a module, itself or its
    state dictionary, and for a list of records a digest, for a number the number.

    Data are known by their records and not by the bytes of their file: these may come through a
    pipe, and the same records may be compressed.
    """
    digest = hashlib.sha256()
    if isinstance(value, torch.nn.Module | dict):
        state = value if isinstance(value, dict) else value.state_dict()
        for name, tensor in state.items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
        return f"weights {digest.hexdigest()[:16]}"
    if isinstance(value, list):
        for record in value:
            digest.update(repr(record).encode("utf-8", "surrogatepass"))
        return f"{len(value)} records {digest.hexdigest()[:16]}"
    return str(value)


# ---- the record of a run


def record_text(record):
    """A record as the text of config.json. A number that is not set, NaN, is null: JSON has no
    NaN."""
    flags = {name: None if is_nan(value) else value for name, value in record["flags"].items()}
    return json.dumps(record | {"flags": flags}, indent=2, allow_nan=False) + "\n"


def is_nan(value):
    return isinstance(value, float) and value != value


def read_record(folder):
    """The record in FOLDER/config.json; None if it is missing or damaged."""
    try:
        record = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if is_record(record) else None


def is_foreign(folder):
    """Whether FOLDER/config.json is whole and of another program: transformers' has this name."""
    try:
        record = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    ours = {"stage", "flags", "inputs", "tokenizer", "versions"}
    return isinstance(record, dict) and bool(record) and not ours & record.keys()


def is_record(record):
    """Whether a value has the form of a record: flags, and inputs, whose fingerprints are lines of
    text. A record of an older version has no inputs."""
    if not isinstance(record, dict) or not isinstance(record.get("flags"), dict):
        return False
    inputs = record.get("inputs", {})
    return isinstance(inputs, dict) and all(
        isinstance(x, str) and x.isprintable() for item in inputs.items() for x in item
    )


def copied_record(folder):
    """What a checkpoint holds of the record in FOLDER/config.json: the flags and inputs of the run,
    and not where it is and whether it was resumed."""
    record = read_record(folder)
    if record is None:
        return None
    place = ("out", "resume", "overwrite")
    flags = {name: value for name, value in record["flags"].items() if name not in place}
    return {"flags": flags, "inputs": record.get("inputs", {})}


def saved_record(folder):
    """The record in FOLDER/checkpoint.pt; None without a checkpoint, or if it is of an older
    version. InputError if the checkpoint is damaged, or has no optimiser to go on with."""
    path = Path(folder) / "checkpoint.pt"
    if not path.exists():
        return None
    try:
        state = damage.load(path, mmap=True)
    except ValueError as error:
        raise damage.refusal(path, error) from error
    state = state if isinstance(state, dict) else {}
    if state.get("weights_only"):
        problem = "holds weights without an optimiser, so there is nothing to resume"
        raise InputError(f"{path} {problem}; start another run from it with another --out")
    record = state.get("run")
    return record if is_record(record) else None


def recorded(folder):
    """The record of the run in a folder. Where config.json is damaged, it is the checkpoint's copy.
    InputError if there is none, or if the two are of different runs."""
    path = Path(folder) / "config.json"
    if not path.exists():
        raise InputError(f"{path} does not exist, so there is no run to resume; leave out --resume")
    record, saved = read_record(folder), saved_record(folder)
    if record is None and saved is None:
        raise InputError(f"{path} is damaged, and no checkpoint holds a copy; use --overwrite")
    if record is None:
        print(f"{path} is damaged; checkpoint.pt holds a copy, which is used", file=sys.stderr)
        return saved
    if saved is not None:
        refuse_changed_flags(record["flags"], saved, Path(folder) / "checkpoint.pt")
        refuse_changed_inputs(record.get("inputs", {}), saved, Path(folder) / "checkpoint.pt")
    return record


def recorded_flags(config_class, record, path):
    """The flags in a record that a config class has, each of its type. InputError if one is not."""
    flags = {}
    for field in dataclasses.fields(config_class):
        value = record["flags"].get(field.name, field.default)
        if value is None and field.type is float:
            value = float("nan")
        if not may_be(field, value):
            name = field.name.replace("_", "-")
            raise InputError(f"{path} is damaged: --{name} is {value!r:.50}; use --overwrite")
        flags[field.name] = value
    return flags


def may_be(field, value):
    """Whether a flag may have a value: its type, its choices, and no number that nothing holds."""
    types = (int, float) if field.type is float else (field.type,)
    choices = field.metadata["choices"] or (value,)
    if type(value) not in types or value == value and value not in choices:
        return False
    if field.type is str:
        return not NO_NAME.search(value)
    return field.type is bool or not abs(value) > 1e18


def kept_inputs(inputs, folders):
    """The inputs of a run that is resumed, with those that it has added to its record. InputError
    if one of them is not what a run in `folders` began with."""
    for folder in folders:
        if (folder / "config.json").exists():
            record = recorded(folder)
            refuse_changed_inputs(inputs, record, folder / "config.json")
            inputs = record.get("inputs", {}) | inputs
    return inputs


def add_inputs(folder, **inputs):
    """Add to the record of a run what it has made itself and goes on from. InputError if the record
    has another one."""
    record, inputs = recorded(folder), fingerprints(**inputs)
    refuse_changed_inputs(inputs, record, Path(folder) / "config.json")
    record["inputs"] = record.get("inputs", {}) | inputs
    write_text(Path(folder) / "config.json", record_text(record))


# ---- what differs


def refuse_changed_flags(flags, record, path):
    """InputError if a flag differs from the record in `path` in what the run's past meant. How long
    it goes on, what it shows and saves, and where it computes may change. So may the place of a
    file whose fingerprint is recorded: `refuse_changed_inputs` looks at what is in it."""
    for name, value in flags.items():
        before = record["flags"].get(name, value)
        if name in CHANGEABLE or same(before, value) or moved(name, before, value, record):
            continue
        option = "--" + name.replace("_", "-")
        raise InputError(
            f"{option} is {shown(before)} in {path}, and {shown(value)} now: a resumed run keeps "
            f"it; leave {option} out, or {ANOTHER_RUN}"
        )


def shown(value):
    """A flag's value as a message shows it, on a line."""
    if value is None or value == "" or is_nan(value):
        return "not set"
    text = str(value)
    return text if text.isprintable() and len(text) <= 200 else f"{text!r:.200}"


def same(before, value):
    """Whether two values of a flag are equal. A number that is not set is NaN, in a record null."""
    unset = [x is None or is_nan(x) for x in (before, value)]
    return before == value or all(unset)


def moved(name, before, value, record):
    """Whether a flag names an input whose fingerprint is recorded, then and now."""
    default = name in ("sft", "rm")  # where none is given it is in --out
    return name in record.get("inputs", {}) and (default or bool(before) == bool(value))


def refuse_changed_inputs(inputs, record, path):
    """InputError if an input differs from the one that is recorded in `path`. The code of a reward
    function or a labeller may change, since a run that failed in it goes on after the repair: that
    is said."""
    for name, before in record.get("inputs", {}).items():
        now = inputs.get(name, before)
        if before == now:
            continue
        if name in OF_CODE and not (before + now).count("weights"):
            problem = f"the file of --{name} is not what it was when the run began"
            print(f"warning: {problem}; {OF_CODE[name]} of the old one", file=sys.stderr)
            continue
        raise InputError(
            f"{NAMES.get(name, name)} changed: {before} in {path}, and {now} now; give what the "
            f"run began with, or {ANOTHER_RUN}"
        )
