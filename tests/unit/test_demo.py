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
    return calls


def test_the_stages_run_in_order_with_one_folder_and_one_seed(steps):
    """The demonstration replaces its earlier runs, so that it can be run twice."""
    demo.main(["--out", "here", "--seed", "7"])
    names = ["train_sft", "train_rm", "train_ppo", "train_ppo", "report"]
    assert [name for name, _ in steps] == names
    assert all(argv[argv.index("--seed") + 1] == "7" for _, argv in steps)
    folders = ["here", "here", "here", "here/on-judge", "here"]
    assert [argv[argv.index("--out") + 1] for _, argv in steps] == folders
    assert ["--overwrite" in argv for _, argv in steps] == [True, True, True, True, False]
    assert steps[3][1][steps[3][1].index("--reward") + 1] == "minirlhf.world.judge:total"
    assert "--reward" not in steps[2][1]


def test_each_step_says_which_it_is_and_what_remains_of_the_whole(steps, capsys):
    """The shares of the time add up to the whole. The time that remains is estimated from the
    steps so far: after 10 seconds for a share s of 100, 10 (100 - s) / s."""
    shares = [share for share, *_ in demo.STEPS]
    assert sum(shares) == 100
    demo.main([])
    pattern = r"--- step (\d) of 5, (\d:\d\d) so far(?:, about (\d+):(\d\d) to go)?"
    headings = re.findall(pattern, capsys.readouterr().out)
    times = [(str(n), f"0:{10 * (n - 1):02d}") for n in range(1, 6)]
    assert [heading[:2] for heading in headings] == times
    assert headings[0][2:] == ("", "")
    for n in range(1, 5):
        rest = 10 * n / sum(shares[:n]) * (100 - sum(shares[:n]))
        minutes, seconds = map(int, headings[n][2:])
        assert 60 * minutes + seconds == int(rest)
