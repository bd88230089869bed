"""PPO-ptx, train_ppo.py --ptx-coef: the loss on pretraining text is part of each optimiser step."""

import json

import pytest
import torch
from helpers import gradient, logged, same, saved

import train_ppo
import train_sft
from minirlhf import data, ppo
from minirlhf.data import Example
from minirlhf.run import config
from minirlhf.run.checkpoint import load_gpt
from minirlhf.run.config import InputError
from minirlhf.run.metrics import read_metrics
from minirlhf.tokenizer import get_tokenizer
from minirlhf.tools import ptx
from minirlhf.world import writers

PPO = ["--batch-size", "6", "--minibatches", "3", "--held-out", "4", "--max-new-tokens", "4"]
PPO += ["--warmup", "1", "--save-every", "2", "--eval-every", "2", "--microscope", "0"]
DOCUMENTS = [Example([0, 5, 7, 9, 3], 1), Example([0, 8], 1), Example([0, 4, 4, 6], 1)]


# ---- the loss


def test_the_loss_is_the_mean_over_all_tokens_whatever_the_microbatches(make_gpt):
    """That of train_sft.py, times the coefficient in the gradient and not in what is logged."""
    gpt = make_gpt()
    expected = train_sft.accumulate(gpt, DOCUMENTS, 10**6)
    unscaled = gradient(gpt)
    for microbatch_tokens in (10**6, 5):
        loss = ptx.backpropagate(gpt, DOCUMENTS, 2.5, microbatch_tokens)
        assert float(loss) == pytest.approx(expected, rel=1e-5)
        torch.testing.assert_close(gradient(gpt), 2.5 * unscaled, rtol=1e-4, atol=1e-6)
    assert train_sft.mean_loss(gpt, DOCUMENTS, 5) == pytest.approx(expected, rel=1e-5)


class Recorder(torch.optim.SGD):
    """An optimiser that keeps the gradient of each step as one vector."""

    def __init__(self, model):
        super().__init__(model.parameters(), lr=0.0)
        self.model, self.gradients = model, []

    def step(self):
        self.gradients.append(torch.cat([whole(p).flatten() for p in self.model.parameters()]))


