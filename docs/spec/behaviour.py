"""docs/BEHAVIOUR.md: what minirlhf itself promises, in the names of its tests."""

import ast
import re

from sources import PORTABLE, ROOT, all_test_files, one_line, read_tests, tree

READING_ORDER = (  # a file that is not listed comes after these, by its name
    *("config", "tokenizer", "model", "fast", "generate", "data", "rows", "reward", "ppo"),
    *("invariances", "dpo", "grpo", "evaluate", "checkpoint", "metrics", "gpt2", "world"),
    *("train_sft", "train_rm", "train_ppo"),
)
WORDS = {
    word.lower(): word
    for word in "KL GAE PPO DPO GRPO SFT RLHF CDF README UTF8 HH GPU CUDA JSON Bradley Terry "
    "Plackett Luce Hugging Face".split()
}
OWNERS = (  # a name has no apostrophe
    r"\b(loop|loss|minibatch|numpy|tiktoken|python|policy|world|gpt2)s\b",
    r"\b(row|head|response|model|prompt|animal|judge|user)s"
    r"(?= (end|weights|logprob|distribution|own|name|normalised|accuracy|total|samples|is)\b)",
)
INTRODUCTION = """\
# The behaviour of minirlhf

What the package and its scripts promise beyond the [specification](SPEC.md): {tests} tests, by \
file. Each line is the name of a test as a sentence, and the beginning of its reason; the test \
itself has the rest. A line that becomes false fails `make test`."""


def sentence(name):
    """test_kl_is_zero -> KL is zero"""
    text = name.removeprefix("test_").replace("_", " ")
    for owner in OWNERS:
        text = re.sub(owner, r"\1's", text)
    text = re.sub(r"\w+", lambda word: WORDS.get(word[0], word[0]), text).replace("gpt2", "GPT-2")
    return text[0].upper() + text[1:]


def beginning(text, limit=120):
    """Whole sentences of a text, at least one, up to a number of characters."""
    first, *rest = re.split(r"(?<=[.:!?]) (?=[A-Z\"`\d])", text)
    for part in rest:
        if len(first) + len(part) > limit:
            break
        first += f" {part}"
    return first


def files():
    """The test files outside tests/spec, in reading order."""
    paths = [path for path in all_test_files() if PORTABLE not in path.parents]
    return sorted(paths, key=lambda path: (position(path.stem), path.stem))


def position(stem):
    name = stem.removeprefix("test_")
    return READING_ORDER.index(name) if name in READING_ORDER else len(READING_ORDER)


def chapter(path):
    file = path.relative_to(ROOT).as_posix()
    yield f"## {path.stem}"
    yield f"[`{file}`](../{file}). {beginning(one_line(ast.get_docstring(tree(path))))}".strip()
    lines = (f"- **{sentence(test.name)}.** {beginning(test.reason)}" for test in read_tests(path))
    yield "\n".join(line.strip() for line in lines)


def document():
    """All of docs/BEHAVIOUR.md."""
    count = sum(len(read_tests(path)) for path in files())
    parts = [INTRODUCTION.format(tests=count)]
    parts.append("\n".join(f"- [{path.stem}](#{path.stem})" for path in files()))
    for path in files():
        parts += chapter(path)
    return "\n\n".join(parts) + "\n"
