"""fx from Python: `fxcli.load(model).predict(paths)`, for notebooks and scripts.

It runs what `fx predict` runs, and answers with what its rows hold. Called by nothing in fx.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fxcli.console import console
from fxcli.data import scan
from fxcli.data.names import path_cell
from fxcli.errors import UsageError
from fxcli.evaluation.box_table import BoxTable
from fxcli.evaluation.predictions import PredictionTable
from fxcli.explain.draw import draw_answer
from fxcli.inference.detected import OpenedDetector, Sighting, is_detector, open_detector, row_of
from fxcli.inference.opened import Opened, open_model
from fxcli.inference.pipeline import Answer
from fxcli.inference.verdict import Judge
from fxcli.run.directory import find_model

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one picture.

    Attributes:
        path: The file.
        row: All of it, as one line of `fx predict --json`.
        features: [D] float32, what the head sees, of several networks side by side; None without an answer, of an
            exported model, and of a detector.
        heat: [H, W] float32, evidence for the class in logits over the radiograph; None unless it was asked for.
        overlay: [H, W, 3] uint8, the same over the picture.
    """

    path: Path
    row: dict[str, Any]
    features: np.ndarray | None = None
    heat: np.ndarray | None = None
    overlay: np.ndarray | None = None

    @property
    def label(self) -> str | None:
        """The class; None where there is no answer, and of a detector."""
        return self.row.get("class")

    @property
    def probabilities(self) -> dict[str, float]:
        """By class; {} where there is no answer, and of a detector."""
        return dict(self.row.get("probabilities", {}))

    @property
    def boxes(self) -> list[dict[str, Any]]:
        """Of a detector: class, score, left, top, right and bottom of each, in pixels of the original."""
        return list(self.row.get("boxes", []))

    @property
    def reason(self) -> str:
        """Why there is no answer, or what is odd about the picture; "" otherwise."""
        return str(self.row.get("reason", ""))


class Model:
    """A model, ready to predict; `fxcli.load` makes one.

    Args:
        opened: A classifier or a detector.
    """

    def __init__(self, opened: Opened | OpenedDetector) -> None:
        self._opened = opened

    @property
    def classes(self) -> tuple[str, ...]:
        """Of its answers, or of its boxes."""
        return tuple(self._opened.model.classes)

    @property
    def info(self) -> dict[str, Any]:
        """What its file says of its training: recipe, data, backbone, date and more."""
        return dict(self._opened.model.info)

    def predict(
        self,
        paths: PathLike | Iterable[PathLike],
        *,
        heat_maps: bool = False,
        sets: bool = False,
        score: float | None = None,
    ) -> list[Prediction]:
        """What it says of pictures, in their order; one that cannot be read has a reason in place of an answer.

        Args:
            paths: Of pictures, and of folders, which are searched below.
            heat_maps: Of a classifier: whether to keep `heat` and `overlay` of each, some megabytes.
            sets: Of a classifier that knows its errors: whether to add prediction sets, as `row["set"]`.
            score: Of a detector: the least score of a box, in place of its own.

        Raises:
            FxError: A path does not exist, a folder has no picture, or the model cannot do what is asked.
        """
        named = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        files = scan.pictures(Path(path) for path in named)
        opened = self._opened
        if isinstance(opened, OpenedDetector):
            if heat_maps or sets:
                raise UsageError("heat_maps and sets are for classifiers, and this is a detector")
            if score is not None and not 0 <= score <= 1:
                raise UsageError(f"score is {score}: it must be from 0 to 1")
            return [_located(opened, opened.least_score(score), sighting) for sighting in opened.finder.over(files)]
        if score is not None:
            raise UsageError("score is for a detector, and this is a classifier")
        judge = Judge(opened, None, sets=sets, abstain=None)
        table = PredictionTable(opened.model.classes, opened.model.info, extra=judge.columns)
        tell = partial(_told, judge, table, heat_maps)
        return list(console.progress(opened.pipeline.map(tell, files), total=len(files), what="predict"))


def _told(judge: Judge, table: PredictionTable, heat_maps: bool, answer: Answer) -> Prediction:
    verdict = judge.verdict(answer)
    verdict.pop("cautions")
    path = verdict.pop("path")
    row = table.record(path_cell(str(path)), **verdict)
    features = None if answer.features is None else answer.features.reshape(-1)
    if not heat_maps or answer.cleaned is None:
        return Prediction(path, row, features)
    drawn = draw_answer(judge.opened, answer)
    return Prediction(path, row, features, drawn.heat, drawn.coloured)


def _located(opened: OpenedDetector, least: float, sighting: Sighting) -> Prediction:
    told = row_of(sighting, opened.model.classes, least)
    return Prediction(sighting.path, BoxTable(opened.model.info).record(path_cell(str(sighting.path)), **told))


def load(model: PathLike | None, *, device: str | None, quiet: bool) -> Model:
    """See `fxcli.load`."""
    console.configure(quiet=quiet)
    file, run = find_model(None if model is None else os.fspath(model))
    if is_detector(file):
        return Model(open_detector(file, run, device=device, fast=True))
    return Model(open_model(str(file), device=device, fast=True, draft=True))
