"""README and docs are run, not believed: their commands, links, flags, metrics and numbers."""

import dataclasses
import functools
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import minirlhf
from minirlhf import model
from minirlhf.__main__ import COMMANDS
from minirlhf.data import Comparison
from minirlhf.feedback import agreement
from minirlhf.formats import forms, gpt2, rows, turns
from minirlhf.run import config
from minirlhf.run.metrics import read_metrics
from minirlhf.tokenizer import get_tokenizer
from minirlhf.world import measures

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
sys.path.insert(0, str(ROOT / "docs" / "spec"))

from readme import code_lines  # noqa: E402

DOCS = [ROOT / "docs" / f"{name}.md" for name in ("data", "metrics", "results", "speed")]
EXPERIMENTS = ROOT / "docs" / "experiments.md"  # its commands are of their day and are not run
PROMISES = ROOT / "docs" / "promises.md"
SEEING = ROOT / "docs" / "seeing.md"
MODELS = ROOT / "docs" / "models.md"
EXCHANGE = "## In and out of Hugging Face"  # of models.md; what stands before it has its own tests
FEEDBACK = ROOT / "docs" / "feedback.md"
MORE = ("methods", "distributed", "lora", "memory", "gpu", "beyond")
PAGES = [README, *DOCS, SEEING, MODELS, FEEDBACK, EXPERIMENTS, PROMISES]
PAGES += [ROOT / "docs" / f"{name}.md" for name in MORE]
SCRIPTS = ("train_sft", "train_rm", "train_ppo")
SECTIONS = [
    "Reading order",
    "The three stages",
    "Your own data, GPT-2, your own reward",
    "People, models, runs",
    "Check your own RLHF",
    "Speed",
    "What is not here",
    "Sources",
]
TOY = {  # what makes each command small; everything else stays as the page has it
    "sft": "--held-out 8 --tokenizer tiny --max-new-tokens 6",
    "rm": "--held-out 6 --norm-prompts 4 --max-new-tokens 6",
    "ppo": "--updates 2 --batch-size 8 --epochs 1 --minibatches 2 --held-out 6 --eval-every 2 "
    "--max-new-tokens 6",
    "dpo": "--batch-size 8",
    "evaluate": "--prompts 6 --best-of 2 --max-new-tokens 6",
    "report": "--prompts 10 --best-of 4 --max-new-tokens 4",
    "gates": "--prompts 8 --best-of 2 --max-new-tokens 4",
    "scaling": "--rollouts 2 --new-tokens 4 --runs 1",
    "world": "",
    "page": "",
    "doctor": "",
    "formats": "",
    "convert": "",
    "export": "",
    "import": "",
    "sample": "--prompts 3 --max-new-tokens 4",
}
WITHOUT = {  # and without a flag, since nobody reads these beside it
    ("sft", "--data"): "--documents 64 --demonstrations 64",
    ("sft", "--init"): "--context 96",
    ("rm", "--data"): "--prompts 12",
}
# They ask a person, or for a file: a sentence that only names them has nothing to run.
NAMED = {"label", "web", "chat", "taste", "convert", "evaluate-rm", "export", "import"}
# These have tests of their own: here their flags are read.
LONG = {"demo", "bench", "trl", "results", "methods", "overoptimisation", "memory", "rounds", "ai"}
LONG |= {"rejection", "demonstrations", "meta", "rewards", "choice", "judgements"}
FOREIGN = {
    "--logdir",
    "--stages",  # of tests/faults/faults.py
    "--impl",
    "--constraint",
    "--editable",
    "--branch",
    "--source",
    "--help",
    "--compile",
    *("--standalone", "--nnodes", "--node-rank", "--nproc-per-node"),  # of torchrun
    *("--master-addr", "--master-port"),
    *("--model", "--dataset", "--load", "--not", "--torch"),  # of rewardbench, to the underscore
}


# ---- what the pages show


def parts(page, start=""):
    """[(language, text)] of a page in order, from a heading on. The language of prose is None, that
    of a block without one is ""."""
    text = page.read_text()
    text = text[text.index(start) :]
    pieces = re.split(r"^```(\w*)\n(.*?)^```$", text, flags=re.M | re.S)
    blocks = zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True)
    return [(None, pieces[0])] + [
        part for language, block, prose in blocks for part in ((language, block), (None, prose))
    ]


def blocks(page, language, start=""):
    return [text for own, text in parts(page, start) if own == language]


def prose(page):
    return "".join(blocks(page, None))


