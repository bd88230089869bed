"""The methods' commands from end to end: what a whole run drew, asked, handed on and reported,
held against code that computes it again."""

import io
import itertools
import json
import re
import shutil
import zlib
from contextlib import redirect_stdout
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import few
from recorder import HELD_OUT, Spy, digest, loop_raw, positions, save_reward_model, varied_judge

import train_ppo
import train_rm
from minirlhf import data, evaluate, reward
from minirlhf.data import Comparison
from minirlhf.feedback import ai as opinions
from minirlhf.feedback import simulated
from minirlhf.formats import jsonl
from minirlhf.run import checkpoint, compute, config, damage, resume
from minirlhf.run.config import InputError
from minirlhf.run.metrics import read_metrics
from minirlhf.tokenizer import get_tokenizer
from minirlhf.tools import ai, demonstrations, labeller, meta, parts, ptx, rejection
from minirlhf.world import judge, measures, writers

SEED = 7  # not the default, at which a seed of 1 would not show


def number(*texts):
    """A number in [0, 1) that depends on every character."""
    return zlib.crc32("|".join(texts).encode()) % 99_991 / 99_991


# ---- a model as the labeller


def opinion(prompt, response):
    """Log-probabilities of the good and of the bad verdict, in two wordings that disagree."""
    return [[3 * number(prompt, response, word, x) for x in "+-"] for word in "vw"]


@pytest.fixture
def scripted(monkeypatch):
    """A labeller with such opinions."""

    def ask(gpt, tokenizer, prompts, responses):
        return torch.tensor([opinion(*pair) for pair in zip(prompts, responses, strict=True)])

    monkeypatch.setitem(opinions.OPINIONS, "scripted", ask)
    return opinions.Labeller(None, None, "scripted")


def test_the_gate_is_computed_again_kind_by_kind(scripted, capsys, monkeypatch):
    """From the opinions of single responses: of each kind its own pairs, the mean over wordings,
    and every good response against every bad one. The kinds are told apart by their AUC."""
    pairs = writers.contrasts(36, config.rng(SEED, config.CONTRASTS))
    ai.show_gate(ai.Config(contrasts=36, seed=SEED), scripted)
    printed = capsys.readouterr().out
    odds = {x[1:3]: [g - b for g, b in opinion(*x[1:3])] for x in pairs}
    odds |= {(x[1], x[3]): [g - b for g, b in opinion(x[1], x[3])] for x in pairs}
    shares, areas = {}, {}
    for kind in dict.fromkeys(x[0] for x in pairs):
        of_kind = [x for x in pairs if x[0] == kind]
        sides = [[odds[x[1], x[side]] for x in of_kind] for side in (2, 3)]
        likely = [np.mean(1 / (1 + np.exp(np.subtract(b, a)))) for a, b in zip(*sides, strict=True)]
        good, bad = (np.mean(side, 1) for side in sides)
        shares[kind] = np.mean(np.array(likely) > 0.5)
        areas[kind] = np.mean([x > y for x in good for y in bad])
        row = rf"^{kind} +{len(of_kind)} +{shares[kind]:.2f} +{areas[kind]:.2f}$"
        assert re.search(row, printed, re.M), (row, printed)
    blind = [kind for kind in areas if areas[kind] < 0.6]
    assert f"so it sees too little: {', '.join(blind)}\n" in printed
    assert 0 < len(blind) < len(areas) > len(set(areas.values())) - 1 > 2
    assert blind != [kind for kind in shares if shares[kind] < 0.6]


def test_a_labeller_who_only_likes_what_comes_first_is_right_about_nothing():
    """Each pair is shown in both orders, and one half is no verdict."""
    for sure in (0.9, 0.5):
        rows = ai.gate(ai.Config(contrasts=12), lambda prompts, *_, p=sure: [p] * len(prompts))
        assert {row[2] for row in rows} == {0.0}


LABELLER = """
import zlib
def reward(prompts, first, second):
    triples = zip(prompts, first, second)
    return [0.1 + zlib.crc32(f"{p}|{a}|{b}".encode()) % 89 / 100 for p, a, b in triples]
"""


def likely(prompt, a, b):
    """What LABELLER says of both orders together."""
    first, swapped = (
        0.1 + zlib.crc32(f"{prompt}|{x}|{y}".encode()) % 89 / 100 for x, y in ((a, b), (b, a))
    )
    return (first + 1 - swapped) / 2


