"""`minirlhf meta`: a reward model trained with MetaRM's step, from end to end at toy size."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import logged, same, saved

import train_rm
from minirlhf import data, reward
from minirlhf.feedback import simulated
from minirlhf.formats import jsonl
from minirlhf.rewards import meta as method
from minirlhf.run import config
from minirlhf.tools import meta
from minirlhf.world import judge

SMALL = "--batch-size 4 --meta-prompts 8 --meta-responses 3 --meta-batch 3 --max-new-tokens 6"
SMALL = [*SMALL.split(), "--held-out", "6", "--warmup", "2"]


@pytest.fixture
def run(world_run, tmp_path):
    """run(*flags) -> OUT/rm. The policy is the toy SFT model."""

    def call(*flags, out=tmp_path / "meta"):
        models = {"sft": "sft", "rm": "rm", "policy": "sft"}
        argv = [x for name, path in models.items() for x in (f"--{name}", f"{world_run}/{path}")]
        meta.main([*argv, "--out", str(out), *SMALL, *flags])
        return out / "rm"

    return call


def test_without_an_ascent_it_is_the_training_of_stage_two_to_the_bit(run, world_run):
    """On the comparisons of --rm, from the SFT model, with a head of the same weights."""
    folder = run("--eta", "0")
    plain, twin = saved(world_run / "rm")["model"], saved(folder)["model"]
    assert plain.keys() == twin.keys()
    for name in plain.keys() - {"mean", "std"}:
        assert torch.equal(plain[name], twin[name]), name
    assert logged(folder, "loss") == logged(world_run / "rm", "loss")
    assert not logged(folder, "difference")


def test_an_ascent_changes_the_model_and_what_it_changes_is_logged(run, world_run):
    """meta_change at the first step and at every --measure-every-th; J and the length of its
    gradient at every step."""
    folder = run("--step", "normalised", "--eta", "0.5", "--measure-every", "4")
    assert not same(saved(folder)["model"], saved(world_run / "rm")["model"])
    assert len(logged(folder, "difference")) == 6 == len(logged(folder, "meta_norm"))
    assert len(logged(folder, "meta_change")) == 2 and min(logged(folder, "meta_change")) > 1e-3


def test_the_published_step_changes_next_to_nothing(run):
    """5e-6 times a gradient, beside Adam's step of the learning rate in every weight."""
    folder = run("--measure-every", "1")
    assert 0 < max(logged(folder, "meta_change")) < 1e-3


def test_measuring_does_not_change_the_training(run, tmp_path):
    """The gradient without the ascent is taken away again."""
    flags = "--step", "normalised", "--eta", "0.5", "--measure-every"
    models = [saved(run(*flags, every, out=tmp_path / every))["model"] for every in ("1", "1000")]
    assert same(*models)


def test_resuming_ends_at_the_same_bits(run, tmp_path, ctrl_c):
    """The groups are sampled again, and each step takes those of its place."""
    flags = "--step", "normalised", "--eta", "0.5"
    whole = run(*flags)
    ctrl_c("rm", 2)
    with pytest.raises(KeyboardInterrupt):
        run(*flags, out=tmp_path / "again")
    ctrl_c(None)
    assert same(saved(run(*flags, "--resume", out=tmp_path / "again")), saved(whole))


def test_the_flags_of_training_reach_it(run, monkeypatch):
    """The peak of the learning rate, how many comparisons, the norm of a gradient, and when a
    checkpoint is written."""
    steps, clip = [], torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda p, norm: steps.append(norm) or clip(p, norm)
    )
    save = meta.checkpoint.save
    monkeypatch.setattr(
        meta.checkpoint, "save", lambda *x, **parts: steps.append("save") or save(*x, **parts)
    )
    flags = "--lr 0.02 --comparisons 12 --max-grad-norm 0.5 --save-every 2 --warmup 1"
    folder = run(*flags.split())
    assert max(logged(folder, "lr")) == pytest.approx(0.02)
    assert steps == [0.5, 0.5, "save", 0.5, "save"]


def test_a_finished_run_that_is_resumed_takes_no_step(run, monkeypatch):
    folder = run()
    before = (folder / "metrics.jsonl").read_text().splitlines()[:6]
    monkeypatch.setattr(meta, "gradient", None)
    run("--resume")
    assert (folder / "metrics.jsonl").read_text().splitlines()[:6] == before


def test_equal_texts_of_a_prompt_are_one_response(run, monkeypatch):
    """And a prompt with one response only has no difference."""
    groups = [["a", "b", "a"], ["c", "c", "c"], ["d", "e", "f"]]
    comparisons = [data.Comparison(str(n), texts, [0, 0, 0]) for n, texts in enumerate(groups)]
    monkeypatch.setattr(meta, "ask", lambda *_: comparisons)
    args = meta.Config()
    assert [c.responses for c in meta.unlabelled(args, None, None)] == [["a", "b"], ["d", "e", "f"]]
    monkeypatch.setattr(meta, "ask", lambda *_: comparisons[1:2])
    with pytest.raises(config.InputError, match="one response to each prompt"):
        meta.unlabelled(args, None, None)


def test_fresh_labels_replace_as_many_choices(run, world_run, monkeypatch):
    """A ranking of three is two choices. The new pairs are the policy's own, and differ."""
    batches = []
    accumulate = train_rm.accumulate

    def record(model, tokenizer, batch, *rest):
        batches.extend(batch)
        return accumulate(model, tokenizer, batch, *rest)

    monkeypatch.setattr(train_rm, "accumulate", record)
    run("--eta", "0", "--fresh", "5")
    collected = jsonl.read_collected(world_run / "rm" / "comparisons.jsonl")
    pairs = [c for c in batches if len(c.responses) == 2]
    assert len(pairs) == 5 and len(batches) == len(collected) - 3 + 5
    assert all(len(set(c.responses)) == 2 and sorted(c.ranks) == [0, 1] for c in pairs)
    old = {(c.prompt, *c.responses) for c in collected[3:]}
    assert {(c.prompt, *c.responses) for c in batches if len(c.responses) > 2} == old


