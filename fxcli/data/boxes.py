"""Boxes of a prepared folder, and their way between a picture's own pixels and a model's input.

They stand in boxes.coco.json beside the manifest: COCO, in pixels of the original pictures after EXIF turning. A
picture that is listed there without a box is a negative; of one that is not listed nothing is known.
Written by prepare; read by training, evaluation and cam.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fxcli.data.annotations import TURNED, Annotation, read_annotations
from fxcli.data.box_check import checked
from fxcli.data.manifest import Manifest, Row
from fxcli.data.names import is_class_name
from fxcli.data.preprocess import Preprocessing, letterbox
from fxcli.errors import DataError
from fxcli.run.files import write_json

FILE = "boxes.coco.json"
# Of a picture for `coco`: path, (width, height), and of each box left, top, right and bottom, its class, and what else.
Known = tuple[str, tuple[int, int], Sequence[tuple[Sequence[float], str, Mapping[str, Any]]]]
# A pixel, less what is lost when borders are written to two places.
_LEAST_PX = 0.98


@dataclass(frozen=True)
class Boxes:
    """The boxes on one picture.

    Attributes:
        corners: [n, 4] float32: left, top, right, bottom, in pixels.
        labels: [n] int64: indices of their classes.
    """

    corners: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class BoxSet:
    """The boxes of a manifest's pictures, in their own pixels.

    Attributes:
        classes: Names, sorted.
        by_path: Of each picture that is known: its path in the manifest → its boxes.
    """

    classes: tuple[str, ...]
    by_path: Mapping[str, Boxes]

    def known(self, rows: Iterable[Row]) -> list[Row]:
        """The pictures that are looked through: with boxes, or known to have none."""
        return [row for row in rows if row.path in self.by_path]


def read_boxes(manifest: Manifest) -> BoxSet:
    """The boxes beside a manifest.

    Raises:
        DataError: There are none, or they do not fit the pictures.
    """
    file = manifest.root / FILE
    if not file.is_file():
        again = "fx prepare phantom --overwrite" if manifest.is_phantom else "prepare it with boxes.source=COCO_FILE"
        raise DataError("no boxes beside this manifest", where=manifest.file, hint=again)
    source = read_annotations(file)
    classes = tuple(sorted(source.labels))
    if not classes or not all(map(is_class_name, classes)) or len(set(classes)) < len(classes):
        raise DataError("its categories do not name classes", where=file)
    number = {name: index for index, name in enumerate(classes)}
    sizes = {row.path: (row.width_px, row.height_px) for row in manifest.rows}
    by_path = {}
    for path, found in source.pictures.items():
        if not found.is_known:
            continue
        if path not in sizes:
            if (manifest.root / path).is_file():
                continue  # left out of the list, by data.train_frac or by hand
            raise DataError(f"boxes on a picture that the manifest lacks: {path[:200]}", where=file)
        if found.size_px != sizes[path]:
            raise DataError(f"boxes on {path} refer to another size than the manifest states", where=file)
        kept, wrong = checked(found.boxes, sizes[path], classes, least_px=_LEAST_PX)
        if wrong:
            raise DataError(f"{file}{wrong[0]}")
        by_path[path] = Boxes(
            np.array([box.corners for box in kept], np.float32).reshape(-1, 4),
            np.array([number[box.label] for box in kept], np.int64),
        )
    return BoxSet(classes, by_path)


def write_boxes(
    folder: Path, rows: Sequence[Row], boxes: Sequence[Sequence[Annotation] | None], classes: Sequence[str]
) -> None:
    """Writes the boxes of a prepared folder.

    Args:
        folder: It.
        rows: Of its manifest.
        boxes: Of each row, in pixels of the original; None if nothing is known of it.
        classes: Names; their categories are numbered from 1.
    """
    known: list[Known] = [
        (row.path, (row.width_px, row.height_px), [(box.corners, box.label, {}) for box in here])
        for row, here in zip(rows, boxes, strict=True)
        if here is not None
    ]
    write_json(folder / FILE, coco(known, classes))


def coco(pictures: Iterable[Known], classes: Sequence[str]) -> dict[str, Any]:
    """Boxes as COCO has them, to a hundredth of a pixel.

    Args:
        pictures: What is known of each.
        classes: Their categories are numbered from 1.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for path, (width_px, height_px), boxes in pictures:
        images.append({"id": len(images) + 1, "file_name": path, "width": width_px, "height": height_px})
        for (left, top, right, bottom), label, more in boxes:
            bbox = [round(value, 2) for value in (left, top, right - left, bottom - top)]
            about = {"image_id": len(images), "category_id": classes.index(label) + 1, "iscrowd": 0}
            area = round(bbox[2] * bbox[3], 2)
            annotations.append({"id": len(annotations) + 1, **about, "bbox": bbox, "area": area, **more})
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    return {"info": {TURNED: True}, "images": images, "annotations": annotations, "categories": categories}


def to_input(corners: np.ndarray, size_px: tuple[int, int], preprocessing: Preprocessing) -> np.ndarray:
    """[n, 4] in pixels of an original of (width, height) → [n, 4] in pixels of the model's input."""
    scale, shift = _map(size_px, preprocessing)
    return np.asarray(corners * np.tile(scale, 2) + np.tile(shift, 2), np.float32)


def to_original(corners: np.ndarray, size_px: tuple[int, int], preprocessing: Preprocessing) -> np.ndarray:
    """[n, 4] in pixels of the model's input → [n, 4] in pixels of an original of (width, height), cut at its border."""
    scale, shift = _map(size_px, preprocessing)
    found = (corners - np.tile(shift, 2)) / np.tile(scale, 2)
    return np.asarray(np.clip(found, 0, np.tile(size_px, 2)), np.float32)


def _map(size_px: tuple[int, int], preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift), each (x, y): input = original · scale + shift."""
    box = letterbox(*size_px, preprocessing.clean.prepared_px)
    left, top, right, bottom = box
    region = preprocessing.region(box)
    prepared = np.array([(right - left) / size_px[0], (bottom - top) / size_px[1]])
    fitted = preprocessing.image_size_px / np.array([region[2] - region[0], region[3] - region[1]])
    return prepared * fitted, (np.array([left, top]) - region[:2]) * fitted
