"""Functions that several test files use. Fixtures are in conftest.py."""

import copy
import dataclasses
import json
import random
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

import train_ppo
from minirlhf import ppo
from minirlhf.run.config import flag
from minirlhf.run.metrics import read_metrics

CLOCKS = ("rollout_s", "scoring_s", "update_s", "tokens_per_s")


@dataclasses.dataclass(frozen=True)
class Config:
    """The flags of a made-up stage."""

    out: str = flag("out", "folder")
    init: str = flag("", "where it starts from")
    steps: int = flag(6, "steps", low=1)
    updates: int = flag(6, "how long", low=1)
    target: float = flag(float("nan"), "something without a default")
    init: str = flag("", "what it starts from")
    sft: str = flag("", "the same, in a later stage")
    resume: bool = flag(False, "go on")
    overwrite: bool = flag(False, "replace")


# Flags of how data is read, held by test_forms.py, test_turns.py and test_data.py.
READING = {"form", "map", "template", "keep_turns", "drop_long", "skip_bad"}
# Flags of how much memory training takes, held by test_lora_run.py and test_memory_flags.py.
MEMORY = {"lora", "lora_alpha", "gradient_checkpointing"}


def contents(folder):
    """{path: bytes} of all files under a folder."""
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def logged(folder, name=None):
    """The lines of metrics.jsonl as text, without what depends on the clock; or the values of one
    metric, from the lines that have it. (As text, because NaN does not equal NaN.)"""
    lines = [{k: v for k, v in line.items() if k not in CLOCKS} for line in read_metrics(folder)]
    if name is None:
        return [json.dumps(line) for line in lines]
    return [line[name] for line in lines if name in line]


def saved(folder):
    """The dictionary in a run's checkpoint."""
    return torch.load(Path(folder) / "checkpoint.pt", weights_only=True)


def same(a, b):
    """Whether two nested structures of tensors and plain values are equal to the bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return a == b


def generators():
    """The state of every global random number generator."""
    name, keys, *rest = np.random.get_state()
    numpy_state = [name, keys.tolist(), *rest]
    return torch.get_rng_state().tolist(), numpy_state, random.getstate()


def gradient(module):
    """The gradients of a module as one vector; none counts as zero. They are cleared."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
    vector = torch.cat([part.flatten() for part in parts])
    module.zero_grad()
    return vector


def loop_rollout(samples, scores, logprobs, ref_logprobs, values, kl_coef, **flags):
    """The Rollout that train_ppo.py's iteration makes of these samples, scores, log-probabilities
    and values: what is tested is the loop itself."""
    rollouts = []
    ended = torch.ones(len(samples.lengths), dtype=torch.bool, device=samples.tokens.device)
    args = train_ppo.Config(epochs=1, minibatches=1, microbatch_tokens=10**6, **flags)
    actor = type("Actor", (), {"gpt": None})
    models = train_ppo.Models(actor, None, lambda *_: scores, -3.0, None)
    with (
        patch.object(train_ppo, "sample", lambda *_: (samples._replace(ended=ended), None)),
        patch.object(ppo, "logprobs_and_values", lambda *_: (logprobs, ref_logprobs, values)),
        patch.object(
            ppo, "update", lambda *arguments, **settings: rollouts.append(arguments[2]) or {}
        ),
    ):
        controller = ppo.AdaptiveKL(kl_coef, target=0, horizon=1)
        train_ppo.iterate(args, models, None, controller, [None] * len(scores), 0)
    return rollouts[0]


def moved(gpt):
    """A copy that learns, a little away from `gpt`: a policy that is not its reference any more."""
    policy = copy.deepcopy(gpt).requires_grad_()
    generator = torch.Generator().manual_seed(1)
    for parameter in policy.parameters():
        parameter.data += 0.03 * torch.randn(parameter.shape, generator=generator)
    return policy
