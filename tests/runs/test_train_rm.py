"""The specification of train_rm.py: it collects or reads comparisons, trains a reward model on them
and normalises its scores."""

import itertools
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
from minirlhf.data import Comparison, SoftComparison
from minirlhf.feedback import simulated
from minirlhf.formats import jsonl
from minirlhf.reward import RewardModel, load_reward_model, score
from minirlhf.run import resume
from minirlhf.run.checkpoint import load_gpt
from minirlhf.run.config import RANKED_RESPONSES, InputError
from minirlhf.tokenizer import get_tokenizer
from minirlhf.tools import labeller
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
        return RewardModel(make_gpt(vocab_size=get_tokenizer().vocab_size, std=0.3))


def rm(out, *argv):
    train_rm.main(["--out", str(out), *argv])


def records(folder, comparisons):
    path = folder / "comparisons.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in comparisons))
    return str(path)


# ---- the loss


def ordered_margins(scores, ranks):
    """Better minus worse score of each strictly ordered pair of responses."""
    pairs = itertools.permutations(range(len(ranks)), 2)
    return torch.stack([scores[i] - scores[j] for i, j in pairs if ranks[i] < ranks[j]])


def test_the_loss_is_the_mean_over_prompts_of_the_mean_over_their_pairs(reward_model):
    """The loop goes pair by pair, with each response scored alone. A prompt with K = 4 has the
    weight of one with K = 2. InstructGPT, equation 1; AlpacaFarm takes the mean over all pairs
    (reward_modeling_trainer.py:30)."""
    tokenizer = get_tokenizer()
    losses, correct = [], []
    for c in BATCH:
        scores = []
        for response in c.responses:
            example = torch.tensor([data.encode(tokenizer, c.prompt, response).tokens])
            scores.append(reward_model.raw(example, torch.tensor([example.size(1)]))[0])
        margins = ordered_margins(scores, c.ranks)
        losses.append(-F.logsigmoid(margins).mean())
        correct += (margins > 0).tolist()
    expected = torch.stack(losses).mean()
    loss, accuracy = train_rm.accumulate(reward_model, tokenizer, BATCH, 1000)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert accuracy == pytest.approx(np.mean(correct))
    loss_gradient = gradient(reward_model)
    expected.backward()
    assert torch.allclose(loss_gradient, gradient(reward_model), atol=1e-6)


@pytest.mark.parametrize("microbatch_tokens", [1, 30, 60])
def test_the_gradient_does_not_depend_on_the_microbatches(reward_model, microbatch_tokens):
    """The parts have different numbers of prompts, responses and pairs."""
    tokenizer = get_tokenizer()
    expected = train_rm.accumulate(reward_model, tokenizer, BATCH, 1000)
    expected_gradient = gradient(reward_model)
    numbers = train_rm.accumulate(reward_model, tokenizer, BATCH, microbatch_tokens)
    assert numbers == pytest.approx(expected, rel=1e-6)
    assert torch.allclose(gradient(reward_model), expected_gradient, rtol=0, atol=1e-6)


def test_a_prompt_without_a_pair_does_not_count_whatever_the_microbatches(reward_model):
    """A labeller that is a model may see the same text twice, and nobody is asked about that."""
    likely = [[0.0, 0.7], [0.3, 0.0]]
    batch = [
        SoftComparison("name one", ["blue", "I would rather not"], [0, 1], None, likely),
        SoftComparison("and?", ["red", "red"], [0, 0], None, [[0.0, 0.0], [0.0, 0.0]]),
        Comparison("", ["yes", "no", "perhaps"], [0, 1, 1]),
    ]
    numbers, gradients = [], []
    for chosen, tokens in ((batch, 1), (batch, 1000), (batch[::2], 1000)):
        numbers.append(train_rm.accumulate(reward_model, get_tokenizer(), chosen, tokens))
        gradients.append(gradient(reward_model))
    for other in (1, 2):
        assert numbers[other] == pytest.approx(numbers[0], rel=1e-6)
        assert torch.allclose(gradients[other], gradients[0], rtol=0, atol=1e-6)


