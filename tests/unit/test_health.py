"""The signs of a sick run: each appears at its threshold and not before it, and is said once."""

import math

import pytest

from minirlhf.run import health
from minirlhf.run.metrics import Metrics, read_metrics

PPO = {  # the last update of the demonstration
    **{"score": 1.24, "score_std": 1.0, "score_min": -3.0, "score_max": 2.5, "kl": 1.8},
    **{"length": 13.2, "ended": 0.99, "entropy": 0.17, "approx_kl": 0.001, "clip_fraction": 0.003},
    **{"policy_loss": -0.001, "loss": 0.005, "value_var": 0.3, "return_var": 0.4},
    **{"explained_variance": 0.73, "advantage_std": 0.35, "weight_rms": 0.143},
}
FIRST_PPO = PPO | {"score": -0.08, "score_std": 1.2, "score_max": 2.6, "kl": 0.0, "entropy": 0.33}
SFT = {"loss": 0.3, "grad_norm": 0.5, "lr": 1e-3, "weight_rms": 0.143}
RM = {"score_spread": 1.5}


def run(first, later, n=30, **sick):
    """The records of a run that is healthy, and sick from the step n / 2 on."""
    records = [first | {"step": 0}] + [later | {"step": step} for step in range(1, n)]
    return [record | (sick if record["step"] >= n / 2 else {}) for record in records]


HEALTHY = {"PPO": PPO, "SFT": SFT, "RM": RM}
SICK = [  # a sign, its run, what just suffices for it, what does not, words of its line
    ("runaway_kl", "PPO", {"kl": 10.1}, {"kl": 9.9}, "10 nats a response"),
    ("runaway_kl", "PPO", {"kl": 33.0, "length": 64}, {"kl": 31.0, "length": 64}, "--kl-coef"),
    ("collapsed_entropy", "PPO", {"entropy": 0.032}, {"entropy": 0.034}, "from 0.33 to 0.032"),
    ("unfinished_responses", "PPO", {"ended": 0.74}, {"ended": 0.76}, "26% of the responses"),
    ("zero_advantages", "PPO", {"advantage_std": 0.9e-4}, {"advantage_std": 1.1e-4}, "nothing to"),
    ("idle_critic", "PPO", {"explained_variance": -0.6}, {"explained_variance": -0.4}, "-60%"),
    ("idle_critic", "PPO", {"value_var": 0.0003}, {"value_var": 0.0005}, "--vf-coef"),
    (
        "large_steps",
        "PPO",
        {"clip_fraction": 0.31},
        {"clip_fraction": 0.29},
        "31% of the gradients",
    ),
    ("large_steps", "PPO", {"approx_kl": 0.11}, {"approx_kl": 0.09}, "0.11 nats"),
    ("unknown_scores", "PPO", {"score": 4.8}, {"score": 4.7}, "4.8, is above every score"),
    ("growing_loss", "SFT", {"loss": 1.06}, {"loss": 1.04}, "from 0.3 to 1.1"),
    ("large_weights", "SFT", {"weight_rms": 1.1}, {"weight_rms": 0.9}, "mean square is 1.1"),
    ("large_weights", "PPO", {"weight_rms": 1.1}, {"weight_rms": 0.9}, "lower the learning rate"),
    ("narrow_scores", "RM", {"score_spread": 0.009}, {"score_spread": 0.011}, "by 0.009 only"),
    ("narrow_scores", "RM", {"score_spread": 1e-6}, {"score_spread": 0.011}, "by 1e-06 only"),
]


@pytest.mark.parametrize(("name", "stage", "sick", "nearly", "words"), SICK)
def test_a_sign_appears_beyond_its_threshold_and_no_other_with_it(name, stage, sick, nearly, words):
    """At most a window after the first sick step, and never in a healthy run."""
    healthy = HEALTHY[stage]
    first = FIRST_PPO if stage == "PPO" else healthy
    assert health.diagnose(run(first, healthy)) == {}
    assert health.diagnose(run(first, healthy, **nearly)) == {}
    ((found, (step, text)),) = health.diagnose(run(first, healthy, **sick)).items()
    assert found == name and words in text
    assert 15 <= step < 15 + health.WINDOW
    assert "\n" not in text and text[0].islower() or text[0].isdigit()


def test_every_sign_is_tested():
    """And is listed where its threshold and its reason are."""
    assert {sign.__name__ for sign in health.SIGNS} == {name for name, *_ in SICK}


@pytest.mark.parametrize("sick", [{"kl": 99.0}, {"entropy": 0.0}, {"clip_fraction": 1.0}])
def test_a_single_sick_step_is_no_sign(sick):
    """One rollout of a few dozen responses says little."""
    records = run(FIRST_PPO, PPO)
    # The mean of the window stays below the threshold: 99 / 5 is above 10, 40 / 5 is not.
    records[20] |= sick if "kl" not in sick else {"kl": 40.0}
    assert health.diagnose(records) == {}


