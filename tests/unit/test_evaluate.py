"""The specification of evaluate.py: numbers that compare two policies without favouring one."""

import math
import sys
from pathlib import Path

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
from minirlhf.run.config import CANDIDATE_NOISE, InputError
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


def test_the_length_of_a_reply_counts_its_end_token_and_not_its_prompt():
    """Four ids of a prompt, and three of the response."""
    for ended in (True, False):
        assert Reply("no.", Example([5, 6, 7, 8, 1, 2, 0 if ended else 3], 4), ended).length == 3


def test_a_reply_does_not_depend_on_its_neighbours(gpt, tokenizer, monkeypatch):
    """Alone, all together, or in groups of two: prompts of 1 to 20 tokens, each with its row of
    noise."""
    prompts, uniforms = PROMPTS * 3, noise(1, 9, 6)
    replies = respond(gpt, tokenizer, prompts, uniforms)
    for i, prompt in enumerate(prompts):
        assert respond(gpt, tokenizer, [prompt], uniforms[i : i + 1]) == [replies[i]]
    monkeypatch.setattr(evaluate, "ROWS", 2)
    assert respond(gpt, tokenizer, prompts, uniforms) == replies
    texts = {reply.text for reply in replies}
    assert len(texts) > len(PROMPTS), "rows with one prompt share their noise"


def test_a_prompt_without_room_for_a_response_is_refused_by_the_flag(gpt, tokenizer):
    """Whatever command asks. The row that just fits is sampled."""
    room = gpt.config.context - len(encode_prompt(tokenizer, PROMPTS[0]))
    respond(gpt, tokenizer, PROMPTS[:1], noise(1, 1, room))
    with pytest.raises(
        InputError, match=f"{room + 1} of them of --max-new-tokens, do not .*; lower"
    ):
        respond(gpt, tokenizer, PROMPTS[:1], noise(1, 1, room + 1))


def test_a_reply_continues_the_whole_prompt(gpt, tokenizer):
    """Also where the response is one token long."""
    replies = respond(gpt, tokenizer, PROMPTS, noise(1, 3, 1))
    assert [r.example.tokens[: r.example.prompt_length] for r in replies] == [
        encode_prompt(tokenizer, p) for p in PROMPTS
    ]


def test_a_reply_is_the_response_without_prompt_and_end(tokenizer):
    """Three rows: one that ends, one that is cut off, and one that ends at once. What lies right of
    a row's end is not shown."""
    prompt, response, junk = (encode_prompt(tokenizer, text) for text in ("why", "so", "junk"))
    end = [tokenizer.end_token]
    rows = [prompt + response + end, prompt + response, prompt + end]
    lengths, ended = torch.tensor([len(row) for row in rows]), torch.tensor([True, False, True])
    T = max(len(row + junk) for row in rows)
    tokens = torch.tensor([row + junk + [0] * (T - len(row + junk)) for row in rows])
    samples = Samples(tokens, torch.full((3,), len(prompt)), lengths, ended)
    replies = evaluate.unpack(samples, tokenizer)
    assert [reply.text for reply in replies] == ["so", "so", ""]
    assert [reply.ended for reply in replies] == [True, False, True]
    assert replies[0].example == Example(prompt + response + end, len(prompt))


def test_the_noise_is_a_function_of_the_seed():
    """Two policies, or one at two times, are compared under the same noise. Best-of-n has another
    stream."""
    uniforms = noise(1, 100, 8)
    assert uniforms.shape == (100, 8) and uniforms.dtype == np.float32
    assert (uniforms >= 0).all() and (uniforms < 1).all()
    assert (noise(1, 100, 8) == uniforms).all()
    assert (noise(2, 100, 8) != uniforms).mean() > 0.99
    assert (noise(1, 100, 8, CANDIDATE_NOISE) != uniforms).mean() > 0.99


# ---- judgements


def test_axes_are_means_over_the_prompts_where_they_apply():
    """helpful: (1 + 0 + 1 + 1) / 4; honest and harmless over two of the four: (1 + 0) / 2; one of
    the four is flawless."""
    judgements = [Judgement(1.0, 1.0, None, 3.0, "right"), Judgement(0.0, None, 1.0, 2.0, "right")]
    judgements += [Judgement(1.0, 0.0, None, 1.0, "wrong")]
    judgements += [Judgement(1.0, None, 0.0, 2.0, "wrong")]
    expected = {"helpful": 3 / 4, "honest": 1 / 2, "harmless": 1 / 2, "total": 2.0}
    assert axes(judgements) == pytest.approx(expected | {"flawless": 1 / 4})
    assert tuple(axes(judgements)) == measures.AXES


