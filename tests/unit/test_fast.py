"""The specification of fast.py: each function gives what its plain twin gives, values and
gradients, with less work."""

import itertools
import platform
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from ragged import LENGTHS, PROMPT_LENGTHS, random_tokens
from torch.utils.flop_counter import FlopCounterMode

import train_ppo
from minirlhf import fast, lora, model
from minirlhf.generate import KVCache
from minirlhf.model import logprobs, response_mask

# ---- packed rows


@pytest.mark.parametrize("seed", range(8))
def test_wanted_states_are_those_of_a_pass_over_everything(make_gpt, seed):
    """Any set of wanted states, in any batch: rows of unequal length, rows in which nothing is
    wanted, rows with a common beginning. The other states are zero. The gradients, too, are those
    of a pass over everything."""
    gpt, generator = make_gpt(std=0.3), torch.Generator().manual_seed(seed)
    # With few ids, rows have common beginnings of all lengths.
    tokens = torch.randint(0, 2 + seed, (5, 9), generator=generator)
    wanted = torch.rand(5, 9, generator=generator) < (0.1, 0.5)[seed % 2]
    weights = torch.randn(5, 9, 16, generator=generator) * wanted[:, :, None]
    states, expected = gpt.hidden(tokens, wanted=wanted), gpt.hidden(tokens)
    torch.testing.assert_close(states[wanted], expected[wanted], atol=1e-5, rtol=0)
    assert (states[~wanted] == 0).all()
    parameters = list(gpt.parameters())
    gradients = torch.autograd.grad((states * weights).sum(), parameters)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), parameters)
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [(0, 0, 1), (0, 1, 1), (0, 1, 2)])
def test_every_choice_of_wanted_states_of_three_rows_gives_those_of_a_plain_pass(make_gpt, rows):
    """All 512 masks of three rows of three tokens, which share beginnings of two, three or no
    tokens with the row above: also masks that want nothing of a row whose tokens the next one has
    as well. Of three layers, so that the last is not the second."""
    gpt = make_gpt(layers=3, std=0.3)
    tokens = torch.tensor([[1, 2, 3], [1, 2, 4], [5, 2, 3]])[list(rows)]
    with torch.no_grad():
        plain = gpt.hidden(tokens)
        for bits in itertools.product([False, True], repeat=9):
            wanted = torch.tensor(bits).view(3, 3)
            packed = gpt.hidden(tokens, wanted=wanted)
            expected = torch.where(wanted[:, :, None], plain, 0.0)
            torch.testing.assert_close(packed, expected, atol=1e-5, rtol=0)


