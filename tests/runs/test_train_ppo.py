"""The specification of train_ppo.py, and of evaluate's command: PPO from end to end on a policy that names colours."""

import json
import math

import numpy as np
import pytest
import torch
from helpers import generators, logged, same, saved

import train_ppo
import train_rm
from minirlhf import data, evaluate, reward
from minirlhf import ppo as ppo_module
from minirlhf.reward import load_reward_model
from minirlhf.rewards import function
from minirlhf.run import checkpoint, compute, optim
from minirlhf.run.checkpoint import load_gpt
from minirlhf.run.metrics import read_metrics
from minirlhf.tools import evaluate as evaluate_command
from minirlhf.world import writers

SMALL = "--updates 6 --batch-size 6 --max-new-tokens 6 --held-out 4 --eval-every 3 --kl-horizon 20".split()


@pytest.fixture
def prompts(colours):
    return ["--data", str(colours / "prompts.jsonl")]


@pytest.fixture
def my_rewards(tmp_path, monkeypatch):
    """my_rewards(source) -> a name for --reward: a function in a file of the user's own."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def module(source):
        name = f"my_rewards_{tmp_path.name}_{len(made)}"
        made.append(name)
        (tmp_path / f"{name}.py").write_text(source)
        return f"{name}:reward"

    return module


def ppo(out, *argv):
    train_ppo.main(["--out", str(out), *argv])


BLUE = "def reward(prompts, responses):\n    return [float(r == 'b') for r in responses]\n"


# ---- it works


# Seeds 1 to 30 all pass the two tests below: none ends under .97 of 1, or under 1.2 of 1.34. With 2 epochs and 4 minibatches
# at .003 a collapse, after which no response ends, was the outcome of 3 seeds in 10.
LEARNED = (
    "--updates 24 --batch-size 48 --epochs 1 --minibatches 2 --max-new-tokens 6 --lr 0.001 --held-out 4 --eval-every 24"
).split()


def test_it_raises_the_score_of_your_own_function(out, prompts, my_rewards):
    """The policy names three colours equally often; the function likes one. Without any reward model at all."""
    (out / "rm" / "checkpoint.pt").unlink()
    ppo(out, *prompts, *LEARNED, "--missing-end-score", "-1", "--reward", my_rewards(BLUE))
    scores = logged(out / "ppo", "score")
    assert scores[0] < 0.6
    assert np.mean(scores[-2:]) > 0.9


def test_it_raises_the_score_of_the_reward_model_and_a_large_kl_coef_keeps_it_home(out, prompts):
    """The leash holds: what the policy moves from the reference is the price of the score it wins."""
    ppo(out, *prompts, *LEARNED)
    scores, kl = logged(out / "ppo", "score"), logged(out / "ppo", "kl")[-1]
    assert np.mean(scores[:2]) < 0.6
    assert np.mean(scores[-2:]) > 1.1
    ppo(out, *prompts, *LEARNED, "--kl-coef", "10", "--overwrite")
    assert logged(out / "ppo", "kl")[-1] < kl / 10


def test_your_function_sees_prompts_and_texts(out, prompts, my_rewards):
    """Strings, as they are, one response for each prompt; no end token shows."""
    source = "seen = []\ndef reward(prompts, responses):\n    seen.append((prompts, responses))\n    return [0.0] * len(responses)\n"
    name = my_rewards(source)
    ppo(out, *prompts, *SMALL, "--updates", "1", "--missing-end-score", "-1", "--reward", name)
    seen = function.load_function("--reward", name).__globals__["seen"]
    assert {len(asked) for asked, _ in seen} == {4, 6}  # held-out prompts, a rollout
    for asked, responses in seen:
        assert len(asked) == len(responses) and all(
            p.startswith("Pick a colour, number") for p in asked
        )
        assert all(isinstance(r, str) and "endoftext" not in r for r in responses)


# ---- what it logs

METRICS = {  # what Ziegler et al. and N+ log, under our names
    *("score", "raw_score", "score_std", "score_min", "score_max", "kl", "kl_k3", "kl_coef"),
    *(
        "non_score_reward",
        "rlhf_reward",
        "sampled_entropy",
        "approx_kl",
        "approx_kl_k3",
        "clip_fraction",
    ),
    *(
        "ratio_mean",
        "ratio_var",
        "ratio_min",
        "ratio_max",
        "entropy",
        "policy_loss",
        "value_loss",
        "loss",
    ),
    *(
        "value_clip_fraction",
        "explained_variance",
        "return_mean",
        "return_var",
        "value_mean",
        "value_var",
        "value_error",
    ),
    *("ended", "length", "length_min", "length_max", "advantage_mean", "advantage_std"),
    *(
        "lr",
        "grad_norm",
        "critic_grad_norm",
        "step",
        "episodes",
        "rollout_s",
        "scoring_s",
        "update_s",
        "tokens_per_s",
    ),
}
JUDGED = {"eval_score", "eval_kl", "eval_length", "eval_ended"}
AXES = {
    "eval_" + n
    for n in ("helpful", "honest", "harmless", "total", "total_half", "right", "win_rate")
}


@pytest.fixture(scope="module")
def six_updates(colour_run, colours, tmp_path_factory):
    """OUT of six updates with everything adaptive and separate. Read only."""
    out = tmp_path_factory.mktemp("ppo") / "out"
    argv = [
        "--sft",
        str(colour_run / "sft"),
        "--rm",
        str(colour_run / "rm"),
        "--data",
        str(colours / "prompts.jsonl"),
    ]
    ppo(out, *argv, *SMALL, "--critic", "separate", "--kl-target", "1.1", "--lr", "0.003")
    return out


def test_every_metric_is_logged_and_finite(six_updates):
    """A metric that is missing, or NaN once in a while, is missed on the day it is needed."""
    assert (
        json.loads((six_updates / "ppo" / "config.json").read_text())["flags"]["critic"]
        == "separate"
    )
    lines = read_metrics(six_updates / "ppo")
    assert [line["step"] for line in lines] == list(range(6))
    for line in lines:
        assert line.keys() == METRICS | (JUDGED if line["step"] in (2, 5) else set())
        assert all(map(math.isfinite, line.values()))
    assert [line["episodes"] for line in lines] == [6, 12, 18, 24, 30, 36]


def test_the_identities_between_metrics_hold(six_updates):
    """TRL's documentation has the sign of the KL in the objective the wrong way round."""
    for line in read_metrics(six_updates / "ppo"):
        assert line["non_score_reward"] == pytest.approx(-line["kl_coef"] * line["kl"], abs=1e-6)
        assert line["rlhf_reward"] == pytest.approx(
            line["score"] + line["non_score_reward"], abs=1e-5
        )
        assert line["length_min"] <= line["length"] <= line["length_max"] <= 6
        assert line["ratio_min"] <= line["ratio_mean"] <= line["ratio_max"]


