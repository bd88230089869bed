"""How much memory a stage needs, by arithmetic: what is in memory at each moment of an optimiser
step or an iteration, in parts. The moment that needs most decides.

Letters as in model.py: L layers, C width, V vocabulary. A microbatch has N tokens whose states are
computed, P places (rows x columns, padding included) and M wanted states, those that the head
reads. The counts follow fast.packed_hidden and fast.TokenLogprobs line by line;
tests/unit/test_memory.py holds them against what torch has allocated.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from minirlhf import data, fast
from minirlhf.model import GPT, GPTConfig

STAGES = ("sft", "rm", "ppo", "grpo", "dpo")
PARTS = (
    *("policy", "reference", "reward model", "critic", "gradients", "Adam"),
    *("bf16 copies", "KV cache", "activations", "logits"),
)
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Work:
    """A stage, the shape of its models and what a step of it is made of."""

    stage: str  # of STAGES
    shape: GPTConfig
    batch_size: int  # records, prompts or responses of an optimiser step or a rollout
    prompt_tokens: int
    new_tokens: int  # of a response, the end token included
    responses: int  # to a prompt; rm and dpo keep them together
    minibatches: int
    microbatch_tokens: int
    sampled_rows: int  # that are sampled together; 0 where nothing is
    separate_critic: bool = False
    bf16: bool = False
    cpu: bool = True
    lora: int = 0
    gradient_checkpointing: bool = False

    @property
    def columns(self):
        return self.prompt_tokens + self.new_tokens

    @property
    def grouped(self):
        return self.stage in ("rm", "dpo")


class Microbatch(NamedTuple):
    tokens: int  # N
    places: int  # P
    wanted: int  # M


def microbatches(work):  # -> [Microbatch], in the order in which their gradients add up
    """Those of one optimiser step."""
    K, T = (work.responses if work.grouped else 1), work.columns
    count = -(-work.batch_size // work.minibatches)
    groups = data.microbatches([K * T] * count, work.microbatch_tokens)
    # The state of a row's last token is read by the reward model alone; a prompt that K responses
    # share is computed once.
    needed = work.new_tokens - (work.stage != "rm")
    wanted = 1 if work.stage == "rm" else work.new_tokens
    return [
        Microbatch(n * (work.prompt_tokens + K * needed), n * K * T, n * K * wanted)
        for n in map(len, groups)
    ]


# ---- what stays in memory


def weights(shape):  # -> bytes
    """Of a GPT, with the rows that fill its vocabulary up to a multiple of 64."""
    with torch.device("meta"):
        return FLOAT * sum(p.numel() for p in GPT(shape).parameters())


def vocabulary(shape):  # -> V, those rows included
    return -(-shape.vocab_size // 64) * 64


def embedding(shape):  # -> bytes of the token embedding, which is the head too
    return FLOAT * vocabulary(shape) * shape.width


def adapters(work):  # -> bytes
    """Of LoRA: A (r, in) and B (out, r) beside C x 3C, C x C, C x 4C and 4C x C in each layer."""
    return FLOAT * work.lora * 16 * work.shape.width * work.shape.layers


def trained(work):  # -> bytes
    """The weights that have a gradient."""
    each = adapters(work) if work.lora else weights(work.shape)
    return each * (2 if work.separate_critic else 1)


def models(work):  # -> {part: bytes}
    """The models of a stage. With LoRA they are adapters beside one trunk: there is no second trunk
    for the reference, and none for a reward model that was trained so, unless a critic of its own
    stands beside that."""
    W, A = weights(work.shape), adapters(work)
    second = A if work.lora else W
    parts = {"policy": W + (A if work.stage != "rm" else 0)}
    if work.stage in ("ppo", "grpo", "dpo"):
        parts["reference"] = 0 if work.lora else W
    if work.stage in ("rm", "ppo", "grpo"):
        parts["reward model"] = W if work.separate_critic else second
    if work.separate_critic:
        parts["critic"] = second
    return parts


# ---- what comes and goes


def block_bytes(work):  # -> bytes per token, place and wanted token (of the last block)
    """What the backward pass needs of one block, in numbers of C.

    Each token: the block's input and its norm, attention's result, the sum after it and its norm,
    the MLP's 4C before and after GELU (and 4C more for fast.GELU on a CPU). Each place: query, key,
    value and what attention gives. Of the last block's wanted tokens all but the first two. The
    residual stream stays float32 in bf16.
    """
    C, low_rank = work.shape.width, FLOAT * 4 * work.lora
    if work.bf16:
        return (4 + 2 + 2 + 4 + 2 + 16) * C + low_rank, 8 * C, 24 * C + low_rank
    gelu = 12 if work.cpu else 8
    return FLOAT * (5 + gelu) * C + low_rank, FLOAT * 4 * C, FLOAT * (3 + gelu) * C + low_rank


def activations(work, batch):  # -> bytes of all blocks but the last, bytes of the last and the end
    """What the forward pass of a trunk leaves for the backward pass."""
    L, C = work.shape.layers, work.shape.width
    token, place, wanted = block_bytes(work)
    # After the blocks: the final norm, unpacked to places; the wanted states again.
    end = FLOAT * C * (3 * batch.wanted + 3 * batch.places)
    if work.gradient_checkpointing:  # the input of each block
        return (L - 1) * FLOAT * C * batch.tokens, FLOAT * C * batch.tokens + end
    first = (6 if work.bf16 else 2 * FLOAT) * C * batch.tokens  # its input and its norm
    last = first + place * batch.places + wanted * batch.wanted
    return (L - 1) * (token * batch.tokens + place * batch.places), last + end


def block_backward(work, batch):  # -> bytes beside the activations
    """Of the backward pass of one block: gradients of the MLP's 4C and of the residual stream; with
    gradient checkpointing the block's activations, which are computed again."""
    token, place, _ = block_bytes(work)
    again = token * batch.tokens + place * batch.places if work.gradient_checkpointing else 0
    return again + FLOAT * 9 * work.shape.width * batch.tokens


