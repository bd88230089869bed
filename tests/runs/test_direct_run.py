"""`minirlhf dpo` with another loss than DPO's: IPO, KTO, SimPO, ORPO. The losses are in
test_direct.py."""

import json

import pytest
import torch
from conftest import colour_prompt, write_lines
from helpers import logged, same, saved

from minirlhf import data
from minirlhf.data import Comparison, Labelled
from minirlhf.dpo import Method
from minirlhf.evaluate import sequence_logprobs
from minirlhf.formats import jsonl
from minirlhf.run.checkpoint import load_gpt
from minirlhf.run.config import InputError
from minirlhf.tools import dpo as command
from minirlhf.tools import evaluate_rm

SMALL = "--batch-size 10 --lr 0.001 --warmup 2".split()
LOSSES = {  # flags, none at its default: the method that they ask for
    "--loss dpo --beta 0.7": Method("dpo", 0.7),
    "--loss ipo --tau 0.6": Method("ipo", 0.6),
    "--loss kto --beta 0.7 --undesirable-weight 1.3": Method("kto", 0.7, undesirable_weight=1.3),
    "--loss simpo --beta 3 --gamma 1.2": Method("simpo", 3.0, gamma=1.2),
    "--loss orpo --lam 0.9": Method("orpo", 0.9),
}


def run(out, *argv):
    command.main(["--out", str(out), *argv])


@pytest.fixture(scope="module")
def source(colour_run, colours):
    return ["--sft", str(colour_run / "sft"), "--data", str(colours / "comparisons.jsonl")]


@pytest.fixture
def labelled(tmp_path):
    """A file of single responses: b is good, g is bad."""
    rows = [
        {"prompt": colour_prompt(i), "response": "bg"[i % 2], "label": i % 2 == 0}
        for i in range(60)
    ]
    write_lines(tmp_path / "labelled.jsonl", rows)
    return tmp_path / "labelled.jsonl"


def gains(folder, sft):
    """How much likelier each colour has become on new prompts, in nats."""
    (policy, tokenizer), (sft, _) = load_gpt(folder), load_gpt(sft)
    gains = {}
    for colour in "brg":
        examples = [data.encode(tokenizer, colour_prompt(i), colour) for i in range(70, 80)]
        gain = sequence_logprobs(policy, examples) - sequence_logprobs(sft, examples)
        gains[colour] = gain.mean().item()
    return gains


@pytest.mark.parametrize("flags", LOSSES)
def test_each_loss_is_the_one_that_the_flags_ask_for(source, tmp_path, monkeypatch, flags):
    """In the training and in the held-out numbers; with what it logs from the first step on."""
    methods, numbers = [], []
    accumulate, implicit_rewards = command.accumulate, command.implicit_rewards

    def record(*args):
        methods.append(args[4])
        return accumulate(*args)

    def record_rewards(*args):
        methods.append(args[4])
        numbers.append(implicit_rewards(*args))
        return numbers[-1]

    monkeypatch.setattr(command, "accumulate", record)
    monkeypatch.setattr(command, "implicit_rewards", record_rewards)
    run(tmp_path, *source, *SMALL, *flags.split())
    assert set(methods) == {LOSSES[flags]} and len(methods) == 7 and len(numbers) == 1
    for name in ("loss", "chosen_reward", "rejected_reward", "margin", "accuracy"):
        assert len(logged(tmp_path / "dpo", name)) == 6


@pytest.mark.parametrize(
    "flags", ["--loss ipo --tau 0.2", "--loss kto", "--loss simpo --beta 2", "--loss orpo --lam 1"]
)
def test_each_loss_learns_to_prefer(colour_run, source, tmp_path, flags):
    """After six epochs b, the best, has gained on r and r on g, for prompts that were not there.
    Where there is a reference, the run starts at a known loss: 1/(4 tau^2), 1/2."""
    run(tmp_path, *source, *SMALL, *flags.split(), "--epochs", "6")
    gain = gains(tmp_path / "dpo", colour_run / "sft")
    assert gain["b"] > gain["r"] > gain["g"]
    start = {"ipo": 6.25, "kto": 0.5}.get(flags.split()[1])
    if start:
        assert logged(tmp_path / "dpo", "loss")[0] == pytest.approx(start, rel=1e-5)
        assert logged(tmp_path / "dpo", "margin")[0] == 0


def test_kto_learns_from_responses_that_have_a_label_and_no_partner(
    colour_run, labelled, tmp_path, ctrl_c
):
    """b gains, g loses; and a run that was stopped and resumed has the same bits."""
    flags = ["--sft", str(colour_run / "sft"), "--data", str(labelled), "--loss", "kto", *SMALL]
    run(tmp_path / "whole", *flags, "--epochs", "4")
    gain = gains(tmp_path / "whole" / "dpo", colour_run / "sft")
    assert gain["b"] > 0 > gain["g"]
    ctrl_c("dpo", 2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "half", *flags, "--epochs", "4")
    ctrl_c(None)
    run(tmp_path / "half", "--resume")
    assert same(saved(tmp_path / "half" / "dpo"), saved(tmp_path / "whole" / "dpo"))


