"""Policy gradients without a critic: RLOO (Ahmadian et al. 2024), GRPO (Shao et al. 2024), Dr. GRPO
(Liu et al. 2025), and the token mean of DAPO (Yu et al. 2025).

PPO learns a value function, to know what a response was expected to earn. Here a prompt has a group
of G responses, and the others say that. So there are no values, no GAE and no whitening: a token
has the advantage of its response. `iterate` and `update` are those of train_ppo.py and ppo.py
without the critic. The methods differ in three things:

              baseline             scale    weight of a token
    rloo      mean of the others   1        1 / B
    grpo      mean of the group    std      1 / (B n)
    dr-grpo   mean of the group    1        1 / (B max_new_tokens)
    dapo      mean of the group    std      1 / tokens of all B

(B is the number of responses of a minibatch, n that of the tokens of this one.)

The return of a response is its score - kl_coef * KL, as in PPO. Published GRPO has no KL there but
k3 in the loss, the gradient of another divergence (docs/experiments.md). DAPO's other parts (new
draws for groups of equal scores, a wider upper clip, a penalty for length) are not here.
"""

import itertools

import torch
from torch import nn

from minirlhf import model, ppo
from minirlhf.run import config, distributed
from minirlhf.run.compute import full_precision
from minirlhf.run.config import InputError
from minirlhf.run.metrics import Clock

ALGORITHMS = ("rloo", "grpo", "dr-grpo", "dapo")
# Flags of train_ppo.py that a method without a critic has no use for.
CRITIC_FLAGS = ("critic", "value_head_rate", "value_clip", "vf_coef", "gamma", "lam", "credit")
STD_EPS = 1e-4  # TRL's; with 1e-9, the rounding of equal scores would become an advantage of 1.5


class Policy(nn.Module):
    """The policy in the place of ppo.ActorCritic. Its values are 0, and its value head is empty."""

    def __init__(self, gpt):
        super().__init__()
        self.gpt, self.value_head, self.critic = gpt, nn.Sequential(), None

    def forward(self, tokens, mask, temperature=1.0):
        # (B, T), (B, T-1) -> logprobs, values, entropy, each (B, T-1)
        logprobs, entropy = model.logprobs(self.gpt, tokens, mask, temperature)
        return logprobs, torch.zeros_like(logprobs), entropy


@full_precision
def group_advantages(returns, algorithm):  # (N, G) -> (N, G)
    """How much better each response is than its group: a row holds the returns of the G responses
    to one prompt. The standard deviation divides by G - 1."""
    mean, others = returns.mean(1, keepdim=True), returns.size(1) - 1
    baseline = (returns.sum(1, keepdim=True) - returns) / others if algorithm == "rloo" else mean
    scale = returns.std(1, keepdim=True) + STD_EPS if algorithm in ("grpo", "dapo") else 1.0
    return (returns - baseline) / scale


def token_weights(lengths, algorithm, max_new_tokens):  # (B,) -> (B,)
    """The weight of each token of a response in the loss of a minibatch, whose responses have
    `lengths` tokens. With 1 / n, a token of a long response counts less."""
    B, ones = len(lengths), torch.ones(len(lengths))
    weights = {
        "rloo": ones / B,
        "grpo": ones / (B * lengths),
        "dr-grpo": ones / (B * max_new_tokens),
        "dapo": ones / lengths.sum(),
    }
    return weights[algorithm]


