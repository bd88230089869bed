"""The specification of train_rm.py: comparisons are collected or read, a reward model is trained on them and normalised."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import WORLD_RM, colour_prompt, few
from helpers import generators, gradient, logged, same, saved

import train_rm
from minirlhf import data, evaluate
from minirlhf.data import Comparison
from minirlhf.feedback import simulated
from minirlhf.formats import jsonl
from minirlhf.reward import RewardModel, load_reward_model, score
from minirlhf.run.checkpoint import load_gpt
from minirlhf.run.config import RANKED_RESPONSES
from minirlhf.tokenizer import get_tokenizer
from minirlhf.world import judge, measures, writers

BATCH = [  # 2, 4 and 3 responses; 1, 5 and 2 strictly ordered pairs; lengths all unequal
    Comparison("name one", ["blue", "I would rather not"], [0, 1]),
    Comparison("and?", ["red", "a", "blue and green", ""], [2, 0, 1, 1]),
    Comparison("", ["yes", "no", "perhaps"], [0, 1, 1]),
]


@pytest.fixture(autouse=True)
def few_contrasts(monkeypatch):
    contrasts = writers.contrasts
    monkeypatch.setattr(writers, "contrasts", lambda n, rng: few(contrasts, n, rng))


@pytest.fixture
def reward_model(make_gpt):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return RewardModel(make_gpt(vocab_size=1024, std=0.3))


def rm(out, *argv):
    train_rm.main(["--out", str(out), *argv])


def records(folder, comparisons):
    path = folder / "comparisons.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in comparisons))
    return str(path)


# ---- the loss


def test_the_loss_is_the_mean_over_prompts_of_the_mean_over_their_pairs(reward_model):
    """Written out pair by pair, each response scored alone: a prompt with K = 4 weighs what one with 2 does. InstructGPT,
    equation 1; AlpacaFarm takes the mean over all pairs (reward_modeling_trainer.py:30)."""
    tok = get_tokenizer()
    losses, right = [], []
    for c in BATCH:
        scores = []
        for response in c.responses:
            example = torch.tensor([data.encode(tok, c.prompt, response).tokens])
            scores.append(reward_model.raw(example, torch.tensor([example.size(1)]))[0])
        pairs = [
            (i, j)
            for i in range(len(scores))
            for j in range(len(scores))
            if c.ranks[i] < c.ranks[j]
        ]
        losses.append(torch.stack([-F.logsigmoid(scores[i] - scores[j]) for i, j in pairs]).mean())
        right += [bool(scores[i] > scores[j]) for i, j in pairs]
    expected = torch.stack(losses).mean()
    loss, accuracy = train_rm.accumulate(reward_model, tok, BATCH, 1000)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert accuracy == pytest.approx(np.mean(right))
    found = gradient(reward_model)
    expected.backward()
    assert torch.allclose(found, gradient(reward_model), atol=1e-6)


@pytest.mark.parametrize("microbatch_tokens", [1, 30, 60])
def test_the_gradient_does_not_depend_on_the_microbatches(reward_model, microbatch_tokens):
    """Although the parts hold different numbers of prompts, responses and pairs."""
    tok = get_tokenizer()
    loss, accuracy = train_rm.accumulate(reward_model, tok, BATCH, 1000)
    whole = gradient(reward_model)
    assert train_rm.accumulate(reward_model, tok, BATCH, microbatch_tokens) == pytest.approx(
        (loss, accuracy), rel=1e-6
    )
    assert torch.allclose(gradient(reward_model), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("microbatch_tokens", [1, 1000])
def test_each_response_goes_through_the_trunk_once(
    reward_model, rows_through_trunks, microbatch_tokens
):
    """Nine responses are nine rows, although they form eight pairs, sixteen rows. InstructGPT, section 3.5: K passes, not
    K(K-1)."""
    train_rm.accumulate(reward_model, get_tokenizer(), BATCH, microbatch_tokens)
    assert sum(rows for _, rows, _ in rows_through_trunks) == 9


def test_accuracy_is_strict(make_gpt):
    """A model that says 0 to everything orders no pair. Counted as right, it would be perfect (strict in N+, reward.py:410, and
    TRL too)."""
    model = RewardModel(make_gpt(vocab_size=1024))
    model.head.weight.data.zero_()
    loss, accuracy = train_rm.accumulate(model, get_tokenizer(), BATCH, 1000)
    assert (loss, accuracy) == (pytest.approx(math.log(2)), 0.0)


# ---- a run on your own comparisons


def test_it_learns_what_was_preferred(colour_run):
    """On prompts it has never seen, and on all three orders: pairs and rankings of unequal K trained one model together."""
    model, tok, _ = load_reward_model(colour_run / "rm")
    prompts = [colour_prompt(i) for i in range(70, 90)]
    blue, red, green = (score(model, tok, prompts, [colour] * 20) for colour in "brg")
    assert (blue > red).all() and (red > green).float().mean() > 0.9
    losses = logged(colour_run / "rm", "loss")
    assert losses[0] > 0.5 and losses[-1] < 0.3


def test_the_trunk_starts_as_the_sft_models(out, colours, monkeypatch):
    """Stiennon et al. 2020, section 3.4. And it is a copy: the SFT model samples for the normalisation, and must not learn
    along."""
    starts = []
    monkeypatch.setattr(train_rm, "train", lambda args, folder, model, *rest: starts.append(model))
    monkeypatch.setattr(train_rm, "report", lambda *args: None)
    for argv in ((), (), ("--seed", "2")):
        rm(
            out,
            "--data",
            str(colours / "comparisons.jsonl"),
            "--overwrite",
            "--max-new-tokens",
            "4",
            *argv,
        )
    sft, _ = load_gpt(out / "sft")
    for model in starts:
        assert same(dict(model.gpt.state_dict()), dict(sft.state_dict()))
    heads = [model.head.weight for model in starts]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(
        heads[0], heads[2]
    )  # the head's weights are the seed's


def test_held_out_numbers_are_the_models_on_records_it_did_not_train_on(
    colour_run, colours, out, monkeypatch
):
    """The first tenth of the file, recomputed from the checkpoint pair by pair, on raw scores."""
    model, tok, _ = load_reward_model(colour_run / "rm")
    held_out = jsonl.read_comparisons(colours / "comparisons.jsonl")[:6]
    margins = []
    for c in held_out:
        raw = score(model, tok, [c.prompt] * len(c.responses), c.responses, raw=True)
        margins += [
            raw[i] - raw[j]
            for i in range(len(raw))
            for j in range(len(raw))
            if c.ranks[i] < c.ranks[j]
        ]
    margins = torch.stack(margins)
    numbers = json.loads(logged(colour_run / "rm")[-1])
    assert numbers["step"] == saved(colour_run / "rm")["step"] == 18
    assert numbers["held_out_pairs"] == len(margins) == 10  # records 0 and 5 rank three
    assert numbers["held_out_accuracy"] == pytest.approx((margins > 0).float().mean().item())
    assert numbers["held_out_loss"] == pytest.approx(-F.logsigmoid(margins).mean().item(), rel=1e-4)
    assert numbers["ties"] == 0
    sure = torch.sigmoid(margins.abs())
    assert 0 <= numbers["calibration_error"] <= sure.max()
    trained = []
    accumulate = train_rm.accumulate
    monkeypatch.setattr(
        train_rm,
        "accumulate",
        lambda m, t, batch, n: trained.extend(batch) or accumulate(m, t, batch, n),
    )
    rm(
        out,
        "--data",
        str(colours / "comparisons.jsonl"),
        "--overwrite",
        "--epochs",
        "1",
        "--batch-size",
        "9",
        "--max-new-tokens",
        "4",
    )
    assert len(trained) == 54 and not any(c in trained for c in held_out)
    assert len({c.prompt for c in trained}) == 54  # the ragged last batch included


def test_hh_dialogues_train_a_reward_model(out, tmp_path, capsys):
    """As Anthropic ships them; a pair that differs in an earlier turn is left out and counted."""
    turn = "\n\nHuman: {}\n\nAssistant:"
    pairs = [
        {"chosen": turn.format(i) + " yes", "rejected": turn.format(i) + " no"} for i in range(20)
    ]
    pairs.append({"chosen": turn.format("a") + " yes", "rejected": turn.format("b") + " no"})
    path = records(tmp_path, pairs)
    rm(
        out,
        "--data",
        path,
        *"--overwrite --epochs 1 --batch-size 9 --max-new-tokens 4 --norm-prompts 3".split(),
    )
    assert f"{path}: skipped 1 pairs" in capsys.readouterr().err
    assert saved(out / "rm")["step"] == 2  # 20 pairs less 2 held out
    assert not (
        out / "rm" / "comparisons.jsonl"
    ).exists()  # they are the user's and stay where they are


def test_gradients_are_clipped_and_their_norm_before_that_is_logged(out, colours, gradient_norms):
    """The reward model's loop has its own clipping, and its own way to get it wrong (minChatGPT, trainers.py:480: before
    `backward`)."""
    argv = "--overwrite --epochs 1 --batch-size 30 --max-new-tokens 4 --norm-prompts 3 --max-grad-norm 0.01 --lr 1e-6".split()
    rm(out, "--data", str(colours / "comparisons.jsonl"), *argv)
    before = logged(out / "rm", "grad_norm")
    assert len(before) == len(gradient_norms) == 2
    assert min(before) > 0.02 and gradient_norms == pytest.approx([0.01, 0.01], rel=1e-3)


# ---- a run on the world


def test_the_comparisons_it_collected_are_kept_beside_the_checkpoint(world_run):
    """24 prompts, three samples of the SFT model each, and a labeller's strict ranking."""
    comparisons = jsonl.read_comparisons(world_run / "rm" / "comparisons.jsonl")
    assert len(comparisons) == 24
    assert all(len(c.responses) == 3 and sorted(c.ranks) == [0, 1, 2] for c in comparisons)
    sft, tok = load_gpt(world_run / "sft")
    args = train_rm.Config(responses=3, max_new_tokens=4)
    again = train_rm.sample(args, sft, tok, [c.prompt for c in comparisons], RANKED_RESPONSES, None)
    assert [c.responses for c in again] == [c.responses for c in comparisons]


