"""Whether prediction sets keep their promise on labelled pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fxcli.evaluation import bootstrap
from fxcli.evaluation.intervals import CONFIDENCE, Groups, Interval, codes_of, proportion


@dataclass(frozen=True)
class Coverage:
    """Figures of prediction sets.

    Attributes:
        n: Pictures.
        n_groups: Groups.
        target: What was promised, 1 − α.
        coverage: Share of sets that hold the true class: mean over groups of the share within each, which is what
            the promise is about.
        band_low: Least coverage that chance allows at these numbers of groups, in 95 of 100 cases.
        band_high: Most.
        mean_size: Classes in a set.
        singletons: Share of sets of one class.
    """

    n: int
    n_groups: int
    target: float
    coverage: float
    band_low: float
    band_high: float
    mean_size: Interval | None
    singletons: Interval | None

    @property
    def position(self) -> str:
        """Below, inside or above the band. Above: sets are larger than needed, as where one class alone is more."""
        if self.coverage < self.band_low - 1e-9:
            return "below"
        return "above" if self.coverage > self.band_high + 1e-9 else "inside"

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON, with `position`, and `passes`: it is inside."""
        return {**asdict(self), "position": self.position, "passes": self.position == "inside"}


def coverage(
    sets: np.ndarray, targets: np.ndarray, groups: Groups = None, *, alpha: float, n_calibration: int
) -> Coverage:
    """Measures sets on pictures that took no part in fitting them.

    The band: with l = ⌊α (n + 1)⌋ and n calibration groups, m test groups hold a beta-binomial(m, n + 1 − l, l) number
    of covered ones (Vovk 2012, ACML 25:475). Exact for split conformal with one picture a group and
    continuous scores; for CV+ and groups of several pictures it is a yardstick. That the predicted class is always in
    can lift coverage above it.

    Args:
        sets: [N, K] bool, N ≥ 1.
        targets: [N] class indices.
        groups: [N]; None: every picture is its own.
        alpha: Of the sets.
        n_calibration: Groups they were fitted to.
    """
    from scipy.stats import betabinom

    codes, n_groups = codes_of(groups, len(targets))
    held = sets[np.arange(len(targets)), targets]
    sizes = sets.sum(axis=1)
    # Rounding must not take a whole number for a little less.
    missed = int(np.floor(alpha * (n_calibration + 1) + 1e-9))
    low = high = 1.0
    if missed:
        tail = (1 - CONFIDENCE) / 2
        low, high = betabinom(n_groups, n_calibration + 1 - missed, missed).ppf([tail, 1 - tail]) / n_groups
    return Coverage(
        n=len(targets),
        n_groups=n_groups,
        target=1 - alpha,
        coverage=float((np.bincount(codes, weights=held) / np.bincount(codes)).mean()),
        band_low=float(low),
        band_high=float(high),
        mean_size=bootstrap.mean(sizes, groups),
        singletons=proportion(sizes == 1, groups),
    )
