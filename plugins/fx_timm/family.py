"""The family `timm:<name>`: reads off a net of timm, built without memory, what a BackboneSpec has to say.

The map is what `forward_features` returns: before pooling and classifier, as it was trained. Modules that it
does not use (a norm after pooling, a second head) are taken out, so that every parameter is trained.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from fxcli import BackboneArgs, BackboneSpec, InputSpec, Stage, WeightSource

HASHED = re.compile(r"-([0-9a-f]{8,})\.pth$")


class FeatureMap(nn.Module):
    """A net of timm whose output is brought to [B, C, h, w]; prefix tokens (class, registers) are dropped."""

    def __init__(self, net: nn.Module, layout: str) -> None:
        super().__init__()
        self.net = net
        self.layout = layout

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] → feature map [B, C, h, w]."""
        features: Tensor = self.net.forward_features(images)  # type: ignore[operator]
        if self.layout == "NHWC":
            return features.permute(0, 3, 1, 2).contiguous()
        if self.layout == "NLC":
            tokens = features[:, getattr(self.net, "num_prefix_tokens", 0) :]
            side = math.isqrt(tokens.shape[1])
            return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
        return features


@dataclass(frozen=True)
class Anatomy:
    """What a trace of the net shows: the form of its output, its idle modules, and its stages."""

    layout: str
    idle: tuple[str, ...]
    stages: tuple[Stage, ...]


@functools.cache
def resolve(name: str) -> BackboneSpec:
    """The spec of `timm:<name>`; a tag (`resnet50.a1_in1k`) picks the weights.

    Raises:
        KeyError: timm has no such net or tag; likely ones follow the name in its arguments.
        ValueError: The net gives no square feature map.
    """
    known_name = name.partition(".")[0]
    if not timm.is_model(known_name):
        raise KeyError(name, *difflib.get_close_matches(known_name, timm.list_models(), n=2))
    try:
        config: Any = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise KeyError(name, *timm.list_models(f"{known_name}.*", pretrained=True)[:4]) from error
    anatomy = _trace(name, config)
    return BackboneSpec(
        name=name,
        build=functools.partial(_build, name, anatomy),
        num_features=anatomy.stages[-1].channels,
        stages=anatomy.stages,
        input=InputSpec(
            size_px=config.input_size[1],
            mean=config.mean,
            std=config.std,
            interpolation="bilinear" if config.interpolation == "bilinear" else "bicubic",
        ),
        weights=_weights(config, anatomy),
        summary=f"{name} of timm",
    )


def _build(name: str, anatomy: Anatomy, args: BackboneArgs) -> nn.Module:
    config: Any = timm.get_pretrained_cfg(name)
    wanted: dict[str, Any] = {}
    if args.drop_path:
        wanted["drop_path_rate"] = args.drop_path
    if config.fixed_input_size and args.image_size_px != config.input_size[1]:
        wanted["img_size"] = args.image_size_px
    try:
        net = timm.create_model(name, num_classes=0, **wanted)
    except TypeError as error:
        raise ValueError(f"{name} of timm does not take {' and '.join(wanted)}") from error
    _take_out(net, anatomy.idle)
    return FeatureMap(net, anatomy.layout)


def _take_out(net: nn.Module, idle: tuple[str, ...]) -> None:
    for module in idle:
        net.set_submodule(module, nn.Identity())


def _trace(name: str, config: Any) -> Anatomy:
    size_px = config.input_size[1] if config.fixed_input_size else 256
    # On the meta device nothing is computed or drawn; the whole takes a fraction of a second for any net.
    with torch.device("meta"), torch.enable_grad():
        net: Any = timm.create_model(name, num_classes=0).eval()
        images = torch.zeros(1, 3, size_px, size_px)
        layout = _layout(name, net.forward_features(images), net)
        backbone = FeatureMap(net, layout).eval()
        idle = tuple(_idle(net, backbone(images)))
        _take_out(net, idle)
        return Anatomy(layout, idle, _stages(backbone, size_px))


def _layout(name: str, features: object, net: nn.Module) -> str:
    if isinstance(features, Tensor):
        if features.ndim == 3:
            tokens = features.shape[1] - getattr(net, "num_prefix_tokens", 0)
            if math.isqrt(tokens) ** 2 == tokens:
                return "NLC"
        if features.ndim == 4 and features.shape[2] == features.shape[3]:
            return "NCHW"
        if features.ndim == 4 and features.shape[1] == features.shape[2]:
            return "NHWC"
    shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
    raise ValueError(f"{name} of timm gives no square feature map but {shape}")


