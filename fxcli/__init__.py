"""fx: tells fracture types on radiographs. The names below are public; everything else may change.

They are imported when they are first asked for: every command imports this package, and few need pydantic and pluggy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from fxcli.api import Model
    from fxcli.errors import FxError, MissingDependency, UsageError
    from fxcli.zoo.hookspecs import hookimpl
    from fxcli.zoo.specs import (
        BackboneArgs,
        BackboneFamily,
        BackboneSpec,
        DetectorArgs,
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


def load(model: str | os.PathLike[str] | None = None, *, device: str | None = None, quiet: bool = False) -> Model:
    """Opens a model for use from Python: `fxcli.load("final").predict("folder/")`.

    Args:
        model: A run, a model file, an exported one, or the name of a recipe (its last finished run); None takes the
            last finished classifier below runs/.
        device: auto, cpu, cuda, cuda:N or mps.
        quiet: Whether to say nothing on stderr, and show no progress.

    Raises:
        FxError: There is none, or it cannot be used.
    """
    from fxcli import api

    return api.load(model, device=device, quiet=quiet)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fxcli import errors
    from fxcli.zoo import hookspecs, specs

    value = next(vars(home)[name] for home in (errors, hookspecs, specs) if name in vars(home))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "BackboneArgs",
    "BackboneFamily",
    "BackboneSpec",
    "DetectorArgs",
    "DetectorSpec",
    "FxError",
    "InputSpec",
    "MissingDependency",
    "NoOptions",
    "PretrainArgs",
    "PretrainerSpec",
    "Stage",
    "UsageError",
    "WeightSource",
    "__version__",
    "find_backbone",
    "hookimpl",
    "load",
]
