"""What a plugin and its specs must be: a wrong one is refused when it registers, not hours later in a run.

Called by zoo/plugins for each plugin, for what a family resolves and for sections of reports, and by testing. Only what
can be seen without building a module is here; that a backbone does what its spec says is
`fxcli.testing.check_backbone`.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import pluggy
from pydantic import BaseModel

from fxcli.errors import PluginError
from fxcli.zoo import hookspecs
from fxcli.zoo.specs import (
    LEAST_SIZE_PX,
    MOST_SIZE_PX,
    BackboneFamily,
    BackboneSpec,
    DetectorSpec,
    InputSpec,
    PretrainerSpec,
    Stage,
    WeightSource,
)

HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("fx_"))
WEIGHT_FILES = (".pth", ".pt", ".safetensors")

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_SHA256 = re.compile(r"[0-9a-fA-F]{8,64}")


def check_spec(spec: object, accepted: tuple[type, ...]) -> None:
    """Raises PluginError with every problem of a spec at once.

    Args:
        spec: What the plugin gave.
        accepted: The classes that the hook takes.
    """
    if not isinstance(spec, accepted):
        wanted = " or ".join(kind.__name__ for kind in accepted)
        raise PluginError(f"{type(spec).__name__} was given where {wanted} is wanted")
    problems = list(_problems(spec))
    if problems:
        raise PluginError(f"{type(spec).__name__} '{name_of(spec)}': {'; '.join(problems)}")


def name_of(spec: object) -> object:
    """The name of a spec, or the prefix of a family."""
    return spec.prefix if isinstance(spec, BackboneFamily) else getattr(spec, "name", None)


def check_hooks(pm: pluggy.PluginManager, module: Any) -> tuple[str, ...]:
    """The names of the hooks that a plugin implements.

    Raises:
        PluginError: It has none, has one that fx does not know, or one that is not written as a hook must be.
    """
    hooks: dict[str, None] = {}
    for attribute in dir(module):
        options = pm.parse_hookimpl_opts(module, attribute)
        if options is None:
            if attribute in HOOKS:
                raise PluginError(f"{attribute} lacks the decorator @hookimpl")
            continue
        hook = options.get("specname") or attribute
        if hook not in HOOKS:
            if options.get("optionalhook"):
                continue
            close = "".join(f" — did you mean {match}?" for match in likely(hook, HOOKS)[:1])
            raise PluginError(f"fx has no hook {hook}{close}")
        # pluggy < 1.7 does not pass an argument that has a default, later ones do: depend on neither.
        for argument in inspect.signature(getattr(module, attribute)).parameters.values():
            if argument.default is not inspect.Parameter.empty:
                raise PluginError(f"{hook}: the argument {argument.name} must not have a default")
        hooks[hook] = None
    if not hooks:
        raise PluginError("implements no hook of fx")
    return tuple(hooks)


def section_of(given: Any) -> tuple[str, str | list[list[str]]]:
    """A section that a plugin adds to a report, as plain text: its title, and text or rows of cells, a head first.

    Raises:
        PluginError: It is something else.
    """
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise PluginError("a section is (title, text) or (title, rows of cells, a head first)")
    title, content = given
    if isinstance(content, str):
        return str(title), str(content)
    rows = list(content)
    if not rows or isinstance(content, Mapping) or any(isinstance(row, str | Mapping) for row in rows):
        raise PluginError("a table is rows of cells, a head first")
    cells = [[str(cell) for cell in row] for row in rows]
    if any(len(row) != len(cells[0]) for row in cells):
        raise PluginError("rows of a table have as many cells as its head")
    return str(title), cells


def likely(name: str, known: Iterable[str]) -> list[str]:
    """The names, two at most, that are probably meant (did you mean); case does not count."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=2)]


def _problems(spec: object) -> Iterator[str]:
    name = name_of(spec)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield "a name is made of letters, digits, _, - and ."
    if isinstance(spec, BackboneFamily):
        if not callable(spec.resolve):
            yield "resolve must be callable"
        return
    if isinstance(spec, BackboneSpec):
        yield from _backbone_problems(spec)
    if isinstance(spec, PretrainerSpec) and not callable(spec.views):
        yield "views must be callable"
    if isinstance(spec, BackboneSpec | DetectorSpec | PretrainerSpec):
        if not callable(spec.build):
            yield "build must be callable"
        yield from _option_problems(spec.options)


