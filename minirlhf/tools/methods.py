"""Every method on the same ground: same SFT model, same comparisons, same judge, same prompts.

    minirlhf methods                                   on the demonstration in out/demo
    minirlhf methods --out out/results --seeds 1,2,3   on the seeds of make results
    minirlhf methods --only rloo,dpo                   makes only these runs

A run that is missing is made in RUNS/METHOD/SEED; one that was interrupted goes on. All that are
there are judged, and RUNS/methods.md and RUNS/frontier.png compare them. A method is a line of
METHODS.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minirlhf import evaluate
from minirlhf.run import chain, config
from minirlhf.run.config import InputError, flag
from minirlhf.run.files import write_text
from minirlhf.tools import figures, frontier, gao, results, runs
from minirlhf.tools.frontier import Curve, Marks
from minirlhf.tools.runs import Method, Place

PPO = "ppo --out {run} --sft {base}/sft --rm {base}/rm --seed {seed}"
DPO = "dpo --out {run} --sft {base}/sft --seed {seed}"  # on {run}/rm/comparisons.jsonl: the base's
DEMONSTRATIONS = "demonstrations --out {run} --sft {base}/sft --seed {seed} --demonstrations 4096"
ROUNDS = "rounds --out {run} --sft {base}/sft --seed {seed} --updates 48"
MEMBER = "rm --sft {base}/sft --data {base}/rm/comparisons.jsonl --mix-data"
MEMBERS = tuple(  # the other reward models of an ensemble: other seeds, the same comparisons
    f"{MEMBER} --out {{run}}/{n} --seed {n}00" for n in (2, 3, 4)
)
OTHERS = ",".join(f"{{run}}/{n}/rm" for n in (2, 3, 4))
WITHOUT_PENALTY = "ppo --out {run} --sft {base}/sft --seed {seed} --kl-coef 0 --rm {base}/rm"
RANKINGS = "16,384 rankings of 4"  # by default: see `rankings`
METHODS = {
    "ppo": Method("PPO", RANKINGS, (PPO,)),
    "rloo": Method("without a critic", RANKINGS, (f"{PPO} --algorithm rloo",)),
    "grpo": Method("without a critic", RANKINGS, (f"{PPO} --algorithm grpo",)),
    "dr-grpo": Method("without a critic", RANKINGS, (f"{PPO} --algorithm dr-grpo",)),
    "dapo": Method("without a critic", RANKINGS, (f"{PPO} --algorithm dapo",)),
    "dpo": Method("direct losses", RANKINGS, (DPO,), "dpo"),
    "ipo": Method("direct losses", RANKINGS, (f"{DPO} --loss ipo --tau 0.1",), "dpo"),
    "kto": Method("direct losses", RANKINGS, (f"{DPO} --loss kto --beta 3",), "dpo"),
    "simpo": Method("direct losses", RANKINGS, (f"{DPO} --loss simpo --beta 10 --gamma 3",), "dpo"),
    "orpo": Method("direct losses", RANKINGS, (f"{DPO} --loss orpo --lam 5",), "dpo"),
    "rejection": Method(
        "imitation",
        RANKINGS,
        ("rejection --out {run} --sft {base}/sft --rm {base}/rm --seed {seed}",),
        "round-1/sft",
    ),
    "afd": Method(
        "imitation",
        "4,096 demonstrations",
        (f"{DEMONSTRATIONS} --method afd --updates 48",),
        "afd/round-1/ppo",
    ),
    "gaf": Method(
        "imitation",
        "4,096 demonstrations",
        (f"{DEMONSTRATIONS} --method gaf --updates 48",),
        "gaf/round-4/ppo",
        tuple(f"gaf/round-{n}/ppo" for n in (1, 2, 3, 4)),
    ),
    "spin": Method(
        "imitation",
        "4,096 demonstrations",
        (f"{DEMONSTRATIONS} --method spin",),
        "spin/round-3/dpo",
    ),
    "ai-labels": Method(
        "other labels",
        "4,096 rankings of 4 by a model",
        (f"{ROUNDS} --rounds 1 --prompts 4096 --labeller ai",),
        "round-1/ppo",
    ),
    "ai-and-people": Method(
        "other labels",
        "the same, and 410 by people",
        (f"{ROUNDS} --rounds 1 --prompts 4096 --labeller ai --human-share 0.1",),
        "round-1/ppo",
    ),
    "self-feedback": Method(
        "other labels",
        "none: 3 x 1,024 by the policy",
        (f"{ROUNDS} --rounds 3 --prompts 1024 --labeller self",),
        "round-3/ppo",
    ),
    "one-round": Method(
        "other labels",
        "4,096 rankings of 4",
        (f"{ROUNDS} --rounds 1 --prompts 4096",),
        "round-1/ppo",
    ),
    "four-rounds": Method(
        "other labels",
        "4 x 1,024 rankings of 4",
        (f"{ROUNDS} --rounds 4 --prompts 1024",),
        "round-4/ppo",
    ),
    "worst-of-4": Method(
        "other rewards",
        RANKINGS,
        (*MEMBERS, f"{WITHOUT_PENALTY},{OTHERS} --combine worst --mix-data"),
    ),
    "par": Method("other rewards", RANKINGS, (f"{WITHOUT_PENALTY} --par 4",)),
    "no-penalty": Method("other rewards", RANKINGS, (WITHOUT_PENALTY,)),
    "prefix-credit": Method("PPO", RANKINGS, (f"{PPO} --credit prefix --credit-share 1",)),
    "attention-credit": Method("PPO", RANKINGS, (f"{PPO} --credit attention",)),
    "ptx": Method("PPO", RANKINGS, (f"{PPO} --ptx-coef 1",)),
    "lora": Method("PPO", RANKINGS, (f"{PPO} --lora 16 --lr 4e-3",)),
}
BEST_OF = 16  # the n of best-of-n in the table
BEST_OF_PROMPTS = 512  # of the prompts, the first that best-of-n is measured on


@dataclass(frozen=True)
class Config:
    """Makes the runs of all methods that are missing, judges them on the same prompts, and writes a
    table and the figure of judged score against KL."""

    out: str = flag("out/demo", "folder of SFT and reward model, or of seeds: OUT/1, OUT/2, ...")
    runs: str = flag("", "folder of the methods' runs [OUT/methods]")
    only: str = flag("", "methods to make runs of, as in rloo,dpo [all]; none: judge what is there")
    seeds: str = flag("", "seeds, as in 1,2,3 [that of OUT/sft, or the first three in OUT]")
    prompts: int = flag(2048, "validation prompts that every policy answers", low=2)
    max_new_tokens: int = flag(32, "the most tokens a judged response may have", low=1)


# ---- what there is


def bases(args):
    """{seed: folder with sft and rm}. InputError for a seed that OUT does not hold."""
    out = Path(args.out)
    found = {int(p.name): p for p in out.glob("*") if p.name.isdigit() and (p / "sft").exists()}
    found = {seed: found[seed] for seed in sorted(found)}
    if (out / "sft").exists():
        found = {int(chain.stored_flags(out / "sft").get("seed", 1)): out}
    if not found:
        raise InputError(f"{args.out} holds no SFT model; make demo or make results trains one")
    seeds = [number(word, "--seeds") for word in words(args.seeds)] or list(found)[:3]
    for seed in seeds:
        if seed not in found:
            there = ", ".join(map(str, found))
            raise InputError(f"--seeds {seed} is not in {args.out}, which holds {there}")
    return {seed: found[seed] for seed in seeds}


def words(text):
    """ "a, b" -> ["a", "b"]"""
    return [word.strip() for word in text.split(",") if word.strip()]


def number(word, name):
    if not word.isdecimal():
        raise InputError(f"{name} {word!r} is not a number; write it as in 1,2,3")
    return int(word)


def chosen(args):
    """The methods to make runs of, in the order of METHODS."""
    names = [] if args.only == "none" else words(args.only) or list(METHODS)
    for name in names:
        if name not in METHODS:
            raise InputError(f"--only {name} is no method; choose from {', '.join(METHODS)}")
    return [name for name in METHODS if name in names]


# ---- the table


def judged(args, places):
    """{method: {seed: Marks}} of the runs that are there, SFT first."""
    limits, rows = (args.prompts, args.max_new_tokens), {"sft": {}}
    for place in places:
        file = place.run / "judged.json"
        sft_file = place.run.parents[1] / "sft" / str(place.seed) / "judged.json"
        sft = place.base / "sft"
        if place.seed not in rows["sft"]:
            rows["sft"][place.seed] = frontier.measure(sft, sft, place.seed, *limits, sft_file)
        policy = runs.folder_of(place) / place.method.policy
        if not runs.missing(place) and (policy / "checkpoint.pt").exists():
            marks = frontier.measure(policy, sft, place.seed, *limits, file)
            rows.setdefault(place.name, {})[place.seed] = marks
    return rows


def best_of_n(args, places):
    """{seed: (P, n)}, the judge's totals of best-of-n, for the n of frontier.NS."""
    tables = {}
    for place in places:
        if place.seed not in tables:
            folder = place.run.parents[1] / "best-of-n" / str(place.seed)
            limits = min(args.prompts, BEST_OF_PROMPTS), args.max_new_tokens, folder
            samples = frontier.sample_sft(place.base / "sft", place.seed, *limits)
            proxies = frontier.score_samples(place.base / "rm", samples, folder / "scores.json")
            tables[place.seed] = gao.best_of_n(proxies, samples.golds, frontier.NS)
    return tables


