"""Text <-> ids with tiktoken: a byte-level BPE of 1,024 ids that comes with the package, or any
tiktoken encoding by name.

The 1,024 ids are 256 bytes, 767 merges learned from the embedded world's text (world/bpe.py), and
the end token.
"""

import base64
import hashlib
from pathlib import Path

import tiktoken

from minirlhf.run.config import InputError

TINY = Path(__file__).parent / "world" / "tiny.tiktoken"
END = "<|endoftext|>"
# Contractions, words with the space before them, single digits, runs of punctuation, white space. GPT-2's pattern in spirit,
# but written so that Python's `re` (training, below) and tiktoken's engine (everything else) both accept it.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d| ?[^\s\w]+|_+|\s+(?!\S)|\s"


class Tokenizer:
    """`encode` never produces a special token, whatever the text; `decode` never shows one."""

    def __init__(self, encoding):
        self.encoding = encoding
        self.name = encoding.name
        self.end_token = encoding.eot_token
        self.vocab_size = encoding.n_vocab
        self.pieces = {}  # id -> bytes of every id that stands for text
        for piece in encoding.token_byte_values():
            self.pieces[encoding.encode_single_token(piece)] = piece

    def encode(self, text):
        """text -> list of ids. "<|endoftext|>" typed by a user is thirteen characters like any others."""
        return self.encoding.encode_ordinary(text)

    def decode(self, ids):
        """ids -> text; the end token and ids without text (some encodings have gaps) contribute nothing."""
        return b"".join(self.pieces.get(i, b"") for i in ids).decode("utf-8", errors="replace")

    def fingerprint(self):
        """A short name for the exact vocabulary, stored in checkpoints: two files called "tiny" may differ."""
        pieces = [(i, piece) for i, piece in sorted(self.pieces.items())]
        return hashlib.sha256(
            repr((pieces, self.end_token, self.encoding._pat_str)).encode()
        ).hexdigest()[:16]


def get_tokenizer(name="tiny"):
    """The packaged tokenizer ("tiny") or tiktoken's encoding of that name. Raises InputError where there is none to be had."""
    if name == "tiny":
        return Tokenizer(tiktoken.Encoding(name, pat_str=PATTERN, **read_ranks(TINY.read_text())))
    if name not in tiktoken.list_encoding_names():
        raise InputError(
            f"--tokenizer {name}: tiktoken knows {', '.join(tiktoken.list_encoding_names())}"
        )
    try:
        return Tokenizer(tiktoken.get_encoding(name))
    except (
        OSError,
        ValueError,
    ) as error:  # requests' errors are OSErrors; a ValueError is a file with the wrong hash
        raise InputError(
            f"--tokenizer {name}: tiktoken cannot download it here; set TIKTOKEN_CACHE_DIR to a folder that holds its files"
        ) from error


def read_ranks(text):
    """tiktoken's own file format: one `base64(piece) rank` a line. The end token takes the id after the last rank."""
    ranks = {
        base64.b64decode(piece): int(rank)
        for piece, rank in (line.split() for line in text.splitlines())
    }
    return {"mergeable_ranks": ranks, "special_tokens": {END: len(ranks)}}
