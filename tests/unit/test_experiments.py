"""Experiments of several parts: what is kept of a part, what is refused, what the last command is
told, and the tables over seeds."""

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from minirlhf import data
from minirlhf.run import resume
from minirlhf.run.config import InputError
from minirlhf.run.lock import LOCK
from minirlhf.tools import measured, parts

# ---- parts: a folder with flags and models


@dataclass(frozen=True)
class Flags:
    out: str = "o"
    sft: str = "the sft"
    data: str = ""
    seed: int = 4
    device: str = "cpu"
    precision: str = "bf16"
    threads: int = 2
    rounds: int = 1
    beta: float = 0.5
    prompts: int = 30
    max_new_tokens: int = 9


def test_an_experiment_goes_on_with_the_same_flags_and_models_alone(tmp_path):
    """Where it lies and what it runs on may change, and a model is known by its weights, not by its
    path. Nothing is written where it is refused."""
    folder, args = tmp_path / "x", Flags()
    for free in ({}, {"out": "p", "threads": 1, "device": "cuda", "sft": "q"}):
        with parts.begin(folder, replace(args, **free), rm=[1, 2], sft=[3]):
            pass
    (folder / LOCK).unlink(missing_ok=True)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for change in ({"seed": 5}, {"prompts": 31}, {"rounds": 2}, {"beta": 0.6}):
        with pytest.raises(InputError, match=f"--{next(iter(change))} "):
            parts.begin(folder, replace(args, **change), rm=[1, 2], sft=[3]).__enter__()
    for change in ({"rm": [1, 9]}, {"sft": []}, {"labels": [4]}):
        models = {"rm": [1, 2], "sft": [3]} | change
        with pytest.raises(InputError, match="was made with"):
            parts.begin(folder, args, **models).__enter__()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="is no experiment of this command"):
        parts.begin(tmp_path, Flags()).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_stage_is_begun_once_resumed_when_interrupted_and_left_alone_when_finished(tmp_path):
    """A checkpoint does not make it finished, nor a record begun anew."""
    calls = []

    def main(words):
        calls.append(words)
        (tmp_path / "sft").mkdir(exist_ok=True)
        for name in ("config.json", "checkpoint.pt"):
            (tmp_path / "sft" / name).touch()
        if len(calls) < 3:
            raise KeyboardInterrupt

    flags = {"lr": 0.1, "max_new_tokens": 7, "drop_long": True}
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            parts.run(main, tmp_path, "sft", flags)
    for _ in range(2):
        assert parts.run(main, tmp_path, "sft", flags) == str(tmp_path / "sft")
    out = ["--out", str(tmp_path)]
    words = ["--lr", "0.1", "--max-new-tokens", "7", "--drop-long"]
    assert calls == [[*out, *words], [*out, "--resume"], [*out, "--resume"]]


def records(n=120):
    return [data.Demonstration(f"prompt {i}", f"response {i}") for i in range(n)]


def test_what_is_held_out_is_not_learned_from_and_is_what_the_policy_is_compared_on(tmp_path):
    """Prompts, not responses, as many as asked for; others for another seed."""
    files = []
    for seed in (4, 5):
        learned = parts.hold_out(records(), 6, seed, tmp_path)
        lines = (tmp_path / parts.HELD_OUT).read_text().splitlines()
        prompts = [json.loads(line)["prompt"] for line in lines]
        assert len(prompts) == 6 and set(prompts) <= {r.prompt for r in records()}
        assert not set(prompts) & {r.prompt for r in learned} and len(learned) > 90
        files.append(prompts)
    assert files[0] != files[1]


@pytest.mark.parametrize("own", ["", "mine.jsonl"])
def test_the_policy_is_compared_with_the_sft_model_by_the_flags_of_the_experiment(
    tmp_path, monkeypatch, own
):
    """On what was held out of --data; else on the world's prompts."""
    told = []
    monkeypatch.setattr(parts, "evaluate", SimpleNamespace(main=told.append))
    parts.compare_with_sft(Flags(data=own), tmp_path, "the policy", best_of=1)
    (words,) = told
    flags = {w: v for w, v in zip(words, [*words[1:], ""], strict=True) if w.startswith("--")}
    assert flags["--data"] == (str(tmp_path / parts.HELD_OUT) if own else "")
    expected = {"policy": "the policy", "baseline": "the sft", "seed": "4", "precision": "bf16"}
    expected |= {"max-new-tokens": "9", "device": "cpu", "threads": "2", "best-of": "1"}
    expected |= {"to": str(tmp_path / "evaluation.json")}
    assert {name: flags[f"--{name}"] for name in expected} == expected
    assert "--mix-data" in flags and len(flags) == len(expected) + 2


