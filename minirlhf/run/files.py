"""Files that are written as a whole or not at all."""

import errno
import json
import os
import re
import secrets
import shutil
import stat
from pathlib import Path

from minirlhf.run import distributed
from minirlhf.run.config import InputError

TEMPORARY = re.compile(r"(.+)\.[0-9a-f]{16}\.tmp")  # the name of a file until it is complete


def write_atomically(path, write, previous=None):
    """Call `write(file)` on a new binary file, flush it to the disk, and give it the name `path`.

    A reader of `path` sees the old file or the new one, never a part of either; the same holds
    after a crash and after a power failure. Until it is complete the file has a temporary name,
    which no other writer uses and which is new: a link that somebody put there is not followed.
    Where `write` fails, the old file stays; an error of the system is an OSError with the path,
    even where torch hides it behind one of its own. A missing folder is made. `previous` is a path
    for the old file, which is otherwise gone.
    """
    if distributed.rank():  # the first process of a run writes
        return
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if previous and path.exists():
            keep_as(path, Path(previous))
        os.replace(temporary, path)
        flush_folder(path.parent)
    except Exception as error:
        if cause := system_error(error):
            raise OSError(cause.errno, cause.strerror or str(cause), str(path)) from error
        raise
    finally:
        remove(temporary)


def write_text(path, text):
    """`write_atomically`, of a text in UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path, content):
    """`write_atomically`, of lists and dictionaries of numbers and texts as JSON."""
    write_text(path, json.dumps(content) + "\n")


def keep_as(path, previous):
    """Give a file a second name, which another file may have had. At every moment the file has its
    first name."""
    link = previous.with_name(f"{previous.name}.{secrets.token_hex(8)}.tmp")
    try:
        os.link(path, link)
        os.replace(link, previous)
    except OSError:  # a file system without links
        shutil.copyfile(path, link)
        os.replace(link, previous)
    finally:
        remove(link)


def flush_folder(folder):
    """Have the disk hold the names in a folder, too: after a power failure a file that was renamed
    may have its old name otherwise. Where folders cannot be flushed this does nothing."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(number)


def system_error(error):
    """The error of the operating system that an error is, or that was raised before it."""
    while error and not isinstance(error, OSError):
        error = error.__context__
    return error


def remove(path):
    """Remove a temporary file, if it is there and can be."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass  # a folder that is read-only by now: the error that led here is the one to show


def writable(flag, path, begin=None):
    """InputError if the file that `flag` names cannot be written, or if one is there that begins
    otherwise than the command's own results, which `begin` is the beginning of: somebody's data. To
    be called before the computation whose result goes there; no file is made."""
    path = Path(path)
    new = not os.path.lexists(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            regular, size = stat.S_ISREG(os.fstat(file.fileno()).st_mode), file.tell()
            file.seek(0)
            own = size == 0 or begin is not None and file.read(len(begin)) == begin.encode()
        if new:
            path.unlink()
    except OSError as error:
        problem = f"{flag} {path}: {error.strerror or error}"
        raise InputError(f"{problem}; name a file that can be written") from error
    if not regular:
        raise InputError(f"{flag} {path} is a device or a pipe; name a file")
    if not own:
        problem = "is there already" if begin is None else "holds something else than such results"
        raise InputError(f"{flag} {path} {problem}; name another file, or move it away")


def listed(data):
    """The paths in a flag that may name several, with commas between; a path with a comma in it is
    one if it exists."""
    if os.path.exists(data):
        return [str(data)]
    return [part.strip() for part in str(data).split(",") if part.strip()]
