"""What is special to training a classifier: what its data must be, how it is built, frozen, fed and finished."""

from __future__ import annotations

from typing import Any

from fxcli.data.manifest import Manifest
from fxcli.errors import DataError
from fxcli.model import freeze
from fxcli.model.classifier import TrainedModel
from fxcli.model.hardware import Compute
from fxcli.model.init import Origin
from fxcli.recipe.schema import ClassifyRecipe, Phase
from fxcli.training import features, feed, finish, session, trial
from fxcli.training.state import ClassifyTraining, Task
from fxcli.zoo.plugins import Zoo

MEANS_OF_CLASSES = {"val_macro_f1", "val_balanced_accuracy"}


def build(
    recipe: ClassifyRecipe,
    manifest: Manifest,
    compute: Compute,
    zoo: Zoo,
    info: dict[str, Any],
    origin: Origin | None = None,
) -> ClassifyTraining:
    """Everything in place for the first step; for `origin` see `session.started`.

    Raises:
        DataError: The training part is empty, or a class has no picture in it; or validation is monitored, and is
            empty, or lacks a class that counts in what is monitored.
        WeightsUnavailable: See `model.init`.
        PluginError: See `trial.backbone`.
    """
    check_parts(recipe, manifest)
    spec = zoo.backbone(recipe.model.backbone)
    trial.backbone(recipe, spec, compute)
    network, preprocessing = session.start(recipe, manifest, spec, len(manifest.classes), origin)
    model = TrainedModel((compute.place(network),), spec, manifest.classes, preprocessing, info)
    return ClassifyTraining(recipe, manifest, model, compute, zoo, TASK, workers=recipe.data.workers)


def check_parts(recipe: ClassifyRecipe, manifest: Manifest) -> None:
    """Whether the parts of a manifest are what a training needs.

    Raises:
        DataError: See `build`.
    """
    manifest.require_labels()
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


def _freeze(training: ClassifyTraining, phase: Phase) -> None:
    network = training.model.network
    network.dropout.p = phase.model.dropout
    freeze.apply(network, network.backbone, training.model.spec, phase.model)


TASK = Task(_freeze, feed.make, finish.finish, features.passes, ("accuracy", "balanced_accuracy", "macro_f1", "nll"))
