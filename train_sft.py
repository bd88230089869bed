"""Stage 1: demonstrations -> a policy that imitates them.

    python train_sft.py                                  the embedded world: pretrain, fine-tune
    python train_sft.py --data demonstrations.jsonl      your own records;
                                                         --init FOLDER starts from GPT-2's weights

Two phases of one loop. Pretraining on text of mixed quality writes out/pretrain: each text is a
record with an empty prompt. Supervised fine-tuning, with the loss on the response and its end token
only, writes out/sft.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from minirlhf import data, evaluate, lora, model
from minirlhf.formats import gpt2, jsonl, text
from minirlhf.run import chain, checkpoint, compute, config, distributed, health, optim
from minirlhf.run.config import InputError, TrainingFlags, flag, rng
from minirlhf.run.folder import start_run
from minirlhf.run.metrics import write_samples
from minirlhf.run.progress import Progress
from minirlhf.tokenizer import get_tokenizer
from minirlhf.world import measures, writers


@dataclass(frozen=True)
class Config(TrainingFlags):
    """Stage 1: pretrain a GPT and fine-tune it on demonstrations. Without --data, both on the
    embedded world."""

    out: str = flag("out", "folder of all stages; this one writes OUT/pretrain and OUT/sft")
    data: str = flag(
        "",
        "demonstrations: JSON Lines, JSON, CSV or Parquet in any form that minirlhf formats lists; "
        "files, a folder, or - for the standard input",
    )
    text: str = flag(
        "", "a text file to pretrain on; with --data and without this there is no pretraining"
    )
    init: str = flag(
        "",
        "a run to start from instead of pretraining, with its tokenizer, or a Hugging Face GPT-2 "
        "folder, which goes with --tokenizer gpt2",
    )
    size: str = flag(
        "nano", "size of the model when it starts from scratch", choices=tuple(model.SIZES)
    )
    context: int = flag(
        128,
        "the most tokens a prompt and its response may have, when it starts from scratch",
        low=8,
    )
    tokenizer: str = flag(
        "tiny", "tiny (1,664 ids, comes with the package) or any tiktoken encoding, such as gpt2"
    )
    documents: int = flag(
        64_000, "documents of the world's text to pretrain on, each seen once", low=1
    )
    demonstrations: int = flag(9_600, "demonstrations drawn from the world", low=1)
    epochs: int = flag(1, "passes over the demonstrations", low=1)
    batch_size: int = flag(16, "records per optimiser step", low=1)
    pretrain_lr: float = flag(6e-3, "peak learning rate of pretraining", above=0)
    lr: float = flag(1e-3, "peak learning rate of fine-tuning", above=0)
    warmup: int = flag(
        20, "steps of linear warm-up; a cosine to a tenth of the peak follows", low=0
    )
    weight_decay: float = flag(0.1, "AdamW's decay of the weight matrices", low=0)
    held_out: int = flag(
        256,
        "records to measure the loss on, of the tenth that is held out; 0 holds out none",
        low=0,
    )
    eval_every: int = flag(100, "steps between two measurements of the held-out loss", low=1)
    save_every: int = flag(200, "steps between two checkpoints", low=1)
    max_new_tokens: int = flag(
        32, "the most tokens of the sampled responses that are shown at the end", low=1
    )


def train(args, stage, folder, gpt, tokenizer, splits, epochs, lr):
    """Minimise the mean negative log-probability of the response tokens. `splits` are the examples
    to learn on and those held out."""
    examples, held_out = splits
    steps = -(-len(examples) * epochs // args.batch_size)
    health.warn(health.short_run(steps, args.warmup))
    optimizer = optim.adamw(gpt, lr, weight_decay=args.weight_decay)
    parts = {"model": gpt, "optimizer": optimizer}
    state = checkpoint.restore(folder, stage, args.resume, **parts)
    first = state["step"]
    bar = tqdm(range(first, steps), desc=stage, initial=first, total=steps)

    def save(done):
        checkpoint.save(folder, stage, gpt.config, tokenizer, done, keep=args.keep, **parts)

    with Progress(folder, state, steps, args.save_every, optimizer, save) as progress:
        for step in bar:
            optim.set_learning_rate(optimizer, lr * optim.cosine(step, steps, args.warmup))
            start, stop = step * args.batch_size, (step + 1) * args.batch_size
            stop = min(stop, len(examples) * epochs)
            batch = [examples[i] for i in data.stream(len(examples), start, stop, args.seed)]
            loss = accumulate(gpt, batch, args.microbatch_tokens)
            grad_norm = torch.nn.utils.clip_grad_norm_(gpt.parameters(), args.max_grad_norm)
            optim.require_finite(step, loss=loss, grad_norm=grad_norm)
            optimizer.step()
            optimizer.zero_grad()

            # ---- bookkeeping
            stats = {"loss": loss, "grad_norm": grad_norm, "lr": optim.learning_rate(optimizer)}
            progress.complete(step + 1, stats)
            if held_out and progress.due(args.eval_every):
                stats["held_out_loss"] = mean_loss(gpt, held_out, args.microbatch_tokens)
                bar.set_postfix(loss=f"{loss:.3f}", held_out=f"{stats['held_out_loss']:.3f}")
            progress.record()


def accumulate(gpt, batch, microbatch_tokens):
    """Backpropagate the mean loss of a batch, a microbatch at a time. Each is divided by the
    response tokens of the *whole* batch, so that the gradient does not depend on the split. Returns
    the loss."""
    total = response_tokens(batch)
    loss = 0.0
    for rows in data.own_microbatches([len(e.tokens) for e in batch], microbatch_tokens):
        part = summed_loss(gpt, [batch[row] for row in rows]) / total
        part.backward()
        loss += part.detach()
    distributed.add_gradients(gpt)
    return float(distributed.total(float(loss)))


@torch.no_grad()
def mean_loss(gpt, examples, microbatch_tokens):
    """Nats per response token."""
    groups = data.own_microbatches([len(e.tokens) for e in examples], microbatch_tokens)
    losses = [float(summed_loss(gpt, [examples[row] for row in rows])) for rows in groups]
    losses = distributed.gathered(losses)
    return sum(losses) / response_tokens(examples)


def response_tokens(examples):
    return sum(len(example.tokens) - example.prompt_length for example in examples)


def summed_loss(gpt, examples):
    """The negative log-probability of the examples' responses, end tokens included, in nats."""
    tokens, prompt_lengths, lengths = data.collate(examples)
    mask = model.response_mask(prompt_lengths, lengths, tokens.size(1))
    logprobs, _ = model.logprobs(gpt, tokens, mask)
    return -logprobs.sum()


