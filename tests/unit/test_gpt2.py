"""The specification of formats/gpt2.py. transformers builds the folders, with random weights, and
reads back what we save."""

import builtins
import json
import time
from pathlib import Path

import pytest
import torch
import transformers
from helpers import contents
from transformers import GPT2Config, GPT2LMHeadModel

from minirlhf.formats import gpt2
from minirlhf.formats.gpt2 import load_gpt2, save_gpt2
from minirlhf.model import GPTConfig
from minirlhf.run.config import InputError

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def hugging_face(vocab_size=70, **options):
    """transformers' GPT-2 with random weights everywhere, biases and layer norms included."""
    sizes = {"n_positions": 16, "n_embd": 24, "n_layer": 2, "n_head": 3}
    options = {**sizes, "bos_token_id": None, "eos_token_id": None, **options}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, **options)).eval()
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter) * 0.3
    return model


def tokens_below(vocab_size):
    return torch.randint(vocab_size, (3, 16), generator=torch.Generator().manual_seed(0))


def logits_match(ours, theirs, vocab_size=70):
    """Asserts that our model and theirs have the same logits, to 1e-4, over the whole context."""
    tokens = tokens_below(vocab_size)
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)


def save_bin(model, folder, prefix="transformer.", **extras):
    """A folder as old versions of transformers wrote it: pickled, with or without the prefix. With
    `extras`, tensors under full names. Returns the tensors."""
    folder.mkdir(exist_ok=True)
    model.config.save_pretrained(folder)
    state = model.transformer.state_dict()
    tensors = {prefix + name: tensor for name, tensor in state.items()} | extras
    torch.save(tensors, folder / "pytorch_model.bin")
    return tensors


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without_safetensors(monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


def refusal(folder):
    """The InputError of `load_gpt2`: one line that begins with the folder and says what to do."""
    with pytest.raises(InputError) as error:
        load_gpt2(folder)
    message = str(error.value)
    assert "\n" not in message and message.startswith(str(folder))
    assert ";" in message
    return message


# ---- in


@pytest.mark.parametrize("vocab_size", [64, 70])
def test_gpt2_weights_give_hugging_face_logits(tmp_path, vocab_size):
    """To 1e-4, over the whole context, for a vocabulary that is a multiple of 64 and one that is
    not. A square matrix (attention's output) loads transposed or not: only the logits show
    which."""
    theirs = hugging_face(vocab_size)
    theirs.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    ours = load_gpt2(tmp_path)
    assert ours.config == GPTConfig(vocab_size=vocab_size, context=16, layers=2, heads=3, width=24)
    assert ours(tokens_below(vocab_size)).shape == (3, 16, vocab_size)
    logits_match(ours, theirs, vocab_size)


def test_loaded_weights_are_theirs_to_the_bit(tmp_path):
    """Linear layers are transposed ("Conv1D" stores (in, out)), all others are as they are. They
    are float32 and can be trained."""
    theirs = hugging_face()
    theirs.save_pretrained(tmp_path)
    ours, theirs = load_gpt2(tmp_path), theirs.transformer
    assert torch.equal(ours.token_embedding.weight[:70], theirs.wte.weight)
    assert torch.equal(ours.position_embedding.weight, theirs.wpe.weight)
    for block, their_block in zip(ours.blocks, theirs.h, strict=True):
        for linear, conv in (
            (block.attention.qkv, their_block.attn.c_attn),
            (block.attention.out, their_block.attn.c_proj),
            (block.mlp.hidden, their_block.mlp.c_fc),
            (block.mlp.out, their_block.mlp.c_proj),
        ):
            assert torch.equal(linear.weight, conv.weight.T) and linear.weight.is_contiguous()
            assert torch.equal(linear.bias, conv.bias)
        for norm, their_norm in (
            (block.norm1, their_block.ln_1),
            (block.norm2, their_block.ln_2),
            (ours.norm, theirs.ln_f),
        ):
            assert torch.equal(norm.weight, their_norm.weight)
            assert torch.equal(norm.bias, their_norm.bias)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in ours.parameters())


