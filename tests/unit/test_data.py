"""The specification of data.py: records, one reader per file format, records -> ids -> batches."""

import gzip
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirlhf import data
from minirlhf.data import Comparison, Demonstration, Example
from minirlhf.formats import jsonl, text
from minirlhf.run.config import InputError
from minirlhf.tokenizer import get_tokenizer

PROMPT = "\n\nHuman: hi\n\nAssistant:"
CHOSEN, REJECTED = " hello", " go away"
RANKED = {"prompt": PROMPT, "responses": [CHOSEN, REJECTED], "ranks": [0, 1]}
PAIR = {"prompt": PROMPT, "chosen": CHOSEN, "rejected": REJECTED}
DIALOGUES = {"chosen": PROMPT + CHOSEN, "rejected": PROMPT + REJECTED}


@pytest.fixture(scope="module")
def tok():
    return get_tokenizer()


@pytest.fixture
def write(tmp_path):
    """write(records, or text, or bytes) -> path of a file that holds them"""

    def to_file(content, name="records.jsonl"):
        if isinstance(content, list):
            content = "".join(json.dumps(record) + "\n" for record in content)
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to_file


def refusal(reader, path, *args):
    """The message with which a reader refuses a file: one line that begins with the file's name."""
    with pytest.raises(InputError) as refused:
        reader(path, *args)
    message = str(refused.value)
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
    """Rankings, pairs and HH-RLHF's dialogues: three files, one reward model, no conversion script."""
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
    """Labellers do call two answers equal; forcing an order on them would be noise. Ratings travel along."""
    record = {
        "prompt": "p",
        "responses": ["a", "b", "c", "d"],
        "ranks": [2, 0, 0, 1],
        "ratings": [1, 5, 5, 2],
    }
    assert jsonl.read_comparisons(write([record])) == [
        Comparison("p", ["a", "b", "c", "d"], [2, 0, 0, 1], [1, 5, 5, 2])
    ]


def test_fields_nobody_asked_for_do_no_harm(write):
    """Public data sets carry ids, sources and scores."""
    assert jsonl.read_demonstrations(write([{"id": 7, "prompt": "p", "response": "r"}])) == [
        Demonstration("p", "r")
    ]


def test_an_empty_text_is_a_text(write):
    """An empty prompt is pretraining text, an empty response is silence; both are legal."""
    assert jsonl.read_demonstrations(write([{"prompt": "", "response": ""}])) == [
        Demonstration("", "")
    ]


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


records = st.builds(Demonstration, st.text(), st.text()) | st.builds(
    lambda prompt, responses, ranks, ratings: Comparison(
        prompt, responses, ranks[: len(responses)], ratings
    ),
    st.text(),
    st.lists(st.text(), min_size=2, max_size=4),
    st.lists(st.integers(0, 9), min_size=4, max_size=4),
    st.none() | st.lists(st.integers(0, 5)),
)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(records, min_size=1, max_size=3))
def test_what_is_written_is_read_back(tmp_path_factory, written):
    """comparisons.jsonl beside a reward model is the model's own training data, so it must lose nothing."""
    path = tmp_path_factory.getbasetemp() / "round_trip.jsonl"
    text = jsonl.write_records(written)
    assert text.count("\n") == len(written)
    for number, record in enumerate(written):
        reader = (
            jsonl.read_demonstrations
            if isinstance(record, Demonstration)
            else jsonl.read_comparisons
        )
        path.write_text(text.splitlines()[number] + "\n")
        assert reader(path) == [record]


# ---- HH-RLHF's dialogues

FIRST = "\n\nHuman: What is 2 + 2?\n\nAssistant:"


def split(chosen, rejected):
    pair = jsonl.split_dialogues(chosen, rejected)
    return pair and (pair.prompt, pair.responses, pair.ranks)


def test_a_dialogue_is_cut_after_the_last_assistant_that_both_share():
    """Everything before it is context; to train on it would teach the reward model about words both answers share."""
    prompt = FIRST + " It is 4.\n\nHuman: Are you sure?\n\nAssistant:"
    assert split(prompt + " Yes.", prompt + " No.") == (prompt, [" Yes.", " No."], [0, 1])


def test_a_beginning_that_both_answers_share_stays_in_the_answers():
    """The common prefix itself would end in the middle of a word: "I thin" is no prompt that anybody typed."""
    assert split(FIRST + " I think 4.", FIRST + " I think so.") == (
        FIRST,
        [" I think 4.", " I think so."],
        [0, 1],
    )


