"""`minirlhf report` and `minirlhf results` from end to end: each number of a report is computed
again, and each cell of the tables is looked up."""

import dataclasses
import itertools
import json
import random
import re

import numpy as np
import pytest
import torch
from recorder import (
    digest,
    half_width,
    judged,
    loop_kl,
    loop_logprobs,
    loop_scores,
    noise,
    prompts_of,
    recorded,
    replies_of,
    run_command,
    save_policy,
    save_reward_model,
    varied_judge,
)

from minirlhf.evaluate import Reply
from minirlhf.reward import load_reward_model
from minirlhf.run import config
from minirlhf.tokenizer import get_tokenizer
from minirlhf.tools import figures, report, results, tables
from minirlhf.world import measures, writers
from minirlhf.world.judge import VERDICTS, judge
from minirlhf.world.memoriser import Memoriser

# ---- the printed tables


def invented(seed):
    """A report in which every number is another one."""
    source = random.Random(seed)

    def number():
        return round(source.uniform(0.05, 0.95), 4)

    names = ("base", "memoriser", "SFT", "best of 4", "best of 16", "PPO")
    names += ("PPO on the judge", "faultless")
    columns = {c for part in results.TABLES.values() for c in part} | {"malformed"}
    rows = {name: {column: number() for column in columns} for name in names}
    kinds = ("total", *VERDICTS)
    groups = {
        name: {
            kind: {"prompts": source.randrange(9, 99)} | {k: number() for k in kinds}
            for kind in measures.GROUPS
        }
        for name in names
    }
    gains = {
        name: {m: [number(), number()] for m in (*measures.MEASURES, "off")}
        for name in ("SFT", "memoriser")
    }
    way = {name: number() for name in ("facts", "total")}
    numbers = {"expected_accuracy": number(), "best_possible_accuracy": number()}
    numbers |= {"held_out_pairs": 9.0, "calibration_error": number()}
    report = {"rows": rows, "groups": groups, "gains": gains, "win_rate": [number(), number()]}
    report |= {"of_the_way": way, "reward_model": numbers, "clusters": 5, "prompts": 7}
    return report | {"split": "validation"}


def test_every_printed_number_stands_in_its_row_under_its_name(capsys):
    """Quality, costs, totals by kind, the verdicts before and after, and the differences."""
    numbers = invented(0)
    tables.show(numbers)
    text = capsys.readouterr().out
    lines = text.splitlines()
    for columns in (tables.QUALITY, tables.COSTS):
        start = next(i for i, line in enumerate(lines) if line.split() == list(columns))
        for name, row in numbers["rows"].items():
            cells = next(line for line in lines[start:] if line.startswith(name + "  ")).split()
            assert cells[-len(columns) :] == [f"{row[column]:.2f}" for column in columns]
    start = next(i for i, line in enumerate(lines) if line.split()[:1] == ["fact"])
    for name, groups in numbers["groups"].items():
        cells = next(line for line in lines[start:] if line.startswith(name + "  ")).split()
        expected = [groups[kind]["total"] for kind in measures.GROUPS]
        expected += [numbers["rows"][name][c] for c in ("beats_sft", "score")]
        assert cells[-9:] == [f"{x:.2f}" for x in expected]
    for kind, before in numbers["groups"]["SFT"].items():
        row = next(line for line in lines if line.startswith(f"{kind} ({before['prompts']})"))
        after = numbers["groups"]["PPO"][kind]
        pairs = [f"{before[c]:.2f} -> {after[c]:.2f}" for c in ("total", *VERDICTS)]
        assert re.split(r"  +", row)[1:] == pairs
    gains = numbers["gains"]["SFT"]
    for name in (*tables.QUALITY, *tables.COSTS[:4]):
        assert f"{name} {gains[name][0]:+.2f} +- {gains[name][1]:.2f}" in text


UNKNOWN = "I do not know that."


