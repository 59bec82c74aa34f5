"""Finds pictures: in folders for prediction, in class folders or a CSV for preparation. Opens no picture (see tree)."""

from __future__ import annotations

import difflib
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fxcli.console import console
from fxcli.data import tree
from fxcli.data.manifest import COLUMNS
from fxcli.data.names import class_name, escaped, is_class_name
from fxcli.data.read import EXTENSIONS
from fxcli.data.table import read_table
from fxcli.errors import DataError, NothingFound
from fxcli.recipe.preparation import Columns

# Roles that a list need not fill, each with what its column may be called elsewhere: lower case, letters and digits.
_ALIKE = {
    "patient": ("patient", "patientid", "patientname", "subject", "subjectid", "person", "personid", "case", "caseid"),
    "split": ("split", "set", "subset", "partition"),
    "group": ("group", "groupid"),
}
_LEAST_ALIKE = 0.9
_NO_LABELS = "fx prepare with data.labels=none takes pictures without labels, to pretrain on"
_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class SourcePicture:
    """A raw picture with what its place says of it.

    Attributes:
        path: The file.
        name: Path relative to the source, with forward slashes, escaped; no two of a source are equal.
        folder: Class folder or label as found; "" if none.
        split: "train", "val" or "test" as given, or None.
        patient: As given, or None.
        group: As given, or None: pictures of one group must not straddle a split.
        extra: What else its row says.
    """

    path: Path
    name: str
    folder: str
    split: str | None = None
    patient: str | None = None
    group: str | None = None
    extra: dict[str, str] = field(default_factory=dict)


def pictures(paths: Iterable[Path], *, keep_absent: bool = False) -> list[Path]:
    """All pictures below folders, sorted within each; a path that is named itself is taken as it is.

    What may be one is listed, so that a row says what is wrong with it: all whose name ends like a picture's, be it a
    pipe or a link that leads nowhere, files of other names that begin like a picture, and folders that cannot be
    listed. Hidden files and folders, and what systems leave behind, are passed over; a line says how much that was.

    Args:
        paths: Folders and files.
        keep_absent: Whether to keep a path that does not exist, or a folder without pictures, so that reading it
            gives an error row; for lists that nobody typed.

    Raises:
        NothingFound: A folder has none.
        DataError: A path does not exist, or a folder that is named itself cannot be listed.
    """
    found: list[Path] = []
    passed_over: Counter[str] = Counter()
    for path in paths:
        # Not Path.exists, which raises on a name that is too long.
        if os.path.isdir(path):
            inside, others = tree.below(path)
            if not inside and not keep_absent:
                raise NothingFound(path, EXTENSIONS, tree.told(others))
            found += sorted(inside) or [path]
            passed_over += others
        elif keep_absent or os.path.lexists(path):
            found.append(path)
        else:
            reason = tree.unusable(path)
            raise DataError("no such file or folder" if reason == tree.ABSENT else reason, where=path)
    if passed_over:
        console.note(f"passed over: {tree.told(passed_over)}")
    return found


def source(path: Path, columns: Columns, *, labelled: bool = True) -> list[SourcePicture]:
    """Pictures of a class-folder tree, or of a CSV or the same as Parquet.

    Args:
        path: Folder or file.
        columns: Of the file.
        labelled: Whether folders or a column must name classes; else `folder` is "".

    Raises:
        DataError: See `class_tree` and `table`; or there is no such path.
    """
    if path.is_dir():
        if columns != Columns():
            raise DataError("data.columns are for a CSV or Parquet, and this is a folder", where=path)
        return class_tree(path, labelled=labelled)
    if not path.is_file():
        raise DataError("no such folder, CSV or Parquet", where=path, hint="name the source: --set data.source=FOLDER")
    return table(path, columns, labelled=labelled)


def class_tree(root: Path, *, labelled: bool = True) -> list[SourcePicture]:
    """Pictures of a folder of class folders; `class/Train` and `Train/class` both give the split.

    Raises:
        NothingFound: No picture.
        DataError: Some pictures lie outside any class folder, or in folders of two splits; or a folder cannot be
            listed.
    """
    found, loose = [], []
    for path in pictures([root]):
        if os.path.isdir(path):
            raise DataError(tree.unusable(path), where=path)
        name = escaped(path.relative_to(root).as_posix())
        folders = name.split("/")[:-1]
        classes = [part for part in folders if part.lower() not in _SPLIT_FOLDERS]
        splits = {_SPLIT_FOLDERS[part.lower()] for part in folders if part.lower() in _SPLIT_FOLDERS}
        if len(splits) > 1:
            raise DataError(f"this picture lies in folders of two splits: {name}", where=root)
        if classes or not labelled:
            found.append(SourcePicture(path, name, classes[0] if labelled else "", next(iter(splits), None)))
        else:
            loose.append(name)
    if loose:
        raise DataError(
            f"{len(loose)} pictures lie in no class folder, the first: {loose[0]}",
            where=root,
            hint="a source is a folder of class folders (class/picture.jpg), or a CSV with path and label; "
            + _NO_LABELS,
        )
    return found


