"""JSON Lines -> the records of data.py.

A file is JSON Lines, plain or gzip. A line has one of these forms:

    {"prompt": ..., "response": ...}                      a demonstration; "completion" will do
    {"prompt": ..., "responses": [...], "ranks": [...]}   a comparison: rank 0 is best, equal ranks
                                                          tie; "ratings" are optional
    {"prompt": ..., "chosen": ..., "rejected": ...}       a comparison of two
    {"chosen": ..., "rejected": ...}                      two whole dialogues (Anthropic's HH-RLHF)
    {"prompt": ...}                                       a prompt

Any of them serves as a prompt, and a comparison of two as a demonstration (the chosen side).
"""

import json
import os
import re
import sys

from minirlhf.data import Comparison, Demonstration
from minirlhf.formats.lines import numbered_lines
from minirlhf.run.config import InputError
from minirlhf.run.metrics import shorten

ASSISTANT, HUMAN = "\n\nAssistant:", "\n\nHuman:"  # HH-RLHF's marks of a turn


def read_demonstrations(path, fits=None):
    """list of Demonstration; see `read_records`."""
    return read_records(path, demonstration, '{"prompt": "...", "response": "..."}', fits)


def read_comparisons(path, fits=None):
    """list of Comparison; see `read_records`."""
    example = '{"prompt": "...", "chosen": "...", "rejected": "..."}'
    return read_records(path, comparison, example, fits)


def read_prompts(path, fits=None):
    """list of texts; see `read_records`."""
    return read_records(path, prompt, '{"prompt": "..."}', fits)


def read_records(path, convert, example, fits=None):
    """The records of a file.

    `convert` makes a record of a line's dictionary, or None where the line has to be skipped. A
    record with `fits(record)` False is left out. How many were skipped and left out is printed on
    stderr. A ValueError of either function becomes an InputError that names file and line. So does
    a file without a record, whose message shows `example`.
    """
    records, skipped, too_long = [], 0, 0
    for number, line in numbered_lines(path):
        try:
            record = convert(parse_line(line))
            if record is None:
                skipped += 1
            elif fits and not fits(record):
                too_long += 1
            else:
                records.append(record)
        except ValueError as error:
            raise InputError(f"{path}:{number}: {shorten(str(error), 300)}") from error
    if skipped:
        reason = "pairs whose dialogues differ before the last answer"
        print(f"{path}: skipped {skipped} {reason}", file=sys.stderr)
    if too_long:
        print(f"{path}: left out {too_long} records that do not fit the context", file=sys.stderr)
    if not records:
        raise InputError(f"{path}: no usable record; a line is a JSON object such as {example}")
    return records


# ---- a line -> a record. Each raises ValueError where the line has another form.


def parse_line(line):
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


def text_field(record, *names):
    """The first of the fields `names` that the record has, which must be text."""
    for name in names:
        if name in record:
            if not isinstance(record[name], str):
                problem = f"must be text, it is {type(record[name]).__name__}"
                raise ValueError(f"field {name!r} {problem}")
            return record[name]
    problem = f"no field {' or '.join(map(repr, names))}"
    raise ValueError(f"{problem}; it has {', '.join(record) or 'none'}")


def demonstration(record):
    """dictionary -> Demonstration, or None if it has two dialogues that cannot be split."""
    if "chosen" in record:
        pair = comparison(record)
        return pair and Demonstration(pair.prompt, pair.responses[0])
    response = "response", "completion"
    return Demonstration(text_field(record, "prompt"), text_field(record, *response))


def comparison(record):
    """dictionary -> Comparison, or None if it has two dialogues that cannot be split."""
    if "responses" in record:
        return ranked(record)
    chosen, rejected = text_field(record, "chosen"), text_field(record, "rejected")
    if "prompt" in record:
        return Comparison(text_field(record, "prompt"), [chosen, rejected], [0, 1])
    return split_dialogues(chosen, rejected)


def ranked(record):
    """A dictionary with responses and ranks -> Comparison."""
    responses, ranks = record["responses"], record.get("ranks")
    if not is_list(responses, lambda x: isinstance(x, str)) or len(responses) < 2:
        raise ValueError("field 'responses' must be a list of at least two texts")
    # A bool is an int to isinstance, and a negative rank stands for a missing response elsewhere.
    if not is_list(ranks, lambda x: type(x) is int and 0 <= x < 2**31) or len(ranks) != len(
        responses
    ):
        problem = f"must be a list of {len(responses)} whole numbers, 0 for the best"
        raise ValueError(f"field 'ranks' {problem}")
    return Comparison(text_field(record, "prompt"), responses, ranks, record.get("ratings"))


def is_list(value, is_item):
    return isinstance(value, list) and all(map(is_item, value))


def prompt(record):
    """dictionary -> text, or None if it has two dialogues that cannot be split."""
    if "prompt" in record or "chosen" not in record:
        return text_field(record, "prompt")
    pair = comparison(record)
    return pair and pair.prompt


def split_dialogues(chosen, rejected):
    """Two dialogues -> Comparison. The prompt is their common beginning, up to and including its
    last "Assistant:".

    None where there is no such prompt, where both responses are the same, or where a response holds
    another turn: then the dialogues differ before the last answer.
    """
    shared = os.path.commonprefix([chosen, rejected])
    if ASSISTANT not in shared or chosen == rejected:
        return None
    length = shared.rfind(ASSISTANT) + len(ASSISTANT)
    responses = [chosen[length:], rejected[length:]]
    if any(mark in response for response in responses for mark in (HUMAN, ASSISTANT)):
        return None
    return Comparison(shared[:length], responses, [0, 1])


# ---- records -> lines


def write_records(records):
    """Records -> the text of a file that the readers above read back."""
    lines = []
    for record in records:
        values = {name: value for name, value in vars(record).items() if value is not None}
        lines.append(json.dumps(values) + "\n")
    return "".join(lines)
