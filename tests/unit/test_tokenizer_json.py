"""The specification of formats/tokenizer_json.py: transformers' AutoTokenizer has our ids."""

import random
import string

import pytest
import tiktoken
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from minirlhf import data
from minirlhf.formats import tokenizer_json
from minirlhf.run import config
from minirlhf.tokenizer import END, PATTERN, Tokenizer, get_tokenizer
from minirlhf.world import writers

OURS = get_tokenizer()
TEXTS = [
    *("", " ", "  ", "\n", "\n\n", " \n x", "x \n", "a  b   c    ", "\t\r\n \u00a0\u2003\u3000x"),
    *("it's IT'S we'll we’ll 'twas don't've", "1234 56,7 3.14", "snake_case __init__ _ __ _a"),
    *("naïve café ÅÄÖ e\u0301 ñ", "日本語のテキスト", "Привет, мир", "مرحبا", "हिन्दी", "한국어"),
    *("👩‍👩‍👧 🏳️‍🌈 🇩🇪", "½ ² Ⅷ ٣ 𝟜", "\u200b\u200d\ufeff", "\x00\x01\x7f\x85", "\U0010ffff\ufdd0"),
    *(END, f"a{END}b", f"{END}{END}", "<|endoftext|", "<|pad|>", "[PAD] <pad> </s>"),
    *("-" * 70, "=" * 71, "!?" * 40, "a" * 100, "ab" * 50, " " * 64, "\n" * 33, "=-" * 33 + " "),
]
# Texts of what the pattern tells apart: letters, digits, space, quotes, underscores, punctuation.
MARKS = st.text(st.sampled_from("aA'sltveé日 1²٣\t\n\r\u00a0_-=.<|>’\u0301\u200b👩"), max_size=30)


