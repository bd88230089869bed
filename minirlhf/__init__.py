"""minirlhf: RLHF from scratch, in the order to read it.

config, tokenizer, model, huggingface, checkpoint, metrics, generate, data, world, reward, ppo, dpo, evaluate, gates, report,
results, workload, demo, peers, bench, scaling, trl. A module imports only from modules before it in this list.
"""
