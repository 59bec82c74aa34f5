"""What every loop needs around its steps: a start, a stop that saves first, a clock, the metrics file, averages."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fxcli.console import console
from fxcli.data.manifest import Manifest
from fxcli.data.preprocess import Preprocessing
from fxcli.errors import Interrupted, ModelFileError, RunError
from fxcli.model import classifier as models
from fxcli.model import init
from fxcli.model.classifier import Classifier
from fxcli.model.init import Origin
from fxcli.recipe.load import resolved_yaml
from fxcli.recipe.schema import ClassifyRecipe, PretrainRecipe
from fxcli.recipe.tasks import TrainRecipe
from fxcli.run import provenance, randomness
from fxcli.run.directory import Run
from fxcli.run.files import append_line, write_text
from fxcli.training import optim
from fxcli.zoo.plugins import Zoo
from fxcli.zoo.specs import BackboneSpec

T = TypeVar("T")

DIVERGED = "start a new run with a lower optim.lr, or with optim.clip_norm; the last checkpoint of this one is intact"


def start(
    recipe: ClassifyRecipe | PretrainRecipe,
    manifest: Manifest,
    spec: BackboneSpec,
    num_classes: int,
    origin: Origin | None = None,
) -> tuple[Classifier, Preprocessing]:
    """The network as `model.init` starts it, on the CPU, and what its pictures go through; see `started`.

    Raises:
        FxError: See `init.initialise`.
    """
    seed, side_px = randomness.derive(recipe.seed, "init"), size_px(recipe, spec)
    network = models.build(spec, recipe.model, side_px, num_classes, seed)
    return network, started(recipe, manifest, spec, network.backbone, origin)


def size_px(recipe: TrainRecipe, spec: BackboneSpec) -> int:
    """The side of the input: the recipe's, or the backbone's own."""
    return recipe.data.image_size_px or init.input_of(spec, recipe.model.init).size_px


def started(
    recipe: TrainRecipe, manifest: Manifest, spec: BackboneSpec, backbone: nn.Module, origin: Origin | None = None
) -> Preprocessing:
    """Starts a backbone, and tells what its pictures go through.

    Args:
        recipe: Of the training.
        manifest: Likewise.
        spec: Of the backbone.
        backbone: Changed in place.
        origin: What it starts from; None: what `model.init` means now.

    Raises:
        FxError: See `init.initialise`.
    """
    seen = init.initialise(spec, backbone, origin or recipe.model.init)
    return Preprocessing(
        clean=manifest.clean(),
        image_size_px=size_px(recipe, spec),
        resize=recipe.data.resize,
        mean=seen.mean,
        std=seen.std,
        interpolation=seen.interpolation,
    )


def finite(loss: Tensor, step: int) -> float:
    """The value of a loss.

    Raises:
        RunError: It is not finite.
    """
    value = loss.item()
    if not math.isfinite(value):
        raise RunError(
            f"the loss is {value} at step {step}",
            hint=DIVERGED,
        )
    return value


def check_weights(module: nn.Module, step: int) -> None:
    """Looks at the weights before they are saved or measured: a step can spoil them although its loss was finite.

    Raises:
        RunError: One of them is not finite.
    """
    if not all(bool(value.isfinite().all()) for value in module.parameters()):
        raise RunError(f"the weights are no longer finite after step {step}", hint=DIVERGED)


def digest_of(recipe: TrainRecipe) -> str:
    """What runs, model files and resume states say of their recipe."""
    return provenance.digest(resolved_yaml(recipe))


def out_of_time(run: Run, where: str) -> None:
    """Says, for people and in the run, that `train.max_minutes` ended it, and where."""
    story = f"train.max_minutes ended the training {where}"
    console.warn(story)
    run.log(story)
    run.update(ended_by=story)


def tensors_of(module: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    """What a resume state keeps of a network and its optimizer, for `put_back`."""
    tensors = {f"model.{key}": value for key, value in module.state_dict().items()}
    if optimizer:
        tensors |= {f"optim.{key}": value for key, value in optim.state_tensors(optimizer).items()}
    return tensors


def put_back(tensors: Mapping[str, Tensor], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts it back; to be called within `fitting`."""
    module.load_state_dict(named(tensors, "model."))
    optim.load_state(optimizer, named(tensors, "optim."))


def named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin so, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


