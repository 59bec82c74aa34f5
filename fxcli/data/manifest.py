"""manifest.csv and fingerprint.json of a prepared folder: written by prepare, read by everything else."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shlex
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from fxcli.data import parquet
from fxcli.data.names import MAX_CLASSES, is_class_name, text_cell, text_of
from fxcli.data.parquet import Kind
from fxcli.data.preprocess import Clean
from fxcli.data.table import read_table
from fxcli.errors import DataError
from fxcli.run.files import copy, sha256_of, write_text

COLUMNS = ("path", "label", "split", "group", "patient", "source", "width_px", "height_px", "sha256", "leaked")
SPLITS = ("train", "val", "calibration", "test")
# Those that something is learnt from, chosen by, or fitted to.
LEARNT = SPLITS[:3]
# Where the manifest of a part of a training in folds has the pictures that it holds out.
HELD_OUT = "calibration"

_FINGERPRINT_LIMIT_BYTES = 64 << 20
_LINK = "a link that leaves the folder, and could lead anywhere"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One picture.

    Attributes:
        path: Relative to the manifest, with forward slashes.
        label: Its class; "" of all pictures of a manifest without labels.
        split: "train", "val", "calibration" or "test".
        group: Pictures that must not straddle a split share it.
        patient: "" if unknown.
        source: Path of the raw picture relative to the source.
        width_px: Of the raw picture, after EXIF turning.
        height_px: Likewise.
        sha256: Of the raw file.
        leaked: Of a test picture: "yes" if its source has the same picture for training, else "no"; "" elsewhere.
        extra: Columns that fx does not know, kept.
    """

    path: str
    label: str
    split: str
    group: str = ""
    patient: str = ""
    source: str = ""
    width_px: int = 0
    height_px: int = 0
    sha256: str = ""
    leaked: str = ""
    extra: dict[str, str] = field(default_factory=dict)

    def parts(self, name: str) -> list[str]:
        """The columns that a name stands for: of "a+b" both, unless one is called so itself."""
        return [name] if name in COLUMNS or name in self.extra else name.split("+")

    def column(self, name: str) -> str:
        """The value of any column; "a+b": those of several, together.

        Raises:
            DataError: There is none of this name.
        """
        if name in COLUMNS:
            return str(getattr(self, name))
        if len(parts := self.parts(name)) > 1:
            return " + ".join(map(self.column, parts))
        if name not in self.extra:
            known = [*COLUMNS, *self.extra]
            raise DataError(f"the manifest has no column '{name}'", hint=f"its columns: {', '.join(known)}")
        return self.extra[name]


@dataclass(frozen=True)
class Manifest:
    """A list of pictures with labels and splits.

    Attributes:
        file: Where it was read from.
        root: Folder that the paths are relative to.
        rows: In file order.
        digest: sha256 of the CSV, as `save` would write it.
    """

    file: Path
    root: Path
    rows: tuple[Row, ...]
    digest: str

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes, sorted: the order of a model's outputs. None where pictures have no labels."""
        return tuple(sorted({row.label for row in self.rows} - {""}))

    def require_labels(self) -> None:
        """For whoever learns from labels, or measures by them.

        Raises:
            DataError: The pictures have none.
        """
        if not self.classes:
            raise DataError(
                "these pictures have no labels, to learn from or to measure by",
                where=self.file,
                hint=f"pretraining can: fx train pretrain_simclr --set {shlex.quote(f'data.manifest={self.file}')}",
            )

    def divided(self, splits: Sequence[str]) -> Manifest:
        """The same pictures in other splits, one for each row."""
        rows = tuple(replace(row, split=split) for row, split in zip(self.rows, splits, strict=True))
        return replace(self, rows=rows, digest=_digest(rows))

    def pooled(self, splits: Collection[str]) -> Manifest:
        """The pictures of these parts as its training part, of which others are left out."""
        if set(splits) == {"train"}:
            return self
        kept = [row for row in self.rows if row.split in splits or row.split != "train"]
        rows = tuple(replace(row, split="train") if row.split in splits else row for row in kept)
        return replace(self, rows=rows, digest=_digest(rows))

    def save(self, target: Path) -> None:
        """Writes the CSV as it was read; of a divided one, or of Parquet, its rows."""
        if sha256_of(self.file) == self.digest:
            copy(self.file, target)
        else:
            write_manifest(target, self.rows)

    def part(self, split: str) -> list[Row]:
        """The rows of a split, in order."""
        return [row for row in self.rows if row.split == split]

    @property
    def straddling(self) -> list[Row]:
        """The test pictures whose group has pictures in a part that is learnt from too."""
        return self.shared("test", LEARNT)

    def shared(self, split: str, others: Sequence[str]) -> list[Row]:
        """The pictures of a split whose group has pictures in another, too."""
        groups = groups_of(self.rows)
        seen = {group for row, group in zip(self.rows, groups, strict=True) if row.split in others}
        return [row for row, group in zip(self.rows, groups, strict=True) if row.split == split and group in seen]

    def path_of(self, row: Row) -> Path:
        """The file of a row."""
        return self.root / row.path

    @property
    def fingerprint_file(self) -> Path:
        """fingerprint.json beside the manifest, which a manifest from elsewhere may lack."""
        return self.root / "fingerprint.json"

    def fingerprint(self) -> dict[str, Any]:
        """What fingerprint.json says; empty if there is none.

        Raises:
            DataError: It is damaged, or a link that leaves the folder.
        """
        file = self.fingerprint_file
        if not file.is_file():
            return {}
        if not _lies_within(file, os.path.realpath(self.root)):
            raise DataError(_LINK, where=file)
        if file.stat().st_size > _FINGERPRINT_LIMIT_BYTES:
            raise DataError("damaged: too large", where=file)
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"damaged: {error}", where=file) from error
        if not isinstance(value, dict):
            raise DataError("damaged: not a mapping", where=file)
        return value

    def clean(self) -> Clean:
        """How its pictures were prepared; the default for a manifest from elsewhere.

        Raises:
            DataError: fingerprint.json is damaged.
        """
        values = self.fingerprint().get("clean")
        try:
            return Clean() if values is None else Clean.from_mapping(values)
        except DataError as error:
            raise DataError(f"damaged: {error.what}", where=self.fingerprint_file) from error

    @property
    def is_phantom(self) -> bool:
        """Whether fx drew these pictures."""
        return bool(self.fingerprint().get("phantom"))


