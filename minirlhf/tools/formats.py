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
    fields = {form.name: shown_fields(form) for form in found}
    for form in found:
        show(form.name, [form.of, fields[form.name]], width)
    text = " ".join(fields.values())
    groups = {name: names for name, names in forms.CAPTIONS.items() if name in text}
    if groups:
        print("\nIn capitals, one of these fields:")
    for name, names in groups.items():
        show(f"  {name}", [names.replace("|", ", ")], width)
    if not word:
        print("\nA row has the first form whose fields it has.")
        print(f"Kinds of files: {kinds()}.")
        print(f"Templates of turns (--template): {', '.join(turns.TEMPLATES)}.")
        print("Other forms: --map prompt=question,chosen=answers.0.text, or --form NAME.")


def shown_fields(form):
    """The fields that a row of a form has; many alternatives by their caption."""
    fields = form.fields
    for caption, names in sorted(forms.CAPTIONS.items(), key=lambda pair: -len(pair[1])):
        fields = fields.replace(names, caption)
    return "; ".join(word.replace("|", " or ") for word in fields.split())


def show(name, texts, width):
    """A name and texts beside it, each on lines of its own."""
    lines = [line for text in texts for line in textwrap.wrap(text, WIDTH - width)]
    print(name.ljust(width) + f"\n{' ' * width}".join(lines))


def kinds():
    return ", ".join(containers.KINDS) + ", each plain or .gz (but Parquet)"


if __name__ == "__main__":
    config.run(main)
