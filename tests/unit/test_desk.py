"""What stands behind the page of `minirlhf web`, without a browser, held against what the same keys
do in a terminal."""

import dataclasses
import io
import json
import sys
from html.parser import HTMLParser

import pytest
from recorder import save_policy, write_records

from minirlhf.formats import labels
from minirlhf.run import config
from minirlhf.run.config import InputError
from minirlhf.tools import chat, desk, label, web
from minirlhf.tools.desk import Desk, Talk

EVIL = '<img src=x onerror="hacked=1">\n**bold** &amp; ${1} {{value}}\x1b]0;title\x07'


@pytest.fixture
def flags(tmp_path):
    """Of 12 prompts with three responses each."""
    rows = [
        {"prompt": f"Q{i}?\n", "responses": [f"good {i}", f"bad {i}", f"odd {i}\nline"]}
        for i in range(12)
    ]
    path = write_records(tmp_path / "responses.jsonl", rows)
    return ["--data", str(path), "--out", str(tmp_path / "labels.jsonl")]


@pytest.fixture
def desk_of(flags):
    """desk_of(name, *more flags) -> the Desk of a labeller."""

    def make(name="ada", *more):
        return Desk(config.parse(web.Config, [*flags, *more]), name)

    return make


def stored(flags):
    return labels.read_labels(flags[3])


def press(person, keys, flags=((), (), ()), written=""):
    """Press the key of an answer, and those of its ratings."""
    for place, key in enumerate(keys):
        person.press(key, flags, written, rating=place > 0)


# ---- label


@pytest.mark.parametrize("rate", [(), ("--rate",)])
def test_a_press_writes_the_line_that_the_terminal_writes_for_the_same_keys(
    flags, desk_of, monkeypatch, rate
):
    """The questions in the same order with the same sides; a choice, a tie, a skip, two answers
    taken back, flags, and a written answer. The time apart the files are equal."""
    rated = "13" * 2 if rate else ""  # one to four ratings of 1 and 3
    keys = ["2" + rated[:3], "t" + rated[:3], "s", "1" + rated[:3]]
    lines = [*keys, "z", "z", "t" + rated[:3], "r2", "u2", "r1", "w", "mine  it is", "3" + rated]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*lines, "q"]) + "\n"))
    label.main([*flags[:2], "--out", flags[3] + ".terminal", "--labeller", "ada", *rate])
    person = desk_of("ada", *rate)
    for key in keys:
        press(person, key)
    for key in ["z", "z", "t" + rated[:3]]:
        press(person, key)
    press(person, "3" + rated, [["rude"], ["rude", "untrue"], []], " mine  it is ")
    records = [
        [dataclasses.replace(record, time="") for record in labels.read_labels(path)]
        for path in (flags[3], flags[3] + ".terminal")
    ]
    assert records[0] == records[1]
    assert [record.decision for record in records[0]] == ["better", "tie", "tie", "better"]
    assert records[0][-1].written and bool(records[0][0].ratings) == bool(rate)


