"""A policy's answer to one prompt as text that grows token by token."""

import codecs

import torch

from minirlhf.data import encode_prompt
from minirlhf.generate import stream_response


class Answer:
    """An iterator: each step samples one token and returns the whole text so far.

    `uniforms` are (max_new_tokens,) numbers in [0, 1). Bytes that are not a whole character yet
    wait for the next token. When it is over, `ended` says whether it came to its end token.
    """

    def __init__(self, gpt, tokenizer, prompt, uniforms, temperature=1.0):
        ids = encode_prompt(tokenizer, prompt)
        end_token, draws = tokenizer.end_token, torch.as_tensor(uniforms)
        self.ids = stream_response(gpt, ids, draws, end_token, temperature)
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.text, self.tokens = "", 0
        self.ended = self.over = False

    def __iter__(self):
        return self

    def __next__(self):
        if self.over:
            raise StopIteration
        token = next(self.ids, None)
        self.over = token is None
        if not self.over:
            self.tokens += 1
            self.ended = token == self.tokenizer.end_token
        piece = self.tokenizer.pieces.get(token, b"")  # the end token has no text
        self.text += self.decoder.decode(piece, final=self.over)
        return self.text
