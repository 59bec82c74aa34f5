"""What becomes of a training at its end: the model that is kept, what it must know of itself, and its figures.

The model file gets the weights, how the training pictures lie in feature space, and whether bf16 gives the answers of
fp32. What the model says of held-out pictures (split `calibration`) is written beside it; ensemble makes use of it.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fxcli.console import console
from fxcli.data.manifest import HELD_OUT, groups_of
from fxcli.evaluation import agreement, novelty, uncertainty
from fxcli.evaluation.predictions import Labelled, labelled_csv
from fxcli.inference import engines
from fxcli.inference.pipeline import Pipeline
from fxcli.model.classifier import STATISTICS, FeatureStatistics
from fxcli.model.hardware import Compute, has_bf16
from fxcli.run.directory import Run
from fxcli.run.files import write_text
from fxcli.training import features, state, validate
from fxcli.training.state import ClassifyTraining


def finish(training: ClassifyTraining, run: Run) -> dict[str, Any]:
    """Writes the model that is kept and returns its validation figures."""
    model = training.model
    state.keep(training, run)
    model.network.statistics = _statistics(training)
    held_out = _held_out(training, run)
    figures: dict[str, Any] = {}
    paths, targets = validate.part(training, "val")
    if paths:
        exact = validate.pipeline_of(training).logits(paths)
        figures = validate.figures_of(training, exact, targets)
        model.info["agreement"] = _compare_bf16(training, paths, exact, targets)
    elif held_out is not None:
        paths, targets = validate.part(training, HELD_OUT)
        model.info["agreement"] = _compare_bf16(training, paths, held_out.mean_logits, targets)
    model.save(run.model_file)
    return figures


def _statistics(training: ClassifyTraining) -> FeatureStatistics | None:
    try:
        found = novelty.fit(features.of_training_pictures(training).numpy())
    except ValueError as error:
        console.warn(f"it will not be told which pictures are unlike the training pictures: {error}")
        return None
    values = (torch.as_tensor(getattr(found, name), dtype=torch.float32) for name in STATISTICS)
    return FeatureStatistics(*values).to(training.compute.device)


def _held_out(training: ClassifyTraining, run: Run) -> Labelled | None:
    """What the model says of the pictures that were held out, if there are any: written, and learnt from.

    A part of a run leaves the learning to the whole.
    """
    model, rows = training.model, training.manifest.part(HELD_OUT)
    if not rows:
        return None
    paths, targets = validate.part(training, HELD_OUT)
    logits, distances = zip(*validate.pipeline_of(training).readable(paths), strict=True)
    said = Labelled(
        paths=tuple(row.path for row in rows),
        groups=tuple(groups_of(rows)),
        targets=np.asarray(targets),
        logits=np.stack(logits, axis=1),
        distances=None if None in distances else np.array(distances, dtype=float),
    )
    classes = model.classes
    write_text(run.held_out_file, labelled_csv(said.rows(classes), classes, model.info))
    if run.info().get("part_of") is None:
        found = uncertainty.fit(said, training.recipe.evaluate, classes, source=HELD_OUT)
        model.info["uncertainty"] = found.to_mapping()
    return said


def _compare_bf16(
    training: ClassifyTraining, paths: list[Path], exact: np.ndarray, targets: list[int]
) -> dict[str, Any]:
    """Whether `fx predict` may compute in bf16 on this kind of device: for the model file."""
    model, device = training.model, training.compute.device
    if not has_bf16(device):
        return {}
    try:
        # Made fast, a network can be neither saved nor trained.
        members = copy.deepcopy(model.members)
        engine = engines.fast(members, model.preprocessing, Compute(device, "bf16"), model.spec.stages)
        logits = Pipeline(engine, model.preprocessing, batch_size=engine.batch_size).logits(paths)
    except Exception as error:
        # Whatever a backbone makes of bf16, what was trained must not be lost to it.
        console.warn(f"bf16 was not compared with fp32, so fx predict will not take it: {error}")
        return {}
    found = agreement.compare(exact, logits, np.asarray(targets))
    console.note(f"bf16 against fp32 on unseen pictures: {found.told()}")
    return {f"torch-{device.type}": {"bf16": found.to_mapping(agreement.BF16)}}
