"""The specification of `minirlhf label`: keys through a pseudo-terminal, lines through a pipe."""

import importlib
import io
import json
import os
import pty
import re
import select
import shlex
import signal
import sys
import termios
import time
from pathlib import Path

import pytest

from minirlhf.__main__ import COMMANDS
from minirlhf.feedback import questions
from minirlhf.feedback.questions import Question
from minirlhf.formats import jsonl, labels
from minirlhf.run import config
from minirlhf.tools import label

TITLE = "\x1b]0;taken over\x07"  # sets the title of a terminal


@pytest.fixture
def responses(tmp_path):
    """A file of 60 prompts with two responses each, which hold a control sequence."""
    path = tmp_path / "responses.jsonl"
    rows = [
        {"prompt": f"Q{i}?\n", "responses": [f"good{TITLE} {i}", f"bad {i} " * 20]}
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def flags(responses, tmp_path):
    path = tmp_path / "labels.jsonl"
    return ["--data", str(responses), "--out", str(path), "--labeller", "ada"]


class Session:
    """`minirlhf label` in a child with a terminal of its own. What was typed `ahead` lies in the
    terminal before the command starts."""

    def __init__(self, argv, ahead="", term="xterm"):
        begin, start = os.pipe()
        self.pid, self.terminal = pty.fork()
        if not self.pid:
            os.close(start)
            os.read(begin, 1)
            run(argv, term)
        os.close(begin)
        self.modes = termios.tcgetattr(self.terminal)
        self.output = ""
        self.press(ahead)
        os.close(start)

    def press(self, keys):
        os.write(self.terminal, keys.encode())

    def read(self, seconds):
        """Add to the output what comes within so many seconds; whether something did."""
        if not select.select([self.terminal], [], [], seconds)[0]:
            return False
        try:
            part = os.read(self.terminal, 65536).decode("utf-8", "replace")
        except OSError:  # the child has ended
            return False
        self.output += part
        return bool(part)

    def wait_for(self, text, after=0):
        """Until the output has the text behind so many characters. Returns the end of its place."""
        stop = time.monotonic() + 60
        while text not in self.output[after:]:
            assert self.read(stop - time.monotonic()), self.output[-2000:]
        return self.output.index(text, after) + len(text)

    def answer(self, *keys):
        """Press the keys one after another: each when the screen shows the question anew."""
        for key in keys:
            place = len(self.output)
            self.press(key)
            self.wait_for("? help", place)

    def end(self):
        """The exit code."""
        while self.read(60):
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def run(argv, term):
    """In the child: it ends here, whatever happens."""
    code = 1
    try:
        os.environ["TERM"] = term
        sys.stdin, sys.stdout = open(0), open(1, "w")
        sys.stderr = open(2, "w")
        config.run(lambda: label.main(argv))
        code = 0
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.stdout.flush()
        os._exit(code)


def kinds(path):
    return [(x.decision, x.ranks) for x in labels.read_labels(path)]


def test_each_key_does_what_the_help_says(flags):
    """A choice, a tie, a skip; an answer that is taken back and given again; flags, one of them
    taken off again; a written answer with a slip that is corrected."""
    session = Session(flags)
    session.wait_for("? help")
    session.answer("1", "t", "s", "2", "z", "1")
    for keys in ("r2", "u2", "r1", "r1"):
        session.press(keys[0])
        session.wait_for("which response", len(session.output))
        session.answer(keys[1])
    session.press("w")
    session.wait_for("a better answer")
    session.answer("mine\x7fn it is\n", "2")
    session.press("q")
    assert session.end() == 0
    assert "the same command goes on" in session.output
    stored = labels.read_labels(flags[3])
    assert [(x.decision, x.ranks) for x in stored] == [
        ("better", [0, 1]),
        ("tie", [0, 0]),
        ("skip", [0, 0]),
        ("better", [0, 1]),
        ("better", [2, 1, 0]),
    ]
    assert stored[4].responses[2] == "minn it is" and stored[4].written
    assert stored[4].flags == [[], ["rude", "untrue"], []]
    assert {x.labeller for x in stored} == {"ada"}
    assert len({x.prompt for x in stored}) == 5


def test_started_again_it_goes_on_where_it_stopped(flags):
    """With the question that the first session showed last, its responses on the same sides; an
    answer of an earlier session can be taken back."""
    session = Session(flags)
    session.wait_for("? help")
    session.answer("1", "2")
    session.press("q")
    session.end()
    shown = session.output.rpartition("question 3 of 60")[2].partition("? help")[0]
    again = Session(flags)
    place = again.wait_for("? help")
    assert shown in again.output[:place]
    again.answer("z")
    assert "question 2 of 60" in again.output[place:]
    again.press("q")
    again.end()
    assert len(labels.read_labels(flags[3])) == 1


def kill(session):
    """SIGKILL; returns how many answers the screen had gone past."""
    os.kill(session.pid, signal.SIGKILL)
    assert session.end() == -signal.SIGKILL
    return session.output.count("? help") - 1


def test_killed_at_any_moment_it_has_every_answer_that_was_given(flags):
    """SIGKILL while keys stream in, each time somewhere else. Whenever the next question was shown,
    the file has the answer to the one before; it is whole, and no question is asked twice."""
    answers = 0
    for attempt in range(8):
        session = Session(flags)
        session.wait_for("? help")
        session.press("12t12ss")
        session.wait_for(f"{answers + 1 + attempt % 4} answered")
        time.sleep(0.0007 * attempt)
        shown = kill(session)
        stored = labels.read_labels(flags[3])
        assert shown >= 1 + attempt % 4 and shown <= len(stored) - answers <= 7
        answers = len(stored)
    with open(flags[3], "rb") as file:
        assert file.read().endswith(b"\n")
    assert len({x.prompt for x in labels.read_labels(flags[3])}) == answers


def test_killed_while_an_answer_is_taken_back_it_has_all_the_others(flags):
    session = Session(flags)
    session.wait_for("? help")
    session.answer("1", "t", "2")
    kill(session)
    first = labels.read_labels(flags[3])
    for attempt in range(5):
        session = Session(flags)
        place = session.wait_for("? help")
        session.press("1z" * 5)
        session.wait_for("? help", place)
        time.sleep(0.001 * attempt)
        kill(session)
        assert labels.read_labels(flags[3])[:3] == first
        assert len(labels.read_labels(flags[3])) in (3, 4)
        with open(flags[3], "w") as file:  # as it was: the next one begins with three answers
            file.writelines(map(labels.line_of, first))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_gives_the_terminal_back_as_it_was(flags, number):
    session = Session(flags)
    session.wait_for("? help")
    session.answer("1")
    assert termios.tcgetattr(session.terminal) != session.modes
    os.kill(session.pid, number)
    session.wait_for("stopped")
    assert termios.tcgetattr(session.terminal) == session.modes
    assert session.end() == 128 + number
    assert kinds(flags[3]) == [("better", [0, 1])]


def test_arrow_keys_and_what_was_typed_too_early_are_no_answers(flags):
    """Ctrl-left sends ESC [ 1 ; 5 D, which has a 1 in it."""
    session = Session(flags, ahead="1\n2t")
    session.wait_for("? help")
    session.press("\x1b[A\x1b[1;5D\x1bOP\x1b[15~")
    session.answer("x")
    assert "'x' is no key here" in session.output
    session.press("\x04")
    assert session.end() == 0
    assert not os.path.exists(flags[3])


def test_the_screen_has_eighty_columns_no_colour_and_no_sequence_of_the_datas(flags):
    """Of escape sequences an ordinary terminal gets the one that clears it, a dumb one none."""
    session = Session(flags, term="dumb")
    session.wait_for("? help")
    session.press("q")
    session.end()
    assert "\x1b" not in session.output and "taken over" in session.output
    screen = session.output.rpartition("? help")[0]
    assert max(map(len, screen.split("\r\n"))) <= 80
    session = Session(flags)
    session.wait_for("? help")
    assert "\x1b" not in session.output  # what stood there before the first question stays
    session.answer("x")
    session.press("q")
    session.end()
    assert session.output.count("\x1b[H\x1b[2J") == 1
    assert set(session.output.replace("\x1b[H\x1b[2J", "")) & {"\x1b", "\x07"} == set()


# ---- without a terminal


@pytest.fixture
def ask(monkeypatch, capsys):
    """ask(argv, lines) -> what is printed while the lines come through standard input."""

    def answer(argv, lines=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        label.main(argv)
        return capsys.readouterr().out

    return answer


def test_lines_answer_as_keys_do(flags, ask):
    output = ask(flags, "1\nt\nr2w mine it is\n2\nz\n\n2 s")
    assert kinds(flags[3]) == [
        ("better", [0, 1]),
        ("tie", [0, 0]),
        ("better", [1, 0]),
        ("skip", [0, 0]),
    ]
    assert "4 answers of ada" in output


def test_a_rating_is_asked_for_each_response_and_for_ones_own(flags, ask):
    """A key that is no rating leaves the question unanswered; a skipped one is not rated."""
    ask([*flags, "--rate"], "1 4 2\n1 4 9\ns\nw better\nt335\n")
    stored = labels.read_labels(flags[3])
    assert [(x.decision, x.ratings) for x in stored] == [
        ("better", [4, 2]),
        ("skip", None),
        ("tie", [3, 3, 5]),
    ]


def test_of_several_responses_one_is_best(tmp_path, ask):
    path, out = tmp_path / "three.jsonl", tmp_path / "labels.jsonl"
    path.write_text('{"prompt": "p", "responses": ["a", "b", "c"]}\n')
    output = ask(["--data", str(path), "--out", str(out)], "3")
    assert kinds(out) == [("better", [1, 1, 0])]
    assert "every question is answered" in output


def test_the_limit_counts_what_was_answered_before(flags, ask):
    ask([*flags, "--limit", "3"], "1")
    assert "every question is answered" in ask([*flags, "--limit", "3"], "11111")
    assert len(kinds(flags[3])) == 3


def test_two_labellers_of_one_file_are_told_apart_and_compared(flags, ask):
    """Both get the same questions in the same order; ben prefers what ada does not."""
    ask(flags, "1" * 60)
    stored = labels.read_labels(flags[3])
    good = {x.prompt: x.responses[0] for x in stored}
    flags[5] = "ben"
    asked = [Question(x.prompt, tuple(x.responses)) for x in stored]
    shown = [questions.blind(question, "ben", 1) for question in asked]
    keys = ["1" if q.responses[0] != good[q.prompt] else "2" for q in shown[:40]]
    ask(flags, "".join([*keys, "1z"]))  # what is taken back is ben's own
    output = ask(["--agreement", "--out", flags[3]])
    assert "ada       60" in output and "ben       40" in output
    assert output.splitlines()[-1].split()[:5] == ["ada", "ben", "40", "0.00", "0.00"]
    folder = os.path.dirname(flags[3])
    os.rename(f"{folder}/responses.jsonl", f"{folder}/responses")
    assert output == ask(["--agreement", "--out", folder])


def test_it_asks_about_samples_of_a_policy_that_differ(colour_run, colours, tmp_path, ask):
    """Of --data only the prompts are read. train_rm.py's reader takes what comes out."""
    out = tmp_path / "labels.jsonl"
    flags = ["--policy", f"{colour_run}/sft", "--data", str(colours / "prompts.jsonl")]
    flags += ["--out", str(out), "--max-new-tokens", "6", "--temperature", "2"]
    output = ask(flags, "1" * 40)
    stored = labels.read_labels(out)
    prompts = jsonl.read_prompts(colours / "prompts.jsonl")
    assert stored and {x.prompt for x in stored} <= set(prompts)
    assert all(len(set(x.responses)) == 2 for x in stored)
    assert f"{40 - len(stored)} of 40 are not asked about" in output
    assert len(jsonl.read_comparisons(out)) == len(stored)
    assert "every question is answered" in ask(flags)  # the same samples, all answered


def test_the_optimal_order_needs_a_reward_model_and_differs_from_the_random_one(
    colour_run, colours, tmp_path, ask
):
    flags = ["--data", str(colours / "comparisons.jsonl"), "--order", "optimal"]
    flags += ["--reward-model", f"{colour_run}/rm", "--labeller", "ada"]
    orders = []
    for name, more in (("optimal", []), ("random", ["--order", "random"])):
        out = tmp_path / f"{name}.jsonl"
        for _ in range(2):  # in two sessions
            ask([*flags, *more, "--out", str(out)], "1" * 10)
        orders.append([x.prompt for x in labels.read_labels(out)])
    assert len(set(orders[0])) == len(set(orders[1])) == 20 and orders[0] != orders[1]
    whole = tmp_path / "whole.jsonl"
    ask([*flags, "--out", str(whole)], "1" * 20)
    assert [x.prompt for x in labels.read_labels(whole)] == orders[0]


def test_mistakes_are_one_line_with_a_remedy(flags, refused, tmp_path, colours):
    out = ["--out", str(tmp_path / "labels.jsonl")]
    prompts = ["--data", str(colours / "prompts.jsonl")]
    same = tmp_path / "same.jsonl"
    same.write_text('{"prompt": "p", "responses": ["a", "a "]}\n')
    half = tmp_path / "half.jsonl"
    half.write_text('{"prompt": "p", "responses": ["a", "\\ud83d"]}\n')
    many = tmp_path / "many.jsonl"
    many.write_text(json.dumps({"prompt": "p", "responses": list("abcdefghijkl")}) + "\n")
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"prompt": "p", "responses": "a"}\n')
    cases = (
        (["--data", flags[1], "--out", flags[1]], "is the file that --data reads"),
        ([*prompts, *out], "to sample responses to prompts, give --policy"),
        (["--data", str(half), *out], "half.jsonl:1: holds half of a surrogate pair"),
        (["--data", str(many), *out], "12 responses to a prompt, but there are 9 keys"),
        (["--data", str(same), *out], "no pair of different responses"),
        (["--data", str(wrong), *out], "wrong.jsonl:1: field 'responses' must be a list"),
        (["--data", flags[1], "--out", str(colours / "comparisons.jsonl")], "no label"),
        (["--data", flags[1], "--out", str(tmp_path)], "a plain file"),
        (["--agreement", *out], "holds no answers"),
        ([*flags, "--labeller", "a\x1bb"], "use visible characters"),
        (["--policy", str(tmp_path / "none"), *out], "none"),
    )
    for argv, problem in cases:
        assert re.search(problem, refused(label.main, argv, tmp_path)), (argv, problem)


def test_every_command_of_its_page_has_flags_that_exist():
    """docs/feedback.md shows them as they are typed."""
    page = (Path(__file__).parents[2] / "docs" / "feedback.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(?:minirlhf|python) .*$", page, re.M)
    names = set()
    for line in lines:
        first, name, *arguments = shlex.split(re.sub(r"  .*", "", line))
        if first == "python" and name == "-m":
            module = arguments.pop(0)
        else:
            name = name.removeprefix("train_").removesuffix(".py")
            module = COMMANDS[name].module
        config.parse(importlib.import_module(module).Config, arguments)
        names.add(name)
    assert {"label", "taste", "rm"} <= names
