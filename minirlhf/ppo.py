"""PPO for language models in one file (Schulman et al. 2017; Ziegler et al. 2019, section 2.2).

A response is an episode, a token is an action. The reward model gives one score, at the last token;
at every token the policy pays for leaving the reference. In the order of the method: value head,
rewards, advantages, losses, KL control, rollout, update, metrics.

Every per-token tensor is (B, T-1): column t is about choosing tokens[:, t+1] having seen
tokens[:, :t+1], and values[:, t] is the value of that state, before the token. `mask` is True where
the chosen token belongs to the response, the end token included. Results are zero elsewhere, and
nothing that stands there reaches a loss, a gradient or a metric.
"""

import copy
import dataclasses
import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from minirlhf.data import dealt
from minirlhf.fast import to_device
from minirlhf.generate import Samples
from minirlhf.model import ScalarHead, logprobs_of_hidden
from minirlhf.model import logprobs as model_logprobs
from minirlhf.run import distributed
from minirlhf.run.compute import full_precision


class ActorCritic(nn.Module):
    """The policy and the value function.

    By default they share a trunk, and the value head starts at zero. With `reward_model`, the value
    function has a trunk of its own, `critic`, and starts as the reward model (InstructGPT), whose
    normalisation is folded into the head.
    """

    def __init__(self, gpt, reward_model=None):
        super().__init__()
        self.gpt = gpt
        self.value_head = ScalarHead(gpt.config.width, std=0.0)
        self.critic = copy.deepcopy(reward_model.gpt).requires_grad_() if reward_model else None
        if reward_model:
            weight = reward_model.head.weight / reward_model.std
            bias = (reward_model.head.bias - reward_model.mean) / reward_model.std
            self.value_head.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, tokens, mask, temperature=1.0):
        # (B, T), (B, T-1) -> logprobs, values, entropy, each (B, T-1)
        wanted = F.pad(mask, (0, 1))  # (B, T): column t of the mask reads the state of token t
        hidden = self.gpt.hidden(tokens, wanted=wanted)  # (B, T, C)
        logprobs, entropy = logprobs_of_hidden(self.gpt, hidden, tokens, mask, temperature)
        states = self.critic.hidden(tokens, wanted=wanted) if self.critic else hidden
        values = self.value_head(states[:, :-1])  # (B, T-1)
        return logprobs, torch.where(to_device(mask, values.device), values, 0.0), entropy


# ---- masked statistics


def masked_mean(x, mask):  # (...), (...) bool -> scalar
    """The mean over the True entries, NaN if there are none. What stands in the others, even NaN,
    does not matter."""
    return torch.where(mask, x, 0.0).sum() / mask.sum()


def masked_var(x, mask):  # (...), (...) bool -> scalar, biased
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask)


@full_precision
def whiten(x, mask, shift_mean=True):  # (B, T-1), (B, T-1) -> (B, T-1)
    """Scaled to unit variance (biased, eps 1e-8) over the mask, zero outside. The mean becomes 0,
    or stays what it was if not `shift_mean`."""
    mean = masked_mean(x, mask)
    new_mean = 0.0 if shift_mean else mean
    whitened = (x - mean) * torch.rsqrt(masked_var(x, mask) + 1e-8) + new_mean
    return torch.where(mask, whitened, 0.0)


# ---- rewards and advantages


def missing_end_rule(scores, ended, missing_end_score):  # (B,), (B,) bool -> (B,)
    """A response that was cut off gets a fixed, low score *instead of* its own: nothing good can be
    won by not stopping."""
    return torch.where(ended, scores, missing_end_score)


@full_precision
def kl_k3(logprobs, ref_logprobs):  # (...) x 2 -> (...)
    """Schulman's k3 estimator of KL(policy || reference): r - 1 - log r, r = reference / policy.

    It is never negative, so it reads well. It is only logged: as a reward its gradient is not that
    of the KL (a token that is rarer under the policy than under the reference would become rarer
    still).
    """
    log_r = ref_logprobs - logprobs
    return log_r.expm1() - log_r  # exp() - 1 would lose the digits of a small log r


@full_precision
def token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef):
    # (B,), (B, T-1) x 3 -> (B, T-1)
    """-kl_coef (log policy - log reference) at every response token, plus the score at the last.

    This is k1, not clamped: a token that the policy made rarer than the reference earns a bonus,
    which pulls it back. ValueError if a row has no response token.
    """
    if not mask.any(dim=1).all():
        raise ValueError("a response without a token cannot be rewarded")
    rewards = torch.where(mask, -kl_coef * (logprobs - ref_logprobs), 0.0)
    columns = torch.arange(mask.size(1), device=mask.device)
    last = torch.where(mask, columns, -1).argmax(dim=1, keepdim=True)  # (B, 1)
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


