"""The architecture as assertions: one reading order, thin scripts, no dead flags, a size that can be read in an afternoon."""

import ast
import io
import subprocess
import sys
import tokenize
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minirlhf"
SCRIPTS = ("train_sft", "train_rm", "train_ppo")
LIBRARIES = {"torch", "numpy", "tiktoken", "tqdm", "minirlhf"}
TEACHING = (
    "config",
    "tokenizer",
    "model",
    "huggingface",
    "checkpoint",
    "metrics",
    "generate",
    "data",
    "world",
    "reward",
    "ppo",
)
FILES = sorted([*PACKAGE.glob("*.py"), *(ROOT / f"{script}.py" for script in SCRIPTS)])


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def reading_order():
    """The list in the package's docstring."""
    words = ast.get_docstring(tree(PACKAGE / "__init__.py")).split("\n\n")[1].split(".")[0]
    return [word.strip() for word in words.replace("\n", " ").split(",")]


def imported(nodes):
    """{"torch.nn", "minirlhf.config", ...}: every module that is imported in these nodes."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_modules(path):
    """The modules of the package that a file imports, anywhere in it."""
    parts = [name.split(".") for name in imported(ast.walk(tree(path)))]
    return {part[1] for part in parts if part[0] == "minirlhf" and len(part) > 1}


def code_lines(path, node=None):
    """The numbers of the lines with code, of a file or of a node in it: no blank lines, comments or docstrings."""
    return (
        all_code_lines(path)
        if node is None
        else all_code_lines(path) & set(range(node.lineno, node.end_lineno + 1))
    )


@cache
def all_code_lines(path):
    docstrings = set()
    for owner in ast.walk(tree(path)):
        if (
            isinstance(owner, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(owner) is not None
        ):
            docstrings |= set(range(owner.body[0].lineno, owner.body[0].end_lineno + 1))
    silent = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type not in silent:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - docstrings


# ---- order


def test_every_module_has_its_place_in_the_reading_order():
    """A file that is not in the list is one that a reader is never told about."""
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == set(reading_order())
    assert len(reading_order()) == len(set(reading_order()))
    assert tuple(reading_order()[: len(TEACHING)]) == TEACHING


@pytest.mark.parametrize("module", reading_order())
def test_a_module_imports_only_from_modules_above_it(module):
    """So that whoever reads in order never meets a name that is not explained yet."""
    above = reading_order()[: reading_order().index(module)]
    assert own_modules(PACKAGE / f"{module}.py") <= set(above)


def test_the_package_itself_imports_nothing():
    """`import minirlhf.config` must not load torch by way of `__init__`."""
    assert not imported(ast.walk(tree(PACKAGE / "__init__.py")))


def test_nobody_imports_a_script():
    """What two scripts need belongs to the package."""
    for path in FILES:
        roots = {name.split(".")[0] for name in imported(ast.walk(tree(path)))}
        assert not roots & set(SCRIPTS), path.name


def test_at_module_level_only_the_four_libraries_and_the_standard_one_are_imported():
    """Everything else is an extra, imported where it is used, so that the package runs without it."""
    for path in FILES:
        roots = {name.split(".")[0] for name in imported(tree(path).body)}
        assert roots <= LIBRARIES | set(sys.stdlib_module_names), path.name


def test_importing_a_script_runs_nothing():
    """Top to bottom it is a docstring, imports, definitions and constants, and the footer that calls `main`."""
    for script in SCRIPTS:
        body = tree(ROOT / f"{script}.py").body
        kinds = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Assign)
        docstring, middle, footer = body[0], body[1:-1], body[-1]
        assert isinstance(docstring, ast.Expr) and all(
            isinstance(node, kinds) for node in middle
        ), script
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
    assert (
        done.stderr.startswith("error: nowhere.jsonl: No such file")
        and done.stderr.count("\n") == 1
    )
    assert not list(tmp_path.iterdir())


# ---- no dead options


def configs():
    return [
        (path, node)
        for path in FILES
        for node in tree(path).body
        if isinstance(node, ast.ClassDef) and node.name == "Config"
    ]


@pytest.mark.parametrize(("path", "config"), configs(), ids=[path.stem for path, _ in configs()])
def test_every_flag_is_read(path, config):
    """A flag that nobody reads is a promise that is not kept."""
    flags = {node.target.id for node in config.body if isinstance(node, ast.AnnAssign)}
    nodes = list(ast.walk(tree(path)))
    read = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("args", "self.args")
    }
    read |= (
        {"out", "resume", "overwrite"}
        if "checkpoint.start_run(args" in path.read_text(encoding="utf-8")
        else set()
    )
    read |= (
        {"precision", "threads"}
        if "model.resolve(args" in path.read_text(encoding="utf-8")
        else set()
    )
    assert flags - read == set()
    assert read - flags == set()  # and nothing is read that is no flag


def test_every_script_has_flags_and_a_main_that_takes_them():
    """`main(argv)` is how tests and notebooks run a stage in-process."""
    assert {path.stem for path, _ in configs()} >= {*SCRIPTS, "dpo", "evaluate"}
    for path, _ in configs():
        main = next(
            node
            for node in tree(path).body
            if isinstance(node, ast.FunctionDef) and node.name == "main"
        )
        assert ast.unparse(main.args) == "argv=None", path.name


# ---- small enough to read


def test_no_function_is_longer_than_forty_lines_of_code():
    """Longer ones are split where a comment would have been a heading. A loop that is spelled out fits, just."""
    long = {}
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef) and len(code_lines(path, node)) > 40:
                long[f"{path.name}:{node.name}"] = len(code_lines(path, node))
    assert not long


def test_no_file_is_longer_than_three_hundred_lines_of_code():
    """One sitting."""
    assert not {path.name: len(code_lines(path)) for path in FILES if len(code_lines(path)) > 300}


def test_lines_of_code_are_counted_without_blank_lines_comments_and_docstrings(tmp_path):
    """The ruler of the tests above, measured by hand: else the way to pass them would be to delete the explanations."""
    path = tmp_path / "example.py"
    path.write_text(
        '"""Two\nlines."""\n\nx = (  # one\n    1\n)\n\n\ndef f():\n    """None."""\n    # none\n    return """\na"""\n'
    )
    assert len(code_lines(path)) == 3 + 1 + 2
    assert len(code_lines(path, tree(path).body[-1])) == 1 + 2


def test_no_bare_assert_stands_in_the_package_or_the_scripts():
    """The user's mistakes are InputErrors with a remedy, a caller's are ValueErrors; an assert vanishes under -O."""
    for path in FILES:
        assert not [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.Assert)], (
            path.name
        )
