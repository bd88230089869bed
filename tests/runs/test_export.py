"""The specification of `minirlhf export`: transformers opens a run and answers as we do."""

import importlib.util
import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from conftest import colour_prompt
from helpers import same, saved
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)

import train_ppo
import train_sft
from minirlhf import data, evaluate, reward
from minirlhf.formats import opt
from minirlhf.run import checkpoint
from minirlhf.run.config import InputError
from minirlhf.tokenizer import END, get_tokenizer
from minirlhf.tools import card, export
from minirlhf.tools import evaluate as evaluate_command

pytest.importorskip("safetensors")
transformers.utils.logging.disable_progress_bar()
PROMPTS = [colour_prompt(1), "x", colour_prompt(23) + "Now!\n", "Anything else, then? "]
PAIRS = [
    *(("Pick a colour, number 3.\n", "b"), ("Pick a colour: ", "Blue, of course, and no other.")),
    *(("x", ""), ("A longer one, to be padded to.\n", f"r{END}g"), ("a", " a!")),
]

REWARDBENCH = """
import torch, transformers
if not torch.cuda.is_available():  # rewardbench 0.1.4 sends its batches to "cuda" in any case
    to = transformers.BatchEncoding.to
    transformers.BatchEncoding.to = lambda batch, device, **flags: to(batch, "cpu", **flags)
from rewardbench.rewardbench import main
main()
"""


@pytest.fixture(scope="module")
def policy(colour_run, tmp_path_factory):
    """(our GPT, our tokenizer, the exported folder)."""
    folder = tmp_path_factory.mktemp("policy") / "sft"
    export.main([str(colour_run / "sft"), str(folder)])
    return *checkpoint.load_gpt(colour_run / "sft"), folder


@pytest.fixture(scope="module")
def rewards(colour_run, tmp_path_factory):
    """(our reward model, the exported folder)."""
    folder = tmp_path_factory.mktemp("rewards") / "rm"
    export.main([str(colour_run / "rm"), str(folder)])
    return reward.load_reward_model(colour_run / "rm")[0], folder


