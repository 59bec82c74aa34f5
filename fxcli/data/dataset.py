"""Feeds training pictures to the loop: their order, their augmentation, and the processes that decode them.

Pictures for prediction and evaluation need none of this; they go through inference/pipeline.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from fxcli.console import console
from fxcli.data.augment import Augmenter
from fxcli.data.cache import Kept, Sight
from fxcli.data.preprocess import Preprocessing
from fxcli.errors import FxError, PluginError, RunError, UsageError, memory_used_up
from fxcli.recipe.schema import Augment
from fxcli.run.randomness import derive, generator

T = TypeVar("T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Seconds that a decoding process lives after SIGTERM: enough for the loop to end its step and save.
_GRACE_S = 20

# How many decoding processes there are at most, whatever a recipe says: a matter of the machine, so that a run which
# goes on may have fewer than it was started with.
MOST = "FX_MAX_WORKERS"


@dataclass(frozen=True)
class Draw:
    """One place in an epoch: which picture, and the seed of its augmentation."""

    index: int
    seed: int


# The pictures of an epoch, by their index, in the order in which they come.
Order = Callable[[np.random.Generator], np.ndarray]


def balanced(targets: Sequence[int]) -> Order:
    """Every class of [N] class indices is drawn equally often, with replacement, N in all."""
    classes = np.asarray(targets)
    weight = 1 / np.bincount(classes)[classes]
    return lambda rng: rng.choice(len(classes), size=len(classes), p=weight / weight.sum())


class Batches(Sampler[list[Draw]]):
    """The batches of an epoch, in an order that is a function of (seed, epoch).

    Args:
        count: Pictures of an epoch.
        batch_size: Pictures per batch; the last may be smaller.
        seed: Of the recipe.
        order: Which they are; None: all of `count`, shuffled.
        share: What of each batch is given; None: all of it.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int,
        order: Order | None = None,
        share: Callable[[list[Draw]], list[Draw]] | None = None,
    ) -> None:
        self.count, self.batch_size = count, batch_size
        self.seed, self.order, self.share = seed, order, share
        self.epoch = self.start = 0

    def begin(self, epoch: int, start: int = 0) -> None:
        """Chooses the epoch, counted over all phases, and how many of its batches are done already."""
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[list[Draw]]:
        rng = generator(self.seed, "order", self.epoch)
        order = self.order(rng) if self.order else rng.permutation(self.count)
        for first in range(self.start * self.batch_size, self.count, self.batch_size):
            places = range(first, min(first + self.batch_size, self.count))
            batch = [Draw(int(order[place]), derive(self.seed, "augment", self.epoch, place)) for place in places]
            yield self.share(batch) if self.share else batch

    def __len__(self) -> int:
        return -(-self.count // self.batch_size) - self.start


class TrainingPictures(Dataset[tuple[Tensor, int] | FxError]):
    """Augmented training pictures: [1, S, S] uint8 and the class index.

    An unreadable one gives its error as a value: raised in a worker process, it would lose its class.
    """

    def __init__(
        self, paths: Sequence[Path], targets: Sequence[int], preprocessing: Preprocessing, augment: Augment
    ) -> None:
        self.paths, self.targets = list(paths), list(targets)
        self.preprocessing = preprocessing
        self.augmenter = Augmenter(augment, preprocessing)
        self.kept: Kept | None = None

    @property
    def sight(self) -> Sight:
        """For `cache.keep`."""
        seen, crops = self.preprocessing, self.augmenter.settings.crop_scale is not None
        # Whether it is cropped, not how: phases that crop differently share what is kept.
        size = None if crops else [seen.image_size_px, seen.interpolation]
        settings = {"clean": asdict(seen.clean), "resize": seen.resize, "size": size}
        return Sight(self.paths, self.see, settings, seen.clean.prepared_px if crops else seen.image_size_px)

    def see(self, path: Path) -> np.ndarray:
        """[h, w] uint8: a picture before anything random.

        Raises:
            UnreadableImage: See `read`.
        """
        return self.augmenter.seen(self.preprocessing.load(path))

    def seen(self, index: int) -> np.ndarray:
        """The same of a picture by its index, from what is kept if it is.

        Raises:
            UnreadableImage: See `read`.
        """
        return self.kept[index] if self.kept else self.see(self.paths[index])

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int] | FxError:
        try:
            return self.augmenter(self.seen(draw.index), draw.seed), self.targets[draw.index]
        except FxError as error:
            return error

    def __len__(self) -> int:
        return len(self.paths)


