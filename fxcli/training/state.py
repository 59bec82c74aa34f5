"""A training and where it stands: built from a recipe, validated, saved, restored. classify has the loop."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxcli.data.cache import Kept
from fxcli.data.manifest import Manifest
from fxcli.errors import DataError
from fxcli.evaluation import metrics
from fxcli.inference.engines import TorchEngine
from fxcli.inference.pipeline import Pipeline
from fxcli.model.classifier import TrainedModel
from fxcli.model.hardware import Compute
from fxcli.recipe.schema import ClassifyRecipe, Phase
from fxcli.run import checkpoint
from fxcli.run.directory import Run
from fxcli.training import optim, session
from fxcli.training.session import Average
from fxcli.zoo.plugins import Zoo

MEANS_OF_CLASSES = {"val_macro_f1", "val_balanced_accuracy"}


@dataclass
class Place:
    """Where a training stands; all that a resume must know besides tensors.

    Attributes:
        phase: Index of the phase.
        phase_step: Optimizer steps done in it.
        phase_epoch: Whole epochs done in it.
        batch: Batches done of the epoch under way.
        epoch: Whole epochs done in all phases.
        step: Optimizer steps done in all phases.
        best: Best value of the monitor in this phase, larger is better; None before the first.
        best_epoch: Global epoch of it.
        stale: Epochs since.
        done: Whether the phase is over.
        loss_sum: Of the epoch under way, over pictures.
        loss_count: Pictures in that sum.
        spent_s: Seconds of training.
        data_wait_s: Of them, waiting for batches.
        compute_s: Of them, from a batch to the end of its step.
    """

    phase: int = 0
    phase_step: int = 0
    phase_epoch: int = 0
    batch: int = 0
    epoch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = 0
    stale: int = 0
    done: bool = False
    loss_sum: float = 0.0
    loss_count: int = 0
    spent_s: float = 0.0
    data_wait_s: float = 0.0
    compute_s: float = 0.0


@dataclass
class Training:
    """One training with its parts; `train` runs it.

    Attributes:
        recipe: Resolved.
        manifest: Of the pictures.
        model: What is trained; its info goes into the model file.
        compute: Device, precision, layout.
        zoo: Its trackers are called.
        workers: Decoding processes; None takes one per core, at most 4.
        place: Where it stands.
        kept: Decoded pictures, for all phases that see the same of them.
        average: Of the phase at hand, where it averages.
        optimizer: Of the phase at hand.
    """

    recipe: ClassifyRecipe
    manifest: Manifest
    model: TrainedModel
    compute: Compute
    zoo: Zoo
    workers: int | None = None
    place: Place = field(default_factory=Place)
    kept: Kept | None = None
    average: Average | None = None
    optimizer: torch.optim.Optimizer | None = None

    def part(self, split: str) -> tuple[list[Path], list[int]]:
        """Files and class indices of a split."""
        index = {name: number for number, name in enumerate(self.model.classes)}
        rows = self.manifest.part(split)
        return [self.manifest.path_of(row) for row in rows], [index[row.label] for row in rows]

    @property
    def phases(self) -> list[tuple[str, Phase]]:
        """The recipe's phases, in order."""
        return list(self.recipe.phases.items())


def build(recipe: ClassifyRecipe, manifest: Manifest, compute: Compute, zoo: Zoo, info: dict[str, Any]) -> Training:
    """Everything in place for the first step.

    Raises:
        DataError: The training part is empty, or a class has no picture in it; or validation is monitored, and is
            empty, or lacks a class that counts in what is monitored.
        WeightsUnavailable: See `model.init`.
    """
    check_parts(recipe, manifest)
    spec = zoo.backbone(recipe.model.backbone)
    network, preprocessing = session.start(recipe, manifest, spec, len(manifest.classes))
    model = TrainedModel((compute.place(network),), spec, manifest.classes, preprocessing, info)
    return Training(recipe, manifest, model, compute, zoo, workers=recipe.data.workers)


def check_parts(recipe: ClassifyRecipe, manifest: Manifest) -> None:
    """Whether the parts of a manifest are what a training needs.

    Raises:
        DataError: See `build`.
    """
    train = {row.label for row in manifest.part("train")}
    absent = [name for name in manifest.classes if name not in train]
    if absent:
        raise DataError(f"no training picture of {', '.join(absent)}", where=manifest.file)
    monitors = {phase.train.monitor for phase in recipe.phases.values()} - {"none"}
    val = {row.label for row in manifest.part("val")}
    if monitors and not val:
        raise DataError(
            "there is no validation part, which train.monitor needs",
            where=manifest.file,
            hint="prepare with split.val_frac above 0, or set train.monitor=none to keep the last epoch",
        )
    unseen = [name for name in manifest.classes if name not in val]
    if unseen and (means := sorted(monitors & MEANS_OF_CLASSES)):
        raise DataError(
            f"no validation picture of {', '.join(unseen)}: {means[0]}, a mean over classes, would leave it out",
            where=manifest.file,
            hint="prepare with a larger split.val_frac, or set train.monitor=val_loss",
        )
    negative = recipe.evaluate.negative_class
    if negative is not None and negative not in manifest.classes:
        raise DataError(
            f"evaluate.negative_class is {negative}, and no picture has this class",
            where=manifest.file,
            hint=f"its classes: {', '.join(manifest.classes)}",
        )
    if len(manifest.classes) < 2:
        raise DataError("there is only one class", where=manifest.file)


@contextlib.contextmanager
def evaluated(training: Training) -> Iterator[None]:
    """The classifier in eval mode and with averaged weights, if there are; afterwards as it was."""
    network = training.model.classifier
    modes = {module: module.training for module in network.modules()}
    before = copy.deepcopy(network.state_dict()) if training.average else None
    if training.average:
        network.load_state_dict(training.average.values)
    network.eval()
    try:
        yield
    finally:
        if before:
            network.load_state_dict(before)
        for module, mode in modes.items():
            module.training = mode


def validate(training: Training) -> dict[str, Any]:
    """Figures on the validation part, by the same code as `fx evaluate`; {} without one."""
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


def save(training: Training, run: Run) -> None:
    """Writes the resume state.

    Raises:
        RunError: The weights are not finite: the state before them is the better one.
    """
    place = training.place
    session.check_weights(training.model.classifier, place.step)
    tensors = {f"model.{key}": value for key, value in training.model.classifier.state_dict().items()}
    if training.optimizer:
        tensors |= {f"optim.{key}": value for key, value in optim.state_tensors(training.optimizer).items()}
    if training.average:
        tensors |= {f"ema.{key}": value for key, value in training.average.values.items()}
    checkpoint.save_state(run.state_file, tensors, session.header(place, training.recipe))


def resumed(training: Training, run: Run) -> dict[str, Tensor]:
    """Loads the resume state; {} if the run was stopped before its first save.

    Raises:
        ModelFileError: It is damaged, or of another recipe.
    """
    if not run.state_file.exists():
        return {}
    tensors, header = checkpoint.load_state(run.state_file)
    session.take_over(training.place, header, training.recipe, run.state_file)
    return tensors


def restore(training: Training, tensors: Mapping[str, Tensor]) -> None:
    """Puts saved weights, averages and optimizer state into a phase that was set up.

    Raises:
        ModelFileError: They do not fit.
    """

    def named(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    if not tensors or training.optimizer is None:
        return
    with session.fitting():
        training.model.classifier.load_state_dict(named("model."))
        optim.load_state(training.optimizer, named("optim."))
        if training.average:
            training.average.load(named("ema."))
