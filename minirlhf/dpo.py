"""Direct losses: the same comparisons, no reward model, no sampling. `minirlhf dpo` trains with
them.

DPO (Rafailov et al. 2023) and what differs from it:

    IPO     a square in place of the log-sigmoid: the margin has a finite optimum
    KTO     one response at a time, good or bad, against a reference point that the batch estimates
    SimPO   no reference: the mean log-probability of a token is the reward, with a target margin
    ORPO    no reference: imitation of the chosen response, and the odds of the two
"""

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F

from minirlhf import data, model
from minirlhf.run import distributed
from minirlhf.run.compute import full_precision

# ---- the losses


@full_precision
def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta):  # (N,) x 4 -> scalar, stats
    """Equation 7: the mean of
    -log sigmoid(beta ((chosen - ref_chosen) - (rejected - ref_rejected))).

    All four are log-probabilities of whole responses, *summed* over tokens: an average would make
    beta depend on the length.
    """
    chosen_rewards = beta * (chosen - ref_chosen)
    rejected_rewards = beta * (rejected - ref_rejected)
    margin = chosen_rewards - rejected_rewards
    return -F.logsigmoid(margin).mean(), statistics(chosen_rewards, rejected_rewards)


@full_precision
def ipo_loss(chosen, rejected, ref_chosen, ref_rejected, tau):  # (N,) x 4 -> scalar, stats
    """Azar et al. 2024, equation 17: the mean of (h - 1 / (2 tau))^2, where h is the difference of
    the log ratios, chosen - ref_chosen and rejected - ref_rejected; sums over tokens, as in DPO.

    Where all labels agree, DPO pushes h up without end, and IPO stops at 1 / (2 tau). The implicit
    reward is tau times the log ratio.
    """
    chosen_ratios, rejected_ratios = chosen - ref_chosen, rejected - ref_rejected
    h = chosen_ratios - rejected_ratios
    stats = statistics(tau * chosen_ratios, tau * rejected_ratios)
    return ((h - 1 / (2 * tau)) ** 2).mean(), stats


@full_precision
def kto_loss(logprobs, ref_logprobs, desirable, kl, beta, undesirable_weight=1.0):
    # (N,) x 2, (N,) bool, scalar -> scalar, stats
    """Ethayarajh et al. 2024, equation 8: the mean of 1 - sigmoid(reward - beta kl) over desirable
    responses and of weight (1 - sigmoid(beta kl - reward)) over undesirable ones; the reward is
    beta (logprobs - ref_logprobs), and `kl` is `kto_reference_point`'s.

    Each response stands for itself: it needs a label, and no partner. The accuracy is the share on
    the right side of the reference point; the reward of a side without a response is 0.
    """
    rewards = beta * (logprobs - ref_logprobs)
    sign = torch.where(desirable, 1.0, -1.0)
    distance = sign * (rewards - beta * kl)
    weights = torch.where(desirable, 1.0, undesirable_weight)
    stats = {
        "chosen_reward": mean_over(rewards, desirable),
        "rejected_reward": mean_over(rewards, ~desirable),
        "accuracy": (distance > 0).float().mean(),
    }
    return (weights * torch.sigmoid(-distance)).mean(), stats


@full_precision
def kto_reference_point(logprobs, ref_logprobs):  # (N,) x 2 -> scalar, without gradient
    """The mean log ratio of responses after prompts that they do *not* belong to, and at least 0:
    an estimate of KL(policy || reference) that needs no sampling."""
    return (logprobs - ref_logprobs).mean().clamp(min=0).detach()


@full_precision
def simpo_loss(chosen, rejected, beta, gamma):  # (N,) x 2 -> scalar, stats
    """Meng et al. 2024, equation 6: the mean of -log sigmoid(beta (chosen - rejected) - gamma).

    Both are *means* over the tokens of a response, so that length is no advantage; nothing is
    subtracted from them, and gamma is the margin that is asked for.
    """
    stats = statistics(beta * chosen, beta * rejected)
    return -F.logsigmoid(beta * (chosen - rejected) - gamma).mean(), stats


