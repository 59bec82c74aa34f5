"""From a name or file to a validated recipe: extends, --set, phases, validation, in this order.

Called by every command that takes a recipe. What no single field can say (rules) comes at the end, so that
`fx recipe check` finds everything that can be found without looking at data.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from fxcli.errors import RecipeError
from fxcli.recipe import messages, rules, study
from fxcli.recipe.messages import likely, written
from fxcli.recipe.preparation import PrepareRecipe
from fxcli.recipe.schema import ClassifyRecipe, StudyRecipe
from fxcli.recipe.source import (
    Key,
    Leaf,
    Tree,
    flatten,
    has_comment,
    holds,
    is_section,
    leaves,
    merge,
    plain,
    read_tree,
    read_value,
    write,
)
from fxcli.recipe.tasks import PHASE_MODEL_KEYS, PHASE_SECTIONS, TASKS, Recipe, may_empty


@dataclass(frozen=True)
class Loaded:
    """A recipe and where its leaves come from.

    Attributes:
        recipe: Validated and complete.
        origins: By key of the resolved recipe; a key that is absent has its default.
        runs: Of a study: the recipe of each run, with its overrides.
    """

    recipe: Recipe
    origins: dict[Key, Leaf]
    runs: dict[str, ClassifyRecipe] = field(default_factory=dict)


def shipped_folder() -> Path:
    """The folder of the recipes that come with fx: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    packed = package / "_recipes"
    return packed if packed.is_dir() else package.parent / "recipes"


def shipped() -> dict[str, Path]:
    """The recipes that come with fx, by name."""
    return {path.stem: path for path in sorted(shipped_folder().glob("*.yaml"))}


def about(name: str) -> tuple[str, str]:
    """Task and first comment of a recipe that comes with fx; not validated, for its plugin may be absent."""
    path = shipped()[name]
    comment = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
    return _task(_extended(path), name), comment.removeprefix(f"{name} — ")


def load(name: str | Path, sets: Sequence[str] = (), *, expect: str | None = None, check_init: bool = True) -> Loaded:
    """Reads, merges and validates a recipe.

    Args:
        name: A file, or the name of a recipe that comes with fx.
        sets: `key=value` overrides, applied last.
        expect: The task that the command can run; another is an error.
        check_init: Whether `model.init` must be what can be loaded here and now; False for the recipe of a run that
            goes on, which has its weights.

    Raises:
        RecipeError: With every problem that was found.
    """
    return _resolve(_extended(find(str(name))), str(name), sets, expect, check_init=check_init)


def load_default(sets: Sequence[str] = (), *, name: str) -> Loaded:
    """A prepare recipe of defaults, for commands that were given a folder in place of a recipe."""
    tree: Tree = {key: Leaf(value, "default", (key,)) for key, value in (("task", "prepare"), ("name", name))}
    return _resolve(tree, name, sets, "prepare")


def find(name: str) -> Path:
    """The file that a recipe's name means.

    Raises:
        RecipeError: There is none.
    """
    path = Path(name)
    if _is_file(path):
        return path
    known = shipped()
    if name in known:
        return known[name]
    what = "a folder" if os.path.isdir(name) else "no such file or folder"
    raise RecipeError(
        [f"{what}, and no recipe of this name comes with fx{likely(path.stem, known)}"],
        recipe=name,
        hint="fx recipe list shows those that come with fx",
    )


def resolved_yaml(recipe: Recipe) -> str:
    """The recipe as YAML that reproduces it when loaded alone: no extends, complete phases, every default."""
    return write(recipe.model_dump(mode="json"))


def difference(left: Recipe, right: Recipe) -> list[tuple[Key, dict[str, Any]]]:
    """(key, {"left": value, "right": value}) of every leaf that differs; a side that lacks it is left out.

    Phases and runs follow each other: where those of both come in another order, each side has a list of its names.
    """
    dumps = {"left": left.model_dump(mode="json"), "right": right.model_dump(mode="json")}
    sides: dict[str, dict[Key, Any]] = {side: dict(flatten(values)) for side, values in dumps.items()}
    for section in ("phases", "runs"):
        first, second = (list(values.get(section, {})) for values in dumps.values())
        if [name for name in first if name in second] != [name for name in second if name in first]:
            sides["left"][section,], sides["right"][section,] = first, second
    rows = [
        (key, {side: values[key] for side, values in sides.items() if key in values})
        for key in dict.fromkeys([*sides["left"], *sides["right"]])
    ]
    return [(key, row) for key, row in rows if len(row) == 1 or row["left"] != row["right"]]


