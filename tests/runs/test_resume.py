"""A resumed run is the run that it was: each flag and each input, changed in each stage, is
refused in one line before anything is written."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import logged, same, saved

import train_ppo
import train_rm
import train_sft
from minirlhf.run import damage, resume
from minirlhf.run.config import InputError
from minirlhf.tools import dpo as dpo_command

STAGES = {"sft": train_sft, "rm": train_rm, "ppo": train_ppo, "dpo": dpo_command}
RECORDS = {"sft": "demonstrations", "rm": "comparisons", "ppo": "prompts", "dpo": "comparisons"}
INPUTS = {"sft": ("data", "text"), "rm": ("data", "sft"), "ppo": ("data", "sft", "rm")}
INPUTS["dpo"] = ("data", "sft")


@pytest.fixture(scope="session")
def chain(tmp_path_factory, colour_run, colours):
    """OUT of all stages on `colours`, each with few steps; SFT with pretraining on a text. Not to
    be written to: `run` is a copy."""
    out = tmp_path_factory.mktemp("chain") / "out"
    shutil.copytree(colour_run, out)
    text = colours / "text.txt"
    text.write_text("Pick a colour: b.\n" * 20)
    common = ["--out", str(out), "--batch-size", "4"]
    flags = {
        "sft": ["--text", str(text), "--context", "32", "--overwrite", "--max-new-tokens", "6"],
        "rm": ["--overwrite", "--max-new-tokens", "6", "--norm-prompts", "4"],
        "ppo": ["--updates", "2", "--max-new-tokens", "6", "--held-out", "4", "--minibatches", "4"],
        "dpo": [],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(train_sft.model.SIZES, "nano", (1, 2, 16))
        for stage, script in STAGES.items():
            data = colours / f"{RECORDS[stage]}.jsonl"
            script.main([*common, "--data", str(data), *flags[stage]])
    return out


@pytest.fixture
def run(chain, tmp_path):
    return shutil.copytree(chain, tmp_path / "out")


@pytest.fixture(autouse=True)
def small_model(monkeypatch):
    monkeypatch.setitem(train_sft.model.SIZES, "nano", (1, 2, 16))


def flags_that_stay():
    """(stage, flag, another value of it) for every flag of every stage whose change would make
    another run; the inputs are below."""
    cases = []
    for stage, script in STAGES.items():
        for field in dataclasses.fields(script.Config):
            if field.name not in resume.CHANGEABLE | set(INPUTS[stage]):
                cases.append((stage, field.name, field))
    return cases


def another(field, value):
    """Another value of a flag, within its limits."""
    if field.metadata["choices"]:
        return next(c for c in field.metadata["choices"] if c not in ("auto", value))
    if field.type is bool:
        return not value
    if field.type in (int, float):
        value = field.type(0.25 if value is None else value)
        limit = field.metadata["high"]
        return value / 2 if limit is not None and value >= limit / 2 else value * 2 + 1
    return "another"


FLAGS = flags_that_stay()


@pytest.mark.parametrize("case", FLAGS, ids=lambda case: "-".join(case[:2]))
def test_a_flag_that_made_the_past_cannot_change(run, refused, case):
    """Every flag of every stage but those of `CHANGEABLE`. They used to go on with exit code 0 (or
    in a traceback after config.json was written), and config.json then claimed that the new value
    held throughout. The line names both values."""
    stage, name, field = case
    before = json.loads((run / stage / "config.json").read_text())["flags"][name]
    value = another(field, before)
    option = "--" + name.replace("_", "-")
    argv = [f"{option}={value}"] if field.type is not bool else [option]
    message = refused(STAGES[stage].main, ["--out", str(run), "--resume", *argv], run)
    assert f"{option} is {resume.shown(before)} in" in message and f", and {value} now" in message


def test_the_table_has_every_flag_of_the_four_stages():
    """45 resumes were tried at first; a flag that is added later is in the table by itself."""
    assert len(FLAGS) >= 45
    assert ("ppo", "kl_coef") in [(stage, name) for stage, name, _ in FLAGS]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("change", ["shorter", "another record", "another order"])
def test_data_that_changed_are_refused(run, refused, colours, tmp_path, stage, change):
    """A file that grew shorter, a corrected record, the same records sorted: a batch of the resumed
    run would be of others than those that it says."""
    lines = (colours / f"{RECORDS[stage]}.jsonl").read_text().splitlines(keepends=True)
    changed = {
        "shorter": lines[:-1],
        "another record": [*lines[:-1], lines[-1].replace("number", "nummer")],
        "another order": lines[::-1],
    }[change]
    path = tmp_path / "changed.jsonl"
    path.write_text("".join(changed))
    argv = ["--out", str(run), "--resume", "--data", str(path)]
    message = refused(STAGES[stage].main, argv, run)
    before = json.loads((run / stage / "config.json").read_text())["inputs"]["data"]
    assert "the data changed" in message and before in message


def test_a_text_that_changed_is_refused(run, refused, tmp_path):
    """Pretraining has read it; the phase after it goes on from what it learned."""
    path = tmp_path / "other.txt"
    path.write_text("Pick a colour: g.\n" * 20)
    message = refused(train_sft.main, ["--out", str(run), "--resume", "--text", str(path)], run)
    assert "the text to pretrain on changed" in message


@pytest.mark.parametrize("stage", ["rm", "ppo", "dpo"])
@pytest.mark.parametrize("how", ["trained again", "another folder"])
def test_another_sft_model_is_refused(run, refused, stage, how):
    """The KL of a resumed run is measured from the model that it began with: after another training
    it jumped from .3 to 7.6 nats, and with `--sft OUT/ppo` it fell to 0."""
    state = saved(run / "sft")
    state["model"]["norm.bias"] += 0.01
    place = run / "sft" if how == "trained again" else run / "other"
    place.mkdir(exist_ok=True)
    torch.save(state, place / "checkpoint.pt")
    argv = ["--out", str(run), "--resume", "--sft", str(place)]
    message = refused(STAGES[stage].main, argv, run)
    assert "the SFT model changed: weights " in message


@pytest.mark.parametrize("part", ["weights", "missing_end_score"])
def test_another_reward_model_is_refused(run, refused, part):
    """Its scores, and what a response without end gets, which is stored with it."""
    state = saved(run / "rm")
    if part == "weights":
        state["model"]["head.bias"] += 0.1
    else:
        state["missing_end_score"] = -1.0
    torch.save(state, run / "rm" / "checkpoint.pt")
    message = refused(train_ppo.main, ["--out", str(run), "--resume"], run)
    assert ("the reward model changed" if part == "weights" else "-3.0 in") in message


def test_the_policy_itself_is_no_reference(run, refused):
    """`--resume --sft OUT/ppo`: the KL would be 0 from then on."""
    argv = ["--out", str(run), "--resume", "--sft", str(run / "ppo")]
    assert "would be replaced" in refused(train_ppo.main, argv, run)


def test_collected_comparisons_that_changed_are_refused(world_out, refused):
    """The reward model's run writes them itself, and goes on from them."""
    path = world_out / "rm" / "comparisons.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    argv = ["--out", str(world_out), "--resume"]
    assert "the data changed: 24 records" in refused(train_rm.main, argv, world_out)


