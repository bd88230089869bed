"""The gates from end to end: what they ask, under which noise, and where they are passed."""

import dataclasses

import numpy as np
import pytest
import torch
from recorder import (
    digest,
    judged,
    loop_scores,
    noise,
    prompts_of,
    recorded,
    replies_of,
    save_policy,
    save_reward_model,
    words,
)

from minirlhf.reward import load_reward_model
from minirlhf.run import config
from minirlhf.tools import gates
from minirlhf.world import sentences, writers

FLAGS = {"prompts": 9, "best_of": 3, "max_new_tokens": 5, "seed": 3}  # none at its default


@pytest.fixture
def out(tmp_path):
    save_policy(tmp_path / "sft", seed=9)
    save_policy(tmp_path / "ppo", seed=8, stage="ppo")
    save_policy(tmp_path / "on-judge" / "ppo", seed=10, stage="ppo")
    save_reward_model(tmp_path / "rm", seed=2, missing_end_score=-2.5)
    return tmp_path


def test_best_of_n_and_the_judge_ask_held_out_facts_under_the_noise_of_the_seed(
    out, monkeypatch, capsys
):
    """Nine prompts; one sample of the SFT model or of PPO on the judge, and three candidates, of
    which the reward model's score picks one; honesty is the judge's."""
    record = recorded(monkeypatch)
    stream = config.rng(3, config.FACT_PROMPTS)
    prompts = [writers.draw_question(stream, "validation", {"fact": 1.0})[0] for _ in range(9)]
    numbers = gates.measure(["best-of-n", *words({"out": out} | FLAGS)])
    single, candidates = record["generate"]
    assert prompts_of(single) == prompts
    assert np.array_equal(single.args[5], noise(3, config.HELD_OUT_NOISE, (9, 5)))
    assert prompts_of(candidates) == [prompt for prompt in prompts for _ in range(3)]
    assert np.array_equal(candidates.args[5], noise(3, config.CANDIDATE_NOISE, (27, 5)))
    assert {*single.digests, *candidates.digests} == {digest(save_policy(out / "x", seed=9))}
    reward_model, _, _ = load_reward_model(out / "rm")
    replies = replies_of(candidates)
    groups = [replies[i : i + 3] for i in range(0, 27, 3)]
    finished = [[reply for reply in group if reply.ended] or group[:1] for group in groups]
    best = [max(g, key=lambda r: loop_scores(reward_model, [r], -2.5)[0]) for g in finished]
    honest, before = (
        np.mean([j.honest for j in judged(prompts, side)]) for side in (best, replies_of(single))
    )
    assert numbers["sft_facts"] == pytest.approx(before)
    assert numbers["best_of_n_gain"] == pytest.approx(honest - before)
    numbers = gates.measure(["judge", *words({"out": out} | FLAGS)])
    call = record["generate"][2]
    assert prompts_of(call) == prompts
    assert call.digests == [digest(save_policy(out / "y", seed=10))]
    facts = np.mean([j.honest for j in judged(prompts, replies_of(call))])
    assert numbers["judge_facts"] == pytest.approx(facts)


@pytest.mark.parametrize(("share", "passed"), [(0.88, False), (0.9, True), (0.92, True)])
def test_the_gates_of_facts_and_judge_are_passed_from_nine_tenths_on(
    out, monkeypatch, capsys, share, passed
):
    """The facts that nobody ranked do not count."""
    values = {"train": share, "validation": 0.5}

    def agreement(reward_model, tokenizer, split):
        return {("a", "b", str(n)): values[split] for n in range(4)}

    monkeypatch.setattr(gates, "fact_agreement", agreement)
    numbers = gates.measure(["facts", "--out", str(out)])
    assert numbers["passed"] == passed
    assert numbers["fact_agreement"] == pytest.approx(share)
    assert numbers["unranked_agreement"] == pytest.approx(0.5)
    honest = np.array([1.0] * round(100 * share) + [0.0] * round(100 * (1 - share)))
    monkeypatch.setattr(gates, "single_honesty", lambda *args: honest)
    assert gates.measure(["judge", "--out", str(out)])["passed"] == passed


@pytest.mark.parametrize(
    ("gain", "passed"), [(0.12, False), (0.15, True), (0.2, True), (-0.2, False)]
)
def test_the_gate_of_best_of_n_is_passed_from_a_gain_of_fifteen_hundredths_on(
    out, monkeypatch, capsys, gain, passed
):
    single, best = np.full(50, 0.4), np.full(50, 0.4 + gain)
    monkeypatch.setattr(gates, "single_honesty", lambda *args: single)
    monkeypatch.setattr(gates, "honesty", lambda *args: best)
    monkeypatch.setattr(gates.evaluate, "best_of_n", lambda *args: [])
    assert gates.measure(["best-of-n", "--out", str(out), "--prompts", "4"])["passed"] == passed


def test_a_gate_goes_by_the_mean_and_not_by_the_ends_of_its_interval(out, monkeypatch, capsys):
    """A gain of 0.2 whose interval begins at 0.08 passes; one of 0.1 whose interval goes on to 0.19
    does not."""
    single = np.zeros(40)
    for gained, passed in ((8, True), (4, False)):
        best = np.array([1.0] * gained + [0.0] * (40 - gained))
        monkeypatch.setattr(gates, "single_honesty", lambda *args: single)
        monkeypatch.setattr(gates, "honesty", lambda *args, best=best: best)
        monkeypatch.setattr(gates.evaluate, "best_of_n", lambda *args: [])
        assert gates.measure(["best-of-n", "--out", str(out), "--prompts", "4"])["passed"] == passed
    monkeypatch.setattr(gates, "single_honesty", lambda *args: np.array([1.0] * 37 + [0.0] * 3))
    assert gates.measure(["judge", "--out", str(out)])["passed"]  # 0.925 +- 0.085


