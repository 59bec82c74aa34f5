"""Where what is drawn of pictures goes: a name for each, and none that is a picture's own.

Names as text: data/names.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from fxcli.console import console
from fxcli.data.paths import AS_GIVEN, PathStyle, Shown
from fxcli.data.read import EXTENSIONS, HEAT_MAP, MARK
from fxcli.data.tree import unusable
from fxcli.errors import NothingFound, UsageError
from fxcli.explain.png import OF
from fxcli.inference.notes import changed
from fxcli.run.files import saying

# Of what is made of a picture: see commands/predict and cam.
_SUFFIXES = (".png", ".overlay.png", ".map.npy")
# File systems take 255; a suffix, and one for the time of writing, must fit.
_LONGEST_BYTES = 200
# Signature, header, and the beginning of the text that says what it is.
_START_BYTES = 100
_DIGEST_BYTES = 8


@dataclass(frozen=True)
class Drawing:
    """A heat map or outlines that stand beside a row; or the COCO file of all rows.

    Attributes:
        file: It.
        of: A hash of what the row calls its picture, and of all that it is made with.
    """

    file: Path
    of: str

    @classmethod
    def beside(cls, file: Path, cell: str, made_with: Mapping[str, Any]) -> Drawing:
        """That of a row.

        Args:
            file: It.
            cell: What the row calls its picture.
            made_with: What the row is made with, as JSON.
        """
        text = json.dumps([cell, made_with], sort_keys=True)
        return cls(file, hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest())

    def is_there(self, picture: Path) -> bool:
        """Whether the file is of this row, and not of another model's or picture's, nor of what the picture was."""
        return self.is_of_row() and self.file.stat().st_mtime >= changed(picture)

    def is_of_row(self) -> bool:
        """Whether the file is of this row, or of these rows."""
        return f'"{OF}": "{self.of}"'.encode() in _start(self.file)

    def remove(self) -> None:
        """Takes away what an earlier command drew there: the row has no answer now."""
        if is_drawn(self.file):
            with saying(self.file):
                # Where a picture was named twice, another thread may have been faster.
                self.file.unlink(missing_ok=True)


def output_names(paths: Sequence[Path], shown: Shown = AS_GIVEN) -> list[Path]:
    """A name for what is made of each picture; a suffix is to be added.

    It is the picture's place below the folder that all share, or its hash, where those are shown. No two meet, also
    where a folder is called like what is made of a picture, and none is too long for a suffix.
    """
    if shown.style is PathStyle.HASHED:
        return [Path(shown(path)) for path in paths]
    names = below_shared([Path(os.path.abspath(path)) for path in paths])
    inside = {name.parent for name in names}
    folders = {str(folder) for parent in inside for folder in (parent, *parent.parents)}
    return [_usable(name, folders) for name in names]


def _usable(name: Path, folders: set[str]) -> Path:
    raw = os.fsencode(name.name)
    # What is made of x.overlay, and an overlay of x, would have one name.
    meets = name.suffix == ".overlay" or any(f"{name}{suffix}" in folders for suffix in _SUFFIXES)
    if len(raw) <= _LONGEST_BYTES and not meets:
        return name
    digest = hashlib.sha256(raw).hexdigest()[:12]
    return name.with_name(f"{raw[: _LONGEST_BYTES - len(digest) - 1].decode('utf-8', 'ignore')}~{digest}")


def below_shared(paths: Sequence[PurePath]) -> list[Path]:
    """Each absolute path below the deepest folder that all share; on several Windows drives, below the drive's name."""
    if not paths:
        return []
    shared = paths[0].parent
    for folder in dict.fromkeys(path.parent for path in paths):
        while not folder.is_relative_to(shared):
            if shared == shared.parent:
                return [Path(_drive(path), *path.parts[1:]) for path in paths]
            shared = shared.parent
    depth = len(shared.parts)
    return [Path(*path.parts[depth:]) for path in paths]


def _drive(path: PurePath) -> str:
    return "_".join(part for part in path.drive.replace(":", "").split("\\") if part)


def pictures_beside(folder: Path, files: Sequence[Path]) -> list[Path]:
    """The pictures among files, without what an earlier command drew into a folder.

    Args:
        folder: That drawings go to; it may lie among the pictures.
        files: To look through.

    Raises:
        NothingFound: There is none.
    """
    place = os.path.join(os.path.abspath(folder), "")
    found = [path for path in files if not (os.path.abspath(path).startswith(place) and is_drawn(path))]
    if not found:
        raise NothingFound(folder, EXTENSIONS, f"{len(files)} that fx drew")
    if len(found) < len(files):
        console.note(f"passed over: {len(files) - len(found)} pictures in {folder} that fx drew")
    return found


def check_places(drawn: Iterable[Path], files: Iterable[Path], *, may_replace: bool = False) -> None:
    """Whether nothing that is drawn would take the place of a picture.

    Args:
        drawn: Where to.
        files: The pictures that are looked at.
        may_replace: Whether it may take the place of other files that fx did not draw: --overwrite decides.

    Raises:
        UsageError: One would.
    """
    taken = {os.path.abspath(path) for path in files}
    for path in drawn:
        is_others = not may_replace and os.path.lexists(path) and not is_drawn(path)
        if os.path.abspath(path) in taken or is_others:
            raise UsageError(f"what is drawn would replace the picture {path}", hint="name another folder for it")


def check_apart(places: Mapping[str, Iterable[Path]]) -> None:
    """Whether no file would be two things that are drawn.

    Args:
        places: Of each thing: what it is → the files.

    Raises:
        UsageError: One would.
    """
    taken: dict[str, str] = {}
    for what, files in places.items():
        for file in files:
            if (other := taken.setdefault(os.path.abspath(file), what)) != what:
                raise UsageError(f"{other} and {what} would both be {file}", hint="name another folder for one of them")


def is_drawn(path: Path) -> bool:
    """Whether a file begins as the heat maps, outlines and sheets that are drawn here."""
    return f'{MARK}\0{{"{HEAT_MAP}"'.encode() in _start(path)


def _start(path: Path) -> bytes:
    """The first bytes of a file; none, where it cannot be read."""
    if unusable(path):
        return b""
    try:
        with path.open("rb") as handle:
            return handle.read(_START_BYTES)
    except OSError:
        return b""
