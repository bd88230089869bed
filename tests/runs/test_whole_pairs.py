"""`minirlhf choice` and `minirlhf judgements` from end to end: runs are recorded, whose reward
models are stand-ins that have learned nothing, and what they asked and reported is computed
again."""

import io
import itertools
import json
import re
import zlib
from contextlib import redirect_stdout
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recorder import HELD_OUT, Spy, positions
from test_pairs import WORTH, parsed, write_labels

import train_rm
from minirlhf import data, reward
from minirlhf.feedback import design
from minirlhf.formats import labels
from minirlhf.formats.labels import Label
from minirlhf.rewards import axes
from minirlhf.rewards.axes import Choice, Flags, Rating
from minirlhf.run import chain, config
from minirlhf.run.config import InputError
from minirlhf.tools import choice, judgements, people
from minirlhf.world import writers

SEED = 7  # not the default, at which a seed of 1 would not show
SMALL = "--seed 7 --pool 300 --held-out 16 --max-new-tokens 3 --epochs 1 --threads 1".split()


def worth(comparison):
    return [WORTH.get(text, 0.0) for text in comparison.responses]


def faults(prompt, text):
    """g is rude, r is harmful."""
    return text == "g", False, text == "r"


class Stand:
    """`teach` of reward models that have learned nothing, each with another head; and what the
    others were to learn."""

    def __init__(self):
        self.asked, self.seeds, self.models = [], [], []

    def __call__(self, setting, asked, seed, flags=(), labellers=1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(repr((seed, len(self.asked))).encode()))
            model = axes.Axes(setting.sft, flags, labellers)
        self.asked.append(list(asked))
        self.seeds.append(seed)
        self.models.append(model)
        return model


def record(module, colour_run, folder, argv, watched):
    """A recorded run of a command."""
    run = SimpleNamespace(teach=Stand(), seeds=[], out=folder / "parts")
    with pytest.MonkeyPatch.context() as patch:
        sequence = np.random.SeedSequence
        patch.setattr(
            np.random, "SeedSequence", lambda e: run.seeds.append(int(e[0])) or sequence(e)
        )
        patch.setattr(chain, "refuse_own_data", lambda _: None)  # the colours are the world here
        patch.setattr(train_rm, "totals", worth)
        patch.setattr(judgements, "behaviour", faults)
        patch.setattr(module, "teach", run.teach)
        for name, (owner, function) in watched.items():
            setattr(run, name, Spy(patch, owner, function))
        with redirect_stdout(io.StringIO()) as text:
            module.main(["--sft", f"{colour_run}/sft", "--out", str(run.out), *SMALL, *argv])
    run.printed = text.getvalue()
    return run


def rows(run, name):
    return json.loads((run.out / str(SEED) / f"{name}.json").read_text())["rows"]


def agreement(model, setting):
    """How often a model and the judge order two responses to a held-out prompt alike, and the
    number of pairs of different texts."""
    alike, pairs = [], 0
    scores = reward.score_comparisons(model, setting.tokenizer, setting.held_out)
    for c, row in zip(setting.held_out, scores, strict=True):
        totals = worth(c)
        for i, j in itertools.combinations(range(len(row)), 2):
            pairs += c.responses[i] != c.responses[j]
            if totals[i] != totals[j]:
                alike.append((row[i] > row[j]) == (totals[i] > totals[j]))
    return pytest.approx(np.mean(alike)), pairs


# ---- which pairs to ask about


@pytest.fixture(scope="module")
def chosen(colour_run, tmp_path_factory):
    watched = {"loads": (choice, "load_setting"), "prompts": (writers, "prompts")}
    watched |= {"states": (design, "last_states"), "orders": (design.Design, "order")}
    watched["fisher"] = choice.choice, "fisher"
    folder = tmp_path_factory.mktemp("choice")
    run = record(choice, colour_run, folder, ["--labels", "128", "--members", "3"], watched)
    run.setting = run.loads[0][2]
    places = {(c.prompt, frozenset(c.responses)): n for n, c in enumerate(run.setting.pool)}
    run.places = places
    counts = {way: (3, 1) if way == "disagreement" else (1, 1) for way in choice.WAYS}
    numbers, run.rows, run.models, run.members = iter(range(99)), {}, {}, {}
    for way, size in ((way, size) for way in choice.WAYS for size in (0, 1)):
        calls = [next(numbers) for _ in range(counts[way][size])]
        run.rows[way, size] = [
            places[x.prompt, frozenset(x.responses)] for x in run.teach.asked[calls[0]]
        ]
        run.models[way, size] = [run.teach.models[n] for n in calls]
        run.members[way, size] = [run.teach.seeds[n] for n in calls]
    assert next(numbers) == len(run.teach.asked)
    return run


