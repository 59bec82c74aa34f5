"""Feeds training pictures with boxes to the loop; the rest of what that takes is in dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fxcli.data.boxes import Boxes
from fxcli.data.dataset import Draw, Order, TrainingPictures
from fxcli.data.preprocess import Preprocessing
from fxcli.errors import FxError
from fxcli.recipe.schema import Augment

# One of a batch: a picture [1, S, S] uint8, and its "boxes" [n, 4] with "labels" [n] from 1 on.
Target = dict[str, Tensor]


def with_negatives(is_positive: Sequence[bool], negatives: float) -> tuple[int, Order]:
    """Every picture with boxes once, and for each of them so many without one, drawn anew; shuffled.

    Args:
        is_positive: [N].
        negatives: Per positive; all there are, if they are fewer.

    Returns:
        Pictures of an epoch, and their order.
    """
    positive, negative = np.flatnonzero(is_positive), np.flatnonzero(~np.asarray(is_positive, dtype=bool))
    count = min(len(negative), round(negatives * len(positive)))

    def order(rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(np.concatenate([positive, rng.choice(negative, size=count, replace=False)]))

    return len(positive) + count, order


class BoxedPictures(Dataset[tuple[Tensor, Target] | FxError]):
    """Augmented training pictures with their boxes, in pixels of the model's input.

    An unreadable one gives its error as a value: raised in a worker process, it would lose its class.

    Args:
        paths: The files.
        boxes: On each, in pixels of the model's input.
        preprocessing: The model's.
        augment: The phase's section.
    """

    def __init__(
        self, paths: Sequence[Path], boxes: Sequence[Boxes], preprocessing: Preprocessing, augment: Augment
    ) -> None:
        self.boxes = list(boxes)
        self.pictures = TrainingPictures(paths, [0] * len(paths), preprocessing, augment)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Target] | FxError:
        try:
            seen = self.pictures.seen(draw.index)
        except FxError as error:
            return error
        view, boxes = self.pictures.augmenter.with_boxes(seen, self.boxes[draw.index], draw.seed)
        # Class 0 is a detector's background.
        return view, {"boxes": torch.from_numpy(boxes.corners), "labels": torch.from_numpy(boxes.labels + 1)}

    def __len__(self) -> int:
        return len(self.boxes)


def collate(items: list[Any]) -> Any:
    """[B, 1, S, S] and a list of targets; or the error of a picture, which the loop raises in its own process."""
    error = next((item for item in items if isinstance(item, FxError)), None)
    return error or (torch.stack([view for view, _ in items]), [target for _, target in items])