# ---- inputs


def main(argv=None):
    args = checkpoint.configure(Config, "sft", argv)
    device = compute.pick_device(args.device)
    args = compute.resolve(args, device)
    check_flags(args)
    gpt, tokenizer = load_model(args)
    args = compute.resolve_microbatch(args, device, tokenizer.vocab_size)
    documents = load_documents(args, tokenizer, gpt)
    demonstrations = load_demonstrations(args, tokenizer, gpt)

    stages = ("sft", "pretrain") if documents else ("sft",)
    gpt.to(device).precision = compute.PRECISIONS[args.precision]
    gpt.gradient_checkpointing = args.gradient_checkpointing
    inputs = {"data": both(demonstrations), "init": gpt if args.init else None}
    inputs["text"] = documents and both(documents)
    with start_run(args, tokenizer, *stages, **inputs) as (folder, *pretrain_folder):
        print(f"{sum(p.numel() for p in gpt.parameters()):,} parameters on {device}")
        if documents:
            stage = "pretrain", *pretrain_folder
            train(args, *stage, gpt, tokenizer, documents, epochs=1, lr=args.pretrain_lr)
            # Demonstrations use few of the tokens. The others would learn that they are never said.
            gpt.token_embedding.requires_grad_(False)
        gpt = lora.start(args, gpt) if args.lora else gpt
        train(args, "sft", folder, gpt, tokenizer, demonstrations, args.epochs, args.lr)
        show_samples(args, folder, gpt, tokenizer, demonstrations)
    print(f"the policy is in {folder}; next: {next_command(args)}")


def check_flags(args):
    """Refuses flags that contradict one another, or that nobody reads."""
    idle = {"demonstrations": "they are those of --data"} if args.data else {}
    if args.init:
        idle |= dict.fromkeys(("size", "context"), "the model is that of --init")
    if args.text:
        idle["documents"] = "the text is that of --text"
    elif args.data or args.init:
        reason = "there is no pretraining without --text"
        idle |= dict.fromkeys(("documents", "pretrain_lr"), reason)
        if args.lora and not args.init:
            remedy = "give --init, or --text to pretrain on"
            raise InputError(f"--lora has nothing to stand beside: {remedy}")
    config.refuse_idle(args, idle)


def next_command(args):
    """The command of the reward model. Its comparisons are in the file of --data, or in one that is
    yet to be named."""
    if not args.data:
        return chain.command("python train_rm.py", args, chain.STAGE_FLAGS)
    names = jsonl.flags(args)
    serves = Path(args.data).is_file() and jsonl.holds_comparisons(args.data, **names)
    comparisons = args.data if serves else "YOUR_COMPARISONS.jsonl"
    return chain.command("python train_rm.py", args, chain.STAGE_FLAGS, data=comparisons)


