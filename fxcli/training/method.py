"""What a pretrainer's plugin gives: views of a picture, a module that learns, the embeddings that its loss compares.

What is not as promised is told as the plugin's. Called by pretrain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from fxcli.errors import RecipeError, RunError
from fxcli.evaluation import representation
from fxcli.model import classifier as models
from fxcli.training import session, trial
from fxcli.zoo.specs import PretrainArgs, PretrainerSpec


class Method(Protocol):
    """What `PretrainerSpec.build` makes, besides being a module."""

    backbone: nn.Module

    def loss(self, views: tuple[Tensor, ...]) -> Tensor:
        """Views, each [B, 3, S, S] → []."""

    def after_step(self, progress: float) -> None:
        """Called after each optimizer step with the share of all steps that is done."""


def views(pretrainer: PretrainerSpec, args: PretrainArgs) -> tuple[Callable[[Any], Any], ...]:
    """What makes the views of a picture.

    Raises:
        PluginError: The pretrainer's plugin fails, or gives none.
    """
    with trial.of_plugin("pretrainer", pretrainer.name, "views"):
        found = pretrainer.views(args)
    if not isinstance(found, tuple) or not found or not all(callable(each) for each in found):
        raise models.broken("pretrainer", pretrainer.name, "views returned no tuple of transforms")
    return found


def build(pretrainer: PretrainerSpec, backbone: nn.Module, args: PretrainArgs) -> nn.Module:
    """What is trained, over this backbone.

    Raises:
        PluginError: The pretrainer's plugin fails, or builds none.
        RecipeError: It refuses what is asked of it.
    """
    name = pretrainer.name
    try:
        module = models.built("pretrainer", name, lambda: pretrainer.build(backbone, args))
    except ValueError as error:
        raise RecipeError([f"pretrain: {name}: {error}"], recipe=None) from error
    if getattr(module, "backbone", None) is not backbone:
        raise models.broken("pretrainer", name, "build did not return a module with the backbone as its backbone")
    lacking = [part for part in ("loss", "after_step") if not callable(getattr(module, part, None))]
    if lacking:
        raise models.broken("pretrainer", name, f"what build returned has no {' and no '.join(lacking)}")
    return module


def embedding_spread(name: str, module: nn.Module, step: int) -> float | None:
    """How far the embeddings of the last batch point apart, see `representation.spread`; None where none were left.

    Args:
        name: Of the pretrainer.
        module: Its `loss` was called, and may have left what it compared as `embeddings`, [N, E].
        step: For an error.

    Raises:
        PluginError: It left something else.
        RunError: They are not finite.
    """
    found = getattr(module, "embeddings", None)
    if found is None:
        return None
    if not isinstance(found, Tensor) or found.ndim != 2 or not found.numel() or not found.is_floating_point():
        told = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise models.broken("pretrainer", name, f"what loss left as embeddings is {told}, not floats [N, E]")
    embeddings = found.detach().cpu().double().numpy()
    if not np.isfinite(embeddings).all():
        raise RunError(f"the embeddings are no longer finite at step {step}", hint=session.DIVERGED)
    return representation.spread(embeddings)
