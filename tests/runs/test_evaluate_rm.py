"""`minirlhf evaluate-rm`: a reward model and an implicit reward on comparisons, each number
computed again."""

import json
import re

import numpy as np
import pytest
from recorder import (
    COMPARISONS,
    example_of,
    loop_logprobs,
    loop_pairs,
    loop_raw,
    run_command,
    save_policy,
    save_reward_model,
    words,
    write_records,
)

from minirlhf.data import split_by_prompt
from minirlhf.feedback import baselines, breakdown
from minirlhf.tools import evaluate_rm


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file of 40 comparisons in the current folder, beside a reward model and two policies."""
    monkeypatch.chdir(tmp_path)
    save_policy(tmp_path / "out/dpo", seed=8, stage="dpo")
    save_policy(tmp_path / "out/sft", seed=9)
    return write_records(tmp_path / "comparisons.jsonl", map(vars, COMPARISONS)).name


def results_of(flags):
    run_command(evaluate_rm.main, flags | {"to": "results.json"})
    with open("results.json") as results:
        return json.load(results)


def check(results, comparisons, scores):
    """The numbers that follow from the scores."""
    pairs = loop_pairs(comparisons, scores)
    margins = np.array([pair[3] for pair in pairs])
    assert results["pairs"] == len(pairs) and 0.1 < results["accuracy"] < 0.9
    assert results["accuracy"] == np.mean(margins > 0)
    assert results["loss"] == pytest.approx(np.log1p(np.exp(-margins)).mean(), rel=1e-4)
    prompts = [pair[0].prompt for pair in pairs]
    assert results["prompts"] == len(set(prompts))
    error = baselines.standard_error(margins > 0, prompts)
    assert results["standard_error"] == pytest.approx(error)
    texts = baselines.pairs_of(comparisons)
    assert results["shorter_wins"] == np.mean(
        [(len(b) < len(w)) + (len(b) == len(w)) / 2 for b, w in texts]
    )
    assert sum(row["pairs"] for row in results["calibration"]) == len(pairs)
    assert results["lengths"] == breakdown.by_length(texts, margins, prompts)


# ---- what is measured


def test_a_reward_model_is_held_against_every_pair_of_a_file(file, capsys, monkeypatch):
    """Its raw scores, each response alone; the same numbers on the screen and in the file. The bag
    of words is fitted on parts of the file by --seed."""

    def bag_of_words(comparisons, seed):
        assert comparisons == COMPARISONS
        return seed / 10

    monkeypatch.setattr(breakdown, "cross_fitted_bag_of_words", bag_of_words)
    model = save_reward_model(evaluate_rm.Path("out/rm"), seed=2, missing_end_score=-2.5)
    results = results_of({"data": file, "seed": 3})
    check(results, COMPARISONS, loop_raw(model, COMPARISONS))
    assert results["bag_of_words"] == 0.3
    assert results["model"] == "the reward model out/rm"
    text = capsys.readouterr().out
    assert f"right on {results['accuracy']:.3f} of {results['pairs']} pairs (40 prompts)" in text
    assert f"standard error {results['standard_error']:.3f}" in text
    assert f'"the shorter one wins" {results["shorter_wins"]:.3f}, a bag of words' in text
    assert f"expected calibration error {results['calibration_error']:.3f}" in text
    for row in results["calibration"]:
        numbers = rf"{row['pairs']} +{row['predicted']:.2f} +{row['observed']:.2f}"
        assert re.search(rf"{row['from']:.0%} to {row['to']:.0%} +{numbers}", text)
    for row in results["lengths"]:
        assert re.search(rf"{row['group']} +{row['pairs']} +{row['accuracy']:.2f} ", text)
    assert max(map(len, text.splitlines())) < 80


def test_the_implicit_reward_is_beta_times_the_log_ratio_to_the_reference(file):
    """Summed over the response and its end token. Beta and reference are those of the training,
    unless they are given."""
    record = {"flags": {"beta": 0.5, "data": "", "sft": "", "seed": 1}}
    with open("out/dpo/config.json", "w") as config:
        json.dump(record, config)
    policy, reference = save_policy(evaluate_rm.Path("a"), 8), save_policy(evaluate_rm.Path("b"), 9)

    def scores(beta):
        return [
            [beta * (sum(loop_logprobs(policy, r)) - sum(loop_logprobs(reference, r))) for r in row]
            for row in ([example_of(c.prompt, text) for text in c.responses] for c in COMPARISONS)
        ]

    results = results_of({"data": file, "policy": "out/dpo"})
    check(results, COMPARISONS, scores(0.5))
    assert (results["reference"], results["beta"]) == ("out/sft", 0.5)
    results = results_of({"data": file, "policy": "a", "reference": "b", "beta": 2.0})
    check(results, COMPARISONS, scores(2.0))
    assert results["model"] == "the implicit reward of a against b"


@pytest.mark.parametrize("model", ["out/rm", "out/dpo"])
def test_of_a_file_that_it_was_trained_on_what_was_held_out_is_measured(file, model):
    """By the seed of the training; the bag of words learns from what the model has learned from."""
    reward_model = save_reward_model(evaluate_rm.Path("out/rm"), seed=2, missing_end_score=-2.5)
    record = {"flags": {"data": file, "seed": 5, "beta": 1.0, "sft": ""}}
    with open(f"{model}/config.json", "w") as config:
        json.dump(record, config)
    flags = {"policy": model} if model == "out/dpo" else {}
    results = results_of(flags | {"data": file, "seed": 2})
    learned, held_out = split_by_prompt(COMPARISONS, seed=5)
    assert results["prompts"] == len(held_out) < 10
    assert results["measured"] == "what its training has held out of the file"
    bag = baselines.BagOfWords(baselines.pairs_of(learned))
    right = baselines.share_above_zero(bag.margins(baselines.pairs_of(held_out)))
    assert results["bag_of_words"] == right
    if model == "out/rm":
        margins = [p[3] for p in loop_pairs(held_out, loop_raw(reward_model, held_out))]
        assert results["accuracy"] == np.mean(np.array(margins) > 0)


@pytest.mark.parametrize("model", ["out/rm", "out/dpo"])
def test_the_comparisons_of_its_own_run_are_too_good_a_result(file, model, capsys):
    """`train_rm.py` on the world leaves them in OUT/rm, and DPO learns from the same."""
    save_reward_model(evaluate_rm.Path("out/rm"), seed=2, missing_end_score=-2.5)
    data = evaluate_rm.Path(file).rename("out/rm/comparisons.jsonl")
    flags = {"policy": model, "beta": 1.0} if model == "out/dpo" else {}
    run_command(evaluate_rm.main, flags | {"data": data})
    assert "that it was trained on: too good a result" in capsys.readouterr().out


# ---- bad input


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"data": ""}, "give the comparisons: --data FILE, or --data - for the standard input"),
        ({"beta": 1.0}, "--reference and --beta belong to the implicit reward of a --policy"),
        ({"policy": "out/dpo", "reward_model": "x"}, "--reward-model and --policy: give one"),
        ({"policy": "out/sft"}, "the beta of out/sft is not known; give a --beta above 0"),
        ({"policy": "out/none"}, "out/none/checkpoint.pt does not exist"),
        ({"policy": "out/sft", "beta": -1.0}, "give a --beta above 0"),
        ({"policy": "out/sft", "beta": 1.0, "reference": "no"}, "no/checkpoint.pt does not exist"),
        ({"reward_model": "out/sft"}, "is a checkpoint of stage sft, but rm is needed here"),
        ({}, "out/rm/checkpoint.pt does not exist; run train_rm.py first"),
        ({"policy": "out/dpo", "beta": 1.0, "data": "none.jsonl"}, "none.jsonl: No such file"),
        ({"policy": "out/dpo", "beta": 1.0, "to": "."}, "--to .: Is a directory"),
        ({"policy": "out/dpo", "beta": 1.0, "data": "bad.jsonl"}, "bad.jsonl:1: "),
    ],
)
def test_a_mistake_is_one_line(file, tmp_path, refused, flags, message):
    (tmp_path / "bad.jsonl").write_text('{"prompt": 7, "chosen": "a", "rejected": "b"}\n')
    assert message in refused(evaluate_rm.main, words({"data": file} | flags), tmp_path)
