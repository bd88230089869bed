"""A command that writes a file where it is told to never replaces somebody's data."""

import shutil

import pytest

from minirlhf.tools import ai, evaluate, evaluate_rm, page

ON_PROMPTS = ["--prompts", "4", "--best-of", "1", "--max-new-tokens", "4", "--reward-model", "none"]


def commands(run, records):
    """Words by command, all but the file for its result, and that file's flag."""
    sft = str(run / "sft")
    data = ["--data", str(records)]
    return {
        "evaluate": [*data, "--policy", sft, "--baseline", sft, *ON_PROMPTS, "--to"],
        "evaluate_rm": [*data, "--reward-model", str(run / "rm"), "--to"],
        "page": [sft, "--html"],
    }


MAINS = {"evaluate": evaluate.main, "evaluate_rm": evaluate_rm.main, "page": page.main}


@pytest.mark.parametrize("name", MAINS)
def test_each_command_knows_its_own_results(colours, colour_run, tmp_path, refused, name):
    """They may be made again. The comparisons that were measured are not replaced by them."""
    records = tmp_path / "comparisons.jsonl"
    shutil.copy(colours / "comparisons.jsonl", records)
    words = commands(colour_run, records)[name]
    for _ in range(2):
        MAINS[name]([*words, str(tmp_path / "result")])
    line = refused(MAINS[name], [*words, str(records)], tmp_path)
    assert "holds something else than such results; name another file" in line


def test_labels_by_a_model_replace_no_labels(colours, colour_run, tmp_path, refused, my_rewards):
    """Those of people and those of a model are written alike, so neither is replaced."""
    name = my_rewards("def reward(prompts, first, second):\n    return [0.9] * len(first)")
    records = str(colours / "comparisons.jsonl")
    words = ["--labeller", name, "--data", records, "--to", str(tmp_path / "soft.jsonl")]
    ai.main(words)
    assert "is there already; name another file" in refused(ai.main, words, tmp_path)
    labels = (tmp_path / "soft.jsonl").read_text()
    broken = my_rewards("def reward(prompts, first, second):\n    return [2] * len(first)")
    words[1], words[-1] = broken, str(tmp_path / "new.jsonl")
    refused(ai.main, words, tmp_path)  # and makes no file
    assert (tmp_path / "soft.jsonl").read_text() == labels
