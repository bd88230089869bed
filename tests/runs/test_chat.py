"""`minirlhf chat`: what a policy is asked and answers, the commands, and what a terminal gets."""

import io
import json
import re

import pytest
import torch
from recorder import noise, run_command, save_policy, words

from minirlhf import data
from minirlhf.generate import generate
from minirlhf.run import chain, config
from minirlhf.tokenizer import get_tokenizer
from minirlhf.tools import chat, templates
from minirlhf.tools.answer import Answer
from minirlhf.world.sentences import KINDS, kind


@pytest.fixture
def models(tmp_path, monkeypatch):
    """{path: GPT} of two toy policies in the current folder."""
    monkeypatch.chdir(tmp_path)
    return {name: save_policy(tmp_path / name, n) for name, n in (("one", 9), ("two", 8))}


@pytest.fixture
def said(models, monkeypatch, capsys):
    """said(lines, **flags) -> what a chat with the first policy prints on stdout and stderr, after
    the lines came through a pipe."""

    def call(*lines, **flags):
        text = "".join(line + "\n" for line in lines)
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        capsys.readouterr()
        run_command(chat.main, {"policy": next(iter(models)), "max_new_tokens": 6} | flags)
        captured = capsys.readouterr()
        assert captured.err == ""
        assert all(len(line) < 80 or line[0] == ">" for line in captured.out.splitlines())
        return captured.out

    return call


def answers(text):
    """[(message, the lines below it)] of a chat's output."""
    _, *parts = re.split(r"^> (.*)\n", text, flags=re.M)
    return list(zip(parts[::2], parts[1::2], strict=True))


def expected(gpt, prompt, seed=1, turn=0, temperature=1.0):
    """The Samples of `generate` for this prompt, under the noise of a turn."""
    uniforms = torch.from_numpy(noise(seed, config.CHAT_NOISE, (1, 6), turn))
    ids = [data.encode_prompt(get_tokenizer(), prompt)]
    return generate(gpt, ids, 6, get_tokenizer().end_token, temperature, uniforms)


def shown(samples):
    """The words of an answer as they are printed."""
    text = get_tokenizer().decode(samples.tokens[0, samples.prompt_lengths[0] :].tolist())
    return printed(text)


def printed(text):
    text = "".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text)
    return re.sub(r"\s", "", text)


def body(lines, path):
    """The answer without white space, and whether it is said to be cut off."""
    note = f"({path}: cut off after 6 tokens)"
    return printed(lines.replace(note, "")), note in lines


# ---- answers


def test_an_answer_is_what_the_sampler_gives_under_the_noise_of_seed_and_turn(said, models):
    """Three messages, each a prompt by itself. An answer without end says so."""
    path, gpt = next(iter(models.items()))
    found = answers(said("Say 1", "Say 2", "Say 1", seed=4, temperature=0.8))
    assert [message for message, _ in found] == ["Say 1", "Say 2", "Say 1"]
    notes = set()
    for turn, (message, lines) in enumerate(found):
        samples = expected(gpt, message, 4, turn, 0.8)
        assert body(lines, path) == (shown(samples), not samples.ended[0])
        notes.add(bool(samples.ended[0]))
    assert found[0][1] != found[2][1]


def test_two_policies_answer_side_by_side_under_the_same_noise(said, models):
    """Each in its column, below its name, as long as it takes; two names for one policy give two
    equal columns."""
    (first, gpt), (second, other) = models.items()
    (_, lines), *_ = answers(said("Say 1", baseline=second))
    title, rule, *rows = lines.split("\n")
    assert title.split() == [first, second] and set(rule) == {"-", " "}
    rows = [row for row in rows if not row.startswith("(")]
    columns = [printed("".join(row[:38] for row in rows)), printed("".join(r[40:] for r in rows))]
    assert columns == [shown(expected(gpt, "Say 1")), shown(expected(other, "Say 1"))]
    (_, lines), *_ = answers(said("Say 1", baseline=first))
    rows = [row for row in lines.split("\n") if not row.startswith("(")]
    assert all(row[:38].strip() == row[40:].strip() for row in rows)


