"""torchtune 0.6.1, its last release: torchtune.rlhf and the recipe that uses it. In a virtual
environment of its own:

    pip install -c requirements.txt torchtune==0.6.1 torchao==0.15.0 torch numpy tiktoken tqdm \\
        pytest hypothesis
    python -m pytest tests/spec --impl tests/spec/adapters/torchtune.py

Later releases of torchao lack what it imports. Its masks are True on the response, like ours. What
its functions leave outside the mask is filled with zeros, as in the recipe. estimate_advantages
returns whitened advantages only, so that those before whitening are returns - values. PPOLoss
computes both losses at once: each is isolated by zeros for the other.

`trace` loads the file of the recipe and runs its train() for one batch on models that are tables.
Stubbed: setup() (checkpoints, tokenizer, data, metric logger), saving, and the sampler, which is
replaced by the given responses. For the recipe a response of more than one token ends in the first
padding after its end, where its score and one more value are; `trace` therefore returns all columns
as they are and fills none with zeros.

Not offered: missing_end_rule and the accuracy of DPO, which are lines inside recipes; the loss of a
microbatch by the tokens of its minibatch; most metrics. Absent: losses of a reward model, margins,
calibration, k3, an adaptive KL coefficient.
"""

import contextlib
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
import torchtune
from omegaconf import DictConfig
from spec.adapters.tables import Table, Watched, filled, in_place, left_padded, width
from torchtune import rlhf, training
from torchtune.rlhf import masked_mean  # noqa: F401
from torchtune.rlhf.loss import DPOLoss, PPOLoss


def whiten(x, mask, shift_mean=True):
    return torch.where(mask, rlhf.whiten(x, mask, shift_mean), 0.0)


def token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef):
    # The position of the score is an argument here; `trace` shows which one the recipe chooses.
    last = training.get_unmasked_sequence_lengths(~mask)
    scores = scores.to(logprobs.dtype)
    rewards, _, _ = rlhf.get_rewards_ppo(scores, logprobs, ref_logprobs, kl_coef, last)
    return torch.where(mask, rewards, 0.0)


def gae(rewards, values, mask, gamma=1.0, lam=0.95):  # defaults: its only configuration file
    _, returns = rlhf.estimate_advantages(values, rewards, gamma, lam, mask)
    return torch.where(mask, returns - values, 0.0), torch.where(mask, returns, 0.0)


def policy_loss(logprobs, old_logprobs, advantages, mask, clip=0.2, tokens=None):
    if tokens is not None:
        raise NotImplementedError("a loss is the mean over its own tokens")
    zeros = [torch.zeros_like(advantages)] * 3
    ppo_loss = PPOLoss(clip, value_coeff=0.0)
    loss, _, _, ratio, clipped = ppo_loss(old_logprobs, logprobs, advantages, *zeros, mask, mask)
    return loss, {"ratio_mean": ratio, "clip_fraction": clipped}


def value_loss(values, old_values, returns, mask, clip=0.2, tokens=None):
    if tokens is not None:
        raise NotImplementedError("a loss is the mean over its own tokens")
    zeros = torch.zeros_like(returns)
    loss = PPOLoss(value_clip_range=clip, value_coeff=1.0)
    return loss(*[zeros] * 3, old_values, values, returns, mask, mask)[0], {}


def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    loss = DPOLoss(beta)
    losses, chosen_rewards, rejected_rewards = loss(chosen, rejected, ref_chosen, ref_rejected)
    stats = {"chosen_reward": chosen_rewards.mean(), "rejected_reward": rejected_rewards.mean()}
    return losses.mean(), stats


def load_recipe():
    recipes = Path(torchtune.__file__).parents[1] / "recipes"  # a folder that is not a package
    path = recipes / "ppo_full_finetune_single_device.py"
    spec = importlib.util.spec_from_file_location("recipe", path)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    return recipe


class Model(Table):
    def forward(self, tokens, input_pos, mask):
        return self.read(tokens, tokens != self.case.vocab_size, input_pos)