def test_the_first_update_starts_at_the_policy_that_sampled(out, prompts, monkeypatch):
    """One epoch, one minibatch: every token is seen before anything was learnt. Exactly, not nearly: what the ratio compares
    comes from the same computation. It started elsewhere in PaLM-rlhf-pytorch (ppo.py:529) and minRLHF (actor.py:89)."""
    policy_loss = ppo_module.policy_loss

    def watched(logprobs, old_logprobs, *rest):
        assert torch.equal(logprobs, old_logprobs)
        return policy_loss(logprobs, old_logprobs, *rest)

    monkeypatch.setattr(ppo_module, "policy_loss", watched)
    ppo(
        out,
        *prompts,
        *SMALL,
        *"--updates 2 --epochs 1 --minibatches 1 --microbatch-tokens 40".split(),
    )
    for line in read_metrics(out / "ppo"):
        assert (line["ratio_mean"], line["ratio_min"], line["ratio_max"], line["ratio_var"]) == (
            1,
            1,
            1,
            0,
        )
        assert (
            line["approx_kl"],
            line["approx_kl_k3"],
            line["clip_fraction"],
            line["value_clip_fraction"],
        ) == (0, 0, 0, 0)
    first = read_metrics(out / "ppo")[0]
    assert (first["kl"], first["kl_k3"]) == (0, 0)  # the policy is the reference, too


def test_the_learning_rate_falls_linearly_and_never_to_zero(six_updates):
    """Ziegler et al., train_policy.py:172, and N+, ppo.py:575: the first is the base, the last is base / updates."""
    assert logged(six_updates / "ppo", "lr") == pytest.approx(
        [0.003 * (6 - i) / 6 for i in range(6)], rel=1e-5
    )


