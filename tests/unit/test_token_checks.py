"""The rules of tools/doctor.py on recorded tokens: each is tried on a rollout of ppo.py in which
one thing is wrong."""

import copy
import json
import math

import pytest
import torch

from minirlhf import ppo
from minirlhf.tools import doctor, microscope

FLAGS = {"gamma": 1.0, "lam": 0.95}


def view(seed=0, rows=16, length=7, coef=0.1, ended=True):
    """(a recorded update, its metrics), computed by ppo.py from random log-probabilities, values
    and scores."""
    generator = torch.Generator().manual_seed(seed)
    logprobs, ref_logprobs, values = -2 * torch.rand(3, rows, length, generator=generator)
    mask = torch.ones(rows, length, dtype=torch.bool)
    scores = torch.randn(rows, generator=generator)
    rewards = ppo.token_rewards(scores, logprobs, ref_logprobs, mask, coef)
    raw, _ = ppo.gae(rewards, values, mask, FLAGS["gamma"], FLAGS["lam"])
    names = {"logprobs": logprobs, "ref_logprobs": ref_logprobs, "values": values}
    names |= {"kl": logprobs - ref_logprobs, "rewards": rewards, "raw_advantages": raw}
    names |= {"advantages": ppo.whiten(raw, mask), "ratios": torch.ones(rows, length)}
    responses = [
        {name: x[row].tolist() for name, x in names.items()}
        | {"prompt": "p", "ended": ended, "clipped": [False] * length}
        | {"tokens": ["a"] * (length - 1) + ["" if ended else "a"]}
        for row in range(rows)
    ]
    record = {"step": 3, "kl_coef": coef, "advantage_mean": float(raw.mean())}
    record["advantage_std"] = float(raw.std(correction=0))
    return {"step": 3, "clip": 0.2, "responses": responses}, record


def findings(view, record, flags=FLAGS):
    return doctor.examine([record], flags, [view])


def penalty(function):
    """Another penalty at all tokens but the last."""

    def apply(response):
        for t, kl in enumerate(response["kl"][:-1]):
            response["rewards"][t] = function(kl, len(response["kl"]))

    return apply


def earlier_score(response):
    rewards, kl = response["rewards"], response["kl"]
    rewards[-2] += rewards[-1] + 0.1 * kl[-1]
    rewards[-1] = -0.1 * kl[-1]


def own_whitening(response):
    """Every row by itself."""
    raw = torch.tensor(response["raw_advantages"])
    response["advantages"] = ((raw - raw.mean()) / raw.std(correction=0)).tolist()


def kept_mean(response):
    response["advantages"] = [a + 0.4 for a in response["advantages"]]


def one_advantage(response):
    response["raw_advantages"] = [sum(response["rewards"])] * len(response["rewards"])


def without_end(response):
    for name in microscope.COLUMNS:
        response[name] = response[name][:-1]


def after_the_end(response):
    response["tokens"][2:4] = ["", "more"]


def reward_of_length(response):
    """Responses of one to seven tokens."""
    length = 1 + (int(abs(response["kl"][0]) * 1e6) % 7)
    for name in microscope.COLUMNS:
        response[name] = response[name][-length:]
    response["rewards"] = [0.0] * (length - 1) + [length / 3]


FORMS = {
    "the penalty has the wrong sign": penalty(lambda kl, n: 0.1 * kl),
    "the penalty is k2": penalty(lambda kl, n: -0.1 * kl**2 / 2),
    "the penalty is k3": penalty(lambda kl, n: -0.1 * (math.exp(-kl) - 1 + kl)),
    "the KL is clamped at 0": penalty(lambda kl, n: -0.1 * max(kl, 0)),
    "the KL is divided by the length": penalty(lambda kl, n: -0.1 * kl / n),
    "there is no penalty": penalty(lambda kl, n: 0.0),
    "look at the coefficient, 0.1": penalty(lambda kl, n: -0.3 * kl),
}
DISTURBANCES = [
    ("length_is_score", reward_of_length),
    *(("wrong_penalty", disturb) for disturb in FORMS.values()),
    ("misplaced_score", earlier_score),
    ("wrong_advantages", one_advantage),
    ("wrong_whitening", own_whitening),
    ("wrong_whitening", kept_mean),
    ("no_end_token", without_end),
    ("tokens_after_the_end", after_the_end),
]


