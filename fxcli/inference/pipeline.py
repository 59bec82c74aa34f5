"""Files → decoded → logits, in order: the one way that validation, evaluate, predict and cam run a model.

Each of a few streams takes the next few files, decodes them, runs the engine over them and hands the answers to the
caller's function (which may draw and write pictures), on its own thread and share of the processor. Nothing waits for
anything but its own files, and memory holds a few batches however many files there are. What becomes of an answer
(CSV, metrics, pictures) is the caller's.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from fxcli.console import console
from fxcli.data.preprocess import Cleaned, Preprocessing
from fxcli.data.radiograph import Caution
from fxcli.data.tree import unusable
from fxcli.errors import MissingDependency, RunError, UnreadableImage
from fxcli.inference.engines import Computed, Engine, Shared

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Answer:
    """What the model says of one picture.

    Attributes:
        index: Its place among the paths.
        path: The file.
        reason: Why there is no answer; "" if there is one.
        members: [M, K] float32, the logits of each network of the model; None without an answer.
        distance: From the training pictures; None without an answer, or where the model has no statistics.
        cleaned: The clean picture, if there is an answer.
        maps: [K, h, w] float32, what each cell adds to each logit; None without an answer.
        cautions: What people should know of the picture.
        features: [M, D] float32 of each network; None without an answer, or where the engine does not give them.
    """

    index: int
    path: Path
    reason: str = ""
    members: np.ndarray | None = None
    distance: float | None = None
    cleaned: Cleaned | None = None
    maps: np.ndarray | None = None
    cautions: tuple[Caution, ...] = ()
    features: np.ndarray | None = None

    @property
    def logits(self) -> np.ndarray | None:
        """[K] float32, the mean over members; None without an answer."""
        return None if self.members is None else self.members.mean(axis=0)

    @property
    def row(self) -> Answer:
        """The answer without its picture, maps and features, which are large."""
        return replace(self, cleaned=None, maps=None, features=None)


@dataclass(frozen=True)
class Pipeline:
    """How to run a classifier.

    Attributes:
        engine: Computes.
        preprocessing: The model's.
        batch_size: Pictures per forward pass, at most.
        workers: Streams; 0 takes this thread, with all of the processor; None takes the engine's number.
        flips: Whether logits are the mean over the picture and its mirror.
        draft: Whether a JPEG of twice the needed size or more is decoded at a fraction of it (see data/read).
    """

    engine: Engine
    preprocessing: Preprocessing
    batch_size: int = 32
    workers: int | None = None
    flips: bool = False
    draft: bool = False

    def run(self, paths: Sequence[Path]) -> Iterator[Answer]:
        """Answers without pictures and maps, in the order of the paths; an unreadable file's has a reason."""
        return self.map(lambda answer: answer.row, paths)

    def map(self, function: Callable[[Answer], A], paths: Sequence[Path]) -> Generator[A, None, None]:
        """What a function makes of each answer, in the order of the paths; closed early, its threads end.

        Args:
            function: Called on the stream's thread, with the clean picture and the maps; what it returns is kept
                until its turn comes, so it should not return those.
            paths: Picture files.
        """
        step = functools.partial(self._answered, function)
        yield from streamed(step, paths, self.batch_size, self.engine, self.workers)

    def readable(self, paths: Sequence[Path]) -> Iterator[tuple[np.ndarray, float | None]]:
        """Logits [M, K] and distance of pictures that must all be readable.

        Raises:
            UnreadableImage: One is not.
        """
        for answer in console.progress(self.run(paths), total=len(paths), what="evaluate"):
            if answer.members is None:
                raise UnreadableImage(answer.path, answer.reason)
            yield answer.members, answer.distance

    def logits(self, paths: Sequence[Path]) -> np.ndarray:
        """[N, K] float32 of pictures that must all be readable, the mean over members.

        Raises:
            UnreadableImage: One is not.
        """
        return np.stack([members.mean(axis=0) for members, _ in self.readable(paths)])

    def _answered(self, function: Callable[[Answer], A], chunk: list[tuple[int, Path]]) -> list[A]:
        decoded = [(index, path, *self._decode(path)) for index, path in chunk]
        readable = [cleaned for _, _, cleaned, _ in decoded if cleaned is not None]
        computed = self._computed(readable) if readable else None
        made, place = [], 0
        for index, path, cleaned, reason in decoded:
            answer = Answer(index, path, reason)
            if cleaned is not None and computed is not None:
                answer = Answer(
                    index,
                    path,
                    members=computed.logits[place],
                    distance=None if computed.distance is None else float(computed.distance[place]),
                    cleaned=cleaned,
                    maps=computed.maps[place],
                    cautions=cleaned.cautions,
                    features=None if computed.features is None else computed.features[place],
                )
                place += 1
            made.append(function(answer))
        return made

    def _decode(self, path: Path) -> tuple[Cleaned | None, str]:
        return cleaned_of(self.preprocessing, path, draft=self.draft)

    def _computed(self, pictures: list[Cleaned]) -> Computed:
        return self.forward(np.stack([self.preprocessing.fit(cleaned)[None] for cleaned in pictures]))

    def forward(self, images: np.ndarray) -> Computed:
        """[B, 1, S, S] uint8 → what is said of each; all but logits is of the picture as it stands.

        Raises:
            RunError: A logit is not finite.
        """
        computed = self.engine.run(images)
        if self.flips:
            mirrored = self.engine.run(np.ascontiguousarray(images[..., ::-1]))
            computed = computed._replace(logits=(computed.logits + mirrored.logits) / 2)
        if not np.isfinite(computed.logits).all():
            raise RunError("the model's answers are not finite", hint="the training diverged: lower optim.lr")
        return computed


