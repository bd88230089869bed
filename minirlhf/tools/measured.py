"""The numbers of an experiment of several parts, of which each takes a minute or so: one that is
finished is not made again. And their tables over seeds."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from minirlhf import evaluate
from minirlhf.run.config import InputError
from minirlhf.run.files import write_json
from minirlhf.run.metrics import table
from minirlhf.tools import parts

# Flags that change no number, or that a file's name says.
ELSEWHERE = ("out", "device", "threads", "sft", "seed")


def path_of(args, name):
    return Path(args.out) / str(args.seed) / f"{name}.json"


def part(args, name, make, leave_out=()):
    """The rows of a part, dictionaries: read from OUT/SEED/NAME.json, or made by `make()` and
    written there. InputError if the file is of other flags, or none of ours."""
    path = path_of(args, name)
    flags = {k: v for k, v in dataclasses.asdict(args).items() if k not in (*ELSEWHERE, *leave_out)}
    if not path.exists():
        write_json(path, {"flags": flags, "rows": make()})
    stored = read(path)
    parts.require_same(path, stored["flags"], flags)
    return stored["rows"]


def read(path):
    """What a file of a part holds."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if isinstance(content["flags"], dict) and isinstance(content["rows"], list):
            return content
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path} is no part of an experiment; remove it, and it is made again")


def all_rows(out, names):
    """{name: {seed: rows}} of everything that OUT holds, seeds in order."""
    found = {}
    for name in names:
        paths = [path for path in Path(out).glob(f"*/{name}.json") if path.parent.name.isdigit()]
        paths.sort(key=lambda path: int(path.parent.name))
        if paths:
            found[name] = {int(path.parent.name): read(path)["rows"] for path in paths}
    return found


# ---- the tables


def tables(found, key, numbers, baseline, last):
    """Two tables as lines: the mean over seeds of the agreement with the judge for every part and
    each of `numbers`, which rows have under `key`, with the mean of `last` at the largest; and the
    differences from the part `baseline`."""
    largest = (key, numbers[-1])
    rows = []
    for name, seeds in found.items():
        means = [mean(column(found, name, (key, n))) for n in numbers]
        rows.append([name, len(seeds), *means, mean(column(found, name, largest, last))])
    lines = ["", *table(["agreement with the judge", "seeds", *map(str, numbers), last], rows)]
    if baseline in found:
        header = [f"less {baseline}, 95% over seeds", *map(str, numbers)]
        rows = [
            [name, *(difference(found, name, baseline, (key, n)) for n in numbers)]
            for name in found
            if name != baseline
        ]
        lines += ["", *table(header, rows)]
    return lines


def column(found, name, size, value="agreement_with_judge"):
    """{seed: number} of the rows of a part in which `size`, as (key, number), stands."""
    key, wanted = size
    rows = [(seed, row) for seed, rows in found.get(name, {}).items() for row in rows]
    return {seed: row[value] for seed, row in rows if row[key] == wanted}


def mean(numbers):
    if not numbers:
        return "-"
    digits = 0 if all(isinstance(x, int) for x in numbers.values()) else 3
    return f"{np.mean(list(numbers.values())):.{digits}f}"


def difference(found, name, baseline, size):
    """ "+0.012 +- 0.034", or without an interval for one seed: the mean over the seeds that both
    have of `name` less `baseline`, and half its 95% interval; "-" where there is none."""
    first, second = (column(found, x, size) for x in (name, baseline))
    pairs = [first[seed] - second[seed] for seed in first if seed in second]
    if not pairs:
        return "-"
    average, half = evaluate.interval(pairs)
    return f"{average:+.3f}" + (f" +- {half:.3f}" if half == half else "")
