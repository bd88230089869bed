"""The specification of run/optim.py: AdamW and the learning rate."""

import copy
from itertools import pairwise

import pytest
import torch

from minirlhf.run import optim


def test_only_matrices_decay(make_gpt):
    """Every parameter is in exactly one group (PaLM-rlhf-pytorch leaves embeddings out:
    reward.py:74). With a gradient of zero, AdamW is p -= lr * decay * p."""
    gpt = make_gpt()
    weights = {name: parameter.detach().clone() for name, parameter in gpt.named_parameters()}
    optimizer = optim.adamw(gpt, lr=0.1, weight_decay=0.5)
    ids = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in gpt.parameters())
    for parameter in gpt.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in gpt.named_parameters():
        expected = weights[name] * (0.95 if parameter.dim() >= 2 else 1.0)
        torch.testing.assert_close(parameter.detach(), expected, msg=name)


def test_adamw_has_the_betas_and_eps_it_is_given(make_gpt):
    """One step with gradient g moves a weight by lr * g / (|g| + eps): with g = eps, by half the
    learning rate. Frozen parameters are in no group. (minChatGPT passes its first beta twice:
    trainers.py:123.)"""
    gpt = make_gpt()
    gpt.position_embedding.weight.requires_grad_(False)
    optimizer = optim.adamw(gpt, lr=0.1, betas=(0.8, 0.7), eps=1e-3)
    assert all(group["betas"] == (0.8, 0.7) for group in optimizer.param_groups)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(p is not gpt.position_embedding.weight for p in parameters)
    bias = gpt.norm.bias.detach().clone()
    gpt.norm.bias.grad = torch.full((16,), 1e-3)
    optimizer.step()
    change = bias - gpt.norm.bias.detach()
    torch.testing.assert_close(change, torch.full((16,), 0.05), atol=1e-5, rtol=0)
    optim.set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_a_head_has_a_multiple_of_the_learning_rate_of_the_rest(make_gpt):
    """A first step of Adam is as long as the learning rate, whatever the gradient. Nothing else
    differs: matrices of both decay, and every parameter is in one group."""
    model = torch.nn.ModuleDict({"gpt": make_gpt(), "head": torch.nn.Linear(16, 1)})
    before = copy.deepcopy(model.state_dict())
    optimizer = optim.adamw(model, lr=0.1, head=model["head"], head_scale=5.0, weight_decay=0.5)
    ids = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0, 0.5, 0]
    optim.set_learning_rate(optimizer, 0.01)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        rate = 0.05 if name.startswith("head") else 0.01
        decay = 1 - 0.5 * rate if parameter.dim() >= 2 else 1
        torch.testing.assert_close(parameter.detach(), before[name] * decay - rate, msg=name)


def test_by_default_adamw_has_betas_of_point_9_and_point_99_and_no_decay(make_gpt):
    """It is also fused: one kernel updates all parameters. torch's defaults are a beta of .999, for
    runs of many thousands of steps, and a decay of .01."""
    optimizer = optim.adamw(make_gpt(), lr=0.1)
    names = "betas", "eps", "weight_decay", "lr", "fused"
    settings = [tuple(group[name] for name in names) for group in optimizer.param_groups]
    assert settings == 2 * [((0.9, 0.99), 1e-8, 0.0, 0.1, True)]


def test_the_learning_rate_warms_up_linearly_and_falls_to_a_tenth():
    """Worked by hand, 14 steps of which 4 warm up: 1/4, 2/4, 3/4, 1, then a half cosine from 1
    down, whose middle is 0.55. The first step does not have a rate of zero. The two cases at the
    end have no step and one step in which to fall; neither divides by zero."""
    shares = [optim.cosine(step, 14, 4) for step in range(15)]
    assert shares[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert shares[9] == pytest.approx(0.55)
    assert shares[14] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(shares[4:]))
    assert optim.cosine(0, 10, 0) == 1.0
    assert optim.cosine(3, 3, 3) == 1.0
    assert optim.cosine(4, 4, 3) == pytest.approx(0.1)


def test_the_linear_schedule_warms_up_and_falls_to_one_step_above_zero():
    """Worked by hand, 10 steps of which 4 warm up: 1/4 of 1, 2/4 of .9, 3/4 of .8, all of .7, then
    down by a tenth a step. Without a warm-up it begins at 1."""
    shares = [optim.linear(step, 10, 4) for step in range(10)]
    assert shares == pytest.approx([0.25, 0.45, 0.6, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert [optim.linear(step, 2, 0) for step in range(2)] == [1, 0.5]


def test_the_learning_rate_that_is_logged_is_that_of_all_but_the_head(make_gpt):
    model = torch.nn.ModuleDict({"gpt": make_gpt(), "head": torch.nn.Linear(16, 1)})
    optimizer = optim.adamw(model, lr=0.1, head=model["head"], head_scale=5.0)
    optim.set_learning_rate(optimizer, 0.02)
    assert optim.learning_rate(optimizer) == 0.02


def test_the_size_of_the_weights_is_over_all_that_are_trained(make_gpt):
    """Matrices, biases and the head; a frozen weight is none of them, however large it is."""
    gpt = make_gpt()
    model = torch.nn.ModuleDict({"gpt": gpt, "head": torch.nn.Linear(16, 1)})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=2.0 if parameter.dim() < 2 else 0.5)
        gpt.position_embedding.weight.fill_(100.0)
    gpt.position_embedding.weight.requires_grad_(False)
    optimizer = optim.adamw(model, lr=0.1, head=model["head"], head_scale=5.0)
    trained = [p.detach().double().flatten() for p in model.parameters() if p.requires_grad]
    expected = float(torch.cat(trained).square().mean().sqrt())
    assert optim.weight_rms(optimizer) == pytest.approx(expected, rel=1e-5)
    matrices = torch.cat([p.detach().flatten() for p in gpt.parameters() if p.dim() >= 2])
    assert abs(float(matrices.square().mean().sqrt()) - expected) > 0.1