def rows_multiplied(gpt):
    """How many tokens go through each block's first and last matrix."""
    rows = []
    for block in gpt.blocks:
        for layer in (block.attention.qkv, block.mlp.out):
            layer.register_forward_pre_hook(lambda _, x: rows.append(x[0].numel() // x[0].size(-1)))
    return rows


def test_padding_and_what_nobody_reads_is_not_computed(make_gpt):
    """Prompts of 3, 1 and 6 tokens and responses of 3, 6 and 1. Choosing the responses needs
    columns 0 to 4, 0 to 5 and 0 to 5: 17 tokens of 27. 10 states choose a token; after its
    attention the last block computes only those."""
    gpt = make_gpt()
    rows = rows_multiplied(gpt)
    tokens = random_tokens()
    tokens[:, 0] = torch.arange(3)
    logprobs(gpt, tokens, response_mask(PROMPT_LENGTHS, LENGTHS, 9))
    assert rows == [17, 17, 17, 10]


def test_a_prompt_that_rows_share_is_computed_once(make_gpt):
    """Four responses of 2 tokens to one prompt of 3 tokens need 3 + 4 * 2 tokens, not 20. A row
    with another prompt shares nothing."""
    gpt = make_gpt()
    rows = rows_multiplied(gpt)
    tokens = torch.tensor([[1, 2, 3, n, 5] for n in (4, 5, 6, 7)] + [[2, 2, 3, 7, 5]])
    wanted = torch.zeros(5, 5, dtype=torch.bool)
    wanted[:, 4] = True
    gpt.hidden(tokens, wanted=wanted)
    assert rows == [16, 16, 16, 5]


def test_a_packed_prefill_fills_the_cache_that_a_plain_one_fills(make_gpt):
    """Keys and values agree at every prompt token in every layer, and the next token decoded from
    either cache has the same state."""
    gpt, tokens = make_gpt(), random_tokens()
    last = torch.arange(6) == PROMPT_LENGTHS[:, None] - 1
    packed, plain = (KVCache(PROMPT_LENGTHS, columns=9) for _ in range(2))
    gpt.hidden(tokens[:, :6], packed, wanted=last)
    gpt.hidden(tokens[:, :6], plain)
    prompt = torch.arange(6) < PROMPT_LENGTHS[:, None]  # (B, T)
    for one, other in zip(packed.keys + packed.values, plain.keys + plain.values, strict=True):
        columns = one[:, :, :6].transpose(1, 2)[prompt], other[:, :, :6].transpose(1, 2)[prompt]
        torch.testing.assert_close(*columns, atol=1e-5, rtol=0)
    step = tokens[torch.arange(3), PROMPT_LENGTHS][:, None]
    torch.testing.assert_close(gpt.hidden(step, packed), gpt.hidden(step, plain), atol=1e-5, rtol=0)


# ---- gradient checkpointing


def kept_bytes(gpt, checkpointing):
    """(the log-probabilities, their gradients, the bytes that are kept for the backward pass
    beside the weights)"""
    gpt.gradient_checkpointing = checkpointing
    weights, kept = {p.data_ptr() for p in gpt.parameters()}, {}

    def keep(x):
        if x.data_ptr() not in weights:
            kept[x.data_ptr()] = x.untyped_storage().nbytes()
        return x

    tokens = torch.randint(50, (4, 32), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(31) >= torch.tensor([3, 5, 9, 2])[:, None]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        states, _ = logprobs(gpt, tokens, mask)
    trained = [p for p in gpt.parameters() if p.requires_grad]
    return states.detach(), torch.autograd.grad(states.sum(), trained), sum(kept.values())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [0, 2])
def test_gradient_checkpointing_gives_the_same_bits_with_less_memory(make_gpt, rank, precision):
    """Values and gradients, of all weights and of adapters. Of six blocks the inputs are kept: less
    than a third of the memory, the head's included."""
    args = train_ppo.Config(lora=rank, gradient_checkpointing=True)
    gpt = lora.start(args, make_gpt(layers=6, std=0.1))
    assert gpt.gradient_checkpointing
    gpt.precision = precision
    (plain, gradients, all_bytes), (states, same_gradients, fewer) = (
        kept_bytes(gpt, checkpointing) for checkpointing in (False, True)
    )
    assert torch.equal(plain, states) and 3 * fewer < all_bytes
    assert all(map(torch.equal, gradients, same_gradients)) and any(x.any() for x in gradients)


def test_sampling_and_scoring_recompute_nothing(make_gpt, monkeypatch):
    """There is no backward pass to compute for."""
    gpt = make_gpt()
    gpt.gradient_checkpointing = True
    monkeypatch.setattr(fast, "recomputed", None)
    with torch.no_grad():
        logprobs(gpt, random_tokens(), response_mask(PROMPT_LENGTHS, LENGTHS, 9))
    with pytest.raises(TypeError):
        logprobs(gpt, random_tokens(), response_mask(PROMPT_LENGTHS, LENGTHS, 9))


# ---- log-probabilities


def test_the_probabilities_gradient_is_that_of_autograd(make_gpt):
    """The plain formula is model.token_logprobs. Values and gradients agree, for states and
    weights, with the logits computed at once and in parts. The entropy is also that of
    torch.distributions."""
    gpt = make_gpt(std=0.5)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(7, 16, generator=generator).requires_grad_()
    ids = torch.randint(0, 13, (7,), generator=generator)
    gradient, weight = torch.randn(7, generator=generator), gpt.token_embedding.weight
    logits = gpt.head(states)
    plain, plain_entropy = model.token_logprobs(logits, ids)
    assert torch.equal(plain, logits.log_softmax(-1)[torch.arange(7), ids])
    expected = torch.autograd.grad(plain, (states, weight), gradient)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(plain_entropy, entropy)
    for limit in (2**24, 30, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fast.TokenLogprobs, "LOGITS", limit)
            fused, fused_entropy = fast.token_logprobs(gpt, states, ids)
        torch.testing.assert_close(fused, plain)
        torch.testing.assert_close(fused_entropy, entropy)
        gradients = torch.autograd.grad(fused, (states, weight), gradient)
        for one, other in zip(gradients, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        assert not fused_entropy.requires_grad and not plain_entropy.requires_grad


def test_no_more_logits_are_made_at_a_time_than_the_bound(make_gpt, monkeypatch):
    """Seven states and 50 ids: with a bound of 100 logits two states at a time, and with a bound
    below one state's logits one."""
    gpt, shapes, log_softmax = make_gpt(), [], F.log_softmax

    def watched(logits, dim):
        shapes.append(len(logits))
        return log_softmax(logits, dim=dim)

    monkeypatch.setattr(F, "log_softmax", watched)
    for most, expected in ((100, [2, 2, 2, 1]), (49, [1] * 7), (2**24, [7])):
        monkeypatch.setattr(fast.TokenLogprobs, "LOGITS", most)
        fast.token_logprobs(gpt, torch.zeros(7, 16), torch.zeros(7, dtype=torch.long))
        assert shapes == expected
        shapes.clear()


def test_a_frozen_embedding_costs_no_gradient(make_gpt):
    """That of the states stays what it was, with half of the multiplications."""
    gpt, generator = make_gpt(), torch.Generator().manual_seed(0)
    ids = torch.randint(50, (7,), generator=generator)
    results = []
    for trained in (True, False):
        gpt.token_embedding.requires_grad_(trained)
        states = torch.randn(7, 16, generator=generator.manual_seed(1)).requires_grad_()
        loss = fast.token_logprobs(gpt, states, ids)[0].sum()
        with FlopCounterMode(display=False) as counter:
            loss.backward()
        results.append((states.grad, counter.get_total_flops()))
    (gradient, flops), (same_gradient, fewer) = results
    assert torch.equal(gradient, same_gradient) and 2 * fewer == flops > 0


# ---- GELU


def test_gelu_is_torchs_tanh_gelu_with_its_gradient():
    """From far below 0, where the output is 0, to far above, where it is x. In bf16 it is torch's
    own function. Without gradient it has the same bits as with gradient, which PPO's first ratio
    needs."""
    x, gradient = torch.linspace(-30, 30, 4001).requires_grad_(), torch.linspace(-2, 3, 4001)
    y, expected = fast.gelu(x), F.gelu(x, approximate="tanh")
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-6)
    slope, expected_slope = (torch.autograd.grad(z, x, gradient)[0] for z in (y, expected))
    torch.testing.assert_close(slope, expected_slope, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert torch.equal(fast.gelu(x), y)
    half = x.detach().bfloat16()
    assert torch.equal(fast.gelu(half), F.gelu(half, approximate="tanh"))


# ---- memory


def run(code, *arguments):
    """What a program prints that runs in a process of its own."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not platform.libc_ver()[0], reason="only glibc gives freed memory back at once")
def test_memory_that_was_freed_is_used_again():
    """64 MB are filled and freed repeatedly: 16,384 pages of 4 KB each time, which after some
    rounds come from freed memory."""
    code = """if True:
        import resource, sys, torch
        from minirlhf import fast
        if sys.argv[1] == "keep":
            fast.keep_memory()
        for _ in range(40):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.full((2**24,), 1.0)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"""
    faults = {}
    for mode in ("keep", "default"):
        faults[mode] = sum(map(int, run(code, mode).split()[-10:]))
    assert faults["keep"] < 20_000 < 160_000 < faults["default"]


def test_bf16_does_not_keep_what_it_compiled_for_every_shape():
    """Batches of ragged rows have a thousand shapes. Where oneDNN multiplies bf16 (with
    AVX512-BF16) it kept 734 MB of compiled code for 1,500 of them; with the limit it keeps 95 MB.
    Elsewhere it compiles nothing."""
    code = """if True:
        import resource, torch
        from minirlhf import fast
        fast.keep_memory()
        torch.set_num_threads(1)
        weight = torch.randn(512, 128, dtype=torch.bfloat16)
        peaks = []
        for rows in range(64, 1584):
            torch.nn.functional.linear(torch.randn(rows, 128, dtype=torch.bfloat16), weight)
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        print(peaks[-1] - peaks[20])"""
    assert float(run(code)) < 250


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_that_nothing_uses_is_given_back_at_a_checkpoint():
    """Tensors of varying sizes, some of which live on, leave holes: 900 MB were held where 300 MB
    live. What lives is as it was."""
    code = """if True:
        import random, torch
        from minirlhf import fast
        fast.keep_memory()
        def held():
            return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
        sizes, live = random.Random(0), []
        for i in range(300):
            live.append(torch.full((int(2 ** sizes.uniform(10, 24)),), float(i)))
            while sum(x.nbytes for x in live) > 100 * 2**20:
                live.pop(sizes.randrange(len(live)))
        before = held()
        fast.return_memory()
        print(before - held(), all(bool((x == x[0]).all()) for x in live))"""
    given_back, intact = run(code).split()
    assert float(given_back) > 50 and intact == "True"
