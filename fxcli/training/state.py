"""A training and where it stands: saved, restored. loop runs it; classify and detect say what is special to them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fxcli.data import cache, dataset
from fxcli.data.cache import Kept, Sight
from fxcli.data.dataset import Batches
from fxcli.data.manifest import Manifest
from fxcli.model.classifier import TrainedModel
from fxcli.model.detector import TrainedDetector
from fxcli.model.hardware import Compute
from fxcli.recipe.detection import DetectRecipe
from fxcli.recipe.schema import ClassifyRecipe
from fxcli.run import checkpoint
from fxcli.run.directory import Run
from fxcli.training import session
from fxcli.training.session import Average
from fxcli.training.world import ALONE, World
from fxcli.zoo.plugins import Zoo


@dataclass
class Place:
    """Where a training stands; all that a resume must know besides tensors.

    Attributes:
        phase: Index of the phase.
        phase_step: Optimizer steps done in it.
        phase_epoch: Whole epochs done in it.
        batch: Batches done of the epoch under way.
        epoch: Whole epochs done in all phases.
        step: Optimizer steps done in all phases.
        best: Best value of the monitor in this phase, larger is better; None before the first.
        best_epoch: Global epoch of it.
        stale: Epochs since.
        done: Whether the phase is over.
        loss_sums: Of the epoch under way, over pictures: "loss", and each of its parts where it has several.
        loss_count: Pictures in these sums.
        spent_s: Seconds of training.
        data_wait_s: Of them, waiting for batches.
        compute_s: Of them, from a batch to the end of its step.
    """

    phase: int = 0
    phase_step: int = 0
    phase_epoch: int = 0
    batch: int = 0
    epoch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = 0
    stale: int = 0
    done: bool = False
    loss_sums: dict[str, float] = field(default_factory=dict)
    loss_count: int = 0
    spent_s: float = 0.0
    data_wait_s: float = 0.0
    compute_s: float = 0.0


@dataclass(frozen=True)
class Feed:
    """What a phase is fed with, and what it makes of it.

    Attributes:
        loader: Gives batches: inputs, then a target of each picture.
        batches: The order behind it.
        losses: Batch → means over its pictures, by name; what is minimised is their sum.
        validate: Figures on the validation part; {} without one.
        story: How it came about, for people; "" for nothing.
        is_light: Whether a step is so small that a second thread only costs.
    """

    loader: DataLoader[Any]
    batches: Batches
    losses: Callable[[Any], Mapping[str, Tensor]]
    validate: Callable[[], dict[str, Any]]
    story: str = ""
    is_light: bool = False


@dataclass(frozen=True)
class Task:
    """What is special to what is trained, as functions of the training: those of classify, or of detect.

    Attributes:
        freeze: Freezes what the phase at hand freezes, and puts all else into training mode.
        feed: Feeds the phase at hand, which is set up; `check` is called now and then and may raise to end it, and
            without one nothing is kept that takes a while to make.
        finish: Writes the model that is kept, and returns its validation figures.
        passes: How often a phase goes through its pictures.
        logged: Names of the figures that each epoch logs.
    """

    freeze: Callable[[Any, Any], None]
    feed: Callable[[Any, Callable[[], None] | None], Feed]
    finish: Callable[[Any, Run], dict[str, Any]]
    passes: Callable[[Any, Any], int]
    logged: tuple[str, ...]


RecipeT = TypeVar("RecipeT", bound=ClassifyRecipe | DetectRecipe)
ModelT = TypeVar("ModelT", bound=TrainedModel | TrainedDetector)


@dataclass
class Training(Generic[RecipeT, ModelT]):
    """One training with its parts; `train` runs it.

    Attributes:
        recipe: Resolved.
        manifest: Of the pictures.
        model: What is trained; its info goes into the model file.
        compute: Device, precision, layout.
        zoo: Its trackers are called.
        task: What is special to what it trains.
        workers: Decoding processes; None takes one per core, at most 4.
        world: The processes that make it together.
        place: Where it stands.
        kept: Decoded pictures, for all phases that see the same of them.
        average: Of the phase at hand, where it averages.
        optimizer: Of the phase at hand.
    """

    recipe: RecipeT
    manifest: Manifest
    model: ModelT
    compute: Compute
    zoo: Zoo
    task: Task
    workers: int | None = None
    world: World = ALONE
    place: Place = field(default_factory=Place)
    kept: Kept | None = None
    average: Average | None = None
    optimizer: torch.optim.Optimizer | None = None

    @property
    def phases(self) -> list[tuple[str, Any]]:
        """The recipe's phases, in order: Phase, or DetectPhase."""
        return list(self.recipe.phases.items())


AnyTraining = Training[Any, Any]
ClassifyTraining = Training[ClassifyRecipe, TrainedModel]
DetectTraining = Training[DetectRecipe, TrainedDetector]


def kept(training: AnyTraining, sight: Sight, check: Callable[[], None]) -> Kept | None:
    """The pictures of a phase, decoded, as the recipe wants it: its next phase finds those that it sees alike."""
    workers = dataset.workers_of(training.workers)
    settings = training.recipe.data.cache
    training.kept = cache.keep(sight, settings, workers=workers, before=training.kept, check=check)
    return training.kept


@contextlib.contextmanager
def evaluated(training: AnyTraining) -> Iterator[None]:
    """The network in eval mode and with averaged weights, if there are; afterwards as it was."""
    network = training.model.network
    before = copy.deepcopy(network.state_dict()) if training.average else None
    if training.average:
        network.load_state_dict(training.average.values)
    try:
        with session.in_eval(network):
            yield
    finally:
        if before:
            network.load_state_dict(before)


def keep(training: AnyTraining, run: Run) -> None:
    """Puts the weights into the network that the training ends with, in eval mode: the best, else the last."""
    _, last = training.phases[min(training.place.phase, len(training.phases)) - 1]
    model = training.model
    if last.train.monitor != "none" and run.best_file.exists():
        weights, header = checkpoint.load_model_file(run.best_file)
        model.network.load_state_dict(weights)
        model.info["epoch"] = header["epoch"]
    else:
        if training.average:
            model.network.load_state_dict(training.average.values)
        model.info["epoch"] = training.place.epoch
    model.network.eval()


def save(training: AnyTraining, run: Run) -> None:
    """Writes the resume state.

    Raises:
        RunError: The weights are not finite: the state before them is the better one.
    """
    place = training.place
    session.check_weights(training.model.network, place.step)
    tensors = session.tensors_of(training.model.network, training.optimizer)
    if training.average:
        tensors |= {f"ema.{key}": value for key, value in training.average.values.items()}
    checkpoint.save_state(run.state_file, tensors, session.header(place, training.recipe))


def resumed(training: AnyTraining, run: Run) -> dict[str, Tensor]:
    """Loads the resume state; {} if the run was stopped before its first save.

    Raises:
        ModelFileError: It is damaged, or of another recipe.
    """
    if not run.state_file.exists():
        return {}
    tensors, header = checkpoint.load_state(run.state_file)
    session.take_over(training.place, header, training.recipe, run.state_file)
    return tensors


def restore(training: AnyTraining, tensors: Mapping[str, Tensor]) -> None:
    """Puts saved weights, averages and optimizer state into a phase that was set up.

    Raises:
        ModelFileError: They do not fit.
    """
    if not tensors or training.optimizer is None:
        return
    with session.fitting():
        session.put_back(tensors, training.model.network, training.optimizer)
        if training.average:
            training.average.load(session.named(tensors, "ema."))
