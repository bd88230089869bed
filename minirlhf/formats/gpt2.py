"""GPT-2 weights in and out: the folder that transformers' `GPT2LMHeadModel` saves to and loads from.

Both directions go through `their_view`, so there is one list of names and one transpose. What the folder asks for and model.py
does not compute is refused: weights that load and give slightly other logits would be worse than none.
"""

import json
import os
from pathlib import Path

import torch

from minirlhf.model import GPT, GPTConfig
from minirlhf.run.config import InputError

SIZES = {
    "vocab_size": "vocab_size",
    "context": "n_positions",
    "layers": "n_layer",
    "heads": "n_head",
    "width": "n_embd",
}
AGAIN = "save the model again with GPT2LMHeadModel.save_pretrained"
# The settings that change the logits, each with the one value that model.py computes, which is also what a missing one means.
SETTINGS = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
NAMES = {
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


def load_gpt2(folder):
    """The GPT of a Hugging Face GPT-2 folder. Raises InputError where the folder holds what would not be reproduced exactly."""
    config = read_config(Path(folder) / "config.json")
    path, tensors = read_tensors(Path(folder))
    with torch.device(
        "meta"
    ):  # no memory and no random numbers for weights that are replaced at once
        gpt = GPT(config)
    gpt.to_empty(device="cpu")
    head = tensors.pop("lm_head.weight", None)  # some writers store the tied head a second time
    if (
        head is not None
        and "wte.weight" in tensors
        and not torch.equal(head, tensors["wte.weight"])
    ):
        raise InputError(
            f"{path}: lm_head.weight differs from wte.weight; only GPT-2 with a tied head can be loaded"
        )
    for name, view in their_view(gpt).items():
        if name not in tensors:
            raise InputError(f"{path}: {name} is missing; {AGAIN}")
        tensor = tensors.pop(name)
        if tensor.shape != view.shape:
            shapes = (
                f"{name} has shape {tuple(tensor.shape)} where config.json says {tuple(view.shape)}"
            )
            raise InputError(f"{path}: {shapes}; the two files must come from the same model")
        view.copy_(tensor)
    if tensors:
        raise InputError(
            f"{path}: {min(tensors)} is no part of GPT-2; give a folder saved by GPT2LMHeadModel"
        )
    # Zeros, because the gradient multiplies the rows nobody sees by zero, and zero times what memory held may be NaN.
    gpt.token_embedding.weight.detach()[config.vocab_size :] = 0
    return gpt


def save_gpt2(gpt, folder):
    """Write config.json and model.safetensors (pytorch_model.bin where the [hf] extra is missing), never half of a file."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Cloned: a slice would take its whole storage into the file, the rows nobody sees included.
    tensors = {
        f"transformer.{name}": view.cpu().clone(memory_format=torch.contiguous_format)
        for name, view in their_view(gpt).items()
    }
    try:
        from safetensors.torch import save_file
    except ImportError:
        write(folder / "pytorch_model.bin", lambda path: torch.save(tensors, path))
        for stale in folder.glob("model.safetensors*"):  # a reader would take it first
            stale.unlink()
    else:
        write(
            folder / "model.safetensors",
            lambda path: save_file(tensors, path, metadata={"format": "pt"}),
        )
    sizes = {theirs: getattr(gpt.config, ours) for ours, theirs in SIZES.items()}
    settings = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **sizes, **SETTINGS}
    settings |= dict.fromkeys(
        ("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0
    )  # there is no dropout here
    # transformers takes GPT-2's end token where none is named, and warns when the vocabulary is too small for it.
    settings |= dict.fromkeys(
        ("bos_token_id", "eos_token_id"), 50256 if gpt.config.vocab_size == 50257 else None
    )
    write(
        folder / "config.json", lambda path: path.write_text(json.dumps(settings, indent=2) + "\n")
    )


def their_view(gpt):
    """{their name: our parameter as they lay it out}; views, so that writing into one writes the parameter."""
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


def read_config(path):
    try:
        settings = json.loads(path.read_text())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read; give a folder saved by GPT2LMHeadModel.save_pretrained"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON; {AGAIN}") from error
    if not isinstance(settings, dict) or settings.get("model_type") != "gpt2":
        raise InputError(f'{path}: model_type is not "gpt2"; only GPT-2 can be loaded')
    for name, value in SETTINGS.items():
        if settings.get(name, value) != value:
            raise InputError(
                f"{path}: {name} is {settings[name]!r}; only GPT-2 with {value!r} can be loaded"
            )
    for name in SIZES.values():
        if not isinstance(settings.get(name), int) or settings[name] < 1:
            raise InputError(
                f"{path}: {name} must be a positive whole number, got {settings.get(name)!r}; {AGAIN}"
            )
    if settings.get("n_inner") not in (None, 4 * settings["n_embd"]):
        raise InputError(
            f"{path}: n_inner is {settings['n_inner']!r}; only GPT-2 with 4 x n_embd can be loaded"
        )
    if settings["n_embd"] % settings["n_head"]:
        raise InputError(
            f"{path}: n_embd {settings['n_embd']} is no multiple of n_head {settings['n_head']}; {AGAIN}"
        )
    return GPTConfig(**{ours: settings[theirs] for ours, theirs in SIZES.items()})


def read_tensors(folder):
    """The folder's weight file and its tensors by name, without the "transformer." that some writers put in front."""
    path = folder / "model.safetensors"
    if path.exists():
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise InputError(
                f"{path}: reading it takes another package; pip install minirlhf[hf]"
            ) from error
    else:
        path = folder / "pytorch_model.bin"
        if not path.exists():
            raise InputError(
                f"{folder}: holds neither model.safetensors nor pytorch_model.bin in one piece; download one"
            )

        def load_file(path):
            return torch.load(path, map_location="cpu", weights_only=True)

    try:
        tensors = load_file(path)
    except Exception as error:  # each reader has a dozen of its own for a file cut short
        raise InputError(
            f"{path}: cannot be read; is the download complete? (a clone needs `git lfs pull`)"
        ) from error
    if not isinstance(tensors, dict) or not all(
        isinstance(tensor, torch.Tensor) for tensor in tensors.values()
    ):
        raise InputError(f"{path}: holds no weights by name; {AGAIN}")
    masks = (
        ".attn.bias",
        ".attn.masked_bias",
    )  # the causal mask, which old versions stored with the weights
    return path, {
        name.removeprefix("transformer."): t
        for name, t in tensors.items()
        if not name.endswith(masks)
    }


def write(path, save):
    """All of the file or nothing: under a temporary name first."""
    temporary = path.with_name(path.name + ".tmp")
    save(temporary)
    os.replace(temporary, path)