def best_marks(best):
    """{seed: Marks} of the best of BEST_OF, as the other rows of `judged`."""
    column, kl = frontier.NS.index(BEST_OF), evaluate.best_of_n_kl(BEST_OF)
    return {seed: Marks(totals[:, column], kl, None, None) for seed, totals in best.items()}


HEADER = "method", "labels", "seconds", "total, of 3", "minus PPO", "over seeds", "KL", "distinct"


def rankings(base):
    """What the reward model of a base has learned from."""
    flags = chain.stored_flags(base / "rm")
    if flags.get("data") or not {"prompts", "responses"} <= set(flags):
        return "those of OUT/rm"
    return f"{flags['prompts']:,} rankings of {flags['responses']}"


def table(args, rows, seconds, learned=RANKINGS):
    """methods.md: a row for each method, its seeds in one cell. Differences are paired, with their
    95% intervals over prompts, and over seeds where there are three. `learned` is what the base's
    reward model has learned from."""
    prompts = {seed: frontier.validation_prompts(args.prompts, seed) for seed in rows["sft"]}
    lines = [HEADER, ("---",) * len(HEADER)]
    for name, row in rows.items():
        labels = METHODS[name].labels if name in METHODS else "-" if name == "sft" else RANKINGS
        labels = labels.replace(RANKINGS, learned)
        gains = [
            frontier.difference(marks.totals, rows["ppo"][seed].totals, prompts[seed])
            for seed, marks in row.items()
            if name != "ppo" and seed in rows.get("ppo", {})
        ]
        columns = [
            [f"{marks.totals.mean():.2f}" for marks in row.values()],
            ["{:+.2f} ± {:.2f}".format(*gain) for gain in gains],
            [results.cell([gain for gain, _ in gains])] if len(gains) > 2 else [],
            [f"{marks.kl:.2f}" for marks in row.values()],
            [str(marks.distinct or "-") for marks in row.values()],
        ]
        cells = [", ".join(column) or "-" for column in columns]
        lines.append((f"`{name}`", labels, seconds.get(name, "-"), *cells))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


