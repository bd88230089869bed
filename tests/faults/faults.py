"""Kills, signals, a full disk, two writers and damage, with real processes: what a run survives.

    python tests/faults/faults.py                 every case, 30 kills a stage; prints the counts
    python tests/faults/faults.py --kills 2       fewer
    python tests/faults/faults.py kill --stages ppo dpo
    python tests/faults/faults.py soak            2,000 updates: memory and open files stay level

A run that was killed and resumed is held against one that nobody disturbed: checkpoint, metrics
(without the clock's readings), samples and comparisons are equal to the bit. Each run is a child of
this process, which has loaded torch already; its size is a toy's.
"""

import argparse
import builtins
import contextlib
import errno
import importlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))  # helpers
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from helpers import logged, same, saved

import train_ppo  # noqa: F401  (loaded once, for all children)
import train_rm  # noqa: F401
import train_sft  # noqa: F401
from minirlhf import model
from minirlhf.run import checkpoint, config, metrics
from minirlhf.tools import dpo  # noqa: F401
from minirlhf.world import writers

REWARDS = """
import os
calls = []
def short(prompts, responses):
    calls.append(len(prompts))
    if len(calls) == int(os.environ.get("FAIL_AT", "0")):
        raise ValueError("the tenth call")
    return [-len(response) / 10 for response in responses]
"""


class Stage(NamedTuple):
    name: str
    module: str
    flags: str
    folders: tuple  # that it writes
    inputs: tuple = ()  # folders of earlier stages

    def argv(self, out, *more):
        return ["--out", str(out), *self.flags.split(), *more]


STAGES = (
    Stage(
        "sft",
        "train_sft",
        "--documents 90 --demonstrations 90 --batch-size 8 --max-new-tokens 4 --warmup 2 "
        "--save-every 3 --eval-every 2",
        ("pretrain", "sft"),
    ),
    Stage(
        "rm",
        "train_rm",
        "--prompts 48 --responses 3 --batch-size 4 --held-out 6 --norm-prompts 8 "
        "--max-new-tokens 4 --warmup 2 --save-every 3",
        ("rm",),
        ("sft",),
    ),
    Stage(
        "ppo",
        "train_ppo",
        "--prompts 40 --updates 10 --batch-size 6 --minibatches 2 --held-out 4 "
        "--max-new-tokens 4 --eval-every 2 --save-every 3 --kl-target 1 --kl-horizon 50",
        ("ppo",),
        ("sft", "rm"),
    ),
    Stage("dpo", "minirlhf.tools.dpo", "--batch-size 4 --save-every 3", ("dpo",), ("sft", "rm")),
)
BY_NAME = {stage.name: stage for stage in STAGES}


# ---- processes


