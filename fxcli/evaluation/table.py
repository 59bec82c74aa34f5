"""Rows and names of every output: one CSV line, one path cell, one name per picture. Text in, text out."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path, PurePath

from fxcli.data.paths import AS_GIVEN, HASHED, Shown

_FORMULA = ("=", "+", "-", "@")


def csv_line(cells: Sequence[object]) -> str:
    """One line of a CSV, without its end."""
    text = io.StringIO()
    # Without an end of its own, the csv module takes neither character for one, and would leave it unquoted.
    is_broken = any(sign in str(cell) for cell in cells for sign in "\r\n")
    csv.writer(text, lineterminator="", quoting=csv.QUOTE_ALL if is_broken else csv.QUOTE_MINIMAL).writerow(cells)
    return text.getvalue()


def path_cell(path: str | PurePath) -> str:
    """The path as a cell: never one that a spreadsheet takes for a formula."""
    text = str(path)
    return f"./{text}" if text.startswith(_FORMULA) else text


def path_of(cell: str) -> str:
    """The path that `path_cell` made the cell of."""
    return cell[2:] if cell.startswith("./") and cell[2:].startswith(_FORMULA) else cell


def output_names(paths: Sequence[Path], shown: Shown = AS_GIVEN) -> list[Path]:
    """A name for what is made of each picture; a suffix is to be added.

    It is the picture's place below the folder that all share, or its hash, where those are shown.
    """
    if shown.style == HASHED:
        return [Path(shown(path)) for path in paths]
    return below_shared([Path(os.path.abspath(path)) for path in paths])


def below_shared(paths: Sequence[PurePath]) -> list[Path]:
    """Each absolute path below the deepest folder that all share; on several Windows drives, below the drive's name."""
    if not paths:
        return []
    shared = paths[0].parent
    for path in paths:
        while not path.is_relative_to(shared):
            if shared == shared.parent:
                return [Path(_drive(path), *path.parts[1:]) for path in paths]
            shared = shared.parent
    return [Path(*path.relative_to(shared).parts) for path in paths]


def _drive(path: PurePath) -> str:
    return "_".join(part for part in path.drive.replace(":", "").split("\\") if part)
