"""What a person types -> a prompt of the form that a policy has learned.

The templates:

    plain   the message is the prompt
    line    the message and a line feed: the prompts of the embedded world
    hh      "\\n\\nHuman: ...\\n\\nAssistant:", with the turns before it: Anthropic's HH-RLHF
    auto    line for a policy of the embedded world, else plain
"""

from minirlhf.data import encode_prompt
from minirlhf.formats.rows import ASSISTANT, HUMAN
from minirlhf.run import chain

TEMPLATES = ("auto", "plain", "line", "hh")


def pick_template(name, path):
    """`--template`, for the policy of the checkpoint `path`."""
    if name != "auto":
        return name
    return "line" if chain.trained_on(path) == chain.WORLD else "plain"


def apply(template, message, turns=()):
    """A message, after the turns [(message, response)] of a dialogue -> a prompt. Only "hh" shows
    a policy the turns."""
    if template == "hh":
        history = [HUMAN + " " + asked + ASSISTANT + answer for asked, answer in turns]
        return "".join([*history, HUMAN, " ", message, ASSISTANT])
    return message + "\n" if template == "line" and not message.endswith("\n") else message


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