def _idle(net: nn.Module, features: Tensor) -> Iterator[str]:
    """The outermost modules none of whose parameters take part in the features."""
    names, parameters = zip(*net.named_parameters(), strict=True)
    gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
    unused = {name for name, gradient in zip(names, gradients, strict=True) if gradient is None}
    done: tuple[str, ...] = ()
    for module_name, module in net.named_modules():
        own = {f"{module_name}.{name}" for name, _ in module.named_parameters()}
        if module_name and own and own <= unused and not module_name.startswith(done):
            done += (f"{module_name}.",)
            yield module_name


def _stages(backbone: FeatureMap, size_px: int) -> tuple[Stage, ...]:
    """Cuts the net after each of timm's feature taps; one stage, "all", where a piece gives no map."""
    taps = {f"net.{info['module']}" for info in getattr(backbone.net, "feature_info", ())}
    shapes: dict[str, torch.Size] = {}

    def note(name: str, _: nn.Module, __: object, output: object) -> None:
        shapes[name] = output.shape if isinstance(output, Tensor) else torch.Size()

    for name, module in backbone.named_modules():
        module.register_forward_hook(functools.partial(note, name))
    final = backbone(torch.zeros(1, 3, size_px, size_px)).shape
    whole = Stage(name="all", modules=("",), stride=round(size_px / final[2]), channels=final[1])
    pieces = _cut(backbone, taps)
    stages = tuple(
        Stage(
            name=modules[-1].removeprefix("net."),
            modules=modules,
            stride=size_px // shapes[modules[-1]][2],
            channels=shapes[modules[-1]][1],
        )
        for modules in pieces
        if _is_map(shapes.get(modules[-1]), size_px)
    )
    true = len(stages) == len(pieces) > 0 and shapes[pieces[-1][-1]] == final
    return stages if true else (whole,)


def _is_map(shape: torch.Size | None, size_px: int) -> bool:
    return shape is not None and len(shape) == 4 and shape[2] == shape[3] and size_px % shape[2] == 0


def _cut(backbone: nn.Module, taps: set[str]) -> list[tuple[str, ...]]:
    pieces: list[tuple[str, ...]] = []
    current: list[str] = []
    for name in _units(backbone, "", taps):
        current.append(name)
        if name in taps:
            pieces.append(tuple(current))
            current = []
    return [*pieces, tuple(current)] if current else pieces


def _units(module: nn.Module, name: str, taps: set[str]) -> Iterator[str]:
    """The outermost modules that have parameters, or are a tap, and hold no tap inside them."""
    inside = f"{name}." if name else ""
    own = any(True for _ in module.parameters(recurse=False))
    if own or name in taps or not any(tap.startswith(inside) for tap in taps):
        if name in taps or any(True for _ in module.parameters()):
            yield name
        return
    for child_name, child in module.named_children():
        yield from _units(child, inside + child_name, taps)


def _weights(config: Any, anatomy: Anatomy) -> dict[str, WeightSource]:
    url, sha256 = _address(config)
    if url is None:
        return {}
    heads = (config.classifier,) if isinstance(config.classifier, str) else tuple(config.classifier or ())
    dropped = tuple(f"{module}." for module in (*heads, *anatomy.idle))
    source = WeightSource(
        url=url,
        sha256=sha256,
        licence=config.license or "unknown",
        reference=config.origin_url or "https://github.com/huggingface/pytorch-image-models",
        convert=functools.partial(_convert, dropped),
    )
    return {"imagenet" if re.search(r"in\d+k", config.tag or "") else "pretrained": source}


def _address(config: Any) -> tuple[str | None, str | None]:
    """Url and sha256 prefix: a file with its hash in its name goes before timm's repository on the hub."""
    if config.url and not config.custom_load and (match := HASHED.search(config.url)):
        return config.url, match[1]
    if config.hf_hub_id and config.hf_hub_id.startswith("timm/") and not config.hf_hub_filename:
        return f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors", None
    return None, None


def _convert(dropped: tuple[str, ...], state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    net = module.get_submodule("net")
    # What timm itself calls on loading: renames old keys, fits position embeddings to another image size.
    fit = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if fit is not None:
        state = fit(state, net)
    return {f"net.{key}": tensor for key, tensor in state.items() if not key.startswith(dropped)}