def block_forward(work):  # -> numbers per token
    """What a block needs without gradients: 12C in the MLP (fast.GELU; else 8C), 6C before it."""
    return (18 if work.cpu else 14) * work.shape.width


def probabilities(work, batch):  # -> bytes
    """What fast.TokenLogprobs keeps for the backward pass, M x V."""
    return FLOAT * batch.wanted * vocabulary(work.shape)


def logits(work, batch):  # -> bytes
    """Logits, log-probabilities and their product, of as many tokens as are computed at a time."""
    V = vocabulary(work.shape)
    rows = max(1, fast.TokenLogprobs.LOGITS // work.shape.vocab_size)
    return FLOAT * 3 * min(batch.wanted, rows) * V


def cache(work):  # -> bytes
    """Keys and values of the rows that are sampled together."""
    bytes_each = 2 if work.bf16 else FLOAT
    return 2 * work.shape.layers * work.sampled_rows * work.columns * work.shape.width * bytes_each


# ---- moments


def update_moments(work):
    """(moment, {part: bytes}) of the microbatches of one optimiser step, beside models and Adam."""
    G, E = trained(work), 0 if work.lora else embedding(work.shape)
    head = 0 if work.stage == "rm" else E  # the head's gradient, until the embedding adds its own
    trunks = 2 if work.separate_critic else 1
    for number, batch in enumerate(microbatches(work)):
        before = G if number else 0  # the gradients of the microbatches before
        blocks, end = (trunks * x for x in activations(work, batch))
        kept = blocks + end
        p = 0 if work.stage == "rm" else probabilities(work, batch)
        forward = 0 if work.stage == "rm" else p + logits(work, batch)
        if work.stage == "dpo":  # the reference comes second, while the policy's are kept
            passing = kept + FLOAT * block_forward(work) * batch.tokens
            parts = {"gradients": before, "activations": passing, "logits": p}
            yield "the reference's forward pass", parts
            forward += p
        yield "forward pass", {"gradients": before, "activations": kept, "logits": forward}
        yield "backward pass", {"gradients": before + head, "activations": kept, "logits": p}
        inside = blocks + block_backward(work, batch)
        yield "a block's backward pass", {"gradients": before + head, "activations": inside}
        # The last gradient is that of the embedding, as large as the embedding each time.
        yield "last gradients", {"gradients": G + head + (E if number else 0)}


def rollout_moments(work):
    """(moment, {part: bytes}) of sampling, beside models and Adam."""
    rows, V = work.sampled_rows, vocabulary(work.shape)
    prompts = FLOAT * block_forward(work) * rows * work.prompt_tokens
    # In the last block only the last token of each prompt goes through the MLP, so that the block
    # before it needs most; the last block's keys and values are not there yet.
    stored = cache(work) * (work.shape.layers - 1) // work.shape.layers
    yield "prompts into the cache", {"KV cache": stored, "activations": prompts}
    yield "sampling", {"KV cache": cache(work), "logits": FLOAT * 3 * rows * V}


def moments(work):
    """(moment, {part: bytes}), all of it."""
    standing = models(work)
    if work.bf16:  # matrices of the blocks that a pass has cast
        copies = 2 * 12 * work.shape.width**2 * work.shape.layers
        standing["bf16 copies"] = copies * (2 if work.separate_critic else 1)
    adam = {"Adam": 2 * trained(work)}
    for moment, parts in rollout_moments(work) if work.sampled_rows else ():
        # The reward model's samples are taken before it is trained.
        yield moment, standing | ({} if work.stage == "rm" else adam) | parts
    for moment, parts in update_moments(work):
        yield moment, standing | adam | parts


def peak(work):  # -> moment, {part: bytes}
    """The moment that needs most memory, and what it is made of."""
    return max(moments(work), key=lambda item: sum(item[1].values()))
