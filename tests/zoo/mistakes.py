"""Rewards that teach nothing, or the wrong thing: --reward mistakes:NAME of sick_runs.py."""


def constant(prompts, responses):
    return [0.0 for _ in responses]


def length(prompts, responses):
    return [len(response) / 40 for response in responses]
