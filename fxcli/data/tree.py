"""What lies in folders of strangers: which files may be pictures, and what must not be opened at all.

Nothing is opened here but files whose name does not tell what they are, for their first bytes; and nowhere a pipe or a
device, which would wait, or never end. Called by scan, and by whoever is about to read a picture.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from fxcli.data.dicom_header import START_BYTES, is_dicom
from fxcli.data.read import EXTENSIONS
from fxcli.errors import DataError

ABSENT = "no such file"

_HIDDEN = "hidden or of the system"
_NO_FILE = "no file"
_BARE = "without an extension"
# What a line of people may hold of names that are anybody's.
_SUFFIX = re.compile(r"\.[a-z0-9]{0,7}[a-z]")
_MOST_KINDS = 6
# Lower case: what archives, file managers, network drives and DICOM media put beside pictures.
_OF_SYSTEMS = {
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "#recycle", "$recycle.bin"),
    *("system volume information", "lost+found", "dicomdir"),
}
_KINDS = (
    (stat.S_ISFIFO, "a pipe, not a file"),
    (stat.S_ISSOCK, "a socket, not a file"),
    (stat.S_ISCHR, "a device, not a file"),
    (stat.S_ISBLK, "a device, not a file"),
)
# JPEG, PNG, TIFF and BigTIFF in both byte orders; then what fx may not be able to read, but does not pass over.
_STARTS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    *(b"GIF87a", b"GIF89a", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
)
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)


def below(root: Path) -> tuple[list[Path], Counter[str]]:
    """Whatever may be a picture anywhere below a folder, in any order, and how many entries of other kinds there are.

    Each folder is searched once, however many links lead to it: at its own place, if that lies below the root. A link
    to a folder above is not followed.

    Raises:
        DataError: The folder cannot be listed. One further down is among what is found, for its row to say so.
    """
    found: list[Path] = []
    others: Counter[str] = Counter()
    top = os.path.realpath(root)
    # (path, where it really is)
    folders, links, seen = [(str(root), top)], list[tuple[str, str]](), {top}
    while folders or links:
        if not folders:
            path, place = links.pop(0)
            real = os.path.realpath(path)
            if real not in seen and not _lies_in(place, real) and not _lies_in(top, real):
                seen.add(real)
                folders.append((path, real))
            continue
        folder, real = folders.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            if real == top:
                raise DataError(f"this folder cannot be listed: {error.strerror}", where=root) from error
            found.append(Path(folder))
            continue
        for entry in entries:
            path, place = os.path.join(folder, entry.name), os.path.join(real, entry.name)
            if entry.name.startswith(".") or entry.name.lower() in _OF_SYSTEMS:
                others[_HIDDEN] += 1
            elif not _is_folder(entry):
                kind = _other_kind(entry)
                if kind:
                    others[kind] += 1
                else:
                    found.append(Path(path))
            elif entry.is_symlink():
                links.append((path, place))
            elif place not in seen:
                seen.add(place)
                folders.append((path, place))
        links.sort()
    return found, others


def told(others: Mapping[str, int]) -> str:
    """Entries that are no pictures, in words, the most first."""
    kinds = sorted(others.items(), key=lambda pair: (-pair[1], pair[0]))
    rest = sum(count for _, count in kinds[_MOST_KINDS:])
    shown = [*kinds[:_MOST_KINDS], *([("others", rest)] if rest else [])]
    return ", ".join(f"{count} {kind}" for kind, count in shown)


def unusable(path: Path) -> str:
    """Why a path cannot be opened as a file; "" if it can be tried. Opening a pipe would wait for ever."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link that leads nowhere" if os.path.islink(path) else ABSENT
    except OSError as error:
        return "a link that leads to itself" if error.errno == errno.ELOOP else os.strerror(error.errno or 0).lower()
    except ValueError:
        return ABSENT  # a zero byte
    if stat.S_ISDIR(mode):
        return _why_no_folder(path)
    return next((what for is_kind, what in _KINDS if is_kind(mode)), "")


def _why_no_folder(path: Path) -> str:
    try:
        os.scandir(path).close()
    except OSError as error:
        return f"this folder cannot be listed: {error.strerror}"
    return "this is a folder"


def _lies_in(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip(os.sep) + os.sep)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads to itself


def _other_kind(entry: os.DirEntry[str]) -> str:
    """What a file is if it is no picture; "" if it may be one."""
    if entry.name.lower().endswith(EXTENSIONS):
        return ""
    try:
        if not entry.is_file():
            return _NO_FILE
        with open(entry.path, "rb") as handle:
            start = handle.read(START_BYTES)
    except OSError:
        return ""  # what it is cannot be told: its row says why
    if looks_like_picture(start):
        return ""
    suffix = os.path.splitext(entry.name)[1].lower()
    return suffix if _SUFFIX.fullmatch(suffix) else _BARE


def looks_like_picture(start: bytes) -> bool:
    """Whether a file begins like one.

    Args:
        start: Its first START_BYTES, or all of it.
    """
    return (
        start.startswith(_STARTS)
        or (start.startswith(b"RIFF") and start[8:12] == b"WEBP")
        # HEIC and AVIF.
        or start[4:11] in (b"ftyphei", b"ftypavi", b"ftypmif")
        or (start.startswith(b"BM") and int.from_bytes(start[14:18], "little") in _BMP_HEADERS)
        or is_dicom(start)
    )
