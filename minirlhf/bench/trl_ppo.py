"""The demonstration's PPO by TRL: the same models, prompts and flags as our run, judged beside it.

    pip install -e '.[bench]'
    minirlhf trl                from OUT/sft and OUT/rm with the flags of OUT/ppo; writes OUT/trl

TRL differs in three things. Its value function is always a network of its own (train_ppo.py's
--critic separate). It does not clip gradients. It takes 3 off the score of a response without an
end; ours replaces that score by -3.
"""

import contextlib
import copy
import json
import os
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from minirlhf import data, evaluate, reward
from minirlhf.bench import peers
from minirlhf.formats import gpt2
from minirlhf.run import chain, checkpoint, config, resume
from minirlhf.run.config import InputError, flag, rng
from minirlhf.run.files import write_text
from minirlhf.run.metrics import table
from minirlhf.tools.script import script
from minirlhf.world import measures, writers


@dataclass(frozen=True)
class Config:
    """The PPO of OUT/ppo by TRL's PPOTrainer: the same models, prompts and flags, judged under the
    same noise."""

    out: str = flag(
        "out", "folder of all stages: reads OUT/sft, OUT/rm and OUT/ppo, writes OUT/trl"
    )
    split: str = flag(
        "validation",
        "prompts of the split that choices are made on, or of the one kept for the final report",
        choices=("validation", "test"),
    )
    prompts: int = flag(512, "held-out prompts", low=2)


def flags_of(folder):
    """The flags of the PPO run in `folder`, as a Config of train_ppo.py. An InputError if TRL has
    no such options."""
    path = Path(folder) / "config.json"
    record = resume.read_record(folder)
    if record is None:
        problem = f"{path} {'is damaged' if path.exists() else 'does not exist'}"
        raise InputError(f"{problem}; run train_ppo.py first, TRL takes its flags")
    flags_class = script("train_ppo").Config
    flags = flags_class(**resume.recorded_flags(flags_class, record, path))
    if flags.data or flags.reward:
        problem = f"{folder} was trained with --data or --reward"
        raise InputError(f"{problem}; only the embedded world and its reward model will do")
    if flags.kl_target or flags.batch_size % flags.minibatches:
        problem = f"{folder}: TRL has no --kl-target"
        raise InputError(f"{problem}, and --batch-size must be a multiple of --minibatches")
    return flags


def hyper_parameters(flags):
    """Those of train_ppo.py in TRL's names, all rows of a rollout at once."""
    rows = flags.batch_size
    plain = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    return plain | {
        "seed": flags.seed,
        "total_episodes": flags.updates * rows,
        "per_device_train_batch_size": rows,
        "local_rollout_forward_batch_size": rows,
        "num_ppo_epochs": flags.epochs,
        "num_mini_batches": flags.minibatches,
        "response_length": flags.max_new_tokens,
        "temperature": flags.temperature,
        "learning_rate": flags.lr,
        "lr_scheduler_type": "linear",
        "warmup_steps": flags.warmup,
        "adam_epsilon": 1e-5,
        "kl_coef": flags.kl_coef,
        "missing_eos_penalty": 3.0,
        "vf_coef": flags.vf_coef,
        "cliprange": flags.clip,
        "cliprange_value": flags.value_clip,
        "gamma": flags.gamma,
        "lam": flags.lam,
    }


def to_transformers(gpt, load):
    """Our weights as a model of transformers; `load` makes it of a folder."""
    with tempfile.TemporaryDirectory() as folder:
        gpt2.save_gpt2(gpt, folder)
        return load(folder)