def test_rows_that_nobody_sees_are_zero_and_stay_out_of_the_gradient(tmp_path):
    """70 ids have 128 rows. Uninitialised memory may hold a NaN, and the gradient of the hidden
    states multiplies every row."""
    hugging_face().save_pretrained(tmp_path)
    ours = load_gpt2(tmp_path)
    assert ours.token_embedding.weight.shape == (128, 24)
    assert (ours.token_embedding.weight[70:] == 0).all()
    ours(tokens_below(70)).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in ours.parameters())


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_both_forms_of_names_and_the_old_pickled_file_are_read(tmp_path, prefix):
    """OpenAI's upload of GPT-2 has `wte.weight` and `h.0.attn.bias`, a buffer with the causal mask;
    newer ones have `transformer.wte.weight`, and some a second copy of the tied head."""
    theirs = hugging_face()
    extras = {
        f"{prefix}h.0.attn.bias": torch.ones(1, 1, 16, 16).tril(),
        f"{prefix}h.0.attn.masked_bias": torch.tensor(-1e4),
        "lm_head.weight": theirs.transformer.wte.weight.detach(),
    }
    save_bin(theirs, tmp_path, prefix, **extras)
    logits_match(load_gpt2(tmp_path), theirs)


def test_half_precision_weights_become_float32(tmp_path):
    """Adam's updates at a learning rate of 1e-6 are lost in 16 bits (rlhf-book, utils.py:106,
    trains such weights)."""
    theirs = hugging_face().half()
    theirs.save_pretrained(tmp_path)
    ours = load_gpt2(tmp_path)
    assert all(p.dtype == torch.float32 for p in ours.parameters())
    assert torch.equal(ours.token_embedding.weight[:70], theirs.transformer.wte.weight.float())


def test_settings_that_are_missing_mean_what_they_mean_to_hugging_face(tmp_path):
    """OpenAI's config.json is from 2019 and does not have the settings that came later."""
    theirs = hugging_face()
    theirs.save_pretrained(tmp_path)
    sizes = {"vocab_size": 70, "n_positions": 16, "n_embd": 24, "n_layer": 2, "n_head": 3}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_ctx": 16} | sizes))
    logits_match(load_gpt2(tmp_path), theirs)


def test_loading_touches_no_global_generator(tmp_path):
    """Weights that are replaced need no random numbers, and a caller's draws must not depend on
    what was loaded."""
    hugging_face().save_pretrained(tmp_path)
    before = torch.get_rng_state()
    load_gpt2(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


# ---- out


@pytest.mark.parametrize("vocab_size", [64, 70])
@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_exported_weights_load_back_into_hugging_face(
    tmp_path, make_gpt, monkeypatch, kind, vocab_size
):
    """transformers has our logits, to 1e-4, and exactly V rows of embedding."""
    ours, folder = (
        make_gpt(vocab_size, context=16, width=24, heads=3, std=0.3),
        tmp_path / "a" / "b",
    )
    with monkeypatch.context() as patch:
        if kind == "pytorch_model.bin":
            without_safetensors(patch)
        save_gpt2(ours, folder)
    assert {path.name for path in folder.iterdir()} == {"config.json", kind}
    theirs = GPT2LMHeadModel.from_pretrained(folder).eval()
    assert theirs.transformer.wte.weight.shape == theirs.lm_head.weight.shape == (vocab_size, 24)
    logits_match(ours, theirs, vocab_size)


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_what_was_saved_loads_back_to_the_bit(tmp_path, make_gpt, monkeypatch, kind):
    """Every parameter. The rows beyond the vocabulary are not in the file: after its header it
    holds 4 bytes for each of the other numbers."""
    ours = make_gpt(vocab_size=65, context=16, width=24, heads=3)
    with monkeypatch.context() as patch:
        if kind == "pytorch_model.bin":
            without_safetensors(patch)
        save_gpt2(ours, tmp_path)
    loaded = load_gpt2(tmp_path)
    assert loaded.config == ours.config
    ours.token_embedding.weight.data[65:] = 0
    for (name, a), b in zip(ours.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b), name
    if kind == "model.safetensors":
        header = int.from_bytes((tmp_path / kind).read_bytes()[:8], "little")
        numbers = sum(p.numel() for p in ours.parameters()) - (128 - 65) * 24
        assert (tmp_path / kind).stat().st_size == 8 + header + 4 * numbers
    else:
        stored = torch.load(tmp_path / kind, weights_only=True)["transformer.wte.weight"]
        assert stored.untyped_storage().nbytes() == 4 * 65 * 24


def test_what_hugging_face_saved_is_saved_again_to_the_bit(tmp_path):
    """In and out: the same names and numbers, and settings that mean the same."""
    original = hugging_face()
    original.save_pretrained(tmp_path / "theirs")
    save_gpt2(load_gpt2(tmp_path / "theirs"), tmp_path / "ours")
    copy = GPT2LMHeadModel.from_pretrained(tmp_path / "ours")
    expected = original.state_dict()
    assert copy.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in copy.state_dict().items())
    a, b = original.config.to_dict(), copy.config.to_dict()
    dropout = {"embd_pdrop", "attn_pdrop", "resid_pdrop"}
    assert {name for name in a if a[name] != b[name]} <= dropout | {"_name_or_path", "dtype"}
    assert all(b[name] == 0 for name in dropout)