def test_the_loss_of_rankings_beside_probabilities_goes_pair_by_pair():
    """A pair that people ranked has the probability 1, and nobody was asked about a and c of the
    second prompt. Response i better than j is row i, column j."""
    likely = [[0.0, 0.9, 0.0], [0.1, 0.0, 0.4], [0.0, 0.6, 0.0]]
    batch = [
        Comparison("p", ["a", "b"], [1, 0]),
        SoftComparison("q", ["a", "b", "c"], [0, 2, 1], None, likely),
        SoftComparison("r", ["a", "b"], [0, 1], None, [[0.0, 0.8], [0.2, 0.0]]),
    ]
    scores = torch.tensor([[0.3, -0.5, 0.0], [1.0, 0.2, -0.7], [0.1, 0.6, 0.0]])
    ranks = torch.tensor([[1, 0, -1], [0, 2, 1], [0, 1, -1]])
    pairs = [[(0, 1, 0, 1.0)], [(1, 0, 1, 0.9), (1, 1, 2, 0.4)], [(2, 0, 1, 0.8)]]
    losses = []
    for group in pairs:
        terms = []
        for row, i, j, p in group:
            difference = float(scores[row, i] - scores[row, j])
            terms.append(p * math.log1p(math.exp(-difference)))
            terms[-1] += (1 - p) * math.log1p(math.exp(difference))
        losses.append(sum(terms) / len(terms))
    loss = float(train_rm.mean_loss(batch, scores, ranks, 0.0))
    assert loss == pytest.approx(sum(losses) / 3, rel=1e-5)


@pytest.mark.parametrize("microbatch_tokens", [1, 1000])
def test_each_response_goes_through_the_trunk_once(
    reward_model, rows_through_trunks, microbatch_tokens
):
    """Nine responses are nine rows. They form eight pairs, which would be sixteen rows.
    InstructGPT, section 3.5: K passes, not K(K-1)."""
    train_rm.accumulate(reward_model, get_tokenizer(), BATCH, microbatch_tokens)
    assert sum(rows for _, rows, _ in rows_through_trunks) == 9


def test_accuracy_is_strict(make_gpt):
    """A model whose score is always 0 orders no pair. If ties counted as correct, it would be
    perfect (strict in N+, reward.py:410, and TRL too)."""
    model = RewardModel(make_gpt(vocab_size=get_tokenizer().vocab_size))
    model.head.weight.data.zero_()
    loss, accuracy = train_rm.accumulate(model, get_tokenizer(), BATCH, 1000)
    assert (loss, accuracy) == (pytest.approx(math.log(2)), 0.0)


STAGES = ("pretrain", "sft")


# ---- what is collected


def test_what_is_collected_is_earlier_rounds_peoples_rankings_and_a_models_labels(
    tmp_path, monkeypatch
):
    """In this order: the scores are normalised on the first. Three of eight prompts are ranked by
    people. A prompt whose responses are all the same does no harm beside others. The file holds
    what is learned from, and the record of the run knows it."""
    earlier = [Comparison("before", ["x", "y"], [1, 0])]
    ranked = [Comparison(f"p{i}", ["a", "a" if i % 2 else "bb"], [0, 1]) for i in range(8)]
    source = labeller.Source(None, earlier, lambda prompts, a, b: [0.8] * len(a), {})
    monkeypatch.setattr(train_rm, "rank", lambda *args: ranked)
    (tmp_path / "config.json").write_text('{"flags": {}, "inputs": {"sft": "weights 1"}}')
    args = train_rm.Config(labeller="my:labels", human_share=3 / 8)
    collected = train_rm.collect(args, tmp_path, source, get_tokenizer())
    assert collected[:4] == earlier + ranked[:3]
    assert [type(c) for c in collected[4:]] == [SoftComparison] * 5
    assert [(c.prompt, c.responses) for c in collected[4:]] == [
        (c.prompt, c.responses) for c in ranked[3:]
    ]
    assert jsonl.read_collected(tmp_path / "comparisons.jsonl") == collected
    inputs = resume.read_record(tmp_path)["inputs"]
    assert inputs == {"sft": "weights 1", "data": resume.fingerprint(collected)}


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_world_prompt_that_does_not_fit_is_an_error_before_anything_is_sampled(
    world_run, tmp_path, monkeypatch, split
):
    """A held-out one, too: they are sampled when all others are, and ranked."""
    sft, tokenizer = load_gpt(world_run / "sft")
    long = "of " * sft.config.context
    monkeypatch.setattr(
        train_rm.writers, "prompts", lambda n, rng, wanted: [long if wanted == split else "Hi"]
    )
    with pytest.raises(InputError, match="do not fit the context"):
        train_rm.load_comparisons(train_rm.Config(out=str(tmp_path)), sft, tokenizer)


