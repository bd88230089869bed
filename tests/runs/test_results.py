"""The README's table and figures from several runs: the arithmetic by hand, and the command on toy runs."""

import json
import math
import shutil

import numpy as np
import pytest

import train_ppo
from minirlhf.run.config import InputError
from minirlhf.tools import report, results


def test_the_interval_over_seeds_is_students():
    """1, 2, 3: standard deviation 1, t(2 degrees) = 4.303, half width 4.303 / sqrt 3 = 2.48. Two values stay as they are."""
    assert results.spread([1, 2, 3]) == pytest.approx((2.0, 4.303 / math.sqrt(3)))
    assert results.shown([1, 2, 3]) == "2.00 ± 2.48"
    assert results.shown([2.0], 1) == "2.0" and results.shown([2, 4]) == "2.00, 4.00"


def test_the_reward_models_accuracy_is_told_above_chance():
    """(.76 - .5) / (.80 - .5) = .867"""
    told = {"expected_accuracy": 0.76, "best_possible_accuracy": 0.8, "held_out_pairs": 9.0}
    report_ = {
        "gains": {},
        "win_rate": (0.8, 0.1),
        "best_win_rate": 0.9,
        "of_the_way": {},
        "reward_model": told,
    }
    assert (
        results.claims(report_)["reward model: accuracy above chance, of the best possible"]
        == "0.867"
    )
    assert results.claims(report_)["PPO beats SFT (a faultless policy)"] == "0.800 ± 0.100 (0.900)"


@pytest.mark.parametrize("degrees", range(1, 10))
def test_the_quantiles_of_students_t_are_where_two_and_a_half_percent_lie_beyond(degrees):
    """The density integrated: its constant from the gamma function, the tail by the substitution x = t / u."""
    constant = (
        math.gamma((degrees + 1) / 2) / math.sqrt(degrees * math.pi) / math.gamma(degrees / 2)
    )
    t = results.T95[degrees + 1]
    u = (np.arange(200_000) + 0.5) / 200_000
    tail = (constant * (1 + (t / u) ** 2 / degrees) ** (-(degrees + 1) / 2) * t / u**2).mean()
    assert tail == pytest.approx(0.025, rel=2e-3)


def test_the_fall_is_from_the_judged_peak_to_the_end():
    """Totals 2.0, 2.5, 1.0, scores .1, .5, .9: the truth fell by 1.5 while the score rose by .4; halves .3 and .4 make .5."""
    values = [(2.0, 0.3, 0.1), (2.5, 0.3, 0.5), (1.0, 0.4, 0.9)]
    records = [{"eval_total": t, "eval_total_half": h, "eval_score": s} for t, h, s in values]
    assert results.fall(records) == pytest.approx((-1.5, 0.5, 0.4))


@pytest.fixture(scope="module")
def runs(world_run, tmp_path_factory):
    """Two seeds with a report each, and one PPO run with another kl_coef: all of them toys."""
    folder = tmp_path_factory.mktemp("results")
    argv = "--updates 2 --batch-size 8 --minibatches 2 --held-out 6 --eval-every 1 --max-new-tokens 4".split()
    judged = ["--reward", "minirlhf.world.judge:total", "--missing-end-score", "-1"]
    for seed in ("1", "2"):
        out = shutil.copytree(world_run, folder / seed)
        train_ppo.main(["--out", str(out), "--seed", seed, *argv])
        train_ppo.main(["--out", str(out / "on-judge"), "--sft", str(out / "sft"), *argv, *judged])
        report.main(
            [
                "--out",
                str(out),
                "--seed",
                seed,
                "--prompts",
                "10",
                "--best-of",
                "4",
                "--max-new-tokens",
                "4",
            ]
        )
    source = ["--sft", str(folder / "1" / "sft"), "--rm", str(folder / "1" / "rm")]
    train_ppo.main(["--out", str(folder / "kl-0.5"), "--kl-coef", "0.5", *source, *argv])
    return folder


def test_it_writes_the_table_and_both_figures(runs):
    """What the README shows is made by a command, not by hand."""
    results.main(["--out", str(runs), "--prompts", "6", "--max-new-tokens", "4"])
    for name in ("learning", "overoptimisation"):
        assert (runs / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    text = (runs / "results.md").read_text()
    assert (
        "| SFT | " in text
        and "| seed | 1 | 2 |" in text
        and "kl_coef 0.5: from its judged peak" in text
    )


def test_the_table_has_every_seed(runs):
    """Two values stay two values: no mean that hides one."""
    own = [
        json.loads((runs / seed / "report.json").read_text())["rows"]["PPO"]["total"]
        for seed in "12"
    ]
    row = next(
        line
        for line in results.markdown(results.load_reports(runs)).splitlines()
        if line.startswith("| PPO |")
    )
    assert (
        row.split("|")[2 + results.COLUMNS.index("total")].strip() == f"{own[0]:.2f}, {own[1]:.2f}"
    )


def test_the_curve_of_best_of_n_starts_at_the_sft_model_and_the_score_rises_with_n(
    runs, monkeypatch
):
    """KL 0 at n = 1. All of it comes from the same samples, so the best of more of them never has a lower score."""
    finish = results.evaluate.unpack
    monkeypatch.setattr(
        results.evaluate,
        "unpack",
        lambda *args: [reply._replace(ended=True) for reply in finish(*args)],
    )
    args = results.Config(out=str(runs), prompts=6, max_new_tokens=4)
    kls, scores, _ = results.best_of_n_curve(args, runs / "1").T
    assert (
        kls[0] == 0
        and (np.diff(kls) > 0).all()
        and (np.diff(scores) >= 0).all()
        and scores[-1] > scores[0]
    )


def test_without_a_run_it_says_what_makes_them(tmp_path, refused):
    """`make results`."""
    assert "make results" in refused(results.main, ["--out", str(tmp_path)], tmp_path)


def test_without_matplotlib_the_table_is_written_and_the_extra_is_named(runs, monkeypatch):
    """An hour of training must not be lost for want of a figure."""
    (runs / "results.md").unlink(missing_ok=True)
    monkeypatch.setattr(results.report, "load_pyplot", lambda: None)
    with pytest.raises(InputError, match=r"pip install -e '.\[plot\]'"):
        results.main(["--out", str(runs), "--prompts", "6", "--max-new-tokens", "4"])
    assert "| SFT | " in (runs / "results.md").read_text()
