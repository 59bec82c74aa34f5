import numpy as np
import pytest
from sklearn import metrics as sk

from fxcli.evaluation import calibration
from fxcli.evaluation.metrics import classification
from fxcli.evaluation.weighted import Weighted, auroc, average_precision, mean_of_defined, ratio

CLASSES = ("a", "b", "c")


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    targets = rng.integers(3, size=60)
    logits = (rng.normal(size=(60, 3)) + np.eye(3)[targets]).round(1)  # round: ties
    codes = np.unique(rng.integers(25, size=60), return_inverse=True)[1]
    return logits, targets, codes, codes.max() + 1


def test_weights_of_one_are_the_plain_figures(sample):
    logits, targets, _, count = sample
    plain = classification(logits, targets, CLASSES)
    found = Weighted(*sample)(np.ones((count, 1)))
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "nll"):
        assert found[name] == pytest.approx([plain[name]]), name
    assert found["brier"] == pytest.approx([calibration.brier(logits, targets)])
    assert found["ece"] == pytest.approx([calibration.ece(logits, targets)])
    assert found["f1"][0] == pytest.approx([plain["per_class"][name]["f1"] for name in CLASSES])
    assert found["class_auroc"][0] == pytest.approx([plain["per_class"][name]["auroc"] for name in CLASSES])


def test_a_weight_is_so_many_copies(sample):
    logits, targets, codes, count = sample
    rng = np.random.default_rng(1)
    weights = rng.integers(3, size=(count, 6)).astype(float)
    found = Weighted(*sample)(weights)
    for column in range(6):
        copies = np.repeat(np.arange(60), weights[codes, column].astype(int))
        plain = classification(logits[copies], targets[copies], CLASSES)
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "nll"):
            assert found[name][column] == pytest.approx(plain[name]), name
        assert found["brier"][column] == pytest.approx(calibration.brier(logits[copies], targets[copies]))


def test_a_class_without_weight_is_left_out(sample):
    _, targets, codes, count = sample
    weights = np.ones((count, 1))
    weights[codes[targets == 2]] = 0
    found = Weighted(*sample)(weights)
    kept = weights[codes, 0] > 0
    plain = classification(sample[0][kept], targets[kept], CLASSES)
    assert np.isnan(found["class_auroc"][0, 2])
    for name in ("auroc", "balanced_accuracy", "macro_f1"):
        assert found[name] == pytest.approx([plain[name]]), name


def test_areas_are_scikit_learns_with_ties():
    rng = np.random.default_rng(2)
    values, positive = rng.integers(8, size=90) / 7, rng.random(90) < 0.3
    weights = rng.integers(4, size=(90, 5)).astype(float)
    codes = np.arange(90)
    roc, precision = auroc(weights, codes, values, positive), average_precision(weights, codes, values, positive)
    for column, weight in enumerate(weights.T):
        assert roc[column] == pytest.approx(sk.roc_auc_score(positive, values, sample_weight=weight))
        assert precision[column] == pytest.approx(sk.average_precision_score(positive, values, sample_weight=weight))


@pytest.mark.parametrize("area", [auroc, average_precision])
@pytest.mark.parametrize("positive", [True, False])
def test_one_class_alone_has_no_area(area, positive):
    assert np.isnan(area(np.ones((4, 2)), np.arange(4), np.arange(4.0), np.full(4, positive))).all()


def test_means_of_nothing_are_undefined():
    assert np.isnan(ratio(np.ones(1), np.zeros(1))).all()
    found = mean_of_defined(np.array([[1.0, np.nan], [np.nan, np.nan]]))
    assert found[0] == 1.0
    assert np.isnan(found[1])
