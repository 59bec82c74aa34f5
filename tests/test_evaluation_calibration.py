import numpy as np
import pytest
from scipy import optimize
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from fxcli.evaluation import calibration
from fxcli.evaluation.calibration import bins_for, ece, ece_if_calibrated, fit_temperature, gaps, reliability
from fxcli.evaluation.intervals import proportion
from fxcli.evaluation.metrics import softmax


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    targets = rng.integers(4, size=300)
    return 2 * (rng.normal(size=(300, 4)) + np.eye(4)[targets]), targets


def calibrated(n, seed=1, classes=4, spread=2.0):
    """Logits whose labels are drawn from their own softmax."""
    rng = np.random.default_rng(seed)
    logits = spread * rng.normal(size=(n, classes))
    return logits, (rng.random((n, 1)) > softmax(logits).cumsum(axis=1)).sum(axis=1)


def test_scores_are_scikit_learns(sample):
    logits, targets = sample
    assert calibration.scores(*sample)["nll"].mean() == pytest.approx(sk.log_loss(targets, softmax(logits)))
    assert calibration.brier(*sample) == pytest.approx(
        sk.brier_score_loss(targets, softmax(logits), scale_by_half=False)
    )


def test_the_number_of_bins_follows_the_number_of_pictures():
    assert [bins_for(n) for n in (1, 19, 39, 40, 100, 199, 200, 10_000)] == [1, 1, 1, 2, 5, 9, 10, 10]


@pytest.mark.parametrize("bins", [None, 4])
def test_the_table_is_scikit_learns(sample, bins):
    logits, targets = sample
    top, right = softmax(logits).max(1), softmax(logits).argmax(1) == targets
    accuracy, confidence = calibration_curve(right, top, n_bins=bins or 10, strategy="quantile")
    rows = reliability(*sample, bins=bins)
    assert [row.confidence for row in rows] == pytest.approx(confidence)
    assert [row.accuracy.value for row in rows] == pytest.approx(accuracy)
    assert [row.n for row in rows] == [300 // (bins or 10)] * (bins or 10)
    assert all(row.low <= row.confidence <= row.high for row in rows)
    expected = sum(row.n / 300 * abs(row.confidence - row.accuracy.value) for row in rows)
    assert ece(*sample, bins) == pytest.approx(expected)
    assert gaps(*sample, bins).shape == (300, bins or 10)


def test_rows_have_the_intervals_of_their_groups(sample):
    logits, targets = sample
    groups = np.repeat(np.arange(100), 3)
    first = softmax(logits).max(1) <= reliability(*sample)[0].high
    right = softmax(logits).argmax(1) == targets
    row = reliability(logits, targets, groups)[0]
    assert row.accuracy == proportion(right[first], groups[first])
    assert row.to_mapping()["accuracy"] == row.accuracy.to_mapping()


def test_equal_confidences_share_a_bin():
    logits = np.repeat([[50.0, 0.0], [1.0, 0.0]], [150, 150], axis=0)
    rows = reliability(logits, np.zeros(300, dtype=int))
    assert [row.n for row in rows] == [150, 150]
    assert rows[1].confidence == pytest.approx(1.0)
    assert ece(logits[:150], np.zeros(150, dtype=int)) == pytest.approx(0, abs=1e-12)


def test_chance_alone_is_what_calibrated_models_show():
    """The simulation from one sample's confidences against ECEs of calibrated models drawn afresh."""
    expected = [ece(*calibrated(120, seed)) for seed in range(400)]
    mean, high = ece_if_calibrated(calibrated(120, 1000)[0], simulations=2000)
    assert mean == pytest.approx(np.mean(expected), rel=0.12)
    assert high == pytest.approx(np.quantile(expected, 0.95), rel=0.12)
    assert mean > 0.05  # although calibrated


def test_a_larger_sample_shows_less_by_chance_and_a_seed_decides():
    logits, targets = calibrated(4000)
    assert ece_if_calibrated(logits)[0] < 0.3 * ece_if_calibrated(logits[:200])[0]
    assert ece_if_calibrated(logits, seed=1) == ece_if_calibrated(logits, seed=1) != ece_if_calibrated(logits, seed=2)
    assert ece(logits, targets) < ece_if_calibrated(logits)[1]
    assert ece(3 * logits, targets) > ece_if_calibrated(3 * logits)[1]


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_a_known_temperature_is_found(factor):
    logits, targets = calibrated(20_000)
    assert fit_temperature(factor * logits, targets) == pytest.approx(factor, rel=0.04)


def test_the_temperature_is_scipys_minimum(sample):
    logits, targets = sample
    expected = optimize.minimize_scalar(
        lambda t: sk.log_loss(targets, softmax(logits / np.exp(t))), bounds=(-3, 3), method="bounded"
    )
    found = fit_temperature(logits.astype(np.float32), targets)
    assert np.log(found) == pytest.approx(expected.x, abs=1e-4)


def test_where_all_are_right_nothing_tells_how_surely_and_hopeless_logits_end_at_a_bound():
    logits = np.eye(3)
    assert fit_temperature(logits, np.arange(3)) == 1
    assert fit_temperature(logits, (np.arange(3) + 1) % 3) == pytest.approx(20)
    with pytest.raises(ValueError, match="at least one picture"):
        fit_temperature(logits[:0], np.arange(0))


def test_chance_is_simulated_in_parts_of_any_size(monkeypatch):
    logits = np.random.default_rng(0).normal(size=(70, 4))
    whole = calibration.ece_if_calibrated(logits)
    monkeypatch.setattr(calibration, "_DRAWS_AT_ONCE", 7 * 70)
    assert calibration.ece_if_calibrated(logits) == pytest.approx(whole, rel=1e-12)
