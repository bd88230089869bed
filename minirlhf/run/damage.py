"""Whether a file of weights is as it was written, and holds no more than it says.

`torch.save` writes a zip archive with a CRC-32 of every record, and `torch.load` checks none of
them: a flipped bit is a changed weight. `save` also writes a seal, the CRC-32 of all bytes of the
file, as the comment of the archive: it covers the headers too. Other programs ignore it.
"""

import os
import time
import zipfile
import zlib

import torch

from minirlhf.run.config import InputError

SEAL = b"minirlhf crc32 "  # and eight hexadecimal digits
SEALED = len(SEAL) + 8  # bytes
END_RECORD = b"PK\x05\x06"  # the last record of a zip archive: 22 bytes, without a comment
CHUNK = 1 << 20
SETTLED = 2  # seconds after its last change, from which on a file's time tells a later change

whole = set()  # `identity` of the files that this process has checked


class Checksum:
    """A binary file for writing that keeps the CRC-32 of what is written."""

    def __init__(self, file):
        self.file, self.crc = file, 0

    def write(self, content):
        self.crc = zlib.crc32(content, self.crc)
        return self.file.write(content)

    def flush(self):
        self.file.flush()


def save(state, file):
    """`torch.save` to a new binary file, with a seal."""
    checksum = Checksum(file)
    torch.save(state, checksum)
    file.seek(-2, os.SEEK_END)  # the length of the archive's comment, 0 so far
    file.write(SEALED.to_bytes(2, "little") + SEAL + b"%08x" % checksum.crc)


def load(path, device="cpu", mmap=None):
    """`torch.load` of an archive of tensors and plain values. ValueError if it is damaged or holds
    anything else: no bit of it is used before all bits are checked."""
    try:
        with open(path, "rb") as file:
            check_once(file)
        state = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except Exception as error:  # zipfile and torch raise many types of error for damaged bytes
        raise ValueError(" ".join(str(error).split())) from error
    check_tensors(state)
    return state


def identity(file):
    """What another content of an open file would change; None while the file is so new that it
    could change again within one tick of the file system's clock."""
    status = os.fstat(file.fileno())
    if time.time() - max(status.st_mtime, status.st_ctime) < SETTLED:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def check_once(file):
    """`check_archive`, unless this process has checked the same bytes: what resumes a run reads its
    checkpoint several times."""
    known = identity(file)
    if known not in whole:
        check_archive(file)
        whole.add(known)
        whole.discard(None)


def check_archive(file):
    """ValueError if the bytes of a zip archive are not those that were written, or if its records
    are larger than the file: compressed records can be."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - SEALED))
    sealed = file.read(SEALED)
    with zipfile.ZipFile(file) as archive:
        if sum(record.file_size for record in archive.infolist()) > size:
            raise ValueError("its records are compressed or overlap, which torch.save never does")
        if sealed.startswith(SEAL):
            check_seal(file, size, sealed)
        elif sealed[-22:-18] != END_RECORD or sealed[-2:] != bytes(2):
            raise ValueError("its end is damaged")
        elif record := archive.testzip():
            raise ValueError(f"its record {record} is damaged")


def check_seal(file, size, sealed):
    """ValueError if the seal is not that of the bytes before it."""
    file.seek(0)
    crc, rest = 0, size - SEALED - 2
    while rest:
        content = file.read(min(CHUNK, rest))
        crc, rest = zlib.crc32(content, crc), rest - len(content)
    length = file.read(2)
    seal = SEAL + b"%08x" % zlib.crc32(bytes(2), crc)  # `save` took the CRC before the length
    if length != SEALED.to_bytes(2, "little") or sealed != seal:
        raise ValueError("its checksum is not that of its bytes")


def check_tensors(state):
    """ValueError if a tensor is larger than what is stored of it: a tensor of stride 0 takes one
    number of the file and any amount of memory."""
    values, visited = [state], set()
    while values:
        value = values.pop()
        if id(value) in visited:  # a container may hold itself
            continue
        visited.add(id(value))
        if isinstance(value, dict):
            values += value.values()
        elif isinstance(value, list | tuple):
            values += value
        elif isinstance(value, torch.Tensor):
            dense = value.layout == torch.strided and not value.is_quantized
            if not dense or value.nbytes > value.untyped_storage().nbytes():
                raise ValueError("it holds a tensor that is larger than what is stored of it")


def refusal(path, problem):
    """The InputError for a damaged checkpoint. It names the older one beside it, if there is
    one."""
    older = path.with_name("checkpoint.previous.pt")
    problem, remedy = " ".join(str(problem).split()), "train it again"
    if path.name == "checkpoint.pt" and older.exists():
        remedy = f"an older one is {older}: rename it to {path.name}"
    return InputError(f"{path} is not a checkpoint of minirlhf, or is damaged: {problem}; {remedy}")
