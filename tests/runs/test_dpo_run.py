"""The specification of `minirlhf dpo`: preferences without a reward model. Its loss is in
test_dpo.py."""

import json
import math
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from conftest import colour_prompt
from helpers import generators, gradient, logged, same, saved

from minirlhf import data, dpo
from minirlhf.data import Comparison, SoftComparison
from minirlhf.evaluate import sequence_logprobs
from minirlhf.formats import jsonl
from minirlhf.run import checkpoint
from minirlhf.run.checkpoint import load_gpt
from minirlhf.tokenizer import get_tokenizer
from minirlhf.tools import dpo as dpo_command

DPO = dpo.Method("dpo", 0.3)
BATCH = [  # 1, 5 and 2 strictly ordered pairs
    Comparison("name one", ["blue", "I would rather not"], [0, 1]),
    Comparison("and?", ["red", "a", "blue and green", ""], [2, 0, 1, 1]),
    Comparison("", ["yes", "no", "perhaps"], [0, 1, 1]),
]
SMALL = "--batch-size 10 --lr 0.001 --warmup 2 --beta 0.5".split()


@pytest.fixture
def policies(make_gpt):
    policy, reference = (
        make_gpt(vocab_size=get_tokenizer().vocab_size, seed=seed, std=0.2) for seed in (0, 1)
    )
    return policy, reference.requires_grad_(False)


def run(out, *argv):
    dpo_command.main(["--out", str(out), *argv])


@pytest.fixture(scope="module")
def source(colour_run, colours):
    """The flags that say what is trained on what."""
    return ["--sft", str(colour_run / "sft"), "--data", str(colours / "comparisons.jsonl")]


@pytest.fixture(scope="module")
def six_steps(source, tmp_path_factory):
    """OUT of six steps of DPO on 54 of 60 comparisons. Read only."""
    out = tmp_path_factory.mktemp("dpo") / "out"
    run(out, *source, *SMALL)
    return out


def test_the_loss_is_the_mean_over_all_ordered_pairs(policies):
    """Pair by pair from sequence log-probabilities, each response by itself, summed over its
    tokens."""
    tokenizer = get_tokenizer()
    losses = []
    for c in BATCH:
        examples = [data.encode(tokenizer, c.prompt, response) for response in c.responses]
        logprobs, ref_logprobs = (
            torch.cat([sequence_logprobs(gpt, [example]) for example in examples])
            for gpt in policies
        )
        ratios = logprobs - ref_logprobs
        pairs = [(i, j) for i, j in permutations(range(len(ratios)), 2) if c.ranks[i] < c.ranks[j]]
        losses += [-F.logsigmoid(0.3 * (ratios[i] - ratios[j])) for i, j in pairs]
    stats = dpo.accumulate(*policies, tokenizer, BATCH, DPO, 1000)
    assert stats["loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)
    assert stats["accuracy"] == pytest.approx(sum(loss < math.log(2) for loss in losses) / 8)


@pytest.mark.parametrize("microbatch_tokens", [1, 30, 60])
def test_the_gradient_does_not_depend_on_the_microbatches(policies, microbatch_tokens):
    """The parts hold 1, 2 and 5 pairs, so that a mean of means would be another gradient
    (summarize_from_feedback_details, sft.py:393)."""
    tokenizer = get_tokenizer()
    stats = dpo.accumulate(*policies, tokenizer, BATCH, DPO, 1000)
    whole = gradient(policies[0])
    split_stats = dpo.accumulate(*policies, tokenizer, BATCH, DPO, microbatch_tokens)
    assert split_stats == pytest.approx(stats, rel=1e-5)
    assert torch.allclose(gradient(policies[0]), whole, rtol=0, atol=1e-6)


def test_each_response_goes_through_each_trunk_once_and_the_reference_without_gradient(
    policies, rows_through_trunks
):
    """9 rows a model, not two for each of 8 pairs. A graph behind the reference would take as much
    memory as the policy's, and serve nothing."""
    dpo.accumulate(*policies, get_tokenizer(), BATCH, DPO, 1000)
    for gpt, with_gradient in zip(policies, (True, False), strict=True):
        passes = [(rows, grad) for trunk, rows, grad in rows_through_trunks if trunk is gpt]
        assert passes == [(9, with_gradient)]


def test_it_starts_at_log_two_and_learns_to_prefer(colour_run, colours, out):
    """The policy is the reference at first, so that every margin is 0; after six epochs b gained
    most on new prompts."""
    run(out, "--data", str(colours / "comparisons.jsonl"), *SMALL, "--epochs", "6")
    losses = logged(out / "dpo", "loss")
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6) and losses[-1] < 0.4
    assert logged(out / "dpo", "accuracy")[-1] == 1
    assert logged(out / "dpo", "chosen_reward")[0] == 0
    (policy, tokenizer), (sft, _) = load_gpt(out / "dpo"), load_gpt(colour_run / "sft")
    gains = {}
    for colour in "brg":
        examples = [data.encode(tokenizer, colour_prompt(i), colour) for i in range(70, 80)]
        gain = sequence_logprobs(policy, examples) - sequence_logprobs(sft, examples)
        gains[colour] = gain.mean()
    assert gains["b"] > gains["r"] > gains["g"]