def test_an_answer_that_grows_ends_as_the_whole_text(models):
    """Every step is a beginning of the next, and no character is shown before all of its bytes are
    there: "日" has three tokens of one byte each."""
    tokenizer, gpt = get_tokenizer(), next(iter(models.values()))
    ids = [*tokenizer.encode("a日b"), tokenizer.end_token]
    assert len(ids) == 6
    answer = Answer(gpt, tokenizer, "Say", torch.rand(6))
    answer.ids = iter(ids)
    texts = list(answer)
    assert texts[:4] == ["a", "a", "a", "a日"]
    assert (texts[-1], answer.ended, answer.tokens) == ("a日b", True, 6)
    cut = Answer(gpt, tokenizer, "Say", torch.rand(3))
    cut.ids = iter(ids[:3])
    assert (list(cut)[-1], cut.ended, cut.tokens) == ("a\ufffd", False, 3)


# ---- templates


def test_with_the_template_of_dialogues_a_policy_sees_the_turns_before(said, models):
    """In HH-RLHF's form, its own answers included. /new forgets them, and the noise goes on."""
    path, gpt = next(iter(models.items()))
    found = answers(said("Say 1", "Say 2", "/new", "Say 3", template="hh"))
    first = "\n\nHuman: Say 1\n\nAssistant:"
    one = expected(gpt, first)
    answer = get_tokenizer().decode(one.tokens[0, one.prompt_lengths[0] :].tolist())
    two = expected(gpt, f"{first}{answer}\n\nHuman: Say 2\n\nAssistant:", turn=1)
    three = expected(gpt, "\n\nHuman: Say 3\n\nAssistant:", turn=2)
    assert body(found[0][1], path)[0] == shown(one)
    assert body(found[1][1], path)[0] == shown(two)
    assert body(found[3][1], path)[0] == shown(three)


def test_the_oldest_turns_are_left_out_when_the_dialogue_does_not_fit():
    """Each as a whole, and no more than needed; the message itself is never cut."""
    tokenizer, turns = get_tokenizer(), [("a", " b"), ("c", " d"), ("e", " f")]
    whole = templates.apply("hh", "g", turns)
    start = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d\n\nHuman: e\n\nAssistant: f"
    assert whole == start + "\n\nHuman: g\n\nAssistant:"
    for k in range(4):
        room = len(tokenizer.encode(templates.apply("hh", "g", turns[k:])))
        for extra in (0, 1):
            kept = templates.fitting_turns("hh", "g", turns, tokenizer, room + extra)
            assert kept == turns[k:]
        shorter = templates.fitting_turns("hh", "g", turns, tokenizer, room - 1)
        assert shorter == (turns[k + 1 :] if k < 3 else None)


def test_a_dialogue_that_gets_too_long_goes_on_without_its_oldest_turns(said, models):
    """Which is said. A message that does not fit by itself is refused, and the talk goes on."""
    long = "no " * 20
    found = answers(said(long, long, "no " * 90, "Say 1", template="hh"))
    assert "(one: forgets the oldest 1 turns)" in found[1][1]
    assert "(one: the message is too long; there are 58 tokens for it" in found[2][1]
    assert "6 for the\nanswer)" in found[2][1] and found[3][1]  # an answer, whatever it says


def test_a_policy_of_the_world_gets_a_line_feed_and_says_what_it_knows(said, models, tmp_path):
    """One prompt of each kind, of those that the world knows; a policy of other data says none."""
    path, gpt = next(iter(models.items()))
    assert "embedded world" not in said("Say 1")
    record = {"flags": {"data": "", "seed": 1}, "data": chain.WORLD}
    (tmp_path / "one" / "config.json").write_text(json.dumps(record))
    text = said("Say 1")
    introduction, lines = text.split("> Say 1\n")
    rows = [row.split(None, 1) for row in introduction.splitlines() if row.startswith("  ")]
    assert [name for name, _ in rows] == list(KINDS)
    assert [kind(prompt + "\n") for _, prompt in rows] == list(KINDS)
    assert body(lines, path)[0] == shown(expected(gpt, "Say 1\n"))


