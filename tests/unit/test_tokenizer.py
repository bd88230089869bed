"""The specification of tokenizer.py and world/bpe.py: text <-> ids. The authorities are tiktoken's
engine and its readable trainer."""

import base64
import io
import itertools
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
import regex
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st
from requests.exceptions import ConnectionError, HTTPError
from tiktoken import _educational
from tiktoken.load import load_tiktoken_bpe

from minirlhf.run.config import InputError
from minirlhf.tokenizer import END, PATTERN, TINY, Tokenizer, get_tokenizer, read_ranks
from minirlhf.world import bpe
from minirlhf.world.bpe import merge, train_bpe

TEXT = (
    "The cat sat on the mat; the cats' hat isn't on the other mat. What's 12 + 30? It's 42, they'"
    'll say.\n  "naïve café" costs 3 €, and the_snake_case stays... she said: aaaa aaaaa, banana '
    "bananas!\n\n\tThe end.\n"
)
ANY_TEXT = st.text(max_size=60) | st.text("ab '_1\n\u00e9\U0001f600<|endoftext|>", max_size=60)


@pytest.fixture(scope="module")
def small():
    """A tokenizer of 300 ids and the end token, trained on TEXT."""
    return Tokenizer(
        tiktoken.Encoding("small", pat_str=PATTERN, **read_ranks(file_of(train_bpe(TEXT, 300))))
    )


def file_of(ranks):
    """What `python -m minirlhf.world.bpe` prints for these ranks: base64(piece) rank, one a
    line."""
    return "".join(f"{base64.b64encode(piece).decode()} {rank}\n" for piece, rank in ranks.items())


# ---- the tokenizer that comes with the package


def test_the_packaged_tokenizer_has_1664_ids_and_the_end_token_is_the_last():
    """256 bytes, 1,407 merges, one end token. Any text has ids, and all of the embedding's 1,664
    rows, a multiple of 64, are in use."""
    tiny = get_tokenizer()
    assert (tiny.name, tiny.vocab_size, tiny.end_token) == ("tiny", 1664, 1663)
    assert sorted(tiny.pieces) == list(range(1663))
    assert [tiny.pieces[i] for i in range(256)] == [bytes([i]) for i in range(256)]


def test_the_packaged_tokenizer_is_what_the_documented_command_gives():
    """The command in the module's docstring, as it stands there. The two processes have two hash
    seeds: the order of a set must not matter."""
    pattern = r"minirlhf world (.*?) \| python -m (minirlhf\.world\.bpe) > (\S+)"
    flags, module, file = re.search(pattern, bpe.__doc__).groups()
    assert TINY.as_posix().endswith(file)
    world = [sys.executable, "-m", "minirlhf.tools.world", *flags.split()]
    path = {"PYTHONPATH": str(TINY.parents[2]), "PYTHONIOENCODING": "utf-8"}
    first, second = ({**os.environ, **path, "PYTHONHASHSEED": seed} for seed in "12")
    text = subprocess.run(world, env=first, capture_output=True, check=True).stdout
    learn = [sys.executable, "-m", module]
    ranks = subprocess.run(learn, env=second, input=text, capture_output=True, check=True).stdout
    assert ranks == TINY.read_bytes()


def test_the_packaged_file_is_in_tiktokens_own_format(monkeypatch):
    """Any program that reads tiktoken files reads this one."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # it might hold an older file of the same path
    ranks = load_tiktoken_bpe(str(TINY))
    assert read_ranks(TINY.read_text()) == {"mergeable_ranks": ranks, "special_tokens": {END: 1663}}


# ---- encode and decode


@settings(max_examples=200, deadline=None)
@given(text=ANY_TEXT)
@example(text="")
@example(text="\x00\x1c\x85\u2028\ufeff \u3000")
@example(text="e\u0301 \u0663 \u203f _ __ ª")
def test_decoding_inverts_encoding(small, text):
    """Every character is in some chunk of PATTERN. A character that matches none of its branches
    would be lost without an error."""
    assert small.decode(small.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(text=ANY_TEXT)
def test_no_piece_of_the_text_is_lost_between_the_chunks(text):
    """Python's `re`, which training uses, cuts any text into chunks that add up to it. So does
    `regex`, in which `\\w` and `\\s` differ."""
    assert "".join(re.findall(PATTERN, text)) == text
    assert "".join(regex.findall(PATTERN, text)) == text


@settings(max_examples=100, deadline=None)
@given(text=st.text("abcdefghijklmnopqrstuvwxyz ETW'.,;:?!+_0123456789\n\t\u00e9", max_size=80))
@example(text=TEXT)
def test_ids_are_those_of_byte_pair_merging_by_rank(small, text):
    """tiktoken's engine against its readable encoder, with our pattern and ranks."""
    ranks = {piece: i for i, piece in small.pieces.items()}
    readable = _educational.SimpleBytePairEncoding(pat_str=PATTERN, mergeable_ranks=ranks)
    assert small.encode(text) == readable.encode(text, None)


