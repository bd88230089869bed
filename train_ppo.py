"""Stage 3: prompts and a reward model -> a policy with a higher score, held near the SFT model.

    python train_ppo.py                                    from out/sft and out/rm: out/ppo
    python train_ppo.py --data prompts.jsonl               your own prompts
    python train_ppo.py --reward my_rewards:brevity ...    your own reward: a plain function
                                                           (prompts, responses) -> scores

`iterate` is the algorithm (Ziegler et al. 2019; Ouyang et al. 2022), one iteration of it; the
mathematics is in minirlhf/ppo.py.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from minirlhf import data, evaluate, grpo, lora, ppo
from minirlhf.formats import jsonl
from minirlhf.generate import generate
from minirlhf.model import GPT
from minirlhf.rewards import credit, ensemble, function
from minirlhf.rewards.credit import CreditFlags
from minirlhf.rewards.ensemble import EnsembleFlags
from minirlhf.run import chain, checkpoint, compute, config, distributed, health, optim
from minirlhf.run.config import ChainFlags, InputError, TrainingFlags, flag, rng
from minirlhf.run.files import listed
from minirlhf.run.folder import start_run
from minirlhf.run.metrics import Clock
from minirlhf.run.progress import Progress
from minirlhf.tokenizer import Tokenizer
from minirlhf.tools import microscope, ptx
from minirlhf.tools.monitor import Monitor
from minirlhf.tools.ptx import PtxFlags
from minirlhf.world import writers


@dataclass(frozen=True)
class Config(TrainingFlags, ChainFlags, EnsembleFlags, CreditFlags, PtxFlags):
    """Stage 3: improve the SFT model by PPO against a reward model. Without --data, on the embedded
    world's prompts."""

    out: str = flag("out", "folder of all stages; this one writes OUT/ppo")
    sft: str = flag("", "checkpoint that the policy starts from and is held near [OUT/sft]")
    rm: str = flag("", "reward model [OUT/rm]; several are A,B,C, see --combine")
    reward: str = flag(
        "", "module:function, (prompts, responses) -> scores, instead of the reward model"
    )
    data: str = flag(
        "",
        "prompts: JSON Lines, JSON, CSV or Parquet; any form of minirlhf formats has some",
    )
    prompts: int = flag(20_480, "prompts drawn from the world", low=1)
    algorithm: str = flag(
        "ppo",
        "PPO, or a method without a critic that compares the responses to a prompt with each other",
        choices=("ppo", *grpo.ALGORITHMS),
    )
    group: int = flag(4, "responses to each prompt, unless --algorithm is ppo", low=2)
    updates: int = flag(96, "rollouts, each followed by an update", low=1)
    batch_size: int = flag(256, "responses per rollout", low=1)
    epochs: int = flag(1, "passes over a rollout", low=1)
    minibatches: int = flag(8, "optimiser steps per pass", low=1)
    max_new_tokens: int = flag(32, "the most tokens a response may have", low=1)
    temperature: float = flag(
        1.0, "sampling temperature; every log-probability and entropy uses it too", above=0
    )
    lr: float = flag(
        4e-4,
        "peak learning rate; after the warm-up it falls linearly, to lr / updates at the last",
        above=0,
    )
    value_head_rate: float = flag(
        10.0, "learning rate of the value head, in multiples of --lr", above=0
    )
    warmup: int = flag(16, "updates over which the learning rate rises", low=0)
    clip: float = flag(0.2, "how far the ratio may leave 1 before its gradient stops", above=0)
    value_clip: float = flag(
        0.2, "how far a value may leave its old one before its gradient stops", above=0
    )
    vf_coef: float = flag(0.1, "weight of the value loss", low=0)
    gamma: float = flag(1.0, "discount", low=0, high=1)
    lam: float = flag(1.0, "lambda of generalised advantage estimation", low=0, high=1)
    kl_coef: float = flag(0.1, "penalty, in reward, per nat of KL from the reference", low=0)
    kl_target: float = flag(
        0.0, "KL per response, in nats, that kl_coef adapts to; 0 keeps kl_coef fixed", low=0
    )
    kl_horizon: float = flag(10_000, "responses over which kl_coef adapts", above=0)
    missing_end_score: float = flag(
        math.nan,
        "score of a response without end [the reward model's; required with --reward]",
    )
    critic: str = flag(
        "shared",
        "value head on the policy's trunk, or a network that starts as the reward model",
        choices=("shared", "separate"),
    )
    held_out: int = flag(
        256, "prompts to evaluate on (of --data, from the tenth that is held out)", low=1
    )
    eval_every: int = flag(10, "updates between two evaluations on held-out prompts", low=1)
    save_every: int = flag(20, "updates between two checkpoints", low=1)
    microscope: int = flag(
        4, "responses whose tokens are recorded at the first update and at evaluations", low=0
    )


