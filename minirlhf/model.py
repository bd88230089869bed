"""GPT-2 by hand (Radford et al. 2019), a cache for sampling, a scalar head, and the log-probabilities of a batch.

Shapes: B batch, T time, C width, H heads, D head width, V vocabulary, S columns of a cache.

One layout everywhere: `tokens (B, T)` hold prompt, then response, then anything. Every row starts at column 0, so a position is
a column, and what lies right of a row's end cannot be seen by a real token, because attention is causal. There is no padding
token and no attention mask.

One time alignment everywhere: a per-token quantity is `(B, T-1)`, and its column t is about *choosing* `tokens[:, t+1]` having
seen `tokens[:, :t+1]`.
"""

import dataclasses
import math
import os
import shutil
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from minirlhf.config import InputError

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}
#           layers, heads, width
SIZES = {
    "nano": (2, 4, 128),
    "tiny": (4, 4, 128),
    "small": (6, 6, 384),
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
}


@dataclass(frozen=True)
class GPTConfig:
    vocab_size: int
    context: int
    layers: int
    heads: int
    width: int

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got {self.width} and {self.heads}")

    @staticmethod
    def sized(size, vocab_size, context):
        """The configuration of a size by name, `SIZES`."""
        return GPTConfig(vocab_size, context, *SIZES[size])


def to_device(x, device):
    """From pinned memory a GPU fetches while it computes, and nobody waits."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" and not x.is_cuda else x.to(device)


class KVCache:
    """The keys and values of ragged rows: row b's next token goes to column `positions[b]` and sees the columns up to it.

    The first pass (prefill) takes the prompts, all rows from column 0, and leaves each row's position at its prompt length. The
    junk it writes right of a short prompt is harmless: a row overwrites a column before it first sees it.
    """

    def __init__(self, prompt_lengths, columns):
        self.positions = prompt_lengths.clone()  # (B,)
        self.rows = torch.arange(len(prompt_lengths), device=prompt_lengths.device)
        self.columns = self.used = columns  # `used`: how many a row may have filled by now; nobody looks further
        self.keys, self.values = [], []  # one (B, H, S, D) per layer, in the dtype that attention computes in

    def prefill(self, k, v):  # (B, H, T, D), (B, H, T, D)
        for store, new in (self.keys, k), (self.values, v):
            B, H, T, D = new.shape
            store.append(new.new_zeros(B, H, self.columns, D))  # zeros: 0 * NaN would reach the attention's output
            store[-1][:, :, :T] = new

    def append(self, layer, k, v):  # (B, H, 1, D) x 2 -> (B, H, S, D) x 2
        for store, new in (self.keys[layer], k), (self.values[layer], v):
            store[self.rows, :, self.positions] = new[:, :, 0]
        return self.keys[layer][:, :, : self.used], self.values[layer][:, :, : self.used]

    def visible(self):  # -> (B, 1, 1, S) bool
        return (torch.arange(self.used, device=self.positions.device) <= self.positions[:, None])[:, None, None]

    def advance(self, alive):  # (B,) bool
        self.positions += alive  # a finished row stays where it is, inside the buffer

    def keep(self, size, to, source):  # int, (N,), (N,)
        """Go on with the first `size` rows, once the rows `source` have moved `to` places among them."""
        for store in (self.positions, *self.keys, *self.values):
            store[to] = store[source]
        self.positions, self.rows = self.positions[:size], self.rows[:size]
        self.keys = [keys[:size] for keys in self.keys]
        self.values = [values[:size] for values in self.values]


class Packed:
    """The tokens of ragged rows that matter, one after another: nothing but attention is computed on padding.

    `wanted (B, T)` says whose states somebody will read; all tokens left of those matter too. Two things make it fewer still.
    What a row has in common with the row above it, from column 0 on, has the same states, because attention is causal, and is
    there once: the prompt of several responses (not where the tokens are on a GPU already). And in the last block only the
    wanted tokens go on after attention.
    """

    def __init__(self, tokens, wanted, device):  # (B, T), (B, T) bool; on the CPU, so that nobody waits for a GPU's answer
        B, self.columns = tokens.shape
        needed = wanted.flip(1).cummax(1).values.flip(1)
        needed[0, 0] = True  # something must be there to be spread
        own = needed.clone()  # what of that a row does not share with the row above it
        if tokens.device == own.device:
            own[1:] &= ~((tokens[1:] == tokens[:-1]) & needed[:-1]).cumprod(1).bool()
        owner = torch.where(own | ~needed, torch.arange(B, device="cpu")[:, None], 0).cummax(0).values  # whose token it is
        number = (own.flatten().cumsum(0).view(B, -1) - 1).gather(0, owner).clamp(min=0).flatten()
        wanted = wanted.flatten().nonzero().squeeze(1)
        self.places = to_device(own.flatten().nonzero().squeeze(1), device)  # (N,) where in B*T the N tokens stand
        self.number = to_device(number, device)  # (B*T,) which of the N serves a place
        self.wanted = to_device(wanted, device)  # (M,) where in B*T the M wanted ones stand
        self.kept = to_device(number[wanted], device)  # (M,) and which of the N they are

    def pack(self, x):  # (B, T, ...) -> (N, ...)
        return x.flatten(0, 1).index_select(0, self.places)

    def spread(self, x):  # (N, ...) -> (B, T, ...) with something finite in places that do not matter
        return x.index_select(0, self.number).unflatten(0, (-1, self.columns))

    def go_on(self, x, y, last):  # (N, C), (B, T, C) -> (N, C) x 2, or in the last block (M, C) x 2
        """The residual stream and attention's output, for the tokens that go through the rest of the block."""
        if last:
            return x.index_select(0, self.kept), y.flatten(0, 1).index_select(0, self.wanted)
        return x, self.pack(y)

    def unpack(self, x):  # (M, C) -> (B, T, C) with zeros where nothing is wanted
        zeros = x.new_zeros(len(self.number), x.size(1))
        return zeros.index_copy(0, self.wanted, x).unflatten(0, (-1, self.columns))


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.heads, self.layer = config.heads, layer
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, qkv, cache=None, visible=None):  # (B, T, 3C) -> (B, T, C)
        B, T, _ = qkv.shape
        q, k, v = qkv.view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        if visible is not None:
            k, v = cache.append(self.layer, k, v)
        elif cache is not None:
            cache.prefill(k, v)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=visible is None)
        return y.transpose(1, 2).reshape(B, T, -1)


