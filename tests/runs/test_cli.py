"""The command `minirlhf`: its list, its commands and their exit codes, and what a wheel holds."""

import errno
import fnmatch
import importlib
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from minirlhf import __main__ as command
from minirlhf.rewards.function import load_function
from minirlhf.run.config import InputError
from minirlhf.tools.script import script

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10: pytest brings the same module
    import tomli as tomllib

FULL = OSError(errno.ENOSPC, "No space left on device", "out/a")
ROOT = Path(__file__).parents[2]
TORCH = "import sys; from minirlhf import __main__ as command; {}; print('torch' in sys.modules)"


def python(*arguments, folder=ROOT):
    """The finished process of this Python with these arguments."""
    line = [sys.executable, *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=100)


@pytest.fixture(autouse=True)
def process_state(monkeypatch):
    """A command may change the arguments and the path of its process: here, for one test."""
    monkeypatch.setattr(sys, "argv", ["minirlhf"])
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def run(monkeypatch):
    """run(main, *words): `minirlhf report ...`, with `main` in the place of the report."""

    def call(main, *words):
        module = command.COMMANDS["report"].module
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(main=main))
        command.main(["report", *words])

    return call


# ---- the list


def test_the_list_has_a_line_for_every_command_and_no_torch():
    """The list takes no two seconds: a module is imported when its command is chosen."""
    process = python("-c", TORCH.format("command.main([])"))
    *lines, torch_is_loaded = process.stdout.splitlines()
    assert torch_is_loaded == "False"
    assert lines[0].startswith("usage: minirlhf NAME")
    assert [line.split()[0] for line in lines[2:]] == list(command.COMMANDS)
    assert all(len(line) < 80 for line in lines)


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_without_a_name_the_commands_are_listed(argv, capsys):
    command.main(argv)
    assert capsys.readouterr().out == command.listing() + "\n"


def test_an_unknown_name_is_one_line_with_the_nearest_and_all_names():
    """Exit code 2, so that a script with a slip in it stops."""
    process = python("-m", "minirlhf", "reprot")
    assert (process.returncode, process.stdout) == (2, "")
    names = ", ".join(command.COMMANDS)
    message = f"reprot is not a command, did you mean report? choose one of {names}"
    assert process.stderr == f"error: {message}\n"


def test_a_name_that_is_near_to_none_gets_all_names(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["xyzzy"])
    assert stop.value.code == 2
    assert "xyzzy is not a command; choose one of sft, rm, ppo" in capsys.readouterr().err


# ---- the commands


