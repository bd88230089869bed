"""The specification of train_sft.py: pretraining and supervised fine-tuning, run on a few
records."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from conftest import COLOUR_SFT, WORLD_SFT, colour_prompt
from helpers import generators, gradient, logged, same, saved

import train_sft
from minirlhf import data
from minirlhf.data import Example
from minirlhf.formats import gpt2, jsonl
from minirlhf.run.checkpoint import load_gpt
from minirlhf.run.config import InputError
from minirlhf.tokenizer import get_tokenizer

pytestmark = pytest.mark.usefixtures("small_models")
# 2 + 1 + 6 response tokens
BATCH = [Example([7, 8, 9, 1, 2], 3), Example([5, 4], 1), Example([1, 2, 3, 4, 5, 6, 7, 8], 2)]


def sft(out, *argv):
    train_sft.main(["--out", str(out), *argv])


def demonstrations(folder, n=8, name="demonstrations.jsonl"):
    """A file of n different demonstrations, as a user would have."""
    colours = ("red", "green", "blue", "white")
    records = [{"prompt": colour_prompt(i), "response": colours[i % 4]} for i in range(n)]
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(folder / name)


@pytest.fixture
def batches(monkeypatch):
    """A list to which each optimiser step appends its batch."""
    batches, accumulate = [], train_sft.accumulate

    def spy(gpt, batch, microbatch_tokens):
        batches.append(batch)
        return accumulate(gpt, batch, microbatch_tokens)

    monkeypatch.setattr(train_sft, "accumulate", spy)
    return batches


# ---- the loss


def test_the_loss_is_the_mean_over_response_tokens_of_a_loop_over_rows(make_gpt):
    """The loop takes each row alone and each token by itself. Tokens have equal weights, not rows
    (as in direct-preference-optimization, trainers.py:255), and the shift happens once."""
    gpt = make_gpt()
    losses = []
    for tokens, prompt_length in BATCH:
        log_p = gpt(torch.tensor([tokens]))[0].log_softmax(-1)
        losses += [-log_p[t - 1, tokens[t]] for t in range(prompt_length, len(tokens))]
    expected = torch.stack(losses).mean()
    loss = train_sft.accumulate(gpt, BATCH, 1000)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert train_sft.mean_loss(gpt, BATCH, 7) == pytest.approx(expected.item(), rel=1e-5)
    gradients = torch.autograd.grad(expected, list(gpt.parameters()))
    expected_gradient = torch.cat([g.flatten() for g in gradients])
    assert torch.allclose(gradient(gpt), expected_gradient, atol=1e-6)


def test_a_prompt_token_is_no_label_and_every_response_token_is_one(make_gpt):
    """The model ignores its input, so that a token has an effect only as a label. The end token is
    a label, too; otherwise the model never learns to stop (RLHF_in_notebooks, notebook 1, c37:
    masked as padding). minChatGPT trains on the prompts (dataset.py:104), N+ by choice
    (sft.py:393); Llama 2 and minirlhf do not."""
    gpt = make_gpt()
    gpt.norm.weight.data.zero_()  # every hidden state is the bias
    for row, (tokens, prompt_length) in enumerate(BATCH):
        loss = train_sft.mean_loss(gpt, BATCH, 1000)
        for t in range(len(tokens)):
            batch = list(BATCH)
            batch[row] = Example([*tokens[:t], 40, *tokens[t + 1 :]], prompt_length)
            difference = abs(train_sft.mean_loss(gpt, batch, 1000) - loss)
            assert (difference > 1e-4) == (t >= prompt_length), (row, t)


@pytest.mark.parametrize("microbatch_tokens", [1, 5, 8, 10, 16])
def test_the_gradient_does_not_depend_on_the_microbatches(make_gpt, microbatch_tokens):
    """The ragged batch is split into parts with 1, 2 and 6 labels. A mean of the means would give
    the first a weight six times too large, as in N+ (sft.py:393) and nanochat (chat_rl.py:267),
    whose docstring says otherwise."""
    gpt = make_gpt()
    loss = train_sft.accumulate(gpt, BATCH, 1000)
    expected = gradient(gpt)
    assert train_sft.accumulate(gpt, BATCH, microbatch_tokens) == pytest.approx(loss, rel=1e-6)
    assert torch.allclose(gradient(gpt), expected, rtol=0, atol=1e-6)


# ---- a run


def test_a_run_leaves_what_the_next_stage_and_a_reader_need(world_run):
    """Both phases write their config, a checkpoint, one line of metrics per step and the held-out
    loss of the last; fine-tuning also writes samples of the policy."""
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
    """Its first loss is near the last one of pretraining, far below a new model's log V +
    1/2."""
    initial_loss = logged(world_run / "pretrain", "loss")[0]
    assert initial_loss == pytest.approx(math.log(get_tokenizer().vocab_size) + 0.5, abs=0.2)
    assert logged(world_run / "sft", "loss")[0] < initial_loss - 0.1


def test_the_learning_rate_warms_up_and_falls_along_a_cosine(world_run):
    """Two steps up to the peak, then 10% + 45% (1 + cos) of the peak over the other four."""
    shares = [0.5, 1.0, *(0.1 + 0.45 * (1 + math.cos(math.pi * i / 4)) for i in range(4))]
    for stage, peak in (("pretrain", train_sft.Config.pretrain_lr), ("sft", train_sft.Config.lr)):
        expected = [peak * share for share in shares]
        assert logged(world_run / stage, "lr") == pytest.approx(expected, rel=1e-5)


def test_a_ragged_last_batch_is_trained_on(tmp_path, batches):
    """If it is dropped, as in most loaders, records are lost (direct-preference-optimization,
    preference_datasets.py:346). If it is padded, some records are trained on twice.
    RLHF_in_notebooks crashes on it (notebook 3, c52). Two passes over 21
    records."""
    flags = "--batch-size 8 --epochs 2 --max-new-tokens 4 --held-out 0".split()
    sft(tmp_path, "--data", demonstrations(tmp_path, 21), *flags)
    assert list(map(len, batches)) == [8, 8, 8, 8, 8, 2]
    records = [tuple(example.tokens) for batch in batches for example in batch]
    first_pass, second_pass = set(records[:21]), set(records[21:])
    assert len(first_pass) == len(second_pass) == 21 and first_pass == second_pass


def test_held_out_records_are_not_trained_on_and_their_loss_is_the_models(tmp_path, batches):
    """A held-out loss of records that were trained on measures nothing. It is logged after two
    steps of four, and at the end."""
    path = demonstrations(tmp_path, 32)
    flags = "--batch-size 9 --max-new-tokens 4 --eval-every 2".split()
    sft(tmp_path, "--data", path, *flags)
    gpt, tokenizer = load_gpt(tmp_path / "sft")
    records = jsonl.read_demonstrations(path)
    examples = [data.encode(tokenizer, record.prompt, record.response) for record in records]
    held_out = [x for x in examples if not any(x in batch for batch in batches)]
    expected = data.split_by_prompt(records, seed=1)[1]
    assert sorted(x.tokens for x in held_out) == sorted(
        data.encode(tokenizer, record.prompt, record.response).tokens for record in expected
    )
    losses = logged(tmp_path / "sft", "held_out_loss")
    assert len(losses) == 2
    assert losses[-1] == pytest.approx(train_sft.mean_loss(gpt, held_out, 100), rel=1e-5)


def test_gradients_are_clipped_and_their_norm_before_that_is_logged(tmp_path, gradient_norms):
    """A clip without effect looks the same in every log: minChatGPT clips before `backward`, when
    there is no gradient yet (trainers.py:386)."""
    flags = "--max-grad-norm 0.25 --batch-size 4 --max-new-tokens 4".split()
    sft(tmp_path, "--data", demonstrations(tmp_path), *flags)
    norms = logged(tmp_path / "sft", "grad_norm")
    assert len(norms) == len(gradient_norms) == 2
    assert min(norms) > 0.5 and gradient_norms == pytest.approx([0.25, 0.25], rel=1e-3)


def test_it_memorises_eight_demonstrations(tmp_path):
    """The oldest test of a training loop: a loop that cannot memorise eight records does not
    learn."""
    flags = "--context 32 --epochs 120 --batch-size 8 --lr 0.02 --warmup 2 --max-new-tokens 4"
    flags += " --held-out 0"
    sft(tmp_path, "--data", demonstrations(tmp_path), *flags.split())
    assert logged(tmp_path / "sft", "loss")[-1] < 0.05
    assert "white" in (tmp_path / "sft" / "samples.txt").read_text()


def test_your_own_text_is_what_it_pretrains_on(tmp_path):
    """--data alone skips pretraining; with --text it pretrains on that text. 400 times the same
    word, in windows as long as the context, is learned within a few steps."""
    flags = "--batch-size 8 --context 32 --max-new-tokens 4".split()
    flags += ["--data", demonstrations(tmp_path)]
    sft(tmp_path / "a", *flags)
    assert [folder.name for folder in (tmp_path / "a").iterdir()] == ["sft"]
    text = tmp_path / "text.txt"
    text.write_text("blue " * 400)
    sft(tmp_path / "b", *flags, "--text", str(text), *"--pretrain-lr 0.02 --warmup 0".split())
    losses = logged(tmp_path / "b" / "pretrain", "loss")
    assert losses[-1] < losses[0] - 1
    assert {folder.name for folder in (tmp_path / "b").iterdir()} == {"pretrain", "sft"}


def test_embeddings_learn_from_demonstrations_only_where_nothing_was_pretrained(
    world_run, tmp_path
):
    """Demonstrations use few tokens: after pretraining the embeddings stay as they are."""
    pretrained, tuned = (load_gpt(world_run / stage)[0] for stage in ("pretrain", "sft"))
    assert tuned.token_embedding.weight.equal(pretrained.token_embedding.weight)
    assert not tuned.position_embedding.weight.equal(pretrained.position_embedding.weight)
    flags = "--batch-size 8 --context 32 --max-new-tokens 4".split()
    sft(tmp_path, *flags, "--data", demonstrations(tmp_path))
    first, _ = train_sft.load_model(train_sft.Config(context=32))
    assert not load_gpt(tmp_path / "sft")[0].token_embedding.weight.equal(
        first.token_embedding.weight
    )


def test_the_context_is_that_of_the_model_that_it_starts_from(tmp_path, make_gpt):
    """Of --init, and not the one of --context, which is for a model from scratch. What --init names
    is not pretrained on the world again."""
    tokenizer, gpt = get_tokenizer(), make_gpt(context=24)
    (tmp_path / "text.txt").write_text("The cat sat on the mat. " * 40)
    args = train_sft.Config(init="a run", text=str(tmp_path / "text.txt"), held_out=0)
    documents, _ = train_sft.load_documents(args, tokenizer, gpt)
    assert {len(example.tokens) for example in documents[:-1]} == {24}
    rows = [{"prompt": "p", "response": "no " * n} for n in (3, 30)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {"init": "a run", "data": str(tmp_path / "data.jsonl"), "held_out": 0}
    learned, _ = train_sft.load_demonstrations(
        train_sft.Config(**flags, drop_long=True), tokenizer, gpt
    )
    assert len(learned) == 1
    with pytest.raises(InputError, match="do not fit the context of 24"):
        train_sft.load_demonstrations(train_sft.Config(**flags), tokenizer, gpt)
    assert train_sft.load_documents(train_sft.Config(init="a run"), tokenizer, gpt) is None


def test_a_record_that_just_fits_the_context_is_kept(make_gpt):
    """And one more token is an error, or leaves it out."""
    gpt, examples = make_gpt(context=8), [Example([1] * n, 1) for n in (7, 8, 9)]
    assert train_sft.fitting(train_sft.Config(drop_long=True), gpt, examples) == examples[:2]
    assert train_sft.fitting(train_sft.Config(), gpt, examples[:2]) == examples[:2]
    with pytest.raises(InputError, match="^9 tokens do not fit the context of 8; raise --context"):
        train_sft.fitting(train_sft.Config(), gpt, examples)


def test_it_starts_from_the_weights_of_a_gpt2_folder(tmp_path, make_gpt):
    """A checkpoint trained at a learning rate of 1e-12 gives the logits of the folder's model, and
    has its shape."""
    pytest.importorskip("safetensors")
    gpt = make_gpt(vocab_size=get_tokenizer().vocab_size, context=40, std=0.1)
    gpt2.save_gpt2(gpt, tmp_path / "gpt2")
    flags = "--batch-size 8 --max-new-tokens 4 --lr 1e-12 --weight-decay 0".split()
    flags += ["--data", demonstrations(tmp_path), "--init", str(tmp_path / "gpt2")]
    sft(tmp_path, *flags)
    other, _ = load_gpt(tmp_path / "sft")
    assert other.config == gpt.config
    tokens = torch.arange(9).view(1, 9)
    assert torch.allclose(other(tokens), gpt(tokens), atol=1e-4)


# ---- stopping, resuming, repeating


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_three_steps_a_stop_and_three_more_are_six_steps_to_the_bit(
    world_run, tmp_path, ctrl_c, capsys, stage, gradient_norms
):
    """Weights, optimiser and metrics. What a checkpoint lacks is reset without a message (NeMo-RL
    #3171: Adam's moments). Ctrl-C leaves a checkpoint that can be used, and a message on how to
    resume. The phase before is not repeated, and the phase after is still done."""
    ctrl_c(stage, 2)
    with pytest.raises(KeyboardInterrupt):
        sft(tmp_path, *WORLD_SFT)
    ctrl_c(None)
    message = capsys.readouterr().err
    assert f"{tmp_path / stage / 'checkpoint.pt'} holds 3 of 6 steps" in message
    assert "--resume" in message
    assert saved(tmp_path / stage)["step"] == 3
    load_gpt(tmp_path / stage)
    sft(tmp_path, "--resume")
    assert len(gradient_norms) == 12, "six steps of each phase, none of them twice"
    for name in ("pretrain", "sft"):
        assert logged(tmp_path / name) == logged(world_run / name)
        assert same(saved(tmp_path / name), saved(world_run / name))


def test_a_run_does_not_go_on_from_other_weights_of_init(tmp_path, world_run):
    """Nor from other records, be they learned from or held out."""
    init = tmp_path / "init.pt"
    shutil.copy(world_run / "pretrain" / "checkpoint.pt", init)
    records = demonstrations(tmp_path, 40)
    flags = ["--init", str(init), "--data", records, "--max-new-tokens", "4", "--held-out", "2"]
    sft(tmp_path, *flags)
    sft(tmp_path, *flags, "--resume")
    shutil.copy(world_run / "sft" / "checkpoint.pt", init)
    with pytest.raises(InputError, match="the weights of --init changed"):
        sft(tmp_path, *flags, "--resume")
    shutil.copy(world_run / "pretrain" / "checkpoint.pt", init)
    read = jsonl.read_demonstrations(records, lambda record: True)
    for record in (data.hold_out(read, 2, seed=1)[side][0] for side in (0, 1)):
        lines = [vars(record) | {"response": "x"} if r == record else vars(r) for r in read]
        Path(records).write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(InputError, match="the data changed"):
            sft(tmp_path, *flags, "--resume")


def test_a_finished_run_resumes_to_itself(world_out):
    """--resume on a complete run trains nothing."""
    state, metrics = saved(world_out / "sft"), logged(world_out / "sft")
    sft(world_out, "--resume")
    assert same(saved(world_out / "sft"), state) and logged(world_out / "sft") == metrics


def test_a_seed_decides_everything_and_no_global_generator_is_touched(
    colours, colour_run, tmp_path
):
    """Two runs give the same bits, whatever the state of the global generators; another seed gives
    other bits. TRL seeded the caller's generator (#1648)."""
    flags = [*COLOUR_SFT, *"--lr 0.01 --warmup 2 --max-new-tokens 6".split()]
    flags += ["--data", str(colours / "demonstrations.jsonl")]
    states = generators()
    sft(tmp_path / "1", *flags)
    sft(tmp_path / "2", *flags, "--seed", "2")
    assert generators() == states
    assert same(saved(tmp_path / "1" / "sft"), saved(colour_run / "sft"))
    assert logged(tmp_path / "1" / "sft") == logged(colour_run / "sft")
    weights, other = (saved(run / "sft")["model"] for run in (colour_run, tmp_path / "2"))
    assert not any(torch.equal(weights[name], other[name]) for name in weights)


def test_the_seed_decides_the_first_weights_and_the_order_of_the_records(tmp_path):
    """Two seeds with the same first weights would look independent, and the differences between
    their results would be too small."""
    args = [train_sft.Config(seed=seed, data=demonstrations(tmp_path)) for seed in (1, 1, 2)]
    weights = [train_sft.load_model(a)[0].token_embedding.weight for a in args]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


# ---- bad input


def test_a_missing_data_file_is_one_line(refused, tmp_path):
    """The most common mistake. The error comes before a model or a folder is created."""
    flags = ["--out", str(tmp_path), "--data", "nowhere.jsonl"]
    assert "nowhere.jsonl: No such file" in refused(train_sft.main, flags, tmp_path)


def test_a_record_that_does_not_fit_is_named_by_file_and_line(refused, tmp_path):
    """With --drop-long it is left out, with a message."""
    path = demonstrations(tmp_path)
    with open(path, "a") as file:
        file.write(json.dumps({"prompt": "a" * 200, "response": "b"}) + "\n")
    flags = ["--data", path, *"--context 32 --batch-size 8 --max-new-tokens 4".split()]
    out = tmp_path / "out"
    message = refused(train_sft.main, ["--out", str(out), *flags], out)
    assert f"{path}:9: " in message and "--drop-long" in message
    sft(out, *flags, "--drop-long")
    assert saved(out / "sft")["step"] == 1


def test_a_context_that_the_worlds_texts_do_not_fit_is_one_line(refused, tmp_path):
    """The error comes before anything is written, not as a traceback in the middle of
    pretraining."""
    flags = ["--out", str(tmp_path), *WORLD_SFT, "--context", "24"]
    message = refused(train_sft.main, flags, tmp_path)
    assert "--context" in message and "24" in message


def test_an_existing_run_is_one_line_and_overwrite_replaces_it(refused, colours, out):
    """The same command entered twice must not destroy hours of training."""
    flags = ["--data", str(colours / "demonstrations.jsonl"), *COLOUR_SFT, "--max-new-tokens", "4"]
    message = refused(train_sft.main, ["--out", str(out), *flags], out)
    assert str(out / "sft") in message and "--overwrite" in message
    weights = saved(out / "sft")["model"]
    sft(out, *flags, "--epochs", "1", "--overwrite")
    assert saved(out / "sft")["step"] == 3
    assert not same(saved(out / "sft")["model"], weights)
    assert logged(out / "sft", "step") == [0, 1, 2]


def test_a_flag_out_of_range_is_one_line(refused, tmp_path):
    """This includes NaN, for which every comparison is false."""
    for flags in ("--lr 0", "--context 2", "--epochs 0", "--seed -1", "--lr nan"):
        message = refused(train_sft.main, ["--out", str(tmp_path), *flags.split()], tmp_path)
        assert flags.split()[0] in message


def test_weights_of_another_vocabulary_are_one_line(refused, tmp_path, make_gpt):
    """A tokenizer of 1,664 ids and weights for 600 others could be trained, but from noise."""
    pytest.importorskip("safetensors")
    folder, out = tmp_path / "gpt2", tmp_path / "out"
    gpt2.save_gpt2(make_gpt(vocab_size=600), folder)
    flags = ["--out", str(out), "--init", str(folder), "--data", demonstrations(tmp_path)]
    message = refused(train_sft.main, flags, out)
    assert "600" in message and "1664" in message and "go with --tokenizer gpt2" in message


def test_who_gave_the_tokenizer_gpt2_is_not_told_to_give_it(
    refused, tmp_path, make_gpt, monkeypatch
):
    """The folder is of a model with a vocabulary of its own."""
    pytest.importorskip("safetensors")
    tokenizer = get_tokenizer()
    tokenizer.name = "gpt2"
    monkeypatch.setattr(train_sft, "get_tokenizer", lambda name: tokenizer)
    folder, out = tmp_path / "gpt2", tmp_path / "out"
    gpt2.save_gpt2(make_gpt(vocab_size=600), folder)
    flags = ["--out", str(out), "--init", str(folder), "--data", demonstrations(tmp_path)]
    message = refused(train_sft.main, [*flags, "--tokenizer", "gpt2"], out)
    assert "go with" not in message and "the tokenizer that the weights were trained" in message


def test_a_finished_run_ends_well_where_no_prompt_leaves_room_for_a_sample(tmp_path):
    """The samples at the end are an extra; an error there would come after hours of training."""
    path = demonstrations(tmp_path)
    sft(tmp_path, "--data", path, *"--context 24 --batch-size 8 --max-new-tokens 20".split())
    assert saved(tmp_path / "sft")["step"] == 1


def test_a_prompt_that_leaves_just_enough_room_is_among_the_samples(tmp_path):
    """And one more token of room is too much for the longest prompts, which are left out."""
    tokenizer, prompts = get_tokenizer(), [colour_prompt(i) for i in range(8)]
    lengths = [len(tokenizer.encode(prompt)) for prompt in prompts]
    flags = ["--data", demonstrations(tmp_path), *"--context 24 --held-out 0".split()]
    for more in (0, 1):
        out, new = tmp_path / str(more), 24 - max(lengths) + more
        sft(out, *flags, "--batch-size", "8", "--max-new-tokens", str(new))
        rows = (out / "sft" / "samples.txt").read_text().strip().splitlines()[3:]
        kept = [n for n in lengths if n + new <= 24]
        assert len(rows) == len(kept) and (len(kept) == 8) == (not more)