@pytest.fixture
def ranked(tmp_path):
    """A file of 24 comparisons of three responses to prompts of the world, with people's ranks."""
    prompts = writers.prompts(24, config.rng(3, config.PPO_PROMPTS))
    records = [
        Comparison(prompt, [f"{word} {n}." for word in ("Yes", "No", "So")], list(order))
        for n, (prompt, order) in enumerate(
            zip(prompts, itertools.cycle(itertools.permutations(range(3))), strict=False)
        )
    ]
    path = tmp_path / "people.jsonl"
    path.write_text(jsonl.write_records(records))
    return path, records


def test_each_label_is_of_its_own_record(ranked, my_rewards, tmp_path):
    """With a user's file, of whose records the first ones are taken."""
    path, records = ranked
    for more, count in (([], 24), (["--records", "5"], 5)):
        to = tmp_path / f"soft-{count}.jsonl"
        ai.main(["--data", str(path), "--labeller", my_rewards(LABELLER), "--to", str(to), *more])
        labelled = jsonl.read_comparisons(to)
        assert [(c.prompt, c.responses) for c in labelled] == [
            (c.prompt, c.responses) for c in records[:count]
        ]
        for c in labelled:
            for i, j in itertools.permutations(range(3), 2):
                expected = likely(c.prompt, c.responses[i], c.responses[j])
                assert c.likely[i][j] == pytest.approx(expected, abs=1e-5)


def test_the_agreement_of_model_judge_and_people_is_computed_again(
    ranked, my_rewards, capsys, monkeypatch
):
    """For each kind of prompt that is there, and for all; the three columns differ."""
    path, records = ranked
    monkeypatch.setattr(ai, "judge", varied_judge)
    monkeypatch.setattr(writers, "contrasts", partial(few, writers.contrasts))
    argv = ["--comparisons", str(path), "--labeller", my_rewards(LABELLER), "--contrasts", "12"]
    ai.main([*argv, "--records", "18"])
    printed = capsys.readouterr().out.partition("model and judge")[2]
    votes = {"all": []}
    for c in records[:18]:
        totals = [varied_judge(c.prompt, text).total for text in c.responses]
        table = [[likely(c.prompt, a, b) for b in c.responses] for a in c.responses]
        model = [sum(table[i][j] for j in range(3) if j != i) for i in range(3)]
        sides = model, [-rank for rank in c.ranks], totals
        for i, j in itertools.combinations(range(3), 2):
            verdicts = [np.sign(side[i] - side[j]) for side in sides]
            for kind in ("all", measures.group(c.prompt)):
                votes.setdefault(kind, []).append((measures.cluster(c.prompt), c, *verdicts))
    assert len(votes) > 3
    for kind, rows in votes.items():
        model, people, truth = np.array([row[2:] for row in rows]).T
        decided = truth != 0
        shares = [np.mean((side == truth)[decided]) for side in (model, people)]
        shares.append(np.mean(model == people))
        assert kind != "all" or len(set(shares)) == 3
        cells = " +".join(f"{x:.2f}" for x in shares)
        prompts = len({id(row[1]) for row in rows})
        assert re.search(rf"^{kind} +{prompts} +{cells}$", printed, re.M), (kind, cells, printed)


def test_the_numbers_of_the_labels_are_printed_under_their_names():
    numbers = {"pairs": 1200, "same_text": 0.1, "flips": 0.2, "first_wins": 0.3, "sure": 0.4}
    assert labeller.described("my:f", numbers | {"mass": 0.5}) == (
        "labels of my:f: 1,200 pairs, 0.100 of them with the same text; 0.200 of the verdicts turn "
        "with the order, the first wins 0.300, the mean certainty is 0.400; the mass of its "
        "verdicts is 0.500"
    )


def test_each_name_of_a_labeller_asks_in_its_own_way(world_run):
    """Of a model that has read little the three opinions differ."""
    sides = ["Who?\n"] * 2, ["It is Ned.", "No."], ["I do not know.", "It is red."]
    answers = []
    for name, ask in opinions.OPINIONS.items():
        prefer, gpt = labeller.load(name, world_run / "pretrain")
        good, bad = (ask(gpt, get_tokenizer(), sides[0], side) for side in sides[1:])
        odds = [side[..., 0] - side[..., 1] for side in (good, bad)]
        answers.append(prefer(*sides))
        torch.testing.assert_close(answers[-1], torch.sigmoid(odds[0] - odds[1]).mean(1))
    assert len(answers) == 3 == len({tuple(x.tolist()) for x in answers})


