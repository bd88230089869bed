"""What `minirlhf methods` takes for a method's run, what it makes, and from which models: all on
folders that only hold what a stage leaves behind."""

import dataclasses
import json
import shlex
import time
from types import SimpleNamespace

import pytest

import train_ppo
from minirlhf.run import chain, checkpoint, config
from minirlhf.run.config import InputError
from minirlhf.run.folder import COMPARISONS
from minirlhf.tools import dpo, methods, runs
from minirlhf.tools.parts import EXPERIMENT
from minirlhf.tools.runs import Method, Place
from minirlhf.tools.script import script

PPO, RLOO, DPO = (methods.METHODS[name] for name in ("ppo", "rloo", "dpo"))


def leave(folder, flags=None, **inputs):
    """What a stage leaves behind: its record and a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"flags": flags or {}, "inputs": inputs}
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "checkpoint.pt").touch()


@pytest.fixture
def place(tmp_path):
    """place(name, method, seed=4) -> Place below tmp_path/out, with the base beside it."""

    def call(name, method, seed=4):
        return Place(name, method, seed, tmp_path / "base", tmp_path / "out" / name / str(seed))

    return call


def flags_of(place, module):
    """The flags that a run of the method records, as a fresh command would."""
    words = shlex.split(runs.line_of(place, place.method.commands[-1]))[1:]
    return dataclasses.asdict(config.parse(module.Config, words))


# ---- what counts as a method's run


@pytest.mark.parametrize(
    ("name", "method", "module", "others"),
    [
        ("ppo", PPO, train_ppo, {"updates": 48, "kl_coef": 0.2, "algorithm": "rloo", "lr": 1.0}),
        ("dpo", DPO, dpo, {"beta": 0.3, "loss": "ipo", "epochs": 7}),
    ],
)
def test_a_run_of_the_base_is_the_methods_if_it_has_learned_the_same_way(
    place, monkeypatch, name, method, module, others
):
    """Each flag that changes what it learns makes it another; where it lies, from which seed, with
    how many threads and in which precision does not. A record that is older than a flag does not
    name it."""
    spot, folder = place(name, method), place(name, method).base / method.policy
    monkeypatch.setattr(checkpoint, "stored_step", lambda folder, stage: 96)
    flags = flags_of(spot, module)
    elsewhere = {"out": "x", "sft": "y", "seed": 9, "threads": 3, "precision": "bf16"}
    for same in ({}, {"device": "cuda"}, elsewhere):
        leave(folder, flags | same)
        assert runs.folder_of(spot) == spot.base
    leave(folder, {k: v for k, v in flags.items() if k not in ("lora", "drop_long")})
    assert runs.folder_of(spot) == spot.base
    for flag, value in others.items():
        leave(folder, flags | {flag: value})
        assert runs.folder_of(spot) == spot.run, flag
    ((flag, value), *_) = others.items()
    told = method._replace(commands=(f"{method.commands[0]} --{flag.replace('_', '-')} {value}",))
    leave(folder, flags | {flag: value})
    assert runs.folder_of(spot._replace(method=told)) == spot.base  # where the method has that flag
    leave(folder, flags)
    leave(spot.run / method.policy, flags)
    assert runs.folder_of(spot) == spot.run  # one of its own comes first


def test_only_ppo_and_dpo_may_be_the_bases(place, monkeypatch):
    """A base of make results holds these. RLOO in OUT/ppo was somebody's experiment."""
    monkeypatch.setattr(checkpoint, "stored_step", lambda folder, stage: 96)
    spot = place("rloo", RLOO)
    leave(spot.base / "ppo", flags_of(spot, train_ppo))
    assert runs.folder_of(spot) == spot.run


