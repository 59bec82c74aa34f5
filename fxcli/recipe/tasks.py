"""Which task has which model of a recipe, what a phase may say, and the JSON Schema of each."""

from __future__ import annotations

import typing
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
