"""What a run says on stderr when its numbers cannot mean anything: one line of each kind, and
nothing in a healthy run. The thresholds are in tests/unit/test_health.py."""

import json

import pytest
import torch
from conftest import COLOUR_RM, COLOUR_SFT, colour_prompt
from helpers import logged, saved

import train_ppo
import train_rm
import train_sft
from minirlhf.reward import RewardModel
from minirlhf.run import health
from minirlhf.run.metrics import read_metrics
from minirlhf.tools import dpo as dpo_command

pytestmark = pytest.mark.usefixtures("small_models")
PPO = "--updates 4 --batch-size 24 --held-out 4 --lr 1e-3 --max-new-tokens 6 --overwrite".split()
PPO += "--epochs 2 --minibatches 4 --warmup 0 --lam 0.95 --value-head-rate 1".split()


@pytest.fixture
def warnings(capsys):
    """warnings(main, argv) -> the warnings of a command on stderr."""

    def run(main, argv):
        capsys.readouterr()
        main(argv)
        lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
        return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]

    return run


def argv(out, colours, name, *flags):
    return ["--out", str(out), "--data", str(colours / f"{name}.jsonl"), "--overwrite", *flags]


def test_healthy_runs_of_all_stages_say_nothing(out, colours, warnings):
    """A warning that comes always is read never."""
    steps = "--lr", "0.01", "--warmup", "2", "--max-new-tokens", "6"
    sft = argv(out, colours, "demonstrations", *steps, *COLOUR_SFT)
    rm = argv(out, colours, "comparisons", *steps, *COLOUR_RM)
    dpo = argv(out, colours, "comparisons", "--batch-size", "9", "--warmup", "2")
    assert warnings(train_sft.main, sft) == []
    assert warnings(train_rm.main, rm) == []
    assert warnings(train_ppo.main, argv(out, colours, "prompts", *PPO)) == []
    assert warnings(dpo_command.main, dpo) == []


def test_fewer_updates_than_the_warm_up_are_one_line(out, colours, warnings):
    """Three updates of PPO, whose policy is that of SFT still."""
    flags = [*PPO, "--updates", "3", "--warmup", "16"]
    texts = warnings(train_ppo.main, argv(out, colours, "prompts", *flags))
    assert [text for text in texts if "warm-up" in text] == [
        health.short_run(3, 16, "raise --updates")
    ]


@pytest.mark.parametrize("stage", ["sft", "rm", "dpo"])
def test_fewer_steps_than_the_warm_up_are_one_line(out, colours, warnings, stage):
    """54 of 60 records or comparisons: three steps of 18, six of 9."""
    main = {"sft": train_sft, "rm": train_rm, "dpo": dpo_command}[stage].main
    name, flags = "comparisons", ["--batch-size", "9", "--warmup", "20"]
    flags += [] if stage == "dpo" else ["--max-new-tokens", "6"]
    if stage == "sft":
        name, flags = "demonstrations", ["--batch-size", "18", "--warmup", "20", "--context", "32"]
        flags += ["--max-new-tokens", "6"]
    texts = warnings(main, argv(out, colours, name, *flags))
    steps = sum("grad_norm" in line for line in read_metrics(out / stage))  # without the report
    told = [text for text in texts if "warm-up" in text]
    assert told == [health.short_run(steps, 20)] and told[0].startswith(f"{steps} steps end in")


