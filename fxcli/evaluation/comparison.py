"""Two models on the same pictures: how much better one is, and whether that is more than noise.

The noise is that of the pictures: the trainings of a model, one a seed, are averaged before, so a verdict is about
their mean. How far trainings differ shows in `a_seeds` and `b_seeds`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from fxcli.evaluation.bootstrap import RESAMPLES, Statistics, percentile, replicates
from fxcli.evaluation.intervals import Groups, Interval, codes_of, wilson
from fxcli.evaluation.metrics import LOSSES, scores, softmax
from fxcli.evaluation.predictions import Labelled
from fxcli.evaluation.weighted import confusions, of_confusion

METRICS = ("accuracy", "macro_f1", "nll", "brier")
SIGNIFICANT = 0.05
# Up to so many groups that differ, all sign flips are tried.
EXACT_GROUPS = 15
FLIPS = 10_000
_CHUNK = 1_000_000
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Comparison:
    """What the second model gains over the first.

    Attributes:
        metric: One of METRICS, or recall:<class>.
        names: Of the models.
        a_seeds: The metric of each training of the first.
        b_seeds: And of the second.
        difference: Mean of b less mean of a, with the paired bootstrap's 95 % interval over groups.
        p_value: Of the sign-flip permutation test over groups, two-sided.
        n: Pictures.
        n_groups: Groups.
        primary: Whether this comparison was named beforehand and decides; the others are exploratory.
        trainings: Behind the answers of each model, at least.
        unit: What n counts: pictures or studies.
        looks: That these models had at this test part before, which what was named beforehand does not know of.
    """

    metric: str
    names: tuple[str, str]
    a_seeds: tuple[float, ...]
    b_seeds: tuple[float, ...]
    difference: Interval
    p_value: float
    n: int
    n_groups: int
    primary: bool
    trainings: int = 1
    unit: str = "pictures"
    looks: int = 0

    @property
    def more_than_noise(self) -> bool:
        """Whether test and interval both say so."""
        low, high = self.difference.low, self.difference.high
        return self.p_value < SIGNIFICANT and low is not None and high is not None and (low > 0 or high < 0)

    @property
    def verdict(self) -> str:
        """In words: who is better by how much, whether that is more than noise, and what the comparison is worth."""
        value, percent = self.difference.value, self.metric not in LOSSES
        b_is_better = (value > 0) == percent
        # Seen from the better model, so that the figure is positive.
        factor = (100.0 if percent else 1.0) * (1 if value > 0 else -1)
        digits, unit = (1, " points") if percent else (4, "")
        interval = ""
        if self.difference.low is not None and self.difference.high is not None:
            ends = (self.difference.low, self.difference.high)
            # 0.0 is added for -0.0.
            low, high = sorted(round(factor * end, digits) + 0.0 for end in ends)
            interval = f" [{low:.{digits}f}, {high:.{digits}f}]"
        metric = self.metric.replace(":", " of ", 1)
        amount = f"{self.names[b_is_better]} is better in {metric} by {factor * value:.{digits}f}{unit}"
        start = amount if abs(value) > _ROUNDING else f"equal {metric}"
        noise = "more than noise" if self.more_than_noise else "no more than noise"
        p = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.3f}"
        worth = "named beforehand" if self.primary else "exploratory"
        if self.primary and self.looks:
            worth += f", after {self.looks} look{'s' if self.looks > 1 else ''} at this test part by these models"
        alone = "; one training is no measure of others" if self.trainings == 1 else ""
        return f"{start}{interval}: {noise} ({p}, {self.n} {self.unit} in {self.n_groups} groups); {worth}{alone}"

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON, with the means `a` and `b`, `more_than_noise` and `verdict`."""
        return {
            **asdict(self),
            "names": list(self.names),
            "a_seeds": list(self.a_seeds),
            "b_seeds": list(self.b_seeds),
            "a": float(np.mean(self.a_seeds)),
            "b": float(np.mean(self.b_seeds)),
            "more_than_noise": self.more_than_noise,
            "verdict": self.verdict,
        }


