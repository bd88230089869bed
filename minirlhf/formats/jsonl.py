"""JSON Lines -> the records of data.py.

A file is JSON Lines, plain or gzip. A line has one of these forms:

    {"prompt": ..., "response": ...}                      a demonstration; "completion" will do
    {"prompt": ..., "responses": [...], "ranks": [...]}   a comparison: rank 0 is best, equal ranks
                                                          tie; "ratings" are optional
    {"prompt": ..., "chosen": ..., "rejected": ...}       a comparison of two
    {"chosen": ..., "rejected": ...}                      two whole dialogues (Anthropic's HH-RLHF)
    {"prompt": ...}                                       a prompt

Any of them serves as a prompt, and a comparison of two as a demonstration (the chosen side). What a
row means, and which rows are skipped, is in formats/rows.py.
"""

import json
import re
import sys

from minirlhf.formats import rows
from minirlhf.formats.lines import numbered_lines
from minirlhf.run.config import InputError
from minirlhf.run.metrics import shorten


def read_demonstrations(path, fits=None, skip_bad=False):
    """list of Demonstration; see `read_records`."""
    example = '{"prompt": "...", "response": "..."}'
    return read_records(path, rows.demonstration, example, fits, skip_bad)


def read_comparisons(path, fits=None, skip_bad=False):
    """list of Comparison; see `read_records`."""
    example = '{"prompt": "...", "chosen": "...", "rejected": "..."}'
    return read_records(path, rows.comparison, example, fits, skip_bad)


def read_collected(path, fits=None):
    """list of Comparison: those that a run has collected, all of them, as it wrote them."""
    numbered, _ = read_rows(path, rows.ranking)
    return fitting(path, numbered, fits)


def read_prompts(path, fits=None, skip_bad=False):
    """list of texts; see `read_records`."""
    return read_records(path, rows.prompt, '{"prompt": "..."}', fits, skip_bad)


def holds_comparisons(path):
    """Whether the first line of a file is a comparison."""
    _, line = next(numbered_lines(path))
    return bool({"chosen", "responses"} & set(parse_line(line)))


def read_records(path, convert, example, fits=None, skip_bad=False):
    """The records of a file.

    `convert` makes a record of a line's dictionary. A row that it finds `Unusable` is skipped, and
    a record with `fits(record)` False is left out; how many, and why, is printed on stderr.
    InputError where a line has a wrong form, by file and line; where more than half of the rows are
    skipped, unless `skip_bad`; and for a file without a record, with `example` in the message.
    """
    numbered, skipped = read_rows(path, convert)
    total = len(numbered) + sum(map(len, skipped.values()))
    reasons = [
        f"skipped {count(path, lines, total)}: {reason}" for reason, lines in skipped.items()
    ]
    if not numbered:
        problem = "; ".join(["no usable record", *reasons])
        raise InputError(f"{path}: {problem}; a line is a JSON object such as {example}")
    if len(numbered) < total / 2 and not skip_bad:
        problem = f"more than half of the rows cannot be used; {'; '.join(reasons)}"
        raise InputError(f"{path}: {problem}; mend the file, or go on with --skip-bad")
    for reason in reasons:
        print(f"{path}: {reason}", file=sys.stderr)
    return fitting(path, without_prompts(path, numbered), fits)


def read_rows(path, convert):
    """[(line number, record)] of a file, and {reason: line numbers} of what is skipped."""
    numbered, skipped = [], {}
    for number, line in numbered_lines(path):
        try:
            numbered.append((number, convert(parse_line(line))))
        except rows.Unusable as reason:
            skipped.setdefault(str(reason), []).append(number)
        except ValueError as error:
            raise InputError(f"{path}:{number}: {shorten(str(error), 300)}") from error
    return numbered, skipped


def count(path, lines, total):
    """ "2 of 9 rows (first: file:3)" """
    return f"{len(lines)} of {total} rows (first: {path}:{lines[0]})"


def without_prompts(path, numbered):
    """The (line number, record) of a file. Where in most of its rows all responses begin with the
    prompt, that beginning is removed from them: each stage puts the prompt before the response. In
    fewer rows it may be chance."""
    lines = [number for number, record in numbered if rows.repeats_prompt(record)]
    if not lines:
        return numbered
    rows_repeating = count(path, lines, len(numbered))
    if len(lines) <= len(numbered) / 2:
        problem = "the responses begin with the prompt, and stay so: most rows are not like that"
        print(f"{path}: in {rows_repeating} {problem}", file=sys.stderr)
        return numbered
    remedy = "the responses repeated the prompt, which was removed from them"
    print(f"{path}: in {rows_repeating} {remedy}", file=sys.stderr)
    return [
        (number, rows.without_prompt(record) if rows.repeats_prompt(record) else record)
        for number, record in numbered
    ]


def fitting(path, numbered, fits):
    """The records that fit; `fits` is a function (see `data.fits_context`), or None: all do."""
    records, too_long = [], []
    for number, record in numbered:
        try:
            if fits and not fits(record):
                too_long.append(number)
            else:
                records.append(record)
        except ValueError as error:
            raise InputError(f"{path}:{number}: {shorten(str(error), 300)}") from error
    if not records:
        problem = f"none of its {len(numbered)} records fits the context"
        raise InputError(f"{path}: {problem}; train_sft.py --context sets it")
    if too_long:
        left_out = count(path, too_long, len(numbered))
        print(f"{path}: left out {left_out}: too long for the context", file=sys.stderr)
    return records


def parse_line(line):
    """line -> dictionary. ValueError if it is none."""
    try:
        record = json.loads(line)
        text = json.dumps(record, ensure_ascii=False)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}); a line must be one JSON object") from error
    except RecursionError as error:
        raise ValueError("JSON within JSON too often; a line must be one flat object") from error
    if not isinstance(record, dict):
        raise ValueError(f"a JSON {type(record).__name__}; a line must be one JSON object")
    if half := re.search("[\ud800-\udfff]", text):
        raise ValueError(
            f"holds {half[0]!r}, half of a surrogate pair, which no file or screen can show; "
            "write the whole character, or remove it"
        )
    return record


# ---- records -> lines


def write_records(records):
    """Records -> the text of a file that the readers above read back."""
    lines = []
    for record in records:
        values = {name: value for name, value in vars(record).items() if value is not None}
        lines.append(json.dumps(values) + "\n")
    return "".join(lines)
