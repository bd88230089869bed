"""The architecture as assertions: who may import whom, thin scripts, no dead flags, short
functions."""

import ast
import dataclasses
import importlib
import io
import re
import subprocess
import sys
import tokenize
from functools import cache
from pathlib import Path

import pytest

from minirlhf.rewards.credit import CreditFlags
from minirlhf.rewards.ensemble import EnsembleFlags
from minirlhf.tools import choice, label
from minirlhf.tools.ptx import PtxFlags

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "minirlhf"
SCRIPTS = ("train_sft", "train_rm", "train_ppo")
LIBRARIES = {"torch", "numpy", "tiktoken", "tqdm", "minirlhf"}
METHOD = ("tokenizer", "model", "lora", "generate", "data", "reward", "ppo", "dpo", "grpo")
METHOD += ("evaluate",)
# What a module may import from the package, by its room; "" is the method, which lies flat.
ROOMS = {
    "": {"", "run"},
    "run": {"", "run"},
    "world": {"", "run", "world"},
    "formats": {"", "run", "formats"},
    "feedback": {"", "run", "world", "feedback"},
    "rewards": {"", "run", "rewards"},
    "tools": {"", "run", "world", "formats", "feedback", "rewards", "tools"},
    "bench": {"", "run", "world", "formats", "feedback", "rewards", "tools", "bench"},
}
FILES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / f"{script}.py" for script in SCRIPTS)])
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if not path.stem.startswith("__"))


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path):
    """minirlhf/run/config.py -> minirlhf.run.config"""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def room_of(module):
    """minirlhf.run.config -> run; minirlhf.ppo -> "" """
    parts = module.split(".")
    return parts[1] if len(parts) > 2 else ""


