"""The reward model from end to end: a whole run is recorded, and each of its numbers computed
again."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from conftest import few
from helpers import MEMORY, READING
from recorder import (
    COMPARISONS,
    HELD_OUT,
    digest,
    loop_calibration,
    loop_pairs,
    loop_raw,
    noise,
    positions,
    prompts_of,
    recorded,
    replies_of,
    run_command,
    save_policy,
    stored_calibration,
    varied_judge,
    write_records,
)

import train_rm
from minirlhf.data import Comparison, split_by_prompt
from minirlhf.feedback import baselines, simulated
from minirlhf.formats import jsonl
from minirlhf.reward import RewardModel, load_reward_model
from minirlhf.run import config
from minirlhf.run.metrics import read_metrics
from minirlhf.tokenizer import get_tokenizer
from minirlhf.world import measures, writers

FLAGS = {  # none of them at its default
    "seed": 3,
    "threads": 2,
    "max_grad_norm": 0.37,
    "microbatch_tokens": 150,
    "keep": 0,
    "prompts": 12,
    "responses": 3,
    "max_new_tokens": 5,
    "epochs": 2,
    "batch_size": 5,
    "lr": 0.002,
    "warmup": 3,
    "weight_decay": 0.05,
    "held_out": 7,
    "norm_prompts": 6,
    "missing_end_score": -1.5,
    "save_every": 3,
}


class Run:
    """A recorded run in a folder of its own."""

    def __init__(self, folder, **flags):
        self.out = folder / "out"
        if not (folder / "start").exists():
            save_policy(folder / "start", seed=9)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measures, "contrasts", self.contrasts)
            self.record = recorded(patch)
            self.record.watch(train_rm, "accumulate")
            self.record.watch(train_rm, "normalise")
            self.record.watch(simulated, "rank")
            self.record.watch(baselines, "baseline_numbers")
            run_command(train_rm.main, {"out": self.out, "sft": folder / "start"} | flags)
        self.sft = self.record["load_gpt"][0].result[0]
        self.model, _, self.missing_end_score = load_reward_model(self.out / "rm")
        self.lines = read_metrics(self.out / "rm")
        self.batches = [call.args[2] for call in self.record["accumulate"]]

    def contrasts(self, n, rng):
        """Sixteen of them: a thousand would take longer than everything else."""
        self.drawn = few(writers.contrasts, n, rng)
        return self.drawn

    def collected(self):
        return jsonl.read_collected(self.out / "rm" / "comparisons.jsonl")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("whole"), **FLAGS)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """On a user's own comparisons."""
    folder = tmp_path_factory.mktemp("whole")
    data = write_records(
        folder / "data.jsonl",
        [{"prompt": c.prompt, "responses": c.responses, "ranks": c.ranks} for c in COMPARISONS],
    )
    names = ("seed", "responses", "max_new_tokens", "norm_prompts", "lr", "batch_size", "warmup")
    flags = {name: FLAGS[name] for name in names} | {"data": data, "held_out": 2}
    return Run(folder, **flags)


# ---- what it asked and labelled


def test_it_samples_its_prompts_three_times_each_under_the_noise_of_the_seed(world):
    """Twelve to train on and seven of another split, with numbers of their own."""
    kinds = [
        (12, "train", config.RANKED_PROMPTS, config.RANKED_RESPONSES),
        (7, HELD_OUT, config.RANKED_HELD_OUT_PROMPTS, config.RANKED_HELD_OUT_RESPONSES),
    ]
    for (n, split, prompt_stream, stream), call in zip(
        kinds, world.record["generate"], strict=True
    ):
        prompts = writers.prompts(n, config.rng(3, prompt_stream), split)
        assert prompts_of(call) == [prompt for prompt in prompts for _ in range(3)]
        assert np.array_equal(call.args[5], noise(3, stream, (3 * n, 5)))
        assert (call.args[2], call.args[4]) == (5, 1.0)
        assert call.digests == [digest(world.sft)]


def groups_of(call):
    """[(prompt, its three responses)] of a call of `generate`."""
    prompts, texts = prompts_of(call), [reply.text for reply in replies_of(call)]
    return [(prompts[i], texts[i : i + 3]) for i in range(0, len(texts), 3)]


