"""A run is a folder: config.json, checkpoint.pt and the one before it, metrics.jsonl, samples.txt,
and the lock of the process that writes it."""

import contextlib
import dataclasses
import os
import platform
from pathlib import Path

import numpy as np
import torch

from minirlhf.run import chain, distributed, resume, trackers
from minirlhf.run.config import InputError
from minirlhf.run.files import TEMPORARY, listed, write_text
from minirlhf.run.lock import lock
from minirlhf.run.metrics import EVALUATIONS, MICROSCOPE

PREVIOUS = "checkpoint.previous.pt"  # the checkpoint before the last
COMPARISONS = "comparisons.jsonl"  # a reward model's run writes it, unless it has --data
LABELS = "labels.json"  # what a labeller that is a model was sure of; beside them
CALIBRATION = "calibration.json"  # of a reward model, and of DPO on own comparisons
RUN_FILES = ("checkpoint.pt", PREVIOUS, "metrics.jsonl", "samples.txt")
RUN_FILES += (MICROSCOPE, EVALUATIONS, CALIBRATION, COMPARISONS, LABELS)
INPUTS = ("data", "text", "init", "sft", "rm", "policy", "more")  # flags that name what a run reads


def refuse_existing(args, folder):
    """InputError if a folder holds a run, and neither --resume nor --overwrite is given, or if its
    config.json is of another program, whatever is given."""
    if resume.is_foreign(folder):
        raise InputError(
            f"{folder / 'config.json'} was not written by a run, and a run writes a file of this "
            "name; choose another --out"
        )
    if (folder / "config.json").exists() and not (args.resume or args.overwrite):
        raise InputError(
            f"{folder} already holds a run; continue it with --resume, replace it with --overwrite"
        )


def refuse_lost_files(args, folder):
    """InputError if a run would replace a file that it reads, or one that no run has written."""
    files = {(folder / name).resolve() for name in ("config.json", *RUN_FILES)}
    for flag in INPUTS:
        path = getattr(args, flag, "")
        paths = map(Path, listed(path))
        inputs = {x.resolve() for path in paths for x in (path, path / "checkpoint.pt")}
        if inputs & files:
            raise InputError(
                f"--{flag} {path} lies where this run writes, in {folder}; it would be replaced: "
                "move it, or choose another --out"
            )
    written = written_files(folder)
    for name in RUN_FILES:
        if os.path.lexists(folder / name) and name not in written:
            raise InputError(
                f"{folder / name} was not written by a run, as far as {folder / 'config.json'} "
                "shows; move it away, or choose another --out"
            )


def written_files(folder):
    """The names of RUN_FILES that the run in a folder may have written; none without a run."""
    if not (folder / "config.json").exists():
        return ()
    record = resume.read_record(folder)
    if record is None:
        return RUN_FILES  # of a run whose config.json is damaged
    data = record["flags"].get("data")
    return [name for name in RUN_FILES if name not in (COMPARISONS, LABELS) or not data]


def refuse_replaced(folder):
    """InputError if --overwrite was interrupted while it removed a run's files: what is left is no
    run."""
    if (resume.read_record(folder) or {}).get("replaced"):
        raise InputError(
            f"the run in {folder} was being replaced when that stopped, so there is nothing to "
            "resume; start again with --overwrite"
        )


@contextlib.contextmanager
def start_run(args, tokenizer, *stages, **inputs):
    """While it is entered: the folders of a run's stages, each with its config.json, which nobody
    else can write. `inputs` are what the run learns from: lists of records, models (see
    `resume.fingerprint`).

    The files of an older run are removed, unless the run is resumed. InputError, before any file is
    touched, if a folder holds a run and neither --resume nor --overwrite is given, if another
    process writes it, or if a resumed run began with other inputs.
    """
    folders = [Path(args.out) / stage for stage in stages]
    track = getattr(args, "track", trackers.NONE)
    check(args, folders)  # before a folder is made
    trackers.require(track)
    inputs = resume.fingerprints(vocabulary=tokenizer.fingerprint(), **inputs)
    refuse_different(args, inputs)
    if distributed.rank():
        yield written_by_first(folders)
        return
    with contextlib.ExitStack() as locks:
        for folder in folders:
            locks.enter_context(lock(folder))
        check(args, folders)  # a run that ended meanwhile is not replaced
        for folder in folders:
            remove_temporaries(folder)
        if args.resume:
            inputs = resume.kept_inputs(inputs, folders)
        records = [record(args, tokenizer, stage, inputs) for stage in stages]
        if not args.resume:
            remove_run(folders, records)
        # The first folder's, by which --resume goes, is there before any other.
        for folder, content in zip(folders, records, strict=True):
            write_record(folder, content)
        locks.enter_context(trackers.tracked(track, folders))
        distributed.largest(0)
        yield folders


def refuse_different(args, inputs):
    """InputError if one of several processes has other flags or inputs than the first. Nobody goes
    on before all have come here."""
    flags = dataclasses.asdict(args)
    names = flags.keys() - resume.CHANGEABLE - set(INPUTS)
    known = {f"--{name.replace('_', '-')}": str(flags[name]) for name in names} | inputs
    first, *others = distributed.gathered([known])
    for number, other in enumerate(others, start=1):
        for name in (name for name in known if other.get(name) != first.get(name)):
            raise InputError(
                f"{name} is {first.get(name)} in process 0 and {other.get(name)} in "
                f"process {number}; give all processes the same"
            )


def written_by_first(folders):
    """The folders of a run, for a process that is not the first and does not write, once they are
    there. InputError if it cannot see them."""
    distributed.largest(0)
    for folder in folders:
        if not (folder / "config.json").exists():
            raise InputError(
                f"{folder} is not what process 0 sees there; --out must be a folder "
                "that all machines share"
            )
    return folders


def check(args, folders):
    """Refuses a run that would replace what it must not."""
    for refuse in (refuse_existing, refuse_lost_files):
        for folder in folders:
            refuse(args, folder)


def record(args, tokenizer, stage, inputs):
    """What config.json holds."""
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    return {
        "stage": stage,
        "data": getattr(args, "data", "") or chain.WORLD,
        "flags": dataclasses.asdict(args),
        "tokenizer": tokenizer.name,
        "inputs": inputs,
        "versions": versions,
    }


def write_record(folder, content):
    write_text(folder / "config.json", resume.record_text(content))


def remove_run(folders, records):
    """Remove the files of an older run. First its config.json says so: a run that is half removed
    can be replaced and not resumed."""
    files = [folder / name for folder in folders for name in RUN_FILES]
    files += [file for folder in folders for file in trackers.event_files(folder)]
    files = [file for file in files if os.path.lexists(file)]  # a link to nowhere, too
    if not files:
        return
    for folder, content in zip(folders, records, strict=True):
        write_record(folder, content | {"replaced": True})
    for file in files:
        file.unlink()


def remove_temporaries(folder):
    """Remove what killed runs have left of the files that they were writing."""
    for path in folder.glob("*.tmp"):
        name = TEMPORARY.fullmatch(path.name)
        if name and name[1] in ("config.json", *RUN_FILES):
            path.unlink(missing_ok=True)
