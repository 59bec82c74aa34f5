"""From stored values to what is shown: padding, rescale, VOI, MONOCHROME1, in this order (DICOM PS3.3 C.7.6, C.11).

Arrays and numbers only; what a file says is read by dicom.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

# Of a picture that a window leaves no more than this share of between black and white, next to nothing is left.
_LEAST_SHOWN_FRAC = 0.01

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """Which values are shown from black to white.

    Attributes:
        centre: Of the window, in rescaled values.
        width: More than 1 for LINEAR, more than 0 for the others.
        function: LINEAR, LINEAR_EXACT or SIGMOID.
    """

    centre: float
    width: float
    function: str = "LINEAR"

    def __call__(self, values: Values) -> Values:
        """Rescaled values → [0, 1] (C.11.2.1.2.1, C.11.2.1.3.2 and C.11.2.1.3.1)."""
        if self.function == "SIGMOID":
            # 1 / (1 + exp(-4 (x - c) / w)), which would overflow.
            return np.asarray((1 + np.tanh(2 * (values - self.centre) / self.width)) / 2)
        half = 0.5 if self.function == "LINEAR" else 0.0
        return np.clip((values - (self.centre - half)) / (self.width - 2 * half) + 0.5, 0, 1)


@dataclass(frozen=True)
class Lut:
    """A look-up table.

    Attributes:
        first: The value that is mapped to the first entry; those below are, too.
        entries: [N] uint16; values beyond them are mapped to the last.
        bits: Of an entry.
    """

    first: int
    entries: npt.NDArray[np.uint16]
    bits: int

    def look_up(self, values: Values) -> Values:
        """Values → entries (C.11.1.1.1, C.11.2.1.1)."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.intp)
        return np.asarray(self.entries[index], dtype=np.float64)

    def __call__(self, values: Values) -> Values:
        """Values → [0, 1]; of bits that no entry uses none counts, for some files state 16 and mean 12."""
        bits = min(self.bits, int(self.entries.max()).bit_length() or 1)
        return np.asarray(self.look_up(values) / (2**bits - 1))


@dataclass(frozen=True)
class Display:
    """How stored values are shown.

    Attributes:
        range: (lowest, highest) value that can be stored.
        rescale: (slope, intercept), or the modality LUT.
        voi: What is shown from black to white; None for all there is.
        is_inverted: MONOCHROME1: the lowest value is white.
        padding: (lowest, highest) stored value that is no picture, or None.
    """

    range: tuple[float, float]
    rescale: tuple[float, float] | Lut = (1.0, 0.0)
    voi: Window | Lut | None = None
    is_inverted: bool = False
    padding: tuple[float, float] | None = None

    def values(self, stored: Values) -> Values:
        """Stored → rescaled, inverted within the range that can be stored, NaN where there is no picture."""
        shown = self._rescaled(stored)
        if self.is_inverted:
            # Before any window: of both kinds of MONOCHROME the same values are left for one to be found in.
            shown = self._rescaled(np.array(self.range)).sum() - shown
        return np.where(self._is_padding(stored), np.nan, shown)

    def shades(self, stored: Values) -> npt.NDArray[np.uint8]:
        """Stored → 0 to 255 by the VOI; black where there is no picture."""
        if self.voi is None:
            low, high = self.range
            shown = np.clip((stored - low) / (high - low), 0, 1)
        else:
            shown = self.voi(self._rescaled(stored))
        shown = 1 - shown if self.is_inverted else shown
        is_none = self._is_padding(stored) | np.isnan(shown)
        return np.asarray(np.rint(np.where(is_none, 0, 255 * shown)), dtype=np.uint8)

    def _rescaled(self, stored: Values) -> Values:
        if isinstance(self.rescale, Lut):
            return self.rescale.look_up(stored)
        slope, intercept = self.rescale
        return slope * stored + intercept

    def _is_padding(self, stored: Values) -> npt.NDArray[np.bool_]:
        low, high = self.padding or (np.inf, -np.inf)
        return (stored >= low) & (stored <= high)


def show(stored: np.ndarray, display: Display) -> tuple[np.ndarray, bool]:
    """A picture as it is to be seen.

    Args:
        stored: [H, W], of any number type.
        display: How.

    Returns:
        [H, W] uint8; or of another type, to be windowed, where a picture of more than 8 bits has no VOI, or one that
        shows next to nothing. And whether that is so.
    """
    if display.voi is not None:
        shades = _of_each(stored, display.shades, display.range)
        if sum(Image.fromarray(shades).histogram()[1:255]) >= _LEAST_SHOWN_FRAC * shades.size:
            return shades, False
    # Without a window up to 8 bits are as they are meant to be seen.
    is_shallow = stored.dtype.kind in "iu" and display.range[1] - display.range[0] <= 255
    of = replace(display, voi=None).shades if is_shallow and display.rescale == (1.0, 0.0) else display.values
    return _of_each(stored, of, display.range), display.voi is not None


def _of_each(stored: np.ndarray, function: Callable[[Values], np.ndarray], ends: tuple[float, float]) -> np.ndarray:
    """A function of every pixel; of up to 16 bits by a table of all values: quick, and small in memory."""
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2:
        return _compact(function(stored.astype(np.float64)))
    unsigned = np.dtype(f"u{stored.dtype.itemsize}")
    levels = np.arange(256**unsigned.itemsize, dtype=unsigned).view(stored.dtype)
    found: np.ndarray = _compact(function(np.clip(levels.astype(np.float64), *ends)))[stored.view(unsigned)]
    return found


def _compact(values: np.ndarray) -> np.ndarray:
    """The same values as whole numbers of 16 bits, where they are such, else as float32; uint8 stays what it is."""
    if values.dtype == np.uint8:
        return values
    for kind in (np.uint16, np.int16):
        ends = np.iinfo(kind)
        # NaN is in no range.
        if values.min() >= ends.min and values.max() <= ends.max and np.array_equal(values, np.rint(values)):
            return values.astype(kind)
    # What is too large for them is infinite, as in the division that made it.
    with np.errstate(over="ignore"):
        return values.astype(np.float32)
