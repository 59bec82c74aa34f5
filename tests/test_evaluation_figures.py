import numpy as np
import pytest

from fxcli.evaluation import calibration
from fxcli.evaluation.bootstrap import mean
from fxcli.evaluation.figures import measured
from fxcli.evaluation.intervals import proportion, wilson
from fxcli.evaluation.metrics import classification, scores, softmax

CLASSES = ("a", "b", "c", "d")
OVERALL = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "nll", "brier", "ece")


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    targets = rng.integers(4, size=240)
    logits = (rng.normal(size=(240, 4)) + 1.5 * np.eye(4)[targets]).astype(np.float32)
    return logits, targets, [f"patient {i}" for i in rng.integers(120, size=240)]


def test_figures_are_the_plain_ones_within_their_intervals(sample):
    logits, targets, groups = sample
    plain, found = classification(logits, targets, CLASSES), measured(*sample, CLASSES)
    assert (found["n"], found["n_groups"]) == (240, len(set(groups)))
    assert found["confusion"] == plain["confusion"]
    for name in OVERALL[:5]:
        assert found[name]["value"] == plain[name]
    assert found["brier"]["value"] == calibration.brier(logits, targets)
    assert found["ece"]["value"] == calibration.ece(logits, targets)
    for interval in [found[name] for name in OVERALL]:
        assert interval["low"] <= interval["value"] <= interval["high"]
        assert interval["low"] < interval["high"]
    mean_ece, high = calibration.ece_if_calibrated(logits)
    assert found["ece_if_calibrated"] == {"mean": mean_ece, "p95": high, "bins": 10}
    for name in CLASSES:
        of_class, of_plain = found["per_class"][name], plain["per_class"][name]
        assert of_class["support"] == of_plain["support"]
        for figure in ("precision", "recall", "f1", "auroc"):
            interval = of_class[figure]
            assert interval["value"] == pytest.approx(of_plain[figure])
            assert interval["low"] < interval["value"] < interval["high"]


def test_intervals_are_those_of_the_bootstrap_and_of_wilson(sample):
    logits, targets, groups = sample
    found = measured(*sample, CLASSES, seed=3)
    for name, values in scores(logits, targets).items():
        expected = mean(values, groups, seed=3)
        assert [found[name]["low"], found[name]["high"]] == pytest.approx([expected.low, expected.high]), name
    own, groups = targets == 1, np.array(groups)
    named = softmax(logits).argmax(1) == 1
    assert found["per_class"]["b"]["recall"] == proportion(named[own], groups[own]).to_mapping()
    assert found["per_class"]["b"]["precision"] == proportion(own[named], groups[named]).to_mapping()
    assert found["per_class"]["b"]["n_groups"] == len(set(groups[own]))


def test_all_right_is_not_certain():
    targets = np.repeat(np.arange(3), [30, 10, 5])
    found = measured(9 * np.eye(3)[targets], targets, None, CLASSES[:3], resamples=200)
    assert found["accuracy"]["low"] == pytest.approx(float(wilson(1, 45)[0]))
    # The rarest class decides: 9 / (1/30 + 1/10 + 1/5) = 27 pictures
    for name in ("balanced_accuracy", "macro_f1", "auroc"):
        assert found[name]["low"] == pytest.approx(float(wilson(1, 27)[0])), name
        assert found[name]["high"] == 1.0
    assert found["per_class"]["c"]["f1"]["low"] == pytest.approx(float(wilson(1, 5)[0]))
    assert found["nll"]["low"] is None


def test_absent_classes_are_undefined(sample):
    logits, targets, _ = sample
    keep = targets < 3
    found = measured(logits[keep], targets[keep], None, CLASSES, resamples=100)["per_class"]["d"]
    assert found["recall"] is found["auroc"] is None
    assert (found["support"], found["n_groups"]) == (0, 0)
    assert found["precision"]["value"] == found["f1"]["value"] == 0.0


def test_one_picture_has_wide_intervals():
    found = measured(np.array([[2.0, 0.0]]), np.array([0]), None, ("a", "b"), resamples=50)
    assert found["accuracy"] == {"value": 1.0, "low": pytest.approx(float(wilson(1, 1)[0])), "high": 1.0}
    assert found["auroc"] is None
    assert found["nll"]["low"] is None
    assert found["ece"] == {"value": pytest.approx(1 / (1 + np.exp(2))), "low": None, "high": None}


def test_a_seed_decides(sample):
    assert measured(*sample, CLASSES, resamples=50) == measured(*sample, CLASSES, resamples=50)
    assert measured(*sample, CLASSES, resamples=50) != measured(*sample, CLASSES, resamples=50, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [1.0, 1.6])
def test_the_interval_of_ece_holds_the_truth(sharpness):
    """Of a calibrated model ECE is 0, of the other 0.068; the estimates are 0.056 and 0.080 on average."""

    def draw(rng, n):
        top = rng.uniform(0.5, 1, size=n)
        odds = np.log(top / (1 - top))
        return np.column_stack([sharpness * odds, np.zeros(n)]), (rng.random(n) > top).astype(int)

    truth = calibration.ece(*draw(np.random.default_rng(0), 400_000)) if sharpness > 1 else 0.0
    found = [
        measured(*draw(np.random.default_rng(seed), 300), None, ("a", "b"), resamples=200)["ece"]
        for seed in range(1, 101)
    ]
    assert np.mean([ece["low"] <= truth <= ece["high"] for ece in found]) > 0.92
    assert np.mean([ece["value"] for ece in found]) > truth
    assert np.mean([ece["high"] - ece["low"] for ece in found]) < 0.13


def test_the_bins_that_are_told_are_those_that_are_there():
    """Equal confidences share a bin, as where a softmax is saturated."""
    logits = np.zeros((200, 3), dtype=np.float32)
    logits[:, 0] = np.where(np.arange(200) < 150, 50, 1)
    targets = np.arange(200) % 3 % 2
    found = measured(logits, targets, None, ("a", "b", "c"), resamples=20)
    assert found["ece_if_calibrated"]["bins"] == len(calibration.reliability(logits, targets)) == 2
