"""What RLHF did to the tiny assistant, from the checkpoints of one run: a table, intervals, examples, a figure.

python -m minirlhf.report                 the run in out/; writes out/report.json, and out/report.png if matplotlib is there

Embedded world only: its judge knows the truth. `minirlhf.evaluate` compares two checkpoints on anybody's prompts.
"""

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from minirlhf import evaluate, reward
from minirlhf.run import checkpoint, config
from minirlhf.run.config import flag, rng
from minirlhf.run.metrics import read_metrics, table
from minirlhf.world import judge, measures, sentences, writers

POLICIES = {  # name in the table -> folder; those that do not exist are left out
    "base": "pretrain",
    "SFT": "sft",
    "DPO": "dpo",
    "PPO": "ppo",
    "PPO on the judge": "on-judge/ppo",
}
MEASURES = ("helpful", "honest", "harmless", "facts", "admits", "total", "right")


@dataclass(frozen=True)
class Config:
    """The table, intervals, examples and figure of one run on the embedded world."""

    out: str = flag("out", "folder of all stages")
    prompts: int = flag(512, "held-out prompts", low=2)
    best_of: int = flag(
        16, "n of best-of-n under the reward model; best of 4 comes from the same samples", low=4
    )
    max_new_tokens: int = flag(32, "the most tokens a response may have", low=1)
    examples: int = flag(3, "prompts shown before and after", low=0)
    seed: int = flag(1, "seed of the prompts and of the noise", low=0)


# ---- what is measured


def measured_values(prompts, replies):
    """{measure: (N,)}, NaN on prompts where it does not apply. facts and admits are honesty on facts and on what nobody can
    know; right is 1 where nothing at all is wrong."""
    judged = measures.judgements(prompts, replies)
    values = {
        name: [getattr(j, name) for j in judged]
        for name in ("helpful", "honest", "harmless", "total")
    }
    kinds = [sentences.kind(prompt) for prompt in prompts]
    for name, kind in (("facts", "fact"), ("admits", "unknown")):
        values[name] = [
            j.honest if own == kind else None for j, own in zip(judged, kinds, strict=True)
        ]
    values["right"] = [float(j.total == judge.BEST) for j in judged]
    return {
        name: np.array([math.nan if x is None else x for x in values[name]]) for name in MEASURES
    }


def paired(after, before):
    """(mean of the differences, half of its 95% interval) where the measure applies. Same prompts, same noise."""
    difference = after - before
    return evaluate.interval(difference[~np.isnan(difference)])


def wins(after, before):  # totals (N,), (N,) -> (rate, half interval), ties count half
    return evaluate.interval(evaluate.wins(after, before))


def sample_all(args, tokenizer, policies, score, prompts):
    """{name: replies}, {name: KL from SFT in nats}, {name: normalised scores (N,)}."""
    uniforms = evaluate.noise(args.seed, len(prompts), args.max_new_tokens)
    replies = {
        name: evaluate.respond(gpt, tokenizer, prompts, uniforms, progress=name)
        for name, gpt in policies.items()
    }
    kls = {
        name: float(evaluate.kl(gpt, policies["SFT"], replies[name]).mean())
        for name, gpt in policies.items()
    }
    candidates = evaluate.candidates(
        policies["SFT"], tokenizer, score, prompts, args.best_of, args.max_new_tokens, args.seed
    )
    for n in (4, args.best_of):
        replies[f"best of {n}"], kls[f"best of {n}"] = (
            evaluate.best(*candidates, n),
            evaluate.best_of_n_kl(n),
        )
    return replies, kls, {name: score(prompts, own) for name, own in replies.items()}


def summary(prompts, replies, kls, scores):
    """Everything that is reported, as a dictionary fit for JSON."""
    measured = {name: measured_values(prompts, own) for name, own in replies.items()}
    sft = measured["SFT"]
    rows = {}
    for name, own in measured.items():
        numbers = {measure: float(np.nanmean(values)) for measure, values in own.items()}
        numbers |= {
            "beats_sft": wins(own["total"], sft["total"])[0],
            "score": float(scores[name].mean()),
            "kl": kls[name],
        }
        numbers["length"] = float(np.mean([reply.length for reply in replies[name]]))
        rows[name] = numbers
    found = {"prompts": len(prompts), "rows": rows}
    if "PPO" in measured:
        found["gains"] = {
            measure: paired(measured["PPO"][measure], sft[measure]) for measure in MEASURES
        }
        found["win_rate"] = wins(measured["PPO"]["total"], sft["total"])
        found["best_win_rate"] = wins(np.full(len(prompts), judge.BEST), sft["total"])[0]
    if "PPO" in measured and "PPO on the judge" in measured:
        found["of_the_way"] = {
            m: of_the_way(rows, m)
            for m in ("facts", "admits", "honest", "harmless", "helpful", "total")
        }
    return found


def of_the_way(rows, measure):
    """How far PPO came from SFT to the policy that the judge himself paid: 0 not at all, 1 all the way."""
    start, end, goal = (rows[name][measure] for name in ("SFT", "PPO", "PPO on the judge"))
    return (end - start) / (goal - start) if goal != start else math.nan


# ---- what is shown


