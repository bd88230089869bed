"""What train_ppo.py prints while it trains: policy and SFT model on held-out prompts."""

import json
from pathlib import Path

import numpy as np
import torch

from minirlhf.evaluate import interval, kl, noise, respond, wins
from minirlhf.run.metrics import EVALUATIONS, append, number, row, write_samples
from minirlhf.tools.script import script
from minirlhf.world import measures
from minirlhf.world.measures import AXES


class Monitor:
    """Evaluates a policy on held-out prompts against the reference, under the same noise each time.

    The judge is there for the embedded world's prompts only; your own prompts have scores alone.
    `score(prompts, replies) -> (N,)` is the reward of the training; `text` are documents whose
    loss is measured, too.
    """

    def __init__(self, args, tokenizer, prompts, score, reference, text=()):
        self.args, self.tokenizer, self.prompts = args, tokenizer, prompts
        self.score, self.reference, self.text = score, reference, text
        self.noise = noise(args.seed, len(prompts), args.max_new_tokens)
        self.sft_replies = self.respond(reference)
        names = () if args.data else (*AXES, "beats SFT")
        row("update", "score", "kl", "length", "ended", *names)
        self.sft_numbers, _ = self.measure(0, self.sft_replies, torch.zeros(len(prompts)))
        self.sft_numbers |= self.text_loss(reference)

    def respond(self, gpt):
        """A reply to each prompt."""
        return respond(gpt, self.tokenizer, self.prompts, self.noise, self.args.temperature)

    def evaluate(self, updates, gpt, folder):
        """Print a row and a table of samples. Returns the numbers for metrics.jsonl, each the mean
        over prompts: those of the policy, and those of the SFT model, which are update 0."""
        replies = self.respond(gpt)
        kls = kl(gpt, self.reference, replies, self.args.temperature)
        numbers, scores = self.measure(updates, replies, kls)
        numbers |= self.text_loss(gpt)
        texts = [[reply.text for reply in side] for side in (self.sft_replies, replies)]
        columns = self.prompts, *texts, scores.tolist(), kls.tolist()
        rows = list(zip(*columns, strict=True))[:5]
        header = ("prompt", "SFT response", "policy response", "score", "kl")
        write_samples(folder, f"after {updates} updates", header, rows)
        self.record(updates - 1, folder, replies, scores, kls)
        sides = ("eval_", numbers), ("sft_", self.sft_numbers)
        return {start + name: value for start, side in sides for name, value in side.items()}

    def text_loss(self, gpt):
        """{"text_loss": nats per token}, {} without text."""
        limit = self.args.microbatch_tokens
        return (
            {"text_loss": script("train_sft").mean_loss(gpt, self.text, limit)} if self.text else {}
        )

    def record(self, step, folder, replies, scores, kls):
        """Append what each held-out prompt has: its score and KL, and the judge's total beside that
        of the SFT model. Means cannot be resampled, these can."""
        columns = {"scores": scores.tolist(), "kls": kls.tolist()}
        if not self.args.data:
            sides = ("totals", replies), ("sft_totals", self.sft_replies)
            columns |= {name: measures.values(self.prompts, r)["total"] for name, r in sides}
        line = {name: [number(float(x)) for x in column] for name, column in columns.items()}
        append(Path(folder) / EVALUATIONS, json.dumps({"step": step} | line) + "\n")

    def measure(self, updates, replies, kls):
        """(numbers, scores (N,)) of replies with these KLs (N,) in nats; prints the row."""
        scores = self.score(self.prompts, replies)
        length = float(np.mean([reply.length for reply in replies]))
        numbers = {"score": float(scores.mean()), "kl": float(kls.mean()), "length": length}
        numbers["ended"] = float(np.mean([reply.ended for reply in replies]))
        if self.args.data:
            row(updates, *numbers.values())
            return numbers, scores
        policy, sft = (measures.values(self.prompts, side) for side in (replies, self.sft_replies))
        numbers |= {axis: measures.mean(policy[axis]) for axis in AXES}
        numbers["win_rate"] = float(wins(policy["total"], sft["total"]).mean())
        row(updates, *numbers.values())
        # For the figures, and not on the console.
        numbers |= {name: measures.mean(policy[name]) for name in ("parsed", "declined")}
        numbers["distinct"] = measures.diversity(replies)["distinct"]
        clusters = [measures.cluster(prompt) for prompt in self.prompts]
        numbers["total_half"] = interval(policy["total"], clusters)[1]
        numbers["score_half"] = interval(scores, clusters)[1]
        return numbers, scores
