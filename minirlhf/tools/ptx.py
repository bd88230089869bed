"""PPO-ptx (Ouyang et al. 2022, equation 2): the loss on pretraining text beside PPO's, so that a
policy that learns to please does not forget the language.

Both gradients add up before the norm is clipped, and Adam makes one step of their sum. A step of
its own for the text would be another algorithm: Adam would scale either gradient by itself.
"""

import itertools
from dataclasses import dataclass

import torch

from minirlhf import data
from minirlhf.formats import text
from minirlhf.model import GPT
from minirlhf.run import config, distributed
from minirlhf.run.config import InputError, flag, rng
from minirlhf.tools.script import script
from minirlhf.world import writers

HELD_OUT = 256  # documents to measure the loss on, at most a tenth
DOCUMENTS = 16_384  # of the world that are learned from again


@dataclass(frozen=True)
class PtxFlags:
    """Flags of train_ppo.py."""

    ptx_coef: float = flag(
        0.0, "weight of the loss on pretraining text, which is added to PPO's (PPO-ptx)", low=0
    )
    ptx_batch: int = flag(16, "documents of it in each optimiser step", low=1)
    text: str = flag("", "a text file with it; by default, the embedded world's documents")


@dataclass(frozen=True)
class Loss:
    """`Loss(...)(step)` is the `auxiliary_loss` of `ppo.update` in one iteration: a function that
    backpropagates `coef` times the mean loss per token of the next documents. Which these are is a
    function of step and call, so that a resumed run sees the same."""

    gpt: GPT
    examples: list
    steps: int  # of the optimiser in an iteration
    seed: int
    coef: float
    batch_size: int
    microbatch_tokens: int

    def __call__(self, step):
        numbers = itertools.count(step * self.steps)

        def auxiliary_loss():
            start = next(numbers) * self.batch_size
            places = data.stream(len(self.examples), start, start + self.batch_size, self.seed)
            batch = [self.examples[i] for i in places]
            loss = backpropagate(self.gpt, batch, self.coef, self.microbatch_tokens)
            return {"ptx_loss": loss}

        return auxiliary_loss


def backpropagate(gpt, batch, coef, microbatch_tokens):
    """Add the gradient of coef x the mean loss per token of a batch. Returns the mean, in nats. The
    loss of a document is that of pretraining."""
    sft = script("train_sft")
    total = sft.response_tokens(batch)
    loss = torch.zeros((), device=gpt.device)
    for rows in data.own_microbatches([len(e.tokens) for e in batch], microbatch_tokens):
        part = sft.summed_loss(gpt, [batch[row] for row in rows]) / total
        (coef * part).backward()
        loss += part.detach()
    return distributed.total(loss)


def check_flags(args):
    """Refuses flags of train_ppo.py about the text that contradict one another."""
    if args.ptx_coef and args.algorithm != "ppo":
        raise InputError(f"--ptx-coef needs --algorithm ppo, not {args.algorithm}")
    if args.ptx_coef and args.data and not args.text:
        raise InputError("--ptx-coef needs --text FILE, the text that the policy shall not forget")
    if not args.ptx_coef and (args.text or args.ptx_batch != PtxFlags.ptx_batch):
        raise InputError("--text and --ptx-batch need --ptx-coef, the weight of the loss on it")


def none(step):
    """The loss of an iteration without --ptx-coef."""


def load(args, tokenizer, gpt):
    """A Loss or `none`, documents to learn from, documents held out."""
    if not args.ptx_coef:
        return none, [], []
    documents, held_out = load_text(args.text, args.seed, tokenizer, gpt.config.context)
    limits = args.ptx_coef, args.ptx_batch, args.microbatch_tokens
    steps = args.epochs * args.minibatches
    return Loss(gpt, documents, steps, args.seed, *limits), documents, held_out


def load_text(path, seed, tokenizer, context):
    """(documents to learn from, documents held out), as examples with an empty prompt: windows of a
    text file, or documents of the world, other ones than those of pretraining."""
    if path:
        examples = text.windows(path, tokenizer, context)
    else:
        documents = writers.documents(DOCUMENTS, rng(seed, config.PTX_DOCUMENTS))
        encoded = (data.encode(tokenizer, "", document) for document in documents)
        examples = [example for example in encoded if len(example.tokens) <= context]
    n = min(HELD_OUT, len(examples) // 10)
    return examples[n:], examples[:n]
