"""A reward, or a policy, from demonstrations alone: nobody compares anything.

    minirlhf demonstrations --method afd     a reward model of demonstrations against the SFT
                                                  model's responses, and PPO against it
    minirlhf demonstrations --method gaf     the same in rounds: adversarial feedback
    minirlhf demonstrations --method spin    DPO of demonstrations against own responses

Each starts from the demonstration's SFT model (out/demo/sft) and from the demonstrations that it
has learned from already. The same command goes on where it stopped. What the three have in common
is in minirlhf/rewards/demonstrations.py.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minirlhf import data, evaluate, reward
from minirlhf.formats import jsonl
from minirlhf.rewards.demonstrations import compare
from minirlhf.run import checkpoint, compute, config
from minirlhf.run.config import ComputeFlags, InputError, flag, rng
from minirlhf.run.files import write_text
from minirlhf.tools import dpo, parts
from minirlhf.tools.script import script
from minirlhf.world import judge, writers

ROUNDS = {"afd": 1, "gaf": 4, "spin": 3}
READS = {  # a method: the flags that it reads, of those that not all of them do
    "afd": ("chosen", "rejected", "updates", "kl_coef", "batch_size"),
    "gaf": ("rounds", "updates", "kl_coef", "batch_size"),
    "spin": ("rounds", "beta"),
}
PROMPTS = "prompts.jsonl"  # of your own demonstrations, for PPO
SEEDS = 1000  # between the seeds of two rounds of PPO: other prompts, other noise


@dataclass(frozen=True)
class Config(ComputeFlags):
    """Learn a reward from demonstrations, and a policy from the reward."""

    out: str = flag("out/demonstrations", "folder of all methods; one writes OUT/METHOD")
    method: str = flag(
        "afd",
        "afd: a reward model and PPO, once; gaf: in rounds, each against the policy as it is then; "
        "spin: DPO in rounds",
        choices=tuple(ROUNDS),
    )
    sft: str = flag("out/demo/sft", "checkpoint that the policy starts from")
    data: str = flag("", "demonstrations, as for train_sft.py [those of the embedded world]")
    demonstrations: int = flag(
        9_600, "how many of the world's, beginning with those that train_sft.py learns from", low=2
    )
    chosen: str = flag(
        "", "afd: a policy whose responses are chosen, in place of the demonstrations"
    )
    rejected: str = flag("", "afd: a policy whose responses are rejected [that of --sft]")
    rounds: int = flag(0, "rounds of gaf and spin; 0: 4 and 3", low=0)
    updates: int = flag(96, "afd, gaf: updates of PPO, in all rounds together", low=1)
    kl_coef: float = flag(
        1.0,
        "afd, gaf: penalty per nat of KL from the policy of the comparisons, in units of the raw "
        "score; at 1 the optimum writes as the demonstrators do, below 1 it goes beyond them",
        low=0,
    )
    beta: float = flag(1.0, "spin: DPO's pull to the policy of the round before", above=0)
    batch_size: int = flag(256, "afd, gaf: responses per rollout of PPO", low=8)
    max_new_tokens: int = flag(32, "the most tokens a response may have", low=1)
    prompts: int = flag(256, "held-out prompts to compare the policy with the SFT model on", low=2)


def main(argv=None):
    args = config.parse(Config, argv)
    refuse_idle_flags(args)
    sft, tokenizer = checkpoint.load_gpt(args.sft)
    inputs = {"policy": sft}
    for name in ("chosen", "rejected"):
        if path := getattr(args, name):
            inputs[name] = checkpoint.load_gpt(path)[0]
    context = min(gpt.config.context for gpt in inputs.values())
    demonstrations = inputs["demonstrations"] = load_demonstrations(args, context, tokenizer)
    policy, comparisons = args.sft, []
    rounds = args.rounds or ROUNDS[args.method]
    with parts.begin(Path(args.out) / args.method, args, **inputs) as folder:
        if args.data:
            demonstrations = parts.hold_out(demonstrations, args.prompts, args.seed, folder)
            parts.write_prompts(folder / PROMPTS, demonstrations)
        for n in range(1, rounds + 1):
            print(f"\n--- {args.method}, round {n} of {rounds}")
            place = folder / f"round-{n}"
            comparisons.append(collect(args, place, policy, n, demonstrations))
            learned = ",".join(comparisons[-2:])  # and those of the round before, as in SPIN
            step = spin if args.method == "spin" else adversarial
            policy = step(args, place, policy, n, learned)
        parts.compare_with_sft(args, folder, policy, reward_model="none", prompts=args.prompts)


def refuse_idle_flags(args):
    """InputError for a flag that this call does not read."""
    if args.data:
        config.refuse_idle(args, {"demonstrations": "they are those of --data"})
    for name in {name for names in READS.values() for name in names} - set(READS[args.method]):
        if getattr(args, name) != getattr(Config, name):
            option, readers = "--" + name.replace("_", "-"), [m for m in READS if name in READS[m]]
            problem = f"{option} is a flag of {' and '.join(readers)}"
            raise InputError(f"{problem}; --method {args.method} has none")
    rounds = args.rounds or ROUNDS[args.method]
    if args.method == "gaf" and args.updates < rounds:
        raise InputError(f"--updates {args.updates} are fewer than the {rounds} rounds")


def load_demonstrations(args, context, tokenizer):
    """Demonstrations that fit, with prompts that leave room for a response; of the world's it is
    printed what the judge thinks of their writers."""
    fits = data.fits_context(tokenizer, context, drop_long=args.drop_long)
    if args.data:
        records = jsonl.read_demonstrations(args.data, fits, **jsonl.flags(args))
    else:
        records = writers.demonstrations(args.demonstrations, rng(args.seed, config.DEMONSTRATIONS))
        totals = [judge.judge(record.prompt, record.response).total for record in records]
        print(f"the writers' own total is {np.mean(totals):.2f} of 3")
    room = data.fits_context(tokenizer, context, args.max_new_tokens, args.drop_long)
    return [record for record in records if room(record.prompt)]


# ---- a round


def collect(args, folder, policy, n, demonstrations):
    """The file of a round's comparisons: demonstrations against the policy's own responses."""
    path = folder / "comparisons.jsonl"
    if not path.exists():
        chosen = demonstrations
        if args.chosen:
            texts = sample(args, args.chosen, demonstrations, n, "chosen")
            pairs = zip(demonstrations, texts, strict=True)
            chosen = [data.Demonstration(d.prompt, text) for d, text in pairs]
        # Sampled under other noise than the chosen ones, if those are samples too.
        rejected = sample(args, args.rejected or policy, demonstrations, n + SEEDS, "rejected")
        comparisons = compare(chosen, rejected)
        if len(comparisons) < 2:
            problem = f"{len(comparisons)} of {len(rejected)} responses of {policy} differ"
            raise InputError(f"{problem} from their demonstrations: there is nothing to learn")
        print(f"{len(comparisons)} of {len(rejected)} responses differ from their demonstrations")
        write_text(path, jsonl.write_records(comparisons))
    return str(path)


def sample(args, path, demonstrations, step, caption):
    """The texts of a policy's responses to the prompts of demonstrations."""
    device = compute.pick_device(args.device)
    args = compute.resolve(args, device)
    precision = compute.PRECISIONS[args.precision]
    gpt, tokenizer = checkpoint.load_gpt(path, device=device, precision=precision)
    prompts = [demonstration.prompt for demonstration in demonstrations]
    shape = len(prompts), args.max_new_tokens
    stream = rng(args.seed, config.DEMONSTRATED_RESPONSES, step)
    uniforms = stream.random(shape, dtype=np.float32)
    replies = evaluate.respond(gpt, tokenizer, prompts, uniforms, progress=caption)
    return [reply.text for reply in replies]


