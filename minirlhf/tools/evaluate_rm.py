"""How well a reward model, or the implicit reward of DPO, predicts what people preferred.

    minirlhf evaluate-rm --reward-model out/rm --data comparisons.jsonl
    minirlhf evaluate-rm --policy out/dpo --data comparisons.jsonl --to results.json

Of a file that the model was trained on, what its run held out is measured. The implicit reward is
beta x (log policy - log reference), summed over the response (Rafailov et al. 2023); of SimPO and
ORPO it is that of their losses, which have no reference (minirlhf/dpo.py).
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from minirlhf import data, reward
from minirlhf.dpo import Method
from minirlhf.feedback import agreement, baselines, breakdown
from minirlhf.formats import jsonl
from minirlhf.run import chain, checkpoint, compute, config, files
from minirlhf.run.config import ComputeFlags, InputError, flag
from minirlhf.run.folder import COMPARISONS
from minirlhf.run.metrics import table
from minirlhf.tools import output
from minirlhf.tools.dpo import READS, implicit_rewards

CHUNK = 128  # comparisons that are scored between two moves of the progress bar
RM = "out/rm"


@dataclass(frozen=True)
class Config(ComputeFlags):
    """Hold a reward model against comparisons of people."""

    reward_model: str = flag(RM, "checkpoint of the reward model")
    policy: str = flag("", "a policy of DPO, whose implicit reward is measured instead")
    reference: str = flag("", "its reference [the sft folder beside it, or its --sft]")
    beta: float = flag(math.nan, "its beta, or tau of IPO [that of its training]")
    data: str = flag("", "comparisons (see docs/data.md); - is the standard input")
    to: str = flag("", "JSON file for the results")


class Scorer(NamedTuple):
    """What is measured: `score(comparisons)` -> one list of raw scores per comparison."""

    name: str
    paths: tuple  # of its checkpoints
    score: object
    tokenizer: object
    context: int
    settings: dict


def main(argv=None):
    args = config.parse(Config, argv)
    if not args.data:
        raise InputError("give the comparisons: --data FILE, or --data - for the standard input")
    device = compute.pick_device(args.device)
    args = compute.resolve(args, device)
    scorer = load_scorer(args, device, compute.PRECISIONS[args.precision])
    if args.to:
        files.writable("--to", args.to, '{\n  "model": ')
    with output.shown_last():
        learned, measured, source = load_comparisons(args, scorer)
        scores = []
        for start in tqdm(range(0, len(measured), CHUNK), desc="scoring"):
            scores += scorer.score(measured[start : start + CHUNK])
        results = {"model": scorer.name, **scorer.settings, "data": args.data, "measured": source}
        results |= measure(learned, measured, scores, args.seed)
        show(results)
        if args.to:
            files.write_text(args.to, json.dumps(results, indent=2) + "\n")
            print(f"\nthe results are in {args.to}")


# ---- what is measured


def load_scorer(args, device, precision):
    """The Scorer that the flags ask for."""
    if args.policy:
        return implicit_scorer(args, device, precision)
    if args.reference or not math.isnan(args.beta):
        raise InputError("--reference and --beta belong to the implicit reward of a --policy")
    model, tokenizer, _ = reward.load_reward_model(args.reward_model, device, precision)

    def score(comparisons):
        return reward.score_comparisons(model, tokenizer, comparisons)

    context = model.gpt.config.context
    name = f"the reward model {args.reward_model}"
    return Scorer(name, (args.reward_model,), score, tokenizer, context, {})


def implicit_scorer(args, device, precision):
    """The Scorer of the implicit reward of --policy."""
    if args.reward_model != RM:
        raise InputError("--reward-model and --policy: give one of them")
    checkpoint.load(args.policy, checkpoint.POLICIES)  # InputError if there is none
    flags = chain.stored_flags(args.policy)
    loss = flags.get("loss", "dpo")
    strength = READS.get(loss, ("beta",))[0]
    beta = flags.get(strength, math.nan) if math.isnan(args.beta) else args.beta
    if not (isinstance(beta, float | int) and beta > 0):
        problem = f"the beta of {args.policy} is not known"
        raise InputError(f"{problem}; give a --beta above 0, that of its training")
    beside = chain.folder_of(args.policy).parent / "sft"
    reference_path = args.reference or flags.get("sft") or str(beside)
    policy, tokenizer = checkpoint.load_gpt(args.policy, device=device, precision=precision)
    reference, other = checkpoint.load_gpt(reference_path, device=device, precision=precision)
    checkpoint.same_vocabulary(args.policy, tokenizer, reference_path, other)

    def score(comparisons):
        return implicit_rewards(policy, reference, tokenizer, comparisons, Method(loss, beta))

    context = min(policy.config.context, reference.config.context)
    name = f"the implicit reward of {args.policy} against {reference_path}"
    settings = {"reference": reference_path, "beta": beta}
    return Scorer(name, (args.policy,), score, tokenizer, context, settings)


def load_comparisons(args, scorer):
    """(comparisons to learn a bag of words from, comparisons to measure, what these are). Without
    the first, all of the file is measured."""
    fits = data.fits_context(scorer.tokenizer, scorer.context, drop_long=args.drop_long)
    records = jsonl.read_comparisons(args.data, fits, **jsonl.flags(args))
    for model in scorer.paths:
        if chain.learned_from(model, args.data):
            seed = chain.stored_flags(model)["seed"]
            learned, held_out = data.hold_out(records, len(records), seed)
            if held_out:
                return learned, held_out, "what its training has held out of the file"
        if collected_by(model, args.data):
            return [], records, "the comparisons that it was trained on: too good a result"
    return [], records, "the whole file"


def collected_by(path, file):
    """Whether a checkpoint was trained on this file of comparisons, which `train_rm.py` collected
    in the embedded world."""
    folder = chain.folder_of(path)
    collected = (folder / COMPARISONS, folder.parent / "rm" / COMPARISONS)
    return Path(file).resolve() in [path.resolve() for path in collected]


def measure(learned, measured, scores, seed):
    """The results as a dictionary. InputError without a pair."""
    margins, prompts = breakdown.margins_of(measured, scores)
    pairs = baselines.pairs_of(measured)
    if not pairs:
        raise InputError("there is no pair of different responses with different ranks")
    numbers = agreement.ranking_numbers(measured, scores)
    if learned:
        words = baselines.BagOfWords(baselines.pairs_of(learned))
        bag_of_words = baselines.share_above_zero(words.margins(pairs))
    else:
        bag_of_words = breakdown.cross_fitted_bag_of_words(measured, seed)
    return {
        "pairs": len(pairs),
        "prompts": len(set(prompts)),
        "accuracy": float(numbers["held_out_accuracy"]),
        "standard_error": baselines.standard_error(margins > 0, prompts),
        "ties": float(numbers["ties"]),
        "loss": float(numbers["held_out_loss"]),
        "calibration_error": numbers["calibration_error"],
        "shorter_wins": baselines.share_above_zero([len(w) - len(b) for b, w in pairs]),
        "bag_of_words": bag_of_words,
        "calibration": breakdown.calibration(margins, prompts),
        "lengths": breakdown.by_length(pairs, margins, prompts),
    }


# ---- what it prints


def show(results):
    """The numbers, and a table each of calibration and lengths."""
    print(f"\n{results['model']}, on {results['measured']} ({results['data']}):")
    accuracy, error = results["accuracy"], results["standard_error"]
    pairs = f"{results['pairs']:,} pairs ({results['prompts']:,} prompts)"
    print(f"right on {accuracy:.3f} of {pairs}, standard error {error:.3f}")
    words = results["bag_of_words"]
    words = "too few prompts" if words is None else f"{words:.3f}"
    shorter = results["shorter_wins"]
    print(f'baselines: "the shorter one wins" {shorter:.3f}, a bag of words {words}')
    print(f"loss {results['loss']:.3f} ({math.log(2):.3f} is chance), ties {results['ties']:.3f}\n")
    rows = [
        [f"{row['from']:.0%} to {row['to']:.0%}", str(row["pairs"]), row["predicted"]]
        + [row["observed"], row["standard_error"]]
        for row in results["calibration"]
    ]
    header = ["it is sure by", "pairs", "predicted", "observed", "standard error"]
    print("\n".join(table(header, rows)))
    print(f"expected calibration error {results['calibration_error']:.3f}\n")
    header = ["responses", "pairs", "accuracy", "standard error", "shorter wins"]
    keys = ("group", "pairs", "accuracy", "standard_error", "shorter_wins")
    print("\n".join(table(header, [[row[key] for key in keys] for row in results["lengths"]])))


if __name__ == "__main__":
    config.run(main)
