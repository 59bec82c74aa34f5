"""Names that tell nothing: hashes under a key of the user, which lies in no run, no output and no cache.

A cache may be deleted; without its key, no name would be found again.
"""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
from pathlib import Path

from fxcli.console import console
from fxcli.errors import FxError
from fxcli.run.cache import cache_dir, user_dir

_KEY_BYTES = 32
_NAME_BYTES = 16
_VARIABLE = "APPDATA" if os.name == "nt" else "XDG_DATA_HOME"
_ELSEWHERE = f"{_VARIABLE} names another folder"


def hashed(name: str) -> str:
    """32 hex digits for a name: always the same here, and without the key neither to be guessed nor to be tried out.

    Raises:
        FxError: The key can be neither read nor made.
    """
    raw = os.fsencode(name)
    return hashlib.blake2b(raw, key=_key(key_file()), digest_size=_NAME_BYTES).hexdigest()


def key_file() -> Path:
    """Where the key lies: in the user's folder of data.

    Raises:
        UsageError: The user has none.
    """
    return user_dir(_VARIABLE, ".local/share", hint=_ELSEWHERE) / "names.key"


@functools.cache
def _key(file: Path) -> bytes:
    """The user's key, made when it is first needed."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            # Where it was before.
            old = cache_dir() / file.name
            _make(file, old.read_bytes() if old.is_file() else secrets.token_bytes(_KEY_BYTES))
            console.note(f"the key for hashed names is in {file}: keep it, or these names are never found again")
        key = file.read_bytes()
    except OSError as error:
        raise FxError(
            f"the key for hashed names cannot be made: {error.strerror or error}",
            where=file,
            hint=_ELSEWHERE,
        ) from error
    if len(key) != _KEY_BYTES:
        raise FxError("damaged: no key for hashed names", where=file, hint="delete it: new names then differ from old")
    return key


def _make(file: Path, key: bytes) -> None:
    """Of several processes one makes it, and no other sees it before it is whole."""
    part = file.with_name(f"{file.name}.{os.getpid()}-{secrets.token_hex(4)}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        with os.fdopen(handle, "wb") as target:
            target.write(key)
            target.flush()
            os.fsync(target.fileno())
        try:
            os.link(part, file)
        except FileExistsError:
            pass  # another process was faster
        except OSError:
            os.replace(part, file)  # a file system without hard links
    finally:
        part.unlink(missing_ok=True)
