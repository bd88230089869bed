"""The specification of formats/forms.py and its families: which form a row has, and what it says.

The samples are those of docs/data.md: of the better response all say "Blue." or "Four.".
"""

import json
import re
from pathlib import Path

import pytest

from minirlhf.data import Comparison, Demonstration
from minirlhf.formats import forms, jsonl, rows
from minirlhf.run.config import DataFlags, InputError

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
SAMPLES = {
    name: list(map(json.loads, lines.splitlines()))
    for name, lines in re.findall(r"\*\*`([\w-]+)`\*\*\n\n```jsonl\n(.*?)\n```", PAGE, re.S)
}
SERVES = dict(re.findall(r"^\| \[`([\w-]+)`\]\(#[\w-]+\) \| ([\w ]+) \|", PAGE, re.M))
BEST, WORST = {"Blue.", "Four."}, {"Seven.", "Five."}
USER, REPLY = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


@pytest.fixture
def write(tmp_path):
    def to_file(records, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    return to_file


def one(row, convert=rows.comparison):
    """The record of a row, in the default template."""
    (judged,) = forms.judged(row)
    return convert(judged, jsonl.turns.TEMPLATES["hh"])


# ---- the table of the documentation


def test_the_documentation_has_two_lines_of_every_form():
    """A form that is not shown is one that nobody finds; the refusal and the command list all."""
    assert list(SAMPLES) == list(SERVES) == list(forms.NAMES)
    assert {len(lines) for lines in SAMPLES.values()} == {2}
    assert all(name in forms.LIST for name in SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_found_by_its_fields_and_says_what_the_documentation_says(write, name):
    """Exactly the two lines that stand there, read from a file as each stage does."""
    named = {} if forms.NAMES[name] in forms.FORMS else {"form": name}
    for row in SAMPLES[name]:
        assert named or forms.find(row).name == name
    path = write(SAMPLES[name])
    prompts = jsonl.read_prompts(path, **named)
    assert all("colour" in text or "2 + 2" in text or "A question" in text for text in prompts)
    if SERVES[name] == "demonstration":
        texts = [record.response.split()[0] for record in jsonl.read_demonstrations(path, **named)]
        assert [text.strip(".") for text in texts] == ["Blue", "Four"]
    elif SERVES[name] != "prompt":
        comparisons = jsonl.read_comparisons(path, **named)
        assert [record.prompt for record in comparisons] == list(dict.fromkeys(prompts))
        for record in comparisons:
            best, *_ = sorted(zip(record.ranks, record.responses, strict=True))
            assert best[0] == 0 and best[1].strip() in BEST
            assert record.responses[record.ranks.index(1)].strip() not in BEST
    if SERVES[name] == "comparison":
        texts = [record.response.strip() for record in jsonl.read_demonstrations(path, **named)]
        assert texts == ["Blue.", "Four."]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_column_that_is_null_does_not_change_the_form(name):
    """Files of one table have every column in every row."""
    empty = dict.fromkeys(("chosen", "rejected", "responses", "messages", "label", "winner"))
    for row in SAMPLES[name]:
        assert forms.judged({**empty, **row}, None) == forms.judged(row, None)


# ---- choices


@pytest.mark.parametrize(
    ("value", "ranks"),
    [
        (0, [0, 1]),
        ("1", [1, 0]),
        ("B", [1, 0]),
        ("response_a", [0, 1]),
        ("model_b", [1, 0]),
        ("second", [1, 0]),
        ("Tie", [0, 0]),
        ("tie (bothbad)", [0, 0]),
    ],
)
def test_a_choice_is_a_number_a_letter_a_name_or_a_tie(value, ranks):
    row = {"prompt": "p", "response_a": "x", "response_b": "y", "choice": value}
    assert forms.judged(row)[0].ranks == ranks


@pytest.mark.parametrize("value", [2, -1, 0.5, True, "c", "", [1]])
def test_a_choice_out_of_range_is_refused_with_what_is_accepted(write, value):
    """A choice of 2 of two responses once meant the last one of a list somewhere."""
    good = {"input_text": "p", "candidate_0": "x", "candidate_1": "y", "choice": 0}
    path = write([good, good | {"choice": value}, good])
    with pytest.raises(InputError) as error:
        jsonl.read_comparisons(path)
    assert str(error.value).startswith(f"{path}:2: field 'choice' must be 0 or 1")
    assert len(jsonl.read_comparisons(path, skip_bad=True)) == 2


def test_numbers_of_responses_begin_with_the_first_ones_own():
    """output_1 and output_2: the choice 1 is the first. response_0 and response_1: the second."""
    row = {"instruction": "q", "output_1": "x", "output_2": "y", "preference": 1}
    assert one(row).ranks == [0, 1]
    row = {"prompt": "q", "response_0": "x", "response_1": "y", "better_response_id": 1}
    assert one(row).ranks == [1, 0]


def test_shp_says_one_where_the_first_is_better():
    row = {"history": "q", "human_ref_A": "x", "human_ref_B": "y", "labels": 1}
    assert one(row).ranks == [0, 1] and one(row | {"labels": 0}).ranks == [1, 0]


@pytest.mark.parametrize(("strength", "ranks"), [(-3, [0, 1]), (1, [1, 0]), (0, [0, 0])])
def test_a_negative_strength_prefers_the_first(strength, ranks):
    """HelpSteer 2 and 3; what is between them is kept as ratings."""
    row = {"prompt": "q", "response_1": "x", "response_2": "y", "preference_strength": strength}
    (judged,) = forms.judged(row)
    assert judged.ranks == ranks and abs(judged.ratings[0] - judged.ratings[1]) == abs(strength)


def test_a_judgement_of_the_first_turn_leaves_out_the_second():
    """MT-Bench: both dialogues have two questions, and `turn` says which one was judged."""
    sides = {f"conversation_{x}": [USER, REPLY | {"content": x}, USER, REPLY] for x in "ab"}
    record = one(sides | {"winner": "model_b", "turn": 1})
    assert record.responses == [" a", " b"] and record.ranks == [1, 0]


def test_verdicts_with_signs_and_means_of_preferences_are_choices():
    """JudgeBench writes "B>A", AlpacaEval the mean of its judges, 1.5 for a draw."""
    row = {"question": "q", "response_A": "x", "response_B": "y"}
    verdicts = {"A>B": [0, 1], "[[B]]": [1, 0], "B>>A": [1, 0], "A=B": [0, 0]}
    assert {v: forms.judged(row | {"label": v})[0].ranks for v in verdicts} == verdicts
    row = {"instruction": "q", "output_1": "x", "output_2": "y"}
    means = {1.2: [0, 1], 1.87: [1, 0], 1.5: [0, 0], 2.0: [1, 0]}
    assert {m: forms.judged(row | {"preference": m})[0].ranks for m in means} == means


@pytest.mark.parametrize("best", [3, -1, "z", 0.5])
def test_the_best_of_a_list_is_a_number_or_a_text_of_it(best):
    row = {"question": "q", "responses": ["x", "y", "z2"]}
    assert one(row | {"best": 1}).ranks == one(row | {"choice": "y"}).ranks == [1, 0, 1]
    with pytest.raises(ValueError, match="field 'best' must be 0 to 2, or the best response"):
        forms.judged(row | {"best": best})


def test_lists_of_better_and_worse_answers_tie_within():
    """Reward-bench 2: every better one beats every worse one, and no other pair is learned."""
    row = {"prompt": "p", "chosen": ["a", "b"], "rejected": ["c"]}
    assert one(row) == Comparison("p", ["a", "b", "c"], [0, 0, 1])


# ---- ratings


def test_ratings_make_every_pair_of_different_ratings():
    """Ranks tie where ratings do, and pairs of ties are never trained on."""
    row = {"prompt": "p", "responses": ["a", "b", "c", "d"], "ratings": [3, 5, 3, 1]}
    assert one(row) == Comparison("p", ["a", "b", "c", "d"], [1, 0, 1, 2], [3, 5, 3, 1])


def test_single_judged_responses_to_a_prompt_become_a_comparison(write, capsys):
    """KTO's labels and HelpSteer's ratings stand one response a row, anywhere in the file. A text
    that comes twice is one response."""
    rated = [("p", "a", 1), ("q", "x", 4), ("p", "b", 4), ("p", "b", 4), ("r", "y", 2)]
    path = write([{"prompt": p, "response": r, "rating": n} for p, r, n in rated])
    assert jsonl.read_comparisons(path) == [Comparison("p", ["a", "b"], [1, 0], [1, 4])]
    assert "skipped 2 of 5 rows" in capsys.readouterr().err
    labels = [{"prompt": "p", "completion": c, "label": c == "good"} for c in ("bad", "good")]
    assert jsonl.read_comparisons(write(labels))[0].ranks == [1, 0]
    assert jsonl.read_demonstrations(write(labels)) == [Demonstration("p", "good")]


def test_ultrafeedback_is_ranked_by_the_fine_grained_score():
    """Its overall scores hold tens that should be ones."""
    completions = [
        {"response": "x", "overall_score": 10.0, "fine-grained_score": 1.0},
        {"response": "y", "overall_score": 7.5, "fine-grained_score": 4.0},
    ]
    assert one({"instruction": "q", "completions": completions}).ranks == [1, 0]


def test_a_rating_that_is_no_number_is_refused():
    row = {"prompt": "p", "responses": ["a", "b"], "ratings": [1, "good"]}
    with pytest.raises(ValueError, match="field 'ratings' must be a list of 2 numbers"):
        forms.judged(row)


@pytest.mark.parametrize(("flags", "good"), [([], True), (["rude"], False)])
def test_a_flag_says_that_a_response_is_not_good(write, flags, good):
    row = {"prompt": "p", "response": "a", "flags": flags}
    if good:
        assert jsonl.read_demonstrations(write([row])) == [Demonstration("p", "a")]
    else:
        with pytest.raises(InputError, match="the flags is set"):
            jsonl.read_demonstrations(write([row]))


# ---- dialogues


def test_the_prompt_of_two_dialogues_is_all_but_the_last_reply():
    """TRL's implicit prompt. Dialogues that differ before are not compared."""
    start = [USER, REPLY, USER]
    last = {side: [*start, REPLY | {"content": side}] for side in ("chosen", "rejected")}
    prompt = "\n\nHuman: Q\n\nAssistant: A\n\nHuman: Q\n\nAssistant:"
    assert one(last) == Comparison(prompt, [" chosen", " rejected"], [0, 1])
    other = [USER | {"content": "other"}, REPLY]
    with pytest.raises(rows.Unusable, match="their prompts differ"):
        one({"chosen": [USER, REPLY], "rejected": other})


def test_a_prompt_beside_whole_dialogues_is_not_repeated():
    """UltraFeedback binarized has the question three times in a row."""
    sides = {"chosen": [USER, REPLY], "rejected": [USER, REPLY | {"content": "B"}]}
    assert one({"prompt": "Q", **sides}) == one(sides)
    assert one({"prompt": [USER], **sides}) == one(sides)


def test_a_tree_gives_a_comparison_for_every_question(write):
    """OpenAssistant: the second question stands below one of the replies."""
    leaves = [{"role": "assistant", "text": t, "rank": r} for t, r in (("x", 1), ("y", 0))]
    second = {"role": "prompter", "text": "q2", "replies": leaves}
    best = {"role": "assistant", "text": "good", "rank": 0, "replies": [second]}
    worst = {"role": "assistant", "text": "bad", "rank": 1}
    tree = {"role": "prompter", "text": "q1", "replies": [worst, best]}
    records = jsonl.read_comparisons(write([{"message_tree_id": "1", "prompt": tree}]))
    assert [record.responses for record in records] == [[" bad", " good"], [" x", " y"]]
    assert records[1].prompt == "\n\nHuman: q1\n\nAssistant: good\n\nHuman: q2\n\nAssistant:"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [USER, {"role": "tool", "content": "x"}, REPLY]}, "the role 'tool'"),
        (
            {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [1]}]},
            "calls a tool",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, REPLY]},
            "no text, such as an image",
        ),
        ({"messages": [USER, REPLY | {"weight": 0}]}, "weight of the last reply is 0"),
        ({"chosen": [USER], "rejected": [USER]}, "the last turn is not the assistant's"),
    ],
)
def test_turns_that_cannot_be_learned_from_are_skipped_with_the_reason(row, reason):
    with pytest.raises(rows.Unusable, match=reason):
        forms.judged(row)


