"""The kin of the loss of direct preference optimisation: IPO, KTO, SimPO, ORPO."""

import math

import pytest
import torch

from spec.sentences import spec
from spec.tensors import normal, stat


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def zeros(n):
    return torch.zeros(n, dtype=torch.float64)


# ---- IPO


@spec(
    "DIRECT-01",
    "The IPO loss of a pair is the squared difference between its log-ratio margin h and 1/(2τ).",
    formula="loss = (h − 1/(2τ))²,  h = log(π/π_ref)(chosen) − log(π/π_ref)(rejected)",
    example="h = 1.2: 14.44 at τ = 0.1, 0.04 at τ = 0.5.",
    differs="TRL 1.12.0, dpo_trainer.py:1470, divides both log ratios by the tokens of the "
    "responses, by word of the authors",
    source="Azar et al. 2024, equation 17",
)
def test_the_ipo_loss_of_one_pair_is_worked_by_hand(ipo_loss):
    """h = (−10 + 12) − (−20 + 20.8) = 1.2. τ multiplies neither side of it."""
    pair = double(-10.0), double(-20.0), double(-12.0), double(-20.8)
    assert ipo_loss(*pair, 0.1)[0].item() == pytest.approx(14.44)
    assert ipo_loss(*pair, 0.5)[0].item() == pytest.approx(0.04)


@spec(
    "DIRECT-02",
    "Where policy and reference agree, the IPO loss is 1/(4τ²).",
    formula="(0 − 1/(2τ))² = 1/(4τ²)",
    example="τ = 0.5: 1.",
)
def test_the_ipo_loss_at_the_reference_is_that_of_a_margin_of_zero(ipo_loss):
    """The first number of a run to check."""
    chosen, rejected = normal(2, 3)
    for tau in (0.1, 0.5, 2.0):
        loss, _ = ipo_loss(chosen, rejected, chosen, rejected, tau)
        assert loss.item() == pytest.approx(1 / (4 * tau**2))


@spec(
    "DIRECT-03",
    "The IPO loss is least at a margin of 1/(2τ), and a larger margin is pushed back.",
    formula="∂loss/∂h = 2 (h − 1/(2τ))",
    example="τ = 0.25: margins 1.5, 2 and 2.5 have the gradients −1, 0 and 1.",
)
def test_the_optimum_margin_of_ipo_is_finite(ipo_loss):
    """DPO pushes a pair that all labels agree on apart without end; β does not hold it."""
    for h, expected in ((1.5, -1.0), (2.0, 0.0), (2.5, 1.0)):
        chosen = double(h).requires_grad_()
        ipo_loss(chosen, zeros(1), zeros(1), zeros(1), 0.25)[0].backward()
        assert chosen.grad.item() == pytest.approx(expected)


WINS = {(0, 1): 3, (1, 0): 1, (0, 2): 4, (1, 2): 2, (2, 1): 2}  # of four labels of each pair
SHARES = double(0.5 + 0.75 + 1.0, 0.25 + 0.5 + 0.5, 0.0 + 0.5 + 0.5) / 3  # a tie with itself


@spec(
    "DIRECT-04",
    "The policy of the least IPO loss is the reference times exp(P/τ), where P is the probability "
    "that a response beats a random one.",
    formula="π ∝ π_ref exp(P(y ≻ y')/τ), y' uniform",
    example="Three responses; the first beats the second 3 times in 4 and the third always, which "
    "ties with the second: P = 0.75, 0.4167, 0.3333.",
    source="Azar et al. 2024, equation 6 and theorem 4",
)
def test_the_optimum_of_ipo_is_the_reference_tilted_by_win_rates(ipo_loss):
    """Found from the reference, on four labels of each pair of three responses. The four of one
    pair agree, and the policy is finite all the same."""
    pairs = [pair for pair, n in WINS.items() for _ in range(n)]
    better, worse = torch.tensor(pairs).T
    ref = torch.log_softmax(double(0.3, -1.0, 0.5), 0)
    logits = ref.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        log_p = torch.log_softmax(logits, 0)
        loss, _ = ipo_loss(log_p[better], log_p[worse], ref[better], ref[worse], 0.5)
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    expected = torch.softmax(ref + SHARES / 0.5, 0)
    torch.testing.assert_close(torch.softmax(logits, 0).detach(), expected, rtol=0, atol=1e-5)


