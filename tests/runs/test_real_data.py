"""1,700 real comparisons of Anthropic's HH-RLHF, and GPT-2's vocabulary.

The tests are skipped without them: MINIRLHF_DATA is the folder of hh-harmless-train.jsonl.gz,
TIKTOKEN_CACHE_DIR that of tiktoken's files.
"""

import os
from pathlib import Path

import pytest

from minirlhf import data
from minirlhf.data import Demonstration
from minirlhf.formats import jsonl, rows
from minirlhf.tokenizer import get_tokenizer

HH = Path(os.environ.get("MINIRLHF_DATA", ".")) / "hh-harmless-train.jsonl.gz"
needs_hh = pytest.mark.skipif(
    not HH.exists(), reason="hh-harmless-train.jsonl.gz is not in MINIRLHF_DATA"
)
needs_gpt2 = pytest.mark.skipif(
    "TIKTOKEN_CACHE_DIR" not in os.environ, reason="TIKTOKEN_CACHE_DIR is not set"
)


@needs_hh
def test_every_real_comparison_splits_into_a_prompt_and_two_last_answers(capsys):
    """Real data has unexpected cases: in five of the 1,700 pairs an answer holds a second
    "Assistant:" turn. They are skipped."""
    comparisons = jsonl.read_comparisons(HH)
    assert len(comparisons) == 1700 - 5
    message = capsys.readouterr().err
    assert "skipped 5 of 1700 rows" in message and "an answer holds another turn" in message
    for comparison in comparisons:
        assert comparison.prompt.endswith(rows.ASSISTANT) and comparison.ranks == [0, 1]
        assert not any(rows.HUMAN in response for response in comparison.responses)


@needs_hh
def test_the_same_file_gives_demonstrations_and_prompts():
    """One file serves all three stages: the chosen side is the demonstration, and what both sides
    have in common is the prompt."""
    comparisons, demonstrations = jsonl.read_comparisons(HH), jsonl.read_demonstrations(HH)
    expected = [Demonstration(c.prompt, c.responses[0]) for c in comparisons]
    assert demonstrations == expected
    assert jsonl.read_prompts(HH) == [c.prompt for c in comparisons]


@needs_hh
@needs_gpt2
def test_gpt2s_ids_give_the_real_text_back():
    """In GPT-2's vocabulary of 50,257 ids " the" is 262 and the end token 50,256."""
    tokenizer = get_tokenizer("gpt2")
    assert (tokenizer.vocab_size, tokenizer.end_token) == (50257, 50256)
    assert tokenizer.encode(" the") == [262]
    for comparison in jsonl.read_comparisons(HH)[:200]:
        tokens, prompt_length = data.encode(tokenizer, comparison.prompt, comparison.responses[0])
        assert tokenizer.decode(tokens[:prompt_length]) == comparison.prompt
        assert tokenizer.decode(tokens[prompt_length:]) == comparison.responses[0]
        assert tokens[-1] == 50256
