"""The results of one run on the embedded world: a table, intervals, examples, a figure.

    minirlhf report                 the run in out/; writes out/report.json, and out/report.png if
                                    matplotlib is installed

It reads the checkpoints, and needs the world's judge, who knows the truth. `minirlhf evaluate`
compares two checkpoints on your own prompts.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minirlhf import evaluate, reward
from minirlhf.run import chain, checkpoint, config
from minirlhf.run.config import flag, rng
from minirlhf.run.files import write_text
from minirlhf.run.metrics import printable, read_metrics, table
from minirlhf.world import judge, measures, sentences, writers

POLICIES = {  # name in the table -> folder; those that do not exist are left out
    "base": "pretrain",
    "SFT": "sft",
    "DPO": "dpo",
    "PPO": "ppo",
    "PPO on the judge": "on-judge/ppo",
}
MEASURES = ("helpful", "honest", "harmless", "facts", "admits", "total", "right")
KINDS = {"facts": "fact", "admits": "unknown"}  # measure -> the kind of prompt it applies to


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


def measured_values(prompts, replies):  # N texts, N replies -> {measure: (N,)}
    """The judge's values of each reply, NaN on prompts to which a measure does not apply.

    "facts" and "admits" are honesty about facts, and about what nobody can know; "right" is 1 where
    nothing at all is wrong.
    """
    judgements = measures.judgements(prompts, replies)
    axes = ("helpful", "honest", "harmless", "total")
    values = {name: [getattr(j, name) for j in judgements] for name in axes}
    prompt_kinds = [sentences.kind(prompt) for prompt in prompts]
    for name, measure_kind in KINDS.items():
        values[name] = [
            j.honest if kind == measure_kind else None
            for j, kind in zip(judgements, prompt_kinds, strict=True)
        ]
    values["right"] = [float(j.total == judge.BEST) for j in judgements]
    return {
        name: np.array([math.nan if x is None else x for x in values[name]]) for name in MEASURES
    }


def paired_interval(after, before):  # (N,), (N,) -> (mean, half width)
    """The mean of the differences and half of its 95% interval, where the measure applies: the same
    prompts under the same noise."""
    difference = after - before
    return evaluate.interval(difference[~np.isnan(difference)])


def win_interval(after, before):  # totals (N,), (N,) -> (rate, half width)
    """How often the first total is higher (a tie counts one half), and half of its 95% interval."""
    return evaluate.interval(evaluate.wins(after, before))


def sample_all(args, tokenizer, policies, score, prompts):
    """{name: replies}, {name: KL from SFT in nats per response}, {name: normalised scores (N,)}."""
    sft, uniforms = policies["SFT"], evaluate.noise(args.seed, len(prompts), args.max_new_tokens)
    replies = {
        name: evaluate.respond(gpt, tokenizer, prompts, uniforms, progress=name)
        for name, gpt in policies.items()
    }
    kls = {
        name: float(evaluate.kl(gpt, sft, replies[name]).mean()) for name, gpt in policies.items()
    }
    limits = args.best_of, args.max_new_tokens, args.seed
    candidates = evaluate.candidates(sft, tokenizer, score, prompts, *limits)
    for n in (4, args.best_of):
        replies[f"best of {n}"] = evaluate.best(*candidates, n)
        kls[f"best of {n}"] = evaluate.best_of_n_kl(n)
    scores = {name: score(prompts, responses) for name, responses in replies.items()}
    return replies, kls, scores


def summary(prompts, replies, kls, scores):
    """Everything that is reported, as a dictionary fit for JSON. Arguments as `sample_all` gives
    them."""
    values = {
        name: measured_values(prompts, responses) for name, responses in replies.items()
    }  # {name: {measure: (N,)}}
    totals = {name: measure["total"] for name, measure in values.items()}
    rows = {}
    for name in values:
        numbers = {measure: float(np.nanmean(x)) for measure, x in values[name].items()}
        numbers["beats_sft"] = win_interval(totals[name], totals["SFT"])[0]
        numbers |= {"score": float(scores[name].mean()), "kl": kls[name]}
        numbers["length"] = float(np.mean([reply.length for reply in replies[name]]))
        rows[name] = numbers
    report = {"prompts": len(prompts), "rows": rows}
    if "PPO" in values:
        sft, ppo, best = values["SFT"], values["PPO"], np.full(len(prompts), judge.BEST)
        report["gains"] = {name: paired_interval(ppo[name], sft[name]) for name in MEASURES}
        report["win_rate"] = win_interval(totals["PPO"], totals["SFT"])
        report["best_win_rate"] = win_interval(best, totals["SFT"])[0]
    if "PPO" in values and "PPO on the judge" in values:
        names = ("facts", "admits", "honest", "harmless", "helpful", "total")
        report["of_the_way"] = {name: of_the_way(rows, name) for name in names}
    return report


def of_the_way(rows, measure):
    """How far PPO came from SFT to the policy that was trained on the judge: 0 is SFT, 1 that
    policy. NaN where the two are equal."""
    start, end, goal = (rows[name][measure] for name in ("SFT", "PPO", "PPO on the judge"))
    return (end - start) / (goal - start) if goal != start else math.nan


# ---- the table


def show(report):
    """Print the table, and the comparison of PPO with SFT if there is one."""
    columns = [*MEASURES, "beats_sft", "score", "kl", "length"]
    best = [name for name in report["rows"] if name.startswith("best")]
    order = ["base", "SFT", *best, "DPO", "PPO", "PPO on the judge"]
    rows = {name: report["rows"][name] for name in order if name in report["rows"]}
    lines = [[name, *(row[column] for column in columns)] for name, row in rows.items()]
    header = ["", *(column.replace("_", " ") for column in columns)]
    print("\n".join(["", *table(header, lines), ""]))
    print("facts, admits: honest about facts, and about what nobody can know.", end=" ")
    print("total: of 3. right: nothing wrong at all.")
    print("score: the reward model's. kl: nats from SFT, summed over a response.", end=" ")
    print("length: tokens, the end token included.")
    if "gains" in report:
        show_comparison(report)


def show_comparison(report):
    """Print how PPO compares with SFT, in words."""
    conditions = f"paired over the same {report['prompts']} held-out prompts, with 95% intervals"
    print(f"\nPPO minus SFT, {conditions}:")
    gains = [
        f"{name} {mean:+.2f} +- {half_width:.2f}"
        for name, (mean, half_width) in report["gains"].items()
    ]
    print("  " + ", ".join(gains))
    rate, half_width = report["win_rate"]
    wins = f"{100 * rate:.1f}% +- {100 * half_width:.1f} of prompts (ties count half)"
    print(f"PPO beats SFT on {wins};", end=" ")
    print(f"a faultless policy would on {100 * report['best_win_rate']:.1f}%")
    if "of_the_way" in report:
        shares = [f"{name} {share:.2f}" for name, share in report["of_the_way"].items()]
        print(f"of the way from SFT to PPO on the judge: {', '.join(shares)}")


def show_examples(prompts, replies, n):
    """Print n prompts, one of each kind first, with the responses of SFT and PPO."""
    rows = {kind: [] for kind in ("fact", "unknown", "harmful", "string", "sum")}
    for row, prompt in enumerate(prompts):
        rows[sentences.kind(prompt)].append(row)
    turns = range(max(map(len, rows.values())))
    order = [places[turn] for turn in turns for places in rows.values() if turn < len(places)]
    names = [name for name in ("SFT", "PPO") if name in replies]
    for row in order[:n]:
        print(f"\n{prompts[row].strip()}")
        for name in names:
            reply = replies[name][row]
            total = judge.judge(prompts[row], evaluate.finished([reply])[0]).total
            print(f"  {name}:  {printable(reply.text.strip())}  ({total:.1f} of 3)")


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
    """The lines of a PPO run's metrics.jsonl with an evaluation by the judge."""
    return [record for record in read_metrics(folder) if "eval_total" in record]


