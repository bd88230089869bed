"""Texts that grow, side by side, wrapped at words.

A line is printed for good when no text can change it any more. On a terminal the lines after it are
shown, too, and drawn again whenever a text grows; into a file or a pipe no control sequence goes.
"""

from minirlhf.feedback.screen import columns as cells
from minirlhf.run.metrics import printable

GAP = 2  # cells between two columns


class Columns:
    """`show(texts, ended)` as often as texts grow. `live`: whether `file` is a terminal."""

    def __init__(self, count, file, live, width=80, height=24):
        self.width = (width - GAP * (count - 1)) // count  # cells of a column
        self.file, self.live, self.height = file, live, height
        self.settled = 0  # lines that are printed for good
        self.drawn = 0  # lines below them on the terminal

    def show(self, texts, ended):
        """The whole texts so far, and of each whether it has come to its end."""
        blocks = [wrap(text, self.width) for text in texts]
        # The last line of a text that goes on may still change.
        settled = [
            max(map(len, blocks)) if end else len(block) - 1
            for block, end in zip(blocks, ended, strict=True)
        ]
        lines = self.rows(blocks)
        parts, settled = [], max(self.settled, min(settled))
        if self.drawn:
            parts.append(f"\x1b[{self.drawn}A\x1b[J")
        parts += [line + "\n" for line in lines[self.settled : settled]]
        moving = lines[settled:] if self.live else []
        moving = moving[: self.height - 1]  # what has left the screen cannot be drawn again
        parts += [line + "\n" for line in moving]
        self.settled, self.drawn = settled, len(moving)
        self.file.write("".join(parts))
        self.file.flush()

    def title(self, names):
        """A line with the names of the columns, each cut to its end, and a rule."""
        names = [printable(name)[-self.width :] for name in names]
        blocks = [[name, "-" * len(name)] for name in names]
        self.file.write("".join(line + "\n" for line in self.rows(blocks)))

    def rows(self, blocks):
        """Lines of several columns."""
        lines = []
        for row in range(max(map(len, blocks))):
            cells = [block[row] if row < len(block) else "" for block in blocks]
            lines.append((" " * GAP).join(pad(cell, self.width) for cell in cells).rstrip())
        return lines


def wrap(text, width):
    """The lines of a text, without control characters, of up to `width` cells. A line but the last
    stays as it is when the text grows."""
    lines = []
    for paragraph in text.split("\n"):
        rest = printable(paragraph.replace("\t", " ").replace("\r", " "))
        while cells(rest) > width:
            cut = fitting(rest, width)
            space = rest.rfind(" ", 1, cut + 1)
            stop = space if space > 0 else cut
            lines.append(rest[:stop])
            rest = rest[stop:].removeprefix(" ")
        lines.append(rest)
    return lines


def fitting(text, width):
    """How many characters of a text fit into `width` cells, at least one."""
    total = 0
    for number, character in enumerate(text):
        total += cells(character)
        if total > width:
            return max(1, number)
    return len(text)


def pad(text, width):
    return text + " " * (width - cells(text))
