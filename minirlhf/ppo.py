"""PPO for language models in one file (Schulman et al. 2017; Ziegler et al. 2019, section 2.2).

A response is an episode, a token is an action. The reward model speaks once, at the last token; at every token the policy pays
for leaving the reference. In the order of the method: value head, rewards, advantages, losses, KL control, rollout, update.

Every per-token tensor is (B, T-1): column t is about choosing tokens[:, t+1] having seen tokens[:, :t+1], and values[:, t] is
the value of that state, before the token. `mask` is True where the chosen token belongs to the response, the end token
included; everything is zero elsewhere, and nothing that lies there reaches a loss, a gradient or a metric.
"""

import copy
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from minirlhf.data import microbatches
from minirlhf.model import ScalarHead, logprobs_of_hidden, response_mask, to_device
from minirlhf.model import logprobs as model_logprobs


class ActorCritic(nn.Module):
    """Policy and value function. By default one trunk with two heads, the value head zero at first; with `critic`, a
    RewardModel, a trunk of its own that starts as the reward model (InstructGPT), its normalisation folded into the head."""

    def __init__(self, gpt, critic=None):
        super().__init__()
        self.gpt = gpt
        self.value_head = ScalarHead(gpt.config.width, std=0.0)
        self.critic = copy.deepcopy(critic.gpt).requires_grad_() if critic else None
        if critic:
            self.value_head.load_state_dict(
                {"weight": critic.head.weight / critic.spread, "bias": (critic.head.bias - critic.mean) / critic.spread}
            )

    def forward(self, tokens, mask, temperature=1.0):  # (B, T), (B, T-1) -> logprobs, values, entropy, each (B, T-1)
        wanted = F.pad(mask, (0, 1))  # the state that chooses, not the one that was chosen
        hidden = self.gpt.hidden(tokens, wanted=wanted)
        logprobs, entropy = logprobs_of_hidden(self.gpt, hidden, tokens, mask, temperature)
        states = self.critic.hidden(tokens, wanted=wanted) if self.critic else hidden
        values = self.value_head(states[:, :-1])
        return logprobs, torch.where(to_device(mask, values.device), values, 0.0), entropy


# ---- masked statistics


def masked_mean(x, mask):  # (...), (...) bool -> scalar
    """The mean over the True entries; whatever stands in the others, even NaN, does not matter."""
    return torch.where(mask, x, 0.0).sum() / mask.sum()


def masked_var(x, mask):  # -> scalar, biased
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask)


def whiten(x, mask, shift_mean=True):  # (B, T-1), (B, T-1) -> (B, T-1)
    """To unit variance (biased, eps 1e-8) over the mask, zero outside. The mean goes to 0, or stays where it was if not
    `shift_mean`."""
    mean = masked_mean(x, mask)
    whitened = (x - mean) * torch.rsqrt(masked_var(x, mask) + 1e-8) + (0.0 if shift_mean else mean)
    return torch.where(mask, whitened, 0.0)


# ---- rewards and advantages


def kl_k3(logprobs, ref_logprobs):
    """Schulman's k3 estimator of KL(policy || reference): r - 1 - log r with r = reference / policy. Never negative, so it
    reads well; only logged, because as a reward it is not the KL's gradient (it would push rare tokens further out)."""
    log_r = ref_logprobs - logprobs
    return log_r.exp() - 1 - log_r


def token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef):  # (B,), (B, T-1) x 3 -> (B, T-1)
    """-kl_coef (log policy - log reference) at every response token, and the score on top at the last one.

    This is k1, unclamped: a token that the policy made rarer than the reference earns a bonus, and that is what pulls it back.
    ValueError if a row has no response token.
    """
    if not mask.any(dim=1).all():
        raise ValueError("a response without a token cannot be rewarded")
    rewards = torch.where(mask, -kl_coef * (logprobs - ref_logprobs), 0.0)
    columns = torch.arange(mask.size(1), device=mask.device)
    last = torch.where(mask, columns, -1).argmax(dim=1, keepdim=True)
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


