"""`minirlhf sample`: the record of every prompt, best of n, going on with a file, bad input."""

import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import contents
from recorder import (
    Call,
    loop_scores,
    noise,
    replies_of,
    run_command,
    save_policy,
    save_reward_model,
    words,
    write_records,
)

from minirlhf import evaluate
from minirlhf.formats import jsonl
from minirlhf.run import chain, config
from minirlhf.run.lock import lock
from minirlhf.tools import output, sample

PROMPTS = [f"Say {i}, or not" for i in range(7)]
FLAGS = {"max_new_tokens": 5, "seed": 3, "temperature": 0.8}


@pytest.fixture
def models(tmp_path):
    """The flags of a toy policy, whose responses end now and then, and of a file of 7 prompts."""
    save_policy(tmp_path / "one", seed=9)
    path = write_records(tmp_path / "prompts.jsonl", [{"prompt": p} for p in PROMPTS])
    return {"policy": tmp_path / "one", "data": path}


@pytest.fixture
def scorer(tmp_path):
    """(flags, the RewardModel)"""
    model = save_reward_model(tmp_path / "scorer", seed=2, missing_end_score=-2.5)
    return {"reward_model": tmp_path / "scorer"}, model


@pytest.fixture
def sampled(capsys):
    """sampled(**flags) -> the records on the standard output."""

    def call(**flags):
        capsys.readouterr()
        run_command(sample.main, flags)
        return list(map(json.loads, capsys.readouterr().out.splitlines()))

    return call


@pytest.fixture
def calls(monkeypatch):
    """The Replies of each call of the sampler, and the calls themselves."""
    made, generate = [], evaluate.generate

    def watched(*args):
        made.append(Call(args, {}, generate(*args), []))
        return made[-1].result

    monkeypatch.setattr(evaluate, "generate", watched)
    return made


def uniforms(number, rows, seed=3):
    return noise(seed, config.SAMPLE_NOISE, (rows, 5), number)


# ---- what is sampled


def test_one_response_is_a_line_with_prompt_response_and_whether_it_ended(models, sampled, calls):
    """Each is what the sampler gave for this prompt, at this temperature, under the noise of the
    seed and of the number of the prompt."""
    records = sampled(**models, **FLAGS)
    (call,) = calls
    assert call.args[2] == 5 and call.args[4] == 0.8
    assert np.array_equal(call.args[5], np.concatenate([uniforms(n, 1) for n in range(7)]))
    expected = [
        {"prompt": prompt, "response": reply.text, "ended": reply.ended}
        for prompt, reply in zip(PROMPTS, replies_of(call), strict=True)
    ]
    assert records == expected
    assert {record["ended"] for record in records} == {True, False}


def test_several_responses_are_lists_and_do_not_depend_on_the_batch(models, sampled, calls):
    """A batch size of 7 takes two prompts at a time; the last prompt comes alone. Other batches
    give other neighbours, and the same responses."""
    records = sampled(**models, **FLAGS, responses=3, batch_size=7)
    assert [len(call.args[1]) for call in calls] == [6, 6, 6, 3]
    replies = [reply for call in calls for reply in replies_of(call)]
    for n, record in enumerate(records):
        group = replies[3 * n : 3 * n + 3]
        assert record == {
            "prompt": PROMPTS[n],
            "responses": [reply.text for reply in group],
            "ended": [reply.ended for reply in group],
        }
    assert records == sampled(**models, **FLAGS, responses=3)
    assert records[:2] == sampled(**models, **FLAGS, responses=3, prompts=2)
    assert records != sampled(**models, **FLAGS | {"seed": 4}, responses=3)


def test_best_of_n_takes_the_best_score_and_says_what_it_costs(
    models, scorer, sampled, calls, capsys
):
    """Two responses to each prompt, each the best of four candidates of its own. What was cut off
    has the missing-end score stored with the reward model. The KL is log 4 - 3/4 = 0.636."""
    flags, model = scorer
    run_command(sample.main, models | FLAGS | flags | {"responses": 2, "best_of": 4})
    captured = capsys.readouterr()
    records = list(map(json.loads, captured.out.splitlines()))
    replies = replies_of(calls[0])
    assert np.array_equal(calls[0].args[5][:8], uniforms(0, 8))
    scores = loop_scores(model, replies, -2.5)
    for n, record in enumerate(records):
        for k in range(2):
            start = 8 * n + 4 * k
            best = start + int(np.argmax(scores[start : start + 4]))
            assert record["responses"][k] == replies[best].text
            assert record["ended"][k] == replies[best].ended
            assert record["scores"][k] == pytest.approx(scores[best], abs=1e-3)
    kept = [score for record in records for score in record["scores"]]
    assert np.mean(kept) > scores.mean()
    assert f"a KL of log 4 - 3/4 = {math.log(4) - 0.75:.3f} nats" in captured.err
    assert "the score of a response without end is -2.5\n" in captured.err


