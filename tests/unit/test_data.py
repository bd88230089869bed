"""The specification of data.py and of the readers in formats/jsonl.py and formats/text.py:
records, one reader for each kind, records -> ids -> batches. What a row means is in test_rows.py.
"""

import gzip
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirlhf import data
from minirlhf.data import Comparison, Demonstration, Example
from minirlhf.formats import jsonl, rows, text
from minirlhf.run.config import InputError
from minirlhf.tokenizer import get_tokenizer

PROMPT = "\n\nHuman: hi\n\nAssistant:"
CHOSEN, REJECTED = " hello", " go away"
RANKED = {"prompt": PROMPT, "responses": [CHOSEN, REJECTED], "ranks": [0, 1]}
PAIR = {"prompt": PROMPT, "chosen": CHOSEN, "rejected": REJECTED}
DIALOGUES = {"chosen": PROMPT + CHOSEN, "rejected": PROMPT + REJECTED}


@pytest.fixture(scope="module")
def tokenizer():
    return get_tokenizer()


@pytest.fixture
def write(tmp_path):
    """write(records, or text, or bytes) -> the path of a file that holds them."""

    def to_file(content, name="records.jsonl"):
        if isinstance(content, list):
            content = "".join(json.dumps(record) + "\n" for record in content)
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to_file


def refusal(reader, path, *args):
    """The InputError of a reader without the file's name, with which its single line begins."""
    with pytest.raises(InputError) as error:
        reader(path, *args)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


# ---- every form of a record


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": PROMPT, "response": CHOSEN},
        {"prompt": PROMPT, "completion": CHOSEN},
        PAIR,
        DIALOGUES,
    ],
    ids=["response", "completion", "chosen", "dialogues"],
)
def test_every_form_of_a_demonstration_gives_the_same_record(write, record):
    """Fine-tuning on the chosen side needs no conversion script."""
    assert jsonl.read_demonstrations(write([record])) == [Demonstration(PROMPT, CHOSEN)]


@pytest.mark.parametrize("record", [RANKED, PAIR, DIALOGUES], ids=["ranks", "chosen", "dialogues"])
def test_every_form_of_a_comparison_gives_the_same_record(write, record):
    """Rankings, pairs and HH-RLHF's dialogues train a reward model without a conversion script."""
    assert jsonl.read_comparisons(write([record])) == [
        Comparison(PROMPT, [CHOSEN, REJECTED], [0, 1])
    ]


@pytest.mark.parametrize(
    "record",
    [{"prompt": PROMPT}, {"prompt": PROMPT, "response": CHOSEN}, RANKED, PAIR, DIALOGUES],
    ids=["prompt", "response", "ranks", "chosen", "dialogues"],
)
def test_every_record_serves_as_a_prompt(write, record):
    """One file of dialogues feeds all three stages."""
    assert jsonl.read_prompts(write([record])) == [PROMPT]


def test_ranks_may_tie_and_come_in_any_order(write):
    """Labellers do call two answers equal; an order forced on them would be noise. Ratings are
    kept."""
    responses, ranks, ratings = ["a", "b", "c", "d"], [2, 0, 0, 1], [1, 5, 5, 2]
    record = {"prompt": "p", "responses": responses, "ranks": ranks, "ratings": ratings}
    expected = Comparison("p", responses, ranks, ratings)
    assert jsonl.read_comparisons(write([record])) == [expected]


def test_fields_nobody_asked_for_do_no_harm(write):
    """Public data sets carry ids and sources."""
    path = write([{"id": 7, "source": "web", "prompt": "p", "response": "r"}])
    assert jsonl.read_demonstrations(path) == [Demonstration("p", "r")]


def test_an_empty_text_is_a_text(write):
    """An empty prompt is pretraining text, an empty response is silence; both are legal."""
    path = write([{"prompt": "", "response": ""}])
    assert jsonl.read_demonstrations(path) == [Demonstration("", "")]


# ---- every form of a file