def test_the_gain_of_best_of_n_has_its_own_interval_beside_the_share_of_single_samples(
    out, monkeypatch, capsys
):
    """Ten prompts, four right alone and two more as the best of three. The differences have the
    standard deviation .4216, and t(9) = 2.262: the half width is .302, not the .369 of the six."""
    honest = {"single": [1] * 4 + [0] * 6, "best": [1] * 6 + [0] * 4}
    monkeypatch.setattr(gates, "single_honesty", lambda *args: np.array(honest["single"]))
    monkeypatch.setattr(gates, "honesty", lambda *args: np.array(honest["best"]))
    monkeypatch.setattr(gates.evaluate, "best_of_n", lambda *args: [])
    numbers = gates.measure(["best-of-n", "--out", str(out), "--best-of", "3"])
    assert numbers["sft_facts"] == pytest.approx(0.4)
    assert numbers["best_of_n_gain"] == pytest.approx(0.2)
    line = "true facts: 0.400 of single samples; best of 3 gains +0.200 +- 0.302\n"
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(("numbers", "code"), [({}, 0), ({"passed": True}, 0), ({"passed": 0}, 1)])
def test_a_gate_that_has_nothing_to_pass_does_not_stop_a_script(out, monkeypatch, numbers, code):
    """The probe: its number is for the reader."""
    monkeypatch.setitem(gates.GATES, "probe", lambda args: numbers)
    with pytest.raises(SystemExit) as end:
        gates.main(["probe", "--out", str(out)])
    assert end.value.code == code


def test_the_worst_misconceptions_are_shown_and_a_majority_is_more_than_half(
    out, monkeypatch, capsys
):
    """Of seven shares the five lowest, lowest first; five of seven are above one half."""
    shares = (0.9, 0.2, 0.6, 0.5, 1.0, 0.7, 0.8)

    def agreement(reward_model, tokenizer, split):
        return {("subject", "right", f"wrong{share}"): share for share in shares}

    monkeypatch.setattr(gates, "fact_agreement", agreement)
    numbers = gates.measure(["facts", "--out", str(out)])
    assert numbers["facts_ranked_right"] == pytest.approx(5 / 7)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:7]]
    assert [row[-1] for row in rows] == ["0.20", "0.50", "0.60", "0.70", "0.80"]


def test_statements_are_worded_like_the_held_out_questions():
    for entry, subject, right, _ in gates.world_facts("train", "validation"):
        prompts = {prompt for prompt, _ in gates.statements(entry, subject, right)}
        assert prompts == {q.format(subject=subject) + "\n" for q in entry["validation"]}
        assert not prompts & {q.format(subject=subject) + "\n" for q in entry["train"]}
        responses = [text for _, text in gates.statements(entry, subject, right)]
        forms = [*entry["say"], *entry["brief"]]  # a sentence, and the short form of it
        sentence = [form.format(subject=subject, answer=right) for form in forms]
        assert entry["say"] and entry["brief"]
        assert set(map(str.lower, responses)) == set(map(str.lower, sentence))
        assert len(responses) == len(prompts) * len(forms)
        assert not any(text[0].islower() for text in responses)  # as answers begin


def test_the_probe_reads_differences_of_the_sft_model_in_an_order_of_the_seed(out, monkeypatch):
    """The right answer minus each misconception, of every fact that was ranked or not; the first,
    third, ... facts are one fold and the others the other, each tested by the line of the other."""
    facts = gates.world_facts("train", "validation")
    places = {pair: n for n, fact in enumerate(facts) for pair in gates.statements(*fact[:3])}
    paths, load = [], gates.checkpoint.load_gpt

    def load_and_record(path):
        paths.append(path)
        return load(path)

    def features(gpt, tokenizer, pairs):
        return torch.tensor([[float(places.get(pair, -1)), 1.0] for pair in pairs])

    fits = []
    monkeypatch.setattr(gates.checkpoint, "load_gpt", load_and_record)
    monkeypatch.setattr(gates, "features", features)

    def fit_line(x, y):
        fits.append(x)
        return torch.tensor([1.0, 0.0]) * (1 if len(fits) == 1 else -1)

    monkeypatch.setattr(gates, "fit_line", fit_line)
    accuracy = gates.measure(["probe", "--out", str(out), "--seed", "3"])["probe_accuracy"]
    assert paths == [f"{out}/sft"]
    order = config.rng(3, config.PROBED_FACTS).permutation(len(facts))
    for fold, x in zip((order[::2], order[1::2]), fits, strict=True):
        rows = [place + 1 for place in fold for _ in range(2 * wordings(facts[place]))]
        column = x[: len(x) // 2, 0]
        scale = torch.tensor([float(r) for r in rows]).std()
        assert (column * scale).tolist() == pytest.approx(rows, rel=1e-4)
    # Every difference is positive: the line of the first fold is right on all of the second, and
    # that of the second on none of the first.
    first, second = (len(x) for x in fits)
    assert first != second and accuracy == pytest.approx(second / (first + second))


def wordings(fact):
    return len(gates.statements(*fact[:3]))


def test_a_tie_is_no_preference_for_the_right_answer(out, monkeypatch):
    monkeypatch.setattr(
        gates.reward, "score", lambda model, tokenizer, *texts: torch.ones(len(texts[0]))
    )
    agreement = gates.fact_agreement(None, None, "train")
    assert set(agreement.values()) == {0.0} and len(agreement) >= 20


def test_every_flag_has_another_value_in_these_tests():
    fields = {field.name: field.default for field in dataclasses.fields(gates.Config)}
    assert {*FLAGS, "out"} == set(fields)
    assert all(fields[name] != value for name, value in FLAGS.items())
    assert sentences.ENTRIES
