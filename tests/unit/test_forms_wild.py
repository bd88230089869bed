"""The specification of formats/forms.py against rows as data sets and tools write them: what stands
beside the turns, what a row says that its form does not read, and what a file hides.

The rows of `WILD` are of the shape that the named data set has, with words of ours.
"""

import json

import pytest

from minirlhf.data import Comparison, Demonstration
from minirlhf.formats import forms, jsonl, rows
from minirlhf.run.config import InputError
from minirlhf.tools import convert

HH = jsonl.turns.TEMPLATES["hh"]
PROMPT = "\n\nHuman: Q\n\nAssistant:"
USER, GOOD, BAD = (
    {"role": role, "content": text}
    for role, text in (("user", "Q"), ("assistant", "good"), ("assistant", "bad"))
)
COMPARED = Comparison(PROMPT, [" good", " bad"], [0, 1])
SHOWN = Demonstration(PROMPT, " good")


def read(row, convert=None):
    """The records of a row, each of the kind that it is good for."""
    found = forms.judged(row)
    return [(convert or rows.natural(judged))(judged, HH) for judged in found]


# ---- a system text and the turns before, in every form

FORMS = {
    "single": {"prompt": "Q", "response": "good"},
    "label": {"prompt": [USER], "completion": [GOOD], "label": True},
    "pair": {"prompt": "Q", "chosen": "good", "rejected": "bad"},
    "pair of turns": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "accepted": {"prompt": "Q", "accepted": "good", "rejected": "bad"},
    "question-pair": {"instruction": "Q", "chosen": "good", "rejected": "bad"},
    "answer-rejected": {"query": "Q", "response": "good", "rejected_response": "bad"},
    "ranking": {"prompt": "Q", "responses": ["good", "bad"], "ranks": [0, 1]},
    "scored": {"instruction": "Q", "completions": [{"response": "good", "score": 1}] * 2},
    "scored-list": {"prompt": "Q", "generations": ["good", "bad"], "scores": [5, 1]},
    "choice": {"prompt": "Q", "response_a": "good", "response_b": "bad", "choice": "a"},
    "vertex-preference": {"input_text": "Q", "candidate_0": "x", "candidate_1": "y", "choice": 0},
    "vertex": {"input_text": "Q", "output_text": "good"},
    "helpsteer": {"prompt": "Q", "response_1": "x", "response_2": "y", "preference_strength": 1},
    "rated": {"prompt": "Q", "response": "good", "helpfulness": 3},
    "chat": {"messages": [USER, GOOD]},
    "chat-pair": {"messages": [USER], "chosen": GOOD, "rejected": BAD},
    "chat-rejected": {"messages": [USER, GOOD], "rejected_response": "bad"},
    "openai": {
        "input": {"messages": [USER]},
        "preferred_output": [GOOD],
        "non_preferred_output": [BAD],
    },
    "instruction": {"instruction": "Q", "input": "", "output": "good"},
    "prompt": {"prompt": "Q"},
    "question": {"question": "Q"},
}


@pytest.mark.parametrize("name", FORMS)
def test_no_form_loses_a_system_text_or_the_turns_before(name):
    """LLaMA-Factory's and ms-swift's `history` was left out by every form, and the system text by
    the simplest ones: a model learned answers to a question that it had not seen the half of."""
    before = "Be kind.\n\nHuman: A\n\nAssistant: B"
    for system in ({"system": "Be kind."}, {"system_prompt": [{"text": "Be kind."}]}):
        for history in ([["A", "B"]], [USER | {"content": "A"}, GOOD | {"content": "B"}]):
            row = {**system, "history": history, **FORMS[name]}
            assert read(row, rows.prompt) == [before + PROMPT]
    assert forms.judged({"history": [], "system": "", **FORMS[name]}) == forms.judged(FORMS[name])


def test_what_a_prompt_holds_already_is_not_repeated():
    """Some files have the parts of a prompt beside the whole of it."""
    system = {"role": "system", "content": "Be kind."}
    whole = {"messages": [system, USER, GOOD, USER, GOOD], "system": "Be kind."}
    assert read(whole) == read({"messages": whole["messages"]})
    row = {"prompt": [USER, GOOD, USER], "response": "x", "history": [["Q", "good"]]}
    assert read(row)[0].prompt == "\n\nHuman: Q\n\nAssistant: good" + PROMPT
    written = {"prompt": "Be kind." + PROMPT, "response": " x", "system": "Be kind."}
    assert read(written)[0].prompt == "Be kind." + PROMPT
    assert read(written | {"prompt": PROMPT})[0].prompt == "Be kind." + PROMPT
    row = {"messages": [system, USER, GOOD], "history": [["A", "B"]]}
    assert read(row)[0].prompt == "Be kind.\n\nHuman: A\n\nAssistant: B" + PROMPT
    row = {"history": [USER], "chosen": "x", "rejected": "y"}
    assert read(row)[0].prompt == PROMPT
    row = {"question": "Of oaks: Q", "context": "Of oaks: Q", "answer": "x"}
    assert read(row)[0].prompt == "\n\nHuman: Of oaks: Q\n\nAssistant:"


