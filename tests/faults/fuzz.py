"""Random damage to everything that is read: a record comes out, or an InputError of one line.

    python tests/faults/fuzz.py                     100,000 inputs, a few minutes
    python tests/faults/fuzz.py --inputs 5000 --seed 7 --only checkpoint

Nothing else is allowed: no other exception, no message of two lines or with control characters, no
input that takes 20 seconds of the processor or five minutes, no memory beyond 2 GB.
Each failure is printed with its seed.
"""

import argparse
import contextlib
import gzip
import io
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import train_ppo
from minirlhf import reward
from minirlhf.data import fits_context
from minirlhf.formats import gpt2, jsonl, text
from minirlhf.model import GPT, GPTConfig
from minirlhf.run import checkpoint, damage, resume
from minirlhf.run.config import InputError
from minirlhf.run.folder import start_run
from minirlhf.run.optim import adamw
from minirlhf.tokenizer import get_tokenizer

# The bounds for one input: seconds of the processor, seconds of waiting, bytes.
SECONDS, WAIT, MEMORY = 20, 300, 2 << 30
TOKENIZER = get_tokenizer()
RECORDS = [
    {"prompt": "Name a colour.\n", "response": "Blue."},
    {"prompt": "Name a colour.\n", "chosen": "Blue.", "rejected": "Seven."},
    {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [1, 0, 0], "ratings": [1, 2, 2]},
    {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
    {"prompt": "nur ein Prompt: \u00fc \U0001f600"},
]
# What breaks readers: ends of numbers, of nesting, of Unicode, of formats.
PIECES = [
    *(
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\x00",
        b"\r",
        b"\n",
        b"\x1b]0;x\x07",
        b"\\ud83d",
    ),
    *(b"NaN", b"-Infinity", b"1e999", b"1e20", b"-1", b"0", b"9" * 5000, b"true", b"null", b'""'),
    *(b"[" * 3000, b'{"a":' * 2000, b"]", b"}", b"{", b'"', b",", b":", b"[]", b"{}", b" " * 2000),
    *(b'"prompt"', b'"chosen"', b'"ranks":', b'"responses":[', b"PAR1", b"PK\x03\x04", b"\x1f\x8b"),
]
VALUES = (
    *(None, True, False, "", "x", [], {}, [1, [2]], {"a": {}}, 0, 1, -1, 2**31, 2**63, 10**30),
    *(0.5, 1e20, -1e20, float("nan"), float("inf"), "\ud800", "a\nb\x1b[2J", b"x", (1, 2)),
)


def damaged(content, rng):
    """Bytes with a few of: a flipped bit, a piece put in, a part removed, doubled, or cut off."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        place, stop = sorted(rng.randrange(len(content) + 1) for _ in range(2))
        how = rng.randrange(6)
        if how == 0 and content:
            content[place % len(content)] ^= 1 << rng.randrange(8)
        elif how == 1:
            content[place:place] = rng.choice(PIECES)
        elif how == 2:
            del content[place : min(stop, place + 40)]
        elif how == 3:
            content[place:place] = content[place:stop]
        elif how == 4 and rng.random() < 0.3:
            del content[place:]
        elif content:
            content[place % len(content)] = rng.randrange(256)
    return bytes(content)


def put_somewhere(state, rng):
    """Replace or remove one value of a nested dictionary, at any depth."""
    while True:
        keys = list(state) if isinstance(state, dict) else range(len(state))
        key = rng.choice(list(keys))
        inner = state[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.7:
            state = inner
            continue
        if isinstance(state, dict) and rng.random() < 0.15:
            del state[key]
        else:
            state[key] = strange(inner, rng)
        return


def strange(value, rng):
    """Another value in the place of `value`: a tensor of another shape or type, any other thing."""
    if isinstance(value, torch.Tensor) and rng.random() < 0.7:
        changes = [
            lambda: value.double(),
            lambda: value.half(),
            lambda: value.long() if value.isfinite().all() else value,
            lambda: value.flatten()[:-1],
            lambda: value[None],
            lambda: torch.full_like(value, float("nan")),
            lambda: torch.tensor(1.0).expand(10**12),
            lambda: value.to_sparse() if value.dim() else value,
            lambda: torch.zeros(0),
            lambda: value.bool(),
        ]
        return rng.choice(changes)()
    return rng.choice(VALUES)


# ---- the readers: each takes a generator and an empty folder, and makes and reads one input


def lines(rng, folder):
    content = b"".join(json.dumps(r).encode() + b"\n" for r in [rng.choice(RECORDS)] * 3)
    (folder / "data.jsonl").write_bytes(damaged(content, rng))
    read_records(rng, folder / "data.jsonl")


def zipped(rng, folder):
    content = b"".join(json.dumps(r).encode() + b"\n" for r in [rng.choice(RECORDS)] * 3)
    inside = damaged(content, rng) if rng.random() < 0.5 else content
    content = gzip.compress(inside, compresslevel=1)
    (folder / "data").write_bytes(damaged(content, rng) if rng.random() < 0.7 else content)
    read_records(rng, folder / "data")


def read_records(rng, path):
    fits = fits_context(TOKENIZER, 64, 4, drop_long=True)
    read = rng.choice((jsonl.read_prompts, jsonl.read_comparisons, jsonl.read_demonstrations))
    records = read(path, fits)
    resume.fingerprint(records)
    jsonl.write_records(records) if hasattr(records[0], "prompt") else None


def plain(rng, folder):
    content = "One line.\nAnother, \u00fcber.\r\n".encode() * 3
    (folder / "text.txt").write_bytes(damaged(content, rng))
    text.windows(folder / "text.txt", TOKENIZER, 16)


def tokens(rng, folder):
    """Not text alone: whatever a Python string can hold; and ids that stand for no text."""
    alphabet = rng.choice((" \n\t\u3000\x1c\x85", "ab '", "\ud800\udfff\U0001f600e\u0301", None))
    size = rng.choice((0, 1, 5, 50, 500))
    characters = [rng.choice(alphabet) if alphabet else any_character(rng) for _ in range(size)]
    string = "".join(characters)
    ids = TOKENIZER.encode(string)
    if not any(0xD800 <= ord(c) < 0xE000 for c in string) and TOKENIZER.decode(ids) != string:
        raise AssertionError("decoding does not invert encoding")
    TOKENIZER.decode(rng.choices(range(2000), k=size))


def any_character(rng):
    return chr(rng.choice((rng.randrange(256), rng.randrange(0x10000), rng.randrange(0x110000))))


def checkpoints(rng, folder):
    """A checkpoint of a policy or of a reward model, with other bytes or with other values."""
    stage = rng.choice(("ppo", "rm"))
    path = folder / "checkpoint.pt"
    if rng.random() < 0.5:
        path.write_bytes(damaged(CHECKPOINTS[stage], rng))
    else:
        state = torch.load(io.BytesIO(CHECKPOINTS[stage]), weights_only=True)
        for _ in range(rng.choice((1, 1, 2))):
            put_somewhere(state, rng)
        with open(path, "wb") as file:
            rng.choice((damage.save, torch.save))(state, file)
    if stage == "rm":
        reward.load_reward_model(folder)
    else:
        gpt, _ = checkpoint.load_gpt(folder)
        checkpoint.restore(folder, "ppo", True, model=gpt, optimizer=adamw(gpt, 0.1))


def configs(rng, folder):
    """config.json of a run, which --resume reads, with a checkpoint beside it or without."""
    shutil.copytree(RUN, folder / "ppo")
    path = folder / "ppo" / "config.json"
    if rng.random() < 0.5:
        path.write_bytes(damaged(path.read_bytes(), rng))
    else:
        record = json.loads(path.read_text())
        put_somewhere(record, rng)
        path.write_text(json.dumps(record, default=str))
    if rng.random() < 0.3:
        (folder / "ppo" / "checkpoint.pt").write_bytes(CHECKPOINTS["ppo"])
    args = checkpoint.configure(train_ppo.Config, "ppo", ["--out", str(folder), "--resume"])
    with start_run(args, TOKENIZER, "ppo"):
        pass


def hugging_face(rng, folder):
    """A folder of transformers' with other bytes or with other values in one of its files."""
    kind = rng.choice(("model.safetensors", "pytorch_model.bin"))
    for name in ("config.json", kind):
        shutil.copy(HUGGING_FACE / name, folder)
    path = folder / rng.choice(("config.json", kind))
    if path.suffix == ".json" and rng.random() < 0.5:
        settings = json.loads(path.read_text())
        put_somewhere(settings, rng)
        path.write_text(json.dumps(settings, default=str))
    elif path.suffix == ".bin" and rng.random() < 0.5:
        tensors = torch.load(path, weights_only=True)
        put_somewhere(tensors, rng)
        torch.save(tensors, path, _use_new_zipfile_serialization=rng.random() < 0.5)
    else:
        path.write_bytes(damaged(path.read_bytes(), rng))
    gpt2.load_gpt2(folder)


READERS = {  # name: (reader, its share of the inputs)
    "lines": (lines, 40),
    "gzip": (zipped, 15),
    "text": (plain, 10),
    "tokenizer": (tokens, 20),
    "checkpoint": (checkpoints, 7),
    "config": (configs, 5),
    "folder": (hugging_face, 3),
}
CHECKPOINTS, RUN, HUGGING_FACE = {}, Path(), Path()


def prepare(folder):
    """What is damaged later: checkpoints, a run's folder, a Hugging Face folder, in `folder`."""
    global RUN, HUGGING_FACE
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(TOKENIZER.vocab_size, 16, 1, 2, 4))
    optimizer = adamw(gpt, 0.1)
    gpt(torch.zeros(1, 4, dtype=torch.long)).logsumexp(-1).sum().backward()
    optimizer.step()
    args = train_ppo.Config(out=str(folder))
    with start_run(args, TOKENIZER, "ppo", data=["a"], sft=gpt) as (RUN,):
        pass
    common = gpt.config, TOKENIZER, 3
    parts = {"model": gpt, "optimizer": optimizer, "kl_coef": 0.1}
    checkpoint.save(folder / "policy", "ppo", *common, **parts)
    parts = {"model": reward.RewardModel(gpt), "missing_end_score": -3.0}
    checkpoint.save(folder / "rm", "rm", *common, **parts)
    for stage, name in (("ppo", "policy"), ("rm", "rm")):
        CHECKPOINTS[stage] = (folder / name / "checkpoint.pt").read_bytes()
    HUGGING_FACE = folder / "hugging_face"
    gpt2.save_gpt2(gpt, HUGGING_FACE)
    tensors = {name: x.contiguous() for name, x in gpt2.their_view(gpt).items()}
    torch.save(tensors, HUGGING_FACE / "pytorch_model.bin")