# ---- a run on your own comparisons


def test_it_learns_what_was_preferred(colour_run):
    """On prompts that are not in the data, and for all three orders: pairs and rankings of
    different K trained one model."""
    model, tokenizer, _ = load_reward_model(colour_run / "rm")
    prompts = [colour_prompt(i) for i in range(70, 90)]
    blue, red, green = (score(model, tokenizer, prompts, [colour] * 20) for colour in "brg")
    assert (blue > red).all() and (red > green).float().mean() > 0.9
    losses = logged(colour_run / "rm", "loss")
    assert losses[0] > 0.5 and losses[-1] < 0.3


def test_the_bar_ends_with_the_numbers_of_the_last_step(out, colours, capsys):
    """A run of eight steps once ended with those of its first."""
    rm(out, "--data", str(colours / "comparisons.jsonl"), "--overwrite", "--max-new-tokens", "4")
    bar = capsys.readouterr().err.split("\r")[-1]
    losses = [f"loss={loss:.3f}" for loss in logged(out / "rm", "loss")]
    assert losses[-1] in bar and losses[-1] != losses[0] and len(losses) % 10 != 1


def test_the_trunk_starts_as_the_sft_models(out, colours, monkeypatch):
    """Stiennon et al. 2020, section 3.4. The trunk is a copy: the SFT model samples for the
    normalisation, and must not be trained. The weights of the head depend on the seed."""
    models = []
    monkeypatch.setattr(train_rm, "train", lambda args, folder, model, *rest: models.append(model))
    monkeypatch.setattr(train_rm, "report", lambda *args: None)
    flags = ["--data", str(colours / "comparisons.jsonl"), "--overwrite", "--max-new-tokens", "4"]
    for seed in "112":
        rm(out, *flags, "--seed", seed)
    sft, _ = load_gpt(out / "sft")
    for model in models:
        assert same(dict(model.gpt.state_dict()), dict(sft.state_dict()))
    heads = [model.head.weight for model in models]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_held_out_numbers_are_the_models_on_records_it_did_not_train_on(
    colour_run, colours, out, monkeypatch
):
    """Held out is what the split of the prompts says. The numbers are computed again from the
    checkpoint pair by pair, on raw scores. The ragged last batch is trained on."""
    model, tokenizer, _ = load_reward_model(colour_run / "rm")
    comparisons = jsonl.read_comparisons(colours / "comparisons.jsonl")
    learned, held_out = data.split_by_prompt(comparisons, seed=1)
    margins = []
    for c in held_out:
        raw = score(model, tokenizer, [c.prompt] * len(c.responses), c.responses, raw=True)
        margins.append(ordered_margins(raw, c.ranks))
    margins = torch.cat(margins)
    numbers = json.loads(logged(colour_run / "rm")[-1])
    assert numbers["step"] == saved(colour_run / "rm")["step"] == 18
    assert numbers["held_out_pairs"] == len(margins) > len(held_out)
    assert numbers["held_out_accuracy"] == pytest.approx((margins > 0).float().mean().item())
    assert numbers["held_out_loss"] == pytest.approx(-F.logsigmoid(margins).mean().item(), rel=1e-4)
    assert numbers["ties"] == 0
    confidence = torch.sigmoid(margins.abs())
    assert 0 <= numbers["calibration_error"] <= confidence.max()
    records, accumulate = [], train_rm.accumulate

    def spy(model, tokenizer, batch, *limits):
        records.extend(batch)
        return accumulate(model, tokenizer, batch, *limits)

    monkeypatch.setattr(train_rm, "accumulate", spy)
    flags = "--overwrite --epochs 1 --batch-size 9 --max-new-tokens 4".split()
    rm(out, "--data", str(colours / "comparisons.jsonl"), *flags)
    assert sorted(map(str, records)) == sorted(map(str, learned))
    assert len({c.prompt for c in records}) == len(learned) == 60 - len(held_out)


