"""The specification of train_sft.py: pretraining and supervised fine-tuning, run on two hands full of records."""

import json
import math

import pytest
import torch
from conftest import COLOUR_SFT, WORLD_SFT, colour_prompt
from helpers import generators, gradient, logged, same, saved

import train_sft
from minirlhf import data
from minirlhf.data import Example
from minirlhf.formats import gpt2, jsonl
from minirlhf.run.checkpoint import load_gpt

pytestmark = pytest.mark.usefixtures("small_models")
BATCH = [
    Example([7, 8, 9, 1, 2], 3),
    Example([5, 4], 1),
    Example([1, 2, 3, 4, 5, 6, 7, 8], 2),
]  # 2 + 1 + 6 response tokens


def sft(out, *argv):
    train_sft.main(["--out", str(out), *argv])


def demonstrations(folder, n=8, name="demonstrations.jsonl"):
    """A file of n different demonstrations of a user's own."""
    colours = ("red", "green", "blue", "white")
    records = [{"prompt": colour_prompt(i), "response": colours[i % 4]} for i in range(n)]
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(folder / name)


# ---- the loss


def test_the_loss_is_the_mean_over_response_tokens_of_a_loop_over_rows(make_gpt):
    """Each row alone, each token by itself: tokens weigh the same, not rows (as they do in direct-preference-optimization,
    trainers.py:255), and the shift happens once."""
    gpt = make_gpt()
    losses = []
    for tokens, prompt_length in BATCH:
        log_p = gpt(torch.tensor([tokens]))[0].log_softmax(-1)
        losses += [-log_p[t - 1, tokens[t]] for t in range(prompt_length, len(tokens))]
    expected = torch.stack(losses).mean()
    loss = train_sft.accumulate(gpt, BATCH, 1000)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert train_sft.mean_loss(gpt, BATCH, 7) == pytest.approx(expected.item(), rel=1e-5)
    expected_gradient = torch.cat(
        [g.flatten() for g in torch.autograd.grad(expected, list(gpt.parameters()))]
    )
    assert torch.allclose(gradient(gpt), expected_gradient, atol=1e-6)


def test_a_prompt_token_is_no_label_and_every_response_token_is_one(make_gpt):
    """On a model that is deaf to its input, so that a token matters as a label only. The end token is a label too, or the model
    never learns to stop (RLHF_in_notebooks, notebook 1, c37: masked as padding). minChatGPT trains on the prompts
    (dataset.py:104), N+ by choice (sft.py:393); Llama 2 and this one do not."""
    gpt = make_gpt()
    gpt.norm.weight.data.zero_()  # now every hidden state is the bias
    for row, (tokens, prompt_length) in enumerate(BATCH):
        loss = train_sft.mean_loss(gpt, BATCH, 1000)
        for t in range(len(tokens)):
            changed = list(BATCH)
            changed[row] = Example([*tokens[:t], 40, *tokens[t + 1 :]], prompt_length)
            moved = abs(train_sft.mean_loss(gpt, changed, 1000) - loss) > 1e-4
            assert moved == (t >= prompt_length), (row, t)


@pytest.mark.parametrize("microbatch_tokens", [1, 5, 8, 10, 16])
def test_the_gradient_does_not_depend_on_the_microbatches(make_gpt, microbatch_tokens):
    """The ragged batch splits into parts with 1, 2 and 6 labels; a mean of means would weigh the first six times too much. So
    do N+ (sft.py:393) and nanochat (chat_rl.py:267), whose docstring says otherwise."""
    gpt = make_gpt()
    loss = train_sft.accumulate(gpt, BATCH, 1000)
    whole = gradient(gpt)
    assert train_sft.accumulate(gpt, BATCH, microbatch_tokens) == pytest.approx(loss, rel=1e-6)
    assert torch.allclose(gradient(gpt), whole, rtol=0, atol=1e-6)


# ---- a run


def test_a_run_leaves_what_the_next_stage_and_a_reader_need(world_run):
    """Both phases: config, checkpoint, one metrics line a step, the held-out loss of the last; samples of the policy."""
    for stage in ("pretrain", "sft"):
        folder = world_run / stage
        assert json.loads((folder / "config.json").read_text())["flags"]["documents"] == 45
        state = saved(folder)
        assert (state["stage"], state["step"], state["tokenizer"]) == (stage, 6, "tiny")
        assert logged(folder, "step") == [0, 1, 2, 3, 4, 5]
        for name in ("loss", "grad_norm", "lr"):
            assert all(map(math.isfinite, logged(folder, name))) and len(logged(folder, name)) == 6
        assert len(logged(folder, "held_out_loss")) == 1
    assert "after supervised fine-tuning" in (world_run / "sft" / "samples.txt").read_text()