def labelled(call, stream):
    """What labellers of this stream make of the responses: the judge's totals plus noise."""
    label_rng, comparisons = config.rng(3, stream), []
    for prompt, texts in groups_of(call):
        totals = np.array([varied_judge(prompt, text).total for text in texts])
        noisy = totals + label_rng.gumbel(scale=simulated.LABEL_NOISE, size=3)
        ranks = [int((noisy > x).sum()) for x in noisy]
        comparisons.append(Comparison(prompt, texts, ranks))
    return [c for c in comparisons if readable(c)]


def readable(comparison):
    """Whether the texts, encoded again, fit the context of 64."""
    tokenizer = get_tokenizer()
    sizes = [len(tokenizer.encode(comparison.prompt + text)) for text in comparison.responses]
    return max(sizes) < 60


def test_labellers_rank_each_response_by_the_judges_total_of_that_response(world):
    """The file beside the checkpoint holds prompts, responses and ranks in the order in which they
    were sampled; the record of the run knows it."""
    expected = labelled(world.record["generate"][0], config.LABELS)
    assert world.collected() == expected
    inputs = json.loads((world.out / "rm" / "config.json").read_text())["inputs"]
    assert inputs["data"].startswith(f"{len(expected)} records") and "sft" in inputs


def test_it_learns_from_what_was_collected_in_the_order_of_the_seed(world):
    """Twice, five comparisons at a time."""
    collected = world.collected()
    n = len(collected)
    order = positions(n, 0, 2 * n, seed=3)
    assert list(itertools.chain(*world.batches)) == [collected[i] for i in order]
    assert {len(batch) for batch in world.batches[:-1]} == {5}


def test_own_comparisons_are_learned_from_but_for_the_prompts_that_are_held_out(own):
    learned, held_out = split_by_prompt(COMPARISONS, seed=3)
    order = positions(len(learned), 0, len(learned), seed=3)
    assert list(itertools.chain(*own.batches)) == [learned[i] for i in order]
    (warning,) = own.record["long_answers"]
    tokenizer = get_tokenizer()
    lengths = [len(tokenizer.encode(text)) + 1 for c in learned for text in c.responses]
    assert warning.args == (lengths, 5)


def test_it_starts_as_the_sft_model_with_a_head_of_the_seed(world):
    with config.torch_seed(3, config.REWARD_HEAD_WEIGHTS):
        first = RewardModel(world.sft)
    assert world.record["accumulate"][0].digests[0] == digest(first)


def test_the_loss_of_a_step_is_the_mean_over_prompts_of_the_mean_over_their_pairs(world):
    for line, call in zip(world.lines, world.record["accumulate"], strict=False):
        pairs = loop_pairs_of_ranks(call.args[2], loop_raw(call.args[0], call.args[2]))
        means = [np.mean(np.logaddexp(0, [-m for m in margins])) for margins in pairs]
        assert line["loss"] == pytest.approx(np.mean(means), rel=1e-3)


def loop_pairs_of_ranks(comparisons, scores):
    """The margins of every pair of ranks, one list per comparison."""
    return [
        [row[i] - row[j] for i in range(3) for j in range(3) if c.ranks[i] < c.ranks[j]]
        for c, row in zip(comparisons, scores, strict=True)
    ]


# ---- on what the scores are normalised


def test_every_checkpoint_has_the_mean_and_spread_of_the_first_six_prompts(world):
    """Mean over all raw scores, and the root of the mean variance within a prompt, of the weights
    that are saved with it."""
    norm, saves = world.collected()[:6], world.record["save"]
    models = [call.kwargs["model"] for call in saves]
    assert len(saves) == 2
    for model in [*models, world.model]:
        raw = np.array(loop_raw(model, norm))
        assert float(model.mean) == pytest.approx(raw.mean(), abs=1e-4)
        assert float(model.std) == pytest.approx(raw.var(1, ddof=1).mean() ** 0.5, rel=1e-3)


def test_on_own_data_they_are_normalised_on_the_sft_models_answers(own):
    """Three to each of the first six prompts that it learns from, with noise of their own."""
    learned, _ = split_by_prompt(COMPARISONS, seed=3)
    (call,) = own.record["generate"]
    assert prompts_of(call) == [c.prompt for c in learned[:6] for _ in range(3)]
    assert np.array_equal(call.args[5], noise(3, config.NORM_RESPONSES, (18, 5)))
    assert call.digests == [digest(own.sft)]
    norm = [Comparison(prompt, texts, [0] * 3) for prompt, texts in groups_of(call)]
    raw = np.array(loop_raw(own.model, [c for c in norm if readable(c)]))
    assert float(own.model.mean) == pytest.approx(raw.mean(), abs=1e-4)
    assert float(own.model.std) == pytest.approx(raw.var(1, ddof=1).mean() ** 0.5, rel=1e-3)


