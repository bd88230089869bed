"""The specification of formats/lines.py: bytes of any kind -> text, or one line that says where and
what."""

import gzip
import io
import json
import os
import threading
import tracemalloc

import pytest

from minirlhf.formats import jsonl, text
from minirlhf.formats.lines import LONGEST_LINE, numbered_lines, read_text
from minirlhf.run.config import InputError
from minirlhf.tokenizer import get_tokenizer


@pytest.fixture
def write(tmp_path):
    def write_bytes(content, name="file.jsonl"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write_bytes


def refusal(call, *args):
    with pytest.raises(InputError) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def lines(path):
    return list(numbered_lines(path))


def test_a_byte_that_is_not_utf8_is_named_with_its_line(write):
    """In a file of a million lines nobody finds it otherwise."""
    content = b'{"prompt": "a"}\n\n{"prompt": "caf\xe9"}\n'
    for kind in (content, gzip.compress(content)):
        path = write(kind)
        message = refusal(jsonl.read_prompts, path)
        assert message.startswith(f"{path}:3: not UTF-8 text (byte 0xe9 after 15 characters)")
        assert "save it as UTF-8" in message
    path = write(b"one\ntwo\r\nthree \xff four\n", "text.txt")
    assert f"{path}:3: not UTF-8 text (byte 0xff after 6" in refusal(read_text, path)


def test_byte_order_marks_are_no_text(write):
    """Windows begins a file with one, and a file that is joined from several has more."""
    bom = b"\xef\xbb\xbf"
    record = b'{"prompt": "a"}\n'
    assert jsonl.read_prompts(write(bom + record + bom + record)) == ["a", "a"]
    path = write(bom + b"one\n" + bom + b"two" + bom + b"three", "text.txt")
    assert read_text(path) == "one\ntwothree"
    tokenizer = get_tokenizer()
    examples = text.windows(path, tokenizer, 100)
    assert [tokenizer.decode(e.tokens) for e in examples] == ["one\ntwothree"]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_pipe_is_read_as_a_file_is(tmp_path, compressed):
    """`--data <(jq ...)` cannot be read twice: the test for gzip used to eat two bytes."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    content = b'{"prompt": "a"}\n{"prompt": "b"}\n'
    content = gzip.compress(content) if compressed else content
    writer = threading.Thread(target=path.write_bytes, args=[content])
    writer.start()
    assert jsonl.read_prompts(path) == ["a", "b"]
    writer.join()


def test_lines_end_as_they_do_on_any_system(write):
    """And a blank line keeps its number."""
    assert lines(write(b"a\r\nb\rc\n\n \nd")) == [(1, "a\n"), (2, "b\n"), (3, "c\n"), (6, "d")]


FORMATS = {
    "Parquet": b"PAR1\x15\x04",
    "zip": b"PK\x03\x04\x14\x00",
    "zstd": b"\x28\xb5\x2f\xfd\x04",
    "bzip2": b"BZh91AY",
    "xz": b"\xfd7zXZ\x00",
    "Arrow": b"ARROW1\x00",
    "UTF-16": '{"prompt": "a"}\n'.encode("utf-16"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_another_format_is_named_with_the_remedy(write, name):
    """People have Parquet from the Hugging Face Hub; "not UTF-8" does not help them."""
    path = write(FORMATS[name])
    for read in (jsonl.read_prompts, read_text):
        message = refusal(read, path)
        assert message.startswith(f"{path}: ") and name in message and ";" in message
    assert "pandas.read_parquet" in refusal(lines, write(FORMATS["Parquet"]))
    assert "gunzip" in refusal(read_text, write(gzip.compress(b"text"), "text.txt"))


def test_a_line_that_fills_the_memory_is_refused_unread(write):
    """200 MB of zeros are 200 kB of gzip, and 2 GB are 2 MB. 10 million characters are read."""
    size = 200_000_000
    content = io.BytesIO()
    with gzip.GzipFile(fileobj=content, mode="wb") as file:
        file.write(b'{"prompt": "a"}\n')
        for _ in range(size // 1_000_000):
            file.write(b"0" * 1_000_000)
    path = write(content.getvalue())
    assert path.stat().st_size < size / 500
    tracemalloc.start()
    message = refusal(jsonl.read_prompts, path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message.startswith(f"{path}:2: longer than 10,000,000 characters")
    assert peak < size / 2


def test_a_line_of_ten_million_characters_is_read(write):
    """The limit is what the message says."""
    line = b"x" * (LONGEST_LINE - 1) + b"\n"
    assert [len(text) for _, text in lines(write(line))] == [LONGEST_LINE]
    assert "longer than" in refusal(lines, write(b"x" + line))


DEEP = {"list": "[" * 2000 + "]" * 2000, "object": '{"a":' * 2000 + "1" + "}" * 2000}


@pytest.mark.parametrize("kind", DEEP)
def test_json_that_is_nested_too_often_is_one_line(write, kind):
    """2,000 levels end in a RecursionError."""
    path = write(f'{{"prompt": "p", "x": {DEEP[kind]}}}\n'.encode())
    assert f"{path}:1: JSON within JSON too often" in refusal(jsonl.read_prompts, path)


@pytest.mark.parametrize("rank", ["1e20", "100000000000000000000", "2147483648", "-1", "true"])
def test_a_rank_that_no_tensor_holds_is_refused(write, rank):
    """It used to be an OverflowError in the middle of training."""
    record = f'{{"prompt": "p", "responses": ["a", "b"], "ranks": [0, {rank}]}}\n'
    assert "field 'ranks'" in refusal(jsonl.read_comparisons, write(record.encode()))


def test_what_a_record_holds_cannot_break_the_message(write):
    """A field's name may hold a line break, a command to the terminal, or a megabyte."""
    record = {"a\nb\x1b]0;title\x07": 1, "x" * 1_000_000: 2}
    message = refusal(jsonl.read_prompts, write(json.dumps(record).encode()))
    assert "\x1b" not in message and len(message) < 1500
