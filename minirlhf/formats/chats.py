"""Dialogues: lists of turns, and text with marks of turns in it."""

import os

from minirlhf.formats.fields import Unusable, items, number, present, structure, text_field
from minirlhf.formats.rows import Judged, compare, compare_turns, judge
from minirlhf.formats.turns import (
    REPLY,
    SYSTEM,
    USER,
    as_turns,
    last_reply,
    read_message,
    read_turns,
)

LISTS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "chat")
LISTS += ("items", "trajectory", "data")  # what a list of turns is called
MARKS = (  # what begins a turn of the user and a reply, where turns are written as text
    ("\n\nHuman:", "\n\nAssistant:"),
    ("### Human:", "### Assistant:"),
    ("### Instruction:", "### Response:"),
    ("<|im_start|>user", "<|im_start|>assistant\n"),
    ("<|user|>", "<|assistant|>"),
    ("[INST]", "[/INST]"),
    ("<start_of_turn>user", "<start_of_turn>model\n"),
    ("<|start_header_id|>user", "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    ("USER:", "ASSISTANT:"),
    ("Human:", "Assistant:"),
    ("User:", "Assistant:"),
)
ENDS = ("<|im_end|>", "</s>", "<end_of_turn>", "<|eot_id|>", "<|endoftext|>", "### Human:")


def list_name(row):
    """The name of the field that holds a list of turns, or the text of one; None without one."""
    return next((name for name in LISTS if isinstance(structure(row.get(name)), list)), None)


def turns_of(row):
    """The turns of a row's list."""
    name = list_name(row)
    return read_turns(row[name], name)


def chat(row):
    """A list of turns: a demonstration of its last reply, or a prompt if it ends with a question.
    OpenAI's "weight": 0 says of a reply that it is not to be learned, as axolotl's "train" and
    ms-swift's "loss" do where they are false. MT-Bench's texts are what one person asks in turn."""
    name = list_name(row)
    last = structure(row[name])[-1:]
    if name == "turns" and last and isinstance(last[0], str):
        return Judged(turns_of(row)[:1])
    turns = turns_of(row)
    if turns[-1].role == USER:
        return Judged(turns)
    for field in ("weight", "train", "loss"):
        if isinstance(last[0], dict) and last[0].get(field) in (0, False):
            raise Unusable(f"the {field} of the last reply is {last[0][field]}")
    return judge(row, *last_reply(turns))


def chat_pair(row):
    """Turns up to a question, and two replies to it (LLaMA-Factory, axolotl)."""
    turns = turns_of(row)
    dialogues = all(isinstance(row[name], list) and len(row[name]) > 1 for name in PAIR)
    return compare(row, None if dialogues else without_reply(turns), *PAIR)


PAIR = ("chosen", "rejected")


def chat_rejected(row):
    """Turns that end with the better reply, and the worse one beside them, as text or as turns
    (ms-swift)."""
    names = list_name(row), present(row, *REJECTED)
    prompt, reply = last_reply(turns_of(row))
    sides = [{"role": REPLY, "content": reply}], as_turns(row[names[1]])
    return compare_turns(row, prompt, sides, names)


REJECTED = ("rejected_response", "rejected_messages", "rejected_conversations", "rejected")


def without_reply(turns):
    """The turns up to the last question."""
    return turns if turns[-1].role == USER else turns[:-1]


# ---- OpenAI's preferences, Gemini's contents, OpenAssistant's trees


def openai_preference(row):
    """{"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}"""
    prompt = read_turns(row["input"], "input")
    return compare(row, prompt, "preferred_output", "non_preferred_output")


def contents(row):
    """Gemini's turns, whose texts are in parts."""
    turns = read_turns(row["contents"], "contents")
    system = present(row, "system_instruction", "systemInstruction")
    if system:
        turns = read_message({"role": SYSTEM} | row[system], system) + turns
    return Judged(turns) if turns[-1].role == USER else judge(row, *last_reply(turns))


def gemini_preference(row):
    """Gemini's turns and scored completions of them."""
    prompt = contents(row).prompt
    completions = items(row, "completions", dict)
    texts = [read_turns(c.get("completion"), "completions")[-1].text for c in completions]
    return Judged(prompt, texts, None, [number(c, "score") for c in completions])


def tree(row):
    """A tree of messages (OpenAssistant): at every question the ranked replies to it."""
    found = []
    walk(row["prompt"], [], found)
    return found


def walk(message, before, found):
    """Collects what is judged in a tree from a message of the user on, `before` it these turns."""
    turns = [*before, *read_message({"role": message.get("role"), "text": message["text"]}, "tree")]
    replies = [reply for reply in message.get("replies") or [] if not reply.get("deleted")]
    texts = [text_field(reply, "text") for reply in replies]
    ranks = [reply.get("rank") for reply in replies]
    if turns[-1].role == USER and replies:
        known = len(replies) > 1 and all(type(rank) is int for rank in ranks)
        best = ranks.index(min(ranks)) if known else 0
        found.append(Judged(turns, texts if known else [texts[best]], ranks if known else None))
    for reply in replies:
        walk(reply, turns, found)


# ---- turns as text


TEXTS = ("text", "transcript", "dialogue", "dialog", "conversation", "chat")


def has_marks(row):
    text = row[present(row, *TEXTS)]
    return isinstance(text, str) and any(begin in text for _, begin in MARKS)


def marked_text(row):
    """A text with marks of turns: the prompt goes up to the last mark of a reply, and stays as it
    is."""
    text = text_field(row, *TEXTS)
    begin = next((begin for _, begin in MARKS if begin in text), None)
    if begin is None:
        raise Unusable("the text has no turns: no mark of a reply such as 'Assistant:'")
    place = text.rfind(begin) + len(begin)
    return judge(row, text[:place], without_end(text[place:]))


def without_end(reply):
    """A reply without the marks that end it."""
    stripped = reply.rstrip()
    for end in ENDS:
        if stripped.endswith(end):
            return without_end(stripped.removesuffix(end))
    return reply


def marked_pair(chosen, rejected):
    """Two texts with the same marks of turns -> Judged, or None where none is in both. The prompt
    is their common beginning up to the last mark of a reply."""
    shared = os.path.commonprefix([chosen, rejected])
    for human, begin in MARKS[1:]:
        if begin in shared and chosen != rejected:
            place = shared.rfind(begin) + len(begin)
            texts = [without_end(text[place:]) for text in (chosen, rejected)]
            if any(mark in text for text in texts for mark in (human, begin)):
                raise Unusable("an answer holds another turn: the dialogues differ before it")
            return Judged(shared[:place], texts, [0, 1])
    return None
