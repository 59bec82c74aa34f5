"""Turns pydantic's errors into lines for people: file:line, dotted key, value, what is allowed, did you mean."""

from __future__ import annotations

import difflib
import json
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from fxcli.recipe.fields import PATTERNS
from fxcli.recipe.schema import StudyComparison, StudyRun
from fxcli.recipe.source import Key, Leaf
from fxcli.recipe.tasks import TASKS, phase_of

Origins = Mapping[Key, Leaf]

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "string": "text",
    "bool": "true or false",
    "dict": "a mapping",
    "model": "a mapping",
    "tuple": "a list",
    "list": "a list",
}
_UNITS = {"px": "pixels", "mm": "millimetres", "deg": "degrees", "min": "minutes", "epochs": "epochs"}
_TOP = "the top level"
# More mistakes than this in one recipe are a file of another kind.
_TOLD = 50
_NUMBER = re.compile(r"([-+]?(?:\.\d+|\d+(?:\.\d*)?)(?:[eE][-+]?\d+)?)\s*([A-Za-z°µ%/]*)")


def from_pydantic(
    error: ValidationError,
    origins: Origins,
    shown: str,
    *,
    task: type[BaseModel],
    section: type[BaseModel] | None = None,
    at: Key = (),
) -> list[str]:
    """One line per problem.

    Args:
        error: Of validating the resolved values.
        origins: Where each resolved leaf was written.
        shown: Named where a leaf has no place of its own.
        task: The model of the recipe.
        section: What was validated, where it is not the whole recipe: the options of a plugin.
        at: Where `section` stands in the recipe.
    """
    lines = []
    found = error.errors()
    for item in found[:_TOLD]:
        loc = tuple(f"{part}" for part in item["loc"] if part != "[key]")
        if item["type"] == "extra_forbidden":
            text = _unknown(loc, section or task, task)
        else:
            text = _wrong(item, loc[-1] if loc else "")
        lines.append(f"{written((*at, *loc), origins, shown)}: {text}")
    if len(found) > _TOLD:
        lines.append(f"{shown}: and {len(found) - _TOLD} more")
    return lines


def written(key: Key, origins: Origins, shown: str) -> str:
    """`file:line: dotted.key` of a key of the resolved recipe, as the user wrote it.

    What a phase took from the top level is told as it stands there; a key that nobody wrote, at its section.
    """
    place, name = place_of(key, origins, shown)
    return f"{place}: {'.'.join(name)}" if name else place


def place_of(key: Key, origins: Origins, shown: str) -> tuple[str, Key]:
    """`file:line` of a key of the resolved recipe, and the key as the user wrote it there."""
    for path, leaf in origins.items():
        levels = len(path) - len(key)
        if path[: len(key)] == key and levels < len(leaf.key):
            found = leaf.above(levels)
            return found.place, found.key
    if len(key) < 2:
        return shown, key
    place, above = place_of(key[:-1], origins, shown)
    return place, (*above, key[-1])


def likely(name: str, known: Iterable[str]) -> str:
    """` — did you mean …?`, or nothing."""
    names = list(known)
    # Two names only where both are close; a beginning is close to what it begins, however long that is.
    close = difflib.get_close_matches(name, names, 2, 0.8) or difflib.get_close_matches(name, names, 1, 0.6)
    close = close or [whole for whole in names if whole.startswith(f"{name}_")][:2]
    return f" — did you mean {' or '.join(close)}?" if close else ""


def _unknown(loc: Key, model: type[BaseModel], task: type[BaseModel]) -> str:
    """`unknown key`, with the likeliest of its section, or the section it belongs in."""
    name = loc[-1]
    where = _belongs(name, task)
    if where:
        return f"unknown key here — '{name}' belongs in {where}"
    known = _known(loc[:-1], model, task)
    meant = likely(name, known)
    if meant:
        return f"unknown key{meant}"
    return f"unknown key; allowed here: {', '.join(known) or 'none'}"


def _wrong(item: Mapping[str, Any], field: str) -> str:
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    shown = json.dumps(value, ensure_ascii=False, default=str)
    shown = shown if len(shown) <= 60 else f"{shown[:59]}…"
    if kind == "missing":
        return "is missing"
    if kind == "json_invalid":
        return "nested too deeply"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        return f"{shown} must be {' or '.join(choices)}{likely(str(value), choices)}"
    if kind.endswith(("_type", "_parsing")) or kind in ("int_from_float", "finite_number"):
        wanted = next((words for name, words in _KINDS.items() if kind.startswith(name)), "another type")
        return f"{shown} is not {wanted}{_hint(value, wanted, field)}"
    if kind == "string_pattern_mismatch":
        return f"{shown} must be {PATTERNS.get(context['pattern'], 'like ' + context['pattern'])}"
    if kind == "value_error":
        return f"{shown}: {context['error']}"
    message = re.sub(r"^\w+ should", "must", item["msg"]).replace(" after validation", "")
    if field.endswith("_frac") and isinstance(value, int | float) and 1 < value <= 100:
        message += f"; it is a fraction, not a percentage: {value} % is {value / 100:g}"
    return f"{shown} {message}"


def _hint(value: object, wanted: str, field: str) -> str:
    """How to write it: a number that has a unit or quotes, or text that reads as something else."""
    if wanted == "text" and isinstance(value, bool | int | float):
        return ": put it in quotes"
    found = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) and wanted.endswith("number") else None
    if found is None:
        return ""
    number, unit = found.groups()
    if not unit:
        return f": take the quotes away: {number}"
    if unit == "%":
        return f": write the number alone; where it is a fraction, {float(number) / 100:g}"
    name = _UNITS.get(field.rpartition("_")[2])
    return f": write the number alone{f', in {name}' if name else ''}"


def _known(loc: Key, model: type[BaseModel], task: type[BaseModel]) -> list[str]:
    """The keys that may stand in the mapping at `loc`."""
    first = task.model_fields[loc[0]].annotation if loc and loc[0] in task.model_fields else None
    if model is task and (first is None or isinstance(first, type)):
        place = ".".join(loc) or _TOP
        return list(dict.fromkeys(key for found, key in _keys(task) if found == place))
    current: Any = model
    for part in loc:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(part)
            current = field.annotation if field else None
        elif typing.get_origin(current) is dict:
            current = typing.get_args(current)[1]
        elif typing.get_origin(current) is tuple:
            current = typing.get_args(current)[0]
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _belongs(name: str, task: type[BaseModel]) -> str:
    """Where a key of this name is allowed: in this task, else in another."""
    for other in sorted(TASKS.values(), key=lambda model: model is not task):
        places = sorted({place for place, key in _keys(other) if key == name})
        if places:
            of = "" if other is task else f" of a recipe with task: {other.model_fields['task'].default}"
            return " or ".join(places) + of
    return ""


def _keys(model: type[BaseModel], place: str = _TOP) -> Iterator[tuple[str, str]]:
    """(section, key) of all that a recipe may say, where people write it: shared sections of phases on top."""
    for name, field in model.model_fields.items():
        yield place, name
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _keys(inner, name if place == _TOP else f"{place}.{name}")
    if "task" in model.model_fields:
        yield _TOP, "extends"
    if "phases" in model.model_fields:
        yield from ((found, key) for found, key in _keys(phase_of(model)) if key != "start")
        yield "a phase", "start"
    if "runs" in model.model_fields:
        yield from (("a run", key) for key in StudyRun.model_fields)
        yield from (("a comparison", key) for key in StudyComparison.model_fields)
