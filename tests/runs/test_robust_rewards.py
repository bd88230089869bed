"""train_ppo.py on several reward models, on a bounded reward, and with the score shared out among
the tokens, on a policy that names colours."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import colour_prompt
from helpers import logged, same, saved
from spec.tensors import normal

import train_ppo
import train_rm
from minirlhf import evaluate, ppo, reward
from minirlhf.data import Example
from minirlhf.generate import Samples
from minirlhf.reward import load_reward_model
from minirlhf.rewards import credit, ensemble
from minirlhf.run import config
from minirlhf.run.checkpoint import load_gpt
from minirlhf.run.config import rng
from minirlhf.run.metrics import read_metrics

SMALL = "--updates 3 --batch-size 8 --max-new-tokens 6 --held-out 4 --eval-every 3".split()
SMALL += "--minibatches 2 --warmup 0 --lr 0.003".split()
TRAINING = "--updates 24 --batch-size 48 --minibatches 2 --max-new-tokens 6 --held-out 4".split()
TRAINING += "--lr 0.001 --warmup 0 --eval-every 24 --value-head-rate 1".split()


@pytest.fixture
def prompts(colours):
    return ["--data", str(colours / "prompts.jsonl")]


@pytest.fixture(scope="session")
def members(colour_run, colours, tmp_path_factory):
    """Three reward models on the same comparisons: their heads and the order of the data differ."""
    folder = tmp_path_factory.mktemp("members")
    paths = [str(colour_run / "rm")]
    for seed in ("7", "8"):
        argv = ["--out", str(folder / seed), "--sft", str(colour_run / "sft"), "--seed", seed]
        argv += ["--data", str(colours / "comparisons.jsonl"), "--batch-size", "4"]
        train_rm.main([*argv, "--warmup", "2", "--max-new-tokens", "6", "--norm-prompts", "8"])
        paths.append(str(folder / seed / "rm"))
    return paths


def run(out, *argv):
    train_ppo.main(["--out", str(out), *argv])


def several(members):
    return ["--rm", ",".join(members)]


def replies_of(prompts, texts, tokenizer, ended=True):
    examples = [reward.encode(tokenizer, *pair) for pair in zip(prompts, texts, strict=True)]
    return [evaluate.Reply(text, x, ended) for text, x in zip(texts, examples, strict=True)]


# ---- several reward models


def test_a_policy_learns_what_several_reward_models_prefer(out, prompts, members):
    """The members prefer b, and the policy names it in most of its responses at the end."""
    run(out, *prompts, *TRAINING, *several(members), "--combine", "worst")
    texts = colours_of(out)
    assert texts.count("b") > 0.8 * len(texts)
    scores = logged(out / "ppo", "score")
    assert np.mean(scores[-3:]) > np.mean(scores[:3]) + 0.5


def colours_of(out):
    """The texts of the policy's replies to 48 prompts."""
    gpt, tokenizer = load_gpt(out / "ppo")
    prompts = [colour_prompt(i) for i in range(48)]
    replies = evaluate.respond(gpt, tokenizer, prompts, evaluate.noise(5, 48, 6))
    return [reply.text for reply in replies]


@pytest.fixture
def scored(out, prompts, members, monkeypatch):
    """scored(*flags) -> (the score that the run learns from, its flags, SFT model, tokenizer,
    prompts), of a run of one update."""
    score, robust = [], ensemble.robust

    def spy(args, plain, models, sft, tokenizer, prompts):
        score[:] = [robust(args, plain, models, sft, tokenizer, prompts), args, sft, tokenizer]
        score.append(prompts)
        return score[0]

    monkeypatch.setattr(ensemble, "robust", spy)

    def make(*flags):
        run(out, *prompts, *SMALL, "--updates", "1", "--overwrite", *flags)
        return score

    return make


PROMPTS = [colour_prompt(i) for i in range(6)]
TEXTS = ["b", "r", "g", "b", "g", "r"]


