"""The specification of direct preference optimisation."""

import copy
import math

import pytest
import torch
from helpers import moved

from minirlhf import dpo
from minirlhf.data import Comparison, encode
from minirlhf.model import logprobs, response_mask
from minirlhf.tokenizer import get_tokenizer

DPO = dpo.Method("dpo", 0.3)
BATCH = [
    Comparison("why", ["because", "no idea, really no idea", "as"], [1, 0, 2]),
    Comparison("a somewhat longer prompt", ["yes", "no"], [0, 1]),
    Comparison("b", ["one", "two and three", "four", "five"], [0, 1, 1, 0]),
]
PAIRS = [  # prompt, better, worse
    *[(0, 1, 0), (0, 1, 2), (0, 0, 2)],
    *[(1, 0, 1)],
    *[(2, 0, 1), (2, 0, 2), (2, 3, 1), (2, 3, 2)],
]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def tokenizer():
    return get_tokenizer()


@pytest.fixture(scope="module")
def reference(make_gpt, tokenizer):
    return make_gpt(tokenizer.vocab_size, context=64, std=0.3).requires_grad_(False)


@pytest.fixture
def policy(reference):
    return moved(reference)


# ---- a batch of comparisons


def sequence_logprob(gpt, tokenizer, prompt, response):
    """The sum over the tokens of a response, the end token included, for this row alone."""
    example = encode(tokenizer, prompt, response)
    log_p = torch.log_softmax(gpt(torch.tensor([example.tokens]))[0], -1)
    columns = range(example.prompt_length, len(example.tokens))
    return sum(log_p[t - 1, example.tokens[t]] for t in columns)


def naive_loss(policy, reference, tokenizer, beta):
    """Loss and margins: the mean over all strictly ordered pairs of the batch, each with its own
    four passes."""
    losses, margins = [], []
    for row, better, worse in PAIRS:
        c = BATCH[row]
        chosen, rejected, ref_chosen, ref_rejected = (
            sequence_logprob(gpt, tokenizer, c.prompt, c.responses[i])
            for gpt in (policy, reference)
            for i in (better, worse)
        )
        margins.append(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))
        losses.append(-torch.nn.functional.logsigmoid(margins[-1]))
    return torch.stack(losses).mean(), torch.stack(margins)


