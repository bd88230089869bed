"""The specification of run/damage.py: of a damaged file no bit is used."""

import io
import json
import os
import random
import zipfile

import pytest
import torch

from minirlhf.formats.gpt2 import load_gpt2, save_gpt2
from minirlhf.run import damage
from minirlhf.run.checkpoint import load_gpt, save
from minirlhf.run.config import InputError
from minirlhf.tokenizer import get_tokenizer


def archive(state, write=damage.save):
    file = io.BytesIO()
    write(state, file)
    return file.getvalue()


@pytest.fixture
def load(tmp_path):
    """load(bytes) -> what `damage.load` gives of a file with these bytes."""

    def load_bytes(content):
        (tmp_path / "file.pt").write_bytes(content)
        return damage.load(tmp_path / "file.pt")

    return load_bytes


def flipped(content, bit):
    content = bytearray(content)
    content[bit // 8] ^= 1 << bit % 8
    return bytes(content)


STATE = {"step": 3, "weights": torch.arange(20.0), "nested": {"list": [torch.ones(2, 3)]}}


def test_what_is_saved_is_loaded(load):
    """With the seal, and as other programs write it, without."""
    for write in (damage.save, torch.save):
        state = load(archive(STATE, write))
        assert state["step"] == 3 and torch.equal(state["weights"], STATE["weights"])


def test_a_sealed_file_is_one_that_torch_reads(tmp_path):
    """The seal is a comment of the archive: nothing of ours is needed to read the weights."""
    path = tmp_path / "file.pt"
    path.write_bytes(archive(STATE))
    assert torch.load(path, weights_only=True)["step"] == 3
    with zipfile.ZipFile(path) as file:
        assert file.comment.startswith(b"minirlhf crc32 ") and file.testzip() is None


def test_no_bit_of_a_sealed_file_can_flip_unnoticed(load):
    """In the numbers, in names, in what fills the space between records, in the seal itself:
    200 of them and every bit of the last 100 bytes. Of 200 such files torch.load took 191."""
    content = archive(STATE)
    bits = random.Random(1).sample(range(len(content) * 8), 200)
    for bit in [*bits, *range(len(content) * 8 - 800, len(content) * 8)]:
        with pytest.raises(ValueError):
            load(flipped(content, bit))


def test_a_file_is_checked_once_until_it_changes(tmp_path, monkeypatch):
    """Also where the change keeps its size and its time, and where it comes so soon that the file
    system's clock has not moved on."""
    path, checks = tmp_path / "file.pt", []
    content, check = archive(STATE), damage.check_archive
    monkeypatch.setattr(damage, "check_archive", lambda file: checks.append(check(file)))
    path.write_bytes(content)
    for expected in (1, 2):  # while it is new
        damage.load(path)
        assert len(checks) == expected
    monkeypatch.setattr(damage, "SETTLED", 0)
    for _ in range(3):
        damage.load(path)
    assert len(checks) == 3
    status = path.stat()
    path.write_bytes(flipped(content, 4000))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(ValueError):
            damage.load(path)


def test_without_a_seal_no_number_can_flip_unnoticed(load):
    """As in a file of another program: each record has its checksum."""
    content = archive(STATE, torch.save)
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        start = content.index(STATE["weights"].numpy().tobytes())
        assert file.testzip() is None
    for bit in range(start * 8, (start + 80) * 8):
        with pytest.raises(ValueError, match="damaged|checksum"):
            load(flipped(content, bit))


def test_a_file_that_was_cut_or_goes_on_is_refused(load):
    """Wherever it is cut, and with bytes behind it."""
    content = archive(STATE)
    for size in (0, 1, 100, len(content) // 2, len(content) - 23, len(content) - 1):
        with pytest.raises(ValueError):
            load(content[:size])
    with pytest.raises(ValueError):
        load(content + b"x")


def test_records_that_are_larger_than_the_file_are_refused_unread(load):
    """Two gigabytes of zeros compress to two megabytes; torch would unpack them."""
    source = io.BytesIO(archive({"weights": torch.zeros(1_000_000)}, torch.save))
    target = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert len(target.getvalue()) < 10_000
    with pytest.raises(ValueError, match="compressed"):
        load(target.getvalue())


def test_a_tensor_that_is_larger_than_what_is_stored_of_it_is_refused(load):
    """A stride of 0 makes a terabyte of four bytes, as soon as somebody reads it."""
    for tensor in (torch.zeros(1).expand(10**12), torch.zeros(3, 3).to_sparse()):
        with pytest.raises(ValueError, match="larger than what is stored"):
            load(archive({"a": [{"b": (tensor,)}]}))


def test_a_container_that_holds_itself_does_not_hang(load):
    """A pickle can describe one."""
    state = {"step": 1}
    state["self"] = [state]
    assert load(archive(state))["step"] == 1


def test_of_200_flipped_bits_in_a_policy_none_is_used(tmp_path, make_gpt):
    """In the checkpoint as the commands load it: one line that names the file, and the checkpoint
    before it where there is one."""
    gpt = make_gpt(vocab_size=get_tokenizer().vocab_size)
    save(tmp_path, "sft", gpt.config, get_tokenizer(), 1, model=gpt)
    path = tmp_path / "checkpoint.pt"
    content = path.read_bytes()
    (tmp_path / "checkpoint.previous.pt").write_bytes(content)
    for bit in random.Random(2).sample(range(len(content) * 8), 200):
        path.write_bytes(flipped(content, bit))
        with pytest.raises(InputError) as error:
            load_gpt(tmp_path)
        message = str(error.value)
        assert message.startswith(f"{path} is not a checkpoint of minirlhf, or is damaged")
        assert "checkpoint.previous.pt: rename it to checkpoint.pt" in message
        assert "\n" not in message


def test_another_file_of_a_run_is_no_older_checkpoint(tmp_path):
    """Whoever renamed the checkpoint to metrics.jsonl would lose both."""
    (tmp_path / "metrics.jsonl").write_text("{}")
    (tmp_path / "checkpoint.pt").touch()
    (tmp_path / "checkpoint.previous.pt").write_text("damaged")
    with pytest.raises(InputError, match="previous.pt is not a checkpoint .*; train it again$"):
        load_gpt(tmp_path / "checkpoint.previous.pt")
    with pytest.raises(InputError, match="metrics.jsonl is not a checkpoint .*; train it again$"):
        load_gpt(tmp_path / "metrics.jsonl")


def test_of_200_flipped_bits_in_exported_weights_none_is_used(tmp_path, make_gpt):
    """safetensors have no checksum. `save_gpt2` writes one, of the weights and of the sizes in
    config.json: 4 heads in place of 2 would fit the same weights. A flipped bit is found, or (in
    the checksum's own name, in a space) the weights are to the bit what was saved."""
    gpt = make_gpt(vocab_size=64)
    save_gpt2(gpt, tmp_path)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    for bit in random.Random(3).sample(range(len(content) * 8), 200):
        path.write_bytes(flipped(content, bit))
        try:
            loaded = load_gpt2(tmp_path).state_dict()
        except InputError:
            continue
        assert all(torch.equal(loaded[name], x) for name, x in gpt.state_dict().items())
    path.write_bytes(content)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_head": 4}))
    with pytest.raises(InputError, match="its checksum is not that of its weights and of config"):
        load_gpt2(tmp_path)