class Views(Dataset[tuple[Tensor, ...] | FxError]):
    """The views of each picture, uint8 [3, S, S]; they are a function of the draw's seed and their number.

    An unreadable one, or a transform that fails, gives its error as a value: raised in a worker process, it would lose
    its class.
    """

    def __init__(
        self, paths: Sequence[Path], preprocessing: Preprocessing, transforms: Sequence[Callable[[Any], Any]]
    ) -> None:
        self.paths, self.preprocessing, self.transforms = list(paths), preprocessing, tuple(transforms)
        self.kept: Kept | None = None

    @property
    def sight(self) -> Sight:
        """For `cache.keep`."""
        clean, resize = self.preprocessing.clean, self.preprocessing.resize
        settings = {"clean": asdict(clean), "resize": resize, "size": "without the black around it"}
        return Sight(self.paths, self.see, settings, clean.prepared_px)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, ...] | FxError:
        try:
            seen = self.kept[draw.index] if self.kept else self.see(self.paths[draw.index])
        except FxError as error:
            return error
        picture, side_px = torch.from_numpy(seen.copy())[None], self.preprocessing.image_size_px
        views: list[Tensor] = []
        for number, transform in enumerate(self.transforms):
            with torch.random.fork_rng(devices=[]), console.aside():
                torch.manual_seed(derive(draw.seed, "view", number))
                try:
                    view = transform(picture)
                except Exception as error:
                    if memory_used_up(error):
                        raise
                    return PluginError(f"view {number} failed: {type(error).__name__}: {error}")
            if not isinstance(view, Tensor) or (view.shape, view.dtype) != ((3, side_px, side_px), torch.uint8):
                told = f"{view.dtype} {list(view.shape)}" if isinstance(view, Tensor) else type(view).__name__
                return PluginError(f"view {number} is {told}, not torch.uint8 [3, {side_px}, {side_px}]")
            views.append(view)
        return tuple(views)

    def see(self, path: Path) -> np.ndarray:
        """[h, w] uint8: what the model sees, without the black around it: two black views would teach nothing.

        Raises:
            UnreadableImage: See `read`.
        """
        cleaned = self.preprocessing.load(path)
        region, box = self.preprocessing.region(cleaned.box), cleaned.box
        left, top = (max(round(region[side]), box[side]) for side in (0, 1))
        right, bottom = (min(round(region[side]), box[side]) for side in (2, 3))
        return cleaned.pixels[top:bottom, left:right]

    def __len__(self) -> int:
        return len(self.paths)


def collate(items: list[Any]) -> Any:
    """A batch as torch makes it; or the error of a picture, which the loop raises in its own process."""
    return next((item for item in items if isinstance(item, FxError)), None) or default_collate(items)


def loader(
    dataset: Dataset[Any],
    batches: Sampler[list[Draw]],
    *,
    workers: int | None,
    join: Callable[[list[Any]], Any] = collate,
) -> DataLoader[Any]:
    """A DataLoader that leaves the global generator alone and keeps its processes from epoch to epoch.

    Args:
        dataset: What to load.
        batches: Their order.
        workers: Decoding processes; None takes one per core, at most 4. FX_MAX_WORKERS may allow fewer.
        join: What makes a batch of pictures.

    Raises:
        UsageError: FX_MAX_WORKERS is no number.
    """
    count = min(workers_of(workers), _most())
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=count,
        persistent_workers=count > 0,
        worker_init_fn=_ignore_signals,
        collate_fn=join,
        # Iterating draws a base seed: from this generator, not from the global one.
        generator=torch.Generator().manual_seed(0),
    )


def begun(loader: DataLoader[Any]) -> Iterator[Any]:
    """`iter(loader)` whose processes no signal to the group reaches: the loop needs them until it has stopped itself.

    They inherit that signals wait, and ignore them once they run. One that comes meanwhile reaches this process after.
    """
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        return _handed_over(iter(loader), loader.num_workers)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        return _handed_over(iter(loader), loader.num_workers)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _handed_over(batches: Iterator[Any], workers: int) -> Iterator[Any]:
    """The batches; a process that is killed as it hands one over leaves a broken socket, which torch tells as it is."""
    try:
        yield from batches
    except (ConnectionError, EOFError) as error:
        if not workers or str(error).startswith("Caught "):
            raise  # of the data, not of what lies between
        raise RuntimeError("DataLoader worker (pid unknown) ended as it handed over a batch") from error


def ended(loader: DataLoader[Any]) -> None:
    """Ends the loader's processes now; torch has no public way, and leaves it to the garbage collector."""
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None and hasattr(iterator, "_shutdown_workers"):
        try:
            iterator._shutdown_workers()
        except RuntimeError as error:
            # One was killed before, which the system tells only now; torch has ended the others all the same.
            if not is_lost_worker(error):
                raise


@contextlib.contextmanager
def attended(go_on: str = "") -> Iterator[None]:
    """Tells of a decoding process that the system ended, as a RunError; `go_on` is the command that trains on, if any.

    torch raises it in a signal handler: in the middle of whatever runs then, not only where a batch is taken.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_lost_worker(error):
            raise
        why = "because memory ran out, as a rule"
        hint = f"free some, or take fewer processes for decoding ({MOST}=1 in the environment, 0: none)"
        if "Bus error" in str(error):
            why = "because the memory that it shares with the training ran out"
            hint = f"enlarge /dev/shm (docker run --shm-size=2g), or decode without a process of its own ({MOST}=0)"
        raise RunError(
            f"the system ended a process that decodes pictures, {why}: {str(error).partition('. ')[0].rstrip('. ')}",
            hint=hint + (f"; what was saved is whole, and goes on with: {go_on}" if go_on else ""),
        ) from error


def is_lost_worker(error: Exception) -> bool:
    """Whether torch means that one of a loader's processes is no more; an error within one reads otherwise."""
    return str(error).startswith("DataLoader worker (pid")


def _ignore_signals(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        # SIGTERM ends them late, not never: Python itself sends it to those that are left when it exits.
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_S))
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def workers_of(asked: int | None) -> int:
    """How many processes or threads decode: as many as were asked for; None: one per core, at most 4."""
    return min(4, os.cpu_count() or 1) if asked is None else asked


def evenly(items: Sequence[T], most: int) -> list[T]:
    """All of them, or `most`, spread evenly over their order."""
    count = min(len(items), most)
    return [items[place * len(items) // count] for place in range(count)]


def _most() -> int:
    text = os.environ.get(MOST) or "256"
    if not text.isdecimal():
        raise UsageError(f"{MOST} must be a number of processes, not '{text}'")
    return int(text)
