"""PPO from end to end: a whole run is recorded, and each of its numbers computed again."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from helpers import MEMORY, READING
from recorder import (
    HELD_OUT,
    digest,
    half_width,
    judged,
    loop_kl,
    loop_logprobs,
    loop_scores,
    noise,
    positions,
    prompts_of,
    recorded,
    replies_of,
    run_command,
    save_policy,
    save_reward_model,
    write_records,
)

import train_ppo
from minirlhf import ppo
from minirlhf.data import split_by_prompt
from minirlhf.reward import load_reward_model
from minirlhf.run import config
from minirlhf.run.checkpoint import load_gpt
from minirlhf.run.metrics import read_metrics
from minirlhf.tokenizer import get_tokenizer
from minirlhf.world import measures, writers

FLAGS = {  # none of them at its default
    "seed": 3,
    "threads": 2,
    "max_grad_norm": 0.37,
    "microbatch_tokens": 24,
    "keep": 0,
    "updates": 3,
    "batch_size": 10,
    "epochs": 2,
    "minibatches": 3,
    "max_new_tokens": 5,
    "temperature": 0.8,
    "lr": 0.002,
    "value_head_rate": 4.0,
    "warmup": 2,
    "clip": 0.11,
    "value_clip": 0.13,
    "vf_coef": 0.17,
    "gamma": 0.93,
    "lam": 0.89,
    "kl_coef": 0.23,
    "kl_target": 0.17,  # near the KL of the second rollout
    "kl_horizon": 50.0,
    "missing_end_score": -1.5,
    "critic": "separate",
    "held_out": 4,
    "eval_every": 2,
    "save_every": 2,
}
PROMPTS = [f"Say {word}, or not" for word in "one two three four five six seven".split()]
PROMPTS += [f"{word}?" for word in "who what when where why how which whose".split()]
STORED = -2.5  # the reward model's missing-end score


class Run:
    """A recorded run of PPO in a folder of its own."""

    def __init__(self, patch, folder, **flags):
        self.folder, self.flags = folder, flags
        self.sft = save_policy(folder / "start", seed=9)
        save_reward_model(folder / "scorer", seed=2, missing_end_score=STORED)
        self.reward_model, _, _ = load_reward_model(folder / "scorer")
        self.record = recorded(patch)
        places = {"out": folder / "out", "sft": folder / "start"}
        if "reward" not in flags:
            places["rm"] = folder / "scorer"
        run_command(train_ppo.main, places | flags)
        self.lines = read_metrics(folder / "out" / "ppo")

    def metric(self, name):
        return [line[name] for line in self.lines if name in line]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    path = write_records(folder / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    with pytest.MonkeyPatch.context() as context:
        return Run(context, folder, data=path, **FLAGS)


@pytest.fixture(scope="module")
def learned_and_held_out():
    return split_by_prompt(PROMPTS, seed=3)


# ---- what it asked


def test_each_rollout_asks_the_next_prompts_of_its_own_permutation(run, learned_and_held_out):
    """Ten at a time, of those that are not held out, in the order of the seed."""
    learned, _ = learned_and_held_out
    asked = [prompts_of(call) for call in run.record["rollout"]]
    order = positions(len(learned), 0, 30, seed=3)
    assert list(itertools.chain(*asked)) == [learned[i] for i in order]
    assert [len(prompts) for prompts in asked] == [10, 10, 10]


def test_each_rollout_has_noise_of_its_own_seed_and_update(run):
    for step, call in enumerate(run.record["rollout"]):
        assert np.array_equal(call.args[5], noise(3, config.ROLLOUTS, (10, 5), step))


def test_rollouts_are_sampled_by_the_policy_at_the_temperature(run):
    """The first policy is the SFT model, and every update changes it."""
    digests = [call.digests[0] for call in run.record["rollout"]]
    assert digests[0] == digest(run.sft)
    assert len({*digests, digest(final_policy(run))}) == 4
    assert {call.args[2:5] for call in run.record["rollout"]} == {
        (5, get_tokenizer().end_token, 0.8)
    }


def test_each_evaluation_asks_the_held_out_prompts_under_one_noise(run, learned_and_held_out):
    """The SFT model before the first update, and the policy after updates 2 and 3."""
    _, held_out = learned_and_held_out
    calls = run.record["generate"]
    expected = noise(3, config.HELD_OUT_NOISE, (len(calls[0].args[1]), 5))
    for call in calls:
        assert prompts_of(call) == held_out[:4]
        assert np.array_equal(call.args[5], expected)
        assert call.args[4] == 0.8
    policies = [run.record["rollout"][0], run.record["rollout"][2]]
    digests = [call.digests[0] for call in policies]
    assert [call.digests[0] for call in calls] == [*digests, digest(final_policy(run))]


def final_policy(run):
    return load_gpt(run.folder / "out" / "ppo")[0]


# ---- what it logged


def rollouts(run):
    """For each update: its number, the policy that sampled and the replies."""
    calls = run.record["rollout"]
    return [(step, call.args[0], replies_of(call)) for step, call in enumerate(calls)]


def test_scores_are_the_reward_models_and_the_missing_end_score_is_the_flags(run):
    """Of each response alone. --missing-end-score goes before the number that is stored."""
    for step, _, replies in rollouts(run):
        raw, scores = (loop_scores(run.reward_model, replies, x) for x in (None, -1.5))
        line = run.lines[step]
        assert line["raw_score"] == pytest.approx(raw.mean(), abs=1e-4)
        assert line["score"] == pytest.approx(scores.mean(), abs=1e-4)
        assert line["score_std"] == pytest.approx(scores.std(), abs=1e-4)
        assert line["score_min"] == pytest.approx(scores.min(), abs=1e-4)
        assert line["score_max"] == pytest.approx(scores.max(), abs=1e-4)
        assert line["ended"] == pytest.approx(np.mean([reply.ended for reply in replies]))
        assert line["length"] == pytest.approx(np.mean([reply.length for reply in replies]))
        assert line["episodes"] == 10 * (step + 1)
    ended = [reply.ended for _, _, replies in rollouts(run) for reply in replies]
    assert 5 < sum(ended) < 25, "too few or too many responses end to tell the rules apart"


def test_the_tokens_per_second_are_those_of_the_whole_update(run):
    for step, _, replies in rollouts(run):
        line = run.lines[step]
        seconds = line["rollout_s"] + line["scoring_s"] + line["update_s"]
        tokens = sum(len(reply.example.tokens) for reply in replies)
        assert line["tokens_per_s"] == pytest.approx(tokens / seconds, rel=1e-4)


def test_the_kl_is_that_of_the_policy_from_the_sft_model_on_its_own_replies(run):
    for step, policy, replies in rollouts(run):
        kl = loop_kl(policy, run.sft, replies, 0.8).mean()
        assert run.lines[step]["kl"] == pytest.approx(kl, abs=1e-4)
    assert run.lines[2]["kl"] > 0.01


def test_the_kl_coefficient_follows_the_kl_of_each_rollout(run):
    """With the KL that is penalised, ten episodes a rollout, and a horizon of 50."""
    coefs, kls, expected = run.metric("kl_coef"), run.metric("kl"), 0.23
    for coef, kl in zip(coefs, kls, strict=True):
        assert coef == pytest.approx(expected, rel=1e-5)
        expected *= 1 + min(max(kl / 0.17 - 1, -0.2), 0.2) * 10 / 50
    # The second one is not clipped, and no other KL of its rollout is as large.
    assert abs(kls[1] / 0.17 - 1) < 0.1 < abs(run.metric("kl_k3")[1] / 0.17 - 1)


def test_advantages_and_returns_are_those_of_a_loop_over_each_response(run):
    """Rewards from scores and KL at the coefficient of that moment, values of the critic, gamma .93
    and lambda .89; whitened once, over the rollout."""
    calls = run.record["logprobs_and_values"], run.record["update"]
    for (step, policy, replies), values_call, update in zip(rollouts(run), *calls, strict=True):
        critic, rollout = values_call.args[0], update.args[2]
        coef, advantages, returns = run.lines[step]["kl_coef"], [], []
        scores = loop_scores(run.reward_model, replies, -1.5)
        for reply, score in zip(replies, scores, strict=True):
            pairs = (loop_logprobs(model, reply, 0.8) for model in (policy, run.sft))
            rewards = [-coef * (p - q) for p, q in zip(*pairs, strict=True)]
            rewards[-1] += score
            values = loop_values(critic, reply)
            row = loop_gae(rewards, values, 0.93, 0.89)
            advantages += row
            returns += [a + v for a, v in zip(row, values, strict=True)]
        mask = rollout.mask
        assert rollout.raw_advantages[mask].tolist() == pytest.approx(advantages, abs=2e-4)
        assert rollout.returns[mask].tolist() == pytest.approx(returns, abs=2e-4)
        whitened = (np.array(advantages) - np.mean(advantages)) / np.std(advantages)
        assert rollout.advantages[mask].tolist() == pytest.approx(whitened.tolist(), abs=2e-3)
        assert run.lines[step]["advantage_mean"] == pytest.approx(np.mean(advantages), abs=2e-4)
        assert run.lines[step]["return_mean"] == pytest.approx(np.mean(returns), abs=2e-4)


def loop_values(actor_critic, reply):
    """The value before each response token."""
    tokens, start = reply.example
    with torch.no_grad():
        trunk = actor_critic.critic or actor_critic.gpt
        values = actor_critic.value_head(trunk.hidden(torch.tensor([tokens])))[0]
    return values[start - 1 : len(tokens) - 1].tolist()


def loop_gae(rewards, values, gamma, lam):
    advantages = []
    for t in range(len(rewards)):
        deltas = [
            rewards[k] + gamma * (values[k + 1] if k + 1 < len(values) else 0.0) - values[k]
            for k in range(t, len(rewards))
        ]
        advantages.append(sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas)))
    return advantages


def test_the_update_has_the_old_logprobs_the_minibatches_and_the_optimiser_of_its_flags(run):
    """Two passes of three minibatches, of at most 24 tokens a pass, in an order of its own for
    every seed and update."""
    calls = zip(rollouts(run), run.record["update"], run.record["plan"], strict=True)
    for (step, policy, replies), update, plan in calls:
        old = [x for reply in replies for x in loop_logprobs(policy, reply, 0.8)]
        rollout = update.args[2]
        assert rollout.logprobs[rollout.mask].tolist() == pytest.approx(old, abs=2e-4)
        lengths = [len(reply.example.tokens) for reply in replies]
        expected = ppo.plan(lengths, 2, 3, 24, config.rng(3, config.MINIBATCHES, step))
        assert plan.result == update.args[3] == expected
        assert [len(minibatches) for minibatches in expected] == [3, 3]
        assert max(map(len, itertools.chain(*expected))) > 1  # 24 tokens are fewer than a minibatch
        assert update.kwargs == {
            "temperature": 0.8,
            "clip": 0.11,
            "value_clip": 0.13,
            "vf_coef": 0.17,
            "max_grad_norm": 0.37,
            "auxiliary_loss": None,
        }
    assert [call.args[1] for call in run.record["clip_grad_norm_"]] == [0.37] * 18


def test_the_learning_rates_and_the_optimiser_are_those_of_the_flags(run):
    """Two updates of warm-up; a straight line to a third at the last of three. The head's is four
    times that."""
    rates = [0.002 * 0.5, 0.002 * 2 / 3, 0.002 / 3]
    assert run.metric("lr") == pytest.approx(rates, rel=1e-5)
    assert [call.args[1] for call in run.record["set_learning_rate"]] == pytest.approx(rates)
    (adamw,) = run.record["adamw"]
    assert adamw.kwargs["head_scale"] == 4 and adamw.kwargs["eps"] == 1e-5
    assert adamw.kwargs["betas"] == (0.9, 0.999)


def test_the_critic_is_a_trunk_of_its_own_that_starts_as_the_reward_model(run):
    actor_critic = run.record["logprobs_and_values"][0].args[0]
    assert digest(actor_critic.critic) == digest(run.reward_model.gpt)


def test_it_saves_after_two_updates_and_at_the_end_without_the_one_before(run):
    saves = [call for call in run.record["save"] if call.args[1] == "ppo"]
    assert [call.args[4] for call in saves] == [2, 3]
    assert not (run.folder / "out" / "ppo" / "checkpoint.previous.pt").exists()


def test_it_computes_where_and_with_what_it_is_told(run):
    assert [call.args for call in run.record["set_num_threads"]][0] == (2,)
    assert [call.args[0] for call in run.record["load_gpt"]] == [str(run.folder / "start")]


def test_the_run_knows_its_prompts_its_models_and_its_missing_end_score(run, learned_and_held_out):
    """So that it is not resumed with others."""
    inputs = json.loads((run.folder / "out" / "ppo" / "config.json").read_text())["inputs"]
    learned, held_out = learned_and_held_out
    assert inputs["data"].startswith(f"{len(learned) + len(held_out[:4])} records")
    assert inputs["missing_end_score"] == "-1.5" and {"sft", "rm"} <= set(inputs)


# ---- what it reports


def test_an_evaluation_is_of_the_policy_on_the_held_out_prompts(run, learned_and_held_out):
    """Score, KL, length and share of finished responses, computed again from the checkpoint; and
    the table in samples.txt has each response beside its prompt."""
    policy, (before, *_, call) = final_policy(run), run.record["generate"]
    replies, line = replies_of(call), run.lines[-1]
    scores = loop_scores(run.reward_model, replies, -1.5)
    kls = loop_kl(policy, run.sft, replies, 0.8)
    assert line["eval_score"] == pytest.approx(scores.mean(), abs=1e-4)
    assert line["eval_kl"] == pytest.approx(kls.mean(), abs=1e-4)
    assert line["eval_length"] == pytest.approx(np.mean([reply.length for reply in replies]))
    assert line["eval_ended"] == pytest.approx(np.mean([reply.ended for reply in replies]))
    assert [line["step"] for line in run.lines if "eval_score" in line] == [1, 2]
    text = (run.folder / "out" / "ppo" / "samples.txt").read_text()
    assert text.index("after 2 updates") < text.index("after 3 updates")
    table = text[text.index("after 3 updates") :].splitlines()[3:]
    rows = zip(prompts_of(call), replies_of(before), replies, scores, kls, table, strict=False)
    for prompt, sft, reply, score, kl, row in rows:
        assert row.startswith(prompt)
        shown = [" ".join(x.text.split()) for x in (sft, reply)]
        shown = ["".join(c if c.isprintable() else "\ufffd" for c in text) for text in shown]
        position = -1
        for part in [*shown, f"{score:.2f}", f"{kl:.2f}"]:
            position = row.index(part, position + 1)


def test_the_record_of_an_evaluation_has_each_prompts_own_score_and_kl(run):
    path = run.folder / "out" / "ppo" / "evaluations.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    replies = replies_of(run.record["generate"][-1])
    kls = loop_kl(final_policy(run), run.sft, replies, 0.8)
    assert lines[-1]["kls"] == pytest.approx(kls.tolist(), abs=1e-4)
    scores = loop_scores(run.reward_model, replies, -1.5)
    assert lines[-1]["scores"] == pytest.approx(scores.tolist(), abs=1e-4)
    assert sorted(kls) != list(kls) and len(set(scores)) > 1


def test_the_console_shows_the_sft_model_and_then_each_evaluation(tmp_path, capsys):
    """update, score, kl, length, ended: in this order."""
    flags = FLAGS | {"updates": 1, "threads": 1}
    path = write_records(tmp_path / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    with pytest.MonkeyPatch.context() as context:
        run = Run(context, tmp_path, data=path, **flags)
    text = capsys.readouterr().out
    header = next(line for line in text.splitlines() if "ended" in line and "update" in line)
    assert header.split() == "update score kl length ended".split()
    rows = [line.split() for line in text.splitlines() if line.split()[:1] in (["0"], ["1"])]
    policies, calls = (run.sft, final_policy(run)), run.record["generate"]
    for row, policy, call in zip(rows, policies, calls, strict=True):
        replies = replies_of(call)
        numbers = [
            loop_scores(run.reward_model, replies, -1.5).mean(),
            loop_kl(policy, run.sft, replies, 0.8).mean(),
            np.mean([reply.length for reply in replies]),
            np.mean([reply.ended for reply in replies]),
        ]
        assert list(map(float, row[1:])) == pytest.approx(numbers, abs=1.1e-3)
    command = text[text.index("minirlhf evaluate") :]
    assert f"--policy {tmp_path}/out/ppo --baseline {tmp_path}/start" in command


# ---- on the world, with a reward function


CALLS = []


def recorded_reward(prompts, responses):
    """A reward for --reward: the number of letters of prompt and response."""
    CALLS.append((list(prompts), list(responses)))
    return [len(r) - len(p) / 10 for p, r in zip(prompts, responses, strict=True)]


@pytest.fixture(scope="module")
def world_run(tmp_path_factory):
    CALLS.clear()
    flags = {"reward": f"{__name__}:recorded_reward", "missing_end_score": -7.0, "seed": 3}
    flags |= {
        "prompts": 9,
        "held_out": 40,
        "lr": 0.05,
        "warmup": 0,
        "updates": 2,
        "batch_size": 9,
        "max_new_tokens": 5,
    }
    flags |= {"eval_every": 1, "precision": "bf16", "minibatches": 3, "temperature": 0.3}
    with pytest.MonkeyPatch.context() as context:
        return Run(context, tmp_path_factory.mktemp("whole"), **flags)


def test_the_worlds_prompts_are_drawn_by_the_seed_and_held_out_ones_come_from_their_split(
    world_run,
):
    calls = world_run.record["prompts"][:2]
    drawn = [(call.args[0], *call.args[2:], *call.kwargs.values()) for call in calls]
    assert drawn == [(9,), (40, HELD_OUT)]
    expected = writers.prompts(9, config.rng(3, config.PPO_PROMPTS))
    held_out = writers.prompts(40, config.rng(3, config.HELD_OUT_PROMPTS), HELD_OUT)
    asked = sorted(prompts_of(world_run.record["rollout"][0]))
    assert asked == sorted(expected)
    for call in world_run.record["generate"]:
        assert prompts_of(call) == held_out


def test_your_function_gets_each_response_with_its_own_prompt(world_run):
    """In rollouts and in evaluations."""
    calls = [world_run.record["generate"][0]]
    for step in range(2):
        calls += [world_run.record["rollout"][step], world_run.record["generate"][1 + step]]
    assert len(CALLS) == len(calls)
    for (prompts, responses), call in zip(CALLS, calls, strict=True):
        assert prompts == prompts_of(call)
        assert responses == [reply.text for reply in replies_of(call)]


def test_a_function_needs_a_missing_end_score_which_it_gets(world_run):
    for step, call in enumerate(world_run.record["rollout"]):
        pairs = zip(prompts_of(call), replies_of(call), strict=True)
        scores = [len(r.text) - len(p) / 10 if r.ended else -7.0 for p, r in pairs]
        assert world_run.lines[step]["score"] == pytest.approx(np.mean(scores), rel=1e-5)


def test_the_judges_numbers_are_those_of_the_policys_replies(world_run):
    """Its axes, and how often it beats the SFT model under the same noise, ties counting half."""
    before, *calls = world_run.record["generate"]
    path = world_run.folder / "out" / "ppo" / "evaluations.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for line, call, row in zip(world_run.lines, calls, rows, strict=True):
        judgements = judged(prompts_of(call), replies_of(call))
        totals = np.array([j.total for j in judgements])
        sft = np.array([j.total for j in judged(prompts_of(before), replies_of(before))])
        assert line["eval_total"] == pytest.approx(totals.mean())
        assert line["sft_total"] == pytest.approx(sft.mean())
        assert (row["totals"], row["sft_totals"]) == (totals.tolist(), sft.tolist())
        verdicts = [j.verdict for j in judgements]
        malformed = np.mean([verdict == "malformed" for verdict in verdicts])
        assert line["eval_parsed"] == pytest.approx(1 - malformed)
        answerable = [measures.group(p) in measures.ANSWERABLE for p in prompts_of(call)]
        declined = [v == "declined" for v, a in zip(verdicts, answerable, strict=True) if a]
        assert line["eval_declined"] == pytest.approx(np.mean(declined)) != malformed
        assert line["eval_distinct"] == len({reply.text for reply in replies_of(call)})
        assert line["eval_distinct"] != line["sft_distinct"], "no fewer responses than SFT's"
        clusters = [measures.cluster(prompt) for prompt in prompts_of(call)]
        assert line["eval_total_half"] == pytest.approx(half_width(totals, clusters), rel=1e-4)
        assert len(set(clusters)) < len(clusters), "no two prompts are about one thing"
        pairs = zip(prompts_of(call), replies_of(call), strict=True)
        scores = [len(r.text) - len(p) / 10 if r.ended else -7.0 for p, r in pairs]
        assert line["eval_score_half"] == pytest.approx(half_width(scores, clusters), rel=1e-4)
        assert totals.tolist() != sft.tolist(), "the policy still says what the SFT model says"
        assert line["eval_helpful"] == pytest.approx(np.mean([j.helpful for j in judgements]))
        assert line["eval_win_rate"] == pytest.approx(
            np.mean((totals > sft) + 0.5 * (totals == sft))
        )


def test_the_samples_are_those_of_the_first_five_prompts(world_run):
    """Of forty; each with the response of the SFT model and of the policy."""
    before, after, _ = world_run.record["generate"]
    text = (world_run.folder / "out" / "ppo" / "samples.txt").read_text()
    table = text[text.index("after 1 updates") : text.index("after 2 updates")].splitlines()[3:]
    rows = ["".join(row.split()) for row in table if row]
    sides = zip(prompts_of(before), replies_of(before), replies_of(after), strict=True)
    expected = ["".join(f"{p}{a.text}{b.text}".split()) for p, a, b in sides][:5]
    expected = ["".join(c if c.isprintable() else "\ufffd" for c in row) for row in expected]
    assert len(rows) == 5
    assert all(row.startswith(start) for row, start in zip(rows, expected, strict=True))


def test_what_is_shared_out_is_the_score_after_the_missing_end_rule(tmp_path, monkeypatch):
    shared = []

    def credit(scores, samples, mask):
        shared.append((scores, samples.ended))
        return torch.zeros(mask.shape)

    monkeypatch.setattr(train_ppo.credit, "function", lambda args, reward_models: credit)
    path = write_records(tmp_path / "p.jsonl", [{"prompt": p} for p in PROMPTS])
    flags = {"updates": 1, "batch_size": 12, "warmup": 0, "max_new_tokens": 5}
    Run(monkeypatch, tmp_path, data=path, **flags)
    ((scores, ended),) = shared
    assert 0 < ended.sum() < 12, "all responses ended, or none"
    assert (scores[~ended] == STORED).all() and (scores[ended] != STORED).all()


def test_the_score_of_several_reward_models_is_normalised_on_prompts_that_are_learned_from(
    tmp_path,
):
    path = write_records(tmp_path / "p.jsonl", [{"prompt": p} for p in PROMPTS])
    save_policy(tmp_path / "start", seed=9)
    for name, seed in (("a", 2), ("b", 4)):
        save_reward_model(tmp_path / name, seed, missing_end_score=STORED)
    flags = {"out": tmp_path / "out", "sft": tmp_path / "start", "data": path}
    flags |= {"rm": f"{tmp_path}/a,{tmp_path}/b", "max_new_tokens": 5}
    with pytest.MonkeyPatch.context() as context:
        record = recorded(context)
        run_command(train_ppo.main, flags | {"updates": 1, "batch_size": 12, "warmup": 0})
    learned, held_out = split_by_prompt(PROMPTS, seed=1)
    normalised, *evaluations = record["generate"]
    assert set(prompts_of(normalised)) == set(learned)
    assert [prompts_of(call) for call in evaluations] == [held_out] * 2


def test_a_prompt_that_the_reward_model_cannot_read_to_its_end_is_left_out(tmp_path):
    """The context of the reward model may be smaller than that of the policy: 24 and 64."""
    long = [f"{'no ' * 30}{i}" for i in range(4)]
    path = write_records(tmp_path / "p.jsonl", [{"prompt": p} for p in [*long, *PROMPTS]])
    save_policy(tmp_path / "start", seed=9)
    save_reward_model(tmp_path / "scorer", seed=2, missing_end_score=STORED, context=24)
    flags = {"out": tmp_path / "out", "sft": tmp_path / "start", "rm": tmp_path / "scorer"}
    flags |= {"data": path, "updates": 1, "batch_size": 12, "warmup": 0, "max_new_tokens": 5}
    with pytest.MonkeyPatch.context() as context:
        record = recorded(context)
        run_command(train_ppo.main, flags | {"drop_long": True})
    asked = [p for name in ("rollout", "generate") for c in record[name] for p in prompts_of(c)]
    assert set(asked) == set(PROMPTS)


def test_precision_reaches_both_models(world_run):
    assert world_run.record["load_gpt"][0].kwargs["precision"] == torch.bfloat16


def test_every_flag_is_looked_at_somewhere_in_the_tests_of_whole_runs():
    """Those that do not occur here have tests of what they do in test_resume.py, test_chain.py,
    test_train_ppo.py, test_train_ptx.py and test_cuda.py."""
    elsewhere = READING | MEMORY | {"resume", "overwrite", "mix_data", "device"}
    elsewhere |= {"combine", "par", "credit", "credit_share"}  # test_robust_rewards.py
    elsewhere |= {"track", "microscope", "algorithm", "group", "ptx_coef", "ptx_batch", "text"}
    named = {*FLAGS, "out", "sft", "rm", "data", "reward", "prompts", "precision", *elsewhere}
    fields = {field.name: field.default for field in dataclasses.fields(train_ppo.Config)}
    assert named == set(fields)
    assert all(fields[name] != value for name, value in FLAGS.items())
