"""Where fx keeps what it can get or make again: weights, decoded pictures, features. All of it may be deleted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fxcli.run.files import replace


def cache_dir() -> Path:
    """FX_CACHE_DIR, or `fx` in the user's cache folder."""
    if chosen := os.environ.get("FX_CACHE_DIR"):
        return Path(chosen)
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fx"


def key_of(values: Mapping[str, Any]) -> str:
    """The name of a cache file: a hash of all that its content is a function of."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:40]


@contextlib.contextmanager
def storing(file: Path) -> Iterator[Path]:
    """Gives a path beside `file` to write to, of this caller alone; on success it becomes `file`.

    Two runs that make the same file at once do not meet: the later one replaces what is equal. It is not fsynced; so
    who reads it must check it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{secrets.token_hex(6)}.part")
    try:
        yield part
        replace(part, file)
    finally:
        part.unlink(missing_ok=True)