def test_labellers_rank_by_the_judges_total(world_run, monkeypatch):
    """With the labellers' noise out of the way, the rank is the order of the totals, best first."""
    totals = iter(range(1000))
    monkeypatch.setattr(
        judge,
        "judge",
        lambda p, r: judge.Judgement(1.0, None, None, 100.0 * (next(totals) * 7 % 5)),
    )
    sft, tok = load_gpt(world_run / "sft")
    args = train_rm.Config(prompts=5, responses=3, max_new_tokens=2)
    ranked = train_rm.rank(args, sft, tok, "train", None)
    for n, c in enumerate(ranked):
        expected = [(3 * n + k) * 7 % 5 for k in range(3)]
        assert [expected[k] for k in np.argsort(c.ranks)] == sorted(expected, reverse=True)


def test_training_and_held_out_prompts_come_from_the_two_splits(world_run, world_out, monkeypatch):
    """Held out are prompts, not only samples: two responses to one prompt share most of what there is to know about it."""
    asked = []
    prompts = writers.prompts
    monkeypatch.setattr(
        writers,
        "prompts",
        lambda n, rng, split="train": asked.append((n, split)) or prompts(n, rng, split),
    )
    rm(world_out, *WORLD_RM, "--overwrite")
    assert set(asked) == {(24, "train"), (6, "test")}