def test_one_answer_may_begin_with_the_other():
    """Then there is no first difference to cut at, and one of the two may even be silence."""
    assert split(FIRST + " Yes", FIRST + " Yes, 4") == (FIRST, [" Yes", " Yes, 4"], [0, 1])
    assert split(FIRST, FIRST + " 4") == (FIRST, ["", " 4"], [0, 1])


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        (
            FIRST + " 4.\n\nHuman: Thanks\n\nAssistant: Bye",
            FIRST + " 5.\n\nHuman: Thanks\n\nAssistant: Bye",
        ),
        (FIRST + " 4.", FIRST + " 5.\n\nHuman: No\n\nAssistant: Oh"),
        (FIRST + " 4.\n\nHuman: No", FIRST + " 5."),
        (FIRST + " 4.", FIRST + " 5.\n\nAssistant: 4."),
        ("\n\nHuman: a\n\nAssistant: x", "\n\nHuman: b\n\nAssistant: x"),
        ("no dialogue", "at all"),
        (FIRST + " 4.", FIRST + " 4."),
        (FIRST + " 4.\n\nHuman: a\n\nAssistant: x", FIRST + " 4.\n\nHuman: b\n\nAssistant: x"),
    ],
    ids=[
        "turn",
        "longer",
        "shorter",
        "speaks twice",
        "question",
        "no turns",
        "same",
        "second question",
    ],
)
def test_a_pair_whose_turns_differ_earlier_or_that_says_the_same_twice_is_skipped(chosen, rejected):
    """Such a pair has no common prompt, or no preference; an answer that holds another turn would be scored as one answer."""
    assert split(chosen, rejected) is None


@pytest.mark.parametrize(
    "reader", [jsonl.read_demonstrations, jsonl.read_comparisons, jsonl.read_prompts]
)
def test_skipped_pairs_are_counted_on_stderr(write, capsys, reader):
    """Data that vanishes without a word is found missing in a result."""
    same = {"chosen": FIRST + " 4.", "rejected": FIRST + " 4."}
    path = write([same, DIALOGUES, same])
    assert len(reader(path)) == 1
    assert (
        capsys.readouterr().err
        == f"{path}: skipped 2 pairs whose dialogues differ before the last answer\n"
    )


def test_nothing_is_said_where_nothing_was_skipped(write, capsys):
    """A warning that always comes is not read."""
    jsonl.read_comparisons(write([DIALOGUES]))
    assert capsys.readouterr().err == ""


# ---- bad input


@pytest.mark.parametrize(
    "reader", [jsonl.read_demonstrations, jsonl.read_comparisons, jsonl.read_prompts]
)
def test_a_missing_file_a_folder_and_an_empty_file_are_refused_by_name(write, tmp_path, reader):
    """Three ways to mistype a path; an empty file also says what a line looks like."""
    assert "No such file" in refusal(reader, tmp_path / "nowhere.jsonl")
    assert "directory" in refusal(reader, tmp_path)
    for nothing in ("", "\n \n"):
        message = refusal(reader, write(nothing))
        assert (
            "no usable record" in message and '{"prompt"' in message
        )  # shows what a line looks like


def test_a_file_of_nothing_but_skipped_pairs_is_refused(write):
    """Training on nothing would divide by zero much later."""
    assert "no usable record" in refusal(
        jsonl.read_comparisons, write([{"chosen": FIRST, "rejected": FIRST}])
    )


GOOD = json.dumps({**RANKED, "response": "r"})


