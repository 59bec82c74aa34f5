"""Everything that `fx evaluate` says of one model on one part: numpy in, plain values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fxcli.evaluation import binary, bootstrap, calibration, selective, subgroups
from fxcli.evaluation.conformal import Conformal
from fxcli.evaluation.coverage import coverage
from fxcli.evaluation.disagreements import disagreements
from fxcli.evaluation.figures import mapping, measured
from fxcli.evaluation.intervals import proportion
from fxcli.evaluation.metadata import Metadata
from fxcli.evaluation.metrics import softmax
from fxcli.evaluation.predictions import Labelled
from fxcli.evaluation.uncertainty import Uncertainty

MOST_DISAGREEMENTS = 50


def report(
    said: Labelled,
    classes: Sequence[str],
    known: Uncertainty,
    *,
    by: Mapping[str, Sequence[str]],
    unseen: bool = False,
    negative: str | None = None,
    metadata: Metadata | None = None,
) -> dict[str, Any]:
    """Measures.

    Args:
        said: What the model said.
        classes: K names.
        known: What the model knows of its errors.
        by: Column → value of each picture, [N].
        unseen: Whether the pictures took no part in training or fitting. If they did, the temperature is applied to
            the threshold of a finding alone, which is one of calibrated probabilities: it was chosen by them. Neither
            sets nor abstentions are measured then.
        negative: Of two classes the one that means no finding.
        metadata: What columns alone tell of a finding on the same pictures.

    Returns:
        figures (see `figures.measured`), reliability, risk_coverage, by, and where they can be had sets, binary,
        metadata and abstentions.
    """
    calibrated, targets, groups = said.mean_logits / known.temperature, said.targets, said.groups
    known = known if unseen else replace(known, temperature=1.0)
    logits = calibrated if unseen else said.mean_logits
    without = list(classes).index(negative) if negative is not None and len(classes) == 2 else None
    threshold = 0.5 if known.threshold is None else known.threshold
    curve = selective.risk_coverage(logits, targets)
    found: dict[str, Any] = {
        "temperature": known.temperature,
        "figures": measured(logits, targets, groups, classes),
        "reliability": [row.to_mapping() for row in calibration.reliability(logits, targets, groups)],
        "risk_coverage": {
            "aurc": mapping(selective.aurc(logits, targets, groups)),
            **dict(zip(("coverage", "risk", "threshold"), map(list, zip(*curve.points(), strict=True)), strict=True)),
        },
        "by": {
            column: subgroups.by_value(
                values, calibrated, targets, groups, classes, negative=without, threshold=threshold, metadata=metadata
            )
            for column, values in by.items()
        },
    }
    if known.unlike is not None and said.distances is not None:
        share = proportion(said.distances > known.unlike, groups)
        found["unlike_training"] = {"threshold": known.unlike, "share": mapping(share)}
    if known.sets is not None and unseen and said.by_fold is not None:
        sets = known.sets.sets(said.by_fold / known.temperature, logits.argmax(axis=1))
        found["sets"] = _sets(sets, said, classes, known.sets, known.n_groups)
        found["abstentions"] = _abstentions(logits, said, known)
    if without is not None:
        probabilities, positive = binary.finding(calibrated, without), targets != without
        found["binary"] = {
            "positive": classes[1 - without],
            "threshold_from": "0.5, for none was fitted" if known.threshold is None else known.source,
            **binary.measured_binary(probabilities, positive, groups, threshold=threshold),
        }
        if metadata is not None:
            found["metadata"] = metadata.to_mapping(positive, groups)
    return found


def _sets(sets: np.ndarray, said: Labelled, classes: Sequence[str], known: Conformal, n_groups: int) -> dict[str, Any]:
    whole = coverage(sets, said.targets, said.groups, alpha=known.alpha, n_calibration=n_groups)
    held, groups = sets[np.arange(len(sets)), said.targets], np.asarray(said.groups)
    return {
        "method": known.method,
        **whole.to_mapping(),
        "per_class": {
            name: {
                "n": int(own.sum()),
                "coverage": mapping(proportion(held[own], groups[own])),
                "mean_size": mapping(bootstrap.mean(sets[own].sum(axis=1), groups[own])),
            }
            for index, name in enumerate(classes)
            if (own := said.targets == index).any()
        },
        "notices": known.notices(classes),
    }


def _abstentions(logits: np.ndarray, said: Labelled, known: Uncertainty) -> list[dict[str, Any]]:
    """How each tolerated error, with its threshold fitted elsewhere, turns out on these pictures."""
    probabilities = softmax(logits)
    wrong, groups = probabilities.argmax(axis=1) != said.targets, np.asarray(said.groups)
    rows = []
    for target, threshold in known.abstentions:
        answered = probabilities.max(axis=1) >= threshold
        share, error = proportion(answered, groups), proportion(wrong[answered], groups[answered])
        rows.append({"target": target, "threshold": threshold, "answered": mapping(share), "error": mapping(error)})
    return rows


def contradicted(said: Labelled, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The pictures whose labels out-of-fold answers contradict most surely: to be looked at again, first of all.

    Returns:
        path, group, label, predicted, p_label, p_predicted of each, the surest first.
    """
    found = disagreements(said.mean_logits, said.targets, said.groups, MOST_DISAGREEMENTS)
    return [
        {
            "path": said.paths[each.index],
            "group": said.groups[each.index],
            "label": classes[each.label],
            "predicted": classes[each.predicted],
            "p_label": round(each.p_label, 4),
            "p_predicted": round(each.p_predicted, 4),
        }
        for each in found
    ]