def _extended(path: Path, chain: tuple[Path, ...] = ()) -> Tree:
    shown = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
    chain = (*chain, path.resolve())
    tree = read_tree(path, shown)
    if len(chain) == 1:
        # Set before merging, so that the name of a recipe that is extended never counts.
        stem = re.sub(r"[^A-Za-z0-9_.-]", "_", path.stem).lstrip(".")
        tree.setdefault("name", Leaf(stem[:64] or "unnamed", "default", ("name",)))
    if "extends" not in tree:
        return tree
    parent = tree.pop("extends")
    place = written(("extends",), {("extends",): parent} if isinstance(parent, Leaf) else {}, shown)
    if not isinstance(parent, Leaf) or not isinstance(parent.value, str):
        raise RecipeError([f"{place} takes the name or file of one recipe"], recipe=shown)
    base = _named(parent.value, path.parent, place, shown)
    if base.resolve() in chain:
        circle = " → ".join(step.name for step in (*chain, base))
        raise RecipeError([f"{place} runs in a circle: {circle}"], recipe=shown)
    inherited = _extended(base, chain)
    if problems := list(_without_effect(inherited, tree)):
        raise RecipeError(problems, recipe=shown)
    return merge(inherited, tree, may_empty)


def _without_effect(inherited: Tree, own: Tree) -> Iterator[str]:
    """Why keys of a recipe would change nothing of the one that it extends."""
    for key, leaf in leaves(own):
        yield from _emptied(inherited, key, leaf)
    # Its phases may say otherwise, where this one's do not.
    theirs, ours = inherited.get("phases"), own.get("phases", {})
    if not isinstance(theirs, dict) or not isinstance(ours, dict):
        return
    for key, leaf in leaves(own):
        if key[0] != "phases":
            left = {name: phase for name, phase in theirs.items() if not holds(ours.get(name, {}), key)}
            yield from _refused({"phases": left}, key, leaf)


def _named(name: str, folder: Path, place: str, shown: str) -> Path:
    """The file that a recipe means by the name of another: beside it, else one that comes with fx.

    A recipe may come from anywhere: what it names lies in its own folder or in the current one, or below them.
    """
    is_beside = _is_file(folder / name)
    base = folder / name if is_beside else shipped().get(name.removesuffix(".yaml"))
    if base is not None and is_beside:
        allowed = (os.path.realpath(folder), os.path.realpath(Path.cwd()))
        if not any(Path(os.path.realpath(base)).is_relative_to(root) for root in allowed):
            line = f"{place}: {name} leads out of the recipe's folder and of this one; run fx in one that holds both"
            raise RecipeError([line], recipe=shown)
    if base is None:
        meant = likely(Path(name).stem, [*shipped(), *(file.name for file in folder.glob("*.yaml"))])
        raise RecipeError([f"{place}: no recipe {name}, here or with fx{meant}"], recipe=shown)
    return base


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False  # a name too long, or one that no file can have


def _task(tree: Tree, shown: str) -> str:
    leaf = tree.get("task")
    value = plain(leaf) if leaf is not None else "classify"
    if isinstance(value, str) and value in TASKS:
        return value
    place = written(("task",), dict(leaves(tree)), shown)
    problem = f"{place}: {json.dumps(value)} must be {' or '.join(TASKS)}{likely(str(value), TASKS)}"
    raise RecipeError([problem], recipe=shown)


def _resolve(
    tree: Tree,
    shown: str,
    sets: Sequence[str],
    expect: str | None,
    *,
    overrides: Sequence[Tree] = (),
    check_init: bool = True,
) -> Loaded:
    task = _task(tree, shown)
    if expect is not None and task != expect:
        command = "fx prepare" if TASKS[task] is PrepareRecipe else "fx train"
        hint = f"run it with: {command} {shlex.quote(shown)}"
        raise RecipeError([f"task is {task}, not {expect}"], recipe=shown, hint=hint)
    model = TASKS[task]
    problems: list[str] = []
    runs: dict[str, ClassifyRecipe] = {}
    has_phases = "phases" in model.model_fields
    for text in sets:
        tree = _with_set(tree, text, problems, model)
    for over in overrides:
        tree = _with_override(tree, over, problems, model)
    if has_phases:
        tree = _with_phases(tree)
    origins = dict(leaves(tree))
    try:
        recipe = model.model_validate_json(json.dumps(plain(tree)))
    except ValidationError as error:
        problems += messages.from_pydantic(error, origins, shown, task=model)
    else:
        problems += rules.broken(recipe, origins, shown, check_init=check_init)
        if isinstance(recipe, StudyRecipe):
            runs, found = study.resolved(recipe, origins, shown, _run)
            problems += found
    if problems:
        # What every phase takes from the top level is wrong in every phase, and told once.
        raise RecipeError(list(dict.fromkeys(problems)), recipe=shown)
    return Loaded(recipe, origins, runs)


