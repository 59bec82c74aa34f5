"""What is special to training a detector: its boxes, how it is built, frozen, fed, validated and finished."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fxcli.console import console
from fxcli.data import boxed, dataset
from fxcli.data.boxed import BoxedPictures, Target
from fxcli.data.boxes import FILE, Boxes, BoxSet, read_boxes, to_input
from fxcli.data.manifest import Manifest, Row
from fxcli.errors import DataError
from fxcli.evaluation import detection
from fxcli.evaluation.detection import Detections
from fxcli.inference.detected import Finder
from fxcli.model import detector as detectors
from fxcli.model import freeze, pointwise
from fxcli.model.detector import QUANTILES, BoxShapes, TrainedDetector
from fxcli.model.hardware import Compute
from fxcli.model.init import Origin
from fxcli.recipe.detection import DetectPhase, DetectRecipe
from fxcli.recipe.schema import Augment
from fxcli.run import randomness
from fxcli.run.directory import Run
from fxcli.run.files import sha256_of
from fxcli.training import session, state, trial
from fxcli.training.state import DetectTraining, Feed, Task
from fxcli.zoo.plugins import Zoo

LOGGED = ("ap50", "ap50_95", "auroc", "sensitivity_at_1_fp")


def check_parts(recipe: DetectRecipe, manifest: Manifest) -> str:
    """Whether the boxes of a manifest are what a training needs; the hash of their file.

    Raises:
        DataError: There are none for training; or validation is monitored, and there are none for it, or, for an
            area under the ROC curve, no picture without one.
    """
    boxes = read_boxes(manifest)
    if not any(_has_box(boxes, manifest.part("train"))):
        raise DataError("no training picture has a box", where=manifest.root / FILE)
    monitors = {phase.train.monitor for phase in recipe.phases.values()} - {"none"}
    has_box = _has_box(boxes, manifest.part("val"))
    lacks = "" if any(has_box) else "with a box"
    if "val_auroc" in monitors and all(has_box):
        lacks = lacks or "without a box"
    if monitors and lacks:
        # Of pictures without labels nothing is drawn else.
        draws = "split.val_frac above 0" if manifest.classes else "split.policy=grouped"
        raise DataError(
            f"no validation picture {lacks}, which train.monitor needs",
            where=manifest.file,
            hint=f"prepare with {draws}, or set train.monitor=none to keep the last epoch",
        )
    return sha256_of(manifest.root / FILE)


def warn_of_negatives(recipe: DetectRecipe, manifest: Manifest) -> None:
    """Says whether the training part has fewer pictures without a box than the recipe takes in each epoch."""
    boxes, rows = read_boxes(manifest), manifest.part("train")
    has_box, negatives = _has_box(boxes, rows), recipe.detect.negatives
    found, wanted = has_box.count(False), round(negatives * has_box.count(True))
    if found < wanted:
        unknown = len(rows) - len(has_box)
        hint = f"; of {unknown} others nothing is known: if nothing is on them, fx prepare with boxes.unlisted=negative"
        console.warn(
            f"{found} training pictures are known to be without a box, and detect.negatives={negatives:g} asks for "
            f"{wanted}: a detector that sees few of them tells more false boxes{hint if unknown else ''}"
        )


def _has_box(boxes: BoxSet, rows: Sequence[Row]) -> list[bool]:
    return [len(boxes.by_path[row.path]) > 0 for row in boxes.known(rows)]


def build(
    recipe: DetectRecipe,
    manifest: Manifest,
    compute: Compute,
    zoo: Zoo,
    info: dict[str, Any],
    origin: Origin | None = None,
) -> DetectTraining:
    """Everything in place for the first step; for `origin` see `session.started`.

    Raises:
        DataError: See `check_parts`.
        RecipeError: See `trial.last_batch`.
        WeightsUnavailable: See `model.init`.
        PluginError: See `trial.backbone` and `trial.detector`.
    """
    info["boxes_sha256"] = check_parts(recipe, manifest)
    boxes = read_boxes(manifest)
    spec, method = zoo.backbone(recipe.model.backbone), zoo.detector(recipe.detect.detector)
    size_px = session.size_px(recipe, spec)
    shapes = _shapes(recipe, manifest, boxes, size_px)
    seed = randomness.derive(recipe.seed, "init")
    trial.backbone(recipe, spec, compute)
    network = detectors.build(spec, method, recipe.model, recipe.detect, size_px, len(boxes.classes), shapes, seed)
    preprocessing = session.started(recipe, manifest, spec, network.backbone, origin)
    info["box_shapes"] = {"sides_px": list(shapes.sides_px), "ratios": list(shapes.ratios)}
    model = TrainedDetector(compute.place(network), spec, boxes.classes, preprocessing, info)
    trial.detector(model, compute)
    parts = {split: _part(manifest, boxes, split) for split in ("train", "val")}
    count, _ = boxed.with_negatives(parts["train"].has_box, recipe.detect.negatives)
    trial.last_batch(recipe, spec, [count])
    task = Task(
        _freeze,
        partial(_feed, parts["train"], parts["val"]),
        partial(_finish, parts["val"]),
        lambda training, phase: phase.train.epochs,
        LOGGED,
    )
    return DetectTraining(recipe, manifest, model, compute, zoo, task, workers=recipe.data.workers)


@dataclass(frozen=True)
class _Part:
    """The pictures of a split whose boxes are known.

    Attributes:
        paths: The files.
        sizes_px: (width, height) of each original.
        boxes: On each, in its pixels.
    """

    paths: list[Path]
    sizes_px: list[tuple[int, int]]
    boxes: list[Boxes]

    @property
    def has_box(self) -> list[bool]:
        """Of each picture."""
        return [len(boxes) > 0 for boxes in self.boxes]


def _part(manifest: Manifest, boxes: BoxSet, split: str) -> _Part:
    rows = boxes.known(manifest.part(split))
    return _Part(
        [manifest.path_of(row) for row in rows],
        [(row.width_px, row.height_px) for row in rows],
        [boxes.by_path[row.path] for row in rows],
    )


def _shapes(recipe: DetectRecipe, manifest: Manifest, boxes: BoxSet, size_px: int) -> BoxShapes:
    """How large the training boxes are at the input: for anchors, to which a letterbox's rounding is nothing."""
    sides, ratios = [], []
    for row in boxes.known(manifest.part("train")):
        corners = boxes.by_path[row.path].corners.astype(np.float64)
        scale = np.full(2, size_px / max(row.width_px, row.height_px))
        if recipe.data.resize == "squash":
            scale = size_px / np.array([row.width_px, row.height_px])
        elif recipe.data.resize == "crop":
            scale = np.full(2, size_px / min(row.width_px, row.height_px))
        width, height = ((corners[:, 2:] - corners[:, :2]) * scale).T
        sides += np.sqrt(width * height).tolist()
        ratios += (height / width).tolist()
    at = np.linspace(0, 1, QUANTILES)
    return BoxShapes(*(tuple(np.quantile(values, at).tolist()) for values in (sides, ratios)))