def test_the_sft_model_is_left_alone(out, colours):
    """It is the reference of the next run too, and of PPO: its file stays the same to the byte."""
    before = (out / "sft" / "checkpoint.pt").read_bytes()
    run(out, "--data", str(colours / "comparisons.jsonl"), *SMALL)
    assert (out / "sft" / "checkpoint.pt").read_bytes() == before


def test_the_reference_of_every_step_is_the_sft_model(out, colours, monkeypatch):
    """With a reference that moved along, each step would start at log 2."""
    states = []
    accumulate = dpo.accumulate

    def record(policy, reference, *rest):
        states.append({name: value.clone() for name, value in reference.state_dict().items()})
        return accumulate(policy, reference, *rest)

    monkeypatch.setattr(dpo_command, "accumulate", record)
    run(out, "--data", str(colours / "comparisons.jsonl"), *SMALL)
    sft = saved(out / "sft")["model"]
    assert len(states) == 6 and all(same(state, sft) for state in states)


def test_by_default_it_learns_from_what_the_reward_model_collected(world_out):
    """So that DPO and PPO are compared on the same preferences. The ragged last batch is trained on
    (dropped in direct-preference-optimization, preference_datasets.py:346)."""
    run(world_out, "--batch-size", "10")
    state = saved(world_out / "dpo")
    assert (state["stage"], state["step"]) == ("dpo", 3)  # 24 comparisons, the last batch ragged
    assert logged(world_out / "dpo", "step") == [0, 1, 2]


def test_microbatch_precision_and_device_are_what_the_command_says(out, colours, monkeypatch):
    """--microbatch-tokens 77 --precision bf16, and without them what suits a CPU: 2048 tokens,
    float32. Policy and reference alike, or the margin of an untrained policy would be noise; and
    only one of them is trained."""
    calls, options, load = [], [], checkpoint.load_gpt

    def train(args, folder, policy, reference, *rest):
        calls.append((args, policy, reference))

    def load_gpt(path, **arguments):
        options.append(arguments)
        return load(path, **arguments)

    monkeypatch.setattr(dpo_command, "train", train)
    monkeypatch.setattr(dpo_command, "report", lambda *args: None)
    monkeypatch.setattr(checkpoint, "load_gpt", load_gpt)
    source = "--data", str(colours / "comparisons.jsonl"), "--device", "cpu", "--overwrite"
    flags = "--microbatch-tokens", "77", "--precision", "bf16"
    for argv, tokens, precision in ((flags, 77, torch.bfloat16), ((), 2048, torch.float32)):
        run(out, *source, *argv)
        args, policy, reference = calls.pop()
        assert args.microbatch_tokens == tokens
        assert policy.precision == reference.precision == precision
        assert options.pop() == {"device": torch.device("cpu"), "precision": precision}
        assert all(p.requires_grad for p in policy.parameters())
        assert not any(p.requires_grad for p in reference.parameters())


def test_a_comparison_that_does_not_fit_the_context_is_refused_or_left_out(
    out, colours, tmp_path, refused, monkeypatch
):
    """One of 61, in a context of 32. Cut off, its response would lose the end token."""
    long = tmp_path / "long.jsonl"
    record = {"prompt": "word " * 40, "chosen": "b", "rejected": "g"}
    long.write_text((colours / "comparisons.jsonl").read_text() + json.dumps(record) + "\n")
    message = refused(dpo_command.main, ["--out", str(out), "--data", str(long)], out)
    assert "--drop-long" in message
    counts = []
    monkeypatch.setattr(dpo_command, "train", lambda *rest: counts.append(len(rest[-1])))
    monkeypatch.setattr(dpo_command, "report", lambda *args: None)
    run(out, "--data", str(long), "--drop-long")
    assert counts == [54]  # of 60, 6 are held out


def test_the_learning_rate_warms_up_and_falls_as_asked_and_is_logged(six_steps):
    """Six steps at a peak of .001, two of them of warm-up: a half, one, then half a cosine over
    four, whose first steps are 1, .868, .55 and .232."""
    rates = [0.001 * share for share in (0.5, 1, 1, 0.868198, 0.55, 0.231802)]
    assert logged(six_steps / "dpo", "lr") == pytest.approx(rates, rel=1e-5)


def test_gradients_are_clipped_and_their_norm_before_that_is_logged(out, colours, gradient_norms):
    """The optimiser gets the clipped gradients. The log has the norm before: a norm that is always
    the limit would say nothing."""
    flags = "--batch-size 30 --max-grad-norm 0.1".split()
    run(out, "--data", str(colours / "comparisons.jsonl"), *flags)
    before = logged(out / "dpo", "grad_norm")
    assert len(before) == 2 and min(before) > 0.2
    assert gradient_norms == pytest.approx([0.1, 0.1], rel=1e-3)


