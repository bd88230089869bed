"""The specification of run/metrics.py: one JSON line a step, and tables for people."""

import builtins
import errno
import io
import json
import os
from types import SimpleNamespace

import pytest
import torch

from minirlhf.run.metrics import (
    Clock,
    Metrics,
    append,
    cut_samples,
    read_metrics,
    row,
    samples_size,
    screen_table,
    shorten,
    table,
    write_samples,
)


def write_steps(folder, steps):
    """metrics.jsonl with that many steps, whose loss is the step. Returns its path."""
    metrics = Metrics(folder)
    for step in range(steps):
        metrics.log(step, loss=float(step))
    return folder / "metrics.jsonl"


def test_a_step_is_one_line_of_json_that_can_be_read_at_once(tmp_path):
    """A plot of a running job reads the file while it grows, so no line may stay in a buffer."""
    metrics = Metrics(tmp_path)
    assert read_metrics(tmp_path) == []
    metrics.log(0, loss=torch.tensor(0.5), accuracy=1, kl=None)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 0, "loss": 0.5, "accuracy": 1.0}\n'
    metrics.log(1, loss=0.25)
    assert read_metrics(tmp_path) == [
        {"step": 0, "loss": 0.5, "accuracy": 1.0},
        {"step": 1, "loss": 0.25},
    ]


def test_a_number_keeps_seven_digits(tmp_path):
    """The rest is rounding error, as in 0.10000000149011612, which is float32's 0.1."""
    Metrics(tmp_path).log(0, a=torch.tensor(0.1), b=123456789.0, c=1.23456789e-20)
    expected = {"step": 0, "a": 0.1, "b": 123456800.0, "c": 1.234568e-20}
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == expected


def test_resuming_cuts_the_file_back_to_the_steps_before(tmp_path):
    """The steps after the last checkpoint are computed again. Without the cut they would be in the
    file twice, and a plot would run backwards."""
    path = write_steps(tmp_path, 5)
    Metrics(tmp_path, step=3).log(3, loss=30.0)
    pairs = [(line["step"], line["loss"]) for line in read_metrics(tmp_path)]
    assert pairs == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 30.0)]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file stays


def test_a_new_run_starts_an_empty_file(tmp_path):
    """Two runs in one file would be plotted as one."""
    write_steps(tmp_path, 3)
    Metrics(tmp_path)
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("torn", ['{"step": 2, "lo', '{"step": 2, "loss": 1.0}', '{"step": 2'])
def test_a_last_line_that_was_cut_short_is_dropped(tmp_path, torn):
    """A killed process leaves one. Without its newline it may be half a line even where it parses:
    "1.0" of "1.05"."""
    path = write_steps(tmp_path, 2)
    with open(path, "a") as file:
        file.write(torn)
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1]
    Metrics(tmp_path, step=9).log(9, loss=0.0)
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1, 9]


WRONG = ("x", [1], {}, True, 10**400, -(10**400))


@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:9])
def test_a_line_with_what_is_no_number_is_dropped(tmp_path, capsys, value):
    """The signs of a sick run are means of the numbers, and a resumed run reads them: it died of a
    text. None is a number that was not finite."""
    path = write_steps(tmp_path, 2)
    good = path.read_text()
    for record in ({"step": 2, "kl": value}, {"step": value, "kl": 1.0}, {"step": -1}):
        path.write_text(good + json.dumps(record) + '\n{"step": 3, "kl": null}\n')
        assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1, 3]
        assert "1 unreadable lines left out, the first is line 3" in capsys.readouterr().err


def test_a_row_is_aligned_and_shows_three_decimals(capsys):
    """Aligned numbers are easy to compare. What was not measured is a dash, not a zero."""
    row("update", "score", "kl")
    row(20, 1.23456, None)
    lines = ["     update      score         kl", "         20      1.235          -", ""]
    assert capsys.readouterr().out.split("\n") == lines


def test_a_table_is_as_wide_as_its_widest_cells():
    """Every cell is below the heading of its column, whatever its length."""
    assert table(("prompt", "score"), [("a", 1.0), ("longer one", -0.126)]) == [
        "prompt      score",
        "-----------------",
        "a           1.00",
        "longer one  -0.13",
    ]


def test_a_long_cell_is_cut_and_a_line_break_does_not_break_the_table():
    """A policy in training writes long texts and line breaks."""
    assert shorten("one\n two\tthree", 13) == "one two three"
    assert shorten("one two three!", 13) == "one two th..."
    assert table(("a", "b"), [("x" * 9, 1)], width=8)[2] == "xxxxx...  1"


@pytest.mark.parametrize("columns", [80, 100])
def test_a_table_is_no_wider_than_the_terminal_and_shows_the_same_words(monkeypatch, columns):
    """PPO's samples are five columns, 154 characters, which a terminal of 80 would break anywhere.
    A cell goes on below, and an empty line ends a row."""
    texts = [f"{word} " * 9 for word in ("alpha", "beta", "gamma")]
    header, rows = ("prompt", "SFT", "policy", "score"), [(*texts, 1.0), ("a", "b", "c", -2.5)]
    assert screen_table(header, rows) == table(header, rows)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = screen_table(header, rows)
    assert columns - 5 < max(map(len, lines)) <= columns
    words = " ".join(table(header, rows)).split()
    assert sorted(" ".join(lines[2:]).split()) == sorted(words[len(header) + 1 :])
    assert lines[-3] == lines[-1] == "" and lines[-2].split() == ["a", "b", "c", "-2.50"]


