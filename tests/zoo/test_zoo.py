"""Forty ways to get RLHF wrong (and more): zoo.py lists them, and each must make a test fail.

A test that passes with a broken implementation specifies nothing. So every animal names the test
that must fail, and these tests run it, in a pytest of its own, while the animal's code is in place.
"""

import importlib
import inspect
import io
import re
import textwrap
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from zoo import ZOO

from minirlhf import ppo

TESTS = Path(__file__).parent.parent
ROOMS = ("", "run", "world", "formats", "feedback", "rewards", "tools")  # of minirlhf
SCRIPTS = ("train_sft", "train_rm", "train_ppo")


# ---- the code of an animal


def find(name):
    """ "ppo.whiten", "run.checkpoint.restore" or "model.GPT.hidden" -> the function without its
    decorators, and the class that it belongs to, or None."""
    module, *path = name.split(".")
    if module in ROOMS:
        module = f"{module}.{path.pop(0)}"
    module = module if module in SCRIPTS else f"minirlhf.{module}"
    owner, function = None, importlib.import_module(module)
    for part in path:
        owner, function = function, getattr(function, part)
    return inspect.unwrap(function), owner if inspect.isclass(owner) else None


def breed(animal, function, owner):
    """The function with the animal's text in it, compiled with the globals of the original."""
    source = textwrap.dedent(inspect.getsource(function))
    if (count := source.count(animal.right)) != 1:
        pytest.fail(
            f"the zoo is out of date: {animal.function} contains {animal.right!r} {count} times "
            f"instead of once; correct the animal {animal.name!r} in zoo.py"
        )
    broken = textwrap.indent(source.replace(animal.right, animal.wrong), "    ")
    name = function.__name__
    scope = dict(function.__globals__)  # a copy: the module itself must not get the function
    # super() looks for its class in __class__.
    cage = f"def cage(__class__):\n    global {name}\n{broken}\n    return {name}"
    exec(compile(cage, f"<zoo: {animal.name}>", "exec"), scope)
    return inspect.unwrap(scope["cage"](owner))


PARTS = ("__code__", "__defaults__", "__kwdefaults__")  # of a function


@contextmanager
def release(animal):
    """For the duration of a `with` block the function is the animal's. Its code and defaults are
    replaced, not the function itself, so that modules that imported it by name have it too."""
    function, owner = find(animal.function)
    broken = breed(animal, function, owner)
    original = {part: getattr(function, part) for part in PARTS}
    try:
        for part in PARTS:
            setattr(function, part, getattr(broken, part))
        yield
    finally:
        for part, value in original.items():
            setattr(function, part, value)


# ---- running the named tests


@cache
def ids_by_name():
    """{"test_name" and "test_file::test_name": [node id]} of all tests."""
    node_ids = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.M):
            for key in (name, f"{path.stem}::{name}"):
                node_ids.setdefault(key, []).append(f"{path}::{name}")
    return node_ids


class Watcher:
    """A pytest plugin that collects the exceptions of the tests."""

    def __init__(self):
        self.exceptions = []

    def pytest_exception_interact(self, call):
        self.exceptions.append(call.excinfo)


# Plugins that a process must not have twice, or that take longer than the test itself (they collect
# garbage at the end).
WITHOUT = ("cacheprovider", "faulthandler", "unraisableexception", "threadexception", "pytest_cov")


def run_tests(node_ids, folder):
    """Run tests in a pytest inside this one. Returns (exit code, their exceptions, the end of the
    output)."""
    watcher, output = Watcher(), io.StringIO()
    options = ["-q", "-x", "-s", "--tb=short", "--assert=plain", f"--basetemp={folder / 'inner'}"]
    options += [f"-pno:{name}" for name in WITHOUT]
    with redirect_stdout(output), redirect_stderr(output):
        code = pytest.main([*node_ids, *options], plugins=[watcher])
    return code, watcher.exceptions, output.getvalue()[-3000:]


def hunt(animal, folder):
    """Fails unless the animal's test fails, with an assertion or with the exception that the animal
    names."""
    with release(animal):
        code, exceptions, output = run_tests(ids_by_name()[animal.caught_by], folder)
    if code == pytest.ExitCode.OK:
        pytest.fail(f"with {animal.name!r} in {animal.function}, {animal.caught_by} passes")
    assert code == pytest.ExitCode.TESTS_FAILED, output
    cause = exceptions[0].typename
    # Failed is the exception of pytest.fail and pytest.raises.
    expected = [animal.crash] if animal.crash else ["AssertionError", "Failed"]
    assert cause in expected, (
        f"{animal.caught_by} fails with {cause}, not with {' or '.join(expected)}:\n{output}"
    )


# ---- the tests


@pytest.mark.parametrize("animal", ZOO, ids=lambda animal: animal.name)
def test_no_animal_gets_away(animal, tmp_path):
    """The named test fails, and by an assertion: a failure because of a misspelt name would prove
    nothing."""
    hunt(animal, tmp_path)


def test_every_sentence_lives_while_all_animals_are_in_their_cages(tmp_path):
    """The named tests pass without an animal. A test that always fails would catch nothing."""
    node_ids = sorted({ids_by_name()[animal.caught_by][0] for animal in ZOO})
    code, _, output = run_tests(node_ids, tmp_path)
    assert code == pytest.ExitCode.OK, output


def test_there_are_forty_with_names_places_and_exactly_one_sentence_each():
    """If two tests have the name, the animal has to say test_file::test_name."""
    assert len(ZOO) >= 40
    assert len({animal.name for animal in ZOO}) == len(ZOO)
    assert all(animal.seen and animal.right != animal.wrong for animal in ZOO)
    node_ids = {animal.caught_by: ids_by_name().get(animal.caught_by, []) for animal in ZOO}
    assert {name: ids for name, ids in node_ids.items() if len(ids) != 1} == {}


WHITENING_TEST = "test_whitening_without_shift_keeps_the_mean"
WHITENING = next(animal for animal in ZOO if animal.caught_by == WHITENING_TEST)


def test_a_sentence_that_lives_happily_is_reported_with_the_animals_name(tmp_path):
    """A change without effect, applied like the others."""
    message = f"with 'a sheep' in ppo.whiten, {WHITENING_TEST} passes"
    with pytest.raises(pytest.fail.Exception, match=message):
        hunt(replace(WHITENING, name="a sheep", wrong=f"{WHITENING.right} + 0.0"), tmp_path)


def test_a_sentence_that_dies_of_something_else_has_caught_nothing(tmp_path):
    """Any test fails if the code raises a NameError."""
    with pytest.raises(AssertionError, match="fails with NameError"):
        hunt(replace(WHITENING, wrong="no_such_name"), tmp_path)


def test_an_animal_whose_line_is_no_longer_there_is_reported():
    """When the code changes, the zoo has to be changed too."""
    message = "out of date: ppo.whiten contains 'a line of yore' 0 times"
    with pytest.raises(pytest.fail.Exception, match=message):
        with release(replace(WHITENING, right="a line of yore")):
            pass


def test_afterwards_everything_is_as_it_was():
    """Also if a test fails while the animal's code is in place."""
    x, mask = torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3, dtype=torch.bool)
    before, code = ppo.whiten(x, mask), ppo.whiten.__code__
    with pytest.raises(ZeroDivisionError), release(WHITENING):
        assert not torch.equal(ppo.whiten(x, mask), before)
        raise ZeroDivisionError
    assert ppo.whiten.__code__ is code and torch.equal(ppo.whiten(x, mask), before)