@spec(
    "DIRECT-05",
    "The implicit reward of IPO is τ times the log ratio.",
    formula="reward = τ log(π/π_ref)",
    example="τ = 0.5, log ratios 2 and −3: rewards 1 and −1.5. At the optimum margin they are 1/2 "
    "apart.",
)
def test_the_rewards_of_ipo_are_worked_by_hand(ipo_loss):
    """IPO maximises the win rate minus τ KL, so that the log ratio is a reward divided by τ."""
    stats = ipo_loss(double(2.0), double(-3.0), zeros(1), zeros(1), 0.5)[1]
    assert stat(stats, "chosen_reward") == pytest.approx(1.0)
    assert stat(stats, "rejected_reward") == pytest.approx(-1.5)


# ---- KTO

DESIRABLE = torch.tensor([True, True, False, False])
RATIOS = double(3.0, -1.0, 2.0, -4.0)
MISMATCHED = double(0.5, -2.0, 1.0, 3.0)


@spec(
    "DIRECT-06",
    "The reference point of KTO is the mean log ratio of mismatched responses.",
    formula="z₀ = max(0, mean log(π/π_ref)(y'|x)), y' a response to another prompt than x",
    example="Log ratios 0.5, −2, 1, 3: z₀ = 2.5 / 4 = 0.625.",
    source="Ethayarajh et al. 2024, section 4.1",
)
def test_the_reference_point_is_worked_by_hand(kto_reference_point):
    """It estimates the KL of the policy from the reference without sampling."""
    assert kto_reference_point(MISMATCHED - 9, zeros(4) - 9).item() == pytest.approx(0.625)


@spec(
    "DIRECT-07",
    "The reference point of KTO is never negative.",
    example="Log ratios −2, −1: z₀ = 0.",
    source="Ethayarajh et al. 2024, section 4.1",
)
def test_the_reference_point_is_not_below_zero(kto_reference_point):
    """A KL is not, and its estimate from a few responses can be."""
    assert kto_reference_point(double(-2.0, -1.0), zeros(2)).item() == 0


@spec(
    "DIRECT-08",
    "No gradient flows through the reference point of KTO.",
    source="Ethayarajh et al. 2024, section 4.1",
)
def test_the_reference_point_has_no_gradient(kto_reference_point):
    """With one, the loss could be lowered by making responses to other prompts likelier."""
    logprobs = MISMATCHED.clone().requires_grad_()
    assert not torch.as_tensor(kto_reference_point(logprobs, zeros(4))).requires_grad


@spec(
    "DIRECT-09",
    "The KTO loss of a response falls from 1 to 0 as its reward moves to the right side of the "
    "reference point.",
    formula="desirable 1 − σ(β(h − z₀)), undesirable 1 − σ(β(z₀ − h)), h = log(π/π_ref)",
    example="β = 0.1, z₀ = 0.625: 0.4409025281 and 0.5405358393 for desirable h = 3 and −1, "
    "0.5343209437 and 0.3863929222 for undesirable 2 and −4; mean 0.4755380583.",
    source="Ethayarajh et al. 2024, equation 8",
)
def test_the_kto_loss_is_worked_by_hand(kto_loss):
    """Each response by itself, and their mean."""
    expected = [0.4409025281, 0.5405358393, 0.5343209437, 0.3863929222]
    for i in range(4):
        one = RATIOS[i : i + 1] - 7, zeros(1) - 7, DESIRABLE[i : i + 1]
        assert kto_loss(*one, 0.625, 0.1)[0].item() == pytest.approx(expected[i], abs=1e-10)
    loss, _ = kto_loss(RATIOS, zeros(4), DESIRABLE, 0.625, 0.1)
    assert loss.item() == pytest.approx(0.4755380583, abs=1e-10)


