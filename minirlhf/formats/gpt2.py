"""GPT-2's weights in and out: the folder that transformers' `GPT2LMHeadModel` saves and loads.

Both directions go through `their_view`, so that there is one list of names and one transpose. What
the folder asks for and model.py does not compute is refused: weights that load and give slightly
other logits would be worse than none.
"""

import dataclasses
import json
from pathlib import Path

import torch

from minirlhf.formats import weights
from minirlhf.formats.weights import SAVE_AGAIN
from minirlhf.model import GPT, GPTConfig
from minirlhf.run.config import InputError
from minirlhf.run.files import write_text

SIZES = {  # ours: theirs
    "vocab_size": "vocab_size",
    "context": "n_positions",
    "layers": "n_layer",
    "heads": "n_head",
    "width": "n_embd",
}
# The settings that change the logits, each with the one value that model.py computes. It is also
# their default, which holds where a setting is missing.
SETTINGS = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
NAMES = {  # ours: theirs
    "token_embedding": "wte",
    "position_embedding": "wpe",
    "blocks.": "h.",
    "norm1": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "norm2": "ln_2",
    "mlp.hidden": "mlp.c_fc",
    "mlp.out": "mlp.c_proj",
    "norm.": "ln_f.",
}
CAUSAL_MASKS = (".attn.bias", ".attn.masked_bias")  # old versions stored them with the weights
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
END_TOKEN = 50256  # of GPT-2's vocabulary of 50,257 ids


def their_view(gpt):
    """{their name: our parameter in their layout}. The tensors are views: to write into one is to
    write into the parameter."""
    views = {}
    for name, parameter in gpt.named_parameters():
        view = parameter.detach()
        if name == "token_embedding.weight":
            view = view[: gpt.config.vocab_size]
        elif parameter.dim() == 2 and name != "position_embedding.weight":
            view = view.T  # their linear layers ("Conv1D") store (in, out)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        views[name] = view
    return views


# ---- in


def load_gpt2(folder, vocab_size=None):
    """The GPT of a Hugging Face GPT-2 folder, float32 on the CPU. With `vocab_size` it has no more
    ids than that: rows of the embedding beyond them are left out. InputError where the folder holds
    what would not be reproduced exactly."""
    config = read_config(Path(folder) / "config.json")
    path, tensors = read_tensors(Path(folder), config)
    stored = sum(tensor.numel() for tensor in tensors.values())
    if config.layers > len(tensors) or max(dataclasses.astuple(config)) > stored:
        problem = f"holds {stored:,} numbers, and config.json says {config}"
        raise InputError(f"{path}: {problem}; the two files must come from the same model")
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced
        gpt = GPT(config)
    check_tensors(path, tensors, their_view(gpt))  # before memory is taken
    if vocab_size and vocab_size < config.vocab_size:
        tensors["wte.weight"] = tensors["wte.weight"][:vocab_size]
        config = dataclasses.replace(config, vocab_size=vocab_size)
        with torch.device("meta"):
            gpt = GPT(config)
    gpt.to_empty(device="cpu")
    for name, view in their_view(gpt).items():
        view.copy_(tensors[name])
    # The rows beyond the vocabulary must be finite: the gradient multiplies them by zero, and zero
    # times NaN is NaN.
    gpt.token_embedding.weight.detach()[config.vocab_size :] = 0
    return gpt