def gae(rewards, values, mask, gamma=1.0, lam=0.95):  # (B, T-1) x 3 -> advantages, returns, each (B, T-1)
    """Generalised advantage estimation (Schulman et al. 2016, equation 16): sums of (gamma lam)^k delta, where
    delta_t = r_t + gamma V_{t+1} - V_t. The value after the last response token is 0: the episode is over.

    Neither is whitened: returns = advantages + values are what the value function is to predict.
    """
    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.size(1))):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(mask[:, t], delta + gamma * lam * next_advantage, 0.0)
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages, advantages + values


# ---- losses


def policy_loss(logprobs, old_logprobs, advantages, mask, clip=0.2, tokens=None):  # (B, T-1) x 4 -> scalar, stats
    """The clipped surrogate (Schulman et al. 2017, equation 7): the sum over the mask of
    max(-A ratio, -A clip(ratio, 1 - clip, 1 + clip)), divided by `tokens`, by default the number of tokens in the mask.

    Splitting a minibatch leaves its gradient alone if each part is given the *minibatch's* number of tokens.
    """
    tokens = mask.sum() if tokens is None else tokens
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)  # before exp: what is outside must not overflow
    ratio = log_ratio.exp()
    advantages = torch.where(mask, advantages, 0.0)
    unclipped, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    loss = torch.maximum(unclipped, clipped).sum() / tokens
    with torch.no_grad():
        stats = {
            "approx_kl": masked_mean(log_ratio**2 / 2, mask),
            "approx_kl_k3": masked_mean(ratio - 1 - log_ratio, mask),
            "clip_fraction": masked_mean((clipped > unclipped).float(), mask),
            "ratio_mean": masked_mean(ratio, mask),
            "ratio_var": masked_var(ratio, mask),
            "ratio_min": torch.where(mask, ratio, torch.inf).min(),
            "ratio_max": torch.where(mask, ratio, -torch.inf).max(),
        }
    return loss, stats


def value_loss(values, old_values, returns, mask, clip=0.2, tokens=None):  # (B, T-1) x 4 -> scalar, stats
    """Half the squared error, the worse of the value and the value clipped to within `clip` of the old one (as in Ziegler et
    al.'s code): the sum over the mask divided by `tokens`, as in `policy_loss`."""
    tokens = mask.sum() if tokens is None else tokens
    near = values.clamp(old_values - clip, old_values + clip)
    unclipped, clipped = (torch.where(mask, x - returns, 0.0) ** 2 for x in (values, near))  # masked first: NaN times 0 is NaN
    loss = 0.5 * torch.maximum(unclipped, clipped).sum() / tokens
    with torch.no_grad():
        stats = {
            "value_clip_fraction": masked_mean((clipped > unclipped).float(), mask),
            "value_error": masked_mean(unclipped, mask),
        }
    return loss, stats


