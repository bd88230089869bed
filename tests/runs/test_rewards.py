"""minirlhf rewards: which runs it makes, and the table of what they won."""

import json
import shutil
from types import SimpleNamespace

import pytest

import train_ppo
import train_rm
from minirlhf.run import config, damage
from minirlhf.tools import rewards

CONFIGS = {"rm": train_rm.Config, "ppo": train_ppo.Config}


def line(step, total, kl, **more):
    numbers = {"total": total, "kl": kl, "score": 1.0, "harmless": 0.9, "distinct": 9}
    sides = {f"{side}_{name}": x for side in ("eval", "sft") for name, x in numbers.items()}
    sides |= {"sft_total": 1.0, "sft_kl": 0.0, "eval_total_half": 0.1}
    return {"step": step, **sides, **more}


@pytest.fixture
def demo(tmp_path, colour_run, monkeypatch):
    """A folder with SFT and reward model, in which the scripts note their flags instead of
    training: [(stage, Config)]. Each run leaves its metrics and a checkpoint."""
    out, calls = tmp_path / "demo", []
    for stage in ("sft", "rm"):
        shutil.copytree(colour_run / stage, out / stage)
    (out / "rm" / "comparisons.jsonl").write_text("")

    def script(name):
        stage = name.removeprefix("train_")

        def main(argv):
            args = config.parse(CONFIGS[stage], argv)
            calls.append((stage, args))
            folder = f"{args.out}/{stage}"
            lines = [line(9, 1.6, 1.0), line(19, 2.2, 2.0)] if stage == "ppo" else []
            lines += [{"step": 5, "held_out_accuracy": 0.7}] if stage == "rm" else []
            shutil.copytree(out / "rm", folder, dirs_exist_ok=True)
            with open(f"{folder}/metrics.jsonl", "w", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in lines)

        return SimpleNamespace(main=main)

    monkeypatch.setattr(rewards.chain, "refuse_own_data", lambda _: None)  # the colours' world
    monkeypatch.setattr(rewards, "script", script)
    stored = {"steps": 0}
    monkeypatch.setattr(rewards.checkpoint, "stored_step", lambda *_: stored["steps"])
    return SimpleNamespace(out=out, calls=calls, stored=stored)


def compare(demo, *argv):
    rewards.main(["--out", str(demo.out), "--seed", "3", *argv])
    calls, demo.calls[:] = list(demo.calls), []
    return calls


def test_robust_rows_learn_without_a_kl_penalty_from_one_or_from_all_members(demo, capsys):
    """The other members learn from the same comparisons, with seeds of their own."""
    calls = compare(demo, "--members", "3")
    first, second = (args for stage, args in calls if stage == "rm")
    assert first.data == second.data == str(demo.out / "rm" / "comparisons.jsonl")
    assert len({first.seed, second.seed, 3}) == 3 and first.sft == f"{demo.out}/sft"
    runs = [args for stage, args in calls if stage == "ppo"]
    assert [args.combine for args in runs[1:4]] == ["mean", "worst", "mean-std"]
    paths = [f"{demo.out}/rm", f"{first.out}/rm", f"{second.out}/rm"]
    assert [args.rm.split(",") for args in runs] == [paths[:1], *[paths] * 3, paths[:1]]
    assert {(args.kl_coef, args.seed, args.updates, args.held_out) for args in runs} == {
        (0.0, 3, 96, 512)
    }
    assert [args.par for args in runs] == [0, 0, 0, 0, 4]
    # The comparisons are a file to the members, and the world's prompts are none to PPO.
    assert all(args.mix_data for _, args in calls)
    assert "mean-std" in capsys.readouterr().out


def test_credit_rows_keep_the_kl_coefficient_of_ppo_and_need_no_members(demo):
    calls = compare(demo, "--compare", "credit", "--updates", "7", "--held-out", "9")
    assert [stage for stage, _ in calls] == ["ppo"] * 4
    assert [args.credit for _, args in calls] == ["end", "uniform", "attention", "prefix"]
    assert {args.kl_coef for _, args in calls} == {train_ppo.Config.kl_coef}
    assert {(args.updates, args.held_out) for _, args in calls} == {(7, 9)}


def test_what_is_finished_is_not_made_again_and_what_was_interrupted_goes_on(demo):
    compare(demo, "--only", "worst", "--members", "2")
    demo.stored["steps"] = 40
    ((stage, args),) = compare(demo, "--only", "worst", "--members", "2")
    assert stage == "ppo" and args.resume and args.out == f"{demo.out}/rewards/worst"
    demo.stored["steps"] = 96
    assert compare(demo, "--only", "worst", "--members", "2") == []


def test_the_total_and_the_threads_of_the_command_are_those_of_table_and_runs(demo, capsys):
    calls = compare(demo, "--only", "worst", "--members", "2", "--total", "1.7", "--threads", "2")
    assert [(stage, args.threads) for stage, args in calls] == [("rm", 2), ("ppo", 2)]
    assert "updates to 1.7" in capsys.readouterr().out


def test_a_run_without_an_evaluation_has_no_row(demo, refused):
    compare(demo, "--only", "par")
    demo.stored["steps"] = 96
    (demo.out / "rewards" / "par" / "ppo" / "metrics.jsonl").write_text("")
    argv = ["--out", str(demo.out), "--seed", "3", "--only", "par"]
    message = refused(rewards.main, argv, demo.out)
    assert "par/ppo/metrics.jsonl holds no evaluation; move" in message


