"""What `fx cam --against` does: which heat maps point at the fracture, as a table."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxcli.commands.evaluated import noted_look
from fxcli.commands.startup import import_torch
from fxcli.console import console
from fxcli.errors import DataError, SomeRowsFailed, UsageError
from fxcli.evaluation.words import told

if TYPE_CHECKING:
    from fxcli.data.manifest import Row
    from fxcli.inference.opened import Opened

COLUMNS = {
    "pointing": "pointing",
    "pointing_lift": "/ random",
    "pointing_centre_lift": "/ centre",
    "energy": "energy",
    "energy_lift": "/ random",
    "energy_centre_lift": "/ centre",
}


def hold(
    boxes: Path,
    *,
    split: str | None,
    size_px: int | None,
    model: str | None,
    stage: str | None,
    target: str | None,
    device: str | None,
    json: bool,
) -> None:
    """Holds the heat maps of a model against boxes, and shows how they stand.

    Raises:
        UsageError: The model has no such stage or class, or cannot see pictures of this size.
        ModelFileError: It is a detector.
        DataError: These are no boxes of a prepared folder, or there are none in the split.
        SomeRowsFailed: Pictures could not be read.
    """
    import_torch()
    from fxcli.data.boxes import FILE, read_boxes
    from fxcli.data.manifest import read_manifest
    from fxcli.explain.held import held
    from fxcli.inference.opened import open_model

    manifest_file = boxes.parent / "manifest.csv"
    if boxes.name != FILE or not manifest_file.is_file():
        source = shlex.quote(f"boxes.source={boxes}")
        hint = f"prepare pictures with them (fx prepare … --set {source}), and name that folder's {FILE}"
        raise DataError("no boxes of a prepared folder", where=boxes, hint=hint)
    manifest = read_manifest(manifest_file)
    by_path = read_boxes(manifest).by_path
    rows = [row for row in manifest.rows if split in (None, row.split) and len(by_path.get(row.path, ()))]
    if not rows:
        raise DataError(f"no picture with boxes{'' if split is None else f' in split {split!r}'}", where=manifest_file)
    opened = open_model(model, device=device)
    classes = opened.model.classes
    if target is not None and target not in classes:
        raise UsageError(f"the model has no class '{target}'", hint=f"its classes: {', '.join(classes)}")
    _warn_of_learnt(opened, rows)
    lines, failed = held(
        opened,
        manifest,
        rows,
        by_path,
        size_px=size_px,
        stages=[] if stage is None else [stage],
        target=None if target is None else classes.index(target),
    )
    shown_px = size_px or opened.model.preprocessing.image_size_px
    if json:
        for line in lines:
            console.record({**opened.origin(), "split": split, "image_size_px": shown_px, "target": target, **line})
    else:
        _show(opened.name, lines, shown_px)
    if tested := [row for row in rows if row.split == "test"]:
        noted_look(opened, manifest, tested)
    for path, reason in failed:
        console.warn(f"{path}: {reason}")
    if failed:
        raise SomeRowsFailed(len(failed), len(rows), "the output")


def _show(name: str, lines: Sequence[dict[str, Any]], shown_px: int) -> None:
    console.table(
        ["method", "stage", "cells", *COLUMNS.values(), "≈ random head", "≈ random weights", "blank"],
        [_cells(line) for line in lines],
        title=f"{name}, {shown_px} px, against the boxes of {lines[0]['n']} pictures [95 % intervals]",
    )


def _cells(line: dict[str, Any]) -> list[Any]:
    counts = line["rank_correlation_n"]
    return [
        line["method"],
        line["stage"],
        line["cells"],
        *(told(line[name]) for name in COLUMNS),
        *(_alike(value, counts[part], line["n"]) for part, value in line["rank_correlation"].items()),
        line["blank"],
    ]


def _alike(value: float | None, count: int, of: int) -> str:
    """A rank correlation, with the number of pictures that it rests on where that is not all of them."""
    text = "–" if value is None else f"{value:.2f}"
    return text if count == of else f"{text} (n = {count})"


def _warn_of_learnt(opened: Opened, rows: list[Row]) -> None:
    """Says how many of the pictures are explained by networks that learnt from them."""
    from fxcli.inference.measured import learnt_from, members_of

    if opened.is_in_folds and opened.run is None:
        console.warn("without its run nobody knows which pictures each fold held out: what is told may flatter")
        return
    everyone = len(opened.model.info.get("members") or [{}])
    by_all = [row for row, numbers in zip(rows, members_of(opened, rows), strict=True) if len(numbers) == everyone]
    if known := learnt_from(opened.run, by_all):
        console.warn(f"{known} of these {len(rows)} pictures were learnt from, or chosen by: what is told may flatter")