def test_text_is_cut_where_the_pattern_says():
    """Worked by hand. A space belongs to the word after it; of several, only the last one does. A
    digit is a chunk, so that a sum is read digit by digit, and so is a contraction. A line break
    does not belong to the word after it."""
    chunks = {
        "the cats' hat isn't": ["the", " cats", "'", " hat", " isn", "'t"],
        "12 + 30?": ["1", "2", " +", " 3", "0", "?"],
        "a_b __c": ["a", "_", "b", " ", "__", "c"],
        "a   b\n\n c": ["a", "  ", " b", "\n\n", " c"],
        "end.\n": ["end", ".", "\n"],
        "they'll we've": ["they", "'ll", " we", "'ve"],
    }
    for text, expected in chunks.items():
        assert re.findall(PATTERN, text) == expected == regex.findall(PATTERN, text)


@settings(max_examples=100, deadline=None)
@given(before=ANY_TEXT, after=ANY_TEXT)
@example(before="", after="")
def test_special_tokens_in_user_text_stay_text(small, before, after):
    """A user who types the end token must not end the response: no text has its id."""
    text = before + END + after
    ids = small.encode(text)
    assert small.end_token not in ids
    assert small.decode(ids) == text


def test_the_end_token_is_never_shown(small):
    """It is an action and no text: a judge or a user's reward function would score its letters."""
    ids = [*small.encode("The cat"), small.end_token, *small.encode(" sat"), small.end_token]
    assert small.decode(ids) == "The cat sat"


def test_any_ids_decode_to_some_text(small):
    """A model may choose a part of a character, and an id may have no text. Neither may stop a
    run."""
    euro = "€".encode()
    assert small.decode([euro[0], euro[1]]) == "\ufffd"
    assert small.decode([euro[0], *b"ok", 10**6]) == "\ufffdok"
    assert small.decode([]) == ""


def test_a_vocabulary_with_gaps_knows_its_end_token_and_its_pieces():
    """In cl100k_base the last id with text is 100,255, the end token 100,257 and the last id
    100,276: they do not follow from the number of pieces."""
    encoding = tiktoken.Encoding(
        "gaps",
        pat_str=PATTERN,
        mergeable_ranks={bytes([i]): i for i in range(256)},
        special_tokens={END: 300, "<|other|>": 310},
    )
    gaps = Tokenizer(encoding)
    assert (gaps.end_token, gaps.vocab_size) == (300, 311)
    assert gaps.decode([104, 105, 299, 300, 310]) == "hi"


def test_the_fingerprint_tells_two_vocabularies_of_one_name_apart():
    """With ids of the other vocabulary, a model looks badly trained."""

    def named_small(ranks):
        return Tokenizer(tiktoken.Encoding("small", pat_str=PATTERN, **read_ranks(file_of(ranks))))

    ranks = train_bpe(TEXT, 300)
    swapped = dict(ranks)
    a, b = list(ranks)[298:]
    swapped[a], swapped[b] = ranks[b], ranks[a]
    shorter = dict(list(ranks.items())[:-1])
    moved = {**ranks, b: 310}
    fingerprints = [named_small(r).fingerprint() for r in (ranks, swapped, shorter, moved)]
    assert len(set(fingerprints)) == 4
    assert named_small(dict(ranks)).fingerprint() == fingerprints[0]


# ---- by name


def test_an_unknown_name_is_refused_in_one_line_that_lists_the_known_ones():
    """tiktoken calls it "gpt2", everybody else "gpt-2"."""
    with pytest.raises(InputError) as refusal:
        get_tokenizer("gpt-2")
    message = str(refusal.value)
    assert message.startswith("--tokenizer gpt-2: ") and "\n" not in message
    assert all(name in message for name in tiktoken.list_encoding_names())


@pytest.mark.parametrize(
    "error",
    [ConnectionError, HTTPError, PermissionError, ValueError],
)
def test_a_vocabulary_that_cannot_be_downloaded_is_refused_in_one_line_that_names_the_cache(
    monkeypatch, error
):
    """Behind a firewall tiktoken raises the errors of requests, thirty lines of traceback."""

    def unreachable(name):
        raise error("no route to host\nat all")

    monkeypatch.setattr(tiktoken, "get_encoding", unreachable)
    with pytest.raises(InputError) as refusal:
        get_tokenizer("gpt2")
    message = str(refusal.value)
    assert message.startswith("--tokenizer gpt2: ") and "\n" not in message
    assert "TIKTOKEN_CACHE_DIR" in message