def test_the_same_inputs_may_lie_elsewhere(run, colours, tmp_path):
    """A run moves to another machine: its data and models have other paths there, and the data may
    be compressed. It goes on to the bits of a run that stayed."""
    stay = shutil.copytree(run, tmp_path / "stay")
    train_ppo.main(["--out", str(stay), "--resume", "--updates", "3"])
    away = tmp_path / "away"
    away.mkdir()
    for stage in ("sft", "rm"):
        shutil.move(run / stage, away / stage)
    subprocess.run(["gzip", "-k", "-c", colours / "prompts.jsonl"], stdout=open(away / "p", "wb"))
    argv = ["--sft", str(away / "sft"), "--rm", str(away / "rm"), "--data", str(away / "p")]
    train_ppo.main(["--out", str(run), "--resume", "--updates", "3", *argv])
    first, second = saved(run / "ppo"), saved(stay / "ppo")
    assert first["step"] == 3 and same(first["model"], second["model"])
    assert logged(run / "ppo") == logged(stay / "ppo")


@pytest.mark.parametrize(
    "pair", ["--updates 3", "--eval-every 1", "--save-every 1", "--threads 1", "--device cpu"]
)
def test_going_on_saving_showing_and_the_place_may_change(run, pair):
    """They change nothing of what the run did before."""
    train_ppo.main(["--out", str(run), "--resume", *pair.split()])


def test_the_code_of_a_reward_may_be_repaired_and_that_is_said(run, tmp_path, monkeypatch, capsys):
    """A run that failed in a user's function goes on after the repair. Otherwise nothing says that
    the first updates had another reward."""
    source = "def score(prompts, responses):\n    return [float(len(r)) for r in responses]\n"
    path = tmp_path / "repaired_reward.py"
    path.write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    argv = ["--reward", "repaired_reward:score", "--missing-end-score", "-3", "--updates", "1"]
    config = json.loads((run / "ppo" / "config.json").read_text())["flags"]
    argv += ["--data", config["data"], "--batch-size", "4", "--minibatches", "4"]
    argv += ["--max-new-tokens", "6"]
    train_ppo.main(["--out", str(run), "--overwrite", *argv])
    train_ppo.main(["--out", str(run), "--resume"])
    assert "--reward" not in capsys.readouterr().err
    path.write_text(source.replace("float(len(r))", "1.0"))
    train_ppo.main(["--out", str(run), "--resume", "--updates", "2"])
    assert "warning: the file of --reward is not what it was" in capsys.readouterr().err


