"""What columns of a manifest tell of a finding without any picture: what a model has to beat to have looked at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxcli.evaluation import binary
from fxcli.evaluation.bootstrap import RESAMPLES
from fxcli.evaluation.figures import mapping
from fxcli.evaluation.intervals import Groups


@dataclass(frozen=True)
class Metadata:
    """A model of columns alone, and its answers.

    Attributes:
        columns: That it knows.
        n_learnt: Pictures that it was fitted on.
        scores: [N] its log-odds of a finding for each picture that is measured.
    """

    columns: tuple[str, ...]
    n_learnt: int
    scores: np.ndarray

    def auroc(
        self,
        positive: np.ndarray,
        groups: Groups = None,
        *,
        inside: np.ndarray | None = None,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> dict[str, float | None] | None:
        """How well it tells pictures with a finding from others, as {value, low, high}; None with one class alone.

        Args:
            positive: [n] bool.
            groups: [n]; None: every picture is its own.
            inside: [N] bool: the n pictures; None: all.
            resamples: Of the bootstrap over groups.
            seed: Likewise.
        """
        scores = self.scores if inside is None else self.scores[inside]
        return mapping(binary.areas(scores, positive, groups, resamples=resamples, seed=seed)["auroc"])

    def to_mapping(self, positive: np.ndarray, groups: Groups = None) -> dict[str, Any]:
        """Columns, n_learnt, and auroc as of `auroc`, as plain values."""
        return {
            "columns": list(self.columns),
            "n_learnt": self.n_learnt,
            "auroc": self.auroc(positive, groups),
        }


def metadata_alone(
    learnt: Mapping[str, Sequence[str]], positive: Sequence[bool], asked: Mapping[str, Sequence[str]]
) -> Metadata | None:
    """Fits a logistic regression to columns, each value a category, and asks it of other pictures.

    Args:
        learnt: Column → value of each picture that it is fitted on, [M].
        positive: [M] whether it bears a finding.
        asked: The same columns of the pictures that are measured, [N]; a value that it never saw tells nothing.

    Returns:
        None without a column, or where all the pictures that it could learn from are alike.
    """
    if not learnt or len(set(positive)) < 2:
        return None
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression(max_iter=1000))
    model.fit(_table(learnt), np.asarray(positive))
    return Metadata(
        tuple(learnt), len(positive), model.decision_function(_table({name: asked[name] for name in learnt}))
    )


def _table(columns: Mapping[str, Sequence[str]]) -> np.ndarray:
    return np.array([list(values) for values in columns.values()], dtype=object).T
