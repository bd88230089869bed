"""Stage 1: demonstrations -> a policy that imitates them.

    python train_sft.py                                  the embedded world: pretrain, then fine-tune
    python train_sft.py --data demonstrations.jsonl      your own records; --init FOLDER starts from GPT-2's weights

Two phases of one loop: language modelling on text of mixed quality (what the papers call pretraining: a record whose prompt is
empty) writes out/pretrain; supervised fine-tuning, with the loss on the response and its end token only, writes out/sft.
"""

import dataclasses
from dataclasses import dataclass

import torch
from tqdm import tqdm

from minirlhf import checkpoint, config, data, evaluate, huggingface, model, tokenizer, world
from minirlhf.config import InputError, flag, rng
from minirlhf.metrics import Metrics, write_samples


@dataclass(frozen=True)
class Config:
    """Stage 1: pretrain a GPT and fine-tune it on demonstrations. Without --data, both on the embedded world."""

    out: str = flag("out", "folder of all stages; this one writes OUT/pretrain and OUT/sft")
    data: str = flag("", "demonstrations as JSON Lines (plain or gzip): prompt/response records or HH-RLHF dialogues")
    text: str = flag("", "a text file to pretrain on; with --data and without this there is no pretraining")
    init: str = flag("", "a Hugging Face GPT-2 folder to start from instead of pretraining; goes with --tokenizer gpt2")
    size: str = flag("nano", "size of the model when it starts from scratch", choices=tuple(model.SIZES))
    context: int = flag(128, "the most tokens a prompt and its response may have, when it starts from scratch", low=8)
    tokenizer: str = flag("tiny", "tiny (1,024 ids, comes with the package) or any tiktoken encoding, such as gpt2")
    documents: int = flag(64_000, "documents of the world's text to pretrain on, each seen once", low=1)
    demonstrations: int = flag(9_600, "demonstrations drawn from the world", low=1)
    epochs: int = flag(1, "passes over the demonstrations", low=1)
    batch_size: int = flag(16, "records an optimiser step", low=1)
    microbatch_tokens: int = flag(0, "tokens that go through the model at once: memory, not results; 0 suits the device", low=0)
    pretrain_lr: float = flag(6e-3, "peak learning rate of pretraining", above=0)
    lr: float = flag(1e-3, "peak learning rate of fine-tuning", above=0)
    warmup: int = flag(20, "steps of linear warm-up; a cosine to a tenth of the peak follows", low=0)
    weight_decay: float = flag(0.1, "AdamW's decay of the weight matrices", low=0)
    max_grad_norm: float = flag(1.0, "gradients are scaled down to this norm", above=0)
    holdout: int = flag(256, "records kept aside to measure the loss on, at most a tenth of them all", low=0)
    eval_every: int = flag(100, "steps between two measurements of the held-out loss", low=1)
    save_every: int = flag(200, "steps between two checkpoints", low=1)
    max_new_tokens: int = flag(32, "length of the sampled responses that are shown at the end", low=1)
    drop_long: bool = flag(False, "leave out records that do not fit the context, instead of stopping with an error")
    seed: int = flag(1, "seed of everything random", low=0)
    device: str = flag("auto", "where to run; auto takes the GPU if there is one", choices=("auto", "cpu", "cuda"))
    precision: str = flag("auto", "of the trunk; auto: bf16 on a GPU, float32 on a CPU", choices=("auto", "float32", "bf16"))
    threads: int = flag(0, "threads of the CPU; 0: torch's choice, one a core; 1 is faster beside another job", low=0)
    compile: bool = flag(False, "compile what learns by torch.compile: half a minute, and on a CPU no gain")
    resume: bool = flag(False, "continue the run in OUT/sft with its flags")
    overwrite: bool = flag(False, "replace the run that is already there")


def main(argv=None):
    args = checkpoint.configure(Config, "sft", argv)
    device, compiled = model.pick_device(args.device), model.pick_compile(args.compile)
    args = model.resolve(args, device)
    gpt, tok = start(args)
    args = dataclasses.replace(args, microbatch_tokens=model.pick_microbatch(args.microbatch_tokens, device, tok.vocab_size))
    text, demonstrations = load_text(args, tok, gpt), load_demonstrations(args, tok, gpt)
    stages = ("sft", "pretrain") if text else ("sft",)
    folder, *pretrain = checkpoint.start_run(args, tok, *stages)
    gpt.to(device).precision = model.PRECISIONS[args.precision]
    if compiled:
        model.compile_blocks(gpt)
    print(f"{sum(p.numel() for p in gpt.parameters()):,} parameters on {device}")
    if text:
        train(args, "pretrain", *pretrain, gpt, tok, text, 1, args.pretrain_lr)
    train(args, "sft", folder, gpt, tok, demonstrations, args.epochs, args.lr)
    show_samples(args, folder, gpt, tok)
    print(f"the policy is in {folder}; next: python train_rm.py")


def start(args):
    """(GPT, Tokenizer): GPT-2's weights, or a model of the chosen size with random ones."""
    tok = tokenizer.get_tokenizer(args.tokenizer)
    if args.init:
        gpt = huggingface.load_gpt2(args.init)
        if gpt.config.vocab_size != tok.vocab_size:
            raise InputError(
                f"--init {args.init} has {gpt.config.vocab_size} ids and --tokenizer {tok.name} has {tok.vocab_size}; "
                "GPT-2's weights go with --tokenizer gpt2"
            )
        return gpt, tok
    with torch.random.fork_rng(devices=[]):  # the modules draw from torch's global generator: lend it a seed, then restore it
        torch.default_generator.manual_seed(int(rng(args.seed, config.INIT).integers(2**62)))
        return model.GPT(model.GPTConfig.sized(args.size, tok.vocab_size, args.context)), tok


