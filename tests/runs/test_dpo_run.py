"""The specification of the loop in dpo.py: preferences without a reward model. The loss itself: test_dpo.py."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import colour_prompt
from helpers import generators, gradient, logged, same, saved

from minirlhf import data, dpo
from minirlhf.data import Comparison
from minirlhf.evaluate import sequence_logprobs
from minirlhf.run import checkpoint
from minirlhf.run.checkpoint import load_gpt
from minirlhf.tokenizer import get_tokenizer
from minirlhf.tools import dpo as dpo_command

BATCH = [  # 1, 5 and 2 strictly ordered pairs
    Comparison("name one", ["blue", "I would rather not"], [0, 1]),
    Comparison("and?", ["red", "a", "blue and green", ""], [2, 0, 1, 1]),
    Comparison("", ["yes", "no", "perhaps"], [0, 1, 1]),
]
SMALL = "--batch-size 10 --lr 0.001 --warmup 2 --beta 0.5".split()


@pytest.fixture
def policies(make_gpt):
    policy, reference = (
        make_gpt(vocab_size=1024, seed=0, std=0.2),
        make_gpt(vocab_size=1024, seed=1, std=0.2),
    )
    return policy, reference.requires_grad_(False)


def run(out, *argv):
    dpo_command.main(["--out", str(out), *argv])


@pytest.fixture(scope="module")
def six_steps(colour_run, colours, tmp_path_factory):
    """OUT of six steps of DPO on 60 comparisons. Read only."""
    out = tmp_path_factory.mktemp("dpo") / "out"
    run(out, "--sft", str(colour_run / "sft"), "--data", str(colours / "comparisons.jsonl"), *SMALL)
    return out


def test_the_loss_is_the_mean_over_all_ordered_pairs(policies):
    """Written out pair by pair from sequence log-probabilities, each response by itself, summed over its tokens."""
    tok = get_tokenizer()
    losses = []
    for c in BATCH:
        examples = [data.encode(tok, c.prompt, response) for response in c.responses]
        own, ref = (torch.cat([sequence_logprobs(gpt, [e]) for e in examples]) for gpt in policies)
        pairs = [
            (i, j) for i in range(len(own)) for j in range(len(own)) if c.ranks[i] < c.ranks[j]
        ]
        losses += [-F.logsigmoid(0.3 * ((own[i] - ref[i]) - (own[j] - ref[j]))) for i, j in pairs]
    stats = dpo.accumulate(*policies, tok, BATCH, 0.3, 1000)
    assert stats["loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)
    assert stats["accuracy"] == pytest.approx(sum(loss < math.log(2) for loss in losses) / 8)


@pytest.mark.parametrize("microbatch_tokens", [1, 30, 60])
def test_the_gradient_does_not_depend_on_the_microbatches(policies, microbatch_tokens):
    """The parts hold 1, 2 and 5 pairs, so a mean of means would be another gradient (summarize_from_feedback_details,
    sft.py:393)."""
    tok = get_tokenizer()
    stats = dpo.accumulate(*policies, tok, BATCH, 0.3, 1000)
    whole = gradient(policies[0])
    assert dpo.accumulate(*policies, tok, BATCH, 0.3, microbatch_tokens) == pytest.approx(
        stats, rel=1e-5
    )
    assert torch.allclose(gradient(policies[0]), whole, rtol=0, atol=1e-6)


def test_each_response_goes_through_each_trunk_once_and_the_reference_without_gradient(
    policies, rows_through_trunks
):
    """9 rows a model, not two for each of 8 pairs. A graph behind the reference would cost as much memory as the policy's, for
    nothing."""
    dpo.accumulate(*policies, get_tokenizer(), BATCH, 0.3, 1000)
    for gpt, with_gradient in zip(policies, (True, False), strict=True):
        assert [(rows, grad) for trunk, rows, grad in rows_through_trunks if trunk is gpt] == [
            (9, with_gradient)
        ]


def test_it_starts_at_log_two_and_learns_to_prefer(colour_run, colours, out):
    """The policy is the reference at first, so every margin is 0; after four epochs, on new prompts, b gained most."""
    run(out, "--data", str(colours / "comparisons.jsonl"), *SMALL, "--epochs", "4")
    losses = logged(out / "dpo", "loss")
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6) and losses[-1] < 0.4
    assert logged(out / "dpo", "accuracy")[-1] == 1
    assert logged(out / "dpo", "chosen_reward")[0] == 0
    (policy, tok), (sft, _) = load_gpt(out / "dpo"), load_gpt(colour_run / "sft")
    gains = {}
    for colour in "brg":
        examples = [data.encode(tok, colour_prompt(i), colour) for i in range(70, 80)]
        gains[colour] = (
            sequence_logprobs(policy, examples) - sequence_logprobs(sft, examples)
        ).mean()
    assert gains["b"] > gains["r"] > gains["g"]


def test_the_sft_model_is_left_alone(out, colours):
    """It is the reference of the next run too, and PPO's: the file on the disk stays as it is, to the byte."""
    before = (out / "sft" / "checkpoint.pt").read_bytes()
    run(out, "--data", str(colours / "comparisons.jsonl"), *SMALL)
    assert (out / "sft" / "checkpoint.pt").read_bytes() == before


