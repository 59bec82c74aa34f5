import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from fxcli.evaluation.metrics import classification, scores, softmax

CLASSES = ("a", "b", "c", "d")


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    targets = rng.integers(4, size=200)
    return (rng.normal(size=(200, 4)) + 1.5 * np.eye(4)[targets]).astype(np.float32), targets


def test_everything_is_scikit_learns(sample):
    logits, targets = sample
    found = classification(logits, targets, CLASSES)
    p = softmax(logits)
    predicted = p.argmax(1)
    assert found["n"] == 200
    assert found["accuracy"] == sk.accuracy_score(targets, predicted)
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(targets, predicted))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(targets, predicted, average="macro"))
    assert found["nll"] == pytest.approx(sk.log_loss(targets, p))
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(targets, p, multi_class="ovr", average="macro"))
    assert found["confusion"] == sk.confusion_matrix(targets, predicted).tolist()
    precision, recall, f1, support = sk.precision_recall_fscore_support(targets, predicted)
    for index, name in enumerate(CLASSES):
        values = found["per_class"][name]
        assert values["precision"] == pytest.approx(precision[index])
        assert values["recall"] == pytest.approx(recall[index])
        assert values["f1"] == pytest.approx(f1[index])
        assert values["support"] == support[index]


def test_an_absent_class_is_left_out_of_means_and_undefined(sample):
    logits, targets = sample
    keep = targets != 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = classification(logits[keep], targets[keep], CLASSES)
    assert found["per_class"]["d"]["recall"] is None
    assert found["per_class"]["d"]["auroc"] is None
    recalls = [found["per_class"][name]["recall"] for name in "abc"]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))


def test_a_class_never_named_has_no_precision():
    logits = np.array([[2.0, 0.0], [2.0, 0.0]], dtype=np.float32)
    found = classification(logits, np.array([0, 1]), ("a", "b"))
    assert found["per_class"]["b"] == {"precision": None, "recall": 0.0, "f1": 0.0, "auroc": 0.5, "support": 1}


def test_a_single_picture_has_no_auroc():
    found = classification(np.array([[1.0, 0.0]]), np.array([0]), ("a", "b"))
    assert found["auroc"] is None
    assert found["accuracy"] == 1.0


def test_softmax_is_stable_and_sums_to_one():
    p = softmax(np.array([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]], dtype=np.float32))
    assert p.sum(axis=1) == pytest.approx([1.0, 1.0])
    assert p[0, 0] == 1.0
    assert p[1] == pytest.approx([1 / 3] * 3)


def test_certainty_in_the_wrong_class_is_a_finite_loss():
    found = classification(np.array([[1e5, 0.0]], dtype=np.float32), np.array([1]), ("a", "b"))
    assert np.isfinite(found["nll"])
    assert found["nll"] > 100


def test_scores_of_pictures_are_scikit_learns(sample):
    logits, targets = sample
    found = scores(logits, targets)
    p = softmax(logits)
    assert found["accuracy"].mean() == sk.accuracy_score(targets, p.argmax(1))
    assert found["nll"].mean() == pytest.approx(sk.log_loss(targets, p))
    assert found["brier"].mean() == pytest.approx(sk.brier_score_loss(targets, p, scale_by_half=False))
    two = scores(logits[:, :2], targets % 2)
    assert two["brier"].mean() / 2 == pytest.approx(sk.brier_score_loss(targets % 2, softmax(logits[:, :2])[:, 1]))