def test_fine_tuning_goes_on_from_pretraining(world_run):
    """Its first loss is about the last one of pretraining, far below a fresh model's log 1024 + 1/2. It does not start over."""
    fresh = logged(world_run / "pretrain", "loss")[0]
    assert fresh == pytest.approx(math.log(1024) + 0.5, abs=0.2)
    assert logged(world_run / "sft", "loss")[0] < fresh - 0.1


def test_the_learning_rate_warms_up_and_falls_along_a_cosine(world_run):
    """Two steps up to the peak, then 10% + 45% (1 + cos) of it over the other four."""
    shares = [0.5, 1.0, *(0.1 + 0.45 * (1 + math.cos(math.pi * i / 4)) for i in range(4))]
    for stage, peak in (("pretrain", train_sft.Config.pretrain_lr), ("sft", train_sft.Config.lr)):
        assert logged(world_run / stage, "lr") == pytest.approx(
            [peak * share for share in shares], rel=1e-5
        )


def test_a_ragged_last_batch_is_trained_on(tmp_path, monkeypatch):
    """Dropping it, as most loaders do, loses records (direct-preference-optimization, preference_datasets.py:346); padding it
    trains some twice; RLHF_in_notebooks crashes on it (notebook 3, c52)."""
    seen = []
    accumulate = train_sft.accumulate
    monkeypatch.setattr(
        train_sft,
        "accumulate",
        lambda gpt, batch, n: seen.append(batch) or accumulate(gpt, batch, n),
    )
    sft(
        tmp_path,
        "--data",
        demonstrations(tmp_path, 23),
        "--batch-size",
        "8",
        "--epochs",
        "2",
        "--max-new-tokens",
        "4",
    )
    assert list(map(len, seen)) == [
        8,
        8,
        8,
        8,
        8,
        2,
    ]  # 2 of the 23 are held out: two passes over 21
    records = [tuple(example.tokens) for batch in seen for example in batch]
    assert len(set(records[:21])) == len(set(records[21:])) == 21 and set(records[:21]) == set(
        records[21:]
    )


def test_held_out_records_are_not_trained_on_and_their_loss_is_the_models(tmp_path, monkeypatch):
    """A held-out loss that falls because it was trained on tells nothing."""
    seen = []
    accumulate = train_sft.accumulate
    monkeypatch.setattr(
        train_sft,
        "accumulate",
        lambda gpt, batch, n: seen.extend(batch) or accumulate(gpt, batch, n),
    )
    path = demonstrations(tmp_path, 32)
    sft(
        tmp_path,
        "--data",
        path,
        "--batch-size",
        "9",
        "--max-new-tokens",
        "4",
        "--eval-every",
        "2",
        "--held-out",
        "3",
    )
    gpt, tok = load_gpt(tmp_path / "sft")
    examples = [
        data.encode(tok, record.prompt, record.response)
        for record in jsonl.read_demonstrations(path)
    ]
    held_out = [example for example in examples if example not in seen]
    assert len(held_out) == 3
    losses = logged(tmp_path / "sft", "held_out_loss")
    assert len(losses) == 2  # after two steps of four, and at the end
    assert losses[-1] == pytest.approx(train_sft.mean_loss(gpt, held_out, 100), rel=1e-5)


def test_gradients_are_clipped_and_their_norm_before_that_is_logged(tmp_path, gradient_norms):
    """A clipping that acts on nothing looks the same in every log: minChatGPT clips before `backward`, where there is no
    gradient yet (trainers.py:386)."""
    sft(
        tmp_path,
        "--data",
        demonstrations(tmp_path),
        "--max-grad-norm",
        "0.25",
        "--batch-size",
        "4",
        "--max-new-tokens",
        "4",
    )
    before = logged(tmp_path / "sft", "grad_norm")
    assert len(before) == len(gradient_norms) == 2
    assert min(before) > 0.5 and gradient_norms == pytest.approx([0.25, 0.25], rel=1e-3)


