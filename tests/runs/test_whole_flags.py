"""Flags that every command has, with both of their values in each: whether it goes on, and where it
computes."""

import pytest
import torch
from recorder import run_command, save_policy, save_reward_model, words, write_records

import train_ppo
import train_rm
import train_sft
from minirlhf import model
from minirlhf.run.config import InputError
from minirlhf.tools import ai, chat, dpo, evaluate, evaluate_rm, rejection, sample, world

COMMANDS = {
    "sft": train_sft.main,
    "rm": train_rm.main,
    "ppo": train_ppo.main,
    "dpo": dpo.main,
    "evaluate": evaluate.main,
    "evaluate-rm": evaluate_rm.main,
    "sample": sample.main,
}
WITHOUT_OUT = ("evaluate", "evaluate-rm", "sample")
SHORT = [{"prompt": f"Say {i}", "chosen": "yes", "rejected": "no"} for i in range(24)]
LONG = {"prompt": "no " * 70, "chosen": "yes", "rejected": "no"}
BAD = [{"prompt": f"Say {i}", "chosen": "yes", "rejected": "yes"} for i in range(40)]


class Reached(Exception):
    """The command has read its records, and goes on."""


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """chain(command, rows, **flags): calls it with toy models and a file of rows. The first thing
    that each does with its records is replaced: it raises `Reached` with them."""
    save_policy(tmp_path / "start", seed=9)
    save_reward_model(tmp_path / "scorer", seed=2, missing_end_score=-2.5)
    monkeypatch.setitem(model.SIZES, "nano", (1, 2, 16))

    def stop(*args, **kwargs):
        raise Reached([arg for arg in args if isinstance(arg, list)])

    places = {
        "sft": {"context": 64},
        "rm": {"sft": tmp_path / "start"},
        "ppo": {"sft": tmp_path / "start", "rm": tmp_path / "scorer", "batch_size": 8},
        "dpo": {"sft": tmp_path / "start"},
        "evaluate": {
            "policy": tmp_path / "start",
            "baseline": tmp_path / "start",
            "reward_model": tmp_path / "scorer",
        },
        "evaluate-rm": {"reward_model": tmp_path / "scorer"},
        "sample": {"policy": tmp_path / "start"},
    }
    monkeypatch.setattr(evaluate, "sample_all", stop)
    monkeypatch.setattr(evaluate_rm, "measure", stop)
    monkeypatch.setattr(sample, "records", stop)
    for module in (train_sft, train_rm, train_ppo, dpo):
        monkeypatch.setattr(module, "start_run", stop)
    monkeypatch.setattr(train_ppo, "Monitor", stop)

    def call(command, rows, **flags):
        data = {}
        if rows is not None:
            data["data"] = write_records(tmp_path / "data.jsonl", rows)
        out = {} if command in WITHOUT_OUT else {"out": tmp_path / "out"}
        run_command(COMMANDS[command], out | data | places[command] | flags)

    return call


@pytest.mark.parametrize("command", COMMANDS)
def test_a_record_that_is_too_long_is_an_error_unless_it_is_to_be_dropped(chain, command):
    """By file and line."""
    rows = [*SHORT, LONG]
    with pytest.raises(InputError, match="data.jsonl:25: .*--drop-long"):
        chain(command, rows)
    with pytest.raises(Reached):
        chain(command, rows, drop_long=True)
    with pytest.raises(Reached):
        chain(command, SHORT)


@pytest.mark.parametrize("command", ["sft", "rm", "ppo", "evaluate", "sample"])
def test_the_worlds_records_that_are_too_long_are_too(chain, command):
    """Its demonstrations do not fit a context of 36; its prompts leave no room for 52 tokens in one
    of 64."""
    flags = {"max_new_tokens": 52, "prompts": 200}
    if command == "sft":
        flags = {"context": 36, "demonstrations": 300, "documents": 300}
    if command == "rm":
        flags["held_out"] = 20
    with pytest.raises(InputError, match="--drop-long"):
        chain(command, None, **flags)
    with pytest.raises(Reached):
        chain(command, None, **flags, drop_long=True)


@pytest.mark.parametrize("command", ["sft", "rm", "dpo", "evaluate-rm"])
def test_a_file_of_which_most_rows_are_skipped_is_an_error_unless_it_is_told_to_go_on(
    chain, command
):
    """40 of 64 pairs are equal, which is no comparison; as many answers are labelled as bad."""
    bad = [{"prompt": "a", "completion": "b", "label": False}] * 40
    rows = [*SHORT, *(bad if command == "sft" else BAD)]
    with pytest.raises(InputError, match="--skip-bad"):
        chain(command, rows)
    with pytest.raises(Reached):
        chain(command, rows, skip_bad=True)


@pytest.mark.parametrize("command", ["ppo", "evaluate", "sample"])
def test_prompts_that_cannot_be_read_are_an_error_unless_it_is_told_to_go_on(chain, command):
    """Dialogues that do not begin with a human turn are none."""
    rows = [*SHORT, *[{"chosen": "a", "rejected": "b"}] * 40]
    with pytest.raises(InputError, match="--skip-bad"):
        chain(command, rows)
    with pytest.raises(Reached):
        chain(command, rows, skip_bad=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_device_that_is_not_there_is_refused_by_every_command(chain, monkeypatch, command):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="--device cuda"):
        chain(command, SHORT, device="cuda")
    with pytest.raises(Reached):
        chain(command, SHORT, device="cpu")
    with pytest.raises(InputError, match="--device cuda"):
        chat.main(["--device", "cuda"])
    for main in (ai.main, rejection.main):
        with pytest.raises(InputError, match="--device cuda"):
            main(["--device", "cuda"])


def test_the_world_prints_as_many_texts_as_it_is_asked_for_of_its_seed(capsys):
    """Documents, then demonstrations with their judgements."""

    def printed(**flags):
        world.main(words(flags))
        return capsys.readouterr().out

    assert printed() == ""
    documents, both = printed(documents=3, seed=5), printed(documents=3, show=4, seed=5)
    assert both.startswith(documents) and "Judgement" not in documents
    assert both.count("Judgement(") == 4
    assert printed(documents=3, seed=6) != documents
    assert len(printed(documents=1, seed=5)) < len(documents)
