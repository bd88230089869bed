"""Plain text -> examples for language modelling."""

from minirlhf.data import Example
from minirlhf.run.config import InputError


def windows(path, tokenizer, context):
    """A plain text file -> Examples for language modelling: windows that fill the context, each after an end token."""
    try:
        with open(path, encoding="utf-8") as file:
            ids = tokenizer.encode(file.read())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}; give a plain text file"
        ) from error
    if not ids:
        raise InputError(f"{path}: empty; give a plain text file")
    return [
        Example([tokenizer.end_token, *ids[i : i + context - 1]], 1)
        for i in range(0, len(ids), context - 1)
    ]
