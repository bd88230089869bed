"""GPT-2 by hand (Radford et al. 2019), a scalar head, and the log-probabilities of a batch.

Shapes: B batch, T time, C width, H heads, D head width, V vocabulary, S columns of a cache.

One layout everywhere: `tokens (B, T)` hold prompt, then response, then anything. Every row starts
at column 0, so a position is a column, and no real token can see what lies right of a row's end,
because attention is causal. There is no padding token and no attention mask.

One time alignment everywhere: a per-token quantity is `(B, T-1)`, and its column t is about
*choosing* `tokens[:, t+1]` having seen `tokens[:, :t+1]`.

What is here is the definition. `minirlhf/fast.py` computes the same results with less work, and
reading it can wait: where it is called, a comment says what it computes.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from minirlhf import fast
from minirlhf.run.compute import full_precision

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
    context: int  # the most tokens of a row
    layers: int
    heads: int
    width: int

    def __post_init__(self):
        if self.width % self.heads:
            sizes = f"got {self.width} and {self.heads}"
            raise ValueError(f"width must be a multiple of heads, {sizes}")

    @staticmethod
    def sized(size, vocab_size, context):
        """The configuration of a size by name, `SIZES`."""
        return GPTConfig(vocab_size, context, *SIZES[size])


class Attention(nn.Module):
    """Causal self-attention with H heads."""

    def __init__(self, config, layer):
        super().__init__()
        self.heads, self.layer = config.heads, layer
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x, cache=None):  # (B, T, C) -> (B, T, C)
        return self.out(self.mix(self.qkv(x), cache))

    def mix(self, qkv, cache=None):  # (B, T, 3C) -> (B, T, C)
        """Each token's weighted average of the values that it may see. It is separate from
        `forward` because fast.packed_hidden applies the two projections to fewer tokens."""
        B, T, _ = qkv.shape
        qkv = qkv.view(B, T, 3, self.heads, -1)  # (B, T, 3, H, D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        visible = None  # causal; in decoding, the cached columns that each row's new token may see
        if cache is not None:
            k, v, visible = cache.update(self.layer, k, v)  # (B, H, S, D) x 2, (B, 1, 1, S)
        y = fast.attention(q, k, v, visible)  # (B, H, T, D)
        return y.transpose(1, 2).reshape(B, T, -1)  # (B, T, C)


class MLP(nn.Module):
    """Two linear layers, four times as wide between them."""

    def __init__(self, config):
        super().__init__()
        self.hidden = nn.Linear(config.width, 4 * config.width)
        self.out = nn.Linear(4 * config.width, config.width)

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        # F.gelu(x, approximate="tanh"), which is GPT-2's; the exact GELU gives other logits.
        return self.out(fast.gelu(self.hidden(x)))


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream."""

    def __init__(self, config, layer):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attention = Attention(config, layer)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config)

    def forward(self, x, cache=None):  # (B, T, C) -> (B, T, C)
        x = x + self.attention(self.norm1(x), cache)
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """`GPT(config)(tokens)` -> logits. Weights are float32; the trunk computes in `precision`."""

    precision = torch.float32
    gradient_checkpointing = False  # less memory in training; see fast.recomputed

    def __init__(self, config):
        super().__init__()
        self.config = config
        # GPUs multiply faster by a multiple of 64. `head` cuts off the logits of the extra rows.
        padded_vocab_size = math.ceil(config.vocab_size / 64) * 64
        self.token_embedding = nn.Embedding(padded_vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.initialise()

    def initialise(self):
        """Biases 0, norms 1, matrices N(0, 1/C): GPT-2's 0.02 suits widths of a thousand; a narrow
        model learns the same in two thirds of the steps with this."""
        # Each block adds two outputs to the residual stream; scaling keeps its variance at depth.
        residual = 1 / math.sqrt(2 * self.config.layers)
        for name, parameter in self.named_parameters():
            scale = residual if name.endswith("out.weight") else 1
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "norm" not in name:
                nn.init.normal_(parameter, std=scale / math.sqrt(self.config.width))

    @property
    def device(self):
        return self.norm.weight.device

    def hidden(self, tokens, cache=None, wanted=None):  # (B, T) -> (B, T, C)
        """The states after the final layer norm.

        `wanted (B, T)` bool says which states will be read; the others are zero. Training, scoring
        and the first pass of the sampler give it, and run fast.packed_hidden, which leaves out what
        the wanted states do not need. The loop below defines its result, and runs in decoding.

        An empty `cache` (generate.KVCache) is filled by this pass; afterwards T is 1, and each row
        continues at its own position. ValueError if the tokens do not fit the context.
        """
        T = tokens.size(1)
        if T > self.config.context:
            raise ValueError(f"{T} tokens do not fit a context of {self.config.context}")
        # Autocast keeps its bf16 copies of weights while its context lasts. A copy that was made
        # without gradient must not serve a pass with one, so each pass has a context of its own.
        bf16 = self.precision == torch.bfloat16
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            if wanted is not None:
                return fast.packed_hidden(self, tokens, wanted, cache)
            positions = torch.arange(T, device=tokens.device) if cache is None else cache.begin(T)
            x = self.token_embedding(tokens) + self.position_embedding(positions)  # (B, T, C)
            for block in self.blocks:
                x = block(x, cache)
            return self.norm(x)

    def head(self, hidden):  # (..., C) -> (..., V) float32
        """Tied to the token embedding. In float32: bf16 logits move log-probabilities by enough to
        clip a PPO ratio."""
        logits = F.linear(hidden.float(), self.token_embedding.weight)
        return logits[..., : self.config.vocab_size]

    def forward(self, tokens):  # (B, T) -> (B, T, V)
        return self.head(self.hidden(tokens))


class ScalarHead(nn.Module):
    """One number per position, float32: (..., C) -> (...).

    The weight's standard deviation `std` is 0 for a value head (every value starts at 0) and
    1/sqrt(C+1) for a reward head (features of unit variance give scores of unit variance; Ziegler
    et al. 2019).
    """

    def __init__(self, width, std):
        super().__init__()
        weight = torch.empty(1, width)
        self.weight = nn.Parameter(weight.normal_(std=std) if std else weight.zero_())
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, hidden):  # (..., C) -> (...)
        return F.linear(hidden.float(), self.weight, self.bias).squeeze(-1)


