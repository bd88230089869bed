"""Texts that grow, side by side: what stands on a terminal, and what goes into a pipe."""

import io
import re

import pytest

from minirlhf.tools.columns import Columns, cells, wrap

TEXTS = [
    "It is a mammal, and it lives in the sea.\nIt is large.",
    "I do not know\x1b[2J that: somebody whoWasThereAndSawItAll may know.",
]


def screen(output, width=200):
    """The lines that a terminal shows after this output. It knows what Columns may send: text, line
    feeds, "up n lines" and "clear to the end"."""
    lines, row = [""], 0
    for part in re.split(r"(\x1b\[\d+A|\x1b\[J|\n)", output):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[J":
            del lines[row + 1 :]
            lines[row] = ""
        elif part.startswith("\x1b["):
            row -= int(part[2:-1])
            assert row >= 0
        else:
            assert part.isprintable()
            lines[row] += part
    return lines


def grown(texts, live, step=1, **options):
    """(what the columns write, the lengths of the output after each step) while the texts grow by
    characters, the shorter one ending first."""
    file, sizes = io.StringIO(), []
    columns = Columns(len(texts), file, live, **options)
    for stop in range(0, max(map(len, texts)) + step, step):
        columns.show([text[:stop] for text in texts], [len(text) <= stop for text in texts])
        sizes.append(len(file.getvalue()))
    return file.getvalue(), sizes


def at_once(texts, **options):
    file = io.StringIO()
    Columns(len(texts), file, False, **options).show(texts, [True] * len(texts))
    return file.getvalue()


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], TEXTS[::-1]])
@pytest.mark.parametrize("width", [20, 33, 80])
def test_texts_that_grow_end_up_as_if_they_had_been_there_at_once(texts, width):
    """On a terminal, where lines are drawn again, and in a pipe, where none can be. Into the pipe
    goes no control sequence, and lines come before the end."""
    expected = at_once(texts, width=width)
    output, sizes = grown(texts, live=False, width=width)
    assert output == expected and "\x1b" not in output
    assert width == 80 or 0 < sizes[len(sizes) * 2 // 3] < len(output)
    for step in (1, 3):
        assert screen(grown(texts, True, step, width=width)[0]) == expected.split("\n")


def test_on_a_terminal_every_character_is_there_at_once():
    """In a pipe a line waits until nothing can change it."""
    for live in (True, False):
        file = io.StringIO()
        columns = Columns(2, file, live, width=40)
        columns.show(["It is", "I do"], [False, False])
        assert screen(file.getvalue())[0] == ("It is".ljust(21) + "I do" if live else "")


def test_texts_stand_in_columns_of_equal_width_without_control_characters():
    """By hand. A word goes to the next line as a whole, and a word as long as a column is cut."""
    lines = at_once(TEXTS, width=42).split("\n")
    assert lines == [
        "It is a mammal, and   I do not know\ufffd[2J",
        "it lives in the sea.  that: somebody",
        "It is large.          whoWasThereAndSawItA",
        "                      ll may know.",
        "",
    ]


def test_a_text_that_is_higher_than_the_screen_is_never_drawn_above_it():
    """A terminal cannot go up to lines that have left it. Of 3 lines it moves up by 2 at most; the
    other text, which is slower, still appears beside the first one's lines."""
    file = io.StringIO()
    columns = Columns(2, file, True, width=22, height=3)
    long = "\n".join(map(str, range(9)))
    for stop in range(len(long) + 1):
        columns.show([long[:stop], "x"], [False, False])
    columns.show([long, "x"], [True, True])
    ups = [int(n) for n in re.findall(r"\x1b\[(\d+)A", file.getvalue())]
    assert max(ups) == 2
    expected = ["0".ljust(12) + "x", *map(str, range(1, 9)), ""]
    assert screen(file.getvalue()) == expected


def test_a_wide_character_takes_two_cells_and_a_combining_one_none():
    """As in a terminal: "日" is two cells wide, and "e" with an accent of its own one."""
    assert cells("日本 e\u0301") == 6
    assert wrap("日本日本", 5) == ["日本", "日本"]
    assert at_once(["日本", "a"], width=12) == "日本   a\n"


def test_a_line_that_is_not_the_last_never_changes_when_a_text_grows():
    """That is what makes it safe to print it for good."""
    text = "a bb  ccc ddddddddddddd e\n\nff  " + "g" * 20 + " h"
    for width in range(1, 9):
        for stop in range(len(text)):
            block = wrap(text[:stop], width)
            assert wrap(text, width)[: len(block) - 1] == block[:-1]
            assert max(map(cells, block)) <= width
