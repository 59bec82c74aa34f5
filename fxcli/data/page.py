"""Pages that fx writes: one HTML file each, which loads nothing. What stands on one, its caller says.

`render` and data/base.html.j2 are behind every page; `write` makes those of pictures for people to judge, and is called
by audit_page and label_page. Reports are in report/.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fxcli.run.files import write_text

if TYPE_CHECKING:
    import jinja2

# Of each section; a page of all pictures of a large set would not open.
MOST_SHOWN = 400
_QUALITY = 70


@dataclass(frozen=True)
class Picture:
    """One picture of an entry; `data` is base64, or "" without a view."""

    name: str
    label: str
    split: str
    data: str


@dataclass(frozen=True)
class Entry:
    """One or two pictures with a line; `differ` marks labels that disagree."""

    what: str
    pictures: list[Picture]
    differ: bool = False


@dataclass(frozen=True)
class Part:
    """A section of the page; `rest` says where all of it is, if not all is shown."""

    title: str
    about: str
    count: int
    shown: list[Entry]
    rest: str


def write(file: Path, title: str, table: Sequence[tuple[str, str]], parts: Iterable[Part]) -> None:
    """Writes a page.

    Args:
        file: To write.
        title: Of it.
        table: What and value, at its top.
        parts: Its sections; empty ones are left out.
    """
    sections = [part for part in parts if part.count]
    write_text(file, render("data/page.html.j2", title=title, table=table, sections=sections))


def render(template: str, **values: Any) -> str:
    """The text of a page.

    Args:
        template: Below fxcli/; it extends data/base.html.j2.
        values: Of the template. All text is escaped: names of files and classes may hold anything.
    """
    return f"{_pages().get_template(template).render(**values)}\n"


@functools.cache
def _pages() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("fxcli", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def small(pixels: np.ndarray, side_px: int) -> np.ndarray:
    """[h, w] or [h, w, 3] uint8 shrunk to fit into a square."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((side_px, side_px))
    return np.asarray(picture)


def jpeg(pixels: np.ndarray) -> str:
    """[h, w] or [h, w, 3] uint8 as base64 of a small file."""
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]  # without colour it takes a fifth less
    out = io.BytesIO()
    # Colour at full resolution: a line of one pixel would turn grey. Tables of their own make up for its size.
    Image.fromarray(pixels).save(out, format="JPEG", quality=_QUALITY, subsampling=0, optimize=True)
    return base64.b64encode(out.getvalue()).decode("ascii")
