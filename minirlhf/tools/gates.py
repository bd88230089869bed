"""Four checks to make before trusting a PPO run, each from checkpoints alone, in this order.

    minirlhf gates probe         does a linear probe of the SFT model's last layer tell right facts
                                 from wrong ones?
    minirlhf gates facts         does the reward model rank every right fact above its
                                 misconceptions?
    minirlhf gates best-of-n     do answers get truer if the reward model picks the best of n?
    minirlhf gates judge         does PPO learn the facts when the judge is the reward?
                                 (OUT/on-judge/ppo)

Where one fails, PPO is not to blame for the later ones. Embedded world only. The exit code is 1 if
the gate does not pass.
"""

import sys
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from minirlhf import data, evaluate, reward
from minirlhf.run import checkpoint, config
from minirlhf.run.config import flag, rng
from minirlhf.run.metrics import table
from minirlhf.tools import report
from minirlhf.world import measures, sentences, writers


@dataclass(frozen=True)
class Config:
    """A gate of the demonstration: probe, facts, best-of-n or judge."""

    out: str = flag("out", "folder of all stages")
    prompts: int = flag(512, "held-out prompts about facts that are sampled from", low=2)
    best_of: int = flag(16, "n of best-of-n", low=2)
    max_new_tokens: int = flag(32, "the most tokens a response may have", low=1)
    seed: int = flag(1, "seed of prompts and noise", low=0)


def world_facts(*splits):
    """[(entry, subject, the right answer, its misconceptions)]: the facts of "train", which were
    ranked, and those of "validation", which were not."""
    entries = [entry for entry in sentences.ENTRIES if entry["kind"] == "fact"]
    return [
        (entry, subject, answers[0], answers[1:])
        for split in splits
        for entry in entries
        for subject, answers in entry["facts"][split].items()
    ]


def statements(entry, subject, answer):
    """[(prompt, response)]: every held-out wording of the question with every wording of this
    answer."""
    wordings = entry["say"] + entry["brief"]
    texts = [text.format(subject=subject, answer=answer) for text in wordings]
    return [
        (question.format(subject=subject) + "\n", text[0].upper() + text[1:])
        for question in entry["validation"]
        for text in texts
    ]


# ---- probe


@torch.no_grad()
def features(gpt, tokenizer, pairs):  # N (prompt, response) -> (N, C)
    """The states of the last layer at the end token."""
    examples = [data.encode(tokenizer, *pair) for pair in pairs]
    tokens, _, lengths = data.collate(examples)
    return gpt.hidden(tokens)[torch.arange(len(tokens)), lengths - 1]


def fit_line(x, y, decay=1e-2):  # (N, C), (N,) 0 or 1 -> weights (C,)
    """Logistic regression without a bias: the minimum of the mean loss plus `decay` times the
    squared norm of the weights."""
    w = torch.zeros(x.size(1), requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=200)

    def closure():
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(x @ w, y) + decay * w.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return w.detach()


def fact_differences(gpt, tokenizer, seed):  # -> a list of (N, C), one a fact, in random order
    """Features of statements with the right answer minus those with each misconception. The two
    statements differ in nothing but the answer, so that a probe of the differences finds a
    direction of truth and not of topic."""
    facts = world_facts("train", "validation")
    differences = []
    for i in rng(seed, config.PROBED_FACTS).permutation(len(facts)):
        entry, subject, right, misconceptions = facts[i]
        answers = right, *misconceptions
        states = [features(gpt, tokenizer, statements(entry, subject, a)) for a in answers]
        differences.append(torch.cat([states[0] - state for state in states[1:]]))
    return differences


def gate_probe(args):
    """The accuracy of a probe on facts that it was not fitted on, two folds. It always passes."""
    gpt, tokenizer = checkpoint.load_gpt(f"{args.out}/sft")
    differences = fact_differences(gpt, tokenizer, args.seed)
    folds = differences[::2], differences[1::2]
    wins = []
    for train, test in (folds, folds[::-1]):
        x = torch.cat(train)
        scale = x.std(0).clamp(min=1e-6)
        labels = torch.cat([torch.ones(len(x)), torch.zeros(len(x))])
        w = fit_line(torch.cat([x, -x]) / scale, labels)
        wins.append((torch.cat(test) / scale @ w > 0).float())
    accuracy = float(torch.cat(wins).mean())
    share = f"{accuracy:.3f} of the pairs of the other half"
    print(f"a line fitted on half of the facts prefers the right answer on {share}")
    return {"probe_accuracy": accuracy}


# ---- facts


def fact_agreement(reward_model, tokenizer, split):
    """{(subject, answer, misconception): the share of wordings in which the right answer gets the
    higher score}, of the facts of a split"""

    def scores(entry, subject, answer):
        texts = zip(*statements(entry, subject, answer), strict=True)
        return reward.score(reward_model, tokenizer, *texts)

    agreement = {}
    for entry, subject, right, misconceptions in world_facts(split):
        better = scores(entry, subject, right)
        for answer in misconceptions:
            wins = better > scores(entry, subject, answer)
            agreement[subject, right, answer] = float(wins.float().mean())
    return agreement


