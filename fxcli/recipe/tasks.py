"""Which task has which model of a recipe, what a phase may say, and the JSON Schema of each. Called by load."""

from __future__ import annotations

from typing import Any

from fxcli.recipe.preparation import PrepareRecipe
from fxcli.recipe.schema import ClassifyRecipe, PhaseModel, PretrainRecipe, StudyRecipe

Recipe = ClassifyRecipe | PrepareRecipe | PretrainRecipe | StudyRecipe

TASKS: dict[str, type[ClassifyRecipe] | type[PrepareRecipe] | type[PretrainRecipe] | type[StudyRecipe]] = {
    "classify": ClassifyRecipe,
    "prepare": PrepareRecipe,
    "pretrain": PretrainRecipe,
    "study": StudyRecipe,
}

# What a phase may change: whole sections, and these keys of `model`.
PHASE_SECTIONS = ("augment", "optim", "schedule", "train")
PHASE_MODEL_KEYS = tuple(PhaseModel.model_fields)


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
        phase = schema["$defs"]["Phase"]["properties"]
        schema["properties"]["phases"]["additionalProperties"] = False
        schema["properties"] |= {name: phase[name] for name in PHASE_SECTIONS}
        schema["$defs"]["Model"]["properties"] |= schema["$defs"]["PhaseModel"]["properties"]
    return schema
