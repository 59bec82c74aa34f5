"""A page of predictions: every picture with its answer, to be sorted, filtered and looked at. Called by `fx predict`.

One file: pictures are data. It needs its own script alone, which its policy names by hash; all text is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from fxcli.console import console
from fxcli.data import page
from fxcli.data.preprocess import Cleaned
from fxcli.data.read import EXTENSIONS
from fxcli.errors import DataError, UsageError
from fxcli.explain import outline
from fxcli.run.files import saying, write_text

MARK = "fx gallery"
# With more, a page takes long to open: of 5,000 it has some 45 MB.
MOST = 5000
_SIDE_PX = 192
# More probabilities than these stand in one cell, the highest alone.
_MOST_CLASSES = 12
# In characters: of a column, and of the arrow beside the name of that by which rows are sorted.
_WIDEST, _SORT_SIGN = 32, 2


@dataclass(frozen=True)
class Views:
    """Of one picture: itself and its heat map, base64 of a JPEG; "" where there is none."""

    picture: str = ""
    heat: str = ""


@dataclass
class Gallery:
    """A page that grows by rows.

    Attributes:
        file: To write.
        classes: Of the classifier; none of a detector alone.
        rows: What was added.
    """

    file: Path
    classes: Sequence[str]
    rows: list[tuple[Mapping[str, Any], Views]] = field(default_factory=list)

    @classmethod
    def begun(cls, file: Path, count: int, classes: Sequence[str], *, overwrite: bool) -> Gallery:
        """A page for so many pictures; its folder is made.

        Raises:
            DataError: There is a file already, or it cannot be written.
            UsageError: They are too many, or it is a folder, or called as a picture is.
        """
        if file.is_dir():
            raise UsageError(f"{file} is a folder", hint=f"--report {file / 'gallery.html'}")
        if file.suffix.lower() in EXTENSIONS:
            # As when a shell writes out --report *.png, with --overwrite.
            raise UsageError(f"--report {file}: that is a picture's name", hint="a page is HTML: --report FILE.html")
        if file.exists() and not overwrite:
            raise DataError("this file exists", where=file, hint="--overwrite replaces it; --report names another")
        if count > MOST:
            hint = "name a part of them; rows and --cam take any number"
            raise UsageError(f"--report is a page to look at: {count} pictures are more than its {MOST}", hint=hint)
        with saying(file):
            # What would be told of after all pictures is told of before.
            file.parent.mkdir(parents=True, exist_ok=True)
            trial = file.with_name(f"{file.name}.part")  # as write_text calls it
            trial.touch()
            trial.unlink()
        return cls(file, classes)

    def add(self, record: Mapping[str, Any], views: Views | None) -> None:
        """Adds a picture: its row as a JSON object (see evaluation/predictions, box_table), and views, if any."""
        self.rows.append((record, views or Views()))

    def write(self, notice: str, about: str) -> None:
        """Writes the page.

        Args:
            notice: That every output carries.
            about: The model, in words.
        """
        columns = self._columns()
        rows = [(views, list(self._cells(record, columns))) for record, views in self.rows]
        script = resources.files("fxcli.report").joinpath("gallery.js").read_text(encoding="utf-8")
        text = page.render(
            "report/gallery.html.j2",
            title=f"{len(self.rows)} pictures",
            mark=MARK,
            notice=notice,
            about=about,
            columns=columns,
            has_heat=any(views.heat for _, views in self.rows),
            rows=rows,
            tracks=_tracks(columns, [cells for _, cells in rows]),
            classes=sorted({str(record["class"]) for record, _ in self.rows if "class" in record}),
            statuses=sorted({str(record["status"]) for record, _ in self.rows}),
            script=Markup(script),
            digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        )
        with saying(self.file):
            write_text(self.file, text)
        console.note(f"{len(self.rows)} pictures to look at: {self.file}")

    def _columns(self) -> list[str]:
        """What any row has, in the order of the rows of predictions."""
        known = {name for record, _ in self.rows for name in record}
        several = [f"p {name}" for name in self.classes] if len(self.classes) <= _MOST_CLASSES else ["probabilities"]
        columns = ["path", "status"]
        columns += ["class", "p", *several] if self.classes else []
        return columns + [
            name for name in ("set", "unlike_training", "p_finding", "box_score", "boxes", "reason") if name in known
        ]

    def _cells(self, record: Mapping[str, Any], columns: Sequence[str]) -> Iterator[str]:
        p = record.get("probabilities", {})
        highest = sorted(p.items(), key=lambda each: -each[1])
        values = {
            **record,
            "p": f"{highest[0][1]:.3f}" if highest else "",
            **{f"p {name}": f"{value:.3f}" for name, value in p.items()},
            "probabilities": ", ".join(f"{name} {value:.3f}" for name, value in highest[:3]),
            "set": ", ".join(record.get("set", ())),
            "unlike_training": {True: "yes", False: "no"}.get(record.get("unlike_training"), ""),  # type: ignore[arg-type]
            "boxes": ", ".join(f"{box['class']} {box['score']:.2f}" for box in record.get("boxes", ())),
        }
        for name in columns:
            value = values.get(name, "")
            yield f"{value:.3f}" if isinstance(value, float) else str(value)


def _tracks(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Widths of columns, as a browser's table would find them by laying out every row; longer text is wrapped."""
    heads = [max(map(len, name.split())) + _SORT_SIGN for name in columns]
    cells = [[len(row[place]) for row in rows] for place in range(len(columns))]
    widths = (min(_WIDEST, max([head, *lengths])) for head, lengths in zip(heads, cells, strict=True))
    return " ".join(f"{width}ch" for width in widths)


def views(cleaned: Cleaned, heat: np.ndarray | None, boxes: Sequence[Mapping[str, Any]] = ()) -> Views:
    """What the page shows of a picture; may be called on any thread.

    Args:
        cleaned: It.
        heat: [H, W, 3] uint8, the heat map over it, or None.
        boxes: As rows tell them.
    """
    size_px = (cleaned.width_px, cleaned.height_px)
    drawn = [
        None if pixels is None else outline.outlined(page.small(pixels, _SIDE_PX), boxes, size_px)
        for pixels in (outline.radiograph(cleaned), heat)
    ]
    picture, map_ = ("" if pixels is None else page.jpeg(pixels) for pixels in drawn)
    return Views(picture, map_)
