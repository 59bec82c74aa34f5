import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from fxcli.evaluation.binary import areas, at_sensitivity, measured_binary, rates
from fxcli.evaluation.intervals import proportion, wilson


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.3
    values = 1 / (1 + np.exp(-(rng.normal(size=300) + 1.5 * positive - 1)))
    return values.round(2), positive, rng.integers(180, size=300)  # round: ties


def test_areas_are_scikit_learns(sample):
    values, positive, _ = sample
    found = areas(*sample)
    assert found["auroc"].value == pytest.approx(sk.roc_auc_score(positive, values))
    assert found["auprc"].value == pytest.approx(sk.average_precision_score(positive, values))
    for interval in found.values():
        assert interval.low < interval.value < interval.high


def test_the_interval_of_the_area_is_as_wide_as_delongs():
    """DeLong, DeLong and Clarke-Pearson 1988: variance from each picture's share of ordered pairs."""
    rng = np.random.default_rng(1)
    positive = np.repeat([True, False], [80, 120])
    values = rng.normal(size=200) + positive
    pairs = values[positive][:, None] > values[~positive]
    variance = pairs.mean(axis=1).var(ddof=1) / 80 + pairs.mean(axis=0).var(ddof=1) / 120
    found = areas(values, positive, resamples=4000)["auroc"]
    assert found.high - found.low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.06)


def test_rates_are_scikit_learns(sample):
    values, positive, groups = sample
    found, named = rates(*sample, threshold=0.4), values >= 0.4
    assert (values == 0.4).any()
    assert found["sensitivity"].value == sk.recall_score(positive, named)
    assert found["specificity"].value == pytest.approx(sk.recall_score(~positive, ~named))
    assert found["ppv"].value == pytest.approx(sk.precision_score(positive, named))
    assert found["npv"].value == pytest.approx(sk.precision_score(~positive, ~named))
    assert found["sensitivity"] == proportion(named[positive], groups[positive])
    assert found["specificity"] == proportion(~named[~positive], groups[~positive])
    assert found["ppv"] == proportion(positive[named], groups[named])
    assert found["npv"] == proportion(~positive[~named], groups[~named])


def test_all_of_them_are_plain_values(sample):
    values, positive, groups = sample
    found = measured_binary(*sample, threshold=0.4, resamples=200, seed=2)
    (tn, fp), (fn, tp) = sk.confusion_matrix(positive, values >= 0.4)
    assert [found[name] for name in ("tn", "fp", "fn", "tp")] == [tn, fp, fn, tp]
    assert found["prevalence"] == proportion(positive, groups).to_mapping()
    assert found["auroc"] == areas(*sample, resamples=200, seed=2)["auroc"].to_mapping()
    assert found["ppv"] == rates(*sample, threshold=0.4)["ppv"].to_mapping()
    assert found["threshold"] == 0.4


@pytest.mark.parametrize("least", [0.5, 0.9, 0.95, 1.0])
def test_the_threshold_of_a_sensitivity_is_the_highest(sample, least):
    values, positive, _ = sample
    found = at_sensitivity(values, positive, least)
    reached = [t for t in sorted(set(values)) if (values[positive] >= t).mean() >= least]
    assert found == reached[-1]


def test_a_whole_share_is_reached_however_it_is_rounded():
    positive = np.arange(20) < 10
    assert at_sensitivity(np.linspace(1, 0, 20), positive, 0.1 + 0.2) == np.linspace(1, 0, 20)[2]
    assert at_sensitivity(np.linspace(1, 0, 20), positive, 0.7) == np.linspace(1, 0, 20)[6]


@pytest.mark.parametrize("positive", [True, False])
def test_one_class_alone_has_half_of_the_figures(positive):
    values, labels = np.linspace(0, 1, 9), np.full(9, positive)
    found = measured_binary(values, labels, threshold=0.5)
    assert found["auroc"] is found["auprc"] is None
    assert (found["sensitivity"] is None, found["specificity"] is None) == (not positive, positive)
    assert at_sensitivity(values, labels, 0.9) is None
    assert rates(values, labels, threshold=2.0)["ppv"] is None


def test_perfect_order_is_not_certain():
    values, positive = np.arange(24) / 24, np.arange(24) >= 16
    found = areas(values, positive, resamples=200)
    expected = float(wilson(1.0, 4 / (1 / 8 + 1 / 16))[0])
    for name in ("auroc", "auprc"):
        assert found[name].low == pytest.approx(expected), name
        assert found[name].high == found[name].value == 1.0


def test_an_area_that_rests_on_few_positives_says_so():
    """How often the interval holds the truth, 0.80, at three positives and 100 negatives."""
    rng, held = np.random.default_rng(0), 0
    positive = np.arange(103) < 3
    shift = 2**0.5 * stats.norm.ppf(0.8)
    for _ in range(150):
        found = areas(stats.norm.cdf(rng.normal(size=103) + shift * positive), positive, resamples=300)["auroc"]
        held += found.low <= 0.8 <= found.high
    assert held >= 0.93 * 150
    one = areas(np.linspace(0, 1, 101), np.arange(101) == 92)["auroc"]
    assert one.high - one.low > 0.5