def test_answers_longer_than_what_is_sampled_are_one_line(out, tmp_path, warnings):
    """Demonstrations and comparisons alike. A third of the answers has five tokens, of which the
    last one is the end token."""
    answers = ["r", "g", "b b b b"] * 20
    prompts = [colour_prompt(i) for i in range(60)]
    rows = [{"prompt": p, "response": a} for p, a in zip(prompts, answers, strict=True)]
    write(tmp_path / "demonstrations.jsonl", rows)
    rows = [{"prompt": p, "chosen": "b b b b", "rejected": "r"} for p in prompts]
    write(tmp_path / "comparisons.jsonl", rows)
    for name, main, share in (
        ("demonstrations", train_sft.main, "33%"),
        ("comparisons", train_rm.main, "50%"),
    ):
        flags = [
            "--warmup",
            "2",
            "--lr",
            "0.01",
            *(["--context", "32"] if main is train_sft.main else []),
        ]
        for tokens, told in ((4, True), (8, False)):
            texts = warnings(
                main, argv(out, tmp_path, name, *flags, "--max-new-tokens", str(tokens))
            )
            found = [text for text in texts if "the data's responses" in text]
            assert len(found) == told
            if told:
                assert found[0].startswith(f"{share} of the data's responses have more than 4")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_sign_is_one_line_of_a_run_and_its_resumption(out, colours, warnings):
    """Responses of one token have no end: each of four updates is sick, and one line says so. So
    does the resumed run, once."""
    flags = [*PPO, "--max-new-tokens", "1", "--missing-end-score", "-1"]
    run = argv(out, colours, "prompts", *flags)
    (text,) = [x for x in warnings(train_ppo.main, run) if "unfinished" in x]
    assert text.startswith("step 0: 100% of the responses are unfinished")
    resumed = ["--out", str(out), "--resume", "--updates", "6"]
    (text,) = [x for x in warnings(train_ppo.main, resumed) if "unfinished" in x]
    assert text.startswith("step 4: ")


def test_weights_that_explode_while_they_are_finite_are_one_line(out, colours, warnings):
    """At a learning rate of 2 each step of Adam moves each weight by about 2."""
    flags = ["--lr", "2", "--warmup", "0", "--context", "32", "--max-new-tokens", "6"]
    texts = warnings(train_sft.main, argv(out, colours, "demonstrations", *flags))
    (text,) = [x for x in texts if "explode" in x]
    assert text.startswith("step 0: the weights explode: their root mean square is ")


def test_the_size_of_the_weights_is_logged(out, colours):
    """The root mean square of all that is trained: of the policy, and of the value head."""
    train_ppo.main(argv(out, colours, "prompts", *PPO))
    state = saved(out / "ppo")
    weights = [*state["model"].values(), *state["value_head"].values()]
    expected = torch.cat([x.flatten() for x in weights]).square().mean().sqrt()
    assert logged(out / "ppo", "weight_rms")[-1] == pytest.approx(float(expected), rel=1e-5)


def test_a_reward_model_whose_scores_hardly_differ_is_told_by_both_stages(
    out, colours, warnings, monkeypatch
):
    """An SFT model with one single answer: its scores are rounding, magnified to 1."""
    normalise = RewardModel.normalise

    def normalise_noise(self, scores):
        normalise(self, scores.mean() + 1e-6 * (scores - scores.mean()))

    monkeypatch.setattr(RewardModel, "normalise", normalise_noise)
    rm = argv(out, colours, "comparisons", "--max-new-tokens", "6", "--warmup", "2", *COLOUR_RM)
    (text,) = warnings(train_rm.main, rm)
    assert "magnified to 1" in text
    spread = read_metrics(out / "rm")[-1]["score_spread"]
    assert spread == pytest.approx(float(saved(out / "rm")["model"]["std"])) and spread < 1e-5
    assert [x for x in warnings(train_ppo.main, argv(out, colours, "prompts", *PPO)) if "magn" in x]


def test_a_reward_that_is_the_same_for_all_is_one_line(
    out, colours, warnings, tmp_path, monkeypatch
):
    """There is nothing to learn from, and nothing would say so."""
    (tmp_path / "flat.py").write_text("def zero(prompts, texts):\n    return [0] * len(texts)\n")
    monkeypatch.syspath_prepend(tmp_path)
    flags = [*PPO, "--kl-coef", "0", "--reward", "flat:zero", "--missing-end-score", "0"]
    texts = warnings(train_ppo.main, argv(out, colours, "prompts", *flags))
    assert [x for x in texts if x.startswith("step 0: all advantages are 0")]