def test_gpt2s_end_token_is_kept_where_the_vocabulary_is_gpt2s(tmp_path, make_gpt):
    """transformers takes 50,256 where none is named; in a smaller vocabulary that is no id."""
    for vocab_size, end in [(50257, 50256), (70, None)]:
        save_gpt2(make_gpt(vocab_size, context=4, layers=1, heads=1, width=2), tmp_path)
        assert GPT2Config.from_pretrained(tmp_path).eos_token_id == end


def test_an_interrupted_save_leaves_the_old_folder(tmp_path, make_gpt, monkeypatch):
    """Half of the new file was on the disk, under another name. The folder holds the same files as
    before and loads the old model."""
    old, new = make_gpt(seed=1), make_gpt(seed=2)
    save_gpt2(old, tmp_path)
    files = contents(tmp_path)

    def full_disk(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_gpt2(new, tmp_path)
    assert contents(tmp_path) == files
    assert torch.equal(load_gpt2(tmp_path).position_embedding.weight, old.position_embedding.weight)


def test_whoever_may_read_the_settings_may_read_the_weights(tmp_path, make_gpt):
    """The library writes a file for its owner alone: a server's process could not open it."""
    save_gpt2(make_gpt(), tmp_path)
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1 and len(list(tmp_path.iterdir())) == 2


def test_an_older_file_of_the_other_kind_does_not_win(tmp_path, make_gpt, monkeypatch):
    """Every reader takes model.safetensors first. Saved without safetensors, the new weights would
    be beside it and would never be read."""
    old, new = make_gpt(seed=1), make_gpt(seed=2)
    save_gpt2(old, tmp_path)
    with monkeypatch.context() as patch:
        without_safetensors(patch)
        save_gpt2(new, tmp_path)
    ours = load_gpt2(tmp_path).position_embedding
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path).transformer.wpe
    for embedding in (ours, theirs):
        assert torch.equal(embedding.weight, new.position_embedding.weight)


def test_the_model_that_is_saved_stays_as_it_is(tmp_path, make_gpt):
    """The rows beyond its vocabulary are unchanged too."""
    ours = make_gpt(vocab_size=65)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    save_gpt2(ours, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())
    assert all(p.requires_grad for p in ours.parameters())


# ---- what is refused


