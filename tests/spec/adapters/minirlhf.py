"""minirlhf itself. Its functions are offered as they are; `trace` runs one rollout and one update
of ppo.py on a model that is a table of the given logits and values."""

from types import SimpleNamespace

import numpy as np
import torch
from spec.adapters.tables import Watched, in_place, places, width
from torch import nn

from minirlhf import ppo
from minirlhf.dpo import dpo_loss  # noqa: F401
from minirlhf.generate import Samples
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
from minirlhf.reward import calibration_error, margins, preference_loss, ranking_loss  # noqa: F401


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
    """The lines of `iterate` in train_ppo.py."""
    samples = samples_of(case)
    actor, reference = ppo.ActorCritic(Table(case, case.logits)), Table(case, case.ref_logits)
    actor.value_head.weight.data[0, -1] = 1  # the last column of a state is its value
    scores = case.scores
    if case.missing_end_score is not None:
        scores = ppo.missing_end_rule(scores, samples.ended, case.missing_end_score)
    microbatch_tokens = 10**6 if case.rows_at_once is None else 1  # 1 has room for one row
    sizes = case.epochs, case.minibatches, microbatch_tokens
    plan = ppo.plan(samples.lengths.tolist(), *sizes, np.random.default_rng(0))
    logprobs, ref_logprobs, values = ppo.score_tokens(
        actor, reference, samples, plan[0], case.temperature
    )
    mask = samples.mask
    rewards = ppo.token_rewards(scores, logprobs, ref_logprobs, mask, case.kl_coef)
    raw_advantages, returns = ppo.gae(rewards, values, mask, case.gamma, case.lam)
    advantages = ppo.whiten(raw_advantages, mask)
    spans = samples.tokens, samples.prompt_lengths, samples.lengths, mask
    rollout = ppo.Rollout(
        *spans, logprobs, ref_logprobs, values, rewards, raw_advantages, advantages, returns
    )
    optimizer = Watched([actor.gpt.states], lr=case.lr)
    settings = (case.temperature, case.clip, case.value_clip, case.vf_coef, 1e9)
    stats = ppo.update(actor, optimizer, rollout, plan, *settings)
    names = ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns")
    gradient = in_place(optimizer.first[0], case)
    return {name: in_place(getattr(rollout, name), case) for name in names} | {
        "logits_gradient": gradient[..., :-1],
        "values_gradient": gradient[..., -1],
        "loss": stats["loss"],
        "optimizer_steps": optimizer.steps,
        "stats": stats,
    }