@full_precision
def orpo_loss(chosen, rejected, lam):  # (N,) x 2 -> scalar, stats
    """Hong et al. 2024, equation 6: the mean of
    -chosen - lam log sigmoid(log_odds(chosen) - log_odds(rejected)).

    Both are means over the tokens of a response. The first term imitates the chosen response, which
    holds the policy where other losses have a reference.
    """
    rewards = log_odds(chosen), log_odds(rejected)
    loss = -chosen - lam * F.logsigmoid(rewards[0] - rewards[1])
    return loss.mean(), statistics(*rewards)


def log_odds(logprobs):  # (N,) -> (N,)
    """log(p / (1 - p)). In float32 1 - exp(x) is 0 from x > -6e-8 on, and -expm1(x) is not; p = 1
    itself has the odds of the nearest number below."""
    logprobs = logprobs.clamp(max=-torch.finfo(logprobs.dtype).tiny)
    return logprobs - torch.log(-torch.expm1(logprobs))


def statistics(chosen_rewards, rejected_rewards):  # (N,) x 2 -> {name: scalar}
    return {
        "chosen_reward": chosen_rewards.mean().detach(),
        "rejected_reward": rejected_rewards.mean().detach(),
        "accuracy": (chosen_rewards > rejected_rewards).float().mean(),
    }


def mean_over(x, mask):  # (N,), (N,) bool -> scalar
    """0 where the mask is empty."""
    return (torch.where(mask, x, 0.0).sum() / mask.sum().clamp(min=1)).detach()


class Method(NamedTuple):
    """One of these losses with its strengths."""

    name: str  # dpo, ipo, kto, simpo or orpo
    strength: float  # beta; tau of IPO, lam of ORPO
    gamma: float = 0.0
    undesirable_weight: float = 1.0

    @property
    def by_token(self):
        """Whether it takes means over tokens, and no reference."""
        return self.name in ("simpo", "orpo")

    def rewards(self, logprobs, ref_logprobs, lengths):  # (N,) x 3 -> (N,)
        """The implicit rewards of responses."""
        if self.name == "orpo":
            return log_odds(logprobs / lengths)
        if self.name == "simpo":
            return self.strength * (logprobs / lengths)
        return self.strength * (logprobs - ref_logprobs)


# ---- a batch


def accumulate(policy, reference, tokenizer, batch, method, microbatch_tokens):
    """Backpropagate the mean loss over a batch's strictly ordered pairs (KTO: over their sides, and
    over labelled responses). Each response goes through each trunk once, however many pairs it is
    in. Returns loss and stats as means over the batch."""
    encoded = [[data.encode(tokenizer, c.prompt, text) for text in c.responses] for c in batch]
    pairs = [record_pairs(record) for record in batch]
    sizes = [len(group) * max(len(example.tokens) for example in group) for group in encoded]
    if method.by_token:
        reference = None
    kl = 0.0
    if method.name == "kto":
        kl = estimate_kl(policy, reference, tokenizer, batch, microbatch_tokens)
    totals, sums = side_counts(pairs), {}
    for rows in data.own_microbatches(sizes, microbatch_tokens):
        groups = [encoded[row] for row in rows]
        responses = *response_logprobs(policy, reference, groups), response_lengths(groups)
        sides = pair_index(groups, [pairs[row] for row in rows], responses[0].device)
        loss, stats = method_loss(method, *responses, *sides, kl)
        shares = share_of(sides, totals)
        (loss * shares["loss"]).backward()
        for name, value in (stats | {"loss": loss.detach()}).items():
            sums[name] = sums.get(name, 0.0) + value * shares.get(name, shares["loss"])
    distributed.add_gradients(policy)
    sums = distributed.sums(sums)
    sums["margin"] = sums["chosen_reward"] - sums["rejected_reward"]
    return {name: float(value) for name, value in sums.items()}


def method_loss(method, logprobs, ref_logprobs, lengths, better, worse, kl):
    # (N,) x 3, (pairs,) x 2 (KTO: of each side as many as there are), scalar -> scalar, stats
    """The loss of a microbatch's responses. Sums become means for a loss that takes them."""
    strength = method.strength
    if method.name == "kto":
        both = torch.cat([better, worse])
        desirable = torch.arange(len(both), device=both.device) < len(better)
        weight = method.undesirable_weight
        return kto_loss(logprobs[both], ref_logprobs[both], desirable, kl, strength, weight)
    if method.by_token:
        means = logprobs / lengths.to(logprobs.device)
        if method.name == "simpo":
            return simpo_loss(means[better], means[worse], strength, method.gamma)
        return orpo_loss(means[better], means[worse], strength)
    loss = dpo_loss if method.name == "dpo" else ipo_loss
    sides = logprobs[better], logprobs[worse], ref_logprobs[better], ref_logprobs[worse]
    return loss(*sides, strength)


