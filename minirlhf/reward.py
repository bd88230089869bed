"""The reward model: the SFT model's trunk and one number, read at the last real token, trained on
what people preferred.

Ziegler et al. 2019, section 2; Stiennon et al. 2020; the ranking loss is InstructGPT's (Ouyang et
al. 2022, equation 1).
"""

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from minirlhf import lora
from minirlhf.data import collate, encode, own_microbatches
from minirlhf.model import ScalarHead
from minirlhf.run import checkpoint, distributed
from minirlhf.run.compute import full_precision, pick_microbatch
from minirlhf.run.config import InputError


class RewardModel(nn.Module):
    """Copies the trunk of `gpt`. `raw` is for training and calibration; calling the model gives
    normalised scores, which PPO uses."""

    def __init__(self, gpt):
        super().__init__()
        self.gpt = copy.deepcopy(gpt)
        self.head = ScalarHead(gpt.config.width, std=1 / math.sqrt(gpt.config.width + 1))
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))

    def raw(self, tokens, lengths):  # (B, T), (B,) -> (B,)
        """The score at the last real token, which is the end token of a finished response. What
        lies right of it changes nothing."""
        return self.head(self.features(tokens, lengths))

    def features(self, tokens, lengths):  # (B, T), (B,) -> (B, C)
        """The trunk's state at the last real token."""
        B, T = tokens.shape
        last = torch.arange(T, device=tokens.device) == lengths[:, None] - 1  # (B, T)
        hidden = self.gpt.hidden(tokens, wanted=last)  # (B, T, C)
        return hidden[torch.arange(B, device=tokens.device), lengths - 1]

    def forward(self, tokens, lengths):  # (B, T), (B,) -> (B,)
        """Normalised: mean 0 over the SFT model's responses, and a standard deviation of 1 between
        responses to one prompt."""
        return (self.raw(tokens, lengths) - self.mean) / self.std

    def normalise(self, scores):  # (N, K) raw scores of K sampled responses to each of N prompts
        """Store the mean, and as the standard deviation the root of the mean variance *within* a
        prompt. PPO can only move a score within its prompt, so this is the unit of kl_coef and of
        the missing-end score. It cannot change a preference."""
        self.mean.copy_(scores.mean())
        self.std.copy_(scores.var(dim=1, correction=1).mean().sqrt().clamp(min=1e-6))


# ---- losses


@full_precision
def preference_loss(chosen, rejected, margin=0.0):  # (N,), (N,) -> scalar
    """Bradley-Terry: the mean of -log sigmoid(chosen - rejected - margin) on raw scores. `margin`,
    a number or (N,), is Llama 2's. For K = 2, `ranking_loss` equals it; training uses that."""
    return -F.logsigmoid(chosen - rejected - margin).mean()


@full_precision
def ranking_loss(scores, ranks, margins=0.0):  # (B, K), (B, K) -> scalar
    """InstructGPT's equation 1: the mean over prompts of the mean preference loss over a prompt's
    strictly ordered pairs.

    Rank 0 is best; equal ranks tie and form no pair; a negative rank says that there is no such
    response. A prompt without a pair is left out of the mean; without any pair the loss is 0.
    Every prompt weighs the same, however many responses it has. `margins`, a number or (B, K, K),
    is by how much the first of two has to win.
    """
    ordered = pair_mask(ranks)  # (B, K, K)
    # The first `where` keeps NaN out of the gradient: 0 times NaN is NaN.
    difference = torch.where(ordered, scores[:, :, None] - scores[:, None, :] - margins, 0.0)
    pair_losses = torch.where(ordered, -F.logsigmoid(difference), 0.0)
    pairs = ordered.sum((1, 2))  # (B,)
    losses = pair_losses.sum((1, 2)) / pairs.clamp(min=1)
    return losses.sum() / (pairs > 0).sum().clamp(min=1)


@full_precision
def soft_preference_loss(first, second, likely):  # (N,), (N,), (N,) -> scalar
    """Bradley-Terry with a labeller who says how likely the first is the better one: the mean cross
    entropy of `likely` and sigmoid(first - second). Its minimum is at the log-odds of `likely`,
    where it is the entropy of `likely`, and not 0 (Lee et al. 2023)."""
    difference = first - second
    return -(likely * F.logsigmoid(difference) + (1 - likely) * F.logsigmoid(-difference)).mean()


