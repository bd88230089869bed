"""Files of named tensors, as Hugging Face writes them: safetensors or a pickled .bin, in one piece
or in several with an index.

safetensors have no checksum. `write` puts one into the metadata, and `read` compares it.
"""

import hashlib
import json
import os
import zipfile
from pathlib import Path

import torch

from minirlhf.run import damage
from minirlhf.run.config import InputError
from minirlhf.run.files import write_atomically

FILES = ("model.safetensors", "pytorch_model.bin")  # with ".index.json" where it is in pieces
CHECKSUM = "minirlhf_sha256"  # in the metadata of a safetensors file
SAVE_AGAIN = "save the model again with GPT2LMHeadModel.save_pretrained"


def read(folder, config):
    """(path of a folder's weight file or of its index, {name: tensor}). InputError where there is
    none, or it cannot be read, or its checksum is not that of its tensors and of `config`."""
    path = find(folder)
    if path.suffix != ".json":
        tensors, checksum = read_file(path)
        if checksum and checksum != checksum_of(tensors, config):
            problem = "damaged: its checksum is not that of its weights and of config.json"
            raise InputError(f"{path}: {problem}; {SAVE_AGAIN}")
        return path, tensors
    tensors = {}
    for piece, names in pieces(path).items():
        content, _ = read_file(path.with_name(piece))
        if missing := names - content.keys():
            problem = f"{min(missing)} is missing, which {path.name} says is there"
            raise InputError(f"{path.with_name(piece)}: {problem}; {SAVE_AGAIN}")
        tensors |= content
    return path, tensors


def find(folder):
    """The weight file of a folder or the index of its pieces, the one that transformers takes."""
    for name in FILES:
        for path in (Path(folder) / name, Path(folder) / f"{name}.index.json"):
            if path.exists():
                return path
    problem = f"holds neither {FILES[0]} nor {FILES[1]}, in one piece or with an index"
    raise InputError(f"{folder}: {problem}; download one")


def pieces(path):
    """{name of a file: names of the tensors in it}, of an index. InputError if it is none, or if it
    names a file that does not lie beside it."""
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files = {}
        for name, file in places.items():
            files.setdefault(file, set()).add(name)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: no index of weights; {SAVE_AGAIN}") from error
    for file in files:
        beside = isinstance(file, str) and Path(file).name == file and file.isprintable()
        if not beside or Path(file).suffix != Path(path.name.removesuffix(".index.json")).suffix:
            raise InputError(f"{path}: names {file!r:.50}, no file beside it; {SAVE_AGAIN}")
        if not path.with_name(file).exists():
            problem = f"names {file}, which is missing"
            raise InputError(f"{path}: {problem}; is the download complete?")
    return files


def read_file(path):
    """(The tensors of a file by name, its checksum or None)."""
    try:
        tensors, checksum = load_file(path)
    except ImportError as error:
        remedy = "pip install minirlhf[hf]"
        raise InputError(f"{path}: reading it takes another package; {remedy}") from error
    except Exception as error:  # each format has many types of error for a file that was cut short
        remedy = "is the download complete? (a clone needs `git lfs pull`)"
        raise InputError(f"{path}: cannot be read; {remedy}") from error
    if not isinstance(tensors, dict) or not all(map(torch.is_tensor, tensors.values())):
        raise InputError(f"{path}: holds no weights by name; {SAVE_AGAIN}")
    return tensors, checksum


def load_file(path):
    """(What a weight file holds, its checksum or None). ImportError if safetensors is needed and
    not installed. The zip archive that newer .bin files are has checksums of its own."""
    if path.suffix == ".bin":
        if zipfile.is_zipfile(path):
            return damage.load(path), None
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        damage.check_tensors(tensors)
        return tensors, None
    import safetensors.torch  # the [hf] extra

    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    return safetensors.torch.load_file(path), metadata.get(CHECKSUM)


def checksum_of(tensors, config):
    """The SHA-256 of named tensors and of the sizes in `config`: what the logits depend on."""
    digest = hashlib.sha256(repr(config).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def write(tensors, folder, config):
    """Write model.safetensors, or pytorch_model.bin where the [hf] extra is missing, atomically.
    What a reader would take instead of it is removed. The tensors are contiguous, and none shares
    its memory with another."""
    folder = Path(folder)
    metadata = {"format": "pt", CHECKSUM: checksum_of(tensors, config)}
    try:
        from safetensors import torch as safetensors
    except ImportError:
        write_atomically(folder / "pytorch_model.bin", lambda file: torch.save(tensors, file))
        for path in folder.glob("model.safetensors*"):  # every reader prefers it
            path.unlink()
    else:

        def save(file):
            mode = os.fstat(file.fileno()).st_mode
            safetensors.save_file(tensors, file.name, metadata=metadata)
            os.chmod(file.name, mode)  # it makes a file that nobody else may read

        write_atomically(folder / "model.safetensors", save)