def generate(model, prompt, **_):
    """The given responses, then any token: the sampler of the recipe does not stop at an end."""
    return torch.cat([prompt, filled(model.case, 1)], dim=1), model.generation()


def settings(case):
    """The configuration of the recipe."""
    B = len(case.prompts)
    minibatch = B // case.minibatches
    plain = ("resume_from_checkpoint", "whiten_rewards", "enable_kv_cache")
    return {
        "batch_size": B,
        "forward_batch_size": B,
        "ppo_batch_size": minibatch,
        "num_steps": B,
        "ppo_epochs": case.epochs,
        "gradient_accumulation_steps": minibatch // (case.rows_at_once or minibatch),
        "max_generated_tokens": width(case),
        "kl_coeff": case.kl_coef,
        "gamma": case.gamma,
        "lmbda": case.lam,
        "temperature": case.temperature,
        "top_k": None,
        "penalise_no_eos": case.missing_end_score is not None,
        "reward_penalty": case.missing_end_score,
        "min_response_length": None,
        "device": "cpu",
        "dtype": "fp32",
        "seed": 0,
        "output_dir": "",
        "stop_token_ids": [case.end_token],
        **dict.fromkeys(plain, False),
    }


def trace(case):
    recipe, local_variables, metrics = load_recipe(), {}, {}

    class Watching(recipe.PPOFullFinetuneRecipeSingleDevice):
        def ppo_step(self, *args):
            if not local_variables:  # of train() at its first loss: all that it computed before
                local_variables.update(sys._getframe(1).f_locals)
            stats = super().ppo_step(*args)
            local_variables.setdefault("loss", stats.loss.detach())
            return stats

        def save_checkpoint(self, *args, **kwargs):
            pass

    pad, cfg = case.vocab_size, DictConfig(settings(case))
    loop = Watching(cfg)
    loop._policy_model = Model(case, case.logits)
    loop._ref_policy_model = Model(case, case.ref_logits)
    loop._value_model = Model(case, case.values[:, :, None], beyond=1.0)
    loop._reward_model = Model(case, case.values[:, :, None])
    loop._reward_model.table.data[:] = case.scores[:, None, None]  # wherever it is read
    loop._optimizer = Watched([loop._policy_model.table, loop._value_model.table], lr=case.lr)
    loop._loss_fn = PPOLoss(case.clip, case.value_clip, case.vf_coef)
    loop._tokenizer = SimpleNamespace(pad_id=pad, eos_id=case.end_token)
    loop._dataloader = [{"tokens": left_padded(case.prompts, pad)}]
    loop._sampler = SimpleNamespace(set_epoch=lambda epoch: None)
    loop._metric_logger = SimpleNamespace(log_dict=lambda numbers, step: metrics.update(numbers))
    loop._profiler, loop.profiler_profile_memory = loop._setup_profiler(), False
    loop.cache_ctx_manager = lambda *args, **kwargs: contextlib.nullcontext()
    loop.compile = loop._optimizer_in_bwd = False
    loop._setup_training_parameters(cfg)
    loop._setup_training_hyperparameters(cfg)
    with patch.object(recipe.generation, "generate", generate):
        loop.train()

    trajectory = local_variables["trajectory"]
    per_token = {name: getattr(trajectory, name) for name in ("logprobs", "ref_logprobs", "values")}
    per_token |= {name: local_variables[name] for name in ("rewards", "advantages", "returns")}
    stats = {"approx_kl": "approx_policy_kl", "clip_fraction": "clipfrac", "ratio_mean": "ratios"}
    return {name: x[:, : case.max_new_tokens] for name, x in per_token.items()} | {
        "loss": local_variables["loss"],
        "logits_gradient": in_place(loop._optimizer.first[0], case),
        "values_gradient": in_place(loop._optimizer.first[1], case)[:, :, 0],
        "optimizer_steps": loop._optimizer.steps,
        "stats": {name: metrics[key] for name, key in stats.items()},
    }
