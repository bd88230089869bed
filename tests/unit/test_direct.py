"""Batches of the direct losses beside DPO: `accumulate` with IPO, KTO, SimPO and ORPO."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import moved

from minirlhf import dpo
from minirlhf.data import Comparison, Labelled, encode
from minirlhf.dpo import Method
from minirlhf.tokenizer import get_tokenizer

TOKENIZER = get_tokenizer()
COMPARISONS = [
    Comparison("why", ["because", "no idea, really no idea", "as"], [1, 0, 2]),
    Comparison("a somewhat longer prompt", ["yes", "no"], [0, 1]),
]
LABELLED = [
    Labelled("why", "because", True),
    Labelled("a somewhat longer prompt", "certainly not", False),
    Labelled("b", "yes", False),
    Labelled("why", "never", False),
]
METHODS = [
    Method("dpo", 0.3),
    Method("ipo", 0.7),
    Method("kto", 0.3, undesirable_weight=1.7),
    Method("simpo", 2.0, gamma=0.4),
    Method("orpo", 0.6),
]
NAMES = [method.name for method in METHODS]


@pytest.fixture(scope="module")
def reference(make_gpt):
    return make_gpt(TOKENIZER.vocab_size, context=64, std=0.3).requires_grad_(False)


@pytest.fixture
def policy(reference):
    return moved(reference)


# ---- the same by loops


def total(gpt, prompt, response):
    """(log-probability of a response, its number of tokens), from one row."""
    example = encode(TOKENIZER, prompt, response)
    log_p = torch.log_softmax(gpt(torch.tensor([example.tokens]))[0], -1)
    columns = range(example.prompt_length, len(example.tokens))
    return sum(log_p[t - 1, example.tokens[t]] for t in columns), len(columns)


def pairs_of(batch):
    """(prompt, better, worse) texts."""
    for c in batch:
        for better, rank in zip(c.responses, c.ranks, strict=True):
            for worse, other in zip(c.responses, c.ranks, strict=True):
                if rank < other:
                    yield c.prompt, better, worse


def pair_loss(method, policy, reference, prompt, better, worse):
    """The loss of one pair, as its paper writes it."""
    (chosen, n), (rejected, m) = (total(policy, prompt, text) for text in (better, worse))
    ref_chosen, ref_rejected = (total(reference, prompt, text)[0] for text in (better, worse))
    h = (chosen - ref_chosen) - (rejected - ref_rejected)
    if method.name == "dpo":
        return -F.logsigmoid(method.strength * h)
    if method.name == "ipo":
        return (h - 1 / (2 * method.strength)) ** 2
    if method.name == "simpo":
        return -F.logsigmoid(method.strength * (chosen / n - rejected / m) - method.gamma)
    odds = [(x / k).exp() / (1 - (x / k).exp()) for x, k in ((chosen, n), (rejected, m))]
    return -chosen / n - method.strength * F.logsigmoid(odds[0].log() - odds[1].log())


def kto_losses(method, policy, reference, labelled, texts):
    """The losses of (prompt, response, label)s; `texts` are (prompt, response)s that do not belong
    together."""
    with torch.no_grad():
        kls = [total(policy, *text)[0] - total(reference, *text)[0] for text in texts]
    point = max(0.0, float(sum(kls) / len(kls)))
    for prompt, response, label in labelled:
        h = total(policy, prompt, response)[0] - total(reference, prompt, response)[0]
        sign, weight = (1, 1.0) if label else (-1, method.undesirable_weight)
        yield weight * (1 - torch.sigmoid(sign * method.strength * (h - point)))


def naive_loss(method, policy, reference):
    """The mean over the four pairs of COMPARISONS; KTO: over their eight sides."""
    pairs = list(pairs_of(COMPARISONS))
    if method.name != "kto":
        losses = [pair_loss(method, policy, reference, *pair) for pair in pairs]
        return torch.stack(losses).mean()
    first, second = COMPARISONS
    texts = [(second.prompt, text) for text in first.responses]
    texts += [(first.prompt, text) for text in second.responses]
    labelled = [(prompt, better, True) for prompt, better, _ in pairs]
    labelled += [(prompt, worse, False) for prompt, _, worse in pairs]
    return torch.stack(list(kto_losses(method, policy, reference, labelled, texts))).mean()


def same_gradient(policy, gradients):
    for (name, parameter), gradient in zip(policy.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5, msg=name)


# ---- batches


@pytest.mark.parametrize("microbatch_tokens", [1, 10_000])
@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_every_loss_of_a_batch_is_that_of_a_loop_whatever_the_microbatches(
    policy, reference, method, microbatch_tokens
):
    """Sums of log-probabilities for DPO, IPO and KTO, means over tokens for SimPO and ORPO: the
    responses have 2 to 24 tokens. KTO's reference point is that of the whole batch."""
    expected = naive_loss(method, policy, reference)
    gradients = torch.autograd.grad(expected, list(policy.parameters()))
    stats = dpo.accumulate(policy, reference, TOKENIZER, COMPARISONS, method, microbatch_tokens)
    assert stats["loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert stats["margin"] == stats["chosen_reward"] - stats["rejected_reward"]
    same_gradient(policy, gradients)


@pytest.mark.parametrize("microbatch_tokens", [1, 10_000])
def test_kto_learns_from_single_responses_with_a_label(policy, reference, microbatch_tokens):
    """One good and three bad ones, two to the same prompt: each counts once, and the rewards are
    means over their own kind. A microbatch may hold one kind alone."""
    method = METHODS[2]
    rows = [(record.prompt, record.response, record.label) for record in LABELLED]
    following = {"why": "a somewhat longer prompt", "a somewhat longer prompt": "b", "b": "why"}
    texts = [(following[prompt], response) for prompt, response, _ in rows]
    expected = torch.stack(list(kto_losses(method, policy, reference, rows, texts))).mean()
    gradients = torch.autograd.grad(expected, list(policy.parameters()))
    stats = dpo.accumulate(policy, reference, TOKENIZER, LABELLED, method, microbatch_tokens)
    assert stats["loss"] == pytest.approx(expected.item(), rel=1e-4)
    same_gradient(policy, gradients)
    rewards = {True: [], False: []}
    for prompt, response, label in rows:
        ratio = total(policy, prompt, response)[0] - total(reference, prompt, response)[0]
        rewards[label].append(0.3 * ratio.item())
    assert stats["chosen_reward"] == pytest.approx(rewards[True][0], rel=1e-3)
    assert stats["rejected_reward"] == pytest.approx(sum(rewards[False]) / 3, rel=1e-3)


def test_a_batch_may_mix_comparisons_and_labels(policy, reference):
    """The mean over 8 sides and 4 labels is that of the two means, if both have the same reference
    point: 0 here, where the policy is the reference."""
    same, method = copy.deepcopy(reference).requires_grad_(), Method("kto", 0.3)
    stats = dpo.accumulate(same, reference, TOKENIZER, COMPARISONS + LABELLED, method, 100)
    assert stats == {
        "loss": pytest.approx(0.5),
        **dict.fromkeys(("chosen_reward", "rejected_reward", "margin", "accuracy"), 0.0),
    }


@pytest.mark.parametrize("method", METHODS[3:], ids=NAMES[3:])
def test_a_loss_without_a_reference_never_runs_it(policy, method):
    """It is left out of the work, too. There is none here."""
    dpo.accumulate(policy, None, TOKENIZER, COMPARISONS, method, 1000)
    assert all(parameter.grad is not None for parameter in policy.parameters())


# ---- KTO's reference point


def test_a_response_is_mismatched_with_the_prompt_of_another_record():
    """Three prompts, one of them twice, in order: each response after the next other prompt. A
    reversed batch would leave the middle one of three with its own
    (huggingface/trl#1911)."""
    examples = dpo.mismatched(TOKENIZER, [COMPARISONS[0], *LABELLED[1:]], context=64)
    following = {"why": "a somewhat longer prompt", "a somewhat longer prompt": "b", "b": "why"}
    expected = [(following["why"], text) for text in COMPARISONS[0].responses]
    expected += [(following[record.prompt], record.response) for record in LABELLED[1:]]
    assert examples == [encode(TOKENIZER, *text) for text in expected]


def test_what_does_not_fit_the_context_is_no_part_of_the_reference_point():
    """A long prompt before a long response may be longer than any row of the data."""
    lengths = [len(e.tokens) for e in dpo.mismatched(TOKENIZER, COMPARISONS, context=64)]
    kept = dpo.mismatched(TOKENIZER, COMPARISONS, context=max(lengths) - 1)
    assert 0 < len(kept) < len(lengths)


def test_a_batch_with_one_prompt_has_the_reference_itself_as_reference_point(policy, reference):
    """There is no other prompt. Matched responses would make the point the rewards' own mean."""
    assert dpo.mismatched(TOKENIZER, [LABELLED[0], LABELLED[3]], context=64) == []
    batch = [LABELLED[0], LABELLED[3]]
    assert dpo.estimate_kl(policy, reference, TOKENIZER, batch, 1000) == 0


@pytest.mark.parametrize("microbatch_tokens", [1, 1000])
def test_the_reference_point_is_that_of_the_whole_batch(policy, reference, microbatch_tokens):
    """Each microbatch its own, or the last one's, would be another loss for another memory. With
    the policy as reference the sign turns, and there it is 0."""
    examples = dpo.mismatched(TOKENIZER, LABELLED, context=64)
    groups = [[example] for example in examples]
    ratios = torch.sub(*dpo.response_logprobs(policy, reference, groups)).detach()
    models = (policy, reference) if ratios.mean() > 0 else (reference, policy)
    point = dpo.estimate_kl(*models, TOKENIZER, LABELLED, microbatch_tokens)
    assert point.item() == pytest.approx(ratios.mean().abs().item(), rel=1e-4)
    assert dpo.estimate_kl(*models[::-1], TOKENIZER, LABELLED, microbatch_tokens) == 0


# ---- implicit rewards


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_the_rewards_of_responses_are_those_that_the_loss_logs(policy, reference, method):
    """Commands score texts with them: the means over the better and the worse sides are those of
    the training's metrics."""
    stats = dpo.accumulate(policy, reference, TOKENIZER, COMPARISONS, method, 1000)
    groups = [[encode(TOKENIZER, c.prompt, text) for text in c.responses] for c in COMPARISONS]
    logprobs = dpo.response_logprobs(policy, reference, groups)
    rewards = method.rewards(*logprobs, dpo.response_lengths(groups))
    pairs = [dpo.ordered_pairs(c.ranks) for c in COMPARISONS]
    better, worse = dpo.pair_index(groups, pairs, "cpu")
    assert stats["chosen_reward"] == pytest.approx(rewards[better].mean().item(), rel=1e-4)
    assert stats["rejected_reward"] == pytest.approx(rewards[worse].mean().item(), rel=1e-4)


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_every_loss_puts_the_better_response_first(reference, method):
    """40 steps on four pairs."""
    policy = copy.deepcopy(reference).requires_grad_()
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    start = None
    for _ in range(40):
        stats = dpo.accumulate(policy, reference, TOKENIZER, COMPARISONS, method, 10_000)
        start = start or stats
        optimizer.step()
        optimizer.zero_grad()
    assert stats["loss"] < start["loss"] and stats["margin"] > start["margin"]
