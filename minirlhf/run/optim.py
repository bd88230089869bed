"""The optimiser of every stage, and its learning rate."""

import math

import torch

from minirlhf.run.config import Divergence


def adamw(model, lr, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, head=None, head_scale=1.0):
    """Fused AdamW (Loshchilov and Hutter 2019) of the parameters that require a gradient. Those of
    `head`, a module of the model, have `head_scale` times the learning rate of the others."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    own = set(head.parameters()) if head else set()
    groups = decay_groups([p for p in parameters if p not in own], weight_decay)
    if head:
        groups += decay_groups([p for p in parameters if p in own], weight_decay, head_scale)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)


def decay_groups(parameters, weight_decay, scale=1.0):
    """Weight decay is for matrices only: biases and layer norms have no reason to be small."""
    matrices = [p for p in parameters if p.dim() >= 2]
    others = [p for p in parameters if p.dim() < 2]
    return [
        {"params": matrices, "weight_decay": weight_decay, "scale": scale},
        {"params": others, "weight_decay": 0.0, "scale": scale},
    ]


def set_learning_rate(optimizer, lr):
    """The learning rate of all parameters; those of a head have a multiple of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


def learning_rate(optimizer):
    return optimizer.param_groups[0]["lr"]


def cosine(step, steps, warmup):
    """The learning rate at `step`, as a share of its peak: a linear warm-up over `warmup` steps,
    then half a cosine down to 10% at the end of `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


def linear(step, steps, warmup):
    """The learning rate at `step`, as a share of its peak: a straight line from 1 down to 1 / steps
    at the last step, times a linear warm-up over `warmup` steps."""
    return (1 - step / steps) * min(1, (step + 1) / max(1, warmup))


@torch.no_grad()
def weight_rms(optimizer):
    """The root mean square of all weights that are trained."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.get_total_norm(weights)
    return float(norm) / math.sqrt(sum(p.numel() for p in weights))


EARLY = ("loss", "score", "kl", "return_mean")  # before the optimiser step, or PPO's first one


def require_finite(step, **numbers):
    """Divergence if a number of a training step is NaN or infinite. Called before the optimiser
    step or before the checkpoint, so that the last checkpoint stays a good one."""
    for name, value in numbers.items():
        if not math.isfinite(value):
            cause = "training diverged. The learning rate is the usual cause; lower --lr"
            if step == 0 and name in EARLY:
                cause = "no step was made yet, so scores or a flag are too large for float32"
            problem = f"{name} is {float(value)} at step {step}: {cause}"
            raise Divergence(f"{problem}. The last checkpoint is as it was")
