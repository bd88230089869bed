"""`minirlhf methods`: missing runs are made, all are judged alike, a table and a figure."""

import json
import shlex
import shutil
from functools import partial

import numpy as np
import pytest
from conftest import few

from minirlhf import evaluate
from minirlhf.__main__ import COMMANDS
from minirlhf.run import damage
from minirlhf.run.checkpoint import load_gpt
from minirlhf.run.config import DEMONSTRATIONS, HELD_OUT_PROMPTS, InputError, rng
from minirlhf.tools import (
    figures,
    frontier,
    methods,
    overoptimisation,
    rejection,
    rewards,
    rounds,
    runs,
)
from minirlhf.tools.runs import Method, Place
from minirlhf.world import measures, writers
from minirlhf.world.judge import judge

TOY = "--updates 2 --batch-size 8 --minibatches 2 --held-out 6 --eval-every 1 --microscope 0"
TOY += " --max-new-tokens 4 --warmup 1"
JUDGED = ["--prompts", "20", "--max-new-tokens", "4"]
METHODS = {
    "ppo": Method("PPO", "9 rankings", (f"{methods.PPO} {TOY}",)),
    "rloo": Method("others", "9 rankings", (f"{methods.PPO} {TOY} --algorithm rloo",)),
    "dpo": Method("others", "9 pairs", (f"{methods.DPO} --batch-size 8 --warmup 1",), "dpo"),
}


@pytest.fixture(scope="module")
def made(world_run, tmp_path_factory):
    """OUT with the three methods, after one call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "METHODS", METHODS)
        patch.setattr(frontier, "NS", (1, 2, 16))
        out = shutil.copytree(world_run, tmp_path_factory.mktemp("methods") / "out")
        methods.main(["--out", str(out), *JUDGED])
    return out


@pytest.fixture
def toy(made, monkeypatch):
    monkeypatch.setattr(methods, "METHODS", METHODS)
    monkeypatch.setattr(frontier, "NS", (1, 2, 16))
    return made


def rows(out):
    """{method: cells} of methods.md."""
    lines = (out / "methods" / "methods.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): dict(zip(cells[0][1:], row[1:], strict=True)) for row in cells[2:]}


def test_it_makes_the_runs_and_writes_a_row_for_each_and_the_figure(toy):
    """SFT and best-of-n stand beside them."""
    assert list(rows(toy)) == ["sft", "ppo", "rloo", "dpo", "best of 16"]
    assert rows(toy)["dpo"]["labels"] == "9 pairs" and float(rows(toy)["dpo"]["seconds"]) >= 0
    for name, folder in (("ppo", "ppo"), ("rloo", "ppo"), ("dpo", "dpo")):
        assert (toy / "methods" / name / "1" / folder / "checkpoint.pt").exists()
    assert (toy / "methods" / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_every_policy_is_judged_on_the_same_prompts_under_the_same_noise(toy):
    """A row computed again, from the checkpoints."""
    prompts = writers.prompts(20, rng(1, HELD_OUT_PROMPTS), "validation")
    sft, tokenizer = load_gpt(toy / "sft")
    totals = {}
    for name in ("ppo", "rloo"):
        gpt, _ = load_gpt(toy / "methods" / name / "1" / "ppo")
        replies = evaluate.respond(gpt, tokenizer, prompts, evaluate.noise(1, 20, 4))
        totals[name] = measures.values(prompts, replies)["total"]
        assert rows(toy)[name]["total, of 3"] == f"{totals[name].mean():.2f}"
        assert rows(toy)[name]["KL"] == f"{evaluate.kl(gpt, sft, replies).mean():.2f}"
        assert rows(toy)[name]["distinct"] == str(len({reply.text for reply in replies}))
    clusters = [measures.cluster(prompt) for prompt in prompts]
    paired = evaluate.interval(totals["rloo"] - totals["ppo"], clusters)
    assert rows(toy)["rloo"]["minus PPO"] == "{:+.2f} ± {:.2f}".format(*paired)
    assert rows(toy)["sft"]["KL"] == "0.00"


def test_what_is_there_is_neither_made_nor_judged_again(toy, monkeypatch, capsys):
    """The second call draws and writes, nothing else. Damaged numbers are measured again."""
    for owner, name in ((runs, "execute"), (evaluate, "respond")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("was done before"))
    before = (toy / "methods" / "methods.md").read_bytes()
    methods.main(["--out", str(toy), *JUDGED])
    assert (toy / "methods" / "methods.md").read_bytes() == before
    assert "--- step" not in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setattr(methods, "METHODS", METHODS)
    monkeypatch.setattr(frontier, "NS", (1, 2, 16))
    (toy / "methods" / "rloo" / "1" / "judged.json").write_text("{")
    methods.main(["--out", str(toy), *JUDGED])
    assert (toy / "methods" / "methods.md").read_bytes() == before


def test_an_interrupted_run_goes_on(toy, tmp_path, capsys):
    """A file beside its folder names what has ended. A stage that had begun is resumed: its end is
    the same weights. The heading counts the steps of this call."""
    out = shutil.copytree(toy, tmp_path / "out")
    run = out / "methods" / "rloo" / "1"
    before = load_gpt(run / "ppo")[0].state_dict()
    record = out / "methods" / "rloo" / "1.json"
    assert json.loads(record.read_text()).keys() == set(METHODS["rloo"].commands)
    record.write_text("{}")
    capsys.readouterr()
    methods.main(["--out", str(out), "--only", "rloo", *JUDGED])
    text = capsys.readouterr().out
    assert "--- step 1 of 1, 0:00 so far: rloo, seed 1\nminirlhf ppo --out " in text
    assert list(json.loads(record.read_text())) == list(METHODS["rloo"].commands)
    after = load_gpt(run / "ppo")[0].state_dict()
    assert all(after[name].equal(before[name]) for name in before)


def test_a_run_that_was_made_by_hand_is_taken_as_it_is(toy, tmp_path):
    """It has no record, so that its seconds are not known. The base's own PPO run serves as
    PPO's."""
    out = shutil.copytree(toy, tmp_path / "out")
    (out / "methods" / "rloo" / "1.json").unlink()
    shutil.move(out / "methods" / "ppo" / "1" / "ppo", out / "ppo")
    shutil.rmtree(out / "methods" / "ppo")
    methods.main(["--out", str(out), *JUDGED])
    assert rows(out)["rloo"]["seconds"] == rows(out)["ppo"]["seconds"] == "-"
    assert rows(out)["ppo"]["total, of 3"] == rows(toy)["ppo"]["total, of 3"]


