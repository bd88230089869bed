"""The specification of checkpoint.py: a run is a folder, written atomically and resumed exactly."""

import dataclasses
import json
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import tiktoken
import torch

from minirlhf import tokenizer
from minirlhf.run import checkpoint
from minirlhf.run.checkpoint import (
    Interrupt,
    load,
    load_gpt,
    load_tokenizer,
    restore,
    same_vocabulary,
    save,
    start_run,
    write_text,
)
from minirlhf.run.config import InputError, flag
from minirlhf.run.metrics import Metrics
from minirlhf.run.optim import adamw
from minirlhf.tokenizer import Tokenizer, get_tokenizer


@pytest.fixture
def tok():
    return get_tokenizer()


@pytest.fixture
def gpt(make_gpt):
    return make_gpt(vocab_size=1024)


def bytes_only(name):
    """Another vocabulary: the 256 bytes and an end token."""
    ranks = {bytes([i]): i for i in range(256)}
    special = {tokenizer.END: 256}
    return Tokenizer(
        tiktoken.Encoding(
            name, pat_str=tokenizer.PATTERN, mergeable_ranks=ranks, special_tokens=special
        )
    )


def refusal(call, *args):
    """The message of an InputError, which is one line."""
    with pytest.raises(InputError) as refused:
        call(*args)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# ---- writing


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    """The disk is full in the middle of a save: yesterday's checkpoint must still be there, whole."""
    path = tmp_path / "checkpoint.pt"
    write_text(path, "old")

    def full(file):
        file.write(b"ne")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        checkpoint.write_atomically(path, full)
    assert path.read_text() == "old"