@pytest.mark.parametrize(("step", "whole"), [(95, False), (96, True), (97, True)])
def test_ppo_is_made_at_its_last_update(place, monkeypatch, step, whole):
    """Its checkpoint is there from the first one on; that of the base counts then as well."""
    monkeypatch.setattr(checkpoint, "stored_step", lambda folder, stage: step)
    spot = place("ppo", PPO)
    leave(spot.base / "ppo", flags_of(spot, train_ppo))
    assert runs.made(spot.base, "ppo") == whole
    assert (runs.folder_of(spot) == spot.base) == whole


# ---- from which models


MODELS = {"sft": "weights 1", "rm": "weights 2"}


def check(place, monkeypatch, **models):
    """`require_models` for a base whose models are MODELS, but for those that are given."""
    monkeypatch.setattr(runs, "models_of", lambda base: MODELS | models)
    runs.require_models([place])


@pytest.mark.parametrize("where", ["ppo", "round-1/sft", EXPERIMENT])
def test_a_run_of_other_models_is_refused_wherever_it_names_them(place, monkeypatch, where):
    """A stage names them in its record, an experiment in its own."""
    spot = place("rloo", RLOO)
    if where == EXPERIMENT:
        leave(spot.run / "ppo")
        (spot.run / EXPERIMENT).write_text(json.dumps(MODELS | {"rounds": 2}))
    else:
        leave(spot.run / where, **MODELS)
    check(spot, monkeypatch)
    for stage in MODELS:
        with pytest.raises(InputError, match=f"{spot.run} was made from .*/{stage} is now; move"):
            check(spot, monkeypatch, **{stage: "weights 3"})


def test_a_new_reward_model_concerns_the_runs_that_name_it(place, monkeypatch):
    """DPO has none. What has not begun is of no model."""
    leave(place("dpo", DPO).run / "dpo", sft=MODELS["sft"])
    check(place("dpo", DPO), monkeypatch, rm="weights 3")
    check(place("rloo", RLOO), monkeypatch, sft="weights 3")


def test_the_bases_own_policy_is_looked_at_by_itself(place, monkeypatch):
    """Its other stages may have begun with the models as they are now."""
    monkeypatch.setattr(checkpoint, "stored_step", lambda folder, stage: 96)
    spot = place("ppo", PPO)
    leave(spot.base / "dpo", **MODELS)
    leave(spot.base / "ppo", flags_of(spot, train_ppo), **MODELS)
    check(spot, monkeypatch)
    leave(spot.base / "ppo", flags_of(spot, train_ppo), **MODELS | {"sft": "weights 0"})
    with pytest.raises(InputError, match="base was made from another model than .*base/sft is"):
        check(spot, monkeypatch)


def test_a_reward_model_with_adapters_is_not_asked_for_its_fingerprint(tmp_path, monkeypatch):
    """A run that shares its trunk knows it by another one."""
    monkeypatch.setattr(checkpoint, "load_gpt", lambda path: ("GPT 1", None))
    monkeypatch.setattr(runs.reward, "load_reward_model", lambda path: ("RM 2", None, -3.0))
    monkeypatch.setattr(runs.resume, "fingerprint", lambda model: f"weights {model}")
    for flags, found in (({"lora": 0}, {"sft", "rm"}), ({"lora": 8}, {"sft"}), ({}, {"sft", "rm"})):
        leave(tmp_path / "rm", flags)
        assert set(runs.models_of(tmp_path)) == found
    assert chain.stored_flags(tmp_path / "rm") == {}


# ---- making them


TWO = Method("", "", ("rm --out {run}/2 --seed 200", "ppo --out {run} --seed {seed}"))


@pytest.fixture
def work(monkeypatch):
    """work(place, ...) -> the commands that were executed; one in `work.stops` writes its
    checkpoint and is interrupted. Each sleeps, which costs the processor nothing."""

    def execute(line, place):
        call.lines.append((line.split()[0], place.seed))
        time.sleep(0.05)
        leave(place.run / line.split()[0])
        if line.split()[0] in call.stops:
            raise KeyboardInterrupt

    def call(*places):
        call.lines = []
        try:
            runs.make(places)
        except KeyboardInterrupt:
            pass
        return call.lines

    call.stops = ()
    monkeypatch.setattr(runs, "execute", execute)
    return call


