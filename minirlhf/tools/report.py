"""What one run on the embedded world has won, and what that cost: tables, intervals, examples, a
figure, a page.

    minirlhf report                 the run in out/; writes out/report.json, out/report.html, and
                                    out/report.png if matplotlib is installed
    minirlhf report --split test    on the prompts that no choice was made on: at the very end

The tables need the world's judge, who knows the truth. A run on own data gets the page, and the
command that compares its checkpoints: `minirlhf evaluate`.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minirlhf import data, evaluate, reward
from minirlhf.run import chain, checkpoint, config
from minirlhf.run.config import flag, rng
from minirlhf.run.files import write_text
from minirlhf.run.metrics import number, read_metrics
from minirlhf.tools import figures, page, tables
from minirlhf.world import measures, writers
from minirlhf.world.memoriser import Memoriser

POLICIES = {  # name in the tables -> folder; those that do not exist are left out
    "base": "pretrain",
    "SFT": "sft",
    "DPO": "dpo",
    "PPO": "ppo",
    "PPO on the judge": "on-judge/ppo",
}
MEMORISED = 10_000  # of the prompts that PPO learns on


@dataclass(frozen=True)
class Config:
    """The tables, intervals, examples and figure of one run on the embedded world."""

    out: str = flag("out", "folder of all stages")
    split: str = flag(
        "validation",
        "prompts of the split that choices are made on, or of the one kept for the final report",
        choices=("validation", "test"),
    )
    prompts: int = flag(512, "held-out prompts", low=2)
    best_of: int = flag(
        16, "n of best-of-n under the reward model; best of 4 comes from the same samples", low=4
    )
    max_new_tokens: int = flag(32, "the most tokens a response may have", low=1)
    examples: int = flag(4, "prompts shown before and after", low=0)
    seed: int = flag(1, "seed of the prompts and of the noise", low=0)


class Answers(NamedTuple):
    """A policy's replies to the prompts, with its KL from SFT and its entropy, both in nats per
    response; None where they are not known."""

    replies: list
    kl: float | None = None
    entropy: float | None = None


# ---- what each policy answers


def sample_all(args, tokenizer, policies, score, prompts):  # -> {name: Answers}
    """Every policy under the same noise; best of 4 and of n; and two that need no model, the
    memoriser of the training prompts and a faultless writer."""
    sft, uniforms = policies["SFT"], evaluate.noise(args.seed, len(prompts), args.max_new_tokens)
    answers = {}
    for name, gpt in policies.items():
        replies = evaluate.respond(gpt, tokenizer, prompts, uniforms, progress=name)
        examples = [reply.example for reply in replies]
        logprobs = evaluate.sequence_logprobs(gpt, examples)
        ref_logprobs = evaluate.sequence_logprobs(sft, examples) if gpt is not sft else logprobs
        kl = float((logprobs - ref_logprobs).mean())
        answers[name] = Answers(replies, kl, -float(logprobs.mean()))
    limits = args.best_of, args.max_new_tokens, args.seed
    candidates = evaluate.candidates(sft, tokenizer, score, prompts, *limits)
    for n in (4, args.best_of):
        kl = evaluate.best_of_n_kl(n)
        answers[f"best of {n}"] = Answers(evaluate.best(*candidates, n), kl)
    memoriser = Memoriser(MEMORISED, rng(args.seed, config.PPO_PROMPTS))
    texts = {"memoriser": memoriser.respond(prompts)}
    texts["faultless"] = writers.faultless(prompts, rng(args.seed, config.FAULTLESS_RESPONSES))
    for name, responses in texts.items():
        answers[name] = Answers(written(tokenizer, prompts, responses))
    return answers


def written(tokenizer, prompts, responses):  # N texts each -> N Replies
    """Responses that no model sampled, as replies that came to their end."""
    pairs = zip(prompts, responses, strict=True)
    return [evaluate.Reply(pair[1], data.encode(tokenizer, *pair), True) for pair in pairs]


# ---- what is measured


def summary(prompts, answers, scores):
    """Everything that is reported, as a dictionary fit for JSON. `answers` as `sample_all` gives
    them, `scores` {name: normalised scores (N,)}."""
    results = {n: measures.judgements(prompts, side.replies) for n, side in answers.items()}
    values = {name: measures.values_of(prompts, results[name]) for name in answers}
    clusters = np.array([measures.cluster(prompt) for prompt in prompts])
    sft = values["SFT"]
    rows, half_widths = {}, {}
    for name, side in answers.items():
        numbers = {measure: measures.mean(column) for measure, column in values[name].items()}
        numbers["beats_sft"] = float(evaluate.wins(values[name]["total"], sft["total"]).mean())
        numbers |= {"score": float(scores[name].mean()), "kl": side.kl, "entropy": side.entropy}
        numbers["length"] = float(np.mean([reply.length for reply in side.replies]))
        rows[name] = jsonable(numbers) | measures.diversity(side.replies)
        intervals = {m: interval(column, clusters)[1] for m, column in values[name].items()}
        half_widths[name] = jsonable(intervals)
    report = {"prompts": len(prompts), "clusters": len(set(clusters))}
    report |= {"rows": rows, "half_widths": half_widths}
    report["groups"] = {name: measures.by_group(prompts, results[name]) for name in answers}
    return report | (comparisons(values, clusters, rows) if "PPO" in values else {})


def comparisons(values, clusters, rows):
    """How PPO compares with the others: paired differences, win rates, and the share of what it
    could have gained. Arguments as in `summary`."""
    ppo, sft, report = values["PPO"], values["SFT"], {"gains": {}}
    for name in ("SFT", "memoriser"):
        if name in values:
            report["gains"][name] = {
                measure: [number(x) for x in interval(ppo[measure] - column, clusters)]
                for measure, column in values[name].items()
            }
    report["win_rate"] = interval(evaluate.wins(ppo["total"], sft["total"]), clusters)
    if "PPO on the judge" in values:
        names = ("facts", "admits", "honest", "harmless", "helpful", "total")
        report["of_the_way"] = jsonable({name: of_the_way(rows, name) for name in names})
    return report


def interval(column, clusters):  # (N,), NaN where it does not apply, (N,) -> (mean, half width)
    """`evaluate.interval` over the prompts to which a measure applies, clustered; NaN, NaN if there
    is none."""
    applies = ~np.isnan(column)
    if not applies.any():
        return math.nan, math.nan
    return evaluate.interval(column[applies], clusters[applies])


def of_the_way(rows, measure):
    """How far PPO came from SFT to the policy that was trained on the judge: 0 is SFT, 1 that
    policy. NaN where the two are equal."""
    values = [rows[name][measure] for name in ("SFT", "PPO", "PPO on the judge")]
    if None in values or values[0] == values[2]:
        return math.nan
    return (values[1] - values[0]) / (values[2] - values[0])


def jsonable(numbers):
    """The dictionary with None for NaN, which JSON does not have."""
    return {name: x if x is None else number(x) for name, x in numbers.items()}


# ---- the command


def load_policies(out):
    """({name: GPT} of the policies in `out`, their tokenizer). The SFT model is required. What an
    older run has left, of another vocabulary or from another SFT model, is left out, and that is
    said."""
    sft, tokenizer = checkpoint.load_gpt(f"{out}/sft")
    policies = {}
    for name, folder in POLICIES.items():
        path = Path(out) / folder
        if name == "SFT":
            policies[name] = sft
        elif (path / "checkpoint.pt").exists():
            try:
                gpt, other = checkpoint.load_gpt(path)
                checkpoint.same_vocabulary(path, other, "the SFT model", tokenizer)
                checkpoint.same_sft(path, sft)
                policies[name] = gpt
            except checkpoint.OtherModel as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
    return policies, tokenizer


def own_data_command(out):
    """The command that compares the run in `out`, if a stage was trained on somebody's own data, of
    which the world's judge knows nothing; None otherwise."""
    stored = {s: chain.stored_flags(Path(out) / s) for s in ("ppo", "dpo", "rm", "sft")}
    flags = {stage: values for stage, values in stored.items() if values}
    path = next((values["data"] for values in flags.values() if values.get("data")), None)
    if path is None:
        return None
    last = next((stage for stage in ("ppo", "dpo") if stage in flags), "sft")
    pretrained = last == "sft" and (Path(out) / "pretrain").exists()
    baseline = "pretrain" if pretrained else "sft"
    reward_model = f"{out}/rm" if "rm" in flags else "none --judge MODULE:FUNCTION"
    command = f"minirlhf evaluate --policy {out}/{last} --baseline {out}/{baseline}"
    return f"{command} --reward-model {reward_model} --data {path}"


