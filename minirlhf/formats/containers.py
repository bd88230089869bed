"""Files of any kind -> rows: JSON Lines, JSON, CSV, TSV, Parquet; plain or gzip, a pipe, standard
input, several files, folders.

A row comes with its place, (file, line); in Parquet and JSON the number is that of the row. What
cannot be read as a row comes as a ValueError in its place, so that a reader may skip it.
"""

import csv
import glob
import json
import os
import re
from pathlib import Path

from minirlhf.formats.lines import LONGEST_LINE, BadLine, bad_byte, lines_of, open_text
from minirlhf.run.config import InputError
from minirlhf.run.files import listed

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
CHUNK = 2**16  # characters of JSON that are read at once
BETWEEN = re.compile(r"[\s,\[\]\ufeff]*")  # what stands between the objects of a list
BLANK = "\ufeff \t\r\n"
METADATA = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")
PARQUET = b"PAR1"  # what such a file begins with


def read_rows(data):
    """((file, number), row), ... of everything that `data` names: a file, "-" for standard input, a
    folder, a pattern with *, or several of them with commas between."""
    for path in paths(data):
        yield from (((path, number), row) for number, row in read_file(path))


def paths(data):
    """The files that `data` names, those of a folder in the order of their names. InputError for a
    folder without any."""
    for part in listed(data):
        if part != "-" and os.path.isdir(part):
            yield from folder_files(part)
        elif "*" in part and not os.path.exists(part):
            found = sorted(glob.glob(part, recursive=True))
            if not found:
                raise InputError(f"{part}: no file has such a name; check the path")
            yield from found
        else:
            yield part


def folder_files(folder):
    """The files with records below a folder; what begins with a dot and what describes a data set
    are none."""
    found = [
        path
        for path in sorted(Path(folder).rglob("*"))
        if path.name.removesuffix(".gz").endswith(KINDS) and path.name not in METADATA
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]  # fmt: skip
    if not found:
        raise InputError(f"{folder}: a directory without a file of {', '.join(KINDS)} in it")
    return map(str, found)


def read_file(path):
    """(number, row), ... of one file. Its first bytes say what it is; CSV is known by its name, and
    in a file without one of KINDS by a first line that is not JSON."""
    if is_parquet(path):
        yield from parquet_rows(path)
        return
    with open_text(path) as file:
        start = line = file.readline(CHUNK)
        while line and not line.strip(BLANK):
            line = file.readline(CHUNK)
            start += line
        yield from reader_of(str(path), line.strip(BLANK))(file, start)


def reader_of(path, line):
    """The function that reads the rows of a file with this name and this first line."""
    name = path.lower().removesuffix(".gz")
    if name.endswith((".csv", ".tsv")):
        return csv_rows
    if line.startswith("[") or line == "{":
        return json_rows
    if not name.endswith(KINDS) and line[:1] not in ("", "{", '"') and re.search("[,;\t]", line):
        return csv_rows
    return jsonl_rows


# ---- JSON


def jsonl_rows(file, start):
    """A row a line. An object with one list of objects in it, as {"data": [...]}, is those."""
    for number, line in lines_of(file, start):
        if isinstance(line, BadLine):
            yield number, line
            continue
        for row in rows_within(parse(line, "a line must be one JSON object")):
            yield number, row


def json_rows(file, text):
    """A list of objects, or objects one after another, over as many lines as they like. The number
    of a row is that of the line it begins in. What cannot be read ends the file."""
    decoder, number, expected = json.JSONDecoder(), 1, "a list must hold JSON objects"
    while text:
        place = 0
        while match := BETWEEN.match(text, place):
            number, place = number + match[0].count("\n"), match.end()
            if place == len(text):
                break
            try:
                value, end = decoder.raw_decode(text, place)
            except (ValueError, RecursionError):
                break  # it is not whole yet, or no JSON
            problem = bad_byte(text[place:end])
            for row in rows_within(BadLine(problem) if problem else checked(value, expected)):
                yield number, row
            number, place = number + text.count("\n", place, end), end
        text, more = text[place:], file.read(CHUNK)
        if text and (not more or len(text) > LONGEST_LINE or bad_byte(text)):
            yield number, BadLine(bad_byte(text) or str(parse(text, expected)))
            return
        text += more


def parse(text, expected):
    """text -> dictionary, or the ValueError that says why it is none."""
    try:
        return checked(json.loads(text), expected)
    except ValueError as error:  # of JSON, or a number of more digits than Python reads
        return ValueError(f"not JSON ({getattr(error, 'msg', error)}); {expected}")
    except RecursionError:
        return ValueError("JSON within JSON too often; a line must be one flat object")


def checked(row, expected):
    """A value of JSON if it is a row, or the ValueError that says why it is none."""
    if not isinstance(row, dict):
        return ValueError(f"a JSON {type(row).__name__}; {expected}")
    if half := re.search("[\ud800-\udfff]", json.dumps(row, ensure_ascii=False)):
        return ValueError(
            f"holds {half[0]!r}, half of a surrogate pair, which no file or screen can show; "
            "write the whole character, or remove it"
        )
    return row


def rows_within(row):
    """The rows of an object whose only list, under one of these names, is of objects; else the
    object is the row, as one with an instruction is (self-instruct)."""
    if isinstance(row, dict) and len(row) <= 5 and "instruction" not in row:
        for name in ("data", "rows", "train", "examples", "instances"):
            values = row.get(name)
            if isinstance(values, list) and values and all(isinstance(x, dict) for x in values):
                if not any("role" in x or "from" in x for x in values):
                    return [x["row"] if isinstance(x.get("row"), dict) else x for x in values]
    return [row]


# ---- tables


def csv_rows(file, start):
    """A row a line of cells, which are text; the first line has the names. The character that
    separates them is the one of , ; and tab that the first line has most of."""
    place, bad = [1], []

    def texts():
        for place[0], line in lines_of(file, start):
            if isinstance(line, BadLine):
                bad.append((place[0], line))
            else:
                yield line

    csv.field_size_limit(LONGEST_LINE)
    separator = max(",;\t", key=start.partition("\n")[0].count)
    reader, names = csv.reader(texts(), delimiter=separator, strict=True), None
    while True:
        end = place[0]
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            remedy = "quotes go around a whole cell, and are doubled in it"
            yield min(end + 1, place[0]), ValueError(f"not a row of a table ({error}); {remedy}")
            continue
        yield from bad
        bad.clear()
        if names is None:
            names = [name.strip() for name in cells]
            if twice := [name for name in names if name and names.count(name) > 1]:
                yield place[0], ValueError(f"the first line has the name {twice[0]!r} twice")
                return
        elif cells:
            yield place[0], named_cells(names, cells)
    yield from bad


def named_cells(names, cells):
    """{name: cell}, or a ValueError where their numbers differ."""
    if len(cells) != len(names):
        problem = f"{len(cells)} cells below a first line with {len(names)} names"
        return ValueError(f"{problem}; put quotes around cells with a separator in them")
    return dict(zip(names, cells, strict=True))


def is_parquet(path):
    """Whether a file is one of Parquet. A pipe is not looked at: it could be read only once."""
    if str(path) == "-" or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(len(PARQUET)) == PARQUET


def parquet_rows(path):
    """The rows of a Parquet file, a thousand at a time."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        other = "pandas.read_parquet(file).to_json(new, orient='records', lines=True)"
        remedy = f"pip install -e '.[parquet]' reads it; or write it as JSON Lines: {other}"
        raise InputError(f"{path}: a Parquet file; {remedy}") from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: a damaged Parquet file; fetch it again") from error