def test_samples_txt_keeps_whole_texts_and_the_console_cuts_them(tmp_path, capsys):
    """Long responses go wrong at their end, which is to be seen in the file. Each table is appended
    to it."""
    text = "word " * 40
    write_samples(tmp_path, "first", ("response",), [(text,)])
    write_samples(tmp_path, "second", ("response",), [("short",)])
    samples = (tmp_path / "samples.txt").read_text()
    assert text.strip() in samples and samples.index("first") < samples.index("second")
    printed = capsys.readouterr().out
    assert text.strip() not in printed and "..." in printed and "short" in printed


def test_the_temporary_file_is_renamed_and_never_written_in_place(tmp_path, monkeypatch):
    """A crash while the file is cut back must not lose the metrics of a week."""
    path = write_steps(tmp_path, 4)
    text = path.read_text()

    def crash(*args):
        raise OSError("the power went")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="the power went"):
        Metrics(tmp_path, step=2)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "bad",
    [b"\0" * 50, b"\xff\xfe", b"[1]", b"3", b'{"loss": 1.0}', b'{"step": "2"}', b"", b"[" * 9999],
)
def test_a_line_that_cannot_be_read_is_dropped_and_that_is_said(tmp_path, capsys, bad):
    """A power failure leaves a row of NULs where the last lines were. The run used to be dead: no
    --resume, no plot."""
    path = write_steps(tmp_path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], bad + b"\n", *lines[2:]]))
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1, 2]
    message = capsys.readouterr().err
    assert f"{path}: 1 unreadable lines left out, the first is line 3" in message
    Metrics(tmp_path, step=3)
    assert path.read_bytes() == b"".join(lines)
    capsys.readouterr()
    assert len(read_metrics(tmp_path)) == 3 and not capsys.readouterr().err


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path, monkeypatch):
    """The next line would be glued to it."""
    path = write_steps(tmp_path, 2)
    before = path.read_bytes()
    real = open

    class Full(io.FileIO):
        def write(self, content):
            if len(content) < 10:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(content[:5])

    monkeypatch.setattr(builtins, "open", lambda name, *_, **options: Full(name, "a"))
    with pytest.raises(OSError, match="No space left") as error:
        append(path, '{"step": 2, "loss": 1.0}\n')
    monkeypatch.setattr(builtins, "open", real)
    assert error.value.filename == str(path) and path.read_bytes() == before


@pytest.mark.parametrize("name", ["microscope.jsonl", "evaluations.jsonl"])
def test_the_records_of_a_step_are_cut_back_to_the_checkpoint_too(tmp_path, name):
    """After two steps, those of the steps 0 and 1 stay; a run that begins anew has none."""
    lines = [json.dumps({"step": step, "text": "x"}) + "\n" for step in (0, 1, 1, 2, 5)]
    (tmp_path / name).write_text("".join(lines))
    cut_samples(tmp_path, {"step": 2, "samples_bytes": 0})
    assert (tmp_path / name).read_text() == "".join(lines[:3])
    cut_samples(tmp_path, {"step": 0})
    assert (tmp_path / name).read_text() == ""
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_lap_is_the_time_since_the_one_before(monkeypatch):
    readings = iter([100.0, 101.0, 103.0, 107.5])
    time = SimpleNamespace(perf_counter=lambda: next(readings))
    monkeypatch.setattr("minirlhf.run.metrics.time", time)
    clock = Clock()
    for name in ("rollout_s", "scoring_s", "update_s"):
        clock.lap(name)
    assert clock.seconds == {"rollout_s": 1.0, "scoring_s": 2.0, "update_s": 4.5}
    assert clock.total() == 7.5


def test_samples_are_cut_back_to_what_the_checkpoint_saw(tmp_path):
    """Tables of steps that are computed again were in the file twice. A checkpoint of an older
    version does not say how long the file was: nothing is cut. Without any checkpoint the run
    begins anew."""
    path = tmp_path / "samples.txt"
    cut_samples(tmp_path, {"step": 0})
    assert samples_size(tmp_path) == 0 and not path.exists()
    write_samples(tmp_path, "after 1 updates", ("a",), [("b",)])
    size, text = samples_size(tmp_path), path.read_text()
    write_samples(tmp_path, "after 2 updates", ("a",), [("b",)])
    cut_samples(tmp_path, {"step": 1})
    assert "after 2" in path.read_text()
    for _ in range(2):  # a file that is shorter by then stays so
        cut_samples(tmp_path, {"step": 1, "samples_bytes": size})
        assert path.read_text() == text
    cut_samples(tmp_path, {"step": 1, "samples_bytes": size + 10})
    assert path.read_text() == text
    cut_samples(tmp_path, {"step": 0})
    assert path.read_text() == ""
