"""Records -> JSON Lines on the standard output or in a file, which a later command goes on with.

Beside a file FILE stand FILE.config.json, what the records depend on, and FILE.lock: one command
writes at a time. A command with --resume drops a last line that was cut short and goes on after the
others, if what they depend on is the same.
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from minirlhf.run import resume
from minirlhf.run.config import InputError, discard_output
from minirlhf.run.files import write_text
from minirlhf.run.lock import lock
from minirlhf.run.metrics import append


@contextlib.contextmanager
def lines(to, settings, inputs, go_on=False, overwrite=False):
    """(the number of records that are there, a function that writes another one). `to` is the file,
    or empty; `settings` are flags that the records depend on, and `inputs` models and records (see
    `resume.fingerprint`). A reader of the standard output that has enough (`| head`) ends the
    command without a message."""
    if not to:
        with quiet_pipe():
            yield 0, lambda record: print(json.dumps(record), flush=True)
        return
    path = Path(to).resolve()
    content = {"flags": settings, "inputs": resume.fingerprints(**inputs)}
    check(path, content, go_on, overwrite)  # before a file is made
    with lock(path, f"{path}.lock"):
        check(path, content, go_on, overwrite)
        done = prepare(path, content, go_on)
        yield done, lambda record: append(path, json.dumps(record) + "\n")
    print(f"the records are in {to}", file=sys.stderr)


def settings_of(path):
    return path.with_name(path.name + ".config.json")


def check(path, content, go_on, overwrite):
    """InputError if a file must not be touched."""
    if path.exists() and not path.is_file():
        problem = "is no plain file; without --to the records go to the standard output"
        raise InputError(f"--to {path} {problem}")
    if path.exists() and go_on:
        refuse_changed(path, settings_of(path), content)
    elif path.exists() and not overwrite:
        raise InputError(
            f"{path} already exists; go on with it by --resume, replace it with --overwrite"
        )


def prepare(path, content, go_on):
    """The number of records that are there already; afterwards the file is ready for the next
    one."""
    if path.exists() and go_on:
        return cut_to_lines(path)
    path.unlink(missing_ok=True)  # first: the old records must not stand beside new settings
    write_text(settings_of(path), json.dumps(content, indent=2) + "\n")
    append(path, "")
    return 0


def refuse_changed(path, settings, content):
    """InputError if a file was begun with other settings or inputs."""
    try:
        before = json.loads(settings.read_text(encoding="utf-8"))
        old, new = ({**x["flags"], **x["inputs"]} for x in (before, content))
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{settings}, which says how it was begun, is missing or damaged"
        raise InputError(f"{path}: {problem}; remove it, and it is begun again") from error
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            change = f"was begun with {name.replace('_', ' ')} {old.get(name)}"
            remedy = "give the same as before, or start again with --overwrite"
            raise InputError(f"{path} {change}, and this is {new.get(name)}; {remedy}")


def cut_to_lines(path):
    """The number of whole lines of a file; what a killed command wrote of one more is removed."""
    content = path.read_bytes()
    os.truncate(path, content.rfind(b"\n") + 1)
    return content.count(b"\n")


@contextlib.contextmanager
def shown_last():
    """What is printed while it is entered is shown at its end: a file that is written there is
    written before the reader of the output, such as `head`, can go away."""
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            yield
    finally:
        print(text.getvalue(), end="")


@contextlib.contextmanager
def quiet_pipe():
    """While it is entered, a reader of the standard output may go away."""
    try:
        yield
    except BrokenPipeError:
        discard_output()
