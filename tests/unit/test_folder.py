"""The specification of run/folder.py: what a run may replace, and what it never touches."""

import contextlib
import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import torch
from helpers import Config, contents

from minirlhf.run import checkpoint
from minirlhf.run import folder as folder_module
from minirlhf.run.config import InputError, flag
from minirlhf.run.files import write_text
from minirlhf.run.folder import RUN_FILES, start_run
from minirlhf.tokenizer import get_tokenizer


@pytest.fixture
def tokenizer():
    return get_tokenizer()


def refusal(call, *args, **named):
    """The message of an InputError, which is one line."""
    with pytest.raises(InputError) as error:
        call(*args, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


@dataclasses.dataclass(frozen=True)
class Reader(Config):
    """A stage that reads files."""

    data: str = flag("", "records")
    sft: str = flag("", "policy")


def start(tmp_path, tokenizer, *argv, stages=("sft", "pretrain")):
    """(args, folders) of a run that is started with the flags `argv`."""
    args = checkpoint.configure(Config, "sft", ["--out", str(tmp_path), *argv])
    with start_run(args, tokenizer, *stages) as folders:
        return args, folders


def test_a_run_records_what_it_is(tmp_path, tokenizer):
    """--resume reads config.json, and so does a person who finds an old folder."""
    args, folders = start(tmp_path, tokenizer, "--steps", "9")
    assert folders == [tmp_path / "sft", tmp_path / "pretrain"]
    record = json.loads((tmp_path / "pretrain" / "config.json").read_text())
    assert (record["stage"], record["tokenizer"]) == ("pretrain", "tiny")
    assert record["flags"]["steps"] == 9
    assert set(record["flags"]) == {field.name for field in dataclasses.fields(Config)}
    versions = record["versions"]
    assert (versions["torch"], versions["numpy"]) == (torch.__version__, np.__version__)


@pytest.mark.parametrize("stage", ["sft", "pretrain"])
def test_an_existing_run_is_refused_before_anything_is_touched(tmp_path, tokenizer, stage):
    """Even where only the second of a script's folders holds one."""
    write_text(tmp_path / stage / "config.json", "{}")
    for name in RUN_FILES:
        write_text(tmp_path / stage / name, "precious")
    files = contents(tmp_path)
    message = refusal(start, tmp_path, tokenizer)
    assert str(tmp_path / stage) in message and "--resume" in message and "--overwrite" in message
    assert contents(tmp_path) == files


def test_overwrite_replaces_a_run_and_nothing_beside_it(tmp_path, tokenizer):
    """A user's notes in the folder stay. All files of the old run go: its checkpoint would be taken
    for one of the new run."""
    start(tmp_path, tokenizer, "--steps", "9")
    for name in (*RUN_FILES, "notes.txt"):
        write_text(tmp_path / "sft" / name, "old")
    start(tmp_path, tokenizer, "--overwrite")
    names = sorted(path.name for path in (tmp_path / "sft").iterdir())
    assert names == ["config.json", "lock", "notes.txt"]
    assert json.loads((tmp_path / "sft" / "config.json").read_text())["flags"]["steps"] == 6


@pytest.mark.parametrize("name", ["data", "sft"])
@pytest.mark.parametrize("link", [False, True])
def test_a_run_never_replaces_what_it_reads(tmp_path, name, link):
    """`--data OUT/rm/comparisons.jsonl` used to be removed before it was read, through a symbolic
    link as well; `--sft OUT/ppo` into OUT measures the KL from a policy that is gone."""
    file = tmp_path / "rm" / ("comparisons.jsonl" if name == "data" else "checkpoint.pt")
    file.parent.mkdir()
    file.write_text("labels")
    path = file if name == "data" else file.parent
    if link:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    argv = ["--out", str(tmp_path), f"--{name}", str(path), "--overwrite"]
    message = refusal(checkpoint.configure, Reader, "rm", argv)
    assert f"--{name} {path}" in message and "another --out" in message
    assert file.read_text() == "labels"


def test_a_file_that_no_run_has_written_is_never_removed(tmp_path, tokenizer):
    """A checkpoint without a config.json beside it, and comparisons in the folder of a run that did
    not collect any: neither --overwrite nor its absence touches them."""
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "checkpoint.pt").write_text("mine")
    for argv in ([], ["--overwrite"]):
        message = refusal(start, tmp_path, tokenizer, *argv)
        assert f"{tmp_path / 'sft' / 'checkpoint.pt'} was not written by a run" in message
    assert (tmp_path / "sft" / "checkpoint.pt").read_text() == "mine"
    (tmp_path / "sft" / "checkpoint.pt").unlink()
    start(tmp_path, tokenizer)
    config = tmp_path / "sft" / "config.json"
    record = json.loads(config.read_text())
    config.write_text(json.dumps(record | {"flags": record["flags"] | {"data": "mine.jsonl"}}))
    (tmp_path / "sft" / "comparisons.jsonl").write_text("labels")
    assert "comparisons.jsonl was not" in refusal(start, tmp_path, tokenizer, "--overwrite")
    assert (tmp_path / "sft" / "comparisons.jsonl").read_text() == "labels"


