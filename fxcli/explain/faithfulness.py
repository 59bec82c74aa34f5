"""Whether heat maps point at the fracture: against boxes, against chance, and against networks that know nothing.

Pictures and boxes come in; numbers go out. Which maps there are is gradcam's matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fxcli.evaluation.bootstrap import mean, percentile, replicates, tail_of
from fxcli.evaluation.figures import mapping
from fxcli.evaluation.intervals import Groups, codes_of

# The centre prior: a normal bump in the middle of the radiograph, with this part of each side as standard deviation.
_CENTRE_FRAC = 0.25


def inside(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """[H, W] bool: what lies in any of boxes [n, 4], in pixels of that size; each holds at least a pixel within."""
    found = np.zeros(shape, dtype=bool)
    for left, top, right, bottom in boxes:
        x, y = (min(max(int(at), 0), size - 1) for at, size in ((left, shape[1]), (top, shape[0])))
        found[y : max(y + 1, round(float(bottom))), x : max(x + 1, round(float(right)))] = True
    return found


def scored(heat: np.ndarray, boxes: np.ndarray) -> dict[str, float]:
    """How a heat map stands to the boxes of its picture.

    Args:
        heat: [H, W] ≥ 0 over the radiograph.
        boxes: [n, 4], n ≥ 1, in its pixels.

    Returns:
        pointing: whether its maximum lies in a box (Zhang et al. 2018); of equal maxima, the share that does.
        energy: The share of its sum that lies in boxes (Wang et al. 2020).
        area: What both are of a random map, on average: the boxes' share of the radiograph.
        centre_pointing, centre_energy: What they are of the centre prior.
        blank: 1 for a map without evidence, which counts as a random one.
    """
    mask = inside(boxes, heat.shape)
    area = float(mask.mean())
    height, width = heat.shape
    bump = np.outer(_bump(height), _bump(width))
    total = float(heat.sum())
    return {
        "pointing": float(mask[heat == heat.max()].mean()) if total > 0 else area,
        "energy": float(heat[mask].sum() / total) if total > 0 else area,
        "area": area,
        "centre_pointing": float(mask[height // 2, width // 2]),
        "centre_energy": float(bump[mask].sum() / bump.sum()),
        "blank": float(total <= 0),
    }


def _bump(size: int) -> np.ndarray:
    place = (np.arange(size) + 0.5) / size - 0.5
    found: np.ndarray = np.exp(-0.5 * (place / _CENTRE_FRAC) ** 2)
    return found


def summary(scores: Sequence[Mapping[str, float]], groups: Groups = None, *, resamples: int = 1000) -> dict[str, Any]:
    """Means over pictures, with 95 % intervals over groups.

    Args:
        scores: Of `scored`, one a picture, at least one.
        groups: [N]; None: every picture is its own.
        resamples: Of the bootstrap.

    Returns:
        n, blank (their number); pointing and energy {value, low, high}; each over that of a random map
        (pointing_lift, energy_lift) and of the centre prior (…_centre_lift): quotients of means, likewise; high is
        None where the interval has no end, for too few pictures have a box in the middle.
    """
    column = {name: np.array([each[name] for each in scores]) for name in scores[0]}
    codes, n_groups = codes_of(groups, len(scores))
    found: dict[str, Any] = {"n": len(scores), "blank": int(column["blank"].sum())}
    for name in ("pointing", "energy"):
        found[name] = mapping(mean(column[name], groups, is_share=True, resamples=resamples))
        for label, chance in ((f"{name}_lift", "area"), (f"{name}_centre_lift", f"centre_{name}")):
            found[label] = mapping(_quotient(column[name], column[chance], codes, n_groups, resamples))
    return found


def _quotient(values: np.ndarray, chance: np.ndarray, codes: np.ndarray, n_groups: int, resamples: int) -> Any:
    above, below = (np.bincount(codes, weights=each, minlength=n_groups) for each in (values, chance))
    if not below.sum():
        return None

    def of(weights: np.ndarray) -> dict[str, np.ndarray]:
        total = below @ weights
        part = above @ weights
        # Without any chance there is no end to the quotient.
        return {"lift": np.divide(part, total, out=np.where(part > 0, np.inf, np.nan), where=total > 0)}

    drawn = replicates(of, n_groups, resamples=resamples)["lift"]
    endless = np.isinf(drawn)
    finite = np.where(endless, np.max(drawn, where=~endless, initial=0), drawn)
    interval = percentile(float(above.sum() / below.sum()), finite, n_groups)
    return replace(interval, high=None) if interval and endless.mean() > tail_of(n_groups) else interval


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's, of two maps, [N] cells: near 1, a map tells nothing of what the network learnt (Adebayo et al. 2018).

    Returns:
        NaN where one of them is constant.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(each.ravel()) for each in (one, other)]
    if any(np.ptp(each) == 0 for each in ranks):
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
