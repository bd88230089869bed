"""`minirlhf methods` with policies that are numbers: what is made, judged, compared and drawn on
three seeds, computed again. Training and sampling are test_methods.py's."""

import json
import re
import shlex
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from minirlhf import evaluate
from minirlhf.__main__ import COMMANDS
from minirlhf.run import config
from minirlhf.run.config import HELD_OUT_PROMPTS, rng
from minirlhf.tools import figures, frontier, gao, methods, runs
from minirlhf.tools.frontier import Marks
from minirlhf.tools.runs import Method
from minirlhf.tools.script import script
from minirlhf.world import measures, writers

SEEDS = (10, 3, 200)  # of the folder; as text 200 comes before 3
PROMPTS, BEST_OF_PROMPTS = 30, 20
EVALUATED = {10: (5, 10, 15, 20), 3: (5, 15, 20), 200: (5, 10, 15, 20, 25)}
TOY = {
    "ppo": Method("PPO", "rankings", (methods.PPO,)),
    "rloo": Method("others", "rankings", (f"{methods.PPO} --algorithm rloo",)),
    "loops": Method("loops", "twice", (methods.ROUNDS,), "2/ppo", ("1/ppo", "2/ppo")),
}


def draws(*words):
    """A generator that differs where the words do."""
    return np.random.default_rng(zlib.crc32(" ".join(map(str, words)).encode()))


def marks_of(path, seed, n):
    """What a policy gets on n prompts of a seed: all four numbers are its own."""
    r = draws(path, seed)
    return Marks(r.integers(0, 4, n).astype(float), 1 + 3 * r.random(), 7 + int(r.integers(90)), 99)


def golds_of(path, seed, n):
    return draws("golds", path, seed).integers(0, 4, (n, 64)).astype(float)


def proxies_of(path, n):
    return draws("proxies", path).random((n, 64))


def evaluations_of(folder):
    """The judged evaluations of a run; seeds have them at different updates."""
    r = draws("evaluations", folder)
    names = "eval_kl", "eval_total", "eval_score"
    steps = EVALUATED[int(re.search(r"/(10|3|200)/", f"{folder}/")[1])]
    return [{"step": step} | {name: r.random() for name in names} for step in steps]


def writers_of(n, seed):
    return n + seed / 7


@pytest.fixture
def whole(tmp_path, monkeypatch):
    """whole(*flags) -> what the command has made, measured and drawn, under OUT = tmp_path."""
    for seed in SEEDS:
        for stage in ("sft", "rm"):
            (tmp_path / str(seed) / stage).mkdir(parents=True)
    asked = SimpleNamespace(made=[], judged=[], sampled=[], scored=[])

    def execute(line, place):
        asked.made.append((place.name, place.seed))
        for folder in (place.method.policy, *place.method.curve):
            (place.run / folder).mkdir(parents=True, exist_ok=True)
            (place.run / folder / "checkpoint.pt").touch()

    def measure(path, sft, seed, n, max_new_tokens, file):
        asked.judged.append((path, sft, seed, n, max_new_tokens))
        return marks_of(path, seed, n)

    def sample_sft(path, seed, n, max_new_tokens, folder):
        asked.sampled.append((path, seed, n, max_new_tokens, folder))
        return SimpleNamespace(golds=golds_of(path, seed, n))

    def score_samples(path, samples, file):
        asked.scored.append(file)
        return proxies_of(path, len(samples.golds))

    def draw(pyplot, curves, best, level, path):
        asked.curves, asked.best, asked.level = curves, best, level

    for owner, replaced in (
        (methods, {"METHODS": TOY, "BEST_OF_PROMPTS": BEST_OF_PROMPTS}),
        (runs, {"execute": execute, "models_of": lambda base: {}}),
        (figures, {"evaluations": evaluations_of}),
        (frontier, {"measure": measure, "sample_sft": sample_sft, "score_samples": score_samples}),
        (frontier, {"draw": draw, "writers_total": writers_of}),
    ):
        for name, value in replaced.items():
            monkeypatch.setattr(owner, name, value)

    def call(*flags):
        limits = ["--prompts", str(PROMPTS), "--max-new-tokens", "7"]
        methods.main(["--out", str(tmp_path), "--runs", str(tmp_path / "runs"), *limits, *flags])
        return asked

    return call


def policies(out):
    """{name: {seed: folder of the policy}}, SFT first."""
    rows = {"sft": {seed: out / str(seed) / "sft" for seed in SEEDS}}
    for name, method in TOY.items():
        rows[name] = {seed: out / "runs" / name / str(seed) / method.policy for seed in SEEDS}
    return rows


SEED_FLAGS = ["--seeds", ",".join(map(str, SEEDS))]


