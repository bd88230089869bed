"""The specification of run/compute.py: device, precision, threads, tokens of a microbatch."""

import dataclasses
from functools import partial

import pytest
import torch

import train_ppo
from minirlhf.run import compute
from minirlhf.run.config import InputError


def test_a_device_that_is_not_there_is_refused_by_its_flag(monkeypatch):
    """Before a model is loaded, with the flag that helps; auto takes what there is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute.pick_device("auto") == compute.pick_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match=r"--device cuda: .*--device cpu"):
        compute.pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compute.pick_device("auto") == torch.device("cuda")


def test_on_a_gpu_automatic_precision_is_bf16_unless_that_is_emulated(monkeypatch):
    """torch says yes for cards that only emulate it (before Ampere), many times slower than their float32."""
    gpu = torch.device("cuda")
    for native, expected in ((True, "bf16"), (False, "float32")):
        supported = partial(
            lambda native, including_emulation=True: native or including_emulation, native
        )
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        assert compute.pick_precision("auto", gpu) == expected
        assert compute.pick_precision("bf16", gpu) == "bf16"
        assert compute.pick_precision("float32", gpu) == "float32"


@pytest.mark.parametrize(("bf16", "amx"), [(False, False), (True, False), (False, True)])
def test_on_a_cpu_automatic_precision_is_float32_whatever_the_processor(monkeypatch, bf16, amx):
    """A rule by processor would make one command learn differently from machine to machine; and a small model is slower in bf16
    with AVX512-BF16 or AMX too. Asked for by name it is given."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    cpu = torch.device("cpu")
    assert (
        compute.pick_precision("auto", cpu) == compute.pick_precision("float32", cpu) == "float32"
    )
    assert compute.pick_precision("bf16", cpu) == "bf16"


def test_flags_are_resolved_to_what_the_machine_computes_with():
    """ "auto" and 0 stand in no stored run: what they mean may differ on the machine that resumes it."""
    args, cpu = train_ppo.Config(), torch.device("cpu")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = compute.resolve(args, cpu)
        assert (found.precision, found.threads) == ("float32", 2)
        found = compute.resolve(dataclasses.replace(args, precision="bf16", threads=1), cpu)
        assert (found.precision, found.threads, torch.get_num_threads()) == ("bf16", 1, 1)
    finally:
        torch.set_num_threads(threads)


def test_a_microbatch_has_2048_tokens_on_a_cpu_and_16384_on_a_gpu_unless_it_is_given():
    """What stays in the cache of the one, and what keeps the other busy; memory, not results."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [compute.pick_microbatch(0, device) for device in (cpu, gpu)] == [2048, 16384]
    assert [compute.pick_microbatch(0, device, 50_257) for device in (cpu, gpu)] == [
        994,
        15918,
    ]  # .2 and 3.2 GB of logits
    assert [compute.pick_microbatch(7, device, 50_257) for device in (cpu, gpu)] == [7, 7]