def commands():
    """Every command line that the README and the docs show, once, in order: lines of a block
    without a language, and code within a sentence."""
    lines = []
    for page in (README, *DOCS, SEEING, MODELS):
        for language, text in parts(page, EXCHANGE if page == MODELS else ""):
            if language is None:
                lines += re.findall(r"`((?:python|minirlhf) [^`]+)`", text)
            elif not language:
                lines += re.findall(r"^(?:python|minirlhf) .*$", text, re.M)
    return list(dict.fromkeys(lines))


def command(line):
    """`python train_sft.py --seed 1` and `minirlhf sft --seed 1` -> ("sft", ["--seed", "1"])."""
    first, name, *arguments = shlex.split(line, comments=True)
    if (first, name) == ("python", "-m"):
        first, name, *arguments = arguments if arguments[0] == "minirlhf" else ("", *arguments)
    return (name.removeprefix("train_").removesuffix(".py") if name else name), arguments


def toy(name, arguments):
    lacking = [words for (x, flag), words in WITHOUT.items() if x == name and flag not in arguments]
    return shlex.split(" ".join([TOY[name], *lacking]))


def run(line):
    name, arguments = command(line)
    module = importlib.import_module(COMMANDS[name].module)
    if name in NAMED and not arguments:
        return
    if name in LONG:
        config.parse(module.Config, arguments)
        return
    try:
        module.main([*arguments, *toy(name, arguments)])
    except SystemExit as stop:  # a gate says by its exit code whether it passes: a toy may not
        assert name == "gates" and stop.code in (0, 1), line


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder in which every command has been run once, at toy size, with the files it names."""
    folder = tmp_path_factory.mktemp("readme")
    lines = blocks(ROOT / "docs" / "data.md", "json")[0].splitlines()
    (folder / "demonstrations.jsonl").write_text("\n".join(lines[:2] * 10))
    (folder / "comparisons.jsonl").write_text("\n".join(lines[2:5] * 10))
    (folder / "prompts.jsonl").write_text("\n".join(lines[5:] * 20))
    labels = [text for text in blocks(ROOT / "docs" / "data.md", "jsonl") if '"label"' in text][-1]
    (folder / "labelled.jsonl").write_text(labels * 10)
    (folder / "questions.csv").write_text(blocks(ROOT / "docs" / "data.md", "csv")[0])
    dialogues = [lines[4].replace("a colour", f"colour {i}") for i in range(20)]
    (folder / "hh-harmless-train.jsonl.gz").write_text("\n".join(dialogues))
    vocab_size = get_tokenizer("tiny").vocab_size
    gpt2.save_gpt2(model.GPT(model.GPTConfig(vocab_size, 96, 1, 1, 16)), folder / "gpt2-folder")
    code = [text for page in (README, *DOCS) for text in blocks(page, "python")]
    code += blocks(MODELS, "python", EXCHANGE)
    for text in code:
        if name := re.match(r"# (\w+\.py)", text):
            (folder / name[1]).write_text(text)
    own = "from minirlhf import ppo\n\n\ndef advantages(*batch):\n    return ppo.gae(*batch)[0]\n"
    (folder / "my_rlhf.py").write_text(own)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setitem(model.SIZES, "nano", (2, 2, 32))
        few = functools.partial(few_contrasts, measures.contrasts)
        patch.setattr(measures, "contrasts", few)
        for line in commands():
            if "pytest" not in line:
                run(line)
        for text in code:
            # The loop of one's own starts from the demonstration, and has a test below.
            if not re.match(r"# \w+\.py", text) and "out/demo/" not in text:
                exec(compile(text, "a page of the docs", "exec"), {})
    return folder


def few_contrasts(contrasts, n, rng):
    return contrasts(min(n, 16), rng)  # a thousand take longer than everything else together


# ---- commands, files, flags


def test_every_command_of_the_readme_and_the_docs_runs(workplace):
    """In order, offline, at toy size. minChatGPT's fourth step cannot run, and its fifth names the
    wrong script (README.md:58; train_rm.py:78)."""
    assert {command(line)[0] for line in commands()} - LONG - NAMED - {"pytest"} == set(TOY) - NAMED
    for out in ("", "mine/", "hh/"):
        for stage in ("sft", "rm", "ppo"):
            assert (workplace / "out" / out / stage / "checkpoint.pt").exists(), out + stage
    for stage in ("pretrain", "dpo", "mine/dpo", "gpt2/sft", "brevity/ppo", "on-judge/ppo"):
        assert (workplace / "out" / stage / "checkpoint.pt").exists(), stage
    assert (workplace / "exported" / "config.json").exists()


def test_the_adapter_of_the_readme_can_be_held_against_the_specification(workplace):
    """With a right implementation behind it what it offers holds. The first example did not: its
    returns were the values of the padding outside the mask, and must be zero there."""
    shown = [line for line in commands() if "pytest" in line]
    assert shown == ["python -m pytest tests/spec --impl my_adapter.py"]
    adapter = str(workplace / "my_adapter.py")
    words = [adapter if word == "my_adapter.py" else word for word in shown[0].split()[1:]]
    paths = os.pathsep.join([str(workplace), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "not offered" in done.stdout and "holds" in done.stdout


def test_every_make_target_of_the_readme_and_the_docs_exists():
    """The first thing that a newcomer types."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    named = {
        name
        for page in PAGES
        for name in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.M)
    }
    assert {"demo", "test", "results", "bench", "trl", "mutants"} <= named <= set(targets)