@spec(
    "DIRECT-10",
    "Where policy and reference agree, the KTO loss is 1/2 and both kinds of response have a "
    "gradient of the same size.",
    formula="∂loss/∂log π = ∓β/4 for one response",
)
def test_the_kto_loss_at_the_reference_is_one_half(kto_loss):
    """The first number of a run to check. A desirable response becomes likelier, an undesirable one
    less likely."""
    logprobs = normal(4).double().requires_grad_()
    loss, _ = kto_loss(logprobs, logprobs.detach(), DESIRABLE, 0.0, 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(0.5)
    expected = torch.where(DESIRABLE, -1.0, 1.0).double() * 0.2 / 4 / 4
    torch.testing.assert_close(logprobs.grad, expected)


@spec(
    "DIRECT-11",
    "The KTO loss falls where an undesirable response becomes less likely.",
    formula="loss = 1 − σ(β(z₀ − h))",
    example="β = 0.1, z₀ = 0.6: the loss rises with h = 0, 2, 4.",
    differs="align-anything@3f9decc subtracts this term, so that the rejected side is pushed up",
)
def test_an_undesirable_response_is_pushed_down(kto_loss):
    """The sign that tells the two kinds apart."""
    bad = torch.tensor([False])
    losses = [kto_loss(double(h), zeros(1), bad, 0.6, 0.1)[0].item() for h in (0.0, 2.0, 4.0)]
    assert losses == sorted(losses) and losses[0] < losses[2]


@spec(
    "DIRECT-12",
    "The weight of undesirable responses multiplies their KTO losses, and no other.",
    example="Those of DIRECT-09 with a weight of 2: (0.4409 + 0.5405 + 2 · 0.5343 + 2 · 0.3864) / "
    "4 = 0.705717.",
    source="Ethayarajh et al. 2024, equation 8, with λ_D = 1",
)
def test_undesirable_responses_have_a_weight(kto_loss):
    """Where they are rarer than desirable ones they are to count as much."""
    loss, _ = kto_loss(RATIOS, zeros(4), DESIRABLE, 0.625, 0.1, 2.0)
    assert loss.item() == pytest.approx(0.705717, abs=1e-6)


@spec(
    "DIRECT-13",
    "The KTO loss and its gradient are finite far from the reference.",
    example="β = 1, log ratios ±2000, each kind on both sides: (0 + 1 + 1 + 0) / 4 = 0.5.",
)
def test_the_kto_loss_is_finite_far_from_the_reference(kto_loss):
    """A response that is far on either side has no gradient at all."""
    logprobs = torch.tensor([2000.0, -2000.0, 2000.0, -2000.0], requires_grad=True)
    loss, _ = kto_loss(logprobs, torch.zeros(4), DESIRABLE, 0.0, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.5) and torch.isfinite(logprobs.grad).all()


# ---- SimPO

MEANS = double(-6 / 4), double(-9 / 3)  # -6 in four tokens over -9 in three


@spec(
    "DIRECT-14",
    "The SimPO loss of a pair is minus the log-sigmoid of β times the difference of its mean "
    "log-probabilities, less γ.",
    formula="loss = −log σ(β (log π(chosen)/|chosen| − log π(rejected)/|rejected|) − γ)",
    example="−6 in 4 tokens over −9 in 3, β = 2, γ = 1: margin 3 − 1 = 2, loss 0.1269280110.",
    source="Meng et al. 2024, equation 6",
)
def test_the_simpo_loss_of_one_pair_is_worked_by_hand(simpo_loss):
    """γ is asked for on top of the right order."""
    assert simpo_loss(*MEANS, 2.0, 1.0)[0].item() == pytest.approx(0.1269280110, abs=1e-10)


@spec(
    "DIRECT-15",
    "SimPO compares the two sides with each other and with nothing else.",
    formula="loss(a + c, b + c) = loss(a, b)",
)
def test_simpo_has_no_reference(simpo_loss):
    """So that nothing holds the level of both: they may fall together."""
    chosen, rejected = normal(2, 3).double()
    loss, _ = simpo_loss(chosen, rejected, 2.0, 0.5)
    torch.testing.assert_close(simpo_loss(chosen - 40, rejected - 40, 2.0, 0.5)[0], loss)


@spec(
    "DIRECT-16",
    "The implicit reward of SimPO is β times the mean log-probability, without γ.",
    formula="reward = β log π / |y|",
    example="The pair of DIRECT-14: −3 and −6; γ = 4 makes its margin negative, and it is still in "
    "the right order.",
)
def test_the_rewards_of_simpo_are_worked_by_hand(simpo_loss):
    """The accuracy is about the order, not about the margin that is asked for."""
    stats = simpo_loss(*MEANS, 2.0, 4.0)[1]
    assert stat(stats, "chosen_reward") == pytest.approx(-3.0)
    assert stat(stats, "rejected_reward") == pytest.approx(-6.0)
    assert stat(stats, "accuracy") == 1


# ---- ORPO


@spec(
    "DIRECT-17",
    "The ORPO loss of a pair is minus the mean log-probability of the chosen response, less λ "
    "times the log-sigmoid of the difference of the log odds.",
    formula="loss = −log p(chosen) − λ log σ(log odds(chosen) − log odds(rejected)), "
    "odds = p/(1−p), log p = log π / |y|",
    example="The pair of DIRECT-14: log odds ratio 1.7014132780, its loss 0.1675678574; at λ = 0.1 "
    "1.5 + 0.01676 = 1.5167567858.",
    source="Hong et al. 2024, equation 6",
)
def test_the_orpo_loss_of_one_pair_is_worked_by_hand(orpo_loss):
    """Imitation of the chosen response, and a preference."""
    assert orpo_loss(*MEANS, 0.1)[0].item() == pytest.approx(1.5167567858, abs=1e-10)


@spec(
    "DIRECT-18",
    "The implicit reward of ORPO is the log odds of the mean log-probability.",
    formula="reward = log p − log(1 − p)",
    example="The pair of DIRECT-14: the rewards are 1.7014132780 apart.",
)
def test_the_rewards_of_orpo_are_worked_by_hand(orpo_loss):
    """The odds of p = e^−1.5 are 0.2872, those of e^−3 0.0524."""
    stats = orpo_loss(*MEANS, 0.1)[1]
    chosen, rejected = stat(stats, "chosen_reward"), stat(stats, "rejected_reward")
    assert chosen == pytest.approx(math.log(math.exp(-1.5) / (1 - math.exp(-1.5))))
    assert chosen - rejected == pytest.approx(1.7014132780, abs=1e-6)


@spec(
    "DIRECT-19",
    "The ORPO loss and its gradient are finite where a response is all but certain.",
    formula="log(1 − p) = log(−expm1(log p))",
    example="log p = −1e−8 in float32: log(1 − p) = −18.42.",
    differs="TRL #1473, #2564 and #3237: log1p(−exp(log p)) is −inf from log p > −6e−8 on",
)
def test_the_orpo_loss_is_finite_where_a_response_is_certain(orpo_loss):
    """The rejected one: log odds 18.42, and those of e^−1 are −0.54."""
    chosen, rejected = torch.tensor([-1.0]), torch.tensor([-1e-8], requires_grad=True)
    loss, stats = orpo_loss(chosen, rejected, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(1 + 18.42 + 0.54, abs=0.01)
    assert torch.isfinite(rejected.grad).all()


@spec(
    "DIRECT-20",
    "The ORPO loss and its gradient are finite where the odds are far in the wrong order.",
    formula="−log σ(x) = log(1 + e^−x)",
    example="Mean log-probabilities −200 and −1: the log odds are −199.46 apart; λ = 1: 399.46.",
    differs="orpo@208d2d6 takes the logarithm of a sigmoid, −inf from a difference of −104 on",
)
def test_the_orpo_loss_is_finite_far_in_the_wrong_order(orpo_loss):
    """Where it is infinite, the gradient is not a number."""
    chosen, rejected = torch.tensor([-200.0], requires_grad=True), torch.tensor([-1.0])
    loss, _ = orpo_loss(chosen, rejected, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(399.46, abs=0.01)
    assert torch.isfinite(chosen.grad).all()