def test_what_has_ended_is_not_made_again_and_what_was_interrupted_is(place, work):
    """Command by command; each seed has a record of its own. A policy without any record was made
    by hand, and is whole."""
    spots = [place("two", TWO, seed) for seed in (1, 2)]
    work.stops = ("ppo",)
    assert work(*spots) == [("rm", 1), ("ppo", 1)]
    assert runs.missing(spots[0]) == [TWO.commands[1]] and runs.made(spots[0].run, "ppo")
    work.stops = ()
    assert work(*spots) == [("ppo", 1), ("rm", 2), ("ppo", 2)]
    assert work(*spots) == []
    for spot in spots:
        assert list(runs.ended(spot.run)) == list(TWO.commands)
    work.stops = ("ppo",)
    one = place("one", TWO._replace(commands=TWO.commands[1:]))
    work(one)  # its only command: without a record it would count as made by hand
    assert runs.missing(one) == list(one.method.commands)
    leave(place("hand", TWO).run / "ppo")
    assert runs.missing(place("hand", TWO)) == []


def test_the_seconds_of_a_method_are_those_of_the_processor_for_all_its_commands(place, work):
    """Mean over seeds. Sleeping costs nothing."""
    work(place("two", TWO))
    assert all(0 <= x < 0.05 for x in runs.ended(place("two", TWO).run).values())
    for seed, seconds in ((1, (30.0, 4.0)), (2, (50.0, 16.0))):
        record = dict(zip(TWO.commands, seconds, strict=True))
        runs.record_path(place("two", TWO, seed).run).write_text(json.dumps(record))
    places = [place("two", TWO, seed) for seed in (1, 2)]
    assert runs.processor_seconds([*places, place("none", TWO)]) == {"two": "50"}


@pytest.fixture
def called(monkeypatch):
    """The command lines that `execute` gives to commands."""
    lines = []
    monkeypatch.setattr(runs, "script", lambda name: SimpleNamespace(main=lines.append))
    return lines


def test_dpo_learns_from_the_comparisons_as_the_base_has_them_now(place, called):
    """Not from a copy of before."""
    spot = place("dpo", DPO)
    for folder, text in ((spot.run / "rm", "old"), (spot.base / "rm", "new")):
        folder.mkdir(parents=True)
        (folder / COMPARISONS).write_text(text)
    runs.execute(runs.line_of(spot, DPO.commands[0]), spot)
    assert (spot.run / "rm" / COMPARISONS).read_text() == "new"
    assert called == [["--out", str(spot.run), "--sft", f"{spot.base}/sft", "--seed", "4"]]


@pytest.mark.parametrize(
    ("line", "begun"),
    [
        ("rm --out {run}/2 --seed 200", "2/rm"),
        ("ppo --out {run} --seed {seed}", "ppo"),
        ("dpo --out {run} --seed {seed}", "dpo"),
    ],
)
def test_a_stage_that_was_interrupted_is_resumed_in_its_own_folder(place, called, line, begun):
    """Another stage beside it is no reason to."""
    spot = place("one", Method("", "", (line,)))
    leave(spot.base / "rm")
    (spot.base / "rm" / COMPARISONS).touch()
    leave(spot.run / "rm" if begun == "2/rm" else spot.run / "sft")
    runs.execute(runs.line_of(spot, line), spot)
    leave(spot.run / begun)
    runs.execute(runs.line_of(spot, line), spot)
    assert ["--resume" in words for words in called] == [False, True]


def test_the_commands_of_the_toys_are_those_of_minirlhf():
    """So that a line here is one that a user could type."""
    for command in TWO.commands:
        name = command.split()[0]
        assert script(runs.COMMANDS[name].module).main
