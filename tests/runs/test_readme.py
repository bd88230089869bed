"""The README is run, not believed: its commands, the names in its tables, its metrics."""

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

from minirlhf.formats import jsonl
from minirlhf.run.metrics import read_metrics

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TOY = {  # what makes each command small; everything else stays as the README has it
    "train_sft": "--documents 64 --demonstrations 64 --held-out 8 --context 96 --tokenizer tiny --max-new-tokens 6",
    "train_rm": "--prompts 12 --held-out 6 --norm-prompts 4 --max-new-tokens 6",
    "train_ppo": "--updates 2 --batch-size 8 --epochs 1 --minibatches 2 --held-out 6 --eval-every 2 --max-new-tokens 6",
    "minirlhf.evaluate": "--prompts 6 --best-of 2 --max-new-tokens 6",
    "minirlhf.report": "--prompts 10 --best-of 4 --max-new-tokens 4",
    "minirlhf.gates": "--prompts 8 --best-of 2 --max-new-tokens 4",
    "minirlhf.dpo": "--batch-size 8",
    "minirlhf.scaling": "--rollouts 2 --new-tokens 4 --runs 1",
    "minirlhf.world": "",
}


def commands():
    """[module, arguments] of every `python ...` the README shows, in its order."""
    blocks = re.split(
        r"^```(\w*)$", README, flags=re.M
    )  # text, language, block, "", text, language, block, ...
    plain = "\n".join(
        block for language, block in zip(blocks[1::4], blocks[2::4], strict=True) if not language
    )
    shown = re.findall(r"^(?:\.venv/bin/)?python (?:-m )?(\S+?)(?:\.py)?( .*)?$", plain, re.M)
    inline = re.findall(r"`python -m (minirlhf\.\w+)( [^`]*)?`", README)
    return [(module, shlex.split(arguments)) for module, arguments in shown + inline]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder in which every command of the README has been run once, at toy size, with the files it speaks of."""
    folder = tmp_path_factory.mktemp("readme")
    records = README.split("```json\n")[1].split("```")[0].splitlines()
    (folder / "demonstrations.jsonl").write_text("\n".join([records[0]] * 20))
    (folder / "comparisons.jsonl").write_text("\n".join(records[1:4] * 10))
    (folder / "prompts.jsonl").write_text("\n".join([records[4]] * 20))
    (folder / "hh-harmless-train.jsonl.gz").write_text("\n".join([records[3]] * 20))
    (folder / "my_rewards.py").write_text(README.split("```python\n")[1].split("```")[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        for module, arguments in commands():
            if module in TOY and "--help" not in arguments:
                importlib.import_module(module).main([*arguments, *shlex.split(TOY[module])])
    return folder


def test_every_command_of_the_readme_runs(workplace):
    """In order, offline, at toy size. minChatGPT's fourth step cannot run, and its fifth names the wrong script (README.md:58;
    train_rm.py:78)."""
    assert {module for module, _ in commands()} - {"venv"} == set(TOY)
    for stage in (
        "pretrain",
        "sft",
        "rm",
        "ppo",
        "dpo",
        "mine/sft",
        "mine/rm",
        "mine/ppo",
        "hh/sft",
        "hh/rm",
        "hh/ppo",
    ):
        assert (workplace / "out" / stage / "checkpoint.pt").exists(), stage


def test_every_make_target_of_the_readme_exists():
    """The first thing that a newcomer types."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    named = {
        first or second for first, second in re.findall(r"^make (\w+)|`make (\w+)`", README, re.M)
    }
    assert {"demo", "results", "spec"} <= named <= set(targets)
    assert {"demo", "test", "lint"} <= set(targets)


def test_every_detail_names_code_and_a_test_that_exist():
    """A row of the table is a promise: this function decides, that test fails when the decision is unmade."""
    rows = re.findall(r"^\|.*\| `([\w.]+)` \| `((?:spec/)?test_\w+)::(test_\w+)` \|$", README, re.M)
    assert len(rows) >= 25
    for code, file, test in rows:
        module, _, name = code.partition(".")
        found = importlib.import_module(
            module if module.startswith("train_") else "minirlhf." + module
        )
        for part in name.split("."):
            found = getattr(found, part)
        assert f"def {test}(" in (ROOT / "tests" / f"{file}.py").read_text(), f"{file}::{test}"


def test_the_glossary_explains_every_metric_of_ppo_and_no_other(workplace):
    """trl's users asked for years what a number meant (TRL 2023, 2022); a metric without a line here must not be logged."""
    logged = set().union(*read_metrics(workplace / "out" / "ppo")) - {"step"}
    section = README.split("## Metrics")[1].split("\n## ")[0]
    explained = {
        name
        for row in re.findall(r"^\| (`.*?) \|", section, re.M)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert explained == logged


def test_the_record_formats_of_the_readme_are_what_the_readers_read():
    """Each by the reader of its kind: a demonstration, three comparisons, a prompt."""
    lines = [json.loads(line) for line in README.split("```json\n")[1].split("```")[0].splitlines()]
    readers = (
        jsonl.demonstration,
        jsonl.comparison,
        jsonl.comparison,
        jsonl.comparison,
        jsonl.prompt,
    )
    for reader, line in zip(readers, lines, strict=True):
        assert reader(line), line


def test_the_reading_order_of_the_readme_is_that_of_the_package():
    """A newcomer reads top to bottom and never meets a name that has not been explained."""
    package = importlib.import_module("minirlhf").__doc__
    section = README.split("## Reading order")[1].split("\n## ")[0]
    order = re.findall(r"`minirlhf/(\w+)\.py`", section)
    assert order == [name for name in re.findall(r"\w+", package.split("\n\n")[1].split(".")[0])]