SOURCE = "def reward(prompts, first, second):\n    return [len(x) % 2 for x in first]\n"


def test_what_new_comparisons_come_from_is_known_to_the_run(world_run, ranked, my_rewards):
    """The labeller's weights or its source, the policy's weights, and the earlier comparisons,
    which stay in their order."""
    path, records = ranked
    sft, tokenizer = checkpoint.load_gpt(world_run / "sft")
    inputs = []
    for name in ("ai", my_rewards(SOURCE), my_rewards(SOURCE + "# more\n"), "human"):
        args = SimpleNamespace(labeller=name, precision=next(iter(compute.PRECISIONS)))
        paths = world_run / "pretrain", world_run / "pretrain", path
        source = labeller.load_source(args, sft, tokenizer, *paths)
        assert digest(source.policy) != digest(sft) and source.earlier == records
        inputs.append(resume.fingerprints(**source.inputs))
        assert inputs[-1]["more"] == resume.fingerprint(records)
        assert inputs[-1]["policy"] == resume.fingerprint(source.policy)
    assert inputs[0]["labeller"] == inputs[0]["policy"]
    assert len({x.get("labeller") for x in inputs}) == 4 and "labeller" not in inputs[3]
    plain = labeller.load_source(args, sft, tokenizer, "", "", "")
    assert plain.policy is sft and plain.earlier == [] and "policy" not in plain.inputs


# ---- MetaRM

META = "--step normalised --eta 0.5 --fresh 3 --batch-size 4 --meta-prompts 8 --meta-responses 3"
META += " --meta-batch 3 --measure-every 4 --held-out 6 --max-new-tokens 6 --warmup 2"


@pytest.fixture(scope="module")
def metarm(world_run, tmp_path_factory):
    """A recorded run whose policy is the pretrained model, which responds otherwise than the SFT
    model. Its reward model has a missing-end score of its own."""
    folder = tmp_path_factory.mktemp("metarm")
    shutil.copytree(world_run / "rm", folder / "old")
    state = damage.load(folder / "old" / "checkpoint.pt")
    state["missing_end_score"] = -4.5
    with open(folder / "old" / "checkpoint.pt", "wb") as file:
        damage.save(state, file)
    run = SimpleNamespace(folder=folder, seeds=[])
    with pytest.MonkeyPatch.context() as patch:
        sequence = np.random.SeedSequence
        patch.setattr(
            np.random, "SeedSequence", lambda e: run.seeds.append(int(e[0])) or sequence(e)
        )
        patch.setattr(judge, "judge", varied_judge)
        run.responds = Spy(patch, evaluate, "respond")
        run.prompts = Spy(patch, writers, "prompts")
        run.batches = Spy(patch, train_rm, "accumulate")
        run.spreads = Spy(patch, meta, "spread")
        run.changes = Spy(patch, meta.meta, "change")
        run.labels = Spy(patch, simulated, "rank")
        with redirect_stdout(io.StringIO()) as text:
            argv = ["--sft", f"{world_run}/sft", "--rm", str(folder / "old"), *META.split()]
            argv += ["--policy", f"{world_run}/pretrain", "--seed", str(SEED)]
            meta.main([*argv, "--out", str(folder / "new")])
    run.printed = text.getvalue()
    run.policy, _ = checkpoint.load_gpt(world_run / "pretrain")
    run.metrics = read_metrics(folder / "new" / "rm")
    return run


def test_every_stream_of_metarm_hangs_on_the_seed(metarm):
    """A stream that is the same for every seed makes the intervals over seeds too narrow."""
    assert set(metarm.seeds) == {SEED}


