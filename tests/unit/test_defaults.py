"""The learning rates of run/defaults.py: those of models as large as GPT-2 are from the papers."""

import json

import pytest

import train_ppo
import train_rm
import train_sft
from minirlhf.run import checkpoint, defaults
from minirlhf.run.config import InputError
from minirlhf.tokenizer import get_tokenizer
from minirlhf.tools import dpo

STAGES = {"sft": train_sft, "rm": train_rm, "ppo": train_ppo, "dpo": dpo}
PUBLISHED = {"sft": 6.25e-5, "rm": 1.77e-5, "ppo": 1.41e-5, "dpo": 1.77e-5}


@pytest.fixture
def gpt2_folder(tmp_path):
    """The config.json of a GPT-2 folder of this width."""

    def folder(width):
        (tmp_path / "config.json").write_text(json.dumps({"n_embd": width, "n_layer": 12}))
        return str(tmp_path)

    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_a_model_of_gpt2s_width_brings_the_learning_rate_of_the_papers(stage, gpt2_folder, capsys):
    """Ours are for a width of 128; one line says which rate it is. A flag that is given wins."""
    model_flag = "--init" if stage == "sft" else "--sft"
    argv = [model_flag, gpt2_folder(768), "--out", "nowhere"]
    args = checkpoint.configure(STAGES[stage].Config, stage, argv)
    assert args.lr == PUBLISHED[stage] < STAGES[stage].Config.lr / 5
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and f"--lr is {PUBLISHED[stage]:g}" in printed
    args = checkpoint.configure(STAGES[stage].Config, stage, [*argv, "--lr", "0.5"])
    assert args.lr == 0.5 and capsys.readouterr().err == ""


@pytest.mark.parametrize("width, large", [(511, False), (512, True), (None, False)])
def test_a_model_is_large_from_a_width_of_512_on(width, large, gpt2_folder, capsys):
    """A width that is no number is for the reader of the model to complain about."""
    argv = ["--init", gpt2_folder(width), "--out", "nowhere"]
    args = checkpoint.configure(train_sft.Config, "sft", argv)
    assert (args.lr == PUBLISHED["sft"]) == large == (capsys.readouterr().err != "")


@pytest.mark.parametrize("content", ["", "{", "[1]", "[" * 5000, '{"n_embd": 1e999}', "\0" * 9])
def test_a_damaged_config_has_no_width(tmp_path, content):
    """What reads the model says what is wrong with it."""
    (tmp_path / "config.json").write_text(content)
    assert defaults.width(tmp_path) == 0


def test_the_width_of_a_run_is_in_its_checkpoint(make_gpt, tmp_path):
    """By its folder or its file; 0 where there is none."""
    gpt = make_gpt(vocab_size=get_tokenizer("tiny").vocab_size, width=24)
    checkpoint.save(tmp_path, "sft", gpt.config, get_tokenizer("tiny"), 1, model=gpt)
    assert defaults.width(tmp_path) == defaults.width(tmp_path / "checkpoint.pt") == 24
    assert defaults.width(tmp_path / "nothing") == 0


def test_the_later_stages_look_at_the_sft_model_of_their_out(gpt2_folder, tmp_path):
    """--sft is seldom given: OUT/sft is where train_sft.py has left it."""
    folder = tmp_path / "out" / "sft"
    folder.mkdir(parents=True)
    (tmp_path / "out" / "sft" / "config.json").write_text(json.dumps({"n_embd": 1024}))
    args = checkpoint.configure(train_rm.Config, "rm", ["--out", str(tmp_path / "out")])
    assert args.lr == PUBLISHED["rm"]


@pytest.mark.parametrize("width", [128, 768])
@pytest.mark.parametrize("stage", STAGES)
def test_adapters_bring_ten_times_the_learning_rate(stage, width, gpt2_folder, capsys):
    """Of a small model's as of a large one's; one line says so. A flag that is given wins."""
    model_flag = "--init" if stage == "sft" else "--sft"
    argv = [model_flag, gpt2_folder(width), "--out", "nowhere", "--lora", "4"]
    full = PUBLISHED[stage] if width == 768 else STAGES[stage].Config.lr
    args = checkpoint.configure(STAGES[stage].Config, stage, argv)
    assert args.lr == pytest.approx(10 * full) and args.lora == 4
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and f"adapters are trained: --lr is {10 * full:g}" in printed
    args = checkpoint.configure(STAGES[stage].Config, stage, [*argv, "--lr", "0.5"])
    assert args.lr == 0.5 and capsys.readouterr().err == ""


@pytest.mark.parametrize("stage", STAGES)
def test_an_alpha_without_adapters_is_refused_before_anything_else(stage):
    with pytest.raises(InputError, match="--lora-alpha 8 needs --lora"):
        checkpoint.configure(STAGES[stage].Config, stage, ["--lora-alpha", "8", "--out", "nowhere"])
