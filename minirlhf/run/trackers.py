"""TensorBoard or Weights & Biases beside metrics.jsonl: the same numbers under the same names.

`tracked` stands around a run. metrics.py hands over each record and each table of samples; the
loops know nothing of it. A tracker that fails is given up with a warning, and the run goes on.
"""

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path

from minirlhf.run.config import InputError, one_line

NONE = "none"
MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}
OPEN = {}  # {folder: tracker} of the runs that this process writes


def require(name):
    """The module of a tracker, None for "none". InputError, with the remedy, if it is not
    installed."""
    if name == NONE:
        return None
    try:
        return importlib.import_module(MODULES[name])
    except ImportError as error:
        remedy = "pip install -e '.[track]'"
        raise InputError(f"--track {name} needs the package {name}: {remedy}") from error


@contextlib.contextmanager
def tracked(name, folders):
    """While this lasts, what is logged in the folders of runs also goes to the tracker `name`."""
    if module := require(name):
        OPEN.update({Path(folder): KINDS[name](module, Path(folder)) for folder in folders})
    try:
        yield
    finally:
        for folder in map(Path, folders):
            hand_over(folder, "close")
            OPEN.pop(folder, None)


def hand_over(folder, method, *arguments):
    """Call a method of the tracker of a folder, if there is one. One that fails is left out from
    then on: what it shows also stands in metrics.jsonl."""
    tracker = OPEN.get(Path(folder))
    if tracker is None:
        return
    try:
        getattr(tracker, method)(*arguments)
    except Exception as error:
        del OPEN[Path(folder)]
        text = " ".join(one_line(error).split())
        problem = f"--track {tracker.name} failed and is left out ({type(error).__name__}: {text})"
        print(f"warning: {problem}", file=sys.stderr)


def event_files(folder):
    """The files that TensorBoard has of the run in a folder."""
    return list((folder / "tensorboard").glob("events.out.tfevents.*"))


class TensorBoard:
    """Event files in FOLDER/tensorboard. What they have of later steps than a resumed run begins
    with does not count any more; where there are none yet, they begin with the whole past."""

    name = "tensorboard"

    def __init__(self, module, folder):
        self.module, self.run, self.folder = module, folder, folder / "tensorboard"
        self.writer, self.step = None, 0

    def begin(self, step, records):
        """With the step that comes next and the records before it. Only the first call counts:
        the report at the end of a stage opens its metrics again."""
        if self.writer:
            return
        complete = any(event_files(self.run))
        purged = step if complete else None
        self.writer = self.module.SummaryWriter(str(self.folder), purge_step=purged)
        self.step = step
        content = (self.run / "config.json").read_text(encoding="utf-8").splitlines()
        # Indented by four it is code: what stands in it is no markup.
        self.writer.add_text("config", "".join(f"    {line}\n" for line in content), step)
        for record in () if complete else records:
            self.log(record)

    def log(self, record):
        self.step = record["step"] + 1
        for name, number in record.items():
            if name != "step" and number is not None:
                self.writer.add_scalar(name, number, record["step"])

    def show(self, title, header, rows):
        """A table of samples, at the step that comes next."""
        lines = [header, ["---"] * len(header), *rows]
        cells = [lines[1] if line is lines[1] else map(plain, line) for line in lines]
        table = "\n".join("|" + "|".join(line) + "|" for line in cells)
        self.writer.add_text("samples", f"{plain(title)}\n\n{table}", self.step)

    def flush(self):
        self.writer.flush()

    def close(self):
        if self.writer:
            self.writer.close()
            print(f"the curves: tensorboard --logdir {self.folder}", file=sys.stderr)


def plain(cell):
    """Text as Markdown that shows it as it is: whatever could be markup becomes an entity."""
    text = f"{cell:.2f}" if isinstance(cell, float) else " ".join(str(cell).split())
    return "".join(c if c.isalnum() or c in " ,;:'" else f"&#{ord(c)};" for c in text)


class WeightsAndBiases:
    """A W&B run for every start, in FOLDER/wandb: that of a resumed run begins with the records
    before it, so that the newest has every step once, whatever was cut back. They have one group.

    Offline, unless WANDB_MODE is set or the user is logged in.
    """

    name = "wandb"

    def __init__(self, module, folder):
        self.module, self.folder, self.writer, self.step = module, folder, None, 0

    def begin(self, step, records):
        """As that of TensorBoard."""
        if self.writer:
            return
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        given = "WANDB_MODE" in os.environ or self.module.login(prompt=False, key=None)
        quiet = {"silent": True, "console": "off", "disable_git": True, "save_code": False}
        self.writer = self.module.init(
            project=os.environ.get("WANDB_PROJECT", "minirlhf"),
            group=str(self.folder.resolve()),
            job_type=config["stage"],
            name=f"{self.folder}, from step {step}" if step else str(self.folder),
            dir=str(self.folder),
            config=config.pop("flags") | config,
            mode=None if given else "offline",
            reinit="create_new",
            settings=self.module.Settings(**quiet),
        )
        self.step = step
        for record in records:
            self.log(record)

    def log(self, record):
        self.step = record["step"] + 1
        numbers = {name: number for name, number in record.items() if number is not None}
        self.writer.log(numbers, step=record["step"])

    def show(self, title, header, rows):
        """A table of samples, at the step that comes next."""
        table = self.module.Table(columns=["", *header], data=[[title, *row] for row in rows])
        self.writer.log({"samples": table}, step=self.step)

    def flush(self):
        """W&B writes from a process of its own, which outlives a run that is killed."""

    def close(self):
        if self.writer:
            place, offline = Path(self.writer.dir).parent, self.writer.settings.mode == "offline"
            self.writer.finish()
            line = f"wandb sync {place} sends it" if offline else self.writer.url
            print(f"the curves: {line}", file=sys.stderr)


KINDS = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
