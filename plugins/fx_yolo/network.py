"""The module that fx trains: a feature pyramid, YOLOX's head, and torchvision's detection contract around both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from libreyolo.models.yolox.nn import YOLOXHead
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_convert, clip_boxes_to_image

if TYPE_CHECKING:
    from fx_yolo import YoloxOptions

_MOST_BOXES = 100
# Candidates that non-maximum suppression looks at.
_CANDIDATES = 1000
# Where training begins, next to nothing is a box (Lin et al. 2017, section 3.3).
_PRIOR = 0.01
_LOSSES = ("iou_loss", "obj_loss", "cls_loss")


class Yolox(nn.Module):
    """Images, a list of [3, S, S] → losses by name in training, else "boxes", "labels" from 1 on, "scores" of each.

    Args:
        pyramid: Images [B, 3, S, S] → maps by name, finest first, each level half as fine as the one before.
        num_classes: K.
        options: Of the recipe.
    """

    def __init__(self, pyramid: nn.Module, num_classes: int, options: YoloxOptions) -> None:
        super().__init__()
        self.pyramid, self.num_classes, self.options = pyramid, num_classes, options
        levels = len(pyramid.names)  # type: ignore[arg-type]
        self.head = YOLOXHead(
            num_classes,
            # libreyolo's widths are fractions of 256.
            width=options.channels / 256,
            strides=[options.finest_stride * 2**level for level in range(levels)],
            in_channels=[256] * levels,
        )
        self.head.initialize_biases(_PRIOR)
        # In eval mode the head then tells boxes, not the raw numbers of each cell.
        self.head.export = True

    def forward(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None) -> Any:
        """See the class."""
        batch = torch.stack(list(images))
        maps = list(self.pyramid(batch).values())
        if self.training:
            if targets is None:
                raise ValueError("training needs targets")
            losses = self.head(maps, _labels(targets, batch), batch)
            return {name: losses[name] for name in _LOSSES}
        return [self._told(each, batch.shape[-1]) for each in self.head(maps)]

    def _told(self, raw: Tensor, size_px: int) -> dict[str, Tensor]:
        """[A, 5 + K] of one picture: centre, sides, whether there is anything, and the classes → boxes."""
        scores, labels = (raw[:, 4:5] * raw[:, 5:]).float().max(dim=1)
        kept = torch.nonzero(scores >= self.options.score_threshold)[:, 0]
        kept = kept[scores[kept].argsort(descending=True, stable=True)][:_CANDIDATES]
        boxes = clip_boxes_to_image(box_convert(raw[kept, :4].float(), "cxcywh", "xyxy"), (size_px, size_px))
        chosen = batched_nms(boxes, scores[kept], labels[kept], self.options.overlap)[:_MOST_BOXES]
        return {"boxes": boxes[chosen], "labels": labels[kept][chosen] + 1, "scores": scores[kept][chosen]}


def _labels(targets: Sequence[Mapping[str, Tensor]], batch: Tensor) -> Tensor:
    """[B, M, 5] class from 0 on, centre and sides; rows of zeros where a picture has fewer boxes."""
    most = max(1, *(len(target["labels"]) for target in targets)) if targets else 1
    labels = torch.zeros(len(targets), most, 5, device=batch.device)
    for row, target in zip(labels, targets, strict=True):
        count = len(target["labels"])
        row[:count, 0] = target["labels"] - 1
        row[:count, 1:] = box_convert(target["boxes"], "xyxy", "cxcywh")
    return labels
