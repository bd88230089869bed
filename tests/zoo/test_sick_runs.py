"""The runs that the doctor is tried on fit the zoo, the doctor and docs/seeing.md as they are."""

from pathlib import Path

from sick_runs import HEALTHY, LOOSE, MISTAKES, RUNS, folder_of
from zoo import ZOO

from minirlhf.run import health
from minirlhf.tools import doctor

PAGE = Path(__file__).parents[2] / "docs" / "seeing.md"


def test_every_animal_that_is_let_loose_is_in_the_zoo():
    """One that was renamed would run healthy, and be told apart from nothing."""
    names = {animal.name for animal in ZOO}
    assert {run.name for run in LOOSE} <= names and len(LOOSE) > 40
    assert not {run.name for run in HEALTHY + MISTAKES} & names
    assert len({folder_of(run, "") for run in RUNS}) == len(RUNS)


def test_the_cause_of_a_run_is_a_rule_or_a_sign():
    rules = {rule.name for rule in doctor.RULES + doctor.TOKEN_RULES}
    rules |= {sign.__name__ for sign in health.SIGNS}
    assert {run.rule for run in RUNS} <= rules | {""}


def test_the_table_in_the_docs_has_every_run_and_its_sums_are_right():
    """The table is what sick_runs.py printed."""
    text = PAGE.read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.endswith(" |")]
    rows = [row for row in rows if row[-1] in ("yes", "no") or row[0] == "healthy"]
    healthy = [row for row in rows if row[0] == "healthy"]
    assert [row[0] for row in rows[len(healthy) :]] == [run.name for run in MISTAKES + LOOSE]
    assert len(healthy) == len(HEALTHY) == 12 and all("nothing" in row for row in healthy)
    mistakes, animals = rows[12 : 12 + len(MISTAKES)], rows[12 + len(MISTAKES) :]
    assert all(row[-1] == "yes" for row in mistakes) and len(mistakes) == 12
    told = sum(row[-1] == "yes" for row in animals)
    assert f"twelve mistakes in the flags, and of {told} of {len(animals)} animals" in text
