"""What the search for duplicates keeps of a picture: small, without bars at its borders. Called by data/prepare."""

from __future__ import annotations

from dataclasses import dataclass

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

from fxcli.data import keypoints
from fxcli.data.keypoints import Keypoints

SIDE_PX = 128
ORIENTATIONS = 8
# Keypoints are looked for at twice SIDE_PX.
LOOKED_AT_PX = 256
_HASHED_PX = 32
# Rows and columns whose grey values lie within this are a bar, not a picture; JPEG noise is less.
_FLAT = 24
_LEAST_SIDE_PX = 8

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class View:
    """A picture, as small as comparing takes.

    Attributes:
        pixels: [h, w] uint8; the longer side has SIDE_PX.
        keypoints: In pixels of `pixels`.
        hashes: [ORIENTATIONS] uint64; perceptual hashes of its eight orientations.
        is_blank: Whether nothing is on it; such pictures are not compared.
    """

    pixels: Pixels
    keypoints: Keypoints
    hashes: npt.NDArray[np.uint64]
    is_blank: bool


def view(pixels: Pixels) -> View:
    """Looks at a picture [H, W]."""
    inside = trimmed(pixels)
    large = _shrunk(inside, LOOKED_AT_PX)
    found = keypoints.find(large)
    small = _shrunk(large, SIDE_PX)
    factor = small.shape[1] / large.shape[1], small.shape[0] / large.shape[0]
    scale = np.array([*factor, (factor[0] * factor[1]) ** 0.5, 1.0], np.float32)
    is_blank = int(inside.max()) - int(inside.min()) <= _FLAT
    return View(small, Keypoints(found.frames * scale, found.descriptors), _hashes(small), is_blank)


def trimmed(pixels: Pixels) -> Pixels:
    """A picture without bars at its borders; a picture that is nothing but bars stays as it is."""
    while True:
        rows = np.flatnonzero(pixels.max(axis=1) - pixels.min(axis=1) > _FLAT)
        columns = np.flatnonzero(pixels.max(axis=0) - pixels.min(axis=0) > _FLAT)
        if min(len(rows), len(columns)) < _LEAST_SIDE_PX:
            return pixels
        inside = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if inside.shape == pixels.shape:
            return pixels
        pixels = inside


def oriented(pixels: Pixels, orientation: int) -> Pixels:
    """One of the eight orientations: from 4 on mirrored, then turned by 90° orientation % 4 times."""
    return np.rot90(pixels[:, ::-1] if orientation >= 4 else pixels, orientation % 4)


def _shrunk(pixels: Pixels, side_px: int) -> Pixels:
    height, width = pixels.shape
    factor = side_px / max(height, width)
    size = max(_LEAST_SIDE_PX, round(width * factor)), max(_LEAST_SIDE_PX, round(height * factor))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _hashes(pixels: Pixels) -> npt.NDArray[np.uint64]:
    square = np.asarray(Image.fromarray(pixels).resize((_HASHED_PX, _HASHED_PX), Image.Resampling.LANCZOS))
    found = []
    for orientation in range(ORIENTATIONS):
        turned = Image.fromarray(np.ascontiguousarray(oriented(square, orientation)))
        found.append(np.packbits(imagehash.phash(turned).hash).view(">u8")[0])
    return np.array(found, dtype=np.uint64)
