"""The specification of formats/rows.py: what a row means in each stage, and which rows are skipped,
for what reason."""

import json
from pathlib import Path

import pytest

from minirlhf.data import Comparison, Demonstration
from minirlhf.formats import jsonl, rows
from minirlhf.run.config import InputError

READERS = (jsonl.read_demonstrations, jsonl.read_comparisons, jsonl.read_prompts)
FIRST = "\n\nHuman: What is 2 + 2?\n\nAssistant:"
PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}
DEMONSTRATION = {"prompt": "p", "completion": "good"}


@pytest.fixture
def write(tmp_path):
    """write(rows) -> the path of a file that holds them."""

    def to_file(records):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    return to_file


# ---- what is not imitated


@pytest.mark.parametrize(
    ("judgement", "reason"),
    [
        ({"label": False}, "the label is false"),
        ({"label": 0}, "the label is false"),
        ({"label": -1}, "the label is false"),
        ({"label": "bad"}, "the label is neither true nor false"),
        ({"label": 0.5}, "the label is neither true nor false"),
        ({"label": ["x"]}, "the label is neither true nor false"),
        ({"rating": 2}, "the field 'rating' judges the response"),
        ({"rating": 5}, "the field 'rating' judges the response"),
        ({"score": -0.4}, "the field 'score' judges the response"),
        ({"reward": 0}, "the field 'reward' judges the response"),
        ({"label": True, "rank": 3}, "the field 'rank' judges the response"),
    ],
    ids=str,
)
def test_a_response_that_is_judged_bad_or_on_an_unknown_scale_is_not_imitated(
    write, capsys, judgement, reason
):
    """{"prompt", "completion", "label": false} (KTO's form) says that the completion is bad. Of a
    rating of 2 nobody knows whether it is of 2 or of 10."""
    path = write([DEMONSTRATION, DEMONSTRATION | judgement, DEMONSTRATION])
    assert jsonl.read_demonstrations(path) == [Demonstration("p", "good")] * 2
    message = capsys.readouterr().err
    assert message.startswith(f"{path}: skipped 1 of 3 rows (first: {path}:2): {reason}")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    "judgement", [{"label": True}, {"label": 1}, {"label": None, "rating": None, "score": None}]
)
def test_a_response_that_is_judged_good_or_not_at_all_is_imitated(write, capsys, judgement):
    """Files of one table have a column for all rows, which is null where it does not apply."""
    path = write([DEMONSTRATION | judgement])
    assert jsonl.read_demonstrations(path) == [Demonstration("p", "good")]
    assert capsys.readouterr().err == ""


def test_a_prompt_serves_whatever_its_response_is_worth(write, capsys):
    """PPO answers the prompt itself."""
    path = write([DEMONSTRATION | {"label": False, "rating": 1}, PAIR | {"rejected": "good"}])
    assert jsonl.read_prompts(path) == ["p", "p"]
    assert capsys.readouterr().err == ""


# ---- what cannot be compared

SAME = {
    "chosen": PAIR | {"rejected": PAIR["chosen"]},
    "dialogues": {"chosen": FIRST + " 4.", "rejected": FIRST + " 4."},
    "no turns": {"chosen": "a", "rejected": "a", "prompt": "q"},
    "ranks": {"prompt": "p", "responses": ["a", "a", "a"], "ranks": [0, 1, 2]},
}


@pytest.mark.parametrize("row", SAME.values(), ids=SAME)
def test_responses_that_are_the_same_are_dropped_and_counted_in_every_form(write, capsys, row):
    """One rule: the pair with a prompt was kept once, and counted as a wrong answer of the reward
    model, while dialogues were dropped."""
    path = write([PAIR, row, PAIR, row])
    assert len(jsonl.read_comparisons(path)) == 2
    expected = f"{path}: skipped 2 of 4 rows (first: {path}:2): all responses are the same text\n"
    assert capsys.readouterr().err == expected
    if "chosen" in row:  # its chosen side would be a demonstration
        assert len(jsonl.read_demonstrations(path)) == 2
        assert capsys.readouterr().err == expected


def test_a_tie_is_dropped_and_counted(write, capsys):
    """Equal ranks of all responses: nothing is better. A tie of some is kept."""
    tie = {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 1]}
    part = {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [0, 1, 1]}
    path = write([part, tie])
    assert jsonl.read_comparisons(path) == [Comparison("p", ["a", "b", "c"], [0, 1, 1])]
    message = capsys.readouterr().err
    assert message.startswith(f"{path}: skipped 1 of 2 rows (first: {path}:2): all ranks are equal")


def test_some_responses_that_are_the_same_do_not_spoil_a_ranking(write, capsys):
    """The third is still worse than both."""
    row = {"prompt": "p", "responses": ["a", "a", "b"], "ranks": [0, 1, 2]}
    assert jsonl.read_comparisons(write([row])) == [Comparison(*row.values())]
    assert capsys.readouterr().err == ""


# ---- HH-RLHF's dialogues


def split(chosen, rejected):
    pair = rows.split_dialogues(chosen, rejected)
    return pair.prompt, pair.responses, pair.ranks


