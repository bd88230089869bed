"""Over-optimisation in numbers: what the truth says of policies that chase a proxy of it.

d is the square root of KL(policy || SFT model), in nats; R is the true score minus the SFT model's.
Gao, Schulman and Hilton 2022 fit two forms, both linear in alpha and beta, both 0 at d = 0:

    best-of-n    R = d (alpha - beta d)
    rl           R = d (alpha - beta log d)
"""

import math

import numpy as np

BENDS = {"best-of-n": lambda d: d, "rl": np.log}  # form -> what beta is multiplied with, beside d
NEAREST = 0.3  # the rl form is infinitely steep at 0: points with a smaller d are left out of fits


# ---- best of n


def best_of_n(proxies, golds, ns):  # (P, N), (P, N), K numbers -> (P, K)
    """For each prompt and each n the expected gold of the response with the highest proxy among n,
    from its N responses: the mean over all their subsets of n, which has no bias. Gold i in rising
    order of the proxy counts as often as n - 1 others lie below it. Of equal proxies, the one that
    stands later counts as higher."""
    order = np.argsort(proxies, axis=1, kind="stable")
    N = order.shape[1]
    counts = [[math.comb(below, n - 1) / math.comb(N, n) for below in range(N)] for n in ns]
    return np.take_along_axis(np.asarray(golds, dtype=float), order, 1) @ np.array(counts).T


def best_of_n_law(law, n):  # (K,) probabilities in rising order of the proxy -> (K,)
    """The law of the best of n draws, which may be equal."""
    return np.diff(np.cumsum(law) ** n, prepend=0.0)


def tied_kl(proxies, n):  # (P, N) -> float
    """KL(best-of-n || sampler) in nats, mean over prompts, with ties: the law of the responses to a
    prompt is that of its N samples, and equal proxies are one response. `evaluate.best_of_n_kl` is
    larger: it holds without ties."""
    laws = [np.unique(row, return_counts=True)[1] / len(row) for row in np.asarray(proxies)]
    bests = [best_of_n_law(law, n) for law in laws]
    return float(np.mean([(b * np.log(b / a)).sum() for a, b in zip(laws, bests, strict=True)]))


# ---- the two forms


def predict(d, alpha, beta, form):  # (K,) -> (K,)
    """R at d, by a form."""
    d = np.asarray(d, dtype=float)
    return d * (alpha - beta * BENDS[form](d))


def fit(d, R, form):  # (K,), (K,) -> (alpha, beta), float
    """Least squares over the points with d at least NEAREST, and the sum of the squared residuals.
    NaN with fewer than two such points."""
    d, R = (np.asarray(x, dtype=float)[np.asarray(d) >= NEAREST] for x in (d, R))
    if len(d) < 2:
        return (math.nan, math.nan), math.nan
    columns = np.stack([d, -d * BENDS[form](d)], 1)
    coefficients = np.linalg.lstsq(columns, R, rcond=None)[0]
    residuals = R - columns @ coefficients
    return tuple(coefficients.tolist()), float(residuals @ residuals)


def peak(alpha, beta, form):
    """(d, R) where R is largest; NaN where it only rises, which is so with beta at most 0."""
    if not beta > 0:
        return math.nan, math.nan
    d = alpha / (2 * beta) if form == "best-of-n" else math.exp(alpha / beta - 1)
    return d, float(predict(d, alpha, beta, form))


def bootstrap(statistic, clusters, rng, draws=1000):  # (P,) labels -> (2, ...)
    """The 95% interval of `statistic(rows)`, a number or an array, over prompts: its 2.5% and 97.5%
    quantiles where whole clusters are drawn with replacement. Prompts with one label may depend on
    one another, see `evaluate.interval`."""
    _, numbers = np.unique(clusters, return_inverse=True)
    members = [np.flatnonzero(numbers == number) for number in range(numbers.max() + 1)]
    draw = (rng.integers(len(members), size=len(members)) for _ in range(draws))
    values = [statistic(np.concatenate([members[i] for i in chosen])) for chosen in draw]
    return np.quantile(np.array(values), (0.025, 0.975), axis=0)
