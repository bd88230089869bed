"""Plain text -> examples for language modelling."""

from minirlhf.data import Example
from minirlhf.formats import lines
from minirlhf.run.config import InputError


def windows(path, tokenizer, context):
    """A plain text file -> Examples for language modelling. An Example is an end token, as prompt,
    and the next `context` - 1 ids of the text. InputError if the file is missing, empty or not
    UTF-8."""
    ids = tokenizer.encode(lines.read_text(path))
    if not ids:
        raise InputError(f"{path}: empty; give a plain text file")
    size = context - 1
    parts = [ids[start : start + size] for start in range(0, len(ids), size)]
    return [Example([tokenizer.end_token, *part], 1) for part in parts]
