"""The stages as a chain: one score in training and evaluation, one world, and the command that
comes next."""

import dataclasses
import json
import math
import os
import re
import shlex

import pytest
from helpers import logged

import train_ppo
import train_rm
import train_sft
from minirlhf.data import split_by_prompt
from minirlhf.formats import jsonl
from minirlhf.run import chain, checkpoint
from minirlhf.run.config import InputError
from minirlhf.tools import dpo as dpo_command
from minirlhf.tools import evaluate as evaluate_command
from minirlhf.tools import report as report_command

PPO = "--updates 2 --batch-size 8 --minibatches 2 --held-out 6 --eval-every 2 --max-new-tokens 4"
PPO = [*PPO.split(), "--lr", "0.003"]
EVALUATION = "--prompts 6 --max-new-tokens 4 --best-of 1 --shown 0".split()


@pytest.fixture
def prompts(colours):
    return ["--data", str(colours / "prompts.jsonl")]


@pytest.fixture
def pairs(tmp_path, colours):
    """A file of comparisons of two, with a space in its name: it serves all stages."""
    lines = (colours / "comparisons.jsonl").read_text().splitlines()
    path = tmp_path / "my pairs.jsonl"
    path.write_text("\n".join(line for line in lines if "chosen" in line))
    return path


def evaluated(capsys, *argv):
    """({name: {column: text}} of the table that `minirlhf evaluate` prints, everything printed)."""
    capsys.readouterr()
    evaluate_command.main([*EVALUATION, *map(str, argv)])
    text = capsys.readouterr().out
    lines = text.splitlines()
    header = next(i for i, line in enumerate(lines) if " kl " in line)
    names = lines[header].split()
    rows = [re.split(r"  +", line) for line in lines[header + 2 : lines.index("", header)]]
    return {name: dict(zip(names, cells, strict=True)) for name, *cells in rows}, text


# ---- one score


@pytest.mark.parametrize("flags", [[], ["--missing-end-score", "-50"]], ids=["stored", "flag"])
def test_training_evaluation_and_report_give_a_policy_one_score(world_out, capsys, flags):
    """The same held-out prompts under the same noise: the score that PPO logged at its last update
    is that of `evaluate` and of `report`, though most responses of a toy policy are cut off. With
    another missing-end score than the reward model's, both take the policy's own."""
    out = world_out
    train_ppo.main(["--out", str(out), *PPO, *flags])
    score, ended = (logged(out / "ppo", name)[-1] for name in ("eval_score", "eval_ended"))
    assert ended < 0.9, "no response was cut off, so this test shows little"
    folders = "--policy", out / "ppo", "--baseline", out / "sft", "--reward-model", out / "rm"
    rows, text = evaluated(capsys, *folders)
    assert rows["policy"]["score"] == f"{score:.2f}"
    assert rows["policy"]["ended"] == f"{ended:.2f}"
    number = flags[1] if flags else "-3"
    assert f"the score of a response without end is {number}\n" in text
    report_command.main(["--out", str(out), "--prompts", "6", *EVALUATION[2:4], "--best-of", "4"])
    numbers = json.loads((out / "report.json").read_text())["rows"]
    assert numbers["PPO"]["score"] == pytest.approx(score, abs=1e-5)


def test_an_evaluation_takes_the_missing_end_score_of_the_flag_first(world_run, capsys):
    """-7 instead of -3: each response that was cut off is 4 lower."""
    folders = "--policy", world_run / "sft", "--baseline", world_run / "sft"
    folders += "--reward-model", world_run / "rm", "--max-new-tokens", "1"
    rows, _ = evaluated(capsys, *folders, "--missing-end-score", "-7")
    ended = float(rows["policy"]["ended"])
    assert ended < 0.5
    plain, _ = evaluated(capsys, *folders)
    difference = float(plain["policy"]["score"]) - float(rows["policy"]["score"])
    assert difference == pytest.approx(4 * (1 - ended), abs=0.03)


def test_an_evaluation_by_your_own_reward_takes_what_the_policy_was_trained_with(
    out, prompts, my_rewards, capsys, refused
):
    """Else it is a required flag, as in training: no reward model has stored one. 7 for each of the
    40 responses that ends, -50 for the others."""
    name = my_rewards("def reward(prompts, responses):\n    return [7.0] * len(responses)\n")
    flags = [*prompts, "--reward", name]
    train_ppo.main(["--out", str(out), *PPO, *flags, "--missing-end-score", "-50"])
    folders = ["--policy", str(out / "ppo"), "--baseline", str(out / "sft")]
    rows, _ = evaluated(capsys, *folders, *flags, "--prompts", "40", "--max-new-tokens", "1")
    ended = round(40 * float(rows["policy"]["ended"]))
    assert ended < 40 and rows["policy"]["score"] == f"{(7 * ended - 50 * (40 - ended)) / 40:.2f}"
    argv = ["--policy", str(out / "sft"), *folders[2:], *flags, *EVALUATION]
    message = refused(evaluate_command.main, argv, out)
    assert "--missing-end-score" in message and "was not trained on" in message


