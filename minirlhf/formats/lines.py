"""A file or a pipe, plain or gzip, -> text, with a limit to what one line may hold."""

import contextlib
import gzip
import io
import itertools
import re
import sys
import zlib

from minirlhf.run.config import InputError

LONGEST_LINE = 10_000_000  # characters; a small gzip file can hold one that fills the memory
# What a file begins with that is no text: what it is, and the remedy.
OTHER_FORMATS = {
    b"PAR1": (
        "a Parquet file",
        "write it as JSON Lines: pandas.read_parquet(file).to_json(new, orient='records', "
        "lines=True)",
    ),
    b"PK\x03\x04": ("a zip archive", "unpack it and give the file inside"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "unpack it with unzstd"),
    b"BZh": ("compressed by bzip2", "unpack it with bunzip2"),
    b"\xfd7zXZ": ("compressed by xz", "unpack it with unxz"),
    b"version https://git-lfs": ("a pointer of Git LFS", "fetch the file itself: git lfs pull"),
    b"ARROW1": ("an Arrow file", "write it as JSON Lines: datasets.Dataset.from_file(..).to_json"),
    b"\xff\xfe": ("UTF-16 and not UTF-8 text", "save it as UTF-8: iconv -f UTF-16 -t UTF-8"),
    b"\xfe\xff": ("UTF-16 and not UTF-8 text", "save it as UTF-8: iconv -f UTF-16 -t UTF-8"),
}
GZIP = b"\x1f\x8b"  # what a gzip file begins with, whatever its name
NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of such a byte


class BadLine(ValueError):
    """Why a line cannot be read, without file and number."""


def numbered_lines(path):
    """(1, first line), ... without the blank lines and without byte order marks, of which a file
    that was joined from several has more than one. InputError where a line is not UTF-8 or longer
    than LONGEST_LINE."""
    with open_text(path) as file:
        for number, line in lines_of(file, file.readline(LONGEST_LINE + 1)):
            if isinstance(line, BadLine):
                raise InputError(f"{path}:{number}: {line}")
            yield number, line


def lines_of(file, start):
    """The same of an open file, from whose beginning the text `start` was read already. In the
    place of a line that cannot be read is a BadLine."""
    head = io.StringIO(start)
    for number in itertools.count(1):
        line = head.readline()
        if not line.endswith("\n"):
            line += file.readline(LONGEST_LINE + 1 - len(line))
        if not line:
            return
        if len(line) > LONGEST_LINE:
            yield number, BadLine(f"longer than {LONGEST_LINE:,} characters; a line is one record")
            while line and not line.endswith("\n"):
                line = file.readline(LONGEST_LINE)
            continue
        if problem := bad_byte(line):
            yield number, BadLine(problem)
            continue
        line = line.lstrip("\ufeff")
        if line.strip():
            yield number, line


def read_text(path):
    """The text of a plain file, without byte order marks. InputError where it is not UTF-8."""
    with open_text(path, compressed=False) as file:
        text = file.read()
    if found := NOT_UTF8.search(text):
        start = text.rfind("\n", 0, found.start()) + 1
        number = text.count("\n", 0, start) + 1
        raise InputError(f"{path}:{number}: {bad_byte(text[start : found.end()])}")
    return text.replace("\ufeff", "")


@contextlib.contextmanager
def open_text(path, compressed=True):
    """A file as text; a byte that is not UTF-8 becomes a character of NOT_UTF8. InputError where it
    cannot be read, is of another format, or is a damaged gzip file."""
    try:
        with open_bytes(path) as file:
            start = file.peek(8)  # it is still to be read: a pipe has no way back
            is_gzip = start.startswith(GZIP)
            refuse_format(path, start, is_gzip and not compressed)
            stream = gzip.GzipFile(fileobj=file) if is_gzip else file
            yield io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: a damaged gzip file; fetch it again") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; check the path") from error


def open_bytes(path):
    """A file, or standard input for "-", as bytes."""
    return contextlib.nullcontext(sys.stdin.buffer) if str(path) == "-" else open(path, "rb")


def refuse_format(path, start, is_compressed):
    """InputError if a file that begins with the bytes `start` is no text."""
    if is_compressed:
        raise InputError(f"{path}: a gzip file; unpack it with gunzip")
    for magic, (kind, remedy) in OTHER_FORMATS.items():
        if start.startswith(magic):
            raise InputError(f"{path}: {kind}; {remedy}")


def bad_byte(line):
    """What is wrong with a line that holds a byte that is not UTF-8; None if it is UTF-8."""
    if found := NOT_UTF8.search(line):
        byte = ord(found[0]) - 0xDC00
        problem = f"not UTF-8 text (byte {byte:#x} after {found.start()} characters)"
        return f"{problem}; save it as UTF-8"
    return None
