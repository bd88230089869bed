"""microscope.jsonl: what PPO computed about the tokens of a few responses."""

import json
import math

import pytest
import torch
from helpers import logged, same, saved

import train_ppo
from minirlhf import model, ppo
from minirlhf.run import checkpoint
from minirlhf.run.metrics import read_metrics
from minirlhf.tools import microscope

PPO = ["--batch-size", "6", "--minibatches", "2", "--held-out", "4", "--max-new-tokens", "4"]
PPO += ["--warmup", "1", "--save-every", "2", "--eval-every", "2"]


@pytest.fixture
def ppo_run(colours):
    """ppo_run(out, flags...) -> the lines of microscope.jsonl."""

    def run(out, *argv):
        train_ppo.main(["--out", str(out), "--data", str(colours / "prompts.jsonl"), *PPO, *argv])
        return lines(out)

    return run


def lines(out):
    path = out / "ppo" / "microscope.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_the_numbers_of_a_token_are_those_that_its_update_had(out, ppo_run, monkeypatch):
    """Log-probabilities, values, rewards and advantages are the rollout's; the ratio is that of the
    policy after the update to the one that sampled; texts are those of the ids."""
    rollouts, update = [], ppo.update

    def watched(model, optimizer, rollout, *rest, **flags):
        rollouts.append(rollout)
        return update(model, optimizer, rollout, *rest, **flags)

    monkeypatch.setattr(ppo, "update", watched)
    flags = ["--updates", "1", "--microscope", "3", "--lr", "0.05", "--temperature", "0.7"]
    [line] = ppo_run(out, *flags)
    rollout, samples = rollouts[0], rollouts[0].samples
    assert (line["step"], line["clip"], len(line["responses"])) == (0, 0.2, 3)
    policy, tokenizer = checkpoint.load_gpt(out / "ppo")
    new, _ = model.logprobs(policy, samples.tokens, samples.mask, 0.7)
    for row, response in enumerate(line["responses"]):
        mask = samples.mask[row]
        names = {name: getattr(rollout, name) for name in microscope.FIELDS}
        names["kl"] = rollout.logprobs - rollout.ref_logprobs
        names["ratios"] = (new - rollout.logprobs).exp().detach()
        for name, tensor in names.items():
            assert response[name] == pytest.approx(tensor[row][mask].tolist(), rel=1e-4, abs=1e-5)
        ids = samples.tokens[row].tolist()
        start, stop = int(samples.prompt_lengths[row]), int(samples.lengths[row])
        assert response["prompt"] == tokenizer.decode(ids[:start])
        assert response["tokens"] == [tokenizer.decode([i]) for i in ids[start:stop]]
        assert response["ended"] == bool(samples.ended[row])
        pairs = zip(response["advantages"], response["ratios"], strict=True)
        sides = [a * (ratio - 1) > 0 and abs(ratio - 1) > 0.2 for a, ratio in pairs]
        assert response["clipped"] == sides
    assert any(abs(x - 1) > 0.01 for r in line["responses"] for x in r["ratios"])


@pytest.mark.parametrize(
    ("advantage", "ratio", "clipped"),
    [(1, 1.21, True), (1, 1.19, False), (1, 0.5, False), (-1, 0.79, True), (-1, 0.81, False)]
    + [(-1, 1.5, False), (0, 3.0, False), (None, 1.0, False), (1.0, None, False)],
)
def test_a_token_is_clipped_where_the_loss_has_no_gradient(advantage, ratio, clipped):
    """The clip stops a ratio on the side to which its advantage moves it. Where a number is not
    finite, nothing is known."""
    assert microscope.is_clipped(advantage, ratio, 0.2) == clipped
    if None not in (advantage, ratio) and advantage:
        logprob = torch.tensor([math.log(ratio)], requires_grad=True)
        mask = torch.ones(1, dtype=torch.bool)
        loss, _ = ppo.policy_loss(logprob, torch.zeros(1), torch.tensor([float(advantage)]), mask)
        loss.backward()
        assert (logprob.grad == 0).item() == clipped


def test_it_is_recorded_at_the_first_update_and_at_evaluations_and_changes_nothing(out, ppo_run):
    """0 leaves it out. A batch that is smaller than asked for is recorded as a whole."""
    recorded = ppo_run(out, "--updates", "5", "--microscope", "100")
    assert [line["step"] for line in recorded] == [0, 1, 3, 4]
    assert {len(line["responses"]) for line in recorded} == {6}
    metrics, weights = logged(out / "ppo"), saved(out / "ppo")["model"]
    assert ppo_run(out, "--updates", "5", "--microscope", "0", "--overwrite") == []
    assert logged(out / "ppo") == metrics and same(saved(out / "ppo")["model"], weights)


@pytest.mark.parametrize(
    ("name", "stop"), [("microscope.jsonl", 1), ("microscope.jsonl", 2), ("evaluations.jsonl", 2)]
)
def test_a_resumed_run_records_what_an_undisturbed_one_does(out, ppo_run, ctrl_c, name, stop):
    """What was recorded after the checkpoint that it resumes from is made again, not twice. Its
    first update is like any other."""
    ppo_run(out, "--updates", "6")
    path = out / "ppo" / name
    text = path.read_text()
    ctrl_c("ppo", stop)
    with pytest.raises(KeyboardInterrupt):
        ppo_run(out, "--updates", "6", "--overwrite")
    assert [line["step"] for line in lines(out)] == [0, 1]
    assert path.read_text() != text
    path.write_text(text)  # as if the run had been killed at its end, after this checkpoint
    ctrl_c(None)
    train_ppo.main(["--out", str(out), "--resume"])
    assert path.read_text() == text


# ---- evaluations.jsonl


def test_an_evaluation_has_a_number_for_each_held_out_prompt(world_out):
    """Their means are those of metrics.jsonl: what is resampled is what is printed."""
    train_ppo.main(["--out", str(world_out), *PPO, "--updates", "4"])
    path = world_out / "ppo" / "evaluations.jsonl"
    evaluations = [json.loads(line) for line in path.read_text().splitlines()]
    records = [r for r in read_metrics(world_out / "ppo") if "eval_kl" in r]
    assert [line["step"] for line in evaluations] == [r["step"] for r in records] == [1, 3]
    names = {"scores": "eval_score", "kls": "eval_kl", "totals": "eval_total"}
    for line, record in zip(evaluations, records, strict=True):
        for column, metric in (names | {"sft_totals": "sft_total"}).items():
            assert len(line[column]) == 4
            assert sum(line[column]) / 4 == pytest.approx(record[metric], rel=1e-4, abs=1e-6)
