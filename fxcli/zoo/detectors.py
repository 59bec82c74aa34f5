"""Faster R-CNN and FCOS of torchvision over a feature pyramid of any backbone: always there, as ResNet is.

Their anchors, or what takes their place, are fitted to the sides of the training boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from fxcli.zoo.hookspecs import hookimpl
from fxcli.zoo.specs import DetectorArgs, DetectorSpec

if TYPE_CHECKING:
    from torch import nn

# A network sees normalised pictures of one size: torchvision's own transform has nothing to do.
_AS_IT_IS = {"image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}
_MIN_SIDE_PX = 8.0
# Sizes of anchors, in each place of each level.
_SIDES = 4
# Of GroupNorm in the heads of torchvision's FCOS.
_GROUPS = 32


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    finest_stride: Literal[4, 8] = Field(
        8,
        description="input pixels per cell of the finest level: 4 is for smaller boxes, on four times as many cells",
    )
    channels: int = Field(128, ge=32, le=1024, multiple_of=32, description="of each level of the pyramid")
    score_threshold: float = Field(0.01, ge=0, lt=1, description="boxes below it are not reported")
    overlap: float = Field(
        0.4, gt=0, lt=1, description="of two boxes of a class that overlap by more, the surer one stays"
    )


class FasterRcnnOptions(_Options):
    """Of faster_rcnn."""

    proposals: int = Field(512, ge=16, le=4096, description="boxes of the first stage that the second looks at")
    head_channels: int = Field(512, ge=16, le=4096, description="of the second stage's two layers")


class FcosOptions(_Options):
    """Of fcos."""

    convolutions: int = Field(2, ge=1, le=8, description="in each of its two heads")


@hookimpl
def fx_register_detectors(register: Callable[[DetectorSpec], None]) -> None:
    """Registers faster_rcnn and fcos."""
    register(
        DetectorSpec(
            name="faster_rcnn",
            build=_faster_rcnn,
            options=FasterRcnnOptions,
            summary="Faster R-CNN of torchvision over a feature pyramid (Ren et al. 2015; Lin et al. 2017)",
        )
    )
    register(
        DetectorSpec(
            name="fcos",
            build=_fcos,
            options=FcosOptions,
            summary="FCOS of torchvision, in one stage and without anchors: faster (Tian et al. 2019)",
        )
    )


def _faster_rcnn(backbone: nn.Module, args: DetectorArgs) -> nn.Module:
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    options = cast(FasterRcnnOptions, args.options)
    pyramid = args.pyramid(options.channels, options.finest_stride)
    names = cast("list[str]", pyramid.names)
    # Small boxes want the finest map, but large ones, too, need anchors closer together than a coarse map has them.
    sides = sides_of(args.sides_px)
    ratios = quantiles(args.ratios, (1 / 6, 1 / 2, 5 / 6))
    pool = MultiScaleRoIAlign(featmap_names=names, output_size=7, sampling_ratio=2)
    network: nn.Module = FasterRCNN(
        pyramid,
        min_size=args.image_size_px,
        max_size=args.image_size_px,
        rpn_anchor_generator=AnchorGenerator((sides,) * len(names), (ratios,) * len(names)),
        # Of 0.7 that torchvision asks for, which half of the small boxes have no anchor to reach.
        rpn_fg_iou_thresh=0.5,
        rpn_pre_nms_top_n_train=2 * options.proposals,
        rpn_pre_nms_top_n_test=2 * options.proposals,
        rpn_post_nms_top_n_train=options.proposals,
        rpn_post_nms_top_n_test=options.proposals,
        box_roi_pool=pool,
        box_head=TwoMLPHead(options.channels * 7**2, options.head_channels),
        box_predictor=FastRCNNPredictor(options.head_channels, args.num_classes + 1),
        box_score_thresh=options.score_threshold,
        box_nms_thresh=options.overlap,
        # Of 512 that torchvision draws for pictures with many objects; here most would be background.
        box_batch_size_per_image=128,
        **_AS_IT_IS,
    )
    return network


def _fcos(backbone: nn.Module, args: DetectorArgs) -> nn.Module:
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.fcos import FCOSHead

    options = cast(FcosOptions, args.options)
    pyramid = args.pyramid(options.channels, options.finest_stride)
    levels = len(cast("list[str]", pyramid.names))
    # A level learns boxes that reach 4 to 8 of its sizes from a cell within 1.5 of their middle, the first smaller and
    # the last larger ones, too (torchvision's fcos.py): of smaller sizes than its strides many boxes have no cell.
    sizes = tuple((options.finest_stride * 2**level,) for level in range(levels))
    coarsest_px = sizes[-1][0]
    if options.channels == _GROUPS and args.image_size_px <= coarsest_px:
        # A last map of one cell, whose group of one channel has one value in a single picture: torch refuses that.
        what = f"channels={_GROUPS} are too few for pictures of {args.image_size_px} px"
        raise ValueError(f"{what}: it takes {2 * _GROUPS} of them, or more than {coarsest_px} px")
    generator = AnchorGenerator(sizes, ((1.0,),) * levels)
    head = FCOSHead(options.channels, 1, args.num_classes + 1, num_convs=options.convolutions)
    network: nn.Module = FCOS(
        pyramid,
        args.num_classes + 1,
        min_size=args.image_size_px,
        max_size=args.image_size_px,
        anchor_generator=generator,
        head=head,
        score_thresh=options.score_threshold,
        nms_thresh=options.overlap,
        **_AS_IT_IS,
    )
    return network


def sides_of(sides_px: tuple[float, ...]) -> tuple[float, ...]:
    """The sides of anchors: the middles of equal shares of the training boxes, none below 8 px."""
    found = quantiles(sides_px, tuple((place + 0.5) / _SIDES for place in range(_SIDES)))
    return tuple(max(_MIN_SIDE_PX, side) for side in found)


def quantiles(table: tuple[float, ...], at: tuple[float, ...]) -> tuple[float, ...]:
    """Quantiles of what `DetectorArgs` tells as a table of evenly spaced ones."""
    found = []
    for share in at:
        place = share * (len(table) - 1)
        low = min(int(place), len(table) - 2)
        found.append(table[low] + (table[low + 1] - table[low]) * (place - low))
    return tuple(found)
