"""What `fx predict` does with a detector alone: pictures → boxes, as rows, outlines and COCO."""

from __future__ import annotations

import contextlib
import csv
import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxcli.console import console
from fxcli.errors import DataError, UnreadableImage

if TYPE_CHECKING:
    from fxcli.commands.outputs import Outputs
    from fxcli.data.paths import PathStyle, Shown
    from fxcli.evaluation.box_table import BoxTable
    from fxcli.explain.places import Drawing
    from fxcli.inference.detected import OpenedDetector, Sighting
    from fxcli.inference.rows import Rows
    from fxcli.report.gallery import Gallery

# Not as the true boxes of a prepared folder are called: what is found must never take their place.
COCO = "found.coco.json"


def locate(opened: OpenedDetector, files: list[Path], names: PathStyle, score: float | None, wanted: Outputs) -> None:
    """Writes a row for each picture that has none, what is wanted beside it, and a page to look at.

    Raises:
        SomeRowsFailed: Some could not be read.
        DataError: There is a COCO file already.
    """
    from fxcli.data.names import path_cell
    from fxcli.data.paths import Shown
    from fxcli.evaluation.box_table import BoxTable, found_coco
    from fxcli.evaluation.lines import Lines
    from fxcli.explain.places import Drawing, check_places, output_names, pictures_beside
    from fxcli.inference import rows as output
    from fxcli.inference.notes import named_by
    from fxcli.report.gallery import Gallery
    from fxcli.run.files import write_json

    if wanted.boxes:
        files = pictures_beside(wanted.boxes, files)
    shown = Shown.of(names, files)
    places = [wanted.boxes / f"{name}.png" for name in output_names(files, shown)] if wanted.boxes else []
    check_places(places, files)
    coco = wanted.boxes / COCO if wanted.boxes else None
    if coco and coco.exists() and not (wanted.overwrite or wanted.resume):
        hint = "--overwrite replaces it; --boxes names another folder"
        raise DataError("this file exists", where=coco, hint=hint)
    gallery = Gallery.begun(wanted.report, len(files), (), overwrite=wanted.overwrite) if wanted.report else None
    least, classes = opened.least_score(score), opened.model.classes
    table = BoxTable(opened.model.info)
    lines = Lines(table, json=wanted.json)
    made_with = opened.made_with(least) | named_by(shown, files)
    drawings = [
        Drawing.beside(place, path_cell(shown(path)), made_with) for place, path in zip(places, files, strict=False)
    ]
    again = {"resume": wanted.resume, "overwrite": wanted.overwrite, "as_parquet": wanted.parquet}
    with output.going_to(wanted.out, lines, made_with, **again) as rows:
        records = _locate(opened, files, drawings, shown, least, table, rows, gallery, wanted)
    if gallery:
        gallery.write(table.notice, opened.described)
    if coco:
        coco.parent.mkdir(parents=True, exist_ok=True)
        complete = _read(wanted.out / lines.file_name, json=wanted.json) if wanted.out else records
        write_json(coco, found_coco(complete, classes))
    notice = f"boxes of a score of {least:.3f} or more; {table.notice}"
    wanted.tell(lines.file_name, len(files), rows.failed, notice)


def _locate(
    opened: OpenedDetector,
    files: Sequence[Path],
    drawings: Sequence[Drawing],
    shown: Shown,
    least: float,
    table: BoxTable,
    rows: Rows,
    gallery: Gallery | None,
    wanted: Outputs,
) -> list[dict[str, Any]]:
    """Looks for boxes on each picture that has no row; the records for COCO, where rows on stdout are all there is."""
    from fxcli.data.names import path_cell
    from fxcli.data.radiograph import Caution, warn_of
    from fxcli.explain.png import sweep
    from fxcli.inference.detected import row_of
    from fxcli.report.gallery import views

    records: list[dict[str, Any]] = []
    cautions: list[Caution] = []
    todo = rows.missing(
        files, lambda path: path_cell(shown(path)), lambda i: not drawings or drawings[i].is_there(files[i])
    )
    if wanted.resume and drawings:
        sweep([drawings[index].file for index in todo])
    # Closed where the loop is left early, or threads would go on with pictures that nobody hears of.
    with contextlib.closing(opened.finder.over([files[index] for index in todo])) as found:
        sightings = console.progress(found, total=len(files), done=len(files) - len(todo), what="predict")
        for index, sighting in zip(todo, sightings, strict=True):
            record = table.record(path_cell(shown(sighting.path)), **row_of(sighting, opened.model.classes, least))
            if drawings:
                _draw(sighting, record, drawings[index], table.notice)
            cautions += sighting.cleaned.cautions if sighting.cleaned else ()
            rows.write(record)
            if gallery:
                cleaned = sighting.cleaned
                gallery.add(record, views(cleaned, None, record.get("boxes", ())) if cleaned else None)
            if wanted.boxes and not wanted.out:
                records.append(record)
            if wanted.strict and record["status"] == "error":
                raise UnreadableImage(sighting.path, record["reason"])
    rows.finish()
    warn_of(cautions)
    return records


def _draw(sighting: Sighting, record: dict[str, Any], target: Drawing, notice: str) -> None:
    from fxcli.explain import outline
    from fxcli.explain.png import save_drawn
    from fxcli.run.files import saying

    if sighting.cleaned is None:
        target.remove()
        return
    with saying(target.file):
        target.file.parent.mkdir(parents=True, exist_ok=True)
    pixels, size_px = outline.radiograph(sighting.cleaned), (record["width_px"], record["height_px"])
    save_drawn(outline.outlined(pixels, record["boxes"], size_px), target.file, notice, target.of)


def _read(file: Path, *, json: bool) -> list[dict[str, Any]]:
    """All rows of complete predictions, those of an earlier command with them."""
    with file.open(encoding="utf-8", newline="") as handle:
        if json:
            return [json_module.loads(line) for line in handle]
        rows = [row for row in csv.DictReader(handle) if row["status"] == "ok"]
    numbers = ("width_px", "height_px")
    return [
        {**row, **{name: int(row[name]) for name in numbers}, "boxes": json_module.loads(row["boxes"])} for row in rows
    ]