def test_without_best_of_a_reward_model_only_scores(models, scorer, sampled):
    """The responses are those without it. --missing-end-score replaces the one that is stored."""
    plain = sampled(**models, **FLAGS)
    records = sampled(**models, **FLAGS, **scorer[0], missing_end_score=-9)
    assert [{k: v for k, v in r.items() if k != "score"} for r in records] == plain
    assert all((record["score"] == -9) == (not record["ended"]) for record in records)


def test_the_records_are_read_back_as_prompts_and_those_that_ended_as_demonstrations(
    models, scorer, tmp_path, capsys
):
    """The best of n can be imitated: its score is no judgement on an unknown scale. What was cut
    off would teach to stop in mid-sentence."""
    path = tmp_path / "responses.jsonl"
    run_command(sample.main, models | FLAGS | scorer[0] | {"best_of": 2, "to": path})
    assert jsonl.read_prompts(path) == PROMPTS
    records = [json.loads(line) for line in path.read_text().splitlines()]
    finished = [(r["prompt"], r["response"]) for r in records if r["ended"]]
    read = jsonl.read_demonstrations(path, skip_bad=True)
    assert [(d.prompt, d.response) for d in read] == finished and 0 < len(finished) < 7
    assert "cut off before its end" in capsys.readouterr().err


def test_one_prompt_gets_the_line_feed_of_the_embedded_world(tmp_path, sampled, capsys):
    """A policy that was trained on the world has seen prompts that end in a line feed, unless
    --prompt-template says otherwise; to a policy of other data nothing is added."""
    save_policy(tmp_path / "one", seed=9)
    flags = {"policy": tmp_path / "one", "max_new_tokens": 2, "prompt": "Hi."}
    assert sampled(**flags)[0]["prompt"] == "Hi."
    record = {"flags": {"data": "", "seed": 1}, "data": chain.WORLD}
    (tmp_path / "one" / "config.json").write_text(json.dumps(record))
    assert sampled(**flags)[0]["prompt"] == "Hi.\n"
    assert sampled(**flags, prompt_template="none")[0]["prompt"] == "Hi."
    hh = sampled(**flags, prompt_template="hh")[0]["prompt"]
    assert hh == "\n\nHuman: Hi.\n\nAssistant:"


def test_the_most_tokens_are_those_of_the_policys_training_unless_given(tmp_path, sampled, calls):
    """A policy that learned answers of 9 tokens is not cut at 32, nor at 2."""
    save_policy(tmp_path / "one", seed=9)
    flags = {"policy": tmp_path / "one", "prompt": "Hi."}
    sampled(**flags)
    record = {"flags": {"data": "d", "seed": 1, "max_new_tokens": 9}}
    (tmp_path / "one" / "config.json").write_text(json.dumps(record))
    sampled(**flags)
    sampled(**flags, max_new_tokens=2)
    assert [call.args[2] for call in calls] == [32, 9, 2]


def test_prompts_come_through_a_pipe_and_only_records_go_out(models):
    """As a process: `minirlhf sample --data - > responses.jsonl`. Bar and notes go to stderr."""
    command = [sys.executable, "-m", "minirlhf", "sample", "--policy", str(models["policy"])]
    command += ["--data", "-", "--max-new-tokens", "3"]
    text = models["data"].read_text()
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["prompt"] for line in done.stdout.splitlines()] == PROMPTS
    assert "sampling: 100%" in done.stderr


def test_no_bar_stands_between_the_records_on_a_terminal(models, capsys, monkeypatch, tmp_path):
    """With --to, or where the standard output is a file, the bar shows how far it is."""
    for terminal, flags, bar in ((True, {}, False), (False, {}, True), (True, {"to": "a"}, True)):
        capsys.readouterr()
        monkeypatch.setattr("sys.stdout.isatty", lambda terminal=terminal: terminal)
        flags = {name: tmp_path / path for name, path in flags.items()}
        run_command(sample.main, models | FLAGS | flags)
        assert ("sampling" in capsys.readouterr().err) == bar


def test_a_reader_that_has_enough_ends_the_command_without_a_message(models):
    """`minirlhf sample ... | head -1`: the pipe is closed after the first line."""
    command = [sys.executable, "-m", "minirlhf", "sample", "--policy", str(models["policy"])]
    command += ["--data", str(models["data"]), "--max-new-tokens", "3", "--batch-size", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=100) == 0
    assert "rror" not in process.stderr.read()
    process.stderr.close()


# ---- a file


class Killed(BaseException):
    pass


