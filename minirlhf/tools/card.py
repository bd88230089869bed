"""The model card of an exported run: README.md with what it is, how it was trained, its numbers and
its limits, from config.json, metrics.jsonl and the report beside the run."""

import json
from pathlib import Path

from minirlhf.formats.tokenizer_json import BOUNDARY
from minirlhf.run import chain
from minirlhf.run.metrics import read_metrics, shorten

KINDS = {
    "pretrain": "a language model before fine-tuning",
    "sft": "a language model fine-tuned on demonstrations (SFT)",
    "ppo": "a language model trained by PPO against a reward model",
    "dpo": "a language model trained by DPO on comparisons",
    "rm": "a reward model trained on comparisons",
}
ROWS = {"pretrain": "base", "sft": "SFT", "ppo": "PPO", "dpo": "DPO"}  # of the report
FLAGS = ("seed", "epochs", "updates", "batch_size", "lr", "kl_coef", "beta", "temperature")
METRICS = {  # the ones that say what came out, by stage
    "pretrain": ("loss", "held_out_loss"),
    "sft": ("loss", "held_out_loss"),
    "rm": ("held_out_accuracy", "held_out_loss", "calibration_error", "agreement_with_judge"),
    "ppo": ("score", "kl", "ended", "length", "eval_score", "eval_kl", "eval_total"),
    "dpo": ("loss", "accuracy", "held_out_accuracy"),
}
POLICY = """```python
from transformers import pipeline

generator = pipeline("text-generation", FOLDER)
generator("Name a colour.\\n", do_sample=False, return_full_text=False)
```

The model reads a plain prompt and ends its response with `<|endoftext|>`.
Sampling is at temperature {temperature} from all ids, as in training; `do_sample=False` is greedy.
"""
REWARD = """```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModelForSequenceClassification.from_pretrained(FOLDER)
batch = tokenizer(prompts, responses, padding=True, return_tensors="pt")
scores = model(**batch).logits[:, 0]
```

A score is normalised: mean 0 over the SFT model's responses, and a standard deviation of 1
between responses to one prompt. It is read at `<|endoftext|>`, which the tokenizer appends, so it
is that of a finished response.{rule}

In one text, as `apply_chat_template` makes it, the noncharacters `{boundary}` stand between prompt
and response. The tokenizer cuts them out.
"""


def text(run, state):
    """The model card of the checkpoint `run`, whose content is `state`."""
    stage, shape = state["stage"], state["gpt"]
    folder, flags = chain.folder_of(run), chain.stored_flags(run)
    use = reward_use(state) if stage == "rm" else policy_use(flags)
    data = flags.get("data", "") or chain.WORLD if flags else "not known"
    numbers = sum(tensor.numel() for tensor in state["model"].values())
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {'text-classification' if stage == 'rm' else 'text-generation'}",
        f"tags: [minirlhf, rlhf, {'reward-model' if stage == 'rm' else stage}]",
        "---",
        "",
        f"# {markup(folder.resolve().name)}",
        "",
        f"This is {KINDS[stage]}, made with minirlhf: {shape['layers']} layers of "
        f"{shape['width']}, {shape['vocab_size']:,} ids ({state['tokenizer']}), a context of "
        f"{shape['context']} tokens, {numbers:,} numbers. It was trained on: {markup(data)}.",
        "",
        use,
        *table("Training", {name: flags[name] for name in FLAGS if flags.get(name) is not None}),
        *table("At the end of training", last_metrics(folder, stage)),
        *table("On held-out prompts (`minirlhf report`)", reported(folder, stage)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def policy_use(flags):
    return POLICY.format(temperature=flags.get("temperature") or 1.0)


def reward_use(state):
    number = state.get("missing_end_score")
    rule = "" if number is None else f" In training one without end counts {number:g}."
    return REWARD.format(rule=rule, boundary=BOUNDARY.encode("ascii", "backslashreplace").decode())


def table(title, values):
    """A heading and a Markdown table of numbers; nothing where there is none."""
    if not values:
        return []
    rows = [f"| {markup(str(name))} | {shown(value)} |" for name, value in values.items()]
    return [f"## {title}", "", "| | |", "|---|---|", *rows, ""]


def shown(value):
    return f"{value:.4g}" if isinstance(value, float) else markup(str(value))


def markup(text):
    """A text of the run on a line, in which nothing is Markdown or HTML."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#&" else c for c in shorten(text, 200))


def last_metrics(folder, stage):
    """The last value of each metric of METRICS in metrics.jsonl."""
    records = read_metrics(folder)
    last = {name: value for record in records for name, value in record.items()}
    values = {name: last[name] for name in METRICS[stage] if name in last}
    return {"step": last["step"], **values} if values else {}


def reported(folder, stage):
    """The row of this stage in the report beside the run, {} where there is none."""
    try:
        report = json.loads((Path(folder).parent / "report.json").read_text(encoding="utf-8"))
        row = report["reward_model"] if stage == "rm" else report["rows"][ROWS[stage]]
        return {name: value for name, value in row.items() if isinstance(value, int | float)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
