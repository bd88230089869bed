"""What train_ppo.py prints while it trains: policy and SFT model on held-out prompts."""

import numpy as np
import torch

from minirlhf.evaluate import interval, kl, noise, respond, wins
from minirlhf.run.metrics import row, write_samples
from minirlhf.world.measures import AXES, axes, judgements


class Monitor:
    """Evaluates a policy on held-out prompts against the reference, under the same noise each time.

    The judge is there for the embedded world's prompts only; your own prompts have scores alone.
    `score(prompts, replies) -> (N,)` is the reward of the training.
    """

    def __init__(self, args, tokenizer, prompts, score, reference):
        self.args, self.tokenizer, self.prompts = args, tokenizer, prompts
        self.score, self.reference = score, reference
        self.noise = noise(args.seed, len(prompts), args.max_new_tokens)
        self.sft_replies = self.respond(reference)
        names = () if args.data else (*AXES, "beats SFT")
        row("update", "score", "kl", "length", "ended", *names)
        self.measure(0, self.sft_replies, torch.zeros(len(prompts)))

    def respond(self, gpt):
        """A reply to each prompt."""
        return respond(gpt, self.tokenizer, self.prompts, self.noise, self.args.temperature)

    def evaluate(self, updates, gpt, folder):
        """Print a row and a table of samples. Returns the numbers for metrics.jsonl, each the mean
        over prompts."""
        replies = self.respond(gpt)
        kls = kl(gpt, self.reference, replies, self.args.temperature)
        numbers, scores = self.measure(updates, replies, kls)
        texts = [[reply.text for reply in side] for side in (self.sft_replies, replies)]
        columns = self.prompts, *texts, scores.tolist(), kls.tolist()
        rows = list(zip(*columns, strict=True))[:5]
        header = ("prompt", "SFT response", "policy response", "score", "kl")
        write_samples(folder, f"after {updates} updates", header, rows)
        return {"eval_" + name: value for name, value in numbers.items()}

    def measure(self, updates, replies, kls):
        """(numbers, scores (N,)) of replies with these KLs (N,) in nats; prints the row."""
        scores = self.score(self.prompts, replies)
        length = float(np.mean([reply.length for reply in replies]))
        numbers = {"score": float(scores.mean()), "kl": float(kls.mean()), "length": length}
        numbers["ended"] = float(np.mean([reply.ended for reply in replies]))
        if self.args.data:
            row(updates, *numbers.values())
            return numbers, scores
        policy, sft = (judgements(self.prompts, side) for side in (replies, self.sft_replies))
        totals, sft_totals = ([j.total for j in side] for side in (policy, sft))
        numbers |= axes(policy) | {"win_rate": float(wins(totals, sft_totals).mean())}
        row(updates, *numbers.values())
        return numbers | {"total_half": interval(totals)[1]}, scores
