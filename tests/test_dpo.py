"""The specification of direct preference optimisation."""

import copy
import math

import pytest
import torch

from minirlhf import dpo
from minirlhf.data import Comparison, encode
from minirlhf.dpo import dpo_loss
from minirlhf.model import logprobs, response_mask
from minirlhf.tokenizer import get_tokenizer

BATCH = [
    Comparison("why", ["because", "no idea, really no idea", "as"], [1, 0, 2]),
    Comparison("a somewhat longer prompt", ["yes", "no"], [0, 1]),
    Comparison("b", ["one", "two and three", "four", "five"], [0, 1, 1, 0]),
]
PAIRS = [(0, 1, 0), (0, 1, 2), (0, 0, 2), (1, 0, 1), (2, 0, 1), (2, 0, 2), (2, 3, 1), (2, 3, 2)]  # prompt, better, worse


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
    policy = copy.deepcopy(reference).requires_grad_()
    generator = torch.Generator().manual_seed(1)
    for parameter in policy.parameters():
        parameter.data += 0.03 * torch.randn(parameter.shape, generator=generator)
    return policy


# ---- the loss


def test_the_loss_is_log_two_at_the_reference():
    """Nothing has moved: no margin, no reward. With policy and reference in two precisions it is not (DPO-3)."""
    chosen, rejected = normal(2, 3)
    loss, stats = dpo_loss(chosen, rejected, chosen, rejected, beta=0.1)
    assert loss.item() == pytest.approx(math.log(2))
    assert stats == {"chosen_reward": 0, "rejected_reward": 0, "accuracy": 0}


def test_the_loss_of_one_pair_is_worked_by_hand():
    """Chosen -10 against the reference's -12, rejected -20 against -17: margin .1 (2 + 3) = .5, loss log(1 + e^-.5) = .4741."""
    numbers = [torch.tensor([x]) for x in (-10.0, -20.0, -12.0, -17.0)]
    loss, stats = dpo_loss(*numbers, beta=0.1)
    assert loss.item() == pytest.approx(0.474077, abs=1e-6)
    assert {name: x.item() for name, x in stats.items()} == pytest.approx(
        {"chosen_reward": 0.2, "rejected_reward": -0.3, "accuracy": 1}
    )


def test_swapping_chosen_and_rejected_swaps_the_sign_of_the_margin():
    """-log sigmoid(m) + log sigmoid(-m) = -m, so the two losses of a pair differ by its margin; the rewards swap."""
    chosen, rejected, ref_chosen, ref_rejected = normal(4, 3)
    loss, stats = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, 0.5)
    swapped, other = dpo_loss(rejected, chosen, ref_rejected, ref_chosen, 0.5)
    margin = 0.5 * ((chosen - ref_chosen) - (rejected - ref_rejected))
    torch.testing.assert_close(swapped - loss, margin.mean())
    assert (stats["chosen_reward"], stats["rejected_reward"]) == (other["rejected_reward"], other["chosen_reward"])
    assert stats["accuracy"] + other["accuracy"] == 1


def test_the_stats_are_those_of_the_losss_own_margins():
    """The reference implementation logged rewards without the reference where its loss had it, and the other way round (DPO-2);
    LLMs-from-scratch without beta (LFS-2)."""
    numbers = normal(4, 3)
    stats = dpo_loss(*numbers, 0.5)[1]
    alone = [dpo_loss(*(x[i : i + 1] for x in numbers), 0.5) for i in range(3)]
    margins = [-math.log(math.expm1(loss.item())) for loss, _ in alone]  # the inverse of -log sigmoid
    assert (stats["chosen_reward"] - stats["rejected_reward"]).item() == pytest.approx(sum(margins) / 3, abs=1e-5)
    assert stats["accuracy"].item() == pytest.approx(sum(m > 0 for m in margins) / 3)


def test_the_gradient_pushes_hardest_where_the_order_is_most_wrong():
    """Equation 7's gradient: -beta sigmoid(-margin) on the chosen log-probability, the opposite on the rejected, over N."""
    chosen, rejected = normal(2, 3).requires_grad_()
    gradients = torch.autograd.grad(dpo_loss(chosen, rejected, torch.zeros(3), torch.zeros(3), 0.5)[0], [chosen, rejected])
    expected = 0.5 * torch.sigmoid(-0.5 * (chosen - rejected)).detach() / 3
    torch.testing.assert_close(gradients[0], -expected)
    torch.testing.assert_close(gradients[1], expected)


