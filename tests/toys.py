"""Policies that are told apart by what they write: the weights are random and the responses are the
embedded world's writers', so that the judge's totals differ from prompt to prompt."""

import zlib

import numpy as np

from minirlhf import data, evaluate, reward
from minirlhf.run import checkpoint, resume
from minirlhf.tokenizer import get_tokenizer
from minirlhf.world import writers
from minirlhf.world.sentences import parse_prompt

TOKENIZER = get_tokenizer()


def written(gpt, tokenizer, prompts, uniforms, temperature=1.0, progress=None):
    """In the place of `evaluate.respond`: a response depends on the policy's weights, on its prompt
    and on the whole row of uniforms. A quarter is cut off."""
    name, replies = resume.fingerprint(gpt).encode(), []
    for prompt, row in zip(prompts, uniforms, strict=True):
        words = b"|".join([name, prompt.encode(), np.asarray(row).tobytes()])
        draw = np.random.default_rng(zlib.crc32(words))
        right, polite, ended = (draw.random() < share for share in (0.6, 0.5, 0.75))
        text = writers.respond(parse_prompt(prompt), right, polite, draw)
        example = data.encode(tokenizer, prompt, text)
        if not ended:
            example = example._replace(tokens=example.tokens[:-1])
        replies.append(evaluate.Reply(text, example, bool(ended)))
    return replies


def save_policy(folder, gpt, stage="sft", **parts):
    checkpoint.save(folder, stage, gpt.config, TOKENIZER, 1, model=gpt, **parts)
    return folder


def save_reward_model(folder, gpt, missing_end_score=-3.0):
    """Its raw scores have another mean and spread than its scores."""
    model = reward.RewardModel(gpt)
    model.head.weight.data += 0.3
    model.mean.fill_(0.4)
    model.std.fill_(1.7)
    parts = {"model": model, "missing_end_score": missing_end_score}
    checkpoint.save(folder, "rm", gpt.config, TOKENIZER, 1, **parts)
    return folder
