"""People give the feedback: two blind responses to a prompt, one key for the better one.

    minirlhf label                              samples of out/sft on the world's prompts
    minirlhf label --data prompts.jsonl --policy out/mine/sft        samples on your prompts
    minirlhf label --data responses.jsonl       responses of a file: comparisons, or lines such as
                                                {"prompt": ..., "responses": [...]}
    minirlhf label --agreement                  how often the labellers of --out agree

--out is a file of comparisons, so that `train_rm.py --data FILE` learns from it (with --mix-data if
the prompts are the world's). An answer is on the disk before the next question is shown. The same
command goes on where it stopped.
"""

import getpass
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minirlhf import data, evaluate, reward
from minirlhf.data import Comparison
from minirlhf.feedback import design, labellers, person, questions
from minirlhf.feedback.keyboard import keyboard
from minirlhf.formats import jsonl, labels
from minirlhf.formats.labels import Label
from minirlhf.run import chain, checkpoint, compute, config
from minirlhf.run.config import ASKED_PROMPTS, ASKED_RESPONSES, ChainFlags, InputError, flag, rng
from minirlhf.run.metrics import printable, table
from minirlhf.world import writers


@dataclass(frozen=True)
class QuestionFlags(ChainFlags):
    """What is asked, and where the answers go."""

    out: str = flag("out/labels.jsonl", "file that the answers are appended to; made if need be")
    policy: str = flag("", "checkpoint to sample from [out/sft, without --data]")
    data: str = flag(
        "", "with --policy prompts, without it prompts with their responses, as JSON Lines"
    )
    labeller: str = flag("", "your name in the file [the login name, or me]")
    order: str = flag(
        "random",
        "of the questions; optimal: the ones that tell a reward model most come first",
        choices=("random", "optimal"),
    )
    reward_model: str = flag(
        "out/rm", "reward model, or an SFT model, whose states --order optimal goes by"
    )
    prompts: int = flag(500, "prompts of the world, or the most of --data, to sample for", low=1)
    responses: int = flag(
        2, "K, responses that are sampled for a prompt", low=2, high=person.MOST_RESPONSES
    )
    max_new_tokens: int = flag(32, "the most tokens a sampled response may have", low=1)
    temperature: float = flag(1.0, "sampling temperature", above=0)
    limit: int = flag(0, "questions to ask in all, with those answered before; 0: all", low=0)
    rate: bool = flag(False, "ask for a rating of each response as well, from 1 to 5")


@dataclass(frozen=True)
class Config(QuestionFlags):
    """Ask a person which of two responses is better. Keys: 1 2 better, t tie, s skip, z undo, r u h
    flag as rude, untrue, harmful, w write a better answer, q quit, ? help."""

    agreement: bool = flag(
        False, "do not ask; print how often the labellers of --out, a file or a folder, agree"
    )


def main(argv=None):
    args = config.parse(Config, argv)
    if args.agreement:
        show_agreement(read_all(args.out))
        return
    name, complete = ask(args)
    own = [label for label in labels.read_labels(args.out) if label.labeller == name]
    state = "every question is answered" if complete else "the same command goes on"
    print(f"{len(own)} answers of {name} are in {args.out}; {state}")


def ask(args, answer=None):
    """Ask the questions of these flags, a person at the keyboard or the function `answer`. Returns
    the labeller's name, and whether all are answered."""
    name = labeller_name(args)
    check_out(args)
    answered = labels.read_labels(args.out)  # a file that is no labels is refused at once
    asked = load_questions(args, [label for label in answered if label.labeller == name])
    if answer:
        return name, session(args.out, asked, name, args.seed, answer)
    with keyboard() as keys:
        answer = person.Person(keys, args.rate).answer
        return name, session(args.out, asked, name, args.seed, answer)


