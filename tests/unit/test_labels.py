"""The specification of a file of labels: every answer is there, whatever happens, and other readers
take the file for comparisons."""

import json
import os
import threading

import pytest

from minirlhf.data import Comparison
from minirlhf.formats import jsonl, labels
from minirlhf.formats.labels import Label
from minirlhf.run.config import InputError


def answer(prompt="p", labeller="ada", kind="better", ranks=(0, 1), **more):
    return Label(prompt, ["a", "b"], list(ranks), kind, labeller, "2026-11-26T07:30:00Z", **more)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.jsonl"


def test_a_label_is_read_back_as_it_was_added(path):
    first = answer(flags=[["rude"], []], ratings=[2, 5])
    second = Label("q", ["a", "b", "own \u00e9"], [1, 1, 0], "tie", "ben", written=True)
    labels.add(path, first)
    labels.add(path, second)
    assert labels.read_labels(path) == [first, second]
    assert second.shown == ["a", "b"] and first.shown == ["a", "b"]


def test_the_readers_of_comparisons_take_choices_and_skip_ties_and_skipped_ones(path, capsys):
    """What was written is better than all that was shown."""
    labels.add(path, answer("one"))
    labels.add(path, Label("two", ["a", "b", "own"], [1, 2, 0], "better", "ada", written=True))
    labels.add(path, answer("three", ranks=(1, 0), ratings=[1, 4]))
    labels.add(path, answer("four", kind="tie", ranks=(0, 0)))
    labels.add(path, answer("five", kind="skip", ranks=(0, 0)))
    assert jsonl.read_comparisons(path) == [
        Comparison("one", ["a", "b"], [0, 1]),
        Comparison("two", ["a", "b", "own"], [1, 2, 0]),
        Comparison("three", ["a", "b"], [1, 0], [1, 4]),
    ]
    message = capsys.readouterr().err
    assert f"skipped 2 of 5 rows (first: {path}:4): all ranks are equal" in message


def test_the_disk_holds_an_answer_when_it_was_added(path, monkeypatch):
    """The file is flushed to the disk after it has the line."""
    sizes = []
    flush = os.fsync
    monkeypatch.setattr(os, "fsync", lambda n: (sizes.append(os.fstat(n).st_size), flush(n)))
    labels.add(path, answer())
    assert path.stat().st_size == len(labels.line_of(answer())) and path.stat().st_size in sizes


def test_the_last_answer_of_a_labeller_is_taken_back_and_no_other_one(path):
    for prompt, labeller in (("one", "ada"), ("two", "ada"), ("three", "ben")):
        labels.add(path, answer(prompt, labeller))
    path.chmod(0o640)
    assert labels.remove_last(path, "ada") == answer("two")
    assert [x.prompt for x in labels.read_labels(path)] == ["one", "three"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert labels.remove_last(path, "cy") is None
    assert [x.prompt for x in labels.read_labels(path)] == ["one", "three"]
    assert os.listdir(path.parent) == [path.name]


def test_an_answer_is_taken_back_through_a_link(path, tmp_path):
    """The link stays one: the file that it names has the answers."""
    labels.add(path, answer("one"))
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    labels.remove_last(link, "ada")
    assert link.is_symlink() and path.read_bytes() == b""


@pytest.mark.parametrize("torn", ['{"prompt": "tw', "\0\0\0"])
def test_a_last_line_that_was_cut_off_is_removed_before_the_next_answer(path, torn, capsys):
    labels.add(path, answer("one"))
    with open(path, "a") as file:
        file.write(torn)
    assert labels.read_labels(path) == [answer("one")]
    labels.add(path, answer("three"))
    assert labels.read_labels(path) == [answer("one"), answer("three")]
    assert "a last line that was cut off is removed" in capsys.readouterr().err


def test_a_whole_last_line_without_its_end_is_kept(path):
    path.write_text(labels.line_of(answer("one")).rstrip("\n"))
    labels.add(path, answer("two"))
    assert [x.prompt for x in labels.read_labels(path)] == ["one", "two"]


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"labeller": None}, "'labeller' must be text"),
        ({"decision": "good"}, "'decision' must be one of better, tie, skip, it is 'good'"),
        ({"ranks": [0]}, "'ranks' must be a list of 2 whole numbers"),
        ({"flags": [["rude"]]}, "'flags' must be 2 lists of texts"),
        ({"written": 1}, "'written' must be true or false"),
    ],
)
def test_a_line_that_is_no_label_is_refused_with_its_place(path, change, problem):
    row = json.loads(labels.line_of(answer())) | change
    path.write_text(labels.line_of(answer()) + json.dumps(row) + "\n")
    with pytest.raises(InputError, match="labels.jsonl:2: field " + problem):
        labels.read_labels(path)


def test_a_file_of_other_comparisons_is_no_file_of_labels(path):
    """Else the answers would be appended to somebody's data."""
    path.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(InputError, match=":1: no label: .* the fields prompt, chosen, rejected"):
        labels.read_labels(path)


def test_many_who_write_and_take_back_at_once_lose_nothing(path):
    """Four labellers, each of whom takes every third answer back, through the same file. A writer
    that did not wait, or that waited for a file that was replaced meanwhile, would lose lines."""

    def write(name):
        for i in range(15):
            labels.add(path, answer(f"{name} {i}", name))
            if i % 3 == 2:
                labels.remove_last(path, name)

    writers = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    prompts = [label.prompt for label in labels.read_labels(path)]
    assert sorted(prompts) == sorted(f"{n} {i}" for n in "abcd" for i in range(15) if i % 3 != 2)
