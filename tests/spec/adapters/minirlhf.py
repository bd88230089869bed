"""minirlhf itself. Its functions are offered as they are. `trace` runs an iteration of train_ppo.py
on a model that is a table of the given logits and values."""

from types import SimpleNamespace
from unittest.mock import patch

import torch
from spec.adapters.tables import Watched, in_place, places, width
from torch import nn

import train_ppo
from minirlhf import ppo
from minirlhf.dpo import (  # noqa: F401
    dpo_loss,
    ipo_loss,
    kto_loss,
    kto_reference_point,
    orpo_loss,
    simpo_loss,
)
from minirlhf.feedback.ai import rating  # noqa: F401
from minirlhf.feedback.soft import both_orders  # noqa: F401
from minirlhf.generate import Samples
from minirlhf.grpo import group_advantages, token_weights  # noqa: F401
from minirlhf.ppo import (  # noqa: F401
    AdaptiveKL,
    gae,
    kl_k3,
    masked_mean,
    masked_var,
    missing_end_rule,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)
from minirlhf.reward import (  # noqa: F401
    calibration_error,
    margins,
    preference_loss,
    ranking_loss,
    soft_preference_loss,
)
from minirlhf.rewards.axes import flag_loss, ordinal_loss  # noqa: F401
from minirlhf.rewards.credit import redistribute, shaping  # noqa: F401
from minirlhf.rewards.ensemble import combine, disagreement, win_rate  # noqa: F401
from minirlhf.rewards.meta import score_difference  # noqa: F401


class Table(nn.Module):
    """A GPT whose state before each token of each row is a row of parameters: V logits and a value.
    The first token of a row says which row it is."""

    def __init__(self, case, logits):
        super().__init__()
        self.config = SimpleNamespace(vocab_size=case.vocab_size, width=case.vocab_size + 1)
        self.first = torch.tensor([prompt[0] for prompt in case.prompts])
        states = torch.zeros(len(case.prompts), longest(case), case.vocab_size + 1)
        answers = torch.cat([logits, case.values[:, :, None]], dim=2)
        for row, place, answer in zip(states, places(case), answers, strict=True):
            row[place] = answer
        self.states = nn.Parameter(states)
        weight = torch.eye(case.vocab_size, case.vocab_size + 1)  # the head drops the value
        self.token_embedding = SimpleNamespace(weight=weight)

    def hidden(self, tokens, wanted=None):
        index = (tokens[:, :1] == self.first).int().argmax(1)
        return self.states[index, : tokens.size(1)]


def longest(case):
    return max(map(len, case.prompts)) + width(case)


def samples_of(case):
    tokens = torch.full((len(case.prompts), longest(case)), case.end_token)
    for row, prompt, response in zip(tokens, case.prompts, case.responses, strict=True):
        row[: len(prompt) + len(response)] = torch.tensor(prompt + response)
    prompt_lengths = torch.tensor(list(map(len, case.prompts)))
    lengths = prompt_lengths + torch.tensor(list(map(len, case.responses)))
    ended = torch.tensor([response[-1] == case.end_token for response in case.responses])
    return Samples(tokens, prompt_lengths, lengths, ended)


def trace(case):
    """One iteration of train_ppo.py, with the case's samples and scores."""
    samples, rollouts = samples_of(case), []
    actor, reference = ppo.ActorCritic(Table(case, case.logits)), Table(case, case.ref_logits)
    actor.value_head.weight.data[0, -1] = 1  # the last column of a state is its value
    missing_end_score = case.missing_end_score
    if missing_end_score is None:  # the case has no rule: every response counts as ended
        samples, missing_end_score = samples._replace(ended=samples.ended | True), 0.0
    models = train_ppo.Models(actor, reference, lambda *_: case.scores, missing_end_score, None)
    controller = ppo.AdaptiveKL(case.kl_coef, target=0, horizon=1)
    optimizer = Watched([actor.gpt.states], lr=case.lr)
    update = ppo.update

    def watched_update(model, optimizer, rollout, plan, **settings):
        rollouts.append(rollout)
        return update(model, optimizer, rollout, plan, **settings)

    with (
        patch.object(train_ppo, "sample", lambda *_: (samples, None)),
        patch.object(ppo, "update", watched_update),
    ):
        prompts = case.prompts
        stats, _ = train_ppo.iterate(flags(case), models, optimizer, controller, prompts, step=0)
    names = ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns")
    gradient = in_place(optimizer.first[0], case)
    return {name: in_place(getattr(rollouts[0], name), case) for name in names} | {
        "logits_gradient": gradient[..., :-1],
        "values_gradient": gradient[..., -1],
        "loss": torch.tensor(stats["loss"]),
        "optimizer_steps": optimizer.steps,
        "stats": {name: torch.tensor(value) for name, value in stats.items()},
    }


def flags(case):
    return train_ppo.Config(
        epochs=case.epochs,
        minibatches=case.minibatches,
        microbatch_tokens=10**6 if case.rows_at_once is None else 1,  # 1 has room for one row
        temperature=case.temperature,
        gamma=case.gamma,
        lam=case.lam,
        clip=case.clip,
        value_clip=case.value_clip,
        vf_coef=case.vf_coef,
        max_grad_norm=1e9,
    )
