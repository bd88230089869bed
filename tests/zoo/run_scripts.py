"""`python tests/zoo/run_scripts.py [WORD ...]`: makes the mutants of scripts.py, one at a time, in
a copy of the repository, and runs the tests that should kill each.

With words, only the mutants whose file, flag or sentence has one of them (`second_list.py` or
`third_list.py`: those of that list). Prints those that survive, and how many of each file were
killed: first of the semantic ones, then of the flags. What was killed is noted in out/mutants.jsonl
and not made again, so that a run can be stopped and goes on; remove that file after a change of the
code or of a test.
A process that has torch already is copied for every mutant (os.fork), since importing it would take
longer than the tests.
"""

import importlib
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from scripts import KILLERS, MUTANTS

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "out" / "mutants.jsonl"
OWN_PATHS = {ROOT, *(ROOT / name for name in ("tests", "tests/zoo", "docs/spec"))}
UNCHANGED = ("run", "", "world", "formats", "rewards")  # by most mutants
RESULTS = {0: "survived", 1: "killed", -signal.SIGPROF: "killed"}  # by exit code
SECONDS = 120  # of the processor; what takes longer is killed: a loop that does not end is noticed


def broken(mutant, source):
    """The source of a file with a mutant in it. AssertionError if its text is not there once."""
    pattern = re.escape(mutant.right) + (r"\b" if mutant.everywhere else "")
    count = len(re.findall(pattern, source))
    assert count == 1 or mutant.everywhere and count, (
        f"{mutant.file} contains {mutant.right!r} {count} times: correct it in scripts.py"
    )
    return re.sub(pattern, lambda _: mutant.wrong, source)


def killers(mutant):
    """The words for pytest: test files, and -k with an expression."""
    keys = (mutant.file, mutant.breaks), mutant.right
    keys += (mutant.file, mutant.flag), mutant.flag, mutant.file
    words = next(KILLERS[key] for key in keys if key in KILLERS)
    return [f"tests/{word}" if word.endswith(".py") else word for word in words]


def copy_repository(folder):
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("minirlhf", "tests", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for path in [*ROOT.glob("train_*.py"), ROOT / "pyproject.toml"]:
        shutil.copy(path, folder)


def outcome(mutant, folder):
    """ "killed" if tests fail with the mutant in place, "survived" if they pass, "error" if they
    could not be run."""
    path = folder / mutant.file
    source = path.read_text(encoding="utf-8")
    path.write_text(broken(mutant, source), encoding="utf-8")
    try:
        return RESULTS.get(in_child(mutant.file, killers(mutant), folder), "error")
    finally:
        path.write_text(source, encoding="utf-8")


def in_child(file, words, folder):
    """pytest's exit code, in a process of its own that has yet to import `file`; minus a signal's
    number if it took too long."""
    child = os.fork()
    if not child:
        code = 3
        try:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            forget(file)
            code = run_tests(words, folder)
        finally:
            os._exit(code)  # the parent removes the folder
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_tests(words, folder):
    """pytest's exit code."""
    import pytest

    output = io.StringIO()
    options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=line", "--assert=plain"]
    with redirect_stdout(output), redirect_stderr(output):
        code = pytest.main([*words, *options, f"--rootdir={folder}"])
    if code not in RESULTS:
        print(output.getvalue()[-2000:], file=sys.stderr)
    return int(code)


def fit_to_judge(chosen, folder):
    """The mutants whose tests pass without one; says which do not."""
    codes = {}
    for mutant in chosen:
        words = tuple(killers(mutant))
        if words not in codes:
            codes[words] = in_child(mutant.file, words, folder)
            if codes[words]:
                print(f"without a mutant pytest {' '.join(words)} ends with {codes[words]}")
    return [mutant for mutant in chosen if not codes[tuple(killers(mutant))]]


def load(folder):
    """Import from the copy what no mutant changes, with all that takes time: torch, the world."""
    os.chdir(folder)
    sys.dont_write_bytecode = True
    sys.path[:] = [str(folder), *(p for p in sys.path if Path(p).resolve() not in OWN_PATHS)]
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)
    torch.empty(1, device="meta").normal_()  # imports torch._dynamo, as every checkpoint does
    for room in UNCHANGED:
        for path in sorted((folder / "minirlhf" / room).glob("*.py")):
            if not path.stem.startswith("__"):
                importlib.import_module(".".join(path.relative_to(folder).with_suffix("").parts))


def forget(file):
    """Before a changed file of what was loaded is imported again."""
    rooms = "minirlhf/run/", "minirlhf/formats/", "minirlhf/rewards/", "minirlhf/lora.py"
    rooms += ("minirlhf/evaluate.py",)
    if file.startswith(rooms):
        for name in [name for name in sys.modules if name.split(".")[0] == "minirlhf"]:
            del sys.modules[name]


def main(words):
    chosen = [m for m in MUTANTS if not words or any(w in " ".join(vars_of(m)) for w in words)]
    killed, start = killed_before(), time.perf_counter()
    rest = [mutant for mutant in chosen if key(mutant) not in killed]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy_repository(folder)
        load(folder)
        for mutant in fit_to_judge(rest, folder):
            result = outcome(mutant, folder)
            print(".", end="", file=sys.stderr, flush=True)
            if result == "killed":
                killed.add(key(mutant))
                with RECORD.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(key(mutant)) + "\n")
            else:
                text = f"{mutant.file}: {mutant.right!r} -> {mutant.wrong!r}"
                print(f"{result.upper()} {text}", flush=True)
    show_counts(chosen, killed)
    print(f"in {time.perf_counter() - start:.0f} seconds")


def key(mutant):
    return mutant.file, mutant.right, mutant.wrong


def killed_before():
    """The keys in RECORD, which is made if it is not there."""
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.touch()
    return {tuple(json.loads(line)) for line in RECORD.read_text(encoding="utf-8").splitlines()}


def show_counts(chosen, killed):
    """A line for each file, as in the table of mutants.md."""
    for name in [*dict.fromkeys(mutant.file for mutant in chosen), ""]:
        cells = [f"`{name}`" if name else "all"]
        for flags in (False, True):
            side = [m for m in chosen if name in ("", m.file) and bool(m.flag) == flags]
            cells.append(f"{sum(key(m) in killed for m in side)} of {len(side)}")
        print("| " + " | ".join(cells) + " |")


def vars_of(mutant):
    words = mutant.file, f"--{mutant.flag}", mutant.breaks, mutant.wrong
    lists = {"second_list.py": mutant.second, "third_list.py": mutant.third}
    return (*words, *(name for name, listed in lists.items() if listed))


if __name__ == "__main__":
    main(sys.argv[1:])
