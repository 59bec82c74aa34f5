"""The classifier: backbone → pooling → dropout → linear head; and how it is built, saved and loaded."""

from __future__ import annotations

import itertools
import json
import shlex
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy

from fxcli.console import console
from fxcli.data.preprocess import Preprocessing
from fxcli.errors import FxError, ModelFileError, PluginError, RecipeError, memory_used_up
from fxcli.model.empty import EmptyParameters
from fxcli.model.header import fill, reading, spec_of, told_by
from fxcli.recipe.schema import Model
from fxcli.run.checkpoint import load_model_file, save_model_file
from fxcli.zoo.plugins import Zoo, load_zoo, options_of
from fxcli.zoo.specs import BackboneArgs, BackboneSpec

STATISTICS = ("mean", "projection", "residual")

# Layers of backbones: one that is given out twice would go on learning where another training, or member, has it.
_BUILT: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class Outputs(NamedTuple):
    """What a classifier says of a batch.

    Attributes:
        logits: [B, K].
        maps: [B, K, h, w], see Classifier.class_maps.
        distance: [B] from the training pictures; None without statistics.
        features: [B, D], what the head sees.
    """

    logits: Tensor
    maps: Tensor
    distance: Tensor | None
    features: Tensor


class FeatureStatistics(nn.Module):
    """How the training pictures lie in feature space: evaluation/novelty in torch, which fits it and has the formula.

    Args:
        mean: [D].
        projection: [D, R], each column a direction over its standard deviation.
        residual: [], mean square of what lies outside these directions; 0 where nothing can.
    """

    mean: Tensor
    projection: Tensor
    residual: Tensor

    def __init__(self, mean: Tensor, projection: Tensor, residual: Tensor) -> None:
        super().__init__()
        for name, value in zip(STATISTICS, (mean, projection, residual), strict=True):
            self.register_buffer(name, value)

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, D] → distance from the training pictures [B], about 1 for one of them."""
        centred = features - self.mean
        whitened = centred @ self.projection
        within = (whitened / self.projection.norm(dim=0)).square().sum(dim=1)
        outside = (centred.square().sum(dim=1) - within).clamp(min=0)
        main = whitened.square().mean(dim=1)
        # Not an `if`: an exported graph has one way through.
        has_rest = (self.residual > 0).to(main.dtype)
        rest = has_rest * outside / (self.residual + (1 - has_rest))
        distance: Tensor = ((main + rest) / (1 + has_rest)).sqrt()
        return distance


class Classifier(nn.Module):
    """Images [B, 3, S, S] → logits [B, K].

    Args:
        backbone: Images → activated feature map [B, D, h, w].
        num_features: D.
        num_classes: K; 0 where there is no head, and features are all that is told.
    """

    def __init__(self, backbone: nn.Module, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(num_features, num_classes)
        self.statistics: FeatureStatistics | None = None

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
        if not self.head.out_features:
            return feature_map[:, :0]  # a convolution must give at least one
        height, width = feature_map.shape[-2:]
        return functional.conv2d(feature_map, self.head.weight[:, :, None, None]) / (height * width)

    def outputs(self, feature_map: Tensor) -> Outputs:
        """All that is said of a feature map [B, D, h, w]."""
        features = self.pool(feature_map)
        distance = self.statistics(features) if self.statistics else None
        return Outputs(self.answer(features), self.class_maps(feature_map), distance, features)


@dataclass
class TrainedModel:
    """A classifier, or several of one recipe, with everything that predicting needs; what a model file holds.

    Attributes:
        members: The networks; the model's logits are the mean of theirs, and so are its maps.
        spec: Of its backbone.
        classes: In the order of the logits; none, where a pretraining made it, and it has no head.
        preprocessing: Path → input.
        info: The rest of the header: recipe, data, date, backbone, plugin, demo …
    """

    members: tuple[Classifier, ...]
    spec: BackboneSpec
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    info: dict[str, Any]

    @property
    def network(self) -> Classifier:
        """The only network, where there is one, as in training."""
        return self.members[0]

    @property
    def backbone(self) -> nn.Module:
        """Of that network."""
        return self.members[0].backbone

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
        if len(self.members) == 1:
            save_model_file(file, self.network.state_dict(), header)
            return
        tensors = {
            f"member.{number}.{name}": value
            for number, member in enumerate(self.members)
            for name, value in member.state_dict().items()
        }
        save_model_file(file, tensors, header)


def build(spec: BackboneSpec, settings: Model, image_size_px: int, num_classes: int, seed: int) -> Classifier:
    """A classifier with random weights that are a function of the seed; the global generator is not moved.

    Raises:
        RecipeError: The backbone refuses its options.
        PluginError: Its plugin is broken.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(_backbone(spec, settings, image_size_px), spec.num_features, num_classes)
        nn.init.normal_(classifier.head.weight, std=0.01)
        nn.init.zeros_(classifier.head.bias)
    return classifier