@pytest.fixture
def warnings_of(caplog, monkeypatch):
    """A function that gives the warnings of transformers so far."""
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "propagate", True)
    transformers.utils.logging.set_verbosity_warning()
    yield lambda: [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    transformers.utils.logging.set_verbosity_error()


# ---- a policy


def test_greedy_ids_of_transformers_are_ours(policy):
    """One prompt at a time and padded together, to the end token or to the limit."""
    gpt, tokenizer, folder = policy
    model = AutoModelForCausalLM.from_pretrained(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    replies = evaluate.respond(gpt, tokenizer, PROMPTS, np.zeros((4, 6), np.float32), 0.0)
    expected = [reply.example.tokens[reply.example.prompt_length :] for reply in replies]
    assert any(reply.ended for reply in replies)
    for prompts in [[prompt] for prompt in PROMPTS] + [PROMPTS]:
        batch = theirs(prompts, return_tensors="pt", padding=True)
        ids = model.generate(**batch, do_sample=False)[:, batch.input_ids.size(1) :].tolist()
        for prompt, row in zip(prompts, ids, strict=True):
            wanted = expected[PROMPTS.index(prompt)]
            assert row[: len(wanted)] == wanted
            assert set(row[len(wanted) :]) <= {tokenizer.end_token}


def test_the_pipeline_answers_as_we_do_and_does_not_warn(policy, warnings_of):
    """The text of the greedy response, with and without the prompt, and no warning of a missing
    pad token, of flags or of a prompt that is too long. The exported model once had an empty
    tokenizer, and the pipeline repeated the prompt."""
    gpt, tokenizer, folder = policy
    generator = pipeline("text-generation", str(folder))
    replies = evaluate.respond(gpt, tokenizer, PROMPTS, np.zeros((4, 6), np.float32), 0.0)
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        full = generator(prompt, do_sample=False)[0]["generated_text"]
        assert full == prompt + reply.text
        rest = generator(prompt, do_sample=False, return_full_text=False)[0]["generated_text"]
        assert rest == reply.text
    assert generator("", do_sample=False)  # an empty prompt is one end token
    assert warnings_of() == []


def test_sampling_is_from_all_ids_at_the_temperature_of_training(policy):
    """transformers' own default takes the 50 likeliest, which is another policy."""
    settings = AutoModelForCausalLM.from_pretrained(policy[2]).generation_config
    assert settings.do_sample and settings.top_k == 0
    assert (settings.temperature, settings.top_p, settings.max_new_tokens) == (1.0, 1.0, 6)
    ends = settings.eos_token_id, settings.pad_token_id, settings.bos_token_id
    assert ends == (policy[1].end_token,) * 3
    assert transformers.AutoConfig.from_pretrained(policy[2]).eos_token_id == ends[0]


# ---- a reward model


def our_scores(reward_model, pairs):
    examples = [data.encode(get_tokenizer(), *pair) for pair in pairs]
    tokens, _, lengths = data.collate(examples)
    with torch.no_grad():
        return reward_model(tokens, lengths)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_transformers_gives_our_scores_however_a_batch_is_padded(rewards, side, size):
    """Normalised: with mean, standard deviation and bias of the head folded in. To 1e-5."""
    reward_model, folder = rewards
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    assert model.config.num_labels == 1 and abs(float(reward_model.mean)) > 1e-3
    scores = []
    for start in range(0, len(PAIRS), size):
        prompts, responses = zip(*PAIRS[start : start + size], strict=True)
        texts = list(prompts), list(responses)
        batch = theirs(*texts, padding=True, padding_side=side, return_tensors="pt")
        with torch.no_grad():
            scores.append(model(**batch).logits[:, 0])
    torch.testing.assert_close(
        torch.cat(scores), our_scores(reward_model, PAIRS), atol=1e-5, rtol=0
    )


def test_folding_is_right_for_any_head(make_gpt, tmp_path):
    """A bias, a mean and a standard deviation far from 0 and 1; every parameter matters."""
    reward_model = reward.RewardModel(make_gpt(get_tokenizer().vocab_size, context=40, std=0.3))
    reward_model.head.bias.data.fill_(3.0)
    reward_model.mean.fill_(-40.0)
    reward_model.std.fill_(0.25)
    opt.save_reward_model(reward_model, tmp_path, get_tokenizer().end_token)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    example = data.encode(get_tokenizer(), *PAIRS[1])
    score = model(torch.tensor([example.tokens])).logits
    torch.testing.assert_close(score[0], our_scores(reward_model, PAIRS[1:2]), atol=1e-3, rtol=1e-5)
    reward_model.head.weight.data.zero_()
    with pytest.raises(InputError, match="head of the reward model is zero"):
        opt.save_reward_model(reward_model, tmp_path, get_tokenizer().end_token)


def test_the_classification_pipeline_gives_our_scores_of_chats(rewards):
    """As rewardbench calls it: messages become one text, padded on the left in batches."""
    reward_model, folder = rewards
    theirs = AutoTokenizer.from_pretrained(folder)
    theirs.padding_side = "left"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    scorer = pipeline("text-classification", model=model, tokenizer=theirs)
    texts = [theirs.apply_chat_template(messages(*pair), tokenize=False) for pair in PAIRS]
    flags = {"function_to_apply": "none", "padding": True, "batch_size": 3}
    for results in (scorer(texts, **flags), scorer(texts)):
        scores = torch.tensor([result["score"] for result in results])
        torch.testing.assert_close(scores, our_scores(reward_model, PAIRS), atol=1e-5, rtol=0)


def messages(prompt, response):
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]


@pytest.mark.rewardbench
@pytest.mark.skipif(not importlib.util.find_spec("rewardbench"), reason="needs rewardbench")
def test_rewardbench_runs_on_the_folder_with_a_file_of_pairs(rewards, tmp_path):
    """The scores that it writes are ours. Its own data sets need a network; these are local."""
    reward_model, folder = rewards
    pairs = [("Pick a colour, number 3.\n", "b", "g"), ("Another: ", "Blue then", "no")] * 5
    lines = [{"chosen": messages(p, a), "rejected": messages(p, b)} for p, a, b in pairs]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "rm").symlink_to(folder)
    flags = "--model=rm --dataset=pairs.jsonl --load_json --not_quantized --torch_dtype=float32"
    offline = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", REWARDBENCH, *flags.split(), "--batch_size=3"]
    subprocess.run(command, cwd=tmp_path, env=os.environ | offline, check=True)
    written = (tmp_path / "results" / "rm_outputs.jsonl").read_text().splitlines()
    for name, side in (("scores_chosen", 1), ("scores_rejected", 2)):
        scores = torch.tensor([json.loads(line)[name] for line in written])
        ours = our_scores(reward_model, [(row[0], row[side]) for row in pairs])
        torch.testing.assert_close(scores, ours, atol=1e-5, rtol=0)