def test_the_config_of_another_program_is_never_replaced(tmp_path, tokenizer):
    """A folder of transformers' has one. "continue it with --resume, replace it with --overwrite"
    was the answer, and --overwrite replaced it. A damaged one of ours is another matter."""
    path = tmp_path / "sft" / "config.json"
    path.parent.mkdir()
    path.write_text('{"model_type": "gpt2"}')
    for argv in ([], ["--overwrite"]):
        message = refusal(start, tmp_path, tokenizer, *argv)
        assert f"{path} was not written by a run" in message and "another --out" in message
        assert path.read_text() == '{"model_type": "gpt2"}'
    for damaged in ("", "{", "{}", '{"flags": 3}', '{"stage": "sft"}'):
        path.write_text(damaged)
        assert "--overwrite" in refusal(start, tmp_path, tokenizer)
        start(tmp_path, tokenizer, "--overwrite")


def test_a_link_to_nowhere_is_not_written_through(tmp_path, tokenizer):
    """samples.txt as a link that somebody put there would make a file where it points. Without a
    run it is refused; of an old run it is removed."""
    victim, link = tmp_path / "victim", tmp_path / "sft" / "samples.txt"
    link.parent.mkdir()
    link.symlink_to(victim)
    assert "samples.txt was not written by a run" in refusal(start, tmp_path, tokenizer)
    link.unlink()
    start(tmp_path, tokenizer)
    link.symlink_to(victim)
    start(tmp_path, tokenizer, "--overwrite")
    assert not link.is_symlink() and not victim.exists()


def moments(monkeypatch, names=("replace", "unlink", "link", "mkdir", "rmdir", "truncate")):
    """fail_at(k) has the k-th change that a folder would see end the process, as `kill -9` does.
    It returns a list of the changes so far."""
    real = {name: getattr(os, name) for name in names}

    def fail_at(k):
        changes = []

        def counted(name):
            def change(*args, **options):
                changes.append(name)
                if len(changes) == k:
                    raise Killed
                return real[name](*args, **options)

            return change

        for name in names:
            monkeypatch.setattr(os, name, counted(name) if k else real[name])
        return changes

    return fail_at


class Killed(BaseException):
    """No `except Exception` sees it."""


def test_an_overwrite_that_was_killed_never_leaves_a_mixture_of_two_runs(
    tmp_path, tokenizer, monkeypatch
):
    """At 7 of 13 moments --resume used to go on with files of both runs, exit code 0. At each
    moment it finds the old run whole, no run that can be resumed, or the new run with none of the
    old files. The same command then starts the new one."""
    fail_at, outcomes = moments(monkeypatch), set()
    for k in range(1, 31):
        fail_at(0)
        for stage in ("sft", "pretrain"):
            shutil.rmtree(tmp_path / stage, ignore_errors=True)
        start(tmp_path, tokenizer, "--steps", "9")
        for stage in ("sft", "pretrain"):
            for name in RUN_FILES:
                torch.save({}, tmp_path / stage / name)
        fail_at(k)
        with contextlib.suppress(Killed):
            start(tmp_path, tokenizer, "--steps", "7", "--overwrite")
        fail_at(0)
        outcomes.add(outcome(tmp_path, tokenizer))
        start(tmp_path, tokenizer, "--steps", "7", "--overwrite")
        assert outcome(tmp_path, tokenizer) == "new"
    assert outcomes == {"old", "none", "new"}


