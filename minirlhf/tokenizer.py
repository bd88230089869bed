"""Text <-> ids with tiktoken: a byte-level BPE of 1,664 ids that comes with the package, or any
tiktoken encoding by name.

The 1,664 ids are 256 bytes, 1,407 merges learned from the embedded world's text (world/bpe.py), and
the end token.
"""

import base64
import hashlib
import re
from pathlib import Path

import tiktoken

from minirlhf.run.config import InputError

TINY = Path(__file__).parent / "world" / "tiny.tiktoken"
END = "<|endoftext|>"
# Contractions, words with the space before them, single digits, runs of punctuation, white space.
# It follows GPT-2's pattern, but Python's `re` (training, in world/bpe.py) and tiktoken's engine
# (everything else) both accept it.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d| ?[^\s\w]+|_+|\s+(?!\S)|\s"

LONGEST_SPACE = 999_998  # characters of white space in a row; beyond them tiktoken panics
SPACE = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"  # tiktoken's \s+


class Tokenizer:
    """`encode` never gives a special token, whatever the text; `decode` never shows one."""

    def __init__(self, encoding):
        self.encoding = encoding
        self.name = encoding.name
        self.end_token = encoding.eot_token
        self.vocab_size = encoding.n_vocab
        self.pieces = {}  # id -> bytes of every id that stands for text
        for piece in encoding.token_byte_values():
            self.pieces[encoding.encode_single_token(piece)] = piece

    def encode(self, text):
        """text -> list of ids. "<|endoftext|>" in a text is thirteen characters like any others."""
        if len(text) > LONGEST_SPACE:
            return [i for part in parts(text) for i in self.encoding.encode_ordinary(part)]
        return self.encoding.encode_ordinary(text)

    def decode(self, ids):
        """ids -> text. The end token and ids without text (some encodings have gaps) give nothing,
        and bytes that are not UTF-8 give the replacement character."""
        return b"".join(self.pieces.get(i, b"") for i in ids).decode("utf-8", errors="replace")

    def fingerprint(self):
        """16 characters that identify the vocabulary and are stored in checkpoints: two
        vocabularies called "tiny" may differ."""
        pieces = sorted(self.pieces.items())
        vocabulary = repr((pieces, self.end_token, self.encoding._pat_str))
        return hashlib.sha256(vocabulary.encode()).hexdigest()[:16]


def parts(text):
    """The text in parts without more than LONGEST_SPACE characters of white space in a row. A text
    that has no more of them is one part, so that its ids are tiktoken's."""
    start = 0
    for run in re.finditer(SPACE, text):
        for stop in range(run.start() + LONGEST_SPACE, run.end(), LONGEST_SPACE):
            yield text[start:stop]
            start = stop
    yield text[start:]


def get_tokenizer(name="tiny"):
    """The packaged tokenizer ("tiny"), or tiktoken's encoding of that name. InputError if tiktoken
    does not know the name or cannot download its file."""
    if name == "tiny":
        ranks = read_ranks(TINY.read_text(encoding="utf-8"))
        return Tokenizer(tiktoken.Encoding(name, pat_str=PATTERN, **ranks))
    if name not in tiktoken.list_encoding_names():
        raise InputError(
            f"--tokenizer {name}: tiktoken knows {', '.join(tiktoken.list_encoding_names())}"
        )
    try:
        return Tokenizer(tiktoken.get_encoding(name))
    # The errors of requests are OSErrors; a ValueError is a file with the wrong hash.
    except (OSError, ValueError) as error:
        raise InputError(
            f"--tokenizer {name}: tiktoken cannot download it here; set TIKTOKEN_CACHE_DIR to a "
            "folder that holds its files"
        ) from error


def read_ranks(text):
    """The arguments of tiktoken.Encoding from a text in tiktoken's file format, one
    `base64(piece) rank` a line. The end token is the id after the last rank."""
    ranks = {}
    for line in text.splitlines():
        piece, rank = line.split()
        ranks[base64.b64decode(piece)] = int(rank)
    return {"mergeable_ranks": ranks, "special_tokens": {END: len(ranks)}}