def test_the_reference_of_every_step_is_the_sft_model(out, colours, monkeypatch):
    """A reference that moves along makes each step start at log 2 again."""
    states = []
    accumulate = dpo.accumulate

    def watched(policy, reference, *rest):
        states.append({name: value.clone() for name, value in reference.state_dict().items()})
        return accumulate(policy, reference, *rest)

    monkeypatch.setattr(dpo_command, "accumulate", watched)
    run(out, "--data", str(colours / "comparisons.jsonl"), *SMALL)
    assert len(states) == 6 and all(same(state, saved(out / "sft")["model"]) for state in states)


def test_by_default_it_learns_from_what_the_reward_model_collected(world_out):
    """So that DPO and PPO are compared on the very same preferences; the ragged last batch is trained on (dropped in
    direct-preference-optimization, preference_datasets.py:346)."""
    run(world_out, "--batch-size", "10")
    state = saved(world_out / "dpo")
    assert (state["stage"], state["step"]) == ("dpo", 3)  # 24 comparisons, the last batch ragged
    assert logged(world_out / "dpo", "step") == [0, 1, 2]


def test_microbatch_precision_and_device_are_what_the_command_says(out, colours, monkeypatch):
    """--microbatch-tokens 77 --precision bf16, and without them what suits a CPU: 2048 tokens, float32. Policy and reference
    alike, or the margin of an untrained policy would be noise; and only one of them is trained."""
    seen, loaded, load = [], [], checkpoint.load_gpt
    monkeypatch.setattr(
        dpo_command,
        "train",
        lambda args, folder, *models_and_data: seen.append((args, *models_and_data[:2])),
    )
    monkeypatch.setattr(
        checkpoint,
        "load_gpt",
        lambda path, **options: loaded.append(options) or load(path, **options),
    )
    asked = "--microbatch-tokens", "77", "--precision", "bf16"
    for argv, tokens, precision in ((asked, 77, torch.bfloat16), ((), 2048, torch.float32)):
        run(
            out,
            "--data",
            str(colours / "comparisons.jsonl"),
            "--device",
            "cpu",
            "--overwrite",
            *argv,
        )
        args, policy, reference = seen.pop()
        assert args.microbatch_tokens == tokens
        assert policy.precision == reference.precision == precision
        assert loaded.pop() == {"device": torch.device("cpu"), "precision": precision}
        assert all(p.requires_grad for p in policy.parameters()) and not any(
            p.requires_grad for p in reference.parameters()
        )


def test_a_comparison_that_does_not_fit_the_context_is_refused_or_left_out(
    out, colours, tmp_path, refused, monkeypatch
):
    """One of 61, in a context of 32. Cut off it would lose its end token, and with it what makes a response whole."""
    long = tmp_path / "long.jsonl"
    record = {"prompt": "word " * 40, "chosen": "b", "rejected": "g"}
    long.write_text((colours / "comparisons.jsonl").read_text() + json.dumps(record) + "\n")
    told = refused(dpo_command.main, ["--out", str(out), "--data", str(long)], out)
    assert "--drop-long" in told
    kept = []
    monkeypatch.setattr(dpo_command, "train", lambda *everything: kept.append(len(everything[-1])))
    run(out, "--data", str(long), "--drop-long")
    assert kept == [60]


def test_the_learning_rate_warms_up_and_falls_as_asked_and_is_logged(six_steps):
    """Six steps at a peak of .001, two of them of warm-up: a half, one, and then half a cosine over four, whose first steps are
    1, .868, .55 and .232."""
    shares = [0.5, 1, 1, 0.868198, 0.55, 0.231802]
    assert logged(six_steps / "dpo", "lr") == pytest.approx(
        [0.001 * share for share in shares], rel=1e-5
    )


def test_gradients_are_clipped_and_their_norm_before_that_is_logged(out, colours, gradient_norms):
    """The optimiser sees the clipped ones, the log the others: a norm that is always the limit would say nothing."""
    run(
        out,
        "--data",
        str(colours / "comparisons.jsonl"),
        "--batch-size",
        "30",
        "--max-grad-norm",
        "0.1",
    )
    before = logged(out / "dpo", "grad_norm")
    assert len(before) == 2 and min(before) > 0.2
    assert gradient_norms == pytest.approx([0.1, 0.1], rel=1e-3)


