"""`minirlhf results`, the table and figures of several runs: the arithmetic by hand, the command on
toy runs."""

import json
import re
import shutil

import numpy as np
import pytest

import train_ppo
from minirlhf.run.config import InputError
from minirlhf.tools import figures, report, results
from minirlhf.world import measures

PPO = "--updates 2 --batch-size 8 --minibatches 2 --held-out 6 --eval-every 1".split()
PPO += ["--max-new-tokens", "4"]
REPORT = "--prompts 20 --best-of 4 --max-new-tokens 4".split()


def test_the_interval_over_seeds_is_students():
    """1, 2, 3: standard deviation 1, t(2 degrees) = 4.303, half width 4.303 / sqrt 3 = 2.48. One or
    two values stay as they are, and a seed without a value is left out."""
    assert results.cell([1, 2, 3]) == "2.00 ± 2.48"
    assert results.cell([2.0], 1) == "2.0" and results.cell([2, 4]) == "2.00, 4.00"
    assert results.cell([1, None, 2, 3]) == "2.00 ± 2.48" and results.cell([None]) == "-"
    # A value of 0 is a value.
    assert results.cell([0.0]) == "0.00" and results.cell([0.0, None, 1.0]) == "0.00, 1.00"
    assert (
        results.cell([0.0, 1.0, 2.0]) == "1.00 ± 2.48" and results.cell([0, 0, 0], 1)[:3] == "0.0"
    )


def test_the_claims_of_a_seed():
    """(.76 - .5) / (.80 - .5) = .867: the reward model's accuracy above chance, of the best
    possible. A difference to which no prompt applies is left out."""
    numbers = {"expected_accuracy": 0.76, "best_possible_accuracy": 0.8, "held_out_pairs": 9.0}
    numbers |= {"tied_totals": 0.31}
    gains = dict.fromkeys((*results.QUALITY, *results.COSTS), (0.25, 0.125))
    gains["lookalikes"] = (None, None)
    gains["admits"] = (0.25, None)  # of prompts that all stand and fall together
    run = {"gains": {"SFT": gains, "memoriser": gains}, "win_rate": (0.8, 0.1)}
    run |= {"rows": {"faultless": {"beats_sft": 0.9}}, "reward_model": numbers}
    claims = results.claims(run)
    assert claims["reward model: accuracy above chance, of the best possible"] == "0.867"
    assert claims["reward model: tied totals"] == "0.310"
    assert claims["PPO beats SFT (a faultless policy)"] == "0.800 ± 0.100 (0.900)"
    assert claims["PPO - SFT, declined"] == claims["PPO - memoriser, unranked"] == "+0.25 ± 0.12"
    assert "PPO - SFT, lookalikes" not in claims and "PPO - memoriser, declined" not in claims
    assert "PPO - SFT, admits" not in claims
    claims = results.claims(run | {"of_the_way": {"facts": 0.0, "total": None, "honest": 0.5}})
    way = [
        claims[f"of the way to PPO on the judge, {name}"] for name in ("facts", "total", "honest")
    ]
    assert way == ["0.00", "-", "0.50"]  # nothing of the way is a number, too


def test_what_one_seed_alone_has_is_told_of_that_seed():
    """A policy, and a claim: whichever seed comes first."""
    rows = {"SFT": {"total": 1.0}}, {"SFT": {"total": 2.0}, "PPO": {"total": 2.5}}
    for sides in (rows, rows[::-1]):
        reports = {str(n): {"rows": side} for n, side in enumerate(sides)}
        table = results.policy_table("", ("total",), reports)
        assert "| PPO | 2.50 |" in table and len(table) == 7
    claims = [{"one": "1", "two": "2"}, {"two": "3", "three": "4"}]
    for sides, lines in (
        (claims, ["| one | 1 | - |", "| two | 2 | 3 |", "| three | - | 4 |"]),
        (claims[::-1], ["| two | 3 | 2 |", "| three | 4 | - |", "| one | - | 1 |"]),
    ):
        assert results.claim_table(dict(zip("12", sides, strict=True)))[4:-1] == lines