@pytest.mark.parametrize("name", ["records.jsonl", "records.jsonl.gz", "records"])
def test_gzip_is_known_by_its_content_and_not_by_its_name(write, name):
    """HH-RLHF comes as .jsonl.gz; a browser may have unpacked it and kept the name."""
    text = json.dumps(PAIR).encode() + b"\n"
    expected = [Comparison(PROMPT, [CHOSEN, REJECTED], [0, 1])]
    assert jsonl.read_comparisons(write(gzip.compress(text), name)) == expected
    assert jsonl.read_comparisons(write(text, name)) == expected


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_blank_lines_and_windows_line_ends_change_nothing(write, newline):
    """An editor leaves both."""
    lines = ["", '{"prompt": "a"}', "   ", '{"prompt": "b"}']  # the last line has no line end
    assert jsonl.read_prompts(write(newline.join(lines))) == ["a", "b"]


def test_unicode_survives_raw_and_escaped(write):
    """A line separator inside a string (U+2028) is not the end of a line."""
    word = "naïve 東京 \u2028 🙂"
    raw, escaped = json.dumps({"prompt": word}, ensure_ascii=False), json.dumps({"prompt": word})
    assert jsonl.read_prompts(write(raw + "\n" + escaped)) == [word, word]


RANKED_RESPONSES = st.lists(st.tuples(st.text(), st.integers(0, 9)), min_size=2, max_size=4)
DEMONSTRATIONS = st.builds(Demonstration, st.text(), st.text()).filter(
    lambda record: not rows.repeats_prompt(record)
)
RECORDS = DEMONSTRATIONS | st.builds(
    lambda prompt, pairs, ratings: Comparison(
        prompt, *map(list, zip(*pairs, strict=True)), ratings
    ),
    st.text(),
    RANKED_RESPONSES,
    st.none() | st.lists(st.integers(0, 5)),
)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(RECORDS, min_size=1, max_size=3))
def test_what_is_written_is_read_back(tmp_path_factory, records):
    """comparisons.jsonl beside a reward model is the data that it was trained on, so nothing may be
    lost: a resumed run reads rows that would be skipped in a user's file."""
    readers = {Demonstration: jsonl.read_demonstrations, Comparison: jsonl.read_collected}
    path = tmp_path_factory.getbasetemp() / "round_trip.jsonl"
    lines = jsonl.write_records(records).split("\n")
    assert len(lines) == len(records) + 1 and lines[-1] == ""
    for line, record in zip(lines, records, strict=False):
        path.write_text(line + "\n")
        assert readers[type(record)](path) == [record]


# ---- bad input


@pytest.mark.parametrize(
    "reader", [jsonl.read_demonstrations, jsonl.read_comparisons, jsonl.read_prompts]
)
def test_a_missing_file_a_folder_and_an_empty_file_are_refused_by_name(write, tmp_path, reader):
    """Three results of a mistyped path. The message for an empty file shows what a line looks
    like."""
    assert "No such file" in refusal(reader, tmp_path / "nowhere.jsonl")
    assert "directory" in refusal(reader, tmp_path)
    for content in ("", "\n \n"):
        message = refusal(reader, write(content))
        assert "no usable record" in message and '{"prompt"' in message


GOOD = json.dumps({**RANKED, "response": "r"})


