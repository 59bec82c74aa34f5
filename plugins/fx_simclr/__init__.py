"""SimCLR and BYOL pretraining, and the family `simclr:<backbone>`: that backbone with what SimCLR taught it.

    model: {backbone: simclr:resnet50, init: simclr}

starts from the last finished run under runs/ that pretrained resnet50 with SimCLR; a note says which. A model file
that was trained so is whole: using it needs no run. To name the run, or for BYOL, write it as the start of the
backbone itself: `model: {backbone: resnet50, init: runs/<run>}`.

Registered here without torch; views, simclr and byol import it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from fxcli import (
    BackboneFamily,
    BackboneSpec,
    PretrainArgs,
    PretrainerSpec,
    WeightSource,
    find_backbone,
    hookimpl,
)

if TYPE_CHECKING:
    from torch import nn


Probability = Annotated[float, Field(ge=0, le=1)]


class ViewOptions(BaseModel):
    """How the views of a picture are drawn. There is no hue and no solarisation: radiographs are grey."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    min_crop_frac: float = Field(0.2, gt=0, le=1, description="smallest fraction of the area that a crop keeps")
    brightness: float = Field(0.4, ge=0, le=1, description="multiplied by 1 ± up to this, in 8 of 10 views")
    contrast: float = Field(0.4, ge=0, le=1, description="contrast multiplied by 1 ± up to this, likewise")


class SimCLROptions(ViewOptions):
    """Options of SimCLR."""

    blur: Probability = Field(0.5, description="probability of a Gaussian blur")
    temperature: float = Field(0.5, gt=0, description="τ of NT-Xent; lower weighs hard negatives more")
    embedding_dim: int = Field(128, ge=1, description="numbers per picture that the loss compares")


class BYOLOptions(ViewOptions):
    """Options of BYOL."""

    blur: tuple[Probability, Probability] = Field((1.0, 0.1), description="probability of a Gaussian blur in each view")
    hidden_dim: int = Field(4096, ge=1, description="width of projector and predictor")
    embedding_dim: int = Field(256, ge=1, description="numbers per picture that the loss compares")
    momentum: float = Field(0.996, ge=0, le=1, description="τ of the target's moving average at the start; ends at 1")


@hookimpl
def fx_register_pretrainers(register: Callable[[PretrainerSpec], None]) -> None:
    """Registers simclr and byol."""
    register(
        PretrainerSpec(
            name="simclr",
            views=_simclr_views,
            build=_simclr,
            options=SimCLROptions,
            summary="two views of a picture attract, those of others repel (Chen et al. 2020)",
        )
    )
    register(
        PretrainerSpec(
            name="byol",
            views=_byol_views,
            build=_byol,
            options=BYOLOptions,
            summary="one view predicts what a slower copy sees in the other (Grill et al. 2020)",
        )
    )


@hookimpl
def fx_register_backbones(register: Callable[[BackboneSpec | BackboneFamily], None]) -> None:
    """Registers the family simclr:<backbone>."""
    summary = "any backbone with init: simclr, the weights of its last SimCLR run, e.g. simclr:resnet50"
    register(BackboneFamily(prefix="simclr", resolve=_resolve, summary=summary))


def _resolve(member: str) -> BackboneSpec:
    spec = find_backbone(member)
    # No other key: with them, the default `init: imagenet` would quietly mean weights without SimCLR.
    weights = {"simclr": WeightSource(pretrainer="simclr", backbone=spec.name)}
    return replace(spec, weights=weights, summary=f"{spec.name}, pretrained with SimCLR")


def _simclr_views(args: PretrainArgs) -> tuple[Callable[[Any], Any], ...]:
    from fx_simclr import simclr

    return simclr.views(args)


def _simclr(backbone: nn.Module, args: PretrainArgs) -> nn.Module:
    from fx_simclr import simclr

    return simclr.build(backbone, args)


def _byol_views(args: PretrainArgs) -> tuple[Callable[[Any], Any], ...]:
    from fx_simclr import byol

    return byol.views(args)


def _byol(backbone: nn.Module, args: PretrainArgs) -> nn.Module:
    from fx_simclr import byol

    return byol.build(backbone, args)
