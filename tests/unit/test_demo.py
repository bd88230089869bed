"""The specification of the demonstration: every stage in turn, each told what remains."""

import re

import pytest

from minirlhf.tools import demo


@pytest.fixture
def steps(monkeypatch):
    """[(name, flags)] of what the demonstration runs; every run takes 10 seconds of a clock that stands still otherwise."""
    calls, clock = [], [0.0]

    def named(name):
        def run(argv):
            calls.append((name, argv))
            clock[0] += 10.0

        return run

    monkeypatch.setattr(
        demo, "script", lambda name: type(name, (), {"main": staticmethod(named(name))})
    )
    monkeypatch.setattr(demo.report, "main", named("report"))
    monkeypatch.setattr(demo.time, "perf_counter", lambda: clock[0])
    return calls


def test_the_stages_run_in_order_with_one_folder_and_one_seed(steps):
    """What is there already is replaced: the demonstration is there to be run again."""
    demo.main(["--out", "here", "--seed", "7"])
    assert [name for name, _ in steps] == [
        "train_sft",
        "train_rm",
        "train_ppo",
        "train_ppo",
        "report",
    ]
    assert all(argv[argv.index("--seed") + 1] == "7" for _, argv in steps)
    assert [argv[argv.index("--out") + 1] for _, argv in steps] == [
        "here",
        "here",
        "here",
        "here/on-judge",
        "here",
    ]
    assert ["--overwrite" in argv for _, argv in steps] == [True, True, True, True, False]
    assert steps[3][1][steps[3][1].index("--reward") + 1] == "minirlhf.world.judge:total"
    assert "--reward" not in steps[2][1]


def test_each_step_says_which_it_is_and_what_remains_of_the_whole(steps, capsys):
    """Shares of the time add up to the whole; what remains is judged by what the steps so far have taken: after 10 seconds for
    a share s of 100, 10 (100 - s) / s."""
    shares = [share for share, *_ in demo.STEPS]
    assert sum(shares) == 100
    demo.main([])
    told = re.findall(
        r"--- step (\d) of 5, (\d:\d\d) so far(?:, about (\d+):(\d\d) to go)?",
        capsys.readouterr().out,
    )
    assert [(number, spent) for number, spent, *_ in told] == [
        (str(n), f"0:{10 * (n - 1):02d}") for n in range(1, 6)
    ]
    assert told[0][2:] == ("", "")
    for done in range(1, 5):
        left = 10 * done / sum(shares[:done]) * (100 - sum(shares[:done]))
        assert 60 * int(told[done][2]) + int(told[done][3]) == int(left)