def interrupted(monkeypatch, flags, lines):
    """Run it, and kill it in the middle of writing the record after `lines`."""
    append, written = output.append, []

    def append_and_die(path, text):
        if text and len(written) == lines:
            append(path, text[: len(text) // 2])
            raise Killed
        written.append(text) if text else None
        append(path, text)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(output, "append", append_and_die)
        run_command(sample.main, flags)


@pytest.mark.parametrize("lines", [0, 1, 3, 6])
def test_a_command_that_was_killed_goes_on_to_the_same_file(
    models, scorer, tmp_path, monkeypatch, lines
):
    """Half a line is cut off, and the whole ones stay as they are. The batch of the second command
    may have another size."""
    flags = models | FLAGS | scorer[0] | {"best_of": 2, "responses": 2}
    run_command(sample.main, flags | {"to": tmp_path / "whole.jsonl"})
    path = tmp_path / "new" / "file.jsonl"
    interrupted(monkeypatch, flags | {"to": path, "batch_size": 8}, lines)
    assert path.read_text().count("\n") == lines
    run_command(sample.main, flags | {"to": path, "resume": True})
    assert path.read_text() == (tmp_path / "whole.jsonl").read_text()
    run_command(sample.main, flags | {"to": path, "resume": True})  # nothing is left to do
    assert path.read_text() == (tmp_path / "whole.jsonl").read_text()


def test_an_existing_file_is_replaced_only_by_overwrite(models, tmp_path, refused):
    path = tmp_path / "file.jsonl"
    path.write_text("mine\n")
    argv = words(models | FLAGS | {"to": path})
    message = refused(sample.main, argv, tmp_path)
    assert message.startswith(f"error: {path} already exists; ")
    assert "--resume" in message and "--overwrite" in message
    message = refused(sample.main, [*argv, "--resume"], tmp_path)
    assert f"{path}.config.json, which says how it was begun, is missing" in message
    run_command(sample.main, models | FLAGS | {"to": path, "overwrite": True})
    assert len(path.read_text().splitlines()) == 7


def test_a_second_command_that_writes_a_file_is_refused(models, scorer, tmp_path, refused):
    """Their records would stand in one another's way, and both would go on."""
    flags = models | FLAGS | scorer[0] | {"to": tmp_path / "file.jsonl"}
    run_command(sample.main, flags)
    with lock(tmp_path, tmp_path / "file.jsonl.lock"):
        message = refused(sample.main, words(flags | {"resume": True}), tmp_path)
    assert "file.jsonl is being written by process" in message


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"temperature": 0.5}, "temperature 0.8, and this is 0.5"),
        ({"seed": 4}, "seed 3, and this is 4"),
        ({"max_new_tokens": 6}, "max new tokens 5, and this is 6"),
        ({"responses": 2}, "responses 1, and this is 2"),
        ({"missing_end_score": -4}, "missing end score -2.5, and this is -4.0"),
        ({"precision": "bf16"}, "precision float32, and this is bf16"),
        ({"reward_model": "none"}, "missing end score -2.5, and this is None"),
        ({"prompts": 6}, "prompts 7 records"),
        ({"policy": "two"}, "policy weights"),
    ],
)
def test_a_file_is_not_gone_on_with_under_other_settings(
    models, scorer, tmp_path, refused, change, problem
):
    """Its records would be of two kinds, and nobody would know which is which."""
    save_policy(tmp_path / "two", seed=8)
    flags = models | FLAGS | scorer[0] | {"to": tmp_path / "file.jsonl"}
    run_command(sample.main, flags)
    if "policy" in change:
        change = {"policy": tmp_path / change["policy"]}
    message = refused(sample.main, words(flags | change | {"resume": True}), tmp_path)
    assert f"file.jsonl was begun with {problem}" in message and "--overwrite" in message


# ---- bad input


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"prompt": "Hi."}, "--data and --prompt: give one of them"),
        ({"best_of": 4}, "--best-of 4 needs a --reward-model that chooses"),
        ({"temperature": 0, "responses": 2}, "--responses: at temperature 0 all responses"),
        ({"resume": True}, "--resume and --overwrite are about the file --to; give it"),
        ({"to": "prompts.jsonl"}, "is the file of --data; name another one"),
        ({"to": "."}, "is no plain file"),
        ({"to": "prompts.jsonl/x"}, "File exists|Not a directory"),
        ({"data": "nowhere.jsonl"}, "nowhere.jsonl: No such file"),
        ({"policy": "nowhere"}, "nowhere/checkpoint.pt does not exist; check the path"),
        ({"policy": "scorer"}, "is a checkpoint of stage rm, but pretrain or sft"),
        (
            {"max_new_tokens": 63},
            "jsonl:1: .* 63 of them of --max-new-tokens, do not fit .*; lower",
        ),
        ({"data": "", "prompt": "no " * 70}, "--max-new-tokens, do not fit the context of 64"),
    ],
)
def test_a_mistake_is_one_line_and_no_file_is_touched(
    models, scorer, tmp_path, monkeypatch, refused, flags, message
):
    monkeypatch.chdir(tmp_path)
    line = refused(sample.main, words(models | FLAGS | flags), tmp_path)
    assert re.search(message, line), line


def test_own_policies_are_not_asked_the_worlds_prompts_by_mistake(models, tmp_path, refused):
    """Without --data the prompts are the world's."""
    record = {"flags": {"data": "mine.jsonl", "seed": 1}, "data": "mine.jsonl"}
    (models["policy"] / "config.json").write_text(json.dumps(record))
    argv = words(FLAGS | {"policy": models["policy"]})
    assert "was trained on mine.jsonl" in refused(sample.main, argv, tmp_path)
    before = contents(tmp_path)
    run_command(sample.main, FLAGS | {"policy": models["policy"], "mix_data": True, "prompts": 2})
    assert contents(tmp_path) == before
