"""Which questions say most about a reward model: a D-optimal design (Scheid et al. 2024; Mukherjee
et al. 2024).

The reward is taken as linear in the reward model's last state, so that a pair of responses speaks
about one direction: the difference of their states. V sums the directions that were asked about,
and the next question is the one that lets det V grow most. The pairs whose order is least certain
are another choice, and a bad one: they are ties.
"""

import numpy as np
import torch

from minirlhf.data import collate, encode, microbatches


def in_optimal_order(asked, answered, states):
    """The Questions of `asked`: first those of `answered`, which are in V from the start, then the
    most informative ones. `states(questions)` gives an array (K, C) for each.

    The order goes on from what was answered, so that it is the same for who stops and starts again.
    """
    directions = [differences(group) for group in scaled(states(asked))]
    rows = {question.key: row for row, question in enumerate(asked)}
    first = [rows[question.key] for question in answered if question.key in rows]
    order = Design(directions[0].shape[1]).order(directions, first)
    return [asked[row] for row in [*first, *order]]


@torch.no_grad()
def last_states(reward_model, tokenizer, asked, max_tokens=2048):
    """The reward model's state at the end of each response: an array (K, C) for each Question."""
    examples = [encode(tokenizer, q.prompt, text) for q in asked for text in q.responses]
    states = torch.zeros(len(examples), reward_model.gpt.config.width)
    for rows in microbatches([len(example.tokens) for example in examples], max_tokens):
        tokens, _, lengths = collate([examples[row] for row in rows])
        device = reward_model.mean.device
        states[rows] = reward_model.features(tokens.to(device), lengths.to(device)).float().cpu()
    sizes = [len(question.responses) for question in asked]
    return np.split(states.double().numpy(), np.cumsum(sizes)[:-1])


def scaled(groups):
    """Arrays (K, C) with every column divided by its standard deviation, and then all by one
    number, so that the squared differences of two responses to a prompt sum to 1 on average. A few
    columns are huge otherwise, and decide alone."""
    spread = np.concatenate(groups).std(axis=0)
    groups = [group / np.where(spread > 0, spread, 1) for group in groups]
    mean = np.mean([np.square(differences(group)).sum(1).mean() for group in groups])
    return [group / np.sqrt(mean if mean > 0 else 1) for group in groups]


def differences(states):  # (K, C) -> (pairs, C)
    """Of every two responses."""
    first, second = np.triu_indices(len(states), 1)
    return states[first] - states[second]


class Design:
    """V = ridge I + the sum of the outer products of what was asked about. `ridge` is 1 / C."""

    def __init__(self, width, ridge=None):
        self.inverse = np.eye(width) / (1 / width if ridge is None else ridge)

    def add(self, direction):  # (C,) -> (C,)
        """V + vv', by Sherman and Morrison's formula. Returns V^-1 v / sqrt(1 + v' V^-1 v), with
        the old V: what v' V^-1 v loses for another w is the square of its product with w."""
        solved = self.inverse @ direction
        change = solved / np.sqrt(1 + direction @ solved)
        self.inverse -= np.outer(change, change)
        return change

    def order(self, directions, first=(), count=None):
        """The rows of `directions`, a list of (pairs, C), without those of `first`, which are added
        before: always the row next whose pairs have the largest sum of v' V^-1 v. The first `count`
        of them, or all.

        det(V + vv') = det V (1 + v' V^-1 v), so that for questions of one pair each step is the
        best one.
        """
        table = np.concatenate(directions)
        owners = np.repeat(np.arange(len(directions)), list(map(len, directions)))
        gains = np.einsum("pc,cd,pd->p", table, self.inverse, table)
        order, sums = [], np.zeros(len(directions))
        steps = len(directions) if count is None else min(len(directions), len(first) + count)
        for step in range(steps):
            sums[:] = np.bincount(owners, gains)
            sums[[*first[:step], *order]] = -np.inf
            row = first[step] if step < len(first) else int(sums.argmax())
            for direction in directions[row]:
                gains -= np.square(table @ self.add(direction))
            if step >= len(first):
                order.append(row)
        return order