def test_hh_dialogues_train_a_reward_model(out, tmp_path, capsys):
    """In Anthropic's format. A pair that differs in an earlier turn is left out and counted. The
    user's comparisons are not copied into the run."""
    turn = "\n\nHuman: {}\n\nAssistant:{}"
    turns = [(turn.format(i, " yes"), turn.format(i, " no")) for i in range(20)]
    turns.append((turn.format("a", " yes"), turn.format("b", " no")))
    pairs = [{"chosen": chosen, "rejected": rejected} for chosen, rejected in turns]
    path = records(tmp_path, pairs)
    flags = "--overwrite --epochs 1 --batch-size 9 --max-new-tokens 4 --norm-prompts 3".split()
    rm(out, "--data", path, *flags)
    assert f"{path}: skipped 1 of 21 rows" in capsys.readouterr().err
    assert saved(out / "rm")["step"] == 2  # 20 pairs without the 2 held out
    assert not (out / "rm" / "comparisons.jsonl").exists()


def test_gradients_are_clipped_and_their_norm_before_that_is_logged(out, colours, gradient_norms):
    """The loop of the reward model has its own clipping, which may be wrong on its own (minChatGPT,
    trainers.py:480: before `backward`)."""
    flags = "--overwrite --epochs 1 --batch-size 30 --max-new-tokens 4 --norm-prompts 3".split()
    flags += "--max-grad-norm 0.01 --lr 1e-6".split()
    rm(out, "--data", str(colours / "comparisons.jsonl"), *flags)
    norms = logged(out / "rm", "grad_norm")
    assert len(norms) == len(gradient_norms) == 2
    assert min(norms) > 0.02 and gradient_norms == pytest.approx([0.01, 0.01], rel=1e-3)


# ---- a run on the world


def test_the_comparisons_it_collected_are_kept_beside_the_checkpoint(world_run):
    """24 prompts, three samples of the SFT model each, and the strict ranking of a labeller."""
    comparisons = jsonl.read_comparisons(world_run / "rm" / "comparisons.jsonl")
    assert len(comparisons) == 24
    assert all(len(c.responses) == 3 and sorted(c.ranks) == [0, 1, 2] for c in comparisons)
    sft, tokenizer = load_gpt(world_run / "sft")
    args = train_rm.Config(responses=3, max_new_tokens=4)
    prompts = [c.prompt for c in comparisons]
    samples = train_rm.sample(args, sft, tokenizer, prompts, RANKED_RESPONSES, None)
    assert [c.responses for c in samples] == [c.responses for c in comparisons]


def test_a_labeller_that_is_not_named_is_the_pretrained_model(world_out):
    """And not the SFT model, whose own responses it would label."""
    flags = "--prompts 4 --responses 2 --batch-size 4 --held-out 2 --max-new-tokens 4 --warmup 0"
    train_rm.main(["--out", str(world_out), *flags.split(), "--labeller", "ai", "--overwrite"])
    known = resume.read_record(world_out / "rm")["inputs"]["labeller"]
    names = {stage: resume.fingerprint(load_gpt(world_out / stage)[0]) for stage in STAGES}
    assert known == names["pretrain"] != names["sft"]


def test_labellers_rank_by_the_judges_total(world_run, monkeypatch):
    """With totals so far apart that the labellers' noise has no effect, the ranks are the order of
    the totals, best first."""
    totals = iter(range(1000))

    def next_judgement(prompt, response):
        return judge.Judgement(1.0, None, None, 100.0 * (next(totals) * 7 % 5), "right")

    monkeypatch.setattr(judge, "judge", next_judgement)
    sft, tokenizer = load_gpt(world_run / "sft")
    args = train_rm.Config(prompts=5, responses=3, max_new_tokens=2)
    comparisons = train_rm.rank(args, sft, tokenizer, "train", None)
    for n, c in enumerate(comparisons):
        expected = [(3 * n + k) * 7 % 5 for k in range(3)]
        assert [expected[k] for k in np.argsort(c.ranks)] == sorted(expected, reverse=True)


