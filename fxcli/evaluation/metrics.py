"""Classification metrics. Definitions are scikit-learn's; classes that do not occur are left out of means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Less is better, and there is no most.
LOSSES = ("nll", "brier")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, [..., K] → [..., K] float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def scores(logits: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """What each picture adds to a mean.

    Args:
        logits: [N, K] finite.
        targets: [N] class indices.

    Returns:
        accuracy (1 or 0), nll (natural logarithm; finite even for p = 0) and brier: the sum over classes of (p − y)²,
        0…2, as Brier wrote it (1950, Monthly Weather Review 78:1); half of it is the usual one of two classes. [N]
        each.
    """
    probabilities = softmax(logits)
    rows = np.arange(len(targets))
    chosen = probabilities[rows, targets]
    errors = probabilities.copy()
    errors[rows, targets] -= 1
    return {
        "accuracy": (probabilities.argmax(axis=1) == targets).astype(np.float64),
        "nll": -np.log(np.maximum(chosen, np.finfo(np.float64).tiny)),
        "brier": (errors**2).sum(axis=1),
    }


def classification(logits: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Every figure of an evaluation.

    Args:
        logits: [N, K] finite.
        targets: [N] class indices.
        classes: K names.

    Returns:
        n, accuracy, balanced_accuracy (mean recall), macro_f1, nll (natural logarithm), auroc (one against the
        rest, mean over classes), per_class (precision, recall, f1, support, auroc) and confusion (rows are true
        classes, columns predicted ones). What is undefined is None: a class without pictures has no recall.
    """
    from sklearn.metrics import confusion_matrix

    probabilities = softmax(logits)
    predicted = probabilities.argmax(axis=1)
    confusion = confusion_matrix(targets, predicted, labels=np.arange(len(classes)))
    hits, support, named = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    per_class = {}
    for index, name in enumerate(classes):
        recall = _ratio(hits[index], support[index])
        precision = _ratio(hits[index], named[index])
        f1 = _ratio(2 * hits[index], support[index] + named[index])
        per_class[name] = {
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "auroc": _auroc(probabilities[:, index], targets == index),
            "support": int(support[index]),
        }
    present = [values for values in per_class.values() if values["support"]]
    return {
        "n": len(targets),
        "accuracy": float((predicted == targets).mean()),
        "balanced_accuracy": mean_of_known([values["recall"] for values in present]),
        "macro_f1": mean_of_known([values["f1"] for values in present]),
        "nll": float(scores(logits, targets)["nll"].mean()),
        "auroc": mean_of_known([values["auroc"] for values in present]),
        "per_class": per_class,
        "confusion": confusion.tolist(),
    }


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """The mean of those that are not None; None without any."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    from sklearn.metrics import roc_auc_score

    if positive.all() or not positive.any():
        return None
    return float(roc_auc_score(positive, scores))
