"""`minirlhf evaluate` from end to end: a comparison is recorded, and each number that it prints
computed again."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
from helpers import READING
from recorder import (
    HELD_OUT,
    digest,
    half_width,
    judged,
    loop_kl,
    loop_scores,
    noise,
    other_vocabulary,
    prompts_of,
    recorded,
    replies_of,
    run_command,
    save_policy,
    save_reward_model,
    write_records,
)

from minirlhf.data import split_by_prompt
from minirlhf.reward import load_reward_model
from minirlhf.run import config
from minirlhf.run.config import InputError
from minirlhf.tokenizer import get_tokenizer
from minirlhf.tools import evaluate as command
from minirlhf.world import measures, writers

FLAGS = {  # none of them at its default
    "seed": 3,
    "threads": 2,
    "prompts": 11,
    "best_of": 3,
    "max_new_tokens": 5,
    "temperature": 0.8,
    "shown": 2,
    "missing_end_score": -1.5,
}
PROMPTS = [f"Say {i}, or not" for i in range(60)]


class Run:
    """A recorded comparison, with what it printed."""

    def __init__(self, folder, capsys, **flags):
        self.models = {"baseline": save_policy(folder / "one", seed=9)}
        self.models["policy"] = save_policy(folder / "two", seed=8)
        save_reward_model(folder / "scorer", seed=2, missing_end_score=-2.5)
        self.reward_model, _, _ = load_reward_model(folder / "scorer")
        places = {"policy": folder / "two", "baseline": folder / "one"}
        if "reward" not in flags:
            places["reward_model"] = folder / "scorer"
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            self.record = recorded(patch)
            run_command(command.main, places | flags)
        self.text = capsys.readouterr().out
        self.calls = self.record["generate"]
        self.rows, self.header = self.table()

    def table(self):
        """({name: cells}, the names of the columns) of the table of means."""
        lines = self.text.splitlines()
        start = next(i for i, line in enumerate(lines) if " kl " in line)
        rows = [re.split(r"  +", line) for line in lines[start + 2 : lines.index("", start)]]
        return {name: cells for name, *cells in rows}, lines[start].split()

    def cell(self, name, column):
        return self.rows[name][self.header.index(column)]

    def replies(self):
        """{name: Replies} of baseline and policy, in the order in which they were sampled."""
        calls = zip(self.models, self.calls[:2], strict=True)
        return {name: replies_of(call) for name, call in calls}

    def best(self, score):
        """The best of each prompt's candidates by a score of Replies; of equals the first."""
        candidates = replies_of(self.calls[2])
        groups = [candidates[i : i + 3] for i in range(0, len(candidates), 3)]
        return [max(group, key=score) for group in groups]

    def win_rates(self):
        pattern = r"^(.+) beats the baseline: (\S+)% \+- (\S+) of (\d+) prompts"
        return {m[1]: [float(m[2]), float(m[3]), int(m[4])] for m in self.matches(pattern)}

    def matches(self, pattern):
        return re.finditer(pattern, self.text, re.M)


def rate(first, second):
    """How often the first wins in percent, ties counting half, and half of its interval."""
    wins = [(a > b) + 0.5 * (a == b) for a, b in zip(first, second, strict=True)]
    return [100 * np.mean(wins), 100 * half_width(wins), len(wins)]


@pytest.fixture
def world(tmp_path, capsys):
    return Run(tmp_path, capsys, **FLAGS)


@pytest.fixture
def own(tmp_path, capsys):
    """A comparison on a file of prompts that no model was trained on."""
    path = write_records(tmp_path / "prompts.jsonl", [{"prompt": p} for p in PROMPTS])
    return Run(tmp_path, capsys, **FLAGS | {"data": path, "precision": "bf16"})


