"""Finds the plugins, loads each on its own, and answers by name what they register.

pluggy's own entry-point loader stops at the first plugin that fails, skips a second one of the same name and
accepts a misspelt hook. Here each plugin passes import, hook check and registration by itself, and what fails
is recorded, never raised. Called through `load_zoo()` by recipe/load, commands/ and whoever builds a model.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import traceback
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Any, TypeVar

import pluggy
from pydantic import BaseModel, ValidationError

from fxcli import __version__
from fxcli.console import console
from fxcli.errors import FxError, MissingDependency, PluginError, RecipeError, UnknownName, UsageError
from fxcli.zoo import hookspecs
from fxcli.zoo.checks import check_hooks, check_spec, likely, name_of, section_of
from fxcli.zoo.specs import BackboneFamily, BackboneSpec, DetectorSpec, PretrainerSpec

GROUP = "fx.plugins"
BUILT_IN = "fx"

_ACCEPTED: dict[str, tuple[type, ...]] = {
    "fx_register_backbones": (BackboneSpec, BackboneFamily),
    "fx_register_detectors": (DetectorSpec,),
    "fx_register_pretrainers": (PretrainerSpec,),
}
_KINDS: dict[str, type] = {"backbone": BackboneSpec, "pretrainer": PretrainerSpec, "detector": DetectorSpec}

S = TypeVar("S")
M = TypeVar("M", bound=BaseModel)


class AmbiguousName(UnknownName):
    """Two plugins register this name; the bare name means neither.

    Args:
        kind: "backbone", "pretrainer" or "detector".
        name: What was asked for.
        claims: The full names, `plugin/name`.
    """

    def __init__(self, kind: str, name: str, claims: list[str]) -> None:
        self.problems = [f"{kind} '{name}' is registered by {len(claims)} plugins"]
        FxError.__init__(self, self.problems[0], hint=f"write {' or '.join(claims)}")


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A plugin that was found, and what became of it.

    Attributes:
        name: Its entry point; `<distribution>.<entry point>` where two distributions use one name.
        module: What the entry point names.
        hooks: The hooks that it implements.
        status: "ok", "failed" or "blocked".
        stage: Where it failed: "import", "hooks" or "register".
        reason: Why, in one line.
    """

    name: str
    distribution: str
    version: str
    module: str = ""
    hooks: tuple[str, ...] = ()
    status: str = "ok"
    stage: str = ""
    reason: str = ""
    error: BaseException | None = None

    def failed(self, stage: str, error: BaseException) -> Plugin:
        """This plugin with the error that ended its loading."""
        return replace(self, status="failed", stage=stage, reason=_last_line(error), error=error)


