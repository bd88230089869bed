"""What the two documents are made of: tests, zoo, ids, and the verdicts on libraries.

Everything is read as text or as plain data. No test and no module of the package is imported.
"""

import ast
import importlib.util
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TESTS = ROOT / "tests"
PORTABLE = TESTS / "spec"


def load(path, name):
    """A Python file as a module, wherever it lies."""
    description = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    return module


declarations = load(PORTABLE / "sentences.py", "declared_sentences")
Sentence, TOPICS = declarations.Sentence, declarations.TOPICS

# ---- tests


@dataclass(frozen=True)
class Test:
    name: str
    path: Path
    reason: str  # the docstring as one line
    sentence: Sentence | None
    tables: tuple  # its cases, as Markdown

    @property
    def link(self):
        """To the test, from a document in docs/."""
        file = self.path.relative_to(ROOT).as_posix()
        return f"[`{self.name}`](../{file})"


def one_line(text):
    return " ".join((text or "").split())


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def all_test_files():
    """All of them, in whichever folder."""
    return sorted(TESTS.rglob("test_*.py"))


@cache
def read_tests(path):
    """The tests of a file, in their order."""
    constants = {
        ast.unparse(node.targets[0]): node.value
        for node in tree(path).body
        if isinstance(node, ast.Assign)
    }
    return [
        Test(
            node.name,
            path,
            one_line(ast.get_docstring(node)),
            declared_sentence(node),
            tuple(case_tables(node, constants)),
        )
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def declared_sentence(test):
    """What @spec(...) above a test says, if it is there."""
    for call in test.decorator_list:
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "spec":
            words = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
            return Sentence(*map(ast.literal_eval, call.args), **words)
    return None


def case_tables(test, constants):
    """The cases of a test with several parameters, if a constant of the file names them. A table is
    shown once."""
    for call in test.decorator_list:
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != "pytest.mark.parametrize":
            continue
        names, values = call.args
        constant = constants.pop(ast.unparse(values), None)
        if constant is not None and isinstance(names, ast.Tuple) and is_literal(constant):
            cases = ast.literal_eval(constant)
            names = ast.literal_eval(names)
            yield table(names, [[str(x) for x in case] for case in cases])


def is_literal(node):
    """Whether a value is written out; a case that a function makes has no short text."""
    return not any(isinstance(part, ast.Call | ast.Name | ast.BinOp) for part in ast.walk(node))


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    escaped = [[one_line(text).replace("|", "\\|") for text in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped)


@cache
def portable_tests():
    """The tests with a declared sentence, in the order of their ids."""
    tests = [test for path in all_test_files() for test in read_tests(path) if test.sentence]
    return sorted(tests, key=lambda test: id_order(test.sentence.id))


@cache
def tests_by_name():
    """{"test_name" and "test_file::test_name": its tests}; one that is meant has to be unique."""
    found = {}
    for path in all_test_files():
        for test in read_tests(path):
            for name in (test.name, f"{path.stem}::{test.name}"):
                found.setdefault(name, []).append(test)
    return found


# ---- ids


def topic_of(identifier):
    return identifier.rpartition("-")[0]


def id_order(identifier):
    topics = list(TOPICS)
    topic, _, number = identifier.rpartition("-")
    return (topics.index(topic) if topic in topics else len(topics), number)


def listed_ids(file):
    """The ids in a file of docs/spec: the first word of each line that is no comment."""
    lines = (HERE / file).read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def id_problems(ids, published, retired):
    """What is wrong with the ids of the sentences, as a list of lines."""
    current = set(ids)
    repeated = [identifier for identifier, n in Counter(ids).items() if n > 1]
    malformed = [x for x in ids if not re.fullmatch(r"[A-Z]+-\d\d", x) or topic_of(x) not in TOPICS]
    return [
        *(f"{x} is declared by several tests" for x in repeated),
        *(f"{x} is not a topic and two digits" for x in malformed),
        *(f"{x} is retired, and used again" for x in retired if x in current),
        *(f"{x} was published: retire it" for x in published if x not in {*current, *retired}),
        *(f"{x} is not listed as published" for x in ids if x not in published),
        *(f"{x} is retired, but was not published" for x in retired if x not in published),
    ]


# ---- zoo and libraries


def zoo():
    """{group: its animals}, in order; zoo.py lies somewhere below tests/."""
    module = load(next(TESTS.rglob("zoo.py")), "bug_zoo")
    groups = {name: value for name, value in vars(module).items() if isinstance(value, list)}
    return {name: animals for name, animals in groups.items() if animals is not module.ZOO}


def libraries():
    """The contents of libraries.json, which measure.py writes."""
    return json.loads((HERE / "libraries.json").read_text(encoding="utf-8"))


def verdict_counts(library):
    """How many sentences hold in a library, do not hold, and are not offered."""
    verdicts = [library["verdicts"].get(test.sentence.id, "") for test in portable_tests()]
    kinds = ("holds", "does not hold", "not offered")
    return [sum(verdict.startswith(kind) for verdict in verdicts) for kind in kinds]