def whole(parameter):
    """Its gradient; none counts as zero."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()


def make_rollout(policy, reference):
    """Three responses of a policy, in two microbatches of one optimiser step."""
    tokens = torch.tensor([[1, 2, 3, 4], [1, 5, 6, 0], [2, 7, 8, 9]])
    lengths = torch.tensor([4, 3, 4])
    ended = torch.ones(3, dtype=torch.bool)
    samples = ppo.Samples(tokens, torch.tensor([1, 1, 2]), lengths, ended)
    plan = [[[[0, 1], [2]]]]
    found = ppo.logprobs_and_values(policy, reference, samples, plan[0])
    scores = torch.tensor([1.0, -1.0, 0.5])
    rewards = ppo.token_rewards(scores, *found[:2], samples.mask, 0.1)
    raw, returns = ppo.gae(rewards, found[2], samples.mask)
    advantages = ppo.whiten(raw, samples.mask)
    fields = samples, samples.mask, *found, rewards, raw, advantages, returns
    return ppo.Rollout(*fields), plan


def test_an_optimiser_step_is_on_the_sum_of_both_gradients(make_gpt):
    """Clipped as one: its norm is that of the sum. A step of its own for the text would be another
    algorithm under Adam and under the clip."""
    policy, steps = ppo.ActorCritic(make_gpt()), {}
    rollout, plan = make_rollout(policy, make_gpt(seed=1))
    ptx.backpropagate(policy.gpt, DOCUMENTS, 3.0, 10**6)
    of_text = torch.cat([whole(p).flatten() for p in policy.parameters()])
    policy.zero_grad()
    loss = ptx.Loss(policy.gpt, DOCUMENTS, 1, 0, 3.0, 3, 10**6)
    for name, added in (("ppo", None), ("both", loss(0))):
        steps[name] = Recorder(policy)
        stats = ppo.update(
            policy, steps[name], rollout, plan, max_grad_norm=1e6, auxiliary_loss=added
        )
    assert len(steps["both"].gradients) == 1
    (alone,), (both,) = (steps[name].gradients for name in ("ppo", "both"))
    torch.testing.assert_close(both, alone + of_text, rtol=1e-4, atol=1e-6)
    assert float(stats["grad_norm"]) == pytest.approx(float(both.norm()), rel=1e-4)
    assert float(stats["ptx_loss"]) == pytest.approx(
        train_sft.mean_loss(policy.gpt, DOCUMENTS, 10**6)
    )


def test_the_documents_of_a_step_are_the_next_of_a_permutation(monkeypatch):
    """Two steps an iteration and three documents a step: iteration 4 begins at the 25th."""
    batches = []
    monkeypatch.setattr(
        ptx, "backpropagate", lambda gpt, batch, coef, limit: batches.append((batch, coef, limit))
    )
    loss = ptx.Loss(None, list(range(100)), 2, 7, 0.5, 3, 99)(4)
    loss(), loss()
    order = list(data.stream(100, 24, 30, 7))
    assert batches == [(order[:3], 0.5, 99), (order[3:], 0.5, 99)]


# ---- a run


def test_it_keeps_what_ppo_alone_forgets(world_out):
    """The loss on held-out documents, which metrics.jsonl has beside the SFT model's. A large
    coefficient learns from the text; without one there is no such number."""
    flags = ["--out", str(world_out), *PPO, "--updates", "6", "--lr", "0.003", "--overwrite"]
    train_ppo.main([*flags, "--ptx-coef", "5", "--ptx-batch", "8"])
    first, *_, last = [r for r in read_metrics(world_out / "ppo") if "eval_text_loss" in r]
    assert last["eval_text_loss"] < first["eval_text_loss"] < first["sft_text_loss"]
    assert all("ptx_loss" in record for record in read_metrics(world_out / "ppo"))
    train_ppo.main(flags)
    assert not {"ptx_loss", "eval_text_loss"} & set(read_metrics(world_out / "ppo")[-1])


def test_a_resumed_run_ends_with_the_same_bits(world_out, ctrl_c):
    """It sees the same documents."""
    flags = ["--out", str(world_out), *PPO, "--updates", "4", "--ptx-coef", "0.5"]
    train_ppo.main(flags)
    weights, metrics = saved(world_out / "ppo")["model"], logged(world_out / "ppo")
    ctrl_c("ppo", 1)
    with pytest.raises(KeyboardInterrupt):
        train_ppo.main([*flags, "--overwrite"])
    ctrl_c(None)
    train_ppo.main(["--out", str(world_out), "--resume"])
    assert same(saved(world_out / "ppo")["model"], weights)
    assert logged(world_out / "ppo") == metrics


def test_the_text_is_a_file_of_yours_or_other_documents_than_those_of_pretraining(tmp_path):
    """A tenth is held out. Of a text file, windows of the context."""
    tokenizer = get_tokenizer()
    learned, held_out = ptx.load_text("", 3, tokenizer, 128)
    seen = writers.documents(2000, config.rng(3, config.DOCUMENTS))
    seen = {tuple(data.encode(tokenizer, "", document).tokens) for document in seen}
    assert len(learned) + len(held_out) <= ptx.DOCUMENTS and len(held_out) == ptx.HELD_OUT
    assert sum(tuple(example.tokens) in seen for example in held_out) < 20
    path = tmp_path / "text.txt"
    path.write_text("It is a goat. " * 100)
    learned, held_out = ptx.load_text(str(path), 3, tokenizer, 16)
    assert len(held_out) == (len(learned) + len(held_out)) // 10
    assert {len(example.tokens) for example in learned[:-1]} == {16}


def test_own_prompts_take_own_text(out, colours, tmp_path, monkeypatch):
    """So many documents of it a step, with this coefficient, others at every step and update. The
    loss that is logged is on those that are held out. The run knows them by their content."""
    path, steps, backpropagate = tmp_path / "text.txt", [], ptx.backpropagate
    path.write_text(" ".join("rgb"[i * i % 7 % 3] + str(i) for i in range(300)))

    def spy(gpt, batch, coef, microbatch_tokens):
        steps.append((batch, coef, microbatch_tokens))
        return backpropagate(gpt, batch, coef, microbatch_tokens)

    monkeypatch.setattr(ptx, "backpropagate", spy)
    flags = ["--out", str(out), "--data", str(colours / "prompts.jsonl"), *PPO]
    flags += ["--updates", "2", "--ptx-coef", "2.5", "--ptx-batch", "2", "--text", str(path)]
    train_ppo.main([*flags, "--microbatch-tokens", "300"])
    gpt, tokenizer = load_gpt(out / "ppo")
    learned, held_out = ptx.load_text(str(path), 1, tokenizer, gpt.config.context)
    assert [rest for _, *rest in steps] == [[2.5, 300]] * 6  # three minibatches an update
    assert [len(batch) for batch, *_ in steps] == [2] * 6
    seen = [learned.index(example) for batch, *_ in steps for example in batch]
    assert len(set(seen)) == 12 <= len(learned), "documents come again before all were there"
    losses = [train_sft.mean_loss(gpt, side, 300) for side in (held_out, learned)]
    logged_loss = read_metrics(out / "ppo")[-1]["eval_text_loss"]
    assert logged_loss == pytest.approx(losses[0], rel=1e-4) != pytest.approx(losses[1], rel=1e-3)
    assert "text" in json.loads((out / "ppo" / "config.json").read_text())["inputs"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"ptx_coef": 1.0, "data": "mine.jsonl"}, "--ptx-coef needs --text FILE"),
        ({"ptx_coef": 1.0, "algorithm": "rloo"}, "--ptx-coef needs --algorithm ppo, not rloo"),
        ({"text": "mine.txt"}, "--text and --ptx-batch need --ptx-coef"),
        ({"ptx_batch": 3}, "--text and --ptx-batch need --ptx-coef"),
    ],
)
def test_flags_that_contradict_one_another_are_one_line(flags, message):
    with pytest.raises(InputError, match=message):
        ptx.check_flags(train_ppo.Config(**flags))
