"""`minirlhf demonstrations`: AfD, adversarial feedback and SPIN, from end to end, of toy
models."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers import contents, saved

from minirlhf import data, evaluate, reward
from minirlhf.formats import jsonl
from minirlhf.run import config
from minirlhf.run.checkpoint import load_gpt
from minirlhf.tokenizer import get_tokenizer
from minirlhf.tools import demonstrations as command
from minirlhf.world import judge, writers

SMALL = "--demonstrations 24 --max-new-tokens 4 --prompts 4 --batch-size 8 --updates 4".split()
RECORDS = writers.demonstrations(24, config.rng(1, config.DEMONSTRATIONS))
OWN = "--max-new-tokens 4 --prompts 4 --batch-size 8 --updates 4".split()


@pytest.fixture
def run(world_run, tmp_path):
    """run(method, *flags) -> OUT/METHOD, of the toy SFT model of the world."""

    def call(method, *flags, out=tmp_path / "exp", small=SMALL):
        argv = ["--method", method, "--sft", str(world_run / "sft"), "--out", str(out)]
        command.main([*argv, *(small if method != "spin" else small[:-4]), *flags])
        return out / method

    return call


def flags_of(folder):
    return json.loads((folder / "config.json").read_text())["flags"]


# ---- what is compared


def test_the_demonstrations_are_those_of_sft_against_the_policys_own_responses(run, world_run):
    """The prompts that SFT has learned from, each with the writer's response and a sample of the
    policy under noise of its own."""
    path = run("spin", "--rounds", "1") / "round-1" / "comparisons.jsonl"
    replies = own_responses(world_run / "sft", 1 + command.SEEDS)
    assert all(c.ranks == [0, 1] for c in jsonl.read_collected(path))
    pairs = [(c.prompt, *c.responses) for c in jsonl.read_collected(path)]
    rows = zip(RECORDS, replies, strict=True)
    assert pairs == [(r.prompt, r.response, text) for r, text in rows if text != r.response]
    assert len(pairs) > 12


def test_a_demonstration_that_is_too_long_is_left_out_if_that_is_asked_for(tmp_path):
    tokenizer, path = get_tokenizer(), tmp_path / "d.jsonl"
    records = [{"prompt": "a", "response": text} for text in ("b", "b" * 99)]
    path.write_text("\n".join(map(json.dumps, records)))
    args = command.Config(data=str(path), max_new_tokens=4)
    with pytest.raises(config.InputError, match="d.jsonl:2: .* do not fit the context of 32"):
        command.load_demonstrations(args, 32, tokenizer)
    args = command.Config(data=str(path), max_new_tokens=4, drop_long=True)
    assert [r.response for r in command.load_demonstrations(args, 32, tokenizer)] == ["b"]


def own_responses(policy, step):
    """Texts of a policy's responses to the prompts of RECORDS."""
    gpt, tokenizer = load_gpt(policy)
    draws = config.rng(1, config.DEMONSTRATED_RESPONSES, step)
    uniforms = draws.random((24, 4), dtype=np.float32)
    prompts = [record.prompt for record in RECORDS]
    return [reply.text for reply in evaluate.respond(gpt, tokenizer, prompts, uniforms)]


def test_what_the_judge_thinks_of_the_writers_is_printed(run, capsys):
    """It is what imitation can reach."""
    run("spin", "--rounds", "1")
    mean = np.mean([judge.judge(r.prompt, r.response).total for r in RECORDS])
    assert f"the writers' own total is {mean:.2f} of 3" in capsys.readouterr().out


def test_both_sides_may_be_samples(run, world_run, tmp_path):
    """AfD's other form: the SFT model against the untuned one. The noise of the two differs, else
    equal policies would give equal texts."""
    sides = ["--chosen", str(world_run / "sft"), "--rejected", str(world_run / "pretrain")]
    comparisons = jsonl.read_collected(run("afd", *sides) / "round-1" / "comparisons.jsonl")
    chosen = own_responses(world_run / "sft", 1)
    rejected = own_responses(world_run / "pretrain", 1 + command.SEEDS)
    pairs = [(c.prompt, *c.responses) for c in comparisons]
    rows = zip(RECORDS, chosen, rejected, strict=True)
    assert pairs == [(r.prompt, first, second) for r, first, second in rows if first != second]


def test_another_model_on_a_side_is_another_experiment(run, world_run, tmp_path):
    """Its comparisons are known by the model, not by its path."""
    path = shutil.copytree(world_run / "pretrain", tmp_path / "untuned")
    run("afd", "--rejected", str(path))
    shutil.rmtree(path)
    shutil.copytree(world_run / "sft", path)
    with pytest.raises(config.InputError, match="was made with --rejected weights .*, and this is"):
        run("afd", "--rejected", str(path))


