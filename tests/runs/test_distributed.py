"""Several processes under `torchrun`: what they compute together is what one process computes."""

import copy
import importlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import WORLD_RM, WORLD_SFT, few
from helpers import CLOCKS, gradient, moved, saved
from processes import start, together, wait
from torch.distributed.run import get_args_parser

import train_ppo
import train_rm
import train_sft
from minirlhf import data, dpo, evaluate, grpo, ppo, reward
from minirlhf.__main__ import COMMANDS
from minirlhf.data import Comparison, Labelled
from minirlhf.rewards import credit, function
from minirlhf.run import compute, config, distributed
from minirlhf.run.config import InputError
from minirlhf.run.metrics import Metrics, read_metrics
from minirlhf.tokenizer import get_tokenizer
from minirlhf.tools import dpo as dpo_command
from minirlhf.tools import ptx
from minirlhf.world import writers

ROOT = Path(__file__).parents[2]
COUNTS = pytest.mark.parametrize("world", [2, 3])
TOKENIZER = get_tokenizer()
RESPONSES = ["yes", "no, not at all", "perhaps", "I do not know that", "of course", "ask Ned", "5"]
PROMPTS = ["Why", "Where is the red book of Eva now", "Who", "Say it", "What for", "Hm", "Is it so"]
EXAMPLES = [data.encode(TOKENIZER, *pair) for pair in zip(PROMPTS, RESPONSES, strict=True)]
COMPARISONS = [
    Comparison(prompt, RESPONSES[i : i + 2 + i % 2], [1, 0, 2][: 2 + i % 2])
    for i, prompt in enumerate(PROMPTS[:5])
]
LABELLED = [Labelled(PROMPTS[i], RESPONSES[i], i % 3 == 0) for i in range(5)]
METHODS = [
    *(dpo.Method("dpo", 0.5), dpo.Method("ipo", 0.5), dpo.Method("kto", 0.5)),
    *(dpo.Method("simpo", 2.0, gamma=0.5), dpo.Method("orpo", 0.5)),
]


@pytest.fixture(scope="module")
def gpt(make_gpt):
    return make_gpt(TOKENIZER.vocab_size, context=32, std=0.3)


