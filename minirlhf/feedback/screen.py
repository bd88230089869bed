"""Text on a terminal: wrapped to its width, without control sequences and without colour."""

import os
import shutil
import sys
import unicodedata

from minirlhf.run.metrics import printable

WIDEST = 100  # columns; longer lines are hard to read
CLEAR = "\x1b[H\x1b[2J"


def width():
    """Columns to fill."""
    return max(20, min(WIDEST, shutil.get_terminal_size((80, 24)).columns - 1))


def clear():
    """An empty screen, where it is one that can be cleared."""
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        print(CLEAR, end="")


def columns(text):
    """What a text takes on a terminal: a Chinese character has two columns, an accent none."""
    return sum(map(character_columns, text))


def character_columns(character):
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def wrapped(text, start="", size=None):
    """The lines of a text, none wider than `size` columns. The first one begins with `start`, the
    others with as many spaces. An empty text is said to be one."""
    size, lines = (size or width()) - columns(start), []
    for line in text.strip("\n").splitlines() or [""]:
        lines += wrapped_line(printable(line.expandtabs(4)), max(2, size))
    if lines == [""]:
        lines = ["(an empty text)"]
    return [(start if i == 0 else " " * columns(start)) + line for i, line in enumerate(lines)]


def wrapped_line(line, size):
    """A line -> lines of at most `size` columns, between words where there are spaces."""
    lines, current = [], ""
    for word in line.split(" "):
        if current and columns(current) + 1 + columns(word) > size:
            lines.append(current)
            current = ""
        elif current:
            current += " "
        for character in word:
            if columns(current) + character_columns(character) > size:
                lines.append(current)
                current = ""
            current += character
    return [*lines, current]
