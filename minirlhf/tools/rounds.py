"""Iterated RLHF: sample from the policy, have the samples labelled, train a reward model on the
comparisons of all rounds, PPO; several times over.

    minirlhf rounds --rounds 4 --prompts 1024        four rounds of 1,024 prompts each
    minirlhf rounds --rounds 1 --prompts 4096        as many labels at once, to compare with
    minirlhf rounds --labeller self                  the policy labels its own responses
    minirlhf rounds --moving-reference               the KL is from the policy of the round before

The same command goes on where it stopped, between rounds and inside them; a larger --rounds adds
some. rounds.json says what all of them go on from. Bai et al. 2022 (arXiv:2204.05862), Llama 2
(2307.09288), Dong et al. 2024 (2405.07863).
"""

import dataclasses
import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minirlhf import evaluate, reward
from minirlhf.feedback.agreement import judge_agreement
from minirlhf.formats import jsonl
from minirlhf.rewards import function
from minirlhf.run import chain, checkpoint, compute, config, resume
from minirlhf.run.config import InputError, ModelFlags, flag, rng
from minirlhf.run.files import write_json, write_text
from minirlhf.run.folder import COMPARISONS
from minirlhf.run.lock import lock
from minirlhf.run.metrics import table
from minirlhf.tools import labeller, parts
from minirlhf.tools.script import script
from minirlhf.tools.taste import require_sft
from minirlhf.world import measures, writers
from minirlhf.world.judge import judge

SELF = "self"  # the labeller that is the policy of the round before
RECORD = "rounds.json"
SAMPLES = 4  # responses to a held-out prompt that the reward model is asked about
COLUMNS = ("round", "comparisons", "total", "kl", "score", "own_agreement", "sft_agreement")
COLUMNS += ("label_agreement", "same_text", "distinct")


@dataclass(frozen=True)
class Config(ModelFlags):
    """Rounds of sampling, labelling, reward model and PPO on the embedded world. Each policy starts
    as the SFT model and stays near it; each reward model learns from the comparisons of all rounds
    so far."""

    out: str = flag("out/rounds", "folder of all rounds: OUT/round-1, OUT/round-2, ...")
    sft: str = flag("out/demo/sft", "SFT model: what round 1 samples from, start and reference")
    rounds: int = flag(4, "how many rounds", low=1)
    prompts: int = flag(1024, "new prompts in each round, whose responses are labelled", low=1)
    labeller: str = flag(
        labeller.HUMAN, f"{labeller.HELP}; self: ai, with the policy that was sampled from"
    )
    labeller_model: str = flag(
        "", "checkpoint of the model that is the labeller [pretrain beside --sft]"
    )
    human_share: float = flag(
        0.0, "share of the prompts whose responses people rank beside a model", low=0, high=1
    )
    kl_coef: float = flag(0.1, "penalty, in reward, per nat of KL from the reference", low=0)
    updates: int = flag(96, "updates of PPO in each round", low=1)
    moving_reference: bool = flag(
        False, "start from the policy of the round before, and measure the penalty's KL from it"
    )
    max_new_tokens: int = flag(32, "the most tokens a response may have", low=1)
    rm: str = flag("", 'other flags of train_rm.py, in quotes: "--epochs 2 --lr 1e-3"')
    ppo: str = flag("", 'other flags of train_ppo.py, in quotes: "--batch-size 128"')
    held_out: int = flag(512, "held-out prompts that every round is measured on", low=2)


CHANGEABLE = ("out", "rounds", "device", "threads")  # where the same command goes on
SHARED = ("--out", "--sft", "--seed", "--device", "--precision", "--threads", "--max-new-tokens")
SHARED += ("--resume", "--overwrite")
CHAINED = ("--rm", "--reward", "--data")  # PPO follows the reward model of its round
GIVEN = {  # flags of the stages that a round gives
    "--rm": (*SHARED, "--data", "--prompts", "--policy", "--more", "--labeller")
    + ("--labeller-model", "--human-share"),
    "--ppo": (*SHARED, "--updates", "--kl-coef", *CHAINED),
}