def _freeze(training: DetectTraining, phase: DetectPhase) -> None:
    model = training.model
    freeze.apply(model.network, model.backbone, model.spec, phase.model)


def _feed(train: _Part, val: _Part, training: DetectTraining, check: Callable[[], None] | None) -> Feed:
    """Feeds the phase at hand with all pictures that have boxes, and as many others as the recipe wants."""
    phase: DetectPhase
    _, phase = training.phases[training.place.phase]
    seen = training.model.preprocessing
    inside = [
        Boxes(to_input(boxes.corners, size, seen), boxes.labels)
        for boxes, size in zip(train.boxes, train.sizes_px, strict=True)
    ]
    augment = Augment.model_validate(phase.augment.model_dump())
    pictures = BoxedPictures(train.paths, inside, seen, augment)
    if check is not None:
        pictures.pictures.kept = state.kept(training, pictures.pictures.sight, check)
    count, order = boxed.with_negatives(train.has_box, training.recipe.detect.negatives)
    batches = dataset.Batches(
        count, phase.train.batch_size, seed=training.recipe.seed, order=order, share=training.world.share
    )
    loader = dataset.loader(pictures, batches, workers=training.workers, join=boxed.collate)
    return Feed(loader, batches, partial(_losses, training), partial(_validate, val, training))


def _losses(training: DetectTraining, batch: tuple[Tensor, list[Target]]) -> dict[str, Tensor]:
    """Of pictures [B, 1, S, S] uint8 and their targets: the detector's losses, named alike whatever it is."""
    model, compute, name = training.model, training.compute, training.recipe.detect.detector
    images = compute.send(model.preprocessing.normalise(batch[0]))
    targets = [{name: value.to(compute.device) for name, value in target.items()} for target in batch[1]]
    model.network.compute_in(compute.autocast)
    try:
        with trial.of_plugin("detector", name, "its loss"):
            losses = model.network.losses(images, targets)
    finally:
        # Validation is in fp32.
        model.network.compute_in(contextlib.nullcontext)
    trial.check_losses("detector", name, losses)
    return {name.removeprefix("loss_").removesuffix("_loss"): loss.float() for name, loss in losses.items()}


def _validate(val: _Part, training: DetectTraining) -> dict[str, Any]:
    """Figures on the validation part; {} without one."""
    return _figures(training, val, _found(training, val)) if val.paths else {}


def _found(training: DetectTraining, part: _Part) -> list[Detections]:
    compute = training.compute
    exact = Compute(compute.device, "fp32", compute.channels_last)
    batch_size = training.recipe.evaluate.batch_size
    undo = pointwise.by_onednn(training.model.network, compute.device)
    try:
        return Finder(training.model, exact, batch_size).readable(part.paths)
    finally:
        undo()


def _figures(training: DetectTraining, part: _Part, found: Sequence[Detections]) -> dict[str, Any]:
    return detection.detection(found, part.boxes, len(training.model.classes))


def _finish(val: _Part, training: DetectTraining, run: Run) -> dict[str, Any]:
    """Writes the model that is kept, with the scores at which it is to be believed, and returns its figures."""
    model = training.model
    state.keep(training, run)
    figures: dict[str, Any] = {}
    if val.paths:
        found = _found(training, val)
        figures = _figures(training, val, found)
        points = detection.operating_points(found, val.boxes, len(model.classes))
        model.info["operating_points"] = None if points is None else {f"{at:g}": score for at, score in points.items()}
    model.save(run.model_file)
    return figures
