"""minirlhf itself. Its functions are offered as they are; `trace` runs one rollout and one update of ppo.py on a model that is
a table of the given logits and values."""

from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
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
    """A GPT whose state, before each token of each row, is a row of parameters: V logits and a value. A row is known by its
    first token."""

    def __init__(self, case, logits):
        super().__init__()
        self.config = SimpleNamespace(vocab_size=case.vocab_size, width=case.vocab_size + 1)
        self.first = torch.tensor([prompt[0] for prompt in case.prompts])
        states = torch.zeros(len(case.prompts), longest(case), case.vocab_size + 1)
        for row, place, answer in zip(states, places(case), torch.cat([logits, case.values[:, :, None]], dim=2), strict=True):
            row[place] = answer
        self.states = nn.Parameter(states)
        self.token_embedding = SimpleNamespace(weight=torch.eye(case.vocab_size, case.vocab_size + 1))  # drops the value

    def hidden(self, tokens, wanted=None):
        which = (tokens[:, :1] == self.first).int().argmax(1)
        return self.states[which, : tokens.size(1)]

    def padded_head(self, hidden):
        return F.linear(hidden, self.token_embedding.weight)


def longest(case):
    return max(map(len, case.prompts)) + width(case)


def trace(case):
    tokens = torch.full((len(case.prompts), longest(case)), case.end_token)
    for row, prompt, response in zip(tokens, case.prompts, case.responses, strict=True):
        row[: len(prompt) + len(response)] = torch.tensor(prompt + response)
    prompt_lengths = torch.tensor(list(map(len, case.prompts)))
    lengths = prompt_lengths + torch.tensor(list(map(len, case.responses)))
    ended = torch.tensor([response[-1] == case.end_token for response in case.responses])
    samples = Samples(tokens, prompt_lengths, lengths, ended)
    actor, reference = ppo.ActorCritic(Table(case, case.logits)), Table(case, case.ref_logits)
    actor.value_head.weight.data[0, -1] = 1  # the value stands in the last column of the state
    scores = case.scores
    if case.missing_end_score is not None:
        scores = ppo.missing_end_rule(scores, ended, case.missing_end_score)
    at_once = 10**6 if case.rows_at_once is None else 1  # tokens: in one there is no room for two rows
    steps = ppo.plan(lengths.tolist(), case.epochs, case.minibatches, at_once, np.random.default_rng(0))
    told = ppo.score_tokens(actor, reference, samples, steps[0], case.temperature)
    rollout = ppo.make_rollout(samples, scores, *told, case.kl_coef, case.gamma, case.lam)
    optimizer = Watched([actor.gpt.states], lr=case.lr)
    settings = (case.temperature, case.clip, case.value_clip, case.vf_coef, 1e9)
    stats = ppo.update(actor, optimizer, rollout, steps, *settings)
    names = ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns")
    gradient = in_place(optimizer.first[0], case)
    return {name: in_place(getattr(rollout, name), case) for name in names} | {
        "logits_gradient": gradient[..., :-1],
        "values_gradient": gradient[..., -1],
        "loss": stats["loss"],
        "optimizer_steps": optimizer.steps,
        "stats": stats,
    }
