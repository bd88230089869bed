"""List the forms of records that are known.

minirlhf formats                all of them, with the fields they are found by
minirlhf formats --of alpaca    those in whose line a word stands
"""

import textwrap
from dataclasses import dataclass

from minirlhf.formats import containers, forms, turns
from minirlhf.run import config
from minirlhf.run.config import InputError, flag

WIDTH = 78


@dataclass(frozen=True)
class Config:
    """The forms of records that every command reads from --data, found by their fields."""

    of: str = flag("", "only forms in whose name, fields or origin this word stands")


def main(argv=None):
    args = config.parse(Config, argv)
    word = args.of.lower()
    found = [
        form for form in forms.NAMES.values() if word in " ".join(form[:2] + form[3:4]).lower()
    ]
    if not found:
        raise InputError(f"--of {args.of}: no form has this word; minirlhf formats lists all")
    width = max(len(form.name) for form in found) + 2
    for form in found:
        fields = "; ".join(word.replace("|", " or ") for word in form.fields.split())
        lines = [*textwrap.wrap(form.of, WIDTH - width), *textwrap.wrap(fields, WIDTH - width)]
        print(form.name.ljust(width) + f"\n{' ' * width}".join(lines))
    if not word:
        print(f"\nA row has the first form whose fields it has. Kinds of files: {kinds()}.")
        print(f"Templates of turns (--template): {', '.join(turns.TEMPLATES)}.")
        print("Other forms: --map prompt=question,chosen=answers.0.text, or --form NAME.")


def kinds():
    return ", ".join(containers.KINDS) + ", each plain or .gz (but Parquet)"


if __name__ == "__main__":
    config.run(main)
