"""SFT, reward model, PPO and DPO hold out the same prompts of a user's data, and say what their
accuracy is worth."""

import json
import random
import re

import pytest
from conftest import colour_prompt, write_lines
from helpers import logged

import train_ppo
import train_rm
import train_sft
from minirlhf import dpo
from minirlhf.tools import dpo as dpo_command

PROMPTS = [colour_prompt(i) for i in range(120)]
SMALL = "--batch-size 20 --max-new-tokens 4".split()


@pytest.fixture
def files(tmp_path):
    """Demonstrations, comparisons and prompts, each file with other prompts in another order."""
    demonstrations = [{"prompt": prompt, "response": "b"} for prompt in PROMPTS]
    comparisons = [{"prompt": prompt, "chosen": "b", "rejected": "g"} for prompt in PROMPTS[:80]]
    prompts = [{"prompt": prompt} for prompt in PROMPTS[20:110]]
    random.Random(0).shuffle(prompts)
    write_lines(tmp_path / "demonstrations.jsonl", demonstrations)
    write_lines(tmp_path / "comparisons.jsonl", comparisons[::-1])
    write_lines(tmp_path / "prompts.jsonl", prompts)
    return {name: str(tmp_path / f"{name}.jsonl") for name in (*KINDS, "prompts")}


KINDS = ("demonstrations", "comparisons")


def recorded(patch, module, name, place, prompts_of):
    """A set that grows by the prompts of every batch that a training loop hands to module.name."""
    prompts, original = set(), getattr(module, name)

    def spy(*arguments):
        prompts.update(prompts_of(arguments[place]))
        return original(*arguments)

    patch.setattr(module, name, spy)
    return prompts


def of_records(batch):
    return [comparison.prompt for comparison in batch]


def test_no_stage_learns_from_a_prompt_that_another_one_holds_out(
    files, tmp_path, small_models, monkeypatch, capsys
):
    """What the four loops are given is recorded, and what they never see is compared: of the 60
    prompts that stand in all files it is the same, for each of two seeds."""
    ids = {}  # the ids of a prompt -> the prompt
    encode_prompt = train_sft.data.encode_prompt

    def remember(tokenizer, prompt):
        ids[tuple(encode_prompt(tokenizer, prompt))] = prompt
        return encode_prompt(tokenizer, prompt)

    def of_examples(batch):
        return [ids[tuple(x.tokens[: x.prompt_length])] for x in batch]

    monkeypatch.setattr(train_sft.data, "encode_prompt", remember)
    sets = []
    for seed in ("1", "2"):
        with monkeypatch.context() as patch:
            learned = {
                "sft": recorded(patch, train_sft, "accumulate", 1, of_examples),
                "rm": recorded(patch, train_rm, "accumulate", 2, of_records),
                "ppo": recorded(patch, train_ppo, "sample", 3, list),
                "dpo": recorded(patch, dpo_command, "accumulate", 3, of_records),
            }
            flags = ["--out", str(tmp_path / seed), "--seed", seed, *SMALL]
            train_sft.main([*flags, "--context", "32", "--data", files["demonstrations"]])
            train_rm.main([*flags, "--data", files["comparisons"], "--norm-prompts", "4"])
            ppo = "--updates 5 --minibatches 1 --epochs 1 --held-out 3".split()
            train_ppo.main([*flags, "--data", files["prompts"], *ppo])
            dpo_command.main([*flags[:-2], "--data", files["comparisons"]])
        common = set(PROMPTS[20:80])
        never = [common - prompts for prompts in learned.values()]
        assert never[0] and all(other == never[0] for other in never)
        sets.append(never[0])
        lines = re.findall(
            r"^held out: .* split by prompt, seed (\d)", capsys.readouterr().out, re.M
        )
        assert lines == [seed] * 4
    assert sets[0] != sets[1]


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_labels_by_coin_cannot_be_predicted_from_other_labels_of_the_same_pair(
    order, tmp_path, colour_run, capsys
):
    """60 pairs with four labels each. A reward model and DPO learn from the labels of 54 pairs or
    so, and no word of the others tells anything: the bag of words is at one half to the bit. Split
    by record it was at 1.000, and so was the reward model."""
    coin, records = random.Random(0), []
    for i in range(60):
        better, worse = coin.sample([f"yes{i}", f"no{i}"], 2)
        records += [{"prompt": colour_prompt(i), "chosen": better, "rejected": worse}] * 4
    if order == "shuffled":
        coin.shuffle(records)
    write_lines(tmp_path / "labels.jsonl", records)
    flags = ["--data", str(tmp_path / "labels.jsonl"), "--sft", str(colour_run / "sft")]
    flags += ["--out", str(tmp_path), "--batch-size", "40"]
    train_rm.main([*flags, "--max-new-tokens", "4", "--norm-prompts", "4"])
    dpo_command.main(flags)
    printed = capsys.readouterr().out
    for stage in ("rm", "dpo"):
        numbers = json.loads(logged(tmp_path / stage)[-1])
        assert numbers["bag_of_words"] == 0.5
        assert numbers["held_out_pairs"] % 4 == 0 and 4 <= numbers["held_out_pairs"] <= 60
        assert numbers["held_out_standard_error"] <= 0.5
        shown = f"right on {numbers['held_out_accuracy']:.3f} of {numbers['held_out_pairs']:.0f}"
        assert shown in printed and "a bag of words on 0.500" in printed


def test_the_held_out_numbers_of_dpo_are_its_implicit_rewards(tmp_path, colour_run, files):
    """beta x (log policy - log reference) of each response, computed again from the checkpoints;
    and the shorter response wins as often as in the file."""
    flags = ["--data", files["comparisons"], "--sft", str(colour_run / "sft"), "--beta", "0.5"]
    dpo_command.main([*flags, "--out", str(tmp_path), "--batch-size", "20", "--lr", "0.003"])
    policy, tokenizer = dpo_command.checkpoint.load_gpt(tmp_path / "dpo")
    reference, _ = dpo_command.checkpoint.load_gpt(colour_run / "sft")
    numbers = json.loads(logged(tmp_path / "dpo")[-1])
    comparisons = dpo_command.jsonl.read_comparisons(files["comparisons"])
    held_out = dpo_command.data.split_by_prompt(comparisons, 1)[1]
    groups = [
        [dpo_command.data.encode(tokenizer, c.prompt, text) for text in c.responses]
        for c in held_out
    ]
    logprobs, ref_logprobs = dpo.response_logprobs(policy, reference, groups)
    rewards = 0.5 * (logprobs - ref_logprobs).view(-1, 2).detach()
    assert numbers["held_out_pairs"] == len(held_out)
    assert numbers["held_out_accuracy"] == pytest.approx(
        (rewards[:, 0] > rewards[:, 1]).double().mean().item()
    )
    expected = dpo_command.torch.nn.functional.softplus(rewards[:, 1] - rewards[:, 0]).mean().item()
    assert numbers["held_out_loss"] == pytest.approx(expected, rel=1e-4)
    assert numbers["shorter_wins"] == 0.5  # one letter each