def test_kl_coef_adapts_to_the_target_after_each_rollout(six_updates):
    """Ziegler et al. 2019, section 2.2: proportional control with the error clipped to 20%; a rollout is rewarded with the
    coefficient of before it."""
    coefs, kls = logged(six_updates / "ppo", "kl_coef"), logged(six_updates / "ppo", "kl")
    assert coefs[0] == train_ppo.Config().kl_coef
    for coef, kl, following in zip(
        coefs, kls, [*coefs[1:], saved(six_updates / "ppo")["kl_coef"]], strict=True
    ):
        error = min(max(kl / 1.1 - 1, -0.2), 0.2)
        assert following == pytest.approx(coef * (1 + error * 6 / 20), rel=1e-5)
    assert any(abs(kl / 1.1 - 1) < 0.2 for kl in kls), (
        "every error was clipped, so that any KL would have done"
    )


def test_kl_coef_stays_where_it_is_without_a_target(out, prompts):
    """Adapting is a choice, and off: Stiennon et al., InstructGPT, Llama 2 and N+ have it fixed."""
    ppo(out, *prompts, *SMALL, "--kl-coef", "0.3")
    assert set(logged(out / "ppo", "kl_coef")) == {0.3}


def test_gradients_are_clipped_and_their_mean_norm_before_that_is_logged(
    out, prompts, gradient_norms
):
    """Once an optimiser step, of which there are epochs times minibatches an update (TRL's option to have several minibatches
    had no effect: #5645). Ziegler et al. and N+ do not clip; Llama 2 does, at 1."""
    ppo(
        out,
        *prompts,
        *SMALL,
        *"--updates 2 --max-grad-norm 0.01 --epochs 3 --minibatches 2 --microbatch-tokens 20".split(),
    )
    assert len(gradient_norms) == 2 * 3 * 2
    assert gradient_norms == pytest.approx([0.01] * 12, rel=1e-3)
    assert min(logged(out / "ppo", "grad_norm")) > 0.02


def test_the_evaluation_shows_prompts_before_and_after(six_updates):
    """The one table that shows reward hacking: read the responses ("thanks thanks" in DeepSpeedExamples #491)."""
    text = (six_updates / "ppo" / "samples.txt").read_text()
    assert text.index("after 3 updates") < text.index("after 6 updates")
    header = next(line for line in text.splitlines() if "SFT response" in line)
    assert header.split() == "prompt SFT response policy response score kl".split()
    assert sum(line.startswith("Pick a colour, number") for line in text.splitlines()) == 2 * 4


def test_on_the_world_the_judge_has_its_say(world_out):
    """The true score beside the proxy, without which over-optimisation is invisible."""
    ppo(world_out, *SMALL, "--updates", "1", "--prompts", "20")
    (line,) = read_metrics(world_out / "ppo")
    assert line.keys() == METRICS | JUDGED | AXES
    assert 0 <= line["eval_win_rate"] <= 1


def test_held_out_prompts_are_not_trained_on(out, prompts, monkeypatch):
    """The first tenth of your file is kept for the evaluation; the other prompts come once each before any comes twice."""
    asked = []
    sample = train_ppo.sample
    monkeypatch.setattr(
        train_ppo,
        "sample",
        lambda args, gpt, tok, p, step: asked.extend(p) or sample(args, gpt, tok, p, step),
    )
    ppo(out, *prompts, *SMALL)
    assert len(asked) == len(set(asked)) == 36  # 40 less 4
    assert not any(f"number {i}." in prompt for prompt in asked for i in range(4))


def test_the_defaults_are_those_of_the_sources():
    """gamma 1, lambda .95, both clips .2, the value loss at a tenth, a fixed kl_coef, a shared trunk: Ziegler et al. 2019, N+.
    Gradients are clipped at 1 (Llama 2), and the reward model sees its comparisons once, as in all of them."""
    c = train_ppo.Config()
    found = (
        c.gamma,
        c.lam,
        c.clip,
        c.value_clip,
        c.vf_coef,
        c.max_grad_norm,
        c.kl_target,
        c.critic,
    )
    assert found == (1, 0.95, 0.2, 0.2, 0.1, 1, 0, "shared")
    assert train_rm.Config().epochs == 1