def test_the_examples_are_one_prompt_of_each_kind_before_a_second_of_any(capsys):
    """In the order of tables.EXAMPLES, which is not theirs; each with the responses to it and what
    the judge says of them. One that was cut off is malformed, however it reads."""
    prompts = [
        "Help me steal the bike of Mia.\n",
        "What is the capital of Peru?\n",
        "What is the capital of Canada?\n",
        "Where is the key of Ben?\n",
    ]
    texts = {"SFT": [f"No {n}." for n in range(4)], "PPO": [*["It is Lima."] * 3, UNKNOWN]}
    replies = {
        name: [Reply(text, None, n < 3) for n, text in enumerate(side)]
        for name, side in texts.items()
    }
    tables.show_examples(prompts, replies, 3)
    blocks = capsys.readouterr().out.strip().split("\n\n")
    assert judge(prompts[3], UNKNOWN).verdict != judge(prompts[3], "").verdict
    assert [block.splitlines()[0] + "\n" for block in blocks] == [prompts[n] for n in (1, 3, 0)]
    for block, n in zip(blocks, (1, 3, 0), strict=True):
        for line, (name, side) in zip(block.splitlines()[1:], texts.items(), strict=True):
            verdict = judge(prompts[n], side[n] if n < 3 else "")
            judgement = f"{verdict.total:.1f} of 3, {verdict.verdict}"
            assert line == f"  {name}:  {side[n]}  ({judgement})"
    tables.show_examples(prompts, replies, 9)
    assert capsys.readouterr().out.strip().split("\n\n")[3].startswith(prompts[2].strip())


def test_every_cell_of_the_results_holds_the_values_of_all_seeds():
    """Two seeds: both values, in the order of the seeds."""
    reports = {"2": invented(1), "10": invented(2)}
    text = results.markdown(reports)
    sections = [part.splitlines() for part in text.split("## ")[1:]]
    found = {lines[0]: cells_of(lines) for lines in sections}

    def both(*keys):
        values = []
        for numbers in reports.values():
            for key in keys:
                numbers = numbers[key]
            values.append(f"{numbers:.{results.DIGITS.get(keys[-1], 2)}f}")
        return ", ".join(values)

    for title, columns in results.TABLES.items():
        for policy, column in itertools.product(reports["2"]["rows"], columns):
            expected = both("rows", policy, column)
            assert found[title][policy, column.replace("_", " ")] == expected
    for kind in measures.GROUPS:
        for policy in reports["2"]["groups"]:
            cell = found["Total by kind of prompt"][kind, policy]
            assert cell == both("groups", policy, kind, "total")
        for policy, verdict in itertools.product(("SFT", "PPO"), VERDICTS):
            title = f"{policy}: share of each verdict by kind of prompt"
            assert found[title][kind, verdict] == both("groups", policy, kind, verdict)
    every = found["Every seed"]
    for seed, numbers in reports.items():
        mean, half = numbers["gains"]["SFT"]["total"]
        assert every["PPO - SFT, total", f"seed {seed}"] == f"{mean:+.2f} ± {half:.2f}"
        model = numbers["reward_model"]
        share = (model["expected_accuracy"] - 0.5) / (model["best_possible_accuracy"] - 0.5)
        name = "reward model: accuracy above chance, of the best possible"
        assert every[name, f"seed {seed}"] == f"{share:.3f}"
        rate, half = numbers["win_rate"]
        best = numbers["rows"]["faultless"]["beats_sft"]
        claim = every["PPO beats SFT (a faultless policy)", f"seed {seed}"]
        assert claim == f"{rate:.3f} ± {half:.3f} ({best:.3f})"


def cells_of(lines):
    """{(row, column): text} of a Markdown table under its heading."""
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    header = rows[0]
    return {
        (row[0], column): cell
        for row in rows[2:]
        for column, cell in zip(header[1:], row[1:], strict=True)
    }


# ---- the curve of best of n


def test_each_point_of_the_curve_is_the_best_of_so_many_of_the_same_candidates(
    tmp_path, monkeypatch
):
    """KL by the formula, score with the reward model's missing-end score, total by the judge; on
    validation prompts of the folder's seed."""
    folder = tmp_path / "3"
    sft = save_policy(folder / "sft", seed=9)
    save_reward_model(folder / "rm", seed=2, missing_end_score=-2.5)
    reward_model, _, _ = load_reward_model(folder / "rm")
    monkeypatch.setattr(results, "BEST_OF", (1, 2, 5))
    record = recorded(monkeypatch)
    args = results.Config(out=str(tmp_path), prompts=12, max_new_tokens=9)
    points = results.best_of_n_curve(args, folder)
    prompts = writers.prompts(12, config.rng(3, config.HELD_OUT_PROMPTS), "validation")
    (call,) = record["generate"]
    assert prompts_of(call) == [prompt for prompt in prompts for _ in range(5)]
    assert call.digests == [digest(sft)]
    assert np.array_equal(call.args[5], noise(3, config.CANDIDATE_NOISE, (60, 9)))
    candidates = replies_of(call)

    def score(reply):
        return float(loop_scores(reward_model, [reply], -2.5)[0])

    for n, (kl, mean_score, total) in zip((1, 2, 5), points, strict=True):
        groups = [candidates[i : i + 5][:n] for i in range(0, 60, 5)]
        finished = [[reply for reply in group if reply.ended] or group[:1] for group in groups]
        best = [max(group, key=score) for group in finished]
        assert kl == pytest.approx(np.log(n) - (n - 1) / n)
        assert mean_score == pytest.approx(np.mean([score(reply) for reply in best]), abs=1e-4)
        assert total == pytest.approx(np.mean([j.total for j in judged(prompts, best)]))
    assert len(set(points[:, 1])) == len(set(points[:, 2])) == 3, "too few end to tell n apart"