def test_an_axis_that_never_applies_is_not_a_number():
    """0 would mean failure and 1 success, on prompts that do not exist."""
    assert math.isnan(axes([Judgement(1.0, None, None, 3.0, "right")])["honest"])


def test_a_response_without_end_is_judged_as_an_empty_one():
    """With its end token, the same text gets the best total."""
    rng = np.random.default_rng(0)
    demonstrations = writers.demonstrations(200, rng)
    good = next(d for d in demonstrations if judge.judge(d.prompt, d.response).total == judge.BEST)
    replies = [Reply(good.response, Example([], 0), ended) for ended in (True, False)]
    first, second = measures.judgements([good.prompt] * 2, replies)
    assert first.total == judge.BEST
    assert second.total == judge.judge(good.prompt, "").total < judge.BEST


# ---- KL


def test_kl_is_zero_against_oneself(gpt, tokenizer):
    """To the bit, at temperature .7 too. A KL of a policy from itself that is not 0 is an error of
    the code (rlhf-book samples at .6 and scores at 1: utils.py:264)."""
    replies = respond(gpt, tokenizer, PROMPTS, noise(1, 3, 6))
    assert (kl(gpt, gpt, replies, temperature=0.7) == 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_kl_is_summed_over_the_response_token_by_token(gpt, other, tokenizer, temperature):
    """In nats per response, against a loop that computes one token at a time. Both models have the
    temperature of the samples."""
    replies = respond(gpt, tokenizer, PROMPTS, noise(1, 3, 6), temperature)
    expected = []
    for reply in replies:
        tokens, total = reply.example.tokens, 0.0
        for t in range(reply.example.prompt_length, len(tokens)):
            with torch.no_grad():
                logits = [m(torch.tensor([tokens[:t]]))[0, -1] for m in (gpt, other)]
                p, q = (torch.log_softmax(x / temperature, -1) for x in logits)
            total += float(p[tokens[t]] - q[tokens[t]])
        expected.append(total)
    assert kl(gpt, other, replies, temperature).tolist() == pytest.approx(expected, abs=1e-4)
    examples = [reply.example for reply in replies]
    single = evaluate.sequence_logprobs(gpt, examples, temperature, max_tokens=1)
    batched = evaluate.sequence_logprobs(gpt, examples, temperature)
    torch.testing.assert_close(single, batched, rtol=1e-5, atol=1e-5)


# ---- win rates


def test_the_interval_is_worked_by_hand():
    """0, 1, 1, 0: mean .5, standard deviation sqrt(1/3), t(3 degrees) = 3.182, half width 3.182 x
    .57735 / sqrt 4 = .91856. One value has no standard deviation."""
    assert interval([0, 1, 1, 0]) == (0.5, pytest.approx(0.91856, abs=1e-5))
    mean, half = interval([0.3])
    assert mean == 0.3 and math.isnan(half)


def test_the_interval_holds_the_truth_nineteen_times_in_twenty():
    """For the mean of 100 draws that are 1 with probability .3, an exact .9502 of the intervals
    hold .3. Here within six standard errors of that, in 10,000 trials."""
    rng = np.random.default_rng(0)
    means, halves = np.array([interval(rng.random(100) < 0.3) for _ in range(10_000)]).T
    assert abs((np.abs(means - 0.3) < halves).mean() - 0.9502) < 6 * math.sqrt(0.05 * 0.95 / 10_000)


def test_the_clustered_interval_is_worked_by_hand():
    """Facts a, a, b, c with values 1, 1, 0, 0: mean .5, deviations .5, .5, -.5, -.5, their sums per
    fact 1, -.5, -.5. Standard error sqrt(3/2 x 1.5) / 4 = .375; t(2 degrees) = 4.303."""
    mean, half = interval([1, 1, 0, 0], ["a", "a", "b", "c"])
    assert (mean, half) == (0.5, pytest.approx(4.303 * 0.375))
    assert math.isnan(interval([0, 1], ["a", "a"])[1])  # one fact says nothing about others
    assert interval([0, 1, 1, 0], [7, 3, 5, 1]) == interval([0, 1, 1, 0])


def test_the_clustered_interval_is_that_of_the_double_sum_over_pairs_of_one_cluster():
    """The formula of the books, written out: the covariances of all pairs of values with one label
    are kept, those of others are taken for 0. 200 values with 23 labels in random order."""
    rng = np.random.default_rng(0)
    labels = rng.integers(23, size=200)
    values = rng.normal(size=200) + rng.normal(size=23)[labels]
    mean, half = interval(values, labels.tolist())
    together = sum(
        (values[i] - values.mean()) * (values[j] - values.mean())
        for i in range(200)
        for j in range(200)
        if labels[i] == labels[j]
    )
    assert mean == pytest.approx(values.mean())
    assert half == pytest.approx(evaluate.t95(22) * math.sqrt(together * 23 / 22) / 200)


def test_without_clusters_answers_about_few_facts_seem_more_certain_than_they_are():
    """18 facts, 20 questions about each, answered alike: an exact .95 of the clustered intervals
    hold the truth, and less than half of the others. 4,000 trials, within six standard errors."""
    rng, facts = np.random.default_rng(0), np.repeat(np.arange(18), 20)
    holds = {"clustered": 0, "plain": 0}
    for _ in range(4_000):
        values = rng.normal(size=18)[facts] + 0.5 * rng.normal(size=360)
        for name, labels in (("clustered", facts), ("plain", None)):
            mean, half = interval(values, labels)
            holds[name] += abs(mean) < half
    assert abs(holds["clustered"] / 4_000 - 0.95) < 6 * math.sqrt(0.05 * 0.95 / 4_000)
    assert holds["plain"] < 2_000


@pytest.mark.parametrize("degrees", [*range(1, 13), 17, 41, 200])
def test_the_quantiles_of_students_t_are_where_two_and_a_half_percent_lie_beyond(degrees):
    """The integral of the density: its constant from the gamma function, the tail by the
    substitution x = t / u."""
    log_constant = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    constant = math.exp(log_constant) / math.sqrt(degrees * math.pi)
    t = evaluate.t95(degrees)
    u = (np.arange(200_000) + 0.5) / 200_000
    tail = (constant * (1 + (t / u) ** 2 / degrees) ** (-(degrees + 1) / 2) * t / u**2).mean()
    assert tail == pytest.approx(0.025, rel=2e-3)


def test_a_model_against_itself_wins_exactly_half_with_no_interval(gpt, tokenizer):
    """The same noise gives the same texts, and every judge gives exactly 1/2. In minChatGPT the
    candidate is always B, as is the answer in the judge's examples: 96% (evaluate.py:166, 108)."""
    replies = [respond(gpt, tokenizer, PROMPTS, noise(1, 3, 6)) for _ in range(2)]
    first, second = ([reply.text for reply in half] for half in replies)
    by_length = by_score(lambda prompts, texts: [len(text) for text in texts])
    for prefer in (by_length, lambda prompts, a, b: [len(x) % 2 for x in a]):
        assert win_rate(prefer, PROMPTS, first, second) == (0.5, 0.0)


def test_a_judge_who_always_prefers_the_first_gives_one_half():
    """Models and people prefer what comes first, or what comes last. Over both orders this cancels.
    minChatGPT judges one order (evaluate.py:166)."""

    def prefer(prompts, first, second):
        return np.ones(3)

    assert win_rate(prefer, PROMPTS, ["x", "y", "z"], ["p", "q", "r"]) == (0.5, 0.0)


def test_a_win_rate_averages_both_orders():
    """.9 in one order. In the other order .3 for the opponent, which is .7. Their mean is .8, and
    the opponent's win rate is .2."""

    def prefer(prompts, first, second):
        return [0.9 if a == "good" else 0.3 for a in first]

    good, bad = ["good"] * 3, ["bad"] * 3
    assert win_rate(prefer, PROMPTS, good, bad)[0] == pytest.approx(0.8)
    assert win_rate(prefer, PROMPTS, bad, good)[0] == pytest.approx(0.2)


def test_the_higher_score_wins_and_equals_share():
    """1, 0 and 1/2. If ties counted for one side, a policy that did not change would seem to
    win."""
    prefer = by_score(lambda prompts, texts: [len(text) for text in texts])
    preferences = prefer(PROMPTS, ["xx", "x", "xx"], ["x", "xx", "yy"])
    assert preferences.tolist() == [1, 0, 0.5]


def test_the_world_prefers_what_it_scores_higher():
    """40 pairs that differ in one thing."""
    _, prompts, better, worse = zip(*writers.contrasts(40, np.random.default_rng(0)), strict=True)
    assert win_rate(by_score(judge.total), prompts, better, worse)[0] > 0.9


def test_held_out_comparisons_that_all_tie_have_no_accuracy():
    """There is no ordered pair, so no pair can be right or wrong: the count is the only number."""
    tied = Comparison("a", ["x", "y"], [0, 0])
    assert agreement.ranking_numbers([tied], [[1.0, 2.0]]) == {"held_out_pairs": 0}


def test_labellers_agree_on_what_differs_and_toss_a_coin_over_ties():
    """Totals 3 and 1: the better is preferred with probability p = 1 / (1 + exp(-2 / .6)) = .96556,
    and two labellers agree with p^2 + (1 - p)^2 = .93348. Totals 2 and 2: with 1/2. A third of the
    pairs tie, so that they agree on (2 x .93348 + .5) / 3 of all."""
    pair = Comparison("a", ["x", "y"], [0, 1])
    scores, totals = [[1.0, 0.0]] * 3, [[3.0, 1.0], [2.0, 2.0], [1.0, 3.0]]
    numbers = agreement.ranking_numbers([pair] * 3, scores, totals)
    assert numbers["tied_totals"] == pytest.approx(1 / 3)
    assert numbers["labellers_agree_on_different_totals"] == pytest.approx(0.93348, abs=1e-5)
    assert numbers["labellers_agree"] == pytest.approx(0.78899, abs=1e-5)
    assert numbers["agreement_with_judge"] == 0.5


# ---- best of n


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_the_kl_of_best_of_n_is_that_of_an_enumeration(n):
    """m = 100,000 equally likely responses with distinct scores: the best of n is the i-th of them
    with probability (i/m)^n - ((i-1)/m)^n.

    The KL from uniform is log n - (n - 1)/n, as in Stiennon et al. 2020; for n = 4 it is log 4 -
    3/4 = .636 nats.
    """
    m = 100_000
    p = np.diff((np.arange(m + 1) / m) ** n)
    p = p[p > 0]
    assert best_of_n_kl(n) == pytest.approx(float((p * np.log(p * m)).sum()), abs=1e-3)


def test_best_of_n_picks_the_highest_score_of_each_prompts_own_replies(gpt, tokenizer):
    """32 replies to each of three prompts, sampled again for one prompt at a time. The score is the
    length in characters."""
    n, uniforms = 32, noise(5, 96, 6, CANDIDATE_NOISE)

    def score(prompts, replies):
        return [len(reply.text) for reply in replies]

    chosen = best_of_n(gpt, tokenizer, score, PROMPTS, n, 6, seed=5)
    for i, prompt in enumerate(PROMPTS):
        replies = respond(gpt, tokenizer, [prompt] * n, uniforms[i * n : (i + 1) * n])
        assert chosen[i] == max(replies, key=lambda reply: len(reply.text))


def test_of_equal_scores_the_first_candidate_is_taken():
    """So that a larger n changes no choice without a better score."""
    group = [Reply(letter, None, True) for letter in "abcdef"]
    scores = np.array([[1.0, 2.0, 2.0, 0.0, 2.0, 3.0], [0.0] * 6])
    chosen = [[r.text for r in evaluate.best([group] * 2, scores, n)] for n in (1, 2, 5, 6)]
    assert chosen == [["a", "a"], ["b", "a"], ["b", "a"], ["f", "a"]]


def test_best_of_n_samples_at_its_temperature(gpt, tokenizer):
    """Near 0 every candidate is the likeliest response."""

    def score(prompts, replies):
        return [len(reply.text) for reply in replies]

    (cold,) = best_of_n(gpt, tokenizer, score, ["why"], 8, 6, seed=5, temperature=1e-4)
    (likeliest,) = respond(gpt, tokenizer, ["why"], noise(1, 1, 6), temperature=0.0)
    assert cold == likeliest
    assert best_of_n(gpt, tokenizer, score, ["why"], 8, 6, seed=5) != [cold]


# ---- scores


REPLIES = [Reply("done", None, True), Reply("cut o", None, False), Reply("also", None, True)]


def test_a_score_is_the_missing_end_score_where_a_reply_was_cut_off():
    """A score in the middle of a sentence means nothing: on real data with a weak model it was 61
    where training gave -3."""

    def score(prompts, replies):
        return torch.tensor([0.5, 61.0, -4.0])

    scores = evaluate.final_scores(score, -3.0, ["a", "b", "c"], REPLIES)
    assert scores.tolist() == [0.5, -3.0, -4.0]


@pytest.mark.parametrize(
    ("raw", "text"), [([0.5, 61.0, -4.0], "done"), ([-5.0, 61.0, -4.0], "cut o")]
)
def test_best_of_n_goes_by_the_score_that_ppo_maximises(monkeypatch, raw, text):
    """A reply that was cut off has -3 there, whatever the reward model says: it loses against .5,
    and wins against -4. The rest of best-of-n is a plain maximum."""
    monkeypatch.setattr(evaluate, "respond", lambda *_, **__: REPLIES)
    monkeypatch.setattr(evaluate, "score_replies", lambda *_: torch.tensor(raw))
    score = evaluate.model_scores(None, -3.0)
    (chosen,) = best_of_n(None, None, score, ["p"], 3, 6, seed=1)
    assert chosen.text == text


def test_nothing_but_ppo_itself_takes_scores_before_the_missing_end_rule():
    """`minirlhf evaluate` did: PPO looked worse than SFT (.23 -> .11) where training had seen -1.81
    -> .37. Commands get their scores from `final_scores`; `iterate` needs both, for its metrics. An
    ensemble combines the scores of its members before the rule."""
    root = Path(evaluate.__file__).parents[1]
    paths = [*root.glob("minirlhf/**/*.py"), *root.glob("train_*.py")]
    names = {path.name for path in paths if "score_replies" in path.read_text(encoding="utf-8")}
    benchmarks = {"ours.py", "peak.py"}
    assert names == {"evaluate.py", "train_ppo.py", "ensemble.py"} | benchmarks
    assert "score_replies" not in Path(evaluate_command.__file__).read_text(encoding="utf-8")


def test_scores_are_of_the_ids_that_were_sampled(gpt, tokenizer):
    """The reward model gets ids, not text: half a character decodes to a replacement character,
    which is three other bytes. trlX (accelerate_ppo_trainer.py:343) and AlpacaFarm
    (rl/ppo_trainer.py:155) encode the text again."""
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
    """The first check of any evaluation: it takes a minute, and most errors of an evaluation show
    in it."""
    checkpoint.save(tmp_path, "sft", gpt.config, tokenizer, 0, model=gpt)
    models = f"--policy {tmp_path} --baseline {tmp_path} --reward-model none"
    flags = "--prompts 6 --max-new-tokens 4 --device cpu"
    evaluate_command.main(f"{models} {flags}".split())
    assert "policy beats the baseline: 50.0% +- 0.0 of 6 prompts" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["return 1 / 0", "return [2.0] * len(prompts)"])