@pytest.mark.parametrize("name", ["instruction", "question", "query", "problem", "prompt"])
def test_a_question_of_any_name_is_asked_with_what_it_is_about(name):
    row = {name: "Q", "context": "Of oaks.", "output": "good"}
    assert read(row) == [Demonstration("\n\nHuman: Q\n\nOf oaks.\n\nAssistant:", " good")]


def test_a_history_without_an_answer_at_its_end_is_refused():
    with pytest.raises(ValueError, match="field 'history' must end with an answer"):
        forms.judged({"query": "Q", "response": "x", "history": ["A", "B", "C"]})


# ---- rows of data sets

WILD = {
    "ms-swift, rejected messages": (
        {"messages": [USER, GOOD], "rejected_messages": [USER, BAD]},
        [COMPARED],
    ),
    "torchtune": (
        {"chosen_conversations": [USER, GOOD], "rejected_conversations": [USER, BAD]},
        [COMPARED],
    ),
    "a winner and a loser": ({"question": "Q", "winner": "good", "loser": "bad"}, [COMPARED]),
    "DeepScaleR": ({"problem": "Q", "answer": "2", "solution": "good"}, [SHOWN]),
    "OpenMathInstruct": (
        {"question": "Q", "generated_solution": "good", "expected_answer": "2"},
        [SHOWN],
    ),
    "NQ-open": ({"question": "Q", "answer": ["good", "fine"]}, [SHOWN]),
    "OpenAI evals": ({"input": [USER], "ideal": "good"}, [SHOWN]),
    "MT-Bench": ({"question_id": 81, "turns": ["Q", "Say it again."]}, [PROMPT]),
    "OpenAI's reinforcement": ({"messages": [USER], "reference_answer": "2"}, [PROMPT]),
    "self-instruct": (
        {"instruction": "Q", "instances": [{"input": "", "output": "good"}]},
        [SHOWN],
    ),
    "a choice by a model's name": (
        {"prompt": "Q", "response_a": "bad", "response_b": "good", "winner": "my_a"}
        | {"model_a": "my_b", "model_b": "my_a"},
        [Comparison(PROMPT, [" bad", " good"], [1, 0])],
    ),
    "Label Studio, short": (
        {"prompt": "Q", "answer1": "bad", "answer2": "good", "comparison": "right"},
        [Comparison(PROMPT, [" bad", " good"], [1, 0])],
    ),
    "lists of the datasets library": (
        {"question": "Q", "answers": {"text": ["bad", "good"], "score": [1, 9]}},
        [Comparison(PROMPT, [" bad", " good"], [1, 0], [1, 9])],
    ),
    "a choice in signs": (
        {"prompt": "Q", "response_A": "bad", "response_B": "good", "preference": "A<<B"},
        [Comparison(PROMPT, [" bad", " good"], [1, 0])],
    ),
    "answers that were accepted or not": (
        {
            "question": "Q",
            "answers": [{"text": t, "is_accepted": t == "good"} for t in ("bad", "good")],
        },
        [Comparison(PROMPT, [" bad", " good"], [1, 0], [False, True])],
    ),
    "a spreadsheet": ({"Question": "Q", "Answer ": "good"}, [SHOWN]),
}


@pytest.mark.parametrize("name", WILD)
def test_a_row_of_a_data_set_says_what_its_authors_say(name):
    row, records = WILD[name]
    assert read(row) == records


def test_a_file_of_one_task_with_instances_is_no_list_of_rows(tmp_path):
    """Its instances were taken for the rows, without the instruction."""
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(WILD["self-instruct"][0]) + "\n")
    assert jsonl.read_demonstrations(path) == [SHOWN]


@pytest.mark.parametrize("field", ["weight", "train", "loss"])
def test_a_reply_that_says_it_is_not_to_be_learned_is_not(field):
    with pytest.raises(rows.Unusable, match=f"the {field} of the last reply is False"):
        forms.judged({"messages": [USER, GOOD | {field: False}]})
    assert read({"messages": [USER, GOOD | {field: False}, USER, GOOD | {field: True}]})


def test_a_turn_with_words_that_calls_a_tool_is_skipped():
    """Only the words were read, as if the call had not been."""
    with pytest.raises(rows.Unusable, match="calls a tool"):
        forms.judged({"messages": [USER, GOOD | {"tool_calls": [{"id": "1"}]}]})


@pytest.mark.parametrize("accept", [[2], ["0"]])
def test_an_option_that_prodigy_does_not_have_is_refused(accept):
    row = {"text": "Q", "options": [{"id": n, "text": str(n)} for n in (0, 1)], "accept": accept}
    with pytest.raises(ValueError, match="field 'accept' must hold ids of options"):
        forms.judged(row)


