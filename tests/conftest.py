"""The fixtures of several test files: a tiny GPT whose every parameter matters, runs of the three
stages that take seconds, and recorders."""

import json
import os
import shutil
import signal
from functools import partial

import pytest
import tiktoken
import torch
from helpers import contents

import train_rm
import train_sft
from minirlhf import model
from minirlhf.model import GPT, GPTConfig
from minirlhf.run import checkpoint, config
from minirlhf.run.metrics import Metrics
from minirlhf.tokenizer import END, PATTERN, Tokenizer, get_tokenizer
from minirlhf.tools import figures
from minirlhf.world import writers

torch.set_num_threads(1)  # models this small are faster with one thread


def pytest_addoption(parser):
    parser.addoption(
        "--bf16-processor",
        choices=("yes", "no"),
        help="whether torch takes the processor for one with bf16 [what it is]",
    )
    parser.addoption(
        "--impl",
        metavar="FILE",
        help="hold the sentences of tests/spec against this adapter, not minirlhf",
    )


def pytest_configure(config):
    """The results of the suite must not depend on the processor: --bf16-processor makes torch take
    it for another one."""
    if answer := config.getoption("--bf16-processor"):

        def supported():
            return answer == "yes"

        torch.cpu._is_avx512_bf16_supported = torch.cpu._is_amx_tile_supported = supported
    # In the background of a shell script, and by `nohup`, they are ignored; a run leaves that so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def seed_torch():
    """Every test starts with the same state of torch's generator, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def make_gpt():
    """make_gpt(vocab_size=50, seed=0, ...) -> GPT with random weights everywhere, biases and layer
    norms included.

    At its initialisation a GPT is almost uniform and all biases are 0: a test would pass without
    the biases.
    """

    def make(vocab_size=50, context=32, layers=2, heads=2, width=16, seed=0, std=0.5):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            gpt = GPT(GPTConfig(vocab_size, context, layers, heads, width))
            for name, parameter in gpt.named_parameters():
                mean = 1.0 if "norm" in name and "weight" in name else 0.0
                parameter.data = torch.randn_like(parameter) * std + mean
        return gpt

    return make


# ---- runs of the three stages that take seconds, for the tests of the scripts

COLOURS = ("r", "g", "b")  # their first letters: a letter is one token in any vocabulary


def colour_prompt(i):
    return f"Pick a colour, number {i}.\n"


@pytest.fixture
def small_models(monkeypatch):
    """`--size nano` is smaller. The stages after SFT take their shape from the SFT checkpoint."""
    monkeypatch.setitem(model.SIZES, "nano", (2, 2, 32))


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    """A folder with a user's data as JSON Lines: demonstrations, comparisons in which b beats r and
    r beats g, and prompts. One comparison in five ranks three responses, the others two.
    """
    folder = tmp_path_factory.mktemp("colours")
    demonstrations = [
        {"prompt": colour_prompt(i), "response": COLOURS[i * 7 % 3]} for i in range(60)
    ]
    comparisons = []
    for i in range(60):
        best, middle, worst = "b", "r", "g"
        if i % 5 == 0:
            answers = {"responses": [middle, worst, best], "ranks": [1, 2, 0]}
        else:
            answers = {"chosen": best, "rejected": (middle, worst)[i % 2]}
        comparisons.append({"prompt": colour_prompt(i), **answers})
    prompts = [{"prompt": colour_prompt(i)} for i in range(40)]
    write_lines(folder / "demonstrations.jsonl", demonstrations)
    write_lines(folder / "comparisons.jsonl", comparisons)
    write_lines(folder / "prompts.jsonl", prompts)
    return folder


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="session")
def world_run(tmp_path_factory):
    """OUT of SFT (6 steps of each phase) and reward model (6 steps) on the embedded world. Not to
    be written to: `world_out` is a copy."""
    folder = tmp_path_factory.mktemp("world") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.SIZES, "nano", (2, 2, 32))
        patch.setattr(writers, "contrasts", partial(few, writers.contrasts))
        train_sft.main(["--out", str(folder), *WORLD_SFT])
        train_rm.main(["--out", str(folder), *WORLD_RM])
    return folder


# 45 records without a tenth (4) are 41: five batches of 8 and a batch of a single record.
WORLD_SFT = ["--documents", "45", "--demonstrations", "45", "--batch-size", "8"]
WORLD_SFT += ["--max-new-tokens", "4", "--warmup", "2"]
WORLD_RM = ["--prompts", "24", "--responses", "3", "--batch-size", "4", "--held-out", "6"]
WORLD_RM += ["--norm-prompts", "8", "--max-new-tokens", "4", "--warmup", "2", "--epochs", "1"]


def few(contrasts, n, rng):
    """At most 16 contrasts: the thousand of a run take longer than everything else together."""
    return contrasts(min(n, 16), rng)


@pytest.fixture(scope="session")
def colour_run(tmp_path_factory, colours):
    """OUT of SFT and reward model on `colours`: the policy has learned to name a colour and to
    stop. Not to be written to: `out` is a copy."""
    folder = tmp_path_factory.mktemp("colour") / "out"
    common = ["--out", str(folder), "--lr", "0.01", "--warmup", "2", "--max-new-tokens", "6"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.SIZES, "nano", (2, 2, 32))
        train_sft.main([*common, "--data", str(colours / "demonstrations.jsonl"), *COLOUR_SFT])
    train_rm.main([*common, "--data", str(colours / "comparisons.jsonl"), *COLOUR_RM])
    return folder


COLOUR_SFT = ["--context", "32", "--batch-size", "18", "--epochs", "10"]
COLOUR_RM = ["--batch-size", "9", "--norm-prompts", "8", "--epochs", "3"]


def copy_of(run, tmp_path):
    return shutil.copytree(run, tmp_path / "out")


@pytest.fixture
def world_out(world_run, tmp_path):
    return copy_of(world_run, tmp_path)


@pytest.fixture
def out(colour_run, tmp_path):
    return copy_of(colour_run, tmp_path)


@pytest.fixture
def my_rewards(tmp_path, monkeypatch):
    """my_rewards(source) -> a value of --reward: a function in a new file, as a user would write
    one."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def module(source):
        name = f"my_rewards_{tmp_path.name}_{len(names)}"
        names.append(name)
        (tmp_path / f"{name}.py").write_text(source)
        return f"{name}:reward"

    return module


