"""Direct preference optimisation (Rafailov et al. 2023): the same comparisons, no reward model, no
sampling. `minirlhf dpo` trains with it."""

import itertools

import torch
import torch.nn.functional as F

from minirlhf import data, model
from minirlhf.run.compute import full_precision


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
    stats = {
        "chosen_reward": chosen_rewards.mean().detach(),
        "rejected_reward": rejected_rewards.mean().detach(),
        "accuracy": (margin > 0).float().mean(),
    }
    return -F.logsigmoid(margin).mean(), stats


def accumulate(policy, reference, tokenizer, batch, beta, microbatch_tokens):
    """Backpropagate the mean loss over a batch's strictly ordered pairs. Each response goes through
    each trunk once, however many pairs it is in. Returns loss and stats as means over the pairs."""
    encoded = [[data.encode(tokenizer, c.prompt, text) for text in c.responses] for c in batch]
    pairs = [ordered_pairs(comparison.ranks) for comparison in batch]
    sizes = [len(group) * max(len(example.tokens) for example in group) for group in encoded]
    total, sums = sum(map(len, pairs)), {}
    for rows in data.microbatches(sizes, microbatch_tokens):
        groups = [encoded[row] for row in rows]
        logprobs, ref_logprobs = response_logprobs(policy, reference, groups)
        better, worse = pair_index(groups, [pairs[row] for row in rows], logprobs.device)
        loss, stats = dpo_loss(
            logprobs[better], logprobs[worse], ref_logprobs[better], ref_logprobs[worse], beta
        )
        share = len(better) / total
        (loss * share).backward()
        for name, value in (stats | {"loss": loss.detach()}).items():
            sums[name] = sums.get(name, 0.0) + value * share
    return {name: float(value) for name, value in sums.items()}


def ordered_pairs(ranks):
    """[(better, worse)]: the strictly ordered pairs of responses, by their numbers."""
    pairs = itertools.permutations(range(len(ranks)), 2)
    return [(i, j) for i, j in pairs if ranks[i] < ranks[j]]


def response_logprobs(policy, reference, groups):  # lists of Examples -> (N,), (N,)
    """The summed log-probabilities of all responses, by policy and reference."""
    examples = [example for group in groups for example in group]
    tokens, prompt_lengths, lengths = data.collate(examples)
    mask = model.response_mask(prompt_lengths, lengths, tokens.size(1))
    logprobs = model.logprobs(policy, tokens, mask)[0].sum(1)
    with torch.no_grad():
        ref_logprobs = model.logprobs(reference, tokens, mask)[0].sum(1)
    return logprobs, ref_logprobs


def pair_index(groups, pairs, device):  # -> (pairs,), (pairs,)
    """Where the better and the worse response of every pair stand among the responses of all
    groups."""
    starts = list(itertools.accumulate(map(len, groups), initial=0))
    index = [
        (start + better, start + worse)
        for start, group_pairs in zip(starts[:-1], pairs, strict=True)
        for better, worse in group_pairs
    ]
    better, worse = torch.tensor(index, device=device).T
    return better, worse
