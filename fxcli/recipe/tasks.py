"""Which task has which model of a recipe, what a phase may say, and the JSON Schema of each."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from fxcli.recipe.detection import DetectPhase, DetectRecipe
from fxcli.recipe.preparation import PrepareRecipe
from fxcli.recipe.schema import ClassifyRecipe, Phase, PhaseModel, PretrainRecipe, StudyRecipe

TrainRecipe = ClassifyRecipe | DetectRecipe | PretrainRecipe
AnyPhase = Phase | DetectPhase
Recipe = TrainRecipe | PrepareRecipe | StudyRecipe

TASKS: dict[str, type[Recipe]] = {
    "classify": ClassifyRecipe,
    "detect": DetectRecipe,
    "prepare": PrepareRecipe,
    "pretrain": PretrainRecipe,
    "study": StudyRecipe,
}

# What a phase may change: whole sections, and these keys of `model`.
PHASE_SECTIONS = ("augment", "optim", "schedule", "train")
PHASE_MODEL_KEYS = tuple(PhaseModel.model_fields)


def _mappings(model: type[BaseModel], at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if typing.get_origin(kind) is dict:
            if not field.is_required():
                yield (*at, name)
            kind, at_each = typing.get_args(kind)[1], (*at, name, "*")
        else:
            at_each = (*at, name)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _mappings(kind, at_each)


# Keys of which {} means none, where other mappings are sections, of which it says nothing.
_MAPPINGS = frozenset(key for model in TASKS.values() for key in _mappings(model))


def may_empty(key: tuple[str, ...]) -> bool:
    """Whether {} at a key of a recipe takes away what the recipe that it extends has there, data.classes say."""
    return key in _MAPPINGS or (*key[:1], "*", *key[2:]) in _MAPPINGS


def phase_of(model: type[BaseModel]) -> type[BaseModel]:
    """The section that each of a recipe's phases is."""
    kind: type[BaseModel] = typing.get_args(model.model_fields["phases"].annotation)[1]
    return kind


def json_schema(task: str) -> dict[str, Any]:
    """The JSON Schema of a recipe file, for editors.

    It differs from the model by what the loader adds: `extends`, and the sections of a phase at the top level.
    """
    model = TASKS[task]
    schema = model.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "another recipe, relative to this file or by its name, whose keys this one overrides",
    }
    if "phases" in model.model_fields:
        kind = phase_of(model)
        phase = schema["$defs"][kind.__name__]["properties"]
        schema["properties"]["phases"]["additionalProperties"] = False
        schema["properties"] |= {name: phase[name] for name in PHASE_SECTIONS}
        schema["$defs"]["Model"]["properties"] |= schema["$defs"][f"{kind.__name__}Model"]["properties"]
    return schema
