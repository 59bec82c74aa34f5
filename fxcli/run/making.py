"""A folder made beside its final name, where it is complete or not there.

    .NAME.fx-part/          hidden, and cleared by whoever makes NAME next
        made_by_fx.txt      says so; without it nothing here is touched
        new/                in the making
        old/                what it replaces, while the two change places
    .NAME.fx-part.lock      of the process at work

Called by data/prepare.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fxcli.errors import DataError
from fxcli.run.files import replace
from fxcli.run.lock import Lock

MARK = "made_by_fx.txt"
_TEXT = "fx keeps a folder in the making here, and clears it the next time.\n"


def place_of(target: Path) -> Path:
    """Where a folder is made."""
    return target.with_name(f".{target.name}.fx-part")


@contextlib.contextmanager
def making(target: Path) -> Iterator[Path]:
    """Gives an empty folder beside `target`; on success it becomes `target`, in place of what was there.

    Whatever stops it, and wherever, the old folder is there in full, or the new one; or the next call puts the old one
    back before it gives anything.

    Raises:
        DataError: Something that fx did not make is in the way.
        RunError: Another process is at work.
    """
    place = place_of(target)
    new, old = place / "new", place / "old"
    place.parent.mkdir(parents=True, exist_ok=True)
    # Beside it: the lock of one process must not go with the folder that another clears.
    with Lock(place.parent, f"{place.name}.lock"):
        _clear(place, target)
        try:
            place.mkdir()
            (place / MARK).write_text(_TEXT, encoding="utf-8")
            new.mkdir()
            yield new
            if target.exists():
                replace(target, old)
            replace(new, target)
        finally:
            _clear(place, target)


def _clear(place: Path, target: Path) -> None:
    """Takes away what an earlier call left, and puts back a folder that was on its way out."""
    if not os.path.lexists(place):
        return
    # Empty, its maker was killed before it could write more.
    is_own = place.is_dir() and not place.is_symlink() and ((place / MARK).is_file() or not any(place.iterdir()))
    if not is_own:
        raise DataError("fx did not make this, and needs its name", where=place, hint="give it another name")
    new, old = place / "new", place / "old"
    if old.is_dir() and not target.exists():
        replace(old, target)
    for each in (new, old):
        shutil.rmtree(each, ignore_errors=True)
    # Last, and only if nothing is left: the mark must outlive what it stands for.
    with contextlib.suppress(OSError):
        if not new.exists() and not old.exists():
            (place / MARK).unlink(missing_ok=True)
            place.rmdir()
