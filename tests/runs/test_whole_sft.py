"""Fine-tuning from end to end: a whole run is recorded, and each of its numbers computed again."""

import dataclasses
import itertools
import json
import re

import numpy as np
import pytest
import torch
from helpers import MEMORY, READING, same
from recorder import (
    HELD_OUT,
    digest,
    example_of,
    judged,
    loop_logprobs,
    noise,
    positions,
    prompts_of,
    recorded,
    replies_of,
    run_command,
    write_records,
)

import train_sft
from minirlhf import model
from minirlhf.data import Demonstration, Example, split_by_prompt
from minirlhf.run import config
from minirlhf.run.checkpoint import load_gpt
from minirlhf.run.metrics import read_metrics
from minirlhf.tokenizer import get_tokenizer
from minirlhf.world import writers

FLAGS = {  # none of them at its default
    "seed": 3,
    "threads": 2,
    "max_grad_norm": 0.37,
    "microbatch_tokens": 150,
    "keep": 0,
    "size": "tiny",
    "context": 80,
    "documents": 34,
    "demonstrations": 36,
    "epochs": 2,
    "batch_size": 6,
    "pretrain_lr": 0.003,
    "lr": 0.002,
    "warmup": 3,
    "weight_decay": 0.05,
    "held_out": 2,
    "eval_every": 4,
    "save_every": 3,
    "max_new_tokens": 5,
}
SIZES = {"nano": (1, 2, 16), "tiny": (1, 2, 32)}
ROWS = [Demonstration(f"What is {i}?", f"It is {i * 7 % 10}, I think") for i in range(30)]
TEXT = "The cat sat on the mat, and the dog looked at it. " * 60


class Run:
    """A recorded run of both phases in a folder of its own."""

    def __init__(self, folder, **flags):
        self.out = folder / "out"
        with pytest.MonkeyPatch.context() as patch:
            for name, shape in SIZES.items():
                patch.setitem(model.SIZES, name, shape)
            self.record = recorded(patch)
            self.record.watch(train_sft, "accumulate")
            self.record.watch(train_sft, "mean_loss")
            run_command(train_sft.main, {"out": self.out} | flags)
        self.batches = [call.args[1] for call in self.record["accumulate"]]

    def lines(self, stage):
        return read_metrics(self.out / stage)

    def inputs(self):
        return json.loads((self.out / "sft" / "config.json").read_text())["inputs"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("whole"), **FLAGS)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """On a user's own text and demonstrations."""
    folder = tmp_path_factory.mktemp("whole")
    data = write_records(folder / "data.jsonl", map(vars, ROWS))
    (folder / "text.txt").write_text(TEXT)
    flags = {name: FLAGS[name] for name in ("seed", "context", "lr", "batch_size", "held_out")}
    flags |= {"text": folder / "text.txt", "data": data, "max_new_tokens": 6, "precision": "bf16"}
    flags |= {"warmup": 1}
    return Run(folder, **flags)


def document(text):
    """A document as an Example: the prompt is one end token."""
    tokenizer = get_tokenizer()
    return Example([tokenizer.end_token, *tokenizer.encode(text), tokenizer.end_token], 1)


def demonstration(record):
    return example_of(record.prompt, record.response).example


def ordered(examples, passes, size, seed=3):
    """The batches of so many passes over examples."""
    order = positions(len(examples), 0, passes * len(examples), seed)
    return [[examples[i] for i in order[k : k + size]] for k in range(0, len(order), size)]


# ---- what it learned from


def test_pretraining_sees_each_document_once_and_fine_tuning_each_demonstration_twice(world):
    """All but the first two, in the order of the seed, six at a time; the world's texts are those
    of the seed."""
    documents = writers.documents(34, config.rng(3, config.DOCUMENTS))
    records = writers.demonstrations(36, config.rng(3, config.DEMONSTRATIONS))
    pretraining = ordered(list(map(document, documents))[2:], 1, 6)
    assert world.batches[: len(pretraining)] == pretraining
    tuning = ordered(list(map(demonstration, records))[2:], 2, 6)
    assert world.batches[len(pretraining) :] == tuning
    assert world.inputs()["data"].startswith("36 records")
    assert world.inputs()["text"].startswith("34 records")


