"""What the fields of a recipe are made of: the base of every section, ranges, and names with their patterns."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated

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
PATTERNS = {
    NAME: "letters, digits, _, - and ., which is not the first",
    PART_NAME: "letters, digits, _ and -",
    FREEZE: "none, all or until:<stage>",
    DEVICE: "auto, cpu, mps, cuda or cuda:<number>",
}

Name = Annotated[str, Field(pattern=NAME, max_length=64)]
# Of phases, and of the runs and data of a study: without dots, so that --set can tell where a name ends.
PartName = Annotated[str, Field(pattern=PART_NAME, max_length=64)]
Freeze = Annotated[str, Field(pattern=FREEZE)]
# Of a folder that a recipe, which may come from anywhere, has files written to.
FolderHere = Annotated[str, AfterValidator(_within)]
