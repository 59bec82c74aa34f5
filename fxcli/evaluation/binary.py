"""Figures of two classes, one of them the finding that is looked for.

A threshold is to be chosen on other pictures than it is measured on: on out-of-fold probabilities, not on the test
part. A probability at the threshold counts as positive.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fxcli.evaluation.bootstrap import RESAMPLES, percentile, replicates
from fxcli.evaluation.figures import mapping
from fxcli.evaluation.intervals import Groups, Interval, alike_n, balanced_n, codes_of, proportion
from fxcli.evaluation.metrics import softmax
from fxcli.evaluation.weighted import auroc, average_precision


def finding(logits: np.ndarray, negative: int) -> np.ndarray:
    """[N] how probable a finding is: whatever the class without one leaves. Thresholds are of this, to the bit.

    Args:
        logits: [N, 2].
        negative: Index of the class without a finding.
    """
    probabilities: np.ndarray = 1 - softmax(logits)[:, negative]
    return probabilities


def rates(
    probabilities: np.ndarray, positive: np.ndarray, groups: Groups = None, *, threshold: float
) -> dict[str, Interval | None]:
    """Sensitivity, specificity, ppv and npv, with Wilson's intervals over groups; None where nothing is to be shared.

    The predictive values are those at the share of positives among these pictures, and of no other.

    Args:
        probabilities: [N] of the positive class.
        positive: [N] bool.
        groups: [N]; None: every picture is its own.
        threshold: Least probability that counts as positive.
    """
    codes, _ = codes_of(groups, len(positive))
    named = probabilities >= threshold
    return {
        "sensitivity": proportion(named[positive], codes[positive]),
        "specificity": proportion(~named[~positive], codes[~positive]),
        "ppv": proportion(positive[named], codes[named]),
        "npv": proportion(~positive[~named], codes[~named]),
    }


def areas(
    probabilities: np.ndarray,
    positive: np.ndarray,
    groups: Groups = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """Auroc and auprc (average precision) with bootstrap intervals over groups; None with one class alone.

    Arguments as of `rates`. O(resamples · N).
    """
    codes, n_groups = codes_of(groups, len(positive))
    if positive.all() or not positive.any():
        return {"auroc": None, "auprc": None}
    data = codes, probabilities, positive

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"auroc": auroc(weights, *data), "auprc": average_precision(weights, *data)}

    plain = statistics(np.ones((n_groups, 1)))
    found = replicates(statistics, n_groups, resamples=resamples, seed=seed, held=len(codes))
    n = balanced_n([alike_n(codes[positive]), alike_n(codes[~positive])])
    return {name: percentile(float(plain[name][0]), found[name], n_groups, n=n) for name in plain}


def measured_binary(
    probabilities: np.ndarray,
    positive: np.ndarray,
    groups: Groups = None,
    *,
    threshold: float,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """All of them as plain values: `rates`, `areas`, prevalence, each {value, low, high}; threshold, tp, fp, fn, tn."""
    named = probabilities >= threshold
    found = {
        "prevalence": proportion(positive, groups),
        **rates(probabilities, positive, groups, threshold=threshold),
        **areas(probabilities, positive, groups, resamples=resamples, seed=seed),
    }
    return {
        **{name: mapping(interval) for name, interval in found.items()},
        "threshold": threshold,
        "tp": int((named & positive).sum()),
        "fp": int((named & ~positive).sum()),
        "fn": int((~named & positive).sum()),
        "tn": int((~named & ~positive).sum()),
    }


def at_sensitivity(probabilities: np.ndarray, positive: np.ndarray, least: float) -> float | None:
    """The highest threshold whose sensitivity is at least `least` (0…1): that of the best specificity; O(N log N).

    Returns:
        None with one class alone.
    """
    if positive.all() or not positive.any():
        return None
    order = np.argsort(-probabilities, kind="stable")
    last = np.flatnonzero(np.diff(probabilities[order], append=-np.inf))
    hits = np.cumsum(positive[order])[last]
    return float(probabilities[order][last[np.argmax(hits / hits[-1] >= least - 1e-9)]])
