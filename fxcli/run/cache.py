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

from fxcli.errors import UsageError
from fxcli.run.files import replace


def cache_dir() -> Path:
    """FX_CACHE_DIR, or `fx` in the user's cache folder.

    Raises:
        UsageError: The user has none.
    """
    if chosen := os.environ.get("FX_CACHE_DIR"):
        return Path(chosen)
    variable = "LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME"
    return user_dir(variable, ".cache", hint="FX_CACHE_DIR names a folder for the cache")


def user_dir(variable: str, usual: str, *, hint: str) -> Path:
    """`fx` in a folder of the user.

    Args:
        variable: Of the environment, which names that folder.
        usual: Where it is otherwise, in the user's home.
        hint: For a user without one.

    Raises:
        UsageError: The user has none.
    """
    if base := os.environ.get(variable):
        return Path(base) / "fx"
    try:
        return Path.home() / usual / "fx"
    except RuntimeError as error:
        raise UsageError("this user has no home folder", hint=hint) from error


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
