"""What a row says and its form does not read: no judgement is left out without a word.

A row with two answers whose choice has an unknown name is a prompt as far as the forms go. The
names of its fields show that it is more.
"""

import re

WORSE = re.compile(
    r"rejected($|_(response|answer|message|conversation|completion|output)|\d)|dispreferred"
)
ANSWER = re.compile(
    r"(answer|response|completion|output|candidate|generation|chosen|rejected|dispreferred)"
    r"|.*_(answer|response|completion|output)s?$"
)
OTHERS = re.compile(  # what is said of an answer, and answers that no model gave
    r"(reference|gold|ground|expected|num|n)_|.*_(type|format|id|model|length)$"
)


def refuse_unread(row, form, found):
    """ValueError where the form made prompts of a row that has a field named like an answer, or one
    response of a row with a field named like a worse one. `found` is a list of Judged."""
    fewest = min((len(judged.responses) for judged in found), default=2)
    if fewest > 1:
        return
    pattern = (ANSWER, WORSE)[fewest]
    for name, value in row.items():
        is_said = isinstance(value, str | list | dict) and bool(value)
        if is_said and pattern.match(name) and not OTHERS.match(name):
            problem = f"the form {form!r} does not read the field {name!r}"
            raise ValueError(f"{problem}; --form {form} takes the row without it")
