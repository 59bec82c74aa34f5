"""Where a model contradicts a label most surely: the pictures whose labels to look at first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fxcli.evaluation.intervals import Groups, codes_of
from fxcli.evaluation.metrics import softmax


@dataclass(frozen=True)
class Disagreement:
    """One picture.

    Attributes:
        index: Row.
        label: Class index of the label.
        predicted: Of the prediction.
        p_label: Probability of the label.
        p_predicted: Of the prediction.
    """

    index: int
    label: int
    predicted: int
    p_label: float
    p_predicted: float


def disagreements(
    logits: np.ndarray, targets: np.ndarray, groups: Groups = None, most: int | None = None
) -> list[Disagreement]:
    """Pictures whose label is not the prediction, by margin; the first of each group before any second; O(N log N).

    Such margins find wrong labels well (Northcutt, Jiang and Chuang 2021, JAIR 70:1373, "normalized
    margin"), if the logits are out-of-fold: a model that has learned from a label repeats it.

    Args:
        logits: [N, K].
        targets: [N].
        groups: [N]; None: every picture is its own.
        most: As many as are wanted; None: all.
    """
    codes, _ = codes_of(groups, len(targets))
    probabilities = softmax(logits)
    rows = np.arange(len(targets))
    predicted = probabilities.argmax(axis=1)
    chosen, given = probabilities[rows, predicted], probabilities[rows, targets]
    order = np.argsort(given - chosen, kind="stable")
    order = order[predicted[order] != targets[order]]
    first = np.zeros(len(order), dtype=bool)
    first[np.unique(codes[order], return_index=True)[1]] = True
    found = np.concatenate([order[first], order[~first]])[:most]
    return [Disagreement(int(i), int(targets[i]), int(predicted[i]), float(given[i]), float(chosen[i])) for i in found]
