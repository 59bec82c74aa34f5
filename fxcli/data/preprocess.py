"""Preprocessing: `clean` (what fx prepare does) and `fit` (to the model's input). One object serves everywhere.

It is saved in the model file as a plain mapping, so train, evaluate, predict, cam and export cannot drift apart.
A picture that fx prepared says so in its file, and `clean` leaves it as it is. Random changes are in augment.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from PIL import Image

from fxcli.data.radiograph import MAX_PIXELS, Caution, Radiograph
from fxcli.data.read import read
from fxcli.data.window import to_8_bit
from fxcli.errors import DataError, UnreadableImage
from fxcli.zoo.specs import LEAST_SIZE_PX, MOST_SIZE_PX

if TYPE_CHECKING:
    from torch import Tensor

Box = tuple[int, int, int, int]

# Of a blank picture the grey values but the darkest and the brightest hundredth lie within this: JPEG noise is less.
_FLAT, _OUTLIERS_FRAC, _SAMPLED_PX = 24, 0.01, 128
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Cleaned:
    """A clean picture.

    Attributes:
        pixels: [P, P] uint8; the radiograph letterboxed on black.
        box: (left, top, right, bottom) of the radiograph within it, in its pixels.
        width_px: Of the original, after EXIF turning.
        height_px: Likewise.
        is_phantom: Whether fx drew it.
        cautions: What people should know of it.
    """

    pixels: np.ndarray
    box: Box
    width_px: int
    height_px: int
    is_phantom: bool = False
    cautions: tuple[Caution, ...] = ()


@dataclass(frozen=True)
class Clean:
    """First half: any radiograph → 8-bit, letterboxed to a square of `prepared_px`.

    Attributes:
        prepared_px: Side of the square.
        window: "percentile" (0.5–99.5) or "minmax": how pictures of more than 8 bits become 8-bit.
    """

    prepared_px: int = 640
    window: str = "percentile"

    def __call__(self, radiograph: Radiograph, path: Path) -> Cleaned:
        """Cleans a radiograph, or recognises one that is clean already.

        Args:
            radiograph: As `read` gives it.
            path: Named in errors.

        Raises:
            UnreadableImage: The picture holds no finite value, or was prepared with other settings.
        """
        if radiograph.mark is not None and "clean" in radiograph.mark:
            return self._recognised(radiograph, radiograph.mark, path)
        pixels = to_8_bit(radiograph.pixels, self.window, path)
        width_px, height_px = radiograph.width_px, radiograph.height_px
        box = letterbox(width_px, height_px, self.prepared_px)
        square = Image.new("L", (self.prepared_px, self.prepared_px))
        size = (box[2] - box[0], box[3] - box[1])
        inside = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        square.paste(inside, box[:2])
        cautions = (*radiograph.cautions, *_blank(inside))
        return Cleaned(np.asarray(square), box, width_px, height_px, radiograph.is_phantom, cautions)

    def mark(self, cleaned: Cleaned) -> dict[str, Any]:
        """What `fx prepare` writes into the file, so that it is recognised later."""
        size = {"width_px": cleaned.width_px, "height_px": cleaned.height_px}
        return {"clean": asdict(self), **size, **({"phantom": True} if cleaned.is_phantom else {})}

    def _recognised(self, radiograph: Radiograph, mark: dict[str, Any], path: Path) -> Cleaned:
        if mark["clean"] != asdict(self):
            own = " ".join(f"--set data.{key}={value}" for key, value in asdict(self).items())
            raise UnreadableImage(path, f"prepared with other settings ({mark['clean']}) than here: fx prepare … {own}")
        side, (width_px, height_px) = self.prepared_px, (mark.get("width_px"), mark.get("height_px"))
        if (
            radiograph.pixels.shape != (side, side)
            or radiograph.pixels.dtype != np.uint8
            or not (_is_whole(width_px, 1, MAX_PIXELS) and _is_whole(height_px, 1, MAX_PIXELS))
        ):
            raise UnreadableImage(path, "says that fx prepared it, but was changed since")
        box = letterbox(width_px, height_px, side)
        cautions = _blank(Image.fromarray(radiograph.pixels).crop(box))
        return Cleaned(radiograph.pixels, box, width_px, height_px, radiograph.is_phantom, cautions)

    @classmethod
    def from_mapping(cls, values: Any) -> Clean:
        """From `asdict` of one, as fingerprint.json and model files hold it.

        Raises:
            DataError: A value is absent, unknown or out of range.
        """
        keys = {"prepared_px", "window"}
        if (
            not isinstance(values, dict)
            or values.keys() != keys
            or not _is_whole(values["prepared_px"], 32, 4096)
            or values["window"] not in ("percentile", "minmax")
        ):
            raise DataError(f"not a cleaning of fx: {values}")
        return cls(**values)


def letterbox(width_px: int, height_px: int, side_px: int) -> Box:
    """(left, top, right, bottom) of a picture scaled into the middle of a square, at least one pixel a side."""
    factor = side_px / max(width_px, height_px)
    width, height = max(1, round(width_px * factor)), max(1, round(height_px * factor))
    left, top = (side_px - width) // 2, (side_px - height) // 2
    return left, top, left + width, top + height


def _blank(picture: Image.Image) -> tuple[Caution, ...]:
    """A caution if an 8-bit picture has next to no contrast."""
    counts = np.cumsum(picture.resize((_SAMPLED_PX, _SAMPLED_PX), Image.Resampling.NEAREST).histogram())
    low, high = np.searchsorted(counts, (_OUTLIERS_FRAC * counts[-1], (1 - _OUTLIERS_FRAC) * counts[-1]))
    return (Caution.BLANK,) if high - low <= _FLAT else ()


def _is_whole(value: Any, low: int, high: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


@dataclass(frozen=True)
class Preprocessing:
    """Both halves, and the model's normalisation.

    Attributes:
        clean: First half.
        image_size_px: Side of the model's input.
        resize: "letterbox" (the whole square), "squash" (the radiograph stretched), "crop" (its central square).
        mean: Per channel, subtracted from pixels in [0, 1].
        std: Per channel, divided by after that.
        interpolation: "bilinear" or "bicubic".
    """

    clean: Clean
    image_size_px: int
    resize: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear"

    def load(self, path: Path, *, draft: bool = False) -> Cleaned:
        """Reads and cleans a picture.

        Args:
            path: The file.
            draft: Whether a large JPEG may be decoded at a fraction of its size that is still at least twice
                `prepared_px`: faster, and grey values differ a little.

        Raises:
            UnreadableImage: See `read` and `Clean`.
        """
        return self.clean(read(path, draft_px=2 * self.clean.prepared_px if draft else None), path)

    def region(self, box: Box) -> Box:
        """(left, top, right, bottom) of what the model sees of a clean picture with this `box`, in its pixels."""
        left, top, right, bottom = box
        if self.resize == "letterbox":
            return 0, 0, self.clean.prepared_px, self.clean.prepared_px
        if self.resize == "squash":
            return left, top, right, bottom
        side = min(right - left, bottom - top)
        left, top = left + (right - left - side) // 2, top + (bottom - top - side) // 2
        return left, top, left + side, top + side

    def fit(self, cleaned: Cleaned) -> np.ndarray:
        """The model's view of a clean picture, [S, S] uint8."""
        left, top, right, bottom = self.region(cleaned.box)
        # Cut out first: resize(box=…) would blend in what lies just outside, the black around the radiograph.
        image = Image.fromarray(cleaned.pixels[top:bottom, left:right])
        return np.asarray(image.resize((self.image_size_px,) * 2, _FILTERS[self.interpolation]))

    def normalise(self, images: Tensor) -> Tensor:
        """[B, 1, S, S] uint8 → [B, 3, S, S] float32, grey in all three channels."""
        pixels = images.float().div(255.0)
        mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for the model file."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_mapping(cls, values: Any) -> Preprocessing:
        """The object again.

        Raises:
            DataError: A value is absent, unknown or out of range.
        """
        try:
            mean, std = (tuple(float(x) for x in values[name]) for name in ("mean", "std"))
            made = cls(**{**values, "clean": Clean.from_mapping(values["clean"]), "mean": mean, "std": std})
            valid = (
                len(mean) == len(std) == 3
                and all(math.isfinite(x) for x in (*mean, *std))
                and all(x > 0 for x in std)
                and made.resize in ("letterbox", "squash", "crop")
                and made.interpolation in _FILTERS
                and _is_whole(made.image_size_px, LEAST_SIZE_PX, MOST_SIZE_PX)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a preprocessing of fx: {error}") from error
        if not valid:
            raise DataError(f"a value of the preprocessing is out of range: {values}")
        return made