@pytest.mark.parametrize(
    "name, value",
    [
        ("activation_function", "gelu"),
        ("activation_function", "relu"),
        ("layer_norm_epsilon", 1e-6),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
        ("tie_word_embeddings", False),
        ("n_inner", 48),
        ("model_type", "gpt_neo"),
        ("model_type", None),
        ("n_head", 5),
        ("n_layer", 0),
        ("n_embd", "24"),
        ("vocab_size", None),
    ],
)
def test_a_setting_that_would_change_the_logits_is_refused_by_name(tmp_path, name, value):
    """The weights would load, and the logits would be slightly other ones: worse than an error."""
    hugging_face().save_pretrained(tmp_path)
    change_config(tmp_path, **{name: value})
    message = refusal(tmp_path)
    assert name in message and "config.json" in message
    assert name == "model_type" or str(value) in message


def test_settings_that_do_not_change_the_logits_are_accepted(tmp_path):
    """We have no dropout, n_inner may be spelled out, and the order of attention's products changes
    its rounding only."""
    theirs = hugging_face()
    theirs.save_pretrained(tmp_path)
    change_config(tmp_path, resid_pdrop=0.3, n_inner=96, reorder_and_upcast_attn=True)
    change_config(tmp_path, use_cache=False, something_new=1)
    logits_match(load_gpt2(tmp_path), theirs)


def test_a_weight_that_is_missing_is_refused_by_name(tmp_path):
    """With its initial value it would make a worse model, and no error."""
    theirs = hugging_face()
    tensors = save_bin(theirs, tmp_path)
    for name in ("h.1.mlp.c_fc.bias", "wte.weight", "ln_f.weight"):
        rest = {key: x for key, x in tensors.items() if key != "transformer." + name}
        torch.save(rest, tmp_path / "pytorch_model.bin")
        message = refusal(tmp_path)
        assert name + " is missing" in message and "pytorch_model.bin" in message


@pytest.mark.parametrize(
    "name", ["transformer.h.2.ln_1.weight", "score.weight", "transformer.h.0.attn.c_attn.lora_A"]
)
def test_a_weight_that_is_no_part_of_gpt2_is_refused_by_name(tmp_path, name):
    """A deeper model under a shallow config.json, a classifier, an adapter: only a part of each
    would be loaded."""
    save_bin(hugging_face(), tmp_path, **{name: torch.zeros(24)})
    assert name.removeprefix("transformer.") in refusal(tmp_path)


@pytest.mark.parametrize(
    "name, shape, expected",
    [
        ("wte.weight", (128, 24), (70, 24)),
        ("wpe.weight", (32, 24), (16, 24)),
        ("h.0.mlp.c_fc.weight", (96, 24), (24, 96)),
        ("h.1.ln_2.bias", (1, 24), (24,)),
    ],
)
def test_a_weight_of_the_wrong_shape_is_refused_with_both_shapes(tmp_path, name, shape, expected):
    """A padded vocabulary, a longer context, a transposed matrix, and a bias that would
    broadcast."""
    save_bin(hugging_face(), tmp_path, **{"transformer." + name: torch.zeros(shape)})
    message = refusal(tmp_path)
    assert name in message and str(shape) in message and str(expected) in message


def test_a_head_of_its_own_is_refused(tmp_path):
    """Even where config.json says that it is tied: one number differs."""
    theirs = hugging_face()
    head = theirs.transformer.wte.weight.detach().clone()
    head[69, 23] += 1e-3
    save_bin(theirs, tmp_path, **{"lm_head.weight": head})
    assert "lm_head.weight" in refusal(tmp_path) and "tied" in refusal(tmp_path)


def test_safetensors_that_cannot_be_read_for_want_of_the_package_names_the_extra(
    tmp_path, monkeypatch
):
    """The package is optional; the line says what to type."""
    hugging_face().save_pretrained(tmp_path)
    without_safetensors(monkeypatch)
    message = refusal(tmp_path)
    assert "pip install minirlhf[hf]" in message and "model.safetensors" in message