def test_loss_and_gradient_are_finite_far_from_the_reference():
    chosen = torch.tensor([-1000.0, 1000.0], requires_grad=True)
    loss, _ = dpo_loss(chosen, -chosen, torch.zeros(2), torch.zeros(2), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(1000) and torch.isfinite(chosen.grad).all()


def test_the_optimum_of_two_responses_has_the_odds_of_the_labels():
    """A policy over two tokens, a uniform reference, beta .5, and people who prefer the first 3 times in 4: at the optimum
    beta (log p - log (1 - p)) = log 3, so the odds are 3^2 and p = .9. The closed form of Rafailov et al., equation 6."""
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    uniform = torch.full((4,), 0.5, dtype=torch.float64).log()
    winners = torch.tensor([0, 0, 0, 1])
    optimizer = torch.optim.LBFGS([logits], max_iter=100, tolerance_grad=1e-10)

    def closure():
        optimizer.zero_grad()
        log_p = torch.log_softmax(logits, 0)
        loss, _ = dpo_loss(log_p[winners], log_p[1 - winners], uniform, uniform, 0.5)
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    assert torch.softmax(logits, 0)[0].item() == pytest.approx(0.9, abs=1e-4)


# ---- a batch of comparisons


def sequence_logprob(gpt, tokenizer, prompt, response):
    """The sum over a response's tokens, the end token included, row by row."""
    example = encode(tokenizer, prompt, response)
    log_p = torch.log_softmax(gpt(torch.tensor([example.tokens]))[0], -1)
    return sum(log_p[t - 1, example.tokens[t]] for t in range(example.prompt_length, len(example.tokens)))


def naive(policy, reference, tokenizer, beta):
    """The mean over all strictly ordered pairs of the batch, each with its own four passes: loss, margins."""
    losses, margins = [], []
    for row, better, worse in PAIRS:
        c = BATCH[row]
        told = [
            sequence_logprob(gpt, tokenizer, c.prompt, c.responses[i]) for gpt in (policy, reference) for i in (better, worse)
        ]
        margins.append(beta * ((told[0] - told[2]) - (told[1] - told[3])))
        losses.append(-torch.nn.functional.logsigmoid(margins[-1]))
    return torch.stack(losses).mean(), torch.stack(margins)


@pytest.mark.parametrize("microbatch_tokens", [1, 60, 10_000])
def test_the_gradient_is_that_of_a_loop_over_pairs_whatever_the_microbatches(policy, reference, tokenizer, microbatch_tokens):
    """3 + 1 + 4 pairs of 3, 2 and 4 responses, two ties: every pair weighs the same. Sums over tokens, not means (LFS-2)."""
    expected, margins = naive(policy, reference, tokenizer, 0.3)
    gradients = torch.autograd.grad(expected, list(policy.parameters()))
    stats = dpo.accumulate(policy, reference, tokenizer, BATCH, 0.3, microbatch_tokens)
    for (name, parameter), gradient in zip(policy.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5, msg=name)
    assert stats["loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert stats["accuracy"] == pytest.approx((margins > 0).float().mean().item())
    assert stats["chosen_reward"] - stats["rejected_reward"] == pytest.approx(margins.mean().item(), abs=1e-5)
    assert all(parameter.grad is None for parameter in reference.parameters())


@pytest.mark.parametrize("microbatch_tokens", [1, 10_000])
def test_each_response_goes_through_each_trunk_once(policy, reference, tokenizer, monkeypatch, microbatch_tokens):
    """9 responses in 8 pairs: 9 rows a model, not 16."""
    rows = {}
    for name, gpt in (("policy", policy), ("reference", reference)):

        def counted(tokens, name=name, hidden=gpt.hidden):
            rows[name] = rows.get(name, 0) + len(tokens)
            return hidden(tokens)

        monkeypatch.setattr(gpt, "hidden", counted)
    dpo.accumulate(policy, reference, tokenizer, BATCH, 0.3, microbatch_tokens)
    assert rows == {"policy": 9, "reference": 9}


def test_a_batch_at_the_reference_costs_log_two(reference, tokenizer):
    policy = copy.deepcopy(reference).requires_grad_()
    stats = dpo.accumulate(policy, reference, tokenizer, BATCH, 0.3, 10_000)
    assert stats == {"loss": pytest.approx(math.log(2)), "chosen_reward": 0, "rejected_reward": 0, "accuracy": 0}


def test_the_prompt_has_no_part_in_a_responses_logprob(policy, reference, tokenizer):
    """-log p of the response alone; with the prompt's tokens counted it would be far larger."""
    example = encode(tokenizer, "a somewhat longer prompt", "yes")
    told, _, _, _ = dpo.pair_logprobs(policy, reference, [[example, encode(tokenizer, "b", "no")]], [[(0, 1)]])
    tokens = torch.tensor([example.tokens])
    mask = response_mask(torch.tensor([example.prompt_length]), torch.tensor([len(example.tokens)]), tokens.size(1))
    torch.testing.assert_close(told[0], logprobs(policy, tokens, mask)[0].sum())
    torch.testing.assert_close(told[0], sequence_logprob(policy, tokenizer, "a somewhat longer prompt", "yes"))


def test_dpo_makes_the_chosen_responses_likelier_than_the_rejected(reference, tokenizer):
    """30 steps on the batch: every pair in order, from none."""
    policy = copy.deepcopy(reference).requires_grad_()
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    for _ in range(30):
        stats = dpo.accumulate(policy, reference, tokenizer, BATCH, 0.3, 10_000)
        optimizer.step()
        optimizer.zero_grad()
    assert stats["accuracy"] == 1 and stats["loss"] < 0.3
