import numpy as np
import pytest
from scipy import stats

from fxcli.evaluation.intervals import (
    Interval,
    Tally,
    alike_n,
    balanced_n,
    codes_of,
    effective_n,
    proportion,
    tally,
    wilson,
)


@pytest.mark.parametrize("hits", [0, 1, 7, 19, 20])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_is_scipys(hits, confidence):
    expected = stats.binomtest(hits, 20).proportion_ci(confidence, method="wilson")
    assert wilson(hits / 20, 20, confidence) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_groups_of_one_are_independent_pictures():
    rng = np.random.default_rng(0)
    hits = rng.random(80) < 0.7
    expected = stats.binomtest(int(hits.sum()), 80).proportion_ci(method="wilson")
    for groups in (None, rng.permutation(80), [f"patient {i}" for i in range(80)]):
        found = proportion(hits, groups)
        assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
        assert found.value == hits.mean()


def test_the_tally_is_the_sums_over_groups():
    hits, groups = np.array([1, 1, 0, 0, 1, 0], dtype=bool), ["a", "b", "a", "a", "c", "d"]
    # x: a 1, b 1, c 1, d 0; m: a 3, b 1, c 1, d 1
    found = tally(hits, groups)
    expected = Tally(n=6, hits=3, groups=4, with_hit=3, with_miss=2, xx=3, xm=5, mm=12)
    assert vars(found) == vars(expected)


def test_the_design_effect_is_the_ratio_estimators():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(60), rng.integers(1, 5, size=60))
    hits = rng.random(len(groups)) < rng.beta(1, 1, size=60)[groups]
    n, p = len(hits), hits.mean()
    residuals = [hits[groups == g].sum() - p * (groups == g).sum() for g in range(60)]
    variance = 60 / 59 * sum(r**2 for r in residuals) / n**2
    deff = variance / (p * (1 - p) / (n - 1))
    assert deff > 1.2
    factor = (stats.t.ppf(0.975, n - 1) / stats.t.ppf(0.975, 59)) ** 2
    assert effective_n(tally(hits, groups)) == pytest.approx(n / deff * factor)


def test_copies_of_a_picture_tell_nothing_new():
    hits = np.random.default_rng(2).random(50) < 0.6
    once, five = proportion(hits), proportion(np.repeat(hits, 5), np.repeat(np.arange(50), 5))
    assert five.value == once.value
    assert five.high - five.low == pytest.approx(once.high - once.low, rel=0.03)


def test_groups_that_differ_less_than_chance_gain_nothing():
    hits, groups = np.tile([True, False], 50), np.repeat(np.arange(50), 2)
    factor = (stats.t.ppf(0.975, 99) / stats.t.ppf(0.975, 49)) ** 2
    assert effective_n(tally(hits, groups)) == pytest.approx(100 * factor)


def test_all_right_counts_groups_not_pictures():
    alike = proportion(np.ones(100, dtype=bool), np.repeat(np.arange(20), 5))
    expected = stats.binomtest(20, 20).proportion_ci(method="wilson")
    assert (alike.value, alike.high) == (1.0, 1.0)
    assert alike.low == pytest.approx(expected.low, abs=0.02)
    wrong = proportion(np.zeros(100, dtype=bool), np.repeat(np.arange(20), 5))
    assert (wrong.low, wrong.high) == (0.0, pytest.approx(1 - alike.low))


def test_one_group_is_one_picture():
    one = stats.binomtest(1, 1).proportion_ci(method="wilson")
    found = proportion(np.ones(9, dtype=bool), np.zeros(9))
    assert (found.low, found.high) == (pytest.approx(one.low), 1.0)
    assert proportion(np.array([True])).low == pytest.approx(one.low)
    half = proportion(np.array([True, False] * 5), np.zeros(10))
    assert half.high - half.low > 0.8


def test_without_pictures_there_is_no_proportion():
    assert proportion(np.array([], dtype=bool)) is None


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("alike", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(("groups", "sizes"), [(20, (1, 2, 3)), (60, (1, 2, 3)), (60, (1, 1, 1, 8))])
def test_it_holds_the_truth_in_clustered_data(share, alike, groups, sizes):
    """Beta-binomial groups with the intraclass correlation `alike`; the plain Wilson interval falls below 65 %."""
    rng = np.random.default_rng(3)
    m = rng.choice(sizes, size=(1500, groups)).astype(float)
    scale = (1 - alike) / alike
    x = rng.binomial(m.astype(int), rng.beta(share * scale, (1 - share) * scale, size=m.shape)).astype(float)
    counts = Tally(
        n=m.sum(1),
        hits=x.sum(1),
        groups=np.asarray(groups),
        with_hit=(x > 0).sum(1),
        with_miss=(x < m).sum(1),
        xx=(x * x).sum(1),
        xm=(x * m).sum(1),
        mm=(m * m).sum(1),
    )
    low, high = wilson(counts.hits / counts.n, effective_n(counts))
    assert ((low <= share) & (share <= high)).mean() > 0.93


def test_groups_are_numbered_and_counted():
    codes, count = codes_of(["b", "a", "b"], 3)
    assert (codes.tolist(), count) == ([1, 0, 1], 2)
    assert codes_of(None, 2)[0].tolist() == [0, 1]
    with pytest.raises(ValueError, match="2 groups for 3 pictures"):
        codes_of([1, 2], 3)


def test_numbers_of_pictures_that_are_alike():
    assert alike_n(np.array([0, 1, 2])) == 3
    assert alike_n(np.array([0, 0, 1, 1])) == 2
    assert alike_n(np.array([0, 0, 0, 2])) == pytest.approx(16 / 10)
    assert alike_n(np.array([], dtype=int)) == 0
    rng = np.random.default_rng(4)
    recalls = rng.binomial([30, 6], 0.8, size=(20_000, 2)) / [30, 6]
    assert 0.8 * 0.2 / balanced_n([30, 0, 6]) == pytest.approx(recalls.mean(axis=1).var(), rel=0.03)


def test_an_interval_is_plain_values():
    assert Interval(0.5, 0.4, None).to_mapping() == {"value": 0.5, "low": 0.4, "high": None}