@pytest.mark.parametrize(
    ("name", "flag", "value"), [("ppo", "kl_coef", 0.0), ("dpo", "loss", "ipo")]
)
def test_a_run_of_the_base_with_other_flags_is_another_method(toy, tmp_path, name, flag, value):
    """PPO without a penalty is not the row `ppo`, and IPO in OUT/dpo is not `dpo`. Another seed and
    another folder do not matter."""
    out = shutil.copytree(toy / "methods" / name / "1", tmp_path / "out")
    place = Place(name, METHODS[name], 1, out, tmp_path / "runs" / name / "1")
    record = json.loads((out / name / "config.json").read_text())
    for flags, folder in (({"seed": 7}, out), ({flag: value}, place.run)):
        text = json.dumps(record | {"flags": record["flags"] | flags})
        (out / name / "config.json").write_text(text)
        assert runs.folder_of(place) == folder


@pytest.mark.parametrize(("stage", "weight"), [("sft", "norm.bias"), ("rm", "head.bias")])
def test_a_run_of_another_model_is_neither_judged_nor_gone_on_with(toy, tmp_path, stage, weight):
    """The base was trained again since: the row would compare two SFT models."""
    out = shutil.copytree(toy, tmp_path / "out")
    path = out / stage / "checkpoint.pt"
    state = damage.load(path)
    state["model"][weight] += 1
    with open(path, "wb") as file:
        damage.save(state, file)
    for only in ("none", "rloo"):
        with pytest.raises(InputError, match=f"from another model than {out}/{stage} is now; move"):
            methods.main(["--out", str(out), "--only", only, *JUDGED])
    shutil.rmtree(out / "methods")
    methods.main(["--out", str(out), "--only", "rloo", *JUDGED])


def test_rejection_says_which_models_it_is_of(colour_run, colours, tmp_path):
    """Its reward model stands in the record of the experiment, not of a stage."""
    models = ["--sft", f"{colour_run}/sft", "--rm", f"{colour_run}/rm"]
    small = "--best-of 2 --max-new-tokens 6 --held-out 4".split()
    data = ["--data", str(colours / "prompts.jsonl")]
    rejection.main([*models, *data, "--out", str(tmp_path / "run"), *small])
    models = set(runs.models_of(colour_run).values())
    assert len(models) == 2 and models <= runs.origins(tmp_path / "run")


