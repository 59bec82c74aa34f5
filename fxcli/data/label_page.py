"""A page of the pictures whose labels a model contradicts most surely, for somebody who knows to look at them again.

Called by `fx evaluate --split oof`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fxcli.data import page
from fxcli.data.manifest import Manifest, Row
from fxcli.data.page import Entry, Part, Picture
from fxcli.data.preprocess import Clean
from fxcli.data.read import read
from fxcli.errors import MissingDependency, UnreadableImage

_SIDE_PX = 192


def write(file: Path, name: str, manifest: Manifest, contradicted: Sequence[Mapping[str, Any]]) -> None:
    """Writes the page.

    Args:
        file: To write.
        name: Of the model.
        manifest: Of the pictures; one that cannot be read has an entry all the same.
        contradicted: path, label, predicted, p_label and p_predicted of each (see evaluation/report).
    """
    row_of = {row.path: row for row in manifest.rows}
    entries, clean = [], manifest.clean()
    for each in contradicted[: page.MOST_SHOWN]:
        row = row_of[each["path"]]
        what = f"{each['predicted']} ({each['p_predicted']:.2f}), not {each['label']} ({each['p_label']:.2f})"
        picture = Picture(row.source or row.path, row.label, row.split, _small(manifest, clean, row))
        entries.append(Entry(what, [picture], differ=True))
    about = "Answers of networks that had not seen the picture. A label that is wrong is told so as often as an answer."
    part = Part("Labels that are contradicted, the surest first", about, len(contradicted), entries, "")
    page.write(file, f"Labels to look at again, says {name}", [], [part])


def _small(manifest: Manifest, clean: Clean, row: Row) -> str:
    """A picture for the page, cleaned; "" if it cannot be read by now."""
    path = manifest.path_of(row)
    try:
        return page.jpeg(page.small(clean(read(path), path).pixels, _SIDE_PX))
    except (UnreadableImage, MissingDependency):
        return ""
