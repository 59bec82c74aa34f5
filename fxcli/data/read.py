"""From a path to a radiograph: the only place where picture files are opened. DICOM is passed on to dicom.

Content decides, not the file name. What cannot be used raises UnreadableImage with a reason for people; what is odd
about the rest is among its cautions.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from fxcli.data import containers, dicom, dicom_header, jpeg
from fxcli.data.radiograph import LEAST_COLOUR_FRAC, Caution, Radiograph, check_size, colour_frac, most_pixels
from fxcli.errors import MissingDependency, UnreadableImage

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".dcm", ".dicom")
# Of pictures by other names, and of some that fx cannot read.
_OTHER_ENDINGS = (".jfif", ".jpe", ".mpo", ".ima", ".img", ".dic", ".acr", ".jp2", ".heic", ".heif", ".avif")

# Text entry of a PNG that fx wrote: JSON with what was done to it.
MARK = "fx"
# Its key in heat maps, which are no radiographs.
HEAT_MAP = "heat_map"

# No others: Pillow would run programs (Ghostscript) for some of them.
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
# A TIFF that does not say has whole numbers without a sign.
_SAMPLE_FORMAT, _UNSIGNED, _SIGNED = 339, (1,), (2,)
# Of 16 bits a channel Pillow keeps the upper 8. Below this, of 255, too little is left.
_LEAST_TOP = 64
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
_BITS, _CHANNELS, _PLANAR, _SEPARATE = 258, 277, 284, 2
# Width and length of the tiles of a TIFF; those of usual ones have 512 pixels a side at most.
_TILE, _LARGE_TILE_PIXELS = (322, 323), 1 << 22
_EXIF, _TIFF_STARTS, _TIFF_HEADER_BYTES = b"Exif\0\0", (b"II*\0", b"MM\0*"), 8

# What Pillow warns of is told by cautions and reasons, or by nobody: users cannot do anything about its words. But a
# damaged EXIF block may hide a turn. Set once, here: catch_warnings is not safe in decoding threads.
warnings.filterwarnings("ignore", module="PIL")
warnings.filterwarnings("error", message="Corrupt EXIF data")
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# Pillow can unpack them, but does not know that a TIFF may hold them.
for _order, _format, _bits, _modes in (
    (TiffImagePlugin.II, 3, 64, ("F", "F;64F")),
    (TiffImagePlugin.MM, 3, 64, ("F", "F;64BF")),
    (TiffImagePlugin.MM, 1, 32, ("I", "I;32B")),
):
    TiffImagePlugin.OPEN_INFO.setdefault((_order, 1, (_format,), 1, (_bits,), ()), _modes)


def without_ending(name: str) -> str:
    """A picture's name or path without its ending; the last part of a UID is none."""
    ending = next((each for each in (*EXTENSIONS, *_OTHER_ENDINGS) if name.lower().endswith(each)), "")
    return name[: len(name) - len(ending)]


def read(path: Path, *, draft_px: int | None = None) -> Radiograph:
    """Decodes a picture.

    A JPEG that is cut short is refused, unless all that it lacks is the end marker: the test is that no pixel changes
    with what stands in place of the rest. It is made where there is no marker, and where the last row is one grey.

    Args:
        path: The file.
        draft_px: A JPEG whose longer side is at least twice this is decoded at a half, a quarter or an eighth of its
            size (libjpeg's scaled inverse DCT), its longer side still at least this long; much less work.

    Raises:
        UnreadableImage: The file is absent, no picture, damaged, a heat map of fx, or too small or large to be a
            radiograph; or DICOM, and no radiograph.
        MissingDependency: It is DICOM, and the package for that is not installed.
    """
    try:
        # Opened here, not by Pillow: it would map an uncompressed TIFF into memory, and scrambles one that is turned.
        with path.open("rb") as handle:
            start = handle.read(dicom_header.START_BYTES)
            is_dicom = dicom_header.is_dicom(start)
            handle.seek(0)
            containers.check(handle, path)
            return dicom.read(handle, path) if is_dicom else _picture(handle, path, draft_px)
    except (UnreadableImage, MissingDependency):
        raise
    except FileNotFoundError as error:
        raise UnreadableImage(path, "no such file") from error
    except IsADirectoryError as error:
        raise UnreadableImage(path, "this is a folder") from error
    except PermissionError as error:
        raise UnreadableImage(path, "permission denied") from error
    except UnidentifiedImageError as error:
        known = containers.unread(start) or "not a picture, or of an unknown format"
        raise UnreadableImage(path, known if start else "an empty file") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(path, f"too many pixels; {most_pixels()}") from error
    except MemoryError as error:
        raise UnreadableImage(path, "the memory of the computer is used up") from error
    except Exception as error:
        # Pillow's decoders raise nearly anything on damaged bytes, and one picture must not end a batch.
        reason = str(error).splitlines()[0].strip() if str(error) else type(error).__name__
        raise UnreadableImage(path, f"damaged: {reason}") from error


