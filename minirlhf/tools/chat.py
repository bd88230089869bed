"""Talk to a checkpoint, or to two side by side.

    minirlhf chat --policy out/ppo
    minirlhf chat --policy out/ppo --baseline out/sft
    minirlhf chat --policy out/hh/ppo --template hh
    echo "Name a colour." | minirlhf chat --policy out/ppo

The answers appear token by token; two policies answer under the same noise. Ctrl-C stops an answer,
Ctrl-D and /quit end the conversation.
"""

import contextlib
import math
import os
import shutil
import sys
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minirlhf.formats import turns as dialogue
from minirlhf.model import GPT
from minirlhf.run import chain, checkpoint, compute, config
from minirlhf.run.config import InputError, ModelFlags, flag, rng
from minirlhf.run.metrics import printable, shorten
from minirlhf.tokenizer import Tokenizer
from minirlhf.tools import output, templates
from minirlhf.tools.answer import Answer
from minirlhf.tools.columns import Columns, wrap
from minirlhf.world import sentences, writers
from minirlhf.world.sentences import KINDS

HELP = "/temperature X   /seed N   /new: forget the turns   /help   /quit"
WIDTH = 79  # cells of a line; a terminal of 80 breaks a line of 80 in its own way


@dataclass(frozen=True)
class Config(ModelFlags):
    """Talk to a checkpoint, or to two side by side."""

    policy: str = flag("out/ppo", "checkpoint (folder or file) to talk to")
    baseline: str = flag("", "a second one, whose answers stand beside those of the first")
    template: str = flag(
        "auto",
        "what a policy gets to see: none: the message alone; line: the message and a line feed; "
        "auto: line for a policy of the embedded world, else none; hh (as in HH-RLHF) and the "
        "others: the dialogue so far",
        choices=templates.TEMPLATES,
    )
    temperature: float = flag(1.0, "sampling temperature; 0: the likeliest token", low=0)
    max_new_tokens: int = flag(
        0, "the most tokens an answer may have; 0: as in the policy's training, else 32", low=0
    )


class Speaker(NamedTuple):
    """A policy that answers."""

    path: str
    gpt: GPT
    tokenizer: Tokenizer
    template: str


class Conversation:
    """What a message is answered with: the speakers, each with its turns, and the settings."""

    def __init__(self, speakers, seed, temperature, max_new_tokens):
        self.speakers, self.seed, self.temperature = speakers, seed, temperature
        self.max_new_tokens = max_new_tokens
        self.turn = 0  # messages since the seed was set: each has a noise of its own
        self.notes = []  # what the last message made it forget
        self.forget()

    def forget(self):
        self.turns = [[] for _ in self.speakers]

    def prompts(self, message):
        """What each speaker gets to see. The oldest turns that do not fit any more are forgotten,
        which stands in `notes`. InputError if the message alone does not fit."""
        prompts, self.notes = [], []
        for speaker, turns in zip(self.speakers, self.turns, strict=True):
            room = speaker.gpt.config.context - self.max_new_tokens
            kept = templates.fitting_turns(
                speaker.template, message, turns, speaker.tokenizer, room
            )
            if kept is None:
                limits = f"{room} tokens for it, and {self.max_new_tokens} for the answer"
                problem = f"the message is too long; there are {limits}"
                raise InputError(f"{speaker.path}: {problem}")
            if len(kept) < len(turns):
                oldest = f"the oldest {len(turns) - len(kept)} turns"
                self.notes.append(f"{speaker.path}: forgets {oldest}")
            turns[:] = kept
            prompts.append(templates.apply(speaker.template, message, turns))
        return prompts

    def answers(self, message):
        """An Answer of each speaker, under the same noise."""
        stream = rng(self.seed, config.CHAT_NOISE, self.turn)
        uniforms = stream.random(self.max_new_tokens, dtype=np.float32)
        return [
            Answer(speaker.gpt, speaker.tokenizer, prompt, uniforms, self.temperature)
            for speaker, prompt in zip(self.speakers, self.prompts(message), strict=True)
        ]

    def add(self, message, answers):
        """The conversation goes on after these answers."""
        self.turn += 1
        for turns, answer in zip(self.turns, answers, strict=True):
            turns.append((message, answer.text))


def main(argv=None):
    conversation = start(config.parse(Config, argv))
    with output.quiet_pipe():
        introduce(conversation)
        for message in messages():
            if message == "/quit":
                break
            react(conversation, message)


