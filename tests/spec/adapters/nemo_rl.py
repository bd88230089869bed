"""NeMo RL 0.6.0 (commit 7ea279a), on a CPU: its losses and estimators, no loop. From a checkout, in
an environment that has torch, numpy, tiktoken, tqdm, transformers, pydantic and pytest:

    PYTHONPATH=RL-checkout python -m pytest tests/spec --impl tests/spec/adapters/nemo_rl.py

NeMo RL itself is not installed: it needs Ray and a GPU, which its functions do not. The packages in
HOLLOW are found and not run, the modules in STUBBED are empty. Its tensors have a first column
where nothing is chosen; it is added here and taken off again. Dual clipping is off, as by default.
"""

import sys
from unittest.mock import MagicMock, patch

import torch
import torch._dynamo  # noqa: F401  before the stubs: it may be loaded once only
import torch.nn.functional as F
from spec.adapters.hollow import packages

HOLLOW = ["nemo_rl", "nemo_rl.algorithms"]
STUBBED = ["nemo_rl.algorithms.x_token", "nemo_rl.algorithms.x_token.loss_utils"]
STUBBED += ["nemo_rl.data", "nemo_rl.data.chat_templates", "nemo_rl.distributed"]
STUBBED += ["nemo_rl.distributed.batched_data_dict", "nemo_rl.distributed.model_utils"]
STUBBED += ["nemo_rl.models", "nemo_rl.models.policy", "nemo_rl.models.dtensor"]
STUBBED += ["nemo_rl.models.dtensor.parallelize", "nemo_rl.utils", "nemo_rl.utils.fastokens"]
STUBBED += ["nemo_rl.utils.logger", "ray"]
MODULES = {name: MagicMock() for name in STUBBED} | packages(*HOLLOW)
MODULES["nemo_rl.algorithms.loss.wrapper"] = MagicMock()
MODULES["nemo_rl.algorithms.loss.utils"] = MagicMock()
with patch.dict(sys.modules, MODULES):
    from nemo_rl.algorithms import advantage_estimator, utils
    from nemo_rl.algorithms.loss import loss_functions
    from nemo_rl.algorithms.utils import masked_mean  # noqa: F401


def masked_var(x, mask):
    return utils.masked_var(x, mask, unbiased=False)


def estimator(gamma, lam, kl_coef=0.0):
    settings = {"gae_lambda": lam, "gae_gamma": gamma, "normalize_advantages": False}
    settings |= {"gae_lambda_value": None, "gae_lambda_policy": None, "length_adaptive_alpha": 0}
    loss = loss_functions.ClippedPGLossConfig(
        use_kl_in_reward=True, reference_policy_kl_penalty=kl_coef, reference_policy_kl_type="k1"
    )
    return advantage_estimator.GeneralizedAdvantageEstimator(settings, loss)


def whiten(x, mask, shift_mean=True):
    whitened = estimator(1.0, 1.0)._reward_whiten(x, mask, shift_mean)
    return torch.where(mask, whitened, 0.0)


def kl_k3(logprobs, ref_logprobs):
    return utils.calculate_kl(logprobs, ref_logprobs, "k3")


def token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef):
    build = estimator(1.0, 1.0, kl_coef)._build_token_level_rewards
    return build(scores, mask.long(), logprobs, ref_logprobs)


def gae(rewards, values, mask, gamma=1.0, lam=0.95):  # the defaults of its example
    pair = estimator(gamma, lam)._compute_gae(rewards, values, mask.long())
    return tuple(torch.where(mask, x, 0.0) for x in pair)


def column(x):  # (B, T-1) -> (B, T)
    return F.pad(x, (1, 0))


def batch(mask):
    return {"token_mask": column(mask.float()), "sample_mask": torch.ones(len(mask))}


def policy_loss(logprobs, old_logprobs, advantages, mask, clip=0.2, tokens=None):
    tokens = mask.sum() if tokens is None else torch.tensor(tokens)
    settings = loss_functions.ClippedPGLossConfig(
        ratio_clip_min=clip, ratio_clip_max=clip, reference_policy_kl_penalty=0.0
    )
    old = column(old_logprobs.detach())
    data = batch(mask) | {"prev_logprobs": old, "generation_logprobs": old}
    data["advantages"] = column(advantages)
    loss, stats = loss_functions.ClippedPGLossFn(settings)(logprobs, data, None, tokens)
    names = {"ratio_mean": "probs_ratio", "ratio_min": "probs_ratio_min"}
    names |= {"ratio_max": "probs_ratio_max"}
    return loss, {name: torch.tensor(stats[key]) for name, key in names.items()}


def value_loss(values, old_values, returns, mask, clip=0.2, tokens=None):
    tokens = mask.sum() if tokens is None else torch.tensor(tokens)
    settings = loss_functions.MseValueLossConfig(cliprange=clip)
    data = batch(mask) | {"returns": column(returns), "values": column(old_values)}
    loss, stats = loss_functions.MseValueLossFn(settings)(column(values), data, None, tokens)
    return loss, {"value_clip_fraction": torch.tensor(stats["vf_clipfrac"])}


def preference_loss(chosen, rejected, margin=0.0):
    if torch.is_tensor(margin) or margin:
        raise NotImplementedError("there is no margin")
    scores = torch.stack([chosen, rejected], 1).flatten()
    rows = torch.ones_like(scores)
    return loss_functions.PreferenceLossFn()._preference_loss(scores, rows, len(scores))[0]


def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    rewards = torch.stack([chosen - ref_chosen, rejected - ref_rejected], 1).flatten()
    numbers = loss_functions.PreferenceLossFn()._preference_loss(
        rewards, torch.ones_like(rewards), len(rewards), beta
    )
    return numbers[0], {"accuracy": numbers[1]}  # its rewards are without beta


def group_advantages(returns, algorithm):
    """Its baseline leaves the response out; its example for GRPO says so, too."""
    settings = advantage_estimator.AdvEstimatorConfig(
        use_leave_one_out_baseline=algorithm == "rloo",
        normalize_rewards=algorithm in ("grpo", "dapo"),
    )
    grpo = advantage_estimator.GRPOAdvantageEstimator(settings, None)
    prompts = torch.arange(len(returns)).repeat_interleave(returns.size(1))[:, None]
    rewards = returns.flatten().float()  # the only type it takes
    advantages = grpo.compute_advantage(prompts, rewards, torch.ones_like(prompts))
    return advantages.view_as(returns)