def test_a_new_run_that_was_killed_at_its_start_goes_on_or_starts_again(
    tmp_path, tokenizer, monkeypatch
):
    """With pretrain/config.json alone there was no run to resume and none to start: "already holds
    a run; continue it with --resume" and "there is no run to resume"."""
    fail_at = moments(monkeypatch)
    for k in range(1, 11):
        fail_at(0)
        for stage in ("sft", "pretrain"):
            shutil.rmtree(tmp_path / stage, ignore_errors=True)
        fail_at(k)
        with contextlib.suppress(Killed):
            start(tmp_path, tokenizer)
        fail_at(0)
        begun = (tmp_path / "sft" / "config.json").exists()
        assert begun or k < 6
        start(tmp_path, tokenizer, *["--resume"] * begun)
        assert (tmp_path / "pretrain" / "config.json").exists()


def outcome(tmp_path, tokenizer):
    """What --resume finds in the folders: the "old" run, the "new" one, or "none"."""
    try:
        args = checkpoint.configure(Config, "sft", ["--out", str(tmp_path), "--resume"])
    except InputError as error:
        assert "--overwrite" in str(error)
        return "none"
    files = {path.relative_to(tmp_path) for path in contents(tmp_path) if path.name in RUN_FILES}
    assert len(files) == {9: 2 * len(RUN_FILES), 7: 0}[args.steps]
    return {9: "old", 7: "new"}[args.steps]


def test_what_killed_runs_were_writing_is_removed_by_the_next_and_nothing_else(tmp_path, tokenizer):
    """A half-written checkpoint is as large as a whole one, and nobody else would remove it."""
    start(tmp_path, tokenizer)
    folder = tmp_path / "sft"
    leftover = [f"checkpoint.pt.{'0a' * 8}.tmp", f"config.json.{'0b' * 8}.tmp"]
    others = ["checkpoint.pt.tmp", f"mine.{'0a' * 8}.tmp", "checkpoint.pt.0a.tmp", "notes.tmp"]
    for name in [*leftover, *others]:
        (folder / name).write_text("text")
    start(tmp_path, tokenizer, "--resume")
    assert sorted(path.name for path in folder.glob("*.tmp")) == sorted(others)


def test_the_second_writer_of_a_folder_is_refused_before_it_writes(tmp_path, tokenizer):
    """Two runs in one folder mixed their metrics, and one died of the other's temporary file. The
    line names the process. A finished run is in nobody's way."""
    args = checkpoint.configure(Config, "sft", ["--out", str(tmp_path)])
    with start_run(args, tokenizer, "sft", "pretrain"):
        before = contents(tmp_path)
        for argv in (["--resume"], ["--overwrite"]):
            for stages in (("sft",), ("pretrain",)):
                message = refusal(start, tmp_path, tokenizer, *argv, stages=stages)
                assert f"process {os.getpid()} on" in message and str(tmp_path) in message
        assert contents(tmp_path) == before
    start(tmp_path, tokenizer, "--resume")


def test_a_run_that_ended_while_the_lock_was_taken_is_not_replaced(
    tmp_path, tokenizer, monkeypatch
):
    """Two are started at once without a flag: what the first check saw is out of date."""
    lock = folder_module.lock

    def slow(folder):
        (folder).mkdir(parents=True, exist_ok=True)
        write_text(folder / "config.json", "{}")
        return lock(folder)

    monkeypatch.setattr(folder_module, "lock", slow)
    assert "already holds a run" in refusal(start, tmp_path, tokenizer)