def adversarial(args, folder, policy, n, learned):
    """A discriminator, as a reward model, and PPO against it from the policy of the comparisons,
    which is also the reference: z is about the distance from that policy; from the second round on
    from the mean of that policy and of the one before it, whose responses are rejected too."""
    flags = parts.shared(args) | {"sft": policy, "max_new_tokens": args.max_new_tokens}
    flags |= {"mix_data": True}
    flags["data"] = learned
    discriminator = parts.run(script("train_rm").main, folder, "rm", flags | {"drop_long": True})
    std = float(reward.load_reward_model(discriminator)[0].std)
    rounds = args.rounds or ROUNDS[args.method]
    updates = args.updates * n // rounds - args.updates * (n - 1) // rounds
    flags |= {"seed": args.seed + SEEDS * (n - 1), "rm": discriminator, "updates": updates}
    flags |= {"warmup": updates // 6, "batch_size": args.batch_size, "eval_every": updates}
    # PPO's scores are raw ones divided by their standard deviation within a prompt.
    flags |= {"kl_coef": args.kl_coef / std}
    flags["data"] = folder.parent / PROMPTS if args.data else ""
    return parts.run(script("train_ppo").main, folder, "ppo", flags)


def spin(args, folder, policy, n, learned):
    """DPO from the policy of the comparisons, which is the reference: of oneself against people."""
    flags = parts.shared(args) | {"sft": policy, "data": learned, "beta": args.beta}
    return parts.run(dpo.main, folder, "dpo", flags | {"mix_data": True, "drop_long": True})


if __name__ == "__main__":
    config.run(main)
