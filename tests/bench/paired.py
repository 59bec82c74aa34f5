"""Paired repeats: every round times all sides once, and only numbers of the same round are divided by each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A median with the interval that holds the true one.

    Attributes:
        median: Of the values.
        low: Lower end.
        high: Upper end.
        coverage: Probability that the interval holds the true median; under CONFIDENCE for fewer than 6 values.
    """

    median: float
    low: float
    high: float
    coverage: float


def interval(values: Sequence[float]) -> Interval:
    """The narrowest symmetric interval of order statistics that covers the median with CONFIDENCE.

    It assumes nothing about the distribution: the number of values below the true median is binomial (n, 1/2). Up to
    8 values it is the smallest and the largest.

    Raises:
        ValueError: There is no value.
    """
    if not values:
        raise ValueError("no values")
    ordered, count = sorted(values), len(values)
    cut = 0
    while 2 * (cut + 1) < count and _coverage(count, cut + 1) >= CONFIDENCE:
        cut += 1
    return Interval(median(ordered), ordered[cut], ordered[count - 1 - cut], _coverage(count, cut))


def _coverage(count: int, cut: int) -> float:
    """Of the interval that leaves out the `cut` smallest and the `cut` largest of `count` values."""
    missed = 2 * sum(math.comb(count, below) for below in range(cut + 1)) / 2**count
    return max(0.0, 1.0 - missed)


def ratio(above: Sequence[float], below: Sequence[float]) -> Interval:
    """Of above / below, divided round by round.

    Raises:
        ValueError: The sides were not timed equally often.
    """
    return interval([one / other for one, other in zip(above, below, strict=True)])


def rounds(runs: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Runs all sides once per round, every other round backwards, so that drift hits both ends of the order.

    Args:
        runs: By side; each returns what is compared, usually seconds per picture.
        repeats: Rounds.

    Returns:
        The values of each side, in the order of the rounds.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats):
        order = list(runs) if number % 2 == 0 else list(reversed(runs))
        for name in order:
            found[name].append(runs[name]())
    return found


def fastest(times: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """Which of the named sides has the smallest median."""
    return min(names, key=lambda name: median(times[name]))