def test_the_policy_responds_k_times_to_each_prompt_of_a_split(metarm):
    """Pairs for fresh labels, groups for the meta step, and four responses each for the report, to
    prompts that nobody learns from. The texts stay with their prompts."""
    splits = [args[2] if len(args) > 2 else "train" for args, *_ in metarm.prompts]
    assert splits == ["train", "train", HELD_OUT]
    counts, texts = [], {}
    for (*_, prompts), (said, _, replies) in zip(metarm.prompts, metarm.responds, strict=True):
        k = len(replies) // len(prompts)
        counts.append((len(prompts), k))
        assert digest(said[0]) == digest(metarm.policy)
        assert list(said[2]) == [prompt for prompt in prompts for _ in range(k)]
        for prompt, reply in zip(said[2], replies, strict=True):
            texts.setdefault((k, prompt), set()).add(reply.text)
    assert counts == [(12, 2), (8, 3), (6, 4)]
    fresh = [c for args, *_ in metarm.batches for c in args[2] if len(c.responses) == 2]
    groups = [c for args, *_ in metarm.spreads for c in args[2]]
    assert fresh and all(set(c.responses) == texts[2, c.prompt] for c in fresh)
    assert groups and all(set(c.responses) == texts[3, c.prompt] for c in groups)


def test_what_metarm_logs_of_its_steps_is_what_they_were(metarm):
    """J at every step; at each --measure-every-th one the change, relative to the gradient without
    the ascent, which the reward model at that step has on that batch."""
    steps = [record for record in metarm.metrics if "loss" in record]
    assert [r["step"] for r in steps if "meta_change" in r] == [0, 4] and len(steps) > 4
    spreads = [result for *_, result in metarm.spreads]
    assert [r["difference"] for r in steps] == pytest.approx(spreads, rel=1e-5)
    calls, changes = iter(metarm.batches), iter(metarm.changes)
    for record in steps:
        args, *_ = next(calls)
        if "meta_change" in record:
            model = args[0].train()
            train_rm.accumulate(model, *args[1:])
            (plain, _), _, change = next(changes)
            torch.testing.assert_close([p.grad for p in model.parameters()], plain)
            assert record["meta_change"] == pytest.approx(change, rel=1e-5) and change > 0.01
            next(calls)


def test_metarm_keeps_the_missing_end_score_and_the_record_of_its_policy(metarm):
    """A resumed run asks the same policy."""
    assert reward.load_reward_model(metarm.folder / "new" / "rm")[2] == -4.5
    inputs = json.loads((metarm.folder / "new" / "rm" / "config.json").read_text())["inputs"]
    assert inputs["policy"] == resume.fingerprint(metarm.policy)


def test_the_report_of_metarm_is_computed_again_before_and_after(metarm):
    """On the same responses to held-out prompts: the old reward model and the new one."""
    *_, replies = metarm.responds[-1]
    prompts = metarm.prompts[-1][2]
    groups = [[replies[4 * n + i] for i in range(4)] for n in range(len(prompts))]
    columns = []
    for path in ("old", "new/rm"):
        model, *_ = reward.load_reward_model(metarm.folder / path)
        right, gaps, spreads = [], [], []
        for prompt, group in zip(prompts, groups, strict=True):
            totals = [varied_judge(prompt, reply.text).total for reply in group]
            c = Comparison(prompt, [reply.text for reply in group], [0] * 4)
            (row,) = loop_raw(model, [c])
            spreads.append(np.var(row, ddof=1))
            for i, j in itertools.combinations(range(4), 2):
                if totals[i] == totals[j]:
                    gaps.append(abs(row[i] - row[j]))
                elif c.responses[i] != c.responses[j]:
                    right.append((row[i] > row[j]) == (totals[i] > totals[j]))
        spread = np.sqrt(np.mean(spreads))
        columns.append({"agreement_with_judge": np.mean(right), "score_spread": spread})
        columns[-1]["gap_of_ties"] = np.mean(gaps)
    before, after = columns
    for name, value in after.items():
        assert metarm.metrics[-1][name] == pytest.approx(value, rel=1e-3)
        assert abs(before[name] - value) > 0.01
        row = rf"{name.replace('_', ' ')} +(\S+) +(\S+)"
        shown = re.search(row, metarm.printed).groups()
        assert [float(x) for x in shown] == pytest.approx([before[name], value], abs=2e-3)


def test_one_fresh_pair_is_not_enough_where_more_were_asked_for(monkeypatch):
    """The policy gives one text to each of the other prompts."""
    texts = [["a", "b"], *[["c", "c"]] * 11]
    asked = [Comparison(str(n), pair, [0, 0]) for n, pair in enumerate(texts)]
    monkeypatch.setattr(meta, "ask", lambda *_: asked)
    with pytest.raises(InputError, match="different responses to 1 prompts of 12, fewer than"):
        meta.fresh_labels(meta.Config(fresh=3), None, None)