@contextlib.contextmanager
def in_eval(module: nn.Module) -> Iterator[None]:
    """The module in eval mode; afterwards each part of it is as it was."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def header(place: Any, recipe: TrainRecipe) -> dict[str, Any]:
    """Of a resume state, for `take_over`."""
    return {"place": asdict(place), "recipe_sha256": digest_of(recipe)}


def take_over(place: Any, header: Mapping[str, Any], recipe: TrainRecipe, file: Path) -> None:
    """Puts the saved place of a resume state into a dataclass of defaults.

    Raises:
        ModelFileError: The state is damaged, or of another recipe.
    """
    saved, known = header.get("place"), asdict(place)
    if not isinstance(saved, dict) or saved.keys() != known.keys():
        raise ModelFileError("this resume state is of another version of fx, or damaged: place", where=file)
    for name, value in saved.items():
        kind = type(known[name])
        kinds = (float, int, type(None)) if known[name] is None else (float, int) if kind is float else (kind,)
        is_kind = type(value) in kinds and not (kind is int and value < 0)
        if not is_kind or (kind is dict and any(type(each) is not float for each in value.values())):
            raise ModelFileError(f"this resume state is damaged: {name}", where=file)
    # Those of an older fx do not say.
    if header.get("recipe_sha256") not in (None, digest_of(recipe)):
        raise ModelFileError("this resume state is of another recipe", where=file)
    place.__dict__.update(saved)


@contextlib.contextmanager
def fitting() -> Iterator[None]:
    """Tells of a resume state whose tensors do not fit the training."""
    try:
        yield
    except (RuntimeError, KeyError, ValueError) as error:
        raise ModelFileError(
            f"the resume state of this run does not fit it: {str(error).partition(chr(10))[0]}",
            hint="start a new run; what it had reached is in checkpoints/best",
        ) from error


class Stop:
    """Turns Ctrl-C and SIGTERM into a flag that the loop looks at between steps; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for name in (signal.SIGINT, signal.SIGTERM):
                self._before[name] = signal.signal(name, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def interrupted(self, run: Run, step: int) -> Interrupted:
        """What the loop raises once it has saved."""
        hint = f"fx train --resume {shlex.quote(str(run.path))}"
        return Interrupted(f"stopped at step {step}; everything is saved", hint=hint)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            # A scheduler sends SIGTERM to every process of a job, and torchrun passes its own on to them.
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.asked = True
        console.note("stopping after this step; another Ctrl-C stops at once, without saving")


class Timer:
    """Seconds of the run, over all its resumes, those of its steps by what they went to, and those since the last save.

    Args:
        spent_s: Before this resume, of the whole run.
        data_wait_s: Likewise, waiting for batches.
        compute_s: Likewise, from a batch to the end of its step. Validating, saving and the like is neither.
    """

    def __init__(self, spent_s: float = 0.0, data_wait_s: float = 0.0, compute_s: float = 0.0) -> None:
        self._start = time.monotonic() - spent_s
        self._saved = time.monotonic()
        self.data_wait_s, self.compute_s = data_wait_s, compute_s
        self._computing: float | None = None
        self.begin_epoch()

    def begin_epoch(self, share: float = 1.0) -> None:
        """Notes that an epoch begins, or after a resume what is left of one: this share of its steps."""
        self._epoch, self._share = self.spent_s, share
        self._stepped: float | None = None

    def end_steps(self) -> None:
        """Notes that the steps of the epoch are through; validating follows."""
        self._stepped = self.spent_s

    def is_over(self, max_minutes: float | None) -> bool:
        """Whether the run took so many minutes; never where none are said."""
        return max_minutes is not None and self.spent_s >= max_minutes * 60

    def left_min(self, epochs: int, max_minutes: float | None) -> float | None:
        """Minutes that so many more of such epochs take, and no more than are allowed; None: their pace is unknown."""
        if self.epoch_s is None:
            return None
        return min(self.epoch_s * epochs / 60, max(0.0, (max_minutes or math.inf) - self.spent_s / 60))

    @property
    def epoch_s(self) -> float | None:
        """Seconds that the whole of such an epoch takes; None where no step of it was seen."""
        steps_s = (self._stepped or self.spent_s) - self._epoch
        return steps_s / self._share + self.spent_s - self._epoch - steps_s if self._share else None

    def over(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; what follows each is computing, until `pause` or the next one is asked for."""
        while True:
            self.pause()
            started = time.monotonic()
            batch = next(batches, None)
            self.data_wait_s += time.monotonic() - started
            if batch is None:
                return
            self._computing = time.monotonic()
            yield batch

    def pause(self) -> None:
        """Ends the computing, for something else or for good."""
        if self._computing is not None:
            self.compute_s += time.monotonic() - self._computing
        self._computing = None

    @property
    def totals(self) -> dict[str, float]:
        """What a place keeps, for the next resume."""
        return {"spent_s": self.spent_s, "data_wait_s": self.data_wait_s, "compute_s": self.compute_s}

    @property
    def spent_s(self) -> float:
        """Seconds of training so far."""
        return time.monotonic() - self._start

    def is_due(self, every_min: float) -> bool:
        """Whether the last save is that long ago."""
        return time.monotonic() - self._saved >= every_min * 60

    def saved(self) -> None:
        """Notes a save."""
        self._saved = time.monotonic()


class Log:
    """metrics.jsonl and the trackers of plugins.

    Args:
        run: Where to.
        zoo: Its plugins' fx_start_run and fx_log_metrics are called.
        keep_epochs: On a resume, the lines of later epochs are cut: they will be made again.
        is_kept: False of a process that only takes part: another one writes.
    """

    def __init__(self, run: Run, zoo: Zoo, *, keep_epochs: int = 0, is_kept: bool = True) -> None:
        self.run, self.zoo = run, zoo
        if not is_kept:
            return
        file = run.metrics_file
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        kept = [line for line in lines if _epoch_of(line) <= keep_epochs]
        write_text(file, "".join(line + "\n" for line in kept))
        zoo.start_run(run.path)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one object."""
        append_line(self.run.metrics_file, json.dumps({"step": step, **values}, allow_nan=False))
        scalars = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        self.zoo.log_metrics(self.run.path, step, scalars)


def _epoch_of(line: str) -> float:
    """The epoch of a line of metrics.jsonl; a line cut short by a crash counts as never reached."""
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class Average:
    """Exponential moving average of a module's weights and buffers (Polyak & Juditsky 1992).

    Args:
        module: Averaged from its present state on; what of it is frozen now stays so.
        decay: Per step; early steps use (1 + n) / (10 + n) where that is smaller.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self._frozen = {name for name, value in module.named_parameters() if not value.requires_grad}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Moves towards the module's present weights; whole numbers are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            if name in self._frozen:
                continue
            if value.is_floating_point():
                self.values[name].lerp_(value, 1 - decay)
            else:
                self.values[name].copy_(value)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Puts saved values back."""
        for name, value in values.items():
            self.values[name].copy_(value)
