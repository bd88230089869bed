"""The specification of train_ppo.py and of `minirlhf evaluate`: PPO from end to end on a policy
that names colours."""

import itertools
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import colour_prompt
from helpers import contents, generators, logged, same, saved

import train_ppo
import train_rm
from minirlhf import data, evaluate, reward
from minirlhf import ppo as ppo_module
from minirlhf.formats import jsonl
from minirlhf.reward import load_reward_model
from minirlhf.rewards import function
from minirlhf.run import checkpoint, compute, config, optim
from minirlhf.run.checkpoint import load_gpt
from minirlhf.run.config import InputError
from minirlhf.run.metrics import read_metrics
from minirlhf.tokenizer import get_tokenizer
from minirlhf.tools import evaluate as evaluate_command
from minirlhf.world import measures, writers

SMALL = "--updates 6 --batch-size 6 --max-new-tokens 6 --held-out 4 --eval-every 3".split()
SMALL += "--epochs 2 --minibatches 4 --warmup 2".split()
ADAPTIVE = "--critic separate --kl-target 1.1 --kl-horizon 20 --lr 0.003 --lam 0.95".split()
ADAPTIVE += "--value-head-rate 1".split()


@pytest.fixture
def prompts(colours):
    return ["--data", str(colours / "prompts.jsonl")]


def ppo(out, *argv):
    train_ppo.main(["--out", str(out), *argv])


def stages(run):
    """The flags that name the SFT model and the reward model of a run."""
    return ["--sft", str(run / "sft"), "--rm", str(run / "rm")]


BLUE = "def reward(prompts, responses):\n    return [float(r == 'b') for r in responses]\n"


# ---- it works


# Seeds 1 to 30 all pass the two tests below: none ends under .97 of 1, or under 1.2 of 1.34. With 2
# epochs and 4 minibatches at .003, 3 seeds in 10 ended in a collapse, after which no response ends.
TRAINING = "--updates 24 --batch-size 48 --epochs 1 --minibatches 2 --max-new-tokens 6".split()
TRAINING += "--lr 0.001 --warmup 0 --lam 0.95 --held-out 4 --eval-every 24".split()
TRAINING += ["--value-head-rate", "1"]


def test_it_raises_the_score_of_your_own_function(out, prompts, my_rewards):
    """The policy names three colours equally often, and the function rewards one. No reward model
    is needed."""
    (out / "rm" / "checkpoint.pt").unlink()
    ppo(out, *prompts, *TRAINING, "--missing-end-score", "-1", "--reward", my_rewards(BLUE))
    scores = logged(out / "ppo", "score")
    assert scores[0] < 0.6
    assert np.mean(scores[-2:]) > 0.9


def test_it_raises_the_score_of_the_reward_model_and_a_large_kl_coef_keeps_it_home(out, prompts):
    """The policy moves away from the reference for a higher score. With a large kl_coef it stays
    near the reference."""
    ppo(out, *prompts, *TRAINING)
    scores, kl = logged(out / "ppo", "score"), logged(out / "ppo", "kl")[-1]
    assert np.mean(scores[:2]) < 0.6
    assert np.mean(scores[-2:]) > 1.1
    ppo(out, *prompts, *TRAINING, "--kl-coef", "10", "--overwrite")
    assert logged(out / "ppo", "kl")[-1] < kl / 10


def test_your_function_sees_prompts_and_texts(out, prompts, my_rewards):
    """Both are strings, unchanged, with one response for each prompt and no end token in them."""
    source = """if True:
        calls = []
        def reward(prompts, responses):
            calls.append((prompts, responses))
            return [0.0] * len(responses)"""
    name = my_rewards(source)
    ppo(out, *prompts, *SMALL, "--updates", "1", "--missing-end-score", "-1", "--reward", name)
    calls = function.load_function("--reward", name).__globals__["calls"]
    assert {len(texts) for texts, _ in calls} == {4, 6}  # held-out prompts, a rollout
    for texts, responses in calls:
        assert len(texts) == len(responses)
        assert all(text.startswith("Pick a colour, number") for text in texts)
        assert all(isinstance(r, str) and "endoftext" not in r for r in responses)


# ---- what it logs

METRICS = {  # what Ziegler et al. and N+ log, under our names
    *("score", "raw_score", "score_std", "score_min", "score_max"),
    *("kl", "kl_k3", "kl_coef", "non_score_reward", "rlhf_reward"),
    *("ended", "length", "length_min", "length_max", "sampled_entropy", "entropy"),
    *("approx_kl", "approx_kl_k3", "ratio_mean", "ratio_var", "ratio_min", "ratio_max"),
    *("policy_loss", "value_loss", "loss", "clip_fraction", "value_clip_fraction"),
    *("return_mean", "return_var", "value_mean", "value_var", "value_error"),
    *("explained_variance", "advantage_mean", "advantage_std", "weight_rms"),
    *("lr", "grad_norm", "critic_grad_norm", "step", "episodes"),
    *("rollout_s", "scoring_s", "update_s", "tokens_per_s"),
}
EVALUATION = {"eval_score", "eval_kl", "eval_length", "eval_ended"}
AXES = {"eval_helpful", "eval_honest", "eval_harmless", "eval_total", "eval_total_half"}
AXES |= {"eval_flawless", "eval_win_rate", "eval_parsed", "eval_declined", "eval_distinct"}
AXES |= {"eval_score_half"}