def test_an_evaluation_scores_by_what_the_run_learns_from(scored, members, monkeypatch):
    """And not by the first of its reward models."""
    monitors, make = [], train_ppo.Monitor

    def spy(*args):
        monitors.append(make(*args))
        return monitors[-1]

    monkeypatch.setattr(train_ppo, "Monitor", spy)
    score, _, _, tokenizer, _ = scored(*several(members), "--combine", "worst")
    replies = replies_of(PROMPTS, TEXTS, tokenizer)
    measured = monitors[0].score(PROMPTS, replies)
    first = reward.score(load_reward_model(members[0])[0], tokenizer, PROMPTS, TEXTS)
    torch.testing.assert_close(measured, score(PROMPTS, replies))
    assert (measured - first).abs().max() > 0.1


@pytest.mark.parametrize("how", ensemble.COMBINATIONS)
def test_the_score_is_the_members_scores_combined_and_normalised_once_more(scored, members, how):
    """Each member has one zero and unit already; the combination has others."""
    score, _, _, tokenizer, _ = scored(*several(members), "--combine", how)
    replies = replies_of(PROMPTS, TEXTS, tokenizer)
    parts = [
        reward.score(load_reward_model(path)[0], tokenizer, PROMPTS, TEXTS) for path in members
    ]
    parts = torch.stack(parts)
    std = parts.std(0, correction=0)
    combined = {"mean": parts.mean(0), "worst": parts.amin(0), "mean-std": parts.mean(0) - std}[how]
    torch.testing.assert_close(score(PROMPTS, replies), (combined - score.mean) / score.std)
    assert score.disagreement == pytest.approx(float(std.mean()), rel=1e-5)


@pytest.mark.parametrize("flags", [["--combine", "worst"], ["--par", "3"]])
def test_on_the_sft_models_responses_it_has_mean_zero_and_spread_one(scored, members, flags):
    """So kl_coef and the missing-end score mean what they do with one reward model. These are the
    samples that it is normalised on: four to each prompt of the training."""
    score, args, *_, prompts = scored(*several(members), *flags)
    assert len(prompts) > 30
    noise = rng(args.seed, config.NORM_RESPONSES).random((4 * len(prompts), 6), dtype="float32")
    scores = score(*score.respond(prompts, 4, noise)).view(-1, 4)
    torch.testing.assert_close(scores.mean(), torch.tensor(0.0), rtol=0, atol=1e-4)
    torch.testing.assert_close(scores.var(1).mean(), torch.tensor(1.0), rtol=1e-4, atol=0)


def test_par_compares_with_sft_responses_to_the_same_prompt_in_log_odds(scored, out):
    """The reward before it is normalised is the mean probability of being preferred to M of them by
    raw scores."""
    score, args, sft, tokenizer, _ = scored("--par", "3")
    model, _, _ = load_reward_model(out / "rm")
    replies = replies_of(PROMPTS, TEXTS, tokenizer)
    noise = torch.cat([ensemble.uniforms(args.seed, prompt, 3, 6) for prompt in PROMPTS]).numpy()
    repeated = [prompt for prompt in PROMPTS for _ in range(3)]
    sft_replies = evaluate.respond(sft, tokenizer, repeated, noise)
    assert all(reply.ended for reply in sft_replies)
    sft_texts = [reply.text for reply in sft_replies]
    raw = reward.score(model, tokenizer, PROMPTS, TEXTS, raw=True)
    sft_raw = reward.score(model, tokenizer, repeated, sft_texts, raw=True).view(-1, 3)
    expected = torch.sigmoid(raw[:, None] - sft_raw).mean(1)
    torch.testing.assert_close(
        score(PROMPTS, replies) * score.std + score.mean, expected, rtol=1e-4, atol=1e-5
    )
    assert (expected.max() - expected.min()) > 0.3


