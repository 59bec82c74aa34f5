"""THE loop: trains a network through the phases of a recipe. Called by job; what is special to a task is in its Task.

Sections, in every loop of fx: data → forward and loss → backward → step → log → evaluate → save → stop.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from fxcli.console import console
from fxcli.data import dataset
from fxcli.errors import FxError
from fxcli.model import freeze, hardware
from fxcli.recipe.tasks import AnyPhase
from fxcli.run import checkpoint, randomness
from fxcli.run.directory import Run
from fxcli.training import optim, session, state
from fxcli.training.session import Average, Log, Stop, Timer, check_weights, finite
from fxcli.training.state import AnyTraining, Feed, Place

# Minutes after the last save at which the end of an epoch makes one.
EPOCH_SAVE_MIN = 1 / 3
# What people are told of each epoch, by how its name ends; the rest is in metrics.jsonl.
SHOWN = ("loss", "acy", "_f1", "ap50", "auroc")


def train(training: AnyTraining, run: Run, *, resume: bool) -> dict[str, Any]:
    """Trains through all phases and writes model.safetensors.

    Returns:
        The validation figures of the model that is kept ({} without a validation part).

    Raises:
        Interrupted: After saving, when the user stopped it.
        RunError: The loss is no longer finite.
    """
    place = training.place
    tensors = state.resumed(training, run) if resume else {}
    timer = Timer(place.spent_s, place.data_wait_s, place.compute_s)
    log = Log(run, training.zoo, keep_epochs=place.epoch, is_kept=training.world.is_first)
    with Stop() as stop:
        while place.phase < len(training.phases):
            if not tensors and place.phase_step == 0:
                _start_phase(training, run)
            name, phase = training.phases[place.phase]
            is_cut = _phase(training, run, log, timer, stop, tensors)
            tensors = {}
            reached = f"in epoch {place.phase_epoch} of {phase.train.epochs} of phase {name}"
            training.place = place = Place(phase=place.phase + 1, epoch=place.epoch, step=place.step)
            place.__dict__.update(timer.totals)
            (is_over,) = training.world.any(timer.is_over(phase.train.max_minutes))
            later = [name for name, _ in training.phases[place.phase :]]
            if is_over:
                if (is_cut or later) and training.world.is_first:
                    rest = f"; not run: {', '.join(later)}" if later else ""
                    session.out_of_time(run, f"{reached if is_cut else f'after phase {name}'}{rest}")
                break
    return training.task.finish(training, run) if training.world.is_first else {}


def _start_phase(training: AnyTraining, run: Run) -> None:
    """Loads the weights that a later phase starts from."""
    index = training.place.phase
    if index == 0:
        return
    (_, before), (_, phase) = training.phases[index - 1], training.phases[index]
    if phase.start == "best" and before.train.monitor != "none":
        weights, _ = checkpoint.load_model_file(run.best_file)
        training.model.network.load_state_dict(weights)
    elif training.average:
        training.model.network.load_state_dict(training.average.values)


def _phase(training: AnyTraining, run: Run, log: Log, timer: Timer, stop: Stop, tensors: dict[str, Tensor]) -> bool:
    """Runs the rest of a phase; whether its time was up before it was through."""
    place, is_cut = training.place, False
    _, phase = training.phases[place.phase]
    set_up(training, tensors)
    if not tensors and place.phase > 0:
        # The phase will overwrite the best model that it started from.
        _save(training, run, timer)
    if place.done or place.phase_epoch == phase.train.epochs:
        # Resumed at its very end.
        return place.phase_epoch < phase.train.epochs and timer.is_over(phase.train.max_minutes)

    def check() -> None:
        if stop.asked:
            raise stop.interrupted(run, place.step)

    feed = training.task.feed(training, check)
    hardware.held.give_back(at_once=True)
    count = feed.batches.count
    with contextlib.ExitStack() as stack:
        stack.callback(dataset.ended, feed.loader)
        if feed.story and training.world.is_first:
            console.note(feed.story)
            run.log(feed.story)
        if feed.is_light:
            stack.enter_context(hardware.one_thread())
        while not place.done and place.phase_epoch < phase.train.epochs:
            feed.batches.begin(place.epoch, place.batch)
            started, before = timer.totals, place.loss_count
            timer.begin_epoch(1 - before / count)
            for _ in steps(training, feed, timer):
                is_asked, is_over = training.world.any(stop.asked, timer.is_over(phase.train.max_minutes))
                if timer.is_due(phase.train.save_every_min) or is_asked or is_over:
                    _save(training, run, timer)
                if is_asked:
                    # The first one has saved before any of them leaves.
                    training.world.heard(None)
                    raise stop.interrupted(run, place.step)
                if is_over:
                    is_cut = place.loss_count < count or place.phase_epoch + 1 < phase.train.epochs
                    place.done = True
                    break
            timer.end_steps()
            seen = place.loss_count - before
            speed = {name: value - started[name] for name, value in timer.totals.items()}
            spent_s = speed.pop("spent_s")
            if seen:
                # Gone on with after the last step of an epoch, it has nothing left to see.
                speed["images_per_s"] = seen / max(1e-9, spent_s)
            _end_epoch(training, run, log, timer, feed, speed)
            is_asked, is_over = training.world.any(stop.asked, timer.is_over(phase.train.max_minutes))
            if is_over and not place.done and place.phase_epoch < phase.train.epochs:
                # Another step would have to be measured, too.
                is_cut = place.done = True
            is_last = place.done or place.phase_epoch == phase.train.epochs
            # Here a save costs no step; but one an epoch would take longer than a short epoch does.
            if timer.is_due(min(phase.train.save_every_min, EPOCH_SAVE_MIN)) or is_last or is_asked:
                _save(training, run, timer)
            if is_asked:
                training.world.heard(None)
                raise stop.interrupted(run, place.step)
    return is_cut


def set_up(training: AnyTraining, tensors: Mapping[str, Tensor]) -> None:
    """Sets a phase up: freezing, optimizer, averaged weights; `tensors` of a resume state are put back."""
    model = training.model
    _, phase = training.phases[training.place.phase]
    training.task.freeze(training, phase)
    groups = freeze.parameter_groups(model.network, model.backbone, model.spec, phase.optim)
    training.optimizer = optim.make(phase.optim, groups)
    training.average = Average(model.network, phase.train.ema) if phase.train.ema else None
    state.restore(training, tensors)
    training.world.spread(model.network)


def steps(training: AnyTraining, feed: Feed, timer: Timer) -> Generator[None, None, None]:
    """Runs the rest of an epoch and yields after each optimizer step; `timer` is told what the time goes to."""
    place, optimizer, count, world = training.place, training.optimizer, feed.batches.count, training.world
    name, phase = training.phases[place.phase]
    settings = phase.train
    per_epoch = math.ceil(count / settings.batch_size)
    steps_per_epoch = math.ceil(per_epoch / settings.accumulate)
    title = f"{name} {place.phase_epoch + 1}/{settings.epochs}"
    sums: dict[str, float] = {}
    bar: tqdm[Any] = console.progress(total=count, what=title, done=place.batch * settings.batch_size)
    with bar:
        for batch in timer.over(dataset.begun(feed.loader)):
            # data
            if isinstance(batch, FxError):
                raise batch
            if place.batch % settings.accumulate == 0:
                randomness.seed_everything(training.recipe.seed, "step", place.step, *world.apart)
            # forward and loss
            losses = feed.losses(batch)
            loss = torch.stack(tuple(losses.values())).sum()
            told = {"loss": finite(loss, place.step)}
            if len(losses) > 1:
                told |= {f"loss_{name}": part.item() for name, part in losses.items()}
            # backward: gradients of a group of batches add up, so each counts by its share of the group's pictures
            first = (place.batch - place.batch % settings.accumulate) * settings.batch_size
            group = min(settings.accumulate * settings.batch_size, count - first)
            size = min(settings.batch_size, count - place.batch * settings.batch_size)
            (loss * (world.part(size) / group)).backward()
            place.batch += 1
            sums = {name: sums.get(name, 0.0) + value * world.part(size) for name, value in told.items()}
            place.loss_count += size
            bar.update(size)
            if place.batch % settings.accumulate and place.batch < per_epoch:
                continue
            # step
            for name, value in world.add_up(training.model.network, sums).items():
                place.loss_sums[name] = place.loss_sums.get(name, 0.0) + value
            sums = {}
            factor = optim.rate(phase.schedule, place.phase_step, steps_per_epoch * settings.epochs, steps_per_epoch)
            _step(training, phase, optimizer, factor)
            # log
            bar.set_postfix(loss=f"{place.loss_sums['loss'] / place.loss_count:.3f}", refresh=False)
            timer.pause()
            yield


def _step(training: AnyTraining, phase: AnyPhase, optimizer: torch.optim.Optimizer | None, factor: float) -> None:
    place, network = training.place, training.model.network
    if optimizer is None:
        raise FxError("a step before set_up")
    optim.step(optimizer, network, phase.optim, factor)
    place.phase_step, place.step = place.phase_step + 1, place.step + 1
    if training.average:
        training.average.update(network, place.phase_step)


def _end_epoch(training: AnyTraining, run: Run, log: Log, timer: Timer, feed: Feed, speed: Mapping[str, float]) -> None:
    """Evaluates, keeps the best, logs, and decides whether the phase goes on; `speed` is of the epoch, as logged."""
    if training.world.is_first:
        _measure_epoch(training, run, log, timer, feed, speed)
    training.place.__dict__.update(training.world.heard(training.place.__dict__))


def _measure_epoch(
    training: AnyTraining, run: Run, log: Log, timer: Timer, feed: Feed, speed: Mapping[str, float]
) -> None:
    place = training.place
    name, phase = training.phases[place.phase]
    check_weights(training.model.network, place.step)
    place.epoch, place.phase_epoch, place.batch = place.epoch + 1, place.phase_epoch + 1, 0
    values: dict[str, Any] = {
        "phase": name,
        "epoch": place.epoch,
        **{f"train_{name}": value / place.loss_count for name, value in place.loss_sums.items()},
    }
    place.loss_sums, place.loss_count = {}, 0
    # evaluate
    with state.evaluated(training):
        figures = feed.validate()
        names = (name for name in training.task.logged if name in figures)
        values |= {f"val_{name.replace('nll', 'loss')}": figures[name] for name in names}
        score = _score(phase.train.monitor, values)
        if score is not None and (place.best is None or score > place.best):
            place.best, place.best_epoch, place.stale = score, place.epoch, 0
            training.model.info["epoch"] = place.epoch
            training.model.save(run.best_file)
        else:
            place.stale += 1
    # log
    values |= {name: round(value, 2) for name, value in speed.items()} | {"seconds": round(timer.spent_s, 1)}
    log.write(place.step, values)
    _tell(training, run, timer, values)
    # stop
    if phase.train.patience and phase.train.monitor != "none" and place.stale >= phase.train.patience:
        story = f"{name}: no improvement for {place.stale} epochs; the phase ends"
        console.note(story)
        run.log(story)
        place.done = True


def _tell(training: AnyTraining, run: Run, timer: Timer, values: Mapping[str, Any]) -> None:
    """Shows people what was logged of an epoch, and puts where the run stands into run.json."""
    place = training.place
    name, phase = training.phases[place.phase]
    # A score is larger when better: only the sign of a loss was turned.
    best = None if place.best is None else abs(place.best)
    seconds = {key: round(value, 1) for key, value in timer.totals.items()}
    run.update(epoch=place.epoch, monitor=phase.train.monitor, best=best, best_epoch=place.best_epoch, seconds=seconds)
    shown = " ".join(f"{key} {value:.3f}" for key, value in values.items() if key.endswith(SHOWN))
    speed = f"{values['images_per_s']:.0f} img/s " if "images_per_s" in values else ""
    times = f"data {values['data_wait_s']:.1f} s, compute {values['compute_s']:.1f} s"
    progress = f"{place.phase_epoch}/{phase.train.epochs}"
    console.note(f"{name} {progress}  {shown}  {speed}({times}){_ahead(training, timer)}")
    run.log(f"epoch {place.epoch} ({name}) {shown}")


def _ahead(training: AnyTraining, timer: Timer) -> str:
    """What is left of a phase at the pace of its last epoch, and the phases after it."""
    place = training.place
    _, phase = training.phases[place.phase]
    if timer.is_over(phase.train.max_minutes):
        return "  0.0 min left"
    # How long the epochs of others take is not known: other parts of the network learn in them.
    later = [name for name, _ in training.phases[place.phase + 1 :]]
    told = [f"then {', '.join(later)}"] if later else []
    minutes = timer.left_min(phase.train.epochs - place.phase_epoch, phase.train.max_minutes)
    if minutes is not None:
        told.insert(0, f"{minutes:.1f} min left")
    return f"  {', '.join(told)}" if told else ""


def _score(monitor: str, values: dict[str, Any]) -> float | None:
    if monitor == "none":
        return None
    value = float(values[monitor])
    return -value if monitor == "val_loss" else value


def _save(training: AnyTraining, run: Run, timer: Timer) -> None:
    training.place.__dict__.update(timer.totals)
    if training.world.is_first:
        state.save(training, run)
    timer.saved()
    hardware.held.give_back()
