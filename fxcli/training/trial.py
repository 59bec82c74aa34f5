"""What is not fx's own in training: tried before hours are spent, and told as its plugin's where it goes wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from fxcli.console import console
from fxcli.data.dataset import is_lost_worker
from fxcli.errors import FxError, RecipeError, memory_used_up
from fxcli.model import classifier as models
from fxcli.model import freeze
from fxcli.model.detector import TrainedDetector
from fxcli.model.hardware import Compute
from fxcli.recipe.detection import DetectRecipe
from fxcli.recipe.schema import ClassifyRecipe, PhaseModel, PretrainRecipe
from fxcli.recipe.tasks import TrainRecipe
from fxcli.run.launch import processes
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


def backbone(recipe: TrainRecipe, spec: BackboneSpec, compute: Compute) -> None:
    """Builds a backbone anew, shows it a picture, and lets it learn from two, as each phase trains it.

    Args:
        recipe: Of the training.
        spec: Of the backbone.
        compute: Where it computes.

    Raises:
        PluginError: It fails, or gives something else than its spec says.
    """
    name, side_px = recipe.model.backbone, session.size_px(recipe, spec)
    # Not the one that is trained: in training mode it may change, by BatchNorm's statistics.
    module = compute.place(models.build_backbone(spec, recipe.model, side_px, seed=0)).eval()
    if left := freeze.left_out(module, spec):
        raise models.broken("backbone", name, left)
    before = _shapes("backbone", name, module)
    pictures = compute.send(torch.zeros(2, 3, side_px, side_px))
    with of_plugin("backbone", name, f"seeing a picture of {side_px} px"), torch.no_grad(), compute.autocast():
        found = module(pictures[:1])
    shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
    if not isinstance(shape, list) or len(shape) != 4 or shape[:2] != [1, spec.num_features]:
        raise models.broken("backbone", name, f"of one picture it gives {shape}, not [1, {spec.num_features}, h, w]")
    phases = [] if isinstance(recipe, PretrainRecipe) else [phase.model for phase in recipe.phases.values()]
    ways = {(way.freeze, way.bn): way for way in phases or [PhaseModel()]}
    drawn_by = [compute.device] if compute.device.type == "cuda" else []
    for way in ways.values():
        if freeze.is_frozen(spec, way.freeze):
            continue
        freeze.apply(module, module, spec, way)
        with of_plugin("backbone", name, f"learning from pictures of {side_px} px"), torch.random.fork_rng(drawn_by):
            with compute.autocast():
                found = module(pictures)
            if found.requires_grad:
                found.sum().backward()
        if not found.requires_grad:
            raise models.broken("backbone", name, "what it gives in training has no gradient: nothing would be learnt")
    _check_shapes("backbone", name, module, before)


def detector(model: TrainedDetector, compute: Compute) -> None:
    """Shows a detector a picture, as validation will after the first epoch.

    Raises:
        PluginError: It fails, gives something else than boxes, labels and scores, or could not be read from a file.
    """
    name, side_px = model.network.name, model.preprocessing.image_size_px
    before = _shapes("detector", name, model.network.eval())
    # Not in inference mode: anchors that a network keeps must be of use in training.
    with torch.no_grad(), console.aside():
        model.network(compute.send(torch.zeros(1, 3, side_px, side_px)))
    _check_shapes("detector", name, model.network, before)


def _shapes(kind: str, name: str, module: nn.Module) -> dict[str, torch.Size]:
    """Of all that model files and resume states keep of it."""
    state = module.state_dict()
    if odd := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise models.broken(kind, name, f"{odd[0]} in its state_dict is no tensor, and files of fx hold no other")
    return {key: value.shape for key, value in state.items()}


def _check_shapes(kind: str, name: str, module: nn.Module, before: Mapping[str, torch.Size]) -> None:
    if differ := sorted(key for key, _ in _shapes(kind, name, module).items() ^ before.items()):
        # A model file is read into one that was just built.
        raise models.broken(kind, name, f"seeing pictures changes what its state_dict holds: {differ[0]}")


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
    """Runs the backbone on one picture as each phase trains it that would leave one to its last batch, or to a process.

    Args:
        recipe: Of the training, or of several.
        spec: Of its backbone.
        counts: Pictures of an epoch of each.

    Raises:
        RecipeError: BatchNorm needs more than one number of each channel, and has one: it would fail after an epoch.
    """
    for name, phase in recipe.phases.items():
        size, shared_by = phase.train.batch_size, processes()
        # Shared, a batch gives its smallest share as many as divide evenly, and at least one.
        left = next((count for count in counts if (count % size or size) < 2 * shared_by), None)
        if left is None or phase.model.bn == "eval" or freeze.is_frozen(spec, phase.model.freeze):
            continue
        side_px = session.size_px(recipe, spec)
        module = models.build_backbone(spec, recipe.model, side_px, 0)
        freeze.apply(module, module, spec, phase.model)
        with of_plugin("backbone", recipe.model.backbone, f"learning from a picture of {side_px} px"), torch.no_grad():
            try:
                module(torch.zeros(1, 3, side_px, side_px))
            except ValueError as error:
                what = f"{left} pictures in batches of {size} leave a last one of a single picture"
                if shared_by > 1:
                    what = f"of {left} pictures in batches of {size} one of {shared_by} processes gets a single one"
                raise RecipeError(
                    [f"phases.{name}.train.batch_size: {what}, from which {spec.name} cannot learn here: {error}"],
                    recipe=recipe.name,
                    hint="another train.batch_size, or model.bn=eval",
                ) from error
