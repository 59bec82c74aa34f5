"""Rows and names of every output: one CSV line, one name per picture. Text in, text out. Names as text: data/names."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path, PurePath

from fxcli.data.parquet import Kind
from fxcli.data.paths import AS_GIVEN, PathStyle, Shown

# Of what is made of a picture: see commands/predict and cam.
SUFFIXES = (".png", ".overlay.png", ".map.npy")
# File systems take 255; a suffix, and one for the time of writing, must fit.
_LONGEST_BYTES = 200

# Of columns of predictions, by name, and by what it begins with; class names end those.
_KINDS = {
    "distance": Kind.NUMBER,
    "width_px": Kind.COUNT,
    "height_px": Kind.COUNT,
    "n_boxes": Kind.COUNT,
    "box_score": Kind.NUMBER,
    "boxes": Kind.BOXES,
    "set": Kind.TEXTS,
    "unlike_training": Kind.TRUTH,
    "assumes_fracture": Kind.TRUTH,
}
_BEGINNINGS = {"p_": Kind.NUMBER, "logit_": Kind.SINGLE}


def kind_of(column: str) -> Kind:
    """What the cells of a column of predictions are."""
    begun = (kind for start, kind in _BEGINNINGS.items() if column.startswith(start))
    return _KINDS.get(column) or next(begun, Kind.TEXT)


def csv_line(cells: Sequence[object]) -> str:
    """One line of a CSV, without its end."""
    text = io.StringIO()
    # Without an end of its own, the csv module takes neither character for one, and would leave it unquoted.
    is_broken = any(sign in str(cell) for cell in cells for sign in "\r\n")
    csv.writer(text, lineterminator="", quoting=csv.QUOTE_ALL if is_broken else csv.QUOTE_MINIMAL).writerow(cells)
    return text.getvalue()


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
    if len(raw) <= _LONGEST_BYTES and not any(f"{name}{suffix}" in folders for suffix in SUFFIXES):
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
