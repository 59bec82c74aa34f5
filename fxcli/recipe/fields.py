"""What the fields of a recipe are made of: the base of every section, ranges, and names with their patterns."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of every part of a recipe: frozen, strict, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"the smaller number comes first: [{value[1]}, {value[0]}]")
    return value


def _within(folder: str) -> str:
    path, windows = PurePosixPath(folder), PureWindowsPath(folder)
    if path.is_absolute() or windows.anchor or ".." in (*path.parts, *windows.parts) or "\0" in folder:
        raise ValueError("must lie in the current folder, for files are written there")
    return folder


Probability = Annotated[float, Field(ge=0, le=1)]
# Not from 0: a float of torch rounds what is far smaller to it.
_Positive = Annotated[float, Field(ge=0.001, le=1000)]
_PositiveFrac = Annotated[float, Field(ge=0.001, le=1)]
PositiveRange = Annotated[tuple[_Positive, _Positive], AfterValidator(_ordered)]
FracRange = Annotated[tuple[_PositiveFrac, _PositiveFrac], AfterValidator(_ordered)]

# Patterns, with the words that messages use for them.
NAME = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$"
PART_NAME = r"^[A-Za-z0-9_-]+$"
FREEZE = r"^(none|all|until:[A-Za-z0-9_.-]+)$"
DEVICE = r"^(auto|cpu|mps|cuda(:\d+)?)$"
METRIC = r"^(accuracy|macro_f1|nll|brier|recall:.+)$"
PATTERNS = {
    NAME: "letters, digits, _, - and ., which is not the first",
    PART_NAME: "letters, digits, _ and -",
    FREEZE: "none, all or until:<stage>",
    DEVICE: "auto, cpu, mps, cuda or cuda:<number>",
    METRIC: "accuracy or macro_f1 or nll or brier or recall:<class>",
}

Name = Annotated[str, Field(pattern=NAME, max_length=64)]
# Of phases, and of the runs and data of a study: without dots, so that --set can tell where a name ends.
PartName = Annotated[str, Field(pattern=PART_NAME, max_length=64)]
Freeze = Annotated[str, Field(pattern=FREEZE)]
# Of a folder that a recipe, which may come from anywhere, has files written to.
FolderHere = Annotated[str, AfterValidator(_within)]

# Fields that several kinds of recipes have, each with what it means.
HFlip = Annotated[Probability, Field(description="probability of a left–right mirror")]
VFlip = Annotated[Probability, Field(description="probability of an upside-down mirror")]
RotateDeg = Annotated[float, Field(ge=0, le=180, description="turned by up to ± this many degrees")]
TranslateFrac = Annotated[float, Field(ge=0, le=1, description="moved by up to ± this fraction of the side")]
Zoom = Annotated[PositiveRange | None, Field(description="[min, max] zoom factor")]
Brightness = Annotated[float, Field(ge=0, le=1, description="multiplied by 1 ± up to this")]
Contrast = Annotated[float, Field(ge=0, le=1, description="contrast multiplied by 1 ± up to this")]
BatchNorm = Annotated[
    Literal["train", "eval"],
    Field(description="BatchNorm of the learning stages: batch statistics, or the running ones"),
]
Epochs = Annotated[int, Field(ge=1, le=1_000_000, description="passes over the training part")]
BatchSize = Annotated[int, Field(ge=1, le=65_536, description="pictures per forward pass")]
EvaluateBatchSize = Annotated[int, Field(ge=1, le=1024, description="pictures per forward pass")]
Accumulate = Annotated[int, Field(ge=1, le=65_536, description="forward passes per optimizer step")]
Ema = Annotated[
    float | None, Field(gt=0, lt=1, description="decay per step of averaged weights, which are then evaluated and kept")
]
Patience = Annotated[
    int | None, Field(ge=1, le=1_000_000, description="epochs without improvement after which the phase ends")
]
SaveEveryMin = Annotated[float, Field(gt=0, le=1e6, description="minutes between checkpoints within an epoch")]
MaxMinutes = Annotated[
    float | None,
    Field(gt=0, le=1e9, description="a training ends once it took this many minutes; of folds and seeds, each"),
]
Start = Annotated[Literal["last", "best"], Field(description="which weights of the phase before it starts from")]
RecipeName = Annotated[Name, Field(description="names the run; the file's name where absent")]
Seed = Annotated[int, Field(ge=0, lt=2**63, description="seed of everything random")]