# ---- models of other vocabularies


def test_a_policy_of_another_vocabulary_has_nothing_to_say_to_a_reward_model(
    bytewise, world_run, tmp_path, refused
):
    """Its texts would be cut into other tokens than those that it wrote."""
    argv = ["--sft", f"{world_run}/sft", "--rm", f"{world_run}/rm", "--policy", bytewise]
    message = refused(meta.main, [*argv, "--out", str(tmp_path / "x")], tmp_path / "x")
    assert "they must be the same" in message


def test_nor_is_it_sampled_for_new_comparisons(bytewise, world_run):
    sft, tokenizer = checkpoint.load_gpt(world_run / "sft")
    args = SimpleNamespace(labeller="human", precision=next(iter(compute.PRECISIONS)))
    with pytest.raises(InputError, match="they must be the same"):
        labeller.load_source(args, sft, tokenizer, "", bytewise, "")


# ---- demonstrations and rejection sampling: the stages are stand-ins that note their flags


@pytest.fixture
def stages(world_run, monkeypatch):
    """[(stage, flags)] of what an experiment runs. Its policies are all the pretrained model, its
    reward models that of the world."""
    calls, other = [], {"rm": str(world_run / "rm")}

    def run(main, folder, stage, flags):
        calls.append((stage, dict(flags)))
        return other.get(stage, str(world_run / "pretrain"))

    def compare(args, folder, policy, **flags):
        calls.append(("evaluation", flags | {"policy": policy}))

    monkeypatch.setattr(parts, "run", run)
    monkeypatch.setattr(parts, "compare_with_sft", compare)
    return calls


@pytest.fixture
def draws(monkeypatch):
    """A list to which every random generator that is made appends (seed, its stream, step)."""
    seeds, rng = [], np.random.SeedSequence
    monkeypatch.setattr(
        np.random, "SeedSequence", lambda e: seeds.append(tuple(map(int, e))) or rng(e)
    )
    return seeds


def of_stream(draws, stream):
    """The seeds and steps that a stream was drawn with."""
    return [(seed, n - stream.offset) for seed, number, n in draws if number == stream.number]


def test_each_round_of_gaf_hands_on_what_the_flags_say(world_run, tmp_path, stages, draws):
    """The policies, the comparisons of this round and of the one before, the shares of the
    updates, other noise and other prompts of PPO in each round, and the penalty in units of the
    raw score."""
    argv = ["--method", "gaf", "--sft", f"{world_run}/sft", "--out", str(tmp_path), *GAF.split()]
    demonstrations.main([*argv, "--seed", str(SEED)])
    place = tmp_path / "gaf"
    files = [str(place / f"round-{n}" / "comparisons.jsonl") for n in (1, 2, 3)]
    std = float(reward.load_reward_model(world_run / "rm")[0].std)
    assert abs(std - 1 / std) > 0.01
    for n, policy in enumerate(["sft", "pretrain", "pretrain"]):
        (first, rm), (second, ppo) = stages[2 * n : 2 * n + 2]
        assert (first, second) == ("rm", "ppo")
        assert rm["sft"] == ppo["sft"] == str(world_run / policy)
        assert rm["data"] == ",".join(files[max(0, n - 1) : n + 1])
        assert (rm["seed"], ppo["seed"]) == (SEED, SEED + 1000 * n)
        assert ppo["kl_coef"] == pytest.approx(0.7 / std)
        assert (ppo["batch_size"], ppo["max_new_tokens"]) == (12, 4)
        assert ppo["updates"] == [2, 2, 3][n] and not ppo["data"]
    assert stages[-1] == (
        "evaluation",
        {"policy": str(world_run / "pretrain"), "reward_model": "none", "prompts": 4},
    )
    noises = of_stream(draws, config.DEMONSTRATED_RESPONSES)
    assert len(set(noises)) == 3 and {seed for seed, *_ in draws} == {SEED}


GAF = "--rounds 3 --updates 7 --kl-coef 0.7 --batch-size 12 --demonstrations 24"
GAF += " --max-new-tokens 4 --prompts 4"


def write_demonstrations(path, n=60):
    path.write_text(
        "".join(json.dumps({"prompt": f"Say {i}.\n", "response": "b"}) + "\n" for i in range(n))
    )
    return jsonl.read_demonstrations(path)


