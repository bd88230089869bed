"""The specification of run/resume.py: what is known of a run's past, and what may differ."""

import dataclasses
import json

import pytest
import torch
from helpers import Config

import train_ppo
import train_rm
import train_sft
from minirlhf.data import Demonstration
from minirlhf.run import resume
from minirlhf.run.config import InputError
from minirlhf.tools import dpo

NAN = float("nan")


def stored(folder, **record):
    """A run's folder with this record. Returns it."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"flags": {}} | record))
    return folder


# ---- what is known


def test_every_value_but_none_and_an_empty_list_has_a_fingerprint():
    """A missing-end score of 0 is one: it would be forgotten as if it were not there."""
    known = resume.fingerprints(score=0.0, other=-3.0, text=[], init=None)
    assert known == {"score": "0.0", "other": "-3.0"}


def test_a_fingerprint_differs_where_any_record_or_their_order_does():
    records = [Demonstration(f"p{i}", "r") for i in range(4)]
    others = [records[:3], records[::-1], [*records[:3], Demonstration("p3", "s")], records * 2]
    texts = [resume.fingerprint(x) for x in [records, *others]]
    assert len(set(texts)) == 5 and texts[0] == resume.fingerprint(list(records))


def test_a_fingerprint_differs_where_any_weight_or_its_name_does():
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}
    changed = [{**weights, "b": torch.tensor([1.0, 1.0 + 1e-7])}]
    changed += [{"a": weights["a"], "c": weights["b"]}, {"a": -weights["a"], "b": weights["b"]}]
    texts = [resume.fingerprint(x) for x in [weights, *changed]]
    assert len(set(texts)) == 4
    assert texts[0] == resume.fingerprint({name: x.clone() for name, x in weights.items()})


def test_the_flags_of_a_run_come_back_as_they_were():
    """0, False and an empty text are values too; what is null is a number that was not set."""
    record = {"flags": {"steps": 0, "init": "", "resume": False, "target": None, "out": "x"}}
    flags = resume.recorded_flags(Config, record, "config.json")
    assert flags["steps"] == 0 and flags["init"] == "" and flags["resume"] is False
    assert flags["target"] != flags["target"] and flags["updates"] == 6
    text = resume.record_text({"flags": {"steps": 0, "target": NAN}})
    assert json.loads(text)["flags"] == {"steps": 0, "target": None}


def test_a_checkpoint_does_not_say_where_its_run_is(tmp_path):
    """Two runs that learn the same have the same checkpoint."""
    flags = {"out": "here", "resume": True, "overwrite": True, "steps": 3}
    folder = stored(tmp_path, flags=flags, inputs={"data": "x"})
    assert resume.copied_record(folder) == {"flags": {"steps": 3}, "inputs": {"data": "x"}}


def test_what_a_run_adds_to_its_record_stands_beside_what_it_began_with(tmp_path):
    """And is still there when the run is resumed, which does not name it."""
    folder = stored(tmp_path, inputs={"sft": "weights 1"})
    resume.add_inputs(folder, data=["a record"])
    data = resume.fingerprint(["a record"])
    assert resume.read_record(folder)["inputs"] == {"sft": "weights 1", "data": data}
    kept = resume.kept_inputs({"sft": "weights 1"}, [tmp_path / "new", folder])
    assert kept == {"sft": "weights 1", "data": data}
    for change in (resume.add_inputs, lambda folder, **x: resume.kept_inputs(x, [folder])):
        with pytest.raises(InputError, match="the data changed"):
            change(folder, data="other")


# ---- what may differ


@pytest.mark.parametrize(
    ("before", "now"),
    [(0.0, NAN), (NAN, 0.0), (None, 1.0), (1.0, None), (1.0, 0.0), ("", "x"), (False, True)],
)
def test_a_number_that_was_not_set_is_not_zero_and_may_not_be_set(before, now):
    with pytest.raises(InputError, match="--target is .* and .* now: a resumed run keeps it"):
        resume.refuse_changed_flags({"target": now}, {"flags": {"target": before}}, "config.json")


MAY_CHANGE = {
    *("out", "resume", "overwrite"),  # of the command, and where the run lies
    *("device", "threads", "microbatch_tokens", "gradient_checkpointing"),  # how it computes
    *("updates", "eval_every", "save_every", "keep", "track", "microscope"),  # how long; its files
}


@pytest.mark.parametrize("stage", [train_sft, train_rm, train_ppo, dpo])
def test_what_a_resumed_run_may_change_is_how_it_computes_how_long_and_what_it_keeps(stage):
    """Every other flag would make another run of it, from here on."""
    for name in (field.name for field in dataclasses.fields(stage.Config)):
        flags, record = {name: 2}, {"flags": {name: 1}}
        if name in MAY_CHANGE:
            resume.refuse_changed_flags(flags, record, "config.json")
        else:
            with pytest.raises(InputError, match="a resumed run keeps it"):
                resume.refuse_changed_flags(flags, record, "config.json")


@pytest.mark.parametrize("value", [0.0, NAN, None, "", "x", False])
def test_a_flag_that_is_the_same_may_stay(value):
    resume.refuse_changed_flags({"target": value}, {"flags": {"target": value}}, "config.json")
    resume.refuse_changed_flags({"target": NAN}, {"flags": {"target": None}}, "config.json")


def test_a_file_may_lie_elsewhere_if_what_was_in_it_is_known():
    """Its fingerprint is compared then. A file that is not known may not move, and one may not
    appear where none was; a stage's own default place is a place too."""
    record = {"flags": {"data": "a", "text": "a", "sft": "", "init": ""}}
    record["inputs"] = {"data": "1 records", "sft": "weights 1", "init": "weights 1"}
    resume.refuse_changed_flags({"data": "b"}, record, "config.json")
    resume.refuse_changed_flags({"sft": "b"}, record, "config.json")
    for flags in ({"text": "b"}, {"data": ""}, {"init": "b"}):
        with pytest.raises(InputError, match="a resumed run keeps it"):
            resume.refuse_changed_flags(flags, record, "config.json")


def test_code_that_was_repaired_is_told_and_another_model_is_refused(capsys):
    """A labeller may be either."""
    for name in ("reward", "labeller"):
        record = {"inputs": {name: "code 1"}}
        resume.refuse_changed_inputs({name: "code 2"}, record, "config.json")
        assert f"warning: the file of --{name} is not" in capsys.readouterr().err
        for before, now in (("weights 1", "weights 2"), ("code 1", "weights 2")):
            with pytest.raises(InputError, match="changed"):
                resume.refuse_changed_inputs({name: now}, {"inputs": {name: before}}, "x")


def test_a_config_of_another_run_than_the_checkpoint_is_refused(tmp_path):
    """By its flags and by its inputs."""
    run = {"flags": {"steps": 3}, "inputs": {"data": "1 records"}}
    state = {"run": run, "step": 1}
    torch.save(state, tmp_path / "checkpoint.pt")
    assert resume.recorded(stored(tmp_path, **run))["flags"] == {"steps": 3}
    for other in ({"flags": {"steps": 4}}, {"inputs": {"data": "2 records"}}):
        with pytest.raises(InputError, match="checkpoint.pt"):
            resume.recorded(stored(tmp_path, **run | other))
    torch.save({"weights_only": True, "run": run}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="weights without an optimiser"):
        resume.recorded(stored(tmp_path, **run))
