"""Rejection-sampling fine-tuning (RAFT, Dong et al. 2023; Llama 2's rounds V1 to V4): sample n
responses to each prompt, keep the one that the reward model likes best, imitate it.

    minirlhf rejection               the best of 16 of the demonstration's SFT model
    minirlhf rejection --rounds 2    two rounds, the second from the policy of the first

The policy moves towards best-of-n, which needs n samples at every use: pi(y) P(score <= y's)^(n-1),
at a KL of log n - (n-1)/n. There is no penalty: n, and the number of rounds, hold it. The loss is
that of train_sft.py. The same command goes on where it stopped.
"""

import json
from dataclasses import dataclass

from minirlhf import evaluate, reward
from minirlhf.data import Demonstration, fitting_prompts
from minirlhf.formats import jsonl
from minirlhf.run import checkpoint, compute, config
from minirlhf.run.config import ComputeFlags, InputError, flag, rng
from minirlhf.run.files import write_text
from minirlhf.tools import output, parts
from minirlhf.tools.sample import Settings, records
from minirlhf.tools.script import script
from minirlhf.world import writers

SEEDS = 1000  # between two rounds: other prompts of the world, other noise


@dataclass(frozen=True)
class Config(ComputeFlags):
    """Fine-tune a policy on the best of its own responses."""

    out: str = flag("out/rejection", "folder of the experiment")
    sft: str = flag("out/demo/sft", "checkpoint that the policy starts from")
    rm: str = flag("out/demo/rm", "reward model that chooses")
    data: str = flag("", "prompts, as for train_ppo.py [those of the embedded world]")
    rounds: int = flag(1, "how often: each round samples from the policy of the last", low=1)
    prompts: int = flag(1536, "prompts of a round, drawn from the world", low=2)
    best_of: int = flag(16, "n, responses to a prompt; the best is imitated", low=2)
    epochs: int = flag(1, "passes over the responses of a round", low=1)
    lr: float = flag(1e-3, "peak learning rate", above=0)
    max_new_tokens: int = flag(32, "the most tokens a response may have", low=1)
    held_out: int = flag(256, "held-out prompts to compare the policy on", low=2)


def main(argv=None):
    args = config.parse(Config, argv)
    if args.data:
        config.refuse_idle(args, {"prompts": "the prompts are those of --data"})
    device = compute.pick_device(args.device)
    precision = compute.PRECISIONS[compute.resolve(args, device).precision]
    model, tokenizer, missing_end_score = reward.load_reward_model(args.rm, device, precision)
    score, policy = evaluate.model_scores(model, missing_end_score), args.sft
    inputs = {"rm": model, "sft": checkpoint.load_gpt(policy)[0]}
    with parts.begin(args.out, args, **inputs) as folder:
        for n in range(1, args.rounds + 1):
            print(f"\n--- rejection, round {n} of {args.rounds}")
            place, path = folder / f"round-{n}", policy
            gpt, other = checkpoint.load_gpt(path, device=device, precision=precision)
            checkpoint.same_vocabulary(path, other, args.rm, tokenizer)
            context = min(gpt.config.context, model.gpt.config.context)
            prompts = load_prompts(args, folder, tokenizer, context, n)
            chosen = best(args, place, gpt, tokenizer, score, prompts, n)
            flags = parts.shared(args) | {"init": path, "data": chosen, "epochs": args.epochs}
            flags |= {"lr": args.lr, "max_new_tokens": args.max_new_tokens, "drop_long": True}
            policy = parts.run(script("train_sft").main, place, "sft", flags)
        flags = {"reward_model": args.rm, "prompts": args.held_out, "best_of": 1}
        parts.compare_with_sft(args, folder, policy, **flags)


def load_prompts(args, folder, tokenizer, context, n):
    """The prompts of round n, which leave room for a response."""
    if args.data:
        prompts = jsonl.read_prompts(args.data, **jsonl.flags(args))
        prompts = parts.hold_out(prompts, args.held_out, args.seed, folder)
    else:
        stream = rng(args.seed + SEEDS * (n - 1), config.PPO_PROMPTS)
        prompts = writers.prompts(args.prompts, stream)
    return fitting_prompts(prompts, tokenizer, context, args.max_new_tokens, args.drop_long)


def best(args, folder, gpt, tokenizer, score, prompts, n):
    """The file of the best responses. A killed command goes on behind the last one."""
    folder.mkdir(parents=True, exist_ok=True)
    seed = args.seed + SEEDS * (n - 1)
    settings = Settings(1, args.best_of, 1.0, seed, args.max_new_tokens)
    inputs, rows = {"policy": gpt, "prompts": prompts}, folder / "samples.jsonl"
    with output.lines(rows, settings._asdict(), inputs, go_on=True) as (done, write):
        for record in records(gpt, tokenizer, score, prompts, settings, done=done):
            write(record)
    demonstrations = finished(read_rows(rows))
    write_text(folder / "demonstrations.jsonl", jsonl.write_records(demonstrations))
    return str(folder / "demonstrations.jsonl")


def read_rows(path):
    """The rows of samples.jsonl. InputError if one of them is none."""
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            whole = type(row["prompt"]) is type(row["response"]) is str
            whole = whole and type(row["ended"]) is bool
        except (ValueError, KeyError, TypeError, RecursionError):
            whole = False
        if not whole:
            problem = f"{path}, line {number}, is damaged"
            raise InputError(f"{problem}; remove the file, and its responses are sampled again")
        rows.append(row)
    return rows


def finished(rows):
    """Demonstrations of the rows whose response came to its end: imitation adds an end token, and
    would teach to stop in mid-sentence."""
    kept = [Demonstration(row["prompt"], row["response"]) for row in rows if row["ended"]]
    if not kept:
        raise InputError("no response came to its end; raise --max-new-tokens")
    return kept


if __name__ == "__main__":
    config.run(main)
