"""Prediction sets that hold the true class with a stated probability: split conformal and CV+, over groups.

The score of a class is 1 − p (LAC; Sadinle, Lei and Wasserman 2019, JASA 114:223). A class is in the set where the
share of calibration pictures with a lower score is below 1 − α, each of the G groups carrying 1/(G+1), split among its
pictures, and the last 1/(G+1) lying at +∞ (Lee, Barber and Willett 2023, arXiv:2306.06342). With one fold that is split
conformal: P(true class in the set) ≥ 1 − α for a picture of a new group. With the out-of-fold scores of several folds,
each compared with the score that its own fold's model gives the new picture, it is CV+ (Barber et al. 2021, Annals of
Statistics 49:486; Romano, Sesia and Candès 2020, NeurIPS 33): ≥ 1 − 2α − a term that vanishes with many groups (Barber
et al., theorem 4), and about 1 − α in practice.

`evaluate` fits them, `conformal_header` stores them in a model file, `predict` reads them there. How well they keep
their promise is in `coverage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fxcli.evaluation.intervals import Groups, codes_of
from fxcli.evaluation.metrics import softmax

# A class with fewer groups shares the threshold of all: its own would say next to nothing.
OWN_GROUPS = 50
# Scores in a header, over all folds of a table; rounding up to the next one kept only makes sets larger.
STORED_SCORES = 4000
# Shares that are equal on paper differ in their last bits.
_SLACK = 1e-6


@dataclass(frozen=True)
class Steps:
    """The calibration scores of one fold.

    Attributes:
        scores: Ascending, in 0…1.
        counts: Groups at or below each score; a group of several pictures counts in parts.
    """

    scores: tuple[float, ...]
    counts: tuple[float, ...]

    def below(self, scores: np.ndarray) -> np.ndarray:
        """Groups strictly below each score, any shape."""
        found: np.ndarray = np.array([0.0, *self.counts])[np.searchsorted(self.scores, scores, side="left")]
        return found


@dataclass(frozen=True)
class Table:
    """Scores of all pictures, or of those of one class.

    Attributes:
        n_groups: G.
        folds: One a member, in their order.
    """

    n_groups: int
    folds: tuple[Steps, ...]

    def includes(self, scores: np.ndarray, alpha: float) -> np.ndarray:
        """Which scores are in the set, [N, M, …] → [N, …] bool."""
        below = np.sum([steps.below(scores[:, index]) for index, steps in enumerate(self.folds)], axis=0)
        inside: np.ndarray = below < needed(alpha, self.n_groups)
        return inside


@dataclass(frozen=True)
class Conformal:
    """Makes prediction sets.

    Attributes:
        alpha: Tolerated miscoverage, in 0…1.
        groups_per_class: [K] groups that hold a picture of each class.
        marginal: Scores of all classes.
        per_class: Whether classes were to have thresholds of their own.
        own: (class, its scores) of those that have.
    """

    alpha: float
    groups_per_class: tuple[int, ...]
    marginal: Table
    per_class: bool = False
    own: tuple[tuple[int, Table], ...] = ()

    @property
    def method(self) -> str:
        """Split or cv+."""
        return "split" if len(self.marginal.folds) == 1 else "cv+"

    @property
    def proven(self) -> float:
        """The coverage that is proven: 1 − α, of CV+ 1 − 2α less what few groups cost (Barber et al., theorem 4)."""
        folds, groups = len(self.marginal.folds), self.marginal.n_groups
        if folds == 1:
            return 1 - self.alpha
        cost = min(2 * (1 - 1 / folds) / (groups / folds + 1), (1 - folds / groups) / (folds + 1))
        return max(1 - 2 * self.alpha - max(cost, 0.0), 0.0)

    def sets(self, members: np.ndarray, top: np.ndarray | None = None) -> np.ndarray:
        """Prediction sets; the predicted class is always in. O(N M K log of the stored scores).

        Args:
            members: [N, M, K] logits of each fold's model, in the order of the folds; [N, K] for split conformal. At
                the temperature of the logits that were fitted.
            top: [N] predicted classes; None: the greatest mean probability.

        Returns:
            [N, K] bool.

        Raises:
            ValueError: M or K is another than was fitted.
        """
        members = members[:, None] if members.ndim == 2 else members
        shape = (len(self.marginal.folds), len(self.groups_per_class))
        if members.shape[1:] != shape:
            raise ValueError(f"logits of {shape[0]} members and {shape[1]} classes are needed, not {members.shape[1:]}")
        probabilities = softmax(members)
        found = self.marginal.includes(1 - probabilities, self.alpha)
        for index, table in self.own:
            found[:, index] = table.includes(1 - probabilities[:, :, index], self.alpha)
        top = probabilities.mean(axis=1).argmax(axis=1) if top is None else top
        found[np.arange(len(found)), top] = True
        return found

    def notices(self, classes: Sequence[str]) -> list[str]:
        """One line for each class that was to have its own threshold and has too few groups."""
        if not self.per_class:
            return []
        own = {index for index, _ in self.own}
        return [
            f"{name}: {count} groups are fewer than {OWN_GROUPS}, so its sets use the threshold of all classes"
            for index, (name, count) in enumerate(zip(classes, self.groups_per_class, strict=True))
            if index not in own
        ]


def needed(alpha: float, n_groups: int) -> float:
    """The groups below a score from which on it is out, (1 − α)(G + 1), less what rounding may add."""
    return (1 - alpha) * (n_groups + 1) - _SLACK


def fit(
    logits: np.ndarray,
    targets: np.ndarray,
    groups: Groups,
    *,
    alpha: float = 0.1,
    folds: np.ndarray | None = None,
    per_class: bool = False,
) -> Conformal:
    """Fits prediction sets to logits of pictures that the model (of their fold) has not learned from.

    Args:
        logits: [N, K] held-out or out-of-fold, N ≥ 1.
        targets: [N] class indices.
        groups: [N]; None: every picture is its own.
        alpha: Tolerated miscoverage.
        folds: [N] fold that held each picture out, 0…M−1; None: one model, split conformal.
        per_class: Thresholds for each class with at least 50 groups (class-conditional, Vovk 2012, ACML 25:475), so
            that the promise holds within it; the others use the threshold of all.

    Raises:
        ValueError: Alpha is not within 0…1, there are no pictures, folds are not numbered through, or a group lies in
            several.
    """
    if not 0 < alpha < 1 or not len(targets):
        raise ValueError(f"prediction sets need 0 < alpha < 1, not {alpha}, and at least one picture")
    codes, _ = codes_of(groups, len(targets))
    fold_of = np.zeros(len(targets), dtype=int) if folds is None else np.asarray(folds)
    numbers = np.unique(fold_of)
    if numbers.tolist() != list(range(len(numbers))):
        raise ValueError(f"folds are to be numbered 0…{len(numbers) - 1}, not {numbers.tolist()}")
    if len(np.unique(np.column_stack([codes, fold_of]), axis=0)) != len(np.unique(codes)):
        raise ValueError("a group lies in several folds, so its pictures were not held out")
    scores = 1 - softmax(logits)[np.arange(len(targets)), targets]
    counted = tuple(len(np.unique(codes[targets == index])) for index in range(logits.shape[1]))
    own = []
    for index, count in enumerate(counted if per_class else ()):
        if count >= OWN_GROUPS:
            inside = targets == index
            own.append((index, _table(scores[inside], codes[inside], fold_of[inside], len(numbers), alpha)))
    return Conformal(alpha, counted, _table(scores, codes, fold_of, len(numbers), alpha), per_class, tuple(own))


def _table(scores: np.ndarray, codes: np.ndarray, folds: np.ndarray, n_folds: int, alpha: float) -> Table:
    sizes = np.bincount(codes)
    n_groups = int((sizes > 0).sum())
    shares = 1 / sizes[codes]
    parts = [_steps(scores[folds == fold], shares[folds == fold]) for fold in range(n_folds)]
    if n_folds == 1:
        # One score decides all: the quantile, or +∞ where too few groups allow none.
        whole = parts[0]
        first = int(np.searchsorted(whole.counts, needed(alpha, n_groups)))
        parts = [Steps(whole.scores[first : first + 1], whole.counts[first : first + 1])]
    return Table(n_groups, tuple(_thin(steps, STORED_SCORES // n_folds) for steps in parts))


def _steps(scores: np.ndarray, shares: np.ndarray) -> Steps:
    # Rounded up: a lower count below a score leaves more classes in.
    levels, which = np.unique(np.ceil(scores * 1e6) / 1e6, return_inverse=True)
    counts = np.cumsum(np.bincount(which, weights=shares, minlength=len(levels)))
    return Steps(tuple(levels.round(6).tolist()), tuple(counts.round(9).tolist()))


def _thin(steps: Steps, most: int) -> Steps:
    """At most so many scores, evenly by rank, the last kept: those between move up to the next."""
    count = len(steps.scores)
    if count <= most:
        return steps
    kept = np.linspace(count / most - 1, count - 1, most).round().astype(int)
    return Steps(tuple(steps.scores[i] for i in kept), tuple(steps.counts[i] for i in kept))