def gains(
    first: Labelled,
    other: Labelled,
    *,
    temperatures: tuple[float, float],
    names: tuple[str, str],
    primary: bool,
    trainings: int | None = None,
    unit: str = "pictures",
    looks: int = 0,
) -> list[Comparison]:
    """What the second model gains over the first by each of METRICS, where all networks of a model answer together.

    Args:
        first: What the first said.
        other: What the second said of the same pictures (see `Labelled.shared`).
        temperatures: Of both.
        names: Likewise.
        primary: Whether the comparison of accuracy was named beforehand; those of the others never are.
        trainings: Behind each; None: as many as there are seeds.
        unit: See `Comparison`.
        looks: Likewise.
    """
    compared = [
        compare_models(
            [first.mean_logits / temperatures[0]],
            [other.mean_logits / temperatures[1]],
            first.targets,
            first.groups,
            metric=metric,
            names=names,
            primary=primary and metric == "accuracy",
            trainings=min(len(first.logits), len(other.logits)) if trainings is None else trainings,
            unit=unit,
        )
        for metric in METRICS
    ]
    return [replace(each, looks=looks) for each in compared]


def compare_models(
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    targets: np.ndarray,
    groups: Groups = None,
    *,
    metric: str = "accuracy",
    names: tuple[str, str] = ("A", "B"),
    primary: bool = False,
    trainings: int | None = None,
    unit: str = "pictures",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compares the mean of b's trainings with that of a's. O((resamples + flips) · G), times K² for macro-F1.

    Args:
        a: Logits [N, K] of each training of the first model.
        b: And of the second; not necessarily as many.
        targets: [N] class indices, N ≥ 1.
        groups: [N]; None: every picture is its own.
        metric: accuracy, macro_f1, nll or brier. The flips of macro_f1 exchange a group's confusion counts, averaged
            over seeds; its value and interval are of the mean over seeds.
        names: As the verdict is to call them.
        primary: See `Comparison`.
        trainings: Likewise; None: as many as there are arrays.
        unit: Likewise.
        resamples: Of the bootstrap.
        seed: Of the bootstrap and the flips.

    Raises:
        ValueError: Another metric, no training, or logits that are not all of these pictures and classes.
    """
    if metric not in METRICS:
        raise ValueError(f"{metric!r} is none of {', '.join(METRICS)}")
    if not a or not b or {logits.shape for logits in [*a, *b]} != {(len(targets), a[0].shape[1])}:
        raise ValueError(f"each model needs at least one array of logits, all for the same {len(targets)} pictures")
    codes, n_groups = codes_of(groups, len(targets))
    make = _f1_paired if metric == "macro_f1" else partial(_mean_paired, metric)
    paired = make(a, b, targets, codes, n_groups)
    found = replicates(paired.resampled, n_groups, resamples=resamples, seed=seed)["difference"]
    value = float(np.mean(paired.b_seeds) - np.mean(paired.a_seeds))
    interval = percentile(value, found, n_groups)
    if metric not in LOSSES and interval is not None and interval.low is None:
        # All resamples differ alike: there may be as much as a group not seen to differ allows.
        most = float(wilson(0.0, n_groups)[1])
        interval = Interval(value, max(value - most, -1.0), min(value + most, 1.0))
    return Comparison(
        metric=metric,
        names=names,
        a_seeds=tuple(paired.a_seeds),
        b_seeds=tuple(paired.b_seeds),
        difference=interval or Interval(value, None, None),
        p_value=permutation_p(paired.flipped, paired.n_differing, seed=seed),
        n=len(targets),
        n_groups=n_groups,
        primary=primary,
        trainings=min(len(a), len(b)) if trainings is None else trainings,
        unit=unit,
    )


Flipped = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class _Paired:
    """What both tests are made of: `resampled` of weights [G, R], `flipped` of signs [R, n_differing]."""

    a_seeds: list[float]
    b_seeds: list[float]
    resampled: Statistics
    flipped: Flipped
    n_differing: int


def _mean_paired(
    metric: str, a: Sequence[np.ndarray], b: Sequence[np.ndarray], targets: np.ndarray, codes: np.ndarray, n_groups: int
) -> _Paired:
    of_a, of_b = ([scores(logits, targets)[metric] for logits in logits_of] for logits_of in (a, b))
    gains = np.mean(of_b, axis=0) - np.mean(of_a, axis=0)
    totals = np.bincount(codes, weights=gains, minlength=n_groups)
    sizes = np.bincount(codes, minlength=n_groups).astype(np.float64)
    differing = totals[np.abs(totals) > _ROUNDING]
    return _Paired(
        a_seeds=[float(values.mean()) for values in of_a],
        b_seeds=[float(values.mean()) for values in of_b],
        resampled=lambda weights: {"difference": (totals @ weights) / (sizes @ weights)},
        flipped=lambda signs: signs @ differing,
        n_differing=len(differing),
    )


def _f1_paired(
    a: Sequence[np.ndarray], b: Sequence[np.ndarray], targets: np.ndarray, codes: np.ndarray, n_groups: int
) -> _Paired:
    def counts(logits: np.ndarray) -> np.ndarray:
        return confusions(targets, softmax(logits).argmax(axis=1), codes, n_groups, logits.shape[1])

    def f1(confusion: np.ndarray) -> np.ndarray:
        return of_confusion(confusion)["macro_f1"]

    of_a, of_b = [counts(logits) for logits in a], [counts(logits) for logits in b]
    mean_a, mean_b = np.mean(of_a, axis=0), np.mean(of_b, axis=0)
    change = mean_b - mean_a
    change = change[np.abs(change).sum(axis=1) > _ROUNDING]

    def resampled(weights: np.ndarray) -> dict[str, np.ndarray]:
        for_b, for_a = (np.mean([f1(weights.T @ each) for each in of_each], axis=0) for of_each in (of_b, of_a))
        return {"difference": for_b - for_a}

    def flipped(signs: np.ndarray) -> np.ndarray:
        moved = (1 - signs) / 2 @ change
        difference: np.ndarray = f1(mean_b.sum(axis=0) - moved) - f1(mean_a.sum(axis=0) + moved)
        return difference

    return _Paired(
        a_seeds=[float(f1(each.sum(axis=0)[None])[0]) for each in of_a],
        b_seeds=[float(f1(each.sum(axis=0)[None])[0]) for each in of_b],
        resampled=resampled,
        flipped=flipped,
        n_differing=len(change),
    )


def permutation_p(statistic: Flipped, n: int, *, seed: int = 0) -> float:
    """Two-sided p of a paired test: if the models were alike, any group's two answers could be exchanged.

    All 2ⁿ flips up to 15 groups, else (1 + hits) / (1 + 10,000) of random ones (Phipson and Smyth 2010, SAGMB 9:39).

    Args:
        statistic: Signs [R, n] of ±1 → [R]; all +1 is what was observed.
        n: Groups that differ at all; the others stay the same when flipped.
        seed: Of the random flips.
    """
    if not n:
        return 1.0
    least = abs(float(statistic(np.ones((1, n)))[0])) * (1 - 1e-9) - _ROUNDING
    if n <= EXACT_GROUPS:
        signs = 1.0 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return float((np.abs(statistic(signs)) >= least).mean())
    rng, hits, step = np.random.default_rng(seed), 0, max(1, _CHUNK // n)
    for start in range(0, FLIPS, step):
        signs = 1.0 - 2 * rng.integers(2, size=(min(step, FLIPS - start), n), dtype=np.int8)
        hits += int((np.abs(statistic(signs)) >= least).sum())
    return (1 + hits) / (1 + FLIPS)