def test_the_fall_is_from_the_judged_peak_to_the_end():
    """Totals 2.0, 2.5, 1.0, scores .1, .5, .9: the total fell by 1.5 while the score rose by .4.
    The half widths .3 and .4 give .5."""
    values = [(2.0, 0.3, 0.1), (2.5, 0.3, 0.5), (1.0, 0.4, 0.9)]
    records = [{"eval_total": t, "eval_total_half": h, "eval_score": s} for t, h, s in values]
    assert results.fall(records) == pytest.approx((-1.5, 0.5, 0.4))


def test_a_kl_coefficient_has_a_row_with_what_it_wins_and_what_it_costs():
    """The peak is the first evaluation, the numbers are those of the last; none without a run."""
    peak = {"eval_total": 2.5, "eval_total_half": 0.3, "eval_score": 0.5, "eval_kl": 1.0}
    end = {"eval_total": 2.0, "eval_total_half": 0.4, "eval_score": 0.75, "eval_kl": 3.25}
    peak |= {"eval_distinct": 300.0, "sampled_entropy": 4.0}
    end |= {"eval_distinct": 120.0, "sampled_entropy": 1.5}
    *_, header, _, row, _ = results.coefficient_table({"0.05": [peak, end]})
    assert header.split(" | ")[1:3] == ["total", "since its peak"]
    cells = "2.00 ± 0.40 | -0.50 ± 0.50 | 0.75 | +0.25 | 3.2 | 120 | 1.50"
    assert row == f"| 0.05 | {cells} |"
    assert results.coefficient_table({}) == []


@pytest.fixture(scope="module")
def runs(world_run, tmp_path_factory):
    """Two seeds with a report each, and one PPO run with another kl_coef: toys."""
    folder = tmp_path_factory.mktemp("results")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(report, "MEMORISED", 50)  # ten thousand take seconds
    judge = "--reward minirlhf.world.judge:total --missing-end-score -1".split()
    for seed in ("1", "2"):
        out = shutil.copytree(world_run, folder / seed)
        train_ppo.main(["--out", str(out), "--seed", seed, *PPO])
        train_ppo.main(["--out", str(out / "on-judge"), "--sft", str(out / "sft"), *PPO, *judge])
        report.main(["--out", str(out), "--seed", seed, *REPORT])
    models = ["--sft", str(folder / "1" / "sft"), "--rm", str(folder / "1" / "rm")]
    train_ppo.main(["--out", str(folder / "kl-0.5"), "--kl-coef", "0.5", *models, *PPO])
    monkeypatch.undo()
    return folder


