"""Predictions of very many pictures in shards: each is a Parquet file of its own, that any machine may write.

    predictions.parquet.part/            shards so far: <key>.parquet; <key>.<command>.tries of one that is begun
    predictions.parquet/                 all of them, in the order of the pictures: part-<number>-<key>.parquet
    predictions.parquet.part.json …      what they are made with, see notes
    lock.json                            who is at work here

A key is a hash of what the rows of a shard call their pictures, so that a shard is known again: whatever stops a
prediction, its shards stay, and `--resume` goes on with them. Who computes a shard is not decided here (see on_ray).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxcli.console import console
from fxcli.data import parquet
from fxcli.errors import DataError, RunError
from fxcli.evaluation.lines import Lines
from fxcli.evaluation.predictions import PredictionTable
from fxcli.evaluation.table import kind_of
from fxcli.inference.notes import changed, check_notes, keep_notes, notes_of, part_of, taken, warn_of_gone, write_notes
from fxcli.inference.verdict import Judge
from fxcli.run.files import copy, replace, saying, sync_folder
from fxcli.run.lock import Lock

NAME = "predictions.parquet"
# Pictures of a shard, on average and at most: some ten seconds of a core, which is what a lost machine costs.
SIZE, MOST = 256, 1024
# How often a shard is begun: a machine may be lost, but a picture must not end one process after another.
TRIES = 3


@dataclass(frozen=True)
class Shard:
    """Some pictures that follow each other.

    Attributes:
        files: Absolute.
        cells: What their rows call them.
        key: Of the cells.
    """

    files: tuple[Path, ...]
    cells: tuple[str, ...]
    key: str


@dataclass(frozen=True)
class Told:
    """What is known of a shard's file.

    Attributes:
        rows: How many.
        failed: How many of them are errors.
        begun: Before its first picture was opened, in seconds since the epoch.
        cautions: How often each occurs.
        command: Which command wrote it.
    """

    rows: int
    failed: int
    begun: float
    cautions: Mapping[str, int]
    command: str


def cut(files: Iterable[Path], cells: Iterable[str]) -> Iterator[Shard]:
    """Pictures in shards, in their order.

    A shard ends after a picture whose name's hash says so: where pictures come or go, the shards of others stay.
    """
    held: list[tuple[Path, str]] = []
    for file, cell in zip(files, cells, strict=True):
        held.append((file, cell))
        if int(_hash(cell), 16) % SIZE == 0 or len(held) == MOST:
            yield _shard(held)
            held = []
    if held:
        yield _shard(held)


def _shard(held: Sequence[tuple[Path, str]]) -> Shard:
    files, cells = zip(*held, strict=True)
    # No name holds a zero byte.
    return Shard(files, cells, _hash("\0".join(cells)))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write(judge: Judge, shard: Shard, folder: Path, command: str) -> Told:
    """Answers the pictures of a shard and writes their rows; what this command wrote already is not done again.

    Args:
        judge: Answers.
        shard: Its pictures.
        folder: Of the shards so far.
        command: Kept in the file; unique.

    Raises:
        RunError: This machine does not see the folder, or the shard has ended too many processes.
        DataError: Its rows cannot be written.
    """
    file = _file(folder, shard.key)
    known = told_of(file)
    if known is not None and known.command == command:
        return known
    if not folder.is_dir():
        hint = "the pictures, the model and --out DIR must lie where every machine of the cluster sees them"
        raise RunError("this folder is not seen", where=folder, hint=hint)
    tries = _try(shard, folder, command)
    begun, failed, cautions = time.time(), 0, Counter[str]()
    model = judge.opened.model
    table = PredictionTable(model.classes, model.info, extra=judge.columns)
    lines = Lines(table, json=False)
    text = [lines.head]
    judge.ask_gate(shard.files)
    for cell, verdict in zip(shard.cells, judge.opened.pipeline.map(judge.verdict, shard.files), strict=True):
        del verdict["path"]
        cautions.update(map(str, verdict.pop("cautions")))
        failed += verdict["status"] == "error"
        text.append(lines.line(table.record(cell, **verdict)))
    told = Told(len(shard.cells), failed, begun, dict(cautions), command)
    about = {"failed": str(failed), "begun": repr(begun), "cautions": json.dumps(cautions), "command": command}
    # Another machine may be at the same shard, if this one is thought to be lost.
    own = folder / f"{shard.key}.{secrets.token_hex(6)}"
    columns = {name: kind_of(name) for name in table.columns}
    parquet.write(io.BytesIO("".join(text).encode("utf-8", "backslashreplace")), own, columns, about)
    with saying(file):
        replace(own, file)
    tries.unlink(missing_ok=True)
    return told


def _try(shard: Shard, folder: Path, command: str) -> Path:
    """Counts how often a shard was begun; gives the file that does, one byte each."""
    file = folder / f"{shard.key}.{command}.tries"
    with saying(file), file.open("ab") as handle:
        if handle.tell() < TRIES:
            handle.write(b".")
            return file
    hint = "predict these without --on ray, or leave one out; if memory is short, more --workers make fewer processes"
    raise RunError(
        f"{TRIES} processes ended at the {len(shard.cells)} pictures from {shard.cells[0]} to {shard.cells[-1]}",
        hint=f"{hint}. What is done is kept, and --resume goes on with it",
    )


def told_of(file: Path) -> Told | None:
    """What is known of a shard's file; None if there is none, or it is damaged."""
    about = parquet.about_of(file)
    try:
        numbers = int(about["rows"]), int(about["failed"]), float(about["begun"])
        return Told(*numbers, json.loads(about["cautions"]), about["command"])
    except (KeyError, ValueError):
        return None