def test_a_prompt_serves_the_normalisation_if_it_leaves_room_for_so_many_tokens(own):
    """40 tokens and more in a context of 64: room for 5, and not for 32."""
    tokenizer = get_tokenizer()
    long = Comparison("no " * 40, ["a", "b"], [0, 1])
    assert 32 < len(tokenizer.encode(long.prompt)) <= 59
    args = train_rm.Config(max_new_tokens=5)
    assert train_rm.norm_prompts(args, own.sft, tokenizer, [long]) == [long.prompt]
    longer = Comparison("no " * 60, ["a", "b"], [0, 1])  # it fits itself, and is left out
    assert 59 < len(tokenizer.encode(longer.prompt)) <= 62
    assert train_rm.norm_prompts(args, own.sft, tokenizer, [longer, long]) == [long.prompt]


# ---- with which flags


def test_the_optimiser_is_that_of_the_flags(world, own):
    (adamw,) = world.record["adamw"]
    assert adamw.args[1] == 0.002 and adamw.kwargs == {"weight_decay": 0.05}
    steps = len(world.batches)
    for step, line in enumerate(world.lines[:steps]):
        cosine = 0.1 + 0.45 * (1 + np.cos(np.pi * (step - 3) / (steps - 3)))
        expected = 0.002 * ((step + 1) / 3 if step < 3 else cosine)
        assert line["lr"] == pytest.approx(expected, rel=1e-5)
    assert {call.args[1] for call in world.record["clip_grad_norm_"]} == {0.37}
    assert {call.args[3] for call in world.record["accumulate"]} == {150}
    assert world.record["short_run"][0].args == (steps, 3)
    assert world.record["set_num_threads"][0].args == (2,)


def test_it_saves_every_third_step_and_the_last_without_the_one_before(world):
    steps = [call.args[4] for call in world.record["save"]]
    assert steps == sorted({*range(3, len(world.batches), 3), len(world.batches)})
    assert not (world.out / "rm" / "checkpoint.previous.pt").exists()
    assert world.missing_end_score == -1.5


def test_precision_reaches_the_sft_model(tmp_path):
    small = FLAGS | {"prompts": 4, "epochs": 1, "threads": 1, "precision": "bf16", "held_out": 2}
    run = Run(tmp_path, **small)
    assert run.record["load_gpt"][0].kwargs["precision"] == torch.bfloat16


# ---- what it reports


def test_the_held_out_numbers_are_those_of_held_out_comparisons_and_their_own_totals(world):
    """Computed again from the checkpoint: pairs, accuracy, ties, loss, and what is known with the
    judge's totals of each pair."""
    held_out = labelled(world.record["generate"][1], config.HELD_OUT_LABELS)
    numbers, pairs = world.lines[-1], loop_pairs(held_out, loop_raw(world.model, held_out))
    margins = np.array([margin for *_, margin in pairs])
    assert numbers["step"] == len(world.batches) == len(world.lines) - 1
    assert numbers["held_out_pairs"] == len(pairs) > 5
    assert numbers["held_out_accuracy"] == pytest.approx(np.mean(margins > 0))
    assert numbers["held_out_loss"] == pytest.approx(np.logaddexp(0, -margins).mean(), rel=1e-3)
    assert numbers["ties"] == 0
    assert numbers["score_spread"] == pytest.approx(float(world.model.std), rel=1e-5)
    gaps = np.array(
        [
            varied_judge(c.prompt, c.responses[i]).total
            - varied_judge(c.prompt, c.responses[j]).total
            for c, i, j, _ in pairs
        ]
    )
    likely = 1 / (1 + np.exp(-gaps / simulated.LABEL_NOISE))
    expected = np.where(margins > 0, likely, 1 - likely).mean()
    assert numbers["expected_accuracy"] == pytest.approx(expected, rel=1e-5)
    best = np.maximum(likely, 1 - likely).mean()
    assert numbers["best_possible_accuracy"] == pytest.approx(best, rel=1e-5)
    text = (world.out / "rm" / "samples.txt").read_text()
    assert f"the reward model on {len(held_out)} held-out prompts" in text