def test_questions_that_nobody_answered_are_skipped_with_the_reason():
    row = {"text": "Q", "options": [{"id": 0, "text": "x"}] * 2, "accept": [], "answer": "ignore"}
    with pytest.raises(rows.Unusable, match="not answered"):
        forms.judged(row)
    data = {"prompt": "Q", "answer1": "x", "answer2": "y"}
    result = {"type": "pairwise", "value": {"selected": "left"}}
    for annotations in ([], [{"result": []}], [{"result": [result], "was_cancelled": True}]):
        with pytest.raises(rows.Unusable, match="no annotation of two answers"):
            forms.judged({"data": data, "annotations": annotations})


@pytest.mark.parametrize("words", ["B is better than A", "not_a", "neither_b", "A is better"])
def test_a_sentence_is_no_choice(words):
    """Its last letter was taken for one: of "B is better than A" that was A."""
    row = {"prompt": "Q", "response_a": "x", "response_b": "y", "choice": words}
    with pytest.raises(ValueError, match="field 'choice' must be 0 or 1, a or b"):
        forms.judged(row)


@pytest.mark.parametrize("field", ["flagged", "is_harmful", "harmful"])
def test_a_response_that_is_said_to_be_harmful_is_not_imitated(field):
    row = {"prompt": "Q", "response": "x", field: True}
    with pytest.raises(rows.Unusable, match=f"the {field} is true"):
        read(row, rows.demonstration)
    assert read(row | {field: False}, rows.demonstration) == [Demonstration("Q", "x")]


def test_the_order_of_a_list_is_not_taken_for_its_ranks():
    """[1, 2, 0] may say that the second is best, or that the third is."""
    with pytest.raises(ValueError, match="field 'ranks'"):
        forms.judged({"prompt": "Q", "responses": ["x", "y", "z"], "order": [1, 2, 0]})


# ---- what would be left out without a word


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": "Q", "completions": ["x", "y"], "labels": [True, False]}, "completions"),
        ({"question": "Q", "response1": "x", "response2": "y", "annotator1": 1}, "response1"),
        ({"question": "Q", "human_answers": ["x"], "chatgpt_answers": ["y"]}, "human_answers"),
        ({"question": "Q", "GPT4_response": "x"}, "GPT4_response"),
        ({"messages": [USER, GOOD], "rejected_answer": "x"}, "rejected_answer"),
    ],
)
def test_an_answer_that_a_form_does_not_read_is_not_left_out_without_a_word(tmp_path, row, field):
    """`convert` made prompts of comparisons whose choice it did not know."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=f":1: the form '.*' does not read the field '{field}'"):
        convert.main([str(path), str(tmp_path / "out.jsonl")])
    convert.main([str(path), str(tmp_path / "out.jsonl"), "--to", "prompts"])
    form = forms.find(row).name
    convert.main([str(path), str(tmp_path / "other.jsonl"), "--form", form])


@pytest.mark.parametrize(
    "field", ["reference_answer", "expected_output", "answer_type", "response_id", "num_responses"]
)
def test_what_is_no_answer_of_a_model_may_stand_beside_a_prompt(field):
    assert read({"prompt": "Q", field: "x"}) == ["Q"]


def test_the_text_of_a_list_that_is_no_list_is_refused():
    """pandas writes the lists of a Parquet file to CSV without commas: the whole text, with roles
    and brackets, was learned as the response."""
    text = "[{'role': 'user', 'content': 'Q'}\n {'role': 'assistant', 'content': 'good'}]"
    row = {"prompt": "Q", "chosen": text, "rejected": text.replace("good", "bad")}
    with pytest.raises(ValueError, match="a list of turns that is neither JSON nor Python"):
        forms.judged(row)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ('prompt,chosen,rejected\nq,a,b\nq,a,"b\nq,a,b\nq,a,b\n', 3, "unexpected end of data"),
        ('prompt,chosen,rejected\nq,"good" indeed,b\n', 2, "not a row of a table"),
        ("prompt,chosen,rejected,chosen\nq,a,b,c\n", 1, "the first line has the name 'chosen'"),
    ],
)
def test_a_table_that_would_be_misread_is_refused(tmp_path, text, line, problem):
    """A quote that does not end took the rest of the file for one cell; of two columns with a name
    the last was read."""
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        jsonl.read_comparisons(path)
    assert str(error.value).startswith(f"{path}:{line}: ") and problem in str(error.value)


def test_columns_without_a_name_are_no_columns_of_one_name(tmp_path):
    """Spreadsheets have empty ones."""
    path = tmp_path / "rows.csv"
    path.write_text("prompt,chosen,rejected,,\nq,a,b,,\n")
    assert jsonl.read_comparisons(path) == [Comparison("q", ["a", "b"], [0, 1])]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "a pointer of Git LFS"),
        ('{"prompt": "q", "n": ' + "9" * 5000 + "}\n", "not JSON (Exceeds the limit"),
    ],
)
def test_a_file_that_is_no_data_is_refused_in_a_line(tmp_path, text, problem):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        jsonl.read_prompts(path)
    assert problem in str(error.value) and "\n" not in str(error.value)


def test_a_response_of_white_space_is_counted_as_empty(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": [USER, GOOD | {"content": ""}]}) + "\n")
    convert.main([str(path), str(tmp_path / "out.jsonl")])
    assert "1 records have an empty response" in capsys.readouterr().out
