"""The arithmetic of over-optimisation: golden numbers, invariances, limits."""

import itertools
import math

import numpy as np
import pytest

from minirlhf import evaluate
from minirlhf.tools import gao

PROXIES, GOLDS = np.array([[0.4, 0.1, 0.9, 0.6]]), np.array([[3.0, 1.0, 2.0, 0.0]])
DISTANCES = np.array([0.5, 1.0, 1.5, 2.0, 2.5])


def test_the_estimate_of_best_of_n_is_worked_by_hand():
    """In rising order of the proxy the golds are 1, 3, 0, 2; of two responses the best is the
    second in 1 of 6 pairs, the third in 2 and the fourth in 3."""
    expected = [[1.5, 1 / 6 * 3 + 1 / 3 * 0 + 1 / 2 * 2, 1.5, 2.0]]
    assert gao.best_of_n(PROXIES, GOLDS, (1, 2, 3, 4)) == pytest.approx(np.array(expected))


def test_the_estimate_is_the_mean_over_all_subsets():
    """So that it has no bias, and less noise than the best of the first n."""
    rng = np.random.default_rng(0)
    proxies, golds = rng.random((2, 7)), rng.random((2, 7))
    for n in range(1, 8):
        subsets = [list(s) for s in itertools.combinations(range(7), n)]
        for row, value in enumerate(gao.best_of_n(proxies, golds, [n])[:, 0]):
            bests = [golds[row, max(s, key=lambda i, r=row: proxies[r, i])] for s in subsets]
            assert value == pytest.approx(np.mean(bests))


def test_the_order_of_the_samples_and_the_scale_of_the_proxy_change_nothing():
    """Only the order of the proxies counts, within each prompt."""
    rng = np.random.default_rng(1)
    proxies, golds, order = rng.random((3, 8)), rng.random((3, 8)), rng.permutation(8)
    expected = gao.best_of_n(proxies, golds, (1, 4))
    assert gao.best_of_n(np.exp(5 * proxies), golds, (1, 4)) == pytest.approx(expected)
    assert gao.best_of_n(proxies[:, order], golds[:, order], (1, 4)) == pytest.approx(expected)


def test_the_law_of_the_best_of_n_draws_is_golden():
    """Of three responses with .5, .3 and .2, in rising order of their reward."""
    law = np.array([0.5, 0.3, 0.2])
    assert gao.best_of_n_law(law, 2) == pytest.approx([0.25, 0.39, 0.36])
    assert gao.best_of_n_law(law, 4) == pytest.approx([0.0625, 0.3471, 0.5904])


@pytest.mark.parametrize(("n", "kl"), [(1, 0), (2, 0.1406384675), (4, 0.5597505604)])
def test_ties_make_the_kl_of_best_of_n_smaller_than_its_formula(n, kl):
    """The same law, as ten samples: .1406 instead of .1931, .5598 instead of .6363."""
    proxies = [[1.0, 2, 1, 3, 1, 2, 1, 2, 3, 1]]
    assert gao.tied_kl(proxies, n) == pytest.approx(kl, abs=1e-9)
    assert kl <= evaluate.best_of_n_kl(n) + 1e-9


@pytest.mark.parametrize(
    ("form", "d", "R", "at_two"),
    [("best-of-n", 2.5, 1.25, 1.2), ("rl", 54.5981500331, 0.2 * 54.5981500331, 1.7227411278)],
)
def test_the_peak_of_a_form_is_golden(form, d, R, at_two):
    """alpha 1, beta .2. Where R only rises there is none."""
    assert gao.peak(1, 0.2, form) == pytest.approx((d, R))
    assert gao.predict(2, 1, 0.2, form) == pytest.approx(at_two)
    assert all(map(math.isnan, gao.peak(1, 0.0, form)))
    assert all(map(math.isnan, gao.peak(1, -0.2, form)))


def test_the_fit_returns_the_coefficients_of_its_own_form_and_a_residual_of_the_other():
    """alpha 1.1, beta .3, by the form of RL. Five points between .5 and 2.5 hardly tell the forms
    apart."""
    R = gao.predict(DISTANCES, 1.1, 0.3, "rl")
    coefficients, residual = gao.fit(DISTANCES, R, "rl")
    assert coefficients == pytest.approx((1.1, 0.3)) and residual == pytest.approx(0, abs=1e-12)
    coefficients, residual = gao.fit(DISTANCES, R, "best-of-n")
    assert coefficients == pytest.approx((1.2753046808, 0.1842476092))
    assert residual == pytest.approx(0.0064739424)


@pytest.mark.parametrize("form", gao.BENDS)
def test_points_near_the_start_are_left_out_of_a_fit(form):
    """The form of RL is infinitely steep there. With one point left there is no fit."""
    R = gao.predict(DISTANCES, 2, 0.5, form)
    d, R = np.append(DISTANCES, [0.0, 0.29]), np.append(R, [50.0, -50.0])
    assert gao.fit(d, R, form)[0] == pytest.approx((2, 0.5))
    assert math.isnan(gao.fit([0.1, 0.2, 0.4], [1, 2, 3], form)[0][0])


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    """400 prompts, each a cluster: 1.96 standard errors. Where four prompts always agree there are
    100 facts only, and it is twice as wide."""
    values = np.random.default_rng(2).standard_normal(100)
    alone = np.random.default_rng(3).standard_normal(400)
    cases = (alone, np.arange(400), 400), (np.repeat(values, 4), np.repeat(np.arange(100), 4), 100)
    for column, clusters, n in cases:
        rng = np.random.default_rng(4)
        low, high = gao.bootstrap(lambda rows, x=column: x[rows].mean(), clusters, rng)
        assert (high - low) / 2 == pytest.approx(1.96 * column.std() / math.sqrt(n), rel=0.1)
        assert (low + high) / 2 == pytest.approx(column.mean(), abs=0.02)


def test_each_number_of_a_statistic_has_its_own_interval():
    """One is a hundred times the other."""
    values = np.random.default_rng(5).standard_normal(50)

    def both(rows):
        return values[rows].mean(), 100 * values[rows].mean()

    low, high = gao.bootstrap(both, np.arange(50), np.random.default_rng(6), 200)
    assert low.shape == high.shape == (2,)
    assert (100 * low[0], 100 * high[0]) == pytest.approx((low[1], high[1])) and low[0] < high[0]
