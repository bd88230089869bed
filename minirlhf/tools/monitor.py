"""What the scripts show while they train: the policy on held-out prompts, beside the SFT model."""

import numpy as np
import torch

from minirlhf.evaluate import interval, kl, noise, respond, wins
from minirlhf.run.metrics import row, write_samples
from minirlhf.world.measures import AXES, axes, judgements


class Monitor:
    """Evaluates a policy on held-out prompts against the reference, under the same noise each time.

    The judge speaks on the embedded world's prompts only; on a user's own there are scores alone.
    """

    def __init__(self, args, tokenizer, prompts, score, reference):
        self.args, self.tokenizer, self.prompts = args, tokenizer, prompts
        self.score, self.reference = score, reference
        self.noise = noise(args.seed, len(prompts), args.max_new_tokens)
        self.before = self.respond(reference)
        names = () if args.data else (*AXES, "beats SFT")
        row("update", "score", "kl", "length", "ended", *names)
        self.measure(0, self.before, torch.zeros(len(prompts)))

    def respond(self, gpt):
        return respond(gpt, self.tokenizer, self.prompts, self.noise, self.args.temperature)

    def evaluate(self, updates, gpt, folder):
        """Print a row and a table of samples; return the numbers for metrics.jsonl."""
        replies = self.respond(gpt)
        kls = kl(gpt, self.reference, replies, self.args.temperature)
        numbers, scores = self.measure(updates, replies, kls)
        texts = [
            (before.text, after.text) for before, after in zip(self.before, replies, strict=True)
        ]
        columns = self.prompts, texts, scores.tolist(), kls.tolist()
        rows = [(prompt, *pair, *pay) for prompt, pair, *pay in zip(*columns, strict=True)][:5]
        header = ("prompt", "SFT response", "policy response", "score", "kl")
        write_samples(folder, f"after {updates} updates", header, rows)
        return {"eval_" + name: value for name, value in numbers.items()}

    def measure(self, updates, replies, kls):
        """(numbers, scores (N,)) of replies; prints the row."""
        scores = self.score(self.prompts, replies)
        length = float(np.mean([reply.length for reply in replies]))
        numbers = {"score": float(scores.mean()), "kl": float(kls.mean()), "length": length}
        numbers["ended"] = float(np.mean([reply.ended for reply in replies]))
        if self.args.data:
            row(updates, *numbers.values())
            return numbers, scores
        judged, before = (judgements(self.prompts, side) for side in (replies, self.before))
        totals, totals_before = ([j.total for j in side] for side in (judged, before))
        numbers |= axes(judged) | {"win_rate": float(wins(totals, totals_before).mean())}
        row(updates, *numbers.values())
        return numbers | {"total_half": interval(totals)[1]}, scores
