"""The specification of generate.KVCache: decoding with it gives what a full pass gives."""

import torch
from ragged import LENGTHS, PROMPT_LENGTHS, random_tokens

from minirlhf.generate import KVCache


@torch.no_grad()
def ragged_decode(gpt, tokens, prompt_lengths, lengths, buffer):
    """Logits (B, T, V) at every real position, through the cache: first the prompts, then the
    tokens of each row at its own position. A finished row feeds its last token again and keeps its
    position, as in the sampler."""
    B, T = tokens.shape
    rows = torch.arange(B)
    logits = torch.zeros(B, T, gpt.config.vocab_size)
    cache = KVCache(prompt_lengths, buffer)
    prefill = int(prompt_lengths.max())
    logits[:, :prefill] = gpt.head(gpt.hidden(tokens[:, :prefill], cache))
    for _ in range(int((lengths - prompt_lengths).max())):
        columns = cache.positions.clone()
        logits[rows, columns] = gpt.head(gpt.hidden(tokens[rows, columns][:, None], cache))[:, 0]
        cache.advance(columns + 1 < lengths)
    return logits


def test_cached_decoding_gives_the_logits_of_a_full_pass(make_gpt):
    """This holds at every position of a batch whose rows start and end at different columns (1e-5).
    With one position for all rows, or without position ids of its own, a cache is off by up to 34
    in a GPT-2 (TRL #6800)."""
    gpt = make_gpt()
    tokens = random_tokens()
    cached = ragged_decode(gpt, tokens, PROMPT_LENGTHS, LENGTHS, buffer=9)
    full = gpt(tokens)
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(cached[row, :length], full[row, :length], atol=1e-5, rtol=0)


def test_a_ragged_batch_gives_each_row_the_logits_it_has_alone(make_gpt):
    """Within 1e-5, with and without the cache. Left padding without position ids is the reason for
    minRLHF's wrong ratios (actor.py:89)."""
    gpt = make_gpt()
    tokens = random_tokens()
    cached = ragged_decode(gpt, tokens, PROMPT_LENGTHS, LENGTHS, buffer=9)
    for row, length in enumerate(LENGTHS):
        expected = gpt(tokens[row : row + 1, :length])[0]
        torch.testing.assert_close(gpt(tokens)[row, :length], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(cached[row, :length], expected, atol=1e-5, rtol=0)


def test_the_columns_of_a_cache_beyond_the_rows_ends_change_nothing(make_gpt):
    """A longer buffer gives the same logits, and so do finite junk values in the columns that a row
    has not reached."""
    gpt = make_gpt()
    tokens = random_tokens()
    exact = ragged_decode(gpt, tokens, PROMPT_LENGTHS, LENGTHS, buffer=9)
    longer = ragged_decode(gpt, tokens, PROMPT_LENGTHS, LENGTHS, buffer=31)
    torch.testing.assert_close(longer, exact, atol=1e-5, rtol=0)
    cache = KVCache(PROMPT_LENGTHS, columns=9)
    gpt.hidden(tokens[:, :6], cache)
    for store in (*cache.keys, *cache.values):
        for row, length in enumerate(PROMPT_LENGTHS):
            store.data[row, :, length:] = 100.0
    place = torch.arange(3), PROMPT_LENGTHS  # of the first token after each prompt
    step = gpt.head(gpt.hidden(tokens[place][:, None], cache))[:, 0]
    torch.testing.assert_close(step, gpt(tokens)[place], atol=1e-5, rtol=0)


def test_a_cache_starts_with_zeros(make_gpt):
    """Masked columns have probability 0. If uninitialised memory holds a NaN there, 0 times NaN is
    NaN."""
    cache = KVCache(PROMPT_LENGTHS, columns=9)
    make_gpt().hidden(random_tokens(T=6), cache)
    assert len(cache.keys) == len(cache.values) == 2
    for store in (*cache.keys, *cache.values):
        assert store.shape == (3, 2, 9, 8)
        assert (store[:, :, 6:] == 0).all()


def test_a_row_sees_the_columns_up_to_its_position():
    """Worked by hand: positions 1, 3 and 0; three columns of six are filled by the prefill, and a
    fourth by the next token. Attention over columns that no row has filled would be for nothing."""
    cache = KVCache(torch.tensor([1, 3, 0]), columns=6)
    expected = [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    cache.begin(3)
    cache.update(0, *torch.zeros(2, 3, 1, 3, 1))
    positions = cache.begin(1)
    keys, values, visible = cache.update(0, *torch.zeros(2, 3, 1, 1, 1))
    assert positions.tolist() == [[1], [3], [0]]
    assert keys.shape == values.shape == (3, 1, 4, 1) and visible.shape == (3, 1, 1, 4)
    assert visible[:, 0, 0].int().tolist() == expected


def test_only_rows_that_are_alive_move_on():
    """The position of a finished row would otherwise leave the buffer, or the context. The caller's
    lengths are not changed."""
    lengths = torch.tensor([1, 3, 0])
    cache = KVCache(lengths, columns=4)
    cache.advance(torch.tensor([True, False, True]))
    assert cache.positions.tolist() == [2, 3, 1]
    assert lengths.tolist() == [1, 3, 0]


def test_rows_that_are_kept_decode_as_if_the_others_had_never_been(make_gpt):
    """Row 2 takes the place of row 1, and two rows remain. Keys, values and positions all have to
    move."""
    gpt = make_gpt()
    tokens = random_tokens()
    cache = KVCache(PROMPT_LENGTHS, columns=9)
    gpt.hidden(tokens[:, :6], cache)
    rows = torch.tensor([0, 2])
    cache.compact(2, torch.tensor([1]), torch.tensor([2]))
    assert cache.positions.tolist() == [1, 6]
    place = rows, PROMPT_LENGTHS[rows]
    step = gpt.head(gpt.hidden(tokens[place][:, None], cache))[:, 0]
    torch.testing.assert_close(step, gpt(tokens)[place], atol=1e-5, rtol=0)


def test_a_cache_in_bf16_decodes_what_a_full_pass_in_bf16_gives(make_gpt):
    """Keys and values are bf16, logits are float32. bf16 has 8 bits of precision; the tolerance is
    5 times 1/256 of the largest logit."""
    gpt = make_gpt(std=0.3)
    tokens = random_tokens()
    exact = gpt(tokens).detach()
    gpt.precision = torch.bfloat16
    cached = ragged_decode(gpt, tokens, PROMPT_LENGTHS, LENGTHS, buffer=9)
    full = gpt(tokens)
    atol = exact.abs().max().item() * 5 / 256
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(cached[row, :length], full[row, :length], atol=atol, rtol=0)
        torch.testing.assert_close(cached[row, :length], exact[row, :length], atol=atol, rtol=0)


def test_a_cache_makes_its_tensors_where_the_rows_are(make_gpt):
    """Positions, row numbers and masks, whatever torch's default device is: "meta", on which
    nothing can be computed, takes the part of the wrong default."""
    gpt, tokens, states = make_gpt(), random_tokens(), []
    for default in ("cpu", "meta"):
        with torch.device(default):
            cache = KVCache(PROMPT_LENGTHS, columns=9)
            gpt.hidden(tokens[:, :6], cache)
            states.append(gpt.hidden(tokens[:, 6:7], cache))
    assert torch.equal(*states)
