"""An experiment of several runs. The same command goes on where it stopped: a part that is finished
is not made again, and a run that was interrupted is resumed."""

import contextlib
import dataclasses
import json
from pathlib import Path

from minirlhf import reward
from minirlhf.run import chain, checkpoint, resume
from minirlhf.run.config import InputError
from minirlhf.run.files import write_json
from minirlhf.run.lock import LOCK, lock

EXPERIMENT, FINISHED = "experiment.json", "finished.json"
COMMANDS = "commands.json"  # of `minirlhf methods`, which makes the folder of an experiment
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
    elif folder.exists() and {x.name for x in folder.iterdir()} - {LOCK, COMMANDS}:
        raise InputError(f"{folder} is no experiment of this command; choose another --out")


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


def require_models(run, base, commands):
    """InputError for a run, whole or begun, none of whose stages began with the SFT model in `base`
    as it is now, or with the reward model, where the commands that make the run name that."""
    found = origins(run)
    for stage, model in models_of(base).items() if found else ():
        asked = stage == "sft" or any("--rm {base}/rm " in f"{line} " for line in commands)
        if asked and model not in found:
            problem = f"{run} was made from another model than {base / stage} is now"
            raise InputError(f"{problem}; move it away, and it is made again")


def models_of(base):
    """{stage: fingerprint} of the models that runs begin with. A reward model with adapters has
    another one in a run that it shares its trunk with."""
    models = {"sft": checkpoint.load_gpt(base / "sft")[0]}
    if (base / "rm").exists() and not chain.stored_flags(base / "rm").get("lora"):
        models["rm"] = reward.load_reward_model(base / "rm")[0]
    return resume.fingerprints(**models)


def origins(run):
    """The fingerprints of everything that the stages in a folder began with."""
    records = [resume.read_record(path.parent) or {} for path in run.rglob("config.json")]
    known = [record.get("inputs", {}) for record in records]
    known += [read(path) for path in run.rglob(EXPERIMENT)]
    return {value for record in known for value in record.values() if isinstance(value, str)}


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
        raise InputError(f"{path} is damaged; remove its folder, or choose another --out")
    return content