@pytest.mark.parametrize("name", command.COMMANDS)
def test_the_help_of_a_command_says_how_it_is_called(name, capsys):
    """`usage: minirlhf NAME`, then every flag with its sentence; nothing runs."""
    with pytest.raises(SystemExit) as stop:
        command.main([name, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert f"usage: minirlhf {name} " in text and "--help" in text


def test_a_script_says_its_own_name():
    """`python train_sft.py` is the same command as `minirlhf sft`."""
    assert python("train_sft.py", "--help").stdout.startswith("usage: train_sft.py ")


def test_a_command_gets_the_words_after_its_name(run):
    """Its usage line shows the first word of sys.argv."""
    lines = []
    run(lambda: lines.append(list(sys.argv)), "--out", "here")
    assert lines == [["minirlhf report", "--out", "here"]]


def test_a_mistake_in_the_flags_of_a_command_names_the_command(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["world", "--shwo", "3"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("minirlhf world: unrecognized arguments: --shwo 3")


def test_a_function_of_yours_is_found_in_the_folder_of_the_call(run, tmp_path, monkeypatch):
    """`minirlhf ppo --reward my_cli_rewards:brevity`: an installed command does not search there by
    itself, as `python train_ppo.py` in the clone does."""
    (tmp_path / "my_cli_rewards.py").write_text("def brevity(prompts, responses): ...")
    monkeypatch.chdir(tmp_path)
    names = []
    run(lambda: names.append(load_function("--reward", "my_cli_rewards:brevity").__name__))
    assert names == ["brevity"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("no such file"), 2, "error: no such file\n"),
        (KeyboardInterrupt(), 130, "\nstopped\n"),
        (KeyboardInterrupt(signal.SIGTERM), 143, "\nstopped\n"),
        (FULL, 2, "error: out/a: No space left on device; free some space on its disk\n"),
        (OSError("no number"), 2, "error: no number\n"),
        (SystemExit(1), 1, ""),  # a gate that did not pass
    ],
)
def test_every_command_ends_as_the_scripts_do(run, capsys, error, code, message):
    """A user's mistake and an error of the disk are one line and exit code 2, Ctrl-C is exit code
    130, another signal 128 and its number."""

    def fail():
        raise error

    with pytest.raises(SystemExit) as stop:
        run(fail)
    assert stop.value.code == code and capsys.readouterr().err == message


def test_a_training_script_that_is_not_installed_is_named():
    """Such as in a copy of the package folder alone."""
    with pytest.raises(InputError, match="train_nothing.py is not here"):
        script("train_nothing")


def test_it_runs_from_any_folder(tmp_path):
    """As `python -m minirlhf`; the world's files come from the package."""
    process = python("-m", "minirlhf", "world", "--show", "1", folder=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "Judgement(helpful=" in process.stdout and not list(tmp_path.iterdir())


# ---- what a wheel holds


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def package_files():
    """Every file of the package but compiled ones, relative to the repository."""
    paths = (path for path in (ROOT / "minirlhf").rglob("*") if path.is_file())
    return [path.relative_to(ROOT) for path in paths if "__pycache__" not in path.parts]


def test_a_wheel_has_every_folder_of_the_package(pyproject):
    """Each is a package with an `__init__.py`, which the pattern in pyproject.toml finds."""
    patterns = pyproject["tool"]["setuptools"]["packages"]["find"]["include"]
    folders = {path.parent for path in package_files()}
    assert len(folders) > 5
    for folder in folders:
        name = ".".join(folder.parts)
        assert (ROOT / folder / "__init__.py").exists(), name
        assert any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns), name


def test_a_wheel_has_the_scripts(pyproject):
    """`minirlhf sft` imports train_sft, wherever it was installed."""
    scripts = {path.stem for path in ROOT.glob("*.py")}
    assert scripts == set(pyproject["tool"]["setuptools"]["py-modules"])
    assert scripts == {module.module for module in command.COMMANDS.values()} & scripts


def test_a_wheel_has_the_data_files(pyproject):
    """The world and its tokenizer: whatever lies beside the modules and is no module."""
    patterns = pyproject["tool"]["setuptools"]["package-data"]
    files = [path for path in package_files() if path.suffix != ".py"]
    assert len(files) >= 2
    for path in files:
        names = patterns.get(".".join(path.parent.parts), [])
        assert any(fnmatch.fnmatchcase(path.name, pattern) for pattern in names), path


def test_a_wheel_has_the_command(pyproject):
    module, function = pyproject["project"]["scripts"]["minirlhf"].split(":")
    assert getattr(importlib.import_module(module), function) is command.main


def pipe(command, folder):
    """What a shell makes of a command line in which {} is the command minirlhf: exit code, output,
    error output."""
    line = command.format(f"PYTHONPATH={ROOT} {sys.executable} -m minirlhf")
    words = ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=100)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", ["--help", "world --documents 3000", "formats"])
def test_a_reader_of_the_output_may_go_away(tmp_path, words):
    """As `head` does. Nothing is said, and the exit code is that of SIGPIPE; or 0, where all was
    written before."""
    for _ in range(3):
        code, _, errors = pipe(f"{{}} {words} | true", tmp_path)
        assert code in (0, 141) and errors == ""
    assert code == 141 or words != "world --documents 3000"


def test_a_result_is_written_before_it_is_shown(colour_run, colours, tmp_path):
    """A reader that has gone away costs no file."""
    words = f"--reward-model {colour_run}/rm --data {colours}/comparisons.jsonl --to r.json"
    pipe(f"{{}} evaluate-rm {words} | true", tmp_path)
    assert (tmp_path / "r.json").stat().st_size > 100
    sft = f"{colour_run}/sft"
    words = f"--policy {sft} --baseline {sft} --data {colours}/prompts.jsonl --reward-model none"
    pipe(f"{{}} evaluate {words} --prompts 4 --max-new-tokens 4 --to p.json | true", tmp_path)
    assert (tmp_path / "p.json").stat().st_size > 100


def test_a_daemon_has_no_console(tmp_path):
    """Neither input nor output."""
    code, _, errors = pipe("{} world --documents 2 >&- <&-", tmp_path)
    assert (code, errors) == (0, "")
    code, _, errors = pipe("{} label --data none.jsonl <&- >&-", tmp_path)
    assert code == 2 and errors.startswith("error: ") and errors.count("\n") == 1