def start(stage, argv, log, fault=None):
    """The process id of a child that runs a stage. `fault()` is called in it before."""
    number = os.fork()
    if number:
        return number
    code = 70
    try:
        with open(log, "ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if fault:
            fault()
        config.run(lambda: importlib.import_module(stage.module).main(argv))
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(number):
    """The exit code of a child; minus the signal, if one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def run(stage, argv, log, fault=None):
    return wait(start(stage, argv, log, fault))


def last_line(log):
    lines = log.read_text(errors="replace").replace("\r", "\n").split("\n")
    return [line for line in lines if line.strip()][-1]


def one_line_error(log):
    """The last line of a log; "" if the log holds a traceback."""
    return "" if "Traceback" in log.read_text(errors="replace") else last_line(log)


# ---- what a run leaves


def differences(out, reference, stage):
    """The files in which two runs of a stage differ, the clock's readings aside; and files that
    should not be there."""
    found = []
    for folder in stage.folders:
        one, other = out / folder, reference / folder
        if not same(saved(one), saved(other)):
            found.append(f"{folder}/checkpoint.pt")
        if logged(one) != logged(other):
            found.append(f"{folder}/metrics.jsonl")
        for name in ("samples.txt", "comparisons.jsonl"):
            if read(one / name) != read(other / name):
                found.append(f"{folder}/{name}")
        found += [f"{folder}/{path.name}" for path in one.glob("*.tmp")]
    return found


def read(path):
    return path.read_bytes() if path.exists() else None


# ---- the cases


class Cases:
    """The undisturbed runs, a folder for the others, and how many cases passed."""

    def __init__(self, folder, kills, seed, stages=tuple(BY_NAME)):
        self.folder, self.kills, self.random = folder, kills, random.Random(seed)
        self.stages = [stage for stage in STAGES if stage.name in stages]
        self.base, self.log = folder / "base", folder / "log"
        self.passed, self.failed = Counter(), []
        (folder / "fault_rewards.py").write_text(REWARDS)
        sys.path.insert(0, str(folder))
        self.seconds, self.operations = {}, {}
        for stage in STAGES:
            counts = folder / f"{stage.name}.operations"
            fault = partial(at_operation, 0, None, counts)
            process = start(stage, stage.argv(self.base), self.log, fault)
            while not finished(process):
                time.sleep(0.01)
            self.seconds[stage.name] = processor_seconds(process)
            if code := wait(process):
                sys.exit(f"{stage.name} alone ends with {code}:\n{self.log.read_text()[-3000:]}")
            self.operations[stage.name] = len(counts.read_text())

    def out(self, stage, name="out"):
        """A new output folder that holds what a stage reads."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        for other in stage.inputs:
            shutil.copytree(self.base / other, self.folder / name / other)
        (self.folder / name).mkdir(exist_ok=True)
        return self.folder / name

    def check(self, kind, problem, detail=""):
        """Count a case; `problem` is empty if it passed."""
        if problem:
            self.failed.append(f"{kind}: {problem} {detail}")
            print(f"FAILED {self.failed[-1]}", flush=True)
        else:
            self.passed[kind] += 1


# ---- kills


def kill_cases(cases):
    """Runs that are killed, resumed and killed again, until there are enough kills; the last of
    them finishes, and what it leaves is what the undisturbed run has left."""
    for stage in cases.stages:
        kills = 0
        while kills < cases.kills:
            out, rest, how, code = cases.out(stage), cases.random.randint(1, 4), [], None
            while code != 0:
                resume = ["--resume"] if (out / stage.name / "config.json").exists() else []
                choice = choose(cases, stage) if rest > len(how) else None
                code = killed(stage, stage.argv(out, *resume), cases.log, choice)
                if code in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM):
                    how.append(choice)
                elif code:
                    break
            kills += len(how)
            print(f"{stage.name}: {kills} kills, the last {how}", flush=True)
            cases.passed[f"{stage.name}: kills"] += len(how)
            problem = last_line(cases.log) if code else differences(out, cases.base, stage)
            cases.check(f"{stage.name}: equal to the bit after them", problem, how)


def choose(cases, stage):
    """How the next process dies: by a signal after some computing, or by SIGKILL in the middle of
    an operation on files."""
    if cases.random.random() < 0.5:
        number = cases.random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        return number, cases.random.uniform(0, cases.seconds[stage.name])
    return None, cases.random.randint(1, cases.operations[stage.name])


def killed(stage, argv, log, choice):
    """The exit code of a run that dies as chosen, unless it has finished by then."""
    number, when = choice or (None, 0)
    if number is None:
        return run(stage, argv, log, partial(at_operation, when, signal.SIGKILL))
    process = start(stage, argv, log)
    while not finished(process) and processor_seconds(process) < when:
        time.sleep(0.002)
    os.kill(process, number)
    return wait(process)