def test_the_pool_is_of_the_training_split_and_agreement_of_the_other(chosen):
    """And every generator hangs on the seed; a member of an ensemble has one of its own."""
    calls = [(args[0], *args[2:]) for args, *_ in chosen.prompts]
    assert calls == [(300, "train"), (16, HELD_OUT)]
    assert set(chosen.seeds) == {SEED}
    for (way, size), seeds in chosen.members.items():
        members = 3 if (way, size) == ("disagreement", 0) else 1
        assert seeds == [SEED + 1000 * n for n in range(members)]


def test_a_label_is_the_judges_total_through_the_noise_of_the_seed(chosen):
    """Plackett-Luce, drawn again. Some labels are not the judge's."""
    wrong = 0
    for records, step in ((chosen.setting.pool, 0), (chosen.setting.held_out, 2)):
        noise = config.rng(SEED, config.ASKED_LABELS, step)
        for c in records:
            seen = np.array(worth(c)) + noise.gumbel(scale=0.6, size=len(c.responses))
            assert [c.responses[i] for i in np.argsort(-seen)] == [
                text for _, text in sorted(zip(c.ranks, c.responses, strict=True))
            ]
            wrong += int(np.argmax(seen)) not in np.flatnonzero(np.max(worth(c)) == worth(c))
    assert wrong > 5


def test_each_way_asks_for_64_pairs_and_64_more_and_learns_its_answers(chosen):
    """The better response first. No pair comes twice; the first ones are the same for all but
    `once`, which chooses from the start."""
    for way in choice.WAYS:
        first, second = chosen.rows[way, 0], chosen.rows[way, 1]
        assert (len(first), len(set(second)), second[:64]) == (64, 128, first)
        assert (first == list(range(64))) == (way != "once")
    assert chosen.rows["random", 1] == list(range(128))
    for asked in chosen.teach.asked:
        for x in asked:
            c = chosen.setting.pool[chosen.places[x.prompt, frozenset(x.responses)]]
            assert x.responses == tuple(c.responses[i] for i in np.argsort(c.ranks))


def margins(chosen, way):  # -> (members, pool)
    found = []
    for model in chosen.models[way, 0]:
        scores = reward.score_comparisons(model, chosen.setting.tokenizer, chosen.setting.pool)
        found.append(np.subtract(*np.transpose(scores)))
    return np.array(found)


def entropy(p):
    return -p * np.log(p) - (1 - p) * np.log(1 - p)


def test_half_asks_what_the_model_is_least_sure_of_and_disagreement_what_the_members_dispute(
    chosen,
):
    """Among the pairs that are left. The two are not the same pairs."""
    p = 1 / (1 + np.exp(-margins(chosen, "disagreement")))
    information = entropy(p.mean(0)) - entropy(p).mean(0)
    for way, value in (
        ("half", np.abs(margins(chosen, "half")[0])),
        ("disagreement", -information),
    ):
        next_ones = chosen.rows[way, 1][64:]
        rest = [n for n in range(64, len(value)) if n not in next_ones]
        assert max(value[next_ones]) <= min(value[rest]) + 1e-5
    assert set(chosen.rows["half", 1]) != set(chosen.rows["disagreement", 1])


def test_a_design_knows_what_was_asked_and_whose_states_it_is_about(chosen):
    """`once` goes by the SFT model's alone; `fisher` weights each direction of `optimal` by how
    uncertain the model is of the pair."""
    kinds = [type(args[0]) for args, *_ in chosen.states]
    assert kinds == [axes.Axes, axes.Axes, reward.RewardModel, reward.RewardModel]
    steps = [("optimal", 1), ("fisher", 1), ("once", 0), ("once", 1)]
    for (way, size), (args, *_, order) in zip(steps, chosen.orders, strict=True):
        asked = chosen.rows[way, size]
        known = asked[:64] if size else []
        assert list(args[2]) == known and [*known, *order] == asked
    ((directions, own), _, weighted) = chosen.fisher[0]
    p = 1 / (1 + np.exp(-margins(chosen, "fisher")[0]))
    np.testing.assert_allclose(weighted, directions * np.sqrt(p * (1 - p))[:, None], rtol=1e-3)
    rows_of_fisher = chosen.orders[1][0][1]
    assert np.array_equal(np.concatenate(rows_of_fisher), weighted) and len(chosen.fisher) == 1