# ---- the two records of a run


def test_an_edited_config_is_refused(run, refused):
    """config.json would claim what did not hold; the checkpoint holds a copy of it."""
    path = run / "ppo" / "config.json"
    record = json.loads(path.read_text())
    before = record["flags"]["lr"]
    record["flags"]["lr"] = 0.125
    path.write_text(json.dumps(record))
    message = refused(train_ppo.main, ["--out", str(run), "--resume"], run)
    assert f"--lr is {before} in {run / 'ppo' / 'checkpoint.pt'}, and 0.125 now" in message


DAMAGED = {
    "empty": "",
    "cut": '{"stage": "ppo", "fla',
    "deep": "[" * 2000,
    "a list": "[1]",
    "no flags": "{}",
    "other flags": '{"flags": 3}',
    "other inputs": '{"flags": {}, "inputs": {"data": Infinity}}',
    "a command to the terminal": '{"flags": {}, "inputs": {"data": "\\u001b[2J"}}',
    "no text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_config_is_replaced_by_the_copy_in_the_checkpoint(run, capsys, content):
    """An empty file is what a power failure may leave. The run goes on with its own flags."""
    path = run / "ppo" / "config.json"
    before = json.loads(path.read_text())
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    train_ppo.main(["--out", str(run), "--resume", "--updates", "2"])
    assert "config.json is damaged; checkpoint.pt holds a copy" in capsys.readouterr().err
    after = json.loads(path.read_text())
    for name in ("batch_size", "lr", "data", "epochs", "missing_end_score"):
        assert after["flags"][name] == before["flags"][name]
    assert after["inputs"] == before["inputs"]


def record_without_checkpoint(run, **flags):
    """Changes flags in config.json, and removes the checkpoint, which holds a copy of them."""
    path = run / "ppo" / "config.json"
    record = json.loads(path.read_text())
    record["flags"] |= flags
    path.write_text(json.dumps(record))
    (run / "ppo" / "checkpoint.pt").unlink()


@pytest.mark.parametrize("value", ["x", [], {}, True, 1e400])
def test_a_flag_of_the_wrong_type_in_a_config_is_one_line(run, refused, value):
    """2,698 of 3,774 damaged files ended in a traceback."""
    record_without_checkpoint(run, epochs=value)
    message = refused(train_ppo.main, ["--out", str(run), "--resume"], run)
    assert "config.json is damaged: --epochs is" in message


@pytest.mark.parametrize("value", ["\ud800", "a\0b"])
def test_a_path_in_a_config_that_no_file_can_have_is_one_line(run, refused, value):
    """Half of a surrogate pair and a zero byte: the system's functions raise a ValueError."""
    record_without_checkpoint(run, data=value)
    message = refused(train_ppo.main, ["--out", str(run), "--resume"], run)
    assert "config.json is damaged: --data is" in message


def test_a_config_is_json_and_a_number_that_is_not_set_is_null(run):
    """`NaN` is no JSON: other readers refuse the whole file."""

    def refuse(name):
        raise AssertionError(name)

    for stage in STAGES:
        text = (run / stage / "config.json").read_text()
        flags = json.loads(text, parse_constant=refuse)["flags"]
        assert stage != "ppo" or flags["missing_end_score"] is None


def test_a_damaged_checkpoint_is_refused_before_anything_is_written(run, refused):
    """Of any stage. The previous checkpoint is named if there is one."""
    for stage, script in STAGES.items():
        path = run / stage / "checkpoint.pt"
        whole = path.read_bytes()
        path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
        argv = ["--out", str(run), "--resume"]
        assert f"{path} is not a checkpoint of minirlhf, or is damaged" in refused(
            script.main, argv, run
        )
        (path.with_name("checkpoint.previous.pt")).write_bytes(whole)
        assert f"checkpoint.previous.pt: rename it to {path.name}" in refused(
            script.main, argv, run
        )
        os.replace(path.with_name("checkpoint.previous.pt"), path)


def test_a_checkpoint_is_verified_once_in_a_resumption(run, monkeypatch):
    """Flags, step and weights are read of it at three moments, and a large one takes seconds."""
    checks, check = [], damage.check_archive

    def count_and_check(file):
        checks.append(Path(file.name).parent.name)
        check(file)

    monkeypatch.setattr(damage, "check_archive", count_and_check)
    monkeypatch.setattr(damage, "SETTLED", 0)  # this one is seconds old
    for stage, script in STAGES.items():
        checks.clear()
        damage.whole.clear()
        script.main(["--out", str(run), "--resume"])
        assert checks.count(stage) == 1 and len(set(checks)) == len(checks), (stage, checks)


def put(*path):
    """A function that puts a value into a checkpoint's dictionary, at a path of keys."""
    *path, name, value = path

    def change(state):
        for part in path:
            state = state[part]
        state[name] = value

    return change


VALUES = ("x", None, [], -1, True)
SHAPES = ("x", 0, -1, 10**9, 10**20, 0.5, None, True)
OF_MODELS = {
    **{
        (name, repr(value)): put(name, value)
        for name in ("stage", "gpt", "model")
        for value in (3, {})
    },
    **{
        (name, repr(x)): put(name, x)
        for name in ("tokenizer", "vocabulary")
        for x in ("x", None, 3)
    },
    **{
        (name, repr(value)): put("gpt", name, value)
        for name in ("vocab_size", "context", "layers", "heads", "width")
        for value in SHAPES
    },
    ("norm.bias", "shape"): put("model", "norm.bias", torch.zeros(2)),
    ("norm.bias", "huge"): put("model", "norm.bias", torch.tensor(1.0).expand(10**11)),
    ("norm.bias", "type"): put("model", "norm.bias", torch.zeros(16).long()),
    ("norm.bias", "text"): put("model", "norm.bias", "x"),
    ("itself", ""): lambda state: state["model"].update(itself=state),
}
MOMENT = "optimizer", "state", 0, "exp_avg"
OF_RUNS = {
    **{
        (name, repr(value)): put(name, value)
        for name in ("step", "kl_coef", "samples_bytes")
        for value in VALUES
    },
    **{(n, repr(x)): put(n, x) for n in ("optimizer", "value_head") for x in (None, {}, "x")},
    ("step", "1e20"): put("step", 1e20),
    ("moment", "shape"): put(*MOMENT, torch.zeros(2)),
    ("moment", "nan"): lambda state: state["optimizer"]["state"][0]["exp_avg"].fill_(math.nan),
    ("betas", "x"): lambda state: state["optimizer"]["param_groups"][0].update(betas=("a", 2)),
}


def damage_metadata(folder, change):
    state = saved(folder)
    change(state)
    with open(folder / "checkpoint.pt", "wb") as file:
        damage.save(state, file)


def name_of(case):
    return "-".join(map(str, case))


@pytest.mark.parametrize("case", OF_MODELS, ids=name_of)
def test_a_model_with_damaged_metadata_is_refused_in_one_line(run, refused, case):
    """Whole archives whose dictionary is wrong, which no checksum shows: 754 of 5,624 such tries
    ended in a traceback, and a billion layers took minutes."""
    damage_metadata(run / "sft", OF_MODELS[case])
    data = json.loads((run / "rm" / "config.json").read_text())["flags"]["data"]
    message = refused(train_rm.main, ["--out", str(run), "--data", data, "--overwrite"], run)
    assert str(run / "sft") in message or "--tokenizer" in message
    assert len(message) < 600


@pytest.mark.parametrize("case", OF_RUNS, ids=name_of)
def test_a_run_with_damaged_metadata_does_not_go_on(run, case):
    """The optimiser's moments and what has adapted. The checkpoint stays as it is."""
    damage_metadata(run / "ppo", OF_RUNS[case])
    before = (run / "ppo" / "checkpoint.pt").read_bytes()
    with pytest.raises(InputError) as error:
        train_ppo.main(["--out", str(run), "--resume", "--updates", "3"])
    assert "\n" not in str(error.value) and str(run / "ppo") in str(error.value)
    assert (run / "ppo" / "checkpoint.pt").read_bytes() == before


# ---- pipes


def test_data_may_come_through_a_pipe(tmp_path, colours, chain):
    """`--data <(jq ...)`: each byte can be read once. The test for gzip used to eat two, and the
    prompts that are shown were read again. The weights are those from the file."""
    command = f"{sys.executable} train_sft.py --context 32 --batch-size 18 --max-new-tokens 6"
    root = Path(train_sft.__file__).parent
    file = colours / "demonstrations.jsonl"
    ways = {"file": file, "pipe": f"<(cat {file})", "gzip": f"<(gzip -c {file})"}
    for name, data in ways.items():
        line = f"{command} --data {data} --out {tmp_path / name}"
        done = subprocess.run(["bash", "-c", line], cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    first = saved(tmp_path / "file" / "sft")
    for name in ("pipe", "gzip"):
        assert same(saved(tmp_path / name / "sft")["model"], first["model"])
        samples = (tmp_path / name / "sft" / "samples.txt").read_text()
        assert samples == (tmp_path / "file" / "sft" / "samples.txt").read_text()