def test_training_and_held_out_prompts_come_from_the_two_splits(world_run, world_out, monkeypatch):
    """Prompts are held out, not only samples: two responses to one prompt have most of their
    information in common."""
    arguments, prompts = [], writers.prompts

    def spy(n, rng, split="train"):
        arguments.append((n, split))
        return prompts(n, rng, split)

    monkeypatch.setattr(writers, "prompts", spy)
    rm(world_out, *WORLD_RM, "--overwrite")
    assert set(arguments) == {(24, "train"), (6, "validation")}


def test_every_number_of_the_report_is_a_number(world_run):
    """NaN is not JSON, and a plot of it is empty. The best possible accuracy is that of a model
    that knows the judge's totals."""
    for line in logged(world_run / "rm"):
        assert "NaN" not in line and "Infinity" not in line
    numbers = json.loads(logged(world_run / "rm")[-1])
    names = {"held_out_accuracy", "held_out_loss", "calibration_error", "expected_accuracy", "ties"}
    names |= {f"agreement_on_{skill}" for skill, *_ in writers.CONTRASTS}
    assert names < numbers.keys()
    assert 0.5 <= numbers["best_possible_accuracy"] <= 1
    assert numbers["expected_accuracy"] <= numbers["best_possible_accuracy"]
    assert "best possible accuracy" in (world_run / "rm" / "samples.txt").read_text()


def test_the_best_possible_accuracy_is_the_labellers_on_these_pairs(
    world_out, reward_model, monkeypatch
):
    """Three responses have the totals 3, 1.5 and 0: Bradley-Terry on differences of 1.5, 1.5 and 3,
    whatever the scores of the model. A tie is no pair."""
    totals = {"a": 3.0, "b": 1.5, "c": 0.0}

    def judgement(prompt, response):
        return judge.Judgement(1.0, None, None, totals[response], "right")

    monkeypatch.setattr(judge, "judge", judgement)
    monkeypatch.setattr(measures, "contrast_numbers", lambda *args: {})
    prompt = jsonl.read_prompts(world_out / "rm" / "comparisons.jsonl")[0]
    held_out = [
        Comparison(prompt, ["c", "a", "b"], [1, 0, 2]),
        Comparison(prompt, ["b", "a"], [0, 0]),
    ]
    train_rm.report(
        train_rm.Config(), world_out / "rm", reward_model, get_tokenizer(), held_out, []
    )
    numbers = json.loads(logged(world_out / "rm")[-1])
    assert numbers["held_out_pairs"] == 3
    probabilities = [1 / (1 + math.exp(-d / simulated.LABEL_NOISE)) for d in (1.5, 1.5, 3.0)]
    assert numbers["best_possible_accuracy"] == pytest.approx(np.mean(probabilities), rel=1e-5)
    raw = score(reward_model, get_tokenizer(), [prompt] * 3, ["a", "b", "c"], raw=True)
    a, b, c = raw.tolist()
    by_totals = np.mean([a > b, b > c, a > c])
    assert numbers["agreement_with_judge"] == pytest.approx(by_totals)
    by_ranks = np.mean([a > c, a > b, c > b])
    assert numbers["held_out_accuracy"] == pytest.approx(by_ranks)


def test_scores_of_the_sft_models_samples_have_mean_zero_and_spread_one(world_run):
    """The variance is the mean of those *within* a prompt, because PPO can change nothing else;
    Ziegler et al. take it over all samples (rewards.py:77). Computed again from the checkpoint and
    the eight prompts of the normalisation."""
    model, tokenizer, missing_end_score = load_reward_model(world_run / "rm")
    comparisons = jsonl.read_comparisons(world_run / "rm" / "comparisons.jsonl")[:8]
    scores = [score(model, tokenizer, [c.prompt] * 3, c.responses) for c in comparisons]
    scores = torch.stack(scores)
    assert abs(scores.mean()) < 1e-4
    assert scores.var(dim=1).mean() == pytest.approx(1.0, abs=1e-3)
    assert model.std != 1 and model.mean != 0
    assert missing_end_score == -3.0


