"""What `fx predict` does with a classifier: pictures → answers, as rows, heat maps, features and a page to look at."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxcli.console import console
from fxcli.errors import UnreadableImage, UsageError

if TYPE_CHECKING:
    import numpy as np

    from fxcli.commands.outputs import Outputs
    from fxcli.data.paths import PathStyle, Shown
    from fxcli.evaluation.predictions import PredictionTable
    from fxcli.explain.places import Drawing
    from fxcli.inference.features import FeatureFile
    from fxcli.inference.pipeline import Answer
    from fxcli.inference.rows import Rows
    from fxcli.inference.verdict import Judge
    from fxcli.report.gallery import Gallery

# Pictures that a gate looks at before the model does: what it said of them is lost when the command is stopped.
BLOCK = 256


def answer(judge: Judge, files: list[Path], names: PathStyle, wanted: Outputs) -> None:
    """Writes a row for each picture that has none, and what is wanted beside it.

    Raises:
        SomeRowsFailed: Some could not be read.
        UsageError: Features are wanted of an exported model.
    """
    from fxcli.data.names import path_cell
    from fxcli.data.paths import Shown
    from fxcli.evaluation.lines import Lines
    from fxcli.evaluation.predictions import PredictionTable
    from fxcli.explain.neighbours import save_sheet
    from fxcli.explain.places import Drawing, check_places, output_names, pictures_beside
    from fxcli.inference import features
    from fxcli.inference import rows as output
    from fxcli.inference.notes import named_by
    from fxcli.report.gallery import Gallery

    opened, folder = judge.opened, wanted.features
    width = opened.feature_width() if folder else 0
    for place in filter(None, (wanted.cam, folder)):
        files = pictures_beside(place, files)
    check_places([folder / features.SHEET] if folder else [], files, may_replace=True)
    shown = Shown.of(names, files)
    places = [wanted.cam / f"{name}.png" for name in output_names(files, shown)] if wanted.cam else []
    check_places(places, files)
    if folder and os.path.abspath(folder / features.SHEET) in map(os.path.abspath, places):
        raise UsageError(f"a heat map and the sheet of neighbours would both be {folder / features.SHEET}")
    cells = [path_cell(shown(path)) for path in files] if folder or places else []
    classes, overwrite = opened.model.classes, wanted.overwrite
    gallery = Gallery.begun(wanted.report, len(files), classes, overwrite=overwrite) if wanted.report else None
    table = PredictionTable(classes, opened.model.info, extra=judge.columns)
    lines = Lines(table, json=wanted.json)
    made_with = judge.made_with() | named_by(shown, files)
    maps = [Drawing.beside(place, cell, made_with) for place, cell in zip(places, cells, strict=False)]
    again = {"resume": wanted.resume, "overwrite": overwrite, "as_parquet": wanted.parquet}
    with (
        output.going_to(wanted.out, lines, made_with, **again) as rows,
        features.going_to(folder, cells, width, beside=wanted.out) as kept,
    ):
        _answer(judge, files, maps, shown, table, rows, kept, gallery, wanted)
    if folder and kept:
        save_sheet(folder, kept.readable, files, output_names(files, shown), opened)
    if gallery:
        gallery.write(table.notice, opened.described)
    wanted.tell(lines.file_name, len(files), rows.failed, table.notice)


def _answer(
    judge: Judge,
    files: Sequence[Path],
    maps: Sequence[Drawing],
    shown: Shown,
    table: PredictionTable,
    rows: Rows,
    kept: FeatureFile | None,
    gallery: Gallery | None,
    wanted: Outputs,
) -> None:
    """Answers each picture that has no row."""
    from fxcli.data.names import path_cell
    from fxcli.data.radiograph import Caution, warn_of
    from fxcli.explain.png import sweep

    def called(path: Path) -> str:
        return path_cell(shown(path))

    cautions: list[Caution] = []
    is_drawn = functools.cache(lambda index: not maps or maps[index].is_there(files[index]))
    todo = rows.missing(files, called, is_drawn)
    chosen = [files[index] for index in todo]
    for index in set(range(len(maps))).difference(todo):
        if not is_drawn(index):
            maps[index].remove()  # the row stays, and is no answer
    maps = [maps[index] for index in todo] if maps else []
    if wanted.resume:
        sweep([each.file for each in maps])
    # Closed where the loop is left early, or threads would go on with pictures that nobody hears of.
    with contextlib.closing(_verdicts(judge, chosen, maps, with_views=gallery is not None)) as verdicts:
        bar = console.progress(verdicts, total=len(files), done=len(files) - len(chosen), what="predict")
        for verdict, features in bar:
            path = verdict.pop("path")
            cautions += verdict.pop("cautions")
            views = verdict.pop("views", None)
            record = table.record(called(path), **verdict)
            rows.write(record)
            if kept:
                kept.add(features)
            if gallery:
                gallery.add(record, views)
            if wanted.strict and verdict["status"] == "error":
                raise UnreadableImage(path, verdict["reason"])
    rows.finish()
    warn_of(cautions)


def _verdicts(
    judge: Judge, files: Sequence[Path], maps: Sequence[Drawing], *, with_views: bool
) -> Generator[tuple[dict[str, Any], np.ndarray | None], None, None]:
    """What is told of each picture, and its features.

    The gate looks at some pictures and the model at the same, and so on: whatever stops the command, their rows stay.
    """
    size = BLOCK if judge.gate else max(1, len(files))
    for start in range(0, len(files), size):
        block = slice(start, start + size)
        judge.ask_gate(files[block])
        tell = _drawing(judge, maps[block], with_views=with_views) if maps or with_views else judge.verdict
        yield from judge.opened.pipeline.map(functools.partial(_told, tell), files[block])


def _told(tell: Callable[[Answer], dict[str, Any]], answer: Answer) -> tuple[dict[str, Any], np.ndarray | None]:
    return tell(answer), answer.features


def _drawing(judge: Judge, maps: Sequence[Drawing], *, with_views: bool) -> Callable[[Answer], dict[str, Any]]:
    """Tells and draws an answer on the thread that it was computed on; what is not answered has no heat map."""
    from fxcli.explain.draw import draw_answer
    from fxcli.report.gallery import views
    from fxcli.run.files import saying

    def draw(answer: Answer) -> dict[str, Any]:
        verdict = judge.verdict(answer)
        boxes = verdict.get("boxes", ())
        made = draw_answer(judge.opened, answer) if verdict["status"] == "ok" else None
        if maps:
            target = maps[answer.index]
            if made:
                with saying(target.file):
                    target.file.parent.mkdir(parents=True, exist_ok=True)
                made.save_overlay(target.file, boxes, target.of)
            else:
                target.remove()
        if with_views and answer.cleaned is not None:
            verdict["views"] = views(answer.cleaned, made.coloured if made else None, boxes)
        return verdict

    return draw