TRAINED = {"missing_end_score": -5.0, "reward": "", "rm": ""}


@pytest.mark.parametrize(
    ("flags", "reward_model", "function", "expected"),
    [
        (TRAINED, "rm", "", -5.0),
        (TRAINED, "other/rm", "", -3.0),
        (TRAINED | {"rm": "other/rm"}, "other/rm", "", -5.0),
        (TRAINED, "rm", "my:reward", -3.0),
        (TRAINED | {"reward": "my:reward"}, "rm", "my:reward", -5.0),
        (TRAINED | {"reward": "my:reward"}, "rm", "", -3.0),
        (TRAINED | {"missing_end_score": None}, "rm", "", -3.0),
        (TRAINED | {"missing_end_score": math.nan}, "rm", "", -3.0),
        ({}, "rm", "", -3.0),
    ],
)
def test_a_policys_missing_end_score_belongs_to_the_score_it_was_trained_on(
    tmp_path, monkeypatch, flags, reward_model, function, expected
):
    """-5 was meant in the units of one reward model, or of one function; -3 is stored with the
    reward model of the evaluation."""
    monkeypatch.chdir(tmp_path)
    store(tmp_path / "ppo", flags)
    assert chain.missing_end_score("ppo", reward_model, function, -3.0) == expected
    assert chain.missing_end_score("ppo/checkpoint.pt", reward_model, function, -3.0) == expected


def store(folder, flags):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"flags": flags}))


@pytest.mark.parametrize("trained", ["policy", "baseline"])
def test_an_evaluation_on_the_data_of_the_training_takes_what_was_held_out(
    colour_run, world_run, colours, tmp_path, monkeypatch, trained
):
    """The printed command names the training's file; answers to its other prompts were imitated.
    Another file is a test set of yours, and taken whole."""
    path = colours / "demonstrations.jsonl"
    folders = {"policy": world_run / "sft", "baseline": world_run / "sft"}
    folders[trained] = colour_run / "sft"
    args = evaluate_command.Config(
        **{name: str(folder) for name, folder in folders.items()}, data=str(path), seed=7
    )
    _, tokenizer = checkpoint.load_gpt(colour_run / "sft")
    records = jsonl.read_prompts(path)
    _, expected = split_by_prompt(records, seed=1)  # that of the run
    assert 1 < len(expected) < 30
    assert evaluate_command.load_prompts(args, tokenizer, 64) == expected
    copy = tmp_path / "test.jsonl"
    copy.write_text(path.read_text())
    args = dataclasses.replace(args, data=str(copy))
    assert evaluate_command.load_prompts(args, tokenizer, 64) == records
    args = dataclasses.replace(args, prompts=5)
    assert evaluate_command.load_prompts(args, tokenizer, 64) == records[:5]


# ---- one world

WORLD, OWN = chain.WORLD, "mine.jsonl"


@pytest.mark.parametrize(
    ("before", "data", "refusal"),
    [
        ("", "", None),
        (OWN, "other.jsonl", None),
        ("", OWN, f"was trained on {WORLD}, and this would be on {OWN}; train that stage with"),
        (OWN, "", f"was trained on {OWN}, and this would be on {WORLD}; give --data here too"),
        (None, OWN, None),
    ],
)
def test_a_stage_that_would_mix_worlds_is_refused_unless_it_is_told_to(
    tmp_path, before, data, refusal
):
    """None: nobody knows what a checkpoint without config.json was trained on."""
    store(tmp_path / "sft", {} if before is None else {"data": before})
    args = train_rm.Config(data=data)
    if refusal:
        with pytest.raises(InputError) as error:
            chain.refuse_mixed(args, tmp_path / "nowhere", tmp_path / "sft")
        assert f"{tmp_path / 'sft'} {refusal}" in str(error.value)
        assert "--mix-data" in str(error.value)
    else:
        chain.refuse_mixed(args, tmp_path / "sft")
    chain.refuse_mixed(dataclasses.replace(args, mix_data=True), tmp_path / "sft")


