"""The specification of the demonstration: every stage in turn, each with the time that remains."""

import re
from types import SimpleNamespace

import pytest

from minirlhf.tools import demo


@pytest.fixture
def steps(monkeypatch):
    """[(name, flags)] of what the demonstration runs. Every run takes 10 seconds of a clock that
    stands still otherwise."""
    calls, clock = [], [0.0]

    def command(name):
        def run(argv):
            calls.append((name, argv))
            clock[0] += 10.0

        return run

    monkeypatch.setattr(demo, "script", lambda name: SimpleNamespace(main=command(name)))
    monkeypatch.setattr(demo.report, "main", command("report"))
    monkeypatch.setattr(demo.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(demo, "gflops", lambda: demo.WORK / 90)
    return calls


def test_the_stages_run_in_order_with_one_folder_and_one_seed(steps):
    """The demonstration replaces its earlier runs, so that it can be run twice. PPO on the judge is
    left to `make results`: it would take a fifth of the time."""
    demo.main(["--out", "here", "--seed", "7"])
    assert [name for name, _ in steps] == ["train_sft", "train_rm", "train_ppo", "report"]
    for name, argv in steps:
        overwrite = [] if name == "report" else ["--overwrite"]
        assert argv == ["--out", "here", "--seed", "7", *overwrite]


def test_each_step_says_which_it_is_and_what_remains_of_the_whole(steps, capsys):
    """The shares of the time add up to the whole. Before the first step the time that remains comes
    from the speed of the machine, here 90 seconds, then from the steps so far: after 10 seconds for
    a share s of 100, 10 (100 - s) / s."""
    shares = [share for share, *_ in demo.STEPS]
    assert sum(shares) == 100
    demo.main([])
    pattern = r"--- step (\d) of 4, (\d:\d\d) so far, about (\d+):(\d\d) to go: "
    headings = re.findall(pattern, capsys.readouterr().out)
    times = [(str(n), f"0:{10 * (n - 1):02d}") for n in range(1, 5)]
    assert [heading[:2] for heading in headings] == times
    assert headings[0][2:] == ("1", "30")
    for n in range(1, 4):
        rest = 10 * n / sum(shares[:n]) * (100 - sum(shares[:n]))
        minutes, seconds = map(int, headings[n][2:])
        assert 60 * minutes + seconds == int(rest)


def test_the_speed_is_that_of_the_second_product(monkeypatch):
    """2 x 100^3 operations in two milliseconds are 1 GFLOP/s. The first product is slower than the
    rest: threads start, memory is taken."""
    clock = iter([0.0, 5.0, 5.002])
    monkeypatch.setattr(demo.time, "perf_counter", lambda: next(clock))
    assert demo.gflops(100) == pytest.approx(1.0)
