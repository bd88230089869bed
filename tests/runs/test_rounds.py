"""Rounds of sampling, labelling, reward model and PPO, from end to end on a toy SFT model."""

import itertools
import json
import shlex
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from conftest import few
from helpers import contents, logged, same, saved

import train_ppo
import train_rm
from minirlhf import evaluate
from minirlhf.feedback import ai
from minirlhf.formats import jsonl
from minirlhf.run import checkpoint, config, resume
from minirlhf.run.config import rng, round_seed
from minirlhf.run.folder import COMPARISONS, LABELS
from minirlhf.run.lock import lock
from minirlhf.tools import rounds
from minirlhf.world import judge, writers

RM = "--responses 3 --batch-size 4 --held-out 4 --norm-prompts 8 --warmup 1"
PPO = "--batch-size 8 --held-out 4 --warmup 1 --minibatches 2 --eval-every 2"


@pytest.fixture(autouse=True)
def few_contrasts(monkeypatch):
    monkeypatch.setattr(writers, "contrasts", partial(few, writers.contrasts))


@pytest.fixture
def sft(world_run):
    return str(world_run / "sft")


SMALL = ["--prompts", "8", "--updates", "2", "--held-out", "4", "--max-new-tokens", "4"]
SMALL += ["--rm", RM, "--ppo", PPO]


def run(out, sft, *argv):
    """Two updates a round."""
    rounds.main(["--out", str(out), "--sft", sft, *SMALL, *argv])


def record(out):
    return json.loads((out / rounds.RECORD).read_text())


def test_one_round_is_todays_pipeline_to_the_bit(tmp_path, sft):
    """Comparisons, reward model and policy, with their metrics."""
    run(tmp_path / "rounds", sft, "--rounds", "1", "--seed", "3", "--kl-coef", "0.2")
    out = tmp_path / "pipeline"
    common = ["--out", str(out), "--sft", sft, "--seed", "3", "--max-new-tokens", "4"]
    train_rm.main([*common, "--prompts", "8", *RM.split()])
    train_ppo.main([*common, "--updates", "2", "--kl-coef", "0.2", *PPO.split()])
    first = tmp_path / "rounds" / "round-1"
    for stage in ("rm", "ppo"):
        states = [saved(folder / stage) for folder in (first, out)]
        for state in states:
            del state["run"]
        assert same(*states)
        assert logged(first / stage) == logged(out / stage)
    files = [folder / "rm" / COMPARISONS for folder in (first, out)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory, world_run):
    """(OUT of two rounds, the comparisons that each normalisation of scores was on). Not to be
    written to."""
    out, norms, normalise = tmp_path_factory.mktemp("rounds"), [], train_rm.normalise

    def spy(reward_model, tokenizer, norm):
        norms.append(norm)
        normalise(reward_model, tokenizer, norm)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writers, "contrasts", partial(few, writers.contrasts))
        patch.setattr(train_rm, "normalise", spy)
        run(out, str(world_run / "sft"), "--rounds", "2")
    return out, norms


def collected(out, n):
    return jsonl.read_collected(out / f"round-{n}" / "rm" / COMPARISONS)


def inputs(out, n, stage):
    return resume.read_record(out / f"round-{n}" / stage)["inputs"]


def weights(path):
    return resume.fingerprint(checkpoint.load_gpt(path)[0])


def test_each_round_learns_from_the_comparisons_of_all_rounds(two_rounds):
    """They are kept with their round. Every round asks about other prompts, and none about those
    that all rounds are measured on."""
    out, _ = two_rounds
    first, both = collected(out, 1), collected(out, 2)
    assert (len(first), len(both)) == (8, 16) and both[:8] == first
    lines = [json.loads(line) for line in (out / COMPARISONS).read_text().splitlines()]
    assert [line["round"] for line in lines] == [1] * 8 + [2] * 8
    assert [line["responses"] for line in lines] == [c.responses for c in both]
    assert {c.prompt for c in both[8:]} != {c.prompt for c in first}
    held_out = writers.prompts(4, rng(1, config.HELD_OUT_PROMPTS), "validation")
    assert not {c.prompt for c in both} & set(held_out)