def main(argv=None):
    args = config.parse(Config, argv)
    html = f"{args.out}/report.html"
    if command := own_data_command(args.out):
        page.write(args.out, html)
        print(f"the page of the run is {html}; no judge knows your data, compare it: {command}")
        return
    policies, tokenizer = load_policies(args.out)
    reward_model, other, stored = reward.load_reward_model(f"{args.out}/rm")
    checkpoint.same_vocabulary("the reward model", other, "the SFT model", tokenizer)
    prompts = writers.prompts(args.prompts, rng(args.seed, config.HELD_OUT_PROMPTS), args.split)
    models = f"{args.out}/ppo", f"{args.out}/rm"
    score = evaluate.model_scores(reward_model, chain.missing_end_score(*models, "", stored))
    answers = sample_all(args, tokenizer, policies, score, prompts)
    scores = {name: score(prompts, side.replies) for name, side in answers.items()}
    report = {"split": args.split} | summary(prompts, answers, scores)
    last = [{}, *read_metrics(f"{args.out}/rm")][-1]
    report["reward_model"] = {name: value for name, value in last.items() if name != "step"}
    tables.show(report)
    tables.show_examples(prompts, {name: s.replies for name, s in answers.items()}, args.examples)
    write_text(f"{args.out}/report.json", json.dumps(report, indent=1) + "\n")
    page.write(args.out, html)
    print(f"\nthe page of the run is {html}")
    if "PPO" not in policies:
        return
    if pyplot := figures.load_pyplot():
        figures.draw_learning(pyplot, [f"{args.out}/ppo"], f"{args.out}/report.png")
        print(f"\nthe learning curves are in {args.out}/report.png")
    else:
        print("\nno figure: pip install -e '.[plot]' brings matplotlib")


if __name__ == "__main__":
    config.run(main)