def test_text_that_looks_like_json_is_text():
    """An answer may be a list or an object; only a list of messages is one of turns."""
    for text in ('{"a": 1}', "[1, 2]", "[{}]", "{"):
        row = {"prompt": text, "response": text}
        assert one(row, rows.demonstration) == Demonstration(text, text)


# ---- --form, --map, refusals


def test_the_readers_get_the_five_flags_of_a_command():
    """Each with a value that is not its default."""
    values = {"skip_bad": True, "form": "alpaca", "map": "prompt=q", "template": "plain"}
    values |= {"keep_turns": True}
    assert jsonl.flags(DataFlags(**values), columns=("q",)) == values | {"columns": ("q",)}
    assert all(getattr(DataFlags(), name) != value for name, value in values.items())


def test_a_row_of_no_form_is_refused_with_what_it_has_and_the_list_of_forms(write):
    path = write([{"ask": "q", "say": "a"}])
    for read in (jsonl.read_prompts, jsonl.read_demonstrations, jsonl.read_comparisons):
        with pytest.raises(InputError) as error:
            read(path)
        message = str(error.value)
        assert message.startswith(f"{path}:1: ") and "it has ask, say" in message
        assert forms.LIST in message and "--map" in message and "\n" not in message


def test_a_form_that_is_named_is_the_only_one(write):
    """SafeRLHF's rows have two choices."""
    row = {"prompt": "q", "response_0": "x", "response_1": "y"}
    path = write([row | {"better_response_id": 0, "safer_response_id": 1}])
    assert jsonl.read_comparisons(path)[0].ranks == [0, 1]
    assert jsonl.read_comparisons(path, form="safer")[0].ranks == [1, 0]
    with pytest.raises(InputError, match="the form 'chat' has the fields"):
        jsonl.read_comparisons(path, form="chat")
    with pytest.raises(InputError, match="--form alpacca is none of openai-preference, "):
        jsonl.read_comparisons(path, form="alpacca")