def check_tensors(path, tensors, views):
    """InputError if `tensors`, those of the file `path`, are not what `views` are: each name with
    its shape, finite, and nothing else. The tied head may be there a second time."""
    head, embedding = tensors.pop("lm_head.weight", None), tensors.get("wte.weight")
    if head is not None and embedding is not None and not torch.equal(head, embedding):
        problem = "lm_head.weight differs from wte.weight"
        raise InputError(f"{path}: {problem}; only GPT-2 with a tied head can be loaded")
    for name, view in views.items():
        if name not in tensors:
            raise InputError(f"{path}: {name} is missing; {SAVE_AGAIN}")
        tensor = tensors[name]
        if tensor.shape != view.shape:
            problem = f"{name} has shape {tuple(tensor.shape)} where config.json says"
            remedy = "the two files must come from the same model"
            raise InputError(f"{path}: {problem} {tuple(view.shape)}; {remedy}")
        if tensor.dtype not in FLOATS or not tensor.isfinite().all():
            raise InputError(f"{path}: {name} is not of finite numbers; {SAVE_AGAIN}")
    if rest := tensors.keys() - views.keys():
        problem = f"{min(rest)} is no part of GPT-2"
        raise InputError(f"{path}: {problem}; give a folder saved by GPT2LMHeadModel")


def read_config(path):
    """config.json -> GPTConfig. InputError where model.py cannot compute what it describes."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        remedy = "give a folder saved by GPT2LMHeadModel.save_pretrained"
        raise InputError(f"{path}: cannot be read; {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON; {SAVE_AGAIN}") from error
    if not isinstance(settings, dict) or settings.get("model_type") != "gpt2":
        raise InputError(f'{path}: model_type is not "gpt2"; only GPT-2 can be loaded')
    check_settings(path, settings)
    return GPTConfig(**{ours: settings[theirs] for ours, theirs in SIZES.items()})


def check_settings(path, settings):
    """InputError where a setting of config.json is not one of the models that model.py computes."""
    for name, value in SETTINGS.items():
        if settings.get(name, value) != value:
            remedy = f"only GPT-2 with {value!r} can be loaded"
            raise InputError(f"{path}: {name} is {settings[name]!r:.50}; {remedy}")
    for name in SIZES.values():
        if type(settings.get(name)) is not int or settings[name] < 1:
            problem = f"{name} must be a positive whole number, got {settings.get(name)!r:.50}"
            raise InputError(f"{path}: {problem}; {SAVE_AGAIN}")
    width, heads = settings["n_embd"], settings["n_head"]
    if settings.get("n_inner") not in (None, 4 * width):
        remedy = "only GPT-2 with 4 x n_embd can be loaded"
        raise InputError(f"{path}: n_inner is {settings['n_inner']!r:.50}; {remedy}")
    if width % heads:
        raise InputError(f"{path}: n_embd {width} is no multiple of n_head {heads}; {SAVE_AGAIN}")


def read_tensors(folder, config):
    """(path of the folder's weights, its tensors by name). The prefix "transformer.", which some
    writers use, is removed, and so are the causal masks. InputError as in `weights.read`."""
    path, tensors = weights.read(folder, config)
    return path, {
        name.removeprefix("transformer."): tensor
        for name, tensor in tensors.items()
        if not name.endswith(CAUSAL_MASKS)
    }


# ---- out


def save_gpt2(gpt, folder, end_token=None):
    """Write config.json and model.safetensors, or pytorch_model.bin where the [hf] extra is
    missing. Each file is written atomically. `end_token` is the id that ends a text, by default
    GPT-2's where the vocabulary has its size."""
    folder = Path(folder)
    # Clones: a slice would take its whole storage into the file, the rows beyond the vocabulary
    # included.
    tensors = {
        f"transformer.{name}": view.cpu().clone(memory_format=torch.contiguous_format)
        for name, view in their_view(gpt).items()
    }
    weights.write(tensors, folder, gpt.config)
    settings = their_settings(gpt.config, end_token)
    write_text(folder / "config.json", json.dumps(settings, indent=2) + "\n")


def their_settings(config, end_token=None):
    """GPTConfig and the id of the end token -> what config.json holds."""
    settings = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    settings |= {theirs: getattr(config, ours) for ours, theirs in SIZES.items()} | SETTINGS
    settings |= dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)  # no dropout
    # Where none is named, transformers takes GPT-2's end token, and warns if the vocabulary is too
    # small for it.
    if end_token is None and config.vocab_size == END_TOKEN + 1:
        end_token = END_TOKEN
    return settings | dict.fromkeys(("bos_token_id", "eos_token_id"), end_token)