def test_it_writes_the_tables_and_both_figures(runs, monkeypatch):
    """The tables and figures of the documents come from a command, not from a hand. The learning
    curves are those of all seeds."""
    folders, draw = [], results.figures.draw_learning

    def record_and_draw(pyplot, paths, file):
        folders.extend(paths)
        draw(pyplot, paths, file)

    monkeypatch.setattr(results.figures, "draw_learning", record_and_draw)
    results.main(["--out", str(runs), "--prompts", "6", "--max-new-tokens", "4"])
    for name in ("learning", "overoptimisation"):
        assert (runs / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert folders == [f"{runs}/{seed}/ppo" for seed in "12"]
    text = (runs / "results.md").read_text()
    titles = re.findall(r"^## (.*)$", text, re.M)
    assert titles[:3] == ["What it wins", "What it costs", "Total by kind of prompt"]
    assert "| SFT | " in text and "|  | seed 1 | seed 2 |" in text
    assert "## PPO of seed 1 by KL coefficient" in text and "\n| 0.5 | " in text


def test_every_table_has_as_many_cells_in_each_row_as_in_its_header(runs):
    """Else it is no table on the page that it is copied to. Every policy has a row, and every
    measure of the report a column."""
    text = results.markdown(results.load_reports(runs))
    for section in text.split("\n## ")[1:]:
        rows = [line for line in section.splitlines() if line.startswith("|")]
        assert len(rows) > 2 and len({row.count("|") for row in rows}) == 1, section
    names = (*measures.MEASURES, "distinct", "commonest", "entropy", "kl", "length", "score")
    columns = {column for columns in results.TABLES.values() for column in columns}
    assert columns == {*names, "beats_sft"} - {"malformed"}  # it is what is not parsed


def test_the_tables_have_every_seed(runs):
    """Two values stay two values: a mean would hide one. Of policies and of kinds of prompt."""
    reports = [json.loads((runs / seed / "report.json").read_text()) for seed in "12"]
    lines = results.markdown(results.load_reports(runs)).splitlines()

    def cells(start):
        return [
            [c.strip() for c in line.split("|")[2:-1]] for line in lines if line.startswith(start)
        ]

    first, second = (numbers["rows"]["PPO"] for numbers in reports)
    wins, costs = cells("| PPO |")
    total = wins[results.TABLES["What it wins"].index("total")]
    assert total == f"{first['total']:.2f}, {second['total']:.2f}"
    distinct = costs[results.TABLES["What it costs"].index("distinct")]
    assert distinct == f"{first['distinct']}, {second['distinct']}"
    policies = next(line for line in lines if line.startswith("|  | base | memoriser | SFT"))
    column = [name.strip() for name in policies.split("|")[2:-1]].index("PPO")
    first, second = (numbers["groups"]["PPO"]["fact"]["total"] for numbers in reports)
    assert cells("| fact |")[0][column] == f"{first:.2f}, {second:.2f}"


def test_seeds_are_in_the_order_of_their_numbers(tmp_path):
    """2 before 10."""
    for seed in ("10", "2"):
        (tmp_path / seed).mkdir()
        record = dict.fromkeys(results.PARTS, {"some": 1})
        (tmp_path / seed / "report.json").write_text(json.dumps(record))
    assert list(results.load_reports(tmp_path)) == ["2", "10"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "[" * 2000, '{"rows": {}}', '{"prompts": 9}', "\0" * 30]
)
def test_a_damaged_report_is_one_line_with_the_command_that_writes_it_again(tmp_path, content):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "report.json").write_text(content)
    with pytest.raises(InputError, match=f"minirlhf report --out {tmp_path}/1 writes it again"):
        results.load_reports(tmp_path)


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


def test_the_figure_of_over_optimisation_starts_each_run_at_the_sft_model(drawn, runs, tmp_path):
    """KL 0, on the prompts of the run's own evaluations. A bar is the interval over prompts at the
    end; the panels have units."""
    pyplot = figures.load_pyplot()
    records = results.load_runs(runs)
    best = np.array([[0.0, 1.0, 2.0], [0.2, 1.5, 2.5]])
    figures.draw_overoptimisation(pyplot, records, best, tmp_path / "figure.png")
    (evaluations,) = records.values()
    for side, name in zip(drawn[-1].axes, ("score", "total"), strict=True):
        assert side.get_xlabel() == "KL from SFT, nats per response" and side.get_ylabel()
        ppo = next(line for line in side.lines if line.get_label() == "PPO, kl_coef 0.5")
        assert ppo.get_xdata()[0] == 0 and len(ppo.get_xdata()) == 1 + len(evaluations) == 3
        assert ppo.get_ydata()[0] == evaluations[0]["sft_" + name]
        assert ppo.get_ydata()[-1] == evaluations[-1]["eval_" + name]
        low, high = side.collections[0].get_segments()[0][:, 1]
        assert (high - low) / 2 == pytest.approx(evaluations[-1][f"eval_{name}_half"])


def test_without_a_run_it_says_what_makes_them(tmp_path, refused):
    """`make results`."""
    assert "make results" in refused(results.main, ["--out", str(tmp_path)], tmp_path)


def test_without_matplotlib_the_table_is_written_and_the_extra_is_named(runs, monkeypatch):
    """An hour of training must not be lost for want of a figure."""
    (runs / "results.md").unlink(missing_ok=True)
    monkeypatch.setattr(results.figures, "load_pyplot", lambda: None)
    with pytest.raises(InputError, match=r"pip install -e '.\[plot\]'"):
        results.main(["--out", str(runs), "--prompts", "6", "--max-new-tokens", "4"])
    assert "| SFT | " in (runs / "results.md").read_text()
