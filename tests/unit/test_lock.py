"""The specification of run/lock.py: one writer a folder, and no lock outlives its process."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from minirlhf.run import lock as lock_module
from minirlhf.run.config import InputError
from minirlhf.run.lock import lock

HOLDER = """if True:
    import os, sys, time
    from minirlhf.run.lock import lock
    with lock(sys.argv[1]):
        child = len(sys.argv) > 2 and os.fork()
        if not child:  # the child says so, when it runs
            print("locked", flush=True)
        time.sleep(600)
"""


@pytest.fixture
def holder():
    """holder(folder, ...) starts a process that holds the lock of a folder; with another word it
    has a child that sleeps."""
    processes = []

    def start(*words):
        command = [sys.executable, "-c", HOLDER, *map(str, words)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        processes.append(process)
        assert process.stdout.readline() == b"locked\n"
        return process

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_another_process_is_refused_and_told_which_one_writes(tmp_path, holder):
    process = holder(tmp_path)
    with pytest.raises(InputError, match=f"is being written by process {process.pid} on"):
        lock(tmp_path).__enter__()


@pytest.mark.parametrize("child", [[], ["child"]])
def test_the_lock_of_a_process_that_was_killed_is_not_in_the_way(tmp_path, holder, child):
    """A lock that is a file with a number in it would be there for ever. A child that a user's
    reward has forked, and that lives on, does not hold it either."""
    process = holder(tmp_path, *child)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with lock(tmp_path):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on")


def test_the_lock_ends_with_its_block_whatever_ended_that(tmp_path):
    """A notebook runs a stage again after an error. Two threads are two writers."""
    with pytest.raises(ZeroDivisionError), lock(tmp_path):
        with pytest.raises(InputError, match=f"process {os.getpid()}"):
            lock(tmp_path).__enter__()
        raise ZeroDivisionError
    with lock(tmp_path):
        pass


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    """It would have the run write into any file of its user's."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").symlink_to(precious)
    with pytest.raises(OSError, match="lock"):
        lock(tmp_path / "run").__enter__()
    assert precious.read_text() == "mine"


def test_a_file_of_somebodys_own_in_the_place_of_the_lock_is_not_written(tmp_path):
    """It was emptied. What a run has left there, or an empty file, is not in the way."""
    for content in (b"my list\n", b"\x00\xff", b"process 3 on here\nmore\n", b"x" * 10_000):
        (tmp_path / "lock").write_bytes(content)
        with pytest.raises(InputError, match="lock was not written by a run"):
            lock(tmp_path).__enter__()
        assert (tmp_path / "lock").read_bytes() == content
    for content in (b"", b"process 3 on here\n", b"process 3 on here"):
        (tmp_path / "lock").write_bytes(content)
        with lock(tmp_path):
            pass


@pytest.mark.parametrize("missing", ["fcntl", "flock"])
def test_where_nothing_can_be_locked_that_is_said(tmp_path, monkeypatch, capsys, missing):
    """Windows has no fcntl, and some network file systems have no locks. The run goes on; it does
    not claim what it cannot hold."""
    if missing == "fcntl":
        monkeypatch.setattr(lock_module, "fcntl", None)
    else:
        monkeypatch.setattr(lock_module.fcntl, "flock", unsupported)
    with lock(tmp_path):
        message = capsys.readouterr().err
    assert "cannot be locked" in message and message.count("\n") == 1


def unsupported(*_):
    raise OSError(lock_module.UNSUPPORTED[0], "No locks available")
