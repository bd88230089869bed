"""The specification of `minirlhf import`: what transformers wrote becomes a run. The folders are
shrunken; of the published sizes only the shapes are compared."""

import json

import pytest
import torch
import transformers
from conftest import COLOUR_RM
from helpers import saved
from transformers import GPT2Config, GPT2LMHeadModel

import train_rm
import train_sft
from minirlhf.formats import gpt2, tokenizer_json
from minirlhf.model import GPT
from minirlhf.run.checkpoint import load_gpt
from minirlhf.tokenizer import get_tokenizer
from minirlhf.tools import export, importing

pytest.importorskip("safetensors")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
TOKENIZER = get_tokenizer()
IDS = TOKENIZER.vocab_size
PUBLISHED = {  # layers, heads, width
    "distilgpt2": (6, 12, 768),
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
}


def theirs(vocab_size=IDS):
    """transformers' GPT-2 with random weights and the shape of `out`'s models."""
    sizes = {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": vocab_size}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter) * 0.3
    return model.eval()


def save(model, folder, kind, prefix, sharded):
    """A folder as one of the many writers of GPT-2 left it."""
    folder.mkdir()
    model.config.save_pretrained(folder)
    state = model.transformer.state_dict()
    tensors = {prefix + name: tensor.clone() for name, tensor in state.items()}
    names = sorted(tensors)
    parts = [names[::2], names[1::2]] if sharded else [names]
    places = {}
    stem, suffix = kind.split(".")
    for number, part in enumerate(parts, start=1):
        name = f"{stem}-{number:05}-of-00002.{suffix}" if sharded else kind
        places |= dict.fromkeys(part, name)
        content = {key: tensors[key] for key in part}
        if suffix == "bin":
            torch.save(content, folder / name)
        else:
            from safetensors.torch import save_file

            save_file(content, folder / name, metadata={"format": "pt"})
    if sharded:
        index = {"metadata": {}, "weight_map": places}
        (folder / f"{kind}.index.json").write_text(json.dumps(index))
    return folder


def run_import(*argv):
    importing.main(list(map(str, argv)))


@pytest.fixture
def folder(tmp_path):
    """A folder of safetensors in two pieces, with our tokenizer."""
    folder = save(theirs(), tmp_path / "theirs", "model.safetensors", "transformer.", True)
    tokenizer_json.save_tokenizer(TOKENIZER, folder, 32)
    return folder


# ---- what is read


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("prefix", ["transformer.", ""])
@pytest.mark.parametrize("sharded", [False, True])
def test_every_form_of_the_weights_gives_their_logits(tmp_path, kind, prefix, sharded):
    """safetensors or .bin, with and without the prefix, in one piece or in two with an index."""
    model = theirs()
    run_import(save(model, tmp_path / "theirs", kind, prefix, sharded), tmp_path / "out")
    ours, tokenizer = load_gpt(tmp_path / "out")
    tokens = torch.arange(20).view(2, 10) * 83
    torch.testing.assert_close(ours(tokens), model(tokens).logits, atol=1e-4, rtol=0)
    assert tokenizer.name == "tiny"


def test_what_transformers_writes_in_pieces_is_read(tmp_path):
    """Its own index, and a .bin wherever it still writes one."""
    model = theirs()
    model.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    run_import(tmp_path / "theirs", tmp_path / "out")
    tokens = torch.arange(20).view(2, 10)
    logits = load_gpt(tmp_path / "out")[0](tokens)
    torch.testing.assert_close(logits, model(tokens).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes_have_the_names_and_shapes_of_our_parameters(tmp_path, name):
    """On the device "meta", which takes no memory: every tensor of theirs has its place in ours."""
    layers, heads, width = PUBLISHED[name]
    config = GPT2Config(n_layer=layers, n_head=heads, n_embd=width)
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        ours = GPT(gpt2.read_config(tmp_path / "config.json"))
        model = GPT2LMHeadModel(config)
    views = gpt2.their_view(ours)
    shapes = {name: tuple(view.shape) for name, view in views.items()}
    assert shapes == {n: tuple(p.shape) for n, p in model.transformer.named_parameters()}


def test_an_added_pad_token_is_left_out_and_that_is_said(tmp_path, capsys):
    """50,258 rows where GPT-2 has 50,257, or the like: the logits of all other ids are theirs."""
    model = theirs(IDS + 1)
    source = save(model, tmp_path / "theirs", "model.safetensors", "transformer.", False)
    tokenizer_json.save_tokenizer(TOKENIZER, source, 32, scores=True)  # its pad token is one more
    run_import(source, tmp_path / "out")
    assert f"left out: 1 of {IDS + 1} ids are not of tiny (<|pad|>)" in capsys.readouterr().out
    tokens = torch.arange(20).view(2, 10)
    logits = load_gpt(tmp_path / "out")[0](tokens)
    torch.testing.assert_close(logits, model(tokens).logits[..., :IDS], atol=1e-4, rtol=0)


def test_gpt2s_50258_rows_are_taken_for_gpt2s(tmp_path):
    """By the number of ids; GPT-2's own and those of a model that was padded to a multiple."""
    for size, name in ((50_257, "gpt2"), (50_258, "gpt2"), (50_304, "gpt2"), (IDS, "tiny")):
        assert importing.name_of(tmp_path, size) == name


# ---- what becomes of it


def test_the_imported_run_is_one_for_every_stage(folder, colours, tmp_path):
    """SFT starts from it; the reward model, and the export, take it as a policy."""
    out = tmp_path / "imported"
    run_import(folder, out)
    common = ["--out", str(tmp_path / "out"), "--max-new-tokens", "4"]
    flags = ["--init", str(out), "--batch-size", "18", "--warmup", "1"]
    train_sft.main([*common, *flags, "--data", str(colours / "demonstrations.jsonl")])
    flags = [*COLOUR_RM, "--sft", str(out), "--data", str(colours / "comparisons.jsonl")]
    train_rm.main([*common, *flags, "--epochs", "1"])
    assert saved(tmp_path / "out" / "rm")["step"] > 0
    export.main([str(out), str(tmp_path / "back")])
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "back").state_dict()
    assert all(torch.equal(x, again[name]) for name, x in theirs().state_dict().items())


def test_an_imported_run_is_not_resumed_and_not_replaced_unless_told(refused, folder, tmp_path):
    """It has no optimiser. A second import asks for --overwrite."""
    out = tmp_path / "x" / "sft"
    run_import(folder, out)
    message = refused(train_sft.main, ["--out", str(out.parent), "--resume"], out)
    assert "without an optimiser" in message
    assert "--overwrite" in refused(run_import_of(folder, out), [], out)
    run_import(folder, out, "--overwrite")


def test_an_import_never_replaces_a_trained_run(refused, folder, out):
    """Not even with --overwrite: hours of training look like any folder."""
    for flags in ([], ["--overwrite"]):
        message = refused(run_import_of(folder, out / "sft"), flags, out)
        assert "name another folder" in message


def run_import_of(folder, out):
    return lambda flags: run_import(folder, out, *flags)


# ---- what is refused


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_a_vocabulary_that_is_not_the_tokenizers_is_one_line(refused, folder, tmp_path):
    """Two ids that changed places: the model would read other words."""
    ids = tokenizer_json.vocabulary(TOKENIZER)
    names = list(ids)[300:302]
    swapped = dict(zip(names, (ids[names[1]], ids[names[0]]), strict=True))
    change(folder / "tokenizer.json", lambda content: content["model"]["vocab"].update(swapped))
    message = refused(run_import_of(folder, tmp_path / "out"), [], tmp_path)
    assert "tokenizer.json" in message and "--tokenizer" in message
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(ids | swapped))
    assert "vocab.json" in refused(run_import_of(folder, tmp_path / "out"), [], tmp_path)
    (folder / "vocab.json").write_text(json.dumps(ids))
    run_import(folder, tmp_path / "out")


