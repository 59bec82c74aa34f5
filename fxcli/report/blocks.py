"""What a report is made of, before it is HTML: sections of texts, tables, figures and pictures.

All of it is plain text but for the SVG of figures, which is made here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from markupsafe import Markup

_NUMBER = re.compile(r"[-+–−]?\d[\d.,:]*(e[-+]?\d+)?( ?%)?( \[.*\])?|–|")


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar = "text"
    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of short texts."""

    kind: ClassVar = "bullets"
    items: Sequence[str]


@dataclass(frozen=True)
class Missing:
    """What the run does not hold, and the command that makes it; "" where none does."""

    kind: ClassVar = "missing"
    what: str
    command: str = ""


@dataclass(frozen=True)
class Facts:
    """What and value, one below the other; values that are empty are left out."""

    kind: ClassVar = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Code:
    """Long text behind a line that opens it."""

    kind: ClassVar = "code"
    title: str
    text: str


@dataclass(frozen=True)
class Table:
    """Cells as text; the first of a row is its head.

    Attributes:
        columns: Their names.
        rows: Cells.
        caption: What it shows.
        shades: 0…1 for each cell but the heads: how strongly it is coloured; none: not at all.
    """

    kind: ClassVar = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    shades: Sequence[Sequence[float]] = ()

    @property
    def numeric(self) -> list[bool]:
        """Whether a column holds numbers alone."""
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.columns)
        return [bool(cells) and all(_NUMBER.fullmatch(cell) for cell in cells) for cells in columns]


@dataclass(frozen=True)
class Figure:
    """A drawing, and the same as a table, for who cannot see it."""

    kind: ClassVar = "figure"
    svg: Markup
    caption: str
    table: Table


@dataclass(frozen=True)
class View:
    """One picture of a card: base64 of a JPEG, and what it shows."""

    data: str
    what: str


@dataclass(frozen=True)
class Card:
    """A picture that was answered: views of it, and lines about it."""

    views: Sequence[View]
    lines: Sequence[str]


@dataclass(frozen=True)
class Pictures:
    """Cards beside each other."""

    kind: ClassVar = "pictures"
    cards: Sequence[Card]


Block = Text | Bullets | Missing | Facts | Code | Table | Figure | Pictures


@dataclass(frozen=True)
class Section:
    """A part of a report with a heading; `parts` are one level below."""

    title: str
    blocks: Sequence[Block] = ()
    parts: Sequence[Section] = field(default=())