def test_a_run_that_is_not_at_its_end_is_not_judged(toy, tmp_path):
    """As PPO's two updates out of three: half a policy beside whole ones would mislead."""
    out = shutil.copytree(toy, tmp_path / "out")
    run = out / "methods" / "rloo" / "1"
    run.with_name("1.json").unlink()
    config = json.loads((run / "ppo" / "config.json").read_text())
    config["flags"]["updates"] = 3
    (run / "ppo" / "config.json").write_text(json.dumps(config))
    methods.main(["--out", str(out), "--only", "none", *JUDGED])
    assert list(rows(out)) == ["sft", "ppo", "dpo", "best of 16"]


def test_a_line_of_the_figure_begins_at_the_sft_model_and_ends_at_the_judged_policy(toy):
    """In between are the evaluations of its run. DPO has none: a straight line."""
    args = methods.Config(out=str(toy), prompts=20, max_new_tokens=4)
    places = [Place(n, METHODS[n], 1, toy, toy / "methods" / n / "1") for n in METHODS]
    marks = methods.judged(args, places)
    ppo, _, dpo = methods.curves(places, marks)
    (record, _) = figures.evaluations(toy / "methods" / "ppo" / "1" / "ppo")
    assert len(ppo.points) == 3 and len(dpo.points) == 2
    assert tuple(ppo.points[0]) == pytest.approx((0, marks["sft"][1].totals.mean()))
    assert tuple(ppo.points[1]) == pytest.approx((record["eval_kl"], record["eval_total"]))
    end = marks["ppo"][1].kl, marks["ppo"][1].totals.mean()
    assert tuple(ppo.points[2]) == pytest.approx(end) and ppo.ends == [pytest.approx(end)]


# What makes the commands of a method small; everything else stays as METHODS has it.
SMALL_PPO = "--batch-size 8 --minibatches 2 --held-out 4 --warmup 1 --microscope 0"
SMALL_RM = "--responses 3 --batch-size 4 --held-out 4 --norm-prompts 8 --warmup 1"
SMALL = {
    "ppo": f"--updates 2 --max-new-tokens 4 {SMALL_PPO}",
    "rm": "--batch-size 4 --held-out 4 --norm-prompts 8 --max-new-tokens 4 --warmup 1",
    "dpo": "--batch-size 8 --warmup 1",
    "rejection": "--prompts 6 --best-of 8 --max-new-tokens 8 --held-out 4",
    "demonstrations": "--demonstrations 24 --prompts 4 --max-new-tokens 4",
    "rounds": "--prompts 8 --updates 2 --held-out 4 --max-new-tokens 4 "
    f"--rm '{SMALL_RM}' --ppo '{SMALL_PPO}'",
}
READ = {"afd": "--batch-size 8 --updates 2", "gaf": "--batch-size 8 --updates 4", "spin": ""}


def small(command):
    """A command of METHODS, for toy models."""
    name, words = command.split()[0], shlex.split(command)
    method = words[words.index("--method") + 1] if "--method" in words else None
    return " ".join([command, SMALL[name], READ.get(method, "")])


@pytest.mark.parametrize("name", list(methods.METHODS))
def test_the_commands_of_each_method_make_its_policy(name, world_run, tmp_path, monkeypatch):
    """In the folder that the command has prepared for it."""
    monkeypatch.setattr(writers, "contrasts", partial(few, writers.contrasts))
    method = methods.METHODS[name]
    toy = method._replace(commands=tuple(map(small, method.commands)))
    place = Place(name, toy, 1, world_run, tmp_path / name / "1")
    assert runs.missing(place) == list(toy.commands)
    runs.make([place])
    assert runs.missing(place) == [] and runs.made(place.run, method.policy)
    folders = [place.run / folder for folder in method.curve or (method.policy,)]
    assert all((folder / "metrics.jsonl").exists() for folder in folders)


def test_labels_are_those_of_the_reward_model(toy):
    """And not the default's: 24 prompts with three responses each here."""
    assert "| 24 rankings of 3 |" in (toy / "methods" / "methods.md").read_text()


def test_the_worlds_methods_are_not_run_on_models_of_own_data(colour_run, tmp_path):
    """Their prompts and their judge are the world's."""
    for main in (methods.main, rewards.main, overoptimisation.main):
        with pytest.raises(InputError, match="sft was trained on .*demonstrations.jsonl, and this"):
            main(["--out", str(colour_run)])
    with pytest.raises(InputError, match="and this is about the embedded world"):
        rounds.main(["--sft", str(colour_run / "sft"), "--out", str(tmp_path)])