def test_added_tokens_that_mean_something_are_not_dropped_silently(refused, tmp_path):
    """A chat model's marks of a turn: without them it is another model."""
    source = save(theirs(IDS + 2), tmp_path / "theirs", "model.safetensors", "", False)
    ids = tokenizer_json.vocabulary(TOKENIZER)
    (source / "vocab.json").write_text(json.dumps(ids))
    (source / "added_tokens.json").write_text(json.dumps({"[PAD]": IDS, "<|user|>": IDS + 1}))
    message = refused(run_import_of(source, tmp_path / "out"), [], tmp_path)
    assert "<|user|>" in message and "--drop-tokens" in message
    run_import(source, tmp_path / "out", "--drop-tokens")


def test_ids_that_no_tokenizer_has_are_one_line(refused, tmp_path):
    """600 ids are nobody's."""
    source = save(theirs(600), tmp_path / "theirs", "model.safetensors", "", False)
    message = refused(run_import_of(source, tmp_path / "out"), [], tmp_path)
    assert "600 ids" in message and "--tokenizer" in message
    message = refused(run_import_of(source, tmp_path / "out"), ["--tokenizer", "tiny"], tmp_path)
    assert "600 ids" in message and "1664" in message


@pytest.mark.parametrize(
    "file, problem",
    [
        ("../model.safetensors", "no file beside it"),
        ("/etc/passwd", "no file beside it"),
        ("model-3.safetensors", "is missing"),
        ("pytorch_model.bin", "no file beside it"),
        (7, "no file beside it"),
    ],
)
def test_an_index_that_names_another_place_is_one_line(refused, folder, tmp_path, file, problem):
    """A file elsewhere, one that is missing, a pickle among safetensors."""
    path = folder / "model.safetensors.index.json"
    change(path, lambda content: content["weight_map"].update({"transformer.wte.weight": file}))
    message = refused(run_import_of(folder, tmp_path / "out"), [], tmp_path)
    assert path.name in message and problem in message


def test_pieces_that_are_not_what_the_index_says_are_one_line(refused, folder, tmp_path):
    """The tensor is not in the piece; a piece is cut short; the index is no index."""
    path = folder / "model.safetensors.index.json"
    text = path.read_text()
    piece = "model-00001-of-00002.safetensors"
    change(path, lambda content: content["weight_map"].update({"transformer.ghost": piece}))
    message = refused(run_import_of(folder, tmp_path / "out"), [], tmp_path)
    assert "transformer.ghost is missing" in message
    for content in ("[1]", "{", '{"weight_map": [1]}', "[" * 2000):
        path.write_text(content)
        message = refused(run_import_of(folder, tmp_path / "out"), [], tmp_path)
        assert "no index of weights" in message
    path.write_text(text)
    (folder / piece).write_bytes((folder / piece).read_bytes()[:5000])
    message = refused(run_import_of(folder, tmp_path / "out"), [], tmp_path)
    assert piece in message and "cannot be read" in message


@pytest.mark.parametrize(
    "content", ["[1]", "{", '{"model": 3}', '{"model": {"vocab": {"a": "b"}}}']
)
def test_a_tokenizer_that_is_none_is_one_line(refused, folder, tmp_path, content):
    """Of another kind (Unigram has a list of pieces), or damaged."""
    (folder / "tokenizer.json").write_text(content)
    message = refused(run_import_of(folder, tmp_path / "out"), [], tmp_path)
    assert "tokenizer.json: no tokenizer" in message
