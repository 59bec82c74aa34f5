"""Files → decoded → boxes, in order: the one way that validation, evaluate and predict run a detector.

As with classifiers (see pipeline), each of a few streams decodes the next few files and runs the network over them, on
its own share of the processor. Boxes come in pixels of the original.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxcli import __version__
from fxcli.console import console
from fxcli.data.boxes import to_original
from fxcli.data.preprocess import Cleaned, Preprocessing
from fxcli.errors import RunError, UnreadableImage
from fxcli.evaluation import box_table
from fxcli.evaluation.detection import Detections
from fxcli.inference.engines import dividing, streams_on
from fxcli.inference.exported import is_exported
from fxcli.inference.fold import fold_batchnorm
from fxcli.inference.opened import ModelFile, warn_of_unfinished
from fxcli.inference.pipeline import cleaned_of, streamed
from fxcli.model import detector as detectors
from fxcli.model import hardware, pointwise
from fxcli.model.detector import TrainedDetector
from fxcli.model.hardware import Compute
from fxcli.model.pyramid import Pyramid
from fxcli.recipe.schema import Hardware
from fxcli.run.checkpoint import read_header
from fxcli.run.directory import Run
from fxcli.run.files import sha256_of
from fxcli.zoo.plugins import load_zoo

# Of more pictures the maps of a detector's size no longer fit a CPU's caches.
CPU_BATCH_SIZE = 4


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

    @property
    def row(self) -> Sighting:
        """The same without the picture, which is large."""
        return replace(self, cleaned=None)


@dataclass(frozen=True)
class Finder:
    """How to run a detector.

    Attributes:
        model: It.
        compute: Device and layout; it computes in fp32.
        batch_size: Pictures per forward pass.
        workers: Streams; 0 takes this thread, with all of the processor; None as many as suit the device.
    """

    model: TrainedDetector
    compute: Compute
    batch_size: int = 8
    workers: int | None = None
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def look(self, path: Path) -> Sighting:
        """What is found on one picture, on the caller's thread."""
        return self._looked([(0, path)])[0]

    def over(self, paths: Sequence[Path]) -> Generator[Sighting, None, None]:
        """What is found on each, in their order; an unreadable file's has a reason. Closed early, its threads end.

        Raises:
            RunError: A score or a corner is not finite.
            PluginError: The detector's plugin fails.
        """
        yield from streamed(self._looked, paths, self.batch_size, self, self.workers)

    @property
    def streams(self) -> int:
        """See Shared."""
        return streams_on(self.compute.device)

    def shared_by(self, streams: int) -> contextlib.AbstractContextManager[Callable[[], None]]:
        """See Shared."""
        return dividing(streams if self._is_on_cpu else 1)

    @property
    def _is_on_cpu(self) -> bool:
        return self.compute.device.type == "cpu"

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

    def _looked(self, chunk: Sequence[tuple[int, Path]]) -> list[Sighting]:
        pictures = [_decoded(self.model.preprocessing, path) for _, path in chunk]
        fitted = [view for _, view in pictures if view is not None]
        answers = iter(self._found(np.stack(fitted)) if fitted else [])
        return [sighting if view is None else self._told(sighting, next(answers)) for sighting, view in pictures]

    @torch.inference_mode()
    def _found(self, images: np.ndarray) -> list[dict[str, Tensor]]:
        with contextlib.nullcontext() if self._is_on_cpu else self._turn:
            batch = self.compute.send(self.model.preprocessing.normalise(torch.from_numpy(images)))
            return self.model.network(batch)  # type: ignore[no-any-return]

    def _told(self, sighting: Sighting, answer: dict[str, Tensor]) -> Sighting:
        corners, scores, labels = (
            answer[name].detach().float().cpu().numpy() for name in ("boxes", "scores", "labels")
        )
        if not (np.isfinite(scores).all() and np.isfinite(corners).all()):
            raise RunError("the boxes or scores are not finite", hint="the training diverged: lower optim.lr")
        cleaned = sighting.cleaned
        size_px = (cleaned.width_px, cleaned.height_px) if cleaned else (0, 0)
        # Label 0 is the background; a detector in one stage has a score for it, too, that nothing was taught.
        order = np.argsort(-scores, kind="stable")
        order = order[labels[order] > 0]
        moved = to_original(corners, size_px, self.model.preprocessing)[order]
        # What lies in the letterbox's border has no width left.
        is_box = (moved[:, 2:] - moved[:, :2]).min(axis=1, initial=np.inf) >= 1
        found = Detections(moved[is_box], labels.astype(np.int64)[order][is_box] - 1, scores[order][is_box])
        return Sighting(sighting.path, "", cleaned, found)


def _decoded(preprocessing: Preprocessing, path: Path) -> tuple[Sighting, np.ndarray | None]:
    """A picture, and [1, S, S] as the network sees it."""
    cleaned, reason = cleaned_of(preprocessing, path)
    return Sighting(path, reason, cleaned), None if cleaned is None else preprocessing.fit(cleaned)[None]