def test_on_the_world_every_number_is_that_of_the_record(world):
    """Prompts of the evaluations' split, one noise for both models and another for the candidates
    of best-of-n, all of the seed; means, KL, win rates and samples computed again."""
    prompts = writers.prompts(11, config.rng(3, config.HELD_OUT_PROMPTS), HELD_OUT)
    expected = [("baseline", prompts), ("policy", prompts)]
    expected += [("baseline", [prompt for prompt in prompts for _ in range(3)])]
    for (name, asked), call in zip(expected, world.calls, strict=True):
        assert prompts_of(call) == asked
        assert call.digests == [digest(world.models[name])]
        assert call.args[2:5] == (5, get_tokenizer().end_token, 0.8)
    for call in world.calls[:2]:
        assert np.array_equal(call.args[5], noise(3, config.HELD_OUT_NOISE, (11, 5)))
    assert np.array_equal(world.calls[2].args[5], noise(3, config.CANDIDATE_NOISE, (33, 5)))

    def score(reply):
        return float(loop_scores(world.reward_model, [reply], -1.5)[0])

    replies = world.replies() | {"best of 3": world.best(score)}
    kls = {"baseline": 0.0, "best of 3": math.log(3) - 2 / 3}
    kls["policy"] = loop_kl(*reversed(world.models.values()), replies["policy"], 0.8).mean()
    assert world.header[-4:] == ["score", "kl", "length", "ended"]
    assert world.header[:-4] == list(measures.AXES)
    totals = {}
    for name, side in replies.items():
        judgements = judged(prompts, side)
        totals[name] = [j.total for j in judgements]
        numbers = {
            "helpful": np.mean([j.helpful for j in judgements]),
            "total": np.mean(totals[name]),
            "score": np.mean([score(reply) for reply in side]),
            "kl": kls[name],
            "length": np.mean([reply.length for reply in side]),
            "ended": np.mean([reply.ended for reply in side]),
        }
        for column, value in numbers.items():
            assert float(world.cell(name, column)) == pytest.approx(value, abs=0.0051), column
    assert 0 < np.mean([reply.ended for reply in replies["policy"]]) < 1
    rates = world.win_rates()
    for name in replies:
        assert rates[name] == pytest.approx(rate(totals[name], totals["baseline"]), abs=0.051)
    assert world.record["set_num_threads"][0].args == (2,)
    assert (
        sample_rows(world)
        == [
            plain(prompt + a.text + b.text)
            for prompt, a, b in zip(prompts, replies["baseline"], replies["policy"], strict=True)
        ][:2]
    )


def sample_rows(run):
    lines = run.text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split() == ["prompt", *run.models])
    return ["".join(line.split()) for line in lines[start + 2 :]]


def plain(text):
    return "".join(c if c.isprintable() else "\ufffd" for c in "".join(text.split()))


def test_on_own_prompts_the_score_judges_and_the_first_prompts_are_asked(own):
    """A file that no model was trained on: its first eleven prompts."""
    assert [prompts_of(call) for call in own.calls[:2]] == [PROMPTS[:11]] * 2
    assert own.header == ["score", "kl", "length", "ended"]
    precisions = [call.kwargs["precision"] for call in own.record["load_gpt"]]
    assert precisions == [torch.bfloat16] * 2
    scores = {
        name: loop_scores(own.reward_model, side, -1.5) for name, side in own.replies().items()
    }
    rates = own.win_rates()
    assert rates["baseline"][:2] == [50, 0]
    expected = rate(scores["policy"], scores["baseline"])
    assert rates["policy"] == pytest.approx(expected, abs=10)  # bf16 may tip a close pair


@pytest.mark.parametrize("trained", ["one", "two", "scorer"])
def test_of_a_file_that_a_model_was_trained_on_it_asks_what_that_run_held_out(
    tmp_path, capsys, trained
):
    """By the seed of that run, which is not the seed of the evaluation."""
    path = write_records(tmp_path / "prompts.jsonl", [{"prompt": p} for p in PROMPTS])
    record = {"flags": {"data": str(path), "seed": 5}, "stage": "sft"}
    folder = tmp_path / trained
    with pytest.MonkeyPatch.context() as patch:
        main = command.main

        def store_and_run(argv):
            (folder / "config.json").write_text(json.dumps(record))
            main(argv)

        patch.setattr(command, "main", store_and_run)
        run = Run(tmp_path, capsys, **FLAGS | {"data": path, "prompts": 3})
    _, held_out = split_by_prompt(PROMPTS, seed=5)
    assert prompts_of(run.calls[0]) == held_out[:3]


