"""Other people's code on our work: the sides that minirlhf.bench puts beside ours.

A side is a function: job (see workload.Job) -> a function that does one run and returns (seconds by part, response tokens).
What is not told otherwise is the library's default. Nothing here is needed for training: whatever is not installed is left out.
"""

import importlib.util
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F

from minirlhf.bench.workload import LR, now, padded, sampled, timed
from minirlhf.formats import gpt2


def stepper(model, optimizer=None):
    """The optimiser step that everybody takes: AdamW, gradients clipped to norm 1."""
    optimizer = optimizer or torch.optim.AdamW(
        model.parameters(), lr=LR, weight_decay=0.0, fused=True
    )

    def step(loss):
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


# ---- transformers


def quiet():
    import transformers

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def causal(folder):
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(folder)


def scalar(folder):
    from transformers import GPT2ForSequenceClassification

    model = GPT2ForSequenceClassification.from_pretrained(folder, num_labels=1)
    model.config.pad_token_id = (
        model.config.vocab_size
    )  # only there to find the last token: out of the vocabulary is none
    return model


def transformers_sampling(job):
    quiet()
    model = causal(job.folder).to(job.device).eval()
    tokens, there = (x.to(job.device) for x in padded(job.prompts, 0, left=True))
    options = {
        "max_new_tokens": job.workload.new_tokens,
        "do_sample": True,
        "top_k": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }

    def work():
        out = model.generate(tokens, attention_mask=there, **options)
        return sampled(out[:, tokens.size(1) :])

    return timed(job.device, work)


def transformers_language(job):
    quiet()
    model = causal(job.folder).to(job.device).train()
    step = stepper(model)

    def work():
        for batch in job.batches:
            tokens, there = padded([example.tokens for example in batch], 0)
            prompts = torch.tensor([example.prompt_length for example in batch])[:, None]
            labels = torch.where(
                (torch.arange(tokens.size(1)) >= prompts) & (there == 1), tokens, -100
            )
            tokens, there, labels = (x.to(job.device) for x in (tokens, there, labels))
            step(model(input_ids=tokens, attention_mask=there, labels=labels).loss)
        return job.response_tokens

    return timed(job.device, work)


def pairs(batch):
    """Each response once: a group of four ranked responses is two pairs of chosen and rejected."""
    return [group[i : i + 2] for group in batch for i in range(0, len(group) - 1, 2)]


def transformers_rm(job):
    quiet()
    model = scalar(job.folder).to(job.device).train()
    step = stepper(model)

    def work():
        for batch in job.batches:
            both = [example.tokens for side in zip(*pairs(batch), strict=True) for example in side]
            tokens, there = padded(both, 0)
            last = there.sum(1) - 1
            tokens, there = tokens.to(job.device), there.to(job.device)
            hidden = model.transformer(input_ids=tokens, attention_mask=there).last_hidden_state
            chosen, rejected = (
                model.score(hidden[torch.arange(len(last)), last]).squeeze(-1).chunk(2)
            )
            step(-F.logsigmoid(chosen - rejected).mean())
        return job.response_tokens

    return timed(job.device, work)


# ---- nanoGPT


def nanogpt_dense(job):
    """Its class of the same shape with its own optimiser. Loaded from a checkout of it: model.py is the file wanted."""
    path = Path(job.nanogpt) / "model.py"
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    c = gpt2.read_config(Path(job.folder) / "config.json")
    shape = {
        "block_size": c.context,
        "vocab_size": c.vocab_size,
        "n_layer": c.layers,
        "n_head": c.heads,
        "n_embd": c.width,
    }
    model = module.GPT(module.GPTConfig(**shape, dropout=0.0, bias=True)).to(job.device)
    step = stepper(model, model.configure_optimizers(0.0, LR, (0.9, 0.95), job.device.type))

    def work():
        for batch in job.batches:
            tokens = torch.tensor([example.tokens for example in batch]).to(job.device)
            step(model(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())[1])
        return job.response_tokens

    return timed(job.device, work)


# ---- TRL

QUIET = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
# Float32 and nothing computed twice, as in our own runs; the first two are TRL's defaults on a GPU with memory to save.
PLAIN = {
    "bf16": False,
    "gradient_checkpointing": False,
    "lr_scheduler_type": "constant",
    "learning_rate": LR,
}


