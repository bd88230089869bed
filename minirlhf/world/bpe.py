"""Learn the world's vocabulary: byte-pair encoding, by hand.

minirlhf world --documents 3000 | python -m minirlhf.world.bpe > tiny.tiktoken
"""

import base64
import re
import sys
from collections import Counter

from minirlhf.run.config import InputError
from minirlhf.tokenizer import PATTERN


def train_bpe(text, size):
    """Byte-pair encoding (Sennrich et al. 2016): start with the 256 bytes, and merge the most
    frequent pair of neighbours until there are `size` pieces.

    Returns {piece: rank}. Among equally frequent pairs the first one in the text is merged. A piece
    never crosses the border between two chunks of PATTERN, so the number of times that each
    distinct chunk occurs is all that matters. InputError if the text has fewer pieces.
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
            raise InputError(
                f"the text has only {len(ranks)} distinct pieces, {size} are wanted; give more text"
            )
        best = max(pairs, key=pairs.get)
        ranks[best[0] + best[1]] = len(ranks)
        words = [(merge(word, best), count) for word, count in words]
    return ranks


def merge(word, pair):
    """merge([a, b, a, b, c], (a, b)) -> [ab, ab, c]"""
    pieces = []
    for piece in word:
        if pieces and (pieces[-1], piece) == pair:
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return pieces


def main():
    for piece, rank in train_bpe(sys.stdin.read(), size=1663).items():
        print(base64.b64encode(piece).decode(), rank)


if __name__ == "__main__":
    main()
