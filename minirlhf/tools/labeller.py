"""The flag --labeller: who says which of two responses is the better one; and where train_rm.py's
comparisons come from."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from minirlhf.feedback import ai, soft
from minirlhf.formats import jsonl
from minirlhf.model import GPT
from minirlhf.rewards import function
from minirlhf.run import checkpoint, compute, config
from minirlhf.run.config import InputError

HUMAN = "human"
NAMES = tuple(ai.OPINIONS)  # labellers that are language models
HELP = (
    "human: the world's people; ai, constitution or quiz: a language model by its careful writer, "
    "by the mean over five wordings of it, by three wordings of a quiz; or module:function, "
    "(prompts, first, second) -> how likely first is better"
)


def load(name, path, device="cpu"):
    """(the labeller as a function (prompts, first, second) -> (N,), its model), (None, None) for
    people. `path` is the checkpoint of the language model. InputError if there is none such."""
    if name == HUMAN:
        return None, None
    if name in NAMES:
        gpt, tokenizer = checkpoint.load_gpt(path, device=device)
        return ai.Labeller(gpt.requires_grad_(False), tokenizer, name), gpt
    if ":" not in name:
        names = ", ".join((HUMAN, *NAMES))
        raise InputError(f"--labeller {name} is none of {names} and no module:function")
    return partial(asked, name, function.load_function("--labeller", name)), None


def asked(name, prefer, prompts, first, second):
    """What a user's labeller says: probabilities. InputError if it says anything else."""
    return function.numbers("--labeller", name, prefer, prompts, first, second, limit=1)


def label(prefer, comparisons):
    """`soft.label`, and among its numbers the mass of a language model's verdicts."""
    labelled, numbers = soft.label(prefer, comparisons)
    if isinstance(prefer, ai.Labeller) and prefer.opinions:
        numbers["mass"] = prefer.mass()
    return labelled, numbers


def described(name, numbers):
    """What is printed about the labels of `label`."""
    words = f"{numbers['pairs']:,} pairs, {numbers['same_text']:.3f} of them with the same text"
    if "flips" in numbers:
        words += f"; {numbers['flips']:.3f} of the verdicts turn with the order, the first wins "
        words += f"{numbers['first_wins']:.3f}, the mean certainty is {numbers['sure']:.3f}"
    if "mass" in numbers:
        words += f"; the mass of its verdicts is {numbers['mass']:.3f}"
    return f"labels of {name}: {words}"


# ---- train_rm.py: comparisons that are yet to be made


@dataclass(frozen=True)
class Source:
    """Where comparisons come from that are yet to be made."""

    policy: GPT  # that is sampled from
    earlier: list  # Comparisons of earlier rounds
    prefer: Callable | None  # the labeller, (prompts, first, second) -> (N,); None: people
    inputs: dict  # what the run has to have in common with its past


def load_source(args, sft, tokenizer, model_path, policy_path, more):
    """Source: the labeller --labeller with the model in `model_path`, the policy in `policy_path`
    (by default the SFT model), and the file of earlier comparisons `more`."""
    prefer, model = load(args.labeller, model_path, sft.device)
    policy, earlier = sft, jsonl.read_collected(more) if more else []
    inputs = {"labeller": model or function.source(args.labeller), "more": earlier}
    if policy_path:
        precision = compute.PRECISIONS[args.precision]
        policy, other = checkpoint.load_gpt(policy_path, device=sft.device, precision=precision)
        checkpoint.same_vocabulary("the SFT model", tokenizer, policy_path, other)
        inputs["policy"] = policy
    return Source(policy, earlier, prefer, inputs)


def refuse_idle_flags(args):
    """InputError for a flag of a command that it does not read beside the others."""
    if getattr(args, "data", ""):
        names = ("labeller", "policy", "more", "labeller_model", "human_share", "prompts")
        config.refuse_idle(args, dict.fromkeys(names, "the comparisons are those of --data"))
        return
    idle = {}
    if args.labeller not in NAMES:
        idle["labeller_model"] = "names the model of --labeller " + ", ".join(NAMES)
    if args.labeller == HUMAN:
        idle["human_share"] = "is beside a --labeller that is a model"
    if not getattr(args, "more", ""):
        idle["policy"] = "needs --more: the scores are normalised on the SFT model's responses, "
        idle["policy"] += "which are the first of it"
    config.refuse_idle(args, idle)