def test_every_number_of_the_report_is_a_number(world_run):
    """NaN is not JSON, and a plot of it is empty. The best possible accuracy is that of one who knows the judge's totals."""
    for line in logged(world_run / "rm"):
        assert "NaN" not in line and "Infinity" not in line
    numbers = json.loads(logged(world_run / "rm")[-1])
    assert {
        "held_out_accuracy",
        "held_out_loss",
        "calibration_error",
        "expected_accuracy",
        "ties",
    } < numbers.keys()
    assert {
        "agreement_on_fact",
        "agreement_on_honesty",
        "agreement_on_refusal",
        "agreement_on_manner",
    } < numbers.keys()
    assert 0.5 <= numbers["best_possible_accuracy"] <= 1
    assert numbers["expected_accuracy"] <= numbers["best_possible_accuracy"]
    assert "best possible accuracy" in (world_run / "rm" / "samples.txt").read_text()


def test_the_best_possible_accuracy_is_the_labellers_on_these_pairs(
    world_out, reward_model, monkeypatch
):
    """Totals 3, 1.5 and 0 of three responses: Bradley-Terry on differences of 1.5, 1.5 and 3, whatever the model says."""
    totals = {"a": 3.0, "b": 1.5, "c": 0.0}
    monkeypatch.setattr(
        judge, "judge", lambda prompt, response: judge.Judgement(1.0, None, None, totals[response])
    )
    monkeypatch.setattr(measures, "contrast_numbers", lambda *args: {})
    prompt = jsonl.read_prompts(world_out / "rm" / "comparisons.jsonl")[0]
    held_out = [
        Comparison(prompt, ["c", "a", "b"], [1, 0, 2]),
        Comparison(prompt, ["b", "a"], [0, 0]),
    ]
    train_rm.report(train_rm.Config(), world_out / "rm", reward_model, get_tokenizer(), held_out)
    numbers = json.loads(logged(world_out / "rm")[-1])
    assert numbers["held_out_pairs"] == 3  # the tie is no pair
    likely = [1 / (1 + math.exp(-d / simulated.LABEL_NOISE)) for d in (1.5, 1.5, 3.0)]
    assert numbers["best_possible_accuracy"] == pytest.approx(np.mean(likely), rel=1e-5)
    raw = dict(
        zip(
            "abc",
            score(reward_model, get_tokenizer(), [prompt] * 3, ["a", "b", "c"], raw=True).tolist(),
            strict=True,
        )
    )
    agree = np.mean([raw["a"] > raw["b"], raw["b"] > raw["c"], raw["a"] > raw["c"]])
    assert numbers["agreement_with_judge"] == pytest.approx(agree)
    ordered = np.mean(
        [raw["a"] > raw["c"], raw["a"] > raw["b"], raw["c"] > raw["b"]]
    )  # as the ranks have it
    assert numbers["held_out_accuracy"] == pytest.approx(ordered)


