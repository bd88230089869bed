"""What people said about responses: a file of comparisons, one line an answer.

    {"prompt": ..., "responses": [...], "ranks": [1, 0], "decision": "better", "labeller": "ada",
     "time": "2026-11-26T07:30:00Z", "flags": [[], ["rude"]], "ratings": [2, 5], "written": true}

`read_comparisons` reads the same file: rank 0 is best, and of a tie and of a question that was
skipped all ranks are equal. The responses stand as they were shown, first to last; with "written"
the last one is the labeller's own, which is better than all that were shown.

An answer is on the disk before the next question is asked. One that is taken back is removed by a
new file that replaces the old one at once. Several people may write one file.
"""

import contextlib
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from minirlhf.data import Comparison
from minirlhf.formats.lines import numbered_lines
from minirlhf.run.config import InputError
from minirlhf.run.files import flush_folder, write_atomically
from minirlhf.run.lock import UNSUPPORTED, fcntl, warn
from minirlhf.run.metrics import append, printable, shorten

HALVES = re.compile("[\ud800-\udfff]")
DECISIONS = ("better", "tie", "skip")


@dataclass(frozen=True)
class Label:
    prompt: str
    responses: list  # texts
    ranks: list  # 0 is best, equal ranks tie
    decision: str  # one of DECISIONS
    labeller: str
    time: str = ""  # UTC
    flags: list | None = None  # what is wrong with each response
    ratings: list | None = None  # 1 to 5 each
    written: bool = False  # whether the last response is the labeller's own

    @property
    def shown(self):
        """The responses that the labeller was asked about."""
        return self.responses[:-1] if self.written else self.responses


def read_labels(path):
    """list of Label, in the order of the file; [] if there is none. InputError where a line is no
    label. A last line that a power failure cut off is left out."""
    labels = []
    if not os.path.exists(path):
        return labels
    for number, line in numbered_lines(path):
        try:
            labels.append(label(line))
        except ValueError as error:
            if is_torn(line):
                break
            raise InputError(f"{path}:{number}: {shorten(str(error), 300)}") from error
    return labels


def label(line):
    """A line -> Label. ValueError if it is none."""
    row = parse(line)
    if "responses" not in row or "labeller" not in row:
        names = printable(", ".join(row)) or "none"
        problem = "no label: a line has prompt, responses, ranks, decision and labeller"
        raise ValueError(f"{problem}; it has the fields {names}")
    responses = row["responses"]
    K = len(responses) if is_list(responses, is_text) else 0
    unset = {"time": "", "flags": None, "ratings": None, "written": False}
    values = {name: row.get(name, default) for name, default in unset.items()}
    for name, form, valid in (
        ("prompt", "text", is_text(row.get("prompt"))),
        ("responses", "a list of at least two texts", K > 1),
        ("ranks", f"a list of {K} whole numbers", is_list(row.get("ranks"), is_rank, K)),
        ("decision", f"one of {', '.join(DECISIONS)}", row.get("decision") in DECISIONS),
        ("labeller", "text", is_text(row["labeller"])),
        ("time", "text", is_text(values["time"])),
        ("flags", f"{K} lists of texts", values["flags"] is None or are_flags(row["flags"], K)),
        (
            "ratings",
            f"{K} whole numbers from 1 to 5",
            values["ratings"] is None or is_list(values["ratings"], is_rating, K),
        ),
        ("written", "true or false", isinstance(values["written"], bool)),
    ):
        if not valid:
            raise ValueError(f"field {name!r} must be {form}, it is {row.get(name)!r:.100}")
    names = ("prompt", "responses", "ranks", "decision", "labeller")
    return Label(*(row[name] for name in names), **values)


def parse(line):
    """A line -> dictionary. ValueError if it is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON; a line must be one JSON object") from error
    if not isinstance(row, dict):
        raise ValueError(f"a JSON {type(row).__name__}; a line must be one JSON object")
    if HALVES.search(json.dumps(row, ensure_ascii=False)):
        raise ValueError("holds half of a surrogate pair; write the whole character, or remove it")
    return row


def is_list(value, is_item, length=None):
    fits = isinstance(value, list) and length in (None, len(value))
    return fits and all(map(is_item, value))


def is_text(value):
    return isinstance(value, str)


def is_rank(value):
    return type(value) is int and 0 <= value < 2**31  # a bool is an int to isinstance


def is_rating(value):
    return type(value) is int and 1 <= value <= 5


def are_flags(value, K):
    return is_list(value, lambda words: is_list(words, is_text), K)


def line_of(record):
    """Label -> its line."""
    values = {name: value for name, value in vars(record).items() if value not in (None, False)}
    return json.dumps(values) + "\n"


def is_torn(line):
    """Whether a line, a text or bytes, is the part that was written of a longer one."""
    if line[-1:] in ("\n", b"\n"):
        return False
    try:
        json.loads(line)
    except ValueError:
        return True
    return False


def add(path, record):
    """Append a Label; afterwards the disk holds it."""
    with turn(path):
        mend(path)
        append(path, line_of(record))
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def remove_last(path, labeller):
    """Remove the last Label of a labeller from the file and return it; None if there is none. At
    every moment the file is the one before or the one after."""
    with turn(path):
        mend(path)
        lines = Path(path).read_bytes().splitlines(keepends=True)
        for place in reversed(range(len(lines))):
            if not lines[place].strip():
                continue
            record = label(lines[place].decode("utf-8-sig"))
            if record.labeller == labeller:
                del lines[place]
                replace(Path(path).resolve(), b"".join(lines))
                return record
    return None


def replace(path, content):
    """A new file with the access rights of the old one takes its place."""

    def write(file):
        os.chmod(file.name, path.stat().st_mode)
        file.write(content)

    write_atomically(path, write)


def mend(path):
    """End the last line, if it is whole; remove it, if a power failure left only a part."""
    with open(path, "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read() in (b"", b"\n"):
            return
        file.seek(0)
        content = file.read()
        line = content[content.rfind(b"\n") + 1 :]
        if is_torn(line):
            file.truncate(size - len(line))
            print(f"warning: {path}: a last line that was cut off is removed", file=sys.stderr)
        else:
            file.write(b"\n")


@contextlib.contextmanager
def turn(path):
    """While this lasts nobody else writes the file, which is made if need be; others wait. The
    system holds the lock, for the open file, so that it ends with its process."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    while True:
        with open(path, "ab") as file:
            wait(file, path)
            # The file that was waited for may have been replaced meanwhile.
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                continue
            if new:
                flush_folder(path.parent)
            yield
            return


def wait(file, path):
    """Lock an open file, once it is free. Where files cannot be locked a warning says so."""
    if fcntl is None:
        warn(path)
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        warn(path)


# ---- questions


def read_responses(path):
    """Comparisons, in which all tie, of a file of lines {"prompt", "responses"}; None where a
    line has no responses. Other fields are not looked at."""
    records = []
    for number, line in numbered_lines(path):
        try:
            row = parse(line)
            if "responses" not in row:
                return None
            if not is_list(row.get("responses"), is_text) or len(row["responses"]) < 2:
                raise ValueError("field 'responses' must be a list of at least two texts")
            if not is_text(row.get("prompt")):
                raise ValueError("field 'prompt' must be text")
        except ValueError as error:
            raise InputError(f"{path}:{number}: {shorten(str(error), 300)}") from error
        records.append(Comparison(row["prompt"], row["responses"], [0] * len(row["responses"])))
    return records
