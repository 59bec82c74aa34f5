"""Pixels of DICOM files: the first frame decoded, and how its values are to be shown. Called by dicom."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fxcli.data import codestream
from fxcli.data.containers import MOST_SCANS
from fxcli.data.dicom_header import Header
from fxcli.data.voi import Display, Lut, Window
from fxcli.errors import UnreadableImage

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.pixels.decoders.base import Decoder

# Not GDCM, which decodes everything: on damaged frames it can crash, and take the batch with it.
_OURS = "fx"
_DECODERS = ("pydicom", "pylibjpeg", "pyjpegls", _OURS, "pillow")
_JPEG_12_BIT, _RLE = "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.5"


def add_decoder() -> None:
    """Makes our decoder known to pydicom; once in a process."""
    from pydicom.pixels.decoders.base import get_decoder

    for uid in codestream.DECODER_DEPENDENCIES:
        get_decoder(uid).add_plugin(_OURS, (codestream.__name__, codestream.decode.__name__))


def decode(header: Header, path: Path) -> tuple[np.ndarray, str]:
    """The first frame, and its photometric interpretation.

    Args:
        header: Of a size that is allowed.
        path: Named in errors.

    Returns:
        [H, W], or [H, W, 3] in RGB; stored values in the machine's byte order.

    Raises:
        UnreadableImage: It is cut short, or nothing installed can decode it.
    """
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import as_pixel_options

    dataset, syntax = header.dataset, header.syntax
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        reason = f"DICOM that is compressed in a way that fx cannot decode{in_words(syntax)}"
        raise UnreadableImage(path, reason) from error
    options = {**as_pixel_options(dataset), "transfer_syntax_uid": syntax, "pixel_keyword": header.pixel_keyword}
    options |= {"pixel_vr": header.pixel_vr} if header.pixel_vr else {}
    shift = _shift(dataset) if header.pixel_keyword == "PixelData" else 0
    if shift:
        # pydicom would cut off the upper bits.
        options["bits_stored"] += shift
    if not syntax.is_encapsulated:
        _check_length(header, path)
        stored, told = decoder.as_array(header.handle, index=0, **options)
    else:
        stored, told = _decompressed(decoder, _frame(header, path, options), path, options)
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    return (stored >> shift if shift else stored), str(told["photometric_interpretation"])


def _shift(dataset: Dataset) -> int:
    """By how much the bits lie above the lower end of their word."""
    highest = min(int(dataset.get("HighBit") or 0), int(dataset.BitsAllocated) - 1)
    return max(0, highest + 1 - int(dataset.BitsStored))


def _check_length(header: Header, path: Path) -> None:
    handle, wanted = header.handle, header.frame_bytes
    if header.pixel_bytes is None or not wanted:
        raise UnreadableImage(path, "damaged DICOM: pixels of unknown length")
    start = handle.tell()
    there = min(header.pixel_bytes, handle.seek(0, io.SEEK_END) - start)
    handle.seek(start)
    if there < wanted:
        raise UnreadableImage(path, f"cut short: {there} of {wanted} bytes of pixel data are there")


def _frame(header: Header, path: Path, options: dict[str, Any]) -> bytes:
    """The first frame as it is compressed.

    Raises:
        UnreadableImage: It has no end, or another size than the file's header states, which is what was checked.
    """
    from pydicom.encaps import get_frame

    if header.pixel_bytes is not None:
        raise UnreadableImage(path, "damaged DICOM: it says that it is compressed, and is not")
    count, offsets = int(options["number_of_frames"]), options.pop("extended_offsets", None)
    frame = get_frame(header.handle, 0, number_of_frames=count, extended_offsets=offsets)
    if header.syntax == _RLE:
        return frame
    coded = codestream.look(frame)
    if coded is None or (coded.width_px, coded.height_px) != header.size_px:
        raise UnreadableImage(path, "damaged DICOM: the compressed picture has another size than its header states")
    # What a decoder makes room and takes time for.
    if coded.samples != int(header.dataset.SamplesPerPixel) or coded.scans > MOST_SCANS:
        what = f"{coded.samples} channels in {coded.scans} scans"
        raise UnreadableImage(path, f"damaged DICOM: the compressed picture has {what}")
    if not codestream.is_whole(frame):
        raise UnreadableImage(path, "cut short: the end of the compressed picture is missing")
    return frame


def _decompressed(
    decoder: Decoder, frame: bytes, path: Path, options: dict[str, Any]
) -> tuple[np.ndarray, dict[str, Any]]:
    from pydicom.encaps import encapsulate

    coded = codestream.look(frame)
    names = [name for name in _DECODERS if name in decoder.available_plugins]
    if decoder.UID == _JPEG_12_BIT and coded is not None and coded.bits > 8:
        names = [name for name in names if name == _OURS]
    if not names:
        raise _not_installed(path, decoder)
    alone, failure = encapsulate([frame]), None
    for name in names:
        try:
            return decoder.as_array(alone, index=0, decoding_plugin=name, **{**options, "number_of_frames": 1})
        except MemoryError:
            raise
        except Exception as error:
            failure = error
    raise UnreadableImage(path, "damaged DICOM: the compressed picture cannot be decoded") from failure


def _not_installed(path: Path, decoder: Decoder) -> UnreadableImage:
    what = f"what decodes this DICOM{in_words(decoder.UID)} is not installed"
    return UnreadableImage(path, f"{what}: python -m pip install 'fxcli[dicom]'")


def in_words(uid: str) -> str:
    """What a UID stands for, in brackets; "" if it is not of the standard."""
    from pydicom.uid import UID

    name = UID(uid).name
    return f" ({name})" if name != uid else ""


def rgb(stored: np.ndarray, dataset: Dataset, photometric: str) -> np.ndarray:
    """A frame in colour, [H, W, 3] uint8.

    Raises:
        NotImplementedError: The colours are of another kind than RGB or a palette.
    """
    from pydicom.pixels.processing import apply_color_lut

    bits = int(dataset.BitsStored)
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)[..., :3]
        # Of palettes that state 16 bits some have 8.
        bits = 16 if stored.max() > 255 else 8
    elif photometric != "RGB":
        raise NotImplementedError(photometric)
    return np.asarray(stored >> max(0, bits - 8)).astype(np.uint8)


def display(stored: np.ndarray, header: Header) -> Display:
    """How a grey frame is to be shown, by what its header says; of several views, the first."""
    dataset = header.dataset
    low, high = 0, 0
    if stored.dtype.kind in "iu":
        bits, is_signed = int(dataset.BitsStored), stored.dtype.kind == "i"
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    rescale: tuple[float, float] | Lut = (
        _number(dataset, "RescaleSlope") or 1.0,
        _number(dataset, "RescaleIntercept") or 0.0,
    )
    if tables := dataset.get("ModalityLUTSequence"):
        rescale = _lut(tables[0], header)
    tables = dataset.get("VOILUTSequence")
    finite = stored[np.isfinite(stored)] if stored.dtype.kind == "f" else stored
    return Display(
        # Values that a wrong number of bits has no room for are there all the same.
        range=(float(finite.min(initial=low)), float(finite.max(initial=high))),
        rescale=rescale,
        voi=_lut(tables[0], header) if tables else _window(dataset),
        is_inverted=dataset.PhotometricInterpretation == "MONOCHROME1",
        padding=_padding(dataset, stored.dtype),
    )


def _window(dataset: Dataset) -> Window | None:
    centre, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    function = str(dataset.get("VOILUTFunction") or "").strip().upper()
    function = function if function in ("LINEAR_EXACT", "SIGMOID") else "LINEAR"
    if centre is None or width is None or width <= (1 if function == "LINEAR" else 0):
        return None
    return Window(centre, width, function)


def _padding(dataset: Dataset, dtype: np.dtype[Any]) -> tuple[float, float] | None:
    ends = [_number(dataset, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None or dtype.kind not in "iu":
        return None
    # The type that is written may have the other sign.
    known = [float(np.array(int(end) & (256**dtype.itemsize - 1)).astype(dtype)) for end in ends if end is not None]
    return min(known), max(known)


def _lut(item: Dataset, header: Header) -> Lut:
    count, first, bits = (int(value) for value in item.LUTDescriptor)
    count = count or 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        # Entries of 8 bits may be packed.
        kind = f"{'<' if header.syntax.is_little_endian else '>'}u2" if len(data) >= 2 * count else "u1"
        data = np.frombuffer(data, dtype=kind)
    entries = np.atleast_1d(np.asarray(data))[:count].astype(np.uint16)
    if header.dataset.get("PixelRepresentation") == 1 and first > 2**15 - 1:
        first -= 2**16
    return Lut(first, entries, min(max(bits, 1), 16))


def _number(dataset: Dataset, keyword: str) -> float | None:
    """The first finite number of an element, or None."""
    try:
        value = dataset.get(keyword)
        found = float(value if isinstance(value, str | int | float) else value[0])
    except (TypeError, ValueError, IndexError):
        return None
    return found if math.isfinite(found) else None
