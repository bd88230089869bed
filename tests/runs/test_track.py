"""--track, of every stage that trains: the tracker has what metrics.jsonl has, and changes nothing
else."""

import json
import time

import pytest
from helpers import logged, same, saved

import train_ppo
import train_rm
import train_sft
from minirlhf.run.metrics import read_metrics
from minirlhf.tools import dpo

PPO = ["--updates", "2", "--batch-size", "4", "--minibatches", "2", "--held-out", "4"]
STAGES = {  # stage -> (main, kind of data, flags)
    "sft": (train_sft.main, "demonstrations", ["--context", "32", "--max-new-tokens", "4"]),
    "rm": (train_rm.main, "comparisons", ["--max-new-tokens", "4", "--norm-prompts", "4"]),
    "ppo": (train_ppo.main, "prompts", [*PPO, "--max-new-tokens", "4", "--eval-every", "1"]),
    "dpo": (dpo.main, "comparisons", ["--batch-size", "30"]),
}


def run(out, colours, stage, *argv):
    main, data, flags = STAGES[stage]
    main(["--out", str(out), "--data", str(colours / f"{data}.jsonl"), *flags, *argv])


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_shows_its_metrics_in_tensorboard(stage, out, colours, small_models):
    """Every name with every step and number, from the first step to the report at the end; and the
    samples where the stage has some."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(out, colours, stage, "--overwrite", "--track", "tensorboard")
    accumulator = reader.EventAccumulator(str(out / stage / "tensorboard")).Reload()
    shown = {
        name: [(event.step, event.value) for event in accumulator.Scalars(name)]
        for name in accumulator.Tags()["scalars"]
    }
    expected = {}
    for record in read_metrics(out / stage):
        for name, number in record.items():
            if name != "step" and number is not None:
                expected.setdefault(name, []).append((record["step"], pytest.approx(number)))
    assert shown == expected and len(expected) > 4
    samples = "samples/text_summary" in accumulator.Tags()["tensors"]
    assert samples == (stage != "dpo")
    if stage in ("rm", "dpo"):  # their reports on held-out pairs, for the page
        bins = json.loads((out / stage / "calibration.json").read_text())
        pairs = read_metrics(out / stage)[-1]["held_out_pairs"]
        assert sum(row["pairs"] for row in bins) == pairs > 0


def test_a_resumed_run_goes_on_in_its_tracker(out, colours):
    """--track is one of the flags that --resume takes from the run. --track none ends it."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(out, colours, "ppo", "--track", "tensorboard", "--save-every", "1")
    time.sleep(1.01 - time.time() % 1)  # TensorBoard sorts its files by the second of their start
    train_ppo.main(["--out", str(out), "--resume", "--updates", "3"])
    train_ppo.main(["--out", str(out), "--resume", "--updates", "4", "--track", "none"])
    shown = reader.EventAccumulator(str(out / "ppo" / "tensorboard")).Reload().Scalars("score")
    scores = logged(out / "ppo", "score")
    assert [(event.step, event.value) for event in shown] == [
        (step, pytest.approx(score)) for step, score in enumerate(scores[:3])
    ]
    assert len(scores) == 4


def test_a_run_with_a_tracker_is_the_run_without_one_and_overwrite_removes_its_events(out, colours):
    """The same metrics and weights. A run that replaces another must not go on in its curves."""
    pytest.importorskip("tensorboard")
    run(out, colours, "ppo", "--track", "tensorboard")
    tracked, weights = logged(out / "ppo"), saved(out / "ppo")["model"]
    assert list((out / "ppo" / "tensorboard").iterdir())
    run(out, colours, "ppo", "--overwrite")
    assert not list((out / "ppo" / "tensorboard").iterdir())
    assert logged(out / "ppo") == tracked
    assert same(saved(out / "ppo")["model"], weights)
