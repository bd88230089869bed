"""What several test files share: a tiny GPT whose every parameter matters."""

import json
import os
import shutil
import signal
from functools import partial

import pytest
import torch
from helpers import contents

import train_rm
import train_sft
from minirlhf import model
from minirlhf.model import GPT, GPTConfig
from minirlhf.run import config
from minirlhf.run.metrics import Metrics
from minirlhf.world import writers

torch.set_num_threads(1)  # models this small are faster on one


def pytest_addoption(parser):
    parser.addoption(
        "--bf16-processor",
        choices=("yes", "no"),
        help="what torch is told about the processor's bf16 [the truth]",
    )
    parser.addoption(
        "--impl",
        metavar="FILE",
        help="hold the sentences of tests/spec against this adapter, not minirlhf",
    )


def pytest_configure(config):
    """The suite says the same on every processor: --bf16-processor has torch answer for another one."""
    if answer := config.getoption("--bf16-processor"):
        torch.cpu._is_avx512_bf16_supported = torch.cpu._is_amx_tile_supported = lambda: (
            answer == "yes"
        )


@pytest.fixture(autouse=True)
def same_start():
    """Every test starts from the same global generator, whatever ran before it: a suite in which chance decides is none."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def make_gpt():
    """make_gpt(vocab_size=50, seed=0, ...) -> GPT with random weights everywhere, biases and layer norms included.

    At its initialisation a GPT is almost uniform and no bias does anything: a test on it would pass with either of them lost.
    """

    def make(vocab_size=50, context=32, layers=2, heads=2, width=16, seed=0, std=0.5):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            gpt = GPT(GPTConfig(vocab_size, context, layers, heads, width))
            for name, parameter in gpt.named_parameters():
                parameter.data = torch.randn_like(parameter) * std + (
                    1.0 if "norm" in name and "weight" in name else 0.0
                )
        return gpt

    return make


# ---- three stages in a few seconds: what the tests of the scripts share

COLOURS = ("r", "g", "b")  # by their first letters: a letter is one token in any vocabulary


def colour_prompt(i):
    return f"Pick a colour, number {i}.\n"


@pytest.fixture
def small_models(monkeypatch):
    """Makes `--size nano` smaller still. Every stage after SFT takes its shape from the SFT checkpoint."""
    monkeypatch.setitem(model.SIZES, "nano", (2, 2, 32))


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    """A folder of JSONL, a user's own data: demonstrations, comparisons in which b beats r beats g, and prompts.

    One comparison in five ranks three responses, the others two.
    """
    folder = tmp_path_factory.mktemp("colours")
    demonstrations = [
        {"prompt": colour_prompt(i), "response": COLOURS[i * 7 % 3]} for i in range(60)
    ]
    comparisons = []
    for i in range(60):
        best, middle, worst = "b", "r", "g"
        if i % 5 == 0:
            own = {"responses": [middle, worst, best], "ranks": [1, 2, 0]}
        else:
            own = {"chosen": best, "rejected": (middle, worst)[i % 2]}
        comparisons.append({"prompt": colour_prompt(i), **own})
    prompts = [{"prompt": colour_prompt(i)} for i in range(40)]
    for name, records in (
        ("demonstrations", demonstrations),
        ("comparisons", comparisons),
        ("prompts", prompts),
    ):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(record) + "\n" for record in records)
        )
    return folder


@pytest.fixture(scope="session")
def world_run(tmp_path_factory):
    """OUT of SFT (6 steps of each phase) and reward model (6 steps) on the embedded world. Read only: `world_out` is a copy."""
    folder = tmp_path_factory.mktemp("world") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.SIZES, "nano", (2, 2, 32))
        patch.setattr(writers, "contrasts", partial(few, writers.contrasts))
        train_sft.main(["--out", str(folder), *WORLD_SFT])
        train_rm.main(["--out", str(folder), *WORLD_RM])
    return folder


# 45 records less a tenth (4) are 41: five batches of 8 and a ragged one of a single record.
WORLD_SFT = (
    "--documents 45 --demonstrations 45 --batch-size 8 --max-new-tokens 4 --warmup 2".split()
)
WORLD_RM = "--prompts 24 --responses 3 --batch-size 4 --held-out 6 --norm-prompts 8 --max-new-tokens 4 --warmup 2 --epochs 1".split()


def few(contrasts, n, rng):
    return contrasts(min(n, 16), rng)  # a thousand take longer than everything else together


@pytest.fixture(scope="session")
def colour_run(tmp_path_factory, colours):
    """OUT of SFT and reward model on `colours`: the policy has learnt to name one and stop. Read only: `out` is a copy."""
    folder = tmp_path_factory.mktemp("colour") / "out"
    common = ["--out", str(folder), "--lr", "0.01", "--warmup", "2", "--max-new-tokens", "6"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.SIZES, "nano", (2, 2, 32))
        train_sft.main([*common, "--data", str(colours / "demonstrations.jsonl"), *COLOUR_SFT])
    train_rm.main(
        [
            *common,
            "--data",
            str(colours / "comparisons.jsonl"),
            "--batch-size",
            "9",
            "--norm-prompts",
            "8",
            "--epochs",
            "3",
        ]
    )
    return folder


COLOUR_SFT = "--context 32 --batch-size 18 --epochs 10".split()


def copy_of(run, tmp_path):
    return shutil.copytree(run, tmp_path / "out")


@pytest.fixture
def world_out(world_run, tmp_path):
    return copy_of(world_run, tmp_path)


@pytest.fixture
def out(colour_run, tmp_path):
    return copy_of(colour_run, tmp_path)


@pytest.fixture
def ctrl_c(monkeypatch):
    """ctrl_c(stage, step) sends a real SIGINT while that step is logged; ctrl_c(None) takes it back."""
    log = Metrics.log

    def at(stage, step=None):
        def interrupted(self, now, **numbers):
            log(self, now, **numbers)
            if (self.path.parent.name, now) == (stage, step):
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(Metrics, "log", interrupted)

    return at


@pytest.fixture
def refused(capsys):
    """refused(main, argv, out) -> the line on stderr with which a command stopped.

    It must be one line, without a traceback, with exit code 2, and every file under `out` must be what it was.
    """

    def check(main, argv, out):
        before = contents(out)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            config.run(lambda: main(argv))
        err = capsys.readouterr().err
        assert stop.value.code == 2, err
        assert err.count("\n") == 1 and err.endswith("\n") and "Traceback" not in err, err
        assert contents(out) == before
        return err

    return check


@pytest.fixture
def gradient_norms(monkeypatch):
    """The norm of all gradients at each optimiser step, as it is when the optimiser sees them."""
    norms = []
    step = torch.optim.AdamW.step

    def watched(self, *args):
        gradients = [
            p.grad for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    return norms


@pytest.fixture
def rows_through_trunks(monkeypatch):
    """[(trunk, rows, with gradient)]: every pass through a GPT."""
    passes = []
    hidden = GPT.hidden

    def watched(self, tokens, *cache, **wanted):
        passes.append((self, len(tokens), torch.is_grad_enabled()))
        return hidden(self, tokens, *cache, **wanted)

    monkeypatch.setattr(GPT, "hidden", watched)
    return passes
