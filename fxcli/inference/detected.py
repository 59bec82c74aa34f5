"""Files → decoded → boxes, in order: the one way that validation, evaluate and predict run a detector.

Threads decode ahead of the network, which takes the rest of the processor. Boxes come in pixels of the original.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fxcli.console import console
from fxcli.data.boxes import to_original
from fxcli.data.dataset import default_workers
from fxcli.data.preprocess import Cleaned, Preprocessing
from fxcli.data.tree import unusable
from fxcli.errors import RunError, UnreadableImage
from fxcli.evaluation.detection import Detections
from fxcli.inference.pipeline import ordered_map
from fxcli.model.detector import TrainedDetector
from fxcli.model.hardware import Compute


@dataclass(frozen=True)
class Sighting:
    """What a detector finds on one picture.

    Attributes:
        path: The file.
        reason: Why nothing is said of it; "" if something is.
        cleaned: The clean picture, if something is said.
        found: In pixels of the original; none without a picture.
    """

    path: Path
    reason: str = ""
    cleaned: Cleaned | None = None
    found: Detections | None = None


@dataclass(frozen=True)
class Finder:
    """How to run a detector.

    Attributes:
        model: It.
        compute: Device and precision.
        batch_size: Pictures per forward pass.
        workers: Decoding threads; 0 takes this one; None one per core, at most 4.
    """

    model: TrainedDetector
    compute: Compute
    batch_size: int = 8
    workers: int | None = None

    def over(self, paths: Sequence[Path]) -> Iterator[Sighting]:
        """What is found on each, in their order; an unreadable file's has a reason.

        Raises:
            RunError: A score is not finite.
        """
        workers = default_workers() if self.workers is None else self.workers
        decode = functools.partial(_decoded, self.model.preprocessing)
        pictures = ordered_map(decode, paths, workers=workers, ahead=2 * self.batch_size)
        while chunk := list(itertools.islice(pictures, self.batch_size)):
            fitted = [view for _, view in chunk if view is not None]
            answers = iter(self._found(np.stack(fitted)) if fitted else [])
            for sighting, view in chunk:
                yield sighting if view is None else self._told(sighting, next(answers))

    def readable(self, paths: Sequence[Path]) -> list[Detections]:
        """What is found on pictures that must all be readable.

        Raises:
            UnreadableImage: One is not.
        """
        found = []
        for sighting in console.progress(self.over(paths), total=len(paths), what="evaluate"):
            if sighting.found is None:
                raise UnreadableImage(sighting.path, sighting.reason)
            found.append(sighting.found)
        return found

    @torch.inference_mode()
    def _found(self, images: np.ndarray) -> list[dict[str, Tensor]]:
        batch = self.compute.send(self.model.preprocessing.normalise(torch.from_numpy(images)))
        with self.compute.autocast():
            return self.model.network(batch)  # type: ignore[no-any-return]

    def _told(self, sighting: Sighting, answer: dict[str, Tensor]) -> Sighting:
        corners, scores, labels = (answer[name].float().cpu().numpy() for name in ("boxes", "scores", "labels"))
        if not np.isfinite(scores).all():
            raise RunError("the detector's scores are not finite", hint="the training diverged: lower optim.lr")
        cleaned = sighting.cleaned
        size_px = (cleaned.width_px, cleaned.height_px) if cleaned else (0, 0)
        # Label 0 is the background; a detector in one stage has a score for it, too, that nothing was taught.
        order = np.argsort(-scores, kind="stable")
        order = order[labels[order] > 0]
        moved = to_original(corners, size_px, self.model.preprocessing)[order]
        found = Detections(moved, labels.astype(np.int64)[order] - 1, scores[order])
        return Sighting(sighting.path, "", cleaned, found)


def _decoded(preprocessing: Preprocessing, path: Path) -> tuple[Sighting, np.ndarray | None]:
    """A picture, and [1, S, S] as the network sees it."""
    if reason := unusable(path):
        return Sighting(path, reason), None
    try:
        cleaned = preprocessing.load(path)
    except UnreadableImage as error:
        return Sighting(path, error.reason), None
    return Sighting(path, "", cleaned), preprocessing.fit(cleaned)[None]