def with_sft(names):
    """The same names for the SFT model, too."""
    return names | {name.replace("eval_", "sft_") for name in names}


@pytest.fixture(scope="module")
def six_updates(colour_run, colours, tmp_path_factory):
    """OUT of six updates with an adaptive kl_coef and a separate critic. Not to be written to."""
    out = tmp_path_factory.mktemp("ppo") / "out"
    ppo(out, *stages(colour_run), "--data", str(colours / "prompts.jsonl"), *SMALL, *ADAPTIVE)
    return out


def test_every_metric_is_logged_and_finite(six_updates):
    """A metric that is missing, or NaN in some steps, is missing when it is needed."""
    config = json.loads((six_updates / "ppo" / "config.json").read_text())
    assert config["flags"]["critic"] == "separate"
    lines = read_metrics(six_updates / "ppo")
    assert [line["step"] for line in lines] == list(range(6))
    for line in lines:
        assert line.keys() == METRICS | (with_sft(EVALUATION) if line["step"] in (2, 5) else set())
        assert all(map(math.isfinite, line.values()))
    assert [line["episodes"] for line in lines] == [6, 12, 18, 24, 30, 36]


def test_the_identities_between_metrics_hold(six_updates):
    """TRL's documentation has the wrong sign of the KL in the objective."""
    for line in read_metrics(six_updates / "ppo"):
        assert line["non_score_reward"] == pytest.approx(-line["kl_coef"] * line["kl"], abs=1e-6)
        objective = line["score"] + line["non_score_reward"]
        assert line["rlhf_reward"] == pytest.approx(objective, abs=1e-5)
        assert line["length_min"] <= line["length"] <= line["length_max"] <= 6
        assert line["ratio_min"] <= line["ratio_mean"] <= line["ratio_max"]


def test_the_first_update_starts_at_the_policy_that_sampled(out, prompts, monkeypatch):
    """One epoch, one minibatch: nothing was trained before a token is used. The ratio is exactly 1,
    because both of its log-probabilities come from the same computation. It was not in
    PaLM-rlhf-pytorch (ppo.py:529) and minRLHF (actor.py:89). In the first update the policy is also
    the reference."""
    policy_loss = ppo_module.policy_loss

    def spy(logprobs, old_logprobs, *rest):
        assert torch.equal(logprobs, old_logprobs)
        return policy_loss(logprobs, old_logprobs, *rest)

    monkeypatch.setattr(ppo_module, "policy_loss", spy)
    flags = "--updates 2 --epochs 1 --minibatches 1 --microbatch-tokens 40".split()
    ppo(out, *prompts, *SMALL, *flags)
    zeros = "ratio_var", "approx_kl", "approx_kl_k3", "clip_fraction", "value_clip_fraction"
    lines = read_metrics(out / "ppo")
    for line in lines:
        assert line["ratio_mean"] == line["ratio_min"] == line["ratio_max"] == 1
        assert all(line[name] == 0 for name in zeros)
    assert lines[0]["kl"] == lines[0]["kl_k3"] == 0


def test_the_learning_rate_warms_up_and_falls_linearly_and_never_to_zero(six_updates):
    """Ziegler et al., train_policy.py:172, and N+, ppo.py:575: the last is base / updates. Two
    updates warm up, so that the first has half of its rate (InstructGPT has ten, appendix C.4)."""
    expected = [0.003 * (6 - i) / 6 for i in range(6)]
    expected[0] /= 2
    assert logged(six_updates / "ppo", "lr") == pytest.approx(expected, rel=1e-5)


def test_kl_coef_adapts_to_the_target_after_each_rollout(six_updates):
    """Ziegler et al. 2019, section 2.2: proportional control with the error clipped to 20%. A
    rollout is rewarded with the coefficient from before its update."""
    coefs, kls = logged(six_updates / "ppo", "kl_coef"), logged(six_updates / "ppo", "kl")
    coefs.append(saved(six_updates / "ppo")["kl_coef"])
    assert coefs[0] == train_ppo.Config().kl_coef
    for (coef, next_coef), kl in zip(itertools.pairwise(coefs), kls, strict=True):
        error = min(max(kl / 1.1 - 1, -0.2), 0.2)
        assert next_coef == pytest.approx(coef * (1 + error * 6 / 20), rel=1e-5)
    unclipped = [kl for kl in kls if abs(kl / 1.1 - 1) < 0.2]
    assert unclipped, "every error was clipped, so that any KL would have passed"


