"""What is told of boxes: the columns of their table, and COCO. Text in, text out: files are the callers' matter."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxcli.console import DEMO, INTENDED_USE
from fxcli.data.boxes import coco
from fxcli.data.names import path_of, text_cell, text_of
from fxcli.evaluation.detection import Detections
from fxcli.evaluation.table import csv_line

# False positives a picture at which boxes are told where nobody says from which score on; and that score where
# validation told nothing.
TOLD_AT = 0.5
EVEN = 0.5

SIDES = ("left", "top", "right", "bottom")
SIZE = ("width_px", "height_px")
COLUMNS = (*SIZE, "box_score", "boxes")


@dataclass(frozen=True)
class Found:
    """What a detector found on a picture whose boxes are known, as `found_csv` keeps it.

    Attributes:
        path: As the manifest has it.
        group: Of the picture.
        boxes: Every one, the surest first.
    """

    path: str
    group: str
    boxes: Detections


def least_score(info: Mapping[str, Any]) -> float:
    """The score from which on a detector's boxes are told, by its header: where validation had TOLD_AT false ones.

    Raises:
        ValueError: The header is damaged.
    """
    points = info.get("operating_points") or {}
    least = points.get(f"{TOLD_AT:g}", EVEN) if isinstance(points, Mapping) else None
    if not isinstance(least, int | float):
        raise ValueError("operating_points")
    return float(least)


def told(found: Detections, classes: Sequence[str], size_px: tuple[int, int], least: float) -> dict[str, Any]:
    """The values of COLUMNS: the size of the picture, the score of its surest box, and the boxes that are told.

    Args:
        found: On the picture.
        classes: Of the detector.
        size_px: (width, height) of the original.
        least: Score from which on a box is told.

    Returns:
        Each box is {"class", "score", "left", "top", "right", "bottom"}, in pixels of the original.
    """
    sure = found.above(least)
    boxes = [
        {
            "class": classes[label],
            "score": round(float(score), 6),
            **dict(zip(SIDES, (round(float(x), 2) for x in corners), strict=True)),
        }
        for corners, label, score in zip(sure.corners, sure.labels, sure.scores, strict=True)
    ]
    return {"width_px": size_px[0], "height_px": size_px[1], "box_score": round(found.highest, 6), "boxes": boxes}


def box_cells(record: Mapping[str, Any]) -> dict[str, str]:
    """The same as cells of a CSV: boxes as JSON."""
    found = {name: str(record[name]) for name in COLUMNS if name in record}
    if "boxes" in record:
        found["boxes"] = json.dumps(record["boxes"], separators=(",", ":"))
    return found


class BoxTable:
    """Rows of a detector alone.

    Args:
        info: Header of its file.
    """

    columns = ("path", "status", "reason", *COLUMNS, "notice")

    def __init__(self, info: Mapping[str, Any]) -> None:
        self.notice = " ".join([*([DEMO] if info.get("demo") else []), INTENDED_USE])

    def record(self, path: str, *, status: str = "ok", reason: str = "", **values: Any) -> dict[str, Any]:
        """One row as a JSON object."""
        why = {"reason": reason} if reason else {}
        return {"path": path, "status": status, **why, **values, "notice": self.notice}

    def cells(self, record: Mapping[str, Any]) -> list[str]:
        """One row for a CSV, of what `record` gives; what it lacks stays empty."""
        values = {**record, **box_cells(record), "reason": text_cell(str(record.get("reason", "")))}
        return [str(values.get(name, "")) for name in self.columns]


def read_told(lines: Iterable[str], *, json_lines: bool) -> list[Mapping[str, Any]]:
    """Complete predictions as `found_coco` takes them, of the lines of their CSV or JSON Lines."""
    if json_lines:
        return [json.loads(line) for line in lines]
    return [
        {**row, **{name: int(row[name]) for name in SIZE}, "boxes": json.loads(row["boxes"])}
        for row in csv.DictReader(lines)
        if row["boxes"]
    ]


def found_coco(records: Iterable[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    """Boxes as COCO has them, each with its score, by the paths of the rows; pictures that were not read are left out.

    Args:
        records: Rows as JSON objects.
        classes: Of the detector; their categories are numbered from 1.
    """
    pictures = (
        (
            record["path"],
            (record["width_px"], record["height_px"]),
            [([box[side] for side in SIDES], box["class"], {"score": box["score"]}) for box in record["boxes"]],
        )
        for record in records
        if "boxes" in record
    )
    return coco(pictures, classes)


def found_csv(
    lines: Iterable[tuple[str, str, Detections | None, str, int]], classes: Sequence[str], notice: str
) -> str:
    """What a detector found on pictures whose boxes are known, as the text of a CSV: every box, even the faintest.

    Args:
        lines: Of each picture: path, group, what was found or None, why it could not be read, number of true boxes.
        classes: Of the detector.
        notice: That every row carries.
    """
    made = [csv_line(["path", "status", "reason", "group", "n_boxes", "box_score", "boxes", "notice"])]
    for path, group, found, reason, count in lines:
        values = {} if found is None else box_cells(told(found, classes, (0, 0), 0.0))
        status = "error" if found is None else "ok"
        head = [path, status, text_cell(reason), text_cell(group), count]
        made.append(csv_line([*head, values.get("box_score", ""), values.get("boxes", ""), notice]))
    return "\n".join(made) + "\n"


def read_found(text: str, classes: Sequence[str]) -> list[Found]:
    """What `found_csv` made the text of; rows with status=error are left out.

    Raises:
        ValueError: It is none, or of other classes.
    """
    number = {name: index for index, name in enumerate(classes)}
    try:
        rows = [row for row in csv.DictReader(io.StringIO(text, newline="")) if row.get("status") == "ok"]
        if not rows:
            raise ValueError("no pictures whose boxes are known")
        return [
            Found(path_of(row["path"]), text_of(row["group"]), _detections(json.loads(row["boxes"]), number))
            for row in rows
        ]
    except csv.Error as error:
        raise ValueError(f"no CSV: {error}") from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"boxes that were found lack {error}, or are of other classes") from error


def _detections(boxes: Sequence[Mapping[str, Any]], number: Mapping[str, int]) -> Detections:
    corners = np.array([[box[side] for side in SIDES] for box in boxes], np.float32).reshape(-1, 4)
    labels = np.array([number[box["class"]] for box in boxes], np.int64)
    return Detections(corners, labels, np.array([box["score"] for box in boxes], np.float32))
