"""A feature pyramid over any backbone: what its stages give on the way, joined from coarse to fine.

Made for detectors, by detector; which maps it takes is said by the stages of the backbone's spec.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from fxcli.zoo.specs import Stage

COARSEST_STRIDE = 32


def tapped(stages: Sequence[Stage], finest_stride: int) -> list[Stage]:
    """The last stage of each stride from `finest_stride` to 32, finest first.

    Raises:
        ValueError: The backbone has no map that fine, or skips a stride.
    """
    by_stride = {stage.stride: stage for stage in stages if finest_stride <= stage.stride <= COARSEST_STRIDE}
    found = [by_stride[stride] for stride in sorted(by_stride)]
    strides = [stage.stride for stage in found]
    if not strides or strides[0] != finest_stride or any(b != 2 * a for a, b in pairwise(strides)):
        has = ", ".join(f"{stage.name} {stage.stride}" for stage in stages)
        raise ValueError(f"no pyramid from stride {finest_stride} on: its stages have the strides {has}")
    return found


class Pyramid(nn.Module):
    """Images [B, 3, S, S] → maps [B, channels, h, w] by name, finest first; a coarser one is pooled from the last.

    Args:
        backbone: As its spec says.
        stages: Of it.
        channels: Of each map.
        finest_stride: Input pixels per cell of the first map.

    Raises:
        ValueError: See `tapped`.
    """

    def __init__(self, backbone: nn.Module, stages: Sequence[Stage], channels: int, finest_stride: int) -> None:
        super().__init__()
        taken = tapped(stages, finest_stride)
        self.backbone = backbone
        self.out_channels = channels
        self.names = [str(number) for number in range(len(taken) + 1)]
        self.fpn = FeaturePyramidNetwork([stage.channels for stage in taken], channels, extra_blocks=LastLevelMaxPool())
        # What the backbone and the pyramid compute in. What follows works with boxes, which bf16 would round to whole
        # pixels and more: it gets maps in fp32.
        self.autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
        # By thread: pictures may be predicted in several.
        self._seen: dict[int, dict[str, Tensor]] = {}
        for name, stage in zip(self.names, taken, strict=False):
            module = backbone.get_submodule(stage.modules[-1])
            module.register_forward_hook(self._keeping(name))

    def _keeping(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._seen[threading.get_ident()][name] = output

        return keep

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """The maps by name."""
        self._seen[threading.get_ident()] = {}
        with self.autocast():
            self.backbone(images)
            maps = self._seen.pop(threading.get_ident())
            joined: OrderedDict[str, Tensor] = self.fpn(OrderedDict(sorted(maps.items())))
        return OrderedDict((name, each.float()) for name, each in zip(self.names, joined.values(), strict=True))