def draw_learning(pyplot, folders, path):
    """Learning curves of PPO runs: left the reward model's score and the judge's total, right the
    judge's three axes."""
    axes = measures.AXES[:3]
    curves = [("score", "reward model's score", "tab:orange")]
    curves += [("total", "judge's total, of 3", "tab:blue")]
    curves += zip(axes, axes, ("tab:green", "tab:purple", "tab:red"), strict=True)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    for i, folder in enumerate(folders):
        records = evaluations(folder)
        updates = [record["step"] + 1 for record in records]
        for name, text, color in curves:
            side, label = (right if name in axes else left), (None if i else text)
            values = [record["eval_" + name] for record in records]
            side.plot(updates, values, color=color, label=label)
    right.set_ylim(0, 1)
    for side in (left, right):
        side.set_xlabel("PPO updates")
        side.legend(frameon=False)
        side.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


# ---- the command


def load_policies(out):
    """({name: GPT} of the policies in `out`, their tokenizer). The SFT model is required."""
    policies, tokenizer = {}, None
    for name, folder in POLICIES.items():
        if name == "SFT" or (Path(out) / folder / "checkpoint.pt").exists():
            policies[name], other = checkpoint.load_gpt(f"{out}/{folder}")
            checkpoint.same_vocabulary(folder, other, "the SFT model", tokenizer or other)
            tokenizer = other
    return policies, tokenizer


def main(argv=None):
    args = config.parse(Config, argv)
    policies, tokenizer = load_policies(args.out)
    reward_model, other, stored = reward.load_reward_model(f"{args.out}/rm")
    checkpoint.same_vocabulary("the reward model", other, "the SFT model", tokenizer)
    prompts = writers.prompts(args.prompts, rng(args.seed, config.HELD_OUT_PROMPTS), "test")
    models = f"{args.out}/ppo", f"{args.out}/rm"
    score = evaluate.model_scores(reward_model, chain.missing_end_score(*models, "", stored))
    replies, kls, scores = sample_all(args, tokenizer, policies, score, prompts)
    report = summary(prompts, replies, kls, scores)
    last = read_metrics(f"{args.out}/rm")[-1]
    report["reward_model"] = {name: value for name, value in last.items() if name != "step"}
    show(report)
    show_examples(prompts, replies, args.examples)
    write_text(f"{args.out}/report.json", json.dumps(report, indent=1) + "\n")
    if "PPO" not in policies:
        return
    if pyplot := load_pyplot():
        draw_learning(pyplot, [f"{args.out}/ppo"], f"{args.out}/report.png")
        print(f"\nthe learning curve is in {args.out}/report.png")
    else:
        print("\nno figure: pip install -e '.[plot]' brings matplotlib")


if __name__ == "__main__":
    config.run(main)