def test_scores_of_the_sft_models_samples_have_mean_zero_and_spread_one(world_run):
    """Spread is the root of the mean variance *within* a prompt, the only one PPO can move; Ziegler et al. take it over all
    samples (rewards.py:77). Recomputed from the checkpoint and the first eight prompts it was normalised on."""
    model, tok, missing_end_score = load_reward_model(world_run / "rm")
    comparisons = jsonl.read_comparisons(world_run / "rm" / "comparisons.jsonl")[:8]
    scores = [score(model, tok, [c.prompt] * 3, c.responses) for c in comparisons]
    scores = torch.stack(scores)
    assert abs(scores.mean()) < 1e-4
    assert scores.var(dim=1).mean() == pytest.approx(1.0, abs=1e-3)
    assert model.std != 1 and model.mean != 0
    assert missing_end_score == -3.0


def test_the_missing_end_score_is_stored_with_the_model(out, colours):
    """It is in the units of the model's scores, so it belongs to the model and not to PPO."""
    argv = "--overwrite --batch-size 60 --max-new-tokens 4 --norm-prompts 3 --missing-end-score -7".split()
    rm(out, "--data", str(colours / "comparisons.jsonl"), *argv)
    assert load_reward_model(out / "rm")[2] == -7.0


# ---- stopping, resuming, repeating


def test_three_steps_a_stop_and_three_more_are_six_steps_to_the_bit(
    world_run, world_out, ctrl_c, capsys, monkeypatch
):
    """Weights, optimiser, metrics. What was collected is read back and not sampled and labelled again: labels cost money.

    The checkpoint in the middle can be used, its scores normalised.
    """
    ctrl_c("rm", 2)
    with pytest.raises(KeyboardInterrupt):
        rm(world_out, *WORLD_RM, "--overwrite")
    ctrl_c(None)
    told = capsys.readouterr().err
    assert f"{world_out / 'rm' / 'checkpoint.pt'} holds 3 of 6 steps" in told and "--resume" in told
    assert load_reward_model(world_out / "rm")[0].std != 1
    monkeypatch.setattr(train_rm, "collect", None)
    rm(world_out, "--resume")
    assert logged(world_out / "rm") == logged(world_run / "rm")
    assert same(saved(world_out / "rm"), saved(world_run / "rm"))


def test_a_run_on_your_own_data_resumes_to_the_bit_too(
    colour_run, colours, out, ctrl_c, gradient_norms
):
    """The responses it is normalised on are sampled again, and are the same."""
    argv = "--lr 0.01 --epochs 3 --warmup 2 --max-new-tokens 6 --batch-size 9 --norm-prompts 8 --overwrite".split()
    ctrl_c("rm", 2)
    with pytest.raises(KeyboardInterrupt):
        rm(out, "--data", str(colours / "comparisons.jsonl"), *argv)
    ctrl_c(None)
    rm(out, "--resume")
    assert len(gradient_norms) == 18, "no step twice"
    assert logged(out / "rm") == logged(colour_run / "rm")
    assert same(saved(out / "rm"), saved(colour_run / "rm"))