def test_kl_coef_stays_where_it_is_without_a_target(out, prompts):
    """Adaptation is an option, off by default: it is fixed in Stiennon et al., InstructGPT, Llama 2
    and N+."""
    ppo(out, *prompts, *SMALL, "--kl-coef", "0.3")
    assert set(logged(out / "ppo", "kl_coef")) == {0.3}


@pytest.mark.parametrize(
    "name", "score kl return_mean policy_loss value_loss entropy grad_norm".split()
)
def test_a_number_of_an_update_that_is_infinite_is_divergence_whichever_it_is(
    out, prompts, monkeypatch, name
):
    """A policy after such an update is worth nothing, and none is saved."""
    iterate = train_ppo.iterate

    def infinite(*args):
        stats, rollout = iterate(*args)
        return stats | {name: math.inf}, rollout

    monkeypatch.setattr(train_ppo, "iterate", infinite)
    with pytest.raises(config.Divergence, match=f"^{name} is inf at step 0"):
        ppo(out, *prompts, *SMALL, "--updates", "1")
    assert not (out / "ppo" / "checkpoint.pt").exists()


def test_gradients_are_clipped_and_their_mean_norm_before_that_is_logged(
    out, prompts, gradient_norms
):
    """Once per optimiser step; an update has epochs times minibatches of them (TRL's option for
    several minibatches had no effect: #5645). Ziegler et al. and N+ do not clip; Llama 2 does, at
    1."""
    flags = "--updates 2 --epochs 3 --minibatches 2 --microbatch-tokens 20 --max-grad-norm 0.01"
    ppo(out, *prompts, *SMALL, *flags.split())
    assert len(gradient_norms) == 2 * 3 * 2
    assert gradient_norms == pytest.approx([0.01] * 12, rel=1e-3)
    assert min(logged(out / "ppo", "grad_norm")) > 0.02


def test_the_evaluation_shows_prompts_before_and_after(six_updates):
    """The table with which a reader can recognise reward hacking in the responses ("thanks thanks"
    in DeepSpeedExamples #491)."""
    text = (six_updates / "ppo" / "samples.txt").read_text()
    assert text.index("after 3 updates") < text.index("after 6 updates")
    header = next(line for line in text.splitlines() if "SFT response" in line)
    assert header.split() == "prompt SFT response policy response score kl".split()
    assert sum(line.startswith("Pick a colour, number") for line in text.splitlines()) == 2 * 4


def test_on_the_world_the_judge_has_its_say(world_out):
    """The true score is logged beside the proxy; without it over-optimisation is invisible."""
    ppo(world_out, *SMALL, "--updates", "1", "--prompts", "20")
    (line,) = read_metrics(world_out / "ppo")
    assert line.keys() == METRICS | with_sft(EVALUATION | AXES)
    assert 0 <= line["eval_win_rate"] <= 1


def test_beside_each_evaluation_stands_that_of_the_sft_model_which_is_update_zero(world_out):
    """On the same prompts under the same noise, so that a curve can start there. Here it is
    computed again from the checkpoint. A resumed run logs the same numbers."""
    flags = [*SMALL, "--prompts", "20", "--eval-every", "1", "--held-out", "24"]
    ppo(world_out, *flags, "--updates", "1")
    ppo(world_out, "--resume", "--updates", "2")
    first, second = read_metrics(world_out / "ppo")
    names = [name for name in first if name.startswith("sft_")]
    assert [first[name] for name in names] == [second[name] for name in names]
    assert first["sft_kl"] == 0 and first["sft_win_rate"] == 0.5
    args = json.loads((world_out / "ppo" / "config.json").read_text())["flags"]
    sft, tokenizer = load_gpt(world_out / "sft")
    stream = config.rng(args["seed"], config.HELD_OUT_PROMPTS)
    held_out = writers.prompts(args["held_out"], stream, "validation")
    noise = evaluate.noise(args["seed"], len(held_out), args["max_new_tokens"])
    replies = evaluate.respond(sft, tokenizer, held_out, noise)
    values = measures.values(held_out, replies)
    for name in ("total", "flawless", "helpful", "honest", "declined", "parsed"):
        expected = measures.mean(values[name])
        assert first["sft_" + name] == pytest.approx(expected, abs=1e-6), name
    assert first["sft_distinct"] == len({reply.text for reply in replies})
    clusters = [measures.cluster(prompt) for prompt in held_out]
    half_width = evaluate.interval(values["total"], clusters)[1]
    assert first["sft_total_half"] == pytest.approx(half_width, abs=1e-6)


def test_held_out_prompts_are_not_trained_on(out, prompts, monkeypatch):
    """A tenth of the prompts is for the evaluation. Each of the other prompts comes once before
    any comes twice."""
    texts, sample = [], train_ppo.sample

    def spy(args, gpt, tokenizer, batch, step):
        texts.extend(batch)
        return sample(args, gpt, tokenizer, batch, step)

    monkeypatch.setattr(train_ppo, "sample", spy)
    ppo(out, *prompts, *SMALL)
    learned, held_out = data.split_by_prompt(jsonl.read_prompts(prompts[1]), seed=1)
    assert held_out and not set(texts) & set(held_out)
    assert set(texts[: len(learned)]) == set(learned)


