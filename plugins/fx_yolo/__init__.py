"""YOLOX over any backbone of fx: its head, assignment and loss come from libreyolo (MIT), with random weights.

python -m pip install 'fxcli[yolo]'
fx train recipes/detect.yaml --set detect.detector=yolox
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from fxcli import DetectorArgs, DetectorSpec, MissingDependency, hookimpl

if TYPE_CHECKING:
    from torch import nn


class YoloxOptions(BaseModel):
    """Of yolox."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    finest_stride: Literal[4, 8] = Field(
        8, description="input pixels per cell of the finest level: 4 is for smaller boxes, on four times as many cells"
    )
    channels: int = Field(128, ge=32, le=1024, multiple_of=32, description="of each level of the pyramid, and the head")
    score_threshold: float = Field(0.01, ge=0, lt=1, description="boxes below it are not reported")
    overlap: float = Field(
        0.4, gt=0, lt=1, description="of two boxes of a class that overlap by more, the surer one stays"
    )


@hookimpl
def fx_register_detectors(register: Callable[[DetectorSpec], None]) -> None:
    """Registers yolox."""
    register(
        DetectorSpec(
            name="yolox",
            build=_build,
            options=YoloxOptions,
            summary="YOLOX's head of libreyolo over a feature pyramid, without anchors (Ge et al. 2021)",
        )
    )


def _build(backbone: nn.Module, args: DetectorArgs) -> nn.Module:
    try:
        from fx_yolo.network import Yolox
    except ImportError as error:
        raise MissingDependency("libreyolo", extra="yolo", purpose="the detector yolox") from error
    if not isinstance(args.options, YoloxOptions):
        raise TypeError("the options of yolox are YoloxOptions")
    options = args.options
    return Yolox(args.pyramid(options.channels, options.finest_stride), args.num_classes, options)