def session(path, asked, name, seed, answer_to):
    """Ask the questions that a labeller has not answered in the file yet, and append each answer.
    `answer_to(question, heading)` is an Answer, UNDO or QUIT. Returns whether all are answered."""
    note = ""
    while step := next_question(path, asked, name, seed):
        question, place = step
        answer, note = answer_to(question, place + note), ""
        if answer == person.QUIT:
            return False
        if answer == person.UNDO:
            note = "" if labels.remove_last(path, name) else "   nothing to take back"
        else:
            labels.add(path, label_of(question, answer, name))
    return True


def next_question(path, asked, name, seed):
    """The first question that a labeller has not answered in the file yet, as it is shown, and the
    line above it; None if all are answered."""
    answered = labels.read_labels(path)
    left = questions.unanswered(asked, answered, name)
    if left:
        question = questions.blind(left[0], name, seed)
        return question, heading(path, name, asked, left, answered)


def heading(path, name, asked, left, answered):
    """Where a labeller is: the number of the question, and what the file holds."""
    own = [label for label in answered if label.labeller == name]
    skipped = sum(label.decision == "skip" for label in own)
    place = f"question {len(asked) - len(left) + 1} of {len(asked)}"
    return f"{place}   {name}: {len(own)} answered, {skipped} of them skipped   {Path(path).name}"


def label_of(question, answer, name):
    """Question and Answer -> Label. A written answer is better than all that were shown. Of several
    responses the chosen one is better than each other, which tie."""
    responses = [*question.responses, *filter(None, [answer.written])]
    ranks = [0 if i == answer.choice or answer.choice is None else 1 for i in range(len(responses))]
    if answer.written:
        ranks = [*(rank + 1 for rank in ranks[:-1]), 0]
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    flags = [list(words) for words in answer.flags] if any(answer.flags) else None
    parts = question.prompt, responses, ranks, answer.kind, name, moment, flags
    return Label(*parts, list(answer.ratings) or None, bool(answer.written))


def labeller_name(args):
    """The name that stands in the file."""
    name = args.labeller.strip()
    if not name:
        try:
            name = getpass.getuser()
        except (ImportError, KeyError, OSError):  # a process without a user
            name = "me"
    if printable(name) != name:
        raise InputError(f"--labeller {printable(name)}: use visible characters")
    return name


def check_out(args):
    """InputError if the answers would go into the file that is asked about, or be compressed."""
    if args.data and os.path.realpath(args.data) == os.path.realpath(args.out):
        raise InputError(f"--out {args.out} is the file that --data reads; choose another --out")
    if args.out.endswith(".gz") or os.path.isdir(args.out):
        raise InputError(f"--out {args.out}: answers go to a plain file, such as labels.jsonl")


# ---- what is asked


def load_questions(args, answered):
    """The questions in the order in which they are asked. `answered` are the labeller's Labels."""
    comparisons = sampled(args) if args.policy or not args.data else read_responses(args)
    asked = questions.in_random_order(questions.questions(comparisons), args.seed)
    same = len(comparisons) - len(asked)
    if same:
        print(f"{same} of {len(comparisons)} are not asked about: identical texts, or asked twice")
    if not asked:
        raise InputError("there is no pair of different responses to ask about")
    if args.order == "optimal":
        asked = in_optimal_order(args, asked, answered)
    return asked[: args.limit or None]


def in_optimal_order(args, asked, answered):
    model, tokenizer = load_states(args)
    fits = data.fits_context(tokenizer, model.gpt.config.context, drop_long=args.drop_long)
    asked = [q for q in asked if fits(Comparison(q.prompt, list(q.responses), []))]
    done = [questions.Question(label.prompt, tuple(label.shown)) for label in answered]
    return design.in_optimal_order(
        asked, done, lambda asked: design.last_states(model, tokenizer, asked)
    )