def processor_seconds(process):
    """What a child has computed so far: a busy machine does not change what a delay means."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def finished(process):
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process, flags) is not None


def at_operation(k, number, counts=None):
    """Send this process a signal in the middle of its k-th operation on files: before a file is
    flushed, renamed or removed, in half of a checkpoint, in half of a line. `counts` is a file that
    gets a dot for each."""
    done = []

    def operation(halfway=lambda: None):
        done.append(None)
        if counts:
            with open(counts, "a") as file:
                file.write(".")
        if len(done) == k:
            halfway()
            os.kill(os.getpid(), number)

    def watched(call):
        return lambda *args, **options: (operation(), call(*args, **options))[1]

    for name in ("fsync", "replace", "unlink", "link", "truncate"):
        setattr(os, name, watched(getattr(os, name)))
    save, append = torch.save, metrics.append

    def save_half(state, file):
        content = io.BytesIO()
        save(state, content)
        content = content.getvalue()
        operation(lambda: (file.write(content[: len(content) // 2]), file.flush()))
        file.write(content)

    def append_half(path, text):
        operation(lambda: append(path, text[: len(text) // 2]))
        append(path, text)

    torch.save, metrics.append = save_half, append_half


# ---- a disk that is full or read-only


@contextlib.contextmanager
def disk(folder):
    """A small file system of its own at `folder`, and True. Whoever may not mount one gets False,
    and errors that are raised instead."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def disk_cases(cases):
    """The disk is full, or read-only, from the k-th save of a checkpoint on. One line names the
    file and the remedy, the last checkpoint is whole, and the resumed run is the undisturbed one.
    """
    for stage in cases.stages:
        for number in (errno.ENOSPC, errno.EROFS):
            for k in (1, 2):
                with disk(cases.folder / "disk") as mounted:
                    disk_case(cases, stage, number, k, mounted and number == errno.ENOSPC)


def disk_case(cases, stage, number, k, mounted):
    title = errno.errorcode[number] + ("" if mounted else " (simulated)")
    out = cases.out(stage, "disk/out")
    cases.log.write_bytes(b"")
    code = run(stage, stage.argv(out), cases.log, partial(spoil, out.parent, number, k, mounted))
    line = one_line_error(cases.log)
    good = code == 2 and os.strerror(number) in line and str(out) in line and "error: " in line
    (out.parent / "ballast").unlink(missing_ok=True)
    cases.check(title, "" if good else f"code {code} at save {k}: {last_line(cases.log)}")
    code = run(stage, stage.argv(out, "--resume"), cases.log)
    problem = differences(out, cases.base, stage) if code == 0 else last_line(cases.log)
    cases.check(f"{title}: resumed, equal to the bit", problem, f"{stage.name}, save {k}")


def spoil(folder, number, k, mounted):
    """In a child: the disk is spoilt when its k-th checkpoint is to be written."""
    saves, save, real_open = [], checkpoint.save, open

    def spoil_and_save(*args, **parts):
        saves.append(None)
        if len(saves) == k and mounted:
            fill(folder / "ballast")
        elif len(saves) == k:
            builtins.open = refuse
        save(*args, **parts)

    def refuse(path, mode="r", *args, **options):
        if str(path).startswith(str(folder)) and not mode.startswith("r"):
            raise OSError(number, os.strerror(number), str(path))
        return real_open(path, mode, *args, **options)

    checkpoint.save = spoil_and_save


def fill(path):
    """Write to a file until its disk is full."""
    with contextlib.suppress(OSError), open(path, "wb", 0) as file:
        while True:
            file.write(bytes(2**12))


# ---- signals, errors, two writers, damage


def signal_cases(cases):
    """Each signal lets the step finish and save, and is the exit code."""
    for stage in cases.stages:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            out = cases.out(stage)
            cases.log.write_bytes(b"")
            fault = partial(at_metrics, stage.folders[0], 4, number)
            code = run(stage, stage.argv(out), cases.log, fault)
            step = checkpoint.stored_step(out / stage.folders[0], stage.folders[0])
            good = code == 128 + number and step == 5
            cases.check("signals", "" if good else f"{number.name}: code {code}, step {step}")
            code = run(stage, stage.argv(out, "--resume"), cases.log)
            problem = differences(out, cases.base, stage) if code == 0 else last_line(cases.log)
            cases.check("signals: resumed, equal to the bit", problem, number.name)


def at_metrics(folder, step, number):
    """Send this process a signal when it logs a step."""
    log = metrics.Metrics.log

    def log_and_kill(self, current, **numbers):
        if (self.path.parent.name, current) == (folder, step):
            os.kill(os.getpid(), number)
        return log(self, current, **numbers)

    metrics.Metrics.log = log_and_kill


