"""--gradient-checkpointing in all stages: less memory, and the same bits."""

import pytest
from helpers import logged, same, saved

import train_ppo
import train_rm
import train_sft
from minirlhf import fast
from minirlhf.tools import dpo

STAGES = {
    "sft": (train_sft, "demonstrations", ["--init"]),
    "rm": (train_rm, "comparisons", ["--max-new-tokens", "6", "--norm-prompts", "4", "--sft"]),
    "dpo": (dpo, "comparisons", ["--sft"]),
    "ppo": (train_ppo, "prompts", ["--max-new-tokens", "6", "--updates", "1", "--sft"]),
    "adapters": (train_ppo, "prompts", ["--max-new-tokens", "6", "--updates", "1", "--sft"]),
}
OWN = {
    "sft": ["--max-new-tokens", "6", "--batch-size", "30"],
    "rm": ["--batch-size", "30"],
    "dpo": ["--batch-size", "30"],
    "ppo": ["--batch-size", "8", "--minibatches", "2", "--critic", "separate"],
    "adapters": ["--batch-size", "8", "--minibatches", "2", "--lora", "2"],
}


@pytest.mark.parametrize("case", STAGES)
def test_gradient_checkpointing_changes_memory_alone(
    case, colour_run, colours, tmp_path, monkeypatch
):
    """Each block of a pass that learns is computed again, in its trunk and in a critic's, and every
    weight and every metric is what it is without."""
    script, records, flags = STAGES[case]
    stage = "ppo" if case == "adapters" else case
    blocks, compute = [], fast.recomputed
    monkeypatch.setattr(fast, "recomputed", lambda *x: blocks.append(x[1]) or compute(*x))
    argv = [*flags, str(colour_run / "sft"), *OWN[case], "--warmup", "1", "--held-out", "4"]
    argv += ["--data", str(colours / f"{records}.jsonl")]
    argv += ["--rm", str(colour_run / "rm")] if stage == "ppo" else []
    runs = []
    for name in ("plain", "less"):
        runs.append(tmp_path / name / stage)
        assert not blocks
        more = ["--gradient-checkpointing"] if name == "less" else []
        script.main([*argv, "--out", str(tmp_path / name), *more])
    assert len({id(block) for block in blocks}) == (4 if case == "ppo" else 2)
    first, second = map(saved, runs)
    for part in ("model", "optimizer", "critic", "adapters"):
        assert same(first.get(part), second.get(part)), part
    assert logged(runs[0]) == logged(runs[1])
