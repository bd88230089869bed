"""`minirlhf overoptimisation` on samples, scores and evaluations that are numbers: what is made,
and every coefficient, interval and peak, computed again."""

import json
import math
import shlex
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from minirlhf.__main__ import COMMANDS
from minirlhf.run import config
from minirlhf.run.config import BOOTSTRAP, HELD_OUT_PROMPTS, rng
from minirlhf.tools import frontier, gao, overoptimisation, runs
from minirlhf.tools.script import script
from minirlhf.world import measures, writers

SEED, PROMPTS, HELD_OUT = 7, 40, 60
FLAGS = ["--rankings", "512,8192", "--prompts", str(PROMPTS), "--held-out", str(HELD_OUT)]
FLAGS += ["--eval-every", "3", "--updates", "9", "--max-new-tokens", "6", "--draws", "30"]


def draws(*words):
    return np.random.default_rng(zlib.crc32(" ".join(map(str, words)).encode()))


def prompts_of(n):
    return writers.prompts(n, rng(SEED, HELD_OUT_PROMPTS), "validation")


def by_subject(n):  # -> (n,)
    """A number for each prompt that its subject decides: what makes clusters matter."""
    return np.array([draws(measures.cluster(prompt)).normal() for prompt in prompts_of(n)])


GOLDS = 1.5 + draws("golds").normal(size=(PROMPTS, 64)) + by_subject(PROMPTS)[:, None]


def proxies_of(path):
    """Follow the golds, but for those that are best: each reward model in its own way."""
    noise = draws(path.parent.name).normal(size=GOLDS.shape)
    return np.where(GOLDS > 3, -GOLDS, GOLDS) + noise


def evaluations():
    """Lines of evaluations.jsonl in which PPO rises and falls. The SFT model has totals of its own
    at each prompt, which those of the policy follow."""
    r, subject = draws("PPO"), by_subject(HELD_OUT)
    sft = r.integers(0, 4, HELD_OUT).astype(float)
    for step, kl in enumerate((0.01, 0.5, 2.0, 4.0, 9.0), start=1):
        gain = gao.predict(math.sqrt(kl), 0.8, 0.5, "rl") + 0.3 * subject + 0.1
        kls = kl * np.exp(0.5 * subject + 0.2 * r.normal(size=HELD_OUT))
        columns = {"kls": kls, "totals": sft + gain, "sft_totals": sft, "scores": sft + kl}
        yield {"step": step} | {name: list(column) for name, column in columns.items()}


@pytest.fixture
def whole(tmp_path, monkeypatch):
    """What one call has asked for, made and written under OUT = tmp_path."""
    for stage, flags in (("sft", {"seed": SEED}), ("rm", {"prompts": 9000})):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "config.json").write_text(json.dumps({"flags": flags}))
    asked = SimpleNamespace(lines={}, checked=[], sampled=[], scored={})

    def make(places):
        for place in places:
            (line,) = (runs.line_of(place, command) for command in place.method.commands)
            name, *words = shlex.split(line)
            asked.lines[place.name] = config.parse(script(COMMANDS[name].module).Config, words)
        (place.run / "ppo").mkdir(parents=True)
        text = "".join(json.dumps(line) + "\n" for line in evaluations())
        (place.run / "ppo" / "evaluations.jsonl").write_text(text)

    def sample_sft(path, seed, n, max_new_tokens, folder):
        asked.sampled.append((path, seed, n, max_new_tokens))
        return SimpleNamespace(prompts=prompts_of(n), golds=GOLDS)

    def score_samples(path, samples, file):
        asked.scored[path] = file
        return proxies_of(path)

    def draw(pyplot, gains, fits, path):
        asked.gains = {gain.name: gain for gain in gains}

    monkeypatch.setattr(runs, "require_models", asked.checked.extend)
    monkeypatch.setattr(runs, "make", make)
    monkeypatch.setattr(frontier, "sample_sft", sample_sft)
    monkeypatch.setattr(frontier, "score_samples", score_samples)
    monkeypatch.setattr(overoptimisation, "draw", draw)
    overoptimisation.main(["--out", str(tmp_path), *FLAGS])
    asked.folder = tmp_path / "overoptimisation"
    asked.fits = json.loads((asked.folder / "fits.json").read_text())
    return asked


def test_reward_models_differ_in_their_rankings_alone_and_ppo_has_no_penalty(whole):
    """On the seed of the SFT model. A small reward model warms up for a quarter of its steps."""
    *models, ppo = whole.lines.values()
    for n, flags in zip((512, 8192), models, strict=True):
        assert (flags.prompts, flags.seed, flags.max_new_tokens) == (n, SEED, 6)
        assert flags.warmup <= flags.epochs * n / flags.batch_size / 4 and flags.warmup <= 20
    assert models[1].warmup == 20
    assert (ppo.seed, ppo.kl_coef, ppo.updates, ppo.eval_every) == (SEED, 0, 9, 3)
    assert (ppo.held_out, ppo.max_new_tokens) == (HELD_OUT, 6)
    assert [place.name for place in whole.checked] == ["512 rankings", "8192 rankings", "PPO"]


