"""The specification of tools/doctor.py: a healthy run has no finding, and each rule finds one kind
of disturbance in it."""

import json
import random

import pytest

from minirlhf.run.config import InputError
from minirlhf.tools import doctor

FLAGS = {"epochs": 1, "minibatches": 4, "updates": 20, "warmup": 4, "kl_target": 0.0}


def healthy(seed=0, n=20):
    """The metrics of a PPO run that learns, with the noise of 48 responses and with everything
    that holds by definition."""
    noise, records = random.Random(seed), []
    for i in range(n):
        kl = 0.0 if i == 0 else 0.06 * i
        lr = 4e-4 * min((i + 1) / 4, (n - i) / n)
        r = {"step": i, "kl_coef": 0.1, "lr": lr, "length": 12 - 0.1 * i + noise.gauss(0, 0.3)}
        r |= {"length_min": 5.0, "length_max": 21.0, "ended": 0.98, "weight_rms": 0.17}
        r["kl_k3"] = kl * noise.uniform(0.85, 1.15)
        r["kl"] = kl + noise.gauss(0, 0.25 * kl**0.5)
        r["raw_score"] = 0.05 * i + noise.gauss(0, 0.15)
        r |= {"score": r["raw_score"] - 0.06, "score_std": 1.2, "score_max": 3.0}
        r["rlhf_reward"] = r["score"] - 0.1 * r["kl"]
        r["entropy"] = 0.45 - 0.01 * i
        r["sampled_entropy"] = r["length"] * (r["entropy"] + noise.gauss(0, 0.03))
        r |= {"return_mean": r["rlhf_reward"] + noise.gauss(0, 0.05), "return_var": 1.4}
        r |= {"value_mean": 0.04 * i, "value_var": 0.02 * i, "explained_variance": 0.01 * i}
        r["advantage_mean"] = r["return_mean"] - r["value_mean"]
        r["advantage_std"] = (r["return_var"] * (1 - r["explained_variance"])) ** 0.5
        r["approx_kl"] = (lr / 4e-4) ** 2 * noise.uniform(1e-3, 2e-3)
        r |= {"approx_kl_k3": 0.99 * r["approx_kl"], "ratio_var": 2.02 * r["approx_kl"]}
        r |= {"ratio_min": 0.85, "ratio_max": 1.2}
        r |= {"policy_loss": noise.gauss(-0.002, 0.002), "clip_fraction": 0.005}
        r["grad_norm"] = noise.uniform(0.4, 0.7)
        records.append(r)
    return records


def changed(**metrics):
    """A disturbance: each metric becomes a number, or what a function makes of its record."""

    def apply(records):
        for record in records:
            new = {name: f(record) if callable(f) else f for name, f in metrics.items()}
            record.update(new)

    return apply


def drifting(name, factor):
    """A metric that grows by a factor over the run."""

    def apply(records):
        for i, record in enumerate(records):
            record[name] *= 1 + (factor - 1) * i / (len(records) - 1)

    return apply


def report(records, **numbers):
    records[-1].update(numbers)


def adaptive(records):
    for record in records:
        record |= {"kl": 1.0, "kl_k3": 1.0, "kl_coef": 0.1}
        record["rlhf_reward"] = record["score"] - 0.1
    records[0] |= {"kl": 0.0, "kl_k3": 0.0, "rlhf_reward": records[0]["score"]}


BASELINES = {"held_out_standard_error": 0.02, "shorter_wins": 0.55, "bag_of_words": 0.64}
DISTURBANCES = [  # (rule, what is done to a healthy run, flags)
    ("starts_elsewhere", lambda records: records[0].update(kl=-1.3), {}),
    ("no_reference", changed(kl=0.0, kl_k3=0.0, rlhf_reward=lambda r: r["score"]), {}),
    ("kls_differ", changed(kl_k3=lambda r: r["kl_k3"] / 4), {}),
    ("entropies_differ", changed(entropy=lambda r: r["entropy"] * 1.3), {}),
    ("ratios_off", changed(approx_kl=0.005, approx_kl_k3=0.005, ratio_var=0.01), {}),
    ("ratios_one", changed(approx_kl=0.0, approx_kl_k3=0.0, ratio_var=0.0), {}),
    ("update_kls_differ", changed(approx_kl_k3=lambda r: r["approx_kl"] / 2), {}),
    ("ratio_variance_differs", changed(ratio_var=lambda r: r["approx_kl"]), {}),
    ("shifted_advantages", changed(policy_loss=lambda r: -r["advantage_mean"] - 0.06), {}),
    ("scores_lost", changed(return_var=0.01, advantage_std=0.1, explained_variance=0.0), {}),
    ("wrong_objective", changed(rlhf_reward=lambda r: r["score"] + 0.1 * r["kl"] + 0.1), {}),
    ("wrong_returns", changed(explained_variance=lambda r: r["explained_variance"] + 0.1), {}),
    ("wrong_returns", changed(advantage_mean=lambda r: r["advantage_mean"] + 0.1), {}),
    ("stuck_controller", adaptive, {"kl_target": 0.3}),
    ("no_missing_end", changed(raw_score=lambda r: r["score"]), {}),
    ("paid_for_no_end", changed(raw_score=lambda r: r["score"] - 0.2), {}),
    ("never_ends", changed(ended=0.0, length_min=32.0, length_max=32.0), {}),
    ("length_moves", drifting("length", 3), {}),
    (
        "too_slow",
        changed(kl=1e-3, kl_k3=1e-3, approx_kl=1e-10, approx_kl_k3=1e-10, ratio_var=2e-10),
        {},
    ),
    ("held_too_hard", changed(kl=0.02, kl_k3=0.02, kl_coef=10.0), {}),
    ("no_penalty", changed(kl_coef=0.0, rlhf_reward=lambda r: r["score"]), {}),
    ("warms_up_for_ever", changed(), {"warmup": 400}),
    ("growing_gradients", drifting("grad_norm", 9), {}),
    (
        "no_better_than_chance",
        lambda records: report(records, held_out_accuracy=0.52, held_out_pairs=100),
        {},
    ),
    (
        "no_better_than_words",
        lambda records: report(records, held_out_accuracy=0.65, **BASELINES),
        {},
    ),
    ("too_sure", lambda records: report(records, calibration_error=0.2, held_out_pairs=400), {}),
    (
        "overfitted",
        lambda records: [
            r.update(loss=0.5, held_out_loss=0.5 + 0.01 * i**2) for i, r in enumerate(records)
        ],
        {},
    ),
]


