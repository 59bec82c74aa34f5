"""Predictions: the columns of their table, as CSV cells and JSON objects, and labelled ones as arrays.

Text in, text out: files are the callers' matter.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from fxcli.console import ASSUMES_FRACTURE, DEMO, INTENDED_USE
from fxcli.data.names import path_cell, path_of, text_cell, text_of
from fxcli.errors import DataError
from fxcli.evaluation import subgroups
from fxcli.evaluation.box_table import box_cells
from fxcli.evaluation.metrics import softmax
from fxcli.evaluation.table import csv_line


def assumes_fracture(info: Mapping[str, Any]) -> bool:
    """Whether a model, whose header this is, gives answers, and has none for pictures without a finding."""
    return info.get("negative_class") is None and info.get("task") != "pretrain"


def notice(info: Mapping[str, Any]) -> str:
    """The line that every output of a model carries, whose header this is."""
    lines = [DEMO] if info.get("demo") else []
    return " ".join([*lines, INTENDED_USE, *([ASSUMES_FRACTURE] if assumes_fracture(info) else [])])


class LabelledRow(NamedTuple):
    """One labelled picture and what a model said of it; without logits it could not be used, for the reason."""

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
        by_fold: [N, F, K] logits of the networks of each fold, where one model said all of it.
    """

    paths: tuple[str, ...]
    groups: tuple[str, ...]
    targets: np.ndarray
    logits: np.ndarray
    distances: np.ndarray | None = None
    by_fold: np.ndarray | None = None

    @property
    def mean_logits(self) -> np.ndarray:
        """[N, K], the mean over seeds."""
        return self.logits.mean(axis=0)  # type: ignore[no-any-return]

    def shared(self, other: Labelled) -> tuple[Labelled, Labelled] | None:
        """Both on the pictures that they share; None where there are none, or labels or classes differ."""
        place = {path: index for index, path in enumerate(other.paths)}
        both = [index for index, path in enumerate(self.paths) if path in place]
        ours, theirs = self.chosen(both), other.chosen([place[self.paths[index]] for index in both])
        is_same = np.array_equal(ours.targets, theirs.targets) and ours.logits.shape[2] == theirs.logits.shape[2]
        return (ours, theirs) if both and is_same else None

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
        """Of the same pictures by several trainings; distances are their mean.

        Raises:
            ValueError: They are not the same pictures.
        """
        if any(each.paths != seeds[0].paths for each in seeds):
            raise ValueError("the seeds did not say something of the same pictures")
        distances = [each.distances for each in seeds if each.distances is not None]
        return replace(
            seeds[0],
            logits=np.concatenate([each.logits for each in seeds]),
            distances=np.mean(distances, axis=0) if len(distances) == len(seeds) else None,
        )

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
            None if self.by_fold is None else self.by_fold[index],
        )


def of_studies(said: Labelled, column: Sequence[str]) -> Labelled:
    """One answer for each study, from the mean logits of its pictures.

    Args:
        said: Of pictures.
        column: [N] the study of each.

    Raises:
        DataError: Pictures of one study have different labels.
    """
    try:
        seeds = [subgroups.studies(column, logits, said.targets, said.groups) for logits in said.logits]
    except ValueError as error:
        raise DataError(str(error)) from error
    first = seeds[0]
    return Labelled(
        tuple(first.names), tuple(map(str, first.groups)), first.targets, np.stack([each.logits for each in seeds])
    )