@pytest.mark.parametrize("seed", range(10))
def test_what_ppo_computes_has_no_finding(seed):
    """Unfinished responses, responses of one token, and an update without KL, too."""
    for options in ({}, {"ended": False}, {"length": 1}, {"coef": 0.2}):
        assert findings(*view(seed, **options)) == {}


@pytest.mark.parametrize(("rule", "disturb"), DISTURBANCES)
def test_each_rule_finds_its_disturbance(rule, disturb):
    """And where the disturbance is in one column alone, no rule finds another one."""
    for seed in range(5):
        update, record = view(seed)
        for response in update["responses"]:
            disturb(response)
        found = findings(update, record)
        step, text = found[rule]
        assert step == 3 and "{" not in text and "nan" not in text
        if rule in ("wrong_whitening", "no_end_token", "tokens_after_the_end"):
            assert set(found) <= {rule, "wrong_advantages"}


@pytest.mark.parametrize(("form", "disturb"), FORMS.items())
def test_the_sentence_says_which_penalty_it_is(form, disturb):
    update, record = view()
    for response in update["responses"]:
        disturb(response)
    assert findings(update, record)["wrong_penalty"][1].endswith(f": {form}")


@pytest.mark.parametrize(
    ("rule", "disturb", "ending"),
    [
        ("wrong_advantages", one_advantage, "all tokens have the same"),
        ("wrong_whitening", own_whitening, "once, not in each row"),
        ("wrong_whitening", kept_mean, "of the rollout, once"),
    ],
)
def test_the_sentence_tells_mistakes_with_advantages_apart(rule, disturb, ending):
    update, record = view()
    for response in update["responses"]:
        disturb(response)
    assert findings(update, record)[rule][1].endswith(ending)


def test_the_sentence_says_where_the_score_is():
    update, record = view()
    for response in update["responses"]:
        earlier_score(response)
    assert "the score is 1 tokens before" in findings(update, record)["misplaced_score"][1]


def test_few_responses_of_each_update_are_looked_at_together():
    """With --microscope 4, twelve responses are those of three updates."""
    updates = []
    for seed in range(4):
        update, record = view(seed, rows=4)
        for response in update["responses"]:
            reward_of_length(response)
        updates.append(update)
    assert "length_is_score" not in doctor.examine([record], {}, updates[:1])
    assert doctor.examine([record], {}, updates)["length_is_score"][0] == 3


def test_every_rule_has_a_disturbance():
    assert {rule for rule, _ in DISTURBANCES} == {rule.name for rule in doctor.TOKEN_RULES}


def test_nulls_and_what_is_not_known_are_no_finding():
    update, record = view()
    for name in microscope.COLUMNS[1:-1]:
        damaged = copy.deepcopy(update)
        for response in damaged["responses"]:
            response[name][0] = None
        findings(damaged, record)
    assert findings(update, {"step": 3}, {}) == {}


@pytest.mark.parametrize(
    "change", ["responses", "tokens", "ended", "clip", "length", "text", "nan"]
)
def test_a_line_of_another_form_is_left_out(tmp_path, change):
    """Somebody may have changed the file."""
    good, _ = view()
    bad = copy.deepcopy(good)
    if change in ("responses", "clip"):
        bad[change] = "x"
    elif change == "length":
        bad["responses"][1]["kl"].pop()
    elif change in ("text", "nan"):
        bad["responses"][1]["kl"][0] = {"text": "<b>", "nan": float("nan")}[change]
    else:
        bad["responses"][1][change] = 7
    lines = [json.dumps(line) + "\n" for line in (good, bad, good)]
    (tmp_path / "microscope.jsonl").write_text("".join(lines))
    assert microscope.read(tmp_path) == [good, good]
    assert microscope.read(tmp_path / "nowhere") == []
