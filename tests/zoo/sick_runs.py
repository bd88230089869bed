"""`python tests/zoo/sick_runs.py MODELS FOLDER [WORD ...]`: short PPO runs, healthy ones, ones with
an animal of the zoo let loose and ones with a mistake in their flags, and what the doctor finds.

MODELS holds sft and rm of the demonstration. The runs go to FOLDER/NAME/ppo; those that are there
are not made again. With words, only those whose name has one of them. Prints the table of
docs/seeing.md. Each run is a process of its own (os.fork), of one thread.
"""

import os
import sys
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from zoo import ZOO

ROOT = Path(__file__).parents[2]
OWN_PATHS = [str(ROOT / name) for name in ("", "tests", "tests/zoo", "docs/spec")]
COMMON = "--updates 20 --batch-size 48 --minibatches 4 --warmup 4 --eval-every 10 --held-out 16"
COMMON += " --prompts 1024 --threads 1 --keep 0 --overwrite --microscope 16"
CUT, COOL = "--max-new-tokens 20", "--temperature 0.7"
PARTS, TWICE = "--microbatch-tokens 128", "--epochs 2"
ADAPTIVE = "--kl-target 0.1 --kl-horizon 64"


class Run(NamedTuple):
    name: str  # of the animal, or of the mistake
    rule: str = ""  # that names the cause, if one can
    flags: str = ""


HEALTHY = [
    *(Run(f"healthy, seed {seed}", "", f"--seed {seed}") for seed in range(1, 6)),
    *(Run(f"healthy, {flags}", "", flags) for flags in (CUT, COOL, PARTS, TWICE, ADAPTIVE)),
    Run("healthy, --critic separate", "", "--critic separate"),
    Run("healthy, --lam 0.95", "", "--lam 0.95"),
]
MISTAKES = [
    Run("learning rate 100 times too large", "large_steps", "--lr 0.04"),
    Run("learning rate 10 times too large", "runaway_kl", "--lr 0.004"),
    Run("learning rate 1000 times too small", "too_slow", "--lr 4e-7"),
    Run("no KL penalty", "no_penalty", "--kl-coef 0"),
    Run("KL coefficient 100 times too large", "held_too_hard", "--kl-coef 10"),
    Run("no warm-up, 8 epochs", "large_steps", "--warmup 0 --epochs 8 --lr 0.002"),
    Run("fewer updates than warm-up", "warms_up_for_ever", "--warmup 400"),
    Run("unfinished responses are rewarded", "paid_for_no_end", f"{CUT} --missing-end-score 5"),
    Run("responses are cut off", "unfinished_responses", "--max-new-tokens 6"),
    Run("the value function does not learn", "idle_critic", "--vf-coef 0"),
    Run("a constant reward", "zero_advantages", "--reward mistakes:constant --missing-end-score 0"),
    Run("length is rewarded", "length_is_score", "--reward mistakes:length --missing-end-score 0"),
]
LOOSE = [
    Run("only the likeliest ids are sampled, but all are scored", "entropies_differ"),
    Run("the least likely 5% are never sampled, but are scored", "entropies_differ"),
    Run("sampling and scoring have different temperatures", "entropies_differ", COOL),
    Run("the update lacks the temperature", "ratios_off", COOL),
    Run("the temperature applies to sampling alone", "entropies_differ", COOL),
    Run("log-probabilities are used as probabilities", "entropies_differ"),
    Run(
        "sampling continues after the end token, and everything is trained on",
        "tokens_after_the_end",
    ),
    Run("the choice of the end token is not part of the response", "no_end_token"),
    Run("the end token is masked out", "misplaced_score"),
    Run("the entropy is that of another temperature", "entropies_differ", COOL),
    Run("a response that was cut off is scored as if it had ended", "no_missing_end", CUT),
    Run("there is no reference: KL is measured from the policy that sampled", "no_reference"),
    Run("divergence is rewarded", "wrong_penalty"),
    Run("the ratio in k3 is inverted", "kls_differ"),
    Run("the penalty in the reward is k3", "wrong_penalty"),
    Run("the penalty in the reward is k2", "wrong_penalty"),
    Run("the KL of a token is clamped at 0", "wrong_penalty"),
    Run("the KL penalty of a response is divided by its length", "wrong_penalty"),
    Run("the score lands on the token before the last", "misplaced_score"),
    Run("the score lands on the padding", "scores_lost"),
    Run("the KL is multiplied by the coefficient in place", "starts_elsewhere"),
    Run("the value of a token is read after the token", ""),
    Run("the value of a token is read from a mean over the whole row", ""),
    Run("the columns after the end have a value", ""),
    Run("values are shifted along the batch instead of the time", "wrong_advantages", "--lam 0.95"),
    Run("all tokens of a response get one advantage", "wrong_advantages"),
    Run("the returns contain whitened advantages", "wrong_returns"),
    Run("whitening adds the mean again", "wrong_whitening"),
    Run("every row is whitened by itself", "wrong_whitening"),
    Run("whitening includes the padding", "wrong_whitening"),
    Run("the policy loss takes a mask and ignores it", ""),
    Run("the value loss takes a mask and ignores it", ""),
    Run("old and new log-probabilities are counted from opposite ends", "starts_elsewhere"),
    Run("a rollout is used once, whatever the number of epochs", "", TWICE),
    Run("the number of minibatches has no effect", "ratios_one"),
    Run("every microbatch is an optimiser step", "", PARTS),
    Run("gradients remain for the next step", "growing_gradients"),
    Run("the means of microbatches are added up", "", PARTS),
    Run("the means of microbatches are averaged", "", PARTS),
    Run("the controller gets the KL of a token", "stuck_controller", ADAPTIVE),
    Run("the logged KL coefficient is the initial one", "stuck_controller", ADAPTIVE),
    Run("the KL of an update has the wrong sign", "update_kls_differ"),
    Run("padding dilutes approx_kl", "update_kls_differ"),
    Run("padding dilutes the ratio", "ratio_variance_differs"),
    Run("padding dilutes the entropy", "entropies_differ"),
    Run("every padding token counts as -1 nat of entropy", "entropies_differ"),
    Run("the logged KL is that of a token", "kls_differ"),
    Run("kl_div expects probabilities and gets their logarithms", "starts_elsewhere"),
    Run("the logged objective has the wrong sign of the penalty", "wrong_objective"),
]
RUNS = HEALTHY + MISTAKES + LOOSE