def found(records, **flags):
    return doctor.examine(records, FLAGS | flags)


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_has_no_finding(seed):
    assert found(healthy(seed)) == {}
    assert found(healthy(seed, n=3)) == {}


@pytest.mark.parametrize(("rule", "disturb", "flags"), DISTURBANCES)
def test_each_rule_finds_its_disturbance_and_says_what_to_try(rule, disturb, flags):
    """On several runs. The sentence has its numbers filled in, and is one line."""
    for seed in range(5):
        records = healthy(seed)
        disturb(records)
        findings = found(records, **flags)
        assert rule in findings
        step, text = findings[rule]
        assert step == records[-1]["step"] and len(text) > 40
        assert "{" not in text and "nan" not in text and "\n" not in text


def test_every_rule_has_a_disturbance_and_a_name_of_its_own():
    names = [rule.name for rule in doctor.RULES]
    assert {name for name, _, _ in DISTURBANCES} == set(names) and len(set(names)) == len(names)


def test_one_step_of_a_rollout_has_ratios_of_one_and_that_is_well():
    """With one epoch and one minibatch there is nothing else."""
    records = healthy()
    changed(approx_kl=0.0, approx_kl_k3=0.0, ratio_var=0.0)(records)
    assert "ratios_one" not in found(records, minibatches=1)


def test_a_single_token_that_moved_far_is_no_finding():
    """It alone makes approx_kl, k3 and the variance of the ratio differ."""
    records = healthy()
    changed(ratio_min=0.05, approx_kl_k3=lambda r: r["approx_kl"] / 2, ratio_var=1e-3)(records)
    assert found(records) == {}


def test_nulls_and_missing_metrics_are_no_finding_and_no_error():
    """What was not finite is null; other stages, and an old version, lack metrics."""
    names = [name for name in healthy()[0] if name != "step"]
    for name in names:
        records = healthy()
        changed(**{name: None})(records)
        doctor.examine(records, {})
        for record in records:
            del record[name]
        doctor.examine(records, {})
    assert doctor.examine([{"step": 0}], {}) == {}


# ---- the command


def write(folder, records, flags=FLAGS):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / "config.json").write_text(json.dumps({"flags": flags}))


def test_the_command_names_every_run_of_a_folder_with_its_findings(tmp_path, capsys):
    write(tmp_path / "ppo", healthy(), FLAGS | {"warmup": 100})
    write(tmp_path / "sft", [{"step": 0, "loss": 1.0}])
    doctor.main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path / 'sft'}, 1 steps: nothing wrong found"
    assert lines[1] == f"{tmp_path / 'ppo'}, 20 steps: 1 found"
    assert lines[2].startswith(
        "  warms_up_for_ever, seen at step 19: 20 updates end in the warm-up"
    )
    doctor.main([str(tmp_path / "sft")])
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'sft'}, 1 steps")


def test_what_is_no_number_in_a_file_of_metrics_is_left_out(tmp_path, capsys):
    """A file that somebody has written or changed."""
    strange = {"kl": "3", "score": [1], "entropy": float("nan"), "approx_kl": float("inf")}
    changed = [{"step": 1000, name: value} for name, value in strange.items()]
    write(tmp_path, [*healthy(), *changed], FLAGS | {"epochs": "two"})
    doctor.main([str(tmp_path)])
    assert "nothing wrong found" in capsys.readouterr().out


def test_a_run_whose_metrics_cannot_be_read_is_named(tmp_path, capsys):
    """The others are looked at. It was left out without a word."""
    for stage, text in (("sft", '{"step": 0, "loss": 1.0}\n'), ("ppo", "")):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "metrics.jsonl").write_text(text)
    doctor.main([str(tmp_path)])
    captured = capsys.readouterr()
    assert captured.err == f"{tmp_path}/ppo: metrics.jsonl has no line that can be read; left out\n"
    assert f"{tmp_path}/sft, 1 steps" in captured.out


def test_a_folder_without_a_run_is_refused_in_a_line(tmp_path):
    with pytest.raises(InputError, match="no metrics.jsonl with a line .* name the folder"):
        doctor.main([str(tmp_path)])