def test_a_single_prompt_that_a_model_was_trained_on_is_asked_once(tmp_path):
    """It serves for both: nothing can be held out."""
    path = write_records(tmp_path / "prompts.jsonl", [{"prompt": "Say it"}] * 5)
    record = {"flags": {"data": str(path), "seed": 5}, "stage": "sft"}
    (tmp_path / "config.json").write_text(json.dumps(record))
    args = command.Config(data=str(path), policy=str(tmp_path / "checkpoint.pt"), prompts=3)
    assert command.load_prompts(args, get_tokenizer(), 64) == ["Say it"]


def test_a_file_of_fewer_prompts_than_asked_for_is_said_to_have_so_many(tmp_path, capsys):
    path = write_records(tmp_path / "prompts.jsonl", [{"prompt": p} for p in PROMPTS[:4]])
    to = tmp_path / "results.json"
    Run(tmp_path, capsys, data=path, to=to, max_new_tokens=3, best_of=1)
    results = json.loads(to.read_text())
    assert results["prompts"] == len(results["samples"]) == 4


def test_a_prompt_that_the_reward_model_cannot_read_to_its_end_is_left_out_or_an_error(
    tmp_path, capsys
):
    """The context of the reward model may be smaller than that of the policies: 24 and 64."""
    long = "no " * 30
    prompts = [long, *PROMPTS[:3], long + "1", *PROMPTS[3:5]]
    path = write_records(tmp_path / "prompts.jsonl", [{"prompt": p} for p in prompts])
    save_policy(tmp_path / "one", seed=9), save_policy(tmp_path / "two", seed=8)
    save_reward_model(tmp_path / "scorer", seed=2, missing_end_score=-2.5, context=24)
    flags = {"policy": tmp_path / "two", "baseline": tmp_path / "one", "data": path}
    flags |= {"reward_model": tmp_path / "scorer", "max_new_tokens": 5, "best_of": 1}
    with pytest.MonkeyPatch.context() as patch:
        calls = recorded(patch)["generate"]
        run_command(command.main, flags | {"drop_long": True})
    assert [prompts_of(call) for call in calls] == [PROMPTS[:5]] * 2
    with pytest.raises(InputError, match="do not fit the context of 24"):
        run_command(command.main, flags)


@pytest.mark.parametrize("own", ["one", "two"])
def test_on_the_world_neither_policy_nor_baseline_is_one_of_own_data(tmp_path, own):
    """The world's judge knows nothing of what such a model says."""
    for name, seed in (("one", 9), ("two", 8)):
        save_policy(tmp_path / name, seed=seed)
    (tmp_path / own / "config.json").write_text('{"flags": {"data": "mine.jsonl"}}')
    flags = {"policy": tmp_path / "two", "baseline": tmp_path / "one", "reward_model": "none"}
    with pytest.raises(InputError, match=f"{own} was trained on mine.jsonl"):
        run_command(command.main, flags | {"prompts": 2})


def test_the_kl_of_greedy_replies_is_that_of_the_policies_at_temperature_one(tmp_path, capsys):
    """A greedy policy has no probabilities but 0 and 1."""
    run = Run(tmp_path, capsys, **FLAGS | {"temperature": 0, "best_of": 1})
    kl = loop_kl(run.models["policy"], run.models["baseline"], run.replies()["policy"]).mean()
    assert abs(kl) > 0.05 and float(run.cell("policy", "kl")) == pytest.approx(kl, abs=0.0051)


@pytest.mark.parametrize("folder", ["one", "two", "scorer"])
def test_models_of_two_vocabularies_are_not_compared(tmp_path, monkeypatch, folder):
    """Their ids mean other texts. The reward model is one of them."""
    save_policy(tmp_path / "one", seed=9), save_policy(tmp_path / "two", seed=8)
    save_reward_model(tmp_path / "scorer", seed=2, missing_end_score=-2.5)
    other_vocabulary(monkeypatch, folder)
    flags = {"policy": tmp_path / "two", "baseline": tmp_path / "one", "prompts": 2}
    with pytest.raises(InputError, match="they must be the same"):
        run_command(command.main, flags | {"reward_model": tmp_path / "scorer"})