def reward_cases(cases):
    """A user's reward fails at its k-th call, in training or in an evaluation: the updates so far
    are saved, and the line has the file and the line of the user's code."""
    stage = BY_NAME["ppo"]
    more = ["--reward", "fault_rewards:short", "--missing-end-score", "-1"]
    reference = cases.out(stage, "reward")
    run(stage, stage.argv(reference, *more), cases.log)
    for k in range(2, 14):
        out = cases.out(stage)
        cases.log.write_bytes(b"")
        fault = partial(os.environ.__setitem__, "FAIL_AT", str(k))
        code = run(stage, stage.argv(out, *more), cases.log, fault)
        line = one_line_error(cases.log)
        words = (str(cases.folder / "fault_rewards.py"), "line 7", "ValueError: the tenth call")
        good = code == 2 and all(word in line for word in words)
        cases.check("a reward that fails", "" if good else f"code {code}: {last_line(cases.log)}")
        code = run(stage, stage.argv(out, "--resume"), cases.log)
        found = differences(out, reference, stage) if code == 0 else [last_line(cases.log)]
        if k % 3 == 1:  # in an evaluation, whose numbers and samples are lost
            one, other = saved(out / "ppo"), saved(reference / "ppo")
            names = one.keys() - {"samples_bytes"}
            found = [name for name in names if not same(one[name], other[name])]
        cases.check("a reward that fails: resumed, equal to the bit", found, f"call {k}")


def lock_cases(cases):
    """Two writers: of a run that is alive --resume and --overwrite are refused, and the run ends as
    if nobody had tried. After `kill -9` nothing is in the way."""
    for stage in cases.stages:
        for end in (signal.SIGCONT, signal.SIGKILL):
            out, other = cases.out(stage), cases.folder / "other.log"
            fault = partial(at_metrics, stage.name, 4, signal.SIGSTOP)
            first = start(stage, stage.argv(out), cases.log, fault)
            os.waitpid(first, os.WUNTRACED)
            for flag in ("--resume", "--overwrite"):
                other.write_bytes(b"")
                code = run(stage, stage.argv(out, flag), other)
                good = code == 2 and f"process {first} on" in one_line_error(other)
                cases.check("two writers", "" if good else f"code {code}: {last_line(other)}")
            os.kill(first, end)
            code = wait(first)
            if end == signal.SIGKILL:
                code = run(stage, stage.argv(out, "--resume"), cases.log)
            problem = last_line(cases.log) if code else differences(out, cases.base, stage)
            cases.check(f"two writers, then {end.name}: equal to the bit", problem, stage.name)


def overwrite_cases(cases):
    """--overwrite killed at each of its file operations: --resume finds the old run whole, or the
    new run, or refuses. There is no mixture."""
    stage, new = BY_NAME["sft"], ["--seed", "2"]
    reference = cases.out(stage, "new")
    run(stage, stage.argv(reference, *new), cases.log)
    for k in range(1, 31):
        out = cases.out(stage)
        for folder in stage.folders:
            shutil.copytree(cases.base / folder, out / folder)
        code = run(
            stage,
            stage.argv(out, *new, "--overwrite"),
            cases.log,
            partial(at_operation, k, signal.SIGKILL),
        )
        code = run(stage, ["--out", str(out), "--resume"], cases.log)
        same_as = [
            r for r in (cases.base, reference) if code == 0 and not differences(out, r, stage)
        ]
        good = same_as or (code == 2 and "--overwrite" in one_line_error(cases.log))
        cases.check("overwrite, killed", "" if good else f"operation {k}: code {code}")


def damage_cases(cases):
    """What a power failure leaves: NULs or half a line in metrics.jsonl, samples.txt too long, an
    empty config.json. The run goes on and says what was dropped; its weights are as they were."""
    stage = BY_NAME["ppo"]
    for name, damage in DAMAGES.items():
        out = cases.out(stage)
        fault = partial(at_metrics, "ppo", 7, signal.SIGKILL)
        run(stage, stage.argv(out), cases.log, fault)
        damage(out / "ppo")
        cases.log.write_bytes(b"")
        code = run(stage, stage.argv(out, "--resume"), cases.log)
        log = cases.log.read_text(errors="replace")
        good = code == 0 and same(saved(out / "ppo"), saved(cases.base / "ppo"))
        good = good and (name == "samples" or "metrics.jsonl" in log or "config.json" in log)
        cases.check("damage", "" if good else f"{name}: code {code}: {last_line(cases.log)}")