def close(a, b):
    """Whether two nested structures of tensors and numbers are equal within 1e-5, NaN too."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(close, a, b))
    if a is None or b is None:  # in metrics.jsonl, what is NaN
        return a is b
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)


def different(a, b):
    """The numbers of two records that are not close."""
    return {name: (a.get(name), x) for name, x in b.items() if not close(a.get(name), x)}


# ---- gradients of the other stages


def batches(gpt):
    """{stage: (its numbers, its gradient)}, of batches whose rows no number of processes divides,
    and of one with fewer rows than three processes are."""
    reference, results = copy.deepcopy(gpt).requires_grad_(False), {}
    gpt = copy.deepcopy(gpt).requires_grad_()  # another test may have frozen it
    for name, batch in {"sft": EXAMPLES, "a last batch": EXAMPLES[:2]}.items():
        results[name] = train_sft.accumulate(gpt, batch, 40), gradient(gpt)
    results["held out"] = train_sft.mean_loss(gpt, EXAMPLES, 40), torch.zeros(1)
    loss = ptx.backpropagate(gpt, EXAMPLES, 0.3, 40)
    distributed.add_gradients(gpt)
    results["PPO-ptx"] = loss, gradient(gpt)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reward_model = reward.RewardModel(gpt)
    numbers = train_rm.accumulate(reward_model, TOKENIZER, COMPARISONS, 60)
    results["rm"] = numbers, gradient(reward_model)
    policy = moved(gpt)
    for method in METHODS:
        records = COMPARISONS + (LABELLED if method.name == "kto" else [])
        stats = dpo.accumulate(policy, reference, TOKENIZER, records, method, 60)
        results[method.name] = stats, gradient(policy)
    stats = dpo.accumulate(policy, reference, TOKENIZER, LABELLED[:1], METHODS[2], 60)
    results["a single response"] = stats, gradient(policy)
    return results


@COUNTS
def test_every_process_has_the_gradient_and_the_numbers_of_the_whole_batch(gpt, tmp_path, world):
    """Of SFT, the reward model and every direct loss. KTO's reference point, the shares of pairs
    and the token counts are those of the batch."""
    expected = batches(gpt)
    for results in together(tmp_path, world, partial(batches, gpt)):
        for name, result in results.items():
            assert close(result, expected[name]), name


# ---- an iteration of PPO

FLAGS = {"max_new_tokens": 6, "epochs": 2, "minibatches": 3, "microbatch_tokens": 30}
FLAGS |= {"kl_target": 0.5, "kl_horizon": 20.0, "lam": 0.9, "lr": 1e-3}


def score(prompts, replies):
    return torch.tensor(
        [float(len(r.text)) - len(p) / 3 for p, r in zip(prompts, replies, strict=True)]
    )


def iteration(gpt, algorithm, prompts):
    """(what an iteration has made, the gradient of each step): its numbers, its rollout, kl_coef,
    and the rows that went through the policy with and without gradient."""
    args = train_ppo.Config(algorithm=algorithm, group=2, batch_size=len(prompts), **FLAGS)
    policy = moved(gpt)
    actor = ppo.ActorCritic(policy) if algorithm == "ppo" else grpo.Policy(policy)
    optimizer, gradients = train_ppo.make_optimizer(args, actor), []
    optimizer.register_step_pre_hook(lambda *_: gradients.append(kept_gradient(actor)))
    controller = ppo.AdaptiveKL(0.1, args.kl_target, args.kl_horizon)
    models = train_ppo.Models(actor, gpt.requires_grad_(False), score, -1.0, TOKENIZER)
    stats, rollout = train_ppo.iteration(args)(args, models, optimizer, controller, prompts, 0)
    numbers = {name: x for name, x in stats.items() if name not in CLOCKS}
    per_token = rollout.rewards, rollout.advantages, rollout.returns, rollout.logprobs
    rows = evaluate.unpack(rollout.samples, TOKENIZER)
    return (numbers, controller.kl_coef, per_token, gradients), [tuple(row) for row in rows]


def kept_gradient(module):
    return torch.cat([p.grad.flatten().clone() for p in module.parameters()])


@COUNTS
@pytest.mark.parametrize("algorithm", ["ppo", *grpo.ALGORITHMS])
def test_an_iteration_is_that_of_one_process(gpt, tmp_path, world, algorithm):
    """The same draws; rewards, advantages, every gradient, every number and the KL coefficient
    within 1e-5. Seven rows in three minibatches: three processes have minibatches in which one of
    them has no response."""
    prompts = PROMPTS if algorithm == "ppo" else [p for p in PROMPTS[:3] for _ in range(2)]
    work = partial(iteration, gpt, algorithm, prompts)
    numbers, rows = work()
    for others, other_rows in together(tmp_path, world, work):
        assert other_rows == rows
        assert close(others, numbers)


def shares(gpt):
    """The rows that this process samples, and those that it backpropagates, of one iteration."""
    sampled, learned = [], []
    generate, select = train_ppo.generate, ppo.Rollout.select

    def spy(gpt, ids, *rest):
        sampled.extend(map(tuple, ids))
        return generate(gpt, ids, *rest)

    def record(rollout, rows):
        learned.extend(rows)
        return select(rollout, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_ppo, "generate", spy)
        patch.setattr(ppo.Rollout, "select", record)
        iteration(gpt, "ppo", PROMPTS)
    return sampled, learned


@COUNTS
def test_the_rows_of_the_processes_are_disjoint(gpt, tmp_path, world):
    """Each prompt is sampled by one process, each row of an epoch is learned from by one; and all
    have about as many."""
    results = together(tmp_path, world, partial(shares, gpt))
    sampled = [prompt for result in results for prompt in result[0]]
    assert sorted(sampled) == sorted(tuple(data.encode_prompt(TOKENIZER, p)) for p in PROMPTS)
    learned = [row for result in results for row in result[1]]
    assert sorted(learned) == sorted([*range(len(PROMPTS))] * FLAGS["epochs"])
    sizes = [len(result[0]) for result in results]
    assert max(sizes) - min(sizes) <= 1


def messages(gpt):
    """The tensors that an iteration adds up between the processes, by their size."""
    sizes, all_reduce = [], distributed.dist.all_reduce
    with pytest.MonkeyPatch.context() as patch:

        def spy(tensor, **options):
            sizes.append(tensor.numel())
            return all_reduce(tensor, **options)

        patch.setattr(distributed.dist, "all_reduce", spy)
        iteration(gpt, "ppo", PROMPTS)
    return sizes


def test_an_optimiser_step_sends_its_gradient_once(gpt, tmp_path):
    """Two epochs of three minibatches are six messages of the size of the model."""
    size = sum(p.numel() for p in ppo.ActorCritic(gpt).parameters())
    for sizes in together(tmp_path, 2, partial(messages, gpt)):
        assert sizes.count(size) == 6
        assert sum(other > size / 10 for other in sizes) == 6


# ---- evaluation


def evaluation(gpt):
    uniforms = evaluate.noise(3, len(PROMPTS), 6)
    replies = evaluate.respond(gpt, TOKENIZER, PROMPTS, uniforms)
    single = evaluate.respond(gpt, TOKENIZER, PROMPTS[:1], uniforms[:1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reward_model = reward.RewardModel(gpt)

    samples = evaluate.packed(replies)
    prefixes = partial(credit.prefix_scores, reward_model)

    def longer(prompts, responses):
        return [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]

    numbers = {
        "kl": evaluate.kl(moved(gpt), gpt, replies),
        "scores": evaluate.score_replies(reward_model, PROMPTS, replies),
        "of prefixes": credit.by_rows(samples, prefixes, 40),
        "function": function.call("longer", longer, PROMPTS, replies),
        "one prompt": function.call("longer", longer, PROMPTS[:1], single),
    }
    return numbers, [tuple(reply) for reply in replies + single]


@COUNTS
def test_an_evaluation_has_the_numbers_of_one_process(gpt, tmp_path, world):
    """Also on fewer prompts than processes, where a function of your own is not called in vain."""
    numbers, replies = evaluation(gpt)
    for others, other_replies in together(tmp_path, world, partial(evaluation, gpt)):
        assert other_replies == replies
        assert close(others, numbers)


def test_inside_alone_a_process_computes_everything(gpt, tmp_path):
    """A checkpoint of a reward model is normalised so, even when another process is gone."""

    def lonely():
        if distributed.rank():
            return None
        with distributed.alone():
            return evaluation(gpt)[0]

    assert close(together(tmp_path, 2, lonely)[0], evaluation(gpt)[0])


# ---- whole runs


@pytest.fixture
def small_world(small_models, monkeypatch):
    monkeypatch.setattr(writers, "contrasts", partial(few, writers.contrasts))


PPO = (
    "--updates 4 --batch-size 7 --minibatches 2 --epochs 2 --max-new-tokens 4 --held-out 5".split()
)
PPO += "--eval-every 2 --warmup 1 --prompts 64".split()
DPO = "--batch-size 5 --warmup 1 --microbatch-tokens 200".split()


def sft_and_rm(out):
    train_sft.main(["--out", str(out), *WORLD_SFT])
    train_rm.main(["--out", str(out), *WORLD_RM])


def ppo_and_dpo(out, before):
    """From the models of the run `before`."""
    train_ppo.main(["--out", str(out), "--sft", f"{before}/sft", "--rm", f"{before}/rm", *PPO])
    dpo_command.main(["--out", str(out), "--sft", f"{before}/sft", *DPO])


def numbers(folder):
    """metrics.jsonl without the clocks."""
    return [{k: v for k, v in line.items() if k not in CLOCKS} for line in read_metrics(folder)]


def test_every_stage_writes_what_one_process_writes(world_out, tmp_path, small_world):
    """The same files with the same texts, and numbers within 1e-5; by one of the processes, which
    is also the one that prints."""
    ppo_and_dpo(world_out, world_out)

    def stages():
        sft_and_rm(tmp_path / "two")
        ppo_and_dpo(tmp_path / "two", world_out)

    together(tmp_path, 2, stages)
    files = {p.relative_to(world_out) for p in world_out.rglob("*") if p.is_file()}
    two = tmp_path / "two"
    assert {p.relative_to(two) for p in two.rglob("*") if p.is_file()} == files
    for path in files:
        if path.name in ("samples.txt", "comparisons.jsonl"):
            assert (two / path).read_bytes() == (world_out / path).read_bytes(), path
    for stage in ("pretrain", "sft", "rm", "ppo", "dpo"):
        for pair in zip(numbers(two / stage), numbers(world_out / stage), strict=True):
            assert different(*pair) == {}, stage
    assert close(saved(two / "rm")["model"]["std"], saved(world_out / "rm")["model"]["std"])
    assert (tmp_path / "0.out").read_text().count("the policy is in") == 3
    assert (tmp_path / "1.out").read_text() + (tmp_path / "1.err").read_text() == ""


SMALL = "--updates 4 --batch-size 6 --max-new-tokens 6 --held-out 4 --eval-every 4".split()
SMALL += "--epochs 2 --minibatches 2 --warmup 2 --kl-target 1 --kl-horizon 20".split()


@pytest.fixture
def small(out, colours):
    """The command of a short PPO run in `out`."""
    return ["--out", str(out), "--data", str(colours / "prompts.jsonl"), *SMALL]


def script(argv, main=train_ppo.main):
    """A script as its footer runs it."""
    return lambda: config.run(lambda: main(argv))


def said(folder):
    """What the processes have written to stderr, without progress bars."""
    text = "".join(path.read_text() for path in folder.glob("*.err"))
    return [line for line in text.split("\n") if line and "\r" not in line and "it/s" not in line]


def on_rank(rank, call, stage="ppo", step=1):
    """A `Metrics.log` that calls a function in one process, at one step."""
    log = Metrics.log

    def log_and_call(self, number, **numbers):
        record = log(self, number, **numbers)
        if (self.path.parent.name, number, distributed.rank()) == (stage, step, rank):
            call()
        return record

    return log_and_call


def test_a_signal_to_one_process_stops_all_and_any_number_of_them_goes_on(
    small, out, tmp_path, monkeypatch
):
    """Two processes until one of them gets a SIGTERM, three from there on: the numbers of one that
    was never interrupted."""
    whole, small = tmp_path / "whole", [*small, "--critic", "separate"]
    train_ppo.main([*small, "--out", str(whole), "--sft", f"{out}/sft", "--rm", f"{out}/rm"])
    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "log", on_rank(1, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        codes = wait(start(tmp_path / "two", 2, script(small)))
    assert sorted(codes) == [1, 128 + signal.SIGTERM]
    said = (tmp_path / "two" / "0.err").read_text()
    assert "holds 2 of 4 steps" in said and "error" not in said
    assert len(numbers(out / "ppo")) == saved(out / "ppo")["step"] == 2
    together(tmp_path / "three", 3, partial(train_ppo.main, [*small, "--resume"]))
    for pair in zip(numbers(out / "ppo"), numbers(whole / "ppo"), strict=True):
        assert different(*pair) == {}
    assert len(numbers(whole / "ppo")) == 4


# ---- what goes wrong


def failed(folder, world, function, ranks=None):
    """The one line that processes which fail write, all of them together."""
    begin = time.monotonic()
    codes = wait(start(folder, world, function, ranks))
    lines = said(folder)
    assert 0 not in codes and time.monotonic() - begin < 60
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


FAILS = """
import os
calls = []
def reward(prompts, responses):
    calls.append(1)
    if os.environ.get("RANK") == "1" and len(calls) == 4 and "REPAIRED" not in os.environ:
        {what}
    return [float(sum(map(ord, response)) % 7) for response in responses]