def test_a_name_gives_tiktokens_own_encoding(monkeypatch, small):
    """tiktoken gets the name, and its encoding is used unchanged."""
    names = []
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: names.append(name) or small.encoding)
    assert get_tokenizer("cl100k_base").encoding is small.encoding
    assert names == ["cl100k_base"]


# ---- training


@pytest.mark.parametrize("size", [256, 257, 300, 330])
def test_training_merges_what_tiktokens_readable_trainer_merges(size):
    """The same pieces in the same order with the same ranks, ties included. The text has "aaaa" and
    "banana", whose pairs overlap."""
    expected = _educational.bpe_train(TEXT, size, PATTERN, visualise=None)
    assert list(train_bpe(TEXT, size).items()) == list(expected.items())


@settings(max_examples=60, deadline=None)
@given(text=st.text("ab c", min_size=40, max_size=200))
def test_training_is_a_naive_loop_over_the_text(text):
    """The loop: count all pairs of neighbours in the text, merge the first of the most frequent
    ones, repeat. With three letters, pairs overlap and counts tie.

    Every rank occurs once: a piece that is learned twice would leave a gap.
    """
    words = [[bytes([b]) for b in chunk.encode()] for chunk in re.findall(PATTERN, text)]
    merges = []
    for _ in range(12):
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts:
            break
        merges.append(max(counts, key=counts.get))
        for word in words:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == merges[-1]:
                    word[i : i + 2] = [word[i] + word[i + 1]]
                i += 1
    ranks = train_bpe(text, 256 + len(merges))
    assert list(ranks)[256:] == [left + right for left, right in merges]
    assert sorted(ranks.values()) == list(range(256 + len(merges)))


def test_merging_goes_from_left_to_right_and_never_uses_a_piece_twice():
    """By hand: aaa becomes aa and a. Merged from the right, or with an overlap, the ids would not
    be tiktoken's."""
    a, b, c = b"a", b"b", b"c"
    assert merge([a, b, a, b, c], (a, b)) == [b"ab", b"ab", c]
    assert merge([a, a, a], (a, a)) == [b"aa", a]
    assert merge([a, a, a, a], (a, a)) == [b"aa", b"aa"]
    assert merge([b"ab", c, a, b"bc"], (b"ab", c)) == [b"abc", a, b"bc"]
    assert merge([], (a, b)) == []


def test_a_pair_counts_as_often_as_its_chunk_occurs():
    """ " ab" occurs three times, " cde" and " cdf" once each. So " a" has count 3, and " c" has
    count 2 although it is in more distinct chunks. " a" and "ab" tie, and the first one in the text
    wins."""
    assert list(train_bpe(" ab ab ab cde cdf", 257))[256] == b" a"
    assert list(train_bpe("ab ab ab cde cdf", 257))[256] == b"ab"


def test_too_little_text_is_refused_with_both_numbers():
    """A vocabulary with fewer ids than the model expects would be an error much later."""
    with pytest.raises(InputError, match=r"only 258 .* 300 "):
        train_bpe("abc", 300)


def test_the_command_prints_1663_ranks_that_read_back_as_they_were_learnt(monkeypatch, capsys):
    """1,663 and the end token are 1,664, a multiple of 64: the embedding has no unused rows."""
    text = TEXT + " ".join(map("".join, itertools.product("abcdefghijklm", repeat=3)))
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    bpe.main()
    ranks = read_ranks(capsys.readouterr().out)
    assert ranks == {"mergeable_ranks": train_bpe(text, 1663), "special_tokens": {END: 1663}}


@pytest.mark.parametrize("space", [" ", "\n", " \n", "\u3000"])
def test_a_million_spaces_are_text_like_any_other(small, space):
    """tiktoken's engine panics at 999,999 characters of white space in a row, with an exception
    that `except Exception` does not catch. Up to there the ids are its own."""
    limit = 999_998
    text = "a" + (space * limit)[:limit] + "b"
    assert small.encode(text) == small.encoding.encode_ordinary(text)
    for size in (limit + 1, 2 * limit, 2 * limit + 1):
        text = "a" + (space * size)[:size] + "b"
        assert small.decode(small.encode(text)) == text


def test_a_long_text_without_long_spaces_has_the_ids_of_its_engine(small):
    """It is not cut: a cut in a word would change its ids."""
    text = "banana  bananas\n" * 80_000
    assert small.encode(text) == small.encoding.encode_ordinary(text)
