"""The runs of methods: what there is, and making what is missing by the commands of minirlhf."""

import json
import shlex
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minirlhf import reward
from minirlhf.__main__ import COMMANDS
from minirlhf.run import chain, checkpoint, config, resume
from minirlhf.run.config import InputError
from minirlhf.run.files import write_json
from minirlhf.run.folder import COMPARISONS
from minirlhf.tools import parts
from minirlhf.tools.demo import minutes
from minirlhf.tools.script import script

BASE_RUNS = ("ppo", "dpo")  # methods whose run the base may hold
# Flags of such a run that are another method's only if they change what it learns.
WHATEVER = resume.CHANGEABLE - {"updates"} | {"seed", "sft", "rm", "precision", "missing_end_score"}
STAGES = ("sft", "rm", "ppo", "dpo")  # commands that write the folder of their name, and resume


class Method(NamedTuple):
    """How its run is made, and where its policy is then."""

    family: str  # methods of one colour in the figure
    labels: str  # what people were asked
    commands: tuple  # of minirlhf; {run}, {base} and {seed} are filled in
    policy: str = "ppo"  # the folder of the policy in the run
    curve: tuple = ()  # folders whose evaluations are the curve of training [policy]


class Place(NamedTuple):
    """A method on a seed."""

    name: str
    method: Method
    seed: int
    base: Path  # with sft and rm
    run: Path


# ---- what there is


def folder_of(place):
    """The folder of a method's run: the base's own for PPO and DPO, where it has one of theirs."""
    policy = place.method.policy
    if place.name in BASE_RUNS and is_plain(place) and not made(place.run, policy):
        return place.base
    return place.run


def is_plain(place):
    """Whether the base holds a run of PPO or DPO to its end, with the flags of the method."""
    if not made(place.base, place.method.policy):
        return False
    stored = chain.stored_flags(place.base / place.method.policy)
    name, *flags = shlex.split(line_of(place, place.method.commands[-1]))
    wanted = asdict(config.parse(script(COMMANDS[name].module).Config, flags))
    return all(stored.get(x, wanted[x]) == wanted[x] for x in wanted if x not in WHATEVER)


def line_of(place, command):
    """A command of METHODS with its folders and its seed, as words for a shell."""
    quoted = {"run": shlex.quote(str(place.run)), "base": shlex.quote(str(place.base))}
    return command.format(**quoted, seed=place.seed)


def made(run, policy):
    """Whether a run has its policy. One of PPO that still goes on has fewer updates than its
    flags say."""
    folder = run / policy
    if not (folder / "checkpoint.pt").exists():
        return False
    updates = chain.stored_flags(folder).get("updates", 0) if folder.name == "ppo" else 0
    return not updates or checkpoint.stored_step(folder, "ppo") >= updates


def ended(run):
    """{command: processor seconds} of the commands of a run that have ended; None for a run that
    was made by other means."""
    try:
        content = json.loads(record_path(run).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def record_path(run):
    """The file beside a run's folder: all that is in the folder is of its commands."""
    return run.with_name(f"{run.name}.json")


def require_models(places):
    """InputError for a run, whole or begun, none of whose stages began with the SFT model of the
    base as it is now, or with the reward model, where the commands that make the run name that."""
    bases = {place.base for place in places}
    for base in bases:
        chain.refuse_own_data(base / "sft")
    models = {base: models_of(base) for base in bases}
    for place in places:
        run, lines = folder_of(place), [f"{line} " for line in place.method.commands]
        found = origins(run / place.method.policy if run == place.base else run)
        for stage, model in models[place.base].items() if found else ():
            asked = stage == "sft" or any("--rm {base}/rm " in line for line in lines)
            if asked and model not in found:
                problem = f"{run} was made from another model than {place.base / stage} is now"
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
    known += [parts.read(path) for path in run.rglob(parts.EXPERIMENT)]
    return {value for record in known for value in record.values() if isinstance(value, str)}


def missing(place):
    """The commands of a method that have not ended yet."""
    run = folder_of(place)
    seconds = ended(run)
    if made(run, place.method.policy) and seconds is None:
        return []
    return [command for command in place.method.commands if command not in (seconds or {})]


def processor_seconds(places):
    """{method: seconds of the processor, mean over its seeds}, as text, where they are known."""
    totals = {}
    for place in places:
        seconds = ended(folder_of(place))
        if seconds:
            totals.setdefault(place.name, []).append(sum(seconds.values()))
    return {name: f"{np.mean(values):.0f}" for name, values in totals.items()}


# ---- making them


def make(places):
    """Run every command that is missing, each with a heading that says which it is."""
    tasks = [(place, command) for place in places for command in missing(place)]
    start = time.perf_counter()
    for step, (place, command) in enumerate(tasks, start=1):
        line = line_of(place, command)
        so_far = minutes(time.perf_counter() - start)
        heading = f"--- step {step} of {len(tasks)}, {so_far} so far: {place.name}"
        print(f"\n{heading}, seed {place.seed}\nminirlhf {line}", flush=True)
        seconds = dict(ended(place.run) or {})
        write_json(record_path(place.run), seconds)
        clock = time.process_time()
        execute(line, place)
        seconds[command] = round(time.process_time() - clock, 1)
        write_json(record_path(place.run), seconds)


def execute(line, place):
    """One command, in this process. A stage that was interrupted is resumed."""
    name, *flags = shlex.split(line)
    if name == "dpo":  # it learns from the comparisons beside it
        target = place.run / "rm" / COMPARISONS
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place.base / "rm" / COMPARISONS, target)
    if name in STAGES and resume.read_record(Path(flags[flags.index("--out") + 1]) / name):
        flags += ["--resume"]
    script(COMMANDS[name].module).main(flags)