def test_each_round_samples_from_the_policy_of_the_round_before(two_rounds, sft):
    """And every reward model and every policy starts as the SFT model."""
    out, _ = two_rounds
    assert "policy" not in inputs(out, 1, "rm")
    assert inputs(out, 2, "rm")["policy"] == weights(out / "round-1" / "ppo")
    stages = [inputs(out, n, stage)["sft"] for n in (1, 2) for stage in ("rm", "ppo")]
    assert set(stages) == {weights(sft)}


def test_the_scores_of_all_rounds_are_normalised_on_the_same_responses(two_rounds):
    """Those of the SFT model, so that kl_coef keeps its meaning."""
    out, norms = two_rounds
    assert norms[0] == norms[-1] == collected(out, 1)


def test_a_moving_reference_is_the_policy_of_the_round_before(tmp_path, two_rounds, sft):
    """The reward model starts as the SFT model all the same."""
    out, _ = two_rounds
    shutil.copytree(out / "round-1", tmp_path / "round-1")  # it does not depend on the flag
    content = record(out)
    content["flags"]["moving_reference"], content["rounds"] = True, content["rounds"][:1]
    (tmp_path / rounds.RECORD).write_text(json.dumps(content))
    run(tmp_path, sft, "--rounds", "2", "--moving-reference")
    assert inputs(tmp_path, 2, "ppo")["sft"] == weights(out / "round-1" / "ppo")
    assert inputs(tmp_path, 2, "rm")["sft"] == weights(sft)


def test_the_numbers_of_a_round_are_those_of_its_policy(two_rounds, sft):
    """Computed again for the last round: total, KL from the SFT model and agreement."""
    out, _ = two_rounds
    rows = record(out)["rounds"]
    assert [row["comparisons"] for row in rows] == [8, 16]
    (policy, tokenizer), (start, _) = (
        checkpoint.load_gpt(x) for x in (out / "round-2" / "ppo", sft)
    )
    prompts = writers.prompts(4, rng(1, config.HELD_OUT_PROMPTS), "validation")
    prompts = [prompt for prompt in prompts for _ in range(4)]
    replies = evaluate.respond(policy, tokenizer, prompts, evaluate.noise(1, 16, 4))
    totals = judge.total(prompts, evaluate.finished(replies))
    assert rows[1]["total"] == pytest.approx(np.mean(totals))
    expected = evaluate.kl(policy, start, replies).mean().item()
    assert rows[1]["kl"] == pytest.approx(expected)
    assert rows[1]["distinct"] == len({reply.text for reply in replies})


@pytest.mark.parametrize(("stage", "step"), [("rm", 3), ("ppo", 1)])
def test_rounds_go_on_inside_a_round_to_the_same_bits(
    tmp_path, two_rounds, sft, ctrl_c, stage, step
):
    """By the same command; a finished round is not touched."""
    whole, _ = two_rounds
    shutil.copytree(whole / "round-1", tmp_path / "round-1")
    rows = record(whole)["rounds"]
    content = record(whole) | {"rounds": rows[:1]}
    (tmp_path / rounds.RECORD).write_text(json.dumps(content))
    first = contents(tmp_path / "round-1")
    ctrl_c(stage, step)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, sft, "--rounds", "2")
    ctrl_c(None)
    run(tmp_path, sft, "--rounds", "2")
    assert contents(tmp_path / "round-1") == first
    for name in ("rm", "ppo"):
        states = [saved(folder / "round-2" / name) for folder in (whole, tmp_path)]
        for state in states:
            del state["run"]
        assert same(*states)
    assert record(tmp_path)["rounds"] == rows


def test_the_policy_can_be_the_labeller_of_its_own_responses(tmp_path, sft):
    """Round 1 is labelled by the SFT model, round 2 by the policy of round 1."""
    run(tmp_path, sft, "--rounds", "2", "--labeller", "self")
    records = [resume.read_record(tmp_path / f"round-{n}" / "rm") for n in (1, 2)]
    assert records[0]["inputs"]["labeller"] == records[0]["inputs"]["sft"]
    assert records[1]["inputs"]["labeller"] == records[1]["inputs"]["policy"]
    assert all(record["flags"]["labeller"] == "ai" for record in records)