def test_every_policy_is_judged_beside_its_own_sft_model_on_its_own_seed(whole, tmp_path):
    """As many prompts and tokens as the flags say, and everything once."""
    asked = whole(*SEED_FLAGS)
    expected = {
        (path, tmp_path / str(seed) / "sft", seed, PROMPTS, 7)
        for row in policies(tmp_path).values()
        for seed, path in row.items()
    }
    assert set(asked.judged) == expected and len(asked.judged) == len(expected) == 12
    sampled = {x[:4] for x in asked.sampled}
    models = [(tmp_path / str(seed) / "sft", seed) for seed in SEEDS]
    assert sampled == {(*model, BEST_OF_PROMPTS, 7) for model in models}
    folders = {x[4] for x in asked.sampled}  # what is kept of a seed has a place of its own
    assert len(folders) == len(set(asked.scored)) == len(SEEDS)


def cells(out, name):
    """The cells of a row of methods.md, by their heading."""
    text = (out / "runs" / "methods.md").read_text(encoding="utf-8")
    lines = [[x.strip() for x in line.strip("|").split("|")] for line in text.splitlines()]
    return dict(zip(lines[0], next(x for x in lines if x[0] == f"`{name}`"), strict=True))


def clusters(seed, n):
    prompts = writers.prompts(PROMPTS, rng(seed, HELD_OUT_PROMPTS), "validation")
    return [measures.cluster(prompt) for prompt in prompts[:n]]


def test_every_cell_of_the_table_is_that_of_its_policy(whole, tmp_path):
    """Differences are paired with PPO of the same seed. Over seeds stands the interval of their
    means. Best of 16 is compared on the prompts that it was measured on."""
    whole(*SEED_FLAGS)
    folders = policies(tmp_path)
    rows = {
        name: {seed: marks_of(path, seed, PROMPTS) for seed, path in row.items()}
        for name, row in folders.items()
    }
    rows["best of 16"] = {
        seed: Marks(
            gao.best_of_n(
                proxies_of(tmp_path / str(seed) / "rm", BEST_OF_PROMPTS),
                golds_of(folders["sft"][seed], seed, BEST_OF_PROMPTS),
                [16],
            )[:, 0],
            np.log(16) - 15 / 16,
            "-",
            None,
        )
        for seed in SEEDS
    }
    for name, row in rows.items():
        gains = []
        for seed, marks in row.items():
            n = len(marks.totals)
            ppo = rows["ppo"][seed].totals[:n]
            gains.append(evaluate.interval(marks.totals - ppo, clusters(seed, n)))
        means = evaluate.interval([mean for mean, _ in gains])
        cell = cells(tmp_path, name)
        assert cell["total, of 3"] == ", ".join(f"{x.totals.mean():.2f}" for x in row.values())
        assert cell["KL"] == ", ".join(f"{x.kl:.2f}" for x in row.values())
        assert cell["distinct"] == ", ".join(str(x.distinct) for x in row.values())
        if name != "ppo":
            each = ["{:+.2f} ± {:.2f}".format(*gain) for gain in gains]
            assert cell["minus PPO"] == ", ".join(each) and len(set(each)) == 3
            assert cell["over seeds"] == "{:.2f} ± {:.2f}".format(*means)
    assert cells(tmp_path, "ppo")["minus PPO"] == cells(tmp_path, "ppo")["over seeds"] == "-"


def test_two_seeds_have_no_interval_over_seeds(whole, tmp_path):
    """It would be six times as wide as their difference."""
    asked = whole("--seeds", "200,3")
    assert [seed for name, seed in asked.made if name == "rloo"] == [200, 3]
    assert cells(tmp_path, "rloo")["over seeds"] == "-"
    assert len(cells(tmp_path, "rloo")["minus PPO"].split(",")) == 2


def test_a_line_of_the_figure_is_the_mean_of_its_seeds_at_the_updates_that_all_have(
    whole, tmp_path
):
    """From the SFT models through the evaluations, without the last one, to the mean of the judged
    policies. A method of several folders has those of all, in turn."""
    asked = whole(*SEED_FLAGS)
    folders = policies(tmp_path)
    points = {
        name: np.array(
            [
                [marks.kl, marks.totals.mean()]
                for seed, path in row.items()
                for marks in [marks_of(path, seed, PROMPTS)]
            ]
        )
        for name, row in folders.items()
    }
    assert [curve.name for curve in asked.curves] == list(TOY)
    for curve in asked.curves:
        method, expected = TOY[curve.name], [[0, points["sft"][:, 1].mean()]]
        for folder in method.curve or [method.policy]:
            for step in (5, 15):
                expected.append(
                    np.mean(
                        [
                            (line["eval_kl"], line["eval_total"])
                            for seed in SEEDS
                            for line in evaluations_of(
                                tmp_path / "runs" / curve.name / str(seed) / folder
                            )
                            if line["step"] == step
                        ],
                        axis=0,
                    )
                )
        expected.append(points[curve.name].mean(0))
        assert np.array(curve.points) == pytest.approx(np.array(expected))
        assert np.array(curve.ends) == pytest.approx(points[curve.name])
        assert curve.family == method.family