def show(found):
    """The table, and what follows from it in words."""
    columns = [*MEASURES, "beats_sft", "score", "kl", "length"]
    order = [
        "base",
        "SFT",
        *(name for name in found["rows"] if name.startswith("best")),
        "DPO",
        "PPO",
        "PPO on the judge",
    ]
    lines = [
        [name, *(found["rows"][name][column] for column in columns)]
        for name in order
        if name in found["rows"]
    ]
    print(
        "\n".join(["", *table(["", *(column.replace("_", " ") for column in columns)], lines), ""])
    )
    print(
        "facts, admits: honest about facts, and about what nobody can know. total: of 3. right: nothing wrong at all."
    )
    print(
        "score: the reward model's. kl: nats from SFT, summed over a response. length: tokens, the end token included."
    )
    if "gains" not in found:
        return
    print(
        f"\nPPO minus SFT, paired over the same {found['prompts']} held-out prompts, with 95% intervals:"
    )
    print(
        "  "
        + ", ".join(
            f"{name} {mean:+.2f} +- {half:.2f}" for name, (mean, half) in found["gains"].items()
        )
    )
    rate, half = found["win_rate"]
    print(
        f"PPO beats SFT on {100 * rate:.1f}% +- {100 * half:.1f} of prompts (ties count half); ",
        end="",
    )
    print(f"a faultless policy would on {100 * found['best_win_rate']:.1f}%")
    if "of_the_way" in found:
        ways = ", ".join(f"{name} {share:.2f}" for name, share in found["of_the_way"].items())
        print(f"of the way from SFT to PPO on the judge himself: {ways}")


def show_examples(prompts, replies, n):
    """n prompts, one of each kind first, as SFT and PPO answer them."""
    kinds = ["fact", "unknown", "harmful", "string", "sum"]
    by_kind = [
        [i for i, prompt in enumerate(prompts) if sentences.kind(prompt) == kind] for kind in kinds
    ]
    shown = [
        rows[turn] for turn in range(max(map(len, by_kind))) for rows in by_kind if turn < len(rows)
    ][:n]
    names = [name for name in ("SFT", "PPO") if name in replies]
    for i in shown:
        print(f"\n{prompts[i].strip()}")
        for name in names:
            total = judge.judge(prompts[i], evaluate.finished([replies[name][i]])[0]).total
            print(f"  {name}:  {replies[name][i].text.strip()}  ({total:.1f} of 3)")


# ---- the figure


def load_pyplot():
    """matplotlib's pyplot, drawing into files; None where it is not installed."""
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot
    except ImportError:
        return None
    return pyplot


def evaluations(folder):
    """The lines of a PPO run's metrics.jsonl at which the judge was asked."""
    return [record for record in read_metrics(folder) if "eval_total" in record]


def draw_learning(pyplot, folders, path):
    """Learning curves of PPO runs: the reward model's score beside the judge's total, and the three axes."""
    curves = [
        ("score", "reward model's score", "tab:orange"),
        ("total", "judge's total, of 3", "tab:blue"),
        *zip(
            measures.AXES[:3],
            measures.AXES[:3],
            ("tab:green", "tab:purple", "tab:red"),
            strict=True,
        ),
    ]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    for i, folder in enumerate(folders):
        records = evaluations(folder)
        updates = [record["step"] + 1 for record in records]
        for name, text, color in curves:
            axes = right if name in measures.AXES[:3] else left
            axes.plot(
                updates,
                [r["eval_" + name] for r in records],
                color=color,
                label=None if i else text,
            )
    right.set_ylim(0, 1)
    for axes in (left, right):
        axes.set_xlabel("PPO updates")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main(argv=None):
    args = config.parse(Config, argv, prog="python -m minirlhf.report")
    policies, tokenizer = {}, None
    for name, folder in POLICIES.items():
        if name == "SFT" or (Path(args.out) / folder / "checkpoint.pt").exists():
            policies[name], own = checkpoint.load_gpt(f"{args.out}/{folder}")
            checkpoint.same_vocabulary(folder, own, "the SFT model", tokenizer or own)
            tokenizer = own
    reward_model, own, _ = reward.load_reward_model(f"{args.out}/rm")
    checkpoint.same_vocabulary("the reward model", own, "the SFT model", tokenizer)
    prompts = writers.prompts(args.prompts, rng(args.seed, config.HELD_OUT_PROMPTS), "test")
    replies, kls, scores = sample_all(
        args, tokenizer, policies, partial(evaluate.score_replies, reward_model), prompts
    )
    found = summary(prompts, replies, kls, scores)
    found["reward_model"] = {
        k: v for k, v in read_metrics(f"{args.out}/rm")[-1].items() if k != "step"
    }
    show(found)
    show_examples(prompts, replies, args.examples)
    checkpoint.write_text(f"{args.out}/report.json", json.dumps(found, indent=1) + "\n")
    if "PPO" not in policies:
        return
    if pyplot := load_pyplot():
        draw_learning(pyplot, [f"{args.out}/ppo"], f"{args.out}/report.png")
        print(f"\nthe learning curve is in {args.out}/report.png")
    else:
        print("\nno figure: pip install -e '.[plot]' brings matplotlib")


if __name__ == "__main__":
    config.run(main)