@pytest.mark.parametrize("score", [-7.0, 0.0])
def test_the_missing_end_score_is_stored_with_the_model(out, colours, score):
    """It is in the units of the model's scores, so it belongs to the model, not to PPO. A score of
    0 is one."""
    flags = "--overwrite --batch-size 60 --max-new-tokens 4 --norm-prompts 3".split()
    flags += ["--data", str(colours / "comparisons.jsonl"), "--missing-end-score", str(score)]
    rm(out, *flags)
    assert load_reward_model(out / "rm")[2] == score


# ---- stopping, resuming, repeating


def test_three_steps_a_stop_and_three_more_are_six_steps_to_the_bit(
    world_run, world_out, ctrl_c, capsys, monkeypatch
):
    """Weights, optimiser, metrics. The comparisons are read from the file, not sampled and labelled
    again, because labels cost money.

    The checkpoint in the middle can be used: its scores are normalised.
    """
    ctrl_c("rm", 2)
    with pytest.raises(KeyboardInterrupt):
        rm(world_out, *WORLD_RM, "--overwrite")
    ctrl_c(None)
    message = capsys.readouterr().err
    assert f"{world_out / 'rm' / 'checkpoint.pt'} holds 3 of 6 steps" in message
    assert "--resume" in message
    assert load_reward_model(world_out / "rm")[0].std != 1
    monkeypatch.setattr(train_rm, "collect", None)
    rm(world_out, "--resume")
    assert logged(world_out / "rm") == logged(world_run / "rm")
    assert same(saved(world_out / "rm"), saved(world_run / "rm"))


def test_a_run_on_your_own_data_resumes_to_the_bit_too(
    colour_run, colours, out, ctrl_c, gradient_norms
):
    """The responses for the normalisation are sampled again, and are the same. No step is
    repeated."""
    flags = "--lr 0.01 --epochs 3 --warmup 2 --max-new-tokens 6 --batch-size 9".split()
    flags += ["--data", str(colours / "comparisons.jsonl"), "--norm-prompts", "8", "--overwrite"]
    ctrl_c("rm", 2)
    with pytest.raises(KeyboardInterrupt):
        rm(out, *flags)
    ctrl_c(None)
    rm(out, "--resume")
    assert len(gradient_norms) == 18
    assert logged(out / "rm") == logged(colour_run / "rm")
    assert same(saved(out / "rm"), saved(colour_run / "rm"))


def test_a_seed_decides_everything_and_no_global_generator_is_touched(world_run, world_out):
    """Prompts, samples, labels, first weights: two runs give the same bits, another seed gives
    others."""
    states = generators()
    rm(world_out, *WORLD_RM, "--overwrite")
    state = saved(world_out / "rm")
    rm(world_out, *WORLD_RM, "--overwrite", "--seed", "2")
    other = saved(world_out / "rm")
    assert generators() == states
    assert same(state, saved(world_run / "rm"))
    assert not torch.equal(other["model"]["head.weight"], state["model"]["head.weight"])
    paths = [run / "rm" / "comparisons.jsonl" for run in (world_run, world_out)]
    prompts, other_prompts = ([c.prompt for c in jsonl.read_comparisons(path)] for path in paths)
    assert prompts != other_prompts


# ---- bad input


def test_responses_that_do_not_fit_once_they_are_text_are_left_out(world_run, monkeypatch):
    """Sampled bytes that are not UTF-8 become replacement characters of three bytes each: a
    response that fitted as ids may not fit as text."""
    gpt, tokenizer = load_gpt(world_run / "sft")
    args = train_rm.Config(responses=2, max_new_tokens=4)
    texts = ["fine", "fine", "fine", "\ufffd" * gpt.config.context]
    replies = [evaluate.Reply(text, None, True) for text in texts]
    monkeypatch.setattr(evaluate, "respond", lambda *_, **__: replies)
    prompts = ["one\n", "two\n"]
    comparisons = train_rm.sample(args, gpt, tokenizer, prompts, RANKED_RESPONSES, None)
    assert [c.prompt for c in comparisons] == ["one\n"]


