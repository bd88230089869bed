"""Text <-> ids with tiktoken: a byte-level BPE of 1,024 ids that comes with the package, or any tiktoken encoding by name.

The 1,024 ids are 256 bytes, 767 merges learned from the embedded world's text, and the end token. To learn them again:

    python -m minirlhf.world --documents 3000 | python -m minirlhf.tokenizer > minirlhf/tiny.tiktoken
"""

import base64
import hashlib
import re
import sys
from collections import Counter
from pathlib import Path

import tiktoken

from minirlhf.config import InputError

TINY = Path(__file__).with_name("tiny.tiktoken")
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
        return hashlib.sha256(repr((pieces, self.end_token, self.encoding._pat_str)).encode()).hexdigest()[:16]


def get_tokenizer(name="tiny"):
    """The packaged tokenizer ("tiny") or tiktoken's encoding of that name. Raises InputError where there is none to be had."""
    if name == "tiny":
        return Tokenizer(tiktoken.Encoding(name, pat_str=PATTERN, **read_ranks(TINY.read_text())))
    if name not in tiktoken.list_encoding_names():
        raise InputError(f"--tokenizer {name}: tiktoken knows {', '.join(tiktoken.list_encoding_names())}")
    try:
        return Tokenizer(tiktoken.get_encoding(name))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a ValueError is a file with the wrong hash
        raise InputError(
            f"--tokenizer {name}: tiktoken cannot download it here; set TIKTOKEN_CACHE_DIR to a folder that holds its files"
        ) from error


def read_ranks(text):
    """tiktoken's own file format: one `base64(piece) rank` a line. The end token takes the id after the last rank."""
    ranks = {base64.b64decode(piece): int(rank) for piece, rank in (line.split() for line in text.splitlines())}
    return {"mergeable_ranks": ranks, "special_tokens": {END: len(ranks)}}


def train_bpe(text, size):
    """Byte-pair encoding (Sennrich et al. 2016): start from the 256 bytes, merge the most frequent neighbours until `size`.

    Returns {piece: rank}. Ties go to the pair met first. Pieces never cross the chunks of PATTERN, whose counts are all
    that matters, so each distinct chunk is looked at once however often it occurs.
    """
    ranks = {bytes([i]): i for i in range(256)}
    chunks = Counter(re.findall(PATTERN, text))
    words = [([bytes([b]) for b in chunk.encode()], count) for chunk, count in chunks.items()]
    while len(ranks) < size:
        pairs = Counter()
        for word, count in words:
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] += count
        if not pairs:
            raise InputError(f"the text has only {len(ranks)} distinct pieces, {size} are wanted; give more text")
        best = max(pairs, key=pairs.get)
        ranks[best[0] + best[1]] = len(ranks)
        words = [(merge(word, best), count) for word, count in words]
    return ranks


def merge(word, pair):
    """merge([a, b, a, b, c], (a, b)) -> [ab, ab, c]"""
    out = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def main():
    for piece, rank in train_bpe(sys.stdin.read(), size=1023).items():
        print(base64.b64encode(piece).decode(), rank)


if __name__ == "__main__":
    main()
