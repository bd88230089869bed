"""`minirlhf trl`: TRL gets our weights, rewards and flags, and returns weights. These tests do not
need TRL."""

import dataclasses
import json

import pytest
import torch

from minirlhf import reward
from minirlhf.bench import peers, trl_ppo
from minirlhf.formats import gpt2
from minirlhf.model import GPT, GPTConfig
from minirlhf.run.config import InputError
from train_ppo import Config


@pytest.fixture
def folder(tmp_path):
    """A GPT with random weights, as transformers finds it."""
    torch.manual_seed(1)
    gpt2.save_gpt2(GPT(GPTConfig(vocab_size=11, context=16, layers=2, heads=2, width=4)), tmp_path)
    return tmp_path


def ppo_run(folder, **flags):
    """The folder of a PPO run with these flags, and with one that train_ppo.py no longer has."""
    record = {"flags": dataclasses.asdict(Config(**flags)) | {"gone": 1}}
    (folder / "config.json").write_text(json.dumps(record))
    return folder


def test_our_weights_give_transformers_the_same_logits_and_scores(folder):
    """Otherwise the two would be timed on responses of other lengths, and TRL would get other
    rewards than we do."""
    gpt = gpt2.load_gpt2(folder)
    tokens = torch.tensor([[1, 5, 9, 0], [4, 4, 2, 0]])
    with torch.no_grad():
        torch.testing.assert_close(peers.causal_model(folder)(tokens).logits, gpt(tokens))
        reward_model = reward.RewardModel(gpt)
        reward_model.normalise(torch.randn(8, 4))
        scorer = trl_ppo.to_scorer(reward_model)
        theirs = scorer.score(scorer.transformer(tokens).last_hidden_state)[:, -1, 0]
        torch.testing.assert_close(theirs, reward_model(tokens, torch.tensor([4, 4])))


def test_a_model_comes_back_from_transformers_as_it_went(folder):
    gpt = gpt2.load_gpt2(folder)
    copy = trl_ppo.from_transformers(trl_ppo.to_transformers(gpt, peers.causal_model))
    assert all(torch.equal(a, b) for a, b in zip(gpt.parameters(), copy.parameters(), strict=True))


def test_trl_gets_the_flags_of_our_run(tmp_path):
    """The flags of the call of train_ppo.py, whatever its defaults are today, in TRL's names."""
    flags = {
        "updates": 3,
        "batch_size": 8,
        "epochs": 5,
        "minibatches": 2,
        "max_new_tokens": 7,
        "temperature": 0.9,
        "lr": 1e-3,
        "warmup": 2,
    }
    flags |= {
        "kl_coef": 0.3,
        "vf_coef": 0.4,
        "clip": 0.15,
        "value_clip": 0.25,
        "gamma": 0.98,
        "lam": 0.9,
        "seed": 11,
    }
    options = trl_ppo.hyper_parameters(trl_ppo.flags_of(ppo_run(tmp_path, **flags)))
    sizes = {
        "total_episodes": 24,
        "per_device_train_batch_size": 8,
        "local_rollout_forward_batch_size": 8,
    }
    sizes |= {
        "num_ppo_epochs": 5,
        "num_mini_batches": 2,
        "response_length": 7,
        "temperature": 0.9,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
    }
    losses = {
        "kl_coef": 0.3,
        "vf_coef": 0.4,
        "cliprange": 0.15,
        "cliprange_value": 0.25,
        "gamma": 0.98,
        "lam": 0.9,
        "seed": 11,
    }
    assert {name: options[name] for name in sizes | losses} == sizes | losses


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"reward": "my:function"}, "only the embedded world"),
        ({"data": "prompts.jsonl"}, "only the embedded world"),
        ({"kl_target": 3.0}, "TRL has no --kl-target"),
        ({"batch_size": 10, "minibatches": 4}, "multiple of --minibatches"),
    ],
)
def test_a_run_that_trl_cannot_follow_is_refused(tmp_path, flags, message):
    with pytest.raises(InputError, match=message):
        trl_ppo.flags_of(ppo_run(tmp_path, **flags))


def test_without_a_run_of_ours_there_is_nothing_to_follow(tmp_path):
    with pytest.raises(InputError, match=r"config.json does not exist; run train_ppo.py first"):
        trl_ppo.main(["--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json is damaged; run train_ppo.py first"),
        ('{"flags": {"updates": "x"}}', "config.json is damaged: --updates is 'x'"),
    ],
)
def test_a_damaged_record_of_our_run_is_one_line(tmp_path, content, message):
    """It is read as --resume reads it."""
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=message):
        trl_ppo.flags_of(tmp_path)
