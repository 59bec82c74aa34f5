"""Figures of a classifier on the validation part, by the same code as `fx evaluate`. Called by feed and finish."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxcli.evaluation import metrics
from fxcli.inference.engines import TorchEngine
from fxcli.inference.pipeline import Pipeline
from fxcli.model.hardware import Compute
from fxcli.training.state import Training


def validate(training: Training) -> dict[str, Any]:
    """Figures on the validation part; {} without one."""
    paths, targets = training.part("val")
    return figures_of(training, pipeline_of(training).logits(paths), targets) if paths else {}


def pipeline_of(training: Training) -> Pipeline:
    """How `fx evaluate` runs the model: in fp32, whatever training computes in."""
    model, compute = training.model, training.compute
    engine = TorchEngine(model.members, model.preprocessing, Compute(compute.device, "fp32", compute.channels_last))
    return Pipeline(engine, model.preprocessing, batch_size=training.recipe.evaluate.batch_size)


def figures_of(training: Training, logits: np.ndarray, targets: list[int]) -> dict[str, Any]:
    """Figures without intervals, for every epoch."""
    return metrics.classification(logits, np.asarray(targets), training.model.classes)
