"""Runs that are stopped from outside or inside, in one process. The same with real ones, and many
more of them, is tests/faults/faults.py."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import contents, logged, saved

import train_ppo
import train_rm
import train_sft
from minirlhf.run import checkpoint, config
from minirlhf.run.metrics import Metrics, read_metrics
from minirlhf.tools import dpo as dpo_command

ROOT = Path(__file__).parents[2]
COMMON = "--max-new-tokens 4 --save-every 2".split()
PPO = "--updates 9 --batch-size 6 --minibatches 4 --held-out 4 --eval-every 3"
STAGES = {
    "sft": (train_sft, "demonstrations", "--context 32 --batch-size 18 --epochs 3"),
    "rm": (train_rm, "comparisons", "--batch-size 18 --epochs 3 --norm-prompts 4"),
    "ppo": (train_ppo, "prompts", PPO),
    "dpo": (dpo_command, "comparisons", "--batch-size 18 --epochs 3"),
}


@pytest.fixture
def command(out, colours, small_models, capsys):
    """command(stage, ...) -> (exit code, last line of stderr) of a stage on the colours."""

    def run(stage, *more):
        script, records, flags = STAGES[stage]
        argv = ["--out", str(out), "--data", str(colours / f"{records}.jsonl"), *flags.split()]
        argv += COMMON if stage != "dpo" else COMMON[2:]
        capsys.readouterr()
        try:
            config.run(lambda: script.main([*argv, *more]))
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, (capsys.readouterr().err.strip() or "\n").splitlines()[-1]

    return run


@pytest.fixture
def reward(tmp_path, monkeypatch):
    """The path of a module my_rewards whose function `reward` fails at its k-th call, as
    my_rewards.k says, in a library that it calls."""
    path = tmp_path / "my_rewards.py"
    path.write_text(
        "import json\n\nk, calls = 0, []\n\n\ndef reward(prompts, responses):\n"
        "    calls.append(prompts)\n    if len(calls) == k:\n        json.loads('{')\n"
        "    return [float(len(calls)) for _ in prompts]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    import my_rewards

    yield my_rewards
    sys.modules.pop("my_rewards")


def test_a_reward_that_fails_late_costs_no_update(out, command, reward):
    """At call 10, after six updates and two evaluations: they used to be lost since the last save.
    The line has the user's file and line, and not those of a library; --resume goes on."""
    reward.k = 10
    more = ["--reward", "my_rewards:reward", "--missing-end-score", "-1", "--save-every", "100"]
    code, line = command("ppo", *more)
    assert code == 2 and line.startswith("error: --reward my_rewards:reward failed at ")
    assert f"{reward.__file__}, line 9: JSONDecodeError: Expecting property name" in line
    updates = saved(out / "ppo")["step"]
    assert updates == len(logged(out / "ppo")) == 6 and f"holds {updates} of 9 steps" in line
    assert command("ppo", *more, "--resume")[0] == 0
    assert len(logged(out / "ppo")) == 9


def test_an_evaluation_that_fails_does_not_stop_the_run_for_ever(out, command, reward):
    """The first evaluation is call 5: one before the run, three updates. --resume goes on behind
    it, where a run that had saved nothing died at the same place again."""
    reward.k = 5
    more = ["--reward", "my_rewards:reward", "--missing-end-score", "-1"]
    code, line = command("ppo", *more)
    assert code == 2 and "holds 3 of 9 steps" in line
    assert command("ppo", *more, "--resume")[0] == 0
    evaluated = ["eval_score" in line for line in read_metrics(out / "ppo")]
    assert evaluated == [False] * 5 + [True] + [False] * 2 + [True]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_is_full_costs_one_line_and_no_checkpoint(
    out, command, monkeypatch, stage, number
):
    """From the second save on, nothing can be written; torch calls that "unexpected pos 704 vs
    598". The first checkpoint is whole, the folder and the remedy are named, and when there is
    space again --resume goes on."""
    fsync = os.fsync

    def full(descriptor):
        if len(logged(out / stage)) == 4:  # the second save
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, line = command(stage, "--overwrite")
    assert code == 2 and line.startswith(f"error: {out / stage}/")
    assert f": {os.strerror(number)}; " in line
    assert {errno.ENOSPC: "free some space", errno.EROFS: "make it writable"}[number] in line
    assert "holds 2 of" in line and saved(out / stage)["step"] == 2
    assert not list((out / stage).glob("*.tmp"))
    assert command(stage, "--resume")[0] == 0


@pytest.mark.parametrize("stage", STAGES)
def test_a_scheduler_may_stop_a_run(out, command, monkeypatch, stage):
    """SIGTERM while a step is logged: saved after the step, exit code 143, and the line says how to
    go on."""
    log = Metrics.log

    def log_and_kill(self, step, **numbers):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return log(self, step, **numbers)

    monkeypatch.setattr(Metrics, "log", log_and_kill)
    code, _ = command(stage, "--overwrite")
    assert code == 143 and saved(out / stage)["step"] == 3


@pytest.mark.parametrize("stage", ["sft", "ppo", "rm"])
def test_a_finished_run_that_is_resumed_changes_no_file(out, command, stage):
    """samples.txt used to get its last table again, each time. config.json says that it was
    resumed."""
    command(stage, "--overwrite")
    before = contents(out)
    assert command(stage, "--resume")[0] == 0
    after = contents(out)
    changed = {path.name for path in before if before[path] != after[path]}
    assert changed <= {"config.json"} and before.keys() == after.keys()


def test_a_stage_runs_in_another_thread(out, colours, small_models):
    """A notebook's. It died of its signal handlers after it had removed the old run."""
    script, records, flags = STAGES["dpo"]
    argv = ["--out", str(out), "--data", str(colours / f"{records}.jsonl"), *flags.split()]
    thread = threading.Thread(target=script.main, args=[argv])
    thread.start()
    thread.join()
    assert saved(out / "dpo")["step"] == 9


def test_the_checkpoint_before_the_last_is_kept(out, command):
    """The last one may turn out to be worse, or damaged. --keep 0 saves the space."""
    command("dpo")
    previous = out / "dpo" / "checkpoint.previous.pt"
    assert [checkpoint.load(path, ("dpo",))["step"] for path in (previous, out / "dpo")] == [8, 9]
    command("dpo", "--overwrite", "--keep", "0")
    assert not previous.exists()


def test_processes_that_are_killed_and_resumed_end_as_if_nobody_had_disturbed_them():
    """A kill of each stage, by a signal or in the middle of a save. `make faults` has 30 of each,
    and disks, writers and damage."""
    command = [sys.executable, str(ROOT / "tests" / "faults" / "faults.py"), "kill", "--kills", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count("equal to the bit after them") == 4 and "\n0 failed" in done.stdout