def read_manifest(file: Path, *, root: Path | None = None, with_pictures: bool = True) -> Manifest:
    """Reads and checks a manifest.

    Args:
        file: The CSV, or the same table as Parquet.
        root: Folder of the pictures, where it is not the file's own (a run keeps a copy of its manifest).
        with_pictures: Whether they must be there; False for who only counts them.

    Raises:
        DataError: Absent, not UTF-8, too large, a column missing, a bad split or class name, too many classes, labels
            of some pictures alone, a path that leaves the folder, by a link too, a picture listed twice, or pictures
            that are not there.
    """
    if not file.is_file():
        hint = f"name the file: {file / 'manifest.csv'}" if file.is_dir() else "fx prepare RECIPE makes one"
        raise DataError("no such manifest", where=file, hint=hint)
    header, records = read_table(file)
    missing = [name for name in ("path", "label", "split") if name not in header]
    if missing:
        raise DataError(f"no column {', '.join(missing)}", where=file, hint=f"its columns: {', '.join(header)}")
    base = root or file.parent
    rows = tuple(_row(record, place) for place, record in records)
    if not rows:
        raise DataError("this manifest lists no picture", where=file)
    doubled = [path for path, count in Counter(row.path for row in rows).items() if count > 1]
    if doubled:
        raise DataError(f"{len(doubled)} pictures are listed twice, the first: {doubled[0]}", where=file)
    unlabelled = [row.path for row in rows if not row.label]
    if unlabelled and len(unlabelled) < len(rows):
        what = f"{len(unlabelled)} of {len(rows)} pictures have no label, the first: {unlabelled[0]}"
        raise DataError(what, where=file, hint="label all of them, or none")
    if len({row.label for row in rows}) > MAX_CLASSES:
        raise DataError(f"more than {MAX_CLASSES} classes: this is no list of kinds of fractures", where=file)
    if with_pictures:
        _check_files(file, base, rows)
    return Manifest(file=file, root=base, rows=rows, digest=sha256_of(file) if _is_csv(file) else _digest(rows))


def digest_of(file: Path) -> str:
    """The digest that the manifest in this file has, see `Manifest`; its pictures need not be there.

    Raises:
        DataError: Of Parquet, see `read_manifest`.
    """
    return sha256_of(file) if _is_csv(file) else read_manifest(file, with_pictures=False).digest


def _is_csv(file: Path) -> bool:
    return file.suffix.lower() != parquet.SUFFIX


def alike(a: Iterable[Row], b: Iterable[Row]) -> bool:
    """Whether pictures of one path are the same in both, as far as the hashes of their sources are known."""
    known = {row.path: row.sha256 for row in a}
    return all(row.sha256 == known[row.path] for row in b if row.sha256 and known.get(row.path))