BAD_LINES = {  # reader: {line: what the message says}
    jsonl.read_prompts: {
        "hello": "not JSON",
        '{"prompt": "a"': "not JSON",
        '["prompt"]': "a JSON list; a line must be one JSON object",
        '"prompt"': "a JSON str; a line must be one JSON object",
        '{"text": "a"}': "no field 'prompt'; it has text",
        "{}": "no field 'prompt'; it has none",
        '{"prompt": 3}': "field 'prompt' must be text, it is int",
        '{"prompt": null}': "field 'prompt' must be text, it is NoneType",
        '{"chosen": "a"}': "no field 'rejected'",
    },
    jsonl.read_demonstrations: {
        '{"prompt": "a"}': "no field 'response' or 'completion'; it has prompt",
        '{"response": "a"}': "no field 'prompt'",
        '{"prompt": "a", "response": ["b"]}': "field 'response' must be text, it is list",
    },
    jsonl.read_comparisons: {
        '{"prompt": "a"}': "no field 'chosen'",
        '{"prompt": "a", "chosen": "b"}': "no field 'rejected'",
        '{"prompt": 1, "chosen": "b", "rejected": "c"}': "field 'prompt' must be text",
        '{"responses": ["b", "c"], "ranks": [0, 1]}': "no field 'prompt'",
        '{"prompt": "a", "responses": ["b"], "ranks": [0]}': "at least two texts",
        '{"prompt": "a", "responses": "bc", "ranks": [0, 1]}': "at least two texts",
        '{"prompt": "a", "responses": ["b", 2], "ranks": [0, 1]}': "at least two texts",
        '{"prompt": "a", "responses": ["b", "c"]}': "field 'ranks' must be a list of 2",
        '{"prompt": "a", "responses": ["b", "c"], "ranks": [0]}': "a list of 2 whole numbers",
        '{"prompt": "a", "responses": ["b", "c"], "ranks": [0, -1]}': "a list of 2 whole numbers",
        '{"prompt": "a", "responses": ["b", "c"], "ranks": [0, 0.5]}': "a list of 2 whole numbers",
        '{"prompt": "a", "responses": ["b", "c"], "ranks": [true, false]}': "a list of 2 whole",
    },
}


@pytest.mark.parametrize(
    ("reader", "line", "problem"),
    [(reader, *case) for reader, cases in BAD_LINES.items() for case in cases.items()],
)
def test_a_bad_line_is_named_by_file_and_number_with_what_it_should_be(
    write, reader, line, problem
):
    """In a file of 100,000 records "KeyError: 'prompt'" is of no help. Blank lines count, so that
    the number is that of an editor.

    A rank of -1 must not pass: in a batch it means "no such response".
    """
    message = refusal(reader, write(f"{GOOD}\n\n{line}\n{GOOD}\n"))
    assert message.startswith(":3: ")
    assert problem in message