def test_a_dialogue_is_cut_after_the_last_assistant_that_both_share():
    """Everything before it is the prompt. Training on it would teach the reward model words that
    both answers have in common."""
    prompt = FIRST + " It is 4.\n\nHuman: Are you sure?\n\nAssistant:"
    assert split(prompt + " Yes.", prompt + " No.") == (prompt, [" Yes.", " No."], [0, 1])


def test_a_beginning_that_both_answers_share_stays_in_the_answers():
    """The common prefix may end in the middle of a sentence: "I think" is not part of the
    prompt."""
    answers = [" I think 4.", " I think so."]
    assert split(FIRST + answers[0], FIRST + answers[1]) == (FIRST, answers, [0, 1])


def test_one_answer_may_begin_with_the_other():
    """Then no character differs where the shorter one ends; it may even be empty."""
    assert split(FIRST + " Yes", FIRST + " Yes, 4") == (FIRST, [" Yes", " Yes, 4"], [0, 1])
    assert split(FIRST, FIRST + " 4") == (FIRST, ["", " 4"], [0, 1])


SKIPPED_DIALOGUES = {
    "turn": (
        FIRST + " 4.\n\nHuman: Thanks\n\nAssistant: Bye",
        FIRST + " 5.\n\nHuman: Thanks\n\nAssistant: Bye",
        "another turn",
    ),
    "longer": (FIRST + " 4.", FIRST + " 5.\n\nHuman: No\n\nAssistant: Oh", "another turn"),
    "shorter": (FIRST + " 4.\n\nHuman: No", FIRST + " 5.", "another turn"),
    "speaks twice": (FIRST + " 4.", FIRST + " 5.\n\nAssistant: 4.", "another turn"),
    "second question": (
        FIRST + " 4.\n\nHuman: a\n\nAssistant: x",
        FIRST + " 4.\n\nHuman: b\n\nAssistant: x",
        "another turn",
    ),
    "question": (
        "\n\nHuman: a\n\nAssistant: x",
        "\n\nHuman: b\n\nAssistant: x",
        "their prompts differ",
    ),
    "one has no turns": (FIRST + " 4.", "5", "their prompts differ"),
    "no turns": ("no dialogue", "at all", "no field 'prompt', and no turn"),
    "same": (FIRST + " 4.", FIRST + " 4.", "the same text"),
}


@pytest.mark.parametrize("case", SKIPPED_DIALOGUES.values(), ids=SKIPPED_DIALOGUES)
@pytest.mark.parametrize("reader", READERS)
def test_dialogues_without_a_common_prompt_and_two_single_answers_are_skipped_with_the_reason(
    write, capsys, reader, case
):
    """An answer that holds another turn would be scored as a single answer. Data that is left out
    without a message would be missed much later, in a result."""
    chosen, rejected, reason = case
    good = {"chosen": FIRST + " 4", "rejected": FIRST + " 5"}
    path = write([good, {"chosen": chosen, "rejected": rejected}, good])
    assert len(reader(path)) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"{path}: skipped 1 of 3 rows (first: {path}:2): ")
    assert reason in message and message.count("\n") == 1


def test_a_pair_whose_question_has_another_name_is_skipped_for_that_reason(write):
    """{"puzzle", "chosen", "rejected"} used to be skipped because "the dialogues differ". A name is
    shown without its control characters."""
    row = {"sys\x1btem": "s", "puzzle": "q", "chosen": "a", "rejected": "b"}
    path = write([row] * 3)
    with pytest.raises(InputError) as error:
        jsonl.read_comparisons(path)
    expected = f"{path}: no usable record; skipped 3 of 3 rows (first: {path}:1): no field 'prompt'"
    assert str(error.value).startswith(expected)
    assert "it has sys\ufffdtem, puzzle, chosen, rejected" in str(error.value)


def test_nothing_is_said_where_nothing_was_skipped(write, capsys):
    """A warning that always comes is not read."""
    for reader in READERS:
        reader(write([PAIR, {"chosen": FIRST + " 4", "rejected": FIRST + " 5"}]))
    assert capsys.readouterr().err == ""