def test_the_defaults_are_those_of_the_sources():
    """gamma 1, both clips .2, weight .1 for the value loss, a fixed kl_coef, a shared trunk:
    Ziegler et al. 2019, N+. One pass of eight minibatches over a rollout: InstructGPT.
    Lambda 1: AlpacaFarm, OpenRLHF. Gradients are clipped at 1 (Llama 2), and the reward model is
    trained on each comparison once, as in all of them."""
    c = train_ppo.Config()
    assert (c.gamma, c.lam, c.epochs, c.minibatches) == (1, 1, 1, 8)
    assert (c.clip, c.value_clip, c.vf_coef, c.max_grad_norm) == (0.2, 0.2, 0.1, 1)
    assert (c.kl_target, c.critic) == (0, "shared")
    assert train_rm.Config().epochs == 1


def test_the_optimiser_has_all_that_is_trained_and_an_eps_of_1e_5(out, prompts, monkeypatch):
    """N+'s Adam: eps 1e-5, no decay. A value head that is not among its parameters stays at zero,
    and the advantages are then the returns."""
    results, adamw = [], optim.adamw

    def spy(actor, *args, **kwargs):
        results.append((actor, adamw(actor, *args, **kwargs)))
        return results[-1][1]

    monkeypatch.setattr(optim, "adamw", spy)
    ppo(out, *prompts, *SMALL, "--updates", "1")
    ((actor, optimizer),) = results
    groups = optimizer.param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(actor.parameters()))
    for group in groups:
        assert (group["eps"], group["betas"], group["weight_decay"]) == (1e-5, (0.9, 0.999), 0)
    assert saved(out / "ppo")["value_head"]["weight"].any()


@pytest.mark.parametrize(("flags", "rate"), [([], 10), (["--value-head-rate", "3"], 3)])
def test_the_value_head_has_a_multiple_of_the_learning_rate(out, prompts, monkeypatch, flags, rate):
    """It starts at zero, and the policy is held near the SFT model by a small learning rate that
    would leave the values behind the returns. OpenRLHF's critic has 9 times the actor's."""
    results, adamw = [], optim.adamw

    def spy(actor, *args, **kwargs):
        results.append((actor, adamw(actor, *args, **kwargs)))
        return results[-1][1]

    monkeypatch.setattr(optim, "adamw", spy)
    ppo(out, *prompts, *SMALL, "--updates", "1", *flags)
    ((actor, optimizer),) = results
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in actor.named_parameters():
        expected = train_ppo.Config().lr / 2 * (rate if name.startswith("value_head") else 1)
        assert rates[id(parameter)] == pytest.approx(expected), name
    assert logged(out / "ppo", "lr") == pytest.approx([train_ppo.Config().lr / 2])


def test_one_temperature_reaches_sampler_scorer_and_update(out, prompts, monkeypatch):
    """At .001 the policy is almost greedy. At any other temperature its tokens have other
    log-probabilities, and the first ratio is not 1 (trlX, accelerate_ppo_trainer.py:445; rlhf-book,
    utils.py:264)."""
    temperatures, generate = [], evaluate.generate

    def spy(*args):
        temperatures.append(args[4])
        return generate(*args)

    monkeypatch.setattr(evaluate, "generate", spy)
    flags = "--updates 1 --epochs 1 --minibatches 1 --temperature 0.001".split()
    ppo(out, *prompts, *SMALL, *flags)
    (line,) = read_metrics(out / "ppo")
    assert line["sampled_entropy"] < 0.1
    assert line["ratio_min"] == line["ratio_max"] == 1 and line["kl"] == 0
    assert set(temperatures) == {0.001}


def test_every_update_draws_its_own_minibatches(out, prompts, monkeypatch):
    """With one permutation for all updates, the same rows would be together in every minibatch of
    the run."""
    plans, plan = [], ppo_module.plan

    def spy(lengths, *rest):
        plans.append(plan([5] * len(lengths), *rest))
        return plans[-1]

    monkeypatch.setattr(ppo_module, "plan", spy)
    ppo(out, *prompts, *SMALL, *"--updates 3 --minibatches 3".split())
    assert len(plans) == 3 and plans[0] != plans[1] != plans[2] != plans[0]


# ---- the score and its exceptions


def test_a_response_without_end_gets_the_stored_score_and_not_its_own(world_out):
    """This policy never ends within 4 tokens, and the scores of the model are not used. They are
    replaced as in Ziegler et al. (lm_tasks.py:58). A flag has precedence over the stored score."""
    small = [*SMALL, "--updates", "1", "--prompts", "20", "--max-new-tokens", "4", "--overwrite"]
    for flags, expected in (((), -3.0), (("--missing-end-score", "-5"), -5.0)):
        ppo(world_out, *small, *flags)
        (line,) = read_metrics(world_out / "ppo")
        assert line["ended"] == 0
        assert line["score"] == line["score_min"] == line["score_max"] == expected
        assert line["raw_score"] != expected


