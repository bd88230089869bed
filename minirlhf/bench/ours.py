"""Our sides in `minirlhf bench`: the code of the training scripts on a job, and our model sampled
in gpt-fast's way.

A side is a function: a job (workload.Job) -> a function that does one run and returns (seconds by
part, response tokens).
"""

import copy
import itertools
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from minirlhf import data, evaluate, generate, ppo, reward
from minirlhf.bench.workload import END, LR, count_tokens, pad, single_part
from minirlhf.formats import gpt2
from minirlhf.run import compute, config, optim
from minirlhf.run.config import rng
from minirlhf.tools.script import script


def load(job, precision):
    gpt = gpt2.load_gpt2(job.folder).to(job.device)
    gpt.precision = precision
    return gpt


def sampling(job, precision):
    gpt, generator = load(job, precision), rng(job.seed, config.ROLLOUTS)
    shape = len(job.prompts), job.workload.new_tokens

    def work():
        uniforms = torch.from_numpy(generator.random(shape, dtype=np.float32))
        samples = generate.generate(gpt, job.prompts, shape[1], END, uniforms=uniforms)
        return int((samples.lengths - samples.prompt_lengths).sum())

    return single_part(job.device, work)


def steps_run(job, batches, module, accumulate):
    """The scripts' optimiser steps, one a batch. `accumulate(batch, microbatch_tokens)` leaves the
    gradients."""
    optimizer = optim.adamw(module, LR)

    def work():
        for batch in batches:
            accumulate(batch, compute.pick_microbatch(0, job.device, job.workload.vocab_size))
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return job.response_tokens

    return single_part(job.device, work)


def language(job, precision):
    gpt, train_sft = load(job, precision), script("train_sft")
    return steps_run(job, job.batches, gpt, partial(train_sft.accumulate, gpt))


class Ids:
    """A tokenizer whose text is ids in figures, for the scripts that take text."""

    end_token = END

    @staticmethod
    def encode(text):
        return [int(word) for word in text.split()]

    @staticmethod
    def decode(ids):
        return " ".join(map(str, ids))


def comparison(group):
    """A group of Examples of one prompt, best first -> the Comparison that the scripts read."""
    prompt = Ids.decode(group[0].tokens[: group[0].prompt_length])
    responses = [Ids.decode(e.tokens[e.prompt_length : -1]) for e in group]
    return data.Comparison(prompt, responses, list(range(len(group))))


def rm(job, precision):
    train_rm = script("train_rm")
    reward_model = reward.RewardModel(load(job, precision)).to(job.device)
    comparisons = [[comparison(group) for group in batch] for batch in job.batches]
    accumulate = partial(train_rm.accumulate, reward_model, Ids)
    return steps_run(job, comparisons, reward_model, accumulate)


def ppo_iteration(job, precision, critic=False):
    """One iteration of train_ppo.py; `critic` gives the value function a network of its own."""
    gpt, train_ppo = load(job, precision), script("train_ppo")
    reference = copy.deepcopy(gpt).requires_grad_(False)
    reward_model = reward.RewardModel(gpt).requires_grad_(False).to(job.device)
    actor = ppo.ActorCritic(gpt, reward_model if critic else None).to(job.device)
    optimizer = optim.adamw(actor, LR, betas=(0.9, 0.999), eps=1e-5)
    tokens = compute.pick_microbatch(0, job.device, job.workload.vocab_size)
    sizes = {"epochs": job.epochs, "minibatches": job.minibatches, "microbatch_tokens": tokens}
    flags = train_ppo.Config(max_new_tokens=job.workload.new_tokens, seed=job.seed, **sizes)
    controller = ppo.AdaptiveKL(flags.kl_coef, target=0, horizon=1)
    score = partial(evaluate.score_replies, reward_model)
    models = train_ppo.Models(actor, reference, score, -3.0, Ids)
    prompts, steps = list(map(Ids.decode, job.prompts)), itertools.count()

    def run():
        stats, _ = train_ppo.iterate(flags, models, optimizer, controller, prompts, next(steps))
        seconds = {part: stats[f"{part}_s"] for part in ("rollout", "scoring", "update")}
        response_tokens = round(stats["length"] * len(prompts))
        return seconds | {"whole": sum(seconds.values())}, response_tokens

    return run


