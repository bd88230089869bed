"""The specification of run/progress.py: a loop that stops, for whatever reason, leaves a checkpoint
of its last whole step."""

import errno
import gc
import os
import signal
import weakref

import pytest
import torch

from minirlhf.run.config import Divergence, InputError
from minirlhf.run.metrics import Metrics, read_metrics
from minirlhf.run.progress import Progress


class Loop:
    """Six steps that each add 1 to a weight, in two optimiser steps of 1/2. `fail` is called with
    the step and the place in it: before, between and after the optimiser steps, and while the step
    is judged."""

    def __init__(self, folder, fail=lambda step, place: None, save_every=4, save_fails=None):
        self.folder, self.fail, self.save_every = folder, fail, save_every
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.saves, self.save_fails = [], save_fails

    def save(self, done):
        if self.save_fails:
            raise self.save_fails
        self.saves.append((done, self.weight.item()))

    def run(self, first=0):
        optimizer = torch.optim.SGD([self.weight], lr=0.5)
        state = {"step": first}
        with Progress(self.folder, state, 6, self.save_every, optimizer, self.save) as progress:
            for step in range(first, 6):
                self.fail(step, "before")
                self.weight.grad = -torch.ones(1)
                optimizer.step()
                self.fail(step, "between")
                optimizer.step()
                stats = {"loss": float(step)}
                progress.complete(step + 1, stats)
                self.fail(step, "judging")
                stats["judged"] = 1.0
                progress.record()


def failing(step, place, error):
    def fail(*now):
        if now == (step, place):
            raise error

    return fail


def test_a_loop_that_is_not_disturbed_logs_every_step_and_saves_where_that_is_due(tmp_path):
    loop = Loop(tmp_path)
    loop.run()
    assert loop.saves == [(4, 4.0), (6, 6.0)]
    assert [(line["step"], line["judged"]) for line in read_metrics(tmp_path)] == [
        (step, 1.0) for step in range(6)
    ]


@pytest.mark.parametrize("error", [InputError("the reward"), OSError(errno.EIO, "the disk")])
def test_an_error_before_the_weights_change_saves_the_steps_before_it(tmp_path, error):
    """A user's reward that fails at its tenth call: the nine updates before it were lost. The line
    has the error, and what the checkpoint holds."""
    loop = Loop(tmp_path, failing(2, "before", error))
    with pytest.raises(InputError) as stop:
        loop.run()
    assert loop.saves == [(2, 2.0)]
    line = str(stop.value)
    assert "the reward" in line or "the disk" in line
    assert f"{tmp_path / 'checkpoint.pt'} holds 2 of 6 steps" in line and "--resume" in line
    assert "\n" not in line
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1]


@pytest.mark.parametrize("error", [InputError("the reward"), ZeroDivisionError("a bug")])
def test_a_step_that_was_saved_is_not_saved_again(tmp_path, error):
    """It would take the place of the checkpoint before it, which --keep 1 keeps."""
    loop = Loop(tmp_path, failing(4, "before", error))
    with pytest.raises(type(error)):
        loop.run()
    assert loop.saves == [(4, 4.0)]
    loop = Loop(tmp_path, failing(4, "before", error))
    with pytest.raises(type(error)):
        loop.run(first=4)
    assert loop.saves == []


def test_the_disk_holds_the_metrics_of_a_step_before_it_holds_the_checkpoint(tmp_path, monkeypatch):
    """After a power failure a run goes on from the checkpoint: lines before it must be there."""
    held, fsync = [], os.fsync

    def seen(number):
        fsync(number)
        held.append(len(read_metrics(tmp_path)))

    monkeypatch.setattr(os, "fsync", seen)
    loop, lines = Loop(tmp_path), []
    save = loop.save
    loop.save = lambda done: (lines.append(held[-1]), save(done))
    loop.run()
    assert [done for done, _ in loop.saves] == lines == [4, 6]


def test_an_error_while_the_weights_change_saves_nothing(tmp_path):
    """They are those of no step: the run that is resumed would not be the same run."""
    loop = Loop(tmp_path, failing(5, "between", InputError("something")))
    with pytest.raises(InputError, match="holds 4 of 6 steps"):
        loop.run()
    assert loop.saves == [(4, 4.0)]


def test_a_resumed_run_compares_with_its_first_step_and_cuts_what_it_repeats(tmp_path, capsys):
    """An entropy that falls is one that falls from the first record. Samples behind the checkpoint
    are made again."""
    metrics, samples = Metrics(tmp_path), tmp_path / "samples.txt"
    for step in range(40):
        metrics.log(step, entropy=0.33 if step < 20 else 0.04)
    samples.write_text("after 40 updates\nafter 50 updates\n")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    state = {"step": 40, "samples_bytes": len("after 40 updates\n")}
    with Progress(tmp_path, state, 90, 90, optimizer, lambda done: None) as progress:
        assert samples.read_text() == "after 40 updates\n"
        for step in range(40, 45):
            progress.complete(step + 1, {"entropy": 0.02})
            progress.record()
    (line,) = capsys.readouterr().err.splitlines()
    assert "the entropy fell from 0.33 to 0.0" in line