def test_scores_are_the_normalised_ones_read_at_the_end_token(colour_run):
    """Training, evaluation and PPO have one function for this; three functions would diverge (TRL
    PR 5813: no end token in evaluation). A text that is encoded again, with its end token, has the
    same score. (Only if its ids are the same: a policy may spell a word with other tokens than the
    tokenizer.)"""
    gpt, tokenizer = load_gpt(colour_run / "sft")
    args = train_ppo.Config(out=str(colour_run), max_new_tokens=6)
    loaded = train_ppo.load_reward(args, tokenizer, gpt)
    score, missing_end_score, (model,) = loaded
    prompts = [colour_prompt(i) for i in range(12)]
    _, replies = train_ppo.sample(args, gpt, tokenizer, prompts, 0)
    texts = [reply.text for reply in replies]
    examples = [data.encode(tokenizer, *pair) for pair in zip(prompts, texts, strict=True)]
    same_ids = [n for n, reply in enumerate(replies) if reply.example == examples[n]]
    assert len(same_ids) > 3
    expected = reward.score(model, tokenizer, prompts, texts)
    assert torch.allclose(score(prompts, replies)[same_ids], expected[same_ids], atol=1e-5)
    assert missing_end_score == -3.0


def test_the_reward_model_and_the_reference_are_what_they_were(out, prompts, monkeypatch):
    """Equal to the bit, in memory and on disk. If the reference were trained too, every KL would be
    zero, as if there were none (PaLM-rlhf-pytorch, ppo.py:339). The policy and the critic do
    change."""
    reward_models, networks = [], []
    load, train = reward.load_reward_model, train_ppo.train

    def load_spy(*args):
        reward_model, *rest = load(*args)
        reward_models.append(reward_model)
        return reward_model, *rest

    def train_spy(args, folder, models, *rest):
        assert not any(p.requires_grad for p in models.reference.parameters())
        assert all(p.requires_grad for p in models.actor_critic.parameters())
        train(args, folder, models, *rest)
        networks.extend((models.reference, models.actor_critic))

    monkeypatch.setattr(reward, "load_reward_model", load_spy)
    monkeypatch.setattr(train_ppo, "train", train_spy)
    files = contents(out)
    ppo(out, *prompts, *SMALL, "--critic", "separate", "--lr", "0.003")
    assert files.items() <= contents(out).items()
    (model,), (reference, actor) = reward_models, networks
    assert same(dict(model.state_dict()), saved(out / "rm")["model"])
    assert same(dict(reference.state_dict()), saved(out / "sft")["model"])
    assert not torch.equal(actor.gpt.norm.weight, reference.norm.weight)
    assert not torch.equal(actor.critic.norm.weight, model.gpt.norm.weight)


# ---- stopping, resuming, repeating


def test_three_updates_a_stop_and_three_more_are_six_to_the_bit(
    six_updates, colour_run, prompts, tmp_path, ctrl_c, capsys, gradient_norms
):
    """Policy, critic, value head, optimiser, kl_coef, metrics. TRL never saved the critic (#1643,
    PR 6120). The number of optimiser steps shows that the first updates are not repeated, which
    would give the same bits."""
    ctrl_c("ppo", 2)
    with pytest.raises(KeyboardInterrupt):
        ppo(tmp_path, *stages(colour_run), *prompts, *SMALL, *ADAPTIVE)
    ctrl_c(None)
    message = capsys.readouterr().err
    assert f"{tmp_path / 'ppo' / 'checkpoint.pt'} holds 3 of 6 steps" in message
    assert "--resume" in message
    load_gpt(tmp_path / "ppo")
    half = len(gradient_norms)
    ppo(tmp_path, "--resume")
    assert len(gradient_norms) == 2 * half
    assert logged(tmp_path / "ppo") == logged(six_updates / "ppo")
    state = saved(tmp_path / "ppo")
    assert same(state, saved(six_updates / "ppo"))
    assert {"model", "value_head", "critic", "optimizer", "kl_coef"} < state.keys()


def test_a_run_stores_what_it_computed_with_and_resumes_with_it(out, prompts, monkeypatch):
    """It resumes on a machine where auto means something else and torch uses another number of
    threads."""
    threads = torch.get_num_threads()
    ppo(out, *prompts, *SMALL, "--updates", "1", "--device", "cpu", "--precision", "auto")
    flags = json.loads((out / "ppo" / "config.json").read_text())["flags"]
    expected = {"precision": "float32", "microbatch_tokens": 2048, "threads": threads}
    assert flags.items() >= expected.items()
    arguments = []

    def train(args, folder, models, *rest):
        arguments.append((args, models.actor_critic))

    def pick_precision(name, device):
        return "bf16" if name == "auto" else name

    monkeypatch.setattr(train_ppo, "train", train)
    monkeypatch.setattr(compute, "pick_precision", pick_precision)
    monkeypatch.setattr(compute, "pick_microbatch", lambda tokens, *rest: tokens or 77)
    try:
        torch.set_num_threads(threads + 1)
        ppo(out, "--resume")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(threads)
    ((args, actor),) = arguments
    assert vars(args).items() >= expected.items()
    assert actor.gpt.precision == torch.float32