def test_it_memorises_eight_demonstrations(tmp_path):
    """The oldest check of a training loop: what cannot be learnt by heart is not being learnt."""
    path = demonstrations(tmp_path)
    sft(
        tmp_path,
        "--data",
        path,
        *"--context 32 --epochs 120 --batch-size 8 --lr 0.02 --warmup 2 --max-new-tokens 4".split(),
    )
    assert logged(tmp_path / "sft", "loss")[-1] < 0.05
    assert "white" in (tmp_path / "sft" / "samples.txt").read_text()


def test_your_own_text_is_what_it_pretrains_on(tmp_path):
    """--data alone skips pretraining, and with --text it happens on that text: 400 times the same word, in windows as long as
    the context, is soon known."""
    path = demonstrations(tmp_path)
    small = ("--data", path, "--batch-size", "8", "--context", "32", "--max-new-tokens", "4")
    sft(tmp_path / "a", *small)
    assert [folder.name for folder in (tmp_path / "a").iterdir()] == ["sft"]
    (tmp_path / "text.txt").write_text("blue " * 400)
    sft(
        tmp_path / "b",
        *small,
        "--text",
        str(tmp_path / "text.txt"),
        "--pretrain-lr",
        "0.02",
        "--warmup",
        "0",
    )
    losses = logged(tmp_path / "b" / "pretrain", "loss")
    assert losses[-1] < losses[0] - 1
    assert {folder.name for folder in (tmp_path / "b").iterdir()} == {"pretrain", "sft"}


def test_it_starts_from_the_weights_of_a_gpt2_folder(tmp_path, make_gpt):
    """And refuses a folder whose ids are not the tokenizer's: GPT-2's weights with 1,024 other ids would be noise."""
    pytest.importorskip("safetensors")
    gpt = make_gpt(vocab_size=1024, context=40, std=0.1)
    gpt2.save_gpt2(gpt, tmp_path / "gpt2")
    folder = str(tmp_path / "gpt2")
    small = ("--data", demonstrations(tmp_path), "--batch-size", "8", "--max-new-tokens", "4")
    sft(tmp_path, *small, "--init", folder, "--lr", "1e-12", "--weight-decay", "0")
    loaded, _ = load_gpt(tmp_path / "sft")
    assert loaded.config == gpt.config
    assert torch.allclose(
        loaded(torch.arange(9).view(1, 9)), gpt(torch.arange(9).view(1, 9)), atol=1e-4
    )


# ---- stopping, resuming, repeating


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_three_steps_a_stop_and_three_more_are_six_steps_to_the_bit(
    world_run, tmp_path, ctrl_c, capsys, stage, gradient_norms
):
    """Weights, optimiser and metrics. What is not saved is silently reset (NeMo-RL #3171: Adam's moments). Ctrl-C leaves a
    checkpoint that can be used and says how to go on; the phase that came before is not done again, the one after it still
    is."""
    ctrl_c(stage, 2)
    with pytest.raises(KeyboardInterrupt):
        sft(tmp_path, *WORLD_SFT)
    ctrl_c(None)
    told = capsys.readouterr().err
    assert f"{tmp_path / stage / 'checkpoint.pt'} holds 3 of 6 steps" in told and "--resume" in told
    assert saved(tmp_path / stage)["step"] == 3
    load_gpt(tmp_path / stage)
    sft(tmp_path, "--resume")
    assert len(gradient_norms) == 12, "six steps of each phase, none of them twice"
    for name in ("pretrain", "sft"):
        assert logged(tmp_path / name) == logged(world_run / name)
        assert same(saved(tmp_path / name), saved(world_run / name))


def test_a_finished_run_resumes_to_itself(world_out):
    """--resume on what is complete trains nothing more."""
    before = saved(world_out / "sft"), logged(world_out / "sft")
    sft(world_out, "--resume")
    assert same(saved(world_out / "sft"), before[0]) and logged(world_out / "sft") == before[1]


def test_a_seed_decides_everything_and_no_global_generator_is_touched(
    colours, colour_run, tmp_path
):
    """Run twice, the same bits, whatever state the global generators are in; another seed, other bits. TRL seeded the caller's
    (#1648)."""
    argv = [
        "--data",
        str(colours / "demonstrations.jsonl"),
        *"--lr 0.01 --warmup 2 --max-new-tokens 6".split(),
        *COLOUR_SFT,
    ]
    before = generators()
    sft(tmp_path / "again", *argv)
    sft(tmp_path / "other", *argv, "--seed", "2")
    assert generators() == before
    assert same(saved(tmp_path / "again" / "sft"), saved(colour_run / "sft"))
    assert logged(tmp_path / "again" / "sft") == logged(colour_run / "sft")
    ours, other = saved(colour_run / "sft")["model"], saved(tmp_path / "other" / "sft")["model"]
    assert not any(torch.equal(ours[name], other[name]) for name in ours)


