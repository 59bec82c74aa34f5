import math

import numpy as np
import pytest
from scipy.stats import betabinom

from fxcli.evaluation.bootstrap import mean
from fxcli.evaluation.conformal import fit
from fxcli.evaluation.coverage import Coverage, coverage
from fxcli.evaluation.intervals import Interval, proportion


def test_figures_are_those_of_the_definition():
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1]], dtype=bool)
    found = coverage(sets, np.array([0, 1, 2, 2, 0]), ["p", "p", "q", "q", "r"], alpha=0.1, n_calibration=99)
    assert (found.n, found.n_groups, found.target) == (5, 3, 0.9)
    assert found.coverage == pytest.approx((1 + 0.5 + 0) / 3)
    assert found.mean_size.value == pytest.approx(8 / 5)
    assert found.mean_size == mean(sets.sum(axis=1), ["p", "p", "q", "q", "r"])
    assert found.singletons == proportion(np.array([1, 0, 1, 0, 1]), ["p", "p", "q", "q", "r"])
    assert found.singletons.low < 3 / 5 < found.singletons.high


def test_the_band_is_vovks():
    """The beta-binomial written out: C(m, k) B(k + a, m − k + b) / B(a, b)."""
    a, b, m = 100 - 10, 10, 2000  # n = 99, α = 0.1
    beta = lambda x, y: math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)  # noqa: E731
    choose = lambda k: -beta(k + 1, m - k + 1) - math.log(m + 1)  # noqa: E731
    mass = [math.exp(choose(k) + beta(k + a, m - k + b) - beta(a, b)) for k in range(m + 1)]
    cumulative = np.cumsum(mass)
    found = coverage(np.ones((m, 2), dtype=bool), np.zeros(m, dtype=int), alpha=0.1, n_calibration=99)
    assert found.band_low == np.searchsorted(cumulative, 0.025) / m
    assert found.band_high == np.searchsorted(cumulative, 0.975) / m


@pytest.mark.slow
def test_about_95_of_100_splits_are_inside():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        targets = rng.integers(3, size=140)
        logits = rng.normal(size=(140, 3)) + np.eye(3)[targets]
        sets = fit(logits[:80], targets[:80], None, alpha=0.2).sets(logits[80:], targets[80:] * 0)
        kept = targets[80:] != 0  # class 0 is forced in
        found = coverage(sets[kept], targets[80:][kept], alpha=0.2, n_calibration=80)
        inside += found.position == "inside"
    assert 0.91 < inside / 400 < 0.99


@pytest.mark.parametrize(("covered", "position"), [(20, "below"), (36, "inside"), (40, "above")])
def test_outside_the_band_does_not_pass(covered, position):
    sets = np.zeros((40, 2), dtype=bool)
    sets[:covered, 0] = True
    found = coverage(sets, np.zeros(40, dtype=int), alpha=0.1, n_calibration=999)
    assert found.position == position
    assert found.to_mapping()["passes"] == (position == "inside")
    assert found.to_mapping()["band_low"] == found.band_low


def test_sets_that_exclude_nothing_are_to_hold_all():
    sets = np.ones((5, 2), dtype=bool)
    found = coverage(sets, np.zeros(5, dtype=int), alpha=0.1, n_calibration=8)
    assert (found.band_low, found.band_high, found.position) == (1.0, 1.0, "inside")
    # 0.1 · 10 is a whole number, however it is rounded
    assert coverage(sets, np.zeros(5, dtype=int), alpha=0.1, n_calibration=9).band_low < 1
    many = np.ones((2000, 2), dtype=bool)
    found = coverage(many, np.zeros(2000, dtype=int), alpha=0.29, n_calibration=99)
    assert 0.29 * 100 < 29
    assert found.band_low == betabinom(2000, 71, 29).ppf(0.025) / 2000


def test_a_coverage_is_what_it_was_given():
    found = Coverage(1, 1, 0.9, 0.5, 0.4, 0.6, Interval(1.0, None, None), None)
    assert found.position == "inside"