"""
ENDS = {
    "raise RuntimeError('no answer')": "failed .*RuntimeError: no answer.*holds 2 of 4 steps",
    "os.kill(os.getpid(), 9)": "another process of this run has ended.*holds 2 of 4 steps",
}


@pytest.mark.parametrize("what", ENDS)
def test_a_process_that_dies_ends_all_and_no_step_is_lost(
    small, out, tmp_path, my_rewards, monkeypatch, what
):
    """In the third update, by an error or by a kill. The others notice at once, the first of them
    saves the steps before, and the error is said once."""
    name = my_rewards(FAILS.format(what=what))
    argv = [*small, "--reward", name, "--missing-end-score", "-9", "--save-every", "4"]
    assert re.search(ENDS[what], failed(tmp_path / "two", 2, script(argv)))
    assert saved(out / "ppo")["step"] == len(numbers(out / "ppo")) == 2
    monkeypatch.setenv("REPAIRED", "yes")
    together(tmp_path / "again", 2, partial(train_ppo.main, [*argv, "--resume"]))
    assert len(numbers(out / "ppo")) == 4


def test_more_processes_than_rows_are_refused(small, out, tmp_path):
    line = failed(tmp_path / "p", 3, script([*small, "--batch-size", "2"]))
    assert "3 processes and --batch-size 2" in line
    assert not (out / "ppo").exists()


def test_a_pipe_is_refused(small, out, tmp_path):
    """Each process would read a part of it."""
    line = failed(tmp_path / "p", 2, script([*small, "--data", "-"]))
    assert "is a pipe, and 2 processes read it" in line
    assert not (out / "ppo").exists()


def test_processes_with_other_flags_or_data_are_refused(small, out, tmp_path, colours):
    """On several machines everybody types the command. --threads may differ."""

    def other_rate():
        extra = ["--lr", "0.5", "--threads", "2"] if os.environ["RANK"] == "1" else []
        script([*small, *extra])()

    assert "--lr is 0.0004 in process 0 and 0.5 in process 1" in failed(tmp_path, 2, other_rate)
    fewer = tmp_path / "prompts.jsonl"
    fewer.write_text("".join((colours / "prompts.jsonl").open().readlines()[:30]))

    def other_data():
        script([*small, *(["--data", str(fewer)] if os.environ["RANK"] == "1" else [])])()

    assert re.search("data is .* records .* in process 1", failed(tmp_path, 2, other_data))
    assert not (out / "ppo").exists()


def test_a_folder_that_not_all_processes_see_is_refused(small, out, tmp_path):
    """Machines without a disk in common."""

    def elsewhere():
        away = ["--out", str(tmp_path / "away"), "--sft", f"{out}/sft", "--rm", f"{out}/rm"]
        script([*small, *(away if os.environ["RANK"] == "1" else [])])()

    assert "--out must be a folder that all machines share" in failed(tmp_path, 2, elsewhere)


def test_a_run_that_is_there_is_refused_once(small, out, tmp_path):
    """Every process finds it; one says so."""
    train_ppo.main(small)
    assert "already holds a run" in failed(tmp_path, 3, script(small))


def test_a_process_that_does_not_come_is_named(small, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "JOIN", timedelta(seconds=1))
    assert "process 1 of 3 did not come" in failed(tmp_path, 3, script(small), ranks=[0, 2])


def test_nobody_begins_before_all_are_connected(tmp_path, monkeypatch):
    """One that ended at once would leave the others waiting for its connection."""
    connect = torch.distributed.init_process_group

    def slow(*arguments, **options):
        connect(*arguments, **options)
        if os.environ["RANK"] == "2":
            time.sleep(0.5)
            (tmp_path / "connected").touch()

    monkeypatch.setattr(torch.distributed, "init_process_group", slow)
    assert together(tmp_path, 3, (tmp_path / "connected").exists) == [True] * 3


def test_a_connection_that_fails_is_one_line(small, tmp_path, monkeypatch):
    def connect(*_, **__):
        raise torch.distributed.DistBackendError("Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "init_process_group", connect)
    assert "another process of this run has ended" in failed(tmp_path, 2, script(small))


def test_a_port_in_use_is_said(small, tmp_path):
    """Without torchrun, whose port is in its own hands: by SLURM, or by hand."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        here = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}

        def work():
            os.environ.pop("TORCHELASTIC_USE_AGENT_STORE")
            os.environ.update(here)
            script(small)()

        line = failed(tmp_path, 2, work, ranks=[0])
    assert f"port {port} of 127.0.0.1 is in use" in line


