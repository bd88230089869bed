"""The specification of run/config.py: a frozen dataclass is a command line."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from minirlhf.run import config
from minirlhf.run.config import (
    DataFlags,
    InputError,
    Stream,
    flag,
    out_of_range,
    parse,
    refuse_idle,
    rng,
    run,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """A stage with one flag of every kind."""

    learning_rate: float = flag(3e-4, "Peak learning rate of AdamW.", above=0)
    steps: int = flag(100, "Optimizer steps.", low=1)
    clip: float = flag(
        0.2, "How far a ratio may move before its gradient stops; 20% by default.", low=0, high=1
    )
    share: float = flag(0.5, "Which part of the data to use.", high=1)
    anneal: bool = flag(True, "Let the learning rate fall.")
    verbose: bool = flag(False, "Print every step.")
    seed: int = flag(0, "The seed of every random number.", low=0)
    device: str = flag("auto", "Where to compute.", choices=("auto", "cpu", "cuda"))
    policy: str = flag("", "A checkpoint folder to start from.")


def refused(capsys, *argv, config_class=Config):
    """What `parse` prints when it refuses `argv`: one line on stderr, with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        parse(config_class, argv, prog="train")
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1 and printed.err.endswith("\n")
    return printed.err


@dataclasses.dataclass(frozen=True)
class Places:
    """A command with a required place and one that may be left out."""

    source: str = flag("", "What is read.", by_place=True)
    target: str = flag("out", "What is written.", by_place=True)
    steps: int = flag(100, "Steps.", low=1)


# ---- what a command line gives


def test_a_place_has_no_name_and_is_required_unless_it_has_a_default(capsys):
    """`minirlhf export RUN FOLDER`: the order says which is which, wherever the flags stand."""
    assert parse(Places, ["a", "--steps", "7"]) == Places("a", "out", 7)
    assert parse(Places, ["a", "b"]) == Places("a", "b")
    assert "SOURCE" in refused(capsys, config_class=Places)
    assert "c" in refused(capsys, "a", "b", "c", config_class=Places)


def test_no_argument_gives_the_defaults():
    """The documented run is the one without arguments."""
    assert parse(Config, []) == Config()


def test_a_flag_takes_the_type_of_its_field():
    """`--learning-rate 1` is 1.0, not 1: the integer means the same number."""
    parsed = parse(Config, ["--learning-rate", "1", "--steps", "7", "--policy", "out/lr=1e-5"])
    assert parsed == Config(learning_rate=1.0, steps=7, policy="out/lr=1e-5")
    assert type(parsed.learning_rate) is float and type(parsed.steps) is int


def test_a_flag_may_be_joined_to_its_value_by_an_equals_sign():
    """The value may hold another equals sign, as a folder named after its flags does."""
    assert parse(Config, ["--policy=out/lr=1e-5"]).policy == "out/lr=1e-5"


def test_a_switch_can_be_turned_on_and_off():
    """A switch that defaults to True and has no `--no-` form cannot be turned off."""
    assert parse(Config, ["--no-anneal", "--verbose"]) == Config(anneal=False, verbose=True)
    assert parse(Config, ["--anneal", "--no-verbose"]) == Config()


def test_a_resumed_run_continues_with_its_own_flags():
    """`defaults` are the flags of the run that is resumed. A flag on the command line wins; a flag
    that is in neither has its default."""
    parsed = parse(Config, ["--clip", "0.3"], defaults={"steps": 9, "clip": 0.1, "anneal": False})
    assert parsed == Config(steps=9, clip=0.3, anneal=False)


def test_a_config_cannot_be_changed_or_gain_a_misspelt_field():
    """cleanrl writes derived values into its arguments, so the flags that it stores are not those
    of the command line."""
    parsed = parse(Config, [])
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.steps = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.stepz = 1


# ---- what it refuses


@pytest.mark.parametrize(
    "flag_name", ["--learning-rat", "--learning-rate-schedule", "--step", "--no-steps"]
)
def test_an_unknown_flag_is_refused_by_name(capsys, flag_name):
    """An abbreviation is unknown too: its meaning would change when a second flag begins with the
    same letters."""
    assert flag_name in refused(capsys, flag_name, "1")


@pytest.mark.parametrize(
    "argv", [("--steps", "3.5"), ("--learning-rate", "fast"), ("--steps",), ("--device", "gpu")]
)
def test_a_mistyped_value_is_refused_by_the_name_of_its_flag(capsys, argv):
    """With thirty flags on a line, "invalid literal for int()" does not say which one is wrong."""
    message = refused(capsys, *argv)
    assert argv[0] in message and argv[-1] in message


