"""`fx plugins`: what is installed, what failed and why, and every name that a recipe may use; `new` begins another."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fxcli.commands.options import Debug, Json, Out, Quiet
from fxcli.console import console
from fxcli.errors import PluginError, UsageError

if TYPE_CHECKING:
    from fxcli.zoo.plugins import Plugin, Zoo

app = typer.Typer()


@app.callback(invoke_without_command=True)
def plugins(
    context: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="Exit with 5 if a plugin failed to load.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Lists the plugins, the hooks that they implement, and what they register.

    Example: fx plugins --check
    """
    if context.invoked_subcommand:
        if check or json or quiet or debug:
            raise UsageError("options of a command stand behind it", hint=f"fx plugins {context.invoked_subcommand} …")
        return
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


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the distribution, as my-backbone.")],
    out: Out = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Writes a plugin with one small backbone that works, its test and its pyproject.toml, into NAME/ (or --out DIR).

    It is installed with pip, and can be trained at once. Nothing is ever written over.

    Example: fx plugins new my-backbone
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    from fxcli.zoo import kit
    from fxcli.zoo.plugins import load_zoo

    begun = kit.begin(name, out or Path(name), load_zoo())
    if json:
        names = {"distribution": begun.distribution, "module": begun.module, "backbone": begun.module}
        console.record({"folder": str(begun.folder), **names, "files": list(begun.files)})
    else:
        for file in begun.files:
            console.data(str(begun.folder / file))
    console.note(f"next: python -m pip install -e {shlex.quote(f'{begun.folder}[test]')}")
    console.note(f"then: python -m pytest {shlex.quote(str(begun.folder))}")
    console.note(f"and:  fx train quickstart --set model.backbone={begun.module} --set model.init=random")


def _record(zoo: Zoo) -> dict[str, Any]:
    return {
        "plugins": [_about(plugin) for plugin in zoo.plugins],
        "hooks": _hooks(zoo),
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


def _hooks(zoo: Zoo) -> list[dict[str, Any]]:
    """Every hook: what it is for, and who implements it."""
    from fxcli.zoo import hookspecs
    from fxcli.zoo.checks import HOOKS

    return [
        {
            "name": hook,
            "about": inspect.getdoc(getattr(hookspecs, hook)) or "",
            "plugins": [plugin.name for plugin in zoo.plugins if hook in plugin.hooks and plugin.status == "ok"],
        }
        for hook in HOOKS
    ]


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
    hooks = [(hook["name"], " ".join(hook["about"].split()), ", ".join(hook["plugins"])) for hook in _hooks(zoo)]
    console.table(["hook", "what it is for", "plugins"], hooks)
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
