"""fx: tells fracture types on radiographs. The names below are public; everything else may change."""

from __future__ import annotations

from fxcli.errors import FxError
from fxcli.zoo.hookspecs import hookimpl
from fxcli.zoo.specs import (
    BackboneArgs,
    BackboneFamily,
    BackboneSpec,
    DetectorSpec,
    InputSpec,
    NoOptions,
    PretrainArgs,
    PretrainerSpec,
    Stage,
    WeightSource,
)

__version__ = "0.1.0"


def find_backbone(name: str) -> BackboneSpec:
    """The spec of a registered backbone, for plugins that build on another's; not while plugins register.

    Raises:
        FxError: Nothing, or more than one plugin, registers it.
    """
    from fxcli.zoo.plugins import load_zoo

    return load_zoo().backbone(name)


__all__ = [
    "BackboneArgs",
    "BackboneFamily",
    "BackboneSpec",
    "DetectorSpec",
    "FxError",
    "InputSpec",
    "NoOptions",
    "PretrainArgs",
    "PretrainerSpec",
    "Stage",
    "WeightSource",
    "__version__",
    "find_backbone",
    "hookimpl",
]
