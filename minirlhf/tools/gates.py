"""Four questions to ask before trusting a PPO run, each answered from checkpoints alone. Run them in this order.

python -m minirlhf.gates probe         can a straight line in the SFT model's last layer tell right facts from wrong ones?
python -m minirlhf.gates facts         does the reward model rank every right fact above its misconceptions?
python -m minirlhf.gates best-of-n     do answers get truer if it picks the best of n?
python -m minirlhf.gates judge         does PPO learn the facts when the judge himself pays? (OUT/on-judge/ppo)

Where one fails, the later ones cannot be blamed on PPO. Embedded world only.
"""

import sys
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from minirlhf import data, evaluate, reward
from minirlhf.run import checkpoint, config
from minirlhf.run.config import flag, rng
from minirlhf.run.metrics import table
from minirlhf.world import measures, sentences, writers


@dataclass(frozen=True)
class Config:
    """A gate of the demonstration: probe, facts, best-of-n or judge."""

    out: str = flag("out", "folder of all stages")
    prompts: int = flag(512, "held-out prompts about facts that are sampled from", low=2)
    best_of: int = flag(16, "n of best-of-n", low=2)
    max_new_tokens: int = flag(32, "the most tokens a response may have", low=1)
    seed: int = flag(1, "seed of prompts and noise", low=0)


def facts():
    """[(entry, subject, the true answer, the misconceptions)], every fact of the world once."""
    entries = [entry for entry in sentences.ENTRIES if entry["kind"] == "fact"]
    return [
        (entry, subject, a[0], a[1:]) for entry in entries for subject, a in entry["table"].items()
    ]


def statements(entry, subject, answer):
    """[(prompt, core)]: every held-out wording of the question with every wording of this answer."""
    wordings = entry["say"] + entry["brief"]
    texts = [text.format(subject=subject, answer=answer) for text in wordings]
    return [
        (ask.format(subject=subject) + "\n", t[0].upper() + t[1:])
        for ask in entry["test"]
        for t in texts
    ]


# ---- probe


@torch.no_grad()
def features(gpt, tokenizer, pairs):  # N (prompt, core) -> (N, C), the last layer at the end token
    examples = [data.encode(tokenizer, *pair) for pair in pairs]
    tokens, _, lengths = data.collate(examples)
    return gpt.hidden(tokens)[torch.arange(len(tokens)), lengths - 1]


def fit_line(x, y, decay=1e-2):  # (N, C), (N,) 0 or 1 -> weights (C,)
    """Logistic regression without a bias, `decay` times the squared norm of the weights added to the mean loss."""
    w = torch.zeros(x.size(1), requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=200)

    def closure():
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(x @ w, y) + decay * w.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return w.detach()


def probe(args):
    """Accuracy on facts that the line was not fitted on, two folds. Right and wrong differ in nothing but the answer, so that a
    line through their difference is a direction of truth and not of topic."""
    gpt, tokenizer = checkpoint.load_gpt(f"{args.out}/sft")
    known = [facts()[i] for i in rng(args.seed, config.PROBED_FACTS).permutation(len(facts()))]
    differences = []
    for entry, subject, right, wrong in known:
        pairs = [
            features(gpt, tokenizer, statements(entry, subject, answer))
            for answer in (right, *wrong)
        ]
        differences.append(torch.cat([pairs[0] - other for other in pairs[1:]]))
    folds = differences[::2], differences[1::2]
    wins = []
    for train, test in (folds, folds[::-1]):
        x = torch.cat(train)
        scale = x.std(0).clamp(min=1e-6)
        w = fit_line(
            torch.cat([x, -x]) / scale, torch.cat([torch.ones(len(x)), torch.zeros(len(x))])
        )
        wins.append((torch.cat(test) / scale @ w > 0).float())
    accuracy = float(torch.cat(wins).mean())
    print(
        f"a line fitted on half of the facts prefers the right answer on {accuracy:.3f} of the pairs of the other half"
    )
    return {"probe_accuracy": accuracy}


# ---- facts


