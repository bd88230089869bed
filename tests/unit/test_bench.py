"""`minirlhf bench`: all sides do the same work, and the tables follow from the measurements."""

import builtins
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from tqdm import tqdm

import train_ppo
from minirlhf.bench import ours, peers, speed, workload
from minirlhf.bench.workload import END, WORKLOADS, Job
from minirlhf.data import Example, collate
from minirlhf.formats import gpt2
from minirlhf.generate import generate
from minirlhf.model import GPT, GPTConfig
from minirlhf.run.config import InputError

CPU = torch.device("cpu")
SHAPE = GPTConfig(vocab_size=11, context=16, layers=2, heads=2, width=4)


def job(task, folder="", **changes):
    """A job of two rows that a hand can work out."""
    rows = [Example([1, 2, 3, 0], 2), Example([1, 2, 4, 5, 0], 2)]
    batches = [[rows]] if task == "rm" else [rows]
    shapes = dataclasses.replace(WORKLOADS["tiny"], new_tokens=6)
    small = Job(task, shapes, str(folder), CPU, [[1, 2, 3], [4]], batches, 2, 1, "", 1)
    return dataclasses.replace(small, **changes)


@pytest.fixture
def folder(tmp_path):
    """A GPT with random weights, as every side finds it."""
    torch.manual_seed(1)
    gpt2.save_gpt2(GPT(SHAPE), tmp_path)
    return tmp_path


def runs(*wholes, tokens=10):
    return [{"whole": whole, "tokens": tokens} for whole in wholes]


# ---- the work


def test_the_chance_of_an_end_gives_the_mean_length_that_was_asked_for():
    """By the sum over the geometric distribution, cut off at the most tokens."""
    for mean, most in ((16, 32), (32, 64), (3, 8)):
        p = workload.chance_of_end(mean, most)
        ends = sum(n * p * (1 - p) ** (n - 1) for n in range(1, most))
        assert ends + most * (1 - p) ** (most - 1) == pytest.approx(mean, rel=1e-6)


def test_the_random_models_responses_are_as_long_as_the_workload_says():
    """Each ends by itself: 512 samples, with a standard error of the mean below 3%."""
    gpt = workload.random_gpt(WORKLOADS["tiny"], seed=3)
    samples = generate(gpt, [[5, 6, 7]] * 512, 32, END, generator=torch.Generator().manual_seed(0))
    lengths = (samples.lengths - samples.prompt_lengths).float()
    assert lengths.mean() == pytest.approx(16, rel=0.08)
    assert 0.6 < samples.ended.float().mean() < 0.95


def test_records_keep_their_lengths_and_what_they_share_in_any_vocabulary():
    """The world's ids become others one to one, and the end token 0, so that every vocabulary means
    the same work."""
    shapes = [dataclasses.replace(WORKLOADS[name], steps=10) for name in ("tiny", "small")]
    tiny, small = (workload.batches("rm", shape, seed=1)[0] for shape in shapes)
    for one, other in zip(tiny, small, strict=True):
        assert [len(e.tokens) for e in one] == [len(e.tokens) for e in other]
        assert [e.prompt_length for e in one] == [e.prompt_length for e in other]
        assert all(e.tokens[: e.prompt_length] == other[0].tokens[: e.prompt_length] for e in other)
        assert all(e.tokens[-1] == END for e in one + other)
    assert max(max(e.tokens) for group in small for e in group) > 1024


def test_a_comparison_reads_back_as_the_ids_it_was_made_of():
    """train_rm.py takes text; the tokenizer of the benchmark writes ids in figures."""
    group = [Example([7, 8, 3, 0], 2), Example([7, 8, 0], 2)]
    comparison = ours.comparison(group)
    assert ours.Ids.encode(comparison.prompt) == [7, 8]
    assert [ours.Ids.encode(response) for response in comparison.responses] == [[3], []]
    assert comparison.ranks == [0, 1]


def test_response_tokens_count_the_end_token_and_nothing_after_it():
    responses = torch.tensor([[5, 6, 0, 0, 9], [1, 2, 3, 4, 5], [0, 1, 1, 1, 1]])
    assert workload.count_tokens(responses) == 3 + 5 + 1
    assert job("sft").response_tokens == job("rm").response_tokens == 2 + 3


# ---- the sides


