"""For authors of plugins and for the tests of fx: the contract of a backbone, and a tiny data set."""

from __future__ import annotations

import functools
import itertools
import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from fxcli.errors import PluginError
from fxcli.model import freeze
from fxcli.zoo.checks import check_spec
from fxcli.zoo.plugins import load_zoo
from fxcli.zoo.specs import BackboneArgs, BackboneSpec, Stage


def check_backbone(spec_or_name: BackboneSpec | str, *, image_size_px: int = 64) -> None:
    """Checks that a backbone does what its spec says; weights are not touched, nothing is downloaded.

    Args:
        spec_or_name: A spec, or the name of a registered one; by name, it is also checked that the module of
            its plugin imports without torch.
        image_size_px: Side of the square random images that are passed through.

    Raises:
        PluginError: The first thing that is not as it must be.
    """
    if isinstance(spec_or_name, str):
        spec = load_zoo().backbone(spec_or_name)
        _check_import(load_zoo().provider("backbone", spec_or_name).module)
    else:
        spec = spec_or_name
        # What a family resolves is called prefix:member, which no plugin may register.
        check_spec(replace(spec, name=spec.name.rpartition(":")[2]), (BackboneSpec,))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = _build(spec, image_size_px)
        images = torch.rand(2, 3, image_size_px, image_size_px)
        _check_cover(spec, module)
        features = _check_forward(spec, module.eval(), images)
        _check_stages(spec, module, images)
        _check_round_trip(spec, module, images, features)
        _check_backward(spec, module.train(), images)
        _check_drop_path(spec, images)


def tiny_dataset(folder: Path, *, classes: int = 3, per_class: int = 4, size_px: int = 64) -> Path:
    """Writes a class-folder tree of small grey PNGs: a bright bar over random clouds, its angle is the class.

    Args:
        folder: Made if absent; the pictures are `<folder>/class_<i>/<j>.png`.
        classes: Number of classes.
        per_class: Pictures in each.
        size_px: Side of each picture.

    Returns:
        The folder. The same arguments always give the same bytes.
    """
    generator = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class_{label}").mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            picture = _bar(generator, math.pi * label / classes, size_px)
            picture.save(folder / f"class_{label}" / f"{number}.png")
    return folder


