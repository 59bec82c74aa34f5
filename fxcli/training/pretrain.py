"""The loop of pretraining: a backbone learns from views of pictures, without their labels. Called by `fx train`.

What a view is and what is to be learned from it comes from a plugin (PretrainerSpec). The model file holds the
backbone alone; `model.init: <run>` starts a classifier from it. The sections are those of every loop of fx, see
loop; what is evaluated, now and then, is the backbone (watch), for the loss does not tell what it is worth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader

from fxcli.console import console
from fxcli.data import cache, dataset
from fxcli.data.manifest import Manifest
from fxcli.data.preprocess import Preprocessing
from fxcli.errors import DataError, FxError, PluginError
from fxcli.model import classifier as models
from fxcli.model import freeze, hardware
from fxcli.model.hardware import Compute
from fxcli.model.init import Origin
from fxcli.recipe.schema import PretrainRecipe
from fxcli.run import checkpoint, randomness
from fxcli.run.directory import Run
from fxcli.training import method as methods
from fxcli.training import optim, session, trial, watch
from fxcli.training.method import Method
from fxcli.training.session import Log, Stop, Timer, finite
from fxcli.training.watch import Watch
from fxcli.zoo.plugins import Zoo, options_of
from fxcli.zoo.specs import PretrainArgs

if TYPE_CHECKING:
    from tqdm import tqdm

# A batch of one has no other picture to differ from, and no statistics for BatchNorm.
MIN_BATCH = 2


@dataclass
class Place:
    """Where a pretraining stands; all that a resume must know besides tensors.

    Attributes:
        epoch: Whole epochs done.
        batch: Batches done of the epoch under way; whole steps of them, where one is saved.
        step: Optimizer steps done.
        loss_sum: Of the epoch under way, over pictures.
        loss_count: Pictures in that sum.
        spread_sum: Of the embeddings' spread, likewise.
        spread_count: Pictures in that sum: of batches whose embeddings the method left.
        flat_epochs: Epochs in a row, the last one included, in which all embeddings were alike.
        loss: Mean of the last epoch that ended; None before the first.
        done: Whether time is up.
        spent_s: Seconds of training.
        data_wait_s: Of them, waiting for batches.
        compute_s: Of them, from a batch to the end of its step.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    spread_sum: float = 0.0
    spread_count: int = 0
    flat_epochs: int = 0
    loss: float | None = None
    done: bool = False
    spent_s: float = 0.0
    data_wait_s: float = 0.0
    compute_s: float = 0.0

    @property
    def is_start(self) -> bool:
        """Whether nothing is learnt yet."""
        return not (self.epoch or self.batch)


@dataclass
class Pretraining:
    """One pretraining with its parts.

    Attributes:
        recipe: Resolved.
        module: What is trained; it is a `Method`.
        preprocessing: Of the backbone's pictures; goes into the model file.
        compute: Device, precision, layout.
        optimizer: Over all of the module that learns.
        loader: Gives the views of each batch.
        batches: The order behind it.
        watch: Looks at the backbone now and then.
        place: Where it stands.
    """

    recipe: PretrainRecipe
    module: nn.Module
    preprocessing: Preprocessing
    compute: Compute
    optimizer: torch.optim.Optimizer
    loader: DataLoader[Any]
    batches: dataset.Batches
    watch: Watch
    place: Place = field(default_factory=Place)

    @property
    def method(self) -> Method:
        """The module, by what a pretrainer adds to one."""
        return cast(Method, self.module)

    @property
    def count(self) -> int:
        """Pictures of an epoch: all but one that would be alone in its batch."""
        rest = self.batches.count % self.recipe.train.batch_size
        return self.batches.count - (rest if rest < MIN_BATCH else 0)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return math.ceil(self.count / (self.recipe.train.batch_size * self.recipe.train.accumulate))


