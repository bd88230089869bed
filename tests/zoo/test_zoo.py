"""Forty ways to get RLHF wrong (there are more): zoo.py lists them, and here each is let loose and has to be caught.

A sentence that is still true of a broken implementation is no specification. So every animal names the sentence that must not
survive it, and these tests run that sentence in a pytest of its own while the animal is out.
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


# ---- how an animal is let loose


def find(name):
    """ "ppo.whiten", "run.checkpoint.restore" or "model.GPT.hidden" -> the function, beneath its
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
    """The function with the animal's line in it, compiled where the original was."""
    source = textwrap.dedent(inspect.getsource(function))
    if (count := source.count(animal.right)) != 1:
        pytest.fail(
            f"the zoo is out of date: {animal.function} holds {animal.right!r} {count} times "
            f"instead of once, so {animal.name!r} cannot be let loose; say in zoo.py what stands "
            "there now"
        )
    broken = textwrap.indent(source.replace(animal.right, animal.wrong), "    ")
    name = function.__name__
    scope = dict(function.__globals__)  # a copy: the module itself must not get the function
    # super() looks for its class in __class__.
    cage = f"def cage(__class__):\n    global {name}\n{broken}\n    return {name}"
    exec(compile(cage, f"<zoo: {animal.name}>", "exec"), scope)
    return inspect.unwrap(scope["cage"](owner))


INSIDE = ("__code__", "__defaults__", "__kwdefaults__")


@contextmanager
def release(animal):
    """While this lasts the function is the animal's. Its inside is exchanged, so whoever imported it by name has it too."""
    function, owner = find(animal.function)
    before, broken = [getattr(function, part) for part in INSIDE], breed(animal, function, owner)
    try:
        for part in INSIDE:
            setattr(function, part, getattr(broken, part))
        yield
    finally:
        for part, original in zip(INSIDE, before, strict=True):
            setattr(function, part, original)


# ---- how a sentence is asked


@cache
def sentences():
    """{"test_name" and "test_file::test_name": [node id]} of every test there is."""
    found = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.M):
            for key in (name, f"{path.stem}::{name}"):
                found.setdefault(key, []).append(f"{path}::{name}")
    return found


class Watcher:
    """A pytest plugin that keeps what the tests raised."""

    def __init__(self):
        self.raised = []

    def pytest_exception_interact(self, call):
        self.raised.append(call.excinfo)


# Plugins that a process must not have twice, or that take longer than the sentence itself (they collect garbage at the end).
WITHOUT = ("cacheprovider", "faulthandler", "unraisableexception", "threadexception", "pytest_cov")


def ask(node_ids, folder):
    """Run sentences in a pytest inside this one. Returns (exit code, what they raised, the end of what was printed)."""
    watcher, told = Watcher(), io.StringIO()
    options = ["-q", "-x", "-s", "--tb=short", "--assert=plain", f"--basetemp={folder / 'inner'}"]
    with redirect_stdout(told), redirect_stderr(told):
        code = pytest.main(
            [*node_ids, *options, *(f"-pno:{name}" for name in WITHOUT)], plugins=[watcher]
        )
    return code, watcher.raised, told.getvalue()[-3000:]


def hunt(animal, folder):
    """Fails unless the animal's sentence dies of it, by an assertion (or of the very exception the animal says it raises)."""
    with release(animal):
        code, raised, told = ask(sentences()[animal.caught_by], folder)
    if code == pytest.ExitCode.OK:
        pytest.fail(
            f"{animal.name!r} is loose in {animal.function}, and {animal.caught_by} lives happily"
        )
    assert code == pytest.ExitCode.TESTS_FAILED, told
    died_of = raised[0].typename
    expected = (
        (animal.crash,) if animal.crash else ("AssertionError", "Failed")
    )  # Failed: pytest.fail, pytest.raises
    assert died_of in expected, (
        f"{animal.caught_by} dies of {died_of} and not of {' or '.join(expected)}:\n{told}"
    )


# ---- the tests


@pytest.mark.parametrize("animal", ZOO, ids=lambda animal: animal.name)
def test_no_animal_gets_away(animal, tmp_path):
    """The named sentence becomes false, and by an assertion: what dies of a misspelt name has noticed nothing."""
    hunt(animal, tmp_path)


def test_every_sentence_lives_while_all_animals_are_in_their_cages(tmp_path):
    """One that is false anyway would catch nothing."""
    code, _, told = ask(sorted({sentences()[animal.caught_by][0] for animal in ZOO}), tmp_path)
    assert code == pytest.ExitCode.OK, told


def test_there_are_forty_with_names_places_and_exactly_one_sentence_each():
    """Of two sentences with one name nobody knows which is meant, until the animal says test_file::test_name."""
    assert len(ZOO) >= 40
    assert len({animal.name for animal in ZOO}) == len(ZOO)
    assert all(animal.seen and animal.right != animal.wrong for animal in ZOO)
    wanted = {animal.caught_by for animal in ZOO}
    assert {
        name: sentences().get(name, []) for name in wanted if len(sentences().get(name, [])) != 1
    } == {}


WHITEN = next(
    animal for animal in ZOO if animal.caught_by == "test_whitening_without_shift_keeps_the_mean"
)


def test_a_sentence_that_lives_happily_is_reported_with_the_animals_name(tmp_path):
    """A harmless change, let loose like the others."""
    with pytest.raises(
        pytest.fail.Exception, match="'a sheep' is loose in ppo.whiten, and .* lives happily"
    ):
        hunt(replace(WHITEN, name="a sheep", wrong=f"{WHITEN.right} + 0.0"), tmp_path)


def test_a_sentence_that_dies_of_something_else_has_caught_nothing(tmp_path):
    """A zoo that breaks Python catches everything."""
    with pytest.raises(AssertionError, match="dies of NameError"):
        hunt(replace(WHITEN, wrong="no_such_name"), tmp_path)


def test_an_animal_whose_line_is_no_longer_there_is_reported():
    """The code moves on, and the zoo has to go along."""
    with pytest.raises(
        pytest.fail.Exception, match="out of date: ppo.whiten holds 'a line of yore' 0 times"
    ):
        with release(replace(WHITEN, right="a line of yore")):
            pass


def test_afterwards_everything_is_as_it_was():
    """Also when a test fails while the animal is out."""
    x, mask = torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3, dtype=torch.bool)
    before, code = ppo.whiten(x, mask), ppo.whiten.__code__
    with pytest.raises(ZeroDivisionError), release(WHITEN):
        assert not torch.equal(ppo.whiten(x, mask), before)
        raise ZeroDivisionError
    assert ppo.whiten.__code__ is code and torch.equal(ppo.whiten(x, mask), before)