class GELU(torch.autograd.Function):
    """GPT-2's GELU, x/2 (1 + tanh(u/2)) with u = A x + B x^3, as x sigmoid(u): the same function in less than half the time,
    because torch's tanh on a CPU takes longer than the matrices around it."""

    A, B = 2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715

    @staticmethod
    def share(x):  # sigmoid(u), what passes of x
        return torch.addcmul(x.new_tensor(GELU.A), x, x, value=GELU.B).mul_(x).sigmoid_()

    @staticmethod
    def forward(ctx, x):
        share = GELU.share(x)
        ctx.save_for_backward(x, share)
        return x * share

    @staticmethod
    def backward(ctx, gradient):  # times share + x share', and share' = share (1 - share) (A + 3 B x^2)
        x, share = ctx.saved_tensors
        slope = torch.addcmul(x.new_tensor(GELU.A), x, x, value=3 * GELU.B).mul_(x)
        slope.addcmul_(slope, share, value=-1)
        return torch.addcmul(share, slope, share).mul_(gradient)


def gelu(x):
    """GPT-2's is the tanh one; the exact one gives other logits."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return F.gelu(x, approximate="tanh")
    # Sampling asks for few numbers at a time, for which autograd's book-keeping would take longer than the numbers.
    return GELU.apply(x) if torch.is_grad_enabled() else x * GELU.share(x)


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.hidden = nn.Linear(config.width, 4 * config.width)
        self.out = nn.Linear(4 * config.width, config.width)

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        return self.out(gelu(self.hidden(x)))


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attention = Attention(config, layer)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config)

    def forward(self, x, cache=None, visible=None, packed=None, last=False):  # (B, T, C), or (N, C) if packed -> the same
        qkv = self.attention.qkv(self.norm1(x))
        y = self.attention(packed.spread(qkv) if packed else qkv, cache, visible)
        if packed:
            x, y = packed.go_on(x, y, last)
        x = x + self.attention.out(y)
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """`GPT(config)(tokens)` -> logits. Parameters are float32; `precision` is what the trunk computes in."""

    precision = torch.float32

    def __init__(self, config):
        super().__init__()
        self.config = config
        rows = -(-config.vocab_size // 64) * 64  # GPUs multiply faster by a multiple of 64; nobody outside sees the extra rows
        self.token_embedding = nn.Embedding(rows, config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        for name, parameter in self.named_parameters():
            # Each block adds two outputs to the residual stream; scaling them keeps its variance from growing with depth.
            scaled = 1 / math.sqrt(2 * config.layers) if name.endswith("out.weight") else 1
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "norm" not in name:
                # GPT-2's 0.02 suits widths of a thousand; a narrow model learns the same in two thirds of the steps with this.
                nn.init.normal_(parameter, std=scaled / math.sqrt(config.width))

    @property
    def device(self):
        return self.norm.weight.device

    def hidden(self, tokens, cache=None, wanted=None):  # (B, T) -> (B, T, C) after the final layer norm
        """With an empty `cache` this is the prefill; afterwards T is 1 and each row continues at its own position.

        `wanted (B, T)` bool: the states that will be read. The others are zero, and cost no more than they must.
        """
        decoding = cache is not None and bool(cache.keys)
        if tokens.size(1) > self.config.context:
            raise ValueError(f"{tokens.size(1)} tokens do not fit a context of {self.config.context}")
        positions = cache.positions[:, None] if decoding else torch.arange(tokens.size(1), device=tokens.device)
        visible = cache.visible() if decoding else None
        packed = None
        if wanted is not None:
            packed = Packed(tokens, wanted.cpu(), self.device)
            positions = packed.places % tokens.size(1)
            tokens = packed.pack(to_device(tokens, self.device))
        # The autocast context is entered anew for every pass: weights it cast without gradient must not serve one with.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            x = self.token_embedding(tokens) + self.position_embedding(positions)
            for block in self.blocks:
                x = block(x, cache, visible, packed, last=block is self.blocks[-1])
            x = self.norm(x)
        return packed.unpack(x) if packed else x

    def head(self, hidden):  # (..., C) -> (..., V) float32
        return self.padded_head(hidden)[..., : self.config.vocab_size]

    def padded_head(self, hidden):  # (..., C) -> (..., V and the rows beyond it) float32
        """Tied to the token embedding. In float32: bf16 logits move log-probabilities by enough to clip a PPO ratio."""
        return F.linear(hidden.float(), self.token_embedding.weight)

    def forward(self, tokens):  # (B, T) -> (B, T, V)
        return self.head(self.hidden(tokens))


class ScalarHead(nn.Linear):
    """One number per position, float32: (..., C) -> (...). `std` of the weight is 0 for a value head (every value starts at 0)
    and 1/sqrt(C+1) for a reward head (unit-variance features give unit-variance scores; Ziegler et al. 2019)."""

    def __init__(self, width, std):
        self.std = std
        super().__init__(width, 1)

    def reset_parameters(self):
        nn.init.normal_(self.weight, std=self.std) if self.std else nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, hidden):
        return super().forward(hidden.float()).squeeze(-1)


def response_mask(prompt_lengths, lengths, T):  # (B,), (B,) -> (B, T-1) bool
    """True in the columns that choose a response token, the end token included. The one place where the shift happens."""
    chosen = torch.arange(1, T, device=lengths.device)  # column t chooses token t + 1
    return (chosen >= prompt_lengths[:, None]) & (chosen < lengths[:, None])


def logprobs(gpt, tokens, mask, temperature=1.0):  # (B, T), (B, T-1) -> (B, T-1), (B, T-1)
    """The log-probability of each response token at `temperature`, and the entropy (nats, without gradient) of its choice.

    Zero outside the mask. float32.
    """
    return logprobs_of_hidden(gpt, gpt.hidden(tokens, wanted=F.pad(mask, (0, 1))), tokens, mask, temperature)


def logprobs_of_hidden(gpt, hidden, tokens, mask, temperature=1.0):  # (B, T, C), (B, T), (B, T-1) -> (B, T-1), (B, T-1)
    """`logprobs` when the trunk has been run already. The head sees the response tokens alone: prompts and padding cost no
    vocabulary-sized matrix. A mask kept on the CPU spares a GPU the wait for its indices."""
    B, T = tokens.shape
    rows, columns = (to_device(index, hidden.device) for index in mask.nonzero(as_tuple=True))
    states = hidden.reshape(B * T, -1).index_select(0, rows * T + columns)  # (N, C), N response tokens
    chosen = to_device(tokens, hidden.device).flatten().index_select(0, rows * T + columns + 1)  # (N,)
    log_p, entropy = ChosenLogprobs.apply(gpt, states.float() / temperature, gpt.token_embedding.weight, chosen)
    zeros = log_p.new_zeros(B * (T - 1))
    place = rows * (T - 1) + columns
    return zeros.index_copy(0, place, log_p).view(B, T - 1), zeros.index_copy(0, place, entropy).view(B, T - 1)


class ChosenLogprobs(torch.autograd.Function):
    """The log-softmax of the head's logits at the chosen ids, and the entropy of it all (without gradient): (N,) each.

    Of an (N, V) matrix for every step from logits to log-probability and back, one is kept: the probabilities, because the
    gradient of log p[chosen] with respect to the logits is one at the chosen id, minus p.
    """

    LOGITS = 2**24  # the most that are computed at a time: whatever else is as wide as the vocabulary is no larger than this

    @staticmethod
    def forward(ctx, gpt, states, weight, chosen):
        V = gpt.config.vocab_size
        p = states.new_empty(len(states), len(weight))
        logprobs, entropy = states.new_empty(2, len(states))
        at_once = max(1, ChosenLogprobs.LOGITS // V)
        for start in range(0, len(states), at_once):
            part = slice(start, start + at_once)
            logits = gpt.padded_head(states[part])
            logits[:, V:] = -torch.inf
            log_p = F.log_softmax(logits, dim=-1)
            torch.exp(log_p, out=p[part])
            logprobs[part] = log_p.gather(1, chosen[part, None]).squeeze(1)
            entropy[part] = -torch.linalg.vecdot(p[part, :V], log_p[:, :V])
        ctx.save_for_backward(states, weight, chosen, p)
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx, gradient, _):  # (N,)
        states, weight, chosen, p = ctx.saved_tensors
        p.mul_(-gradient[:, None]).scatter_add_(1, chosen[:, None], gradient[:, None])  # now the gradient of the logits
        return None, p @ weight, p.t() @ states, None


def pick_device(name):
    """The torch device of `--device`; "auto" is the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU here; use --device cpu")
    return torch.device(name)


