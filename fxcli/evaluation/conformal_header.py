"""Prediction sets as plain values for the header of a model file, and back, trusting nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxcli.evaluation.conformal import OWN_GROUPS, STORED_SCORES, Conformal, Steps, Table

_MOST = 1_000_000_000
_MOST_FOLDS = 1000


def to_mapping(conformal: Conformal) -> dict[str, Any]:
    """Plain values: lists, whole numbers and floats of at most nine digits."""
    return {
        "method": conformal.method,
        "alpha": conformal.alpha,
        "groups_per_class": list(conformal.groups_per_class),
        "per_class": conformal.per_class,
        "marginal": _of_table(conformal.marginal),
        "own": {str(index): _of_table(table) for index, table in conformal.own},
    }


def _of_table(table: Table) -> dict[str, Any]:
    folds = [{"scores": list(steps.scores), "counts": list(steps.counts)} for steps in table.folds]
    return {"n_groups": table.n_groups, "folds": folds}


def from_mapping(values: Any, n_classes: int) -> Conformal:
    """The object again.

    Args:
        values: From a header that anybody may have written.
        n_classes: K of the model.

    Raises:
        ValueError: It is not what `to_mapping` writes, and what is wrong.
    """
    found = _keys(values, {"method", "alpha", "groups_per_class", "per_class", "marginal", "own"}, "conformal")
    alpha = _floats([found["alpha"]], "alpha")[0]
    counted = found["groups_per_class"]
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}, not within 0…1")
    if not isinstance(counted, list) or len(counted) != n_classes:
        raise ValueError(f"groups_per_class is not a list of {n_classes}")
    if not isinstance(found["own"], dict) or len(found["own"]) > n_classes:
        raise ValueError("own is not a mapping of classes")
    if type(found["per_class"]) is not bool or (found["own"] and not found["per_class"]):
        raise ValueError("per_class is not true or false, or denies what own holds")
    marginal = _table(found["marginal"], "marginal")
    known = {str(index): index for index in range(n_classes)}
    own = []
    for name, of_class in found["own"].items():
        if name not in known:
            raise ValueError(f"own has the class {str(name)[:40]!r}, and there are {n_classes}")
        table = _table(of_class, f"own {name}")
        if len(table.folds) != len(marginal.folds) or table.n_groups < OWN_GROUPS:
            raise ValueError(f"own {name} has {len(table.folds)} folds of {table.n_groups} groups")
        own.append((known[name], table))
    whole = tuple(_whole(count, "groups_per_class") for count in counted)
    conformal = Conformal(alpha, whole, marginal, found["per_class"], tuple(own))
    if found["method"] != conformal.method:
        raise ValueError(f"method is not {conformal.method!r}, and there are {len(marginal.folds)} folds")
    return conformal


def _keys(values: Any, expected: set[str], what: str) -> dict[str, Any]:
    if not isinstance(values, dict) or set(values) != expected:
        raise ValueError(f"{what} is not a mapping of {', '.join(sorted(expected))}")
    return values


def _whole(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise ValueError(f"{what} holds something else than a whole number of 0…{_MOST}")
    return value


def _floats(values: Any, what: str) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) > STORED_SCORES:
        raise ValueError(f"{what} is not a list of at most {STORED_SCORES} numbers")
    # A whole number from JSON may be too large for a float, and NaN compares false.
    if not all(type(value) in (int, float) and 0 <= value <= _MOST for value in values):
        raise ValueError(f"{what} holds something else than numbers of 0…{_MOST}")
    return tuple(float(value) for value in values)


def _table(values: Any, what: str) -> Table:
    found = _keys(values, {"n_groups", "folds"}, what)
    n_groups, folds = _whole(found["n_groups"], f"{what} n_groups"), found["folds"]
    if n_groups < 1 or not isinstance(folds, list) or not 1 <= len(folds) <= _MOST_FOLDS:
        raise ValueError(f"{what} has no groups, or not 1…{_MOST_FOLDS} folds")
    parts = [_steps(fold, f"{what} fold {index}") for index, fold in enumerate(folds)]
    if sum(steps.counts[-1] for steps in parts if steps.counts) > n_groups + 1e-3:
        raise ValueError(f"{what} counts more than its {n_groups} groups")
    return Table(n_groups, tuple(parts))


def _steps(values: Any, what: str) -> Steps:
    found = _keys(values, {"scores", "counts"}, what)
    scores, counts = _floats(found["scores"], f"{what} scores"), _floats(found["counts"], f"{what} counts")
    if len(scores) != len(counts):
        raise ValueError(f"{what} has {len(scores)} scores and {len(counts)} counts")
    if scores and (max(scores) > 1 or min(np.diff(scores), default=1) <= 0):
        raise ValueError(f"{what} scores do not ascend within 0…1")
    if counts and (counts[0] <= 0 or min(np.diff(counts), default=1) <= 0):
        raise ValueError(f"{what} counts do not ascend from 0")
    return Steps(scores, counts)
