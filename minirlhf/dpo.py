"""Direct preference optimisation (Rafailov et al. 2023): the same comparisons, no reward model, no
sampling. `minirlhf dpo` trains with it."""

import itertools

import torch
import torch.nn.functional as F

from minirlhf import data, model


def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta):  # (N,) x 4 -> scalar, stats
    """Equation 7: the mean of -log sigmoid(beta ((chosen - ref_chosen) - (rejected - ref_rejected))).

    All four are log-probabilities of whole responses, *summed* over tokens: an average would make beta depend on the length.
    """
    chosen_rewards, rejected_rewards = (
        beta * (chosen - ref_chosen),
        beta * (rejected - ref_rejected),
    )
    margin = chosen_rewards - rejected_rewards
    stats = {
        "chosen_reward": chosen_rewards.mean().detach(),
        "rejected_reward": rejected_rewards.mean().detach(),
        "accuracy": (margin > 0).float().mean(),
    }
    return -F.logsigmoid(margin).mean(), stats


def accumulate(policy, reference, tok, batch, beta, microbatch_tokens):
    """Backpropagate the mean loss over a batch's strictly ordered pairs. Each response goes through a trunk once, however many
    pairs it is in. Returns loss and stats as means over the pairs."""
    encoded = [[data.encode(tok, c.prompt, response) for response in c.responses] for c in batch]
    pairs = [
        [
            (i, j)
            for i, j in itertools.permutations(range(len(c.ranks)), 2)
            if c.ranks[i] < c.ranks[j]
        ]
        for c in batch
    ]
    total = sum(map(len, pairs))
    sums = {}
    for rows in data.microbatches(
        [len(g) * max(len(e.tokens) for e in g) for g in encoded], microbatch_tokens
    ):
        groups = [encoded[row] for row in rows], [pairs[row] for row in rows]
        logprobs, ref_logprobs, better, worse = pair_logprobs(policy, reference, *groups)
        loss, stats = dpo_loss(
            logprobs[better], logprobs[worse], ref_logprobs[better], ref_logprobs[worse], beta
        )
        share = len(better) / total
        (loss * share).backward()
        for name, value in (stats | {"loss": loss.detach()}).items():
            sums[name] = sums.get(name, 0.0) + value * share
    return {name: float(value) for name, value in sums.items()}


def pair_logprobs(policy, reference, groups, pairs):
    """Summed log-probabilities of all responses by policy and reference; the indices of each pair's better and worse one."""
    tokens, prompt_lengths, lengths = data.collate(
        [example for group in groups for example in group]
    )
    mask = model.response_mask(prompt_lengths, lengths, tokens.size(1))
    logprobs = model.logprobs(policy, tokens, mask)[0].sum(1)
    with torch.no_grad():
        ref_logprobs = model.logprobs(reference, tokens, mask)[0].sum(1)
    starts = itertools.accumulate(map(len, groups), initial=0)
    flat = [
        (start + i, start + j) for start, own in zip(starts, pairs, strict=False) for i, j in own
    ]
    better, worse = torch.tensor(flat, device=logprobs.device).T
    return logprobs, ref_logprobs, better, worse