def test_a_pickled_file_that_runs_code_is_not_run(tmp_path):
    """A .bin file is a pickle, and a pickle can run code. torch's safe loading refuses everything
    but tensors."""

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    save_bin(hugging_face(), tmp_path)
    torch.save({"transformer.wte.weight": Bomb()}, tmp_path / "pytorch_model.bin")
    assert "pytorch_model.bin" in refusal(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_is_not_one_is_refused(tmp_path):
    """No folder; no weights; the pointer that git leaves in place of a large file; a file that was
    cut short; weights without names; a config.json that is not JSON or not an object."""
    assert "config.json" in refusal(tmp_path / "nowhere")
    theirs = hugging_face()
    theirs.config.save_pretrained(tmp_path)
    message = refusal(tmp_path)
    assert "model.safetensors" in message and "pytorch_model.bin" in message
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 548105171\n"
    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).write_bytes(pointer)
        assert name in refusal(tmp_path) and "git lfs pull" in refusal(tmp_path)
    theirs.save_pretrained(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert "cannot be read" in refusal(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save([torch.zeros(3)], tmp_path / "pytorch_model.bin")
    assert "no weights by name" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{not json")
    assert "config.json" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    assert "model_type" in refusal(tmp_path)


def test_neither_transformers_nor_safetensors_is_needed_to_import_it():
    """transformers is an authority of the tests only; safetensors is imported where it is used."""
    source = open(gpt2.__file__).read()
    assert "import transformers" not in source
    assert "\nfrom safetensors" not in source and "\nimport safetensors" not in source


@pytest.mark.parametrize("name", ["vocab_size", "n_positions", "n_embd", "n_layer"])
@pytest.mark.parametrize("value", [3 * 10**9, 3 * 10**20])
def test_a_config_that_asks_for_more_than_there_is_is_refused_at_once(tmp_path, name, value):
    """A billion layers, a width of a billion: before any memory is taken. They took minutes."""
    hugging_face().save_pretrained(tmp_path)
    change_config(tmp_path, **{name: value})
    start = time.perf_counter()
    assert "the two files must come from the same model" in refusal(tmp_path)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("value", [True, 1.0, "x", None, [], float("nan"), -1])
def test_a_size_that_is_no_size_is_refused(tmp_path, value):
    """`true` is an int to isinstance; a bare NaN is what Python writes and JSON does not have."""
    hugging_face().save_pretrained(tmp_path)
    change_config(tmp_path, n_layer=value)
    assert "n_layer must be a positive whole number" in refusal(tmp_path)


def test_a_config_that_is_nested_too_often_is_refused(tmp_path):
    """2,000 brackets end in a RecursionError."""
    hugging_face().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[" * 2000)
    assert "not JSON" in refusal(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "whole numbers"])
def test_weights_that_are_not_finite_numbers_are_refused_by_name(tmp_path, value):
    """From a run of somebody else's that diverged, or a quantised copy."""
    bias = torch.zeros(24)
    if value == "whole numbers":
        bias = bias.to(torch.int8)
    else:
        bias[5] = value
    save_bin(hugging_face(), tmp_path, **{"transformer.ln_f.bias": bias})
    assert "ln_f.bias is not of finite numbers" in refusal(tmp_path)


def test_a_flipped_bit_in_a_bin_file_is_refused(tmp_path):
    """The zip archive that it is has checksums, which torch.load does not check."""
    tensors = save_bin(hugging_face(), tmp_path)
    path = tmp_path / "pytorch_model.bin"
    content = bytearray(path.read_bytes())
    place = content.index(tensors["transformer.ln_f.bias"].numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert "pytorch_model.bin: cannot be read" in refusal(tmp_path)


def test_old_bin_files_which_are_no_archives_are_read(tmp_path):
    """OpenAI's own upload of GPT-2 is one."""
    theirs = hugging_face()
    tensors = save_bin(theirs, tmp_path)
    path = tmp_path / "pytorch_model.bin"
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    logits_match(load_gpt2(tmp_path), theirs)


def test_what_transformers_saves_again_is_read_without_our_checksum(tmp_path, make_gpt):
    """It writes metadata of its own."""
    save_gpt2(make_gpt(64, context=16, width=24, heads=3, std=0.3), tmp_path / "ours")
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
    theirs.save_pretrained(tmp_path / "theirs")
    logits_match(load_gpt2(tmp_path / "theirs"), theirs, 64)
