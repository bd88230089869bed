"""The sides of other libraries in `minirlhf bench`: the same work as ours by their code.

A side is a function: a job (workload.Job) -> a function that does one run and returns (seconds by
part, response tokens). An option that is not set here has the library's default. Training needs
none of these libraries; a side whose library is not installed is left out.
"""

import importlib.util
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F

from minirlhf.bench.workload import LR, count_tokens, pad, single_part, wall_clock
from minirlhf.formats import gpt2


def optimiser_step(model, optimizer=None):
    """The step that every side takes, as a function loss -> None: AdamW by default, gradients
    clipped to norm 1."""
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


def silence():
    """Switch off the warnings and progress bars of transformers."""
    import transformers

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def causal_model(folder):
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(folder)


def scalar_model(folder):
    from transformers import GPT2ForSequenceClassification

    model = GPT2ForSequenceClassification.from_pretrained(folder, num_labels=1)
    # It serves only to find the last token. Out of the vocabulary, it marks no token as padding.
    model.config.pad_token_id = model.config.vocab_size
    return model


def transformers_sampling(job):
    silence()
    model = causal_model(job.folder).to(job.device).eval()
    tokens, mask = (x.to(job.device) for x in pad(job.prompts, 0, left=True))
    options = {
        "max_new_tokens": job.workload.new_tokens,
        "do_sample": True,
        "top_k": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }

    def work():
        rows = model.generate(tokens, attention_mask=mask, **options)
        return count_tokens(rows[:, tokens.size(1) :])

    return single_part(job.device, work)


def transformers_language(job):
    silence()
    model = causal_model(job.folder).to(job.device).train()
    step = optimiser_step(model)

    def work():
        for batch in job.batches:
            tokens, mask = pad([example.tokens for example in batch], 0)
            prompt_lengths = torch.tensor([example.prompt_length for example in batch])[:, None]
            response = (torch.arange(tokens.size(1)) >= prompt_lengths) & (mask == 1)
            labels = torch.where(response, tokens, -100)
            tokens, mask, labels = (x.to(job.device) for x in (tokens, mask, labels))
            step(model(input_ids=tokens, attention_mask=mask, labels=labels).loss)
        return job.response_tokens

    return single_part(job.device, work)


def pairs(batch):
    """[(chosen, rejected)] with each response in one pair: a group of four ranked responses gives
    two."""
    return [group[i : i + 2] for group in batch for i in range(0, len(group) - 1, 2)]


def transformers_rm(job):
    silence()
    model = scalar_model(job.folder).to(job.device).train()
    step = optimiser_step(model)

    def work():
        for batch in job.batches:
            rows = [example.tokens for side in zip(*pairs(batch), strict=True) for example in side]
            tokens, mask = pad(rows, 0)
            last = mask.sum(1) - 1
            tokens, mask = tokens.to(job.device), mask.to(job.device)
            hidden = model.transformer(input_ids=tokens, attention_mask=mask).last_hidden_state
            scores = model.score(hidden[torch.arange(len(last)), last]).squeeze(-1)
            chosen, rejected = scores.chunk(2)
            step(-F.logsigmoid(chosen - rejected).mean())
        return job.response_tokens

    return single_part(job.device, work)


# ---- nanoGPT


def nanogpt_dense(job):
    """Its GPT of the same shape with its own optimiser, from the model.py of a checkout."""
    path = Path(job.nanogpt) / "model.py"
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    shape = gpt2.read_config(Path(job.folder) / "config.json")
    sizes = {
        "block_size": shape.context,
        "vocab_size": shape.vocab_size,
        "n_layer": shape.layers,
        "n_head": shape.heads,
        "n_embd": shape.width,
    }
    model = module.GPT(module.GPTConfig(**sizes, dropout=0.0, bias=True)).to(job.device)
    optimizer = model.configure_optimizers(0.0, LR, (0.9, 0.95), job.device.type)
    step = optimiser_step(model, optimizer)

    def work():
        for batch in job.batches:
            tokens = torch.tensor([example.tokens for example in batch]).to(job.device)
            step(model(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())[1])
        return job.response_tokens

    return single_part(job.device, work)


# ---- TRL

QUIET = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
# Float32 and nothing computed twice, as in our runs. TRL's defaults for the first two save memory
# on a GPU.
PLAIN = {
    "bf16": False,
    "gradient_checkpointing": False,
    "lr_scheduler_type": "constant",
    "learning_rate": LR,
}


