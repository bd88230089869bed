"""A GPU gives the results of the CPU, and the CPU does not wait for it. Skipped without a GPU."""

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
from minirlhf.generate import Samples, generate
from minirlhf.model import logprobs, response_mask
from minirlhf.run import compute, optim
from minirlhf.run.config import MINIBATCHES, rng

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
    """Without TF32, whose 10-bit mantissa would hide an error of 1e-4."""
    allow_tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32


def test_log_probabilities_are_those_of_the_cpu(make_gpt):
    """To 1e-4, for tokens on the CPU and tokens on the GPU."""
    gpt = make_gpt(context=40, std=0.3)
    samples = generate(gpt, PROMPTS, 20, end_token=0, uniforms=UNIFORMS)
    mask = response_mask(samples.prompt_lengths, samples.lengths, samples.tokens.size(1))
    expected = logprobs(gpt, samples.tokens, mask)
    gpt.cuda()
    for tokens in (samples.tokens, samples.tokens.cuda()):
        for result, cpu_result in zip(logprobs(gpt, tokens, mask), expected, strict=True):
            assert result.is_cuda
            torch.testing.assert_close(result.cpu(), cpu_result, atol=1e-4, rtol=0)


def test_samples_are_those_of_the_cpu(make_gpt):
    """The same weights and the same noise give the same tokens."""
    gpt = make_gpt(context=40, std=0.3)
    cpu_samples = generate(gpt, PROMPTS, 20, end_token=0, uniforms=UNIFORMS)
    samples = generate(gpt.cuda(), PROMPTS, 20, end_token=0, uniforms=UNIFORMS)
    for expected, result in zip(cpu_samples, samples, strict=True):
        assert torch.equal(result.cpu(), expected)


def test_scores_are_those_of_the_cpu(make_gpt):
    """To 1e-4, for examples of unequal lengths, read at each one's last token."""
    reward_model = reward.RewardModel(make_gpt(context=40, std=0.3))
    examples = [Example(prompt + [7] * i, len(prompt)) for i, prompt in enumerate(PROMPTS, 1)]
    expected = reward.score_examples(reward_model, examples)
    scores = reward.score_examples(reward_model.cuda(), examples)
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)


def rollout_and_update(device, make_gpt, precision=torch.float32, critic=False):
    """(the weights after an optimiser step on a rollout, the update's statistics)"""
    gpt, reference = (make_gpt(context=40, std=0.3).to(device) for _ in range(2))
    gpt.precision = reference.precision = precision
    actor = ppo.ActorCritic(gpt, reward.RewardModel(reference) if critic else None).to(device)
    samples = generate(gpt, PROMPTS, 20, end_token=0, uniforms=UNIFORMS)
    lengths = {name: getattr(samples, name).cpu() for name in ("prompt_lengths", "lengths")}
    samples = samples._replace(**lengths)
    scores = torch.tensor([1.0, -1, 0.5, 2]).to(device)
    plan = ppo.plan(samples.lengths.tolist(), 1, 1, 30, rng(0, MINIBATCHES))
    logprobs, ref_logprobs, values = ppo.logprobs_and_values(actor, reference, samples, plan[0])
    rollout = loop_rollout(samples, scores, logprobs, ref_logprobs, values, kl_coef=0.1)
    stats = ppo.update(actor, optim.adamw(actor, 1e-3, eps=1e-2), rollout, plan)
    return [parameter.detach().cpu() for parameter in actor.parameters()], stats


@pytest.mark.parametrize("critic", [False, True])
def test_an_update_moves_the_weights_as_on_the_cpu(make_gpt, critic):
    """One optimiser step from the same rollout, to 1e-4. The first ratio is 1, to 1e-4."""
    torch.manual_seed(0)
    cpu_weights, _ = rollout_and_update("cpu", make_gpt, critic=critic)
    torch.manual_seed(0)
    weights, stats = rollout_and_update("cuda", make_gpt, critic=critic)
    assert abs(float(stats["ratio_max"]) - 1) < 1e-4
    for result, expected in zip(weights, cpu_weights, strict=True):
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