def test_a_run_cannot_be_resumed_to_fewer_updates_or_with_another_seed(out, prompts, refused):
    """Both used to end with exit code 0; after the second, half of the run has one seed and half
    another."""
    ppo(out, *prompts, *SMALL, "--updates", "2")
    message = refused(train_ppo.main, ["--out", str(out), "--resume", "--seed", "2"], out)
    assert "--seed is 1" in message and "2 now" in message
    argv = ["--out", str(out), "--resume", "--updates", "1"]
    assert f"--updates 1: the run in {out}/ppo has 2" in refused(train_ppo.main, argv, out)


def test_with_a_shared_critic_it_resumes_to_the_bit_too(out, prompts, ctrl_c):
    """The value head is the only part beside the policy and its optimiser."""
    ppo(out, *prompts, *SMALL, "--lr", "0.003")
    state, metrics = saved(out / "ppo"), logged(out / "ppo")
    ctrl_c("ppo", 2)
    with pytest.raises(KeyboardInterrupt):
        ppo(out, *prompts, *SMALL, "--lr", "0.003", "--overwrite")
    ctrl_c(None)
    ppo(out, "--resume")
    assert same(saved(out / "ppo"), state) and logged(out / "ppo") == metrics
    assert "critic" not in state


def test_a_separate_critic_starts_as_the_reward_model(out, prompts, monkeypatch):
    """Its value at the end token is the normalised score that the response will get."""
    actors = []

    def train(args, folder, models, *rest):
        actors.append(models.actor_critic)

    monkeypatch.setattr(train_ppo, "train", train)
    ppo(out, *prompts, *SMALL, "--critic", "separate")
    model, _, _ = load_reward_model(out / "rm")
    tokens = torch.randint(500, (3, 9), generator=torch.Generator().manual_seed(0))
    lengths, mask = torch.tensor([9, 5, 2]), torch.ones(3, 9, dtype=torch.bool)
    _, values, _ = actors[0](torch.nn.functional.pad(tokens, (0, 1)), mask)
    last = values[torch.arange(3), lengths - 1]
    assert torch.allclose(last, model(tokens, lengths), atol=1e-4)


def test_a_seed_decides_everything_and_no_global_generator_is_touched(
    six_updates, colour_run, prompts, tmp_path
):
    """Samples, minibatches, evaluation: two runs give the same bits, whatever the state of the
    global generators (TRL #1648)."""
    flags = [*stages(colour_run), *prompts, *SMALL, *ADAPTIVE]
    states = generators()
    ppo(tmp_path / "1", *flags)
    ppo(tmp_path / "2", *flags, "--seed", "2")
    assert generators() == states
    assert same(saved(tmp_path / "1" / "ppo"), saved(six_updates / "ppo"))
    assert logged(tmp_path / "1" / "ppo") == logged(six_updates / "ppo")
    assert logged(tmp_path / "2" / "ppo", "score") != logged(six_updates / "ppo", "score")


# ---- bad input


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--minibatches 7", "--minibatches 7 must be at most --batch-size 6"),
        ("--kl-target 1 --kl-horizon 5", "--kl-horizon 5 must be at least --batch-size 6"),
    ],
)
def test_flags_that_do_not_fit_the_batch_are_refused(refused, out, prompts, flags, message):
    """An empty minibatch would be an optimiser step on nothing. With a horizon shorter than a
    rollout, kl_coef overshoots its target."""
    flags = ["--out", str(out), *prompts, *SMALL, *flags.split()]
    assert message in refused(train_ppo.main, flags, out)


def test_flags_at_the_edge_of_what_a_batch_allows_are_taken():
    """Minibatches of one response, and a horizon of one rollout."""
    edge = {"batch_size": 6, "minibatches": 6, "kl_target": 1.0, "kl_horizon": 6.0}
    train_ppo.check_flags(train_ppo.Config(**edge))


def test_a_finished_run_may_be_asked_to_go_on_and_not_to_go_back(tmp_path, make_gpt):
    gpt = make_gpt(vocab_size=get_tokenizer().vocab_size)
    (tmp_path / "ppo").mkdir()
    checkpoint.save(tmp_path / "ppo", "ppo", gpt.config, get_tokenizer(), 6, model=gpt)
    for updates in (6, 7):
        train_ppo.check_flags(train_ppo.Config(out=str(tmp_path), resume=True, updates=updates))
    with pytest.raises(InputError, match="--updates 5: the run in .* has 6"):
        train_ppo.check_flags(train_ppo.Config(out=str(tmp_path), resume=True, updates=5))