def end_tokenizer():
    """TRL requires a tokenizer even for ids; it reads only its padding id and its end id."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<end>": 0}, unk_token="<end>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")


def trainer_run(trainer, job):
    """A run is one call of train(), clocked from its beginning to the end of its last step."""
    from transformers import TrainerCallback

    times = {}

    class Clock(TrainerCallback):
        def on_train_begin(self, *_, **__):
            times["start"] = wall_clock(job.device)

        def on_step_end(self, *_, **__):
            times["end"] = wall_clock(job.device)

    trainer.add_callback(Clock())

    def run():
        trainer.train()
        return {"whole": times["end"] - times["start"]}, job.response_tokens

    return run


def trainer_options(job, rows):
    """Those of TRL's SFT and reward trainers: `rows` rows per optimiser step."""
    steps = {"max_steps": len(job.batches), "per_device_train_batch_size": rows}
    place = {"output_dir": f"{job.folder}/trl", "use_cpu": job.device.type == "cpu"}
    return steps | place | QUIET | PLAIN


def trl_sft(job):
    silence()
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    examples = [example for batch in job.batches for example in batch]
    masks = [[int(i >= e.prompt_length) for i in range(len(e.tokens))] for e in examples]
    columns = {
        "input_ids": [example.tokens for example in examples],
        "completion_mask": masks,
    }
    trainer = SFTTrainer(
        causal_model(job.folder),
        SFTConfig(completion_only_loss=True, **trainer_options(job, len(job.batches[0]))),
        train_dataset=Dataset.from_dict(columns),
        processing_class=end_tokenizer(),
    )
    return trainer_run(trainer, job)


def trl_rm(job):
    silence()
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    chosen, rejected = zip(*(pair for batch in job.batches for pair in pairs(batch)), strict=True)
    columns = {
        "chosen_ids": [e.tokens for e in chosen],
        "rejected_ids": [e.tokens for e in rejected],
    }
    trainer = RewardTrainer(
        scalar_model(job.folder),
        RewardConfig(**trainer_options(job, len(pairs(job.batches[0])))),
        train_dataset=Dataset.from_dict(columns),
        processing_class=end_tokenizer(),
    )
    return trainer_run(trainer, job)


def ppo_trainer(models, prompts, end_token, **options):
    """TRL's PPOTrainer on prompts as ids. `models` are policy, reference, reward model and value
    model. The padding id is out of the vocabulary, so that no token counts as padding: TRL looks
    nothing up at it."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy, reference, reward_model, value_model = models
    pad_token = policy.config.vocab_size
    plain = {"stop_token": "eos", "num_sample_generations": 0, "gradient_accumulation_steps": 1}
    return PPOTrainer(
        PPOConfig(**plain, **QUIET, **options),
        SimpleNamespace(eos_token_id=end_token, pad_token_id=pad_token),
        *(policy, reference, reward_model, prompts, value_model),
        data_collator=lambda rows: {"input_ids": pad(rows, pad_token, left=True)[0]},
        eval_dataset=prompts,
    )


def trl_ppo(job):
    """A run is one call of train() for one rollout, in parts: sampling, scoring, the update."""
    silence()
    from trl.experimental.ppo import ppo_trainer as module

    makers = causal_model, causal_model, scalar_model, scalar_model
    models = [make(job.folder) for make in makers]
    rows = len(job.prompts)
    options = {
        "total_episodes": rows,
        "per_device_train_batch_size": rows,  # all at once, here and while scoring
        "local_rollout_forward_batch_size": rows,
        "num_ppo_epochs": job.epochs,
        "num_mini_batches": job.minibatches,
        "response_length": job.workload.new_tokens,
        "temperature": 1.0,
        "use_cpu": job.device.type == "cpu",
        "output_dir": f"{job.folder}/trl",
    }
    trainer = ppo_trainer(models, job.prompts, 0, **options, **PLAIN)
    laps = PPOLaps(module, trainer, job.device)

    def run():
        trainer.train()
        seconds = np.diff(laps.times).tolist()
        parts = dict(zip(("rollout", "scoring", "update"), seconds, strict=True))
        return parts | {"whole": laps.times[-1] - laps.times[0]}, laps.response_tokens

    return run


class PPOLaps:
    """Clocks TRL's PPOTrainer: `times` are when it begins to sample, when it begins to score, when
    it shuffles for the first epoch, and when it logs. Replaces functions in TRL's module."""

    def __init__(self, module, trainer, device):
        self.device, self.times, self.response_tokens = device, [], 0
        self.generate, self.permute = module.batch_generation, np.random.permutation
        module.batch_generation, module.np.random.permutation = self.sample, self.shuffle
        trainer.log = lambda _: self.times.append(wall_clock(device))

    def sample(self, model, queries, *rest):
        self.times = [wall_clock(self.device)]
        rollout = self.generate(model, queries, *rest)
        self.times.append(wall_clock(self.device))
        self.response_tokens = count_tokens(rollout[0][:, queries.size(1) :])
        return rollout

    def shuffle(self, *parameters):
        if len(self.times) == 2:
            self.times.append(wall_clock(self.device))
        return self.permute(*parameters)


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
