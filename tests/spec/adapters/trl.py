"""TRL 1.12.0, the last release with PPO (trl.experimental.ppo). In its own virtual environment:

    pip install -c requirements.txt trl==1.12.0 torch numpy tiktoken tqdm pytest hypothesis
    python -m pytest tests/spec --impl tests/spec/adapters/trl.py

PPOTrainer.train computes KL, rewards, advantages and both losses inline, so that only `trace` sees
them: it runs train() for one batch on models that are tables. For TRL a response ends in the first
padding after its end, where its score and one more value are; `trace` therefore returns all columns
as they are and fills none with zeros. The batch is one microbatch, the default of TRL. A missing
end costs TRL `missing_eos_penalty`, subtracted from the score: its nearest to missing_end_score.

masked_mean and masked_whiten are functions; what the latter leaves outside the mask is filled with
zeros, as train() does next. The losses of reward model and DPO are methods of their trainers,
called on stand-ins for trainer and model. The model returns scores, or log-probabilities: the part
of DPO that reads logits is stubbed, because these sentences begin with log-probabilities.

Not offered, because no function computes it: kl_k3, token_rewards, gae, policy_loss, value_loss,
missing_end_rule. Absent: rankings, margins, calibration, an adaptive KL coefficient.
"""

import sys
import tempfile
from collections import defaultdict
from types import SimpleNamespace
from unittest.mock import patch

import torch
import torch.nn.functional as F
from spec.adapters.tables import Table, Watched, filled, in_place, left_padded, width
from trl import DPOTrainer, RewardTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer
from trl.experimental.ppo.ppo_trainer import masked_mean  # noqa: F401


def whiten(x, mask, shift_mean=True):
    return torch.where(mask, ppo_trainer.masked_whiten(x, mask, shift_mean), 0.0)


def stand_in(**settings):
    """The part of a trainer that its loss uses: in training, one process, a place for metrics."""
    return SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(device="cpu", gather=same, gather_for_metrics=same),
        _total_train_tokens=0,
        _metrics={"train": defaultdict(list)},
        **settings,
    )


def same(x):
    return x


def preference_loss(chosen, rejected, margin=0.0):
    trainer = stand_in(args=SimpleNamespace(center_rewards_coefficient=None))
    output = SimpleNamespace(logits=torch.cat([chosen, rejected])[:, None])
    inputs = {"attention_mask": torch.ones(1), "margin": margin}
    return RewardTrainer.compute_loss(trainer, lambda **_: output, inputs)


def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    return direct_loss("sigmoid", 1, chosen, rejected, ref_chosen, ref_rejected, beta)


def ipo_loss(chosen, rejected, ref_chosen, ref_rejected, tau):
    """With responses of two tokens: it divides by their number, which a single one would hide."""
    return direct_loss("ipo", 2, chosen, rejected, ref_chosen, ref_rejected, tau)


def direct_loss(name, tokens, chosen, rejected, ref_chosen, ref_rejected, beta):
    """Prompts of one token, and responses whose first token has the log-probability of the whole
    response; the others are certain."""
    trainer = stand_in(
        beta=beta,
        precompute_ref_logps=True,
        loss_types=[name],
        loss_weights=[1.0],
        f_divergence_type="reverse_kl",
        label_smoothing=0.0,
        ld_alpha=None,
        aux_loss_enabled=False,
        use_weighting=False,
    )
    ones = torch.ones(2 * len(chosen), tokens + 1, dtype=torch.long)
    inputs = dict.fromkeys(("input_ids", "attention_mask"), ones)
    inputs["completion_mask"] = (ones.cumsum(1) > 1).long()
    inputs |= {"ref_chosen_logps": ref_chosen, "ref_rejected_logps": ref_rejected}
    first = torch.cat([chosen, rejected])[:, None, None]
    output = SimpleNamespace(logits=F.pad(first, (0, 0, 0, tokens)))
    module = sys.modules[DPOTrainer.__module__]
    with patch.object(module, "selective_log_softmax", lambda logits, _: logits[..., 0].clone()):
        loss = DPOTrainer._compute_loss(trainer, lambda **_: output, inputs, return_outputs=False)
    names = {"chosen_reward": "chosen", "rejected_reward": "rejected", "accuracy": "accuracies"}
    metrics = trainer._metrics["train"]
    return loss, {name: metrics[f"rewards/{key}"][0] for name, key in names.items()}


