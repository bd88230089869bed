"""The specification of run/checkpoint.py: a checkpoint is whole, says what it is, and resumes
exactly."""

import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiktoken
import torch
from helpers import Config, contents

from minirlhf.run import checkpoint, resume
from minirlhf.run.checkpoint import (
    load,
    load_gpt,
    load_tokenizer,
    restore,
    same_vocabulary,
    save,
)
from minirlhf.run.config import Divergence, InputError
from minirlhf.run.files import write_text
from minirlhf.run.folder import RUN_FILES, start_run
from minirlhf.run.metrics import Metrics
from minirlhf.run.optim import adamw
from minirlhf.tokenizer import END, PATTERN, Tokenizer, get_tokenizer


@pytest.fixture
def tokenizer():
    return get_tokenizer()


@pytest.fixture
def gpt(make_gpt):
    return make_gpt(vocab_size=get_tokenizer().vocab_size)


def bytes_only(name):
    """Another vocabulary: the 256 bytes and an end token."""
    ranks = {bytes([i]): i for i in range(256)}
    special = {END: 256}
    return Tokenizer(
        tiktoken.Encoding(name, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)
    )


def refusal(call, *args, **named):
    """The message of an InputError, which is one line."""
    with pytest.raises(InputError) as error:
        call(*args, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


def equal_weights(first, second):
    """Whether all parameters of two modules are equal to the bit."""
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# ---- writing


def test_a_crash_between_write_and_rename_leaves_the_old_checkpoint(
    tmp_path, gpt, tokenizer, monkeypatch
):
    """The old checkpoint is usable, and the next save works."""
    save(tmp_path, "sft", gpt.config, tokenizer, 1, model=gpt)

    def crash(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, "sft", gpt.config, tokenizer, 2, model=gpt)
    assert load(tmp_path, ("sft",))["step"] == 1
    save(tmp_path, "sft", gpt.config, tokenizer, 3, model=gpt)
    assert load(tmp_path, ("sft",))["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["model", "value_head"])
def test_a_part_that_is_not_finite_does_not_replace_a_checkpoint(
    tmp_path, make_gpt, tokenizer, part, value
):
    """Whichever it is: a value head without numbers makes the next update one without numbers."""
    parts = {"model": make_gpt(), "value_head": torch.nn.Linear(16, 1)}
    save(tmp_path, "ppo", parts["model"].config, tokenizer, 7, **parts)
    before = contents(tmp_path)
    *_, last = parts[part].parameters()
    last.data.view(-1)[-1] = value
    with pytest.raises(Divergence, match="is not finite after step 8: training diverged"):
        save(tmp_path, "ppo", parts["model"].config, tokenizer, 8, **parts)
    assert contents(tmp_path) == before


# ---- a checkpoint says what it is


def test_a_policy_loads_with_the_bits_it_was_saved_with(tmp_path, gpt, tokenizer):
    """KL and ratio are measured against these weights. minChatGPT's change when they are loaded
    (gpt.py:549)."""
    save(tmp_path, "sft", gpt.config, tokenizer, 7, model=gpt)
    loaded, loaded_tokenizer = load_gpt(tmp_path)
    assert loaded.config == gpt.config
    assert loaded.state_dict().keys() == gpt.state_dict().keys()
    assert equal_weights(loaded, gpt)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in loaded.parameters())
    assert loaded_tokenizer.fingerprint() == tokenizer.fingerprint()
    tokens = torch.arange(12).view(3, 4)
    assert torch.equal(loaded(tokens), gpt(tokens))


def test_a_loaded_policy_computes_in_the_precision_asked_for_and_keeps_float32_weights(
    tmp_path, gpt, tokenizer
):
    """Weights that are stored in bf16 lose every update smaller than 1/256 of them (rlhf-book,
    utils.py:106)."""
    save(tmp_path, "sft", gpt.config, tokenizer, 1, model=gpt)
    loaded, _ = load_gpt(tmp_path, precision=torch.bfloat16)
    assert loaded.precision == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    assert equal_weights(gpt, loaded)


def test_a_checkpoint_knows_how_long_the_samples_were(tmp_path, gpt, tokenizer):
    """A run that goes on cuts them there. In bytes: a character may be several."""
    for text in ("", "after 1 updates: ö\n"):
        (tmp_path / "samples.txt").write_text(text, encoding="utf-8")
        save(tmp_path, "sft", gpt.config, tokenizer, 7, model=gpt)
        assert load(tmp_path, ("sft",))["samples_bytes"] == len(text.encode())


def test_a_checkpoint_may_be_named_by_its_folder_or_by_itself(tmp_path, gpt, tokenizer):
    """People type both. The folder's name may have a dot in it."""
    save(tmp_path / "run.v2", "sft", gpt.config, tokenizer, 7, model=gpt)
    save(tmp_path / "best.pt", "sft", gpt.config, tokenizer, 8, model=gpt)
    for path in (tmp_path / "run.v2", tmp_path / "run.v2" / "checkpoint.pt"):
        assert load(path, ("sft",))["step"] == 7
    assert load(tmp_path / "best.pt", ("sft",))["step"] == 8


def test_a_checkpoint_of_the_wrong_stage_is_refused_by_both_names(tmp_path, gpt, tokenizer):
    """A reward model's trunk would load as a policy without an error, and its samples are bad."""
    save(tmp_path, "rm", gpt.config, tokenizer, 1, model=gpt)
    message = refusal(load_gpt, tmp_path)
    assert str(tmp_path) in message and "stage rm" in message and "sft" in message
    assert load(tmp_path, ("rm",))["stage"] == "rm"


@pytest.mark.parametrize("stage", ["pretrain", "sft", "ppo", "dpo"])
def test_every_language_model_can_be_loaded_as_one(tmp_path, gpt, tokenizer, stage):
    """`minirlhf evaluate` compares any two, and PPO may start from a policy of PPO."""
    save(tmp_path, stage, gpt.config, tokenizer, 1, model=gpt)
    assert load_gpt(tmp_path)[0].config == gpt.config


@pytest.mark.parametrize(
    ("stage", "script"), [("sft", "train_sft.py"), ("rm", "train_rm.py"), ("ppo", "train_ppo.py")]
)
def test_a_checkpoint_that_is_not_there_names_the_script_that_makes_it(tmp_path, stage, script):
    """A user who starts with the third script reads what to run first, and no FileNotFoundError."""
    message = refusal(load, tmp_path / stage, (stage,))
    assert str(tmp_path / stage) in message and script in message
    if stage != "rm":
        assert script in refusal(load_gpt, tmp_path / stage)


def test_what_is_not_a_checkpoint_is_refused(tmp_path, gpt, tokenizer):
    """An empty file, text, a torch file of other things, another project's dictionary."""
    path = tmp_path / "checkpoint.pt"
    for content in (b"", b"hello", b"\x80\x02.", json.dumps({"stage": "sft"}).encode()):
        path.write_bytes(content)
        assert str(path) in refusal(load, tmp_path, ("sft",))
    for other in (torch.zeros(3), torch.tensor(1.0), {"model": {}}, [1, 2], "sft", None, 3):
        torch.save(other, path)
        assert str(path) in refusal(load, tmp_path, ("sft",))


def test_a_checkpoint_that_was_cut_short_is_refused_wherever_it_was_cut(tmp_path, gpt, tokenizer):
    """An incomplete copy is the usual damage. The message is one line in every case."""
    save(tmp_path, "sft", gpt.config, tokenizer, 1, model=gpt)
    path = tmp_path / "checkpoint.pt"
    content = path.read_bytes()
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(content[: int(len(content) * share)])
        assert "damaged" in refusal(load, tmp_path, ("sft",))


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("boom",))


