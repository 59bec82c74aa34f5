import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fxcli.evaluation.bootstrap import tail_of
from fxcli.evaluation.comparison import FLIPS, METRICS, Comparison, compare_models, permutation_p
from fxcli.evaluation.intervals import Interval, wilson
from fxcli.evaluation.metrics import classification, scores


def models(seed, n=200, gain=0.6, classes=3):
    """Targets, and two models: the second sees a stronger signal of the same pictures."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(classes, size=n)
    hard = rng.normal(size=(n, classes))
    truth = np.eye(classes)[targets]
    return targets, hard + truth, hard + 0.3 * rng.normal(size=hard.shape) + (1 + gain) * truth


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["accuracy", "nll", "brier"])
@pytest.mark.parametrize("n", [12, 200])
def test_the_p_is_scipys(metric, n):
    targets, a, b = models(0, n)
    differences = scores(b, targets)[metric] - scores(a, targets)[metric]
    expected = stats.permutation_test(
        (differences, np.zeros(n)),
        lambda x, y: np.mean(x - y),
        permutation_type="samples",
        n_resamples=20_000 if n > 12 else np.inf,
        rng=np.random.default_rng(0),
    )
    found = compare_models([a], [b], targets, metric=metric)
    assert found.difference.value == pytest.approx(differences.mean())
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-9 if n == 12 else 0.01)


def test_the_interval_is_the_paired_bootstraps():
    targets, a, b = models(1)
    differences = scores(b, targets)["nll"] - scores(a, targets)["nll"]
    expected = stats.bootstrap(
        (differences,),
        np.mean,
        method="percentile",
        n_resamples=9999,
        confidence_level=1 - 2 * tail_of(200),
        rng=np.random.default_rng(0),
    ).confidence_interval
    found = compare_models([a], [b], targets, metric="nll", resamples=10_000).difference
    width = expected.high - expected.low
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high], abs=0.04 * width)


@pytest.mark.parametrize("metric", METRICS)
def test_seeds_are_averaged_first(metric):
    targets, a, b = models(2)
    _, c, _ = models(3)
    groups = np.random.default_rng(0).integers(90, size=200)
    found = compare_models([a, c], [b], targets, groups, metric=metric)

    def value(logits):
        plain = classification(logits, targets, "abc")
        return plain[metric] if metric in plain else scores(logits, targets)[metric].mean()

    assert found.a_seeds == pytest.approx([value(a), value(c)])
    assert found.b_seeds == pytest.approx([value(b)])
    assert found.difference.value == pytest.approx(value(b) - (value(a) + value(c)) / 2)
    assert found.difference.low < found.difference.value < found.difference.high
    assert (found.n, found.n_groups) == (200, len(set(groups)))
    repeated = compare_models([a, a, a], [b, b], targets, groups, metric=metric)
    once = compare_models([a], [b], targets, groups, metric=metric)
    assert repeated.difference.low == pytest.approx(once.difference.low)
    assert repeated.p_value == pytest.approx(once.p_value, abs=0.002)


def test_groups_flip_together():
    targets, a, b = models(4, n=40)
    twice = [np.repeat(values, 2, axis=0) for values in (targets, a, b)]
    groups = np.repeat(np.arange(40), 2)
    alone = compare_models([a], [b], targets)
    together = compare_models([twice[1]], [twice[2]], twice[0], groups)
    assert together.p_value == pytest.approx(alone.p_value)
    assert together.difference == alone.difference
    assert compare_models([twice[1]], [twice[2]], twice[0]).p_value < alone.p_value


def test_flips_of_f1_exchange_confusions():
    """Against flips of the predictions themselves, for one seed."""
    targets, a, b = models(5, n=12, classes=2)
    differ = np.flatnonzero(a.argmax(1) != b.argmax(1))
    assert 0 < len(differ) < 12

    def difference(swapped):
        swapped = np.isin(np.arange(12), swapped)[:, None]
        first, second = np.where(swapped, b, a), np.where(swapped, a, b)
        return classification(second, targets, "ab")["macro_f1"] - classification(first, targets, "ab")["macro_f1"]

    observed = abs(difference([]))
    subsets = [[d for bit, d in enumerate(differ) if number >> bit & 1] for number in range(2 ** len(differ))]
    expected = np.mean([abs(difference(subset)) >= observed - 1e-12 for subset in subsets])
    found = compare_models([a], [b], targets, metric="macro_f1")
    assert found.p_value == pytest.approx(expected)


def test_random_flips_count_the_observed_one_too():
    assert permutation_p(lambda signs: signs.sum(axis=1), 200) == 1 / (1 + FLIPS)
    assert permutation_p(lambda signs: signs.sum(axis=1), 15) == 2 / 2**15
    assert permutation_p(lambda signs: signs.sum(axis=1), 0) == 1.0


def test_between_equal_models_p_is_uniform():
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=14)
        found.append(permutation_p(lambda signs, values=values: signs @ values, 14))
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_a_gain_is_told_and_noise_is_told():
    targets, a, b = models(6, gain=1.5)
    found = compare_models([a, a], [b, b], targets, primary=True, names=("old", "new"))
    points = 100 * found.difference.value
    assert found.more_than_noise
    assert found.verdict == (
        f"new is better in accuracy by {points:.1f} points [{100 * found.difference.low:.1f}, "
        f"{100 * found.difference.high:.1f}]: more than noise (p < 0.001, 200 pictures in 200 groups); named "
        "beforehand"
    )
    other = compare_models([b, b], [a, a], targets, names=("new", "old"))
    assert other.verdict.startswith(f"new is better in accuracy by {points:.1f} points [")
    assert other.verdict.endswith("; exploratory")
    targets, a, b = models(7, gain=0.0)
    found = compare_models([a], [b], targets, metric="nll")
    assert not found.more_than_noise
    assert ": no more than noise (p = 0." in found.verdict
    assert found.verdict.endswith("exploratory; one training is no measure of others")


def test_looks_from_before_are_told_of_what_was_named_beforehand():
    targets, a, b = models(6)
    one = compare_models([a], [b], targets, primary=True, trainings=2)
    assert replace(one, looks=3).verdict == f"{one.verdict}, after 3 looks at this test part by these models"
    assert replace(one, looks=1).verdict == f"{one.verdict}, after 1 look at this test part by these models"
    assert "look" not in replace(one, looks=3, primary=False).verdict


def test_less_loss_is_better():
    fields = {"a_seeds": (1.0, 1.0), "b_seeds": (0.9, 0.9), "p_value": 0.01, "n": 9, "n_groups": 9, "primary": False}
    fields["trainings"] = 2
    counted = "9 pictures in 9 groups); exploratory"
    found = Comparison(metric="nll", names=("A", "B"), difference=Interval(-0.1, -0.15, -0.05), **fields)
    assert found.verdict == f"B is better in nll by 0.1000 [0.0500, 0.1500]: more than noise (p = 0.010, {counted}"
    found = Comparison(metric="brier", names=("A", "B"), difference=Interval(0.1, -0.05, 0.15), **fields)
    start = "A is better in brier by 0.1000 [-0.0500, 0.1500]: no more than noise"
    assert found.verdict == f"{start} (p = 0.010, {counted}"
    found = Comparison(metric="brier", names=("A", "B"), difference=Interval(0.1, None, None), **fields)
    assert not found.more_than_noise
    assert found.verdict.startswith("A is better in brier by 0.1000: no more than noise")


def test_a_model_against_itself_is_equal_but_not_for_certain():
    targets, a, _ = models(8)
    found = compare_models([a], [a], targets)
    most = float(wilson(0.0, 200)[1])
    assert found.difference == Interval(0.0, pytest.approx(-most), pytest.approx(most))
    assert (found.p_value, found.more_than_noise) == (1.0, False)
    assert found.verdict.startswith("equal accuracy [-1.9, 1.9]: no more than noise (p = 1.000, ")
    assert compare_models([a], [a], targets, metric="nll").difference == Interval(0.0, None, None)


def test_a_seed_decides_and_the_result_is_plain():
    targets, a, b = models(9)
    one, same, other = (compare_models([a], [b], targets, seed=seed) for seed in (1, 1, 2))
    assert one == same != other
    text = json.loads(json.dumps(one.to_mapping(), allow_nan=False))
    assert text["verdict"] == one.verdict
    assert text["b"] - text["a"] == pytest.approx(text["difference"]["value"])


def test_what_cannot_be_compared_is_refused():
    targets, a, b = models(10)
    with pytest.raises(ValueError, match="'auroc' is none of accuracy"):
        compare_models([a], [b], targets, metric="auroc")
    for wrong in (([a], []), ([], [b]), ([a], [b[:50]]), ([a], [b[:, :2]])):
        with pytest.raises(ValueError, match="for the same 200 pictures"):
            compare_models(*wrong, targets)