def test_the_seed_decides_the_first_weights_and_the_order_of_the_records(tmp_path):
    """Both: two seeds that share the first weights would be called independent, and their spread would be too small."""
    args = [train_sft.Config(seed=seed, data=demonstrations(tmp_path)) for seed in (1, 1, 2)]
    weights = [train_sft.start(a)[0].token_embedding.weight for a in args]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


# ---- bad input


def test_a_missing_data_file_is_one_line(refused, tmp_path):
    """The commonest mistake of all, before a model is built or a folder made."""
    assert "nowhere.jsonl: No such file" in refused(
        train_sft.main, ["--out", str(tmp_path), "--data", "nowhere.jsonl"], tmp_path
    )


def test_a_record_that_does_not_fit_is_named_by_file_and_line(refused, tmp_path):
    """And --drop-long leaves it out, and says so."""
    path = demonstrations(tmp_path)
    with open(path, "a") as file:
        file.write(json.dumps({"prompt": "a" * 200, "response": "b"}) + "\n")
    argv = ["--data", path, *"--context 32 --batch-size 8 --max-new-tokens 4".split()]
    out = tmp_path / "out"
    told = refused(train_sft.main, ["--out", str(out), *argv], out)
    assert f"{path}:9: " in told and "--drop-long" in told
    sft(out, *argv, "--drop-long")
    assert saved(out / "sft")["step"] == 1


def test_a_context_that_the_worlds_texts_do_not_fit_is_one_line(refused, tmp_path):
    """Found before anything is written, and not in the middle of pretraining as a traceback."""
    told = refused(
        train_sft.main, ["--out", str(tmp_path), *WORLD_SFT, "--context", "24"], tmp_path
    )
    assert "--context" in told and "24" in told


def test_an_existing_run_is_one_line_and_overwrite_replaces_it(refused, colours, out):
    """Hours of training are not lost to an arrow-up and return."""
    argv = [
        "--out",
        str(out),
        "--data",
        str(colours / "demonstrations.jsonl"),
        *COLOUR_SFT,
        "--max-new-tokens",
        "4",
    ]
    told = refused(train_sft.main, argv, out)
    assert str(out / "sft") in told and "--overwrite" in told
    before = saved(out / "sft")
    sft(out, *argv[2:], "--epochs", "1", "--overwrite")
    assert saved(out / "sft")["step"] == 3 and not same(
        saved(out / "sft")["model"], before["model"]
    )
    assert logged(out / "sft", "step") == [0, 1, 2]


def test_a_flag_out_of_range_is_one_line(refused, tmp_path):
    """NaN too, which no comparison finds by accident."""
    for flag, value in (
        ("--lr", "0"),
        ("--context", "2"),
        ("--epochs", "0"),
        ("--seed", "-1"),
        ("--lr", "nan"),
    ):
        assert flag in refused(train_sft.main, ["--out", str(tmp_path), flag, value], tmp_path)


def test_weights_of_another_vocabulary_are_one_line(refused, tmp_path, make_gpt):
    """600 ids of one meaning in a model of 1,024 of another would train, from noise."""
    pytest.importorskip("safetensors")
    gpt2.save_gpt2(make_gpt(vocab_size=600), tmp_path / "gpt2")
    argv = [
        "--out",
        str(tmp_path / "out"),
        "--init",
        str(tmp_path / "gpt2"),
        "--data",
        demonstrations(tmp_path),
    ]
    told = refused(train_sft.main, argv, tmp_path / "out")
    assert "600" in told and "1024" in told and "--tokenizer" in told


def test_a_finished_run_ends_well_where_no_prompt_leaves_room_for_a_sample(tmp_path):
    """The samples at the end are a courtesy; an error there would come after hours of training."""
    path = demonstrations(tmp_path)
    sft(tmp_path, "--data", path, *"--context 24 --batch-size 8 --max-new-tokens 20".split())
    assert saved(tmp_path / "sft")["step"] == 1
