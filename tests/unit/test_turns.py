"""The specification of formats/turns.py: turns -> text, and prompts without their oldest turns."""

import pytest

from minirlhf import data
from minirlhf.data import Comparison, Demonstration, Prompt
from minirlhf.formats import jsonl, turns
from minirlhf.formats.turns import REPLY, SYSTEM, TEMPLATES, USER, Turn
from minirlhf.run.config import InputError
from minirlhf.tokenizer import get_tokenizer

TURNS = [Turn(SYSTEM, "S"), Turn(USER, "a"), Turn(REPLY, "b"), Turn(USER, "c {}")]
TEXTS = {
    "hh": ("S\n\nHuman: a\n\nAssistant: b\n\nHuman: c {}\n\nAssistant:", " d"),
    "chatml": (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
        "b<|im_end|>\n<|im_start|>user\nc {}<|im_end|>\n<|im_start|>assistant\n",
        "d",
    ),
    "instruction": (
        "S\n\n### Instruction:\na\n\n### Response:\nb\n\n### Instruction:\nc {}\n\n### Response:\n",
        "d",
    ),
    "plain": ("S\na\nb\nc {}\n", "d"),
}
TURN = "\n\nHuman: {0}\n\nAssistant: {0}"
LONG = "System." + "".join(TURN.format(n) for n in range(4)) + "\n\nHuman: last\n\nAssistant:"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_writes_turns_as_the_documentation_says(name):
    """The prompt ends where the reply begins; the reply is as it was in the prompts before."""
    prompt, response = TEXTS[name]
    template = TEMPLATES[name]
    assert turns.prompt_text(TURNS, template) == prompt
    assert turns.response_text(TURNS, "d", template) == response
    longer = turns.prompt_text([*TURNS, Turn(REPLY, "d"), Turn(USER, "e")], template)
    assert longer.startswith(prompt + response)


def test_text_stays_as_it_is():
    for template in TEMPLATES.values():
        assert turns.prompt_text("as it is", template) == "as it is"
        assert turns.response_text("as it is", "so", template) == "so"


def test_an_unknown_template_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="--template llama is none of hh, chatml, instruction, pl"):
        turns.get_template("llama")


@pytest.mark.parametrize(
    "value",
    [
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
        [{"role": "user", "parts": [{"text": "a"}]}, {"role": "model", "parts": [{"text": "b"}]}],
        [
            {"role": "USER", "content": [{"type": "text", "text": "a"}]},
            {"from": "bot", "text": "b"},
        ],
        [{"input": "a", "output": "b"}],
        ["a", "b"],
        {"messages": [{"author": "user", "content": "a"}, {"author": "bot", "content": "b"}]},
        '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]',
    ],
)
def test_turns_are_known_under_many_names(value):
    assert turns.read_turns(value, "messages") == [Turn(USER, "a"), Turn(REPLY, "b")]


@pytest.mark.parametrize("value", ["text", [], [3], [{"x": 1}], [{"role": "user"}], 3])
def test_what_is_no_list_of_turns_is_refused(value):
    with pytest.raises(ValueError, match="field 'messages'"):
        turns.read_turns(value, "messages")


# ---- a prompt that is too long


def versions(record, name="hh"):
    return list(turns.without_oldest_turns(record, TEMPLATES[name]))


def test_the_oldest_turns_go_first_and_system_text_and_last_question_stay():
    """A question goes with its answer."""
    prompts = versions(LONG)
    assert prompts[0] == LONG and len(prompts) == 5
    assert prompts[1] == LONG.replace(TURN.format(0), "")
    assert prompts[-1] == "System.\n\nHuman: last\n\nAssistant:"
    assert versions("no turns") == ["no turns"] and versions(LONG, "plain") == [LONG]


def test_responses_and_columns_stay():
    assert versions(Comparison(LONG, ["a", "b"], [0, 1]))[-1].responses == ["a", "b"]
    assert versions(Demonstration(LONG, "a"))[-1].response == "a"
    assert versions(Prompt(LONG, {"answer": 4}))[-1].columns == {"answer": 4}


def fitting(record, room, **flags):
    drop_long = flags.pop("drop_long", False)
    fits = data.fits_context(get_tokenizer(), room, drop_long=drop_long)
    return jsonl.fitting("file", [(("file", 7), record)], fits, jsonl.Options(**flags))


def test_a_prompt_loses_as_few_turns_as_it_can_and_is_counted(capsys):
    """The longest version that fits; a response never loses its end."""
    record = Demonstration(LONG, "the end")
    lengths = [data.longest_row(get_tokenizer(), version, 0) for version in versions(record)]
    for place, room in enumerate(lengths):
        assert fitting(record, room) == [versions(record)[place]]
    assert fitting(record, lengths[0]) == [record]
    capsys.readouterr()
    fitting(record, lengths[1])
    message = "file: cut 1 of 1 rows (first: file:7): the prompt was too long for the context"
    assert capsys.readouterr().err.startswith(message)


def test_what_does_not_fit_without_its_turns_is_refused_or_left_out(capsys):
    """And with --keep-turns no turn is lost."""
    record = Demonstration(LONG, "the end " * 30)
    room = data.longest_row(get_tokenizer(), versions(record)[-1], 0)
    assert len(fitting(record, room)) == 1
    for flags, size in (({}, room - 1), ({"keep_turns": True}, room)):
        with pytest.raises(InputError, match="file:7: .* tokens do not fit the context"):
            fitting(record, size, **flags)
        with pytest.raises(InputError, match="none of its 1 records fits"):
            fitting(record, size, drop_long=True, **flags)