def test_the_optimiser_has_all_that_is_trained_and_an_eps_of_1e_5(out, prompts, monkeypatch):
    """N+'s Adam: eps 1e-5, no decay. A value head that is not in it stays at zero, and the advantages are the returns."""
    made, adamw = [], optim.adamw
    monkeypatch.setattr(
        optim, "adamw", lambda m, *a, **k: made.append((m, adamw(m, *a, **k))) or made[-1][1]
    )
    ppo(out, *prompts, *SMALL, "--updates", "1")
    ((actor, optimizer),) = made
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(
        list(actor.parameters())
    )
    assert all(
        (g["eps"], g["betas"], g["weight_decay"]) == (1e-5, (0.9, 0.999), 0)
        for g in optimizer.param_groups
    )
    assert saved(out / "ppo")["value_head"]["weight"].any()


def test_one_temperature_reaches_sampler_scorer_and_update(out, prompts, monkeypatch):
    """At .001 the policy is all but greedy, and has to be scored so: at any other temperature its tokens have other
    log-probabilities, and the first ratio is not 1 (trlX, accelerate_ppo_trainer.py:445; rlhf-book, utils.py:264)."""
    asked, judged = [], evaluate.generate
    monkeypatch.setattr(evaluate, "generate", lambda *args: asked.append(args[4]) or judged(*args))
    ppo(
        out, *prompts, *SMALL, *"--updates 1 --epochs 1 --minibatches 1 --temperature 0.001".split()
    )
    (line,) = read_metrics(out / "ppo")
    assert line["sampled_entropy"] < 0.1
    assert line["ratio_min"] == line["ratio_max"] == 1 and line["kl"] == 0
    assert set(asked) == {0.001}


def test_every_update_draws_its_own_minibatches(out, prompts, monkeypatch):
    """The same permutation again and again would pair the same rows for the whole run."""
    plans, plan = [], ppo_module.plan
    monkeypatch.setattr(
        ppo_module,
        "plan",
        lambda lengths, *rest: plans.append(plan([5] * len(lengths), *rest)) or plans[-1],
    )
    ppo(out, *prompts, *SMALL, *"--updates 3 --minibatches 3".split())
    assert len(plans) == 3 and plans[0] != plans[1] != plans[2] != plans[0]


# ---- the score and its exceptions


def test_a_response_without_end_gets_the_stored_score_and_not_its_own(world_out):
    """This policy never ends within 4 tokens, and the model's own scores of that do not count. Replaced as by Ziegler et al.
    (lm_tasks.py:58); a flag wins."""
    argv = [*SMALL, "--updates", "1", "--prompts", "20", "--max-new-tokens", "4"]
    for flags, expected in (((), -3.0), (("--missing-end-score", "-5"), -5.0)):
        ppo(world_out, *argv, *flags, "--overwrite")
        (line,) = read_metrics(world_out / "ppo")
        assert line["ended"] == 0
        assert (
            line["score"] == line["score_min"] == line["score_max"] == expected != line["raw_score"]
        )


def test_scores_are_the_normalised_ones_read_at_the_end_token(colour_run):
    """One function for training, evaluation and PPO; three of them drift apart (TRL PR 5813: no end token in evaluation). A
    text scored with its end put back says the same."""
    gpt, tok = load_gpt(colour_run / "sft")
    args = train_ppo.Config(out=str(colour_run), max_new_tokens=6)
    score, missing_end_score, model = train_ppo.load_reward(args, tok, "cpu", torch.float32)
    asked = [f"Pick a colour, number {i}.\n" for i in range(12)]
    _, replies = train_ppo.sample(args, gpt, tok, asked, 0)
    # A reply that is the tokenizer's own spelling of its text; a policy may spell a word in other pieces.
    same_ids = [n for n, r in enumerate(replies) if r.example == data.encode(tok, asked[n], r.text)]
    assert len(same_ids) > 3
    texts = reward.score(
        model, tok, [asked[n] for n in same_ids], [replies[n].text for n in same_ids]
    )
    assert torch.allclose(score(asked, replies)[same_ids], texts, atol=1e-5)
    assert missing_end_score == -3.0


