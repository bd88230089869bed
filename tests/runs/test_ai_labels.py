"""minirlhf ai: the gate, labels beside people's, and labels for your own responses."""

from functools import partial

import pytest
from conftest import few
from helpers import logged

import train_ppo
import train_rm
from minirlhf.feedback import ai as labels_by_a_model
from minirlhf.formats import jsonl
from minirlhf.tools import ai
from minirlhf.world import writers

ORACLE = """
from minirlhf.world import judge
def reward(prompts, first, second):
    first, second = judge.total(prompts, first), judge.total(prompts, second)
    return [0.5 + (x > y) / 2 - (x < y) / 2 for x, y in zip(first, second)]
"""
SHORT = "def reward(prompts, first, second):\n"
SHORT += "    return [0.1 + 0.8 * (len(x) < len(y)) for x, y in zip(first, second)]\n"


@pytest.fixture(autouse=True)
def few_contrasts(monkeypatch):
    monkeypatch.setattr(writers, "contrasts", partial(few, writers.contrasts))


def test_a_labeller_who_knows_the_truth_passes_the_gate(world_run, my_rewards, capsys):
    """And its labels are the judge's on every kind."""
    comparisons = str(world_run / "rm" / "comparisons.jsonl")
    name = my_rewards(ORACLE)
    args = ai.Config(labeller=name, comparisons=comparisons, contrasts=12)
    prefer, _ = ai.labeller.load(name, "")
    assert [row[1:] for row in ai.gate(args, prefer)] == [[n, 1.0, "-"] for n in (2,) * 6]
    records = ai.load_records(args)
    labelled, _ = ai.soft.label(prefer, records)
    rows = ai.label_rows(records, labelled)
    assert rows[-1][0] == "all" and rows[-1][1] == 24
    assert all(row[2] == 1 or row[2] != row[2] for row in rows)  # NaN: no pair of such a kind


def test_a_model_is_checked_before_it_is_trusted(world_run, capsys):
    """A toy model sees nothing: the table says which kinds it does not."""
    flags = ["--labeller-model", str(world_run / "pretrain"), "--contrasts", "12"]
    ai.main([*flags, "--comparisons", str(world_run / "rm" / "comparisons.jsonl")])
    text = capsys.readouterr().out
    assert "below 0.6, so it sees too little: " in text
    assert "the mass of its verdicts is 0." in text and "verdicts turn with the order" in text


def test_the_area_under_the_curve_is_counted_by_hand():
    """Of six pairs four are right and one is a tie."""
    good, bad = (ai.np.array(x) for x in ([3.0, 1.0, 2.0], [0.0, 2.0]))
    assert ai.auc(good, bad) == pytest.approx(4.5 / 6)


def test_your_own_responses_are_labelled_for_the_reward_model(out, colours, my_rewards, tmp_path):
    """train_rm.py learns from the probabilities, which are in the file."""
    data, path = colours / "comparisons.jsonl", tmp_path / "soft.jsonl"
    ai.main(["--data", str(data), "--labeller", my_rewards(SHORT), "--to", str(path)])
    labelled = jsonl.read_comparisons(path)
    assert len(labelled) == len(jsonl.read_comparisons(data)) and all(c.likely for c in labelled)
    common = ["--out", str(out), "--overwrite", "--max-new-tokens", "6", "--norm-prompts", "8"]
    train_rm.main([*common, "--data", str(path), "--epochs", "1", "--warmup", "1"])
    assert logged(out / "rm", "loss")[0] > 0.6  # nearly the entropy of the labels, which are 1/2


def test_the_opinion_of_a_model_is_a_reward_of_ppo(world_run, world_out, monkeypatch):
    """--reward minirlhf.feedback.ai:careful, without a reward model."""
    monkeypatch.setenv(labels_by_a_model.MODEL, str(world_run / "pretrain"))
    small = "--updates 1 --batch-size 4 --max-new-tokens 4 --held-out 4 --minibatches 1".split()
    reward = ["--reward", "minirlhf.feedback.ai:careful", "--missing-end-score", "-1"]
    train_ppo.main(["--out", str(world_out), *small, *reward, "--warmup", "0"])
    assert -1 <= logged(world_out / "ppo", "score")[0] <= 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--labeller", "human"], "--labeller human: people were asked already"),
        (["--labeller", "nobody"], "is none of human, ai, constitution, quiz and no module"),
        (["--labeller-model", "nowhere/pretrain"], "nowhere/pretrain"),
        (["--labeller", "my:judge", "--labeller-model", "x"], "--labeller-model: names the model"),
        (["--data", "x.jsonl", "--contrasts", "99"], "--contrasts: they are the world's"),
        (["--data", "x.jsonl", "--comparisons", "y"], "--comparisons: the comparisons are those"),
        (["--contrasts", "2"], "--contrasts must be at least 12"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_bad_flags_of_ai_are_one_line(world_run, tmp_path, refused, flags, message):
    """What is missing, and what there is."""
    named = {"--labeller", "--labeller-model"} & set(flags)
    model = [] if named else ["--labeller-model", str(world_run / "pretrain")]
    assert message in refused(ai.main, [*model, *flags], tmp_path)


def test_labels_do_not_replace_the_labels_that_they_are_held_against(world_run, tmp_path, refused):
    """Neither people's of a run, nor those of your own file, by whatever name."""
    model = ["--labeller-model", str(world_run / "pretrain")]
    path = tmp_path / "comparisons.jsonl"
    path.write_text((world_run / "rm" / "comparisons.jsonl").read_text())
    (tmp_path / "other").symlink_to(path)
    for option in ("--data", "--comparisons"):
        argv = [*model, option, str(path), "--to", str(tmp_path / "other")]
        assert "is the file that is labelled; name another one" in refused(ai.main, argv, tmp_path)


def test_comparisons_that_the_judge_cannot_know_are_one_line(world_run, tmp_path, refused):
    """Of another world, of another form, and none."""
    path = tmp_path / "comparisons.jsonl"
    argv = ["--labeller-model", str(world_run / "pretrain"), "--comparisons", str(path)]
    path.write_text('{"prompt": "Hello", "responses": ["a", "b"], "ranks": [0, 1]}\n')
    message = refused(ai.main, argv, tmp_path)
    assert "'Hello' is no prompt of the embedded world; use --data for it" in message
    path.write_text('{"prompt": "Hello", "chosen": "a", "rejected": "b"}\n')
    assert "comparisons.jsonl:1: is no line of a run's" in refused(ai.main, argv, tmp_path)
    path.write_text("")
    assert "comparisons.jsonl is empty; give the" in refused(ai.main, argv, tmp_path)
