"""Metrics as functions of group weights, many weightings at once; with all weights 1 they are those of `metrics`.

What the bootstrap resamples, and what permutations flip. Weights are [G, B]: one row a group, one column a weighting.
"""

from __future__ import annotations

import numpy as np

from fxcli.evaluation import calibration
from fxcli.evaluation.metrics import scores, softmax


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The quotient, NaN where the whole is not positive."""
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=np.float64), whole)
    quotient: np.ndarray = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return quotient


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN where there is nothing else."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


def by_group(values: np.ndarray, codes: np.ndarray, n_groups: int) -> np.ndarray:
    """Sums by group, [N, M] → [G, M]."""
    sums = np.zeros((n_groups, values.shape[1]))
    np.add.at(sums, codes, values)
    return sums


def confusions(
    targets: np.ndarray, predicted: np.ndarray, codes: np.ndarray, n_groups: int, n_classes: int
) -> np.ndarray:
    """Confusion counts of each group, [G, K·K]; rows are true classes."""
    flat = (codes * n_classes + targets) * n_classes + predicted
    counts = np.bincount(flat, minlength=n_groups * n_classes**2)
    return counts.reshape(n_groups, n_classes**2).astype(np.float64)


def of_confusion(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of confusion matrices, [B, K·K] → accuracy, balanced_accuracy and macro_f1 [B], f1 [B, K].

    Means are over the classes that occur; f1 is NaN for a class neither true nor named.
    """
    n_classes = round(confusion.shape[1] ** 0.5)
    cube = confusion.reshape(-1, n_classes, n_classes)
    hits = np.diagonal(cube, axis1=1, axis2=2)
    support, named = cube.sum(axis=2), cube.sum(axis=1)
    f1 = ratio(2 * hits, support + named)
    return {
        "accuracy": ratio(hits.sum(axis=1), support.sum(axis=1)),
        "balanced_accuracy": mean_of_defined(ratio(hits, support)),
        "macro_f1": mean_of_defined(np.where(support > 0, f1, np.nan)),
        "f1": f1,
    }


def auroc(weights: np.ndarray, codes: np.ndarray, values: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Weighted area under the ROC curve: the share of pairs in order, ties count half (Mann and Whitney 1947).

    Args:
        weights: [G, B].
        codes: [N] groups.
        values: [N], higher for positive.
        positive: [N] bool.

    Returns:
        [B], NaN without positives or without negatives. O(N (log N + B)).
    """
    negatives = np.flatnonzero(~positive)
    negatives = negatives[np.argsort(values[negatives], kind="stable")]
    below = np.zeros((len(negatives) + 1, weights.shape[1]))
    np.cumsum(weights[codes[negatives]], axis=0, out=below[1:])
    of_positives = weights[codes[positive]]
    low = np.searchsorted(values[negatives], values[positive], side="left")
    high = np.searchsorted(values[negatives], values[positive], side="right")
    pairs = np.einsum("ib,ib->b", of_positives, below[low])
    ties = high > low
    if ties.any():
        pairs += np.einsum("ib,ib->b", of_positives[ties], below[high[ties]] - below[low[ties]]) / 2
    return ratio(pairs, of_positives.sum(axis=0) * below[-1])


def average_precision(weights: np.ndarray, codes: np.ndarray, values: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Weighted area under precision and recall, Σ (Rₙ − Rₙ₋₁) Pₙ over distinct thresholds; as `auroc` otherwise."""
    order = np.argsort(-values, kind="stable")
    last = np.flatnonzero(np.diff(values[order], append=-np.inf))
    sorted_weights = weights[codes[order]]
    named = np.cumsum(sorted_weights, axis=0)[last]
    hits = np.cumsum(sorted_weights * positive[order, None], axis=0)[last]
    precision = np.nan_to_num(ratio(hits, named))
    gained = np.diff(hits, axis=0, prepend=0.0)
    area = ratio((gained * precision).sum(axis=0), hits[-1])
    return np.where(hits[-1] < named[-1], area, np.nan)


class Weighted:
    """Every figure of an evaluation as a function of group weights.

    Args:
        logits: [N, K] finite.
        targets: [N] class indices.
        codes: [N] groups, 0…G−1.
        n_groups: G.
    """

    def __init__(self, logits: np.ndarray, targets: np.ndarray, codes: np.ndarray, n_groups: int) -> None:
        self.codes, self.targets, self.probabilities = codes, targets, softmax(logits)
        predicted = self.probabilities.argmax(axis=1)
        self.confusions = confusions(targets, predicted, codes, n_groups, logits.shape[1])
        losses = scores(logits, targets)
        gaps = calibration.gaps(logits, targets)
        sums = np.column_stack([np.ones(len(targets)), losses["nll"], losses["brier"], gaps])
        self.sums = by_group(sums, codes, n_groups)
        self.gaps = gaps.mean(axis=0)

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Weights [G, B] → those of `of_confusion`; auroc, nll, brier, ece, ece_noise [B]; class_auroc [B, K]."""
        areas = [
            auroc(weights, self.codes, self.probabilities[:, index], self.targets == index)
            for index in range(self.probabilities.shape[1])
        ]
        n, nll, brier, *gaps = self.sums.T @ weights
        return {
            **of_confusion(weights.T @ self.confusions),
            "class_auroc": np.column_stack(areas),
            "auroc": mean_of_defined(np.column_stack(areas)),
            "nll": nll / n,
            "brier": brier / n,
            "ece": np.abs(gaps / n).sum(axis=0),
            # How far the gaps of all bins are from those of the sample.
            "ece_noise": np.abs(gaps / n - self.gaps[:, None]).sum(axis=0),
        }