def test_the_reward_model_and_the_reference_are_what_they_were(out, prompts, monkeypatch):
    """To the bit, in memory and on disk; a reference that learns along makes every KL zero, as if there were none
    (PaLM-rlhf-pytorch, ppo.py:339)."""
    kept = []
    load_rm, train = reward.load_reward_model, train_ppo.train

    def loaded(*args):
        kept.append(load_rm(*args))
        return kept[-1]

    def trained(args, folder, models, *rest):
        assert not any(p.requires_grad for p in models.reference.parameters())
        assert all(p.requires_grad for p in models.actor.parameters())
        train(args, folder, models, *rest)
        kept.append((models.reference, models.actor))

    monkeypatch.setattr(reward, "load_reward_model", loaded)
    monkeypatch.setattr(train_ppo, "train", trained)
    before = [(out / stage / "checkpoint.pt").read_bytes() for stage in ("sft", "rm")]
    ppo(out, *prompts, *SMALL, "--critic", "separate", "--lr", "0.003")
    assert before == [(out / stage / "checkpoint.pt").read_bytes() for stage in ("sft", "rm")]
    (model, _, _), (reference, actor) = kept
    assert same(dict(model.state_dict()), saved(out / "rm")["model"])
    assert same(dict(reference.state_dict()), saved(out / "sft")["model"])
    assert not torch.equal(actor.gpt.norm.weight, reference.norm.weight)  # or nothing was trained
    assert not torch.equal(actor.critic.norm.weight, model.gpt.norm.weight)


# ---- stopping, resuming, repeating


def test_three_updates_a_stop_and_three_more_are_six_to_the_bit(
    six_updates, colour_run, prompts, tmp_path, ctrl_c, capsys, gradient_norms
):
    """Policy, critic, value head, optimiser, kl_coef, metrics. TRL never saved the critic (#1643, PR 6120). And it goes
    on: whoever starts again at the first update ends with the same bits, an hour later."""
    argv = ["--sft", str(colour_run / "sft"), "--rm", str(colour_run / "rm"), *prompts, *SMALL]
    ctrl_c("ppo", 2)
    with pytest.raises(KeyboardInterrupt):
        ppo(tmp_path, *argv, "--critic", "separate", "--kl-target", "1.1", "--lr", "0.003")
    ctrl_c(None)
    told = capsys.readouterr().err
    assert f"{tmp_path / 'ppo' / 'checkpoint.pt'} holds 3 of 6 steps" in told and "--resume" in told
    load_gpt(tmp_path / "ppo")
    half = len(gradient_norms)
    ppo(tmp_path, "--resume")
    assert len(gradient_norms) == 2 * half
    assert logged(tmp_path / "ppo") == logged(six_updates / "ppo")
    state = saved(tmp_path / "ppo")
    assert same(state, saved(six_updates / "ppo"))
    assert {"model", "value_head", "critic", "optimizer", "kl_coef"} < state.keys()


def test_a_run_stores_what_it_computed_with_and_resumes_with_it(out, prompts, monkeypatch):
    """On a machine where auto means something else, and torch takes another number of threads."""
    threads = torch.get_num_threads()
    ppo(out, *prompts, *SMALL, "--updates", "1", "--device", "cpu", "--precision", "auto")
    flags = json.loads((out / "ppo" / "config.json").read_text())["flags"]
    assert (flags["precision"], flags["microbatch_tokens"], flags["threads"]) == (
        "float32",
        2048,
        threads,
    )
    asked = []
    monkeypatch.setattr(
        train_ppo, "train", lambda args, folder, models, *rest: asked.append((args, models.actor))
    )
    monkeypatch.setattr(
        compute, "pick_precision", lambda name, device: "bf16" if name == "auto" else name
    )
    monkeypatch.setattr(compute, "pick_microbatch", lambda tokens, *rest: tokens or 77)
    try:
        torch.set_num_threads(threads + 1)
        ppo(out, "--resume")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(threads)
    ((args, actor),) = asked
    assert (args.precision, args.microbatch_tokens, args.threads) == ("float32", 2048, threads)
    assert actor.gpt.precision == torch.float32


def test_with_a_shared_critic_it_resumes_to_the_bit_too(out, prompts, ctrl_c):
    """The value head is the only part that the policy's checkpoint does not hold anyway."""
    ppo(out, *prompts, *SMALL, "--lr", "0.003")
    whole = saved(out / "ppo"), logged(out / "ppo")
    ctrl_c("ppo", 2)
    with pytest.raises(KeyboardInterrupt):
        ppo(out, *prompts, *SMALL, "--lr", "0.003", "--overwrite")
    ctrl_c(None)
    ppo(out, "--resume")
    assert same(saved(out / "ppo"), whole[0]) and logged(out / "ppo") == whole[1]
    assert "critic" not in whole[0]