def test_fewer_fresh_pairs_than_were_asked_for_are_one_line(run, monkeypatch):
    """A policy that says the same twice to each prompt."""
    ask = meta.ask

    def equal(*args):
        return [replace(c, responses=c.responses[:1] * len(c.responses)) for c in ask(*args)]

    monkeypatch.setattr(meta, "ask", equal)
    with pytest.raises(config.InputError, match="two different responses to 0 prompts of 20"):
        run("--eta", "0", "--fresh", "5")


def test_fresh_labels_are_a_labellers(run, monkeypatch, world_run):
    """Who sees the judge's totals through noise."""
    seen = []
    rank = simulated.rank

    def record(totals, rng):
        seen.append(list(totals))
        return rank(totals, rng)

    monkeypatch.setattr(simulated, "rank", record)
    monkeypatch.setattr(judge, "judge", lambda prompt, text: Total(len(text) % 4))
    run("--eta", "0", "--fresh", "5")
    assert sum(len(totals) == 2 for totals in seen) == 5
    assert {x for totals in seen for x in totals} > {0, 1}


class Total:
    def __init__(self, total):
        self.total = total


def test_the_report_holds_both_models_against_the_judge(run, world_run, capsys, monkeypatch):
    """On the policy's own responses to held-out prompts."""
    monkeypatch.setattr(judge, "judge", lambda prompt, text: Total(len(text) % 4))
    folder = run("--eta", "0")
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    model, tokenizer, _ = reward.load_reward_model(folder)
    policy = meta.checkpoint.load_gpt(world_run / "sft")[0]
    streams = config.SHIFTED_PROMPTS, config.SHIFTED_RESPONSES
    args = meta.Config(max_new_tokens=6)
    asked = meta.ask(args, policy, tokenizer, 6, 4, streams, "validation")
    right, gaps, scores = [], [], reward.score_comparisons(model, tokenizer, asked)
    for c, row in zip(asked, scores, strict=True):
        for i in range(4):
            for j in range(i):
                lengths = len(c.responses[i]) % 4, len(c.responses[j]) % 4
                if lengths[0] == lengths[1]:
                    gaps.append(abs(row[i] - row[j]))
                elif c.responses[i] != c.responses[j]:
                    right.append((row[i] > row[j]) == (lengths[0] > lengths[1]))
    assert last["agreement_with_judge"] == pytest.approx(np.mean(right), abs=1e-6)
    assert last["gap_of_ties"] == pytest.approx(np.mean(gaps), rel=1e-4)
    spread = np.sqrt(np.var(scores, axis=1, ddof=1).mean())
    assert last["score_spread"] == pytest.approx(spread, rel=1e-4)
    shown = capsys.readouterr().out
    assert "before" in shown and "agreement with judge" in shown


def test_the_step_is_the_one_that_the_flag_names(run, monkeypatch):
    """eta times the gradient, or along it."""
    asked = []
    step = method.meta_gradient

    def record(model, ascend, descend, eta, normalised):
        asked.append((eta, normalised))
        return step(model, ascend, descend, eta, normalised)

    monkeypatch.setattr(method, "meta_gradient", record)
    run("--eta", "0.25")
    run("--eta", "0.25", "--step", "normalised", "--overwrite")
    assert set(asked[:6]) == {(0.25, False)} and set(asked[6:]) == {(0.25, True)}


def test_the_meta_batches_go_round_all_prompts(run, monkeypatch):
    """Six steps of three: each of the eight groups at least twice, in an order of the seed."""
    batches, spread = [], meta.spread

    def record(model, tokenizer, groups, microbatch_tokens):
        batches.append([group.prompt for group in groups])
        return spread(model, tokenizer, groups, microbatch_tokens)

    monkeypatch.setattr(meta, "spread", record)
    run("--eta", "0.1")
    prompts = [prompt for batch in batches for prompt in batch]
    assert [len(batch) for batch in batches] == [3] * 6
    assert len(set(prompts)) == 8 and min(map(prompts.count, prompts)) >= 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--eta -1", "--eta must be at least 0"),
        ("--meta-responses 1", "--meta-responses must be at least 2"),
        ("--step newton", "--step"),
        ("--fresh 48", "--fresh 48 replaces all of the 24 comparisons"),
        ("--policy nowhere", "nowhere"),
        ("--rm nowhere", "nowhere"),
    ],
)
def test_a_mistake_is_one_line(refused, world_run, tmp_path, flags, message):
    """Before a file is written."""
    models = {"sft": "sft", "rm": "rm", "policy": "sft"}
    argv = [x for name, path in models.items() for x in (f"--{name}", f"{world_run}/{path}")]
    argv += ["--out", str(tmp_path / "x"), *flags.split()]
    assert message in refused(meta.main, argv, tmp_path / "none")


def test_a_reward_model_of_other_data_has_no_comparisons_here(refused, world_run, tmp_path):
    """comparisons.jsonl is what train_rm.py collects in the world."""
    shutil.copytree(world_run / "rm", tmp_path / "rm")
    (tmp_path / "rm" / "comparisons.jsonl").unlink()
    argv = ["--sft", f"{world_run}/sft", "--policy", f"{world_run}/sft", "--rm"]
    message = refused(meta.main, [*argv, str(tmp_path / "rm"), "--out", str(tmp_path / "x")], "no")
    assert "comparisons.jsonl: No such file" in message
