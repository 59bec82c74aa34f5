"""Whether a JPEG is whole: its end marker, its scans, and whether pixels depend on what is missing. Called by read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from fxcli.data import containers
from fxcli.errors import UnreadableImage

_END, _TAIL_BYTES, _PROGRESSIVE = b"\xff\xd9", 64, 0xC2
# In place of missing scan data, what begins with a one: zeros are what libjpeg takes for it.
_OTHER_DATA = b"\xb4\x6a\xd3\x2c" * 256
# A restart interval is announced, and each begins with one of eight markers.
_INTERVAL, _RESTARTS = b"\xff\xdd", tuple(bytes((0xFF, 0xD0 + number)) for number in range(8))


def has_end(handle: BinaryIO) -> bool:
    """Whether a JPEG has an end marker; Pillow does without where any bytes follow, even zeros."""
    place = handle.tell()
    size = handle.seek(0, io.SEEK_END)
    handle.seek(max(0, size - _TAIL_BYTES))
    found = _END in handle.read()
    if not found:
        found = containers.end_of(handle) >= 0
    handle.seek(place)
    return found


def ends_flat(image: Image.Image) -> bool:
    """Whether the last row is one grey, as where a JPEG was cut, and ended all the same."""
    row = np.asarray(image.crop((0, image.height - 1, *image.size)).convert("L"))
    return bool(row.min() == row.max() and 0 < row[0, 0] < 255)


def ended(handle: BinaryIO, path: Path) -> bytes:
    """A JPEG with the end marker, which is all that it may lack.

    Raises:
        UnreadableImage: It lacks more.
    """
    end = containers.end_of(handle)
    handle.seek(0)
    data = handle.read()
    if end < 0:
        # Of a file that was copied in part, the rest may be zeros; but a zero belongs to an FF that ends the scan.
        rest = data.rstrip(b"\0")
        end = len(rest) - rest.endswith(b"\xff") + 2 * (rest.endswith(b"\xff") and len(rest) < len(data))
    data = data[:end]
    shown = _rgb(data + _END)
    # A restart marker that is waited for must come, or nothing that follows is looked at.
    before = (b"", *(_RESTARTS if _INTERVAL in data else ()))
    if any(_rgb(data + marker + _OTHER_DATA + _END) != shown for marker in before) or not _is_refined(data):
        raise UnreadableImage(path, "cut short: the end of the picture is missing")
    return data + _END


def _rgb(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return image.tobytes()


def _is_refined(data: bytes) -> bool:
    """Whether no scan of a progressive JPEG is missing: all bits of all coefficients are there (ITU T.81, G.1.1.1)."""
    is_progressive = False
    lowest_bit: dict[tuple[int, int], int] = {}
    for kind, at, _ in containers.markers(io.BytesIO(data)):
        is_progressive |= kind == _PROGRESSIVE
        if kind == containers.SCAN:
            end = at + 5 + 2 * data[at + 4]
            first, last, bits = data[end : end + 3]
            lowest_bit |= {(c, k): bits & 15 for c in data[at + 5 : end : 2] for k in range(first, last + 1)}
    components = {component for component, _ in lowest_bit}
    return not is_progressive or all(lowest_bit.get((c, k)) == 0 for c in components for k in range(64))
