"""An instruction or a question and an answer to it; pairs of answers to a question.

What stands in a field of another name than `prompt` is what a person says, so it becomes a turn.
"""

from minirlhf.formats.chats import MARKS
from minirlhf.formats.fields import missing, present, text_field
from minirlhf.formats.rows import Judged, compare, judge, prompt_field
from minirlhf.formats.turns import as_turns, question, read_turns

QUESTIONS = ("orig_instruction", "instruction", "question", "query", "problem", "input", "inputs")
QUESTIONS += ("user", "history")
ANSWERS = ("output", "response", "answer", "output_text", "completion", "solution", "target")
ANSWERS += ("targets", "assistant", "reply", "orig_response")
BETTER = ("chosen", "chosen_response", "accepted", "preferred", "preferred_response", "better")
BETTER += ("response_j", "win", "good", "positive", "response_chosen", "answer_chosen")
WORSE = ("rejected", "rejected_response", "dispreferred", "non_preferred", "worse", "response_k")
WORSE += ("lose", "bad", "negative", "dispreferred_response", "response_rejected")
WORSE += ("answer_rejected", "non_preferred_response")
CONTEXTS = ("input", "context")  # what an instruction is about


def asked(row):
    """What a row asks: turns, below its system text. A prompt that ends with the mark of a reply is
    written out already, and stays as it is."""
    name = present(row, "prompt", *QUESTIONS)
    if name is None:
        raise missing(row, "prompt", *QUESTIONS[:3])
    if messages := as_turns(row[name]):
        return read_turns(messages, name)
    whole = isinstance(row[name], dict) and present(row[name], "full_text", "text")
    text = text_field(row[name], whole) if whole else text_field(row, name)  # WebGPT's
    if any(text.rstrip().endswith(begin.strip()) for _, begin in MARKS):
        return text
    if name in ("instruction", "question"):
        text = with_context(row, text)
    system = present(row, "system", "system_prompt")
    return question(text, text_field(row, system) if system else None)


def with_context(row, instruction):
    """An instruction, an empty line, and what it is about, if there is something."""
    context = present(row, *CONTEXTS)
    about = text_field(row, context) if context else ""
    return f"{instruction}\n\n{about}" if about.strip() else instruction


def instruction(row):
    """An instruction and its answer: Alpaca, Dolly, GSM8K, OpenOrca, ..."""
    return judge(row, asked(row), text_field(row, *ANSWERS))


def only_question(row):
    return Judged(asked(row))


def vertex(row):
    """{"input_text", "output_text"}: texts that stay as they are."""
    return judge(row, prompt_field(row, "input_text"), text_field(row, "output_text"))


def question_pair(row):
    """A question and a better and a worse answer to it, whatever these are called."""
    return compare(row, asked(row), present(row, *BETTER), present(row, *WORSE))