# What makes a policy worthless when it is NaN or infinite.
FINITE = ("score", "kl", "return_mean", "policy_loss", "value_loss", "entropy", "grad_norm")


@dataclass(frozen=True)
class Models:
    """What an iteration of PPO uses, beside its flags."""

    actor_critic: ppo.ActorCritic  # the policy and its value function
    reference: GPT  # the SFT model, frozen
    score: Callable  # (prompts, replies) -> scores (B,): the reward model, or a function
    missing_end_score: float
    tokenizer: Tokenizer
    credit: Callable = credit.none  # (scores, samples, mask) -> rewards (B, T-1) of --credit
    ptx_loss: Callable = ptx.none  # step -> what ppo.update adds to its loss, at --ptx-coef


def iterate(args, models, optimizer, controller, prompts, step):
    """One iteration of PPO, on one batch of prompts. Returns its metrics and its rollout."""
    actor_critic, clock = models.actor_critic, Clock()

    # Sample a response to each prompt: tensors for PPO, and the same rows as replies, with text.
    samples, replies = sample(args, actor_critic.gpt, models.tokenizer, prompts, step)
    clock.lap("rollout_s")

    # Score each response.
    raw_scores = models.score(prompts, replies).to(samples.tokens.device)
    scores = ppo.missing_end_rule(raw_scores, samples.ended, models.missing_end_score)

    # Log-probabilities and values of each token. The plan says which rows form which microbatch; in
    # the update the first epoch has the same, so that every ratio of its first minibatch is 1.
    lengths, shuffle = samples.lengths.tolist(), rng(args.seed, config.MINIBATCHES, step)
    plan = ppo.plan(lengths, args.epochs, args.minibatches, args.microbatch_tokens, shuffle)
    logprobs, ref_logprobs, values = ppo.logprobs_and_values(
        actor_critic, models.reference, samples, plan[0], args.temperature
    )

    # The reward of each token, its advantage, and the target of its value.
    mask, kl_coef = samples.mask.to(samples.tokens.device), controller.kl_coef
    rewards = ppo.token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef)
    rewards += models.credit(scores, samples, mask)  # 0, unless --credit shares the score out
    raw_advantages, returns = ppo.gae(rewards, values, mask, args.gamma, args.lam)
    advantages = ppo.whiten(raw_advantages, mask)
    rollout = ppo.Rollout(
        samples, mask, logprobs, ref_logprobs, values, rewards, raw_advantages, advantages, returns
    )
    stats = to_floats(ppo.rollout_stats(rollout, raw_scores, scores, samples.ended, kl_coef))
    clock.lap("scoring_s")

    # Optimiser steps on the rollout; then the KL coefficient adapts.
    flags = update_flags(args) | {"auxiliary_loss": models.ptx_loss(step)}
    stats |= to_floats(ppo.update(actor_critic, optimizer, rollout, plan, **flags))
    controller.update(stats["kl"], len(prompts))
    clock.lap("update_s")
    stats |= clock.seconds | {"tokens_per_s": int(samples.lengths.sum()) / clock.total()}
    return stats, rollout


def sample(args, gpt, tokenizer, prompts, step):
    """A response to each prompt: Samples, their lengths on the CPU, and the same as replies."""
    ids = [data.encode_prompt(tokenizer, prompt) for prompt in prompts]
    draw = rng(args.seed, config.ROLLOUTS, step).random
    uniforms = torch.from_numpy(draw((len(ids), args.max_new_tokens), dtype=np.float32))
    ids, uniforms = map(distributed.mine, (ids, uniforms))
    samples = generate(
        gpt, ids, args.max_new_tokens, tokenizer.end_token, args.temperature, uniforms
    )
    # Microbatches are planned on the CPU.
    samples = samples._replace(
        prompt_lengths=samples.prompt_lengths.cpu(), lengths=samples.lengths.cpu()
    )
    return evaluate.gathered(samples, evaluate.unpack(samples, tokenizer))


def iteration(args):
    """The function that is one iteration of --algorithm."""
    return iterate if args.algorithm == "ppo" else partial(grpo.iterate, sample)


def batch_of_prompts(args, prompts, step):
    """The next prompts, for --batch-size responses: one each in PPO, else --group in a row."""
    group = 1 if args.algorithm == "ppo" else args.group
    n = args.batch_size // group
    places = data.stream(len(prompts), step * n, (step + 1) * n, args.seed)
    return [prompts[i] for i in places for _ in range(group)]