def test_an_answer_is_in_the_file_before_the_next_question_is_shown(desk_of, flags, monkeypatch):
    """Where it cannot be written, the question stays, and the file is as it was."""
    person = desk_of()
    first = person.question
    person.press("1", [[], [], []])
    assert stored(flags)[-1].prompt == first.prompt and person.question != first
    second, add = person.question, labels.add
    monkeypatch.setattr(labels, "add", lambda *parts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        person.press("1", [[], [], []])
    assert person.question == second and len(stored(flags)) == 1
    monkeypatch.setattr(labels, "add", add)
    person.press("1", [[], [], []])
    assert [record.prompt for record in stored(flags)] == [first.prompt, second.prompt]


def test_another_session_goes_on_where_one_stopped_and_names_have_questions_of_their_own(
    desk_of, monkeypatch
):
    """The sides of the question that was shown last are the same. The order may depend on the
    labeller's own answers."""
    person = desk_of()
    for key in "1t":
        press(person, key)
    again = desk_of()
    assert again.question == person.question and again.heading.startswith("question 3 of 12")
    load, own = label.load_questions, []
    monkeypatch.setattr(label, "load_questions", lambda *x: own.append(len(x[1])) or load(*x))
    assert desk_of("ben").heading.startswith("question 1 of 12")
    assert desk_of().question == person.question and own == [0, 2]


def test_a_question_that_was_answered_elsewhere_is_not_answered_twice(desk_of, flags):
    """In another tab, or in the terminal, under the same name."""
    here, there = desk_of(), desk_of()
    there.press("1", [[], [], []])
    here.press("2", [[], [], []])
    assert len(stored(flags)) == 1 and "answered elsewhere" in here.note
    assert here.question == there.question
    here.press("2", [[], [], []])
    assert len(stored(flags)) == 2 and here.note == ""


def test_a_written_answer_that_is_one_of_the_responses_is_refused(desk_of, flags):
    """White space and control characters do not make it another one."""
    person = desk_of()
    text = person.question.responses[2]
    person.press("1", [[], [], []], "  " + text.replace(" ", "\n"))
    assert stored(flags) == [] and "is one of the responses" in person.note


def test_ratings_are_asked_for_one_by_one_and_anew_after_another_choice(desk_of, flags):
    """The answer counts when the last response is rated."""
    person = desk_of("ada", "--rate")
    notes = []
    for keys in ("2", "24", "1", "15", "153"):
        press(person, keys)
        notes.append(person.note)
    assert notes[0] == notes[2] == "rate response 1: 1 (bad) to 5 (good)"
    assert [note[:15] for note in notes[1::2]] == ["rate response 2"] * 2
    assert stored(flags) == []
    press(person, "1532")
    assert person.draft is None
    assert [(x.ranks, x.ratings) for x in stored(flags)] == [([0, 1, 1], [5, 3, 2])]


def test_when_every_question_is_answered_the_page_says_so_and_undo_goes_back(desk_of, flags):
    person = desk_of("ada", "--limit", "2")
    for key in "t1":
        person.press(key, [[], [], []])
    assert person.question is None and flags[3] in person.heading
    person.press("1")
    assert len(stored(flags)) == 2
    person.press("z")
    assert person.heading.startswith("question 2 of 2") and len(stored(flags)) == 1
    for key in "zz":
        person.press(key)
    assert person.note == "nothing to take back"


# ---- chat


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    for seed in (9, 4):
        save_policy(folder / str(seed), seed=seed)
    return [str(folder / name) for name in ("9", "4")]


def settings(first, second="", **more):
    numbers = {"max_new_tokens": 16, "seed": 3, "temperature": 0.8, "threads": 1} | more
    return chat.Config(policy=first, baseline=second, **numbers)


def test_a_talk_grows_token_by_token_to_the_answers_of_minirlhf_chat(policies):
    """Of two checkpoints side by side, for two messages, under the noise of the seed."""
    talk, words = Talk(), settings(*policies)
    conversation = chat.start(words)
    for place, message in enumerate(["Hello", "And now?"]):
        expected = conversation.answers(message)
        for answer in expected:
            for _ in answer:
                pass
        conversation.add(message, expected)
        steps = [[list(side) for side in sides] for sides in talk.say(message, words)]
        assert steps[-1] == conversation.turns
        for side in (0, 1):
            texts = [step[side][place][1] for step in steps]
            assert len(set(texts)) > (2, 0)[side]  # the second one ends at once
            assert all(b.startswith(a) for a, b in zip(texts, texts[1:], strict=False))


def test_a_talk_that_is_stopped_keeps_what_was_said_and_goes_on(policies):
    talk = Talk()
    for step, sides in enumerate(talk.say("Hello", settings(policies[0]))):
        talk.stopped = step == 1
        shown = [list(side) for side in sides]
    assert step == 2 and len(shown[0]) == 1 and "cut off after 2 tokens" in talk.notes[0]
    talk.stopped = True
    *_, last = talk.say("On", settings(policies[0]))
    assert last[0][0] == shown[0][0] and len(last[0]) == 2
    assert "cut off after 2 tokens" not in "".join(talk.notes) and last[0][1][1]


def test_another_seed_or_temperature_goes_on_and_another_checkpoint_begins_anew(policies):
    """What cannot be loaded is one line, and the conversation stays as it was."""
    talk = Talk()
    say = [list(talk.say("Hello", settings(policies[0], seed=seed)))[-1] for seed in (3, 5, 3)]
    turns = [text for _, text in say[2][0]]
    assert len(turns) == 3 and turns[0] == turns[2] != turns[1]
    greedy = [list(talk.say("Hello", settings(policies[0], temperature=0.0)))[-1] for _ in "ab"]
    assert greedy[1][0][3] == greedy[1][0][4]
    with pytest.raises(InputError, match="nowhere"):
        list(talk.say("Hello", settings(policies[0], "nowhere")))
    assert len(list(talk.say("Hello", settings(policies[0])))[-1][0]) == 6
    assert len(list(talk.say("Hello", settings(policies[1])))[-1][0]) == 1
    assert list(talk.say("", settings(policies[1]))) == []


# ---- what is shown


class Reader(HTMLParser):
    """The tags and the text of a piece of HTML, as a browser takes them."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_a_text_is_shown_as_text_whatever_is_in_it():
    """No tag comes from it, and every visible character is there; control characters are not."""
    visible = EVIL.replace("\x1b", "\ufffd").replace("\x07", "\ufffd")
    reader = Reader(desk.shown(EVIL))
    assert reader.tags == [("div", {"class": "text"})] and reader.text == visible
    reader = Reader(desk.dialogue(EVIL, [(EVIL, EVIL), ("hm", "")]))
    assert {tag for tag, _ in reader.tags} == {"div"}
    assert reader.text.count(visible) == 3 and "(an empty text)" in reader.text


@pytest.fixture
def folder(tmp_path):
    """Two runs with checkpoints, one of them without a metric yet, and what is no run."""
    for stage in ("sft", "deep/ppo"):
        place = tmp_path / "out" / stage
        save_policy(place, seed=1)
        record = {"stage": place.name, "flags": {}, "inputs": {}, "data": EVIL}
        (place / "config.json").write_text(json.dumps(record))
    write_records(tmp_path / "out/sft/metrics.jsonl", [{"step": i, "loss": 2 - i} for i in (0, 1)])
    (tmp_path / "out/sft/samples.txt").write_text(f"title\n{EVIL}")
    (tmp_path / "out/torn").mkdir()
    (tmp_path / "out/torn/config.json").write_text("{")
    return tmp_path / "out"


def test_the_runs_of_a_folder_and_those_that_answer(folder):
    """A damaged record is no run, and without its checkpoint a run does not answer."""
    both = {str(folder / "sft"), str(folder / "deep/ppo")}
    assert set(desk.runs(folder)) == set(desk.policies(folder)) == both
    assert desk.sampled_policy(folder) == str(folder / "sft")
    (folder / "sft/checkpoint.pt").unlink()
    assert desk.policies(folder) == [str(folder / "deep/ppo")]
    assert (desk.sampled_policy(folder), desk.runs(folder / "none")) == ("", {})


def test_the_page_of_a_run_stands_in_a_frame_that_shares_nothing_with_the_page_around_it(folder):
    """Its sandbox lets scripts run, and nothing else. A run without metrics says so."""
    reader = Reader(desk.frame(str(folder / "sft")))
    ((tag, attributes),) = reader.tags
    assert (tag, attributes["sandbox"]) == ("iframe", "allow-scripts")
    inner = Reader(attributes["srcdoc"])
    assert "img" not in {tag for tag, _ in inner.tags} and "<img src=x" in inner.text
    assert "has no metrics yet" in desk.frame(str(folder / "deep/ppo"))


# ---- the command


def test_what_could_not_work_on_the_page_is_one_line_before_it_is_there(flags, tmp_path):
    """A folder without a run, if there is nothing else to label; a port in use; a file that is not
    there; answers into the file that is asked about."""
    (tmp_path / "empty").mkdir()
    with web.socket.socket() as taken:
        taken.bind((web.HOST, 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for argv, problem in [
            (["--runs", str(tmp_path / "empty")], "there is no run in this folder"),
            ([*flags, "--port", port], f"--port {port}: address already in use"),
            (["--data", str(tmp_path / "none.jsonl")], "No such file"),
            ([*flags[:2], "--out", flags[1]], "is the file that --data reads"),
        ]:
            with pytest.raises((InputError, OSError)) as error:
                web.check(config.parse(web.Config, argv))
            assert problem in str(error.value) and "\n" not in str(error.value)


def test_without_gradio_one_line_names_the_extra(flags, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[web\]'"):
        web.main([*flags, "--port", "47123"])
