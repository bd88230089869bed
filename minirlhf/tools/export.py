"""Take a run away: as a folder that Hugging Face's transformers opens, or as weights without the
optimiser.

    minirlhf export out/ppo FOLDER                  a language model and its tokenizer
    minirlhf export out/rm FOLDER                   a reward model that gives our scores
    minirlhf export out/ppo FOLDER --weights-only   a checkpoint that is a third of the size

FOLDER/README.md is a model card with the numbers of the run.
"""

import json
from dataclasses import dataclass
from pathlib import Path

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
    overwrite: bool = flag(False, "replace an export that is already there")


def main(argv=None):
    args = config.parse(Config, argv)
    folder = Path(args.folder)
    state = checkpoint.load(args.run, STAGES)
    clear(folder, args.run, args.overwrite)
    if args.weights_only:
        export_weights(args.run, state, folder)
    elif state["stage"] == "rm":
        export_reward_model(args.run, folder)
    else:
        export_policy(args.run, folder)
    if not args.weights_only:
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
