"""The specification of run/compute.py: device, precision, threads, tokens of a microbatch."""

import dataclasses
from functools import partial

import pytest
import torch

import train_ppo
from minirlhf.run import compute
from minirlhf.run.config import InputError


def test_a_device_that_is_not_there_is_refused_by_its_flag(monkeypatch):
    """The error comes before a model is loaded, and names the flag that helps. auto takes the
    device that exists."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute.pick_device("auto") == compute.pick_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match=r"--device cuda: .*--device cpu"):
        compute.pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compute.pick_device("auto") == torch.device("cuda")


def test_on_a_gpu_automatic_precision_is_bf16_unless_that_is_emulated(monkeypatch):
    """torch reports bf16 support also for cards that only emulate it (before Ampere), at a fraction
    of the speed of their float32."""
    gpu = torch.device("cuda")

    def is_bf16_supported(native, including_emulation=True):
        return native or including_emulation

    for native, expected in ((True, "bf16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", partial(is_bf16_supported, native))
        assert compute.pick_precision("auto", gpu) == expected
        assert compute.pick_precision("bf16", gpu) == "bf16"
        assert compute.pick_precision("float32", gpu) == "float32"


@pytest.mark.parametrize(("bf16", "amx"), [(False, False), (True, False), (False, True)])
def test_on_a_cpu_automatic_precision_is_float32_whatever_the_processor(monkeypatch, bf16, amx):
    """With a rule by processor, one command would give different results on different machines. A
    small model is also slower in bf16, with AVX512-BF16 or AMX too. bf16 is used if it is asked for
    by name."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    cpu = torch.device("cpu")
    assert compute.pick_precision("auto", cpu) == "float32"
    assert compute.pick_precision("float32", cpu) == "float32"
    assert compute.pick_precision("bf16", cpu) == "bf16"


def test_flags_are_resolved_to_what_the_machine_computes_with():
    """A stored run contains neither "auto" nor 0: their meaning may differ on the machine that
    resumes it."""
    args, cpu = train_ppo.Config(), torch.device("cpu")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        flags = compute.resolve(args, cpu)
        assert (flags.precision, flags.threads) == ("float32", 2)
        flags = compute.resolve(dataclasses.replace(args, precision="bf16", threads=1), cpu)
        assert (flags.precision, flags.threads, torch.get_num_threads()) == ("bf16", 1, 1)
    finally:
        torch.set_num_threads(threads)


def test_a_microbatch_has_2048_tokens_on_a_cpu_and_16384_on_a_gpu_unless_it_is_given():
    """The first fits into the cache of a CPU, the second keeps a GPU busy. The number affects
    memory, not results. With 50,257 ids the logits limit it to 0.2 and 3.2 GB."""
    devices = torch.device("cpu"), torch.device("cuda")
    assert [compute.pick_microbatch(0, device) for device in devices] == [2048, 16384]
    assert [compute.pick_microbatch(0, device, 50_257) for device in devices] == [994, 15918]
    assert [compute.pick_microbatch(7, device, 50_257) for device in devices] == [7, 7]


def test_torchs_default_type_is_float32_whatever_a_caller_has_set():
    """A notebook that works in float64 would get heads that fit to no float32 weight."""
    try:
        torch.set_default_dtype(torch.float64)
        compute.resolve(train_ppo.Config(), torch.device("cpu"))
        assert torch.get_default_dtype() == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