def test_a_score_of_par_does_not_depend_on_when_and_beside_what_it_is_asked_for(scored):
    """Its noise is a function of seed and prompt: a resumed run has the same rewards."""
    score, args, sft, tokenizer, _ = scored("--par", "2")
    replies = replies_of(PROMPTS, TEXTS, tokenizer)
    scores = score(PROMPTS, replies)
    score.sft_scores.clear()
    alone = [score([prompt], [reply]) for prompt, reply in zip(PROMPTS, replies, strict=True)]
    torch.testing.assert_close(torch.cat(alone), scores, rtol=1e-4, atol=1e-5)
    other = ensemble.uniforms(args.seed + 1, PROMPTS[0], 2, 6)
    assert not torch.equal(ensemble.uniforms(args.seed, PROMPTS[0], 2, 6), other)


def test_an_sft_response_that_was_cut_off_is_compared_as_if_it_had_ended(scored):
    """Its last token gives way to the end token: nothing is read in the middle of a sentence, and
    no row becomes longer than the context."""
    reply = evaluate.Reply("ab", Example([5, 6, 7, 8], 2), False)
    assert ensemble.finish(reply, 99).example == Example([5, 6, 7, 99], 2)
    reply = reply._replace(ended=True)
    assert ensemble.finish(reply, 99) is reply


def test_disagreement_is_logged_where_there_are_several_reward_models(out, prompts, members):
    run(out, *prompts, *SMALL, *several(members))
    assert min(logged(out / "ppo", "disagreement")) > 0
    assert len(logged(out / "ppo", "disagreement")) == 3
    run(out, *prompts, *SMALL, "--overwrite")
    assert not logged(out / "ppo", "disagreement")


def test_a_temperature_of_a_member_changes_no_score(colour_run):
    """Dividing raw scores is undone by the normalisation: only a reward that uses raw scores, as
    PAR does, could notice."""
    model, tokenizer, _ = load_reward_model(colour_run / "rm")
    texts = TEXTS * 2
    raw = reward.score(model, tokenizer, PROMPTS * 2, texts, raw=True).view(-1, 3)
    model.normalise(raw)
    scores = reward.score(model, tokenizer, PROMPTS, TEXTS)
    for parameter in model.head.parameters():
        parameter.data /= 2.5
    model.normalise(raw / 2.5)
    torch.testing.assert_close(reward.score(model, tokenizer, PROMPTS, TEXTS), scores)


# ---- credit


@pytest.mark.parametrize("kind", credit.KINDS[1:])
def test_with_any_credit_the_policy_learns_what_the_reward_model_prefers(out, prompts, kind):
    run(out, *prompts, *TRAINING, "--credit", kind)
    scores = logged(out / "ppo", "score")
    assert np.mean(scores[-3:]) > np.mean(scores[:3]) + 0.5


def rollout_of(monkeypatch, out, prompts, *flags):
    """The first rollout of a run, and the rewards without credit."""
    rollouts, update, token_rewards = [], ppo.update, ppo.token_rewards

    def spy(actor_critic, optimizer, rollout, plan, **settings):
        rollouts.append(rollout)
        return update(actor_critic, optimizer, rollout, plan, **settings)

    def plain(*args):
        rollouts.append(token_rewards(*args).clone())
        return token_rewards(*args)

    monkeypatch.setattr(ppo, "update", spy)
    monkeypatch.setattr(ppo, "token_rewards", plain)
    run(out, *prompts, *SMALL, "--updates", "1", "--overwrite", *flags)
    return rollouts[1], rollouts[0]


@pytest.mark.parametrize("kind", credit.KINDS[1:])
def test_credit_reaches_the_rewards_of_the_loop_and_keeps_their_sum(
    out, prompts, monkeypatch, kind
):
    rollout, plain = rollout_of(monkeypatch, out, prompts, "--credit", kind)
    torch.testing.assert_close(rollout.rewards.sum(1), plain.sum(1), rtol=0, atol=1e-5)
    assert not torch.allclose(rollout.rewards, plain)
    assert not rollout.rewards[~rollout.mask].any()


def test_without_credit_the_rewards_are_those_of_ppo(out, prompts, monkeypatch):
    rollout, plain = rollout_of(monkeypatch, out, prompts)
    torch.testing.assert_close(rollout.rewards, plain, rtol=0, atol=0)