def main(argv=None):
    args = config.parse(Config, argv)
    require_sft(args.sft)
    chain.refuse_own_data(args.sft)
    args = compute.resolve(args, compute.pick_device(args.device))
    labeller.refuse_idle_flags(args)
    check_flags(args)
    inputs = load_inputs(args)
    load_rows(args, inputs)  # before a file is made
    with lock(args.out):
        rows = load_rows(args, inputs)
        write_rows(args, inputs, rows)
        for n in range(len(rows), args.rounds):
            print(f"\n--- round {n + 1} of {args.rounds}", flush=True)
            part(script("train_rm").main, folder(args, n) / "rm", rm_flags(args, n))
            part(script("train_ppo").main, folder(args, n) / "ppo", ppo_flags(args, n))
            rows.append(measure(args, n))
            write_text(Path(args.out) / COMPARISONS, numbered_comparisons(args, n))
            write_rows(args, inputs, rows)
    show(args, rows)


def folder(args, n):
    """Of round n = 0, 1, ..."""
    return Path(args.out) / f"round-{n + 1}"


def part(main, run, words):
    """A stage of a round; one that was interrupted goes on."""
    main([*words, "--resume"] if (run / "config.json").exists() else words)


# ---- the flags of the stages


def shared(args, n):
    """The flags of both stages. The seed has the number of the round in it."""
    flags = parts.shared(args) | {"seed": config.round_seed(args.seed, n)}
    return flags | {"out": folder(args, n), "max_new_tokens": args.max_new_tokens}


def rm_flags(args, n):
    """train_rm.py: from the SFT model, on the comparisons of all rounds. The scores are normalised
    on the first of them, which the SFT model has sampled."""
    flags = shared(args, n) | {"sft": args.sft, "prompts": args.prompts}
    if n:
        flags |= {
            "policy": policy_before(args, n),
            "more": folder(args, n - 1) / "rm" / COMPARISONS,
        }
    if args.labeller != labeller.HUMAN:
        flags |= {"labeller": args.labeller, "human_share": args.human_share}
    if args.labeller == SELF:
        flags |= {"labeller": "ai", "labeller_model": policy_before(args, n)}
    elif args.labeller in labeller.NAMES:
        flags["labeller_model"] = args.labeller_model or Path(args.sft).with_name("pretrain")
    return parts.words(flags) + split("--rm", args.rm)


def ppo_flags(args, n):
    """train_ppo.py: from the SFT model, with the KL from it; or from the policy before, with the KL
    from that."""
    reference = policy_before(args, n) if args.moving_reference else args.sft
    flags = shared(args, n) | {"sft": reference, "updates": args.updates, "kl_coef": args.kl_coef}
    return parts.words(flags) + split("--ppo", args.ppo)