def record_pairs(record):
    """`ordered_pairs` of a Comparison; of a Labelled response a pair that lacks the other side."""
    if isinstance(record, data.Labelled):
        return [(0, None)] if record.label else [(None, 0)]
    return ordered_pairs(record.ranks)


def ordered_pairs(ranks):
    """[(better, worse)]: the strictly ordered pairs of responses, by their numbers."""
    pairs = itertools.permutations(range(len(ranks)), 2)
    return [(i, j) for i, j in pairs if ranks[i] < ranks[j]]


def side_counts(pairs):
    """(better ones, worse ones) in a batch, as many of both where no label stands alone."""
    sides = list(zip(*itertools.chain(*pairs), strict=True))
    return [sum(row is not None for row in side) for side in sides]


def share_of(sides, totals):
    """What a microbatch counts in the batch: {"loss": for means over all, and for each side}."""
    counts = [len(side) for side in sides]
    shares = [n / max(total, 1) for n, total in zip(counts, totals, strict=True)]
    loss = sum(counts) / sum(totals)
    return {"loss": loss, "chosen_reward": shares[0], "rejected_reward": shares[1]}


def response_logprobs(policy, reference, groups):  # lists of Examples -> (N,), (N,)
    """The summed log-probabilities of all responses, by policy and reference (None: zeros)."""
    examples = [example for group in groups for example in group]
    tokens, prompt_lengths, lengths = data.collate(examples)
    mask = model.response_mask(prompt_lengths, lengths, tokens.size(1))
    logprobs = model.logprobs(policy, tokens, mask)[0].sum(1)
    if reference is None:
        return logprobs, torch.zeros_like(logprobs)
    with torch.no_grad():
        ref_logprobs = model.logprobs(reference, tokens, mask)[0].sum(1)
    return logprobs, ref_logprobs


def response_lengths(groups):  # lists of Examples -> (N,)
    """The tokens of each response, the end token included."""
    examples = itertools.chain(*groups)
    return torch.tensor([len(example.tokens) - example.prompt_length for example in examples])


def pair_index(groups, pairs, device):  # -> (pairs,), (pairs,)
    """Where the better and the worse response of every pair stand among the responses of all
    groups; None has no place."""
    starts = list(itertools.accumulate(map(len, groups), initial=0))
    places = [
        [
            start + pair[side]
            for start, group_pairs in zip(starts[:-1], pairs, strict=True)
            for pair in group_pairs
            if pair[side] is not None
        ]
        for side in (0, 1)
    ]
    better, worse = (torch.tensor(side, dtype=torch.long, device=device) for side in places)
    return better, worse


# ---- KTO's reference point


def estimate_kl(policy, reference, tokenizer, batch, microbatch_tokens):  # -> scalar
    """`kto_reference_point` of a batch; 0 where it has a single prompt, or nothing fits."""
    examples = mismatched(tokenizer, batch, policy.config.context)
    if not examples:
        return 0.0
    sizes, parts = [len(example.tokens) for example in examples], []
    with torch.no_grad():
        for rows in data.own_microbatches(sizes, microbatch_tokens):
            groups = [[examples[row]] for row in rows]
            parts.append(response_logprobs(policy, reference, groups))
    parts = distributed.gathered(list(map(torch.stack, parts)))
    return kto_reference_point(*torch.cat(parts, dim=1))


def mismatched(tokenizer, batch, context):
    """The responses of a batch, each after the next other prompt of the batch, as Examples; without
    those that do not fit. The shift is by prompt: by response, it would pair most of a prompt's
    responses with their own prompt."""
    prompts = list(dict.fromkeys(record.prompt for record in batch))
    if len(prompts) < 2:
        return []
    following = dict(zip(prompts, prompts[1:] + prompts[:1], strict=True))
    examples = [
        data.encode(tokenizer, following[record.prompt], text)
        for record in batch
        for text in record.responses
    ]
    return [example for example in examples if len(example.tokens) <= context]