def test_loading_a_checkpoint_runs_no_code_that_is_in_it(tmp_path, monkeypatch):
    """A pickle can run any code when it is loaded. A checkpoint, which may come from somebody else,
    can hold tensors and plain values only."""
    monkeypatch.chdir(tmp_path)
    torch.save({"stage": "sft", "model": Bomb()}, tmp_path / "checkpoint.pt")
    refusal(load, tmp_path, ("sft",))
    (tmp_path / "checkpoint.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    refusal(load, tmp_path, ("sft",))
    assert not Path("boom").exists()


# ---- and with which vocabulary


def test_a_vocabulary_that_changed_under_its_name_is_refused(tmp_path, gpt, tokenizer, monkeypatch):
    """Ids have no meaning without it. If the merges that come with the package changed, an old
    model would write nonsense."""
    save(tmp_path, "sft", gpt.config, tokenizer, 1, model=gpt)
    monkeypatch.setattr(checkpoint, "get_tokenizer", bytes_only)
    message = refusal(load_gpt, tmp_path)
    assert str(tmp_path) in message and "another vocabulary called tiny" in message


def test_a_vocabulary_of_the_same_name_and_size_may_be_another_one(
    tmp_path, gpt, tokenizer, monkeypatch
):
    """Two of its merges in another order are enough."""
    save(tmp_path, "sft", gpt.config, tokenizer, 1, model=gpt)
    known = {"name": tokenizer.name, "vocab_size": tokenizer.vocab_size}
    other = SimpleNamespace(**known, fingerprint=lambda: tokenizer.fingerprint()[::-1])
    monkeypatch.setattr(checkpoint, "get_tokenizer", lambda name: other)
    assert "another vocabulary called tiny" in refusal(load_gpt, tmp_path)


def test_a_checkpoint_knows_its_tokenizer_by_name(tmp_path, make_gpt, monkeypatch):
    """A later stage needs no flag for it, so no flag can be wrong."""
    gpt = make_gpt(vocab_size=257)
    save(tmp_path, "sft", gpt.config, bytes_only("bytes"), 1, model=gpt)
    monkeypatch.setattr(checkpoint, "get_tokenizer", bytes_only)
    assert load_tokenizer(load(tmp_path, ("sft",)), tmp_path).name == "bytes"


def test_two_checkpoints_must_have_the_same_vocabulary(tokenizer):
    """A reward model reads the policy's ids. Neither equal sizes nor equal names are enough."""
    same_vocabulary("a", tokenizer, "b", get_tokenizer())
    for other in (bytes_only("bytes"), bytes_only("tiny")):
        message = refusal(same_vocabulary, "out/sft", tokenizer, "out/rm", other)
        assert "out/sft" in message and "out/rm" in message and other.name in message


# ---- resuming


def test_restore_puts_modules_and_optimizers_back_to_the_bit(tmp_path, make_gpt, tokenizer):
    """Without its moments, Adam's first step is far too large (NeMo-RL #3171 resets them
    silently)."""

    def step(gpt, optimizer):
        gpt(torch.arange(12).view(3, 4)).logsumexp(-1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    first = make_gpt(seed=0)
    optimizer = adamw(first, 0.01, weight_decay=0.1)
    step(first, optimizer)
    save(tmp_path, "sft", first.config, tokenizer, 1, model=first, optimizer=optimizer, kl_coef=0.3)
    second = make_gpt(seed=1)
    other = adamw(second, 0.5)
    state = restore(tmp_path, "sft", True, model=second, optimizer=other)
    assert (state["step"], state["kl_coef"]) == (1, 0.3)
    step(first, optimizer)
    step(second, other)
    assert equal_weights(first, second)


def stepped(gpt, **settings):
    """An optimiser after one step."""
    optimizer = adamw(gpt, lr=0.1, **settings)
    for parameter in gpt.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def test_an_optimiser_goes_on_with_its_moments_and_settings_or_not_at_all(make_gpt):
    """Its learning rate is set before each step, and its decay is a flag."""
    gpt = make_gpt()
    fresh = adamw(gpt, lr=0.3, weight_decay=0.2)
    checkpoint.load_optimizer(fresh, stepped(gpt, weight_decay=0.1).state_dict(), "x")
    assert len(fresh.state) == len(list(gpt.parameters()))
    lacking = stepped(gpt).state_dict()
    del lacking["state"][3]["exp_avg_sq"]
    bad = stepped(gpt).state_dict()
    bad["state"][0]["exp_avg"] = bad["state"][0]["exp_avg"] * float("inf")
    others = [stepped(gpt, betas=(0.8, 0.7)), stepped(gpt, eps=1e-3)]
    for state in [lacking, bad, *(optimizer.state_dict() for optimizer in others)]:
        with pytest.raises(InputError, match="^x holds other weights"):
            checkpoint.load_optimizer(adamw(gpt, lr=0.1), state, "x")


def test_weights_of_another_type_are_not_taken(make_gpt):
    """In half precision they have lost what an update adds."""
    gpt = make_gpt()
    half = {name: tensor.half() for name, tensor in gpt.state_dict().items()}
    with pytest.raises(InputError, match="^x holds other weights"):
        checkpoint.load_weights(gpt, half, "x")


def test_a_policy_belongs_to_the_sft_model_it_was_trained_from_if_that_is_known(tmp_path, make_gpt):
    """A run of an older version does not say which one it was."""
    sft, other = make_gpt(), make_gpt(seed=1)
    checkpoint.same_sft(tmp_path, sft)
    for inputs in ({}, {"sft": resume.fingerprint(sft)}):
        (tmp_path / "config.json").write_text(json.dumps({"flags": {}, "inputs": inputs}))
        checkpoint.same_sft(tmp_path, sft)
    with pytest.raises(checkpoint.OtherModel, match="was trained from another SFT model"):
        checkpoint.same_sft(tmp_path, other)


def test_without_resume_or_without_a_checkpoint_a_run_starts_at_step_zero(
    tmp_path, gpt, tokenizer, make_gpt
):
    """A run without --resume must not load an old checkpoint of its folder."""
    other = make_gpt(vocab_size=get_tokenizer().vocab_size, seed=1)
    weight = other.state_dict()["norm.weight"].clone()
    assert restore(tmp_path, "sft", True, model=other) == {"step": 0}
    save(tmp_path, "sft", gpt.config, tokenizer, 5, model=gpt)
    assert restore(tmp_path, "sft", False, model=other) == {"step": 0}
    assert torch.equal(other.state_dict()["norm.weight"], weight)


def test_a_run_does_not_resume_from_another_stage(tmp_path, gpt, tokenizer):
    """The parts have the same names, so they would load, and PPO would go on from SFT's step 5."""
    save(tmp_path, "sft", gpt.config, tokenizer, 5, model=gpt)
    assert "stage sft" in refusal(restore, tmp_path, "ppo", True)


@pytest.mark.parametrize("change", ["name", "shape"])
def test_weights_of_another_version_are_refused_in_one_line(tmp_path, gpt, tokenizer, change):
    """A parameter that has another name or another shape: a traceback of torch's names every
    parameter and no remedy. The same holds for a run that resumes."""
    save(tmp_path, "sft", gpt.config, tokenizer, 5, model=gpt)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    weight = state["model"].pop("norm.weight")
    state["model"]["norm.scale" if change == "name" else "norm.weight"] = weight[:-1]
    torch.save(state, tmp_path / "checkpoint.pt")
    assert "another version" in refusal(load_gpt, tmp_path)
    assert "another version" in refusal(restore, tmp_path, "sft", True, model=gpt)


def start(tmp_path, tokenizer, *argv, stages=("sft", "pretrain")):
    """(args, folders) of a run that is started with the flags `argv`."""
    args = checkpoint.configure(Config, "sft", ["--out", str(tmp_path), *argv])
    with start_run(args, tokenizer, *stages) as folders:
        return args, folders


def test_resume_keeps_a_run_and_its_flags(tmp_path, tokenizer):
    """A flag that is not given is that of the saved run, not the default. How long the run goes on
    may change, and that is then stored."""
    start(tmp_path, tokenizer, "--steps", "9", "--target", "0.5", "--overwrite")
    names = set(RUN_FILES) - {"checkpoint.pt"}  # which is read
    for name in names:
        write_text(tmp_path / "sft" / name, "old")
    args, _ = start(tmp_path, tokenizer, "--resume")
    assert (args.steps, args.target, args.resume, args.overwrite) == (9, 0.5, True, False)
    assert all((tmp_path / "sft" / name).read_text() == "old" for name in names)
    args, _ = start(tmp_path, tokenizer, "--resume", "--updates", "12")
    assert args.updates == 12
    assert start(tmp_path, tokenizer, "--resume")[0].updates == 12
    assert "already holds" in refusal(start, tmp_path, tokenizer)  # --resume itself is not stored


@pytest.mark.parametrize("pair", ["--steps 12", "--target 0.7"])
def test_a_resumed_run_is_not_silently_another_one(tmp_path, tokenizer, pair):
    """`--resume --seed 2` and the like used to go on with exit code 0, and config.json then claimed
    that the new value held throughout. The line names both values, and nothing is written."""
    start(tmp_path, tokenizer, "--steps", "9", "--target", "0.5")
    before = contents(tmp_path)
    option, value = pair.split()
    message = refusal(start, tmp_path, tokenizer, "--resume", option, value)
    assert option in message and ("9" in message or "0.5" in message) and value in message
    assert contents(tmp_path) == before


def test_an_unset_number_is_the_same_when_a_run_is_resumed(tmp_path, tokenizer):
    """NaN stands for "not given", and NaN is not equal to itself."""
    start(tmp_path, tokenizer)
    args, _ = start(tmp_path, tokenizer, "--resume")
    assert args.target != args.target


def test_there_must_be_something_to_resume(tmp_path, tokenizer):
    """A new run would not have the flags that the user expects."""
    message = refusal(start, tmp_path, tokenizer, "--resume")
    assert str(tmp_path / "sft") in message and "--resume" in message
    assert not list(tmp_path.iterdir())


def test_metrics_and_checkpoint_agree_on_what_a_step_is(tmp_path, gpt, tokenizer):
    """A checkpoint after three steps says 3. The metrics, cut back to it, hold steps 0, 1 and 2;
    the next step is 3."""
    log = Metrics(tmp_path)
    for step in range(5):
        log.log(step, loss=0.0)
        if step == 2:
            save(tmp_path, "sft", gpt.config, tokenizer, step + 1, model=gpt)
    Metrics(tmp_path, restore(tmp_path, "sft", True, model=gpt)["step"])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2]


def test_a_run_that_would_replace_what_it_reads_is_refused_when_its_flags_are_read(tmp_path):
    """Before a model is loaded or a response sampled, which may take hours."""
    argv = ["--out", str(tmp_path), "--init", str(tmp_path / "sft")]
    assert "lies where this run writes" in refusal(checkpoint.configure, Config, "sft", argv)
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "metrics.jsonl").write_text("mine")
    argv = ["--out", str(tmp_path)]
    assert "was not written by a run" in refusal(checkpoint.configure, Config, "sft", argv)
