"""The numbers of an experiment of several parts, of which each takes a minute or so: one that is
finished is not made again. And their tables over seeds."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from minirlhf import evaluate
from minirlhf.run import files, resume
from minirlhf.run.config import InputError
from minirlhf.run.metrics import table
from minirlhf.tools import parts

# Flags that change no number, or that a file's name or its inputs say.
ELSEWHERE = ("out", "device", "threads", "sft", "seed")


def path_of(args, name):
    return Path(args.out) / str(args.seed) / f"{name}.json"


def missing(args, names):
    """The parts that are yet to be made. InputError if their files cannot be written."""
    left = [name for name in names if not path_of(args, name).exists()]
    for name in left:
        files.writable("--out", path_of(args, name))
    return left


def make(args, name, rows, leave_out, sft):
    """Write a part, OUT/SEED/NAME.json, by `rows()`, dictionaries, unless it is there. `sft` is the
    model that its labels are about."""
    path, flags = path_of(args, name), own_flags(args, leave_out)
    if not path.exists():
        content = {"flags": flags, "inputs": resume.fingerprints(sft=sft), "rows": rows()}
        files.write_json(path, content)


def own_flags(args, leave_out):
    names = (*ELSEWHERE, *leave_out)
    return {k: v for k, v in dataclasses.asdict(args).items() if k not in names}


def read(path):
    """What a file of a part holds."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        whole = isinstance(content["flags"], dict) and isinstance(content.get("inputs", {}), dict)
        if whole and all(np.isfinite(row["agreement_with_judge"]) for row in content["rows"]):
            return content
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise InputError(f"{path} is no part of an experiment; remove it, and it is made again")


def all_rows(args, names, leave_out, sft=None):
    """{name: {seed: rows}} of everything that OUT holds, seeds in order: a table compares all of
    it. InputError if a part is of other flags, or one of this seed of another SFT model."""
    found, inputs = {}, resume.fingerprints(sft=sft)
    for name in names:
        paths = Path(args.out).glob(f"*/{name}.json")
        paths = [path for path in paths if path.parent.name.isdecimal()]
        for path in sorted(paths, key=lambda path: int(path.parent.name)):
            stored = read(path)
            parts.require_same(path, stored["flags"], own_flags(args, leave_out))
            if path == path_of(args, name):
                resume.refuse_changed_inputs(inputs, stored, path)
            found.setdefault(name, {})[int(path.parent.name)] = stored["rows"]
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