def rewrite(name, change):
    def damage(folder):
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return damage


DAMAGES = {
    "NULs in metrics.jsonl": rewrite("metrics.jsonl", lambda b: b[:300] + bytes(200) + b[500:]),
    "a row of NULs": rewrite("metrics.jsonl", lambda b: bytes(512) + b"\n" + b),
    "no UTF-8": rewrite("metrics.jsonl", lambda b: b"\xff\xfe\n" + b),
    "no record": rewrite("metrics.jsonl", lambda b: b"[1]\n3\n" + b),
    "samples": rewrite("samples.txt", lambda b: b + b"a table of steps that were lost\n"),
    "an empty config.json": rewrite("config.json", lambda b: b""),
}


# ---- soak


def soak(folder, updates):
    """PPO for many updates, with evaluations and checkpoints: memory and open files at a tenth of
    them, and the most after it. Returns whether they stay level."""
    cases = Cases(folder, 0, 0)
    stage = BY_NAME["ppo"]
    out, begin = cases.out(stage), time.time()
    argv = stage.argv(out, "--updates", str(updates), "--eval-every", "50", "--save-every", "50")
    number = start(stage, argv, cases.log)
    readings = []
    while os.waitpid(number, os.WNOHANG) == (0, 0):
        with contextlib.suppress(OSError, IndexError, ValueError):
            pages = int(Path(f"/proc/{number}/statm").read_text().split()[1])
            files = len(os.listdir(f"/proc/{number}/fd"))
            step = sum(1 for _ in open(out / "ppo" / "metrics.jsonl"))
            readings.append((step, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, files))
        time.sleep(0.5)
    print(f"{updates} updates in {time.time() - begin:.0f} s")
    warm = [reading for reading in readings if reading[0] <= updates / 10]
    late = [reading for reading in readings if reading[0] > updates / 10]
    for share in range(1, 11):
        step, size, files = next(r for r in readings[::-1] if r[0] <= updates * share / 10)
        print(f"{step:6} updates  {size:7.1f} MB  {files} files")
    before, after = (max(r[1] for r in part) for part in (warm, late))
    # The fewest: a save that is under way has one more for a moment. A leak raises the fewest, too.
    first, last = (min(r[2] for r in part) for part in (warm, readings[-len(warm) :]))
    print(f"most memory in the first tenth {before:.1f} MB, after it {after:.1f} MB")
    print(f"fewest open files in the first tenth {first}, in the last {last}")
    return after <= before * 1.05 and last <= first


# ---- the command


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    groups = {group.__name__.removesuffix("_cases"): group for group in GROUPS}
    parser.add_argument("mode", nargs="?", choices=("all", "soak", *groups), default="all")
    parser.add_argument("--kills", type=int, default=30, help="kills a stage [30]")
    parser.add_argument(
        "--stages", nargs="+", choices=BY_NAME, default=tuple(BY_NAME), help="which [all]"
    )
    parser.add_argument("--updates", type=int, default=2000, help="of the soak [2000]")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    # Whoever starts this in the background, or by `nohup`, has them ignored, and a run leaves that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    torch.set_num_threads(1)
    model.SIZES["nano"] = (2, 2, 32)
    contrasts = writers.contrasts
    writers.contrasts = lambda n, rng: contrasts(min(n, 16), rng)
    begin = time.time()
    with tempfile.TemporaryDirectory() as folder:
        if args.mode == "soak":
            sys.exit(0 if soak(Path(folder), args.updates) else 1)
        cases = Cases(Path(folder), args.kills, args.seed, args.stages)
        for group in groups.values() if args.mode == "all" else [groups[args.mode]]:
            before = Counter(cases.passed)
            group(cases)
            for kind, count in (cases.passed - before).items():
                print(f"{count:4}  {kind}", flush=True)
    print(f"{len(cases.failed)} failed, {time.time() - begin:.0f} s")
    sys.exit(1 if cases.failed else 0)


GROUPS = (
    kill_cases,
    disk_cases,
    signal_cases,
    reward_cases,
    lock_cases,
    overwrite_cases,
    damage_cases,
)

if __name__ == "__main__":
    main()
