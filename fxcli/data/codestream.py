"""Compressed frames of DICOM: what their own header says, whether they are whole; and a decoder of JPEGs, for pydicom.

Called by dicom_pixels, before a decoder gets the bytes: the size that a frame claims, not the file's, is what is
allocated. The decoder is a plugin of pydicom's for what its own leave to GDCM, which damaged frames can crash.
"""

from __future__ import annotations

import importlib.util
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

# JPEG of 8 and 12 bits (processes 2 and 4), lossless (process 14), and that with the first predictor; what they need.
DECODER_DEPENDENCIES = {f"1.2.840.10008.1.2.4.{number}": ("imagecodecs",) for number in (51, 57, 70)}

_SOI, _J2K = b"\xff\xd8", b"\xff\x4f\xff\x51"
# Frame headers of JPEG and JPEG-LS (ITU T.81, table B.1; T.87); C4, C8 and CC between them are something else.
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_SCAN, _SCAN_MARKER = 0xDA, b"\xff\xda"
# JPEG, JPEG-LS and JPEG 2000 end alike.
_END = b"\xff\xd9"


@dataclass(frozen=True)
class Coded:
    """What a compressed frame says of itself.

    Attributes:
        width_px: Of the frame.
        height_px: Likewise.
        bits: Of a sample.
        samples: Of a pixel.
        scans: That a decoder goes over the picture for.
    """

    width_px: int
    height_px: int
    bits: int
    samples: int
    scans: int = 1


def look(frame: bytes) -> Coded | None:
    """The header of a JPEG, JPEG-LS or JPEG 2000 frame; None if it is none of them, or damaged."""
    try:
        if frame[:2] == _SOI:
            return _jpeg(frame)
        # A JP2 file has its codestream in a box.
        start = frame.find(_J2K, 0, 4096)
        if start < 0:
            return None
        right, bottom, left, top = struct.unpack_from(">4L", frame, start + 8)
        (samples,) = struct.unpack_from(">H", frame, start + 40)
        return Coded(right - left, bottom - top, (frame[start + 42] & 0x7F) + 1, samples)
    except (struct.error, IndexError):
        return None


def _jpeg(frame: bytes) -> Coded | None:
    at = 2
    while True:
        marker = frame[at + 1]
        if frame[at] != 0xFF or marker == _SCAN:
            return None
        if marker in _FRAMES:
            bits, height, width, samples = struct.unpack_from(">BHHB", frame, at + 4)
            return Coded(width, height, bits, samples, frame.count(_SCAN_MARKER))
        # A marker may have any number of FF in front.
        at += 1 if marker == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")


def is_whole(frame: bytes) -> bool:
    """Whether a JPEG, JPEG-LS or JPEG 2000 frame has its end; decoders of some show what there is without a word."""
    # What pads a frame to an even length, or to any.
    return _END in frame.rstrip(b"\0")[-16:]


def is_available(uid: str) -> bool:
    """Whether what `decode` needs is installed; pydicom asks each of its plugins so."""
    return uid in DECODER_DEPENDENCIES and importlib.util.find_spec("imagecodecs") is not None


def decode(frame: bytes, runner: DecodeRunner) -> bytes:
    """Decodes a frame for pydicom, by libjpeg-turbo: samples as they are stored, colours not converted."""
    import imagecodecs

    coded = look(frame)
    if coded is None:
        raise ValueError("no JPEG")
    runner.set_option("bits_allocated", 8 if coded.bits <= 8 else 16)
    colours = "RGB" if runner.samples_per_pixel == 3 else None
    return imagecodecs.jpeg8_decode(frame, colorspace=colours, outcolorspace=colours).tobytes()
