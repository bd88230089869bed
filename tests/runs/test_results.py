"""`minirlhf results`, the table and figures of several runs: the arithmetic by hand, the command on
toy runs."""

import json
import math
import shutil

import numpy as np
import pytest

import train_ppo
from minirlhf.run.config import InputError
from minirlhf.tools import report, results

PPO = "--updates 2 --batch-size 8 --minibatches 2 --held-out 6 --eval-every 1".split()
PPO += ["--max-new-tokens", "4"]
REPORT = "--prompts 10 --best-of 4 --max-new-tokens 4".split()


def test_the_interval_over_seeds_is_students():
    """1, 2, 3: standard deviation 1, t(2 degrees) = 4.303, half width 4.303 / sqrt 3 = 2.48. Two
    values stay as they are."""
    assert results.seed_interval([1, 2, 3]) == pytest.approx((2.0, 4.303 / math.sqrt(3)))
    assert results.cell([1, 2, 3]) == "2.00 ± 2.48"
    assert results.cell([2.0], 1) == "2.0" and results.cell([2, 4]) == "2.00, 4.00"


def test_the_reward_models_accuracy_is_told_above_chance():
    """(.76 - .5) / (.80 - .5) = .867"""
    numbers = {"expected_accuracy": 0.76, "best_possible_accuracy": 0.8, "held_out_pairs": 9.0}
    wins = {"win_rate": (0.8, 0.1), "best_win_rate": 0.9}
    run = {"gains": {}, **wins, "of_the_way": {}, "reward_model": numbers}
    claims = results.claims(run)
    assert claims["reward model: accuracy above chance, of the best possible"] == "0.867"
    assert claims["PPO beats SFT (a faultless policy)"] == "0.800 ± 0.100 (0.900)"


@pytest.mark.parametrize("degrees", range(1, 10))
def test_the_quantiles_of_students_t_are_where_two_and_a_half_percent_lie_beyond(degrees):
    """The integral of the density: its constant from the gamma function, the tail by the
    substitution x = t / u."""
    constant = (
        math.gamma((degrees + 1) / 2) / math.sqrt(degrees * math.pi) / math.gamma(degrees / 2)
    )
    t = results.T95[degrees + 1]
    u = (np.arange(200_000) + 0.5) / 200_000
    tail = (constant * (1 + (t / u) ** 2 / degrees) ** (-(degrees + 1) / 2) * t / u**2).mean()
    assert tail == pytest.approx(0.025, rel=2e-3)


def test_the_fall_is_from_the_judged_peak_to_the_end():
    """Totals 2.0, 2.5, 1.0, scores .1, .5, .9: the total fell by 1.5 while the score rose by .4.
    The half widths .3 and .4 give .5."""
    values = [(2.0, 0.3, 0.1), (2.5, 0.3, 0.5), (1.0, 0.4, 0.9)]
    records = [{"eval_total": t, "eval_total_half": h, "eval_score": s} for t, h, s in values]
    assert results.fall(records) == pytest.approx((-1.5, 0.5, 0.4))


@pytest.fixture(scope="module")
def runs(world_run, tmp_path_factory):
    """Two seeds with a report each, and one PPO run with another kl_coef: toys."""
    folder = tmp_path_factory.mktemp("results")
    judge = "--reward minirlhf.world.judge:total --missing-end-score -1".split()
    for seed in ("1", "2"):
        out = shutil.copytree(world_run, folder / seed)
        train_ppo.main(["--out", str(out), "--seed", seed, *PPO])
        train_ppo.main(["--out", str(out / "on-judge"), "--sft", str(out / "sft"), *PPO, *judge])
        report.main(["--out", str(out), "--seed", seed, *REPORT])
    models = ["--sft", str(folder / "1" / "sft"), "--rm", str(folder / "1" / "rm")]
    train_ppo.main(["--out", str(folder / "kl-0.5"), "--kl-coef", "0.5", *models, *PPO])
    return folder


def test_it_writes_the_table_and_both_figures(runs):
    """The README's table and figures come from a command, not from a hand."""
    results.main(["--out", str(runs), "--prompts", "6", "--max-new-tokens", "4"])
    for name in ("learning", "overoptimisation"):
        assert (runs / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    text = (runs / "results.md").read_text()
    assert "| SFT | " in text and "| seed | 1 | 2 |" in text
    assert "kl_coef 0.5: from its judged peak" in text


def test_the_table_has_every_seed(runs):
    """Two values stay two values: a mean would hide one."""
    reports = [json.loads((runs / seed / "report.json").read_text()) for seed in "12"]
    first, second = (numbers["rows"]["PPO"]["total"] for numbers in reports)
    lines = results.markdown(results.load_reports(runs)).splitlines()
    row = next(line for line in lines if line.startswith("| PPO |"))
    cell = row.split("|")[2 + results.COLUMNS.index("total")]
    assert cell.strip() == f"{first:.2f}, {second:.2f}"


def test_the_curve_of_best_of_n_starts_at_the_sft_model_and_the_score_rises_with_n(
    runs, monkeypatch
):
    """KL 0 at n = 1. All points come from the same samples, so that the best of more of them never
    has a lower score, which is what PPO maximises."""
    numbers, model_scores = [], results.evaluate.model_scores

    def record_and_make(reward_model, missing_end_score):
        numbers.append(missing_end_score)
        return model_scores(reward_model, missing_end_score)

    monkeypatch.setattr(results.evaluate, "model_scores", record_and_make)
    args = results.Config(out=str(runs), prompts=6, max_new_tokens=4)
    kls, scores, _ = results.best_of_n_curve(args, runs / "1").T
    assert kls[0] == 0 and (np.diff(kls) > 0).all()
    assert (np.diff(scores) >= 0).all() and scores[-1] > scores[0]
    assert numbers == [-3]  # what the reward model stores for a response without end


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
