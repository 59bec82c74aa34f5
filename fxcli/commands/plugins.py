"""`fx plugins`: what is installed, what failed and why, and every name that a recipe may use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fxcli.commands.options import Debug, Json, Quiet
from fxcli.console import console
from fxcli.errors import PluginError

if TYPE_CHECKING:
    from fxcli.zoo.plugins import Plugin, Zoo


def plugins(
    check: Annotated[bool, typer.Option("--check", help="Exit with 5 if a plugin failed to load.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Lists the plugins and the backbones, pretrainers and detectors that they register.

    Example: fx plugins --check
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    from fxcli.zoo.plugins import load_zoo

    zoo = load_zoo()
    if json:
        console.record(_record(zoo))
    else:
        _tables(zoo)
    failed = [plugin for plugin in zoo.plugins if plugin.status == "failed"]
    if check and failed:
        reasons = "; ".join(f"{plugin.name}: {plugin.reason}" for plugin in failed)
        raise PluginError(
            f"{len(failed)} of {len(zoo.plugins)} plugins failed to load: {reasons}",
            hint="repair or uninstall them, or name them in FX_DISABLE_PLUGINS",
        ) from failed[0].error


def _record(zoo: Zoo) -> dict[str, Any]:
    return {
        "plugins": [_about(plugin) for plugin in zoo.plugins],
        "backbones": [
            {
                "name": name,
                "plugin": zoo.provider("backbone", name).name,
                "summary": spec.summary,
                "num_features": spec.num_features,
                "input_px": spec.input.size_px,
                "stages": [stage.name for stage in spec.stages],
                "init": ["random", *spec.weights],
            }
            for name, spec in zoo.backbones().items()
        ],
        "families": [{"prefix": prefix, "summary": f.summary} for prefix, f in zoo.families().items()],
        "pretrainers": _summaries(zoo.pretrainers()),
        "detectors": _summaries(zoo.detectors()),
    }


def _about(plugin: Plugin) -> dict[str, Any]:
    names = ("name", "distribution", "version", "status", "stage", "reason")
    return {**{name: getattr(plugin, name) for name in names}, "hooks": list(plugin.hooks)}


def _summaries(specs: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"name": name, "summary": spec.summary} for name, spec in specs.items()]


def _tables(zoo: Zoo) -> None:
    rows = [
        (p.name, p.distribution, p.version, "\n".join(p.hooks), f"{p.status} {p.stage}".strip(), p.reason)
        for p in zoo.plugins
    ]
    console.table(["plugin", "distribution", "version", "hooks", "status", "reason"], rows)
    backbones = [
        (name, ", ".join(["random", *spec.weights]), f"{spec.input.size_px}", spec.summary)
        for name, spec in zoo.backbones().items()
    ]
    families = [(f"{prefix}:<name>", "", "", family.summary) for prefix, family in zoo.families().items()]
    console.table(["backbone", "init", "input px", "about"], [*backbones, *families])
    _table("pretrainer", zoo.pretrainers())
    _table("detector", zoo.detectors())


def _table(kind: str, specs: Mapping[str, Any]) -> None:
    rows: Sequence[tuple[str, str]] = [(name, spec.summary) for name, spec in specs.items()]
    if rows:
        console.table([kind, "about"], rows)
