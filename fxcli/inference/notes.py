"""What is known of rows of predictions that lie in a folder: what they were made with, and since when.

    predictions.csv.part         rows so far
    predictions.csv.part.json    what they are made with
    predictions.csv.json         the same, of complete ones

Called by whoever writes rows: rows (one file) and shards (a folder of them).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fxcli.console import console
from fxcli.data.paths import PathStyle, Shown
from fxcli.errors import DataError, RunError
from fxcli.run.files import replace, write_json
from fxcli.run.key import hashed

# Of the folder that the names of rows are relative to, and of the key that they are hashed under.
_FOLDER, _KEY = "folder_sha256", "names_key"
# When the first rows were begun, in seconds since the epoch; and of those that were added later: from which byte on.
_STARTED, _WENT_ON = "started", "went_on"
_UNTOLD = {_FOLDER: "their paths are relative to another folder", _KEY: "their names are hashed under another key"}


def part_of(file: Path) -> Path:
    """Where rows grow until they are complete."""
    return file.with_name(f"{file.name}.part")


def notes_of(rows: Path) -> Path:
    """What tells what the rows of a file are made with, be it complete or not."""
    return rows.with_name(f"{rows.name}.json")


def keep_notes(file: Path) -> None:
    """Gives the notes of rows that have just become complete their place."""
    with contextlib.suppress(FileNotFoundError):
        replace(notes_of(part_of(file)), notes_of(file))


def named_by(shown: Shown, files: Sequence[Path]) -> dict[str, str | None]:
    """What all rows of a file must share, or one name would mean two pictures.

    A hash stands for the folder that names are relative to: what calls pictures less than their path must not tell it.

    Args:
        shown: What rows call pictures.
        files: All of them.
    """
    folder = shown.base if shown.style is PathStyle.RELATIVE else None
    if shown.style is PathStyle.GIVEN and not all(path.is_absolute() for path in files):
        folder = Path.cwd()
    digest = None if folder is None else hashlib.sha256(os.fsencode(folder)).hexdigest()
    # Of no name: it tells keys apart, and nothing of them.
    key = hashed("") if shown.style is PathStyle.HASHED else None
    return {"paths": shown.style.value, _FOLDER: digest, _KEY: key}


def write_notes(rows: Path, made_with: Mapping[str, Any]) -> None:
    """Writes what the rows of a file, which are begun now, are to be made with."""
    write_json(notes_of(rows), {_STARTED: time.time(), **made_with})


def check_notes(rows: Path, made_with: Mapping[str, Any]) -> None:
    """Whether the rows of a file were made with the same.

    Raises:
        RunError: They were not, or nothing tells.
    """
    try:
        times_of(rows)
        notes = {key: value for key, value in _read(rows).items() if key not in (_STARTED, _WENT_ON)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = "nothing tells what these rows were made with"
        raise RunError(what, where=rows, hint="--overwrite begins anew") from error
    now = json.loads(json.dumps(made_with))
    differ = [key for key in {**notes, **now} if notes.get(key) != now.get(key)]
    if differ:
        told = "; ".join(_told(key, notes.get(key), now.get(key)) for key in differ)
        hint = "give it what it was begun with, or --overwrite, which begins anew"
        raise RunError(f"these rows were made with something else: {told}", where=rows, hint=hint)


def are_of(rows: Path, made_with: Mapping[str, Any]) -> bool:
    """Whether the rows of a file were made with the same, as their notes tell; without any they were not."""
    try:
        check_notes(rows, made_with)
    except RunError:
        return False
    return True


def times_of(rows: Path) -> list[tuple[int, float]]:
    """From which byte on rows are of their pictures since when: what changed before it is not done again."""
    notes = _read(rows)
    return [(0, float(notes[_STARTED])), *((int(end), float(when)) for end, when in notes.get(_WENT_ON, []))]


def note_end(rows: Path, end: int, when: float) -> None:
    """Has rows that are added behind the end be of their pictures since another time."""
    notes = _read(rows)
    write_json(notes_of(rows), {**notes, _WENT_ON: [*notes.get(_WENT_ON, []), [end, when]]})


def renew_notes(rows: Path, when: float) -> None:
    """Has all rows, complete now, be of their pictures since another time."""
    notes = _read(rows)
    notes.pop(_WENT_ON, None)
    write_json(notes_of(rows), {**notes, _STARTED: when})


def changed(path: Path) -> float:
    """When a file last changed; now, if that cannot be told."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return time.time()
    # The second changes also when an older file takes the place; on Windows it is when it was made.
    return max(status.st_mtime, status.st_ctime)


def warn_of_gone(told: Iterable[str], cells: Iterable[str]) -> None:
    """Says how many pictures of earlier rows are no longer among those that are predicted.

    Args:
        told: What the earlier rows call their pictures.
        cells: What rows call those that are here.
    """
    if gone := len(set(told).difference(cells)):
        console.warn(f"{gone} pictures that have a row are no longer here: their rows are left out")


def taken(file: Path, what: str, instead: str = "") -> DataError:
    """The error that there is a file already."""
    return DataError(what, where=file, hint=f"{instead}--overwrite replaces it; --out names another folder")


def _read(rows: Path) -> dict[str, Any]:
    notes: dict[str, Any] = json.loads(notes_of(rows).read_text(encoding="utf-8"))
    return notes


def _told(key: str, was: object, now: object) -> str:
    # Of which hashes tell nobody anything.
    return _UNTOLD.get(key) or f"{key} was {_short(was)}, and is {_short(now)}"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}…"