def test_a_seed_decides_everything_and_no_global_generator_is_touched(world_run, world_out):
    """Prompts, samples, labels, first weights: the same bits twice, and others for another seed."""
    before = generators()
    rm(world_out, *WORLD_RM, "--overwrite")
    again = saved(world_out / "rm")
    rm(world_out, *WORLD_RM, "--overwrite", "--seed", "2")
    other = saved(world_out / "rm")
    assert generators() == before
    assert same(again, saved(world_run / "rm"))
    assert not torch.equal(other["model"]["head.weight"], again["model"]["head.weight"])
    ours, theirs = (
        jsonl.read_comparisons(run / "rm" / "comparisons.jsonl") for run in (world_run, world_out)
    )
    assert [c.prompt for c in ours] != [c.prompt for c in theirs]


# ---- bad input


def test_responses_that_do_not_fit_once_they_are_text_are_left_out(world_run, monkeypatch):
    """Sampled bytes that are no UTF-8 become a sign of three bytes each: what fitted as ids may not fit as text."""
    gpt, tok = load_gpt(world_run / "sft")
    args = train_rm.Config(responses=2, max_new_tokens=4)
    texts = iter(["fine", "fine", "fine", "\ufffd" * gpt.config.context])
    monkeypatch.setattr(
        evaluate, "respond", lambda *_, **__: [evaluate.Reply(text, None, True) for text in texts]
    )
    kept = train_rm.sample(args, gpt, tok, ["one\n", "two\n"], RANKED_RESPONSES, None)
    assert [comparison.prompt for comparison in kept] == ["one\n"]


def test_comparisons_that_all_tie_are_refused(refused, out, tmp_path):
    """Before anything is written: nothing can be learnt from them, and a step of zero gradients would look like training."""
    tied = [{"prompt": "p", "responses": ["a", "b"], "ranks": [1, 1]}] * 12
    argv = [
        "--out",
        str(tmp_path / "new"),
        "--sft",
        str(out / "sft"),
        "--data",
        records(tmp_path, tied),
    ]
    assert "tie" in refused(train_rm.main, argv, tmp_path / "new")


def test_without_an_sft_model_it_says_what_to_run_first(refused, tmp_path):
    """The name of the script, not a FileNotFoundError."""
    told = refused(train_rm.main, ["--out", str(tmp_path)], tmp_path)
    assert str(tmp_path / "sft") in told and "train_sft.py" in told


def test_a_reward_model_is_no_sft_model(refused, out, tmp_path):
    """Its trunk would sample, after a fashion."""
    told = refused(
        train_rm.main, ["--out", str(tmp_path / "new"), "--sft", str(out / "rm")], tmp_path / "new"
    )
    assert "stage rm" in told and "sft" in told


def test_a_comparison_that_does_not_fit_is_named_by_file_and_line(refused, out, tmp_path):
    """Cut, it would be scored in mid-sentence (rlhf-book, train_preference_rm.py:203)."""
    path = records(tmp_path, [{"prompt": "p", "chosen": "a", "rejected": "b" * 300}])
    told = refused(
        train_rm.main,
        ["--out", str(tmp_path / "new"), "--sft", str(out / "sft"), "--data", path],
        tmp_path / "new",
    )
    assert f"{path}:1: " in told


def test_room_for_the_samples_is_checked_before_anything_is_written(
    refused, out, tmp_path, colours
):
    """A context of 32 has no room for a prompt and 32 new tokens, on the world's prompts and on your own."""
    for argv in ([], ["--data", str(colours / "comparisons.jsonl")]):
        argv = [
            "--out",
            str(tmp_path / "new"),
            "--sft",
            str(out / "sft"),
            *WORLD_RM,
            "--max-new-tokens",
            "32",
            *argv,
        ]
        told = refused(train_rm.main, argv, tmp_path / "new")
        assert "32" in told and "context" in told


def test_an_existing_run_is_refused_before_anything_is_sampled(refused, world_out, monkeypatch):
    """Samples and labels are what a reward model costs."""
    monkeypatch.setattr(train_rm, "sample", None)
    assert "--overwrite" in refused(train_rm.main, ["--out", str(world_out), *WORLD_RM], world_out)
