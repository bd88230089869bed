"""What the traces share: models that are tables of the logits and values of a case, an optimiser
that keeps the gradients of its first step, the positions of the tokens. No mathematics of PPO."""

import torch
from torch import nn


class Table(nn.Module):
    """A model whose answer at each position of each row is a row of parameters. The first token of
    a row says which row it is."""

    # answers (B, max_new_tokens, n) of the states that choose; `beyond` is the answer of all others
    def __init__(self, case, answers, beyond=0.0):
        super().__init__()
        self.case, self.first = case, torch.tensor([prompt[0] for prompt in case.prompts])
        longest = max(map(len, case.prompts)) + width(case)
        self.table = nn.Parameter(torch.full((len(answers), longest, answers.size(2)), beyond))
        for row, place, answer in zip(self.table.data, places(case), answers, strict=True):
            row[place] = answer

    def read(self, tokens, real, positions):  # (B, T) x 3 -> (B, T, n); padding is not `real`
        first = tokens.gather(1, real.int().argmax(1, keepdim=True))
        return self.table[(first == self.first).int().argmax(1, keepdim=True), positions.long()]

    def generation(self):  # -> (B, width, n), of the states that choose, and on into the padding
        starts = torch.tensor([place.start for place in places(self.case)])
        return torch.stack(
            [self.table[range(len(starts)), starts + t] for t in range(width(self.case))], dim=1
        )


class Watched(torch.optim.SGD):
    """Keeps the gradients of its first step, and counts its steps."""

    first, steps = None, 0

    def step(self, closure=None):
        self.first = self.first or [p.grad.clone() for p in self.param_groups[0]["params"]]
        self.steps += 1
        return super().step(closure)


def width(case):
    return case.max_new_tokens + case.pad


def places(case):
    """Row by row, the positions whose states choose response tokens."""
    return [
        slice(len(prompt) - 1, len(prompt) - 1 + case.max_new_tokens) for prompt in case.prompts
    ]


def in_place(table, case):  # (B, positions, n) -> (B, max_new_tokens, n)
    return torch.stack([row[place] for row, place in zip(table, places(case), strict=True)])


def left_padded(prompts, pad):
    longest = max(map(len, prompts))
    return torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])


def filled(case, token):  # -> (B, width), the responses and then only `token`
    padding = [token] * width(case)
    return torch.tensor([[*response, *padding][: width(case)] for response in case.responses])
