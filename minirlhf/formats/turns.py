"""Turns of a dialogue -> text, by a template; and a prompt without its oldest turns.

A prompt is all turns up to the last reply, and the mark after which that reply begins. Only the
last reply is trained.
"""

import dataclasses
import re
from typing import NamedTuple

from minirlhf.data import Comparison, Demonstration, Labelled, Prompt
from minirlhf.formats.fields import Unusable, missing, structure
from minirlhf.run.config import InputError

SYSTEM, USER, REPLY = "system", "user", "assistant"  # the roles
ROLES = {  # as they are called in files
    SYSTEM: ("system", "developer", "context"),
    USER: ("user", "human", "prompter", "person", "instruction", "customer", "question", "input"),
    REPLY: ("assistant", "gpt", "model", "bot", "chatgpt", "bard", "bing", "ai", "chatbot")
    + ("answer", "output", "response", "agent"),
}
ROLE_FIELDS = ("role", "from", "author", "speaker")
TURNS = re.compile(r"\s*\[\s*\{\s*['\"](role|from|content|value)['\"]\s*:")  # as text
TEXT_FIELDS = ("content", "value", "text", "parts", "message", "utterance")


class Turn(NamedTuple):
    role: str
    text: str


# ---- turns -> text


class Template(NamedTuple):
    """How turns are written; {} is the text of one."""

    system: str
    user: str
    begin: str  # what stands before a reply; a prompt ends with it
    reply: str
    end: str  # what follows a reply that is not the last


TEMPLATES = {
    "hh": Template("{}", "\n\nHuman: {}", "\n\nAssistant:", " {}", ""),
    "chatml": Template(
        "<|im_start|>system\n{}<|im_end|>\n",
        "<|im_start|>user\n{}<|im_end|>\n",
        "<|im_start|>assistant\n",
        "{}",
        "<|im_end|>\n",
    ),
    "instruction": Template("{}\n\n", "### Instruction:\n{}\n\n", "### Response:\n", "{}", "\n\n"),
    "plain": Template("{}\n", "{}\n", "", "{}", "\n"),
}


def get_template(name):
    if name not in TEMPLATES:
        raise InputError(f"--template {name} is none of {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def prompt_text(prompt, template):
    """A prompt as text: text stays as it is, turns are written by the template."""
    if isinstance(prompt, str):
        return prompt
    written = {
        SYSTEM: template.system,
        USER: template.user,
        REPLY: template.begin + template.reply + template.end,
    }
    turns = [written[turn.role].replace("{}", turn.text, 1) for turn in prompt if turn.text]
    return "".join(turns) + template.begin


def response_text(prompt, response, template):
    """A response as it follows on the text of this prompt."""
    return response if isinstance(prompt, str) else template.reply.replace("{}", response, 1)


# ---- values of a field -> turns


def question(text):
    """What one person asks, as turns."""
    return [Turn(USER, text)]


def as_turns(value):
    """The messages in a field that may hold text or turns; None where it is text. The text of a
    list of messages (in CSV) is such a list; any other text, also of other JSON, is a text."""
    if isinstance(value, str) and value.lstrip().startswith(("[{", "{")):
        text, value = value, structure(value)
        if value is text and TURNS.match(text):  # as pandas' to_csv writes what was no list
            raise ValueError("a list of turns that is neither JSON nor Python; write it as JSON")
    messages = value if isinstance(value, list) else [value]
    are_turns = messages and all(isinstance(x, dict) and roles(x) for x in messages)
    return messages if are_turns else None


def roles(message):
    return [name for name in ROLE_FIELDS if isinstance(message.get(name), str)]


def read_turns(value, field):
    """The turns in a value: a list of messages with role and content (or from and value, ...), a
    message alone, a list of texts that take turns, or a list of pairs such as {"input", "output"}.
    ValueError where it is nothing of this."""
    value = structure(value)
    if isinstance(value, dict):
        value = value["messages"] if isinstance(value.get("messages"), list) else [value]
    if not isinstance(value, list) or not value:
        raise ValueError(f"field {field!r} must be a list of turns, with role and content")
    if all(isinstance(turn, str) for turn in value):
        return [Turn((USER, REPLY)[place % 2], text) for place, text in enumerate(value)]
    return [turn for message in value for turn in read_message(message, field)]


def read_message(message, field):
    """The turns in one element of a list: one, or two of a pair."""
    if not isinstance(message, dict):
        problem = f"holds a turn that is {type(message).__name__}, and no object"
        raise ValueError(f"field {field!r} {problem}")
    if not roles(message):
        return read_pair(message, field)
    role = message[roles(message)[0]]
    known = [name for name, words in ROLES.items() if role.lower() in words]
    if not known:
        raise Unusable(f"a turn of the role {role[:40]!r}; known are {', '.join(ROLES)}")
    return [Turn(known[0], content(message, field))]


def read_pair(message, field):
    """{"input": ..., "output": ...} and the like as two turns."""
    turns = []
    for role in (USER, REPLY):
        names = [name for name in ROLES[role] if isinstance(message.get(name), str)]
        if not names:
            raise ValueError(f"field {field!r}: a turn needs {' or '.join(ROLE_FIELDS)}")
        turns.append(Turn(role, message[names[0]]))
    return turns


def content(message, field):
    """The text of a message. Content may be in parts, all of which must be text."""
    if message.get("tool_calls") or message.get("function_call"):
        raise Unusable("a turn calls a tool")
    name = next((name for name in TEXT_FIELDS if message.get(name) is not None), None)
    if name is None:
        raise ValueError(f"field {field!r}: {missing(message, *TEXT_FIELDS[:3])}")
    parts = message[name] if isinstance(message[name], list) else [message[name]]
    return "".join(part_text(part, field) for part in parts)


def part_text(part, field):
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        part = part["text"]
    elif isinstance(part, dict):
        raise Unusable("a turn holds something that is no text, such as an image or a tool call")
    if not isinstance(part, str):
        raise ValueError(f"field {field!r}: a turn's text is {type(part).__name__}")
    return part


def last_reply(turns):
    """(turns of the prompt, text of the last reply). Unusable if the assistant has not the last
    word."""
    if not turns or turns[-1].role != REPLY:
        raise Unusable("the last turn is not the assistant's, so there is no reply to learn from")
    return turns[:-1], turns[-1].text


def joined(prompt, turns):
    """A prompt, text or turns or None, and the turns that follow on it or repeat it -> turns."""
    if prompt is None or turns[0].role != REPLY:
        begins = [turn for turn in prompt or [] if isinstance(turn, Turn) and turn.role == SYSTEM]
        return turns if turns[0].role == SYSTEM else begins + turns
    return (question(prompt) if isinstance(prompt, str) else prompt) + turns


# ---- a prompt that is too long


def without_oldest_turns(record, template):
    """The record, then the record without its prompt's oldest turn of the user and what was
    answered, then without the two oldest, ... What stands before the first turn (the system text)
    and the last turn stay. A text without the template's marks has one turn."""
    yield record
    prompt = record if isinstance(record, str) else record.prompt
    mark = template.user.partition("{}")[0]
    places = []
    while mark and (place := prompt.find(mark, places[-1] + 1 if places else 0)) >= 0:
        places.append(place)
    for place in places[1:]:
        shorter = prompt[: places[0]] + prompt[place:]
        if isinstance(record, Comparison | Demonstration | Labelled):
            yield dataclasses.replace(record, prompt=shorter)
        else:
            yield Prompt(shorter, getattr(record, "columns", None))
