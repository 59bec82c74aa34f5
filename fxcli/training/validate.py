"""Figures of a classifier on the validation part, by the same code as `fx evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fxcli.evaluation import metrics
from fxcli.inference.engines import TorchEngine
from fxcli.inference.pipeline import Pipeline
from fxcli.model.hardware import Compute
from fxcli.training.state import ClassifyTraining


def part(training: ClassifyTraining, split: str) -> tuple[list[Path], list[int]]:
    """Files and class indices of a split."""
    index = {name: number for number, name in enumerate(training.model.classes)}
    rows = training.manifest.part(split)
    return [training.manifest.path_of(row) for row in rows], [index[row.label] for row in rows]


def validate(training: ClassifyTraining) -> dict[str, Any]:
    """Figures on the validation part; {} without one."""
    paths, targets = part(training, "val")
    return figures_of(training, pipeline_of(training).logits(paths), targets) if paths else {}


def pipeline_of(training: ClassifyTraining) -> Pipeline:
    """How `fx evaluate` runs the model: in fp32, whatever training computes in."""
    model, compute = training.model, training.compute
    engine = TorchEngine(model.members, model.preprocessing, Compute(compute.device, "fp32", compute.channels_last))
    return Pipeline(engine, model.preprocessing, batch_size=training.recipe.evaluate.batch_size)


def figures_of(training: ClassifyTraining, logits: np.ndarray, targets: list[int]) -> dict[str, Any]:
    """Figures without intervals, for every epoch."""
    return metrics.classification(logits, np.asarray(targets), training.model.classes)