def load_states(args):
    """(RewardModel, Tokenizer) of --reward-model. Of a policy it is the one that its training would
    start from: what an untrained head makes of the states does not matter here."""
    device, precision = settings(args)
    path = args.reward_model
    if checkpoint.load(path, ("rm", *checkpoint.POLICIES))["stage"] == "rm":
        return reward.load_reward_model(path, device, precision)[:2]
    gpt, tokenizer = checkpoint.load_gpt(path, device=device, precision=precision)
    return reward.RewardModel(gpt).to(device), tokenizer


def settings(args):
    """(device, precision) of the models."""
    device = compute.pick_device(args.device)
    return device, compute.PRECISIONS[compute.resolve(args, device).precision]


def read_responses(args):
    """Comparisons of a file: prompts with their responses, whose ranks are not looked at."""
    records = labels.read_responses(args.data)
    try:
        records = records or jsonl.read_comparisons(args.data, **jsonl.flags(args))
    except InputError as error:
        remedy = 'a row with "prompt" and "responses" will do, too'
        raise InputError(
            f"{error}; {remedy}; to sample responses to prompts, give --policy"
        ) from error
    most = max(len(record.responses) for record in records)
    if most > person.MOST_RESPONSES:
        problem = f"{args.data}: {most} responses to a prompt, but there are"
        raise InputError(f"{problem} {person.MOST_RESPONSES} keys for them; leave some out")
    return records


def sampled(args):
    """Comparisons of K responses that the policy gives to a prompt. One that did not come to its
    end is left out."""
    device, precision = settings(args)
    path = args.policy or "out/sft"
    gpt, tokenizer = checkpoint.load_gpt(path, device=device, precision=precision)
    chain.refuse_mixed(args, path)
    room = tokenizer, gpt.config.context, args.max_new_tokens, args.drop_long
    if args.data:
        fits = data.fits_context(*room)
        prompts = jsonl.read_prompts(args.data, fits, **jsonl.flags(args))[: args.prompts]
    else:
        prompts = writers.prompts(args.prompts, rng(args.seed, ASKED_PROMPTS))
        prompts = data.fitting_prompts(prompts, *room)
    return sample(args, gpt, tokenizer, prompts)


def sample(args, gpt, tokenizer, prompts):
    """Comparisons of args.responses replies to each prompt, in which all tie."""
    K = args.responses
    repeated = [prompt for prompt in prompts for _ in range(K)]
    shape = len(repeated), args.max_new_tokens
    uniforms = rng(args.seed, ASKED_RESPONSES).random(shape, dtype=np.float32)
    caption = "responses to ask about"
    replies = evaluate.respond(gpt, tokenizer, repeated, uniforms, args.temperature, caption)
    cut = sum(not reply.ended for reply in replies)
    if cut:
        remedy = "--max-new-tokens is the limit"
        print(f"{cut} of {len(replies)} responses did not end and are left out; {remedy}")
    groups = [replies[i : i + K] for i in range(0, len(replies), K)]
    texts = [[reply.text for reply in group if reply.ended] for group in groups]
    return [Comparison(p, t, [0] * len(t)) for p, t in zip(prompts, texts, strict=True)]


# ---- agreement


def read_all(path):
    """The Labels of a file, or of all .jsonl files of a folder."""
    paths = sorted(Path(path).glob("*.jsonl")) if os.path.isdir(path) else [path]
    records = [record for file in paths for record in labels.read_labels(file)]
    if not records:
        raise InputError(f"{path} holds no answers; minirlhf label --out {path} asks for them")
    return records


def show_agreement(records):
    header = ["labeller", "answers", "ties", "skipped", "chose the first", "flags"]
    print("\n".join(["", *table(header, labellers.labeller_rows(records)), ""]))
    agreement = labellers.agreement_rows(records)
    if not agreement:
        print("no two labellers answered the same question")
        return
    header = ["labellers", "", "both", "agree", "+-", "chance", "kappa", "no tie", "agree"]
    print("\n".join(table(header, agreement)))


if __name__ == "__main__":
    config.run(main)