def _bar(generator: np.random.Generator, angle: float, size_px: int) -> Image.Image:
    # The clouds differ from picture to picture; so smooth are they that an audit may still take two for one.
    clouds = generator.integers(0, 160, (5, 5), dtype=np.uint8)
    picture = Image.fromarray(clouds).resize((size_px, size_px), Image.Resampling.BICUBIC)
    x, y = generator.uniform(0.4, 0.6, 2) * size_px
    dx, dy = 0.35 * size_px * math.cos(angle), 0.35 * size_px * math.sin(angle)
    ImageDraw.Draw(picture).line((x - dx, y - dy, x + dx, y + dy), fill=255, width=max(1, size_px // 12))
    return picture


@functools.cache
def _check_import(module: str) -> None:
    code = "import importlib, sys; importlib.import_module(sys.argv[1]); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, module.partition(":")[0]],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["torch is imported; import it inside build"]
        raise PluginError(f"importing {module} alone: {reason[0]}")


def _build(spec: BackboneSpec, image_size_px: int, drop_path: float = 0.0) -> nn.Module:
    try:
        args = BackboneArgs(image_size_px=image_size_px, drop_path=drop_path, options=spec.options())
        module = spec.build(args)
    except Exception as error:
        raise _broken(spec, f"build raised {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise _broken(spec, f"build returned {type(module).__name__}, not a torch.nn.Module")
    return module


def _check_cover(spec: BackboneSpec, module: nn.Module) -> None:
    names = {parameter: name for name, parameter in module.named_parameters()}
    owner: dict[nn.Parameter, str] = {}
    for stage in spec.stages:
        own = [_parameter(spec, module, stage, name) for name in stage.parameters]
        parts = [_part(spec, module, stage, name) for name in stage.modules]
        for parameter in itertools.chain(own, *(part.parameters() for part in parts)):
            if parameter in owner:
                raise _broken(spec, f"{names[parameter]} is in stage {stage.name} and in stage {owner[parameter]}")
            owner[parameter] = stage.name
    if left := freeze.left_out(module, spec):
        raise _broken(spec, left)


def _part(spec: BackboneSpec, module: nn.Module, stage: Stage, part: str) -> nn.Module:
    try:
        return module.get_submodule(part)
    except AttributeError as error:
        raise _broken(spec, f"stage {stage.name} names the module '{part}', which does not exist") from error


def _parameter(spec: BackboneSpec, module: nn.Module, stage: Stage, name: str) -> nn.Parameter:
    try:
        return module.get_parameter(name)
    except AttributeError as error:
        raise _broken(spec, f"stage {stage.name} names the parameter '{name}', which does not exist") from error


def _check_forward(spec: BackboneSpec, module: nn.Module, images: Tensor) -> Tensor:
    before = _random_state()
    features = _run(spec, module, images)
    if _random_state() != before:
        raise _broken(spec, "forward in eval mode draws from a global random generator")
    if not isinstance(features, Tensor) or features.ndim != 4 or len(features) != len(images):
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise _broken(spec, f"forward returns {shape}, not a map [B, {spec.num_features}, h, w]")
    _check_map(spec, "forward", features, spec.stages[-1], images)
    if features.dtype != images.dtype:
        raise _broken(spec, f"forward returns {features.dtype} for {images.dtype} images")
    if not features.isfinite().all():
        raise _broken(spec, "the feature map of random images is not finite")
    if not torch.equal(features, _run(spec, module, images)):
        raise _broken(spec, "forward in eval mode is not deterministic")
    if not torch.allclose(features[:1], _run(spec, module, images[:1]), rtol=1e-3, atol=1e-4):
        raise _broken(spec, "in eval mode, the map of an image depends on the batch that it comes in")
    return features


def _check_map(spec: BackboneSpec, what: str, output: object, stage: Stage, images: Tensor) -> None:
    if not isinstance(output, Tensor) or output.ndim != 4:
        raise _broken(spec, f"{what} gives no map [B, C, h, w]")
    ratio = images.shape[-1] / stage.stride
    sides = {math.floor(ratio), math.ceil(ratio)}
    if output.shape[1] != stage.channels:
        raise _broken(spec, f"{what} has {output.shape[1]} channels, the spec says {stage.channels}")
    if not {output.shape[2], output.shape[3]} <= sides:
        shape = f"{output.shape[2]} x {output.shape[3]}"
        raise _broken(spec, f"{what} is {shape} for {images.shape[-1]} px, the spec says stride {stage.stride}")


def _check_stages(spec: BackboneSpec, module: nn.Module, images: Tensor) -> None:
    outputs: dict[str, object] = {}

    def note(name: str, _: nn.Module, __: object, output: object) -> None:
        outputs[name] = output

    lasts = [(stage, _part(spec, module, stage, stage.modules[-1])) for stage in spec.stages]
    handles = [last.register_forward_hook(functools.partial(note, stage.name)) for stage, last in lasts]
    _run(spec, module, images)
    for handle in handles:
        handle.remove()
    for stage, _ in lasts:
        _check_map(
            spec,
            f"stage {stage.name} (its last module {stage.modules[-1]!r})",
            outputs.get(stage.name),
            stage,
            images,
        )


def _check_round_trip(spec: BackboneSpec, module: nn.Module, images: Tensor, features: Tensor) -> None:
    other = _build(spec, images.shape[-1]).eval()
    if not {*module.parameters()}.isdisjoint(other.parameters()):
        raise _broken(spec, "two builds share parameters; each makes new ones")
    try:
        other.load_state_dict(module.state_dict())
    except RuntimeError as error:
        raise _broken(spec, f"its state_dict does not load into a second build: {error}") from error
    if not torch.equal(features, _run(spec, other, images)):
        raise _broken(spec, "after loading its state_dict, a second build gives other features")


def _check_backward(spec: BackboneSpec, module: nn.Module, images: Tensor) -> None:
    try:
        with torch.enable_grad():
            module(images).square().mean().backward()
    except Exception as error:
        raise _broken(spec, f"training raised {type(error).__name__}: {error}") from error
    parameters = dict(module.named_parameters())
    idle = [name for name, parameter in parameters.items() if parameter.grad is None]
    if idle:
        raise _broken(spec, f"{len(idle)} parameters get no gradient: {', '.join(idle[:3])}")
    wild = [name for name, parameter in parameters.items() if not _finite(parameter.grad)]
    if wild:
        raise _broken(spec, f"{len(wild)} parameters get a gradient that is not finite: {', '.join(wild[:3])}")


def _check_drop_path(spec: BackboneSpec, images: Tensor) -> None:
    try:
        _build(spec, images.shape[-1], drop_path=0.1)
    except PluginError as error:
        if not isinstance(error.__cause__, ValueError):
            raise _broken(spec, f"drop_path=0.1 must work or raise ValueError: {error.what}") from error
        return
    with_it, without = (_trained(spec, images, drop_path) for drop_path in (0.1, 0.0))
    # One that draws may drop nothing here, or what adds nothing yet.
    if torch.equal(with_it[0], without[0]) and with_it[1] == without[1]:
        raise _broken(spec, "drop_path=0.1 changes nothing; without stochastic depth, build must raise ValueError")


def _trained(spec: BackboneSpec, images: Tensor, drop_path: float) -> tuple[Tensor, tuple[object, ...]]:
    """What a build gives in training mode, and where that leaves the generators, each time from one seed."""
    torch.manual_seed(0)
    return _run(spec, _build(spec, images.shape[-1], drop_path).train(), images), _random_state()


def _run(spec: BackboneSpec, module: nn.Module, images: Tensor) -> Any:
    try:
        with torch.no_grad():
            # A copy: a net that writes into its input must not spoil the comparison.
            return module(images.clone())
    except Exception as error:
        raise _broken(spec, f"forward raised {type(error).__name__}: {error}") from error


def _random_state() -> tuple[object, ...]:
    numpy_state = np.random.get_state(legacy=False)
    return torch.get_rng_state().tolist(), random.getstate(), str(numpy_state)


def _finite(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.isfinite().all())


def _broken(spec: BackboneSpec, what: str) -> PluginError:
    return PluginError(f"backbone {spec.name}: {what}", hint="fxcli.BackboneSpec describes the contract")