def test_a_crash_between_write_and_rename_leaves_the_old_checkpoint(
    tmp_path, gpt, tok, monkeypatch
):
    """The old checkpoint is usable, and the next save is not disturbed by what the crash left behind."""
    save(tmp_path, "sft", gpt.config, tok, 1, model=gpt)

    def crash(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, "sft", gpt.config, tok, 2, model=gpt)
    assert load(tmp_path, ("sft",))["step"] == 1
    save(tmp_path, "sft", gpt.config, tok, 3, model=gpt)
    assert load(tmp_path, ("sft",))["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_the_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """Renaming first and flushing later gives an empty checkpoint after a power failure: the name is there, the bytes not."""
    order = []
    fsync, replace = os.fsync, os.replace

    def flushed(number):
        order.append(("fsync", os.fstat(number).st_size))
        fsync(number)

    def renamed(old, new):
        order.append(("replace", os.path.getsize(old)))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    write_text(tmp_path / "new folder" / "config.json", "hello")
    assert order == [("fsync", 5), ("replace", 5)]
    assert (tmp_path / "new folder" / "config.json").read_text() == "hello"


# ---- a checkpoint says what it is


def test_a_policy_loads_with_the_bits_it_was_saved_with(tmp_path, gpt, tok):
    """Everything later, KL and ratio included, is measured against these weights. minChatGPT's change on reloading
    (gpt.py:549)."""
    save(tmp_path, "sft", gpt.config, tok, 7, model=gpt)
    loaded, same_tok = load_gpt(tmp_path)
    assert loaded.config == gpt.config
    assert loaded.state_dict().keys() == gpt.state_dict().keys()
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.parameters(), gpt.parameters(), strict=True)
    )
    assert all(
        parameter.requires_grad and parameter.dtype == torch.float32
        for parameter in loaded.parameters()
    )
    assert same_tok.fingerprint() == tok.fingerprint()
    tokens = torch.arange(12).view(3, 4)
    assert torch.equal(loaded(tokens), gpt(tokens))


def test_a_loaded_policy_computes_in_the_precision_asked_for_and_keeps_float32_weights(
    tmp_path, gpt, tok
):
    """Weights that are rounded when they are loaded lose every step smaller than a 256th of them (rlhf-book, utils.py:106)."""
    save(tmp_path, "sft", gpt.config, tok, 1, model=gpt)
    loaded, _ = load_gpt(tmp_path, precision=torch.bfloat16)
    assert loaded.precision == torch.bfloat16
    pairs = zip(gpt.parameters(), loaded.parameters(), strict=True)
    assert all(q.dtype == torch.float32 and torch.equal(p, q) for p, q in pairs)


def test_a_checkpoint_may_be_named_by_its_folder_or_by_itself(tmp_path, gpt, tok):
    """Both are what people type, also where the folder's name has a dot in it."""
    save(tmp_path / "run.v2", "sft", gpt.config, tok, 7, model=gpt)
    save(tmp_path / "best.pt", "sft", gpt.config, tok, 8, model=gpt)
    assert (
        load(tmp_path / "run.v2", ("sft",))["step"]
        == load(tmp_path / "run.v2" / "checkpoint.pt", ("sft",))["step"]
        == 7
    )
    assert load(tmp_path / "best.pt", ("sft",))["step"] == 8


def test_a_checkpoint_of_the_wrong_stage_is_refused_by_both_names(tmp_path, gpt, tok):
    """A reward model's trunk loads as a policy without complaint, and talks nonsense."""
    save(tmp_path, "rm", gpt.config, tok, 1, model=gpt)
    message = refusal(load_gpt, tmp_path)
    assert str(tmp_path) in message and "stage rm" in message and "sft" in message
    assert load(tmp_path, ("rm",))["stage"] == "rm"


@pytest.mark.parametrize("stage", ["pretrain", "sft", "ppo", "dpo"])
def test_every_language_model_can_be_loaded_as_one(tmp_path, gpt, tok, stage):
    """evaluate compares any two; PPO may start from a policy of PPO."""
    save(tmp_path, stage, gpt.config, tok, 1, model=gpt)
    assert load_gpt(tmp_path)[0].config == gpt.config


@pytest.mark.parametrize(
    ("stage", "script"), [("sft", "train_sft.py"), ("rm", "train_rm.py"), ("ppo", "train_ppo.py")]
)
def test_a_checkpoint_that_is_not_there_names_the_script_that_makes_it(tmp_path, stage, script):
    """Whoever starts with the third script should read what to run first, not FileNotFoundError."""
    message = refusal(load, tmp_path / stage, (stage,))
    assert str(tmp_path / stage) in message and script in message
    if stage != "rm":
        assert script in refusal(load_gpt, tmp_path / stage)


def test_what_is_not_a_checkpoint_is_refused(tmp_path, gpt, tok):
    """Whatever stands in the file: nothing, text, a torch file of something else, another project's dictionary."""
    path = tmp_path / "checkpoint.pt"
    for content in (b"", b"hello", b"\x80\x02.", json.dumps({"stage": "sft"}).encode()):
        path.write_bytes(content)
        assert str(path) in refusal(load, tmp_path, ("sft",))
    for other in (torch.zeros(3), torch.tensor(1.0), {"model": {}}, [1, 2], "sft", None, 3):
        torch.save(other, path)
        assert str(path) in refusal(load, tmp_path, ("sft",))


def test_a_checkpoint_that_was_cut_short_is_refused_wherever_it_was_cut(tmp_path, gpt, tok):
    """A copy that broke off is the usual damage; in one line, wherever it broke."""
    save(tmp_path, "sft", gpt.config, tok, 1, model=gpt)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "damaged" in refusal(load, tmp_path, ("sft",))


class Boom:
    def __reduce__(self):
        return (os.mkdir, ("boom",))


def test_loading_a_checkpoint_runs_no_code_that_is_in_it(tmp_path, monkeypatch):
    """A pickle can do anything on loading; a checkpoint from somebody else must not: tensors and plain values, no pickled
    classes."""
    monkeypatch.chdir(tmp_path)
    torch.save({"stage": "sft", "model": Boom()}, tmp_path / "checkpoint.pt")
    refusal(load, tmp_path, ("sft",))
    (tmp_path / "checkpoint.pt").write_bytes(pickle.dumps(Boom(), protocol=2))
    refusal(load, tmp_path, ("sft",))
    assert not Path("boom").exists()


# ---- and with which vocabulary


def test_a_vocabulary_that_changed_under_its_name_is_refused(tmp_path, gpt, tok, monkeypatch):
    """Ids mean nothing without it: after the packaged merges are trained again, old weights would write word salad."""
    save(tmp_path, "sft", gpt.config, tok, 1, model=gpt)
    monkeypatch.setattr(checkpoint, "get_tokenizer", bytes_only)
    message = refusal(load_gpt, tmp_path)
    assert str(tmp_path) in message and "another vocabulary called tiny" in message


def test_a_checkpoint_knows_its_tokenizer_by_name(tmp_path, gpt, monkeypatch):
    """So no later stage has to be told, and none can be told wrongly."""
    save(tmp_path, "sft", gpt.config, bytes_only("bytes"), 1, model=gpt)
    monkeypatch.setattr(checkpoint, "get_tokenizer", bytes_only)
    assert load_tokenizer(load(tmp_path, ("sft",)), tmp_path).name == "bytes"


def test_two_checkpoints_must_have_the_same_vocabulary(tok):
    """A reward model reads the policy's ids; equal sizes are not enough, and neither is an equal name."""
    same_vocabulary("a", tok, "b", get_tokenizer())
    for other in (bytes_only("bytes"), bytes_only("tiny")):
        message = refusal(same_vocabulary, "out/sft", tok, "out/rm", other)
        assert "out/sft" in message and "out/rm" in message and other.name in message


# ---- resuming


def test_restore_puts_modules_and_optimizers_back_to_the_bit(tmp_path, make_gpt, tok):
    """An optimiser that restarts from nothing takes a far too large first step (NeMo-RL #3171: silent Adam resets)."""

    def step(gpt, optimizer):
        gpt(torch.arange(12).view(3, 4)).logsumexp(-1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    first = make_gpt(seed=0)
    optimizer = adamw(first, 0.01, weight_decay=0.1)
    step(first, optimizer)
    save(tmp_path, "sft", first.config, tok, 1, model=first, optimizer=optimizer, kl_coef=0.3)
    second = make_gpt(seed=1)
    other = adamw(second, 0.5)
    state = restore(tmp_path, "sft", True, model=second, optimizer=other)
    assert (state["step"], state["kl_coef"]) == (1, 0.3)
    step(first, optimizer)
    step(second, other)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_without_resume_or_without_a_checkpoint_a_run_starts_at_step_zero(
    tmp_path, gpt, tok, make_gpt
):
    """An old checkpoint that happens to lie there must not be loaded by a run that did not ask for it."""
    other = make_gpt(vocab_size=1024, seed=1)
    before = other.state_dict()["norm.weight"].clone()
    assert restore(tmp_path, "sft", True, model=other) == {"step": 0}
    save(tmp_path, "sft", gpt.config, tok, 5, model=gpt)
    assert restore(tmp_path, "sft", False, model=other) == {"step": 0}
    assert torch.equal(other.state_dict()["norm.weight"], before)


def test_a_run_does_not_resume_from_another_stage(tmp_path, gpt, tok):
    """The names of the parts match, so the weights would load: PPO would go on from SFT's step 5."""
    save(tmp_path, "sft", gpt.config, tok, 5, model=gpt)
    assert "stage sft" in refusal(restore, tmp_path, "ppo", True)


@dataclasses.dataclass(frozen=True)
class Config:
    """A stage."""

    out: str = flag("out", "folder")
    steps: int = flag(6, "steps", low=1)
    target: float = flag(float("nan"), "something without a default")
    resume: bool = flag(False, "go on")
    overwrite: bool = flag(False, "replace")


def started(tmp_path, tok, *argv, stages=("sft", "pretrain")):
    args = checkpoint.configure(Config, "sft", ["--out", str(tmp_path), *argv])
    return args, start_run(args, tok, *stages)


def test_a_run_records_what_it_is(tmp_path, tok):
    """config.json is what --resume reads, and what a reader of an old folder wants to know."""
    args, folders = started(tmp_path, tok, "--steps", "9")
    assert folders == [tmp_path / "sft", tmp_path / "pretrain"]
    record = json.loads((tmp_path / "pretrain" / "config.json").read_text())
    assert (record["stage"], record["tokenizer"], record["flags"]["steps"]) == (
        "pretrain",
        "tiny",
        9,
    )
    assert set(record["flags"]) == {field.name for field in dataclasses.fields(Config)}
    assert (record["versions"]["torch"], record["versions"]["numpy"]) == (
        torch.__version__,
        np.__version__,
    )


@pytest.mark.parametrize("there", ["sft", "pretrain"])
def test_an_existing_run_is_refused_before_anything_is_touched(tmp_path, tok, there):
    """Even where only the second of a script's folders holds one: half a run replaced is a run lost."""
    write_text(tmp_path / there / "config.json", "{}")
    for name in checkpoint.RUN_FILES:
        write_text(tmp_path / "sft" / name, "precious")
    before = {path: path.read_text() for path in tmp_path.rglob("*.*")}
    message = refusal(started, tmp_path, tok)
    assert str(tmp_path / there) in message and "--resume" in message and "--overwrite" in message
    assert {path: path.read_text() for path in tmp_path.rglob("*.*")} == before


def test_overwrite_replaces_a_run_and_nothing_beside_it(tmp_path, tok):
    """A user's notes in the folder stay; of the old run nothing does, for a stale checkpoint would be taken for the new
    one's."""
    started(tmp_path, tok, "--steps", "9")
    for name in (*checkpoint.RUN_FILES, "notes.txt"):
        write_text(tmp_path / "sft" / name, "old")
    started(tmp_path, tok, "--overwrite")
    assert sorted(path.name for path in (tmp_path / "sft").iterdir()) == [
        "config.json",
        "notes.txt",
    ]
    assert json.loads((tmp_path / "sft" / "config.json").read_text())["flags"]["steps"] == 6


def test_resume_keeps_a_run_and_its_flags(tmp_path, tok):
    """A resumed run is the run it continues: flags left out are the saved ones, not the defaults; flags given win."""
    started(tmp_path, tok, "--steps", "9", "--target", "0.5", "--overwrite")
    for name in checkpoint.RUN_FILES:
        write_text(tmp_path / "sft" / name, "old")
    args, _ = started(tmp_path, tok, "--resume")
    assert (args.steps, args.target, args.resume, args.overwrite) == (9, 0.5, True, False)
    assert all((tmp_path / "sft" / name).read_text() == "old" for name in checkpoint.RUN_FILES)
    args, _ = started(tmp_path, tok, "--resume", "--steps", "12")
    assert args.steps == 12
    assert started(tmp_path, tok, "--resume")[0].steps == 12
    assert "already holds" in refusal(
        started, tmp_path, tok
    )  # having resumed once does not allow the next run to


def test_there_must_be_something_to_resume(tmp_path, tok):
    """Starting afresh instead would lose the flags that the user believes are in force."""
    message = refusal(started, tmp_path, tok, "--resume")
    assert str(tmp_path / "sft") in message and "--resume" in message
    assert not list(tmp_path.iterdir())


# ---- Ctrl-C


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_ctrl_c_lets_the_step_finish_and_says_how_to_go_on(tmp_path, capsys):
    """A checkpoint is only ever of whole steps, which is why a resumed run can be exact."""
    finished = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
        for step in range(5):
            if step == 2:
                ctrl_c()
            finished.append((step, interrupt.requested))
            interrupt.stop_if_requested(tmp_path, step + 1, 5)
    assert finished == [(0, False), (1, False), (2, True)]
    told = capsys.readouterr().err
    assert f"{tmp_path / 'checkpoint.pt'} holds 3 of 5 steps" in told and "--resume" in told
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_ctrl_c_stops_at_once():
    """A step of a large model takes a minute; whoever presses twice does not want to wait for it."""
    finished = False
    with pytest.raises(KeyboardInterrupt), Interrupt():
        ctrl_c()
        ctrl_c()
        finished = True
    assert not finished


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_outside_the_loop_ctrl_c_is_what_it_was(error):
    """A handler left behind would swallow the first Ctrl-C of everything that comes after, tests included."""
    before = signal.getsignal(signal.SIGINT)
    try:
        with Interrupt():
            assert signal.getsignal(signal.SIGINT) is not before
            if error:
                raise error
    except RuntimeError:
        pass
    assert signal.getsignal(signal.SIGINT) is before


def test_metrics_and_checkpoint_agree_on_what_a_step_is(tmp_path, gpt, tok):
    """A checkpoint after three steps says 3; the metrics cut back to it hold steps 0, 1 and 2, and the next one is 3."""
    log = Metrics(tmp_path)
    for step in range(5):
        log.log(step, loss=0.0)
        if step == 2:
            save(tmp_path, "sft", gpt.config, tok, step + 1, model=gpt)
    Metrics(tmp_path, restore(tmp_path, "sft", True, model=gpt)["step"])
    assert [
        json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ] == [0, 1, 2]
