"""Figures of a detector: AP, FROC and the picture-level AUROC, each with an interval over groups.

Boxes found are matched with the true ones once; every figure is then a function of how often each group is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fxcli.evaluation.bootstrap import percentile, replicates
from fxcli.evaluation.figures import mapping
from fxcli.evaluation.intervals import Groups, alike_n, balanced_n, codes_of
from fxcli.evaluation.weighted import auroc, mean_of_defined, ratio

# Those of COCO (Lin et al. 2014; cocodataset.org/#detection-eval): overlaps, recalls, boxes that count on a picture.
OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_BOXES = 100
# False positives a picture at which FROC's sensitivity is told (Bunch et al. 1977, Proc. SPIE 127:124).
FALSE_POSITIVES = (0.5, 1.0, 2.0)

RESAMPLES = 1000
# Numbers held at once for a block of resamples.
_BLOCK = 4_000_000


class Located(Protocol):
    """Boxes on a picture, as the data have them."""

    @property
    def corners(self) -> np.ndarray:
        """[n, 4]: left, top, right, bottom."""

    @property
    def labels(self) -> np.ndarray:
        """[n] class indices."""


@dataclass(frozen=True)
class Detections:
    """What a detector finds on a picture, the surest first.

    Attributes:
        corners: [n, 4] float32: left, top, right, bottom, in pixels of the picture.
        labels: [n] int64: indices of their classes.
        scores: [n] float32, in 0…1.
    """

    corners: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def highest(self) -> float:
        """Of the surest box; 0 without one."""
        return float(self.scores.max(initial=0.0))

    def above(self, score: float) -> Detections:
        """Those of at least this score."""
        kept = self.scores >= score
        return Detections(self.corners[kept], self.labels[kept], self.scores[kept])


@dataclass(frozen=True)
class Matches:
    """All boxes that were found, the surest first, and which of them are right.

    Attributes:
        picture: [D] the picture of each.
        score: [D].
        label: [D] class index.
        hits: [D, T] bool: whether it is the match of a true box, at each of OVERLAPS.
        truths: [N, K] true boxes of each class on each picture.
        highest: [N] the score of the surest box of each picture; 0 without one.
    """

    picture: np.ndarray
    score: np.ndarray
    label: np.ndarray
    hits: np.ndarray
    truths: np.ndarray
    highest: np.ndarray


def overlaps(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [n, 4] and [m, 4] → [n, m]."""
    low = np.maximum(found[:, None, :2], true[None, :, :2])
    high = np.minimum(found[:, None, 2:], true[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (found, true)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def match(found: Sequence[Detections], true: Sequence[Located], n_classes: int) -> Matches:
    """Matches what was found with what is there.

    Each box, the surest first, takes the free true box of its class that it overlaps most, if by enough; a true box
    matches once (COCO's rule, without crowds).

    Args:
        found: Of each picture; of each class the MAX_BOXES surest count.
        true: Likewise.
        n_classes: K.
    """
    pictures, scores, labels, hits = [], [], [], []
    truths = np.zeros((len(found), n_classes))
    for number, (here, there) in enumerate(zip(found, true, strict=True)):
        truths[number] = np.bincount(there.labels, minlength=n_classes)
        for label in np.unique(here.labels):
            own = np.flatnonzero(here.labels == label)
            own = own[np.argsort(-here.scores[own], kind="stable")][:MAX_BOXES]
            shared = overlaps(
                here.corners[own].astype(np.float64), there.corners[there.labels == label].astype(np.float64)
            )
            pictures.append(np.full(len(own), number))
            scores.append(here.scores[own])
            labels.append(np.full(len(own), label))
            hits.append(np.column_stack([_taken(shared, least) for least in OVERLAPS]))
    picture, score = (np.concatenate(each) if each else np.zeros(0) for each in (pictures, scores))
    order = np.argsort(-score, kind="stable")
    return Matches(
        picture.astype(np.int64)[order],
        score[order],
        (np.concatenate(labels) if labels else np.zeros(0)).astype(np.int64)[order],
        np.concatenate(hits)[order] if hits else np.zeros((0, len(OVERLAPS)), dtype=bool),
        truths,
        np.array([each.highest for each in found], dtype=np.float64),
    )


def _taken(shared: np.ndarray, least: float) -> np.ndarray:
    """[n] whether each box, in order, gets a true one, of overlaps [n, m]."""
    free = np.ones(shared.shape[1], dtype=bool)
    hits = np.zeros(len(shared), dtype=bool)
    for number, row in enumerate(shared):
        candidates = np.where(free, row, -1.0)
        if candidates.size and candidates.max() >= least:
            # Of equal overlaps COCO takes the last.
            free[candidates.size - 1 - candidates[::-1].argmax()] = False
            hits[number] = True
    return hits


class Weighted:
    """Every figure of a detector as a function of group weights.

    Args:
        matches: Of all pictures.
        codes: [N] groups, 0…G−1.
    """

    def __init__(self, matches: Matches, codes: np.ndarray) -> None:
        self.matches, self.codes = matches, codes
        # Where a cut may lie: equal scores are told or not told together.
        self.ends = np.flatnonzero(np.diff(matches.score, append=-np.inf))

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Weights [G, B] → ap50, ap50_95, sensitivity_at_<x>_fp, auroc [B]; class_ap50 [B, K]; NaN: undefined."""
        width = max(1, _BLOCK // max(1, len(self.matches.score)))
        blocks = [self._block(weights[:, start : start + width]) for start in range(0, weights.shape[1], width)]
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    def _block(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        matches, of_picture = self.matches, weights[self.codes]
        truths = matches.truths.T @ of_picture
        by_class = []
        for label in range(len(truths)):
            own = matches.label == label
            drawn = of_picture[matches.picture[own]]
            by_class.append(_average_precisions(drawn, matches.hits[own], truths[label]))
        areas = np.array(by_class)  # [K, T, B]
        has_box = matches.truths.sum(axis=1) > 0
        return {
            "ap50": mean_of_defined(areas[:, 0].T),
            "ap50_95": mean_of_defined(areas.mean(axis=1).T),
            "class_ap50": areas[:, 0].T,
            **self._froc(of_picture, truths.sum(axis=0)),
            "auroc": auroc(weights, self.codes, matches.highest, has_box),
        }

    def _froc(self, of_picture: np.ndarray, truths: np.ndarray) -> dict[str, np.ndarray]:
        matches = self.matches
        drawn = of_picture[matches.picture]
        hit = matches.hits[:, 0, None]
        rates = np.cumsum(drawn * ~hit, axis=0)[self.ends] / of_picture.sum(axis=0)
        found = np.vstack([np.zeros_like(truths), np.cumsum(drawn * hit, axis=0)[self.ends]])
        told = {}
        for at in FALSE_POSITIVES:
            # False positives only grow along the list: the count of cuts within the rate is the last such cut.
            cuts = (rates <= at + 1e-9).sum(axis=0)
            told[froc_name(at)] = ratio(np.take_along_axis(found, cuts[None], axis=0)[0], truths)
        return told


def froc_name(false_positives: float) -> str:
    """The name of the sensitivity at so many false positives a picture."""
    return f"sensitivity_at_{false_positives:g}_fp"


def _average_precisions(drawn: np.ndarray, hits: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """COCO's AP of a class: precision, made falling, at RECALLS.

    Args:
        drawn: [D, B] weight of each box found, the surest first.
        hits: [D, T].
        truths: [B] weight of the true boxes.

    Returns:
        [T, B], NaN where there is no true box.
    """
    named = np.cumsum(drawn, axis=0)
    areas = np.full((hits.shape[1], drawn.shape[1]), np.nan)
    for number, hit in enumerate(hits.T):
        # Between two hits precision only falls: those alone make its envelope.
        places = np.flatnonzero(hit)
        right = np.cumsum(drawn[places], axis=0)
        precision = np.nan_to_num(ratio(right, named[places]))
        falling = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        for column in np.flatnonzero(truths > 0):
            reached = np.searchsorted(right[:, column] / truths[column], RECALLS, side="left")
            values = np.append(falling[:, column], 0.0)
            areas[number, column] = values[reached].mean()
    return areas


def detection(found: Sequence[Detections], true: Sequence[Located], n_classes: int) -> dict[str, float]:
    """Figures without intervals, for every epoch: ap50, ap50_95, sensitivity_at_<x>_fp, auroc; no undefined ones."""
    matches = match(found, true, n_classes)
    values = Weighted(matches, np.arange(len(found)))(np.ones((len(found), 1)))
    return {name: float(value[0]) for name, value in values.items() if value.ndim == 1 and not np.isnan(value[0])}


def measured(
    found: Sequence[Detections],
    true: Sequence[Located],
    classes: Sequence[str],
    groups: Groups = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Every figure with its 95 % interval, as plain values.

    Args:
        found: Of each picture.
        true: Likewise; none on a negative.
        classes: Of the boxes.
        groups: [N]; None: every picture is its own.
        resamples: Of the bootstrap over groups.
        seed: Likewise.

    Returns:
        n, n_groups, n_positive (pictures with boxes), n_boxes, n_found; each figure of `Weighted` as {value, low,
        high} or None; class_ap50 by class.
    """
    codes, n_groups = codes_of(groups, len(found))
    matches = match(found, true, len(classes))
    statistics = Weighted(matches, codes)
    plain = statistics(np.ones((n_groups, 1)))
    drawn = replicates(statistics, n_groups, resamples=resamples, seed=seed, held=len(codes))
    has_box = matches.truths.sum(axis=1) > 0
    positive, of_class = alike_n(codes[has_box]), [alike_n(codes[count > 0]) for count in matches.truths.T]
    sizes = {}
    if has_box.any():
        sizes = dict.fromkeys(("ap50", "ap50_95"), balanced_n(of_class))
        sizes["auroc"] = balanced_n([positive, alike_n(codes[~has_box])])

    def told(name: str, column: int | None = None) -> dict[str, float | None] | None:
        value, values, n = plain[name][0], drawn[name], sizes.get(name, positive)
        if column is not None:
            value, values, n = value[column], values[:, column], of_class[column]
        return mapping(percentile(float(value), values, n_groups, n=n))

    return {
        "n": len(found),
        "n_groups": n_groups,
        "n_positive": int(has_box.sum()),
        "n_boxes": int(matches.truths.sum()),
        "n_found": len(matches.score),
        **{name: told(name) for name, value in plain.items() if value.ndim == 1},
        "class_ap50": {name: told("class_ap50", index) for index, name in enumerate(classes)},
    }


def operating_points(
    found: Sequence[Detections], true: Sequence[Located], n_classes: int
) -> Mapping[float, float] | None:
    """The scores from which boxes are told, for each of FALSE_POSITIVES: of the last found within so many false ones.

    A picture may have fewer false ones than are allowed: below the last box that is found, more of them gain nothing.
    It is rounded down to a millionth, as tables round scores: the box that sets it is told of there, too.

    Returns:
        None without any box found.
    """
    matches = match(found, true, n_classes)
    if not len(matches.score):
        return None
    ends, hits, rates = _froc_points(matches)
    points = {}
    for at in FALSE_POSITIVES:
        within = np.flatnonzero(rates <= at + 1e-9)
        # Where even the surest boxes are wrong too often, or none is found, none is told.
        last = np.searchsorted(hits, hits[within[-1]]) if len(within) and hits[within[-1]] else None
        least = float(matches.score[0]) + 1e-3 if last is None else float(matches.score[ends[last]])
        points[at] = math.floor(1e6 * least) / 1e6
    return points


def froc(matches: Matches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The FROC curve: what is found, and what is told beside, with boxes told from each score on.

    Args:
        matches: With a true box at least.

    Returns:
        Each [P], the surest boxes first: false positives a picture, sensitivity, and the score.
    """
    ends, hits, rates = _froc_points(matches)
    return rates, hits / matches.truths.sum(), matches.score[ends]


def _froc_points(matches: Matches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each score: the last box that has it, true boxes found from there on, false positives a picture."""
    ends = np.flatnonzero(np.diff(matches.score, append=-np.inf))
    hits = np.cumsum(matches.hits[:, 0])[ends]
    return ends, hits, (1 + ends - hits) / len(matches.truths)


def compared(
    a: Sequence[Detections],
    b: Sequence[Detections],
    true: Sequence[Located],
    n_classes: int,
    groups: Groups = None,
) -> dict[str, Any]:
    """How much more AP50 b has than a, on the same pictures, by a paired bootstrap over groups.

    Returns:
        {"metric", "a", "b", "difference": {value, low, high}, "n", "n_groups"}; None where there is no true box.
    """
    codes, n_groups = codes_of(groups, len(true))
    sides = [Weighted(match(found, true, n_classes), codes) for found in (a, b)]
    plain = [float(side(np.ones((n_groups, 1)))["ap50"][0]) for side in sides]
    drawn = [replicates(side, n_groups, held=len(codes))["ap50"] for side in sides]
    # Without the pictures that have a box there is no AP, however many others there are.
    n_positive = len(np.unique(codes[[len(each.labels) > 0 for each in true]]))
    difference = percentile(plain[1] - plain[0], drawn[1] - drawn[0], n_positive)
    return {
        "metric": "ap50",
        "a": None if np.isnan(plain[0]) else plain[0],
        "b": None if np.isnan(plain[1]) else plain[1],
        "difference": mapping(difference),
        "n": len(true),
        "n_groups": n_groups,
    }