@pytest.mark.parametrize("microbatch_tokens", [1, 60, 10_000])
def test_the_gradient_is_that_of_a_loop_over_pairs_whatever_the_microbatches(
    policy, reference, tokenizer, microbatch_tokens
):
    """3 + 1 + 4 pairs of 3, 2 and 4 responses, with two ties. Every pair has the same weight.
    Log-probabilities are sums over tokens, not means (as in LLMs-from-scratch, DPO notebook,
    c84)."""
    expected, margins = naive_loss(policy, reference, tokenizer, 0.3)
    gradients = torch.autograd.grad(expected, list(policy.parameters()))
    stats = dpo.accumulate(policy, reference, tokenizer, BATCH, DPO, microbatch_tokens)
    for (name, parameter), gradient in zip(policy.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5, msg=name)
    assert stats["loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert stats["accuracy"] == pytest.approx((margins > 0).float().mean().item())
    margin = stats["chosen_reward"] - stats["rejected_reward"]
    assert margin == pytest.approx(margins.mean().item(), abs=1e-5)
    assert all(parameter.grad is None for parameter in reference.parameters())


@pytest.mark.parametrize("microbatch_tokens", [1, 10_000])
def test_each_response_goes_through_each_trunk_once(
    policy, reference, tokenizer, monkeypatch, microbatch_tokens
):
    """9 responses in 8 pairs: 9 rows per model, not 16."""
    rows = {}
    for name, gpt in (("policy", policy), ("reference", reference)):

        def spy(tokens, name=name, hidden=gpt.hidden, **options):
            rows[name] = rows.get(name, 0) + len(tokens)
            return hidden(tokens, **options)

        monkeypatch.setattr(gpt, "hidden", spy)
    dpo.accumulate(policy, reference, tokenizer, BATCH, DPO, microbatch_tokens)
    assert rows == {"policy": 9, "reference": 9}


def test_a_pass_of_several_comparisons_holds_no_more_tokens_than_it_was_given(
    policy, reference, tokenizer, monkeypatch
):
    """The size of a comparison is the number of its responses times the longest of them, because
    they are one batch. Of four comparisons with two responses of n tokens each, two fit into 4n
    tokens."""
    n = len(encode(tokenizer, "why", "because").tokens)
    batch = 4 * [Comparison("why", ["because", "because"], [0, 1])]
    shapes, hidden = [], policy.hidden

    def spy(tokens, **options):
        shapes.append(tuple(tokens.shape))
        return hidden(tokens, **options)

    monkeypatch.setattr(policy, "hidden", spy)
    dpo.accumulate(policy, reference, tokenizer, batch, DPO, 4 * n)
    assert shapes == [(4, n), (4, n)]


def test_the_pairs_are_told_where_the_responses_are(policy, reference, tokenizer, monkeypatch):
    """Worked by hand, two groups of two and three responses. The indices are on the device of the
    log-probabilities. torch's default device is the CPU, while the responses are on a GPU."""
    groups = [[encode(tokenizer, "b", word) for word in words] for words in (["yes", "no"], "pqr")]
    batch = dpo.data.collate([example for group in groups for example in group])
    monkeypatch.setattr(dpo.data, "collate", lambda examples: batch)
    with torch.device("meta"):
        logprobs, _ = dpo.response_logprobs(policy, reference, groups)
        better, worse = dpo.pair_index(groups, [[(0, 1)], [(0, 1), (2, 1)]], logprobs.device)
    assert (better.tolist(), worse.tolist()) == ([0, 2, 4], [1, 3, 3])


def test_a_batch_at_the_reference_costs_log_two(reference, tokenizer):
    """On a ragged batch, through the models. Policy and reference go through the same computation,
    so that rounding is not mistaken for a preference. A reference in float16 makes it one
    (direct-preference-optimization, config/model/blank_model.yaml)."""
    policy = copy.deepcopy(reference).requires_grad_()
    stats = dpo.accumulate(policy, reference, tokenizer, BATCH, DPO, 10_000)
    zeros = dict.fromkeys(("chosen_reward", "rejected_reward", "margin", "accuracy"), 0)
    assert stats == {"loss": pytest.approx(math.log(2)), **zeros}


def test_the_prompt_has_no_part_in_a_responses_logprob(policy, reference, tokenizer):
    """The sum is over the response alone. With the tokens of the prompt it would be far lower."""
    example = encode(tokenizer, "a somewhat longer prompt", "yes")
    groups = [[example, encode(tokenizer, "b", "no")]]
    sums, _ = dpo.response_logprobs(policy, reference, groups)
    tokens, length = torch.tensor([example.tokens]), len(example.tokens)
    mask = response_mask(torch.tensor([example.prompt_length]), torch.tensor([length]), length)
    torch.testing.assert_close(sums[0], logprobs(policy, tokens, mask)[0].sum())
    expected = sequence_logprob(policy, tokenizer, "a somewhat longer prompt", "yes")
    torch.testing.assert_close(sums[0], expected)


def test_dpo_makes_the_chosen_responses_likelier_than_the_rejected(reference, tokenizer):
    """30 steps on the batch: at the start no pair is in order, at the end all are."""
    policy = copy.deepcopy(reference).requires_grad_()
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    for _ in range(30):
        stats = dpo.accumulate(policy, reference, tokenizer, BATCH, DPO, 10_000)
        optimizer.step()
        optimizer.zero_grad()
    assert stats["accuracy"] == 1 and stats["loss"] < 0.3
