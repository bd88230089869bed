"""Files -> the records of data.py, and records -> JSON Lines of our own:

    {"prompt": ..., "response": ...}                      a demonstration; "completion" will do
    {"prompt": ..., "responses": [...], "ranks": [...]}   a comparison: rank 0 is best, equal ranks
                                                          tie; "ratings" are optional
    {"prompt": ..., "chosen": ..., "rejected": ...}       a comparison of two
    {"chosen": ..., "rejected": ...}                      two whole dialogues (Anthropic's HH-RLHF)
    {"prompt": ..., "response": ..., "label": true}       a response that is good by itself, or bad
    {"prompt": ...}                                       a prompt

Other forms are in formats/forms.py, other kinds of files in formats/containers.py. Any form serves
as a prompt, and a comparison as a demonstration (the best response). What a row means, and which
rows are skipped, is in formats/rows.py.
"""

import json
import sys
from dataclasses import dataclass, field

from minirlhf.data import Comparison, Demonstration, Labelled, Prompt, SoftComparison
from minirlhf.formats import containers, forms, names, rows, turns
from minirlhf.formats.fields import Unusable, missing
from minirlhf.run.config import InputError
from minirlhf.run.metrics import shorten

REASONS = 10  # that are printed; the rest is counted


@dataclass(frozen=True)
class Options:
    """The flags of how data are read. `columns` are fields that a prompt carries along."""

    skip_bad: bool = False
    form: str = ""
    map: str = ""
    template: str = "hh"
    keep_turns: bool = False
    columns: tuple = ()


def flags(args, **others):
    """The flags of a command that the readers below take."""
    names = ("skip_bad", "form", "map", "template", "keep_turns")
    return {name: getattr(args, name) for name in names} | others


def read_demonstrations(path, fits=None, skip_bad=False, **options):
    """list of Demonstration; see `read_records`."""
    return read_records(path, rows.demonstration, fits, Options(skip_bad, **options))


def read_comparisons(path, fits=None, skip_bad=False, **options):
    """list of Comparison; see `read_records`."""
    return read_records(path, rows.comparison, fits, Options(skip_bad, **options))


def read_labelled(path, fits=None, skip_bad=False, **options):
    """list of Labelled, of rows with one response, and of Comparison; see `read_records`."""
    return read_records(path, rows.labelled, fits, Options(skip_bad, **options))


def read_prompts(path, fits=None, skip_bad=False, **options):
    """list of Prompt, which are texts; see `read_records`."""
    return read_records(path, rows.prompt, fits, Options(skip_bad, **options))


def read_collected(path, fits=None):
    """list of Comparison: those that a run has collected, all of them, as it wrote them."""
    numbered = []
    for place, row in containers.read_rows(path):
        try:
            row = raised(row)
            if not {"prompt", "responses"} <= row.keys():
                raise ValueError("is no line of a run's comparisons.jsonl; only --data has others")
            judged = rows.ranking(row)
        except ValueError as error:
            raise refusal(place, error) from error
        record = rows.ranked_record(judged, judged.prompt, judged.responses)
        numbered.append((place, record))
    if not numbered:
        raise InputError(f"{path} is empty; give the comparisons.jsonl of a run")
    return fitting(path, numbered, fits, Options())


def holds_comparisons(path, **options):
    """Whether the first row of a file is a comparison."""
    records = read_rows(path, rows.comparison, Options(**options), Tally())
    try:
        return next(records, None) is not None
    except InputError:
        return False


# ---- rows -> records


@dataclass
class Tally:
    """How many rows were read, and {reason: places} of those that were skipped."""

    total: int = 0
    skipped: dict = field(default_factory=dict)

    def skip(self, place, reason):
        self.skipped.setdefault(str(reason), []).append(place)

    def skipped_rows(self):
        return sum(map(len, self.skipped.values()))

    def reasons(self):
        """A sentence for each reason, the first ten of them."""
        lines = [f"skipped {count(x, self.total)}: {r}" for r, x in self.skipped.items()]
        rest = sum(map(len, list(self.skipped.values())[REASONS:]))
        return lines[:REASONS] + ([f"skipped {rest} rows for other reasons"] if rest else [])


