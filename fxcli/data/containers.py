"""What a picture file is made of, before any decoder sees it: no larger, and of no more parts, than a picture needs.

Pillow walks through markers and chunks one by one, for as long as there are any, and some files are read as a whole.
Called by read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fxcli.errors import UnreadableImage

# The largest picture that is accepted has 80 million pixels of at most 8 bytes; one of JPEG hardly two.
MAX_BYTES = 1 << 30
MAX_JPEG_BYTES = 256 << 20
# Writers of PNG make chunks of 8 KiB or more.
_MOST_CHUNKS = 200_000
# A decoder goes over the whole picture for each scan; writers make about ten.
MOST_SCANS = 100
# What decoders skip in front of a marker.
_MOST_JUNK_BYTES = 64 << 10

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
SCAN, _END, _START = 0xDA, 0xD9, 0xD8
# Within a scan an FF stands before a zero or a restart marker's byte, and one may stand before any other marker's.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_BLOCK_BYTES = 64 << 10
# Writers make some dozens.
_MOST_MARKERS = 10_000
# TEM and RST0 to RST7 stand alone: no length follows. Nor do decoders skip what no marker is called.
_ALONE = {*range(0xC0), *range(0xD0, 0xD8)}


def unread(start: bytes) -> str:
    """What a file is that no decoder of fx knows, by its first bytes; "" if that is unknown here, too."""
    if start[4:8] == b"ftyp":
        return "HEIC, AVIF or a film, which fx does not read: save it as PNG"
    if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "a TIFF of a kind that fx does not read: save it as a grey PNG of 16 bits"
    if start.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")):
        return "JPEG 2000 outside DICOM, which fx does not read: save it as PNG"
    return ""


def check(handle: BinaryIO, path: Path) -> None:
    """Looks through the structure of a file, which is left at its beginning.

    Raises:
        UnreadableImage: It is larger than any picture that is accepted, or made so that decoding it takes for ever.
    """
    size = os.fstat(handle.fileno()).st_size
    start = handle.read(len(_PNG))
    most = MAX_JPEG_BYTES if start.startswith(_JPEG) else MAX_BYTES
    if size > most:
        raise UnreadableImage(path, f"a file of {size >> 20:,} MiB: more than {most >> 20:,} is no radiograph")
    if start.startswith(_JPEG):
        _check_markers(handle, path)
    elif start == _PNG:
        _check_chunks(handle, path)
    handle.seek(0)


def markers(handle: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Each marker of a JPEG that a decoder comes by, the end marker last (ITU T.81, B.1.1): kind, place, bytes skipped.

    Not what looks like one in a segment, as in a preview, or behind the end, where telephones put films. What is
    skipped in front of a marker is the data of a scan, or junk.
    """
    place = end = len(_JPEG)
    while True:
        handle.seek(place)
        block = handle.read(_BLOCK_BYTES)
        if len(block) < 2:
            return
        found = _MARKER.search(block)
        if found is None:
            place += len(block) - 1
            continue
        kind, at = found[1][0], place + found.start()
        if kind == _START:
            return  # another picture, as a preview behind this one: a decoder ends here
        yield kind, at, at - end
        if kind == _END:
            return
        place = end = at + 2
        if kind not in _ALONE:
            handle.seek(place)
            place = end = place + int.from_bytes(handle.read(2), "big")


def end_of(handle: BinaryIO) -> int:
    """Where the end marker of a JPEG stands; -1 if it has none."""
    return next((place for kind, place, _ in markers(handle) if kind == _END), -1)


def _check_markers(handle: BinaryIO, path: Path) -> None:
    scans = junk_bytes = 0
    for count, (kind, _, skipped_bytes) in enumerate(markers(handle)):
        # In front of the first scan Pillow goes over them one by one.
        junk_bytes += 0 if scans else skipped_bytes
        scans += kind == SCAN
        if junk_bytes > _MOST_JUNK_BYTES:
            raise UnreadableImage(path, "damaged: no marker of a JPEG where one must stand")
        if scans > MOST_SCANS:
            raise UnreadableImage(path, f"damaged: a JPEG of more than {MOST_SCANS} scans")
        if count > _MOST_MARKERS:
            raise UnreadableImage(path, f"damaged: a JPEG of more than {_MOST_MARKERS:,} markers")
    # Nor does Pillow know of an end before the first scan: it would look for one in all that follows.
    if not scans:
        raise UnreadableImage(path, "cut short or damaged: a JPEG without a picture")


def _check_chunks(handle: BinaryIO, path: Path) -> None:
    """From chunk to chunk up to the last one, IEND (PNG, 5.3)."""
    for _ in range(_MOST_CHUNKS):
        head = handle.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        handle.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    raise UnreadableImage(path, f"damaged: more than {_MOST_CHUNKS:,} chunks of a PNG")
