"""Texts of any language and of any kind go through a run: into files, and onto any console."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minirlhf.formats import jsonl
from minirlhf.run.config import InputError
from minirlhf.run.metrics import printable, table

ROOT = Path(__file__).parents[2]
TITLE = "\x1b]0;owned\x07"  # a terminal that reads this changes its title
PROMPTS = ["Выбери", "选一个", f"Pick {TITLE}"]


@pytest.fixture
def records(tmp_path):
    """A file of prompts that a Western console cannot show, and one with an escape sequence."""
    path = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS * 4]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_a_run_shows_any_text_on_a_console_of_another_encoding(out, records):
    """A process whose console is CP1252: PPO used to end at its first evaluation, before the first
    save, so that --resume ended there too. The files are UTF-8, whatever the locale."""
    flags = "--updates 1 --batch-size 4 --minibatches 4 --held-out 3 --max-new-tokens 3".split()
    command = [sys.executable, str(ROOT / "train_ppo.py"), "--out", str(out), *flags]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run(
        [*command, "--data", str(records)], env=environment, capture_output=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr.decode("cp1252", errors="replace")
    assert b"?" in done.stdout and b"\x1b" not in done.stdout
    samples = (out / "ppo" / "samples.txt").read_text(encoding="utf-8")
    assert "Выбери" in samples or "选一个" in samples
    assert "\x1b" not in samples


def test_what_a_terminal_would_take_for_a_command_is_shown_as_a_replacement_character():
    """The title-setting sequence, a bell, and a C1 control; letters, accents and signs stay."""
    assert printable(f"a{TITLE}b") == "a\ufffd]0;owned\ufffdb"
    assert printable("é 字 🙂 ±") == "é 字 🙂 ±"
    assert printable("\x9b31m") == "\ufffd31m"
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", "\n".join(table([TITLE], [["\x9b"]])))


@pytest.mark.parametrize("text", ["Say \\ud83d", "\\ude00 first", '", "x": "\\udfff'])
def test_half_of_a_surrogate_pair_is_refused_with_its_line(tmp_path, text):
    """It is legal JSON, and no text: the first print or write of it would end the run."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "whole \\\\ud83d\\\\ude42"}\n{"prompt": "' + text + '"}\n')
    with pytest.raises(InputError, match=r"prompts.jsonl:2: holds .*half of a surrogate pair"):
        jsonl.read_prompts(path)


def test_a_whole_surrogate_pair_is_a_character(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "whole \\ud83d\\ude42"}\n')
    assert jsonl.read_prompts(path) == ["whole 🙂"]


def test_every_text_file_is_opened_with_its_encoding():
    """The default is the locale's, and another one on the next machine."""
    for path in [*(ROOT / "minirlhf").rglob("*.py"), *ROOT.glob("train_*.py")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            others = ("os.open(", "def read_text(", "lines.read_text(", "gzip")
            if re.search(r"\b(open|read_text)\(", line) and not any(x in line for x in others):
                binary = re.search(r'"[rwax]b\+?"', line)
                assert "encoding=" in line or binary, f"{path.name}: {line}"