@full_precision
def gae(rewards, values, mask, gamma=1.0, lam=0.95):
    # (B, T-1) x 3 -> advantages, returns, each (B, T-1)
    """Generalised advantage estimation (Schulman et al. 2016, equation 16): sums of
    (gamma lam)^k delta_{t+k}, where delta_t = r_t + gamma V_{t+1} - V_t. The value after the last
    response token is 0: the episode is over. So is the value after a hole in the mask.

    Neither result is whitened: returns = advantages + values are the value function's targets.
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


@full_precision
def policy_loss(logprobs, old_logprobs, advantages, mask, clip=0.2, tokens=None):
    # (B, T-1) x 4 -> scalar, stats
    """The clipped surrogate (Schulman et al. 2017, equation 7): the sum over the mask of
    max(-A ratio, -A clip(ratio, 1 - clip, 1 + clip)), divided by `tokens`, by default the number of
    tokens in the mask.

    Splitting a minibatch does not change its gradient if each part is given the *minibatch's*
    number of tokens.
    """
    tokens = mask.sum() if tokens is None else tokens
    # Masked before exp: what is outside must not overflow.
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)
    advantages = torch.where(mask, advantages, 0.0)
    # exp overflows at 88.7. Where A >= 0, a ratio is cut at 1 + clip anyway, and e^80 will do.
    ratio = torch.where(advantages < 0, log_ratio, log_ratio.clamp(max=80)).exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    loss = torch.maximum(unclipped, clipped).sum() / tokens
    with torch.no_grad():
        stats = {
            "approx_kl": masked_mean(log_ratio**2 / 2, mask),
            "approx_kl_k3": masked_mean(log_ratio.expm1() - log_ratio, mask),
            "clip_fraction": masked_mean((clipped > unclipped).float(), mask),
            "ratio_mean": masked_mean(ratio, mask),
            "ratio_var": masked_var(ratio, mask),
            "ratio_min": torch.where(mask, ratio, torch.inf).min(),
            "ratio_max": torch.where(mask, ratio, -torch.inf).max(),
        }
    return loss, stats


@full_precision
def value_loss(values, old_values, returns, mask, clip=0.2, tokens=None):
    # (B, T-1) x 4 -> scalar, stats
    """Half the larger of two squared errors: that of the value, and that of the value clipped to
    the old value +- `clip` (Ziegler et al.'s code). The sum over the mask is divided by `tokens`,
    as in `policy_loss`."""
    tokens = mask.sum() if tokens is None else tokens
    clipped_values = values.clamp(old_values - clip, old_values + clip)
    unclipped = torch.where(mask, values - returns, 0.0) ** 2  # masked first: NaN times 0 is NaN
    clipped = torch.where(mask, clipped_values - returns, 0.0) ** 2
    loss = 0.5 * torch.maximum(unclipped, clipped).sum() / tokens
    with torch.no_grad():
        stats = {
            "value_clip_fraction": masked_mean((clipped > unclipped).float(), mask),
            "value_error": masked_mean(unclipped, mask),
        }
    return loss, stats


# ---- KL control


class AdaptiveKL:
    """Moves kl_coef so that the KL (nats per response) comes to `target` (Ziegler et al. 2019,
    section 2.2): kl_coef *= 1 + clip(kl / target - 1, -0.2, 0.2) * episodes / horizon. More
    episodes than the horizon count as the horizon: kl_coef stays positive. A target of 0 leaves it
    unchanged, and so does a KL that is NaN."""

    def __init__(self, kl_coef, target, horizon):
        self.kl_coef, self.target, self.horizon = kl_coef, target, horizon

    def update(self, kl, episodes):
        """Once a rollout, after the update, with its mean KL and number of responses. Returns the
        new kl_coef."""
        if self.target and not math.isnan(kl):
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.kl_coef *= 1 + error * min(episodes, self.horizon) / self.horizon
        return self.kl_coef


# ---- the rollout


@dataclass(frozen=True)
class Rollout:
    """Sampled responses and what is to be learned from them. Nothing in it has a gradient.

    Everything per token is (B, T-1). The lengths are on the CPU, where microbatches are planned.
    """

    samples: Samples
    mask: torch.Tensor
    logprobs: torch.Tensor  # of the policy that sampled
    ref_logprobs: torch.Tensor
    values: torch.Tensor
    rewards: torch.Tensor
    raw_advantages: torch.Tensor  # not whitened
    advantages: torch.Tensor  # whitened once, over the whole rollout
    returns: torch.Tensor

    def select(self, rows):  # list of row numbers -> Rollout
        """Some rows, with as many columns as the longest of them needs."""
        samples = select_rows(self.samples, rows)
        index = row_index(rows, self.mask.device)
        columns = samples.tokens.size(1) - 1
        fields = dataclasses.fields(self)[1:]
        per_token = {field.name: getattr(self, field.name)[index, :columns] for field in fields}
        return Rollout(samples, **per_token)

    def response_tokens(self, rows):  # list of row numbers -> int
        """How many response tokens some rows have."""
        return int((self.samples.lengths[rows] - self.samples.prompt_lengths[rows]).sum())


def select_rows(samples, rows):  # Samples, list of row numbers -> Samples
    """Some rows, with as many columns as the longest of them needs."""
    index = row_index(rows, samples.tokens.device)
    columns = int(samples.lengths[rows].max())
    tokens = samples.tokens[index, :columns]
    spans = samples.prompt_lengths[rows], samples.lengths[rows]  # on the CPU, unlike the others
    return Samples(tokens, *spans, samples.ended[index])


def row_index(rows, device):
    """Row numbers as an index tensor. A list as an index would make the CPU wait for a GPU."""
    return to_device(torch.tensor(rows, device="cpu"), device)


def plan(lengths, epochs, minibatches, microbatch_tokens, rng):
    """Which rows each optimiser step takes: [epoch][minibatch][microbatch] -> row numbers.

    A minibatch is a random subset, always: sorting would change the objective. Inside it rows of
    similar length go together. `lengths` is a list.
    """
    epoch_plans = []
    for _ in range(epochs):
        order = torch.from_numpy(rng.permutation(len(lengths)))
        subsets = [subset.tolist() for subset in order.tensor_split(minibatches)]
        epoch_plans.append(
            [to_microbatches(subset, lengths, microbatch_tokens) for subset in subsets]
        )
    return epoch_plans


def to_microbatches(rows, lengths, microbatch_tokens):
    """Row numbers of a minibatch -> those of its microbatches."""
    groups = dealt([lengths[row] for row in rows], microbatch_tokens)
    return [[rows[i] for i in group] for group in groups]


@torch.no_grad()
def logprobs_and_values(actor_critic, reference, samples, first_epoch, temperature=1.0):
    # -> logprobs, ref_logprobs, values, each (B, T-1)
    """Log-probabilities by policy and reference, and values, of sampled responses.

    The policy's come from the microbatches of the first epoch, so that the first ratios are 1.
    """
    B, T = samples.tokens.shape
    logprobs, ref_logprobs, values = torch.zeros(3, B, T - 1, device=samples.tokens.device)
    for rows in itertools.chain.from_iterable(map(distributed.own, first_epoch)):
        batch = select_rows(samples, rows)
        policy_logprobs, row_values, _ = actor_critic(batch.tokens, batch.mask, temperature)
        reference_logprobs, _ = model_logprobs(reference, batch.tokens, batch.mask, temperature)
        index, columns = row_index(rows, samples.tokens.device), batch.mask.size(1)
        logprobs[index, :columns] = policy_logprobs
        ref_logprobs[index, :columns] = reference_logprobs
        values[index, :columns] = row_values
    return tuple(map(distributed.total, (logprobs, ref_logprobs, values)))


# ---- the update


def update(
    actor_critic,
    optimizer,
    rollout,
    plan,
    temperature=1.0,
    clip=0.2,
    value_clip=0.2,
    vf_coef=0.1,
    max_grad_norm=1.0,
    auxiliary_loss=None,
):
    """Optimise over a `plan`: one optimiser step per minibatch, whose gradient does not depend on
    its microbatches. `auxiliary_loss()` adds another gradient before each step, and returns its
    statistics. Returns the statistics of the whole update, over response tokens only, as tensors
    (reading them makes the CPU wait for a GPU)."""
    parts, token_counts, norms = [], [], []
    for minibatches in plan:  # an epoch
        for minibatch in minibatches:  # an optimiser step
            minibatch_tokens = sum(rollout.response_tokens(rows) for rows in minibatch)
            for rows in distributed.own(minibatch):  # a microbatch: gradients add up
                batch = rollout.select(rows)
                tokens, mask = batch.samples.tokens, batch.samples.mask  # mask on the CPU
                logprobs, values, entropy = actor_critic(tokens, mask, temperature)
                pg_loss, pg_stats = policy_loss(
                    logprobs, batch.logprobs, batch.advantages, batch.mask, clip, minibatch_tokens
                )
                vf_loss, vf_stats = value_loss(
                    values, batch.values, batch.returns, batch.mask, value_clip, minibatch_tokens
                )
                loss = pg_loss + vf_coef * vf_loss
                loss.backward()

                losses = {"policy_loss": pg_loss, "value_loss": vf_loss, "loss": loss}
                stats = microbatch_stats(batch, losses, minibatch_tokens, entropy)
                parts.append(stats | pg_stats | vf_stats)
                token_counts.append(rollout.response_tokens(rows))
            others = auxiliary_loss() if auxiliary_loss else {}
            norms.append(step(actor_critic, optimizer, max_grad_norm) | others)
    parts, token_counts = map(distributed.gathered, (parts, token_counts))
    return merge(parts, token_counts) | merge(norms, [1] * len(norms))


def step(actor_critic, optimizer, max_grad_norm):
    """One optimiser step. Returns the gradient norms before clipping."""
    distributed.add_gradients(actor_critic)
    # The critic is the value head, and its trunk where it has one of its own.
    critic = [p for name, p in actor_critic.named_parameters() if not name.startswith("gpt.")]
    critic_norm = torch.nn.utils.get_total_norm([p.grad for p in critic if p.requires_grad])
    norm = torch.nn.utils.clip_grad_norm_(actor_critic.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return {"grad_norm": norm, "critic_grad_norm": critic_norm}


# ---- metrics


@torch.no_grad()
def microbatch_stats(batch, losses, minibatch_tokens, entropy):
    """The losses as means over the microbatch's own tokens, and the mean entropy."""
    scale = minibatch_tokens / batch.mask.sum()  # the losses are divided by the minibatch's tokens
    means = {name: scale * loss for name, loss in losses.items()}
    return means | {"entropy": masked_mean(entropy, batch.mask)}


def merge(parts, token_counts):  # n dictionaries, n numbers -> dictionary
    """The statistics of all tokens from those of the microbatches: means weighted by their tokens,
    the variance within parts and between them, the least and the largest."""
    weights = torch.tensor(token_counts, dtype=torch.float32, device="cpu")
    columns = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    weights = to_device(weights / weights.sum(), next(iter(columns.values())).device)
    merged = {name: (weights * x).sum() for name, x in columns.items()}
    if "ratio_mean" in merged:
        between = (weights * (columns["ratio_mean"] - merged["ratio_mean"]) ** 2).sum()
        merged["ratio_var"] = merged["ratio_var"] + between
        merged["ratio_min"] = columns["ratio_min"].min()
        merged["ratio_max"] = columns["ratio_max"].max()
    return merged


def explained_variance(values, returns, mask):  # (B, T-1) x 3 -> scalar
    """1 - var(returns - values) / var(returns); 0 where the returns are constant up to rounding, as
    there is nothing to explain."""
    variance = masked_var(returns, mask)
    explained = 1 - masked_var(returns - values, mask) / variance
    rounding = 1e-11 * masked_mean(returns**2 + values**2, mask)
    return torch.where(variance <= rounding, 0.0, explained)


@torch.no_grad()
def rollout_stats(rollout, raw_scores, scores, ended, kl_coef):
    """What was sampled, before learning from it. KL, its k3 and the sampled entropy are sums over a
    response, averaged over responses; statistics of values, returns and advantages are over
    tokens."""
    mask = rollout.mask
    kl = torch.where(mask, rollout.logprobs - rollout.ref_logprobs, 0.0).sum(1)  # (B,)
    k3 = torch.where(mask, kl_k3(rollout.logprobs, rollout.ref_logprobs), 0.0).sum(1)  # (B,)
    length = mask.sum(1).float()
    return {
        "score": scores.mean(),
        "raw_score": raw_scores.mean(),
        "score_std": scores.std(correction=0),
        "score_min": scores.min(),
        "score_max": scores.max(),
        "kl": kl.mean(),
        "kl_k3": k3.mean(),
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
        "return_var": masked_var(rollout.returns, mask),
        "explained_variance": explained_variance(rollout.values, rollout.returns, mask),
        "advantage_mean": masked_mean(rollout.raw_advantages, mask),
        "advantage_std": masked_var(rollout.raw_advantages, mask).sqrt(),
    }
