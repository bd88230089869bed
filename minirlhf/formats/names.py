"""Other names of fields, as --map gives them: prompt=question,chosen=answers.0.text"""

from minirlhf.formats.fields import field_names
from minirlhf.run.config import InputError


def parse_map(text):
    """ "prompt=question,chosen=answers.0.text" -> {"prompt": ["question"], ...}"""
    pairs = [part.partition("=") for part in text.split(",") if part]
    for name, equals, path in pairs:
        if not (name.strip() and equals and path.strip()):
            raise InputError(f"--map {text}: write field=name,field=name, such as prompt=question")
    return {name.strip(): path.strip() for name, _, path in pairs}


def mapped(row, names):
    """The fields of a row that --map names, under their new names."""
    return {name: lookup(row, path) for name, path in names.items()}


def lookup(row, path):
    """The value at a path with dots, as info.post or answers.0.text; a name with a dot in it is
    found too. ValueError if there is none."""
    if path in row:
        return row[path]
    value = row
    for part in path.split("."):
        if isinstance(value, list) and part.lstrip("-").isdigit() and -len(value) <= int(part):
            value = value[int(part)] if int(part) < len(value) else None
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            raise ValueError(f"no field {path!r}; {field_names(row)}")
    return value