@pytest.mark.parametrize("given", [0.0, -1.5, math.nan])
def test_the_missing_end_score_of_the_flag_goes_before_the_stored_one_be_it_zero(colour_run, given):
    stored = saved(colour_run / "rm")["missing_end_score"]
    args = train_ppo.Config(out=str(colour_run), missing_end_score=given)
    gpt, tokenizer = load_gpt(colour_run / "sft")
    _, number, _ = train_ppo.load_reward(args, tokenizer, gpt)
    assert number == (stored if math.isnan(given) else given)


def test_a_reward_function_needs_a_score_for_responses_without_end(
    refused, out, prompts, my_rewards
):
    """Only the user knows which score is low in the units of the function."""
    flags = ["--out", str(out), *prompts, *SMALL, "--reward", my_rewards(BLUE)]
    assert "--missing-end-score" in refused(train_ppo.main, flags, out)


NO_SCORES = ["1.0", "[1.0]", "None", "[[1.0], [1.0, 2.0]]", "['good'] * len(responses)"]
NO_SCORES += ["[float('nan')] * len(responses)", "[[1.0, 2.0, 3.0] for _ in responses]"]
NO_SCORES += ["[1.0] * (len(responses) - 1) + [float('inf')]"]


@pytest.mark.parametrize("result", NO_SCORES)
def test_what_is_not_one_finite_number_a_response_is_one_line(
    refused, out, prompts, my_rewards, result
):
    """The error comes before anything is written. A NaN would turn every weight into NaN, and a (B,
    1) would broadcast to (B, B)."""
    name = my_rewards(f"def reward(prompts, responses):\n    return {result}\n")
    flags = ["--out", str(out), *prompts, *SMALL, "--missing-end-score", "-1", "--reward", name]
    message = refused(train_ppo.main, flags, out)
    assert f"--reward {name}" in message and "4 finite numbers" in message


@pytest.mark.parametrize(
    "name", ["no_such_module:reward", "math:no_such_function", "math", ":reward", ".x:reward"]
)
def test_a_reward_function_that_is_not_there_is_one_line(refused, out, prompts, name):
    """The error comes before anything is loaded or written, and names the expected form."""
    flags = ["--out", str(out), *prompts, *SMALL, "--missing-end-score", "-1", "--reward", name]
    message = refused(train_ppo.main, flags, out)
    assert f"--reward {name}" in message and "module:function" in message


def test_a_separate_critic_needs_a_reward_model(refused, out, prompts, my_rewards):
    """It starts as one. A random network instead would be a third kind of critic."""
    flags = ["--out", str(out), *prompts, *SMALL, "--critic", "separate"]
    flags += ["--missing-end-score", "-1", "--reward", my_rewards(BLUE)]
    message = refused(train_ppo.main, flags, out)
    assert "--critic separate" in message and "--critic shared" in message


def test_stages_that_are_missing_or_mixed_up_are_one_line(refused, out, prompts, tmp_path):
    """The error says which script to run, or which checkpoint is of the wrong stage."""

    def message(folder, *flags):
        return refused(train_ppo.main, ["--out", str(folder), *prompts, *SMALL, *flags], folder)

    new, sft, rm = tmp_path / "new", str(out / "sft"), str(out / "rm")
    assert "train_sft.py" in message(new)
    assert "train_rm.py" in message(new, "--sft", sft)
    assert re.search("stage sft.*rm", message(out, "--rm", sft))
    assert "stage rm" in message(out, "--sft", rm)


def test_a_reward_model_with_another_tokenizer_is_one_line(refused, out, prompts, monkeypatch):
    """The same ids would mean other words."""
    get_tokenizer = checkpoint.get_tokenizer

    def other(name):
        tokenizer = get_tokenizer("tiny")
        if name == "other":
            tokenizer.name, tokenizer.fingerprint = "other", lambda: "another vocabulary"
        return tokenizer

    state = saved(out / "rm") | {"tokenizer": "other", "vocabulary": "another vocabulary"}
    torch.save(state, out / "rm" / "checkpoint.pt")
    monkeypatch.setattr(checkpoint, "get_tokenizer", other)
    message = refused(train_ppo.main, ["--out", str(out), *prompts, *SMALL], out)
    assert "tokenizer tiny" in message and "other" in message


def test_a_prompt_without_room_for_its_response_is_one_line(refused, out, prompts, colours):
    """For the user's prompts the error names file and line, for the world's the number of tokens.
    Nothing is written."""
    flags = ["--out", str(out), *SMALL, "--max-new-tokens", "25"]
    message = refused(train_ppo.main, [*flags, *prompts], out)
    assert f"{colours / 'prompts.jsonl'}:1: " in message and "context of 32" in message
    flags.append("--mix-data")
    message = refused(train_ppo.main, [*flags, "--prompts", "20"], out)
    assert "context of 32" in message
    message = refused(train_ppo.main, [*flags, "--prompts", "20", "--drop-long"], out)
    assert "no prompt leaves room" in message