def small_batch():
    """Rows of different lengths, junk behind each; the last one was cut off."""
    tokens = torch.randint(50, (4, 12), generator=torch.Generator().manual_seed(0))
    starts, lengths = torch.tensor([1, 3, 2, 5]), torch.tensor([6, 12, 4, 9])
    samples = Samples(tokens, starts, lengths, torch.tensor([True, True, True, False]))
    return samples, samples.mask


@pytest.fixture
def reward_model(make_gpt):
    model = reward.RewardModel(make_gpt()).requires_grad_(False)
    model.normalise(normal(3, 4) * 3 + 2)
    return model


def test_attention_is_that_of_the_last_layer_from_the_last_token(reward_model):
    """By the definition: every layer in full, the softmax of every head, their mean. Junk behind a
    row, and the batch that it stands in, change nothing."""
    samples, _ = small_batch()
    gpt = reward_model.gpt
    weights = credit.last_attention(gpt, samples.tokens, samples.lengths)
    for row, length, found in zip(samples.tokens, samples.lengths, weights, strict=True):
        x = gpt.token_embedding(row[None, :length]) + gpt.position_embedding.weight[:length]
        x = gpt.blocks[0](x)
        block = gpt.blocks[1]
        q, k, _ = block.attention.qkv(block.norm1(x))[0].split(16, dim=1)
        heads = [
            torch.softmax(q[-1, part] @ k[:, part].T / 8**0.5, 0)
            for part in (slice(0, 8), slice(8, 16))
        ]
        expected = torch.cat([sum(heads) / 2, torch.zeros(12 - length)])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_credit_by_attention_goes_to_the_response_and_to_the_token_attended_to(reward_model):
    """Column t is about token t + 1. A response that was cut off has a fixed score, which stays at
    its end."""
    samples, mask = small_batch()
    scores = torch.tensor([2.0, -1.0, 0.5, -3.0])
    added = credit.attention(reward_model, 0.8, scores, samples, mask)
    weights = credit.last_attention(reward_model.gpt, samples.tokens, samples.lengths)
    for row in range(3):
        start, stop = int(samples.prompt_lengths[row]), int(samples.lengths[row])
        share = weights[row, start:stop] / weights[row, start:stop].sum()
        expected = 0.8 * scores[row] * share
        expected[-1] -= 0.8 * scores[row]
        torch.testing.assert_close(added[row, start - 1 : stop - 1], expected)
    assert not added[3].any() and not added[~mask].any()


def test_credit_by_prefixes_is_the_change_of_the_normalised_score(reward_model):
    """The score of each prefix, read alone; before the first token and behind the last it is 0."""
    samples, mask = small_batch()
    added = credit.prefix(reward_model, 0.5, torch.zeros(4), samples, mask)
    for row in range(4):
        start, stop = int(samples.prompt_lengths[row]), int(samples.lengths[row])
        ids = samples.tokens[row]
        prefixes = [
            float(reward_model(ids[None, :n], torch.tensor([n]))) for n in range(start + 1, stop)
        ]
        potentials = torch.tensor([0.0, *prefixes, 0.0])
        expected = 0.5 * potentials.diff()
        torch.testing.assert_close(added[row, start - 1 : stop - 1], expected, rtol=1e-4, atol=1e-5)
    assert not added[~mask].any()


def test_uniform_credit_leaves_the_score_of_a_cut_off_response_at_its_end(reward_model):
    samples, mask = small_batch()
    scores = torch.tensor([2.0, -1.0, 0.5, -3.0])
    added = credit.uniform(None, 1.0, scores, samples, mask)
    torch.testing.assert_close(added[0, :5], torch.tensor([0.4, 0.4, 0.4, 0.4, -1.6]))
    assert not added[3].any()


def test_no_two_of_the_rewards_train_the_same_policy(out, prompts, members):
    """A flag that is read nowhere would give two of them."""
    flags = [[], ["--credit-share", "0.9", "--credit", "uniform"], ["--par", "2"], ["--par", "3"]]
    flags += [["--credit", kind] for kind in credit.KINDS[1:]]
    flags += [[*several(members), "--combine", how] for how in ensemble.COMBINATIONS]
    states = []
    for words in flags:
        run(out, *prompts, *SMALL, "--overwrite", *words)
        states.append(saved(out / "ppo")["model"])
    assert not any(same(a, b) for a, b in itertools.combinations(states, 2))