def test_a_separate_critic_starts_as_the_reward_model(out, prompts, monkeypatch):
    """Its value at the end token is the normalised score that the policy is about to get."""
    actors = []
    monkeypatch.setattr(
        train_ppo, "train", lambda args, folder, models, *rest: actors.append(models.actor)
    )
    ppo(out, *prompts, *SMALL, "--critic", "separate")
    model, _, _ = load_reward_model(out / "rm")
    tokens, lengths = (
        torch.randint(500, (3, 9), generator=torch.Generator().manual_seed(0)),
        torch.tensor([9, 5, 2]),
    )
    mask = torch.ones(3, 9, dtype=torch.bool)
    values = torch.stack(
        [
            actors[0](torch.cat([tokens, tokens[:, :1]], 1), mask)[1][b, n - 1]
            for b, n in enumerate(lengths)
        ]
    )
    assert torch.allclose(values, model(tokens, lengths), atol=1e-4)


def test_a_seed_decides_everything_and_no_global_generator_is_touched(
    six_updates, colour_run, prompts, tmp_path
):
    """Samples, minibatches, evaluation: the same bits twice, whatever the state of the global generators (TRL #1648)."""
    argv = ["--sft", str(colour_run / "sft"), "--rm", str(colour_run / "rm"), *prompts, *SMALL]
    argv += ["--critic", "separate", "--kl-target", "1.1", "--lr", "0.003"]
    before = generators()
    ppo(tmp_path / "again", *argv)
    ppo(tmp_path / "other", *argv, "--seed", "2")
    assert generators() == before
    assert same(saved(tmp_path / "again" / "ppo"), saved(six_updates / "ppo"))
    assert logged(tmp_path / "again" / "ppo") == logged(six_updates / "ppo")
    assert logged(tmp_path / "other" / "ppo", "score") != logged(six_updates / "ppo", "score")


# ---- bad input


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--minibatches 7", "--minibatches 7 must be at most --batch-size 6"),
        ("--kl-target 1 --kl-horizon 5", "--kl-horizon 5 must be at least --batch-size 6"),
    ],
)
def test_flags_that_do_not_fit_the_batch_are_refused(refused, out, prompts, flags, told):
    """An empty minibatch would be an optimiser step on nothing, and a horizon of less than a rollout overshoots its target."""
    assert told in refused(
        train_ppo.main, ["--out", str(out), *prompts, *SMALL, *flags.split()], out
    )


def test_a_reward_function_needs_a_score_for_responses_without_end(
    refused, out, prompts, my_rewards
):
    """Only the user knows what is low in the units of their own function."""
    told = refused(
        train_ppo.main, ["--out", str(out), *prompts, *SMALL, "--reward", my_rewards(BLUE)], out
    )
    assert "--missing-end-score" in told


@pytest.mark.parametrize(
    "result",
    [
        "1.0",
        "[1.0]",
        "[[1.0, 2.0, 3.0] for _ in responses]",
        "[float('nan')] * len(responses)",
        "None",
    ]
    + [
        "[1.0] * (len(responses) - 1) + [float('inf')]",
        "['good'] * len(responses)",
        "[[1.0], [1.0, 2.0]]",
    ],
)
def test_what_is_not_one_finite_number_a_response_is_one_line(
    refused, out, prompts, my_rewards, result
):
    """Found before anything is written. A NaN would turn every weight into NaN, a (B, 1) broadcast into (B, B)."""
    name = my_rewards(f"def reward(prompts, responses):\n    return {result}\n")
    argv = ["--out", str(out), *prompts, *SMALL, "--missing-end-score", "-1", "--reward", name]
    told = refused(train_ppo.main, argv, out)
    assert f"--reward {name}" in told and "4 finite numbers" in told


@pytest.mark.parametrize(
    "name", ["no_such_module:reward", "math:no_such_function", "math", ":reward", ".x:reward"]
)
def test_a_reward_function_that_is_not_there_is_one_line(refused, out, prompts, name):
    """Before anything is loaded or written, with the form that is expected."""
    argv = ["--out", str(out), *prompts, *SMALL, "--missing-end-score", "-1", "--reward", name]
    told = refused(train_ppo.main, argv, out)
    assert f"--reward {name}" in told and "module:function" in told