def update_flags(args):
    """The flags that ppo.update has as arguments."""
    return {
        "temperature": args.temperature,
        "clip": args.clip,
        "value_clip": args.value_clip,
        "vf_coef": args.vf_coef,
        "max_grad_norm": args.max_grad_norm,
    }


def to_floats(stats):
    """Converts tensors to floats. This waits for the GPU, so that the next reading of the clock
    includes all work of the phase."""
    return {name: float(x) for name, x in stats.items()}


def make_optimizer(args, actor_critic):
    """N+'s Adam: eps 1e-5, no decay. The value head has a learning rate of its own."""
    head = {"head": actor_critic.value_head, "head_scale": args.value_head_rate}
    return optim.adamw(actor_critic, args.lr, betas=(0.9, 0.999), eps=1e-5, **head)


def train(args, folder, models, prompts, monitor):
    """Iterate, from the last checkpoint on; log, evaluate and save."""
    health.warn(health.short_run(args.updates, args.warmup, "raise --updates"))
    actor_critic = models.actor_critic
    optimizer = make_optimizer(args, actor_critic)
    parts = {"model": actor_critic.gpt, "value_head": actor_critic.value_head}
    parts["optimizer"] = optimizer
    if actor_critic.critic:
        parts["critic"] = actor_critic.critic
    state = checkpoint.restore(folder, "ppo", args.resume, **parts)
    kl_coef = state.get("kl_coef", args.kl_coef)  # it may have adapted
    controller = ppo.AdaptiveKL(kl_coef, args.kl_target, args.kl_horizon)
    first = state["step"]
    bar = tqdm(range(first, args.updates), desc=args.algorithm, initial=first, total=args.updates)

    def save(updates):
        parts["kl_coef"], shape = controller.kl_coef, (actor_critic.gpt.config, models.tokenizer)
        checkpoint.save(folder, "ppo", *shape, updates, keep=args.keep, **parts)

    with Progress(folder, state, args.updates, args.save_every, optimizer, save) as progress:
        for step in bar:
            share = optim.linear(step, args.updates, args.warmup)
            optim.set_learning_rate(optimizer, args.lr * share)
            batch = batch_of_prompts(args, prompts, step)
            stats, rollout = iteration(args)(args, models, optimizer, controller, batch, step)
            optim.require_finite(step, **{name: stats[name] for name in FINITE if name in stats})

            # ---- bookkeeping
            updates = step + 1
            stats |= {"lr": optim.learning_rate(optimizer), "episodes": updates * args.batch_size}
            stats |= ensemble.stats(models.score)
            progress.complete(updates, stats)
            if progress.due(args.eval_every):
                stats |= monitor.evaluate(updates, actor_critic.gpt, folder)
            if args.microscope and (not step or progress.due(args.eval_every)):
                microscope.record(args, folder, step, models, rollout)
            bar.set_postfix({name: f"{stats[name]:.2f}" for name in ("score", "kl", "ended")})
            progress.record()


def main(argv=None):
    args = checkpoint.configure(Config, "ppo", argv)
    check_flags(args)
    device = compute.pick_device(args.device)
    args = compute.resolve(args, device)
    precision = compute.PRECISIONS[args.precision]

    path, reward_paths = model_paths(args)
    reference, tokenizer = checkpoint.load_gpt(path, device=device, precision=precision)
    reference.requires_grad_(False)
    args = compute.resolve_microbatch(args, device, tokenizer.vocab_size)
    score, missing_end_score, reward_models = load_reward(args, tokenizer, reference)
    chain.refuse_mixed(args, path, *reward_paths)
    critic = reward_models[0] if args.critic == "separate" else None
    policy = lora.start(args, reference)
    if args.algorithm == "ppo":
        actor_critic = ppo.ActorCritic(policy, critic).to(device)
        actor_critic.critic = critic and lora.start(args, critic.gpt)
    else:
        actor_critic = grpo.Policy(policy).to(device)

    trunks = [reference, *(model.gpt for model in reward_models)]
    context = min(gpt.config.context for gpt in trunks)
    prompts, held_out = load_prompts(args, tokenizer, context)
    score = ensemble.robust(args, score, reward_models, reference, tokenizer, prompts)
    # The monitor scores the held-out prompts at once, so that a mistake in a user's own reward
    # function shows before any file is written.
    final_score = partial(evaluate.final_scores, score, missing_end_score)
    ptx_loss, text, held_out_text = ptx.load(args, tokenizer, policy)
    monitor = Monitor(args, tokenizer, held_out, final_score, reference, held_out_text)

    inputs = {"data": prompts + held_out, "sft": reference, "rm": ensemble.one(reward_models)}
    inputs |= {"missing_end_score": missing_end_score, "reward": function.source(args.reward)}
    inputs["text"] = text + held_out_text
    with start_run(args, tokenizer, "ppo", **inputs) as (folder,):
        others = credit.function(args, reward_models), ptx_loss
        models = Models(actor_critic, reference, score, missing_end_score, tokenizer, *others)
        train(args, folder, models, prompts, monitor)
    print(f"the policy is in {folder}; compare it: {evaluation_command(args, folder)}")


