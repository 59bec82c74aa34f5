"""Every reported figure of an evaluation with its interval. `metrics.classification` is the same without, and cheap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fxcli.evaluation import calibration, metrics
from fxcli.evaluation.bootstrap import RESAMPLES, percentile, replicates
from fxcli.evaluation.intervals import CONFIDENCE, Groups, Interval, alike_n, balanced_n, codes_of, proportion
from fxcli.evaluation.metrics import LOSSES
from fxcli.evaluation.weighted import Weighted


def measured(
    logits: np.ndarray,
    targets: np.ndarray,
    groups: Groups,
    classes: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures with 95 % intervals; those of `metrics.classification`, and more.

    The bootstrap over groups gives all intervals but those of recall and precision, which are Wilson's at the
    effective number of pictures, as are those of figures at 0 and 1. O(resamples · N · K).

    Args:
        logits: [N, K] finite, N ≥ 1.
        targets: [N] class indices.
        groups: [N]; pictures of one patient or duplicates share one. None: every picture is its own.
        classes: K names.
        resamples: Of the bootstrap.
        seed: Of the bootstrap and the simulation.

    Returns:
        n, n_groups, confidence, resamples; accuracy, balanced_accuracy, macro_f1, auroc, nll, brier (sum over classes)
        and ece, each {value, low, high}; ece_if_calibrated {mean, p95, bins}: what chance alone gives; per_class name →
        precision, recall, f1, auroc {value, low, high}, support, n_groups; confusion. What is undefined is None.
    """
    codes, n_groups = codes_of(groups, len(targets))
    plain = metrics.classification(logits, targets, classes)
    statistics = Weighted(logits, targets, codes, n_groups)
    found = replicates(statistics, n_groups, resamples=resamples, seed=seed, held=len(targets))
    sizes = [alike_n(codes[targets == index]) for index in range(len(classes))]
    balanced = balanced_n(sizes)
    values = {**plain, "brier": calibration.brier(logits, targets)}
    overall: dict[str, Interval | None] = {
        "accuracy": percentile(values["accuracy"], found["accuracy"], n_groups, n=alike_n(codes)),
        **{
            name: percentile(values[name], found[name], n_groups, n=balanced)
            for name in ("balanced_accuracy", "macro_f1", "auroc")
        },
        **{name: percentile(values[name], found[name], n_groups) for name in LOSSES},
        "ece": _ece(calibration.ece(logits, targets), found["ece"], found["ece_noise"]),
    }
    predicted = metrics.softmax(logits).argmax(axis=1)
    per_class = {}
    for index, name in enumerate(classes):
        own, named = targets == index, predicted == index
        of_class = plain["per_class"][name]
        own_groups = len(np.unique(codes[own]))
        areas = found["class_auroc"][:, index]
        # Of two classes it is the same figure, with the same interval.
        rarer = min(own_groups, len(np.unique(codes[~own])))
        each_against_rest = balanced_n([sizes[index], alike_n(codes[~own])])
        per_class[name] = {
            "precision": mapping(proportion(own[named], codes[named])),
            "recall": mapping(proportion(named[own], codes[own])),
            "f1": mapping(percentile(of_class["f1"], found["f1"][:, index], own_groups, n=sizes[index])),
            "auroc": mapping(percentile(of_class["auroc"], areas, rarer, n=each_against_rest)),
            "support": of_class["support"],
            "n_groups": own_groups,
        }
    mean, high = calibration.ece_if_calibrated(logits, seed=seed)
    return {
        "n": len(targets),
        "n_groups": n_groups,
        "confidence": CONFIDENCE,
        "resamples": resamples,
        **{name: mapping(interval) for name, interval in overall.items()},
        "ece_if_calibrated": {"mean": mean, "p95": high, "bins": len(statistics.gaps)},
        "per_class": per_class,
        "confusion": plain["confusion"],
    }


def mapping(interval: Interval | None) -> dict[str, float | None] | None:
    """Plain values, None for what is undefined."""
    return interval.to_mapping() if interval else None


def _ece(value: float, found: np.ndarray, noise: np.ndarray) -> Interval:
    """ECE with an interval that makes up for its bias, in 0…1.

    A resample adds to ECE a part of the bias that the sample added to it, so the percentile interval lies too high, and
    the basic one, 2 ECE − quantiles, may: where the model is calibrated all of ECE is bias. The low end is that of the
    basic interval or, where lower, ECE less the 95th percentile of Σ_b |gap*_b − gap_b|: by the triangle inequality no
    more than that is noise. The high end is the higher of the percentile and the basic interval's. None where all
    resamples are equal, as with one group.
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    if high - low < 1e-9:
        return Interval(value, None, None)
    least = min(2 * value - high, value - np.quantile(noise, CONFIDENCE))
    return Interval(value, float(max(least, 0.0)), float(min(max(high, 2 * value - low, value), 1.0)))