class Model(Table):
    """What TRL uses of policy, reference, value and reward model."""

    base_model_prefix, is_gradient_checkpointing = "backbone", False
    config, generation_config = None, SimpleNamespace()

    def __init__(self, case, answers, beyond=0.0):
        super().__init__(case, answers, beyond)
        self.backbone, self.score = self.forward, lambda hidden: hidden

    def forward(self, input_ids, attention_mask, position_ids, **_):
        answer = self.read(input_ids, attention_mask, position_ids)
        return SimpleNamespace(logits=answer, hidden_states=[answer])

    def generate(self, input_ids, generation_config, **_):
        """The given responses, then end tokens. In transformers, `scores` are tempered logits."""
        sequences = torch.cat([input_ids, filled(self.case, self.case.end_token)], dim=1)
        scores = self.generation() / generation_config.temperature
        return SimpleNamespace(sequences=sequences, scores=scores.unbind(1))


SETTINGS = {
    "num_mini_batches": "minibatches",
    "num_ppo_epochs": "epochs",
    "cliprange": "clip",
    "cliprange_value": "value_clip",
    **{name: name for name in ("temperature", "kl_coef", "gamma", "lam", "vf_coef")},
}
PLAIN = {
    "num_sample_generations": 0,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "stop_token": "eos",
}


def settings(case, folder):
    B = len(case.prompts)
    rows = case.rows_at_once or B
    numbers = {name: getattr(case, field) for name, field in SETTINGS.items()}
    numbers |= {"response_length": width(case), "total_episodes": B}
    numbers |= {"per_device_train_batch_size": rows, "gradient_accumulation_steps": B // rows}
    if case.missing_end_score is not None:
        numbers["missing_eos_penalty"] = -case.missing_end_score
    return PPOConfig(output_dir=folder, **numbers, **PLAIN)


def trace(case):
    B, pad = len(case.prompts), case.vocab_size
    queries = left_padded(case.prompts, pad)
    policy, reference = Model(case, case.logits), Model(case, case.ref_logits)
    value = Model(case, case.values[:, :, None], beyond=1.0)
    reward = Model(case, case.values[:, :, None])
    reward.table.data[:] = case.scores[:, None, None]  # wherever it is read
    optimizer = Watched([policy.table, value.table], lr=case.lr)
    local_variables, metrics = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOTrainer(
            settings(case, folder),
            SimpleNamespace(eos_token_id=case.end_token, pad_token_id=pad),
            policy,
            reference,
            reward,
            range(2 * B),  # two batches, because accelerate always steps in the last one
            value,
            data_collator=lambda _: {"input_ids": queries},
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
        )
        backward = trainer.accelerator.backward

        def watched(loss):
            if not local_variables:  # of train() at its first loss: all that it computed before
                local_variables.update(sys._getframe(1).f_locals)
            backward(loss)

        trainer.accelerator.backward, trainer.log = watched, metrics.update
        trainer.train()
    names = ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns")
    stats = {"approx_kl": "approxkl", "clip_fraction": "clipfrac", "entropy": "entropy"}
    return {name: local_variables[name][:, : case.max_new_tokens] for name in names} | {
        "loss": local_variables["loss"].detach(),
        "logits_gradient": in_place(optimizer.first[0], case),
        "values_gradient": in_place(optimizer.first[1], case)[:, :, 0],
        "optimizer_steps": optimizer.steps,
        "stats": {name: metrics[f"policy/{key}_avg"] for name, key in stats.items()}
        | {"ratio_mean": metrics["val/ratio"]},
    }
