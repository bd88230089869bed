"""The specification of formats/containers.py: files of any kind -> rows with their places."""

import csv
import gzip
import io
import json
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest

from minirlhf.data import Comparison
from minirlhf.formats import jsonl
from minirlhf.formats.containers import read_rows
from minirlhf.run.config import InputError

ROWS = [
    {"prompt": 'a, "quoted"\nline', "chosen": "x;y", "rejected": "\tz"},
    {"prompt": "naïve 東京 🙂", "chosen": "b", "rejected": "c"},
]
EXPECTED = [Comparison(row["prompt"], [row["chosen"], row["rejected"]], [0, 1]) for row in ROWS]


def table(delimiter, rows=ROWS, newline="\r\n"):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator=newline)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


CONTENTS = {
    "rows.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "rows.ndjson": "".join(json.dumps(row) + "\r\n" for row in ROWS),
    "array.json": json.dumps(ROWS),
    "indented.json": json.dumps(ROWS, indent=2, ensure_ascii=False),
    "stream.json": "".join(json.dumps(row, indent=1) + "\n" for row in ROWS),
    "nested.json": json.dumps({"version": 1, "data": ROWS}),
    "viewer.json": json.dumps({"rows": [{"row_idx": 0, "row": row} for row in ROWS]}),
    "rows.csv": table(","),
    "semicolon.csv": table(";"),
    "rows.tsv": table("\t", newline="\n"),
    "table": table(","),
    "array": "\n " + json.dumps(ROWS),
}


@pytest.fixture
def write(tmp_path):
    def to_file(content, name):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path / name)

    return to_file


def refusal(call, *args, **flags):
    with pytest.raises(InputError) as error:
        call(*args, **flags)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "mark"])
def test_every_kind_of_file_gives_the_same_rows_plain_and_compressed(write, name, start):
    """With and without a byte order mark. Line ends inside a cell are one character."""
    content = (start + CONTENTS[name]).encode()
    assert jsonl.read_comparisons(write(content, name)) == EXPECTED
    assert jsonl.read_comparisons(write(gzip.compress(content), name + ".gz")) == EXPECTED


@pytest.mark.parametrize("name", ["rows.jsonl", "array.json", "table"])
def test_standard_input_is_a_file_of_the_name_minus(monkeypatch, name):
    stream = io.BufferedReader(io.BytesIO(CONTENTS[name].encode()))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
    assert jsonl.read_comparisons("-") == EXPECTED


def test_several_files_folders_and_patterns_are_read_one_after_another(write, tmp_path):
    """A folder in the order of names, below it too; what describes a data set is no data."""
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / ".cache").mkdir()
    first, second = (write(json.dumps(row), f"{n}, b.jsonl") for n, row in enumerate(ROWS))
    write(CONTENTS["rows.csv"], "data/b.csv")
    write(json.dumps(ROWS[1]), "data/deep/c.jsonl")
    for name in ("data/dataset_info.json", "data/README.md", "data/.cache/x.jsonl"):
        write("{}", name)
    folder = str(tmp_path / "data")
    assert jsonl.read_comparisons(first) == EXPECTED[:1]  # a comma in a name that exists
    one = write(json.dumps(ROWS[0]), "one.jsonl")
    assert jsonl.read_comparisons(f"{one},{folder}") == [EXPECTED[0], *EXPECTED, EXPECTED[1]]
    assert jsonl.read_comparisons(f"{tmp_path}/*, b.jsonl".replace("*, b", "[!o]*")) == EXPECTED
    assert "no file has such a name" in refusal(jsonl.read_prompts, f"{tmp_path}/*.txt")
    assert second


def test_the_place_of_a_row_is_its_file_and_line(write):
    """In the second of two files; in CSV it is the line that a row ends in, in a list of JSON the
    one it begins in."""
    one = write(CONTENTS["rows.jsonl"], "one.jsonl")
    for name, lines in (("rows.csv", [3, 4]), ("indented.json", [2, 7]), ("rows.jsonl", [1, 2])):
        path = write(CONTENTS[name], name)
        places = [place for place, _ in read_rows(f"{one},{path}")]
        assert places[2:] == [(path, line) for line in lines], name


