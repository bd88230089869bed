"""DPO from end to end: a whole run is recorded, and each of its numbers computed again."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from helpers import MEMORY, READING
from recorder import (
    COMPARISONS,
    TOKENIZER,
    digest,
    example_of,
    loop_calibration,
    loop_logprobs,
    loop_pairs,
    positions,
    recorded,
    run_command,
    save_policy,
    stored_calibration,
    write_records,
)

from minirlhf import dpo as method
from minirlhf.data import Comparison, split_by_prompt
from minirlhf.feedback import baselines
from minirlhf.run.checkpoint import load_gpt
from minirlhf.run.metrics import read_metrics
from minirlhf.tools import dpo

FLAGS = {  # none of them at its default
    "seed": 10,  # holds four comparisons out, of which three are measured on
    "threads": 2,
    "max_grad_norm": 0.37,
    "microbatch_tokens": 150,
    "keep": 0,
    "beta": 0.3,
    "epochs": 2,
    "batch_size": 7,
    "lr": 0.002,
    "warmup": 3,
    "held_out": 3,
    "save_every": 4,
}


class Run:
    """A recorded run in a folder of its own."""

    def __init__(self, folder, **flags):
        self.out = folder / "out"
        self.sft = save_policy(folder / "start", seed=9)
        rows = [
            {"prompt": c.prompt, "responses": c.responses, "ranks": c.ranks} for c in COMPARISONS
        ]
        path = write_records(folder / "data.jsonl", rows)
        with pytest.MonkeyPatch.context() as patch:
            self.record = recorded(patch)
            self.record.watch(dpo, "accumulate")
            self.record.watch(baselines, "baseline_numbers")
            places = {"out": self.out, "sft": folder / "start", "data": path}
            run_command(dpo.main, places | flags)
        self.lines = read_metrics(self.out / "dpo")
        self.policy, _ = load_gpt(self.out / "dpo")
        self.calls = self.record["accumulate"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("whole"), **FLAGS)


def rewards(policy, sft, comparisons, beta=0.3):
    """beta (log policy - log SFT model) of every response, one list per comparison."""

    def total(gpt, prompt, text):
        return sum(loop_logprobs(gpt, example_of(prompt, text)))

    return [
        [beta * (total(policy, c.prompt, x) - total(sft, c.prompt, x)) for x in c.responses]
        for c in comparisons
    ]


def test_it_learns_from_what_is_not_held_out_in_the_order_of_the_seed(run):
    """Twice, seven comparisons at a time."""
    learned, _ = split_by_prompt(COMPARISONS, seed=10)
    order = positions(len(learned), 0, 2 * len(learned), seed=10)
    batches = [call.args[3] for call in run.calls]
    assert list(itertools.chain(*batches)) == [learned[i] for i in order]
    assert {len(batch) for batch in batches[:-1]} == {7}


def test_policy_and_reference_start_as_the_sft_model_which_stays(run):
    references = {call.digests[1] for call in run.calls}
    policies = [call.digests[0] for call in run.calls]
    assert references == {digest(run.sft)} == {policies[0]}
    assert len(set(policies)) == len(policies)
    assert digest(run.policy) not in policies


def test_the_loss_of_a_step_is_that_of_its_pairs_at_beta(run):
    for line, call in zip(run.lines, run.calls, strict=False):
        policy, reference, _, batch, used, microbatch_tokens = call.args
        assert (used, microbatch_tokens) == (method.Method("dpo", 0.3), 150)
        scores = rewards(policy, reference, batch)
        margins = np.array([margin for *_, margin in loop_pairs(batch, scores)])
        assert line["loss"] == pytest.approx(np.logaddexp(0, -margins).mean(), rel=1e-3)


def test_the_held_out_numbers_are_the_implicit_rewards_of_held_out_comparisons(run):
    """Computed again from the checkpoint, token by token."""
    learned, unseen = split_by_prompt(COMPARISONS, seed=10)
    held_out = unseen[:3]
    assert len(unseen) > 3 and held_out[0].ranks != held_out[-1].ranks  # the data can tell
    scores, numbers = rewards(run.policy, run.sft, held_out), run.lines[-1]
    pairs = loop_pairs(held_out, scores)
    margins = np.array([margin for *_, margin in pairs])
    assert numbers["step"] == len(run.calls) == len(run.lines) - 1
    assert numbers["held_out_pairs"] == len(pairs)
    assert numbers["held_out_accuracy"] == pytest.approx(np.mean(margins > 0))
    assert numbers["held_out_loss"] == pytest.approx(np.logaddexp(0, -margins).mean(), rel=1e-3)
    assert run.record["baseline_numbers"][0].args[:2] == (learned, held_out)
    for name, value in baselines.baseline_numbers(learned, held_out, scores).items():
        assert numbers[name] == pytest.approx(value, rel=1e-5), name
    expected, stored = loop_calibration(margins), stored_calibration(run.out / "dpo")
    assert np.allclose(stored, expected, atol=1e-4) and len({len(s) for s in scores}) == 1


def test_without_a_reference_the_reward_is_the_mean_over_response_tokens(run):
    """SimPO's: the prompt does not count. Each comparison has the rewards of its own responses, of
    which there may be two or three."""
    comparisons = [Comparison("Why?", ["no idea", "why not"], [0, 1]), *COMPARISONS[:2]]
    args = dpo.Config(loss="simpo", beta=2.0)
    models = run.policy, run.sft, TOKENIZER
    scores = dpo.implicit_rewards(*models, comparisons, dpo.method_of(args))
    for c, row in zip(comparisons, scores, strict=True):
        expected = [
            2 * np.mean(loop_logprobs(run.policy, example_of(c.prompt, x))) for x in c.responses
        ]
        assert row == pytest.approx(expected, rel=1e-4)


def test_the_baselines_learn_from_comparisons_and_not_from_single_responses(tmp_path):
    """With KTO a file may hold both."""
    single = [{"prompt": f"Say {i}", "completion": "yes", "label": i % 2 == 0} for i in range(20)]
    pairs = [{"prompt": c.prompt, "responses": c.responses, "ranks": c.ranks} for c in COMPARISONS]
    path = write_records(tmp_path / "both.jsonl", [*single, *pairs])
    flags = {"seed": 10, "held_out": 9, "loss": "kto", "warmup": 0}
    with pytest.MonkeyPatch.context() as patch:
        record = recorded(patch)
        record.watch(baselines, "baseline_numbers")
        save_policy(tmp_path / "start", seed=9)
        places = {"out": tmp_path / "out", "sft": tmp_path / "start", "data": path}
        run_command(dpo.main, places | flags)
    ((learned, held_out, _), *_) = record["baseline_numbers"][0]
    texts = {c.prompt for c in COMPARISONS}
    assert {c.prompt for c in [*learned, *held_out]} == texts
    assert len(learned) + len(held_out) == len(COMPARISONS)


def test_the_optimiser_is_that_of_the_flags(run):
    steps = len(run.calls)
    assert run.record["adamw"][0].args[1] == 0.002
    for step, line in enumerate(run.lines[:steps]):
        cosine = 0.1 + 0.45 * (1 + np.cos(np.pi * (step - 3) / (steps - 3)))
        expected = 0.002 * ((step + 1) / 3 if step < 3 else cosine)
        assert line["lr"] == pytest.approx(expected, rel=1e-5)
    assert {call.args[1] for call in run.record["clip_grad_norm_"]} == {0.37}
    assert run.record["short_run"][0].args == (steps, 3)
    assert run.record["set_num_threads"][0].args == (2,)


def test_it_saves_every_fourth_step_and_the_last_without_the_one_before(run):
    steps = [call.args[4] for call in run.record["save"]]
    assert steps == sorted({*range(4, len(run.calls), 4), len(run.calls)})
    assert not (run.out / "dpo" / "checkpoint.previous.pt").exists()


def test_the_run_knows_its_comparisons_and_its_sft_model(run):
    inputs = json.loads((run.out / "dpo" / "config.json").read_text())["inputs"]
    assert inputs["data"].startswith("40 records") and "sft" in inputs


def test_it_says_how_to_compare_the_policy_with_the_sft_model(tmp_path, capsys):
    """By no reward model: there are only comparisons, of one that has yet to be trained."""
    (tmp_path / "out" / "rm").mkdir(parents=True)
    (tmp_path / "out" / "rm" / "comparisons.jsonl").write_text("")
    run = Run(tmp_path, **FLAGS | {"epochs": 1, "threads": 1, "precision": "bf16"})
    text = capsys.readouterr().out
    assert f"--policy {run.out}/dpo --baseline {tmp_path}/start --reward-model none" in text
    assert run.record["load_gpt"][0].kwargs["precision"] == torch.bfloat16


def test_the_pairs_of_two_ties_are_none():
    """[0, 0, 2]: two pairs, both with the last response."""
    assert method.ordered_pairs([0, 0, 2]) == [(0, 2), (1, 2)]


def test_every_flag_is_looked_at_somewhere_in_the_tests_of_whole_runs():
    """Those that do not occur here have tests of what they do in test_dpo_run.py, test_resume.py,
    test_direct_run.py, test_chain.py and test_cuda.py."""
    elsewhere = {"loss", "tau", "gamma", "lam", "undesirable_weight"}
    elsewhere |= READING | MEMORY | {"resume", "overwrite", "mix_data", "device", "track"}
    fields = {field.name: field.default for field in dataclasses.fields(dpo.Config)}
    assert {*FLAGS, "out", "sft", "data", "precision", *elsewhere} == set(fields)
    assert all(fields[name] != value for name, value in FLAGS.items())
