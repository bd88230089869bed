"""The exact problem: two prompts, a vocabulary of 4, responses of up to 3 tokens. All responses can
be enumerated, so that the optimum is known."""

import itertools
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from spec.tensors import normal
from torch import nn

from minirlhf.model import logprobs, response_mask


def all_responses(vocab_size, new_tokens, end_token):
    """Every possible response: ended, or cut off after `new_tokens`."""
    responses = []
    for n in range(1, new_tokens + 1):
        for response in itertools.product(range(vocab_size), repeat=n):
            if end_token not in response[:-1] and (response[-1] == end_token or n == new_tokens):
                responses.append(list(response))
    return responses


def response_logprobs(gpt, prompt, responses, temperature=1.0):
    """(N,) log-probabilities of whole responses."""
    lengths = torch.tensor([len(prompt) + len(response) for response in responses])
    tokens = torch.zeros(len(responses), int(lengths.max()), dtype=torch.long)
    for row, response in zip(tokens, responses, strict=True):
        row[: len(prompt) + len(response)] = torch.tensor(prompt + response)
    mask = response_mask(torch.full_like(lengths, len(prompt)), lengths, tokens.size(1))
    with torch.no_grad():
        return logprobs(gpt, tokens, mask, temperature)[0].sum(1).double()


END, VOCABULARY, NEW_TOKENS, MISSING_END_SCORE = 0, 4, 3, -1.0
EXACT_PROMPTS = [[1], [2, 3]]
RESPONSES = all_responses(VOCABULARY, NEW_TOKENS, END)
ENDED = torch.tensor([response[-1] == END for response in RESPONSES])
# The scores of 40 responses to each prompt. The missing-end rule must replace the scores of the 27
# that are cut off.
TABLE = torch.where(ENDED, normal(2, len(RESPONSES), seed=1), 50.0).double()


class Tabular(nn.Module):
    """A policy with the interface of GPT and one logit for every prefix and next token; one more
    column stores a value."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(vocab_size=VOCABULARY, context=8, width=VOCABULARY + 1)
        logits = normal(2 * VOCABULARY**5, VOCABULARY + 1) * torch.tensor([1.0, 1, 1, 1, 0])
        self.table = nn.Parameter(logits)
        # The weight of the head; a state consists of its logits.
        self.token_embedding = SimpleNamespace(weight=torch.eye(VOCABULARY, VOCABULARY + 1))

    def hidden(self, tokens, cache=None, wanted=None):
        """A prefix is a number in base 4 with a leading 1. Decoding continues from the prefix in
        the cache."""
        decoding = cache is not None and bool(cache.keys)
        prefix = cache.keys[0] if decoding else torch.ones(len(tokens), dtype=torch.long)
        prefixes = []
        for column in tokens.T:
            prefix = prefix * VOCABULARY + column
            prefixes.append(prefix)
        prefixes = torch.stack(prefixes, dim=1)
        if cache is not None:
            last = torch.zeros_like(cache.positions) if decoding else cache.positions - 1
            cache.keys = [prefixes.gather(1, last[:, None])[:, 0]]
        return self.table[prefixes]

    def padded_head(self, hidden):
        return F.linear(hidden, self.token_embedding.weight)

    head = padded_head


def distance(policy, reference, prompt, table, beta):
    """KL(policy || optimum) in nats for a prompt. The optimum of E[score] - beta KL is
    pi_ref exp(score / beta) / Z, where a cut-off response has the missing-end score."""
    scores = torch.where(ENDED, table, MISSING_END_SCORE)
    logits = response_logprobs(reference, prompt, RESPONSES) + scores / beta
    optimum = torch.log_softmax(logits, 0)  # subtracts log Z
    log_p = response_logprobs(policy, prompt, RESPONSES)
    torch.testing.assert_close(log_p.exp().sum(), torch.ones((), dtype=torch.float64))
    return float((log_p.exp() * (log_p - optimum)).sum())
