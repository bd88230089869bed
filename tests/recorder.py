"""What a whole run asked for, sampled, labelled, scored and judged, and simple code that computes
its numbers again.

A test of a script that looks at one call sees one mistake. Here a whole run is recorded, of toy
models that sample varied responses, some of which end; tests then hold every number of the run
against the record. No flag of these runs has its default: one that is ignored shows.
"""

import copy
import hashlib
import json
import zlib
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch

import train_ppo
from minirlhf import evaluate, ppo, reward
from minirlhf.data import Comparison
from minirlhf.evaluate import Reply
from minirlhf.model import GPT, GPTConfig
from minirlhf.reward import RewardModel
from minirlhf.run import checkpoint, compute, config, health, optim
from minirlhf.tokenizer import get_tokenizer
from minirlhf.world import judge, measures, writers

TOKENIZER = get_tokenizer()
HELD_OUT = "validation"  # the world's split that evaluations take
COMPARISONS = [  # a user's own; every other one has a tie
    Comparison(f"What is {i}?", [f"It is {i * 7 % 10}, I think", f"{i}", "no idea"], [0, i % 2, 2])
    for i in range(40)
]


# ---- toy models


def toy_gpt(seed, context=64):
    """A model of one layer that samples varied tokens and ends about every fifth response of 5
    tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        gpt = GPT(GPTConfig(TOKENIZER.vocab_size, context, layers=1, heads=2, width=16))
        for name, parameter in gpt.named_parameters():
            mean = 1.0 if "norm" in name and "weight" in name else 0.0
            parameter.data = torch.randn_like(parameter) * 0.1 + mean
    gpt.norm.bias.data[0] = 1.0
    gpt.token_embedding.weight.data[TOKENIZER.end_token, 0] = 4.0
    return gpt


def save_policy(folder, seed, stage="sft"):
    """A toy policy as a checkpoint. Returns it."""
    gpt = toy_gpt(seed)
    folder.mkdir(parents=True)
    checkpoint.save(folder, stage, gpt.config, TOKENIZER, 0, model=gpt)
    return gpt


def save_reward_model(folder, seed, missing_end_score, context=64):
    """A toy reward model, whose scores spread by about 1, as a checkpoint. Returns it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RewardModel(toy_gpt(seed, context))
    model.normalise(torch.tensor([[0.1, 1.1], [0.4, -0.8]]))
    folder.mkdir(parents=True)
    parts = {"model": model, "missing_end_score": missing_end_score}
    checkpoint.save(folder, "rm", model.gpt.config, TOKENIZER, 0, **parts)
    return model


def digest(module):
    """A text that differs where the weights do."""
    sha = hashlib.sha256()
    for tensor in module.state_dict().values():
        sha.update(tensor.float().numpy().tobytes())
    return sha.hexdigest()


# ---- the record


class Call(NamedTuple):
    """A call of a function: its arguments, what it returned, and digests of the models among the
    arguments, at that time."""

    args: tuple
    kwargs: dict
    result: object
    digests: list


class Record:
    """`record["name"]` is the list of calls of a watched function."""

    def __init__(self, patch):
        self.calls, self.patch = defaultdict(list), patch

    def __getitem__(self, name):
        return self.calls[name]

    def watch(self, owner, name, key=None):
        """Record the calls of owner.name; models among the arguments are copied first."""
        function, calls = getattr(owner, name), self.calls[key or name]

        def watched(*args, **kwargs):
            models = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.nn.Module)]
            digests = [digest(model) for model in models]
            copies = {id(model): copy.deepcopy(model) for model in models}
            kept = tuple(copies.get(id(x), x) for x in args)
            named = {name: copies.get(id(x), x) for name, x in kwargs.items()}
            result = function(*args, **kwargs)
            calls.append(Call(kept, named, result, digests))
            return result

        self.patch.setattr(owner, name, watched)