class ShardFolder:
    """The shards of one prediction.

    Args:
        file: Name of the folder once all are there.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.folder = file, part_of(file)

    def missing(self, shards: Sequence[Shard]) -> list[Shard]:
        """Those that have no file yet, or one with an error, or with a picture that changed since."""
        folder = self.folder if self.folder.exists() else self.file
        there = {_key(file): file for file in folder.glob(f"*{parquet.SUFFIX}")}
        todo = [shard for shard in shards if shard.key not in there or not _is_done(shard, there[shard.key])]
        if there:
            left, total = (sum(len(shard.files) for shard in part) for part in (todo, shards))
            console.note(f"going on: {total - left} of {total} pictures have their row")
        # A shard that is none now holds a picture that came or went, beside others that are in another shard.
        if others := there.keys() - {shard.key for shard in shards}:
            told = (cell for key in others for cell in parquet.texts_of(there[key], "path"))
            warn_of_gone(told, (cell for shard in shards for cell in shard.cells))
        return todo

    def begin(self) -> None:
        """Makes place for shards: complete ones are no table from here on. Called again it does nothing."""
        with saying(self.folder):
            if not self.folder.exists():
                replace(notes_of(self.file), notes_of(self.folder))
                replace(self.file, self.folder)
            for shard in self.folder.glob(f"part-*{parquet.SUFFIX}"):
                replace(shard, _file(self.folder, _key(shard)))

    def finish(self, shards: Sequence[Shard]) -> None:
        """Puts the shards in the order of the pictures, and gives their folder its name."""
        self.begin()
        last = {shard.key: number for number, shard in enumerate(shards)}
        with saying(self.file):
            wanted = set()
            for number, shard in enumerate(shards):
                source, target = _file(self.folder, shard.key), self.folder / f"part-{number:06d}-{shard.key}.parquet"
                # The same pictures may have been named twice.
                (replace if last[shard.key] == number else copy)(source, target)
                wanted.add(target.name)
            for other in self.folder.iterdir():
                if other.name not in wanted:
                    other.unlink()
            sync_folder(self.folder)
            _remove(self.file)
            replace(self.folder, self.file)
            keep_notes(self.file)
            sync_folder(self.file.parent)

    def leave(self) -> None:
        """Called when something stopped the prediction."""
        count = sum(1 for _ in self.folder.glob(f"*{parquet.SUFFIX}"))
        if count:
            console.note(f"{count} shards are in {self.folder}: the same command with --resume goes on with them")
        else:
            _remove(self.folder)
            notes_of(self.folder).unlink(missing_ok=True)


@contextlib.contextmanager
def going_to(folder: Path, made_with: Mapping[str, Any], *, resume: bool, overwrite: bool) -> Iterator[ShardFolder]:
    """Gives what keeps the shards of a prediction; arguments and errors are those of rows.going_to."""
    with saying(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with Lock(folder):
        kept = ShardFolder(folder / NAME)
        _open(kept, made_with, resume=resume, overwrite=overwrite)
        try:
            yield kept
        except BaseException:
            kept.leave()
            raise


def _open(kept: ShardFolder, made_with: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
    part, file = kept.folder, kept.file
    alone = file.with_suffix(".csv")
    for other in (alone, part_of(alone)):
        if other.exists():
            what = "these rows were not made with --on ray, and must not lie beside others"
            raise DataError(what, where=other, hint="--out names another folder")
    if file.is_file() and not overwrite:
        raise taken(file, "these rows were not made with --on ray")
    if resume and file.is_dir() and not part.exists():
        # Complete, and perhaps no longer.
        keep_notes(file)  # stopped between its name and theirs
        check_notes(file, made_with)
        return
    if file.exists() and not (resume or overwrite):
        raise taken(file, "this folder exists")
    if part.exists() and not resume and not overwrite:
        raise taken(part, "a prediction that was stopped left shards here", "--resume goes on; ")
    if part.exists() and not overwrite:
        check_notes(part, made_with)
        return
    with saying(part):
        _remove(part)
        # Before its notes: alone they would be taken for those of complete shards.
        part.mkdir()
        write_notes(part, made_with)


def _file(folder: Path, key: str) -> Path:
    return folder / f"{key}{parquet.SUFFIX}"


def _key(file: Path) -> str:
    return file.stem.rpartition("-")[2]


def _is_done(shard: Shard, file: Path) -> bool:
    told = told_of(file)
    if told is None or told.failed or told.rows != len(shard.cells):
        return False
    return all(changed(picture) < told.begun for picture in shard.files)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