OURS = {
    "sampling": sampling,
    "sft": language,
    "dense": language,
    "rm": rm,
    "ppo": ppo_iteration,
}


# ---- gpt-fast's way of sampling


def static_hidden(gpt, keys, values, tokens, positions):  # (B, T), (B, T) -> (B, T, C)
    """GPT-2 over a cache of fixed shape: keys and values are lists of (B, H, S, D), one a layer,
    and are written to in place."""
    B, T = tokens.shape
    rows = torch.arange(B, device=tokens.device)[:, None]
    columns = torch.arange(keys[0].size(2), device=tokens.device)
    visible = (columns <= positions[:, :, None])[:, None]  # (B, 1, T, S)
    x = gpt.token_embedding(tokens) + gpt.position_embedding(positions)
    for block, k_store, v_store in zip(gpt.blocks, keys, values, strict=True):
        q, k, v = block.attention.qkv(block.norm1(x)).view(B, T, 3, gpt.config.heads, -1).unbind(2)
        k_store[rows, :, positions], v_store[rows, :, positions] = k, v
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k_store, v_store, attn_mask=visible)
        x = x + block.attention.out(y.transpose(1, 2).reshape(B, T, -1))
        x = x + block.mlp.out(F.gelu(block.mlp.hidden(block.norm2(x)), approximate="tanh"))
    return gpt.norm(x)


def sample_ids(gpt, hidden):  # (B, C) -> (B,)
    """Ids by exponential noise, as in gpt-fast: no cumulative sum over the vocabulary."""
    p = torch.softmax(gpt.head(hidden), dim=-1)
    return (p / torch.empty_like(p).exponential_(1)).argmax(-1)


def static_cache(gpt, rows, columns):
    """Zeros for the keys and the values, one (B, H, S, D) a layer each."""
    shape = rows, gpt.config.heads, columns, gpt.config.width // gpt.config.heads
    keys, values = ([torch.zeros(shape, device=gpt.device) for _ in gpt.blocks] for _ in range(2))
    for store in (*keys, *values):  # otherwise a step that writes to them gets no CUDA graph
        torch._dynamo.mark_static_address(store)
    return keys, values


def compiled_sampling(job):
    """All rows for all steps over a static cache, one compiled function per step. Every 8 tokens it
    reads whether all rows have ended."""
    gpt = gpt2.load_gpt2(job.folder).to(job.device).requires_grad_(False)
    tokens, mask = (x.to(job.device) for x in pad(job.prompts, 0))
    lengths, B = mask.sum(1), len(tokens)
    keys, values = static_cache(gpt, B, tokens.size(1) + job.workload.new_tokens)
    step = torch.compile(
        lambda k, v, ids, at: sample_ids(gpt, static_hidden(gpt, k, v, ids, at)[:, 0]),
        fullgraph=True,
        mode="reduce-overhead" if job.device.type == "cuda" else None,
    )

    @torch.no_grad()
    def work():
        positions = torch.arange(tokens.size(1), device=job.device).expand(B, -1)
        hidden = static_hidden(gpt, keys, values, tokens, positions)
        ids = [sample_ids(gpt, hidden[torch.arange(B, device=job.device), lengths - 1])]
        ended = ids[0] == 0
        for i in range(1, job.workload.new_tokens):
            if i % 8 == 0 and bool(ended.all()):
                break
            ids.append(step(keys, values, ids[-1][:, None], (lengths + i - 1)[:, None]).clone())
            ended |= ids[-1] == 0
        return count_tokens(torch.stack(ids, 1))

    return single_part(job.device, work)
