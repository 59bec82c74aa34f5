import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from fxcli.evaluation import binary, bootstrap, figures, selective
from fxcli.evaluation.bootstrap import draws, mean, percentile, replicates, tail_of
from fxcli.evaluation.intervals import Interval

# The half width in standard errors of the mean, t √(n/(n−1)).
T_200 = stats.t.ppf(0.975, 199) * (200 / 199) ** 0.5
T_80 = stats.t.ppf(0.975, 79) * (80 / 79) ** 0.5


def test_every_resample_draws_as_many_groups_as_there_are(monkeypatch):
    whole = np.concatenate(list(draws(50, 100)), axis=1)
    monkeypatch.setattr(bootstrap, "_CHUNK", 2000)  # 40 columns at a time, the last part shorter
    parts = list(draws(50, 100))
    assert [part.shape for part in parts] == [(50, 40), (50, 40), (50, 20)]
    weights = np.concatenate(parts, axis=1)
    assert (weights == whole).all()
    assert (weights.sum(axis=0) == 50).all()
    # binomial(50, 1/50): mean 1, variance 0.98
    assert weights.var() == pytest.approx(0.98, rel=0.05)


def test_many_pictures_in_few_groups_fit_into_memory():
    rng = np.random.default_rng(0)
    targets, logits, groups = rng.integers(2, size=4000), rng.normal(size=(4000, 2)), np.arange(4000) // 500
    for measure in (
        lambda: selective.aurc(logits, targets, groups),
        lambda: binary.areas(logits[:, 0], targets == 1, groups),
        lambda: figures.measured(logits, targets, groups, ["a", "b"]),
    ):
        tracemalloc.start()
        measure()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 60e6  # 2000 resamples of 4000 pictures are 64 MB, once


def test_the_mean_is_the_closed_form():
    values = np.random.default_rng(0).exponential(size=200)
    found = replicates(lambda w: {"mean": values @ w / w.sum(axis=0)}, 200, resamples=20_000)["mean"]
    assert found.mean() == pytest.approx(values.mean(), abs=4 * values.std() / np.sqrt(200 * 20_000))
    assert found.std() == pytest.approx(values.std() / np.sqrt(200), rel=0.02)
    interval = mean(values, resamples=20_000)
    normal = values.mean() + np.array([-1, 1]) * T_200 * values.std() / np.sqrt(200)
    assert [interval.low, interval.high] == pytest.approx(normal, rel=0.02)


def test_the_mean_is_scipys():
    values = np.random.default_rng(1).normal(size=100) ** 3
    expected = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=20_000,
        method="percentile",
        confidence_level=1 - 2 * tail_of(100),
        rng=np.random.default_rng(0),
        batch=1000,
    ).confidence_interval
    found = mean(values, resamples=20_000)
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high], abs=0.03 * values.std() / 10 * 3)


def test_equal_groups_vary_as_their_means():
    rng = np.random.default_rng(2)
    of_group = rng.normal(size=80)
    values = np.repeat(of_group, 4) + 0.1 * rng.normal(size=320)
    interval = mean(values, np.repeat(np.arange(80), 4), resamples=10_000)
    expected = values.reshape(80, 4).mean(axis=1).std() / np.sqrt(80)
    assert (interval.high - interval.low) / (2 * T_80) == pytest.approx(expected, rel=0.04)
    alone = mean(values, resamples=10_000)
    assert alone.high - alone.low < 0.6 * (interval.high - interval.low)


