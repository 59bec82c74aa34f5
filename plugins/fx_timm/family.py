"""The family `timm:<name>`: a BackboneSpec for any net of timm that gives a square feature map, and its weights."""

from __future__ import annotations

import difflib
import functools
import re
import sys
from typing import Any

import timm
import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from fx_timm.anatomy import Anatomy, anatomy, take_out
from fx_timm.feature_map import FeatureMap
from fxcli import BackboneArgs, BackboneSpec, InputSpec, WeightSource

OWNER = "timm/"
HASHED = re.compile(r"-([0-9a-f]{8,})\.pth$")


@functools.cache
def resolve(name: str, *, is_of_hub: bool = False) -> BackboneSpec:
    """The spec of `timm:<name>`; a tag (`resnet50.a1_in1k`) picks the weights.

    Args:
        name: Of timm.
        is_of_hub: Weights are those of timm's repository, also where a file with a hash in its name is published.

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
    found = anatomy(name, config)
    return BackboneSpec(
        name=name,
        build=functools.partial(_build, name, found),
        num_features=found.stages[-1].channels,
        stages=found.stages,
        input=InputSpec(
            size_px=config.input_size[1],
            mean=config.mean,
            std=config.std,
            interpolation="bilinear" if config.interpolation == "bilinear" else "bicubic",
        ),
        weights=_weights(config, found, is_of_hub),
        summary=f"{name} of timm",
    )


def of_hub(repository: str) -> BackboneSpec:
    """The spec of `hf_hub:timm/<name>.<tag>`.

    Others than timm's own say in a file of theirs what net they are, and a model must be built without a network.

    Raises:
        KeyError: It is none of timm's repositories; likely ones follow the name in its arguments.
        ValueError: The net gives no square feature map.
    """
    name = repository.rpartition("/")[2]
    try:
        spec, likely = resolve(name, is_of_hub=True), [name]
    except KeyError as error:
        spec, likely = None, list(error.args[1:])
    repositories = [str(config.hf_hub_id) for each in likely if (config := timm.get_pretrained_cfg(each))]
    if spec is None or repositories != [repository]:
        raise KeyError(repository, *(each for each in repositories if each.startswith(OWNER)))
    return spec


def _build(name: str, found: Anatomy, args: BackboneArgs) -> nn.Module:
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
    if not args.drop_path:
        # Some, Swin among them, have a rate of their own where none is asked for.
        for module in net.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.0
    take_out(net, found.idle)
    backbone = FeatureMap(net, found.form, found.taps)
    if "img_size" in wanted and not _sees(backbone, args.image_size_px):
        raise ValueError(
            f"{name} of timm sees pictures of {config.input_size[1]} px alone, not of {args.image_size_px}"
        )
    return backbone


def _sees(backbone: nn.Module, size_px: int) -> bool:
    """Whether it really takes pictures of that size: some nets are told of another one and go on with their own."""
    is_training = backbone.training
    try:
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, 3, size_px, size_px))
    except RuntimeError:
        return False
    finally:
        backbone.train(is_training)
    return True


def _weights(config: Any, found: Anatomy, is_of_hub: bool) -> dict[str, WeightSource]:
    url, sha256 = _address(config, is_of_hub)
    if url is None:
        return {}
    heads = (config.classifier,) if isinstance(config.classifier, str) else tuple(config.classifier or ())
    dropped = tuple(f"{module}." for module in (*heads, *found.idle))
    source = WeightSource(
        url=url,
        sha256=sha256,
        licence=config.license or "unknown",
        reference=config.origin_url or "https://github.com/huggingface/pytorch-image-models",
        convert=functools.partial(_convert, dropped),
    )
    return {"imagenet" if re.search(r"in\d+k", config.tag or "") else "pretrained": source}


def _address(config: Any, is_of_hub: bool) -> tuple[str | None, str | None]:
    """Url and sha256 prefix: a file with its hash in its name goes before timm's repository on the hub."""
    if not is_of_hub and config.url and not config.custom_load and (match := HASHED.search(config.url)):
        return config.url, match[1]
    if config.hf_hub_id and config.hf_hub_id.startswith(OWNER) and not config.hf_hub_filename:
        return f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors", None
    return None, None


def _convert(dropped: tuple[str, ...], state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    net = module.get_submodule("net")
    # What timm itself calls on loading: renames old keys, fits position embeddings to another image size.
    fit = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if fit is not None:
        state = fit(state, net)
    return {f"net.{key}": tensor for key, tensor in state.items() if not key.startswith(dropped)}