def train(
    recipe: PretrainRecipe,
    manifest: Manifest,
    compute: Compute,
    zoo: Zoo,
    info: dict[str, Any],
    run: Run,
    *,
    resume: bool,
    origin: Origin | None = None,
) -> dict[str, Any]:
    """Pretrains on the training part and writes model.safetensors, which holds the backbone.

    Args:
        recipe: Resolved.
        manifest: Of the pictures, with those that are learnt from as its training part (pictures.learnt_from).
        compute: Device, precision, layout.
        zoo: Gives backbone and method; its trackers are called.
        info: For the header of the model file.
        run: Where to.
        resume: Goes on from the run's resume state, if it was stopped after its first save.
        origin: See `session.started`.

    Returns:
        `loss`: the mean of the last epoch.

    Raises:
        DataError: The training part has less than two pictures.
        Interrupted: After saving, when the user stopped it.
        PluginError: The method's plugin is broken.
        RecipeError: The method refuses what is asked of it.
        RunError: The loss is no longer finite, or the representation has collapsed.
        WeightsUnavailable: See `model.init`.
    """
    pretraining = build(recipe, manifest, compute, zoo, origin)
    place = pretraining.place
    if resume and run.state_file.exists():
        _restore(pretraining, run)
    timer = Timer(place.spent_s, place.data_wait_s, place.compute_s)
    # Of the start, epoch 0, it is known only once the first batch is through that it was looked at.
    log = Log(run, zoo, keep_epochs=-1 if place.is_start else place.epoch)
    size, passes = recipe.train.batch_size, recipe.train.accumulate
    if passes > 1:
        # Unlike a classifier's, a loss here need not be the mean of what each picture gives alone.
        console.note(
            f"a step learns from {size * passes} pictures, {size} at a time: "
            f"a loss that compares pictures, as SimCLR's, compares those {size} alone"
        )
    try:
        with Stop() as stop:
            _keep(pretraining, run, stop)
            if recipe.train.look_every and place.is_start:
                found = _look(pretraining, run, timer, stop)
                log.write(0, {"epoch": 0, **found})
                _tell(pretraining, run, found)
            hardware.held.give_back(at_once=True)
            # Stopped in the look after its time was up, it has still to end its last epoch.
            while place.epoch < recipe.train.epochs and not (place.done and place.batch == 0):
                started = timer.totals
                _epoch(pretraining, run, timer, stop)
                timer.end_steps()
                spent = {name: value - started[name] for name, value in timer.totals.items()}
                _end_epoch(pretraining, run, log, timer, spent, stop)
                if stop.asked:
                    raise stop.interrupted(run, place.step)
            if place.step < pretraining.steps_per_epoch * recipe.train.epochs:
                session.out_of_time(run, f"in epoch {place.epoch} of {recipe.train.epochs}")
    finally:
        dataset.ended(pretraining.loader)
    header = {
        **info,
        "method": zoo.pretrainer(recipe.pretrain.method).name,
        "epoch": place.epoch,
        "preprocessing": pretraining.preprocessing.to_mapping(),
    }
    state = pretraining.method.backbone.state_dict()
    checkpoint.save_model_file(run.model_file, {f"backbone.{key}": value for key, value in state.items()}, header)
    return {"loss": place.loss}


