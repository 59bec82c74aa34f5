"""Atomic writes: a file is either the old one or the whole new one, whatever happens in between."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; on success it is fsynced and becomes `path`."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        with part.open("rb+") as handle:
            os.fsync(handle.fileno())
        replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


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


def sha256_of(path: Path) -> str:
    """The hex digest of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
