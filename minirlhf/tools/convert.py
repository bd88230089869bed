"""Write records of any form that is known as our own, and show them as the model will see them.

minirlhf convert mine.csv mine.jsonl                     what the rows are good for
minirlhf convert chats/ out.jsonl --to demonstrations --context 256 --tokenizer gpt2
minirlhf convert - - --map prompt=question,chosen=good,rejected=bad    from a pipe to a pipe
"""

import gzip
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from minirlhf import data
from minirlhf.data import Comparison
from minirlhf.formats import jsonl, rows
from minirlhf.run import config
from minirlhf.run.config import DataFlags, InputError, flag
from minirlhf.run.files import listed, write_atomically
from minirlhf.run.metrics import printable
from minirlhf.tokenizer import get_tokenizer

STAGES = {
    "demonstrations": rows.demonstration,
    "comparisons": rows.comparison,
    "prompts": rows.prompt,
}
LENGTH = 300  # characters of a text that are shown, and as many of its ids


@dataclass(frozen=True)
class Config(DataFlags):
    """minirlhf convert DATA OUT: write records of any form as JSON Lines of our own, count what is
    left out, and show some as the model will see them."""

    data: str = flag(
        "",
        "what to read: files or folders with commas between, - for standard input",
        by_place=True,
    )
    out: str = flag(
        "", "file to write, compressed if its name ends with .gz; -: standard output", by_place=True
    )
    to: str = flag(
        "auto",
        "what to write; auto: comparisons, demonstrations or prompts, what the first row is",
        choices=("auto", *STAGES),
    )
    columns: str = flag("", "other fields that prompts carry along: answer,level")
    tokenizer: str = flag("tiny", "what the shown ids are of: tiny, or any tiktoken encoding")
    context: int = flag(0, "the most tokens a record may have; 0: any number", low=0)
    max_new_tokens: int = flag(0, "tokens that a prompt must leave room for", low=0)
    shown: int = flag(3, "records that are shown", low=0)
    overwrite: bool = flag(False, "replace OUT if it is there")


def main(argv=None):
    args = config.parse(Config, argv)
    check_flags(args)
    tokenizer = get_tokenizer(args.tokenizer)
    console = sys.stderr if args.out == "-" else sys.stdout
    options = jsonl.Options(**jsonl.flags(args, columns=tuple(listed(args.columns))))
    with tempfile.TemporaryFile("w+", encoding="utf-8") as lines:
        counts, first = collect(args, tokenizer, options, lines)
        write(args, lines, counts)
    for where, record in first:
        print("\n".join(view(where, record, tokenizer)), file=console)
    print(summary(args, counts), file=console)


def check_flags(args):
    if args.out == "-":
        return
    if Path(args.out).resolve() in [Path(path).resolve() for path in listed(args.data)]:
        raise InputError(f"{args.out} is what would be read; give another OUT")
    if os.path.exists(args.out) and not args.overwrite:
        raise InputError(f"{args.out} is there already; replace it with --overwrite")


# ---- records, one at a time


def collect(args, tokenizer, options, lines):
    """Write the records to a file of lines, one at a time, however many there are. Returns counts,
    and the first of them with their places."""
    fits = None
    if args.context:
        room = args.context, args.max_new_tokens, args.drop_long
        fits = data.fits_context(tokenizer, *room)
    counts = {"written": 0, "too long": 0, "cut": 0, "repeating": 0, "empty": 0}
    tally, first = jsonl.Tally(), []
    for where, whole in jsonl.read_rows(args.data, STAGES.get(args.to), options, tally):
        try:
            record = jsonl.shortest_cut(whole, fits, options)
        except ValueError as error:
            raise InputError(f"{where[0]}:{where[1]}: {error}") from error
        counts["too long"] += record is None
        counts["cut"] += record not in (None, whole)
        if record is not None:
            counts["written"] += 1
            counts["repeating"] += rows.repeats_prompt(record)
            counts["empty"] += rows.has_silence(record)
            lines.write(jsonl.write_record(record))
            if len(first) < args.shown:
                first.append((where, record))
    example = jsonl.EXAMPLES[STAGES.get(args.to, rows.comparison)]
    jsonl.check(args.data, tally, example, options, counts["written"] > 0)
    counts["rows"], counts["skipped"] = tally.total, tally.skipped_rows()
    return counts, first


def write(args, lines, counts):
    """Copy the lines to their place, without prompts that most of the responses repeat."""
    lines.seek(0)
    strip = counts["repeating"] > counts["written"] / 2
    texts = map(stripped, lines) if strip else lines

    def copy(file):
        for text in texts:
            file.write(text.encode())

    def compress(file):
        with gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed:
            copy(packed)

    if args.out == "-":
        sys.stdout.writelines(texts)
    else:
        write_atomically(args.out, compress if args.out.endswith(".gz") else copy)


def stripped(line):
    """A line whose responses repeat the prompt, without that; any other as it is."""
    record = jsonl.parse_record(line)
    return jsonl.write_record(rows.without_prompt(record)) if rows.repeats_prompt(record) else line


# ---- what is shown


def view(where, record, tokenizer):
    """The lines that show a record: prompt and responses, each with its ids, in the order in which
    a model sees them; the boundary is where the next line begins."""
    prompt = record if isinstance(record, str) else record.prompt
    ids = data.encode_prompt(tokenizer, prompt)
    lines = ["", f"{where[0]}:{where[1]}", f"  prompt, {len(ids)} ids", *texts(ids, prompt)]
    if isinstance(record, str):
        return lines + [f"  {name}: {shown(str(x))}" for name, x in record.columns.items()]
    for number, response in enumerate(rows.texts(record)):
        example = data.encode(tokenizer, prompt, response)
        ids = example.tokens[example.prompt_length :]
        rank = f" of rank {record.ranks[number]}" if isinstance(record, Comparison) else ""
        lines += [f"  response{rank}, {len(ids)} ids, the last is the end token"]
        lines += texts(ids, response)
    return lines


def texts(ids, text):
    numbers = " ".join(map(str, ids[:LENGTH]))
    return [f"    {shown(text)}", f"    {numbers}{' ...' if len(ids) > LENGTH else ''}"]


def shown(text):
    """A text in quotation marks, on a line, as far as it is shown."""
    rest = f" and {len(text) - LENGTH:,} characters more" if len(text) > LENGTH else ""
    return printable(repr(text[:LENGTH])) + rest


def summary(args, counts):
    """What became of the rows, in a sentence."""
    parts = [f"{counts['written']:,} records of {counts['rows']:,} rows are in {args.out}"]
    for name, words in (
        ("skipped", "rows were skipped"),
        ("too long", "records were too long for the context and left out"),
        ("cut", "prompts lost their oldest turns"),
        ("empty", "records have an empty response, which stays"),
    ):
        if counts[name]:
            parts.append(f"{counts[name]:,} {words}")
    return "\n" + "; ".join(parts)


if __name__ == "__main__":
    config.run(main)