def test_a_model_beside_the_sft_model_is_the_labeller(tmp_path, sft, world_run, capsys):
    """Its labels are probabilities, and people rank the share that is theirs. A line says what it
    was sure of."""
    run(tmp_path, sft, "--rounds", "1", "--labeller", "ai", "--human-share", "0.25")
    comparisons = jsonl.read_collected(tmp_path / "round-1" / "rm" / COMPARISONS)
    assert [hasattr(c, "likely") for c in comparisons] == [False] * 2 + [True] * 6
    assert "labels of ai: 18 pairs, " in capsys.readouterr().out
    gpt, tokenizer = checkpoint.load_gpt(world_run / "pretrain")
    # labels.json keeps them: the model, asked again, writes a verdict with the same probability.
    labels = json.loads((tmp_path / "round-1" / "rm" / LABELS).read_text())
    model = ai.Labeller(gpt, tokenizer, "ai")
    verdicts = torch.cat([model.ask([c.prompt] * 3, c.responses) for c in comparisons[2:]])
    assert labels["mass"] == pytest.approx(float(verdicts.exp().sum(2).mean()), rel=1e-4)
    assert labels["first_wins"] == pytest.approx(0.5) and labels["flips"] == 0
    inputs = resume.read_record(tmp_path / "round-1" / "rm")["inputs"]
    assert inputs["labeller"] == resume.fingerprint(gpt)


LONGER = "def reward(prompts, first, second):\n    return [float(len(x) > len(y)) for x, y in "
LONGER += "zip(first, second)]\n"


def test_a_labeller_who_likes_what_comes_first_is_seen_through(tmp_path, sft, my_rewards):
    """Its verdicts turn with the order, all of them; averaged over both they say nothing, and
    labels.json says so."""
    name = my_rewards("def reward(prompts, first, second):\n    return [0.9] * len(first)")
    run(tmp_path, sft, "--rounds", "1", "--labeller", name)
    labels = json.loads((tmp_path / "round-1" / "rm" / LABELS).read_text())
    assert (labels["flips"], labels["sure"], "mass" in labels) == (1, 0, False)
    assert labels["first_wins"] == pytest.approx(0.9)


def test_your_own_function_is_a_labeller(tmp_path, sft, my_rewards):
    """Here it prefers the longer response."""
    run(tmp_path / "o", sft, "--rounds", "1", "--labeller", my_rewards(LONGER))
    for c in jsonl.read_collected(tmp_path / "o" / "round-1" / "rm" / COMPARISONS):
        for i, j in itertools.permutations(range(3), 2):
            longer = len(c.responses[i]) - len(c.responses[j])
            if c.likely[i][j] == 1:
                assert longer > 0 and c.ranks[i] < c.ranks[j]


def test_the_best_of_the_rounds_that_are_shown_is_named(capsys):
    """Not one of those that the table leaves out."""
    rows = [{name: 1.0 for name in rounds.COLUMNS} | {"total": total} for total in (1, 2, 3)]
    rounds.show(rounds.Config(rounds=2), rows)
    assert "the judge likes round 2 best" in capsys.readouterr().out


def test_rounds_with_other_flags_are_another_run(tmp_path, sft, refused):
    """Half of the rounds would have another KL coefficient."""
    run(tmp_path, sft, "--rounds", "1")
    argv = ["--out", str(tmp_path), "--sft", sft, *SMALL, "--kl-coef", "0"]
    assert "was made with --kl-coef 0.1, and this is with 0.0" in refused(
        rounds.main, argv, tmp_path
    )
    (tmp_path / rounds.RECORD).write_text("{")
    assert "is damaged" in refused(rounds.main, argv, tmp_path)