def iterate(sample, args, models, optimizer, controller, prompts, step):
    """train_ppo.iterate without a critic, on prompts that each stand --group times in a row.
    Returns its metrics and its rollout. `sample` is train_ppo.sample."""
    policy, clock = models.actor_critic, Clock()
    samples, replies = sample(args, policy.gpt, models.tokenizer, prompts, step)
    clock.lap("rollout_s")
    raw_scores = models.score(prompts, replies).to(samples.tokens.device)
    scores = ppo.missing_end_rule(raw_scores, samples.ended, models.missing_end_score)

    shuffle = config.rng(args.seed, config.MINIBATCHES, step)
    plan = ppo.plan(
        samples.lengths.tolist(), args.epochs, args.minibatches, args.microbatch_tokens, shuffle
    )
    logprobs, ref_logprobs, values = ppo.logprobs_and_values(
        policy, models.reference, samples, plan[0], args.temperature
    )
    # The return of each response, and how much better it is than its group.
    mask, kl_coef = samples.mask.to(samples.tokens.device), controller.kl_coef
    rewards = ppo.token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef)
    returns = rewards.sum(1)  # (B,)
    advantages = group_advantages(returns.view(-1, args.group), args.algorithm).view(-1, 1)
    returns, advantages = (torch.where(mask, x, 0.0) for x in (returns[:, None], advantages))
    # Nothing is whitened: the raw advantages are the advantages. The rows of a group may fall into
    # different minibatches from here on.
    rollout = ppo.Rollout(
        samples, mask, logprobs, ref_logprobs, values, rewards, advantages, advantages, returns
    )
    stats = rollout_stats(rollout, raw_scores, scores, samples.ended, kl_coef, args.group)
    clock.lap("scoring_s")

    flags = args.temperature, args.clip, args.max_grad_norm
    stats |= update(policy, optimizer, rollout, plan, args.algorithm, args.max_new_tokens, *flags)
    stats = {name: float(x) for name, x in stats.items()}
    controller.update(stats["kl"], len(prompts))
    clock.lap("update_s")
    stats |= clock.seconds | {"tokens_per_s": int(samples.lengths.sum()) / clock.total()}
    return stats, rollout


def update(
    policy,
    optimizer,
    rollout,
    plan,
    algorithm,
    max_new_tokens,
    temperature=1.0,
    clip=0.2,
    max_grad_norm=1.0,
):
    """`ppo.update` without a value loss. The loss of a minibatch is the sum over its tokens of
    weight x clipped surrogate. The surrogate of c A is c times that of A for a positive c, so the
    weight multiplies the advantage, and the sum is divided by nothing more (tokens=1)."""
    parts, token_counts, norms = [], [], []
    response_lengths = rollout.samples.lengths - rollout.samples.prompt_lengths  # (B,), on the CPU
    for minibatch in itertools.chain.from_iterable(plan):  # an optimiser step
        order = list(itertools.chain.from_iterable(minibatch))
        minibatch_tokens = rollout.response_tokens(order)
        weights = torch.zeros(len(response_lengths))
        weights[order] = token_weights(response_lengths[order], algorithm, max_new_tokens)
        for rows in distributed.own(minibatch):  # a microbatch: gradients add up
            batch = rollout.select(rows)
            tokens, mask = batch.samples.tokens, batch.samples.mask  # mask on the CPU
            logprobs, _, entropy = policy(tokens, mask, temperature)
            weighted = batch.advantages * weights[rows, None].to(tokens.device)
            loss, stats = ppo.policy_loss(
                logprobs, batch.logprobs, weighted, batch.mask, clip, tokens=1
            )
            loss.backward()
            losses = {"policy_loss": loss, "loss": loss}
            parts.append(ppo.microbatch_stats(batch, losses, minibatch_tokens, entropy) | stats)
            token_counts.append(rollout.response_tokens(rows))
        norms.append({"grad_norm": ppo.step(policy, optimizer, max_grad_norm)["grad_norm"]})
    parts, token_counts = map(distributed.gathered, (parts, token_counts))
    return ppo.merge(parts, token_counts) | ppo.merge(norms, [1] * len(norms))


def rollout_stats(rollout, raw_scores, scores, ended, kl_coef, group):
    """`ppo.rollout_stats` without what is about values, and the share of groups whose scores are
    all equal: only the KL tells their responses apart."""
    stats = ppo.rollout_stats(rollout, raw_scores, scores, ended, kl_coef)
    about_values = "value_mean", "value_var", "return_mean", "return_var", "explained_variance"
    stats = {name: x for name, x in stats.items() if name not in about_values}
    spread = scores.view(-1, group).max(1).values - scores.view(-1, group).min(1).values
    return stats | {"equal_groups": (spread == 0).float().mean()}


def check_flags(args, defaults):
    """Refuses flags of train_ppo.py that its --algorithm does not read."""
    if args.algorithm == "ppo":
        if args.group != defaults.group:
            raise InputError(f"--group {args.group} needs --algorithm {', '.join(ALGORITHMS)}")
        return
    for name in CRITIC_FLAGS:
        if getattr(args, name) != getattr(defaults, name):
            problem = f"--{name.replace('_', '-')} is about PPO's critic, and --algorithm"
            raise InputError(f"{problem} {args.algorithm} has none; leave it out")
    if args.batch_size % args.group:
        problem = f"--batch-size {args.batch_size} must be a multiple of"
        raise InputError(f"{problem} --group {args.group}")
