"""minirlhf: RLHF from scratch.

The method, in the order to read it: tokenizer, model, lora, generate, data, reward, ppo, dpo, grpo,
evaluate, overoptimisation, beside the scripts train_sft.py, train_rm.py and train_ppo.py. fast
holds what makes model quick, and can be skipped; so can lora, which trains less of it.

The rooms: run (a run's flags, folder, metrics, device and optimiser), world (the embedded world),
formats (files -> records, and GPT-2's weights), feedback (who prefers), rewards (other rewards than
the reward model's), tools (what the command minirlhf runs), bench (speed beside other libraries).
"""