def test_every_flag_of_the_readme_and_the_docs_is_one_of_a_command():
    """A flag that was renamed is found in the prose, too."""
    known = {"--out"} | FOREIGN
    for entry in COMMANDS.values():
        own = dataclasses.fields(importlib.import_module(entry.module).Config)
        known |= {config.option(field) for field in own}
    for page in PAGES:
        if page.stem == "beyond":  # names the flags of other engines beside ours
            continue
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page.read_text()))
        assert named <= known, page.name


def test_every_extra_of_the_readme_and_the_docs_exists():
    """pip only warns of an extra that there is none of."""
    declared = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1]
    extras = set(re.findall(r"^(\w+) = \[", declared.split("\n[")[0], re.M))
    named = {name for page in PAGES for name in re.findall(r"\.\[(\w+)\]", page.read_text())}
    assert named and named <= extras


# ---- the first screen, and the order of the rest


def test_the_readme_has_at_most_ten_kilobytes():
    """It had 41 once, and its first command stood in line 71."""
    assert README.stat().st_size <= 10_240


def test_installing_and_the_demonstration_stand_in_the_first_fifteen_lines():
    """One screen to a result."""
    first = "\n".join(README.read_text().splitlines()[:15])
    assert "pip install --constraint requirements.txt --editable ." in first
    assert "\nmake demo" in first


def test_the_sections_of_the_readme_come_in_the_order_in_which_a_newcomer_asks():
    """First what comes out of it, with the figure; then where to read."""
    text = prose(README)
    assert re.findall(r"^## (.*)$", text, re.M) == SECTIONS
    assert text.index("figures/overoptimisation.png") < text.index(f"## {SECTIONS[0]}")


# ---- links


def slug(heading):
    """The anchor that GitHub gives a heading."""
    heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page):
    text = prose(page)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return set(map(slug, headings)) | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))


def test_each_promise_has_a_test_of_its_name():
    """A promise whose test was renamed or removed is no promise."""
    rows = [line for line in PROMISES.read_text(encoding="utf-8").splitlines() if "| `" in line]
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[2])]
    code = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py"))
    missing = [name for name in names if f"def test_{name}(" not in code]
    assert len(names) > 25 and missing == []


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_every_link_leads_to_a_file_and_an_anchor_that_exist(page):
    """Images too. Addresses outside the repository are not asked."""
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    assert links
    for link in links:
        if not re.match(r"\w+:", link):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_the_readme_leads_to_every_page_of_the_docs():
    """A page without a link is a page that nobody reads."""
    text = README.read_text()
    for page in [*DOCS, EXPERIMENTS, ROOT / "docs" / "SPEC.md"]:
        assert f"](docs/{page.name}" in text, page.name


# ---- numbers and names


def reading_order():
    """{path: lines of code} of the table."""
    section = README.read_text().split("## Reading order")[1].split("\n## ")[0]
    rows = re.findall(r"^\| \[`[\w.]+`\]\(([\w./]+)\) \| .* \| ([\d,]+) \|$", section, re.M)
    return {path: int(lines.replace(",", "")) for path, lines in rows}


def test_the_reading_order_is_the_method():
    """The flat modules and the three scripts, each once: all that a reader needs, and no more."""
    flat = {f"minirlhf/{path.name}" for path in (ROOT / "minirlhf").glob("*.py")}
    flat -= {"minirlhf/__init__.py", "minirlhf/__main__.py"}
    assert set(reading_order()) == flat | {f"{script}.py" for script in SCRIPTS}


