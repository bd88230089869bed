"""`minirlhf overoptimisation`: its runs, its fits and its figure, on toys."""

import json
import shutil

import numpy as np
import pytest

from minirlhf import evaluate, reward
from minirlhf.run.checkpoint import load_gpt
from minirlhf.run.config import CANDIDATE_NOISE, HELD_OUT_PROMPTS, InputError, rng
from minirlhf.run.metrics import read_metrics
from minirlhf.tools import figures, frontier, gao, methods, overoptimisation, runs
from minirlhf.world import measures, writers

FLAGS = ["--rankings", "8", "--prompts", "10", "--held-out", "12", "--updates", "3"]
FLAGS += ["--eval-every", "1", "--max-new-tokens", "4", "--draws", "40"]


@pytest.fixture(scope="module")
def fitted(world_run, tmp_path_factory):
    """OUT after one call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frontier, "NS", (1, 4))
        patch.setattr(overoptimisation, "NS", (1, 2, 3, 4))
        # The toys: a small batch, a few held-out comparisons.
        patch.setattr(methods, "PPO", methods.PPO + " --batch-size 8 --minibatches 2 --lr 0.01")
        execute = runs.execute

        def smaller(line, place):
            toy = " --held-out 4 --norm-prompts 4" if line.startswith("rm ") else ""
            execute(line + toy, place)

        patch.setattr(runs, "execute", smaller)
        out = shutil.copytree(world_run, tmp_path_factory.mktemp("fits") / "out")
        overoptimisation.main(["--out", str(out), *FLAGS])
    return out


def test_it_trains_what_is_missing_and_writes_two_fits_of_each_and_the_figure(fitted):
    """The form that Gao et al. found for it first."""
    folder = fitted / "overoptimisation"
    assert (folder / "8-rankings" / "rm" / "checkpoint.pt").exists()
    assert (folder / "fits.png").read_bytes().startswith(b"\x89PNG")
    lines = (folder / "fits.md").read_text(encoding="utf-8").splitlines()[2:]
    names = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines]
    bests = [f"best of n, {n} rankings" for n in (8, 24)]
    expected = [(name, form) for name in bests for form in ("best-of-n", "rl")]
    assert names == [*expected, ("PPO, kl_coef 0", "rl"), ("PPO, kl_coef 0", "best-of-n")]
    flags = json.loads((folder / "ppo" / "ppo" / "config.json").read_text())["flags"]
    assert flags["kl_coef"] == 0 and flags["held_out"] == 12


def test_best_of_n_is_measured_from_samples_that_all_reward_models_score(fitted, monkeypatch):
    """Computed again: the same samples, scored by the reward model of the base."""
    monkeypatch.setattr(frontier, "NS", (1, 4))
    monkeypatch.setattr(overoptimisation, "NS", (1, 2, 3, 4))
    monkeypatch.setattr(evaluate, "respond", lambda *_, **__: pytest.fail("was sampled before"))
    args = overoptimisation.Config(out=str(fitted), prompts=10, max_new_tokens=4)
    (gain,) = overoptimisation.best_of_n_gains(args, {"24 rankings": fitted / "rm"})
    monkeypatch.undo()
    sft, tokenizer = load_gpt(fitted / "sft")
    reward_model, _, missing = reward.load_reward_model(fitted / "rm")
    prompts = writers.prompts(10, rng(1, HELD_OUT_PROMPTS), "validation")
    repeated = [prompt for prompt in prompts for _ in range(4)]
    uniforms = evaluate.noise(1, 40, 4, CANDIDATE_NOISE)
    replies = evaluate.respond(sft, tokenizer, repeated, uniforms)
    scores = evaluate.model_scores(reward_model, missing)(repeated, replies).numpy().reshape(10, 4)
    golds = measures.values(repeated, replies)["total"].reshape(10, 4)
    d, R = gain.curve()
    expected = [np.mean(row[np.argmax(s)]) for row, s in zip(golds, scores, strict=True)]
    assert R[-1] == pytest.approx(np.mean(expected) - golds.mean()) and R[0] == 0
    assert d[-1] ** 2 == pytest.approx(evaluate.best_of_n_kl(4))


def test_ppo_is_measured_at_each_of_its_evaluations(fitted):
    """d from the mean KL, R from the paired totals, as metrics.jsonl has them."""
    folder = fitted / "overoptimisation" / "ppo" / "ppo"
    d, R = overoptimisation.ppo_gain(folder, 12, 1).curve()
    records = read_metrics(folder)
    assert len(records) == 3
    kls = np.maximum([r["eval_kl"] for r in records], 0)
    assert d**2 == pytest.approx(kls, rel=1e-4, abs=1e-6)
    assert R == pytest.approx([r["eval_total"] - r["sft_total"] for r in records], abs=1e-5)


def exact_gain(form, alpha, beta, noise=0.0):
    """A Gain of 60 prompts whose mean follows a form exactly."""
    d = np.array([0.5, 1.0, 1.5, 2.0, 2.5])
    deviations = np.random.default_rng(0).standard_normal((60, 5)) * noise
    totals = gao.predict(d, alpha, beta, form) + deviations - deviations.mean(0)
    return overoptimisation.Gain("one", form, (d**2)[None], totals, list(range(60)))


@pytest.mark.parametrize("form", gao.BENDS)
def test_a_fit_has_the_interval_over_prompts_and_the_peak(form):
    """Without noise the interval has no width; with it, it holds the coefficients."""
    numbers = overoptimisation.coefficients(exact_gain(form, 1.2, 0.4), form, 20)
    assert (numbers["alpha"], numbers["beta"]) == pytest.approx((1.2, 0.4))
    assert numbers["low"] == pytest.approx(numbers["high"]) and numbers["residual"] < 1e-9
    d, R = gao.peak(1.2, 0.4, form)
    assert (numbers["peak_kl"], numbers["peak"]) == pytest.approx((d * d, R))
    numbers = overoptimisation.coefficients(exact_gain(form, 1.2, 0.4, noise=0.5), form, 200)
    for value, low, high in zip((1.2, 0.4), numbers["low"], numbers["high"], strict=True):
        assert low < value < high and high - low > 0.05


def test_a_peak_beyond_the_data_is_not_reported():
    """d* of alpha 2, beta .1 is 10, four times as far as was measured."""
    gains = [exact_gain("best-of-n", 1.2, 0.3), exact_gain("best-of-n", 2.0, 0.1)]
    gains[1] = gains[1]._replace(name="two")
    fits = {
        gain.name: {form: overoptimisation.coefficients(gain, form, 20) for form in gao.BENDS}
        for gain in gains
    }
    lines = overoptimisation.table(gains, fits).splitlines()
    near, far = (next(x for x in lines if x.startswith(f"| {n} | best")) for n in ("one", "two"))
    assert "| +1.20 at 4.0 nats |" in near and "| beyond the data |" in far
    assert "1.20 (1.20 to 1.20) | 0.30 (0.30 to 0.30) | 0.000" in near


def test_the_figure_has_the_points_and_both_fits(drawn, tmp_path):
    """Best-of-n in the left panel, PPO in the right one."""
    pyplot = figures.load_pyplot()
    gains = [exact_gain("best-of-n", 1.2, 0.4), exact_gain("rl", 1.2, 0.4)]
    gains[1] = gains[1]._replace(name="PPO")
    fits = {
        gain.name: {form: overoptimisation.coefficients(gain, form, 20) for form in gao.BENDS}
        for gain in gains
    }
    overoptimisation.draw(pyplot, gains, fits, tmp_path / "figure.png")
    for side, gain in zip(drawn[-1].axes, gains, strict=True):
        points, *lines = side.lines
        assert np.array(points.get_data()) == pytest.approx(np.array(gain.curve()))
        assert len(lines) == 2 and lines[0].get_xdata().max() == pytest.approx(2.5)
        solid = next(line for line in lines if line.get_linestyle() == "-")
        expected = gao.predict(solid.get_xdata(), 1.2, 0.4, gain.form)
        assert solid.get_ydata() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rankings", "many"], "--rankings 'many' is not a number"),
        (["--rankings", "0"], "--rankings 0 must be at least 1"),
    ],
)
def test_a_flag_out_of_range_is_one_line(fitted, flags, message):
    with pytest.raises(InputError, match=message):
        overoptimisation.main(["--out", str(fitted), *flags])


def test_without_models_it_says_what_trains_them(tmp_path):
    with pytest.raises(InputError, match="holds no SFT and reward model; make demo"):
        overoptimisation.main(["--out", str(tmp_path)])


def test_a_run_without_evaluations_is_named(tmp_path):
    """One of an older version has none."""
    with pytest.raises(InputError, match=r"evaluations.jsonl has no judged evaluation; remove"):
        overoptimisation.ppo_gain(tmp_path, 2, 1)
