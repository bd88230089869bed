"""JSON Lines -> the records of data.py.

A file is JSON Lines, plain or gzip. What a line is, its fields say:

    {"prompt": ..., "response": ...}                      a demonstration ("completion" is accepted for "response")
    {"prompt": ..., "responses": [...], "ranks": [...]}   a comparison: rank 0 is best, equal ranks tie
    {"prompt": ..., "chosen": ..., "rejected": ...}       a comparison of two
    {"chosen": ..., "rejected": ...}                      two whole dialogues, as in Anthropic's HH-RLHF
    {"prompt": ...}                                       a prompt

Any of them serves as a prompt, and a comparison of two as a demonstration (the chosen side).
"""

import gzip
import json
import os
import sys
import zlib

from minirlhf.data import Comparison, Demonstration
from minirlhf.run.config import InputError

ASSISTANT, HUMAN = "\n\nAssistant:", "\n\nHuman:"


def read_demonstrations(path, fits=None):
    return read(path, demonstration, fits)


def read_comparisons(path, fits=None):
    return read(path, comparison, fits)


def read_prompts(path, fits=None):
    return read(path, prompt, fits)


def read(path, convert, fits=None):
    """The records of a file. `convert` makes one from a dictionary (None: skip it), and `fits`, if given, says whether to keep
    it. Either may raise ValueError, which becomes an InputError naming file and line. What is left out is counted on stderr.
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
            raise InputError(f"{path}:{number}: {error}") from error
    if skipped:
        print(
            f"{path}: skipped {skipped} pairs whose dialogues differ before the last answer",
            file=sys.stderr,
        )
    if too_long:
        print(f"{path}: left out {too_long} records that do not fit the context", file=sys.stderr)
    if not records:
        raise InputError(
            f"{path}: no usable record; a line is a JSON object such as {convert.__doc__}"
        )
    return records


def numbered_lines(path):
    """(1, first line), ... without the blank ones. gzip is known by its first two bytes."""
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with (gzip.open if zipped else open)(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; save it as UTF-8") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: a damaged gzip file; fetch it again") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; check the path") from error


def parse_line(line):
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}); a line must be one JSON object") from error
    if not isinstance(record, dict):
        raise ValueError(f"a JSON {type(record).__name__}; a line must be one JSON object")
    return record


def text(record, *names):
    """The first of the fields `names` that the record has, which must be text."""
    name = next((name for name in names if name in record), None)
    if name is None:
        raise ValueError(
            f"no field {' or '.join(map(repr, names))}; it has {', '.join(record) or 'none'}"
        )
    if not isinstance(record[name], str):
        raise ValueError(f"field {name!r} must be text, it is {type(record[name]).__name__}")
    return record[name]


def demonstration(record):
    """{"prompt": "...", "response": "..."}"""
    if "chosen" in record:
        pair = comparison(record)
        return pair and Demonstration(pair.prompt, pair.responses[0])
    return Demonstration(text(record, "prompt"), text(record, "response", "completion"))


def comparison(record):
    """{"prompt": "...", "chosen": "...", "rejected": "..."}"""
    if "responses" not in record:
        chosen, rejected = text(record, "chosen"), text(record, "rejected")
        if "prompt" in record:
            return Comparison(text(record, "prompt"), [chosen, rejected], [0, 1])
        return split_dialogues(chosen, rejected)
    responses, ranks = record["responses"], record.get("ranks")
    if not (
        isinstance(responses, list)
        and len(responses) > 1
        and all(isinstance(r, str) for r in responses)
    ):
        raise ValueError("field 'responses' must be a list of at least two texts")
    if not (
        isinstance(ranks, list)
        and len(ranks) == len(responses)
        and all(type(r) is int and r >= 0 for r in ranks)
    ):
        raise ValueError(
            f"field 'ranks' must be a list of {len(responses)} whole numbers, 0 for the best"
        )
    return Comparison(text(record, "prompt"), responses, ranks, record.get("ratings"))


def prompt(record):
    """{"prompt": "..."}"""
    if "prompt" in record or "chosen" not in record:
        return text(record, "prompt")
    pair = comparison(record)
    return pair and pair.prompt


def split_dialogues(chosen, rejected):
    """Two dialogues -> Comparison: the prompt is what they share, cut after its last "Assistant:".

    None where a response holds another turn, because then the dialogues differ before the last answer, or where both say the
    same.
    """
    shared = os.path.commonprefix([chosen, rejected])
    cut = shared.rfind(ASSISTANT) + len(ASSISTANT)
    responses = [chosen[cut:], rejected[cut:]]
    if (
        ASSISTANT not in shared
        or chosen == rejected
        or any(HUMAN in r or ASSISTANT in r for r in responses)
    ):
        return None
    return Comparison(shared[:cut], responses, [0, 1])


def write_records(records):
    """Records -> JSON Lines, which the readers above read back."""
    return "".join(
        json.dumps({k: v for k, v in vars(r).items() if v is not None}) + "\n" for r in records
    )
