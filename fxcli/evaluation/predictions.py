"""The table of predictions: its columns, as CSV cells and as JSON objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fxcli.console import INTENDED_USE
from fxcli.evaluation.metrics import softmax

DEMO = "DEMO: this model was trained on drawn phantoms and says nothing about real pictures."


def notice(*, demo: bool) -> str:
    """The line that every output carries."""
    return f"{DEMO} {INTENDED_USE}" if demo else INTENDED_USE


class PredictionTable:
    """Rows of predictions.

    Args:
        classes: Names, in the order of the logits.
        demo: Whether the model was trained on phantoms.
        labelled: Whether rows carry the true label and the logits (evaluation).
    """

    def __init__(self, classes: Sequence[str], *, demo: bool, labelled: bool = False) -> None:
        self.classes, self.labelled, self.notice = list(classes), labelled, notice(demo=demo)

    @property
    def columns(self) -> list[str]:
        """path, status, reason, class, p_<class>…, label and logit_<class>… if labelled, notice."""
        extra = ["label", *(f"logit_{name}" for name in self.classes)] if self.labelled else []
        return [
            "path",
            "status",
            "reason",
            "class",
            *(f"p_{name}" for name in self.classes),
            *extra,
            "notice",
        ]

    def cells(self, path: str, *, logits: np.ndarray | None = None, reason: str = "", label: str = "") -> list[str]:
        """One row for a CSV.

        Args:
            path: As shown.
            logits: [K], or None for a picture that could not be used.
            reason: Why it could not.
            label: The true class, if labelled.
        """
        count = len(self.classes)
        if logits is None:
            extra = [label, *[""] * count] if self.labelled else []
            return [path, "error", reason, "", *[""] * count, *extra, self.notice]
        probabilities = softmax(logits)
        # str of a float32 is the shortest text that reads back as the same bits.
        extra = [label, *(str(value) for value in logits)] if self.labelled else []
        name = self.classes[int(probabilities.argmax())]
        return [path, "ok", "", name, *(f"{p:.6f}" for p in probabilities), *extra, self.notice]

    def record(self, path: str, *, logits: np.ndarray | None = None, reason: str = "") -> dict[str, Any]:
        """One row as a JSON object."""
        if logits is None:
            return {"path": path, "status": "error", "reason": reason, "notice": self.notice}
        probabilities = softmax(logits)
        return {
            "path": path,
            "status": "ok",
            "class": self.classes[int(probabilities.argmax())],
            "probabilities": {name: float(p) for name, p in zip(self.classes, probabilities, strict=True)},
            "notice": self.notice,
        }
