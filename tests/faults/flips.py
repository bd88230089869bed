"""Flipped bits in all files of weights: none is used.

    python tests/faults/flips.py                200 bits of each kind of file; prints the counts
    python tests/faults/flips.py --bits 50

A checkpoint of each kind, what `minirlhf` exports for transformers, and a .bin file of another
program's. A file with a flipped bit is refused, or what is loaded from it is to the bit what was
saved: so it is where the bit does not belong to the weights and no checksum covers it.
"""

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # helpers
sys.path.insert(0, str(Path(__file__).parents[2]))

from helpers import same

from minirlhf import reward
from minirlhf.formats import gpt2
from minirlhf.model import GPT, SIZES, GPTConfig
from minirlhf.run import checkpoint
from minirlhf.run.config import InputError
from minirlhf.run.optim import adamw
from minirlhf.tokenizer import get_tokenizer


def prepare(folder):
    """{kind: (file, function that loads it)}"""
    tokenizer = get_tokenizer()
    gpt = GPT(GPTConfig(tokenizer.vocab_size, 128, *SIZES["nano"]))
    optimizer = adamw(gpt, 0.1)
    gpt(torch.zeros(1, 4, dtype=torch.long)).logsumexp(-1).sum().backward()
    optimizer.step()
    parts = {"model": gpt, "optimizer": optimizer, "kl_coef": 0.1}
    checkpoint.save(folder / "ppo", "ppo", gpt.config, tokenizer, 3, **parts)
    parts = {"model": reward.RewardModel(gpt), "missing_end_score": -3.0}
    checkpoint.save(folder / "rm", "rm", gpt.config, tokenizer, 3, **parts)
    gpt2.save_gpt2(gpt, folder / "safetensors")
    (folder / "bin").mkdir()
    shutil.copy(folder / "safetensors" / "config.json", folder / "bin")
    tensors = {name: x.contiguous() for name, x in gpt2.their_view(gpt).items()}
    torch.save(tensors, folder / "bin" / "pytorch_model.bin")
    return {
        "policy": (folder / "ppo" / "checkpoint.pt", lambda path: checkpoint.load_gpt(path)[0]),
        "resumed run": (folder / "ppo" / "checkpoint.pt", restored),
        "reward model": (
            folder / "rm" / "checkpoint.pt",
            lambda path: reward.load_reward_model(path)[0],
        ),
        "safetensors": (
            folder / "safetensors" / "model.safetensors",
            lambda path: gpt2.load_gpt2(path.parent),
        ),
        "bin": (folder / "bin" / "pytorch_model.bin", lambda path: gpt2.load_gpt2(path.parent)),
    }


def restored(path):
    """The policy and its optimiser that a run goes on with."""
    gpt, _ = checkpoint.load_gpt(path)
    optimizer = adamw(gpt, 0.1)
    checkpoint.restore(path.parent, "ppo", True, model=gpt, optimizer=optimizer)
    return torch.nn.ModuleDict({"gpt": gpt, "optimizer": Moments(optimizer)})


class Moments(torch.nn.Module):
    """An optimiser's state as a module, so that it has a state_dict."""

    def __init__(self, optimizer):
        super().__init__()
        self.values = [x for moments in optimizer.state.values() for x in moments.values()]
        for number, value in enumerate(self.values):
            self.register_buffer(f"value{number}", value)


def flip(path, load, bits, seed=1):
    """(refused, loaded with the weights that were saved, loaded with others) of `bits` flipped bits
    in a file, one at a time."""
    content, whole = path.read_bytes(), load(path).state_dict()
    refused = harmless = used = 0
    for bit in random.Random(seed).sample(range(len(content) * 8), bits):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            equal = same(load(path).state_dict(), whole)
        except InputError as error:
            refused += "\n" not in str(error)
        else:
            harmless, used = harmless + equal, used + (not equal)
    path.write_bytes(content)
    return refused, harmless, used


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bits", type=int, default=200)
    args = parser.parse_args()
    total = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind, (path, load) in prepare(Path(folder)).items():
            refused, harmless, used = flip(path, load, args.bits)
            print(
                f"{kind}: of {args.bits} flipped bits {refused} refused, {harmless} without "
                f"effect, {used} used"
            )
            total += used + (args.bits - refused - harmless - used)
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    main()
