"""The hooks of fx: all of them, on one screen. An implementation must not import torch when it registers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from fxcli.zoo.specs import BackboneFamily, BackboneSpec, DetectorSpec, PretrainerSpec

hookspec = pluggy.HookspecMarker("fx")
hookimpl = pluggy.HookimplMarker("fx")


@hookspec
def fx_register_backbones(register: Callable[[BackboneSpec | BackboneFamily], None]) -> None:
    """Called once at start: pass each BackboneSpec or BackboneFamily to `register`."""


@hookspec
def fx_register_detectors(register: Callable[[DetectorSpec], None]) -> None:
    """Called once at start: pass each DetectorSpec to `register`."""


@hookspec
def fx_register_pretrainers(register: Callable[[PretrainerSpec], None]) -> None:
    """Called once at start: pass each PretrainerSpec to `register`."""


@hookspec
def fx_start_run(run: Path) -> None:
    """Called when a training begins or goes on: the run directory. An FxError that is raised here ends it."""


@hookspec
def fx_log_metrics(run: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Called when training logs: the run directory, the optimizer step, and scalar metrics by name."""


@hookspec
def fx_report_sections(run: Path) -> Iterable[tuple[str, str | Iterable[Iterable[object]]]] | None:
    """Called by `fx report` for each run: returns a list of (title, text) or (title, rows of cells, a head first)."""