# ---- the model card


def test_the_model_card_holds_the_numbers_of_the_run(rewards, policy, colour_run):
    """The last held-out accuracy of metrics.jsonl; the flags; how it is used."""
    text = (rewards[1] / "README.md").read_text()
    last = json.loads((colour_run / "rm" / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"| held\\_out\\_accuracy | {last['held_out_accuracy']:.4g} |" in text
    assert "| lr | 0.01 |" in text and "AutoModelForSequenceClassification" in text
    assert "text-generation" in (policy[2] / "README.md").read_text()


def test_the_model_card_has_the_row_of_the_report_beside_the_run(out):
    """And where that file is damaged, it has none."""
    state = checkpoint.load(out / "sft", ("sft",))
    report = {"rows": {"SFT": {"helpful": 0.4375, "kl": None}, "PPO": {"helpful": 0.9}}}
    (out / "report.json").write_text(json.dumps(report))
    text = card.text(out / "sft", state)
    assert "| helpful | 0.4375 |" in text and "0.9 |" not in text
    (out / "report.json").write_text("[1]")
    assert "helpful" not in card.text(out / "sft", state)


def test_nothing_from_a_run_is_markup_in_its_model_card(out):
    """The name of a data file may hold anything that a name can."""
    record = json.loads((out / "sft" / "config.json").read_text())
    record["flags"]["data"] = "<script>a</script>\n# [x](y)\x1b[2J"
    (out / "sft" / "config.json").write_text(json.dumps(record))
    text = card.text(out / "sft", checkpoint.load(out / "sft", ("sft",)))
    assert "<script>" not in text and "\x1b" not in text and "\n# [x]" not in text


# ---- without the optimiser


def test_a_checkpoint_without_the_optimiser_is_less_than_half_and_loads(out, tmp_path, capsys):
    """The same weights to the bit, for every command that takes a checkpoint."""
    export.main([str(out / "sft"), str(tmp_path / "x" / "sft"), "--weights-only"])
    export.main([str(out / "rm"), str(tmp_path / "x" / "rm"), "--weights-only"])
    for stage in ("sft", "rm"):
        before, after = saved(out / stage), saved(tmp_path / "x" / stage)
        assert same(before["model"], after["model"]) and "optimizer" not in after
        sizes = [(x / stage / "checkpoint.pt").stat().st_size for x in (out, tmp_path / "x")]
        assert sizes[1] < 0.5 * sizes[0]
    flags = ["--policy", str(tmp_path / "x" / "sft"), "--baseline", str(out / "sft")]
    flags += ["--reward-model", str(tmp_path / "x" / "rm"), "--max-new-tokens", "4"]
    data_file = tmp_path / "prompts.jsonl"
    data_file.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
    evaluate_command.main([*flags, "--data", str(data_file), "--best-of", "1"])
    assert "policy beats the baseline: 50.0%" in capsys.readouterr().out


def test_what_has_no_optimiser_is_not_resumed(refused, out, tmp_path):
    """One line, before a file is touched."""
    export.main([str(out / "sft"), str(tmp_path / "x" / "sft"), "--weights-only"])
    flags = ["--out", str(tmp_path / "x"), "--resume"]
    message = refused(train_sft.main, flags, tmp_path / "x")
    assert "without an optimiser" in message and "another --out" in message


# ---- what is refused


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_an_export_never_replaces_a_run(refused, out, flags):
    """Neither the one that is exported nor another."""
    for target in (out / "sft", out / "rm"):
        message = refused(export.main, [str(out / "sft"), str(target), *flags], out)
        assert str(target) in message and "another" in message


def test_an_export_replaces_an_export_only_when_told_to(refused, rewards, colour_run, tmp_path):
    """A reward model's config.json beside a policy's weights would be neither."""
    folder = tmp_path / "x"
    export.main([str(colour_run / "sft"), str(folder)])
    message = refused(export.main, [str(colour_run / "rm"), str(folder)], tmp_path)
    assert "--overwrite" in message
    export.main([str(colour_run / "rm"), str(folder), "--overwrite"])
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in rewards[1].iterdir()}
    for name in names - {"model.safetensors"}:  # the order of its metadata is not fixed
        assert (folder / name).read_bytes() == (rewards[1] / name).read_bytes()


def test_what_is_no_run_is_one_line(refused, tmp_path, out):
    """A folder without checkpoint, a damaged one, a file where the folder should be, no folder."""
    assert "nowhere" in refused(export.main, [str(tmp_path / "nowhere"), "x"], tmp_path)
    (out / "sft" / "checkpoint.pt").write_bytes(b"PK")
    assert "damaged" in refused(export.main, [str(out / "sft"), str(tmp_path / "y")], tmp_path)
    (tmp_path / "file").write_text("")
    arguments = [str(out / "rm"), str(tmp_path / "file")]
    assert "is a file" in refused(export.main, arguments, tmp_path)
    assert "FOLDER" in refused(export.main, [str(out / "rm")], tmp_path)


# ---- --init


def test_training_starts_from_one_of_our_own_runs(out, colours, tmp_path):
    """At a learning rate of 1e-12 the weights stay; the tokenizer is the run's; it is resumed."""
    flags = ["--data", str(colours / "demonstrations.jsonl"), "--lr", "1e-12"]
    flags += ["--weight-decay", "0", "--batch-size", "18", "--max-new-tokens", "4"]
    for init in (out / "sft", out / "sft" / "checkpoint.pt"):
        target = tmp_path / init.name
        train_sft.main(["--init", str(init), "--out", str(target), *flags])
        before, after = saved(out / "sft")["model"], saved(target / "sft")["model"]
        assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
        assert not (target / "pretrain").exists()
    train_sft.main(["--out", str(target), "--resume"])


def test_a_run_of_another_stage_or_tokenizer_is_no_start(refused, out, colours, tmp_path):
    """A reward model's trunk has no language head any more."""
    flags = ["--data", str(colours / "demonstrations.jsonl"), "--out", str(tmp_path / "x")]
    message = refused(train_sft.main, [*flags, "--init", str(out / "rm")], tmp_path)
    assert "stage rm" in message
    flags += ["--tokenizer", "gpt2", "--init", str(out / "sft")]
    message = refused(train_sft.main, flags, tmp_path)
    assert "has the tokenizer tiny, not gpt2" in message


def test_ppo_of_an_exported_policy_without_optimiser_runs(out, colours, tmp_path):
    """--sft and --rm take what has no optimiser."""
    for stage in ("sft", "rm"):
        export.main([str(out / stage), str(tmp_path / "x" / stage), "--weights-only"])
    flags = ["--sft", str(tmp_path / "x" / "sft"), "--rm", str(tmp_path / "x" / "rm")]
    flags += ["--data", str(colours / "prompts.jsonl"), "--updates", "1", "--batch-size", "8"]
    flags += ["--minibatches", "2", "--max-new-tokens", "4", "--out", str(tmp_path / "y")]
    train_ppo.main([*flags, "--held-out", "4"])
    assert saved(tmp_path / "y" / "ppo")["step"] == 1