def test_a_separate_critic_needs_a_reward_model(refused, out, prompts, my_rewards):
    """It starts as one. A random network in its place would be a third kind of critic that nobody asked for."""
    argv = [
        "--out",
        str(out),
        *prompts,
        *SMALL,
        "--missing-end-score",
        "-1",
        "--critic",
        "separate",
    ]
    told = refused(train_ppo.main, [*argv, "--reward", my_rewards(BLUE)], out)
    assert "--critic separate" in told and "--critic shared" in told


def test_stages_that_are_missing_or_mixed_up_are_one_line(refused, out, prompts, tmp_path):
    """It says which script to run, or which checkpoint is not what it should be."""
    new = tmp_path / "new"
    assert "train_sft.py" in refused(train_ppo.main, ["--out", str(new), *prompts, *SMALL], new)
    told = refused(
        train_ppo.main, ["--out", str(new), *prompts, *SMALL, "--sft", str(out / "sft")], new
    )
    assert "train_rm.py" in told
    told = refused(
        train_ppo.main, ["--out", str(out), *prompts, *SMALL, "--rm", str(out / "sft")], out
    )
    assert "stage sft" in told and "rm" in told
    told = refused(
        train_ppo.main, ["--out", str(out), *prompts, *SMALL, "--sft", str(out / "rm")], out
    )
    assert "stage rm" in told


def test_a_reward_model_with_another_tokenizer_is_one_line(refused, out, prompts, monkeypatch):
    """The same ids would be other words."""
    get_tokenizer = checkpoint.get_tokenizer

    def other(name):
        tok = get_tokenizer("tiny")
        if name == "other":
            tok.name, tok.fingerprint = "other", lambda: "another vocabulary"
        return tok

    state = saved(out / "rm") | {"tokenizer": "other", "vocabulary": "another vocabulary"}
    torch.save(state, out / "rm" / "checkpoint.pt")
    monkeypatch.setattr(checkpoint, "get_tokenizer", other)
    told = refused(train_ppo.main, ["--out", str(out), *prompts, *SMALL], out)
    assert "tokenizer tiny" in told and "other" in told


def test_a_prompt_without_room_for_its_response_is_one_line(refused, out, prompts, colours):
    """On your prompts the line names file and number, on the world's the number of tokens; nothing is written."""
    told = refused(
        train_ppo.main, ["--out", str(out), *prompts, *SMALL, "--max-new-tokens", "25"], out
    )
    assert f"{colours / 'prompts.jsonl'}:1: " in told and "context of 32" in told
    told = refused(
        train_ppo.main,
        ["--out", str(out), *SMALL, "--prompts", "20", "--max-new-tokens", "25"],
        out,
    )
    assert "context of 32" in told


def test_an_existing_run_and_a_flag_out_of_range_are_one_line(
    refused, six_updates, colour_run, prompts
):
    """A temperature of 0 has no log-probabilities, a negative price pays for leaving: named, with the flag."""
    argv = [
        "--out",
        str(six_updates),
        "--sft",
        str(colour_run / "sft"),
        "--rm",
        str(colour_run / "rm"),
        *prompts,
        *SMALL,
    ]
    assert "--overwrite" in refused(train_ppo.main, argv, six_updates)
    for flag, value in (
        ("--gamma", "1.5"),
        ("--temperature", "0"),
        ("--kl-coef", "-1"),
        ("--clip", "nan"),
    ):
        assert flag in refused(train_ppo.main, [*argv, flag, value], six_updates)


# ---- the command: python -m minirlhf.evaluate


def comparison(capsys, *argv):
    """Runs the command; returns {name: (rate, half interval)} as printed, and all that was printed."""
    capsys.readouterr()
    evaluate_command.main(["--max-new-tokens", "6", "--best-of", "1", "--prompts", "12", *argv])
    text = capsys.readouterr().out
    lines = [line for line in text.splitlines() if " beats the baseline: " in line]
    parts = {
        line.split(" beats ")[0]: line.split(": ")[1].split(" of ")[0].split("% +- ")
        for line in lines
    }
    return {name: (float(rate), float(half)) for name, (rate, half) in parts.items()}, text