def fact_agreement(reward_model, tokenizer):
    """{(subject, answer, misconception): share of wordings in which the right answer gets the higher score}"""
    agreement = {}
    for entry, subject, right, wrong in facts():
        better = reward.score(
            reward_model, tokenizer, *zip(*statements(entry, subject, right), strict=True)
        )
        for answer in wrong:
            worse = reward.score(
                reward_model, tokenizer, *zip(*statements(entry, subject, answer), strict=True)
            )
            agreement[subject, right, answer] = float((better > worse).float().mean())
    return agreement


def gate_facts(args):
    """Passed if the reward model prefers the right answer in at least .9 of the wordings, averaged over misconceptions."""
    reward_model, tokenizer, _ = reward.load_reward_model(f"{args.out}/rm")
    agreement = fact_agreement(reward_model, tokenizer)
    worst = sorted(agreement.items(), key=lambda item: item[1])[:5]
    print(
        "\n".join(
            table(
                ["subject", "right", "wrong", "agreement"],
                [[*names, share] for names, share in worst],
            )
        )
    )
    mean, majority = (
        np.mean(list(agreement.values())),
        np.mean([share > 0.5 for share in agreement.values()]),
    )
    told = f"{len(agreement)} misconceptions: {mean:.3f} of all wordings are ranked right"
    print(f"{told}, and {majority:.3f} of the misconceptions in most of theirs")
    return {"fact_agreement": mean, "facts_ranked_right": majority, "passed": mean >= 0.9}


# ---- best of n, and PPO on the judge


def fact_prompts(args):
    draw = rng(args.seed, config.FACT_PROMPTS)
    return [writers.draw_question(draw, "test", {"fact": 1.0})[0] for _ in range(args.prompts)]


def honesty(prompts, replies):
    """(N,): whether the fact is right."""
    return np.array([judgement.honest for judgement in measures.judgements(prompts, replies)])


def single_honesty(args, gpt, tokenizer, prompts):
    """(N,): whether one sample to each prompt states the right fact. The same noise for every model."""
    noise = evaluate.noise(args.seed, len(prompts), args.max_new_tokens)
    return honesty(prompts, evaluate.respond(gpt, tokenizer, prompts, noise))


def best_of_n(args):
    """Passed if the best of n under the reward model states a true fact more often than a single sample, by .15."""
    gpt, tokenizer = checkpoint.load_gpt(f"{args.out}/sft")
    reward_model, _, _ = reward.load_reward_model(f"{args.out}/rm")
    prompts = fact_prompts(args)
    one = single_honesty(args, gpt, tokenizer, prompts)
    score = partial(evaluate.score_replies, reward_model)
    best = evaluate.best_of_n(
        gpt, tokenizer, score, prompts, args.best_of, args.max_new_tokens, args.seed
    )
    gain, half = evaluate.interval(honesty(prompts, best) - one)
    print(
        f"true facts: {one.mean():.3f} of single samples; best of {args.best_of} gains {gain:+.3f} +- {half:.3f}"
    )
    return {"sft_facts": one.mean(), "best_of_n_gain": gain, "passed": gain >= 0.15}


def judge(args):
    """Passed if PPO with the judge's total as its reward states a true fact in at least .9 of its responses."""
    gpt, tokenizer = checkpoint.load_gpt(f"{args.out}/on-judge/ppo")
    right = single_honesty(args, gpt, tokenizer, fact_prompts(args))
    print("true facts after PPO on the judge: {:.3f} +- {:.3f}".format(*evaluate.interval(right)))
    return {"judge_facts": right.mean(), "passed": right.mean() >= 0.9}


GATES = {"probe": probe, "facts": gate_facts, "best-of-n": best_of_n, "judge": judge}


def main(argv=None):
    """The first word is the gate, the rest are flags. Exit code 1 if it does not pass (the probe always does)."""
    name, *rest = sys.argv[1:] if argv is None else argv or [""]
    if name in ("-h", "--help", ""):
        print(__doc__)
        name, rest = "probe", ["--help"]
    if name not in GATES:
        raise config.InputError(f"{name} is not a gate; choose one of {', '.join(GATES)}")
    numbers = GATES[name](config.parse(Config, rest, prog=f"python -m minirlhf.gates {name}"))
    if "passed" in numbers:
        print("passed" if numbers["passed"] else "NOT passed")
    return numbers


def exit_code():
    sys.exit(0 if main().get("passed", True) else 1)


if __name__ == "__main__":
    config.run(exit_code)