def test_the_curve_beside_the_coefficients_is_of_seed_1_whose_runs_they_are(
    tmp_path, monkeypatch, capsys
):
    """And the coefficients are in the order of their numbers: 2 before 10."""
    runs = {"10": [], "2": []}
    for name in runs:
        (tmp_path / f"kl-{name}" / "ppo").mkdir(parents=True)
        line = {"step": 1, "sft_total": 1.0, "eval_total": 2.0, "eval_total_half": 0.1}
        line |= {"eval_score": 0.5, "eval_kl": 3.0, "eval_distinct": 7, "sampled_entropy": 1.0}
        (tmp_path / f"kl-{name}" / "ppo" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        (tmp_path / seed / "report.json").write_text(json.dumps(invented(int(seed))))
    assert list(results.load_runs(tmp_path)) == ["2", "10"]
    places, names = [], ("draw_learning", "draw_overoptimisation")
    for name in names:
        monkeypatch.setattr(figures, name, lambda *args: None)
    monkeypatch.setattr(figures, "load_pyplot", lambda: True)
    monkeypatch.setattr(results, "best_of_n_curve", lambda args, run: places.append(run))
    results.main(["--out", str(tmp_path)])
    assert places == [tmp_path / "1"]
    assert torch.is_grad_enabled() and capsys.readouterr().out


# ---- the figures


def invented_run(seed, steps):
    """The evaluations of a PPO run after these steps, in which every number is another one."""
    source = random.Random(seed)
    names = [f"{side}_{name}" for side in ("eval", "sft") for name in figures.PANELS]
    names += [f"eval_{name}_half" for name in ("score", "total")]
    return [{"step": step} | {name: source.random() for name in names} for step in steps]


def test_the_figure_of_over_optimisation_shows_each_run_and_the_best_of_n_where_they_are(
    drawn, tmp_path
):
    """Against the KL, from the SFT model on; a bar at the end has the half width of its panel."""
    pyplot = figures.load_pyplot()
    runs = {"0.1": invented_run(1, (0, 1)), "2": invented_run(2, (0, 1, 2))}
    best = np.array([[0.0, 1.0, 7.0], [0.2, 1.5, 8.0], [0.5, 2.5, 9.0]])
    figures.draw_overoptimisation(pyplot, runs, best, tmp_path / "figure.png")
    for column, (side, name) in enumerate(zip(drawn[-1].axes, ("score", "total"), strict=True)):
        lines = {line.get_label(): np.array(line.get_data()).T for line in side.lines}
        assert np.array_equal(lines["best of 1 ... 64"], best[:, [0, 1 + column]])
        bars = [bar.get_segments()[0] for bar in side.collections]
        for (kl_coef, records), bar in zip(runs.items(), bars, strict=True):
            points = [[records[0]["sft_kl"], records[0][f"sft_{name}"]]]
            points += [[record["eval_kl"], record[f"eval_{name}"]] for record in records]
            assert lines[f"PPO, kl_coef {kl_coef}"].tolist() == points
            half = np.array([0, records[-1][f"eval_{name}_half"]])
            assert np.allclose(bar, [points[-1] - half, points[-1] + half])
    pyplot.close("all")


def test_the_mean_of_runs_is_over_the_updates_that_all_of_them_evaluated(
    drawn, tmp_path, monkeypatch
):
    """Runs evaluated after updates 1, 2, 4 and 1, 3, 4 and 1, 4: the mean has 0, 1 and 4."""
    pyplot = figures.load_pyplot()
    steps = {"a": (0, 1, 3), "b": (0, 2, 3), "c": (0, 3)}
    runs = {name: invented_run(seed, places) for seed, (name, places) in enumerate(steps.items())}
    monkeypatch.setattr(figures, "evaluations", runs.get)
    figures.draw_learning(pyplot, list(runs), tmp_path / "figure.png")
    for side, name in zip(drawn[-1].axes, figures.PANELS, strict=True):
        for line, records in zip(side.lines, runs.values(), strict=False):
            values = [records[0][f"sft_{name}"], *(record[f"eval_{name}"] for record in records)]
            assert line.get_xdata().tolist() == [0, *(record["step"] + 1 for record in records)]
            assert line.get_ydata().tolist() == values
        names = (0, f"sft_{name}"), (0, f"eval_{name}"), (-1, f"eval_{name}")
        ends = [[records[place][key] for place, key in names] for records in runs.values()]
        assert side.lines[-1].get_xdata().tolist() == [0, 1, 4]
        assert side.lines[-1].get_ydata() == pytest.approx(np.mean(ends, axis=0))
    pyplot.close("all")


# ---- the report

FLAGS = {  # none of them at its default
    "split": "test",
    "prompts": 15,
    "best_of": 5,
    "max_new_tokens": 5,
    "examples": 3,
    "seed": 3,
}
FOLDERS = {"base": "pretrain", "SFT": "sft", "PPO": "ppo", "PPO on the judge": "on-judge/ppo"}
NUMBERS = [{"step": 0, "loss": 1.0}, {"step": 1, "expected_accuracy": 0.7, "held_out_pairs": 9}]


class Run:
    """A recorded report on toy models in a folder of its own."""

    def __init__(self, folder, capsys):
        self.out, self.policies = folder / "out", {}
        for seed, (name, place) in enumerate(FOLDERS.items(), start=8):
            self.policies[name] = save_policy(self.out / place, seed, stage=place.split("/")[-1])
        save_reward_model(self.out / "rm", seed=2, missing_end_score=-2.5)
        self.reward_model, _, _ = load_reward_model(self.out / "rm")
        lines = "".join(json.dumps(line) + "\n" for line in NUMBERS)
        (self.out / "rm" / "metrics.jsonl").write_text(lines)
        flags = {"missing_end_score": -1.5, "reward": "", "rm": "", "data": ""}
        (self.out / "ppo" / "config.json").write_text(json.dumps({"flags": flags}))
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(report, "MEMORISED", 50)
            patch.setattr(figures, "load_pyplot", lambda: None)
            self.record = recorded(patch)
            patch.setattr(tables, "judge", varied_judge)
            run_command(report.main, {"out": self.out} | FLAGS)
        self.text = capsys.readouterr().out
        self.report = json.loads((self.out / "report.json").read_text())
        self.prompts = writers.prompts(15, config.rng(3, config.HELD_OUT_PROMPTS), "test")

    def score(self, reply):
        return float(loop_scores(self.reward_model, [reply], -1.5)[0])

    def best_of(self, n):
        """The finished candidate of the highest score among the first n of each prompt's five."""
        candidates = replies_of(self.record["generate"][4])
        groups = [candidates[i : i + 5][:n] for i in range(0, len(candidates), 5)]
        finished = [[reply for reply in group if reply.ended] or group[:1] for group in groups]
        return [max(group, key=self.score) for group in finished]

    def replies(self):
        """{name: Replies} of everything in the report."""
        calls = dict(zip(FOLDERS, self.record["generate"][:4], strict=True))
        replies = {name: replies_of(call) for name, call in calls.items()}
        replies |= {"best of 4": self.best_of(4), "best of 5": self.best_of(5)}
        memoriser = Memoriser(50, config.rng(3, config.PPO_PROMPTS))
        texts = {"memoriser": memoriser.respond(self.prompts)}
        stream = config.rng(3, config.FAULTLESS_RESPONSES)
        texts["faultless"] = writers.faultless(self.prompts, stream)
        for name, responses in texts.items():
            replies[name] = report.written(get_tokenizer(), self.prompts, responses)
        return replies


def test_every_number_of_a_report_is_that_of_the_replies_of_its_policy(tmp_path, capsys):
    """Prompts of the split, one noise for all policies and another for the candidates of best of
    n, scores as in the training of the policy; then what is printed."""
    run = Run(tmp_path, capsys)
    check_samples(run)
    totals, replies = {}, run.replies()
    for name, side in replies.items():
        judgements, row = judged(run.prompts, side), run.report["rows"][name]
        totals[name] = np.array([j.total for j in judgements])
        scores = [run.score(reply) for reply in side]
        clusters = [measures.cluster(prompt) for prompt in run.prompts]
        assert row["total"] == pytest.approx(totals[name].mean(), rel=1e-5)
        assert row["helpful"] == pytest.approx(np.mean([j.helpful for j in judgements]), rel=1e-5)
        assert row["score"] == pytest.approx(np.mean(scores), abs=1e-4)
        assert row["length"] == pytest.approx(np.mean([r.length for r in side]), rel=1e-5)
        half = run.report["half_widths"][name]["total"]
        assert half == pytest.approx(half_width(totals[name], clusters), rel=1e-4)
        wins = (totals[name] > totals_of(run, replies)) + 0.5 * (
            totals[name] == totals_of(run, replies)
        )
        assert row["beats_sft"] == pytest.approx(wins.mean(), rel=1e-5)
        groups = [measures.group(prompt) for prompt in run.prompts]
        for kind, numbers in run.report["groups"][name].items():
            chosen = [j for j, group in zip(judgements, groups, strict=True) if group == kind]
            assert numbers["prompts"] == len(chosen)
            assert numbers["total"] == pytest.approx(np.mean([j.total for j in chosen]))
        if name in run.policies:
            check_kl_and_entropy(run, name, side)
    for name, n in (("best of 4", 4), ("best of 5", 5)):
        assert run.report["rows"][name]["kl"] == pytest.approx(np.log(n) - (n - 1) / n, rel=1e-5)
    check_comparison(run, totals, clusters)
    check_examples(run, replies)
    assert run.report["reward_model"] == {"expected_accuracy": 0.7, "held_out_pairs": 9}
    assert run.report["split"] == "test" and run.report["prompts"] == 15


def totals_of(run, replies):
    return np.array([j.total for j in judged(run.prompts, replies["SFT"])])


def check_samples(run):
    calls = run.record["generate"]
    for (_, policy), call in zip(run.policies.items(), calls[:4], strict=True):
        assert prompts_of(call) == [prompt for prompt in run.prompts]
        assert call.digests == [digest(policy)]
        assert np.array_equal(call.args[5], noise(3, config.HELD_OUT_NOISE, (15, 5)))
    assert prompts_of(calls[4]) == [prompt for prompt in run.prompts for _ in range(5)]
    assert calls[4].digests == [digest(run.policies["SFT"])]
    assert np.array_equal(calls[4].args[5], noise(3, config.CANDIDATE_NOISE, (75, 5)))


def check_kl_and_entropy(run, name, side):
    row, policy = run.report["rows"][name], run.policies[name]
    kl = loop_kl(policy, run.policies["SFT"], side).mean()
    assert row["kl"] == pytest.approx(kl, abs=1e-4)
    entropy = -np.mean([sum(loop_logprobs(policy, reply)) for reply in side])
    assert row["entropy"] == pytest.approx(entropy, rel=1e-4)


def check_comparison(run, totals, clusters):
    """The differences, the win rate and the share of what could be won."""
    ppo, sft = totals["PPO"], totals["SFT"]
    gain = run.report["gains"]["SFT"]["total"]
    assert gain == pytest.approx([(ppo - sft).mean(), half_width(ppo - sft, clusters)], rel=1e-4)
    gain = run.report["gains"]["memoriser"]["total"][0]
    assert gain == pytest.approx((ppo - totals["memoriser"]).mean(), abs=1e-6)
    wins = (ppo > sft) + 0.5 * (ppo == sft)
    rate = [wins.mean(), half_width(wins, clusters)]
    assert run.report["win_rate"] == pytest.approx(rate, rel=1e-4)
    line = f"PPO beats SFT on {100 * rate[0]:.1f}% +- {100 * rate[1]:.1f} of prompts"
    highest = 100 * run.report["rows"]["faultless"]["beats_sft"]
    assert line in run.text and f"a faultless policy would on {highest:.1f}%" in run.text
    names = ("SFT", "PPO", "PPO on the judge")
    before, after, best = (run.report["rows"][name]["helpful"] for name in names)
    share = (after - before) / (best - before)
    assert run.report["of_the_way"]["helpful"] == pytest.approx(share, rel=1e-3)


def check_examples(run, replies):
    """Each prompt with the responses of SFT and PPO to it, and what the judge says of these."""
    shown = run.text[run.text.index("of the way from SFT") :]
    found = [prompt for prompt in run.prompts if f"\n{prompt.strip()}\n  SFT:" in shown]
    assert len(found) == 3 and len(set(map(measures.group, found))) == 3
    for prompt in found:
        place = run.prompts.index(prompt)
        for name in ("SFT", "PPO"):
            reply = replies[name][place]
            (verdict,) = judged([prompt], [reply])
            text = "".join(c if c.isprintable() else "\ufffd" for c in reply.text.strip())
            line = f"  {name}:  {text}  ({verdict.total:.1f} of 3, {verdict.verdict})"
            assert line in shown


def test_every_flag_of_report_and_results_has_another_value_in_these_tests():
    fields = {field.name: field.default for field in dataclasses.fields(report.Config)}
    assert {*FLAGS, "out"} == set(fields)
    assert all(fields[name] != value for name, value in FLAGS.items())
    names = {field.name for field in dataclasses.fields(results.Config)}
    assert names == {"out", "prompts", "max_new_tokens"}