def _option_problems(options: object) -> Iterator[str]:
    if not (isinstance(options, type) and issubclass(options, BaseModel)):
        yield "options must be a pydantic model class"
    elif options.model_config.get("extra") != "forbid":
        yield 'options must forbid unknown keys: model_config = ConfigDict(extra="forbid")'


def _backbone_problems(spec: BackboneSpec) -> Iterator[str]:
    if not isinstance(spec.num_features, int) or spec.num_features < 1:
        yield "num_features must be a positive integer"
    if not spec.stages or not all(isinstance(stage, Stage) for stage in spec.stages):
        yield "stages must be a tuple of at least one Stage"
    else:
        yield from _stage_problems(spec)
    yield from _input_problems(spec.input, "input")
    if not isinstance(spec.weights, Mapping):
        yield "weights must be a mapping of WeightSource"
        return
    for key, source in spec.weights.items():
        if not isinstance(key, str) or not _NAME.fullmatch(key) or key == "random":
            yield f"weights key {key!r}: letters, digits, _, - and .; 'random' is taken"
        yield from (f"weights '{key}': {problem}" for problem in _weight_problems(source))


def _stage_problems(spec: BackboneSpec) -> Iterator[str]:
    names = [stage.name for stage in spec.stages]
    if len(set(names)) < len(names):
        yield f"stage names must differ: {', '.join(map(str, names))}"
    for stage in spec.stages:
        if not isinstance(stage.name, str) or not _NAME.fullmatch(stage.name):
            yield f"stage name {stage.name!r} is made of letters, digits, _, - and ."
        if isinstance(stage.modules, str) or not stage.modules:
            yield f"stage {stage.name}: modules must be a tuple of at least one name"
        if isinstance(stage.parameters, str):
            yield f"stage {stage.name}: parameters must be a tuple of names"
        if stage.stride < 1 or stage.channels < 1:
            yield f"stage {stage.name}: stride and channels must be positive"
    if spec.stages[-1].channels != spec.num_features:
        yield f"the last stage has {spec.stages[-1].channels} channels, num_features is {spec.num_features}"


def _input_problems(seen: object, where: str) -> Iterator[str]:
    if not isinstance(seen, InputSpec):
        yield f"{where} must be an InputSpec"
        return
    if not isinstance(seen.size_px, int) or not LEAST_SIZE_PX <= seen.size_px <= MOST_SIZE_PX:
        # As `data.image_size_px`: a model file of another size could be written, and not be read.
        yield f"{where}.size_px must be a whole number from {LEAST_SIZE_PX} to {MOST_SIZE_PX}"
    is_finite = all(map(math.isfinite, (*seen.mean, *seen.std)))
    if len(seen.mean) != 3 or len(seen.std) != 3 or min(seen.std) <= 0 or not is_finite:
        yield f"{where}.mean and {where}.std have three finite numbers each, those of std above 0"
    if seen.interpolation not in ("bilinear", "bicubic"):
        yield f"{where}.interpolation is bilinear or bicubic, not {seen.interpolation!r}"


def _weight_problems(source: object) -> Iterator[str]:
    if not isinstance(source, WeightSource):
        yield "must be a WeightSource"
        return
    ways = ((source.url,), (source.package, source.resource), (source.pretrainer, source.backbone))
    given = [way for way in ways if any(part is not None for part in way)]
    if len(given) != 1 or None in given[0]:
        yield "give either url, or package and resource, or pretrainer and backbone"
    elif source.url is not None and not _is_direct(source.url):
        yield f"url must be https:// (or http://, file://) and end in {', '.join(WEIGHT_FILES)}: {source.url}"
    elif source.resource is not None and not source.resource.endswith(WEIGHT_FILES):
        yield f"resource must end in {', '.join(WEIGHT_FILES)}: {source.resource}"
    file = source.url or source.resource or ""
    if source.sha256 is None and file.endswith(WEIGHT_FILES) and not file.endswith(".safetensors"):
        yield f"a file that Python pickled needs its sha256: {file}"
    if source.sha256 is not None and not _SHA256.fullmatch(source.sha256):
        yield "sha256 has 8 to 64 hexadecimal digits"
    if source.input is not None:
        yield from _input_problems(source.input, "input")


def _is_direct(url: str) -> bool:
    # The path alone names the file in the cache, so a query must not be what tells two files apart.
    parts = urlsplit(url)
    return parts.scheme in ("https", "http", "file") and not parts.query and parts.path.endswith(WEIGHT_FILES)
