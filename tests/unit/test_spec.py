"""The specification as a document: ids that last, complete details and verdicts, links that lead
somewhere; and tests/spec as a kit for somebody else's implementation."""

import re
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

ROOT = next(folder for folder in Path(__file__).parents if (folder / "docs" / "spec").is_dir())
sys.path.insert(0, str(ROOT / "docs" / "spec"))

import behaviour  # noqa: E402
import measure  # noqa: E402
import sources  # noqa: E402
import specification  # noqa: E402
import write  # noqa: E402
from details import DETAILS  # noqa: E402
from sources import (  # noqa: E402
    PORTABLE,
    TOPICS,
    id_problems,
    listed_ids,
    portable_tests,
    read_tests,
)

IN_ORDER = sorted((x for details in DETAILS.values() for x in details), key=lambda x: x.number)

# ---- ids


def test_every_portable_test_declares_its_sentence():
    """A test of the kit without an id could not be cited, and would be missing in the report."""
    names = [test.name for path in PORTABLE.glob("test_*.py") for test in read_tests(path)]
    assert sorted(names) == sorted(test.name for test in portable_tests())


def test_the_ids_are_unique_well_formed_and_lasting():
    """No id is used twice, no retired one again, and none that was published has disappeared."""
    ids = [test.sentence.id for test in portable_tests()]
    assert id_problems(ids, listed_ids("published_ids.txt"), listed_ids("retired_ids.txt")) == []


@pytest.mark.parametrize(
    ("ids", "published", "retired", "problem"),
    [
        (["KL-01", "KL-01"], ["KL-01"], [], "KL-01 is declared by several tests"),
        (["KL-1"], ["KL-1"], [], "KL-1 is not a topic and two digits"),
        (["NO-01"], ["NO-01"], [], "NO-01 is not a topic and two digits"),
        (["KL-01"], ["KL-01"], ["KL-01"], "KL-01 is retired, and used again"),
        ([], ["KL-01"], [], "KL-01 was published: retire it"),
        (["KL-01"], [], [], "KL-01 is not listed as published"),
        ([], [], ["KL-01"], "KL-01 is retired, but was not published"),
        (["KL-02"], ["KL-01", "KL-02"], ["KL-01"], None),
    ],
)
def test_every_abuse_of_an_id_is_reported(ids, published, retired, problem):
    """One problem each; the last case is a sentence that was retired properly."""
    assert id_problems(ids, published, retired) == ([problem] if problem else [])


def test_every_claim_is_a_sentence():
    """From a capital, or a name or symbol, to a full stop, in one line."""
    claims = [test.sentence.claim for test in portable_tests()]
    assert [claim for claim in claims if not re.fullmatch(r"[A-Z`kv].*\.", claim)] == []
    assert max(Counter(claims).values()) == 1


# ---- details, zoo, libraries


def test_the_details_are_seventy_four():
    """A number that is missing is a decision that is missing."""
    assert [detail.number for detail in IN_ORDER] == list(range(1, 75))
    assert set(DETAILS) <= set(TOPICS)


def test_every_detail_is_a_sentence_that_is_pinned_or_a_choice_that_is_explained():
    """What is neither tested nor chosen may change unnoticed."""
    for detail in IN_ORDER:
        assert detail.tests or detail.choice, detail.number
        assert re.fullmatch(r"[A-Z].*\.", detail.rule), detail.number
        assert re.fullmatch(r"|.*\.", detail.choice), detail.number


def test_every_test_that_a_detail_or_an_animal_names_exists_exactly_once():
    """A test that was renamed pins nothing. Of two with one name, either could be meant."""
    names = [name for detail in IN_ORDER for name in detail.tests]
    names += [animal.caught_by for animals in sources.zoo().values() for animal in animals]
    found = {name: len(sources.tests_by_name().get(name, [])) for name in names}
    assert {name: n for name, n in found.items() if n != 1} == {}


def test_every_group_of_the_zoo_has_topics():
    """Its animals would be listed at the end of the document, under no topic."""
    assert set(sources.zoo()) == set(specification.GROUPS)


def test_every_library_has_a_verdict_on_every_sentence():
    """A sentence that is new has to be measured: docs/spec/measure.py says how."""
    ids = {test.sentence.id for test in portable_tests()}
    for name, library in sources.libraries()["libraries"].items():
        verdicts = library["verdicts"]
        assert set(verdicts) == ids, name
        assert {x.partition(" (")[0] for x in verdicts.values()} <= set(measure.VERDICTS.values())


# ---- documents


@pytest.mark.parametrize("path", write.DOCUMENTS, ids=lambda path: path.name)
def test_a_document_is_what_the_tests_say_now(path):
    """After a change of a test, a detail or an animal: make spec."""
    expected = write.DOCUMENTS[path]()
    assert path.read_text(encoding="utf-8") == expected, f"{path.name} is out of date: make spec"


def anchors(text):
    return re.findall(r'<a id="([^"]+)"></a>', text)


def test_everything_that_can_be_cited_has_one_anchor():
    """Sentences, details and mistakes."""
    ids = [test.sentence.id for test in portable_tests()]
    ids += [f"detail-{detail.number}" for detail in IN_ORDER]
    ids += [specification.slug(x.name) for animals in sources.zoo().values() for x in animals]
    found = Counter(anchors(specification.document()))
    assert {name: found[name] for name in ids if found[name] != 1} == {}


