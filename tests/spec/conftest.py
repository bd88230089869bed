"""The sentences of this folder can be held against any implementation:

    python -m pytest tests/spec                       minirlhf itself
    python -m pytest tests/spec --impl my_adapter.py  your implementation

An adapter is a Python file that defines whichever of NAMES the implementation offers, with the
signatures of minirlhf, whose docstrings state inputs and outputs; test_ppo_trace.py describes
`trace`. A sentence about a missing function counts as not offered, never as passed. So does a call
that raises NotImplementedError, for an argument that the implementation cannot take.
"""

import importlib.util
from collections import defaultdict
from pathlib import Path

import pytest

from spec.sentences import TOPICS

NAMES = (
    "masked_mean",
    "masked_var",
    "whiten",
    "kl_k3",
    "token_rewards",
    "gae",
    "policy_loss",
    "value_loss",
    "AdaptiveKL",
    "missing_end_rule",
    "preference_loss",
    "ranking_loss",
    "margins",
    "calibration_error",
    "dpo_loss",
    "ipo_loss",
    "kto_loss",
    "kto_reference_point",
    "simpo_loss",
    "orpo_loss",
    "ordinal_loss",
    "flag_loss",
    "group_advantages",
    "token_weights",
    "score_difference",
    "combine",
    "disagreement",
    "win_rate",
    "redistribute",
    "shaping",
    "soft_preference_loss",
    "both_orders",
    "rating",
    "trace",
)
MINIRLHF = Path(__file__).parent / "adapters" / "minirlhf.py"
VERDICTS = {"failed": "DOES NOT HOLD", "passed": "holds", "skipped": "not offered"}


def load(path):
    """A Python file as a module, whatever its name and folder."""
    names = ", ".join(NAMES)
    if not Path(path).is_file():
        raise pytest.UsageError(f"--impl {path}: there is no such file; define any of: {names}")
    description = importlib.util.spec_from_file_location("implementation", path)
    module = importlib.util.module_from_spec(description)
    try:
        description.loader.exec_module(module)
    except ImportError as error:
        remedy = "run this with the Python that has it installed"
        raise pytest.UsageError(f"--impl {path}: {error}; {remedy}") from error
    if not set(NAMES) & set(vars(module)):
        problem = "defines nothing that could be tested"
        raise pytest.UsageError(f"--impl {path} {problem}; it may define: {names}")
    return module


def pytest_configure(config):
    """Loads the adapter here, so that an unreadable one is one line, not an error of each test."""
    config.implementation = load(config.getoption("--impl") or MINIRLHF)


@pytest.fixture(scope="session")
def implementation(pytestconfig):
    return pytestconfig.implementation


def fixture_for(name):
    def offered(implementation):
        return getattr(implementation, name, None) or pytest.skip("not offered")

    return pytest.fixture(offered, scope="session", name=name)


for name in NAMES:  # the arguments of a test are the functions that it is about
    globals()[f"fixture_{name}"] = fixture_for(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except NotImplementedError as error:
        pytest.skip(f"not offered: {error}")


# ---- the report by sentence


def pytest_itemcollected(item):
    """Id and claim travel with the reports, and into --junitxml."""
    sentence = getattr(item.function, "sentence", None)
    if sentence:
        item.user_properties += [("id", sentence.id), ("claim", sentence.claim)]


def pytest_terminal_summary(terminalreporter, config):
    """With --impl: the verdict on each sentence, by topic, and of which cases it is the verdict."""
    if not config.getoption("--impl"):
        return
    cases = defaultdict(lambda: defaultdict(list))  # (id, claim) -> outcome -> parameters
    for outcome in VERDICTS:
        for report in terminalreporter.stats.get(outcome, []):
            properties = dict(report.user_properties)
            if "id" in properties:
                parameters = report.nodeid.partition("[")[2].removesuffix("]")
                cases[properties["id"], properties["claim"]][outcome].append(parameters)
    count = dict.fromkeys(("passed", "failed", "skipped"), 0)
    for prefix, topic in TOPICS.items():
        verdicts = sorted(key for key in cases if key[0].startswith(f"{prefix}-"))
        if verdicts:
            terminalreporter.section(topic)
        for key in verdicts:
            outcome = next(outcome for outcome in VERDICTS if outcome in cases[key])
            count[outcome] += 1
            terminalreporter.line(report_line(*key, outcome, cases[key]))
    totals = ", ".join(f"{n} {VERDICTS[outcome].lower()}" for outcome, n in count.items())
    terminalreporter.section(f"{config.getoption('--impl')}: {totals}")


def report_line(identifier, claim, outcome, outcomes):
    """One line of the report. Where the cases of a sentence differ, it names those it is about."""
    partial = len(outcomes) > 1 and outcome != "skipped"
    some = f" (with {', '.join(outcomes[outcome])})" if partial else ""
    return f"{VERDICTS[outcome]:13s}  {identifier:9s}  {claim}{some}"
