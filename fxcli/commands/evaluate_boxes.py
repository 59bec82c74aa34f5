"""What `fx evaluate` does with detectors: AP, FROC and the picture-level AUROC on a part whose boxes are known."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxcli.commands.evaluated import columns_of, folder_of, noted_look, told_apart, warn_of_learnt, write_result
from fxcli.console import console
from fxcli.data.parquet import beside, forget
from fxcli.errors import DataError, SomeRowsFailed
from fxcli.evaluation import words
from fxcli.run import provenance
from fxcli.run.files import sha256_of, write_text

if TYPE_CHECKING:
    from fxcli.data.boxes import Boxes, BoxSet
    from fxcli.data.manifest import Manifest, Row
    from fxcli.evaluation.detection import Detections
    from fxcli.evaluation.metadata import Metadata
    from fxcli.inference.detected import OpenedDetector, Sighting

NAME = "manifest.csv"


@dataclass
class Measured:
    """A detector that was measured.

    Attributes:
        opened: It.
        result: For people and programs.
        found: On each picture that could be read.
        boxes: The true ones of each.
        groups: Of each.
        paths: Of each.
        lines: Of every picture, readable or not: path, group, what was found, number of true boxes.
        written: The file of the predictions.
    """

    opened: OpenedDetector
    result: dict[str, Any]
    found: list[Detections] = field(default_factory=list)
    boxes: list[Boxes] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    lines: list[tuple[str, str, Sighting, int]] = field(default_factory=list)
    written: Path = Path()


def evaluate_boxes(
    detectors: Sequence[OpenedDetector],
    *,
    data: Path | None,
    split: str,
    by: Sequence[str],
    out: Path | None,
    json: bool,
    parquet: bool,
) -> None:
    """Measures detectors, writes and shows their figures, and compares each with the first.

    Raises:
        DataError: The part is empty, or nothing is known of boxes on its pictures.
        SomeRowsFailed: Some could not be read.
    """
    from fxcli.evaluation.table import kind_of

    done = [_measured(opened, data, split, by) for opened in detectors]
    names = [opened.name for opened in detectors]
    for each in done:
        each.written = _write(each, folder_of(each.opened, names, out), own_data=data is None)
        if parquet:
            beside(each.written, kind_of)
    called = told_apart(detectors)
    comparisons = _compared(done, called)
    if json:
        for record in [*(each.result for each in done), *({"comparison": each} for each in comparisons)]:
            console.record(record)
    else:
        _show(done, called, comparisons, split)
    if bad := [each for each in done if each.result["n_failed"]]:
        failed = sum(each.result["n_failed"] for each in bad)
        raise SomeRowsFailed(failed, sum(len(each.lines) for each in done), bad[-1].written)


@dataclass(frozen=True)
class _Part:
    """What a detector is measured on.

    Attributes:
        manifest: Of the pictures.
        rows: Of the part: those whose boxes are known.
        n_unknown: How many are left out for theirs are not.
        boxes: Of the whole manifest.
        digest: The hash of their file.
    """

    manifest: Manifest
    rows: list[Row]
    n_unknown: int
    boxes: BoxSet
    digest: str


def _part(opened: OpenedDetector, data: Path | None, split: str) -> _Part:
    """Raises DataError: It is empty, has boxes that the detector does not know, or has others than at training."""
    from fxcli.data.boxes import FILE, read_boxes
    from fxcli.inference.opened import manifest_of

    manifest = manifest_of(opened.file, opened.run, opened.model.info, data, "fx evaluate")
    boxes, classes = read_boxes(manifest), opened.model.classes
    part = manifest.part(split)
    rows = boxes.known(part)
    occurring = {boxes.classes[label] for row in rows for label in boxes.by_path[row.path].labels}
    if unknown := sorted(occurring - set(classes)):
        hint = f"its classes: {', '.join(classes)}"
        raise DataError(f"the detector does not know {', '.join(unknown)}", where=manifest.file, hint=hint)
    if not rows:
        raise DataError(f"no picture in split '{split}' whose boxes are known", where=manifest.file)
    digest = sha256_of(manifest.root / FILE)
    if data is None and digest != opened.model.info.get("boxes_sha256"):
        raise DataError(
            "the boxes were changed since training",
            where=manifest.root / FILE,
            hint=f"fx evaluate {shlex.quote(str(opened.file))} --data {shlex.quote(str(manifest.root / NAME))}",
        )
    if data is not None:
        warn_of_learnt(opened, manifest, rows)
    return _Part(manifest, rows, len(part) - len(rows), boxes, digest)


def _measured(opened: OpenedDetector, data: Path | None, split: str, by: Sequence[str]) -> Measured:
    import numpy as np

    from fxcli.data.manifest import groups_of
    from fxcli.data.radiograph import Caution, warn_of
    from fxcli.evaluation.box_table import BoxTable
    from fxcli.evaluation.detection import measured
    from fxcli.inference.measured import metadata_of

    part, classes = _part(opened, data, split), opened.model.classes
    manifest, rows, boxes = part.manifest, part.rows, part.boxes
    columns = {name: [row.column(name) for row in rows] for name in columns_of(rows, by)}
    groups = groups_of(rows)
    sightings = opened.finder.over([manifest.path_of(row) for row in rows])
    told: list[Sighting] = []
    cautions: list[Caution] = []
    for each in console.progress(sightings, total=len(rows), what="evaluate"):
        cautions += each.cleaned.cautions if each.cleaned else ()
        told.append(each.row)
    read = [index for index, each in enumerate(told) if each.found is not None]
    if not read:
        raise DataError(f"none of {len(rows)} pictures can be read, the first: {told[0].reason}", where=told[0].path)
    own, found = [groups[index] for index in read], [each.found for each in told if each.found is not None]
    true = [_numbered(boxes.by_path[rows[index].path], boxes.classes, classes) for index in read]
    result: dict[str, Any] = {
        **opened.origin(),
        "evaluated": provenance.now(),
        "evaluated_manifest": str(manifest.file),
        "evaluated_manifest_sha256": manifest.digest,
        "evaluated_boxes_sha256": part.digest,
        "split": split,
        "n_failed": len(rows) - len(read),
        "n_unknown": part.n_unknown,
        "figures": measured(found, true, classes, own),
        "notice": BoxTable(opened.model.info).notice,
    }
    asked = {name: [values[index] for index in read] for name, values in columns.items()}
    learnt = boxes.known(manifest.part("train")) if split != "train" else []
    metadata = metadata_of(learnt, [len(boxes.by_path[row.path]) > 0 for row in learnt], asked)
    if metadata:
        result["metadata"] = metadata.to_mapping(np.array([len(each) > 0 for each in true]), own)
    if columns:
        result["by"] = {name: _by_value(values, found, true, own, classes, metadata) for name, values in asked.items()}
    if split == "test":
        result |= noted_look(opened, manifest, rows)
    paths = [rows[index].path for index in read]
    warn_of(cautions)
    lines = [
        (row.path, group, each, len(boxes.by_path[row.path]))
        for row, group, each in zip(rows, groups, told, strict=True)
    ]
    return Measured(opened, result, found, true, own, paths, lines)


def _by_value(
    values: Sequence[str],
    found: Sequence[Detections],
    true: Sequence[Boxes],
    groups: Sequence[str],
    classes: Sequence[str],
    metadata: Metadata | None,
) -> dict[str, dict[str, Any]]:
    """Figures of the pictures with each value of a column, and what metadata alone tell of them."""
    import numpy as np

    from fxcli.evaluation.detection import measured

    told = {}
    for value in sorted(set(values)):
        inside = np.array([each == value for each in values])
        places = np.flatnonzero(inside).tolist()
        of = [groups[place] for place in places]
        figures = measured([found[place] for place in places], [true[place] for place in places], classes, of)
        if metadata:
            has_box = np.array([len(true[place]) > 0 for place in places])
            figures["metadata_auroc"] = metadata.auroc(has_box, of, inside=inside)
        told[value] = figures
    return told


def _numbered(boxes: Boxes, theirs: Sequence[str], ours: Sequence[str]) -> Boxes:
    """Boxes with the detector's numbers for their classes."""
    import numpy as np

    from fxcli.data.boxes import Boxes

    # A class that the detector lacks is on none of these pictures, or it would not be measured on them.
    number = np.array([list(ours).index(name) if name in ours else -1 for name in theirs], np.int64)
    return Boxes(boxes.corners, number[boxes.labels])


