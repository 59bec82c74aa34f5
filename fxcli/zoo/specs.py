"""What a plugin registers: frozen records without torch. The rest of fx asks these, never a class name.

Written by plugin authors, read by model/, training/ and zoo/plugins. Everything that differs between
backbones is a value here; nothing in fx is special-cased for one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import Tensor, nn

# Sides of square inputs that recipes, plugins and model files may have.
LEAST_SIZE_PX, MOST_SIZE_PX = 32, 2048

Interpolation = str
StateDict = dict[str, "Tensor"]


class NoOptions(BaseModel):
    """The options of a spec that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What a backbone expects to see.

    Attributes:
        size_px: Side of the square input, from LEAST_SIZE_PX to MOST_SIZE_PX.
        mean: Per channel, subtracted from pixels in [0, 1].
        std: Per channel, divided by after that.
        interpolation: "bilinear" or "bicubic", as the weights were trained.
    """

    size_px: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bilinear"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A piece of a backbone that is frozen, given a learning rate, or tapped as a whole.

    Attributes:
        name: For `model.freeze: until:<name>`.
        modules: Names of submodules of the built backbone, as in `named_modules()`; "" is the whole of it.
        stride: Input pixels per cell of the map that the last of `modules` returns.
        channels: Channels of that map.
        parameters: Names of parameters, as in `named_parameters()`, that belong to this stage and to none of its
            modules: a class token, say, or a position embedding.
    """

    name: str
    modules: tuple[str, ...]
    stride: int
    channels: int
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """Pretrained weights: where they are, how they are checked, and how they are to be named.

    Either `url`, or `package` and `resource` (a file inside an installed distribution), or `pretrainer` and
    `backbone` (what the user's own last finished pretraining under runs/ made, looked for when it is loaded).

    Attributes:
        url: Direct address of a .pth or .safetensors file.
        package: Import name of the package that carries the file.
        resource: Path inside that package.
        pretrainer: Method of that pretraining.
        backbone: Name of the backbone that it trained.
        extra: Extra of fxcli that installs the package, for the error message.
        sha256: Of the file; a prefix of at least 8 hex digits is accepted, as torchvision and timm publish it.
            None only for a .safetensors whose publisher gives none; fx then says that the file was not checked.
        licence: SPDX name.
        reference: Paper or page that describes the weights.
        convert: (state_dict, module) → state_dict with the keys of the module; the head's keys are dropped there.
        input: What these weights expect, where that differs from the backbone's own InputSpec.
    """

    url: str | None = None
    package: str | None = None
    resource: str | None = None
    pretrainer: str | None = None
    backbone: str | None = None
    extra: str | None = None
    sha256: str | None = None
    licence: str = "unknown"
    reference: str = ""
    convert: Callable[[StateDict, nn.Module], StateDict] | None = None
    input: InputSpec | None = None


@dataclass(frozen=True, kw_only=True)
class BackboneArgs:
    """What `BackboneSpec.build` is given.

    Attributes:
        image_size_px: Side of the square input that will come.
        drop_path: Stochastic depth rate in [0, 1); a backbone that has none raises ValueError above 0.
        options: The validated `model.options` of the recipe, an instance of `BackboneSpec.options`.
    """

    image_size_px: int
    drop_path: float = 0.0
    options: BaseModel = field(default_factory=NoOptions)


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """A backbone: images [B, 3, H, W] → activated feature map [B, num_features, h, w].

    Attributes:
        name: As in `model.backbone`; letters, digits, `_`, `-` and `.`.
        build: Makes the module with random weights; torch may be imported inside, not before.
        num_features: Channels of the feature map.
        stages: From input to output; every parameter belongs to exactly one of them.
        input: What it expects to see.
        weights: By the value of `model.init`; "imagenet" is the customary key.
        options: A pydantic model that validates `model.options`.
        summary: One line for `fx plugins`.
    """

    name: str
    build: Callable[[BackboneArgs], nn.Module]
    num_features: int
    stages: tuple[Stage, ...]
    input: InputSpec = InputSpec()
    weights: Mapping[str, WeightSource] = field(default_factory=dict)
    options: type[BaseModel] = NoOptions
    summary: str = ""