@native_bf16
def test_a_rollout_and_an_update_in_bf16(make_gpt):
    """The weights stay float32, and all of them change. The first ratio is 1 but for the rounding
    of bf16."""
    old = [p.detach().cpu() for p in make_gpt(context=40, std=0.3).parameters()]
    new, stats = rollout_and_update("cuda", make_gpt, torch.bfloat16)
    assert abs(float(stats["ratio_mean"]) - 1) < 0.05
    assert all(weight.dtype == torch.float32 for weight in new)
    assert not any(torch.equal(*pair) for pair in zip(old, new, strict=False))


def test_an_update_never_waits_for_the_gpu(make_gpt):
    """From the first microbatch to the last optimiser step the CPU reads no result. The statistics
    are tensors, which are read once, after the update."""
    actor = ppo.ActorCritic(make_gpt(context=40, std=0.3)).cuda()
    prompt_lengths, lengths = torch.tensor([3, 4, 2, 5]), torch.tensor([9, 12, 7, 8])
    mask = response_mask(prompt_lengths, lengths, 12).cuda()
    tokens = torch.randint(1, 13, (4, 12)).cuda()
    zeros = [torch.zeros(4, 11).cuda() for _ in range(7)]
    samples = Samples(tokens, prompt_lengths, lengths, torch.ones(4, dtype=torch.bool).cuda())
    rollout = ppo.Rollout(samples, mask, *zeros)
    optimizer = optim.adamw(actor, 1e-3)
    plan = ppo.plan(lengths.tolist(), 2, 1, 24, rng(0, MINIBATCHES))
    ppo.update(actor, optimizer, rollout, plan)  # the optimiser makes its state
    torch.cuda.set_sync_debug_mode("error")
    try:
        ppo.update(actor, optimizer, rollout, plan)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("task", speed.TASKS)
def test_our_side_of_every_task_of_the_benchmark_runs(make_gpt, tmp_path, task):
    """SFT, reward model and PPO as the scripts do them, whose batches come from the CPU."""
    gpt2.save_gpt2(make_gpt(context=40, std=0.3), tmp_path)
    rows = [Example([1, 2, 3, 0], 2), Example([1, 2, 4, 5, 0], 2)]
    shapes = dataclasses.replace(WORKLOADS["tiny"], new_tokens=6)
    job = Job(
        task=task,
        workload=shapes,
        folder=str(tmp_path),
        device=torch.device("cuda"),
        prompts=PROMPTS,
        batches=[[rows]] if task == "rm" else [rows],
        epochs=1,
        minibatches=1,
        nanogpt="",
        seed=1,
    )
    assert speed.OURS[task](job, torch.float32)()[1] > 0


def test_the_gpus_time_is_shared_out_once(make_gpt):
    """The profiler also records the kernel of a matrix product, under another name: its time must
    not count twice. A run of matrix products alone spends more than .9 of its time in them."""
    x = torch.randn(2048, 2048, device="cuda")
    shares = scaling.kinds(lambda: [x @ x for _ in range(20)], torch.device("cuda"))
    assert sum(shares.values()) == pytest.approx(1) and shares["matrix products"] > 0.9


@native_bf16
def test_auto_precision_is_bf16_and_the_head_stays_float32(make_gpt):
    """On a GPU that multiplies in bf16. bf16 logits would clip PPO's ratios."""
    gpt = make_gpt().cuda()
    name = compute.pick_precision("auto", gpt.device)
    gpt.precision = compute.PRECISIONS[name]
    hidden = gpt.hidden(torch.tensor([[1, 2, 3]], device="cuda"))
    assert gpt.precision == torch.bfloat16 and gpt.head(hidden).dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in gpt.parameters())