def test_comparisons_that_all_tie_are_refused(refused, out, tmp_path):
    """The error comes before anything is written. Nothing can be learned from ties, and steps with
    zero gradients would look like training."""
    ties = [{"prompt": "p", "responses": ["a", "b"], "ranks": [1, 1]}] * 12
    new = tmp_path / "new"
    flags = ["--out", str(new), "--sft", str(out / "sft"), "--data", records(tmp_path, ties)]
    assert "tie" in refused(train_rm.main, flags, new)


def test_one_comparison_is_learned_from_and_is_not_called_a_tie(out, tmp_path, capsys):
    """It was held out, and the message was that every comparison is a tie. A single prompt cannot
    be split, so nothing is held out."""
    path = records(tmp_path, [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    rm(out, "--data", path, "--overwrite", "--max-new-tokens", "4", "--batch-size", "1")
    assert len(logged(out / "rm", "accuracy")) == 1
    printed = capsys.readouterr()
    assert "held out: 0 of 1 records" in printed.out and "tie" not in printed.err


def test_without_an_sft_model_it_says_what_to_run_first(refused, tmp_path):
    """The error names the script, instead of a FileNotFoundError."""
    message = refused(train_rm.main, ["--out", str(tmp_path)], tmp_path)
    assert str(tmp_path / "sft") in message and "train_sft.py" in message


def test_a_reward_model_is_no_sft_model(refused, out, tmp_path):
    """Its trunk would produce samples, but bad ones."""
    new = tmp_path / "new"
    message = refused(train_rm.main, ["--out", str(new), "--sft", str(out / "rm")], new)
    assert "stage rm" in message and "sft" in message


def test_a_comparison_that_does_not_fit_is_named_by_file_and_line(refused, out, tmp_path):
    """If it were cut, it would be scored in the middle of a sentence (rlhf-book,
    train_preference_rm.py:203)."""
    path = records(tmp_path, [{"prompt": "p", "chosen": "a", "rejected": "b" * 300}])
    new = tmp_path / "new"
    flags = ["--out", str(new), "--sft", str(out / "sft"), "--data", path]
    assert f"{path}:1: " in refused(train_rm.main, flags, new)


def test_room_for_the_samples_is_checked_before_anything_is_written(
    refused, out, tmp_path, colours
):
    """A context of 32 has no room for a prompt and 32 new tokens, whether the prompts are the
    world's or the user's."""
    new = tmp_path / "new"
    flags = ["--out", str(new), "--sft", str(out / "sft"), "--max-new-tokens", "32"]
    for source in (["--mix-data"], ["--data", str(colours / "comparisons.jsonl")]):
        message = refused(train_rm.main, [*flags, *source], new)
        assert "32" in message and "context" in message


def test_an_existing_run_is_refused_before_anything_is_sampled(refused, world_out, monkeypatch):
    """Samples and labels are the cost of a reward model."""
    monkeypatch.setattr(train_rm, "sample", None)
    assert "--overwrite" in refused(train_rm.main, ["--out", str(world_out), *WORLD_RM], world_out)


def test_world_prompts_without_room_are_refused_or_left_out(refused, world_out):
    """A context of 128 with 120 tokens to sample. An error now, and not after an hour of sampling;
    with --drop-long the short prompts are ranked. With 127 tokens none is left."""
    flags = ["--out", str(world_out), *WORLD_RM, "--overwrite", "--max-new-tokens"]
    assert "--drop-long" in refused(train_rm.main, [*flags, "120"], world_out)
    message = refused(train_rm.main, [*flags, "127", "--drop-long"], world_out)
    assert "no prompt leaves room" in message
    args = train_rm.Config(prompts=200, max_new_tokens=118, drop_long=True)
    sft, tokenizer = load_gpt(world_out / "sft")
    prompts = train_rm.draw_prompts(args, sft, tokenizer, "train")
    assert 0 < len(prompts) < 200
    assert all(len(tokenizer.encode(prompt)) + 118 <= 128 for prompt in prompts)
