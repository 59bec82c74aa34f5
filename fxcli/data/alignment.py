"""Whether two pictures are one and the same: lays one over the other, and looks at how far the details agree.

An affine map is guessed from keypoints or from equal hashes, refined on the grey values, and judged there: two wrists
in one pose agree in their outlines, two copies of a picture also in their fine structure. Called by data/duplicates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from fxcli.data.keypoints import UNIT, Keypoints
from fxcli.data.views import View

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]

# At least so many keypoints, in places of their own, follow one map.
LEAST_MATCHES = 5
# A match is nearer than this part of the distance to the next best (Lowe 2004, section 7.1), or very near.
_RATIO, _NEAR, _FAR = 0.85, 0.35, 0.75
# How far a keypoint may lie from where the map puts it, in pixels, as the map gets better.
_TOLERANCES_PX = (7.5, 5.0, 3.5, 2.5, 2.5)
_MOST_SCALE, _MOST_STRETCH = 5.0, 2.2
_LEAST_OVERLAP_PX = 100


@dataclass(frozen=True)
class Affine:
    """A map from places in one picture to places in another: `matrix` · (x, y) + `shift`, in pixels of their views."""

    matrix: Doubles
    shift: Doubles

    @property
    def is_plausible(self) -> bool:
        """Whether a copy of a picture could be scaled and stretched so."""
        large, small = np.linalg.svd(self.matrix, compute_uv=False)
        return bool(small * _MOST_SCALE > 1 and large < _MOST_SCALE and large < _MOST_STRETCH * small)

    def inverse(self) -> Affine:
        """The way back."""
        matrix = np.asarray(np.linalg.inv(self.matrix), dtype=np.float64)
        return Affine(matrix, -matrix @ self.shift)

    def box(self, shape: tuple[int, ...], *, within: tuple[int, ...]) -> Box:
        """(left, top, right, bottom) of where a picture [h, w] comes to lie in another."""
        height, width = shape
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ self.matrix.T + self.shift
        low, high = (np.clip(edge, 0, within[::-1]) for edge in (corners.min(axis=0), corners.max(axis=0)))
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def scaled(self, factor: float) -> Affine:
        """The same between both pictures enlarged by a factor."""
        return Affine(self.matrix, self.shift * factor)


@dataclass(frozen=True)
class Agreement:
    """How well two pictures agree where they overlap.

    Attributes:
        score: Mean local correlation of the fine structure, at most 1; see `_agreement`.
        overlap_frac: Area of the overlap as a fraction of the smaller picture.
        affine: From the one to the other.
    """

    score: float
    overlap_frac: float
    affine: Affine


def by_orientation(a: View, b: View, orientation: int) -> Affine:
    """The map that lays all of `a` over all of `b`, given that `b` in this orientation looks like `a`."""
    (height, width), (other_height, other_width) = a.pixels.shape, b.pixels.shape
    # In coordinates from -1 to 1, x right and y down, np.rot90 takes each pixel from (-y, x).
    turn = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), orientation % 4)
    unit = np.diag([-1.0, 1.0]) @ turn if orientation >= 4 else turn
    matrix = np.diag([other_width, other_height]) @ unit @ np.diag([1 / width, 1 / height])
    centre, other = np.array([width - 1, height - 1]) / 2, np.array([other_width - 1, other_height - 1]) / 2
    return Affine(matrix, other - matrix @ centre)


def by_keypoints(a: View, b: View) -> Affine | None:
    """The map that most keypoints of `a` and `b` follow, mirrored or not; None if there are too few.

    Each match of two keypoints, having sizes and directions, is a guess of its own; none is drawn at random.
    """
    best, most = None, LEAST_MATCHES - 1
    if min(len(a.keypoints), len(b.keypoints)) < LEAST_MATCHES:
        return None
    for is_mirrored in (False, True):
        frames, others = _matches(a.keypoints, b.keypoints, is_mirrored)
        if len(frames) < LEAST_MATCHES:
            continue
        matrices, shifts = _guesses(frames, others, is_mirrored)
        reached = np.einsum("gij,mj->gmi", matrices, frames[:, :2]) + shifts[:, None]
        scale = np.sqrt(np.abs(np.linalg.det(matrices)))
        near = np.linalg.norm(reached - others[:, :2], axis=2) < 2 * _TOLERANCES_PX[1] * np.maximum(scale, 1)[:, None]
        for guess in np.argsort(-near.sum(axis=1), kind="stable")[:3]:
            affine, count = _fitted(frames, others, Affine(matrices[guess], shifts[guess]), near[guess])
            if count > most and affine.is_plausible:
                best, most = affine, count
    return best


def _matches(a: Keypoints, b: Keypoints, is_mirrored: bool) -> tuple[Floats, Floats]:
    """Frames [M, 4] of `a`, and those of `b` that look like them."""
    theirs = b.mirrored() if is_mirrored else b.descriptors
    similar = (a.descriptors.astype(np.float32) / UNIT) @ (theirs.astype(np.float32) / UNIT).T
    rows = np.arange(len(similar))
    nearest = similar.argmax(axis=1)
    first = similar[rows, nearest]
    similar[rows, nearest] = -1
    distance, next_distance = (np.sqrt(np.maximum(2 - 2 * x, 0)) for x in (first, similar.max(axis=1)))
    chosen = ((distance < _RATIO * next_distance) | (distance < _NEAR)) & (distance < _FAR)
    return a.frames[chosen], b.frames[nearest[chosen]]


def _guesses(frames: Floats, others: Floats, is_mirrored: bool) -> tuple[Doubles, Doubles]:
    """The similarity that each match implies: matrices [M, 2, 2] and shifts [M, 2]."""
    scale = others[:, 2] / frames[:, 2]
    turn = others[:, 3] + frames[:, 3] if is_mirrored else others[:, 3] - frames[:, 3]
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    matrices = np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1).astype(np.float64)
    if is_mirrored:
        matrices = matrices * np.array([1.0, -1.0])
    return matrices, others[:, :2] - np.einsum("mij,mj->mi", matrices, frames[:, :2])


def _fitted(frames: Floats, others: Floats, affine: Affine, near: npt.NDArray[np.bool_]) -> tuple[Affine, int]:
    """The affine map of the matches near a first guess, found in rounds, and how many places follow it."""
    for tolerance_px in _TOLERANCES_PX:
        if near.sum() < LEAST_MATCHES - 1:
            return affine, 0
        known = np.concatenate([frames[near, :2], np.ones((near.sum(), 1))], axis=1)
        # A little weight on the guess keeps matches along a line from fitting a map that collapses.
        weight = np.diag([0.3, 0.3, 1e-6])
        before = np.concatenate([affine.matrix.T, affine.shift[None]])
        solved = np.linalg.solve(known.T @ known + weight, known.T @ others[near, :2] + weight @ before)
        affine = Affine(solved[:2].T, solved[2])
        distance = np.linalg.norm(frames[:, :2] @ affine.matrix.T + affine.shift - others[:, :2], axis=1)
        near = distance < tolerance_px * max(1.0, float(np.sqrt(abs(np.linalg.det(affine.matrix)))))
    return affine, len(np.unique(np.rint(frames[near, :2] / 2), axis=0))


def agreement(a: View, b: View, guess: Affine) -> Agreement:
    """Refines a guess, at half the size and then in full, and judges it."""
    half_a, half_b = _halved(a.pixels), _halved(b.pixels)
    affine = _refined(half_a, half_b, guess.scaled(0.5), sigma_px=5.0, rounds=10)
    found = _agreement(half_a, half_b, affine, sigma_px=1.25)
    # What is far apart at half the size is not worth the rest; copies reach 0.44 at least there, others 0.2 mostly.
    if found.score > 0.3:
        affine = _refined(half_a, half_b, affine, sigma_px=2.5, rounds=8)
        found = _agreement(half_a, half_b, affine, sigma_px=1.25)
    if found.score > 0.4:
        full_a, full_b = a.pixels.astype(np.float32), b.pixels.astype(np.float32)
        affine = _refined(full_a, full_b, found.affine.scaled(2.0), sigma_px=5.0, rounds=6)
        return _agreement(full_a, full_b, affine, sigma_px=2.5)
    return Agreement(found.score, found.overlap_frac, affine.scaled(2.0))


def _halved(pixels: npt.NDArray[np.uint8]) -> Floats:
    height, width = pixels.shape
    half = Image.fromarray(pixels).resize((max(4, round(width / 2)), max(4, round(height / 2))), Image.Resampling.BOX)
    return np.asarray(half, dtype=np.float32)


def _warped(pixels: Floats, affine: Affine, shape: tuple[int, ...]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """A picture as it is seen through the map, and where that is inside it; elsewhere its edge goes on."""
    # scipy counts rows first.
    matrix, shift = affine.matrix[::-1, ::-1], affine.shift[::-1]
    seen = ndimage.affine_transform(pixels, matrix, shift, shape, np.float32, order=1, mode="nearest")
    y, x = np.arange(shape[0])[:, None], np.arange(shape[1])[None]
    inside = np.ones(shape, dtype=np.bool_)
    for (by_y, by_x), start, length in zip(matrix, shift, pixels.shape, strict=True):
        at = by_y * y + by_x * x + start
        inside &= (at >= 0) & (at <= length - 1)
    return np.asarray(seen), inside


def _evened(pixels: Floats, sigma_px: float) -> Floats:
    """Grey values less their local mean, over their local contrast."""
    detail = pixels - ndimage.gaussian_filter(pixels, sigma_px, mode="nearest", truncate=2.5)
    contrast = np.sqrt(ndimage.gaussian_filter(detail * detail, 1.5 * sigma_px, mode="nearest", truncate=2.5))
    return np.asarray(detail / (contrast + 4.0), dtype=np.float32)


def _refined(a: Floats, b: Floats, affine: Affine, *, sigma_px: float, rounds: int) -> Affine:
    """Moves the map to where the grey values agree best (Lucas–Kanade with robust weights: Baker & Matthews 2004)."""
    target, source = _evened(a, sigma_px), _evened(b, sigma_px)
    height, width = target.shape
    y, x = (part.astype(np.float32) for part in np.mgrid[:height, :width])
    # Of about the size of a shift, so that the six unknowns are of one order.
    across, down = (x - width / 2) / width, (y - height / 2) / height
    for _ in range(rounds):
        seen, inside = _warped(source, affine, target.shape)
        if inside.sum() < _LEAST_OVERLAP_PX:
            break
        by_y, by_x = np.gradient(seen)
        error = target - seen
        weight = inside / (1 + (error / 0.8) ** 2)
        slopes = np.stack([by_x, by_x * across, by_x * down, by_y, by_y * across, by_y * down]).reshape(6, -1)
        weighted = slopes * weight.ravel()
        normal = weighted @ slopes.T
        normal += np.diag(1e-3 * np.diag(normal) + 1e-3)
        step = np.linalg.solve(normal.astype(np.float64), weighted @ error.ravel())
        shift, slope = step[[0, 3]], step[[[1, 2], [4, 5]]] / np.array([width, height])
        move = Affine(np.eye(2) + slope, shift - slope @ np.array([width / 2, height / 2]))
        affine = Affine(affine.matrix @ move.matrix, affine.matrix @ move.shift + affine.shift)
        if np.abs(step).max() < 0.05 or not affine.is_plausible:
            break
    return affine


def _agreement(a: Floats, b: Floats, affine: Affine, *, sigma_px: float) -> Agreement:
    """Local correlation of what is finer than `sigma_px`, its mean weighted by how much of a corner each place is.

    Along an edge, such as the side of a bone, all pictures agree once they are laid over each other; at corners, and in
    the structure of the bone, only copies do. The weight is the smaller eigenvalue of the structure tensor (Shi &
    Tomasi 1994), in that picture where it is less: an arrow on one of them counts little.
    """
    seen, inside = _warped(b, affine, a.shape)
    area = int(inside.sum())
    scale = abs(float(np.linalg.det(affine.matrix)))
    overlap_frac = area / min(float(a.size), b.size / max(scale, 1e-6))
    if area < _LEAST_OVERLAP_PX:
        return Agreement(0.0, overlap_frac, affine)
    share = inside.astype(np.float32)
    mine, theirs = (_finer(values, sigma_px) * share for values in (a, seen))

    def around(values: Floats) -> Floats:
        return np.asarray(ndimage.gaussian_filter(values, 3.2 * sigma_px, mode="constant", truncate=2.5))

    count = around(share) + np.float32(1e-6)

    def local(values: Floats) -> Floats:
        return np.asarray(around(values) / count)

    power, other_power, common = (local(values) for values in (mine * mine, theirs * theirs, mine * theirs))
    # One grey level squared: what is flatter is noise.
    correlation = common / np.sqrt((power + 1) * (other_power + 1))
    weight = np.sqrt(np.minimum(_cornerness(mine, local), _cornerness(theirs, local))) * share
    score = float((correlation * weight).sum() / (weight.sum() + 1e-6))
    return Agreement(score, overlap_frac, affine)


def _finer(values: Floats, sigma_px: float) -> Floats:
    return np.asarray(values - ndimage.gaussian_filter(values, sigma_px, mode="nearest"))


def _cornerness(values: Floats, local: Callable[[Any], Floats]) -> Floats:
    by_y, by_x = np.gradient(values)
    xx, yy, xy = local(by_x * by_x), local(by_y * by_y), local(by_x * by_y)
    return np.asarray(np.maximum((xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy * xy), 0))
