"""The specification of run/trackers.py: what TensorBoard and Weights & Biases have of a run, read
back from their files."""

import json
import sys
import time
from types import SimpleNamespace

import pytest

from minirlhf.run import trackers
from minirlhf.run.config import InputError
from minirlhf.run.metrics import Metrics, read_metrics, write_samples

MARKUP = "<b>|*a*|\n# [x](http://y)"
HEADER, ROWS = ("prompt", "score"), [(MARKUP, 0.5)]


@pytest.fixture
def folder(tmp_path):
    content = {"stage": "ppo", "flags": {"lr": 0.5}, "inputs": {"data": "<i>"}}
    (tmp_path / "config.json").write_text(json.dumps(content, indent=2))
    return tmp_path


def run(folder, name, steps, slope=1.0, samples=False):
    """A stage that logs some steps, as the loops do, and reports at the end."""
    with trackers.tracked(name, [folder]):
        metrics = Metrics(folder, steps[0])
        for step in steps:
            metrics.log(step, score=slope * step, kl=float("nan") if step == 1 else 2.0)
            metrics.flush()
        if samples:
            write_samples(folder, "after <all> updates", HEADER, ROWS)
        Metrics(folder, steps[-1] + 1).log(steps[-1] + 1, accuracy=0.75)


def values(folder, name):
    """[(step, value)] of a metric in metrics.jsonl; null is left out, as in a tracker."""
    records = read_metrics(folder)
    return [(x["step"], x[name]) for x in records if x.get(name) is not None]


# ---- TensorBoard


