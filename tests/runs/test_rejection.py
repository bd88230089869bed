"""`minirlhf rejection`: the best of n responses become demonstrations."""

import json

import pytest
import torch
from conftest import colour_prompt
from helpers import contents, saved

from minirlhf import evaluate, reward
from minirlhf.data import Demonstration, split_by_prompt
from minirlhf.formats import jsonl
from minirlhf.run.checkpoint import load_gpt
from minirlhf.run.config import InputError
from minirlhf.run.lock import lock
from minirlhf.tokenizer import get_tokenizer
from minirlhf.tools import rejection
from minirlhf.tools.sample import Settings, noise

SMALL = "--best-of 4 --max-new-tokens 6 --held-out 4 --lr 0.01 --epochs 2".split()


@pytest.fixture
def run(colour_run, colours, tmp_path):
    """run(*flags) -> the folder of an experiment on the colours."""

    def call(*flags, out=tmp_path / "exp"):
        models = ["--sft", f"{colour_run}/sft", "--rm", f"{colour_run}/rm"]
        data = ["--data", str(colours / "prompts.jsonl")]
        rejection.main([*models, *data, "--out", str(out), *SMALL, *flags])
        return out

    return call


def test_the_response_with_the_highest_score_is_the_demonstration(run, colour_run):
    """Of four to each prompt, under the reward model; all prompts have one, but for those that the
    policy is evaluated on."""
    folder = run()
    records = jsonl.read_demonstrations(folder / "round-1" / "demonstrations.jsonl")
    chosen = {record.prompt: record.response for record in records}
    held_out = list(map(str, jsonl.read_prompts(folder / "held-out.jsonl")))
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["data"] == str(folder / "held-out.jsonl") and len(held_out) == 4
    learned, unseen = split_by_prompt(list(map(colour_prompt, range(40))), 1)
    assert set(chosen) <= set(learned) and set(held_out) <= set(unseen)
    policy, tokenizer = load_gpt(colour_run / "sft")
    model, _, missing_end_score = reward.load_reward_model(colour_run / "rm")
    score = evaluate.model_scores(model, missing_end_score)
    distinct = 0
    for number, prompt in enumerate(learned):
        prompts = [prompt] * 4
        draws = noise(Settings(1, 4, 1.0, 1, 6), number)
        replies = evaluate.respond(policy, tokenizer, prompts, draws)
        scores = score(prompts, replies)
        distinct += len({reply.text for reply in replies}) > 1
        best = replies[int(scores.argmax())]
        assert not best.ended or chosen[prompts[0]] == best.text
    assert distinct > 20


def test_fine_tuning_on_them_raises_the_score(run, colour_run):
    """b is what the reward model likes best."""
    folder = run()
    policies = [load_gpt(path)[0] for path in (colour_run / "sft", folder / "round-1" / "sft")]
    _, tokenizer = load_gpt(colour_run / "sft")
    prompts = [colour_prompt(i) for i in range(100, 140)]
    shares = []
    for policy in policies:
        draws = evaluate.noise(1, 40, 6)
        replies = evaluate.respond(policy, tokenizer, prompts, draws)
        shares.append(sum(reply.text == "b" for reply in replies) / 40)
    assert shares[1] > shares[0] + 0.2


def test_the_second_round_samples_and_starts_from_the_policy_of_the_first(run):
    """Under other noise. Without that it would imitate the same responses again."""
    folder = run("--rounds", "2")
    flags = json.loads((folder / "round-2" / "sft" / "config.json").read_text())["flags"]
    assert flags["init"] == str(folder / "round-1" / "sft")
    settings = [
        json.loads((folder / f"round-{n}" / "samples.jsonl.config.json").read_text())
        for n in (1, 2)
    ]
    assert settings[0]["inputs"]["policy"] != settings[1]["inputs"]["policy"]
    assert settings[0]["flags"]["seed"] != settings[1]["flags"]["seed"]
    assert json.loads((folder / "evaluation.json").read_text())["policy"] == str(
        folder / "round-2" / "sft"
    )


def test_a_response_that_was_cut_off_is_no_demonstration():
    """Imitation would put an end token behind it, and teach to stop in mid-sentence."""
    rows = [
        {"prompt": "a", "response": "It is in the", "ended": False, "score": -3.0},
        {"prompt": "b", "response": "No.", "ended": True, "score": 0.1},
    ]
    assert rejection.finished(rows) == [Demonstration("b", "No.")]
    with pytest.raises(InputError, match="no response came to its end; raise --max-new-tokens"):
        rejection.finished(rows[:1])