def test_the_static_cache_computes_what_the_model_does(folder):
    """A prompt at once, then two tokens one by one, each row at its position."""
    gpt = gpt2.load_gpt2(folder)
    tokens, _, lengths = collate([Example([1, 2, 3, 4, 5], 3), Example([6, 7, 8, 9], 2)])
    keys, values = ([torch.zeros(2, 2, 8, 2) for _ in gpt.blocks] for _ in range(2))
    with torch.no_grad():
        ours.static_hidden(gpt, keys, values, tokens[:, :3], torch.arange(3).expand(2, -1))
        for step in range(2):
            last = lengths - 2 + step
            ids = tokens.gather(1, last[:, None])
            hidden = ours.static_hidden(gpt, keys, values, ids, last[:, None])[:, 0]
            torch.testing.assert_close(hidden, gpt.hidden(tokens)[torch.arange(2), last])


@pytest.mark.parametrize("task", speed.TASKS)
def test_our_side_of_every_task_says_its_seconds_and_its_tokens(folder, task):
    seconds, tokens = ours.OURS[task](job(task, folder), torch.float32)()
    assert set(seconds) == (set(speed.PARTS) if task == "ppo" else {"whole"})
    assert seconds["whole"] == pytest.approx(sum(seconds.values()) / (2 if task == "ppo" else 1))
    assert 2 <= tokens <= 12 if task in ("sampling", "ppo") else tokens == 5


@pytest.mark.parametrize(
    ("task", "name"),
    [("sampling", "transformers"), ("sft", "transformers"), ("rm", "transformers")],
)
def test_transformers_does_every_task_that_it_is_listed_for(folder, task, name):
    seconds, tokens = peers.SIDES[task][name](job(task, folder))()
    assert seconds["whole"] > 0 and (2 <= tokens <= 12 if task == "sampling" else tokens == 5)


class Pipe(list):
    """One end of a pipe that remembers what it was sent, and asks for no run."""

    send, recv = list.append, staticmethod(lambda: False)


def test_a_library_that_is_not_installed_is_one_line_with_the_remedy(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **named):
        if name.split(".")[0] == "transformers":
            raise ModuleNotFoundError("No module named 'transformers'", name="transformers")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    pipe = Pipe()
    speed.serve(pipe, "other", peers.transformers_sampling, job("sampling"))
    assert pipe == ["transformers is not installed; pip install -e '.[bench]'"]


def test_a_side_that_fails_costs_itself_alone():
    pipe = Pipe()
    speed.serve(pipe, "other", lambda job: 1 / 0, job("sampling"))
    assert pipe == ["ZeroDivisionError: division by zero"]


def test_a_side_is_warmed_up_and_ends_with_its_memory():
    pipe, calls = Pipe(), []
    speed.serve(pipe, "other", lambda job: lambda: calls.append(job.task), job("sft"))
    assert calls == ["sft"] and pipe[0] is None and len(pipe) == 2 and pipe[1] >= 0


class Scripted:
    """A context whose processes have all their answers in advance; one that has none is dead."""

    def __init__(self, *scripts):
        self.scripts = iter(scripts)

    def Pipe(self):
        answers = iter(next(self.scripts))

        def recv():
            for answer in answers:
                return answer
            raise EOFError

        end = SimpleNamespace(close=lambda: None)
        return SimpleNamespace(send=lambda message: None, recv=recv), end

    def Process(self, **_):
        return SimpleNamespace(start=lambda: None, terminate=lambda: None, join=lambda: None)


def test_a_side_that_fails_in_a_later_run_is_left_out_and_the_others_go_on(monkeypatch):
    """Out of memory in the second run, dead in the first, dead at the request for its memory."""
    run = {"whole": 1.0}, 10
    scripts = {
        "fine": [None, run, run, 5.0],
        "full": [None, run, "OutOfMemoryError: no"],
        "dead": [None],
        "late": [None, run, run],
    }
    context = Scripted(*scripts.values())
    monkeypatch.setattr(speed.multiprocessing, "get_context", lambda _: context)
    sides = dict.fromkeys(scripts)
    measurements, missing = speed.measure(job("sft"), sides, 2, tqdm(disable=True))
    runs = [{"whole": 1.0, "tokens": 10}] * 2
    assert measurements == {"fine": {"runs": runs, "memory": 5.0}}
    ended = "its process ended; is there enough memory?"
    assert missing == {"full": "OutOfMemoryError: no", "dead": ended, "late": ended}


