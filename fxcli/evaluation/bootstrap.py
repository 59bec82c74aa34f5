"""Bootstrap over groups: how far a figure would move with other patients.

Groups, not pictures, are drawn with replacement (Field and Welsh 2007, JRSS-B 69:369). A draw is a weight per group, so
a statistic is a function of weights: sums over groups are one matrix product for all resamples at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from fxcli.evaluation.intervals import CONFIDENCE, Groups, Interval, alike_n, codes_of, wilson

RESAMPLES = 2000
# With fewer of the rarer outcome an interval does not rest on resamples alone.
FEW_OUTCOMES = 10
# Numbers held at once: what stays in a processor's cache is several times as fast. But statistics sort, once for so
# many resamples at least.
_CHUNK, _LEAST_AT_ONCE = 250_000, 16

Statistics = Callable[[np.ndarray], Mapping[str, np.ndarray]]


def draws(n_groups: int, resamples: int = RESAMPLES, seed: int = 0, *, held: int = 0) -> Iterator[np.ndarray]:
    """Yields weights [G, B], how often each group is drawn, until there are `resamples` columns in all.

    However many there are at once, in all they are the same; see `replicates` for `held`.
    """
    rng = np.random.default_rng(seed)
    step = max(_LEAST_AT_ONCE, _CHUNK // max(n_groups, held))
    for start in range(0, resamples, step):
        width = min(step, resamples - start)
        drawn = rng.integers(n_groups, size=(width, n_groups))
        flat = drawn + n_groups * np.arange(width)[:, None]
        counts = np.bincount(flat.ravel(), minlength=width * n_groups)
        yield np.ascontiguousarray(counts.reshape(width, n_groups).T, dtype=np.float64)


def replicates(
    statistics: Statistics, n_groups: int, *, resamples: int = RESAMPLES, seed: int = 0, held: int = 0
) -> dict[str, np.ndarray]:
    """Statistics of every resample.

    Args:
        statistics: Weights [G, B] → named values [B, …], NaN where a resample leaves a value undefined.
        n_groups: G, ≥ 1.
        resamples: How many.
        seed: Equal seeds draw equal groups, so replicates of two models pair.
        held: Numbers that the statistics hold for each resample, where those may be more than groups: pictures.

    Returns:
        Named values [resamples, …].
    """
    parts = [statistics(weights) for weights in draws(n_groups, resamples, seed, held=held)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def tail_of(n_groups: int) -> float:
    """The share of replicates beyond each end: Φ(−t √(G/(G−1))) with t of G − 1 degrees, α/2 where there are many.

    The expanded percentile interval (Hesterberg 2015, American Statistician 69:371, section 5.3): with few groups the
    plain one is too narrow, as an interval with z in the place of t is.
    """
    from scipy.special import ndtr, stdtrit

    if n_groups < 2:
        return 0.0
    return float(ndtr(-stdtrit(n_groups - 1, (1 + CONFIDENCE) / 2) * np.sqrt(n_groups / (n_groups - 1))))


def percentile(
    value: float | None,
    values: np.ndarray,
    n_groups: int,
    *,
    n: float | None = None,
) -> Interval | None:
    """The percentile interval of an estimate, expanded for few groups (`tail_of`) and widened to hold the estimate.

    A resample shows nothing that the sample does not hold. Where a figure in 0…1 rests on fewer than ten outcomes of
    either kind, n·p or n·(1 − p), it is widened to hold Wilson's interval, too: so at 0 and 1, and in a rare class.

    Args:
        value: The estimate on the data itself; None or NaN: undefined.
        values: [B] replicates; those that are NaN are left out.
        n_groups: Groups that the estimate rests on.
        n: For figures in 0…1, the effective number of pictures that they rest on; None for others, of which nothing
            can be said where all replicates are equal.
    """
    if value is None or np.isnan(value):
        return None
    defined = values[~np.isnan(values)]
    tail = tail_of(n_groups)
    low, high = np.quantile(defined, [tail, 1 - tail]) if len(defined) else (value, value)
    low, high = min(low, value), max(high, value)
    if n is not None:
        share, n = min(max(value, 0.0), 1.0), max(n, 1.0)
        if n * min(share, 1 - share) < FEW_OUTCOMES:
            least, most = wilson(share, n)
            return Interval(float(value), float(min(low, least)), float(max(high, most)))
    # Rounding makes equal resamples differ in their last bits.
    if high - low > 1e-9 * max(1, abs(value)):
        return Interval(float(value), float(low), float(high))
    return Interval(float(value), None, None)


def mean(
    values: np.ndarray,
    groups: Groups = None,
    *,
    is_share: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """The mean of any value per picture, [N], with its interval; None without pictures. O(resamples · G).

    Args:
        values: [N].
        groups: [N]; None: every picture is its own.
        is_share: Whether values are in 0…1, so that Wilson's interval holds where few outcomes are of one kind.
        resamples: How many.
        seed: Of the draws.
    """
    if not len(values):
        return None
    codes, count = codes_of(groups, len(values))
    size, total = np.bincount(codes), np.bincount(codes, weights=values)
    found = replicates(lambda w: {"mean": (total @ w) / (size @ w)}, count, resamples=resamples, seed=seed)
    n = alike_n(codes) if is_share else None
    return percentile(float(np.mean(values)), found["mean"], count, n=n)