def pick_precision(name, device):
    """`--precision`, or for "auto" bf16 on a GPU that multiplies in it and float32 elsewhere.

    On a CPU it is float32 whatever the processor: the same command then learns the same on every machine, and whether bf16 is
    faster there depends on the size of the model as much as on the processor.
    """
    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def resolve(args, device):
    """The flags with what "auto" and 0 mean on this machine in their place, and torch's threads set. A run stores what it
    computed with, so that --resume computes in the same way on any machine."""
    torch.set_num_threads(args.threads or torch.get_num_threads())
    precision = pick_precision(args.precision, device)
    return dataclasses.replace(args, precision=precision, threads=torch.get_num_threads())


def pick_compile(wanted):
    """`--compile`, refused where torch would find nothing to compile with."""
    if wanted and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise InputError("--compile needs a C++ compiler, such as g++; install one, or leave --compile out")
    return wanted


def compile_blocks(module):
    """torch.compile for every block in `module`, in place, for any number of tokens."""
    for block in filter(lambda part: isinstance(part, Block), module.modules()):
        block.compile(dynamic=True)


def pick_microbatch(tokens, device, vocab_size=1):
    """`--microbatch-tokens`, or 0 for what is fast: on a CPU what stays in its cache, on a GPU what keeps it busy; but not more
    than 50 million logits on the one (0.2 GB), 800 million on the other."""
    most, logits = (16_384, 8e8) if device.type == "cuda" else (2048, 5e7)
    return tokens or min(most, int(logits / vocab_size))


def adamw(model, lr, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0):
    """Fused AdamW. Only matrices decay: biases and layer norms have no reason to be small."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)


def set_learning_rate(optimizer, lr):
    for group in optimizer.param_groups:
        group["lr"] = lr


def cosine(step, steps, warmup):
    """The share of the peak learning rate at `step`: a linear warm-up over `warmup` steps, then half a cosine to 10%."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
