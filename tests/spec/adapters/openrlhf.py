"""OpenRLHF 0.11.2, on a CPU. In a virtual environment of its own:

    pip install -c requirements.txt transformers peft pylatexenc pillow torch numpy tiktoken tqdm \\
        pytest hypothesis
    pip install --no-deps openrlhf==0.11.2
    python -m pytest tests/spec --impl tests/spec/adapters/openrlhf.py

It cannot be imported so: openrlhf.models.utils needs deepspeed, models.actor flash_attn,
trainer.ray both ray and vllm. The mathematics needs none of them: the modules in STUBBED are empty
while the rest is imported. Its action_mask is our mask, with prompts on the left. What its
functions leave outside the mask is filled with zeros; the library masks it later.

`trace` runs RemoteExperienceMaker.make_experience_batch, then ppo_train of actor and critic.
Stubbed: Ray (a remote call is a call), DeepSpeed (backward and step are those of PyTorch, without
accumulation), the current CUDA device, and the answers of the models; the Actor and the CriticModel
that read the answers are those of OpenRLHF. The critic has its own optimiser, so that vf_coef acts
through its learning rate alone: `values_gradient` is multiplied by it, and no common loss exists.
approx_kl is k1 here.

Not offered: whitening and the accuracy of DPO, which are lines inside methods (masked_normalize is
never called), most metrics, and a missing-end score of 0 or more, which would scale the score.
Absent: rankings, margins, calibration.
"""

import sys
from types import SimpleNamespace as Has
from unittest.mock import MagicMock, patch

import peft  # noqa: F401  before the stubs: it looks whether there is a DeepSpeed
import torch
from spec.adapters.tables import Table, Watched, in_place, width
from torch import nn

STUBBED = ["deepspeed", "ray", "openrlhf.models.ring_attn_utils", "openrlhf.trainer.ray.launcher"]
STUBBED += [
    "openrlhf.trainer.ray.vllm_engine",
    "openrlhf.utils.deepspeed",
    "openrlhf.utils.deepspeed.deepspeed_utils",
]
RAY = MagicMock(get=lambda x: x, put=lambda x: x)
with patch.dict(sys.modules, {name: MagicMock() for name in STUBBED} | {"ray": RAY}):
    from openrlhf.models import Actor, DPOLoss, PairWiseLoss, PolicyLoss, ValueLoss
    from openrlhf.models.model import _get_critic_model
    from openrlhf.models.utils import compute_approx_kl, compute_reward, masked_mean  # noqa: F401
    from openrlhf.trainer.ppo_utils import (
        AdaptiveKLController,
        apply_stop_properly_penalty,
        experience_maker,
    )
    from openrlhf.trainer.ppo_utils.experience import Experience
    from openrlhf.trainer.ray import ppo_actor, ppo_critic


def kl_k3(logprobs, ref_logprobs):
    return compute_approx_kl(logprobs, ref_logprobs, kl_estimator="k3")


def token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef):
    kl = compute_approx_kl(logprobs, ref_logprobs, kl_estimator="k1")
    return torch.where(mask, compute_reward(scores, kl_coef, kl, mask), 0.0)


def gae(rewards, values, mask, gamma=1.0, lam=1.0):  # the defaults of its command line
    maker = experience_maker.RemoteExperienceMaker
    pair = maker.get_advantages_and_returns(None, values, rewards, mask, gamma, lam)
    return tuple(torch.where(mask, x, 0.0) for x in pair)


def policy_loss(logprobs, old_logprobs, advantages, mask, clip=0.2, tokens=None):
    policy_loss = PolicyLoss(clip, clip)
    numbers = policy_loss(logprobs, old_logprobs, advantages, mask, batch_num_tokens=tokens)
    return numbers[0], {"clip_fraction": numbers[1]}


def value_loss(values, old_values, returns, mask, clip=0.2, tokens=None):
    return ValueLoss(clip)(values, old_values, returns, mask, batch_num_tokens=tokens), {}