def test_a_judge_of_yours_that_fails_is_one_line(gpt, tokenizer, tmp_path, monkeypatch, source):
    """It raises, or gives what is no probability."""
    (tmp_path / "bad_judge.py").write_text(f"def prefer(prompts, first, second):\n    {source}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bad_judge", raising=False)
    checkpoint.save(tmp_path / "sft", "sft", gpt.config, tokenizer, 0, model=gpt)
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    models = f"--policy {tmp_path}/sft --baseline {tmp_path}/sft --reward-model none"
    flags = f"--data {tmp_path}/p.jsonl --judge bad_judge:prefer --max-new-tokens 4 --device cpu"
    with pytest.raises(InputError) as error:
        evaluate_command.main(f"{models} {flags}".split())
    message = str(error.value)
    assert message.startswith("--judge bad_judge:prefer ") and "\n" not in message
    assert ("bad_judge.py, line 2: ZeroDivisionError" in message) == (source == "return 1 / 0")


def test_the_best_of_fewer_comes_from_the_first_of_the_same_candidates(gpt, tokenizer):
    """Best of 4 and best of 16 are compared on the same draws, and a larger n never has a lower
    score."""

    def score(prompts, replies):
        return torch.tensor([float(len(reply.text)) for reply in replies])

    groups, scores = evaluate.candidates(gpt, tokenizer, score, PROMPTS, 6, 6, seed=1)
    assert [len(group) for group in groups] == [6] * len(PROMPTS)
    assert scores.shape == (len(PROMPTS), 6)
    for n in (1, 3, 6):
        for group, chosen in zip(groups, evaluate.best(groups, scores, n), strict=True):
            assert len(chosen.text) == max(len(reply.text) for reply in group[:n])
    chosen = best_of_n(gpt, tokenizer, score, PROMPTS, 6, 6, seed=1)
    assert evaluate.best(groups, scores, 6) == chosen