@pytest.mark.parametrize(("stage", "step"), [("rm", 0), ("ppo", 0)])
def test_a_first_round_that_was_begun_keeps_its_flags(tmp_path, sft, refused, ctrl_c, stage, step):
    """PPO would be at another KL coefficient than rounds.json says, and go on at another number of
    updates than it began with. Where nothing was made yet the flags may change."""
    out = tmp_path / "o"
    out.mkdir()
    first = {"flags": {"kl_coef": 7.0}, "inputs": {"sft": "weights 0"}, "rounds": []}
    (out / rounds.RECORD).write_text(json.dumps(first))
    ctrl_c(stage, step)
    with pytest.raises(KeyboardInterrupt):
        run(out, sft, "--rounds", "1")
    ctrl_c(None)
    for flags in (["--kl-coef", "0"], ["--updates", "3"], ["--seed", "2"], ["--prompts", "9"]):
        argv = ["--out", str(out), "--sft", sft, *SMALL, *flags]
        assert f"was made with {flags[0]} " in refused(rounds.main, argv, out)


def test_another_sft_model_in_the_same_place_is_refused(tmp_path, sft, refused):
    """The second round would start from another model than the first."""
    copy = shutil.copytree(sft, tmp_path / "sft")
    run(tmp_path / "o", str(copy), "--rounds", "1")
    shutil.copy(f"{sft}/../pretrain/checkpoint.pt", copy)
    argv = ["--out", str(tmp_path / "o"), "--sft", str(copy), *SMALL]
    assert "the SFT model changed: weights " in refused(rounds.main, argv, tmp_path / "o")


def test_a_labeller_that_is_repaired_goes_on_and_this_is_said(tmp_path, sft, my_rewards, capsys):
    """Else a function that fails in a later round would cost the rounds before it."""
    name, out = my_rewards(LONGER), tmp_path / "o"
    run(out, sft, "--rounds", "1", "--labeller", name)
    with open(tmp_path / f"{name.partition(':')[0]}.py", "a") as file:
        file.write("# repaired\n")
    run(out, sft, "--rounds", "1", "--labeller", name)
    message = "warning: the file of --labeller is not what it was when the run began; the compari"
    assert message in capsys.readouterr().err
    run(out, sft, "--rounds", "1", "--labeller", name)
    assert "warning: the file" not in capsys.readouterr().err  # once


def test_what_is_there_without_a_record_is_not_written_over(tmp_path, sft, refused):
    """Comparisons of somebody's own, and a round of unknown flags."""
    argv = ["--out", str(tmp_path), "--sft", sft, *SMALL]
    (tmp_path / COMPARISONS).write_text("mine")
    assert f"{COMPARISONS} is of no rounds" in refused(rounds.main, argv, tmp_path)
    (tmp_path / COMPARISONS).unlink()
    (tmp_path / "round-1").mkdir()
    assert "round-1 is of no rounds" in refused(rounds.main, argv, tmp_path)


NULLS = json.dumps({"flags": {}, "rounds": [dict.fromkeys(rounds.COLUMNS)]})


@pytest.mark.parametrize(
    "content", ["", "[]", '{"flags": {}, "rounds": [1]}', '{"flags": {}, "rounds": [{}]}', NULLS]
)
def test_a_damaged_record_of_rounds_is_one_line(tmp_path, sft, refused, content):
    (tmp_path / rounds.RECORD).write_text(content)
    argv = ["--out", str(tmp_path), "--sft", sft, *SMALL]
    assert f"{rounds.RECORD} is damaged" in refused(rounds.main, argv, tmp_path)