class Zoo:
    """Everything that is registered. `plugin/name` always works; a name that two plugins claim needs it."""

    def __init__(self) -> None:
        self.pm = pluggy.PluginManager("fx")
        self.pm.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        self._mute: set[Any] = set()
        # class of the spec → name → plugin → spec
        self._claims: dict[type, dict[str, dict[str, Any]]] = {
            kind: {} for accepted in _ACCEPTED.values() for kind in accepted
        }

    def backbone(self, name: str) -> BackboneSpec:
        """The spec of a backbone; for `family:member` the family is asked.

        Raises:
            UnknownName: Nothing, or more than one plugin, registers it.
            PluginError: A family fails, or resolves to a spec that is wrong.
        """
        family, colon, member = name.partition(":")
        if not colon:
            return self._find("backbone", BackboneSpec, name)[1]
        return self._resolve(name, *self._find("backbone", BackboneFamily, family, member), member)

    def pretrainer(self, name: str) -> PretrainerSpec:
        """The spec of a pretrainer, or UnknownName."""
        return self._find("pretrainer", PretrainerSpec, name)[1]

    def detector(self, name: str) -> DetectorSpec:
        """The spec of a detector, or UnknownName."""
        return self._find("detector", DetectorSpec, name)[1]

    def provider(self, kind: str, name: str) -> Plugin:
        """The plugin that registers a name; `kind` is backbone, pretrainer or detector."""
        family, colon, member = name.partition(":")
        spec_class = BackboneFamily if kind == "backbone" and colon else _KINDS[kind]
        owner, _ = self._find(kind, spec_class, family if colon else name, member)
        return next(plugin for plugin in self.plugins if plugin.name == owner)

    def backbones(self) -> dict[str, BackboneSpec]:
        """All backbones by the name that a recipe would use."""
        return self._by_name(BackboneSpec)

    def families(self) -> dict[str, BackboneFamily]:
        """All families by prefix."""
        return self._by_name(BackboneFamily)

    def pretrainers(self) -> dict[str, PretrainerSpec]:
        """All pretrainers by the name that a recipe would use."""
        return self._by_name(PretrainerSpec)

    def detectors(self) -> dict[str, DetectorSpec]:
        """All detectors by the name that a recipe would use."""
        return self._by_name(DetectorSpec)

    def log_metrics(self, run: Path, step: int, metrics: Mapping[str, float]) -> None:
        """Hands figures to every tracker."""
        self._track("fx_log_metrics", run=run, step=step, metrics=metrics)

    def start_run(self, run: Path) -> None:
        """Tells every tracker that a training begins or goes on.

        Raises:
            FxError: From a tracker that was asked for and cannot work.
        """
        self._track("fx_start_run", fatal=(FxError,), run=run)

    def _track(self, hook: str, *, fatal: tuple[type[Exception], ...] = (), **values: Any) -> None:
        """Calls every tracker; one that raises is told once and not called again, and training goes on."""
        for module in self.pm.get_plugins() - self._mute:
            others = self.pm.get_plugins() - {module}
            try:
                with console.aside():
                    # A copy: what one does to its figures must not reach the next.
                    self.pm.subset_hook_caller(hook, others)(**copy.deepcopy(values))
            except fatal:
                raise
            except (Exception, SystemExit) as error:
                self._mute.add(module)
                console.warn(f"plugin {self.pm.get_name(module)} stopped logging: {_last_line(error)}")

    def report_sections(self, run: Path) -> list[tuple[str, str, str | list[list[str]]]]:
        """(plugin, title, text or rows of a table, its head first) of all sections that plugins add to a report.

        A plugin that raises, or returns something else, is told and left out.
        """
        found = []
        for name, module in sorted(self.pm.list_name_plugin()):
            others = self.pm.get_plugins() - {module}
            try:
                with console.aside():
                    returned = self.pm.subset_hook_caller("fx_report_sections", others)(run=run)
                    # Generators, and cells when they become text, work only now.
                    found += [(name, *section_of(given)) for sections in returned for given in sections]
            except (Exception, SystemExit) as error:
                console.warn(f"plugin {name} adds nothing to the report: {_last_line(error)}")
        return found

    def load(self, plugin: Plugin, entry: EntryPoint) -> None:
        """Takes one plugin in, whole or not at all; whatever it raises becomes its status."""
        with console.aside():
            self.plugins.append(self._loaded(plugin, entry))

    def _loaded(self, plugin: Plugin, entry: EntryPoint) -> Plugin:
        stage, registered = "import", False
        try:
            module = entry.load()
            if same := self.pm.get_name(module):
                raise PluginError(f"{entry.value} is already loaded as plugin {same}")
            stage = "hooks"
            hooks = check_hooks(self.pm, module)
            plugin = replace(plugin, hooks=hooks)
            self.pm.register(module, plugin.name)
            registered = True
            stage = "register"
            self._commit(plugin.name, self._collect(module, hooks))
        except (Exception, SystemExit) as error:
            if registered:
                self.pm.unregister(name=plugin.name)
            plugin = plugin.failed(stage, error)
        return plugin

    def _collect(self, module: Any, hooks: Iterable[str]) -> list[tuple[type, str, Any]]:
        others = self.pm.get_plugins() - {module}
        staged: list[tuple[type, str, Any]] = []
        for hook in [hook for hook in hooks if hook in _ACCEPTED]:
            given: list[Any] = []
            # Checked after the call: an error inside it would end in the plugin's own `try`, if it has one.
            if self.pm.subset_hook_caller(hook, others)(register=given.append):
                raise PluginError(f"{hook} returned a value; a spec is passed to register(), not returned")
            for spec in given:
                check_spec(spec, _ACCEPTED[hook])
                spec_class = next(kind for kind in _ACCEPTED[hook] if isinstance(spec, kind))
                staged.append((spec_class, str(name_of(spec)), spec))
        return staged

    def _commit(self, plugin: str, staged: list[tuple[type, str, Any]]) -> None:
        for (spec_class, name), count in Counter((spec_class, name) for spec_class, name, _ in staged).items():
            if count > 1:
                raise PluginError(f"'{name}' is registered twice")
            if BUILT_IN in self._claims[spec_class].get(name, ()):
                raise PluginError(f"'{name}' is a built-in name of fx and cannot be registered")
        for spec_class, name, spec in staged:
            self._claims[spec_class].setdefault(name, {})[plugin] = spec

    def _find(self, kind: str, spec_class: type[S], name: str, member: str = "") -> tuple[str, S]:
        plugin, _, bare = name.rpartition("/")
        claims = self._claims[spec_class].get(bare, {})
        if plugin:
            claims = {owner: spec for owner, spec in claims.items() if owner == plugin}
        if len(claims) == 1:
            return next(iter(claims.items()))
        tail = f":{member}" if spec_class is BackboneFamily else ""
        if claims:
            raise AmbiguousName(kind, name + tail, [f"{owner}/{bare}{tail}" for owner in sorted(claims)])
        close = [match + tail for match in likely(name, self._by_name(spec_class))]
        raise self._unknown(kind, name + tail, close)

    def _resolve(self, name: str, plugin: str, family: BackboneFamily, member: str) -> BackboneSpec:
        try:
            with console.aside():
                spec = family.resolve(member)
            if isinstance(spec, BackboneSpec):
                spec = replace(spec, name=family.prefix)
            check_spec(spec, (BackboneSpec,))
        except KeyError as error:
            # A family may add the names it takes for likely: KeyError(member, *likely).
            likely = [f"{family.prefix}:{match}" for match in error.args[1:]]
            raise self._unknown("backbone", name, likely) from error
        except (MissingDependency, RecipeError, UsageError):
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(f"plugin {plugin} failed on backbone '{name}': {_last_line(error)}") from error
        return replace(spec, name=f"{family.prefix}:{member}")

    def _by_name(self, spec_class: type[S]) -> dict[str, S]:
        return {
            name if len(claims) == 1 else f"{plugin}/{name}": spec
            for name, claims in sorted(self._claims[spec_class].items())
            for plugin, spec in sorted(claims.items())
        }

    def _unknown(self, kind: str, name: str, close: list[str]) -> UnknownName:
        known = list(self._by_name(_KINDS[kind]))
        if kind == "backbone":
            known += [f"{prefix}:<name>" for prefix in self.families()]
        missing = [
            f"{plugin.name} ({plugin.distribution} {plugin.version}): {plugin.reason}"
            for plugin in self.plugins
            if plugin.status != "ok"
        ]
        return UnknownName(kind, name, known=known, close=close, not_loaded=missing)


