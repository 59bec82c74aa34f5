"""What no single field of a recipe can say: keys that depend on each other, and names that must exist in the zoo.

Called by load at its end, with a recipe whose fields are each in order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from fxcli.errors import UnknownName
from fxcli.recipe import messages
from fxcli.recipe.detection import DetectRecipe
from fxcli.recipe.messages import likely, written
from fxcli.recipe.preparation import Columns, PrepareRecipe
from fxcli.recipe.schema import ClassifyRecipe, PretrainRecipe, Schedule, StudyRecipe
from fxcli.recipe.source import Key, Leaf
from fxcli.recipe.tasks import Recipe, TrainRecipe
from fxcli.zoo.plugins import load_zoo, validated
from fxcli.zoo.specs import BackboneSpec, DetectorSpec, PretrainerSpec


def broken(recipe: Recipe, origins: dict[Key, Leaf], shown: str, *, check_init: bool) -> Iterator[str]:
    """A line for each rule that a recipe breaks.

    Args:
        recipe: Of any task.
        origins: By key of the recipe, where it was written.
        shown: Its name.
        check_init: Whether `model.init` must be what can be loaded here and now.
    """
    if isinstance(recipe, PrepareRecipe) and recipe.boxes.source is None:
        if recipe.boxes.label:
            yield f"{written(('boxes', 'label'), origins, shown)}: there are no boxes to label by; set boxes.source"
        if recipe.boxes.classes:
            yield f"{written(('boxes', 'classes'), origins, shown)}: there are no boxes to name; set boxes.source"
    if isinstance(recipe, PrepareRecipe) and recipe.data.labels == "none":
        named = {
            ("boxes", "label"): recipe.boxes.label,
            ("data", "classes"): recipe.data.classes,
            ("data", "columns", "label"): recipe.data.columns.label != Columns().label,
        }
        for key in (key for key, is_set in named.items() if is_set):
            yield f"{written(key, origins, shown)}: data.labels is none, so no picture has a label; leave one out"
    if isinstance(recipe, PrepareRecipe | StudyRecipe):
        return
    if (recipe.data.manifest is None) == (recipe.data.source is None):
        wanted = "either manifest, which fx prepare writes, or source: phantom"
        both = "" if recipe.data.manifest is None else "; set the other to null"
        yield f"{written(('data',), origins, shown)}: needs {wanted}{both}"
    if isinstance(recipe, PretrainRecipe):
        yield from _schedule(recipe.schedule, recipe.train.epochs, (), origins, shown)
    else:
        yield from _phases(recipe, origins, shown)
    zoo = load_zoo()
    if isinstance(recipe, PretrainRecipe):
        yield from _method(recipe, "pretrain", "method", zoo.pretrainer, origins, shown)
    if isinstance(recipe, DetectRecipe):
        yield from _method(recipe, "detect", "detector", zoo.detector, origins, shown)
    try:
        spec = zoo.backbone(recipe.model.backbone)
    except UnknownName as error:
        yield _unknown_name(error, ("model", "backbone"), origins, shown)
    else:
        yield from _backbone(recipe, spec, origins, shown)
        if check_init:
            yield from _init(recipe.model.init, spec, origins, shown)


def _phases(recipe: ClassifyRecipe | DetectRecipe, origins: dict[Key, Leaf], shown: str) -> Iterator[str]:
    before = None
    for name, phase in recipe.phases.items():
        if phase.train.monitor == "none" and phase.train.patience is not None:
            place = written(("phases", name, "train", "patience"), origins, shown)
            yield f"{place}: early stopping needs train.monitor, which is none"
        if before and recipe.phases[before].train.monitor == "none" and phase.start == "best":
            place = written(("phases", name, "start"), origins, shown)
            yield f"{place}: train.monitor of phase {before} is none, so it has no best epoch; write last"
        yield from _schedule(phase.schedule, phase.train.epochs, ("phases", name), origins, shown)
        before = name


def _schedule(settings: Schedule, epochs: int, at: Key, origins: dict[Key, Leaf], shown: str) -> Iterator[str]:
    place = written((*at, "schedule", "warmup_epochs"), origins, shown)
    if settings.name == "onecycle" and settings.warmup_epochs:
        yield f"{place}: onecycle rises by itself, over schedule.pct_start of the steps; set 0"
    elif settings.warmup_epochs >= epochs:
        yield f"{place}: the rate would rise over all {epochs} of train.epochs and never reach optim.lr; set less"


def _method(
    recipe: TrainRecipe,
    section: str,
    key: str,
    find: Callable[[str], PretrainerSpec | DetectorSpec],
    origins: dict[Key, Leaf],
    shown: str,
) -> Iterator[str]:
    """Name and options of a pretrainer or detector."""
    settings = getattr(recipe, section)
    try:
        spec = find(getattr(settings, key))
    except UnknownName as error:
        yield _unknown_name(error, (section, key), origins, shown)
    else:
        yield from _options(recipe, settings.options, spec.options, (section, "options"), origins, shown)


def _backbone(recipe: TrainRecipe, spec: BackboneSpec, origins: dict[Key, Leaf], shown: str) -> Iterator[str]:
    """Options and stages."""
    yield from _options(recipe, recipe.model.options, spec.options, ("model", "options"), origins, shown)
    if not isinstance(recipe, PretrainRecipe):
        stages = [stage.name for stage in spec.stages]
        for name, phase in recipe.phases.items():
            until = phase.model.freeze.removeprefix("until:")
            if phase.model.freeze.startswith("until:") and until not in stages:
                place = written(("phases", name, "model", "freeze"), origins, shown)
                yield f"{place}: {spec.name} has no stage '{until}'; it has {', '.join(stages)}{likely(until, stages)}"


def _init(init: str, spec: BackboneSpec, origins: dict[Key, Leaf], shown: str) -> Iterator[str]:
    """Whether it is a weight key or a path; what lies there is looked at when the network starts."""
    known = ["random", *spec.weights]
    is_path = "/" in init or "\\" in init or init.endswith(".safetensors") or os.path.exists(init)
    if init not in known and not is_path:
        place = written(("model", "init"), origins, shown)
        choices = f"{', '.join(known)}{likely(init, known)} (a run is named by its path, like runs/{init})"
        yield f"{place}: '{init}' is no run or model file, and no weight key of {spec.name}: {choices}"


def _options(
    recipe: Recipe, values: dict[str, Any], model: type[BaseModel], at: Key, origins: dict[Key, Leaf], shown: str
) -> Iterator[str]:
    try:
        validated(model, values)
    except ValidationError as error:
        yield from messages.from_pydantic(error, origins, shown, task=type(recipe), section=model, at=at)


def _unknown_name(error: UnknownName, key: Key, origins: dict[Key, Leaf], shown: str) -> str:
    lines = [f"{written(key, origins, shown)}: {error.problems[0]}", *error.problems[1:]]
    return "\n    ".join([*lines, f"→ {error.hint}"])
