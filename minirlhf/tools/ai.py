"""A model as the labeller: first whether it sees anything, then its labels beside people's.

minirlhf ai                                 the demonstration's pretrained model: the gate, and
                                            its labels beside the judge's and people's
minirlhf ai --labeller my:prefer            any model: (prompts, first, second) -> how likely
                                            the first is better
minirlhf ai --data my.jsonl --to soft.jsonl --labeller my:prefer
                                            label your own responses, for train_rm.py --data
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minirlhf.feedback import ai, soft
from minirlhf.feedback.agreement import judge_agreement
from minirlhf.formats import jsonl
from minirlhf.run import compute, config, files
from minirlhf.run.config import InputError, ModelFlags, flag, rng
from minirlhf.run.metrics import table
from minirlhf.tools import labeller
from minirlhf.world import measures, writers
from minirlhf.world.judge import judge
from minirlhf.world.sentences import parse_prompt

GATE = 0.6  # the AUC below which a labeller sees too little of a kind
ALL = "all"
RECORDS = 1024  # of the world's comparisons, unless --records says otherwise


@dataclass(frozen=True)
class Config(ModelFlags):
    """Check a model as a labeller on the embedded world, and label responses by it."""

    labeller: str = flag("ai", labeller.HELP)
    labeller_model: str = flag("out/demo/pretrain", "checkpoint of the model that is the labeller")
    comparisons: str = flag(
        "out/demo/rm/comparisons.jsonl", "comparisons that people ranked, to label once more"
    )
    data: str = flag(
        "", "your own comparisons instead, whose ranks do not count; the world has no part in it"
    )
    records: int = flag(0, "how many of them; 0: 1,024 of the world's, all of --data", low=0)
    contrasts: int = flag(1200, "pairs of responses that differ in one thing only", low=12)
    to: str = flag("", "file for the comparisons with the model's labels, as JSON Lines")


def main(argv=None):
    args = config.parse(Config, argv)
    refuse_idle_flags(args)
    device = compute.pick_device(args.device)
    args = compute.resolve(args, device)
    if args.to:
        refuse_lost_file(args)
        files.writable("--to", args.to)
    prefer, _ = labeller.load(args.labeller, args.labeller_model, device)
    if prefer is None:
        raise InputError("--labeller human: people were asked already; name a model")
    records = load_records(args)
    if not args.data:
        show_gate(args, prefer)
    labelled, numbers = labeller.label(prefer, records)
    print("\n" + labeller.described(args.labeller, numbers))
    if not args.data:
        show_labels(args, records, labelled)
    if args.to:
        files.write_text(args.to, jsonl.write_records(labelled))
        print(f"\nthe labels are in {args.to}; next: python train_rm.py --data {args.to}")


def refuse_idle_flags(args):
    """InputError for a flag that this call does not read."""
    idle = {}
    if args.data:
        idle |= {"comparisons": "the comparisons are those of --data"}
        idle |= {"contrasts": "they are the world's, and --data is your own"}
    if args.labeller not in labeller.NAMES:
        idle["labeller_model"] = "names the model of --labeller " + ", ".join(labeller.NAMES)
    config.refuse_idle(args, idle)


def refuse_lost_file(args):
    """InputError if --to is a file whose labels are read: people's would be lost."""
    read = {Path(path).resolve() for path in files.listed(args.data or args.comparisons)}
    if Path(args.to).resolve() in read:
        raise InputError(f"--to {args.to} is the file that is labelled; name another one")


def load_records(args):
    """Comparisons. InputError if there is none, or if the judge cannot know its prompt."""
    if args.data:
        return jsonl.read_comparisons(args.data)[: args.records or None]
    records = jsonl.read_collected(args.comparisons)
    if foreign := [c.prompt for c in records if not of_world(c.prompt)]:
        problem = f"{foreign[0]!r:.60} is no prompt of the embedded world"
        raise InputError(f"--comparisons {args.comparisons}: {problem}; use --data for it")
    return records[: args.records or RECORDS]


def of_world(prompt):
    try:
        return bool(parse_prompt(prompt))
    except ValueError:
        return False


# ---- does it see anything?


def show_gate(args, prefer):
    """For each kind of contrast how often the better response is preferred, and of a language model
    the AUC of its opinion over all responses of the kind."""
    rows = gate(args, prefer)
    print("\n".join(["", *table(["contrast", "pairs", "preferred", "AUC"], rows)]))
    blind = [row[0] for row in rows if isinstance(row[3], float) and row[3] < GATE]
    print(f"below {GATE}, so it sees too little: {', '.join(blind) or 'none'}")


def gate(args, prefer):
    pairs = writers.contrasts(args.contrasts, rng(args.seed, config.CONTRASTS))
    names, prompts, better, worse = map(list, zip(*pairs, strict=True))
    direct, swapped = prefer(prompts, better, worse), prefer(prompts, worse, better)
    right = soft.both_orders(np.asarray(direct, float), np.asarray(swapped, float)) > 0.5
    sides = [None, None]
    if isinstance(prefer, ai.Labeller):
        sides = [
            ai.log_odds(prefer.ask(prompts, x)).mean(1).numpy().astype(float)
            for x in (better, worse)
        ]
    names, rows = np.array(names), []
    for name in dict.fromkeys(names.tolist()):
        of_kind = names == name
        area = auc(*(x[of_kind] for x in sides)) if sides[0] is not None else "-"
        rows.append([name, int(of_kind.sum()), float(right[of_kind].mean()), area])
    return rows


def auc(good, bad):  # (N,), (M,) numpy -> number in [0, 1]
    """How often a good response, of any prompt, has a higher value than a bad one; ties count
    half."""
    difference = good[:, None] - bad[None, :]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


# ---- its labels, beside the judge's and people's


def show_labels(args, records, labelled):
    """By kind of prompt: how often its verdict on two responses with different totals is the
    judge's, how often people's is, and how often the two are of one opinion."""
    rows = label_rows(records, labelled)
    heading = ["kind", "prompts", "model and judge", "people and judge", "model and people"]
    print("\n".join(["", *table(heading, rows)]))


def label_rows(records, labelled):
    kinds = np.array([measures.group(c.prompt) for c in records])
    texts = [c.responses for c in records]
    totals = [[judge(c.prompt, text).total for text in c.responses] for c in records]
    people, model = ([[-rank for rank in c.ranks] for c in side] for side in (records, labelled))
    rows = []
    for kind in (*(g for g in measures.GROUPS if g in kinds), ALL):
        places = [n for n in range(len(records)) if kind in (ALL, kinds[n])]
        columns = ([x[n] for n in places] for x in (texts, totals, people, model))
        words, truth, by_people, by_model = columns
        both = judge_agreement(words, by_model, by_people)
        judged = [judge_agreement(words, side, truth) for side in (by_model, by_people)]
        rows.append([kind, len(places), *judged, both])
    return rows


if __name__ == "__main__":
    config.run(main)