@dataclass(frozen=True, kw_only=True)
class BackboneFamily:
    """Backbones that are too many to list: `timm:convnext_tiny` is `resolve("convnext_tiny")` of "timm".

    Attributes:
        prefix: What stands before the colon.
        resolve: Called only for names with the prefix; raises KeyError for one it does not know.
        summary: One line for `fx plugins`.
    """

    prefix: str
    resolve: Callable[[str], BackboneSpec]
    summary: str = ""


@dataclass(frozen=True, kw_only=True)
class DetectorArgs:
    """What `DetectorSpec.build` is given.

    Attributes:
        image_size_px: Side of the square input that will come.
        num_classes: Of the boxes, without a background.
        stages: Of the backbone.
        pyramid: (channels, finest_stride) → a feature pyramid over the backbone (Lin et al. 2017): images [B, 3, S, S]
            → maps [B, channels, h, w] by the names "0", "1" …, from `finest_stride` (4 or 8) on, each level half as
            fine as the one before; `out_channels` and `names` say so. For detectors that want one.
        sides_px: √area of the training boxes at this input: 21 quantiles, every 5 % from the least to the largest.
        ratios: Height over width of the training boxes, likewise.
        options: The validated `detect.options` of the recipe, an instance of `DetectorSpec.options`.
    """

    image_size_px: int
    num_classes: int
    stages: tuple[Stage, ...]
    pyramid: Callable[[int, int], nn.Module]
    sides_px: tuple[float, ...]
    ratios: tuple[float, ...]
    options: BaseModel


@dataclass(frozen=True, kw_only=True)
class DetectorSpec:
    """A detector over any registered backbone.

    Attributes:
        name: As in `detect.detector`.
        build: (backbone, args) → a module that holds this backbone and keeps torchvision's detection contract: images
            are a list of [3, S, S], normalised; targets one {"boxes": [n, 4], "labels": [n] from 1 on} each. In
            training it returns a mapping of losses, else of each image {"boxes", "labels", "scores"}, surest first;
            what it gives the label 0 is left out.
        options: Validates `detect.options`.
        summary: One line for `fx plugins`.
    """

    name: str
    build: Callable[[nn.Module, DetectorArgs], nn.Module]
    options: type[BaseModel] = NoOptions
    summary: str = ""


@dataclass(frozen=True, kw_only=True)
class PretrainArgs:
    """What a pretrainer is given.

    Attributes:
        image_size_px: Side of the square views.
        num_features: Channels of the backbone's feature map.
        options: The validated `pretrain.options`.
    """

    image_size_px: int
    num_features: int
    options: BaseModel


@dataclass(frozen=True, kw_only=True)
class PretrainerSpec:
    """A self-supervised method.

    Attributes:
        name: As in `pretrain.method`.
        views: args → a tuple of transforms, one per view, each uint8 [1, H, W] → uint8 [3, S, S]. They draw from
            torch's global generator, which is seeded before each call, and can be pickled.
        build: (backbone, args) → a module with `loss(views: tuple of [B, 3, S, S]) → Tensor []`,
            `after_step(progress in [0, 1])` called after each optimizer step, and its backbone as `backbone`. `loss`
            may leave what it compares, Tensor [N, E] of all views of the batch, as the module's attribute `embeddings`:
            their spread is then logged, and a pretraining whose embeddings have all become alike ends with an error.
        options: Validates `pretrain.options`.
        summary: One line for `fx plugins`.
    """

    name: str
    views: Callable[[PretrainArgs], tuple[Callable[[Any], Any], ...]]
    build: Callable[[nn.Module, PretrainArgs], nn.Module]
    options: type[BaseModel] = NoOptions
    summary: str = ""
