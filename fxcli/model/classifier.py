"""The classifier: backbone → pooling → dropout → linear head; and how it is built, saved and loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from fxcli.data.preprocess import Preprocessing
from fxcli.errors import DataError, FxError, ModelFileError, RecipeError, UnknownName
from fxcli.model.empty import EmptyParameters
from fxcli.recipe.schema import Model
from fxcli.run.checkpoint import load_model_file, save_model_file
from fxcli.zoo.plugins import Zoo
from fxcli.zoo.specs import BackboneArgs, BackboneSpec


class Classifier(nn.Module):
    """Images [B, 3, S, S] → logits [B, K].

    Args:
        backbone: Images → activated feature map [B, D, h, w].
        num_features: D.
        num_classes: K.
    """

    def __init__(self, backbone: nn.Module, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K]."""
        return self.classify(self.backbone(images))

    def classify(self, feature_map: Tensor) -> Tensor:
        """Feature map [B, D, h, w] → logits [B, K]."""
        return self.answer(self.pool(feature_map))

    def pool(self, feature_map: Tensor) -> Tensor:
        """Feature map [B, D, h, w] → features [B, D]."""
        return feature_map.mean(dim=(2, 3))

    def answer(self, features: Tensor) -> Tensor:
        """Features [B, D] → logits [B, K]."""
        return self.head(self.dropout(features))  # type: ignore[no-any-return]

    def class_maps(self, feature_map: Tensor) -> Tensor:
        """Feature map [B, D, h, w] → [B, K, h, w]: what each cell adds to each logit (Zhou et al. 2016, eq. 2).

        Over all cells they add up to the logits without their bias, and with negative cells set to zero they are
        unscaled Grad-CAM at the feature map: for this head, a logit's gradient there is its weight row over h · w.
        """
        height, width = feature_map.shape[-2:]
        return functional.conv2d(feature_map, self.head.weight[:, :, None, None]) / (height * width)


@dataclass
class TrainedModel:
    """A classifier with everything that predicting needs; what a model file holds.

    Attributes:
        classifier: The network.
        spec: Of its backbone.
        classes: In the order of the logits.
        preprocessing: Path → input.
        info: The rest of the header: recipe, data, date, backbone, plugin, demo …
    """

    classifier: Classifier
    spec: BackboneSpec
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    info: dict[str, Any]

    @property
    def is_demo(self) -> bool:
        """Whether it was trained on phantoms."""
        return bool(self.info.get("demo"))

    def save(self, file: Path) -> None:
        """Writes a model file, atomically."""
        header = {
            **self.info,
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.to_mapping(),
        }
        save_model_file(file, self.classifier.state_dict(), header)


def build(spec: BackboneSpec, settings: Model, image_size_px: int, num_classes: int, seed: int) -> Classifier:
    """A classifier with random weights that are a function of the seed; the global generator is not moved.

    Raises:
        RecipeError: The backbone refuses its options.
    """
    try:
        # In JSON mode: strict Python mode refuses a list where the options want a tuple.
        options = spec.options.model_validate_json(json.dumps(settings.options))
    except ValidationError as error:
        problems = [f"model.options: {line}" for line in _told(error)]
        raise RecipeError(problems, recipe=settings.backbone) from error
    args = BackboneArgs(image_size_px=image_size_px, drop_path=settings.drop_path, options=options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            backbone = spec.build(args)
        except ValueError as error:
            raise RecipeError([f"model: {spec.name}: {error}"], recipe=settings.backbone) from error
        classifier = Classifier(backbone, spec.num_features, num_classes)
        nn.init.normal_(classifier.head.weight, std=0.01)
        nn.init.zeros_(classifier.head.bias)
    return classifier


def load(file: Path, zoo: Zoo) -> TrainedModel:
    """Reads a model file.

    Raises:
        ModelFileError: It is none, is damaged, holds no classifier, or its backbone's plugin is not there.
    """
    tensors, info = load_model_file(file)
    _check_task(file, info)
    try:
        classes: Sequence[str] = info["classes"]
        preprocessing = Preprocessing.from_mapping(info["preprocessing"])
        settings = Model.model_validate_json(json.dumps(info["model"]))
        if not classes or not all(isinstance(name, str) for name in classes):
            raise ModelFileError("not the file of a classifier", where=file)
    except (KeyError, TypeError, ValueError, DataError) as error:
        raise ModelFileError(f"the header is damaged: {error}", where=file) from error
    spec = _spec_of(file, info, settings.backbone, zoo)
    try:
        # The file holds every parameter, or _load_state fails.
        with EmptyParameters():
            classifier = build(spec, settings, preprocessing.image_size_px, len(classes), seed=0)
    except RecipeError as error:
        raise ModelFileError(f"its backbone is no longer as it was: {error.problems[0]}", where=file) from error
    _load_state(classifier, tensors, file)
    classifier.eval()
    header = {key: value for key, value in info.items() if key not in ("classes", "preprocessing")}
    return TrainedModel(classifier, spec, tuple(classes), preprocessing, header)


def _check_task(file: Path, info: dict[str, Any]) -> None:
    task = info.get("task")
    if task == "pretrain":
        backbone = info.get("backbone")
        raise ModelFileError(
            f"holds a pretrained backbone ({backbone}), not a classifier",
            where=file,
            hint=f"train one from it: fx train RECIPE --set model.backbone={backbone} --set model.init={file}",
        )
    if task != "classify":
        raise ModelFileError("not the file of a classifier", where=file)


def _spec_of(file: Path, info: dict[str, Any], backbone: str, zoo: Zoo) -> BackboneSpec:
    try:
        return zoo.backbone(backbone)
    except FxError as error:
        plugin = info.get("plugin") or {}
        wanted = f"{plugin.get('distribution')} {plugin.get('version')}"
        lines, hint = [error.what], f"fx plugins shows what became of the plugin {wanted}, which it was trained with"
        if isinstance(error, UnknownName):
            # What else is registered helps nobody here: the file needs this one.
            lines = [line for line in error.problems if not line.startswith("known: ")]
            if type(error) is UnknownName and len(lines) == 1:
                hint = f"install the plugin {wanted}"
        reason = "\n  ".join(lines)
        raise ModelFileError(f"needs the backbone {backbone}: {reason}", where=file, hint=hint) from error


def _told(error: ValidationError) -> list[str]:
    return [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]


def _load_state(module: nn.Module, state: dict[str, Tensor], file: Path) -> None:
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ModelFileError(f"its weights do not fit this backbone: {first}", where=file) from error
