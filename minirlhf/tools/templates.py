"""What a person types -> a prompt of the form that a policy has learned.

The templates:

    none    the message is the prompt
    line    the message and a line feed: the prompts of the embedded world
    auto    line for a policy of the embedded world, else none
    hh, ... those of formats/turns.py, which show a policy the turns before, too
"""

from minirlhf.data import encode_prompt
from minirlhf.formats import turns as dialogue
from minirlhf.formats.turns import REPLY, USER, Turn
from minirlhf.run import chain

TEMPLATES = ("auto", "none", "line", *dialogue.TEMPLATES)


def pick_template(name, path):
    """`--template`, for the policy of the checkpoint `path`."""
    if name != "auto":
        return name
    return "line" if chain.trained_on(path) == chain.WORLD else "none"


def apply(template, message, turns=()):
    """A message, after the turns [(message, response)] of a dialogue -> a prompt."""
    if template not in dialogue.TEMPLATES:
        return message + "\n" if template == "line" and not message.endswith("\n") else message
    form = dialogue.TEMPLATES[template]
    begin = form.reply.partition("{}")[0]  # a response that was sampled has it already
    history = [
        turn
        for question, answer in turns
        for turn in (Turn(USER, question), Turn(REPLY, answer.removeprefix(begin)))
    ]
    return dialogue.prompt_text([*history, Turn(USER, message)], form)


def fitting_turns(template, message, turns, tokenizer, room):
    """The latest turns with which the prompt has at most `room` tokens: the oldest ones are left
    out first, each as a whole. None if the message alone is too long."""
    for start in range(len(turns) + 1):
        prompt = apply(template, message, turns[start:])
        if len(encode_prompt(tokenizer, prompt)) <= room:
            return turns[start:]


def response_limit(tokens, path):
    """`--max-new-tokens`; 0 is what the policy of the checkpoint `path` was trained with, or 32."""
    stored = chain.stored_flags(path).get("max_new_tokens")
    return tokens or (stored if type(stored) is int and stored > 0 else 32)
