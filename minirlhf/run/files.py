"""Files that are written as a whole or not at all."""

import os
import secrets
from pathlib import Path

from minirlhf.run.config import InputError


def write_atomically(path, write):
    """Call `write(file)` on a new binary file, flush it to the disk, and give it the name `path`.

    A reader of `path` sees the old file or the new one, never a part of either; the same holds
    after a crash and after a power failure. Until it is complete the file has a temporary name,
    which no other writer uses: of two that write at once one wins, as a whole. Where `write` fails,
    its exception is raised and the old file stays. A missing folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    """`write_atomically`, of a text in UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def writable(flag, path):
    """InputError if the file that `flag` names cannot be written. To be called before the
    computation whose result goes there."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        open(path, "a", encoding="utf-8").close()
    except OSError as error:
        raise InputError(
            f"{flag} {path}: {error.strerror}; name a file that can be written"
        ) from error
