"""Predictions: the columns of their table, as CSV cells and JSON objects, and labelled ones as arrays.

Text in, text out: files are the callers' matter.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from fxcli.console import INTENDED_USE
from fxcli.evaluation.metrics import softmax
from fxcli.evaluation.table import csv_line, path_cell

DEMO = "DEMO: this model was trained on drawn phantoms and says nothing about real pictures."


def notice(*, demo: bool) -> str:
    """The line that every output carries."""
    return f"{DEMO} {INTENDED_USE}" if demo else INTENDED_USE


class LabelledRow(NamedTuple):
    """One labelled picture and what a model said of it; without logits it could not be used."""

    path: str
    label: str
    group: str
    logits: np.ndarray | None = None
    distance: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Labelled:
    """What a model said of labelled pictures.

    Attributes:
        paths: N, as the manifest has them.
        groups: N; pictures of one group do not count as independent.
        targets: [N] class indices.
        logits: [S, N, K] float32 of each of S seeds; without seeds S is 1.
        distances: [N] from the training pictures; None where the model has no statistics.
    """

    paths: tuple[str, ...]
    groups: tuple[str, ...]
    targets: np.ndarray
    logits: np.ndarray
    distances: np.ndarray | None = None

    @property
    def mean_logits(self) -> np.ndarray:
        """[N, K], the mean over seeds."""
        return self.logits.mean(axis=0)  # type: ignore[no-any-return]

    @classmethod
    def joined(cls, parts: Sequence[Labelled]) -> Labelled:
        """Of several sets of pictures, one after the other."""
        distances = [part.distances for part in parts if part.distances is not None]
        return cls(
            tuple(path for part in parts for path in part.paths),
            tuple(group for part in parts for group in part.groups),
            np.concatenate([part.targets for part in parts]),
            np.concatenate([part.logits for part in parts], axis=1),
            np.concatenate(distances) if len(distances) == len(parts) else None,
        )

    @classmethod
    def of_seeds(cls, seeds: Sequence[Labelled]) -> Labelled:
        """Of the same pictures by several trainings; distances are the first one's.

        Raises:
            ValueError: They are not the same pictures.
        """
        if any(each.paths != seeds[0].paths for each in seeds):
            raise ValueError("the seeds did not say something of the same pictures")
        return replace(seeds[0], logits=np.concatenate([each.logits for each in seeds]))

    def rows(self, classes: Sequence[str]) -> Iterator[LabelledRow]:
        """One for each picture, with the mean logits."""
        for place, logits in enumerate(self.mean_logits):
            distance = None if self.distances is None else float(self.distances[place])
            yield LabelledRow(self.paths[place], classes[self.targets[place]], self.groups[place], logits, distance)

    def chosen(self, places: Sequence[int] | np.ndarray) -> Labelled:
        """Some of the pictures, by index."""
        index = np.asarray(places, dtype=int)
        return Labelled(
            tuple(self.paths[i] for i in index),
            tuple(self.groups[i] for i in index),
            self.targets[index],
            self.logits[:, index],
            None if self.distances is None else self.distances[index],
        )


class PredictionTable:
    """Rows of predictions.

    Args:
        classes: Names, in the order of the logits.
        demo: Whether the model was trained on phantoms.
        labelled: Whether rows carry the true label, the group, the logits and the distance (evaluation).
    """

    def __init__(self, classes: Sequence[str], *, demo: bool, labelled: bool = False) -> None:
        self.classes, self.labelled, self.notice = list(classes), labelled, notice(demo=demo)

    @property
    def columns(self) -> list[str]:
        """path, status, reason, class, p_<class>…, if labelled label, group, logit_<class>… and distance, notice."""
        extra = ["label", "group", *(f"logit_{name}" for name in self.classes), "distance"] if self.labelled else []
        return ["path", "status", "reason", "class", *(f"p_{name}" for name in self.classes), *extra, "notice"]

    def cells(
        self,
        path: str,
        *,
        logits: np.ndarray | None = None,
        reason: str = "",
        label: str = "",
        group: str = "",
        distance: float | None = None,
    ) -> list[str]:
        """One row for a CSV.

        Args:
            path: As shown.
            logits: [K], or None for a picture that could not be used.
            reason: Why it could not.
            label: The true class, if labelled.
            group: Likewise.
            distance: From the training pictures, if labelled and known.
        """
        count = len(self.classes)
        if logits is None:
            extra = [label, group, *[""] * count, ""] if self.labelled else []
            return [path, "error", reason, "", *[""] * count, *extra, self.notice]
        probabilities = softmax(logits)
        # str of a float32 is the shortest text that reads back as the same bits.
        shown = "" if distance is None else f"{distance:.6g}"
        extra = [label, group, *(str(value) for value in logits), shown] if self.labelled else []
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


def labelled_csv(rows: Iterable[LabelledRow], classes: Sequence[str], *, demo: bool) -> str:
    """Labelled predictions as the text of a CSV."""
    table = PredictionTable(classes, demo=demo, labelled=True)
    lines = [csv_line(table.columns)]
    for row in rows:
        rest = row._asdict()
        lines.append(csv_line(table.cells(path_cell(rest.pop("path")), **rest)))
    return "\n".join(lines) + "\n"


def read_labelled(text: str) -> tuple[Labelled, tuple[str, ...]]:
    """Labelled predictions from the text of a CSV, and the classes; rows with status=error are left out.

    Raises:
        ValueError: It is none.
    """
    reader = csv.DictReader(io.StringIO(text))
    classes = tuple(name.removeprefix("logit_") for name in reader.fieldnames or () if name.startswith("logit_"))
    rows = [row for row in reader if row.get("status") == "ok"]
    if not classes or not rows:
        raise ValueError("no predictions of labelled pictures")
    try:
        index = {name: number for number, name in enumerate(classes)}
        distances = [row["distance"] for row in rows]
        return (
            Labelled(
                paths=tuple(row["path"] for row in rows),
                groups=tuple(row["group"] or row["path"] for row in rows),
                targets=np.array([index[row["label"]] for row in rows], dtype=int),
                logits=np.array([[[row[f"logit_{name}"] for name in classes] for row in rows]], dtype=np.float32),
                distances=np.array(distances, dtype=float) if all(distances) else None,
            ),
            classes,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"predictions of labelled pictures lack {error}") from error