def test_spin_learns_from_nothing_that_its_evaluation_is_on(world_run, tmp_path, stages, draws):
    """Of your own demonstrations, by the seed; and it is another experiment when their file
    changes."""
    path = tmp_path / "own.jsonl"
    records = write_demonstrations(path)
    learned, rest = ({x.prompt for x in part} for part in data.split_by_prompt(records, SEED))
    assert rest != {x.prompt for x in data.split_by_prompt(records, 1)[1]} and len(rest) > 4
    argv = ["--method", "spin", "--sft", f"{world_run}/sft", "--data", str(path), "--seed", "7"]
    argv += ["--rounds", "2", "--beta", "0.3", "--max-new-tokens", "4", "--prompts", "4"]
    demonstrations.main([*argv, "--out", str(tmp_path / "x")])
    place = tmp_path / "x" / "spin"
    for n in (1, 2):
        comparisons = jsonl.read_collected(place / f"round-{n}" / "comparisons.jsonl")
        assert {c.prompt for c in comparisons} == learned
        assert {c.responses[0] for c in comparisons} == {"b"}
    held_out = {str(x) for x in jsonl.read_prompts(place / "held-out.jsonl")}
    assert held_out < rest and len(held_out) == 4
    assert [stage for stage, _ in stages] == ["dpo", "dpo", "evaluation"]
    assert [flags["beta"] for _, flags in stages[:2]] == [0.3, 0.3]
    assert [flags["sft"] for _, flags in stages[:2]] == [
        str(world_run / name) for name in ("sft", "pretrain")
    ]
    assert {seed for seed, *_ in draws} == {SEED}
    write_demonstrations(path, 61)
    with pytest.raises(InputError, match="was made with --demonstrations 60 records"):
        demonstrations.main([*argv, "--out", str(tmp_path / "x")])


def test_a_demonstration_leaves_room_for_the_policys_response_to_its_prompt(world_run, tmp_path):
    """Though its own response is a short one."""
    sft, tokenizer = checkpoint.load_gpt(world_run / "sft")
    path, context = tmp_path / "own.jsonl", sft.config.context
    rows = [{"prompt": "a" * n + "\n", "response": "b"} for n in (5, context)]
    while len(tokenizer.encode(rows[1]["prompt"])) > context - 6:
        rows[1]["prompt"] = rows[1]["prompt"][1:]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for room, expected in ((4, rows), (16, rows[:1])):
        args = demonstrations.Config(data=str(path), max_new_tokens=room, drop_long=True)
        kept = demonstrations.load_demonstrations(args, context, tokenizer)
        assert [x.prompt for x in kept] == [row["prompt"] for row in expected]


REJECTION = "--best-of 3 --max-new-tokens 6 --held-out 4 --lr 0.02 --epochs 3 --rounds 2"


def test_each_round_of_rejection_hands_on_what_the_flags_say(
    colour_run, colours, tmp_path, stages, draws, monkeypatch
):
    """The policy, and the best responses of other noise. The score is the reward model's, with its
    missing-end score; both models and the prompts are known when the command goes on."""
    scores = Spy(monkeypatch, rejection, "records")
    path = str(shutil.copytree(colour_run / "sft", tmp_path / "second"))
    monkeypatch.setattr(parts, "run", lambda _, *call: stages.append(call[1:]) or path)
    own = colours / "prompts.jsonl"
    argv = ["--sft", f"{colour_run}/sft", "--rm", f"{colour_run}/rm", "--data", str(own)]
    rejection.main([*argv, "--out", str(tmp_path / "x"), "--seed", "7", *REJECTION.split()])
    for n, start in enumerate([f"{colour_run}/sft", path]):
        stage, flags = stages[n]
        place = tmp_path / "x" / f"round-{n + 1}"
        assert (stage, flags["init"]) == ("sft", start)
        assert flags["data"] == str(place / "demonstrations.jsonl")
        assert (flags["lr"], flags["epochs"], flags["seed"]) == (0.02, 3, SEED)
        sampled = json.loads((place / "samples.jsonl.config.json").read_text())
        assert sampled["flags"]["seed"] == SEED + 1000 * n
        assert set(sampled["inputs"]) == {"policy", "prompts"}
    assert stages[2][1]["policy"] == path
    noises = of_stream(draws, config.SAMPLE_NOISE)
    assert {seed for seed, _ in noises} == {SEED, SEED + 1000} and len(set(noises)) == len(noises)
    prompts = [str(x) for x in jsonl.read_prompts(own)]
    learned, rest = data.split_by_prompt(prompts, SEED)
    assert rest != data.split_by_prompt(prompts, 1)[1]
    assert all(list(map(str, args[3])) == learned for args, *_ in scores)
    model, tokenizer, _ = reward.load_reward_model(colour_run / "rm")
    experiment = json.loads((tmp_path / "x" / "experiment.json").read_text())
    assert experiment["rm"] == resume.fingerprint(model)
    cut_off = evaluate.Reply("b", data.Example(tokenizer.encode("Pick b"), 1), False)
    assert scores[0][0][2](["Pick"], [cut_off]).tolist() == [-3.0]