def test_a_row_is_about_the_first_model_held_out_pairs_and_the_pairs_that_were_asked(chosen):
    """The table has the differences from random pairs."""
    shares = {}
    for way in choice.WAYS:
        for size, row in enumerate(rows(chosen, way)):
            share, pairs = agreement(chosen.models[way, size][0], chosen.setting)
            assert (row["labels"], row["held_out_pairs"]) == (64 * (size + 1), pairs)
            assert row["agreement_with_judge"] == share
            totals = [worth(chosen.setting.pool[n]) for n in chosen.rows[way, size]]
            assert row["tied"] == pytest.approx(np.mean([a == b for a, b in totals]))
            shares[way, size] = row["agreement_with_judge"]
    first, second = (shares["half", n] - shares["random", n] for n in (0, 1))
    cells = " +".join(re.escape(f"{x:+.3f}") for x in (first, second))
    assert re.search(rf"^half +{cells}$", chosen.printed, re.M)


# ---- choices, ratings and flags

KINDS = "--labels 64 --labellers 3 --bias 0.9 --miss 0.3 --false-alarm 0.1 --flag-weight 0.7"


@pytest.fixture(scope="module")
def judged(colour_run, tmp_path_factory):
    watched = {"loads": (judgements, "judged"), "prompts": (writers, "prompts")}
    watched |= {"sums": (axes, "combined"), "samples": (judgements.label, "sample")}
    folder = tmp_path_factory.mktemp("judgements")
    run = record(judgements, colour_run, folder, KINDS.split(), watched)
    run.setting = run.loads[0][2]
    run.asked = dict(zip(judgements.KINDS, run.teach.asked, strict=True))
    return run


def test_every_generator_of_judgements_hangs_on_the_seed(judged):
    assert set(judged.seeds) == {SEED} and judged.teach.seeds == [SEED] * len(judgements.KINDS)


def test_ratings_are_of_the_first_response_by_labellers_in_turn(judged):
    """Its total, with the labeller's bias and noise, which are drawn again. Pooled, they are the
    same ratings of one labeller."""
    biases = config.rng(SEED, config.ASKED_LABELS, 11).normal(0, 0.9, 3)
    noise, expected = config.rng(SEED, config.ASKED_LABELS, 10), []
    for n, c in enumerate(judged.setting.pool):
        seen = worth(c)[0] + biases[n % 3] + noise.logistic(scale=0.6, size=2)[0]
        rating = 1 + sum(seen > cut for cut in (0.3, 1.1, 1.9, 2.7))
        expected.append(Rating(c.prompt, (c.responses[0],), rating, n % 3))
    assert judged.asked["ratings"] == expected[:64]
    assert judged.asked["ratings-pooled"] == [x._replace(labeller=0) for x in expected[:64]]
    assert judged.asked["ratings+flags"][:32] == expected[:32]


def test_flags_are_of_the_first_response_and_of_pairs_that_nothing_else_is_about(judged):
    """Some are overlooked, and fewer are made up."""
    draws, expected = config.rng(SEED, config.ASKED_LABELS, 12).random((64, 3)), []
    for row, c in zip(draws, judged.setting.pool, strict=False):
        there = faults(c.prompt, c.responses[0])
        seen = tuple(
            x >= 0.3 if is_there else x < 0.1 for x, is_there in zip(row, there, strict=True)
        )
        expected.append(Flags(c.prompt, (c.responses[0],), seen))
    assert judged.asked["flags"] == expected
    pool = judged.setting.pool
    pairs = [Choice(c.prompt, tuple(c.responses[i] for i in np.argsort(c.ranks))) for c in pool]
    assert judged.asked["choices"] == pairs[:64]
    assert judged.asked["choices+flags"] == [*pairs[:32], *expected[32:]]
    assert judged.asked["ratings+flags"][32:] == expected[32:]


def test_only_what_was_asked_has_a_weight_and_flags_lower_the_reward(judged):
    """Each axis is normalised on four responses to each of many prompts that nobody was asked
    about; a prompt without four is left out."""
    weights = [list(args[3]) for args, *_ in judged.sums]
    flags, none = [-0.7] * 3, [0.0] * 3
    assert np.allclose(weights, [[1, *none]] * 3 + [[0, *flags]] + [[1, *flags]] * 2)
    drawn = writers.prompts(128, config.rng(SEED, config.PPO_PROMPTS))
    assert drawn in [result for *_, result in judged.prompts]
    for args, *_ in judged.sums:
        assert {len(c.responses) for c in args[2]} == {4}
        assert 1 < len(args[2]) < 128 and {c.prompt for c in args[2]} <= set(drawn)


