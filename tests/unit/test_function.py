"""The specification of rewards/function.py: what a user's reward may do and may return."""

from typing import NamedTuple

import pytest
import torch

from minirlhf.rewards.function import call, load_function, source


class Reply(NamedTuple):
    text: str


REPLIES = [Reply("a"), Reply("bb")]
SCORES = {
    "a list": [1, 2.5],
    "a tensor": torch.tensor([1, 2.5]),
    "with a gradient": torch.tensor([1, 2.5], requires_grad=True),
    "bf16": torch.tensor([1, 2.5], dtype=torch.bfloat16),
    "float64": torch.tensor([1, 2.5], dtype=torch.float64),
}


@pytest.mark.parametrize("kind", SCORES)
def test_scores_may_be_numbers_of_any_kind(kind):
    """A user's own reward model gives a tensor with a gradient, which numpy refuses."""
    scores = call("mine:f", lambda prompts, responses: SCORES[kind], ["p", "p"], REPLIES)
    assert scores.dtype == torch.float32 and scores.tolist() == [1, 2.5]
    assert not scores.requires_grad


def test_a_function_that_sets_torchs_default_type_changes_nothing_here(tmp_path, monkeypatch):
    """float64 as the default makes heads and masks that fit to no float32 weight. It may be set on
    import or in a call."""
    path = tmp_path / "double_reward.py"
    path.write_text(
        "import torch\ntorch.set_default_dtype(torch.float64)\n"
        "def score(prompts, responses):\n"
        "    torch.set_default_dtype(torch.float64)\n    return torch.zeros(len(prompts))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    function = load_function("--reward", "double_reward:score")
    assert torch.get_default_dtype() == torch.float32
    assert call("double_reward:score", function, ["p", "p"], REPLIES).dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32


def test_the_source_of_a_function_is_known_by_its_bytes(tmp_path, monkeypatch):
    """A resumed run says that its reward is another one."""
    path = tmp_path / "counted_reward.py"
    path.write_text("def score(prompts, responses):\n    return [0.0] * len(prompts)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_function("--reward", "counted_reward:score")
    first = source("counted_reward:score")
    path.write_text(path.read_text().replace("0.0", "1.0"))
    assert len(first) == 16 and source("counted_reward:score") != first
    assert source("") is None and source("builtins:len") is None
