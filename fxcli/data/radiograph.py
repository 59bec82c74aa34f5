"""What every reader gives: a radiograph, and what people should know of it. Opens no file: see read and dicom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from fxcli.console import console
from fxcli.errors import UnreadableImage

MAX_PIXELS = 80_000_000

# Tinted scans of radiographs begin at about a tenth; red arrows and letters stay below.
LEAST_COLOUR_FRAC = 0.1

_MIN_SIDE_PX = 16
# Distance of the colour channels, of 255, from which on a pixel is coloured, not a tinge of JPEG.
_COLOURED, _COLOUR_PX = 32, 128


class Caution(StrEnum):
    """What is odd about a picture that is used all the same, in the words of rows, reports and stderr."""

    FIRST = "the first of several pictures in one file"
    NO_END = "the JPEG lacks its end marker, but nothing of the picture"
    COLOUR = "in colour: a photograph or a tinted scan"
    BLANK = "blank: next to no contrast"
    FOR_PROCESSING = "FOR PROCESSING: raw values of a detector, not made for viewing"
    WINDOW = "its own window shows next to nothing, and was not used"


@dataclass(frozen=True)
class Radiograph:
    """A decoded picture.

    Attributes:
        pixels: [H, W] uint8, or of any other number type and then to be windowed; one channel, EXIF-turned, bright
            where it is white. NaN is padding.
        mark: What fx wrote into the file when it prepared it, or None for a picture from elsewhere.
        full_px: (width, height) of the original, EXIF-turned, where it was decoded at a fraction of that; else None.
        cautions: What people should know of it.
        colour_frac: The fraction of its area whose colour is far from grey.
        patient: Equal for pictures of one patient, in this process; "" if unknown. Never an id or a name.
        study: Likewise of a study.
        orientation: EXIF's number of the turn that the pixels were given, 1 to 8.
    """

    pixels: np.ndarray
    mark: dict[str, Any] | None = None
    full_px: tuple[int, int] | None = None
    cautions: tuple[Caution, ...] = ()
    colour_frac: float = 0.0
    patient: str = ""
    study: str = ""
    orientation: int = 1

    @property
    def width_px(self) -> int:
        """Of the original, EXIF-turned."""
        return self.full_px[0] if self.full_px else int(self.pixels.shape[1])

    @property
    def height_px(self) -> int:
        """Likewise."""
        return self.full_px[1] if self.full_px else int(self.pixels.shape[0])

    @property
    def is_phantom(self) -> bool:
        """Whether fx drew it."""
        return bool(self.mark and self.mark.get("phantom"))


def check_size(path: Path, width_px: int, height_px: int) -> None:
    """Whether a picture of this size may be decoded at all.

    Raises:
        UnreadableImage: It is too small to be a radiograph, or would take too much memory.
    """
    size = f"{width_px} × {height_px} px"
    if width_px * height_px > MAX_PIXELS:
        raise UnreadableImage(path, f"too many pixels: {size}; {most_pixels()}")
    if min(width_px, height_px) < _MIN_SIDE_PX:
        raise UnreadableImage(path, f"too small: {size}, at least {_MIN_SIDE_PX} are needed a side")


def most_pixels() -> str:
    """The limit, in words."""
    return f"at most {MAX_PIXELS:,} can be read"


def colour_frac(image: Image.Image) -> float:
    """The fraction of a decoded picture's area whose colour is far from grey, from a sample of its pixels."""
    if image.mode in ("L", "1", "I", "F") or image.mode.startswith("I;16"):
        return 0.0
    sample = image.resize((_COLOUR_PX, _COLOUR_PX), Image.Resampling.NEAREST)
    # Of a palette each entry may be transparent, which RGB has no word for.
    red, green, blue = (sample.convert("RGBA") if sample.mode == "P" else sample).convert("RGB").split()
    apart = ImageChops.lighter(ImageChops.difference(red, green), ImageChops.difference(green, blue))
    counts = ImageChops.lighter(apart, ImageChops.difference(blue, red)).histogram()
    return sum(counts[_COLOURED + 1 :]) / _COLOUR_PX**2


def warn_of(cautions: Iterable[Caution]) -> None:
    """Says on stderr what the pictures of a command needed saying, a line for each kind, with how many there are."""
    for caution, count in sorted(Counter(cautions).items()):
        console.warn(f"{count} {'picture' if count == 1 else 'pictures'}: {caution}")
