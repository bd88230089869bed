"""A flag that nobody reads beside the others is refused: else its user believes in what it did."""

import pytest

import train_ppo
import train_rm
import train_sft
from minirlhf.run import config
from minirlhf.tools import demonstrations, dpo, rejection

OF_DATA = "of --data; leave it out"
MODEL = "the model is that of --init; leave it out"
UNTRAINED = "there is no pretraining without --text; leave it out"
CASES = [  # FILE stands for a file of records, REWARD for a function
    (train_ppo, "--data FILE --prompts 3", f"--prompts: the prompts are those {OF_DATA}"),
    (train_ppo, "--reward REWARD --missing-end-score -1 --rm x", "--rm: --reward takes its place"),
    (train_ppo, "--kl-horizon 5000", "--kl-horizon: is about --kl-target; leave it out"),
    (train_ppo, "--template chatml", "--template: says how --data is read, and there is none"),
    (train_sft, "--data FILE --demonstrations 5", f"--demonstrations: they are those {OF_DATA}"),
    (train_sft, "--data FILE --documents 5", f"--documents: {UNTRAINED}"),
    (train_sft, "--data FILE --pretrain-lr 1", f"--pretrain-lr: {UNTRAINED}"),
    (train_sft, "--init FILE --pretrain-lr 1", f"--pretrain-lr: {UNTRAINED}"),
    (train_sft, "--init FILE --size tiny", f"--size: {MODEL}"),
    (train_sft, "--init FILE --context 64", f"--context: {MODEL}"),
    (train_sft, "--text FILE --documents 5", "--documents: the text is that of --text; leave"),
    (train_rm, "--data FILE --prompts 3", f"--prompts: the comparisons are those {OF_DATA}"),
    (dpo, "--held-out 3", "--held-out: is about --data, and there is none; leave it out"),
    (rejection, "--data FILE --prompts 3", f"--prompts: the prompts are those {OF_DATA}"),
    (demonstrations, "--data FILE --demonstrations 5", f"they are those {OF_DATA}"),
]


@pytest.mark.parametrize(("command", "words", "message"), CASES)
def test_a_flag_that_nobody_reads_is_refused(
    refused, colours, tmp_path, my_rewards, command, words, message
):
    names = {"FILE": str(colours / "demonstrations.jsonl")}
    if "REWARD" in words:
        names["REWARD"] = my_rewards("def reward(prompts, responses):\n    return [0] * 9")
    argv = [names.get(word, word) for word in words.split()]
    line = refused(command.main, ["--out", str(tmp_path / "o"), *argv], tmp_path / "o")
    assert message in line


def test_a_resumed_run_keeps_a_flag_that_nobody_reads(colours, out, monkeypatch):
    """One that was begun before such flags were refused can still go on."""
    argv = ["--out", str(out), "--data", str(colours / "prompts.jsonl"), "--batch-size", "6"]
    argv += "--minibatches 2 --max-new-tokens 4 --held-out 4 --updates 1 --kl-horizon 50".split()
    with monkeypatch.context() as patch:
        patch.setattr(config, "refuse_idle", lambda *_: None)
        train_ppo.main(argv)
    train_ppo.main(["--out", str(out), "--resume", "--updates", "2"])