def test_labelled_rows_and_comparisons_may_share_a_file(tmp_path):
    """Each is read as what it says; a flag is a label, and "flagged" the reverse of one."""
    rows = [
        {"prompt": "p", "response": "a", "label": True},
        {"prompt": "p", "completion": "b", "label": 0},
        {"prompt": "p", "response": "c", "flagged": True},
        {"prompt": "p", "chosen": "d", "rejected": "e"},
    ]
    write_lines(tmp_path / "mixed.jsonl", rows)
    expected = [Labelled("p", "a", True), Labelled("p", "b", False), Labelled("p", "c", False)]
    records = jsonl.read_labelled(tmp_path / "mixed.jsonl")
    assert records == [*expected, Comparison("p", ["d", "e"], [0, 1])]
    for record in expected:
        assert jsonl.parse_record(jsonl.write_record(record)) == record


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "p", "response": "a"}, "label"),
        ({"prompt": "p", "response": "a", "stars": 1}, "no label says whether it is good"),
        ({"prompt": "p", "response": "a", "rank": 0}, "no label says whether it is good"),
        ({"prompt": "p", "response": "a", "label": "perhaps"}, "neither true nor false"),
        ({"prompt": "p"}, "response"),
    ],
)
def test_a_number_on_a_scale_is_not_taken_for_a_label(tmp_path, row, problem):
    """1 star is no praise, and rank 0 is no blame."""
    write_lines(tmp_path / "rows.jsonl", [row])
    with pytest.raises(InputError, match=problem):
        jsonl.read_labelled(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ("--loss ppo", "invalid choice: 'ppo'"),
        ("--loss ipo --tau 0", "--tau must be more than 0"),
        ("--loss kto --beta -1", "--beta must be more than 0"),
        ("--loss kto --undesirable-weight 0", "--undesirable-weight must be more than 0"),
        ("--loss simpo --gamma -0.1", "--gamma must be at least 0"),
        ("--loss orpo --lam nan", "--lam must be"),
        ("--tau 0.5", "--tau is a flag of ipo; --loss dpo has none"),
        ("--loss ipo --beta 2", "--beta is a flag of dpo and kto and simpo; --loss ipo has none"),
        ("--loss kto --batch-size 1", "give --batch-size 2 or more"),
    ],
)
def test_flags_out_of_range_or_of_another_loss_are_one_line(
    refused, source, tmp_path, flags, problem
):
    """A --tau that DPO does not read would be taken for one that does nothing."""
    argv = ["--out", str(tmp_path), *source, *flags.split()]
    assert problem in refused(command.main, argv, tmp_path)


OWN = {  # a loss: the flags of its own
    **{"dpo": {"beta"}, "ipo": {"tau"}, "kto": {"beta", "undesirable_weight"}},
    **{"simpo": {"beta", "gamma"}, "orpo": {"lam"}},
}


@pytest.mark.parametrize("loss", OWN)
def test_a_loss_takes_its_own_flags_and_refuses_those_of_every_other(loss):
    """Be they larger than their default or smaller."""
    for name in set().union(*OWN.values()):
        for factor in (0.5, 2):
            flag = {name: factor * getattr(command.Config, name)}
            args = command.Config(loss=loss, **flag)
            if name in OWN[loss]:
                command.refuse_idle_flags(args)
            else:
                with pytest.raises(InputError, match=f"--loss {loss} has none"):
                    command.refuse_idle_flags(args)


def test_kto_takes_two_prompts_a_step_and_not_one():
    command.refuse_idle_flags(command.Config(loss="kto", batch_size=2))
    with pytest.raises(InputError, match="give --batch-size 2 or more"):
        command.refuse_idle_flags(command.Config(loss="kto", batch_size=1))


def test_a_label_without_kto_is_no_comparison(refused, colour_run, labelled, tmp_path):
    """The other losses need two responses to a prompt."""
    argv = ["--out", str(tmp_path / "new"), "--sft", str(colour_run / "sft")]
    message = refused(command.main, [*argv, "--data", str(labelled)], tmp_path)
    assert "no other response to its prompt is judged differently" in message


@pytest.mark.parametrize("flags", list(LOSSES)[1:])
def test_evaluate_rm_measures_the_reward_of_the_loss_that_trained(
    colour_run, source, tmp_path, flags
):
    """Its own reward, with its own strength: the accuracy and the loss are those of the last line
    of the training."""
    run(tmp_path, *source, *SMALL, *flags.split())
    results = tmp_path / "results.json"
    argv = ["--policy", str(tmp_path / "dpo"), "--reference", str(colour_run / "sft")]
    evaluate_rm.main([*argv, "--data", source[-1], "--to", str(results)])
    measured = json.loads(results.read_text())
    last = {name: logged(tmp_path / "dpo", name)[-1] for name in ("held_out_accuracy", "ties")}
    text = json.dumps(measured)
    loss = logged(tmp_path / "dpo", "held_out_loss")[-1]
    assert measured["beta"] == LOSSES[flags].strength
    numbers = [float(x) for x in torch.tensor(list(flatten(measured)), dtype=torch.float64)]
    assert any(x == pytest.approx(loss, rel=1e-4) for x in numbers), text
    assert any(x == pytest.approx(last["held_out_accuracy"]) for x in numbers), text


def flatten(value):
    if isinstance(value, dict):
        for inner in value.values():
            yield from flatten(inner)
    elif isinstance(value, int | float):
        yield value
