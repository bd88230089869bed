"""What is measured of a policy for the table and the figure of all methods, computed again from its
checkpoint; and that numbers of anything else are not taken for it."""

import numpy as np
import pytest
import tiktoken
from toys import TOKENIZER, save_policy, save_reward_model, written

from minirlhf import evaluate, reward
from minirlhf.run import checkpoint
from minirlhf.run.checkpoint import load_gpt
from minirlhf.run.config import CANDIDATE_NOISE, HELD_OUT_PROMPTS, rng
from minirlhf.tokenizer import END, PATTERN, Tokenizer
from minirlhf.tools import frontier
from minirlhf.world import judge, measures, writers

SEED, N, TOKENS = 5, 24, 6


@pytest.fixture
def models(make_gpt, tmp_path, monkeypatch):
    """A folder with two policies and two reward models."""
    monkeypatch.setattr(evaluate, "respond", written)
    monkeypatch.setattr(frontier, "NS", (1, 2, 4))
    for seed, name in enumerate(("sft", "other-sft", "policy", "other-policy")):
        gpt = make_gpt(TOKENIZER.vocab_size, context=64, std=0.1, seed=seed)
        save_policy(tmp_path / name, gpt)
        save_reward_model(tmp_path / f"rm-{name}", gpt, missing_end_score=-2.0 - seed)
    return tmp_path


def prompts_of(seed, n):
    return writers.prompts(n, rng(seed, HELD_OUT_PROMPTS), "validation")


def measure(models, policy="policy", sft="sft", seed=SEED, n=N, tokens=TOKENS, file="marks.json"):
    return frontier.measure(models / policy, models / sft, seed, n, tokens, models / file)


def test_a_policy_is_judged_on_what_it_writes_itself_to_the_prompts_of_its_seed(models):
    """Total, KL from the SFT model in nats per response, length and distinct responses."""
    marks, prompts = measure(models), prompts_of(SEED, N)
    policy, sft = (load_gpt(models / name)[0] for name in ("policy", "sft"))
    replies = written(policy, TOKENIZER, prompts, evaluate.noise(SEED, N, TOKENS))
    verdicts = [
        judge.judge(p, r.text if r.ended else "") for p, r in zip(prompts, replies, strict=True)
    ]
    assert marks.totals.tolist() == [verdict.total for verdict in verdicts]
    examples = [reply.example for reply in replies]
    nats = [evaluate.sequence_logprobs(gpt, examples) for gpt in (policy, sft)]
    assert marks.kl == pytest.approx(float((nats[0] - nats[1]).mean()), rel=1e-5)
    assert marks.length == pytest.approx(np.mean([reply.length for reply in replies]))
    assert marks.distinct == len({reply.text for reply in replies}) < N
    assert len({verdict.total for verdict in verdicts}) > 3  # else any mistake would fit


def as_lists(marks):
    return [marks.totals.tolist(), *marks[1:]]


def test_numbers_of_another_policy_or_other_samples_are_measured_again(models, monkeypatch):
    """The file beside a run is of the models, the seed, the prompts and the length that it says.
    For the same ones nothing is sampled."""
    first = measure(models)
    changes = [{"policy": "other-policy"}, {"sft": "other-sft"}, {"seed": 6}, {"n": 20}]
    for change in [*changes, {"tokens": 5}]:
        fresh = measure(models, **change, file="fresh.json")
        assert as_lists(fresh) != as_lists(first), change  # else a stale file could not be told
        assert as_lists(measure(models, **change)) == as_lists(fresh), change
        assert as_lists(measure(models)) == as_lists(first)
    monkeypatch.setattr(evaluate, "respond", lambda *_, **__: pytest.fail("was measured before"))
    assert as_lists(measure(models)) == as_lists(first)


def samples(models, sft="sft", seed=SEED, n=10, tokens=TOKENS, folder="samples"):
    return frontier.sample_sft(models / sft, seed, n, tokens, models / folder)