def imported(nodes):
    """{"torch.nn", "minirlhf.run.config.flag", ...}: every name that is imported in these nodes."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@cache
def package_imports(path):
    """{"minirlhf.run.config", ...}: the modules of the package that a file imports, anywhere."""
    names = imported(ast.walk(tree(path)))
    return {name_of(m) for m in MODULES if any(within(name, name_of(m)) for name in names)}


def within(name, module):
    return name == module or name.startswith(module + ".")


def code_lines(path, node=None):
    """The numbers of the lines with code, of a file or of a node in it: no blank lines, comments or
    docstrings."""
    lines = all_code_lines(path)
    return lines if node is None else lines & set(range(node.lineno, node.end_lineno + 1))


@cache
def all_code_lines(path):
    docstrings, lines = set(), set()
    for owner in ast.walk(tree(path)):
        documented = isinstance(owner, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(owner) is not None:
            docstrings |= set(range(owner.body[0].lineno, owner.body[0].end_lineno + 1))
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE}
    silent |= {tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type not in silent:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - docstrings


# ---- who may import whom


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_from_rooms_below_it(path):
    """The method stands on run/ alone, and nothing of it knows the rooms that are built on it."""
    allowed = ROOMS[room_of(name_of(path))]
    assert {name for name in package_imports(path) if room_of(name) not in allowed} == set()


def test_the_method_is_read_in_an_order_in_which_no_module_imports_a_later_one():
    """Whoever reads in this order never meets a name that is not explained yet. fast.py, which
    model.py imports, imports nothing of the package: it can be skipped."""
    flat = {path.stem for path in MODULES if path.parent == PACKAGE}
    assert flat == {*METHOD, "fast"}
    assert not package_imports(PACKAGE / "fast.py")
    for place, module in enumerate(METHOD):
        names = package_imports(PACKAGE / f"{module}.py")
        method = {name.split(".")[1] for name in names if not room_of(name)}
        assert method <= {"fast", *METHOD[:place]}, module


def test_no_imports_go_in_a_circle():
    """Between rooms either: run/ and the method may import each other, but no two modules do."""
    edges = {name_of(path): package_imports(path) - {name_of(path)} for path in MODULES}
    # run/config.py imports fast.py inside a function, when a command runs.
    while edges:
        leaves = {name for name, targets in edges.items() if not targets & set(edges)}
        assert leaves, f"a circle among {sorted(edges)}"
        edges = {name: targets for name, targets in edges.items() if name not in leaves}


def test_the_package_and_its_rooms_import_nothing():
    """`import minirlhf.run.config` must not load torch by way of an `__init__`."""
    for path in PACKAGE.rglob("__init__.py"):
        assert not imported(ast.walk(tree(path))), path


def test_the_first_docstring_lists_the_method_and_the_rooms():
    """A file or a room that is not in the list is one that a reader never hears of."""
    words = re.findall(r"\w+", ast.get_docstring(tree(PACKAGE / "__init__.py")))
    assert [word for word in words if word in METHOD][: len(METHOD)] == list(METHOD)
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(ROOMS) - {""} and rooms <= set(words)


def test_no_module_imports_a_script():
    """What two scripts need belongs to the package."""
    for path in MODULES:
        roots = {name.split(".")[0] for name in imported(tree(path).body)}
        assert not roots & set(SCRIPTS), path.name


def test_at_module_level_only_four_libraries_and_the_standard_one_are_imported():
    """Everything else is an extra, imported where it is used, so that the package runs without."""
    for path in FILES:
        roots = {name.split(".")[0] for name in imported(tree(path).body)}
        assert roots <= LIBRARIES | set(sys.stdlib_module_names), path.name


def test_model_and_ppo_know_nothing_of_files_terminals_or_processes():
    """They are the textbook. Trackers, progress bars and files stand around them."""
    for module in ("model", "fast", "generate", "ppo", "dpo"):
        roots = {name.split(".")[0] for name in imported(ast.walk(tree(PACKAGE / f"{module}.py")))}
        assert not roots & {"tqdm", "json", "pathlib", "sys", "subprocess", "logging"}, module
        names = {node.id for node in ast.walk(tree(PACKAGE / f"{module}.py")) if is_name(node)}
        assert not names & {"print", "open", "input"}, module


def is_name(node):
    return isinstance(node, ast.Name)


# ---- scripts


def test_importing_a_script_runs_nothing():
    """Top to bottom it is a docstring, imports, definitions, and the footer that calls `main`."""
    for script in SCRIPTS:
        body = tree(ROOT / f"{script}.py").body
        kinds = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Assign)
        docstring, middle, footer = body[0], body[1:-1], body[-1]
        assert isinstance(docstring, ast.Expr), script
        assert all(isinstance(node, kinds) for node in middle), script
        assert ast.unparse(footer) == "if __name__ == '__main__':\n    config.run(main)"


def test_a_script_is_a_command_that_ends_in_one_line_and_code_two(tmp_path):
    """Typed into a shell, with a data file that is not there. Nothing is written."""
    command = [
        sys.executable,
        str(ROOT / "train_sft.py"),
        "--data",
        "nowhere.jsonl",
        "--out",
        "out",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nowhere.jsonl: No such file")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_one_iteration_of_ppo_stands_in_one_function_in_the_order_of_the_method():
    """Sample, score, log-probabilities and values, rewards, advantages, whitening, update, KL
    coefficient: what a student came for is not spread over files."""
    functions = [node for node in tree(ROOT / "train_ppo.py").body if is_function(node)]
    iterate = next(function for function in functions if function.name == "iterate")
    calls = [ast.unparse(node.func) for node in ast.walk(iterate) if isinstance(node, ast.Call)]
    steps = "sample models.score ppo.missing_end_rule ppo.logprobs_and_values ppo.token_rewards "
    steps += "ppo.gae ppo.whiten ppo.update controller.update"
    source = ast.unparse(iterate)
    places = [source.index(step + "(") for step in steps.split()]
    assert set(steps.split()) <= set(calls) and places == sorted(places)


def is_function(node):
    return isinstance(node, ast.FunctionDef)


# ---- no dead options


def configs():
    """The files with a command line."""
    classes = [(path, node) for path in FILES for node in tree(path).body]
    return [p for p, node in classes if isinstance(node, ast.ClassDef) and node.name == "Config"]


READERS = {  # functions that read flags for a command
    "compute.resolve(args": {"precision", "threads"},
    "jsonl.flags(args": {"form", "map", "template", "keep_turns", "skip_bad"},
    "compute.resolve_microbatch(": {"microbatch_tokens"},
    "chain.refuse_mixed(args": {"mix_data"},
    "lora.start(args": {"lora", "lora_alpha", "gradient_checkpointing"},
    "start_run(args": {"out", "resume", "overwrite", "track"},
    "label.QuestionFlags)": {field.name for field in dataclasses.fields(label.QuestionFlags)},
    "EnsembleFlags, ": {field.name for field in dataclasses.fields(EnsembleFlags)},
    "PtxFlags)": {field.name for field in dataclasses.fields(PtxFlags)},
    "CreditFlags, ": {field.name for field in dataclasses.fields(CreditFlags)},
    "measured.all_rows(args": {"out"},
    "import PoolFlags": {field.name for field in dataclasses.fields(choice.PoolFlags)},
}


@pytest.mark.parametrize("path", configs(), ids=lambda path: path.stem)
def test_every_flag_is_read(path):
    """A flag that nobody reads is a promise that is not kept. Shared flags count as well."""
    module = importlib.import_module(name_of(path))
    flags = {field.name for field in dataclasses.fields(module.Config)}
    attributes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)]
    names = {node.attr for node in attributes if ast.unparse(node.value) in ("args", "self.args")}
    source = path.read_text(encoding="utf-8")
    names |= set().union(*(flags for call, flags in READERS.items() if call in source))
    assert flags - names == set()
    assert names - flags == set()  # and nothing is read that is no flag


def test_every_command_has_flags_and_a_main_that_takes_them():
    """`main(argv)` is how tests and notebooks run a stage in-process."""
    assert {path.stem for path in configs()} >= {*SCRIPTS, "dpo", "evaluate"}
    for path in configs():
        main = next(node for node in tree(path).body if is_function(node) and node.name == "main")
        assert ast.unparse(main.args) == "argv=None", path.name


def test_one_thing_has_one_flag_name_in_all_commands():
    """Held-out data had three names once. What two commands share has one default sentence, too."""
    names = {}
    for path in configs():
        for field in dataclasses.fields(importlib.import_module(name_of(path)).Config):
            names.setdefault(field.name, set()).add(path.stem)
    assert {"train_sft", "train_rm", "train_ppo"} <= names["held_out"]
    assert not {"holdout", "eval_prompts", "n_held_out"} & set(names)


# ---- small enough to read


def test_no_function_is_longer_than_forty_lines():
    """Longer ones are split where a comment would have been a heading. Docstrings count."""
    functions = [(path, node) for path in FILES for node in ast.walk(tree(path))]
    lengths = {
        f"{path.name}:{node.name}": node.end_lineno - node.lineno + 1
        for path, node in functions
        if is_function(node)
    }
    assert {name: length for name, length in lengths.items() if length > 40} == {}


def test_no_file_is_longer_than_three_hundred_lines_of_code():
    """One sitting."""
    lengths = {path.name: len(code_lines(path)) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_no_line_is_longer_than_a_hundred_characters():
    """In the package, the scripts, the tests and the generator of the specification."""
    paths = [*FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "docs").rglob("*.py")]
    lines = {
        f"{path.name}:{number}": line
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    }
    # The name of a test cannot be broken.
    names = re.compile(r' *(def test_\w+\(|(caught_by=)?"[\w:]+",$)')
    assert [x for x, line in lines.items() if len(line) > 100 and not names.match(line)] == []


def test_lines_of_code_are_counted_without_blank_lines_comments_and_docstrings(tmp_path):
    """The ruler of the tests above, measured by hand: else the way to pass them would be to delete
    the explanations."""
    path = tmp_path / "example.py"
    path.write_text(
        '"""Two\nlines."""\n\nx = (  # one\n    1\n)\n\n\ndef f():\n    """None."""\n    # none\n'
        '    return """\na"""\n'
    )
    assert len(code_lines(path)) == 3 + 1 + 2
    assert len(code_lines(path, tree(path).body[-1])) == 1 + 2


def test_no_bare_assert_stands_in_the_package_or_the_scripts():
    """The user's mistakes are InputErrors with a remedy, a caller's are ValueErrors; an assert
    vanishes under -O."""
    for path in FILES:
        asserts = [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.Assert)]
        assert not asserts, path.name