def build_backbone(spec: BackboneSpec, settings: Model, image_size_px: int, seed: int) -> nn.Module:
    """A backbone alone, likewise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _backbone(spec, settings, image_size_px)


def _backbone(spec: BackboneSpec, settings: Model, image_size_px: int) -> nn.Module:
    options = options_of(spec.options, settings.options, "model.options")
    args = BackboneArgs(image_size_px=image_size_px, drop_path=settings.drop_path, options=options)
    try:
        backbone = built("backbone", settings.backbone, lambda: spec.build(args))
    except ValueError as error:
        raise RecipeError([f"model: {spec.name}: {error}"], recipe=None) from error
    layers = [module for module in backbone.modules() if next(module.parameters(recurse=False), None) is not None]
    if not _BUILT.isdisjoint(layers):
        raise broken("backbone", settings.backbone, "build returned the same module again; each call makes a new one")
    _BUILT.update(layers)
    for stage in spec.stages:
        try:
            for name in stage.modules:
                backbone.get_submodule(name)
            for name in stage.parameters:
                backbone.get_parameter(name)
        except AttributeError as error:
            what = f"its stage {stage.name} names what is not there: {name}"
            raise broken("backbone", settings.backbone, what) from error
    return backbone


def built(kind: str, name: str, build: Callable[[], object]) -> nn.Module:
    """What a plugin builds; what goes wrong in its code is told as its own, and what it prints goes to stderr.

    Args:
        kind: "backbone", "detector" or "pretrainer".
        name: As a recipe has it.
        build: Calls the plugin.

    Raises:
        PluginError: It fails, or gives no module.
        ValueError: It refuses what is asked of it.
    """
    try:
        with console.aside():
            found = build()
    except (FxError, ValueError):
        raise
    except Exception as error:
        if memory_used_up(error):
            raise
        raise broken(kind, name, f"build failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, nn.Module):
        raise broken(kind, name, f"build returned {type(found).__name__}, not a torch module")
    # The optimizer is made before the first picture is seen.
    tensors = itertools.chain(found.named_parameters(), found.named_buffers())
    if lazy := [key for key, tensor in tensors if is_lazy(tensor)]:
        raise broken(kind, name, f"{lazy[0]} has no shape yet: build returned a lazy module of torch")
    return found


def broken(kind: str, name: str, what: str) -> PluginError:
    """What is to be raised where a plugin is broken: it names the plugin. Arguments as of `built`."""
    try:
        plugin = load_zoo().provider(kind, name)
    except FxError:  # a spec that was not registered
        return PluginError(f"{kind} {name}: {what}")
    hint = f"it is of the plugin {plugin.name} ({plugin.distribution} {plugin.version}); --debug shows where it fails"
    return PluginError(f"{kind} {name}: {what}", hint=hint)


def load(file: Path, zoo: Zoo, *, headless: bool = False) -> TrainedModel:
    """Reads a model file.

    Args:
        file: It.
        zoo: Has its backbone.
        headless: Whether what a pretraining made will do: a backbone without a head, for its features.

    Raises:
        ModelFileError: It is none, is damaged, holds no classifier, or its backbone's plugin is not there.
        PluginError: That plugin is broken.
    """
    tensors, info = load_model_file(file)
    is_headless = headless and info.get("task") == "pretrain"
    if not is_headless:
        _check_task(file, info)
    with reading(file):
        classes, preprocessing = told_by(info, headless=is_headless)
        settings = Model.model_validate_json(json.dumps(info["model"]))
    spec = spec_of(file, info, settings.backbone, zoo)
    members = []
    if is_headless:
        tensors = {**tensors, "head.weight": torch.empty(0, spec.num_features), "head.bias": torch.empty(0)}
    for state in _by_member(tensors, info, file):
        # Before a network of that size is made.
        head = state.get("head.weight")
        if head is None or head.shape != (len(classes), spec.num_features):
            told = None if head is None else tuple(head.shape)
            what = f"its weights do not fit its header: head.weight is {told}, not {(len(classes), spec.num_features)}"
            raise ModelFileError(what, where=file)
        try:
            # The file holds every parameter, or fill fails.
            with EmptyParameters():
                member = build(spec, settings, preprocessing.image_size_px, len(classes), seed=0)
        except RecipeError as error:
            raise ModelFileError(f"its backbone is no longer as it was: {error.problems[0]}", where=file) from error
        member.statistics = _statistics(state, spec.num_features, file)
        fill(member, state, file)
        members.append(member.eval())
    if len({member.statistics is None for member in members}) > 1:
        raise ModelFileError("some of its members have feature statistics, others have none", where=file)
    header = {key: value for key, value in info.items() if key not in ("classes", "preprocessing")}
    return TrainedModel(tuple(members), spec, classes, preprocessing, header)


def _by_member(tensors: dict[str, Tensor], info: dict[str, Any], file: Path) -> list[dict[str, Tensor]]:
    """The tensors of each network of the file."""
    told = info.get("members")
    if told is None:
        return [tensors]
    if len(told) > len(tensors):
        raise ModelFileError(f"its weights are not of {len(told)} members", where=file)
    found: list[dict[str, Tensor]] = [{} for _ in told]
    for key, tensor in tensors.items():
        prefix, _, rest = key.partition(".")
        number, _, name = rest.partition(".")
        if prefix != "member" or not number.isdecimal() or int(number) >= len(found):
            raise ModelFileError(f"its weights are not of {len(found)} members: {key}", where=file)
        found[int(number)][name] = tensor
    return found


def _statistics(state: dict[str, Tensor], num_features: int, file: Path) -> FeatureStatistics | None:
    found = {name: state[key] for name in STATISTICS if (key := f"statistics.{name}") in state}
    if not found:
        return None
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    rank = (*shapes.get("projection", ()), 0, 0)[1]
    fits = shapes == {"mean": (num_features,), "projection": (num_features, rank), "residual": ()} and rank > 0
    if not fits or not all(value.dtype == torch.float32 and value.isfinite().all() for value in found.values()):
        raise ModelFileError(f"its feature statistics do not fit {num_features} features: {shapes}", where=file)
    return FeatureStatistics(**found)


def _check_task(file: Path, info: dict[str, Any]) -> None:
    task, named = info.get("task"), shlex.quote(str(file))
    if task == "pretrain":
        backbone = info.get("backbone")
        raise ModelFileError(
            f"holds a pretrained backbone ({backbone}), not a classifier",
            where=file,
            hint=f"train one from it: fx train RECIPE --set model.backbone={backbone} --set model.init={named}; "
            f"or see what it makes of pictures: fx predict FOLDER --model {named} --features DIR",
        )
    if task == "detect":
        raise ModelFileError(
            "holds a detector, not a classifier", where=file, hint=f"fx predict FOLDER --model {named} finds boxes"
        )
    if task != "classify":
        raise ModelFileError("not the file of a classifier", where=file)