def test_the_documentation_shows_the_line_that_is_printed(tmp_path, monkeypatch, capsys):
    """docs/data.md: 50 rows, of which three have one text twice, the first on line 12. Its table
    has every field that judges a response."""
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    lines = [SAME["chosen"] if number in (12, 30, 31) else PAIR for number in range(1, 51)]
    Path("mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    jsonl.read_comparisons("mine.jsonl")
    assert capsys.readouterr().err in page.split("```text\n")[1]
    row = next(line for line in page.splitlines() if line.startswith('| another `"label"`'))
    assert all(f'`"{name}"`' in row for name in ("label", *rows.SCALES))


# ---- how many may be skipped


@pytest.mark.parametrize(("bad", "refused"), [(1, False), (2, False), (3, True)])
def test_a_file_most_of_whose_rows_are_skipped_is_refused(write, capsys, bad, refused):
    """2 good rows beside `bad` ones: half may be skipped. 47 of 50 once were, with exit code 0, and
    the model learned from three."""
    path = write([PAIR] * 2 + [SAME["chosen"]] * bad)
    if refused:
        with pytest.raises(InputError, match="more than half .*; skipped 3 of 5 rows .*--skip-bad"):
            jsonl.read_comparisons(path)
        assert capsys.readouterr().err == ""
    assert len(jsonl.read_comparisons(path, skip_bad=True)) == 2
    assert f"skipped {bad} of {bad + 2} rows" in capsys.readouterr().err
    if not refused:
        assert len(jsonl.read_comparisons(path)) == 2


def test_each_reason_is_counted_with_its_first_line(write, capsys):
    """Blank lines are no rows, but count as lines."""
    path = write([PAIR, SAME["chosen"], PAIR, {"chosen": "x", "rejected": "y"}, SAME["dialogues"]])
    path.write_text("\n" + path.read_text())
    jsonl.read_comparisons(path, skip_bad=True)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"{path}: skipped 2 of 5 rows (first: {path}:3): all responses are")
    assert second.startswith(f"{path}: skipped 1 of 5 rows (first: {path}:5): no field 'prompt'")


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_file_of_nothing_but_skipped_rows_is_refused_with_the_reason(write, skip_bad):
    """Training on no data would divide by zero much later. No flag lets it go on."""
    path = write([SAME["dialogues"]] * 2)
    expected = f"{path}: no usable record; skipped 2 of 2 rows (first: {path}:1): all responses are"
    with pytest.raises(InputError) as error:
        jsonl.read_comparisons(path, skip_bad=skip_bad)
    assert str(error.value).startswith(expected)


# ---- responses that repeat the prompt

Q = "Name a colour.\n"
REPEATING = {
    "pair": ({"prompt": Q, "chosen": Q + "Blue", "rejected": Q + "7"}, ["Blue", "7"]),
    "ranks": (
        {"prompt": Q, "responses": [Q + "Blue", Q + "7"], "ranks": [0, 1]},
        ["Blue", "7"],
    ),
}


@pytest.mark.parametrize(("row", "responses"), REPEATING.values(), ids=REPEATING)
def test_a_prompt_that_all_responses_repeat_is_removed_from_them(write, capsys, row, responses):
    """The prompt stands before the response in each stage already: a model would learn to say it
    twice. The count is of the rows that were changed, and the other row stays as it is."""
    plain = {"prompt": Q, "chosen": "Red", "rejected": Q + "8"}
    path = write([plain, row, row])
    records = jsonl.read_comparisons(path)
    assert [record.responses for record in records] == [["Red", Q + "8"], responses, responses]
    assert {record.prompt for record in records} == {Q}
    message = capsys.readouterr().err
    assert message.startswith(f"{path}: in 2 of 3 rows (first: {path}:2) ")
    assert "removed" in message and message.count("\n") == 1


def test_a_demonstration_that_repeats_its_prompt_loses_it(write, capsys):
    """The same rule for a single response, and for the chosen side of a pair."""
    path = write([{"prompt": Q, "response": Q + "Blue"}, REPEATING["pair"][0]])
    assert jsonl.read_demonstrations(path) == [Demonstration(Q, "Blue")] * 2
    assert "in 2 of 2 rows" in capsys.readouterr().err
    assert jsonl.read_prompts(path) == [Q, Q]
    assert capsys.readouterr().err == ""


def test_responses_that_begin_with_their_prompt_by_chance_stay(write, capsys):
    """ "Hi" may be answered by "Hi there". What a file is like shows in most of its rows: of two
    rows one is not enough."""
    chance = {"prompt": "Hi", "chosen": "Hi there", "rejected": "Hi!"}
    path = write([chance, PAIR])
    assert jsonl.read_comparisons(path)[0].responses == ["Hi there", "Hi!"]
    message = capsys.readouterr().err
    assert message.startswith(f"{path}: in 1 of 2 rows (first: {path}:1) ") and "stay" in message


def test_an_empty_prompt_is_not_repeated(write, capsys):
    """Every text begins with the empty one."""
    path = write([{"prompt": "", "response": "a"}])
    assert jsonl.read_demonstrations(path) == [Demonstration("", "a")]
    assert capsys.readouterr().err == ""


def test_what_a_run_collected_is_read_back_whole(tmp_path, capsys):
    """A resumed reward model learns from what it sampled: four equal responses, and some that
    repeat the prompt, are rows like others there."""
    records = [Comparison("p", ["a", "a"], [0, 1]), Comparison("p", ["pa", "pb"], [1, 0])]
    path = tmp_path / "comparisons.jsonl"
    path.write_text(jsonl.write_records(records))
    assert jsonl.read_collected(path) == records
    assert capsys.readouterr().err == ""


def test_the_first_row_says_whether_a_file_holds_comparisons(write):
    """A file of pairs serves the reward model as well; one of demonstrations does not."""
    assert jsonl.holds_comparisons(write([PAIR]))
    assert jsonl.holds_comparisons(write([REPEATING["ranks"][0]]))
    assert not jsonl.holds_comparisons(write([DEMONSTRATION]))
