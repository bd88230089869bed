"""The optimiser of every stage, and its learning rate."""

import math

import torch


def adamw(model, lr, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0):
    """Fused AdamW. Only matrices decay: biases and layer norms have no reason to be small."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)


def set_learning_rate(optimizer, lr):
    for group in optimizer.param_groups:
        group["lr"] = lr


def learning_rate(optimizer):
    return optimizer.param_groups[0]["lr"]


def cosine(step, steps, warmup):
    """The share of the peak learning rate at `step`: a linear warm-up over `warmup` steps, then
    half a cosine to 10%."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))