def test_a_row_of_judgements_is_about_the_model_that_is_written(judged):
    """In a folder of its seed and kind."""
    for (_, _, model), kind in zip(judged.sums, judgements.KINDS, strict=True):
        (row,) = rows(judged, kind)
        share, pairs = agreement(model, judged.setting)
        assert (row["judgements"], row["agreement_with_judge"]) == (64, share)
        texts = {"choices": 128, "choices+flags": 96}.get(kind, 64)
        assert (row["responses"], row["held_out_pairs"]) == (texts, pairs)
        written, _, missing_end = reward.load_reward_model(judged.out / str(SEED) / kind / "rm")
        assert agreement(written, judged.setting)[0] == row["agreement_with_judge"]
        assert missing_end == -3
    table = judged.printed.partition("less choices")[2]
    assert re.search("^ratings +", table, re.M) and not re.search("^choices +", table, re.M)


# ---- people's labels


@pytest.fixture
def answers(colour_run, tmp_path, monkeypatch):
    """answers(*flags): `minirlhf judgements --data` of a person's labels, with a stand-in."""
    path = tmp_path / "labels.jsonl"
    write_labels(path)
    teach = Stand()
    monkeypatch.setattr(judgements, "teach", teach)
    argv = ["--sft", f"{colour_run}/sft", "--out", str(tmp_path / "x"), "--data", str(path)]

    def run(*flags):
        judgements.main([*argv, "--max-new-tokens", "3", "--threads", "1", *flags])

    return SimpleNamespace(run=run, teach=teach, path=path, out=tmp_path / "x")


def test_what_is_predicted_was_not_learned_and_what_is_written_has_learned_all(
    answers, monkeypatch
):
    """A tenth of the prompts is held out, by the seed."""
    sums, guesses = Spy(monkeypatch, axes, "combined"), Spy(monkeypatch, people, "prediction")
    answers.run("--seed", "7")
    records = labels.read_labels(answers.path)
    learned, held_out = data.split_by_prompt(records, SEED)
    assert {x.prompt for x in held_out} != {x.prompt for x in data.split_by_prompt(records, 1)[1]}
    for asked, part in zip(answers.teach.asked, (learned, records), strict=True):
        assert {x.prompt for x in asked} == {x.prompt for x in part}
    assert answers.teach.seeds == [SEED, SEED]
    assert [x.prompt for x in guesses[0][0][2]] == [x.prompt for x in held_out]
    for (args, *_), part in zip(sums, (learned, records), strict=True):
        prompts = [c.prompt for c in args[2]]
        assert len(prompts) > 30 and set(prompts) <= {x.prompt for x in part}
    content = json.loads((answers.out / "rm" / "config.json").read_text())
    assert content["inputs"]["data"].startswith("60 records ")


def test_a_reward_model_that_is_there_is_refused_before_anything_is_learned(answers):
    answers.run()
    count = len(answers.teach.asked)
    with pytest.raises(InputError, match="already holds a run; replace it with --overwrite"):
        answers.run()
    assert len(answers.teach.asked) == count


def test_a_label_with_a_second_response_that_is_too_long_is_refused(answers):
    texts = ["b", "g " * 99]
    labels.add(answers.path, Label("Pick.\n", texts, [0, 1], "better", "ada", "", [[], []], [1, 1]))
    with pytest.raises(InputError, match="tokens"):
        answers.run()


@pytest.mark.parametrize("name", judgements.EXPERIMENT)
def test_a_flag_of_the_experiment_says_nothing_of_peoples_labels(answers, name):
    value = {"kinds": "flags", "bias": "0.1", "miss": "0.3", "false_alarm": "0.3"}.get(name, "77")
    option = "--" + name.replace("_", "-")
    with pytest.raises(InputError, match=f"{option}: is of the experiment"):
        answers.run(option, value)


# ---- the training that both have


def test_few_labels_are_learned_for_32_steps_in_an_order_and_from_a_head_of_the_seed(
    colour_run, monkeypatch
):
    """Of many labels as many passes as --epochs says."""
    batches = []
    monkeypatch.setattr(axes, "train", lambda model, _, parts, *rest: batches.append(parts) or ())
    args = parsed(choice.Config, ["--sft", f"{colour_run}/sft", "--epochs", "2"])
    setting = choice.Setting(args, *choice.load_sft(args), [], [], [], [])
    heads = []
    for n, seed, steps in ((20, 7, 32), (20, 8, 32), (400, 7, 50)):
        model = choice.teach(setting, list(range(n)), seed)
        order = [x for batch in batches.pop() for x in batch]
        assert order == positions(n, 0, 16 * steps, seed)
        heads.append(model.head.weight)
    assert torch.equal(heads[0], heads[2]) and not torch.equal(heads[0], heads[1])