def _picture(handle: BinaryIO, path: Path, draft_px: int | None) -> Radiograph:
    with Image.open(handle, formats=_FORMATS) as image:
        check_size(path, *image.size)
        _check_exif(image)
        _check_tiles(image, path)
        _check_planes(image, path)
        _expect_native_order(image)
        # First: to look for text in a PNG decodes it.
        is_cut_deep = _is_cut_deep(image)
        mark = _mark(image)
        if mark and HEAT_MAP in mark:
            raise UnreadableImage(path, "a heat map that fx drew")
        # The further pages of an MPO, which telephones write as JPEG, are previews of the first.
        several = getattr(image, "is_animated", False) and image.format != "MPO"
        tags = getattr(image, "tag_v2", {})
        white_is_zero, sample_format = tags.get(_PHOTOMETRIC), tags.get(_SAMPLE_FORMAT, _UNSIGNED)
        full_px = _drafted(image, draft_px) if draft_px else None
        orientation = _orientation(image)
        is_jpeg = image.format in ("JPEG", "MPO")
        if is_jpeg and not jpeg.has_end(handle):
            found = _picture(io.BytesIO(jpeg.ended(handle, path)), path, draft_px)
            return replace(found, cautions=(*found.cautions, Caution.NO_END))
        image.load()
        # An end marker may hide that it was cut: a row of grey tells, and of a progressive one nothing does.
        if is_jpeg and (jpeg.ends_flat(image) or "progressive" in image.info):
            jpeg.ended(handle, path)
        colour = colour_frac(image)
        # A TIFF is turned while it is loaded, and then says nothing of it any more.
        if is_cut_deep and isinstance(colour_key := image.info.get("transparency"), tuple):
            image.info["transparency"] = tuple(value >> 8 for value in colour_key)
        to_turn = _orientation(image)
        pixels = _grey(image.transpose(_TURNS[to_turn]) if to_turn in _TURNS else image)
    if is_cut_deep and pixels.max() < _LEAST_TOP:
        raise UnreadableImage(path, "several channels of 16 bits, and few of them used: save it as grey of 16 bits")
    # Pillow has one type for each size of whole numbers.
    if pixels.dtype == np.int32 and sample_format == _UNSIGNED:
        pixels = pixels.view(np.uint32)
    if pixels.dtype == np.uint8 and sample_format == _SIGNED:
        pixels = pixels.view(np.int8)
    # Pillow turns the values of such a TIFF round up to 8 bits, but not above.
    if white_is_zero == _WHITE_IS_ZERO and pixels.dtype != np.uint8:
        pixels = -pixels if pixels.dtype == np.float32 else ~pixels
    odd = {Caution.FIRST: several, Caution.COLOUR: colour >= LEAST_COLOUR_FRAC}
    cautions = tuple(caution for caution, is_so in odd.items() if is_so)
    return Radiograph(pixels, mark, full_px, cautions, colour, orientation=orientation)


def _is_cut_deep(image: ImageFile.ImageFile) -> bool:
    """Whether the picture has several channels of 16 bits, of which Pillow keeps the upper 8."""
    raw_modes = [tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in image.tile if tile[3]]
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(raw_mode) for raw_mode in raw_modes)


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
    return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def _check_exif(image: Image.Image) -> None:
    """Pillow passes over a block whose very beginning is damaged."""
    block = image.info.get("exif")
    # Programs write its name twice, as Pillow did once when it made a JPEG of a WebP; it reads that.
    tiff = block.removeprefix(_EXIF).removeprefix(_EXIF) if isinstance(block, bytes) else b""
    if len(tiff) > _TIFF_HEADER_BYTES and not tiff.startswith(_TIFF_STARTS):
        raise ValueError("the EXIF block, which may hide a turn")


def _check_tiles(image: Image.Image, path: Path) -> None:
    """A TIFF's decoder makes room for a whole tile, whatever the picture's own size."""
    width, height = (getattr(image, "tag_v2", {}).get(tag, 0) for tag in _TILE)
    if width * height > max(_LARGE_TILE_PIXELS, 4 * image.width * image.height):
        raise UnreadableImage(path, f"damaged: tiles of {width} × {height} px in a picture of {image.width} px")


def _check_planes(image: ImageFile.ImageFile, path: Path) -> None:
    """Where channels lie one behind the other, Pillow unpacks each by one letter of what unpacks them together."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.tag_v2.get(_PLANAR) != _SEPARATE:
        return
    is_packed = image.tile[0].codec_name == "libtiff"
    if image.tag_v2.get(_CHANNELS, 1) == 1 and not is_packed:
        # Of one channel the tag says nothing.
        image.tag_v2[_PLANAR] = 1
        image._setup()
    elif max(image.tag_v2.get(_BITS, (1,))) > 8 and not is_packed:
        raise UnreadableImage(path, "channels of 16 bits, one behind the other: save it as grey of 16 bits")
    elif image.mode == "LA":
        raise UnreadableImage(path, "grey and transparency, one behind the other: save it as grey")


def _expect_native_order(image: ImageFile.ImageFile) -> None:
    """What libtiff unpacks has its bytes swapped; Pillow would do it again, but of 16 bits without a sign."""
    image.tile = [
        tile._replace(args=(re.sub(r"(?<=\d)B", "N", tile.args[0]), *tile.args[1:]))
        if tile.codec_name == "libtiff" and isinstance(tile.args, tuple)
        else tile
        for tile in image.tile
    ]


def _orientation(image: Image.Image) -> int:
    # ImageOps.exif_transpose also writes the EXIF block anew, and fails on tags that it cannot write.
    found = image.getexif().get(ExifTags.Base.Orientation)
    return found if found in _TURNS else 1


def _grey(image: Image.Image) -> np.ndarray:
    # One grey value or colour of a picture may stand for transparency (tRNS of PNG).
    transparent = image.info.get("transparency")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype({"I": np.int32, "F": np.float32}.get(image.mode, np.uint16))
        return pixels if transparent is None else np.where(pixels == transparent, pixels.dtype.type(0), pixels)
    if image.mode in ("P", "PA", "LA", "La", "RGBA", "RGBa") or transparent is not None:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    if image.mode == "LAB":
        image = image.getchannel("L")
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
