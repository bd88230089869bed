"""One writer a folder."""

import contextlib
import errno
import os
import re
import socket
import sys
from pathlib import Path

from minirlhf.run.config import InputError

try:
    import fcntl
except ImportError:  # not on this system
    fcntl = None

LOCK = "lock"  # the file's name; it holds the process and its machine
WRITER = re.compile(rb"process \d+ on .*\n?")  # what it holds
UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
held = set()  # numbers of open files


@contextlib.contextmanager
def lock(folder, path=None):
    """While this lasts no other process enters it for the same folder, or for what the file `path`
    stands for. InputError, which names the writer, if another one has.

    The system holds the lock, for the open file: it ends with its process, however that dies, and
    no stale one is ever in the way.
    """
    if fcntl is None:
        warn(folder)
        yield
        return
    path = Path(path or Path(folder) / LOCK)
    path.parent.mkdir(parents=True, exist_ok=True)
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    held.add(number)
    try:
        acquire(number, folder, path)
        yield
    finally:
        if number in held:  # not in a child
            held.discard(number)
            os.close(number)


def acquire(number, folder, path):
    """Lock an open file and write into it who did. InputError if it is somebody's own."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        writer = os.pread(number, 200, 0).decode("utf-8", "replace").strip()
        raise InputError(
            f"{folder} is being written by {writer or 'another process'}; wait for it, stop it, or "
            "choose another --out"
        ) from error
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        warn(folder)
        return
    content = os.pread(number, 1000, 0)
    if content and not WRITER.fullmatch(content):
        raise InputError(
            f"{path} was not written by a run, and a run locks its folder with a file of this "
            "name; move it away, or choose another --out"
        )
    with contextlib.suppress(OSError):  # a full disk
        os.ftruncate(number, 0)
        os.pwrite(number, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def warn(folder):
    print(f"warning: {folder} cannot be locked here; start one run in it only", file=sys.stderr)


def release_in_child():
    """A forked process must not keep the lock of a parent that dies."""
    for number in held:
        os.close(number)
    held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=release_in_child)