def test_own_demonstrations_are_learned_from_but_for_the_prompts_that_are_held_out(own):
    """Those that every stage holds out. The text comes in windows of the context."""
    tokenizer = get_tokenizer()
    learned, held_out = split_by_prompt(ROWS, seed=3)
    ids = tokenizer.encode(TEXT)
    windows = [Example([0, *ids[i : i + 79]], 1) for i in range(0, len(ids), 79)]
    windows = [Example([tokenizer.end_token, *w.tokens[1:]], 1) for w in windows]
    n = min(2, len(windows) // 10)
    batches = ordered(windows[n:], 1, 6) + ordered(list(map(demonstration, learned)), 1, 6)
    assert own.batches == batches
    measured = [call.args[1] for call in own.record["mean_loss"]]
    assert measured[-1] == list(map(demonstration, held_out[:2]))
    assert own.inputs()["data"].startswith(f"{len(learned) + 2} records")
    assert own.inputs()["text"].startswith(f"{len(windows)} records")


def test_the_first_weights_are_of_the_seed_and_the_size(world):
    with config.torch_seed(3, config.GPT_WEIGHTS):
        shape = model.GPTConfig(get_tokenizer().vocab_size, 80, *SIZES["tiny"])
        first = model.GPT(shape)
    assert world.record["accumulate"][0].digests == [digest(first)]
    assert load_gpt(world.out / "sft")[0].config == shape


def test_the_held_out_loss_is_the_models_per_token_on_what_it_did_not_learn_from(world):
    """At every fourth step and the last; computed again token by token from the checkpoint."""
    drawn = {
        "pretrain": map(document, writers.documents(34, config.rng(3, config.DOCUMENTS))),
        "sft": map(demonstration, writers.demonstrations(36, config.rng(3, config.DEMONSTRATIONS))),
    }
    for stage, examples in drawn.items():
        held_out = list(itertools.islice(examples, 2))
        gpt, _ = load_gpt(world.out / stage)
        replies = [train_sft.evaluate.Reply("", example, True) for example in held_out]
        loss = -np.mean([x for reply in replies for x in loop_logprobs(gpt, reply)])
        lines = world.lines(stage)
        assert lines[-1]["held_out_loss"] == pytest.approx(loss, rel=1e-4)
        last = len(lines) - 1
        measured = [line["step"] for line in lines if "held_out_loss" in line]
        assert measured == sorted({*range(3, last, 4), last})


def test_the_loss_of_a_step_is_the_mean_over_the_response_tokens_of_its_batch(world):
    lines = world.lines("pretrain") + world.lines("sft")
    for line, call in zip(lines, world.record["accumulate"], strict=True):
        replies = [train_sft.evaluate.Reply("", example, True) for example in call.args[1]]
        loss = -np.mean([x for reply in replies for x in loop_logprobs(call.args[0], reply)])
        assert line["loss"] == pytest.approx(loss, rel=1e-4)


# ---- with which flags


def test_the_optimiser_of_each_phase_is_that_of_the_flags(world):
    rates = [call.args[1] for call in world.record["adamw"]]
    assert rates == [0.003, 0.002]
    assert [call.kwargs for call in world.record["adamw"]] == [{"weight_decay": 0.05}] * 2
    for stage, lr in (("pretrain", 0.003), ("sft", 0.002)):
        lines = world.lines(stage)
        expected = [lr * share(step, len(lines)) for step in range(len(lines))]
        assert [line["lr"] for line in lines] == pytest.approx(expected, rel=1e-5)
    assert {call.args[1] for call in world.record["clip_grad_norm_"]} == {0.37}
    assert [call.args[1] for call in world.record["short_run"]] == [3, 3]
    assert {call.args[2] for call in world.record["accumulate"]} == {150}
    assert {call.args[2] for call in world.record["mean_loss"]} == {150}


def share(step, steps):
    if step < 3:
        return (step + 1) / 3
    return 0.1 + 0.45 * (1 + np.cos(np.pi * (step - 3) / (steps - 3)))


def test_it_saves_every_third_step_and_the_last_without_the_one_before(world):
    saves = [(call.args[1], call.args[4]) for call in world.record["save"]]
    expected = [("pretrain", step) for step in (3, 6)] + [("sft", step) for step in (3, 6, 9, 12)]
    assert saves == expected
    assert not list(world.out.glob("*/checkpoint.previous.pt"))


def test_threads_and_precision_are_those_of_the_flags(world, own):
    assert world.record["set_num_threads"][0].args == (2,)
    assert {call.args[0].precision for call in world.record["accumulate"]} == {torch.float32}
    assert {call.args[0].precision for call in own.record["accumulate"]} == {torch.bfloat16}


# ---- what it shows


def test_it_samples_the_worlds_held_out_prompts_and_judges_them_all(world, tmp_path, capsys):
    """256 prompts of the evaluations' split, under the noise of the seed, at temperature 1."""
    run = Run(tmp_path, **FLAGS | {"threads": 1, "epochs": 1})
    stream = config.rng(3, config.HELD_OUT_PROMPTS)
    prompts = writers.prompts(256, stream, HELD_OUT)
    (call,) = run.record["generate"]
    assert prompts_of(call) == prompts
    assert np.array_equal(call.args[5], noise(3, config.HELD_OUT_NOISE, (256, 5)))
    assert (call.args[2], call.args[4]) == (5, 1.0)
    assert call.digests == [digest(load_gpt(run.out / "sft")[0])]
    judgements = judged(prompts, replies_of(call))
    line = re.search(r"judged on 256 .*: helpful (\S+), .*total (\S+),", capsys.readouterr().out)
    expected = [np.mean([getattr(j, axis) for j in judgements]) for axis in ("helpful", "total")]
    assert list(map(float, line.groups())) == pytest.approx(expected, abs=0.0051)
    assert rows_of(run) == shown(call)


def test_on_own_data_it_samples_prompts_that_are_held_out(own):
    _, held_out = split_by_prompt(ROWS, seed=3)
    (call,) = own.record["generate"]
    assert prompts_of(call) == [record.prompt for record in held_out[:2]]
    assert np.array_equal(call.args[5], noise(3, config.HELD_OUT_NOISE, (2, 6)))
    assert rows_of(own) == shown(call)
    lines = (own.out / "sft" / "samples.txt").read_text().strip().splitlines()
    assert lines[1].split() == ["prompt", "response"]
    lengths = [len(get_tokenizer().encode(r.response)) + 1 for r in ROWS]
    (warning,) = own.record["long_answers"]
    assert warning.args[1] == 6 and set(warning.args[0]) <= set(lengths)
    assert len(warning.args[0]) == len(split_by_prompt(ROWS, 3)[0]) + 2


def rows_of(run):
    """The rows of the table in samples.txt without their white space."""
    text = (run.out / "sft" / "samples.txt").read_text()
    return ["".join(row.split()) for row in text.strip().splitlines()[3:]]


def shown(call):
    """The first eight prompts with their responses, as `rows_of` has them."""
    rows = [p + reply.text for p, reply in zip(prompts_of(call), replies_of(call), strict=True)]
    rows = ["".join(row.split()) for row in rows[:8]]
    return ["".join(c if c.isprintable() else "\ufffd" for c in row) for row in rows]


def test_the_tokenizer_is_the_one_that_is_named(tmp_path, monkeypatch):
    names = []

    def stop(name):
        names.append(name)
        raise RuntimeError("far enough")

    monkeypatch.setattr(train_sft, "get_tokenizer", stop)
    with pytest.raises(RuntimeError, match="far enough"):
        train_sft.main(["--out", str(tmp_path / "out"), "--tokenizer", "gpt2"])
    assert names == ["gpt2"]


def test_every_flag_is_looked_at_somewhere_in_the_tests_of_whole_runs():
    """Those that do not occur here have tests of what they do in test_train_sft.py,
    test_resume.py, test_chain.py and test_cuda.py."""
    elsewhere = READING | MEMORY | {"resume", "overwrite", "device", "init", "tokenizer"}
    elsewhere |= {"track"}
    fields = {field.name: field.default for field in dataclasses.fields(train_sft.Config)}
    assert {*FLAGS, "out", "data", "text", "precision", *elsewhere} == set(fields)
    assert all(fields[name] != value for name, value in FLAGS.items())
    assert not same(*SIZES.values())
