"""Stage 3: prompts and a reward model -> a policy that earns more, on a leash that keeps it near the SFT model.

    python train_ppo.py                                    from out/sft, rewarded by out/rm: out/ppo
    python train_ppo.py --data prompts.jsonl               your own prompts
    python train_ppo.py --reward my_rewards:brevity ...    your own reward, a plain function (prompts, responses) -> scores

The loop in `train` is the algorithm (Ziegler et al. 2019; Ouyang et al. 2022); the mathematics is in minirlhf/ppo.py.
"""

import copy
import dataclasses
import math
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from minirlhf import checkpoint, config, data, evaluate, model, ppo, reward, world
from minirlhf.config import InputError, flag, rng
from minirlhf.generate import generate
from minirlhf.metrics import Metrics


@dataclass(frozen=True)
class Config:
    """Stage 3: improve the SFT model by PPO against a reward model. Without --data, on the embedded world's prompts."""

    out: str = flag("out", "folder of all stages; this one writes OUT/ppo")
    sft: str = flag("", "checkpoint that the policy starts from and is held to [OUT/sft]")
    rm: str = flag("", "reward model [OUT/rm]")
    reward: str = flag("", "module:function, (prompts, responses) -> scores, instead of the reward model")
    data: str = flag("", "prompts as JSON Lines (plain or gzip); HH-RLHF's dialogues will do")
    prompts: int = flag(20_480, "prompts drawn from the world", low=1)
    updates: int = flag(80, "rollouts, each followed by an update", low=1)
    batch_size: int = flag(256, "responses a rollout", low=1)
    epochs: int = flag(2, "passes over a rollout", low=1)
    minibatches: int = flag(4, "optimiser steps a pass", low=1)
    microbatch_tokens: int = flag(0, "tokens that go through the model at once: memory, not results; 0 suits the device", low=0)
    max_new_tokens: int = flag(32, "the most tokens a response may have", low=1)
    temperature: float = flag(1.0, "of the policy, in sampling and in every log-probability", above=0)
    lr: float = flag(2e-4, "learning rate of the first update; it falls linearly, to lr / updates at the last", above=0)
    clip: float = flag(0.2, "how far the ratio may leave 1 before its gradient stops", above=0)
    value_clip: float = flag(0.2, "how far a value may leave its old one before its gradient stops", above=0)
    vf_coef: float = flag(0.1, "weight of the value loss", low=0)
    gamma: float = flag(1.0, "discount", low=0, high=1)
    lam: float = flag(0.95, "lambda of generalised advantage estimation", low=0, high=1)
    max_grad_norm: float = flag(1.0, "gradients are scaled down to this norm", above=0)
    kl_coef: float = flag(0.1, "reward paid per nat of KL from the reference", low=0)
    kl_target: float = flag(0.0, "KL per response, in nats, that kl_coef adapts to; 0 keeps kl_coef fixed", low=0)
    kl_horizon: float = flag(10_000, "responses over which kl_coef adapts", above=0)
    missing_end_score: float = flag(math.nan, "score of a response without end [the reward model's; required with --reward]")
    critic: str = flag(
        "shared",
        "value head on the policy's trunk, or a network that starts as the reward model",
        choices=("shared", "separate"),
    )
    eval_every: int = flag(10, "updates between two evaluations on held-out prompts", low=1)
    eval_prompts: int = flag(256, "held-out prompts (at most a tenth of --data)", low=1)
    save_every: int = flag(20, "updates between two checkpoints", low=1)
    drop_long: bool = flag(False, "leave out prompts that do not fit the context, instead of stopping with an error")
    seed: int = flag(1, "seed of everything random", low=0)
    device: str = flag("auto", "where to run; auto takes the GPU if there is one", choices=("auto", "cpu", "cuda"))
    precision: str = flag("auto", "of the trunk; auto: bf16 on a GPU, float32 on a CPU", choices=("auto", "float32", "bf16"))
    threads: int = flag(0, "threads of the CPU; 0: torch's choice, one a core; 1 is faster beside another job", low=0)
    compile: bool = flag(False, "compile what learns by torch.compile: half a minute, and on a CPU no gain")
    resume: bool = flag(False, "continue the run in OUT/ppo with its flags")
    overwrite: bool = flag(False, "replace the run that is already there")


