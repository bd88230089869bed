"""Take a run away: as a folder that Hugging Face's transformers opens, or as weights without the
optimiser.

    minirlhf export out/ppo FOLDER                  a language model and its tokenizer
    minirlhf export out/rm FOLDER                   a reward model that gives our scores
    minirlhf export out/ppo FOLDER --weights-only   a checkpoint that is a third of the size
    minirlhf export out/ppo FOLDER --adapters-only  of a run with --lora: what it has trained alone

FOLDER/README.md is a model card with the numbers of the run.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from minirlhf import reward
from minirlhf.formats import gpt2, opt, tokenizer_json
from minirlhf.run import chain, checkpoint, config, damage, resume
from minirlhf.run.config import InputError, flag
from minirlhf.run.files import write_atomically, write_text
from minirlhf.tools import card

STAGES = (*checkpoint.POLICIES, "rm")
FILES = (  # what an export writes
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("model.safetensors", "pytorch_model.bin", "README.md", "checkpoint.pt"),
)


@dataclass(frozen=True)
class Config:
    """Write a trained model as a folder that transformers opens: a policy (pretrain, sft, ppo or
    dpo) as AutoModelForCausalLM, a reward model (rm) as AutoModelForSequenceClassification, each
    with its AutoTokenizer."""

    run: str = flag("", "the checkpoint: a folder, such as out/ppo, or a file", by_place=True)
    folder: str = flag("", "the folder to write, new or empty", by_place=True)
    weights_only: bool = flag(
        False,
        "write a checkpoint of minirlhf without the optimiser instead: all commands take it, and "
        "--resume does not",
    )
    adapters_only: bool = flag(
        False,
        "write the adapters of a run with --lora alone: all commands take them, as long as the "
        "model that they stand beside stays where it is",
    )
    overwrite: bool = flag(False, "replace an export that is already there")


def main(argv=None):
    args = config.parse(Config, argv)
    folder = Path(args.folder)
    state = checkpoint.load(args.run, STAGES)
    if args.adapters_only:
        state = adapters_alone(args.run, state)
    clear(folder, args.run, args.overwrite)
    whole = not (args.weights_only or args.adapters_only)
    if not whole:
        export_weights(args.run, state, folder)
    elif state["stage"] == "rm":
        export_reward_model(args.run, folder)
    else:
        export_policy(args.run, folder)
    if whole:
        write_text(folder / "README.md", card.text(args.run, state))
    names = sorted(path.name for path in folder.iterdir() if path.name in FILES)
    size = sum((folder / name).stat().st_size for name in names)
    print(f"{args.folder} holds {', '.join(names)} ({size / 1e6:.1f} MB)")


def clear(folder, run, overwrite):
    """Remove an export from a folder. InputError if there is one without `overwrite`, or if the
    folder holds anything else, a run above all."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder that is new or empty")
    if folder.resolve() == chain.folder_of(run).resolve():
        raise InputError(f"{folder} is the run itself, which would be replaced; name another one")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    record = resume.read_record(folder) or {}
    if "flags" in record and not record.get("weights_only"):
        raise InputError(f"{folder} holds a run, which would be lost; name another folder")
    if names and not overwrite:
        problem = f"{folder} is not empty"
        raise InputError(f"{problem}; replace an export in it with --overwrite, or name another")
    for name in names & set(FILES):
        (folder / name).unlink()


# ---- as a checkpoint


def export_weights(run, state, folder):
    """A checkpoint without its optimiser, and the record of its run."""
    rest = {name: value for name, value in state.items() if name != "optimizer"}
    rest["weights_only"] = True
    record = resume.read_record(chain.folder_of(run)) or state.get("run") or {"flags": {}}
    write_text(folder / "config.json", resume.record_text(record | {"weights_only": True}))
    write_atomically(folder / "checkpoint.pt", lambda file: damage.save(rest, file))


def adapters_alone(run, state):
    """A checkpoint with adapters in the place of its model, and where that model is. InputError if
    there are none, or if the model that they stand beside is no longer there."""
    if "adapters" not in state:
        raise InputError(f"{run} has no adapters: it was trained without --lora")
    base = base_of(run, state["stage"])
    weights = checkpoint.load(base, STAGES)["model"]
    adapters = state["adapters"]["model"]
    shapes = {name: x.shape for name, x in state["model"].items()}
    merged = checkpoint.beside(weights, adapters, state["stage"])
    if {name: x.shape for name, x in merged.items()} != shapes or not all(
        torch.allclose(x, state["model"][name], atol=1e-4, rtol=1e-4) for name, x in merged.items()
    ):
        raise InputError(f"{base} is not the model beside which {run} was trained; bring it back")
    place = str(Path(base).resolve()), resume.fingerprint(weights)
    rest = {name: value for name, value in state.items() if name != "critic"}
    return rest | {"model": {}, "adapters": {"model": adapters}, "base": place}


def base_of(run, stage):
    """The checkpoint that a run began with."""
    flags, out = chain.stored_flags(run), chain.folder_of(run).parent
    if stage == "sft":
        return flags.get("init") or str(out / "pretrain")
    return flags.get("sft") or str(out / "sft")


# ---- as a folder of transformers


def export_policy(run, folder):
    """Weights, tokenizer and the way to sample: at temperature 1 from all ids, as in training, and
    at most as many tokens as the run sampled."""
    gpt, tokenizer = checkpoint.load_gpt(run)
    gpt2.save_gpt2(gpt, folder, tokenizer.end_token)
    tokenizer_json.save_tokenizer(tokenizer, folder, gpt.config.context)
    ends = ("bos_token_id", "eos_token_id", "pad_token_id")
    generation = dict.fromkeys(ends, tokenizer.end_token)
    generation |= {"do_sample": True, "top_k": 0, "top_p": 1.0}
    generation["temperature"] = float(number(run, "temperature", 1.0))
    most = int(number(run, "max_new_tokens", 32))
    generation["max_new_tokens"] = min(most, gpt.config.context - 1)
    write_text(folder / "generation_config.json", json.dumps(generation, indent=2) + "\n")


def number(run, name, default):
    """A flag of a run that is a positive number, or the default."""
    value = chain.stored_flags(run).get(name)
    return value if isinstance(value, int | float) and value > 0 else default


def export_reward_model(run, folder):
    reward_model, tokenizer, _ = reward.load_reward_model(run)
    opt.save_reward_model(reward_model, folder, tokenizer.end_token)
    tokenizer_json.save_tokenizer(tokenizer, folder, reward_model.gpt.config.context, scores=True)


if __name__ == "__main__":
    config.run(main)
