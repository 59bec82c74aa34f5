"""What `fx predict` does with a classifier: pictures → answers, as rows, heat maps, features and a page to look at."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxcli.console import console
from fxcli.errors import UnreadableImage

if TYPE_CHECKING:
    import numpy as np

    from fxcli.commands.outputs import Begun, Outputs
    from fxcli.data.paths import PathStyle
    from fxcli.evaluation.predictions import PredictionTable
    from fxcli.inference.features import FeatureFile
    from fxcli.inference.pipeline import Answer
    from fxcli.inference.rows import Rows
    from fxcli.inference.verdict import Judge

# Pictures that a gate looks at before the model does: what it said of them is lost when the command is stopped.
BLOCK = 256


def answer(judge: Judge, files: list[Path], names: PathStyle, wanted: Outputs) -> None:
    """Writes a row for each picture that has none, and what is wanted beside it.

    Raises:
        SomeRowsFailed: Some could not be read.
        UsageError: Features are wanted of an exported model.
    """
    from fxcli.evaluation.lines import Lines
    from fxcli.evaluation.predictions import PredictionTable
    from fxcli.explain.neighbours import save_sheet
    from fxcli.explain.places import output_names
    from fxcli.inference import features

    opened, folder, boxes = judge.opened, wanted.features, judge.boxes
    width = opened.feature_width() if folder else 0
    classes = opened.model.classes
    begun = wanted.begun(files, names, classes, judge.made_with(), boxes.made_with() if boxes else None)
    table = PredictionTable(classes, opened.model.info, extra=judge.columns)
    lines = Lines(table, json=wanted.json)
    cells = [begun.called(path) for path in begun.files] if folder else []
    with begun.going_to(lines) as rows, features.going_to(folder, cells, width, beside=wanted.out) as kept:
        _answer(judge, begun, table, rows, kept)
    if folder and kept:
        try:
            save_sheet(folder, kept.readable, begun.files, output_names(begun.files, begun.shown), opened)
        except UnreadableImage as error:
            # Gone since: the page and COCO are still to be written, and need it no more.
            console.warn(f"no sheet of neighbours: {error.where}: {error.reason}")
    of_boxes, least = (boxes.opened.model.classes, boxes.least) if boxes else ((), None)
    begun.finish(lines.file_name, rows.failed, table.notice, opened.described, of_boxes, least)


def _answer(judge: Judge, begun: Begun, table: PredictionTable, rows: Rows, kept: FeatureFile | None) -> None:
    """Answers each picture that has no row."""
    from fxcli.data.radiograph import Caution, warn_of

    cautions: list[Caution] = []
    todo = begun.missing(rows)
    # Closed where the loop is left early, or threads would go on with pictures that nobody hears of.
    with contextlib.closing(_verdicts(judge, begun, todo)) as verdicts:
        bar = console.progress(verdicts, total=len(begun.files), done=len(begun.files) - len(todo), what="predict")
        for verdict, features in bar:
            path = verdict.pop("path")
            cautions += verdict.pop("cautions")
            views = verdict.pop("views", None)
            if kept:
                kept.add(features)
            begun.take(rows, path, table.record(begun.called(path), **verdict), views)
    rows.finish()
    warn_of(cautions)


def _verdicts(
    judge: Judge, begun: Begun, todo: Sequence[int]
) -> Generator[tuple[dict[str, Any], np.ndarray | None], None, None]:
    """What is told of each picture, by its index, and its features.

    The gate looks at some pictures and the model at the same, and so on: whatever stops the command, their rows stay.
    """
    size = BLOCK if judge.gate else max(1, len(todo))
    for start in range(0, len(todo), size):
        block = todo[start : start + size]
        files = [begun.files[index] for index in block]
        judge.ask_gate(files)
        yield from judge.opened.pipeline.map(functools.partial(_told, judge, begun, block), files)


def _told(judge: Judge, begun: Begun, block: Sequence[int], answer: Answer) -> tuple[dict[str, Any], np.ndarray | None]:
    """Tells and draws an answer on the thread that it was computed on; what is not answered has no heat map."""
    from fxcli.explain import outline
    from fxcli.explain.draw import draw_answer
    from fxcli.report.gallery import views
    from fxcli.run.files import saying

    verdict, sighting = judge.seen(answer)
    index, boxes = block[answer.index], verdict.get("boxes", ())
    is_mapped = bool(begun.maps) or begun.gallery is not None
    made = draw_answer(judge.opened, answer) if is_mapped and verdict["status"] == "ok" else None
    if begun.maps:
        target = begun.maps[index]
        if made:
            with saying(target.file):
                target.file.parent.mkdir(parents=True, exist_ok=True)
            made.save_overlay(target.file, boxes, target.of)
        else:
            target.remove()
    if judge.boxes and begun.outlines:
        outline.save(sighting.cleaned if sighting else None, verdict, begun.outlines[index], judge.boxes.notice)
    if begun.gallery and answer.cleaned is not None:
        verdict["views"] = views(answer.cleaned, made.coloured if made else None, boxes)
    return verdict, answer.features