EXAMPLES = {
    rows.demonstration: '{"prompt": "...", "response": "..."}',
    rows.comparison: '{"prompt": "...", "chosen": "...", "rejected": "..."}',
    rows.labelled: '{"prompt": "...", "response": "...", "label": true}',
    rows.prompt: '{"prompt": "..."}',
}


def read_records(path, convert, fits, options):
    """The records of files.

    `convert` makes a record of what a row says. A row that it finds `Unusable` is skipped, and a
    record with `fits(record)` False is left out; how many, and why, is printed on stderr.
    InputError where a row has a wrong form, by file and line, and where more than half of the rows
    are skipped: `skip_bad` skips and counts such rows instead. InputError for a file without a
    record, with an example in the message.
    """
    tally = Tally()
    numbered = list(read_rows(path, convert, options, tally))
    check(path, tally, EXAMPLES[convert], options, bool(numbered))
    return fitting(path, without_prompts(path, numbered), fits, options)


def check(path, tally, example, options, any_record):
    """Prints why rows were skipped. InputError if too many were."""
    reasons = tally.reasons()
    if not any_record:
        problem = "; ".join(["no usable record", *reasons])
        raise InputError(f"{path}: {problem}; a line is a JSON object such as {example}; {LIST}")
    if tally.skipped_rows() > tally.total / 2 and not options.skip_bad:
        problem = f"more than half of the rows cannot be used; {'; '.join(reasons)}"
        raise InputError(f"{path}: {problem}; mend the file, or go on with --skip-bad")
    for reason in reasons:
        print(f"{path}: {reason}", file=sys.stderr)


LIST = forms.LIST


def read_rows(path, convert, options, tally):
    """(place, record), ... of files, one after another; `tally` counts. Single responses that are
    judged become comparisons with the others to their prompt, at the end. Without `convert` the
    first row decides what all become."""
    form, others = forms.get_form(options.form), names.parse_map(options.map)
    template, groups = turns.get_template(options.template), {}
    for place, row in containers.read_rows(path):
        tally.total += 1
        try:
            row = raised(row)
            renamed = names.mapped(row, others) if others else row
            for judged in forms.judged(renamed, form, convert is rows.prompt):
                convert = convert or rows.natural(judged)
                if convert is rows.comparison and is_single(judged):
                    groups.setdefault(rows.prompt(judged, template), []).append((place, judged))
                    continue
                yield place, with_columns(convert(judged, template), row | renamed, options.columns)
        except Unusable as reason:
            tally.skip(place, reason)
        except ValueError as error:
            error = missing(row, *error.args) if isinstance(error, rows.Lacking) else error
            if not options.skip_bad:
                raise refusal(place, error) from error
            tally.skip(place, shorten(str(error), 300))
    yield from grouped(groups, template, tally)


def raised(row):
    """A row; the ValueError that is in the place of one is raised."""
    if isinstance(row, ValueError):
        raise row
    return row


class MissingColumn(ValueError):
    """A row without a field that a prompt is to carry along."""


def refusal(place, error):
    """The InputError that names the place, what was found and what is accepted."""
    path, number = place
    of_form = "JSON" not in str(error) and not isinstance(error, MissingColumn)
    accepted = f"; {LIST}" if of_form else ""
    return InputError(f"{path}:{number}: {shorten(str(error), 300)}{accepted}")


def with_columns(record, row, columns):
    """A prompt with these fields of its row; any other record as it is."""
    if not columns:
        return record
    try:
        return Prompt(record, {name: names.lookup(row, name) for name in columns})
    except ValueError as error:
        raise MissingColumn(f"{error}; a reward function or --columns asks for it") from error