def test_a_killed_command_goes_on_behind_its_last_response(run, tmp_path, monkeypatch):
    """To the same policy, to the bit, in a folder that was moved. The seven prompts that have a
    line are not asked again."""
    starts, records = [], rejection.records

    def counted(*args, done=0):
        starts.append(done)
        return records(*args, done=done)

    monkeypatch.setattr(rejection, "records", counted)
    whole = run()
    lines = (whole / "round-1" / "samples.jsonl").read_bytes().splitlines(keepends=True)
    part = tmp_path / "part"
    (part / "round-1").mkdir(parents=True)
    (part / "experiment.json").write_text((whole / "experiment.json").read_text())
    (part / "round-1" / "samples.jsonl").write_bytes(b"".join(lines[:7]) + lines[7][:9])
    settings = "samples.jsonl.config.json"
    text = (whole / "round-1" / settings).read_text()
    (part / "round-1" / settings).write_text(text)
    run(out=part)
    assert starts == [0, 7]
    assert (part / "round-1" / "samples.jsonl").read_bytes() == b"".join(lines)
    models = [saved(folder / "round-1" / "sft")["model"] for folder in (whole, part)]
    assert all(torch.equal(a, b) for a, b in zip(*(m.values() for m in models), strict=True))


def test_the_same_command_makes_nothing_again(run):
    """A finished round stays as it is."""
    folder = run()
    before = contents(folder / "round-1" / "sft")
    run()
    assert contents(folder / "round-1" / "sft") == before


def test_the_worlds_prompts_are_asked_without_data(world_run, tmp_path, monkeypatch):
    """Other ones in each round. (The toy policy does not know how to end.)"""
    finished = rejection.finished
    monkeypatch.setattr(
        rejection, "finished", lambda rows: finished([row | {"ended": True} for row in rows])
    )
    models = ["--sft", f"{world_run}/sft", "--rm", f"{world_run}/rm", "--out", str(tmp_path / "x")]
    small = "--prompts 6 --best-of 2 --max-new-tokens 30 --held-out 4 --rounds 2".split()
    rejection.main([*models, *small])
    asked = [
        [json.loads(line)["prompt"] for line in path.read_text().splitlines()]
        for path in sorted((tmp_path / "x").glob("round-*/samples.jsonl"))
    ]
    assert [len(prompts) for prompts in asked] == [6, 6] and asked[0] != asked[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--best-of 1", "--best-of must be at least 2"),
        ("--rounds 0", "--rounds must be at least 1"),
        ("--sft nowhere", "nowhere"),
        ("--rm nowhere", "nowhere"),
        ("--data nowhere.jsonl", "nowhere.jsonl"),
    ],
)
def test_a_mistake_is_one_line(refused, colour_run, tmp_path, flags, message):
    """Before anything is sampled."""
    models = ["--sft", f"{colour_run}/sft", "--rm", f"{colour_run}/rm"]
    argv = [*models, "--out", str(tmp_path / "x"), *flags.split()]
    assert message in refused(rejection.main, argv, tmp_path / "none")


def test_models_with_other_vocabularies_are_refused(refused, colour_run, tmp_path, bytewise):
    """A score of other ids means nothing."""
    models = ["--sft", bytewise, "--rm", f"{colour_run}/rm"]
    message = refused(rejection.main, [*models, "--out", str(tmp_path / "x")], tmp_path / "none")
    assert "they must be the same" in message


@pytest.mark.parametrize("line", ["", "{", "[]", '{"prompt": "a", "response": 1, "ended": true}'])
def test_a_damaged_line_of_samples_is_named_with_the_remedy(run, refused, line):
    """It stands before the last one, which a killed command may have cut short."""
    folder = run()
    path = folder / "round-1" / "samples.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    with pytest.raises(InputError, match=r"samples.jsonl, line 2, is damaged; remove the file"):
        run()
    path.unlink()
    run()
    assert path.read_text().splitlines() == lines


def test_a_second_command_in_its_folder_is_refused(run, tmp_path):
    """Both would write their samples behind one another's."""
    with lock(tmp_path / "exp"), pytest.raises(InputError, match="is being written by process"):
        run()


def test_a_prompt_that_is_too_long_is_left_out_if_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(rejection.parts, "hold_out", lambda prompts, *_: prompts)
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": text}) for text in ("a", "b" * 99)))
    args = rejection.Config(data=str(path), max_new_tokens=4)
    with pytest.raises(InputError, match="of --max-new-tokens, do not fit the context of 32"):
        rejection.load_prompts(args, tmp_path, get_tokenizer(), 32, 1)
    args = rejection.Config(data=str(path), max_new_tokens=4, drop_long=True)
    assert rejection.load_prompts(args, tmp_path, get_tokenizer(), 32, 1) == ["a"]