class AdaptiveKL(AdaptiveKLController):
    kl_coef = property(lambda self: self.value)

    def update(self, kl, episodes):
        super().update(kl, episodes)
        return self.value


def missing_end_rule(scores, ended, missing_end_score):
    experience = Has(rewards=scores.clone(), truncated=~ended)
    apply_stop_properly_penalty([experience], negative(missing_end_score))
    return experience.rewards


def negative(missing_end_score):
    if missing_end_score is not None and missing_end_score >= 0:
        raise NotImplementedError("a penalty of 0 or more is a factor, not a score")
    return missing_end_score


def preference_loss(chosen, rejected, margin=0.0):
    return PairWiseLoss()(chosen, rejected, margin)


def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    dpo = DPOLoss(beta)
    loss, chosen_rewards, rejected_rewards = dpo(chosen, rejected, ref_chosen, ref_rejected)
    stats = {"chosen_reward": chosen_rewards.mean(), "rejected_reward": rejected_rewards.mean()}
    return loss, stats


def ipo_loss(chosen, rejected, ref_chosen, ref_rejected, tau):
    ipo = DPOLoss(tau, ipo=True)
    loss, chosen_rewards, rejected_rewards = ipo(chosen, rejected, ref_chosen, ref_rejected)
    stats = {"chosen_reward": chosen_rewards.mean(), "rejected_reward": rejected_rewards.mean()}
    return loss, stats


class Answer(dict):
    __getattr__ = dict.__getitem__


class Model(Table):
    def forward(self, tokens, attention_mask, position_ids):
        answer = self.read(tokens, attention_mask, position_ids)
        return Answer(logits=answer, last_hidden_state=answer)


class Backbone(nn.Module):
    """As much of a transformers model as a CriticModel inherits. Its head returns the table."""

    base_model_prefix = "backbone"

    def __init__(self, config):
        super().__init__()

    def post_init(self):
        nn.init.ones_(self.score.weight)


def alone(model):
    """A Ray group of one worker, which answers immediately."""

    def forward(method_name, sequences, attention_mask, action_mask=None, **_):
        actions = action_mask or [None] * len(sequences)
        rows = zip(sequences, actions, attention_mask, strict=True)
        return [[model(x, action_mask=a, attention_mask=b) for x, a, b in rows]]

    return Has(async_run_method_batch=forward)


def samples(case):
    """Row by row the output of a rollout: ids padded to one length, the masks of all tokens and of
    the response."""
    T = max(map(len, case.prompts)) + width(case)
    for prompt, response in zip(case.prompts, case.responses, strict=True):
        start, end = len(prompt), len(prompt) + len(response)
        place = torch.arange(T)[None]
        ids = torch.tensor([prompt + response + [case.end_token] * (T - end)])
        yield Experience(
            sequences=ids,
            attention_mask=(place < end).long(),
            action_mask=((start <= place) & (place < end)).long()[:, 1:],
            response_length=torch.tensor([end - start]),
            total_length=torch.tensor([end]),
            truncated=torch.tensor([response[-1] != case.end_token]),
        )


def settings(case):
    plain = ["dynamic_batch_enable", "async_enable", "colocate_all", "colocate_actor_ref"]
    plain += ["colocate_critic_reward"]
    advantage = Has(
        estimator="gae",
        gamma=case.gamma,
        lambd=case.lam,
        no_std_norm=False,
        is_correction_level="off",
        is_correction_mode="mask",
        is_correction_gating="ratio",
        is_correction_threshold=[0.5, 5.0],
    )
    actor = Has(
        eps_clip_low_high=[case.clip, case.clip],
        dual_clip=None,
        policy_loss_type="ppo",
        loss_agg_mode="token-mean",
        aux_loss_coef=0.0,
        entropy_coef=0.0,  # 0: the entropy is measured, and no part of the loss
    )
    return Has(
        actor=actor,
        algo=Has(advantage=advantage, kl=Has(use_loss=False, estimator="k1")),
        ds=Has(ring_attn_size=1, tensor_parallel_size=1, packing_samples=False),
        reward=Has(clip_range=None, stop_properly_penalty_coef=negative(case.missing_end_score)),
        rollout=Has(micro_batch_size=len(case.prompts), n_samples_per_prompt=1),
        train=Has(max_epochs=case.epochs, **dict.fromkeys(plain, False)),
        vllm=Has(),
    )


