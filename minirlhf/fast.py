"""The results of model.py with less work. Nothing here changes what is computed, only how much.

Each function names its plain twin; `tests/unit/test_fast.py` holds the two together, values and
gradients. A first reading can skip this file.

| here | the plain twin | what it saves |
|---|---|---|
| packed_hidden | the blocks on every token, zeros where nothing is wanted | all work on padding |
| token_logprobs | model.token_logprobs | two of three matrices as wide as the vocabulary |
| recomputed | the function itself | what a backward pass would keep in memory |
| gelu | F.gelu(x, approximate="tanh") | torch's slow tanh on a CPU |
| keep_memory, return_memory | nothing | pages fetched from the system anew; compiled shapes |
"""

import contextlib
import ctypes
import math
import os

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


def to_device(x, device):
    """From pinned memory a GPU copies while it computes, and the CPU does not wait."""
    if device.type == "cuda" and not x.is_cuda:
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def attention(q, k, v, visible):  # (B, H, T, D), (B, H, S, D) x 2, (B, 1, 1, S) or None
    """Attention to the columns that are `visible`; None stands for causal."""
    if q.device.type == "mps":
        q, k, v, visible = attention_inputs_on_mps(q, k, v, visible)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=visible is None)


def attention_inputs_on_mps(q, k, v, visible):
    """The same inputs without what Apple's kernels got wrong, silently, in some versions of torch:
    views (pytorch #163597 in 2.8, #181133), and causality in bf16 (#195910)."""
    if visible is None:
        visible = torch.ones(q.size(2), k.size(2), dtype=torch.bool, device=q.device).tril()
    return q.contiguous(), k.contiguous(), v.contiguous(), visible


# ---- packed rows


def packed_hidden(gpt, tokens, wanted, cache=None):  # (B, T), (B, T) bool -> (B, T, C)
    """`gpt.hidden(tokens)` where `wanted`, zero elsewhere. Everything but attention is computed on
    the tokens that matter, laid one after another; in the last block, after attention, on the
    wanted ones alone."""
    T = tokens.size(1)
    packing = Packing(tokens, wanted.cpu(), gpt.device)
    if cache is not None:
        cache.begin(T)
    ids = packing.pack(to_device(tokens, gpt.device))
    x = gpt.token_embedding(ids) + gpt.position_embedding(packing.flat_index % T)  # (N, C)
    for block in gpt.blocks:
        last = block is gpt.blocks[-1]
        if gpt.gradient_checkpointing and torch.is_grad_enabled():
            x = recomputed(packed_block, block, x, packing, last)
        else:
            x = packed_block(block, x, packing, last, cache)
    return packing.unpack_wanted(gpt.norm(x))


def packed_block(block, x, packing, last, cache=None):  # (N, C) -> (N, C), of the last one (M, C)
    """model.Block on packed tokens."""
    qkv = packing.to_rows(block.attention.qkv(block.norm1(x)))  # (N, 3C) -> (B, T, 3C)
    y = block.attention.mix(qkv, cache)  # (B, T, C)
    if last:
        x, y = packing.keep_wanted(x), packing.pack_wanted(y)  # (M, C) from here on
    else:
        y = packing.pack(y)  # (N, C)
    x = x + block.attention.out(y)
    return x + block.mlp(block.norm2(x))


def recomputed(function, *inputs):
    """`function(*inputs)`, of which the backward pass finds the inputs alone, and computes the rest
    again (gradient checkpointing; Chen et al. 2016): L blocks keep L states of a token and what is
    inside one block, instead of what is inside all."""
    # There is no dropout whose draws would have to be repeated.
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


class Packing:
    """Where the N tokens that matter stand in B x T places, and where the M wanted ones.

    The wanted tokens matter, and all tokens left of them in their rows. What a row has in common
    with the row above it, from column 0 on, has the same states, because attention is causal: it is
    computed once. (So are the prompts of several responses; not if the tokens are on a GPU already,
    where comparing them would make the CPU wait.)

    Everything is made on the CPU, so that no index makes the CPU wait for a GPU.
    """

    def __init__(self, tokens, wanted, device):  # (B, T), (B, T) bool on the CPU
        B, self.columns = tokens.shape
        needed = wanted.flip(1).cummax(1).values.flip(1)  # left of a wanted token, or one
        needed[0, 0] = True  # something must be there to gather from
        first_seen = needed.clone()  # needed, and not shared with the row above
        if tokens.device.type == "cpu":
            repeated = (tokens[1:] == tokens[:-1]) & needed[:-1]
            first_seen[1:] &= ~repeated.cumprod(1).bool()
        # A shared place takes the state of the nearest row above that computes it: the running
        # maximum of row numbers, with 0 for the rows that share.
        row = torch.arange(B, device="cpu")[:, None]
        source_row = torch.where(first_seen | ~needed, row, 0).cummax(0).values
        number = first_seen.flatten().cumsum(0).view(B, -1) - 1
        packed_index = number.gather(0, source_row).clamp(min=0).flatten()
        wanted_index = wanted.flatten().nonzero().squeeze(1)
        flat_index = first_seen.flatten().nonzero().squeeze(1)
        self.flat_index = to_device(flat_index, device)  # (N,) the place of each token
        self.packed_index = to_device(packed_index, device)  # (B*T,) the token of each place
        self.wanted_index = to_device(wanted_index, device)  # (M,) the place of each wanted token
        self.kept_index = to_device(packed_index[wanted_index], device)  # (M,) which of the N it is

    def pack(self, x):  # (B, T, ...) -> (N, ...)
        return x.flatten(0, 1).index_select(0, self.flat_index)

    def to_rows(self, x):  # (N, ...) -> (B, T, ...), something finite in places that do not matter
        return x.index_select(0, self.packed_index).unflatten(0, (-1, self.columns))

    def keep_wanted(self, x):  # (N, C) -> (M, C)
        return x.index_select(0, self.kept_index)

    def pack_wanted(self, y):  # (B, T, C) -> (M, C)
        return y.flatten(0, 1).index_select(0, self.wanted_index)

    def unpack_wanted(self, x):  # (M, C) -> (B, T, C), zero where nothing is wanted
        zeros = x.new_zeros(len(self.packed_index), x.size(1))
        return zeros.index_copy(0, self.wanted_index, x).unflatten(0, (-1, self.columns))


