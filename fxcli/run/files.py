"""Atomic writes: a file is either the old one or the whole new one, whatever happens in between, power cuts too."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fxcli.errors import DataError

_ELSEWHERE = "make space there, or write elsewhere"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; on success it is fsynced and becomes `path`, for good."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        with part.open("rb+") as handle:
            os.fsync(handle.fileno())
        replace(part, path)
    except BaseException as error:
        # Not missing_ok alone: what went wrong must not be hidden by what is wrong with the folder.
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk's error names no file
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def saying(where: str | Path, hint: str = _ELSEWHERE) -> Iterator[None]:
    """Says as a DataError where nothing could be written; the system's own error often does not."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror or error}", where=where, hint=hint) from error


def check_writable(folder: Path, hint: str = _ELSEWHERE) -> None:
    """Sees that files can be written in a folder, or where it is to be made, before work that ends with them.

    Raises:
        DataError: They cannot.
    """
    with saying(folder, hint):
        place = next(each for each in (folder, *folder.parents) if each.exists())
        # On a full disk a file can often be made, and nothing be written to it.
        with tempfile.TemporaryFile(dir=place, buffering=0) as handle:
            handle.write(b"\0")


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder outlive a power cut: fsync of a file keeps its content, not its name."""
    # Windows opens no folder, and keeps its names in a journal.
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace(source: Path, target: Path) -> None:
    """os.replace, tried again for a second: on Windows a virus scanner may hold the target open."""
    for attempt in range(10):
        try:
            os.replace(source, target)
        except PermissionError:
            if attempt == 9:
                raise
            time.sleep(0.1)
        else:
            return


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically; bytes of a file name that are not UTF-8 become escapes."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON atomically; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def copy(source: Path, target: Path) -> None:
    """Copies a file's bytes atomically."""
    with replacing(target) as part:
        shutil.copyfile(source, part)


def append_line(path: Path, line: str) -> None:
    """Adds a line of UTF-8 text to a file, made where it is not there, and fsyncs it; after one cut short, a new one.

    Raises:
        OSError: It cannot be written to, or is no plain file: a link could lead anywhere, and a pipe would wait.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    with path.open("a+b") as handle:
        start = b""
        if handle.tell():
            handle.seek(-1, os.SEEK_END)
            start = b"" if handle.read(1) == b"\n" else b"\n"
        handle.write(start + line.encode("utf-8", "backslashreplace") + b"\n")
        handle.flush()
        os.fsync(handle.fileno())


def sha256_of(path: Path) -> str:
    """The hex digest of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