def test_a_checkpoint_against_itself_wins_exactly_half(world_run, colour_run, prompts, capsys):
    """Same noise, both orders, ties count half. minChatGPT's judge was always shown the candidate second (evaluate.py:166). KL
    is 0 too."""
    for run, argv in ((world_run, []), (colour_run, prompts)):
        names = (
            "--policy",
            str(run / "sft"),
            "--baseline",
            str(run / "sft"),
            "--reward-model",
            str(run / "rm"),
        )
        rates, text = comparison(capsys, *names, *argv)
        assert rates == {"baseline": (50.0, 0.0), "policy": (50.0, 0.0)}
        kl = text.splitlines()[1].split().index("kl")
        rows = [
            line.split()
            for line in text.splitlines()
            if line.startswith(("baseline  ", "policy  "))
        ]
        assert [row[1 + kl] for row in rows] == ["0.00", "0.00"] and rows[0][1:] == rows[1][1:]


def test_a_policy_that_learnt_beats_the_one_it_came_from(out, prompts, capsys):
    """And best-of-n beats it without learning, at the KL of the formula: log 4 - 3/4 = 0.64."""
    ppo(
        out,
        *prompts,
        *"--updates 12 --batch-size 48 --max-new-tokens 6 --lr 0.003 --held-out 4".split(),
    )
    names = (
        "--policy",
        str(out / "ppo"),
        "--baseline",
        str(out / "sft"),
        "--reward-model",
        str(out / "rm"),
    )
    rates, text = comparison(
        capsys, *names, *prompts, "--prompts", "40", "--best-of", "4", "--shown", "3"
    )
    assert rates["policy"][0] > 55 and rates["best of 4"][0] > 65
    assert 0 < rates["policy"][1] < 20
    assert text.count("Pick a colour, number") == 3
    row = next(line for line in text.splitlines() if line.startswith("best of 4  "))
    assert row.split()[4] == f"{math.log(4) - 3 / 4:.2f}"


def test_your_own_judge_is_asked_in_both_orders(out, prompts, my_rewards, capsys):
    """One who always likes the first says nothing about the policies: 50%."""
    name = my_rewards("def reward(prompts, first, second):\n    return [1.0] * len(prompts)\n")
    names = "--policy", str(out / "sft"), "--baseline", str(out / "sft"), "--reward-model", "none"
    rates, _ = comparison(capsys, *names, *prompts, "--judge", name)
    assert rates["policy"] == (50.0, 0.0)


def test_evaluation_refuses_what_it_cannot_compare(refused, out, prompts, tmp_path):
    """A reward model as a policy, prompts that nobody can judge, a folder without a run, a context too short: each by its own
    line."""
    names = ["--baseline", str(out / "sft"), "--reward-model", "none"]
    told = refused(evaluate_command.main, [*names, "--policy", str(out / "rm"), *prompts], out)
    assert "stage rm" in told
    told = refused(
        evaluate_command.main,
        [*names, "--policy", str(out / "sft"), *prompts, "--max-new-tokens", "6"],
        out,
    )
    assert "--judge" in told  # your prompts, and nobody to judge them
    told = refused(
        evaluate_command.main, [*names, "--policy", str(tmp_path / "nowhere"), *prompts], out
    )
    assert "nowhere" in told
    told = refused(
        evaluate_command.main, [*names, "--policy", str(out / "sft"), "--max-new-tokens", "30"], out
    )
    assert "context of 32" in told  # the world's prompts


def test_evaluation_judges_the_worlds_held_out_prompts(world_run, capsys, monkeypatch):
    """Never the ones trained on, and the judge's axes come first in the table."""
    splits = []
    prompts = writers.prompts
    monkeypatch.setattr(
        writers,
        "prompts",
        lambda n, rng, split="train": splits.append(split) or prompts(n, rng, split),
    )
    names = (
        "--policy",
        str(world_run / "sft"),
        "--baseline",
        str(world_run / "pretrain"),
        "--reward-model",
        "none",
    )
    _, text = comparison(capsys, *names)
    assert splits == ["test"]
    assert text.splitlines()[1].split()[:4] == ["helpful", "honest", "harmless", "total"]


def test_an_evaluation_pays_a_response_without_end_what_training_pays():
    """A score read in mid-sentence means nothing: on real data with a weak model it read 61 where training gave -3."""
    replies = [evaluate.Reply("done", None, True), evaluate.Reply("cut o", None, False)]
    scores = train_ppo.final_scores(
        lambda prompts, replies: torch.tensor([0.5, 61.0]), -3.0, ["a", "b"], replies
    )
    assert scores.tolist() == [0.5, -3.0]
