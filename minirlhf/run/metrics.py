"""metrics.jsonl is the interface: one line a step, which plots, tests and resume read. And the table on the console."""

import json
import math
import os
import time
from pathlib import Path

from tqdm import tqdm


class Metrics:
    """`log(step, name=number, ...)` appends one line. Opening cuts the file back to the steps before `step`, so that a resumed
    run continues the file of the run it continues."""

    def __init__(self, folder, step=0):
        self.path = Path(folder) / "metrics.jsonl"
        kept = [line for line in read_lines(self.path) if json.loads(line)["step"] < step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        os.replace(temporary, self.path)

    def log(self, step, **numbers):
        record = {"step": step} | {
            name: number(float(x)) for name, x in numbers.items() if x is not None
        }
        with open(self.path, "a") as file:
            file.write(json.dumps(record) + "\n")


class Clock:
    """`lap(name)`: the seconds since the last lap, in `seconds[name]`."""

    def __init__(self):
        self.seconds, self.start = {}, time.perf_counter()

    def lap(self, name):
        stop = time.perf_counter()
        self.seconds[name], self.start = stop - self.start, stop


def read_lines(path):
    """The whole lines of a file: a line that an interruption cut short has no newline and is left out."""
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def read_metrics(folder):
    """metrics.jsonl -> list of dictionaries."""
    return [json.loads(line) for line in read_lines(Path(folder) / "metrics.jsonl")]


def number(x):
    return (
        float(f"{x:.7g}") if math.isfinite(x) else None
    )  # float32 has no more digits, and JSON no NaN


def row(*cells, width=11):
    """Print one aligned row above the progress bar: numbers to three decimals, None as a dash."""
    shown = [
        "-" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else str(cell)
        for cell in cells
    ]
    tqdm.write("".join(cell.rjust(width) for cell in shown))


def table(header, rows, width=56):
    """The lines of a text table: columns as wide as their widest cell, no cell wider than `width`."""
    cells = [
        [f"{c:.2f}" if isinstance(c, float) else shorten(str(c), width) for c in r]
        for r in [header, *rows]
    ]
    widths = [max(len(r[i]) for r in cells) for i in range(len(header))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in cells]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def shorten(text, width):
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 3] + "..."


def write_samples(folder, title, header, rows):
    """Append a table to samples.txt, uncut, and print it, cut to fit a screen."""
    with open(Path(folder) / "samples.txt", "a") as file:
        file.write("\n".join([title, *table(header, rows, width=10_000)]) + "\n\n")
    tqdm.write("\n".join(["", title, *table(header, rows)]) + "\n")