def test_groups_of_any_size_keep_their_pictures_together():
    values, groups = np.array([0.0, 0.0, 0.0, 1.0]), ["a", "a", "a", "b"]
    found = replicates(lambda w: {"mean": np.array([0.0, 1.0]) @ w / (np.array([3.0, 1.0]) @ w)}, 2, resamples=4000)[
        "mean"
    ]
    shares = [(np.isclose(found, value)).mean() for value in (0.0, 0.25, 1.0)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    assert mean(values, groups) == Interval(0.25, 0.0, 1.0)


def test_a_seed_decides():
    values = np.random.default_rng(3).normal(size=40)
    assert mean(values, seed=1) == mean(values, seed=1)
    assert mean(values, seed=1) != mean(values, seed=2)
    assert mean(np.array([])) is None


@pytest.mark.parametrize(("n", "least"), [(5, 0.88), (10, 0.92), (20, 0.935)])
def test_the_mean_of_few_is_that_of_student(n, least):
    """The plain percentile interval holds the truth in 82, 90 and 93 of 100 cases."""
    rng, held = np.random.default_rng(4), 0
    for seed in range(1000):
        interval = mean(rng.normal(size=n), resamples=400, seed=seed)
        held += interval.low <= 0 <= interval.high
    assert least < held / 1000 < 0.97
    assert tail_of(n) == pytest.approx(stats.norm.cdf(-stats.t.ppf(0.975, n - 1) * (n / (n - 1)) ** 0.5))
    assert (tail_of(1), tail_of(10**9)) == (0.0, pytest.approx(0.025))


def test_no_proportion_is_certain():
    expected = stats.binomtest(30, 30).proportion_ci(method="wilson")
    assert percentile(1.0, np.ones(50), 30, n=30) == Interval(1.0, pytest.approx(expected.low), 1.0)
    assert percentile(1 - 1e-16, np.ones(50) - np.arange(50) * 1e-17, 30, n=30).low == pytest.approx(expected.low)
    assert percentile(0.0, np.zeros(50), 30, n=30).high == pytest.approx(1 - expected.low)
    assert percentile(0.5, np.full(50, 0.5), 1, n=0.0).low < 0.1  # one group


def test_what_cannot_be_told_is_none():
    assert percentile(None, np.ones(3), 3) is None
    assert percentile(float("nan"), np.ones(3), 3) is None
    assert percentile(2.5, np.full(9, 2.5), 9) == Interval(2.5, None, None)
    assert percentile(2.5, np.full(9, np.nan), 9) == Interval(2.5, None, None)
    assert mean(np.array([1.0, 3.0]), [0, 0]) == Interval(2.0, None, None)


def test_undefined_resamples_are_left_out_and_the_estimate_is_inside():
    values = np.array([np.nan, *np.linspace(0, 1, 101)])
    found = percentile(0.5, values, 10**9)
    assert (found.low, found.high) == (pytest.approx(0.025), pytest.approx(0.975))
    assert percentile(0.99, values, 10**9).high == 0.99
    assert percentile(0.01, values, 10**9).low == 0.01


def test_a_share_of_equal_resamples_has_wilsons_interval():
    groups = np.repeat(np.arange(15), 2)
    found = mean(np.ones(30), groups, is_share=True)
    # Pictures of a group are all right or all wrong: 15 of 15.
    expected = stats.binomtest(15, 15).proportion_ci(method="wilson")
    assert (found.value, found.low, found.high) == (1.0, pytest.approx(expected.low), 1.0)
    assert mean(np.ones(30), groups) == Interval(1.0, None, None)
    half, groups = np.arange(60) % 4 / 3, np.repeat(np.arange(30), 2)
    assert mean(half, groups, is_share=True) == mean(half, groups)


def test_a_better_share_has_no_lower_interval():
    found = [mean(np.arange(50) < right, is_share=True) for right in range(51)]
    assert all(a.low <= b.low and a.high <= b.high for a, b in pairwise(found))


@pytest.mark.parametrize("share", [0.93, 0.9375])
def test_shares_near_one_are_covered(share):
    """Exact: of all counts that 50 pictures can have, those whose interval holds the truth."""
    rights = np.arange(51)
    found = [mean(np.arange(50) < right, is_share=True) for right in rights]
    holds = np.array([each.low <= share <= each.high for each in found])
    assert stats.binom.pmf(rights, 50, share)[holds].sum() > 0.94
