"""Decoded training pictures, kept so that each is decoded once: in memory, or in a file that later runs find.

What is kept is what a training looks at before anything random happens to it, so that a run with it and one without
are equal to the bit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from torch import Tensor
from tqdm import tqdm

from fxcli import __version__
from fxcli.console import console
from fxcli.errors import UnreadableImage
from fxcli.run.cache import cache_dir, key_of, storing
from fxcli.run.files import sha256_of

# What `data.cache: auto` puts into memory at most.
LIMIT_BYTES = 2 << 30

_CHUNK = 64
# At the end of a file, after the pixels: JSON, its length, and this.
_END = b"fxpixels"
_TAIL = struct.Struct("<Q8s")


@dataclass(frozen=True)
class Sight:
    """What a training sees of its pictures before anything random.

    Attributes:
        paths: The files.
        see: One file → [h, w] uint8; raises UnreadableImage.
        settings: All that `see` is a function of, besides the file.
        side_px: h and w are at most this.
    """

    paths: Sequence[Path]
    see: Callable[[Path], np.ndarray]
    settings: Mapping[str, Any]
    side_px: int


class Kept:
    """Pictures by their index; sent to another process, they are shared and not copied.

    Args:
        key: Of all that they are a function of.
        shapes: [N, 2] height and width of each.
        memory: All pixels, flat; or None, where they lie in a file.
        file: It.
    """

    def __init__(self, key: str, shapes: np.ndarray, *, memory: Tensor | None = None, file: Path | None = None) -> None:
        self.key, self.shapes, self.memory, self.file = key, shapes, memory, file
        self._open()

    def __getitem__(self, index: int) -> np.ndarray:
        return self._flat[self._ends[index] : self._ends[index + 1]].reshape(self.shapes[index])

    def __len__(self) -> int:
        return len(self.shapes)

    def __getstate__(self) -> dict[str, Any]:
        # Not the mapping: pickle would copy what it maps.
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        self._ends = np.concatenate([[0], np.cumsum(self.shapes.prod(axis=1, dtype=np.int64))])
        self._flat: np.ndarray = (
            np.memmap(str(self.file), np.uint8, "r", shape=(int(self._ends[-1]),))
            if self.memory is None
            else self.memory.numpy()
        )


def keep(sight: Sight, mode: str, *, workers: int, before: Kept | None, check: Callable[[], None]) -> Kept | None:
    """Decodes all pictures, or finds them decoded.

    Args:
        sight: What to keep.
        mode: `data.cache`.
        workers: Decoding threads, and whether there will be other processes to share with.
        before: What another phase kept.
        check: Called now and then; may raise to end it.

    Returns:
        None where the recipe wants none or they do not fit; people are told.

    Raises:
        UnreadableImage: A picture cannot be read.
    """
    size_bytes = len(sight.paths) * sight.side_px**2
    if mode == "auto" and size_bytes > LIMIT_BYTES:
        console.note(
            f"decoded, the pictures take up to {size_bytes / 2**30:.1f} GiB, so they are decoded anew in each epoch; "
            f"data.cache=disk keeps them in {cache_dir()}"
        )
    if mode == "none" or (mode == "auto" and size_bytes > LIMIT_BYTES):
        return None
    versions = [__version__, np.__version__, PIL.__version__]
    key = key_of({"pictures": contents(sight.paths), "settings": dict(sight.settings), "versions": versions})
    if before is not None and before.key == key:
        return before
    try:
        if mode == "disk":
            return _on_disk(sight, key, workers, check)
        return _in_memory(sight, key, workers, check)
    except (OSError, MemoryError, RuntimeError) as error:
        console.warn(f"decoded pictures cannot be kept ({mode}): {error}; they are decoded anew in each epoch")
        return None


def contents(paths: Sequence[Path]) -> str:
    """A hash over the bytes of files, in order: a manifest's own hashes are of the raw pictures, and of another day.

    Raises:
        UnreadableImage: One cannot be read.
    """

    def digest(path: Path) -> str:
        try:
            return sha256_of(path)
        except OSError as error:
            raise UnreadableImage(path, f"cannot be read: {error.strerror or error}") from error

    with ThreadPoolExecutor() as pool:
        return hashlib.sha256("\n".join(pool.map(digest, paths)).encode()).hexdigest()


def _decoded(sight: Sight, workers: int, check: Callable[[], None]) -> Iterator[np.ndarray]:
    bar: tqdm[Any]
    with ThreadPoolExecutor(max(1, workers)) as pool, console.progress(total=len(sight.paths), what="decode") as bar:
        for first in range(0, len(sight.paths), _CHUNK):
            check()
            for picture in pool.map(sight.see, sight.paths[first : first + _CHUNK]):
                bar.update(1)
                yield picture


def _in_memory(sight: Sight, key: str, workers: int, check: Callable[[], None]) -> Kept:
    # The system gives memory only where it is written to, so too much costs nothing.
    flat, shapes, end = np.empty(len(sight.paths) * sight.side_px**2, np.uint8), [], 0
    for picture in _decoded(sight, workers, check):
        flat[end : end + picture.size] = picture.reshape(-1)
        shapes.append(picture.shape)
        end += picture.size
    memory = torch.from_numpy(flat[:end])
    # A forked process sees this memory as it is.
    if workers and multiprocessing.get_start_method() != "fork":
        with contextlib.suppress(FileNotFoundError):
            if (free := shutil.disk_usage("/dev/shm").free) < 2 * end:
                raise MemoryError(f"{end >> 20} MiB to share among processes, and /dev/shm has {free >> 20} MiB")
        memory = memory.share_memory_()  # type: ignore[no-untyped-call]
    return Kept(key, np.array(shapes), memory=memory)


def _on_disk(sight: Sight, key: str, workers: int, check: Callable[[], None]) -> Kept:
    file = cache_dir() / "pictures" / f"{key}.u8"
    if (found := _find(file, key, len(sight.paths))) is not None:
        return found
    try:
        _write(file, _decoded(sight, workers, check))
    except OSError:
        # On Windows a file that another run has open cannot be replaced; that run made it, and it will do.
        if (found := _find(file, key, len(sight.paths))) is None:
            raise
        return found
    if (found := _find(file, key, len(sight.paths))) is None:
        raise OSError(f"{file} was not written as it should be")
    return found


def _write(file: Path, pictures: Iterator[np.ndarray]) -> None:
    shapes, digest = [], hashlib.sha256()
    with storing(file) as part, part.open("wb") as out:
        for picture in pictures:
            pixels = picture.tobytes()
            digest.update(pixels)
            out.write(pixels)
            shapes.append(picture.shape)
        tail = json.dumps({"shapes": shapes, "sha256": digest.hexdigest()}).encode()
        out.write(tail + _TAIL.pack(len(tail), _END))


def _find(file: Path, key: str, count: int) -> Kept | None:
    """A file that `_write` finished and nobody changed since; None, and a warning, if it is damaged."""
    if not file.is_file():
        return None
    try:
        with file.open("rb") as handle:
            handle.seek(-_TAIL.size, 2)
            size, end = _TAIL.unpack(handle.read())
            length = handle.seek(-_TAIL.size - size, 2)
            tail = json.loads(handle.read(size))
            shapes = np.array(tail["shapes"], dtype=np.int64).reshape(-1, 2)
            handle.seek(0)
            digest, left = hashlib.sha256(), length
            while chunk := handle.read(min(left, 1 << 20)):
                digest.update(chunk)
                left -= len(chunk)
        sound = end == _END and length == shapes.prod(axis=1).sum() and digest.hexdigest() == tail["sha256"]
        if sound and len(shapes) == count:
            return Kept(key, shapes, file=file)
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        pass
    console.warn(f"{file} is damaged; the pictures are decoded anew")
    return None
