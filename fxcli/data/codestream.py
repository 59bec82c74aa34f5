"""Compressed frames of DICOM: what their own header says, whether they are whole, and the kind that pydicom leaves out.

Called by dicom, before a decoder gets the bytes: the size that a frame claims, not the file's, is what is allocated.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

_SOI, _J2K = b"\xff\xd8", b"\xff\x4f\xff\x51"
# Frame headers of JPEG and JPEG-LS (ITU T.81, table B.1; T.87); C4, C8 and CC between them are something else.
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_SCAN = 0xDA
# JPEG, JPEG-LS and JPEG 2000 end alike.
_END = b"\xff\xd9"


@dataclass(frozen=True)
class Coded:
    """What a compressed frame says of itself.

    Attributes:
        width_px: Of the frame.
        height_px: Likewise.
        bits: Of a sample.
    """

    width_px: int
    height_px: int
    bits: int


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
        return Coded(right - left, bottom - top, (frame[start + 42] & 0x7F) + 1)
    except (struct.error, IndexError):
        return None


def _jpeg(frame: bytes) -> Coded | None:
    at = 2
    while True:
        marker = frame[at + 1]
        if frame[at] != 0xFF or marker == _SCAN:
            return None
        if marker in _FRAMES:
            bits, height, width = struct.unpack_from(">BHH", frame, at + 4)
            return Coded(width, height, bits)
        # A marker may have any number of FF in front.
        at += 1 if marker == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")


def is_whole(frame: bytes) -> bool:
    """Whether a JPEG, JPEG-LS or JPEG 2000 frame has its end; decoders of some show what there is without a word."""
    return _END in frame[-16:]


def decode_12_bit(frame: bytes, coded: Coded, *, bits: int, syntax: str) -> bytes:
    """A grey JPEG of 12 bits (process 4), decoded by GDCM to uint16 of the machine's byte order.

    pydicom calls its GDCM and Pillow plugins unfit for these; GDCM itself reads them well, but for a line of libjpeg on
    stderr.

    Args:
        frame: It.
        coded: Its header.
        bits: That the file says are stored.
        syntax: UID of the transfer syntax.

    Raises:
        ImportError: There is no GDCM.
        ValueError: It cannot decode the frame.
    """
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image: Any = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((coded.width_px, coded.height_px, 1))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, bits, bits - 1, 0))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    image.SetDataElement(element)
    # GDCM gives its bytes as text.
    found: bytes = image.GetBuffer().encode("utf-8", "surrogateescape")
    if len(found) != 2 * coded.width_px * coded.height_px:
        raise ValueError("GDCM cannot decode this frame")
    return found
