"""Answering only where the model is sure: what error remains at which share of answers, and where to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fxcli.evaluation.bootstrap import FEW_OUTCOMES, RESAMPLES, percentile, replicates
from fxcli.evaluation.intervals import CONFIDENCE, Groups, Interval, Tally, alike_n, codes_of, effective_n, wilson
from fxcli.evaluation.metrics import softmax

# Thresholds of `abstention`: more are finer steps, and each is one more at which chance may end the trying.
MOST_TRIED = 20
# Of a curve that is kept.
_POINTS = 20


@dataclass(frozen=True)
class RiskCoverage:
    """The risk–coverage curve (El-Yaniv and Wiener 2010, JMLR 11:1605), a point for each picture, the surest first.

    Pictures of equal probability are answered together: they share a point, in whatever order they come.

    Attributes:
        coverage: [N] share answered, up to 1.
        risk: [N] error among the answered.
        threshold: [N] top probability of the last one answered.
    """

    coverage: np.ndarray
    risk: np.ndarray
    threshold: np.ndarray

    def points(self) -> tuple[tuple[float, float, float], ...]:
        """(coverage, risk, threshold) at a few places, evenly spread, the last one included; each point once."""
        places = np.linspace(0, len(self.risk) - 1, _POINTS).round().astype(int)
        places = np.unique(np.searchsorted(self.coverage, self.coverage[places]))
        columns = (self.coverage[places], self.risk[places], self.threshold[places])
        return tuple(zip(*(column.astype(float).round(6).tolist() for column in columns), strict=True))


@dataclass(frozen=True)
class Abstention:
    """Where to stop answering.

    Attributes:
        threshold: Least top probability that is answered.
        target: The error that was asked for.
        coverage: Share answered.
        error: Error among the answered; `high` is the one-sided bound that is at most the target, `low` its twin.
        n: Pictures answered.
    """

    threshold: float
    target: float
    coverage: float
    error: Interval
    n: int


def _by_confidence(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order from the surest, ties as they come; top probabilities and errors in that order."""
    probabilities = softmax(logits)
    top = probabilities.max(axis=1)
    order = np.argsort(-top, kind="stable")
    return order, top[order], (probabilities.argmax(axis=1) != targets)[order]


def _last_alike(top: np.ndarray) -> np.ndarray:
    """[N] the last picture of the same probability as each, of probabilities that fall."""
    last: np.ndarray = np.searchsorted(-top, -top, side="right") - 1
    return last


def risk_coverage(logits: np.ndarray, targets: np.ndarray) -> RiskCoverage:
    """The curve of [N, K] logits; O(N log N)."""
    _, top, wrong = _by_confidence(logits, targets)
    last = _last_alike(top)
    return RiskCoverage((last + 1) / len(top), np.cumsum(wrong)[last] / (last + 1), top)


def aurc(
    logits: np.ndarray, targets: np.ndarray, groups: Groups = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """The area below the curve of [N, K] logits, the mean of its risks (Geifman, Uziel and El-Yaniv 2019, ICLR).

    O(N · resamples). With few groups that hold an error, or a right answer, the interval holds that of a share, too,
    as resamples cannot show what the sample does not hold.
    """
    codes, n_groups = codes_of(groups, len(targets))
    order, top, wrong = _by_confidence(logits, targets)
    last = _last_alike(top)

    def area(weights: np.ndarray) -> dict[str, np.ndarray]:
        drawn = weights[codes[order]]
        answered = np.cumsum(drawn, axis=0)[last]
        risk = np.cumsum(drawn * wrong[:, None], axis=0)[last] / np.maximum(answered, 1)
        return {"aurc": (drawn * risk).sum(axis=0) / answered[-1]}

    found = replicates(area, n_groups, resamples=resamples, seed=seed, held=len(codes))
    # By groups: all errors may be of one patient.
    rarer = min(len(np.unique(codes[order[its]])) for its in (wrong, ~wrong))
    n = alike_n(codes) if rarer < FEW_OUTCOMES else None
    return percentile(float(area(np.ones((n_groups, 1)))["aurc"][0]), found["aurc"], n_groups, n=n)


def abstention(logits: np.ndarray, targets: np.ndarray, groups: Groups = None, *, target: float) -> Abstention | None:
    """A low threshold at which the error of the answered is at most `target`, chance allowed for; O(N log N).

    Not the error itself but its one-sided Wilson bound over groups has to be. Of many thresholds some pass by chance,
    so they are tried in an order that the errors have no part in, more answers each time, up to the first that does
    not pass: that the last one which did is wrong is then no likelier than for one alone (fixed-sequence testing; as
    for risks in Angelopoulos, Bates, Candès, Jordan and Lei 2021, arXiv:2110.01052).

    Args:
        logits: [N, K] out-of-fold, at the temperature of use.
        targets: [N].
        groups: [N]; None: every picture is its own.
        target: Tolerated error, 0…1.

    Returns:
        None where no threshold attains it.
    """
    codes, _ = codes_of(groups, len(targets))
    order, top, wrong = _by_confidence(logits, targets)
    counts = prefix_tallies(wrong, codes[order])
    level = 2 * CONFIDENCE - 1
    errors = counts.hits / counts.n
    low, high = wilson(errors, effective_n(counts, level), level)
    tried = _tried(top, target, level)
    passed = tried[: int(np.argmin(np.append(high[tried] <= target, False)))]
    if not len(passed):
        return None
    last = int(passed[-1])
    error = Interval(float(errors[last]), float(low[last]), float(high[last]))
    return Abstention(float(top[last]), target, (last + 1) / len(top), error, last + 1)


def _tried(top: np.ndarray, target: float, level: float) -> np.ndarray:
    """The last picture answered at each threshold that is tried, in this order.

    Of a fifth of the answers, or of twice as many as would do were none wrong, up to all.
    """
    count = len(top)
    _, high = wilson(np.zeros(count), np.arange(1.0, count + 1), level)
    start = min(count, max(math.ceil(count / 5), 2 * (1 + int(np.sum(high > target)))))
    wanted = np.linspace(start, count, MOST_TRIED).round().astype(int) - 1
    # Pictures of equal probability are answered together.
    ends = np.flatnonzero(np.diff(top, append=-1.0) < 0)
    return np.unique(ends[np.searchsorted(ends, wanted)])


def prefix_tallies(hits: np.ndarray, codes: np.ndarray) -> Tally:
    """The tally of the first 1, 2, …, N pictures, each field [N].

    A picture that joins a group with m pictures and x hits adds 2m + 1 to Σm², and, where it is a hit, 2x + 1 to Σx².
    """
    hits = hits.astype(np.float64)
    by_group = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[by_group], codes[by_group], side="left")
    total = np.concatenate([[0.0], np.cumsum(hits[by_group])])
    m, x = np.empty(len(codes)), np.empty(len(codes))
    m[by_group] = np.arange(len(codes)) - starts
    x[by_group] = total[:-1] - total[starts]
    missed = 1 - hits
    return Tally(
        n=np.arange(1.0, len(codes) + 1),
        hits=np.cumsum(hits),
        groups=np.cumsum(m == 0),
        with_hit=np.cumsum((x == 0) * hits),
        with_miss=np.cumsum((m == x) * missed),
        xx=np.cumsum((2 * x + 1) * hits),
        xm=np.cumsum(x + hits * (m + 1)),
        mm=np.cumsum(2 * m + 1),
    )
