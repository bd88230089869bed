"""A run is a folder: config.json, checkpoint.pt, metrics.jsonl, samples.txt."""

import contextlib
import dataclasses
import platform
from pathlib import Path

import numpy as np
import torch

from minirlhf.run import resume
from minirlhf.run.config import InputError
from minirlhf.run.files import write_text

COMPARISONS = "comparisons.jsonl"  # a reward model's run writes it, unless it has --data
RUN_FILES = ("checkpoint.pt", "metrics.jsonl", "samples.txt", COMPARISONS)
INPUTS = ("data", "text", "init", "sft", "rm")  # flags that name what a run reads


def refuse_existing(args, folder):
    if (folder / "config.json").exists() and not (args.resume or args.overwrite):
        raise InputError(
            f"{folder} already holds a run; continue it with --resume, replace it with --overwrite"
        )


def refuse_lost_files(args, folder):
    """InputError if a run would replace a file that it reads, or one that no run has written."""
    files = {(folder / name).resolve() for name in ("config.json", *RUN_FILES)}
    for flag in INPUTS:
        path = getattr(args, flag, "")
        inputs = {Path(path).resolve(), (Path(path) / "checkpoint.pt").resolve()} if path else set()
        if inputs & files:
            raise InputError(
                f"--{flag} {path} lies where this run writes, in {folder}; it would be replaced: "
                "move it, or choose another --out"
            )
    written = written_files(folder)
    for name in RUN_FILES:
        if (folder / name).exists() and name not in written:
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
    return [name for name in RUN_FILES if name != COMPARISONS or not data]


@contextlib.contextmanager
def start_run(args, tokenizer, *stages, **inputs):
    """While it is entered: the folders of a run's stages, each with its config.json. `inputs` are
    what the run learns from: lists of records, models (see `resume.fingerprint`).

    The files of an older run are removed, unless the run is resumed. InputError, before any file is
    touched, if a folder holds a run and neither --resume nor --overwrite is given, or if a resumed
    run began with other inputs.
    """
    folders = [Path(args.out) / stage for stage in stages]
    for refuse in (refuse_existing, refuse_lost_files):
        for folder in folders:
            refuse(args, folder)
    inputs = resume.fingerprints(vocabulary=tokenizer.fingerprint(), **inputs)
    if args.resume:
        inputs = resume.kept_inputs(inputs, folders)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    for stage, folder in zip(stages, folders, strict=True):
        if not args.resume:
            for name in RUN_FILES:
                (folder / name).unlink(missing_ok=True)
        record = {
            "stage": stage,
            "flags": dataclasses.asdict(args),
            "tokenizer": tokenizer.name,
            "inputs": inputs,
            "versions": versions,
        }
        write_text(folder / "config.json", resume.record_text(record))
    yield folders