def split(option, text):
    """The words of --rm or --ppo. InputError for a flag of a stage that its round gives."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"{option} {text}: {error}; close the quotes in it") from error
    for name in (word.partition("=")[0] for word in words):
        if name in GIVEN[option]:
            problem = f"{option}: a round gives {name} to its stages itself"
            remedy = "give it outside the quotes, or leave it out"
            raise InputError(f"{problem}; {'leave it out' if name in CHAINED else remedy}")
    return words


def check_flags(args):
    """Refuses flags of the stages that they would refuse, before the first of them begins."""
    rm, ppo = script("train_rm"), script("train_ppo")
    config.parse(rm.Config, rm_flags(args, 0))
    ppo.check_flags(config.parse(ppo.Config, ppo_flags(args, 0)))


def policy_before(args, n):
    """The policy that round n samples from."""
    return folder(args, n - 1) / "ppo" if n else args.sft


# ---- what is kept


def load_inputs(args):
    """The fingerprints of what every round goes on from: the SFT model, and the labeller."""
    name = labeller.HUMAN if args.labeller == SELF else args.labeller
    _, model = labeller.load(name, args.labeller_model or Path(args.sft).with_name("pretrain"))
    asked = model or function.source(name)
    return resume.fingerprints(sft=checkpoint.load_gpt(args.sft)[0], labeller=asked)


def load_rows(args, inputs):
    """The measures of the rounds that are finished. InputError if these or one that was begun had
    other flags, another SFT model or labeller, or if OUT holds something else."""
    path, out = Path(args.out) / RECORD, Path(args.out)
    if not path.exists():
        for file in (folder(args, 0), out / COMPARISONS):
            if file.exists():
                raise InputError(f"{file} is of no rounds of {path}; choose another --out")
        return []
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        flags, rows = dict(record["flags"]), list(record["rounds"])
        [[float(row[name]) for name in COLUMNS] for row in rows]
        before = {"inputs": dict(record.get("inputs", {}))}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged; choose another --out") from error
    if rows or any(out.glob("round-*/*/config.json")):  # else nothing was made with these
        now = dataclasses.asdict(args)
        parts.require_same(path, flags, now | {name: flags.get(name) for name in CHANGEABLE})
        resume.refuse_changed_inputs(inputs, before, path)
    return rows


def write_rows(args, inputs, rows):
    content = {"flags": dataclasses.asdict(args), "inputs": inputs, "rounds": rows}
    write_json(Path(args.out) / RECORD, content)


def numbered_comparisons(args, n):
    """The comparisons of all rounds so far, each with the number of its round, as JSON Lines."""
    records = jsonl.read_collected(folder(args, n) / "rm" / COMPARISONS)
    places = [0]
    for k in range(n + 1):
        places.append(len(jsonl.read_collected(folder(args, k) / "rm" / COMPARISONS)))
    lines = []
    for k, (start, stop) in enumerate(zip(places, places[1:], strict=False)):
        for record in records[start:stop]:
            row = json.loads(jsonl.write_record(record)) | {"round": k + 1}
            lines.append(json.dumps(row) + "\n")
    return "".join(lines)


# ---- what is measured


def measure(args, n):
    """The numbers of a round on held-out prompts, the same in every round: the judge's axes, KL
    from the SFT model, score; how often the reward model and the judge order two responses alike,
    of the policy itself and of the SFT model; and the same of the round's labels."""
    device = compute.pick_device(args.device)
    precision, here = compute.PRECISIONS[args.precision], folder(args, n)
    policy, tokenizer = checkpoint.load_gpt(here / "ppo", device=device, precision=precision)
    sft, _ = checkpoint.load_gpt(args.sft, device=device, precision=precision)
    model, _, missing_end_score = reward.load_reward_model(here / "rm", device, precision)
    score = evaluate.model_scores(model, missing_end_score)
    prompts = writers.prompts(args.held_out, rng(args.seed, config.HELD_OUT_PROMPTS), "validation")
    repeated = [prompt for prompt in prompts for _ in range(SAMPLES)]
    uniforms = evaluate.noise(args.seed, len(repeated), args.max_new_tokens)
    row = {"round": n + 1} | label_numbers(args, n)
    for name, gpt in (("own", policy), ("sft", sft)):
        replies = evaluate.respond(gpt, tokenizer, repeated, uniforms, progress=f"{name} samples")
        results, scores = measures.judgements(repeated, replies), score(repeated, replies)
        texts, totals = evaluate.finished(replies), [x.total for x in results]
        row[f"{name}_agreement"] = judge_agreement(*groups(texts, scores.tolist(), totals))
        if name == "own":
            row |= measures.axes(results) | measures.diversity(replies)
            row["kl"] = float(evaluate.kl(gpt, sft, replies).mean())
            row["score"] = float(scores.mean())
    return row


def groups(*columns):
    """Each column in lists of SAMPLES."""
    return [[x[i : i + SAMPLES] for i in range(0, len(x), SAMPLES)] for x in columns]


def label_numbers(args, n):
    """Of the comparisons that a round has collected: how many there are by now; the share of pairs
    with the same text, and of those with different texts the share of equal totals; how often a
    label and the judge order a pair alike."""
    records = jsonl.read_collected(folder(args, n) / "rm" / COMPARISONS)
    before = jsonl.read_collected(folder(args, n - 1) / "rm" / COMPARISONS) if n else []
    new = records[len(before) :]
    totals = [[judge(c.prompt, text).total for text in c.responses] for c in new]
    likings = [[-rank for rank in c.ranks] for c in new]
    texts = [c.responses for c in new]
    pairs = sum(len(x) * (len(x) - 1) // 2 for x in texts)
    different = sum(x[i] != x[j] for x in texts for i in range(len(x)) for j in range(i))
    return {
        "comparisons": len(records),
        "same_text": 1 - different / pairs,
        "label_agreement": judge_agreement(texts, likings, totals),
    }


def show(args, rows):
    """A table with a row for each round."""
    cells = [[row[name] for name in COLUMNS] for row in rows[: args.rounds]]
    heading = [name.replace("_", " ") for name in COLUMNS]
    print("\n".join(["", *table(heading, cells)]))
    best = int(np.argmax([row["total"] for row in rows[: args.rounds]]))
    print(f"\nthe judge likes round {best + 1} best; all is in {args.out}, the numbers in {RECORD}")


if __name__ == "__main__":
    config.run(main)
