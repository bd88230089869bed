"""Over-optimisation, fitted: how far the truth follows a reward model that is optimised.

    minirlhf overoptimisation                      on the demonstration in out/demo
    minirlhf overoptimisation --out out/results/1  on a seed of make results

Reward models learn from ever more rankings, and the SFT model's best of n is chosen by each; PPO
without a KL penalty optimises OUT/rm and is judged along the way. OUT/overoptimisation has the
runs, fits.md (the coefficients of both forms of minirlhf/tools/gao.py, with intervals), fits.png.
What is there is not made again.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minirlhf import evaluate
from minirlhf.run import chain, config
from minirlhf.run.config import InputError, flag, rng
from minirlhf.run.files import write_text
from minirlhf.run.metrics import EVALUATIONS, read_records
from minirlhf.tools import figures, frontier, gao, methods, runs
from minirlhf.tools.runs import Method, Place
from minirlhf.world import measures

NS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class Config:
    """Fits the judged gain against the KL from the SFT model, for best-of-n by reward models from
    ever more rankings and for PPO without a KL penalty."""

    out: str = flag("out/demo", "folder with sft and rm; writes OUT/overoptimisation")
    rankings: str = flag("512,2048,8192", "rankings of further reward models beside OUT/rm")
    prompts: int = flag(512, "validation prompts of best-of-n", low=2)
    held_out: int = flag(2048, "validation prompts that PPO is judged on along the way", low=2)
    eval_every: int = flag(5, "updates of PPO between two judgements", low=1)
    updates: int = flag(96, "updates of PPO", low=1)
    max_new_tokens: int = flag(32, "the most tokens a response may have", low=1)
    draws: int = flag(1000, "resamples of the prompts behind an interval", low=20)


class Gain(NamedTuple):
    """What one way of optimising wins by the judge, prompt by prompt."""

    name: str
    form: str  # the one that Gao et al. found for it
    kls: np.ndarray  # (P, K) in nats, or (1, K) where they are the same for all prompts
    totals: np.ndarray  # (P, K), minus those of the SFT model
    clusters: list  # (P,) labels of the prompts

    def curve(self, rows=None):  # -> (K,), (K,)
        """d and R, over all prompts or over some rows."""
        kls = self.kls if rows is None or len(self.kls) == 1 else self.kls[rows]
        totals = self.totals if rows is None else self.totals[rows]
        return np.sqrt(np.maximum(kls.mean(0), 0)), totals.mean(0)


# ---- the runs


def places(args):
    """The runs that are needed: a reward model for each number of rankings, and PPO."""
    base, seed = Path(args.out), chain.stored_flags(f"{args.out}/sft").get("seed", 1)
    runs = base / "overoptimisation"
    limits = f" --max-new-tokens {args.max_new_tokens}"
    numbers = [methods.number(word, "--rankings") for word in methods.words(args.rankings)]
    rm = "rm --out {run} --sft {base}/sft --seed {seed}" + limits
    wanted = {}
    for n in numbers:
        if n < 1:
            raise InputError(f"--rankings {n} must be at least 1")
        warmup = max(1, min(20, n // 128))  # a quarter of the steps at most
        commands = (f"{rm} --prompts {n} --warmup {warmup}",)
        wanted[f"{n} rankings"] = Method("reward model", str(n), commands, "rm")
    ppo = f"{methods.PPO}{limits} --kl-coef 0 --updates {args.updates}"
    ppo += f" --held-out {args.held_out} --eval-every {args.eval_every} --microscope 0"
    wanted["PPO"] = Method("PPO", "", (ppo,))
    folder = {name: runs / name.replace(" ", "-").lower() for name in wanted}
    return [Place(name, wanted[name], seed, base, folder[name]) for name in wanted]


# ---- what they win


def best_of_n_gains(args, reward_models):
    """A Gain for each {name: folder of a reward model}."""
    base, folder = Path(args.out), Path(args.out) / "overoptimisation"
    seed = chain.stored_flags(base / "sft").get("seed", 1)
    limits = args.prompts, args.max_new_tokens, folder
    samples = frontier.sample_sft(base / "sft", seed, *limits)
    clusters = [measures.cluster(prompt) for prompt in samples.prompts]
    kls = np.array([[evaluate.best_of_n_kl(n) for n in NS]])
    gains = []
    for name, path in reward_models.items():
        file = folder / f"scores-{name.replace(' ', '-')}.json"
        proxies = frontier.score_samples(path, samples, file)
        totals = gao.best_of_n(proxies, samples.golds, NS)
        title = f"best of n, {name}"
        gains.append(Gain(title, "best-of-n", kls, totals - totals[:, :1], clusters))
        bound, ties = evaluate.best_of_n_kl(16), gao.tied_kl(proxies, 16)
        print(f"{title}: KL of the best of 16 {bound:.2f} by the formula, {ties:.2f} with ties")
    return gains


def ppo_gain(folder, held_out, seed):
    """The Gain of a PPO run, from its evaluations.jsonl."""
    path = Path(folder) / EVALUATIONS
    lines = [
        line for _, line in read_records(path, lambda x: isinstance(x, dict) and "totals" in x)
    ]
    if not lines:
        raise InputError(f"{path} has no judged evaluation; remove {folder}, and it is made again")
    kls, totals, sft = (
        np.array([line[name] for line in lines], dtype=float).T
        for name in ("kls", "totals", "sft_totals")
    )
    prompts = frontier.validation_prompts(held_out, seed)
    clusters = [measures.cluster(prompt) for prompt in prompts]
    return Gain("PPO, kl_coef 0", "rl", kls, totals - sft, clusters)


# ---- the fits


def coefficients(gain, form, draws):
    """{name: number}: alpha, beta, their 95% intervals over prompts, the root mean square of the
    residuals, and the KL and the gain at the peak."""

    def estimate(rows=None):
        return gao.fit(*gain.curve(rows), form)[0]

    (alpha, beta), squares = gao.fit(*gain.curve(), form)
    low, high = gao.bootstrap(estimate, gain.clusters, rng(1, config.BOOTSTRAP), draws)
    d, R = gao.peak(alpha, beta, form)
    points = int((gain.curve()[0] >= gao.NEAREST).sum())
    residual = (squares / points) ** 0.5 if points else float("nan")
    numbers = {"alpha": alpha, "beta": beta, "low": low.tolist(), "high": high.tolist()}
    return numbers | {"residual": residual, "peak_kl": d * d, "peak": R}


def table(gains, fits):
    """fits.md: two rows for each Gain, its own form first."""
    header = "", "form", "alpha", "beta", "residual", "peak", "measured up to"
    rows = []
    for gain in gains:
        d, R = gain.curve()
        for form in sorted(gao.BENDS, key=lambda form, own=gain.form: form != own):
            x = fits[gain.name][form]
            reached = x["peak_kl"] <= d.max() ** 2
            peak = f"{x['peak']:+.2f} at {x['peak_kl']:.1f} nats" if reached else "beyond the data"
            pairs = zip(("alpha", "beta"), x["low"], x["high"], strict=True)
            cells = [f"{x[name]:.2f} ({low:.2f} to {high:.2f})" for name, low, high in pairs]
            cells += [f"{x['residual']:.3f}", peak, f"{R[-1]:+.2f} at {d[-1] ** 2:.1f} nats"]
            rows.append((gain.name, form, *cells))
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def draw(pyplot, gains, fits, path):
    """What is won against d, best-of-n left and PPO right; the lines are the fits of their form,
    the dotted ones those of the other."""
    figure, sides = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained", sharey=True)
    colors = pyplot.cm.viridis(np.linspace(0, 0.85, max(1, len(gains) - 1)))
    for i, gain in enumerate(gains):
        side = sides[int(gain.form == "rl")]
        d, R = gain.curve()
        color = "black" if gain.form == "rl" else colors[i]
        side.plot(d, R, "o", color=color, markersize=4, label=gain.name)
        grid = np.linspace(gao.NEAREST, d.max(), 200)
        for form, fit in fits[gain.name].items():
            line = "-" if form == gain.form else ":"
            values = gao.predict(grid, fit["alpha"], fit["beta"], form)
            side.plot(grid, values, line, color=color, linewidth=1)
    for side in sides:
        side.set(xlabel="d, square root of the KL from SFT in nats")
        side.spines[["top", "right"]].set_visible(False)
        side.grid(alpha=0.25)
        side.legend(frameon=False, fontsize=8)
    sides[0].set(ylabel="judge's total, minus SFT")
    figures.save(pyplot, figure, path)


# ---- the command


def main(argv=None):
    args = config.parse(Config, argv)
    base, needed = Path(args.out), places(args)
    if not (base / "sft").exists() or not (base / "rm").exists():
        raise InputError(f"{base} holds no SFT and reward model; make demo trains both")
    runs.require_models(needed)
    runs.make(needed)
    *others, ppo = needed
    reward_models = {place.name: place.run / "rm" for place in others}
    prompts = chain.stored_flags(base / "rm").get("prompts", "all")
    reward_models[f"{prompts} rankings"] = base / "rm"
    gains = best_of_n_gains(args, reward_models)
    gains.append(ppo_gain(ppo.run / "ppo", args.held_out, ppo.seed))
    fits = {
        gain.name: {form: coefficients(gain, form, args.draws) for form in gao.BENDS}
        for gain in gains
    }
    text = table(gains, fits)
    print("\n" + text)
    folder = base / "overoptimisation"
    write_text(folder / "fits.md", text)
    write_text(folder / "fits.json", json.dumps(fits, indent=2) + "\n")
    pyplot = figures.load_pyplot()
    if pyplot is None:
        raise InputError("the figure needs matplotlib: pip install -e '.[plot]'")
    draw(pyplot, gains, fits, folder / "fits.png")
    print(f"the coefficients are in {folder / 'fits.md'}, the figure in {folder / 'fits.png'}")


if __name__ == "__main__":
    config.run(main)