@functools.cache
def load_zoo() -> Zoo:
    """The zoo of this process: the built-in plugin, then every entry point of the group fx.plugins.

    A plugin named in FX_DISABLE_PLUGINS (comma-separated) is not imported.
    """
    zoo = Zoo()
    built_in = EntryPoint(BUILT_IN, "fxcli.zoo.builtin", GROUP)
    zoo.load(Plugin(name=BUILT_IN, distribution="fxcli", version=__version__, module=built_in.value), built_in)
    unwanted = {name.strip() for name in os.environ.get("FX_DISABLE_PLUGINS", "").split(",")} - {""}
    blocked = set()
    for plugin, entry in _discover(zoo):
        if names := unwanted & {plugin.name, entry.name}:
            blocked |= names
            zoo.plugins.append(replace(plugin, status="blocked", reason="blocked by FX_DISABLE_PLUGINS"))
        else:
            zoo.load(plugin, entry)
    for name in sorted(unwanted - blocked):
        console.warn(f"FX_DISABLE_PLUGINS: no plugin that can be disabled is named '{name}'")
    return zoo


def _discover(zoo: Zoo) -> list[tuple[Plugin, EntryPoint]]:
    found: dict[str, list[tuple[Plugin, EntryPoint]]] = {}
    for distribution in distributions():
        # Read one distribution at a time: metadata that cannot be parsed would end the whole search.
        plugin = Plugin(name="?", distribution="?", version="?")
        try:
            if GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue
            name = re.sub(r"[-_.]+", "-", distribution.name).lower()
            plugin = Plugin(name=name, distribution=name, version=distribution.version)
            entries = distribution.entry_points.select(group=GROUP)
        except Exception as error:
            zoo.plugins.append(plugin.failed("import", error))
            continue
        # The same distribution further down the path is shadowed by the first, when importing too.
        found.setdefault(name, [(replace(plugin, module=entry.value), entry) for entry in entries])
    pairs = sorted((pair for pairs in found.values() for pair in pairs), key=lambda pair: pair[1].name)
    uses = Counter([BUILT_IN, *(entry.name for _, entry in pairs)])
    return [
        (replace(plugin, name=entry.name if uses[entry.name] == 1 else f"{plugin.name}.{entry.name}"), entry)
        for plugin, entry in pairs
    ]


def options_of(model: type[M], values: Mapping[str, Any], place: str) -> M:
    """A plugin's options, checked by its own model.

    Args:
        model: `options` of its spec.
        values: As a recipe or a header has them.
        place: Key of the recipe.

    Raises:
        RecipeError: They are not what the plugin takes.
        PluginError: Its model is broken.
    """
    try:
        return validated(model, values)
    except ValidationError as error:
        problems = [f"{place}: {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise RecipeError(problems, recipe=None) from error


def validated(model: type[M], values: Mapping[str, Any]) -> M:
    """The same, for who tells of problems in words of their own.

    Raises:
        ValidationError: They are not what the plugin takes.
        PluginError: Its model fails with anything else.
    """
    try:
        # In JSON mode: strict Python mode refuses a list where the options want a tuple.
        return model.model_validate_json(json.dumps(values))
    except ValidationError:
        raise
    except Exception as error:
        what = f"a plugin's {model.__module__}.{model.__name__} failed to validate options: {_last_line(error)}"
        raise PluginError(what, hint="a validator raises ValueError where it refuses") from error


def _last_line(error: BaseException) -> str:
    if isinstance(error, FxError):
        return error.what
    return traceback.format_exception_only(error)[-1].strip().splitlines()[-1]