@pytest.mark.parametrize("score", [0.0, -1.5])
def test_a_missing_end_score_of_zero_is_a_missing_end_score(tmp_path, capsys, score):
    """It goes before the one of the training and the one that is stored, whatever its value."""
    record = {"flags": {"missing_end_score": -9.0, "reward": "", "rm": str(tmp_path / "rm")}}
    (tmp_path / "config.json").write_text(json.dumps(record))
    places = {"policy": str(tmp_path / "checkpoint.pt"), "reward_model": str(tmp_path / "rm")}
    args = command.Config(missing_end_score=score, **places)
    assert command.load_missing_end_score(args, -2.5) == score
    args = command.Config(**places)
    assert command.load_missing_end_score(args, -2.5) == -9.0
    lines = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert lines == [f"{score:g}", "-9"]  # it says which one it takes


def test_best_of_two_is_a_best_of_n_and_best_of_one_is_none(own, tmp_path, capsys):
    places = {"policy": tmp_path / "two", "baseline": tmp_path / "one"}
    flags = {"reward_model": tmp_path / "scorer", "data": tmp_path / "prompts.jsonl", "prompts": 4}
    for n in (1, 2):
        run_command(command.main, places | flags | {"best_of": n, "max_new_tokens": 3})
        text = capsys.readouterr().out
        assert (f"best of {n} beats the baseline" in text) == (n == 2)


CALLS = []


def recorded_judge(prompts, first, second):
    """A judge for --judge: by the length of the response and the prompt's last character."""
    CALLS.append((prompts, first, second))
    longer = [len(a) - len(b) for a, b in zip(first, second, strict=True)]
    return [0.9 if x > 0 else 0.4 if x < 0 else 0.7 for x in longer]


def recorded_reward(prompts, responses):
    return [len(r) - len(p) / 10 for p, r in zip(prompts, responses, strict=True)]


def test_your_judge_gets_finished_texts_of_first_and_second_in_both_orders(tmp_path, capsys):
    """And --reward scores instead of a reward model. What was cut off is empty for the judge, and
    has the missing-end score."""
    CALLS.clear()
    path = write_records(tmp_path / "prompts.jsonl", [{"prompt": p} for p in PROMPTS])
    flags = {"data": path, "judge": f"{__name__}:recorded_judge"}
    run = Run(tmp_path, capsys, **FLAGS, **flags, reward=f"{__name__}:recorded_reward")
    replies = run.replies()
    prompts = PROMPTS[:11]

    def score(reply, prompt):
        return len(reply.text) - len(prompt) / 10 if reply.ended else -1.5

    for name, side in replies.items():
        scores = [score(reply, prompt) for reply, prompt in zip(side, prompts, strict=True)]
        assert float(run.cell(name, "score")) == pytest.approx(np.mean(scores), abs=0.0051)
    sides = {name: [r.text if r.ended else "" for r in side] for name, side in replies.items()}
    first, second = sides["policy"], sides["baseline"]
    assert CALLS[2] == (prompts, first, second) and CALLS[3] == (prompts, second, first)
    direct, reverse = (recorded_judge(*call) for call in CALLS[2:4])
    wins = [(a + 1 - b) / 2 for a, b in zip(direct, reverse, strict=True)]
    expected = [100 * np.mean(wins), 100 * half_width(wins), 11]
    assert run.win_rates()["policy"] == pytest.approx(expected, abs=0.051)