class Spy(list):
    """Of each call of owner.name its arguments and its result; models and lists are copied
    first."""

    def __init__(self, patch, owner, name):
        function = getattr(owner, name)

        def watched(*args, **kwargs):
            kept = [copy.deepcopy(x) if isinstance(x, torch.nn.Module) else x for x in args]
            kept = [list(x) if type(x) is list else x for x in kept]
            result = function(*args, **kwargs)
            self.append((kept, kwargs, result))
            return result

        patch.setattr(owner, name, watched)


def varied_judge(prompt, response):
    """A judge whose totals differ: of what toy models say the true one thinks nothing. It depends
    on every character of prompt and response, and has few values, so that there are ties."""
    number = zlib.crc32(f"{prompt}|{response}".encode())
    verdict = judge.VERDICTS[number // 60 % 5]
    axes = number % 5 / 4, number // 5 % 3 / 2, None if number % 7 else 1.0
    return judge.Judgement(*axes, number // 15 % 5 * 0.75, verdict)


def recorded(patch):
    """A Record of what every stage does. The world's judge is `varied_judge`."""
    record = Record(patch)
    record.watch(evaluate, "generate")
    record.watch(train_ppo, "generate", "rollout")
    for name in ("gae", "update", "plan", "logprobs_and_values"):
        record.watch(ppo, name)
    for name in ("adamw", "set_learning_rate"):
        record.watch(optim, name)
    for name in ("load_gpt", "save"):
        record.watch(checkpoint, name)
    record.watch(compute, "pick_device")
    record.watch(torch, "set_num_threads")
    record.watch(torch.nn.utils, "clip_grad_norm_")
    for name in ("prompts", "documents", "demonstrations"):
        record.watch(writers, name)
    for name in ("short_run", "long_answers"):
        record.watch(health, name)
    for module in (judge, measures):
        patch.setattr(module, "judge", varied_judge)
    return record


def words(flags):
    """{name: value} as a command line."""
    argv = []
    for name, value in flags.items():
        argv += ["--" + name.replace("_", "-"), *([] if value is True else [str(value)])]
    return argv


def run_command(main, flags):
    """Call a script's or a command's `main`, and give torch its threads back."""
    threads = torch.get_num_threads()
    try:
        main(words(flags))
    finally:
        torch.set_num_threads(threads)


def write_records(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


# ---- computed again


def replies_of(call):
    """The Replies of a call of `generate`, read off its tensors."""
    samples, replies = call.result, []
    for row, start, stop, ended in zip(*(x.tolist() for x in samples), strict=True):
        text = TOKENIZER.decode([i for i in row[start:stop] if i != TOKENIZER.end_token])
        replies.append(Reply(text, evaluate.data.Example(row[:stop], start), ended))
    return replies


def prompts_of(call):
    """The prompts of a call of `generate`, as texts."""
    return [TOKENIZER.decode(ids) for ids in call.args[1]]


def loop_logprobs(gpt, reply, temperature=1.0):  # -> list of floats
    """The log-probability of each response token, one at a time."""
    tokens, start = reply.example
    with torch.no_grad():
        logits = gpt(torch.tensor([tokens]))[0] / temperature
    logprobs = logits.double().log_softmax(-1)
    return [float(logprobs[t - 1, tokens[t]]) for t in range(start, len(tokens))]


def loop_kl(gpt, reference, replies, temperature=1.0):  # -> (N,) numpy
    """log policy - log reference, summed over each response."""
    sums = [
        [sum(loop_logprobs(model, reply, temperature)) for reply in replies]
        for model in (gpt, reference)
    ]
    return np.array(sums[0]) - np.array(sums[1])


def example_of(prompt, response):
    """A finished response, as a Reply."""
    ids = TOKENIZER.encode(prompt)
    tokens = [*ids, *TOKENIZER.encode(response), TOKENIZER.end_token]
    return Reply(response, evaluate.data.Example(tokens, len(ids)), True)


def loop_raw(reward_model, comparisons):  # -> one list per comparison
    """The raw scores of all responses, each alone."""
    rows = []
    for c in comparisons:
        replies = [example_of(c.prompt, text) for text in c.responses]
        scores = loop_scores(reward_model, replies)
        rows.append((scores * float(reward_model.std) + float(reward_model.mean)).tolist())
    return rows


def loop_pairs(comparisons, scores):  # -> [(comparison, better, worse, margin)]
    """Every pair of different texts and ranks."""
    return [
        (c, i, j, row[i] - row[j])
        for c, row in zip(comparisons, scores, strict=True)
        for i in range(len(row))
        for j in range(len(row))
        if c.ranks[i] < c.ranks[j] and c.responses[i] != c.responses[j]
    ]


def loop_scores(reward_model, replies, missing_end_score=None):  # -> (N,) numpy
    """The normalised score of each reply, alone; of one that was cut off the missing-end score, if
    that is given."""
    scores = []
    for reply in replies:
        with torch.no_grad():
            state = reward_model.gpt.hidden(torch.tensor([reply.example.tokens]))[0, -1]
            raw = reward_model.head(state)
        cut_off = missing_end_score is not None and not reply.ended
        normalised = (raw - reward_model.mean) / reward_model.std
        scores.append(missing_end_score if cut_off else float(normalised))
    return np.array(scores)


def judged(prompts, replies):
    """The judge's Judgement of each reply; one that was cut off is an empty one."""
    pairs = zip(prompts, replies, strict=True)
    return [varied_judge(prompt, reply.text if reply.ended else "") for prompt, reply in pairs]


def positions(n, start, stop, seed):
    """The records at the positions start ... stop - 1: each pass has a permutation of its own."""
    passes = [config.rng(seed, config.SHUFFLE, p).permutation(n) for p in range(stop // n + 1)]
    return np.concatenate(passes)[start:stop].tolist()


def noise(seed, stream, shape, step=0):
    return config.rng(seed, stream, step).random(shape, dtype=np.float32)


def half_width(values, clusters=None):
    """Half the 95% interval of a mean: Student's, of the sums of deviations in each cluster."""
    sums = defaultdict(float)
    for n, value in enumerate(values):
        sums[n if clusters is None else clusters[n]] += value - np.mean(values)
    error = np.sqrt(len(sums) / (len(sums) - 1) * sum(x**2 for x in sums.values()))
    return evaluate.t95(len(sums) - 1) * error / len(values)


def loop_calibration(margins, bins=10):  # -> [[confidence, share in this order, pairs], ...]
    """The reliability diagram of pairs with these margins: a row for each bin that has some."""
    rows = {}
    for margin in margins:
        confidence = 1 / (1 + np.exp(-abs(margin)))
        row = rows.setdefault(min(int((confidence - 0.5) * 2 * bins), bins - 1), [])
        row.append((confidence, 0.5 if margin == 0 else float(margin > 0), 1))
    return [[*np.mean(row, axis=0)[:2], len(row)] for _, row in sorted(rows.items())]


def stored_calibration(folder):
    """calibration.json of a run as `loop_calibration` has it."""
    rows = json.loads((folder / "calibration.json").read_text())
    return [[row["confidence"], row["accuracy"], row["pairs"]] for row in rows]


def other_vocabulary(patch, folder):
    """The models in this folder are loaded with a tokenizer of another vocabulary, of the same
    size."""
    other = SimpleNamespace(name="other", fingerprint=lambda: "x", vocab_size=TOKENIZER.vocab_size)

    def changed(load):
        def loaded(path, *args, **options):
            model, tokenizer, *rest = load(path, *args, **options)
            return model, other if Path(path).name == folder else tokenizer, *rest

        return loaded

    for module, name in ((checkpoint, "load_gpt"), (reward, "load_reward_model")):
        patch.setattr(module, name, changed(getattr(module, name)))