def from_transformers(model):
    """A GPT-2 of transformers as a GPT of ours."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return gpt2.load_gpt2(folder)


def to_scorer(reward_model):
    """A model of transformers with our normalised scores: mean and standard deviation go into the
    head, which gets the bias that theirs lacks."""
    model, head = to_transformers(reward_model.gpt, peers.scalar_model), reward_model.head
    model.score = nn.Linear(reward_model.gpt.config.width, 1)
    with torch.no_grad():
        model.score.weight.copy_(head.weight / reward_model.std)
        model.score.bias.copy_((head.bias - reward_model.mean) / reward_model.std)
    return model


def train(flags, sft, tokenizer, reward_model, prompts):
    """(the policy that TRL trains from the SFT model, as a GPT of ours; seconds)"""
    prompts = [data.encode_prompt(tokenizer, prompt) for prompt in prompts]
    policy, reference = (to_transformers(sft, peers.causal_model) for _ in range(2))
    scorer = to_scorer(reward_model)
    models = [policy, reference, scorer, copy.deepcopy(scorer)]
    with tempfile.TemporaryDirectory() as folder:
        options = hyper_parameters(flags) | {"output_dir": folder}
        trainer = peers.ppo_trainer(models, prompts, tokenizer.end_token, **options)
        with tqdm(total=flags.updates, desc="TRL's ppo") as bar:
            trainer.log = partial(advance, bar)
            start = time.perf_counter()
            with open(os.devnull, "w", encoding="utf-8") as null, contextlib.redirect_stdout(null):
                trainer.train()
    return from_transformers(policy), time.perf_counter() - start


def advance(bar, numbers):
    """TRL's log of one update, on the progress bar."""
    bar.update()
    bar.set_postfix(score=f"{numbers['objective/scores']:.2f}", kl=f"{numbers['objective/kl']:.2f}")


def compare(args, flags, policies, tokenizer, score):
    """{name: numbers}, in the same way and under the same noise as `minirlhf report`."""
    prompts = writers.prompts(args.prompts, rng(flags.seed, config.HELD_OUT_PROMPTS), args.split)
    uniforms = evaluate.noise(flags.seed, len(prompts), flags.max_new_tokens)
    rows = {}
    for name, gpt in policies.items():
        replies = evaluate.respond(gpt, tokenizer, prompts, uniforms, progress=name)
        values = measures.values(prompts, replies)
        numbers = {axis: measures.mean(values[axis]) for axis in measures.AXES}
        clusters = [measures.cluster(prompt) for prompt in prompts]
        numbers["total_half"] = evaluate.interval(values["total"], clusters)[1]
        numbers["score"] = float(score(prompts, replies).mean())
        numbers["kl"] = float(evaluate.kl(gpt, policies["SFT"], replies).mean())
        numbers["length"] = float(np.mean([reply.length for reply in replies]))
        rows[name] = numbers
    return rows


def main(argv=None):
    args = config.parse(Config, argv)
    flags = flags_of(f"{args.out}/ppo")
    sft, tokenizer = checkpoint.load_gpt(flags.sft or f"{args.out}/sft")
    reward_model, _, stored = reward.load_reward_model(flags.rm or f"{args.out}/rm")
    ours, _ = checkpoint.load_gpt(f"{args.out}/ppo")
    prompts, _ = script("train_ppo").load_prompts(flags, tokenizer, sft.config.context)
    try:
        peers.silence()
        policy, seconds = train(flags, sft, tokenizer, reward_model, prompts)
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; pip install -e '.[bench]'") from error
    policies = {"SFT": sft, "TRL's PPO": policy, "our PPO": ours}
    models = f"{args.out}/ppo", flags.rm or f"{args.out}/rm"
    score = evaluate.model_scores(reward_model, chain.missing_end_score(*models, "", stored))
    rows = compare(args, flags, policies, tokenizer, score)
    columns = [*measures.AXES, "score", "kl", "length"]
    lines = [[name, *(numbers[c] for c in columns)] for name, numbers in rows.items()]
    print("\n".join(["", *table(["", *columns], lines)]))
    print(f"\nTRL took {seconds:.0f} seconds for {flags.updates} updates")
    record = json.dumps({"seconds": seconds, "rows": rows}, indent=1)
    write_text(f"{args.out}/trl/report.json", record + "\n")


if __name__ == "__main__":
    config.run(main)
