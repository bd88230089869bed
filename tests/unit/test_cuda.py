"""What differs on a GPU: where things are, and in what precision. Skipped where there is none."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import loop_rollout

from minirlhf import ppo, reward
from minirlhf.bench import scaling, speed
from minirlhf.bench.workload import WORKLOADS, Job
from minirlhf.data import Example
from minirlhf.formats import gpt2
from minirlhf.generate import generate
from minirlhf.model import logprobs, response_mask
from minirlhf.run import compute, optim
from minirlhf.run.config import rng

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]

native_bf16 = pytest.mark.skipif(
    not torch.cuda.is_available() or not torch.cuda.is_bf16_supported(including_emulation=False),
    reason="no bf16 here",
)
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
    torch.testing.assert_close(
        reward.score_examples(reward_model.cuda(), examples), expected, atol=1e-4, rtol=0
    )


def rollout_and_update(device, make_gpt, precision=torch.float32, critic=False):
    """(weights after an optimiser step from a rollout, the stats)"""
    gpt, reference = (make_gpt(context=40, std=0.3).to(device) for _ in range(2))
    gpt.precision = reference.precision = precision
    actor = ppo.ActorCritic(gpt, reward.RewardModel(reference) if critic else None).to(device)
    samples = generate(gpt, PROMPTS, 20, end_token=0, uniforms=UNIFORMS)
    samples = samples._replace(
        prompt_lengths=samples.prompt_lengths.cpu(), lengths=samples.lengths.cpu()
    )
    steps = ppo.plan(samples.lengths.tolist(), 1, 1, 30, rng(0, 0))
    told = ppo.score_tokens(actor, reference, samples, steps[0])
    rollout = loop_rollout(samples, torch.tensor([1.0, -1, 0.5, 2]).to(device), *told, 0.1)
    stats = ppo.update(actor, optim.adamw(actor, 1e-3, eps=1e-2), rollout, steps)
    return [parameter.detach().cpu() for parameter in actor.parameters()], stats


@pytest.mark.parametrize("critic", [False, True])
def test_an_update_moves_the_weights_as_on_the_cpu(make_gpt, critic):
    """One optimiser step from the same rollout; and its first ratio is 1 to within 1e-4."""
    torch.manual_seed(0)
    here, _ = rollout_and_update("cpu", make_gpt, critic=critic)
    torch.manual_seed(0)
    there, stats = rollout_and_update("cuda", make_gpt, critic=critic)
    assert abs(float(stats["ratio_max"]) - 1) < 1e-4
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@native_bf16
def test_a_rollout_and_an_update_in_bf16(make_gpt):
    """Weights stay float32 and learn; the first ratio is 1 but for the rounding of bf16."""
    before = [parameter.detach().cpu() for parameter in make_gpt(context=40, std=0.3).parameters()]
    after, stats = rollout_and_update("cuda", make_gpt, torch.bfloat16)
    assert abs(float(stats["ratio_mean"]) - 1) < 0.05
    assert all(weight.dtype == torch.float32 for weight in after)
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=False))


def test_an_update_never_waits_for_the_gpu(make_gpt):
    """From the first microbatch to the last optimiser step nothing is read back; the stats are, once, by whoever wants them."""
    gpt = make_gpt(context=40, std=0.3).cuda()
    actor, lengths = ppo.ActorCritic(gpt).cuda(), torch.tensor([9, 12, 7, 8])
    mask = response_mask(torch.tensor([3, 4, 2, 5]), lengths, 12).cuda()
    tokens, numbers = (
        torch.randint(1, 13, (4, 12)).cuda(),
        [torch.zeros(4, 11).cuda() for _ in range(7)],
    )
    rollout = ppo.Rollout(tokens, torch.tensor([3, 4, 2, 5]), lengths, mask, *numbers)
    optimizer, steps = optim.adamw(actor, 1e-3), ppo.plan(lengths.tolist(), 2, 1, 24, rng(0, 0))
    ppo.update(actor, optimizer, rollout, steps)  # the optimiser makes its state
    torch.cuda.set_sync_debug_mode("error")
    try:
        ppo.update(actor, optimizer, rollout, steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("task", speed.TASKS)
def test_our_side_of_every_task_of_the_benchmark_runs(make_gpt, tmp_path, task):
    """SFT, reward model and PPO as the scripts do them, whose batches come from the CPU."""
    gpt2.save_gpt2(make_gpt(context=40, std=0.3), tmp_path)
    rows = [Example([1, 2, 3, 0], 2), Example([1, 2, 4, 5, 0], 2)]
    shapes = dataclasses.replace(WORKLOADS["tiny"], new_tokens=6)
    job = Job(
        task,
        shapes,
        str(tmp_path),
        torch.device("cuda"),
        PROMPTS,
        [[rows]] if task == "rm" else [rows],
        1,
        1,
        "",
        1,
    )
    assert speed.OURS[task](job, torch.float32)()[1] > 0


def test_the_gpus_time_is_shared_out_once(make_gpt):
    """Of a matrix product nearly all is a matrix product's, though the GPU's own record names its kernel otherwise."""
    x = torch.randn(2048, 2048, device="cuda")
    shares = scaling.kinds(lambda: [x @ x for _ in range(20)], torch.device("cuda"))
    assert sum(shares.values()) == pytest.approx(1) and shares["matrix products"] > 0.9


@native_bf16
def test_auto_precision_is_bf16_and_the_head_stays_float32(make_gpt):
    gpt = make_gpt().cuda()
    gpt.precision = compute.pick_precision("auto", gpt.device)
    hidden = gpt.hidden(torch.tensor([[1, 2, 3]], device="cuda"))
    assert gpt.precision == torch.bfloat16 and gpt.head(hidden).dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in gpt.parameters())