def _run(name: str, folder: Path, place: str, overrides: Sequence[Tree]) -> ClassifyRecipe:
    """The recipe of a run of a study, which names it at `place`."""
    file = _named(name, folder, place, name)
    return cast("ClassifyRecipe", _resolve(_extended(file), name, (), "classify", overrides=overrides).recipe)


def _with_set(tree: Tree, text: str, problems: list[str], model: type[BaseModel]) -> Tree:
    dotted, equals, value = text.partition("=")
    key = tuple(dotted.strip().split("."))
    if model is StudyRecipe:
        key = study.joined(key)
    if not equals or not all(key):
        problems.append(f"--set {text}: write it as section.key=value")
        return tree
    if key[0] == "extends":
        problems.append("--set extends: only a file extends another")
        return tree
    if has_comment(value):
        problems.append(f"--set {text}: what follows # would be a comment; put the value in quotes: {dotted}='\"…\"'")
        return tree
    try:
        over = read_value(value, key)
    except RecipeError as error:
        problems += error.problems
        return tree
    return _with_override(tree, over, problems, model)


def _with_override(tree: Tree, over: Tree, problems: list[str], model: type[BaseModel]) -> Tree:
    refused = [line for key, leaf in leaves(over) for line in _emptied(tree, key, leaf)]
    if "phases" in model.model_fields:
        refused += [line for key, leaf in leaves(over) for line in _refused(tree, key, leaf)]
    problems += refused
    return tree if refused else merge(tree, over, may_empty)


def _emptied(tree: Tree, key: Key, leaf: Leaf) -> Iterator[str]:
    """Why {} cannot be set: it does not reset a section. Without keys, a phase or run is merely named."""
    is_named = len(key) == 2 and key[0] in ("phases", "runs")
    if leaf.value == {} and not is_named and not may_empty(key) and is_section(tree, key):
        yield f"{_place(key, leaf)}: {{}} changes nothing: set each key"


def _place(key: Key, leaf: Leaf) -> str:
    dotted = ".".join(key)
    return f"--set {dotted}" if leaf.source == "--set" else f"{leaf.place}: {dotted}"


def _refused(tree: Tree, key: Key, leaf: Leaf) -> Iterator[str]:
    """Why a key cannot be set: a phase overrides it, so that nothing would change, or there is no such phase."""
    found = tree.get("phases")
    phases = found if isinstance(found, dict) else {"main": {}}
    dotted, place = ".".join(key), _place(key, leaf)
    if key[0] == "phases":
        if len(key) > 1 and key[1] not in phases:
            yield f"{place}: there is no phase '{key[1]}'; phases: {', '.join(phases)}"
        return
    owners = [name for name, phase in phases.items() if isinstance(phase, dict) and holds(phase, key)]
    if owners:
        instead = " or ".join(f"phases.{name}.{dotted}" for name in owners)
        yield f"{place}: phase {' and '.join(owners)} overrides this key; set {instead}"


def _with_phases(tree: Tree) -> Tree:
    """Moves every section that may vary into each phase, below what the phase itself says."""
    shared: Tree = {name: tree[name] for name in PHASE_SECTIONS if name in tree}
    rest: Tree = {name: part for name, part in tree.items() if name not in PHASE_SECTIONS}
    model = rest.get("model")
    if isinstance(model, dict):
        shared["model"] = {name: model[name] for name in PHASE_MODEL_KEYS if name in model}
        rest["model"] = {name: part for name, part in model.items() if name not in PHASE_MODEL_KEYS}
    phases = rest.get("phases", {})
    if isinstance(phases, Leaf) and phases.value == {}:
        phases = {}
    if isinstance(phases, dict):
        complete: Tree = {name: _complete(phase, shared) for name, phase in (phases or {"main": {}}).items()}
        _start_from_last(complete)
        rest["phases"] = complete
    return rest


def _start_from_last(phases: Tree) -> None:
    """Says so in a phase that says nothing, where the phase before it looks for no best epoch."""
    for before, (name, phase) in pairwise(list(phases.items())):
        settings = before[1].get("train") if isinstance(before[1], dict) else None
        monitor = settings.get("monitor") if isinstance(settings, dict) else None
        if isinstance(phase, dict) and isinstance(monitor, Leaf) and monitor.value == "none":
            # A new mapping: phases that say nothing share one.
            phases[name] = {"start": Leaf("last", "default", ("phases", name, "start")), **phase}


def _complete(phase: Leaf | Tree, shared: Tree) -> Leaf | Tree:
    if isinstance(phase, dict):
        return merge(shared, phase)
    return shared if phase.value in ({}, None) else phase