def pytorch(args):
    """PyTorch in the place of DeepSpeed."""

    def step(optimizer, *_, **__):
        optimizer.step()
        optimizer.zero_grad()

    return Has(
        args=args,
        ring_attn_group=None,
        accumulated_gradient=1,
        is_rank_0=lambda: False,
        all_reduce=lambda x: x,
        backward=lambda loss, *_: loss.backward(),
        optimizer_step=step,
        get_grad_norm=lambda _: 0.0,
    )


def trainers(case, strategy, actor, critic, optimizers):
    constant = torch.optim.lr_scheduler.LambdaLR
    schedulers = [constant(optimizer, lambda _: 1.0) for optimizer in optimizers]
    minibatch = len(case.prompts) // case.minibatches
    rows = {"micro_train_batch_size": minibatch, "dataloader_pin_memory": False}
    device = patch.object(torch.cuda, "current_device", lambda: 0)
    with device, patch.object(ppo_actor, "torch_dist_barrier_and_cuda_sync"):
        actor = ppo_actor.ActorPPOTrainer(
            strategy, actor, None, optimizers[0], schedulers[0], **rows
        )
        critic = ppo_critic.CriticPPOTrainer(
            strategy, critic, optimizers[1], schedulers[1], value_clip=case.value_clip, **rows
        )
    return actor, critic


def trace(case):
    if case.rows_at_once:
        raise NotImplementedError("accumulation is DeepSpeed's, which is stubbed")
    strategy, rewards = pytorch(settings(case)), []
    policy, value = Model(case, case.logits), Model(case, case.values[:, :, None], beyond=1.0)
    actor = Actor(policy, temperature=case.temperature)
    reference = Actor(Model(case, case.ref_logits), temperature=case.temperature)
    actor.packing_samples = reference.packing_samples = False
    critic = _get_critic_model(Backbone, lambda config: value)
    critic = critic(Has(hidden_size=1, normalize_reward=False))
    models = (actor, critic, lambda *_, **__: case.scores.clone(), reference)
    groups = [alone(model) for model in models]
    coefficient, tokenizer = Has(value=case.kl_coef), Has(pad_token_id=case.end_token)
    maker = experience_maker.RemoteExperienceMaker(*groups, coefficient, strategy, tokenizer)

    def watched(*args, **kwargs):
        rewards.append(compute_reward(*args, **kwargs))
        return rewards[0]

    with patch.object(experience_maker, "compute_reward", watched):
        (experience,) = maker.make_experience_batch(list(samples(case)))

    optimizers = Watched([policy.table], lr=case.lr), Watched([value.table], lr=case.lr)
    actor, critic = trainers(case, strategy, actor, critic, optimizers)
    for trainer in (actor, critic):
        trainer.replay_buffer.append(experience)
    device = patch.object(torch.cuda, "current_device", lambda: "cpu")
    with device, torch.compiler.set_stance("force_eager"):
        stats = actor.ppo_train(case.kl_coef)
        critic.ppo_train()

    per_token = {name: getattr(experience, name) for name in ("values", "advantages", "returns")}
    per_token |= {"logprobs": experience.action_log_probs, "rewards": rewards[0]}
    names = {"approx_kl": "ppo_kl", "clip_fraction": "ppo_clip_ratio", "entropy": "entropy_loss"}
    return {name: in_place(x, case) for name, x in per_token.items()} | {
        "logits_gradient": in_place(optimizers[0].first[0], case),
        "values_gradient": in_place(optimizers[1].first[0], case)[:, :, 0] * case.vf_coef,
        "optimizer_steps": optimizers[0].steps,
        "stats": {name: stats[key] for name, key in names.items()},
    }