# ---- one input, and all of them


class Hang(BaseException):
    pass


def outcome(reader, seed, folder):
    """What one input led to: "record", "refused", or a text that says what was wrong."""

    def stop(number, frame):
        raise Hang

    errors = io.StringIO()
    timers = (
        (signal.SIGPROF, signal.ITIMER_PROF, SECONDS),
        (signal.SIGALRM, signal.ITIMER_REAL, WAIT),
    )
    previous = [signal.signal(number, stop) for number, *_ in timers]
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            reader(random.Random(seed), folder)
        return "record"
    except InputError as error:
        return verdict(str(error))
    except SystemExit:
        return verdict(errors.getvalue().rstrip("\n"))
    except Hang:
        return f"more than {SECONDS} seconds of the processor, or {WAIT} of waiting"
    except BaseException as error:  # a panic of tiktoken's is no Exception
        return f"{type(error).__name__}: {error}"
    finally:
        for (number, timer, _), handler in zip(timers, previous, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def verdict(message):
    if len(message) > 1000 or not message or not message.isprintable():
        return f"a message that is not one line of up to 1,000 characters: {message!r:.300}"
    return "refused"


def fuzz(name, inputs, seed, base):
    """{"record": n, "refused": n} of a reader, and [(seed, what was wrong)]."""
    reader, _ = READERS[name]
    counts, failures = {"record": 0, "refused": 0}, []
    for number in range(inputs):
        folder = Path(base) / "input"
        folder.mkdir()
        key = f"{seed}-{name}-{number}"
        result = outcome(reader, key, folder)
        if result in counts:
            counts[result] += 1
        else:
            failures.append((key, result))
        shutil.rmtree(folder)
    return counts, failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=tuple(READERS))
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_DATA, (2 * MEMORY, 2 * MEMORY))
    torch.set_num_threads(1)
    names = [args.only] if args.only else list(READERS)
    shares = sum(READERS[name][1] for name in names)
    total = failed = 0
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as base:
        prepare(Path(base) / "whole")
        for name in names:
            start = time.perf_counter()
            inputs = args.inputs * READERS[name][1] // shares
            counts, failures = fuzz(name, inputs, args.seed, base)
            seconds = time.perf_counter() - start
            print(f"{name}: {inputs} inputs, {counts}, {len(failures)} wrong, {seconds:.0f} s")
            for key, result in failures[:10]:
                print(f"  {key}: {result:.300}")
            total, failed = total + inputs, failed + len(failures)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{total} inputs, {failed} wrong; {peak / 2**20:.0f} MB of memory at most")
    sys.exit(1 if failed or peak > MEMORY else 0)


if __name__ == "__main__":
    main()