def test_without_a_run_the_figure_has_best_of_n_alone(drawn, tmp_path):
    frontier.draw(
        figures.load_pyplot(), [], np.array([[0, 1], [0.5, 1.5]]), 1.7, tmp_path / "x.png"
    )
    assert len(drawn[0].axes[0].lines) == 2 and (tmp_path / "x.png").exists()


def test_names_are_pushed_apart_as_little_as_need_be():
    """Two at 1 and one at 1.5 with a gap of 1 are centred on their mean; a distant one stays. The
    order stays, too."""
    assert frontier.spread([1.0, 9.0, 1.0, 1.5], 1.0) == pytest.approx([1 / 6, 9, 7 / 6, 13 / 6])
    assert frontier.spread([3.0], 1.0) == pytest.approx([3.0])


def test_each_method_is_named_at_the_height_of_its_end_point(drawn, tmp_path):
    """In the colour of its family; best-of-n and the writers are in the legend."""
    pyplot = figures.load_pyplot()
    points = [np.array(x, dtype=float) for x in ((0, 1), (1, 2), (2, 2.5))]
    curves = [
        frontier.Curve("one", "red", points, [(2, 2.5)]),
        frontier.Curve("two", "blue", points[:2], [(1, 2.0)]),
    ]
    best = np.array([[0, 1], [0.5, 1.5]])
    frontier.draw(pyplot, curves, best, 1.73, tmp_path / "figure.png")
    (side,) = drawn[-1].axes
    heights = {text.get_text().strip(): text.get_position()[1] for text in side.texts}
    assert heights == pytest.approx({"one": 2.5, "two": 2.0})
    assert len({tuple(text.get_color()) for text in side.texts}) == 2
    (dashed,) = (line for line in side.lines if line.get_linestyle() == "--")
    assert np.array(dashed.get_data()).T == pytest.approx(best)
    ends = [line.get_data() for line in side.lines if line.get_markersize() == 6]
    assert [(float(x[0]), float(y[0])) for x, y in ends if len(x) == 1] == [(2, 2.5), (1, 2)]
    assert [1.73, 1.73] in [list(line.get_ydata()) for line in side.lines]
    lines = [np.array(line.get_data()).T.tolist() for line in side.lines]
    assert [[0, 1], [1, 2], [2, 2.5]] in lines  # two points are no curve
    assert [[0, 1], [1, 2]] not in lines
    legend = [text.get_text() for text in side.get_legend().get_texts()]
    assert {"red", "blue", "the writers, 1.73"} < set(legend) and side.get_xlabel()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--only", "rloo,nonsense"], "--only nonsense is no method; choose from ppo, rloo, grpo"),
        (["--seeds", "one"], "--seeds 'one' is not a number; write it as in 1,2,3"),
        (["--seeds", "1,7"], "--seeds 7 is not in .*, which holds 1"),
    ],
)
def test_a_flag_that_names_nothing_is_one_line(world_run, flags, message):
    with pytest.raises(InputError, match=message):
        methods.main(["--out", str(world_run), *flags])


def test_without_an_sft_model_it_says_what_trains_one(tmp_path):
    with pytest.raises(InputError, match="holds no SFT model; make demo or make results"):
        methods.main(["--out", str(tmp_path)])


def test_of_make_results_the_first_three_seeds_are_taken(tmp_path):
    """In the order of their numbers: 10 is not the second."""
    for seed in ("10", "1", "4", "2"):
        (tmp_path / seed / "sft").mkdir(parents=True)
    assert list(methods.bases(methods.Config(out=str(tmp_path)))) == [1, 2, 4]
    assert list(methods.bases(methods.Config(out=str(tmp_path), seeds="10"))) == [10]


def test_every_method_has_commands_that_its_run_is_made_by():
    """Each is filled in, and is a command of minirlhf with flags that it knows."""
    for name, method in methods.METHODS.items():
        assert method.commands and method.labels and method.family, name
        for command in method.commands:
            line = command.format(run="RUN", base="BASE", seed=1)
            assert line.split()[0] in COMMANDS and "RUN" in line and "BASE/sft" in line


def test_the_writers_are_the_level_where_imitation_ends():
    """On the held-out prompts they have the total of their demonstrations, give or take chance: the
    standard error of each mean is .04."""
    demonstrations = writers.demonstrations(1000, rng(1, DEMONSTRATIONS))
    totals = [judge(d.prompt, d.response).total for d in demonstrations]
    assert frontier.writers_total(1000, 1) == pytest.approx(np.mean(totals), abs=0.2)
    assert 1.3 < np.mean(totals) < 1.8