def main(argv=None):
    args = checkpoint.configure(Config, "ppo", argv)
    if args.minibatches > args.batch_size:
        raise InputError(f"--minibatches {args.minibatches} must be at most --batch-size {args.batch_size}")
    if args.kl_target and args.kl_horizon < args.batch_size:
        raise InputError(f"--kl-horizon {args.kl_horizon:g} must be at least --batch-size {args.batch_size}")
    device, compiled = model.pick_device(args.device), model.pick_compile(args.compile)
    args = model.resolve(args, device)
    precision = model.PRECISIONS[args.precision]
    reference, tok = checkpoint.load_gpt(args.sft or f"{args.out}/sft", device=device, precision=precision)
    args = dataclasses.replace(args, microbatch_tokens=model.pick_microbatch(args.microbatch_tokens, device, tok.vocab_size))
    reference.requires_grad_(False)
    score, missing_end_score, reward_model = load_reward(args, tok, device, precision)
    context = min(gpt.config.context for gpt in [reference, *([reward_model.gpt] if reward_model else [])])
    prompts, held_out = load_prompts(args, tok, context)
    final = partial(final_scores, score, missing_end_score)
    judge = evaluate.Judge(args, tok, held_out, final, reference)  # asks a user's own function before anything is written
    (folder,) = checkpoint.start_run(args, tok, "ppo")
    policy = copy.deepcopy(reference).requires_grad_()
    actor = ppo.ActorCritic(policy, reward_model if args.critic == "separate" else None).to(device)
    if compiled:
        model.compile_blocks(actor)
    train(args, folder, actor, reference, tok, prompts, score, missing_end_score, judge)
    print(f"the policy is in {folder}; compare it with any other: python -m minirlhf.evaluate --help")


def load_reward(args, tok, device, precision):
    """(replies' scores as a function of prompts and replies, the missing-end score, the reward model or None)"""
    if args.reward:
        if args.critic == "separate":
            raise InputError(
                "--critic separate starts as the reward model; with --reward there is none, so use --critic shared"
            )
        if math.isnan(args.missing_end_score):
            raise InputError("--reward needs --missing-end-score, what a response without end gets: well below any other score")
        function = reward.load_function("--reward", args.reward)
        return lambda prompts, replies: call(args.reward, function, prompts, replies), args.missing_end_score, None
    reward_model, other, stored = reward.load_reward_model(args.rm or f"{args.out}/rm", device, precision)
    checkpoint.same_vocabulary("the policy", tok, "the reward model", other)
    missing_end_score = stored if math.isnan(args.missing_end_score) else args.missing_end_score
    return partial(evaluate.score_replies, reward_model), missing_end_score, reward_model


def final_scores(score, missing_end_score, prompts, replies):
    """Scores after the missing-end rule, as the policy is paid: a score read in mid-sentence means nothing."""
    return ppo.missing_end_rule(score(prompts, replies), torch.tensor([r.ended for r in replies]), missing_end_score)


def call(name, function, prompts, replies):
    """A user's reward function on prompts and texts, its answer checked."""
    answer = function(prompts, [reply.text for reply in replies])
    try:
        scores = np.asarray(answer, dtype=np.float32)
        fine = scores.shape == (len(prompts),) and np.isfinite(scores).all()
    except (TypeError, ValueError):
        fine = False
    if not fine:
        got = " ".join(repr(answer).split())
        raise InputError(f"--reward {name} must return {len(prompts)} finite numbers, one a response; got {got:.80}")
    return torch.from_numpy(scores)