def start(args):
    """The Conversation of these flags, with its models loaded."""
    device = compute.pick_device(args.device)
    args = compute.resolve(args, device)
    precision = compute.PRECISIONS[args.precision]
    speakers = []
    for path in [args.policy, *filter(None, [args.baseline])]:
        gpt, tokenizer = checkpoint.load_gpt(path, device=device, precision=precision)
        speakers.append(Speaker(path, gpt, tokenizer, templates.pick_template(args.template, path)))
    limit = templates.response_limit(args.max_new_tokens, args.policy)
    context = min(speaker.gpt.config.context for speaker in speakers)
    if limit >= context:
        remedy = "lower --max-new-tokens"
        raise InputError(f"{limit} new tokens leave no room in a context of {context}; {remedy}")
    return Conversation(speakers, args.seed, args.temperature, limit)


def react(conversation, message):
    """Carry out a command, or answer. A mistake is one line, and the conversation goes on."""
    try:
        if message.startswith("/"):
            command(conversation, message)
        elif message:
            converse(conversation, message)
    except InputError as error:
        note(shorten(str(error), 400))


def messages():
    """The lines that a person types, or that come from a file or through a pipe, which are shown
    then."""
    terminal = sys.stdin.isatty()
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (input() then edits lines)
    while True:
        try:
            line = input("> " if terminal else "")
        except EOFError:
            print()
            return
        message = line.strip("\ufeff \t\r\n")
        if not terminal:
            print("> " + printable(message))
        yield message


# ---- commands


def command(conversation, message):
    """/temperature, /seed, /new, /help. InputError for another one."""
    name, _, value = message.partition(" ")
    if name == "/temperature":
        conversation.temperature = number(float, value, "a temperature is a number from 0 on")
    elif name == "/seed":
        conversation.seed = number(int, value, "a seed is a whole number from 0 on")
        conversation.turn = 0
    elif name == "/new":
        conversation.forget()
    elif name != "/help":
        raise InputError(f"{name} is no command; /help lists them")
    if name == "/help":
        print(HELP)
    note(settings(conversation))


def number(kind, text, requirement):
    """The number in a text. InputError if there is none, or if it is below 0 or not finite."""
    try:
        value = kind(text)
        if not 0 <= value < math.inf:
            raise ValueError
    except ValueError as error:
        raise InputError(f"{requirement}, got {text!r}") from error
    return value


def settings(conversation):
    text = f"temperature {conversation.temperature:g}, seed {conversation.seed}"
    text += f", at most {conversation.max_new_tokens} tokens"
    turns = len(conversation.turns[0])
    if turns and conversation.speakers[0].template in dialogue.TEMPLATES:
        text += f", {turns} turns before"
    return text


# ---- what it prints


def note(text):
    """Print what no policy has said: in brackets, in lines of up to 79 cells."""
    print("\n".join(wrap(f"({text})", WIDTH)))


def introduce(conversation):
    """Who answers, with which settings, and what a policy of the embedded world was taught."""
    for speaker in conversation.speakers:
        size = sum(p.numel() for p in speaker.gpt.parameters()) / 1e6
        sizes = f"{size:.1f} million weights, context {speaker.gpt.config.context}"
        note(f"{speaker.path}: {sizes}, template {speaker.template}")
    note(settings(conversation))
    print(HELP)
    if any(chain.trained_on(speaker.path) == chain.WORLD for speaker in conversation.speakers):
        print("\nThe embedded world is all it knows. Of each kind of prompt one:")
        for kind, prompt in examples().items():
            print(f"  {kind.ljust(9)}  {prompt.strip()}")
    print()


def examples():
    """{kind: a prompt} of the embedded world."""
    prompts = writers.prompts(200, rng(1, config.PPO_PROMPTS))
    return {kind: next(p for p in prompts if sentences.kind(p) == kind) for kind in KINDS}


def converse(conversation, message):
    """Print the answers while they are sampled."""
    answers = conversation.answers(message)
    for text in conversation.notes:
        note(text)
    size = shutil.get_terminal_size()
    live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    columns = Columns(len(answers), sys.stdout, live, min(WIDTH, size.columns - 1), size.lines)
    if len(answers) > 1:
        columns.title([speaker.path for speaker in conversation.speakers])
    try:
        while not all(answer.over for answer in answers):
            for answer in answers:
                next(answer, None)
            columns.show([a.text for a in answers], [a.over for a in answers])
    except KeyboardInterrupt:
        columns.show([a.text for a in answers], [True for _ in answers])
    for text in cut_off(conversation, answers):
        note(text)
    print()
    conversation.add(message, answers)


def cut_off(conversation, answers):
    """A line for each answer that did not come to its end."""
    pairs = zip(conversation.speakers, answers, strict=True)
    return [
        f"{speaker.path}: cut off after {answer.tokens} tokens"
        for speaker, answer in pairs
        if not answer.ended
    ]


if __name__ == "__main__":
    config.run(main)
