"""The models of recipes that train: their sections, and the whole of each. preparation has that of fx prepare.

Descriptions carry the units; README and JSON Schema are made from them. A field exists only if something reads it.
Merging, origins and messages are not here (load, messages); which task has which model is in tasks.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from fxcli.recipe.fields import (
    DEVICE,
    METRIC,
    Accumulate,
    BatchNorm,
    BatchSize,
    Brightness,
    Contrast,
    Ema,
    Epochs,
    EvaluateBatchSize,
    FolderHere,
    FracRange,
    Freeze,
    HFlip,
    MaxMinutes,
    Name,
    PartName,
    Patience,
    Probability,
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
from fxcli.zoo.specs import LEAST_SIZE_PX, MOST_SIZE_PX


class Data(Section):
    """The pictures of a training."""

    manifest: str | None = Field(
        None, description="manifest.csv (or .parquet) that `fx prepare` wrote, relative to the current folder"
    )
    source: Literal["phantom"] | None = Field(
        None, description="phantom: use the embedded drawn pictures, prepared on first use, in place of a manifest"
    )
    train_frac: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the training pictures that is learnt from: whole groups, drawn class by class with the "
        "seed; a smaller share is a part of a larger one",
    )
    image_size_px: int | None = Field(
        None,
        ge=LEAST_SIZE_PX,
        le=MOST_SIZE_PX,
        description="side of the model's square input in pixels; null = the backbone's own",
    )
    resize: Literal["letterbox", "squash", "crop"] = Field(
        "letterbox",
        description="how a picture becomes a square: padded, stretched, or its centre cut out",
    )
    workers: int | None = Field(None, ge=0, le=256, description="decoding processes; null = one per core, at most 4")
    cache: Literal["auto", "none", "memory", "disk"] = Field(
        "auto",
        description="training pictures are decoded once: into memory, or into a file in FX_CACHE_DIR that later runs "
        "find; auto = memory up to 2 GiB, else none. none also turns off the features of a frozen backbone",
    )


class PretrainData(Data):
    """The pictures of a pretraining."""

    splits: tuple[Literal["train", "val", "calibration", "test"], ...] = Field(
        ("train",),
        min_length=1,
        max_length=4,
        description="parts of the manifest that are learnt from, for labels play no role: all of them make a whole "
        "data set a pool. Figures on a part that is, will flatter whatever starts from here",
    )


class Augment(Section):
    """Random changes of training pictures, drawn anew for each picture; zero or null is off."""

    hflip: HFlip = 0.0
    vflip: VFlip = 0.0
    rotate_deg: RotateDeg = 0.0
    translate_frac: TranslateFrac = 0.0
    scale: Zoom = None
    shear_deg: float = Field(0.0, ge=0, lt=90, description="sheared by up to ± this many degrees")
    brightness: Brightness = 0.0
    contrast: Contrast = 0.0
    elastic: float = Field(
        0.0, ge=0, le=1000, description="elastic deformation: root mean square shift in pixels of the input"
    )
    crop_scale: FracRange | None = Field(
        None, description="[min, max] fraction of the picture's area that a random crop keeps"
    )
    erase: Probability = Field(0.0, description="probability that a random rectangle is blanked")
    erase_scale: FracRange = Field((0.02, 0.2), description="[min, max] fraction of the area that is blanked")
    mixup: float = Field(0.0, ge=0, le=1000, description="Mixup's α of Beta(α, α)")
    cutmix: float = Field(0.0, ge=0, le=1000, description="CutMix's α; with Mixup, each batch draws one of the two")


class PhaseModel(Section):
    """What of the model a phase may change."""

    freeze: Freeze = Field(
        "none", description="none, all (the head alone learns), or until:<stage>, that stage included"
    )
    bn: BatchNorm = "train"
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the linear head")


class Model(Section):
    """The backbone; freeze, bn and dropout are of the phase, and may be written here for all phases."""

    backbone: str = Field("resnet50", description="a name that `fx plugins` lists")
    init: str = Field(
        "imagenet", description="random, a weight key of the backbone, or a run or model file of the same backbone"
    )
    drop_path: float = Field(0.0, ge=0, lt=1, description="stochastic depth rate")
    options: dict[str, Any] = Field({}, description="options of the backbone, validated by its plugin")


class Optim(Section):
    """The optimizer. Biases and norm parameters get no weight decay."""

    name: Literal["adamw", "sgd", "lars"] = Field(
        "adamw",
        description="SGD uses Nesterov momentum where momentum > 0; LARS scales the rate of each weight matrix by its "
        "norm over its gradient's: for batches of many hundreds",
    )
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(1e-2, ge=0, description="decoupled for adamw, L2 for sgd and lars")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd and lars")
    head_lr_mult: float = Field(1.0, gt=0, description="learning rate of the head, times lr")
    layer_decay: float = Field(1.0, gt=0, le=1, description="each stage further from the head learns this much slower")
    clip_norm: float | None = Field(None, gt=0, description="gradients are scaled down to this norm")


class Schedule(Section):
    """How the learning rate moves within a phase."""

    name: Literal["onecycle", "cosine", "step", "constant"] = Field("constant", description="shape of the curve")
    warmup_epochs: float = Field(0.0, ge=0, le=1e6, description="linear rise from zero (not for onecycle)")
    pct_start: float = Field(0.3, gt=0, lt=1, description="onecycle: fraction of the steps that rise")
    div_factor: float = Field(25.0, ge=1, description="onecycle: starts at lr / this")
    final_div_factor: float = Field(1e4, ge=1, description="onecycle: ends at start / this")
    step_epochs: float = Field(10.0, gt=0, le=1e6, description="step: epochs between drops")
    gamma: float = Field(0.1, gt=0, le=1, description="step: factor of each drop")


Monitor = Literal["val_accuracy", "val_balanced_accuracy", "val_macro_f1", "val_loss", "none"]


class Train(Section):
    """The loop."""

    epochs: Epochs = 30
    batch_size: BatchSize = 32
    accumulate: Accumulate = 1
    loss: Literal["ce", "focal"] = Field("ce", description="cross-entropy, or focal loss")
    focal_gamma: float = Field(2.0, ge=0, le=100, description="focusing parameter of the focal loss")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="weight moved from the label to all classes")
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="balanced: a class counts inversely to its frequency, in a mean over each batch; in batches of a "
        "few pictures (accumulate makes none larger) that fades, and of one it is nothing",
    )
    sampler: Literal["shuffle", "balanced"] = Field("shuffle", description="balanced: classes are drawn equally often")
    ema: Ema = None
    monitor: Monitor = Field("val_macro_f1", description="what decides the best epoch; none keeps the last")
    patience: Patience = None
    save_every_min: SaveEveryMin = 10.0
    max_minutes: MaxMinutes = None


class Phase(Section):
    """One stretch of training with its own optimizer and schedule; complete after loading."""

    start: Start = "best"
    augment: Augment = Augment()
    model: PhaseModel = PhaseModel()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    train: Train = Train()


class Hardware(Section):
    """Where and how numbers are computed."""

    device: str = Field("auto", pattern=DEVICE, description="auto takes a GPU if there is one")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="of training: bf16 autocasts the forward pass; auto takes it where a CPU or CUDA GPU computes in "
        "it. Validation is fp32",
    )
    channels_last: bool | None = Field(
        None, description="memory layout of pictures and weights; null = true on CPU and CUDA, where it is faster"
    )
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; null = torch's own choice")


class Evaluate(Section):
    """How validation, `fx evaluate` and `fx predict` run the model."""

    batch_size: EvaluateBatchSize = 32
    coverage: float = Field(
        0.9, gt=0, lt=1, description="share of prediction sets that are to hold the true class (fx predict --sets)"
    )
    per_class_sets: bool = Field(
        False, description="keep it within each class that has at least 50 groups, too; the others share one threshold"
    )
    negative_class: Name | None = Field(
        None,
        description="class that means that nothing was found; answers then no longer assume a fracture, and the model "
        "can be the gate of another (fx predict --gate)",
    )


class Ensemble(Section):
    """Several trainings of the same recipe, whose mean answer is the model."""

    folds: int = Field(
        1, ge=1, le=100, description="parts of the training pictures; each is held out by one training (--folds)"
    )
    fold_seed: int = Field(0, ge=0, lt=2**63, description="seed of the division into folds")
    seeds: int = Field(1, ge=1, le=100, description="repetitions with seed, seed + 1, … (--seeds)")


class ClassifyRecipe(Section):
    """A training of a classifier, as `fx train` runs it: after loading, phases hold every section that may vary."""

    task: Literal["classify"] = "classify"
    name: RecipeName = "unnamed"
    seed: Seed = 0
    data: Data = Data()
    model: Model = Model()
    hardware: Hardware = Hardware()
    evaluate: Evaluate = Evaluate()
    ensemble: Ensemble = Ensemble()
    phases: dict[PartName, Phase] = Field({}, min_length=1, max_length=50, description="in order, by name")


class PretrainMethod(Section):
    """The self-supervised method."""

    method: str = Field("simclr", description="a pretrainer that `fx plugins` lists")
    options: dict[str, Any] = Field({}, description="options of the method, validated by its plugin")


class PretrainLoop(Section):
    """The loop of a pretraining."""

    look_every: int = Field(
        5,
        ge=0,
        le=1_000_000,
        description="epochs between looks, from the start on, at what was learnt: nearest neighbours by their labels, "
        "and whether all pictures look alike, which ends it; 0 = never",
    )

    epochs: int = Field(30, ge=1, le=1_000_000, description="passes over the pool")
    batch_size: int = Field(
        64, ge=2, le=65_536, description="pictures per forward pass: a loss that compares pictures compares these"
    )
    accumulate: Accumulate = 1
    save_every_min: SaveEveryMin = 10.0
    max_minutes: MaxMinutes = None


class PretrainRecipe(Section):
    """A self-supervised pretraining of a backbone; labels tell how it goes, and nothing is learnt from them."""

    task: Literal["pretrain"] = "pretrain"
    name: RecipeName = "unnamed"
    seed: Seed = 0
    data: PretrainData = PretrainData()
    model: Model = Model()
    pretrain: PretrainMethod = PretrainMethod()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    train: PretrainLoop = PretrainLoop()
    hardware: Hardware = Hardware()


class StudyRun(Section):
    """One recipe of a study."""

    recipe: str = Field(description="a recipe with task: classify, relative to this file or by its name")
    set: dict[str, Any] = Field(
        {}, max_length=200, description="overrides, key → value as --set has them; after those of the study"
    )
    published: float | None = Field(
        None,
        ge=0,
        le=100,
        description="accuracy on the test part that was published, in percent; shown in the table, beside the run's",
    )


class StudyComparison(Section):
    """A question to a study: whether one of its runs is better than another."""

    a: str = Field(description="a run")
    b: str = Field(description="the run that it is compared with")
    data: str = Field(description="a key of the study's data")
    data_b: str | None = Field(
        None, description="another key of it, for b alone: the same pictures, another training part; null = data"
    )
    part: Literal["test", "oof"] = Field(
        "test",
        description="the test part, or out-of-fold predictions of the training pictures (ensemble.folds); runs in "
        "folds look at the test part only if a comparison of theirs or published asks for it",
    )
    on: Literal["leaked", "not_leaked"] | None = Field(
        None, description="test pictures with a twin in the training part, or those without, alone; null = all"
    )
    metric: str = Field(
        "accuracy",
        pattern=METRIC,
        description="what is compared: accuracy, macro_f1, nll, brier, or recall:<class>",
    )

    @property
    def sides(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """(run, data) of both."""
        return (self.a, self.data), (self.b, self.data_b or self.data)

    @property
    def names(self) -> tuple[str, str]:
        """What both sides are called; with their data where that is what differs."""
        if self.data_b in (None, self.data):
            return self.a, self.b
        return f"{self.a} on {self.data}", f"{self.b} on {self.data_b}"

    @property
    def pictures(self) -> str:
        """Which it is of, in words; where two data differ, the names tell."""
        places = [self.data] if self.data_b in (None, self.data) else []
        places += ["out of fold"] if self.part == "oof" else []
        places += {"leaked": ["leaked pictures"], "not_leaked": ["pictures not leaked"], None: []}[self.on]
        return ", ".join(places) or "test part"


class StudyRecipe(Section):
    """Recipes × data × seeds, all trained and measured by one `fx train`: seed by seed."""

    task: Literal["study"] = "study"
    name: Name = Field("unnamed", description="names the folder under runs/; the file's name where absent")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(
        (0,), min_length=1, max_length=1000, description="each recipe is trained once with each"
    )
    data: dict[PartName, str] = Field(
        min_length=1,
        max_length=100,
        description="name → manifest.csv (or .parquet) that `fx prepare` wrote, relative to the current folder",
    )
    set: dict[str, Any] = Field({}, max_length=200, description="overrides of every run, key → value as --set has them")
    runs: dict[PartName, StudyRun] = Field(min_length=1, max_length=100, description="in order, by name")
    comparisons: tuple[StudyComparison, ...] = Field(
        (),
        max_length=1000,
        description="the first decides, if it was the first when the first result was kept; the others are exploratory",
    )
    results: FolderHere | None = Field(
        None,
        description="folder of what each training said of the parts that are asked for, relative to the current "
        "folder; what lies there counts as done. null = results in the study's folder",
    )