def test_torchrun_starts_the_script_and_ends_it_when_a_process_is_killed(
    small, out, tmp_path, my_rewards
):
    """The real command, killed in the third update and taken up again by a single process."""
    name = my_rewards(FAILS.format(what="os.kill(os.getpid(), 9)"))
    argv = [*small, "--reward", name, "--missing-end-score", "-9"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", str(ROOT / "train_ppo.py"), *argv]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1
    assert done.stderr.count("error: another process of this run has ended") == 1
    assert "holds 2 of 4 steps" in done.stderr and "exitcode  : -9" in done.stderr
    train_ppo.main([*argv, "--resume"])
    assert len(numbers(out / "ppo")) == 4


def test_the_commands_of_the_page_are_commands():
    """docs/distributed.md: torchrun knows its flags, and the scripts know theirs."""
    page = (ROOT / "docs" / "distributed.md").read_text()
    lines = [line.split() for line in page.splitlines() if line.startswith("torchrun ")]
    assert len(lines) == 7
    for line in lines:
        arguments = get_args_parser().parse_args(line[1:])
        module, flags = arguments.training_script, arguments.training_script_args
        if module == "minirlhf":
            module, flags = COMMANDS[flags[0]].module, flags[1:]
        config.parse(importlib.import_module(module.removesuffix(".py")).Config, flags)


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    """The one that torchrun's LOCAL_RANK says. There is none here: torch is made to say so."""
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    compute.pick_device("auto")
    assert taken == []  # a single process takes torch's choice
    monkeypatch.setattr(distributed, "world", lambda: 3)
    assert compute.pick_device("auto").type == "cuda"
    assert taken == [1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="process 3 on a machine with 2 GPUs"):
        compute.pick_device("cuda")
