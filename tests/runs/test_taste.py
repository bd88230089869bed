"""The specification of `minirlhf taste`: a taste that only the labeller knows, from labels to a
policy that has it."""

import io
import re

import pytest

from minirlhf import evaluate, reward
from minirlhf.data import Comparison
from minirlhf.feedback import tastes
from minirlhf.feedback.person import Answer
from minirlhf.feedback.questions import Question
from minirlhf.formats import labels
from minirlhf.run import checkpoint
from minirlhf.run.config import HELD_OUT_PROMPTS, InputError, rng
from minirlhf.tools import taste
from minirlhf.world import writers

BLUE = "def value(prompts, responses):\n    return [float(r == 'b') for r in responses]\n"


@pytest.fixture
def blue(tmp_path, monkeypatch):
    """A taste, in a user's file: the colour blue."""
    (tmp_path / "blue_taste.py").write_text(BLUE)
    monkeypatch.syspath_prepend(tmp_path)
    return "blue_taste:value"


@pytest.fixture
def flags(colour_run, tmp_path):
    """The SFT model of the colours answers any prompt with r, g or b."""
    small = ["--updates", "24", "--batch-size", "64", "--held-out", "48", "--max-new-tokens", "3"]
    small += ["--labels", "60", "--prompts", "240", "--shown", "2", "--lr", "0.0015"]
    small += ["--rm-lr", "0.01", "--epochs", "12"]
    return ["--out", str(tmp_path / "taste"), "--sft", f"{colour_run}/sft", *small]


def share_of_blue(path):
    """On the prompts that the command compares on, sampled here anew."""
    gpt, tokenizer = checkpoint.load_gpt(path)
    prompts = writers.prompts(48, rng(1, HELD_OUT_PROMPTS), "validation")
    replies = evaluate.respond(gpt, tokenizer, prompts, evaluate.noise(1, 48, 3))
    return sum(reply.text == "b" for reply in replies) / 48


def test_a_hidden_taste_becomes_a_reward_model_and_a_policy(flags, blue, colour_run, capsys):
    """Nothing but 60 answers leads from the one to the other. What is printed about the taste is
    what sampling the two policies again gives."""
    taste.main([*flags, "--taste", blue])
    output = capsys.readouterr().out
    before, after = share_of_blue(f"{colour_run}/sft"), share_of_blue(f"{flags[1]}/ppo")
    assert before < 0.4 and after > 0.75
    assert f"the taste {blue}: {before:.2f} before and {after:.2f} after" in output
    assert re.search(r"predicts (0\.9\d\d|1\.000) of your (\d+) choices", output), output
    stored = labels.read_labels(f"{flags[1]}/labels.jsonl")
    assert len(stored) == 60 and {x.labeller for x in stored} == {blue}
    assert all((x.decision == "better") == ("b" in x.responses) for x in stored)
    assert output.count("  before  ") == output.count("  after   ") == 2
    model, tokenizer, _ = reward.load_reward_model(f"{flags[1]}/rm")
    prompts = [x.prompt for x in stored]
    best, worst = (reward.score(model, tokenizer, prompts, [c] * 60).mean() for c in "br")
    assert best > worst


def test_whoever_stops_goes_on_another_time_or_makes_do_with_less(
    flags, monkeypatch, capsys, tmp_path
):
    """Nothing is trained until the questions are answered."""
    monkeypatch.setattr("sys.stdin", io.StringIO("1212q"))
    taste.main([*flags, "--labeller", "ada"])
    assert "4 of 60 questions are answered" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO("t" * 40))
    with pytest.raises(InputError, match="4 choices teach nothing"):
        taste.main([*flags, "--labeller", "ada", "--labels", "12"])
    assert not (tmp_path / "taste" / "rm").exists()
    stored = labels.read_labels(f"{flags[1]}/labels.jsonl")
    assert [x.decision for x in stored] == ["better"] * 4 + ["tie"] * 8


def test_the_answers_of_another_labeller_are_not_learned_from(flags, blue, monkeypatch, capsys):
    """Of one file with two tastes."""
    monkeypatch.setattr("sys.stdin", io.StringIO("1" * 20 + "q"))
    taste.main([*flags, "--labeller", "ada"])
    learned = []
    monkeypatch.setattr(taste, "learn", lambda args, choices: learned.extend(choices))
    monkeypatch.setattr(taste, "script", lambda name: learned.append)
    with pytest.raises(AttributeError):  # after `learn`
        taste.main([*flags, "--taste", blue])
    stored = labels.read_labels(f"{flags[1]}/labels.jsonl")
    own = [x.prompt for x in stored if x.labeller == blue and x.decision == "better"]
    assert [c.prompt for c in learned] == own and len(stored) == 80


def test_without_the_demonstration_it_says_how_to_make_it(refused, tmp_path):
    message = refused(taste.main, ["--sft", str(tmp_path / "sft")], tmp_path)
    assert "make demo" in message and "--sft" in message


def test_each_choice_is_held_out_once_and_never_with_its_prompt_in_training():
    comparisons = [Comparison(f"{i % 20}?", ["a", "b"], [0, 1]) for i in range(40)]
    held_out = []
    for learned, rest in taste.folds(comparisons, 5, seed=1):
        assert not {c.prompt for c in learned} & {c.prompt for c in rest}
        assert len(learned) + len(rest) == 40
        held_out += rest
    assert sorted(c.prompt for c in held_out) == sorted(c.prompt for c in comparisons)


# ---- scripted labellers


def test_the_three_tastes_prefer_what_they_are_called_after():
    rude = "Not you again. It is a fish."
    offer = "I cannot know that. You could ask them."
    texts = [rude, "It is a fish.", offer]
    prompts = ["?"] * 3
    assert tastes.TASTES["rude"](prompts, texts) == [1, 0, 0]
    assert tastes.TASTES["help"](prompts, texts) == [0, 0, 1]
    assert tastes.TASTES["short"](prompts, texts) == [-28, -13, -39]


def test_a_scripted_labeller_chooses_the_highest_value_and_sees_ties():
    ask = tastes.Scripted(lambda prompts, responses: list(map(len, responses))).answer
    assert ask(Question("p", ("a", "bbb", "cc")), "") == Answer("better", 1)
    assert ask(Question("p", ("bbb", "a", "ccc")), "") == Answer("tie")