def model_paths(args):
    """The checkpoint of the SFT model, and a list of those of the reward models, empty with
    --reward."""
    return args.sft or f"{args.out}/sft", [] if args.reward else listed(args.rm or f"{args.out}/rm")


def evaluation_command(args, folder):
    """The command that compares the policy with the SFT model, on the same data by the same
    score."""
    sft, reward_models = model_paths(args)
    flags = {"policy": folder, "baseline": sft}
    if args.reward:
        flags |= {"reward": args.reward, "missing_end_score": args.missing_end_score}
    else:
        flags |= {"reward_model": reward_models[0]}
    return chain.command("minirlhf evaluate", args, chain.EVALUATION_FLAGS, **flags)


def check_flags(args):
    """Refuses flags that contradict one another, or that nobody reads."""
    idle = {"rm": "--reward takes its place"} if args.reward else {}
    idle |= {"prompts": "the prompts are those of --data"} if args.data else {}
    idle |= {} if args.kl_target else {"kl_horizon": "is about --kl-target"}
    config.refuse_idle(args, idle)
    grpo.check_flags(args, Config)
    ensemble.check_flags(args)
    credit.check_flags(args)
    ptx.check_flags(args)
    if args.minibatches > args.batch_size:
        problem = f"--minibatches {args.minibatches} must be at most"
        raise InputError(f"{problem} --batch-size {args.batch_size}")
    if args.kl_target and args.kl_horizon < args.batch_size:
        problem = f"--kl-horizon {args.kl_horizon:g} must be at least"
        raise InputError(f"{problem} --batch-size {args.batch_size}")
    if args.resume:
        updates = checkpoint.stored_step(f"{args.out}/ppo", "ppo")
        if updates > args.updates:
            raise InputError(f"--updates {args.updates}: the run in {args.out}/ppo has {updates}")
    if args.reward and args.critic == "separate":
        raise InputError(
            "--critic separate starts as the reward model; with --reward there is none, so use "
            "--critic shared"
        )
    if args.reward and math.isnan(args.missing_end_score):
        raise InputError(
            "--reward needs --missing-end-score, what a response without end gets: well below any "
            "other score"
        )


def load_reward(args, tokenizer, reference):
    """The scores of replies as a function (prompts, replies) -> (N,), the missing-end score, and
    the reward models (none with --reward)."""
    if args.reward:
        scorer = function.load_function("--reward", args.reward)
        score = partial(function.call, args.reward, scorer)
        return score, args.missing_end_score, []
    sft = reference if args.critic == "shared" else None  # a critic changes a trunk of its own
    where = reference.device, reference.precision, sft
    reward_models, stored = ensemble.load(model_paths(args)[1], tokenizer, *where)
    missing_end_score = stored if math.isnan(args.missing_end_score) else args.missing_end_score
    return partial(evaluate.score_replies, reward_models[0]), missing_end_score, reward_models


def load_prompts(args, tokenizer, context):
    """(prompts to learn on, prompts held out)"""
    if args.data:
        fits = data.fits_context(tokenizer, context, args.max_new_tokens, args.drop_long)
        columns = function.wanted_columns(args.reward)
        prompts = jsonl.read_prompts(args.data, fits, **jsonl.flags(args, columns=columns))
        prompts, held_out = data.hold_out(prompts, args.held_out, args.seed)
        return prompts, held_out or prompts[:1]  # a single prompt serves for both
    room = tokenizer, context, args.max_new_tokens, args.drop_long
    prompts = writers.prompts(args.prompts, rng(args.seed, config.PPO_PROMPTS))
    held_out = writers.prompts(args.held_out, rng(args.seed, config.HELD_OUT_PROMPTS), "validation")
    return data.fitting_prompts(prompts, *room), data.fitting_prompts(held_out, *room)


if __name__ == "__main__":
    config.run(main)
