"""`minirlhf memory`: the estimate is what torch allocates."""

import dataclasses
import os

import pytest
import torch

from minirlhf.bench import footprint, memory, peak
from minirlhf.generate import KVCache
from minirlhf.model import GPT, GPTConfig
from minirlhf.run import optim
from minirlhf.run.config import InputError

os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler's own messages

SHAPES = {  # vocabulary, context, layers, heads, width
    "nano": GPTConfig(300, 64, 2, 2, 64),
    "deep": GPTConfig(300, 64, 6, 2, 64),
    "wide": GPTConfig(300, 64, 2, 4, 256),
    "wordy": GPTConfig(8_000, 64, 2, 2, 64),
}
WORK = footprint.Work(
    stage="sft",
    shape=SHAPES["nano"],
    batch_size=24,
    prompt_tokens=16,
    new_tokens=24,
    responses=4,
    minibatches=2,
    microbatch_tokens=500,
    sampled_rows=0,
)
SAMPLED = {"rm": 48, "ppo": 48, "grpo": 24}


def work_of(stage, shape="nano", **changes):
    batch = {"rm": 8, "dpo": 8}.get(stage, 24)
    sizes = {"shape": SHAPES[shape], "batch_size": batch, "sampled_rows": SAMPLED.get(stage, 0)}
    sizes["minibatches"] = 2 if stage in ("ppo", "grpo") else 1
    return dataclasses.replace(WORK, stage=stage, **(sizes | changes))


def estimate(work):
    return sum(footprint.peak(work)[1].values())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stage", footprint.STAGES)
def test_the_estimate_of_a_stage_is_within_15_percent_of_what_torch_allocates(stage, shape):
    work = work_of(stage, shape)
    assert estimate(work) == pytest.approx(peak.tensors(work, seed=1), rel=0.15)


OTHERWISE = {
    "adapters": work_of("ppo", "wide", lora=8),
    "adapters, critic": work_of("ppo", "wide", lora=8, separate_critic=True),
    "adapters, rm": work_of("rm", "deep", lora=8),
    "adapters, dpo": work_of("dpo", "wide", lora=8),
    "recomputed": work_of("ppo", "deep", gradient_checkpointing=True),
    "recomputed, sft": work_of("sft", "deep", gradient_checkpointing=True),
    "critic": work_of("ppo", "wide", separate_critic=True),
    "bf16": work_of("sft", "deep", bf16=True),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_so_it_is_with_adapters_recomputed_activations_a_critic_and_bf16(name):
    work = OTHERWISE[name]
    assert estimate(work) == pytest.approx(peak.tensors(work, seed=1), rel=0.15)


def test_weights_gradients_adam_and_cache_are_counted_to_the_byte():
    shape = SHAPES["nano"]
    work = work_of("ppo", sampled_rows=5)
    gpt = GPT(shape)
    sizes = [p.numel() * p.element_size() for p in gpt.parameters()]
    assert footprint.weights(shape) == footprint.trained(work) == sum(sizes)
    gpt(torch.zeros(1, 2, dtype=torch.long)).sum().backward()
    optimizer = optim.adamw(gpt, 1e-3)
    optimizer.step()
    moments = [x for state in optimizer.state.values() for x in state.values() if x.dim()]
    assert dict(footprint.moments(work))["sampling"]["Adam"] == sum(x.nbytes for x in moments)
    cache = KVCache(torch.full((5,), work.prompt_tokens), work.columns)
    tokens = torch.zeros(5, work.prompt_tokens, dtype=torch.long)
    gpt.hidden(tokens, cache)
    assert footprint.cache(work) == sum(x.nbytes for x in (*cache.keys, *cache.values))


def test_a_critic_of_its_own_adds_weights_gradients_and_adam():
    shared, separate = work_of("ppo", "wide"), work_of("ppo", "wide", separate_critic=True)
    W = footprint.weights(SHAPES["wide"])
    more = {
        x: footprint.peak(separate)[1][x] - footprint.peak(shared)[1].get(x, 0)
        for x in ("critic", "Adam", "policy")
    }
    assert more == {"critic": W, "Adam": 2 * W, "policy": 0}


def test_the_table_shows_every_part_and_their_sum(capsys):
    memory.main(["--size", "gpt2-xl", "--stage", "ppo"])
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()[3:]]
    rows = {line[0]: line[-1].strip() for line in lines}
    assert {"policy", "reference", "reward model", "Adam", "KV cache", "activations"} <= set(rows)
    numbers = [int(rows[part].replace(",", "")) for part in footprint.PARTS if part in rows]
    assert int(rows["in all"].replace(",", "")) == pytest.approx(sum(numbers), abs=len(numbers))
    assert rows["policy"] == rows["reference"] == "5,942"  # 1,557.7 million weights of 4 bytes


def test_the_peak_is_measured_beside_the_estimate(capsys):
    sizes = ["--size", "nano", "--vocab-size", "300", "--context", "32", "--stage", "dpo"]
    sizes += ["--prompt-tokens", "8", "--max-new-tokens", "8", "--batch-size", "4", "--measure"]
    memory.main(sizes)
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split("  ")[0]: line.split()[-1] for line in lines}
    estimated, measured = (float(rows[name]) for name in ("in all", "measured, tensors"))
    assert estimated == pytest.approx(measured, rel=0.15)
    assert float(rows["measured, process"]) > measured


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--context", "100"], "--prompt-tokens 64 and --max-new-tokens 64 do not fit"),
        (["--stage", "ppo", "--batch-size", "4"], "--minibatches 8 must be at most --batch-size 4"),
        (["--stage", "dpo", "--critic", "separate"], "--stage dpo has no critic"),
    ],
)
def test_what_no_stage_could_run_is_refused_in_one_line(flags, message):
    with pytest.raises(InputError, match=message) as error:
        memory.main(flags)
    assert "\n" not in str(error.value)
