"""Whether probabilities mean what they say: reliability, ECE beside what chance alone would show, temperature."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fxcli.evaluation.intervals import Groups, Interval, codes_of, proportion
from fxcli.evaluation.metrics import scores, softmax

MAX_BINS = 10
PICTURES_PER_BIN = 20
SIMULATIONS = 1000
_DRAWS_AT_ONCE = 1_000_000
TEMPERATURES = (0.05, 20.0)


def brier(logits: np.ndarray, targets: np.ndarray) -> float:
    """Mean Brier score, summed over classes (0…2)."""
    return float(scores(logits, targets)["brier"].mean())


def bins_for(n: int) -> int:
    """At most 10 bins, each of at least 20 pictures, at least one: fewer bins are steadier than fuller tables."""
    return int(np.clip(n // PICTURES_PER_BIN, 1, MAX_BINS))


def _bins(confidence: np.ndarray, bins: int | None) -> np.ndarray:
    """Bin of each picture, [N]: equal shares by quantile; equal values share a bin, so fewer may remain."""
    bins = bins_for(len(confidence)) if bins is None else bins
    edges = np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1])
    found: np.ndarray = np.unique(np.searchsorted(edges, confidence), return_inverse=True)[1]
    return found


def _top(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probabilities = softmax(logits)
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == targets


def gaps(logits: np.ndarray, targets: np.ndarray, bins: int | None = None) -> np.ndarray:
    """Confidence less correctness of each picture, in the column of its bin, [N, bins]; ECE = Σ_b |Σ_i gap| / N."""
    confidence, right = _top(logits, targets)
    columns: np.ndarray = _columns(_bins(confidence, bins)) * (confidence - right)[:, None]
    return columns


def _columns(codes: np.ndarray) -> np.ndarray:
    one_hot: np.ndarray = np.eye(codes.max() + 1)[codes]
    return one_hot


def ece(logits: np.ndarray, targets: np.ndarray, bins: int | None = None) -> float:
    """Expected calibration error of the top class (Guo et al. 2017, eq. 3) over bins of equal mass.

    Biased upwards, the more the fewer pictures: read it beside `ece_if_calibrated`.

    Args:
        logits: [N, K].
        targets: [N].
        bins: Most bins; None: `bins_for(N)`.
    """
    return float(np.abs(gaps(logits, targets, bins).sum(axis=0)).sum() / len(targets))


def ece_if_calibrated(logits: np.ndarray, *, simulations: int = SIMULATIONS, seed: int = 0) -> tuple[float, float]:
    """The ECE that chance alone gives a perfectly calibrated model with these confidences.

    The top class is right with the probability it is given, pictures independently: consistency resampling (Bröcker
    and Smith 2007, Weather and Forecasting 22:651). Groups of several pictures would raise it further.

    Returns:
        Mean and 95th percentile over the simulations.
    """
    confidence = softmax(logits).max(axis=1)
    columns = _columns(_bins(confidence, None))
    rng, found = np.random.default_rng(seed), np.empty(simulations)
    step = max(1, _DRAWS_AT_ONCE // len(confidence))
    for start in range(0, simulations, step):
        right = rng.random((min(step, simulations - start), len(confidence))) < confidence
        found[start : start + step] = np.abs((confidence - right) @ columns).sum(axis=1) / len(confidence)
    return float(found.mean()), float(np.quantile(found, 0.95))


@dataclass(frozen=True)
class Bin:
    """A row of the reliability table.

    Attributes:
        n: Pictures.
        low: Least confidence among them.
        high: Most.
        confidence: Mean confidence of the top class.
        accuracy: Share in which it is right.
    """

    n: int
    low: float
    high: float
    confidence: float
    accuracy: Interval

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def reliability(logits: np.ndarray, targets: np.ndarray, groups: Groups = None, bins: int | None = None) -> list[Bin]:
    """The reliability table, from the least to the most confident bin; intervals as of `proportion`."""
    confidence, right = _top(logits, targets)
    codes, _ = codes_of(groups, len(targets))
    row_of, rows = _bins(confidence, bins), []
    for row in range(row_of.max() + 1):
        inside = row_of == row
        accuracy = proportion(right[inside], codes[inside])
        if accuracy is not None:
            own = confidence[inside]
            rows.append(Bin(len(own), float(own.min()), float(own.max()), float(own.mean()), accuracy))
    return rows


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature T for which softmax(logits / T) has the least NLL (Guo et al. 2017, section 4.2).

    NLL is convex in 1/T, its slope there mean(E_p[z] − z_y) increases: the root is found by bisection of log T within
    1/20…20. Where all are right it would make every answer certain, errors to come among them: 1 then. Fit it on
    logits of pictures that the model has not learned from.

    Raises:
        ValueError: There are no pictures.
    """
    if not len(targets):
        raise ValueError("a temperature needs at least one picture")
    if (logits.argmax(axis=1) == targets).all():
        return 1.0
    values = logits.astype(np.float64)
    own = values[np.arange(len(targets)), targets]
    cold, hot = np.log(TEMPERATURES)
    for _ in range(60):
        middle = (cold + hot) / 2
        slope = ((softmax(values / np.exp(middle)) * values).sum(axis=1) - own).mean()
        # A positive slope in 1/T: a smaller 1/T is better.
        cold, hot = (middle, hot) if slope > 0 else (cold, middle)
    return float(np.exp((cold + hot) / 2))