def test_the_reliability_diagram_is_that_of_the_held_out_pairs(world, own):
    own_held_out = split_by_prompt(COMPARISONS, seed=3)[1][:2]
    held_out = labelled(world.record["generate"][1], config.HELD_OUT_LABELS)
    for run, comparisons in ((world, held_out), (own, own_held_out)):
        pairs = loop_pairs(comparisons, loop_raw(run.model, comparisons))
        expected = loop_calibration([margin for *_, margin in pairs])
        stored = stored_calibration(run.out / "rm")
        assert np.allclose(stored, expected, atol=1e-4)
    assert len(stored) > 1, "the pairs do not tell one bin from another"


def test_the_contrasts_are_those_of_the_seed(world):
    contrasts = writers.contrasts(16, config.rng(3, config.CONTRASTS))
    assert world.drawn == contrasts
    wins = {}
    for name, prompt, *texts in contrasts:
        ((better, worse),) = loop_raw(world.model, [Comparison(prompt, texts, [0, 1])])
        wins.setdefault(name, []).append(better > worse)
    for name, hits in wins.items():
        assert world.lines[-1][f"agreement_on_{name}"] == pytest.approx(np.mean(hits))


def test_on_own_data_the_baselines_learned_from_what_the_model_learned_from(own):
    learned, held_out = split_by_prompt(COMPARISONS, seed=3)
    scores, numbers = loop_raw(own.model, held_out[:2]), own.lines[-1]
    pairs = loop_pairs(held_out[:2], scores)
    assert numbers["held_out_pairs"] == len(pairs)
    margins = np.array([margin for *_, margin in pairs])
    assert numbers["held_out_accuracy"] == pytest.approx(np.mean(margins > 0))
    (call,) = own.record["baseline_numbers"]
    assert call.args[0] == learned and call.args[1] == held_out[:2]
    expected = baselines.baseline_numbers(learned, held_out[:2], scores)
    for name, value in expected.items():
        assert numbers[name] == pytest.approx(value, rel=1e-5), name


def test_with_a_policy_it_learns_from_the_policys_responses_and_measures_on_the_sft_models(
    tmp_path,
):
    """Rounds are compared on the same held-out responses, and scores normalised on the first of
    all comparisons, which are the SFT model's."""
    policy = save_policy(tmp_path / "policy", seed=8)
    earlier = [Comparison(f"p{i}", ["a", "b", "c"], [0, 1, 2]) for i in range(3)]
    (tmp_path / "more.jsonl").write_text(jsonl.write_records(earlier))
    small = FLAGS | {"prompts": 4, "epochs": 1, "threads": 1, "held_out": 2, "norm_prompts": 3}
    places = {"policy": tmp_path / "policy", "more": tmp_path / "more.jsonl"}
    run = Run(tmp_path, **small, **places)
    learned, held_out = run.record["generate"]
    assert (learned.digests, held_out.digests) == ([digest(policy)], [digest(run.sft)])
    assert run.record["normalise"][0].args[2] == earlier == run.collected()[:3]
    sampled = groups_of(learned)
    assert all((c.prompt, c.responses) in sampled for c in run.collected()[3:])


def test_overwriting_leaves_nothing_of_the_old_run(tmp_path):
    """The comparisons that it learns from are its own, not those that lie there."""
    small = FLAGS | {"prompts": 4, "epochs": 1, "threads": 1, "held_out": 2}
    first = Run(tmp_path, **small)
    old = first.collected()
    second = Run(tmp_path, **small | {"seed": 4, "overwrite": True})
    new = second.collected()
    assert new != old
    learned = list(itertools.chain(*second.batches))
    assert sorted(map(str, learned)) == sorted(map(str, new))


def test_every_flag_is_looked_at_somewhere_in_the_tests_of_whole_runs():
    """Those that do not occur here have tests of what they do in test_train_rm.py, test_resume.py,
    test_chain.py, test_cuda.py and test_rounds.py."""
    elsewhere = READING | MEMORY | {"resume", "overwrite", "mix_data", "device", "track", "margin"}
    elsewhere |= {"labeller", "labeller_model", "human_share", "policy", "more"}
    fields = {field.name: field.default for field in dataclasses.fields(train_rm.Config)}
    assert {*FLAGS, "out", "sft", "data", "precision", *elsewhere} == set(fields)
    assert all(fields[name] != value for name, value in FLAGS.items())