@pytest.fixture
def ctrl_c(monkeypatch):
    """ctrl_c(stage, step) sends a real SIGINT when that step is logged; ctrl_c(None) stops doing
    so."""
    log = Metrics.log

    def interrupt_at(stage, step=None):
        def log_and_interrupt(self, number, **numbers):
            record = log(self, number, **numbers)
            if (self.path.parent.name, number) == (stage, step):
                os.kill(os.getpid(), signal.SIGINT)
            return record

        monkeypatch.setattr(Metrics, "log", log_and_interrupt)

    return interrupt_at


@pytest.fixture
def refused(capsys):
    """refused(main, argv, out) -> what a command prints on stderr when it refuses its flags: one
    line without a traceback, with exit code 2, and no file under `out` is changed."""

    def check(main, argv, out):
        files = contents(out)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            config.run(lambda: main(argv))
        message = capsys.readouterr().err
        assert stop.value.code == 2, message
        assert message.count("\n") == 1 and message.endswith("\n"), message
        assert "Traceback" not in message, message
        assert contents(out) == files
        return message

    return check


@pytest.fixture
def gradient_norms(monkeypatch):
    """A list to which each optimiser step appends the norm of all gradients that it uses."""
    norms = []
    step = torch.optim.AdamW.step

    def record_and_step(self, *args):
        parameters = [p for group in self.param_groups for p in group["params"]]
        parts = [p.grad.norm() for p in parameters if p.grad is not None]
        norms.append(float(torch.stack(parts).norm()))
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", record_and_step)
    return norms


@pytest.fixture
def rows_through_trunks(monkeypatch):
    """A list to which each pass through a GPT appends (GPT, rows, whether with gradient)."""
    passes = []
    hidden = GPT.hidden

    def record_and_compute(self, tokens, *cache, **wanted):
        passes.append((self, len(tokens), torch.is_grad_enabled()))
        return hidden(self, tokens, *cache, **wanted)

    monkeypatch.setattr(GPT, "hidden", record_and_compute)
    return passes


@pytest.fixture
def drawn(monkeypatch):
    """A list to which each figure that is saved is appended. None of them stays open."""
    pictures = []
    save = figures.save

    def record_and_save(pyplot, figure, path):
        pictures.append(figure)
        save(pyplot, figure, path)
        assert not pyplot.fignum_exists(figure.number)

    monkeypatch.setattr(figures, "save", record_and_save)
    return pictures


@pytest.fixture
def bytewise(tmp_path, make_gpt, monkeypatch):
    """The checkpoint of a model whose tokens are bytes."""
    ranks, special = {bytes([i]): i for i in range(256)}, {END: 256}
    encoding = tiktoken.Encoding(
        "bytes", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special
    )
    names = {"bytes": Tokenizer(encoding), "tiny": get_tokenizer()}
    monkeypatch.setattr(checkpoint, "get_tokenizer", names.get)
    gpt = make_gpt(vocab_size=257)
    checkpoint.save(tmp_path / "bytes", "sft", gpt.config, names["bytes"], 0, model=gpt)
    return str(tmp_path / "bytes")