def test_every_stage_after_your_own_data_refuses_the_embedded_world(
    refused, out, world_run, tmp_path
):
    """The commands without --data used to train on the world's prompts, without a word."""
    world = str(world_run / "sft")
    new = ["--out", str(tmp_path / "new"), "--sft", str(out / "sft")]
    commands = {
        train_rm.main: new,
        dpo_command.main: new,
        train_ppo.main: [*new, "--rm", str(out / "rm"), "--max-new-tokens", "4"],
        evaluate_command.main: ["--policy", str(out / "sft"), "--baseline", world],
    }
    for main, argv in commands.items():
        message = refused(main, argv, tmp_path)
        assert f"{out / 'sft'} was trained on " in message and "--data" in message
        assert WORLD in message and "--mix-data" in message


def test_every_stage_after_the_embedded_world_refuses_your_own_data(
    refused, world_out, colours, tmp_path
):
    """One reason to go on is labels that people gave to the policy's own answers."""
    new = ["--out", str(tmp_path / "new"), "--sft", str(world_out / "sft")]
    source = ["--data", str(colours / "comparisons.jsonl")]
    ppo = [*new, *source, "--rm", str(world_out / "rm"), "--max-new-tokens", "4"]
    for main, argv in ((train_rm.main, [*new, *source]), (dpo_command.main, [*new, *source])):
        assert f"{world_out / 'sft'} was trained on {WORLD}" in refused(main, argv, tmp_path)
    assert "was trained on the embedded world" in refused(train_ppo.main, ppo, tmp_path)
    dpo_command.main([*new, *source, "--mix-data"])
    assert chain.trained_on(tmp_path / "new" / "dpo") == source[1]


def test_the_reward_model_of_another_world_is_refused(
    refused, out, world_run, prompts, my_rewards, tmp_path
):
    """The policy's own data are in order here; the reward model's are not. With a function there is
    no reward model to ask."""
    argv = ["--out", str(tmp_path / "new"), "--sft", str(out / "sft"), *prompts, *PPO]
    message = refused(train_ppo.main, [*argv, "--rm", str(world_run / "rm")], tmp_path)
    assert f"{world_run / 'rm'} was trained on {WORLD}" in message
    name = my_rewards("def reward(prompts, responses):\n    return [0.0] * len(responses)\n")
    function = ["--reward", name, "--missing-end-score", "-1"]
    train_ppo.main([*argv, *function, "--updates", "1"])


def test_a_run_says_what_it_was_trained_on(colour_run, world_run, colours):
    """In config.json, in words."""
    for stage, file in (("sft", "demonstrations"), ("rm", "comparisons")):
        own, world = (run / stage / "config.json" for run in (colour_run, world_run))
        data = str(colours / f"{file}.jsonl")
        assert json.loads(own.read_text())["data"] == data == chain.trained_on(own.parent)
        assert json.loads(world.read_text())["data"] == "the embedded world"
        assert chain.trained_on(world.parent) == "the embedded world"


# ---- rows that are skipped

IDENTICAL = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: b"}


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo", "dpo", "evaluate"])
def test_every_command_stops_where_most_of_a_file_is_skipped_unless_it_is_told_to_go_on(
    refused, colour_run, pairs, tmp_path, stage
):
    """47 of 50 rows were skipped, and the exit code was 0. Of two dialogues that are the same no
    stage knows the prompt."""
    lines = pairs.read_text().splitlines()
    path, new = tmp_path / "most.jsonl", ["--out", str(tmp_path / "new")]
    path.write_text("\n".join([*lines, *[json.dumps(IDENTICAL)] * (len(lines) + 1)]))
    sft, rm = str(colour_run / "sft"), str(colour_run / "rm")
    main, argv = {
        "sft": (train_sft.main, [*new, "--context", "32", "--max-new-tokens", "4"]),
        "rm": (train_rm.main, [*new, "--sft", sft, "--max-new-tokens", "4"]),
        "ppo": (train_ppo.main, [*new, "--sft", sft, "--rm", rm, *PPO]),
        "dpo": (dpo_command.main, [*new, "--sft", sft]),
        "evaluate": (
            evaluate_command.main,
            ["--policy", sft, "--baseline", sft, "--reward-model", rm, *EVALUATION],
        ),
    }[stage]
    argv += ["--data", str(path)]
    message = refused(main, argv, tmp_path)
    assert f"{len(lines) + 1} of {2 * len(lines) + 1} rows" in message and "--skip-bad" in message
    main([*argv, "--skip-bad"])


def test_a_resumed_reward_model_reads_all_that_it_collected(world_out):
    """Four equal responses would be skipped in a user's file; here they are part of the run."""
    path = world_out / "rm" / "comparisons.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["responses"] = ["same"] * len(lines[0]["responses"])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sft, tokenizer = checkpoint.load_gpt(world_out / "sft")
    args = train_rm.Config(out=str(world_out), prompts=24, max_new_tokens=4, resume=True)
    assert len(train_rm.load_comparisons(args, sft, tokenizer)) == len(lines) == 24


# ---- the next command


