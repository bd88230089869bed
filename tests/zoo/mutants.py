"""How much of the code do the tests hold? `make mutants` changes it in a thousand small ways and counts those nobody noticed.

mutmut makes the changes (a + for a -, a 1 for a 2, an argument left out) and runs the tests that reach each, in a copy of the
repository under out/mutants, one for each module: a mutant of a module has to die of the tests of that module. What it found,
with a reason for every mutant that lives, is in mutants.md.
"""

import argparse
import ast
import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUT = ROOT / "out" / "mutants"
TESTS = {
    "model": ["tests/unit/test_model.py", "tests/unit/test_cache.py", "tests/unit/test_fast.py"],
    "fast": ["tests/unit/test_fast.py", "tests/unit/test_model.py"],
    "generate": ["tests/unit/test_generate.py", "tests/unit/test_cache.py"],
    "reward": ["tests/spec/test_reward_losses.py", "tests/unit/test_reward.py"],
    "ppo": [
        "tests/spec/test_ppo_functions.py",
        "tests/spec/test_ppo_trace.py",
        "tests/unit/test_ppo.py",
        "tests/unit/test_invariances.py",
    ],
    "dpo": ["tests/spec/test_dpo_loss.py", "tests/unit/test_dpo.py", "tests/runs/test_dpo_run.py"],
}
SLOW = {
    "ppo": "not ppo_finds and not ppo_does_not_find and not ppo_raises"
}  # the longest: whole trainings
DIED = {
    1: "killed",
    3: "killed",
    -24: "timeout",
    24: "timeout",
    36: "timeout",
    152: "timeout",
    255: "timeout",
}
# Messages, and the progress bar.
TEXT = re.compile(
    r"^- +(raise \w+\(|print\(|f\"|bar = tqdm\(|bar\.set_postfix\(|if step % 10 == 0:)", re.M
)


def spelled_out(source):
    """mutmut leaves decorated functions alone. What stands under @torch.no_grad() can as well stand in a with block."""
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.FunctionDef) and [ast.unparse(d) for d in node.decorator_list] == [
            "torch.no_grad()"
        ]:
            first = node.body[0].lineno - 1
            lines[first : node.end_lineno] = [
                f"    {line}" for line in lines[first : node.end_lineno]
            ]
            lines.insert(first, "    with torch.no_grad():")
            del lines[node.decorator_list[0].lineno - 1]
    return "\n".join(lines) + "\n"


def prepare(module):
    """A copy of what the tests of a module need, configured to mutate that module alone."""
    folder = OUT / module
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("minirlhf", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for script in ROOT.glob("train_*.py"):
        shutil.copy(script, folder)
    path = folder / "minirlhf" / f"{module}.py"
    path.write_text(spelled_out(path.read_text(encoding="utf-8")), encoding="utf-8")
    own = {"source_paths": ["minirlhf"], "only_mutate": [f"minirlhf/{module}.py"]}
    own |= {"also_copy": sorted(str(script.name) for script in ROOT.glob("train_*.py"))}
    own |= {
        "pytest_add_cli_args_test_selection": TESTS[module],
        "pytest_add_cli_args": ["-k", SLOW.get(module, "test")],
    }
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name, value in own.items():
        config += f"{name} = {json.dumps(value)}\n"
    (folder / "pyproject.toml").write_text(config, encoding="utf-8")
    return folder


DIFFS = """
import sys, json
from mutmut.mutation.diff_apply import get_diff_for_mutant
print(json.dumps({name: get_diff_for_mutant(name) for name in json.loads(sys.stdin.read())}))
"""


def diffs(folder, names):
    """{mutant: what it changes, as a unified diff}."""
    told = subprocess.run(
        [sys.executable, "-c", DIFFS],
        cwd=folder,
        input=json.dumps(names),
        capture_output=True,
        text=True,
    )
    return json.loads(told.stdout)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(TESTS)} [all]")
    parser.add_argument("--jobs", default="2", help="mutants at a time [2]")
    args = parser.parse_args(argv)
    print("module    mutants  killed  timeout  survived       %  without text  minutes")
    for module in args.modules or TESTS:
        folder, start = prepare(module), time.time()
        with (folder / "log.txt").open("w") as log:
            command = [Path(sys.executable).parent / "mutmut", "run", "--max-children", args.jobs]
            subprocess.run(command, cwd=folder, stdout=log, stderr=log)
        codes = json.loads((folder / "mutants" / "minirlhf" / f"{module}.py.meta").read_text())[
            "exit_code_by_key"
        ]
        changes = diffs(folder, list(codes))
        fate = {name: DIED.get(code, "survived") for name, code in codes.items()}
        serious = [fate[name] for name in codes if not TEXT.search(changes[name])]
        count = Counter(fate.values())
        share, without = (
            100 * (1 - fates.count("survived") / len(fates))
            for fates in (list(fate.values()), serious)
        )
        minutes = (time.time() - start) / 60
        told = (
            f"{len(fate):7d}  {count['killed']:6d}  {count['timeout']:7d}  {count['survived']:8d}"
        )
        print(f"{module:8s}  {told}  {share:6.1f}  {without:12.1f}  {minutes:7.1f}", flush=True)
        lived = [
            f"# exit code {codes[name]}\n{changes[name]}"
            for name in codes
            if fate[name] == "survived"
        ]
        (folder / "survivors.diff").write_text("\n".join(lived), encoding="utf-8")
    print(f"what survived: {OUT}/*/survivors.diff")


if __name__ == "__main__":
    main()
