"""Pictures of more than 8 bits → 8 bits, by their own grey values. Called by preprocess."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fxcli.errors import UnreadableImage

_INNER_FRAC = (0.005, 0.995)
_BLOCK_PX = 1 << 20

Values = npt.NDArray[np.float64]


def to_8_bit(pixels: np.ndarray, window: str, path: Path) -> npt.NDArray[np.uint8]:
    """Grey values from black to white.

    Args:
        pixels: [H, W] of any number type; uint8 stays as it is. NaN becomes black.
        window: "percentile" (0.5–99.5) or "minmax".
        path: Named in errors.

    Raises:
        UnreadableImage: No value is finite.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 2:
        return _by_level(pixels, window)
    finite = pixels[np.isfinite(pixels)].astype(np.float64)
    if finite.size == 0:
        raise UnreadableImage(path, "no finite pixel value")
    low, high = ends = float(finite.min()), float(finite.max())
    if window == "percentile":
        low, high = np.quantile(finite, _INNER_FRAC, overwrite_input=True)
    del finite
    shades = np.empty(pixels.shape, dtype=np.uint8)
    for rows in _blocks(pixels):
        # A signalling NaN is one like others.
        with np.errstate(invalid="ignore"):
            block = pixels[rows].astype(np.float64)
        shades[rows] = _shades(block, low, high, ends)
    return shades


def _by_level(pixels: np.ndarray, window: str) -> npt.NDArray[np.uint8]:
    """The same for up to 16 bits: each of the few values that there can be is looked at once, and looked up."""
    unsigned = np.dtype(f"u{pixels.dtype.itemsize}")
    levels = np.arange(256**unsigned.itemsize, dtype=unsigned).view(pixels.dtype).astype(np.float64)
    codes = pixels.view(unsigned)
    counts = sum(np.bincount(codes[rows].ravel(), minlength=len(levels)) for rows in _blocks(codes))
    order = np.argsort(levels)
    values, upto = levels[order], np.cumsum(np.asarray(counts)[order])
    first, last = np.searchsorted(upto, (0, upto[-1] - 1), side="right")
    low, high = ends = float(values[first]), float(values[last])
    if window == "percentile":
        low, high = (_quantile(values, upto, frac) for frac in _INNER_FRAC)
    return np.asarray(_shades(levels, low, high, ends)[codes])


def _quantile(values: Values, upto: npt.NDArray[np.int64], frac: float) -> float:
    """As np.quantile gives it, of values that stand there so often that up to each there are so many."""
    place = frac * float(upto[-1] - 1)
    before = int(place)
    a, b = (float(values[np.searchsorted(upto, min(k, upto[-1] - 1), side="right")]) for k in (before, before + 1))
    t = place - before
    return a + (b - a) * t if t < 0.5 else b - (b - a) * (1 - t)


def _shades(values: Values, low: float, high: float, ends: tuple[float, float]) -> npt.NDArray[np.uint8]:
    # Of a nearly flat picture the percentiles are equal: take all there is.
    low, high = (low, high) if high > low else ends
    inside = np.clip(np.where(np.isnan(values), low, values), low, high)
    # A flat picture has no span, and is black.
    return np.asarray(((inside - low) / ((high - low) or 1.0) * 255.0).round(), dtype=np.uint8)


def _blocks(pixels: np.ndarray) -> Iterator[slice]:
    """Rows, so many at a time that what is made of them is small."""
    step = max(1, _BLOCK_PX // pixels.shape[1])
    return (slice(start, start + step) for start in range(0, pixels.shape[0], step))
