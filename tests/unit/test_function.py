"""The specification of rewards/function.py: what a user's reward may do and may return."""

import os
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch

from minirlhf.data import Prompt
from minirlhf.rewards.function import call, columns, judge, load_function, source
from minirlhf.run.config import InputError
from minirlhf.run.resume import fingerprint


class Reply(NamedTuple):
    text: str


REPLIES = [Reply("a"), Reply("bb")]
SCORES = {
    "a list": [1, 2.5],
    "a tensor": torch.tensor([1, 2.5]),
    "with a gradient": torch.tensor([1, 2.5], requires_grad=True),
    "bf16": torch.tensor([1, 2.5], dtype=torch.bfloat16),
    "float64": torch.tensor([1, 2.5], dtype=torch.float64),
}


@pytest.mark.parametrize("kind", SCORES)
def test_scores_may_be_numbers_of_any_kind(kind):
    """A user's own reward model gives a tensor with a gradient, which numpy refuses."""
    scores = call("mine:f", lambda prompts, responses: SCORES[kind], ["p", "p"], REPLIES)
    assert scores.dtype == torch.float32 and scores.tolist() == [1, 2.5]
    assert not scores.requires_grad


def test_a_function_that_sets_torchs_default_type_changes_nothing_here(tmp_path, monkeypatch):
    """float64 as the default makes heads and masks that fit to no float32 weight. It may be set on
    import or in a call."""
    path = tmp_path / "double_reward.py"
    path.write_text(
        "import torch\ntorch.set_default_dtype(torch.float64)\n"
        "def score(prompts, responses):\n"
        "    torch.set_default_dtype(torch.float64)\n    return torch.zeros(len(prompts))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    function = load_function("--reward", "double_reward:score")
    assert torch.get_default_dtype() == torch.float32
    assert call("double_reward:score", function, ["p", "p"], REPLIES).dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32


def test_a_function_may_change_what_it_is_given_and_where_it_stands():
    """Its lists are copies, columns too: the prompts of a later evaluation, and those of the other
    order of a labeller, are what they were. So are the folder and torch's gradients."""
    prompts = [Prompt("p\n", {"facts": ["f"]}), Prompt("q\n", {"facts": []})]

    def untidy(prompts, responses, facts):
        os.chdir("/")
        torch.set_grad_enabled(False)
        facts[0].append("g")
        prompts[:] = [prompt.strip() for prompt in prompts]
        responses.clear()
        return [len(prompts), len(facts[0])]

    folder, fields = os.getcwd(), [prompt.columns for prompt in prompts]
    assert call("mine:untidy", untidy, prompts, REPLIES).tolist() == [2, 2]
    assert prompts == ["p\n", "q\n"] and fields == [{"facts": ["f"]}, {"facts": []}]
    assert os.getcwd() == folder and torch.is_grad_enabled()


def test_a_function_that_leaves_the_program_has_failed():
    """`sys.exit` in it would end a run without a word, and without the save."""
    with pytest.raises(InputError, match="failed at .*, line .*: SystemExit: 3"):
        call("mine:f", lambda prompts, responses: sys.exit(3), ["p", "p"], REPLIES)


def test_the_source_of_a_function_is_known_by_its_bytes(tmp_path, monkeypatch):
    """A resumed run says that its reward is another one."""
    path = tmp_path / "counted_reward.py"
    path.write_text("def score(prompts, responses):\n    return [0.0] * len(prompts)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_function("--reward", "counted_reward:score")
    first = source("counted_reward:score")
    path.write_text(path.read_text().replace("0.0", "1.0"))
    assert len(first) == 16 and source("counted_reward:score") != first
    assert source("") is None and source("builtins:len") is None


# ---- a judge


def judged(function):
    """What `judge` makes of a function, on two prompts."""
    return judge("my:judge", function, ["p", "q"], ["a", "b"], ["c", "d"])


def test_a_judge_sees_the_prompts_and_both_sides_and_gives_probabilities():
    """As numbers of any kind; True and False say that it is sure."""
    for values in ([0, 0.25], torch.tensor([0, 0.25]), np.array([0, 0.25]), [False, 0.25]):
        calls = []
        rates = judged(lambda *columns, values=values, calls=calls: calls.append(columns) or values)
        assert calls == [(["p", "q"], ["a", "b"], ["c", "d"])]
        assert rates.tolist() == [0, 0.25] and rates.dtype == torch.float32


@pytest.mark.parametrize("bad", [-0.1, 1.5, float("nan"), float("inf"), None, "first", [1]])
def test_what_is_no_probability_is_shown_whole_with_its_place(bad):
    """A judge that answers with scores would give a win rate of 300%."""
    with pytest.raises(InputError) as error:
        judged(lambda *_: [0.5, bad])
    words = "--judge my:judge must return 2 numbers from 0 to 1, one a response; got "
    assert str(error.value) == f"{words}{bad!r} for response 1: {[0.5, bad]!r}"


@pytest.mark.parametrize("value", [None, 0.5, [0.5], [0.5] * 3, "ab", {}])
def test_a_result_that_is_not_one_number_a_response_is_refused(value):
    with pytest.raises(InputError, match="must return 2 numbers from 0 to 1"):
        judged(lambda *_: value)


def test_a_judge_that_fails_is_an_error_in_the_users_file():
    """It used to be a traceback, after both policies had answered every prompt."""

    def fails(prompts, first, second):
        return [1 / len(text[1:]) for text in first]

    line = fails.__code__.co_firstlineno + 1
    with pytest.raises(InputError) as error:
        judged(fails)
    place = f"--judge my:judge failed at {__file__}, line {line}: "
    assert str(error.value) == place + "ZeroDivisionError: division by zero"


# ---- a file that fails while it is imported

BROKEN = {
    "syntax": ("def score(:\n", "line 1: SyntaxError: invalid syntax"),
    "name": ("\n\nx = y\n", "line 3: NameError: name 'y' is not defined"),
    "file": ("open('/none/x')\n", "line 1: FileNotFoundError: "),
    "key": ("{}['a']\n", "line 1: KeyError: 'a'"),
    "package": ("import no_such_package\n", "line 1; write module:function"),
    "exit": ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
    "value": ("import json\njson.loads('{')\n", "line 2; write module:function"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_cannot_be_imported_is_named_with_its_line(tmp_path, monkeypatch, kind):
    """A colon that is missing, a file of its own that is not there: one line, not a traceback."""
    source, words = BROKEN[kind]
    path = tmp_path / f"broken_{kind}.py"
    path.write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    for option in ("--reward", "--judge"):
        with pytest.raises(InputError) as error:
            load_function(option, f"broken_{kind}:score")
        message = str(error.value)
        assert message.startswith(f"{option} broken_{kind}:score") and "\n" not in message
        assert f"at {path}, {words}" in message


def test_an_async_function_is_refused(tmp_path, monkeypatch):
    """It returns a promise of scores."""
    (tmp_path / "later_reward.py").write_text("async def score(prompts, responses):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match="score is an async function; write"):
        load_function("--reward", "later_reward:score")


# ---- columns


def test_a_third_parameter_is_a_column_of_the_data():
    """A list with the value of each prompt. A parameter with a default is the user's own."""

    def correct(prompts, responses, answer, scale=2.0):
        return [scale * (right == text) for right, text in zip(answer, responses, strict=True)]

    prompts = [Prompt("p", {"answer": "a", "level": 1}), Prompt("q", {"answer": "x", "level": 2})]
    assert columns(correct) == ("answer",) and columns(min) == ()
    assert call("mine:correct", correct, prompts, REPLIES).tolist() == [2, 0]
    assert columns(lambda prompts, responses, *rest, level, **others: None) == ("level",)


def test_a_reward_sees_each_response_as_it_was_written_beside_its_prompt_and_columns():
    """A space or a line break at either end is a part of what the policy wrote."""
    seen = []

    def spy(prompts, responses, answer):
        seen.extend(zip(prompts, responses, answer, strict=True))
        return [0.0] * len(responses)

    prompts = [Prompt("p ", {"answer": 1}), Prompt("q\n", {"answer": 2})]
    call("mine:spy", spy, prompts, [Reply(" a\n"), Reply("\tb ")])
    assert seen == [("p ", " a\n", 1), ("q\n", "\tb ", 2)]


@pytest.mark.parametrize("prompts", [["p", "p"], [Prompt("p", {"answer": 1}), Prompt("p")]])
def test_a_column_that_the_prompts_lack_is_a_mistake_of_one_line(prompts):
    """The world's prompts are plain texts."""
    with pytest.raises(InputError, match="--reward mine:f asks for answer, which these prompts"):
        call("mine:f", lambda prompts, responses, answer: [0, 0], prompts, REPLIES)


def test_the_columns_of_a_prompt_belong_to_the_fingerprint_of_the_data():
    """A resumed run must not get other answers. Without columns a prompt is its text."""
    assert fingerprint([Prompt("p")]) == fingerprint(["p"])
    first, other = ([Prompt("p", {"answer": n})] for n in (1, 2))
    assert fingerprint(first) != fingerprint(other)
    assert Prompt("p", {"answer": 1}) == "p" and len({Prompt("p", {"answer": 1}), "p"}) == 1
