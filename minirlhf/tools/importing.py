"""Bring in a GPT-2 folder of Hugging Face's transformers as a run that every command takes.

    minirlhf import FOLDER out/gpt2
    python train_sft.py --init out/gpt2 --data demonstrations.jsonl
    python train_rm.py --sft out/gpt2 --data comparisons.jsonl

GPT-2 of all sizes and distilgpt2, as safetensors or .bin, in one piece or in several. No token is
added: ids beyond the tokenizer's, such as an added pad token, are left out.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from minirlhf.formats import gpt2, tokenizer_json
from minirlhf.formats.weights import SAVE_AGAIN
from minirlhf.run import checkpoint, config, folder, resume
from minirlhf.run.config import InputError, flag
from minirlhf.run.files import write_text
from minirlhf.run.lock import lock
from minirlhf.run.metrics import printable, shorten
from minirlhf.tokenizer import get_tokenizer

PADS = ("[PAD]", "<pad>", "<|pad|>", "<PAD>")
NAMES = {1_664: "tiny", 50_257: "gpt2"}  # vocabularies by their number of ids


@dataclass(frozen=True)
class Config:
    """Write the weights in a GPT-2 folder of transformers as a run: OUT/checkpoint.pt."""

    folder: str = flag(
        "", "the folder: config.json, and model.safetensors or pytorch_model.bin", by_place=True
    )
    out: str = flag("", "the folder of the run to write, such as out/gpt2", by_place=True)
    tokenizer: str = flag("", "tiny or any tiktoken encoding [by the number of ids: gpt2, tiny]")
    drop_tokens: bool = flag(
        False, "go on without ids that were added to the tokenizer's, other than a pad token"
    )
    overwrite: bool = flag(False, "replace the run that is already there")


def main(argv=None):
    args = config.parse(Config, argv)
    source, out = Path(args.folder), Path(args.out)
    shape = gpt2.read_config(source / "config.json")
    tokenizer = get_tokenizer(args.tokenizer or name_of(source, shape.vocab_size))
    refuse_other_vocabulary(args, source, shape.vocab_size, tokenizer)
    gpt = gpt2.load_gpt2(source, tokenizer.vocab_size)
    refuse_run(out, args.overwrite)
    with lock(out):
        refuse_run(out, args.overwrite)
        for name in folder.written_files(out):
            (out / name).unlink(missing_ok=True)
        inputs = resume.fingerprints(vocabulary=tokenizer.fingerprint(), init=gpt)
        record = {"stage": "pretrain", "data": printable(args.folder), "flags": {}}
        record |= {"tokenizer": tokenizer.name, "inputs": inputs, "weights_only": True}
        write_text(out / "config.json", resume.record_text(record))
        parts = {"model": gpt, "weights_only": True}
        checkpoint.save(out, "pretrain", gpt.config, tokenizer, 0, **parts)
    numbers = sum(parameter.numel() for parameter in gpt.parameters())
    print(f"{out} holds {numbers:,} parameters with the tokenizer {tokenizer.name}; next: ", end="")
    print(f"python train_sft.py --init {out} --data YOUR_DEMONSTRATIONS.jsonl")


def refuse_run(out, overwrite):
    """InputError if a folder holds a run, unless it is one without an optimiser and `overwrite`."""
    path = out / "config.json"
    if not path.exists() and not (out / "checkpoint.pt").exists():
        return
    if not (resume.read_record(out) or {}).get("weights_only"):
        raise InputError(f"{out} holds something else than an import; name another folder")
    if not overwrite:
        raise InputError(f"{out} already holds a run; replace it with --overwrite")


# ---- the tokenizer


def name_of(source, size):
    """The name of the tokenizer that goes with this many ids. A few may have been added."""
    names = [name for number, name in NAMES.items() if number <= size < number + 1_000]
    if not names:
        problem = f"{size} ids are neither GPT-2's nor those of tiny"
        raise InputError(f"{source}/config.json: {problem}; name the vocabulary with --tokenizer")
    return names[0]


def refuse_other_vocabulary(args, source, size, tokenizer):
    """InputError if the ids of the folder's tokenizer are not those of `tokenizer`, or if more were
    added to them than a pad token. What is left out is printed."""
    if size < tokenizer.vocab_size:
        problem = f"{size} ids, and the tokenizer {tokenizer.name} has {tokenizer.vocab_size}"
        raise InputError(f"{source}/config.json: {problem}; name another one with --tokenizer")
    path, ids = read_vocabulary(source)
    if path is None:
        print(f"{source} holds no tokenizer.json and no vocab.json, to compare {tokenizer.name} to")
    ours = tokenizer_json.vocabulary(tokenizer)
    for name, number in ours.items() if path else ():
        if ids.get(name) != number:
            problem = f"{shorten(name, 30)!r} is {ids.get(name)!r:.20}, and {number} in"
            remedy = "name the tokenizer of the weights with --tokenizer"
            raise InputError(f"{path}: {problem} {tokenizer.name}; {remedy}")
    beyond = sorted(name for name, i in ids.items() if i >= tokenizer.vocab_size)
    if size == tokenizer.vocab_size:
        return
    shown = shorten(", ".join(beyond) or "without a name", 100)
    count = f"{size - tokenizer.vocab_size} of {size} ids are not of {tokenizer.name} ({shown})"
    if not set(beyond) <= set(PADS) and not args.drop_tokens:
        remedy = "leave them out with --drop-tokens: what they mean to the model is lost"
        raise InputError(f"{source}: {count}; {remedy}")
    print(f"{source}: left out: {count}")


def read_vocabulary(source):
    """(path, {text of a piece or name of an added token: id}) of the folder's tokenizer, (None, {})
    where it has none. InputError if a file is none."""
    ids = {}
    paths = [source / name for name in ("tokenizer.json", "vocab.json")]
    path = next((path for path in paths if path.exists()), None)
    added = source / "added_tokens.json"
    for file in filter(None, (path, added if added.exists() else None)):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if file.name == "tokenizer.json":
                tokens = content.get("added_tokens", [])
                content = content["model"]["vocab"] | {t["content"]: t["id"] for t in tokens}
            if not all(type(number) is int for number in content.values()):
                raise ValueError("an id is no whole number")
            ids |= content
        except Exception as error:  # another kind of tokenizer has other types in other places
            raise InputError(f"{file}: no tokenizer of GPT-2's kind; {SAVE_AGAIN}") from error
    return path, ids


if __name__ == "__main__":
    config.run(main)