def load_text(args, tok, gpt):
    """Examples with an empty prompt: the world's documents, or windows of a text file. Empty where pretraining is skipped."""
    if args.text:
        return data.windows(args.text, tok, gpt.config.context)
    if args.data or args.init:
        return []
    documents = world.documents(args.documents, rng(args.seed, config.DOCUMENTS))
    return fitting(args, gpt, [data.encode(tok, "", document) for document in documents])


def load_demonstrations(args, tok, gpt):
    if args.data:
        fits = data.fits_context(tok, gpt.config.context, drop_long=args.drop_long)
        records = data.read_demonstrations(args.data, fits)
    else:
        records = world.demonstrations(args.demonstrations, rng(args.seed, config.DEMONSTRATIONS))
    return fitting(args, gpt, [data.encode(tok, record.prompt, record.response) for record in records])


def fitting(args, gpt, examples):
    """The examples that fit the context: all of them, unless --drop-long."""
    kept = [example for example in examples if len(example.tokens) <= gpt.config.context]
    if len(kept) < len(examples) and not args.drop_long:
        need = f"{max(len(example.tokens) for example in examples)} tokens do not fit the context of {gpt.config.context}"
        raise InputError(f"{need}; raise --context or pass --drop-long")
    return kept


def train(args, stage, folder, gpt, tok, examples, epochs, lr):
    """Minimise the mean negative log-probability of the response tokens."""
    held_out, examples = examples[: (n := min(args.holdout, len(examples) // 10))], examples[n:]
    steps = -(-len(examples) * epochs // args.batch_size)
    optimizer = model.adamw(gpt, lr, weight_decay=args.weight_decay)
    first = checkpoint.restore(folder, stage, args.resume, model=gpt, optimizer=optimizer)["step"]
    metrics = Metrics(folder, first)
    bar = tqdm(range(first, steps), desc=stage, initial=first, total=steps)
    with checkpoint.Interrupt() as interrupt:
        for step in bar:
            model.set_learning_rate(optimizer, lr * model.cosine(step, steps, args.warmup))
            stop = min((step + 1) * args.batch_size, len(examples) * epochs)
            batch = [examples[i] for i in data.stream(len(examples), step * args.batch_size, stop, args.seed)]
            loss = accumulate(gpt, batch, args.microbatch_tokens)
            grad_norm = torch.nn.utils.clip_grad_norm_(gpt.parameters(), args.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()

            # ---- bookkeeping
            done = step + 1
            held_out_loss = None
            if held_out and (done % args.eval_every == 0 or done == steps):
                held_out_loss = mean_loss(gpt, held_out, args.microbatch_tokens)
                bar.set_postfix(loss=f"{loss:.3f}", held_out=f"{held_out_loss:.3f}")
            lr_now = optimizer.param_groups[0]["lr"]
            metrics.log(step, loss=loss, held_out_loss=held_out_loss, grad_norm=grad_norm, lr=lr_now)
            if done % args.save_every == 0 or done == steps or interrupt.asked:
                checkpoint.save(folder, stage, gpt.config, tok, done, model=gpt, optimizer=optimizer)
            interrupt.stop_if_asked(folder, done, steps)


def accumulate(gpt, batch, microbatch_tokens):
    """Backpropagate the mean loss of a batch, a microbatch at a time. Each is divided by the response tokens of the *whole*
    batch, so that the gradient is the same whatever the split. Returns the loss."""
    total = sum(len(example.tokens) - example.prompt_length for example in batch)
    loss = 0.0
    for rows in data.microbatches([len(example.tokens) for example in batch], microbatch_tokens):
        part = summed_loss(gpt, [batch[row] for row in rows]) / total
        part.backward()
        loss += part.detach()
    return float(loss)


@torch.no_grad()
def mean_loss(gpt, examples, microbatch_tokens):
    """Nats per response token."""
    total = sum(len(example.tokens) - example.prompt_length for example in examples)
    groups = data.microbatches([len(example.tokens) for example in examples], microbatch_tokens)
    return sum(float(summed_loss(gpt, [examples[row] for row in rows])) for rows in groups) / total


def summed_loss(gpt, examples):
    """The negative log-probability of the examples' responses, end tokens included, in nats."""
    tokens, prompt_lengths, lengths = data.collate(examples)
    mask = model.response_mask(prompt_lengths, lengths, tokens.size(1))
    logprobs, _ = model.logprobs(gpt, tokens, mask)
    return -logprobs.sum()


def show_samples(args, folder, gpt, tok):
    """A few held-out prompts with the policy's responses, on the console and in samples.txt."""
    if args.data:
        fits = data.fits_context(tok, gpt.config.context, args.max_new_tokens, drop_long=True)
        prompts = [prompt for prompt in data.read_prompts(args.data) if fits(prompt)][:8]
    else:
        prompts = world.prompts(256, rng(args.seed, config.EVALUATION), split="test")
    replies = evaluate.respond(gpt, tok, prompts, evaluate.noise(args.seed, len(prompts), args.max_new_tokens))
    rows = [(prompt, reply.text) for prompt, reply in zip(prompts[:8], replies[:8], strict=True)]
    write_samples(folder, "the policy after supervised fine-tuning", ("prompt", "response"), rows)
    if not args.data:
        print(f"judged on {len(prompts)} held-out prompts: {evaluate.describe(evaluate.judge(prompts, replies))}")


if __name__ == "__main__":
    config.run(main)
