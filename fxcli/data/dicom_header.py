"""Headers of DICOM files: how a file is written, what of it is wanted, and where its pixels begin. Called by dicom.

Nothing large is read, however large a header says that something is; and nothing of a deflated file is inflated beyond
what its own size asks for.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from fxcli.data.radiograph import MAX_PIXELS

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.uid import UID

START_BYTES = 132

_PIXELS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
_UNDEFINED = 0xFFFFFFFF
_WANTED = (
    *("SOPClassUID", "Modality", "PresentationIntentType", "PatientID", "PatientName", "StudyInstanceUID"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction"),
    *("WindowCenter", "WindowWidth", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
    ),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
)
# No element that is wanted is larger, nor a whole header.
_LARGEST_BYTES = 16 << 20


@dataclass(frozen=True)
class Header:
    """What a file says before its pixels.

    Attributes:
        dataset: The elements that are wanted.
        syntax: How pixels are written; a deflated file's is that of its content.
        sop_class: UID of what kind of thing this is; "" if it does not say.
        handle: Where the pixels begin.
        pixel_keyword: Of their element; "" if there is none.
        pixel_vr: Type of that element; "" if it is not written.
        pixel_bytes: Length that it states; None if it is compressed.
    """

    dataset: Dataset = field(repr=False)
    syntax: UID
    sop_class: str
    handle: BinaryIO
    pixel_keyword: str
    pixel_vr: str
    pixel_bytes: int | None

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height; 0 where the header lacks them."""
        return int(self.dataset.get("Columns") or 0), int(self.dataset.get("Rows") or 0)

    @property
    def frame_bytes(self) -> int:
        """Size of a frame that is not compressed; 0 if there can be none."""
        return _frame_bytes(self.dataset)


def is_dicom(start: bytes) -> bool:
    """Whether a file that begins so is DICOM: by its mark, or, without one, by its first element.

    Args:
        start: The first START_BYTES, or all there is.
    """
    if start[128:132] == b"DICM":
        return True
    # File meta information or identification comes first, its type in letters or its length short.
    is_group = start[:2] in (b"\x02\0", b"\x08\0", b"\0\x08")
    return is_group and len(start) == START_BYTES and (start[4:6].isalpha() or start[5:8] == b"\0\0\0")


def parse(handle: BinaryIO) -> Header:
    """Reads a header; pydicom raises nearly anything on one that is damaged.

    Args:
        handle: At the beginning of the file.
    """
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

    read_preamble(handle, force=True)
    meta = read_dataset(handle, False, True, stop_when=lambda tag, _, __: tag >> 16 != 2, defer_size=_LARGEST_BYTES)
    syntax = _syntax(meta, handle)
    if syntax == DeflatedExplicitVRLittleEndian:
        syntax = ExplicitVRLittleEndian
        handle = _inflated(handle)
    # All that compress are written alike.
    alike = syntax if syntax.is_transfer_syntax else ExplicitVRLittleEndian
    dataset = _dataset(handle, alike)
    sop_class = str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")
    return Header(dataset, syntax, sop_class, handle, *_pixel_element(handle, alike))


def _syntax(meta: Dataset, handle: BinaryIO) -> UID:
    """The transfer syntax; where the file does not say, as its next element looks."""
    from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if stated := meta.get("TransferSyntaxUID"):
        return UID(str(stated))
    start = handle.read(6)
    handle.seek(-len(start), io.SEEK_CUR)
    if not start[4:6].isalpha():
        return ImplicitVRLittleEndian
    return ExplicitVRBigEndian if start[:1] == b"\0" else ExplicitVRLittleEndian


def _dataset(handle: BinaryIO, syntax: UID) -> Dataset:
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_dataset

    return read_dataset(
        handle,
        syntax.is_implicit_VR,
        syntax.is_little_endian,
        stop_when=lambda tag, _, __: int(tag) in _PIXELS,
        defer_size=_LARGEST_BYTES,
        specific_tags=[tag for tag in map(tag_for_keyword, _WANTED) if tag is not None],
    )


def _inflated(handle: BinaryIO) -> BinaryIO:
    """The deflated rest of a file, as far as its header and one frame of the size that this states reach."""
    from pydicom.uid import ExplicitVRLittleEndian

    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    head = inflate.decompress(handle.read(), _LARGEST_BYTES)
    frame_bytes = _frame_bytes(_dataset(io.BytesIO(head), ExplicitVRLittleEndian))
    return io.BytesIO(head + (inflate.decompress(inflate.unconsumed_tail, frame_bytes) if frame_bytes else b""))


def _frame_bytes(dataset: Dataset) -> int:
    pixels = int(dataset.get("Rows") or 0) * int(dataset.get("Columns") or 0)
    samples, bits = int(dataset.get("SamplesPerPixel") or 1), int(dataset.get("BitsAllocated") or 0)
    if not 0 < pixels <= MAX_PIXELS or samples not in (1, 3) or not 0 < bits <= 64:
        return 0
    frac = 2 / 3 if dataset.get("PhotometricInterpretation") == "YBR_FULL_422" else 1
    return math.ceil(pixels * samples * bits / 8 * frac)


def _pixel_element(handle: BinaryIO, syntax: UID) -> tuple[str, str, int | None]:
    """Keyword, type and length of the pixels' element, the handle then at its value; "" if there is none."""
    order = "<" if syntax.is_little_endian else ">"
    start = handle.read(8)
    if len(start) < 8:
        return "", "", 0
    group, number = struct.unpack(f"{order}HH", start[:4])
    # Some files leave the type out where it should stand.
    vr = start[4:6].decode("ascii") if start[4:6].isalpha() and not syntax.is_implicit_VR else ""
    (length,) = struct.unpack(f"{order}L", handle.read(4) if vr else start[4:])
    return _PIXELS[group << 16 | number], vr, None if length == _UNDEFINED else length