def test_a_damaged_gzip_file_is_refused_however_it_is_damaged(write):
    """An incomplete download is the usual case."""
    content = gzip.compress(json.dumps(PAIR).encode() * 100)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0xFF
    for damaged in (content[: len(content) // 2], content[:5], bytes(flipped), content[:2]):
        assert "damaged gzip" in refusal(jsonl.read_comparisons, write(damaged))


def test_text_that_is_not_utf8_is_refused(write):
    """Decoded with another encoding, it would train a model on wrong characters."""
    assert "not UTF-8" in refusal(jsonl.read_prompts, write('{"prompt": "café"}'.encode("latin-1")))


LONG = "b" * 20


@pytest.mark.parametrize(
    ("reader", "record", "new_tokens"),
    [
        (jsonl.read_prompts, {"prompt": LONG}, 7),
        (jsonl.read_demonstrations, {"prompt": "a", "response": LONG}, 0),
        (jsonl.read_comparisons, {"prompt": "a", "chosen": "b", "rejected": LONG}, 0),
    ],
    ids=["prompt", "demonstration", "comparison"],
)
def test_a_record_that_does_not_fit_is_an_error_unless_dropping_is_asked_for(
    write, tokenizer, capsys, reader, record, new_tokens
):
    """To cut it silently would be to train on half an answer, and there are no positions past the
    context to generate at.

    A prompt needs room for the response that will be sampled, a comparison for its longest response
    and the end token.
    """
    need = len(tokenizer.encode(LONG)) + (new_tokens or len(tokenizer.encode("a")) + 1)
    path = write([{"prompt": "", "response": "", "chosen": "", "rejected": "c"}, record])
    fits = data.fits_context(tokenizer, need, new_tokens)
    assert len(reader(path, fits)) == 2  # exactly full is fine
    fits = data.fits_context(tokenizer, need - 1, new_tokens)
    message = refusal(reader, path, fits)
    assert message.startswith(":2: ") and "--drop-long" in message
    assert str(need) in message and str(need - 1) in message  # what it needs, and what there is
    capsys.readouterr()
    fits = data.fits_context(tokenizer, need - 1, new_tokens, drop_long=True)
    assert len(reader(path, fits)) == 1
    message = f"{path}: left out 1 of 2 rows (first: {path}:2): too long for the context\n"
    assert capsys.readouterr().err == message
    fits = data.fits_context(tokenizer, 1, new_tokens, drop_long=True)
    assert "none of its 2 records fits the context; " in refusal(reader, path, fits)


# ---- records -> ids


def test_prompt_and_response_are_encoded_apart_and_joined_as_ids(tokenizer):
    """Encoding the joined text merges across the boundary. PPO would then continue a prompt that is
    in no example of SFT.

    TRL #1702: a reward model is trained on encode(a + b) and scores encode(a) + encode(b).
    """
    prompt, response = "Name the cap", "ital of France."
    example = data.encode(tokenizer, prompt, response)
    assert example.tokens == tokenizer.encode(prompt) + tokenizer.encode(response) + [
        tokenizer.end_token
    ]
    assert example.tokens[:-1] != tokenizer.encode(
        prompt + response
    )  # or this prompt tests nothing
    assert example.prompt_length == len(tokenizer.encode(prompt))
    assert example.tokens[: example.prompt_length] == data.encode_prompt(tokenizer, prompt)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.text(), st.text() | st.just("<|endoftext|>"))
def test_a_response_ends_in_one_end_token_and_holds_no_other(prompt, response):
    """SFT must teach the end token, and the reward model reads its score there. DPO on pairs
    without it (LLMs-from-scratch, DPO notebook, c31) never learns to stop; one that is typed in a
    text would stop it early."""
    tokenizer = get_tokenizer()
    tokens, prompt_length = data.encode(tokenizer, prompt, response)
    assert tokens[-1] == tokenizer.end_token
    assert tokenizer.end_token not in tokens[prompt_length:-1]
    assert tokenizer.decode(tokens[prompt_length:]) == response
    assert prompt_length >= 1


def test_an_empty_prompt_is_one_end_token(tokenizer):
    """The first token of a response needs a token before it, whose state predicts it."""
    end, ids = tokenizer.end_token, tokenizer.encode("a")
    assert data.encode(tokenizer, "", "a") == Example([end, *ids, end], 1)
    assert data.encode_prompt(tokenizer, "a") == ids


def test_windows_cover_a_text_once_and_each_follows_an_end_token(tokenizer, tmp_path):
    """No id is lost at a border or learned twice. A document begins after an end token, so the end
    token comes before the first window too."""
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat. " * 20, encoding="utf-8")
    examples = text.windows(path, tokenizer, context=10)
    ids = tokenizer.encode(path.read_text())
    assert [i for example in examples for i in example.tokens[1:]] == ids
    assert {example.tokens[0] for example in examples} == {tokenizer.end_token}
    assert {len(example.tokens) for example in examples[:-1]} == {10}
    assert 2 <= len(examples[-1].tokens) <= 10
    assert {example.prompt_length for example in examples} == {1}


def test_a_text_file_that_is_missing_empty_or_not_text_is_refused(tokenizer, tmp_path):
    """In one line that begins with its name, like every mistake of a user."""
    path = tmp_path / "text.txt"
    assert "No such file" in refusal(text.windows, path, tokenizer, 8)
    path.write_bytes(b"")
    assert "empty" in refusal(text.windows, path, tokenizer, 8)
    path.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refusal(text.windows, path, tokenizer, 8)


# ---- ids -> batches


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 13),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    seed=st.integers(0, 3),
)
def test_the_stream_does_not_depend_on_where_it_is_cut(n, cuts, seed):
    """A resumed run needs no saved position: batch 17 is a function of its number."""
    ends = np.cumsum(cuts).tolist()
    indices = data.stream(n, 0, ends[-1], seed)
    parts = [data.stream(n, *span, seed) for span in pairwise([0, *ends])]
    assert indices == [i for part in parts for i in part]
    assert all(type(i) is int for i in indices)


