"""The checkpoint of a run, and the flags that a resumed run goes on with.

A run that is resumed ends with the same bits as one that was never interrupted. Randomness is a
function of (seed, stream, step), see `config.rng`, so a checkpoint holds no generator: weights,
optimiser, step and a few numbers are the whole state.
"""

import dataclasses
import math
from pathlib import Path

import torch

from minirlhf import lora
from minirlhf.model import GPT, GPTConfig
from minirlhf.run import damage, defaults, resume
from minirlhf.run.config import Divergence, InputError, parse
from minirlhf.run.files import write_atomically
from minirlhf.run.folder import PREVIOUS, refuse_existing, refuse_lost_files, refuse_replaced
from minirlhf.run.metrics import samples_size
from minirlhf.tokenizer import get_tokenizer

POLICIES = ("pretrain", "sft", "ppo", "dpo")  # the stages whose checkpoints are language models
HEADER = {  # what every checkpoint says of itself, with its type
    **{"stage": str, "gpt": dict, "step": int},
    **{"tokenizer": str, "vocabulary": str, "model": dict},
}
NUMBERS = ("kl_coef", "missing_end_score")  # what some checkpoints hold
SCRIPTS = {  # the script that writes a stage's folder
    "pretrain": "train_sft.py",
    "sft": "train_sft.py",
    "rm": "train_rm.py",
    "ppo": "train_ppo.py",
}


class OtherModel(InputError):
    """A checkpoint that does not belong with the others."""


# ---- flags


def configure(config_class, stage, argv):
    """The flags of a stage from its command line. With --resume, the flags of the saved run are the
    defaults. InputError if there is a run and neither --resume nor --overwrite, or no run to
    resume."""
    args = parse(config_class, argv)
    if not args.resume:
        lora.refuse_idle_flag(args)
        refuse_existing(args, Path(args.out) / stage)  # before anything slow
        refuse_lost_files(args, Path(args.out) / stage)
        return defaults.for_model(args, stage, argv)
    folder = Path(args.out) / stage
    refuse_replaced(folder)
    record = resume.recorded(folder)
    flags = resume.recorded_flags(config_class, record, folder / "config.json")
    args = parse(config_class, argv, defaults=flags | {"resume": False, "overwrite": False})
    resume.refuse_changed_flags(dataclasses.asdict(args), record, folder / "config.json")
    return args


# ---- checkpoints


def save(path, stage, gpt_config, tokenizer, step, keep=0, **parts):
    """Write a checkpoint to `path`, a folder or a file named *.pt: stage, shape, step and
    vocabulary, how long samples.txt is, and the state of every part. A part is a module, an
    optimiser or a plain value. A module with adapters is stored merged, as every reader takes it,
    and the adapters beside it, which a resumed run goes on with. With `keep` the old checkpoint
    stays as checkpoint.previous.pt. Divergence, and the old checkpoint stays, if a weight is not
    finite."""
    path = Path(path) / "checkpoint.pt" if Path(path).suffix != ".pt" else Path(path)
    header = {"stage": stage, "gpt": dataclasses.asdict(gpt_config), "step": step}
    header |= {"tokenizer": tokenizer.name, "vocabulary": tokenizer.fingerprint()}
    header["run"] = resume.copied_record(path.parent)
    header["samples_bytes"] = samples_size(path.parent)
    if adapters := {name: lora.adapters(part) for name, part in parts.items() if adapted(part)}:
        header["adapters"] = adapters
    state = {name: part_state(part) for name, part in parts.items()}
    for part in state.values():
        if name := first_not_finite(part):
            raise Divergence(
                f"{name} is not finite after step {step}: training diverged. The learning rate is "
                f"the usual cause; lower --lr. {path} is as it was"
            )
    previous = path.with_name(PREVIOUS) if keep else None
    write_atomically(path, lambda file: damage.save(header | state, file), previous)


def adapted(part):
    """Whether a part of a checkpoint is a module with adapters."""
    return isinstance(part, torch.nn.Module) and lora.is_adapted(part)


