"""The specification of evaluate.py: numbers that compare two policies, and nothing that favours one."""

import math

import numpy as np
import pytest
import torch

from minirlhf import evaluate
from minirlhf.data import Comparison, Example, encode_prompt
from minirlhf.evaluate import (
    Reply,
    best_of_n,
    best_of_n_kl,
    by_score,
    interval,
    kl,
    noise,
    respond,
    win_rate,
)
from minirlhf.feedback import agreement
from minirlhf.generate import Samples
from minirlhf.reward import RewardModel
from minirlhf.run import checkpoint
from minirlhf.run.config import CANDIDATE_NOISE
from minirlhf.tokenizer import get_tokenizer
from minirlhf.tools import evaluate as evaluate_command
from minirlhf.world import judge, measures, writers
from minirlhf.world.judge import Judgement
from minirlhf.world.measures import axes

PROMPTS = ["why", "a somewhat longer prompt", ""]


@pytest.fixture(scope="module")
def tokenizer():
    return get_tokenizer()


@pytest.fixture(scope="module")
def gpt(make_gpt, tokenizer):
    """A model that ends about every fourth response of 6 tokens."""
    gpt = make_gpt(tokenizer.vocab_size, context=64, std=0.1)
    gpt.norm.bias.data[0] = 1.0
    gpt.token_embedding.weight.data[tokenizer.end_token, 0] = 2.5
    return gpt


@pytest.fixture(scope="module")
def other(make_gpt, tokenizer):
    return make_gpt(tokenizer.vocab_size, context=64, std=0.1, seed=1)


# ---- replies


def test_a_reply_does_not_depend_on_its_neighbours(gpt, tokenizer, monkeypatch):
    """Alone, together, or in groups of two: prompts of 1 to 20 tokens, each with its own row of noise."""
    prompts, uniforms = PROMPTS * 3, noise(1, 9, 6)
    together = respond(gpt, tokenizer, prompts, uniforms)
    assert together == [
        respond(gpt, tokenizer, [p], uniforms[i : i + 1])[0] for i, p in enumerate(prompts)
    ]
    monkeypatch.setattr(evaluate, "ROWS", 2)
    assert together == respond(gpt, tokenizer, prompts, uniforms)
    assert len({reply.text for reply in together}) > len(PROMPTS), (
        "rows with one prompt share their noise"
    )


def test_a_reply_continues_the_whole_prompt(gpt, tokenizer):
    """Also where the response is one token long."""
    replies = respond(gpt, tokenizer, PROMPTS, noise(1, 3, 1))
    assert [r.example.tokens[: r.example.prompt_length] for r in replies] == [
        encode_prompt(tokenizer, p) for p in PROMPTS
    ]


def test_a_reply_is_the_response_without_prompt_and_end(tokenizer):
    """Three rows that end, are cut off, and end at once; what stands right of the end is not shown."""
    prompt, said, junk, end = [encode_prompt(tokenizer, text) for text in ("why", "so", "junk")] + [
        [tokenizer.end_token]
    ]
    rows = [prompt + said + end + junk, prompt + said + junk, prompt + end + junk]
    lengths = [len(prompt + said + end), len(prompt + said), len(prompt + end)]
    T = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (T - len(row)) for row in rows])
    samples = Samples(
        tokens,
        torch.full((3,), len(prompt)),
        torch.tensor(lengths),
        torch.tensor([True, False, True]),
    )
    replies = evaluate.unpack(samples, tokenizer)
    assert [reply.text for reply in replies] == ["so", "so", ""]
    assert [reply.ended for reply in replies] == [True, False, True]
    assert replies[0].example == Example(prompt + said + end, len(prompt))


def test_the_noise_is_a_function_of_the_seed():
    """So two policies, or one at two times, are compared under the same noise; best-of-n has its own."""
    uniforms = noise(1, 100, 8)
    assert uniforms.shape == (100, 8) and uniforms.dtype == np.float32
    assert (uniforms >= 0).all() and (uniforms < 1).all()
    assert (noise(1, 100, 8) == uniforms).all()
    assert (noise(2, 100, 8) != uniforms).mean() > 0.99 and (
        noise(1, 100, 8, CANDIDATE_NOISE) != uniforms
    ).mean() > 0.99


# ---- judgements


def test_axes_are_means_over_the_prompts_where_they_apply():
    """helpful (1 + 0 + 1 + 1) / 4; honest and harmless over two of the four, (1 + 0) / 2; right: all that apply are 1."""
    judgements = [Judgement(1.0, 1.0, None, 3.0), Judgement(0.0, None, 1.0, 2.0)]
    judgements += [Judgement(1.0, 0.0, None, 1.0), Judgement(1.0, None, 0.0, 2.0)]
    expected = {"helpful": 3 / 4, "honest": 1 / 2, "harmless": 1 / 2, "total": 2.0, "right": 1 / 4}
    assert axes(judgements) == pytest.approx(expected)
    assert tuple(axes(judgements)) == measures.AXES


