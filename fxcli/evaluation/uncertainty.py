"""What a model file knows of its own errors: temperature, prediction sets, when to abstain, what is unlike training.

All of it is fitted to pictures that the network at hand has never seen: out-of-fold, or a calibration part. Training
fits it, the header of the model file holds it, evaluation and prediction apply it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fxcli.evaluation import binary, calibration, conformal, conformal_header, novelty, selective
from fxcli.evaluation.conformal import Conformal
from fxcli.evaluation.metrics import softmax
from fxcli.evaluation.predictions import Labelled
from fxcli.recipe.schema import Evaluate

# Errors that `--abstain` can ask for.
TARGETS = tuple(round(0.05 * step, 2) for step in range(1, 13))
# A finding that is missed weighs more than one too many.
SENSITIVITY = 0.95


class Said(NamedTuple):
    """What is said of one picture.

    Attributes:
        probabilities: [K], at the model's temperature.
        classes: [K] bool, the prediction set; None where the model has none.
        unlike: Whether it is unlike the training pictures; None where that is not known.
    """

    probabilities: np.ndarray
    classes: np.ndarray | None = None
    unlike: bool | None = None


@dataclass(frozen=True)
class Uncertainty:
    """See the module.

    Attributes:
        source: "oof", "calibration", or "" where nothing was fitted.
        n: Pictures that it was fitted to.
        n_groups: Groups of them.
        temperature: Logits are divided by it.
        sets: Makes prediction sets; None without.
        abstentions: Tolerated error → least top probability that is answered, where one attains it.
        curve: (coverage, risk, threshold) along the risk–coverage curve.
        unlike: Distance above which a picture is unlike the training pictures; None without.
        threshold: Least probability of the finding that counts as one, where there is a negative class; else None.
    """

    source: str = ""
    n: int = 0
    n_groups: int = 0
    temperature: float = 1.0
    sets: Conformal | None = None
    abstentions: tuple[tuple[float, ...], ...] = ()
    curve: tuple[tuple[float, ...], ...] = ()
    unlike: float | None = None
    threshold: float | None = None

    def say(self, members: np.ndarray, distance: float | None, *, folds: list[list[int]] | None = None) -> Said:
        """Applies all of it to one picture.

        Args:
            members: [M, K] logits of the networks.
            distance: From the training pictures, or None.
            folds: Numbers of those of each fold, for a prediction set; None: it is not wanted.
        """
        scaled = members / self.temperature
        classes = None
        if self.sets and folds is not None:
            each = np.stack([scaled[numbers].mean(axis=0) for numbers in folds])
            classes = self.sets.sets(each[None], scaled.mean(axis=0).argmax(keepdims=True))[0]
        unlike = None if self.unlike is None or distance is None else bool(distance > self.unlike)
        return Said(softmax(scaled.mean(axis=0)), classes, unlike)

    def abstains_below(self, error: float) -> float | None:
        """The least top probability that is answered if at most this error is tolerated; None if that is never so."""
        found = [threshold for target, threshold in self.abstentions if target <= error + 1e-9]
        return found[-1] if found else None

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for a header."""
        return {
            "source": self.source,
            "n": self.n,
            "n_groups": self.n_groups,
            "temperature": self.temperature,
            "sets": None if self.sets is None else conformal_header.to_mapping(self.sets),
            "abstentions": [list(pair) for pair in self.abstentions],
            "curve": [list(point) for point in self.curve],
            "unlike": self.unlike,
            "threshold": self.threshold,
        }


def fit(
    said: Labelled, settings: Evaluate, classes: Sequence[str], *, source: str, folds: np.ndarray | None = None
) -> Uncertainty:
    """Fits it.

    Args:
        said: What was said of pictures never seen before.
        settings: Of the recipe: coverage, per_class_sets, negative_class.
        classes: K names.
        source: "oof" or "calibration".
        folds: [N] fold that held each picture out; None for a single network.
    """
    targets, groups = said.targets, said.groups
    temperature = calibration.fit_temperature(said.mean_logits, targets)
    logits = said.mean_logits / temperature
    found = [(target, selective.abstention(logits, targets, groups, target=target)) for target in TARGETS]
    alpha, threshold = 1 - settings.coverage, None
    if settings.negative_class is not None:
        negative = list(classes).index(settings.negative_class)
        threshold = binary.at_sensitivity(binary.finding(logits, negative), targets != negative, SENSITIVITY)
    return Uncertainty(
        source=source,
        n=len(targets),
        n_groups=len(set(groups)),
        temperature=temperature,
        sets=conformal.fit(logits, targets, groups, alpha=alpha, folds=folds, per_class=settings.per_class_sets),
        abstentions=tuple((target, each.threshold) for target, each in found if each is not None),
        curve=selective.risk_coverage(logits, targets).points(),
        unlike=None if said.distances is None else novelty.threshold(said.distances, groups),
        threshold=threshold,
    )


def from_mapping(values: Any, n_classes: int, n_folds: int) -> Uncertainty:
    """The object again, from a header that anybody may have written; of None, one that changes nothing.

    Args:
        values: From the header.
        n_classes: K of the model.
        n_folds: Of its members; 1 for a single network.

    Raises:
        ValueError: It is not what `to_mapping` writes.
    """
    if values is None:
        return Uncertainty()
    if not isinstance(values, dict) or set(values) != set(Uncertainty().to_mapping()):
        raise ValueError("uncertainty is not a mapping of what it should be")
    low, high = calibration.TEMPERATURES
    temperature = _number(values["temperature"], "temperature", low / 2, 2 * high)
    unlike = None if values["unlike"] is None else _number(values["unlike"], "unlike", 0, 1e30)
    threshold = None if values["threshold"] is None else _number(values["threshold"], "threshold", 0, 1)
    n, n_groups = values["n"], values["n_groups"]
    if any(type(count) is not int or not 0 <= count <= 1e15 for count in (n, n_groups)):
        raise ValueError("uncertainty has no counts")
    sets = None if values["sets"] is None else conformal_header.from_mapping(values["sets"], n_classes)
    if sets is not None and len(sets.marginal.folds) != n_folds:
        raise ValueError(f"sets are of {len(sets.marginal.folds)} folds, the model of {n_folds}")
    return Uncertainty(
        source=str(values["source"])[:20],
        n=n,
        n_groups=n_groups,
        temperature=temperature,
        sets=sets,
        abstentions=_rows(values["abstentions"], "abstentions", 2),
        curve=_rows(values["curve"], "curve", 3),
        unlike=unlike,
        threshold=threshold,
    )


def _number(value: Any, name: str, least: float, most: float) -> float:
    # Compared before it becomes a float: a whole number from JSON may be too large for one, and NaN compares false.
    if type(value) not in (int, float) or not least <= value <= most:
        raise ValueError(f"{name} is {str(value)[:40]}")
    return float(value)


def _rows(values: Any, name: str, width: int) -> tuple[tuple[float, ...], ...]:
    if not isinstance(values, list) or not all(isinstance(row, list) and len(row) == width for row in values):
        raise ValueError(f"{name} are not rows of {width} numbers")
    return tuple(tuple(_number(value, name, 0, 1) for value in row) for row in values)