def test_runs_with_other_flags_are_another_experiment(demo, refused):
    """Else its table would have rows of two seeds. What a run does not depend on may change."""
    compare(demo, "--only", "par", "--held-out", "9")
    assert len(compare(demo, "--compare", "credit", "--held-out", "9", "--total", "1")) == 4
    argv = ["--out", str(demo.out), "--only", "par", "--held-out", "9", "--seed", "4"]
    message = refused(rewards.main, argv, demo.out)
    assert "rewards was made with --seed 3, and this is with 4; give the same --seed" in message


def test_the_table_is_worked_by_hand():
    """The second row ends at 1 nat; there the first one, on its way from .5 to 1.5, has 1.5."""
    known = [{"step": 0, "disagreement": 0.25}]
    runs = {
        "one": [line(9, 1.2, 0.5), line(19, 1.8, 1.5), line(29, 1.6, 3.0)],
        "worst": [*known, line(9, 2.0, 1.0, disagreement=0.75)],
    }
    header, (one, worst) = rewards.comparison(runs, 1.7)
    assert one == ["one", "20", 1.6, 0.1, 3.0, pytest.approx(1.5), 1.0, 0.9, "9", "-", "-"]
    assert worst == ["worst", "10", 2.0, 0.1, 1.0, 2.0, 1.0, 0.9, "9", 0.25, 0.5]
    assert len(header) == len(one) and header[1] == "updates to 1.7"
    assert rewards.comparison(runs, 2.5)[1][0][1] == "-"


def test_the_first_disagreement_and_the_mean_of_the_last_ten_stand_in_the_table():
    """And the update at which a total was reached, where it was first; a KL counts where a run
    first came to it, on the way between two evaluations."""
    known = [{"step": n, "disagreement": 0.1 * n} for n in range(1, 16)]
    path = [(0.5, 1.0), (1.0, 1.25), (1.5, 0.5), (1.75, 1.5), (2.0, 1.0)]
    lines = [line(10 * n + 9, total, kl) for n, (total, kl) in enumerate(path)]
    lines[-1] |= {"eval_score": 3.0, "eval_harmless": 0.25, "eval_total_half": 0.5}
    _, (row,) = rewards.comparison({"mean": known + lines}, 1.5)
    # The run ends at 1 nat, which it first reached at its first evaluation, and then left.
    assert row[:6] == ["mean", "30", 2.0, 0.5, 1.0, pytest.approx(0.5)]
    assert row[6:8] == [3.0, 0.25] and row[9:] == [0.1, pytest.approx(1.05)]
    assert rewards.at_kl(lines, 1.125) == pytest.approx(0.75)


def test_the_members_differ_from_one_another_and_from_those_of_another_seed(demo):
    seeds = []
    for seed in ("3", "4"):
        calls = compare(demo, "--only", "mean", "--members", "4", "--seed", seed)
        seeds += [args.seed for stage, args in calls if stage == "rm"]
        shutil.rmtree(demo.out / "rewards")
    assert len(seeds) == len({3, 4, *seeds}) - 2 == 6


def test_a_reward_model_that_was_interrupted_goes_on(demo):
    """Its checkpoint is there, and its last line, the accuracy, is not."""
    compare(demo, "--only", "mean", "--members", "2")
    place = demo.out / "rewards" / "member-2" / "rm" / "metrics.jsonl"
    place.write_text('{"step": 3, "loss": 0.6}\n')
    demo.stored["steps"] = 96
    ((stage, args),) = compare(demo, "--only", "mean", "--members", "2")
    assert stage == "rm" and args.resume and args.out == str(place.parents[1])


def test_the_rows_of_another_sft_model_or_reward_model_are_another_experiment(demo, refused):
    """Their runs would be taken for runs of this one."""
    compare(demo, "--only", "par")
    argv = ["--out", str(demo.out), "--only", "par", "--seed", "3"]
    for stage in ("sft", "rm"):
        path = demo.out / stage / "checkpoint.pt"
        before, state = path.read_bytes(), damage.load(path)
        name = next(name for name in state["model"] if name.endswith("norm.bias"))
        state["model"][name] += 1
        with open(path, "wb") as file:
            damage.save(state, file)
        assert f"--{stage} weights" in refused(rewards.main, argv, demo.out)
        path.write_bytes(before)
    assert len(compare(demo, "--only", "par")) == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--only", "best"], "--only best: choose among one, mean, worst, mean-std, par"),
        (["--members", "1"], "--members must be at least 2"),
        (["--out", "nowhere"], "nowhere/sft holds no checkpoint; minirlhf demo makes one"),
    ],
)
def test_mistakes_are_one_line(demo, refused, argv, message):
    assert message in refused(rewards.main, ["--out", str(demo.out), *argv], demo.out)


def test_without_the_comparisons_there_is_no_ensemble(demo, refused):
    (demo.out / "rm" / "comparisons.jsonl").unlink()
    argv = ["--out", str(demo.out), "--only", "mean"]
    assert "comparisons.jsonl is missing" in refused(rewards.main, argv, demo.out)
