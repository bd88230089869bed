"""An experiment of several runs. The same command goes on where it stopped: a part that is finished
is not made again, and a run that was interrupted is resumed."""

import contextlib
import dataclasses
import json
from pathlib import Path

from minirlhf import data
from minirlhf.run import resume
from minirlhf.run.config import InputError
from minirlhf.run.files import write_json, write_text
from minirlhf.run.lock import LOCK, lock
from minirlhf.tools import evaluate

EXPERIMENT, FINISHED, HELD_OUT = "experiment.json", "finished.json", "held-out.jsonl"
FREE = ("out", "threads", "device")  # flags that may change from one call to the next


@contextlib.contextmanager
def begin(folder, args, free=FREE, **inputs):
    """While it is entered: the folder of an experiment, which nobody else can write. Its flags, but
    for those that may change from one call to the next, and inputs (see `resume.fingerprint`) are
    written there. InputError if it holds something else."""
    folder = Path(folder)
    content = {k: v for k, v in dataclasses.asdict(args).items() if k not in free}
    content |= resume.fingerprints(**inputs)
    check(folder, content)  # before a file is made
    with lock(folder):
        check(folder, content)
        if not (folder / EXPERIMENT).exists():
            write_json(folder / EXPERIMENT, content)
        yield folder


def check(folder, content):
    """InputError if a folder holds anything but an experiment with this content."""
    path = folder / EXPERIMENT
    if path.exists():
        require_same(folder, read(path), content)
    elif folder.exists() and {x.name for x in folder.iterdir()} - {LOCK}:
        raise InputError(f"{folder} is no experiment of this command; choose another --out")


def chosen(option, text, known):
    """The names in the value of an option, with commas between them. InputError without any, or for
    one that is not known."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise InputError(f"{option} {name}: choose among {', '.join(known)}")
    if not names:
        raise InputError(f"{option} names none; choose among {', '.join(known)}")
    return names


def require_same(path, before, now):
    """InputError, with both values, for a flag that is not the one that PATH was made with."""
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old != new:
            option = "--" + name.replace("_", "-")
            raise InputError(
                f"{path} was made with {option} {resume.shown(old)}, and this is with "
                f"{resume.shown(new)}; give the same {option}, or another --out"
            )


def run(main, folder, stage, argv):
    """FOLDER/STAGE, a run of a training script, by its `main` and flags (a dictionary). A run that
    was interrupted has its flags already, with what `auto` stood for."""
    out = Path(folder) / stage
    mark = out / FINISHED
    if not mark.exists():
        started = (out / "config.json").exists()
        main(words({"out": folder} | ({"resume": True} if started else argv)))
        write_json(mark, {"flags": words(argv)})
    return str(out)


def hold_out(records, count, seed, folder):
    """The records of --data to learn from. The prompts of the others, `count` at most, go to a file
    that `compare_with_sft` reads."""
    learned, held_out = data.hold_out(records, count, seed)
    write_prompts(folder / HELD_OUT, held_out or learned[:1])
    return learned


def write_prompts(path, records):
    """A file of the prompts of records, as JSON Lines."""
    prompts = [str(getattr(record, "prompt", record)) for record in records]
    write_text(path, "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))


def compare_with_sft(args, folder, policy, **flags):
    """The policy against the SFT model, on prompts that it has not learned from."""
    flags |= shared(args) | {"policy": policy, "baseline": args.sft, "mix_data": True}
    flags |= {"data": folder / HELD_OUT if args.data else ""}
    flags |= {"max_new_tokens": args.max_new_tokens, "to": folder / "evaluation.json"}
    evaluate.main(words(flags))
    print(f"the policy is in {policy}")


def words(flags):
    """{name: value} as the words of a command line."""
    options = {"--" + name.replace("_", "-"): value for name, value in flags.items()}
    values = {name: [] if value is True else [str(value)] for name, value in options.items()}
    return [word for name, value in values.items() for word in (name, *value)]


def shared(args):
    """The flags of every command that runs a model."""
    names = "seed", "device", "precision", "threads"
    return {name: getattr(args, name) for name in names}


def read(path):
    """What `begin` has written."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged; choose another --out")
    return content