def test_a_map_names_fields_with_dots_into_what_is_nested(write):
    row = {"q": {"text": "Q"}, "a": ["good", "bad"], "prompt": "no", "chosen": "no"}
    path = write([row])
    names = "prompt=q.text,chosen=a.0,rejected=a.1"
    assert jsonl.read_comparisons(path, map=names) == [Comparison("Q", ["good", "bad"], [0, 1])]
    assert jsonl.read_demonstrations(path, map="instruction=q.text,output=a.-1") == [
        Demonstration("\n\nHuman: Q\n\nAssistant:", " bad")
    ]


@pytest.mark.parametrize("names", ["prompt", "prompt=", "=q", "prompt=q,chosen"])
def test_a_map_that_is_no_map_is_refused(write, names):
    with pytest.raises(InputError, match="--map .*: write field=name"):
        jsonl.read_prompts(write([{"q": "Q"}]), map=names)


@pytest.mark.parametrize("path", ["x", "q.x", "q.text.x", "a.2", "a.-3", "a.x"])
def test_a_mapped_field_that_a_row_lacks_is_refused_by_line(write, path):
    file = write([{"q": {"text": "Q"}, "a": ["x", "y"]}])
    with pytest.raises(InputError, match=f":1: (no field '{path}'|field 'prompt' must be text)"):
        jsonl.read_prompts(file, map=f"prompt={path}")


# ---- columns


def test_a_prompt_carries_the_columns_that_are_asked_for(write):
    rows_with = [{"question": "Q", "answer": "4", "level": {"n": 2}}]
    (prompt,) = jsonl.read_prompts(write(rows_with), columns=("answer", "level.n"))
    assert prompt == "\n\nHuman: Q\n\nAssistant:"
    assert prompt.columns == {"answer": "4", "level.n": 2}
    with pytest.raises(InputError, match=":1: no field 'solution'; it has question, answer"):
        jsonl.read_prompts(write(rows_with), columns=("solution",))