def part_state(part):
    """What a checkpoint holds of a part."""
    state = part.state_dict() if hasattr(part, "state_dict") else part
    return lora.merged(state) if adapted(part) else state


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
    state = {"adapters": {}} | load(folder, (stage,))
    for name, part in parts.items():
        if adapted(part):
            load_adapters(part, state["adapters"].get(name), folder)
            continue
        load_part = load_weights if isinstance(part, torch.nn.Module) else load_optimizer
        load_part(part, state.get(name), folder)
    return state


def stored_step(folder, stage):
    """The step of the run's last checkpoint, 0 if there is none yet."""
    exists = (Path(folder) / "checkpoint.pt").exists()
    return int(load(folder, (stage,))["step"]) if exists else 0


def load_weights(module, weights, path, **options):
    """`module.load_state_dict(weights)`. InputError if the weights have other names, shapes or
    types, or are not finite."""
    if name := first_not_finite(weights):
        raise InputError(f"{path}: {name} is not finite, from a run that diverged; train again")
    try:
        types = {name: tensor.dtype for name, tensor in module.state_dict().items()}
        if {name: tensor.dtype for name, tensor in weights.items()} != types:
            raise ValueError("other types of weights")
        module.load_state_dict(weights, **options)
    except (RuntimeError, ValueError, AttributeError) as error:
        raise other_weights(path) from error


def load_adapters(module, weights, path):
    """Load what of a model with adapters was trained. The weights beside them come from the model
    that the run began with: merged ones would have the adapters twice. InputError as in
    `load_weights`."""
    state = module.state_dict()
    if weights is None or weights.keys() != lora.adapters(module).keys():
        raise other_weights(path)
    load_weights(module, state | weights, path)


def load_optimizer(optimizer, state, path):
    """`optimizer.load_state_dict(state)`. InputError if it is the state of an optimiser with other
    parameters or settings. The learning rate is set before each step."""
    try:
        before = settings(optimizer)
        optimizer.load_state_dict(state)
        pairs = [(p, x) for p, moments in optimizer.state.items() for x in moments.values()]
        fits = all(x.shape in ((), p.shape) and x.isfinite().all() for p, x in pairs)
    except Exception as error:  # torch raises many types of error for another structure
        raise other_weights(path) from error
    if settings(optimizer) != before or not fits or len(pairs) % 3:
        raise other_weights(path)


def settings(optimizer):
    """What the groups of an optimiser's parameters say, except for the learning rate."""
    groups = []
    for group in optimizer.param_groups:
        decay = {"weight_decay": type(group["weight_decay"])}  # a flag may change it
        groups.append({k: v for k, v in group.items() if k not in ("params", "lr")} | decay)
    return groups


def other_weights(path):
    return InputError(
        f"{path} holds other weights than are needed here; it may be of another version of "
        "minirlhf: train it again"
    )


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
        state = damage.load(path, device)
        if isinstance(state, dict) and "base" in state:
            state = with_base(state, path, device)
        check_header(state)
    except InputError:
        raise
    except ValueError as error:
        raise damage.refusal(path, error) from error
    if state["stage"] not in stages:
        raise InputError(
            f"{path} is a checkpoint of stage {state['stage']}, but {' or '.join(stages)} is "
            "needed here"
        )
    return state


def with_base(state, path, device):
    """The whole checkpoint of one that holds adapters alone, which stand beside the model in the
    checkpoint `base`. InputError if that is not the model that it was."""
    known = isinstance(state["base"], tuple) and len(state["base"]) == 2
    if not known or state.get("stage") not in (*POLICIES, "rm"):
        raise ValueError(f"its base is {state['base']!r:.50}")
    base, before = state["base"]
    try:
        weights = load(base, (*POLICIES, "rm"), device)["model"]
    except InputError as error:
        problem = f"{path} holds adapters alone, and the model they stand beside is not there"
        raise InputError(f"{problem}: {error}") from error
    if resume.fingerprint(weights) != before:
        raise OtherModel(
            f"{path} holds adapters alone, and {base} is not the model that they were trained "
            "beside; bring that one back, or export the run without --adapters-only"
        )
    return state | {"model": beside(weights, state["adapters"]["model"], state["stage"])}


