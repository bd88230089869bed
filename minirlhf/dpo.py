"""Direct preference optimisation (Rafailov et al. 2023): the same comparisons, no reward model, no sampling.

python -m minirlhf.dpo                           on the comparisons that train_rm.py collected: out/dpo
python -m minirlhf.dpo --data comparisons.jsonl  on your own
"""

import copy
import dataclasses
import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tqdm import tqdm

from minirlhf import checkpoint, config, data, model
from minirlhf.config import flag
from minirlhf.metrics import Metrics


def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta):  # (N,) x 4 -> scalar, stats
    """Equation 7: the mean of -log sigmoid(beta ((chosen - ref_chosen) - (rejected - ref_rejected))).

    All four are log-probabilities of whole responses, *summed* over tokens: an average would make beta depend on the length.
    """
    chosen_rewards, rejected_rewards = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    margin = chosen_rewards - rejected_rewards
    stats = {
        "chosen_reward": chosen_rewards.mean().detach(),
        "rejected_reward": rejected_rewards.mean().detach(),
        "accuracy": (margin > 0).float().mean(),
    }
    return -F.logsigmoid(margin).mean(), stats


@dataclass(frozen=True)
class Config:
    """Direct preference optimisation of the SFT model on comparisons."""

    out: str = flag("out", "folder of all stages; this one writes OUT/dpo")
    sft: str = flag("", "checkpoint that the policy starts from, and the reference [OUT/sft]")
    data: str = flag("", "comparisons as JSON Lines (plain or gzip) [OUT/rm/comparisons.jsonl]")
    beta: float = flag(1.0, "strength of the pull to the reference: small moves far, large stays near", above=0)
    epochs: int = flag(1, "passes over the comparisons", low=1)
    batch_size: int = flag(16, "prompts an optimiser step; all strictly ordered pairs of a prompt stay together", low=1)
    microbatch_tokens: int = flag(0, "tokens that go through the model at once: memory, not results; 0 suits the device", low=0)
    lr: float = flag(3e-4, "peak learning rate", above=0)
    warmup: int = flag(20, "steps of linear warm-up; a cosine to a tenth of the peak follows", low=0)
    max_grad_norm: float = flag(1.0, "gradients are scaled down to this norm", above=0)
    save_every: int = flag(200, "steps between two checkpoints", low=1)
    drop_long: bool = flag(False, "leave out records that do not fit the context, instead of stopping with an error")
    seed: int = flag(1, "seed of the shuffling", low=0)
    device: str = flag("auto", "where to run; auto takes the GPU if there is one", choices=("auto", "cpu", "cuda"))
    precision: str = flag("auto", "of the trunk; auto: bf16 on a GPU, float32 on a CPU", choices=("auto", "float32", "bf16"))
    threads: int = flag(0, "threads of the CPU; 0: torch's choice, one a core; 1 is faster beside another job", low=0)
    resume: bool = flag(False, "continue the run in OUT/dpo with its flags")
    overwrite: bool = flag(False, "replace the run that is already there")


def main(argv=None):
    args = checkpoint.configure(Config, "dpo", argv)
    device = model.pick_device(args.device)
    args = model.resolve(args, device)
    precision = model.PRECISIONS[args.precision]
    reference, tok = checkpoint.load_gpt(args.sft or f"{args.out}/sft", device=device, precision=precision)
    args = dataclasses.replace(args, microbatch_tokens=model.pick_microbatch(args.microbatch_tokens, device, tok.vocab_size))
    fits = data.fits_context(tok, reference.config.context, drop_long=args.drop_long)
    comparisons = data.read_comparisons(args.data or f"{args.out}/rm/comparisons.jsonl", fits)
    comparisons = data.informative(comparisons)
    (folder,) = checkpoint.start_run(args, tok, "dpo")
    policy = copy.deepcopy(reference)
    train(args, folder, policy, reference.requires_grad_(False), tok, comparisons)
    print(f"the policy is in {folder}; compare it: python -m minirlhf.evaluate --policy {folder}")


def train(args, folder, policy, reference, tok, comparisons):
    steps = -(-len(comparisons) * args.epochs // args.batch_size)
    optimizer = model.adamw(policy, args.lr)
    first = checkpoint.restore(folder, "dpo", args.resume, model=policy, optimizer=optimizer)["step"]
    metrics = Metrics(folder, first)
    bar = tqdm(range(first, steps), desc="dpo", initial=first, total=steps)
    with checkpoint.Interrupt() as interrupt:
        for step in bar:
            model.set_learning_rate(optimizer, args.lr * model.cosine(step, steps, args.warmup))
            stop = min((step + 1) * args.batch_size, len(comparisons) * args.epochs)
            batch = [comparisons[i] for i in data.stream(len(comparisons), step * args.batch_size, stop, args.seed)]
            stats = accumulate(policy, reference, tok, batch, args.beta, args.microbatch_tokens)
            grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), args.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()

            # ---- bookkeeping
            done = step + 1
            metrics.log(step, **stats, grad_norm=grad_norm, lr=optimizer.param_groups[0]["lr"])
            if step % 10 == 0:
                bar.set_postfix(loss=f"{stats['loss']:.3f}", accuracy=f"{stats['accuracy']:.2f}")
            if done % args.save_every == 0 or done == steps or interrupt.asked:
                checkpoint.save(folder, "dpo", policy.config, tok, done, model=policy, optimizer=optimizer)
            interrupt.stop_if_asked(folder, done, steps)


def accumulate(policy, reference, tok, batch, beta, microbatch_tokens):
    """Backpropagate the mean loss over a batch's strictly ordered pairs. Each response goes through a trunk once, however many
    pairs it is in. Returns loss and stats as means over the pairs."""
    encoded = [[data.encode(tok, c.prompt, response) for response in c.responses] for c in batch]
    pairs = [[(i, j) for i, j in itertools.permutations(range(len(c.ranks)), 2) if c.ranks[i] < c.ranks[j]] for c in batch]
    total = sum(map(len, pairs))
    sums = {}
    for rows in data.microbatches([len(g) * max(len(e.tokens) for e in g) for g in encoded], microbatch_tokens):
        groups = [encoded[row] for row in rows], [pairs[row] for row in rows]
        logprobs, ref_logprobs, better, worse = pair_logprobs(policy, reference, *groups)
        loss, stats = dpo_loss(logprobs[better], logprobs[worse], ref_logprobs[better], ref_logprobs[worse], beta)
        share = len(better) / total
        (loss * share).backward()
        for name, value in (stats | {"loss": loss.detach()}).items():
            sums[name] = sums.get(name, 0.0) + value * share
    return {name: float(value) for name, value in sums.items()}


def pair_logprobs(policy, reference, groups, pairs):
    """Summed log-probabilities of all responses by policy and reference; the indices of each pair's better and worse one."""
    tokens, prompt_lengths, lengths = data.collate([example for group in groups for example in group])
    mask = model.response_mask(prompt_lengths, lengths, tokens.size(1))
    logprobs = model.logprobs(policy, tokens, mask)[0].sum(1)
    with torch.no_grad():
        ref_logprobs = model.logprobs(reference, tokens, mask)[0].sum(1)
    starts = itertools.accumulate(map(len, groups), initial=0)
    flat = [(start + i, start + j) for start, own in zip(starts, pairs, strict=False) for i, j in own]
    better, worse = torch.tensor(flat, device=logprobs.device).T
    return logprobs, ref_logprobs, better, worse


if __name__ == "__main__":
    config.run(main)
