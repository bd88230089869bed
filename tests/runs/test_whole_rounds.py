"""Three rounds of `minirlhf rounds` whose stages only write what a stage leaves behind: what each
was told, and every number that is kept of a round, computed again from the files."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from toys import TOKENIZER, save_policy, save_reward_model, written

import train_ppo
import train_rm
from minirlhf import evaluate, reward
from minirlhf.data import Comparison
from minirlhf.formats import jsonl
from minirlhf.run import config
from minirlhf.run.checkpoint import load_gpt
from minirlhf.run.config import HELD_OUT_PROMPTS, rng, round_seed
from minirlhf.run.folder import COMPARISONS
from minirlhf.tools import rounds
from minirlhf.world import judge, writers

SEED, TOKENS, HELD_OUT = 5, 7, 12
FLAGS = ["--rounds", "3", "--prompts", "6", "--seed", str(SEED), "--updates", "11"]
FLAGS += ["--kl-coef", "0.3", "--max-new-tokens", str(TOKENS), "--held-out", str(HELD_OUT)]
FLAGS += ["--rm", "--epochs 2 --lr 0.5", "--ppo", "--epochs 3 --lr 0.25 --batch-size 16"]


@pytest.fixture
def whole(make_gpt, tmp_path, monkeypatch):
    """whole(*flags) -> what the stages were told: lists of their Configs, of tmp_path/out."""
    monkeypatch.setattr(evaluate, "respond", written)
    models = (make_gpt(TOKENIZER.vocab_size, context=64, std=0.1, seed=n) for n in range(99))
    for name in ("sft", "pretrain", "labeller"):
        save_policy(tmp_path / name, next(models))
    told = SimpleNamespace(rm=[], ppo=[])

    def rm(argv):
        args = config.parse(train_rm.Config, argv)
        told.rm.append(args)
        folder = save_reward_model(f"{args.out}/rm", next(models), -2.0 - len(told.rm))
        new = comparisons(args.seed, args.prompts)
        before = jsonl.read_collected(args.more) if args.more else []
        with open(f"{folder}/{COMPARISONS}", "w", encoding="utf-8") as file:
            file.write(jsonl.write_records([*before, *new]))

    def ppo(argv):
        told.ppo.append(config.parse(train_ppo.Config, argv))
        save_policy(f"{told.ppo[-1].out}/ppo", next(models))

    monkeypatch.setattr(train_rm, "main", rm)
    monkeypatch.setattr(train_ppo, "main", ppo)

    def call(*flags):
        rounds.main(
            ["--out", str(tmp_path / "out"), "--sft", str(tmp_path / "sft"), *FLAGS, *flags]
        )
        return told

    return call


def comparisons(seed, n):
    """Rankings of three responses; of some prompts two of them are equal, and the labels follow the
    judge more often from seed to seed."""
    r = np.random.default_rng(seed % 1009)
    records = []
    for i, prompt in enumerate(writers.prompts(n, r)):
        texts = [*writers.faultless([prompt], r), "I do not know.", "Please ask again."]
        texts[1] = texts[0] if i < seed % 4 else texts[1]
        order = sorted(texts, key=lambda text: -judge.judge(prompt, text).total)
        ranks = [order.index(text) for text in texts] if r.random() < 0.6 else [2, 0, 1]
        records.append(Comparison(prompt, texts, ranks))
    return records


def test_every_stage_of_a_round_is_told_its_place_in_the_loop(whole, tmp_path):
    """Samples are of the policy before, comparisons of all rounds; reward models and policies start
    as the SFT model. The flags in quotes go to their own stage, all others to both."""
    told, out = whole(), tmp_path / "out"
    for n, (rm, ppo) in enumerate(zip(told.rm, told.ppo, strict=True)):
        here, before = str(out / f"round-{n + 1}"), out / f"round-{n}"
        for stage in (rm, ppo):
            assert (stage.out, stage.seed) == (here, round_seed(SEED, n))
            assert (stage.sft, stage.max_new_tokens) == (str(tmp_path / "sft"), TOKENS)
        assert rm.policy == (str(before / "ppo") if n else "")
        assert rm.more == (str(before / "rm" / COMPARISONS) if n else "")
        assert (rm.prompts, rm.epochs, rm.lr, rm.labeller) == (6, 2, 0.5, "human")
        assert (ppo.updates, ppo.kl_coef, ppo.epochs, ppo.lr) == (11, 0.3, 3, 0.25)
    assert len(told.rm) == 3 and len({rm.seed for rm in told.rm}) == 3


def test_a_moving_reference_is_where_the_policy_before_ended(whole, tmp_path):
    told, out = whole("--moving-reference"), tmp_path / "out"
    starts = [tmp_path / "sft", out / "round-1" / "ppo", out / "round-2" / "ppo"]
    assert [ppo.sft for ppo in told.ppo] == list(map(str, starts))
    assert {rm.sft for rm in told.rm} == {str(tmp_path / "sft")}


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["self"], ["sft", "out/round-1/ppo", "out/round-2/ppo"]),
        (["ai", "--human-share", "0.25"], ["pretrain"] * 3),
        (["ai", "--labeller-model", "labeller"], ["labeller"] * 3),
    ],
)
def test_the_labeller_of_every_round_is_the_one_that_was_asked_for(whole, tmp_path, flags, names):
    """Self-feedback: the policy that was sampled from. Else the model of --labeller-model, or the
    one beside the SFT model; people rank their share."""
    flags = [str(tmp_path / x) if x == "labeller" else x for x in flags]
    told = whole("--labeller", *flags)
    assert [rm.labeller_model for rm in told.rm] == [str(tmp_path / name) for name in names]
    assert {rm.labeller for rm in told.rm} == {"ai"}
    assert {rm.human_share for rm in told.rm} == {0.25 if "--human-share" in flags else 0}


def test_a_round_runs_on_the_device_and_in_the_precision_that_the_flags_name(whole, monkeypatch):
    """Its stages, and what measures it."""
    pick, asked = rounds.compute.pick_device, []
    monkeypatch.setattr(
        rounds.compute, "pick_device", lambda name: asked.append(name) or pick(name)
    )
    told = whole("--rounds", "1", "--device", "cpu", "--precision", "float32", "--threads", "1")
    for stage in (*told.rm, *told.ppo):
        assert (stage.device, stage.precision, stage.threads) == ("cpu", "float32", 1)
    assert set(asked) == {"cpu"} and len(asked) == 2


def share(groups):
    """Of all pairs of a list of (text, liking, total), those of different texts and totals: how
    often a higher liking has the higher total."""
    alike = []
    for group in groups:
        for (text, liking, total), (other, less, truth) in itertools.combinations(group, 2):
            if text != other and total != truth:
                alike.append(liking != less and (liking > less) == (total > truth))
    return np.mean(alike)


def in_fours(rows):
    return [rows[i : i + 4] for i in range(0, len(rows), 4)]


def measured(out, sft, n, prompts):
    """What rounds.json should have of the policy and the reward model of round n = 1, 2, 3."""
    model, _, missing_end_score = reward.load_reward_model(out / f"round-{n}" / "rm")
    uniforms, numbers = evaluate.noise(SEED, len(prompts), TOKENS), {}
    for name, path in (("sft", sft), ("own", out / f"round-{n}" / "ppo")):
        gpt, _ = load_gpt(path)
        replies = written(gpt, TOKENIZER, prompts, uniforms)
        examples = [reply.example for reply in replies]
        scores = reward.score_examples(model, examples).tolist()
        scores = [s if r.ended else missing_end_score for s, r in zip(scores, replies, strict=True)]
        texts = [reply.text if reply.ended else "" for reply in replies]
        totals = [judge.judge(p, t).total for p, t in zip(prompts, texts, strict=True)]
        rows = list(zip(texts, scores, totals, strict=True))
        numbers[f"{name}_agreement"] = share(in_fours(rows))
    start, _ = load_gpt(sft)
    nats = [evaluate.sequence_logprobs(x, examples) for x in (gpt, start)]
    numbers |= {"kl": float((nats[0] - nats[1]).mean()), "score": np.mean(scores)}
    distinct = len({reply.text for reply in replies})
    return numbers | {"total": np.mean(totals), "distinct": distinct}


def test_every_number_of_a_round_is_that_of_its_files(whole, tmp_path):
    """On the same held-out prompts under the same noise in every round, KL and agreement from one
    SFT model; of the labels those of the round alone."""
    whole()
    out, sft = tmp_path / "out", tmp_path / "sft"
    prompts = writers.prompts(HELD_OUT, rng(SEED, HELD_OUT_PROMPTS), "validation")
    prompts = [prompt for prompt in prompts for _ in range(4)]
    rows = json.loads((out / rounds.RECORD).read_text())["rounds"]
    for n, row in enumerate(rows, start=1):
        expected = measured(out, sft, n, prompts)
        records = [
            json.loads(line)
            for line in (out / f"round-{n}" / "rm" / COMPARISONS).read_text().splitlines()
        ]
        groups = [
            [
                (text, -rank, judge.judge(c["prompt"], text).total)
                for text, rank in zip(c["responses"], c["ranks"], strict=True)
            ]
            for c in records[6 * (n - 1) :]
        ]
        pairs = [pair for group in groups for pair in itertools.combinations(group, 2)]
        expected |= {"round": n, "comparisons": 6 * n, "label_agreement": share(groups)}
        expected["same_text"] = np.mean([a[0] == b[0] for a, b in pairs])
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-6), (n, name)
    for name in ("total", "kl", "score", "own_agreement", "label_agreement"):
        assert len({row[name] for row in rows}) == 3, name  # else another round's would fit
    assert all(row["own_agreement"] != row["sft_agreement"] for row in rows)


def test_the_file_of_all_comparisons_says_of_each_which_round_asked(whole, tmp_path):
    whole()
    lines = (tmp_path / "out" / COMPARISONS).read_text().splitlines()
    expected = [
        (n + 1, record.prompt, record.ranks)
        for n in range(3)
        for record in comparisons(round_seed(SEED, n), 6)
    ]
    assert [(x["round"], x["prompt"], x["ranks"]) for x in map(json.loads, lines)] == expected


def test_a_round_more_is_one_stage_each_and_the_best_is_the_judges(whole, tmp_path, capsys):
    """What is finished is not told anything again."""
    told = whole()
    whole("--rounds", "4")
    assert len(told.rm) == len(told.ppo) == 4
    rows = json.loads((tmp_path / "out" / rounds.RECORD).read_text())["rounds"]
    totals, scores = ([row[name] for row in rows] for name in ("total", "score"))
    assert totals.index(max(totals)) != scores.index(max(scores))  # else nobody could tell
    line = f"the judge likes round {totals.index(max(totals)) + 1} best"
    assert line in capsys.readouterr().out.splitlines()[-1]
