"""Features of pictures as files, written while they are predicted; memory holds one row.

    features.npy    float32 [N, D]: what the head sees of each picture, of several networks side by side; NaN where a
                    picture cannot be read
    paths.csv       `path`: what rows of predictions call each of the N pictures, in the same order

Both get their names when all is there; what stops it leaves nothing. Called by commands/predict.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from fxcli.errors import DataError, RunError
from fxcli.evaluation.table import csv_line
from fxcli.run.files import replacing, saying, write_text
from fxcli.run.lock import Lock

FEATURES, PATHS, SHEET = "features.npy", "paths.csv", "neighbours.png"


class FeatureFile:
    """Takes the rows of features.npy, one after the other.

    The array is not mapped into memory to be written: where the disk is full, that would end the process.

    Args:
        handle: Of the file, empty.
        count: N.
        width: D.
    """

    def __init__(self, handle: IO[bytes], count: int, width: int) -> None:
        self.handle, self.width = handle, width
        # Places of the pictures that could be read.
        self.readable: list[int] = []
        self.count = 0
        np.lib.format.write_array_header_1_0(handle, {"descr": "<f4", "fortran_order": False, "shape": (count, width)})

    def add(self, features: np.ndarray | None) -> None:
        """Writes the row of the next picture.

        Args:
            features: [M, D / M] float32, or None if it could not be read.

        Raises:
            RunError: They are not finite.
        """
        row = np.full(self.width, np.nan) if features is None else features.reshape(self.width)
        if features is not None:
            if not np.isfinite(features).all():
                raise RunError("the features are not finite", hint="the training diverged: lower optim.lr")
            self.readable.append(self.count)
        self.handle.write(row.astype("<f4").tobytes())
        self.count += 1


def check(folder: Path, *, overwrite: bool) -> None:
    """Whether features may go to a folder.

    Raises:
        DataError: There are some, or what is called like them.
    """
    taken = [folder / name for name in (FEATURES, PATHS, SHEET) if (folder / name).exists()]
    if taken and not overwrite:
        hint = "--overwrite replaces it; --features names another folder"
        raise DataError("this file exists", where=taken[0], hint=hint)


@contextlib.contextmanager
def going_to(
    folder: Path | None, paths: Sequence[str], width: int, *, beside: Path | None
) -> Iterator[FeatureFile | None]:
    """Gives what takes the features of each picture, in the order of the paths.

    Args:
        folder: Where the files go, in place of any that are there; None: nowhere, and there is nothing to give.
        paths: The cell of each picture.
        width: D.
        beside: A folder that this process has locked.

    Raises:
        DataError: They cannot be written.
        RunError: Another process is at work in this folder.
    """
    if folder is None:
        yield None
        return
    file = folder / FEATURES
    with saying(file):
        folder.mkdir(parents=True, exist_ok=True)
        is_locked = beside is not None and beside.resolve() == folder.resolve()
        with contextlib.nullcontext() if is_locked else Lock(folder), replacing(file) as part:
            with part.open("wb") as handle:
                yield FeatureFile(handle, len(paths), width)
            # Those of other features must not stand beside these, nor be named by their paths.
            for name in (SHEET, FEATURES):
                (folder / name).unlink(missing_ok=True)
            write_text(folder / PATHS, "".join(f"{csv_line([cell])}\n" for cell in ("path", *paths)))
