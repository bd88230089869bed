"""A run that diverges stops in one line, and what was saved before stays good."""

import json

import pytest
import torch
from helpers import saved

import train_ppo
import train_rm
import train_sft
from minirlhf.run import checkpoint, config
from minirlhf.run.optim import require_finite
from minirlhf.tools import dpo as dpo_command


@pytest.fixture
def stops(capsys):
    """stops(main, argv) -> the line on stderr with which a command stopped, with exit code 2."""

    def check(main, argv):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            config.run(lambda: main(argv))
        error = capsys.readouterr().err.splitlines()[-1]
        assert stop.value.code == 2 and error.startswith("error: "), error
        return error

    return check


PPO_FLAGS = "--updates 9 --batch-size 6 --epochs 2 --minibatches 4 --warmup 0 --held-out 4"
STAGES = {
    "sft": (train_sft, "demonstrations", "--context 32 --batch-size 18 --epochs 10 --warmup 0"),
    "rm": (train_rm, "comparisons", "--batch-size 9 --epochs 9 --norm-prompts 4 --warmup 0"),
    "ppo": (train_ppo, "prompts", PPO_FLAGS),
    "dpo": (dpo_command, "comparisons", "--batch-size 9 --epochs 9 --warmup 0"),
}


# DPO at 1e3 orders every pair after one step, and then has no gradient: its weights stay finite.
@pytest.mark.parametrize(
    ("stage", "lr"),
    [(s, lr) for s in STAGES for lr in ("1e3", "1e12") if (s, lr) != ("dpo", "1e3")],
)
def test_a_learning_rate_that_is_far_too_high_ends_in_one_line(
    out, colours, small_models, stops, stage, lr
):
    """1e3 is 1e-3 mistyped. The run used to end with exit code 0 and "the policy is in ...", all
    weights NaN. The line names what is not finite, the step, and the flag. A checkpoint, if there
    is one, holds finite weights: the next stage can never take a broken one."""
    script, records, flags = STAGES[stage]
    argv = ["--out", str(out), "--data", str(colours / f"{records}.jsonl"), *flags.split()]
    argv += ["--lr", lr, "--save-every", "1", "--overwrite"]
    if stage != "dpo":
        argv += ["--max-new-tokens", "6"]
    error = stops(script.main, argv)
    assert "diverged" in error and "--lr" in error
    if (out / stage / "checkpoint.pt").exists():
        assert checkpoint.first_not_finite(saved(out / stage)["model"]) is None
        if stage in checkpoint.POLICIES:
            checkpoint.load_gpt(out / stage)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.tensor(float("nan"))])
def test_a_number_that_is_not_finite_is_named_with_its_step(value):
    """And numbers that are finite pass."""
    require_finite(3, loss=1.0, grad_norm=torch.tensor(2.0))
    with pytest.raises(config.InputError, match="grad_norm is (nan|inf) at step 3"):
        require_finite(3, loss=1.0, grad_norm=value)


@pytest.mark.parametrize(
    ("step", "name", "cause"),
    [
        (0, "return_mean", "scores or a flag are too large for float32"),
        (0, "loss", "no step was made yet"),
        (0, "grad_norm", "lower --lr"),
        (1, "return_mean", "lower --lr"),
    ],
)
def test_the_learning_rate_is_no_cause_before_the_first_step(step, name, cause):
    """Rewards of 1e38 have no sum in float32; they used to be blamed on --lr."""
    with pytest.raises(config.InputError, match=f"{name} is inf at step {step}: .*{cause}"):
        require_finite(step, **{name: float("inf")})


def test_the_optimiser_takes_no_step_with_a_loss_that_is_not_finite(
    tmp_path, colours, small_models, stops, monkeypatch
):
    """The third loss is NaN, as from a batch of damaged records. Two steps are logged, and the
    weights that were saved are those of the second."""
    losses, accumulate = [], train_sft.accumulate

    def third_is_nan(gpt, batch, microbatch_tokens):
        losses.append(accumulate(gpt, batch, microbatch_tokens))
        return float("nan") if len(losses) == 3 else losses[-1]

    monkeypatch.setattr(train_sft, "accumulate", third_is_nan)
    argv = ["--out", str(tmp_path), "--data", str(colours / "demonstrations.jsonl")]
    argv += "--context 32 --batch-size 18 --save-every 1 --max-new-tokens 6".split()
    assert "loss is nan at step 2" in stops(train_sft.main, argv)
    assert saved(tmp_path / "sft")["step"] == 2
    lines = (tmp_path / "sft" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1]


@pytest.mark.parametrize("stage", ["sft", "rm"])
def test_the_optimiser_takes_no_step_with_a_gradient_that_is_not_finite(
    out, colours, small_models, stops, monkeypatch, stage
):
    """The loss is a number there: clipping by an infinite norm would make zeros of the gradient,
    or NaN."""
    norms, clip = [], torch.nn.utils.clip_grad_norm_

    def third_is_infinite(parameters, limit):
        norms.append(clip(parameters, limit))
        return torch.tensor(float("inf")) if len(norms) == 3 else norms[-1]

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", third_is_infinite)
    script, records, flags = STAGES[stage]
    argv = ["--out", str(out), "--data", str(colours / f"{records}.jsonl"), *flags.split()]
    argv += ["--save-every", "1", "--overwrite", "--max-new-tokens", "6"]
    assert "grad_norm is inf at step 2" in stops(script.main, argv)
    assert saved(out / stage)["step"] == 2


def test_weights_that_are_not_finite_are_refused_on_loading(out, stops, colours):
    """One NaN in a checkpoint of somebody else's, or of an older version: every number after it
    would be NaN."""
    state = saved(out / "sft")
    state["model"]["norm.bias"][0] = float("nan")
    torch.save(state, out / "sft" / "checkpoint.pt")
    argv = ["--out", str(out), "--data", str(colours / "prompts.jsonl"), "--updates", "1"]
    error = stops(train_ppo.main, argv)
    assert f"{out}/sft: norm.bias is not finite" in error


def test_a_reward_model_without_a_standard_deviation_is_refused(out, stops, colours):
    """Its scores would be divided by zero."""
    state = saved(out / "rm")
    state["model"]["std"].zero_()
    torch.save(state, out / "rm" / "checkpoint.pt")
    argv = ["--out", str(out), "--data", str(colours / "prompts.jsonl"), "--updates", "1"]
    assert "standard deviation is 0" in stops(train_ppo.main, argv)


def test_an_infinite_flag_is_refused(refused, out, colours):
    """`--missing-end-score inf` would make every reward infinite."""
    argv = ["--out", str(out), "--data", str(colours / "prompts.jsonl")]
    for pair in ("--missing-end-score=-inf", "--lr inf", "--max-grad-norm inf"):
        error = refused(train_ppo.main, [*argv, *pair.split()], out)
        assert "must be a finite number" in error