class PredictionTable:
    """Rows of predictions.

    Args:
        classes: Names, in the order of the probabilities; of a model without any, rows name none.
        info: Header of the model file.
        labelled: Whether rows carry the true label, the group, the logits and the distance (evaluation).
        extra: Further columns of a prediction, by what is known: of unlike_training, set and p_finding.
    """

    def __init__(
        self, classes: Sequence[str], info: Mapping[str, Any], *, labelled: bool = False, extra: Sequence[str] = ()
    ) -> None:
        self.classes, self.labelled, self.extra = list(classes), labelled, list(extra)
        self.notice, self.assumes_fracture = notice(info), assumes_fracture(info)

    @property
    def columns(self) -> list[str]:
        """path, status, reason, class, p_<class>…, then what is known, assumes_fracture and notice."""
        labelled = ["label", "group", *(f"logit_{name}" for name in self.classes), "distance"] if self.labelled else []
        known = [*(f"p_{name}" for name in self.classes), *labelled, *self.extra]
        named = ["class"] if self.classes else []
        return ["path", "status", "reason", *named, *known, "assumes_fracture", "notice"]

    def cells(self, record: Mapping[str, Any]) -> list[str]:
        """One row for a CSV, of what `record` gives; what it lacks stays empty."""
        probabilities = record.get("probabilities", {})
        values = {**record, **{f"p_{name}": f"{p:.6f}" for name, p in probabilities.items()}}
        values |= {"reason": text_cell(values.get("reason", "")), **box_cells(record)}
        return [_cell(values.get(name, "")) for name in self.columns]

    def record(
        self,
        path: str,
        *,
        probabilities: np.ndarray | None = None,
        status: str = "ok",
        reason: str = "",
        **extra: Any,
    ) -> dict[str, Any]:
        """One row as a JSON object.

        Args:
            path: As shown.
            probabilities: [K]; None for a picture that could not be used, or is not to be answered.
            status: "ok", or why there is no class.
            reason: In words.
            extra: Values of further columns.
        """
        found: dict[str, Any] = {"path": path, "status": status}
        if reason:
            found["reason"] = reason
        if probabilities is not None:
            if status == "ok":
                found["class"] = self.classes[int(probabilities.argmax())]
            found["probabilities"] = {name: float(p) for name, p in zip(self.classes, probabilities, strict=True)}
        return found | extra | {"assumes_fracture": self.assumes_fracture, "notice": self.notice}


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # Class names have no such sign.
    return "|".join(value) if isinstance(value, list) else str(value)


def labelled_csv(
    rows: Iterable[LabelledRow], classes: Sequence[str], info: Mapping[str, Any], *, temperature: float = 1.0
) -> str:
    """Labelled predictions as the text of a CSV; logits are as the network gave them."""
    table = PredictionTable(classes, info, labelled=True)
    lines = [csv_line(table.columns)]
    for row in rows:
        told: dict[str, Any] = {"label": row.label, "group": text_cell(row.group), "reason": row.reason}
        if row.logits is None:
            told["status"] = "error"
        else:
            # str of a float32 is the shortest text that reads back as the same bits.
            told |= {f"logit_{name}": str(value) for name, value in zip(classes, row.logits, strict=True)}
            told["probabilities"] = softmax(row.logits / temperature)
        if row.distance is not None:
            told["distance"] = f"{row.distance:.6g}"
        lines.append(csv_line(table.cells(table.record(path_cell(row.path), **told))))
    return "\n".join(lines) + "\n"


def read_labelled(text: str) -> tuple[Labelled, tuple[str, ...]]:
    """Labelled predictions from the text of a CSV, and the classes; rows with status=error are left out.

    Raises:
        ValueError: It is none.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        classes = tuple(name.removeprefix("logit_") for name in reader.fieldnames or () if name.startswith("logit_"))
        rows = [row for row in reader if row.get("status") == "ok"]
    except csv.Error as error:
        raise ValueError(f"no CSV: {error}") from error
    if not classes or not rows:
        raise ValueError("no predictions of labelled pictures")
    try:
        index = {name: number for number, name in enumerate(classes)}
        distances = [row["distance"] for row in rows]
        return (
            Labelled(
                paths=tuple(path_of(row["path"]) for row in rows),
                groups=tuple(text_of(row["group"]) for row in rows),
                targets=np.array([index[row["label"]] for row in rows], dtype=int),
                logits=np.array([[[row[f"logit_{name}"] for name in classes] for row in rows]], dtype=np.float32),
                distances=np.array(distances, dtype=float) if all(distances) else None,
            ),
            classes,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"predictions of labelled pictures lack {error}") from error
