"""The specification of `minirlhf choice` and `minirlhf judgements`, on an SFT model that names a
colour: b is worth 3, r 1.5 and g nothing."""

import json
import re
import shutil

import numpy as np
import pytest

import train_rm
from minirlhf import reward
from minirlhf.feedback import agreement
from minirlhf.formats import labels
from minirlhf.formats.labels import Label
from minirlhf.run import chain, compute, config, damage
from minirlhf.run.config import InputError
from minirlhf.tools import choice, judgements, measured

WORTH = {"b": 3.0, "r": 1.5, "g": 0.0}
SMALL = ["--labels", "128", "--pool", "300", "--held-out", "16", "--max-new-tokens", "3"]
SLOWER = ["--epochs", "8", "--lr", "0.003"]
SMALL += ["--epochs", "1", "--lr", "0.01", "--threads", "1"]


@pytest.fixture
def flags(colour_run, tmp_path, monkeypatch):
    """The judge and the flags are of colours: g is rude, r is harmful."""
    monkeypatch.setattr(chain, "refuse_own_data", lambda _: None)  # the colours are the world here
    monkeypatch.setattr(train_rm, "totals", lambda c: [WORTH.get(x, 0.0) for x in c.responses])
    monkeypatch.setattr(judgements, "behaviour", lambda _, x: (x == "g", False, x == "r"))
    return ["--sft", f"{colour_run}/sft", "--out", str(tmp_path / "parts"), *SMALL]


def parsed(flags_class, flags):
    return compute.resolve(config.parse(flags_class, flags), compute.pick_device("cpu"))


def rows(tmp_path, name, seed=1):
    return json.loads((tmp_path / "parts" / str(seed) / f"{name}.json").read_text())["rows"]


def test_every_way_of_choosing_learns_the_colours(flags, tmp_path, capsys):
    """From the labels alone, and every way asks for as many. The first ones are the same for all
    but `once`."""
    choice.main(flags)
    table = capsys.readouterr().out
    for way in choice.WAYS:
        first, second = rows(tmp_path, way)
        assert (first["labels"], second["labels"]) == (64, 128)
        assert second["agreement_with_judge"] > 0.9, way
        assert re.search(rf"^{way} +1 +{first['agreement_with_judge']:.3f} ", table, re.M), way
    starts = {json.dumps(rows(tmp_path, way)[0]) for way in choice.WAYS if way != "once"}
    assert len(starts) == 1


def test_what_is_finished_is_not_made_again(flags, tmp_path, monkeypatch):
    """And what other flags have made, or nobody, is refused."""
    choice.main([*flags, "--ways", "random"])
    with monkeypatch.context() as patch:
        patch.setattr(choice, "load_setting", None)  # nothing is left to do with it
        choice.main([*flags, "--ways", "random"])
        with pytest.raises(InputError, match="made with --lr 0.01, and this is with 0.02; give"):
            choice.main([*flags, "--ways", "random", "--lr", "0.02"])
    part = tmp_path / "parts" / "1" / "random.json"
    part.write_text(part.read_text()[:20])
    with pytest.raises(InputError, match="random.json is no part of an experiment; remove it"):
        choice.main([*flags, "--ways", "random"])


@pytest.mark.parametrize(
    ("command", "part"), [(choice, ["--ways", "random"]), (judgements, ["--kinds", "flags"])]
)
def test_a_finished_part_is_not_shown_for_another_sft_model(
    flags, tmp_path, colour_run, command, part
):
    """Nothing is left to make, and the model is looked at all the same."""
    command.main([*flags, *part])
    other = tmp_path / "other" / "sft"
    shutil.copytree(colour_run / "sft", other)
    state = damage.load(other / "checkpoint.pt")
    state["model"]["norm.bias"] += 1
    with open(other / "checkpoint.pt", "wb") as file:
        damage.save(state, file)
    with pytest.raises(InputError, match="the SFT model changed: weights"):
        command.main([*flags, *part, "--sft", str(other)])


def test_a_table_has_parts_of_the_same_flags_alone(flags, tmp_path):
    """Those of the ways that are not asked for, and of other seeds, stand in it too. They are
    looked at before anything is made."""
    choice.main([*flags, "--ways", "once"])
    for more in (["--ways", "random"], ["--seed", "2", "--ways", "once"]):
        with pytest.raises(InputError, match="once.json was made with --lr 0.01, and this is"):
            choice.main([*flags, *more, "--lr", "0.02"])
    assert [path.name for path in (tmp_path / "parts").rglob("*.json")] == ["once.json"]


