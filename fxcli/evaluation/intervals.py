"""Intervals of proportions: Wilson's, with an effective number of pictures where groups hold several.

Pictures of one patient or one set of duplicates share a group and tend to be right or wrong together; counting them as
independent makes intervals too narrow. Called by every module here that reports a share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

CONFIDENCE = 0.95
# With fewer groups that hold the rarer outcome, how alike the pictures of a group are cannot be told from the data.
INFORMATIVE_GROUPS = 10

Groups = np.ndarray | Sequence[int] | Sequence[str] | None


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes:
        value: The estimate.
        low: Lower end; None where nothing can be said (a loss measured on a single group).
        high: Upper end; None likewise, or where there is none.
    """

    value: float
    low: float | None
    high: float | None

    def to_mapping(self) -> dict[str, float | None]:
        """Plain values for JSON."""
        return asdict(self)


def codes_of(groups: Groups, count: int) -> tuple[np.ndarray, int]:
    """Groups as 0…G−1.

    Args:
        groups: [N] names or numbers; None: every picture is a group of its own.
        count: N.

    Returns:
        [N] codes, and G.

    Raises:
        ValueError: There are not N of them.
    """
    if groups is None:
        return np.arange(count), count
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    if len(codes) != count:
        raise ValueError(f"{len(codes)} groups for {count} pictures")
    return codes, len(names)


def one_of_each(places: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Of places, in their order, the first of each group; `codes` [N] are those of all places."""
    _, first = np.unique(codes[places], return_index=True)
    return np.asarray(places[np.sort(first)])


def wilson(
    proportion: np.ndarray | float, n: np.ndarray | float, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval (1927, JASA 22:209), (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n).

    Args:
        proportion: p, in 0…1, any shape.
        n: Pictures, > 0, not necessarily whole.
        confidence: Of the two-sided interval.
    """
    from scipy.special import ndtri

    p, n = np.asarray(proportion, dtype=np.float64), np.asarray(n, dtype=np.float64)
    z = float(ndtri((1 + confidence) / 2))
    shrink = 1 + z**2 / n
    centre = (p + z**2 / (2 * n)) / shrink
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / shrink
    return np.where(p <= 0, 0.0, centre - half), np.where(p >= 1, 1.0, centre + half)


@dataclass(frozen=True)
class Tally:
    """What the interval of a grouped proportion is computed from: sums over groups g with m pictures, x of them hits.

    Every field may be an array, for many proportions at once.

    Attributes:
        n: Σ m.
        hits: Σ x.
        groups: Groups.
        with_hit: Groups with x > 0.
        with_miss: Groups with x < m.
        xx: Σ x².
        xm: Σ x m.
        mm: Σ m².
    """

    n: np.ndarray
    hits: np.ndarray
    groups: np.ndarray
    with_hit: np.ndarray
    with_miss: np.ndarray
    xx: np.ndarray
    xm: np.ndarray
    mm: np.ndarray


def tally(hits: np.ndarray, groups: Groups = None) -> Tally:
    """Counts [N] bool by group; O(N log N)."""
    codes, count = codes_of(groups, len(hits))
    m = np.bincount(codes, minlength=count).astype(np.float64)
    x = np.bincount(codes, weights=hits, minlength=count)
    return Tally(
        n=m.sum(),
        hits=x.sum(),
        groups=np.asarray(count),
        with_hit=(x > 0).sum(),
        with_miss=(x < m).sum(),
        xx=x @ x,
        xm=x @ m,
        mm=m @ m,
    )


def effective_n(counts: Tally, confidence: float = CONFIDENCE) -> np.ndarray:
    """How many independent pictures tell as much as these.

    n / deff · (t₍n−1₎ / t₍G−1₎)², at least 1 (Korn and Graubard 1998, Survey Methodology 24:193). The design effect is
    the ratio estimator's variance, G/(G−1) Σ(x − p m)² / n² (Cochran 1977, Sampling Techniques, section 3.12), over the
    simple p(1−p)/(n−1), at least 1. With few groups that hold the rarer outcome it is at least Σm²/n, the design
    effect of groups that are all right or all wrong (Kish 1965), and so for p of 0 or 1. n for groups of one.
    """
    from scipy.special import stdtrit

    n, groups = np.asarray(counts.n, dtype=np.float64), np.asarray(counts.groups, dtype=np.float64)
    p = counts.hits / n
    spread = counts.xx - 2 * p * counts.xm + p**2 * counts.mm
    several = np.maximum(groups - 1, 1)
    simple = n**2 * p * (1 - p)
    variance = np.maximum(n - 1, 1) * groups / several * spread
    estimated = np.divide(variance, simple, out=np.ones_like(simple), where=simple > 0)
    alike = counts.mm / n
    unsure = np.minimum(counts.with_hit, counts.with_miss) < INFORMATIVE_GROUPS
    deff = np.maximum(np.maximum(estimated, 1), np.where(unsure, alike, 1))
    level = (1 + confidence) / 2
    few = stdtrit(np.maximum(n - 1, 1), level) / stdtrit(several, level)
    found: np.ndarray = np.maximum(n / deff * few**2, 1)
    return found


def alike_n(codes: np.ndarray) -> float:
    """Effective number of pictures if those of a group are all right or all wrong, n² / Σm² (Kish 1965).

    Args:
        codes: [N] groups; 0 without any.
    """
    sizes = np.bincount(codes).astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes @ sizes)) if len(codes) else 0.0


def balanced_n(sizes: Sequence[float]) -> float:
    """Pictures that would give a share the variance of a mean over classes, K² / Σ 1/n_k, all classes alike.

    Args:
        sizes: Effective number of pictures of each class; those without are left out, and one has any.
    """
    present = [size for size in sizes if size]
    return len(present) ** 2 / sum(1 / size for size in present)


def proportion(hits: np.ndarray, groups: Groups = None, confidence: float = CONFIDENCE) -> Interval | None:
    """The share of hits with Wilson's interval at the effective number of pictures; never of width zero.

    Args:
        hits: [N] bool.
        groups: [N]; None: every picture is a group of its own.
        confidence: Of the two-sided interval; a one-sided bound of 95 % is an end of the one of 90 %.

    Returns:
        None without pictures.
    """
    if not len(hits):
        return None
    counts = tally(np.asarray(hits, dtype=bool), groups)
    value = float(counts.hits / counts.n)
    low, high = wilson(value, effective_n(counts, confidence), confidence)
    return Interval(value, float(low), float(high))
