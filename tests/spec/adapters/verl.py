"""verl 0.8.0.dev (commit b178a3c), on a CPU: the mathematics of its trainers, no loop. From a
checkout, in an environment that has torch, numpy, tiktoken, tqdm, transformers and pytest:

    PYTHONPATH=verl-checkout python -m pytest tests/spec --impl tests/spec/adapters/verl.py

verl itself is not installed: it needs Ray, tensordict and Hydra, which its functions do not. The
packages in HOLLOW are found and not run, the modules in STUBBED are empty. What its functions leave
outside the mask is filled with zeros; the library masks it later. Its GAE whitens the advantages at
once; here whitening is offered apart, and left out of `gae`. The policy loss has a dual clip at 3.
"""

import sys
from types import SimpleNamespace as Has
from unittest.mock import MagicMock, patch

import numpy as np
import torch
from spec.adapters.hollow import packages

HOLLOW = ["verl", "verl.utils", "verl.trainer", "verl.trainer.ppo"]
NAMES = {"as_torch_index": None, "group_mean_std": None}  # of verl.utils, for estimators of groups
STUBBED = ["omegaconf", "tensordict", "tensordict.tensorclass", "verl.workers.config"]
STUBBED += ["verl.utils.device", "verl.protocol"]
MODULES = {name: MagicMock() for name in STUBBED} | packages(*HOLLOW, **NAMES)
MODULES["verl.trainer.config"] = Has(AlgoConfig=type("AlgoConfig", (), {}))
MODULES["verl.utils.import_utils"] = Has(deprecated=lambda name: lambda function: function)
with patch.dict(sys.modules, MODULES):
    from verl.trainer.ppo import core_algos
    from verl.utils import torch_functional
    from verl.utils.torch_functional import masked_mean  # noqa: F401


class Settings(dict):
    __getattr__ = dict.get


def masked_var(x, mask):
    return torch_functional.masked_var(x, mask, unbiased=False)


def whiten(x, mask, shift_mean=True):
    return torch.where(mask, torch_functional.masked_whiten(x, mask, shift_mean), 0.0)


def kl_k3(logprobs, ref_logprobs):
    return core_algos.kl_penalty(logprobs, ref_logprobs, "k3")


def gae(rewards, values, mask, gamma=1.0, lam=1.0):  # the defaults of its configuration
    with patch.object(torch_functional, "masked_whiten", lambda x, mask: x):
        pair = core_algos.compute_gae_advantage_return(rewards, values, mask.float(), gamma, lam)
    return tuple(torch.where(mask, x, 0.0) for x in pair)


def policy_loss(logprobs, old_logprobs, advantages, mask, clip=0.2, tokens=None):
    settings = Settings(clip_ratio=clip, clip_ratio_c=3.0)
    settings["global_batch_info"] = {"batch_num_tokens": tokens}
    loss, stats = core_algos.compute_policy_loss_vanilla(
        old_logprobs, logprobs, advantages, mask.float(), config=settings
    )
    return loss, {"clip_fraction": torch.tensor(stats["actor/pg_clipfrac"])}


def value_loss(values, old_values, returns, mask, clip=0.2, tokens=None):
    if tokens is not None:
        raise NotImplementedError("a microbatch has its own mean; the trainer weighs it")
    loss, clip_fraction = core_algos.compute_value_loss(
        values, returns, old_values, mask.float(), clip
    )
    return loss, {"value_clip_fraction": clip_fraction}


class AdaptiveKL(core_algos.AdaptiveKLController):
    kl_coef = property(lambda self: self.value)

    def __init__(self, kl_coef, target, horizon):
        if not target:
            raise NotImplementedError("a fixed coefficient is another class")
        super().__init__(kl_coef, target, horizon)

    def update(self, kl, episodes):
        super().update(kl, episodes)
        return self.value


def group_advantages(returns, algorithm):
    rows = returns.reshape(-1, 1).clone()
    place = np.repeat(np.arange(len(returns)), returns.size(1)), torch.ones_like(rows)
    if algorithm == "rloo":
        advantages, _ = core_algos.compute_rloo_outcome_advantage(rows, place[1], place[0])
    else:
        scaled = {"norm_adv_by_std_in_grpo": algorithm != "dr-grpo"}
        advantages, _ = core_algos.compute_grpo_outcome_advantage(
            rows, place[1], place[0], **scaled
        )
    return advantages.view_as(returns)
