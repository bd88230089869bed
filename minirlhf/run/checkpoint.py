"""The checkpoint of a run, and the flags that a resumed run goes on with.

A run that is resumed ends with the same bits as one that was never interrupted. Randomness is a
function of (seed, stream, step), see `config.rng`, so a checkpoint holds no generator: weights,
optimiser, step and a few numbers are the whole state.
"""

import dataclasses
import json
from pathlib import Path

import torch

from minirlhf.model import GPT, GPTConfig
from minirlhf.run.config import InputError, parse
from minirlhf.run.files import write_atomically
from minirlhf.run.folder import refuse_existing, refuse_lost_files
from minirlhf.tokenizer import get_tokenizer

CHANGEABLE = {  # flags that a resumed run may change
    *("out", "resume", "overwrite", "device", "threads", "microbatch_tokens"),
    *("updates", "eval_every", "save_every"),
}
POLICIES = ("pretrain", "sft", "ppo", "dpo")  # the stages whose checkpoints are language models
SCRIPTS = {  # the script that writes a stage's folder
    "pretrain": "train_sft.py",
    "sft": "train_sft.py",
    "rm": "train_rm.py",
    "ppo": "train_ppo.py",
}


# ---- flags


def configure(config_class, stage, argv):
    """The flags of a stage from its command line. With --resume, the flags of the saved run are the
    defaults. InputError if there is a run and neither --resume nor --overwrite, or no run to
    resume."""
    args = parse(config_class, argv)
    if not args.resume:
        refuse_existing(args, Path(args.out) / stage)  # before anything slow
        refuse_lost_files(args, Path(args.out) / stage)
        return args
    path = Path(args.out) / stage / "config.json"
    if not path.exists():
        raise InputError(f"{path} does not exist, so there is no run to resume; leave out --resume")
    flags = json.loads(path.read_text(encoding="utf-8"))["flags"]
    args = parse(config_class, argv, defaults=flags | {"resume": False, "overwrite": False})
    refuse_changed_flags(args, flags, path)
    return args


def refuse_changed_flags(args, flags, path):
    """InputError if a flag of a resumed run differs from the run's own in what its past meant. How
    long it goes on, what it shows and saves, and where it computes may change."""
    for name, value in dataclasses.asdict(args).items():
        before = flags.get(name, value)
        same = before == value or (before != before and value != value)  # NaN is not itself
        if name not in CHANGEABLE and not same:
            option = "--" + name.replace("_", "-")
            raise InputError(
                f"{option} is {before} in {path}, and {value} now: a resumed run keeps it; leave "
                f"{option} out, or start another run with another --out"
            )


# ---- checkpoints


def save(path, stage, gpt_config, tokenizer, step, **parts):
    """Write a checkpoint to `path`, a folder or a file named *.pt: stage, shape, step and
    vocabulary, and the state of every part. A part is a module, an optimiser or a plain value.
    InputError, and the old checkpoint stays, if a weight is not finite."""
    path = Path(path) / "checkpoint.pt" if Path(path).suffix != ".pt" else Path(path)
    header = {"stage": stage, "gpt": dataclasses.asdict(gpt_config), "step": step}
    header |= {"tokenizer": tokenizer.name, "vocabulary": tokenizer.fingerprint()}
    state = {
        name: part.state_dict() if hasattr(part, "state_dict") else part
        for name, part in parts.items()
    }
    for part in state.values():
        if name := first_not_finite(part):
            raise InputError(
                f"{name} is not finite after step {step}: training diverged. The learning rate is "
                f"the usual cause; lower --lr. {path} is as it was"
            )
    write_atomically(path, lambda file: torch.save(header | state, file))


def first_not_finite(state):
    """The name of a tensor in a state dictionary that holds NaN or an infinity, or None."""
    tensors = state.items() if isinstance(state, dict) else ()
    for name, value in tensors:
        if isinstance(value, torch.Tensor) and not value.isfinite().all():
            return name


def restore(folder, stage, resume, **parts):
    """Load the run's last checkpoint into `parts`, modules and optimisers. Returns the dictionary
    in the checkpoint; {"step": 0}, with nothing loaded, without `resume` or without a
    checkpoint."""
    if not resume or not (Path(folder) / "checkpoint.pt").exists():
        return {"step": 0}
    state = load(folder, (stage,))
    for name, part in parts.items():
        load_weights(part, state[name], folder)
    return state


def stored_step(folder, stage):
    """The step of the run's last checkpoint, 0 if there is none yet."""
    exists = (Path(folder) / "checkpoint.pt").exists()
    return int(load(folder, (stage,))["step"]) if exists else 0


def load_weights(part, weights, path, **options):
    """`part.load_state_dict(weights)`. InputError if the weights have other names or shapes, or are
    not finite."""
    if name := first_not_finite(weights):
        raise InputError(f"{path}: {name} is not finite, from a run that diverged; train again")
    try:
        part.load_state_dict(weights, **options)
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} holds other weights than are needed here; it may be of another version of "
            "minirlhf: train it again"
        ) from error


def load(path, stages, device="cpu"):
    """The dictionary in a checkpoint, which is given by its file or its folder. InputError if it
    does not exist, is damaged, or is of a stage that is not among `stages`."""
    path = Path(path)
    path = path / "checkpoint.pt" if path.is_dir() or not path.suffix else path
    if not path.exists():
        script = SCRIPTS.get(path.parent.name)
        remedy = f"run {script} first" if script else "check the path"
        raise InputError(f"{path} does not exist; {remedy}")
    try:
        state = dict(torch.load(path, map_location=device, weights_only=True))
        stage = state["stage"]
    except Exception as error:  # torch raises many types of error for damaged bytes
        raise InputError(
            f"{path} is not a checkpoint of minirlhf, or is damaged; train it again"
        ) from error
    if stage not in stages:
        raise InputError(
            f"{path} is a checkpoint of stage {stage}, but {' or '.join(stages)} is needed here"
        )
    return state


def load_tokenizer(state, path):
    """The tokenizer of a checkpoint. InputError if the tokenizer of that name has another
    vocabulary by now."""
    tokenizer = get_tokenizer(state["tokenizer"])
    if tokenizer.fingerprint() != state["vocabulary"]:
        raise InputError(
            f"{path} was trained with another vocabulary called {tokenizer.name}; train it again"
        )
    return tokenizer


def load_gpt(path, stages=POLICIES, device="cpu", precision=torch.float32):
    """(GPT, Tokenizer) from a checkpoint. Weights are float32; the trunk computes in `precision`.
    InputError as in `load` and `load_tokenizer`."""
    state = load(path, stages, device)
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced
        gpt = GPT(GPTConfig(**state["gpt"]))
    load_weights(gpt, state["model"], path, assign=True)
    gpt.precision = precision
    return gpt.to(device), load_tokenizer(state, path)


def same_vocabulary(path, tokenizer, other_path, other):
    """InputError if two models, called `path` and `other_path`, have different vocabularies."""
    if tokenizer.fingerprint() != other.fingerprint():
        raise InputError(
            f"{path} uses the tokenizer {tokenizer.name}, {other_path} uses {other.name}; "
            "they must be the same"
        )
