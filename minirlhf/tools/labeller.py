"""The flag --labeller: who says which of two responses is the better one."""

from functools import partial

from minirlhf.feedback import ai
from minirlhf.rewards import function
from minirlhf.run import checkpoint
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


def described(name, numbers, prefer):
    """What is printed about the labels of `soft.label`."""
    words = f"{numbers['pairs']:,} pairs, {numbers['same_text']:.3f} of them with the same text"
    if "flips" in numbers:
        words += f"; {numbers['flips']:.3f} of the verdicts turn with the order, the first wins "
        words += f"{numbers['first_wins']:.3f}, the mean certainty is {numbers['sure']:.3f}"
    if isinstance(prefer, ai.Labeller):
        words += f"; the mass of its verdicts is {prefer.mass():.3f}"
    return f"labels of {name}: {words}"