def events(folder):
    """All event files of a run, as TensorBoard reads them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    return accumulator.EventAccumulator(str(folder / "tensorboard"), {"tensors": 0}).Reload()


def scalars(folder, name):
    return [(event.step, event.value) for event in events(folder).Scalars(name)]


def text(folder, name):
    """[(step, text)]"""
    tensors = events(folder).Tensors(f"{name}/text_summary")
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in tensors]


def test_tensorboard_has_the_numbers_of_metrics_jsonl_under_their_names(folder):
    """What is not finite is null there, and missing here."""
    pytest.importorskip("tensorboard")
    run(folder, "tensorboard", range(4))
    assert set(events(folder).Tags()["scalars"]) == {"score", "kl", "accuracy"}
    for name in ("score", "kl", "accuracy"):
        assert scalars(folder, name) == values(folder, name)
    assert [step for step, _ in scalars(folder, "kl")] == [0, 2, 3]


def test_tensorboard_shows_config_and_samples_and_takes_none_of_it_for_markup(folder):
    """The panel renders Markdown and HTML. A sample stands at the step that comes next."""
    pytest.importorskip("tensorboard")
    run(folder, "tensorboard", range(4), samples=True)
    [(step, shown)] = text(folder, "samples")
    assert step == 4
    title, _, header, rule, row = shown.split("\n")
    assert (header, rule) == ("|prompt|score|", "|---|---|")
    assert not set(row.replace("&#", "").replace(";", "")) & set("<>*#[]()")
    assert (
        row.count("|") == 3
        and "&#60;b&#62;" in row
        and "0&#46;50" in row
        and "&#60;all&#62;" in title
    )
    [(step, shown)] = text(folder, "config")
    assert step == 0 and '"lr": 0.5' in shown
    assert all(line.startswith("    ") for line in shown.splitlines())


def test_in_tensorboard_a_resumed_run_goes_on_where_its_checkpoint_was(folder):
    """A run that was killed after its last checkpoint has logged steps that are made again."""
    pytest.importorskip("tensorboard")
    run(folder, "tensorboard", range(6))
    time.sleep(1.01 - time.time() % 1)  # TensorBoard sorts its files by the second of their start
    run(folder, "tensorboard", range(3, 8), slope=10.0)
    assert scalars(folder, "score") == values(folder, "score")
    assert [value for _, value in scalars(folder, "score")] == [0, 1, 2, 30, 40, 50, 60, 70]
    assert scalars(folder, "accuracy") == [(8, 0.75)]


def test_tensorboard_that_comes_later_gets_the_past_too(folder):
    """--track may be given when a run is resumed."""
    pytest.importorskip("tensorboard")
    run(folder, "none", range(4))
    assert not (folder / "tensorboard").exists()
    run(folder, "tensorboard", range(3, 6))
    assert scalars(folder, "score") == values(folder, "score") and len(values(folder, "score")) == 6


# ---- Weights & Biases


def messages(path):
    """The messages in the file of an offline run, which has LevelDB's log format: blocks of 32 KiB
    with parts of messages, each after a checksum, its length and its place (1: whole, 4: last)."""
    content, place, message = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # what is left of the block holds no part
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        message += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield message
            message = b""


def records(place):
    """The records in the file of an offline run. W&B's own process may write on after the run has
    ended: the last record says that it has."""
    pb2 = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    [path] = place.glob("run-*.wandb")
    for _ in range(200):
        found = [pb2.Record.FromString(message) for message in messages(path)]
        if any(record.HasField("exit") for record in found):
            break
        time.sleep(0.1)
    return found


def history(place):
    """(rows of the history, config) in the file of an offline run."""
    rows, config = [], {}
    for record in records(place):
        for item in record.run.config.update:
            config[item.key] = json.loads(item.value_json)
        if record.HasField("history"):
            pairs = [(x.key or "/".join(x.nested_key), x.value_json) for x in record.history.item]
            rows.append({key: json.loads(value) for key, value in pairs})
    return rows, config


def offline_runs(folder):
    """The folders of the offline runs, in the order of their starts: by the first of their files,
    because a second start may fall into the same second, which is in the name."""

    def start(place):
        return min(file.stat().st_mtime_ns for file in place.rglob("*") if file.is_file())

    return sorted((folder / "wandb").glob("offline-run-*"), key=start)


@pytest.fixture
def anonymous(monkeypatch):
    """No account, whatever this machine has."""
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(wandb, "login", lambda **_: False)


def test_wandb_without_an_account_writes_offline_and_a_resumed_run_has_every_step_once(
    folder, anonymous, capsys
):
    """The numbers of metrics.jsonl under their names, the flags and a table of samples. The steps
    that were cut back stay in the W&B run of the first start."""
    run(folder, "wandb", range(4), samples=True)
    run(folder, "wandb", range(2, 6), slope=10.0)
    places = offline_runs(folder)
    assert len(places) == 2
    assert f"wandb sync {places[1]}" in capsys.readouterr().err
    (first, config), (second, _) = map(history, places)
    assert config["lr"] == 0.5 and config["inputs"] == {"data": "<i>"}
    assert [row["score"] for row in first if "score" in row] == [0, 1, 2, 3]
    names = ("score", "kl", "accuracy")
    for name in names:
        steps = [(row["_step"], row[name]) for row in second if name in row]
        assert steps == values(folder, name)
    [path] = (places[0] / "files" / "media" / "table").iterdir()
    table = json.loads(path.read_text())
    assert table["columns"] == ["", *HEADER]
    assert table["data"] == [["after <all> updates", MARKUP, 0.5]]


def test_wandb_leaves_the_mode_to_who_has_set_it(folder, anonymous, monkeypatch):
    """WANDB_MODE=disabled makes no files."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run(folder, "wandb", range(2))
    assert not offline_runs(folder) and len(values(folder, "score")) == 2


# ---- what a tracker must not do


class Broken:
    """A tracker whose disk is full from step 2 on."""

    name = "tensorboard"

    def __init__(self, module, folder):
        self.calls = []

    def begin(self, step, records):
        pass

    def log(self, record):
        if record["step"] == 2:
            raise OSError(28, "No space\nleft", "events")

    flush = show = close = begin


def test_a_tracker_that_fails_is_given_up_and_the_run_goes_on(folder, monkeypatch, capsys):
    monkeypatch.setitem(trackers.KINDS, "tensorboard", Broken)
    monkeypatch.setattr(trackers, "require", lambda name: SimpleNamespace())
    run(folder, "tensorboard", range(5))
    assert [step for step, _ in values(folder, "score")] == [0, 1, 2, 3, 4]
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "--track tensorboard failed" in message


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_is_refused_with_the_extra_that_brings_it(
    name, monkeypatch
):
    monkeypatch.setitem(sys.modules, trackers.MODULES[name], None)
    with pytest.raises(InputError, match=rf"--track {name} needs .*pip install -e '.\[track\]'"):
        trackers.require(name)


def test_without_a_tracker_none_is_imported(folder, monkeypatch):
    for name in ("tensorboard", *trackers.MODULES.values()):
        monkeypatch.setitem(sys.modules, name, None)
    run(folder, "none", range(2), samples=True)
    assert len(values(folder, "score")) == 2
