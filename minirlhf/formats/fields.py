"""The fields of a row, each of the type that a form expects.

A field of another type is a ValueError: the file has to be mended. In CSV every cell is text, so a
number, a list or an object may be written as the text of it.
"""

import ast
import json
import math

from minirlhf.run.metrics import printable


class Unusable(Exception):
    """The reason why a row of the right form is skipped."""


def present(row, *names):
    """The first of the names that the row has and that is not null; None if there is none."""
    return next((name for name in names if row.get(name) is not None), None)


def missing(row, *names):
    """The ValueError of a row that has none of these fields."""
    return ValueError(f"no field {' or '.join(map(repr, names))}; {field_names(row)}")


def field_names(row):
    return f"it has {printable(', '.join(row)) or 'none'}"


def wrong(name, expected, value):
    """The ValueError of a field that is not what is expected."""
    return ValueError(f"field {name!r} must be {expected}, it is {type(value).__name__}")


def text_field(row, *names):
    """The first of the fields `names` that the row has, which must be text."""
    name = present(row, *names) or next((name for name in names if name in row), None)
    if name is None:
        raise missing(row, *names)
    if not isinstance(row[name], str):
        raise wrong(name, "text", row[name])
    return row[name]


def number(row, name):
    """A field that is a finite number, or the text of one."""
    value = as_number(row[name]) if name in row else None
    if value is None:
        raise wrong(name, "a number", row.get(name))
    return value


def as_number(value):
    """A finite int or float, also from the text of one; None if it is none."""
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
    return value if type(value) in (int, float) and math.isfinite(value) else None


def items(row, name, kind=object):
    """A field that is a list of `kind`, or the JSON text of one."""
    values = structure(row.get(name))
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        words = {str: " of texts", dict: " of objects"}.get(kind, "")
        raise wrong(name, f"a list{words}", row.get(name))
    return values


def structure(value):
    """A list or an object that is written as text, in JSON or as Python prints it (pandas' CSV), as
    such; any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(value.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    return value


def transposed(value):
    """A list of objects that stands as an object of lists, {"text": [...], "score": [...]}, as the
    datasets library writes some; any other value as it is."""
    if not isinstance(value, dict) or len(value) < 2 or not all(map(is_filled, value.values())):
        return value
    if len({len(column) for column in value.values()}) > 1 or not TEXTS & set(value):
        return value
    return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]


TEXTS = {"text", "content", "value", "answer", "response", "role", "from"}


def is_filled(column):
    return isinstance(column, list) and bool(column)


def truth(value):
    """True, False, or None where a value says neither: people write 1, "yes", "thumbs_up"."""
    if isinstance(value, str):
        value = value.strip().lower().replace("_", " ")
        yes = ("true", "1", "1.0", "yes", "up", "thumbs up", "good", "desirable", "like", "liked")
        yes += ("positive", "upvote", "upvoted")
        no = ("false", "0", "0.0", "-1", "no", "down", "thumbs down", "undesirable", "dislike")
        no += ("negative", "downvote", "downvoted")
        return True if value in yes else False if value in (*no, "disliked") else None
    if value in (0, -1):
        return False
    return True if value == 1 else None
