"""A reward model -> the folder that transformers opens as AutoModelForSequenceClassification.

The architecture is OPT's and not GPT-2's, on purpose. Both are the same network: learned positions,
layer norm before attention and MLP, a final layer norm. But transformers' OPT counts a token's
position from the attention mask, and its GPT-2 from the column. So in a batch that is padded on the
left, as rewardbench pads it, GPT-2 would give other scores.

Two things have no place there, and are folded into weights:

- Normalisation. Our score is (w h + b - mean) / std. Their head is linear without bias, on the
  states after the final layer norm. With v = w / std and c = (b - mean) / std it is v (h + d),
  where d = c v / (v v) joins the bias of that norm: nothing else reads these states.
- The pad token. A score is read at the last token that is no pad token, and a response's end token
  must be read, so it cannot be that. There is one more id, whose embedding is zero.
"""

import json

import torch

from minirlhf.formats import weights
from minirlhf.run.config import InputError
from minirlhf.run.files import write_text

FIRST_POSITION = 2  # rows of OPT's position embedding before the first position
NAMES = {  # ours: theirs
    "token_embedding": "embed_tokens",
    "position_embedding": "embed_positions",
    "blocks.": "layers.",
    "norm1": "self_attn_layer_norm",
    "attention.out": "self_attn.out_proj",
    "norm2": "final_layer_norm",
    "mlp.hidden": "fc1",
    "mlp.out": "fc2",
}


def save_reward_model(reward_model, folder, end_token):
    """Write config.json and model.safetensors (see `weights.write`). InputError if the head is
    zero."""
    config = reward_model.gpt.config
    tensors = trunk(reward_model.gpt)
    vector, bias = folded(reward_model)
    tensors["model.decoder.final_layer_norm.bias"] += bias
    tensors["score.weight"] = vector[None]
    tensors = {
        name: tensor.float().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    weights.write(tensors, folder, config)
    write_text(folder / "config.json", json.dumps(settings(config, end_token), indent=2) + "\n")


def folded(reward_model):
    """(v, d) of the docstring above, (C,) each, float64."""
    head, std = reward_model.head, reward_model.std.double()
    vector = head.weight.detach().double()[0] / std
    constant = (head.bias.detach().double() - reward_model.mean) / std
    if not vector.any():
        raise InputError("the head of the reward model is zero: all scores are one; train it first")
    return vector, constant * vector / vector.dot(vector)


def trunk(gpt):
    """{their name: tensor} of a GPT, with a row of zeros for the pad token."""
    tensors = {}
    for name, parameter in gpt.named_parameters():
        tensor = parameter.detach()
        if name == "token_embedding.weight":
            pad = torch.zeros_like(tensor[:1])
            tensor = torch.cat([tensor[: gpt.config.vocab_size], pad])
        elif name == "position_embedding.weight":
            tensor = torch.cat([torch.zeros_like(tensor[:1])] * FIRST_POSITION + [tensor])
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        if name.startswith("norm."):
            name, tensor = f"final_layer_{name}", tensor.double()
        if "attention.qkv" in name:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):  # (3C, ...) -> (C, ...)
                place = name.replace("attention.qkv", f"self_attn.{letter}_proj")
                tensors[f"model.decoder.{place}"] = part
        else:
            tensors[f"model.decoder.{name}"] = tensor
    return tensors


def settings(config, end_token):
    """GPTConfig -> what config.json holds."""
    content = {"model_type": "opt", "architectures": ["OPTForSequenceClassification"]}
    content |= {
        "vocab_size": config.vocab_size + 1,
        "hidden_size": config.width,
        "word_embed_proj_dim": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "ffn_dim": 4 * config.width,
        "max_position_embeddings": config.context,
        "activation_function": "gelu_new",
        "do_layer_norm_before": True,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
    }
    content |= dict.fromkeys(("dropout", "attention_dropout", "layerdrop"), 0.0)
    content |= dict.fromkeys(("bos_token_id", "eos_token_id"), end_token)
    # With "regression" the pipeline "text-classification" gives the score itself.
    labels = {"id2label": {"0": "score"}, "label2id": {"score": 0}, "problem_type": "regression"}
    return content | {"pad_token_id": config.vocab_size} | labels
