"""From a path to a radiograph: the only place where picture files are opened.

Content decides, not the file name. What cannot be used raises UnreadableImage with a reason for people.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from fxcli.errors import UnreadableImage

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

# Text entry of a PNG that fx wrote: JSON with what was done to it.
MARK = "fx"
# Its key in heat maps, which are no radiographs.
HEAT_MAP = "heat_map"
MAX_PIXELS = 80_000_000

# No others: Pillow would run programs (Ghostscript) for some of them.
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
_MIN_SIDE_PX = 16
# Distance of the colour channels, of 255, from which on a pixel is coloured, not a tinge of JPEG.
_COLOURED, _COLOUR_PX = 32, 128
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)

# A damaged EXIF block may hide a turn. Set once, here: catch_warnings is not safe in decoding threads.
warnings.filterwarnings("error", message="Corrupt EXIF data")
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Radiograph:
    """A decoded picture.

    Attributes:
        pixels: [H, W] uint8, uint16, int32 or float32; one channel, EXIF-turned, bright where it is white.
        mark: What fx wrote into the file when it prepared it, or None for a picture from elsewhere.
        full_px: (width, height) of the original, EXIF-turned, where it was decoded at a fraction of that; else None.
    """

    pixels: np.ndarray
    mark: dict[str, Any] | None
    full_px: tuple[int, int] | None = None

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


def read(path: Path, *, draft_px: int | None = None) -> Radiograph:
    """Decodes a picture.

    Args:
        path: The file.
        draft_px: A JPEG whose longer side is at least twice this is decoded at a half, a quarter or an eighth of its
            size (libjpeg's scaled inverse DCT), its longer side still at least this long; much less work.

    Raises:
        UnreadableImage: The file is absent, no picture, damaged, of several pages, a heat map of fx, or too small or
            large to be a radiograph.
    """
    try:
        # Opened here, not by Pillow: it would map an uncompressed TIFF into memory, and scrambles one that is turned.
        with path.open("rb") as handle, Image.open(handle, formats=_FORMATS) as image:
            _check(path, image)
            mark = _mark(image)
            if mark and HEAT_MAP in mark:
                raise UnreadableImage(path, "a heat map that fx drew")
            white_is_zero = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
            full_px = _drafted(image, draft_px) if draft_px else None
            image.load()
            pixels = _grey(_upright(image))
            # Pillow turns the values of such a TIFF round up to 8 bits, but not above.
            if white_is_zero and pixels.dtype != np.uint8:
                pixels = -pixels if pixels.dtype == np.float32 else ~pixels
            return Radiograph(pixels, mark, full_px)
    except UnreadableImage:
        raise
    except FileNotFoundError as error:
        raise UnreadableImage(path, "no such file") from error
    except IsADirectoryError as error:
        raise UnreadableImage(path, "this is a folder") from error
    except PermissionError as error:
        raise UnreadableImage(path, "permission denied") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage(path, "not a picture, or of an unknown format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(path, "too many pixels") from error
    except Exception as error:
        # Pillow's decoders raise nearly anything on damaged bytes, and one picture must not end a batch.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableImage(path, f"damaged: {reason}") from error


def colour_frac(path: Path) -> float:
    """The fraction of a picture's area whose colour is far from grey; 0 for what cannot be read.

    A file is opened once more for this, at an eighth of its size where the format allows: `read` must be quick.
    """
    try:
        with path.open("rb") as handle, Image.open(handle, formats=_FORMATS) as image:
            _check(path, image)
            image.draft("RGB", (_COLOUR_PX, _COLOUR_PX))
            if image.mode in ("L", "1", "I", "F") or image.mode.startswith("I;16"):
                return 0.0
            small = image.convert("RGB").resize((_COLOUR_PX, _COLOUR_PX), Image.Resampling.BOX)
    except Exception:
        # `read` says what is wrong with the file.
        return 0.0
    channels = np.asarray(small, dtype=np.int16)
    return float((channels.max(axis=2) - channels.min(axis=2) > _COLOURED).mean())


def _check(path: Path, image: Image.Image) -> None:
    size = f"{image.width} × {image.height} px"
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImage(path, f"too many pixels: {size}")
    if min(image.size) < _MIN_SIDE_PX:
        raise UnreadableImage(path, f"too small: {size}, at least {_MIN_SIDE_PX} are needed a side")
    pages = getattr(image, "n_frames", 1)
    # The further pages of an MPO, which telephones write as JPEG, are previews of the first.
    if pages > 1 and image.format != "MPO":
        raise UnreadableImage(path, f"{pages} pages in one file: save the radiograph as a file of its own")


def _drafted(image: Image.Image, draft_px: int) -> tuple[int, int] | None:
    """Lets a JPEG be decoded at a fraction of its size, if that is enough; its full size, EXIF-turned, if so."""
    width, height = image.size
    longer = max(width, height)
    if image.format != "JPEG" or longer < 2 * draft_px:
        return None
    # Pillow takes the smallest fraction that leaves each side at least as long as is asked.
    image.draft(None, (max(1, width * draft_px // longer), max(1, height * draft_px // longer)))
    if image.size == (width, height):
        return None
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _SIDEWAYS
    return (height, width) if turned else (width, height)


def _upright(image: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose also writes the EXIF block anew, and fails on tags that it cannot write.
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.asarray(image).astype({"I": np.int32, "F": np.float32}.get(image.mode, np.uint16))
    if image.mode in ("P", "PA", "LA", "La", "RGBA", "RGBa"):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.asarray(image.convert("L"))


def _mark(image: Image.Image) -> dict[str, Any] | None:
    text = getattr(image, "text", {}).get(MARK) if image.format == "PNG" else None
    if not isinstance(text, str):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
