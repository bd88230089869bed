"""--device mps, Apple's GPU, as far as it can be held without one: no operation of the method lacks
a kernel, by torch's own list, and nothing is float64, which does not exist there."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchgen
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import train_ppo
import train_rm
from minirlhf import fast
from minirlhf.feedback import baselines
from minirlhf.run import compute
from minirlhf.run.config import InputError
from minirlhf.tools import dpo

LIST = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
# On a CPU attention has a kernel of its own; scaled_dot_product_attention itself has one for MPS.
ATTENTION = r"_scaled_dot_product_flash_attention_for_cpu(_backward)?"


@cache
def kernels():
    """{operation: the entry of torch's list of kernels}"""
    entries = re.split(r"\n(?=- func: )", LIST.read_text(encoding="utf-8"))
    named = [(re.match(r"- func: ([\w.]+)\(", entry), entry) for entry in entries]
    return {name[1]: entry for name, entry in named if name}


def runs_on_mps(operation):
    """Whether an operation has a kernel for MPS, or consists of others."""
    entry = kernels()[operation]
    if delegate := re.search(r"structured_delegate: ([\w.]+)", entry):
        return runs_on_mps(delegate[1])
    keys = re.findall(r"\w+", " ".join(re.findall(r"^    ([\w, ]+): \w+", entry, re.M)))
    return not keys or any(key == "MPS" or key.startswith("Composite") for key in keys)


class Recorder(TorchDispatchMode):
    """The operations that torch computes, by their names, and the types of what comes out."""

    def __init__(self):
        super().__init__()
        self.operations, self.types = set(), set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        space, name = function._schema.name.split("::")
        if space == "aten":
            overload = function._schema.overload_name
            self.operations.add(f"{name}.{overload}" if overload else name)
        flat = results if isinstance(results, list | tuple) else [results]
        self.types |= {x.dtype for x in flat if isinstance(x, torch.Tensor)}
        return results


def unrecorded(function):
    """The bag of words beside a reward model is on the CPU, whatever --device is."""

    def call(*args):
        with _disable_current_modes():
            return function(*args)

    return call


@pytest.fixture(scope="module")
def record(colour_run, colours, tmp_path_factory):
    """What reward model, PPO and DPO compute, with adapters and without."""
    out = tmp_path_factory.mktemp("mps") / "out"
    common = ["--out", str(out), "--sft", str(colour_run / "sft"), "--warmup", "0", "--drop-long"]
    short = ["--max-new-tokens", "6", "--batch-size", "8"]
    prompts, pairs = (f"--data={colours / name}.jsonl" for name in ("prompts", "comparisons"))
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch, recorder:
        patch.setattr(baselines, "baseline_numbers", unrecorded(baselines.baseline_numbers))
        train_rm.main([*common, *short, pairs, "--norm-prompts", "4"])
        train_ppo.main([*common, *short, prompts, "--updates", "1", "--lora", "2"])
        train_ppo.main([*common, *short, prompts, "--updates", "1", "--overwrite"])
        dpo.main([*common, pairs, "--batch-size", "16", "--gradient-checkpointing"])
    return recorder


def test_no_operation_lacks_a_kernel_for_mps(record):
    """Sampling, scores, log-probabilities, rewards, advantages, losses, gradients, optimiser."""
    lacking = {name for name in record.operations if not runs_on_mps(name)}
    assert {name for name in lacking if not re.fullmatch(ATTENTION, name)} == set()
    assert runs_on_mps("_scaled_dot_product_attention_math_for_mps")
    assert {"searchsorted.Tensor", "index_copy", "_fused_adamw_"} <= record.operations
    assert len(record.operations) > 80


def test_the_list_of_kernels_has_operations_that_mps_lacks():
    """The test above would notice one."""
    assert not runs_on_mps("_scaled_dot_product_flash_attention_for_cpu")
    assert not runs_on_mps("histc.out") or not runs_on_mps("linalg_eig")


def test_nothing_is_float64(record):
    """A Python number or a numpy array that becomes a tensor by itself would be."""
    assert torch.float32 in record.types and not record.types & {torch.float64, torch.complex128}


def test_apples_gpu_is_used_by_name_alone(monkeypatch):
    """Nobody has measured on it. Where there is none, one line says so."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match="--device mps: .*use --device cpu"):
        compute.pick_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert compute.pick_device("mps") == torch.device("mps")
    assert compute.pick_device("auto") == torch.device("cpu")
    assert compute.pick_precision("auto", torch.device("mps")) == "float32"
    assert compute.pick_microbatch(0, torch.device("mps")) == 4096


@pytest.mark.parametrize("decoding", [False, True])
def test_attention_on_mps_gets_no_views_and_no_flag_of_causality(decoding):
    """Its kernels were wrong for views, and in bf16 three of four tokens saw the future. The result
    is the same."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 7, 8, generator=generator).permute(0, 1, 3, 2, 4)[:, :, :, :3]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (2, 3, 7, 8), views
    visible = None
    if decoding:
        q, visible = q[:, :, :1], torch.rand(2, 1, 1, 7, generator=generator) < 0.7
    *inputs, mask = fast.attention_inputs_on_mps(q, k, v, visible)
    assert not k.is_contiguous() and all(x.is_contiguous() for x in inputs)
    result = F.scaled_dot_product_attention(*inputs, attn_mask=mask)
    torch.testing.assert_close(result, fast.attention(q, k, v, visible), atol=1e-6, rtol=0)
    assert mask is visible if decoding else torch.equal(mask, torch.ones(7, 7).tril().bool())
