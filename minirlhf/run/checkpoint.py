"""A run is a folder: config.json, checkpoint.pt, metrics.jsonl, samples.txt. Written atomically, resumed exactly.

Randomness is a function of (seed, stage, step) (see `config.rng`), so a checkpoint holds no generator: weights, optimiser,
step and a few numbers are everything that the future depends on.
"""

import dataclasses
import json
import os
import platform
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from minirlhf.model import GPT, GPTConfig
from minirlhf.run.config import InputError, parse
from minirlhf.tokenizer import get_tokenizer

RUN_FILES = ("checkpoint.pt", "metrics.jsonl", "samples.txt", "comparisons.jsonl")
POLICIES = ("pretrain", "sft", "ppo", "dpo")  # the stages whose checkpoints are language models


def write_atomically(path, write):
    """`write(file)` into a temporary name, flush to the disk, rename: a reader sees the old file or the new one, whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    write_atomically(path, lambda file: file.write(text.encode()))


def writable(flag, path):
    """Refuses a file that cannot be written before hours go into what it is to hold."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        open(path, "a").close()
    except OSError as error:
        raise InputError(
            f"{flag} {path}: {error.strerror}; name a file that can be written"
        ) from error


def configure(config_class, stage, argv):
    """Parse the command line of a stage. With --resume the flags of the saved run are the defaults."""
    config = parse(config_class, argv)
    if not config.resume:
        refuse_existing(config, Path(config.out) / stage)  # before anything slow
        return config
    path = Path(config.out) / stage / "config.json"
    if not path.exists():
        raise InputError(f"{path} does not exist, so there is no run to resume; leave out --resume")
    saved = json.loads(path.read_text())["flags"]
    return parse(config_class, argv, defaults=saved | {"resume": False, "overwrite": False})


def refuse_existing(args, folder):
    if (folder / "config.json").exists() and not (args.resume or args.overwrite):
        raise InputError(
            f"{folder} already holds a run; continue it with --resume, replace it with --overwrite"
        )


def start_run(args, tokenizer, *stages):
    """The folders of a run's stages, ready to be written to. A run that is already there is an error, found before anything
    is touched, unless --resume or --overwrite says what is to become of it."""
    folders = [Path(args.out) / stage for stage in stages]
    for folder in folders:
        refuse_existing(args, folder)
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
            "versions": versions,
        }
        write_text(folder / "config.json", json.dumps(record, indent=2) + "\n")
    return folders


def save(path, stage, gpt_config, tokenizer, step, **parts):
    """Write a checkpoint: what it is (stage, shape, vocabulary), and everything that going on depends on. A part is a module,
    an optimiser or a plain number."""
    path = Path(path) / "checkpoint.pt" if Path(path).suffix != ".pt" else Path(path)
    about = {"stage": stage, "gpt": dataclasses.asdict(gpt_config), "step": step}
    about |= {"tokenizer": tokenizer.name, "vocabulary": tokenizer.fingerprint()}
    state = {
        name: part.state_dict() if hasattr(part, "state_dict") else part
        for name, part in parts.items()
    }
    write_atomically(path, lambda file: torch.save(about | state, file))


def restore(folder, stage, resume, **parts):
    """With --resume, load the modules and optimisers of the run's last checkpoint. Returns its state, {"step": 0} if none."""
    if not resume or not (Path(folder) / "checkpoint.pt").exists():
        return {"step": 0}
    state = load(folder, (stage,))
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state


def load(path, stages, device="cpu"):
    """The dictionary in a checkpoint (a file, or a run's folder). InputError if it is absent, broken or of another stage."""
    path = Path(path)
    path = path / "checkpoint.pt" if path.is_dir() or not path.suffix else path
    if not path.exists():
        scripts = {
            "pretrain": "train_sft.py",
            "sft": "train_sft.py",
            "rm": "train_rm.py",
            "ppo": "train_ppo.py",
        }
        script = scripts.get(path.parent.name)
        raise InputError(
            f"{path} does not exist; " + (f"run {script} first" if script else "check the path")
        )
    try:
        state = dict(torch.load(path, map_location=device, weights_only=True))
        stage = state["stage"]
    except (
        Exception
    ) as error:  # whatever damaged bytes lead the loader to: it has no error of its own
        raise InputError(
            f"{path} is not a checkpoint of minirlhf, or is damaged; train it again"
        ) from error
    if stage not in stages:
        raise InputError(
            f"{path} is a checkpoint of stage {stage}, but {' or '.join(stages)} is needed here"
        )
    return state


def load_tokenizer(state, path):
    """The tokenizer that a checkpoint was trained with; InputError if the one of that name has changed since."""
    tokenizer = get_tokenizer(state["tokenizer"])
    if tokenizer.fingerprint() != state["vocabulary"]:
        raise InputError(
            f"{path} was trained with another vocabulary called {tokenizer.name}; train it again"
        )
    return tokenizer


def load_gpt(path, stages=POLICIES, device="cpu", precision=torch.float32):
    """(GPT, Tokenizer) from a checkpoint."""
    state = load(path, stages, device)
    with torch.device(
        "meta"
    ):  # no memory and no random numbers for weights that are replaced at once
        gpt = GPT(GPTConfig(**state["gpt"]))
    gpt.load_state_dict(state["model"], assign=True)
    gpt.precision = precision
    return gpt.to(device), load_tokenizer(state, path)


def same_vocabulary(path, tokenizer, other_path, other):
    if tokenizer.fingerprint() != other.fingerprint():
        raise InputError(
            f"{path} uses the tokenizer {tokenizer.name}, {other_path} uses {other.name}; they must be the same"
        )


class Interrupt:
    """Ctrl-C, politely: the first lets the loop finish its step and save, a second one stops at once."""

    def __enter__(self):
        self.requested = False
        self.previous = signal.signal(signal.SIGINT, self.request)
        return self

    def request(self, number, frame):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("\nstopping after this step (Ctrl-C again stops at once)", file=sys.stderr)

    def stop_if_requested(self, folder, done, steps):
        """Call after saving."""
        if self.requested:
            where = folder / "checkpoint.pt"
            print(
                f"{where} holds {done} of {steps} steps; the same command with --resume goes on",
                file=sys.stderr,
            )
            raise KeyboardInterrupt

    def __exit__(self, *error):
        signal.signal(signal.SIGINT, self.previous)
