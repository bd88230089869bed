"""The score of several reward models and of PAR, of toy models, computed again a reply at a time;
and how processes share the work of credit."""

import hashlib
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recorder import TOKENIZER, loop_scores, save_reward_model, toy_gpt

from minirlhf import evaluate
from minirlhf.data import Example
from minirlhf.generate import Samples
from minirlhf.reward import RewardModel
from minirlhf.rewards import credit, ensemble
from minirlhf.run import config

ARGS = {"combine": "mean-std", "par": 3, "seed": 7, "max_new_tokens": 5, "temperature": 0.6}
PROMPTS = ["Who is it?\n", "What do you say?\n", "No.\n"]


def toy_reward_model(seed, std):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RewardModel(toy_gpt(seed))
    model.mean.fill_(0.1 * seed)
    model.std.fill_(std)
    return model


MODELS = [toy_reward_model(3, 0.5), toy_reward_model(4, 1.7)]
SFT = toy_gpt(9)


def responses(prompts, noise, args):
    """SFT replies; one that was cut off has the end token in the place of its last one."""
    replies = evaluate.respond(SFT, TOKENIZER, prompts, noise, args.temperature)
    found = []
    for reply in replies:
        tokens, start = reply.example
        tokens = tokens if reply.ended else [*tokens[:-1], TOKENIZER.end_token]
        found.append(reply._replace(example=Example(tokens, start)))
    assert 0 < sum(reply.ended for reply in replies) < len(replies) or len(replies) < 9
    return found


def combined(models, replies, how):
    scores = np.array([loop_scores(model, replies) for model in models])
    spread = scores.std(0)
    values = {"mean": scores.mean(0), "worst": scores.min(0), "mean-std": scores.mean(0) - spread}
    return values[how], spread.mean()


def plain(models, prompts, replies, args):
    """The score before it is normalised: PAR's win rate, in units of the mean standard deviation
    of the models."""
    scores, _ = combined(models, replies, args.combine)
    if not args.par:
        return scores
    unit, rates = np.mean([float(model.std) for model in models]), []
    for prompt, score in zip(prompts, scores, strict=True):
        step = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big")
        draw = config.rng(args.seed, config.COMPARED_RESPONSES, step).random
        others = responses([prompt] * args.par, draw((args.par, 5), dtype=np.float32), args)
        difference = unit * (score - combined(models, others, args.combine)[0])
        rates.append(np.mean(1 / (1 + np.exp(-difference))))
    return np.array(rates)


@pytest.mark.parametrize(
    ("how", "par", "count"),
    [("mean", 3, 1), *((how, par, 2) for how in ensemble.COMBINATIONS for par in (0, 3))],
)
def test_a_robust_score_is_computed_again_a_reply_at_a_time(how, par, count):
    """From the noise of the seed, which is another one for every prompt, at the temperature of the
    run. The disagreement is about what was asked, and not about what it was compared with."""
    args = SimpleNamespace(**ARGS | {"combine": how, "par": par})
    models = MODELS[:count]
    score = ensemble.robust(args, None, models, SFT, TOKENIZER, PROMPTS)
    noise = config.rng(7, config.NORM_RESPONSES).random((12, 5), dtype=np.float32)
    repeated = [prompt for prompt in PROMPTS for _ in range(4)]
    values = plain(models, repeated, responses(repeated, noise, args), args).reshape(3, 4)
    mean, std = values.mean(), np.sqrt(values.var(1, ddof=1).mean())
    other = np.sqrt(values.var(0, ddof=1).mean())
    assert not par or abs(np.log(std / other)) > 0.1
    noise = config.rng(1, config.ROLLOUTS).random((3, 5), dtype=np.float32)
    prompts = ["Yes.\n", PROMPTS[0], "Who was it?\n"]  # two of them are new
    replies = responses(prompts, noise, args)
    expected = (plain(models, prompts, replies, args) - mean) / std
    assert score(prompts, replies).numpy() == pytest.approx(expected, rel=1e-3, abs=1e-4)
    spread = combined(models, replies, how)[1] if count > 1 else math.nan
    assert score.disagreement == pytest.approx(spread, rel=1e-4, nan_ok=True)
    assert ensemble.stats(score) == ({"disagreement": score.disagreement} if count > 1 else {})


def test_the_missing_end_score_is_that_of_the_first_of_several_reward_models(tmp_path):
    """Its name stands first in --rm."""
    paths = [tmp_path / name for name in "ab"]
    for n, path in enumerate(paths):
        save_reward_model(path, 5 + n, -3.0 - n)
    models, missing_end = ensemble.load(paths, TOKENIZER, "cpu", torch.float32)
    assert len(models) == 2 and missing_end == -3.0


def test_what_several_processes_say_of_single_tokens_is_put_together(monkeypatch):
    """Each asks the reward model about rows of its own."""
    tokens = torch.tensor([[4, 5, 6, 7], [4, 5, 0, 0], [4, 8, 9, 0]])
    lengths = torch.tensor([4, 2, 3])
    samples = Samples(tokens, torch.ones(3, dtype=torch.long), lengths, torch.ones(3).bool())

    def double(tokens, lengths):
        return 2.0 * tokens

    whole, parts = credit.by_rows(samples, double, 100), []
    monkeypatch.setattr(credit.distributed, "total", lambda x: parts.append(x) or sum(parts))
    for rows in ([[0, 2]], [[1]]):
        monkeypatch.setattr(credit, "own_microbatches", lambda *_, own=rows: own)
        result = credit.by_rows(samples, double, 100)
    assert len(parts) == 2 and not torch.equal(parts[1][:, 1:], whole)
    assert torch.equal(result, whole) and torch.equal(whole, 2.0 * tokens[:, 1:])
