"""The optimiser of every stage, and its learning rate."""

import math

import torch

from minirlhf.run.config import Divergence


def adamw(model, lr, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0):
    """Fused AdamW (Loshchilov and Hutter 2019) of the parameters that require a gradient. Weight
    decay is for matrices only: biases and layer norms have no reason to be small."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)


def set_learning_rate(optimizer, lr):
    """The same learning rate for all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def learning_rate(optimizer):
    return optimizer.param_groups[0]["lr"]


def cosine(step, steps, warmup):
    """The learning rate at `step`, as a share of its peak: a linear warm-up over `warmup` steps,
    then half a cosine down to 10% at the end of `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def weight_rms(optimizer):
    """The root mean square of all weights that are trained."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.get_total_norm(weights)
    return float(norm) / math.sqrt(sum(p.numel() for p in weights))


def require_finite(step, **numbers):
    """Divergence if a number of a training step is NaN or infinite. Called before the optimiser
    step or before the checkpoint, so that the last checkpoint stays a good one."""
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise Divergence(
                f"{name} is {float(value)} at step {step}: training diverged. The learning rate is "
                "the usual cause; lower --lr. The last checkpoint is as it was"
            )