@full_precision
def soft_ranking_loss(scores, likely):  # (B, K), (B, K, K) -> scalar
    """`ranking_loss` with probabilities: the mean over prompts of the mean soft preference loss of
    a prompt's pairs. `likely[b, i, j]` says that response i is better than j; where both it and its
    mirror image are 0 there is no pair. `pair_mask(ranks)` as `likely` gives `ranking_loss`."""
    difference = scores[:, :, None] - scores[:, None, :]
    pair_losses = -F.logsigmoid(difference) * likely
    pairs = likely.sum((1, 2))  # (B,)
    losses = pair_losses.sum((1, 2)) / pairs.clamp(min=1)
    return losses.sum() / (pairs > 0).sum().clamp(min=1)


def pair_mask(ranks):  # (B, K) -> (B, K, K) bool
    """Whether the first of two responses to a prompt is strictly better than the second."""
    exists = ranks >= 0
    better = ranks[:, :, None] < ranks[:, None, :]
    return better & exists[:, :, None] & exists[:, None, :]


def margins(scores, ranks):  # (B, K), (B, K) -> (pairs,)
    """Score of the better minus score of the worse, for every strictly ordered pair."""
    row, better, worse = pair_mask(ranks).nonzero(as_tuple=True)
    return scores[row, better] - scores[row, worse]


def calibration_error(margins, probabilities, bins=10):  # (N,), (N,) numpy -> number in [0, 1]
    """Expected calibration error of raw scores.

    sigmoid(margin) is the confidence of the model in a pair; `probabilities` say how likely people
    order it so (1 for an observed label). A pair whose confidence is below 1/2 is swapped. Pairs
    are put into `bins` equal bins of confidence, and the distance between the mean confidence and
    the mean probability of a bin is averaged over pairs.
    """
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    probabilities = np.where(margins >= 0, probabilities, 1 - probabilities)
    bin_numbers = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    gaps = [np.abs((confidence - probabilities)[bin_numbers == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(margins))


# ---- scores of texts


def score(model, tokenizer, prompts, responses, raw=False):  # N texts, N texts -> (N,) on the CPU
    """Scores of finished responses."""
    pairs = zip(prompts, responses, strict=True)
    examples = [encode(tokenizer, prompt, response) for prompt, response in pairs]
    return score_examples(model, examples, raw)


@torch.no_grad()
def score_examples(model, examples, raw=False, max_tokens=0):  # N Examples -> (N,) on the CPU
    """Scores read at each example's last token. Rows of similar length go through the model
    together, `max_tokens` tokens at once (0: what suits the device)."""
    scores = torch.zeros(len(examples))
    max_tokens = pick_microbatch(max_tokens, model.mean.device)
    for rows in own_microbatches([len(example.tokens) for example in examples], max_tokens):
        tokens, _, lengths = collate([examples[row] for row in rows])
        batch_scores = model.raw(tokens, lengths) if raw else model(tokens, lengths)
        scores[rows] = batch_scores.cpu()
    return distributed.total(scores)


def score_comparisons(model, tokenizer, comparisons):
    """The raw scores of all responses, one list per comparison."""
    prompts = [c.prompt for c in comparisons for _ in c.responses]
    responses = [response for c in comparisons for response in c.responses]
    scores = iter(score(model, tokenizer, prompts, responses, raw=True).tolist())
    return [[next(scores) for _ in c.responses] for c in comparisons]


def load_reward_model(path, device="cpu", precision=torch.float32, sft=None):
    """(RewardModel, Tokenizer, the missing-end score stored with it) from a checkpoint of
    train_rm.py. Where its adapters were trained beside the trunk of `sft`, a GPT, it takes the
    weights of that very model."""
    state = checkpoint.load(path, ("rm",), device)
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced
        model = RewardModel(checkpoint.empty_gpt(state, path))
    checkpoint.load_weights(model, state["model"], path, assign=True)
    if "missing_end_score" not in state:
        raise InputError(f"{path} holds no missing-end score, so it is damaged; train it again")
    if not model.std > 0:
        raise InputError(f"{path}: the scores' standard deviation is {model.std}; train again")
    model.gpt.precision = precision
    model.to(device)
    if sft is not None and checkpoint.began_with(state, sft):
        share_trunk(model, sft, state["adapters"]["model"], path)
    model.requires_grad_(False)
    return model, checkpoint.load_tokenizer(state, path), state["missing_end_score"]


def share_trunk(model, sft, adapters, path):
    """Replace the trunk of a reward model by that of `sft`, with the adapters that were trained
    beside it."""
    rank = min(len(x) for name, x in adapters.items() if name.endswith(".A"))
    model.gpt = lora.adapt(sft, rank, alpha=rank)  # until the adapters' own scale is loaded
    checkpoint.load_adapters(model, adapters, path)