def cleaned_of(preprocessing: Preprocessing, path: Path, *, draft: bool = False) -> tuple[Cleaned | None, str]:
    """A clean picture, or None and why there is none: whatever it is, it must not end a batch."""
    if reason := unusable(path):
        return None, reason
    try:
        return preprocessing.load(path, draft=draft), ""
    except UnreadableImage as error:
        return None, error.reason
    except MissingDependency as error:
        return None, f"{error.what}: {error.hint}"


def streamed(
    function: Callable[[list[tuple[int, Path]]], list[A]],
    paths: Sequence[Path],
    batch_size: int,
    shared: Shared,
    asked: int | None,
) -> Generator[A, None, None]:
    """What a function makes of the paths, in their order; closed early, its threads end.

    Args:
        function: Of a few places and paths, one value of each; called on a stream's thread.
        paths: Picture files.
        batch_size: How many at a time, at most.
        shared: What the function runs.
        asked: Streams; 0 takes this thread, with all of the processor; None takes the best number.
    """
    streams = min(len(paths), shared.streams if asked is None else asked)
    streams = 0 if streams == 1 and asked is None else streams
    size = max(1, min(batch_size, -(-len(paths) // max(1, streams))))
    with shared.shared_by(max(1, streams)) as begin:
        for made in ordered_map(function, _chunks(paths, size), workers=streams, ahead=2 * streams, begin=begin):
            yield from made


def _chunks(paths: Iterable[Path], size: int) -> Iterator[list[tuple[int, Path]]]:
    numbered = iter(enumerate(paths))
    while chunk := list(itertools.islice(numbered, size)):
        yield chunk


def _nothing() -> None:
    pass


def ordered_map(
    function: Callable[[A], B],
    items: Iterable[A],
    *,
    workers: int,
    ahead: int,
    begin: Callable[[], None] = _nothing,
) -> Iterator[B]:
    """`map` over threads, in order, with at most `ahead` results waiting; without threads if `workers` is 0.

    Args:
        function: Called on any of the threads.
        items: Taken one by one.
        workers: Threads.
        ahead: Results.
        begin: Called once on each thread, before the first item.
    """
    if workers == 0:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers, initializer=begin) as pool:
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
