"""The specification of run/files.py: a file is written as a whole or not at all."""

import errno
import os
import secrets
import stat

import pytest

from minirlhf.run.config import InputError
from minirlhf.run.files import writable, write_atomically, write_text


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    """The disk is full in the middle of a save: the last checkpoint is whole, and no part of the
    new one stays."""
    path = tmp_path / "checkpoint.pt"
    write_text(path, "old")

    def full(file):
        file.write(b"ne")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, full)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_of_two_writers_at_once_one_wins_as_a_whole(tmp_path):
    """With one temporary name for both, the second would write into the first one's file, and take
    it away."""
    path = tmp_path / "checkpoint.pt"

    def slow(file):
        file.write(b"slow")
        write_text(path, "another writer")
        assert path.read_text() == "another writer"
        file.write(b" writer")

    write_atomically(path, slow)
    assert path.read_text() == "slow writer"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """If a file is renamed before it is flushed, it may be empty after a power failure. If the
    folder is not, the file may have its old content again."""
    order = []
    fsync, replace = os.fsync, os.replace

    def flushed(number):
        folder = stat.S_ISDIR(os.fstat(number).st_mode)
        order.append(("fsync folder",) if folder else ("fsync", os.fstat(number).st_size))
        fsync(number)

    def renamed(old, new):
        order.append(("replace", os.path.getsize(old)))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    write_text(tmp_path / "new folder" / "config.json", "hello")
    assert order == [("fsync", 5), ("replace", 5), ("fsync folder",)]
    assert (tmp_path / "new folder" / "config.json").read_text() == "hello"


@pytest.mark.parametrize("links", [True, False])
def test_the_old_file_stays_under_another_name_where_one_is_given(tmp_path, monkeypatch, links):
    """`checkpoint.previous.pt`. At no moment is there no file at all, on a file system without hard
    links either."""
    path, previous = tmp_path / "a", tmp_path / "b"
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    for text in ("first", "second", "third"):
        write_atomically(path, lambda file, text=text: file.write(text.encode()), previous)
        assert path.read_text() == text
    assert previous.read_text() == "second"
    assert sorted(tmp_path.iterdir()) == [path, previous]
    replace = os.replace

    def look(old, new):
        assert path.read_text() == "third"
        replace(old, new)

    monkeypatch.setattr(os, "replace", look)
    write_atomically(path, lambda file: file.write(b"fourth"), previous)


def no_links(*_):
    raise PermissionError(errno.EPERM, "no links here")


def test_a_write_that_fails_keeps_the_previous_file_too(tmp_path):
    """Both are good checkpoints: a full disk costs neither."""
    path, previous = tmp_path / "a", tmp_path / "b"
    for text in ("first", "second"):
        write_atomically(path, lambda file, text=text: file.write(text.encode()), previous)
    with pytest.raises(RuntimeError):
        write_atomically(path, fail, previous)
    assert (path.read_text(), previous.read_text()) == ("second", "first")


def fail(file):
    file.write(b"thi")
    raise RuntimeError("in the middle")


def test_the_temporary_file_is_new_and_its_name_cannot_be_guessed(tmp_path, monkeypatch):
    """In a folder that others can write, a link with the right name would have the run write into
    any file of its user's. A name that is taken is an error, and the other file is untouched."""
    names, precious = set(), tmp_path / "precious"
    precious.write_text("mine")

    def look(file):
        names.add(os.path.basename(file.name))
        file.write(b"text")

    for _ in range(9):
        write_atomically(tmp_path / "a", look)
    assert len(names) == 9 and all(len(name) == len("a..tmp") + 16 for name in names)
    monkeypatch.setattr(secrets, "token_hex", lambda n: "0" * 2 * n)
    (tmp_path / f"a.{'0' * 16}.tmp").symlink_to(precious)
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "a", "other text")
    assert precious.read_text() == "mine" and (tmp_path / "a").read_text() == "text"


def test_an_error_of_the_disk_is_shown_as_one_with_the_path(tmp_path):
    """torch turns it into "unexpected pos 704 vs 598" (inline_container.cc:672), which nobody takes
    for a full disk."""

    def hidden(file):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904

    with pytest.raises(OSError, match="No space left") as error:
        write_atomically(tmp_path / "a", hidden)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path / "a"))
    assert not list(tmp_path.iterdir())


BEGIN = '{\n  "policy": '


@pytest.mark.parametrize("name", ["new.json", "a/new.json", "empty.json", "older.json"])
def test_a_result_may_go_to_a_new_file_or_replace_an_older_result(tmp_path, name):
    """The file is not made before there is something to write."""
    (tmp_path / "empty.json").touch()
    (tmp_path / "older.json").write_text(BEGIN + '"p"}')
    there = (tmp_path / name).exists()
    writable("--to", tmp_path / name, BEGIN)
    assert (tmp_path / name).exists() == there
    assert (tmp_path / "older.json").read_text() == BEGIN + '"p"}'


@pytest.mark.parametrize("begin", [None, BEGIN])
def test_a_result_never_replaces_somebodys_data(tmp_path, begin):
    """Not even through a link. A result of one's own that is never replaced has no beginning."""
    path, link = tmp_path / "prompts.jsonl", tmp_path / "link"
    path.write_text('{"prompt": "p"}\n')
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(InputError, match=f"--to {name} .*name another file"):
            writable("--to", name, begin)
    assert path.read_text() == '{"prompt": "p"}\n'


@pytest.mark.parametrize("name", ["folder", "/dev/null", "pipe", "prompts.jsonl/x"])
def test_what_is_no_file_is_refused_as_a_result(tmp_path, name):
    """A device would be replaced by a file."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "prompts.jsonl").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="--to .*; name a file"):
        writable("--to", tmp_path / name, BEGIN)