@pytest.mark.parametrize(
    ("reader", "line", "told"),
    [
        (jsonl.read_prompts, "hello", "not JSON"),
        (jsonl.read_prompts, '{"prompt": "a"', "not JSON"),
        (jsonl.read_prompts, '["prompt"]', "a JSON list; a line must be one JSON object"),
        (jsonl.read_prompts, '"prompt"', "a JSON str; a line must be one JSON object"),
        (jsonl.read_prompts, '{"text": "a"}', "no field 'prompt'; it has text"),
        (jsonl.read_prompts, "{}", "no field 'prompt'; it has none"),
        (jsonl.read_prompts, '{"prompt": 3}', "field 'prompt' must be text, it is int"),
        (jsonl.read_prompts, '{"prompt": null}', "field 'prompt' must be text, it is NoneType"),
        (jsonl.read_prompts, '{"chosen": "a"}', "no field 'rejected'"),
        (
            jsonl.read_demonstrations,
            '{"prompt": "a"}',
            "no field 'response' or 'completion'; it has prompt",
        ),
        (jsonl.read_demonstrations, '{"response": "a"}', "no field 'prompt'"),
        (
            jsonl.read_demonstrations,
            '{"prompt": "a", "response": ["b"]}',
            "field 'response' must be text, it is list",
        ),
        (jsonl.read_comparisons, '{"prompt": "a"}', "no field 'chosen'"),
        (jsonl.read_comparisons, '{"prompt": "a", "chosen": "b"}', "no field 'rejected'"),
        (
            jsonl.read_comparisons,
            '{"prompt": 1, "chosen": "b", "rejected": "c"}',
            "field 'prompt' must be text",
        ),
        (jsonl.read_comparisons, '{"responses": ["b", "c"], "ranks": [0, 1]}', "no field 'prompt'"),
        (
            jsonl.read_comparisons,
            '{"prompt": "a", "responses": ["b"], "ranks": [0]}',
            "at least two texts",
        ),
        (
            jsonl.read_comparisons,
            '{"prompt": "a", "responses": "bc", "ranks": [0, 1]}',
            "at least two texts",
        ),
        (
            jsonl.read_comparisons,
            '{"prompt": "a", "responses": ["b", 2], "ranks": [0, 1]}',
            "at least two texts",
        ),
        (
            jsonl.read_comparisons,
            '{"prompt": "a", "responses": ["b", "c"]}',
            "field 'ranks' must be a list of 2",
        ),
        (
            jsonl.read_comparisons,
            '{"prompt": "a", "responses": ["b", "c"], "ranks": [0]}',
            "a list of 2 whole numbers",
        ),
        (
            jsonl.read_comparisons,
            '{"prompt": "a", "responses": ["b", "c"], "ranks": [0, -1]}',
            "a list of 2 whole numbers",
        ),
        (
            jsonl.read_comparisons,
            '{"prompt": "a", "responses": ["b", "c"], "ranks": [0, 0.5]}',
            "a list of 2 whole numbers",
        ),
        (
            jsonl.read_comparisons,
            '{"prompt": "a", "responses": ["b", "c"], "ranks": [true, false]}',
            "a list of 2 whole",
        ),
    ],
)
def test_a_bad_line_is_named_by_file_and_number_with_what_it_should_be(write, reader, line, told):
    """In a file of 100,000 records "KeyError: 'prompt'" helps nobody. Blank lines count: the number is an editor's.

    A rank of -1 must not pass: it means "no such response" further on.
    """
    message = refusal(reader, write(f"{GOOD}\n\n{line}\n{GOOD}\n"))
    assert message.startswith(":3: ")
    assert told in message


def test_a_damaged_gzip_file_is_refused_however_it_is_damaged(write):
    """A download that broke off is the usual case."""
    whole = gzip.compress(json.dumps(PAIR).encode() * 100)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for damaged in (whole[: len(whole) // 2], whole[:5], bytes(flipped), whole[:2]):
        assert "damaged gzip" in refusal(jsonl.read_comparisons, write(damaged))


def test_text_that_is_not_utf8_is_refused(write):
    """Read with another encoding it would train a model on mojibake."""
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
    write, tok, capsys, reader, record, new_tokens
):
    """Cutting it silently would train on half an answer; past the context there are no positions to generate at.

    For a prompt, the room that the response will need counts; for a comparison, its longest response and the end token.
    """
    need = len(tok.encode(LONG)) + (new_tokens or len(tok.encode("a")) + 1)
    path = write([{"prompt": "", "response": "", "chosen": "", "rejected": "c"}, record])
    assert len(reader(path, data.fits_context(tok, need, new_tokens))) == 2  # exactly full is fine
    message = refusal(reader, path, data.fits_context(tok, need - 1, new_tokens))
    assert message.startswith(":2: ") and "--drop-long" in message
    assert str(need) in message and str(need - 1) in message  # what it needs, and what there is
    capsys.readouterr()
    assert len(reader(path, data.fits_context(tok, need - 1, new_tokens, drop_long=True))) == 1
    assert capsys.readouterr().err == f"{path}: left out 1 records that do not fit the context\n"


# ---- records -> ids


def test_prompt_and_response_are_encoded_apart_and_joined_as_ids(tok):
    """Encoding the joined text merges across the boundary, and PPO would then continue a prompt that SFT never showed.

    TRL #1702: a reward model trained on tok(a + b) and asked about tok(a) + tok(b).
    """
    prompt, response = "Name the cap", "ital of France."
    example = data.encode(tok, prompt, response)
    assert example.tokens == tok.encode(prompt) + tok.encode(response) + [tok.end_token]
    assert example.tokens[:-1] != tok.encode(prompt + response)  # or this prompt tests nothing
    assert example.prompt_length == len(tok.encode(prompt))
    assert example.tokens[: example.prompt_length] == data.encode_prompt(tok, prompt)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.text(), st.text() | st.just("<|endoftext|>"))
def test_a_response_ends_in_one_end_token_and_holds_no_other(prompt, response):
    """The end token is what SFT must teach and where the reward model reads: DPO on pairs without it (LLMs-from-scratch, DPO
    notebook, c31) never learns to stop, and one typed inside a text would stop it early."""
    tok = get_tokenizer()
    tokens, prompt_length = data.encode(tok, prompt, response)
    assert tokens[-1] == tok.end_token
    assert tok.end_token not in tokens[prompt_length:-1]
    assert tok.decode(tokens[prompt_length:]) == response
    assert prompt_length >= 1