def _check_files(file: Path, base: Path, rows: Sequence[Row]) -> None:
    """Whether all pictures are there, and none is reached by a link that leaves the folder."""
    root = os.path.realpath(base)
    folders: dict[str, bool] = {}
    absent, linked = [], []
    for row in rows:
        path = os.path.join(base, row.path)
        folder = os.path.dirname(path)
        if folder not in folders:
            folders[folder] = _lies_within(Path(folder), root)
        try:
            mode = os.lstat(path).st_mode
            is_link = stat.S_ISLNK(mode)
            if not (os.path.isfile(path) if is_link else stat.S_ISREG(mode)):
                absent.append(row.path)
            elif not folders[folder] or (is_link and not _lies_within(Path(path), root)):
                linked.append(row.path)
        except (OSError, ValueError):
            absent.append(row.path)
    if absent:
        raise DataError(
            f"{len(absent)} of {len(rows)} pictures are not there, the first: {absent[0]}",
            where=file,
            hint=f"they are looked for in {base}",
        )
    if linked:
        raise DataError(
            f"{len(linked)} of {len(rows)} pictures lie elsewhere, the first: {linked[0]}: {_LINK}",
            where=file,
            hint="copy them; a link to the whole folder is fine",
        )


def _lies_within(path: Path, root: str) -> bool:
    """Whether a path, its links followed, lies within a folder whose links were followed."""
    return Path(os.path.realpath(path)).is_relative_to(root)


def _row(record: dict[str, str], place: str) -> Row:
    record = {text_of(name): text_of(cell) for name, cell in record.items()}
    path = PurePosixPath(record["path"])
    # What is harmless here may be absolute on Windows, where a prepared folder can be carried to.
    leaves = path.is_absolute() or ".." in path.parts or PureWindowsPath(record["path"]).anchor
    if leaves or not record["path"] or "\\" in record["path"] or "\0" in record["path"]:
        raise DataError(f"path {record['path'][:200]!r} leaves the manifest's folder", where=place)
    label, split = record["label"], record["split"]
    if label and not is_class_name(label):
        raise DataError(
            f"class {label[:80]!r}: only letters, digits, _, . and - are allowed, no . or - first", where=place
        )
    if split not in SPLITS:
        raise DataError(f"split {split[:80]!r} is none of {', '.join(SPLITS)}", where=place)
    if record.get("leaked", "") not in ("", "yes", "no"):
        raise DataError(f"leaked {record['leaked'][:20]!r} is neither yes nor no", where=place)
    known: dict[str, Any] = {name: record[name] for name in COLUMNS if name in record} | {"path": str(path)}
    for name in ("width_px", "height_px"):
        text = known.get(name) or "0"
        if not text.isdecimal() or len(text) > 9:
            raise DataError(f"{name} {text[:20]!r} is not a number of pixels", where=place)
        known[name] = int(text)
    return Row(**known, extra={name: value for name, value in record.items() if name not in COLUMNS})


def write_manifest(file: Path, rows: Sequence[Row]) -> None:
    """Writes a manifest; columns that fx does not know stand at the end."""
    write_text(file, _text(rows))


def kind_of(column: str) -> Kind:
    """What the cells of a column are."""
    return Kind.COUNT if column in ("width_px", "height_px") else Kind.TEXT


def groups_of(rows: Sequence[Row]) -> list[str]:
    """The group of each row: as it says, else its patient, else it is a group of its own."""
    return [row.group or (f"patient:{row.patient}" if row.patient else f"alone:{row.path}") for row in rows]


def _digest(rows: Sequence[Row]) -> str:
    return hashlib.sha256(_text(rows).encode("utf-8", "backslashreplace")).hexdigest()


def _text(rows: Sequence[Row]) -> str:
    extra = list(dict.fromkeys(name for row in rows for name in row.extra))
    table: list[list[str]] = [[*COLUMNS, *map(text_cell, extra)]]
    for row in rows:
        known = [str(getattr(row, name)) for name in COLUMNS]
        table.append([text_cell(text) for text in (*known, *(row.extra.get(name, "") for name in extra))])
    # The csv module would leave a lone carriage return unquoted, and then refuse to read it.
    has_return = any("\r" in cell for cells in table for cell in cells)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL)
    writer.writerows(table)
    return out.getvalue()


def counts(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Class → split → number of pictures."""
    found = Counter((row.label, row.split) for row in rows)
    labels = sorted({label for label, _ in found})
    return {label: {split: found[label, split] for split in SPLITS if found[label, split]} for label in labels}


def counted(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The same as a table, for people: columns, and rows of which the last one adds up the others."""
    table = counts(rows)
    splits = [split for split in SPLITS if any(split in each for each in table.values())]
    cells = [[label or "(no label)", *(str(each.get(split, 0)) for split in splits)] for label, each in table.items()]
    total = ["all", *(str(sum(each.get(split, 0) for each in table.values())) for split in splits)]
    return ["class", *splits], [*cells, total]