@pytest.mark.parametrize(
    "argv, limit",
    [
        (("--steps", "0"), "at least 1"),
        (("--learning-rate", "0"), "more than 0"),
        (("--learning-rate", "-1"), "more than 0"),
        (("--clip", "-0.1"), "at least 0"),
        (("--clip", "1.5"), "at most 1"),
        (("--clip", "nan"), "at least 0"),
        (("--learning-rate", "nan"), "more than 0"),
        (("--share", "nan"), "at most 1"),
        (("--learning-rate", "1e31"), "0 or of a size from 1e-30 to 1e30"),
        (("--steps", "9999999999999999999"), "smaller than 2^63"),
        (("--clip", "1e-300"), "0 or of a size from 1e-30 to 1e30"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name_with_its_limit(capsys, argv, limit):
    """NaN is out of every range. A check such as `value < low` would let it pass, because every
    comparison with NaN is false."""
    message = refused(capsys, *argv)
    value = argv[1] if argv[1].isdecimal() else f"{float(argv[1]):g}"
    assert f"{argv[0]} must be {limit}, got {value}" in message


def test_a_limit_itself_is_in_range_where_it_says_at_least_or_at_most():
    """0 turns a thing off and 1 is a share: both must be allowed, and a strict comparison would
    refuse them."""
    assert parse(Config, ["--steps", "1", "--clip", "0"]) == Config(steps=1, clip=0.0)
    assert parse(Config, ["--clip", "1"]).clip == 1.0
    limits = {"low": 0, "above": None, "high": None}
    assert out_of_range(0, limits) is None and out_of_range(-1e-9, limits) == "at least 0"


# ---- --help


def test_help_shows_the_sentence_of_every_flag_and_its_default(capsys):
    """The sentence is written once, in the source. A percent sign in it is text, although argparse
    takes it for a format."""
    with pytest.raises(SystemExit) as stop:
        parse(Config, ["--help"], prog="train")
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert Config.__doc__ in text
    for field in dataclasses.fields(Config):
        assert "--" + field.name.replace("_", "-") in text
        default = "" if field.name in ("policy", "verbose") else f" [{field.default}]"
        assert field.metadata["help"] + default in text
    assert "--no-anneal" in text and "{auto,cpu,cuda}" in text


# ---- the footer of the scripts


def test_a_mistake_of_the_users_is_one_line_and_exit_code_2(capsys):
    """The line says what to change; below thirty lines of traceback nobody would find it. 2 is also
    argparse's exit code."""

    def main():
        raise InputError("data.jsonl, line 3: no field 'prompt'; add it")

    with pytest.raises(SystemExit) as stop:
        run(main)
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "error: data.jsonl, line 3: no field 'prompt'; add it\n")


def test_ctrl_c_is_exit_code_130_and_no_traceback(capsys):
    """130 is 128 + SIGINT, what a shell reports; 0 would let `make demo` go on to the next
    stage."""

    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run(main)
    assert stop.value.code == 130
    assert capsys.readouterr() == ("", "\nstopped\n")


def test_a_mistake_of_ours_keeps_its_traceback():
    """A plain ValueError is an error of the code; without its traceback it could not be found."""

    def main():
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        run(main)


# ---- random numbers


def test_randomness_is_a_function_of_seed_stream_and_step():
    """Nothing has to be saved for an exact resume. No two of the numbers are interchangeable: with
    seed + step, run 1 at step 2 would draw the same as run 2 at step 1."""
    triples = list(itertools.product(range(3), map(Stream, range(3)), range(3)))
    draws = [tuple(rng(*triple).integers(2**62, size=2)) for triple in triples]
    assert draws == [tuple(rng(*triple).integers(2**62, size=2)) for triple in triples]
    assert len(set(draws)) == 27


def test_a_stream_is_numpys_own_for_the_three_numbers():
    """PCG64 and SeedSequence are specified, and stable between versions of numpy: a published run
    can be drawn again. A stream's offset is added to the step."""
    for stream, numbers in ((config.SHUFFLE, [3, 6, 5]), (config.ROLLOUTS, [3, 4, 15])):
        expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence(numbers))).random(4)
        assert (rng(3, stream, 5).random(4) == expected).all()


def test_no_two_streams_draw_the_same():
    """Two uses of one stream would draw the same noise: a policy would be evaluated under the luck
    that trained it. A stream with steps is the last of its number, so that its steps never reach
    another's."""
    streams = {name: value for name, value in vars(config).items() if isinstance(value, Stream)}
    assert len(set(streams.values())) == len(streams) >= 15
    for name in ("ROLLOUTS", "SHUFFLE", "MINIBATCHES"):
        number, offset = streams[name]
        assert offset == max(
            stream.offset for stream in streams.values() if stream.number == number
        )


def test_drawing_touches_no_global_generator():
    """TRL seeded the global generators inside constructors (its issue 1648), so building a trainer
    changed the caller's numbers."""
    state = np.random.get_state()[1].copy()
    rng(0, config.SHUFFLE).normal(size=100)
    assert (np.random.get_state()[1] == state).all()


@dataclasses.dataclass(frozen=True)
class Reader(DataFlags):
    data: str = flag("", "file")
    score: float = flag(math.nan, "score")
    resume: bool = flag(False, "go on")


def test_a_flag_about_data_without_data_is_refused():
    """--template in a run of the embedded world changes nothing. A flag whose default is NaN is at
    its default when it is NaN, and a resumed run has its flags from before."""
    parse(Reader, ["--data", "f", "--form", "pair", "--skip-bad"])
    for words in ("--form pair", "--map a=b", "--template chatml", "--keep-turns", "--skip-bad"):
        option = words.split()[0]
        with pytest.raises(
            InputError, match=f"{option}: says how --data is read, .*; leave it out"
        ):
            parse(Reader, words.split())
        parse(Reader, [*words.split(), "--resume"])
    refuse_idle(Reader(), {"score": "is never read"})
    with pytest.raises(InputError, match="--score: is never read; leave it out"):
        refuse_idle(Reader(score=1.0), {"score": "is never read"})
