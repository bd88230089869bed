"""What differs on a GPU: where things are, and in what precision. Skipped where there is none."""

import numpy as np
import pytest
import torch

from minirlhf import model, ppo, reward
from minirlhf.config import rng
from minirlhf.data import Example
from minirlhf.generate import generate
from minirlhf.model import logprobs, response_mask

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [2, 2]]
UNIFORMS = torch.from_numpy(np.random.default_rng(0).random((4, 20), dtype=np.float32))


@pytest.fixture(autouse=True)
def float32_is_float32():
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def test_log_probabilities_are_those_of_the_cpu(make_gpt):
    """Tokens that wait on the CPU and tokens that are on the GPU alike."""
    gpt = make_gpt(context=40, std=0.3)
    samples = generate(gpt, PROMPTS, 20, end_token=0, uniforms=UNIFORMS)
    mask = response_mask(samples.prompt_lengths, samples.lengths, samples.tokens.size(1))
    expected = logprobs(gpt, samples.tokens, mask)
    gpt.cuda()
    for tokens in (samples.tokens, samples.tokens.cuda()):
        for there, here in zip(logprobs(gpt, tokens, mask), expected, strict=True):
            assert there.is_cuda
            torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=0)


def test_samples_are_those_of_the_cpu(make_gpt):
    """The same noise and the same weights: the same tokens, however the batch is compacted."""
    gpt = make_gpt(context=40, std=0.3)
    here = generate(gpt, PROMPTS, 20, end_token=0, uniforms=UNIFORMS)
    there = generate(gpt.cuda(), PROMPTS, 20, end_token=0, uniforms=UNIFORMS)
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one, other.cpu())


def test_scores_are_those_of_the_cpu(make_gpt):
    reward_model = reward.RewardModel(make_gpt(context=40, std=0.3))
    examples = [Example(prompt + [7] * i, len(prompt)) for i, prompt in enumerate(PROMPTS, 1)]
    expected = reward.score_examples(reward_model, examples)
    torch.testing.assert_close(reward.score_examples(reward_model.cuda(), examples), expected, atol=1e-4, rtol=0)


def test_an_update_moves_the_weights_as_on_the_cpu(make_gpt):
    """One optimiser step from the same rollout; and its first ratio is 1 to within 1e-4."""
    weights = []
    for device in ("cpu", "cuda"):
        gpt, reference = (make_gpt(context=40, std=0.3).to(device) for _ in range(2))
        actor = ppo.ActorCritic(gpt).to(device)
        samples = generate(gpt, PROMPTS, 20, end_token=0, uniforms=UNIFORMS)
        samples = samples._replace(prompt_lengths=samples.prompt_lengths.cpu(), lengths=samples.lengths.cpu())
        steps = ppo.plan(samples.lengths.tolist(), 1, 1, 30, rng(0, 0))
        told = ppo.score_tokens(actor, reference, samples, steps[0])
        rollout = ppo.make_rollout(samples, torch.tensor([1.0, -1, 0.5, 2]).to(device), *told, 0.1)
        stats = ppo.update(actor, model.adamw(actor, 1e-3, eps=1e-2), rollout, steps)
        assert abs(float(stats["ratio_max"]) - 1) < 1e-4
        weights.append([parameter.detach().cpu() for parameter in actor.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_auto_precision_is_bf16_and_the_head_stays_float32(make_gpt):
    gpt = make_gpt().cuda()
    gpt.precision = model.pick_precision("auto", gpt.device)
    hidden = gpt.hidden(torch.tensor([[1, 2, 3]], device="cuda"))
    assert gpt.precision == torch.bfloat16 and gpt.head(hidden).dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in gpt.parameters())