def printed_command(capsys, main, argv):
    """The words of the command that a stage prints at its end."""
    capsys.readouterr()
    main(list(map(str, argv)))
    line = capsys.readouterr().out.splitlines()[-1]
    return shlex.split(re.search(r"(python train_|minirlhf evaluate).*", line)[0])


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("own", [True, False], ids=["own data", "world"])
def test_the_printed_commands_lead_through_all_stages(tmp_path, pairs, capsys, own):
    """Each is run as it is printed, with flags that make it short. Folder, data, seed and length of
    responses come along; all stages are trained on the same data."""
    out = tmp_path / "my out"
    flags = ["--out", out, "--seed", 3, "--max-new-tokens", 4]
    flags += ["--data", pairs, "--context", 32] if own else []
    small = [] if own else "--documents 20 --demonstrations 20".split()
    words = printed_command(capsys, train_sft.main, [*flags, *small])
    assert words[:2] == ["python", "train_rm.py"]
    small = "--responses 2 --norm-prompts 4 --held-out 4".split()
    small += [] if own else "--prompts 8".split()
    words = printed_command(capsys, train_rm.main, [*words[2:], *small])
    assert words[:2] == ["python", "train_ppo.py"]
    small = [] if own else "--prompts 8".split()
    small += "--updates 1 --batch-size 4 --minibatches 2 --temperature 0.9".split()
    words = printed_command(capsys, train_ppo.main, [*words[2:], *small])
    assert words[:2] == ["minirlhf", "evaluate"]
    rows, _ = evaluated(capsys, *words[2:])
    assert set(rows) == {"baseline", "policy"}
    expected = str(pairs) if own else WORLD
    assert {chain.trained_on(out / stage) for stage in ("sft", "rm", "ppo")} == {expected}
    flags = [chain.stored_flags(out / stage) for stage in ("sft", "rm", "ppo")]
    assert {(f["seed"], f["max_new_tokens"]) for f in flags} == {(3, 4)}
    assert words[words.index("--temperature") + 1] == "0.9"


def test_the_command_after_demonstrations_asks_for_comparisons(colours):
    """A file of demonstrations cannot train a reward model, and a pipe cannot be read again."""
    args = train_sft.Config(data=str(colours / "demonstrations.jsonl"), out="o")
    command = "python train_rm.py --data YOUR_COMPARISONS.jsonl --out o"
    assert train_sft.next_command(args) == command
    assert train_sft.next_command(dataclasses.replace(args, data="/dev/null")) == command
    data = str(colours / "comparisons.jsonl")
    assert train_sft.next_command(dataclasses.replace(args, data=data)).split()[3] == data


def test_comparisons_under_names_of_your_own_are_found_by_the_names_that_you_gave(tmp_path):
    """Demonstrations are their chosen responses; the reward model learns from the same file."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"ask": "Is it?\\n", "good": "Yes.", "bad": "No."}\n')
    names = "prompt=ask,chosen=good,rejected=bad"
    for given, file in ((names, str(path)), ("", "YOUR_COMPARISONS.jsonl")):
        words = shlex.split(train_sft.next_command(train_sft.Config(data=str(path), map=given)))
        assert words[words.index("--data") + 1] == file
        assert words[words.index("--map") + 1] == given if given else "--map" not in words


def test_a_pipe_that_was_read_is_not_opened_again_for_the_next_command(tmp_path, monkeypatch):
    """A named one would block for ever, after hours of training."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr(train_sft.jsonl, "holds_comparisons", None)  # not to be called
    for data in ("-", str(pipe)):
        assert "--data YOUR_COMPARISONS.jsonl" in train_sft.next_command(
            train_sft.Config(data=data)
        )


def test_the_evaluation_of_a_policy_is_by_the_score_of_its_training():
    """A function, with its missing-end score; or the reward model. An SFT model that lies elsewhere
    comes along."""
    args = train_ppo.Config(sft="s", reward="my:reward", missing_end_score=-2.0, drop_long=True)
    expected = "minirlhf evaluate --drop-long --policy p --baseline s --reward my:reward "
    assert train_ppo.evaluation_command(args, "p") == expected + "--missing-end-score -2.0"
    args = train_ppo.Config(out="o", rm="r", data="d.jsonl")
    expected = "minirlhf evaluate --data d.jsonl --policy p --baseline o/sft --reward-model r"
    assert train_ppo.evaluation_command(args, "p") == expected


def test_dpo_prints_an_evaluation_that_runs(out, colours, capsys):
    """By the reward model, where there is one."""
    argv = ["--out", out, "--data", colours / "comparisons.jsonl"]
    words = printed_command(capsys, dpo_command.main, argv)
    rows, _ = evaluated(capsys, *words[2:])
    assert rows["policy"]["score"] != "-"
