"""A Tokenizer -> the files from which transformers' AutoTokenizer makes one with the same ids.

tokenizer.json describes a byte-level BPE for the library `tokenizers`. It differs from tiktoken in
three ways, and each is made up for here:

- Merges are pairs in an order. tiktoken has ranks of pieces, and merges any two neighbours whose
  concatenation is a piece, the one of the lowest rank first. So *every* split of a piece into two
  pieces becomes a merge, at the place of the piece.
- A chunk that is a piece as a whole is not merged at all: "ignore_merges".
- The pattern is read by another engine (Oniguruma), see `translate`.
"""

import json
import re

from minirlhf.run.files import write_text

PAD = "<|pad|>"  # of reward models: the id after the last one
# What stands between prompt and response in a text that is scored: it is cut out, and a piece never
# crosses it. Two noncharacters, which Unicode keeps for a program's own use: no text holds them.
BOUNDARY = "\ufdd0\ufdd1"
# The messages of a chat as one text: the last one is the response.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.last and message['role'] == 'assistant' %}"
    "{{ '" + BOUNDARY + "' }}{% endif %}{{ message['content'] }}{% endfor %}"
)


def byte_characters():
    """{byte: the printable character that stands for it}: GPT-2's table. Printable bytes of Latin-1
    are themselves, and the 68 others the characters from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    return table | {byte: chr(256 + place) for place, byte in enumerate(others)}


CHARACTERS = byte_characters()


def as_text(piece):
    """bytes -> the text that stands for them in tokenizer.json and vocab.json."""
    return "".join(CHARACTERS[byte] for byte in piece)


def vocabulary(tokenizer):
    """{text that stands for a piece: id}, special tokens included under their names."""
    encoding = tokenizer.encoding
    specials = {name: encoding.encode_single_token(name) for name in encoding.special_tokens_set}
    pieces = {
        as_text(piece): i for i, piece in tokenizer.pieces.items() if i not in specials.values()
    }
    return pieces | specials


def merges(pieces):
    """{piece: rank} -> every pair of pieces whose concatenation is a piece, as texts, in the order
    of its rank."""
    return [
        [as_text(piece[:place]), as_text(piece[place:])]
        for piece in sorted(pieces, key=pieces.get)
        for place in range(1, len(piece))
        if piece[:place] in pieces and piece[place:] in pieces
    ]


def translate(pattern):
    """A pattern of tiktoken's engine -> the same for Oniguruma, where `{1,3}+` repeats what is
    repeated already."""
    return re.sub(r"(\{\d+,\d*\})\+", r"\1", pattern)


def tokenizer_json(tokenizer, scores=False):
    """What tokenizer.json holds. With `scores` it is a reward model's: a text, or a pair of prompt
    and response, gets an end token, BOUNDARY is cut out, and there is a pad token."""
    specials = set(tokenizer.encoding.special_tokens_set)
    ids = vocabulary(tokenizer)
    ranks = {piece: i for i, piece in tokenizer.pieces.items() if as_text(piece) in ids}
    if scores:
        specials.add(PAD)
        ids[PAD] = tokenizer.vocab_size
    pattern = {"Regex": translate(tokenizer.encoding._pat_str)}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    cut = split | {"pattern": {"String": BOUNDARY}, "behavior": "Removed"}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    steps = [*([cut] if scores else []), split, byte_level | {"use_regex": False}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(ids[name], name) for name in sorted(specials, key=ids.get)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": end_template(tokenizer) if scores else None,
        "decoder": byte_level | {"use_regex": True},
        "model": bpe(ids, merges(ranks)),
    }


def bpe(ids, pairs):
    """The section of the model, with its merges."""
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": ""}
    model |= {"end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False}
    return model | {"ignore_merges": True, "vocab": ids, "merges": pairs}


def added_token(number, name):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": name, **flags, "special": True}


def end_template(tokenizer):
    """The end token after a text, and after a pair of texts."""
    name = tokenizer.encoding.decode([tokenizer.end_token])
    end = {"SpecialToken": {"id": name, "type_id": 0}}
    first, second = ({"Sequence": {"id": letter, "type_id": 0}} for letter in "AB")
    tokens = {name: {"id": name, "ids": [tokenizer.end_token], "tokens": [name]}}
    template = {"type": "TemplateProcessing", "single": [first, end]}
    return template | {"pair": [first, second, end], "special_tokens": tokens}


def save_tokenizer(tokenizer, folder, context, scores=False):
    """Write tokenizer.json and tokenizer_config.json; see `tokenizer_json`. `context` is the most
    tokens that the model reads."""
    end = tokenizer.encoding.decode([tokenizer.end_token])
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # GPT2Tokenizer would put GPT-2's pattern
        "model_max_length": context,
        "bos_token": end,
        "eos_token": end,
        "pad_token": PAD if scores else end,
        "padding_side": "right" if scores else "left",
        "split_special_tokens": True,  # "<|endoftext|>" in a text is thirteen characters
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    if scores:
        settings["chat_template"] = CHAT_TEMPLATE
    content = tokenizer_json(tokenizer, scores)
    write_text(folder / "tokenizer.json", json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")
