"""`minirlhf scaling`: it counts real tokens, it shares out all of the time, and the shapes take
turns."""

import json

import pytest
import torch
import torch.nn.functional as F

from minirlhf.bench import scaling, speed
from minirlhf.run.config import InputError

CPU = torch.device("cpu")


def test_a_row_is_worked_by_hand():
    """100 tokens in 1, 2 and 4 ms: 10, 20 and 40 us a token; a quarter of the median is for
    attention."""
    runs = [{"whole": whole, "tokens": 100} for whole in (0.001, 0.004, 0.002)]
    shares = {"matrix products": 0.5, "attention": 0.25, "the rest": 0.25}
    row = scaling.row((64, 32), {"runs": runs, "kinds": shares})
    assert row == [64, 32, "100", "0.00", "20 (10-40)", "5", "15", "50", "25", "25"]


@pytest.mark.parametrize(
    ("kind", "work"),
    [
        ("matrix products", lambda x: x[0, 0] @ x[0, 0].T),
        ("attention", lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)),
        ("the rest", lambda x: x.exp().log().exp()),
    ],
)
def test_time_goes_to_the_kind_of_work_that_took_it(kind, work):
    """Of a function that does one thing, nearly all; the shares add up to one."""
    x = torch.randn(4, 4, 512, 64)
    shares = scaling.kinds(lambda: [work(x) for _ in range(20)], CPU)
    assert set(shares) == set(scaling.KINDS) and sum(shares.values()) == pytest.approx(1)
    assert shares[kind] > 0.6


def test_the_shapes_take_turns(monkeypatch):
    """A B A B after one run of each that is not counted, so that a slow minute does not look like a
    slow shape."""
    calls = []

    def iteration(args, device, *shape):
        return lambda: calls.append(shape) or {"tokens": 1}

    monkeypatch.setattr(scaling, "iteration", iteration)
    monkeypatch.setattr(scaling, "kinds", lambda run, device: {})
    measurements = scaling.measure(scaling.Config(runs=2), CPU, [(1, 2), (3, 4)])
    assert calls == [(1, 2), (3, 4)] * 3
    assert [len(shape["runs"]) for shape in measurements.values()] == [2, 2]


def test_one_small_measurement(tmp_path, capsys):
    """Two shapes, once each: tokens of prompts and responses without padding, the prompts of
    `minirlhf bench`."""
    argv = "--rollouts 3 --new-tokens 4 --runs 1 --device cpu --json".split()
    scaling.main([*argv, f"{tmp_path}/s.json"])
    shapes = json.loads((tmp_path / "s.json").read_text())["shapes"]
    assert [(shape["rollouts"], shape["new_tokens"]) for shape in shapes] == [(3, 32), (64, 4)]
    job = speed.make_job(speed.Config(rollouts=3), "ppo", "", CPU)
    prompts = sum(map(len, job.prompts))
    assert prompts + 3 <= shapes[0]["runs"][0]["tokens"] <= prompts + 3 * 32
    assert "real tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rollouts", "32,many"], "separated by commas"),
        (["--new-tokens", "0"], "separated by commas"),
        (["--new-tokens", "512,2"], "at least 3"),
        (["--rollouts", "", "--new-tokens", ""], "nothing to measure"),
        (["--workload", "gpt2", "--device", "cpu"], "hours without a GPU"),
        (["--json", "."], "Is a directory"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(flags, message):
    with pytest.raises(InputError, match=message):
        scaling.main(flags)
