"""The classifier: backbone → pooling → dropout → linear head; and how it starts, is frozen, saved and loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxcli.data.preprocess import Preprocessing
from fxcli.errors import DataError, FxError, ModelFileError, RecipeError
from fxcli.model.init import initialise
from fxcli.recipe.schema import Model
from fxcli.run.checkpoint import load_model_file, save_model_file
from fxcli.run.directory import find_model
from fxcli.zoo.plugins import Zoo
from fxcli.zoo.specs import BackboneArgs, BackboneSpec, InputSpec


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
        return self.head(self.dropout(feature_map.mean(dim=(2, 3))))  # type: ignore[no-any-return]


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
    options = spec.options.model_validate(settings.options)
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


def start(classifier: Classifier, spec: BackboneSpec, settings: Model) -> InputSpec:
    """Loads what `model.init` names and returns the input it expects.

    A weight key loads the backbone; a run or model file loads the backbone too, its head stays random.

    Raises:
        WeightsUnavailable: See `initialise`.
        RecipeError: The run or file has another backbone.
    """
    if settings.init == "random" or settings.init in spec.weights:
        return initialise(spec, classifier.backbone, settings.init)
    file, _ = find_model(settings.init)
    tensors, header = load_model_file(file)
    if header.get("backbone") != spec.name:
        raise RecipeError(
            [f"model.init: {file} holds {header.get('backbone')}, the recipe wants {spec.name}"],
            recipe=settings.init,
        )
    prefix = "backbone."
    state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    _load_state(classifier.backbone, state, file)
    made = Preprocessing.from_mapping(header["preprocessing"])
    return InputSpec(size_px=made.image_size_px, mean=made.mean, std=made.std, interpolation=made.interpolation)


def load(file: Path, zoo: Zoo) -> TrainedModel:
    """Reads a model file.

    Raises:
        ModelFileError: It is none, is damaged, or its backbone's plugin is not there.
    """
    tensors, info = load_model_file(file)
    try:
        classes: Sequence[str] = info["classes"]
        preprocessing = Preprocessing.from_mapping(info["preprocessing"])
        settings = Model.model_validate(info["model"])
        if info["task"] != "classify" or not classes or not all(isinstance(name, str) for name in classes):
            raise ModelFileError("not the file of a classifier", where=file)
    except (KeyError, TypeError, ValueError, DataError) as error:
        raise ModelFileError(f"the header is damaged: {error}", where=file) from error
    try:
        spec = zoo.backbone(settings.backbone)
    except FxError as error:
        plugin = info.get("plugin", {})
        raise ModelFileError(
            f"needs the backbone {settings.backbone}, which is not registered",
            where=file,
            hint=f"install the plugin {plugin.get('distribution')} {plugin.get('version')}",
        ) from error
    classifier = build(spec, settings, preprocessing.image_size_px, len(classes), seed=0)
    _load_state(classifier, tensors, file)
    classifier.eval()
    header = {key: value for key, value in info.items() if key not in ("classes", "preprocessing")}
    return TrainedModel(classifier, spec, tuple(classes), preprocessing, header)


def _load_state(module: nn.Module, state: dict[str, Tensor], file: Path) -> None:
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ModelFileError(f"its weights do not fit this backbone: {first}", where=file) from error
