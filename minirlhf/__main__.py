"""One command for everything that can be run.

    minirlhf                 lists the commands
    minirlhf NAME --help     explains the flags of one
    minirlhf NAME ...        runs it

`python -m minirlhf` is the same command.
"""

import difflib
import importlib
import os
import sys
from typing import NamedTuple

from minirlhf.run import config


class Command(NamedTuple):
    module: str  # imported when the command is chosen: the list must not wait for torch
    summary: str


COMMANDS = {
    "sft": Command("train_sft", "stage 1: pretrain a GPT and fine-tune it on demonstrations"),
    "rm": Command("train_rm", "stage 2: train a reward model on ranked responses"),
    "ppo": Command("train_ppo", "stage 3: improve the SFT model by PPO on a reward model"),
    "dpo": Command("minirlhf.tools.dpo", "train on comparisons directly, without a reward model"),
    "demonstrations": Command(
        "minirlhf.tools.demonstrations",
        "reward and policy from demonstrations: AfD, GAF, SPIN",
    ),
    "rejection": Command(
        "minirlhf.tools.rejection", "imitate the best of the policy's own responses"
    ),
    "meta": Command("minirlhf.tools.meta", "MetaRM: a reward model for a policy that has moved on"),
    "rounds": Command(
        "minirlhf.tools.rounds", "sample, label, reward model, PPO, several times over"
    ),
    "ai": Command("minirlhf.tools.ai", "a language model as the labeller, checked and at work"),
    "label": Command("minirlhf.tools.label", "people choose the better of two responses"),
    "taste": Command(
        "minirlhf.tools.taste", "your taste: label, reward model, PPO, in ten minutes"
    ),
    "choice": Command("minirlhf.tools.choice", "which pairs to ask about: an experiment"),
    "judgements": Command(
        "minirlhf.tools.judgements", "choices, ratings and flags: an experiment, or your labels"
    ),
    "evaluate": Command("minirlhf.tools.evaluate", "compare two checkpoints on held-out prompts"),
    "evaluate-rm": Command(
        "minirlhf.tools.evaluate_rm", "accuracy and calibration of a reward model on comparisons"
    ),
    "sample": Command("minirlhf.tools.sample", "responses to a file of prompts, as JSON Lines"),
    "chat": Command("minirlhf.tools.chat", "talk to a checkpoint, or to two side by side"),
    "export": Command("minirlhf.tools.export", "a run as a folder that transformers opens"),
    "import": Command("minirlhf.tools.importing", "a GPT-2 folder of transformers as a run"),
    "formats": Command("minirlhf.tools.formats", "the forms of records that --data may have"),
    "convert": Command("minirlhf.tools.convert", "records of any form as JSON Lines of our own"),
    "web": Command("minirlhf.tools.web", "a page in the browser: label, chat, look at a run"),
    "report": Command("minirlhf.tools.report", "the results of one run on the embedded world"),
    "page": Command("minirlhf.tools.page", "a page about any run, for a browser"),
    "doctor": Command("minirlhf.tools.doctor", "what is wrong with a run, and what to try"),
    "results": Command("minirlhf.tools.results", "the results of several seeds, with figures"),
    "methods": Command(
        "minirlhf.tools.methods", "every method on the same ground: table and figure"
    ),
    "overoptimisation": Command(
        "minirlhf.tools.overoptimisation", "how far the truth follows an optimised reward model"
    ),
    "gates": Command("minirlhf.tools.gates", "four checks to make before trusting a PPO run"),
    "rewards": Command(
        "minirlhf.tools.rewards", "PPO on other rewards, side by side: ensembles, PAR, credit"
    ),
    "demo": Command("minirlhf.tools.demo", "all stages on the embedded world, then the report"),
    "world": Command("minirlhf.tools.world", "print text of the embedded world"),
    "memory": Command("minirlhf.bench.memory", "the memory that a stage needs, estimated in parts"),
    "bench": Command("minirlhf.bench.speed", "the speed of every stage beside other libraries"),
    "scaling": Command("minirlhf.bench.scaling", "where the time of a PPO iteration goes"),
    "trl": Command("minirlhf.bench.trl_ppo", "the PPO run of a folder again, by TRL's trainer"),
}


def main(argv=None):
    """An unknown command is one line and exit code 2."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        with config.consoles():
            print(listing())
        return
    if name not in COMMANDS:
        print(f"error: {unknown(name)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"minirlhf {name}", *rest]  # the first word is what the usage line shows
    sys.path.append(os.getcwd())  # where --reward and --judge look for your own functions
    config.run(lambda: importlib.import_module(COMMANDS[name].module).main())


def listing():
    """The commands with a line each, in the order of a first run."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {command.summary}" for name, command in COMMANDS.items()]
    usage = "usage: minirlhf NAME ...      (minirlhf NAME --help explains the flags)"
    return "\n".join([usage, "", *lines])


def unknown(name):
    """The message for a name that is no command: the nearest one, if one is near, and all."""
    nearest = difflib.get_close_matches(name, COMMANDS, n=1)
    suggestion = f", did you mean {nearest[0]}?" if nearest else ";"
    return f"{name} is not a command{suggestion} choose one of {', '.join(COMMANDS)}"


if __name__ == "__main__":
    main()
