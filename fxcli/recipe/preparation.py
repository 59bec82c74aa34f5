"""The model of a recipe that prepares: where pictures and boxes come from, how they are cleaned, divided, audited."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fxcli.recipe.fields import Name, Section


class Columns(Section):
    """Names of the columns of a source CSV; its other columns are kept in the manifest."""

    path: str = Field("path", description="column with the picture's path, relative to the CSV or to `folder`")
    folder: str | None = Field(None, description="folder beside the CSV that the paths are relative to; no column")
    label: str = Field("label", description="column with the class")
    patient: str | None = Field(
        None, description="column with the patient; pictures of one patient never straddle a split"
    )
    group: str | None = Field(
        None,
        description="column with whatever else (a study, a clip) must not straddle a split; empty cells tie nothing",
    )
    split: str | None = Field(None, description="column with train, val or test")


class PrepareData(Section):
    """Where raw pictures come from and how they are cleaned."""

    source: str | None = Field(
        None, description="folder of class folders, a CSV or Parquet, or `phantom` (the embedded drawn pictures)"
    )
    columns: Columns = Columns()
    labels: Literal["given", "none"] = Field(
        "given",
        description="given: by class folders, a column, or boxes; none: no picture has one, enough to pretrain on",
    )
    classes: dict[str, Name] = Field(
        {}, description="folder or label → class; empty keeps every folder as its own class"
    )
    prepared_px: int = Field(
        640, ge=32, le=4096, description="side of the square that prepared pictures are letterboxed to, in pixels"
    )
    window: Literal["minmax", "percentile"] = Field(
        "percentile",
        description="how pictures of more than 8 bits become 8-bit: their full range, or their 0.5–99.5 percentiles",
    )
    licence: str | None = Field(
        None, max_length=200, description="of the pictures, for people; reports and model cards tell it"
    )
    workers: int | None = Field(None, ge=0, le=256, description="threads; null = one per core")


class Split(Section):
    """How pictures are divided into train, val and test."""

    policy: Literal["given", "grouped", "train"] | None = Field(
        None,
        description="given: the source's own train and test; grouped: drawn by group; train: nothing is drawn, what "
        "the source gives no part is for training; null = train without labels, given if there is one, else grouped",
    )
    val_frac: float = Field(
        0.15, ge=0, lt=1, description="fraction of the training part drawn for validation where none is given"
    )
    calibration_frac: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="fraction of the training part drawn for temperature, prediction sets and thresholds; null = 0.15 "
        "where it has at least 2,000 groups, else 0: below, train in folds",
    )
    test_frac: float = Field(0.15, gt=0, lt=1, description="fraction of all groups drawn for test (grouped only)")


class Audit(Section):
    """What `fx prepare` looks for beside the labels, and what becomes of pictures that occur more than once."""

    search: bool = Field(
        True,
        description="whether pictures are compared with each other; false: patients, byte-equal files and file names "
        "alone make groups (the phantom is never searched: its groups are known)",
    )
    leaks: Literal["report", "drop_train", "refuse"] = Field(
        "report",
        description="training pictures that share a group with a test picture: kept and reported, left out, or no "
        "preparation",
    )
    duplicates: Literal["keep", "one_per_group"] = Field(
        "keep", description="copies of one picture in the training part: all, or one: with boxes if any, the largest"
    )
    label_conflicts: Literal["report", "drop"] = Field(
        "report",
        description="copies of one picture that bear different labels: kept, or left out of the training part; test "
        "labels always stay",
    )


class PrepareBoxes(Section):
    """Boxes around what is to be found in the pictures, for detectors and for measuring heat maps."""

    source: str | None = Field(
        None, description="a COCO file, or a folder of YOLO's .txt or Pascal VOC's .xml files; null = no boxes"
    )
    classes: dict[str, Name | None] = Field(
        {}, description="label of a box → class, or null to pass such boxes over; empty keeps every label"
    )
    bad: Literal["refuse", "clip"] = Field(
        "refuse",
        description="boxes that leave their picture, are empty or inverted, or have no class: no preparation; or cut "
        "at the border where that is all, else left out. Both list them",
    )
    unlisted: Literal["unknown", "negative"] = Field(
        "unknown",
        description="pictures that the source does not list: nothing is known of them, or there is nothing on them",
    )
    label: bool = Field(
        False,
        description="whether boxes give the pictures' labels, in place of folders or a column: the class of the box "
        "(boxed, of several classes), or no_<class> (no_box)",
    )


class PrepareRecipe(Section):
    """A preparation of raw pictures, as `fx prepare` runs it."""

    task: Literal["prepare"] = "prepare"
    name: Name = Field("unnamed", description="names the folder under prepared/; the file's name where absent")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the drawn split")
    data: PrepareData = PrepareData()
    boxes: PrepareBoxes = PrepareBoxes()
    split: Split = Split()
    audit: Audit = Audit()
