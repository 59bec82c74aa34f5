"""Files → decoded → logits, in order: the one way that validation, evaluate, predict and cam run a model.

Decoding goes on in threads while the model computes; at most a few batches are in memory. What becomes of an
answer (CSV, metrics, pictures) is the caller's.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fxcli.console import console
from fxcli.data.augment import flipped
from fxcli.data.dataset import default_workers
from fxcli.data.preprocess import Cleaned, Preprocessing
from fxcli.errors import RunError, UnreadableImage
from fxcli.model.classifier import Classifier
from fxcli.model.hardware import Compute

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Answer:
    """What the model says of one picture.

    Attributes:
        path: The file.
        reason: Why there is no answer; "" if there is one.
        logits: [K] float32, or None.
        cleaned: The clean picture, if the caller keeps it.
        feature_map: [D, h, w], if the caller keeps it.
    """

    path: Path
    reason: str = ""
    logits: np.ndarray | None = None
    cleaned: Cleaned | None = None
    feature_map: Tensor | None = None


@dataclass(frozen=True)
class Pipeline:
    """How to run a classifier.

    Attributes:
        classifier: In eval mode, on the device of `compute`.
        preprocessing: The model's.
        compute: Device, precision, layout.
        batch_size: Pictures per forward pass.
        workers: Decoding threads; 0 decodes in this one; None takes one per core, at most 4.
        flips: Whether logits are the mean over the picture and its mirror.
    """

    classifier: Classifier
    preprocessing: Preprocessing
    compute: Compute
    batch_size: int = 32
    workers: int | None = None
    flips: bool = False

    def run(self, paths: Iterable[Path], *, keep_maps: bool = False) -> Iterator[Answer]:
        """Answers in the order of the paths.

        Args:
            paths: Picture files; an unreadable one gets an answer with a reason.
            keep_maps: Whether answers carry the clean picture and the feature map, for heat maps.
        """
        workers = default_workers() if self.workers is None else self.workers
        waiting: list[tuple[Path, Cleaned | None, np.ndarray | None, str]] = []
        readable = 0
        for item in ordered_map(self._decode, paths, workers=workers, ahead=2 * self.batch_size):
            waiting.append(item if keep_maps else (item[0], None, *item[2:]))
            readable += item[2] is not None
            if readable == self.batch_size:
                yield from self._answers(waiting, keep_maps)
                waiting, readable = [], 0
        yield from self._answers(waiting, keep_maps)

    def logits(self, paths: Sequence[Path]) -> np.ndarray:
        """[N, K] float32 of pictures that must all be readable.

        Raises:
            UnreadableImage: One is not.
        """
        found = []
        for answer in console.progress(self.run(paths), total=len(paths), what="evaluate"):
            if answer.logits is None:
                raise UnreadableImage(answer.path, answer.reason)
            found.append(answer.logits)
        return np.stack(found)

    def _decode(self, path: Path) -> tuple[Path, Cleaned | None, np.ndarray | None, str]:
        try:
            cleaned = self.preprocessing.load(path)
        except UnreadableImage as error:
            return path, None, None, error.reason
        return path, cleaned, self.preprocessing.fit(cleaned), ""

    def _answers(
        self, waiting: list[tuple[Path, Cleaned | None, np.ndarray | None, str]], keep_maps: bool
    ) -> Iterator[Answer]:
        fitted = [item[2] for item in waiting if item[2] is not None]
        if fitted:
            logits, maps = self.forward(torch.from_numpy(np.stack(fitted))[:, None])
        place = itertools.count()
        for path, cleaned, picture, reason in waiting:
            if picture is None:
                yield Answer(path, reason=reason)
                continue
            index = next(place)
            yield Answer(
                path,
                logits=logits[index],
                cleaned=cleaned,
                feature_map=maps[index] if keep_maps else None,
            )

    def batch(self, images: Tensor) -> Tensor:
        """[B, 1, S, S] uint8 → [B, 3, S, S] float32, normalised, on the device and in the layout of `compute`."""
        # Sent as bytes, a twelfth of what the normalised batch takes; the second call sets the layout.
        return self.compute.send(self.preprocessing.normalise(images.to(self.compute.device)))

    @torch.inference_mode()
    def forward(self, images: Tensor) -> tuple[np.ndarray, Tensor]:
        """[B, 1, S, S] uint8 → logits [B, K] float32 and the feature map [B, D, h, w] float32.

        Raises:
            RunError: A logit is not finite.
        """
        batch = self.batch(images)
        with self.compute.autocast():
            feature_map = self.classifier.backbone(batch)
            logits = self.classifier.classify(feature_map)
            if self.flips:
                logits = (logits + self.classifier(flipped(batch))) / 2
        values = logits.float().cpu().numpy()
        if not np.isfinite(values).all():
            raise RunError("the model's answers are not finite", hint="the training diverged: lower optim.lr")
        return values, feature_map.float()


def ordered_map(function: Callable[[A], B], items: Iterable[A], *, workers: int, ahead: int) -> Iterator[B]:
    """`map` over threads, in order, with at most `ahead` results waiting; without threads if `workers` is 0."""
    if workers == 0:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        running: deque[Future[B]] = deque()
        try:
            for item in items:
                running.append(pool.submit(function, item))
                if len(running) > ahead:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            # A caller that stops early must not wait for pictures it will never look at.
            for future in running:
                future.cancel()
