"""The model of recipes with task: detect: their own sections; what they share with classifiers is in schema."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from fxcli.recipe.fields import (
    Accumulate,
    BatchNorm,
    BatchSize,
    Brightness,
    Contrast,
    Ema,
    Epochs,
    EvaluateBatchSize,
    Freeze,
    HFlip,
    MaxMinutes,
    PartName,
    Patience,
    RecipeName,
    RotateDeg,
    SaveEveryMin,
    Section,
    Seed,
    Start,
    TranslateFrac,
    VFlip,
    Zoom,
)
from fxcli.recipe.schema import Data, Hardware, Model, Optim, Schedule


class Detect(Section):
    """The detector, and what it learns from."""

    detector: str = Field("faster_rcnn", description="a detector that `fx plugins` lists")
    options: dict[str, Any] = Field({}, description="options of the detector, validated by its plugin")
    negatives: float = Field(
        1.0, ge=0, le=1000, description="pictures without a box in each epoch, drawn anew, for each one with boxes"
    )


class BoxAugment(Section):
    """Random changes of training pictures and their boxes; zero or null is off."""

    hflip: HFlip = 0.0
    vflip: VFlip = 0.0
    rotate_deg: RotateDeg = 0.0
    translate_frac: TranslateFrac = 0.0
    scale: Zoom = None
    brightness: Brightness = 0.0
    contrast: Contrast = 0.0


class DetectPhaseModel(Section):
    """What of the model a phase may change."""

    freeze: Freeze = Field("none", description="none, all (of the backbone), or until:<stage>, that stage included")
    bn: BatchNorm = "train"


class DetectTrain(Section):
    """The loop."""

    epochs: Epochs = 30
    batch_size: BatchSize = 8
    accumulate: Accumulate = 1
    ema: Ema = None
    monitor: Literal["val_ap50", "val_ap50_95", "val_auroc", "none"] = Field(
        "val_ap50", description="what decides the best epoch; none keeps the last"
    )
    patience: Patience = None
    save_every_min: SaveEveryMin = 10.0
    max_minutes: MaxMinutes = None


class DetectPhase(Section):
    """One stretch of training with its own optimizer and schedule; complete after loading."""

    start: Start = "best"
    augment: BoxAugment = BoxAugment()
    model: DetectPhaseModel = DetectPhaseModel()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    train: DetectTrain = DetectTrain()


class DetectEvaluate(Section):
    """How validation, `fx evaluate` and `fx predict` run the model."""

    batch_size: EvaluateBatchSize = 8


class DetectRecipe(Section):
    """A training of a detector, as `fx train` runs it: after loading, phases hold every section that may vary."""

    task: Literal["detect"] = "detect"
    name: RecipeName = "unnamed"
    seed: Seed = 0
    data: Data = Data()
    model: Model = Model()
    detect: Detect = Detect()
    hardware: Hardware = Hardware()
    evaluate: DetectEvaluate = DetectEvaluate()
    phases: dict[PartName, DetectPhase] = Field({}, min_length=1, max_length=50, description="in order, by name")