# ---- log-probabilities


def response_mask(prompt_lengths, lengths, T):  # (B,), (B,) -> (B, T-1) bool
    """True in the columns that choose a response token, the end token included. The one place that
    decides which columns belong to a response."""
    token = torch.arange(1, T, device=lengths.device)  # column t chooses token t + 1
    return (token >= prompt_lengths[:, None]) & (token < lengths[:, None])


def logprobs(gpt, tokens, mask, temperature=1.0):  # (B, T), (B, T-1) -> (B, T-1), (B, T-1)
    """The log-probability of each response token at `temperature`, and the entropy (nats, without
    gradient) of its choice. float32, zero outside the mask.

    `tokens` and `mask` may be on the CPU whatever the model's device; a mask on the CPU spares a
    GPU the wait for its indices. What comes back is on the model's device.
    """
    wanted = F.pad(mask, (0, 1))  # (B, T): column t of the mask reads the state of token t
    hidden = gpt.hidden(tokens, wanted=wanted)  # (B, T, C)
    return logprobs_of_hidden(gpt, hidden, tokens, mask, temperature)


def logprobs_of_hidden(gpt, hidden, tokens, mask, temperature=1.0):
    # (B, T, C), (B, T), (B, T-1) -> (B, T-1), (B, T-1)
    """`logprobs` from states that are there already. Only the states of response tokens go through
    the head, so that prompts and padding cost no matrix as wide as the vocabulary."""
    B, T = tokens.shape
    rows, columns = (fast.to_device(x, hidden.device) for x in mask.nonzero(as_tuple=True))  # (N,)
    states = hidden.reshape(B * T, -1).index_select(0, rows * T + columns)  # (N, C)
    ids = fast.to_device(tokens, hidden.device).flatten().index_select(0, rows * T + columns + 1)
    # token_logprobs(gpt.head(states) / temperature, ids); the head is linear without a bias, so
    # dividing the states divides the logits.
    log_p, entropy = fast.token_logprobs(gpt, states.float() / temperature, ids)
    zeros = log_p.new_zeros(B * (T - 1))
    place = rows * (T - 1) + columns
    return tuple(zeros.index_copy(0, place, x).view(B, T - 1) for x in (log_p, entropy))


@full_precision
def token_logprobs(logits, ids):  # (N, V), (N,) -> (N,), (N,)
    """The log-probability of each id, and the entropy (nats) of the distribution it comes from."""
    log_p = F.log_softmax(logits, dim=-1)  # (N, V)
    entropy = -(log_p.exp() * log_p).sum(-1).detach()
    return log_p.gather(1, ids[:, None]).squeeze(1), entropy