def test_three_steps_a_stop_and_three_more_are_six_steps_to_the_bit(
    six_steps, source, tmp_path, ctrl_c, capsys, monkeypatch
):
    """Weights, optimiser, metrics. No step is made twice. direct-preference-optimization saves the
    optimiser and loads the policy alone (train.py:96)."""
    ctrl_c("dpo", 2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, *source, *SMALL)
    ctrl_c(None)
    message = capsys.readouterr().err
    assert f"{tmp_path / 'dpo' / 'checkpoint.pt'} holds 3 of 6 steps" in message
    assert "--resume" in message
    steps, accumulate = [], dpo_command.accumulate
    monkeypatch.setattr(dpo_command, "accumulate", lambda *x: steps.append(x) or accumulate(*x))
    run(tmp_path, "--resume")
    assert len(steps) == 3
    assert logged(tmp_path / "dpo") == logged(six_steps / "dpo")
    assert same(saved(tmp_path / "dpo"), saved(six_steps / "dpo"))


def test_a_checkpoint_is_saved_every_so_many_steps_and_at_the_end(source, tmp_path, monkeypatch):
    """--save-every 4 of 6 steps: after 4 and after 6. A power cut costs at most 4 steps."""
    steps, save = [], checkpoint.save

    def record(folder, stage, shape, tokenizer, step, **parts):
        steps.append(step)
        save(folder, stage, shape, tokenizer, step, **parts)

    monkeypatch.setattr(checkpoint, "save", record)
    run(tmp_path, *source, *SMALL, "--save-every", "4")
    assert steps == [4, 6]


def test_a_run_that_goes_on_takes_only_the_steps_that_are_left(
    source, tmp_path, ctrl_c, monkeypatch
):
    """3 of 6 steps, then the other 3. All 6 from the start would end in the same bits, and resuming
    would save no time."""
    ctrl_c("dpo", 2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, *source, *SMALL)
    ctrl_c(None)
    steps, accumulate = [], dpo.accumulate

    def record(policy, reference, tokenizer, batch, *rest):
        steps.append(len(batch))
        return accumulate(policy, reference, tokenizer, batch, *rest)

    monkeypatch.setattr(dpo_command, "accumulate", record)
    run(tmp_path, "--resume")
    assert steps == [10, 10, 4]


def test_a_seed_decides_everything_and_no_global_generator_is_touched(six_steps, source, tmp_path):
    """The same bits twice, others for another seed, and the caller's generators as they were before
    (TRL #1648)."""
    argv = [*source, *SMALL]
    before = generators()
    run(tmp_path / "same", *argv)
    run(tmp_path / "other", *argv, "--seed", "2")
    assert generators() == before
    assert same(saved(tmp_path / "same" / "dpo"), saved(six_steps / "dpo"))
    assert logged(tmp_path / "same" / "dpo") == logged(six_steps / "dpo")
    assert logged(tmp_path / "other" / "dpo") != logged(six_steps / "dpo")


def test_comparisons_that_a_labeller_could_not_decide_are_left_out(
    colour_run, colours, tmp_path, monkeypatch, refused
):
    """A model finds two responses equally good: that is no pair. Without any other one there is
    nothing to learn, and a line says so before anything is written."""
    seen, accumulate = [], dpo_command.accumulate

    def spy(policy, reference, tokenizer, batch, *rest):
        seen.extend(batch)
        return accumulate(policy, reference, tokenizer, batch, *rest)

    monkeypatch.setattr(dpo_command, "accumulate", spy)
    records = jsonl.read_comparisons(colours / "comparisons.jsonl")
    tie = [[0.0, 0.5], [0.5, 0.0]]
    ties = [SoftComparison(c.prompt, c.responses[:2], [0, 0], None, tie) for c in records[:20]]
    path = tmp_path / "soft.jsonl"
    argv = ["--sft", str(colour_run / "sft"), "--data", str(path), *SMALL]
    path.write_text(jsonl.write_records(ties + records[20:]))
    run(tmp_path / "o", *argv)
    assert seen and all(record in records[20:] for record in seen)
    path.write_text(jsonl.write_records(ties))
    message = refused(dpo_command.main, ["--out", str(tmp_path / "p"), *argv], tmp_path / "p")
    assert "no comparison says which response is better: DPO has nothing to learn" in message


def test_bad_input_is_one_line(refused, out, tmp_path, six_steps, source):
    """Ties only, no comparisons, no SFT model, a reward model in its place, an earlier run."""
    new = tmp_path / "new"
    tied = tmp_path / "tied.jsonl"
    tied.write_text(json.dumps({"prompt": "p", "responses": ["a", "b"], "ranks": [1, 1]}) + "\n")
    sft = ["--out", str(new), "--sft", str(out / "sft")]
    assert "tie" in refused(dpo_command.main, [*sft, "--data", str(tied)], new)
    assert "comparisons.jsonl" in refused(dpo_command.main, [*sft, "--mix-data"], new)
    assert "train_sft.py" in refused(dpo_command.main, ["--out", str(new)], new)
    rm = ["--out", str(new), "--sft", str(out / "rm")]
    assert "stage rm" in refused(dpo_command.main, rm, new)
    argv = ["--out", str(six_steps), *source]
    assert "--overwrite" in refused(dpo_command.main, argv, six_steps)