def table(path: Path, columns: Columns, *, labelled: bool = True) -> list[SourcePicture]:
    """Pictures that a CSV or Parquet lists.

    Raises:
        DataError: The file cannot be read, lacks a column, or lists nothing; or a row has no path, no label, an
            unknown split, or a picture that stands there twice.
    """
    # A blank after a comma is no part of a name.
    header, rows = read_table(path, str.strip)
    wanted = columns.model_dump(exclude={"folder"} if labelled else {"folder", "label"})
    # Columns that a recipe does not name are taken where they stand under their customary names.
    for role in _ALIKE:
        wanted[role] = wanted[role] or (role if role in header else None)
    for role, column in wanted.items():
        if column is not None and column not in header:
            close = difflib.get_close_matches(column, header, n=1)
            hint = f"its columns are {', '.join(header)}; set data.columns.{role}={close[0] if close else '…'}"
            hint += f"; {_NO_LABELS}" if role == "label" else ""
            raise DataError(f"no column '{column}' ({role})", where=path, hint=hint)
    if not rows:
        raise DataError("this file lists no picture", where=path)
    _tell_unused(path, header, wanted)
    beside = path.parent / (columns.folder or "")
    found = [_picture(beside, place, row, wanted) for place, row in rows]
    name, count = Counter(picture.name for picture in found).most_common(1)[0]
    if count > 1:
        raise DataError(f"this picture is listed {count} times: {name}", where=path)
    return found


def _tell_unused(path: Path, header: Iterable[str], wanted: Mapping[str, str | None]) -> None:
    """Says which columns are left out, and which may have been meant for a role that no column fills."""
    unused = [name for name in header if name not in wanted.values()]
    if left_out := [name for name in unused if name in COLUMNS]:
        console.note(f"{path}: left out, for the manifest has its own columns of these names: {', '.join(left_out)}")
    for role in (role for role in _ALIKE if wanted[role] is None):
        for name in unused:
            plain = "".join(filter(str.isalnum, name)).casefold()
            if difflib.get_close_matches(plain, _ALIKE[role], 1, _LEAST_ALIKE):
                what = f"the column '{name}' is copied and not used, though it may name the {role} of pictures"
                console.warn(f"{path}: {what}; if so: --set {shlex.quote(f'data.columns.{role}={name}')}")


def _picture(root: Path, place: str, row: Mapping[str, str], wanted: Mapping[str, str | None]) -> SourcePicture:
    values = {role: row[column].strip() for role, column in wanted.items() if column}
    for role in ("path", "label"):
        if not values.get(role, "-"):
            raise DataError(f"no {role} in this row", where=place, hint=_NO_LABELS if role == "label" else "")
    split = values.get("split", "").lower()
    if split and split not in _SPLIT_FOLDERS:
        raise DataError(f"split '{split}' is none of {', '.join(_SPLIT_FOLDERS)}", where=place)
    path = Path(os.path.normpath(values["path"]))
    return SourcePicture(
        path=root / path,
        name=escaped(path.as_posix()),
        folder=values.get("label", ""),
        split=_SPLIT_FOLDERS[split] if split else None,
        patient=values.get("patient") or None,
        group=values.get("group") or None,
        extra={name: value for name, value in row.items() if name not in {*COLUMNS, *wanted.values()}},
    )


def labels(found: Iterable[SourcePicture], classes: Mapping[str, str], where: Path) -> dict[str, str]:
    """Folder → class for every folder that was found.

    Args:
        found: Source pictures.
        classes: The recipe's mapping; empty keeps each folder as a class of its own.
        where: Named in errors.

    Raises:
        DataError: A folder that the mapping lacks, a mapping entry without any picture, or what may not name a class.
    """
    folders = sorted({picture.folder for picture in found})
    if not classes:
        named = {folder: class_name(folder) for folder in folders}
    else:
        unmapped = [folder for folder in folders if folder not in classes]
        absent = [folder for folder in classes if folder not in folders]
        if unmapped or absent:
            lines = [f"not in data.classes: {', '.join(unmapped)}"] if unmapped else []
            lines += [f"without a picture: {', '.join(absent)}"] if absent else []
            raise DataError("folders and data.classes do not match\n  " + "\n  ".join(lines), where=where)
        named = {folder: classes[folder] for folder in folders}
    mapped = '--set "data.classes={FOLDER: class, …}" names all of them, in letters of English, digits, _, . and -'
    by_name: dict[str, str] = {}
    for folder, name in named.items():
        # A class names a folder too, and ".." would be another one; and a cell, where "-x" would be a formula.
        if not is_class_name(name):
            raise DataError(f"'{folder}' gives no usable class name", where=where, hint=mapped)
        if not classes and by_name.setdefault(name, folder) != folder:
            both = f"'{by_name[name]}' and '{folder}'"
            raise DataError(f"{both} would become one class, {name}", where=where, hint=mapped)
    by_letters: dict[str, str] = {}
    for name in sorted(set(named.values())):
        if (other := by_letters.setdefault(name.lower(), name)) != name:
            console.warn(f"{where}: {other} and {name} are two classes; data.classes makes one of them")
    return named
