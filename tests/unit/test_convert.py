"""The specification of tools/convert.py and tools/formats.py."""

import gzip
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from minirlhf.data import Comparison, Demonstration
from minirlhf.formats import forms, jsonl
from minirlhf.run.config import InputError
from minirlhf.tokenizer import get_tokenizer
from minirlhf.tools import convert, formats

PAIR = {"ask": "Q", "good": "A", "bad": "B"}
MAP = "--map=prompt=ask,chosen=good,rejected=bad"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder, with rows.jsonl in it as `place(rows)` writes them."""
    monkeypatch.chdir(tmp_path)

    def write(rows):
        Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return write


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_what_is_converted_is_read_back(place, name):
    """As a comparison, with ratings; compressed if the name says so."""
    rows = [{"input": "Q", "generations": ["x", "y"], "rating": [1, 4.5]}]
    place(rows)
    convert.main(["rows.jsonl", name])
    expected = [Comparison("\n\nHuman: Q\n\nAssistant:", [" x", " y"], [1, 0], [1, 4.5])]
    assert jsonl.read_comparisons(name) == expected == jsonl.read_comparisons("rows.jsonl")
    assert Path(name).read_bytes().startswith(b"\x1f\x8b") == name.endswith(".gz")


def test_the_first_row_or_a_flag_says_what_is_written(place):
    place([{"instruction": "Q", "output": "A"}])
    convert.main(["rows.jsonl", "a.jsonl"])
    record = Demonstration("\n\nHuman: Q\n\nAssistant:", " A")
    assert json.loads(Path("a.jsonl").read_text()) == vars(record)
    convert.main(["rows.jsonl", "b.jsonl", "--to", "prompts", "--template", "plain"])
    assert json.loads(Path("b.jsonl").read_text()) == {"prompt": "Q\n"}


def test_columns_go_with_the_prompts(place):
    place([{"question": "Q", "answer": "4", "level": 2}])
    convert.main(["rows.jsonl", "a.jsonl", "--to=prompts", "--columns=answer,level"])
    (prompt,) = jsonl.read_prompts("a.jsonl", columns=("answer", "level"))
    assert prompt.columns == {"answer": "4", "level": 2}


def test_three_records_are_shown_as_the_model_will_see_them(place, capsys):
    """The ids of prompt and response, each as data.encode gives them; the boundary is between the
    lines. What would be a command to the terminal is not shown."""
    place([PAIR | {"good": f"A{n}\x1b"} for n in range(5)])
    convert.main(["rows.jsonl", "a.jsonl", MAP])
    lines = capsys.readouterr().out.splitlines()
    tokenizer = get_tokenizer()
    tokens, boundary = convert.data.encode(tokenizer, "Q", "A0\x1b")
    start = lines.index("rows.jsonl:1")
    assert lines[start + 1 : start + 4] == [
        f"  prompt, {boundary} ids",
        "    'Q'",
        "    " + " ".join(map(str, tokens[:boundary])),
    ]
    assert lines[start + 4].startswith(f"  response of rank 0, {len(tokens) - boundary} ids")
    assert lines[start + 6] == "    " + " ".join(map(str, tokens[boundary:]))
    assert tokens[-1] == tokenizer.end_token
    assert [line for line in lines if line.startswith("rows.jsonl:")] == [
        f"rows.jsonl:{n}" for n in (1, 2, 3)
    ]
    assert not any("\x1b" in line for line in lines)


def test_what_is_left_out_is_counted_with_the_reason(place, capsys):
    """Of six rows one is a tie in texts, one is silent, one is cut and one is too long."""
    turn = "\n\nHuman: {}\n\nAssistant:"
    dialogue = turn.format("word " * 10) + " A" + turn.format("Q")
    rows = [
        {"prompt": "Q", "chosen": "A", "rejected": "B"},
        {"prompt": "Q", "chosen": "A", "rejected": "A"},
        {"prompt": "Q", "chosen": "A", "rejected": ""},
        {"prompt": dialogue, "chosen": " A", "rejected": " B"},
        {"prompt": "Q" * 100, "chosen": "A", "rejected": "B"},
        {"prompt": "Q", "chosen": "A", "rejected": "B", "extra": 1},
    ]
    place(rows)
    convert.main(["rows.jsonl", "a.jsonl", "--context", "40", "--drop-long"])
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == (
        "4 records of 6 rows are in a.jsonl; 1 rows were skipped; 1 records were too long for the "
        "context and left out; 1 prompts lost their oldest turns; 1 records have an empty "
        "response, which stays"
    )
    assert "skipped 1 of 6 rows (first: rows.jsonl:2): all responses are the same text" in err
    prompts = [record.prompt for record in jsonl.read_comparisons("a.jsonl")]
    assert prompts == ["Q", "Q", turn.format("Q"), "Q"]


def test_a_prompt_that_most_responses_repeat_is_removed(place):
    """As the readers do."""
    repeating = {"prompt": "Q: ", "chosen": "Q: A", "rejected": "Q: B"}
    place([repeating, repeating, {"prompt": "x", "chosen": "A", "rejected": "B"}])
    convert.main(["rows.jsonl", "a.jsonl"])
    expected = jsonl.read_comparisons("rows.jsonl")
    assert jsonl.read_comparisons("a.jsonl") == expected and expected[0].responses == ["A", "B"]


def test_from_standard_input_to_standard_output_nothing_else_is_written_there(
    place, monkeypatch, capsys
):
    content = (json.dumps(PAIR) + "\n").encode()
    stream = io.BufferedReader(io.BytesIO(gzip.compress(content)))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
    convert.main(["-", "-", MAP])
    out, err = capsys.readouterr()
    assert json.loads(out) == {"prompt": "Q", "responses": ["A", "B"], "ranks": [0, 1]}
    assert "1 records of 1 rows" in err


def test_nothing_is_replaced_unless_it_is_said(place):
    place([PAIR])
    Path("a.jsonl").write_text("mine")
    for words, message in (
        (["rows.jsonl", "a.jsonl", MAP], "a.jsonl is there already"),
        (["rows.jsonl", "rows.jsonl", MAP, "--overwrite"], "is what would be read"),
        (["rows.jsonl", "b.jsonl"], "rows.jsonl:1: "),
    ):
        with pytest.raises(InputError, match=message):
            convert.main(words)
    assert Path("a.jsonl").read_text() == "mine" and not Path("b.jsonl").exists()
    convert.main(["rows.jsonl", "a.jsonl", MAP, "--overwrite"])
    assert len(jsonl.read_comparisons("a.jsonl")) == 1


def test_a_record_that_does_not_fit_is_refused_by_line(place):
    place([{"prompt": "Q", "response": "A"}, {"prompt": "Q", "response": "long " * 9}])
    with pytest.raises(InputError, match="^rows.jsonl:2: .* tokens do not fit the context of 8"):
        convert.main(["rows.jsonl", "a.jsonl", "--context", "8"])


# ---- the list of forms


def test_the_list_has_every_form_with_its_fields_on_lines_of_a_screen(capsys):
    formats.main([])
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    assert names[: len(forms.NAMES)] == list(forms.NAMES)
    assert all(len(line) < 80 for line in lines[: lines.index("")])
    assert "better_response_id" in " ".join(lines)


def test_alternatives_that_are_many_stand_in_the_list_once(capsys):
    """Written out in every form that has them they were 330 lines."""
    formats.main([])
    listed = capsys.readouterr().out
    assert listed.count("model_output_a") == 1 and len(listed.splitlines()) < 200
    formats.main(["--of", "dolly"])
    found = capsys.readouterr().out
    captions = set(re.findall("[A-Z]{4,}", found)) & set(forms.CAPTIONS)
    assert captions == {"QUESTION", "ANSWER"}
    for caption in captions:
        fields = "".join(found.partition(f"  {caption} ")[2].split()).split(",")
        names = forms.CAPTIONS[caption].split("|")
        assert fields[: len(names) - 1] == names[:-1]


def test_the_list_can_be_searched(capsys):
    formats.main(["--of", "dolly"])
    assert capsys.readouterr().out.split()[0] == "instruction"
    with pytest.raises(InputError, match="no form has this word"):
        formats.main(["--of", "xyzzy"])


def test_a_refusal_of_the_command_is_one_line_and_code_two(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"ask": "q"}\n')
    command = [sys.executable, "-m", "minirlhf", "convert", "rows.jsonl", "out.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: rows.jsonl:1: no field 'prompt'; it has ask; ")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "out.jsonl").exists()