def _write(each: Measured, out: Path | None, *, own_data: bool) -> Path:
    """Writes figures, and the boxes found as rows."""
    from fxcli.data.names import path_cell
    from fxcli.evaluation.box_table import found_csv

    opened, result = each.opened, each.result
    figures, predictions = write_result(opened, result["split"], result, out, own_data=own_data)
    lines = [(path_cell(path), group, told.found, told.reason, count) for path, group, told, count in each.lines]
    forget(predictions)
    write_text(predictions, found_csv(lines, opened.model.classes, result["notice"]))
    console.note(f"wrote {figures}; predictions are in {predictions}")
    return predictions


def _compared(done: Sequence[Measured], called: Sequence[str]) -> list[dict[str, Any]]:
    """What each gains over the first, where both were measured on the same pictures."""
    from fxcli.evaluation.detection import compared

    first, comparisons = done[0], []
    for each, name in zip(done[1:], called[1:], strict=True):
        names = [called[0], name]
        is_same = each.paths == first.paths and each.opened.model.classes == first.opened.model.classes
        if not is_same or each.result["evaluated_boxes_sha256"] != first.result["evaluated_boxes_sha256"]:
            console.warn(f"{names[1]} was measured on other pictures, boxes or classes: it is not compared")
            continue
        n_classes = len(first.opened.model.classes)
        found = compared(first.found, each.found, first.boxes, n_classes, first.groups)
        comparisons.append({"names": names, **found})
    return comparisons


def _show(done: Sequence[Measured], called: Sequence[str], comparisons: Sequence[dict[str, Any]], split: str) -> None:
    figures = [each.result["figures"] for each in done]
    whole = [words.boxes_by_value("detector", {name: each}) for name, each in zip(called, figures, strict=True)]
    title = f"{split} part [95 % interval over groups]; {words.ABOUT_BOXES}"
    console.table(whole[0][0], [row for _, rows in whole for row in rows], title=title)
    for name, each in zip(called, done, strict=True):
        for column, values in each.result.get("by", {}).items():
            console.table(*words.boxes_by_value(column, values), title=f"{name}, by {column}")
        if "metadata" in each.result:
            console.data(words.metadata(each.result["metadata"]))
    for line in comparisons:
        value = line["difference"]
        if value is None:
            continue
        console.data(
            f"{line['names'][1]} against {line['names'][0]}: AP50 {100 * value['value']:+.1f} points "
            + ("" if value["low"] is None else f"[{100 * value['low']:+.1f}, {100 * value['high']:+.1f}]")
        )
    for text in dict.fromkeys(each.result["notice"] for each in done):
        console.note(text)
