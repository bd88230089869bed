"""The stages on files that people have: a table of questions, answers as columns for a reward, and
what a resumed run keeps of it."""

import json

import pytest

import train_ppo
import train_sft
from minirlhf.run.config import InputError

CALLS = []


def right(prompts, responses, answer):
    """A reward that sees the answers, and remembers what it saw."""
    CALLS.append((prompts, answer))
    return [float(text == true) for text, true in zip(responses, answer, strict=True)]


def test_a_table_of_questions_and_answers_trains_a_policy_on_its_own_answers(
    small_models, tmp_path, monkeypatch
):
    """SFT on CSV with other names of fields; PPO on its questions, with the answer of each prompt
    beside it, in training and in evaluation. A resumed run refuses another --map, and other
    answers."""
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "table.csv"
    pairs = [(f"What is {i} and 1?", str(i + 1)) for i in range(30)]
    table.write_text("ask,say\n" + "".join(f"{q},{a}\n" for q, a in pairs))
    names = ["--data", "table.csv", "--template", "plain", "--map", "question=ask,answer=say"]
    train_sft.main([*names, "--context", "32", "--max-new-tokens", "4"])

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in pairs))
    reward = ["--reward", f"{__name__}:right", "--missing-end-score", "-1"]
    sizes = "--updates 1 --batch-size 8 --minibatches 2 --max-new-tokens 4 --held-out 4".split()
    ppo = ["--data", "rows.jsonl", "--template", "plain", *reward, *sizes]
    CALLS.clear()
    train_ppo.main(ppo)
    answers = {q + "\n": a for q, a in pairs}
    assert len(CALLS) >= 3  # the SFT model's and the policy's evaluation, and the training
    for prompts, seen in CALLS:
        assert seen == [answers[prompt] for prompt in prompts]

    more = ["--resume", "--updates", "2"]
    with pytest.raises(InputError, match="--map is not set in .*, and question=question now"):
        train_ppo.main([*more, "--map", "question=question"])
    rows.write_text(rows.read_text().replace('"answer": "2"', '"answer": "7"'))
    with pytest.raises(InputError, match="the data changed"):
        train_ppo.main(more)


def test_a_row_without_a_column_says_who_asks_for_it(out, tmp_path):
    """And not what the forms are: its form is known."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p", "answer": "a"}\n{"prompt": "q"}\n')
    argv = ["--out", str(out), "--data", str(tmp_path / "rows.jsonl"), "--missing-end-score", "-1"]
    with pytest.raises(InputError) as error:
        train_ppo.main([*argv, "--reward", f"{__name__}:right"])
    problem = "no field 'answer'; it has prompt; a reward function or --columns asks for it"
    assert str(error.value) == f"{tmp_path}/rows.jsonl:2: {problem}"