def test_the_results_are_written_to_a_file_with_the_judge_and_all_responses(own, tmp_path, capsys):
    """The numbers of the table and of the win rates, unrounded, and who judged."""
    places = {"policy": tmp_path / "two", "baseline": tmp_path / "one"}
    flags = FLAGS | {"data": tmp_path / "prompts.jsonl", "precision": "bf16"} | places
    to = tmp_path / "new" / "results.json"
    run_command(command.main, flags | {"reward_model": tmp_path / "scorer", "to": to})
    assert own.text.strip() in capsys.readouterr().out
    results = json.loads(to.read_text())
    assert results["judge"] == f"the reward model {tmp_path / 'scorer'}"
    assert f"the judge: {results['judge']}\n" in own.text
    for name, cells in own.rows.items():
        for column, cell in zip(own.header, cells, strict=True):
            assert results["means"][name][column] == pytest.approx(float(cell), abs=0.0051)
        rate, half_width, _ = own.win_rates()[name]
        stored = results["win_rates"][name]
        assert 100 * stored["rate"] == pytest.approx(rate, abs=0.051)
        assert 100 * stored["half_width"] == pytest.approx(half_width, abs=0.051)
    replies = own.replies()
    for n, sample in enumerate(results["samples"]):
        assert sample["prompt"] == PROMPTS[n]
        assert all(sample[name] == side[n].text for name, side in replies.items())
    assert len(results["samples"]) == 11 and results["temperature"] == 0.8
    models = tuple(results[name] for name in ("policy", "baseline", "data"))
    assert models == tuple(str(flags[name]) for name in ("policy", "baseline", "data"))


def test_a_file_of_a_comparison_on_the_world_says_so_and_is_tried_before_anything_is_sampled(
    tmp_path, monkeypatch
):
    path = tmp_path / "results.json"
    command.write_results(command.Config(to=str(path)), {}, [], {})
    assert json.loads(path.read_text())["data"] == "the embedded world"
    save_policy(tmp_path / "one", seed=9)
    calls = recorded(monkeypatch)["generate"]
    flags = {name: tmp_path / "one" for name in ("policy", "baseline")} | {"prompts": 2}
    with pytest.raises(InputError, match="--to"):
        run_command(command.main, flags | {"reward_model": "none", "to": tmp_path})
    assert not calls


def test_own_prompts_without_a_reward_model_give_samples_kl_and_length_and_no_winner(
    tmp_path, capsys
):
    """Nobody says which response is better, and the output says so."""
    path, to = tmp_path / "prompts.jsonl", tmp_path / "results.json"
    write_records(path, [{"prompt": p} for p in PROMPTS])
    models = {"baseline": save_policy(tmp_path / "one", seed=9)}
    models["policy"] = save_policy(tmp_path / "two", seed=8)
    places = {"policy": tmp_path / "two", "baseline": tmp_path / "one", "reward_model": "none"}
    flags = {name: FLAGS[name] for name in ("prompts", "max_new_tokens")}
    with pytest.MonkeyPatch.context() as patch:
        calls = recorded(patch)["generate"]
        run_command(command.main, places | flags | {"data": path, "to": to})
    text, results = capsys.readouterr().out, json.loads(to.read_text())
    assert "the judge: none" in text and "beats" not in text
    assert results["judge"] == "none" and results["win_rates"] == {}
    means = results["means"]["policy"]
    replies = replies_of(calls[1])
    assert means["kl"] == pytest.approx(
        loop_kl(models["policy"], models["baseline"], replies).mean()
    )
    assert means["length"] == pytest.approx(np.mean([reply.length for reply in replies]))
    assert means["score"] is None and set(results["means"]) == {"policy", "baseline"}


def test_without_a_reward_model_it_says_how_to_do_without(tmp_path, monkeypatch, refused):
    """Its default is that of the three stages, which one's own policy may not have."""
    monkeypatch.chdir(tmp_path)
    save_policy(tmp_path / "one", seed=9)
    path = write_records(tmp_path / "prompts.jsonl", [{"prompt": "Hi"}])
    argv = ["--policy", "one", "--baseline", "one", "--data", str(path)]
    message = refused(command.main, argv, tmp_path)
    assert message == "error: there is no out/rm; name a --reward-model, or do without: none\n"
    message = refused(command.main, [*argv, "--reward-model", "none", "--to", "."], tmp_path)
    assert message.startswith("error: --to .: Is a directory")


def test_every_flag_is_looked_at_somewhere_in_the_tests_of_whole_runs():
    """Those that do not occur here have tests of what they do in test_chain.py, test_evaluate.py
    and test_cuda.py."""
    named = {*FLAGS, "policy", "baseline", "reward_model", "reward", "judge", "data", "precision"}
    fields = {field.name: field.default for field in dataclasses.fields(command.Config)}
    assert named | READING | {"mix_data", "device", "to"} == set(fields)
    assert all(fields[name] != value for name, value in FLAGS.items())