def test_cells_are_read_as_numbers_truths_and_turns(write):
    """In CSV everything is text, and pandas writes lists as Python does."""
    turns = str([{"role": "user", "content": "it's Q"}])
    rows = [
        {"prompt": turns, "completion": "a", "label": "False"},
        {"prompt": turns, "completion": "b", "label": "1"},
    ]
    (record,) = jsonl.read_comparisons(write(table(",", rows), "kto.csv"))
    assert record.prompt == "\n\nHuman: it's Q\n\nAssistant:" and record.ranks == [1, 0]


BAD = {
    "cells.csv": ("prompt\na\nb,c\n", ":3: 2 cells below a first line with 1 names"),
    "list.json": ('[{"prompt": "a"}, 3]', ":1: a JSON int; a list must hold JSON objects"),
    "broken.json": ('[{"prompt": "a"},\n{"prompt": }]', ":2: not JSON"),
    "cut.json": ('[{"prompt": "a"},\n\n{"prompt": "b"', ":3: not JSON"),
    "bytes.json": (b'[{"prompt": "a"}, {"prompt": "\xff"}]', ":1: not UTF-8 text"),
    "bytes.csv": (b"prompt\na\n\xff\n", ":3: not UTF-8 text"),
    "long.jsonl": (
        '{"prompt": "a"}\n' + "x" * 10_000_001 + "\n",
        ":2: longer than 10,000,000 characters",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_refused_by_line_or_skipped_and_counted(write, capsys, name):
    """--skip-bad goes on with the rest of the file."""
    content, message = BAD[name]
    path = write(content, name)
    assert refusal(jsonl.read_prompts, path).startswith(path + message)
    assert jsonl.read_prompts(path, skip_bad=True) == ["a"]
    assert capsys.readouterr().err.startswith(
        f"{path}: skipped 1 of 2 rows (first: {path}{message[:2]}"
    )


def test_after_a_bad_line_the_next_ones_are_read(write):
    """A line of 10 MB is passed over, whatever its length, and so is one with too many cells."""
    lines = ['{"prompt": "a"}', "y" * 25_000_000, '{"prompt": 3}', "{", '{"prompt": "b"}']
    assert jsonl.read_prompts(write("\n".join(lines), "a.jsonl"), skip_bad=True) == ["a", "b"]
    assert jsonl.read_prompts(write("prompt\na\nb,c\nd\n", "a.csv"), skip_bad=True) == ["a", "d"]


def test_reasons_beyond_ten_are_counted_together(write, capsys):
    """A file may be wrong in a thousand ways."""
    lines = ['{"prompt": "a"}'] * 20 + [json.dumps({f"field{n}": n}) for n in range(15)]
    jsonl.read_prompts(write("\n".join(lines), "a.jsonl"), skip_bad=True)
    message = capsys.readouterr().err.splitlines()
    assert len(message) == 11 and "skipped 5 rows for other reasons" in message[-1]


def test_a_list_of_json_is_not_held_in_memory(write):
    """16 MB on one line, as json.dump writes it."""
    path = write(json.dumps([{"prompt": "p" * 1000}] * 16_000), "list.json")
    tracemalloc.start()
    count = sum(1 for _ in read_rows(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 16_000 and peak < 3_000_000


# ---- Parquet


def test_parquet_is_read_with_nested_turns_and_in_a_folder(tmp_path):
    """As it comes from the Hugging Face Hub."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    user = {"role": "user", "content": "Q"}
    sides = {
        side: [[user, {"role": "assistant", "content": side}]] for side in ("chosen", "rejected")
    }
    (tmp_path / "data").mkdir()
    parquet.write_table(arrow.table(sides), tmp_path / "data" / "train-00000-of-00001.parquet")
    expected = [Comparison("\n\nHuman: Q\n\nAssistant:", [" chosen", " rejected"], [0, 1])]
    assert jsonl.read_comparisons(str(tmp_path)) == expected
    path = tmp_path / "cut.parquet"
    path.write_bytes((tmp_path / "data" / "train-00000-of-00001.parquet").read_bytes()[:200])
    assert "a damaged Parquet file" in refusal(jsonl.read_comparisons, str(path))


def test_without_the_extra_parquet_is_refused_with_the_remedy(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = refusal(jsonl.read_prompts, write(b"PAR1....PAR1", "a.parquet"))
    assert "pip install -e '.[parquet]'" in message and "pandas.read_parquet" in message


def test_the_extra_is_declared():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'parquet = ["pyarrow' in text
