"""Pages of pictures for people to judge: one HTML file each, which loads nothing. What stands on one, its caller says.

Called by audit_page and label_page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from fxcli.run.files import write_text

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
    import jinja2

    source = resources.files("fxcli.data").joinpath("page.html.j2").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
    sections = [part for part in parts if part.count]
    write_text(file, template.render(title=title, table=table, sections=sections) + "\n")


def jpeg(pixels: np.ndarray) -> str:
    """[h, w] uint8 as base64 of a small file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="JPEG", quality=_QUALITY)
    return base64.b64encode(out.getvalue()).decode("ascii")
