"""Writes colour pictures as PNG, as fast as heat maps are made.

Pillow tries five filters on every line, which takes longer than the model takes for the picture; here each line is the
difference to the one above it, at zlib's fastest level. A tenth larger, in half the time. Reading is Pillow's.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fxcli.data.read import HEAT_MAP, MARK
from fxcli.run.cache import storing
from fxcli.run.files import saying

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB_8_BIT = (8, 2, 0, 0, 0)
_FILTER_UP = 2
_TOKEN = 12
# Key of the row that a drawing stands beside.
OF = "of"


def write_png(path: Path, pixels: np.ndarray, key: str, text: str) -> None:
    """Writes a picture with one text entry (PNG specification, 2nd edition, sections 5 and 9).

    Args:
        path: The file.
        pixels: [H, W, 3] uint8.
        key: Of the text entry, Latin-1.
        text: Latin-1.
    """
    height, width, _ = pixels.shape
    lines = np.empty((height, 1 + 3 * width), dtype=np.uint8)
    flat = pixels.reshape(height, -1)
    lines[:, 0] = _FILTER_UP
    lines[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=lines[1:, 1:])
    with storing(path) as part, part.open("wb") as handle:
        handle.write(_SIGNATURE)
        handle.write(_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *_RGB_8_BIT)))
        handle.write(_chunk(b"tEXt", key.encode("latin-1") + b"\0" + text.encode("latin-1")))
        handle.write(_chunk(b"IDAT", zlib.compress(lines.tobytes(), level=1)))
        handle.write(_chunk(b"IEND", b""))


def save_drawn(pixels: np.ndarray, path: Path, notice: str, of: str | None = None) -> None:
    """Writes what was drawn, as a PNG that says what it is: `read` takes it for no radiograph.

    Args:
        pixels: [H, W, 3] uint8.
        path: The file.
        notice: That it carries.
        of: The row that it stands beside, see places.Drawing.
    """
    # Near the beginning, where it is looked for.
    told = {HEAT_MAP: True, **({} if of is None else {OF: of}), "notice": notice}
    with saying(path):
        write_png(path, pixels, MARK, json.dumps(told))


def sweep(files: Sequence[Path]) -> None:
    """Takes away what is left of writing these files where that was killed."""
    names = {str(file) for file in files}
    for folder in {file.parent for file in files}:
        for found in folder.glob("*.part") if folder.is_dir() else ():
            # What `storing` calls it.
            whole, _, token = found.stem.rpartition(".")
            if str(folder / whole) in names and len(token) == _TOKEN:
                found.unlink(missing_ok=True)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
