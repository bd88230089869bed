"""Learning rates for models as large as GPT-2's, and for adapters. The defaults of the stages are
for a model of half a million parameters, which learns at rates that destroy a pretrained one.

SFT: Radford et al. 2018, section 4.1. Reward model and PPO: Ziegler et al. 2019, section 2. DPO:
the rate of the reward model, which learns from the same comparisons. Adapters learn at ten times
the rate of all weights, whatever their rank (docs/lora.md; Schulman et al. 2025, *LoRA Without
Regret*).
"""

import json
import sys
from pathlib import Path

from minirlhf.run import damage
from minirlhf.run.config import parse

LARGE = range(512, 65_536)  # widths of hidden states; what is wider is damaged
ADAPTERS = 10  # the learning rate of adapters, in multiples of that of all weights
RATES = {"sft": 6.25e-5, "rm": 1.77e-5, "ppo": 1.41e-5, "dpo": 1.77e-5}


def for_model(args, stage, argv):
    """The flags of a stage, whose defaults suit the model that it starts from. The command line
    goes before them; a line on stderr says so otherwise."""
    path = args.init if stage == "sft" else args.sft or f"{args.out}/sft"
    large, rank = bool(path) and width(path) in LARGE, getattr(args, "lora", 0)
    if not large and not rank:
        return args
    rate = (RATES[stage] if large else type(args).lr) * (ADAPTERS if rank else 1)
    args = parse(type(args), argv, defaults={"lr": rate})
    if args.lr == rate:
        reasons = [f"{path} is a large model"] * large + ["adapters are trained"] * bool(rank)
        print(f"{' and '.join(reasons)}: --lr is {rate:g} unless it is given", file=sys.stderr)
    return args


def width(path):
    """The width of a checkpoint's hidden states, or of a GPT-2 folder's; 0 where it is not known:
    what reads the model says what is wrong."""
    path = Path(path)
    config, file = path / "config.json", path if path.suffix == ".pt" else path / "checkpoint.pt"
    try:
        if file.exists():
            return int(damage.load(file, mmap=True)["gpt"]["width"])
        return int(json.loads(config.read_text(encoding="utf-8"))["n_embd"])
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return 0