def test_the_same_samples_are_scored_by_each_reward_model(whole, tmp_path):
    """The further ones and that of OUT; each has a file of its own."""
    assert whole.sampled == [(tmp_path / "sft", SEED, PROMPTS, 6)]
    folder = tmp_path / "overoptimisation"
    further = {folder / name / "rm" for name in ("512-rankings", "8192-rankings")}
    assert set(whole.scored) == further | {tmp_path / "rm"}
    assert len(set(whole.scored.values())) == 3


def expected_gains(tmp_path):
    """{name: (KL (P, K) or (1, K), gain (P, K))}, each prompt's above that of the SFT model."""
    ns, folder, gains = overoptimisation.NS, tmp_path / "overoptimisation", {}
    kls = np.array([[math.log(n) - (n - 1) / n for n in ns]])
    for count in (512, 8192, 9000):
        path = tmp_path / "rm" if count == 9000 else folder / f"{count}-rankings" / "rm"
        totals = gao.best_of_n(proxies_of(path), GOLDS, ns)
        gains[f"best of n, {count} rankings"] = kls, totals - GOLDS.mean(1, keepdims=True)
    lines = [{k: np.array(v) for k, v in line.items()} for line in evaluations()]
    ppo = [(line["kls"], line["totals"] - line["sft_totals"]) for line in lines]
    return gains | {"PPO, kl_coef 0": np.stack(ppo).transpose(1, 2, 0)}


def solved(kls, gains, form):
    """(alpha, beta, root mean square of the residuals) by the normal equations, over the points
    with d of .3 and more."""
    d, R = np.sqrt(kls.mean(0)), gains.mean(0)
    d, R = d[d >= 0.3], R[d >= 0.3]
    X = np.stack([d, -d * (d if form == "best-of-n" else np.log(d))], 1)
    alpha, beta = np.linalg.solve(X.T @ X, X.T @ R)
    return alpha, beta, math.sqrt(np.mean((R - X @ [alpha, beta]) ** 2))


def test_every_coefficient_is_that_of_the_curve_and_its_interval_of_resampled_subjects(
    whole, tmp_path
):
    """KL and gain of a prompt are drawn together, and prompts of one subject are."""
    gains = expected_gains(tmp_path)
    assert list(whole.fits) == list(gains)
    for name, (kls, gain) in gains.items():
        clusters = [measures.cluster(prompt) for prompt in prompts_of(len(gain))]
        for form, fit in whole.fits[name].items():
            *pair, residual = solved(kls, gain, form)
            assert [fit["alpha"], fit["beta"]] == pytest.approx(pair), (name, form)
            assert fit["residual"] == pytest.approx(residual)

            def resolved(rows, kls=kls, gain=gain, form=form):
                return solved(kls[rows] if len(kls) > 1 else kls, gain[rows], form)[:2]

            low, high = gao.bootstrap(resolved, clusters, rng(1, BOOTSTRAP), 30)
            assert (fit["low"], fit["high"]) == (pytest.approx(low), pytest.approx(high))
            alone = gao.bootstrap(resolved, range(len(gain)), rng(1, BOOTSTRAP), 30)
            assert np.abs(alone - [low, high]).max() > 0.01  # else clusters would not matter
            d = pair[0] / (2 * pair[1]) if form == "best-of-n" else math.exp(pair[0] / pair[1] - 1)
            if pair[1] > 0:
                assert fit["peak_kl"] == pytest.approx(d * d)
                assert fit["peak"] == pytest.approx(gao.predict(d, *pair, form))


def test_the_table_has_the_coefficients_of_both_forms_each_with_its_own_interval(whole):
    """The form that Gao et al. found for it stands first; then where the data end."""
    lines = (whole.folder / "fits.md").read_text(encoding="utf-8").splitlines()[2:]
    rows = [[x.strip() for x in line.strip("|").split("|")] for line in lines]
    own = {name: "rl" if name.startswith("PPO") else "best-of-n" for name in whole.fits}
    both = [(name, form) for name in own for form in gao.BENDS]
    assert [tuple(row[:2]) for row in rows] == sorted(
        both, key=lambda x: (list(own).index(x[0]), own[x[0]] != x[1])
    )
    for name, form, *cells in rows:
        fit = whole.fits[name][form]
        for i, key in enumerate(("alpha", "beta")):
            assert cells[i] == f"{fit[key]:.2f} ({fit['low'][i]:.2f} to {fit['high'][i]:.2f})"
        assert cells[2] == f"{fit['residual']:.3f}"
        d, R = whole.gains[name].curve()
        assert cells[4] == f"{R[-1]:+.2f} at {d[-1] ** 2:.1f} nats"
        inside = fit["peak_kl"] <= d[-1] ** 2
        peak = f"{fit['peak']:+.2f} at {fit['peak_kl']:.1f} nats"
        assert cells[3] == (peak if inside else "beyond the data")
