"""An instruction or a question and an answer to it; pairs of answers to a question.

What stands in a field of another name than `prompt` is what a person says, so it becomes a turn.
"""

from minirlhf.formats.chats import MARKS
from minirlhf.formats.fields import items, missing, present, structure, text_field
from minirlhf.formats.rows import Judged, compare, is_list, is_text, judge, prompt_field
from minirlhf.formats.turns import as_turns, question, read_turns

QUESTIONS = ("orig_instruction", "instruction", "question", "query", "problem", "input", "inputs")
QUESTIONS += ("user", "history", "user_prompt", "user_input", "user_message", "context")
ANSWERS = ("output", "response", "solution", "answer", "output_text", "completion", "target")
ANSWERS += ("targets", "assistant", "reply", "orig_response", "model_response")
ANSWERS += ("model_output", "bot_response", "assistant_response", "ideal", "generated_solution")
BETTER = ("chosen", "chosen_response", "accepted", "preferred", "preferred_response", "better")
BETTER += ("response_j", "win", "winner", "good", "positive", "response_chosen", "answer_chosen")
WORSE = ("rejected", "rejected_response", "dispreferred", "non_preferred", "worse", "response_k")
WORSE += ("lose", "loser", "bad", "negative", "dispreferred_response", "response_rejected")
WORSE += ("answer_rejected", "non_preferred_response")
CONTEXTS = ("input", "context")  # what an instruction is about


def asked(row):
    """What a row asks: turns. A prompt that ends with the mark of a reply is
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
    return question(with_context(row, text) if name not in ("user", "history", *CONTEXTS) else text)


def with_context(row, instruction):
    """An instruction, an empty line, and what it is about, if there is something."""
    context = present(row, *CONTEXTS)
    about = text_field(row, context) if context else ""
    return f"{instruction}\n\n{about}" if about.strip() not in instruction else instruction


def instruction(row):
    """An instruction and its answer: Alpaca, Dolly, GSM8K, OpenOrca, ... Of a list of answers, none
    of which is said to be better, the first."""
    answers = structure(row[present(row, *ANSWERS)])
    if answers and is_list(answers, is_text):
        return judge(row, asked(row), answers[0])
    return judge(row, asked(row), text_field(row, *ANSWERS))


def only_question(row):
    return Judged(asked(row))


def vertex(row):
    """{"input_text", "output_text"}: texts that stay as they are."""
    return judge(row, prompt_field(row, "input_text"), text_field(row, "output_text"))


def summary(row):
    """A document and a summary of it. The prompt ends with "TL;DR:"."""
    text = text_field(row, *DOCUMENTS)
    return judge(row, f"{text}\n\nTL;DR:", " " + text_field(row, *SUMMARIES))


def label_text(row):
    """A prompt, and a label that is the response (summaries of TL;DR)."""
    return Judged(prompt_field(row), [row["label"]])


def is_response(row):
    """Whether a label is text that says neither yes nor no."""
    return isinstance(row["label"], str) and len(row["label"].split()) > 1


DOCUMENTS, SUMMARIES = ("document", "article", "post", "passage"), ("summary", "highlights")


def question_pair(row):
    """A question and a better and a worse answer to it, whatever these are called."""
    return compare(row, asked(row), present(row, *BETTER, *ANSWERS), present(row, *WORSE))


def instances(row):
    """An instruction and a list of inputs with their outputs (self-instruct)."""
    return [instruction({**row, **instance}) for instance in items(row, "instances", dict)]
