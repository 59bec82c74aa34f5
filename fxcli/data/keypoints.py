"""Keypoints of a picture: blobs with their size and direction, each with a description of its surroundings.

After Lowe, "Distinctive image features from scale-invariant keypoints" (IJCV 2004), with the square root of
Arandjelović & Zisserman, "Three things everyone should know to improve object retrieval" (CVPR 2012). Turning, resizing
and cropping a picture leave them as they are; a mirrored one has them in another order. Called by data/views.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Floats = npt.NDArray[np.float32]

MOST = 160
# A descriptor has unit length; stored as whole numbers, a length of this.
UNIT = 512
_OCTAVES = 4
_SIGMA_PX = 1.6
_LEAST_SIDE_PX = 12
# Of the difference of Gaussians, where the picture's 1st to 99th percentile span 1.
_LEAST_CONTRAST = 0.003
# Ratio of the principal curvatures above which a blob is an edge (Lowe 2004, section 4.1).
_MOST_CURVED = 12.0
_BINS = 36
_CELLS, _DIRECTIONS = 4, 8
_SIZE = _CELLS * _CELLS * _DIRECTIONS


@dataclass(frozen=True)
class Keypoints:
    """The strongest keypoints of a picture.

    Attributes:
        frames: [N, 4] float32; x, y, size (all in pixels) and direction (radians, from x towards y).
        descriptors: [N, 128] uint8; of length UNIT.
    """

    frames: Floats
    descriptors: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.frames)

    def mirrored(self) -> npt.NDArray[np.uint8]:
        """The descriptors as they would be in a mirror."""
        return self.descriptors[:, _MIRROR]


def find(pixels: npt.NDArray[np.uint8]) -> Keypoints:
    """Finds up to MOST keypoints in a picture [H, W]."""
    low, high = np.percentile(pixels, (1, 99))
    level = (pixels.astype(np.float32) - low) / max(high - low, 16.0)
    level = _blurred(level, _SIGMA_PX)
    found: list[tuple[Floats, npt.NDArray[np.uint8], Floats]] = []
    for octave in range(_OCTAVES):
        if min(level.shape) < _LEAST_SIDE_PX:
            break
        levels = [level]
        for step in range(1, 5):
            # From one level to the next, σ grows by √2; what is blurred already counts (Lowe 2004, section 3).
            before, after = _SIGMA_PX * 2 ** ((step - 1) / 2), _SIGMA_PX * 2 ** (step / 2)
            levels.append(_blurred(levels[-1], float(np.sqrt(after**2 - before**2))))
        found += [(_enlarged(frames, octave), *rest) for frames, *rest in _of_octave(levels)]  # type: ignore[misc]
        level = levels[2][::2, ::2]
    if not found:
        return Keypoints(np.zeros((0, 4), np.float32), np.zeros((0, _SIZE), np.uint8))
    frames, descriptors, strengths = (np.concatenate(parts) for parts in zip(*found, strict=True))
    strongest = np.argsort(-strengths, kind="stable")[:MOST]
    return Keypoints(frames[strongest], descriptors[strongest])


def _blurred(level: Floats, sigma_px: float) -> Floats:
    return np.asarray(ndimage.gaussian_filter(level, sigma_px, mode="nearest", truncate=3.0), dtype=np.float32)


def _enlarged(frames: Floats, octave: int) -> Floats:
    """From pixels of an octave, every second one of the one before, to pixels of the picture."""
    return np.concatenate([frames[:, :3] * 2.0**octave, frames[:, 3:]], axis=1).astype(np.float32)


def _of_octave(levels: list[Floats]) -> list[tuple[Floats, npt.NDArray[np.uint8], Floats]]:
    """(frames, descriptors, strengths) of each of the two inner levels of an octave."""
    blobs = np.stack([after - before for before, after in itertools.pairwise(levels)])
    is_extreme = (blobs == ndimage.maximum_filter(blobs, size=3)) | (blobs == ndimage.minimum_filter(blobs, size=3))
    inner = np.zeros_like(is_extreme)
    inner[1:3, 5:-5, 5:-5] = True
    of_level, y, x = np.nonzero(is_extreme & inner & (np.abs(blobs) > _LEAST_CONTRAST))
    found = []
    for number in (1, 2):
        chosen = of_level == number
        x_px, y_px, strength = _sharpened(blobs[number], x[chosen], y[chosen])
        strongest = np.argsort(-strength, kind="stable")[:MOST]
        if len(strongest) == 0:
            continue
        sigma_px = _SIGMA_PX * 2 ** (number / 2)
        frames, source = _frames(levels[number], x_px[strongest], y_px[strongest], sigma_px)
        found.append((frames, _described(levels[number], frames), strength[strongest][source]))
    return found


def _sharpened(
    blob: Floats, x: npt.NDArray[np.intp], y: npt.NDArray[np.intp]
) -> tuple[Floats, Floats, npt.NDArray[np.float32]]:
    """Places to a fraction of a pixel and strengths of extrema; those on edges are left out."""
    here, left, right, above, below = (blob[y + dy, x + dx] for dy, dx in ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)))
    xx, yy = left + right - 2 * here, above + below - 2 * here
    xy = (blob[y + 1, x + 1] - blob[y + 1, x - 1] - blob[y - 1, x + 1] + blob[y - 1, x - 1]) / 4
    determinant, trace = xx * yy - xy * xy, xx + yy
    keep = (determinant > 0) & (trace * trace * _MOST_CURVED < determinant * (_MOST_CURVED + 1) ** 2)
    x_px = x[keep] + np.clip((left - right)[keep] / 2 / xx[keep], -0.5, 0.5)
    y_px = y[keep] + np.clip((above - below)[keep] / 2 / yy[keep], -0.5, 0.5)
    return x_px.astype(np.float32), y_px.astype(np.float32), np.abs(here[keep])


def _gradients(level: Floats) -> tuple[Floats, Floats]:
    """Length and direction of the gradient at each pixel."""
    by_y, by_x = np.gradient(level)
    return np.hypot(by_x, by_y), np.arctan2(by_y, by_x)


def _frames(level: Floats, x_px: Floats, y_px: Floats, sigma_px: float) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Frames of places, one for each of their main directions, and which place each is of (Lowe 2004, section 5)."""
    length, direction = _gradients(level)
    reach = round(4.5 * sigma_px)
    dy, dx = (part.ravel() for part in np.mgrid[-reach : reach + 1, -reach : reach + 1])
    weight = np.exp(-(dx * dx + dy * dy) / (2 * (1.5 * sigma_px) ** 2))
    at = _pixels(level, x_px[:, None] + dx, y_px[:, None] + dy)
    bins = np.rint(direction[at] * (_BINS / (2 * np.pi))).astype(int) % _BINS
    count = len(x_px)
    cell = np.arange(count)[:, None] * _BINS + bins
    histogram = np.bincount(cell.ravel(), (length[at] * weight).ravel(), count * _BINS).reshape(count, _BINS)
    smooth = ndimage.convolve1d(histogram, [1, 4, 6, 4, 1], axis=1, mode="wrap")
    before, after = np.roll(smooth, 1, axis=1), np.roll(smooth, -1, axis=1)
    is_peak = (smooth > before) & (smooth >= after) & (smooth >= 0.8 * smooth.max(axis=1, keepdims=True))
    place, peak = np.nonzero(is_peak)
    low, top, high = before[is_peak], smooth[is_peak], after[is_peak]
    angle = (peak + (low - high) / (2 * (low - 2 * top + high))) * (2 * np.pi / _BINS)
    frames = np.stack([x_px[place], y_px[place], np.full(len(place), sigma_px), angle], axis=1)
    return frames.astype(np.float32), place


