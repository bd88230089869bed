"""What is wrong with a run, from metrics.jsonl and microscope.jsonl, and what to try.

    minirlhf doctor out/ppo    one run; without a folder all stages in out/

The signs of run/health.py, which a run warns of by itself, and rules that look at the whole run:
numbers that are equal by definition, or on average, and are not. Where PPO has recorded tokens, it
computes again what they should have. docs/seeing.md has the mistakes that all this was tried on.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from minirlhf.run import chain, config, health
from minirlhf.run.config import InputError, flag
from minirlhf.run.metrics import read_metrics
from minirlhf.tools import checks, microscope, token_checks

STAGES = ("pretrain", "sft", "rm", "ppo", "on-judge/ppo", "dpo")


@dataclass(frozen=True)
class Config:
    """Say what is wrong with a run, and what to try."""

    run: str = flag("out", "folder of a run, or of all stages", by_place=True)


class Rule(NamedTuple):
    check: Callable  # -> the numbers in the sentence; see checks.py and token_checks.py
    sentence: str

    @property
    def name(self):
        return self.check.__name__


# ---- the table

RULES = (
    Rule(
        checks.starts_elsewhere,
        "before the first update the KL is {kl:.2g} nats, and 0 if the policy starts as the "
        "reference: the two are scored differently (columns, temperature, precision, dropout), or "
        "the log-probabilities are changed before they are logged",
    ),
    Rule(
        checks.no_reference,
        "the KL stays exactly 0 while the policy changes: the reference is the policy itself; give "
        "the frozen SFT model",
    ),
    Rule(
        checks.kls_differ,
        "k1 and k3 estimate one KL and are {kl:.2g} and {k3:.2g} nats on average: what is scored "
        "was not sampled from the policy (top-k, top-p, another temperature, responses changed "
        "afterwards), or one of the two is computed wrongly",
    ),
    Rule(
        checks.entropies_differ,
        "-log p of the sampled tokens is {sampled:.2g} nats on average, and the entropy "
        "{entropy:.2g}: tokens are sampled from another distribution than is scored (temperature, "
        "top-k, top-p), or padding counts in one of the two",
    ),
    Rule(
        checks.ratios_off,
        "the update with the smallest learning rate, {lr:.2g}, moves a token by {kl:.2g} nats, as "
        "far as others: the ratios do not start at 1; give the update the temperature, the columns "
        "and the dropout of the old log-probabilities",
    ),
    Rule(
        checks.ratios_one,
        "every ratio is exactly 1, though a rollout has several optimiser steps: it has one, or "
        "the old log-probabilities are computed again after each; look at --epochs, --minibatches",
    ),
    Rule(
        checks.update_kls_differ,
        "approx_kl_k3 is {quotient:.2g} x approx_kl in small steps, where they are equal: a sign "
        "is wrong, or padding counts in one of them",
    ),
    Rule(
        checks.ratio_variance_differs,
        "the variance of the ratio is {quotient:.2g} x approx_kl in small steps, where it is twice "
        "it: padding counts in one of them",
    ),
    Rule(
        checks.shifted_advantages,
        "the policy loss is {loss:.2g}, and near 0 if the advantages have mean 0: they are not "
        "whitened over the response tokens of the whole rollout, once",
    ),
    Rule(
        checks.scores_lost,
        "the scores differ by {spread:.2g} (standard deviation) and the returns hardly: the score "
        "is not added at the last response token",
    ),
    Rule(
        checks.wrong_objective,
        "rlhf_reward is not score - kl_coef x kl: the penalty has the wrong sign or another unit",
    ),
    Rule(
        checks.wrong_returns,
        "returns are not values + advantages before whitening, so that the values learn another "
        "target: whiten after the returns are computed",
    ),
    Rule(
        checks.stuck_controller,
        "the KL is {kl:.2g} nats, above --kl-target {target:.2g}, and kl_coef ({coef:.2g}) does "
        "not rise: give the controller the KL per response, and use what it returns",
    ),
    Rule(
        checks.no_missing_end,
        "responses are cut off and keep their own score: apply the missing-end score, or the "
        "policy learns not to end",
    ),
    Rule(
        checks.paid_for_no_end,
        "being cut off raises the score by {gain:.2g} on average: put --missing-end-score well "
        "below any other score",
    ),
    Rule(
        checks.never_ends,
        "all responses have the largest length and none ends: stop sampling at the end token, and "
        "have SFT learn it (it is a label of each response)",
    ),
    Rule(
        checks.length_moves,
        "the responses had {first:.3g} tokens and have {last:.3g}: length is what is rewarded; "
        "read the samples, and compare the reward of long and short responses",
    ),
    Rule(
        checks.too_slow,
        "the policy hardly moves: raise --lr ({lr:.1g} at its peak)",
    ),
    Rule(
        checks.held_too_hard,
        "the penalty holds the policy where it was: lower --kl-coef ({coef:.2g})",
    ),
    Rule(
        checks.no_penalty,
        "kl_coef is 0 and nothing holds the policy near the reference: unless the reward cannot "
        "be deceived, use --kl-coef 0.05 or --kl-target",
    ),
    Rule(
        checks.warms_up_for_ever,
        "{steps} updates end in the warm-up of {warmup}: the learning rate reaches {share:.0%} of "
        "its peak; raise --updates or lower --warmup",
    ),
    Rule(
        checks.growing_gradients,
        "the gradient norm grew from {first:.2g} to {last:.2g}: gradients are not cleared after a "
        "step, or training diverges; call zero_grad, lower --lr",
    ),
    Rule(
        checks.no_better_than_chance,
        "the reward model orders {accuracy:.1%} of {pairs:.0f} held-out pairs as people did, no "
        "better than a coin: more comparisons, a better SFT model, or a look at the labels",
    ),
    Rule(
        checks.no_better_than_words,
        "the held-out accuracy, {accuracy:.1%}, is not above the baselines (shorter wins, bag of "
        "words) at {baseline:.1%}: PPO would learn words or length; get more or clearer "
        "comparisons",
    ),
    Rule(
        checks.too_sure,
        "the reward model is surer than it is right (calibration error {error:.2f}): fewer "
        "--epochs, a lower --lr, more comparisons",
    ),
    Rule(
        checks.overfitted,
        "the held-out loss fell to {least:.3g} and rose to {last:.3g}: stop earlier, fewer "
        "--epochs or a lower --lr",
    ),
)


TOKEN_RULES = (
    Rule(
        token_checks.wrong_penalty,
        "the reward of tokens before the last is not -kl_coef x (log p - reference), it differs by "
        "up to {gap:.2g}: {form}",
    ),
    Rule(
        token_checks.misplaced_score,
        "the score is {tokens} tokens before the last token of a response: add it at the last one, "
        "the end token included",
    ),
    Rule(
        token_checks.wrong_advantages,
        "the advantages are not those of generalised advantage estimation on these rewards and "
        "values: {form}",
    ),
    Rule(
        token_checks.wrong_whitening,
        "the whitened advantages are not (advantage - {mean:.2g}) / {spread:.2g}: take mean and "
        "standard deviation {form}",
    ),
    Rule(
        token_checks.no_end_token,
        "all {responses} recorded responses that ended lack the end token: include it in the "
        "response and its mask, or the policy does not learn when to end",
    ),
    Rule(
        token_checks.length_is_score,
        "the rewards of {responses} recorded responses go with their lengths (correlation "
        "{correlation:.2f}), and PPO will learn that: compare long and short responses in the data "
        "of the reward model, or change the reward",
    ),
    Rule(
        token_checks.tokens_after_the_end,
        "{tokens} tokens stand after an end token and are trained on: stop a response at its end",
    ),
)


def examine(records, flags, views=()):
    """{name: (step, text)}: the signs of health.py with the step of their first appearance, the
    rules that apply, with the last step, and those on recorded tokens, with their update. `views`
    are the lines of microscope.jsonl."""
    found = health.diagnose(records)
    for rule in RULES:
        numbers = rule.check(records, flags)
        if numbers is not None:
            found[rule.name] = records[-1]["step"], rule.sentence.format(**numbers)
    for rule in TOKEN_RULES:
        for view, record in recorded_updates(records, views):
            numbers = rule.check(view, record, flags)
            if numbers is not None and rule.name not in found:
                found[rule.name] = view["step"], rule.sentence.format(**numbers)
    return found


def recorded_updates(records, views):
    """Pairs (view, metrics of its update), and last all responses together, without metrics: four
    responses are few."""
    by_step = {record["step"]: record for record in records}
    pairs = [(view, by_step.get(view["step"], {})) for view in views]
    if len(views) > 1:
        responses = [response for view in views for response in view["responses"]]
        pairs.append(({"step": views[-1]["step"], "responses": responses}, {}))
    return pairs


def flags_of(folder):
    """The flags of a run that are numbers, {} where they are not known."""
    return numbers(chain.stored_flags(folder))


# ---- the command


def main(argv=None):
    args = config.parse(Config, argv)
    runs = find_runs(args.run)
    for folder, records in runs.items():
        found = examine(records, flags_of(folder), microscope.read(folder))
        ending = "nothing wrong found" if not found else f"{len(found)} found"
        print(f"{folder}, {records[-1]['step'] + 1} steps: {ending}")
        for name, (step, text) in found.items():
            print(f"  {name}, seen at step {step}: {text}")


def find_runs(folder):
    """{folder: records}: the run in a folder, or those of the stages in it. InputError if there is
    no run."""
    places = [Path(folder), *(Path(folder) / stage for stage in STAGES)]
    runs = {place: read_metrics(place) for place in places}
    runs = {place: records for place, records in runs.items() if records}
    if not runs:
        raise InputError(
            f"{folder}: no metrics.jsonl with a line in it, neither here nor in a folder of a "
            f"stage ({', '.join(STAGES)}); name the folder of a run"
        )
    for place in places:
        if place not in runs and (place / "metrics.jsonl").exists():
            print(f"{place}: metrics.jsonl has no line that can be read; left out", file=sys.stderr)
    return runs


def numbers(record):
    """A record of flags without what somebody may have put into it."""
    return {
        name: x if x is not None and math.isfinite(x) else None
        for name, x in record.items()
        if x is None or isinstance(x, float | int)
    }


if __name__ == "__main__":
    config.run(main)
