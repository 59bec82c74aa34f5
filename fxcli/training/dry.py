"""`fx train --dry-run`: two real steps of each phase, for an estimate of time and memory. Makes no run."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fxcli.console import console
from fxcli.data import dataset
from fxcli.data.manifest import Manifest
from fxcli.model import hardware
from fxcli.recipe.detection import DetectRecipe
from fxcli.recipe.schema import ClassifyRecipe
from fxcli.run.directory import Run
from fxcli.training import ensemble, job, loop
from fxcli.training.session import Timer
from fxcli.training.state import AnyTraining, Place
from fxcli.zoo.plugins import load_zoo


def estimate(recipe: ClassifyRecipe | DetectRecipe, manifest: Manifest) -> tuple[list[dict[str, Any]], int]:
    """What `run` gives of the first training that a recipe asks for, and how many it asks for.

    Raises:
        FxError: One of them could not begin, as `job.check` and `job.build` say.
    """
    parts = []
    if isinstance(recipe, ClassifyRecipe):
        job.check(recipe, manifest)
        parts = ensemble.parts(recipe, manifest, Run(Path()))
    compute = hardware.compute(recipe.hardware, training=True)
    training = job.build(recipe, parts[0].manifest if parts else manifest, compute, load_zoo(), {})
    with dataset.attended():
        return run(training), len(parts) or 1


def run(training: AnyTraining) -> list[dict[str, Any]]:
    """Times the second of two optimizer steps in each phase.

    Returns:
        Per phase: phase, epochs, images_per_s, minutes (training alone, up to train.max_minutes), memory_mib (peak of
        the process, or of the GPU; None where the system does not tell).
    """
    rows: list[dict[str, Any]] = []
    for index, (name, phase) in enumerate(training.phases):
        training.place = Place(phase=index)
        loop.set_up(training, {})
        feed = training.task.feed(training, None)
        count = feed.batches.count
        steps = loop.steps(training, feed, Timer())
        before, done = time.perf_counter(), 0
        next(steps)
        if training.place.loss_count < count:
            # The first step also starts processes and warms the machine up: it counts only where it is the only one.
            before, done = time.perf_counter(), training.place.loss_count
            next(steps)
        rate = (training.place.loss_count - done) / (time.perf_counter() - before)
        steps.close()
        dataset.ended(feed.loader)
        minutes = count * training.task.passes(training, phase) / rate / 60
        if minutes > (left := _left_min(rows, phase.train.max_minutes)) > 0:
            what = f"{phase.train.epochs} epochs take {minutes:.1f} minutes"
            console.warn(f"train.max_minutes ends the training in phase {name}, whose {what}")
        rows.append(
            {
                "phase": name,
                "epochs": phase.train.epochs,
                "images_per_s": rate,
                "minutes": min(minutes, left),
                "memory_mib": _peak_memory_mib(training.compute.device),
            }
        )
    return rows


def _left_min(rows: Sequence[dict[str, Any]], max_minutes: float | None) -> float:
    """Minutes that are left to a phase after those before it."""
    spent = math.fsum(row["minutes"] for row in rows)
    return max(0.0, (max_minutes or math.inf) - spent)


def _peak_memory_mib(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