def _pixels(level: Floats, x_px: Floats, y_px: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    height, width = level.shape
    rows = np.clip(np.rint(y_px), 0, height - 1).astype(np.intp)
    return rows, np.clip(np.rint(x_px), 0, width - 1).astype(np.intp)


def _described(level: Floats, frames: Floats) -> npt.NDArray[np.uint8]:
    """Descriptors [N, 128]: 4 × 4 cells of 8 directions, in the direction of each frame (Lowe 2004, section 6)."""
    length, direction = _gradients(level)
    x_px, y_px, sigma_px, angle = (frames[:, column, None] for column in range(4))
    cos, sin = np.cos(angle), np.sin(angle)
    at = _pixels(level, *_around(x_px, y_px, 6.0 * sigma_px, cos, sin))
    weight = length[at] * np.exp(-(_ALONG**2 + _ACROSS**2))
    turn = ((direction[at] - angle) * (_DIRECTIONS / (2 * np.pi))) % _DIRECTIONS
    low = np.floor(turn).astype(int) % _DIRECTIONS
    beyond = turn - np.floor(turn)
    count = len(frames)
    base = np.arange(count)[:, None] * _SIZE
    total = np.zeros(count * _SIZE)
    for cells, share in _CORNERS:
        for bins, part in ((low, 1 - beyond), ((low + 1) % _DIRECTIONS, beyond)):
            total += np.bincount((base + cells + bins).ravel(), (weight * share * part).ravel(), count * _SIZE)
    values = total.reshape(count, _SIZE)
    values /= np.linalg.norm(values, axis=1, keepdims=True) + 1e-9
    values = np.minimum(values, 0.2)
    values /= values.sum(axis=1, keepdims=True) + 1e-9
    return np.asarray(np.minimum(np.rint(np.sqrt(values) * UNIT), 255), dtype=np.uint8)


def _around(x_px: Floats, y_px: Floats, reach_px: Floats, cos: Floats, sin: Floats) -> tuple[Floats, Floats]:
    """Where the sampling grid of each frame lies."""
    return x_px + reach_px * (cos * _ALONG - sin * _ACROSS), y_px + reach_px * (sin * _ALONG + cos * _ACROSS)


def _grid() -> tuple[Floats, Floats]:
    at = ((np.arange(16) + 0.5) / 8 - 1).astype(np.float32)
    along, across = np.meshgrid(at, at)
    return along.ravel(), across.ravel()


def _corners() -> list[tuple[npt.NDArray[np.intp], Floats]]:
    """(offset in the descriptor, share) of each grid point, for each of the four cells that it is shared among."""
    (column, right), (row, down) = (
        (np.floor(at).astype(int), at - np.floor(at)) for at in ((part + 1) * 2 - 0.5 for part in (_ALONG, _ACROSS))
    )
    corners = []
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = column + dx, row + dy
        is_inside = (x >= 0) & (x < _CELLS) & (y >= 0) & (y < _CELLS)
        share = (right if dx else 1 - right) * (down if dy else 1 - down) * is_inside
        cell = np.clip(y, 0, _CELLS - 1) * _CELLS + np.clip(x, 0, _CELLS - 1)
        corners.append((cell * _DIRECTIONS, share.astype(np.float32)))
    return corners


def _mirror() -> npt.NDArray[np.intp]:
    """Order of a descriptor's entries in a mirror: across becomes its negative, and so do directions."""
    row, column, turn = np.meshgrid(np.arange(_CELLS), np.arange(_CELLS), np.arange(_DIRECTIONS), indexing="ij")
    order = ((_CELLS - 1 - row) * _CELLS + column) * _DIRECTIONS + (-turn) % _DIRECTIONS
    return np.asarray(order.ravel(), dtype=np.intp)


_ALONG, _ACROSS = _grid()
_CORNERS = _corners()
_MIRROR = _mirror()