def test_an_existing_run_and_a_flag_out_of_range_are_one_line(
    refused, six_updates, colour_run, prompts
):
    """At a temperature of 0 there are no log-probabilities, and a negative kl_coef would reward
    divergence. The error names the flag."""
    flags = ["--out", str(six_updates), *stages(colour_run), *prompts, *SMALL]
    assert "--overwrite" in refused(train_ppo.main, flags, six_updates)
    for pair in ("--gamma 1.5", "--temperature 0", "--kl-coef -1", "--clip nan"):
        message = refused(train_ppo.main, [*flags, *pair.split()], six_updates)
        assert pair.split()[0] in message


# ---- minirlhf evaluate


def comparison(capsys, *argv):
    """Runs the command. Returns {name: (rate, half of the interval)} as printed, and everything
    printed."""
    capsys.readouterr()
    evaluate_command.main(["--max-new-tokens", "6", "--best-of", "1", "--prompts", "12", *argv])
    text = capsys.readouterr().out
    pattern = re.compile(r"^(.+) beats the baseline: (\S+)% \+- (\S+) of ", re.M)
    return {m[1]: (float(m[2]), float(m[3])) for m in pattern.finditer(text)}, text


def models(policy, baseline, reward_model="none"):
    """The flags of the command that name three folders."""
    flags = {"--policy": policy, "--baseline": baseline, "--reward-model": reward_model}
    return [str(part) for flag in flags.items() for part in flag]


def test_a_checkpoint_against_itself_wins_exactly_half(world_run, colour_run, prompts, capsys):
    """Both have the same noise, the judge sees both orders, and ties count half. minChatGPT's judge
    always saw the candidate second (evaluate.py:166). The KL is 0 too."""
    for run, flags in ((world_run, []), (colour_run, prompts)):
        folders = models(run / "sft", run / "sft", run / "rm")
        rates, text = comparison(capsys, *folders, *flags)
        assert rates == {"baseline": (50.0, 0.0), "policy": (50.0, 0.0)}
        lines = text.splitlines()
        kl = next(line for line in lines if " kl " in line).split().index("kl")
        rows = [line.split() for line in lines if line.startswith(("baseline  ", "policy  "))]
        assert [row[1 + kl] for row in rows] == ["0.00", "0.00"]
        assert rows[0][1:] == rows[1][1:]


def test_a_policy_that_learnt_beats_the_one_it_came_from(out, prompts, colours, tmp_path, capsys):
    """Best-of-n beats it without training, at the KL of the formula: log 4 - 3/4 = 0.64. A copy of
    the prompts is another file, of which no prompt counts as held out."""
    ppo(out, *prompts, *TRAINING)
    flags = models(out / "ppo", out / "sft", out / "rm")
    copy = shutil.copy(colours / "prompts.jsonl", tmp_path / "test.jsonl")
    flags += f"--data {copy} --prompts 40 --best-of 4 --shown 3".split()
    rates, text = comparison(capsys, *flags)
    assert rates["policy"][0] > 55 and rates["best of 4"][0] > 65
    assert 0 < rates["policy"][1] < 20
    assert text.count("Pick a colour, number") == 3
    row = next(line for line in text.splitlines() if line.startswith("best of 4  "))
    assert row.split()[4] == f"{math.log(4) - 3 / 4:.2f}"


def test_your_own_judge_is_asked_in_both_orders(out, prompts, my_rewards, capsys):
    """A judge that always prefers the first response gives no information about the policies:
    50%."""
    name = my_rewards("def reward(prompts, first, second):\n    return [1.0] * len(prompts)\n")
    flags = models(out / "sft", out / "sft")
    rates, _ = comparison(capsys, *flags, *prompts, "--judge", name)
    assert rates["policy"] == (50.0, 0.0)


def test_evaluation_refuses_what_it_cannot_compare(refused, out, prompts, tmp_path):
    """A reward model as the policy, a folder without a run, a context too short for the world's
    prompts: each has its own message."""

    def message(policy, *flags):
        return refused(evaluate_command.main, [*models(policy, out / "sft"), *flags], out)

    assert "stage rm" in message(out / "rm", *prompts)
    assert "nowhere" in message(tmp_path / "nowhere", *prompts)
    assert "context of 32" in message(out / "sft", "--max-new-tokens", "30", "--mix-data")


def test_evaluation_judges_the_worlds_held_out_prompts(world_run, capsys, monkeypatch):
    """It never uses those of training. The judge's axes are the first columns of the table."""
    splits, prompts = [], writers.prompts

    def spy(n, rng, split="train"):
        splits.append(split)
        return prompts(n, rng, split)

    monkeypatch.setattr(writers, "prompts", spy)
    _, text = comparison(capsys, *models(world_run / "sft", world_run / "pretrain"))
    assert splits == ["validation"]
    assert text.splitlines()[1].split()[:4] == ["helpful", "honest", "harmless", "total"]
