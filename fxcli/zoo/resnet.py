"""ResNet-18 and ResNet-50: always there, and registered through the same hook as a stranger's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from fxcli.zoo.hookspecs import hookimpl
from fxcli.zoo.specs import (
    BackboneArgs,
    BackboneFamily,
    BackboneSpec,
    InputSpec,
    Stage,
    StateDict,
    WeightSource,
)

if TYPE_CHECKING:
    from torch import nn

_PARTS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


@hookimpl
def fx_register_backbones(register: Callable[[BackboneSpec | BackboneFamily], None]) -> None:
    """Registers resnet18 and resnet50."""
    first = _weights("resnet18-f37072fd.pth")
    register(_spec("resnet18", (64, 128, 256, 512), {"imagenet": first, "imagenet1k_v1": first}))
    # V1 is as published with the architecture; V2 comes of a longer recipe that torchvision made later.
    first, second = _weights("resnet50-0676ba61.pth"), _weights("resnet50-11ad3fa6.pth")
    register(
        _spec(
            "resnet50",
            (256, 512, 1024, 2048),
            {"imagenet": first, "imagenet1k_v1": first, "imagenet1k_v2": second},
        )
    )


def _spec(name: str, channels: tuple[int, int, int, int], weights: dict[str, WeightSource]) -> BackboneSpec:
    layers = [
        Stage(name=f"layer{i}", modules=(f"layer{i}",), stride=2 ** (i + 1), channels=width)
        for i, width in enumerate(channels, start=1)
    ]
    return BackboneSpec(
        name=name,
        build=partial(_build, name),
        num_features=channels[-1],
        stages=(Stage(name="stem", modules=_PARTS[:4], stride=4, channels=64), *layers),
        input=InputSpec(),
        weights=weights,
        summary=f"ResNet-{name.removeprefix('resnet')} of torchvision (He et al. 2016)",
    )


def _weights(file: str) -> WeightSource:
    # torchvision's file names end in the first eight digits of their sha256.
    return WeightSource(
        url=f"https://download.pytorch.org/models/{file}",
        sha256=file.removesuffix(".pth").partition("-")[2],
        licence="BSD-3-Clause",
        reference="https://arxiv.org/abs/1512.03385; https://github.com/pytorch/vision",
        convert=_without_classifier,
    )


def _build(name: str, args: BackboneArgs) -> nn.Module:
    import torchvision
    from torch import nn

    if args.drop_path:
        raise ValueError(f"{name} has no stochastic depth: drop_path must be 0, not {args.drop_path}")
    whole = torchvision.models.get_model(name, weights=None)
    return nn.Sequential(OrderedDict((part, getattr(whole, part)) for part in _PARTS))


def _without_classifier(state: StateDict, module: nn.Module) -> StateDict:
    return {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}
