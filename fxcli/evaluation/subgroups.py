"""Figures by the values of a column, and of studies that hold several pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxcli.evaluation import binary
from fxcli.evaluation.bootstrap import RESAMPLES
from fxcli.evaluation.figures import mapping, measured
from fxcli.evaluation.intervals import Groups, codes_of, proportion
from fxcli.evaluation.metadata import Metadata
from fxcli.evaluation.metrics import softmax

# With fewer groups an interval spans most of what is possible, and a difference says nothing.
FEW_GROUPS = 10


def by_value(
    values: Sequence[str] | np.ndarray,
    logits: np.ndarray,
    targets: np.ndarray,
    groups: Groups,
    classes: Sequence[str],
    *,
    negative: int | None = None,
    threshold: float = 0.5,
    metadata: Metadata | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Figures of the pictures with each value of a column, such as a hospital or a device.

    Args:
        values: [N] as in the manifest.
        logits: [N, K], calibrated where `threshold` is one of calibrated probabilities.
        targets: [N] class indices.
        groups: [N]; None: every picture is its own.
        classes: K names.
        negative: Of two classes that without a finding, for sensitivity, specificity and auroc; None leaves them out.
        threshold: For these, see `binary`.
        metadata: What columns alone tell of the finding; None leaves it out.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        Value, in order → n, n_groups, n_classes (those that occur: means over classes compare only where they are the
        same), few (fewer than 10 groups), accuracy (Wilson's interval), balanced_accuracy and macro_f1 (bootstrap; None
        where few), and for a finding sensitivity, specificity, auroc and metadata_auroc (None where few); each
        {value, low, high}.
    """
    column = np.asarray(values, dtype=str)
    codes, _ = codes_of(groups, len(targets))
    found = {}
    for value in np.unique(column):
        inside = column == value
        own_logits, own_targets, own = logits[inside], targets[inside], codes[inside]
        n_groups = len(np.unique(own))
        few = n_groups < FEW_GROUPS
        right = softmax(own_logits).argmax(axis=1) == own_targets
        row = {
            "n": int(inside.sum()),
            "n_groups": n_groups,
            "n_classes": len(np.unique(own_targets)),
            "few": few,
            "accuracy": mapping(proportion(right, own)),
            "balanced_accuracy": None,
            "macro_f1": None,
        }
        if not few:
            whole = measured(own_logits, own_targets, own, classes, resamples=resamples, seed=seed)
            row |= {name: whole[name] for name in ("balanced_accuracy", "macro_f1")}
        if negative is not None:
            data = binary.finding(own_logits, negative), own_targets != negative, own
            rates = binary.rates(*data, threshold=threshold)
            row |= {name: mapping(rates[name]) for name in ("sensitivity", "specificity")}
            areas = {} if few else binary.areas(*data, resamples=resamples, seed=seed)
            row["auroc"] = mapping(areas.get("auroc"))
            if metadata is not None:
                where = {"inside": inside, "resamples": resamples, "seed": seed}
                row["metadata_auroc"] = None if few else metadata.auroc(*data[1:], **where)
        found[str(value)] = row
    return found


@dataclass(frozen=True)
class Studies:
    """Pictures of one examination together.

    Attributes:
        names: [S] in order.
        logits: [S, K] means.
        targets: [S].
        groups: [S]; studies that share a group, directly or by way of others, share one.
    """

    names: list[str]
    logits: np.ndarray
    targets: np.ndarray
    groups: np.ndarray


def studies(
    column: Sequence[str] | np.ndarray, logits: np.ndarray, targets: np.ndarray, groups: Groups = None
) -> Studies:
    """Averages the logits of each study: the answer of a product of experts, softmax of the mean. O(N K).

    Args:
        column: [N] the study of each picture.
        logits: [N, K].
        targets: [N].
        groups: [N]; None: every study is its own.

    Raises:
        ValueError: Pictures of a study have different labels; the message names the study.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, study_of = np.unique(np.asarray(column, dtype=str), return_inverse=True)
    sizes = np.bincount(study_of)
    own = np.zeros(len(names), dtype=np.int64)
    own[study_of] = targets
    conflicts = np.unique(names[study_of[own[study_of] != targets]])
    if len(conflicts):
        more = f" and {len(conflicts) - 1} more" if len(conflicts) > 1 else ""
        raise ValueError(f"pictures of the study {str(conflicts[0])!r}{more} have different labels")
    sums = np.zeros((len(names), logits.shape[1]))
    np.add.at(sums, study_of, logits)
    codes, count = codes_of(study_of if groups is None else groups, len(targets))
    # Studies and groups are the nodes, each picture joins one of either.
    width = len(names) + count
    graph = coo_array((np.ones(len(codes)), (study_of, len(names) + codes)), shape=(width, width))
    component = connected_components(graph, directed=False)[1][: len(names)]
    return Studies(names.tolist(), sums / sizes[:, None], own, component)