def test_the_reading_order_is_that_of_the_package():
    """One order in both places. fast.py stands beside what it makes quick, and can be skipped."""
    shown = [Path(path).stem for path in reading_order() if path.startswith("minirlhf/")]
    words = dict.fromkeys(re.findall(r"\w+", minirlhf.__doc__))
    assert [name for name in shown if name != "fast"] == [
        word for word in words if word in shown and word != "fast"
    ]


def test_the_lines_of_code_of_the_reading_order_are_those_of_the_files():
    """Where this fails, `make spec` writes the numbers into the README."""
    counted = {path: code_lines(ROOT / path) for path in reading_order()}
    assert len(counted) == 14
    assert reading_order() == counted, "the README is out of date: make spec"
    assert f" {sum(counted.values()):,} in these files" in README.read_text()


def test_lines_of_code_are_counted_without_blank_lines_comments_and_docstrings(tmp_path):
    """Three lines of `x`, one of `def`, two of the text that is returned."""
    path = tmp_path / "example.py"
    function = 'def f():\n    """None."""\n    # none\n    return """\na"""\n'
    path.write_text('"""Two\nlines."""\n\nx = (  # one\n    1\n)\n\n\n' + function)
    assert code_lines(path) == 3 + 1 + 2


def test_the_readme_counts_sentences_and_libraries_as_the_specification_does():
    """SPEC.md is generated, the README is not."""
    specification = (ROOT / "docs" / "SPEC.md").read_text()
    count = re.search(r"in (\d+) sentences", specification)[1]
    assert f"in {count} sentences" in README.read_text()
    row = r"^\| (?:minirlhf|TRL|torchtune|OpenRLHF) [\d.]+ \| \d+ \| \d+ \| \d+ \|$"
    rows = re.findall(row, README.read_text(), re.M)
    assert len(rows) == 4 and rows == re.findall(row, specification, re.M)


@pytest.mark.parametrize(
    ("title", "stages"),
    [
        ("PPO", ["ppo"]),
        ("SFT", ["pretrain", "sft"]),
        ("Reward model", ["rm", "hh/rm"]),
        ("DPO", ["dpo"]),
    ],
)
def test_the_glossary_explains_every_metric_of_a_stage_and_no_other(workplace, title, stages):
    """trl's users asked for years what a number meant (TRL 2023, 2022); a metric without a line
    here must not be logged."""
    logged = {
        name
        for stage in stages
        for line in read_metrics(workplace / "out" / stage)
        for name in line
    }
    if "rm" in stages:  # some of its measures need responses that the judge tells apart
        pair = [Comparison("prompt", ["better", "worse"], [0, 1])]
        logged |= set(agreement.ranking_numbers(pair, [[1.0, 0.0]], [[3.0, 0.0]]))
    text = (ROOT / "docs" / "metrics.md").read_text()
    section = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.M)
    explained = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert set(explained) == logged - {"step"}
    assert len(explained) == len(set(explained))


@pytest.mark.parametrize(
    ("page", "kinds"),
    [
        (README, "demonstration comparison prompt"),
        (
            ROOT / "docs" / "data.md",
            "demonstration demonstration comparison comparison comparison prompt",
        ),
    ],
    ids=["README", "data"],
)
def test_the_record_formats_shown_are_what_the_readers_read(page, kinds):
    """Each by the reader of its kind."""
    lines = blocks(page, "json")[0].splitlines()
    for kind, line in zip(kinds.split(), lines, strict=True):
        (judged,) = forms.judged(json.loads(line))
        assert getattr(rows, kind)(judged, turns.TEMPLATES["hh"]), line


def test_the_loop_of_ones_own_raises_its_reward(colour_run, capsys):
    """The code of docs/data.md as it stands there, on a model that has learned to name one of three
    colours, each in a third of its responses: the reward is for "b"."""
    (code,) = [
        text for text in blocks(ROOT / "docs" / "data.md", "python") if "for step in" in text
    ]
    for old, new in (
        ("out/demo/sft", str(colour_run / "sft")),
        ("What is the capital of Peru?", "Pick a colour, number 1."),
        ("Lima", "b"),
        ("prompts, 32,", "prompts, 6,"),  # the model's context is 32
    ):
        assert old in code
        code = code.replace(old, new)
    exec(code, {})
    shares = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(shares) == 15 and shares[0] < 0.6 and min(shares[-3:]) > 0.9