@pytest.mark.parametrize(
    "command", [(choice, "--ways", "random"), (judgements, "--kinds", "flags")]
)
def test_the_parts_of_a_seed_are_about_one_sft_model(flags, tmp_path, colour_run, command):
    """Two parts of a seed ask about the same pairs. Another seed may have another model."""
    module, option, name = command
    module.main([*flags, option, name])
    part = tmp_path / "parts" / "1" / f"{name}.json"
    content = json.loads(part.read_text())
    assert list(content["inputs"]) == ["sft"]
    part.write_text(json.dumps(content | {"inputs": {"sft": "weights 0"}}))
    with pytest.raises(InputError, match="the SFT model changed: weights 0 in"):
        module.main([*flags, option, {"random": "half", "flags": "choices"}[name]])
    assert len(list(part.parent.glob("*.json"))) == 1
    module.main([*flags, option, name, "--seed", "2"])


def test_a_folder_that_cannot_be_written_is_said_before_the_work(flags, tmp_path, monkeypatch):
    (tmp_path / "parts").write_text("somebody's file")
    monkeypatch.setattr(choice, "load_setting", None)
    with pytest.raises(InputError, match="--out .*: Not a directory; name a file that can be"):
        choice.main([*flags, "--ways", "random"])


@pytest.mark.parametrize("rows", ["1", "[1]", "[[]]", "[{}]", '[{"agreement_with_judge": null}]'])
def test_a_part_with_other_rows_is_one_line(flags, tmp_path, rows):
    part = tmp_path / "parts" / "1" / "random.json"
    part.parent.mkdir(parents=True)
    part.write_text(f'{{"flags": {{}}, "rows": {rows}}}')
    with pytest.raises(InputError, match="random.json is no part of an experiment; remove it"):
        choice.main([*flags, "--ways", "random"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ways", "random,best"], "--ways best: choose among random, half"),
        (["--ways", ","], "--ways names none"),
        (["--pool", "90"], r"--pool 90 leaves \d+ pairs of different texts, fewer than --labels"),
        (["--sft", "nowhere"], "nowhere is not there: make the demonstration first"),
    ],
)
def test_flags_that_cannot_be_are_one_line_each(flags, more, message):
    with pytest.raises(InputError, match=message):
        choice.main([*flags, *more])


def test_a_pair_has_one_label_whoever_asks_and_no_pair_is_asked_twice(flags, monkeypatch):
    """What the ways differ in is which pairs they ask about."""
    learned = {}

    def fit(setting, member, asked):
        learned.setdefault(member, []).append(asked)
        return fitted(setting, member, asked)

    fitted = choice.fit
    monkeypatch.setattr(choice, "fit", fit)
    choice.main([*flags, "--ways", "random,disagreement,half,optimal"])
    ranks = {}
    for asked in [asked for lists in learned.values() for asked in lists]:
        keys = [(c.prompt, tuple(c.responses)) for c in asked]
        assert len(set(keys)) == len(keys)
        assert all(len(set(c.responses)) == 2 for c in asked)
        for key, comparison in zip(keys, asked, strict=True):
            assert ranks.setdefault(key, comparison.ranks) == comparison.ranks
    assert len(learned) == 4  # members
    assert learned[0][0] == learned[0][2] and learned[0][1] != learned[0][3]


def test_a_member_learns_for_as_long_and_as_fast_as_the_flags_say(flags, monkeypatch):
    """40 pairs are too few for --epochs to count, 160 are not."""
    calls = []
    monkeypatch.setattr(
        choice.axes,
        "train",
        lambda model, tokenizer, batches, lr, *_: calls.append((sum(map(len, batches)), lr)) or [],
    )
    setting = choice.load_setting(parsed(choice.Config, [*flags, "--epochs", "4", "--lr", "0.02"]))
    judgements = [("preference", c) for c in setting.pool[:160]]
    for n in (40, 160):
        choice.teach(setting, judgements[:n], 1)
    assert calls == [(512, 0.02), (640, 0.02)]


def test_an_ensemble_differs_in_heads_and_in_the_order_of_the_labels(flags):
    """Members that are all alike would agree on every pair."""
    setting = choice.load_setting(parsed(choice.Config, flags))
    first, again, other = (choice.fit(setting, member, setting.pool[:64]) for member in (0, 0, 1))
    margins = [choice.margins_of(setting, x, setting.pool[:40]) for x in (first, again, other)]
    assert (margins[0] == margins[1]).all() and (margins[0] != margins[2]).any()


# ---- judgements