def test_rejection_draws_training_prompts_of_the_world_anew_in_each_round(
    world_run, tmp_path, stages, draws, monkeypatch
):
    """(The toy policy does not know how to end.)"""
    finished = rejection.finished
    monkeypatch.setattr(
        rejection, "finished", lambda rows: finished([row | {"ended": True} for row in rows])
    )
    prompts = Spy(monkeypatch, writers, "prompts")
    argv = ["--sft", f"{world_run}/sft", "--rm", f"{world_run}/rm", "--out", str(tmp_path / "x")]
    rejection.main([*argv, "--prompts", "6", "--seed", "7", *REJECTION.split()])
    assert of_stream(draws, config.PPO_PROMPTS) == [(SEED, 0), (SEED + 1000, 0)]
    assert [len(args) for args, *_ in prompts] == [2, 2]  # the training split, by default


def test_a_prompt_leaves_room_in_the_smaller_one_of_two_contexts(
    colour_run, tmp_path, refused, stages
):
    """The policy's is 32 tokens, the reward model's 64."""
    save_reward_model(tmp_path / "rm", 5, -3.0)
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "a b c d e f g h i j k l m n o p q r s t u v w x y z\n"}))
    argv = ["--sft", f"{colour_run}/sft", "--rm", str(tmp_path / "rm"), "--data", str(path)]
    argv += ["--out", str(tmp_path / "x"), "--held-out", "2", "--best-of", "2"]
    message = refused(rejection.main, argv, tmp_path / "none")
    assert "32" in message


# ---- PPO-ptx


def test_the_documents_of_ptx_are_split_once_and_drawn_by_the_seed(monkeypatch):
    """The first tenth is measured on, the others are learned from; the longest that fits the
    context is one of them."""
    monkeypatch.setattr(ptx, "DOCUMENTS", 300)
    tokenizer = get_tokenizer()
    documents = writers.documents(300, config.rng(SEED, config.PTX_DOCUMENTS))
    encoded = [data.encode(tokenizer, "", document) for document in documents]
    context = sorted({len(example.tokens) for example in encoded})[-3]
    learned, held_out = ptx.load_text("", SEED, tokenizer, context)
    assert held_out + learned == [x for x in encoded if len(x.tokens) <= context]
    assert len(held_out) == len(held_out + learned) // 10
    assert any(len(x.tokens) == context for x in encoded)


def test_an_iteration_of_ptx_takes_a_document_of_each_optimiser_step(make_gpt, monkeypatch):
    """Epochs times minibatches of them, from what is learned from; the others come back for the
    measurement."""
    monkeypatch.setattr(ptx, "DOCUMENTS", 300)
    tokenizer, gpt = get_tokenizer(), make_gpt(context=64)
    args = train_ppo.Config(ptx_coef=0.5, ptx_batch=3, epochs=2, minibatches=5, seed=SEED)
    loss, learned, held_out = ptx.load(args, tokenizer, gpt)
    assert (learned, held_out) == ptx.load_text("", SEED, tokenizer, 64)
    assert loss.examples == learned and held_out and not any(x in learned for x in held_out)
    batches = []
    monkeypatch.setattr(ptx, "backpropagate", lambda gpt, batch, *_: batches.append(batch))
    for iteration in (0, 1):
        auxiliary = loss(iteration)
        for _ in range(2 * 5):
            auxiliary()
    order = positions(len(learned), 0, 60, SEED)
    assert [x for batch in batches for x in batch] == [learned[i] for i in order]
