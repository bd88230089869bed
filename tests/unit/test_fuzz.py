"""A sample of tests/faults/fuzz.py and flips.py, which `make fuzz` runs in full; and that they find
what they are there for."""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

import flips
import fuzz

from minirlhf.run.config import InputError


@pytest.fixture(scope="module", autouse=True)
def prepared(tmp_path_factory):
    fuzz.prepare(tmp_path_factory.mktemp("fuzz") / "whole")


INPUTS = {"lines": 400, "gzip": 200, "text": 200, "tokenizer": 200}
INPUTS |= {"checkpoint": 60, "config": 40, "folder": 40}


@pytest.mark.parametrize("name", fuzz.READERS)
def test_random_damage_gives_a_record_or_one_line(tmp_path, name):
    """100,000 inputs of `make fuzz` did; these are the first few. Both outcomes occur, so that the
    damage is neither too small nor too large (any text has tokens)."""
    counts, failures = fuzz.fuzz(name, INPUTS[name], 1, tmp_path)
    assert failures == []
    assert counts["record"] > INPUTS[name] / 50
    assert name == "tokenizer" or counts["refused"] > INPUTS[name] / 10


class Panic(BaseException):
    """As tiktoken's: no Exception."""


def raises(error):
    def read(rng, folder):
        raise error

    return read


@pytest.mark.parametrize(
    "error",
    [KeyError("stage"), RecursionError(), Panic("x"), InputError("a\nb"), InputError("\x1b[2J")],
    ids=repr,
)
def test_what_is_no_single_line_is_a_failure(tmp_path, error):
    """A fuzzer that accepts tracebacks finds nothing."""
    assert fuzz.outcome(raises(error), 1, tmp_path) not in ("record", "refused")


def test_a_hang_is_a_failure_and_a_refusal_is_not(tmp_path, monkeypatch):
    """An input that takes minutes is as bad as a traceback, whether it computes or waits. A busy
    machine is not: the bound for what computes is of the processor's time."""

    def compute(rng, folder):
        start = time.process_time()
        while time.process_time() - start < 5:
            pass

    monkeypatch.setattr(fuzz, "SECONDS", 1)
    assert fuzz.outcome(compute, 1, tmp_path).startswith("more than 1 seconds")
    monkeypatch.setattr(fuzz, "WAIT", 1)
    result = fuzz.outcome(lambda rng, folder: time.sleep(5), 1, tmp_path)
    assert result.endswith("1 of waiting")
    assert fuzz.outcome(raises(InputError("one line")), 1, tmp_path) == "refused"
    assert fuzz.outcome(lambda rng, folder: None, 1, tmp_path) == "record"


def test_of_flipped_bits_none_is_used(tmp_path):
    """Of each kind of file of weights; `make fuzz` flips 200 of each. In a checkpoint each flipped
    bit is refused."""
    for kind, (path, load) in flips.prepare(tmp_path).items():
        refused, harmless, used = flips.flip(path, load, 12, seed=4)
        assert used == 0 and refused + harmless == 12, kind
        assert kind in ("safetensors", "bin") or refused == 12