@dataclass(frozen=True)
class OpenedDetector(ModelFile):
    """A detector, ready to run.

    Attributes:
        finder: Runs it.
    """

    finder: Finder

    @property
    def model(self) -> TrainedDetector:
        """What the file holds."""
        return self.finder.model

    def origin(self) -> dict[str, Any]:
        """What an output says of the detector behind it."""
        return self.told(self.model.info, detector=self.model.info["detect"]["detector"])

    @property
    def described(self) -> str:
        """Which detector it is, for people."""
        info = self.origin()
        return (
            f"{self.run.path if self.run else self.file}: recipe {info['name']}, {info['detector']} over "
            f"{info['backbone']}, data {info['data']}, trained {info['created']}, sha256 {self.digest[:12]}"
        )

    def made_with(self, least: float) -> dict[str, Any]:
        """All that what is told of a picture depends on, but the picture; boxes are told from this score on."""
        return {"fx": __version__, "detector": self.digest, "score": least}

    def least_score(self, asked: float | None) -> float:
        """The score from which on boxes are told: what was asked for, or the detector's own."""
        return box_table.least_score(self.model.info) if asked is None else asked


@dataclass(frozen=True)
class BoxesBeside:
    """A detector that looks at what a classifier answers.

    Attributes:
        opened: It.
        least: Score from which on its boxes are told.
    """

    opened: OpenedDetector
    least: float

    @property
    def notice(self) -> str:
        """The line that what it drew carries."""
        return box_table.BoxTable(self.opened.model.info).notice

    def look(self, path: Path) -> tuple[dict[str, Any], Sighting]:
        """What rows tell of a picture: boxes, or why there are none, which makes an error of the row; and all of it."""
        sighting = self.opened.finder.look(path)
        if sighting.cleaned is None:
            return {"status": "error", "reason": f"the detector cannot read it: {sighting.reason}"}, sighting
        return values_of(sighting, self.opened.model.classes, self.least), sighting

    def made_with(self) -> dict[str, Any]:
        """All that its boxes depend on, but the picture."""
        return self.opened.made_with(self.least)


def values_of(sighting: Sighting, classes: Sequence[str], least: float) -> dict[str, Any]:
    """What rows tell of a sighting; {} where there is none."""
    if sighting.found is None or sighting.cleaned is None:
        return {}
    size_px = (sighting.cleaned.width_px, sighting.cleaned.height_px)
    return box_table.told(sighting.found, classes, size_px, least)


def row_of(sighting: Sighting, classes: Sequence[str], least: float) -> dict[str, Any]:
    """The same with what a row says in words: of a picture without one, why."""
    if sighting.cleaned is None:
        return {"status": "error", "reason": sighting.reason}
    return {"reason": "; ".join(sighting.cleaned.cautions), **values_of(sighting, classes, least)}


def is_detector(file: Path) -> bool:
    """Whether a model file says that it holds a detector."""
    return not is_exported(file) and read_header(file).get("task") == "detect"


def open_detector(
    file: Path,
    run: Run | None,
    *,
    device: str | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    fast: bool = False,
) -> OpenedDetector:
    """Checks and loads a detector, and says on stderr which one it is; it computes in fp32.

    Args:
        file: Of the model, as `find_model` gives it.
        run: Likewise.
        device: In place of auto.
        workers: Streams.
        batch_size: In place of the one that validation used, or of the CPU's best where it is to be fast.
        fast: For prediction alone: BatchNorm is folded, which rounds otherwise.

    Raises:
        ModelFileError: It cannot be used.
        UsageError: The device is not there.
    """
    model = detectors.load(file, load_zoo())
    compute = hardware.compute(Hardware(channels_last=bool(model.info.get("channels_last"))), device=device)
    compute.place(model.network)
    if fast:
        _fold(model, compute)
    pointwise.by_onednn(model.network, compute.device)
    usual = CPU_BATCH_SIZE if fast and compute.device.type == "cpu" else int(model.info.get("batch_size") or 8)
    size = batch_size or usual
    opened = OpenedDetector(file, run, sha256_of(file), Finder(model, compute, size, workers))
    console.note(f"detector {opened.described}")
    warn_of_unfinished(file, run)
    return opened


class _Maps(nn.Module):
    """What a pyramid says of pictures, as one tensor."""

    def __init__(self, pyramid: Pyramid) -> None:
        super().__init__()
        self.pyramid = pyramid

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([each.flatten(1) for each in self.pyramid(images).values()], dim=1)


def _fold(model: TrainedDetector, compute: Compute) -> None:
    """Folds the norms of its pyramid; a detector without one of fx's stays as it is."""
    size_px = model.preprocessing.image_size_px
    probe = compute.send(torch.randn(1, 3, size_px, size_px, generator=torch.Generator().manual_seed(0)))
    for pyramid in [module for module in model.network.modules() if isinstance(module, Pyramid)]:
        fold_batchnorm(_Maps(pyramid), probe)
    compute.place(model.network)
