"""What is not fx's own in training: tried before hours are spent, and told as its plugin's where it goes wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from fxcli.console import console
from fxcli.data.dataset import is_lost_worker
from fxcli.errors import FxError, RecipeError, memory_used_up
from fxcli.model import classifier as models
from fxcli.model import freeze
from fxcli.recipe.detection import DetectRecipe
from fxcli.recipe.schema import ClassifyRecipe
from fxcli.training import session
from fxcli.zoo.specs import BackboneSpec


@contextlib.contextmanager
def of_plugin(kind: str, name: str, what: str) -> Iterator[None]:
    """Around a plugin's code, which prints to stderr. `kind` and `name` as of `models.built`; `what` of it fails.

    Raises:
        PluginError: It does.
    """
    try:
        with console.aside():
            yield
    except FxError:
        raise
    except Exception as error:
        # torch tells of a lost worker in whatever runs then.
        if memory_used_up(error) or (isinstance(error, RuntimeError) and is_lost_worker(error)):
            raise
        raise models.broken(kind, name, f"{what} failed: {type(error).__name__}: {error}") from error


def check_losses(kind: str, name: str, found: object) -> None:
    """Whether a plugin gave losses that can be learnt from: numbers of torch, by name, of which one has a gradient.

    Raises:
        PluginError: It gave something else.
    """
    losses = list(found.values()) if isinstance(found, Mapping) else []
    if not losses or not all(isinstance(loss, Tensor) and loss.ndim == 0 for loss in losses):
        told = {key: _told(value) for key, value in found.items()} if isinstance(found, Mapping) else _told(found)
        raise models.broken(kind, name, f"its loss is {told}, not a tensor of one number")
    if not any(loss.requires_grad for loss in losses):
        raise models.broken(kind, name, "its loss has no gradient: nothing would be learnt")


def _told(value: object) -> str:
    return f"of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def last_batch(recipe: ClassifyRecipe | DetectRecipe, spec: BackboneSpec, counts: Collection[int]) -> None:
    """Runs the backbone on one picture as each phase trains it that would leave one to its last batch.

    Args:
        recipe: Of the training, or of several.
        spec: Of its backbone.
        counts: Pictures of an epoch of each.

    Raises:
        RecipeError: BatchNorm needs more than one number of each channel, and has one: it would fail after an epoch.
    """
    for name, phase in recipe.phases.items():
        size = phase.train.batch_size
        left = next((count for count in counts if (count - 1) % size == 0), None)
        if left is None or phase.model.bn == "eval" or phase.model.freeze == "all":
            continue
        side_px = session.size_px(recipe, spec)
        backbone = models.build_backbone(spec, recipe.model, side_px, 0)
        freeze.apply(backbone, backbone, spec, phase.model)
        try:
            with torch.no_grad():
                backbone(torch.zeros(1, 3, side_px, side_px))
        except ValueError as error:
            what = f"{left} pictures in batches of {size} leave a last one of a single picture"
            raise RecipeError(
                [f"phases.{name}.train.batch_size: {what}, from which {spec.name} cannot learn here: {error}"],
                recipe=recipe.name,
                hint="another train.batch_size, or model.bn=eval",
            ) from error