def test_an_empty_prompt_is_one_end_token(tok):
    """Something must stand before the first token of a response, or nothing predicts it."""
    assert data.encode(tok, "", "a") == Example([tok.end_token, *tok.encode("a"), tok.end_token], 1)
    assert data.encode_prompt(tok, "a") == tok.encode("a")


def test_windows_cover_a_text_once_and_each_follows_an_end_token(tok, tmp_path):
    """No id is lost at a border or learned twice; the end token before the first one is the state that a document begins in."""
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat. " * 20, encoding="utf-8")
    examples = text.windows(path, tok, context=10)
    ids = tok.encode(path.read_text())
    assert [i for example in examples for i in example.tokens[1:]] == ids
    assert {example.tokens[0] for example in examples} == {tok.end_token}
    assert {len(example.tokens) for example in examples[:-1]} == {10} and 2 <= len(
        examples[-1].tokens
    ) <= 10
    assert {example.prompt_length for example in examples} == {1}


def test_a_text_file_that_is_missing_empty_or_not_text_is_refused(tok, tmp_path):
    """By name and in one line, like everything a user gives."""
    path = tmp_path / "text.txt"
    assert "No such file" in refusal(text.windows, path, tok, 8)
    path.write_bytes(b"")
    assert "empty" in refusal(text.windows, path, tok, 8)
    path.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refusal(text.windows, path, tok, 8)


# ---- ids -> batches


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 13),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    seed=st.integers(0, 3),
)
def test_the_stream_does_not_depend_on_where_it_is_cut(n, cuts, seed):
    """So that a resumed run needs no saved position: batch 17 is batch 17, whoever asks for it."""
    ends = np.cumsum(cuts).tolist()
    whole = data.stream(n, 0, ends[-1], seed)
    assert whole == [
        i for a, b in zip([0, *ends], ends, strict=False) for i in data.stream(n, a, b, seed)
    ]
    assert all(type(i) is int for i in whole)


def test_the_stream_brings_every_record_once_an_epoch_in_an_order_of_its_own():
    """A fresh permutation each epoch, and no record twice before every one was seen; N+'s ranks each shuffle for themselves
    (reward.py:279)."""
    n = 50
    epochs = [data.stream(n, e * n, (e + 1) * n, seed=1) for e in range(3)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert list(range(n)) not in epochs


def test_the_stream_is_a_function_of_its_seed():
    """Two seeds that shuffle alike would not be two runs."""
    assert (
        data.stream(50, 0, 50, seed=1)
        == data.stream(50, 0, 50, seed=1)
        != data.stream(50, 0, 50, seed=2)
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20), limit=st.integers(1, 100))
def test_microbatches_are_a_bounded_partition_of_similar_lengths(lengths, limit):
    """Memory is bounded by what is computed, padding included, and no row is lost or trained twice.

    Only a row that is longer than the bound by itself exceeds it, and it does so alone.
    """
    groups = data.microbatches(lengths, limit)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        assert group and (
            len(group) == 1 or len(group) * max(lengths[row] for row in group) <= limit
        )
    ordered = [lengths[row] for group in groups for row in group]
    assert ordered == sorted(
        ordered
    )  # similar lengths together: no group's span overlaps another's


def test_microbatches_fill_up_before_they_start_anew():
    """Groups of one would be correct too, and many times as slow."""
    assert list(map(len, data.microbatches([5] * 7, 15))) == [3, 3, 1]
    assert data.microbatches([3, 1, 2], 100) == [[1, 2, 0]]
    assert data.microbatches([9, 1, 1], 4) == [[1, 2], [0]]


def test_collate_puts_every_row_at_column_zero_with_its_two_lengths():
    """The one layout of every batch: prompt, response, anything; what stands to the right must still be a valid id."""
    examples = [Example([7, 8, 9], 1), Example([5], 1), Example([1, 2, 3, 4], 3)]
    tokens, prompt_lengths, lengths = data.collate(examples)
    assert tokens.tolist() == [[7, 8, 9, 0], [5, 0, 0, 0], [1, 2, 3, 4]]
    assert prompt_lengths.tolist() == [1, 1, 3]
    assert lengths.tolist() == [3, 1, 4]
    assert tokens.dtype == prompt_lengths.dtype == lengths.dtype == torch.long


def test_an_id_that_also_fills_the_rows_is_a_token_like_any_other():
    """0 fills what is right of a row, and 0 is an id. GRPO-Zero (grpo.py:89) takes every one for padding."""
    tokens, _, lengths = data.collate([Example([0, 5, 0], 1), Example([1, 2, 3, 0], 2)])
    assert lengths.tolist() == [3, 4] and tokens.tolist() == [[0, 5, 0, 0], [1, 2, 3, 0]]
