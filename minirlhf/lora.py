"""LoRA (Hu et al. 2021): beside a frozen matrix W two small ones are trained, A and B of rank r.

    y = W x + b + (alpha / r) B A x               W (out, in), A (r, in), B (out, r)

B starts at zero, so that the model starts as it was, to the bit. W has no gradient and no state in
the optimiser, and nobody changes it. So it can be shared: `adapt` makes a second model out of the
same tensors. The reference of PPO is then the policy without its adapters, a trunk is in memory
once, and a reward model whose adapters stand beside the same trunk adds no other.

There is no dropout: the policy that sampled and the policy that is updated must be one function.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from minirlhf.run import config
from minirlhf.run.config import InputError


class LoRA(nn.Module):
    """A linear layer, the same tensors, with an adapter."""

    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        outputs, inputs = linear.weight.shape
        A = torch.randn(rank, inputs) / math.sqrt(inputs)  # A x has the variance of x
        self.A = nn.Parameter(A.to(linear.weight.device))
        self.B = nn.Parameter(linear.weight.new_zeros(outputs, rank))
        self.register_buffer("scale", linear.weight.new_tensor(alpha / rank))

    def forward(self, x):  # (..., in) -> (..., out)
        low_rank = self.scale * F.linear(x, self.A)  # (..., r)
        # In place: another tensor of this size would only be there to be added.
        return F.linear(x, self.weight, self.bias).add_(F.linear(low_rank, self.B))


def adapt(gpt, rank, alpha):
    """A GPT that shares all weights of `gpt`, which are frozen, with an adapter beside each linear
    layer: of the whole model these alone are trained. A is drawn from torch's generator."""
    if rank > gpt.config.width:
        problem = f"--lora {rank}: the matrices of this model have no more than rank"
        raise InputError(f"{problem} {gpt.config.width}; give a smaller one")
    gpt.requires_grad_(False)
    model = copy.deepcopy(gpt, {id(p): p for p in gpt.parameters()})  # modules, and no tensor
    for module in list(model.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, nn.Linear):
                setattr(module, name, LoRA(layer, rank, alpha))
    return model


def start(args, gpt):
    """The GPT that a stage trains from `gpt`: a copy, all of it; with --lora `adapt`."""
    if args.lora:
        with config.torch_seed(args.seed, config.ADAPTERS):
            model = adapt(gpt, args.lora, args.lora_alpha)
    else:
        model = copy.deepcopy(gpt).requires_grad_()
    model.gradient_checkpointing = args.gradient_checkpointing
    return model


def refuse_idle_flag(args):
    """InputError for --lora-alpha without --lora."""
    default = config.TrainingFlags.lora_alpha
    if getattr(args, "lora_alpha", default) != default and not args.lora:
        raise InputError(f"--lora-alpha {args.lora_alpha:g} needs --lora, the rank of the adapters")


# ---- what a checkpoint holds


def is_adapted(module):
    return any(isinstance(layer, LoRA) for layer in module.modules())


def merged(state):  # -> state dictionary
    """A state dictionary with the adapters in the weights, (alpha / r) B A added to each W: of a
    model without adapters that computes the same, up to rounding."""
    state = dict(state)
    for name in [name.removesuffix(".A") for name in state if name.endswith(".A")]:
        A, B, scale = (state.pop(f"{name}.{part}") for part in ("A", "B", "scale"))
        state[f"{name}.weight"] = state[f"{name}.weight"] + scale * (B @ A)
    return state


def adapters(module):  # -> state dictionary
    """What of a model with adapters was trained: all but the frozen weights, which it shares."""
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    return {name: x for name, x in module.state_dict().items() if name not in frozen}
