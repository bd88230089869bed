"""The specification of generate.KVCache: decoding with it gives what a full pass gives."""

import torch

from minirlhf.generate import KVCache

PROMPT_LENGTHS = torch.tensor([1, 3, 6])
LENGTHS = torch.tensor([4, 9, 7])  # no two alike; the longest prompt is not in the longest row


def random_tokens(B=3, T=9, vocab_size=50, seed=0):
    return torch.randint(vocab_size, (B, T), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def ragged_decode(gpt, tokens, prompt_lengths, lengths, columns):
    """Logits (B, T, V) at every real position, through the cache: prompts first, then each row's tokens at its own
    position. A row that has come to its end feeds its last token again and stays where it is, as the sampler does."""
    B, T = tokens.shape
    rows = torch.arange(B)
    logits = torch.zeros(B, T, gpt.config.vocab_size)
    cache = KVCache(prompt_lengths, columns)
    prefill = int(prompt_lengths.max())
    logits[:, :prefill] = gpt.head(gpt.hidden(tokens[:, :prefill], cache))
    for _ in range(int((lengths - prompt_lengths).max())):
        at = cache.positions.clone()
        logits[rows, at] = gpt.head(gpt.hidden(tokens[rows, at][:, None], cache))[:, 0]
        cache.advance(at + 1 < lengths)
    return logits


def test_cached_decoding_gives_the_logits_of_a_full_pass(make_gpt):
    """At every position of a batch whose rows start and end apart (1e-5). A cache with one position for all rows, or without
    position ids of its own, is off by up to 34 in a GPT-2 (TRL #6800)."""
    gpt = make_gpt()
    tokens = random_tokens()
    cached = ragged_decode(gpt, tokens, PROMPT_LENGTHS, LENGTHS, columns=9)
    full = gpt(tokens)
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(cached[row, :length], full[row, :length], atol=1e-5, rtol=0)


def test_a_ragged_batch_gives_each_row_the_logits_it_has_alone(make_gpt):
    """1e-5, with and without the cache; left padding without position ids is the bug behind minRLHF's ratios (actor.py:89)."""
    gpt = make_gpt()
    tokens = random_tokens()
    cached = ragged_decode(gpt, tokens, PROMPT_LENGTHS, LENGTHS, columns=9)
    for row, length in enumerate(LENGTHS):
        alone = gpt(tokens[row : row + 1, :length])[0]
        torch.testing.assert_close(gpt(tokens)[row, :length], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(cached[row, :length], alone, atol=1e-5, rtol=0)


def test_the_columns_of_a_cache_beyond_the_rows_ends_change_nothing(make_gpt):
    """A buffer longer than needed, and junk (though finite) wherever no row has been yet."""
    gpt = make_gpt()
    tokens = random_tokens()
    exact = ragged_decode(gpt, tokens, PROMPT_LENGTHS, LENGTHS, columns=9)
    torch.testing.assert_close(
        ragged_decode(gpt, tokens, PROMPT_LENGTHS, LENGTHS, columns=31), exact, atol=1e-5, rtol=0
    )
    cache = KVCache(PROMPT_LENGTHS, columns=9)
    gpt.hidden(tokens[:, :6], cache)
    for store in (*cache.keys, *cache.values):
        for row, length in enumerate(PROMPT_LENGTHS):
            store.data[row, :, length:] = 100.0
    step = gpt.head(gpt.hidden(tokens[torch.arange(3), PROMPT_LENGTHS][:, None], cache))[:, 0]
    torch.testing.assert_close(
        step, gpt(tokens)[torch.arange(3), PROMPT_LENGTHS], atol=1e-5, rtol=0
    )


def test_a_cache_starts_with_zeros(make_gpt):
    """Masked columns have probability 0, and 0 times a NaN that memory happened to hold is NaN."""
    cache = KVCache(PROMPT_LENGTHS, columns=9)
    make_gpt().hidden(random_tokens(T=6), cache)
    assert len(cache.keys) == len(cache.values) == 2
    for store in (*cache.keys, *cache.values):
        assert store.shape == (3, 2, 9, 8)
        assert (store[:, :, 6:] == 0).all()


def test_a_row_sees_the_columns_up_to_its_position():
    """By hand: positions 1, 3, 0 of four columns."""
    cache = KVCache(torch.tensor([1, 3, 0]), columns=4)
    expected = [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    cache.begin(3)
    cache.update(0, *torch.zeros(2, 3, 1, 3, 1))
    positions = cache.begin(1)
    keys, values, visible = cache.update(0, *torch.zeros(2, 3, 1, 1, 1))
    assert positions.tolist() == [[1], [3], [0]]
    assert keys.shape == values.shape == (3, 1, 4, 1) and visible.shape == (3, 1, 1, 4)
    assert visible[:, 0, 0].int().tolist() == expected


def test_only_rows_that_are_alive_move_on():
    """A finished row's position would leave the buffer, or the context."""
    lengths = torch.tensor([1, 3, 0])
    cache = KVCache(lengths, columns=4)
    cache.advance(torch.tensor([True, False, True]))
    assert cache.positions.tolist() == [2, 3, 1]
    assert lengths.tolist() == [1, 3, 0]  # the caller's own are left alone


def test_rows_that_are_kept_decode_as_if_the_others_had_never_been(make_gpt):
    """Row 2 takes the place of row 1, and two rows stay: keys, values and positions must all follow."""
    gpt = make_gpt()
    tokens = random_tokens()
    cache = KVCache(PROMPT_LENGTHS, columns=9)
    gpt.hidden(tokens[:, :6], cache)
    kept = torch.tensor([0, 2])
    cache.compact(2, torch.tensor([1]), torch.tensor([2]))
    assert cache.positions.tolist() == [1, 6]
    step = gpt.head(gpt.hidden(tokens[kept, PROMPT_LENGTHS[kept]][:, None], cache))[:, 0]
    torch.testing.assert_close(step, gpt(tokens)[kept, PROMPT_LENGTHS[kept]], atol=1e-5, rtol=0)


def test_a_cache_in_bf16_decodes_what_a_full_pass_in_bf16_gives(make_gpt):
    """Keys and values in bf16, logits in float32. bf16 has 8 bits: 1 part in 256 of the largest logit, a few times
    over."""
    gpt = make_gpt(std=0.3)
    tokens = random_tokens()
    exact = gpt(tokens).detach()
    gpt.precision = torch.bfloat16
    cached = ragged_decode(gpt, tokens, PROMPT_LENGTHS, LENGTHS, columns=9)
    for row, length in enumerate(LENGTHS):
        tolerance = exact.abs().max().item() * 5 / 256
        torch.testing.assert_close(
            cached[row, :length], gpt(tokens)[row, :length], atol=tolerance, rtol=0
        )
        torch.testing.assert_close(
            cached[row, :length], exact[row, :length], atol=tolerance, rtol=0
        )