# ---- log-probabilities


def token_logprobs(gpt, states, ids):  # (N, C), (N,) -> (N,), (N,)
    """model.token_logprobs of the head's logits: the log-probability of each id, and the entropy
    (nats, without gradient) of the distribution it comes from."""
    return TokenLogprobs.apply(states, gpt.token_embedding.weight, ids, gpt.config.vocab_size)


class TokenLogprobs(torch.autograd.Function):
    """Of the matrices (N, V) between logits and log-probabilities one is kept for the backward
    pass: the probabilities p, because the gradient of log p[id] with respect to the logits is 1 at
    the id, minus p."""

    LOGITS = 2**24  # the most that are computed at a time, which bounds the other matrices

    @staticmethod
    def forward(ctx, states, weight, ids, vocab_size):
        V = vocab_size
        p = states.new_empty(len(states), len(weight))
        logprobs, entropy = states.new_empty(2, len(states))
        rows = max(1, TokenLogprobs.LOGITS // V)
        for start in range(0, len(states), rows):
            part = slice(start, start + rows)
            logits = F.linear(states[part], weight)
            logits[:, V:] = -torch.inf  # the rows of the embedding beyond the vocabulary
            log_p = F.log_softmax(logits, dim=-1)
            torch.exp(log_p, out=p[part])
            logprobs[part] = log_p.gather(1, ids[part, None]).squeeze(1)
            entropy[part] = -torch.linalg.vecdot(p[part, :V], log_p[:, :V])
        ctx.save_for_backward(states, weight, ids, p)
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx, gradient, _):  # (N,)
        states, weight, ids, p = ctx.saved_tensors
        # In place, p becomes the gradient of the logits.
        p.mul_(-gradient[:, None]).scatter_add_(1, ids[:, None], gradient[:, None])
        weight_gradient = p.t() @ states if ctx.needs_input_grad[1] else None
        return p @ weight, weight_gradient, None, None


# ---- GELU


def gelu(x):
    """F.gelu(x, approximate="tanh"), GPT-2's."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return F.gelu(x, approximate="tanh")
    # Sampling needs few numbers at a time, for which autograd's bookkeeping costs more than they.
    return GELU.apply(x) if torch.is_grad_enabled() else x * GELU.share(x)


class GELU(torch.autograd.Function):
    """x/2 (1 + tanh(u/2)) with u = A x + B x^3, written as x sigmoid(u): torch's tanh on a CPU can
    take longer than the matrix products around it."""

    A, B = 2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715

    @staticmethod
    def share(x):  # sigmoid(u), the share of x that passes
        return torch.addcmul(x.new_tensor(GELU.A), x, x, value=GELU.B).mul_(x).sigmoid_()

    @staticmethod
    def forward(ctx, x):
        share = GELU.share(x)
        ctx.save_for_backward(x, share)
        return x * share

    @staticmethod
    def backward(ctx, gradient):
        # d(x share)/dx = share + x share', and share' = share (1 - share) (A + 3 B x^2)
        x, share = ctx.saved_tensors
        slope = torch.addcmul(x.new_tensor(GELU.A), x, x, value=3 * GELU.B).mul_(x)
        slope.addcmul_(slope, share, value=-1)
        return torch.addcmul(share, slope, share).mul_(gradient)


# ---- memory


def keep_memory():
    """Have glibc keep the memory that is freed: otherwise every large tensor is fetched from the
    system anew, and each page of it costs as much as a thousand multiplications. On another system
    this does nothing.

    And have oneDNN, with which torch multiplies bf16 matrices on a CPU, keep the code that it
    compiled for the last 32 shapes only: batches of ragged rows have a thousand shapes, whose code
    takes a gigabyte.
    """
    for variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # oneDNN's, torch's
        os.environ.setdefault(variable, "32")
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no tensor in a mapping of its own
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give nothing back
        mallopt(-2, 2**26)  # M_TOP_PAD: fetch 64 MB at a time


def return_memory():
    """Give the memory that `keep_memory` has kept, and nothing uses, back to the system. Tensors of
    varying sizes leave holes between those that live on. Called at a checkpoint: every time would
    cost what keeping saves."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