class AdaptiveKL:
    """Moves kl_coef so that the KL (nats per response) comes to `target` (Ziegler et al. 2019, section 2.2)."""

    def __init__(self, kl_coef, target, horizon):
        self.kl_coef, self.target, self.horizon = kl_coef, target, horizon

    def update(self, kl, episodes):
        """Once a rollout, after the update, with its mean KL and number of responses. Returns the new kl_coef."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.kl_coef *= 1 + error * episodes / self.horizon
        return self.kl_coef


# ---- the rollout, and the update


@dataclass(frozen=True)
class Rollout:
    """Sampled responses and what is to be learned from them. Constants: nothing here has a gradient."""

    tokens: torch.Tensor  # (B, T)
    prompt_lengths: torch.Tensor  # (B,) these two on the CPU, where the microbatches are made
    lengths: torch.Tensor  # (B,)
    mask: torch.Tensor  # (B, T-1), as is all that follows
    logprobs: torch.Tensor  # of the policy that sampled
    ref_logprobs: torch.Tensor
    values: torch.Tensor
    rewards: torch.Tensor
    raw_advantages: torch.Tensor
    advantages: torch.Tensor  # whitened once, over the whole rollout
    returns: torch.Tensor


def missing_end_rule(scores, ended, missing_end_score):  # (B,), (B,) bool -> (B,)
    """A response that was cut off gets a fixed, low score *instead of* its own: nothing good can be won by not stopping."""
    return torch.where(ended, scores, missing_end_score)


def plan(lengths, epochs, minibatches, microbatch_tokens, rng):
    """Which rows every optimiser step takes: [epoch][minibatch][microbatch] -> row numbers. `lengths` is a list.

    A minibatch is a random subset, always: sorting would change the objective. Inside it rows of similar length go together.
    """
    epochs_ = []
    for _ in range(epochs):
        parts = [part.tolist() for part in torch.from_numpy(rng.permutation(len(lengths))).tensor_split(minibatches)]
        groups = [microbatches([lengths[row] for row in part], microbatch_tokens) for part in parts]
        epochs_.append([[[part[i] for i in rows] for rows in g] for part, g in zip(parts, groups, strict=True)])
    return epochs_


def on_device(rows, x):
    """A list of rows as an index of `x`: made from a list at once, it would have a GPU waited for."""
    return to_device(torch.tensor(rows, device="cpu"), x.device)


def forward(read, batch, rows, at, temperature):
    """`read(tokens, mask, temperature)` on some rows of Samples or a Rollout, as many columns as the longest needs.
    `at` are the same rows, as an index where the tokens are."""
    T = int(batch.lengths[rows].max())
    mask = response_mask(batch.prompt_lengths[rows], batch.lengths[rows], T)
    return read(batch.tokens[at, :T], mask, temperature)


@torch.no_grad()
def score_tokens(model, reference, samples, first_epoch, temperature=1.0):
    """Log-probabilities by policy and reference, and values, of sampled responses: each (B, T-1).

    The policy's come from the very microbatches of the first epoch, so that the first ratios are exactly 1.
    """
    B, T = samples.tokens.shape
    logprobs, ref_logprobs, values = torch.zeros(3, B, T - 1, device=samples.tokens.device)
    for rows in (rows for minibatch in first_epoch for rows in minibatch):
        at = on_device(rows, samples.tokens)
        new_logprobs, new_values, _ = forward(model, samples, rows, at, temperature)
        columns = new_logprobs.size(1)
        logprobs[at, :columns], values[at, :columns] = new_logprobs, new_values
        ref_logprobs[at, :columns], _ = forward(partial(model_logprobs, reference), samples, rows, at, temperature)
    return logprobs, ref_logprobs, values


def make_rollout(samples, scores, logprobs, ref_logprobs, values, kl_coef, gamma=1.0, lam=0.95):
    """Rewards, returns and whitened advantages of scored samples (their lengths on the CPU)."""
    mask = response_mask(samples.prompt_lengths, samples.lengths, samples.tokens.size(1)).to(samples.tokens.device)
    rewards = token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    whitened = whiten(advantages, mask)
    spans = samples.tokens, samples.prompt_lengths, samples.lengths, mask
    return Rollout(*spans, logprobs, ref_logprobs, values, rewards, advantages, whitened, returns)


def update(model, optimizer, rollout, steps, temperature=1.0, clip=0.2, value_clip=0.2, vf_coef=0.1, max_grad_norm=1.0):
    """Optimise over a `plan`: one optimiser step a minibatch, whose gradient does not depend on its microbatches.

    Returns the stats of the whole update, every metric over response tokens only (on the device: reading them waits for it).
    """
    seen = torch.zeros(3, len(steps), *rollout.mask.shape, device=rollout.mask.device)  # logprobs, values, entropy by epoch
    norms, critic_norms = [], []
    critic = [p for name, p in model.named_parameters() if not name.startswith("gpt.")]  # value head, separate trunk
    for epoch, minibatches in enumerate(steps):
        for minibatch in minibatches:
            tokens = sum(int((rollout.lengths[rows] - rollout.prompt_lengths[rows]).sum()) for rows in minibatch)
            for rows in minibatch:
                at = on_device(rows, rollout.tokens)
                logprobs, values, entropy = forward(model, rollout, rows, at, temperature)
                columns = logprobs.size(1)
                now = [x[at, :columns] for x in (rollout.logprobs, rollout.advantages, rollout.values, rollout.returns)]
                old_logprobs, advantages, old_values, returns = now
                mask = rollout.mask[at, :columns]
                pg_loss, _ = policy_loss(logprobs, old_logprobs, advantages, mask, clip, tokens)
                vf_loss, _ = value_loss(values, old_values, returns, mask, value_clip, tokens)
                (pg_loss + vf_coef * vf_loss).backward()
                seen[:, epoch, at, :columns] = torch.stack([logprobs, values, entropy]).detach()
            critic_norms.append(torch.nn.utils.get_total_norm([p.grad for p in critic]))
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm))
            optimizer.step()
            optimizer.zero_grad()
    stats = update_stats(seen, rollout, clip, value_clip, vf_coef)
    return stats | {"grad_norm": torch.stack(norms).mean(), "critic_grad_norm": torch.stack(critic_norms).mean()}


# ---- metrics


@torch.no_grad()
def update_stats(seen, rollout, clip, value_clip, vf_coef):
    """Means over all tokens of all epochs, each seen just before its optimiser step."""
    logprobs, values, entropy = seen.flatten(1, 2)  # (epochs * B, T-1) each
    again = [x.repeat(seen.size(1), 1) for x in (rollout.logprobs, rollout.advantages, rollout.values, rollout.returns)]
    mask = rollout.mask.repeat(seen.size(1), 1)
    pg_loss, policy_stats = policy_loss(logprobs, again[0], again[1], mask, clip)
    vf_loss, value_stats = value_loss(values, again[2], again[3], mask, value_clip)
    losses = {"policy_loss": pg_loss, "value_loss": vf_loss, "loss": pg_loss + vf_coef * vf_loss}
    return losses | policy_stats | value_stats | {"entropy": masked_mean(entropy, mask)}


@torch.no_grad()
def rollout_stats(rollout, raw_scores, scores, ended, kl_coef):
    """What was sampled, before learning from it. Per-response numbers are sums over its tokens, averaged over responses."""
    mask = rollout.mask
    kl = torch.where(mask, rollout.logprobs - rollout.ref_logprobs, 0.0).sum(1)
    length = mask.sum(1).float()
    returns_var = masked_var(rollout.returns, mask)
    return {
        "score": scores.mean(),
        "raw_score": raw_scores.mean(),
        "score_std": scores.std(correction=0),
        "score_min": scores.min(),
        "score_max": scores.max(),
        "kl": kl.mean(),
        "kl_k3": torch.where(mask, kl_k3(rollout.logprobs, rollout.ref_logprobs), 0.0).sum(1).mean(),
        "kl_coef": kl_coef,
        "non_score_reward": -kl_coef * kl.mean(),
        "rlhf_reward": scores.mean() - kl_coef * kl.mean(),
        "sampled_entropy": -torch.where(mask, rollout.logprobs, 0.0).sum(1).mean(),
        "ended": ended.float().mean(),
        "length": length.mean(),
        "length_min": length.min(),
        "length_max": length.max(),
        "value_mean": masked_mean(rollout.values, mask),
        "value_var": masked_var(rollout.values, mask),
        "return_mean": masked_mean(rollout.returns, mask),
        "return_var": returns_var,
        "explained_variance": 1 - masked_var(rollout.returns - rollout.values, mask) / returns_var,
        "advantage_mean": masked_mean(rollout.raw_advantages, mask),
        "advantage_std": masked_var(rollout.raw_advantages, mask).sqrt(),
    }
