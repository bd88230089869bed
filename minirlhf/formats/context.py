"""What a row has beside what was said: a system text, and the turns before it (`history`).

They stand in rows of every form, so every prompt gets them here. What a prompt holds already is not
repeated.
"""

from minirlhf.formats import chats
from minirlhf.formats.fields import present, structure
from minirlhf.formats.instructions import QUESTIONS
from minirlhf.formats.turns import REPLY, SYSTEM, Turn, content, question, read_turns


def in_context(row, judged):
    """Judged, whose prompt goes on after the row's history and stands below its system text."""
    return judged._replace(prompt=below(system_text(row), after(history(row), judged.prompt)))


def system_text(row):
    """The system text of a row, as text or in parts; "" without one."""
    name = present(row, "system", "system_prompt")
    return content({"content": row[name]}, name) if name and row[name] else ""


def below(text, prompt):
    """A prompt below a system text. Text that has its marks of turns already is written on."""
    if not text:
        return prompt
    if is_written(prompt):
        return prompt if text in prompt else f"{text}\n\n{prompt.lstrip()}"
    turns = question(prompt) if isinstance(prompt, str) else prompt
    return turns if turns[:1] and turns[0].role == SYSTEM else [Turn(SYSTEM, text), *turns]


def history(row):
    """The turns before the question: pairs of a question and its answer (LLaMA-Factory, ms-swift),
    or turns. [] where it is the question itself (SHP)."""
    before = structure(row.get("history"))
    only = not chats.list_name(row) and present(row, "prompt", "input_text", *QUESTIONS)
    if not before or not isinstance(before, list) or only == "history":
        return []
    if all(isinstance(pair, list) for pair in before):
        before = [text for pair in before for text in pair]
    turns = read_turns(before, "history")
    if turns[-1].role != REPLY:
        raise ValueError("field 'history' must end with an answer")
    return turns


def after(before, prompt):
    """A prompt that goes on after the turns `before`."""
    if not before or is_written(prompt):
        return prompt
    turns = question(prompt) if isinstance(prompt, str) else prompt
    begin = [turn for turn in turns[:1] if turn.role == SYSTEM]
    rest = turns[len(begin) :]
    return turns if rest[: len(before)] == before else [*begin, *before, *rest]


def is_written(prompt):
    """Whether a prompt is text that ends with the mark of a reply."""
    ends = tuple(begin.strip() for _, begin in chats.MARKS)
    return isinstance(prompt, str) and prompt.rstrip().endswith(ends)