def test_the_dashed_line_is_best_of_n_and_the_dotted_one_the_writers_on_all_seeds(whole, tmp_path):
    asked = whole(*SEED_FLAGS)
    totals = []
    for seed in SEEDS:
        base = tmp_path / str(seed)
        golds = golds_of(base / "sft", seed, BEST_OF_PROMPTS)
        totals.append(gao.best_of_n(proxies_of(base / "rm", BEST_OF_PROMPTS), golds, frontier.NS))
    assert asked.best[:, 1] == pytest.approx(np.mean(totals, axis=(0, 1)))
    assert asked.best[:, 0] == pytest.approx([np.log(n) - (n - 1) / n for n in frontier.NS])
    assert asked.level == pytest.approx(np.mean([writers_of(PROMPTS, seed) for seed in SEEDS]))


def test_only_the_methods_that_are_named_are_made_and_none_makes_nothing(whole, tmp_path):
    """In the order of the table, on each seed. Without --seeds on the first three, by number."""
    assert whole("--only", "none").made == []
    assert whole("--only", "loops, ppo").made == [
        (name, seed) for seed in sorted(SEEDS) for name in ("ppo", "loops")
    ]


def test_the_seed_of_a_demonstration_is_that_of_its_sft_model(tmp_path):
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "config.json").write_text(json.dumps({"flags": {"seed": 7}}))
    assert methods.bases(methods.Config(out=str(tmp_path))) == {7: tmp_path}


# ---- the lines of METHODS


def parsed(command):
    """(name, flags) of a command of METHODS for seed 7, read by the command itself."""
    name, *words = shlex.split(command.format(run="RUN", base="BASE", seed=7))
    return name, config.parse(script(COMMANDS[name].module).Config, words)


LAST = {name: parsed(method.commands[-1]) for name, method in methods.METHODS.items()}


def test_every_method_begins_with_the_base_on_the_seed_of_the_row():
    """Not each with seed 1: the intervals over seeds rest on it."""
    assert {(flags.seed, flags.sft) for _, flags in LAST.values()} == {(7, "BASE/sft")}
    for name, (command, flags) in LAST.items():
        if command in ("ppo", "rejection"):
            assert flags.rm.split(",")[0] == "BASE/rm", name


def test_what_a_row_is_called_is_what_its_command_is_told():
    """And nothing else of this kind: PPO is told neither."""
    for name, (command, flags) in LAST.items():
        if command == "ppo":
            known = name in ("rloo", "grpo", "dr-grpo", "dapo")
            assert flags.algorithm == (name if known else "ppo"), name
            credit = {"prefix-credit": "prefix", "attention-credit": "attention"}
            assert flags.credit == credit.get(name, flags.__class__.credit), name
            assert (flags.ptx_coef > 0, flags.lora > 0, flags.par > 0) == (
                (name == "ptx", name == "lora", name == "par")
            ), name
        if command == "dpo":
            assert flags.loss == name
        if command == "demonstrations":
            assert flags.method == name


def test_robust_rewards_are_tried_without_a_penalty_and_everything_else_with_it():
    free = {name for name, (_, flags) in LAST.items() if getattr(flags, "kl_coef", 1) == 0}
    assert free == {"worst-of-4", "par", "no-penalty"}


def test_the_worst_of_four_is_over_four_models_of_the_same_comparisons():
    """The base's and three of other seeds."""
    *members, (_, flags) = map(parsed, methods.METHODS["worst-of-4"].commands)
    paths = ["BASE/rm", *(f"{member.out}/rm" for _, member in members)]
    assert flags.rm.split(",") == paths and len(set(paths)) == 4 and flags.combine == "worst"
    assert len({7, *(member.seed for _, member in members)}) == 4
    comparisons = {(member.data, member.sft) for _, member in members}
    assert comparisons == {("BASE/rm/comparisons.jsonl", "BASE/sft")}


def test_methods_in_rounds_have_as_many_labels_as_the_table_says_and_are_judged_after_the_last():
    """One round of 4,096 prompts or four of 1,024: equal labels."""
    for name, (command, flags) in LAST.items():
        if command == "rounds":
            method, count = methods.METHODS[name], flags.rounds
            assert method.policy == f"round-{count}/ppo"
            numbers = [int(x.replace(",", "")) for x in re.findall(r"[\d,]+\d", method.labels)]
            each = flags.prompts * (flags.human_share or 1)
            assert round(each) in numbers, name
            assert f"{count} x " in method.labels or count == 1
    assert {LAST[name][1].updates for name in LAST if LAST[name][0] == "rounds"} == {48}
    gaf = methods.METHODS["gaf"]
    assert list(gaf.curve) == [f"gaf/round-{n}/ppo" for n in (1, 2, 3, 4)]
    assert gaf.policy == gaf.curve[-1]