def load_prompts(args, tok, context):
    """(prompts to learn on, prompts held out)"""
    fits = data.fits_context(tok, context, args.max_new_tokens, args.drop_long)
    if args.data:
        prompts = data.read_prompts(args.data, fits)
        n = max(1, min(args.eval_prompts, len(prompts) // 10))
        return prompts[n:] or prompts, prompts[:n]
    prompts = filter(fits, world.prompts(args.prompts, rng(args.seed, config.PROMPTS, 2)))
    return list(prompts), list(filter(fits, world.prompts(args.eval_prompts, rng(args.seed, config.EVALUATION), "test")))


def train(args, folder, actor, reference, tok, prompts, score, missing_end_score, judge):
    """Sample and score, then learn from it; then tell how it went."""
    optimizer = model.adamw(actor, args.lr, betas=(0.9, 0.999), eps=1e-5)
    parts = {"model": actor.gpt, "value_head": actor.value_head, "optimizer": optimizer}
    parts |= {"critic": actor.critic} if actor.critic else {}
    state = checkpoint.restore(folder, "ppo", args.resume, **parts)
    kl_coef = state.get("kl_coef", args.kl_coef) if args.kl_target else args.kl_coef
    controller = ppo.AdaptiveKL(kl_coef, args.kl_target, args.kl_horizon)
    metrics = Metrics(folder, state["step"])
    bar = tqdm(range(state["step"], args.updates), desc="ppo", initial=state["step"], total=args.updates)
    with checkpoint.Interrupt() as interrupt:
        for step in bar:
            model.set_learning_rate(optimizer, args.lr * (1 - step / args.updates))
            asked = data.stream(len(prompts), step * args.batch_size, (step + 1) * args.batch_size, args.seed)
            asked = [prompts[i] for i in asked]
            kl_coef = controller.kl_coef
            rollout, plan, stats = collect(args, actor, reference, tok, score, missing_end_score, kl_coef, asked, step)
            start = time.perf_counter()
            learned = ppo.update(
                actor, optimizer, rollout, plan, args.temperature, args.clip, args.value_clip, args.vf_coef, args.max_grad_norm
            )
            stats |= read(learned)
            if args.kl_target:
                controller.update(stats["kl"], args.batch_size)

            # ---- bookkeeping
            done = step + 1
            stats |= {"update_s": time.perf_counter() - start, "lr": optimizer.param_groups[0]["lr"]}
            seconds = stats["rollout_s"] + stats["scoring_s"] + stats["update_s"]
            stats |= {"tokens_per_s": int(rollout.lengths.sum()) / seconds, "episodes": done * args.batch_size}
            if done % args.eval_every == 0 or done == args.updates:
                stats |= judge(done, actor.gpt, folder)
            metrics.log(step, **stats)
            bar.set_postfix(score=f"{stats['score']:.2f}", kl=f"{stats['kl']:.2f}", ended=f"{stats['ended']:.2f}")
            if done % args.save_every == 0 or done == args.updates or interrupt.asked:
                checkpoint.save(folder, "ppo", actor.gpt.config, tok, done, kl_coef=controller.kl_coef, **parts)
            interrupt.stop_if_asked(folder, done, args.updates)


def collect(args, actor, reference, tok, score, missing_end_score, kl_coef, asked, step):
    """Sample a response to each prompt, score it, and ask policy, reference and value function about every token.

    Returns the Rollout, the plan of the update (its first epoch decides how the tokens are asked about), and stats.
    """
    clock = [time.perf_counter()]
    samples, replies = sample(args, actor.gpt, tok, asked, step)
    clock.append(time.perf_counter())

    raw_scores = score(asked, replies).to(samples.tokens.device)
    scores = ppo.missing_end_rule(raw_scores, samples.ended, missing_end_score)
    shuffle = rng(args.seed, config.MINIBATCHES, step)
    plan = ppo.plan(samples.lengths.tolist(), args.epochs, args.minibatches, args.microbatch_tokens, shuffle)
    told = ppo.score_tokens(actor, reference, samples, plan[0], args.temperature)
    rollout = ppo.make_rollout(samples, scores, *told, kl_coef, args.gamma, args.lam)
    stats = read(ppo.rollout_stats(rollout, raw_scores, scores, samples.ended, kl_coef))
    clock.append(time.perf_counter())
    return rollout, plan, stats | dict(zip(("rollout_s", "scoring_s"), np.diff(clock).tolist(), strict=True))


def read(stats):
    """Stats as numbers, once a phase: a GPU has to finish the phase first, so that a clock read afterwards tells the truth."""
    return {name: float(x) for name, x in stats.items()}


def sample(args, gpt, tok, asked, step):
    """(Samples with their lengths on the CPU, the same as replies)"""
    ids = [data.encode_prompt(tok, prompt) for prompt in asked]
    uniforms = rng(args.seed, config.RESPONSES, 10 + step).random((len(ids), args.max_new_tokens), dtype=np.float32)
    samples = generate(gpt, ids, args.max_new_tokens, tok.end_token, args.temperature, torch.from_numpy(uniforms))
    samples = samples._replace(prompt_lengths=samples.prompt_lengths.cpu(), lengths=samples.lengths.cpu())
    return samples, evaluate.unpack(samples, tok)


if __name__ == "__main__":
    config.run(main)