# ---- the methods


def test_afd_is_a_reward_model_of_the_comparisons_and_ppo_against_it(run):
    """PPO's penalty is --kl-coef in units of the raw score: its scores are divided by their
    standard deviation."""
    folder = run("afd", "--kl-coef", "0.7") / "round-1"
    model, _, _ = reward.load_reward_model(folder / "rm")
    flags = flags_of(folder / "ppo")
    assert flags["kl_coef"] == pytest.approx(0.7 / float(model.std), rel=1e-6)
    assert flags["rm"] == str(folder / "rm") and flags["updates"] == 4
    assert flags_of(folder / "rm")["data"] == str(folder / "comparisons.jsonl")
    assert saved(folder / "ppo")["step"] == 4


def test_adversarial_feedback_goes_on_from_the_policy_of_the_round_before(run, world_run):
    """Which writes the comparisons, is where PPO starts, and what its penalty is about. The
    comparisons of the round before are learned from, too; the updates are shared out."""
    folder = run("gaf", "--rounds", "3", "--updates", "5")
    policies = [world_run / "sft", *(folder / f"round-{n}" / "ppo" for n in (1, 2))]
    for n, policy in enumerate(policies, start=1):
        place = folder / f"round-{n}"
        for stage in ("rm", "ppo"):
            assert flags_of(place / stage)["sft"] == str(policy)
        rounds = [folder / f"round-{m}" / "comparisons.jsonl" for m in (n - 1, n) if m]
        assert flags_of(place / "rm")["data"] == ",".join(map(str, rounds))
        assert flags_of(place / "ppo")["rm"] == str(place / "rm")
    assert [flags_of(folder / f"round-{n}" / "ppo")["updates"] for n in (1, 2, 3)] == [1, 2, 2]
    seeds = [flags_of(folder / f"round-{n}" / "ppo")["seed"] for n in (1, 2, 3)]
    assert len(set(seeds)) == 3  # else each round would ask the same prompts under the same noise


def test_the_responses_of_a_round_are_those_of_its_policy(run):
    """Under noise of their own. A discriminator of old responses tells what is over already."""
    folder = run("gaf", "--rounds", "2", "--updates", "4")
    replies = own_responses(folder / "round-1" / "ppo", 2 + command.SEEDS)
    comparisons = jsonl.read_collected(folder / "round-2" / "comparisons.jsonl")
    rows = zip(RECORDS, replies, strict=True)
    texts = [text for record, text in rows if text != record.response]
    assert texts and [c.responses[1] for c in comparisons] == texts


def test_spin_is_dpo_against_the_policy_of_the_round_before(run, world_run):
    """The reference is the opponent, not the SFT model, from the second round on."""
    folder = run("spin", "--rounds", "2", "--beta", "0.7")
    first, second = (flags_of(folder / f"round-{n}" / "dpo") for n in (1, 2))
    assert (first["sft"], first["beta"]) == (str(world_run / "sft"), 0.7)
    assert second["sft"] == str(folder / "round-1" / "dpo")
    files = [str(folder / f"round-{n}" / "comparisons.jsonl") for n in (1, 2)]
    assert second["data"] == ",".join(files) and first["data"] == files[0]
    assert not (folder / "round-1" / "rm").exists()


def test_it_ends_with_a_comparison_of_the_last_policy(run, world_run):
    """With the SFT model that it started from, on prompts that are held out."""
    folder = run("spin", "--rounds", "2")
    results = json.loads((folder / "evaluation.json").read_text())
    assert results["policy"] == str(folder / "round-2" / "dpo")
    assert results["baseline"] == str(world_run / "sft") and results["prompts"] == 4


def test_your_own_demonstrations_are_taken_with_their_prompts(colour_run, colours, tmp_path):
    """Reward model, PPO and evaluation all stay with them; none learns from a prompt that the
    evaluation is on."""
    path = str(colours / "demonstrations.jsonl")
    argv = ["--sft", str(colour_run / "sft"), "--data", path, "--out", str(tmp_path), *OWN]
    command.main(argv)
    place = tmp_path / "afd" / "round-1"
    known = {record.prompt for record in jsonl.read_demonstrations(path)}
    held_out, learned = (
        {str(prompt) for prompt in jsonl.read_prompts(tmp_path / "afd" / name)}
        for name in ("held-out.jsonl", "prompts.jsonl")
    )
    expected = data.split_by_prompt(jsonl.read_demonstrations(path), 1)
    assert learned == {record.prompt for record in expected[0]} and len(held_out) == 4
    assert held_out <= {record.prompt for record in expected[1]} <= known
    assert {c.prompt for c in jsonl.read_collected(place / "comparisons.jsonl")} <= learned
    assert flags_of(place / "ppo")["data"] == str(tmp_path / "afd" / "prompts.jsonl")
    evaluation = json.loads((tmp_path / "afd" / "evaluation.json").read_text())
    assert evaluation["data"] == str(tmp_path / "afd" / "held-out.jsonl")