def saved(tokenizer, folder, scores=False):
    """transformers' tokenizer from what is written of ours."""
    tokenizer_json.save_tokenizer(tokenizer, folder, context=128, scores=scores)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    return saved(OURS, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def scoring(tmp_path_factory):
    return saved(OURS, tmp_path_factory.mktemp("scoring"), scores=True)


@pytest.mark.parametrize("text", TEXTS)
def test_the_ids_of_a_text_are_ours_and_decode_to_it(theirs, text):
    """White space, contractions, other scripts, emoji, noncharacters, special tokens, long runs."""
    assert theirs(text).input_ids == OURS.encode(text)
    assert theirs.decode(OURS.encode(text)) == text


@settings(max_examples=150, deadline=None)
@given(st.text() | MARKS)
def test_the_ids_of_any_text_are_ours(theirs, text):
    """Any characters, and any order of those that the pattern tells apart."""
    assert theirs(text).input_ids == OURS.encode(text)


def test_the_ids_of_the_worlds_texts_are_ours(theirs):
    """The texts that the vocabulary was learned on, each piece of it in its place."""
    texts = writers.documents(100, config.rng(0, config.DOCUMENTS))
    assert theirs(texts).input_ids == [OURS.encode(text) for text in texts]


def test_pieces_in_any_order_have_our_ids(theirs):
    """A piece that takes other merges in its neighbour's company would show here."""
    pieces = [piece.decode("utf-8", "replace") for piece in OURS.pieces.values()]
    shuffled = random.Random(0).choices(pieces, k=2_000)
    for text in ("".join(pieces), "".join(shuffled), " ".join(shuffled)):
        assert theirs(text).input_ids == OURS.encode(text)


def test_the_end_token_is_what_ends_a_text_and_no_text_holds_it(theirs):
    """Thirteen characters in a text are characters, as in ours; who wants the token says so."""
    assert theirs.eos_token_id == theirs.bos_token_id == OURS.end_token
    assert OURS.end_token not in theirs(f"a{END}").input_ids
    assert theirs(END, split_special_tokens=False).input_ids == [OURS.end_token]
    assert theirs.decode([*OURS.encode("a"), OURS.end_token], skip_special_tokens=True) == "a"
    assert len(theirs) == OURS.vocab_size and theirs.model_max_length == 128


def test_prompts_are_padded_on_the_left(theirs):
    """A response goes on at the right."""
    batch = theirs(["a", "a longer one"], padding=True)
    assert batch.input_ids[0][-1:] == OURS.encode("a") and batch.attention_mask[0][0] == 0


# ---- a reward model's


@settings(max_examples=50, deadline=None)
@given(MARKS.filter(bool), MARKS)
def test_prompt_and_response_are_encoded_apart_and_end_in_the_end_token(scoring, prompt, response):
    """As a pair of texts, and as the one text that the chat template makes: "colour: " and "Blue"
    are other ids than "colour: Blue"."""
    expected = data.encode(OURS, prompt, response).tokens
    assert scoring(prompt, response).input_ids == expected
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    text = scoring.apply_chat_template(messages, tokenize=False)
    assert scoring(text).input_ids == expected


def test_a_reward_models_texts_are_padded_by_an_id_that_no_text_has(scoring):
    """Else the end token, where the score is read, would count as padding."""
    assert scoring.pad_token_id == OURS.vocab_size and scoring.eos_token_id == OURS.end_token
    batch = scoring(["a", "a longer one"], padding=True)
    assert batch.input_ids[0][:2] == [*OURS.encode("a"), OURS.end_token]
    assert set(batch.input_ids[0][2:]) == {OURS.vocab_size}
    assert OURS.vocab_size not in scoring("<|pad|>").input_ids


# ---- other encodings


def pattern_of(name):
    """The pattern of one of tiktoken's encodings, without its vocabulary, which is downloaded."""
    with pytest.MonkeyPatch.context() as patch:
        for loader in ("load_tiktoken_bpe", "data_gym_to_mergeable_bpe_ranks"):
            patch.setattr(openai_public, loader, lambda *_, **__: {})
        return openai_public.ENCODING_CONSTRUCTORS[name]()["pat_str"]


@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "o200k_base"])
def test_the_patterns_of_other_encodings_cut_a_text_as_tiktoken_does(tmp_path, name):
    """Any two neighbours are a piece, so that a border in another place gives other ids. They have
    a gap before the end token, as those of cl100k_base."""
    letters = string.ascii_letters + "'    \t\n\r\n1234567890_-=.<|>/"
    ours = made_up(name, {(a + b).encode() for a in letters for b in letters}, pattern_of(name))
    theirs = saved(ours, tmp_path)
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choices(letters + "’é日ÀßʼnDžـ\u0301²\u200b", k=rng.randint(1, 40)))
        assert theirs(text).input_ids == ours.encode(text), repr(text)
    assert theirs.eos_token_id == ours.end_token


def made_up(name, pieces, pattern):
    """A Tokenizer of the 256 bytes and of more pieces."""
    ranks = {bytes([i]): i for i in range(256)}
    ranks |= {piece: 256 + i for i, piece in enumerate(sorted(pieces))}
    special = {END: len(ranks) + 5, "<|endofprompt|>": len(ranks) + 9}
    encoding = tiktoken.Encoding(
        name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special
    )
    return Tokenizer(encoding)


def test_a_piece_that_no_merges_lead_to_stands_for_a_whole_chunk(tmp_path):
    """tiktoken looks a chunk up before it merges anything: o200k_base has such pieces. Inside a
    longer chunk it is not found."""
    ours = made_up("small", {b"xyz"}, PATTERN)
    theirs = saved(ours, tmp_path)
    for text, ids in (("xyz", [256]), ("xyzx", list(b"xyzx")), ("xyz-xyz", [256, 45, 256])):
        assert theirs(text).input_ids == ours.encode(text) == ids


def test_gpt2s_own_ids_are_tiktokens(tmp_path):
    """50,257 ids, where tiktoken finds its files."""
    try:
        ours = Tokenizer(tiktoken.get_encoding("gpt2"))
    except Exception as error:  # whatever a missing network is to requests
        pytest.skip(f"tiktoken cannot load gpt2: {type(error).__name__}")
    theirs = saved(ours, tmp_path)
    for text in [*TEXTS, *writers.documents(50, config.rng(0, config.DOCUMENTS))]:
        assert theirs(text).input_ids == ours.encode(text), repr(text)