def folder_of(run, folder):
    words = "".join(c if c.isalnum() else " " for c in run.name).split()
    return Path(folder) / "-".join(words)


def train(run, models, folder):
    """The run, in a process of its own that says nothing. An error ends it: its metrics count."""
    from test_zoo import release

    import train_ppo

    if process := os.fork():
        os.waitpid(process, 0)
        return
    out = folder_of(run, folder)
    out.mkdir(parents=True, exist_ok=True)
    flags = [*COMMON.split(), *run.flags.split(), "--out", str(out)]
    flags += ["--sft", f"{models}/sft", "--rm", f"{models}/rm"]
    animal = next((animal for animal in ZOO if animal.name == run.name), None)
    cage = release(animal) if animal else nullcontext()
    with open(out / "log", "w") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            with cage:
                train_ppo.main(flags)
        except BaseException as error:
            print(f"stopped: {error!r}")
        log.flush()
    os._exit(0)


def main(models, folder, *words):
    runs = [run for run in RUNS if not words or any(word in run.name for word in words)]
    for run in runs:
        if not (folder_of(run, folder) / "log").exists():
            train(run, models, folder)
    print("| mistake | flags | the doctor finds | the cause among it |\n|---|---|---|---|")
    for run in runs:
        found = diagnosis(folder_of(run, folder) / "ppo")
        named = {True: "yes", False: "no"}[run.rule in found] if run not in HEALTHY else ""
        cells = [word if " " in word else f"`{word}`" for word in found]
        flags = run.flags and f"`{run.flags}`"
        name = run.name.split(", ")[0] if run in HEALTHY else run.name
        print(f"| {name} | {flags} | {', '.join(cells) or 'nothing'} | {named} |", flush=True)


def diagnosis(folder):
    """The names of what the doctor finds in a run."""
    from minirlhf.tools import doctor, microscope

    if not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").stat().st_size:
        return ["the run stops at its first update"]
    [records] = doctor.find_runs(folder).values()
    return list(doctor.examine(records, doctor.flags_of(folder), microscope.read(folder)))


if __name__ == "__main__":
    sys.path[:0] = OWN_PATHS
    main(*sys.argv[1:])
