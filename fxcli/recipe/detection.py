"""The model of recipes with task: detect: their own sections; what they share with classifiers is in schema."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from fxcli.recipe.fields import Freeze, Name, PartName, PositiveRange, Probability, Section
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

    hflip: Probability = Field(0.0, description="probability of a left–right mirror")
    vflip: Probability = Field(0.0, description="probability of an upside-down mirror")
    rotate_deg: float = Field(0.0, ge=0, le=180, description="turned by up to ± this many degrees")
    translate_frac: float = Field(0.0, ge=0, le=1, description="moved by up to ± this fraction of the side")
    scale: PositiveRange | None = Field(None, description="[min, max] zoom factor")
    brightness: float = Field(0.0, ge=0, le=1, description="multiplied by 1 ± up to this")
    contrast: float = Field(0.0, ge=0, le=1, description="contrast multiplied by 1 ± up to this")


class DetectPhaseModel(Section):
    """What of the model a phase may change."""

    freeze: Freeze = Field("none", description="none, all (of the backbone), or until:<stage>, that stage included")
    bn: Literal["train", "eval"] = Field(
        "train", description="BatchNorm of the learning stages: batch statistics, or the running ones"
    )


class DetectTrain(Section):
    """The loop."""

    epochs: int = Field(30, ge=1, le=1_000_000, description="passes over the training part")
    batch_size: int = Field(8, ge=1, le=65_536, description="pictures per forward pass")
    accumulate: int = Field(1, ge=1, le=65_536, description="forward passes per optimizer step")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay per step of averaged weights, which are then evaluated and kept"
    )
    monitor: Literal["val_ap50", "val_ap50_95", "val_auroc", "none"] = Field(
        "val_ap50", description="what decides the best epoch; none keeps the last"
    )
    patience: int | None = Field(
        None, ge=1, le=1_000_000, description="epochs without improvement after which the phase ends"
    )
    save_every_min: float = Field(10.0, gt=0, le=1e6, description="minutes between checkpoints within an epoch")
    max_minutes: float | None = Field(None, gt=0, le=1e9, description="the run ends once it took this many minutes")


class DetectPhase(Section):
    """One stretch of training with its own optimizer and schedule; complete after loading."""

    start: Literal["last", "best"] = Field("best", description="which weights of the phase before it starts from")
    augment: BoxAugment = BoxAugment()
    model: DetectPhaseModel = DetectPhaseModel()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    train: DetectTrain = DetectTrain()


class DetectEvaluate(Section):
    """How validation, `fx evaluate` and `fx predict` run the model."""

    batch_size: int = Field(8, ge=1, le=1024, description="pictures per forward pass")


class DetectRecipe(Section):
    """A training of a detector, as `fx train` runs it: after loading, phases hold every section that may vary."""

    task: Literal["detect"] = "detect"
    name: Name = Field("unnamed", description="names the run; the file's name where absent")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of everything random")
    data: Data = Data()
    model: Model = Model()
    detect: Detect = Detect()
    hardware: Hardware = Hardware()
    evaluate: DetectEvaluate = DetectEvaluate()
    phases: dict[PartName, DetectPhase] = Field({}, min_length=1, max_length=50, description="in order, by name")