# ---- commands


def test_commands_set_temperature_and_seed_and_say_so(said, models):
    """/seed starts its noise anew: the same message gets the same answer again."""
    path, gpt = next(iter(models.items()))
    found = answers(said("Say 1", "/temperature 0", "Say 1", "/seed 7", "/temperature 2", "Say 1"))
    assert "(temperature 0, seed 1, at most 6 tokens)" in found[1][1]
    assert "(temperature 2, seed 7, at most 6 tokens)" in found[4][1]
    assert body(found[2][1], path)[0] == shown(expected(gpt, "Say 1", 1, 1, 0))
    assert body(found[5][1], path)[0] == shown(expected(gpt, "Say 1", 7, 0, 2))
    again = answers(said("/seed 7", "Say 1", "/seed 7", "Say 1"))
    assert again[1][1].strip() == again[3][1].strip()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/temperature -1", "a temperature is a number from 0 on, got '-1'"),
        ("/temperature nan", "a temperature is a number from 0 on"),
        ("/temperature", "a temperature is a number from 0 on, got ''"),
        ("/seed 1.5", "a seed is a whole number from 0 on, got '1.5'"),
        ("/seed -2", "a seed is a whole number from 0 on"),
        ("/tempreature 1", "/tempreature is no command; /help lists them)"),
    ],
)
def test_a_mistake_in_a_command_is_one_line_and_the_talk_goes_on(said, line, message):
    (_, first), (_, second) = answers(said(line, "Say 1"))
    assert first.startswith(f"({message}") and first.count("\n") == 1 and second.strip()


def test_quit_and_the_end_of_the_input_end_the_talk(said):
    """Nothing after /quit is answered. Empty lines and a byte order mark are nothing."""
    assert [m for m, _ in answers(said("Say 1", "/quit", "Say 2"))] == ["Say 1", "/quit"]
    found = answers(said("\ufeff", "  ", ""))
    assert [lines.strip() for _, lines in found] == ["", "", ""]


# ---- what a terminal gets


def test_control_sequences_of_person_and_model_are_shown_as_text(said, models, monkeypatch):
    """A model that was trained on anything may say anything: ESC ] 0 renames a window."""
    evil = "\x1b]0;owned\x07\x9b2J ok\u202e"
    monkeypatch.setattr(Answer, "__next__", one_step(evil))
    text = said(evil, "/\x1b[2J", baseline=list(models)[1])
    assert "]0;owned" in text
    assert all(c.isprintable() or c == "\n" for c in text)


def one_step(text):
    """A method that answers with `text` at once."""

    def step(self):
        if self.over:
            raise StopIteration
        self.text, self.ended, self.over = text, True, True
        return text

    return step


def test_ctrl_c_stops_an_answer_and_not_the_talk(said, models, monkeypatch):
    """After its second token; the next message is answered."""
    gpt = next(iter(models.values()))
    lengths = {f"Say {n}": expected(gpt, f"Say {n}").tokens.size(1) for n in range(20)}
    long = max(lengths, key=lengths.get)
    step, steps = Answer.__next__, []

    def interrupted(self):
        steps.append(self)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Answer, "__next__", interrupted)
    (_, first), (_, second) = answers(said(long, "Say 2"))
    assert "(one: cut off after 2 tokens)" in first
    assert len(steps) > 3 and second.strip()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"policy": "nowhere"}, "nowhere/checkpoint.pt does not exist; check the path"),
        ({"baseline": "nowhere"}, "nowhere/checkpoint.pt does not exist"),
        ({"max_new_tokens": 64}, "64 new tokens leave no room in a context of 64"),
    ],
)
def test_a_mistake_in_the_flags_is_one_line(models, refused, tmp_path, flags, message):
    argv = words({"policy": next(iter(models))} | flags)
    assert message in refused(chat.main, argv, tmp_path)
