"""MetaRM's step, rewards/meta.py; its J is in spec/test_meta_difference.py."""

import pytest
import torch
from helpers import gradient
from spec.tensors import normal
from torch import nn

from minirlhf import reward
from minirlhf.data import Comparison
from minirlhf.rewards import meta
from minirlhf.tokenizer import get_tokenizer
from minirlhf.tools import meta as command

SIDES = torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=torch.float64)  # chosen, rejected
NEW = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
ETA, ALPHA = 0.4, 0.1


class Linear(nn.Module):
    """r = theta . x"""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([0.5, -0.25], dtype=torch.float64))
        self.visited = []  # theta at each descent

    def ascend(self):
        meta.score_difference((NEW @ self.theta)[None]).backward()

    def descend(self):
        self.visited.append(self.theta.detach().clone())
        chosen, rejected = SIDES @ self.theta
        loss = reward.preference_loss(chosen[None], rejected[None])
        loss.backward()
        return loss.item()


def close(a, *numbers):
    torch.testing.assert_close(a, torch.tensor(numbers, dtype=torch.float64), rtol=0, atol=1e-9)


def test_a_meta_step_is_worked_by_hand():
    """The gradient is taken at theta', and applied to theta. Second order would give
    (.5435825810, -.2063124804), from theta' (.5840643658, -.2474403259), without a meta step
    (.5437823499, -.2062176501)."""
    model = Linear()
    length, loss = meta.meta_gradient(model, model.ascend, model.descend, ETA)
    assert length == pytest.approx((0.1006441569**2 + 0.1031175726**2) ** 0.5, abs=1e-9)
    close(model.visited[0], 0.5402576628, -0.2912470290)
    assert loss == pytest.approx(0.5763727081, abs=1e-9)
    close(model.theta.grad, -0.4380670308, -0.4380670308)
    torch.optim.SGD(model.parameters(), lr=ALPHA).step()
    close(model.theta.detach(), 0.5438067031, -0.2061932969)


def test_a_normalised_step_has_the_length_eta():
    """However flat J is; its direction is that of the published one."""
    model = Linear()
    start = model.theta.detach().clone()
    for normalised in (True, False):
        meta.meta_gradient(model, model.ascend, model.descend, ETA, normalised)
        model.zero_grad()
    steps = [visited - start for visited in model.visited]
    assert steps[0].norm().item() == pytest.approx(ETA, abs=1e-12)
    torch.testing.assert_close(steps[0] / steps[0].norm(), steps[1] / steps[1].norm())


def test_a_model_that_tells_nothing_apart_is_not_moved():
    """Its J has no gradient, which has no direction."""
    model = Linear()
    model.theta.data.zero_()
    meta.meta_gradient(model, model.ascend, model.descend, ETA, normalised=True)
    assert model.visited[0].tolist() == [0, 0] and model.theta.tolist() == [0, 0]


# ---- on a reward model

GROUPS = [  # unlabelled: 2, 3 and 4 different responses
    Comparison("name one", ["blue", "I would rather not"], [0, 0]),
    Comparison("and?", ["red", "a", "blue and green"], [0, 0, 0]),
    Comparison("", ["yes", "no", "perhaps", "blue"], [0, 0, 0, 0]),
]


@pytest.fixture
def model(make_gpt):
    return reward.RewardModel(make_gpt(vocab_size=get_tokenizer().vocab_size, std=0.2))


def test_the_weights_stay_what_they_were_to_the_bit(model):
    """Subtracting the ascent again would leave its rounding in them."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    changed = []

    def descend():
        changed.append(any(not torch.equal(p, before[name]) for name, p in named(model)))

    meta.meta_gradient(model, lambda: spread(model), descend, eta=0.3)
    assert changed == [True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def named(model):
    return model.named_parameters()


def spread(model, groups=GROUPS, microbatch_tokens=1000):
    return command.spread(model, get_tokenizer(), groups, microbatch_tokens)


def test_without_an_ascent_the_gradient_is_that_of_the_labels_to_the_bit(model):
    """eta 0 is train_rm.py's step. The gradient of J is not left in it."""

    def descend():
        model.raw(torch.tensor([[1, 2, 3]]), torch.tensor([3])).sum().backward()

    descend()
    expected = gradient(model)
    meta.meta_gradient(model, lambda: spread(model), descend, eta=0.0)
    assert torch.equal(gradient(model), expected)


def test_j_of_a_batch_is_the_mean_over_prompts_of_any_number_of_responses(model):
    """A group of two is not filled up with scores of 0."""
    scores = [
        reward.score(model, get_tokenizer(), [c.prompt] * len(c.responses), c.responses, raw=True)
        for c in GROUPS
    ]
    expected = sum(meta.score_difference(row[None]).item() for row in scores) / 3
    assert spread(model) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("microbatch_tokens", [1, 30])
def test_the_gradient_of_j_does_not_depend_on_the_microbatches(model, microbatch_tokens):
    """Their sizes differ."""
    value = spread(model)
    whole = gradient(model)
    assert spread(model, GROUPS, microbatch_tokens) == pytest.approx(value, abs=1e-6)
    torch.testing.assert_close(gradient(model), whole, rtol=1e-4, atol=1e-7)
    assert whole.norm() > 1e-4


def test_an_ascent_tells_more_apart(model):
    """J grows along its gradient."""
    values = [spread(model)]
    model.zero_grad()
    meta.meta_gradient(model, lambda: spread(model), lambda: values.append(spread(model)), 0.05)
    assert values[1] > values[0] + 1e-4


def test_the_change_of_a_gradient_is_relative():
    """What is logged says how much of the gradient is another one for the meta step: 0 nothing."""
    gradients = [normal(3, 2), normal(4, seed=1)]
    assert meta.change(gradients, gradients) == 0
    assert meta.change(gradients, [2 * g for g in gradients]) == pytest.approx(1, abs=1e-6)
    assert meta.change(gradients, [-g for g in gradients]) == pytest.approx(2, abs=1e-6)
