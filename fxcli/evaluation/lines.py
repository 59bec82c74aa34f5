"""Predictions as lines of a CSV or as JSON Lines: made, and found again in what a stopped prediction left.

Text in, text out: which file it is, is the caller's matter (inference/rows).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple, Protocol

from fxcli.console import json_line
from fxcli.evaluation.table import csv_line


class Table(Protocol):
    """The columns of records, and records as their cells."""

    @property
    def columns(self) -> Sequence[str]:
        """Names; `path` and `status` are among them."""
        ...

    def cells(self, record: Mapping[str, Any]) -> list[str]:
        """One row."""
        ...


class Place(NamedTuple):
    """Where a row stands in its file, in bytes, and whether it is an answer."""

    start: int
    end: int
    is_answer: bool


@dataclass
class Found:
    """The rows of a file, up to the first that is cut short.

    Attributes:
        order: The path of each.
        places: The last row of each path, but for errors.
        end: Where the last of them ends, in bytes.
    """

    order: list[str] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    end: int = 0


class Lines:
    """Records as lines.

    Args:
        table: Has the columns.
        json: Whether they are JSON Lines.
    """

    def __init__(self, table: Table, *, json: bool) -> None:
        self.table, self.json = table, json
        self.head = "" if json else csv_line(table.columns) + "\n"
        self.file_name = "predictions.jsonl" if json else "predictions.csv"

    def line(self, record: Mapping[str, Any]) -> str:
        """One record, with its end."""
        return (json_line(record) if self.json else csv_line(self.table.cells(record))) + "\n"

    def has_begun(self, handle: BinaryIO) -> bool:
        """Whether a file begins as these do; so does one that was cut short before its rows."""
        head = self.head.encode("utf-8")
        # A power cut may leave zero bytes in place of the rest.
        return head.startswith(handle.read(len(head)).rstrip(b"\0"))

    def found(self, handle: BinaryIO) -> Found:
        """The rows of a file; none, where it does not begin as one of these should."""
        head = self.head.encode("utf-8")
        found = Found(end=len(head))
        if handle.read(len(head)) != head:
            return Found()
        for line in self._whole(handle):
            row = self._parsed(line)
            if row is None:
                break
            path, status = row
            start, found.end = found.end, found.end + len(line)
            found.order.append(path)
            if status == "error":
                found.places.pop(path, None)
            else:
                found.places[path] = Place(start, found.end, status == "ok")
        return found

    def _whole(self, handle: BinaryIO) -> Iterator[bytes]:
        """Lines with their ends; a cell of a CSV may hold some of those."""
        held: list[bytes] = []
        is_quoted = False
        for part in handle:
            held.append(part)
            is_quoted ^= not self.json and part.count(b'"') % 2 == 1
            if part.endswith(b"\n") and not is_quoted:
                yield b"".join(held)
                held = []

    def _parsed(self, line: bytes) -> tuple[str, str] | None:
        """Path and status of a row; None if it is none."""
        try:
            text = line.decode("utf-8")
            if self.json:
                record = json.loads(text)
            else:
                (cells,) = csv.reader(io.StringIO(text, newline=""), strict=True)
                record = dict(zip(self.table.columns, cells, strict=True))
            path, status = record["path"], record["status"]
        except (ValueError, KeyError, TypeError, csv.Error, RecursionError):
            return None
        # No text of ours holds zero bytes; a power cut may leave some.
        return (path, status) if isinstance(path, str) and isinstance(status, str) and "\0" not in text else None