def beside(weights, adapters, stage):
    """The merged weights of adapters beside a GPT's weights, which a reward model calls gpt."""
    prefix = "gpt." if stage == "rm" else ""
    return lora.merged({prefix + name: x for name, x in weights.items()} | adapters)


def check_header(state):
    """ValueError if what a checkpoint says of itself is not there or of the wrong type."""
    if not isinstance(state, dict):
        raise ValueError(f"it holds a {type(state).__name__}")
    for name, kind in HEADER.items():
        value = state.get(name)
        whole = isinstance(value, kind) and not isinstance(value, bool)
        if not whole or kind is str and not value.isprintable():
            raise ValueError(f"its {name} is {value!r:.50}")
    for name in NUMBERS:
        value = state.get(name, 0.0)
        if not (type(value) is float and math.isfinite(value)):
            raise ValueError(f"its {name} is {value!r:.50}")
    for name in ("step", "samples_bytes"):
        value = state.get(name, 0)
        if type(value) is not int or value < 0:
            raise ValueError(f"its {name} is {value!r:.50}")
    check_shape(state["gpt"], state["model"].values())


def check_shape(shape, tensors):
    """ValueError if there can be no GPT of this shape, {"vocab_size": ..., "layers": ...}, or if it
    has more weights than `tensors`: a billion layers would take minutes and all memory."""
    names = [field.name for field in dataclasses.fields(GPTConfig)]
    if set(shape) != set(names) or not all(type(x) is int and x > 0 for x in shape.values()):
        raise ValueError(f"its shape is {shape!r:.200}")
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        raise ValueError("its model holds what is no tensor")
    GPTConfig(**shape)
    needed = shape["layers"] * 12 * shape["width"] ** 2
    needed += (shape["vocab_size"] + shape["context"]) * shape["width"]
    stored = sum(tensor.numel() for tensor in tensors)
    if shape["layers"] * 12 > len(tensors) or needed > stored:
        raise ValueError(f"its shape is {shape!r:.200}, and it holds {stored:,} weights")


def load_tokenizer(state, path):
    """The tokenizer of a checkpoint. InputError if the tokenizer of that name has another
    vocabulary by now."""
    tokenizer = get_tokenizer(state["tokenizer"])
    size = state["gpt"]["vocab_size"]
    if tokenizer.fingerprint() != state["vocabulary"] or tokenizer.vocab_size != size:
        raise OtherModel(
            f"{path} was trained with another vocabulary called {tokenizer.name}; train it again"
        )
    return tokenizer


def load_gpt(path, stages=POLICIES, device="cpu", precision=torch.float32):
    """(GPT, Tokenizer) from a checkpoint. Weights are float32; the trunk computes in `precision`.
    InputError as in `load` and `load_tokenizer`."""
    state = load(path, stages, device)
    gpt = empty_gpt(state, path)
    load_weights(gpt, state["model"], path, assign=True)
    gpt.precision = precision
    return gpt.to(device), load_tokenizer(state, path)


def began_with(state, sft):
    """Whether the adapters in a checkpoint were trained beside the weights of `sft`."""
    inputs = (state.get("run") or {}).get("inputs", {})
    return "adapters" in state and inputs.get("sft") == resume.fingerprint(sft)


def empty_gpt(state, path):
    """A GPT of a checkpoint's shape on the device "meta", for weights to be assigned to: it takes
    no memory and no random numbers."""
    with torch.device("meta"):
        return GPT(GPTConfig(**state["gpt"]))


def same_vocabulary(path, tokenizer, other_path, other):
    """InputError if two models, called `path` and `other_path`, have different vocabularies."""
    if tokenizer.fingerprint() != other.fingerprint():
        raise OtherModel(
            f"{path} uses the tokenizer {tokenizer.name}, {other_path} uses {other.name}; "
            "they must be the same"
        )


def same_sft(folder, sft):
    """InputError if the policy in a folder was trained from another SFT model than `sft`."""
    record = resume.read_record(folder) or {}
    before = record.get("inputs", {}).get("sft")
    if before not in (None, resume.fingerprint(sft)):
        raise OtherModel(f"{folder} was trained from another SFT model; train it again")