def test_the_stream_brings_every_record_once_an_epoch_in_an_order_of_its_own():
    """A new permutation each epoch; no record comes twice before all have come once. In N+ each
    rank shuffles by itself (reward.py:279)."""
    n = 50
    epochs = [data.stream(n, e * n, (e + 1) * n, seed=1) for e in range(3)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert list(range(n)) not in epochs


def test_the_stream_is_a_function_of_its_seed():
    """Two runs with two seeds have two orders."""
    first, repeated, other = (data.stream(50, 0, 50, seed) for seed in (1, 1, 2))
    assert first == repeated != other


@settings(max_examples=100, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20), limit=st.integers(1, 100))
def test_microbatches_are_a_bounded_partition_of_similar_lengths(lengths, limit):
    """The tokens of a group, padding included, are bounded, and with them the memory. No row is
    lost or trained twice. Only a row that is longer than the bound exceeds it, alone in its
    group."""
    groups = data.microbatches(lengths, limit)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        assert group
        size = len(group) * max(lengths[row] for row in group)
        assert len(group) == 1 or size <= limit
    order = [lengths[row] for group in groups for row in group]
    assert order == sorted(order)  # the spans of two groups' lengths do not overlap


def test_microbatches_fill_up_before_they_start_anew():
    """Groups of one would be correct too, and many times as slow."""
    assert list(map(len, data.microbatches([5] * 7, 15))) == [3, 3, 1]
    assert data.microbatches([3, 1, 2], 100) == [[1, 2, 0]]
    assert data.microbatches([9, 1, 1], 4) == [[1, 2], [0]]


def test_collate_puts_every_row_at_column_zero_with_its_two_lengths():
    """The layout of every batch: prompt, response, anything. What lies right of a row's end must be
    a valid id."""
    examples = [Example([7, 8, 9], 1), Example([5], 1), Example([1, 2, 3, 4], 3)]
    tokens, prompt_lengths, lengths = data.collate(examples)
    assert tokens.tolist() == [[7, 8, 9, 0], [5, 0, 0, 0], [1, 2, 3, 4]]
    assert prompt_lengths.tolist() == [1, 1, 3]
    assert lengths.tolist() == [3, 1, 4]
    assert tokens.dtype == prompt_lengths.dtype == lengths.dtype == torch.long


def test_an_id_that_also_fills_the_rows_is_a_token_like_any_other():
    """0 stands right of a row's end, and 0 is an id. GRPO-Zero (grpo.py:89) takes every 0 for
    padding."""
    tokens, _, lengths = data.collate([Example([0, 5, 0], 1), Example([1, 2, 3, 0], 2)])
    assert lengths.tolist() == [3, 4] and tokens.tolist() == [[0, 5, 0, 0], [1, 2, 3, 0]]


def test_prompts_without_room_for_a_response_are_refused_or_left_out():
    """In a context of 8: "a" has one token and leaves room for 7, "a b c" has three and does not.
    Where none is left there is nothing to sample from, and the message names the flag."""
    tokenizer, prompts = get_tokenizer("tiny"), ["a", "a b c"]
    assert [len(tokenizer.encode(prompt)) for prompt in prompts] == [1, 3]
    assert data.fitting_prompts(prompts, tokenizer, 8, 5, False) == prompts
    assert data.fitting_prompts(prompts, tokenizer, 8, 7, True) == ["a"]
    with pytest.raises(InputError, match="10 tokens, 7 of them of --max-new-tokens, do .*; lower"):
        data.fitting_prompts(prompts, tokenizer, 8, 7, False)
    with pytest.raises(InputError, match="--max-new-tokens 8 in a context of 8"):
        data.fitting_prompts(prompts, tokenizer, 8, 8, True)