# ---- the figure


def curves(places, rows):
    """The Curves of the methods that have runs."""
    start = np.mean([(0, marks.totals.mean()) for marks in rows["sft"].values()], axis=0)
    lines = []
    for name in (name for name in rows if name in METHODS):
        method, row = METHODS[name], rows[name]
        folders = [
            runs.folder_of(place) for place in places if place.name == name and place.seed in row
        ]
        ends = [(marks.kl, marks.totals.mean()) for marks in row.values()]
        points = [start]
        for folder in method.curve or (method.policy,):
            points += frontier.path_along([x / folder for x in folders])
        lines.append(Curve(name, method.family, [*points, np.mean(ends, axis=0)], ends))
    return lines


def best_curve(best):  # {seed: (P, n)} -> (n, 2)
    """KL and total of best-of-n, mean over seeds."""
    kls = [evaluate.best_of_n_kl(n) for n in frontier.NS]
    return np.stack([kls, np.mean([totals.mean(0) for totals in best.values()], axis=0)], 1)


def main(argv=None):
    args = config.parse(Config, argv)
    folder, names, seeds = Path(args.runs or f"{args.out}/methods"), chosen(args), bases(args)
    places = [
        Place(name, method, seed, base, folder / name / str(seed))
        for seed, base in seeds.items()
        for name, method in METHODS.items()
    ]
    runs.require_models(places)
    runs.make([place for place in places if place.name in names])
    rows, best = judged(args, places), best_of_n(args, places)
    listed = rows | {f"best of {BEST_OF}": best_marks(best)}
    learned = rankings(next(iter(seeds.values())))
    text = table(args, listed, runs.processor_seconds(places), learned)
    print("\n" + text)
    write_text(folder / "methods.md", text)
    pyplot = figures.load_pyplot()
    if pyplot is None:
        raise InputError("the figure needs matplotlib: pip install -e '.[plot]'")
    level = np.mean([frontier.writers_total(args.prompts, seed) for seed in seeds])
    frontier.draw(pyplot, curves(places, rows), best_curve(best), level, folder / "frontier.png")
    print(f"the table is in {folder / 'methods.md'}, the figure in {folder / 'frontier.png'}")


if __name__ == "__main__":
    config.run(main)
