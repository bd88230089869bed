"""train_ppo.py without a critic, from end to end, on a policy that names colours."""

import itertools
import json

import numpy as np
import pytest
import torch
from helpers import logged, same, saved
from recorder import positions

import train_ppo
from minirlhf import grpo
from minirlhf.run.metrics import read_metrics

SMALL = "--updates 4 --batch-size 8 --max-new-tokens 6 --held-out 4 --eval-every 2".split()
SMALL += "--epochs 2 --minibatches 3 --warmup 2 --lr 0.003".split()
METHODS = pytest.mark.parametrize("algorithm", grpo.ALGORITHMS)


@pytest.fixture
def prompts(colours):
    return ["--data", str(colours / "prompts.jsonl")]


def run(out, *argv):
    train_ppo.main(["--out", str(out), *argv])


TRAINING = "--updates 24 --batch-size 48 --minibatches 2 --max-new-tokens 6 --held-out 4".split()
TRAINING += "--lr 0.001 --warmup 0 --eval-every 24 --missing-end-score -1".split()
BLUE = "def reward(prompts, responses):\n    return [float(r == 'b') for r in responses]\n"


@METHODS
def test_each_method_raises_the_score_of_your_own_function(out, prompts, my_rewards, algorithm):
    """The policy names three colours equally often, and the function rewards one."""
    run(out, *prompts, *TRAINING, "--algorithm", algorithm, "--reward", my_rewards(BLUE))
    scores = logged(out / "ppo", "score")
    assert scores[0] < 0.6
    assert np.mean(scores[-2:]) > 0.9


@pytest.fixture
def batches(monkeypatch):
    """The prompts of each rollout."""
    batches, sample = [], train_ppo.sample

    def spy(args, gpt, tokenizer, prompts, step):
        batches.append(prompts)
        return sample(args, gpt, tokenizer, prompts, step)

    monkeypatch.setattr(train_ppo, "sample", spy)
    return batches


def test_each_prompt_stands_in_a_row_as_often_as_a_group_is_large(
    out, prompts, batches, monkeypatch
):
    """Eight responses are two prompts, four times each, and the next rollout asks the next two.
    With the rows of two prompts in turn, groups would mix them."""
    learned, load_prompts = [], train_ppo.load_prompts

    def spy(*args):
        learned.extend(load_prompts(*args)[0])
        return load_prompts(*args)

    monkeypatch.setattr(train_ppo, "load_prompts", spy)
    run(out, *prompts, *SMALL, "--algorithm", "rloo")
    order = [learned[i] for i in positions(len(learned), 0, 8, seed=1)]
    expected = [[order[i]] * 4 + [order[i + 1]] * 4 for i in range(0, 8, 2)]
    assert batches == expected
    assert [line["episodes"] for line in read_metrics(out / "ppo")] == [8, 16, 24, 32]


def test_the_responses_to_one_prompt_have_noise_of_their_own(out, prompts, monkeypatch):
    """Under one noise the responses of a group would be equal, and no advantage left."""
    generate, matrices = train_ppo.generate, []

    def spy(gpt, ids, new_tokens, end, temperature, uniforms):
        matrices.append(uniforms)
        return generate(gpt, ids, new_tokens, end, temperature, uniforms)

    monkeypatch.setattr(train_ppo, "generate", spy)
    run(out, *prompts, *SMALL, "--algorithm", "grpo", "--updates", "1")
    assert len(torch.unique(matrices[0], dim=0)) == 8


def test_ppo_asks_each_prompt_once(out, prompts, batches):
    """Its baseline is the value function."""
    run(out, *prompts, *SMALL, "--updates", "1", "--batch-size", "6")
    assert [len(list(group)) for _, group in itertools.groupby(batches[0])] == [1] * 6


def test_an_algorithm_without_a_critic_trains_and_saves_no_value_head(out, prompts):
    """Nor does it log what is about one. Every metric is finite."""
    run(out, *prompts, *SMALL, "--algorithm", "dr-grpo")
    assert not saved(out / "ppo")["value_head"] and "critic" not in saved(out / "ppo")
    lines = read_metrics(out / "ppo")
    absent = "value_loss value_error value_clip_fraction value_mean value_var explained_variance "
    absent += "return_mean return_var critic_grad_norm"
    assert not set(absent.split()) & set(lines[0])
    assert all(np.isfinite(list(line.values())).all() for line in lines)
    assert all(0 <= line["equal_groups"] <= 1 for line in lines) and lines[0]["grad_norm"] > 0
    flags = json.loads((out / "ppo" / "config.json").read_text())["flags"]
    assert (flags["algorithm"], flags["group"]) == ("dr-grpo", 4)


@METHODS
def test_each_method_resumes_to_the_bit(out, prompts, ctrl_c, algorithm):
    """Policy, optimiser and metrics."""
    flags = [*prompts, *SMALL, "--algorithm", algorithm]
    run(out, *flags)
    state, metrics = saved(out / "ppo"), logged(out / "ppo")
    ctrl_c("ppo", 1)
    with pytest.raises(KeyboardInterrupt):
        run(out, *flags, "--overwrite")
    ctrl_c(None)
    run(out, "--resume")
    assert same(saved(out / "ppo"), state) and logged(out / "ppo") == metrics


def test_no_two_methods_train_the_same_policy(out, prompts):
    """A name that is read nowhere would give two of them. dapo is left out: where all responses are
    equally long, as here, it is grpo."""
    states = []
    for algorithm in ("ppo", "rloo", "grpo", "dr-grpo"):
        run(out, *prompts, *SMALL, "--algorithm", algorithm, "--overwrite")
        states.append(saved(out / "ppo")["model"])
    assert not any(same(a, b) for a, b in itertools.combinations(states, 2))


def test_a_run_cannot_be_resumed_with_another_method(out, prompts, refused):
    """Half of its updates would be PPO."""
    run(out, *prompts, *SMALL, "--updates", "2", "--algorithm", "rloo")
    argv = ["--out", str(out), "--resume", "--updates", "4", "--algorithm", "grpo"]
    assert "--algorithm is rloo" in refused(train_ppo.main, argv, out)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--algorithm rloo --critic separate", "--critic is about PPO's critic, and --algorithm "),
        ("--algorithm grpo --lam 0.9", "--lam is about PPO's critic, and --algorithm grpo has"),
        ("--algorithm dapo --vf-coef 1", "--vf-coef is about PPO's critic"),
        ("--algorithm rloo --gamma 0.9", "--gamma is about PPO's critic"),
        ("--algorithm rloo --value-clip 1", "--value-clip is about PPO's critic"),
        ("--algorithm rloo --value-head-rate 1", "--value-head-rate is about PPO's critic"),
        ("--algorithm rloo --group 3", "--batch-size 8 must be a multiple of --group 3"),
        ("--algorithm rloo --group 1", "--group"),
        ("--algorithm ppo --group 2", "--group 2 needs --algorithm rloo, grpo, dr-grpo, dapo"),
        ("--algorithm reinforce", "--algorithm"),
    ],
)
def test_flags_without_a_meaning_for_the_method_are_refused(refused, out, prompts, flags, message):
    """Ignored, they would make two runs look different that are the same."""
    argv = ["--out", str(out), *prompts, *SMALL, *flags.split()]
    assert message in refused(train_ppo.main, argv, out)
