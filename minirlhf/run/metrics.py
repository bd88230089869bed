"""metrics.jsonl, one line per step, which plots, tests and resumed runs read; and tables on the
console and in samples.txt."""

import contextlib
import json
import math
import os
import shutil
import sys
import textwrap
import time
from itertools import zip_longest
from pathlib import Path

from tqdm import tqdm

from minirlhf.run import distributed, trackers
from minirlhf.run.files import write_text

MICROSCOPE = "microscope.jsonl"  # the tokens of a few responses; PPO writes it
EVALUATIONS = "evaluations.jsonl"  # what a policy has on each held-out prompt; PPO writes it
CELL = 56  # the most characters of a cell that the console shows


class Metrics:
    """`log(step, name=number, ...)` appends a line to FOLDER/metrics.jsonl.

    Opening cuts the file back to the steps before `step`, so that a resumed run does not log a step
    twice. Lines that cannot be read are dropped, which is said.
    """

    def __init__(self, folder, step=0):
        self.path = Path(folder) / "metrics.jsonl"
        past = cut_back(self.path, step, is_record)
        trackers.hand_over(self.path.parent, "begin", step, past)

    def log(self, step, **numbers):
        """A number may be a float, an int or a tensor of one element. What is None is left out.
        Returns the record as it stands in the file."""
        record = {"step": step}
        record |= {name: number(float(x)) for name, x in numbers.items() if x is not None}
        append(self.path, json.dumps(record) + "\n")
        trackers.hand_over(self.path.parent, "log", record)
        return record

    def flush(self):
        """Have the disk hold the lines: after a power failure a checkpoint has its metrics."""
        if distributed.rank():
            return
        with open(self.path, "rb") as file:
            try:
                os.fsync(file.fileno())
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.path)) from error
        trackers.hand_over(self.path.parent, "flush")


def cut_back(path, step, valid=None):
    """Cut a file of records back to the steps before `step`, and return these records. `valid` as
    in `read_records`."""
    pairs = [(line, record) for line, record in read_records(path, valid) if record["step"] < step]
    write_text(path, "".join(line for line, _ in pairs))
    return [record for _, record in pairs]


class Clock:
    """`lap(name)` stores the seconds since the last lap in `seconds[name]`."""

    def __init__(self):
        self.seconds, self.start = {}, time.perf_counter()

    def lap(self, name):
        stop = time.perf_counter()
        self.seconds[name], self.start = stop - self.start, stop

    def total(self):
        """Seconds of all laps."""
        return sum(self.seconds.values())


def append(path, text):
    """Append to a text file. Where that fails (a full disk), no part of the text stays."""
    if distributed.rank():  # the first process of a run writes
        return
    with open(path, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        content = memoryview(text.encode())
        try:
            while content:
                content = content[file.write(content) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise OSError(error.errno, error.strerror, str(path)) from error


def read_records(path, valid=None):
    """Pairs (line, dictionary) of a file with a record of each step, [] if there is none. A last
    line without its newline was cut short by an interruption and is left out. So is what cannot
    be read (a power failure may leave a row of NULs), or is not `valid(record)` (by default: has a
    step): stderr says how many lines, and which is the first."""
    if not path.exists():
        return []
    pairs, dropped = [], []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for place, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if (valid or has_step)(record):
            pairs.append((line + "\n", record))
        else:
            dropped.append(place)
    if dropped:
        problem = f"{len(dropped)} unreadable lines left out, the first is line {dropped[0]}"
        print(f"warning: {path}: {problem}", file=sys.stderr)
    return pairs


def has_step(record):
    """Whether a value is an object with the number of a step."""
    return isinstance(record, dict) and type(record.get("step")) is int and record["step"] >= 0


def is_record(record):
    """Whether a value is what `log` writes: a step and numbers, or None in the place of one."""
    values = [x for x in record.values() if x is not None] if has_step(record) else [None]
    return all(type(x) in (int, float) and abs(x) < 1e300 for x in values)


def read_metrics(folder):
    """FOLDER/metrics.jsonl -> list of dictionaries, one per step."""
    return [record for _, record in read_records(Path(folder) / "metrics.jsonl", is_record)]


def number(x):
    """As it is logged: seven digits, which is what float32 has. None for NaN and infinity, which
    JSON does not have."""
    return float(f"{x:.7g}") if math.isfinite(x) else None


# ---- tables


def row(*cells, width=11):
    """Print one aligned row above the progress bar: numbers to three decimals, None as a dash."""
    texts = []
    for cell in cells:
        if cell is None:
            texts.append("-")
        else:
            texts.append(f"{cell:.3f}" if isinstance(cell, float) else str(cell))
    tqdm.write("".join(text.rjust(width) for text in texts))


def table(header, rows, width=CELL):
    """The lines of a text table. A column is as wide as its widest cell, and no cell is wider than
    `width` characters; numbers have two decimals."""
    cells = [[cell_text(x, width) for x in line] for line in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        columns = zip(line, widths, strict=True)
        lines.append("  ".join(cell.ljust(size) for cell, size in columns).rstrip())
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def cell_text(x, width):
    """A cell of a table: two decimals of a number, `width` characters of a text."""
    return f"{x:.2f}" if isinstance(x, float) else shorten(str(x), width)


def screen_table(header, rows):
    """The lines of a table that fits the terminal: where it is too narrow, the columns get
    narrower, and a cell goes on in the lines below. A file gets one line a row."""
    cells = [[cell_text(x, CELL) for x in line] for line in rows]
    lines, width = table(header, cells), CELL
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else math.inf
    while max(map(len, lines)) > columns and width > 8:
        width -= 1
        lines = table(header, [part for line in cells for part in folded(line, width)], width)
    return lines


def folded(cells, width):
    """The lines of one row of a table, none of whose cells is wider than `width`, and an empty line
    below."""
    blocks = [textwrap.wrap(cell, width, break_on_hyphens=False) for cell in cells]
    return [*zip_longest(*blocks, fillvalue=""), [""] * len(cells)]


def shorten(text, width):
    """The text on one line, printable, cut to `width` characters."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= width else text[: width - 3] + "..."


def printable(text):
    """The text with U+FFFD for what is no visible character or space: control and escape sequences
    from data or from a model, which would be commands to a terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def write_samples(folder, title, header, rows):
    """Append a table to FOLDER/samples.txt, uncut, and print it, cut and folded for a screen."""
    text = "\n".join([title, *table(header, rows, width=10_000)]) + "\n\n"
    append(Path(folder) / "samples.txt", text)
    trackers.hand_over(folder, "show", title, header, rows)
    tqdm.write("\n".join(["", title, *screen_table(header, rows)]) + "\n")


def samples_size(folder):
    """The bytes of FOLDER/samples.txt, which a checkpoint stores."""
    path = Path(folder) / "samples.txt"
    return path.stat().st_size if path.exists() else 0


def cut_samples(folder, state):
    """Cut FOLDER/samples.txt, microscope.jsonl and evaluations.jsonl back to what they held when
    the checkpoint `state` was saved: a run that is resumed appends the rest again."""
    size = state.get("samples_bytes", 0 if state["step"] == 0 else math.inf)
    if samples_size(folder) > size and not distributed.rank():
        os.truncate(Path(folder) / "samples.txt", size)
    for name in (MICROSCOPE, EVALUATIONS):
        if (Path(folder) / name).exists():
            cut_back(Path(folder) / name, state["step"])