# ---- going on


def test_the_same_command_makes_nothing_again(run):
    """Not even the comparisons of a finished round: no file is written but the evaluation and
    the lock."""
    folder = run("gaf", "--rounds", "2")
    before = {path: path.stat().st_mtime_ns for path in contents(folder)}
    run("gaf", "--rounds", "2")
    after = {path: path.stat().st_mtime_ns for path in contents(folder)}
    assert {path for path in after if after[path] != before.get(path)} <= {
        folder / "evaluation.json",
        folder / "lock",
    }


@pytest.mark.parametrize(("stage", "step"), [("rm", 0), ("ppo", 0)])
def test_an_interrupted_command_ends_where_an_uninterrupted_one_does(
    run, tmp_path, ctrl_c, stage, step
):
    """Ctrl-C within a run of each round."""
    whole = run("gaf", "--rounds", "2")
    for _ in range(2):  # once in each round
        ctrl_c(stage, step)
        with pytest.raises(KeyboardInterrupt):
            run("gaf", "--rounds", "2", out=tmp_path / "again")
    ctrl_c(None)
    run("gaf", "--rounds", "2", out=tmp_path / "again")
    policies = [saved(x / "round-2" / "ppo")["model"] for x in (whole, tmp_path / "again" / "gaf")]
    assert all(torch.equal(a, b) for a, b in zip(*(p.values() for p in policies), strict=True))


# ---- mistakes


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--method spin --kl-coef 0.1", "--kl-coef is a flag of afd and gaf; --method spin has"),
        ("--method gaf --beta 0.1", "--beta is a flag of spin; --method gaf has none"),
        ("--method gaf --chosen x", "--chosen is a flag of afd; --method gaf has none"),
        ("--method afd --rounds 2", "--rounds is a flag of gaf and spin; --method afd has none"),
        ("--method gaf --rounds 8 --updates 7", "--updates 7 are fewer than the 8 rounds"),
        ("--method gan", "--method"),
        ("--demonstrations 1", "--demonstrations must be at least 2"),
        ("--sft nowhere", "nowhere"),
        ("--rejected nowhere", "nowhere"),
    ],
)
def test_a_mistake_is_one_line(refused, world_run, tmp_path, flags, message):
    """Of flags, before anything is written."""
    argv = ["--sft", str(world_run / "sft"), "--out", str(tmp_path / "x"), *flags.split()]
    if "--rejected" in flags:
        argv += SMALL
    assert message in refused(command.main, argv, tmp_path / "none")


def test_a_folder_of_something_else_is_left_alone(refused, world_run, tmp_path):
    """Another experiment, and files that are none."""
    (tmp_path / "afd").mkdir()
    (tmp_path / "afd" / "letter.txt").write_text("dear")
    argv = ["--sft", str(world_run / "sft"), "--out", str(tmp_path), *SMALL]
    assert "is no experiment" in refused(command.main, argv, tmp_path)
    (tmp_path / "afd" / "letter.txt").unlink()
    (tmp_path / "afd" / "experiment.json").write_text("{}")
    assert "was made with --batch-size not set, and this is with" in refused(
        command.main, argv, tmp_path
    )
    (tmp_path / "afd" / "experiment.json").write_text("[")
    assert "is damaged" in refused(command.main, argv, tmp_path)


def test_a_policy_that_repeats_the_demonstrations_leaves_nothing_to_learn(
    refused, world_run, tmp_path, monkeypatch
):
    """One line, and no comparisons."""
    monkeypatch.setattr(command, "sample", lambda args, path, records, *_: texts(records))
    argv = ["--sft", str(world_run / "sft"), "--out", str(tmp_path / "x"), *SMALL]
    message = refused(command.main, argv, tmp_path / "none")
    assert "0 of 24 responses" in message and "nothing to learn" in message


def texts(records):
    assert isinstance(records[0], data.Demonstration)
    return [record.response for record in records]