def test_an_axis_that_never_applies_is_not_a_number():
    """A 0 would be read as failure, and a 1 as success, of something that was never asked for."""
    assert math.isnan(axes([Judgement(1.0, None, None, 3.0)])["honest"])


def test_a_response_without_end_is_judged_as_an_empty_one():
    """What the policy wrote would be judged well, had it come to an end."""
    rng = np.random.default_rng(0)
    demonstrations = writers.demonstrations(200, rng)
    good = next(d for d in demonstrations if judge.judge(d.prompt, d.response).total == judge.BEST)
    replies = [Reply(good.response, Example([], 0), ended) for ended in (True, False)]
    judged = measures.judgements([good.prompt] * 2, replies)
    assert [j.total for j in judged] == [judge.BEST, judge.judge(good.prompt, "").total]
    assert judged[1].total < judge.BEST


# ---- KL


def test_kl_is_zero_against_oneself(gpt, tokenizer):
    """To the bit, at temperature .7 too. A "KL" of a policy against itself that is not 0 measures the code (rlhf-book samples
    at .6 and scores at 1: utils.py:264)."""
    replies = respond(gpt, tokenizer, PROMPTS, noise(1, 3, 6))
    assert (kl(gpt, gpt, replies, temperature=0.7) == 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_kl_is_summed_over_the_response_token_by_token(gpt, other, tokenizer, temperature):
    """In nats per response, each model asked for one token after another; both at the temperature of the samples."""
    replies = respond(gpt, tokenizer, PROMPTS, noise(1, 3, 6), temperature)
    expected = []
    for reply in replies:
        tokens, total = reply.example.tokens, 0.0
        for t in range(reply.example.prompt_length, len(tokens)):
            with torch.no_grad():
                p, q = (
                    torch.log_softmax(m(torch.tensor([tokens[:t]]))[0, -1] / temperature, -1)
                    for m in (gpt, other)
                )
            total += float(p[tokens[t]] - q[tokens[t]])
        expected.append(total)
    assert kl(gpt, other, replies, temperature).tolist() == pytest.approx(expected, abs=1e-4)
    examples = [reply.example for reply in replies]
    one_by_one = evaluate.sequence_logprobs(gpt, examples, temperature, max_tokens=1)
    torch.testing.assert_close(
        one_by_one, evaluate.sequence_logprobs(gpt, examples, temperature), rtol=1e-5, atol=1e-5
    )


# ---- win rates


def test_the_interval_is_worked_by_hand():
    """0, 1, 1, 0: mean .5, standard deviation sqrt(1/3), so 1.96 * .57735 / 2 = .565803. One value has no spread."""
    assert interval([0, 1, 1, 0]) == (0.5, pytest.approx(0.565803, abs=1e-6))
    mean, half = interval([0.3])
    assert mean == 0.3 and math.isnan(half)


def test_the_interval_holds_the_truth_nineteen_times_in_twenty():
    """0.9502 of the time, for 100 coins that fall 3 times in 10; within six standard errors of that in 10,000 tries."""
    rng = np.random.default_rng(0)
    means, halves = np.array([interval(rng.random(100) < 0.3) for _ in range(10_000)]).T
    assert abs((np.abs(means - 0.3) < halves).mean() - 0.9502) < 6 * math.sqrt(0.05 * 0.95 / 10_000)


def test_a_model_against_itself_wins_exactly_half_with_no_interval(gpt, tokenizer):
    """The same noise gives the same texts, whatever the judge. minChatGPT's candidate was always B, as were the answers in the
    judge's examples: 96% (evaluate.py:166 and 108)."""
    first, second = (
        [r.text for r in respond(gpt, tokenizer, PROMPTS, noise(1, 3, 6))] for _ in range(2)
    )
    for prefer in (
        by_score(lambda prompts, texts: [len(text) for text in texts]),
        lambda prompts, a, b: [len(x) % 2 for x in a],
    ):
        assert win_rate(prefer, PROMPTS, first, second) == (0.5, 0.0)


def test_a_judge_who_always_prefers_the_first_gives_one_half():
    """Judges like what comes first, or last: models and people alike. Asked in both orders, that preference cancels. minChatGPT
    asks in one (evaluate.py:166)."""
    assert win_rate(
        lambda prompts, a, b: np.ones(3), PROMPTS, ["x", "y", "z"], ["p", "q", "r"]
    ) == (0.5, 0.0)


def test_a_win_rate_averages_both_orders():
    """.9 asked first; .3 for the other asked the other way round, which is .7: .8. What one side wins the other loses."""

    def prefer(prompts, first, second):
        return [0.9 if a == "good" else 0.3 for a in first]

    good, bad = ["good"] * 3, ["bad"] * 3
    assert win_rate(prefer, PROMPTS, good, bad)[0] == pytest.approx(0.8)
    assert win_rate(prefer, PROMPTS, bad, good)[0] == pytest.approx(0.2)


def test_the_higher_score_wins_and_equals_share():
    """1, 0 and 1/2: with ties counted for one side, a policy that changed nothing would seem to win."""

    def prefer(first, second):
        return by_score(lambda prompts, texts: [len(text) for text in texts])(
            PROMPTS, first, second
        ).tolist()

    assert prefer(["xx", "x", "xx"], ["x", "xx", "yy"]) == [1, 0, 0.5]


def test_the_world_prefers_what_it_scores_higher():
    """40 pairs that differ in one thing."""
    _, prompts, better, worse = zip(*writers.contrasts(40, np.random.default_rng(0)), strict=True)
    assert win_rate(by_score(judge.total), prompts, better, worse)[0] > 0.9


def test_held_out_comparisons_that_all_tie_have_no_accuracy():
    """Nothing was ordered, so nothing was right or wrong: no pair is told, and no number beside it."""
    tied = Comparison("a", ["x", "y"], [0, 0])
    assert agreement.ranking_numbers([tied], [[1.0, 2.0]]) == {"held_out_pairs": 0}


# ---- best of n


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_the_kl_of_best_of_n_is_that_of_an_enumeration(n):
    """100,000 equally likely responses with distinct scores: the best of n is the i-th with probability (i/m)^n - ((i-1)/m)^n.
    log n - (n - 1)/n, as in Stiennon et al. 2020: for n = 4, log 4 - 3/4 = .636 nats from uniform."""
    m = 100_000
    p = np.diff((np.arange(m + 1) / m) ** n)
    p = p[p > 0]
    assert best_of_n_kl(n) == pytest.approx(float((p * np.log(p * m)).sum()), abs=1e-3)


def test_best_of_n_picks_the_highest_score_of_each_prompts_own_finished_replies(gpt, tokenizer):
    """32 replies to each of three prompts, found again one prompt at a time. The score is the length in characters."""
    n, uniforms = 32, noise(5, 96, 6, CANDIDATE_NOISE)

    def score(prompts, replies):
        return [len(reply.text) for reply in replies]

    chosen = best_of_n(gpt, tokenizer, score, PROMPTS, n, 6, seed=5)
    cut_off_would_win = 0
    for i, prompt in enumerate(PROMPTS):
        replies = respond(gpt, tokenizer, [prompt] * n, uniforms[i * n : (i + 1) * n])
        finished = [reply for reply in replies if reply.ended]
        assert chosen[i] == max(finished, key=lambda reply: len(reply.text))
        cut_off_would_win += max(len(reply.text) for reply in replies) > len(chosen[i].text)
    assert cut_off_would_win, (
        "a reply that was cut off never has the highest score: this shows little"
    )


def test_best_of_n_gives_an_unfinished_reply_where_there_is_no_other(other, tokenizer):
    """Of one token, none of which ends."""
    (chosen,) = best_of_n(
        other, tokenizer, lambda prompts, texts: np.zeros(len(texts)), ["why"], 3, 1, seed=1
    )
    assert not chosen.ended


def test_scores_are_of_the_ids_that_were_sampled(gpt, tokenizer):
    """Tokens travel, not text: half a character decodes to a sign that is three other bytes. trlX
    (accelerate_ppo_trainer.py:343) and AlpacaFarm (rl/ppo_trainer.py:155) score the text, encoded again."""
    model = RewardModel(gpt)
    half = [65, 0xE2, tokenizer.end_token]
    reply = Reply(tokenizer.decode(half[1:]), Example(half, 1), True)
    assert tokenizer.encode(reply.text) != half[1:2]
    expected = model(torch.tensor([half]), torch.tensor([3]))
    assert torch.equal(evaluate.score_replies(model, ["A"], [reply]), expected.detach())


# ---- the command


def test_the_command_says_that_a_checkpoint_beats_itself_half_of_the_time(
    gpt, tokenizer, tmp_path, capsys
):
    """The first thing to try on any evaluation: it costs a minute, and most mistakes of an evaluation show in it."""
    checkpoint.save(tmp_path, "sft", gpt.config, tokenizer, 0, model=gpt)
    command = f"--policy {tmp_path} --baseline {tmp_path} --reward-model none --prompts 6 --max-new-tokens 4 --device cpu"
    evaluate_command.main(command.split())
    assert "policy beats the baseline: 50.0% +- 0.0 of 6 prompts" in capsys.readouterr().out


def test_the_best_of_fewer_comes_from_the_first_of_the_same_candidates(gpt, tokenizer):
    """So that best of 4 and best of 16 are compared on the same draws, and a larger n never has a lower score."""
    score = lambda prompts, replies: torch.tensor([float(len(reply.text)) for reply in replies])  # noqa: E731
    replies, scores = evaluate.candidates(gpt, tokenizer, score, PROMPTS, 6, 6, seed=1)
    assert [len(own) for own in replies] == [6] * len(PROMPTS) and scores.shape == (len(PROMPTS), 6)
    for n in (1, 3, 6):
        for own, picked in zip(replies, evaluate.best(replies, scores, n), strict=True):
            ended = [reply for reply in own[:n] if reply.ended] or own[:1]
            assert len(picked.text) == max(len(reply.text) for reply in ended)
    assert evaluate.best(replies, scores, 6) == best_of_n(
        gpt, tokenizer, score, PROMPTS, 6, 6, seed=1
    )