@pytest.mark.parametrize("flags", ["--combine worst --par 2", "--credit prefix"])
def test_such_a_run_resumes_to_the_bit(out, prompts, members, ctrl_c, flags):
    words = [*prompts, *SMALL, *flags.split()]
    words += several(members) if "combine" in flags else []
    run(out, *words)
    state, metrics = saved(out / "ppo"), logged(out / "ppo")
    ctrl_c("ppo", 1)
    with pytest.raises(KeyboardInterrupt):
        run(out, *words, "--overwrite")
    ctrl_c(None)
    run(out, "--resume")
    assert same(saved(out / "ppo"), state) and logged(out / "ppo") == metrics


def test_a_resumed_run_has_the_same_members(out, prompts, members, refused):
    """Its score would be another one."""
    run(out, *prompts, *SMALL, "--updates", "1", *several(members))
    argv = ["--out", str(out), "--resume", "--updates", "2", *several(members[:2])]
    assert "the reward model changed" in refused(train_ppo.main, argv, out)


# ---- mistakes


def test_members_with_different_vocabularies_are_one_line(
    out, prompts, members, refused, monkeypatch
):
    """It names the member."""
    load = reward.load_reward_model
    other = SimpleNamespace(name="bytes", fingerprint=lambda: "another")

    def load_another(path, *args):
        model, tokenizer, score = load(path, *args)
        return model, other if path == members[1] else tokenizer, score

    monkeypatch.setattr(reward, "load_reward_model", load_another)
    argv = ["--out", str(out), *prompts, *SMALL, *several(members)]
    message = refused(train_ppo.main, argv, out)
    assert f"the reward model {members[1]} uses bytes; they must be the same" in message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--combine worst", "--combine worst needs several reward models: --rm A,B,C"),
        ("--rm ,", "--rm , names no reward model"),
        ("--rm A,B,./A", "--rm A,B,./A names a reward model twice"),
        ("--rm A,B --critic separate", "--critic separate starts as the reward model, and --rm"),
        ("--rm A,B --credit attention", "--credit attention reads one reward model, and this run "),
        ("--par -1", "--par must be at least 0"),
        ("--par 2 --reward my:reward", "--par 2 is about a reward model's score; --reward has"),
        ("--credit prefix --reward my:reward", "reads one reward model, and this run has 0"),
        ("--credit uniform --gamma 0.9", "--credit uniform moves rewards in time, and --gamma 0.9"),
        ("--credit-share 0.9", "--credit-share 0.9 is about tokens before the last; give --credit"),
        ("--credit uniform --credit-share 1.1", "--credit-share must be at most 1"),
        ("--credit last", "--credit"),
        ("--combine median", "--combine"),
        ("--credit uniform --algorithm rloo", "--credit is about PPO's critic"),
        ("--rm nowhere,nothing", "nowhere"),
    ],
)
def test_flags_without_a_meaning_are_refused(refused, out, prompts, flags, message):
    argv = ["--out", str(out), *prompts, *SMALL, *flags.split()]
    assert message in refused(train_ppo.main, argv, out)


def test_a_reward_model_is_one_by_its_folder_and_by_its_file(refused, out, prompts):
    """A combination of it with itself is the model, whatever the flag says."""
    paths = f"{out}/rm,{out}/rm/checkpoint.pt"
    argv = ["--out", str(out), *prompts, *SMALL, "--rm", paths, "--combine", "worst"]
    assert f"--rm {paths} names a reward model twice" in refused(train_ppo.main, argv, out)


def test_a_finished_run_names_a_command_that_evaluates_it(out, prompts, members, capsys):
    """With the first of several reward models: an evaluation has one score."""
    run(out, *prompts, *SMALL, *several(members))
    assert f"--reward-model {members[0]}" in capsys.readouterr().out.splitlines()[-1]
    assert read_metrics(out / "ppo")[-1]["step"] == 2
