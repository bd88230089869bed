"""Signs of a sick run: functions from the records of metrics.jsonl to a line that says what to do.

A sign is a function of a run's records in the order of their steps, from its first one on. It
returns "" where the last records are healthy, or lack its metrics. docs/metrics.md has the
thresholds beside healthy numbers, and their reasons.
"""

import math
import sys

from tqdm import tqdm

WINDOW = 10  # the most records that a sign averages over
CUT_OFF = 0.25  # the share of unfinished responses from which the missing-end score decides


# ---- signs, of the records of a run


def recent(records, name, n=1):
    """The mean of a metric over the last n records that have it; NaN, which is neither above nor
    below a threshold, if there are fewer. A metric that was not finite is None in a record."""
    values = [record[name] for record in records if record.get(name) is not None][-n:]
    return sum(values) / n if len(values) == n else math.nan


def runaway_kl(records):
    kl, length = recent(records, "kl", 5), recent(records, "length", 5)
    if kl > max(10, length / 2):
        return (
            f"the KL from the reference is {kl:.0f} nats a response, and nothing holds the policy: "
            "raise --kl-coef or lower --lr"
        )
    return ""


def collapsed_entropy(records):
    first, entropy = recent(records[:1], "entropy"), recent(records, "entropy", 5)
    if entropy < first / 10:
        return (
            f"the entropy fell from {first:.2g} to {entropy:.2g} nats a token, and all responses "
            "to a prompt become one: raise --kl-coef, lower --lr, or stop earlier"
        )
    return ""


def unfinished_responses(records):
    unfinished = 1 - recent(records, "ended")
    if unfinished > CUT_OFF:
        return (
            f"{unfinished:.0%} of the responses are unfinished and get the missing-end score, "
            "whatever they say: raise --max-new-tokens, or train SFT on responses that end"
        )
    return ""


def zero_advantages(records):
    if recent(records, "advantage_std") < 1e-4:
        return (
            "all advantages are 0, and there is nothing to learn from: the reward is the same for "
            "every response; look at the scores and the samples"
        )
    return ""


def idle_critic(records):
    if len(records) < WINDOW or recent(records, "step") < 19:
        return ""
    explained = recent(records, "explained_variance", WINDOW)
    spread, target = (recent(records, name, WINDOW) for name in ("value_var", "return_var"))
    if explained < -0.5 or spread < target / 1000:
        return (
            f"the value function does not learn: it explains {explained:.0%} of the variance of "
            "the returns; change --vf-coef, raise --value-clip, or try --critic separate"
        )
    return ""


def large_steps(records):
    clipped, kl = recent(records, "clip_fraction", 5), recent(records, "approx_kl", 5)
    if clipped > 0.3 or kl > 0.1:
        return (
            f"the steps are too large: the clip stops {clipped:.0%} of the gradients, and an "
            f"update moves a token by {kl:.2g} nats; lower --lr or --epochs"
        )
    return ""


def unknown_scores(records):
    mean, spread, largest, ended = (
        recent(records[:1], name) for name in ("score", "score_std", "score_max", "ended")
    )
    score = recent(records, "score", 3)
    if score > max(largest, mean + 4 * spread) and 1 - ended <= CUT_OFF:
        return (
            f"the mean score, {score:.2g}, is above every score of the first rollout: a reward "
            "model was not trained on such responses; read the samples, raise --kl-coef, or stop "
            "earlier"
        )
    return ""


def growing_loss(records):
    first, loss = recent(records[:1], "loss"), recent(records, "loss", WINDOW)
    if "policy_loss" not in records[0] and loss > 1.5 * max(first, 0.7):
        return (
            f"the loss rose from {first:.2g} to {loss:.2g}: training diverges; lower the learning "
            "rate"
        )
    return ""


def large_weights(records):
    size = recent(records, "weight_rms")
    if size > 1:
        return (
            f"the weights explode: their root mean square is {size:.2g}, and far below 1 in a "
            "healthy model; lower the learning rate and start again from the last good model"
        )
    return ""


def narrow_scores(records):
    spread = recent(records, "score_spread")
    if spread < 0.01:
        return (
            f"the scores of the SFT model's responses to a prompt differ by {spread:.1g} only, and "
            "are magnified to 1: where there is one single answer, a score means nothing; train "
            "SFT on more varied answers or for fewer steps"
        )
    return ""


SIGNS = (
    *(runaway_kl, collapsed_entropy, unfinished_responses, zero_advantages, idle_critic),
    *(large_steps, unknown_scores, growing_loss, large_weights, narrow_scores),
)


# ---- signs that are there before the first step


def short_run(steps, warmup, longer="use more data or --epochs"):
    if steps < warmup:
        return (
            f"{steps} steps end in the warm-up of {warmup}: the learning rate reaches at most "
            f"{steps / warmup:.0%} of its peak; {longer}, or lower --warmup"
        )
    return ""


def long_answers(lengths, max_new_tokens):
    """`lengths`: response tokens of the data, end token included."""
    share = sum(length > max_new_tokens for length in lengths) / max(len(lengths), 1)
    if share > CUT_OFF:
        enough = sorted(lengths)[math.ceil(0.95 * len(lengths)) - 1]
        return (
            f"{share:.0%} of the data's responses have more than {max_new_tokens} tokens, and a "
            "policy that imitates them is cut off, so that the missing-end score decides: give "
            f"every stage --max-new-tokens {enough}, which 95% fit"
        )
    return ""


# ---- what is said of them


class Watch:
    """The signs of a run, each once. `records` are what a resumed run has logged already."""

    def __init__(self, records=()):
        self.records, self.known = [*records[:1], *records[1:][-WINDOW:]], set()

    def signs(self, record):
        """{name: what to do}: the signs that appear with this record for the first time."""
        self.records = [*self.records[:1], *self.records[1:][-WINDOW:], record]
        texts = {sign.__name__: sign(self.records) for sign in SIGNS}
        new = {name: text for name, text in texts.items() if text and name not in self.known}
        self.known |= set(new)
        return new

    def see(self, record):
        for text in self.signs(record).values():
            warn(f"step {record['step']}: {text}")


def diagnose(records):
    """{name of a sign: (its first step, what to do)}, of all records of a run."""
    watch = Watch()
    signs = [(record["step"], watch.signs(record)) for record in records]
    return {name: (step, text) for step, new in signs for name, text in new.items()}


def warn(text):
    """One line on stderr, above a progress bar; nothing if there is no text."""
    if text:
        tqdm.write(f"warning: {text}", file=sys.stderr)
