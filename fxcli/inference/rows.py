"""Where the rows of predictions go: stdout, or a file that grows beside its name and gets it when it is complete.

    predictions.csv.part    the rows so far; the last may be cut short
    predictions.parquet     the complete ones again, in typed columns
    lock.json               who is at work here

What rows are made with stands beside them, see notes. Whatever stops a prediction, its rows stay, and `--resume` goes
on with them: with complete ones too, for pictures may have come or changed since. Called by commands/predict.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fxcli.console import console
from fxcli.data import parquet
from fxcli.errors import DataError, RunError
from fxcli.evaluation.lines import Found, Lines, Place
from fxcli.evaluation.table import kind_of
from fxcli.inference.notes import (
    are_of,
    changed,
    check_notes,
    keep_notes,
    note_end,
    notes_of,
    part_of,
    renew_notes,
    taken,
    times_of,
    warn_of_gone,
    write_notes,
)
from fxcli.run.files import copy, replace, saying, sync_folder
from fxcli.run.lock import Lock

_KEPT = "make space there, or write elsewhere; rows in a .part file are kept, and --resume goes on with them"

# (index of a picture, whether its row is an answer) → whether all that is to be drawn beside the row is there.
IsDrawn = Callable[[int, bool], bool]
# (path of a picture) → what its row calls it.
Show = Callable[[Path], str]


class Rows(Protocol):
    """Takes the rows of predictions.

    Attributes:
        failed: How many of them are errors.
    """

    failed: int

    def missing(self, files: Sequence[Path], shown: Show, is_drawn: IsDrawn) -> Sequence[int]:
        """The indices of the pictures that have no row yet.

        Args:
            files: All of them, in the order of the rows.
            shown: What their rows call them.
            is_drawn: Whether what stands beside a row is there.
        """
        ...

    def write(self, record: Mapping[str, Any]) -> None:
        """Takes the row of the next one that is missing.

        Raises:
            DataError: It cannot be written.
        """
        ...

    def finish(self) -> None:
        """Called when every picture has its row."""
        ...


class Printed:
    """Rows on stdout, each at once: who reads them need not wait."""

    def __init__(self, lines: Lines) -> None:
        self.lines, self.failed = lines, 0
        self._print(lines.head)

    def missing(self, files: Sequence[Path], shown: Show, is_drawn: IsDrawn) -> Sequence[int]:
        """See Rows."""
        return range(len(files))

    def write(self, record: Mapping[str, Any]) -> None:
        """See Rows."""
        self.failed += record["status"] == "error"
        self._print(self.lines.line(record))

    def finish(self) -> None:
        """See Rows."""

    def _print(self, text: str) -> None:
        with saying("stdout", _KEPT):
            sys.stdout.write(text)
            sys.stdout.flush()


class Growing:
    """Rows in a file that gets its name at the end.

    Args:
        file: That name.
        lines: What its lines are like.
        found: Rows that are there already; None begins anew.
        as_parquet: Whether complete rows are wanted as Parquet, too.
    """

    def __init__(self, file: Path, lines: Lines, found: Found | None, *, as_parquet: bool) -> None:
        self.file, self.lines, self.found = file, lines, found
        self.as_parquet = as_parquet
        self.failed = 0
        self.has_changed = found is None
        # Since when all rows are of their pictures, once they are complete; None: since the first was begun.
        self.looked: float | None = None
        self.count = len(found.order) if found else 0
        self.end = found.end if found else 0
        # Where the row of each path stands, if the rows must be put in order at the end; and that order.
        self.places: dict[str, Place] | None = None
        self.cells: list[str] = []
        # Unbuffered: a row is in the file once it is written, or an error says that it is not.
        self.handle = io.FileIO(part_of(file), "ab" if found else "wb")
        if not found:
            try:
                self._append(lines.head)
            except BaseException:
                self.leave()
                raise

    def missing(self, files: Sequence[Path], shown: Show, is_drawn: IsDrawn) -> Sequence[int]:
        """See Rows."""
        if self.found is None:
            return range(len(files))
        self.looked = time.time()
        order, places = self.found.order, self.found.places
        self.found = None
        times, cells = times_of(part_of(self.file)), [shown(path) for path in files]
        todo = []
        for index, (path, cell) in enumerate(zip(files, cells, strict=True)):
            place = places.get(cell)
            is_done = place is not None and is_drawn(index, place.is_answer)
            if place is None or not is_done or changed(path) >= max(when for end, when in times if end <= place.start):
                todo.append(index)
        if todo:
            console.note(f"going on: {len(files) - len(todo)} of {len(files)} pictures have their row")
        else:
            console.note("nothing is missing: each picture has its row")
        warn_of_gone(order, cells)
        if order != cells[: len(order)] or todo != list(range(len(order), len(files))):
            self.places, self.cells = places, cells
        self.has_changed = bool(todo) or self.places is not None
        if todo:
            with saying(self.file, _KEPT):
                note_end(part_of(self.file), self.end, self.looked)
        return todo

    def write(self, record: Mapping[str, Any]) -> None:
        """See Rows."""
        start = self.end
        self._append(self.lines.line(record))
        self.count += 1
        self.failed += record["status"] == "error"
        if self.places is not None:
            self.places[record["path"]] = Place(start, self.end, record["status"] == "ok")

    def finish(self) -> None:
        """See Rows; the file gets its name."""
        with saying(self.file, _KEPT):
            os.fsync(self.handle.fileno())
            self.handle.close()
            if self.has_changed and not self.lines.json:
                parquet.forget(self.file)  # earlier rows must not stand beside these
            part = part_of(self.file)
            if self.places is not None:
                replace(self._ordered(self.places), part)  # not to the name: rows beside it would have no notes
            if self.looked is not None:
                renew_notes(part, self.looked)
            replace(part, self.file)
            keep_notes(self.file)
            sync_folder(self.file.parent)
        if self.as_parquet:
            parquet.beside(self.file, kind_of)

    def leave(self) -> None:
        """Called when something stopped the prediction."""
        self.handle.close()
        part = part_of(self.file)
        if self.count:
            # All of them have their name already, if it was stopped after that.
            where = part if part.exists() else self.file
            console.note(f"{self.count} rows are in {where}: the same command with --resume goes on with them")
        else:
            for file in (part, notes_of(part)):
                file.unlink(missing_ok=True)

    def _append(self, text: str) -> None:
        rest = memoryview(text.encode("utf-8", "backslashreplace"))
        with saying(part_of(self.file), _KEPT):
            while rest:
                # A disk that is nearly full takes a part of it.
                written = self.handle.write(rest) or 0
                rest, self.end = rest[written:], self.end + written

    def _ordered(self, places: Mapping[str, Place]) -> Path:
        """A file with the rows in the order of the pictures; after a change of those they were added as they came."""
        ordered = self.file.with_name(f"{self.file.name}.part.ordered")
        try:
            with part_of(self.file).open("rb") as rows, ordered.open("wb") as target:
                target.write(self.lines.head.encode("utf-8"))
                for cell in self.cells:
                    rows.seek(places[cell].start)
                    target.write(rows.read(places[cell].end - places[cell].start))
                target.flush()
                os.fsync(target.fileno())
        except BaseException:
            ordered.unlink(missing_ok=True)
            raise
        return ordered


@contextlib.contextmanager
def going_to(
    folder: Path | None,
    lines: Lines,
    made_with: Mapping[str, Any],
    *,
    resume: bool,
    overwrite: bool,
    as_parquet: bool = False,
) -> Iterator[Rows]:
    """Gives what takes the rows.

    Args:
        folder: Where the file goes; None is stdout.
        lines: What its lines are like.
        made_with: What the rows of one file must have in common, as JSON.
        resume: Whether to go on with what a stopped prediction left here.
        overwrite: Whether to replace what is here.
        as_parquet: Whether complete rows of a CSV are wanted as Parquet, too.

    Raises:
        DataError: There is a file already, or it cannot be written to.
        RunError: Another process is at work here, or what is here was made with something else.
    """
    if folder is None:
        yield Printed(lines)
        return
    with saying(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with Lock(folder):
        file = folder / lines.file_name
        if not lines.json:
            _check_free(file, may_replace=overwrite)
        rows = _opened(file, lines, made_with, resume=resume, overwrite=overwrite, as_parquet=as_parquet)
        try:
            yield rows
        except BaseException:
            rows.leave()
            raise


def _check_free(file: Path, *, may_replace: bool) -> None:
    """Whether what lies where the rows would stand as Parquet may go: it may hold other rows, and be all there is."""
    table = parquet.table_of(file)
    if table.is_dir():
        raise DataError(
            "here are the rows of a prediction with --on ray", where=table, hint="--out names another folder"
        )
    if table.exists() and not (may_replace or file.exists() or part_of(file).exists()):
        raise taken(table, "this file exists, and no rows beside it")


def _opened(
    file: Path, lines: Lines, made_with: Mapping[str, Any], *, resume: bool, overwrite: bool, as_parquet: bool
) -> Growing:
    part, found = part_of(file), Found()
    if part.exists() and not overwrite:
        _check_head(part, lines, made_with)
        found = _found(part, lines)
    if resume and file.exists() and not found.order and not (part.exists() and are_of(part, made_with)):
        # Complete, and perhaps no longer: it stays as it is until another is.
        if not part.exists():
            keep_notes(file)  # killed between its name and theirs
        _check_head(file, lines, made_with)
        check_notes(file, made_with)
        with saying(part, _KEPT):
            copy(notes_of(file), notes_of(part))
            copy(file, part)
        found = _found(part, lines)
    if found.order and not resume:
        raise taken(part, f"a prediction that was stopped left {len(found.order)} rows here", "--resume goes on; ")
    if file.exists() and not (resume or overwrite):
        raise taken(file, "this file exists")
    if found.order:
        check_notes(part, made_with)
        os.truncate(part, found.end)
        return Growing(file, lines, found, as_parquet=as_parquet)
    with saying(part, _KEPT):
        # Killed between the two, it must not leave notes beside rows of something else.
        part.write_bytes(b"")
        write_notes(part, made_with)
    return Growing(file, lines, None, as_parquet=as_parquet)


def _check_head(file: Path, lines: Lines, made_with: Mapping[str, Any]) -> None:
    """Whether a file of rows is one of these lines: of others none would be found, and all be lost.

    Raises:
        RunError: It is not.
    """
    with file.open("rb") as handle:
        if lines.has_begun(handle):
            return
    check_notes(file, made_with)
    what = "these rows have other columns, or another program saved them"
    raise RunError(what, where=file, hint="--overwrite begins anew; --out names another folder")


def _found(file: Path, lines: Lines) -> Found:
    with file.open("rb") as handle:
        return lines.found(handle)
