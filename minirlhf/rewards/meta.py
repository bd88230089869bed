"""MetaRM (Dou et al. 2024): a reward model that keeps telling the responses of the *present* policy
apart, though its labels are of older ones.

A step, on labelled pairs with the loss L and k unlabelled responses of the policy to each of some
prompts, between whose scores J is the difference:

    1. theta' = theta + eta grad J(theta)
    2. theta  = theta - alpha grad L(theta')        the gradient there, the step here

First order: nothing is differentiated through the ascent, as in the paper's algorithm. The meta
step asks which pairs also matter to the new responses: L(theta') = L + eta grad L . grad J + ...
J has no labels: it amplifies whatever order the model has already.

As published eta is about as large as alpha, 5e-6. But Adam's step moves *every* weight by about
alpha, and a plain gradient step of eta moves all of them together by eta |grad J|: it changes grad
L by next to nothing (docs/experiments.md has the sizes). The normalised step moves the
weights by eta in total, whatever the length of grad J.
"""

import torch

from minirlhf.run.compute import full_precision


@full_precision
def score_difference(scores, exists=None):  # (B, k), (B, k) bool -> scalar in [0, 1)
    """J: the mean over prompts of 2 / k^2 times the sum over pairs of sigmoid |r_i - r_j|. `exists`
    says where there is a response; k is their number.

    Of k equal scores J is (k - 1) / 2k, with no gradient: the texts of a prompt should differ.
    """
    exists = torch.ones_like(scores, dtype=torch.bool) if exists is None else exists
    gaps = (scores[:, :, None] - scores[:, None, :]).abs()  # (B, k, k), each pair twice
    pairs = (exists[:, :, None] & exists[:, None, :]).triu(1)
    sums = torch.where(pairs, torch.sigmoid(gaps), 0.0).sum((1, 2))
    return (2 * sums / exists.sum(1).clamp(min=1) ** 2).mean()


def meta_gradient(model, ascend, descend, eta, normalised=False):
    """Leave grad L(theta') in the gradients of `model`, whose weights stay theta. `ascend()` and
    `descend()` backpropagate J and L. Returns the length of grad J, and what `descend` returns.

    The weights are put back from a copy: subtracting the step again would leave its rounding. A
    model that does not tell the responses apart at all (grad J = 0) is not moved.
    """
    parameters = list(model.parameters())
    ascend()
    steps = take_gradients(parameters)
    length = torch.sqrt(sum(step.square().sum() for step in steps))
    scale = eta / length.clamp(min=1e-12) if normalised else eta
    copies = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, step in zip(parameters, steps, strict=True):
            parameter += scale * step
    result = descend()
    with torch.no_grad():
        for parameter, copy in zip(parameters, copies, strict=True):
            parameter.copy_(copy)
    return float(length), result


def take_gradients(parameters):
    """The gradients of parameters, zeros where there is none; they are cleared."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return gradients


def change(gradients, others):  # lists of tensors -> number
    """|others - gradients| / |gradients|: how much of a gradient is another one."""
    pairs = list(zip(gradients, others, strict=True))
    distance = sum((b - a).square().sum() for a, b in pairs)
    return float((distance / sum(a.square().sum() for a, _ in pairs)).sqrt())