def build(
    recipe: PretrainRecipe, manifest: Manifest, compute: Compute, zoo: Zoo, origin: Origin | None = None
) -> Pretraining:
    """Everything in place for the first step; raises as `train` says."""
    paths = [manifest.path_of(row) for row in manifest.part("train")]
    if len(paths) < MIN_BATCH:
        raise DataError(f"pretraining needs {MIN_BATCH} training pictures, here are {len(paths)}", where=manifest.file)
    spec, pretrainer = zoo.backbone(recipe.model.backbone), zoo.pretrainer(recipe.pretrain.method)
    trial.backbone(recipe, spec, compute)
    # A classifier's head is not used: its backbone is built and started as every other.
    classifier, preprocessing = session.start(recipe, manifest, spec, 1, origin)
    args = PretrainArgs(
        image_size_px=preprocessing.image_size_px,
        num_features=spec.num_features,
        options=options_of(pretrainer.options, recipe.pretrain.options, "pretrain.options"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(randomness.derive(recipe.seed, "init", "method"))
        module = compute.place(methods.build(pretrainer, classifier.backbone, args)).train()
    batches = dataset.Batches(len(paths), recipe.train.batch_size, seed=recipe.seed)
    views = dataset.Views(paths, preprocessing, methods.views(pretrainer, args))
    loader = dataset.loader(views, batches, workers=recipe.data.workers)
    optimizer = optim.make(
        recipe.optim, freeze.parameter_groups(module, module.get_submodule("backbone"), spec, recipe.optim)
    )
    exact = Compute(compute.device, "fp32", compute.channels_last)
    watching = Watch(manifest, preprocessing, exact, recipe.data.workers)
    return Pretraining(recipe, module, preprocessing, compute, optimizer, loader, batches, watching)


def _keep(pretraining: Pretraining, run: Run, stop: Stop) -> None:
    """Decodes the pictures once, before the loader starts its processes."""

    def check() -> None:
        if stop.asked:
            raise stop.interrupted(run, pretraining.place.step)

    data, views = pretraining.recipe.data, cast(dataset.Views, pretraining.loader.dataset)
    workers = dataset.workers_of(data.workers)
    views.kept = cache.keep(views.sight, data.cache, workers=workers, before=None, check=check)


def _epoch(pretraining: Pretraining, run: Run, timer: Timer, stop: Stop) -> None:
    """Runs the rest of an epoch."""
    recipe, place, module = pretraining.recipe, pretraining.place, pretraining.module
    name = recipe.pretrain.method
    settings, per_epoch, count = recipe.train, pretraining.steps_per_epoch, pretraining.count
    per_step = settings.batch_size * settings.accumulate
    title = f"{name} {place.epoch + 1}/{recipe.train.epochs}"
    pretraining.batches.begin(place.epoch, place.batch)
    timer.begin_epoch(1 - place.loss_count / count)
    bar: tqdm[Any]
    with console.progress(total=count, what=title, done=place.loss_count) as bar:
        for batch in timer.over(dataset.begun(pretraining.loader)):
            # data
            if isinstance(batch, PluginError):
                raise models.broken("pretrainer", name, batch.what) from batch
            if isinstance(batch, FxError):
                raise batch
            size = len(batch[0])
            if size < MIN_BATCH:
                continue
            views = tuple(pretraining.compute.send(pretraining.preprocessing.normalise(view)) for view in batch)
            if place.batch % settings.accumulate == 0:
                randomness.seed_everything(recipe.seed, "step", place.step)
            # forward and loss
            with pretraining.compute.autocast(), trial.of_plugin("pretrainer", name, "loss"):
                loss = pretraining.method.loss(views)
            trial.check_losses("pretrainer", name, {"loss": loss})
            value = finite(loss, place.step)
            spread = methods.embedding_spread(name, module, place.step)
            # backward: each batch counts by its share of the pictures of its step
            first = place.batch // settings.accumulate * per_step
            (loss * (size / min(per_step, count - first))).backward()  # type: ignore[no-untyped-call]
            place.batch += 1
            place.loss_sum, place.loss_count = place.loss_sum + value * size, place.loss_count + size
            if spread is not None:
                place.spread_sum, place.spread_count = place.spread_sum + spread * size, place.spread_count + size
            bar.update(size)
            if place.batch % settings.accumulate and place.loss_count < count:
                continue
            # step
            rate = optim.rate(recipe.schedule, place.step, per_epoch * recipe.train.epochs, per_epoch)
            optim.step(pretraining.optimizer, module, recipe.optim, rate)
            place.step += 1
            with trial.of_plugin("pretrainer", name, "after_step"):
                pretraining.method.after_step(place.step / (per_epoch * recipe.train.epochs))
            # log
            bar.set_postfix(loss=f"{place.loss_sum / place.loss_count:.3f}", refresh=False)
            # save
            timer.pause()
            is_asked = stop.asked
            if timer.is_due(recipe.train.save_every_min) or is_asked:
                _save(pretraining, run, timer)
            # stop
            if is_asked:
                raise stop.interrupted(run, place.step)
            if timer.is_over(recipe.train.max_minutes):
                place.done = True
                break


def _end_epoch(
    pretraining: Pretraining, run: Run, log: Log, timer: Timer, spent: Mapping[str, float], stop: Stop
) -> None:
    """Looks, where it is time for it, logs and saves; `spent` are the seconds of the epoch.

    Raises:
        RunError: Features or embeddings have collapsed.
    """
    place, epochs = pretraining.place, pretraining.recipe.train.epochs
    # evaluate
    every = pretraining.recipe.train.look_every
    is_due = every and ((place.epoch + 1) % every == 0 or place.epoch + 1 == epochs or place.done)
    found = _look(pretraining, run, timer, stop) if is_due else {}
    place.loss, learnt = place.loss_sum / max(1, place.loss_count), {}
    if place.spread_count:
        learnt["embedding_spread"] = place.spread_sum / place.spread_count
        place.flat_epochs = place.flat_epochs + 1 if watch.is_flat(learnt["embedding_spread"]) else 0
    place.epoch, place.batch = place.epoch + 1, 0
    place.loss_sum, place.loss_count, place.spread_sum, place.spread_count = 0.0, 0, 0.0, 0
    # log
    waited, computed = round(spent["data_wait_s"], 2), round(spent["compute_s"], 2)
    values = {"epoch": place.epoch, "train_loss": place.loss, **learnt, "seconds": round(timer.spent_s, 1)}
    log.write(place.step, {**values, **found, "data_wait_s": waited, "compute_s": computed})
    run.update(epoch=place.epoch, seconds={name: round(value, 1) for name, value in timer.totals.items()})
    minutes = timer.left_min(epochs - place.epoch, pretraining.recipe.train.max_minutes)
    ahead = "" if minutes is None else f"  {minutes:.1f} min left"
    times = f"data {waited:.1f} s, compute {computed:.1f} s"
    _tell(pretraining, run, {"train_loss": place.loss, **learnt, **found}, f"  {times}{ahead}")
    # stop: before it is saved, so that no resume gets past it
    if every and "embedding_spread" in learnt:
        watch.check_embeddings(learnt["embedding_spread"], place.flat_epochs)
    # Else another step would be looked at, too.
    place.done = place.done or timer.is_over(pretraining.recipe.train.max_minutes)
    # save
    _save(pretraining, run, timer)


def _tell(pretraining: Pretraining, run: Run, found: Mapping[str, float], rest: str = "") -> None:
    """A line for people and for the run's log."""
    place = pretraining.place
    shown = " ".join(f"{name} {value:.3f}" for name, value in found.items())
    console.note(f"{place.epoch}/{pretraining.recipe.train.epochs}  {shown}{rest}")
    run.log(f"epoch {place.epoch} {shown}")


def _look(pretraining: Pretraining, run: Run, timer: Timer, stop: Stop) -> dict[str, float]:
    """What the backbone is worth now. Stopped meanwhile, the epoch is not over, and a resume looks again."""
    place = pretraining.place

    def check() -> None:
        if stop.asked:
            _save(pretraining, run, timer)
            raise stop.interrupted(run, place.step)

    session.check_weights(pretraining.module, place.step)
    return pretraining.watch.look(pretraining.method.backbone, check, may_be_collapsed=place.is_start)


def _save(pretraining: Pretraining, run: Run, timer: Timer) -> None:
    place = pretraining.place
    session.check_weights(pretraining.module, place.step)
    place.__dict__.update(timer.totals)
    tensors = session.tensors_of(pretraining.module, pretraining.optimizer)
    checkpoint.save_state(run.state_file, tensors, session.header(place, pretraining.recipe))
    timer.saved()
    hardware.held.give_back()


def _restore(pretraining: Pretraining, run: Run) -> None:
    tensors, header = checkpoint.load_state(run.state_file)
    session.take_over(pretraining.place, header, pretraining.recipe, run.state_file)
    with session.fitting():
        session.put_back(tensors, pretraining.module, pretraining.optimizer)