def end_tokenizer():
    """TRL wants a tokenizer even for ids; of this one only the padding and end ids are ever asked."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<end>": 0}, unk_token="<end>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")


def drive(trainer, job):
    """One run is one call of train(), clocked from its beginning to the end of the last step."""
    from transformers import TrainerCallback

    clock = {}

    class Clock(TrainerCallback):
        def on_train_begin(self, *_, **__):
            clock["start"] = now(job.device)

        def on_step_end(self, *_, **__):
            clock["end"] = now(job.device)

    trainer.add_callback(Clock())

    def run():
        trainer.train()
        return {"whole": clock["end"] - clock["start"]}, job.response_tokens

    return run


def settings(job, rows):
    steps = {"max_steps": len(job.batches), "per_device_train_batch_size": rows}
    return steps | {"output_dir": f"{job.folder}/trl", "use_cpu": job.device.type == "cpu"}


def trl_sft(job):
    quiet()
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    examples = [example for batch in job.batches for example in batch]
    columns = {
        "input_ids": [example.tokens for example in examples],
        "completion_mask": [
            [int(i >= e.prompt_length) for i in range(len(e.tokens))] for e in examples
        ],
    }
    own = SFTConfig(
        completion_only_loss=True, **settings(job, len(job.batches[0])), **QUIET, **PLAIN
    )
    return drive(
        SFTTrainer(
            causal(job.folder),
            own,
            train_dataset=Dataset.from_dict(columns),
            processing_class=end_tokenizer(),
        ),
        job,
    )


def trl_rm(job):
    quiet()
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    chosen, rejected = zip(*(pair for batch in job.batches for pair in pairs(batch)), strict=True)
    columns = {
        "chosen_ids": [e.tokens for e in chosen],
        "rejected_ids": [e.tokens for e in rejected],
    }
    own = RewardConfig(**settings(job, len(pairs(job.batches[0]))), **QUIET, **PLAIN)
    trainer = RewardTrainer(
        scalar(job.folder),
        own,
        train_dataset=Dataset.from_dict(columns),
        processing_class=end_tokenizer(),
    )
    return drive(trainer, job)


def ppo_trainer(models, prompts, end_token, **options):
    """TRL's PPOTrainer on prompts as ids. `models` are policy, reference, reward model and value model. The padding id is out
    of the vocabulary, so that no token is taken for padding: TRL looks nothing up at it."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy, reference, reward_model, value_model = models
    pad = policy.config.vocab_size
    return PPOTrainer(
        PPOConfig(
            stop_token="eos",
            num_sample_generations=0,
            gradient_accumulation_steps=1,
            **QUIET,
            **options,
        ),
        SimpleNamespace(eos_token_id=end_token, pad_token_id=pad),
        *(policy, reference, reward_model, prompts, value_model),
        data_collator=lambda rows: {"input_ids": padded(rows, pad, left=True)[0]},
        eval_dataset=prompts,
    )


def trl_ppo(job):
    """One run is one call of train() for one rollout; its parts begin where it samples, scores and shuffles the first epoch."""
    quiet()
    from trl.experimental.ppo import ppo_trainer as module

    policy, reference, reward_model, value_model = (
        make(job.folder) for make in (causal, causal, scalar, scalar)
    )
    B = len(job.prompts)
    same_work = {
        "total_episodes": B,
        "per_device_train_batch_size": B,  # all at once, here and while scoring
        "local_rollout_forward_batch_size": B,
        "num_ppo_epochs": job.epochs,
        "num_mini_batches": job.minibatches,
        "response_length": job.workload.new_tokens,
        "temperature": 1.0,
        "use_cpu": job.device.type == "cpu",
        "output_dir": f"{job.folder}/trl",
    }
    trainer = ppo_trainer(
        [policy, reference, reward_model, value_model], job.prompts, 0, **same_work, **PLAIN
    )
    clock, told, batch_generation, permutation = (
        [],
        [],
        module.batch_generation,
        np.random.permutation,
    )

    def watched(model, queries, *rest):
        clock[:] = [now(job.device)]
        made = batch_generation(model, queries, *rest)
        clock.append(now(job.device))
        told[:] = [sampled(made[0][:, queries.size(1) :])]
        return made

    def shuffled(*parameters):
        if len(clock) == 2:
            clock.append(now(job.device))
        return permutation(*parameters)

    module.batch_generation, module.np.random.permutation = watched, shuffled
    trainer.log = lambda _: clock.append(now(job.device))

    def run():
        trainer.train()
        parts = dict(zip(("rollout", "scoring", "update"), np.diff(clock).tolist(), strict=True))
        return parts | {"whole": clock[-1] - clock[0]}, told[0]

    return run


# What the sides above import, some of it where it is used.
IMPORTS = {
    "transformers": ["transformers.models.gpt2.modeling_gpt2", "transformers.generation.utils"],
    "trl": [
        "datasets",
        "trl.trainer.sft_trainer",
        "trl.trainer.reward_trainer",
        "trl.experimental.ppo.ppo_trainer",
    ],
}
SIDES = {
    "sampling": {"transformers": transformers_sampling},
    "sft": {"transformers": transformers_language, "trl": trl_sft},
    "dense": {"transformers": transformers_language, "nanogpt": nanogpt_dense},
    "rm": {"transformers": transformers_rm, "trl": trl_rm},
    "ppo": {"trl": trl_ppo},
}