def test_the_candidates_of_a_prompt_are_other_responses_to_that_prompt(models):
    """Under the noise of candidates, the same for whoever chooses among them. From the file they
    are what they were, ends and totals included."""
    sft, prompts = load_gpt(models / "sft")[0], prompts_of(SEED, 10)
    repeated = [prompt for prompt in prompts for _ in range(4)]
    uniforms = evaluate.noise(SEED, 40, TOKENS, CANDIDATE_NOISE)
    replies = written(sft, TOKENIZER, repeated, uniforms)
    golds = judge.total(repeated, [r.text if r.ended else "" for r in replies])
    for found in (samples(models), samples(models)):
        assert found.prompts == prompts
        assert [reply for group in found.groups for reply in group] == replies
        assert found.golds.tolist() == np.reshape(golds, (10, 4)).tolist()
    assert {reply.ended for reply in replies} == {True, False}
    for change in ({"sft": "other-sft"}, {"seed": 6}, {"n": 9}, {"tokens": 5}):
        fresh = samples(models, **change, folder="fresh")
        assert fresh.groups != found.groups and samples(models, **change).groups == fresh.groups


def test_a_candidate_has_the_score_that_ppo_would_see(models):
    """That of its ids; the missing-end score where it was cut off. Scores of another reward model
    or of other samples are not taken for them."""
    for rm, change in (
        ("rm-sft", {}),
        ("rm-policy", {}),
        ("rm-policy", {"seed": 6}),
        ("rm-sft", {}),
    ):
        found = samples(models, **change)
        model, _, missing_end_score = reward.load_reward_model(models / rm)
        replies = [reply for group in found.groups for reply in group]
        expected = reward.score_examples(model, [reply.example for reply in replies]).numpy()
        expected[[not reply.ended for reply in replies]] = missing_end_score
        scores = frontier.score_samples(models / rm, found, models / "scores.json")
        assert scores == pytest.approx(expected.reshape(10, 4), abs=1e-5)


def test_models_with_another_vocabulary_are_not_measured(models, make_gpt, monkeypatch):
    """Neither a policy nor a reward model: ids of one are other texts in the other."""
    ranks, special = {bytes([i]): i for i in range(256)}, {END: 256}
    ends = {"mergeable_ranks": ranks, "special_tokens": special}
    tokenizer = Tokenizer(tiktoken.Encoding("bytes", pat_str=PATTERN, **ends))
    names = {"bytes": tokenizer, "tiny": TOKENIZER}
    monkeypatch.setattr(checkpoint, "get_tokenizer", names.get)
    gpt = make_gpt(257, context=64)
    checkpoint.save(models / "bytes", "sft", gpt.config, tokenizer, 1, model=gpt)
    parts = {"model": reward.RewardModel(gpt), "missing_end_score": -3.0}
    checkpoint.save(models / "rm-bytes", "rm", gpt.config, tokenizer, 1, **parts)
    with pytest.raises(checkpoint.OtherModel):
        measure(models, policy="bytes")
    with pytest.raises(checkpoint.OtherModel):
        frontier.score_samples(models / "rm-bytes", samples(models), models / "scores.json")


def test_the_writers_are_as_careful_and_as_polite_as_those_of_the_demonstrations(monkeypatch):
    """Here nine of ten are right and one of ten is polite; standard error .02. Every seed has
    prompts and writers of its own."""
    monkeypatch.setattr(writers, "CAREFUL", 0.9)
    monkeypatch.setattr(writers, "POLITE", 0.1)
    respond, seen = writers.respond, {}

    def spy(question, right, polite, draw):
        seen.setdefault(seed, []).append((right, polite))
        return respond(question, right, polite, draw)

    monkeypatch.setattr(writers, "respond", spy)
    for seed in (1, 2):
        frontier.writers_total(250, seed)
        assert np.mean(seen[seed], axis=0) == pytest.approx([0.9, 0.1], abs=0.08)
    assert seen[1] != seen[2]


def test_a_difference_is_paired_and_its_interval_is_over_subjects():
    """Best-of-n has the first prompts only: it is compared on those."""
    prompts, r = prompts_of(1, 300), np.random.default_rng(0)
    others = r.integers(0, 4, 300).astype(float)
    totals = others[:200] + r.normal(0.2, 0.1, 200)  # what both have in common cancels
    clusters = [measures.cluster(prompt) for prompt in prompts[:200]]
    expected = evaluate.interval(totals - others[:200], clusters)
    found = frontier.difference(totals, others, prompts)
    assert found == pytest.approx(expected) and found[1] < 0.05
    alone = evaluate.interval(totals - others[:200])
    assert found[1] != pytest.approx(alone[1], rel=1e-3)