def is_single(judged):
    return len(judged.responses) == 1 and judged.ratings is not None


def grouped(groups, template, tally):
    """(place, Comparison), ... of {prompt: [(place, Judged of one response)]}."""
    for members in groups.values():
        places, singles = zip(*members, strict=True)
        merged = {single.responses[0]: single.ratings[0] for single in singles}
        if len(set(merged.values())) < 2:
            for place in places:
                tally.skip(place, "no other response to its prompt is judged differently")
            continue
        together = rows.Judged(singles[0].prompt, list(merged), None, list(merged.values()))
        yield places[0], rows.comparison(together, template)


def count(places, total):
    """ "2 of 9 rows (first: file:3)" """
    path, number = places[0]
    return f"{len(places)} of {total} rows (first: {path}:{number})"


# ---- records of a whole file


def without_prompts(path, numbered):
    """The (place, record) of a file. Where in most of its rows all responses begin with the prompt,
    that beginning is removed from them: each stage puts the prompt before the response. In fewer
    rows it may be chance."""
    places = [place for place, record in numbered if rows.repeats_prompt(record)]
    if not places:
        return numbered
    rows_repeating = count(places, len(numbered))
    if len(places) <= len(numbered) / 2:
        problem = "the responses begin with the prompt, and stay so: most rows are not like that"
        print(f"{path}: in {rows_repeating} {problem}", file=sys.stderr)
        return numbered
    remedy = "the responses repeated the prompt, which was removed from them"
    print(f"{path}: in {rows_repeating} {remedy}", file=sys.stderr)
    return [
        (place, rows.without_prompt(record) if rows.repeats_prompt(record) else record)
        for place, record in numbered
    ]


def fitting(path, numbered, fits, options):
    """The records that fit; `fits` is a function (see `data.fits_context`), or None: all do. A
    prompt of several turns that does not fit loses its oldest ones, unless `keep_turns`."""
    records, too_long, cut = [], [], []
    for place, record in numbered:
        try:
            whole, record = record, shortest_cut(record, fits, options)
        except ValueError as error:
            path_of, number = place
            raise InputError(f"{path_of}:{number}: {shorten(str(error), 300)}") from error
        if record is None:
            too_long.append(place)
            continue
        records.append(record)
        if record is not whole:
            cut.append(place)
    if not records:
        problem = f"none of its {len(numbered)} records fits the context"
        raise InputError(f"{path}: {problem}; train_sft.py --context sets it")
    for places, what, reason in (
        (too_long, "left out", "too long for the context"),
        (cut, "cut", "the prompt was too long for the context, and lost its oldest turns"),
    ):
        if places:
            print(f"{path}: {what} {count(places, len(numbered))}: {reason}", file=sys.stderr)
    return records


def shortest_cut(record, fits, options):
    """The record, without as many of its prompt's oldest turns as make it fit; None if it does not
    fit and is to be left out. ValueError if it does not fit."""
    if fits is None:
        return record
    template = turns.get_template(options.template)
    versions = [record] if options.keep_turns else turns.without_oldest_turns(record, template)
    problem = None
    for version in versions:
        try:
            if fits(version):
                return version
        except ValueError as error:
            problem = problem or error
    if problem:
        raise problem
    return None


# ---- records -> lines, and back


def write_records(records):
    """Records -> the text of a file that the readers above read back."""
    return "".join(map(write_record, records))


def write_record(record):
    """One line."""
    if isinstance(record, str):
        values = {"prompt": str(record)} | getattr(record, "columns", {})
    else:
        values = {name: value for name, value in vars(record).items() if value is not None}
    return json.dumps(values) + "\n"


def parse_record(line):
    """A line of ours -> its record."""
    values = json.loads(line)
    if "ranks" in values:
        return SoftComparison(**values) if "likely" in values else Comparison(**values)
    if "label" in values:
        return Labelled(**values)
    return Demonstration(**values) if "response" in values else Prompt(values.pop("prompt"), values)
