"""What the doctor looks at in microscope.jsonl: one function a rule, from one recorded update, the
metrics of this update and the flags of the run to the numbers in the rule's sentence, None where
all is well.

Each computes again, from the columns before it, what PPO computed for the tokens of a response.
"""

import itertools
import math

PENALTIES = {  # what a token with this KL, in a response of n tokens, pays per kl_coef by mistake
    "the penalty has the wrong sign": lambda kl, n: -kl,
    "the penalty is k2": lambda kl, n: kl**2 / 2,
    "the penalty is k3": lambda kl, n: math.expm1(-kl) + kl,
    "the KL is clamped at 0": lambda kl, n: max(kl, 0),
    "the KL is divided by the length": lambda kl, n: kl / n,
    "there is no penalty": lambda kl, n: 0.0,
}


def close(a, b, tolerance=2e-3):
    """Equal, up to the rounding of float32 in sums over a response; null equals everything."""
    return None in (a, b) or abs(a - b) <= tolerance * max(1, abs(a), abs(b))


def unpaid(response, coef):
    """What each token's reward has beside the penalty: the score at the last, else 0."""
    pairs = zip(response["rewards"], response["kl"], strict=True)
    return [0.0 if None in pair else pair[0] + coef * pair[1] for pair in pairs]


def wrong_penalty(view, record, flags):
    coef = record.get("kl_coef")
    if coef is None:
        return None
    rests = [unpaid(response, coef)[:-1] for response in view["responses"]]
    wrong = [rest for rest in rests if sum(abs(x) > 1e-3 for x in rest) > 1]
    if wrong and len(wrong) > len(rests) / 4:
        gap = max(max(map(abs, rest)) for rest in wrong)
        forms = [form for form, pay in PENALTIES.items() if pays(view["responses"], coef, pay)]
        return {"gap": gap, "form": forms[0] if forms else f"look at the coefficient, {coef:.2g}"}


def pays(responses, coef, pay):
    """Whether all tokens before the last pay a penalty of this form."""
    for response in responses:
        n = len(response["kl"])
        for reward, kl in list(zip(response["rewards"], response["kl"], strict=True))[:-1]:
            if kl is not None and not close(reward, -coef * pay(kl, n)):
                return False
    return True


def misplaced_score(view, record, flags):
    coef = record.get("kl_coef")
    if coef is None:
        return None
    rests = [unpaid(response, coef) for response in view["responses"]]
    rests = [rest for rest in rests if len(rest) > 1]
    early = [rest for rest in rests if abs(rest[-1]) < 1e-3 < max(map(abs, rest[:-1]))]
    if rests and len(early) > len(rests) / 2:
        last = max(range(len(early[0])), key=lambda t: abs(early[0][t]))
        return {"tokens": len(early[0]) - 1 - last}


def wrong_advantages(view, record, flags):
    gamma, lam = flags.get("gamma"), flags.get("lam")
    if gamma is None or lam is None:
        return None
    for response in view["responses"]:
        if None in response["rewards"] + response["values"]:
            continue
        expected = generalised_advantages(response["rewards"], response["values"], gamma, lam)
        pairs = list(zip(expected, response["raw_advantages"], strict=True))
        if not all(close(a, b) for a, b in pairs):
            same = all(close(b, pairs[0][1]) for _, b in pairs)
            usual = "look at the value after the end (0), at shifts of rows or columns, at --gamma "
            return {"form": "all tokens have the same" if same else usual + "and --lam"}
    return None


def generalised_advantages(rewards, values, gamma, lam):
    """As ppo.gae, of one response."""
    advantages, next_value, advantage = [], 0.0, 0.0
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        advantage = reward + gamma * next_value - value + gamma * lam * advantage
        next_value = value
        advantages.append(advantage)
    return advantages[::-1]


def wrong_whitening(view, record, flags):
    mean, spread = record.get("advantage_mean"), record.get("advantage_std")
    if mean is None or not spread:
        return None
    for response in view["responses"]:
        pairs = zip(response["raw_advantages"], response["advantages"], strict=True)
        pairs = [(a, b) for a, b in pairs if a is not None]
        if not all(close((a - mean) / spread, b, 1e-2) for a, b in pairs):
            form = "over all response tokens of the rollout, once"
            own = all(map(is_own_whitening, view["responses"]))
            return {"mean": mean, "spread": spread, "form": form + ", not in each row" * own}
    return None


def is_own_whitening(response):
    """Whether the advantages of a response have mean 0 by themselves."""
    numbers = [a for a in response["advantages"] if a is not None]
    return abs(sum(numbers)) < 1e-2 * len(numbers)


def no_end_token(view, record, flags):
    finished = [r["tokens"] for r in view["responses"] if r["ended"] and r["tokens"]]
    if finished and not any(tokens[-1] == "" for tokens in finished):
        return {"responses": len(finished)}


def tokens_after_the_end(view, record, flags):
    """One in a response on average: a single one may be an id that stands for no text."""
    pairs = itertools.chain.from_iterable(
        itertools.pairwise(response["tokens"]) for response in view["responses"]
    )
    late = sum(a == "" for a, _ in pairs)
    if late >= len(view["responses"]):
        return {"tokens": late}


def length_is_score(view, record, flags):
    """The correlation of length and reward over at least twelve responses."""
    finite = [response for response in view["responses"] if None not in response["rewards"]]
    pairs = [(len(response["rewards"]), sum(response["rewards"])) for response in finite]
    means = [sum(column) / len(pairs) for column in zip(*pairs, strict=True)]
    centred = [(a - means[0], b - means[1]) for a, b in pairs]
    spread = (sum(a * a for a, _ in centred) * sum(b * b for _, b in centred)) ** 0.5
    covariance = sum(a * b for a, b in centred)
    if len(pairs) >= 12 and abs(covariance) > 0.85 * spread > 0:
        return {"correlation": covariance / spread, "responses": len(pairs)}
