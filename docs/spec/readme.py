"""The README with its numbers as they are now: lines of code, sentences, verdicts on libraries."""

import ast
import io
import re
import tokenize

from sources import ROOT, libraries, portable_tests, tree, verdict_counts

SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
ROW = re.compile(r"^(\| \[`[\w.]+`\]\(([\w./]+)\) \| .* \| )([\d,]+)( \|)$", re.M)


def code_lines(path):
    """How many lines of a file have code: no blank lines, comments or docstrings."""
    docstrings, lines = set(), set()
    for owner in ast.walk(tree(path)):
        if isinstance(owner, ast.Module | ast.ClassDef | ast.FunctionDef):
            if ast.get_docstring(owner) is not None:
                docstrings |= set(range(owner.body[0].lineno, owner.body[0].end_lineno + 1))
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type not in SILENT | {tokenize.ENDMARKER}:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def with_counts(text):
    """The README's text with the lines of code of each file of its table, and their sum."""
    counts = {path: code_lines(ROOT / path) for _, path, _, _ in ROW.findall(text)}
    text = ROW.sub(lambda row: f"{row[1]}{counts[row[2]]:,}{row[4]}", text)
    text = re.sub(r"[\d,]+( in these files)", rf"{sum(counts.values()):,}\1", text)
    return with_verdicts(re.sub(r"\d+( sentences,)", rf"{len(portable_tests())}\1", text))


def with_verdicts(text):
    """The README's text with the table of the libraries, and the date of the measurement."""
    record = libraries()
    text = re.sub(r"(Three libraries \()[\d-]+", rf"\g<1>{record['date']}", text)
    for name, library in record["libraries"].items():
        head = f"| {name} {library['version']} |"
        row = " ".join([head, *(f"{n} |" for n in verdict_counts(library))])
        text = re.sub(rf"^{re.escape(head)} \d+ \| \d+ \| \d+ \|$", row, text, flags=re.M)
    return text