@pytest.mark.parametrize("path", write.DOCUMENTS, ids=lambda path: path.name)
def test_every_link_of_a_document_leads_somewhere(path):
    """To an anchor or a heading of the same document, or to a file of the repository."""
    text = write.DOCUMENTS[path]()
    headings = [heading.lower() for heading in re.findall(r"^#+ (\S+)$", text, re.M)]
    targets = {f"#{name}" for name in anchors(text) + headings}
    links = set(re.findall(r"\]\(([^)]+)\)", text))
    assert {x for x in links if x.startswith("#")} <= targets
    assert all((path.parent / x).exists() for x in links if not x.startswith("#"))


def test_the_behaviour_lists_every_other_test_once():
    """None is lost because its file is new or lies in another folder."""
    names = [test.name for path in behaviour.files() for test in read_tests(path)]
    shown = re.findall(r"^- \*\*(.+?)\.\*\*", behaviour.document(), re.M)
    assert Counter(shown) == Counter(map(behaviour.sentence, names))
    assert len(names) + len(portable_tests()) == sum(
        map(len, map(read_tests, sources.all_test_files()))
    )


EXAMPLE = '''\
    """Of numbers."""

    PAIRS = [(1, "one|two"), (2, "two")]


    def helper(): ...


    @spec("KL-09", "Two " "lines.", formula="a; b", differs="somebody")
    @pytest.mark.parametrize("n", [1, 2.5])
    @pytest.mark.parametrize(("a", "b"), PAIRS)
    def test_the_loops_kl_is_zero(n, a, b):
        """Because
        it is."""


    @pytest.mark.parametrize(("a", "b"), PAIRS)
    @pytest.mark.parametrize("f", [math.sqrt])
    def test_a_is_named(a, b, f): ...
'''


def test_a_test_is_read_with_its_sentence_reason_and_cases(tmp_path):
    """A table is shown where it is used first; cases without a name are not shown."""
    (tmp_path / "test_example.py").write_text(textwrap.dedent(EXAMPLE))
    first, second = read_tests(tmp_path / "test_example.py")
    assert first.sentence == sources.Sentence("KL-09", "Two lines.", "a; b", "", "somebody")
    assert first.reason == "Because it is."
    assert first.tables == ("| a | b |\n| --- | --- |\n| 1 | one\\|two |\n| 2 | two |",)
    assert (second.name, second.sentence, second.tables) == ("test_a_is_named", None, ())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_k1_in_the_reward_is_the_kl_gradient", "K1 in the reward is the KL gradient"),
        ("test_the_policys_logprobs", "The policy's logprobs"),
        ("test_what_lies_right_of_a_rows_end", "What lies right of a row's end"),
    ],
)
def test_a_name_becomes_a_sentence(name, expected):
    """With capitals and apostrophes, which a name cannot have."""
    assert behaviour.sentence(name) == expected


def test_the_citation_has_the_version_of_the_package():
    """A citation of another version names other sentences."""
    version = re.compile(r'^version(?: = |: )"?([\d.]+)"?$', re.M)
    files = (ROOT / "CITATION.cff", ROOT / "pyproject.toml")
    citation, package = (version.findall(file.read_text(encoding="utf-8")) for file in files)
    assert citation == package and len(package) == 1
    assert sources.libraries()["libraries"]["minirlhf"]["version"] == package[0]


# ---- the kit, as somebody else uses it


def kit(adapter, folder, *options):
    """(exit code, output) of tests/spec with the text of an adapter; None: the file is missing."""
    path = folder / "my_adapter.py"
    if adapter is not None:
        path.write_text(adapter)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/spec"]
    command += ["--impl", str(path), *options]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return process.returncode, process.stdout + process.stderr


@pytest.mark.parametrize(
    ("adapter", "problem"),
    [
        (None, "there is no such file"),
        ("import my_rlhf", "No module named 'my_rlhf'"),
        ("whitening = 1", "defines nothing that could be tested"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_one_line(adapter, problem, tmp_path):
    """And not an error of every sentence."""
    code, output = kit(adapter, tmp_path)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert output.count("my_adapter.py") == 1 and problem in output and "Traceback" not in output


def test_the_report_names_id_claim_and_verdict_and_can_be_recorded(tmp_path):
    """k1 offered as k3: four sentences about k3 are false, and nothing is said of the rest."""
    xml = tmp_path / "report.xml"
    adapter = "def kl_k3(logprobs, ref_logprobs):\n    return logprobs - ref_logprobs\n"
    code, output = kit(adapter, tmp_path, "--junitxml", str(xml))
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "DOES NOT HOLD  KL-02      k3 is never negative." in output
    assert "not offered    ADV-02     By default γ is 1 and λ is 0.95." in output
    n = len(portable_tests()) - 4
    assert f"my_adapter.py: 0 holds, 4 does not hold, {n} not offered" in output
    verdicts = measure.verdicts(xml)
    assert [x for x in verdicts if verdicts[x] == "does not hold"] == [
        "KL-01",
        "KL-02",
        "KL-05",
        "KL-09",
    ]
    assert list(verdicts) == [test.sentence.id for test in portable_tests()]