def test_a_second_command_in_the_folder_of_rounds_is_refused(tmp_path, sft, refused):
    with lock(tmp_path):
        argv = ["--out", str(tmp_path), "--sft", sft, *SMALL]
        assert "is being written by process" in refused(rounds.main, argv, tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rm", "--epochs '2"], "--rm --epochs '2: No closing quotation; close the quotes"),
        (["--rm", "--epochs 2 --out x"], "--rm: a round gives --out to its stages itself; give"),
        (
            ["--ppo", "--epochs 2 --seed=5"],
            "--ppo: a round gives --seed to its stages itself; give it",
        ),
        (["--ppo", "--rm other"], "--ppo: a round gives --rm to its stages itself; leave it out"),
        (["--ppo=--reward=my:f"], "--ppo: a round gives --reward to its stages itself; leave"),
        (["--rm", "--margin"], 'begins with "-" is given as --rm=VALUE'),
        (["--rm=--no-such"], "unrecognized arguments: --no-such"),
        (["--rm", "--no-such 1"], "unrecognized arguments: --no-such 1"),
        (["--ppo", "--epochs 0"], "--epochs must be at least 1, got 0"),
        (["--ppo", "--minibatches 300"], "--minibatches 300 must be at most --batch-size 256"),
    ],
)
def test_bad_flags_of_a_stage_are_one_line(tmp_path, sft, refused, flags, message):
    """Those of PPO too, before the reward model is trained."""
    argv = ["--out", str(tmp_path / "o"), "--sft", sft, "--rounds", "1", *flags]
    assert message in refused(rounds.main, argv, tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--rounds 0", "--rounds must be at least 1"),
        ("--human-share 2", "--human-share must be at most 1"),
        ("--human-share 0.5", "--human-share: is beside a --labeller that is a model"),
        ("--labeller-model x", "--labeller-model: names the model of --labeller ai"),
        ("--labeller self --labeller-model x", "--labeller-model: names the model of --labeller"),
        ('--ppo "--lr \'1"', "--ppo --lr '1: No closing quotation; close the quotes"),
        ("--labeller nobody", "--labeller nobody is none of human, ai, constitution, quiz and no"),
        ("--labeller no_module:f", "--labeller no_module:f"),
        ("--labeller ai --labeller-model nowhere/pretrain", "nowhere/pretrain"),
        ("--sft nowhere", "nowhere is not there"),
    ],
)
def test_bad_flags_of_rounds_are_one_line(tmp_path, sft, refused, flags, message):
    """Before anything is written."""
    argv = ["--out", str(tmp_path / "o"), "--sft", sft, "--rounds", "1", *shlex.split(flags)]
    assert message in refused(rounds.main, argv, tmp_path)


BAD = {
    "numbers from 0 to 1": "return [2.0] * len(first)",
    "24 numbers from 0 to 1, one a response; got": "return ['yes'] * len(first)",
    "failed": "raise RuntimeError('no answer')",
    "got 0 of them: []": "return []",
}


@pytest.mark.parametrize(("message", "body"), BAD.items())
def test_a_labeller_that_returns_nonsense_is_one_line(
    tmp_path, sft, my_rewards, capsys, message, body
):
    """It says what a labeller has to return."""
    name = my_rewards(f"def reward(prompts, first, second):\n    {body}\n")
    with pytest.raises(rounds.InputError) as error:
        run(tmp_path / "o", sft, "--rounds", "1", "--labeller", name)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("labeller", ["human", "ai"])
def test_a_round_in_which_all_responses_are_equal_is_one_line(tmp_path, sft, monkeypatch, labeller):
    """Nothing can be compared, and a model is not asked."""
    sample = train_rm.sample

    def equal(*args):
        return [train_rm.dataclasses.replace(c, responses=["a"] * 3) for c in sample(*args)]

    monkeypatch.setattr(train_rm, "sample", equal)
    with pytest.raises(rounds.InputError, match="no prompt has two different responses"):
        run(tmp_path / "o", sft, "--rounds", "1", "--labeller", labeller)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--policy", "x"], "--policy: needs --more"),
        (["--human-share", "0.5"], "--human-share: is beside a --labeller"),
        (["--labeller-model", "x"], "--labeller-model: names the model of --labeller ai"),
        (["--data", "x.jsonl", "--labeller", "ai"], "--labeller: the comparisons are those of"),
        (["--data", "x.jsonl", "--more", "y"], "--more: the comparisons are those of"),
    ],
)
def test_flags_of_train_rm_that_a_run_does_not_read_are_refused(tmp_path, refused, flags, message):
    """Ignored, they would make two runs look different that are the same."""
    argv = ["--out", str(tmp_path / "o"), *flags]
    assert message in refused(train_rm.main, argv, tmp_path)


def test_rounds_draw_from_streams_of_their_own():
    """Round 0 is a run without rounds; no round shares a draw with another."""
    draws = {
        (seed, n, number): tuple(
            rng(round_seed(seed, n), config.Stream(number)).integers(2**62, size=2)
        )
        for seed, n, number in itertools.product((1, 2), range(4), range(9))
    }
    assert len(set(draws.values())) == len(draws)
    assert round_seed(7, 0) == 7
