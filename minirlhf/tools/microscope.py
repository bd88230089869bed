"""What PPO computed about each token of a few responses: one line of microscope.jsonl for each
update that is recorded, for `minirlhf page`."""

import json
import math
from pathlib import Path

import torch

from minirlhf.run.metrics import MICROSCOPE, append, number, read_records

# From ppo.Rollout; the KL of a token, the ratio and whether it is clipped are computed here.
FIELDS = ("logprobs", "ref_logprobs", "rewards", "values", "raw_advantages", "advantages")
COLUMNS = ("tokens", *FIELDS, "kl", "ratios", "clipped")  # of a response in the file


def record(args, folder, step, models, rollout):
    """Append the first --microscope responses of a rollout that the policy has just learned from.
    Costs one forward pass over them, for the ratios after the update."""
    rows = list(range(min(args.microscope, len(rollout.mask))))
    batch = rollout.select(rows)
    with torch.no_grad():
        new, _, _ = models.actor_critic(batch.samples.tokens, batch.mask, args.temperature)
    columns = {name: getattr(batch, name).tolist() for name in FIELDS}
    columns["kl"] = (batch.logprobs - batch.ref_logprobs).tolist()
    columns["ratios"] = (new - batch.logprobs).exp().tolist()
    responses = [response(args, models.tokenizer, batch, columns, row) for row in rows]
    line = {"step": step, "clip": args.clip, "responses": responses}
    append(Path(folder) / MICROSCOPE, json.dumps(line) + "\n")


def response(args, tokenizer, batch, columns, row):
    """One response: its prompt, whether it came to its end, its tokens as texts, and the columns
    {name: a number per token}. A number that is not finite is None."""
    start, stop = int(batch.samples.prompt_lengths[row]), int(batch.samples.lengths[row])
    ids = batch.samples.tokens[row].tolist()
    tokens = {  # column t of a per-token tensor is about token t + 1
        name: [number(x) for x in column[row][start - 1 : stop - 1]]
        for name, column in columns.items()
    }
    pairs = zip(tokens["advantages"], tokens["ratios"], strict=True)
    tokens["clipped"] = [is_clipped(*pair, args.clip) for pair in pairs]
    return {
        "prompt": tokenizer.decode(ids[:start]),
        "ended": bool(batch.samples.ended[row]),
        "tokens": [tokenizer.decode([i]) for i in ids[start:stop]],
        **tokens,
    }


def is_clipped(advantage, ratio, clip):
    """Whether the clip would stop the gradient of a token: its ratio has left 1 +- clip in the
    direction that its advantage asks for."""
    if advantage is None or ratio is None:
        return False
    return ratio > 1 + clip if advantage > 0 else advantage < 0 and ratio < 1 - clip


def read(folder):
    """The recorded updates of a run, [] if there are none. What has another form (a file that
    somebody has changed) is left out."""
    return [view for _, view in read_records(Path(folder) / MICROSCOPE) if is_view(view)]


def is_view(view):
    """Whether a value has the form of a recorded update."""
    responses = view.get("responses")
    if not isinstance(responses, list) or not responses or not is_number(view.get("clip")):
        return False
    return all(map(is_response, responses))


def is_response(value):
    if not isinstance(value, dict) or not isinstance(value.get("ended"), bool):
        return False
    columns = [value.get(name) for name in COLUMNS]
    if not all(isinstance(column, list) and column for column in columns):
        return False
    texts, *numbers = columns
    same = {len(column) for column in columns} == {len(texts)}
    finite = all(x is None or is_number(x) for column in numbers for x in column)
    texts = [value.get("prompt"), *texts]
    return same and finite and all(isinstance(text, str) for text in texts)


def is_number(value):
    return isinstance(value, float | int) and math.isfinite(value)