# ---- measured: numbers of a part, and their tables


@dataclass(frozen=True)
class Asked:
    out: str
    seed: int = 1
    sft: str = "s"
    labels: int = 128
    epochs: int = 2
    ways: str = "a,b"
    device: str = "cpu"
    threads: int = 1


def rows(*agreements, tied=(0.25, 0.5)):
    columns = zip((64, 128), agreements, tied, strict=False)
    return [{"labels": n, "agreement_with_judge": x, "tied": t} for n, x, t in columns]


def make(args, name, found, sft=(1,)):
    measured.make(args, name, lambda: found, ("ways",), list(sft))


def read(args, *names, sft=None):
    return measured.all_rows(args, names, ("ways",), sft and list(sft))


def test_a_part_is_kept_for_its_seed_and_all_seeds_are_read(tmp_path):
    """In the order of their numbers. What is there is not made again."""
    args = Asked(str(tmp_path))
    for seed in (10, 2, 1):
        make(replace(args, seed=seed), "a", rows(seed / 100, 0.5))
    make(args, "a", rows(0.9, 0.9))
    found = read(args, "a", "b")
    assert list(found) == ["a"] and list(found["a"]) == [1, 2, 10]
    for seed, lines in found["a"].items():
        assert lines == rows(seed / 100, 0.5)


def test_a_table_is_of_one_set_of_flags_and_a_seed_of_one_sft_model(tmp_path):
    """Which ways are asked for changes no number. Another seed has an SFT model of its own."""
    args = Asked(str(tmp_path))
    make(args, "a", rows(0.1, 0.2), sft=[1])
    make(replace(args, seed=2), "a", rows(0.1, 0.2), sft=[2])
    assert len(read(replace(args, ways="b", device="cuda", sft="t"), "a", sft=[1])["a"]) == 2
    for change in ({"labels": 256}, {"epochs": 3}):
        with pytest.raises(InputError, match=f"--{next(iter(change))} "):
            read(replace(args, **change), "a")
    with pytest.raises(InputError, match="the SFT model changed"):
        read(args, "a", sft=[2])
    stored = measured.read(tmp_path / "1" / "a.json")
    assert stored["inputs"] == resume.fingerprints(sft=[1])


def test_tables_have_a_column_for_each_number_and_pair_the_seeds():
    """Means over seeds; then the differences from the baseline on the seeds that both have, one by
    one. The last column is of the largest number alone."""
    found = {
        "base": {2: rows(0.5, 0.75), 3: rows(0.25, 0.5), 1: rows(0.125, 0.25)},
        "way": {
            1: rows(0.25, 0.5, tied=(0.0, 0.125)),
            2: rows(0.5, 0.875, tied=(1.0, 0.375)),
        },
    }
    found["way"][3] = rows(0.25)[:1]  # seed 3 has yet to come to 128
    lines = measured.tables(found, "labels", [64, 128], "base", "tied")
    tables = [[x.split() for x in lines if x.startswith(f"{name} ")] for name in ("base", "way")]
    assert tables[0] == [["base", "3", "0.292", "0.500", "0.500"]]
    means, differences = tables[1]
    assert means == ["way", "3", "0.333", "0.688", "0.250"]
    # .125, 0 and 0: t of two degrees is 4.303. At 128 .25 and .125: 12.706 standard errors.
    assert differences == ["way", "+0.042", "+-", "0.179", "+0.188", "+-", "0.794"]
    assert np.isclose(4.303 * np.std([0.125, 0, 0], ddof=1) / 3**0.5, 0.179, atol=1e-3)
    assert np.isclose(12.706 * 0.125 / 2, 0.794, atol=1e-3)