def test_every_kind_of_judgement_learns_the_colours(flags, tmp_path, capsys):
    """Flags tell g and r from b, and not from each other. The reward model of the most judgements
    is one that PPO takes, and agrees as often as the table says."""
    flags = [*flags, "--miss", "0", "--false-alarm", "0", *SLOWER]
    judgements.main(flags)
    table = capsys.readouterr().out
    setting = choice.load_setting(parsed(judgements.Config, flags))
    for kind in judgements.KINDS:
        second = rows(tmp_path, kind)[1]
        share = second["agreement_with_judge"]
        assert second["judgements"] == 128 and f"{share:.3f}" in table
        assert share > (0.45 if kind == "flags" else 0.8), kind
        path = tmp_path / "parts" / "1" / kind / "rm"
        model, tokenizer, missing_end_score = reward.load_reward_model(path)
        scores = reward.score_comparisons(model, tokenizer, setting.held_out)
        numbers = agreement.ranking_numbers(setting.held_out, scores, setting.truth)
        assert numbers["agreement_with_judge"] == share and missing_end_score == -3
    responses = [rows(tmp_path, kind)[1]["responses"] for kind in judgements.KINDS]
    assert responses == [256, 128, 128, 128, 192, 128]


def test_labellers_take_turns_and_their_biases_count(flags):
    args = parsed(judgements.Config, [*flags, "--labellers", "4", "--bias", "50"])
    setting = choice.load_setting(args)
    pool = judgements.judged(setting).pool
    extreme = np.where(judgements.biases_of(args) > 0, 5, 1)
    assert all(c.ratings == [extreme[n % 4]] * 2 for n, c in enumerate(pool))
    one = judgements.judgements(args, "ratings", pool, 6)
    assert [x.labeller for x in one] == [0, 1, 2, 3, 0, 1]
    assert {x.labeller for x in judgements.judgements(args, "ratings-pooled", pool, 6)} == {0}


def write_labels(path, n=60):
    """Of a person who likes b, rates, and flags g as rude."""
    for i in range(n):
        texts = [("b", "r"), ("g", "b"), ("r", "g")][i % 3]
        ranks = [int(WORTH[x] < max(WORTH[y] for y in texts)) for x in texts]
        flags = [["rude"] if x == "g" else [] for x in texts]
        ratings = [int(1 + WORTH[x]) for x in texts]
        record = Label(f"Pick {i}.\n", list(texts), ranks, "better", "ada", "", flags, ratings)
        labels.add(path, record)


def test_a_person_with_choices_ratings_and_flags_gets_a_reward_model(flags, tmp_path, capsys):
    write_labels(tmp_path / "labels.jsonl")
    answers = ["--data", str(tmp_path / "labels.jsonl")]
    with pytest.raises(InputError, match="--labels: is of the experiment, and --data has people"):
        judgements.main([*flags, *answers])
    own = flags[: flags.index("--labels")]
    command = [*own, *answers, "--max-new-tokens", "3", "--threads", "1", *SLOWER]
    judgements.main(command)
    output = capsys.readouterr().out
    assert "60 choices, 120 ratings and 120 responses looked at for flags (40 rude, 0 un" in output
    assert re.search(r"of \d held-out choices 1.000 are predicted", output)
    assert f"next: python train_ppo.py --sft {flags[1]} --out {flags[3]} --mix-data" in output
    model, tokenizer, _ = reward.load_reward_model(tmp_path / "parts" / "rm")
    scores = reward.score(model, tokenizer, ["Pick 1000.\n"] * 3, list("brg")).tolist()
    assert scores == sorted(scores, reverse=True)
    with pytest.raises(InputError, match="rm already holds a run; replace it with --overwrite, or"):
        judgements.main(command)
    judgements.main([*command, "--overwrite"])
    labels.add(tmp_path / "labels.jsonl", Label("x" * 500, ["b", "r"], [0, 1], "better", "ada", ""))
    with pytest.raises(InputError, match="labels.jsonl: the label on xxx.* has 502 tokens, more "):
        judgements.main([*command, "--overwrite"])


def test_a_difference_is_over_the_seeds_that_both_have():
    """Seeds 1 and 2 are 0.1 and 0.3 apart; seed 3 has no baseline."""
    x = "agreement_with_judge"
    found = {
        "a": {s: [{"labels": 64, "tied": 0.25, x: 0.5 + 0.1 * s}] for s in (1, 2, 3)},
        "b": {s: [{"labels": 64, "tied": 0.5, x: 0.6 - 0.1 * s}] for s in (1, 2)},
    }
    assert measured.difference(found, "a", "b", ("labels", 64)) == "+0.200 +- 1.271"
    assert measured.difference(found, "a", "b", ("labels", 128)) == "-"
    lines = measured.tables(found, "labels", [64], "b", "tied")
    assert [line.split() for line in lines if line.startswith("a ")] == [
        ["a", "3", "0.700", "0.250"],
        ["a", "+0.200", "+-", "1.271"],
    ]
    assert measured.mean({1: 256, 2: 256}) == "256" and measured.mean({}) == "-"