def test_the_mean_of_fewer_records_than_its_window_is_not_a_number():
    """Divided by the window it would be too small, by their number too rash."""
    records = [{"kl": 40.0}, {"kl": None}, {}, {"kl": 20.0}]
    assert math.isnan(health.recent(records, "kl", 3)) and math.isnan(health.recent([], "kl"))
    assert health.recent(records, "kl", 2) == 30 and health.recent(records, "kl") == 20


def test_a_loss_is_compared_with_its_first_and_that_of_ppo_with_none():
    """Pretraining begins at 7.3, which is no divergence. PPO's loss has no scale of its own."""
    first, later = SFT | {"loss": 7.3}, SFT | {"loss": 7.2}
    assert health.diagnose(run(first, later, loss=10.9)) == {}
    assert list(health.diagnose(run(first, later, loss=11.1))) == ["growing_loss"]
    assert health.diagnose(run(FIRST_PPO, PPO, loss=9.0)) == {}


def test_a_critic_has_twenty_updates_to_learn():
    """It starts at zero, which explains nothing."""
    idle = {"value_var": 0.0, "explained_variance": 0.0}
    found = health.diagnose(run(FIRST_PPO | idle, PPO | idle))
    assert list(found) == ["idle_critic"] and found["idle_critic"][0] == 19


def test_scores_that_only_leave_the_missing_end_score_are_not_unknown():
    """Where the first responses were all unfinished, every later score is above theirs."""
    first = FIRST_PPO | {"score": -3.0, "score_std": 0.0, "score_max": -3.0, "ended": 0.0}
    assert list(health.diagnose(run(first, PPO))) == ["unfinished_responses"]
    assert list(health.diagnose(run(FIRST_PPO | {"score_max": 9.0}, PPO | {"score": 8.0}))) == []


def test_what_was_not_finite_is_no_sign_and_no_error():
    """It is null in a record; the training loop stops at what must be finite."""
    for name in PPO:
        assert health.diagnose(run(FIRST_PPO | {name: None}, PPO | {name: None})) == {}


def test_a_sign_is_said_once_and_a_resumed_run_remembers_its_first_record(capsys):
    """One line on stderr. The first record, from which an entropy falls, is not lost with time."""
    records = run(FIRST_PPO, PPO, n=60, entropy=0.03)
    watch = health.Watch()
    for record in records:
        watch.see(record)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: step 34: the entropy fell from 0.33 to ")
    health.Watch(records[:50]).see(records[50])
    assert "fell from 0.33 to 0.03" in capsys.readouterr().err
    assert len(watch.records) <= health.WINDOW + 2


def test_a_run_that_ends_in_its_warm_up_is_told():
    """3 of 20 steps reach 15% of the learning rate."""
    assert "3 steps end in the warm-up of 20" in health.short_run(3, 20)
    assert "15% of its peak" in health.short_run(3, 20)
    assert health.short_run(3, 20, "raise --updates").endswith(
        "; raise --updates, or lower --warmup"
    )
    assert health.short_run(20, 20) == health.short_run(1, 0) == ""


def test_answers_that_do_not_fit_are_told_with_the_length_that_fits():
    """26 of 100 answers are longer than 32 tokens; 95 of them have at most 96."""
    lengths = [10] * 74 + [96] * 21 + [500] * 5
    text = health.long_answers(lengths, 32)
    assert "26% of the data's responses have more than 32 tokens" in text
    assert "--max-new-tokens 96, which 95% fit" in text
    assert health.long_answers(lengths, 96) == ""
    assert health.long_answers([32] * 9, 32) == health.long_answers([], 32) == ""
    assert health.long_answers([10] * 75 + [33] * 25, 32) == ""


@pytest.mark.parametrize("n", [1, 3, 19, 20, 21, 40, 100, 101])
def test_the_length_that_is_recommended_is_the_least_that_95_percent_fit(n):
    """Of n answers no two of which are of the same length."""
    lengths = [7 * i for i in range(n, 0, -1)]
    enough = int(health.long_answers(lengths, 1).split("--max-new-tokens ")[1].split(",")[0])
    assert sum(length <= enough for length in lengths) >= 0.95 * n
    assert sum(length < enough for length in lengths) < 0.95 * n


def test_a_sign_has_the_step_of_its_record_and_not_its_place_in_the_file(tmp_path):
    """A file whose lines were damaged lacks records."""
    metrics = Metrics(tmp_path)
    for record in run(FIRST_PPO, PPO, clip_fraction=0.5)[3:]:
        metrics.log(**record)
    records = read_metrics(tmp_path)
    ((step, _),) = health.diagnose(records).values()
    assert records[0]["step"] == 3 and step == records[14]["step"] == 17


def test_records_of_a_file_are_diagnosed_as_they_were_logged(tmp_path):
    """What is printed while training can be found again in metrics.jsonl."""
    metrics = Metrics(tmp_path)
    logged = [metrics.log(**record) for record in run(FIRST_PPO, PPO, clip_fraction=0.5)]
    metrics.log(30, **PPO | {"loss": math.nan})
    assert read_metrics(tmp_path)[:-1] == logged
    assert list(health.diagnose(read_metrics(tmp_path))) == ["large_steps"]