def gate_facts(args):
    """Passes if the reward model prefers the right answer in at least 0.9 of the wordings, averaged
    over the misconceptions of ranked facts. What it makes of the others shows how far it
    generalises."""
    reward_model, tokenizer, _ = reward.load_reward_model(f"{args.out}/rm")
    agreement = fact_agreement(reward_model, tokenizer, "train")
    unranked = np.mean(list(fact_agreement(reward_model, tokenizer, "validation").values()))
    worst = sorted(agreement.items(), key=lambda item: item[1])[:5]
    rows = [[*names, share] for names, share in worst]
    print("\n".join(table(["subject", "right", "wrong", "agreement"], rows)))
    mean = np.mean(list(agreement.values()))
    majority = np.mean([share > 0.5 for share in agreement.values()])
    print(f"{len(agreement)} misconceptions: {mean:.3f} of all wordings are ranked right", end=", ")
    print(f"and {majority:.3f} of the misconceptions in most of theirs")
    print(f"facts that nobody ranked: {unranked:.3f}")
    numbers = {"fact_agreement": mean, "unranked_agreement": unranked}
    return numbers | {"facts_ranked_right": majority, "passed": mean >= 0.9}


# ---- best of n, and PPO on the judge


def fact_prompts(args):
    generator = rng(args.seed, config.FACT_PROMPTS)
    draws = range(args.prompts)
    return [writers.draw_question(generator, "validation", {"fact": 1.0})[0] for _ in draws]


def honesty(prompts, replies):  # N texts, N replies -> (N,)
    """1 where the fact is right, 0 elsewhere."""
    return np.array([judgement.honest for judgement in measures.judgements(prompts, replies)])


def single_honesty(args, gpt, tokenizer, prompts):  # N texts -> (N,)
    """Honesty of one sample to each prompt, under the same noise for every model."""
    noise = evaluate.noise(args.seed, len(prompts), args.max_new_tokens)
    return honesty(prompts, evaluate.respond(gpt, tokenizer, prompts, noise))


def gate_best_of_n(args):
    """Passes if the best of n under the reward model states a true fact more often than a single
    sample, by at least 0.15 of the prompts."""
    gpt, tokenizer = checkpoint.load_gpt(f"{args.out}/sft")
    reward_model, _, missing_end_score = reward.load_reward_model(f"{args.out}/rm")
    prompts = fact_prompts(args)
    single = single_honesty(args, gpt, tokenizer, prompts)
    score = evaluate.model_scores(reward_model, missing_end_score)
    limits = args.best_of, args.max_new_tokens, args.seed
    best = honesty(prompts, evaluate.best_of_n(gpt, tokenizer, score, prompts, *limits))
    gain, half_width = evaluate.interval(best - single)
    gains = f"best of {args.best_of} gains {gain:+.3f} +- {half_width:.3f}"
    print(f"true facts: {single.mean():.3f} of single samples; {gains}")
    return {"sft_facts": single.mean(), "best_of_n_gain": gain, "passed": gain >= 0.15}


def gate_judge(args):
    """Passes if PPO with the judge's total as its reward states a true fact in at least 0.9 of its
    responses."""
    gpt, tokenizer = checkpoint.load_gpt(f"{args.out}/on-judge/ppo")
    facts = single_honesty(args, gpt, tokenizer, fact_prompts(args))
    print("true facts after PPO on the judge: {:.3f} +- {:.3f}".format(*evaluate.interval(facts)))
    return {"judge_facts": facts.mean(), "passed": facts.mean() >= 0.9}


# ---- the command

GATES = {
    "probe": gate_probe,
    "facts": gate_facts,
    "best-of-n": gate_best_of_n,
    "judge": gate_judge,
}


def measure(argv=None):
    """The numbers of a gate: the first word is its name, the rest are flags. "passed" is one of
    them, except with the probe."""
    name, *words = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(__doc__)
        name, words = "probe", ["--help"]
    if name not in GATES:
        raise config.InputError(f"{name} is not a gate; choose one of {', '.join(GATES)}")
    args = config.parse(Config, words, prog=f"minirlhf gates {name}")
    if command := report.own_data_command(args.out):
        problem = f"the gates ask the embedded world's questions, and {args.out} knows your data"
        raise config.InputError(f"{problem}; compare it: {command}")
    numbers = GATES[name](args)
    if "passed" in numbers:
        print("passed" if numbers["passed"] else "NOT passed")
    return numbers


def main(argv=None):
    sys.exit(0 if measure(argv).get("passed", True) else 1)


if __name__ == "__main__":
    config.run(main)
