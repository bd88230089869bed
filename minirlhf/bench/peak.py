"""The most memory that two steps of a stage take: the second has Adam's state. Weights and ids are
random; the code is that of the training scripts, on ids in the place of text (ours.Ids).

`tensors` counts what torch allocates, `process` what the system gives to the process beyond its
imports.
"""

import copy
from functools import partial

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from minirlhf import dpo, evaluate, fast, grpo, lora, ppo, reward
from minirlhf.bench.ours import Ids, comparison
from minirlhf.bench.speed import peak_memory
from minirlhf.bench.workload import LR
from minirlhf.data import Example
from minirlhf.model import GPT
from minirlhf.run import config, optim
from minirlhf.run.config import rng
from minirlhf.tools.script import script


def run(work, seed):
    """Two steps of the stage `work.stage`. Of a stage that samples, the sampling too."""
    torch.manual_seed(seed)
    gpt = GPT(work.shape).to("cpu" if work.cpu else "cuda")
    gpt.precision = torch.bfloat16 if work.bf16 else torch.float32
    STAGES[work.stage](work, gpt, rng(seed, config.RANKED_PROMPTS))


def start(work, gpt):
    """What a stage trains from `gpt`, as lora.start makes it."""
    model = lora.adapt(gpt, work.lora, 16.0) if work.lora else copy.deepcopy(gpt).requires_grad_()
    model.gradient_checkpointing = work.gradient_checkpointing
    return model


def ids(work, count, generator):
    """That many rows of prompt and response, in no form but ids."""
    shape = count, work.columns
    return generator.integers(1, work.shape.vocab_size, shape).tolist()


def examples(work, generator):
    return [Example(row, work.prompt_tokens) for row in ids(work, work.batch_size, generator)]


def comparisons(work, generator):
    """A prompt with its K responses, best first. `comparison` replaces their last id by an end."""
    groups = []
    for _ in range(work.batch_size):
        rows = ids(work, work.responses, generator)
        rows = [rows[0][: work.prompt_tokens] + row[work.prompt_tokens :] for row in rows]
        groups.append(comparison([Example(row, work.prompt_tokens) for row in rows]))
    return groups


def steps(module, accumulate):
    optimizer = optim.adamw(module, LR)
    for _ in range(2):
        accumulate()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def sft(work, gpt, generator):
    batch = examples(work, generator)
    gpt.gradient_checkpointing = work.gradient_checkpointing
    gpt = start(work, gpt) if work.lora else gpt
    steps(gpt, lambda: script("train_sft").accumulate(gpt, batch, work.microbatch_tokens))


def rm(work, gpt, generator):
    reward_model = reward.RewardModel(gpt).to(gpt.device)
    reward_model.gpt = start(work, gpt)
    gpt.requires_grad_(False)
    sample(work, gpt, prompts(work, work.sampled_rows, generator), generator)
    batch, accumulate = comparisons(work, generator), script("train_rm").accumulate
    steps(reward_model, lambda: accumulate(reward_model, Ids, batch, work.microbatch_tokens))


def direct(work, gpt, generator):
    policy, batch = start(work, gpt), comparisons(work, generator)
    models, method = (policy, gpt.requires_grad_(False), Ids), dpo.Method("dpo", 1.0)
    steps(policy, lambda: dpo.accumulate(*models, batch, method, work.microbatch_tokens))


def prompts(work, count, generator):
    return [Ids.decode(row[: work.prompt_tokens]) for row in ids(work, count, generator)]


def sample(work, gpt, texts, generator):
    uniforms = generator.random((len(texts), work.new_tokens), dtype=np.float32)
    evaluate.respond(gpt, Ids, texts, uniforms)


def rollout(work, gpt, generator):
    """PPO, or GRPO with groups of four."""
    train_ppo, trained = script("train_ppo"), start(work, gpt)
    reward_model = reward.RewardModel(gpt).to(gpt.device)
    if work.lora and not work.separate_critic:  # as train_ppo.load_reward does
        reward_model.gpt = start(work, gpt)
    reward_model.requires_grad_(False)
    policy = grpo.Policy(trained)
    if work.stage == "ppo":
        policy = ppo.ActorCritic(trained, reward_model if work.separate_critic else None)
        policy.critic = policy.critic and start(work, reward_model.gpt)
    policy, reference = policy.to(gpt.device), gpt.requires_grad_(False)
    sizes = {"minibatches": work.minibatches, "microbatch_tokens": work.microbatch_tokens}
    sizes |= {"max_new_tokens": work.new_tokens, "algorithm": work.stage}
    args = train_ppo.Config(**sizes)
    score = partial(evaluate.score_replies, reward_model)
    models = train_ppo.Models(policy, reference, score, -3.0, Ids)
    optimizer = train_ppo.make_optimizer(args, policy)
    controller = ppo.AdaptiveKL(args.kl_coef, target=0, horizon=1)
    batch = prompts(work, work.batch_size, generator)
    for step in range(2):
        train_ppo.iteration(args)(args, models, optimizer, controller, batch, step)
    if work.sampled_rows > work.batch_size:  # the held-out prompts
        sample(work, trained, prompts(work, work.sampled_rows, generator), generator)


STAGES = {"sft": sft, "rm": rm, "dpo": direct, "ppo": rollout, "grpo": rollout}


# ---- what is counted


def tensors(work, seed):  # -> bytes
    """The most that torch has allocated at a time."""
    if not work.cpu:
        torch.cuda.reset_peak_memory_stats()
        run(work, seed)
        return torch.cuda.max_memory_allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run(work, seed)
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(sizes).max())


def process(work, seed):  # -> bytes
    """The most memory of this process, beyond what it had. NaN where the system does not say."""
    before = peak_memory(torch.device("cpu"))
    run(work, seed)
    return (peak_memory(torch.device("cpu")) - before) * 2**20


def both(work, seed):  # -> {"tensors", "process": bytes}
    """In a process of its own, whose first and only work it is: the memory of its imports does not
    count, and the profiler, which takes some itself, comes second."""
    fast.keep_memory()
    for name in ("train_sft", "train_rm", "train_ppo"):
        script(name)
    numbers = {"process": process(work, seed)}
    return numbers | {"tensors": tensors(work, seed)}