def load_model(args):
    """(GPT, Tokenizer): those of a run, GPT-2's weights, or random ones in the chosen size."""
    if args.init and is_run(args.init):
        gpt, tokenizer = checkpoint.load_gpt(args.init)
        if args.tokenizer not in (Config.tokenizer, tokenizer.name):
            problem = f"has the tokenizer {tokenizer.name}, not {args.tokenizer}"
            raise InputError(f"--init {args.init} {problem}; leave out --tokenizer")
        return gpt, tokenizer
    tokenizer = get_tokenizer(args.tokenizer)
    if args.init:
        gpt = gpt2.load_gpt2(args.init)
        if gpt.config.vocab_size != tokenizer.vocab_size:
            remedy = "GPT-2's weights go with --tokenizer gpt2"
            if tokenizer.name == "gpt2":
                remedy = "name the tokenizer that the weights were trained with"
            raise InputError(
                f"--init {args.init} has {gpt.config.vocab_size} ids and "
                f"--tokenizer {tokenizer.name} has {tokenizer.vocab_size}; {remedy}"
            )
        return gpt, tokenizer
    with config.torch_seed(args.seed, config.GPT_WEIGHTS):
        shape = model.GPTConfig.sized(args.size, tokenizer.vocab_size, args.context)
        return model.GPT(shape), tokenizer


def is_run(path):
    """Whether --init names a checkpoint of ours, its file or its folder."""
    return Path(path).suffix == ".pt" or (Path(path) / "checkpoint.pt").exists()


def load_documents(args, tokenizer, gpt):
    """Examples with an empty prompt, to learn on and held out: the world's documents, or windows of
    a text file. None where pretraining is skipped."""
    if args.text:
        return first_held_out(args, text.windows(args.text, tokenizer, gpt.config.context))
    if args.data or args.init:
        return None
    documents = writers.documents(args.documents, rng(args.seed, config.DOCUMENTS))
    examples = fitting(args, gpt, [data.encode(tokenizer, "", document) for document in documents])
    return first_held_out(args, examples)


def load_demonstrations(args, tokenizer, gpt):
    """Examples to learn on, and examples held out."""

    def encoded(records):
        return [data.encode(tokenizer, record.prompt, record.response) for record in records]

    if args.data:
        fits = data.fits_context(tokenizer, gpt.config.context, drop_long=args.drop_long)
        records = jsonl.read_demonstrations(args.data, fits, **jsonl.flags(args))
        splits = tuple(map(encoded, data.hold_out(records, args.held_out, args.seed)))
        lengths = [len(example.tokens) - example.prompt_length for example in both(splits)]
        health.warn(health.long_answers(lengths, args.max_new_tokens))
        return splits
    stream = rng(args.seed, config.DEMONSTRATIONS)
    records = writers.demonstrations(args.demonstrations, stream)
    return first_held_out(args, fitting(args, gpt, encoded(records)))


def both(splits):
    learned, held_out = splits
    return learned + held_out


def first_held_out(args, examples):
    """(the rest, the first tenth at most): for examples in an order that means nothing."""
    n = min(args.held_out, len(examples) // 10)
    return examples[n:], examples[:n]


def fitting(args, gpt, examples):
    """The examples that fit the context: all of them, unless --drop-long."""
    context = gpt.config.context
    kept = [example for example in examples if len(example.tokens) <= context]
    if len(kept) < len(examples) and not args.drop_long:
        longest = max(len(example.tokens) for example in examples)
        problem = f"{longest} tokens do not fit the context of {context}"
        raise InputError(f"{problem}; raise --context or pass --drop-long")
    return kept


# ---- report


def show_samples(args, folder, gpt, tokenizer, demonstrations):
    """A few held-out prompts with the policy's responses, on the console and in samples.txt. Those
    of --data come from the demonstrations, since --data may be a pipe."""
    if args.data:
        room, (learned, held_out) = gpt.config.context - args.max_new_tokens, demonstrations
        examples = [example for example in held_out or learned if example.prompt_length <= room]
        prompts = [
            tokenizer.decode(example.tokens[: example.prompt_length]) for example in examples[:8]
        ]
    else:
        prompts = writers.prompts(256, rng(args.seed, config.HELD_OUT_PROMPTS), split="validation")
    uniforms = evaluate.noise(args.seed, len(prompts), args.max_new_tokens)
    replies = evaluate.respond(gpt, tokenizer, prompts, uniforms)
    rows = [(prompt, reply.text) for prompt, reply in zip(prompts[:8], replies[:8], strict=True)]
    title = "the policy after supervised fine-tuning"
    write_samples(folder, title, ("prompt", "response"), rows)
    if not args.data:
        judged = measures.describe(measures.judgements(prompts, replies))
        print(f"judged on {len(prompts)} held-out prompts: {judged}")


if __name__ == "__main__":
    config.run(main)