def test_an_optimiser_that_outlives_the_loop_does_not_hold_it(tmp_path):
    """Fine-tuning after pretraining would hold what the first loop saved."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    with Progress(tmp_path, {"step": 0}, 1, 1, optimizer, lambda done: None) as progress:
        held = weakref.ref(progress)
    del progress
    gc.collect()
    assert held() is None


def test_an_evaluation_that_fails_costs_its_numbers_and_no_step(tmp_path):
    """The run used to die at its first evaluation before its first save, and --resume died there
    for ever. Now --resume goes on behind it."""
    loop = Loop(tmp_path, failing(2, "judging", InputError("cannot show this")))
    with pytest.raises(InputError, match="cannot show this.*holds 3 of 6 steps"):
        loop.run()
    assert loop.saves == [(3, 3.0)]
    assert read_metrics(tmp_path)[-1] == {"step": 2, "loss": 2.0, "weight_rms": 3.0}
    loop.run(first=3)
    assert loop.saves == [(3, 3.0), (4, 4.0), (6, 6.0)]
    lines = [(line["step"], "judged" in line) for line in read_metrics(tmp_path)]
    assert lines == [(step, step != 2) for step in range(6)]


def test_divergence_saves_nothing(tmp_path):
    """The weights before a loss that is not finite are finite, and bad."""
    loop = Loop(tmp_path, failing(5, "before", Divergence("loss is nan")))
    with pytest.raises(Divergence):
        loop.run()
    assert loop.saves == [(4, 4.0)]


def test_an_error_of_ours_keeps_its_traceback_and_saves_too(tmp_path, capsys):
    loop = Loop(tmp_path, failing(2, "before", ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        loop.run()
    assert loop.saves == [(2, 2.0)] and "holds 2 of 6 steps" in capsys.readouterr().err


def test_a_save_that_fails_keeps_the_error_and_says_what_there_is(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device", "out/ppo/checkpoint.pt")
    loop = Loop(tmp_path, save_every=4, save_fails=full)
    with pytest.raises(InputError) as stop:
        loop.run()
    line = str(stop.value)
    assert "out/ppo/checkpoint.pt: No space left on device; free some space" in line
    assert "nothing was saved yet" in line


def test_a_line_of_metrics_that_cannot_be_written_is_no_step_lost(tmp_path, monkeypatch):
    """The disk is full at step 2, and has room for a checkpoint: no half line stays."""
    log = Metrics.log

    def full(self, step, **numbers):
        if step == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.path))
        return log(self, step, **numbers)

    monkeypatch.setattr(Metrics, "log", full)
    loop = Loop(tmp_path)
    with pytest.raises(InputError, match=r"metrics.jsonl: No space left.*holds 3 of 6"):
        loop.run()
    assert loop.saves == [(3, 3.0)]


def test_a_folder_that_was_removed_meanwhile_is_not_said_to_hold_a_checkpoint(tmp_path):
    """It was: "holds 4 of 6 steps; the same command with --resume goes on"."""
    folder = tmp_path / "run"
    folder.mkdir()

    def remove(*now):
        if now == (4, "between"):
            (folder / "metrics.jsonl").unlink()
            folder.rmdir()
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", "checkpoint.pt")

    loop = Loop(folder, remove)
    with pytest.raises(InputError, match="run is gone, and its checkpoint with it: start again"):
        loop.run()
    assert loop.saves == [(4, 4.0)]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_saves_after_the_step_and_says_how_to_go_on(tmp_path, capsys, name):
    """Also where it comes while the step is judged. Its number is what the exit code tells."""
    number = getattr(signal, name)
    for place in ("before", "between", "judging"):

        def kill(*now, place=place):
            if now == (2, place):
                os.kill(os.getpid(), number)

        loop = Loop(tmp_path, kill)
        with pytest.raises(KeyboardInterrupt) as stop:
            loop.run()
        assert stop.value.args == (number,)
        assert loop.saves == [(3, 3.0)]
        message = capsys.readouterr().err
        assert f"{tmp_path / 'checkpoint.pt'} holds 3 of 6 steps" in message
        assert len(read_metrics(tmp_path)) == 3


def test_a_second_ctrl_c_stops_at_once_and_saves_nothing(tmp_path):
    def twice(*now):
        if now == (2, "before"):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    loop = Loop(tmp_path, twice)
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    assert loop.saves == [] and len(read_metrics(tmp_path)) == 2
