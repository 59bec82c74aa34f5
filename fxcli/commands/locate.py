"""What `fx predict` does with a detector alone: pictures → boxes, as rows, outlines and COCO."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from fxcli.console import console

if TYPE_CHECKING:
    from fxcli.commands.outputs import Begun, Outputs
    from fxcli.data.paths import PathStyle
    from fxcli.evaluation.box_table import BoxTable
    from fxcli.inference.detected import OpenedDetector
    from fxcli.inference.rows import Rows


def locate(opened: OpenedDetector, files: list[Path], names: PathStyle, score: float | None, wanted: Outputs) -> None:
    """Writes a row for each picture that has none, what is wanted beside it, and a page to look at.

    Raises:
        SomeRowsFailed: Some could not be read.
        DataError: There is a COCO file already.
    """
    from fxcli.evaluation.box_table import BoxTable
    from fxcli.evaluation.lines import Lines

    least = opened.least_score(score)
    begun = wanted.begun(files, names, (), opened.made_with(least))
    table = BoxTable(opened.model.info)
    lines = Lines(table, json=wanted.json)
    with begun.going_to(lines) as rows:
        _locate(opened, begun, least, table, rows)
    begun.finish(lines.file_name, rows.failed, table.notice, opened.described, opened.model.classes, least)


def _locate(opened: OpenedDetector, begun: Begun, least: float, table: BoxTable, rows: Rows) -> None:
    """Looks for boxes on each picture that has no row."""
    from fxcli.data.radiograph import Caution, warn_of
    from fxcli.explain import outline
    from fxcli.inference.detected import row_of
    from fxcli.report.gallery import views

    files, cautions = begun.files, list[Caution]()
    todo = begun.missing(rows)
    # Closed where the loop is left early, or threads would go on with pictures that nobody hears of.
    with contextlib.closing(opened.finder.over([files[index] for index in todo])) as found:
        sightings = console.progress(found, total=len(files), done=len(files) - len(todo), what="predict")
        for index, sighting in zip(todo, sightings, strict=True):
            cleaned = sighting.cleaned
            record = table.record(begun.called(sighting.path), **row_of(sighting, opened.model.classes, least))
            if begun.outlines:
                outline.save(cleaned, record, begun.outlines[index], table.notice)
            cautions += cleaned.cautions if cleaned else ()
            seen = views(cleaned, None, record["boxes"]) if begun.gallery and cleaned else None
            begun.take(rows, sighting.path, record, seen)
    rows.finish()
    warn_of(cautions)
