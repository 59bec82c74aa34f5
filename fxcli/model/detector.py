"""The detector: a network of the zoo over a backbone; and how it is built, saved and loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fxcli.data.dataset import is_lost_worker
from fxcli.data.preprocess import Preprocessing
from fxcli.errors import FxError, ModelFileError, RecipeError, memory_used_up
from fxcli.model.classifier import broken, build_backbone, built
from fxcli.model.empty import EmptyParameters
from fxcli.model.header import fill, reading, spec_of, told_by
from fxcli.model.pyramid import Pyramid
from fxcli.recipe.detection import Detect
from fxcli.recipe.schema import Model
from fxcli.run.checkpoint import load_model_file, save_model_file
from fxcli.zoo.plugins import Zoo, options_of
from fxcli.zoo.specs import BackboneSpec, DetectorArgs, DetectorSpec

QUANTILES = 21


@dataclass(frozen=True)
class BoxShapes:
    """How large the training boxes are at the model's input, as `DetectorArgs` has it; in the model file, too.

    Attributes:
        sides_px: Quantiles of √area.
        ratios: Of height over width.
    """

    sides_px: tuple[float, ...]
    ratios: tuple[float, ...]

    @classmethod
    def from_mapping(cls, values: Any) -> BoxShapes:
        """From plain values, or ValueError."""
        found = {name: tuple(values[name]) for name in ("sides_px", "ratios")}
        for name, quantiles in found.items():
            is_number = [type(value) is float and 0 < value < 1e6 for value in quantiles]
            if len(quantiles) != QUANTILES or not all(is_number) or list(quantiles) != sorted(quantiles):
                raise ValueError(f"box_shapes.{name}")
        return cls(**found)


class Detector(nn.Module):
    """A network of the zoo, with the backbone within it at hand.

    Args:
        network: Keeps the contract of `DetectorSpec.build`.
        backbone: Within it.
        name: Of the detector, as a recipe has it.
        num_classes: Of its boxes.
    """

    def __init__(self, network: nn.Module, backbone: nn.Module, name: str, num_classes: int) -> None:
        super().__init__()
        self.network, self.name, self.num_classes = network, name, num_classes
        # Not as a module of its own, which would save its weights twice.
        self._backbone = [backbone]

    @property
    def backbone(self) -> nn.Module:
        """Within the network."""
        return self._backbone[0]

    def compute_in(self, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        """What its pyramid computes in; all else, and a detector without one of fx's, computes in fp32."""
        for module in self.network.modules():
            if isinstance(module, Pyramid):
                module.autocast = autocast

    def losses(self, images: Tensor, targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Normalised [B, 3, S, S] and a target of each → losses by name; in training mode."""
        return cast("dict[str, Tensor]", self.network(list(images), list(targets)))

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Normalised [B, 3, S, S] → "boxes", "labels" from 1 on, "scores" of each, surest first; in eval mode.

        Raises:
            PluginError: The detector's plugin fails, or gives something else.
        """
        try:
            found = self.network(list(images))
        except Exception as error:
            # In training torch tells of a lost worker in whatever runs then.
            if isinstance(error, FxError) or memory_used_up(error) or is_lost_worker(error):
                raise
            what = f"seeing pictures failed: {type(error).__name__}: {error}"
            raise broken("detector", self.name, what) from error
        if not isinstance(found, list | tuple) or len(found) != len(images):
            told = f"{len(found)} answers" if isinstance(found, list | tuple) else type(found).__name__
            raise broken("detector", self.name, f"of {len(images)} pictures it gives {told}, not as many answers")
        for answer in found:
            _check_answer(self.name, answer, self.num_classes)
        return list(found)


@dataclass
class TrainedDetector:
    """A detector with everything that predicting needs; what a model file holds.

    Attributes:
        network: It.
        spec: Of its backbone.
        classes: Of its boxes; label 1 is the first.
        preprocessing: Path → input.
        info: The rest of the header: recipe, data, date, backbone, detector, plugins, operating points …
    """

    network: Detector
    spec: BackboneSpec
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    info: dict[str, Any]

    @property
    def backbone(self) -> nn.Module:
        """Of the network."""
        return self.network.backbone

    @property
    def is_demo(self) -> bool:
        """Whether it was trained on phantoms."""
        return bool(self.info.get("demo"))

    def save(self, file: Path) -> None:
        """Writes a model file, atomically."""
        header = {**self.info, "classes": list(self.classes), "preprocessing": self.preprocessing.to_mapping()}
        save_model_file(file, self.network.state_dict(), header)


def _check_answer(name: str, answer: object, num_classes: int) -> None:
    """Whether it is boxes, labels and scores of one picture."""
    parts = [answer.get(key) if isinstance(answer, Mapping) else None for key in ("boxes", "labels", "scores")]
    shapes = [list(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
    count, labels = shapes[0][:1], parts[1]
    if not isinstance(labels, Tensor) or shapes != [[*count, 4], count, count]:
        raise broken("detector", name, f"boxes, labels and scores of a picture are {shapes}, not [n, 4], [n] and [n]")
    if labels.numel() and not (labels.min() >= 0 and labels.max() <= num_classes):
        what = f"labels of boxes are from {labels.min():g} to {labels.max():g}, and there are {num_classes} classes"
        raise broken("detector", name, what)


def build(
    spec: BackboneSpec,
    detector: DetectorSpec,
    model: Model,
    settings: Detect,
    image_size_px: int,
    num_classes: int,
    shapes: BoxShapes,
    seed: int,
) -> Detector:
    """A detector with random weights that are a function of the seed; the global generator is not moved.

    Raises:
        RecipeError: The backbone or the detector refuses its options, or each other.
        PluginError: A plugin is broken, or what the detector's plugin built is none.
    """
    options = options_of(detector.options, settings.options, "detect.options")
    backbone = build_backbone(spec, model, image_size_px, seed)
    args = DetectorArgs(
        image_size_px=image_size_px,
        num_classes=num_classes,
        stages=spec.stages,
        pyramid=partial(Pyramid, backbone, spec.stages),
        sides_px=shapes.sides_px,
        ratios=shapes.ratios,
        options=options,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        try:
            network = built("detector", settings.detector, lambda: detector.build(backbone, args))
        except ValueError as error:
            raise RecipeError([f"detect: {detector.name} over {spec.name}: {error}"], recipe=None) from error
    if not any(module is backbone for module in network.modules()):
        raise broken("detector", settings.detector, "build did not return a module that holds its backbone")
    return Detector(network, backbone, settings.detector, num_classes)


def load(file: Path, zoo: Zoo) -> TrainedDetector:
    """Reads a model file.

    Raises:
        ModelFileError: It is none, is damaged, holds no detector, or a plugin that it needs is not there.
        PluginError: One of these plugins is broken.
    """
    tensors, info = load_model_file(file)
    if info.get("task") != "detect":
        raise ModelFileError("not the file of a detector", where=file)
    with reading(file):
        classes, preprocessing = told_by(info)
        model = Model.model_validate_json(json.dumps(info["model"]))
        settings = Detect.model_validate_json(json.dumps(info["detect"]))
        shapes = BoxShapes.from_mapping(info["box_shapes"])
        if not all(type(score) is float for score in dict(info.get("operating_points") or {}).values()):
            raise ValueError("operating_points")
    spec = spec_of(file, info, model.backbone, zoo)
    try:
        detector = zoo.detector(settings.detector)
    except FxError as error:
        hint = "fx plugins shows what became of the plugins"
        raise ModelFileError(f"needs the detector {settings.detector}: {error.what}", where=file, hint=hint) from error
    try:
        # The file holds every parameter, or fill fails.
        with EmptyParameters():
            network = build(spec, detector, model, settings, preprocessing.image_size_px, len(classes), shapes, seed=0)
    except RecipeError as error:
        raise ModelFileError(f"its detector is no longer as it was: {error.what}", where=file) from error
    fill(network, tensors, file)
    header = {key: value for key, value in info.items() if key not in ("classes", "preprocessing")}
    return TrainedDetector(network.eval(), spec, classes, preprocessing, header)
