"""How much of the code do the tests check? `make mutants` makes a thousand small changes to it and
counts those with which all tests pass.

mutmut makes the changes (a + becomes a -, a 1 becomes a 2, an argument is left out) and runs the
tests that reach each. It does so in a copy of the repository under out/mutants, one for each
module: the tests of a module must catch its mutants. The results, with a reason for every mutant
that survives, are in mutants.md.
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
    "model": [
        "tests/unit/test_model.py",
        "tests/unit/test_cache.py",
        "tests/unit/test_fast.py",
        "tests/unit/test_generate.py",
    ],
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
# The longest tests, which are whole trainings, are left out.
SELECTION = {"ppo": "not ppo_finds and not ppo_does_not_find and not ppo_raises"}
OUTCOMES = {1: "killed", 3: "killed"}  # by exit code; any other one: "survived"
OUTCOMES |= dict.fromkeys((-24, 24, 36, 152, 255), "timeout")
# Messages, and the progress bar.
TEXT = re.compile(
    r"^- +(raise \w+\(|print\(|f\"|bar = tqdm\(|bar\.set_postfix\(|if step % 10 == 0:)", re.M
)


def spelled_out(source):
    """mutmut does not change decorated functions. A function under @torch.no_grad() becomes one
    with a `with` block."""
    lines = source.splitlines()
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    for node in reversed(functions):
        if [ast.unparse(decorator) for decorator in node.decorator_list] == ["torch.no_grad()"]:
            body = slice(node.body[0].lineno - 1, node.end_lineno)
            lines[body] = ["    with torch.no_grad():", *(f"    {line}" for line in lines[body])]
            del lines[node.decorator_list[0].lineno - 1]
    return "\n".join(lines) + "\n"


def prepare(module):
    """A copy of everything that the tests of a module need, configured to mutate that module
    alone."""
    folder = OUT / module
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("minirlhf", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for script in ROOT.glob("train_*.py"):
        shutil.copy(script, folder)
    path = folder / "minirlhf" / f"{module}.py"
    path.write_text(spelled_out(path.read_text(encoding="utf-8")), encoding="utf-8")
    settings = {
        "source_paths": ["minirlhf"],
        "only_mutate": [f"minirlhf/{module}.py"],
        "also_copy": sorted(script.name for script in ROOT.glob("train_*.py")),
        "pytest_add_cli_args_test_selection": TESTS[module],
        "pytest_add_cli_args": ["-k", SELECTION.get(module, "test")],
    }
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name, value in settings.items():
        config += f"{name} = {json.dumps(value)}\n"
    (folder / "pyproject.toml").write_text(config, encoding="utf-8")
    return folder


DIFFS = """
import sys, json
from mutmut.mutation.diff_apply import get_diff_for_mutant
print(json.dumps({name: get_diff_for_mutant(name) for name in json.loads(sys.stdin.read())}))
"""


def diffs(folder, names):
    """{mutant: its change, as a unified diff}."""
    command = [sys.executable, "-c", DIFFS]
    options = {"cwd": folder, "input": json.dumps(names), "capture_output": True, "text": True}
    return json.loads(subprocess.run(command, **options).stdout)


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
        meta = folder / "mutants" / "minirlhf" / f"{module}.py.meta"
        codes = json.loads(meta.read_text())["exit_code_by_key"]
        changes = diffs(folder, list(codes))
        outcomes = {name: OUTCOMES.get(code, "survived") for name, code in codes.items()}
        without_text = [outcomes[name] for name in codes if not TEXT.search(changes[name])]
        count = Counter(outcomes.values())
        row = f"{module:8s}  {len(codes):7d}  {count['killed']:6d}  {count['timeout']:7d}  "
        row += f"{count['survived']:8d}  {percentage(list(outcomes.values())):6.1f}  "
        row += f"{percentage(without_text):12.1f}  {(time.time() - start) / 60:7.1f}"
        print(row, flush=True)
        survivors = [name for name in codes if outcomes[name] == "survived"]
        text = [f"# exit code {codes[name]}\n{changes[name]}" for name in survivors]
        (folder / "survivors.diff").write_text("\n".join(text), encoding="utf-8")
    print(f"survivors: {OUT}/*/survivors.diff")


def percentage(outcomes):
    """The share of mutants that did not survive."""
    return 100 * (1 - outcomes.count("survived") / len(outcomes))


if __name__ == "__main__":
    main()