def test_three_steps_a_stop_and_three_more_are_six_steps_to_the_bit(
    six_steps, colour_run, colours, tmp_path, ctrl_c, capsys
):
    """Weights, optimiser, metrics. direct-preference-optimization saves the optimiser and loads the policy alone
    (train.py:96)."""
    ctrl_c("dpo", 2)
    with pytest.raises(KeyboardInterrupt):
        run(
            tmp_path,
            "--sft",
            str(colour_run / "sft"),
            "--data",
            str(colours / "comparisons.jsonl"),
            *SMALL,
        )
    ctrl_c(None)
    told = capsys.readouterr().err
    assert f"{tmp_path / 'dpo' / 'checkpoint.pt'} holds 3 of 6 steps" in told and "--resume" in told
    run(tmp_path, "--resume")
    assert logged(tmp_path / "dpo") == logged(six_steps / "dpo")
    assert same(saved(tmp_path / "dpo"), saved(six_steps / "dpo"))


def test_a_checkpoint_is_saved_every_so_many_steps_and_at_the_end(
    colour_run, colours, tmp_path, monkeypatch
):
    """--save-every 4 of 6 steps: after 4 and after 6. What a power cut may cost is what the flag says."""
    saved_after, save = [], checkpoint.save

    def watched(folder, stage, shape, tok, done, **parts):
        saved_after.append(done)
        save(folder, stage, shape, tok, done, **parts)

    monkeypatch.setattr(checkpoint, "save", watched)
    argv = ["--sft", str(colour_run / "sft"), "--data", str(colours / "comparisons.jsonl"), *SMALL]
    run(tmp_path, *argv, "--save-every", "4")
    assert saved_after == [4, 6]


def test_a_run_that_goes_on_takes_only_the_steps_that_are_left(
    colour_run, colours, tmp_path, ctrl_c, monkeypatch
):
    """3 of 6 done, 3 to go. All 6 again would end in the same bits, with nothing saved by having stopped."""
    ctrl_c("dpo", 2)
    with pytest.raises(KeyboardInterrupt):
        run(
            tmp_path,
            "--sft",
            str(colour_run / "sft"),
            "--data",
            str(colours / "comparisons.jsonl"),
            *SMALL,
        )
    ctrl_c(None)
    steps, accumulate = [], dpo.accumulate
    monkeypatch.setattr(
        dpo_command, "accumulate", lambda *args: steps.append(len(args[3])) or accumulate(*args)
    )
    run(tmp_path, "--resume")
    assert steps == [10, 10, 10]


def test_a_seed_decides_everything_and_no_global_generator_is_touched(
    six_steps, colour_run, colours, tmp_path
):
    """The same bits twice, other ones for another seed, and a caller's own random numbers are left where they were (TRL
    #1648)."""
    argv = ["--sft", str(colour_run / "sft"), "--data", str(colours / "comparisons.jsonl"), *SMALL]
    before = generators()
    run(tmp_path / "again", *argv)
    run(tmp_path / "other", *argv, "--seed", "2")
    assert generators() == before
    assert same(saved(tmp_path / "again" / "dpo"), saved(six_steps / "dpo"))
    assert logged(tmp_path / "again" / "dpo") == logged(six_steps / "dpo")
    assert logged(tmp_path / "other" / "dpo") != logged(six_steps / "dpo")


def test_bad_input_is_one_line(refused, out, tmp_path, six_steps, colour_run, colours):
    """Ties only, no comparisons, no SFT model, one that is none, a run that is there."""
    new = tmp_path / "new"
    tied = tmp_path / "tied.jsonl"
    tied.write_text(json.dumps({"prompt": "p", "responses": ["a", "b"], "ranks": [1, 1]}) + "\n")
    sft = ["--out", str(new), "--sft", str(out / "sft")]
    assert "tie" in refused(dpo_command.main, [*sft, "--data", str(tied)], new)
    assert "comparisons.jsonl" in refused(dpo_command.main, sft, new)
    assert "train_sft.py" in refused(dpo_command.main, ["--out", str(new)], new)
    assert "stage rm" in refused(
        dpo_command.main, ["--out", str(new), "--sft", str(out / "rm")], new
    )
    argv = [
        "--out",
        str(six_steps),
        "--sft",
        str(colour_run / "sft"),
        "--data",
        str(colours / "comparisons.jsonl"),
    ]
    assert "--overwrite" in refused(dpo_command.main, argv, six_steps)