def test_a_library_of_another_version_says_what_it_lacks():
    """It is installed, so that installing it is no remedy."""
    pipe, code = Pipe(), "from minirlhf.bench import nothing_of_this_name"
    speed.serve(pipe, "other", lambda job: exec(code), job("sampling"))
    assert pipe[0].startswith("ImportError: cannot import name 'nothing_of_this_name'")


def test_what_a_side_imports_is_imported_before_its_memory_is_counted(monkeypatch):
    """Else a library's code would be counted as what its model needs."""
    imported = []
    monkeypatch.setattr(speed.importlib, "import_module", imported.append)
    speed.serve(Pipe(), "transformers", lambda job: lambda: imported.append("run"), job("sampling"))
    assert imported == [*peers.IMPORTS["transformers"], "run"]


def test_ppo_is_measured_by_the_code_of_the_script(folder, monkeypatch):
    """`train_ppo.iterate`, which samples, scores and updates, on ids in figures."""
    calls, iterate = [], train_ppo.iterate

    def record(*arguments):
        calls.append(arguments[-2])
        return iterate(*arguments)

    monkeypatch.setattr(train_ppo, "iterate", record)
    seconds, _ = ours.ppo_iteration(job("ppo", folder), torch.float32)()
    assert calls == [["1 2 3", "4"]]
    assert seconds["whole"] == seconds["rollout"] + seconds["scoring"] + seconds["update"]


# ---- arithmetic, and the tables


def test_the_arithmetic_of_every_task_by_hand():
    """Two layers of width 4: 12 * 2 * 16 weights in the trunk, 4 * 11 in the head. Prompts have 4
    tokens, responses 5."""
    trunk, head = 2 * 384, 2 * 44
    assert workload.flops(job("sampling"), SHAPE, 5) == trunk * 9 + head * 5
    assert workload.flops(job("sft"), SHAPE, 5) == 3 * (trunk * 9 + head * 5)
    # rm: the shared prompt once, and no vocabulary
    assert workload.flops(job("rm"), SHAPE, 5) == 3 * trunk * 7
    assert workload.flops(job("ppo"), SHAPE, 5) == (1 + 3 + 6) * trunk * 9 + (1 + 2 + 6) * head * 5


def test_the_ratio_is_the_median_of_neighbouring_runs_a_token():
    """In seconds the first run of theirs took twice ours, the second four times, the third (of half
    the tokens) once."""
    theirs = runs(2.0, 8.0) + runs(1.0, tokens=5)
    assert speed.times_ours(theirs, runs(1.0, 2.0, 1.0)) == 2.0


def test_the_table_of_made_up_runs():
    measurements = {
        "minirlhf": {"runs": runs(1.0, 2.0, 4.0), "memory": 7.4},
        "trl": {"runs": runs(3.0, 6.0, 12.0), "memory": 90.0},
    }
    header, _, first, second = speed.lines(measurements, {"of ceiling": {"minirlhf": 0.5}})
    assert header.split("  ")[0] == "side" and "whole s" in header and "rollout" not in header
    assert first.split() == ["minirlhf", "2.000", "(1.000-4.000)", "5", "7", "1.00", "0.50"]
    assert second.split() == ["trl", "6.000", "(3.000-12.000)", "2", "90", "3.00", "-"]


def test_mfu_is_the_share_of_the_datasheets_rate():
    """Of 4 TFLOP/s; the ceiling is that of the matrix products alone, in the side's precision."""
    rates = {"minirlhf": 0.75e12, "minirlhf bf16": 1e12}
    ceilings = {"float32": 1.5e12, "bf16": 4e12}
    columns = speed.shares_of(speed.Config(peak=4.0), rates, ceilings)
    assert columns["MFU"] == {"minirlhf": 0.1875, "minirlhf bf16": 0.25}
    assert columns["of ceiling"] == {"minirlhf": 0.5, "minirlhf bf16": 0.25}
    assert "MFU" not in speed.shares_of(speed.Config(), rates, ceilings)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks", "sft,sewing"], "'sewing' is not a task"),
        (["--workload", "gpt2", "--device", "cpu"], "hours without a GPU"),
        (["--nanogpt", "nowhere"], "holds no model.py"),
        (["--minibatches", "9", "--rollouts", "8"], "--minibatches 9 must be at most"),
        (["--new-tokens", "2"], "--new-tokens 2: give at least 3"),
        (["--json", "."], "--json .: Is a directory; name a file"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(flags, message):
    with pytest.raises(InputError, match=message):
        speed.main(flags)
